//! An unmount is honest: it waits for the network, can be interrupted, and says what is pending when it gives up.

use crate::harness::{Drive, fail, is_mounted, output, run, sh, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A network that can take nothing: half of its nodes are away, so no segment can be stored.
fn away(drive: &Drive) {
    (0..5).for_each(|node| drive.node(node, &["stop"]));
}

fn back(drive: &Drive) {
    (0..5).for_each(|node| drive.node(node, &["start"]));
}

fn write_some(drive: &Drive) {
    sh(drive.path(), "head -c 300000 /dev/urandom > file; sha256sum file > ../sum");
}

/// Starts a command and returns once it has said on standard error how far it is.
fn start_waiting(mut command: Command) -> (Child, BufReader<impl Read>) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    assert!(line.starts_with("uploading: ") && line.contains("pending"), "{line:?}");
    (child, stderr)
}

/// The end of a command that must fail: what it said from here on.
#[track_caller]
fn failed(mut child: Child, mut stderr: impl Read) -> String {
    let mut said = String::new();
    stderr.read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{said}");
    said
}

fn json(text: &[u8]) -> Value {
    serde_json::from_slice(text).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(text)))
}

fn signal(process: u32, signal: Signal) {
    kill_process(Pid::from_raw(process as i32).unwrap(), signal).unwrap();
}

#[test]
fn with_the_network_away_it_fails_and_says_what_is_pending() {
    let drive = Drive::up();
    away(&drive);
    write_some(&drive);
    let unmounted = output(drive.strewn(["umount", "--json", "--timeout", "500ms"]).arg(drive.path()));
    assert_eq!(unmounted.status.code(), Some(1));
    let told = json(&unmounted.stdout);
    assert_eq!((&told["unmounted"], &told["mountpoint"]), (&Value::from(false), &Value::from(drive.path().to_str())));
    assert!(told["pending"]["bytes"].as_u64().unwrap() >= 300_000 && told["error"].is_string(), "{told}");
    let said = String::from_utf8(unmounted.stderr).unwrap();
    assert!(said.contains("storage nodes") && said.contains("nothing is lost"), "{said}");
    let synced = output(drive.strewn(["sync", "--json", "--timeout", "500ms"]).arg(drive.path()));
    assert_eq!((synced.status.code(), &json(&synced.stdout)["synced"]), (Some(1), &Value::from(false)));
    assert!(is_mounted(drive.path()));
    sh(drive.path(), "sha256sum -c ../sum");
    back(&drive);
    let synced = json(run(drive.strewn(["sync", "--json"]).arg(drive.path())).as_bytes());
    assert_eq!((&synced["synced"], &synced["pending"]["bytes"]), (&Value::from(true), &Value::from(0)));

    let unmounted = json(run(drive.strewn(["umount", "--json"]).arg(drive.path())).as_bytes());
    assert_eq!((&unmounted["unmounted"], &unmounted["pending"]["files"]), (&Value::from(true), &Value::from(0)));
    assert!(!is_mounted(drive.path()));
}

#[test]
fn an_interrupt_only_stops_waiting() {
    let drive = Drive::up();
    away(&drive);
    write_some(&drive);
    for command in ["umount", "sync"] {
        let mut waiting = drive.strewn([command, "--timeout", "1h"]);
        waiting.arg(drive.path());
        let (child, stderr) = start_waiting(waiting);
        signal(child.id(), Signal::INT);
        let said = failed(child, stderr);
        assert!(said.contains("stopped waiting") && said.contains("goes on uploading"), "{said}");
    }
    back(&drive);
    drive.sync();
    // Everything is there, and nobody waits for the end any more.
    std::fs::write(drive.path().join("more"), "more").unwrap();
    drive.sync();
    assert!(is_mounted(drive.path()));
}

