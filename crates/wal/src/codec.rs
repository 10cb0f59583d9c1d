//! The crate's own little codec: little-endian words, LEB128 varints, prefixed bytes.
//!
//! A reader never panics and takes nothing it was not given; what is wrong with a body whose
//! checksum holds is not worth an error type, so everything here answers with an `Option`.

/// Puts a varint of one to ten bytes.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Puts a length and the bytes.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Takes bytes apart, front to back.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    left: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { left: bytes }
    }

    pub(crate) fn raw(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.left.split_at_checked(count)?;
        self.left = tail;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.raw(N)?.try_into().ok()
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.varint()?).ok()?;
        self.raw(length)
    }

    /// Everything that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.left)
    }

    /// `value`, unless bytes stand behind it.
    pub(crate) fn finish<T>(self, value: T) -> Option<T> {
        self.left.is_empty().then_some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_put_is_what_is_taken(number in any::<u64>(), blob in any::<Vec<u8>>()) {
            let mut out = Vec::new();
            put_varint(&mut out, number);
            put_bytes(&mut out, &blob);
            let mut from = Reader::new(&out);
            prop_assert_eq!(from.varint(), Some(number));
            prop_assert_eq!(from.bytes(), Some(blob.as_slice()));
            prop_assert_eq!(from.finish(()), Some(()));
        }

        #[test]
        fn no_bytes_make_a_reader_panic(bytes in any::<Vec<u8>>()) {
            let mut from = Reader::new(&bytes);
            while from.varint().is_some() && from.bytes().is_some() {}
        }
    }
}
