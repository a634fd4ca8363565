//! The control socket of a mount: status, sync and unmount from another process.
//!
//! A Unix socket `control.sock` in the cache directory (0700). The client sends one line of JSON, a [`Request`]; the
//! mount answers with lines of JSON, [`Reply`]s, of which the last is not [`Reply::Progress`], and closes.

use crate::error::{Context, Failure, Outcome};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// Longest line in either direction, in bytes.
pub(crate) const MAX_LINE: u64 = 256 * 1024;

/// Name of the socket in the cache directory.
const NAME: &str = "control.sock";

/// Longest path of a Unix socket (sun_path less its NUL).
pub(crate) const MAX_SOCKET_PATH: usize = 107;

/// What may be asked of a mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub(crate) enum Request {
    /// How it is.
    Status,
    /// Wait until all that is pending now is on the network. A client that goes away only stops waiting.
    Sync {
        /// Give up when nothing moved for so long; the mount's own patience if absent.
        #[serde(default)]
        timeout_ms: Option<u64>,
    },
    /// Unmount; with `wait` only when the network has everything, without it the queue is kept for the next mount.
    /// With `lazy` a drive that is in use is taken out of the tree of files at once, and ends when it is not used any more.
    /// When its client goes away while the network is waited for, the drive stays mounted.
    Unmount {
        /// For the network.
        wait: bool,
        /// Although it is in use.
        #[serde(default)]
        lazy: bool,
        /// As in [`Request::Sync`].
        #[serde(default)]
        timeout_ms: Option<u64>,
    },
    /// End, if the drive is not mounted any more and only its uploads are waited for: the next mount of the cache goes on with
    /// them.
    HandOver,
}

/// What a mount answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub(crate) enum Reply {
    /// What is still pending.
    Progress(Pending),
    /// The answer to [`Request::Status`].
    Status { status: serde_json::Value },
    /// Done.
    Done {
        /// What is still pending: written since, or kept for the next mount.
        #[serde(default)]
        left: Pending,
    },
    /// Not done, and why.
    Failed {
        /// What went wrong.
        message: String,
        /// What to do next.
        hint: Option<String>,
        /// What is still pending.
        #[serde(default)]
        left: Pending,
    },
}

impl Reply {
    /// The answer to something that failed.
    pub(crate) fn failed(failure: &Failure) -> Self {
        Self::ended(&Err(failure.clone()), Pending::default())
    }

    /// The answer to a request that was done or not, with what is still pending.
    pub(crate) fn ended(outcome: &Outcome, left: Pending) -> Self {
        match outcome {
            Ok(()) => Self::Done { left },
            Err(failure) => {
                let (message, hint) = (failure.message().to_owned(), failure.hint_text().map(str::to_owned));
                Self::Failed { message, hint, left }
            }
        }
    }

    /// The end of a request whose answer is that it was done, and what is still pending.
    pub(crate) fn done(self) -> (Outcome, Pending) {
        match self {
            Self::Failed { message, hint, left } => (Err(Failure::with(message, hint)), left),
            Self::Done { left } => (Ok(()), left),
            _ => {
                let what = "the mount gave an unexpected answer; is it of another version?";
                (Err(Failure::new(what)), Pending::default())
            }
        }
    }
}

/// How a mount is: its cache, and what it saw of the network. Flat in JSON.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)] // a command may ask a mount of another version
pub(crate) struct MountStatus {
    #[serde(flatten)]
    pub(crate) cache: strewn_cache::Status,
    /// The satellite answered the last request.
    pub(crate) satellite_reachable: bool,
    /// Seconds since it answered one; `None` if it never did.
    pub(crate) satellite_answered_seconds: Option<f64>,
    /// Storage nodes whose addresses the mount has.
    pub(crate) nodes_known: u64,
    /// How many of them answered the last time that the mount asked them for something.
    pub(crate) nodes_reachable: u64,
    /// How many did not. The rest was never asked.
    pub(crate) nodes_unreachable: u64,
}

/// What waits for the network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Pending {
    /// Files and directories with changes.
    pub(crate) files: u64,
    /// Bytes of content.
    pub(crate) bytes: u64,
    /// Changes of names, attributes and content.
    pub(crate) changes: u64,
    /// How many of the bytes are on their way: sent, and not confirmed.
    pub(crate) sending: u64,
    /// Bytes per second that went out lately.
    pub(crate) rate: u64,
}

impl Pending {
    /// True if the network has everything.
    pub(crate) fn is_nothing(&self) -> bool {
        self.files == 0 && self.bytes == 0 && self.changes == 0
    }
}

