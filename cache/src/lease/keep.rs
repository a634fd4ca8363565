//! Keeping a lease in the background: all names while nobody else wants one, renewal, and giving back.

use super::ask::ANSWER;
use super::{All, FRESH, Lease, NameOf};
use crate::shared::Shared;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use strewn_engine::bucket::lease::{LEASE, LeaseRequest, MAX_LEASE_NAMES, NameKey};
use strewn_engine::ids::InodeId;
use strewn_engine::keys::DirectoryKeys;
use strewn_engine::secret::Key;

/// Pause after the satellite did not answer.
const PAUSE: Duration = Duration::from_secs(2);
/// So long before the end of a lease what others want of it is given up, although the network does not have it yet: else
/// everything would be lost.
const TOO_LATE: Duration = Duration::from_secs(4);

/// Keeps the lease until the cache is closed, then gives it back.
pub(crate) async fn keep(shared: Arc<Shared>) {
    let mut closing = shared.closing.subscribe();
    loop {
        let pause = tokio::select! {
            pause = shared.lease_round() => pause,
            _ = closing.wait_for(|closing| *closing) => break,
        };
        tokio::select! {
            () = shared.lease_news(pause) => {}
            _ = closing.wait_for(|closing| *closing) => break,
        }
    }
    shared.give_back().await;
}

impl Shared {
    /// Renews and gives back what is due, and asks for what is worth having. How long to wait for the next round.
    async fn lease_round(self: &Arc<Self>) -> Duration {
        if !self.state.lock().pipeline.reachable {
            // Whoever follows the feed finds out when it is back.
            return PAUSE;
        }
        let Ok(_turn) = self.leasing.turn.acquire().await else { return PAUSE };
        if !self.reserve().await {
            return PAUSE;
        }
        let lost = self.lost_names();
        let (asked, mut request, asks_for_all) = {
            let state = self.state.lock();
            let mut lease = self.leasing.held.lock();
            let late = lease.is_live() && lease.until.saturating_sub(lease.now()) < TOO_LATE;
            let wanted = lease.wanted.clone();
            lease.give_up(|directory, name| {
                !state.tree.is_pending(directory, name) || (late && wanted.contains(&(directory, name.clone())))
            });
            let asks_for_all = lease.wants_all && !lease.never_all && lease.all == All::No;
            if lease.epoch.is_none() && !asks_for_all && lost.is_empty() {
                return lease.next();
            }
            let mut request = lease.request();
            request.all = asks_for_all || lease.all != All::No;
            (lease.wants_all, lease.lost) = (false, false);
            (lease.now(), request, asks_for_all)
        };
        let has_lost = !lost.is_empty();
        let plain: Vec<NameOf> = lost.iter().map(|(place, _)| place.clone()).take(MAX_LEASE_NAMES).collect();
        request.names = lost.into_iter().map(|(_, key)| key).take(MAX_LEASE_NAMES).collect();
        let answer = self.send(asked, request, &plain).await;
        let mut lease = self.leasing.held.lock();
        if answer.is_none() {
            lease.lost |= has_lost;
            lease.wants_all |= asks_for_all;
            return PAUSE;
        }
        if lease.recalled {
            return Duration::ZERO;
        }
        // As long as somebody else is in the way, and this mount has use for them.
        lease.wants_all |= lease.all == All::No && !lease.names.is_empty();
        let (next, wanted) = (lease.next(), !lease.wanted.is_empty());
        drop(lease);
        if wanted {
            self.bump_soon();
        }
        next
    }

