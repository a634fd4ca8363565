//! Which limits and orders this node accepts.

use lru::LruCache;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use strewn_engine::bucket::Timestamp;
use strewn_engine::ids::{NodeId, SatelliteId};
use strewn_engine::order::{Action, BadSignature, Order, OrderLimit, Signed};

/// Seconds for which a limit is accepted after it was made, if it does not say less.
pub const LIMIT_LIFE: i64 = 3_600;
/// Seconds by which a satellite's clock may be ahead of this node's.
pub const CLOCK_SKEW: i64 = 300;
/// Verified limits that are remembered.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(512).expect("not zero");

/// Why a limit or order is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum Refusal {
    #[error("malformed limit")]
    Malformed,
    #[error("unknown satellite {0}")]
    UnknownSatellite(SatelliteId),
    #[error("not signed by satellite {0}")]
    BadSignature(SatelliteId),
    #[error("limit is for another node, {0}")]
    OtherNode(NodeId),
    #[error("limit is for {0:?}")]
    WrongAction(Action),
    #[error("limit has expired")]
    Expired,
    #[error("limit was made in the future: is this node's clock right?")]
    FromTheFuture,
    #[error("the uplink's key in the limit is no key")]
    BadKey,
    #[error("order is not signed by the limit's uplink")]
    BadOrder,
    #[error("order is for another limit")]
    OtherLimit,
    #[error("order exceeds the limit's {0} bytes")]
    OverBudget(u64),
}

/// What a transfer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Put,
    Get,
    Delete,
}

/// A limit that this node accepts.
#[derive(Debug)]
pub struct Limit {
    /// What it says.
    pub terms: OrderLimit,
    /// As it came.
    pub signed: Signed<OrderLimit>,
    /// What orders and receipts refer to.
    pub hash: [u8; 32],
    uplink: ed25519_dalek::VerifyingKey,
}

impl Limit {
    /// Seconds since 1970 from which on it is accepted no more.
    pub fn expires(&self) -> i64 {
        expires(&self.terms)
    }

    /// The order, if the limit's uplink signed it and it is for this limit and within it.
    pub fn order(&self, signed: &Signed<Order>) -> Result<Order, Refusal> {
        let order = signed.verify(&self.uplink).map_err(|BadSignature| Refusal::BadOrder)?;
        if order.limit != self.hash {
            return Err(Refusal::OtherLimit);
        }
        let within = order.bytes <= self.terms.bytes;
        within.then_some(order).ok_or(Refusal::OverBudget(self.terms.bytes))
    }
}

/// When a limit is accepted no more, in seconds since 1970.
pub(crate) fn expires(terms: &OrderLimit) -> i64 {
    terms.expires.seconds.min(terms.created.seconds.saturating_add(LIMIT_LIFE))
}

/// Checks limits. Signatures are checked once per limit.
pub(crate) struct Verifier {
    node: NodeId,
    satellites: HashMap<SatelliteId, ed25519_dalek::VerifyingKey>,
    /// By the hash of the limit's bytes. Whether it is still valid is checked on every use.
    verified: Mutex<LruCache<[u8; 32], Arc<Limit>>>,
}

impl Verifier {
    /// A verifier for limits of these satellites. Ids that are no keys are left out.
    pub(crate) fn new(node: NodeId, satellites: &[SatelliteId]) -> Self {
        let key = |id: &SatelliteId| Some((*id, ed25519_dalek::VerifyingKey::from_bytes(id.as_bytes()).ok()?));
        let satellites = satellites.iter().filter_map(key).collect();
        Self { node, satellites, verified: Mutex::new(LruCache::new(REMEMBERED)) }
    }

    /// The limit, if it is valid now and for this purpose.
    pub(crate) fn limit(
        &self,
        signed: &Signed<OrderLimit>,
        purpose: Purpose,
        now: Timestamp,
    ) -> Result<Arc<Limit>, Refusal> {
        let hash = signed.hash();
        let known = self.verified.lock().get(&hash).cloned();
        let limit = match known {
            Some(limit) => limit,
            None => {
                let limit = Arc::new(self.verify(signed, hash)?);
                self.verified.lock().put(hash, limit.clone());
                limit
            }
        };
        if !is_for(limit.terms.action, purpose) {
            return Err(Refusal::WrongAction(limit.terms.action));
        }
        if limit.terms.created.seconds > now.seconds.saturating_add(CLOCK_SKEW) {
            return Err(Refusal::FromTheFuture);
        }
        let valid = now.seconds < limit.expires();
        valid.then_some(limit).ok_or(Refusal::Expired)
    }

