use super::*;
use crate::testing::{CREATED, Party, at, directory};
use crate::{Node, NodeOptions};
use bytes::Bytes;
use proptest::prelude::*;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use strewn_engine::order::{Action, Receipt};
use strewn_engine::piece::{PieceShape, PieceTree, verify};
use strewn_wire::node::{MAX_DATA, SHARE, read_raw_bytes, write_data};
use tokio::io::DuplexStream;
use tokio::task::JoinHandle;

const CAPACITY: u64 = 256 << 20;

struct Fixture {
    directory: tempfile::TempDir,
    party: Party,
    clock: Arc<AtomicI64>,
    node: Node,
}

/// An uplink's end of a stream.
struct Uplink<'a> {
    party: &'a Party,
    stream: DuplexStream,
    served: JoinHandle<Result<(), ServeError>>,
}

impl Fixture {
    fn new() -> Self {
        let directory = directory();
        let (party, clock) = (Party::new(), Arc::new(AtomicI64::new(CREATED)));
        let node = open(directory.path(), &party, &clock);
        Self { directory, party, clock, node }
    }

    /// As after a kill: nothing is closed. The old node gives the directory free when its last clone is gone.
    async fn crash(&mut self) {
        let copy = directory();
        copy_tree(self.directory.path(), copy.path());
        self.node = open(copy.path(), &self.party, &self.clock);
        self.directory = copy;
    }

    fn connect(&self) -> Uplink<'_> {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let node = self.node.clone();
        let served = tokio::spawn(async move { node.serve_stream(theirs).await });
        Uplink { party: &self.party, stream: ours, served }
    }
}

fn open(directory: &Path, party: &Party, clock: &Arc<AtomicI64>) -> Node {
    let clock = clock.clone();
    let mut options = NodeOptions::new(CAPACITY, vec![party.satellite_id()]);
    options.clock = Arc::new(move || at(clock.load(Ordering::Relaxed)));
    options.store.reserve = 0;
    Node::open(directory, party.node.clone(), options).expect("opens")
}

fn copy_tree(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("lists") {
        let entry = entry.expect("entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("type").is_dir() {
            std::fs::create_dir(&target).expect("made");
            copy_tree(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copies");
        }
    }
}

impl Uplink<'_> {
    async fn send(&mut self, request: Request) {
        frame::write(&mut self.stream, &request, MAX_MESSAGE).await.expect("sends");
    }

    async fn reply(&mut self) -> Option<Reply> {
        frame::read(&mut self.stream, MAX_MESSAGE).await.expect("a reply or the end")
    }

    /// Sends a put without waiting for its end.
    async fn begin_put(&mut self, limit: &Signed<OrderLimit>, data: &[u8]) {
        self.send(Request::Put { limit: limit.clone(), length: data.len() as u64 }).await;
        let mut sent = 0;
        for part in data.chunks(MAX_DATA) {
            sent += part.len() as u64;
            write_data(&mut self.stream, Some(self.party.order(limit, sent)), part).await.expect("sends");
        }
    }

    async fn put(&mut self, limit: &Signed<OrderLimit>, data: &[u8]) -> Result<Receipt, NodeError> {
        self.begin_put(limit, data).await;
        self.send(Request::End).await;
        match self.reply().await {
            Some(Reply::Stored(receipt)) => Ok(receipt.verify(&self.party.node.verifying_key()).expect("signed")),
            Some(Reply::Failed(error)) => Err(error),
            other => panic!("{other:?}"),
        }
    }

    /// Reads shares of a piece of `length` bytes and proves them.
    async fn get(
        &mut self,
        limit: &Signed<OrderLimit>,
        paid: u64,
        shares: std::ops::Range<u32>,
        root: &[u8; 32],
    ) -> (Vec<u8>, Result<(), NodeError>) {
        let order = self.party.order(limit, paid);
        let (first, count) = (shares.start, shares.end - shares.start);
        self.send(Request::Get { limit: limit.clone(), order, first, count }).await;
        let (mut all, mut next) = (Vec::new(), first);
        loop {
            match self.reply().await {
                Some(Reply::Shares { first, proofs, length, data }) => {
                    assert_eq!(first, next);
                    let data = read_raw_bytes(&mut self.stream, data).await.expect("data");
                    let shape = PieceShape::new(length).expect("piece");
                    for (proof, share) in proofs.iter().zip(data.chunks(SHARE as usize)) {
                        if verify(root, shape, next, Bytes::copy_from_slice(share), proof).is_err() {
                            return (all, Err(NodeError::Damaged));
                        }
                        next += 1;
                    }
                    all.extend_from_slice(&data);
                }
                Some(Reply::End) => return (all, Ok(())),
                Some(Reply::Failed(error)) => return (all, Err(error)),
                other => panic!("{other:?}"),
            }
        }
    }

    async fn delete(&mut self, limit: &Signed<OrderLimit>) -> Option<Reply> {
        self.send(Request::Delete { limit: limit.clone() }).await;
        self.reply().await
    }
}

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 7 + i / 301) as u8).collect()
}

