//! Bytes: sizes, holes, copies.

use crate::*;

#[tokio::test]
async fn sizes_change_with_their_times() {
    let f = Fixture::new().await;
    let v = &f.volume;
    let (a, d) = (file(v, ROOT_INODE, b"a").await, directory(v, ROOT_INODE, b"d").await);
    v.write(a, b"0123456789", AT_START).await.unwrap();
    f.tick();
    let size = |size| SetAttributes { size: Some(size), ..SetAttributes::default() };
    let cut = v.setattr(ROOT, a, size(4)).await.unwrap().attributes;
    assert_eq!((cut.size, cut.mtime, cut.ctime), (4, now(&f), now(&f)));
    f.tick();
    let same = v.setattr(ROOT, a, size(4)).await.unwrap().attributes;
    assert_eq!((same.size, same.mtime, same.ctime), (4, now(&f), now(&f)), "as Linux does, also if it has that size");
    v.setattr(ROOT, a, size(8)).await.unwrap();
    assert_eq!(&v.read(a, 0, 100).await.unwrap()[..], b"0123\0\0\0\0");
    assert_eq!(errno(v.setattr(ROOT, d, size(0)).await), Errno::ISDIR);
    assert_eq!(errno(v.setattr(ROOT, a, size(MAX_OFFSET + 1)).await), Errno::FBIG);
    let fifo = v.mknod(ROOT, ROOT_INODE, b"p", 0o010_644, 0).await.unwrap().stat.inode;
    assert_eq!(errno(v.setattr(ROOT, fifo, size(0)).await), Errno::INVAL);
}

