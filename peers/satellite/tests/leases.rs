//! Leases as a satellite keeps them: told to those who wait, remembered over a restart, and in one order with the batches.

mod common;

use common::*;
use std::sync::Arc;
use std::time::Duration;
use strewn_engine::bucket::lease::*;
use strewn_engine::bucket::*;
use strewn_engine::ids::*;
use strewn_satellite::Satellite;
use strewn_wire::satellite::*;

const A: MountId = MountId::from_bytes([1; 16]);
const B: MountId = MountId::from_bytes([2; 16]);

async fn ask(net: &Net, lease: LeaseRequest) -> LeaseReply {
    match net.ask(Request::Lease { bucket: BUCKET, lease }).await {
        Reply::Lease(reply) => reply,
        other => panic!("{other:?}"),
    }
}

async fn take_all(net: &Net, mount: MountId) -> HeldLease {
    let reply = ask(net, LeaseRequest { all: true, ..LeaseRequest::new(mount, 1, None) }).await;
    assert!(reply.all);
    HeldLease { mount, epoch: reply.epoch.unwrap() }
}

async fn want(net: &Net, mount: MountId, number: u64, held: Option<u64>, names: &[u8]) -> LeaseReply {
    let names = names.iter().map(|number| (ROOT, name(*number))).collect();
    ask(net, LeaseRequest { names, ..LeaseRequest::new(mount, number, held) }).await
}

fn recalled(lease: HeldLease, wait: Duration) -> Request {
    Request::Recalled { bucket: BUCKET, lease, wait }
}

fn commit(stream: &mut Stream, lease: Option<HeldLease>, inode: u8) -> Request {
    let commit = stream.batch(create(ROOT, inode, Kind::File).to_vec(), Vec::new());
    Request::CommitUnder { bucket: BUCKET, lease, commit }
}

#[tokio::test]
async fn a_holder_that_waits_is_told_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let net = Net::new(directory.path()).await;
    let lease = take_all(&net, A).await;
    assert!(matches!(net.ask(recalled(lease, Duration::ZERO)).await, Reply::Recalled(false)));
    let wanting = async {
        tokio::task::yield_now().await;
        want(&net, B, 1, None, &[10]).await
    };
    // Far longer than the test may take.
    let (told, wanted) = tokio::join!(net.ask(recalled(lease, Duration::from_secs(50))), wanting);
    assert!(matches!(told, Reply::Recalled(true)), "{told:?}");
    assert_eq!(wanted.names, [NameLease::Busy]);
    // Whoever comes later is told as well, without waiting for the next recall.
    assert!(matches!(net.ask(recalled(lease, Duration::from_secs(50))).await, Reply::Recalled(true)));
    let given = LeaseRequest { release_all: true, ..LeaseRequest::new(A, 2, Some(lease.epoch)) };
    assert!(!ask(&net, given).await.recalled);
    assert!(matches!(net.ask(recalled(lease, Duration::ZERO)).await, Reply::Recalled(false)));
    assert_eq!(want(&net, B, 2, None, &[10]).await.names, [NameLease::Granted]);
}

#[tokio::test]
async fn batches_are_judged_by_leases() {
    let directory = tempfile::tempdir().unwrap();
    let net = Net::new(directory.path()).await;
    let lease = take_all(&net, A).await;
    let (mut a, mut b) = (Stream::new(1), Stream::new(2));
    let late = commit(&mut b, None, 20);
    let held = |reply: Reply| matches!(reply, Reply::Commit(CommitReply::Lapsed(Lapse::Held { operation: 0 })));
    assert!(held(net.ask(late.clone()).await));
    // Software that does not know leases hears of something that passes.
    let Request::CommitUnder { commit: batch, .. } = late.clone() else { unreachable!() };
    let reply = net.ask(Request::Commit { bucket: BUCKET, commit: batch }).await;
    assert!(matches!(&reply, Reply::Failed(error @ Error::Unavailable(_)) if error.is_transient()), "{reply:?}");
    let reply = net.ask(commit(&mut a, Some(lease), 10)).await;
    assert!(matches!(reply, Reply::Commit(CommitReply::Applied { sequence: 1 })), "{reply:?}");
    // Nobody hears of the holder any more: then the same batch goes through, and the holder's does not.
    net.clock.advance(LEASE.as_secs() as i64);
    let reply = net.ask(late.clone()).await;
    assert!(matches!(reply, Reply::Commit(CommitReply::Applied { sequence: 2 })), "{reply:?}");
    a.number = 1;
    let stale = commit(&mut a, Some(lease), 11);
    let reply = net.ask(stale.clone()).await;
    assert!(matches!(reply, Reply::Commit(CommitReply::Lapsed(Lapse::Stale))), "{reply:?}");
    let Request::CommitUnder { commit, .. } = stale else { unreachable!() };
    let reply = net.ask(Request::CommitUnder { bucket: BUCKET, lease: None, commit }).await;
    assert!(matches!(reply, Reply::Commit(CommitReply::Applied { sequence: 3 })), "{reply:?}");
}

