//! Names of directory entries.

use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A name: 1..=255 bytes, any but `/` and NUL, neither `.` nor `..`. Clones share the bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<u8>", into = "Vec<u8>")]
pub struct Name(Arc<[u8]>);

/// Bytes that are no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a valid name")]
pub struct InvalidName;

impl Name {
    /// Longest name in bytes.
    pub const MAX: usize = 255;

    /// Checks and wraps.
    pub fn new(bytes: &[u8]) -> Result<Self, InvalidName> {
        let fits = (1..=Self::MAX).contains(&bytes.len())
            && !bytes.contains(&b'/')
            && !bytes.contains(&0)
            && bytes != b"."
            && bytes != b"..";
        fits.then(|| Self(bytes.into())).ok_or(InvalidName)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<Vec<u8>> for Name {
    type Error = InvalidName;
    fn try_from(bytes: Vec<u8>) -> Result<Self, InvalidName> {
        Self::new(&bytes)
    }
}

impl From<Name> for Vec<u8> {
    fn from(name: Name) -> Self {
        name.0.to_vec()
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", String::from_utf8_lossy(&self.0))
    }
}

impl std::fmt::Debug for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_names_and_nothing_else() {
        for good in [&b"a"[..], b"...", b"\xff\xfe", &[b'x'; 255]] {
            assert_eq!(Name::new(good).map(|name| name.as_bytes().to_vec()), Ok(good.to_vec()));
        }
        for bad in [&b""[..], b".", b"..", b"a/b", b"a\0", &[b'x'; 256]] {
            assert_eq!(Name::new(bad), Err(InvalidName));
        }
    }
}
