//! From the local disk into a bucket.

use super::{BUFFER, needs_recursive, shown, special};
use crate::error::{Context, Each, Outcome};
use crate::location::Remote;
use crate::output::{self, waiting};
use crate::session::{At, Session, caller};
use std::fs::{self, File, FileType, Metadata};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use strewn_engine::bucket::{Kind, Timestamp};
use strewn_fs::volume::path::Last;
use strewn_fs::volume::{SetAttributes, SetTime};

pub(super) struct Upload<'a> {
    pub(super) session: &'a Session,
    pub(super) recursive: bool,
    pub(super) quiet: bool,
}

impl Upload<'_> {
    /// Notes what of a directory cannot be copied, and copies the rest.
    pub(super) async fn copy(&self, from: &Path, to: &Remote, left_out: &mut Each) -> Outcome {
        // A symbolic link that is named is followed, as cp does; below a directory it is copied.
        let metadata = fs::metadata(from).context(reading(from))?;
        if !metadata.is_dir() {
            return self.file(from, &metadata, to, to.path.as_bytes(), left_out).await;
        }
        needs_recursive(self.recursive, &shown(from))?;
        // Directories get their times last, because what is put into them changes them.
        let mut directories = Vec::new();
        let mut ahead = vec![(from.to_owned(), to.path.clone().into_bytes(), metadata)];
        while let Some((local, path, metadata)) = ahead.pop() {
            self.directory(to, &path).await?;
            let entries = fs::read_dir(&local).context(reading(&local));
            for entry in entries.map_err(|error| left_out.note(Err(error))).into_iter().flatten() {
                let described = entry.and_then(|entry| entry.metadata().map(|metadata| (entry, metadata)));
                let (entry, metadata) = match described.context(reading(&local)) {
                    Ok(found) => found,
                    Err(error) => {
                        left_out.note(Err(error));
                        continue;
                    }
                };
                let below = super::super::ls::join(&path, entry.file_name().as_bytes());
                match metadata.is_dir() {
                    true => ahead.push((entry.path(), below, metadata)),
                    false => self.file(&entry.path(), &metadata, to, &below, left_out).await?,
                }
            }
            directories.push((path, metadata));
        }
        for (path, metadata) in directories.iter().rev() {
            self.session.paths.set_attributes(path, Last::Keep, attributes(metadata)).await.at(to)?;
        }
        Ok(())
    }

    /// Everything up to the end of standard input.
    pub(super) async fn standard_input(&self, to: &Remote) -> Outcome {
        let mut writer = self.session.write(to.path.as_bytes(), 0o644).await.at(to)?;
        let mut buffer = vec![0; BUFFER];
        loop {
            // Apart, so that a signal is heard while nothing comes.
            let read = waiting(move || std::io::stdin().read(&mut buffer).map(|read| (read, buffer))).await;
            let (read, filled) = read.context("reading standard input")?;
            if read == 0 {
                break;
            }
            writer.write(&filled[..read]).await.at(to)?;
            buffer = filled;
        }
        writer.finish(caller(), SetAttributes::default()).await.map(drop).at(to)
    }

    async fn directory(&self, to: &Remote, path: &[u8]) -> Outcome {
        match self.session.paths.make_directory(path, 0o755).await {
            Err(error) if error.errno() == rustix::io::Errno::EXIST => Ok(()),
            made => made.map(drop).at(to),
        }
    }

    /// Notes it if it cannot be copied; fails if nothing can be.
    async fn file(&self, from: &Path, metadata: &Metadata, to: &Remote, path: &[u8], left_out: &mut Each) -> Outcome {
        let kind = metadata.file_type();
        let what = || reading(from);
        if is_special(kind) {
            left_out.note(Err(special(shown(from))));
            return Ok(());
        }
        if kind.is_symlink() {
            return match fs::read_link(from).context(what()) {
                Ok(target) => self.symlink(target.as_os_str().as_bytes(), metadata, to, path).await,
                Err(error) => {
                    left_out.note(Err(error));
                    Ok(())
                }
            };
        }
        match File::open(from).context(what()) {
            Ok(file) => self.content((from, file), metadata, to, path, left_out).await,
            Err(error) => {
                left_out.note(Err(error));
                Ok(())
            }
        }
    }

    async fn symlink(&self, target: &[u8], metadata: &Metadata, to: &Remote, path: &[u8]) -> Outcome {
        let paths = &self.session.paths;
        match paths.make_symlink(path, target).await {
            // As every other file: replaced.
            Err(error) if error.errno() == rustix::io::Errno::EXIST => {
                let there = paths.stat(path, Last::Keep).await.at(to)?;
                if there.attributes.kind == Kind::Directory {
                    return Err(error).at(to);
                }
                paths.remove(path).await.at(to)?;
                paths.make_symlink(path, target).await.at(to)?;
            }
            made => drop(made.at(to)?),
        }
        let times = SetAttributes { mode: None, ..attributes(metadata) };
        paths.set_attributes(path, Last::Keep, times).await.map(drop).at(to)
    }

    async fn content(
        &self,
        (from, mut file): (&Path, File),
        metadata: &Metadata,
        to: &Remote,
        path: &[u8],
        left_out: &mut Each,
    ) -> Outcome {
        let bar = (!self.quiet).then(|| output::transfer_bar(metadata.len(), &shown(from).to_string()));
        let mut writer = self.session.write(path, metadata.mode() & 0o7777).await.at(to)?;
        let mut buffer = vec![0; BUFFER];
        loop {
            let read = match file.read(&mut buffer).context(reading(from)) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) => {
                    left_out.note(Err(error));
                    return Ok(());
                }
            };
            // Holes stay holes: a stretch of zeros is not uploaded.
            if buffer[..read].iter().all(|byte| *byte == 0) {
                writer.skip(read as u64);
            } else {
                writer.write(&buffer[..read]).await.at(to)?;
            }
            bar.iter().for_each(|bar| bar.inc(read as u64));
        }
        bar.iter().for_each(indicatif::ProgressBar::finish_and_clear);
        writer.finish(caller(), attributes(metadata)).await.map(drop).at(to)
    }
}

/// What was being done when something local failed.
fn reading(what: &Path) -> String {
    format!("reading {}", shown(what))
}

fn is_special(kind: FileType) -> bool {
    kind.is_fifo() || kind.is_socket() || kind.is_block_device() || kind.is_char_device()
}

/// Mode and times of a local file.
fn attributes(metadata: &Metadata) -> SetAttributes {
    let time = |seconds, nanos: i64| Some(SetTime::At(Timestamp { seconds, nanos: nanos as u32 }));
    SetAttributes {
        mode: Some(metadata.mode() & 0o7777),
        atime: time(metadata.atime(), metadata.atime_nsec()),
        mtime: time(metadata.mtime(), metadata.mtime_nsec()),
        ..SetAttributes::default()
    }
}
