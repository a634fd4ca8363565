//! The rules of POSIX that the volume answers for, one test each.

mod support;

use rustix::io::Errno;
use strewn_cache::{Position, Seek};
use strewn_engine::bucket::{Kind, MAX_OFFSET, Timestamp};
use strewn_engine::ids::InodeId;
use strewn_fs::volume::{
    Allocate, Caller, Entry, Open, RenameMode, SetAttributes, SetTime, SetXattr, Shown, Stat, WriteMode,
};
use strewn_fs::{Error, Volume};
use support::{Fixture, ROOT, ROOT_INODE, USER, options};

type Result<T> = std::result::Result<T, Error>;

const AT_START: WriteMode = WriteMode { position: Position::At(0), drop_set_id: false };
const MAKE: Open = Open { read: true, write: true, truncate: false, exclusive: true, no_atime: false, direct: false };

async fn file(volume: &Volume, parent: InodeId, name: &[u8]) -> InodeId {
    volume.create(ROOT, parent, name, 0o644, MAKE).await.unwrap().0.stat.inode
}

async fn directory(volume: &Volume, parent: InodeId, name: &[u8]) -> InodeId {
    volume.mkdir(ROOT, parent, name, 0o755).await.unwrap().stat.inode
}

async fn stat(volume: &Volume, inode: InodeId) -> Stat {
    volume.getattr(inode).await.unwrap()
}

async fn rename(volume: &Volume, from: (InodeId, &[u8]), to: (InodeId, &[u8]), mode: RenameMode) -> Result<()> {
    volume.rename(from.0, from.1, to.0, to.1, mode).await
}

fn errno<T: std::fmt::Debug>(result: Result<T>) -> Errno {
    result.unwrap_err().errno()
}

fn now(fixture: &Fixture) -> Timestamp {
    use strewn_fs::clock::Clock;
    fixture.clock.now()
}

#[tokio::test]
async fn a_new_file_is_found_with_what_it_was_made_with() {
    let f = Fixture::new().await;
    f.tick();
    let (made, _) = f.volume.create(USER, ROOT_INODE, b"a", 0o640, MAKE).await.unwrap();
    let found = f.volume.lookup(ROOT_INODE, b"a").await.unwrap();
    assert_eq!(made, found);
    let Stat { attributes, nlink, .. } = found.stat;
    assert_eq!((attributes.kind, attributes.mode, nlink, attributes.size), (Kind::File, 0o640, 1, 0));
    assert_eq!((attributes.uid, attributes.gid), (1000, 1000));
    assert_eq!([attributes.atime, attributes.mtime, attributes.ctime, attributes.btime], [now(&f); 4]);
    let parent = stat(&f.volume, ROOT_INODE).await.attributes;
    assert_eq!([parent.mtime, parent.ctime], [now(&f); 2]);
}

#[tokio::test]
async fn names_have_their_limits() {
    let f = Fixture::new().await;
    let long = [b'n'; 256];
    assert_eq!(errno(f.volume.mkdir(ROOT, ROOT_INODE, &long, 0o755).await), Errno::NAMETOOLONG);
    assert!(f.volume.mkdir(ROOT, ROOT_INODE, &long[..255], 0o755).await.is_ok());
    assert!(f.volume.lookup(ROOT_INODE, &long[..255]).await.is_ok());
    assert_eq!(errno(f.volume.lookup(ROOT_INODE, b"").await), Errno::NOENT);
    assert_eq!(errno(f.volume.lookup(ROOT_INODE, b"none").await), Errno::NOENT);
    let target = [b't'; 4096];
    assert_eq!(errno(f.volume.symlink(ROOT, ROOT_INODE, b"s", &target).await), Errno::NAMETOOLONG);
    let link = f.volume.symlink(ROOT, ROOT_INODE, b"s", &target[..4095]).await.unwrap();
    assert_eq!(link.stat.attributes.size, 4095);
    assert_eq!(&f.volume.readlink(link.stat.inode).await.unwrap()[..], &target[..4095]);
}

