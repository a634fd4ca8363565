//! Names: making, linking, moving and removing.

use crate::*;

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
