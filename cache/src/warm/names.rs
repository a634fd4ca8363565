//! Names and attributes outlive an orderly close: the next mount goes on as if the machine had been asleep.
//!
//! When nobody uses the tree any more, a close writes what it knows of the network into the index: the entries of its
//! directories, with the rows of their children, which directories are whole, how far the feed was followed, and, last, a
//! **mark** with the position of the journal. The next opening takes it all back into memory. That this is right:
//!
//! - **N1.** The rows are those of one moment of the tree, told of everything in the feed up to the position that is kept
//!   with them. What the feed says after it is news about all of them, the mount's own commits included: the
//!   cache directory may be older than they are.
//! - **N2.** They are used by the very next opening or never. Opening the index takes the mark away, durably; and it counts
//!   only if the journal ends where it ended then, so that rows of before any change made here are never believed.
//! - **N3.** Before a row is used the feed is asked what came after it. What changed is left out, directories are loaded
//!   anew; if the feed lost track all is left out. If the network is away, owes an answer for [`NEWS_ANSWER`], or is not
//!   done after [`CATCH_UP`], what was not heard of is used as a mount uses it whose network is away: the feed is followed
//!   from there.
//! - **N4.** What the journal knows wins, as it does over rows of the network.
//!
//! Not kept: what is known not to be there, extents, children that memory had no room for.

use super::entry::EntryRow;
use super::{PAGE, PORTION};
use crate::index::Feed;
use crate::load::open_inode;
use crate::record::Adopt;
use crate::shared::Shared;
use crate::tree::AllMissed;
use crate::{Error, Name};
use bytes::Bytes;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use strewn_engine::bucket::{self, EncryptedName, Kind};
use strewn_engine::ids::InodeId;
use strewn_engine::keys::DirectoryKeys;
use strewn_engine::secret::Key;
use tokio::time::{Instant, timeout_at};

/// How long an opening waits for the feed to tell what changed since the close, and a close for the last news.
const CATCH_UP: Duration = Duration::from_secs(3);
/// How long an opening waits for each answer of the feed: a drive is to be usable within a second, also if the satellite hangs.
const NEWS_ANSWER: Duration = Duration::from_millis(500);
/// How long an opening spends on loading anew what changed; the rest is left out.
const RENEW: Duration = Duration::from_secs(3);
/// More news than this are not worth going through.
const MOST_NEWS: usize = 100_000;
const MARK_VERSION: u8 = 1;
const MARK_MISSED: u8 = 2;
/// With more than this to be looked at again nothing is kept.
const MOST_MISSED: usize = 10_000;

/// What an orderly close left.
///
/// ```text
/// mark    version = 1 (1) | journal position (8, big-endian)
/// mark    version = 2 (1) | journal position (8, big-endian) | postcard of AllMissed
/// ```
/// Version 2 is written when some news could not be taken in because of what was changed here: see `tree::news`.
pub(crate) struct Kept {
    /// Where the journal ended.
    position: u64,
    /// How far the feed was followed.
    feed: Feed,
    /// What is to be looked at again.
    missed: AllMissed,
}

/// How far the feed was followed.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Followed {
    /// `None` until the network was reached for the first time.
    pub(crate) feed: Option<Feed>,
    /// What this mount committed itself is news too, until the feed has nothing more to tell.
    pub(crate) own_is_news: bool,
}

/// What changed since.
#[derive(Default)]
struct News {
    inodes: HashSet<InodeId>,
    entries: HashMap<InodeId, Vec<EncryptedName>>,
    count: usize,
    lost: bool,
}

impl News {
    fn is_about(&self, inode: InodeId) -> bool {
        self.inodes.contains(&inode) || self.entries.contains_key(&inode)
    }
}

impl Kept {
    /// What the index has to say, if the journal still ends at `now`.
    pub(crate) async fn find(index: &crate::index::Index, now: u64) -> Option<Self> {
        let mark = index.take_closed()?;
        let (position, missed) = parse_mark(&mark)?;
        let feed = index.feed().await?;
        (position == now).then_some(Self { position, feed, missed })
    }

    fn mark(&self) -> Bytes {
        let mut mark = vec![MARK_VERSION];
        mark.extend(self.position.to_be_bytes());
        if self.missed.len() > 0 {
            mark[0] = MARK_MISSED;
            mark = postcard::to_extend(&self.missed, mark).expect("plain data encodes into memory");
        }
        mark.into()
    }
}

