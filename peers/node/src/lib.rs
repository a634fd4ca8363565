//! The storage node: piece logs, the ledger of what was paid, and the service over any stream.
//!
//! - [`store`]: pieces on disk, acknowledged only when they survive a power cut.
//! - More to come in this file's neighbours.

mod disk;
pub mod store;
