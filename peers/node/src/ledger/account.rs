//! The accounts of all limits, in memory: decisions without I/O.

use super::record::{Frames, Record};
use super::{LedgerError, STEP};
use crate::verify::{CLOCK_SKEW, LIMIT_LIFE, Limit, expires};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use strewn_engine::ids::{SatelliteId, Serial};
use strewn_engine::order::{Order, OrderLimit, Signed};

/// Limits that are remembered at a time.
const MAX_ACCOUNTS: usize = 1 << 20;
/// Seconds after its making for which a limit can be settled.
const SETTLE: i64 = 24 * 3_600;

pub(super) struct Accounts {
    by_serial: HashMap<Serial, Account>,
    /// Limits that expire up to this second are refused, unless they are remembered.
    horizon: i64,
    /// Why nothing can be spent any more.
    closed: Option<String>,
}

struct Account {
    limit: Signed<OrderLimit>,
    terms: OrderLimit,
    order: Option<Signed<Order>>,
    /// Bytes of `order`.
    paid: u64,
    /// Bytes of the order that is in the file.
    paid_noted: u64,
    spent: u64,
    /// Bytes that count as spent after a crash; of a get at least `spent` before anything is served.
    noted: u64,
    /// True if the file knows the limit.
    is_known: bool,
    is_settled: bool,
}

impl Accounts {
    /// What the frames of a ledger file say.
    pub(super) fn replay(frames: &mut Frames<'_>, now: i64) -> Self {
        let mut accounts = Self { by_serial: HashMap::new(), horizon: i64::MIN, closed: None };
        frames.by_ref().for_each(|record| accounts.apply(record));
        if frames.is_damaged() {
            tracing::error!("the ledger is damaged: limits made up to now are refused");
            accounts.horizon = accounts.horizon.max(now.saturating_add(LIMIT_LIFE + CLOCK_SKEW));
        }
        accounts
    }

    fn apply(&mut self, record: Record) {
        match record {
            Record::Account { limit, spent, order } => {
                let Ok(terms) = limit.unverified() else { return };
                let mut account = Account::new(limit, terms);
                account.paid = order.as_ref().and_then(|order| order.unverified().ok()).map_or(0, |order| order.bytes);
                (account.order, account.paid_noted) = (order, account.paid);
                (account.spent, account.noted, account.is_known) = (spent, spent, true);
                self.by_serial.insert(account.terms.serial, account);
            }
            Record::Spent { serial, spent } => {
                if let Some(account) = self.by_serial.get_mut(&serial) {
                    account.spent = account.spent.max(spent);
                    account.noted = account.spent;
                }
            }
            Record::Order { serial, order } => {
                if let (Some(account), Ok(value)) = (self.by_serial.get_mut(&serial), order.unverified())
                    && value.bytes > account.paid
                {
                    (account.paid, account.paid_noted) = (value.bytes, value.bytes);
                    account.order = Some(order);
                }
            }
            Record::Settled { serial } => self.settle(&serial),
            Record::Horizon { seconds } => self.horizon = self.horizon.max(seconds),
        }
    }

    pub(super) fn pay(&mut self, limit: &Limit, order: &Order, signed: &Signed<Order>) -> Result<(), LedgerError> {
        let account = self.account(limit)?;
        if order.bytes > account.paid {
            account.paid = order.bytes;
            account.order = Some(signed.clone());
        }
        Ok(())
    }

    fn account(&mut self, limit: &Limit) -> Result<&mut Account, LedgerError> {
        self.check()?;
        let is_full = self.by_serial.len() >= MAX_ACCOUNTS;
        match self.by_serial.entry(limit.terms.serial) {
            Entry::Occupied(entry) => {
                let account = entry.into_mut();
                if account.terms == limit.terms { Ok(account) } else { Err(LedgerError::OtherLimit) }
            }
            Entry::Vacant(_) if limit.expires() <= self.horizon => Err(LedgerError::Expired),
            Entry::Vacant(_) if is_full => Err(LedgerError::Busy),
            Entry::Vacant(entry) => Ok(entry.insert(Account::new(limit.signed.clone(), limit.terms.clone()))),
        }
    }

    pub(super) fn balance(&self, serial: &Serial) -> (u64, u64) {
        self.by_serial.get(serial).map_or((0, 0), |account| (account.spent, account.paid))
    }

    /// Spends; true if what is noted covers it.
    pub(super) fn spend(&mut self, serial: &Serial, bytes: u64) -> Result<bool, LedgerError> {
        self.check()?;
        let account = self.by_serial.get_mut(serial).ok_or(LedgerError::Unpaid { spent: 0, paid: 0 })?;
        let spent = account.spent.saturating_add(bytes);
        if spent > account.paid {
            return Err(LedgerError::Unpaid { spent: account.spent, paid: account.paid });
        }
        account.spent = spent;
        Ok(spent <= account.noted)
    }

    /// Records that note more than a limit has spent, and how much.
    pub(super) fn note_get(&mut self, serial: Serial, records: &mut Vec<Record>) -> Option<(Serial, u64)> {
        let account = self.by_serial.get_mut(&serial)?;
        if account.spent <= account.noted {
            return None;
        }
        let ahead = account.spent.next_multiple_of(STEP).min(account.terms.bytes);
        account.note(ahead, records);
        Some((serial, ahead))
    }

