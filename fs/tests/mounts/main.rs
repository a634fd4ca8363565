//! Two mounts of one bucket under random operations, with lines that are cut, deaths, and news that come when they come.
//! Every observation is checked against the contract:
//!
//! - a mount sees its own writes, and nothing changes there but by it, by news, or by a refusal of the network;
//! - what another mount has not committed is never seen;
//! - once the news were heard, a mount without changes of its own shows what a fresh mount shows;
//! - a file is always some version that was written as a whole;
//! - nothing acknowledged is lost: a version stays, at its name or in a conflict copy, until somebody who could see it
//!   replaces or removes it.
//!
//! Not among the operations: hard links, moves of directories, and writes to a part of a file. A process dies with changes
//! pending only while the other mount has committed nothing that it has not heard of.
//!
//! `STREWN_SEED` repeats a run; it is printed when one fails. `STREWN_SEEDS` and `STREWN_OPERATIONS` make it longer, and
//! `STREWN_TRACE` tells what happens.

mod link;
mod mount;
#[path = "../support/mod.rs"]
mod support;

use mount::{GONE, Mount, Seen, View, fresh_view, show, view};
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use strewn_cache::Position;
use strewn_engine::bucket::memory::MemoryBucket;
use strewn_engine::ids::InodeId;
use strewn_fs::volume::path::Last;
use strewn_fs::volume::{Open, RenameMode, SetAttributes, WriteMode};
use support::ROOT;

/// Nothing takes so long.
const PATIENCE: Duration = Duration::from_secs(60);
const SEEDS: u64 = 60;
/// Seeds that failed once.
const FAILED: [u64; 21] =
    [37, 144, 241, 265, 281, 314, 318, 332, 344, 348, 368, 501, 536, 546, 560, 687, 721, 880, 888, 913, 1224];
const OPERATIONS: usize = 250;
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
/// Directories in one another.
const DEPTH: usize = 3;
/// Rounds of sending and hearing after which two mounts must agree.
const ROUNDS: usize = 6;
const EXCLUSIVE: Open = Open { read: true, write: true, truncate: false, exclusive: true, no_atime: false };

#[test]
fn two_mounts_keep_the_contract() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let operations = number("STREWN_OPERATIONS").map_or(OPERATIONS, |count| count as usize);
    let seeds = match number("STREWN_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("STREWN_SEEDS").unwrap_or(SEEDS),
    };
    seeds.for_each(|seed| run(seed, operations));
}

#[test]
fn seeds_that_failed() {
    FAILED.into_iter().for_each(|seed| run(seed, OPERATIONS));
}

fn run(seed: u64, operations: usize) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let history = || async {
        let run = async { Run::new(seed).await.run(operations).await };
        tokio::time::timeout(PATIENCE, run).await.expect("it comes to an end");
    };
    let ran = std::panic::catch_unwind(|| runtime.block_on(history()));
    if let Err(panic) = ran {
        eprintln!("seed: STREWN_SEED={seed} STREWN_OPERATIONS={operations}");
        std::panic::resume_unwind(panic);
    }
}

struct Run {
    random: ChaCha8Rng,
    bucket: MemoryBucket,
    mounts: Vec<Mount>,
    /// Which mount acts.
    at: usize,
    step: usize,
    /// Contents that may be on the network.
    public: BTreeSet<Vec<u8>>,
    /// Inodes that were moved.
    moved: BTreeSet<InodeId>,
    /// Contents that must not be lost, with the inode they were written to.
    live: BTreeMap<Vec<u8>, InodeId>,
}

impl Run {
    async fn new(seed: u64) -> Self {
        let bucket = support::bucket();
        let mounts = vec![Mount::new("one", &bucket).await, Mount::new("two", &bucket).await];
        let random = ChaCha8Rng::seed_from_u64(seed);
        let (public, moved, live) = (BTreeSet::new(), BTreeSet::new(), BTreeMap::new());
        Self { random, bucket, mounts, at: 0, step: 0, public, moved, live }
    }

