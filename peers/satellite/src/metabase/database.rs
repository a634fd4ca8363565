//! The connections: one thread that writes, a few that read, and one that keeps the write-ahead log short.
//!
//! Writes that arrive while one is being made durable wait and then share a transaction and its fsync; each runs in a
//! savepoint of its own, so that one that fails takes nothing with it. An answer is given only after the commit.

use super::{Error, schema};
use parking_lot::Mutex;
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

/// Writes that may wait; more make their callers wait.
const WRITE_QUEUE: usize = 1_024;

/// Most writes that share one transaction.
const WRITE_GROUP: usize = 64;

/// Connections that read at the same time.
const READERS: usize = 4;

/// Transactions between two looks at the write-ahead log.
const CHECKPOINT_EVERY: u32 = 64;

/// Name of the database in its directory.
const FILE: &str = "metabase.sqlite";

/// Name of the file that is locked while a satellite runs.
const LOCK: &str = "lock";

/// The database of one satellite. Dropping it waits for the threads to finish what was queued; the directory stays locked
/// until the last write is done.
pub(crate) struct Database {
    writes: Option<mpsc::Sender<Box<dyn Job>>>,
    readers: Arc<Readers>,
    threads: Vec<JoinHandle<()>>,
}

struct Readers {
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Connection>>,
}

impl Database {
    /// Opens or makes the database in `directory`, which is made if missing (only its owner may enter it), and reads
    /// what is needed to begin with.
    pub(crate) fn open<T>(
        directory: &Path,
        identity: &[u8; 32],
        load: impl FnOnce(&Connection) -> Result<T, Error>,
    ) -> Result<(Self, T), Error> {
        make_directory(directory)?;
        let lock = lock(directory)?;
        let path = directory.join(FILE);
        let writer = schema::open_writer(&path, identity)?;
        std::fs::File::open(directory)?.sync_all()?;
        let loaded = load(&writer)?;
        let idle = (0..READERS).map(|_| schema::open_reader(&path)).collect::<Result<Vec<_>, _>>()?;
        let checkpointer = schema::open_checkpointer(&path)?;
        let (writes, queue) = mpsc::channel(WRITE_QUEUE);
        let (nudge, nudged) = std::sync::mpsc::sync_channel(1);
        let threads = vec![
            spawn("metabase-write", move || {
                write(writer, queue, nudge);
                drop(lock);
            })?,
            spawn("metabase-checkpoint", move || checkpoint(checkpointer, nudged))?,
        ];
        let readers = Arc::new(Readers { permits: Arc::new(Semaphore::new(READERS)), idle: Mutex::new(idle) });
        Ok((Self { writes: Some(writes), readers, threads }, loaded))
    }

    /// Runs `work` in a transaction; its value is returned once it is durable, its error after it was undone.
    pub(crate) async fn write<T, F>(&self, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job = Box::new(Work { work: Some(work), outcome: None, reply });
        let writes = self.writes.as_ref().ok_or(Error::Closed)?;
        writes.send(job).await.map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }

    /// Runs `work` on one consistent state, off the async threads.
    pub(crate) async fn read<T, F>(&self, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    {
        let pool = self.readers.clone();
        let permit = pool.permits.clone().acquire_owned().await.map_err(|_| Error::Closed)?;
        let read = tokio::task::spawn_blocking(move || {
            // Both go with the work, even if whoever asked has gone away.
            let lent = Lent { connection: pool.idle.lock().pop(), pool: &pool, _permit: permit };
            let connection = lent.connection.as_ref().ok_or(Error::Closed)?;
            let transaction = connection.unchecked_transaction()?;
            let value = work(&transaction)?;
            transaction.finish()?;
            Ok(value)
        });
        read.await.map_err(|_| Error::Closed)?
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.writes = None;
        let here = std::thread::current().id();
        if self.threads.iter().any(|thread| thread.thread().id() == here) {
            // A write that nobody waits for any more held the last of us; the threads end after it.
            return;
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a metabase thread panicked");
            }
        }
    }
}

/// A connection that goes back to the pool, before its permit does, whatever happens to its reader.
struct Lent<'a> {
    connection: Option<Connection>,
    pool: &'a Readers,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        self.pool.idle.lock().extend(self.connection.take());
    }
}

/// A queued write.
trait Job: Send {
    /// Does the work; false if it must be undone.
    fn run(&mut self, connection: &Connection) -> bool;

    /// Answers, once it is known whether the transaction is durable.
    fn finish(self: Box<Self>, committed: Result<(), Arc<rusqlite::Error>>);
}

struct Work<F, T> {
    work: Option<F>,
    outcome: Option<Result<T, Error>>,
    reply: oneshot::Sender<Result<T, Error>>,
}

