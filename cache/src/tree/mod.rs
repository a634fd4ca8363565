//! The tree a mount knows.

mod transaction;

pub use transaction::{DirectoryEntry, Missing, Stop, Transaction};
