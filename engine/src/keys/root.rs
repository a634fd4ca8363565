//! From a passphrase to the key of a bucket's root directory.

use crate::bucket::Sealed;
use crate::ids::{BucketId, InodeId};
use crate::kdf;
use crate::seal::Siv;
use crate::secret::Key;
use argon2::{Algorithm, Argon2, Params, Version};
use zeroize::Zeroizing;

/// How a passphrase becomes a root secret: salt and Argon2id parameters. Stored with the bucket, in the clear.
///
/// ```text
/// version = 1 (1) | salt (32) | memory in KiB (4) | iterations (4) | lanes (4)      integers big-endian
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Derivation {
    /// Drawn at random when the passphrase is set.
    pub salt: [u8; 32],
    /// Memory in KiB: 65,536..=1,048,576.
    pub memory_kib: u32,
    /// Passes over the memory: 3..=16.
    pub iterations: u32,
    /// Lanes: 1..=16.
    pub lanes: u32,
}

/// Bytes or parameters that are no acceptable derivation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDerivation {
    /// Wrong length or version.
    #[error("malformed derivation, or one of a newer version")]
    Malformed,
    /// Cheaper to guess than what this software accepts: whoever stored it may want the passphrase.
    #[error("the derivation is too weak to be trusted with a passphrase")]
    Weak,
    /// Would take minutes or gigabytes.
    #[error("the derivation asks for too much memory or time")]
    Excessive,
}

const DERIVATION_VERSION: u8 = 1;
const DERIVATION_LEN: usize = 1 + 32 + 3 * 4;
const MEMORY_KIB: std::ops::RangeInclusive<u32> = 64 * 1024..=1024 * 1024;
const ITERATIONS: std::ops::RangeInclusive<u32> = 3..=16;
const MAX_LANES: u32 = 16;

impl Derivation {
    /// The default parameters with this salt: 3 passes over 64 MiB in 4 lanes.
    pub const fn new(salt: [u8; 32]) -> Self {
        Self { salt, memory_kib: *MEMORY_KIB.start(), iterations: *ITERATIONS.start(), lanes: 4 }
    }

    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(DERIVATION_LEN);
        bytes.push(DERIVATION_VERSION);
        bytes.extend_from_slice(&self.salt);
        for number in [self.memory_kib, self.iterations, self.lanes] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        bytes
    }

    /// Reads the stored form and checks that its parameters are neither weak nor absurd.
    pub fn parse(bytes: &[u8]) -> Result<Self, InvalidDerivation> {
        let bytes: &[u8; DERIVATION_LEN] = bytes.try_into().map_err(|_| InvalidDerivation::Malformed)?;
        let [DERIVATION_VERSION, rest @ ..] = bytes else { return Err(InvalidDerivation::Malformed) };
        let (salt, numbers) = rest.split_first_chunk().expect("44 bytes hold a salt");
        let number = |at: usize| u32::from_be_bytes([numbers[at], numbers[at + 1], numbers[at + 2], numbers[at + 3]]);
        let derivation = Self { salt: *salt, memory_kib: number(0), iterations: number(4), lanes: number(8) };
        derivation.check()?;
        Ok(derivation)
    }

    fn check(&self) -> Result<(), InvalidDerivation> {
        if self.memory_kib < *MEMORY_KIB.start() || self.iterations < *ITERATIONS.start() || self.lanes == 0 {
            return Err(InvalidDerivation::Weak);
        }
        if self.memory_kib > *MEMORY_KIB.end() || self.iterations > *ITERATIONS.end() || self.lanes > MAX_LANES {
            return Err(InvalidDerivation::Excessive);
        }
        Ok(())
    }
}

/// What a passphrase and its [`Derivation`] give: opens every bucket made under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootSecret(Key);

impl RootSecret {
    /// Runs Argon2id: a tenth of a second or more of CPU and at least 64 MiB of memory.
    pub fn derive(passphrase: &[u8], derivation: &Derivation) -> Result<Self, InvalidDerivation> {
        derivation.check()?;
        let params = Params::new(derivation.memory_kib, derivation.iterations, derivation.lanes, Some(32))
            .map_err(|_| InvalidDerivation::Excessive)?;
        let mut secret = Zeroizing::new([0; 32]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(passphrase, &derivation.salt, secret.as_mut_slice())
            .map_err(|_| InvalidDerivation::Excessive)?;
        Ok(Self(Key::from_bytes(*secret)))
    }

    /// A root secret that was drawn or stored, not derived.
    pub const fn from_key(key: Key) -> Self {
        Self(key)
    }

    /// The secret itself.
    pub const fn key(&self) -> &Key {
        &self.0
    }

    /// The key of one bucket.
    pub fn bucket_key(&self, bucket: BucketId) -> BucketKey {
        BucketKey(Siv::derive(kdf::BUCKET, &[self.0.as_bytes(), bucket.as_bytes()]))
    }
}

/// Seals the key of a bucket's root directory.
pub struct BucketKey(Siv);

/// The sealed key of a root directory does not open: another passphrase (or a lying satellite), never an empty bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("wrong passphrase for this bucket")]
pub struct WrongPassphrase;

impl BucketKey {
    /// Seals the random key of the root directory.
    pub fn seal_root(&self, bucket: BucketId, root_inode: InodeId, key: &Key) -> Sealed {
        self.0.seal_key(&root_place(bucket, root_inode), key)
    }