    async fn run(mut self, operations: usize) {
        for at in 0..self.mounts.len() {
            // As a look around would: what is listed is known, also while the line is cut.
            self.at = at;
            self.hear_all().await;
        }
        for step in 0..operations {
            self.step = step;
            self.at = self.random.random_range(0..self.mounts.len());
            match self.random.random_range(0..100) {
                0..10 => self.send().await,
                10..22 => self.hear().await,
                22..25 => self.cut_or_mend().await,
                25..28 => self.crash().await,
                28..33 => self.compare().await,
                _ => self.operation().await,
            }
            if std::env::var_os("STREWN_TRACE").is_some() {
                self.compare().await;
            }
        }
        self.finish().await;
    }

    fn mount(&mut self) -> &mut Mount {
        &mut self.mounts[self.at]
    }

    fn trace(&self, what: &str) {
        if std::env::var_os("STREWN_TRACE").is_some() {
            eprintln!("{} {}: {what}", self.step, self.mounts[self.at].host);
        }
    }

    // -- what happens to a mount --

    /// Brings everything to the network.
    async fn send(&mut self) {
        if self.mount().link.is_away() {
            return;
        }
        self.trace("send");
        self.compare().await;
        let others_committed = self.bucket.snapshot().sequence > self.mount().heard;
        self.publish();
        let (host, before) = (self.mount().host, self.mount().view.clone());
        self.mount().cache().drain(|_| {}).await.unwrap_or_else(|error| panic!("{host}: {error}"));
        self.mount().cache().catch_up(0).await.expect("what was missed is loaded");
        self.look().await;
        if !others_committed {
            assert_same(host, "before sending", &self.mount().view, &before);
        }
        self.publish();
        let mount = &mut self.mounts[self.at];
        if !others_committed {
            mount.heard = self.bucket.snapshot().sequence;
        }
        mount.unsent.clear();
        let mut removed = std::mem::take(&mut mount.removed);
        if !removed.is_empty() {
            // What has more names stays, unless others removed those.
            let fresh = fresh_view(&self.bucket).await;
            removed.retain(|inode| fresh.values().all(|seen| seen.inode != *inode));
        }
        // Whoever removes a file removes what is on the network of it, not what another mount is about to send.
        let unsent: BTreeSet<&Vec<u8>> = self.mounts.iter().flat_map(|mount| &mount.unsent).collect();
        self.live.retain(|content, written_to| !removed.contains(written_to) || unsent.contains(content));
        if others_committed {
            // A refusal told some of what others did; now all of it is told.
            self.hear_all().await;
        }
    }

    /// Lets the news through.
    async fn hear(&mut self) {
        if self.mount().link.is_away() {
            return;
        }
        self.trace("hear");
        self.compare().await;
        self.hear_all().await;
        if !self.mount().has_pending() {
            let (fresh, mount) = (fresh_view(&self.bucket).await, &self.mounts[self.at]);
            assert_same(mount.host, "a fresh mount", &mount.view, &fresh);
        }
    }

    async fn hear_all(&mut self) {
        let sequence = self.bucket.snapshot().sequence;
        let mount = self.mount();
        mount.link.let_through(sequence);
        mount.cache().catch_up(sequence).await.expect("the news come");
        if !mount.has_pending() {
            mount.heard = sequence;
        }
        self.look().await;
    }

    async fn cut_or_mend(&mut self) {
        let away = !self.mount().link.is_away();
        self.trace(if away { "the line is cut" } else { "the line is mended" });
        self.mount().link.set_away(away);
    }

    /// A process dies, with everything pending if nobody else committed anything meanwhile.
    async fn crash(&mut self) {
        if self.mount().has_pending() && self.bucket.snapshot().sequence > self.mount().heard {
            return;
        }
        self.trace("crash");
        self.compare().await;
        self.mount().crash().await;
        // What it forgot it needs the network for, and it hears what it missed.
        self.mount().link.set_away(false);
        self.hear_all().await;
    }