    /// Waits until the lease has to be looked at: at the latest in `pause`.
    async fn lease_news(&self, pause: Duration) {
        let lease = {
            let lease = self.leasing.held.lock();
            // What is known to be wanted would be told again and again.
            lease.for_a_batch().filter(|_| !lease.is_wanted())
        };
        let recalled = async {
            match lease {
                Some(lease) => match self.bucket.recalled(lease, pause).await {
                    Ok(true) => {}
                    Ok(false) => std::future::pending().await,
                    Err(error) => {
                        tracing::debug!("leases: {error}");
                        std::future::pending().await
                    }
                },
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = recalled => {}
            () = self.leasing.due.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }

    /// If others want a name: reserves what is in use, and gives up all other names. False if that did not succeed.
    async fn reserve(self: &Arc<Self>) -> bool {
        self.begin_to_reserve();
        loop {
            let (asked, request, plain, rest) = {
                let mut lease = self.leasing.held.lock();
                let Some(left) = lease.reserving.clone() else { return true };
                let rest = left.len().saturating_sub(MAX_LEASE_NAMES);
                let (plain, keys): (Vec<_>, Vec<_>) = left.into_iter().skip(rest).unzip();
                let mut request = lease.request();
                (request.names, request.reserve, request.release_all) = (keys, true, rest == 0);
                (lease.now(), request, plain, rest)
            };
            if self.send(asked, request, &plain).await.is_none() {
                return false;
            }
            // If the lease ran out meanwhile, there is nothing left to reserve.
            let mut lease = self.leasing.held.lock();
            match &mut lease.reserving {
                Some(left) if rest > 0 => left.truncate(rest),
                _ => lease.reserving = None,
            }
        }
    }

    fn begin_to_reserve(&self) {
        let names = {
            let state = self.state.lock();
            let mut lease = self.leasing.held.lock();
            if !lease.recalled || lease.reserving.is_some() {
                return;
            }
            // What is brought to be from here on is asked for name by name.
            let had_all = std::mem::replace(&mut lease.all, All::No) != All::No;
            lease.wants_all |= had_all;
            // A satellite that restarted does not know what was held one by one.
            let names = std::mem::take(&mut lease.names);
            let single =
                names.into_iter().flat_map(|(directory, names)| names.into_keys().map(move |name| (directory, name)));
            let pending = had_all.then(|| state.tree.pending_names()).into_iter().flatten().cloned();
            let keyed = |place: NameOf| Some((state.tree.node(place.0)?.key.clone(), place));
            lease.reserving = Some(Vec::new());
            single.chain(pending).filter_map(keyed).collect::<Vec<_>>()
        };
        let names = encrypt(names);
        self.leasing.held.lock().reserving = Some(names);
        // They are to be given back soon.
        self.bump_soon();
    }

    /// Names that wait for the network and lost their cover, if that happened.
    fn lost_names(&self) -> Vec<(NameOf, NameKey)> {
        let names = {
            let state = self.state.lock();
            let mut lease = self.leasing.held.lock();
            lease.notice_end();
            if !lease.lost {
                return Vec::new();
            }
            let keyed = |place: NameOf| Some((state.tree.node(place.0)?.key.clone(), place));
            state.tree.pending_names().cloned().filter_map(keyed).collect::<Vec<_>>()
        };
        encrypt(names)
    }

    /// The mount ends: nobody has to wait for its lease to run out.
    async fn give_back(&self) {
        let request = {
            let mut lease = self.leasing.held.lock();
            let Some(held) = lease.for_a_batch() else { return };
            lease.forget();
            lease.number += 1;
            LeaseRequest::new(held.mount, lease.number, None)
        };
        if self.state.lock().pipeline.reachable
            && let Ok(Err(error)) = tokio::time::timeout(ANSWER, self.bucket.lease(&request)).await
        {
            tracing::debug!("leases: {error}");
        }
    }
}

/// Names as the satellite knows them; each directory's keys are derived once.
fn encrypt(names: Vec<(Key, NameOf)>) -> Vec<(NameOf, NameKey)> {
    let mut keys: HashMap<InodeId, DirectoryKeys> = HashMap::new();
    let encrypt = |(key, place): (Key, NameOf)| {
        let keys = keys.entry(place.0).or_insert_with(|| DirectoryKeys::new(&key));
        let encrypted = keys.encrypt_name(place.0, &place.1);
        let directory = place.0;
        (place, (directory, encrypted))
    };
    names.into_iter().map(encrypt).collect()
}

impl Lease {
    /// When what is held has to be renewed or looked at next, from now.
    pub(super) fn next(&self) -> Duration {
        let left = self.until.saturating_sub(self.now());
        match (self.epoch.is_some(), self.is_wanted()) {
            (true, true) => FRESH.min(left),
            (true, false) => (LEASE / 3).min(left),
            (false, _) => LEASE / 3,
        }
    }
}
