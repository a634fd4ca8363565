//! Files by their path, as the commands use them.

mod support;

use rustix::io::Errno;
use std::sync::Arc;
use strewn_engine::bucket::{Kind, Timestamp};
use strewn_fs::volume::path::{Last, Paths};
use strewn_fs::volume::{SetAttributes, SetTime};
use support::{Fixture, USER};

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
    let mut listing = paths.list(b"t/a").await.unwrap();
    let mut names = Vec::new();
    while let Some((name, _)) = listing.next().await.unwrap() {
        names.push(name);
    }
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 601);
    paths.rename(b"t/a/0", b"t/c/0").await.unwrap();
    assert_eq!(paths.remove(b"t").await.unwrap_err().errno(), Errno::NOTEMPTY);
    assert_eq!(paths.remove(b"/").await.unwrap_err().errno(), Errno::BUSY);
    let mut removed = 0;
    paths.remove_tree(b"t", || removed += 1).await.unwrap();
    assert_eq!(removed, 604);
    assert_eq!(paths.stat(b"t", Last::Keep).await.unwrap_err().errno(), Errno::NOENT);
    assert_eq!(fixture.volume.getattr(fixture.volume.root()).await.unwrap().nlink, 2);
}
