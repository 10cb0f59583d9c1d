//! Doors for fuzz targets: any bytes may come in, nothing may panic, and memory stays within a
//! small multiple of the input. No part of the interface.

use crate::rebuild::Rebuild;
use crate::record::{Binding, Record};
use crate::scan::{Scan, Sealed, Step};
use crate::segment::{SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::{batch, v1};

/// Takes bytes as the frame of a record, and as the body of one whose checksum holds.
pub fn record_decode(bytes: &[u8]) {
    let binding = Binding { wal_id: 1, segment: 1 };
    let _ = Record::take_frame(bytes, binding, SEGMENT_HEADER_BYTES as u64);
    if let Some(record) = Record::take_body(bytes) {
        let mut out = Vec::new();
        record.put_frame(&mut out, binding, SEGMENT_HEADER_BYTES as u64);
    }
    let _ = batch::Table::decode(bytes, bytes.len());
}

/// Reads bytes as a whole segment, the last one of a log and one in the middle, and folds in
/// what is found.
pub fn segment_open(bytes: &[u8]) {
    let header = SegmentHeader::decode(bytes).ok();
    let binding = header.map_or(Binding { wal_id: 1, segment: 1 }, |header| header.binding);
    let named = header.map_or(bytes.len() as u64, |header| header.previous_end);
    for sealed in [Sealed::No, Sealed::Somewhere, Sealed::At(named)] {
        let mut rebuild = Rebuild::default();
        rebuild.segment(header.map(|header| header.version));
        let mut scan = Scan::new(bytes, binding, sealed);
        while let Some(step) = scan.next_step() {
            match step {
                Step::Batch(batch) => rebuild.batch(binding.segment, batch),
                Step::Gap(range) => {
                    rebuild.gap(binding.segment, range.start as u64, range.len() as u64, "a gap");
                }
            }
        }
        let _ = (scan.is_clean(), scan.stale(), scan.torn_end(), scan.torn_streams());
        rebuild.finish(binding.segment);
    }
    let _ = v1::read(bytes, binding, 0);
}

/// Puts right the checksums of the records, tables, heads and tails that stand where a fuzzer
/// left them, so that it gets behind them: `bytes` are a segment of log 1 with number 1.
pub fn with_checksums(mut bytes: Vec<u8>) -> Vec<u8> {
    batch::seal_by_force(&mut bytes, Binding { wal_id: 1, segment: 1 });
    bytes
}
