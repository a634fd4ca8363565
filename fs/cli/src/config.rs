//! Where the command line keeps things: named access grants, default cache directories, the register of live mounts.
//!
//! ```text
//! $STREWN_CONFIG_DIR or $XDG_CONFIG_HOME/strewn or ~/.config/strewn
//!     access/NAME        a grant (0600)
//!     default-access     name of the grant used when none is given
//! $XDG_CACHE_HOME/strewn or ~/.cache/strewn
//!     BUCKET-INODE/      cache of one mounted directory (0700)
//!     places/            what satellites said of mounted places, see `places`
//! $XDG_DATA_HOME/strewn or ~/.local/share/strewn
//!     local/             the local network
//! $STREWN_RUN_DIR or /run/strewn (root) or $XDG_RUNTIME_DIR/strewn or ~/.cache/strewn/run
//!     *.json             one file per live mount, see `register`
//! ```

use crate::error::{Context, Failure, Outcome};
use std::fs::{DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use strewn_engine::grant::AccessGrant;

/// Environment variable that moves the configuration directory.
pub(crate) const CONFIG_DIR: &str = "STREWN_CONFIG_DIR";

/// Environment variable that moves the register of live mounts.
const RUN_DIR: &str = "STREWN_RUN_DIR";

/// Largest grant file that is read, in bytes.
const MAX_GRANT: u64 = 1 << 20;

/// The configuration directory.
pub(crate) fn config_dir() -> Outcome<PathBuf> {
    if let Some(dir) = std::env::var_os(CONFIG_DIR) {
        return Ok(dir.into());
    }
    base("XDG_CONFIG_HOME", ".config")
}

/// The directory under which caches live by default.
pub(crate) fn cache_dir() -> Outcome<PathBuf> {
    base("XDG_CACHE_HOME", ".cache")
}

/// The directory under which local networks live by default.
pub(crate) fn data_dir() -> Outcome<PathBuf> {
    base("XDG_DATA_HOME", ".local/share")
}

/// `path` from the root directory on, so that it still holds in a process with another working directory.
pub(crate) fn absolute(path: &Path) -> Outcome<PathBuf> {
    std::path::absolute(path).context(format_args!("path {}", path.display()))
}

/// The directory of the register of live mounts.
pub(crate) fn run_dir() -> Outcome<PathBuf> {
    if let Some(dir) = std::env::var_os(RUN_DIR) {
        return Ok(dir.into());
    }
    // Not by XDG_RUNTIME_DIR, which a login of root has and sudo, mount(8) and umount(8) have not.
    if rustix::process::geteuid().is_root() {
        return Ok("/run/strewn".into());
    }
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(dir) => Ok(PathBuf::from(dir).join("strewn")),
        None => Ok(cache_dir()?.join("run")),
    }
}

fn base(variable: &str, under_home: &str) -> Outcome<PathBuf> {
    if let Some(dir) = std::env::var_os(variable).filter(|dir| !dir.is_empty()) {
        return Ok(PathBuf::from(dir).join("strewn"));
    }
    let home = std::env::home_dir().ok_or_else(|| Failure::new("no home directory: HOME is not set"))?;
    Ok(home.join(under_home).join("strewn"))
}

/// Creates a directory that only its owner may enter, with its parents. Names are durable before anything is put below them.
pub(crate) fn private_dir(path: &Path) -> Outcome {
    if path.is_dir() {
        return Ok(());
    }
    let parent = parent_of(path);
    private_dir(parent)?;
    let made = match DirBuilder::new().mode(0o700).create(path) {
        // Another process was faster.
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(error),
        Ok(()) => std::fs::File::open(parent).and_then(|parent| parent.sync_all()),
    };
    made.context(format_args!("creating {}", path.display()))
}

/// The directory that a path is in.
fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Writes a file that only its owner may read, all or nothing.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> Outcome {
    let what = format!("writing {}", path.display());
    let temporary = path.with_extension(format!("tmp-{}", std::process::id()));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        std::fs::File::open(parent_of(path))?.sync_all()
    })();
    written.inspect_err(|_| drop(std::fs::remove_file(&temporary))).context(what)
}

/// Names of the saved grants, sorted.
pub(crate) fn access_names() -> Outcome<Vec<String>> {
    let dir = config_dir()?.join("access");
    let entries = match std::fs::read_dir(&dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.context(format_args!("reading {}", dir.display()))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.context(format_args!("reading {}", dir.display()))?.file_name();
        names.extend(name.into_string().ok().filter(|name| is_access_name(name)));
    }
    names.sort();
    Ok(names)
}

/// True for what may name a grant: 1..=64 of letters, digits, `-`, `_` and `.`, not starting with a dot.
pub(crate) fn is_access_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// Where a grant of that name is kept.
pub(crate) fn access_path(name: &str) -> Outcome<PathBuf> {
    if !is_access_name(name) {
        return Err(Failure::usage(format!("{name:?} cannot name a grant: use letters, digits, '-', '_' and '.'")));
    }
    Ok(config_dir()?.join("access").join(name))
}

/// Name of the default grant, if one was chosen with `strewn access use`.
pub(crate) fn default_access() -> Outcome<Option<String>> {
    let path = config_dir()?.join("default-access");
    match std::fs::read_to_string(&path) {
        Ok(name) => Ok(Some(name.trim().to_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context(format_args!("reading {}", path.display())),
    }
}

/// Reads the grant that `access` names: a file if there is one, else a saved grant; `None`: the default one.
pub(crate) fn load_access(access: Option<&str>) -> Outcome<AccessGrant> {
    let chosen = match access {
        Some(access) => access.to_owned(),
        None => default_access()?.ok_or_else(|| {
            Failure::usage("no access grant given")
                .hint("pass --access NAME|FILE, set STREWN_ACCESS, or choose a default with 'strewn access use NAME'")
        })?,
    };
    let file = PathBuf::from(&chosen);
    let path = if file.is_file() { file } else { access_file(&chosen)? };
    let text = read_limited(&path)?;
    AccessGrant::parse(text.trim()).context(format_args!("access grant in {}", path.display()))
}

fn access_file(name: &str) -> Outcome<PathBuf> {
    // What cannot be a name was meant as a file.
    if is_access_name(name) {
        let path = access_path(name)?;
        if path.is_file() {
            return Ok(path);
        }
    }
    Err(Failure::new(format!("there is no access grant {name:?}, neither a file nor a saved one"))
        .hint("'strewn access list' shows the saved grants"))
}

fn read_limited(path: &Path) -> Outcome<String> {
    use std::io::Read;
    let what = format!("reading {}", path.display());
    let mut text = String::new();
    std::fs::File::open(path).and_then(|file| file.take(MAX_GRANT).read_to_string(&mut text)).context(what)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn grant_names_cannot_leave_the_directory() {
        assert!(is_access_name("work-2.old"));
        for bad in ["", ".hidden", "a/b", "..", "a b", &"x".repeat(65)] {
            assert!(!is_access_name(bad), "{bad}");
        }
    }

    #[test]
    fn private_files_are_private_and_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("grant");
        write_private(&path, b"one").unwrap();
        write_private(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file stays");
    }
}
