//! The heart of Strewn: what is true about keys, names, content, segments, pieces, grants and orders, without I/O.
//!
//! Nothing here reads a clock, draws randomness or touches a disk or network: they come in as arguments, so that a seeded
//! simulator can run thousands of networks a second. Anything with timing is a state machine (`handle_*(now, …)`,
//! `poll_*()`).

pub mod at_rest;
pub mod bucket;
pub mod content;
pub mod erasure;
pub mod grant;
pub mod ids;
mod kdf;
pub mod keys;
pub mod name;
pub mod order;
pub mod piece;
pub mod record;
pub mod redundancy;
mod seal;
pub mod secret;
pub mod segment;
pub mod transfer;

pub use seal::Corrupt;
