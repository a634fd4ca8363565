//! The one home of errno: what an operation of the drive answers when it cannot do what was asked.
//!
//! | what happened | errno |
//! |---|---|
//! | a rule of POSIX refused | the rule's own |
//! | the network did not answer, or holds too few honest pieces, until the deadline | `ETIMEDOUT`; `EIO` from fsync and close |
//! | what came does not authenticate, or a peer broke the protocol | `EIO` |
//! | the grant does not allow it | `EACCES`; `EIO` from fsync and close |
//! | the bucket is full | `EDQUOT` |
//! | the cache disk or budget is full and did not drain until the deadline | `ENOSPC` |
//! | the cache disk failed | `EIO`, or `ENOSPC` and `EDQUOT` if it said so |
//! | the mount or its grant is read-only | `EROFS` |
//! | the inode is gone | `ESTALE` |
//! | a size or offset beyond 2^63 - 1, or another limit of the file system | `EFBIG` |
//! | the cache is closed, or has not sent what it was asked to send | `EIO` |
//!
//! Unreachable is never `ENOENT`: a program that takes that for "deleted" would act on a lie.

use rustix::io::Errno;
use std::borrow::Cow;
use std::sync::Arc;
use strewn_engine::bucket;
use tracing::Level;

/// A failed operation: what the caller is told, and what the log is told.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}", self.text())]
pub struct Error {
    errno: Errno,
    /// Nothing: what the errno says.
    message: Cow<'static, str>,
    #[source]
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
    level: Level,
}

/// Result of an operation of the drive.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A failure that the log shows at `level`.
    pub fn new(errno: Errno, level: Level, message: impl Into<Cow<'static, str>>) -> Self {
        Self { errno, message: message.into(), source: None, level }
    }

    /// The request did not end before its deadline.
    pub fn deadline() -> Self {
        Self::new(Errno::TIMEDOUT, Level::WARN, "no answer before the request's deadline")
    }

    fn text(&self) -> Cow<'static, str> {
        if !self.message.is_empty() {
            return self.message.clone();
        }
        // Made when somebody reads it: most refusals are answers that nobody sees.
        let text = std::io::Error::from(self.errno).to_string();
        let end = text.rfind(" (os error").unwrap_or(text.len());
        text[..end].to_owned().into()
    }

    /// What the caller is told.
    pub fn errno(&self) -> Errno {
        self.errno
    }

    /// How loud the log should be: ordinary refusals are `TRACE`, what a person must see is `WARN` or `ERROR`.
    pub fn level(&self) -> Level {
        self.level
    }

    /// The same failure as fsync and close report it: whatever kept bytes from being safe is an I/O error, unless it is one of
    /// the few that these calls are known to give.
    pub(crate) fn into_sync(self) -> Self {
        match self.errno {
            Errno::NOSPC | Errno::DQUOT | Errno::BADF | Errno::INVAL => self,
            _ => Self { errno: Errno::IO, ..self },
        }
    }

    fn caused(errno: Errno, level: Level, source: strewn_cache::Error) -> Self {
        let message = source.to_string().into();
        Self { errno, message, source: Some(Arc::new(source)), level }
    }
}

/// An ordinary refusal.
impl From<Errno> for Error {
    fn from(errno: Errno) -> Self {
        Self::new(errno, Level::TRACE, "")
    }
}

impl From<strewn_cache::Error> for Error {
    fn from(error: strewn_cache::Error) -> Self {
        use strewn_cache::Error as Cache;
        match &error {
            Cache::Errno(errno) => Self::from(Errno::from_raw_os_error(*errno)),
            Cache::Network(network) => {
                let (errno, level) = of_network(network);
                Self::caused(errno, level, error)
            }
            Cache::Corrupt(_) => Self::caused(Errno::IO, Level::ERROR, error),
            Cache::NoSpace(_) => Self::caused(Errno::NOSPC, Level::WARN, error),
            Cache::Disk(disk) => {
                let errno = match disk.raw_os_error().map(Errno::from_raw_os_error) {
                    Some(full @ (Errno::NOSPC | Errno::DQUOT)) => full,
                    _ => Errno::IO,
                };
                Self::caused(errno, Level::ERROR, error)
            }
            Cache::ReadOnly => Self::caused(Errno::ROFS, Level::TRACE, error),
            Cache::Stale => Self::caused(Errno::STALE, Level::DEBUG, error),
            Cache::Quota(_) => Self::caused(Errno::DQUOT, Level::WARN, error),
            Cache::TooLarge(_) => Self::caused(Errno::FBIG, Level::DEBUG, error),
            Cache::Closed | Cache::Pending(_) => Self::caused(Errno::IO, Level::WARN, error),
        }
    }
}

