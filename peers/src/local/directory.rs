//! The data directory of a local network.
//!
//! ```text
//! network.json     {"version": 1, "nodes": …, "redundancy": …, "segment_size": …, "satellite_port": …}, written atomically
//! api-key          serialized API key without restrictions: what grants of this network hold
//! lock             locked by the one process that uses the directory
//! control          unix socket of that process
//! satellite/       identity and metabase
//! node-000/ …      identity and pieces
//! ```
//! The directory is 0700. `version` is the version of this layout.

use super::LocalError;
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use strewn_engine::grant::ApiKey;
use strewn_engine::redundancy::Redundancy;
use zeroize::Zeroizing;

/// Name of the log file that a network in the background may have in its directory.
pub const LOG: &str = "local.log";
/// Version of the layout.
const VERSION: u32 = 1;
const SETTINGS: &str = "network.json";
const LOCK: &str = "lock";
const API_KEY: &str = "api-key";
/// Longest settings file that is read, in bytes.
const MAX_SETTINGS: u64 = 64 * 1024;

/// What a local network keeps about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Settings {
    pub(super) version: u32,
    pub(super) nodes: usize,
    pub(super) redundancy: Redundancy,
    pub(super) segment_size: u64,
    /// The satellite's port: grants name it, so it must be the same after every start. 0 before the first.
    pub(super) satellite_port: u16,
}

impl Settings {
    pub(super) fn new(nodes: usize, redundancy: Redundancy, segment_size: u64) -> Self {
        Self { version: VERSION, nodes, redundancy, segment_size, satellite_port: 0 }
    }
}

/// A locked data directory.
pub(super) struct Directory {
    path: PathBuf,
    /// Unlocks when it is closed.
    _lock: File,
}

impl Directory {
    /// Makes the directory if need be and locks it.
    pub(super) fn open(path: &Path) -> Result<Self, LocalError> {
        let failed = |source| LocalError::Directory { path: path.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(failed)?;
        let mut options = OpenOptions::new();
        let lock = options.read(true).write(true).create(true).mode(0o600).truncate(false).open(path.join(LOCK));
        let lock = lock.map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(LocalError::InUse(path.to_owned())),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A subdirectory for one peer, made if need be.
    pub(super) fn peer(&self, name: &str) -> Result<PathBuf, LocalError> {
        let path = self.path.join(name);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.map_err(|source| LocalError::Directory { path: path.clone(), source })?;
        Ok(path)
    }

    /// The settings; `None` in a fresh directory. A directory that holds something else is refused.
    pub(super) fn settings(&self) -> Result<Option<Settings>, LocalError> {
        let path = self.path.join(SETTINGS);
        let failed = |source| LocalError::Directory { path: path.clone(), source };
        let text = match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.must_be_fresh().map(|()| None),
            Err(error) => return Err(failed(error)),
            Ok(metadata) if metadata.len() > MAX_SETTINGS => return Err(LocalError::NotANetwork(self.path.clone())),
            Ok(_) => fs::read_to_string(&path).map_err(failed)?,
        };
        parse(&text, &self.path).map(Some)
    }

    /// Replaces the settings, durably.
    pub(super) fn store(&self, settings: &Settings) -> Result<(), LocalError> {
        let mut text = serde_json::to_vec_pretty(settings).expect("plain values are JSON");
        text.push(b'\n');
        self.replace(SETTINGS, &text)
    }

    /// The API key, if one was made.
    pub(super) fn api_key(&self) -> Result<Option<ApiKey>, LocalError> {
        let path = self.path.join(API_KEY);
        match fs::read(&path) {
            Ok(bytes) => {
                let key = ApiKey::parse(&bytes).map_err(io::Error::other);
                key.map(Some).map_err(|source| LocalError::Directory { path, source })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(LocalError::Directory { path, source }),
        }
    }

    /// Keeps the API key, durably.
    pub(super) fn store_api_key(&self, key: &ApiKey) -> Result<(), LocalError> {
        self.replace(API_KEY, &Zeroizing::new(key.serialize()))
    }

    fn replace(&self, name: &str, content: &[u8]) -> Result<(), LocalError> {
        let (path, draft) = (self.path.join(name), self.path.join(format!("{name}.new")));
        let write = || {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
            file.write_all(content)?;
            file.sync_all()?;
            fs::rename(&draft, &path)?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(|source| LocalError::Directory { path: path.clone(), source })
    }

    /// A log may be there already: whoever starts a network in the background opens it first.
    fn must_be_fresh(&self) -> Result<(), LocalError> {
        let failed = |source| LocalError::Directory { path: self.path.clone(), source };
        for entry in fs::read_dir(&self.path).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            if name != LOCK && name != "network.json.new" && name != LOG {
                return Err(LocalError::NotANetwork(self.path.clone()));
            }
        }
        Ok(())
    }
}

fn parse(text: &str, path: &Path) -> Result<Settings, LocalError> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let not_a_network = |_| LocalError::NotANetwork(path.to_owned());
    let Versioned { version } = serde_json::from_str(text).map_err(not_a_network)?;
    if version != VERSION {
        return Err(LocalError::Version { path: path.to_owned(), found: version, known: VERSION });
    }
    let settings: Settings = serde_json::from_str(text).map_err(not_a_network)?;
    let valid = settings.redundancy.is_valid() && (1..=super::MAX_NODES).contains(&settings.nodes);
    valid.then_some(settings).ok_or_else(|| LocalError::NotANetwork(path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_per_directory_and_settings_survive() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("d");
        let first = Directory::open(&path).unwrap();
        assert!(matches!(Directory::open(&path), Err(LocalError::InUse(_))));
        assert_eq!(first.settings().unwrap(), None);
        let settings = Settings { satellite_port: 7, ..Settings::new(10, Redundancy::SMALL, 1 << 20) };
        first.store(&settings).unwrap();
        drop(first);
        assert_eq!(Directory::open(&path).unwrap().settings().unwrap(), Some(settings));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    }

    /// What version 1 wrote must stay readable; another version and other directories are told apart.
    #[test]
    fn reads_version_1_and_refuses_others() {
        let text = r#"{"version": 1, "nodes": 10, "segment_size": 67108864, "satellite_port": 4711, "redundancy":
            {"code": "ReedSolomonSimd", "required": 4, "repair": 6, "success": 8, "total": 10}}"#;
        let settings = parse(text, Path::new("d")).unwrap();
        assert_eq!(settings, Settings { satellite_port: 4711, ..Settings::new(10, Redundancy::SMALL, 64 << 20) });
        let newer = text.replacen('1', "2", 1);
        assert!(matches!(parse(&newer, Path::new("d")), Err(LocalError::Version { found: 2, .. })));
        for bad in ["", "{}", r#"{"version": 1}"#, &text.replace("\"nodes\": 10", "\"nodes\": 0")] {
            assert!(matches!(parse(bad, Path::new("d")), Err(LocalError::NotANetwork(_))), "{bad}");
        }
    }

    #[test]
    fn a_directory_with_other_things_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("thesis.tex"), "x").unwrap();
        let opened = Directory::open(directory.path()).unwrap();
        assert!(matches!(opened.settings(), Err(LocalError::NotANetwork(_))));
    }
}
