//! Names as users write them.

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::sync::Arc;

/// A validated plaintext name of a directory entry: 1..=255 bytes of any encoding, without `/` and NUL, neither `.` nor
/// `..`. Clones share the bytes; names order bytewise.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<[u8]>);

/// Bytes that are no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// No bytes.
    #[error("a name cannot be empty")]
    Empty,
    /// More than [`Name::MAX`] bytes.
    #[error("a name is at most {} bytes long", Name::MAX)]
    TooLong,
    /// `/` or NUL.
    #[error("a name cannot hold a slash or a NUL byte")]
    Character,
    /// `.` or `..`.
    #[error("`.` and `..` are not names")]
    Dots,
}

impl Name {
    /// Longest name in bytes.
    pub const MAX: usize = 255;

    /// Checks and copies a name.
    pub fn new(bytes: &[u8]) -> Result<Self, InvalidName> {
        check(bytes)?;
        Ok(Self(bytes.into()))
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

fn check(bytes: &[u8]) -> Result<(), InvalidName> {
    match bytes {
        [] => Err(InvalidName::Empty),
        b"." | b".." => Err(InvalidName::Dots),
        _ if bytes.len() > Name::MAX => Err(InvalidName::TooLong),
        _ if bytes.iter().any(|byte| matches!(byte, b'/' | 0)) => Err(InvalidName::Character),
        _ => Ok(()),
    }
}

impl TryFrom<&[u8]> for Name {
    type Error = InvalidName;
    fn try_from(bytes: &[u8]) -> Result<Self, InvalidName> {
        Self::new(bytes)
    }
}

impl TryFrom<&str> for Name {
    type Error = InvalidName;
    fn try_from(text: &str) -> Result<Self, InvalidName> {
        Self::new(text.as_bytes())
    }
}

impl std::str::FromStr for Name {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        Self::new(text.as_bytes())
    }
}

impl AsRef<[u8]> for Name {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// So that a map by name can be asked with plain bytes.
impl std::borrow::Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Display for Name {
    /// What is not UTF-8 shows as U+FFFD.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl std::fmt::Debug for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(NameVisitor)
    }
}

struct NameVisitor;

impl<'de> Visitor<'de> for NameVisitor {
    type Value = Name;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a name of 1 to 255 bytes")
    }

    fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Name, E> {
        Name::new(bytes).map_err(E::custom)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Name, E> {
        self.visit_bytes(text.as_bytes())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut bytes: A) -> Result<Name, A::Error> {
        let mut name = Vec::with_capacity(Name::MAX);
        while let Some(byte) = bytes.next_element()? {
            if name.len() == Name::MAX {
                return Err(serde::de::Error::custom(InvalidName::TooLong));
            }
            name.push(byte);
        }
        self.visit_bytes(&name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn refuses_what_is_no_name() {
        assert_eq!(Name::new(b""), Err(InvalidName::Empty));
        assert_eq!(Name::new(b"."), Err(InvalidName::Dots));
        assert_eq!(Name::new(b".."), Err(InvalidName::Dots));
        assert_eq!(Name::new(b"a/b"), Err(InvalidName::Character));
        assert_eq!(Name::new(b"a\0"), Err(InvalidName::Character));
        assert_eq!(Name::new(&[b'a'; 256]), Err(InvalidName::TooLong));
        for good in [&b"..."[..], b" ", b"\xff\xfe", &[b'a'; 255]] {
            assert_eq!(Name::new(good).unwrap().as_bytes(), good);
        }
        assert_eq!(Name::new(b"a\xff").unwrap().to_string(), "a\u{fffd}");
    }

    proptest! {
        #[test]
        fn serde_keeps_names_and_checks_them(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let encoded = postcard::to_allocvec(&bytes).unwrap();
            let decoded = postcard::from_bytes::<Name>(&encoded).ok();
            prop_assert_eq!(&decoded, &Name::new(&bytes).ok());
            if let Some(name) = decoded {
                prop_assert_eq!(postcard::to_allocvec(&name).unwrap(), encoded);
            }
        }
    }
}
