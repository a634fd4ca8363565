//! What the tests of the network share: a bucket with files in it, written and read as a drive would.

#![allow(dead_code)] // each test binary uses its part

use bytes::Bytes;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use strewn_engine::bucket::*;
use strewn_engine::content::run::{self, RunCipher};
use strewn_engine::content::window::content_hash;
use strewn_engine::content::{BLOCK_PLAIN, extent};
use strewn_engine::grant::{AccessGrant, OpenedKey};
use strewn_engine::ids::*;
use strewn_engine::keys::{Derivation, DirectoryKeys, InodeKeys, RootSecret};
use strewn_engine::name::Name;
use strewn_engine::record::{Attributes, Record};
use strewn_engine::redundancy::Redundancy;
use strewn_engine::secret::Key;
use strewn_peers::local::{LocalNetwork, LocalOptions};
use strewn_peers::uplink::{NewBucket, OpenBucket, Uplink};

/// Segment size of the tests: many segments in few bytes.
pub(crate) const SEGMENT: u64 = 1 << 20;

pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}

/// Bytes that no cipher would make by chance and that differ everywhere.
pub(crate) fn content(length: usize) -> Vec<u8> {
    let line = |number: usize| format!("PLAINTEXT-MARKER {number:012}\n").into_bytes();
    (0..).flat_map(line).take(length).collect()
}

pub(crate) async fn small_network(directory: &Path) -> LocalNetwork {
    network(directory, 10, Redundancy::SMALL).await
}

pub(crate) async fn network(directory: &Path, nodes: usize, redundancy: Redundancy) -> LocalNetwork {
    let options = LocalOptions {
        nodes: Some(nodes),
        redundancy: Some(redundancy),
        segment_size: Some(SEGMENT),
        ..LocalOptions::default()
    };
    LocalNetwork::start(directory, &options).await.unwrap()
}

/// A grant that makes and opens buckets under a root secret of its own.
pub(crate) fn grant(network: &LocalNetwork, secret: u8) -> AccessGrant {
    let mut grant = network.access();
    let derivation = Derivation::new([secret; 32]);
    grant.keys.push(OpenedKey::Root { secret: RootSecret::from_key(Key::from_bytes([secret; 32])), derivation });
    grant
}

/// A bucket and its root directory.
pub(crate) struct Drive {
    pub(crate) uplink: Uplink,
    pub(crate) bucket: OpenBucket,
    mount: MountId,
    number: std::sync::atomic::AtomicU64,
}

/// A file that was stored.
#[derive(Clone)]
pub(crate) struct File {
    pub(crate) inode: InodeId,
    pub(crate) key: Key,
    pub(crate) extents: Vec<Extent>,
    pub(crate) segments: Vec<Bytes>,
}

impl Drive {
    pub(crate) async fn create(grant: &AccessGrant, name: &str) -> Self {
        Self::create_with(grant, name, &NewBucket { segment_size: SEGMENT, ..NewBucket::default() }).await
    }

    pub(crate) async fn create_with(grant: &AccessGrant, name: &str, options: &NewBucket) -> Self {
        let uplink = Uplink::connect(grant).await.unwrap();
        let bucket = uplink.create_bucket(name, options).await.unwrap();
        Self::new(uplink, bucket)
    }

    pub(crate) async fn open(grant: &AccessGrant, name: &str) -> Self {
        let uplink = Uplink::connect(grant).await.unwrap();
        let bucket = uplink.bucket(name).await.unwrap();
        Self::new(uplink, bucket)
    }

    fn new(uplink: Uplink, bucket: OpenBucket) -> Self {
        Self { uplink, bucket, mount: MountId::from_bytes(random()), number: 1.into() }
    }

    pub(crate) fn service(&self) -> &dyn BucketService {
        &*self.bucket.service
    }

    pub(crate) fn root(&self) -> (InodeId, DirectoryKeys) {
        (self.bucket.starts[0].inode, DirectoryKeys::new(&self.bucket.starts[0].key))
    }

    /// Stores a file under the root directory.
    pub(crate) async fn store(&self, name: &str, bytes: &[u8]) -> Result<File, Error> {
        let file = self.put(bytes).await?;
        self.commit(name, &file, bytes.len() as u64).await?;
        Ok(file)
    }

    /// Stores the segments of a file: one run in each.
    pub(crate) async fn put(&self, bytes: &[u8]) -> Result<File, Error> {
        let key = Key::from_bytes(random());
        let keys = InodeKeys::new(&key);
        let settings = self.bucket.service.settings();
        let most = settings.segment_size / 65_536 * BLOCK_PLAIN;
        let mut file = File { inode: InodeId::from_bytes(random()), key, extents: Vec::new(), segments: Vec::new() };
        for (number, part) in bytes.chunks(most as usize).enumerate() {
            let (run, segment) = seal(settings.cipher, part);
            file.extents.push(Extent {
                offset: number as u64 * most,
                length: part.len() as u64,
                run: run::run_id(&run),
                run_length: part.len() as u64,
                run_offset: 0,
                cipher: settings.cipher,
                run_key: keys.seal_run_key(run::run_id(&run), &run),
            });
            file.segments.push(segment);
        }
        let puts = file.segments.iter().zip(&file.extents).map(|(segment, extent)| {
            // The run's id serves as the segment's: both are random.
            let id = SegmentId::from_bytes(*extent.run.as_bytes());
            self.service().put_segment(id, Arc::new(segment.clone()))
        });
        futures::future::try_join_all(puts).await?;
        Ok(file)
    }

