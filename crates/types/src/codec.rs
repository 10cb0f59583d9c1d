//! How our bytes are put together and taken apart.
//!
//! Every format of ours, on disk and between peers, is written with these two
//! types: fixed-width integers are little-endian, lengths and small counts are
//! LEB128 varints, byte strings are length-prefixed, and a format opens with a
//! version byte. A decoder never panics and never allocates more than the
//! input could hold, so hostile bytes cost an error and nothing else.
//! (Keys of the store are big-endian and ordered: `engine` has its own.)

use bytes::Bytes;

/// Why bytes were refused. Nothing was taken from them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The input ended inside a field.
    #[error("the input ends {missing_bytes} bytes short")]
    Short {
        /// How many more bytes the field wanted, at least.
        missing_bytes: usize,
    },
    /// A varint of more than 64 bits.
    #[error("a varint runs past 64 bits")]
    Varint,
    /// A length that the rest of the input can't hold.
    #[error("a length of {length} does not fit the {left_bytes} bytes left")]
    Length {
        /// The length read.
        length: u64,
        /// What was left behind it.
        left_bytes: usize,
    },
    /// A format version that this build does not know.
    #[error("{what} has format version {got}, this build reads {known}")]
    Version {
        /// Which format.
        what: &'static str,
        /// The version found.
        got: u8,
        /// The newest version this build reads.
        known: u8,
    },
    /// A tag or value outside its range.
    #[error("{what} can't be {got}")]
    Value {
        /// Which field.
        what: &'static str,
        /// The value found.
        got: u64,
    },
    /// Text that is not UTF-8.
    #[error("{what} is not UTF-8")]
    Text {
        /// Which field.
        what: &'static str,
    },
    /// Bytes behind the end of the value.
    #[error("{left_bytes} bytes stand behind the end")]
    Trailing {
        /// How many.
        left_bytes: usize,
    },
}

/// Puts bytes together, in a growing buffer.
#[derive(Debug, Default)]
pub struct Encoder {
    out: Vec<u8>,
}

impl Encoder {
    /// An empty buffer.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty buffer with room for `bytes`.
    pub fn with_capacity(bytes: usize) -> Self {
        Self { out: Vec::with_capacity(bytes) }
    }

    /// One byte.
    pub fn u8(&mut self, value: u8) {
        self.out.push(value);
    }

    /// Four bytes, little-endian.
    pub fn u32(&mut self, value: u32) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    /// Eight bytes, little-endian.
    pub fn u64(&mut self, value: u64) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    /// Sixteen bytes, little-endian.
    pub fn u128(&mut self, value: u128) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    /// One to ten bytes, LEB128.
    pub fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.out.push((value as u8) | 0x80);
            value >>= 7;
        }
        self.out.push(value as u8);
    }

    /// A truth value: one byte, 0 or 1.
    pub fn bool(&mut self, value: bool) {
        self.out.push(u8::from(value));
    }

    /// A length and the bytes.
    pub fn bytes(&mut self, value: &[u8]) {
        self.varint(value.len() as u64);
        self.out.extend_from_slice(value);
    }

    /// A length and the text.
    pub fn text(&mut self, value: &str) {
        self.bytes(value.as_bytes());
    }

    /// A presence byte, then the value if there is one.
    pub fn option<T>(&mut self, value: Option<T>, put: impl FnOnce(&mut Self, T)) {
        self.bool(value.is_some());
        if let Some(value) = value {
            put(self, value);
        }
    }

    /// Bytes as they are, without a length.
    pub fn raw(&mut self, value: &[u8]) {
        self.out.extend_from_slice(value);
    }

    /// What has been put so far.
    pub fn as_slice(&self) -> &[u8] {
        &self.out
    }

    /// The finished bytes.
    pub fn finish(self) -> Bytes {
        Bytes::from(self.out)
    }

    /// The finished bytes, as a vector.
    pub fn into_vec(self) -> Vec<u8> {
        self.out
    }
}

/// Takes bytes apart, front to back.
#[derive(Debug)]
pub struct Decoder<'a> {
    left: &'a [u8],
}

impl<'a> Decoder<'a> {
    /// Starts at the front of `input`.
    pub fn new(input: &'a [u8]) -> Self {
        Self { left: input }
    }

