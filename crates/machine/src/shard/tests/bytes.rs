//! The bytes of commands, reads and answers.

use bytes::Bytes;
use proptest::prelude::*;
use stemedb_claims::{Lens, StatementId};
use stemedb_types::limits::PAGE_ROWS_MAX;
use stemedb_types::{DecodeError, Decoder, Encoder, ProjectId, Revision};

use crate::shard::suite::random::Draw;
use crate::shard::suite::{agent, key};
use crate::shard::{
    Answer, AssertItem, AssertStatus, Attestation, ClaimAnswer, Command, Condition, Cursor, Expiry,
    Fingerprint, Head, IdempotencyKey, Once, Pattern, Read, ReadAnswer, ScanRow, TextMatch,
    Version, Write,
};

fn item() -> AssertItem {
    AssertItem {
        id: StatementId([0xab; 32]),
        subject: "s".to_owned(),
        predicate: "p".to_owned(),
        agent: agent("ci"),
        statement: Bytes::from_static(b"{}"),
    }
}

/// One of every write and condition.
fn commands() -> Vec<Command> {
    let conditions = [
        Condition::Always,
        Condition::Exists,
        Condition::Absent,
        Condition::RevisionIn(vec![Revision(7), Revision(300)]),
        Condition::RevisionNotIn(vec![]),
    ];
    let put = |condition| Write::Put {
        key: key(b"k\0"),
        value: Bytes::from_static(b"v"),
        condition,
        expires_at_ms: None,
    };
    let mut writes: Vec<Write> = conditions.into_iter().map(put).collect();
    writes.push(Write::Delete { key: key(b"k"), condition: Condition::Exists });
    writes.push(Write::Assert { items: vec![item()] });
    writes.push(Write::Put {
        key: key(b"k"),
        value: Bytes::from_static(b"v"),
        condition: Condition::Absent,
        expires_at_ms: Some(300),
    });
    writes.push(Write::Touch { key: key(b"k"), expires_at_ms: 300 });
    writes.push(Write::Expire { key: key(b"k"), lease: Revision(7) });
    writes.push(Write::Compact { to: Revision(300) });
    writes.push(Write::Jump { to: Revision(1 << 32) });
    writes.push(Write::Base { to: Revision(1 << 32) });
    let bucket = "b".parse().unwrap();
    let command = |write| Command {
        project: ProjectId(300),
        bucket: Clone::clone(&bucket),
        at_ms: 5,
        write,
        once: None,
    };
    let mut commands: Vec<Command> = writes.into_iter().map(command).collect();
    let key = IdempotencyKey::new("~!").unwrap();
    let once = Some(Once { key, fingerprint: Fingerprint([0xcd; 32]) });
    commands.push(Command { once, ..commands[5].clone() });
    commands
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn commands_in_a_log_stand_as_they_were_first_written() {
    // Version, project, bucket, stamp; then tag, key, value, condition. Never edit a line: a log
    // somewhere holds these bytes.
    let frozen = [
        "01ac02016205".to_owned() + "01026b000176" + "00",
        "01ac02016205".to_owned() + "01026b000176" + "01",
        "01ac02016205".to_owned() + "01026b000176" + "02",
        "01ac02016205".to_owned() + "01026b000176" + "030207ac02",
        "01ac02016205".to_owned() + "01026b000176" + "0400",
        "01ac02016205".to_owned() + "02016b" + "01",
        "01ac02016205".to_owned()
            + "0301"
            + &"ab".repeat(32)
            + "0173"
            + "0170"
            + "066b65793a6369"
            + "027b7d",
        "01ac02016205".to_owned() + "04016b0176" + "02" + "ac02",
        "01ac02016205".to_owned() + "05016b" + "ac02",
        "01ac02016205".to_owned() + "06016b" + "07",
        "01ac02016205".to_owned() + "07" + "ac02",
        "01ac02016205".to_owned() + "20" + "8080808010",
        "01ac02016205".to_owned() + "21" + "8080808010",
        // With a name and what it stands for, behind the stamp.
        "02ac02016205".to_owned() + "027e21" + &"cd".repeat(32) + "02016b" + "01",
    ];
    assert_eq!(commands().len(), frozen.len());
    for (command, frozen) in commands().iter().zip(frozen) {
        assert_eq!(hex(&command.encode()), frozen, "{command:?}");
        let bytes: Vec<u8> = frozen
            .as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect();
        assert_eq!(Command::decode(&Bytes::from(bytes)).as_ref(), Ok(command));
    }
}

#[test]
fn answers_and_cursors_stand_as_they_were_first_written() {
    let encoded = |answer: &Answer| {
        let mut out = Encoder::new();
        answer.encode(&mut out);
        hex(out.as_slice())
    };
    let revision = Revision(9);
    assert_eq!(encoded(&Answer::Put { revision, created: true }), "010901");
    assert_eq!(encoded(&Answer::Deleted { revision }), "0209");
    assert_eq!(encoded(&Answer::NotFound { revision }), "0309");
    assert_eq!(encoded(&Answer::PreconditionFailed { revision, current: None }), "040900");
    let items = vec![AssertStatus::Created, AssertStatus::Known];
    assert_eq!(encoded(&Answer::Asserted { revision, items }), "0509020100");
    assert_eq!(encoded(&Answer::Touched { revision, current: Revision(7) }), "060907");
    assert_eq!(encoded(&Answer::Compacted { revision, floor: Revision(7) }), "070907");
    let replayed = Answer::Replayed(Box::new(Answer::Deleted { revision }));
    assert_eq!(encoded(&replayed), "080209");
    assert_eq!(encoded(&Answer::Mismatch { revision }), "0909");
    let cursor = |cursor: &Cursor| {
        let mut out = Encoder::new();
        cursor.encode(&mut out);
        hex(out.as_slice())
    };
    let last = Bytes::from_static(b"k");
    assert_eq!(cursor(&Cursor::Key { as_of: revision, last }), "010109016b");
    let (subject, predicate) = ("s".to_owned(), "p".to_owned());
    assert_eq!(cursor(&Cursor::Claim { as_of: revision, subject, predicate }), "01020901730170");
    let (subject, predicate, last) = ("s".to_owned(), "p".to_owned(), StatementId([0xaa; 32]));
    let best = Some(StatementId([0xbb; 32]));
    let within = cursor(&Cursor::Within { as_of: revision, subject, predicate, last, best });
    let (last, best) = ("aa".repeat(32), "bb".repeat(32));
    assert_eq!(within, format!("01030901730170{last}01{best}"));
}

/// One of every read, with and without its options.
fn reads() -> Vec<Read> {
    let cursors = [
        None,
        Some(Cursor::Key { as_of: Revision(7), last: Bytes::from_static(b"k\0") }),
        Some(Cursor::Claim {
            as_of: Revision(7),
            subject: "s".to_owned(),
            predicate: String::new(),
        }),
        Some(Cursor::Within {
            as_of: Revision(7),
            subject: String::new(),
            predicate: "p".to_owned(),
            last: StatementId([2; 32]),
            best: None,
        }),
    ];
    let mut reads = vec![
        Read::Get { key: key(b"k"), as_of: None },
        Read::Get { key: key(b"k"), as_of: Some(Revision(0)) },
        Read::Claim { id: StatementId([1; 32]) },
    ];
    for cursor in cursors {
        let range = crate::shard::KeyRange::prefix(b"\xff");
        let as_of = Some(Revision(u64::MAX));
        let (reverse, keys_only, limit) = (true, false, PAGE_ROWS_MAX);
        let cut = cursor.clone();
        reads.push(Read::Scan { range, reverse, keys_only, limit, as_of, cursor: cut });
        let subject = TextMatch::Prefix("s".to_owned());
        let predicate = TextMatch::Exact(String::new());
        let pattern = Pattern { subject, predicate, agent: Some(agent("ci")) };
        let (lens, now_ms) = (Lens::All, u64::MAX);
        reads.push(Read::Query { pattern, lens, limit, as_of: None, cursor, now_ms });
    }
    reads
}

fn read_answers() -> Vec<ReadAnswer> {
    let revision = Revision(300);
    let head = Head {
        create_revision: Revision(1),
        mod_revision: Revision(200),
        version: 3,
        deleted: false,
        expiry: None,
    };
    let expiry = Some(Expiry { at_ms: u64::MAX, lease: Revision(250) });
    let expiring = Version { head: Head { expiry, ..head }, value: Bytes::from_static(b"v") };
    let version = Version { head, value: Bytes::from_static(b"value") };
    let row = ScanRow { key: key(b"k"), version: version.clone() };
    let attestation = Attestation { agent: agent("a"), revision, at_ms: u64::MAX };
    let claim = ClaimAnswer {
        id: StatementId([2; 32]),
        statement: Bytes::from_static(b"{}"),
        attestations: vec![attestation.clone(), attestation],
    };
    let cursor = Some(Cursor::Key { as_of: revision, last: Bytes::from_static(b"k") });
    vec![
        ReadAnswer::Value { revision, version: None },
        ReadAnswer::Value { revision, version: Some(version) },
        ReadAnswer::Value { revision, version: Some(expiring) },
        ReadAnswer::Page { revision, rows: vec![], cursor: None },
        ReadAnswer::Page { revision, rows: vec![row.clone(), row], cursor: cursor.clone() },
        ReadAnswer::Claims { revision, answers: vec![claim], cursor },
        ReadAnswer::Compacted { revision },
    ]
}

/// Bytes that must read back as a whole, and not when they are cut anywhere.
fn check<T: PartialEq + std::fmt::Debug>(
    value: &T,
    bytes: &Bytes,
    decode: impl Fn(&Bytes) -> Result<T, DecodeError>,
) {
    assert_eq!(decode(bytes).as_ref(), Ok(value));
    for cut in 0..bytes.len() {
        assert!(decode(&bytes.slice(..cut)).is_err(), "{value:?} cut at {cut}");
    }
    let longer = Bytes::from([bytes, &[0u8][..]].concat());
    assert!(decode(&longer).is_err(), "{value:?} and a byte");
}

fn whole<T>(
    bytes: &Bytes,
    decode: impl FnOnce(&mut Decoder<'_>, &Bytes) -> Result<T, DecodeError>,
) -> Result<T, DecodeError> {
    let mut from = Decoder::new(bytes);
    let value = decode(&mut from, bytes)?;
    from.finish()?;
    Ok(value)
}

fn encoded(encode: impl FnOnce(&mut Encoder)) -> Bytes {
    let mut out = Encoder::new();
    encode(&mut out);
    out.finish()
}

#[test]
fn everything_reads_back_and_no_cut_of_it_does() {
    for command in commands() {
        check(&command, &command.encode(), Command::decode);
        let write = encoded(|out| command.write.encode(out));
        check(&command.write, &write, |bytes| whole(bytes, Write::decode));
    }
    for read in reads() {
        let bytes = encoded(|out| read.encode(out));
        check(&read, &bytes, |bytes| whole(bytes, Read::decode));
    }
    for answer in read_answers() {
        let bytes = encoded(|out| answer.encode(out));
        check(&answer, &bytes, |bytes| whole(bytes, ReadAnswer::decode));
    }
    let revision = Revision(300);
    for answer in [
        Answer::Put { revision, created: false },
        Answer::Deleted { revision },
        Answer::NotFound { revision },
        Answer::PreconditionFailed { revision, current: Some(Revision(200)) },
        Answer::PreconditionFailed { revision, current: None },
        Answer::Asserted { revision, items: vec![AssertStatus::Known, AssertStatus::Created] },
        Answer::Touched { revision, current: Revision(200) },
        Answer::Compacted { revision, floor: Revision(299) },
        Answer::Replayed(Box::new(Answer::Put { revision, created: true })),
        Answer::Mismatch { revision },
    ] {
        let bytes = encoded(|out| answer.encode(out));
        check(&answer, &bytes, |bytes| whole(bytes, |from, _| Answer::decode(from)));
    }
}

#[test]
fn what_no_build_of_ours_writes_is_refused() {
    let good = commands()[0].encode();
    let with = |at: usize, byte: u8| {
        let mut bytes = good.to_vec();
        bytes[at] = byte;
        Command::decode(&Bytes::from(bytes))
    };
    // A newer version, no version, a bucket's name, a write, a key of no bytes, a condition.
    let newer = DecodeError::Version { what: "command", got: 3, known: 2 };
    assert_eq!(with(0, 3), Err(newer));
    for (at, byte) in [(0, 0), (4, b'B'), (6, 9), (7, 0), (12, 5)] {
        assert!(with(at, byte).is_err(), "byte {byte} at {at}");
    }
    // A name that no caller can give, and none at all.
    let named = commands()[11].encode();
    for (at, byte) in [(7, b' '), (6, 0), (6, 65)] {
        let mut bytes = named.to_vec();
        bytes[at] = byte;
        assert!(Command::decode(&Bytes::from(bytes)).is_err(), "byte {byte} at {at}");
    }
    // An answer within an answer within an answer.
    for nested in [&[8, 8, 2, 9][..], &[8]] {
        assert!(Answer::decode(&mut Decoder::new(nested)).is_err(), "{nested:?}");
    }
    // More items than a call may have, all of them there.
    let write = Write::Assert { items: vec![item(); stemedb_types::limits::ITEMS_MAX + 1] };
    let many = Command { write, ..commands()[0].clone() };
    let refused = DecodeError::Value { what: "a count of items", got: 1001 };
    assert_eq!(Command::decode(&many.encode()), Err(refused));
    // A limit beyond the page is the page.
    let asked = Read::Scan {
        range: crate::shard::KeyRange::default(),
        reverse: false,
        keys_only: false,
        limit: usize::MAX,
        as_of: None,
        cursor: None,
    };
    let bytes = encoded(|out| asked.encode(out));
    let read = whole(&bytes, Read::decode);
    assert!(matches!(read, Ok(Read::Scan { limit: PAGE_ROWS_MAX, .. })), "{read:?}");
}

proptest! {
    #[test]
    fn drawn_commands_and_reads_read_back(seed in any::<u64>()) {
        let mut draw = Draw(seed);
        let (command, read) = (draw.command(), draw.read());
        prop_assert_eq!(Command::decode(&command.encode()), Ok(command));
        let bytes = encoded(|out| read.encode(out));
        prop_assert_eq!(whole(&bytes, Read::decode), Ok(read));
    }

    #[test]
    fn junk_is_never_a_panic(junk in any::<Vec<u8>>(), kind in 0u8..6) {
        let bytes = Bytes::from([&[kind][..], &junk].concat());
        let _ = Command::decode(&bytes);
        let _ = whole(&bytes, Write::decode);
        let _ = whole(&bytes, Read::decode);
        let _ = whole(&bytes, ReadAnswer::decode);
        let _ = Answer::decode(&mut Decoder::new(&bytes));
        let _ = Cursor::decode(&mut Decoder::new(&bytes));
    }

    #[test]
    fn a_flipped_byte_is_never_a_panic(which in 0usize..12, at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let mut bytes = commands()[which].encode().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = to;
        let _ = Command::decode(&Bytes::from(bytes));
    }
}
