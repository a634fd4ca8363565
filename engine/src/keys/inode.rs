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

/// Sub-keys of one inode, each derived when it is first needed: a listing opens records and nothing else. About 1.2 KiB and
/// cheap to make: for inodes at rest keep the [`Key`].
pub struct InodeKeys {
    key: Key,
    records: OnceLock<Siv>,
    runs: OnceLock<Siv>,
    windows: OnceLock<Zeroizing<[u8; 32]>>,
}

const CORRUPT_RECORD: Corrupt = Corrupt("inode record");

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
        let record = self.open_sealed_record(row.inode, row.kind, row.version, &row.record)?;
        if record.attributes.size == row.size { Ok(record) } else { Err(CORRUPT_RECORD) }
    }

    /// Opens what [`Self::seal_record`] sealed. It must be of this kind and keep within [`Record::check`].
    pub fn open_sealed_record(
        &self,
        inode: InodeId,
        kind: Kind,
        version: u64,
        sealed: &Sealed,
    ) -> Result<Record, Corrupt> {
        if sealed.generation != GENERATION || !(SIV..=Sealed::MAX_RECORD).contains(&sealed.bytes.len()) {
            return Err(CORRUPT_RECORD);
        }
        let mut plaintext = Zeroizing::new(vec![0; sealed.bytes.len() - SIV]);
        let place = record_place(inode, kind, version);
        self.records().open(&place, &sealed.bytes, &mut plaintext).map_err(|()| CORRUPT_RECORD)?;
        let record = Record::parse(&plaintext).map_err(|_| CORRUPT_RECORD)?;
        if record.attributes.kind == kind { Ok(record) } else { Err(CORRUPT_RECORD) }
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
        let mut bytes = Vec::with_capacity(PLACE_LEN + extents.len() * STRETCH_LEN);
        bytes.extend_from_slice(inode.as_bytes());
        bytes.extend_from_slice(&window.to_be_bytes());
        for stretch in extents.chunk_by(extent::continues) {
            let length: u64 = stretch.iter().map(|extent| extent.length).sum();
            bytes.extend_from_slice(&stretch_bytes(&stretch[0], length));
        }
        // In one piece: BLAKE3 is several times faster on many blocks at once.
        WindowTag(*blake3::keyed_hash(self.windows(), &bytes).as_bytes())
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

/// What a window's tag covers: inode and window, then this much for each stretch.
const PLACE_LEN: usize = 16 + 8;
const STRETCH_LEN: usize = 8 + 8 + 16 + 8 + 8 + 1;

fn stretch_bytes(first: &Extent, length: u64) -> [u8; STRETCH_LEN] {
    let mut bytes = [0; STRETCH_LEN];
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bucket::Timestamp;
    use crate::content::WINDOW;
    use crate::content::extent::tests::extent;
    use crate::record::tests::{plain, record};
    use proptest::prelude::*;

    const INODE: InodeId = InodeId::from_bytes([1; 16]);
    const OTHER: InodeId = InodeId::from_bytes([2; 16]);
    const CORRUPT_RECORD: Corrupt = Corrupt("inode record");

    fn keys(byte: u8) -> InodeKeys {
        InodeKeys::new(&Key::from_bytes([byte; 32]))
    }

    fn row(record: &Record) -> Inode {
        let attributes = &record.attributes;
        Inode {
            inode: INODE,
            kind: attributes.kind,
            version: 3,
            nlink: 1,
            size: attributes.size,
            record: keys(1).seal_record(INODE, attributes.kind, 3, record),
            changed: Timestamp::default(),
            entries_changed: Timestamp::default(),
        }
    }

    proptest! {
        #[test]
        fn records_come_back(record in record()) {
            let row = row(&record);
            prop_assert!(row.record.bytes.len() <= Sealed::MAX_RECORD);
            prop_assert_eq!(keys(1).open_record(&row), Ok(record));
            prop_assert_eq!(keys(2).open_record(&row), Err(CORRUPT_RECORD));
        }

        #[test]
        fn opening_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), generation in 0u32..2) {
            let sealed = Sealed { generation, bytes: bytes.into() };
            let row = Inode { record: sealed.clone(), ..row(&plain(Kind::File)) };
            prop_assert_eq!(keys(1).open_record(&row), Err(CORRUPT_RECORD));
            let extent = Extent { run_key: sealed, ..extent(0, 1, 1, 0) };
            prop_assert_eq!(keys(1).open_run_key(&extent), Err(Corrupt("run key")));
        }
    }

    #[test]
    fn a_record_opens_in_its_row_only() {
        let row = row(&plain(Kind::File));
        let moved = [
            Inode { inode: OTHER, ..row.clone() },
            Inode { kind: Kind::Fifo, ..row.clone() },
            Inode { version: 2, ..row.clone() },
            Inode { version: 4, ..row.clone() },
            Inode { size: 1, ..row.clone() },
            Inode { record: Sealed { generation: 1, ..row.record.clone() }, ..row.clone() },
        ];
        for moved in moved {
            assert_eq!(keys(1).open_record(&moved), Err(CORRUPT_RECORD), "{moved:?}");
        }
        for bit in 0..row.record.bytes.len() * 8 {
            let mut bytes = row.record.bytes.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let tampered = Inode { record: Sealed { generation: 0, bytes: bytes.into() }, ..row.clone() };
            assert_eq!(keys(1).open_record(&tampered), Err(CORRUPT_RECORD));
        }
    }

    #[test]
    fn what_authenticates_but_breaks_a_bound_is_refused() {
        let seal = |record: &Record, plaintext: &[u8]| {
            let place = record_place(INODE, record.attributes.kind, 3);
            let bytes = keys(1).records().seal(&place, plaintext).into();
            Inode { record: Sealed { generation: 0, bytes }, ..row(&plain(record.attributes.kind)) }
        };
        let mut record = plain(Kind::File);
        assert!(keys(1).open_record(&seal(&record, &record.encode())).is_ok());
        assert!(keys(1).open_record(&seal(&record, &[])).is_err());
        let other_kind = plain(Kind::Fifo).encode();
        assert!(keys(1).open_record(&seal(&record, &other_kind)).is_err());
        record.attributes.mode = 0o10000;
        assert!(keys(1).open_record(&seal(&record, &record.encode())).is_err());
        let long = vec![0; Sealed::MAX_RECORD - SIV + 1];
        assert!(keys(1).open_record(&seal(&record, &long)).is_err());
    }

    #[test]
    #[should_panic(expected = "could never be opened again")]
    fn sealing_what_could_not_be_opened_panics() {
        let mut record = plain(Kind::File);
        record.attributes.mode = u32::MAX;
        keys(1).seal_record(INODE, Kind::File, 1, &record);
    }

    #[test]
    fn a_run_key_opens_for_its_run_only() {
        let key = Key::from_bytes([5; 32]);
        let run = run::run_id(&key);
        let good = Extent { run, run_key: keys(1).seal_run_key(run, &key), ..extent(0, 1, 1, 0) };
        const CORRUPT: Corrupt = Corrupt("run key");
        assert_eq!(keys(1).open_run_key(&good), Ok(key.clone()));
        assert_eq!(keys(2).open_run_key(&good), Err(CORRUPT));
        let other = run::run_id(&Key::from_bytes([6; 32]));
        assert_eq!(keys(1).open_run_key(&Extent { run: other, ..good.clone() }), Err(CORRUPT));
        let lying = keys(1).seal_run_key(other, &key);
        assert_eq!(keys(1).open_run_key(&Extent { run: other, run_key: lying, ..good.clone() }), Err(CORRUPT));
        for bit in 0..good.run_key.bytes.len() * 8 {
            let mut bytes = good.run_key.bytes.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let run_key = Sealed { generation: 0, bytes: bytes.into() };
            assert_eq!(keys(1).open_run_key(&Extent { run_key, ..good.clone() }), Err(CORRUPT));
        }
    }

    #[test]
    fn one_key_as_directory_and_inode_opens_different_things() {
        let key = Key::from_bytes([1; 32]);
        let run = run::run_id(&key);
        let sealed = keys(1).seal_run_key(run, &key);
        let record = Inode { record: sealed.clone(), ..row(&plain(Kind::File)) };
        assert!(keys(1).open_record(&record).is_err());
        assert!(Siv::derive(kdf::CHILD_KEYS, &[key.as_bytes()]).open_key(run.as_bytes(), &sealed).is_err());
        assert!(Siv::derive(kdf::RUN_KEYS, &[key.as_bytes()]).open_key(run.as_bytes(), &sealed).is_ok());
    }

    #[test]
    fn a_tag_depends_on_everything_but_how_rows_are_cut() {
        let list = [extent(0, 10, 1, 0), extent(10, 5, 1, 10), extent(20, 5, 2, 0)];
        let tag = keys(1).window_tag(INODE, 0, &list);
        let mut merged = list.to_vec();
        extent::merge(&mut merged);
        assert_eq!(merged.len(), 2);
        assert_eq!(keys(1).window_tag(INODE, 0, &merged), tag);

        assert_ne!(keys(2).window_tag(INODE, 0, &list), tag);
        assert_ne!(keys(1).window_tag(OTHER, 0, &list), tag);
        assert_ne!(keys(1).window_tag(INODE, 1, &list), tag);
        assert_ne!(keys(1).window_tag(INODE, 0, &list[1..]), tag);
        assert_ne!(keys(1).window_tag(INODE, 0, &list[..2]), tag);
        let last = &list[2];
        let changed = [
            Extent { offset: 21, ..last.clone() },
            Extent { length: 6, ..last.clone() },
            Extent { run: RunId::from_bytes([3; 16]), ..last.clone() },
            Extent { run_length: 999, ..last.clone() },
            Extent { run_offset: 1, ..last.clone() },
            Extent { cipher: Cipher::ChaCha20Poly1305, ..last.clone() },
        ];
        for changed in changed {
            let list = [list[0].clone(), list[1].clone(), changed];
            assert_ne!(keys(1).window_tag(INODE, 0, &list), tag);
        }
    }

    /// A file with data in windows 0, 1 and 3.
    fn proven() -> (Record, Extents) {
        let extents = vec![
            extent(0, 10, 1, 0),
            extent(50, 10, 1, 50),
            extent(WINDOW, 10, 2, 0),
            extent(3 * WINDOW + 5, 10, 3, 0),
        ];
        let tags: Vec<_> = window::by_window(&extents)
            .map(|(number, part)| (number, keys(1).window_tag(INODE, number, part)))
            .collect();
        let record = Record { content: window::content_hash(&tags), ..plain(Kind::File) };
        (record, Extents { version: 3, extents, tags })
    }

    fn part(of: &Extents, range: Range<usize>) -> Extents {
        Extents { extents: of.extents[range].to_vec(), ..of.clone() }
    }

    #[test]
    fn true_extents_are_proven_window_by_window() {
        let (record, all) = proven();
        let check = |range, extents: &Extents| keys(1).check_windows(INODE, &record, range, extents);
        assert_eq!(check(0..4 * WINDOW, &all), Ok(()));
        assert_eq!(check(0..i64::MAX as u64, &all), Ok(()));
        assert_eq!(check(5..6, &part(&all, 0..2)), Ok(()));
        assert_eq!(check(WINDOW - 1..WINDOW + 1, &part(&all, 0..3)), Ok(()));
        assert_eq!(check(2 * WINDOW..3 * WINDOW, &part(&all, 0..0)), Ok(()), "a true hole");
        assert_eq!(check(7 * WINDOW..8 * WINDOW, &part(&all, 0..0)), Ok(()));
        assert_eq!(check(5..5, &part(&all, 0..0)), Ok(()));
    }

    #[test]
    fn false_extents_are_refused() {
        let (record, all) = proven();
        let check = |range, extents: &Extents| keys(1).check_windows(INODE, &record, range, extents);
        let wrong = Err(Corrupt("extents"));
        assert_eq!(check(0..WINDOW, &part(&all, 0..1)), wrong, "an extent withheld");
        assert_eq!(check(0..WINDOW, &part(&all, 0..0)), wrong, "a window withheld");
        assert_eq!(check(2 * WINDOW..3 * WINDOW, &part(&all, 3..4)), wrong, "an extent of another window");
        let mut forged = all.clone();
        forged.extents.insert(3, extent(2 * WINDOW, 10, 2, 0));
        assert_eq!(check(0..4 * WINDOW, &forged), wrong, "an extent in a hole");
        let mut changed = all.clone();
        changed.extents[1].run_offset += 1;
        assert_eq!(check(0..4 * WINDOW, &changed), wrong, "an extent changed");
        let mut overlapping = all.clone();
        overlapping.extents[1].offset = 5;
        assert_eq!(check(0..WINDOW, &overlapping), wrong, "extents overlap");
        let mut untagged = all.clone();
        untagged.tags.remove(0);
        assert_eq!(check(WINDOW..2 * WINDOW, &part(&untagged, 2..3)), wrong, "a tag withheld");
        let mut swapped = all.clone();
        swapped.tags.swap(0, 1);
        assert_eq!(check(0..WINDOW, &part(&swapped, 0..2)), wrong, "tags out of order");
        assert_eq!(keys(1).check_windows(OTHER, &record, 0..4 * WINDOW, &all), wrong, "another inode's");
        assert_eq!(keys(2).check_windows(INODE, &record, 0..4 * WINDOW, &all), wrong, "another key's");
        assert_eq!(keys(1).check_windows(INODE, &plain(Kind::File), 0..4 * WINDOW, &all), wrong, "another version's");
    }
}
