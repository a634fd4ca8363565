//! The text of a grant.
//!
//! ```text
//! "strewn1" | base32 of ( postcard of Body | checksum (8) )
//! ```
//! Base32 (RFC 4648, lower case, no padding): a double click selects all of it, no shell or URL minds it, it has no 0, 1, 8
//! or 9 to mistake, and it survives being wrapped or capitalised. The digit is the version; the checksum is over prefix
//! and body.

use super::access::{AccessGrant, GrantError, OpenedKey};
use super::{ApiKey, MAX_BUCKET_NAME, MAX_GRANT_TEXT, MAX_PATH, MAX_SATELLITE};
use crate::bucket::Kind;
use crate::ids::{BucketId, InodeId};
use crate::kdf;
use crate::keys::{Derivation, RootSecret};
use crate::secret::Key;
use data_encoding::BASE32_NOPAD;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use zeroize::Zeroizing;

const NAME: &str = "strewn";
const VERSION: &str = "1";
const CHECKSUM: usize = 8;
/// Most bytes of an encoded [`BodyKey`]: two ids, a key, a derivation, name, path, and their lengths.
const MAX_BODY_KEY: usize = 16 + 16 + 32 + 64 + MAX_BUCKET_NAME + MAX_PATH + 16;

#[derive(Serialize, Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    satellite: Cow<'a, str>,
    api_key: &'a [u8],
    #[serde(borrow)]
    keys: Vec<BodyKey<'a>>,
}

#[derive(Serialize, Deserialize)]
enum BodyKey<'a> {
    Root { secret: &'a [u8], derivation: &'a [u8] },
    Subtree { bucket: BucketId, bucket_name: &'a str, inode: InodeId, kind: Kind, key: &'a [u8], path: &'a str },
}

pub(super) fn write(grant: &AccessGrant) -> Result<Zeroizing<String>, GrantError> {
    let api_key = Zeroizing::new(grant.api_key.serialize());
    let derivations: Vec<Vec<u8>> = grant.keys.iter().map(derivation_bytes).collect();
    let keys = grant.keys.iter().zip(&derivations).map(|(key, derivation)| body_key(key, derivation)).collect();
    let body = Body { satellite: grant.satellite.as_str().into(), api_key: &api_key, keys };
    // Room for everything at once, so that growing leaves no copy of a secret behind.
    let room = Vec::with_capacity(api_key.len() + MAX_SATELLITE + grant.keys.len() * MAX_BODY_KEY + 64);
    let mut bytes = Zeroizing::new(postcard::to_extend(&body, room).expect("plain structs encode"));
    let checksum = checksum(&bytes);
    bytes.extend_from_slice(&checksum);
    let mut text = Zeroizing::new(String::with_capacity(NAME.len() + VERSION.len() + bytes.len() * 2));
    text.push_str(NAME);
    text.push_str(VERSION);
    BASE32_NOPAD.encode_append(&bytes, &mut text);
    text.make_ascii_lowercase();
    (text.len() <= MAX_GRANT_TEXT).then_some(text).ok_or(GrantError::Invalid("length"))
}

pub(super) fn read(text: &str) -> Result<AccessGrant, GrantError> {
    // Twice the limit leaves room for white space without copying without bound.
    if text.len() > 2 * MAX_GRANT_TEXT {
        return Err(GrantError::NotAGrant);
    }
    let mut word = Zeroizing::new(String::with_capacity(text.len()));
    word.extend(text.chars().filter(|character| !character.is_whitespace()).map(|c| c.to_ascii_uppercase()));
    if word.len() > MAX_GRANT_TEXT {
        return Err(GrantError::NotAGrant);
    }
    let coded = strip_prefix(&word)?;
    let bytes = Zeroizing::new(BASE32_NOPAD.decode(coded.as_bytes()).map_err(|_| GrantError::Damaged)?);
    let (body, sum) = bytes.split_last_chunk::<CHECKSUM>().ok_or(GrantError::Damaged)?;
    if checksum(body) != *sum {
        return Err(GrantError::Damaged);
    }
    let (body, rest) = postcard::take_from_bytes::<Body<'_>>(body).map_err(|_| GrantError::Invalid("encoding"))?;
    if !rest.is_empty() {
        return Err(GrantError::Invalid("encoding"));
    }
    let keys = body.keys.iter().map(opened_key).collect::<Result<_, _>>()?;
    Ok(AccessGrant { satellite: body.satellite.into_owned(), api_key: ApiKey::parse(body.api_key)?, keys })
}

