//! The disk under the cache is full, read-only or broken: nothing acknowledged is lost, and people are told.

use crate::disk::Disk;
use crate::harness::{Drive, fail, is_mounted, run, sh, wait_until};
use crate::writers::bytes;
use rustix::io::Errno;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Size of the disk: room for a cache of the smallest size, less than the cache may take.
const DISK: u64 = 300 << 20;
/// Writers give up soon, an upload does not.
const OPTIONS: &str = "cache-size=2G,deadline=2,drain-timeout=60s";

fn mount(drive: &Drive, cache: &Path) {
    fs::create_dir_all(drive.path()).expect("a mountpoint");
    let mut mount = drive.strewn(["mount", "drive", "--detach", "-o", OPTIONS, "--cache-dir"]);
    run(mount.arg(cache).arg(drive.path()));
}

fn new_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// Makes files of a size until there is no room; gives those that were acknowledged, with their seeds.
fn fill(dir: &Path, size: usize, seed: u64) -> Vec<(PathBuf, u64, usize)> {
    let mut made = Vec::new();
    for seed in seed.. {
        let path = dir.join(format!("{size}-{seed}"));
        match new_file(&path, &bytes(seed, 0, size)) {
            Ok(()) => made.push((path, seed, size)),
            Err(error) => {
                assert_eq!(Errno::from_io_error(&error), Some(Errno::NOSPC), "{error}");
                break;
            }
        }
    }
    made
}

fn check(made: &[(PathBuf, u64, usize)]) {
    for (path, seed, size) in made {
        let content = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(content == bytes(*seed, 0, *size), "{}", path.display());
    }
}

#[test]
fn a_full_cache_disk_holds_writers_back_and_loses_nothing() {
    let drive = Drive::network();
    let home = drive.beside("disk");
    let _disk = Disk::new(&drive.beside("image"), &home, DISK);
    mount(&drive, &home.join("cache"));
    // New names need to know the others.
    assert_eq!(fs::read_dir(drive.path()).unwrap().count(), 0);
    drive.kill_network();
    let mut made = fill(drive.path(), 8 << 20, 1_000);
    assert!(made.len() >= 10, "{} files fit", made.len());
    made.extend(fill(drive.path(), 20_000, 2_000));
    // Reading, looking and asking go on.
    check(&made);
    let listed = fs::read_dir(drive.path()).unwrap().count();
    assert!(listed >= made.len(), "{listed} names");
    let status = drive.status();
    assert!(status["pending_bytes"].as_u64().unwrap() >= made.len() as u64, "{status}");
    // Also after a crash, with the disk as full as it is.
    drive.kill_mount();
    mount(&drive, &home.join("cache"));
    check(&made);
    // With the network there is room again.
    drive.start();
    drive.sync();
    made.extend((0..3).map(|seed| {
        let path = drive.path().join(format!("after-{seed}"));
        new_file(&path, &bytes(seed, 0, 4 << 20)).unwrap();
        (path, seed, 4 << 20)
    }));
    run(drive.strewn(["umount"]).arg(drive.path()));
    drive.mount("drive", drive.path(), &drive.access(), &drive.beside("other-cache"));
    check(&made);
}

#[test]
fn a_cache_directory_that_cannot_be_written_to_is_named() {
    let drive = Drive::network();
    let home = drive.beside("read-only");
    fs::create_dir_all(home.join("cache")).unwrap();
    run(Command::new("mount").arg("--bind").args([&home, &home]));
    run(Command::new("mount").args(["-o", "remount,bind,ro"]).arg(&home));
    fs::create_dir(drive.path()).unwrap();
    for cache in ["cache", "new"] {
        let cache = home.join(cache);
        for detach in [&[][..], &["--detach"]] {
            let mut mount = drive.strewn(["mount", "drive", "--cache-dir"]);
            let said = fail(mount.arg(&cache).arg(drive.path()).args(detach));
            assert!(said.contains("Read-only file system") && said.contains(cache.to_str().unwrap()), "{said}");
            assert!(!is_mounted(drive.path()));
        }
    }
}

#[test]
fn a_cache_disk_that_breaks_is_an_error_and_not_a_loss() {
    let drive = Drive::network();
    let home = drive.beside("disk");
    let disk = Disk::new(&drive.beside("image"), &home, DISK);
    mount(&drive, &home.join("cache"));
    sh(drive.path(), "echo small > small; sync small");
    let mut open = File::create(drive.path().join("open")).unwrap();
    disk.cut_power();
    let failed = open.write_all(&[1; 5_000]).and_then(|()| open.sync_all()).unwrap_err();
    assert_eq!(Errno::from_io_error(&failed), Some(Errno::IO));
    drop(open);
    // It says what is the matter, and takes no further change.
    wait_until("the status says so", || drive.status()["last_error"].as_str().unwrap().contains("the journal failed"));
    let refused = fs::write(drive.path().join("new"), "new").unwrap_err();
    assert_eq!(Errno::from_io_error(&refused), Some(Errno::IO));
    assert_eq!(fs::read_to_string(drive.path().join("small")).unwrap(), "small\n");
    drive.kill_mount();
    disk.mount_after_cut();
    mount(&drive, &home.join("cache"));
    assert_eq!(fs::read_to_string(drive.path().join("small")).unwrap(), "small\n");
    drive.sync();
    run(drive.strewn(["umount"]).arg(drive.path()));
}
