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

/// Ready sub-keys of one directory. Two directories never share a key, so a moved entry is sealed anew.
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
