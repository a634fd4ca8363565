//! The access grant itself.

use super::caveat::{Caveat, Subtree};
use super::text;
use super::{ApiKey, ApiKeyError, MAX_BUCKET_NAME, MAX_KEYS, MAX_PATH, MAX_SATELLITE};
use crate::bucket::{Kind, Sealed};
use crate::ids::{ApiKeyId, BucketId, InodeId};
use crate::keys::{Derivation, RootSecret, WrongPassphrase};
use crate::secret::Key;
use zeroize::Zeroizing;

/// Everything needed to use a network: whoever holds it can do what it allows and read what it opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessGrant {
    /// Multiaddress of the satellite with its peer id.
    pub satellite: String,
    /// What the satellite checks.
    pub api_key: ApiKey,
    /// What the satellite never sees.
    pub keys: Vec<OpenedKey>,
}

/// A key of a grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpenedKey {
    /// Opens every bucket made under one passphrase.
    Root {
        /// The secret.
        secret: RootSecret,
        /// How the passphrase gives it; goes into buckets that are made with this grant.
        derivation: Derivation,
    },
    /// Opens one inode and everything below it.
    Subtree {
        /// The bucket.
        bucket: BucketId,
        /// The bucket's name.
        bucket_name: String,
        /// The inode.
        inode: InodeId,
        /// Its kind.
        kind: Kind,
        /// Its key.
        key: Key,
        /// Its path when it was shared, for people; empty for a bucket's root.
        path: String,
    },
}

/// Text that is no grant, or a change that makes none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    /// Not a grant at all.
    #[error("this is not an access grant")]
    NotAGrant,
    /// Made by newer software.
    #[error("this access grant is of a newer version")]
    Version,
    /// A character was lost or changed.
    #[error("the access grant is damaged: its checksum does not match; was it copied completely?")]
    Damaged,
    /// The checksum matches but a field is not acceptable.
    #[error("the access grant has an invalid {0}")]
    Invalid(&'static str),
    /// A restriction to subtrees that no key of the grant belongs to: it would open nothing.
    #[error("no key of this access grant opens what it would be restricted to")]
    OpensNothing,
    /// The API key in it, or a restriction of it.
    #[error(transparent)]
    ApiKey(#[from] ApiKeyError),
}

/// Where a grant lets one start in a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// The inode.
    pub inode: InodeId,
    /// Its kind.
    pub kind: Kind,
    /// Its key.
    pub key: Key,
    /// Its path when it was shared; empty for the bucket's root.
    pub path: String,
}

/// What may be shown of a grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// Multiaddress of the satellite.
    pub satellite: String,
    /// Head of the API key.
    pub api_key: ApiKeyId,
    /// Its caveats in order; `None` for one that this software does not know (it will be refused).
    pub caveats: Vec<Option<Caveat>>,
    /// What its keys open.
    pub opens: Vec<Opens>,
}

/// What a key of a grant opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opens {
    /// Every bucket made under one passphrase.
    EveryBucket,
    /// One inode and what is below it.
    Subtree {
        /// The bucket.
        bucket: BucketId,
        /// The bucket's name.
        bucket_name: String,
        /// The inode.
        inode: InodeId,
        /// Its kind.
        kind: Kind,
        /// Its path when it was shared.
        path: String,
    },
}

impl AccessGrant {
    /// The grant as text: one word of lower-case letters and digits, with a checksum. Secret, like the grant.
    ///
    /// # Errors
    /// [`GrantError::Invalid`] if a field is beyond its bounds, so that the text could not be read again.
    pub fn serialize(&self) -> Result<Zeroizing<String>, GrantError> {
        self.check()?;
        text::write(self)
    }

    /// Reads a grant. White space anywhere (a wrapped line) and capitals do no harm.
    pub fn parse(text: &str) -> Result<Self, GrantError> {
        let grant = text::read(text)?;
        grant.check()?;
        Ok(grant)
    }

    /// The grant with one more caveat. If it names subtrees, only keys of exactly these stay: a key must not open what the
    /// satellite may not hand out. To narrow to what lies below, [`share`](Self::share).
    pub fn restrict(&self, caveat: &Caveat) -> Result<Self, GrantError> {
        let mut keys = self.keys.clone();
        if let Some(subtrees) = &caveat.subtrees {
            keys.retain(|key| key.subtree().is_some_and(|subtree| subtrees.contains(&subtree)));
            if keys.is_empty() {
                return Err(GrantError::OpensNothing);
            }
        }
        Ok(Self { satellite: self.satellite.clone(), api_key: self.api_key.restrict(caveat)?, keys })
    }