    /// Takes what a mount shows now as what it is to show, once it has been found to be allowed.
    async fn look(&mut self) {
        let mount = &mut self.mounts[self.at];
        let now = mount.settled_view().await;
        let before = std::mem::replace(&mut mount.view, now);
        let shown: BTreeSet<&Vec<u8>> = mount.view.values().filter_map(|seen| seen.content.as_ref()).collect();
        for (path, seen) in &mount.view {
            let Some(content) = &seen.content else { continue };
            let known = self.public.contains(content) || mount.own.contains(content) || content == GONE;
            assert!(known, "{}: {path} shows what nobody committed:\n{}", mount.host, show(&mount.view));
        }
        for content in &mount.unsent {
            if self.live.get(content).is_some_and(|inode| self.moved.contains(inode)) {
                // Where somebody else moved it to, something else may be here until that has been settled.
                continue;
            }
            let text = String::from_utf8_lossy(&content[..content.len().min(24)]).into_owned();
            let (host, before, now) = (mount.host, show(&before), show(&mount.view));
            assert!(shown.contains(content), "{host} lost {text:?}\nbefore:\n{before}\nnow:\n{now}");
        }
        assert_eq!(mount.cache().status().unauthentic, 0);
        if std::env::var_os("STREWN_TRACE").is_some() && before != mount.view {
            let known = |path: &String| before.get(path) == mount.view.get(path);
            let changed = before.keys().chain(mount.view.keys()).filter(|path| !known(path)).collect::<BTreeSet<_>>();
            for path in changed {
                let line = |view: &View| {
                    let Some(seen) = view.get(path) else { return String::from("nothing") };
                    show(&View::from([(path.clone(), seen.clone())]))
                };
                eprintln!("    {} -> {}", line(&before), line(&mount.view));
            }
        }
    }

    /// A mount shows what it showed before, with its own operations since; or what the network has, where it looked by itself
    /// before the news came.
    async fn compare(&mut self) {
        let mount = &self.mounts[self.at];
        if !mount.link.is_away() {
            let found = mount.settled_view().await;
            let ahead = self.bucket.snapshot().sequence > mount.heard;
            if found == mount.view || !ahead {
                return assert_same(mount.host, "expected", &found, &mount.view);
            }
            let fresh = fresh_view(&self.bucket).await;
            for path in found.keys().chain(mount.view.keys()) {
                let (now, before, there) = (found.get(path), mount.view.get(path), fresh.get(path));
                let what = || format!("{}: {path} is not what the network has\n{}", mount.host, show(&found));
                // With the content that was changed here, or none any more if it was removed.
                let gone = now.is_some_and(|now| now.content.as_deref() == Some(GONE));
                let inode = |seen: Option<&Seen>| seen.map(|seen| seen.inode);
                let known = inode(now) == inode(before) || inode(now) == inode(there);
                assert!(known || gone || path.contains("(conflict "), "{}", what());
            }
            return self.look().await;
        }
        // What is changed here is here.
        for (path, seen) in &mount.view {
            if seen.content.as_ref().is_some_and(|content| mount.unsent.contains(content)) {
                let read = mount.volume.read(seen.inode, 0, 1 << 20).await;
                assert!(read.is_ok_and(|bytes| Some(bytes.to_vec()) == seen.content), "{}: {path}", mount.host);
            }
        }
    }

    fn publish(&mut self) {
        let shown = self.mounts[self.at].view.values().filter_map(|seen| seen.content.clone());
        self.public.extend(shown);
    }

    /// Everything goes up and is heard of; then all agree and nothing is lost.
    async fn finish(mut self) {
        for mount in &self.mounts {
            mount.link.set_away(false);
        }
        for _ in 0..ROUNDS {
            for at in 0..self.mounts.len() {
                self.at = at;
                self.send().await;
            }
            for at in 0..self.mounts.len() {
                self.at = at;
                self.hear_all().await;
            }
            if !self.mounts.iter().any(Mount::has_pending) {
                break;
            }
        }
        let fresh = fresh_view(&self.bucket).await;
        for mount in &self.mounts {
            assert!(!mount.has_pending(), "{} does not come to an end: {:?}", mount.host, mount.cache().status());
            assert_same(mount.host, "a fresh mount", &view(&mount.volume).await, &fresh);
        }
        let kept: BTreeSet<&Vec<u8>> = fresh.values().filter_map(|seen| seen.content.as_ref()).collect();
        for content in self.live.keys() {
            let text = String::from_utf8_lossy(&content[..content.len().min(24)]).into_owned();
            assert!(kept.contains(content), "{text:?} is lost:\n{}", show(&fresh));
        }
        for mount in &self.mounts {
            mount.cache().close().await.expect("close");
        }
    }

