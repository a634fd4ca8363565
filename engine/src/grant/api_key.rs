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

#[cfg(test)]
mod tests {
    use super::super::caveat::tests::caveat;
    use super::super::{Action, Actions, MAX_SUBTREES, Subtree};
    use super::*;
    use crate::ids::{BucketId, InodeId};
    use proptest::prelude::*;

    const ID: ApiKeyId = ApiKeyId::from_bytes([1; 16]);
    const NOW: Timestamp = Timestamp { seconds: 1_000, nanos: 0 };

    fn secret(byte: u8) -> Key {
        Key::from_bytes([byte; 32])
    }

    fn restricted(caveats: &[Caveat]) -> ApiKey {
        let key = ApiKey::create(ID, &secret(1));
        caveats.iter().fold(key, |key, caveat| key.restrict(caveat).unwrap())
    }

    /// A key as newer software would make it.
    fn with_raw_caveat(key: &ApiKey, caveat: &'static [u8]) -> ApiKey {
        let caveats = key.caveats.iter().cloned().chain([Bytes::from_static(caveat)]).collect();
        ApiKey { id: key.id, caveats, tag: hmac(&key.tag, &[caveat]) }
    }

    proptest! {
        #[test]
        fn restricted_keys_verify_and_come_back(caveats in prop::collection::vec(caveat(), 0..5)) {
            let key = restricted(&caveats);
            let bytes = key.serialize();
            prop_assert_eq!(bytes.len(), key.len());
            let parsed = ApiKey::parse(&bytes).unwrap();
            prop_assert_eq!(&parsed, &key);
            prop_assert_eq!(parsed.caveats().collect::<Option<Vec<_>>>(), Some(caveats));
            prop_assert!(parsed.verify(&secret(1)));
            prop_assert!(!parsed.verify(&secret(2)));
        }

        #[test]
        fn nothing_can_be_changed(caveats in prop::collection::vec(caveat(), 0..3), bit in any::<prop::sample::Index>()) {
            let mut bytes = restricted(&caveats).serialize();
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(!ApiKey::parse(&bytes).is_ok_and(|key| key.verify(&secret(1))));
        }

        #[test]
        fn parsing_never_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..300), known in any::<bool>()) {
            if let (true, Some(first)) = (known, bytes.first_mut()) {
                *first = VERSION;
            }
            if let Ok(key) = ApiKey::parse(&bytes) {
                prop_assert_eq!(key.serialize(), bytes);
                prop_assert!(!key.verify(&secret(1)));
                prop_assert!(key.check(NOW).is_ok() || key.caveats().count() > 0);
            }
        }
    }

    #[test]
    fn every_bit_of_a_key_counts() {
        let read_only = Caveat { disallow: Actions::CHANGES, ..Caveat::default() };
        let bytes = restricted(&[read_only]).serialize();
        for bit in 0..bytes.len() * 8 {
            let mut tampered = bytes.clone();
            tampered[bit / 8] ^= 1 << (bit % 8);
            assert!(!ApiKey::parse(&tampered).is_ok_and(|key| key.verify(&secret(1))), "bit {bit}");
        }
    }

    #[test]
    fn a_caveat_cannot_be_taken_away() {
        let read_only = Caveat { disallow: Actions::CHANGES, ..Caveat::default() };
        let key = restricted(std::slice::from_ref(&read_only));
        assert!(!key.check(NOW).unwrap().allows(Action::Write));
        let stripped = ApiKey { caveats: Vec::new(), ..key.clone() };
        assert!(!stripped.verify(&secret(1)));
        let other = restricted(&[Caveat { nonce: Some([1; 16]), ..Caveat::default() }]);
        assert!(!ApiKey { caveats: other.caveats, ..key }.verify(&secret(1)));
    }

    #[test]
    fn an_unknown_caveat_refuses_and_stays() {
        let key = with_raw_caveat(&restricted(&[]), b"\x02from the future");
        let key = ApiKey::parse(&key.serialize()).unwrap();
        assert!(key.verify(&secret(1)));
        assert_eq!(key.check(NOW), Err(Denied::UnknownCaveat));
        let narrower = key.restrict(&Caveat::default()).unwrap();
        assert!(narrower.verify(&secret(1)));
        assert_eq!(narrower.check(NOW), Err(Denied::UnknownCaveat));
        assert_eq!(with_raw_caveat(&restricted(&[]), b"").check(NOW), Err(Denied::UnknownCaveat));
    }

    #[test]
    fn a_revoked_key_kills_its_children_and_nobody_else() {
        let nonce = |byte| Caveat { nonce: Some([byte; 16]), ..Caveat::default() };
        let parent = restricted(&[nonce(1)]);
        let child = parent.restrict(&nonce(2)).unwrap();
        let sibling = restricted(&[nonce(3)]);
        let revoked = parent.tail();
        let dead = |key: &ApiKey| key.tails(&secret(1)).unwrap().contains(&revoked);
        assert!(dead(&parent) && dead(&child));
        assert!(!dead(&sibling) && !dead(&restricted(&[])));
        assert_eq!(child.tails(&secret(1)).unwrap().len(), 3);
        assert_eq!(child.tails(&secret(1)).unwrap().last(), Some(&child.tail()));
        assert_eq!(child.tails(&secret(2)), None);
        assert!(!dead(&restricted(&[nonce(2)])), "the same caveat elsewhere");
    }

    #[test]
    fn limits_hold() {
        let most = restricted(&vec![Caveat::default(); MAX_CAVEATS]);
        assert!(ApiKey::parse(&most.serialize()).is_ok());
        assert_eq!(most.restrict(&Caveat::default()), Err(ApiKeyError::TooLong));
        let more = with_raw_caveat(&most, b"");
        assert_eq!(ApiKey::parse(&more.serialize()), Err(ApiKeyError::Malformed));
        let subtree = Subtree { bucket: BucketId::from_bytes([1; 16]), inode: InodeId::from_bytes([1; 16]) };
        let long = Caveat { subtrees: Some(vec![subtree; MAX_SUBTREES]), ..Caveat::default() };
        let mut key = restricted(&[]);
        let refused = loop {
            match key.restrict(&long) {
                Ok(longer) => key = longer,
                Err(error) => break error,
            }
        };
        assert_eq!(refused, ApiKeyError::TooLong);
        assert!(key.caveats.len() > 5 && ApiKey::parse(&key.serialize()).is_ok());
        let huge = with_raw_caveat(&restricted(&[]), &[1; MAX_CAVEAT_BYTES + 1]);
        assert_eq!(ApiKey::parse(&huge.serialize()), Err(ApiKeyError::Malformed));
        assert_eq!(ApiKey::parse(&[1; MAX_API_KEY_BYTES + 1]), Err(ApiKeyError::TooLong));
        assert_eq!(ApiKey::parse(&[9]), Err(ApiKeyError::Version(9)));
    }

    #[test]
    fn keys_do_not_print() {
        assert_eq!(format!("{:?}", restricted(&[Caveat::default()])), "ApiKey(ApiKeyId(01010101), 1 caveats)");
    }
}
