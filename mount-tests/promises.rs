//! What fsync, close and O_SYNC promise on a real mount, and what files tell of themselves.

use crate::harness::{Drive, fail, output, run, sh, wait_until};
use std::path::PathBuf;
use std::process::Command;

/// A second mount of the bucket, with these options and nothing that goes up by itself.
fn mount(drive: &Drive, options: &str) -> PathBuf {
    let mountpoint = drive.beside("other");
    std::fs::create_dir_all(&mountpoint).unwrap();
    let mut mount = drive.strewn(["mount", "drive", "--detach", "--upload-delay", "300h", "-o", options]);
    run(mount.arg("--cache-dir").arg(drive.beside("other-cache")).arg(&mountpoint));
    mountpoint
}

fn is_on_the_network(drive: &Drive, name: &str) -> bool {
    output(drive.strewn(["stat", &format!("strewn://drive/{name}")])).status.success()
}

fn stop_nodes(drive: &Drive) {
    (0..5).for_each(|node| drive.node(node, &["stop"]));
}

/// Ways to have one megabyte safe that programs use; each makes the file `$1`.
const SAFE: [&str; 5] = [
    "dd if=/dev/zero of=$1 bs=1M count=1 conv=fsync status=none",
    "dd if=/dev/zero of=$1 bs=1M count=1 conv=fdatasync status=none",
    "dd if=/dev/zero of=$1 bs=1M count=1 oflag=sync status=none",
    "dd if=/dev/zero of=$1 bs=1M count=1 oflag=dsync status=none",
    "python3 -c 'import mmap, sys; f = open(sys.argv[1], \"w+b\"); f.truncate(1 << 20)
m = mmap.mmap(f.fileno(), 1 << 20); m[:7] = b\"mapped!\"; m.flush()' $1",
];

fn make_safe(mountpoint: &std::path::Path, way: &str, name: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-ec", way, "sh", name]).current_dir(mountpoint);
    command
}

#[test]
fn with_sync_network_what_is_synced_is_on_the_network() {
    let drive = Drive::up();
    let mountpoint = mount(&drive, "sync=network,deadline=1");
    std::fs::write(mountpoint.join("plain"), "plain").unwrap();
    assert!(!is_on_the_network(&drive, "plain"), "nobody asked for it");
    for (number, way) in SAFE.iter().enumerate() {
        let name = format!("safe{number}");
        run(make_safe(&mountpoint, way, &name));
        assert!(is_on_the_network(&drive, &name), "{way}");
    }
    assert!(is_on_the_network(&drive, "plain"), "what was changed before comes with it");
    stop_nodes(&drive);
    for (number, way) in SAFE.iter().enumerate() {
        let said = fail(make_safe(&mountpoint, way, &format!("later{number}")));
        assert!(said.contains("Input/output error"), "{way}: {said}");
    }
    // A flag of one write call, with and without a copy of the file in the kernel.
    let flagged = |mode: &str| {
        let program = format!(
            "import os\nfd = os.open('flagged', os.O_CREAT | os.{mode})\nos.pwritev(fd, [b'x'], 0, os.RWF_DSYNC)"
        );
        let mut command = Command::new("python3");
        command.args(["-c", &program]).current_dir(&mountpoint);
        command
    };
    assert!(fail(flagged("O_RDWR")).contains("Input/output error"));
    assert!(fail(flagged("O_WRONLY")).contains("Input/output error"));
    (0..5).for_each(|node| drive.node(node, &["start"]));
    run(drive.strewn(["sync"]).arg(&mountpoint));
    assert!(is_on_the_network(&drive, "later3"), "what failed stayed in the queue");
}

#[test]
fn with_sync_local_nobody_waits_for_the_network() {
    let drive = Drive::up();
    let mountpoint = mount(&drive, "sync=local,deadline=1");
    stop_nodes(&drive);
    for (number, way) in SAFE.iter().enumerate() {
        run(make_safe(&mountpoint, way, &format!("safe{number}")));
    }
    assert!(!is_on_the_network(&drive, "safe0"));
}

#[test]
fn with_close_network_what_is_closed_is_on_the_network() {
    let drive = Drive::up();
    let mountpoint = mount(&drive, "close=network,deadline=1");
    sh(&mountpoint, "echo closed > closed");
    assert!(is_on_the_network(&drive, "closed"));
    stop_nodes(&drive);
    // dd looks at what close returns.
    let said = fail(make_safe(&mountpoint, "dd if=/dev/zero of=$1 bs=1M count=1 status=none", "later"));
    assert!(said.contains("Input/output error"), "{said}");
    assert_eq!(sh(&mountpoint, "cat closed"), "closed\n", "readers wait for nothing");
}

