//! The storage node: keeps pieces for strangers, is paid by orders, and knows no transport: it serves any byte stream.
//!
//! - [`Node`]: one node in one directory.
//! - [`store`]: pieces on disk, acknowledged only when they survive a power cut.
//! - [`ledger`]: what was paid and spent per order limit, across crashes.
//! - [`verify`]: which limits and orders are accepted.
//! - `service`: the piece protocol of `strewn_wire::node`.
//! - [`Faults`]: misbehaviour on demand.
//!
//! Blocking work of all nodes of a process shares a few threads of the runtime's pool (`disk`).

mod disk;
mod faults;
mod group;
pub mod ledger;
mod node;
mod service;
pub mod store;
#[cfg(test)]
mod testing;
pub mod verify;

pub use disk::Lost;
pub use faults::Faults;
pub use node::{Clock, Housekeeping, HousekeepingError, MAX_TRANSFERS, Node, NodeOptions, NodeStatus, OpenError, wipe};
pub use service::ServeError;
