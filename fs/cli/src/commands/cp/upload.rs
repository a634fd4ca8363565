//! From the local disk into a bucket.

use super::{BUFFER, needs_recursive, shown, special};
use crate::error::{Context, Each, Outcome};
use crate::location::Remote;
use crate::output;
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
        let what = || format!("reading {}", shown(from));
        // A symbolic link that is named is followed, as cp does; below a directory it is copied.
        let metadata = fs::metadata(from).context(what())?;
        if !metadata.is_dir() {
            return self.file(from, &metadata, to, to.path.as_bytes()).await;
        }
        needs_recursive(self.recursive, &shown(from))?;
        // Directories get their times last, because what is put into them changes them.
        let mut directories = Vec::new();
        let mut ahead = vec![(from.to_owned(), to.path.clone().into_bytes(), metadata)];
        while let Some((local, path, metadata)) = ahead.pop() {
            self.directory(to, &path).await?;
            for entry in fs::read_dir(&local).context(format_args!("reading {}", shown(&local)))? {
                let entry = entry.context(format_args!("reading {}", shown(&local)))?;
                let metadata = entry.metadata().context(format_args!("reading {}", shown(&entry.path())))?;
                let below = super::super::ls::join(&path, entry.file_name().as_bytes());
                match metadata.file_type() {
                    kind if kind.is_dir() => ahead.push((entry.path(), below, metadata)),
                    kind if is_special(kind) => left_out.note(Err(special(shown(&entry.path())))),
                    _ => self.file(&entry.path(), &metadata, to, &below).await?,
                }
            }
            directories.push((path, metadata));
        }
        for (path, metadata) in directories.iter().rev() {
            self.session.paths.set_attributes(path, Last::Keep, attributes(metadata)).await.at(to)?;
        }
        Ok(())
    }

    async fn directory(&self, to: &Remote, path: &[u8]) -> Outcome {
        match self.session.paths.make_directory(path, 0o755).await {
            Err(error) if error.errno() == rustix::io::Errno::EXIST => Ok(()),
            made => made.map(drop).at(to),
        }
    }

    async fn file(&self, from: &Path, metadata: &Metadata, to: &Remote, path: &[u8]) -> Outcome {
        let kind = metadata.file_type();
        if kind.is_symlink() {
            let target = fs::read_link(from).context(format_args!("reading {}", shown(from)))?;
            let target = target.as_os_str().as_bytes();
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
            return self.session.paths.set_attributes(path, Last::Keep, times).await.map(drop).at(to);
        }
        if is_special(kind) {
            return Err(special(shown(from)));
        }
        self.content(from, metadata, to, path).await
    }

    async fn content(&self, from: &Path, metadata: &Metadata, to: &Remote, path: &[u8]) -> Outcome {
        let what = || format!("reading {}", shown(from));
        let mut file = File::open(from).context(what())?;
        let bar = (!self.quiet).then(|| output::transfer_bar(metadata.len(), &shown(from).to_string()));
        let mut writer = self.session.paths.write(path, metadata.mode() & 0o7777).await.at(to)?;
        let mut buffer = vec![0; BUFFER];
        loop {
            let read = file.read(&mut buffer).context(what())?;
            if read == 0 {
                break;
            }
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
