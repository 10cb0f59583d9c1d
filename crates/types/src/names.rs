//! Names and keys: checked once at the edge, trusted everywhere after.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;

use crate::limits::{KEY_BYTES_MAX, NAME_BYTES_MAX};

/// Why a name, key or id was refused. Nothing was stored; another text may be tried.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// A bucket or project name outside `[a-z0-9][a-z0-9._-]{0,63}`.
    #[error(
        "a {what} name is 1 to {NAME_BYTES_MAX} of a-z, 0-9, '.', '_' and '-', and starts with a letter or digit"
    )]
    Name {
        /// `bucket` or `project`.
        what: &'static str,
    },
    /// A key of no bytes or of more than [`KEY_BYTES_MAX`].
    #[error("a key is 1 to {KEY_BYTES_MAX} bytes long, this one has {got_bytes}")]
    Key {
        /// The length of the refused key.
        got_bytes: usize,
    },
    /// Not the fixed number of lowercase hex digits.
    #[error("an id is exactly {digits} lowercase hex digits")]
    Id {
        /// How many digits were expected.
        digits: usize,
    },
}

fn check_name(text: &str, what: &'static str) -> Result<(), NameError> {
    let mut bytes = text.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let rest = bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b));
    if first && rest && text.len() <= NAME_BYTES_MAX {
        Ok(())
    } else {
        Err(NameError::Name { what })
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                check_name(text, $what)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// A bucket of a project: `[a-z0-9][a-z0-9._-]{0,63}`.
    BucketName,
    "bucket"
);
name!(
    /// A project: the tenant. Same alphabet as a bucket.
    ProjectName,
    "project"
);

/// A key: any 1 to [`KEY_BYTES_MAX`] bytes, ordered bytewise, never normalised.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Bytes);

impl Key {
    /// Takes the bytes as a key, or says why they can't be one.
    pub fn new(bytes: impl Into<Bytes>) -> Result<Self, NameError> {
        let bytes = bytes.into();
        if bytes.is_empty() || bytes.len() > KEY_BYTES_MAX {
            return Err(NameError::Key { got_bytes: bytes.len() });
        }
        Ok(Self(bytes))
    }

    /// The key's bytes.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.0.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_name_is_what_the_contract_says() {
        for good in ["default", "0", "a.b_c-d", &"x".repeat(64)] {
            assert!(good.parse::<BucketName>().is_ok(), "{good}");
        }
        for bad in ["", ".a", "-a", "_a", "A", "a/b", "ü", &"x".repeat(65)] {
            let refused = Err(NameError::Name { what: "bucket" });
            assert_eq!(bad.parse::<BucketName>(), refused, "{bad}");
        }
    }

    #[test]
    fn a_key_is_one_byte_to_four_kibibytes() {
        assert_eq!(Key::new(vec![]), Err(NameError::Key { got_bytes: 0 }));
        assert!(Key::new(vec![0]).is_ok());
        assert!(Key::new(vec![255; KEY_BYTES_MAX]).is_ok());
        assert_eq!(
            Key::new(vec![0; KEY_BYTES_MAX + 1]),
            Err(NameError::Key { got_bytes: KEY_BYTES_MAX + 1 })
        );
    }
}