#[tokio::test]
async fn a_restart_takes_nothing_away_and_gives_nothing_twice() {
    let directory = tempfile::tempdir().unwrap();
    let net = Net::new(directory.path()).await;
    let held = want(&net, A, 1, None, &[10, 11]).await;
    let Net { satellite, clock, key, session: old } = net;
    drop((satellite, old));
    let satellite: Satellite = open(directory.path(), &clock);
    let net = Net { session: session(&satellite, &key), satellite, clock: Arc::clone(&clock), key };
    assert_eq!(want(&net, B, 1, None, &[10]).await.names, [NameLease::Busy]);
    assert_eq!(want(&net, B, 2, None, &[30]).await.names, [NameLease::Busy], "who knows what A holds");
    let told = ask(&net, LeaseRequest::new(A, 2, held.epoch)).await;
    assert_eq!((told.recalled, told.epoch), (true, held.epoch));
    let names = vec![(ROOT, name(10))];
    let again = LeaseRequest { names, reserve: true, release_all: true, ..LeaseRequest::new(A, 3, held.epoch) };
    let again = ask(&net, again).await;
    assert_eq!((again.names, again.epoch, again.recalled), (vec![NameLease::Granted], held.epoch, false));
    let wanted = want(&net, B, 3, None, &[10, 11]).await;
    assert_eq!(wanted.names, [NameLease::Busy, NameLease::Granted]);
    assert!(wanted.epoch > held.epoch, "no epoch comes twice");
    clock.advance(LEASE.as_secs() as i64);
    assert_eq!(want(&net, B, 4, None, &[10]).await.names, [NameLease::Granted]);
}

#[tokio::test]
async fn a_holder_that_could_not_be_saved_is_saved_with_the_next_answer() {
    let directory = tempfile::tempdir().unwrap();
    let net = Net::new(directory.path()).await;
    let disk = rusqlite::Connection::open(directory.path().join("metabase.sqlite")).unwrap();
    let breaks = "CREATE TRIGGER breaks BEFORE INSERT ON lease_holders BEGIN SELECT RAISE(FAIL, 'broken'); END";
    disk.execute_batch(breaks).unwrap();
    let names = vec![(ROOT, name(10))];
    let lease = LeaseRequest { names, ..LeaseRequest::new(A, 1, None) };
    let reply = net.ask(Request::Lease { bucket: BUCKET, lease: lease.clone() }).await;
    assert!(matches!(&reply, Reply::Failed(error) if error.is_transient()), "{reply:?}");
    disk.execute_batch("DROP TRIGGER breaks").unwrap();
    let held = ask(&net, lease).await;
    assert_eq!(held.names, [NameLease::Granted]);
    let Net { satellite, clock, key, session: old } = net;
    drop((satellite, old));
    let satellite: Satellite = open(directory.path(), &clock);
    let net = Net { session: session(&satellite, &key), satellite, clock: Arc::clone(&clock), key };
    assert_eq!(want(&net, B, 1, None, &[10]).await.names, [NameLease::Busy], "A holds it");
}

#[tokio::test]
async fn what_is_too_much_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let net = Net::new(directory.path()).await;
    let names = vec![(ROOT, name(10)); MAX_LEASE_NAMES + 1];
    let lease = LeaseRequest { names, ..LeaseRequest::new(A, 1, None) };
    let reply = net.ask(Request::Lease { bucket: BUCKET, lease }).await;
    assert!(matches!(reply, Reply::Failed(Error::Invalid(_))), "{reply:?}");
    // What is allowed fits into its frame.
    let longest = || (ROOT, EncryptedName::try_from(vec![7; EncryptedName::MAX]).unwrap());
    let names = (0..MAX_LEASE_NAMES).map(|_| longest()).collect::<Vec<_>>();
    let lease = LeaseRequest { release: names.clone(), names, ..LeaseRequest::new(A, 1, None) };
    let request = Request::Lease { bucket: BUCKET, lease };
    let mut frame = Vec::new();
    strewn_wire::frame::append(&mut frame, &request, request.max_frame()).unwrap();
}