#[tokio::test]
async fn making_what_exists_is_refused() {
    let f = Fixture::new().await;
    let a = file(&f.volume, ROOT_INODE, b"a").await;
    let v = &f.volume;
    assert_eq!(errno(v.mkdir(ROOT, ROOT_INODE, b"a", 0o755).await), Errno::EXIST);
    assert_eq!(errno(v.symlink(ROOT, ROOT_INODE, b"a", b"t").await), Errno::EXIST);
    assert_eq!(errno(v.mknod(ROOT, ROOT_INODE, b"a", 0o010_644, 0).await), Errno::EXIST);
    assert_eq!(errno(v.link(a, ROOT_INODE, b"a").await), Errno::EXIST);
    assert_eq!(errno(v.create(ROOT, ROOT_INODE, b"a", 0o644, MAKE).await), Errno::EXIST);
    let open = Open { exclusive: false, truncate: true, ..MAKE };
    v.write(a, b"gone", AT_START).await.unwrap();
    let (opened, _) = v.create(ROOT, ROOT_INODE, b"a", 0o600, open).await.unwrap();
    assert_eq!((opened.stat.inode, opened.stat.attributes.size, opened.stat.attributes.mode), (a, 0, 0o644));
    directory(v, ROOT_INODE, b"d").await;
    assert_eq!(errno(v.create(ROOT, ROOT_INODE, b"d", 0o644, open).await), Errno::ISDIR);
    assert_eq!(errno(v.mkdir(ROOT, a, b"x", 0o755).await), Errno::NOTDIR);
    assert_eq!(errno(v.lookup(a, b"x").await), Errno::NOTDIR);
}

#[tokio::test]
async fn special_files_keep_their_kind_and_device() {
    let f = Fixture::new().await;
    for (name, mode, kind, device, kept) in [
        (b"fifo", 0o010_600, Kind::Fifo, 9, 0),
        (b"sock", 0o140_600, Kind::Socket, 9, 0),
        (b"char", 0o020_600, Kind::CharDevice, 0x0103, 0x0103),
        (b"bloc", 0o060_600, Kind::BlockDevice, 0x0800, 0x0800),
        (b"file", 0o100_600, Kind::File, 9, 0),
    ] {
        let made = f.volume.mknod(ROOT, ROOT_INODE, name, mode, device).await.unwrap().stat.attributes;
        assert_eq!((made.kind, made.rdev, made.mode), (kind, kept, 0o600));
    }
    assert_eq!(errno(f.volume.mknod(ROOT, ROOT_INODE, b"d", 0o040_755, 0).await), Errno::INVAL);
}

#[tokio::test]
async fn set_group_id_directories_pass_on_their_group() {
    let f = Fixture::new().await;
    let shared = f.volume.mkdir(Caller { gid: 7, ..ROOT }, ROOT_INODE, b"d", 0o2775).await.unwrap().stat.inode;
    let (made, _) = f.volume.create(USER, shared, b"f", 0o644, MAKE).await.unwrap();
    assert_eq!((made.stat.attributes.gid, made.stat.attributes.mode), (7, 0o644));
    let made = f.volume.mkdir(USER, shared, b"d", 0o755).await.unwrap();
    assert_eq!((made.stat.attributes.gid, made.stat.attributes.mode), (7, 0o2755));
}

#[tokio::test]
async fn links_share_an_inode_and_count() {
    let mut f = Fixture::new().await;
    let a = file(&f.volume, ROOT_INODE, b"a").await;
    let d = directory(&f.volume, ROOT_INODE, b"d").await;
    f.tick();
    let linked = f.volume.link(a, d, b"b").await.unwrap();
    assert_eq!((linked.stat.inode, linked.stat.nlink, linked.stat.attributes.ctime), (a, 2, now(&f)));
    assert_eq!(errno(f.volume.link(d, ROOT_INODE, b"e").await), Errno::PERM);
    f.tick();
    f.volume.unlink(ROOT_INODE, b"a").await.unwrap();
    let left = stat(&f.volume, a).await;
    assert_eq!((left.nlink, left.attributes.ctime), (1, now(&f)));
    f.crash().await;
    assert_eq!(f.volume.lookup(ROOT_INODE, b"d").await.unwrap().stat.inode, d);
    assert_eq!(f.volume.lookup(d, b"b").await.unwrap().stat.nlink, 1);
}

#[tokio::test]
async fn an_unlinked_file_lives_until_the_last_reference_goes() {
    let f = Fixture::new().await;
    let a = file(&f.volume, ROOT_INODE, b"a").await;
    f.volume.unlink(ROOT_INODE, b"a").await.unwrap();
    assert_eq!(errno(f.volume.lookup(ROOT_INODE, b"a").await), Errno::NOENT);
    f.volume.write(a, b"still here", AT_START).await.unwrap();
    assert_eq!(&f.volume.read(a, 0, 100).await.unwrap()[..], b"still here");
    f.volume.fsync(a, 0, false).await.unwrap();
    assert_eq!(stat(&f.volume, a).await.nlink, 0);
    assert_eq!(errno(f.volume.link(a, ROOT_INODE, b"b").await), Errno::NOENT);
    f.volume.forget(a, 1);
    assert_eq!(errno(f.volume.getattr(a).await), Errno::STALE);
}

