//! A scan over more than one page may come by.

use stemedb_types::{Key, ProjectId};

use super::rows::{Rows, numbered};
use crate::shard::suite::all_keys;
use crate::shard::{Cursor, Read, ReadAnswer, SCAN_BYTES_MAX, SCAN_ROWS_MAX, read};

/// The rows of a page, where it ended, and how many rows it came by.
fn page(view: &Rows, reverse: bool, cursor: Option<Cursor>) -> (Vec<Key>, Option<Cursor>, usize) {
    let (range, limit, as_of) = (all_keys(), 1, None);
    let asked = Read::Scan { range, reverse, keys_only: false, limit, as_of, cursor };
    let answer = read(view, ProjectId(1), &"b".parse().unwrap(), &asked).unwrap();
    let ReadAnswer::Page { rows, cursor, .. } = answer else { panic!("{answer:?}") };
    (rows.into_iter().map(|row| row.key).collect(), cursor, view.stepped())
}

/// All pages of one row each: what they find, and what each came by.
fn pages(view: &Rows, reverse: bool) -> (Vec<Key>, Vec<usize>) {
    let (mut found, mut stepped, mut cursor) = (Vec::new(), Vec::new(), None);
    loop {
        let (rows, next, steps) = page(view, reverse, cursor);
        found.extend(rows);
        stepped.push(steps);
        if next.is_none() {
            return (found, stepped);
        }
        cursor = next;
    }
}

#[test]
fn a_scan_over_deleted_keys_comes_by_so_many_a_page_and_finds_what_is_behind_them() {
    for reverse in [false, true] {
        let there = vec![30_000, 99_999];
        let view = Rows { keys: 100_000, there: there.clone(), ..Rows::default() };
        let (found, stepped) = pages(&view, reverse);
        let mut wanted: Vec<Key> = there.into_iter().map(numbered).collect();
        if reverse {
            wanted.reverse();
        }
        assert_eq!(found, wanted, "reverse: {reverse}");
        assert!(stepped.iter().all(|steps| *steps <= SCAN_ROWS_MAX), "{stepped:?}");
        // Not many more pages than it takes: what a full page came by in vain is come by once more.
        assert!(stepped.len() <= 100_000 / SCAN_ROWS_MAX + 3, "{stepped:?}");
    }
    // Nothing at all: empty pages, each with a cursor but the last.
    let view = Rows { keys: 100_000, ..Rows::default() };
    let (rows, cursor, _) = page(&view, false, None);
    let last = numbered(SCAN_ROWS_MAX - 1).as_bytes().clone();
    assert_eq!(rows, []);
    assert!(matches!(cursor, Some(Cursor::Key { last: ended, .. }) if ended == last));
    let (found, stepped) = pages(&view, false);
    assert_eq!((found, stepped), (vec![], [vec![SCAN_ROWS_MAX; 5], vec![0]].concat()));
}

#[test]
fn a_scan_over_large_rows_comes_by_so_many_bytes_a_page_and_at_least_one_row() {
    let view = Rows { keys: 100, row_bytes: 1 << 20, there: vec![99], ..Rows::default() };
    let (found, stepped) = pages(&view, false);
    assert_eq!(found, [numbered(99)]);
    assert!(stepped.iter().all(|steps| *steps <= SCAN_BYTES_MAX >> 20), "{stepped:?}");
    let view = Rows { keys: 3, row_bytes: 2 * SCAN_BYTES_MAX, ..Rows::default() };
    assert_eq!(pages(&view, false), (vec![], vec![1, 1, 1, 0]));
}
