//! What is a statement, what is not, and which sentence each refusal gets.

use super::*;
use proptest::prelude::*;
use serde_json::json;

const ID: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

fn parse(json: &str) -> Statement {
    Statement::parse(json.as_bytes()).expect(json)
}

/// A good statement with `field` set to `value`.
fn with(field: &str, value: Value) -> Result<Statement, Error> {
    let mut whole = json!({"subject": "s", "predicate": "p", "object": 1});
    whole[field] = value;
    Statement::from_value(whole)
}

#[test]
fn a_whole_statement_reads_back_field_by_field_and_has_one_canonical_form() {
    let statement = parse(&format!(
        r#" {{ "valid_to":"2027-01-01T00:00:00+01:00", "subject":"pkg:cargo/serde@1.0.0",
        "source":{{"uri":"https://ci/1","tool":"scan","digest":"sha1:00"}}, "predicate":"licence",
        "refs":[{{"rel":"endorses","id":"{ID}"}}], "confidence":5e-1,
        "object":{{"b":[1.0,null],"a":"\u20ac"}}, "valid_from":"2026-01-01T00:00:00Z" }} "#
    ));
    let canonical = format!(
        "{{\"confidence\":0.5,\"object\":{{\"a\":\"€\",\"b\":[1,null]}},\"predicate\":\"licence\",\
         \"refs\":[{{\"id\":\"{ID}\",\"rel\":\"endorses\"}}],\
         \"source\":{{\"digest\":\"sha1:00\",\"tool\":\"scan\",\"uri\":\"https://ci/1\"}},\
         \"subject\":\"pkg:cargo/serde@1.0.0\",\"valid_from\":\"2026-01-01T00:00:00Z\",\
         \"valid_to\":\"2027-01-01T00:00:00+01:00\"}}"
    );
    assert_eq!(String::from_utf8_lossy(statement.canonical()), canonical);
    assert_eq!(statement.subject(), "pkg:cargo/serde@1.0.0");
    assert_eq!(statement.predicate(), "licence");
    assert_eq!(statement.object(), &json!({"a": "€", "b": [1.0, null]}));
    assert_eq!(statement.object_canonical(), "{\"a\":\"€\",\"b\":[1,null]}".as_bytes());
    assert_eq!(statement.confidence(), 0.5);
    assert_eq!(statement.valid_from(), InstantNs::parse("2026-01-01T00:00:00Z"));
    assert_eq!(statement.valid_to(), InstantNs::parse("2026-12-31T23:00:00Z"));
    assert_eq!(statement.valid_to_text(), Some("2027-01-01T00:00:00+01:00"));
    assert_eq!(statement.source().and_then(|s| s.tool.as_deref()), Some("scan"));
    let endorsed = Reference { id: ID.parse().unwrap(), rel: Relation::Endorses };
    assert_eq!(statement.refs(), [endorsed]);
}

/// Computed by another program from the definition. A change here orphans every stored statement.
#[test]
fn an_id_never_changes() {
    let frozen = [
        (
            r#"{"subject":"s","predicate":"p","object":null}"#,
            "sha256:c78cd9647b5ed9c51448e830026ecc47b1d82b15fb5cd079a7ba91f3c37f441c",
        ),
        (
            r#"{"subject":"s","predicate":"p","object":null,"confidence":1}"#,
            "sha256:8a51cd20c77ac9ee2ba1d6a1022d64e3d7c6262f1d6cb875fe33ee8f53b775d5",
        ),
        (
            r#"{"subject":"é","predicate":"p","object":{"n":[1e21,0.1,-0]},"confidence":0.5,
                "valid_from":"2026-01-01T00:00:00Z","refs":[],"source":{"uri":"u"}}"#,
            "sha256:bcec0dbb481e5dfd37387dfa818f38df45c3959f4e86a0428a449bec8a6af84c",
        ),
    ];
    for (json, id) in frozen {
        assert_eq!(parse(json).id().to_string(), id, "{json}");
    }
}

