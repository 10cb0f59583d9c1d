//! The document: complete, and the one that is committed.

use std::sync::LazyLock;

use http::Method;
use serde_json::Value;
use stemedb_gateway::route::{self, TABLE};

const COMMITTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");

static DOCUMENT: LazyLock<Value> =
    LazyLock::new(|| serde_json::to_value(stemedb_gateway::openapi("0.1.0")).unwrap());

/// Fails if an operation answered with a status that the document does not have.
pub(crate) fn check_documented(method: &Method, path: &str, status: u16) {
    let Some(target) = route::find(path) else { return };
    let Some(row) = target.place.row(method) else { return };
    let method = row.method.to_ascii_lowercase();
    let responses = &DOCUMENT["paths"][target.place.template()][&method]["responses"];
    let known = responses.get(status.to_string()).is_some();
    assert!(known, "{method} {path} gave {status}, which is not in the document");
}

#[test]
fn every_line_of_the_table_is_described_and_nothing_else() {
    let mut described = Vec::new();
    for (path, item) in DOCUMENT["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            described.push(format!("{} {path}", method.to_ascii_uppercase()));
        }
    }
    described.sort();
    let mut table: Vec<String> =
        TABLE.iter().map(|row| format!("{} {}", row.method, row.place.template())).collect();
    table.sort();
    assert_eq!(described, table);
    assert_eq!(DOCUMENT["openapi"], "3.1.0");
}

#[test]
fn every_reference_of_the_document_leads_somewhere() {
    fn walk(value: &Value, found: &mut usize) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(reference)) = map.get("$ref") {
                    let pointer = reference.strip_prefix('#').unwrap();
                    assert!(DOCUMENT.pointer(pointer).is_some(), "{reference}");
                    *found += 1;
                }
                map.values().for_each(|value| walk(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| walk(value, found)),
            _ => {}
        }
    }
    let mut found = 0;
    walk(&DOCUMENT, &mut found);
    assert!(found > 100, "{found} references");
}

/// Run with STEMEDB_UPDATE_OPENAPI=1 to write the file anew.
#[test]
fn the_committed_document_is_the_one_this_code_serves() {
    let mut text = serde_json::to_string_pretty(&*DOCUMENT).unwrap();
    text.push('\n');
    if std::env::var_os("STEMEDB_UPDATE_OPENAPI").is_some() {
        std::fs::write(COMMITTED, &text).unwrap();
    }
    let committed = std::fs::read_to_string(COMMITTED).unwrap_or_default();
    assert!(committed == text, "docs/openapi.json is old: run with STEMEDB_UPDATE_OPENAPI=1");
}
