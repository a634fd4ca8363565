//! Cuts: how what is pending becomes an atomic batch for the network.
//!
//! ```text
//! pending --freeze--> frozen --seal--> draft --batch--> queued --upload--> committed
//! ```
//! [`freeze`] takes everything pending at one journal position, under the lock of the tree; from then on writers make new
//! changes pending. [`seal`] encrypts the frozen data into new runs and packs them into sealed segment files, without the
//! network. [`batch`] needs the extents of the windows that a cut touches (the network may have to be asked for them), renews
//! their tags, seals names, keys and records, and makes the batch durable: a batch that was once sent is never made again
//! with other bytes. Cuts become batches in order, and batches go to the network in order. What waits there is on disk; memory
//! holds little of it: see [`queue`].

pub(crate) mod batch;
mod choose;
pub(crate) mod freeze;
pub(crate) mod limits;
pub(crate) mod queue;
pub(crate) mod seal;
pub(crate) mod tasks;

/// Operations of a cut that is taken at once when they have come together.
pub(crate) const FULL_OPERATIONS: usize = 3_000;
/// Writers wait while more operations than this are pending; well below the network's limit of a batch.
pub(crate) const MOST_OPERATIONS: usize = 3_500;
/// Bytes of a cut that is taken at once, whoever works on the drive meanwhile.
pub(crate) const FULL_BYTES: u64 = 512 << 20;
/// One part in so many of what may wait for the network is as good as that.
pub(crate) const FULL_PART: u64 = 4;
/// Writers wait while more bytes than this wait for a cut.
pub(crate) const MOST_BYTES: u64 = 2 * FULL_BYTES;
/// Changed ranges that are taken at once when they have come together: each becomes an extent.
pub(crate) const FULL_RANGES: usize = 8_192;
/// They are counted after so many writes, of which each makes one more at most.
pub(crate) const COUNT_RANGES_EVERY: usize = 16_384;
/// With so many cuts on their way no further one is made, unless limits force it: overwrites coalesce meanwhile.
pub(crate) const ENOUGH_UNSENT: usize = 3;
/// Most cuts on their way; beyond it writers wait.
pub(crate) const MOST_UNSENT: usize = 256;