#[tokio::test]
async fn unlink_and_rmdir_keep_to_their_kinds() {
    let f = Fixture::new().await;
    let d = directory(&f.volume, ROOT_INODE, b"d").await;
    file(&f.volume, d, b"f").await;
    assert_eq!(stat(&f.volume, ROOT_INODE).await.nlink, 3);
    assert_eq!(errno(f.volume.unlink(ROOT_INODE, b"d").await), Errno::ISDIR);
    assert_eq!(errno(f.volume.rmdir(d, b"f").await), Errno::NOTDIR);
    assert_eq!(errno(f.volume.rmdir(ROOT_INODE, b"d").await), Errno::NOTEMPTY);
    f.volume.unlink(d, b"f").await.unwrap();
    f.volume.rmdir(ROOT_INODE, b"d").await.unwrap();
    assert_eq!(stat(&f.volume, ROOT_INODE).await.nlink, 2);
    // a removed directory that someone still works in
    assert_eq!(errno(f.volume.mkdir(ROOT, d, b"x", 0o755).await), Errno::NOENT);
    assert_eq!(errno(f.volume.create(ROOT, d, b"x", 0o644, MAKE).await), Errno::NOENT);
}

#[tokio::test]
async fn rename_replaces_what_it_may() {
    let f = Fixture::new().await;
    let v = &f.volume;
    let (a, b) = (file(v, ROOT_INODE, b"a").await, file(v, ROOT_INODE, b"b").await);
    let (d, e) = (directory(v, ROOT_INODE, b"d").await, directory(v, ROOT_INODE, b"e").await);
    let r = ROOT_INODE;
    assert_eq!(errno(rename(v, (r, b"none"), (r, b"x"), RenameMode::Replace).await), Errno::NOENT);
    assert_eq!(errno(rename(v, (r, b"a"), (r, b"d"), RenameMode::Replace).await), Errno::ISDIR);
    assert_eq!(errno(rename(v, (r, b"d"), (r, b"a"), RenameMode::Replace).await), Errno::NOTDIR);
    assert_eq!(errno(rename(v, (r, b"a"), (r, b"b"), RenameMode::NoReplace).await), Errno::EXIST);
    assert_eq!(errno(rename(v, (r, b"d"), (d, b"x"), RenameMode::Replace).await), Errno::INVAL);
    f.tick();
    rename(v, (r, b"a"), (r, b"b"), RenameMode::Replace).await.unwrap();
    assert_eq!(v.lookup(r, b"b").await.unwrap().stat.inode, a);
    assert_eq!(stat(v, a).await.attributes.ctime, now(&f));
    assert_eq!(stat(v, b).await.nlink, 0);
    file(v, e, b"f").await;
    assert_eq!(errno(rename(v, (r, b"d"), (r, b"e"), RenameMode::Replace).await), Errno::NOTEMPTY);
    v.unlink(e, b"f").await.unwrap();
    rename(v, (r, b"d"), (r, b"e"), RenameMode::Replace).await.unwrap();
    assert_eq!(v.lookup(r, b"e").await.unwrap().stat.inode, d);
    assert_eq!((stat(v, e).await.nlink, stat(v, r).await.nlink), (0, 3));
}

#[tokio::test]
async fn a_moved_directory_counts_in_its_new_parent() {
    let f = Fixture::new().await;
    let v = &f.volume;
    let (d, e) = (directory(v, ROOT_INODE, b"d").await, directory(v, ROOT_INODE, b"e").await);
    let inner = directory(v, d, b"i").await;
    f.tick();
    rename(v, (d, b"i"), (e, b"i"), RenameMode::NoReplace).await.unwrap();
    assert_eq!((stat(v, d).await.nlink, stat(v, e).await.nlink), (2, 3));
    for changed in [d, e] {
        let times = stat(v, changed).await.attributes;
        assert_eq!([times.mtime, times.ctime], [now(&f); 2]);
    }
    assert_eq!(stat(v, inner).await.attributes.ctime, now(&f));
    let dots = v.read_dir(inner, 0, 10).await.unwrap();
    assert_eq!(dots.iter().map(|line| line.number).collect::<Vec<_>>(), vec![v.number(inner), v.number(e)]);
}

#[tokio::test]
async fn exchange_swaps_files_and_directories() {
    let f = Fixture::new().await;
    let v = &f.volume;
    let (a, d) = (file(v, ROOT_INODE, b"a").await, directory(v, ROOT_INODE, b"d").await);
    let inner = directory(v, d, b"i").await;
    let r = ROOT_INODE;
    assert_eq!(errno(rename(v, (r, b"a"), (r, b"none"), RenameMode::Exchange).await), Errno::NOENT);
    assert_eq!(errno(rename(v, (r, b"d"), (d, b"i"), RenameMode::Exchange).await), Errno::INVAL);
    assert_eq!(errno(rename(v, (d, b"i"), (r, b"d"), RenameMode::Exchange).await), Errno::INVAL);
    rename(v, (r, b"a"), (d, b"i"), RenameMode::Exchange).await.unwrap();
    assert_eq!(v.lookup(r, b"a").await.unwrap().stat.inode, inner);
    assert_eq!(v.lookup(d, b"i").await.unwrap().stat.inode, a);
    assert_eq!((stat(v, r).await.nlink, stat(v, d).await.nlink), (4, 2));
}