fn root(data: &[u8]) -> [u8; 32] {
    PieceTree::of(data, SHARE as u32).expect("piece").root()
}

fn shares(data: &[u8]) -> u32 {
    data.len().div_ceil(SHARE as usize) as u32
}

#[tokio::test]
async fn pieces_go_in_and_come_out_over_one_stream() {
    let fixture = Fixture::new();
    let mut uplink = fixture.connect();
    for (number, length) in [(1, 1), (2, 1000), (3, 65_536), (4, 65_537), (5, 1_000_000)] {
        let data = content(length);
        let put = fixture.party.limit(Action::Put, number, length as u64);
        let receipt = uplink.put(&put, &data).await.expect("stored");
        assert_eq!(receipt, Receipt { limit: put.hash(), length: length as u64, root: root(&data) });
        let get = fixture.party.limit(Action::Get, number, 2 * length as u64);
        let (read, end) = uplink.get(&get, length as u64, 0..shares(&data), &receipt.root).await;
        assert_eq!((read, end), (data.clone(), Ok(())));
        let last = shares(&data) - 1;
        let (read, end) = uplink.get(&get, 2 * length as u64, last..last + 1, &receipt.root).await;
        assert_eq!((&read[..], end), (&data[last as usize * SHARE as usize..], Ok(())));
    }
    let delete = fixture.party.limit(Action::Delete, 3, 0);
    assert_eq!(uplink.delete(&delete).await, Some(Reply::Deleted));
    assert_eq!(uplink.delete(&delete).await, Some(Reply::Deleted), "that it is gone is no error");
    let get = fixture.party.limit(Action::GetAudit, 3, SHARE);
    assert_eq!(uplink.get(&get, SHARE, 0..1, &[0; 32]).await.1, Err(NodeError::NotFound));
    assert_eq!(fixture.node.status().pieces, 4);
    drop(uplink.stream);
    uplink.served.await.expect("served").expect("ended well");
}

#[tokio::test]
async fn nothing_moves_unpaid_and_replays_pay_nothing() {
    let fixture = Fixture::new();
    let mut uplink = fixture.connect();
    let data = content(200_000);
    let put = fixture.party.limit(Action::Put, 1, 200_000);
    // Too little for the first portion.
    uplink.send(Request::Put { limit: put.clone(), length: 200_000 }).await;
    write_data(&mut uplink.stream, Some(fixture.party.order(&put, 199_999)), &data).await.expect("sends");
    assert_eq!(uplink.reply().await, Some(Reply::Failed(NodeError::Unpaid { spent: 0, paid: 199_999 })));
    uplink.send(Request::Cancel).await;
    uplink.put(&put, &data).await.expect("stored");
    let unpaid = NodeError::Unpaid { spent: 200_000, paid: 200_000 };
    assert_eq!(uplink.put(&put, &data).await, Err(unpaid), "the budget is spent");
    let get = fixture.party.limit(Action::Get, 1, 300_000);
    let root = root(&data);
    let (read, end) = uplink.get(&get, 150_000, 0..4, &root).await;
    let unpaid = Err(NodeError::Unpaid { spent: 2 * SHARE, paid: 150_000 });
    assert_eq!((&read[..], &end), (&data[..2 * SHARE as usize], &unpaid), "what is paid is sent");
    assert_eq!(uplink.get(&get, 150_000, 0..1, &root).await, (vec![], unpaid));
}

