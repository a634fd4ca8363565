//! A peer's identity: one ed25519 key pair, made once and kept in a file only its owner may read.
//!
//! The public key is the peer's [`NodeId`] or [`SatelliteId`] and gives its libp2p peer id. The file (72 bytes, mode 0600):
//! ```text
//! 0   8  "STRWNID" and the format's version, 1
//! 8  32  secret seed
//! 40 32  public key: a damaged seed is noticed
//! ```

use ed25519_dalek::SigningKey;
use libp2p::PeerId;
use libp2p::identity::{self, Keypair, PublicKey};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use strewn_engine::ids::{NodeId, SatelliteId};
use strewn_engine::secret::Key;
use zeroize::Zeroizing;

const MAGIC: &[u8; 7] = b"STRWNID";
const VERSION: u8 = 1;
const LEN: usize = 72;

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file cannot be read or written.
    #[error("identity {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not an identity, is damaged, or is of a version this program does not know.
    #[error("identity {path}: {reason}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// A key pair. Clones share nothing; each is zeroized when dropped.
#[derive(Clone)]
pub struct Identity {
    seed: Key,
    public: [u8; 32],
}

impl Identity {
    /// An identity from the operating system's randomness, kept nowhere.
    pub fn fresh() -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *seed).expect("the operating system has randomness once it has booted");
        Self::from_seed(&seed)
    }

    /// Opens the identity in `path`; makes and keeps one if there is none. Its directory must exist.
    pub fn open_or_create(path: &Path) -> Result<Self, IdentityError> {
        match Self::open(path) {
            Err(IdentityError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            opened => return opened,
        }
        match Self::create(path) {
            Err(IdentityError::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => Self::open(path),
            created => created,
        }
    }

    /// Opens the identity in `path`.
    pub fn open(path: &Path) -> Result<Self, IdentityError> {
        let failed = |source| IdentityError::Io { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(failed)?;
        if file.metadata().map_err(failed)?.mode() & 0o077 != 0 {
            return Err(invalid(path, "others may read it; its mode must be 0600"));
        }
        let mut bytes = Zeroizing::new([0; LEN + 1]);
        let mut length = 0;
        loop {
            match file.read(&mut bytes[length..]).map_err(failed)? {
                0 => break,
                read => length += read,
            }
        }
        Self::parse(&bytes[..length]).map_err(|reason| invalid(path, reason))
    }

    /// Makes a fresh identity in `path`, durably, unless a file is there already.
    fn create(path: &Path) -> Result<Self, IdentityError> {
        let identity = Self::fresh();
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let draft = path.with_extension(format!("new-{}", std::process::id()));
        let write = || {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
            file.write_all(&*identity.encode())?;
            file.sync_all()?;
            // A link, unlike a rename, never replaces an identity that another process made meanwhile.
            let linked = fs::hard_link(&draft, path);
            fs::remove_file(&draft)?;
            linked?;
            File::open(directory)?.sync_all()
        };
        write().map_err(|source| IdentityError::Io { path: path.to_owned(), source })?;
        Ok(identity)
    }

    fn from_seed(seed: &[u8; 32]) -> Self {
        let public = SigningKey::from_bytes(seed).verifying_key().to_bytes();
        Self { seed: Key::from_bytes(*seed), public }
    }

    fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        let Some((magic, rest)) = bytes.split_first_chunk::<7>() else { return Err("too short") };
        if magic != MAGIC {
            return Err("not an identity");
        }
        match rest.split_first() {
            Some((&VERSION, rest)) if rest.len() == LEN - 8 => {
                let mut seed = Zeroizing::new([0; 32]);
                seed.copy_from_slice(&rest[..32]);
                let identity = Self::from_seed(&seed);
                (identity.public == rest[32..]).then_some(identity).ok_or("damaged")
            }
            Some((&VERSION, _)) => Err("of the wrong length"),
            _ => Err("of a version this program does not know"),
        }
    }

    fn encode(&self) -> Zeroizing<[u8; LEN]> {
        let mut bytes = Zeroizing::new([0; LEN]);
        bytes[..7].copy_from_slice(MAGIC);
        bytes[7] = VERSION;
        bytes[8..40].copy_from_slice(self.seed.as_bytes());
        bytes[40..].copy_from_slice(&self.public);
        bytes
    }

    /// The public key.
    pub fn public(&self) -> &[u8; 32] {
        &self.public
    }

    /// As a storage node's id.
    pub fn node_id(&self) -> NodeId {
        NodeId::from_bytes(self.public)
    }

    /// As a satellite's id.
    pub fn satellite_id(&self) -> SatelliteId {
        SatelliteId::from_bytes(self.public)
    }

    /// As a libp2p peer id.
    pub fn peer_id(&self) -> PeerId {
        self.keypair().public().to_peer_id()
    }

    /// For signing orders, limits and receipts.
    pub fn signing_key(&self) -> SigningKey {
        SigningKey::from_bytes(self.seed.as_bytes())
    }

    /// For libp2p.
    pub(crate) fn keypair(&self) -> Keypair {
        let mut seed = Zeroizing::new(*self.seed.as_bytes());
        Keypair::ed25519_from_bytes(&mut *seed).expect("any 32 bytes are an ed25519 seed")
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({})", self.peer_id())
    }
}

fn invalid(path: &Path, reason: &'static str) -> IdentityError {
    IdentityError::Invalid { path: path.to_owned(), reason }
}

/// The libp2p peer id of an ed25519 public key; `None` if the bytes are no point of the curve.
pub fn peer_id(public: &[u8; 32]) -> Option<PeerId> {
    let key = identity::ed25519::PublicKey::try_from_bytes(public).ok()?;
    Some(PublicKey::from(key).to_peer_id())
}

/// The ed25519 public key within a peer id; `None` for peers with keys of another kind.
pub fn public_key(peer: &PeerId) -> Option<[u8; 32]> {
    const IDENTITY: u64 = 0;
    let hash = peer.as_ref();
    if hash.code() != IDENTITY {
        return None;
    }
    let key = PublicKey::try_decode_protobuf(hash.digest()).ok()?;
    Some(key.try_into_ed25519().ok()?.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn is_made_once_and_kept_private() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("identity");
        let first = Identity::open_or_create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(Identity::open_or_create(&path).unwrap().public(), first.public());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "no draft is left behind");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Identity::open(&path), Err(IdentityError::Invalid { .. })));
    }

    /// What version 1 wrote must stay readable.
    #[test]
    fn reads_version_1() {
        let mut bytes = b"STRWNID\x01".to_vec();
        bytes.extend([7; 32]);
        bytes.extend(data_encoding::HEXLOWER.decode(PUBLIC_OF_SEVENS).unwrap());
        assert_eq!(Identity::parse(&bytes).unwrap().seed.as_bytes(), &[7; 32]);
        for (position, reason) in [(0, "not an identity"), (7, "version"), (9, "damaged"), (71, "damaged")] {
            let mut bad = bytes.clone();
            bad[position] ^= 0x40;
            assert!(Identity::parse(&bad).unwrap_err().contains(reason), "{position}");
        }
        for length in 0..bytes.len() {
            assert!(Identity::parse(&bytes[..length]).is_err());
        }
    }
    const PUBLIC_OF_SEVENS: &[u8] = b"ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c";

    #[test]
    fn peer_ids_carry_the_public_key() {
        let identity = Identity::fresh();
        assert_eq!(peer_id(identity.public()), Some(identity.peer_id()));
        assert_eq!(public_key(&identity.peer_id()), Some(*identity.public()));
        assert_eq!(public_key(&PeerId::random()), None);
    }
}
