//! AES-256-SIV: deterministic authenticated encryption of small things, without nonces to get wrong.

use crate::bucket::Sealed;
use crate::kdf;
use crate::secret::Key;
use aes_siv::KeyInit;
use aes_siv::siv::Aes256Siv;
use parking_lot::Mutex;
use zeroize::Zeroizing;

/// Bytes that a seal adds, in front of the ciphertext.
pub(crate) const SIV: usize = 16;

/// The only generation of keys so far.
pub(crate) const GENERATION: u32 = 0;

/// What came from the network does not authenticate, or authenticates and breaks the format's rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[error("corrupt {0}")]
pub struct Corrupt(pub &'static str);

/// Ready state of one derived key. The state is reused because expanding the key costs more than sealing a name.
pub(crate) struct Siv(Mutex<Aes256Siv>);

impl Siv {
    /// Derives the key for one purpose.
    pub(crate) fn derive(context: &'static str, parts: &[&[u8]]) -> Self {
        let key = kdf::derive::<64>(context, parts);
        Self(Mutex::new(Aes256Siv::new((&*key).into())))
    }

    /// Seals `plaintext`, bound to `associated`: 16 bytes longer.
    pub(crate) fn seal(&self, associated: &[u8], plaintext: &[u8]) -> Vec<u8> {
        let mut sealed = Vec::with_capacity(SIV + plaintext.len());
        sealed.extend_from_slice(&[0; SIV]);
        sealed.extend_from_slice(plaintext);
        let (siv, body) = sealed.split_at_mut(SIV);
        let tag = self.0.lock().encrypt_inout_detached([associated], body.into());
        siv.copy_from_slice(&tag.expect("one header is below the limit of 126"));
        sealed
    }

    /// Opens `sealed` into `plaintext`, which must be 16 bytes shorter. On failure nothing of the plaintext shows.
    pub(crate) fn open(&self, associated: &[u8], sealed: &[u8], plaintext: &mut [u8]) -> Result<(), ()> {
        let (siv, body) = sealed.split_at_checked(SIV).ok_or(())?;
        if body.len() != plaintext.len() {
            return Err(());
        }
        plaintext.copy_from_slice(body);
        let siv = siv.try_into().map_err(|_| ())?;
        self.0.lock().decrypt_inout_detached([associated], plaintext.into(), siv).map_err(|_| ())
    }

    /// Seals a key as a row.
    pub(crate) fn seal_key(&self, associated: &[u8], key: &Key) -> Sealed {
        Sealed { generation: GENERATION, bytes: self.seal(associated, key.as_bytes()).into() }
    }

    /// Opens a key that was sealed as a row.
    pub(crate) fn open_key(&self, associated: &[u8], sealed: &Sealed) -> Result<Key, ()> {
        if sealed.generation != GENERATION {
            return Err(());
        }
        let mut key = Zeroizing::new([0; 32]);
        self.open(associated, &sealed.bytes, key.as_mut_slice())?;
        Ok(Key::from_bytes(*key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn opens_what_it_sealed_and_nothing_else(
            plaintext in prop::collection::vec(any::<u8>(), 0..80),
            associated in prop::collection::vec(any::<u8>(), 0..40),
            bit in any::<prop::sample::Index>(),
        ) {
            let siv = Siv::derive(kdf::NAMES, &[b"key"]);
            let mut sealed = siv.seal(&associated, &plaintext);
            let mut opened = vec![0; plaintext.len()];
            siv.open(&associated, &sealed, &mut opened).unwrap();
            prop_assert_eq!(&opened, &plaintext);

            let bit = bit.index(sealed.len() * 8);
            sealed[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(siv.open(&associated, &sealed, &mut opened).is_err());
            sealed[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Siv::derive(kdf::NAMES, &[b"other"]).open(&associated, &sealed, &mut opened).is_err());
            prop_assert!(Siv::derive(kdf::RECORDS, &[b"key"]).open(&associated, &sealed, &mut opened).is_err());
            let mut other = associated.clone();
            other.push(0);
            prop_assert!(siv.open(&other, &sealed, &mut opened).is_err());
        }
    }
}