#[test]
fn nothing_absent_is_filled_in_so_what_reads_alike_may_have_two_ids() {
    let bare = parse(r#"{"subject":"s","predicate":"p","object":1}"#);
    let sure = parse(r#"{"subject":"s","predicate":"p","object":1,"confidence":1}"#);
    assert_eq!(bare.canonical(), br#"{"object":1,"predicate":"p","subject":"s"}"#);
    assert_eq!((bare.confidence(), sure.confidence()), (1.0, 1.0));
    assert_ne!(bare.id(), sure.id());
    assert_ne!(bare.id(), with("refs", json!([])).unwrap().id());
    assert_ne!(bare.id(), with("source", json!({})).unwrap().id());
    // One number however it is written.
    let float = parse(r#"{"subject":"s","predicate":"p","object":1.0,"confidence":10e-1}"#);
    assert_eq!(float.id(), sure.id());
}

#[test]
fn each_refusal_has_a_sentence_that_names_the_field() {
    let long = "x".repeat(TERM_BYTES_MAX + 1);
    let table = [
        ("subject", json!(""), "`subject` is empty"),
        ("predicate", json!(""), "`predicate` is empty"),
        ("subject", json!(7), "`subject` must be a string"),
        ("subject", json!(null), "`subject` must be a string"),
        ("subject", json!(long), "`subject` has 1025 bytes, the most is 1024"),
        ("predicate", json!(long), "`predicate` has 1025 bytes, the most is 1024"),
        ("confidence", json!(1.1), "`confidence` is 1.1, it must be a number from 0 to 1"),
        ("confidence", json!(-0.1), "`confidence` is -0.1, it must be a number from 0 to 1"),
        ("confidence", json!("1"), "`confidence` is \"1\", it must be a number from 0 to 1"),
        ("confidence", json!(null), "`confidence` is null, it must be a number from 0 to 1"),
        (
            "valid_from",
            json!("yesterday"),
            "`valid_from` is \"yesterday\", it must be RFC 3339 like 2026-01-31T12:00:00Z, at most 9 fraction digits",
        ),
        ("valid_to", json!(1767268800), "`valid_to` must be a string"),
        ("valid_to", json!(""), "`valid_to` is empty"),
        ("source", json!("ci"), "`source` must be an object"),
        ("source", json!({"url": "x"}), "a statement has no field `source.url`"),
        ("source", json!({"uri": 1}), "`source.uri` must be a string"),
        ("source", json!({"tool": ""}), "`source.tool` is empty"),
        ("source", json!({"digest": long}), "`source.digest` has 1025 bytes, the most is 1024"),
        ("refs", json!({}), "`refs` must be a list"),
        ("refs", json!([ID]), "`refs[0]` must be an object"),
        ("refs", json!([{"rel": "endorses"}]), "`refs[0].id` is missing"),
        ("refs", json!([{"id": ID}]), "`refs[0].rel` is missing"),
        (
            "refs",
            json!([{"id": ID, "rel": "likes"}]),
            "`refs[0].rel` must be `supersedes` or `endorses`",
        ),
        (
            "refs",
            json!([{"id": ID, "rel": "endorses"}, {"id": "sha256:AA", "rel": "endorses"}]),
            "`refs[1].id` must be `sha256:` and 64 lowercase hex digits",
        ),
        (
            "refs",
            json!([{"id": ID, "rel": "endorses", "by": "me"}]),
            "a statement has no field `refs[0].by`",
        ),
        ("subjct", json!("s"), "a statement has no field `subjct`"),
        (
            "object",
            json!([u64::MAX]),
            "the number 18446744073709551615 does not fit a 64-bit float and would be stored as another; send it as a string",
        ),
        (
            "object",
            json!("x".repeat(STATEMENT_BYTES_MAX)),
            "the canonical form is longer than 65536 bytes",
        ),
    ];
    for (field, value, sentence) in table {
        let refused = with(field, value.clone()).expect_err(sentence);
        assert_eq!(refused.to_string(), sentence, "{field}: {}", quoted(&value.to_string()));
    }
}

#[test]
fn what_is_missing_or_no_object_at_all_is_said() {
    let sentence = |json: &str| Statement::parse(json.as_bytes()).expect_err(json).to_string();
    assert_eq!(sentence(r#"{"predicate":"p","object":1}"#), "`subject` is missing");
    assert_eq!(sentence(r#"{"subject":"s","object":1}"#), "`predicate` is missing");
    assert_eq!(sentence(r#"{"subject":"s","predicate":"p"}"#), "`object` is missing");
    assert_eq!(sentence("[]"), "a statement is a JSON object");
    let twice = r#"{"subject":"s","predicate":"p","object":{"k":1,"k":2}}"#;
    assert!(sentence(twice).starts_with("the key \"k\" is given twice in one object at line 1"));
}

#[test]
fn an_interval_must_hold_an_instant_and_ends_before_valid_to() {
    let interval = |from: &str, to: &str| {
        let whole =
            json!({"subject":"s","predicate":"p","object":1,"valid_from":from,"valid_to":to});
        Statement::from_value(whole)
    };
    let noon = "2026-01-01T12:00:00Z";
    assert_eq!(interval(noon, noon), Err(Error::Interval));
    assert_eq!(interval(noon, "2026-01-01T13:00:00+01:00"), Err(Error::Interval));
    let short = interval(noon, "2026-01-01T12:00:00.000000001Z").unwrap();
    let at = InstantNs::parse(noon).unwrap();
    assert!(short.is_valid_at(at));
    assert!(!short.is_valid_at(InstantNs(at.0 + 1)));
    assert!(!short.is_valid_at(InstantNs(at.0 - 1)));
}

#[test]
fn the_longest_statement_fits_and_one_byte_more_does_not() {
    let frame = with("object", json!("")).unwrap().canonical().len();
    let fitting = with("object", json!("x".repeat(STATEMENT_BYTES_MAX - frame))).unwrap();
    assert_eq!(fitting.canonical().len(), STATEMENT_BYTES_MAX);
    let longer = with("object", json!("x".repeat(STATEMENT_BYTES_MAX - frame + 1)));
    assert_eq!(longer, Err(Error::StatementTooLong));
    // Control characters grow sixfold on the way.
    let growing = with("object", json!("\u{1}".repeat(STATEMENT_BYTES_MAX / 2)));
    assert_eq!(growing, Err(Error::StatementTooLong));
}

#[test]
fn stored_bytes_come_back_only_under_their_own_id_and_undamaged() {
    let statement = with("confidence", json!(0.25)).unwrap();
    let (bytes, id) = (statement.canonical(), statement.id());
    assert_eq!(Statement::from_stored(bytes, id), Ok(statement.clone()));
    let damaged = Err(Error::Damaged { id: id.to_string() });
    for at in 0..bytes.len() {
        let mut flipped = bytes.to_vec();
        flipped[at] ^= 1;
        assert_eq!(Statement::from_stored(&flipped, id), damaged, "byte {at}");
    }
}

fn arbitrary_object() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(".{0,4}", inner, 0..4)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

fn arbitrary_statement() -> impl Strategy<Value = Value> {
    let dated = prop::option::of(1970..2038i32);
    (".{1,9}", ".{1,9}", arbitrary_object(), prop::option::of(0.0..=1.0f64), dated, any::<bool>())
        .prop_map(|(subject, predicate, object, confidence, year, more)| {
            let mut whole = json!({"subject": subject, "predicate": predicate, "object": object});
            if let Some(confidence) = confidence {
                whole["confidence"] = json!(confidence);
            }
            if let Some(year) = year {
                whole["valid_from"] = json!(format!("{year}-02-03T04:05:06.7+08:00"));
            }
            if more {
                whole["refs"] = json!([{"rel": "supersedes", "id": ID}]);
                whole["source"] = json!({"uri": predicate});
            }
            whole
        })
}

/// The same value, keys backwards and with whitespace wherever JSON allows it.
fn reshuffled(value: &Value) -> String {
    let joined = |parts: Vec<String>| parts.join(" ,\n");
    match value {
        Value::Array(items) => format!("[ {} ]", joined(items.iter().map(reshuffled).collect())),
        Value::Object(entries) => {
            let entry = |(key, value): (&String, &Value)| {
                format!("{} :\t{}", Value::from(key.as_str()), reshuffled(value))
            };
            format!("{{ {} }}", joined(entries.iter().rev().map(entry).collect()))
        }
        plain => plain.to_string(),
    }
}

proptest! {
    #[test]
    fn the_canonical_form_is_the_librarys_and_reads_back_as_itself(whole in arbitrary_statement()) {
        let library = serde_json_canonicalizer::to_vec(&whole).unwrap();
        let statement = Statement::from_value(whole).unwrap();
        prop_assert_eq!(statement.canonical(), library);
        let object = serde_json_canonicalizer::to_vec(statement.object()).unwrap();
        prop_assert_eq!(statement.object_canonical(), object);
        let again = Statement::parse(statement.canonical()).unwrap();
        prop_assert_eq!(again.canonical(), statement.canonical());
        prop_assert_eq!(again.id(), statement.id());
    }

    #[test]
    fn an_id_does_not_depend_on_key_order_or_whitespace(whole in arbitrary_statement()) {
        let written = reshuffled(&whole);
        let id = Statement::parse(written.as_bytes()).unwrap().id();
        prop_assert_eq!(id, Statement::from_value(whole).unwrap().id());
    }

    #[test]
    fn a_statement_cut_or_scribbled_on_is_refused_or_read_but_never_panics(
        whole in arbitrary_statement(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let mut bytes = whole.to_string().into_bytes();
        let at = at.index(bytes.len());
        prop_assert!(Statement::parse(&bytes[..at]).is_err());
        bytes[at] = byte;
        if let Ok(statement) = Statement::parse(&bytes) {
            prop_assert_eq!(Statement::from_stored(statement.canonical(), statement.id()), Ok(statement));
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in any::<Vec<u8>>()) {
        let _ = Statement::parse(&bytes);
    }
}
