//! Large files in the cache are read by the kernel past the mount. Nobody sees a difference but in speed.

use crate::harness::{Drive, is_mounted, run, wait_until};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

const PROGRAM: &str = include_str!("passthrough.py");
const RANDOM: &str = include_str!("passthrough_random.py");

/// Random histories of a file, and how many changes are in one.
const SEEDS: u32 = 12;
const CHANGES: u32 = 300;

fn program(directory: &Path, phase: &str) -> Command {
    let mut command = Command::new("python3");
    command.args(["-c", PROGRAM]).arg(directory).arg(phase);
    command
}

fn lent(drive: &Drive) -> u64 {
    drive.status()["lent_files"].as_u64().expect("a number")
}

/// Since Linux 6.9 the kernel does it for who may administer the system.
fn kernel_does_it() -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version >= (6, 9) && rustix::process::geteuid().is_root()
}

#[track_caller]
fn assert_as_expected(directory: &Path, phase: &str) {
    let [found, expected] = [phase.to_owned(), format!("{phase}.expected")].map(|name| fs::read(directory.join(name)));
    let (found, expected) = (found.unwrap(), expected.unwrap());
    assert_eq!(found.len(), expected.len(), "{phase}");
    assert!(found == expected, "{phase}");
}

/// What another machine sees.
fn mount_elsewhere(drive: &Drive) -> std::path::PathBuf {
    let other = drive.beside("other");
    drive.mount("drive", &other, &drive.access(), &drive.beside("other-cache"));
    other
}

#[test]
fn every_change_shows_to_who_has_the_file_open() {
    let drive = Drive::up();
    for phase in ["writes", "anew", "stores"] {
        run(program(drive.path(), phase));
        assert_as_expected(drive.path(), phase);
    }
    wait_until("nothing is lent when nothing is open", || lent(&drive) == 0);
    drive.sync();
    let other = mount_elsewhere(&drive);
    for phase in ["writes", "anew", "stores"] {
        assert_as_expected(&other, phase);
    }
    run(drive.strewn(["umount"]).arg(other));
}

#[test]
fn a_large_file_in_the_cache_is_lent_and_a_small_one_is_not() {
    let drive = Drive::up();
    let write = |name: &str, size: usize| {
        let path = drive.path().join(name);
        let mut file = File::create(&path).unwrap();
        file.write_all(&vec![b'x'; size]).unwrap();
        file.sync_all().unwrap();
        path
    };
    let (large, small) = (write("large", 300_000), write("small", 200_000));
    let expected = u64::from(kernel_does_it());
    let readers = [File::open(&large).unwrap(), File::open(&large).unwrap()];
    assert_eq!(lent(&drive), expected);
    let _small = File::open(&small).unwrap();
    assert_eq!(lent(&drive), expected);
    drop(readers);
    wait_until("it is taken back", || lent(&drive) == 0);
    let writer = File::options().read(true).write(true).open(&large).unwrap();
    let reader = File::open(&large).unwrap();
    assert_eq!(lent(&drive), 0, "who has it open for writing does not expect that");
    drop((reader, writer));
}

#[test]
fn with_sync_network_or_when_asked_nothing_is_lent() {
    for option in ["sync=network", "nopassthrough"] {
        let drive = Drive::network();
        drive.mount_drive(&["-o", option]);
        let path = drive.path().join("file");
        fs::write(&path, vec![b'x'; 300_000]).unwrap();
        drive.sync();
        let _reader = File::open(&path).unwrap();
        assert_eq!(lent(&drive), 0, "{option}");
    }
}

#[test]
fn what_another_mount_changed_shows_in_an_open_file() {
    let drive = Drive::up();
    let path = drive.path().join("file");
    fs::write(&path, vec![b'a'; 400_000]).unwrap();
    drive.sync();
    let other = mount_elsewhere(&drive);
    let _reader = File::open(&path).unwrap();
    let changed = vec![b'b'; 500_000];
    fs::write(other.join("file"), &changed).unwrap();
    wait_until("another opening sees it", || fs::read(&path).unwrap() == changed);
    run(drive.strewn(["umount"]).arg(other));
}

#[test]
fn random_changes_show_to_everybody_at_once() {
    let drive = Drive::up();
    for seed in 0..SEEDS {
        let mut command = Command::new("python3");
        run(command.args(["-c", RANDOM]).arg(drive.path()).args([seed, CHANGES].map(|number| number.to_string())));
    }
    drive.sync();
    let other = mount_elsewhere(&drive);
    for seed in 0..SEEDS {
        assert_as_expected(&other, &format!("random-{seed}"));
    }
    run(drive.strewn(["umount"]).arg(other));
}

/// A program that maps a file and stores into it, told when to go on.
struct Storing {
    process: Child,
    says: BufReader<std::process::ChildStdout>,
}

impl Storing {
    fn start(directory: &Path) -> Self {
        let mut command = program(directory, "killed");
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let says = BufReader::new(process.stdout.take().unwrap());
        Self { process, says }
    }

    #[track_caller]
    fn wait_for(&mut self, word: &str) {
        let mut line = String::new();
        self.says.read_line(&mut line).unwrap();
        assert_eq!(line.trim_end(), word);
    }

    fn go_on(&mut self) {
        writeln!(self.process.stdin.as_mut().unwrap()).unwrap();
    }
}

impl Drop for Storing {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        self.process.wait().unwrap();
    }
}

#[test]
fn what_a_program_stored_into_a_mapping_survives_kill_9() {
    let drive = Drive::network();
    drive.mount_drive(&[]);
    let mut storing = Storing::start(drive.path());
    storing.wait_for("ready");
    drive.kill_mount();
    assert!(!is_mounted(drive.path()));
    storing.go_on();
    storing.wait_for("stored");
    drive.mount_drive(&[]);
    let mut expected = fs::read(drive.path().join("killed.expected")).unwrap();
    if kernel_does_it() {
        // It maps the file in the cache, and can go on as if nothing had happened.
        expected[400_000..400_005].copy_from_slice(b"later");
    }
    assert!(fs::read(drive.path().join("killed")).unwrap() == expected);
    drive.sync();
    let other = mount_elsewhere(&drive);
    assert!(fs::read(other.join("killed")).unwrap() == expected);
    run(drive.strewn(["umount"]).arg(other));
    storing.go_on();
    drop(storing);
    wait_until("nothing is lent when nothing is mapped", || lent(&drive) == 0);
}
