use super::*;
use crate::testing::{CREATED, Party, at, directory};
use crate::verify::{CLOCK_SKEW, LIMIT_LIFE, Purpose, Verifier};
use proptest::prelude::*;
use strewn_engine::order::Action;

const BUDGET: u64 = 3 * STEP / 2;

struct Fixture {
    directory: tempfile::TempDir,
    party: Party,
    limit: Arc<Limit>,
}

impl Fixture {
    fn new(action: Action) -> Self {
        let party = Party::new();
        let verifier = Verifier::new(party.node_id(), &[party.satellite_id()]);
        let purpose = if action == Action::Put { Purpose::Put } else { Purpose::Get };
        let limit = verifier.limit(&party.limit(action, 1, BUDGET), purpose, at(CREATED)).expect("valid");
        Self { directory: directory(), party, limit }
    }

    fn path(&self) -> std::path::PathBuf {
        self.directory.path().join("ledger")
    }

    fn open(&self) -> Ledger {
        Ledger::open(&self.path(), CREATED, None).expect("opens")
    }

    fn serial(&self) -> Serial {
        self.limit.terms.serial
    }

    fn pay(&self, ledger: &Ledger, bytes: u64) -> Result<(), LedgerError> {
        let signed = self.party.order(&self.limit.signed, bytes);
        let order = self.limit.order(&signed).expect("good order");
        ledger.pay(&self.limit, &order, &signed)
    }
}

#[tokio::test]
async fn a_replayed_order_pays_nothing() {
    let fixture = Fixture::new(Action::Get);
    let ledger = fixture.open();
    fixture.pay(&ledger, 100).expect("paid");
    ledger.spend_on_get(&fixture.serial(), 100).await.expect("spent");
    fixture.pay(&ledger, 100).expect("heard before");
    fixture.pay(&ledger, 50).expect("heard before");
    let unpaid = Err(LedgerError::Unpaid { spent: 100, paid: 100 });
    assert_eq!(ledger.spend_on_get(&fixture.serial(), 1).await, unpaid);
    ledger.close(CREATED).await.expect("closed");
    let ledger = fixture.open();
    fixture.pay(&ledger, 100).expect("heard before");
    assert_eq!(ledger.spend_on_get(&fixture.serial(), 1).await, unpaid);
    fixture.pay(&ledger, 101).expect("paid");
    ledger.spend_on_get(&fixture.serial(), 1).await.expect("after a clean close not a byte is lost");
}

#[tokio::test]
async fn after_a_crash_all_that_was_noted_is_spent() {
    let fixture = Fixture::new(Action::Get);
    let ledger = fixture.open();
    fixture.pay(&ledger, BUDGET).expect("paid");
    ledger.spend_on_get(&fixture.serial(), 100).await.expect("spent");
    drop(ledger);
    let ledger = fixture.open();
    assert_eq!(ledger.balance(&fixture.serial()).0, STEP);
    fixture.pay(&ledger, BUDGET).expect("paid");
    let too_much = ledger.spend_on_get(&fixture.serial(), BUDGET - STEP + 1).await;
    assert_eq!(too_much, Err(LedgerError::Unpaid { spent: STEP, paid: BUDGET }));
    ledger.spend_on_get(&fixture.serial(), BUDGET - STEP).await.expect("the rest");
}

#[tokio::test]
async fn a_put_is_noted_with_its_order() {
    let fixture = Fixture::new(Action::Put);
    let ledger = fixture.open();
    fixture.pay(&ledger, 1_000).expect("paid");
    ledger.spend_on_put(&fixture.serial(), 1_000).expect("spent");
    ledger.note_put(&fixture.serial()).await.expect("noted");
    drop(ledger);
    let ledger = fixture.open();
    assert_eq!(ledger.balance(&fixture.serial()), (1_000, 1_000));
    assert!(ledger.spend_on_put(&fixture.serial(), 1).is_err());
    let expired = CREATED + LIMIT_LIFE;
    assert_eq!(ledger.orders_to_settle(fixture.party.satellite_id(), expired - 1, 10), vec![]);
    let order = fixture.party.order(&fixture.limit.signed, 1_000);
    assert_eq!(
        ledger.orders_to_settle(fixture.party.satellite_id(), expired, 10),
        vec![(fixture.limit.signed.clone(), order)]
    );
    ledger.settled(vec![fixture.serial()]).await.expect("noted");
    assert_eq!(ledger.orders_to_settle(fixture.party.satellite_id(), expired, 10), vec![]);
}

#[tokio::test]
async fn what_is_over_is_forgotten_and_stays_refused() {
    let fixture = Fixture::new(Action::Get);
    let ledger = fixture.open();
    fixture.pay(&ledger, 10).expect("paid");
    ledger.spend_on_get(&fixture.serial(), 10).await.expect("spent");
    let reopen = |now| Ledger::open(&fixture.path(), now, None).expect("opens");
    drop(ledger);
    assert_eq!(reopen(CREATED + LIMIT_LIFE).limits(), 1, "not settled");
    assert_eq!(reopen(CREATED + 24 * 3_600).limits(), 0);
    // The clock is set back: the limit looks valid again.
    let ledger = reopen(CREATED);
    assert_eq!(fixture.pay(&ledger, 10), Err(LedgerError::Expired));
}