#[tokio::test]
async fn renaming_one_name_of_an_inode_to_another_does_nothing() {
    let f = Fixture::new().await;
    let v = &f.volume;
    let a = file(v, ROOT_INODE, b"a").await;
    let _ = v.link(a, ROOT_INODE, b"b").await.unwrap();
    let before = stat(v, a).await;
    f.tick();
    for mode in [RenameMode::Replace, RenameMode::Exchange] {
        rename(v, (ROOT_INODE, b"a"), (ROOT_INODE, b"b"), mode).await.unwrap();
        rename(v, (ROOT_INODE, b"a"), (ROOT_INODE, b"a"), mode).await.unwrap();
    }
    assert_eq!(stat(v, a).await, before);
    assert_eq!(v.lookup(ROOT_INODE, b"a").await.unwrap().stat.inode, a);
}

#[tokio::test]
async fn chown_and_writing_without_privilege_strip_privileges() {
    let f = Fixture::new().await;
    let v = &f.volume;
    let a = file(v, ROOT_INODE, b"a").await;
    let arm = async || {
        let mode = SetAttributes { mode: Some(0o6755), ..SetAttributes::default() };
        let _ = v.setattr(ROOT, a, mode).await.unwrap();
        v.setxattr(ROOT, a, b"security.capability", b"cap", SetXattr::Any).await.unwrap();
        assert_eq!(stat(v, a).await.attributes.mode, 0o6755);
    };
    let left = async || {
        let attributes = stat(v, a).await.attributes;
        (attributes.mode, attributes.xattrs.len())
    };
    let set = SetAttributes::default();
    arm().await;
    v.setattr(ROOT, a, SetAttributes { uid: Some(5), ..set }).await.unwrap();
    assert_eq!(left().await, (0o755, 0));
    arm().await;
    v.setattr(USER, a, SetAttributes { size: Some(9), ..set }).await.unwrap();
    assert_eq!(left().await, (0o755, 0));
    arm().await;
    v.setattr(USER, a, set).await.unwrap();
    assert_eq!(left().await, (0o755, 0));
    arm().await;
    v.write(a, b"x", WriteMode { drop_set_id: true, ..AT_START }).await.unwrap();
    assert_eq!(left().await, (0o755, 0));
    arm().await;
    v.open(USER, a, Open { write: true, truncate: true, ..Open::default() }).await.unwrap();
    assert_eq!(left().await, (0o755, 0));
    arm().await;
    v.fallocate(USER, a, 0, 100, Allocate::Extend).await.unwrap();
    assert_eq!(left().await, (0o755, 0));
    arm().await;
    v.write(a, b"x", AT_START).await.unwrap();
    assert_eq!(left().await, (0o6755, 0), "the privileged keep the mode, nobody the capabilities");
}

