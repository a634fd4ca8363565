//! The mount's end of the control socket.

use super::{UnmountRequest, Wanted, pending, pending_failure};
use crate::control::{MAX_LINE, MountStatus, Pending, Reply, Request};
use crate::error::{Context, Failure, Outcome};
use std::path::Path;
use std::time::Duration;
use strewn_cache::Cache;
use strewn_peers::uplink::Uplink;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

/// Clients that are served at once; more wait in the socket's backlog.
const MAX_CLIENTS: usize = 32;

/// How long a client may take to say what it wants.
const REQUEST_DEADLINE: Duration = Duration::from_secs(5);

/// How often a waiting client hears what is pending.
const REPORT_EVERY: Duration = Duration::from_millis(200);

/// Progress reports that may wait for a slow client; older ones are superseded.
const PROGRESS_QUEUE: usize = 1;

/// What clients ask about.
#[derive(Clone)]
struct Served {
    cache: Cache,
    uplink: Uplink,
}

/// The running server.
pub(super) struct Server {
    task: tokio::task::JoinHandle<()>,
    stop: oneshot::Sender<()>,
}

impl Server {
    /// Stops to accept and waits until the clients that were promised an answer have it.
    pub(super) async fn finish(self) {
        let _ = self.stop.send(());
        if let Err(error) = self.task.await {
            tracing::error!("control socket: {error}");
        }
    }
}

/// Listens on `path`, replacing the socket of a mount that is gone (the cache's lock is held, so no other is alive).
pub(super) fn start(
    path: &Path,
    cache: Cache,
    uplink: Uplink,
    unmount: mpsc::Sender<UnmountRequest>,
) -> Outcome<Server> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).context(format_args!("removing {}", path.display()));
        }
        _ => {}
    }
    let listener = UnixListener::bind(path).context(format_args!("listening on {}", path.display()))?;
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(accept(listener, Served { cache, uplink }, unmount, stopped));
    Ok(Server { task, stop })
}

async fn accept(
    listener: UnixListener,
    served: Served,
    unmount: mpsc::Sender<UnmountRequest>,
    mut stopped: oneshot::Receiver<()>,
) {
    let mut clients = JoinSet::new();
    loop {
        let full = clients.len() >= MAX_CLIENTS;
        tokio::select! {
            _ = &mut stopped => break,
            Some(_) = clients.join_next(), if !clients.is_empty() => {}
            accepted = listener.accept(), if !full => match accepted {
                Ok((stream, _)) => drop(clients.spawn(client(stream, served.clone(), unmount.clone()))),
                Err(error) => tracing::warn!("control socket: {error}"),
            },
        }
    }
    // Only those whose request is being answered are waited for; one that says nothing must not hold the process.
    drop(unmount);
    while clients.join_next().await.is_some() {}
}

async fn client(stream: UnixStream, served: Served, unmount: mpsc::Sender<UnmountRequest>) {
    let cache = &served.cache;
    let (read, mut write) = stream.into_split();
    let mut line = Vec::new();
    let mut reader = BufReader::new(read.take(MAX_LINE));
    let request = match tokio::time::timeout(REQUEST_DEADLINE, reader.read_until(b'\n', &mut line)).await {
        Ok(Ok(_)) => serde_json::from_slice(&line),
        _ => return,
    };
    let read = reader.into_inner().into_inner();
    let reply = match request {
        Ok(Request::Status) => Some(status(&served)),
        Ok(Request::Sync { timeout_ms }) => {
            let work = sync(cache, &mut write, patience(timeout_ms));
            unless_gone(read, work).await
        }
        Ok(Request::Unmount { wait, lazy, timeout_ms }) => {
            let wanted = Wanted::Unmounted { wait, lazy, patience: patience(timeout_ms) };
            let work = self::unmount(cache, &mut write, unmount, wanted);
            unless_gone(read, work).await
        }
        Ok(Request::HandOver) => hand_over(unmount).await,
        Err(error) => Some(Reply::failed(&Failure::new(format!("not a request: {error}")))),
    };
    if let Some(reply) = reply {
        // A client that went away does not need its answer.
        drop(send(&mut write, &reply).await);
    }
}

/// Does `work` as long as the client is there: one that was interrupted has stopped waiting.
async fn unless_gone(mut read: OwnedReadHalf, work: impl Future<Output = Reply>) -> Option<Reply> {
    let mut more = [0; 64];
    let gone = async { while read.read(&mut more).await.is_ok_and(|count| count > 0) {} };
    tokio::select! {
        reply = work => Some(reply),
        () = gone => None,
    }
}

fn patience(timeout_ms: Option<u64>) -> Option<Duration> {
    timeout_ms.map(Duration::from_millis)
}

fn status(served: &Served) -> Reply {
    let health = served.uplink.health();
    let status = MountStatus {
        cache: served.cache.status(),
        satellite_reachable: health.satellite_reachable,
        satellite_answered_seconds: health.satellite_answered.map(|ago| ago.as_secs_f64()),
        nodes_known: health.nodes_known,
        nodes_reachable: health.nodes_reachable,
        nodes_unreachable: health.nodes_unreachable,
    };
    match serde_json::to_value(status) {
        Ok(status) => Reply::Status { status },
        Err(error) => Reply::failed(&Failure::new(error.to_string())),
    }
}

async fn sync(cache: &Cache, write: &mut OwnedWriteHalf, patience: Option<Duration>) -> Reply {
    let (report, mut reports) = mpsc::channel(PROGRESS_QUEUE);
    let patience = patience.unwrap_or(cache.options().deadline);
    let work = async move {
        // A full queue means that the client has not read the last report yet: it gets a newer one later.
        cache.drain_within(patience, |status| report.try_send(pending(status)).unwrap_or_default()).await
    };
    tokio::pin!(work);
    loop {
        tokio::select! {
            drained = &mut work => {
                let outcome = drained.map_err(|error| pending_failure(&error));
                return Reply::ended(&outcome, pending(&cache.status()));
            }
            Some(pending) = reports.recv() => drop(send(write, &Reply::Progress(pending)).await),
        }
    }
}

/// Asks the mount to end and reports what is pending until it has.
async fn unmount(
    cache: &Cache,
    write: &mut OwnedWriteHalf,
    unmount: mpsc::Sender<UnmountRequest>,
    wanted: Wanted,
) -> Reply {
    let (done, mut outcome) = oneshot::channel::<Outcome>();
    if unmount.try_send(UnmountRequest { wanted, done }).is_err() {
        return Reply::failed(&Failure::new("the drive is being unmounted already"));
    }
    drop(unmount);
    let mut every = tokio::time::interval(REPORT_EVERY);
    loop {
        tokio::select! {
            outcome = &mut outcome => {
                let outcome = outcome.unwrap_or_else(|_| Err(Failure::new("the mount ended")));
                return Reply::ended(&outcome, pending(&cache.status()));
            }
            _ = every.tick() => drop(send(write, &Reply::Progress(pending(&cache.status()))).await),
        }
    }
}

/// Asks the mount to leave its cache to who asks. No answer if it is leaving anyway.
async fn hand_over(unmount: mpsc::Sender<UnmountRequest>) -> Option<Reply> {
    let (done, outcome) = oneshot::channel::<Outcome>();
    unmount.try_send(UnmountRequest { wanted: Wanted::HandedOver, done }).ok()?;
    drop(unmount);
    Some(Reply::ended(&outcome.await.ok()?, Pending::default()))
}

async fn send(write: &mut OwnedWriteHalf, reply: &Reply) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    write.write_all(&line).await
}
