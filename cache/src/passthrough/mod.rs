//! Data files that are **lent** to the kernel, which reads them by itself (FUSE passthrough): a file that is whole in its data
//! file is then read at the speed of the disk under the cache.
//!
//! The kernel wants all that is open of a file to be of one kind, so a file stays lent to whoever opens it while one loan lasts,
//! and whatever becomes of its content has to show in the lent file:
//!
//! - **Written bytes** are in it already, as long as it is the content's data file.
//! - **What is cut off or becomes a hole** otherwise stays in a data file until it is overwritten. In a lent one it is cleared
//!   (`show`), once the record of the change is durable and no cut needs the bytes.
//! - **Content that left it**, since another mount changed the file, is copied into it, by then for the
//!   readers alone (`show`). Until that is done the loan is *behind*, and who opens the file reads through the mount.
//! - **Stores by way of a mapping** are possible for who opens the file for reading and writing while it is lent: it is
//!   *exposed*, see `exposed`.
//!
//! A loan ends when no handle has it and nobody maps the file any more, which may be long after the last handle is closed. What
//! is lent is not evicted, so at most half of the cache's budget is.

mod exposed;
mod show;
mod stretches;

use crate::Error;
use crate::blocking::blocking;
use crate::content::map::Backing;
use crate::maintain::sealing;
use crate::shared::{Shared, State};
use exposed::Exposed;
pub(crate) use exposed::Look;
use lru::LruCache;
use parking_lot::Mutex;
use scopeguard::{ScopeGuard, guard};
pub use show::Change;
use std::collections::HashMap;
use std::fs::File;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use strewn_engine::ids::InodeId;

/// Smaller files are not worth it: what opening costs is more than reading saves.
const SHORTEST: u64 = 256 << 10;
/// One part in so many of the budget may be lent.
const MOST_LENT: u64 = 2;
/// So many files that were exposed are remembered, and not lent again.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(1_024).expect("not zero");

/// A data file for the kernel to read.
#[derive(Debug, Clone)]
pub struct Loan {
    /// The same for all loans of a file at a time.
    pub file: Arc<File>,
    /// It shows the content of the file; if not, it has to be read through the mount.
    pub shows: bool,
}

/// What is lent.
pub(crate) struct Loans {
    files: Mutex<HashMap<InodeId, Lent>>,
    /// How many there are.
    count: AtomicUsize,
    /// Files that were exposed.
    avoided: Mutex<LruCache<InodeId, ()>>,
}

struct Lent {
    generation: u64,
    file: Arc<File>,
    size: u64,
    handles: u32,
    /// The content may have changed in a way that is not shown yet.
    behind: bool,
    /// That is being done.
    catching_up: bool,
    /// Programs may store into it, and what was seen of that.
    exposed: Option<Exposed>,
    /// Held by who brings the file in line with the content.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Lent {
    /// A file that no handle has yet.
    fn new(generation: u64, file: Arc<File>, size: u64) -> Self {
        Self {
            generation,
            file,
            size,
            handles: 0,
            behind: false,
            catching_up: false,
            exposed: None,
            turn: Arc::default(),
        }
    }
}

impl Default for Loans {
    fn default() -> Self {
        Self { files: Mutex::default(), count: AtomicUsize::new(0), avoided: Mutex::new(LruCache::new(REMEMBERED)) }
    }
}

impl Loans {
    /// One more handle of a file that is lent.
    fn again(&self, inode: InodeId) -> Option<Loan> {
        self.with(inode, |lent| {
            lent.handles += 1;
            Loan { file: lent.file.clone(), shows: !lent.behind }
        })
    }

    fn add(&self, inode: InodeId, lent: Lent) {
        self.files.lock().insert(inode, lent);
        self.count.fetch_add(1, Ordering::Release);
    }

