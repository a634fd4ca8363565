//! Networks, drives and commands for the tests.

use std::borrow::BorrowMut;
use std::ffi::OsStr;
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// A network with a drive mounted from it. Dropping it takes both down.
pub(crate) struct Drive {
    dir: TempDir,
    mountpoint: PathBuf,
    up_arguments: Vec<String>,
    /// `local up` mounts the drive.
    mounted: bool,
}

impl Drive {
    /// A network of ten nodes at 4/6/8/10 with small segments, so that a few megabytes make many, and its drive.
    pub(crate) fn up() -> Self {
        Self::up_with(&["--segment-size", "1M"])
    }

    /// A network with further arguments for `local up`, and its drive.
    pub(crate) fn up_with(arguments: &[&str]) -> Self {
        Self::new(arguments, true)
    }

    /// A network like that of [`up`](Self::up) without a drive: what is mounted, and how, is the test's affair. The mount
    /// outlives the network.
    pub(crate) fn network() -> Self {
        Self::network_with(&["--segment-size", "1M"])
    }

    /// The same with further arguments for `local up`.
    pub(crate) fn network_with(arguments: &[&str]) -> Self {
        Self::new(arguments, false)
    }

    fn new(arguments: &[&str], mounted: bool) -> Self {
        let dir = tempfile::Builder::new().prefix("strewn-test-").tempdir().expect("a temporary directory");
        let mountpoint = dir.path().join("mnt");
        let up_arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let drive = Self { dir, mountpoint, up_arguments, mounted };
        drive.start();
        drive
    }

    /// Brings network and drive up (again).
    pub(crate) fn start(&self) {
        let mut command = self.strewn(["local", "up", "--detach", "--data"]);
        command.arg(self.data()).args(&self.up_arguments);
        let ready = match self.mounted {
            true => self.mountpoint.clone(),
            false => self.data(),
        };
        if self.mounted {
            command.arg(&self.mountpoint);
        }
        assert_eq!(run(&mut command).trim(), format!("ready {}", ready.display()));
    }

    /// Uploads what is pending, unmounts, stops the network.
    pub(crate) fn stop(&self) {
        run(self.strewn(["local", "down", "--data"]).arg(self.data()));
    }

    /// The mounted directory.
    pub(crate) fn path(&self) -> &Path {
        &self.mountpoint
    }

    /// A place beside the drive on the local disk.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The data directory of the network.
    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// The cache directory of the drive that `local up` mounts.
    pub(crate) fn cache(&self) -> PathBuf {
        self.data().join("cache")
    }

    /// The grant of the bucket `drive`.
    pub(crate) fn access(&self) -> PathBuf {
        self.data().join("access")
    }

    /// A command of the binary under test, with its configuration kept inside this test.
    pub(crate) fn strewn<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = program(Path::new(env!("CARGO_BIN_EXE_strewn")), self.dir.path());
        command.args(arguments).env("STREWN_ACCESS", self.access());
        command
    }

    /// The same for the binary under another name.
    pub(crate) fn helper(&self, path: &Path) -> Command {
        program(path, self.dir.path())
    }

    /// `strewn sync` of the drive.
    pub(crate) fn sync(&self) {
        // A busy machine may be slow to send anything.
        run(self.strewn(["sync", "--timeout", "5m"]).arg(&self.mountpoint));
    }

    /// Does something to a node.
    pub(crate) fn node(&self, number: usize, action: &[&str]) {
        let number = number.to_string();
        let arguments = ["local", "node", &number].into_iter().chain(action.iter().copied());
        run(self.strewn(arguments).arg("--data").arg(self.data()));
    }

    /// Process that serves the drive.
    pub(crate) fn mount_pid(&self) -> u32 {
        let status: serde_json::Value = self.status();
        status["pid"].as_u64().expect("a process id") as u32
    }

    /// `strewn status --json` of the drive.
    pub(crate) fn status(&self) -> serde_json::Value {
        let text = run(self.strewn(["status", "--json"]).arg(&self.mountpoint));
        serde_json::from_str(&text).expect("status prints JSON")
    }

    /// Mounts with `strewn mount --detach` on another mountpoint, which is made.
    pub(crate) fn mount(&self, source: &str, mountpoint: &Path, access: &Path, cache: &Path) {
        std::fs::create_dir_all(mountpoint).expect("a mountpoint");
        let mut command = self.strewn(["mount", source]);
        command.arg(mountpoint).arg("--access").arg(access).arg("--cache-dir").arg(cache).arg("--detach");
        run(&mut command);
    }

    /// Mounts the drive of a [`network`](Self::network), with further arguments.
    #[track_caller]
    pub(crate) fn mount_drive(&self, arguments: &[&str]) {
        if !is_mounted(&self.mountpoint) {
            std::fs::create_dir_all(&self.mountpoint).expect("a mountpoint");
        }
        let mut mount = self.strewn(["mount", "drive", "--detach", "--cache-dir"]);
        run(mount.arg(self.beside("cache")).arg(&self.mountpoint).args(arguments));
    }

    /// Kills the network: satellite and nodes are away, as when a cable is pulled. [`start`](Self::start) brings it back.
    pub(crate) fn kill_network(&self) {
        let status = run(self.strewn(["local", "status", "--json", "--data"]).arg(self.data()));
        let status: serde_json::Value = serde_json::from_str(&status).expect("status prints JSON");
        kill(status["pid"].as_u64().expect("a process id") as u32);
    }

    /// Kills the process that serves the drive and takes the dead mount away.
    pub(crate) fn kill_mount(&self) {
        kill(self.mount_pid());
        run(Command::new("umount").arg("-l").arg(&self.mountpoint));
    }
}

