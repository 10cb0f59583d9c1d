//! HELP of every metric that the rooms below the gateway record.
//!
//! The rooms record under fixed names and stay free of prose; here each name
//! gets its sentence, once, before the first sample. The gateway describes its
//! own, and so does gossip when it starts.

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge};

/// Puts the HELP texts. Call it after the recorder is installed.
pub(crate) fn describe() {
    describe_histogram!(
        "stemedb_wal_fsync_latency_seconds",
        Unit::Seconds,
        "Time of one sync of the log."
    );
    describe_histogram!("stemedb_wal_batch_records", "Records written to the log by one sync.");
    describe_counter!("stemedb_wal_bytes_total", Unit::Bytes, "Bytes written to the log.");
    describe_gauge!("stemedb_wal_segments", "Segments of the log on disk.");
    describe_counter!("stemedb_raft_proposals_total", "Commands handed to Raft groups led here.");
    describe_counter!(
        "stemedb_idempotency_replays_total",
        "Writes led here that were answered as their Idempotency-Key was before."
    );
    describe_counter!(
        "stemedb_raft_leader_changes_total",
        "Times a group of this node saw another leader."
    );
    describe_counter!(
        "stemedb_read_index_questions_total",
        "Questions to leaders for an index to read at, each for all reads that waited here."
    );
    describe_counter!(
        "stemedb_lease_reads_discarded_total",
        "Values read under a lease that had ended by then, and read again with a quorum."
    );
    describe_gauge!(
        "stemedb_raft_apply_lag_entries",
        "Entries committed but not yet applied, over all groups of this node."
    );
    describe_gauge!("stemedb_shards", "Shards of the cluster as this node sees them, by state.");
    describe_counter!(
        "stemedb_corruption_detected_total",
        "Replicas found damaged on this node's disks, by what is damaged."
    );
    describe_counter!(
        "stemedb_corruption_repaired_total",
        "Damaged replicas that were given back from a peer, by what was damaged."
    );
    describe_counter!(
        "stemedb_scrub_bytes_total",
        Unit::Bytes,
        "Bytes read from disk to see whether they are still what was written, by kind."
    );
    describe_gauge!(
        "stemedb_scrub_last_pass_timestamp_seconds",
        Unit::Seconds,
        "When everything on disk had last been read once, in seconds since 1970."
    );
    describe_gauge!("stemedb_shard_leaders", "Shards led by this node.");
    describe_gauge!("stemedb_layout_epoch", "The layout epoch this node acts on.");
    describe_gauge!(
        "stemedb_rebalance_moves_pending",
        "Moves of replicas that have not ended, as the meta leader last saw them; 0 at others."
    );
    describe_gauge!(
        "stemedb_rebalance_moves_running",
        "Shards whose group is on its way to the layout, as the meta leader last saw them; 0 at others."
    );
    describe_gauge!(
        "stemedb_rebalance_paused",
        "1 while nothing may begin to move, as the meta leader last saw it; 0 at others."
    );
    describe_counter!(
        "stemedb_rebalance_bytes_total",
        Unit::Bytes,
        "Bytes of snapshots sent to replicas that are on their way in."
    );
    counter!("stemedb_rebalance_bytes_total").increment(0);
    describe_counter!(
        "stemedb_storage_versions_dropped_total",
        "Old versions of keys that compactions dropped, below their bucket's floor."
    );
    describe_gauge!("stemedb_storage_bytes", Unit::Bytes, "Bytes on disk, by kind.");
    describe_histogram!(
        "stemedb_storage_flush_seconds",
        Unit::Seconds,
        "Time of one flush of the store."
    );
    describe_counter!(
        "stemedb_snapshot_sent_bytes_total",
        Unit::Bytes,
        "Bytes of snapshots sent to followers that lack too much of a log."
    );
    describe_counter!(
        "stemedb_snapshot_received_bytes_total",
        Unit::Bytes,
        "Bytes of snapshots that came from leaders, refused ones included."
    );
    describe_gauge!(
        "stemedb_disk_free_bytes",
        Unit::Bytes,
        "Bytes free on the volume of the log or of the store."
    );
    describe_gauge!(
        "stemedb_disk_reserve_bytes",
        Unit::Bytes,
        "Free bytes below which the volume counts as full."
    );
    describe_gauge!(
        "stemedb_disk_level",
        "What the volume can take: 0 everything, 1 deletes (full), 2 nothing more (spent)."
    );
    describe_counter!(
        "stemedb_disk_refused_writes_total",
        "Writes refused because the disks of a majority are full."
    );
    describe_gauge!("stemedb_failed", "1 once this node writes nothing more, as its log says why.");
    gauge!("stemedb_failed").set(0.0);
    describe_gauge!("stemedb_build_info", "Always 1; the label names the version.");
}

/// Shows which version runs.
pub(crate) fn build_info() {
    gauge!("stemedb_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}
