//! What users of other mounts complain of: a test for each complaint.

use crate::harness::{Drive, fail, is_mounted, output, run, sh, wait_until};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// What must not hang has an answer by then, however busy the machine is.
const SOON: Duration = Duration::from_secs(10);

/// Another mount of the bucket, with an empty cache.
fn elsewhere(drive: &Drive, name: &str) -> PathBuf {
    let mountpoint = drive.beside(name);
    drive.mount("drive", &mountpoint, &drive.access(), &drive.beside(&format!("{name}-cache")));
    mountpoint
}

/// Contents of the files in a directory whose names begin so, sorted.
fn contents(dir: &Path, beginning: &str) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut contents: Vec<String> = names
        .filter(|name| name.starts_with(beginning))
        .map(|name| fs::read_to_string(dir.join(name)).unwrap())
        .collect();
    contents.sort();
    contents
}

/// "I copied my photos, unmounted, switched the computer off, and half of them are not in the cloud."
#[test]
fn unmount_drops_queued_writes() {
    let drive = Drive::network();
    drive.mount_drive(&[]);
    sh(
        drive.path(),
        "for i in $(seq 100); do head -c 30000 /dev/urandom > photo-$i; done; sha256sum photo-* > ../sums",
    );
    run(drive.strewn(["umount"]).arg(drive.path()));
    fs::remove_dir_all(drive.beside("cache")).unwrap();
    sh(&elsewhere(&drive, "other"), "sha256sum --quiet -c ../sums; ls | wc -l | grep -x 100");
}

/// "rsync writes `.file.Ab12Cd` and renames it; the rename came while the upload was queued, and the file never arrived."
#[test]
fn a_temporary_file_renamed_by_rsync_is_never_uploaded() {
    let drive = Drive::network();
    drive.mount_drive(&[]);
    let source = drive.beside("source");
    fs::create_dir(&source).unwrap();
    sh(&source, "for i in $(seq 30); do head -c 70000 /dev/urandom > file-$i; done");
    let rsync =
        || run(Command::new("rsync").arg("-a").arg(format!("{}/", source.display())).arg(drive.path().join("copy")));
    rsync();
    // A second version of each over the first, while that one may be on its way.
    sh(&source, "for i in $(seq 30); do head -c 80000 /dev/urandom > file-$i; done");
    rsync();
    run(drive.strewn(["umount"]).arg(drive.path()));
    let other = elsewhere(&drive, "other");
    crate::harness::assert_same_tree(&source, &other.join("copy"));
    let names = run(drive.strewn(["ls", "-r", "strewn://drive/"]));
    assert!(!names.contains("/."), "a temporary name is left on the network: {names}");
}

/// "The store was unreachable for a minute, and the file I had open just before read back as 0 bytes."
#[test]
fn a_cached_file_reads_back_empty_while_the_store_is_unreachable() {
    let drive = Drive::network();
    drive.mount_drive(&["-o", "deadline=1"]);
    let sizes = [5_000, 70_000, 2_000_000];
    for size in sizes {
        sh(drive.path(), &format!("head -c {size} /dev/urandom > {size}; cp {size} ../{size}"));
    }
    drive.sync();
    drive.kill_network();
    for size in sizes {
        let read = fs::read(drive.path().join(size.to_string())).unwrap();
        assert!(read == fs::read(drive.beside(&size.to_string())).unwrap(), "{size}");
    }
    // The cache may have forgotten what the network has too. Then it is an error, not an empty file.
    drive.kill_mount();
    drive.mount_drive(&["-o", "deadline=1"]);
    for size in sizes {
        match fs::read(drive.path().join(size.to_string())) {
            Ok(read) => assert!(read == fs::read(drive.beside(&size.to_string())).unwrap(), "{size}"),
            Err(error) => assert_eq!(Errno::from_io_error(&error), Some(Errno::TIMEDOUT)),
        }
    }
    drive.start();
    for size in sizes {
        let read = || fs::read(drive.path().join(size.to_string()));
        wait_until("the network is back", || read().is_ok());
        assert!(read().unwrap() == fs::read(drive.beside(&size.to_string())).unwrap(), "{size}");
    }
}

