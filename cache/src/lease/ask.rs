//! Asking for cover while somebody waits.

use super::NameOf;
use crate::load::MOST_ATTEMPTS;
use crate::shared::Shared;
use crate::{Error, Name};
use std::sync::Arc;
use std::time::Duration;
use strewn_engine::bucket;
use strewn_engine::bucket::lease::{LEASE, LeaseReply, LeaseRequest, NameKey, NameLease};
use strewn_engine::ids::InodeId;
use strewn_engine::keys::DirectoryKeys;
use tokio::time::Instant;

/// A lease request that takes longer counts as unanswered.
pub(super) const ANSWER: Duration = Duration::from_secs(3);
/// First and longest pause before a name that another mount holds is asked for again.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);
/// So long a name is asked for: a mount that is gone has lost it by then.
const BUSY_FOR: Duration = LEASE.saturating_add(Duration::from_secs(2));

/// `EEXIST` of Linux.
const EEXIST: i32 = 17;

/// Cover that one transaction asked for.
pub(crate) struct Cover {
    /// Names that it may set without: nobody can be asked.
    without: Vec<NameOf>,
    /// Names that it was granted.
    granted: Vec<NameOf>,
    pause: Duration,
    /// When it first asked.
    since: Option<Instant>,
}

impl Cover {
    pub(crate) fn new() -> Self {
        let (without, granted) = Default::default();
        Self { without, granted, pause: FIRST_PAUSE, since: None }
    }

    /// True if a name may be set although nothing covers it.
    pub(crate) fn goes_without(&self, directory: InodeId, name: &Name) -> bool {
        self.without.iter().any(|(waived, other)| *waived == directory && other == name)
    }
}

/// What came of asking for one name.
enum Asked {
    Covered,
    Busy,
    Nobody,
}

impl Shared {
    /// Gets cover for a name, or leave to do without it. Fails with `EEXIST` if another mount holds the name for so long that
    /// it must be about to bring it to be.
    pub(crate) async fn cover(self: &Arc<Self>, cover: &mut Cover, place: NameOf) -> Result<(), Error> {
        let since = *cover.since.get_or_insert_with(Instant::now);
        match self.ask_for(&place).await? {
            Asked::Covered => cover.granted.push(place),
            Asked::Nobody => cover.without.push(place),
            Asked::Busy if since.elapsed() >= BUSY_FOR => return Err(Error::Errno(EEXIST)),
            Asked::Busy => {
                tokio::time::sleep(cover.pause).await;
                cover.pause = (cover.pause * 2).min(LONGEST_PAUSE);
            }
        }
        Ok(())
    }

    /// A transaction has come to its end: what it was granted and made nothing of can be given back.
    pub(crate) fn end_cover(&self, cover: &Cover) {
        if !cover.granted.is_empty() {
            let mut lease = self.leasing.held.lock();
            cover.granted.iter().for_each(|place| lease.done_with(place));
            if lease.is_wanted() {
                self.leasing.due.notify_one();
            }
        }
    }

    async fn ask_for(self: &Arc<Self>, (directory, name): &NameOf) -> Result<Asked, Error> {
        let Some(key) = self.name_key(*directory, name) else { return Err(Error::Stale) };
        let turn = tokio::time::timeout(ANSWER, self.leasing.turn.acquire()).await;
        let Ok(Ok(_turn)) = turn else { return Ok(Asked::Busy) };
        if !self.state.lock().pipeline.reachable {
            return Ok(Asked::Nobody);
        }
        let (asked, request, wanted_all, begins) = {
            let mut lease = self.leasing.held.lock();
            if lease.covers(*directory, name) {
                return Ok(Asked::Covered);
            }
            lease.waited_for += 1;
            let mut request = lease.request();
            // A name that was to be given back is not.
            request.release.retain(|released| *released != key);
            (request.names, request.all) = (vec![key], !lease.never_all);
            lease.wants_all = true;
            (lease.now(), request, !lease.never_all, lease.epoch.is_none())
        };
        let place = (*directory, name.clone());
        let Some(reply) = self.send(asked, request, std::slice::from_ref(&place)).await else {
            // Perhaps it was only too much at once.
            let refused = wanted_all && self.leasing.held.lock().never_all;
            return Ok(if refused { Asked::Busy } else { Asked::Nobody });
        };
        if begins || !reply.wanted.is_empty() || reply.recalled {
            // There is something to keep, or to give back.
            self.leasing.due.notify_one();
        }
        match reply.names.first() {
            Some(NameLease::Granted) => {
                self.be_sure(&place, reply.sequence).await?;
                self.leasing.held.lock().made_sure(&place);
                Ok(Asked::Covered)
            }
            Some(NameLease::Busy) => Ok(Asked::Busy),
            Some(NameLease::Full) | None => Ok(Asked::Nobody),
        }
    }

    /// Makes sure that what is known of a name is as new as its lease: nobody else has brought it to be since.
    async fn be_sure(self: &Arc<Self>, (directory, name): &NameOf, sequence: u64) -> Result<(), Error> {
        let heard = self.feed.lock().feed.map_or(0, |feed| feed.sequence);
        if heard >= sequence || self.is_unsent(*directory) {
            return Ok(());
        }
        // On its own: a load that began earlier would bring what was earlier.
        for _ in 0..MOST_ATTEMPTS {
            match self.load_names(*directory, std::slice::from_ref(name)).await {
                Ok(true) => return Ok(()),
                // News of the name arrived meanwhile, and may not have been taken in yet.
                Ok(false) => {}
                // It went away just now: as if it had been before.
                Err(Error::Network(bucket::Error::Unreachable(_))) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Err(Error::Network(bucket::Error::Unavailable(String::from("the name changes faster than it loads"))))
    }

    /// Sends a request, whose turn it is; takes in the answer. `None` if there was none, or none that helps.
    pub(super) async fn send(&self, asked: Duration, request: LeaseRequest, plain: &[NameOf]) -> Option<LeaseReply> {
        let late = || bucket::Error::Unreachable(format!("no answer within {ANSWER:?}"));
        let sent = tokio::time::timeout(ANSWER, self.bucket.lease(&request)).await;
        let answer = sent.unwrap_or_else(|_| Err(late()));
        if matches!(answer, Err(bucket::Error::Unreachable(_))) {
            self.note_network(&answer);
        }
        let heard = self.feed.lock().feed.map(|feed| feed.sequence);
        let mut lease = self.leasing.held.lock();
        match answer {
            Ok(reply) => {
                lease.take(asked, &request, plain, &reply);
                heard.into_iter().for_each(|sequence| lease.heard(sequence));
                Some(reply)
            }
            Err(error) => {
                tracing::debug!("leases: {error}");
                lease.never_all |= request.all && matches!(error, bucket::Error::Forbidden(_));
                lease.take_nothing(request);
                None
            }
        }
    }

    /// How the satellite knows a name; `None` if its directory is not known.
    pub(super) fn name_key(&self, directory: InodeId, name: &Name) -> Option<NameKey> {
        let key = self.state.lock().tree.node(directory)?.key.clone();
        Some((directory, DirectoryKeys::new(&key).encrypt_name(directory, name)))
    }
}
