//! What fsync and close promise, and that failed uploads are told.

mod support;

use rustix::io::Errno;
use std::sync::Arc;
use std::time::Duration;
use strewn_cache::{Options, Position};
use strewn_fs::Volume;
use strewn_fs::volume::{Open, Opened, Promises, Reach, WriteMode};
use support::{Fixture, ROOT, ROOT_INODE, options};

const AT_START: WriteMode = WriteMode { position: Position::At(0), unprivileged: None };
const MAKE: Open = Open { read: true, write: true, truncate: false, exclusive: false, no_atime: false, direct: false };

/// Nothing goes up by itself.
fn lazy() -> Options {
    let never = Duration::from_secs(3600);
    Options { cut_idle: never, cut_age: never, cut_bytes: u64::MAX, deadline: Duration::from_millis(300), ..options() }
}

async fn fixture(promises: Promises) -> (Fixture, Arc<Volume>) {
    let fixture = Fixture::with_options(lazy()).await;
    let volume = Volume::new(fixture.volume.cache().clone()).with_promises(promises);
    (fixture, Arc::new(volume))
}

async fn open(volume: &Volume, name: &[u8]) -> (strewn_engine::ids::InodeId, Opened) {
    let (entry, opened) = volume.create(ROOT, ROOT_INODE, name, 0o644, MAKE).await.unwrap();
    (entry.stat.inode, opened)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fsync_waits_for_this_machine_alone_unless_told_otherwise() {
    let (f, volume) = fixture(Promises::default()).await;
    let (file, opened) = open(&volume, b"a").await;
    f.bucket.set_unreachable(true);
    volume.write(file, b"bytes", AT_START).await.unwrap();
    volume.fsync(file, opened.handle, false).await.unwrap();
    volume.flush(file, opened.handle, 1).await.unwrap();
    assert_eq!(f.bucket.snapshot().sequence, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fsync_waits_for_the_network_where_it_promises_to() {
    let (f, volume) = fixture(Promises { fsync: Reach::Network, close: Reach::Machine }).await;
    let (file, opened) = open(&volume, b"a").await;
    volume.write(file, b"bytes", AT_START).await.unwrap();
    volume.flush(file, opened.handle, 1).await.unwrap();
    assert_eq!(f.bucket.snapshot().sequence, 0, "close promises nothing");
    volume.fsync(file, opened.handle, true).await.unwrap();
    let there = f.bucket.snapshot();
    assert_eq!((there.sequence, there.bytes), (1, 5));
    f.bucket.set_unreachable(true);
    volume.fsync(file, opened.handle, false).await.unwrap();
    volume.write(file, b"BYTES", AT_START).await.unwrap();
    let failed = volume.fsync(file, opened.handle, false).await.unwrap_err();
    assert_eq!(failed.errno(), Errno::IO, "{failed}");
    let status = volume.cache().status();
    assert!(status.pending_bytes == 5 && status.failed_files == 0, "the data stays queued: {status:?}");
    f.bucket.set_unreachable(false);
    volume.fsync(file, opened.handle, false).await.unwrap();
    assert_eq!(f.bucket.snapshot().sequence, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn close_waits_for_the_network_where_it_promises_to() {
    let (f, volume) = fixture(Promises { fsync: Reach::Machine, close: Reach::Network }).await;
    let (file, opened) = open(&volume, b"a").await;
    let (other, other_opened) = open(&volume, b"b").await;
    volume.write(file, b"bytes", AT_START).await.unwrap();
    volume.fsync(file, opened.handle, false).await.unwrap();
    assert_eq!(f.bucket.snapshot().sequence, 0, "fsync promises this machine");
    volume.flush(file, opened.handle, 1).await.unwrap();
    assert_eq!(f.bucket.snapshot().sequence, 1);
    f.bucket.set_unreachable(true);
    volume.write(file, b"BYTES", AT_START).await.unwrap();
    volume.flush(other, other_opened.handle, 1).await.expect("it has nothing to wait for");
    assert_eq!(volume.flush(file, opened.handle, 1).await.unwrap_err().errno(), Errno::IO);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_upload_is_told_once_to_every_open_file_and_tried_for_ever() {
    let (f, volume) = fixture(Promises::default()).await;
    f.bucket.set_quota(Some(10));
    let (file, first) = open(&volume, b"a").await;
    let (_, second) = open(&volume, b"a").await;
    let (other, other_opened) = open(&volume, b"b").await;
    volume.write(file, b"more than ten bytes", AT_START).await.unwrap();
    volume.flush(file, first.handle, 1).await.expect("nothing failed yet");
    volume.cache().drain(|_| {}).await.unwrap_err();
    let errno = |result: strewn_fs::Result<()>| result.map_err(|error| error.errno());
    assert_eq!(errno(volume.flush(file, first.handle, 1).await), Err(Errno::DQUOT));
    assert_eq!(errno(volume.flush(file, first.handle, 1).await), Ok(()));
    assert_eq!(errno(volume.flush(file, first.handle, 2).await), Err(Errno::DQUOT), "a copy in another process");
    assert_eq!(errno(volume.fsync(file, first.handle, false).await), Err(Errno::DQUOT), "fsync is told by itself");
    assert_eq!(errno(volume.fsync(file, second.handle, false).await), Err(Errno::DQUOT));
    assert_eq!(errno(volume.fsync(file, second.handle, false).await), Ok(()));
    let state = volume.getxattr(file, b"user.strewn.state").await.unwrap();
    assert!(state.starts_with(b"failed: quota"), "{state:?}");
    assert_eq!(volume.cache().status().failed_files, 2);
    assert_eq!(
        errno(volume.flush(other, other_opened.handle, 1).await),
        Err(Errno::DQUOT),
        "it goes up in the same batch"
    );
    volume.release(file, first.handle);
    f.bucket.set_quota(None);
    volume.cache().drain(|_| {}).await.unwrap();
    let (_, third) = open(&volume, b"a").await;
    assert_eq!(errno(volume.fsync(file, third.handle, false).await), Ok(()));
    assert_eq!(f.bucket.snapshot().bytes, 19);
}