#[tokio::test]
async fn a_crash_neither_loses_a_piece_nor_gives_bytes_for_free() {
    let mut fixture = Fixture::new();
    let data = content(300_000);
    let put = fixture.party.limit(Action::Put, 1, 300_000);
    let get = fixture.party.limit(Action::Get, 1, 600_000);
    let delete = fixture.party.limit(Action::Delete, 1, 0);
    let mut uplink = fixture.connect();
    uplink.put(&put, &data).await.expect("stored");
    let (_, end) = uplink.get(&get, 300_000, 0..5, &root(&data)).await;
    assert_eq!(end, Ok(()));
    drop(uplink);
    fixture.crash().await;
    let mut uplink = fixture.connect();
    // The whole budget was noted ahead: the rest of it is lost, and not a byte moves for it.
    let unpaid = |spent, paid| Err(NodeError::Unpaid { spent, paid });
    assert_eq!(uplink.get(&get, 600_000, 0..5, &root(&data)).await, (vec![], unpaid(600_000, 600_000)));
    let fresh = fixture.party.limit(Action::GetRepair, 1, 300_000);
    assert_eq!(uplink.get(&fresh, 300_000, 0..5, &root(&data)).await, (data.clone(), Ok(())));
    assert_eq!(uplink.delete(&delete).await, Some(Reply::Deleted));
    drop(uplink);
    fixture.crash().await;
    let mut uplink = fixture.connect();
    assert_eq!(uplink.put(&put, &data).await.map(drop), unpaid(300_000, 300_000), "deleted, and spent all the same");
}

#[tokio::test]
async fn after_a_clean_close_not_a_byte_is_lost() {
    let mut fixture = Fixture::new();
    let data = content(300_000);
    let put = fixture.party.limit(Action::Put, 1, 300_000);
    let get = fixture.party.limit(Action::Get, 1, 600_000);
    let mut uplink = fixture.connect();
    uplink.put(&put, &data).await.expect("stored");
    assert_eq!(uplink.get(&get, 300_000, 0..5, &root(&data)).await.1, Ok(()));
    let busy = Node::open(fixture.directory.path(), fixture.party.node.clone(), NodeOptions::new(1, vec![]));
    assert!(matches!(busy, Err(crate::OpenError::Locked(_))));
    fixture.node.close().await.expect("closed");
    let closed = fixture.node.clone();
    assert!(matches!(uplink.served.await.expect("served"), Err(ServeError::Closing)));
    fixture.node = open(fixture.directory.path(), &fixture.party, &fixture.clock);
    let mut uplink = fixture.connect();
    assert_eq!(uplink.get(&get, 600_000, 0..5, &root(&data)).await, (data, Ok(())));
    // The old node touches nothing any more.
    assert_eq!(closed.close().await, Ok(()));
    assert!(closed.run_once().await.is_err());
    assert!(closed.settled(vec![put.unverified().expect("limit").serial]).await.is_err());
}

#[tokio::test]
async fn a_refused_put_leaves_the_stream_usable() {
    let fixture = Fixture::new();
    let mut uplink = fixture.connect();
    let data = content(600_000);
    let get = fixture.party.limit(Action::Get, 1, 600_000);
    assert!(matches!(uplink.put(&get, &data).await, Err(NodeError::Limit(_))));
    let put = fixture.party.limit(Action::Put, 1, 600_000);
    assert!(matches!(uplink.put(&put, &content(600_001)).await, Err(NodeError::Limit(_))));
    fixture.node.faults().set_full(true);
    assert_eq!(uplink.put(&put, &data).await, Err(NodeError::Full));
    assert_eq!(fixture.node.free(), 0);
    fixture.node.faults().set_full(false);
    uplink.begin_put(&put, &data[..300_000]).await;
    uplink.send(Request::Cancel).await;
    assert_eq!(uplink.reply().await, Some(Reply::End), "given up");
    let again = fixture.party.limit(Action::PutRepair, 1, 600_000);
    uplink.put(&again, &data).await.expect("stored");
    let other = fixture.party.limit(Action::PutGracefulExit, 1, 600_000);
    assert_eq!(uplink.put(&other, &content(500_000)).await, Err(NodeError::Exists));
    fixture.clock.fetch_add(3_600, Ordering::Relaxed);
    assert!(matches!(uplink.put(&put, &data).await, Err(NodeError::Limit(_))), "expired");
    assert_eq!(fixture.node.orders_to_settle(fixture.party.satellite_id(), 10).len(), 3);
}