#[tokio::test]
async fn times_are_set_as_asked() {
    let f = Fixture::new().await;
    let v = &f.volume;
    let a = file(v, ROOT_INODE, b"a").await;
    f.tick();
    let at = Timestamp { seconds: -5, nanos: 500_000_000 };
    let change = SetAttributes { atime: Some(SetTime::At(at)), mtime: Some(SetTime::Now), ..SetAttributes::default() };
    let changed = v.setattr(ROOT, a, change).await.unwrap().attributes;
    assert_eq!((changed.atime, changed.mtime, changed.ctime), (at, now(&f), now(&f)));
    f.tick();
    let omitted = SetAttributes { mode: Some(0o600), ..SetAttributes::default() };
    let changed = v.setattr(ROOT, a, omitted).await.unwrap().attributes;
    assert_eq!((changed.atime, changed.ctime), (at, now(&f)));
    let wild = SetTime::At(Timestamp { seconds: i64::MAX, nanos: u32::MAX });
    let changed = v.setattr(ROOT, a, SetAttributes { mtime: Some(wild), ..change }).await.unwrap().attributes;
    assert_eq!(changed.mtime, Timestamp { seconds: i64::MAX, nanos: 999_999_999 });
}

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
    let end = WriteMode { position: Position::End, drop_set_id: false };
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
    let at = |offset| WriteMode { position: Position::At(offset), drop_set_id: false };
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
    let at = |offset| WriteMode { position: Position::At(offset), drop_set_id: false };
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
    let at = |offset| WriteMode { position: Position::At(offset), drop_set_id: false };
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
async fn extended_attributes_keep_their_rules() {
    let f = Fixture::new().await;
    let v = &f.volume;
    let a = file(v, ROOT_INODE, b"a").await;
    v.setxattr(ROOT, a, b"user.x", b"1", SetXattr::Create).await.unwrap();
    assert_eq!(errno(v.setxattr(ROOT, a, b"user.x", b"1", SetXattr::Create).await), Errno::EXIST);
    assert_eq!(errno(v.setxattr(ROOT, a, b"user.y", b"1", SetXattr::Replace).await), Errno::NODATA);
    v.setxattr(ROOT, a, b"user.x", b"2", SetXattr::Replace).await.unwrap();
    v.setxattr(ROOT, a, b"trusted.t", b"", SetXattr::Any).await.unwrap();
    assert_eq!(&v.getxattr(a, b"user.x").await.unwrap()[..], b"2");
    assert_eq!(v.listxattr(a, true).await.unwrap(), b"trusted.t\0user.x\0");
    assert_eq!(v.listxattr(a, false).await.unwrap(), b"user.x\0");
    v.removexattr(a, b"user.x").await.unwrap();
    assert_eq!(errno(v.removexattr(a, b"user.x").await), Errno::NODATA);
    assert_eq!(errno(v.getxattr(a, b"user.x").await), Errno::NODATA);
    // What listings ask for of every file, unless they are told not to; kept all the same.
    assert_eq!(errno(v.getxattr(a, b"security.selinux").await), Errno::OPNOTSUPP);
    v.setxattr(ROOT, a, b"security.selinux", b"label", SetXattr::Any).await.unwrap();
    assert_eq!(&v.getxattr(a, b"security.selinux").await.unwrap()[..], b"label");
    v.removexattr(a, b"security.selinux").await.unwrap();
    for refused in [&b"system.x"[..], b"x", b"other.x"] {
        assert_eq!(errno(v.setxattr(ROOT, a, refused, b"", SetXattr::Any).await), Errno::OPNOTSUPP);
        assert_eq!(errno(v.getxattr(a, refused).await), Errno::OPNOTSUPP);
    }
    assert_eq!(errno(v.setxattr(ROOT, a, b"user.", b"", SetXattr::Any).await), Errno::INVAL);
    let long = [&b"user."[..], &[b'n'; 251]].concat();
    assert_eq!(errno(v.setxattr(ROOT, a, &long, b"", SetXattr::Any).await), Errno::RANGE);
    v.setxattr(ROOT, a, &long[..255], b"", SetXattr::Any).await.unwrap();
    assert_eq!(errno(v.setxattr(ROOT, a, b"user.big", &[0; 65_537], SetXattr::Any).await), Errno::TOOBIG);
    v.setxattr(ROOT, a, b"user.big", &[1; 65_536], SetXattr::Any).await.unwrap();
    assert_eq!(v.getxattr(a, b"user.big").await.unwrap().len(), 65_536);
    assert_eq!(errno(v.setxattr(ROOT, a, b"user.more", &[0; 4_096], SetXattr::Any).await), Errno::NOSPC);
    let link = v.symlink(ROOT, ROOT_INODE, b"s", b"t").await.unwrap().stat.inode;
    assert_eq!(errno(v.setxattr(ROOT, link, b"user.x", b"", SetXattr::Any).await), Errno::PERM);
    v.setxattr(ROOT, link, b"trusted.x", b"", SetXattr::Any).await.unwrap();
}

/// An access control list in the kernel's form. Entries: tag, permissions, id.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let entry = |(tag, permissions, id): &(u16, u16, u32)| {
        [&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    2u32.to_le_bytes().into_iter().chain(entries.iter().flat_map(entry)).collect()
}

const ACCESS: &[u8] = b"system.posix_acl_access";
const DEFAULT: &[u8] = b"system.posix_acl_default";
const NO_ID: u32 = u32::MAX;

