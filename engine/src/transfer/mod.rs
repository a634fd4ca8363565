//! Moving a segment: machines that decide, for drivers that obey.
//!
//! [`upload::Upload`] stores one segment, [`download::Download`] reads a range of one. A driver tells them what happened
//! and when (`handle_*`), does what [`poll`](upload::Upload::poll) says, and comes back at `wake_at` at the latest. `now`
//! is the time since any fixed moment and never runs backwards. Nothing here does I/O or reads a clock.

pub mod download;
mod pieces;
pub mod upload;
