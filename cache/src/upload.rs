//! Bringing queued batches to the network: segments side by side, batches strictly in order, for ever.
//!
//! What the network refuses for now (unreachable, too few nodes) is tried again; what it refuses until somebody acts (quota,
//! rights) stays queued, is shown in the status, and is tried again at times; a batch that lost against another writer is
//! taken apart (`conflict`). Nothing is ever dropped.

use crate::Error;
use crate::blocking::blocking;
use crate::cut::batch::Batch;
use crate::cut::limits::is_too_much;
use crate::cut::queue::Queued;
use crate::cut::seal::Segment;
use crate::cut::tasks::Backoff;
use crate::record::Mutation;
use crate::shared::Shared;
use std::collections::HashSet;
use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use strewn_engine::bucket::lease::Lapse;
use strewn_engine::bucket::{self, Commit, CommitReply, Refusal, SegmentSource};
use strewn_engine::ids::SegmentId;
use tokio::task::JoinSet;

/// Segments put side by side.
const PARALLEL_SEGMENTS: usize = 4;
/// Batches whose segments may be put ahead of their turn.
const CUTS_AHEAD: usize = 4;
/// Refusals in a row that are dealt with at once.
const MOST_REFUSALS: u32 = 4;

/// Segments on their way.
#[derive(Default)]
struct Segments {
    tasks: JoinSet<(SegmentId, u64, Result<(), Error>)>,
    /// Goes up with every pause: failures from before it are known already.
    round: u64,
    in_flight: HashSet<SegmentId>,
    done: HashSet<SegmentId>,
}

/// Sends batches until the cache is closed.
pub(crate) async fn upload(shared: Arc<Shared>) {
    let mut progress = shared.progress.subscribe();
    let mut closing = shared.closing.subscribe();
    let mut segments = Segments::default();
    let mut backoff = Backoff::new();
    loop {
        let work = step(&shared, &mut segments, &mut progress);
        let result = tokio::select! {
            result = work => result,
            _ = closing.wait_for(|closing| *closing) => return,
        };
        match result {
            Ok(Step::Waited) => {}
            Ok(Step::Sent) => backoff = Backoff::new(),
            Err(error) => {
                shared.note_refused(&error);
                segments.round += 1;
                tokio::select! {
                    () = backoff.pause(&shared) => {}
                    _ = closing.wait_for(|closing| *closing) => return,
                }
            }
        }
    }
}

enum Step {
    /// A batch was committed.
    Sent,
    /// Something moved on.
    Waited,
}

async fn step(
    shared: &Arc<Shared>,
    segments: &mut Segments,
    progress: &mut tokio::sync::watch::Receiver<u64>,
) -> Result<Step, Error> {
    let front: Vec<Arc<Queued>> = {
        let state = shared.state.lock();
        state.pipeline.queued.iter().take(CUTS_AHEAD).cloned().collect()
    };
    let Some(first) = front.first() else {
        segments.done.clear();
        return match progress.changed().await {
            Ok(()) => Ok(Step::Waited),
            Err(_) => Err(Error::Closed),
        };
    };
    segments.begin(shared, front.iter().flat_map(|queued| &queued.segments));
    if first.segments.iter().all(|segment| segments.done.contains(&segment.id)) {
        let sent = shared.commit(first).await?;
        if !sent {
            segments.done.clear();
        }
        return Ok(if sent { Step::Sent } else { Step::Waited });
    }
    tokio::select! {
        Some(joined) = segments.tasks.join_next() => match joined {
            Ok((id, round, result)) => {
                segments.in_flight.remove(&id);
                match result {
                    Ok(()) => drop(segments.done.insert(id)),
                    Err(error) if round == segments.round => return Err(error),
                    Err(_) => {}
                }
                Ok(Step::Waited)
            }
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        },
        _ = progress.changed() => Ok(Step::Waited),
    }
}

impl Segments {
    /// Starts as many as may run side by side.
    fn begin<'a>(&mut self, shared: &Arc<Shared>, wanted: impl Iterator<Item = &'a Segment>) {
        for segment in wanted {
            if self.in_flight.len() >= PARALLEL_SEGMENTS {
                return;
            }
            if self.done.contains(&segment.id) || !self.in_flight.insert(segment.id) {
                continue;
            }
            let (shared, id, round) = (shared.clone(), segment.id, self.round);
            self.tasks.spawn(async move { (id, round, shared.put_segment(id).await) });
        }
    }
}

impl Shared {
    async fn put_segment(self: &Arc<Self>, segment: SegmentId) -> Result<(), Error> {
        let source = self.segment_source(segment).await?;
        let source = self.outgoing.watch(segment, source);
        let result = self.bucket.put_segment(segment, source).await;
        self.note_network(&result);
        Ok(result?)
    }

    /// A sealed segment file, all of its bytes checked once.
    pub(crate) async fn segment_source(self: &Arc<Self>, segment: SegmentId) -> Result<Arc<dyn SegmentSource>, Error> {
        if let Some(source) = self.sources.lock().get(&segment) {
            return Ok(source.clone());
        }
        let shared = self.clone();
        let source = blocking(move || shared.store.open_segment(segment)).await?;
        self.sources.lock().put(segment, source.clone());
        Ok(source)
    }

    /// Removes a sealed segment, and closes it: an open file would keep its room on the disk.
    pub(crate) fn remove_segment(&self, segment: SegmentId) {
        self.sources.lock().pop(&segment);
        self.store.remove_segment(segment);
    }

