use super::*;
use crate::bucket::{Kind, Sealed, SetEntry, Target, Timestamp};
use crate::ids::CommitId;

const DIRECTORY: InodeId = InodeId::from_bytes([1; 16]);
const A: MountId = MountId::from_bytes([1; 16]);
const B: MountId = MountId::from_bytes([2; 16]);
const C: MountId = MountId::from_bytes([3; 16]);

fn name(number: usize) -> NameKey {
    let mut bytes = vec![0; EncryptedName::MIN];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    (DIRECTORY, EncryptedName::try_from(bytes).unwrap())
}

fn names(numbers: &[usize]) -> Vec<NameKey> {
    numbers.iter().copied().map(name).collect()
}

fn batch(mount: MountId, operations: Vec<(usize, Option<u8>, Option<u8>)>) -> Commit {
    let inode = |number: u8| InodeId::from_bytes([number; 16]);
    let target = |number: u8| {
        let key = Sealed { generation: 0, bytes: vec![0; Sealed::KEY_LEN].into() };
        Target { child: inode(number), kind: Kind::File, key }
    };
    let set = |(number, expected, child): (usize, Option<u8>, Option<u8>)| {
        let (parent, name) = name(number);
        let (expected, target) = (expected.map(inode), child.map(target));
        Operation::SetEntry(SetEntry { parent, name, expected, target, time: Timestamp::default() })
    };
    let operations = operations.into_iter().map(set).collect();
    Commit { id: CommitId::from_bytes([0; 16]), mount, number: 1, operations, runs: Vec::new() }
}

/// A keeper, its clock, and what the mounts believe about their epochs.
#[derive(Default)]
struct Keeper {
    leases: Leases,
    now: Duration,
    number: u64,
    held: std::collections::HashMap<MountId, Option<u64>>,
}

impl Keeper {
    fn ask(&mut self, mount: MountId, change: impl FnOnce(&mut LeaseRequest)) -> LeaseReply {
        self.number += 1;
        let held = self.held.get(&mount).copied().flatten();
        let mut request = LeaseRequest::new(mount, self.number, held);
        change(&mut request);
        let reply = self.leases.request(self.now, &request, 77).unwrap();
        self.held.insert(mount, reply.epoch);
        reply
    }

    fn want(&mut self, mount: MountId, numbers: &[usize]) -> Vec<NameLease> {
        self.ask(mount, |request| request.names = names(numbers)).names
    }

    fn want_all(&mut self, mount: MountId) -> bool {
        self.ask(mount, |request| request.all = true).all
    }

    fn commit(&mut self, mount: MountId, number: usize) -> Result<(), Lapse> {
        let epoch = self.held.get(&mount).copied().flatten();
        self.judge(&batch(mount, vec![(number, None, Some(9))]), epoch)
    }

    fn judge(&mut self, commit: &Commit, epoch: Option<u64>) -> Result<(), Lapse> {
        self.leases.check_commit(self.now, commit.mount, epoch, commit)
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }
}

#[test]
fn who_is_alone_holds_all_names() {
    let mut keeper = Keeper::default();
    let first = keeper.ask(A, |request| request.all = true);
    assert_eq!((first.all, first.sequence, first.valid_for), (true, 77, LEASE - CLOCK_MARGIN));
    for _ in 0..10 {
        keeper.pass(LEASE - CLOCK_MARGIN);
        let renewed = keeper.ask(A, |_| ());
        assert_eq!((renewed.all, renewed.epoch, renewed.valid_for), (true, first.epoch, LEASE - CLOCK_MARGIN));
        assert_eq!(keeper.commit(A, 1), Ok(()));
    }
}

#[test]
fn who_only_looks_disturbs_nobody() {
    let mut keeper = Keeper::default();
    assert!(keeper.want_all(A));
    for _ in 0..5 {
        assert!(!keeper.want_all(B));
        keeper.pass(LEASE / 3);
        assert!(keeper.ask(A, |_| ()).all);
    }
    assert_eq!(keeper.held[&B], None);
}

#[test]
fn a_wanted_name_recalls_all_names_and_what_is_needed_of_them_stays() {
    let mut keeper = Keeper::default();
    assert!(keeper.want_all(A));
    let epoch = keeper.held[&A];
    keeper.pass(Duration::from_secs(10));
    assert!(!keeper.leases.must_ask(keeper.now, A, epoch.unwrap()));
    assert_eq!(keeper.want(B, &[1, 2]), [NameLease::Busy; 2]);
    assert!(keeper.leases.must_ask(keeper.now, A, epoch.unwrap()));
    let told = keeper.ask(A, |_| ());
    // It is not renewed.
    assert_eq!((told.all, told.recalled, told.epoch), (false, true, epoch));
    assert_eq!(told.valid_for, LEASE - Duration::from_secs(10) - CLOCK_MARGIN);
    let kept = keeper.ask(A, |request| {
        (request.names, request.reserve, request.release_all) = (names(&[1]), true, true);
    });
    assert_eq!((kept.names, kept.all, kept.recalled, kept.epoch), (vec![NameLease::Granted], false, false, epoch));
    assert_eq!(keeper.want(B, &[1, 2]), [NameLease::Busy, NameLease::Granted]);
    assert_eq!(keeper.ask(A, |_| ()).wanted, names(&[1]));
    assert_eq!(keeper.commit(A, 1), Ok(()));
    let given = keeper.ask(A, |request| request.release = names(&[1]));
    assert_eq!((given.wanted, given.valid_for), (vec![], LEASE - CLOCK_MARGIN));
    assert_eq!(keeper.want(B, &[1]), [NameLease::Granted]);
}

