//! What the kernel keeps copies of, or reads without asking, is never old.

use crate::harness::{Drive, run, sh, wait_until};
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

fn names(dir: &Path) -> BTreeSet<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn listings_follow_changes_here_and_elsewhere() {
    let drive = Drive::up();
    let dir = drive.path().join("d");
    sh(drive.path(), "mkdir d; touch d/a d/b");
    assert_eq!(names(&dir), set(&["a", "b"]));
    assert_eq!(names(&dir), set(&["a", "b"]), "once more, from the copy");
    sh(&dir, "touch c");
    assert_eq!(names(&dir), set(&["a", "b", "c"]));
    sh(&dir, "mv a z; rm b");
    assert_eq!(names(&dir), set(&["c", "z"]));
    // An opened listing that is half read goes on with what stayed, once each.
    sh(&dir, "rm c z; for i in $(seq 1000); do : > f$i; done");
    let mut begun = fs::read_dir(&dir).unwrap();
    let mut seen: Vec<String> =
        begun.by_ref().take(10).map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    sh(&dir, "rm f500; touch new");
    seen.extend(begun.map(|entry| entry.unwrap().file_name().into_string().unwrap()));
    seen.retain(|name| name != "f500" && name != "new");
    assert_eq!((seen.len(), seen.iter().collect::<BTreeSet<_>>().len()), (999, 999));
    sh(&dir, "rm f*");
    assert_eq!(names(&dir), set(&["new"]));

    drive.sync();
    let (other, cache) = (drive.beside("other"), drive.beside("other-cache"));
    fs::create_dir(&other).unwrap();
    drive.mount("drive", &other, &drive.access(), &cache);
    assert_eq!(names(&other.join("d")), set(&["new"]));
    fs::write(other.join("d/there"), "x").unwrap();
    wait_until("what was made elsewhere is listed", || names(&dir) == set(&["new", "there"]));
    assert_eq!(fs::metadata(dir.join("there")).unwrap().len(), 1);
    fs::remove_file(other.join("d/new")).unwrap();
    wait_until("what was removed elsewhere is not", || names(&dir) == set(&["there"]));
}

/// Reads what a mapping of a file shows, in a process of its own, whenever it is asked.
struct Mapped {
    process: std::process::Child,
}

impl Mapped {
    fn start(path: &Path) -> Self {
        let program = "import mmap, sys, os\n\
            m = mmap.mmap(os.open(sys.argv[1], os.O_RDONLY), 0, prot=mmap.PROT_READ)\n\
            for line in sys.stdin:\n    \
                a, n = map(int, line.split()); print(m[a:a + n].decode(), flush=True)\n";
        let mut command = Command::new("python3");
        command.args(["-c", program]).arg(path).stdin(Stdio::piped()).stdout(Stdio::piped());
        Self { process: command.spawn().unwrap() }
    }

    fn read(&mut self, offset: u64, length: usize) -> String {
        use std::io::{Read, Write};
        writeln!(self.process.stdin.as_mut().unwrap(), "{offset} {length}").unwrap();
        let mut answer = vec![0; length + 1];
        self.process.stdout.as_mut().unwrap().read_exact(&mut answer).unwrap();
        String::from_utf8(answer).unwrap().trim_end().to_owned()
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        self.process.wait().unwrap();
    }
}

#[test]
fn who_reads_or_maps_a_file_sees_what_others_write() {
    let drive = Drive::up();
    // Kept in memory, in a data file, and large enough for the kernel to read by itself.
    for size in [40_000, 200_000, 1_000_000] {
        let path = drive.path().join(format!("file-{size}"));
        fs::write(&path, vec![b'-'; size]).unwrap();
        drive.sync();
        let reader = File::open(&path).unwrap();
        let mut mapped = Mapped::start(&path);
        let mut seen = |offset: u64, expected: &str| {
            let mut bytes = vec![0; expected.len()];
            reader.read_exact_at(&mut bytes, offset).unwrap();
            assert_eq!(String::from_utf8(bytes).unwrap(), expected, "read, {size}");
            assert_eq!(mapped.read(offset, expected.len()), expected, "mapped, {size}");
            let anew = fs::read(&path).unwrap();
            assert_eq!(std::str::from_utf8(&anew[offset as usize..][..expected.len()]).unwrap(), expected);
        };
        seen(5_000, "-----");
        let write_only = OpenOptions::new().write(true).open(&path).unwrap();
        write_only.write_all_at(b"first", 5_000).unwrap();
        seen(4_999, "-first-");
        let both = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        both.write_all_at(b"other", 5_001).unwrap();
        seen(4_999, "-fother-");
        let mut bytes = [0; 6];
        both.read_exact_at(&mut bytes, 5_000).unwrap();
        assert_eq!(&bytes, b"fother");
        write_only.write_all_at(b"tail", size as u64 - 4).unwrap();
        seen(size as u64 - 5, "-tail");
        write_only.write_all_at(b"beyond", size as u64 + 5_000).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), size as u64 + 5_006);
        let mut bytes = [1; 8];
        reader.read_exact_at(&mut bytes, size as u64 + 4_998).unwrap();
        assert_eq!(&bytes, b"\0\0beyond");
    }
}