fn of_network(error: &bucket::Error) -> (Errno, Level) {
    use bucket::Error as Bucket;
    match error {
        Bucket::Unreachable(_) | Bucket::Unavailable(_) | Bucket::TooFewNodes { .. } => (Errno::TIMEDOUT, Level::WARN),
        Bucket::Internal(_) => (Errno::IO, Level::WARN),
        Bucket::Forbidden(_) => (Errno::ACCESS, Level::INFO),
        Bucket::NotFound(_) => (Errno::STALE, Level::DEBUG),
        Bucket::Quota(_) => (Errno::DQUOT, Level::WARN),
        Bucket::Invalid(_) | Bucket::OutOfOrder(_) => (Errno::IO, Level::ERROR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use strewn_cache::Error as Cache;

    #[test]
    fn every_cause_has_its_errno() {
        let disk = |errno: Errno| Cache::Disk(Arc::new(errno.into()));
        let network = |error| Cache::Network(error);
        for (cause, errno) in [
            (Cache::Errno(Errno::NOTEMPTY.raw_os_error()), Errno::NOTEMPTY),
            (network(bucket::Error::Unreachable("x".into())), Errno::TIMEDOUT),
            (network(bucket::Error::Unavailable("x".into())), Errno::TIMEDOUT),
            (network(bucket::Error::TooFewNodes { found: 1, needed: 4 }), Errno::TIMEDOUT),
            (network(bucket::Error::Forbidden("x".into())), Errno::ACCESS),
            (network(bucket::Error::NotFound("x".into())), Errno::STALE),
            (network(bucket::Error::Quota("x".into())), Errno::DQUOT),
            (network(bucket::Error::Invalid("x".into())), Errno::IO),
            (Cache::Corrupt("x".into()), Errno::IO),
            (Cache::NoSpace("x".into()), Errno::NOSPC),
            (disk(Errno::NOSPC), Errno::NOSPC),
            (disk(Errno::NODEV), Errno::IO),
            (Cache::ReadOnly, Errno::ROFS),
            (Cache::Stale, Errno::STALE),
            (Cache::Quota("x".into()), Errno::DQUOT),
            (Cache::TooLarge("x".into()), Errno::FBIG),
            (Cache::Closed, Errno::IO),
            (Cache::Pending("x".into()), Errno::IO),
        ] {
            let text = cause.to_string();
            assert_eq!(Error::from(cause).errno(), errno, "{text}");
        }
    }

    #[test]
    fn an_ordinary_refusal_says_why() {
        assert_eq!(Error::from(Errno::NOENT).to_string(), "No such file or directory");
        assert_eq!(Error::from(Cache::Errno(Errno::ISDIR.raw_os_error())).to_string(), "Is a directory");
    }

    #[test]
    fn fsync_calls_an_absent_network_an_io_error() {
        let away = Error::from(Cache::Network(bucket::Error::Unreachable("x".into())));
        assert_eq!(away.into_sync().errno(), Errno::IO);
        let refused = Error::from(Cache::Network(bucket::Error::Forbidden("x".into())));
        assert_eq!(refused.into_sync().errno(), Errno::IO);
        let full = Error::from(Cache::Network(bucket::Error::Quota("x".into())));
        assert_eq!(full.into_sync().errno(), Errno::DQUOT);
        assert_eq!(Error::from(Errno::BADF).into_sync().errno(), Errno::BADF);
    }
}