#[test]
fn all_names_come_back_when_the_others_are_quiet() {
    let mut keeper = Keeper::default();
    assert_eq!(keeper.want(B, &[1]), [NameLease::Granted]);
    assert_eq!(keeper.want(A, &[2]), [NameLease::Granted]);
    keeper.ask(B, |request| request.release = names(&[1]));
    assert!(!keeper.want_all(A), "B wanted something just now");
    for _ in 0..2 {
        keeper.pass((QUIET - Duration::from_secs(1)) / 2);
        keeper.ask(A, |_| ());
        keeper.ask(B, |_| ());
    }
    assert!(!keeper.want_all(A));
    keeper.pass(Duration::from_secs(1));
    keeper.ask(B, |_| ());
    assert!(!keeper.want_all(B), "A holds a name");
    assert!(keeper.want_all(A));
    // One's own wishes do not count.
    assert!(keeper.ask(A, |request| request.names = names(&[3])).all);
}

#[test]
fn who_gives_nothing_back_loses_everything_after_one_lease() {
    let mut keeper = Keeper::default();
    assert_eq!(keeper.want(A, &[1, 2]), [NameLease::Granted; 2]);
    let stale = keeper.held[&A];
    assert_eq!(keeper.want(B, &[1]), [NameLease::Busy]);
    keeper.pass(LEASE / 2);
    assert_eq!(keeper.ask(A, |_| ()).valid_for, LEASE / 2 - CLOCK_MARGIN);
    keeper.pass(LEASE / 2);
    assert_eq!(keeper.want(B, &[1, 2]), [NameLease::Granted; 2]);
    let batch = batch(A, vec![(1, None, Some(9))]);
    assert_eq!(keeper.judge(&batch, stale), Err(Lapse::Stale));
    assert_eq!(keeper.judge(&batch, None), Err(Lapse::Held { operation: 0 }));
    let news = keeper.ask(A, |_| ());
    assert_eq!((news.epoch, news.valid_for), (None, Duration::ZERO));
}

#[test]
fn commits_without_a_lease_respect_those_of_others() {
    let mut keeper = Keeper::default();
    assert!(keeper.want_all(A));
    // What adds no name needs nobody's leave.
    let removes = batch(B, vec![(1, Some(3), None), (2, Some(3), Some(4)), (3, None, None)]);
    assert_eq!(keeper.judge(&removes, None), Ok(()));
    assert!(keeper.ask(A, |_| ()).all);
    let adds = batch(B, vec![(1, Some(3), None), (2, None, Some(4)), (3, None, Some(5))]);
    assert_eq!(keeper.judge(&adds, None), Err(Lapse::Held { operation: 1 }));
    assert!(keeper.ask(A, |_| ()).recalled);
    keeper.ask(A, |request| (request.names, request.reserve, request.release_all) = (names(&[3]), true, true));
    assert_eq!(keeper.judge(&adds, None), Err(Lapse::Held { operation: 2 }));
    assert_eq!(keeper.ask(A, |_| ()).wanted, names(&[3]));
    keeper.ask(A, |request| request.release = names(&[3]));
    assert_eq!(keeper.judge(&adds, None), Ok(()));
    assert!(!keeper.want_all(A), "B changed something just now");
}

#[test]
fn what_was_delayed_undoes_nothing() {
    let mut keeper = Keeper::default();
    assert!(keeper.want_all(A));
    let held = keeper.held[&A];
    let release = LeaseRequest { release_all: true, ..LeaseRequest::new(A, 5, held) };
    assert!(!keeper.leases.request(keeper.now, &release, 0).unwrap().all);
    let again = LeaseRequest { all: true, ..LeaseRequest::new(A, 6, held) };
    assert!(keeper.leases.request(keeper.now, &again, 0).unwrap().all);
    assert!(matches!(keeper.leases.request(keeper.now, &release, 0), Err(Error::OutOfOrder(_))));
    assert!(keeper.leases.request(keeper.now, &again, 0).unwrap().all, "sent again");
    // The first answer may have been heard although the question comes again.
    let first = LeaseRequest { all: true, ..LeaseRequest::new(B, 1, None) };
    let mut leases = Leases::default();
    let epoch = leases.request(keeper.now, &first, 0).unwrap().epoch;
    assert_eq!(leases.request(keeper.now, &first, 0).unwrap().epoch, epoch);
}

