//! The volume as a whole: listings, room, mounting again.

use crate::*;

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
async fn an_open_directory_ends_where_it_ended_when_it_was_read_from_its_start() {
    let f = Fixture::new().await;
    let v = &f.volume;
    let d = directory(v, ROOT_INODE, b"d").await;
    assert_eq!(v.end_of_dir(d, 2, 0).await.unwrap(), 2, "the dots");
    file(v, d, b"a").await;
    let end = async |handle, after| v.end_of_dir(d, handle, after).await.unwrap();
    assert_eq!([end(2, 1).await, end(4, 1).await], [2, 3], "of two that have it open");
    assert_eq!([end(2, 0).await, end(2, 1).await], [3, 3], "it was rewound");
    file(v, d, b"b").await;
    v.release_dir(d, 2);
    assert_eq!([end(2, 1).await, end(4, 1).await], [4, 3], "one has closed it");
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
