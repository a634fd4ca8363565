//! `strewn cp`: between the local disk, buckets and standard streams.

mod download;
mod upload;

use super::AccessArg;
use crate::error::{Context, Each, Failure, Outcome};
use crate::location::{Location, Remote};
use crate::session::{At, Session};
use crate::signals::Signals;
use std::io::Read;
use std::path::Path;

/// Copy files to, from and within buckets
///
/// Returns when the network, or the local disk, has everything. Modes, times and symbolic links are kept; owners are not.
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
        if matches!(self.from, Location::Standard) {
            return self.copy().await;
        }
        // What is half done goes when it is dropped.
        let mut signals = Signals::new()?;
        tokio::select! {
            outcome = self.copy() => outcome,
            number = signals.next() => Err(Failure::signalled(number)),
        }
    }

    /// What was left out of a directory is told beside what became of the rest.
    async fn copy(&self) -> Outcome {
        let mut left_out = Each::default();
        let copied = self.copy_but(&mut left_out).await;
        left_out.note(copied);
        left_out.outcome()
    }

    async fn copy_but(&self, left_out: &mut Each) -> Outcome {
        match (&self.from, &self.to) {
            (Location::Local(from), Location::Remote(to)) => {
                let (session, to) = Session::open(&self.access, to).await?;
                // Of a directory the copy may have this name, with a slash or without.
                let to = Remote { directory: to.directory && !from.is_dir(), ..to };
                let to = session.inside_directory(&to, from.file_name().and_then(|name| name.to_str())).await?;
                upload::Upload { session: &session, recursive: self.recursive, quiet: self.quiet }
                    .copy(from, &to, left_out)
                    .await?;
                session.finish_as(self.quiet).await
            }
            (Location::Remote(from), Location::Local(to)) => {
                let (session, from) = Session::open(&self.access, from).await?;
                let to = if to.is_dir() { to.join(from.file_name()) } else { to.clone() };
                download::Download { session: &session, recursive: self.recursive, quiet: self.quiet }
                    .copy(&from, &to, left_out)
                    .await?;
                session.finish_as(self.quiet).await
            }
            (Location::Standard, Location::Remote(to)) => self.upload_standard(to).await,
            (Location::Remote(from), Location::Standard) => self.download_standard(from).await,
            (Location::Remote(from), Location::Remote(to)) => self.within(from, to, left_out).await,
            _ => Err(Failure::usage("one side must be in a bucket").hint("write strewn://BUCKET/PATH")),
        }
    }

    async fn upload_standard(&self, to: &Remote) -> Outcome {
        let (session, to) = Session::open(&self.access, to).await?;
        let to = &session.inside_directory(&to, None).await?;
        let mut writer = session.paths.write(to.path.as_bytes(), 0o644).await.at(to)?;
        let mut input = std::io::stdin();
        let mut buffer = vec![0; BUFFER];
        loop {
            let read = input.read(&mut buffer).context("reading standard input")?;
            if read == 0 {
                break;
            }
            writer.write(&buffer[..read]).await.at(to)?;
        }
        writer.finish(crate::session::caller(), Default::default()).await.at(to)?;
        session.finish_as(self.quiet).await
    }

    async fn download_standard(&self, from: &Remote) -> Outcome {
        let (session, from) = Session::open(&self.access, from).await?;
        session.print(&from).await?;
        session.finish_as(self.quiet).await
    }

    /// Bucket to bucket: the content passes through this machine, because it is sealed anew.
    async fn within(&self, from: &Remote, to: &Remote, left_out: &mut Each) -> Outcome {
        let (source, from) = Session::open(&self.access, from).await?;
        let (target, to) = Session::open(&self.access, to).await?;
        let to = target.inside_directory(&to, Some(from.file_name())).await?;
        let staging = tempfile::tempdir().context("making a temporary directory")?;
        let copy = staging.path().join("copy");
        download::Download { session: &source, recursive: self.recursive, quiet: self.quiet }
            .copy(&from, &copy, left_out)
            .await?;
        upload::Upload { session: &target, recursive: self.recursive, quiet: self.quiet }
            .copy(&copy, &to, left_out)
            .await?;
        target.finish_as(self.quiet).await?;
        source.finish_as(self.quiet).await
    }
}

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
