//! What a directory's key opens: the names in it and the keys of its children.

use super::kind_byte;
use crate::bucket::{EncryptedName, Entry, Kind, Sealed};
use crate::ids::InodeId;
use crate::kdf;
use crate::name::Name;
use crate::seal::{Corrupt, SIV, Siv};
use crate::secret::Key;
use zeroize::Zeroize;

/// Names are padded with NUL to a multiple of this, so that their length tells little.
const NAME_PADDING: usize = 32;

/// Longest padded name.
const MAX_PADDED: usize = EncryptedName::MAX - SIV;

/// Ready sub-keys of one directory (about 1.2 KiB). Two directories never share a key, so a moved entry is sealed anew.
pub struct DirectoryKeys {
    names: Siv,
    children: Siv,
}

impl DirectoryKeys {
    /// Derives the sub-keys from the directory's key.
    pub fn new(key: &Key) -> Self {
        Self {
            names: Siv::derive(kdf::NAMES, &[key.as_bytes()]),
            children: Siv::derive(kdf::CHILD_KEYS, &[key.as_bytes()]),
        }
    }

    /// Encrypts a name: the same name in the same directory always gives the same bytes, in another directory others.
    pub fn encrypt_name(&self, parent: InodeId, name: &Name) -> EncryptedName {
        let name = name.as_bytes();
        let mut padded = [0; MAX_PADDED];
        padded[..name.len()].copy_from_slice(name);
        let sealed = self.names.seal(parent.as_bytes(), &padded[..padded_len(name.len())]);
        padded.zeroize();
        EncryptedName::try_from(sealed).expect("a name of 1..=255 bytes pads to 32..=256")
    }

    /// Decrypts a name. Refuses what does not authenticate and what is no name: bad padding, `.`, `..`, `/`.
    pub fn decrypt_name(&self, parent: InodeId, name: &EncryptedName) -> Result<Name, Corrupt> {
        const CORRUPT: Corrupt = Corrupt("name");
        let mut padded = [0; MAX_PADDED];
        let padded = &mut padded[..name.as_bytes().len() - SIV];
        self.names.open(parent.as_bytes(), name.as_bytes(), padded).map_err(|()| CORRUPT)?;
        let length = padded.iter().rposition(|&byte| byte != 0).ok_or(CORRUPT)? + 1;
        if padded_len(length) != padded.len() {
            return Err(CORRUPT);
        }
        Name::new(&padded[..length]).map_err(|_| CORRUPT)
    }

    /// Seals a child's key for one entry.
    pub fn seal_child(&self, parent: InodeId, name: &EncryptedName, child: InodeId, kind: Kind, key: &Key) -> Sealed {
        let mut buffer = [0; MAX_PLACE];
        self.children.seal_key(child_place(&mut buffer, parent, name, child, kind), key)
    }

    /// Opens the child's key of an entry of this directory.
    pub fn open_child(&self, entry: &Entry) -> Result<Key, Corrupt> {
        let mut buffer = [0; MAX_PLACE];
        let place = child_place(&mut buffer, entry.parent, &entry.name, entry.child, entry.kind);
        self.children.open_key(place, &entry.key).map_err(|()| Corrupt("child key"))
    }
}

impl std::fmt::Debug for DirectoryKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DirectoryKeys(hidden)")
    }
}

fn padded_len(length: usize) -> usize {
    length.next_multiple_of(NAME_PADDING)
}

/// Longest associated data of a child key: parent, child, kind, name.
const MAX_PLACE: usize = 16 + 16 + 1 + EncryptedName::MAX;

