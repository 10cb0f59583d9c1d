//! The log's sizes.

use crate::{OnDamage, OpenError};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// Longest payload of one entry, bytes. A longer one is refused with `TooLarge`.
pub const PAYLOAD_BYTES_MAX: usize = 256 * MIB as usize;
/// Longest mark value or purge note, bytes: they are copied into each new segment.
pub const NOTE_BYTES_MAX: usize = 64 * KIB as usize;

const SEGMENT_BYTES_MIN: u64 = 4 * KIB;
const SEGMENT_BYTES_MAX: u64 = 1024 * MIB;
const SPARES_MAX: usize = 8;

/// How a log is laid out and bounded. Only `segment_bytes` shows on disk, and it may change
/// between two openings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Size of one segment file, 4 KiB to 1 GiB. A record that does not fit gets a longer
    /// segment to itself.
    pub segment_bytes: u64,
    /// Payload bytes of all streams kept in memory behind their sync, newest first. Payloads
    /// that are not synced yet are kept whatever this says.
    pub tail_cache_bytes: usize,
    /// Payload bytes that may wait for the disk before `append` answers `Busy`.
    pub queue_bytes_max: usize,
    /// Zero-filled segments kept ready by a helper thread, 0 to 8. With 0 there is no helper:
    /// the writer fills each segment itself, commits wait for it, and a full disk ends the log
    /// as any other disk error does. A driven log needs 0.
    pub spare_segments: usize,
    /// What opening does about damage that costs a stream records.
    pub on_damage: OnDamage,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes: 16 * MIB,
            tail_cache_bytes: 64 * MIB as usize,
            queue_bytes_max: 64 * MIB as usize,
            spare_segments: 1,
            on_damage: OnDamage::Refuse,
        }
    }
}

impl Options {
    pub(crate) fn validate(&self) -> Result<(), OpenError> {
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&self.segment_bytes) {
            return Err(OpenError::Options("segment_bytes must be 4 KiB to 1 GiB"));
        }
        if self.queue_bytes_max == 0 {
            return Err(OpenError::Options("queue_bytes_max must not be 0"));
        }
        if self.spare_segments > SPARES_MAX {
            return Err(OpenError::Options("spare_segments must be at most 8"));
        }
        Ok(())
    }

    /// What a driven log asks for besides.
    pub(crate) fn validate_driven(&self) -> Result<(), OpenError> {
        if self.spare_segments > 0 {
            return Err(OpenError::Options("spare_segments must be 0 in a driven log"));
        }
        Ok(())
    }
}
