//! The satellite: who may do what in which bucket, and which node holds which piece. It sees ciphertext only.
//!
//! ```text
//! transport --Request--> service --transaction--> metabase (SQLite)
//!                           |--------------------> registry (nodes, in memory)
//! ```
//! This crate knows no transport: [`Satellite::handle`] and [`Satellite::handle_node`] take plain requests and give plain
//! replies, and an address is checked through a [`Dialer`]. What a batch does to a bucket is decided by
//! [`strewn_engine::bucket::plan`]; here are the rows, the rights, the limits and the nodes.

mod clock;
mod identity;
mod metabase;
mod random;
mod registry;
mod rights;
mod selection;
mod service;
mod settings;

pub use clock::{Clock, ManualClock, SystemClock};
pub use metabase::{Error, SCHEMA_VERSION, Swept};
pub use service::{BucketStatus, Dialer, MAX_SETTLE, NodeStatus, Satellite, Session, Status};
pub use settings::Settings;
