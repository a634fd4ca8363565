//! One life of a mount: random operations on the cache and on the model, from opening to the crash.

use crate::common::{attributes, name, now};
use crate::machine::{Machine, Recorder, show};
use crate::model::{Node, State};
use crate::network::Network;
use bytes::Bytes;
use rand::{Rng, RngExt};
use rand_chacha::ChaCha8Rng;
use std::future::Future;
use std::sync::Arc;
use strewn_cache::{Cache, Error, Position, Stop, Transaction};
use strewn_engine::bucket::{Kind, Timestamp};
use strewn_engine::ids::InodeId;
use strewn_engine::record::Attributes;
use tokio::task::JoinHandle;

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
const LARGEST: u64 = 160_000;
/// Sizes around which writes are: in memory, in a record, in the data file alone.
const SIZES: [usize; 4] = [40, 5_000, 30_000, 90_000];

pub struct Life<'a> {
    pub random: &'a mut ChaCha8Rng,
    pub cache: Cache,
    pub machine: Machine,
    pub network: Arc<Network>,
    pub recorder: Arc<Recorder>,
    pub states: &'a mut Vec<State>,
    /// Open files.
    pub open: Vec<InodeId>,
    /// Syncs that run beside.
    pub syncs: Vec<SyncBeside>,
}

pub struct SyncBeside {
    /// The state it covers.
    state: usize,
    file: InodeId,
    sync: JoinHandle<Result<(), Error>>,
}