/// `12 files, 3.50 MiB`, or what else there is.
impl std::fmt::Display for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let plural = |count: u64| if count == 1 { "" } else { "s" };
        match (self.files, self.bytes) {
            (0, 0) => write!(f, "{} change{}", self.changes, plural(self.changes)),
            (files, bytes) => write!(f, "{files} file{}, {}", plural(files), crate::output::bytes(bytes)),
        }
    }
}

/// Where the socket of a cache directory is: inside of it, or under the run directory when that path is too long for a
/// socket.
pub(crate) fn socket_path(cache: &Path) -> Outcome<PathBuf> {
    let inside = cache.join(NAME);
    if inside.as_os_str().len() <= MAX_SOCKET_PATH {
        return Ok(inside);
    }
    let dir = crate::config::run_dir()?;
    crate::config::private_dir(&dir)?;
    let path = dir.join(format!("{}.sock", std::process::id()));
    if path.as_os_str().len() > MAX_SOCKET_PATH {
        return Err(Failure::new(format!("{} is too long for a control socket", path.display()))
            .hint("choose a shorter --cache-dir or XDG_RUNTIME_DIR"));
    }
    Ok(path)
}

/// Sends a request and hands every progress report to `progress`; gives the final reply.
pub(crate) fn ask(socket: &Path, request: &Request, mut progress: impl FnMut(Pending)) -> Outcome<Reply> {
    let mut replies = Exchange::begin(socket, request)?;
    loop {
        match replies.next()? {
            Some(Reply::Progress(pending)) => progress(pending),
            Some(reply) => return Ok(reply),
            None => {
                return Err(Failure::new("the mount ended before it answered")
                    .hint("nothing is lost: what was pending stays in its cache and goes up at the next mount"));
            }
        }
    }
}

/// One request and the replies to it: lines of JSON over a Unix socket.
pub(crate) struct Exchange {
    reader: BufReader<UnixStream>,
    what: String,
}

impl Exchange {
    /// Sends a request.
    pub(crate) fn begin(socket: &Path, request: &impl Serialize) -> Outcome<Self> {
        let what = format!("asking {}", socket.display());
        let mut stream = UnixStream::connect(socket).context(&what)?;
        let mut line = serde_json::to_vec(request).context(&what)?;
        line.push(b'\n');
        stream.write_all(&line).context(&what)?;
        Ok(Self { reader: BufReader::new(stream), what })
    }

    /// The next reply; `None` if the other side ended.
    pub(crate) fn next<R: DeserializeOwned>(&mut self) -> Outcome<Option<R>> {
        let mut line = String::new();
        let read = self.reader.by_ref().take(MAX_LINE).read_line(&mut line).context(&self.what)?;
        if read == 0 { Ok(None) } else { serde_json::from_str(&line).map(Some).context(&self.what) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_replies_are_one_line_each() {
        let text = serde_json::to_string(&Request::Unmount { wait: true, lazy: false, timeout_ms: None }).unwrap();
        assert_eq!(text, r#"{"request":"unmount","wait":true,"lazy":false,"timeout_ms":null}"#);
        let pending = Pending { files: 1, bytes: 2, changes: 4, sending: 1, rate: 3 };
        for reply in [Reply::Progress(pending), Reply::Done { left: pending }] {
            let text = serde_json::to_string(&reply).unwrap();
            assert_eq!(serde_json::from_str::<Reply>(&text).unwrap(), reply, "{text}");
        }
    }

    #[test]
    fn those_of_other_versions_are_understood() {
        assert_eq!(
            serde_json::from_str::<Request>(r#"{"request":"sync"}"#).unwrap(),
            Request::Sync { timeout_ms: None }
        );
        let old = r#"{"reply":"progress","files":1,"bytes":2,"rate":3}"#;
        let pending = Pending { files: 1, bytes: 2, rate: 3, ..Pending::default() };
        assert_eq!(serde_json::from_str::<Reply>(old).unwrap(), Reply::Progress(pending));
        assert_eq!(
            serde_json::from_str::<Reply>(r#"{"reply":"done"}"#).unwrap(),
            Reply::Done { left: Pending::default() }
        );
    }

    #[test]
    fn what_is_pending_is_said_in_words() {
        let pending = |files, bytes, changes| Pending { files, bytes, changes, ..Pending::default() };
        assert_eq!(pending(1, 2048, 3).to_string(), "1 file, 2.00 KiB");
        assert_eq!(pending(2, 0, 3).to_string(), "2 files, 0 B");
        assert_eq!(pending(0, 0, 1).to_string(), "1 change");
        assert!(pending(0, 0, 0).is_nothing() && !pending(0, 0, 1).is_nothing());
    }
}
