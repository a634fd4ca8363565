//! What programs do on a mount, and what it is to show then.

use crate::mount::{GONE, Seen};
use crate::support::ROOT;
use crate::{Mix, Run};
use rand::RngExt;
use rand::seq::IndexedRandom;
use rustix::io::Errno;
use strewn_cache::Position;
use strewn_engine::ids::InodeId;
use strewn_fs::volume::path::{Last, Reference};
use strewn_fs::volume::{Open, RenameMode, SetAttributes, WriteMode};

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
/// Directories in one another.
const DEPTH: usize = 3;
const EXCLUSIVE: Open =
    Open { read: true, write: true, truncate: false, exclusive: true, no_atime: false, direct: false };
/// Of a hundred operations, those that only some mixes have.
const SPECIAL: u32 = 30;
/// A file is not cut shorter: what is left of it tells it from others.
const SHORTEST: usize = 40;

impl Run {
    pub(crate) async fn operation(&mut self) {
        if !self.mount().link.is_away() && self.bucket.snapshot().sequence > self.mount().heard {
            // Programs see what it found out by itself.
            self.compare().await;
        }
        let special: Vec<Mix> =
            [Mix::Moves, Mix::Links, Mix::Parts, Mix::Modes].into_iter().filter(|kind| self.mix.has(*kind)).collect();
        if !special.is_empty() && self.random.random_ratio(SPECIAL, 100) {
            return match special.choose(&mut self.random) {
                Some(Mix::Moves) => self.move_directory().await,
                Some(Mix::Links) => self.link().await,
                Some(Mix::Modes) => self.change_mode().await,
                _ => self.write_part().await,
            };
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
        self.replaced(inode, &old, new);
    }

    async fn rename(&mut self) {
        let paths: Vec<(String, Seen)> = self.mount().view.clone().into_iter().collect();
        let Some((from, moved)) = paths.choose(&mut self.random).cloned() else { return };
        let Some((parent, name)) = self.place() else { return };
        let to = format!("{parent}/{name}");
        let there = self.mount().view.get(&to).cloned();
        // Two names of one file: nothing happens.
        let same = |there: &Seen| there.inode == moved.inode;
        let blocks = |there: &Seen| there.content.is_none() || (same(there) && !self.mix.has(Mix::Links));
        if moved.content.is_none() || there.as_ref().is_some_and(blocks) {
            return;
        }
        self.trace(&format!("rename {from} to {to}"));
        let mount = &self.mounts[self.at];
        let (old_parent, old_name) = from.rsplit_once('/').expect("a path");
        let old_parent = mount.paths().resolve(old_parent.as_bytes(), Last::Keep).await.expect("it is there");
        let new_parent = mount.paths().resolve(parent.as_bytes(), Last::Keep).await.expect("it is there");
        let exclusive = there.is_none() && self.step.is_multiple_of(2);
        let nothing = there.as_ref().is_some_and(same);
        let mode = if exclusive { RenameMode::NoReplace } else { RenameMode::Replace };
        let (old, new) = ((old_parent.inode(), old_name.as_bytes()), (new_parent.inode(), name.as_bytes()));
        mount.volume.rename(old.0, old.1, new.0, new.1, mode).await.expect("rename");
        if nothing {
            return;
        }
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

    /// Moves a directory with all that is in it, perhaps over an empty one.
    async fn move_directory(&mut self) {
        let directories = self.mount().view.iter().filter(|(_, seen)| seen.content.is_none());
        let directories: Vec<(String, InodeId)> = directories.map(|(path, seen)| (path.clone(), seen.inode)).collect();
        let Some((from, inode)) = directories.choose(&mut self.random).cloned() else { return };
        let Some((parent, name)) = self.place() else { return };
        let to = format!("{parent}/{name}");
        let within = |path: &String, directory: &str| path.starts_with(&format!("{directory}/"));
        let view = &self.mounts[self.at].view;
        let expected = match view.get(&to) {
            Some(there) if there.inode == inode => Ok(()),
            _ if within(&to, &from) => Err(Errno::INVAL),
            Some(Seen { content: Some(_), .. }) => Err(Errno::NOTDIR),
            Some(_) if view.keys().any(|path| within(path, &to)) => Err(Errno::NOTEMPTY),
            _ => Ok(()),
        };
        self.trace(&format!("move {from} to {to}"));
        let (old_parent, old_name) = from.rsplit_once('/').expect("a path");
        let (old_parent, new_parent) = (self.held(old_parent).await, self.held(&parent).await);
        let (old, new) = ((old_parent.inode(), old_name.as_bytes()), (new_parent.inode(), name.as_bytes()));
        let moved = self.mount().volume.rename(old.0, old.1, new.0, new.1, RenameMode::Replace).await;
        assert_eq!(moved.map_err(|error| error.errno()), expected, "{from} to {to}");
        if expected.is_err() || from == to {
            return;
        }
        self.moved.insert(inode);
        let view = &mut self.mount().view;
        let inside: Vec<String> = view.keys().filter(|path| **path == from || within(path, &from)).cloned().collect();
        for path in inside {
            let seen = view.remove(&path).expect("it is there");
            view.insert(format!("{to}{}", &path[from.len()..]), seen);
        }
    }

    /// Gives a file another name.
    async fn link(&mut self) {
        let Some((path, seen)) = self.file() else { return };
        let Some((parent, name)) = self.place() else { return };
        let to = format!("{parent}/{name}");
        self.trace(&format!("link {path} as {to}"));
        let parent = self.held(&parent).await;
        let _reference = self.held(&path).await;
        let mount = &mut self.mounts[self.at];
        let linked = mount.volume.link(seen.inode, parent.inode(), name.as_bytes()).await;
        if mount.view.contains_key(&to) {
            assert_eq!(linked.expect_err("the name is taken").errno(), Errno::EXIST);
            return;
        }
        let _entry = linked.expect("link");
        mount.volume.forget(seen.inode, 1);
        mount.view.insert(to, seen.clone());
    }

    async fn change_mode(&mut self) {
        let Some((path, seen)) = self.file() else { return };
        let mode = 0o600 | self.random.random_range(0..0o100);
        self.trace(&format!("chmod {mode:o} {path}"));
        let _reference = self.held(&path).await;
        let change = SetAttributes { mode: Some(mode), ..SetAttributes::default() };
        let volume = &self.mounts[self.at].volume;
        let changed = volume.setattr(ROOT, seen.inode, change).await.expect("chmod");
        assert_eq!(changed.attributes.mode & 0o7777, mode, "{path}");
    }

    /// Writes into the middle of a file or behind its end, or changes its length.
    async fn write_part(&mut self) {
        let Some((path, Seen { inode, content: Some(old) })) = self.file() else { return };
        if old.len() < SHORTEST || old == GONE {
            return;
        }
        let _reference = self.held(&path).await;
        let mut new = old.clone();
        if self.random.random_ratio(1, 3) {
            let length = self.random.random_range(SHORTEST..old.len() + old.len() / 4 + 1);
            self.trace(&format!("resize {path} from {} to {length}", old.len()));
            let change = SetAttributes { size: Some(length as u64), ..SetAttributes::default() };
            self.mount().volume.setattr(ROOT, inode, change).await.expect("resize");
            new.resize(length, 0);
        } else {
            let part = self.bytes(&path);
            // What tells it from others stays.
            let offset = self.random.random_range(SHORTEST..=old.len() + old.len() / 8);
            self.trace(&format!("write {} at {offset} of {path}, {} long", part.len(), old.len()));
            self.put(inode, offset as u64, &part).await;
            new.resize(old.len().max(offset + part.len()), 0);
            new[offset..offset + part.len()].copy_from_slice(&part);
        }
        if new == old {
            return;
        }
        let only_longer = new.starts_with(&old) && new[old.len()..].iter().all(|byte| *byte == 0);
        self.replaced(inode, &old, new.clone());
        if only_longer {
            // A length alone counts as an attribute: who changes the file elsewhere wins.
            self.gone(&new);
            self.mount().perhaps.insert(new);
        }
    }

    // -- what that means --

    /// What a path names, held.
    async fn held(&self, path: &str) -> Reference {
        self.mounts[self.at].paths().resolve(path.as_bytes(), Last::Keep).await.expect("it is there")
    }

    /// A file has another content.
    fn replaced(&mut self, inode: InodeId, old: &Vec<u8>, new: Vec<u8>) {
        for seen in self.mount().view.values_mut().filter(|seen| seen.inode == inode) {
            seen.content = Some(new.clone());
        }
        self.gone_from(inode, old);
        self.wrote(inode, new);
    }

    async fn put(&mut self, inode: InodeId, offset: u64, bytes: &[u8]) {
        let mode = WriteMode { position: Position::At(offset), unprivileged: None };
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

    /// The same of what a file showed; of one that could not be read, whatever it was.
    fn gone_from(&mut self, inode: InodeId, content: &Vec<u8>) {
        if content != GONE {
            return self.gone(content);
        }
        let written = self.mounts[self.at].unsent.clone().into_iter();
        let written: Vec<_> = written.filter(|content| self.live.get(content) == Some(&inode)).collect();
        written.iter().for_each(|content| self.gone(content));
    }

    fn lost_name(&mut self, seen: &Seen) {
        if self.mount().view.values().any(|other| other.inode == seen.inode) {
            return;
        }
        if let Some(content) = &seen.content {
            self.gone_from(seen.inode, content);
            if self.mix.has(Mix::Links) {
                self.mount().perhaps.insert(content.clone());
            }
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
