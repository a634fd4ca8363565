//! Bytes of files: where they are, reading and writing them.

pub(crate) mod map;
pub(crate) mod read;
pub(crate) mod read_ahead;
pub(crate) mod write;