    /// Exactly `count` bytes.
    pub fn raw(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let Some((head, tail)) = self.left.split_at_checked(count) else {
            return Err(DecodeError::Short { missing_bytes: count - self.left.len() });
        };
        self.left = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let mut array = [0; N];
        array.copy_from_slice(self.raw(N)?);
        Ok(array)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// Four bytes, little-endian.
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_le_bytes)
    }

    /// Eight bytes, little-endian.
    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_le_bytes)
    }

    /// Sixteen bytes, little-endian.
    pub fn u128(&mut self) -> Result<u128, DecodeError> {
        self.array().map(u128::from_le_bytes)
    }

    /// One to ten bytes, LEB128.
    pub fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(DecodeError::Varint);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::Varint)
    }

    /// A truth value: any byte but 0 and 1 is refused.
    pub fn bool(&mut self) -> Result<bool, DecodeError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            got => Err(DecodeError::Value { what: "a truth value", got: u64::from(got) }),
        }
    }

    /// A count of items of at least `item_bytes_min` bytes each: never more than the input holds.
    pub fn length(&mut self, item_bytes_min: usize) -> Result<usize, DecodeError> {
        let length = self.varint()?;
        let fits = (self.left.len() / item_bytes_min.max(1)) as u64;
        if length > fits {
            return Err(DecodeError::Length { length, left_bytes: self.left.len() });
        }
        Ok(length as usize)
    }

    /// A length and that many bytes.
    pub fn bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = self.length(1)?;
        self.raw(length)
    }

    /// A length and that much UTF-8.
    pub fn text(&mut self, what: &'static str) -> Result<&'a str, DecodeError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| DecodeError::Text { what })
    }

    /// A presence byte, then the value if there is one.
    pub fn option<T>(
        &mut self,
        take: impl FnOnce(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, DecodeError> {
        if self.bool()? { take(self).map(Some) } else { Ok(None) }
    }

    /// A version byte that must be `known` or older, and not zero. Returns it.
    pub fn version(&mut self, what: &'static str, known: u8) -> Result<u8, DecodeError> {
        let got = self.u8()?;
        if got == 0 || got > known {
            return Err(DecodeError::Version { what, got, known });
        }
        Ok(got)
    }

    /// What has not been taken yet.
    pub fn left(&self) -> &'a [u8] {
        self.left
    }

    /// Refuses bytes behind the end.
    pub fn finish(self) -> Result<(), DecodeError> {
        if self.left.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::Trailing { left_bytes: self.left.len() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_length_beyond_the_input_is_refused_before_anything_is_allocated() {
        let mut out = Encoder::new();
        out.varint(u64::MAX);
        let refused = DecodeError::Length { length: u64::MAX, left_bytes: 0 };
        assert_eq!(Decoder::new(out.as_slice()).length(8), Err(refused));
    }

    #[test]
    fn a_varint_of_eleven_bytes_or_of_too_many_bits_is_refused() {
        assert_eq!(Decoder::new(&[0xff; 11]).varint(), Err(DecodeError::Varint));
        let mut long = [0x80; 10];
        long[9] = 2;
        assert_eq!(Decoder::new(&long).varint(), Err(DecodeError::Varint));
    }

    #[test]
    fn a_newer_version_is_refused_with_both_numbers() {
        let newer = DecodeError::Version { what: "layout", got: 3, known: 2 };
        assert_eq!(Decoder::new(&[3]).version("layout", 2), Err(newer));
    }

    proptest! {
        #[test]
        fn what_is_put_is_what_is_taken(
            small in any::<u8>(), number in any::<u64>(), blob in any::<Vec<u8>>(), text in ".*",
        ) {
            let mut out = Encoder::new();
            out.u8(small);
            out.varint(number);
            out.bytes(&blob);
            out.option(Some(text.as_str()), |out, text| out.text(text));
            out.bool(true);
            let bytes = out.finish();
            let mut from = Decoder::new(&bytes);
            prop_assert_eq!(from.u8(), Ok(small));
            prop_assert_eq!(from.varint(), Ok(number));
            prop_assert_eq!(from.bytes(), Ok(blob.as_slice()));
            prop_assert_eq!(from.option(|from| from.text("text")), Ok(Some(text.as_str())));
            prop_assert_eq!(from.bool(), Ok(true));
            prop_assert_eq!(from.finish(), Ok(()));
        }

        #[test]
        fn no_bytes_make_a_decoder_panic(bytes in any::<Vec<u8>>()) {
            let mut from = Decoder::new(&bytes);
            while from.varint().is_ok() && from.bytes().is_ok() {}
        }
    }
}
