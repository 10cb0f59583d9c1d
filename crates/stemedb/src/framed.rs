//! The frame around a small file: what it is, of which version, and whether it is whole.
//!
//! ```text
//! file = magic | version u8 | body | CRC-32 of all before it
//! ```

use stemedb_types::{DecodeError, Decoder, Encoder};

/// One kind of file.
pub(crate) struct Frame {
    /// Its first bytes.
    pub(crate) magic: &'static [u8],
    /// The version that is written, and the newest that is read.
    pub(crate) version: u8,
    /// What it is about, in one word.
    pub(crate) name: &'static str,
}

impl Frame {
    /// The bytes of a file with this body.
    pub(crate) fn seal(&self, body: impl FnOnce(&mut Encoder)) -> Vec<u8> {
        let mut out = Encoder::new();
        out.raw(self.magic);
        out.u8(self.version);
        body(&mut out);
        let crc = crc32fast::hash(out.as_slice());
        out.u32(crc);
        out.into_vec()
    }

    /// Reads the body of what [`Frame::seal`] gave, all of it. The error says what is wrong with the file.
    pub(crate) fn open<T>(
        &self,
        bytes: &[u8],
        body: impl FnOnce(&mut Decoder<'_>) -> Result<T, DecodeError>,
    ) -> Result<T, String> {
        let Some(rest) = bytes.strip_prefix(self.magic) else {
            return Err(format!("this is no StemeDB {} file", self.name));
        };
        // The version comes before the checksum: a newer format may be laid out otherwise.
        Decoder::new(rest).version(self.name, self.version).map_err(|cause| cause.to_string())?;
        let Some((framed, crc)) = bytes.split_last_chunk::<4>() else {
            return Err("the file is too short".to_owned());
        };
        if crc32fast::hash(framed) != u32::from_le_bytes(*crc) {
            return Err("the file does not match its checksum".to_owned());
        }
        let mut from = Decoder::new(framed.get(self.magic.len() + 1..).unwrap_or_default());
        let read = body(&mut from).and_then(|read| from.finish().map(|()| read));
        read.map_err(|cause| cause.to_string())
    }
}
