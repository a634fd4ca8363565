//! A cache over a bucket in memory, and shorthand for what a drive does with it.

#![allow(dead_code, unreachable_pub)] // every test binary uses its part

pub mod lines;
pub mod two;

use lines::Lines;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use strewn_cache::disk::MemoryDisk;
use strewn_cache::journal::BootId;
use strewn_cache::{Cache, Error, Name, Options, Position, Root, Stop};
use strewn_engine::bucket::memory::MemoryBucket;
use strewn_engine::bucket::{BucketSettings, Cipher, Kind, Timestamp};
use strewn_engine::content::window;
use strewn_engine::ids::{BucketId, InodeId};
use strewn_engine::keys::InodeKeys;
use strewn_engine::record::{Attributes, Record};
use strewn_engine::secret::Key;

/// Longest a test waits for anything.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn now(seconds: i64) -> Timestamp {
    Timestamp { seconds, nanos: 0 }
}

pub fn attributes(kind: Kind) -> Attributes {
    let moment = now(1_000);
    Attributes {
        kind,
        mode: 0o644,
        uid: 1,
        gid: 2,
        size: 0,
        atime: moment,
        mtime: moment,
        ctime: moment,
        btime: moment,
        rdev: 0,
        target: if kind == Kind::Symlink { "target".into() } else { Default::default() },
        xattrs: Default::default(),
    }
}

/// A bucket with its root.
pub fn bucket(segment_size: u64) -> (MemoryBucket, Root) {
    let root = Root { inode: InodeId::from_bytes([9; 16]), key: Key::from_bytes([7; 32]) };
    let settings = BucketSettings {
        bucket: BucketId::from_bytes([5; 16]),
        root: root.inode,
        segment_size,
        cipher: Cipher::Aes256Gcm,
        epoch: 1,
    };
    let record = Record {
        attributes: attributes(Kind::Directory),
        content: window::content_hash(&[]),
        entries_as_of: Timestamp::default(),
        allocated: None,
    };
    let sealed = InodeKeys::new(&root.key).seal_record(root.inode, Kind::Directory, 1, &record);
    (MemoryBucket::new(settings, sealed), root)
}

/// Cuts only when asked to (drain), so that tests decide what goes into one.
pub fn options() -> Options {
    Options {
        cut_idle: Duration::from_secs(3600),
        cut_age: Duration::from_secs(3600),
        deadline: Duration::from_secs(20),
        ..Options::default()
    }
}

pub async fn open(directory: &Path, bucket: &MemoryBucket, root: &Root, options: Options) -> Cache {
    Cache::open(directory, Arc::new(bucket.clone()), root.clone(), options).await.expect("the cache opens")
}

/// Opens a cache on a disk in memory, in the one boot of its machine.
pub async fn open_on(disk: &MemoryDisk, bucket: &MemoryBucket, root: &Root, options: Options) -> Cache {
    open_in(disk, 1, bucket, root, options).await
}

/// Opens a cache on a disk in memory, in a given boot of its machine.
pub async fn open_in(disk: &MemoryDisk, boot: u8, bucket: &MemoryBucket, root: &Root, options: Options) -> Cache {
    let boot = BootId([boot; 16]);
    Cache::open_on(Arc::new(disk.clone()), boot, Arc::new(bucket.clone()), root.clone(), options)
        .await
        .expect("the cache opens")
}

/// Opens a cache on a disk in memory that reaches its bucket over these lines, in the one boot of its machine.
pub async fn open_over(disk: &MemoryDisk, lines: &Arc<Lines>, root: &Root, options: Options) -> Cache {
    Cache::open_on(Arc::new(disk.clone()), BootId([1; 16]), lines.clone(), root.clone(), options)
        .await
        .expect("the cache opens")
}

pub fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a valid name")
}

pub async fn create(cache: &Cache, directory: InodeId, text: &str, kind: Kind) -> InodeId {
    let name = name(text);
    cache
        .transact(|tx| {
            if tx.entry(directory, &name)?.is_some() {
                return Err(Stop::Errno(17));
            }
            let inode = tx.create(attributes(kind))?;
            tx.set_entry(directory, &name, Some(inode))?;
            let mut parent = tx.attributes(directory)?;
            (parent.mtime, parent.ctime) = (now(2_000), now(2_000));
            tx.set_attributes(directory, parent)?;
            Ok(inode)
        })
        .await
        .expect("create")
}