    // -- what programs do --

    async fn operation(&mut self) {
        if !self.mount().link.is_away() && self.bucket.snapshot().sequence > self.mount().heard {
            // Programs see what it found out by itself.
            self.compare().await;
        }
        match self.random.random_range(0..100) {
            0..30 => self.create().await,
            30..38 => self.make_directory().await,
            38..62 => self.write().await,
            62..78 => self.rename().await,
            78..93 => self.unlink().await,
            _ => self.remove_directory().await,
        }
    }

    async fn create(&mut self) {
        let Some((parent, name)) = self.place() else { return };
        let path = format!("{parent}/{name}");
        self.trace(&format!("create {path}"));
        let mount = &self.mounts[self.at];
        let parent = mount.paths().resolve(parent.as_bytes(), Last::Keep).await.expect("it is there");
        let made = mount.volume.create(ROOT, parent.inode(), name.as_bytes(), 0o644, EXCLUSIVE).await;
        if mount.view.contains_key(&path) {
            assert_eq!(made.expect_err("the name is taken").errno(), Errno::EXIST);
            return;
        }
        let inode = made.expect("create").0.stat.inode;
        let content = self.bytes("");
        self.put(inode, 0, &content).await;
        self.mount().volume.forget(inode, 1);
        self.mount().view.insert(path, Seen { inode, content: Some(content.clone()) });
        self.wrote(inode, content);
    }

    async fn make_directory(&mut self) {
        let Some((parent, name)) = self.place() else { return };
        let path = format!("{parent}/{name}");
        if parent.matches('/').count() >= DEPTH {
            return;
        }
        self.trace(&format!("mkdir {path}"));
        let mount = &self.mounts[self.at];
        let parent = mount.paths().resolve(parent.as_bytes(), Last::Keep).await.expect("it is there");
        let made = mount.volume.mkdir(ROOT, parent.inode(), name.as_bytes(), 0o755).await;
        if mount.view.contains_key(&path) {
            assert_eq!(made.expect_err("the name is taken").errno(), Errno::EXIST);
            return;
        }
        let inode = made.expect("mkdir").stat.inode;
        self.mount().volume.forget(inode, 1);
        self.mount().view.insert(path, Seen { inode, content: None });
    }

    async fn write(&mut self) {
        let Some((path, Seen { inode, content: Some(old), .. })) = self.file() else { return };
        self.trace(&format!("write {path}"));
        let new = self.bytes(&path);
        let _reference = self.mounts[self.at].paths().resolve(path.as_bytes(), Last::Keep).await.expect("it is there");
        let change = SetAttributes { size: Some(0), ..SetAttributes::default() };
        self.mount().volume.setattr(ROOT, inode, change).await.expect("truncate");
        self.put(inode, 0, &new).await;
        for seen in self.mount().view.values_mut().filter(|seen| seen.inode == inode) {
            seen.content = Some(new.clone());
        }
        self.gone(&old);
        self.wrote(inode, new);
    }

    async fn rename(&mut self) {
        let paths: Vec<(String, Seen)> = self.mount().view.clone().into_iter().collect();
        let Some((from, moved)) = paths.choose(&mut self.random).cloned() else { return };
        let Some((parent, name)) = self.place() else { return };
        let to = format!("{parent}/{name}");
        let there = self.mount().view.get(&to).cloned();
        let blocks = |there: &Seen| there.content.is_none() || there.inode == moved.inode;
        if moved.content.is_none() || there.as_ref().is_some_and(blocks) {
            return;
        }
        self.trace(&format!("rename {from} to {to}"));
        let mount = &self.mounts[self.at];
        let (old_parent, old_name) = from.rsplit_once('/').expect("a path");
        let old_parent = mount.paths().resolve(old_parent.as_bytes(), Last::Keep).await.expect("it is there");
        let new_parent = mount.paths().resolve(parent.as_bytes(), Last::Keep).await.expect("it is there");
        let exclusive = there.is_none() && self.step.is_multiple_of(2);
        let mode = if exclusive { RenameMode::NoReplace } else { RenameMode::Replace };
        let (old, new) = ((old_parent.inode(), old_name.as_bytes()), (new_parent.inode(), name.as_bytes()));
        mount.volume.rename(old.0, old.1, new.0, new.1, mode).await.expect("rename");
        if let Some(there) = there {
            self.mount().view.remove(&to);
            self.lost_name(&there);
        }
        self.moved.insert(moved.inode);
        let view = &mut self.mount().view;
        let seen = view.remove(&from).expect("it is there");
        view.insert(to, seen);
    }

