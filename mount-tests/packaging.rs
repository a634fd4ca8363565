//! The installation: what packaging/install.sh puts where, and that it works from there.

use crate::harness::{Drive, fail, is_mounted, run, sh};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// Files and links below a directory, sorted.
fn files(root: &Path) -> Vec<PathBuf> {
    let found = sh(root, "find . ! -type d | sort");
    found.lines().map(|line| line.trim_start_matches("./").into()).collect()
}

fn install(root: &Path, arguments: &[&str]) {
    let mut install = Command::new(Path::new(REPOSITORY).join("packaging/install.sh"));
    install.args(arguments).env("DESTDIR", root).env("SBINDIR", "/sbin").env_remove("PREFIX");
    run(install.env("STREWN_BINARY", env!("CARGO_BIN_EXE_strewn")));
}

#[test]
fn an_installation_mounts_by_its_helpers_and_can_be_taken_away() {
    let drive = Drive::up();
    let root = drive.beside("root");
    install(&root, &[]);
    let expected = [
        "sbin/mount.fuse.strewn",
        "sbin/mount.strewn",
        "sbin/umount.fuse.strewn",
        "usr/local/bin/strewn",
        "usr/local/lib/systemd/system/strewn-node.service",
        "usr/local/lib/systemd/system/strewn-satellite.service",
        "usr/local/lib/systemd/system/strewn@.service",
        "usr/local/share/man/man1/strewn.1",
        "usr/local/share/man/man7/strewn-semantics.7",
    ];
    assert_eq!(files(&root), expected.map(PathBuf::from));
    let binary = root.join("usr/local/bin/strewn");
    assert_eq!(std::fs::metadata(&binary).unwrap().permissions().mode() & 0o777, 0o755);
    for helper in &expected[..3] {
        let (link, at) = (std::fs::read_link(root.join(helper)).unwrap(), root.join(helper));
        assert!(link.is_relative(), "{} must not leave the root that is being made", link.display());
        assert_eq!(at.canonicalize().unwrap(), binary.canonicalize().unwrap());
    }
    let page = std::fs::read(root.join("usr/local/share/man/man1/strewn.1")).unwrap();
    assert_eq!(page, std::fs::read(Path::new(REPOSITORY).join("man/strewn.1")).unwrap());
    for unit in &expected[4..7] {
        let text = std::fs::read_to_string(root.join(unit)).unwrap();
        assert!(text.contains("ExecStart=/usr/local/bin/strewn "), "{text}");
    }

    // As mount(8) and umount(8) call them.
    let mountpoint = drive.beside("by-helper");
    std::fs::create_dir(&mountpoint).unwrap();
    let options =
        format!("rw,noexec,allow_suid,access={},cache-dir={}", drive.access().display(), drive.beside("hc").display());
    let mut mount = drive.helper(&root.join("sbin/mount.strewn"));
    assert_eq!(run(mount.arg("drive").arg(&mountpoint).args(["-o", &options])), "", "mount(8) says nothing");
    assert!(is_mounted(&mountpoint));
    let flags = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let flags = flags.lines().find(|line| line.contains(mountpoint.to_str().unwrap())).expect("it is mounted");
    // Somebody without privilege is never given what he asks for.
    let as_asked = flags.contains("nosuid") != rustix::process::geteuid().is_root();
    assert!(as_asked && flags.contains("nodev"), "{flags}");
    sh(&mountpoint, "head -c 3000000 /dev/urandom > file; cp file ../copy; printf '#!/bin/sh\\n' > s; chmod +x s");
    assert!(fail(Command::new("sh").args(["-c", "./s"]).current_dir(&mountpoint)).contains("denied"), "noexec");
    for (option, works) in [("ro", false), ("rw", true)] {
        let options = format!("{option},nosuid,remount,user_id=0,default_permissions,uhelper=fuse.strewn");
        let mut remount = drive.helper(&root.join("sbin/mount.strewn"));
        remount.arg("strewn://drive/").arg(&mountpoint).args(["-o", &options]);
        match rustix::process::geteuid().is_root() {
            true => drop(run(remount)),
            false => drop(fail(remount)),
        }
        let writes = std::fs::write(mountpoint.join("written"), "x").is_ok();
        assert_eq!(writes, works || !rustix::process::geteuid().is_root(), "{option}");
    }
    run(drive.helper(&root.join("sbin/umount.fuse.strewn")).arg(&mountpoint));
    assert!(!is_mounted(&mountpoint), "it waits until the drive is gone");
    run(drive.helper(&root.join("sbin/mount.strewn")).arg("drive").arg(&mountpoint).args(["-o", &options]));
    let open = std::fs::File::open(mountpoint.join("file")).unwrap();
    run(drive.helper(&root.join("sbin/umount.fuse.strewn")).arg(&mountpoint).arg("-l"));
    assert!(!is_mounted(&mountpoint), "although a file is open");
    drop(open);
    let back = drive.beside("back");
    run(drive.strewn(["cp", "strewn://drive/file"]).arg(&back));
    sh(&back.with_file_name(""), "cmp copy back");

    std::fs::write(root.join("sbin/mount.other"), "not ours").unwrap();
    install(&root, &["--uninstall"]);
    assert_eq!(files(&root), [PathBuf::from("sbin/mount.other")]);
}