#[tokio::test]
async fn an_access_control_list_and_the_mode_are_one() {
    let f = Fixture::new().await;
    let v = &f.volume;
    let a = file(v, ROOT_INODE, b"a").await;
    let mode = async |v: &Volume| v.getattr(a).await.unwrap().attributes.mode;
    let list = acl(&[(1, 7, NO_ID), (2, 6, 1000), (4, 5, NO_ID), (16, 6, NO_ID), (32, 4, NO_ID)]);
    v.setxattr(ROOT, a, ACCESS, &list, SetXattr::Any).await.unwrap();
    assert_eq!((mode(v).await, &v.getxattr(a, ACCESS).await.unwrap()[..]), (0o764, &list[..]));
    assert_eq!(v.listxattr(a, false).await.unwrap(), b"system.posix_acl_access\0");

    let chmod = SetAttributes { mode: Some(0o640), ..SetAttributes::default() };
    v.setattr(ROOT, a, chmod).await.unwrap();
    let masked = acl(&[(1, 6, NO_ID), (2, 6, 1000), (4, 5, NO_ID), (16, 4, NO_ID), (32, 0, NO_ID)]);
    assert_eq!(&v.getxattr(a, ACCESS).await.unwrap()[..], &masked[..]);

    // A list that says no more than a mode is one.
    let plain = acl(&[(1, 6, NO_ID), (4, 0, NO_ID), (32, 0, NO_ID)]);
    v.setxattr(ROOT, a, ACCESS, &plain, SetXattr::Any).await.unwrap();
    assert_eq!((mode(v).await, errno(v.getxattr(a, ACCESS).await)), (0o600, Errno::NODATA));
    v.removexattr(a, ACCESS).await.unwrap();

    assert_eq!(errno(v.setxattr(ROOT, a, ACCESS, b"nonsense", SetXattr::Any).await), Errno::INVAL);
    assert_eq!(errno(v.setxattr(ROOT, a, DEFAULT, &list, SetXattr::Any).await), Errno::ACCESS);
    let link = v.symlink(ROOT, ROOT_INODE, b"s", b"t").await.unwrap().stat.inode;
    assert_eq!(errno(v.setxattr(ROOT, link, ACCESS, &list, SetXattr::Any).await), Errno::OPNOTSUPP);
}

#[tokio::test]
async fn set_group_id_does_not_outlive_a_list_set_by_a_stranger_to_the_group() {
    let f = Fixture::new().await;
    let v = &f.volume;
    let a = file(v, ROOT_INODE, b"a").await;
    let list = acl(&[(1, 7, NO_ID), (4, 7, NO_ID), (32, 0, NO_ID)]);
    let chmod = SetAttributes { mode: Some(0o2770), ..SetAttributes::default() };
    for (caller, after) in [(ROOT, 0o2770), (Caller { gid: 0, ..USER }, 0o2770), (USER, 0o770)] {
        v.setattr(ROOT, a, chmod).await.unwrap();
        v.setxattr(caller, a, ACCESS, &list, SetXattr::Any).await.unwrap();
        assert_eq!(v.getattr(a).await.unwrap().attributes.mode, after);
    }
}

#[tokio::test]
async fn a_default_list_takes_the_place_of_the_umask() {
    let f = Fixture::new().await;
    let v = &f.volume;
    let careful = Caller { umask: 0o077, ..ROOT };
    let plain = v.mkdir(careful, ROOT_INODE, b"plain", 0o777).await.unwrap().stat;
    assert_eq!(plain.attributes.mode, 0o700);

    let d = v.mkdir(careful, ROOT_INODE, b"d", 0o2777).await.unwrap().stat.inode;
    let list = acl(&[(1, 7, NO_ID), (2, 7, 1000), (4, 5, NO_ID), (16, 7, NO_ID), (32, 5, NO_ID)]);
    v.setxattr(ROOT, d, DEFAULT, &list, SetXattr::Any).await.unwrap();
    let made = v.mknod(careful, d, b"f", 0o100_664, 0).await.unwrap().stat;
    assert_eq!(made.attributes.mode, 0o664);
    let expected = acl(&[(1, 6, NO_ID), (2, 7, 1000), (4, 5, NO_ID), (16, 6, NO_ID), (32, 4, NO_ID)]);
    assert_eq!(&v.getxattr(made.inode, ACCESS).await.unwrap()[..], &expected[..]);
    assert_eq!(errno(v.getxattr(made.inode, DEFAULT).await), Errno::NODATA);

    let inner = v.mkdir(careful, d, b"inner", 0o777).await.unwrap().stat;
    assert_eq!(inner.attributes.mode, 0o2775);
    assert_eq!(&v.getxattr(inner.inode, DEFAULT).await.unwrap()[..], &list[..]);
    let link = v.symlink(careful, d, b"s", b"t").await.unwrap().stat;
    assert_eq!((link.attributes.mode, link.attributes.xattrs.len()), (0o777, 0));
}

