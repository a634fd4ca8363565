//! Key derivation: one purpose, one key.
//!
//! BLAKE3's `derive_key` and not HKDF-SHA256: every secret derived from here is uniformly random already (Argon2id's
//! output or 256 drawn bits), which is all that `derive_key` asks; its context is exactly our "one label per purpose"; it
//! gives keys of any length in one call at a third of the time, which a listing of a large directory pays once per
//! entry; and BLAKE3 is here anyway. Contexts never change and are never used for a second purpose.

use zeroize::{Zeroize, Zeroizing};

/// AES-256-SIV key that seals root directory keys, from root secret and bucket id.
pub(crate) const BUCKET: &str = "strewn v1 bucket key";
/// AES-256-SIV key of names, from a directory's key.
pub(crate) const NAMES: &str = "strewn v1 directory names";
/// AES-256-SIV key of child keys, from a directory's key.
pub(crate) const CHILD_KEYS: &str = "strewn v1 directory child keys";
/// AES-256-SIV key of inode records, from an inode's key.
pub(crate) const RECORDS: &str = "strewn v1 inode records";
/// AES-256-SIV key of run keys, from an inode's key.
pub(crate) const RUN_KEYS: &str = "strewn v1 inode run keys";
/// BLAKE3 key of window tags, from an inode's key.
pub(crate) const WINDOW_TAGS: &str = "strewn v1 inode window tags";
/// Run id, from a run's key.
pub(crate) const RUN_ID: &str = "strewn v1 run id";
/// AES-256-GCM key of a run's blocks, from the run's key.
pub(crate) const RUN_AES_256_GCM: &str = "strewn v1 run blocks AES-256-GCM";
/// ChaCha20-Poly1305 key of a run's blocks, from the run's key.
pub(crate) const RUN_CHACHA20_POLY1305: &str = "strewn v1 run blocks ChaCha20-Poly1305";
/// AES-256-SIV key of the key of a cache on this machine, from the key of the directory that it shows.
pub(crate) const CACHE_KEY: &str = "strewn v1 cache key";
/// AES-256-XTS keys of a file of a cache, from the cache's key and the file's name.
pub(crate) const CACHE_FILES: &str = "strewn v1 cache files AES-256-XTS";
/// Hash over the tags of a file's windows (no secret goes in).
pub(crate) const CONTENT: &str = "strewn v1 content hash";
/// Public name of an API key, from its last tag.
pub(crate) const API_KEY_TAIL: &str = "strewn v1 api key tail";
/// Checksum of an access grant's text.
pub(crate) const GRANT_CHECKSUM: &str = "strewn v1 access grant checksum";

/// Derives `N` bytes for the purpose `context` from `parts`, one after the other. At most one part may vary in length.
pub(crate) fn derive<const N: usize>(context: &'static str, parts: &[&[u8]]) -> Zeroizing<[u8; N]> {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    for part in parts {
        hasher.update(part);
    }
    let mut output = Zeroizing::new([0; N]);
    hasher.finalize_xof().fill(output.as_mut_slice());
    hasher.zeroize();
    output
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_two_purposes_share_a_context() {
        let all = [
            BUCKET,
            NAMES,
            CHILD_KEYS,
            RECORDS,
            RUN_KEYS,
            WINDOW_TAGS,
            RUN_ID,
            RUN_AES_256_GCM,
            RUN_CHACHA20_POLY1305,
            CACHE_KEY,
            CACHE_FILES,
            CONTENT,
            API_KEY_TAIL,
            GRANT_CHECKSUM,
        ];
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
    }

    #[test]
    fn is_blake3_derive_key() {
        assert_eq!(*derive::<32>(NAMES, &[b"some", b" key"]), blake3::derive_key(NAMES, b"some key"));
    }
}
