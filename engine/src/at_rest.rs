//! Encryption of files of this machine that change in place: the journal and the data files of a cache.
//!
//! AES-256-XTS (IEEE 1619) in sectors of 4 KiB, with keys of its own for each file. It keeps lengths and offsets, and any block
//! of 16 bytes can be changed without the others, so a write that is torn damages nothing but itself. It hides content and
//! does not authenticate it: who may write to the disk may garble blocks, and who sees it again and again may see which
//! blocks changed.
//!
//! The block cipher is the `aes` crate's. The mode is here because the crates for XTS work on whole sectors, and a change of
//! 16 bytes must not cost a sector.
//!
//! **Zeros are zeros.** A block of zeros in the file reads as zeros, so that holes stay holes; and sectors of zeros are
//! written as zeros. That a block encrypts to zeros by chance has odds of 2^-128.

use crate::bucket::Sealed;
use crate::ids::{BucketId, InodeId};
use crate::kdf;
use crate::seal::{Corrupt, Siv};
use crate::secret::Key;
use aes::cipher::{Array, BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use aes::{Aes256, Block};

/// Offsets and lengths that are encrypted are multiples of this many bytes.
pub const BLOCK: usize = 16;
/// Bytes of a sector: a multiple of the block, and what is written as zeros if it is zeros.
pub const SECTOR: usize = 4096;

/// Seals the key of a cache under the key of the directory that it shows.
pub fn seal_cache_key(directory: &Key, bucket: BucketId, root: InodeId, key: &Key) -> Sealed {
    cache_key_siv(directory).seal_key(&cache_key_place(bucket, root), key)
}

/// Opens the key of a cache. Fails for one that was sealed under another directory's key, or for another place.
pub fn open_cache_key(directory: &Key, bucket: BucketId, root: InodeId, sealed: &Sealed) -> Result<Key, Corrupt> {
    cache_key_siv(directory).open_key(&cache_key_place(bucket, root), sealed).map_err(|()| Corrupt("cache key"))
}

fn cache_key_siv(directory: &Key) -> Siv {
    Siv::derive(kdf::CACHE_KEY, &[directory.as_bytes()])
}

fn cache_key_place(bucket: BucketId, root: InodeId) -> [u8; 32] {
    let mut place = [0; 32];
    place[..16].copy_from_slice(bucket.as_bytes());
    place[16..].copy_from_slice(root.as_bytes());
    place
}

/// Encrypts one file.
pub struct FileCipher {
    blocks: Aes256,
    tweaks: Aes256,
}

impl FileCipher {
    /// The cipher of the file of this name, under the key of its cache.
    pub fn new(cache: &Key, name: &str) -> Self {
        Self::with_keys(&kdf::derive(kdf::CACHE_FILES, &[cache.as_bytes(), name.as_bytes()]))
    }

    fn with_keys(keys: &[u8; 64]) -> Self {
        let (blocks, tweaks) = keys.split_at(32);
        let cipher = |key: &[u8]| Aes256::new_from_slice(key).expect("32 bytes");
        Self { blocks: cipher(blocks), tweaks: cipher(tweaks) }
    }

    /// Encrypts what is to be written at an offset, in place. Both are multiples of [`BLOCK`].
    pub fn encrypt(&self, offset: u64, bytes: &mut [u8]) {
        self.each_sector(offset, bytes, |tweaks, part| {
            if part.len() < SECTOR || part.iter().any(|&byte| byte != 0) {
                mask(tweaks, part);
                self.blocks.encrypt_blocks(blocks_of(part));
                mask(tweaks, part);
            }
        });
    }

    /// Decrypts what was read at an offset, in place. Both are multiples of [`BLOCK`].
    pub fn decrypt(&self, offset: u64, bytes: &mut [u8]) {
        self.each_sector(offset, bytes, |tweaks, part| {
            let mut zeros = [false; SECTOR / BLOCK];
            for (zero, block) in zeros.iter_mut().zip(part.chunks_exact(BLOCK)) {
                *zero = block.iter().all(|&byte| byte == 0);
            }
            mask(tweaks, part);
            self.blocks.decrypt_blocks(blocks_of(part));
            mask(tweaks, part);
            for (_, block) in zeros.iter().zip(part.chunks_exact_mut(BLOCK)).filter(|(zero, _)| **zero) {
                block.fill(0);
            }
        });
    }

    fn each_sector(&self, offset: u64, bytes: &mut [u8], mut work: impl FnMut(&[u128], &mut [u8])) {
        assert!(offset.is_multiple_of(BLOCK as u64) && bytes.len().is_multiple_of(BLOCK), "whole blocks");
        let (mut at, mut rest) = (offset, bytes);
        let mut tweaks = [0; SECTOR / BLOCK];
        while !rest.is_empty() {
            let within = (at % SECTOR as u64) as usize;
            let (part, more) = rest.split_at_mut((SECTOR - within).min(rest.len()));
            let tweaks = &mut tweaks[..part.len() / BLOCK];
            self.tweaks(at / SECTOR as u64, within / BLOCK, tweaks);
            work(tweaks, part);
            at += part.len() as u64;
            rest = more;
        }
    }

    /// The tweaks of the blocks of a sector, from the block `first` on.
    fn tweaks(&self, sector: u64, first: usize, tweaks: &mut [u128]) {
        let mut block: Block = Array(u128::from(sector).to_le_bytes());
        self.tweaks.encrypt_block(&mut block);
        let mut tweak = u128::from_le_bytes(block.0);
        (0..first).for_each(|_| tweak = next(tweak));
        for place in tweaks {
            *place = tweak;
            tweak = next(tweak);
        }
    }
}

impl std::fmt::Debug for FileCipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FileCipher(hidden)")
    }
}