#[tokio::test]
async fn a_mount_may_show_other_owners_and_less_permissions() {
    let shown = Shown { uid: Some(5), gid: Some(6), umask: 0o027 };
    let f = Fixture::new().await;
    let v = &Volume::new(f.volume.cache().clone()).showing(shown);
    let a = v.mknod(ROOT, ROOT_INODE, b"a", 0o100_666, 0).await.unwrap().stat;
    let seen = |stat: &Stat| (stat.attributes.uid, stat.attributes.gid, stat.attributes.mode);
    assert_eq!(seen(&a), (5, 6, 0o640));
    assert_eq!(seen(&v.symlink(ROOT, ROOT_INODE, b"s", b"t").await.unwrap().stat), (5, 6, 0o777));
    let chown = |uid, gid| SetAttributes { uid, gid, ..SetAttributes::default() };
    assert_eq!(errno(v.setattr(ROOT, a.inode, chown(Some(7), None)).await), Errno::PERM);
    assert_eq!(errno(v.setattr(ROOT, a.inode, chown(None, Some(7))).await), Errno::PERM);
    assert_eq!(seen(&v.setattr(ROOT, a.inode, chown(Some(5), Some(6))).await.unwrap()), (5, 6, 0o640));
    // What is kept is what was made.
    let kept = v.cache().transact(|tx| tx.attributes(a.inode)).await.unwrap();
    assert_eq!((kept.uid, kept.gid, kept.mode), (0, 0, 0o666));
}

#[tokio::test]
async fn listings_go_on_where_they_stopped_while_names_change() {
    let f = Fixture::new().await;
    let v = &f.volume;
    let d = directory(v, ROOT_INODE, b"d").await;
    let name = |number: usize| format!("{number:03}").into_bytes();
    for number in 0..100 {
        file(v, d, &name(number)).await;
    }
    let (mut after, mut seen) = (0, Vec::new());
    for round in 0.. {
        let lines = v.read_dir_plus(d, after, 7).await.unwrap();
        let Some(last) = lines.last() else { break };
        after = last.cookie;
        seen.extend(lines.iter().map(|line| line.name.clone()));
        v.give_back(lines);
        // what was listed goes, and something else comes
        if round < 10 {
            v.unlink(d, &name(round)).await.unwrap();
            file(v, d, format!("new{round}").as_bytes()).await;
        }
    }
    assert_eq!((&seen[0][..], &seen[1][..]), (&b"."[..], &b".."[..]));
    let listed_once = |wanted: &Vec<u8>| seen.iter().filter(|name| *name == wanted).count() == 1;
    assert!((10..100).all(|number| listed_once(&name(number))), "a name that stayed is listed once");
    seen.sort();
    assert!(seen.windows(2).all(|pair| pair[0] != pair[1]), "nothing is listed twice");
    let plain = v.read_dir(d, 0, 1000).await.unwrap();
    assert_eq!(plain.len(), 102);
}