    fn with<T>(&self, inode: InodeId, apply: impl FnOnce(&mut Lent) -> T) -> Option<T> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        self.files.lock().get_mut(&inode).map(apply)
    }

    /// Takes the loan of a file off if nothing uses it, and nothing has to be done before.
    fn take_unused(&self, inode: InodeId, alone: impl FnOnce(&Lent) -> bool) -> Option<Lent> {
        let mut files = self.files.lock();
        let lent = files.get(&inode)?;
        if lent.handles > 0 || lent.exposed.is_some() || !alone(lent) {
            return None;
        }
        self.count.fetch_sub(1, Ordering::Release);
        files.remove(&inode)
    }

    /// Bytes that are lent.
    fn bytes(&self) -> u64 {
        self.files.lock().values().map(|lent| lent.size).sum()
    }

    /// How many files are lent.
    pub(crate) fn len(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    fn inodes(&self) -> Vec<InodeId> {
        if self.len() == 0 { Vec::new() } else { self.files.lock().keys().copied().collect() }
    }

    /// Other mounts changed a file, or any file.
    pub(crate) fn fall_behind(&self, inode: Option<InodeId>) {
        match inode {
            Some(inode) => drop(self.with(inode, |lent| lent.behind = true)),
            None => self.files.lock().values_mut().for_each(|lent| lent.behind = true),
        }
    }
}

impl Shared {
    /// See [`Cache::lend`](crate::Cache::lend).
    pub(crate) async fn lend(self: &Arc<Self>, inode: InodeId) -> Result<Option<Loan>, Error> {
        if let Some(loan) = self.loans.again(inode) {
            return Ok(Some(loan));
        }
        if self.options.encrypt || self.lendable(&self.state.lock(), inode).is_none() {
            return Ok(None);
        }
        let _alone = self.hold(inode).await?;
        if let Some(loan) = self.loans.again(inode) {
            return Ok(Some(loan));
        }
        let Some((generation, size)) = self.start_loan(inode) else { return Ok(None) };
        // Also if nobody waits for it any more.
        let started = guard((), |()| self.end_loan(inode, generation));
        let Some(file) = self.lend_file(inode, generation, size).await? else { return Ok(None) };
        ScopeGuard::into_inner(started);
        let file = Arc::new(file);
        self.loans.add(inode, Lent { handles: 1, ..Lent::new(generation, file.clone(), size) });
        // The size may have changed before anybody could know that the file is lent.
        let shows = whole(&self.state.lock(), inode) == Some((generation, size));
        if !shows {
            self.loans.fall_behind(Some(inode));
        }
        Ok(Some(Loan { file, shows }))
    }

    /// One more loan of a file that is lent; `None` if it is not.
    pub(crate) fn lend_again(&self, inode: InodeId) -> Option<Loan> {
        self.loans.again(inode)
    }

    /// The data file and its size, if it may be lent and there is room.
    fn lendable(&self, state: &State, inode: InodeId) -> Option<(u64, u64)> {
        let (generation, size) = whole(state, inode).filter(|(_, size)| *size >= SHORTEST)?;
        let exposed = state.tree.node(inode)?.content.as_deref()?.exposed || self.loans.avoided.lock().contains(&inode);
        let room = || self.loans.bytes().saturating_add(size) <= self.options.budget / MOST_LENT;
        (!exposed && room()).then_some((generation, size))
    }

    fn start_loan(&self, inode: InodeId) -> Option<(u64, u64)> {
        let mut state = self.state.lock();
        let found = self.lendable(&state, inode)?;
        state.tree.node_mut(inode)?.content.as_deref_mut()?.lent += 1;
        Some(found)
    }

    fn end_loan(&self, inode: InodeId, generation: u64) {
        let mut state = self.state.lock();
        let content = state.tree.node_mut(inode).and_then(|node| node.content.as_deref_mut());
        if let Some(content) = content.filter(|content| content.generation == generation) {
            content.lent = content.lent.saturating_sub(1);
        }
    }

