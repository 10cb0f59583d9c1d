//! Whether RocksDB's list of its files reads, found out before RocksDB reads it.
//!
//! ```text
//! CURRENT  = "MANIFEST-" digits "\n"
//! MANIFEST = record*, none of which crosses a 32 KiB border; where 7 bytes don't fit, zeros
//! record   = CRC-32C u32, masked | length u16 | kind u8 | payload      little-endian
//! kind     = 1 whole | 2 first | 3 middle | 4 last, of an edit
//! ```
//!
//! Three reasons not to leave it to RocksDB 11. Where `CURRENT` is gone it begins a new store and sweeps
//! the old one's files away. Where certain bits of a record's head have flipped it reads for ever. And where a flipped
//! length points behind the end of the file, it takes the rest for the torn end that a crash leaves, and goes back in time
//! silently. Here a torn end is one only if no shorter length makes it whole.
//!
//! Left out: what the edits say. RocksDB reads that, and checks it against the files.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

const BLOCK_BYTES: usize = 32 << 10;
const HEAD_BYTES: usize = 7;

/// What of the list does not read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// In which file of RocksDB's folder.
    pub(crate) file: String,
    pub(crate) offset: Option<u64>,
    pub(crate) cause: String,
}

/// Reads the list in RocksDB's folder. Nothing there yet is no fault.
pub(crate) fn check(rocks: &Path) -> Result<(), Fault> {
    let fault = |file: &str, offset, cause: String| Fault { file: file.to_owned(), offset, cause };
    let current = match fs::read(rocks.join("CURRENT")) {
        Ok(current) => current,
        Err(cause) if cause.kind() == ErrorKind::NotFound && !holds_tables(rocks) => return Ok(()),
        Err(cause) => return Err(fault("CURRENT", None, cause.to_string())),
    };
    let named = String::from_utf8(current).ok().and_then(|line| {
        let name = line.strip_suffix('\n')?;
        let digits = name.strip_prefix("MANIFEST-")?;
        digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| name.to_owned())
    });
    let Some(name) = named else {
        return Err(fault("CURRENT", None, "it names no manifest".to_owned()));
    };
    let bytes = fs::read(rocks.join(&name)).map_err(|e| fault(&name, None, e.to_string()))?;
    records(&bytes).map_err(|(at, cause)| fault(&name, Some(at as u64), cause.to_owned()))
}

fn holds_tables(rocks: &Path) -> bool {
    let Ok(entries) = fs::read_dir(rocks) else { return false };
    entries.flatten().any(|entry| entry.path().extension().is_some_and(|end| end == "sst"))
}

/// Checks every record; a fault is where it stands, and what it is.
fn records(bytes: &[u8]) -> Result<(), (usize, &'static str)> {
    let mut at = 0;
    let mut in_edit = false;
    while at < bytes.len() {
        let block_left = BLOCK_BYTES - at % BLOCK_BYTES;
        let left = &bytes[at..bytes.len().min(at + block_left)];
        if block_left < HEAD_BYTES {
            if left.iter().any(|byte| *byte != 0) {
                return Err((at, "bytes where there is room for none"));
            }
            at += left.len();
            continue;
        }
        let Some((head, behind)) = left.split_first_chunk::<HEAD_BYTES>() else { return Ok(()) };
        let length = usize::from(u16::from_le_bytes([head[4], head[5]]));
        let Some(payload) = behind.get(..length) else {
            // The end of a crash, unless it only looks like one.
            let torn = left.len() < block_left && !any_length_is_whole(head, behind);
            return if torn { Ok(()) } else { Err((at, "a record that ends where it can't")) };
        };
        if stored(head) != masked(crc32c::crc32c_append(crc32c::crc32c(&head[6..]), payload)) {
            let zeros = bytes[at..].iter().all(|byte| *byte == 0);
            return if zeros { Ok(()) } else { Err((at, "a record does not match its checksum")) };
        }
        in_edit = match (head[6], in_edit) {
            (1, false) | (4, true) => false,
            (2, false) | (3, true) => true,
            _ => return Err((at, "a record of a kind that does not follow the one before")),
        };
        at += HEAD_BYTES + length;
    }
    Ok(())
}

/// Whether the record that seems to end behind the file would be whole with a length that does not.
fn any_length_is_whole(head: &[u8; HEAD_BYTES], behind: &[u8]) -> bool {
    let mut crc = crc32c::crc32c(&head[6..]);
    let stored = stored(head);
    masked(crc) == stored
        || behind.iter().any(|byte| {
            crc = crc32c::crc32c_append(crc, std::slice::from_ref(byte));
            masked(crc) == stored
        })
}

fn stored(head: &[u8; HEAD_BYTES]) -> u32 {
    u32::from_le_bytes([head[0], head[1], head[2], head[3]])
}

/// A checksum as it is stored: so that one of bytes that hold checksums is none of theirs.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/v1/rocks")
    }

    #[test]
    fn a_manifest_that_rocksdb_wrote_reads_and_with_any_bit_flipped_it_does_not() {
        assert_eq!(check(&fixture()), Ok(()));
        let good = fs::read(fixture().join("MANIFEST-000005")).unwrap();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(records(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn an_end_that_a_crash_tore_off_is_no_fault_and_zeros_behind_the_end_are_none() {
        let good = fs::read(fixture().join("MANIFEST-000005")).unwrap();
        for end in 0..good.len() {
            assert_eq!(records(&good[..end]), Ok(()), "{end}");
        }
        assert_eq!(records(&[good, vec![0; 5000]].concat()), Ok(()));
    }

    #[test]
    fn a_current_that_names_nothing_or_is_gone_beside_tables_is_a_fault() {
        let dir = tempfile::TempDir::new().unwrap();
        assert_eq!(check(dir.path()), Ok(()));
        fs::write(dir.path().join("000008.sst"), b"").unwrap();
        assert_eq!(check(dir.path()).unwrap_err().file, "CURRENT");
        for bad in ["", "MANIFEST-000005", "MANIFEST-00000u\n", "MANIFEST-000005\n\n"] {
            fs::write(dir.path().join("CURRENT"), bad).unwrap();
            assert_eq!(check(dir.path()).unwrap_err().file, "CURRENT", "{bad:?}");
        }
        fs::write(dir.path().join("CURRENT"), "MANIFEST-000005\n").unwrap();
        assert_eq!(check(dir.path()).unwrap_err().file, "MANIFEST-000005");
    }
}