#[tokio::test]
async fn what_breaks_the_protocol_ends_the_stream_with_a_reason() {
    let fixture = Fixture::new();
    let put = fixture.party.limit(Action::Put, 1, 100);
    let get = fixture.party.limit(Action::Get, 1, 100);
    fixture.connect().put(&put, &content(100)).await.expect("stored");
    let order = fixture.party.order(&get, 100);
    let wrong = |first, count| vec![Request::Get { limit: get.clone(), order: order.clone(), first, count }];
    for requests in [
        vec![Request::End],
        vec![Request::Cancel],
        vec![Request::Data { length: 5 }],
        vec![Request::Put { limit: put.clone(), length: 0 }],
        vec![Request::Put { limit: put.clone(), length: u64::MAX }],
        vec![Request::Put { limit: put.clone(), length: 100 }, Request::End],
        vec![Request::Put { limit: put.clone(), length: 100 }, Request::Data { length: 101 }],
        vec![Request::Put { limit: put.clone(), length: 100 }, Request::Delete { limit: put.clone() }],
        wrong(0, 0),
        wrong(0, 2),
        wrong(1, 1),
        wrong(u32::MAX, u32::MAX),
    ] {
        let mut uplink = fixture.connect();
        for request in &requests {
            uplink.send(request.clone()).await;
        }
        let reply = uplink.reply().await;
        assert!(matches!(reply, Some(Reply::Failed(NodeError::Invalid(_)))), "{requests:?}: {reply:?}");
        assert_eq!(uplink.reply().await, None);
        assert!(uplink.served.await.expect("no panic").is_err());
    }
    let bytes = fixture.node.status().bytes;
    assert_eq!((bytes.open, bytes.promised), (0, 0));
}

#[tokio::test]
async fn many_uplinks_at_once() {
    let fixture = Fixture::new();
    let data = content(400_000);
    let root = root(&data);
    let mut uplinks: Vec<_> = (0..40).map(|_| fixture.connect()).collect();
    let puts = uplinks.iter_mut().zip(1u8..).map(|(uplink, number)| {
        let (put, data) = (fixture.party.limit(Action::Put, number, 400_000), &data);
        async move { uplink.put(&put, data).await }
    });
    for receipt in futures_join(puts).await {
        assert_eq!(receipt.expect("stored").root, root);
    }
    // All read the same piece under the same limit, which one order pays.
    let get = fixture.party.limit(Action::Get, 7, 40 * 400_000);
    let gets = uplinks.iter_mut().map(|uplink| {
        let get = &get;
        async move { uplink.get(get, 40 * 400_000, 0..7, &root).await }
    });
    for (read, end) in futures_join(gets).await {
        assert_eq!((read == data, end), (true, Ok(())));
    }
    let (read, end) = uplinks[0].get(&get, 40 * 400_000, 0..1, &root).await;
    assert_eq!((read, end), (vec![], Err(NodeError::Unpaid { spent: 16_000_000, paid: 16_000_000 })));
    let bytes = fixture.node.status().bytes;
    assert_eq!((bytes.open, bytes.promised), (0, 0));
    assert_eq!(bytes.used, bytes.live + bytes.dead);
}

/// Polls all at once and returns all results.
async fn futures_join<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut futures: Vec<_> = futures.map(|f| (Box::pin(f), None)).collect();
    std::future::poll_fn(|context| {
        let mut is_ready = true;
        for (future, output) in &mut futures {
            if output.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(value) => *output = Some(value),
                    std::task::Poll::Pending => is_ready = false,
                }
            }
        }
        if is_ready { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    futures.into_iter().filter_map(|(_, output)| output).collect()
}

