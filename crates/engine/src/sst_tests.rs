//! Table files that are not as they were written.

use std::fs;
use std::io::Write;
use std::ops::ControlFlow;

use proptest::prelude::*;

use crate::sst::{Found, take_apart, walk};

#[test]
fn a_handle_beyond_every_file_is_refused() {
    // An index block: `a` at offset 2^64 - 1, of no bytes; then `ab`, behind it and as long.
    let offset = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
    let block = [&[0, 1, b'a'][..], &offset, &[0], &[1, 1, b'b', 0], &[0; 4]].concat();
    take_apart(&[&[0xff; 8], &block[..]].concat());
}

#[test]
fn a_table_cut_or_flipped_anywhere_is_told_and_never_a_panic() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/v2/rocks");
    let tables = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let table = tables.filter(|path| path.extension().is_some_and(|end| end == "sst")).min();
    let good = fs::read(table.unwrap()).unwrap();
    let is_damaged = |bytes: &[u8]| {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        let mut damaged = false;
        let _ = walk(&file, None, &mut |found| {
            damaged |= match found {
                Found::Damaged(_) => true,
                Found::Rows(rows) => rows.each(&mut |_, _, _| ControlFlow::Continue(())).is_err(),
                Found::Meta(_) => false,
            };
            ControlFlow::Continue(())
        });
        damaged
    };
    assert!(!is_damaged(&good));
    for end in (0..good.len()).step_by(7) {
        assert!(is_damaged(&good[..end]), "cut at {end}");
    }
    for byte in (0..good.len()).step_by(11) {
        let mut bad = good.clone();
        bad[byte] ^= 1 << (byte % 8);
        assert!(is_damaged(&bad), "byte {byte}");
    }
}

proptest! {
    #[test]
    fn junk_is_never_a_panic(junk in any::<Vec<u8>>()) {
        take_apart(&junk);
    }
}