#[test]
fn files_tell_their_state_and_copies_do_not_carry_it() {
    let drive = Drive::up();
    let mountpoint = mount(&drive, "rw");
    sh(&mountpoint, "head -c 3000000 /dev/urandom > big; echo small > small; setfattr -n user.mine -v x big");
    let attribute =
        |file: &str, name: &str| sh(&mountpoint, &format!("getfattr --only-values -n user.strewn.{name} {file}"));
    assert_eq!((attribute("big", "state"), attribute("big", "pieces")), ("pending".into(), "none".into()));
    run(drive.strewn(["sync"]).arg(&mountpoint));
    assert_eq!(attribute("big", "state"), "committed");
    let pieces = attribute("big", "pieces");
    let segments: Vec<&str> = pieces.split(' ').collect();
    assert!(segments.len() >= 3 && segments.iter().all(|segment| *segment == "10/4"), "{pieces}");
    assert_eq!(attribute("small", "pieces"), "inline");
    assert_eq!(sh(&mountpoint, "getfattr -m - --only-values big"), "x", "only what was set is listed");
    for change in ["setfattr -n user.strewn.state -v x big", "setfattr -x user.strewn.state big"] {
        let said = fail(Command::new("sh").args(["-c", change]).current_dir(&mountpoint));
        assert!(said.contains("not permitted"), "{said}");
    }
    let copy = drive.beside("copy");
    sh(&mountpoint, &format!("cp -a big '{0}'; rsync -aX big '{0}-rsync'", copy.display()));
    assert_eq!(sh(&mountpoint, &format!("getfattr -m - --only-values '{}'", copy.display())), "x");
}

#[test]
fn a_refused_upload_is_told_by_fsync_and_shown() {
    let drive = Drive::up();
    let grant = drive.beside("grant");
    run(drive.strewn(["access", "restrict", "--export-to"]).arg(&grant));
    let mountpoint = drive.beside("other");
    std::fs::create_dir(&mountpoint).unwrap();
    drive.mount("drive", &mountpoint, &grant, &drive.beside("other-cache"));
    let mut file = std::fs::File::create(mountpoint.join("file")).unwrap();
    run(drive.strewn(["sync"]).arg(&mountpoint));
    run(drive.strewn(["access", "revoke"]).arg(&grant));
    std::io::Write::write_all(&mut file, b"never allowed").unwrap();
    let status = || -> serde_json::Value {
        serde_json::from_str(&run(drive.strewn(["status", "--json"]).arg(&mountpoint))).unwrap()
    };
    wait_until("the upload fails", || status()["failed_files"].as_u64().unwrap() > 0);
    assert_eq!(file.sync_all().unwrap_err().raw_os_error(), Some(5), "EIO");
    file.sync_all().expect("it was told, and is safe on this machine");
    let state = sh(&mountpoint, "getfattr --only-values -n user.strewn.state file");
    assert!(state.starts_with("failed: access denied"), "{state}");
    let shown = run(drive.strewn(["status"]).arg(&mountpoint));
    assert!(shown.contains("access denied"), "{shown}");
    assert_eq!(std::fs::read(mountpoint.join("file")).unwrap(), b"never allowed");
}

#[test]
fn a_mount_can_be_read_only_and_its_cache_small() {
    let drive = Drive::up();
    std::fs::write(drive.path().join("file"), "there").unwrap();
    drive.sync();
    let mountpoint = drive.beside("other");
    std::fs::create_dir(&mountpoint).unwrap();
    for (round, arguments) in
        [["--read-only", "--cache-size", "300M"], ["-o", "ro,cache-size=300M", "--detach"]].iter().enumerate()
    {
        let mut mount = drive.strewn(["mount", "drive", "--detach"]);
        mount.args(arguments.iter().filter(|argument| **argument != "--detach")).arg(&mountpoint);
        run(mount.arg("--cache-dir").arg(drive.beside(&format!("cache{round}"))));
        assert_eq!(sh(&mountpoint, "cat file"), "there");
        let error = std::fs::write(mountpoint.join("file"), "x").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(30), "EROFS");
        let status = run(drive.strewn(["status", "--json"]).arg(&mountpoint));
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        assert!(status["read_only"] == true && status["cache_budget"] == 300 << 20, "{status}");
        run(drive.strewn(["umount"]).arg(&mountpoint));
    }
    let said = fail(drive.strewn(["mount", "drive", "--cache-size", "1M"]).arg(&mountpoint));
    assert!(said.contains("too small"), "{said}");
    let said = fail(drive.strewn(["mount", "drive", "-o", "sync=maybe"]).arg(&mountpoint));
    assert!(said.contains("sync=local or sync=network"), "{said}");
}
