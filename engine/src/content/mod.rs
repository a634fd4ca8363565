//! File content: runs of encrypted blocks, extents over them, windows and their tags.

pub mod extent;
pub mod run;
pub mod window;

/// Ciphertext of a full block: plaintext and a 16-byte AEAD tag. Equals the largest share, so block and share coincide.
pub const BLOCK: u64 = 64 * 1024;

/// Plaintext of a full block.
pub const BLOCK_PLAIN: u64 = BLOCK - 16;

/// Plaintext bytes of file offset per window.
pub const WINDOW: u64 = 64 << 20;