    /// Sends the oldest batch. True if the network has it now.
    async fn commit(self: &Arc<Self>, queued: &Arc<Queued>) -> Result<bool, Error> {
        // The network must never be ahead of what a power cut leaves here: it would look like another writer's work.
        self.journal.sync(self.journal.last()).await?;
        let batch = self.whole_batch(queued.cut).await?;
        let result = self.send_batch(&batch.commit).await;
        self.note_network(&result);
        match result {
            Ok(CommitReply::Applied { .. }) => {
                self.committed(queued, &batch)?;
                Ok(true)
            }
            Ok(CommitReply::Refused { operation, reason }) => {
                tracing::warn!("batch {} was refused at operation {operation}: {reason}", queued.number);
                // What was cloned may be gone: then its bytes go up, which is no trouble.
                if let Refusal::BadExtents(_) = reason
                    && !batch.has_clones()
                {
                    // Segments that waited for too long may have been collected: they are put again, then it is tried anew.
                    self.note_error(Error::Network(bucket::Error::Invalid(reason.to_string())));
                }
                self.resolve(&batch, operation as usize, &reason).await?;
                self.pace_refusals(&reason)?;
                Ok(false)
            }
            // Another mount holds a name. Nothing of the batch is remembered there: it comes again until that is over.
            Ok(CommitReply::Lapsed(lapse)) => Err(bucket::Error::Unavailable(lapse.to_string()).into()),
            Err(bucket::Error::OutOfOrder(message)) => {
                tracing::warn!("the stream of batches begins anew: {message}");
                self.restart_stream().await?;
                Ok(false)
            }
            // Others moved what was cloned to where the grant does not reach. If it is about something else, it shows again.
            Err(bucket::Error::Forbidden(message)) if batch.has_clones() => {
                tracing::warn!("batch {} may not refer to what was cloned: {message}", queued.number);
                self.make_anew().await?;
                Ok(false)
            }
            Err(bucket::Error::Invalid(message)) if is_too_much(&batch.commit) => {
                tracing::warn!("batch {} goes in parts: {message}", queued.number);
                self.make_anew().await?;
                self.pace_refusals(&message)?;
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Sends a batch under the lease that is held. If that is over, what it promised is no longer certain: it goes without.
    async fn send_batch(&self, commit: &Commit) -> Result<CommitReply, bucket::Error> {
        let lease = self.leasing.held.lock().for_a_batch();
        let reply = self.bucket.commit(commit, lease).await?;
        if reply != CommitReply::Lapsed(Lapse::Stale) || lease.is_none() {
            return Ok(reply);
        }
        tracing::warn!("batch {} was made under a lease that is over", commit.number);
        self.leasing.held.lock().forget();
        self.leasing.due.notify_one();
        self.bucket.commit(commit, None).await
    }

    /// The network has the oldest batch: what only waited for it goes.
    fn committed(&self, queued: &Queued, batch: &Batch) -> Result<(), Error> {
        let mut state = self.state.lock();
        let state = &mut *state;
        if state.pipeline.queued.front().is_none_or(|front| front.cut != queued.cut) {
            return Ok(());
        }
        state.append(&self.journal, &[Mutation::Committed { cut: queued.cut }])?;
        state.pipeline.dequeue(batch);
        self.batches.lock().pop(&queued.cut);
        state.pipeline.committed = queued.cut;
        state.pipeline.blocked = None;
        state.pipeline.refusals = 0;
        if !matches!(state.pipeline.last_error, Some(Error::Disk(_))) {
            state.pipeline.last_error = None;
        }
        while state.pipeline.ages.front().is_some_and(|(cut, _)| *cut <= queued.cut) {
            state.pipeline.ages.pop_front();
        }
        state.tree.note_committed(queued.cut);
        if state.tree.has_missed() {
            self.missed.notify_one();
        }
        state.pipeline.done.push_back((queued.cut, queued.segments.clone()));
        state.failures.passed(queued.puts());
        if state.pipeline.unsent() == 0 {
            state.failures.clear();
        }
        self.counters.uploaded_bytes.fetch_add(queued.bytes, Ordering::Relaxed);
        let in_segments: u64 = queued.segments.iter().map(|segment| segment.length).sum();
        self.outgoing.add(queued.bytes.saturating_sub(in_segments));
        self.outgoing.forget(queued.segments.iter().map(|segment| segment.id));
        if self.leasing.held.lock().is_wanted() {
            self.leasing.due.notify_one();
        }
        self.bump();
        Ok(())
    }

    /// Refusals that do not end are not tried again at once.
    fn pace_refusals(&self, reason: &impl Display) -> Result<(), Error> {
        let mut state = self.state.lock();
        state.pipeline.refusals += 1;
        match state.pipeline.refusals > MOST_REFUSALS {
            true => Err(Error::Pending(format!("the network refuses what is pending: {reason}"))),
            false => Ok(()),
        }
    }

    fn note_refused(&self, error: &Error) {
        let mut state = self.state.lock();
        let state = &mut *state;
        if let Error::Network(refused @ (bucket::Error::Quota(_) | bucket::Error::Forbidden(_))) = error {
            state.pipeline.blocked = Some(refused.clone());
        }
        // What is queued goes up in order, so what stops the first stops all.
        state.failures.note(state.pipeline.queued.iter().flat_map(|queued| queued.puts()), error);
        state.pipeline.last_error = Some(error.clone());
        tracing::warn!("upload: {error}");
        self.bump();
    }
}
