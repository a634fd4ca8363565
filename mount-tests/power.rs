//! Power cuts: the cache directory is on a disk of its own whose power is cut while the drive is written to. What was
//! promised is there after the next boot, and nothing is there that was never written.

use crate::disk::Disk;
use crate::harness::{Drive, is_mounted, run, wait_until};
use crate::writers::{self, Acknowledged, Writer, mix};
use rustix::process::{Pid, Signal, kill_process};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const ROUNDS: u64 = 20;
/// The disk: sparse, so that only what is written takes room.
const DISK: u64 = 4 << 30;
/// Acknowledged calls, of all writers together, after which the power is cut at the latest.
const MOST_CALLS: u64 = 4_000;
/// When it is cut at the latest, after every writer has begun. Longer than the promise for what is not synced.
const LONGEST: Duration = Duration::from_millis(1_500);

/// Starts a program in a mount namespace where the kernel seems to have another boot id.
const IN_BOOT: &str =
    r#"mount --make-private /proc; mount --bind "$1" /proc/sys/kernel/random/boot_id; shift; exec "$@""#;

/// A machine with a network elsewhere: its drive, and the disk with the cache.
struct Machine {
    // In this order: the disk goes when nobody uses it any more.
    network: Drive,
    disk: Disk,
    boots: u64,
}

impl Machine {
    fn new() -> Self {
        let network = Drive::network();
        let home = network.beside("machine");
        std::fs::create_dir(&home).expect("a directory");
        // What is mounted below by a process in a mount namespace of its own is mounted for us, too.
        run(Command::new("mount").arg("--bind").args([&home, &home]));
        run(Command::new("mount").arg("--make-shared").arg(&home));
        std::fs::create_dir(home.join("drive")).expect("a mountpoint");
        let disk = Disk::new(&network.beside("disk"), &home.join("disk"), DISK);
        Self { network, disk, boots: 0 }
    }

    fn drive(&self) -> PathBuf {
        self.network.beside("machine/drive")
    }

    /// Mounts the drive for the first time after a boot.
    fn boot(&mut self) {
        self.boots += 1;
        let boot_id = format!("00000000-0000-4000-8000-{:012}", self.boots);
        let file = self.network.beside("boot-id");
        std::fs::write(&file, format!("{boot_id}\n")).expect("a file");
        let mut mount = self.network.helper(Path::new("unshare"));
        mount.args(["--mount", "--propagation", "unchanged", "sh", "-ec", IN_BOOT, "sh"]).arg(&file);
        mount.arg(env!("CARGO_BIN_EXE_strewn")).args(["mount", "drive"]).arg(self.drive());
        mount.arg("--access").arg(self.network.access());
        mount.arg("--cache-dir").arg(self.network.beside("machine/disk/cache"));
        mount.arg("--pidfile").arg(self.network.beside("pid")).arg("--detach");
        run(&mut mount);
        let seen = format!("/proc/{}/root/proc/sys/kernel/random/boot_id", self.pid().as_raw_nonzero());
        assert_eq!(std::fs::read_to_string(seen).expect("it runs").trim(), boot_id);
        assert!(is_mounted(&self.drive()));
    }

    fn pid(&self) -> Pid {
        let text = std::fs::read_to_string(self.network.beside("pid")).expect("a process id");
        Pid::from_raw(text.trim().parse().expect("a process id")).expect("a process id")
    }

    /// Ends all processes, which have lost their disk.
    fn kill(&self) {
        let pid = self.pid();
        kill_process(pid, Signal::KILL).expect("it can be killed");
        let process = format!("/proc/{}/root/.", pid.as_raw_nonzero());
        wait_until("the mount is dead", || !Path::new(&process).exists());
    }

    /// After the disk lost its power and the processes their life, when nobody uses the drive any more.
    fn power_on(&mut self) {
        run(Command::new("umount").arg("-l").arg(self.drive()));
        self.disk.mount_after_cut();
        self.boot();
    }

    /// `strewn sync` in the background.
    fn begin_sync(&self) -> Child {
        let mut sync = self.network.strewn(["sync"]);
        sync.arg(self.drive()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts")
    }
}

/// Writers at work, each in a thread of its own; and how each ended.
fn work_until_cut(machine: &Machine, round: u64, mut writers: Vec<Box<dyn Writer>>) -> Vec<Box<dyn Writer>> {
    let each: Vec<Acknowledged> = writers.iter().map(|_| Acknowledged::default()).collect();
    let count = || each.iter().map(Acknowledged::count).sum::<usize>() as u64;
    let moment = mix(round ^ 0xc07) % MOST_CALLS;
    std::thread::scope(|scope| {
        let work = |(writer, acknowledged): (&mut Box<dyn Writer>, &_)| -> (io::Error, Instant) {
            (writer.work(acknowledged), Instant::now())
        };
        let threads: Vec<_> = writers.iter_mut().zip(&each).map(|pair| scope.spawn(move || work(pair))).collect();
        wait_until("every writer is at work", || {
            threads.iter().any(|thread| thread.is_finished())
                || each.iter().all(|acknowledged| acknowledged.count() > 0)
        });
        // In half of the rounds it falls into an upload.
        let sync = round.is_multiple_of(2).then(|| machine.begin_sync());
        let (begun, before) = (Instant::now(), count());
        wait_until("the moment", || count() - before >= moment || begun.elapsed() >= LONGEST);
        let cut = Instant::now();
        machine.disk.cut_power();
        if !round.is_multiple_of(2) {
            // Nothing is promised on a disk that is gone: the drive has to notice.
            wait_until("somebody is told", || threads.iter().any(|thread| thread.is_finished()));
        }
        machine.kill();
        for (thread, number) in threads.into_iter().zip(0..) {
            let (error, ended) = thread.join().expect("writers do not panic");
            assert!(ended >= cut, "round {round}, writer {number} ended before the cut: {error}");
        }
        if let Some(mut sync) = sync {
            sync.wait().expect("it ends with the mount");
        }
    });
    writers
}

fn judge(writers: &[Box<dyn Writer>], when: &str) {
    for writer in writers {
        let judged = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| writer.judge()));
        assert!(judged.is_ok(), "{when}: {} was not kept", writer.name());
    }
}

#[test]
fn what_was_promised_survives_twenty_power_cuts() {
    let mut machine = Machine::new();
    machine.boot();
    let mut earlier: Vec<Vec<Box<dyn Writer>>> = Vec::new();
    for round in 0..ROUNDS {
        let dir = machine.drive().join(format!("round-{round}"));
        std::fs::create_dir(&dir).unwrap();
        let writers = work_until_cut(&machine, round, writers::all(&dir, round * 100).unwrap());
        machine.power_on();
        judge(&writers, &format!("after the cut in round {round}"));
        if let Some(last) = earlier.last() {
            judge(last, &format!("of round {} after the cut in round {round}", round - 1));
        }
        earlier.push(writers);
    }
    for kind in 0..earlier[0].len() {
        let promises: usize = earlier.iter().map(|writers| writers[kind].promises()).sum();
        let name = earlier[0][kind].name();
        println!("{name}: {promises} promises");
        assert!(promises >= ROUNDS as usize, "{name}: {promises} promises prove nothing");
    }

    // And on the network: through an empty cache.
    let drive = machine.drive();
    run(machine.network.strewn(["umount"]).arg(&drive));
    machine.network.mount("drive", &drive, &machine.network.access(), &machine.network.beside("machine/empty"));
    earlier.iter().zip(0..).for_each(|(writers, round)| judge(writers, &format!("of round {round} on the network")));
    run(machine.network.strewn(["umount"]).arg(&drive));
}
