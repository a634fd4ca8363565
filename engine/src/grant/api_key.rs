//! API keys: macaroons, a chain of HMAC-SHA256 that anybody can lengthen by a caveat and nobody can shorten.
//!
//! ```text
//! tag 0      = HMAC(secret, "strewn api key 1" | id)
//! tag i + 1  = HMAC(tag i, caveat i)
//!
//! version = 1 (1) | id (16) | caveats (1) | per caveat: length (2, big-endian), bytes | last tag (32)
//! ```
//! The secret belongs to the id and stays at the satellite.

use super::caveat::{Caveat, Denied, InvalidCaveat, Permissions};
use super::{MAX_API_KEY_BYTES, MAX_CAVEAT_BYTES, MAX_CAVEATS};
use crate::bucket::Timestamp;
use crate::ids::ApiKeyId;
use crate::kdf;
use crate::secret::Key;
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

const VERSION: u8 = 1;
const CONTEXT: &[u8] = b"strewn api key 1";

/// A bearer token: whoever holds it may do what its caveats allow.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    id: ApiKeyId,
    caveats: Vec<Bytes>,
    tag: Key,
}

/// Names an API key up to one of its caveats without being a credential. A key whose line holds a revoked tail is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tail(pub [u8; 32]);

/// Bytes that are no API key, or a restriction that does not fit into one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ApiKeyError {
    /// Not of this format, or cut off.
    #[error("malformed API key")]
    Malformed,
    /// Of a version that this software does not know.
    #[error("API key of unknown version {0}")]
    Version(u8),
    /// The caveat itself is not acceptable.
    #[error(transparent)]
    Caveat(#[from] InvalidCaveat),
    /// More caveats or bytes than a key may have.
    #[error("the API key has too many restrictions")]
    TooLong,
}

impl ApiKey {
    /// A new key without caveats. `secret` is drawn at random for this id and kept by the satellite.
    pub fn create(id: ApiKeyId, secret: &Key) -> Self {
        Self { id, caveats: Vec::new(), tag: first_tag(id, secret) }
    }

    /// The same key with one more caveat; needs nobody.
    pub fn restrict(&self, caveat: &Caveat) -> Result<Self, ApiKeyError> {
        let caveat = caveat.encode()?;
        let length = self.len() + 2 + caveat.len();
        if self.caveats.len() == MAX_CAVEATS || length > MAX_API_KEY_BYTES {
            return Err(ApiKeyError::TooLong);
        }
        let mut restricted = self.clone();
        restricted.tag = hmac(&self.tag, &[&caveat]);
        restricted.caveats.push(caveat.into());
        Ok(restricted)
    }

    /// The head: which secret made it.
    pub fn id(&self) -> ApiKeyId {
        self.id
    }

    /// The caveats in order; `None` for one that this software does not know.
    pub fn caveats(&self) -> impl Iterator<Item = Option<Caveat>> {
        self.caveats.iter().map(|bytes| Caveat::parse(bytes))
    }

    /// True if the key was made from `secret` and only ever restricted. Takes constant time in the tag.
    pub fn verify(&self, secret: &Key) -> bool {
        self.line(secret).last().is_some_and(|tag| tag == self.tag)
    }

    /// What the caveats allow at the moment `now`. Says nothing about the key being genuine: see [`verify`](Self::verify).
    pub fn check(&self, now: Timestamp) -> Result<Permissions, Denied> {
        let mut permissions = Permissions::UNRESTRICTED;
        for caveat in self.caveats() {
            permissions.restrict(caveat.ok_or(Denied::UnknownCaveat)?, now)?;
        }
        Ok(permissions)
    }

    /// The tails of the key and of all keys it was derived from, oldest first; `None` if it is not genuine. To honour
    /// revocations, refuse a key if any of them is revoked.
    pub fn tails(&self, secret: &Key) -> Option<Vec<Tail>> {
        let tags: Vec<Key> = self.line(secret).collect();
        let genuine = tags.last().is_some_and(|tag| *tag == self.tag);
        genuine.then(|| tags.iter().map(tail).collect())
    }

    /// The key's own tail: revoking it kills this key and all derived from it.
    pub fn tail(&self) -> Tail {
        tail(&self.tag)
    }

    /// The stored and transmitted form: secret, like the key.
    pub fn serialize(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.len());
        bytes.push(VERSION);
        bytes.extend_from_slice(self.id.as_bytes());
        bytes.push(self.caveats.len() as u8);
        for caveat in &self.caveats {
            bytes.extend_from_slice(&(caveat.len() as u16).to_be_bytes());
            bytes.extend_from_slice(caveat);
        }
        bytes.extend_from_slice(self.tag.as_bytes());
        bytes
    }

    /// Reads the stored form. Unknown caveats are kept: they refuse in [`check`](Self::check).
    pub fn parse(bytes: &[u8]) -> Result<Self, ApiKeyError> {
        if bytes.len() > MAX_API_KEY_BYTES {
            return Err(ApiKeyError::TooLong);
        }
        let (&version, rest) = bytes.split_first().ok_or(ApiKeyError::Malformed)?;
        if version != VERSION {
            return Err(ApiKeyError::Version(version));
        }
        Self::parse_body(rest).ok_or(ApiKeyError::Malformed)
    }

    fn parse_body(bytes: &[u8]) -> Option<Self> {
        let (id, rest) = bytes.split_first_chunk::<{ ApiKeyId::LEN }>()?;
        let (&count, mut rest) = rest.split_first()?;
        if usize::from(count) > MAX_CAVEATS {
            return None;
        }
        let mut caveats = Vec::with_capacity(count.into());
        for _ in 0..count {
            let (length, tail) = rest.split_first_chunk::<2>()?;
            let (caveat, tail) = tail.split_at_checked(u16::from_be_bytes(*length).into())?;
            if caveat.len() > MAX_CAVEAT_BYTES {
                return None;
            }
            caveats.push(Bytes::copy_from_slice(caveat));
            rest = tail;
        }
        let tag = Key::from_bytes(rest.try_into().ok()?);
        Some(Self { id: ApiKeyId::from_bytes(*id), caveats, tag })
    }

    /// Length of the serialized form.
    fn len(&self) -> usize {
        1 + ApiKeyId::LEN + 1 + self.caveats.iter().map(|caveat| 2 + caveat.len()).sum::<usize>() + 32
    }

    /// The tags from the head to the last caveat.
    fn line(&self, secret: &Key) -> impl Iterator<Item = Key> {
        let mut caveats = self.caveats.iter();
        let first = first_tag(self.id, secret);
        std::iter::successors(Some(first), move |tag| caveats.next().map(|caveat| hmac(tag, &[caveat])))
    }
}

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ApiKey({:?}, {} caveats)", self.id, self.caveats.len())
    }
}

fn first_tag(id: ApiKeyId, secret: &Key) -> Key {
    hmac(secret, &[CONTEXT, id.as_bytes()])
}

fn hmac(key: &Key, parts: &[&[u8]]) -> Key {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    let tag = Zeroizing::new(<[u8; 32]>::from(mac.finalize().into_bytes()));
    Key::from_bytes(*tag)
}

fn tail(tag: &Key) -> Tail {
    Tail(*kdf::derive(kdf::API_KEY_TAIL, &[tag.as_bytes()]))
}
