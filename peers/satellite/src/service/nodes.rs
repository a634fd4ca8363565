//! What storage nodes ask: to be counted as online, and to be credited.

use super::transfers::LIMIT_COUNTS;
use super::{Satellite, invalid};
use crate::metabase::{Error, access, nodes as node_rows};
use crate::registry::Known;
use ed25519_dalek::VerifyingKey;
use std::time::Duration;
use strewn_engine::bucket;
use strewn_engine::ids::NodeId;
use strewn_engine::order::{Order, OrderLimit, Signed};
use strewn_wire::satellite::{CheckIn, MAX_ADDRESS, MAX_ADDRESSES, MAX_TICKET, NodeReply, NodeRequest, VERSION};
use tokio::task::JoinSet;

/// Most orders of one settlement.
pub const MAX_SETTLE: usize = 1_000;

/// Most characters of a software version.
const MAX_SOFTWARE: usize = 128;

/// Longest wait for a node to answer a dial.
const DIAL_DEADLINE: Duration = Duration::from_secs(10);

/// A node that only checks in is saved this often, in seconds: far below the time it counts as online.
pub(super) const SAVE_EVERY: i64 = 600;

impl Satellite {
    /// Answers a storage node, whose id the transport has proven. `observed` is the multiaddress it came from: its IP
    /// stands in for an unspecified one that the node announces.
    pub async fn handle_node(&self, node: NodeId, observed: &str, request: NodeRequest) -> NodeReply {
        let reply = match request {
            NodeRequest::CheckIn(check_in) => self.check_in(node, observed, check_in).await,
            NodeRequest::Settle(orders) => self.settle(node, orders).await,
        };
        reply.unwrap_or_else(|error| NodeReply::Failed(error.into()))
    }

    async fn check_in(&self, node: NodeId, observed: &str, check_in: CheckIn) -> Result<NodeReply, Error> {
        check_fields(&check_in)?;
        let now = self.seconds();
        let before = self.inner.registry.get(node);
        let ticket = match (&before, &check_in.ticket) {
            (Some(_), _) => None,
            (None, Some(ticket)) => Some(hash(ticket)),
            (None, None) => {
                return Err(bucket::Error::Forbidden("the first check-in needs an operator's ticket".to_owned()).into());
            }
        };
        if let Some(ticket) = ticket {
            // Nobody without a ticket makes us dial.
            self.inner.database.read(move |connection| access::check_ticket(connection, &ticket, node)).await?;
        }
        let announced = specify(&check_in.addresses, observed);
        let valid = i64::try_from(self.inner.settings.address_valid.as_secs()).unwrap_or(i64::MAX);
        let dialled = before.as_ref().filter(|(known, _)| {
            known.announced == announced && now < known.dialled.saturating_add(valid) && !known.addresses.is_empty()
        });
        let (addresses, dialled) = match dialled {
            Some((known, _)) => (known.addresses.clone(), known.dialled),
            None => (self.dial(node, &announced).await?, now),
        };
        let known = Known {
            addresses,
            announced,
            dialled,
            capacity: check_in.capacity,
            free: check_in.free,
            seen: now,
            software: check_in.software,
        };
        let saved = self.save(node, ticket, before, &known, now).await?;
        self.inner.registry.put(node, known, saved);
        Ok(NodeReply::Welcome { next: self.inner.settings.check_in, time: now })
    }

    /// Saves what must outlive us, and tells when that was last done.
    async fn save(
        &self,
        node: NodeId,
        ticket: Option<[u8; 32]>,
        before: Option<(Known, i64)>,
        known: &Known,
        now: i64,
    ) -> Result<i64, Error> {
        if let Some((old, saved)) = before {
            let same = old.addresses == known.addresses && old.announced == known.announced;
            if same && old.capacity == known.capacity && (saved..saved.saturating_add(SAVE_EVERY)).contains(&now) {
                return Ok(saved);
            }
        }
        let known = known.clone();
        let save = self.inner.database.write(move |connection| {
            if let Some(ticket) = ticket {
                access::use_ticket(connection, &ticket, node)?;
            }
            node_rows::save(connection, node, &known, now)
        });
        save.await?;
        Ok(now)
    }

    /// The addresses at which the node answers, in the order it announced them.
    async fn dial(&self, node: NodeId, announced: &[String]) -> Result<Vec<String>, Error> {
        let mut dials = JoinSet::new();
        for (index, address) in announced.iter().cloned().enumerate() {
            let dialer = self.inner.dialer.clone();
            dials.spawn(async move {
                let dialled = tokio::time::timeout(DIAL_DEADLINE, dialer.dial(node, &address)).await;
                (index, address, dialled.unwrap_or_else(|_| Err("no answer".to_owned())))
            });
        }
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        while let Some(dialled) = dials.join_next().await {
            match dialled {
                Ok((index, address, Ok(()))) => good.push((index, address)),
                Ok((_, address, Err(error))) => bad.push(format!("{address}: {error}")),
                Err(_) => return Err(Error::Closed),
            }
        }
        if good.is_empty() {
            let what = format!("the satellite cannot reach the node where it says it is: {}", bad.join("; "));
            return Err(bucket::Error::Unreachable(what).into());
        }
        good.sort_unstable();
        Ok(good.into_iter().map(|(_, address)| address).collect())
    }

