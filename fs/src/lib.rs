//! The drive: file system operations over the cache, and their translation to and from the kernel.
//!
//! - [`volume`] holds every operation as an async method on plain types; it knows POSIX and nothing of FUSE.
//! - [`fuse`] alone names the FUSE library, and does nothing but translate.
//! - [`Drive`] serves a volume to a mounted device until the kernel lets go of it.
//! - [`error`] is the one home of errno.

// What tests of this crate share is written for those outside of it.
#[cfg(test)]
extern crate self as strewn_fs;
#[cfg(test)]
#[path = "../tests/support/mod.rs"]
mod support;

pub mod clock;
mod drive;
pub mod error;
pub mod fuse;
pub mod mount;
pub mod volume;

pub use drive::Drive;
pub use error::{Error, Result};
pub use volume::Volume;