#[tokio::test]
async fn too_many_transfers_are_refused_as_busy() {
    let fixture = Fixture::new();
    let _all = fixture.node.0.transfers.acquire_many(crate::MAX_TRANSFERS).await.expect("open");
    let mut uplink = fixture.connect();
    let put = fixture.party.limit(Action::Put, 1, 100);
    assert_eq!(uplink.put(&put, &content(100)).await, Err(NodeError::Busy));
    let get = fixture.party.limit(Action::Get, 1, 100);
    assert_eq!(uplink.get(&get, 100, 0..1, &[0; 32]).await.1, Err(NodeError::Busy));
}

#[tokio::test]
async fn corruption_is_caught_whoever_does_it() {
    let fixture = Fixture::new();
    let mut uplink = fixture.connect();
    let data = content(100_000);
    let put = fixture.party.limit(Action::Put, 1, 100_000);
    let root = uplink.put(&put, &data).await.expect("stored").root;
    let get = fixture.party.limit(Action::Get, 1, 1_000_000);
    fixture.node.faults().set_corrupt(true);
    assert_eq!(fixture.node.status().faults, ["corrupt"]);
    let mut lied_to = fixture.connect();
    assert_eq!(lied_to.get(&get, 100_000, 0..2, &root).await, (vec![], Err(NodeError::Damaged)), "by the proof");
    fixture.node.faults().clear();
    assert_eq!(uplink.get(&get, 200_000, 0..2, &root).await, (data, Ok(())));
    assert_eq!(fixture.node.damage_all().await, Ok(1));
    assert_eq!(uplink.get(&get, 300_000, 0..2, &root).await, (vec![], Err(NodeError::Damaged)), "by the node");
}

#[tokio::test]
async fn a_wiped_node_has_no_pieces_and_remembers_what_was_paid() {
    let mut fixture = Fixture::new();
    let mut uplink = fixture.connect();
    let data = content(1_000);
    let put = fixture.party.limit(Action::Put, 1, 1_000);
    uplink.put(&put, &data).await.expect("stored");
    let path = fixture.directory.path().to_owned();
    assert!(matches!(crate::wipe(&path), Err(crate::OpenError::Locked(_))));
    fixture.node.close().await.expect("closed");
    crate::wipe(&path).expect("wiped");
    fixture.node = open(&path, &fixture.party, &fixture.clock);
    let mut uplink = fixture.connect();
    let get = fixture.party.limit(Action::Get, 1, 1_000);
    assert_eq!(uplink.get(&get, 1_000, 0..1, &[0; 32]).await.1, Err(NodeError::NotFound));
    assert!(matches!(uplink.put(&put, &data).await, Err(NodeError::Unpaid { .. })));
}

