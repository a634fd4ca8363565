//! Reading while the network is away.

mod support;

use rustix::io::Errno;
use strewn_cache::{Options, Position};
use strewn_fs::volume::{Open, WriteMode};
use support::{Fixture, ROOT, ROOT_INODE, options};

const SIZE: usize = 6 << 20;
/// Another part of the file than its beginning, on the network as well.
const ELSEWHERE: u64 = 5 << 20;
const PAGE: usize = 4096;

#[tokio::test]
async fn after_a_read_that_had_no_answer_what_is_here_is_still_read() {
    let mut f = Fixture::with_options(Options { read_ahead: 0, ..options() }).await;
    let make = Open { read: true, write: true, ..Open::default() };
    let (made, _) = f.volume.create(ROOT, ROOT_INODE, b"file", 0o644, make).await.unwrap();
    let mode = WriteMode { position: Position::At(0), unprivileged: None };
    f.volume.write(made.stat.inode, &vec![7; SIZE], mode).await.unwrap();
    f.drain_and_start_afresh().await;
    let file = f.volume.lookup(ROOT_INODE, b"file").await.unwrap().stat.inode;
    let is_page = |bytes: &[u8]| bytes == [7; PAGE];
    let read = async |offset| f.volume.read(file, offset, PAGE).await.map_err(|error| error.errno());
    assert!(read(0).await.is_ok_and(|bytes| is_page(&bytes)));
    f.bucket.set_unreachable(true);
    for _ in 0..2 {
        assert_eq!(read(ELSEWHERE).await.err(), Some(Errno::TIMEDOUT));
        assert!(read(0).await.is_ok_and(|bytes| is_page(&bytes)), "it needs no answer");
    }
    f.bucket.set_unreachable(false);
    assert!(read(ELSEWHERE).await.is_ok_and(|bytes| is_page(&bytes)));
}
