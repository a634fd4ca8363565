//! A bucket used by a command, without a mount: the same volume and cache as a drive's, in a cache directory of its own
//! that goes away with the command. So what a command promises is what a drive promises: [`finish`](Session::finish)
//! returns when the network has everything.

use crate::commands::AccessArg;
use crate::error::{Context, Failure, Outcome};
use crate::location::Remote;
use crate::mounted;
use crate::output::{self, UploadProgress, waiting};
use crate::remote::Opened;
use crate::{config, remote};
use std::sync::Arc;
use std::time::Duration;
use strewn_cache::{Cache, Options};
use strewn_engine::bucket::Kind;
use strewn_fs::Volume;
use strewn_fs::volume::Caller;
use strewn_fs::volume::path::{Last, Paths, Writer};
use tempfile::TempDir;

/// Nobody waits longer for what he interrupted.
const TIDY: Duration = Duration::from_secs(5);

/// An open bucket.
pub(crate) struct Session {
    pub(crate) paths: Paths,
    opened: Opened,
    cache: Cache,
    // Last, so that the directory goes after what is in it.
    _directory: TempDir,
}

impl Session {
    /// Opens the bucket of `place`, from where the grant begins. Gives the place by its path in the bucket.
    pub(crate) async fn open(access: &AccessArg, place: &Remote) -> Outcome<(Self, Remote)> {
        let grant = config::load_access(access.access.as_deref())?;
        let opened = remote::open_start(&grant, place).await?;
        let place = opened.within(place)?;
        let parent = config::cache_dir()?.join("commands");
        config::private_dir(&parent)?;
        let directory = tempfile::Builder::new().tempdir_in(&parent).context("making a cache directory")?;
        let options = Options { read_only: opened.read_only, index: false, ..Options::default() };
        let cache = Cache::open(directory.path(), opened.service.clone(), opened.root.clone(), options).await;
        let cache = cache.context("opening the cache")?;
        let paths = Paths::new(Arc::new(Volume::new(cache.clone())), caller()).at(opened.place.path.as_bytes());
        Ok((Self { paths, opened, cache, _directory: directory }, place))
    }

    /// Another place in the same session, by its path in the bucket.
    pub(crate) fn within(&self, place: &Remote) -> Outcome<Remote> {
        self.opened.within(place)
    }

    /// A file to write, which replaces what is there when it is finished. Who may not remove anything writes in place.
    pub(crate) async fn write(&self, path: &[u8], mode: u32) -> strewn_fs::Result<Writer> {
        match self.opened.may_delete {
            true => self.paths.replace(path, mode).await,
            false => self.paths.write(path, mode).await,
        }
    }

    /// Writes a file to standard output.
    pub(crate) async fn print(&self, place: &Remote) -> Outcome {
        let mut reader = self.paths.read(place.path.as_bytes()).await.at(place)?;
        while let Some(bytes) = reader.next().await.at(place)? {
            waiting(move || output::write(&bytes)).await?;
        }
        waiting(output::flush).await
    }

    /// True if nothing above `place` is open.
    pub(crate) fn is_start(&self, place: &Remote) -> bool {
        place.path == self.opened.place.path
    }

    /// `place`, or `name` in it if it is a directory.
    pub(crate) async fn inside_directory(&self, place: &Remote, name: Option<&str>) -> Outcome<Remote> {
        match self.paths.stat(place.path.as_bytes(), Last::Follow).await {
            Ok(stat) if stat.attributes.kind == Kind::Directory => match name {
                Some(name) => Ok(place.join(name)),
                None => Err(Failure::usage(format!("{place} is a directory: say the name to copy to"))),
            },
            Ok(_) if place.directory => Err(Failure::new(format!("{place} is not a directory"))),
            Ok(_) => Ok(place.clone()),
            Err(error) if error.errno() == rustix::io::Errno::NOENT && !place.directory => Ok(place.clone()),
            Err(error) => Err(error).at(place),
        }
    }

    /// Waits until the network has everything, and shows how far it is.
    pub(crate) async fn finish(&self) -> Outcome {
        self.finish_as(false).await
    }

    /// The same; shows nothing if it is to be `quiet`.
    pub(crate) async fn finish_as(&self, quiet: bool) -> Outcome {
        let mut progress = (!quiet).then(UploadProgress::new);
        let show = |status: &strewn_cache::Status| {
            if let Some(progress) = &mut progress {
                progress.show(mounted::pending(status));
            }
        };
        let drained = self.cache.drain(show).await;
        if let Some(progress) = progress {
            progress.finish();
        }
        drained.map_err(|error| Failure::new(format!("not everything could be stored: {error}")))?;
        self.cache.close().await.context("closing the cache")
    }

    /// After an interrupt: a moment for the network to hear that what was half done is gone.
    pub(crate) async fn tidy(&self) {
        let tidied = tokio::time::timeout(TIDY, self.cache.drain(|_| {})).await;
        if !matches!(tidied, Ok(Ok(()))) {
            tracing::debug!("not everything was stored, or taken back");
        }
    }
}

/// This process's user, who owns what commands make.
pub(crate) fn caller() -> Caller {
    // The modes that commands give are meant as they are.
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    Caller { uid: user.as_raw(), gid: group.as_raw(), umask: 0, process: std::process::id() }
}

/// Names the place in an error of the file system.
pub(crate) trait At<T> {
    /// Prefixes the error with the place it happened at.
    fn at(self, place: &dyn std::fmt::Display) -> Outcome<T>;
}

impl<T> At<T> for strewn_fs::Result<T> {
    fn at(self, place: &dyn std::fmt::Display) -> Outcome<T> {
        use rustix::io::Errno;
        self.map_err(|error| {
            let failure = Failure::new(format!("{place}: {}", crate::error::chain(&error)));
            match error.errno() {
                Errno::ROFS => failure.hint("the access grant is read-only"),
                Errno::ACCESS => failure.hint("the access grant does not allow this"),
                _ => failure,
            }
        })
    }
}
