//! `strewn cp`: between the local disk, buckets and standard streams.

mod download;
mod upload;

use super::AccessArg;
use crate::error::{Context, Each, Failure, Outcome};
use crate::location::{Location, Remote};
use crate::session::Session;
use crate::signals::Signals;
use std::cell::OnceCell;
use std::path::Path;

/// Copy files to, from and within buckets
///
/// Returns when the network, or the local disk, has everything. Modes, times and symbolic links are kept; owners are not. A file
/// comes to its name when all of it is there, and what it replaces stays until then; before, it is `.strewn-*.partial` beside
/// it. In a bucket it is written in place under a grant that allows no removals, or that opens this file alone.
#[derive(Debug, clap::Args)]
pub(crate) struct Cp {
    /// What to copy: strewn://BUCKET/PATH, a local path, or `-` for standard input
    from: Location,
    /// Where to: strewn://BUCKET/PATH, a local path, or `-` for standard output
    to: Location,
    #[command(flatten)]
    access: AccessArg,
    /// Directories too, with everything in them
    #[arg(long, short)]
    recursive: bool,
    /// No progress bar
    #[arg(long, short)]
    quiet: bool,
}

impl Cp {
    pub(crate) async fn run(self) -> Outcome {
        let mut signals = Signals::new()?;
        let target = Target::new();
        let number = tokio::select! {
            outcome = self.copy(&target) => return outcome,
            number = signals.next() => number,
        };
        // What was half done went with that; of what is in a bucket the network has to hear. Whoever asks again gets his will.
        if let Some(session) = target.get() {
            tokio::select! {
                () = session.tidy() => {}
                _ = signals.next() => {}
            }
        }
        Err(Failure::signalled(number))
    }

    /// What was left out of a directory is told beside what became of the rest.
    async fn copy(&self, target: &Target) -> Outcome {
        let mut left_out = Each::default();
        let copied = self.copy_but(target, &mut left_out).await;
        left_out.note(copied);
        left_out.outcome()
    }

    async fn copy_but(&self, target: &Target, left_out: &mut Each) -> Outcome {
        match (&self.from, &self.to) {
            (Location::Local(from), Location::Remote(to)) => {
                let (session, to) = self.open_target(target, to).await?;
                // Of a directory the copy may have this name, with a slash or without.
                let to = Remote { directory: to.directory && !from.is_dir(), ..to };
                let to = session.inside_directory(&to, from.file_name().and_then(|name| name.to_str())).await?;
                self.upload(session, from, &to, left_out).await
            }
            (Location::Remote(from), Location::Local(to)) => {
                let (session, from) = Session::open(&self.access, from).await?;
                let to = if to.is_dir() { to.join(from.file_name()) } else { to.clone() };
                download::Download { session: &session, recursive: self.recursive, quiet: self.quiet }
                    .copy(&from, &to, left_out)
                    .await?;
                session.finish_as(self.quiet).await
            }
            (Location::Standard, Location::Remote(to)) => {
                let (session, to) = self.open_target(target, to).await?;
                let to = session.inside_directory(&to, None).await?;
                upload::Upload { session, recursive: false, quiet: self.quiet }.standard_input(&to).await?;
                session.finish_as(self.quiet).await
            }
            (Location::Remote(from), Location::Standard) => self.download_standard(from).await,
            (Location::Remote(from), Location::Remote(to)) => self.within(target, from, to, left_out).await,
            _ => Err(Failure::usage("one side must be in a bucket").hint("write strewn://BUCKET/PATH")),
        }
    }

    /// Opens the bucket that is copied to.
    async fn open_target<'a>(&self, target: &'a Target, to: &Remote) -> Outcome<(&'a Session, Remote)> {
        let (session, to) = Session::open(&self.access, to).await?;
        Ok((target.get_or_init(|| session), to))
    }

    /// What arrived before something failed stays.
    async fn upload(&self, session: &Session, from: &Path, to: &Remote, left_out: &mut Each) -> Outcome {
        let upload = upload::Upload { session, recursive: self.recursive, quiet: self.quiet };
        let copied = upload.copy(from, to, left_out).await;
        let stored = session.finish_as(self.quiet).await;
        left_out.note(copied);
        stored
    }

    async fn download_standard(&self, from: &Remote) -> Outcome {
        let (session, from) = Session::open(&self.access, from).await?;
        session.print(&from).await?;
        session.finish_as(self.quiet).await
    }

    /// Bucket to bucket: the content passes through this machine, because it is sealed anew.
    async fn within(&self, target: &Target, from: &Remote, to: &Remote, left_out: &mut Each) -> Outcome {
        let (source, from) = Session::open(&self.access, from).await?;
        let (session, to) = self.open_target(target, to).await?;
        let to = session.inside_directory(&to, Some(from.file_name())).await?;
        let staging = tempfile::tempdir().context("making a temporary directory")?;
        let copy = staging.path().join("copy");
        download::Download { session: &source, recursive: self.recursive, quiet: self.quiet }
            .copy(&from, &copy, left_out)
            .await?;
        self.upload(session, &copy, &to, left_out).await?;
        source.finish_as(self.quiet).await
    }
}

/// The bucket that is copied to, once it is open.
type Target = OnceCell<Session>;

/// Bytes moved at a time.
const BUFFER: usize = 1 << 20;

/// Says that a FIFO, socket or device is not copied. Below a directory the others are.
fn special(what: impl std::fmt::Display) -> Failure {
    Failure::new(format!("{what} is no file, directory or symbolic link: not copied"))
        .hint("mount the bucket and copy it with 'cp -a'")
}

/// Refuses a directory without `--recursive`.
fn needs_recursive(recursive: bool, what: &dyn std::fmt::Display) -> Outcome {
    if recursive {
        Ok(())
    } else {
        Err(Failure::new(format!("{what} is a directory")).hint("-r copies it with everything in it"))
    }
}

/// A local path in a message.
fn shown(path: &Path) -> std::path::Display<'_> {
    path.display()
}
