//! `strewn mount`: the process that serves a drive.

use super::AccessArg;
use crate::control::socket_path;
use crate::error::{Context, Failure, Outcome};
use crate::location::Remote;
use crate::mounted::{self, MountPlan};
use crate::{config, detach, heap, output, register, remote};
use std::path::{Path, PathBuf};
use std::time::Duration;
use strewn_fs::mount::MountOptions;
use strewn_fs::volume::{AccessTimes, Noted, Promises, Reach};

/// Mount a bucket, or a directory of one, as a drive
///
/// Runs in the foreground until it is unmounted or interrupted (SIGINT, SIGTERM, SIGHUP); both upload what is pending
/// first. When the network is away for too long then, or at a second interrupt, the mount ends with an error that says what
/// is pending: it stays in the cache and goes up at the next mount with the same cache directory.
#[derive(Debug, clap::Args)]
pub(crate) struct Mount {
    /// The bucket and, if wanted, a directory in it
    #[arg(value_name = "BUCKET[/PATH]")]
    source: Remote,
    /// An existing empty directory
    mountpoint: PathBuf,
    #[command(flatten)]
    access: AccessArg,
    /// Where the cache lives; one mount per cache directory [default: ~/.cache/strewn/BUCKET-INODE]
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// Return once the drive is usable and go on in the background
    #[arg(long)]
    detach: bool,
    /// Do not say when the drive is usable, as mount(8) does not
    #[arg(long, short)]
    quiet: bool,
    /// Write the process id of the mount into this file once the drive is usable
    #[arg(long, value_name = "FILE")]
    pidfile: Option<PathBuf>,
    /// Take no changes
    #[arg(long)]
    read_only: bool,
    /// Where bytes have to be when fsync, fdatasync, msync or a write with O_SYNC returns: on the disk of this machine, or on
    /// the network too (EIO when it is away; the bytes stay queued)
    #[arg(long, value_name = "REACH", default_value = "local")]
    sync: ReachArg,
    /// The same for close [default: local, which is what a write promises]
    #[arg(long, value_name = "REACH", default_value = "local", hide_default_value = true)]
    close: ReachArg,
    /// How long changes rest before they go up; when changes do not end, the oldest waits ten times as long [default: 700ms, and 10s]
    #[arg(long, value_name = "DURATION", value_parser = output::parse_duration)]
    upload_delay: Option<Duration>,
    /// Most bytes of the cache on disk, at least 256M [default: 10G]
    #[arg(long, value_name = "SIZE", value_parser = cache_size)]
    cache_size: Option<u64>,
    /// Memory for what is known of names and attributes, at least 1M; what is open or changed is kept beyond it [default: 128M]
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    memory: Option<u64>,
    /// Keep nothing readable in the cache directory. It is slower, and a restarted mount fetches again what the network has. A
    /// cache that was first used without this cannot be used with it before it was emptied, nor the other way round
    #[arg(long)]
    encrypt_cache: bool,
    /// When the mount is to end: give up when the network takes nothing for so long [default: the deadline]
    #[arg(long, value_name = "DURATION", value_parser = output::parse_duration)]
    drain_timeout: Option<Duration>,
    /// Options, separated by commas: ro, rw, allow_other, noexec, noatime, nodiratime, strictatime, nonempty, allow_suid, allow_dev
    /// (set-user-ID programs and device files work: give them only where you trust who writes to the bucket), encrypt-cache,
    /// nopolling (saves processors while requests come in quick succession, for less speed),
    /// nopassthrough (reads large files that are in the cache through the mount, too), uid=ID, gid=ID,
    /// umask=OCTAL (owners and permissions as this mount shows them, whatever is kept),
    /// access=NAME, cache-dir=DIR, pidfile=FILE, deadline=SECONDS (of a request that waits for the network), and
    /// sync=REACH, close=REACH, upload-delay=DURATION, cache-size=SIZE, memory=SIZE, drain-timeout=DURATION as above
    #[arg(short = 'o', value_name = "OPTIONS", value_delimiter = ',')]
    options: Vec<String>,
}

/// `local` or `network`.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum ReachArg {
    /// The disk of this machine
    Local,
    /// The network too
    Network,
}

impl ReachArg {
    fn parse(name: &str, value: &str) -> Outcome<Self> {
        let wrong = |_| Failure::usage(format!("{name}={value}: write {name}=local or {name}=network"));
        clap::ValueEnum::from_str(value, false).map_err(wrong)
    }

    fn reach(self) -> Reach {
        match self {
            Self::Local => Reach::Machine,
            Self::Network => Reach::Network,
        }
    }
}