    /// Opens the key of the root directory.
    pub fn open_root(&self, bucket: BucketId, root_inode: InodeId, sealed: &Sealed) -> Result<Key, WrongPassphrase> {
        self.0.open_key(&root_place(bucket, root_inode), sealed).map_err(|()| WrongPassphrase)
    }
}

impl std::fmt::Debug for BucketKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BucketKey(hidden)")
    }
}

fn root_place(bucket: BucketId, root_inode: InodeId) -> [u8; 32] {
    let mut place = [0; 32];
    place[..16].copy_from_slice(bucket.as_bytes());
    place[16..].copy_from_slice(root_inode.as_bytes());
    place
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BUCKET: BucketId = BucketId::from_bytes([1; 16]);
    const ROOT: InodeId = InodeId::from_bytes([2; 16]);

    fn bucket_key(byte: u8, bucket: BucketId) -> BucketKey {
        RootSecret::from_key(Key::from_bytes([byte; 32])).bucket_key(bucket)
    }

    #[test]
    fn derivations_are_refused_when_weak_or_absurd() {
        let good = Derivation::new([7; 32]);
        assert_eq!(Derivation::parse(&good.encode()), Ok(good.clone()));
        let weak = [
            Derivation { memory_kib: 65_535, ..good.clone() },
            Derivation { iterations: 2, ..good.clone() },
            Derivation { lanes: 0, ..good.clone() },
        ];
        let excessive = [
            Derivation { memory_kib: 1024 * 1024 + 1, ..good.clone() },
            Derivation { iterations: 17, ..good.clone() },
            Derivation { lanes: 17, ..good.clone() },
        ];
        for (list, error) in [(weak, InvalidDerivation::Weak), (excessive, InvalidDerivation::Excessive)] {
            for derivation in list {
                assert_eq!(Derivation::parse(&derivation.encode()), Err(error));
                assert_eq!(RootSecret::derive(b"passphrase", &derivation), Err(error));
            }
        }
        let mut newer = good.encode();
        newer[0] = 2;
        assert_eq!(Derivation::parse(&newer), Err(InvalidDerivation::Malformed));
        assert_eq!(Derivation::parse(&good.encode()[..44]), Err(InvalidDerivation::Malformed));
    }

    #[test]
    fn passphrase_and_salt_both_matter() {
        let secret = |passphrase: &[u8], salt| RootSecret::derive(passphrase, &Derivation::new([salt; 32])).unwrap();
        let right = secret(b"correct horse", 1);
        assert_eq!(secret(b"correct horse", 1), right);
        assert_ne!(secret(b"correct horsf", 1), right);
        assert_ne!(secret(b"correct horse", 2), right);
    }

    #[test]
    fn a_root_key_opens_in_its_place_only() {
        let key = Key::from_bytes([9; 32]);
        let sealed = bucket_key(3, BUCKET).seal_root(BUCKET, ROOT, &key);
        assert_eq!(bucket_key(3, BUCKET).open_root(BUCKET, ROOT, &sealed), Ok(key));
        let (other_bucket, other_root) = (BucketId::from_bytes([8; 16]), InodeId::from_bytes([8; 16]));
        assert_eq!(bucket_key(4, BUCKET).open_root(BUCKET, ROOT, &sealed), Err(WrongPassphrase));
        assert_eq!(bucket_key(3, other_bucket).open_root(BUCKET, ROOT, &sealed), Err(WrongPassphrase));
        assert_eq!(bucket_key(3, BUCKET).open_root(other_bucket, ROOT, &sealed), Err(WrongPassphrase));
        assert_eq!(bucket_key(3, BUCKET).open_root(BUCKET, other_root, &sealed), Err(WrongPassphrase));
        let generation = Sealed { generation: 1, ..sealed.clone() };
        assert_eq!(bucket_key(3, BUCKET).open_root(BUCKET, ROOT, &generation), Err(WrongPassphrase));
        for bit in 0..sealed.bytes.len() * 8 {
            let mut bytes = sealed.bytes.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let tampered = Sealed { generation: 0, bytes: bytes.into() };
            assert_eq!(bucket_key(3, BUCKET).open_root(BUCKET, ROOT, &tampered), Err(WrongPassphrase));
        }
    }

    #[test]
    fn secrets_do_not_print() {
        let secret = RootSecret::from_key(Key::from_bytes([0xab; 32]));
        assert_eq!(format!("{secret:?} {:?}", secret.bucket_key(BUCKET)), "RootSecret(Key(hidden)) BucketKey(hidden)");
    }

    proptest! {
        #[test]
        fn parsing_a_derivation_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(derivation) = Derivation::parse(&bytes) {
                prop_assert_eq!(derivation.encode(), bytes);
            }
        }
    }
}
