//! What an inode's key opens: its record, the keys of its runs, and the tags that prove its extents.

use super::kind_byte;
use crate::bucket::{Cipher, Extent, Extents, Inode, Kind, Sealed, WindowTag};
use crate::content::{extent, run, window};
use crate::ids::{InodeId, RunId};
use crate::kdf;
use crate::record::Record;
use crate::seal::{Corrupt, GENERATION, SIV, Siv};
use crate::secret::Key;
use std::ops::Range;
use std::sync::OnceLock;
use zeroize::{Zeroize, Zeroizing};

/// Sub-keys of one inode, each derived when it is first needed: a listing opens records and nothing else.
pub struct InodeKeys {
    key: Key,
    records: OnceLock<Siv>,
    runs: OnceLock<Siv>,
    windows: OnceLock<Zeroizing<[u8; 32]>>,
}

impl InodeKeys {
    /// Takes the inode's key.
    pub fn new(key: &Key) -> Self {
        Self { key: key.clone(), records: OnceLock::new(), runs: OnceLock::new(), windows: OnceLock::new() }
    }

    /// Seals a record for one version of an inode's row.
    ///
    /// # Panics
    /// If the record breaks [`Record::check`], or is of another kind: it could never be opened again. Attributes are
    /// checked when they are set.
    pub fn seal_record(&self, inode: InodeId, kind: Kind, version: u64, record: &Record) -> Sealed {
        assert!(record.attributes.kind == kind, "the record of another kind");
        if let Err(error) = record.check() {
            panic!("a record that could never be opened again: {error}");
        }
        let mut plaintext = record.encode();
        let sealed = self.records().seal(&record_place(inode, kind, version), &plaintext);
        plaintext.zeroize();
        Sealed { generation: GENERATION, bytes: sealed.into() }
    }

    /// Opens the record of a row. It must be of the row's kind, repeat its size, and keep within [`Record::check`].
    pub fn open_record(&self, row: &Inode) -> Result<Record, Corrupt> {
        const CORRUPT: Corrupt = Corrupt("inode record");
        let sealed = &row.record;
        if sealed.generation != GENERATION || !(SIV..=Sealed::MAX_RECORD).contains(&sealed.bytes.len()) {
            return Err(CORRUPT);
        }
        let mut plaintext = Zeroizing::new(vec![0; sealed.bytes.len() - SIV]);
        let place = record_place(row.inode, row.kind, row.version);
        self.records().open(&place, &sealed.bytes, &mut plaintext).map_err(|()| CORRUPT)?;
        let record = Record::parse(&plaintext).map_err(|_| CORRUPT)?;
        let agrees = record.attributes.kind == row.kind && record.attributes.size == row.size;
        agrees.then_some(record).ok_or(CORRUPT)
    }

    /// Seals the key of a run for this inode's extents.
    pub fn seal_run_key(&self, run: RunId, key: &Key) -> Sealed {
        self.runs().seal_key(run.as_bytes(), key)
    }

    /// Opens the key of an extent's run; the run's id must be the one that derives from it.
    pub fn open_run_key(&self, extent: &Extent) -> Result<Key, Corrupt> {
        const CORRUPT: Corrupt = Corrupt("run key");
        let key = self.runs().open_key(extent.run.as_bytes(), &extent.run_key).map_err(|()| CORRUPT)?;
        (run::run_id(&key) == extent.run).then_some(key).ok_or(CORRUPT)
    }

    /// The tag of one window over all its extents (sorted, clipped to the window, see [`window::by_window`]). Extents that
    /// continue one another count as one, so the tag depends on what the window holds and not on how rows were cut. A
    /// window without extents has no tag.
    ///
    /// ```text
    /// keyed BLAKE3 of  inode (16) | window (8) | per stretch:
    ///     offset (8) | length (8) | run (16) | run length (8) | offset in run (8) | cipher (1)      integers big-endian
    /// ```
    /// Sealed run keys are left out: they authenticate by themselves, and the run id already names the key.
    pub fn window_tag(&self, inode: InodeId, window: u64, extents: &[Extent]) -> WindowTag {
        let mut hasher = blake3::Hasher::new_keyed(self.windows());
        hasher.update(inode.as_bytes());
        hasher.update(&window.to_be_bytes());
        for stretch in extents.chunk_by(extent::continues) {
            let first = &stretch[0];
            let length: u64 = stretch.iter().map(|extent| extent.length).sum();
            hasher.update(&stretch_bytes(first, length));
        }
        let tag = WindowTag(*hasher.finalize().as_bytes());
        hasher.zeroize();
        tag
    }

    /// Proves the extents of all windows that intersect `range` (bytes of the file): `extents` must hold exactly the extents
    /// of those windows and the tags of all windows, and belong to `record`, which was opened from the same row version.
    pub fn check_windows(
        &self,
        inode: InodeId,
        record: &Record,
        range: Range<u64>,
        extents: &Extents,
    ) -> Result<(), Corrupt> {
        const CORRUPT: Corrupt = Corrupt("extents");
        extent::check(&extents.extents).map_err(|_| CORRUPT)?;
        window::check_tags(&extents.tags).map_err(|_| CORRUPT)?;
        if window::content_hash(&extents.tags) != record.content {
            return Err(CORRUPT);
        }
        let windows = window::covering(range);
        let first = extents.tags.partition_point(|(number, _)| *number < windows.start);
        let after = extents.tags.partition_point(|(number, _)| *number < windows.end);
        let tags = extents.tags.get(first..after).unwrap_or_default();
        let found = window::by_window(&extents.extents);
        let computed = found.map(|(number, part)| (number, self.window_tag(inode, number, part)));
        computed.eq(tags.iter().copied()).then_some(()).ok_or(CORRUPT)
    }

    fn records(&self) -> &Siv {
        self.records.get_or_init(|| Siv::derive(kdf::RECORDS, &[self.key.as_bytes()]))
    }

    fn runs(&self) -> &Siv {
        self.runs.get_or_init(|| Siv::derive(kdf::RUN_KEYS, &[self.key.as_bytes()]))
    }

    fn windows(&self) -> &[u8; 32] {
        self.windows.get_or_init(|| kdf::derive(kdf::WINDOW_TAGS, &[self.key.as_bytes()]))
    }
}

impl std::fmt::Debug for InodeKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("InodeKeys(hidden)")
    }
}

fn record_place(inode: InodeId, kind: Kind, version: u64) -> [u8; 25] {
    let mut place = [0; 25];
    place[..16].copy_from_slice(inode.as_bytes());
    place[16] = kind_byte(kind);
    place[17..].copy_from_slice(&version.to_be_bytes());
    place
}

fn stretch_bytes(first: &Extent, length: u64) -> [u8; 49] {
    let mut bytes = [0; 49];
    bytes[..8].copy_from_slice(&first.offset.to_be_bytes());
    bytes[8..16].copy_from_slice(&length.to_be_bytes());
    bytes[16..32].copy_from_slice(first.run.as_bytes());
    bytes[32..40].copy_from_slice(&first.run_length.to_be_bytes());
    bytes[40..48].copy_from_slice(&first.run_offset.to_be_bytes());
    bytes[48] = match first.cipher {
        Cipher::Aes256Gcm => 0,
        Cipher::ChaCha20Poly1305 => 1,
    };
    bytes
}
