use super::*;
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);

fn inode(number: u8) -> InodeId {
    InodeId::from_bytes([number; 16])
}

fn budget(total: u64, dirty: u64) -> Budget {
    Budget::new(Limits { total, dirty })
}

fn victims(budget: &Budget, bytes: u64) -> Vec<u8> {
    budget.victims(bytes).iter().map(|victim| victim.inode.as_bytes()[0]).collect()
}

#[test]
fn the_least_recently_used_go_first_and_nothing_dirty_or_pinned() {
    let budget = budget(1600, 1600);
    for number in 1..=5 {
        budget.charge_clean(inode(number), 100);
    }
    budget.charge_dirty(inode(2), 1);
    let pin = budget.pin(inode(3));
    budget.touch(inode(1));
    assert_eq!(victims(&budget, 1000), [4, 5, 1]);
    assert_eq!(victims(&budget, 150), [4, 5]);
    assert!(victims(&budget, 0).is_empty());
    drop(pin);
    budget.make_clean(inode(2), 1);
    assert_eq!(victims(&budget, 1000), [4, 5, 1, 3, 2]);
    assert_eq!(budget.of(inode(2)), (101, 0));
    budget.make_dirty(inode(4), 100);
    budget.release_clean(inode(5), 100);
    assert_eq!(victims(&budget, 1000), [1, 3, 2]);
    assert_eq!(budget.used(), Used { clean: 301, dirty: 100, reserved: 0, fixed: 0 });
}

#[tokio::test(start_paused = true)]
async fn a_writer_waits_for_room_and_gets_it() {
    let budget = budget(1600, 1000);
    let mut first = budget.reserve(900, SECOND).await.unwrap();
    first.charge_dirty(inode(1), 900);
    drop(first);
    let waiter = {
        let budget = budget.clone();
        tokio::spawn(async move { budget.reserve(200, SECOND).await.map(|reservation| reservation.left()) })
    };
    tokio::task::yield_now().await;
    assert!(!waiter.is_finished());
    budget.make_clean(inode(1), 900);
    assert_eq!(waiter.await.unwrap().unwrap(), 200);
    assert_eq!(budget.used(), Used { clean: 900, ..Used::default() });
}

#[tokio::test(start_paused = true)]
async fn without_room_a_writer_is_told_at_its_deadline() {
    let budget = budget(1600, 1000);
    budget.charge_dirty(inode(1), 1000);
    let start = Instant::now();
    let full = budget.reserve(1, SECOND).await.err().unwrap();
    assert_eq!(start.elapsed(), SECOND);
    assert_eq!((full.wanted, full.used.dirty), (1, 1000));
    assert_eq!(budget.used().reserved, 0);
    // What can never fit is not waited for.
    let start = Instant::now();
    assert!(budget.reserve(1001, SECOND).await.is_err());
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn writers_are_slowed_down_before_they_are_stopped() {
    let budget = budget(1600, 1000);
    let mut delays = Vec::new();
    for _ in 0..10 {
        let start = Instant::now();
        budget.reserve(100, SECOND).await.unwrap().charge_dirty(inode(1), 100);
        delays.push(start.elapsed());
    }
    assert!(delays[..7].iter().all(Duration::is_zero), "{delays:?}");
    assert!(delays[7..].is_sorted() && delays[9] > delays[7] && delays[9] <= SLOWEST * 2, "{delays:?}");
}

#[tokio::test(start_paused = true)]
async fn a_waiting_writer_makes_pressure_and_eviction_lets_it_in() {
    let budget = budget(1600, 1600);
    budget.charge_clean(inode(1), 700);
    budget.charge_clean(inode(2), 700);
    assert_eq!(budget.excess(), 0);
    let evictor = {
        let budget = budget.clone();
        tokio::spawn(async move {
            for victim in budget.wanted_victims().await {
                budget.release_clean(victim.inode, victim.bytes);
            }
        })
    };
    let reservation = budget.reserve(800, SECOND).await.unwrap();
    evictor.await.unwrap();
    assert_eq!(budget.used(), Used { clean: 0, reserved: 800, ..Used::default() });
    drop(reservation);
    budget.set_fixed(Fixed::Journal, 1580);
    assert_eq!(budget.excess(), 180);
    budget.set_fixed(Fixed::Journal, 10);
    budget.set_fixed(Fixed::Sealed, 20);
    assert_eq!(budget.used(), Used { fixed: 30, ..Used::default() });
    assert_eq!(budget.excess(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_gives_up_waiting_leaves_no_trace() {
    let budget = budget(1600, 1600);
    budget.charge_dirty(inode(1), 1450);
    drop(tokio::time::timeout(Duration::from_millis(1), budget.reserve(1000, SECOND)).await);
    assert_eq!(budget.excess(), 0);
    assert_eq!(budget.used(), Used { dirty: 1450, ..Used::default() });
}

proptest! {
    #[test]
    fn the_sums_are_those_of_the_inodes(steps in proptest::collection::vec((0..6u8, 0..4u8, 0..100u64), 0..60)) {
        let budget = budget(1 << 30, 1 << 30);
        let mut model = [(0u64, 0u64); 4];
        for (step, number, bytes) in steps {
            let (clean, dirty) = &mut model[number as usize];
            let id = inode(number);
            match step {
                0 => { budget.charge_clean(id, bytes); *clean += bytes }
                1 => { let bytes = bytes.min(*clean); budget.release_clean(id, bytes); *clean -= bytes }
                2 => { budget.try_reserve(bytes).unwrap().charge_dirty(id, bytes); *dirty += bytes }
                3 => { let bytes = bytes.min(*dirty); budget.release_dirty(id, bytes); *dirty -= bytes }
                4 => { let bytes = bytes.min(*dirty); budget.make_clean(id, bytes); *dirty -= bytes; *clean += bytes }
                _ => { let bytes = bytes.min(*clean); budget.make_dirty(id, bytes); *clean -= bytes; *dirty += bytes }
            }
            let used = budget.used();
            prop_assert_eq!(used.clean, model.iter().map(|inode| inode.0).sum::<u64>());
            prop_assert_eq!(used.dirty, model.iter().map(|inode| inode.1).sum::<u64>());
            let mut evictable = victims(&budget, u64::MAX);
            evictable.sort_unstable();
            let expected = (0..4u8).filter(|&at| model[at as usize].0 > 0 && model[at as usize].1 == 0);
            prop_assert_eq!(evictable, expected.collect::<Vec<_>>());
            for number in 0..4u8 {
                prop_assert_eq!(budget.of(inode(number)), model[number as usize]);
            }
        }
    }
}