fn strip_prefix(word: &str) -> Result<&str, GrantError> {
    let (name, rest) = word.split_at_checked(NAME.len()).ok_or(GrantError::NotAGrant)?;
    if !name.eq_ignore_ascii_case(NAME) {
        return Err(GrantError::NotAGrant);
    }
    match rest.strip_prefix(VERSION) {
        Some(coded) => Ok(coded),
        None if rest.starts_with(|c: char| c.is_ascii_digit()) => Err(GrantError::Version),
        None => Err(GrantError::NotAGrant),
    }
}

fn checksum(body: &[u8]) -> [u8; CHECKSUM] {
    *kdf::derive(kdf::GRANT_CHECKSUM, &[VERSION.as_bytes(), body])
}

fn derivation_bytes(key: &OpenedKey) -> Vec<u8> {
    match key {
        OpenedKey::Root { derivation, .. } => derivation.encode(),
        OpenedKey::Subtree { .. } => Vec::new(),
    }
}

fn body_key<'a>(key: &'a OpenedKey, derivation: &'a [u8]) -> BodyKey<'a> {
    match key {
        OpenedKey::Root { secret, .. } => BodyKey::Root { secret: secret.key().as_bytes(), derivation },
        OpenedKey::Subtree { bucket, bucket_name, inode, kind, key, path } => {
            BodyKey::Subtree { bucket: *bucket, bucket_name, inode: *inode, kind: *kind, key: key.as_bytes(), path }
        }
    }
}

fn opened_key(key: &BodyKey<'_>) -> Result<OpenedKey, GrantError> {
    let secret = |bytes: &[u8]| bytes.try_into().map(Key::from_bytes).map_err(|_| GrantError::Invalid("key"));
    Ok(match key {
        BodyKey::Root { secret: bytes, derivation } => OpenedKey::Root {
            secret: RootSecret::from_key(secret(bytes)?),
            derivation: Derivation::parse(derivation).map_err(|_| GrantError::Invalid("key derivation"))?,
        },
        BodyKey::Subtree { bucket, bucket_name, inode, kind, key, path } => OpenedKey::Subtree {
            bucket: *bucket,
            bucket_name: (*bucket_name).to_owned(),
            inode: *inode,
            kind: *kind,
            key: secret(key)?,
            path: (*path).to_owned(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grant::Caveat;
    use crate::ids::ApiKeyId;
    use proptest::prelude::*;

    /// Text with a true checksum over whatever the body is.
    fn text(body: &[u8]) -> String {
        let coded = BASE32_NOPAD.encode(&[body, &checksum(body)].concat());
        format!("{NAME}{VERSION}{}", coded.to_ascii_lowercase())
    }

    fn valid_body() -> Vec<u8> {
        let key = || Key::from_bytes([1; 32]);
        let api_key = ApiKey::create(ApiKeyId::from_bytes([2; 16]), &key()).restrict(&Caveat::default()).unwrap();
        let root = OpenedKey::Root { secret: RootSecret::from_key(key()), derivation: Derivation::new([3; 32]) };
        let subtree = OpenedKey::Subtree {
            bucket: BucketId::from_bytes([4; 16]),
            bucket_name: "drive".into(),
            inode: InodeId::from_bytes([5; 16]),
            kind: Kind::File,
            key: key(),
            path: "a/b".into(),
        };
        let grant = AccessGrant { satellite: "/ip4/127.0.0.1/p2p/x".into(), api_key, keys: vec![root, subtree] };
        let written = write(&grant).unwrap();
        let coded = written.strip_prefix("strewn1").unwrap().to_ascii_uppercase();
        let bytes = BASE32_NOPAD.decode(coded.as_bytes()).unwrap();
        let body = bytes[..bytes.len() - CHECKSUM].to_vec();
        assert_eq!(text(&body), *written);
        assert_eq!(read(&written), Ok(grant));
        body
    }

    proptest! {
        #[test]
        fn no_body_makes_it_panic(body in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(!matches!(read(&text(&body)), Err(GrantError::Damaged | GrantError::NotAGrant)));
        }

        #[test]
        fn no_change_of_a_valid_body_makes_it_panic(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut body = valid_body();
            prop_assert!(read(&text(&body[..cut.index(body.len())])).is_err());
            body.push(0);
            prop_assert_eq!(read(&text(&body)), Err(GrantError::Invalid("encoding")));
            body.pop();
            for (at, byte) in changes {
                let at = at.index(body.len());
                body[at] = byte;
            }
            // What reads is written as something that reads as the same.
            if let Ok(grant) = AccessGrant::parse(&text(&body)) {
                prop_assert_eq!(AccessGrant::parse(&grant.serialize().unwrap()), Ok(grant));
            }
        }
    }
}