#[test]
fn a_mount_that_restarts_begins_with_nothing() {
    let mut keeper = Keeper::default();
    assert_eq!(keeper.want(A, &[1]), [NameLease::Granted]);
    let old = keeper.held[&A];
    keeper.held.clear();
    let news = keeper.ask(A, |request| request.names = names(&[2]));
    assert_eq!(news.names, [NameLease::Granted]);
    assert_ne!(news.epoch, old);
    assert_eq!(keeper.want(B, &[1, 2]), [NameLease::Granted, NameLease::Busy]);
    assert_eq!(keeper.judge(&batch(A, vec![]), old), Err(Lapse::Stale));
}

#[test]
fn a_keeper_that_restarts_takes_nothing_from_anybody() {
    let mut keeper = Keeper::default();
    assert_eq!(keeper.want(A, &[1]), [NameLease::Granted]);
    assert_eq!(keeper.want(C, &[2]), [NameLease::Granted]);
    let change = keeper.leases.unsaved().expect("there are holders");
    keeper.leases.note_saved(change);
    assert_eq!(keeper.leases.unsaved(), None);
    let epochs = keeper.held.clone();
    keeper.leases = Leases::restore(keeper.now, keeper.leases.saved());
    assert_eq!(keeper.want(B, &[1, 3]), [NameLease::Busy; 2], "who knows what they hold");
    assert!(!keeper.want_all(B));
    assert_eq!(keeper.commit(A, 1), Err(Lapse::Held { operation: 0 }), "C may hold it as well");
    assert_eq!(keeper.want(A, &[3]), [NameLease::Busy], "that one is new");
    for (mount, number) in [(A, 1), (C, 2)] {
        assert!(keeper.ask(mount, |_| ()).recalled);
        let kept = keeper.ask(mount, |request| {
            (request.names, request.reserve, request.release_all) = (names(&[number]), true, true);
        });
        assert_eq!((kept.names, kept.epoch), (vec![NameLease::Granted], epochs[&mount]));
    }
    assert_eq!(keeper.want(B, &[1, 2, 3]), [NameLease::Busy, NameLease::Busy, NameLease::Granted]);
    assert!(keeper.held[&B] > epochs[&C], "epochs never come again");
    // Those that do not come back are forgotten.
    keeper.pass(LEASE);
    assert_eq!(keeper.want(B, &[1, 2]), [NameLease::Granted; 2]);
}

#[test]
fn nobody_holds_more_than_is_allowed() {
    let mut keeper = Keeper::default();
    let many: Vec<usize> = (0..MAX_LEASE_NAMES + 1).collect();
    let request = LeaseRequest { names: names(&many), ..LeaseRequest::new(A, 1, None) };
    assert!(matches!(keeper.leases.request(keeper.now, &request, 0), Err(Error::Invalid(_))));
    let request = LeaseRequest { release: names(&many), ..LeaseRequest::new(A, 1, None) };
    assert!(matches!(keeper.leases.request(keeper.now, &request, 0), Err(Error::Invalid(_))));
    let mut next = 0..;
    let mounts = MAX_NAMES_PER_BUCKET / MAX_NAMES_PER_MOUNT;
    for mount in 0..mounts {
        let mount = MountId::from_bytes([10 + mount as u8; 16]);
        for _ in 0..MAX_NAMES_PER_MOUNT / MAX_LEASE_NAMES {
            let numbers: Vec<usize> = next.by_ref().take(MAX_LEASE_NAMES).collect();
            assert!(keeper.want(mount, &numbers).iter().all(|name| *name == NameLease::Granted));
        }
        assert_eq!(keeper.want(mount, &[next.start]), [NameLease::Full]);
    }
    assert_eq!(keeper.want(A, &[next.start]), [NameLease::Full], "the bucket is full");
    assert_eq!(keeper.held[&A], None);
    assert_eq!(keeper.want(A, &[0]), [NameLease::Busy]);

    let mut keeper = Keeper::default();
    let mount = |number: usize| MountId::try_from(&(number as u128).to_le_bytes()[..]).unwrap();
    for holder in 0..MAX_HOLDERS {
        assert_eq!(keeper.want(mount(holder), &[holder]), [NameLease::Granted]);
    }
    let late = keeper.ask(mount(MAX_HOLDERS), |request| request.names = names(&[MAX_HOLDERS]));
    assert_eq!((late.names, late.epoch), (vec![NameLease::Full], None));
    // Wanted by everybody: the reply stays small.
    let mut keeper = Keeper::default();
    let numbers: Vec<usize> = (0..MAX_LEASE_NAMES).collect();
    keeper.want(A, &numbers);
    keeper.want(B, &numbers);
    assert_eq!(keeper.ask(A, |_| ()).wanted.len(), MAX_WANTED);
}