#[test]
fn without_waiting_the_queue_is_kept_for_the_next_mount() {
    let drive = Drive::up();
    away(&drive);
    write_some(&drive);
    let mut waiting = drive.strewn(["umount", "--timeout", "1h"]);
    waiting.arg(drive.path());
    let (mut child, mut stderr) = start_waiting(waiting);
    // It also ends the waiting of others.
    let unmounted = output(drive.strewn(["umount", "--no-wait", "--json"]).arg(drive.path()));
    assert!(unmounted.status.success(), "{}", String::from_utf8_lossy(&unmounted.stderr));
    let said = String::from_utf8(unmounted.stderr).unwrap();
    assert!(said.contains("not on the network yet") && said.contains("kept"), "{said}");
    let told = json(&unmounted.stdout);
    assert!(told["unmounted"] == true && told["pending"]["bytes"].as_u64().unwrap() >= 300_000, "{told}");
    stderr.read_to_string(&mut String::new()).unwrap();
    assert!(child.wait().unwrap().success(), "the other one has what it wished for");
    assert!(!is_mounted(drive.path()));
    back(&drive);
    drive.mount("drive", drive.path(), &drive.access(), &drive.cache());
    sh(drive.path(), "sha256sum -c ../sum");
    drive.sync();
    let back = drive.beside("back");
    std::fs::create_dir(&back).unwrap();
    drive.mount("drive", &back, &drive.access(), &drive.beside("cold"));
    sh(&back, "sha256sum -c ../sum");
}

#[test]
fn bind_mounts_of_a_drive_are_unmounted_like_others() {
    let drive = Drive::up();
    sh(drive.path(), "mkdir sub; echo 1 > sub/file; echo 2 > target");
    let (bound, target) = (drive.beside("bound"), drive.path().join("target"));
    std::fs::create_dir(&bound).unwrap();
    run(Command::new("mount").arg("--bind").arg(drive.path().join("sub")).arg(&bound));
    run(Command::new("mount").arg("--bind").arg(drive.path().join("sub/file")).arg(&target));
    for (place, before, after) in [(&bound.join("file"), "1\n", None), (&target, "1\n", Some("2\n"))] {
        assert_eq!(std::fs::read_to_string(place).unwrap(), before);
        run(drive.strewn(["umount"]).arg(if after.is_some() { &target } else { &bound }));
        assert_eq!(std::fs::read_to_string(place).ok().as_deref(), after);
    }
    assert!(is_mounted(drive.path()));
}

#[test]
fn a_lazy_unmount_waits_for_nobody() {
    let drive = Drive::up();
    sh(drive.path(), "echo kept > file");
    let open = std::fs::File::open(drive.path().join("file")).unwrap();
    let pid = drive.mount_pid();
    run(drive.strewn(["umount", "--no-wait", "--lazy"]).arg(drive.path()));
    assert!(!is_mounted(drive.path()), "a file is open");
    assert_eq!(std::io::read_to_string(&open).unwrap(), "kept\n");
    drop(open);
    wait_until("nothing is open", || !Path::new(&format!("/proc/{pid}")).exists());

    drive.mount("drive", drive.path(), &drive.access(), &drive.cache());
    let pid = drive.mount_pid();
    let process = Pid::from_raw(pid as i32).unwrap();
    kill_process(process, Signal::STOP).unwrap();
    let unmounted = output(drive.strewn(["umount", "--no-wait", "--lazy"]).arg(drive.path()));
    assert!(unmounted.status.success() && !is_mounted(drive.path()), "its process hangs");
    let said = String::from_utf8(unmounted.stderr).unwrap();
    assert!(said.contains("does not answer"), "{said}");
    kill_process(process, Signal::CONT).unwrap();
    wait_until("it notices", || !Path::new(&format!("/proc/{pid}")).exists());
}

/// A mount in the foreground, as a service manager runs it.
fn foreground(drive: &Drive, mountpoint: &Path, cache: &Path) -> (Child, BufReader<impl Read>) {
    std::fs::create_dir_all(mountpoint).unwrap();
    let mut mount = drive.strewn(["mount", "drive", "--drain-timeout", "500ms"]);
    mount.arg(mountpoint).arg("--cache-dir").arg(cache).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = mount.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("ready "), "{line:?}");
    let stderr = BufReader::new(child.stderr.take().unwrap());
    (child, stderr)
}