/// Inodes that a mount knows.
fn known(drive: &Drive, mountpoint: &Path) -> u64 {
    let status = run(drive.strewn(["status", "--json"]).arg(mountpoint));
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    status["known_inodes"].as_u64().unwrap()
}

#[test]
fn what_was_looked_up_is_let_go_of_when_memory_is_short_and_nobody_notices() {
    const FILES: usize = 3_000;
    let drive = Drive::up();
    sh(drive.path(), "mkdir d; cd d; for i in $(seq 3000); do echo content $i > f$i; done; ln f2999 linked");
    drive.sync();
    let (small, cache) = (drive.beside("small"), drive.beside("small-cache"));
    fs::create_dir(&small).unwrap();
    run(drive.strewn(["mount", "drive", "--detach", "--memory", "1M", "--cache-dir"]).arg(&cache).arg(&small));
    let dir = small.join("d");
    let (open, inside) = (File::open(dir.join("f7")).unwrap(), File::open(&dir).unwrap());
    let listed = sh(&dir, "ls -li");
    wait_until("most of it is forgotten", || known(&drive, &small) < 1_000);

    let shown = |file: &File| fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
    assert_eq!((shown(&open), shown(&inside)), (dir.join("f7"), dir.clone()));
    assert_eq!(std::io::read_to_string(&open).unwrap(), "content 7\n");
    assert_eq!(sh(&dir, "ls -li"), listed, "the same inodes with the same attributes");
    for number in (1..=FILES).step_by(97) {
        assert_eq!(fs::read_to_string(dir.join(format!("f{number}"))).unwrap(), format!("content {number}\n"));
    }
    // What is changed meanwhile is kept however short memory is.
    sh(&dir, "for i in $(seq 1 3 3000); do echo changed >> f$i; done; ls -l > /dev/null");
    assert_eq!(sh(&dir, "cat f* | grep -c changed").trim(), "1000");
    assert_eq!(fs::read_to_string(dir.join("f7")).unwrap(), "content 7\nchanged\n");
}

#[test]
fn access_times_are_kept_as_the_mount_was_asked_to() {
    let drive = Drive::network();
    for (options, moves) in [(&[][..], true), (&["-o", "noatime"], false)] {
        drive.mount_drive(options);
        sh(drive.path(), "echo text > file; touch -a -d @1000000000 file");
        let read = sh(drive.path(), "cat file; stat -c %X file");
        assert_eq!(read.trim() != "text\n1000000000", moves, "{options:?}: {read}");
        run(drive.strewn(["umount"]).arg(drive.path()));
    }
}

#[test]
fn renaming_what_a_listing_shows_comes_to_an_end() {
    let drive = Drive::up();
    sh(drive.path(), "mkdir d; cd d; touch $(seq 3000)");
    let directory = drive.path().join("d");
    let listing = std::fs::read_dir(&directory).unwrap();
    let mut seen = 0;
    // More than the kernel reads at a time, so that it asks for the rest after the first were renamed.
    for entry in listing {
        let name = entry.unwrap().file_name().into_string().unwrap();
        std::fs::rename(directory.join(&name), directory.join(format!("{name}x"))).unwrap();
        seen += 1;
        assert!(seen <= 3000, "{name}");
    }
    assert_eq!(seen, 3000);
    let renamed = std::fs::read_dir(&directory).unwrap();
    assert_eq!(renamed.filter(|entry| entry.as_ref().unwrap().path().to_str().unwrap().ends_with('x')).count(), 3000);
}