#[tokio::test]
async fn reading_moves_the_access_time_as_relatime_says() {
    let f = Fixture::new().await;
    let v = &f.volume;
    let a = file(v, ROOT_INODE, b"a").await;
    let read = Open { read: true, ..Open::default() };
    f.tick();
    v.open(ROOT, a, Open { no_atime: true, ..read }).await.unwrap();
    assert_ne!(stat(v, a).await.attributes.atime, now(&f));
    v.open(ROOT, a, read).await.unwrap();
    let first = now(&f);
    assert_eq!(stat(v, a).await.attributes.atime, first);
    f.tick();
    v.open(ROOT, a, read).await.unwrap();
    assert_eq!(stat(v, a).await.attributes.atime, first, "read after the last change already");
    f.clock.advance(24 * 3600 * 1_000_000_000);
    v.open(ROOT, a, read).await.unwrap();
    assert_eq!(stat(v, a).await.attributes.atime, now(&f));
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

#[tokio::test]
async fn a_read_only_volume_refuses_every_change() {
    let f = Fixture::with_options(strewn_cache::Options { read_only: true, ..options() }).await;
    let v = &f.volume;
    let r = ROOT_INODE;
    assert_eq!(errno(v.mkdir(ROOT, r, b"d", 0o755).await), Errno::ROFS);
    assert_eq!(errno(v.mknod(ROOT, r, b"d", 0o644, 0).await), Errno::ROFS);
    assert_eq!(errno(v.symlink(ROOT, r, b"d", b"t").await), Errno::ROFS);
    assert_eq!(errno(v.create(ROOT, r, b"d", 0o644, MAKE).await), Errno::ROFS);
    assert_eq!(errno(v.link(r, r, b"d").await), Errno::ROFS);
    assert_eq!(errno(v.unlink(r, b"d").await), Errno::ROFS);
    assert_eq!(errno(v.rmdir(r, b"d").await), Errno::ROFS);
    assert_eq!(errno(rename(v, (r, b"a"), (r, b"b"), RenameMode::Replace).await), Errno::ROFS);
    assert_eq!(errno(v.setattr(ROOT, r, SetAttributes::default()).await), Errno::ROFS);
    assert_eq!(errno(v.setxattr(ROOT, r, b"user.x", b"", SetXattr::Any).await), Errno::ROFS);
    assert_eq!(errno(v.removexattr(r, b"user.x").await), Errno::ROFS);
    assert_eq!(errno(v.write(r, b"x", AT_START).await), Errno::ROFS);
    assert_eq!(errno(v.fallocate(ROOT, r, 0, 1, Allocate::Extend).await), Errno::ROFS);
    assert_eq!(errno(v.copy_range(ROOT, (r, 0), (r, 1), 1).await), Errno::ROFS);
    assert_eq!(errno(v.open(ROOT, r, Open { write: true, ..Open::default() }).await), Errno::ROFS);
    assert!(v.getattr(r).await.is_ok());
    assert_eq!(v.read_dir(r, 0, 10).await.unwrap().len(), 2);
}

#[tokio::test]
async fn df_answers_while_the_network_is_away() {
    let f = Fixture::new().await;
    let known = f.volume.statfs().await;
    assert!(known.total > 0);
    f.bucket.set_unreachable(true);
    assert_eq!(f.volume.statfs().await.total, known.total);
}

#[tokio::test]
async fn numbers_of_inodes_outlive_the_cache() {
    let mut f = Fixture::new().await;
    let Entry { number, stat } = f.volume.mkdir(ROOT, ROOT_INODE, b"d", 0o755).await.unwrap();
    assert_eq!(f.volume.inode(number).unwrap(), stat.inode);
    f.drain_and_start_afresh().await;
    assert_eq!(errno(f.volume.inode(number)), Errno::STALE);
    assert_eq!(f.volume.lookup(ROOT_INODE, b"d").await.unwrap().number, number);
}

#[tokio::test]
async fn what_is_changed_after_its_last_name_went_does_not_hinder_the_next_start() {
    for drained in [false, true] {
        let mut f = Fixture::new().await;
        let (a, d) = (file(&f.volume, ROOT_INODE, b"a").await, directory(&f.volume, ROOT_INODE, b"d").await);
        let b = file(&f.volume, ROOT_INODE, b"b").await;
        if drained {
            f.volume.cache().drain(|_| {}).await.unwrap();
        }
        f.volume.unlink(ROOT_INODE, b"a").await.unwrap();
        f.volume.rmdir(ROOT_INODE, b"d").await.unwrap();
        rename(&f.volume, (ROOT_INODE, b"b"), (ROOT_INODE, b"c"), RenameMode::Replace).await.unwrap();
        f.volume.unlink(ROOT_INODE, b"c").await.unwrap();
        if drained {
            f.volume.cache().drain(|_| {}).await.unwrap();
        }
        let mode = SetAttributes { mode: Some(0o700), ..SetAttributes::default() };
        for inode in [a, b, d] {
            f.volume.setattr(ROOT, inode, mode).await.unwrap();
            f.volume.setxattr(ROOT, inode, b"user.x", b"y", SetXattr::Any).await.unwrap();
        }
        f.volume.write(a, &[1; 100_000], AT_START).await.unwrap();
        f.volume.fsync(a, 0, false).await.unwrap();
        f.volume.setattr(ROOT, b, SetAttributes { size: Some(9), ..SetAttributes::default() }).await.unwrap();
        f.crash().await;
        assert_eq!(f.volume.read_dir(ROOT_INODE, 2, 10).await.unwrap(), vec![]);
    }
}

#[tokio::test]
async fn the_drives_own_attributes_can_be_read_and_nothing_else() {
    let f = Fixture::new().await;
    let v = &f.volume;
    let a = file(v, ROOT_INODE, b"a").await;
    v.write(a, &[7; 100_000], AT_START).await.unwrap();
    v.setxattr(ROOT, a, b"user.mine", b"1", SetXattr::Any).await.unwrap();
    assert_eq!(&v.getxattr(a, b"user.strewn.pieces").await.unwrap()[..], b"none");
    v.cache().drain(|_| {}).await.unwrap();
    assert_eq!(&v.getxattr(a, b"user.strewn.state").await.unwrap()[..], b"committed");
    assert_eq!(&v.getxattr(a, b"user.strewn.pieces").await.unwrap()[..], b"1/1");
    assert_eq!(v.listxattr(a, true).await.unwrap(), b"user.mine\0", "copies must not carry them");
    for name in [&b"user.strewn.state"[..], b"user.strewn.pieces", b"user.strewn.other"] {
        assert_eq!(errno(v.setxattr(ROOT, a, name, b"x", SetXattr::Any).await), Errno::PERM);
        assert_eq!(errno(v.removexattr(a, name).await), Errno::PERM);
    }
    assert_eq!(errno(v.getxattr(a, b"user.strewn.other").await), Errno::NODATA);
    f.bucket.set_unreachable(true);
    v.write(a, b"changed", AT_START).await.unwrap();
    let state = v.getxattr(a, b"user.strewn.state").await.unwrap();
    assert!(state == "pending" || state == "uploading", "{state:?}");
}
