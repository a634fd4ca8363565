//! Files by their path, as the commands use them.

mod support;

use rustix::io::Errno;
use std::sync::Arc;
use strewn_engine::bucket::{Kind, Timestamp};
use strewn_fs::volume::path::{Last, Paths};
use strewn_fs::volume::{SetAttributes, SetTime, SetXattr};
use support::{Fixture, ROOT, USER};

async fn paths() -> (Fixture, Paths) {
    let fixture = Fixture::new().await;
    let paths = Paths::new(Arc::clone(&fixture.volume), USER);
    (fixture, paths)
}

async fn put(paths: &Paths, path: &[u8], content: &[u8]) {
    let mut writer = paths.write(path, 0o644).await.unwrap();
    writer.write(content).await.unwrap();
    writer.finish(USER, SetAttributes::default()).await.unwrap();
}

async fn get(paths: &Paths, path: &[u8]) -> Vec<u8> {
    let mut reader = paths.read(path).await.unwrap();
    let mut content = Vec::new();
    while let Some(bytes) = reader.next().await.unwrap() {
        content.extend_from_slice(&bytes);
    }
    content
}

#[tokio::test]
async fn what_is_written_is_read() {
    let (_fixture, paths) = paths().await;
    paths.make_directory(b"a", 0o755).await.unwrap();
    paths.make_directory(b"/a/b/", 0o755).await.unwrap();
    let content: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
    put(&paths, b"a/b/c", &content).await;
    assert_eq!(get(&paths, b"//a/./b/../b/c").await, content);
    put(&paths, b"a/b/c", b"short").await;
    assert_eq!(get(&paths, b"a/b/c").await, b"short");
    assert_eq!(paths.read(b"a/b").await.err().unwrap().errno(), Errno::ISDIR);
    assert_eq!(paths.read(b"a/b/none").await.err().unwrap().errno(), Errno::NOENT);
    assert_eq!(paths.read(b"a/b/c/d").await.err().unwrap().errno(), Errno::NOTDIR);
}

#[tokio::test]
async fn holes_and_times_are_kept() {
    let (_fixture, paths) = paths().await;
    let mut writer = paths.write(b"f", 0o600).await.unwrap();
    writer.write(b"x").await.unwrap();
    writer.skip(9);
    let mtime = Timestamp { seconds: 12, nanos: 34 };
    let times = SetAttributes { mtime: Some(SetTime::At(mtime)), ..SetAttributes::default() };
    let stat = writer.finish(USER, times).await.unwrap();
    assert_eq!((stat.attributes.size, stat.attributes.mtime, stat.attributes.mode), (10, mtime, 0o600));
    assert_eq!(get(&paths, b"f").await, b"x\0\0\0\0\0\0\0\0\0");
}

#[tokio::test]
async fn symlinks_are_followed_within_the_volume() {
    let (_fixture, paths) = paths().await;
    paths.make_directory(b"d", 0o755).await.unwrap();
    put(&paths, b"d/f", b"1").await;
    paths.make_symlink(b"d/up", b"../d").await.unwrap();
    paths.make_symlink(b"out", b"/etc/passwd").await.unwrap();
    paths.make_symlink(b"loop", b"loop").await.unwrap();
    assert_eq!(get(&paths, b"d/up/up/f").await, b"1");
    assert_eq!(get(&paths, b"../../d/f").await, b"1");
    assert_eq!(paths.stat(b"d/up", Last::Keep).await.unwrap().attributes.kind, Kind::Symlink);
    assert_eq!(paths.stat(b"d/up", Last::Follow).await.unwrap().attributes.kind, Kind::Directory);
    assert_eq!(paths.read(b"out").await.err().unwrap().errno(), Errno::XDEV);
    assert_eq!(paths.read(b"loop").await.err().unwrap().errno(), Errno::LOOP);
}

#[tokio::test]
async fn trees_are_listed_moved_and_removed() {
    let (fixture, paths) = paths().await;
    for directory in [&b"t"[..], b"t/a", b"t/a/b", b"t/c"] {
        paths.make_directory(directory, 0o755).await.unwrap();
    }
    for number in 0..600 {
        put(&paths, format!("t/a/{number}").as_bytes(), b"x").await;
    }
    let mut found = names(&paths, b"t/a").await;
    found.dedup();
    assert_eq!(found.len(), 601);
    paths.rename(b"t/a/0", b"t/c/0").await.unwrap();
    assert_eq!(paths.remove(b"t").await.unwrap_err().errno(), Errno::NOTEMPTY);
    assert_eq!(paths.remove(b"/").await.unwrap_err().errno(), Errno::BUSY);
    let mut removed = 0;
    paths.remove_tree(b"t", || removed += 1).await.unwrap();
    assert_eq!(removed, 604);
    assert_eq!(paths.stat(b"t", Last::Keep).await.unwrap_err().errno(), Errno::NOENT);
    assert_eq!(fixture.volume.getattr(fixture.volume.root()).await.unwrap().nlink, 2);
}