/// Smallest cache budget that is accepted: a full segment sealed beside its plaintext, and the journal.
const MIN_CACHE: u64 = 256 << 20;
/// Enough for some hundred inodes.
const MIN_MEMORY: u64 = 1 << 20;

impl Mount {
    pub(crate) async fn run(mut self) -> Outcome {
        heap::unite();
        let mut plan = MountPlan::default();
        for option in std::mem::take(&mut self.options) {
            self.apply(&option, &mut plan)?;
        }
        if let Some(dir) = &self.cache_dir {
            self.cache_dir = Some(config::absolute(dir)?);
        }
        if self.detach && !detach::is_detached() {
            let ready = detach::respawn(&self.log_file()?)?;
            return if self.quiet { Ok(()) } else { output::line(ready) };
        }
        let mountpoint = self.checked_mountpoint(plan.nonempty)?;
        let grant = config::load_access(self.access.access.as_deref())?;
        let opened = remote::open_or_recall(&grant, &self.source).await?;
        let cache = match self.cache_dir {
            Some(dir) => dir,
            None => config::cache_dir()?.join(format!("{}-{}", opened.bucket, opened.root.inode)),
        };
        config::private_dir(&cache)?;
        let socket = socket_path(&cache)?;
        let mount =
            register::Mount { mountpoint, source: self.source.to_string(), pid: std::process::id(), socket, cache };
        plan.quiet = self.quiet && !detach::is_detached();
        plan.pidfile = self.pidfile;
        plan.drain_timeout = self.drain_timeout;
        plan.read_only = self.read_only;
        plan.encrypt_cache = self.encrypt_cache;
        plan.cache_size = self.cache_size;
        plan.memory = self.memory;
        plan.upload_delay = self.upload_delay;
        plan.promises = Promises { fsync: self.sync.reach(), close: self.close.reach() };
        mounted::serve(mount, opened, plan).await
    }

    fn apply(&mut self, option: &str, plan: &mut MountPlan) -> Outcome {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        let need = || Failure::usage(format!("-o {name} needs a value"));
        match name {
            "" | "rw" | "defaults" | "_netdev" | "auto" | "noauto" | "nofail" => {}
            "user" | "users" | "nouser" | "nousers" | "owner" | "noowner" | "group" | "nogroup" => {}
            "ro" => self.read_only = true,
            "encrypt-cache" => self.encrypt_cache = true,
            "sync" => self.sync = ReachArg::parse(name, value)?,
            "close" => self.close = ReachArg::parse(name, value)?,
            "upload-delay" => self.upload_delay = Some(output::parse_duration(value).map_err(Failure::usage)?),
            "allow_other" => plan.allow_other = true,
            "noexec" => plan.noexec = true,
            "noatime" => plan.access_times = AccessTimes { files: Noted::Never, directories: Noted::Never },
            "nodiratime" => plan.access_times.directories = Noted::Never,
            "strictatime" => plan.access_times = AccessTimes { files: Noted::Always, directories: Noted::Always },
            "atime" | "diratime" | "relatime" | "norelatime" | "nostrictatime" => {}
            "nonempty" => plan.nonempty = true,
            "nopolling" => plan.nopolling = true,
            "nopassthrough" => plan.nopassthrough = true,
            // mount(8) keeps "suid" and "dev" to itself, since they are what it begins with.
            "suid" | "allow_suid" => drop(plan.suid.get_or_insert(true)),
            "dev" | "allow_dev" => drop(plan.dev.get_or_insert(true)),
            // Whoever forbids it has the last word, wherever it stands.
            "nosuid" => plan.suid = Some(false),
            "nodev" => plan.dev = Some(false),
            "exec" => {}
            // What is said of all file systems, and true of this one or of no concern to it.
            "async" | "lazytime" | "nolazytime" | "silent" | "loud" | "iversion" | "noiversion" | "mand" | "nomand" => {
            }
            "remount" => {
                return Err(Failure::usage("a drive cannot be remounted with other options")
                    .hint("unmount it and mount it anew, or for ro, rw and the like: mount -o remount,ro DIR"));
            }
            "access" if value.is_empty() => return Err(need()),
            "access" => self.access.access = Some(value.to_owned()),
            "cache-dir" if value.is_empty() => return Err(need()),
            "cache-dir" => self.cache_dir = Some(value.into()),
            "pidfile" if value.is_empty() => return Err(need()),
            "pidfile" => self.pidfile = Some(value.into()),
            "cache-size" => self.cache_size = Some(cache_size(value).map_err(Failure::usage)?),
            "memory" => self.memory = Some(memory(value).map_err(Failure::usage)?),
            "drain-timeout" => self.drain_timeout = Some(output::parse_duration(value).map_err(Failure::usage)?),
            "uid" => plan.shown.uid = Some(id(name, value)?),
            "gid" => plan.shown.gid = Some(id(name, value)?),
            "umask" => plan.shown.umask = umask(value)?,
            "deadline" => plan.deadline = Some(deadline(value)?),
            // mount(8) hands over x-* options of others (x-systemd.…): they are comments to us.
            _ if name.starts_with("x-") => {}
            _ => {
                return Err(
                    Failure::usage(format!("unknown mount option {option:?}")).hint("see 'strewn mount --help'")
                );
            }
        }
        Ok(())
    }

