//! The disk under the cache is read-only or broken: nothing acknowledged is lost, and people are told.

use crate::disk::Disk;
use crate::harness::{Drive, fail, is_mounted, run, sh, wait_until};
use rustix::io::Errno;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;

const DISK: u64 = 300 << 20;

fn mount(drive: &Drive, cache: &Path) {
    fs::create_dir_all(drive.path()).expect("a mountpoint");
    let mut mount = drive.strewn(["mount", "drive", "--detach", "--cache-dir"]);
    run(mount.arg(cache).arg(drive.path()));
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
    wait_until("the status says so", || drive.status()["last_error"].as_str().unwrap().contains("cache disk"));
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
