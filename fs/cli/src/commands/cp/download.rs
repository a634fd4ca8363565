//! From a bucket onto the local disk.

use super::{needs_recursive, shown, special};
use crate::error::{Context, Each, Outcome};
use crate::location::Remote;
use crate::output::{self, waiting};
use crate::session::{At, Session};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, FileTimes, OpenOptions, Permissions};
use std::io::{ErrorKind, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use strewn_engine::bucket::{Kind, Timestamp};
use strewn_fs::volume::Stat;
use strewn_fs::volume::path::Last;

pub(super) struct Download<'a> {
    pub(super) session: &'a Session,
    pub(super) recursive: bool,
    pub(super) quiet: bool,
}

impl Download<'_> {
    /// Notes what of a directory cannot be copied, and copies the rest.
    pub(super) async fn copy(&self, from: &Remote, to: &Path, left_out: &mut Each) -> Outcome {
        let stat = self.session.paths.stat(from.path.as_bytes(), Last::Follow).await.at(from)?;
        if stat.attributes.kind != Kind::Directory {
            return self.file(from, from.path.as_bytes(), &stat, to).await;
        }
        needs_recursive(self.recursive, from)?;
        let mut directories = Vec::new();
        let mut ahead = vec![(from.path.clone().into_bytes(), to.to_owned(), stat)];
        while let Some((path, local, stat)) = ahead.pop() {
            // Only the owner may enter while it fills, so that nobody reads what its mode will forbid.
            match DirBuilder::new().mode(0o700).create(&local) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists && local.is_dir() => {}
                made => made.context(format_args!("creating {}", shown(&local)))?,
            }
            let mut listing = self.session.paths.list(&path).await.at(from)?;
            while let Some((name, stat)) = listing.next().await.at(from)? {
                let (below, inside) = (super::super::ls::join(&path, &name), local.join(OsStr::from_bytes(&name)));
                match stat.attributes.kind {
                    Kind::Directory => ahead.push((below, inside, stat)),
                    Kind::File | Kind::Symlink => self.file(from, &below, &stat, &inside).await?,
                    _ => left_out.note(Err(special(String::from_utf8_lossy(&below)))),
                }
            }
            directories.push((local, stat));
        }
        for (local, stat) in directories.iter().rev() {
            let what = || format!("setting the attributes of {}", shown(local));
            File::open(local).and_then(|directory| directory.set_times(times(stat))).context(what())?;
            fs::set_permissions(local, Permissions::from_mode(stat.attributes.mode)).context(what())?;
        }
        Ok(())
    }

    async fn file(&self, from: &Remote, path: &[u8], stat: &Stat, to: &Path) -> Outcome {
        match stat.attributes.kind {
            Kind::File => self.content(from, path, stat, to).await,
            Kind::Symlink => {
                let what = || format!("creating {}", shown(to));
                let make = || symlink(OsStr::from_bytes(&stat.attributes.target), to);
                match make() {
                    // As every other file: replaced.
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                        fs::remove_file(to).and_then(|()| make()).context(what())?;
                    }
                    made => made.context(what())?,
                }
                utimensat(CWD, to, &timestamps(stat), AtFlags::SYMLINK_NOFOLLOW).context(what())
            }
            _ => Err(special(String::from_utf8_lossy(path))),
        }
    }

    /// A file comes to its name when all of it is there: what was there before stays until then.
    async fn content(&self, from: &Remote, path: &[u8], stat: &Stat, to: &Path) -> Outcome {
        let what = || format!("writing {}", shown(to));
        // Through a symbolic link; devices and pipes are written to.
        let to = &fs::canonicalize(to).unwrap_or_else(|_| to.to_owned());
        if fs::metadata(to).is_ok_and(|there| !there.is_file()) {
            return self.stream(from, path, to).await;
        }
        let directory = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let partial = tempfile::Builder::new().prefix(".strewn-").suffix(".partial").tempfile_in(directory);
        let mut partial = partial.context(what())?;
        self.fill(from, path, stat, partial.as_file_mut(), to).await?;
        partial.persist(to).map(drop).context(what())
    }

    /// Bytes in order.
    async fn stream(&self, from: &Remote, path: &[u8], to: &Path) -> Outcome {
        let what = || format!("writing {}", shown(to));
        let mut reader = self.session.paths.read(path).await.at(from)?;
        let device = to.to_owned();
        let mut file = waiting(move || OpenOptions::new().write(true).open(device)).await.context(what())?;
        while let Some(bytes) = reader.next().await.at(from)? {
            file = waiting(move || file.write_all(&bytes).map(|()| file)).await.context(what())?;
        }
        Ok(())
    }

    /// A new file, with mode and times.
    async fn fill(&self, from: &Remote, path: &[u8], stat: &Stat, file: &mut File, to: &Path) -> Outcome {
        let what = || format!("writing {}", shown(to));
        let mut reader = self.session.paths.read(path).await.at(from)?;
        let bar = (!self.quiet).then(|| output::transfer_bar(stat.attributes.size, &String::from_utf8_lossy(path)));
        let mut size = 0;
        while let Some(bytes) = reader.next().await.at(from)? {
            // Holes come back as holes.
            if bytes.iter().all(|byte| *byte == 0) {
                file.seek(SeekFrom::Current(bytes.len() as i64)).context(what())?;
            } else {
                file.write_all(&bytes).context(what())?;
            }
            size += bytes.len() as u64;
            bar.iter().for_each(|bar| bar.inc(bytes.len() as u64));
        }
        file.set_len(size).context(what())?;
        file.set_permissions(Permissions::from_mode(stat.attributes.mode)).context(what())?;
        file.set_times(times(stat)).context(what())?;
        bar.iter().for_each(indicatif::ProgressBar::finish_and_clear);
        Ok(())
    }
}

/// Times of a symbolic link, which the standard library cannot set.
fn timestamps(stat: &Stat) -> Timestamps {
    let time = |at: Timestamp| Timespec { tv_sec: at.seconds, tv_nsec: at.nanos.into() };
    Timestamps { last_access: time(stat.attributes.atime), last_modification: time(stat.attributes.mtime) }
}

fn times(stat: &Stat) -> FileTimes {
    FileTimes::new().set_accessed(system_time(stat.attributes.atime)).set_modified(system_time(stat.attributes.mtime))
}

/// A time as the standard library has it; the beginning of 1970 for one that it cannot hold.
fn system_time(at: Timestamp) -> SystemTime {
    let nanos = Duration::from_nanos(at.nanos.into());
    let whole = match u64::try_from(at.seconds) {
        Ok(seconds) => UNIX_EPOCH.checked_add(Duration::from_secs(seconds)),
        Err(_) => UNIX_EPOCH.checked_sub(Duration::from_secs(at.seconds.unsigned_abs())),
    };
    whole.and_then(|whole| whole.checked_add(nanos)).unwrap_or(UNIX_EPOCH)
}
