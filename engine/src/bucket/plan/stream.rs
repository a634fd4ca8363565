//! The order of batches within a mount's stream, and what a replay is.

use super::*;

/// Results kept per stream. A replay of an older batch is refused as out of order, so a mount may have fewer batches than
/// this in flight.
pub const RESULTS_KEPT: u64 = 64;

/// What to do with a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// It came before: this is its result.
    Replay(CommitReply),
    /// It is the next of its stream.
    Next,
}

/// BLAKE3 of an encoded batch: tells a replay from other content under the same id.
pub fn digest(commit: &Commit) -> [u8; 32] {
    let bytes = postcard::to_allocvec(commit).expect("plain structs encode");
    *blake3::hash(&bytes).as_bytes()
}

/// Decides about a batch with `digest` in a stream whose last applied number is `last`, given the kept result under the
/// batch's id. Fails with [`Error::OutOfOrder`].
///
/// Refusals are kept as well: a batch that was refused, dealt with by its mount and then arrives once more, delayed, must
/// not be applied behind the mount's back.
pub fn turn(
    last: u64,
    commit: &Commit,
    digest: &[u8; 32],
    known: Option<([u8; 32], CommitReply)>,
) -> Result<Turn, Error> {
    match known {
        Some((same, reply)) if same == *digest => Ok(Turn::Replay(reply)),
        Some(_) => Err(Error::OutOfOrder(format!("other content under {:?}", commit.id))),
        None if last.checked_add(1) == Some(commit.number) => Ok(Turn::Next),
        None => Err(Error::OutOfOrder(format!("batch {} after {last}", commit.number))),
    }
}
