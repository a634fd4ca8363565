//! Bytes of files: where they are, reading and writing them.

pub(crate) mod clones;
pub(crate) mod copy;
pub(crate) mod fetch;
pub(crate) mod map;
pub(crate) mod read;
pub(crate) mod read_ahead;
pub(crate) mod saved;
pub(crate) mod write;

use strewn_engine::content::window;

/// What an inode's record says of its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Digest {
    /// Hash over the window tags.
    pub(crate) hash: [u8; 32],
    /// Bytes that are not in holes; `None` if nobody counted them.
    pub(crate) allocated: Option<u64>,
}

impl Digest {
    /// Of a file of which the network has nothing.
    pub(crate) fn empty() -> Self {
        Self { hash: window::content_hash(&[]), allocated: Some(0) }
    }

    /// Of content that nobody counted.
    pub(crate) fn uncounted(hash: [u8; 32]) -> Self {
        Self { hash, allocated: None }
    }
}