#[test]
fn a_mount_that_is_told_to_stop_uploads_first() {
    let drive = Drive::up();
    let (mountpoint, cache) = (drive.beside("other"), drive.beside("other-cache"));
    for kind in [Signal::TERM, Signal::INT] {
        let (mut child, mut stderr) = foreground(&drive, &mountpoint, &cache);
        let text = format!("{kind:?}");
        std::fs::write(mountpoint.join("stopped"), &text).unwrap();
        signal(child.id(), kind);
        let mut said = String::new();
        stderr.read_to_string(&mut said).unwrap();
        assert!(child.wait().unwrap().success(), "{said}");
        assert!(!is_mounted(&mountpoint));
        assert_eq!(run(drive.strewn(["cat", "strewn://drive/stopped"])), text);
    }
}

#[test]
fn a_mount_that_is_told_to_stop_without_a_network_fails_and_keeps_its_queue() {
    let drive = Drive::up();
    let (mountpoint, cache) = (drive.beside("other"), drive.beside("other-cache"));
    let (child, stderr) = foreground(&drive, &mountpoint, &cache);
    away(&drive);
    sh(&mountpoint, "head -c 300000 /dev/urandom > file; sha256sum file > ../sum");
    signal(child.id(), Signal::TERM);
    let said = failed(child, stderr);
    assert!(said.contains("not on the network yet") && said.contains("nothing is lost"), "{said}");
    wait_until("it is not mounted", || !is_mounted(&mountpoint));
    back(&drive);
    let (mut child, _stderr) = foreground(&drive, &mountpoint, &cache);
    sh(&mountpoint, "sha256sum -c ../sum");
    run(drive.strewn(["umount"]).arg(&mountpoint));
    assert!(child.wait().unwrap().success());
    assert!(run(drive.strewn(["stat", "strewn://drive/file"])).contains("300000"));
}

#[test]
fn a_directory_on_a_drive_is_no_mountpoint() {
    let drive = Drive::up();
    let inside = drive.path().join("inside");
    std::fs::create_dir(&inside).unwrap();
    let said = fail(drive.strewn(["umount"]).arg(&inside));
    assert!(said.contains("not a mountpoint"), "{said}");
    assert!(is_mounted(drive.path()));
}

/// Without the helper of umount(8) it returns at once; the process that served the drive goes on uploading. The next mount
/// does not wait for it.
#[test]
fn the_next_mount_goes_on_with_the_uploads_of_the_one_before() {
    let drive = Drive::network();
    drive.mount_drive(&[]);
    away(&drive);
    write_some(&drive);
    let before = drive.mount_pid();
    run(Command::new("umount").arg("-i").arg(drive.path()));
    drive.mount_drive(&[]);
    assert_ne!(drive.mount_pid(), before);
    assert!(drive.status()["pending_bytes"].as_u64().unwrap() >= 300_000);
    sh(drive.path(), "sha256sum -c ../sum; echo more > more");
    // Nor does one that is asked for before the drive has noticed that it is unmounted.
    for _ in 0..5 {
        rustix::mount::unmount(drive.path(), rustix::mount::UnmountFlags::empty()).unwrap();
        drive.mount_drive(&[]);
    }
    back(&drive);
    drive.sync();
    let back = drive.beside("back");
    run(drive.strewn(["cp", "strewn://drive/file"]).arg(&back));
    sh(drive.path(), "cmp file ../back");
    // Nor one that is asked for while the process before ends.
    for _ in 0..20 {
        rustix::mount::unmount(drive.path(), rustix::mount::UnmountFlags::empty()).unwrap();
        drive.mount_drive(&[]);
    }
}

#[test]
fn a_local_network_says_no_drive_is_ready_that_is_detached() {
    let drive = Drive::up();
    sh(drive.path(), "echo kept > file");
    let open = std::fs::File::open(drive.path().join("file")).unwrap();
    let pid = drive.mount_pid();
    drive.kill_network();
    run(Command::new("umount").args(["-i", "-l"]).arg(drive.path()));
    let said = fail(drive.strewn(["local", "up", "--detach", "--data"]).arg(drive.data()).arg(drive.path()));
    assert!(said.contains(&format!("process {pid}")), "{said}");
    assert_eq!(std::io::read_to_string(&open).unwrap(), "kept\n");
    drop(open);
    wait_until("nothing is open", || !Path::new(&format!("/proc/{pid}")).exists());
    drive.start();
    sh(drive.path(), "cat file");
}