fn parse_mark(mark: &[u8]) -> Option<(u64, AllMissed)> {
    let (version, rest) = mark.split_first()?;
    let (position, rest) = rest.split_first_chunk()?;
    let missed = match *version {
        MARK_VERSION if rest.is_empty() => AllMissed::default(),
        MARK_MISSED => postcard::from_bytes(rest).ok()?,
        _ => return None,
    };
    Some((u64::from_be_bytes(*position), missed))
}

impl Shared {
    /// Takes back what the last close kept, if anything, and removes it from the index.
    pub(crate) async fn wake_up(&self, kept: Option<Kept>) {
        if let Some(kept) = kept {
            let mut followed = Followed { feed: Some(kept.feed), own_is_news: true };
            let mut news = News::default();
            let hearing = tokio::time::timeout(CATCH_UP, self.hear(&mut followed, &mut news));
            if !matches!(hearing.await, Ok(Ok(()))) {
                tracing::debug!("what changed since the last mount is not known yet");
            }
            if !news.lost {
                let until = Instant::now() + RENEW;
                self.restore(&news, until).await;
                self.state.lock().tree.miss_again(kept.missed);
                self.missed.notify_one();
                if !matches!(timeout_at(until, self.reload_known(&news)).await, Ok(Ok(()))) {
                    // To be told again.
                    followed = Followed { feed: Some(kept.feed), own_is_news: true };
                }
                if let Followed { feed: Some(feed), own_is_news } = followed {
                    self.note_followed(feed, own_is_news);
                }
            }
        }
        self.index.forget_names();
    }

    /// Collects what the feed tells until it has nothing more to tell.
    async fn hear(&self, followed: &mut Followed, news: &mut News) -> Result<(), Error> {
        while let Some(feed) = followed.feed {
            let changes = self.ask(self.bucket.changes(feed.sequence, Duration::ZERO));
            let silent = |_| bucket::Error::Unreachable(String::from("the change feed is silent"));
            let changes = tokio::time::timeout(NEWS_ANSWER, changes).await.map_err(silent)??;
            news.count += changes.changes.len();
            news.lost = changes.gap || changes.epoch != feed.epoch || news.count > MOST_NEWS;
            if news.lost {
                return Ok(());
            }
            followed.feed = Some(Feed { epoch: changes.epoch, sequence: changes.sequence });
            if changes.changes.is_empty() {
                followed.own_is_news = false;
                return Ok(());
            }
            for change in changes.changes {
                news.inodes.extend(change.inodes);
                for (directory, name) in change.entries {
                    news.entries.entry(directory).or_default().push(name);
                }
            }
        }
        Ok(())
    }

    /// Takes the rows back that the news are not about, from the directories that the journal knows downwards.
    async fn restore(&self, news: &News, until: Instant) {
        let mut waiting: VecDeque<InodeId> = self.state.lock().tree.directories().into();
        let mut seen: HashSet<InodeId> = waiting.iter().copied().collect();
        while let Some(directory) = waiting.pop_front() {
            let Some(below) = self.restore_directory(directory, news, until).await else { return };
            waiting.extend(below.into_iter().filter(|directory| seen.insert(*directory)));
        }
    }

    /// Takes the entries of one directory back. Gives the directories among them; `None` if the index cannot be read.
    async fn restore_directory(&self, directory: InodeId, news: &News, until: Instant) -> Option<Vec<InodeId>> {
        let changed = self.changed_names(directory, news);
        let mut below = Vec::new();
        let mut after = 0;
        let mut whole = changed.as_ref().is_some_and(HashSet::is_empty);
        loop {
            let listing = self.index.entries(directory, after, PAGE).await?;
            whole &= listing.whole.is_some();
            let mut rows = Vec::with_capacity(listing.rows.len());
            for row in &listing.rows {
                let parsed = Name::new(&row.name).ok().zip(EntryRow::decode(&row.value));
                match parsed.filter(|(name, _)| changed.as_ref().is_some_and(|changed| !changed.contains(name))) {
                    Some(row) => rows.push(row),
                    None => whole = false,
                }
            }
            for (_, row) in rows.iter_mut().filter(|(_, row)| news.is_about(row.child)) {
                row.node = timeout_at(until, self.renewed(row)).await.ok().flatten();
            }
            let mut state = self.state.lock();
            for (name, row) in &rows {
                if state.tree.restore_entry(directory, name, row) && row.kind == Kind::Directory {
                    below.push(row.child);
                }
            }
            match listing.rows.last().filter(|_| listing.rows.len() == PAGE as usize) {
                Some(last) => after = last.cookie,
                None => {
                    if whole {
                        state.tree.restore_listing(directory);
                    }
                    return Some(below);
                }
            }
        }
    }