pub async fn lookup(cache: &Cache, directory: InodeId, text: &str) -> Option<InodeId> {
    let name = name(text);
    cache.transact(|tx| tx.entry(directory, &name)).await.expect("lookup")
}

/// The same, and it is not forgotten until it is let go.
pub async fn hold(cache: &Cache, directory: InodeId, text: &str) -> Option<InodeId> {
    let name = name(text);
    cache
        .transact(|tx| {
            let found = tx.entry(directory, &name)?;
            found.into_iter().try_for_each(|inode| tx.pin(inode))?;
            Ok(found)
        })
        .await
        .expect("hold")
}

pub async fn let_go(cache: &Cache, inode: InodeId) {
    cache
        .transact(|tx| {
            tx.unpin(inode, 1);
            Ok(())
        })
        .await
        .expect("let go");
}

pub async fn unlink(cache: &Cache, directory: InodeId, text: &str) {
    let name = name(text);
    cache
        .transact(|tx| {
            let child = tx.entry(directory, &name)?.ok_or(Stop::Errno(2))?;
            tx.set_entry(directory, &name, None)?;
            let mut gone = tx.attributes(child)?;
            gone.ctime = now(3_000);
            tx.set_attributes(child, gone)
        })
        .await
        .expect("unlink");
}

pub async fn rename(cache: &Cache, from: InodeId, old: &str, to: InodeId, new: &str) {
    let (old, new) = (name(old), name(new));
    cache
        .transact(|tx| {
            let child = tx.entry(from, &old)?.ok_or(Stop::Errno(2))?;
            tx.set_entry(from, &old, None)?;
            tx.set_entry(to, &new, Some(child))
        })
        .await
        .expect("rename");
}

pub async fn write(cache: &Cache, inode: InodeId, offset: u64, data: &[u8]) {
    cache.write(inode, Position::At(offset), data, |_| {}).await.expect("write");
}

pub async fn read_all(cache: &Cache, inode: InodeId) -> Vec<u8> {
    let size = cache.transact(|tx| tx.attributes(inode)).await.expect("attributes").size;
    let bytes = cache.read(inode, 0, size as usize).await.expect("read");
    assert_eq!(bytes.len() as u64, size);
    bytes.to_vec()
}

pub async fn resize(cache: &Cache, inode: InodeId, size: u64) {
    cache.transact(|tx| tx.resize(inode, size)).await.expect("resize");
}

pub async fn punch(cache: &Cache, inode: InodeId, offset: u64, length: u64) {
    cache.transact(|tx| tx.punch(inode, offset, length)).await.expect("punch");
}

pub async fn drain(cache: &Cache) {
    tokio::time::timeout(PATIENCE, cache.drain(|_| {})).await.expect("in time").expect("drain");
}

/// Everything below a directory: path -> (attributes without times, nlink, inode, bytes of files).
pub type Picture = BTreeMap<String, (Attributes, u32, InodeId, Vec<u8>)>;

pub async fn picture(cache: &Cache) -> Picture {
    let mut picture = Picture::new();
    let mut open = vec![(String::new(), cache.root())];
    while let Some((path, directory)) = open.pop() {
        let mut after = 0;
        loop {
            let lines = cache.transact(|tx| tx.read_dir(directory, after, 7)).await.expect("read_dir");
            let Some(last) = lines.last() else { break };
            after = last.cookie;
            for line in lines {
                let path = format!("{path}/{}", line.name);
                let (mut attributes, nlink) =
                    cache.transact(|tx| Ok((tx.attributes(line.inode)?, tx.nlink(line.inode)?))).await.expect("stat");
                if line.kind == Kind::Directory {
                    (attributes.mtime, attributes.ctime) = Default::default();
                    open.push((path.clone(), line.inode));
                }
                let bytes = if line.kind == Kind::File { read_all(cache, line.inode).await } else { Vec::new() };
                picture.insert(path, (attributes, nlink, line.inode, bytes));
            }
        }
    }
    picture
}

pub fn pattern(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

pub fn is_missing(error: &Error) -> bool {
    matches!(error, Error::Network(_))
}
