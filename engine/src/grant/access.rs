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
        }
        Ok(Self { satellite: self.satellite.clone(), api_key: self.api_key.restrict(caveat)?, keys })
    }

    /// The grant narrowed to `keys`, all of them subtrees, which become the subtrees of `caveat`.
    pub fn share(&self, caveat: &Caveat, keys: Vec<OpenedKey>) -> Result<Self, GrantError> {
        let subtrees: Option<Vec<Subtree>> = keys.iter().map(OpenedKey::subtree).collect();
        let subtrees = subtrees.filter(|subtrees| !subtrees.is_empty()).ok_or(GrantError::Invalid("share"))?;
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
