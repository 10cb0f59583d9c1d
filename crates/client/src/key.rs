//! An API key that is never printed.

use std::fmt;

/// An API key. Overwritten in memory when dropped, never printed.
#[derive(Clone)]
pub struct ApiKey(Vec<u8>);

impl ApiKey {
    /// Takes a key as it is; white space around it, as files have it, is not part of it.
    pub fn new(key: impl Into<String>) -> Self {
        let mut bytes = key.into().into_bytes();
        let trimmed = bytes.trim_ascii().to_vec();
        wipe(&mut bytes);
        Self(trimmed)
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for ApiKey {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

/// Overwrites bytes that nobody will read again. The black box keeps the compiler from seeing so.
fn wipe(bytes: &mut [u8]) {
    bytes.fill(0);
    std::hint::black_box(bytes);
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_trimmed_and_not_printed() {
        let key = ApiKey::new("  steme_live_1\n");
        assert_eq!(key.as_bytes(), b"steme_live_1");
        assert_eq!(format!("{key:?}"), "ApiKey(…)");
        assert!(ApiKey::new(" \n").is_empty());
    }
}
