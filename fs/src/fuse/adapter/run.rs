//! Running a request: its inode is found, and its result becomes a reply.

use super::{Adapter, GENERATION};
use crate::Volume;
use crate::error::Result;
use crate::fuse::convert;
use crate::fuse::polling::About;
use crate::volume::Entry;
use fuser::{INodeNo, ReplyEmpty, ReplyEntry};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use strewn_engine::ids::InodeId;
use tracing::Instrument;

impl Adapter {
    /// Runs a request about names or attributes on the inode with a number.
    pub(super) fn run<T, W>(
        &self,
        request: &'static str,
        number: INodeNo,
        work: impl FnOnce(Arc<Volume>, InodeId) -> W + Send + 'static,
        reply: impl FnOnce(Result<T>) + Send + 'static,
    ) where
        T: Send + 'static,
        W: Future<Output = Result<T>> + Send + 'static,
    {
        self.note(About::Names);
        self.run_within(self.deadline, request, number, work, reply);
    }

    /// Runs a request, whatever it is about, under a deadline of its own.
    pub(super) fn run_within<T, W>(
        &self,
        deadline: Duration,
        request: &'static str,
        number: INodeNo,
        work: impl FnOnce(Arc<Volume>, InodeId) -> W + Send + 'static,
        reply: impl FnOnce(Result<T>) + Send + 'static,
    ) where
        T: Send + 'static,
        W: Future<Output = Result<T>> + Send + 'static,
    {
        let volume = self.volume.clone();
        let work = async move {
            let inode = volume.inode(number.0)?;
            work(volume, inode).await
        };
        let span = tracing::trace_span!("fuse", request, number = number.0);
        self.answerer.answer(deadline, request, work.instrument(span), reply);
    }

    /// Runs a request that makes bytes durable, under a deadline of its own.
    pub(super) fn run_durable<W>(
        &self,
        request: &'static str,
        (number, deadline): (INodeNo, Duration),
        reply: ReplyEmpty,
        work: impl FnOnce(Arc<Volume>, InodeId) -> W + Send + 'static,
    ) where
        W: Future<Output = Result<()>> + Send + 'static,
    {
        self.run_within(deadline, request, number, work, |done| reply_empty(done, reply));
    }

    /// Runs a request that answers with nothing.
    pub(super) fn run_empty<W>(
        &self,
        request: &'static str,
        number: INodeNo,
        reply: ReplyEmpty,
        work: impl FnOnce(Arc<Volume>, InodeId) -> W + Send + 'static,
    ) where
        W: Future<Output = Result<()>> + Send + 'static,
    {
        self.run(request, number, work, |done| reply_empty(done, reply));
    }

    /// Runs a request that answers with an entry.
    pub(super) fn run_entry<W>(
        &self,
        request: &'static str,
        parent: INodeNo,
        reply: ReplyEntry,
        work: impl FnOnce(Arc<Volume>, InodeId) -> W + Send + 'static,
    ) where
        W: Future<Output = Result<Entry>> + Send + 'static,
    {
        let ttl = self.ttl;
        self.run(request, parent, work, move |found| match found {
            Ok(entry) => reply.entry(&ttl, &convert::entry(&entry), GENERATION),
            Err(error) => reply.error(convert::errno(&error)),
        });
    }
}

fn reply_empty(done: Result<()>, reply: ReplyEmpty) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(convert::errno(&error)),
    }
}