    /// The grant narrowed to `keys`, all of them subtrees, which become the subtrees of `caveat`.
    pub fn share(&self, caveat: &Caveat, keys: Vec<OpenedKey>) -> Result<Self, GrantError> {
        let subtrees: Option<Vec<Subtree>> = keys.iter().map(OpenedKey::subtree).collect();
        let subtrees = subtrees.filter(|subtrees| !subtrees.is_empty()).ok_or(GrantError::OpensNothing)?;
        let caveat = Caveat { subtrees: Some(subtrees), ..caveat.clone() };
        let shared = Self { satellite: self.satellite.clone(), api_key: self.api_key.restrict(&caveat)?, keys };
        shared.check()?;
        Ok(shared)
    }

    /// Where this grant lets one start in a bucket, best first: its root if a root secret of the grant opens `root_key`,
    /// then the shared subtrees.
    ///
    /// # Errors
    /// [`WrongPassphrase`] if no key of the grant fits the bucket.
    pub fn starts(&self, bucket: BucketId, root: InodeId, root_key: &Sealed) -> Result<Vec<Start>, WrongPassphrase> {
        let mut starts: Vec<Start> = Vec::new();
        for opened in &self.keys {
            match opened {
                OpenedKey::Root { secret, .. } => {
                    if let Ok(key) = secret.bucket_key(bucket).open_root(bucket, root, root_key) {
                        starts.insert(0, Start { inode: root, kind: Kind::Directory, key, path: String::new() });
                    }
                }
                OpenedKey::Subtree { bucket: of, inode, kind, key, path, .. } if *of == bucket => {
                    starts.push(Start { inode: *inode, kind: *kind, key: key.clone(), path: path.clone() });
                }
                OpenedKey::Subtree { .. } => {}
            }
        }
        if starts.is_empty() { Err(WrongPassphrase) } else { Ok(starts) }
    }

    /// What may be shown.
    pub fn inspect(&self) -> Inspection {
        Inspection {
            satellite: self.satellite.clone(),
            api_key: self.api_key.id(),
            caveats: self.api_key.caveats().collect(),
            opens: self.keys.iter().map(OpenedKey::opens).collect(),
        }
    }

    fn check(&self) -> Result<(), GrantError> {
        let printable = !self.satellite.is_empty() && self.satellite.bytes().all(|byte| byte.is_ascii_graphic());
        ensure(printable && self.satellite.len() <= MAX_SATELLITE, "satellite address")?;
        ensure(self.keys.len() <= MAX_KEYS, "number of keys")?;
        for key in &self.keys {
            match key {
                OpenedKey::Root { derivation, .. } => {
                    ensure(Derivation::parse(&derivation.encode()).is_ok(), "key derivation")?;
                }
                OpenedKey::Subtree { bucket_name, path, .. } => {
                    ensure((1..=MAX_BUCKET_NAME).contains(&bucket_name.len()), "bucket name")?;
                    ensure(path.len() <= MAX_PATH, "path")?;
                }
            }
        }
        Ok(())
    }
}

impl OpenedKey {
    /// The subtree it opens; `None` for a root secret.
    pub fn subtree(&self) -> Option<Subtree> {
        match self {
            Self::Root { .. } => None,
            Self::Subtree { bucket, inode, .. } => Some(Subtree { bucket: *bucket, inode: *inode }),
        }
    }

    fn opens(&self) -> Opens {
        match self {
            Self::Root { .. } => Opens::EveryBucket,
            Self::Subtree { bucket, bucket_name, inode, kind, path, .. } => Opens::Subtree {
                bucket: *bucket,
                bucket_name: bucket_name.clone(),
                inode: *inode,
                kind: *kind,
                path: path.clone(),
            },
        }
    }
}