impl Life<'_> {
    pub async fn step(&mut self) {
        match self.random.random_range(0..140) {
            0..14 => self.create().await,
            14..36 => self.write().await,
            36..40 => self.append().await,
            40..46 => self.resize().await,
            46..50 => self.punch().await,
            50..60 => self.rename().await,
            60..62 => self.exchange().await,
            62..66 => self.link().await,
            66..73 => self.remove().await,
            73..80 => self.change_attributes().await,
            80..83 => self.open_or_close().await,
            83..92 => self.sync().await,
            92..95 => self.sync_beside(),
            95..97 => self.sync_all().await,
            97..106 => self.cut().await,
            106..109 => self.drain().await,
            109..113 => self.keep_house().await,
            113..115 => self.snapshot().await,
            115..118 => self.network.set_away(!self.network.is_away()),
            118..120 => self.network.lose_replies(1),
            120..124 => self.read().await,
            124..127 => self.recorder.record(self.image(), "between operations"),
            127..130 => self.let_others_run().await,
            _ => self.copy().await,
        }
    }

    pub fn image(&self) -> Machine {
        Machine { disk: self.machine.disk.kill(), bucket: self.network.bucket.fork(), ..self.machine.clone() }
    }

    fn now(&self) -> &State {
        self.states.last().expect("there is a first state")
    }

    fn index(&self) -> usize {
        self.states.len() - 1
    }

    fn time(&self) -> Timestamp {
        now(2_000 + self.states.len() as i64)
    }

    fn pick<T: Clone>(&mut self, items: impl IntoIterator<Item = T>) -> Option<T> {
        let items: Vec<T> = items.into_iter().collect();
        (!items.is_empty()).then(|| items[self.random.random_range(0..items.len())].clone())
    }

    fn any_directory(&mut self) -> InodeId {
        let all: Vec<InodeId> = self.now().names.keys().copied().collect();
        self.pick(all).expect("there is a root")
    }

    fn any_file(&mut self) -> Option<InodeId> {
        let is_file = |(inode, node): (&InodeId, &Arc<Node>)| (node.attributes.kind == Kind::File).then_some(*inode);
        let all: Vec<InodeId> = self.now().nodes.iter().filter_map(is_file).collect();
        self.pick(all)
    }

    fn any_name(&mut self) -> &'static str {
        self.pick(NAMES).expect("names")
    }

    /// A name that is there.
    fn any_entry(&mut self) -> Option<(InodeId, String, InodeId)> {
        let names = self.now().names.iter();
        let all: Vec<_> = names
            .flat_map(|(directory, names)| names.iter().map(|(name, child)| (*directory, name.clone(), *child)))
            .collect();
        self.pick(all)
    }

    /// A place for a new name.
    fn free_place(&mut self) -> Option<(InodeId, &'static str)> {
        let place = (self.any_directory(), self.any_name());
        self.now().get(place.0, place.1).is_none().then_some(place)
    }

    /// Runs an operation: `next` is the state after it.
    async fn run<T>(&mut self, operation: impl Future<Output = Result<T, Error>>, next: impl FnOnce(&mut State, T)) {
        let begun = self.states.len();
        self.recorder.set(|marks| marks.begun = begun);
        match operation.await {
            Ok(value) => {
                let mut state = self.now().clone();
                next(&mut state, value);
                state.drop_unnamed(&self.open);
                self.states.push(state);
                self.recorder.set(|marks| marks.done = begun);
            }
            Err(error) => {
                self.check_error(&error);
                self.recorder.set(|marks| marks.begun = marks.done);
            }
        }
    }

    /// Only what needs the network may fail, and only while it is away.
    fn check_error(&self, error: &Error) {
        assert!(self.network.is_away() && matches!(error, Error::Network(_)), "{error}");
    }

    async fn transact(
        &mut self,
        mut body: impl FnMut(&mut Transaction<'_>) -> Result<(), Stop> + Send,
        next: impl FnOnce(&mut State),
    ) {
        let cache = self.cache.clone();
        self.run(cache.transact(&mut body), |state, ()| next(state)).await;
    }

    async fn create(&mut self) {
        let Some((directory, text)) = self.free_place() else { return };
        let kind = self.pick([Kind::File, Kind::File, Kind::File, Kind::Directory, Kind::Symlink]).expect("kinds");
        let mut given = attributes(kind);
        (given.mode, given.mtime) = (self.random.random_range(0..=0o777), self.time());
        let (cache, wire) = (self.cache.clone(), name(text));
        let operation = cache.transact(|tx| {
            if tx.entry(directory, &wire)?.is_some() {
                return Err(Stop::Errno(17));
            }
            let inode = tx.create(given.clone())?;
            tx.set_entry(directory, &wire, Some(inode))?;
            let mut parent = tx.attributes(directory)?;
            (parent.mtime, parent.ctime) = (given.mtime, given.mtime);
            tx.set_attributes(directory, parent)?;
            Ok((inode, tx.attributes(inode)?))
        });
        self.run(operation, |state, (inode, attributes)| {
            if attributes.kind == Kind::Directory {
                state.names.insert(inode, Arc::default());
            }
            state.nodes.insert(inode, Arc::new(Node { attributes, content: Arc::default() }));
            state.set(directory, text, Some(inode));
        })
        .await;
    }

    /// Bytes none of which is zero, and which no other write has in the same place.
    fn bytes(&mut self) -> Vec<u8> {
        let most = self.pick(SIZES).expect("sizes");
        let length = self.random.random_range(most / 2..most);
        let mut bytes = vec![0; length];
        self.random.fill_bytes(&mut bytes);
        bytes.iter_mut().for_each(|byte| *byte = (*byte).max(1));
        bytes
    }

    async fn write(&mut self) {
        let Some(file) = self.any_file() else { return };
        let size = self.now().nodes[&file].content.len() as u64;
        let offset = match self.random.random_range(0..3) {
            0 => 0,
            _ => self.random.random_range(0..=(size + 1_000).min(LARGEST)),
        };
        self.write_at(file, Position::At(offset), offset).await;
    }

    async fn append(&mut self) {
        let Some(file) = self.any_file() else { return };
        let size = self.now().nodes[&file].content.len() as u64;
        if size < LARGEST {
            self.write_at(file, Position::End, size).await;
        }
    }

    async fn write_at(&mut self, file: InodeId, position: Position, offset: u64) {
        let bytes = self.bytes();
        self.write_bytes(file, position, offset, bytes).await;
    }

    async fn write_bytes(&mut self, file: InodeId, position: Position, offset: u64, bytes: Vec<u8>) {
        let (time, cache) = (self.time(), self.cache.clone());
        let operation = cache.write(file, position, &bytes, |attributes| attributes.mtime = time);
        self.run(operation, |state, _| {
            state.change(file, |node| {
                node.attributes.mtime = time;
                let (start, end) = (offset as usize, offset as usize + bytes.len());
                let content = Arc::make_mut(&mut node.content);
                content.resize(content.len().max(end), 0);
                content[start..end].copy_from_slice(&bytes);
            });
        })
        .await;
    }

    /// Copies all of a file, or some of it, into another or within it.
    async fn copy(&mut self) {
        let (Some(source), Some(mut target)) = (self.any_file(), self.any_file()) else { return };
        if source == target {
            target = self.any_file().expect("a file");
        }
        if self.random.random_bool(0.5) {
            // Else hardly anything would be left of a run that is as long as it has to be.
            let mut bytes = vec![0; LARGEST as usize];
            self.random.fill_bytes(&mut bytes);
            bytes.iter_mut().for_each(|byte| *byte = (*byte).max(1));
            self.write_bytes(source, Position::At(0), 0, bytes).await;
            self.drain().await;
        }
        let size = self.now().nodes[&source].content.len() as u64;
        let (from, to) = match self.random.random_range(0..4) {
            0 => (self.random.random_range(0..=size), self.random.random_range(0..LARGEST)),
            1 => (0, self.random.random_range(0..LARGEST)),
            _ if source == target => (0, size),
            _ => (0, 0),
        };
        let length = (size - from).min(3 * LARGEST - to.min(3 * LARGEST));
        if length == 0 || (source == target && from < to + length && to < from + length) {
            return;
        }
        let (time, cache) = (self.time(), self.cache.clone());
        let note = |attributes: &mut Attributes| attributes.mtime = time;
        let operation = cache.copy((source, from), (target, to), (length, length), note);
        self.run(operation, |state, copied| {
            assert_eq!(copied, length);
            let bytes = state.nodes[&source].content[from as usize..(from + length) as usize].to_vec();
            state.change(target, |node| {
                node.attributes.mtime = time;
                let (start, end) = (to as usize, (to + length) as usize);
                let content = Arc::make_mut(&mut node.content);
                content.resize(content.len().max(end), 0);
                content[start..end].copy_from_slice(&bytes);
            });
        })
        .await;
    }

    async fn resize(&mut self) {
        let Some(file) = self.any_file() else { return };
        let size = self.now().nodes[&file].content.len() as u64;
        let new = match self.random.random_range(0..4) {
            0 => 0,
            1 | 2 => self.random.random_range(0..=size),
            _ => self.random.random_range(0..=LARGEST),
        };
        let resize = |node: &mut Node| Arc::make_mut(&mut node.content).resize(new as usize, 0);
        self.transact(|tx| tx.resize(file, new), |state| state.change(file, resize)).await;
    }

    async fn punch(&mut self) {
        let Some(file) = self.any_file() else { return };
        let (offset, length) = (self.random.random_range(0..LARGEST), self.random.random_range(1..LARGEST / 2));
        let punch = |node: &mut Node| {
            let content = Arc::make_mut(&mut node.content);
            let (start, end) = ((offset as usize).min(content.len()), ((offset + length) as usize).min(content.len()));
            content[start..end].fill(0);
        };
        self.transact(|tx| tx.punch(file, offset, length), |state| state.change(file, punch)).await;
    }

    async fn rename(&mut self) {
        let Some((from, old, child)) = self.any_entry() else { return };
        let (to, new) = (self.any_directory(), self.any_name());
        let now = self.now();
        let (target, directory) = (now.get(to, new), now.is_directory(child));
        let replaces = |target: InodeId| {
            target != child
                && now.is_directory(target) == directory
                && now.names.get(&target).is_none_or(|names| names.is_empty())
        };
        if !target.is_none_or(replaces) || (directory && now.is_below(child, to)) {
            return;
        }
        let (old_wire, new_wire) = (name(&old), name(new));
        let body = move |tx: &mut Transaction<'_>| {
            let child = tx.entry(from, &old_wire)?.ok_or(Stop::Errno(2))?;
            if let Some(target) = tx.entry(to, &new_wire)?
                && directory
                && !tx.is_empty(target)?
            {
                return Err(Stop::Errno(39));
            }
            tx.set_entry(from, &old_wire, None)?;
            tx.set_entry(to, &new_wire, Some(child))
        };
        self.transact(body, |state| {
            state.set(from, &old, None);
            state.set(to, new, Some(child));
        })
        .await;
    }

    async fn exchange(&mut self) {
        let (Some((one, old, first)), Some((two, new, second))) = (self.any_entry(), self.any_entry()) else { return };
        let now = self.now();
        if first == second || now.is_below(first, two) || now.is_below(second, one) {
            return;
        }
        let (old_wire, new_wire) = (name(&old), name(&new));
        let body = move |tx: &mut Transaction<'_>| {
            let first = tx.entry(one, &old_wire)?.ok_or(Stop::Errno(2))?;
            let second = tx.entry(two, &new_wire)?.ok_or(Stop::Errno(2))?;
            tx.set_entry(one, &old_wire, Some(second))?;
            tx.set_entry(two, &new_wire, Some(first))
        };
        self.transact(body, |state| {
            state.set(one, &old, Some(second));
            state.set(two, &new, Some(first));
        })
        .await;
    }

    async fn link(&mut self) {
        let (Some(file), Some((directory, text))) = (self.any_file(), self.free_place()) else { return };
        if self.now().place(file).is_none() {
            return;
        }
        let wire = name(text);
        let body = move |tx: &mut Transaction<'_>| {
            tx.entry(directory, &wire)?;
            tx.set_entry(directory, &wire, Some(file))
        };
        self.transact(body, |state| state.set(directory, text, Some(file))).await;
    }

    async fn remove(&mut self) {
        let Some((directory, text, child)) = self.any_entry() else { return };
        if self.now().names.get(&child).is_some_and(|names| !names.is_empty()) {
            return;
        }
        let wire = name(&text);
        let body = move |tx: &mut Transaction<'_>| {
            let child = tx.entry(directory, &wire)?.ok_or(Stop::Errno(2))?;
            if tx.kind(child)? == Kind::Directory && !tx.is_empty(child)? {
                return Err(Stop::Errno(39));
            }
            tx.set_entry(directory, &wire, None)
        };
        self.transact(body, |state| state.set(directory, &text, None)).await;
    }

    async fn change_attributes(&mut self) {
        let Some(inode) = self.pick(self.now().nodes.keys().copied().collect::<Vec<_>>()) else { return };
        let (what, value, time) = (self.random.random_range(0..5), self.random.random_range(0..0o777), self.time());
        let change = move |attributes: &mut Attributes| match what {
            0 => attributes.mode = value,
            1 => (attributes.uid, attributes.gid) = (value, value + 1),
            2 => (attributes.atime, attributes.mtime, attributes.ctime) = (time, time, time),
            3 => drop(Arc::make_mut(&mut attributes.xattrs).insert(b"user.x".to_vec(), Bytes::from(value.to_string()))),
            _ => drop(Arc::make_mut(&mut attributes.xattrs).remove(&b"user.x"[..])),
        };
        let body = move |tx: &mut Transaction<'_>| {
            let mut attributes = tx.attributes(inode)?;
            change(&mut attributes);
            tx.set_attributes(inode, attributes)
        };
        self.transact(body, |state| state.change(inode, |node| change(&mut node.attributes))).await;
    }

    async fn open_or_close(&mut self) {
        if self.open.len() > 1 {
            let inode = self.open.remove(0);
            let closed = self.cache.try_transact(|tx| {
                tx.unpin(inode, 1);
                Ok(())
            });
            closed.expect("nothing to load").expect("unpinned");
            // What had no name is gone; no state that anybody sees changes.
            let open = self.open.clone();
            self.states.last_mut().expect("a state").drop_unnamed(&open);
        } else if let Some(file) = self.any_file() {
            self.cache.try_transact(|tx| tx.pin(file)).expect("nothing to load").expect("pinned");
            self.open.push(file);
        }
    }

    async fn sync(&mut self) {
        let (file, index) = (self.any_file(), self.index());
        let inode = file.unwrap_or(self.machine.root.inode);
        self.cache.sync(inode, false).await.expect("sync");
        self.recorder.set(|marks| marks.synced(index, file));
    }

    fn sync_beside(&mut self) {
        let (Some(file), state, cache) = (self.any_file(), self.index(), self.cache.clone()) else { return };
        let sync = tokio::spawn(async move { cache.sync(file, true).await });
        self.syncs.push(SyncBeside { state, file, sync });
    }

    async fn let_others_run(&mut self) {
        for _ in 0..self.random.random_range(1..20) {
            tokio::task::yield_now().await;
        }
        let finished: Vec<_> = self.syncs.extract_if(.., |beside| beside.sync.is_finished()).collect();
        for SyncBeside { state, file, sync } in finished {
            sync.await.expect("no panic").expect("sync");
            self.recorder.set(|marks| marks.synced(state, Some(file)));
        }
    }

    async fn sync_all(&mut self) {
        let index = self.index();
        self.cache.sync_all().await.expect("sync");
        self.recorder.set(|marks| marks.all_synced(index));
    }

    /// Takes a cut; sometimes it has time to become a batch and to be sent.
    async fn cut(&mut self) {
        self.cache.cut().await.expect("cut");
        if self.random.random_bool(0.5) {
            self.let_others_run().await;
        }
    }

    async fn drain(&mut self) {
        if !self.network.is_away() {
            let index = self.index();
            self.cache.drain(|_| {}).await.expect("drain");
            self.recorder.set(|marks| marks.all_synced(index));
        }
    }

    async fn keep_house(&mut self) {
        self.cache.keep_house().await.expect("keep house");
    }

    async fn snapshot(&mut self) {
        self.cache.snapshot().await.expect("snapshot");
    }

    async fn read(&mut self) {
        let Some(file) = self.any_file() else { return };
        let content = self.now().nodes[&file].content.clone();
        match self.cache.read(file, 0, LARGEST as usize * 3).await {
            Ok(bytes) => assert!(bytes == **content, "{file} reads wrong: {} of {} bytes", bytes.len(), content.len()),
            Err(error) => self.check_error(&error),
        }
    }

    /// Everything goes up, and is there.
    pub async fn finish(&mut self) {
        self.network.set_away(false);
        self.network.lose_replies(0);
        for inode in std::mem::take(&mut self.open) {
            let closed = self.cache.try_transact(|tx| {
                tx.unpin(inode, 1);
                Ok(())
            });
            closed.expect("nothing to load").expect("unpinned");
        }
        self.drain().await;
        let expected = self.now().picture();
        let found = show(&self.cache).await;
        assert!(found == expected, "after the drain: {}", crate::check::difference(&found, &expected));
        assert_eq!((self.cache.status().conflicts, self.cache.status().unauthentic), (0, 0));
    }
}