    async fn unlink(&mut self) {
        let Some((path, seen)) = self.file() else { return };
        self.trace(&format!("unlink {path}"));
        self.mount().paths().remove(path.as_bytes()).await.expect("unlink");
        self.mount().view.remove(&path);
        self.lost_name(&seen);
    }

    async fn remove_directory(&mut self) {
        let view = &self.mount().view;
        let is_empty = |path: &String| !view.keys().any(|other| other.starts_with(&format!("{path}/")));
        let empty = view.iter().filter(|(path, seen)| seen.content.is_none() && is_empty(path));
        let empty: Vec<String> = empty.map(|(path, _)| path.clone()).collect();
        let Some(path) = empty.choose(&mut self.random).cloned() else { return };
        self.trace(&format!("rmdir {path}"));
        self.mount().paths().remove(path.as_bytes()).await.expect("rmdir");
        self.mount().view.remove(&path);
    }

    // -- what that means --

    async fn put(&mut self, inode: InodeId, offset: u64, bytes: &[u8]) {
        let mode = WriteMode { position: Position::At(offset), drop_set_id: false };
        self.mount().volume.write(inode, bytes, mode).await.expect("write");
    }

    fn wrote(&mut self, inode: InodeId, content: Vec<u8>) {
        let mount = self.mount();
        mount.own.insert(content.clone());
        mount.unsent.insert(content.clone());
        self.live.insert(content, inode);
    }

    /// A content was replaced or removed by somebody who saw it.
    fn gone(&mut self, content: &Vec<u8>) {
        self.mount().unsent.remove(content);
        self.live.remove(content);
    }

    fn lost_name(&mut self, seen: &Seen) {
        self.mount().removed.insert(seen.inode);
        if self.mount().view.values().any(|other| other.inode == seen.inode) {
            return;
        }
        if let Some(content) = &seen.content {
            self.gone(content);
        }
    }

    /// Bytes that were never written before.
    fn bytes(&mut self, path: &str) -> Vec<u8> {
        let most = *[30, 3_000, 40_000, 150_000].choose(&mut self.random).expect("not empty");
        let length = self.random.random_range(20..most);
        let text = format!("<{} {} {path}>", self.step, self.mounts[self.at].host);
        text.bytes().cycle().take(length).collect()
    }

    fn place(&mut self) -> Option<(String, &'static str)> {
        let view = &self.mounts[self.at].view;
        let mut directories: Vec<String> =
            view.iter().filter(|(_, seen)| seen.content.is_none()).map(|(path, _)| path.clone()).collect();
        directories.push(String::new());
        Some((directories.choose(&mut self.random)?.clone(), NAMES.choose(&mut self.random)?))
    }

    fn file(&mut self) -> Option<(String, Seen)> {
        let files = self.mounts[self.at].view.iter().filter(|(_, seen)| seen.content.is_some());
        let files: Vec<(String, Seen)> = files.map(|(path, seen)| (path.clone(), seen.clone())).collect();
        files.choose(&mut self.random).cloned()
    }
}

fn assert_same(host: &str, what: &str, found: &View, expected: &View) {
    if found != expected {
        let only = |view: &View, other: &View| {
            let own = view.iter().filter(|(path, seen)| other.get(*path) != Some(seen));
            show(&own.map(|(path, seen)| (path.clone(), seen.clone())).collect())
        };
        let (found, expected) = (only(found, expected), only(expected, found));
        panic!("{host} differs from {what}\nonly there:\n{found}\nonly {what}:\n{expected}");
    }
}
