//! The write-back segment cache: a mount's replica of its bucket on the local disk.
//!
//! It holds the tree a mount knows, the bytes it has, and what the network does not have yet. Changes are
//! [`Transaction`]s: read the state, decide, change it; one journal record makes them atomic and durable. In the
//! background, cuts of the pending state are sealed and committed to the bucket.
//!
//! What a caller may rely on is the durability table of strewn-semantics(7).

mod blocking;
mod cache;
mod conflict;
mod content;
mod cut;
pub mod data;
pub mod disk;
mod drain;
mod encryption;
mod error;
mod failure;
mod file_state;
mod foreground;
pub mod index;
mod inspect;
pub mod journal;
mod lease;
mod load;
mod maintain;
mod news;
mod options;
mod outgoing;
mod passthrough;
mod record;
mod recover;
mod room;
pub mod sealed;
mod shared;
mod status;
mod store;
mod tree;
mod upload;
mod warm;

pub use cache::{Cache, Position, Seek, Written};
pub use error::Error;
pub use failure::Listener;
pub use file_state::{FileState, Stored};
pub use inspect::{CacheDirectory, Cleared, Damage, DirectoryStatus, InspectError};
pub use lease::LeaseKind;
pub use options::{Clock, Options, Root};
pub use passthrough::{Change, Loan};
pub use status::{ConflictCopy, Invalidation, Status, Unused};
pub use strewn_engine::name::{InvalidName, Name};
pub use tree::{DirectoryEntry, Missing, Stop, Transaction};