impl Drop for Drive {
    fn drop(&mut self) {
        // A failed test must not leave a network behind; what fails here has been reported where it mattered. A process that
        // serves a mount is waited for, or it would write into what is being removed.
        for mountpoint in mounted_below(self.dir.path()) {
            if !self.mounted || Path::new(&mountpoint) != self.mountpoint {
                drop(self.strewn(["umount", "--no-wait"]).arg(mountpoint).output());
            }
        }
        drop(self.strewn(["local", "down", "--no-wait", "--data"]).arg(self.data()).output());
        unmount_below(self.dir.path());
    }
}

/// Kills a process and waits until it is gone.
#[track_caller]
pub(crate) fn kill(process: u32) {
    let pid = rustix::process::Pid::from_raw(process as i32).expect("a process id");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it can be killed");
    wait_until("the killed process is gone", || !Path::new(&format!("/proc/{process}/root/.")).exists());
}

/// A command of the binary at `path`, with its configuration kept below `home`.
pub(crate) fn program(path: &Path, home: &Path) -> Command {
    let mut command = Command::new(path);
    command
        .env("STREWN_RUN_DIR", home.join("run"))
        .env("XDG_CACHE_HOME", home.join("cache"))
        .env("STREWN_CONFIG_DIR", home.join("config"))
        .env_remove("STREWN_PASSPHRASE")
        .env_remove("STREWN_ACCESS")
        .stdin(Stdio::null());
    command
}

/// Takes away what is mounted below a directory, whatever state it is in.
pub(crate) fn unmount_below(directory: &Path) {
    for mountpoint in mounted_below(directory) {
        drop(Command::new("umount").args(["-l", &mountpoint]).output());
    }
}

/// Where something is mounted below a directory.
fn mounted_below(directory: &Path) -> Vec<String> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    places.filter(|at| Path::new(at).starts_with(directory)).map(str::to_owned).collect()
}

/// True if something is mounted there.
pub(crate) fn is_mounted(mountpoint: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("/proc");
    mounts.lines().any(|line| line.split(' ').nth(1) == mountpoint.to_str())
}

/// Runs a command that must succeed; gives what it printed.
#[track_caller]
pub(crate) fn run(mut command: impl BorrowMut<Command>) -> String {
    let command = command.borrow_mut();
    let output = output(&mut *command);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// Runs a command that must fail; gives what it printed on standard error.
#[track_caller]
pub(crate) fn fail(mut command: impl BorrowMut<Command>) -> String {
    let command = command.borrow_mut();
    let output = output(&mut *command);
    assert!(!output.status.success(), "{command:?} should have failed: {}", text(&output.stdout));
    text(&output.stderr)
}

/// Runs a command to its end.
#[track_caller]
pub(crate) fn output(mut command: impl BorrowMut<Command>) -> Output {
    let command = command.borrow_mut();
    command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Runs a line of shell in a directory; it must succeed.
#[track_caller]
pub(crate) fn sh(dir: &Path, line: &str) -> String {
    run(Command::new("bash").args(["-euo", "pipefail", "-c", line]).current_dir(dir).env("LC_ALL", "C"))
}

/// What differs between two trees, as rsync tells it: bytes, modes, owners, times, links and extended attributes.
#[track_caller]
pub(crate) fn differences(left: &Path, right: &Path) -> String {
    let slash = |path: &Path| format!("{}/", path.display());
    let mut rsync = Command::new("rsync");
    run(rsync.args(["-aHXnc", "--delete", "--itemize-changes"]).arg(slash(left)).arg(slash(right)))
}

/// Nothing differs between two trees.
#[track_caller]
pub(crate) fn assert_same_tree(left: &Path, right: &Path) {
    let differences = differences(left, right);
    assert!(differences.is_empty(), "{} and {} differ:\n{differences}", left.display(), right.display());
}

/// Waits for something that happens soon.
#[track_caller]
pub(crate) fn wait_until(what: impl Debug, condition: impl Fn() -> bool) {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !condition() {
        assert!(std::time::Instant::now() < end, "never: {what:?}");
        std::thread::park_timeout(std::time::Duration::from_millis(5));
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
