//! What goes wrong is said clearly, with what to do next.

use crate::harness::{Drive, fail, output, run, sh};
use std::process::Command;

#[track_caller]
fn assert_says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is not in {text:?}");
    }
}

#[test]
fn mountpoints_that_cannot_be_used_are_named() {
    let drive = Drive::up();
    let cache = drive.beside("other-cache");
    let mount = |at: &std::path::Path| {
        let mut command = drive.strewn(["mount", "drive"]);
        command.arg(at).arg("--cache-dir").arg(&cache);
        fail(&mut command)
    };
    assert_says(&mount(&drive.beside("missing")), &["missing", "does not exist"]);
    let file = drive.beside("file");
    std::fs::write(&file, "").unwrap();
    assert_says(&mount(&file), &["not a directory"]);
    let full = drive.beside("full");
    std::fs::create_dir(&full).unwrap();
    std::fs::write(full.join("x"), "").unwrap();
    assert_says(&mount(&full), &["not empty"]);
    assert_says(&mount(drive.path()), &["already"]);
    for how in [&["--detach"][..], &[]] {
        let said = fail(drive.strewn(["local", "up", "--data"]).arg(drive.beside("second")).arg(&full).args(how));
        assert_says(&said, &["full is not empty", "choose an empty directory"]);
        assert_eq!(said.matches("not empty").count(), 1, "it is said once: {said}");
    }
}

#[test]
fn one_cache_serves_one_mount() {
    let drive = Drive::up();
    let other = drive.beside("other");
    std::fs::create_dir(&other).unwrap();
    let mut second = drive.strewn(["mount", "drive"]);
    second.arg(&other).arg("--cache-dir").arg(drive.cache());
    assert_says(&fail(&mut second), &["cache", "in use"]);
}

#[test]
fn a_stale_mount_is_cleaned_by_the_next_one() {
    let drive = Drive::up();
    std::fs::write(drive.path().join("file"), "kept").unwrap();
    let pid = rustix::process::Pid::from_raw(drive.mount_pid() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    crate::harness::wait_until("the mount is stale", || std::fs::metadata(drive.path()).is_err());
    let mut again = drive.strewn(["mount", "drive"]);
    again.arg(drive.path()).arg("--cache-dir").arg(drive.cache()).arg("--detach");
    run(&mut again);
    assert_eq!(std::fs::read(drive.path().join("file")).unwrap(), b"kept");
}

#[test]
fn unreachable_satellites_and_missing_buckets_are_told_apart() {
    let drive = Drive::up();
    assert_says(&fail(drive.strewn(["ls", "strewn://nothere/"])), &["nothere", "not found"]);
    assert_says(&fail(drive.strewn(["ls", "--access", "nosuch", "strewn://drive/"])), &["nosuch", "access grant"]);
    drive.stop();
    assert_says(&fail(drive.strewn(["ls", "strewn://drive/"])), &["unreachable"]);
}

#[test]
fn data_of_another_version_and_a_second_network_on_it_are_refused() {
    let drive = Drive::up();
    let up = || drive.strewn(["local", "up", "--data"]).arg(drive.data()).arg("--detach").output().unwrap();
    let error = String::from_utf8(up().stderr).unwrap();
    assert_says(&error, &["in use"]);
    drive.stop();
    let settings = drive.data().join("network.json");
    let newer = std::fs::read_to_string(&settings).unwrap().replacen("\"version\": 1", "\"version\": 999", 1);
    std::fs::write(&settings, newer).unwrap();
    let error = String::from_utf8(up().stderr).unwrap();
    assert_says(&error, &["version", "999"]);
}

#[test]
fn too_few_nodes_is_said_and_nothing_is_lost() {
    let drive = Drive::up();
    for node in 0..5 {
        drive.node(node, &["stop"]);
    }
    sh(drive.path(), "head -c 300000 /dev/urandom > file; sha256sum file > ../sum");
    let error = fail(drive.strewn(["umount", "--timeout", "1"]).arg(drive.path()));
    assert_says(&error, &["storage nodes", "nothing is lost"]);
    for node in 0..5 {
        drive.node(node, &["start"]);
    }
    drive.sync();
    sh(drive.path(), "sha256sum -c ../sum");
}

#[test]
fn wrong_use_exits_with_2_and_failures_with_1() {
    let code = |arguments: &[&str]| output(Command::new(env!("CARGO_BIN_EXE_strewn")).args(arguments)).status.code();
    assert_eq!(code(&["no-such-command"]), Some(2));
    assert_eq!(code(&["mount", "/nowhere", "/nowhere"]), Some(2));
    assert_eq!(code(&["umount", "/nowhere/at/all"]), Some(1));
    assert_eq!(code(&["--version"]), Some(0));
}