/// "I touched a file and wrote to it within the same second; the store kept the empty one, because size or time looked the
/// same."
#[test]
fn touch_then_write_within_a_second_is_not_noticed() {
    let drive = Drive::network();
    drive.mount_drive(&[]);
    sh(drive.path(), "touch touched; printf one > same-size");
    drive.sync();
    // Same size, same time: nothing but the content tells them apart.
    sh(
        drive.path(),
        "touch -r same-size ../stamp; printf two > same-size; touch -r ../stamp same-size; printf x >> touched",
    );
    run(drive.strewn(["umount"]).arg(drive.path()));
    assert_eq!(sh(&elsewhere(&drive, "other"), "cat same-size touched"), "twox");
}

/// "The mount process died, and since then `df` hangs, and so does everything that looks at the disks."
#[test]
fn the_death_of_the_daemon_blocks_df() {
    let drive = Drive::network();
    drive.mount_drive(&[]);
    fs::write(drive.path().join("file"), "kept").unwrap();
    let pid = Pid::from_raw(drive.mount_pid() as i32).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    wait_until("it is dead", || fs::metadata(drive.path()).is_err());
    let begun = Instant::now();
    let told = output(Command::new("df").arg(drive.path()).env("LC_ALL", "C"));
    assert!(String::from_utf8_lossy(&told.stderr).contains("not connected"), "df says what is the matter");
    output(Command::new("df"));
    output(Command::new("ls").arg(drive.path()));
    let gone = fail(drive.strewn(["status"]).arg(drive.path()));
    assert!(begun.elapsed() < SOON, "it took {:?}: {gone}", begun.elapsed());
    // The next mount takes the dead one away.
    drive.mount_drive(&[]);
    assert_eq!(fs::read(drive.path().join("file")).unwrap(), b"kept");
}

/// "I mounted the same bucket twice by mistake, and both caches were ruined."
#[test]
fn a_second_mount_corrupts() {
    let drive = Drive::network();
    drive.mount_drive(&[]);
    sh(drive.path(), "mkdir d; echo first > d/first; echo common > common");
    drive.sync();
    let same_cache = drive.beside("second");
    fs::create_dir(&same_cache).unwrap();
    let mut mount = drive.strewn(["mount", "drive"]);
    let refused = fail(mount.arg(&same_cache).arg("--cache-dir").arg(drive.beside("cache")));
    let pid = drive.mount_pid().to_string();
    assert!(refused.contains("in use by process") && refused.contains(&pid), "{refused}");
    assert!(!is_mounted(&same_cache));
    // With a cache of its own it is another drive of the same bucket.
    let other = elsewhere(&drive, "other");
    sh(&other, "echo second > d/second; echo more >> common");
    run(drive.strewn(["sync"]).arg(&other));
    wait_until("the first one sees it", || drive.path().join("d/second").exists());
    sh(drive.path(), "echo third > d/third; rm d/first");
    drive.sync();
    run(drive.strewn(["umount"]).arg(&other));
    run(drive.strewn(["umount"]).arg(drive.path()));
    let seen = sh(&elsewhere(&drive, "third"), "find . -type f | sort; cat common d/second d/third");
    assert_eq!(seen, "./common\n./d/second\n./d/third\ncommon\nmore\nsecond\nthird\n");
}

/// "Two of us edited the same file, and one version was gone without a word."
#[test]
fn a_conflict_silently_discards() {
    let drive = Drive::network();
    drive.mount_drive(&["-o", "deadline=2"]);
    sh(drive.path(), "mkdir d; echo common > d/file");
    drive.sync();
    let other = elsewhere(&drive, "other");
    for dir in [drive.path(), &other] {
        assert_eq!(sh(dir, "ls d; cat d/file"), "file\ncommon\n");
    }
    drive.kill_network();
    sh(drive.path(), "echo mine > d/file; echo my new one > d/new");
    sh(&other, "echo yours > d/file; echo your new one > d/new");
    drive.start();
    drive.sync();
    run(drive.strewn(["sync"]).arg(&other));
    let conflicts = || {
        let lines = run(drive.strewn(["status", "--json"]));
        let statuses = lines.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        statuses.map(|status| status["conflicts"].as_u64().unwrap()).sum::<u64>()
    };
    assert_eq!(conflicts(), 2, "both are told of");
    drop(other);
    let fresh = elsewhere(&drive, "fresh");
    assert_eq!(contents(&fresh.join("d"), "file"), ["mine\n", "yours\n"]);
    assert_eq!(contents(&fresh.join("d"), "new"), ["my new one\n", "your new one\n"]);
    assert_eq!(fs::read_dir(fresh.join("d")).unwrap().count(), 4);
}
