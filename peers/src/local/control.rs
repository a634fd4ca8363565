//! Steering a local network from another process: a unix socket in its data directory.
//!
//! One JSON object per line asks, one answers ([`Request`], [`Reply`]). The directory is 0700, so whoever can connect
//! may do everything. The socket is reached through a descriptor of its directory, because the path of a unix socket has
//! at most 107 bytes.

use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use strewn_engine::redundancy::Redundancy;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::timeout;

/// Name of the socket in the data directory.
const SOCKET: &str = "control";
/// Longest line in either direction, in bytes: a status of some thousand nodes.
const MAX_LINE: u64 = 4 << 20;
/// Connections served at once.
const MAX_CONNECTIONS: usize = 16;
/// How long a caller waits for an answer: stopping everything may take a while.
const ANSWER: Duration = Duration::from_secs(60);
/// How long a connection may be idle.
const IDLE: Duration = Duration::from_secs(60);

/// What can be asked of a running local network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub enum Request {
    /// How it is. Reply: [`Reply::Status`].
    Status,
    /// Does something to a node. Reply: [`Reply::Done`].
    Node {
        /// Its number, from 0.
        node: usize,
        /// What.
        action: NodeAction,
    },
    /// Asks the process to stop everything. Reply: [`Reply::Done`], before it happens.
    Stop,
}

/// What can be done to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeAction {
    /// Ends it, as a machine that is switched off; its pieces stay on disk.
    Stop,
    /// Starts it again, or heals every fault of a running one.
    Start,
    /// Lets it accept requests and never answer.
    Hang,
    /// Lets it wait this many milliseconds before every answer.
    Slow(u64),
    /// Removes all its pieces.
    Wipe,
    /// Damages the pieces it sends.
    Corrupt,
    /// Lets it refuse new pieces.
    Full,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    /// Done.
    Done,
    /// How the network is.
    Status(Status),
    /// Not done.
    Failed {
        /// Why.
        reason: String,
    },
}

/// A local network at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The process that runs it.
    pub pid: u32,
    /// Multiaddress of the satellite with its peer id.
    pub satellite: String,
    /// Default redundancy.
    pub redundancy: Redundancy,
    /// Segment size of new buckets in bytes.
    pub segment_size: u64,
    /// Its nodes by number.
    pub nodes: Vec<NodeStatus>,
}

/// A node of a local network at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its number, from 0.
    pub number: usize,
    /// Its id.
    pub id: String,
    /// `running`, `stopped`, `failed: …`, or its faults: `hang`, `slow 200`, `corrupt`, `full`, by commas.
    pub state: String,
    /// Pieces it holds; 0 while it is stopped.
    pub pieces: u64,
    /// Bytes of pieces it holds; 0 while it is stopped.
    pub bytes: u64,
}

/// Asks the network that runs on `directory`.
///
/// # Errors
/// `NotFound` or `ConnectionRefused` if none runs there.
pub async fn call(directory: &Path, request: &Request) -> io::Result<Reply> {
    let exchange = async {
        let mut stream = BufReader::new(UnixStream::connect(through(&File::open(directory)?)).await?);
        write_line(stream.get_mut(), request).await?;
        let reply = read_line(&mut stream).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        serde_json::from_str(&reply).map_err(io::Error::from)
    };
    timeout(ANSWER, exchange).await.map_err(|_| io::ErrorKind::TimedOut)?
}

/// What answers.
pub(super) trait Steered: Send + Sync + 'static {
    fn obey(&self, request: Request) -> impl Future<Output = Reply> + Send;
}

/// The socket's server; stops and removes the socket when dropped.
pub(super) struct ControlServer {
    task: AbortHandle,
    socket: PathBuf,
}

