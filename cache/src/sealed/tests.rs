use super::*;
use crate::disk::MemoryDisk;
use proptest::prelude::*;
use strewn_engine::bucket::SegmentSource;

const ID: SegmentId = SegmentId::from_bytes([0x5a; 16]);

fn open(disk: &MemoryDisk) -> (Sealed, Found) {
    Sealed::open(Arc::new(disk.clone())).unwrap()
}

fn content(segment: &SealedSegment) -> Vec<u8> {
    let mut bytes = vec![0; segment.len() as usize];
    segment.read_at(0, &mut bytes).unwrap();
    bytes
}

#[test]
fn a_segment_is_read_as_written_in_any_order() {
    for order in [[(0, &b"head"[..]), (10, b"tail")], [(10, b"tail"), (0, b"head")]] {
        let disk = MemoryDisk::new();
        let mut writer = open(&disk).0.begin(ID).unwrap();
        for (offset, bytes) in order {
            writer.write_at(offset, bytes).unwrap();
        }
        let segment = writer.finish(16).unwrap();
        assert_eq!(content(&segment), b"head\0\0\0\0\0\0tail\0\0");
        assert!(segment.read_at(10, &mut [0; 7]).is_err());
        assert!(segment.read_at(u64::MAX, &mut [0; 1]).is_err());
        for seed in 0..16 {
            let (sealed, found) = open(&disk.crash(seed));
            assert_eq!(found.segments, [(ID, 16)]);
            assert_eq!(content(&sealed.open_segment(ID).unwrap()), content(&segment));
        }
    }
}

#[test]
fn an_unfinished_segment_is_removed() {
    let disk = MemoryDisk::new();
    let mut writer = open(&disk).0.begin(ID).unwrap();
    writer.write_at(0, &[1; 5000]).unwrap();
    assert!(matches!(open(&disk.kill()).0.open_segment(ID), Err(Error::Missing(_))));
    assert!(matches!(writer.finish(4000), Err(Error::TooLarge(5000))));
    let mut writer = open(&disk).0.begin(ID).unwrap();
    assert!(matches!(writer.write_at(MAX_SEGMENT, b"x"), Err(Error::TooLarge(_))));
    let disk = disk.kill();
    let (_, found) = open(&disk);
    assert_eq!(found, Found::default());
    assert!(disk.names().is_empty());
}

#[test]
fn a_blob_is_old_or_new_after_a_power_cut() {
    let disk = MemoryDisk::new();
    let (sealed, _) = open(&disk);
    sealed.put_blob(7, &[b"old"]).unwrap();
    disk.fail_syncs(Some(28));
    assert!(matches!(sealed.put_blob(7, &[b"n", b"ew"]), Err(Error::NoSpace)));
    disk.fail_syncs(None);
    assert_eq!(sealed.get_blob(7).unwrap(), "old");
    let before = disk.kill();
    sealed.put_blob(7, &[b"n", b"ew"]).unwrap();
    for seed in 0..16 {
        assert_eq!(open(&disk.crash(seed)).0.get_blob(7).unwrap(), "new");
        let (sealed, found) = open(&before.crash(seed));
        assert_eq!((sealed.get_blob(7).unwrap(), found.blobs), ("old".into(), vec![(7, 3)]));
    }
    sealed.remove_blob(7).unwrap();
    sealed.remove_blob(7).unwrap();
    assert!(matches!(sealed.get_blob(7), Err(Error::Missing(_))));
}

#[test]
fn files_of_version_1_are_read() {
    let disk = MemoryDisk::new();
    disk.put(&segment::name(ID), include_bytes!("../../tests/data/segment-v1"));
    disk.put(&blob::name(3), include_bytes!("../../tests/data/blob-v1"));
    let (sealed, found) = open(&disk);
    assert_eq!(found, Found { segments: vec![(ID, 10)], blobs: vec![(3, 9)] });
    assert_eq!(content(&sealed.open_segment(ID).unwrap()), b"ciphertext");
    assert_eq!(sealed.get_blob(3).unwrap(), "committed");
}

proptest! {
    #[test]
    fn any_changed_byte_is_noticed(at: proptest::sample::Index, flip in 1..=255u8) {
        let disk = MemoryDisk::new();
        let (sealed, _) = open(&disk);
        let mut writer = sealed.begin(ID).unwrap();
        writer.write_at(0, &[3; 300]).unwrap();
        writer.finish(300).unwrap();
        sealed.put_blob(1, &[&[4; 300]]).unwrap();
        for name in [segment::name(ID), blob::name(1)] {
            let mut bytes = disk.bytes(&name).unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            disk.put(&name, &bytes);
        }
        let corrupt = |error: Option<Error>| matches!(error, Some(Error::Corrupt { .. }));
        prop_assert!(corrupt(sealed.open_segment(ID).err()));
        prop_assert!(corrupt(sealed.get_blob(1).err()));
    }

    #[test]
    fn any_bytes_are_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let disk = MemoryDisk::new();
        disk.put(&segment::name(ID), &bytes);
        disk.put(&blob::name(1), &bytes);
        let (sealed, found) = open(&disk);
        prop_assert!(found.segments.is_empty());
        prop_assert!(sealed.open_segment(ID).is_err());
        prop_assert!(sealed.get_blob(1).is_err());
    }
}
