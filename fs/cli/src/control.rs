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
    /// Wait until all that is pending now is on the network.
    Sync,
    /// Unmount; with `wait` only when the network has everything, without it the queue is kept for the next mount.
    /// With `lazy` a drive that is in use is taken out of the tree of files at once, and ends when it is not used any more.
    Unmount {
        /// For the network.
        wait: bool,
        /// Although it is in use.
        #[serde(default)]
        lazy: bool,
    },
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
    Done,
    /// Not done, and why.
    Failed {
        /// What went wrong.
        message: String,
        /// What to do next.
        hint: Option<String>,
    },
}

impl Reply {
    /// The answer to something that failed.
    pub(crate) fn failed(failure: &Failure) -> Self {
        Self::Failed { message: failure.message().to_owned(), hint: failure.hint_text().map(str::to_owned) }
    }

    /// The end of a request whose answer is that it was done.
    pub(crate) fn done(self) -> Outcome {
        match self {
            Self::Failed { message, hint } => Err(Failure::with(message, hint)),
            _ => Ok(()),
        }
    }
}

/// What waits for the network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Pending {
    /// Files and directories with changes.
    pub(crate) files: u64,
    /// Bytes of content.
    pub(crate) bytes: u64,
    /// Bytes per second that went out lately.
    pub(crate) rate: u64,
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
        let text = serde_json::to_string(&Request::Unmount { wait: true, lazy: false }).unwrap();
        assert_eq!(text, r#"{"request":"unmount","wait":true,"lazy":false}"#);
        let reply = Reply::Progress(Pending { files: 1, bytes: 2, rate: 3 });
        let text = serde_json::to_string(&reply).unwrap();
        assert_eq!(text, r#"{"reply":"progress","files":1,"bytes":2,"rate":3}"#);
        assert_eq!(serde_json::from_str::<Reply>(&text).unwrap(), reply);
    }
}