    /// Gives a stored file a name.
    pub(crate) async fn commit(&self, name: &str, file: &File, size: u64) -> Result<CommitReply, Error> {
        let (root, directory) = self.root();
        let name = directory.encrypt_name(root, &Name::new(name.as_bytes()).unwrap());
        let keys = InodeKeys::new(&file.key);
        let tags = vec![(0, keys.window_tag(file.inode, 0, &file.extents))];
        let attributes = Attributes { size, ..attributes(Kind::File) };
        let (content, allocated) = (content_hash(&tags), Some(size));
        let record = Record { attributes, content, entries_as_of: Timestamp::default(), allocated };
        let runs = file.extents.iter().zip(&file.segments).map(|(extent, segment)| {
            let id = SegmentId::from_bytes(*extent.run.as_bytes());
            let place = RunPlace::Segment { segment: id, offset: 0, length: segment.len() as u64 };
            NewRun { run: extent.run, length: extent.run_length, place }
        });
        let key = directory.seal_child(root, &name, file.inode, Kind::File, &file.key);
        let operations = vec![
            Operation::SetEntry(SetEntry {
                parent: root,
                name,
                expected: None,
                target: Some(Target { child: file.inode, kind: Kind::File, key }),
                time: Timestamp::default(),
            }),
            Operation::PutInode(PutInode {
                inode: file.inode,
                kind: Kind::File,
                expected_version: 0,
                version: 1,
                size,
                record: keys.seal_record(file.inode, Kind::File, 1, &record),
                changed: Timestamp::default(),
                ranges: vec![RangeChange { offset: 0, length: size, extents: file.extents.clone() }],
                tags: tags.into_iter().map(|(window, tag)| (window, Some(tag))).collect(),
            }),
        ];
        let number = self.number.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let commit =
            Commit { id: CommitId::from_bytes(random()), mount: self.mount, number, operations, runs: runs.collect() };
        self.service().commit(&commit, None).await
    }

    /// Looks a file up as a drive would, knowing only the bucket's root key.
    pub(crate) async fn find(&self, name: &str) -> Result<Option<File>, Error> {
        let (root, directory) = self.root();
        let name = directory.encrypt_name(root, &Name::new(name.as_bytes()).unwrap());
        let Some((entry, row)) = self.service().entry(root, &name).await? else { return Ok(None) };
        let key = directory.open_child(&entry).unwrap();
        let keys = InodeKeys::new(&key);
        let record = keys.open_record(&row).unwrap();
        let extents = self.service().extents(entry.child, 0, row.size).await?;
        keys.check_windows(entry.child, &record, 0..row.size, &extents).unwrap();
        Ok(Some(File { inode: entry.child, key, extents: extents.extents, segments: Vec::new() }))
    }

    /// Reads bytes of a file: fetched, proven and decrypted.
    pub(crate) async fn read(&self, file: &File, range: Range<u64>) -> Result<Vec<u8>, Error> {
        let keys = InodeKeys::new(&file.key);
        let mut bytes = Vec::new();
        for part in extent::cut(&file.extents, &range) {
            let key = keys.open_run_key(&part).unwrap();
            let cipher = RunCipher::new(part.cipher, &key, part.run_length);
            let wanted = part.run_offset..part.run_offset + part.length;
            let blocks = run::covering(wanted.clone());
            let sealed =
                self.service().run_blocks(file.inode, part.run, blocks.start, blocks.end - blocks.start).await?;
            let mut plain = Vec::new();
            for (index, block) in blocks.clone().zip(sealed.chunks(65_536)) {
                plain.extend_from_slice(cipher.open_block(index, &mut block.to_vec()).unwrap());
            }
            let start = (wanted.start - run::block_start(blocks.start)) as usize;
            bytes.extend_from_slice(&plain[start..start + part.length as usize]);
        }
        Ok(bytes)
    }
}

/// Encrypts a run; returns its key and ciphertext.
pub(crate) fn seal(cipher: Cipher, bytes: &[u8]) -> (Key, Bytes) {
    let key = Key::from_bytes(random());
    let sealer = RunCipher::new(cipher, &key, bytes.len() as u64);
    let mut segment = Vec::with_capacity(run::ciphertext_len(bytes.len() as u64) as usize);
    for (index, block) in (0..).zip(bytes.chunks(BLOCK_PLAIN as usize)) {
        let mut block = block.to_vec();
        sealer.seal_block(index, &mut block);
        segment.extend_from_slice(&block);
    }
    (key, segment.into())
}

fn attributes(kind: Kind) -> Attributes {
    let time = Timestamp::default();
    Attributes {
        kind,
        mode: 0o644,
        uid: 0,
        gid: 0,
        size: 0,
        atime: time,
        mtime: time,
        ctime: time,
        btime: time,
        rdev: 0,
        target: Bytes::new(),
        xattrs: Arc::default(),
    }
}