    async fn settle(&self, node: NodeId, orders: Vec<(Signed<OrderLimit>, Signed<Order>)>) -> Result<NodeReply, Error> {
        if self.inner.registry.get(node).is_none() {
            return Err(bucket::Error::Forbidden("an unknown node".to_owned()).into());
        }
        if orders.len() > MAX_SETTLE {
            return Err(invalid(format!("more than {MAX_SETTLE} orders")));
        }
        let satellite = self.clone();
        let verify = move || -> Vec<(OrderLimit, Order)> {
            orders.iter().filter_map(|(limit, order)| satellite.verified(node, limit, order)).collect()
        };
        let verified = tokio::task::spawn_blocking(verify).await.map_err(|_| Error::Closed)?;
        let accepted = verified.len() as u32;
        let settle = self.inner.database.write(move |connection| {
            verified.iter().try_for_each(|(limit, order)| node_rows::settle(connection, limit, order))
        });
        settle.await?;
        Ok(NodeReply::Settled(accepted))
    }

    /// The limit and order, if we made the limit for this node, the uplink signed the order for it, and it is in time.
    fn verified(&self, node: NodeId, limit: &Signed<OrderLimit>, order: &Signed<Order>) -> Option<(OrderLimit, Order)> {
        let hash = limit.hash();
        let limit = limit.verify(&self.inner.identity.verifying()).ok()?;
        let counts = self.seconds() <= limit.created.seconds.saturating_add(LIMIT_COUNTS);
        let order = order.verify(&VerifyingKey::from_bytes(&limit.uplink).ok()?).ok()?;
        let fits =
            limit.node == node && limit.satellite == self.id() && order.limit == hash && order.bytes <= limit.bytes;
        (counts && fits).then_some((limit, order))
    }
}

/// BLAKE3 of a ticket: what is kept of it.
pub(super) fn hash(ticket: &str) -> [u8; 32] {
    *blake3::hash(ticket.trim().as_bytes()).as_bytes()
}

fn check_fields(check_in: &CheckIn) -> Result<(), Error> {
    if check_in.version != VERSION {
        return Err(invalid(format!("protocol version {} is not spoken here, only {VERSION}", check_in.version)));
    }
    let address = |address: &String| address.starts_with('/') && address.len() <= MAX_ADDRESS;
    if !(1..=MAX_ADDRESSES).contains(&check_in.addresses.len()) || !check_in.addresses.iter().all(address) {
        return Err(invalid(format!("1 to {MAX_ADDRESSES} multiaddresses of at most {MAX_ADDRESS} characters")));
    }
    if check_in.software.len() > MAX_SOFTWARE || check_in.ticket.as_ref().is_some_and(|t| t.len() > MAX_TICKET) {
        return Err(invalid("a field is too long"));
    }
    if check_in.free > check_in.capacity || i64::try_from(check_in.capacity).is_err() {
        return Err(invalid("free space beyond the capacity"));
    }
    Ok(())
}

/// Puts the observed IP where a node announces "any"; what it then says twice counts once.
fn specify(announced: &[String], observed: &str) -> Vec<String> {
    let mut parts = observed.split('/').skip(1);
    let seen = parts.next().zip(parts.next());
    let specify = |address: &String| {
        for (family, any) in [("ip4", "/ip4/0.0.0.0/"), ("ip6", "/ip6/::/")] {
            if let (Some(rest), Some((seen, ip))) = (address.strip_prefix(any), seen)
                && seen == family
            {
                return format!("/{family}/{ip}/{rest}");
            }
        }
        address.clone()
    };
    let mut specified = Vec::with_capacity(announced.len());
    for address in announced.iter().map(specify) {
        if !specified.contains(&address) {
            specified.push(address);
        }
    }
    specified
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_address_becomes_the_observed_one() {
        let announced = ["/ip4/0.0.0.0/tcp/1", "/ip6/::/tcp/1", "/ip4/1.2.3.4/udp/2/quic-v1"].map(str::to_owned);
        let seen = specify(&announced, "/ip4/9.8.7.6/tcp/55");
        assert_eq!(seen, ["/ip4/9.8.7.6/tcp/1", "/ip6/::/tcp/1", "/ip4/1.2.3.4/udp/2/quic-v1"]);
        assert_eq!(specify(&announced, ""), announced);
        let twice = ["/ip4/0.0.0.0/tcp/1", "/ip4/9.8.7.6/tcp/1"].map(str::to_owned);
        assert_eq!(specify(&twice, "/ip4/9.8.7.6/tcp/55"), ["/ip4/9.8.7.6/tcp/1"]);
    }
}
