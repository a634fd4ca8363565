//! Runs: encrypted stretches of bytes, cut into AEAD blocks.
//!
//! ```text
//! block i of a run:  ciphertext of plaintext bytes i * 65,520 ..  | AEAD tag (16)        full block: 65,536 bytes
//! nonce              0 (4) | i (8)
//! associated data    run id (16) | i (8) | 1 for the last block, else 0 (1)              integers big-endian
//! key                derived from the run's key, one per cipher
//! ```
//! **A run's key encrypts one plaintext, once.** Sealing other bytes under the same key would reuse nonces. What is lost
//! before it was stored is sealed again under a new key, as a new run.

use super::{BLOCK, BLOCK_PLAIN};
use crate::bucket::Cipher;
use crate::ids::RunId;
use crate::kdf;
use crate::seal::Corrupt;
use crate::secret::Key;
use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::aead::{AeadInOut, Error as AeadError, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce};
use chacha20poly1305::ChaCha20Poly1305;
use std::ops::Range;

/// Bytes of the AEAD tag that ends a block.
pub const TAG: usize = 16;

/// Most plaintext bytes of a run: its ciphertext fills the largest segment (64 MiB).
pub const MAX_LENGTH: u64 = (64 << 20) / BLOCK * BLOCK_PLAIN;

/// Number of blocks of a run of `length` plaintext bytes.
pub const fn blocks(length: u64) -> u64 {
    length.div_ceil(BLOCK_PLAIN)
}

/// Ciphertext bytes of a run of `length` plaintext bytes.
pub const fn ciphertext_len(length: u64) -> u64 {
    length.saturating_add(blocks(length) * TAG as u64)
}

/// The block that holds the plaintext byte at `offset` of a run.
pub const fn block_of(offset: u64) -> u64 {
    offset / BLOCK_PLAIN
}

/// Offset in the run of a block's first plaintext byte.
pub const fn block_start(index: u64) -> u64 {
    index.saturating_mul(BLOCK_PLAIN)
}

/// Offset in the run's ciphertext of a block's first byte.
pub const fn ciphertext_start(index: u64) -> u64 {
    index.saturating_mul(BLOCK)
}

/// Plaintext bytes of block `index` of a run of `length` bytes; 0 if there is no such block.
pub const fn block_len(length: u64, index: u64) -> usize {
    let rest = length.saturating_sub(block_start(index));
    if rest < BLOCK_PLAIN { rest as usize } else { BLOCK_PLAIN as usize }
}

/// Ciphertext bytes of block `index` of a run of `length` bytes; 0 if there is no such block.
pub const fn block_ciphertext_len(length: u64, index: u64) -> usize {
    match block_len(length, index) {
        0 => 0,
        plain => plain + TAG,
    }
}

/// The blocks that hold the plaintext bytes `range` of a run.
pub fn covering(range: Range<u64>) -> Range<u64> {
    if range.is_empty() {
        return 0..0;
    }
    block_of(range.start)..block_of(range.end - 1) + 1
}

/// Where the blocks `blocks` lie within the ciphertext of a run of `length` bytes.
pub fn ciphertext_range(length: u64, blocks: Range<u64>) -> Range<u64> {
    let end = ciphertext_len(length);
    ciphertext_start(blocks.start).min(end)..ciphertext_start(blocks.end).min(end)
}

/// The id of the run with this key.
pub fn run_id(key: &Key) -> RunId {
    RunId::from_bytes(*kdf::derive(kdf::RUN_ID, &[key.as_bytes()]))
}

/// Ready cipher state of one run.
pub struct RunCipher {
    aead: Aead,
    run: RunId,
    length: u64,
}

enum Aead {
    Aes256Gcm(Box<Aes256Gcm>),
    ChaCha20Poly1305(ChaCha20Poly1305),
}

