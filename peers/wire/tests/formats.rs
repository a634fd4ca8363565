//! Old bytes stay readable: messages as they were written when each came to be. New ones come as further variants at the
//! end.

use std::time::Duration;
use strewn_engine::bucket::lease::{HeldLease, LeaseReply, LeaseRequest, NameLease};
use strewn_engine::bucket::*;
use strewn_engine::ids::{BucketId, CommitId, InodeId, MountId};
use strewn_wire::satellite::{Reply, Request};

const BUCKET: BucketId = BucketId::from_bytes([0xb0; 16]);
const MOUNT: MountId = MountId::from_bytes([0x30; 16]);

/// Checks that a message is written as these bytes, and that they are read as that message.
fn check<T: serde::Serialize + serde::de::DeserializeOwned + std::fmt::Debug>(message: &T, committed: &str) {
    let bytes = postcard::to_allocvec(message).unwrap();
    assert_eq!(hex(&bytes), committed, "{message:?}");
    let read: T = postcard::from_bytes(&bytes).unwrap();
    assert_eq!(format!("{read:?}"), format!("{message:?}"));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn name() -> (InodeId, EncryptedName) {
    (InodeId::from_bytes([0x10; 16]), EncryptedName::try_from(vec![0x20; EncryptedName::MIN]).unwrap())
}

fn commit() -> Commit {
    let (parent, name) = name();
    let time = Timestamp { seconds: 1, nanos: 2 };
    let set = SetEntry { parent, name, expected: None, target: None, time };
    let operations = vec![Operation::SetEntry(set)];
    Commit { id: CommitId::from_bytes([0x40; 16]), mount: MOUNT, number: 3, operations, runs: Vec::new() }
}

#[test]
fn requests() {
    check(&Request::ListBuckets, "02");
    check(
        &Request::Commit { bucket: BUCKET, commit: commit() },
        "0db0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0404040404040404040404040404040403030303030303030303030303030303003010010101010101010101010101010101010302020202020202020202020202020202020202020202020202020202020202020202020202020202020202020202020200000020200",
    );
    check(
        &Request::Changes { bucket: BUCKET, after: 5, wait: Duration::from_millis(1_500) },
        "0eb0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0050180cab5ee01",
    );
    let check_gone = Operation::CheckGone(CheckGone { inode: InodeId::from_bytes([0x10; 16]), version: 300 });
    check(&check_gone, "0210101010101010101010101010101010ac02");
    check(&Request::Revoke { api_key: vec![1, 2].into() }, "10020102");
    let lease = LeaseRequest {
        all: true,
        names: vec![name()],
        reserve: true,
        release_all: true,
        release: vec![name()],
        ..LeaseRequest::new(MOUNT, 300, Some(7))
    };
    check(
        &Request::Lease { bucket: BUCKET, lease },
        "11b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b030303030303030303030303030303030ac020107010110101010101010101010101010101010302020202020202020202020202020202020202020202020202020202020202020202020202020202020202020202020200101011010101010101010101010101010101030202020202020202020202020202020202020202020202020202020202020202020202020202020202020202020202020",
    );
    let lease = HeldLease { mount: MOUNT, epoch: 7 };
    check(
        &Request::CommitUnder { bucket: BUCKET, lease: Some(lease), commit: commit() },
        "12b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0013030303030303030303030303030303007404040404040404040404040404040403030303030303030303030303030303003010010101010101010101010101010101010302020202020202020202020202020202020202020202020202020202020202020202020202020202020202020202020200000020200",
    );
    check(
        &Request::Recalled { bucket: BUCKET, lease, wait: Duration::from_secs(25) },
        "13b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b030303030303030303030303030303030071900",
    );
}

#[test]
fn replies() {
    check(&Reply::Failed(Error::Quota("x".into())), "00030178");
    check(&Reply::Commit(CommitReply::Applied { sequence: 300 }), "0b00ac02");
    let reason = Refusal::BadExtents("x".into());
    check(&Reply::Commit(CommitReply::Refused { operation: 1, reason }), "0b0101070178");
    check(&Reply::Usage(Usage { bytes: 1, inodes: 2, quota: Some(3), available: 4 }), "0d0102010304");
    check(&Reply::Commit(CommitReply::Lapsed(lease::Lapse::Stale)), "0b0200");
    check(&Reply::Commit(CommitReply::Lapsed(lease::Lapse::Held { operation: 9 })), "0b020109");
    let reply = LeaseReply {
        epoch: Some(7),
        valid_for: Duration::from_millis(29_700),
        all: false,
        recalled: true,
        wanted: vec![name()],
        names: vec![NameLease::Granted, NameLease::Busy, NameLease::Full],
        sequence: 300,
    };
    check(
        &Reply::Lease(reply),
        "0e01071d80cee4cd02000101101010101010101010101010101010103020202020202020202020202020202020202020202020202020202020202020202020202020202020202020202020202003000102ac02",
    );
    check(&Reply::Recalled(true), "0f01");
}