    /// Names of a directory that the news are about; `None` if they cannot be read.
    fn changed_names(&self, directory: InodeId, news: &News) -> Option<HashSet<Name>> {
        let Some(names) = news.entries.get(&directory) else { return Some(HashSet::new()) };
        let key = self.state.lock().tree.node(directory).map(|node| node.key.clone())?;
        let keys = DirectoryKeys::new(&key);
        names.iter().map(|name| keys.decrypt_name(directory, name).ok()).collect()
    }

    /// The row of a child that changed: of a directory as it is now, so that what is below it need not be loaded anew.
    async fn renewed(&self, row: &EntryRow) -> Option<Adopt> {
        let known = row.node.as_ref().filter(|_| row.kind == Kind::Directory)?;
        let now = self.ask(self.bucket.inode(row.child)).await.ok()?;
        let adopt = open_inode(&Key::from(&known.key), &now).ok()?;
        (now.inode == row.child && adopt.attributes.kind == row.kind).then_some(adopt)
    }

    /// Loads anew what the news are about and the journal knows.
    async fn reload_known(&self, news: &News) -> Result<(), Error> {
        let about: HashSet<InodeId> = news.inodes.iter().chain(news.entries.keys()).copied().collect();
        self.reload_all(about).await
    }

    /// At an orderly close, when nobody uses the tree any more: writes it into the index.
    pub(crate) async fn keep_names(&self) {
        let Some(feed) = self.feed.lock().feed.filter(|_| self.index.is_open()) else { return };
        // First, so that whatever is journaled from here on makes the mark worthless.
        let missed = self.state.lock().tree.missed();
        if missed.len() > MOST_MISSED {
            return;
        }
        let kept = Kept { position: self.journal.last().0, feed, missed };
        self.index.forget_names();
        let directories = self.state.lock().tree.directories();
        let mut waiting = 0;
        for directory in directories {
            let losses = self.index.losses();
            let mut after = 0;
            loop {
                let page = self.state.lock().tree.entry_rows(directory, after, PAGE as usize);
                for (cookie, name, row) in &page.rows {
                    let row = row.encode();
                    waiting += row.len() + name.as_bytes().len();
                    self.index.put_entry(directory, name.as_bytes(), *cookie, row.into());
                }
                if waiting > PORTION {
                    self.index.flush().await;
                    waiting = 0;
                }
                match page.next {
                    Some(next) => after = next,
                    None => {
                        if page.complete {
                            self.index.put_listing(directory, losses, Bytes::new());
                        }
                        break;
                    }
                }
            }
        }
        self.index.set_feed(feed);
        self.index.set_closed(kept.mark());
    }

    /// At an orderly close: hears the last news, so that the mount's own commits are not news to the next one. Helps, and
    /// that is all.
    pub(crate) async fn hear_last_news(self: &Arc<Self>) {
        if !self.state.lock().pipeline.reachable {
            return;
        }
        let hearing = async {
            while self.follow_step(Duration::ZERO).await? {}
            Ok::<_, Error>(())
        };
        if !matches!(tokio::time::timeout(CATCH_UP, hearing).await, Ok(Ok(()))) {
            tracing::debug!("the last news were not heard");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Tree;

    /// Written by earlier releases; must stay readable.
    const FIRST: [u8; 9] = [1, 0, 0, 0, 0, 0, 0, 1, 2];

    #[test]
    fn reads_the_marks_of_every_release() {
        assert_eq!(parse_mark(&FIRST), Some((258, AllMissed::default())));
        let root = InodeId::from_bytes([1; 16]);
        let mut tree = Tree::new(root);
        tree.miss_name(root, Name::new(b"a").expect("valid"));
        tree.miss_inode(InodeId::from_bytes([7; 16]));
        let second = [&[2, 0, 0, 0, 0, 0, 0, 1, 2, 1][..], &[1; 16], &[1, b'a', 1], &[7; 16], &[0]].concat();
        assert_eq!(parse_mark(&second), Some((258, tree.missed())));
        let feed = Feed { epoch: 1, sequence: 1 };
        assert_eq!(Kept { position: 258, feed, missed: tree.missed() }.mark(), second);
        assert_eq!(Kept { position: 258, feed, missed: AllMissed::default() }.mark(), &FIRST[..]);
    }

    #[test]
    fn other_marks_are_no_marks() {
        for wrong in [&[][..], &[1], &FIRST[..8], &[3, 0, 0, 0, 0, 0, 0, 1, 2], &[2, 0, 0, 0, 0, 0, 0, 1, 2, 9]] {
            assert_eq!(parse_mark(wrong), None, "{wrong:?}");
        }
        assert_eq!(parse_mark(&[&FIRST[..], &[0]].concat()), None);
    }
}