impl RunCipher {
    /// Prepares the cipher of a run of `run_length` plaintext bytes.
    pub fn new(cipher: Cipher, key: &Key, run_length: u64) -> Self {
        let derive = |context| kdf::derive::<32>(context, &[key.as_bytes()]);
        let aead = match cipher {
            Cipher::Aes256Gcm => Aead::Aes256Gcm(Box::new(Aes256Gcm::new((&*derive(kdf::RUN_AES_256_GCM)).into()))),
            Cipher::ChaCha20Poly1305 => {
                Aead::ChaCha20Poly1305(ChaCha20Poly1305::new((&*derive(kdf::RUN_CHACHA20_POLY1305)).into()))
            }
        };
        Self { aead, run: run_id(key), length: run_length }
    }

    /// The run.
    pub fn run(&self) -> RunId {
        self.run
    }

    /// Seals block `index`: `block` holds its plaintext and grows by the tag.
    ///
    /// # Panics
    /// If `block` is not exactly as long as block `index` of this run.
    pub fn seal_block(&self, index: u64, block: &mut Vec<u8>) {
        self.expect_len(index, block.len());
        let tag = self.encrypt(index, block.as_mut_slice().into());
        block.extend_from_slice(&tag);
    }

    /// Seals block `index` from `plaintext` into `ciphertext`, which is [`TAG`] bytes longer.
    ///
    /// # Panics
    /// If the lengths are not those of block `index` of this run.
    pub fn seal_block_into(&self, index: u64, plaintext: &[u8], ciphertext: &mut [u8]) {
        self.expect_len(index, plaintext.len());
        assert_eq!(ciphertext.len(), plaintext.len() + TAG, "room for a block and its tag");
        let (body, end) = ciphertext.split_at_mut(plaintext.len());
        let buffer = InOutBuf::new(plaintext, body).expect("both are as long as the plaintext");
        end.copy_from_slice(&self.encrypt(index, buffer));
    }

    /// Opens block `index` in place and returns its plaintext. What is in `block` after a failure is of no use.
    pub fn open_block<'a>(&self, index: u64, block: &'a mut [u8]) -> Result<&'a [u8], Corrupt> {
        let plain = self.check_len(index, block.len())?;
        let (body, tag) = block.split_at_mut(plain);
        self.decrypt(index, (&mut *body).into(), tag)?;
        Ok(body)
    }

    /// Opens block `index` from `ciphertext` into `plaintext`, which is [`TAG`] bytes shorter. What is in `plaintext` after
    /// a failure is of no use.
    pub fn open_block_into(&self, index: u64, ciphertext: &[u8], plaintext: &mut [u8]) -> Result<(), Corrupt> {
        let plain = self.check_len(index, ciphertext.len())?;
        let (body, tag) = ciphertext.split_at(plain);
        let buffer = InOutBuf::new(body, plaintext).map_err(|_| CORRUPT)?;
        self.decrypt(index, buffer, tag)
    }

    fn expect_len(&self, index: u64, length: usize) {
        assert!(length != 0 && length == block_len(self.length, index), "{length} bytes are not block {index}");
    }

    fn check_len(&self, index: u64, length: usize) -> Result<usize, Corrupt> {
        match block_len(self.length, index) {
            0 => Err(CORRUPT),
            plain if plain + TAG == length => Ok(plain),
            _ => Err(CORRUPT),
        }
    }

    fn encrypt(&self, index: u64, buffer: InOutBuf<'_, '_, u8>) -> [u8; TAG] {
        let (nonce, associated) = self.place(index);
        let nonce = Nonce::from(nonce);
        let sealed = match &self.aead {
            Aead::Aes256Gcm(aead) => aead.encrypt_inout_detached(&nonce, &associated, buffer),
            Aead::ChaCha20Poly1305(aead) => aead.encrypt_inout_detached(&nonce, &associated, buffer),
        };
        sealed.expect("a block is far below the limits of both ciphers").into()
    }

    fn decrypt(&self, index: u64, buffer: InOutBuf<'_, '_, u8>, tag: &[u8]) -> Result<(), Corrupt> {
        let (nonce, associated) = self.place(index);
        let nonce = Nonce::from(nonce);
        let tag = tag.try_into().map_err(|_| CORRUPT)?;
        let opened = match &self.aead {
            Aead::Aes256Gcm(aead) => aead.decrypt_inout_detached(&nonce, &associated, buffer, tag),
            Aead::ChaCha20Poly1305(aead) => aead.decrypt_inout_detached(&nonce, &associated, buffer, tag),
        };
        opened.map_err(|AeadError| CORRUPT)
    }

    /// Nonce and associated data of a block.
    fn place(&self, index: u64) -> ([u8; 12], [u8; 25]) {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&index.to_be_bytes());
        let mut associated = [0; 25];
        associated[..16].copy_from_slice(self.run.as_bytes());
        associated[16..24].copy_from_slice(&index.to_be_bytes());
        associated[24] = u8::from(index.saturating_add(1) == blocks(self.length));
        (nonce, associated)
    }
}