    /// The data file, cut to the size that it has to show; `None` as long as a cut needs more of it. The content's guard is held.
    async fn lend_file(self: &Arc<Self>, inode: InodeId, generation: u64, size: u64) -> Result<Option<File>, Error> {
        let Some(file) = self.store.lend_data(inode, generation)? else { return Ok(None) };
        if file.metadata()?.len() != size {
            if sealing(&self.state.lock()).contains(&(inode, generation)) {
                return Ok(None);
            }
            self.clear(inode, generation, size, &[]).await?;
        }
        Ok(Some(file))
    }

    /// See [`Cache::take_back`](crate::Cache::take_back).
    pub(crate) fn take_back(&self, inode: InodeId) {
        self.loans.with(inode, |lent| lent.handles = lent.handles.saturating_sub(1));
        self.end_if_unused(inode);
    }

    /// Ends the loan of a file that nobody uses any more.
    fn end_if_unused(&self, inode: InodeId) {
        let alone = |lent: &Lent| self.store.is_alone(inode, lent.generation, &lent.file);
        if let Some(lent) = self.loans.take_unused(inode, alone) {
            self.end_loan(inode, lent.generation);
            self.state.lock().tree.touch(inode);
        }
    }

    /// What housekeeping does about loans.
    pub(crate) async fn keep_loans(self: &Arc<Self>) -> Result<(), Error> {
        let mut result = Ok(());
        for inode in self.loans.inodes() {
            let exposed = async {
                self.settle_exposed(inode, Look::IfDue).await?;
                self.end_exposure(inode).await
            };
            result = result.and(exposed.await).and(self.sync_unused(inode).await);
            self.end_if_unused(inode);
            let behind = self.loans.with(inode, |lent| lent.behind).unwrap_or(false);
            if behind && self.state.lock().pipeline.reachable {
                self.show_later(inode);
            }
        }
        result
    }

    /// What was cleared in a data file makes nobody else sync it, and a loan does not end before that was done.
    async fn sync_unused(self: &Arc<Self>, inode: InodeId) -> Result<(), Error> {
        let unused = self.loans.with(inode, |lent| (lent.handles == 0).then_some(lent.generation)).flatten();
        match unused.filter(|generation| self.is_content_in(inode, *generation)) {
            Some(generation) => {
                let shared = self.clone();
                blocking(move || shared.store.sync_data(inode, generation)).await
            }
            None => Ok(()),
        }
    }

    /// Shows what fell behind, which may have to be fetched.
    fn show_later(self: &Arc<Self>, inode: InodeId) {
        if !self.loans.with(inode, |lent| std::mem::replace(&mut lent.catching_up, true)).unwrap_or(true) {
            let shared = self.clone();
            tokio::spawn(async move {
                if let Err(error) = shared.show(inode, Change::Any).await {
                    tracing::debug!("a lent file does not show what other mounts changed yet: {error}");
                }
                shared.loans.with(inode, |lent| lent.catching_up = false);
            });
        }
    }

    /// True if a file is lent and its content is not in the lent file any more.
    pub(crate) fn is_mirrored(&self, inode: InodeId) -> bool {
        let lent = self.loans.with(inode, |lent| lent.generation);
        lent.is_some_and(|generation| !self.is_content_in(inode, generation))
    }

    /// True if a file is lent.
    pub(crate) fn is_lent(&self, inode: InodeId) -> bool {
        self.loans.with(inode, |_| ()).is_some()
    }

    fn is_content_in(&self, inode: InodeId, generation: u64) -> bool {
        let state = self.state.lock();
        let content = state.tree.node(inode).and_then(|node| node.content.as_deref());
        content.is_some_and(|content| content.is_in_file(generation))
    }
}

/// The data file and the size of a file all of whose bytes are in there.
fn whole(state: &State, inode: InodeId) -> Option<(u64, u64)> {
    let node = state.tree.node(inode)?;
    let size = node.attributes.size;
    let content = node.content.as_deref().filter(|content| matches!(content.backing, Backing::File))?;
    let all = content.present.get(&0).is_some_and(|range| range.end >= size);
    all.then_some((content.generation, size))
}