    /// Records that note what a put has spent.
    pub(super) fn note_put(&mut self, serial: Serial, records: &mut Vec<Record>) -> Option<(Serial, u64)> {
        let account = self.by_serial.get_mut(&serial)?;
        let spent = account.spent.max(account.noted);
        account.note(spent, records);
        Some((serial, spent))
    }

    /// These bytes are in the file as spent.
    pub(super) fn set_noted(&mut self, noted: &[(Serial, u64)]) {
        for (serial, spent) in noted {
            if let Some(account) = self.by_serial.get_mut(serial) {
                account.noted = account.noted.max(*spent);
            }
        }
    }

    /// The file consists of these records.
    pub(super) fn set_written(&mut self, records: &[Record]) {
        for record in records {
            if let Record::Account { limit, spent, .. } = record
                && let Ok(terms) = limit.unverified()
                && let Some(account) = self.by_serial.get_mut(&terms.serial)
            {
                (account.noted, account.is_known) = (*spent, true);
            }
        }
    }

    pub(super) fn settle(&mut self, serial: &Serial) {
        if let Some(account) = self.by_serial.get_mut(serial) {
            account.is_settled = true;
        }
    }

    pub(super) fn orders_to_settle(
        &self,
        satellite: SatelliteId,
        now: i64,
        count: usize,
    ) -> Vec<(Signed<OrderLimit>, Signed<Order>)> {
        let is_due = |account: &&Account| {
            account.terms.satellite == satellite && now >= expires(&account.terms) && account.is_useful(now)
        };
        let pair = |account: &Account| Some((account.limit.clone(), account.order.clone()?));
        self.by_serial.values().filter(is_due).filter_map(pair).take(count).collect()
    }

    /// Removes what can neither be spent nor settled any more.
    pub(super) fn forget(&mut self, now: i64) {
        let mut horizon = self.horizon;
        self.by_serial.retain(|_, account| {
            let expires = expires(&account.terms);
            let keep = now < expires || account.is_useful(now);
            if !keep {
                horizon = horizon.max(expires);
            }
            keep
        });
        self.horizon = horizon;
    }

    /// Everything as records; `exact`: with what was spent, not with what was noted ahead.
    pub(super) fn records(&self, exact: bool) -> Vec<Record> {
        let mut records = vec![Record::Horizon { seconds: self.horizon }];
        for (serial, account) in &self.by_serial {
            let spent = if exact { account.spent } else { account.spent.max(account.noted) };
            records.push(Record::Account { limit: account.limit.clone(), spent, order: account.order.clone() });
            records.extend(account.is_settled.then_some(Record::Settled { serial: *serial }));
        }
        records
    }

    /// True if the file says exactly what is true.
    pub(super) fn is_written(&self) -> bool {
        let is_written = |account: &Account| {
            account.is_known && account.spent == account.noted && account.paid == account.paid_noted
        };
        self.by_serial.values().all(is_written)
    }

    /// Limits that may still be spent or settled.
    pub(super) fn useful(&self, now: i64) -> usize {
        self.by_serial.values().filter(|account| now < expires(&account.terms) || account.is_useful(now)).count()
    }

    #[cfg(test)]
    pub(super) fn noted_for_test(&self, serial: &Serial) -> u64 {
        self.by_serial.get(serial).map_or(0, |account| account.noted)
    }

    pub(super) fn len(&self) -> usize {
        self.by_serial.len()
    }

    pub(super) fn close(&mut self) {
        self.closed.get_or_insert_with(|| "closed".into());
    }

    pub(super) fn fail(&mut self, error: &std::io::Error) -> LedgerError {
        LedgerError::Failed(self.closed.get_or_insert_with(|| error.to_string()).clone())
    }

    fn check(&self) -> Result<(), LedgerError> {
        self.closed.clone().map_or(Ok(()), |reason| Err(LedgerError::Failed(reason)))
    }
}

impl Account {
    fn new(limit: Signed<OrderLimit>, terms: OrderLimit) -> Self {
        let (spent, noted, paid, paid_noted) = (0, 0, 0, 0);
        Self { limit, terms, order: None, paid, paid_noted, spent, noted, is_known: false, is_settled: false }
    }

    /// Records that note `spent` bytes, and the highest order.
    fn note(&mut self, spent: u64, records: &mut Vec<Record>) {
        let serial = self.terms.serial;
        if self.is_known {
            records.push(Record::Spent { serial, spent });
            let order = self.order.clone().filter(|_| self.paid > self.paid_noted);
            records.extend(order.map(|order| Record::Order { serial, order }));
        } else {
            records.push(Record::Account { limit: self.limit.clone(), spent, order: self.order.clone() });
        }
        (self.is_known, self.paid_noted) = (true, self.paid);
    }

    /// True if there is something to be settled, and time for it.
    fn is_useful(&self, now: i64) -> bool {
        self.order.is_some() && !self.is_settled && now < self.terms.created.seconds.saturating_add(SETTLE)
    }
}