fn ensure(holds: bool, what: &'static str) -> Result<(), GrantError> {
    holds.then_some(()).ok_or(GrantError::Invalid(what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bucket::Timestamp;
    use crate::grant::{Action, Actions, Denied, MAX_GRANT_TEXT};
    use crate::ids::ApiKeyId;
    use proptest::prelude::*;

    const BUCKET: BucketId = BucketId::from_bytes([1; 16]);
    const ROOT: InodeId = InodeId::from_bytes([2; 16]);
    const NOW: Timestamp = Timestamp { seconds: 0, nanos: 0 };

    fn key(byte: u8) -> Key {
        Key::from_bytes([byte; 32])
    }

    fn root(byte: u8) -> OpenedKey {
        OpenedKey::Root { secret: RootSecret::from_key(key(byte)), derivation: Derivation::new([byte; 32]) }
    }

    fn subtree(inode: u8) -> OpenedKey {
        OpenedKey::Subtree {
            bucket: BUCKET,
            bucket_name: "drive".into(),
            inode: InodeId::from_bytes([inode; 16]),
            kind: Kind::Directory,
            key: key(inode),
            path: format!("photos/{inode}"),
        }
    }

    fn grant(keys: Vec<OpenedKey>) -> AccessGrant {
        let api_key = ApiKey::create(ApiKeyId::from_bytes([5; 16]), &key(6));
        AccessGrant { satellite: "/ip4/127.0.0.1/tcp/7777/p2p/12D3KooW".into(), api_key, keys }
    }

    #[test]
    fn text_comes_back_wrapped_capitalised_and_indented() {
        let grant = grant(vec![root(1), subtree(3), subtree(4)]);
        let text = grant.serialize().unwrap();
        assert!(text.starts_with("strewn1") && text.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        assert_eq!(AccessGrant::parse(&text), Ok(grant.clone()));
        let wrapped: Vec<&str> = text.as_bytes().chunks(60).map(|line| std::str::from_utf8(line).unwrap()).collect();
        assert_eq!(AccessGrant::parse(&format!("  {}\r\n", wrapped.join("\n\t"))), Ok(grant.clone()));
        assert_eq!(AccessGrant::parse(&text.to_uppercase()), Ok(grant));
    }

    #[test]
    fn a_lost_or_changed_character_is_noticed() {
        let text = grant(vec![root(1)]).serialize().unwrap();
        for at in 0..text.len() {
            for replacement in ['a', 'z', '2', '0', '!', 'é'] {
                let changed: String =
                    text.chars().enumerate().map(|(n, c)| if n == at { replacement } else { c }).collect();
                assert_eq!(AccessGrant::parse(&changed).is_ok(), changed == *text, "{at} {replacement}");
            }
            let lost: String = text.chars().enumerate().filter(|(n, _)| *n != at).map(|(_, c)| c).collect();
            assert!(AccessGrant::parse(&lost).is_err());
            assert!(AccessGrant::parse(&text[..at]).is_err());
        }
        assert_eq!(AccessGrant::parse(""), Err(GrantError::NotAGrant));
        assert_eq!(AccessGrant::parse("hello world"), Err(GrantError::NotAGrant));
        assert_eq!(AccessGrant::parse(&text.replacen('1', "2", 1)), Err(GrantError::Version));
        assert_eq!(AccessGrant::parse(&text[..text.len() - 8]), Err(GrantError::Damaged));
        assert_eq!(AccessGrant::parse(&"strewn1".repeat(2 * MAX_GRANT_TEXT)), Err(GrantError::NotAGrant));
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in ".{0,80}", letters in "[a-z2-7]{0,200}") {
            prop_assert!(AccessGrant::parse(&text).is_err());
            let text = format!("strewn1{letters}");
            prop_assert!(AccessGrant::parse(&text).is_err());
        }
    }

    #[test]
    fn what_could_not_be_read_again_is_not_written() {
        let bad = [
            AccessGrant { satellite: String::new(), ..grant(vec![]) },
            AccessGrant { satellite: "/ip4/127.0.0.1 /p2p/x".into(), ..grant(vec![]) },
            AccessGrant { satellite: "x".repeat(MAX_SATELLITE + 1), ..grant(vec![]) },
            grant(vec![root(1); MAX_KEYS + 1]),
            grant(vec![OpenedKey::Root {
                secret: RootSecret::from_key(key(1)),
                derivation: Derivation { iterations: 1, ..Derivation::new([0; 32]) },
            }]),
        ];
        for grant in bad {
            assert!(matches!(grant.serialize(), Err(GrantError::Invalid(_))), "{grant:?}");
        }
        let long = |name: usize, length: usize| {
            let mut key = subtree(1);
            if let OpenedKey::Subtree { bucket_name, path, .. } = &mut key {
                (*bucket_name, *path) = ("b".repeat(name), "p".repeat(length));
            }
            grant(vec![key])
        };
        assert!(long(0, 1).serialize().is_err());
        assert!(long(MAX_BUCKET_NAME + 1, 1).serialize().is_err());
        assert!(long(1, MAX_PATH + 1).serialize().is_err());
        let longest = long(MAX_BUCKET_NAME, MAX_PATH);
        assert_eq!(AccessGrant::parse(&longest.serialize().unwrap()), Ok(longest));
        let many = grant(vec![long(1, MAX_PATH).keys.remove(0); MAX_KEYS]);
        assert_eq!(many.serialize().map(|_| ()), Err(GrantError::Invalid("length")));
    }

    #[test]
    fn a_root_secret_opens_the_buckets_of_its_passphrase() {
        let sealed = RootSecret::from_key(key(1)).bucket_key(BUCKET).seal_root(BUCKET, ROOT, &key(9));
        let starts = grant(vec![subtree(3), root(2), root(1)]).starts(BUCKET, ROOT, &sealed).unwrap();
        let found: Vec<_> = starts.iter().map(|start| (start.inode, &start.key, start.path.as_str())).collect();
        assert_eq!(found, [(ROOT, &key(9), ""), (InodeId::from_bytes([3; 16]), &key(3), "photos/3")]);
        assert_eq!(grant(vec![root(2)]).starts(BUCKET, ROOT, &sealed), Err(WrongPassphrase));
        let other = BucketId::from_bytes([7; 16]);
        assert_eq!(grant(vec![root(1), subtree(3)]).starts(other, ROOT, &sealed), Err(WrongPassphrase));
    }

    #[test]
    fn restricting_keeps_no_key_that_opens_more() {
        let both = grant(vec![root(1), subtree(3), subtree(4)]);
        let read_only = Caveat { disallow: Actions::CHANGES, ..Caveat::default() };
        let restricted = both.restrict(&read_only).unwrap();
        assert_eq!(restricted.keys, both.keys);
        assert!(restricted.api_key.verify(&key(6)));
        assert!(!restricted.api_key.check(NOW).unwrap().allows(Action::Write));

        let within =
            |key: &OpenedKey| Caveat { subtrees: key.subtree().map(|subtree| vec![subtree]), ..read_only.clone() };
        assert_eq!(both.restrict(&within(&subtree(4))).unwrap().keys, [subtree(4)]);
        assert_eq!(both.restrict(&within(&subtree(5))), Err(GrantError::OpensNothing));
    }

    #[test]
    fn a_share_holds_only_its_subtrees() {
        let shared = grant(vec![root(1)]).share(&Caveat::default(), vec![subtree(7)]).unwrap();
        assert_eq!(shared.keys, [subtree(7)]);
        let permissions = shared.api_key.check(NOW).unwrap();
        assert_eq!(permissions.subtrees, [vec![subtree(7).subtree().unwrap()]]);
        assert!(!permissions.covers(BUCKET, &[ROOT]));
        assert!(shared.api_key.verify(&key(6)));
        assert_eq!(grant(vec![root(1)]).share(&Caveat::default(), vec![]), Err(GrantError::OpensNothing));
        assert_eq!(grant(vec![root(1)]).share(&Caveat::default(), vec![root(1)]), Err(GrantError::OpensNothing));
        let expired = Caveat { not_after: Some(NOW), ..Caveat::default() };
        let expired = grant(vec![root(1)]).share(&expired, vec![subtree(7)]).unwrap();
        assert_eq!(expired.api_key.check(NOW), Err(Denied::Expired));
    }

    #[test]
    fn inspection_and_debug_show_no_secret() {
        let grant = grant(vec![root(0xab), subtree(0xcd)]).restrict(&Caveat::default()).unwrap();
        let inspection = grant.inspect();
        assert_eq!(inspection.caveats, [Some(Caveat::default())]);
        assert_eq!(inspection.opens[0], Opens::EveryBucket);
        assert!(matches!(&inspection.opens[1], Opens::Subtree { path, .. } if path == "photos/205"));
        let printed = format!("{grant:?}");
        assert_eq!(printed.matches("hidden").count(), 2, "{printed}");
        assert!(printed.contains("ApiKey(ApiKeyId(05050505), 1 caveats)"));
    }
}