#[tokio::test]
async fn appends_go_to_the_end_whoever_writes() {
    let f = Fixture::new().await;
    let a = file(&f.volume, ROOT_INODE, b"a").await;
    let end = WriteMode { position: Position::End, unprivileged: None };
    let writers = (0..8u8).map(|writer| {
        let volume = f.volume.clone();
        tokio::spawn(async move {
            for _ in 0..20 {
                volume.write(a, &[writer; 10], end).await.unwrap();
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let all = f.volume.read(a, 0, 10_000).await.unwrap();
    assert_eq!(all.len(), 1600);
    assert!(all.chunks(10).all(|record| record.iter().all(|byte| *byte == record[0])), "a record was torn");
}

#[tokio::test]
async fn writes_end_below_two_to_the_63() {
    let f = Fixture::new().await;
    let a = file(&f.volume, ROOT_INODE, b"a").await;
    let at = |offset| WriteMode { position: Position::At(offset), unprivileged: None };
    assert_eq!(errno(f.volume.write(a, b"xx", at(MAX_OFFSET - 1)).await), Errno::FBIG);
    assert_eq!(errno(f.volume.write(a, b"xx", at(u64::MAX)).await), Errno::FBIG);
    assert_eq!(stat(&f.volume, a).await.attributes.size, 0);
    f.volume.write(a, b"x", at(65 << 20)).await.unwrap();
    assert_eq!(stat(&f.volume, a).await.attributes.size, (65 << 20) + 1);
}

#[tokio::test]
async fn fallocate_extends_punches_and_zeroes() {
    let f = Fixture::new().await;
    let v = &f.volume;
    let a = file(v, ROOT_INODE, b"a").await;
    let content = async || v.read(a, 0, 1000).await.unwrap().to_vec();
    v.write(a, b"abcdefgh", AT_START).await.unwrap();
    f.tick();
    v.fallocate(ROOT, a, 0, 20, Allocate::KeepSize).await.unwrap();
    assert_eq!(content().await, b"abcdefgh");
    assert_eq!(stat(v, a).await.attributes.mtime, now(&f));
    v.fallocate(ROOT, a, 2, 2, Allocate::PunchHole).await.unwrap();
    assert_eq!(content().await, b"ab\0\0efgh");
    v.fallocate(ROOT, a, 6, 20, Allocate::ZeroKeepSize).await.unwrap();
    assert_eq!(content().await, b"ab\0\0ef\0\0");
    v.fallocate(ROOT, a, 5, 5, Allocate::Zero).await.unwrap();
    assert_eq!(content().await, b"ab\0\0e\0\0\0\0\0");
    v.fallocate(ROOT, a, 0, 12, Allocate::Extend).await.unwrap();
    assert_eq!(content().await, b"ab\0\0e\0\0\0\0\0\0\0");
    assert_eq!(errno(v.fallocate(ROOT, a, 0, 0, Allocate::Extend).await), Errno::INVAL);
    assert_eq!(errno(v.fallocate(ROOT, a, MAX_OFFSET, 1, Allocate::Extend).await), Errno::FBIG);
    assert_eq!(errno(v.fallocate(ROOT, ROOT_INODE, 0, 1, Allocate::Extend).await), Errno::NODEV);
}

#[tokio::test]
async fn more_than_there_is_room_for_is_not_allocated() {
    let f = Fixture::new().await;
    let v = &f.volume;
    f.bucket.set_quota(Some(100 << 20));
    let a = file(v, ROOT_INODE, b"a").await;
    for how in [Allocate::Extend, Allocate::KeepSize, Allocate::Zero] {
        assert_eq!(errno(v.fallocate(ROOT, a, 0, 200 << 20, how).await), Errno::NOSPC);
    }
    assert_eq!(stat(v, a).await.attributes.size, 0);
    v.fallocate(ROOT, a, 0, 90 << 20, Allocate::Extend).await.unwrap();
    v.fallocate(ROOT, a, 0, 200 << 20, Allocate::PunchHole).await.unwrap();
    // What is within the file takes no more room than its size said.
    v.fallocate(ROOT, a, 1 << 20, 80 << 20, Allocate::Zero).await.unwrap();
}

#[tokio::test]
async fn holes_are_found() {
    let f = Fixture::new().await;
    let v = &f.volume;
    let a = file(v, ROOT_INODE, b"a").await;
    const MIB: u64 = 1 << 20;
    let at = |offset| WriteMode { position: Position::At(offset), unprivileged: None };
    v.write(a, &[1; 4096], at(MIB)).await.unwrap();
    v.setattr(ROOT, a, SetAttributes { size: Some(3 * MIB), ..SetAttributes::default() }).await.unwrap();
    assert_eq!(v.seek(a, 0, Seek::Data).await.unwrap(), MIB);
    assert_eq!(v.seek(a, 0, Seek::Hole).await.unwrap(), 0);
    assert_eq!(v.seek(a, MIB, Seek::Hole).await.unwrap(), MIB + 4096);
    assert_eq!(errno(v.seek(a, 2 * MIB, Seek::Data).await), Errno::NXIO);
    assert_eq!(errno(v.seek(a, 3 * MIB, Seek::Hole).await), Errno::NXIO);
    assert!(stat(v, a).await.allocated < MIB);
}

#[tokio::test]
async fn a_page_with_a_byte_of_data_is_no_hole() {
    let f = Fixture::new().await;
    let v = &f.volume;
    let a = file(v, ROOT_INODE, b"a").await;
    let at = |offset| WriteMode { position: Position::At(offset), unprivileged: None };
    for offset in [5000, 8192, 20_000, 24_576 + 4095] {
        v.write(a, b"x", at(offset)).await.unwrap();
    }
    v.setattr(ROOT, a, SetAttributes { size: Some(30_000), ..SetAttributes::default() }).await.unwrap();
    let found = async |from| (v.seek(a, from, Seek::Data).await.ok(), v.seek(a, from, Seek::Hole).await.ok());
    for (from, data, hole) in [
        (0, Some(4096), Some(0)),
        (4095, Some(4096), Some(4095)),
        (4096, Some(4096), Some(12_288)),
        (5001, Some(5001), Some(12_288)),
        (12_287, Some(12_287), Some(12_288)),
        (12_288, Some(16_384), Some(12_288)),
        (16_384, Some(16_384), Some(20_480)),
        (20_479, Some(20_479), Some(20_480)),
        (24_576, Some(24_576), Some(28_672)),
        (28_672, None, Some(28_672)),
        (29_999, None, Some(29_999)),
        (30_000, None, None),
    ] {
        assert_eq!(found(from).await, (data, hole), "from {from}");
    }
    v.write(a, b"x", at(29_999)).await.unwrap();
    assert_eq!(found(28_673).await, (Some(28_673), Some(30_000)), "the last page is not whole");
}

#[tokio::test]
async fn ranges_are_copied_and_ends_are_short() {
    let f = Fixture::new().await;
    let v = &f.volume;
    let (a, b) = (file(v, ROOT_INODE, b"a").await, file(v, ROOT_INODE, b"b").await);
    v.write(a, b"0123456789", AT_START).await.unwrap();
    assert_eq!(v.copy_range(ROOT, (a, 2), (b, 1), 4).await.unwrap(), 4);
    assert_eq!(v.copy_range(ROOT, (a, 8), (b, 5), 100).await.unwrap(), 2);
    assert_eq!(v.copy_range(ROOT, (a, 10), (b, 7), 100).await.unwrap(), 0);
    assert_eq!(&v.read(b, 0, 100).await.unwrap()[..], b"\x002345\x38\x39");
    assert_eq!(errno(v.copy_range(ROOT, (a, 0), (a, 5), 6).await), Errno::INVAL);
    assert_eq!(v.copy_range(ROOT, (a, 0), (a, 5), 5).await.unwrap(), 5);
    assert_eq!(&v.read(a, 0, 100).await.unwrap()[..], b"0123401234");
}

#[tokio::test]
async fn copied_holes_stay_holes() {
    let f = Fixture::new().await;
    let v = &f.volume;
    let (a, b) = (file(v, ROOT_INODE, b"a").await, file(v, ROOT_INODE, b"b").await);
    let at = |offset| WriteMode { position: Position::At(offset), unprivileged: None };
    const MIB: u64 = 1 << 20;
    v.write(a, &[1; 1 << 20], at(100 * MIB)).await.unwrap();
    v.fallocate(ROOT, a, 0, 500 * MIB, Allocate::Extend).await.unwrap();
    // What the target had where the source has a hole goes.
    v.write(b, &[2; 1 << 20], at(10 * MIB)).await.unwrap();
    assert_eq!(v.copy_range(ROOT, (a, 0), (b, 0), 600 * MIB).await.unwrap(), 500 * MIB);
    assert_eq!(v.getattr(b).await.unwrap().attributes.size, 500 * MIB);
    assert_eq!(v.seek(b, 0, Seek::Data).await.unwrap(), 100 * MIB);
    assert_eq!(v.seek(b, 100 * MIB, Seek::Hole).await.unwrap(), 101 * MIB);
    assert_eq!(errno(v.seek(b, 101 * MIB, Seek::Data).await), Errno::NXIO);
    assert_eq!(&v.read(b, 100 * MIB, 1 << 20).await.unwrap()[..], &[1; 1 << 20][..]);
}

#[tokio::test]
async fn copies_in_the_kernel_are_kept_until_content_changes_elsewhere() {
    let f = Fixture::new().await;
    let a = file(&f.volume, ROOT_INODE, b"a").await;
    let read = Open { read: true, ..Open::default() };
    assert!(f.volume.open(ROOT, a, read).await.unwrap().keep_copies);
    assert_eq!(f.volume.changed_elsewhere(a), Some(f.volume.number(a)));
    assert!(!f.volume.open(ROOT, a, read).await.unwrap().keep_copies);
    assert!(f.volume.open(ROOT, a, read).await.unwrap().keep_copies);
}