impl<F, T> Job for Work<F, T>
where
    T: Send,
    F: FnOnce(&Connection) -> Result<T, Error> + Send,
{
    fn run(&mut self, connection: &Connection) -> bool {
        self.outcome = self.work.take().map(|work| work(connection));
        matches!(self.outcome, Some(Ok(_)))
    }

    fn finish(self: Box<Self>, committed: Result<(), Arc<rusqlite::Error>>) {
        let answer = match (committed, self.outcome) {
            (_, Some(Err(error))) => Err(error),
            (Ok(()), Some(Ok(value))) => Ok(value),
            (Err(error), _) => Err(Error::Commit(error)),
            (Ok(()), None) => Err(Error::Closed),
        };
        // Whoever asked may have gone away; the write stands.
        drop(self.reply.send(answer));
    }
}

fn write(connection: Connection, mut queue: mpsc::Receiver<Box<dyn Job>>, nudge: std::sync::mpsc::SyncSender<()>) {
    let mut group = Vec::with_capacity(WRITE_GROUP);
    let mut transactions = 0u32;
    while let Some(first) = queue.blocking_recv() {
        group.push(first);
        while group.len() < WRITE_GROUP
            && let Ok(next) = queue.try_recv()
        {
            group.push(next);
        }
        let committed = run_group(&connection, &mut group).map_err(Arc::new);
        if let Err(error) = &committed {
            tracing::error!(%error, "metabase transaction failed");
        }
        group.drain(..).for_each(|job| job.finish(committed.clone()));
        transactions += 1;
        if transactions >= CHECKPOINT_EVERY {
            transactions = 0;
            let _already_at_it = nudge.try_send(());
        }
    }
}

/// Runs the jobs in one transaction. If that fails, nothing of any of them remains.
fn run_group(connection: &Connection, group: &mut [Box<dyn Job>]) -> Result<(), rusqlite::Error> {
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let run = |job: &mut Box<dyn Job>| {
        connection.execute_batch("SAVEPOINT job")?;
        if !job.run(connection) {
            connection.execute_batch("ROLLBACK TO job")?;
        }
        connection.execute_batch("RELEASE job")
    };
    let done = group.iter_mut().try_for_each(run).and_then(|()| connection.execute_batch("COMMIT"));
    if done.is_err() && !connection.is_autocommit() {
        connection.execute_batch("ROLLBACK")?;
    }
    done
}

fn checkpoint(connection: Connection, nudged: std::sync::mpsc::Receiver<()>) {
    while nudged.recv().is_ok() {
        let moved = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
        if let Err(error) = moved {
            tracing::warn!(%error, "metabase checkpoint failed");
        }
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Error> {
    Ok(std::thread::Builder::new().name(name.to_owned()).spawn(work)?)
}

fn make_directory(directory: &Path) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt;
    Ok(std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?)
}

fn lock(directory: &Path) -> Result<std::fs::File, Error> {
    let path: PathBuf = directory.join(LOCK);
    let file = std::fs::File::options().create(true).truncate(false).write(true).open(&path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(Error::InUse(directory.to_owned())),
        Err(std::fs::TryLockError::Error(error)) => Err(Error::Io(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    #[test]
    fn a_write_may_outlive_everybody_else() {
        let directory = tempfile::tempdir().unwrap();
        let (database, ()) = Database::open(directory.path(), &[1; 32], |_| Ok(())).unwrap();
        let database = Arc::new(database);
        let (go, wait) = std::sync::mpsc::channel::<()>();
        {
            let held = database.clone();
            let write = database.write(move |connection| {
                wait.recv().unwrap();
                connection.execute("INSERT INTO tickets (hash, created) VALUES (x'01', 1)", [])?;
                drop(held);
                Ok(())
            });
            assert!(pin!(write).poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        drop(database);
        go.send(()).unwrap();
        std::fs::File::open(directory.path().join(LOCK)).unwrap().lock().unwrap();
        let count = |connection: &Connection| {
            Ok(connection.query_row("SELECT count(*) FROM tickets", [], |row| row.get::<_, i64>(0))?)
        };
        let (_database, tickets) = Database::open(directory.path(), &[1; 32], count).unwrap();
        assert_eq!(tickets, 1);
    }

    #[test]
    fn commits_are_synced() {
        let directory = tempfile::tempdir().unwrap();
        let mode = |connection: &Connection| {
            let synchronous = connection.pragma_query_value(None, "synchronous", |row| row.get::<_, i64>(0))?;
            Ok((synchronous, connection.pragma_query_value(None, "journal_mode", |row| row.get::<_, String>(0))?))
        };
        let (_database, mode) = Database::open(directory.path(), &[1; 32], mode).unwrap();
        assert_eq!(mode, (2, "wal".to_owned()));
    }
}