async fn names(paths: &Paths, path: &[u8]) -> Vec<String> {
    let mut listing = paths.list(path).await.unwrap();
    let mut names = Vec::new();
    while let Some((name, _)) = listing.next().await.unwrap() {
        names.push(String::from_utf8(name).unwrap());
    }
    names.sort();
    names
}

#[tokio::test]
async fn what_is_replaced_stays_until_all_of_the_new_is_there() {
    let (_fixture, paths) = paths().await;
    paths.make_directory(b"d", 0o755).await.unwrap();
    put(&paths, b"d/f", b"old").await;
    paths.make_symlink(b"link", b"d/f").await.unwrap();
    for path in [&b"d/f"[..], b"link"] {
        let mut writer = paths.replace(path, 0o600).await.unwrap();
        writer.write(b"half").await.unwrap();
        let part = names(&paths, b"d").await.into_iter().find(|name| name != "f").unwrap();
        let part = paths.stat(format!("d/{part}").as_bytes(), Last::Keep).await.unwrap();
        assert_eq!(part.attributes.mode, 0o644, "as what is there");
        assert_eq!((get(&paths, b"d/f").await, names(&paths, b"d").await.len()), (b"old".to_vec(), 2));
        drop(writer);
        assert_eq!((get(&paths, b"d/f").await, names(&paths, b"d").await), (b"old".to_vec(), vec!["f".into()]));
    }
    for (path, content) in [(&b"d/f"[..], &b"new"[..]), (b"link", b"newer"), (b"d/g", b"other")] {
        let mut writer = paths.replace(path, 0o600).await.unwrap();
        writer.write(content).await.unwrap();
        let stat = writer.finish(USER, SetAttributes::default()).await.unwrap();
        assert_eq!(get(&paths, path).await, content);
        assert_eq!(paths.stat(path, Last::Follow).await.unwrap().inode, stat.inode);
    }
    assert_eq!(
        (names(&paths, b"d").await, names(&paths, b"").await),
        (vec!["f".into(), "g".into()], vec!["d".into(), "link".into()])
    );
    assert_eq!(paths.stat(b"d/g", Last::Keep).await.unwrap().attributes.mode, 0o600);
    let errno = async |path: &[u8]| paths.replace(path, 0o600).await.err().unwrap().errno();
    paths.make_symlink(b"nowhere", b"d/none").await.unwrap();
    assert_eq!(
        (errno(b"d").await, errno(b"/").await, errno(b"d/..").await),
        (Errno::ISDIR, Errno::ISDIR, Errno::ISDIR)
    );
    assert_eq!((errno(b"nowhere").await, errno(b"none/f").await), (Errno::EXIST, Errno::NOENT));
    assert_eq!(names(&paths, b"d").await, ["f", "g"]);
}

#[tokio::test]
async fn what_replaces_a_file_has_its_owner_mode_and_attributes() {
    let (fixture, paths) = paths().await;
    put(&paths, b"f", b"old").await;
    let inode = paths.stat(b"f", Last::Keep).await.unwrap().inode;
    let kept = SetAttributes { uid: Some(5), gid: Some(6), mode: Some(0o640), ..SetAttributes::default() };
    fixture.volume.setattr(ROOT, inode, kept).await.unwrap();
    for name in [&b"user.a"[..], b"security.capability"] {
        fixture.volume.setxattr(ROOT, inode, name, b"value", SetXattr::Any).await.unwrap();
    }
    let mut writer = paths.replace(b"f", 0o600).await.unwrap();
    writer.write(b"new").await.unwrap();
    writer.finish(USER, SetAttributes::default()).await.unwrap();
    let there = paths.stat(b"f", Last::Keep).await.unwrap().attributes;
    assert_eq!((there.uid, there.gid, there.mode, there.size), (5, 6, 0o640, 3));
    assert_eq!(there.xattrs.keys().collect::<Vec<_>>(), [b"user.a"]);
}