/// Only the last field varies in length, so two places never give the same bytes.
fn child_place<'a>(
    buffer: &'a mut [u8; MAX_PLACE],
    parent: InodeId,
    name: &EncryptedName,
    child: InodeId,
    kind: Kind,
) -> &'a [u8] {
    let length = 33 + name.as_bytes().len();
    buffer[..16].copy_from_slice(parent.as_bytes());
    buffer[16..32].copy_from_slice(child.as_bytes());
    buffer[32] = kind_byte(kind);
    buffer[33..length].copy_from_slice(name.as_bytes());
    &buffer[..length]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HERE: InodeId = InodeId::from_bytes([1; 16]);
    const THERE: InodeId = InodeId::from_bytes([2; 16]);
    const CHILD: InodeId = InodeId::from_bytes([3; 16]);

    fn keys(byte: u8) -> DirectoryKeys {
        DirectoryKeys::new(&Key::from_bytes([byte; 32]))
    }

    fn entry() -> Entry {
        let name = keys(1).encrypt_name(HERE, &"a".parse().unwrap());
        let key = keys(1).seal_child(HERE, &name, CHILD, Kind::File, &Key::from_bytes([9; 32]));
        Entry { parent: HERE, name, child: CHILD, kind: Kind::File, key }
    }

    fn name() -> impl Strategy<Value = Name> {
        prop::collection::vec(any::<u8>(), 1..=255).prop_filter_map("a name", |bytes| Name::new(&bytes).ok())
    }

    proptest! {
        #[test]
        fn names_come_back_and_differ_by_directory(name in name(), other in name()) {
            let encrypted = keys(1).encrypt_name(HERE, &name);
            prop_assert_eq!(encrypted.as_bytes().len(), 16 + name.as_bytes().len().div_ceil(32) * 32);
            prop_assert_eq!(keys(1).decrypt_name(HERE, &encrypted), Ok(name.clone()));
            prop_assert_eq!(&keys(1).encrypt_name(HERE, &name), &encrypted);
            prop_assert_ne!(&keys(1).encrypt_name(THERE, &name), &encrypted);
            prop_assert_ne!(&keys(2).encrypt_name(HERE, &name), &encrypted);
            prop_assert_eq!(keys(1).encrypt_name(HERE, &other) == encrypted, other == name);
            prop_assert!(keys(1).decrypt_name(THERE, &encrypted).is_err());
            prop_assert!(keys(2).decrypt_name(HERE, &encrypted).is_err());
        }

        #[test]
        fn decrypting_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(name) = EncryptedName::try_from(bytes) {
                prop_assert!(keys(1).decrypt_name(HERE, &name).is_err());
            }
        }
    }

    #[test]
    fn every_bit_of_a_name_counts() {
        let encrypted = Vec::from(keys(1).encrypt_name(HERE, &"name".parse().unwrap()));
        for bit in 0..encrypted.len() * 8 {
            let mut tampered = encrypted.clone();
            tampered[bit / 8] ^= 1 << (bit % 8);
            let tampered = EncryptedName::try_from(tampered).unwrap();
            assert_eq!(keys(1).decrypt_name(HERE, &tampered), Err(Corrupt("name")));
        }
    }

    #[test]
    fn what_authenticates_but_is_no_name_is_refused() {
        let seal = |plaintext: &[u8]| {
            EncryptedName::try_from(keys(1).names.seal(HERE.as_bytes(), plaintext)).expect("a multiple of 32 bytes")
        };
        let padded = |name: &[u8], length| {
            let mut bytes = name.to_vec();
            bytes.resize(length, 0);
            bytes
        };
        assert!(keys(1).decrypt_name(HERE, &seal(&padded(b"fine", 32))).is_ok());
        let bad = [
            padded(b"", 32),
            padded(b".", 32),
            padded(b"..", 32),
            padded(b"a/b", 32),
            padded(b"a\0b", 32),
            padded(b"too much padding", 64),
            padded(&[b'a'; 256], 256),
        ];
        for plaintext in bad {
            assert_eq!(keys(1).decrypt_name(HERE, &seal(&plaintext)), Err(Corrupt("name")), "{plaintext:?}");
        }
    }

    #[test]
    fn a_child_key_opens_in_its_entry_only() {
        let entry = entry();
        assert_eq!(keys(1).open_child(&entry), Ok(Key::from_bytes([9; 32])));
        let other_name = keys(1).encrypt_name(HERE, &"b".parse().unwrap());
        let moved = [
            Entry { parent: THERE, ..entry.clone() },
            Entry { name: other_name, ..entry.clone() },
            Entry { child: THERE, ..entry.clone() },
            Entry { kind: Kind::Directory, ..entry.clone() },
            Entry { key: Sealed { generation: 1, ..entry.key.clone() }, ..entry.clone() },
        ];
        for moved in moved {
            assert_eq!(keys(1).open_child(&moved), Err(Corrupt("child key")), "{moved:?}");
        }
        assert_eq!(keys(2).open_child(&entry), Err(Corrupt("child key")));
    }

    #[test]
    fn every_bit_of_a_child_key_counts() {
        let entry = entry();
        for bit in 0..entry.key.bytes.len() * 8 {
            let mut bytes = entry.key.bytes.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let tampered = Entry { key: Sealed { generation: 0, bytes: bytes.into() }, ..entry.clone() };
            assert_eq!(keys(1).open_child(&tampered), Err(Corrupt("child key")));
        }
    }

    #[test]
    fn any_length_of_a_sealed_key_is_survived() {
        let entry = entry();
        for length in (0..48).chain(49..60) {
            let mut bytes = entry.key.bytes.to_vec();
            bytes.resize(length, 0);
            let resized = Entry { key: Sealed { generation: 0, bytes: bytes.into() }, ..entry.clone() };
            assert_eq!(keys(1).open_child(&resized), Err(Corrupt("child key")));
        }
    }
}
