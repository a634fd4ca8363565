//! The key hierarchy: from a passphrase down a path to the bytes of a run.
//!
//! ```text
//! passphrase, salt --Argon2id--> root secret --bucket id--> bucket key
//! bucket key       --opens-->    key of the root directory (random)
//! directory key    --opens-->    names and keys of its children (random)
//! inode key        --opens-->    record, run keys (random); keys the window tags
//! run key          --derives-->  run id, block key
//! ```
//! Every arrow that derives uses a context of its own (`kdf`), so nothing uses one key for two purposes. Whoever holds an
//! inode's key holds what lies below it and nothing above or beside it. The key of a directory serves as
//! [`DirectoryKeys`] and as [`InodeKeys`] of the same inode, with different contexts.
//!
//! What is sealed is bound to its place by associated data (integers big-endian, kinds as in [`Kind`]'s order from 0):
//!
//! ```text
//! root directory key   bucket (16), root inode (16)
//! name                 parent (16)
//! child key            parent (16), child (16), kind (1), encrypted name (48..=272)
//! record               inode (16), kind (1), version (8)
//! run key              run id (16)
//! ```

mod directory;
mod inode;
mod root;

pub use crate::seal::Corrupt;
pub use directory::DirectoryKeys;
pub use inode::InodeKeys;
pub use root::{BucketKey, Derivation, InvalidDerivation, RootSecret, WrongPassphrase};

use crate::bucket::Kind;

/// The byte that stands for a kind in associated data.
fn kind_byte(kind: Kind) -> u8 {
    match kind {
        Kind::File => 0,
        Kind::Directory => 1,
        Kind::Symlink => 2,
        Kind::Fifo => 3,
        Kind::Socket => 4,
        Kind::CharDevice => 5,
        Kind::BlockDevice => 6,
    }
}