const CORRUPT: Corrupt = Corrupt("block");

impl std::fmt::Debug for RunCipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RunCipher({:?}, {} bytes)", self.run, self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CIPHERS: [Cipher; 2] = [Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305];
    const PLAIN: u64 = BLOCK_PLAIN;

    fn key(byte: u8) -> Key {
        Key::from_bytes([byte; 32])
    }

    /// The blocks of a run whose bytes count up.
    fn seal(cipher: Cipher, key: &Key, length: u64) -> Vec<Vec<u8>> {
        let sealer = RunCipher::new(cipher, key, length);
        let plaintext: Vec<u8> = (0..length).map(|at| at as u8).collect();
        let parts = plaintext.chunks(PLAIN as usize).zip(0..);
        parts
            .map(|(part, index)| {
                let mut block = part.to_vec();
                sealer.seal_block(index, &mut block);
                let mut again = vec![0; part.len() + TAG];
                sealer.seal_block_into(index, part, &mut again);
                assert_eq!(block, again);
                block
            })
            .collect()
    }

    fn opens(opener: &RunCipher, index: u64, block: &[u8]) -> Option<Vec<u8>> {
        let mut copy = block.to_vec();
        let mut separate = vec![0; block.len().saturating_sub(TAG)];
        let into = opener.open_block_into(index, block, &mut separate).is_ok();
        let in_place = opener.open_block(index, &mut copy).ok();
        assert_eq!(in_place.is_some(), into);
        assert!(in_place.is_none_or(|plaintext| plaintext == separate));
        into.then_some(separate)
    }

    #[test]
    fn geometry_of_the_borders() {
        for (length, count, ciphertext) in [
            (0, 0, 0),
            (1, 1, 17),
            (PLAIN - 1, 1, BLOCK - 1),
            (PLAIN, 1, BLOCK),
            (PLAIN + 1, 2, BLOCK + 17),
            (MAX_LENGTH, 1024, 64 << 20),
        ] {
            assert_eq!((blocks(length), ciphertext_len(length)), (count, ciphertext), "{length}");
        }
        assert_eq!(covering(0..0), 0..0);
        assert_eq!(covering(PLAIN - 1..PLAIN + 1), 0..2);
        assert_eq!(covering(PLAIN..2 * PLAIN), 1..2);
        assert_eq!(ciphertext_range(PLAIN + 1, 0..2), 0..BLOCK + 17);
        assert_eq!(ciphertext_range(PLAIN + 1, 1..2), BLOCK..BLOCK + 17);
        assert_eq!(ciphertext_range(PLAIN + 1, 2..9), BLOCK + 17..BLOCK + 17);
        assert_eq!((block_of(PLAIN), block_start(1), ciphertext_start(1)), (1, PLAIN, BLOCK));
    }

    proptest! {
        #[test]
        fn blocks_cover_a_run_exactly(length in prop_oneof![0..4 * PLAIN, any::<u64>()], index in any::<u64>()) {
            let count = blocks(length);
            prop_assert_eq!(block_len(length, count), 0);
            prop_assert_eq!(block_ciphertext_len(length, index) > 0, index < count);
            if count < 10 {
                let total: usize = (0..count).map(|index| block_len(length, index)).sum();
                prop_assert_eq!(total as u64, length);
                let total: usize = (0..count).map(|index| block_ciphertext_len(length, index)).sum();
                prop_assert_eq!(total as u64, ciphertext_len(length));
            }
        }

        #[test]
        fn opening_never_panics(
            length in any::<u64>(), index in any::<u64>(), block in prop::collection::vec(any::<u8>(), 0..40)
        ) {
            for cipher in CIPHERS {
                prop_assert_eq!(opens(&RunCipher::new(cipher, &key(1), length), index, &block), None);
            }
        }
    }

    #[test]
    fn blocks_come_back() {
        for cipher in CIPHERS {
            for length in [1, 100, PLAIN, PLAIN + 1, 2 * PLAIN] {
                let opener = RunCipher::new(cipher, &key(1), length);
                let opened = seal(cipher, &key(1), length).into_iter().zip(0..);
                let opened = opened.map(|(block, index)| opens(&opener, index, &block).unwrap());
                let plaintext: Vec<u8> = opened.flatten().collect();
                assert!(plaintext.iter().copied().eq((0..length).map(|at| at as u8)));
            }
        }
    }

    #[test]
    fn every_bit_of_a_block_counts() {
        for cipher in CIPHERS {
            let opener = RunCipher::new(cipher, &key(1), 40);
            let block = seal(cipher, &key(1), 40).remove(0);
            for bit in 0..block.len() * 8 {
                let mut tampered = block.clone();
                tampered[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(opens(&opener, 0, &tampered), None);
            }
            assert_eq!(opens(&opener, 0, &block[..55]), None);
            assert_eq!(opens(&opener, 0, &[&block[..], &[0]].concat()), None);
        }
    }

    #[test]
    fn a_block_opens_in_its_place_only() {
        for cipher in CIPHERS {
            let blocks = seal(cipher, &key(1), 3 * PLAIN);
            let right = RunCipher::new(cipher, &key(1), 3 * PLAIN);
            assert!(opens(&right, 1, &blocks[1]).is_some());
            assert_eq!(opens(&right, 0, &blocks[1]), None, "another index");
            assert_eq!(opens(&right, 3, &blocks[1]), None, "beyond the end");
            assert_eq!(opens(&RunCipher::new(cipher, &key(2), 3 * PLAIN), 1, &blocks[1]), None, "another run");
            assert_eq!(opens(&RunCipher::new(cipher, &key(1), 2 * PLAIN), 1, &blocks[1]), None, "a truncated run");
            assert_eq!(opens(&RunCipher::new(cipher, &key(1), 4 * PLAIN), 2, &blocks[2]), None, "a lengthened run");
        }
        let block = seal(Cipher::Aes256Gcm, &key(1), 9).remove(0);
        assert_eq!(opens(&RunCipher::new(Cipher::ChaCha20Poly1305, &key(1), 9), 0, &block), None, "another cipher");
    }

    #[test]
    #[should_panic(expected = "are not block 0")]
    fn sealing_a_block_of_the_wrong_length_panics() {
        RunCipher::new(Cipher::Aes256Gcm, &key(1), 10).seal_block(0, &mut vec![0; 9]);
    }

    #[test]
    fn ids_derive_from_keys_and_nothing_prints() {
        assert_eq!(run_id(&key(1)), run_id(&key(1)));
        assert_ne!(run_id(&key(1)), run_id(&key(2)));
        let printed = format!("{:?}", RunCipher::new(Cipher::Aes256Gcm, &key(1), 10));
        assert_eq!(printed, format!("RunCipher({:?}, 10 bytes)", run_id(&key(1))));
    }
}
