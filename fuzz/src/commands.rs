//! Entries of the log, and what travels beside them.

use bytes::Bytes;
use stemedb_machine::meta::{MetaAnswer, MetaCommand, MetaRecord};
use stemedb_machine::shard::{Answer, Command, Cursor, Read, ReadAnswer};
use stemedb_types::{Decoder, Encoder};

/// A shard's command, question and answers: what reads back is the same once written again.
pub fn shard_command(input: &[u8]) {
    let input = Bytes::copy_from_slice(input);
    if let Ok(command) = Command::decode(&input) {
        assert_eq!(Command::decode(&command.encode()).as_ref(), Ok(&command));
    }
    let mut from = Decoder::new(&input);
    if let Ok(read) = Read::decode(&mut from, &input) {
        let bytes = written(|out| read.encode(out));
        assert_eq!(Read::decode(&mut Decoder::new(&bytes), &bytes).as_ref(), Ok(&read));
    }
    if let Ok(answer) = ReadAnswer::decode(&mut Decoder::new(&input), &input) {
        let bytes = written(|out| answer.encode(out));
        assert_eq!(ReadAnswer::decode(&mut Decoder::new(&bytes), &bytes).as_ref(), Ok(&answer));
    }
    if let Ok(answer) = Answer::decode(&mut Decoder::new(&input)) {
        let bytes = written(|out| answer.encode(out));
        assert_eq!(Answer::decode(&mut Decoder::new(&bytes)).as_ref(), Ok(&answer));
    }
    if let Ok(cursor) = Cursor::decode(&mut Decoder::new(&input)) {
        let bytes = written(|out| cursor.encode(out));
        assert_eq!(Cursor::decode(&mut Decoder::new(&bytes)).as_ref(), Ok(&cursor));
    }
}

/// A meta group's command, record and answer: what reads back is the same once written again.
pub fn meta_command(input: &[u8]) {
    if let Ok(command) = MetaCommand::decode(input) {
        assert_eq!(MetaCommand::decode(&command.encode()).as_ref(), Ok(&command));
    }
    if let Ok(record) = MetaRecord::decode(&mut Decoder::new(input)) {
        let bytes = written(|out| record.encode(out));
        assert_eq!(MetaRecord::decode(&mut Decoder::new(&bytes)).as_ref(), Ok(&record));
    }
    if let Ok(answer) = MetaAnswer::decode(&mut Decoder::new(input)) {
        let bytes = written(|out| answer.encode(out));
        assert_eq!(MetaAnswer::decode(&mut Decoder::new(&bytes)).as_ref(), Ok(&answer));
    }
}

fn written(write: impl FnOnce(&mut Encoder)) -> Bytes {
    let mut out = Encoder::new();
    write(&mut out);
    out.finish()
}
