//! The register of live mounts: how another process finds the one that serves a mountpoint.
//!
//! One JSON file per mount, named by a hash of the mountpoint, in a directory only its owner may enter. A file whose process is
//! gone is removed when it is met; it proves nothing about the mountpoint.

use crate::config;
use crate::error::{Context, Failure, Outcome};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mount {
    /// Where it is mounted: absolute, without symbolic links.
    pub(crate) mountpoint: PathBuf,
    /// `strewn://BUCKET/PATH`.
    pub(crate) source: String,
    /// The process that serves it.
    pub(crate) pid: u32,
    /// Its control socket.
    pub(crate) socket: PathBuf,
    /// Its cache directory.
    pub(crate) cache: PathBuf,
}

/// Removes the file of a mount when its process ends in order.
pub(crate) struct Registration(PathBuf);

impl Drop for Registration {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.0));
    }
}

/// Enters a mount.
pub(crate) fn enter(mount: &Mount) -> Outcome<Registration> {
    let dir = config::run_dir()?;
    config::private_dir(&dir)?;
    let path = dir.join(file_name(&mount.mountpoint));
    let text = serde_json::to_vec_pretty(mount).context("describing the mount")?;
    config::write_private(&path, &text)?;
    Ok(Registration(path))
}

/// All live mounts of this user, by mountpoint.
pub(crate) fn all() -> Outcome<Vec<Mount>> {
    let dir = config::run_dir()?;
    let entries = match std::fs::read_dir(&dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.context(format_args!("reading {}", dir.display()))?,
    };
    let mut mounts = Vec::new();
    for entry in entries.flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        match read(&path) {
            Some(mount) if is_alive(&mount) => mounts.push(mount),
            Some(_) => drop(std::fs::remove_file(&path)),
            None => {}
        }
    }
    mounts.sort_by(|a, b| a.mountpoint.cmp(&b.mountpoint));
    Ok(mounts)
}

/// The mount that serves `path`: the one with the longest mountpoint above it. Does not touch the mount itself, which may
/// hang.
pub(crate) fn serving(path: &Path) -> Outcome<Mount> {
    let path = config::absolute(path)?;
    let mounts = all()?;
    let direct = mounts.iter().filter(|mount| path.starts_with(&mount.mountpoint));
    if let Some(mount) = direct.max_by_key(|mount| mount.mountpoint.as_os_str().len()) {
        return Ok(mount.clone());
    }
    // Symbolic links above the mountpoint: resolving the parent does not ask the mount.
    let resolved = resolve_parent(&path);
    let found = mounts.iter().filter(|mount| resolved.starts_with(&mount.mountpoint));
    found.max_by_key(|mount| mount.mountpoint.as_os_str().len()).cloned().ok_or_else(|| {
        Failure::new(format!("{} is not on a drive mounted by this user", path.display()))
            .hint("'strewn status' lists the mounted drives")
    })
}

/// `path` with the symbolic links of its parent resolved; itself if they cannot be.
pub(crate) fn resolve_parent(path: &Path) -> PathBuf {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return path.to_owned() };
    parent.canonicalize().map(|parent| parent.join(name)).unwrap_or_else(|_| path.to_owned())
}

fn file_name(mountpoint: &Path) -> String {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    mountpoint.hash(&mut hasher);
    format!("{:016x}.json", hasher.finish())
}

fn read(path: &Path) -> Option<Mount> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// True while the process exists and listens.
fn is_alive(mount: &Mount) -> bool {
    std::os::unix::net::UnixStream::connect(&mount.socket).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_mountpoints_have_different_files() {
        assert_ne!(file_name(Path::new("/a")), file_name(Path::new("/b")));
        assert_eq!(file_name(Path::new("/a")), file_name(Path::new("/a")));
    }
}