impl ControlServer {
    /// Listens in `directory`, which the caller has locked: a socket left there by a crash is replaced.
    pub(super) fn start(directory: &Path, network: Arc<impl Steered>) -> io::Result<Self> {
        let socket = directory.join(SOCKET);
        match fs::remove_file(&socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(through(&File::open(directory)?))?;
        let task = tokio::spawn(serve(listener, network)).abort_handle();
        Ok(Self { task, socket })
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        self.task.abort();
        if let Err(error) = fs::remove_file(&self.socket) {
            tracing::debug!(%error, "control socket not removed");
        }
    }
}

fn through(directory: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd()))
}

async fn serve(listener: UnixListener, network: Arc<impl Steered>) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "control socket failed");
                return;
            }
        };
        let network = network.clone();
        tokio::spawn(async move {
            if let Err(error) = converse(stream, &*network).await {
                tracing::debug!(%error, "control connection ended");
            }
            drop(slot);
        });
    }
}

async fn converse(stream: UnixStream, network: &impl Steered) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    while let Some(line) = timeout(IDLE, read_line(&mut stream)).await?? {
        let reply = match serde_json::from_str(&line) {
            Ok(request) => network.obey(request).await,
            Err(error) => Reply::Failed { reason: format!("not a request: {error}") },
        };
        write_line(stream.get_mut(), &reply).await?;
    }
    Ok(())
}

async fn read_line(stream: &mut BufReader<UnixStream>) -> io::Result<Option<String>> {
    let mut line = String::new();
    let read = stream.take(MAX_LINE).read_line(&mut line).await?;
    match read {
        0 => Ok(None),
        _ if line.ends_with('\n') => Ok(Some(line)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "line cut off or too long")),
    }
}

async fn write_line(stream: &mut UnixStream, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    stream.write_all(&line).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;

    #[derive(Default)]
    struct Recorder(Mutex<Vec<Request>>);

    impl Steered for Recorder {
        async fn obey(&self, request: Request) -> Reply {
            self.0.lock().push(request.clone());
            match request {
                Request::Node { node: 9, .. } => Reply::Failed { reason: "no node 9".into() },
                _ => Reply::Done,
            }
        }
    }

    #[tokio::test]
    async fn requests_reach_the_network_even_under_a_long_path() {
        let directory = tempfile::tempdir().unwrap();
        let long = directory.path().join("x".repeat(150));
        fs::create_dir(&long).unwrap();
        let missing = call(&long, &Request::Status).await.unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);

        let network = Arc::new(Recorder::default());
        let server = ControlServer::start(&long, network.clone()).unwrap();
        let slow = Request::Node { node: 1, action: NodeAction::Slow(200) };
        assert_eq!(call(&long, &slow).await.unwrap(), Reply::Done);
        let none = Request::Node { node: 9, action: NodeAction::Stop };
        assert_eq!(call(&long, &none).await.unwrap(), Reply::Failed { reason: "no node 9".into() });
        assert_eq!(*network.0.lock(), [slow, none]);
        drop(server);
        assert!(!long.join(SOCKET).exists());
    }

    #[tokio::test]
    async fn nonsense_is_answered_and_harmless() {
        let directory = tempfile::tempdir().unwrap();
        let _server = ControlServer::start(directory.path(), Arc::new(Recorder::default())).unwrap();
        let stream = UnixStream::connect(directory.path().join(SOCKET)).await.unwrap();
        let mut stream = BufReader::new(stream);
        stream.get_mut().write_all(b"make it so\n{\"request\":\"status\"}\n").await.unwrap();
        let first = read_line(&mut stream).await.unwrap().unwrap();
        assert!(first.contains("not a request"), "{first}");
        assert_eq!(read_line(&mut stream).await.unwrap().unwrap(), "{\"reply\":\"done\"}\n");
    }

    #[test]
    fn the_format_is_the_documented_one() {
        let request = Request::Node { node: 3, action: NodeAction::Slow(200) };
        let text = r#"{"request":"node","node":3,"action":{"slow":200}}"#;
        assert_eq!(serde_json::to_string(&request).unwrap(), text);
        assert_eq!(serde_json::from_str::<Request>(text).unwrap(), request);
    }
}