#[tokio::test]
async fn a_hanging_node_answers_when_it_is_let_go() {
    let fixture = Fixture::new();
    fixture.node.faults().set_hang(true);
    let mut uplink = fixture.connect();
    let put = fixture.party.limit(Action::Put, 1, 1_000);
    let data = content(1_000);
    uplink.begin_put(&put, &data).await;
    uplink.send(Request::End).await;
    // It has everything and says nothing: closing such a node works too.
    let silent = tokio::select! {
        biased;
        _ = uplink.reply() => false,
        () = async { while fixture.node.status().transfers == 0 { tokio::task::yield_now().await } } => true,
    };
    assert!(silent);
    fixture.node.faults().set_hang(false);
    assert!(matches!(uplink.reply().await, Some(Reply::Stored(_))));
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_is_dropped() {
    let fixture = Fixture::new();
    let uplink = fixture.connect();
    assert!(matches!(uplink.served.await.expect("served"), Err(ServeError::TimedOut)));
    let mut slow = fixture.connect();
    let put = fixture.party.limit(Action::Put, 1, 1_000);
    slow.send(Request::Put { limit: put.clone(), length: 1_000 }).await;
    assert!(matches!(slow.served.await.expect("served"), Err(ServeError::TimedOut)));
    assert_eq!(fixture.node.status().bytes.promised, 0, "its room is free again");
}

#[tokio::test(start_paused = true)]
async fn a_slow_node_takes_its_time_for_every_share() {
    let fixture = Fixture::new();
    let data = content(300_000);
    let put = fixture.party.limit(Action::Put, 1, 300_000);
    let root = fixture.connect().put(&put, &data).await.expect("stored").root;
    fixture.node.faults().set_slow(1_000);
    let start = tokio::time::Instant::now();
    let get = fixture.party.limit(Action::Get, 1, 300_000);
    assert_eq!(fixture.connect().get(&get, 300_000, 0..5, &root).await.1, Ok(()));
    assert_eq!(start.elapsed().as_secs(), 5);
}

#[tokio::test]
async fn expired_pieces_go_and_housekeeping_is_idle_otherwise() {
    let fixture = Fixture::new();
    let mut uplink = fixture.connect();
    let terms = OrderLimit { piece_expires: Some(at(CREATED + 10)), ..fixture.party.terms(Action::Put, 1, 100) };
    uplink.put(&Signed::new(&terms, &fixture.party.satellite), &content(100)).await.expect("stored");
    assert_eq!(fixture.node.run_once().await, Ok(crate::Housekeeping::default()));
    fixture.clock.store(CREATED + 11, Ordering::Relaxed);
    assert_eq!(fixture.node.run_once().await.map(|done| done.expired), Ok(1));
    assert_eq!(fixture.node.status().pieces, 0);
}

#[tokio::test]
async fn a_directory_of_another_node_or_version_is_refused() {
    let fixture = Fixture::new();
    fixture.node.close().await.expect("closed");
    let path = fixture.directory.path();
    let other = Node::open(path, Party::other().node, NodeOptions::new(1, vec![]));
    assert!(matches!(other, Err(crate::OpenError::Format(..))));
    let format = path.join("format");
    let text = std::fs::read_to_string(&format).expect("reads").replace("node 1", "node 2");
    std::fs::write(&format, text).expect("written");
    let error = Node::open(path, fixture.party.node.clone(), NodeOptions::new(1, vec![])).err().expect("refused");
    assert!(error.to_string().contains("strewn storage node 2"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_bytes_make_it_panic(
        parts in proptest::collection::vec(
            prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..100),
                // A frame of anything.
                proptest::collection::vec(any::<u8>(), 0..60).prop_map(|body| [&(body.len() as u32).to_le_bytes()[..], &body].concat()),
                Just(put_frame()),
            ],
            0..6,
        ),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("runtime");
        runtime.block_on(async {
            let fixture = Fixture::new();
            let mut uplink = fixture.connect();
            // It may hang up early.
            let _ = uplink.stream.write_all(&parts.concat()).await;
            let _ = uplink.stream.shutdown().await;
            let _ = uplink.served.await.expect("no panic");
            let bytes = fixture.node.status().bytes;
            assert_eq!((bytes.open, bytes.promised), (0, 0));
        });
    }

    #[test]
    fn any_piece_comes_back(length in 1usize..600_000, part in 1usize..MAX_DATA) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("runtime");
        runtime.block_on(async {
            let fixture = Fixture::new();
            let mut uplink = fixture.connect();
            let data = content(length);
            let put = fixture.party.limit(Action::Put, 1, length as u64);
            uplink.send(Request::Put { limit: put.clone(), length: length as u64 }).await;
            uplink.send(Request::Order(fixture.party.order(&put, length as u64))).await;
            for part in data.chunks(part.max(length / 50)).flat_map(|part| part.chunks(MAX_DATA)) {
                write_data(&mut uplink.stream, None, part).await.expect("sends");
            }
            uplink.send(Request::End).await;
            assert!(matches!(uplink.reply().await, Some(Reply::Stored(_))));
            let get = fixture.party.limit(Action::Get, 1, length as u64);
            let (read, end) = uplink.get(&get, length as u64, 0..shares(&data), &root(&data)).await;
            assert_eq!((read == data, end), (true, Ok(())));
        });
    }
}

fn put_frame() -> Vec<u8> {
    let limit = Party::new().limit(Action::Put, 1, 100);
    let mut bytes = Vec::new();
    frame::append(&mut bytes, &Request::Put { limit, length: 50 }, MAX_MESSAGE).expect("encodes");
    bytes
}