    fn verify(&self, signed: &Signed<OrderLimit>, hash: [u8; 32]) -> Result<Limit, Refusal> {
        let satellite = signed.unverified().map_err(|BadSignature| Refusal::Malformed)?.satellite;
        let key = self.satellites.get(&satellite).ok_or(Refusal::UnknownSatellite(satellite))?;
        let terms = signed.verify(key).map_err(|BadSignature| Refusal::BadSignature(satellite))?;
        if terms.node != self.node {
            return Err(Refusal::OtherNode(terms.node));
        }
        let uplink = ed25519_dalek::VerifyingKey::from_bytes(&terms.uplink).map_err(|_| Refusal::BadKey)?;
        Ok(Limit { terms, signed: signed.clone(), hash, uplink })
    }
}

fn is_for(action: Action, purpose: Purpose) -> bool {
    match purpose {
        Purpose::Put => matches!(action, Action::Put | Action::PutRepair | Action::PutGracefulExit),
        Purpose::Get => matches!(action, Action::Get | Action::GetAudit | Action::GetRepair),
        Purpose::Delete => matches!(action, Action::Delete),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Party, at};

    #[test]
    fn a_good_limit_is_accepted_until_it_expires() {
        let party = Party::new();
        let verifier = Verifier::new(party.node_id(), &[party.satellite_id()]);
        let limit = party.limit(Action::Put, 1, 1_000);
        for now in [100, 1_000, 1_000 + LIMIT_LIFE - 1] {
            let expected = if now < 1_000 - CLOCK_SKEW { Err(Refusal::FromTheFuture) } else { Ok(1_000) };
            assert_eq!(verifier.limit(&limit, Purpose::Put, at(now)).map(|l| l.terms.bytes), expected);
        }
        assert_eq!(verifier.limit(&limit, Purpose::Put, at(1_000 + LIMIT_LIFE)).err(), Some(Refusal::Expired));
        let wrong = verifier.limit(&limit, Purpose::Get, at(1_000)).err();
        assert_eq!(wrong, Some(Refusal::WrongAction(Action::Put)));
    }

    #[test]
    fn forged_and_foreign_limits_are_refused() {
        let (party, other) = (Party::new(), Party::other());
        let verifier = Verifier::new(party.node_id(), &[party.satellite_id()]);
        let refusal = |limit: &Signed<OrderLimit>| verifier.limit(limit, Purpose::Get, at(1_000)).err();
        let theirs = other.limit(Action::Get, 1, 10);
        assert_eq!(refusal(&theirs), Some(Refusal::UnknownSatellite(other.satellite_id())));
        let terms = OrderLimit { node: other.node_id(), ..party.terms(Action::Get, 1, 10) };
        assert_eq!(refusal(&Signed::new(&terms, &party.satellite)), Some(Refusal::OtherNode(other.node_id())));
        let forged = Signed::new(&party.terms(Action::Get, 1, 10), &other.satellite);
        assert_eq!(refusal(&forged), Some(Refusal::BadSignature(party.satellite_id())));
    }

    #[test]
    fn orders_are_bound_to_limit_key_and_budget() {
        let (party, other) = (Party::new(), Party::other());
        let verifier = Verifier::new(party.node_id(), &[party.satellite_id()]);
        let signed = party.limit(Action::Get, 1, 10);
        let limit = verifier.limit(&signed, Purpose::Get, at(1_000)).expect("valid");
        assert_eq!(limit.order(&party.order(&signed, 10)).map(|o| o.bytes), Ok(10));
        assert_eq!(limit.order(&party.order(&signed, 11)), Err(Refusal::OverBudget(10)));
        assert_eq!(limit.order(&other.order(&signed, 1)), Err(Refusal::BadOrder));
        let elsewhere = party.limit(Action::Get, 2, 10);
        assert_eq!(limit.order(&party.order(&elsewhere, 1)), Err(Refusal::OtherLimit));
    }
}