    /// Where the background process logs: beside the cache if it is known, else in the cache root.
    fn log_file(&self) -> Outcome<PathBuf> {
        match &self.cache_dir {
            Some(dir) => Ok(dir.join("mount.log")),
            None => Ok(config::cache_dir()?.join("mount.log")),
        }
    }

    /// The mountpoint as the kernel will name it. A stale mount of ours is taken away first: its process is gone.
    fn checked_mountpoint(&self, nonempty: bool) -> Outcome<PathBuf> {
        clean_stale(&self.mountpoint)?;
        strewn_fs::mount::check(&self.mountpoint, &MountOptions { nonempty, ..MountOptions::default() })
            .context("cannot mount")
    }
}

/// Takes away what a crashed mount left at `mountpoint`, so that everything below sees a plain directory.
pub(crate) fn clean_stale(mountpoint: &Path) -> Outcome {
    // What is not there, or cannot be looked at, is refused by the mount itself, with its reason.
    if matches!(strewn_fs::mount::clean_stale(mountpoint), Ok(true)) {
        output::say(format_args!("removed the stale mount that a crash left at {}", mountpoint.display()));
    }
    Ok(())
}

fn cache_size(text: &str) -> Result<u64, String> {
    at_least(MIN_CACHE, text, || format!("a cache of {text} is too small"))
}

fn memory(text: &str) -> Result<u64, String> {
    at_least(MIN_MEMORY, text, || format!("{text} of memory are too little"))
}

fn at_least(least: u64, text: &str, too_small: impl FnOnce() -> String) -> Result<u64, String> {
    match output::parse_size(text)? {
        size if size < least => Err(format!("{}: at least {}", too_small(), output::bytes(least))),
        size => Ok(size),
    }
}

fn id(name: &str, text: &str) -> Outcome<u32> {
    match text.parse() {
        Ok(id) if id != u32::MAX => Ok(id),
        _ => Err(Failure::usage(format!("{name}={text} is no numeric id"))),
    }
}

fn umask(text: &str) -> Outcome<u32> {
    match u32::from_str_radix(text, 8) {
        Ok(mask) if mask <= 0o777 => Ok(mask),
        _ => Err(Failure::usage(format!("umask={text} is no octal number up to 777"))),
    }
}

fn deadline(text: &str) -> Outcome<Duration> {
    match text.parse() {
        Ok(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds)),
        _ => Err(Failure::usage(format!("deadline={text} is no positive number of seconds"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        mount: Mount,
    }

    fn plan(options: &str) -> Outcome<MountPlan> {
        let mut mount = Line::parse_from(["mount", "drive", "/mnt", "-o", options]).mount;
        let mut plan = MountPlan::default();
        for option in std::mem::take(&mut mount.options) {
            mount.apply(&option, &mut plan)?;
        }
        Ok(plan)
    }

    #[test]
    fn who_forbids_programs_of_others_has_the_last_word() {
        for (options, suid, dev) in [
            ("rw,noexec", None, None),
            ("allow_suid,allow_dev", Some(true), Some(true)),
            ("nosuid,allow_suid,dev", Some(false), Some(true)),
            ("allow_suid,allow_dev,nosuid,nodev", Some(false), Some(false)),
        ] {
            let plan = plan(options).unwrap();
            assert_eq!((plan.suid, plan.dev), (suid, dev), "{options}");
        }
    }

    #[test]
    fn options_of_all_file_systems_are_accepted_and_others_are_not() {
        let accepted =
            "defaults,async,lazytime,relatime,diratime,norelatime,users,group,silent,_netdev,x-systemd.automount";
        assert_eq!(plan(accepted).unwrap().access_times, AccessTimes::default());
        let never = AccessTimes { files: Noted::Never, directories: Noted::Never };
        assert_eq!(plan("noatime,nodiratime").unwrap().access_times, never);
        assert_eq!(plan("nodiratime").unwrap().access_times, AccessTimes { files: Noted::Relative, ..never });
        for (refused, why) in [("remount,ro", "remounted"), ("compress", "unknown"), ("sync", "sync=local")] {
            assert!(plan(refused).unwrap_err().message().contains(why), "{refused}");
        }
    }
}