/// Multiplies by x in GF(2^128), with the polynomial x^128 + x^7 + x^2 + x + 1.
fn next(tweak: u128) -> u128 {
    (tweak << 1) ^ ((tweak >> 127) * 0x87)
}

fn mask(tweaks: &[u128], bytes: &mut [u8]) {
    for (tweak, block) in tweaks.iter().zip(bytes.chunks_exact_mut(BLOCK)) {
        for (byte, mask) in block.iter_mut().zip(tweak.to_le_bytes()) {
            *byte ^= mask;
        }
    }
}

fn blocks_of(bytes: &mut [u8]) -> &mut [Block] {
    Block::slice_as_chunks_mut(bytes).0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hex(text: &str) -> Vec<u8> {
        data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap()
    }

    /// IEEE 1619-2007, XTS-AES-256, vector 10: 512 bytes 00 01 … ff 00 … of data unit 0xff.
    #[test]
    fn is_xts() {
        let keys = hex(concat!(
            "27182818284590452353602874713526",
            "62497757247093699959574966967627",
            "31415926535897932384626433832795",
            "02884197169399375105820974944592"
        ));
        let cipher = FileCipher::with_keys(&keys.try_into().unwrap());
        let plain: Vec<u8> = (0..512).map(|number| number as u8).collect();
        let mut bytes = plain.clone();
        cipher.encrypt(0xff * SECTOR as u64, &mut bytes);
        assert_eq!(bytes[..32], hex("1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b"));
        cipher.decrypt(0xff * SECTOR as u64, &mut bytes);
        assert_eq!(bytes, plain);
    }

    /// What was written by the first version: it stays readable.
    #[test]
    fn old_bytes_stay_readable() {
        let cipher = FileCipher::new(&Key::from_bytes([7; 32]), "data/01/file");
        let mut bytes = hex(OLD);
        cipher.decrypt(4080, &mut bytes);
        assert_eq!(bytes, b"the first blocks of a journal...");
        let (bucket, root) = (BucketId::from_bytes([1; 16]), InodeId::from_bytes([2; 16]));
        let sealed = Sealed { generation: 0, bytes: hex(OLD_KEY).into() };
        let opened = open_cache_key(&Key::from_bytes([3; 32]), bucket, root, &sealed);
        assert_eq!(opened, Ok(Key::from_bytes([4; 32])));
    }

    const OLD: &str = "244290b6ecab45cecdf4460f8a114fbea4d6e1190e182607a6090388f4827351";
    const OLD_KEY: &str =
        "94dd646ed61a2194b725a36c9c085e9d6482a90eb23f1de82effc67dd9523aa7c05a2cec14160cd2bb17f906a64f8ed0";

    #[test]
    fn a_cache_key_opens_in_its_place_alone() {
        let (bucket, root) = (BucketId::from_bytes([1; 16]), InodeId::from_bytes([2; 16]));
        let (directory, key) = (Key::from_bytes([3; 32]), Key::from_bytes([4; 32]));
        let sealed = seal_cache_key(&directory, bucket, root, &key);
        assert_eq!(open_cache_key(&directory, bucket, root, &sealed), Ok(key));
        assert!(open_cache_key(&Key::from_bytes([5; 32]), bucket, root, &sealed).is_err());
        assert!(open_cache_key(&directory, bucket, InodeId::from_bytes([6; 16]), &sealed).is_err());
        assert!(open_cache_key(&directory, BucketId::from_bytes([6; 16]), root, &sealed).is_err());
    }

    #[test]
    fn zeros_are_zeros() {
        let cipher = FileCipher::new(&Key::from_bytes([7; 32]), "file");
        let mut bytes = vec![0; 3 * SECTOR];
        bytes[SECTOR + 100] = 1;
        let plain = bytes.clone();
        cipher.encrypt(0, &mut bytes);
        assert!(bytes[..SECTOR].iter().chain(&bytes[2 * SECTOR..]).all(|&byte| byte == 0));
        assert!(bytes[SECTOR..2 * SECTOR].chunks(BLOCK).all(|block| block != [0; BLOCK]));
        cipher.decrypt(0, &mut bytes);
        assert_eq!(bytes, plain);
    }

    proptest! {
        #[test]
        fn blocks_stand_alone(
            sector in 0u64..1 << 40,
            first in 0usize..256,
            content in prop::collection::vec(any::<[u8; BLOCK]>(), 1..600),
        ) {
            let cipher = FileCipher::new(&Key::from_bytes([7; 32]), "file");
            let offset = sector * SECTOR as u64 + (first * BLOCK) as u64;
            let plain = content.concat();
            let mut whole = plain.clone();
            cipher.encrypt(offset, &mut whole);
            for (number, block) in content.iter().enumerate() {
                let mut alone = *block;
                cipher.encrypt(offset + (number * BLOCK) as u64, &mut alone);
                prop_assert_eq!(&whole[number * BLOCK..][..BLOCK], &alone[..]);
            }
            let mut other = plain.clone();
            FileCipher::new(&Key::from_bytes([7; 32]), "other").encrypt(offset, &mut other);
            prop_assert!(other.chunks(BLOCK).zip(whole.chunks(BLOCK)).all(|(other, here)| other != here));
            cipher.decrypt(offset, &mut whole);
            prop_assert_eq!(whole, plain);
        }
    }
}
