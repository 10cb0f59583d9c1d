//! Pages of keys.

use bytes::Bytes;
use stemedb::shard::{Cursor, KeyRange, Read, ReadAnswer, ScanRow};
use stemedb::{Op, OpAnswer};
use stemedb_types::{Key, Revision};

use crate::support::{Bench, version};

fn row(key: &'static [u8]) -> ScanRow {
    ScanRow { key: Key::new(Bytes::from_static(key)).unwrap(), version: version(5, b"v") }
}

#[tokio::test]
async fn a_page_has_its_rows_and_its_cursor_asks_for_the_next_at_the_same_revision() {
    let bench = Bench::new();
    let cursor = Cursor::Key { as_of: Revision(9), last: Bytes::from_static(b"ab") };
    bench.answer(OpAnswer::Read(ReadAnswer::Page {
        revision: Revision(9),
        rows: vec![row(b"a\xff"), row(b"ab")],
        cursor: Some(cursor.clone()),
    }));
    let page = bench.ask("GET /v1/kv/b?prefix=a&limit=2", &[]).await;
    assert_eq!(
        page,
        "200\ncache-control: private, no-cache\ncontent-type: application/json\n\
         stemedb-revision: 9\nstemedb-served-by: n2\n\n\
         {\"cursor\":\"AQEJAmFi\",\"kvs\":[\
         {\"create_revision\":2,\"key\":\"Yf8=\",\"mod_revision\":5,\"value\":\"dg==\",\
         \"version\":4},\
         {\"create_revision\":2,\"key\":\"YWI=\",\"key_text\":\"ab\",\"mod_revision\":5,\
         \"value\":\"dg==\",\"version\":4}],\"revision\":9}\n"
    );
    let first = Read::Scan {
        range: KeyRange { start: b"a".to_vec(), end: Some(b"b".to_vec()) },
        reverse: false,
        keys_only: false,
        limit: 2,
        as_of: None,
        cursor: None,
    };
    assert_eq!(bench.asked(), ("b".into(), Op::Read(first)));

    let line = "GET /v1/kv/b?prefix=a&cursor=AQEJAmFi&keys_only=1&reverse=true";
    assert_eq!(
        bench.ask(line, &[]).await,
        "200\ncache-control: private, no-cache\ncontent-type: application/json\n\
         stemedb-revision: 7\nstemedb-served-by: n2\n\n{\"kvs\":[],\"revision\":7}\n"
    );
    let next = Read::Scan {
        range: KeyRange { start: b"a".to_vec(), end: Some(b"b".to_vec()) },
        reverse: true,
        keys_only: true,
        limit: 100,
        as_of: None,
        cursor: Some(cursor),
    };
    assert_eq!(bench.asked().1, Op::Read(next));
}

#[tokio::test]
async fn keys_only_has_no_values() {
    let bench = Bench::new();
    let rows = vec![row(b"a")];
    bench.answer(OpAnswer::Read(ReadAnswer::Page { revision: Revision(9), rows, cursor: None }));
    let page = bench.ask("GET /v1/kv/b?keys_only", &[]).await;
    assert!(page.contains("\"key_text\":\"a\"") && !page.contains("\"value\""), "{page}");
}

#[tokio::test]
async fn a_page_of_a_past_that_is_gone_is_410() {
    let bench = Bench::new();
    bench.answer(OpAnswer::Read(ReadAnswer::Compacted { revision: Revision(9) }));
    let gone = bench.ask("GET /v1/kv/b?as_of=1", &[]).await;
    assert!(gone.starts_with("410\nstemedb-revision: 9\n"), "{gone}");
}