#[tokio::test]
async fn two_limits_of_one_serial_do_not_mix() {
    let fixture = Fixture::new(Action::Get);
    let ledger = fixture.open();
    fixture.pay(&ledger, 10).expect("paid");
    let verifier = Verifier::new(fixture.party.node_id(), &[fixture.party.satellite_id()]);
    let signed = fixture.party.limit(Action::Get, 1, 2 * BUDGET);
    let other = verifier.limit(&signed, Purpose::Get, at(CREATED)).expect("valid");
    let order = fixture.party.order(&signed, 5);
    let value = other.order(&order).expect("good");
    assert_eq!(ledger.pay(&other, &value, &order), Err(LedgerError::OtherLimit));
}

#[tokio::test]
async fn a_damaged_ledger_refuses_what_it_may_have_forgotten() {
    let fixture = Fixture::new(Action::Get);
    let ledger = fixture.open();
    fixture.pay(&ledger, BUDGET).expect("paid");
    ledger.spend_on_get(&fixture.serial(), 1).await.expect("spent");
    ledger.spend_on_get(&fixture.serial(), STEP).await.expect("spent");
    drop(ledger);
    let mut bytes = std::fs::read(fixture.path()).expect("reads");
    // In the middle of the account's record, the second frame; the step's follows.
    bytes[record::HEADER + 80] ^= 1;
    std::fs::write(fixture.path(), &bytes).expect("written");
    let ledger = fixture.open();
    assert_eq!(fixture.pay(&ledger, 10), Err(LedgerError::Expired));
    let later = CREATED + LIMIT_LIFE + CLOCK_SKEW + 1;
    assert_eq!(Ledger::open(&fixture.path(), later, None).expect("opens").limits(), 0);
}

#[tokio::test]
async fn the_file_stays_small() {
    let fixture = Fixture::new(Action::Get);
    let ledger = fixture.open();
    let verifier = Verifier::new(fixture.party.node_id(), &[fixture.party.satellite_id()]);
    for number in 1..=250 {
        let signed = fixture.party.limit(Action::Get, number, 100);
        let limit = verifier.limit(&signed, Purpose::Get, at(CREATED)).expect("valid");
        let order = fixture.party.order(&signed, 1);
        ledger.pay(&limit, &limit.order(&order).expect("good"), &order).expect("paid");
        ledger.spend_on_get(&limit.terms.serial, 1).await.expect("spent");
    }
    let before = std::fs::metadata(fixture.path()).expect("there").len();
    ledger.tidy(CREATED + 24 * 3_600).await.expect("tidied");
    assert_eq!(ledger.limits(), 0);
    assert!(std::fs::metadata(fixture.path()).expect("there").len() < before);
}

/// A ledger as the first release wrote it: one get of 100 bytes, STEP noted.
#[tokio::test]
async fn reads_a_ledger_of_version_1() {
    let fixture = Fixture::new(Action::Get);
    std::fs::write(fixture.path(), include_bytes!("../../tests/data/ledger-v1")).expect("written");
    let ledger = fixture.open();
    assert_eq!(ledger.balance(&fixture.serial()), (STEP, 100));
    let mut newer = std::fs::read(fixture.path()).expect("reads");
    newer[8] = 2;
    let crc = crc32c::crc32c(&newer[..28]);
    newer[28..32].copy_from_slice(&crc.to_le_bytes());
    std::fs::write(fixture.path(), newer).expect("written");
    assert!(matches!(Ledger::open(&fixture.path(), CREATED, None), Err(OpenError::Version(2))));
}

#[derive(Debug, Clone)]
enum Step {
    Pay(u64),
    Get(u64),
    /// The process dies: what was written stays.
    Kill,
    /// The power goes: only what was synced stays for certain.
    PowerCut,
    Tidy,
    Close,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..=BUDGET).prop_map(Step::Pay),
        8 => (1..=STEP / 2).prop_map(Step::Get),
        1 => Just(Step::Kill),
        1 => Just(Step::PowerCut),
        1 => Just(Step::Tidy),
        1 => Just(Step::Close),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn no_crash_stretches_the_budget(steps in proptest::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        runtime.block_on(async {
            let fixture = Fixture::new(Action::Get);
            let mut ledger = fixture.open();
            let (mut served, mut highest) = (0, 0);
            // The file as it was when something was last served that it had to know of: its least durable state.
            let mut durable = std::fs::read(fixture.path()).expect("reads");
            let mut noted = 0;
            for step in steps {
                match step {
                    Step::Pay(bytes) => {
                        fixture.pay(&ledger, bytes).expect("paid");
                        highest = highest.max(bytes);
                    }
                    Step::Get(bytes) => {
                        if ledger.spend_on_get(&fixture.serial(), bytes).await.is_ok() {
                            served += bytes;
                            let now = ledger.book.accounts.lock().noted_for_test(&fixture.serial());
                            if now != noted {
                                (noted, durable) = (now, std::fs::read(fixture.path()).expect("reads"));
                            }
                        }
                    }
                    Step::Kill => {
                        drop(ledger);
                        ledger = fixture.open();
                    }
                    Step::PowerCut => {
                        drop(ledger);
                        std::fs::write(fixture.path(), &durable).expect("written");
                        ledger = fixture.open();
                    }
                    Step::Tidy => ledger.tidy(CREATED).await.expect("tidied"),
                    Step::Close => {
                        ledger.close(CREATED).await.expect("closed");
                        ledger = fixture.open();
                        durable = std::fs::read(fixture.path()).expect("reads");
                        noted = ledger.book.accounts.lock().noted_for_test(&fixture.serial());
                    }
                }
                assert!(served <= highest && served <= BUDGET, "{served} served, {highest} ordered, {BUDGET} allowed");
            }
        });
    }
}
