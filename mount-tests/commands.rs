//! The commands that work on a bucket without a mount.

use crate::harness::{Drive, assert_same_tree, fail, output, run, sh, text, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use std::path::Path;
use std::process::Stdio;

#[test]
fn copy_list_read_move_and_remove() {
    let drive = Drive::up();
    let local = drive.beside("local");
    std::fs::create_dir(&local).unwrap();
    sh(
        &local,
        "mkdir -p tree/sub; head -c 3000000 /dev/urandom > tree/big; echo small > tree/sub/small; ln -s sub/small tree/link",
    );
    let tree = local.join("tree");
    run(drive.strewn(["cp", "-r"]).arg(&tree).arg("strewn://drive/copies"));
    let listed = run(drive.strewn(["ls", "-r", "strewn://drive/copies"]));
    for name in ["big", "sub/small", "link"] {
        assert!(listed.contains(name), "{name} in {listed}");
    }
    let listed: Vec<serde_json::Value> = run(drive.strewn(["ls", "--json", "strewn://drive/copies"]))
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let big = listed.iter().find(|entry| entry["name"] == "big").expect("big is listed");
    assert_eq!((big["kind"].as_str(), big["size"].as_u64()), (Some("file"), Some(3_000_000)));
    assert_eq!(run(drive.strewn(["cat", "strewn://drive/copies/sub/small"])), "small\n");
    let back = drive.beside("back");
    run(drive.strewn(["cp", "-r", "strewn://drive/copies"]).arg(&back));
    assert_same_tree(&tree, &back);
    run(drive.strewn(["mv", "strewn://drive/copies/big", "strewn://drive/large"]));
    assert!(run(drive.strewn(["stat", "strewn://drive/large"])).contains("3000000"));
    assert!(run(drive.strewn(["du", "strewn://drive/"])).contains("3000006"));
    fail(drive.strewn(["rm", "strewn://drive/copies"]));
    run(drive.strewn(["rm", "-r", "strewn://drive/copies"]));
    fail(drive.strewn(["stat", "strewn://drive/copies"]));
}

#[test]
fn what_cannot_be_copied_keeps_nothing_else_from_being_copied() {
    let drive = Drive::up();
    let (local, back) = (drive.beside("local"), drive.beside("back"));
    sh(&drive.beside(""), "mkdir local; mkfifo local/b-pipe; echo 1 > local/a; echo 3 > local/c");
    let said = fail(drive.strewn(["cp", "-r"]).arg(&local).arg("strewn://drive/copies"));
    assert!(said.contains("b-pipe") && said.contains("not copied"), "{said}");
    wait_until("the mount hears of it", || drive.path().join("copies/c").exists());
    sh(drive.path(), "cmp copies/a ../local/a; cmp copies/c ../local/c; mkfifo copies/b-pipe");
    drive.sync();
    let said = fail(drive.strewn(["cp", "-r", "strewn://drive/copies"]).arg(&back));
    assert!(said.contains("b-pipe") && said.contains("not copied"), "{said}");
    sh(&back, "cmp a ../local/a; cmp c ../local/c");
}

#[test]
fn what_cannot_be_read_keeps_nothing_else_from_being_copied() {
    let drive = Drive::up();
    // The kernel lets nobody read these, not even root.
    let (tree, unreadable) = ("/sys/bus/cpu", ["uevent", "drivers_probe"]);
    let said = fail(drive.strewn(["cp", "-q", "-r", tree, "strewn://drive/copy"]));
    assert!(unreadable.iter().all(|name| said.contains(name)), "{said}");
    let copied = |name: &str| output(drive.strewn(["stat", &format!("strewn://drive/copy/{name}")])).status.success();
    assert!(copied("drivers_autoprobe") && copied("devices") && !unreadable.into_iter().any(copied));
    assert!(!run(drive.strewn(["ls", "strewn://drive/copy"])).contains("partial"));
}

#[test]
fn an_interrupted_upload_leaves_what_was_there() {
    let drive = Drive::up();
    std::fs::write(drive.path().join("file"), "old").unwrap();
    drive.sync();
    for signal in [Signal::INT, Signal::TERM] {
        let mut child = drive.strewn(["cp", "-", "strewn://drive/file"]).stdin(Stdio::piped()).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut input, &vec![b'x'; 3_000_000]).unwrap();
        let names = || std::fs::read_dir(drive.path()).unwrap().map(|entry| entry.unwrap().file_name());
        wait_until("a part is on the network", || names().count() == 2);
        assert_eq!(std::fs::read_to_string(drive.path().join("file")).unwrap(), "old");
        kill_process(Pid::from_child(&child), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(128 + signal.as_raw()));
        wait_until("the part is gone", || names().count() == 1);
    }
    assert_eq!(std::fs::read_to_string(drive.path().join("file")).unwrap(), "old");
}

#[test]
fn standard_streams_go_in_and_out() {
    let drive = Drive::up();
    let mut child = drive.strewn(["cp", "-", "strewn://drive/stream"]).stdin(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), &[b'x'; 100_000]).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(run(drive.strewn(["cp", "strewn://drive/stream", "-"])).len(), 100_000);
}

#[test]
fn a_share_is_written_to_the_directory_that_one_is_in() {
    let drive = Drive::up();
    std::fs::create_dir(drive.path().join("shared")).unwrap();
    std::fs::write(drive.path().join("shared/file"), "1").unwrap();
    drive.sync();
    let home = drive.beside("home");
    std::fs::create_dir(&home).unwrap();
    let share = ["access", "share", "strewn://drive/shared", "--export-to", "shared.grant"];
    run(drive.strewn(share).current_dir(&home));
    let cat = ["cat", "strewn://drive/file", "--access", "./shared.grant"];
    assert_eq!(run(drive.strewn(cat).current_dir(&home)), "1");
}

#[test]
fn what_succeeds_says_nothing_and_what_fails_says_why() {
    let drive = Drive::up();
    std::fs::create_dir(drive.path().join("directory")).unwrap();
    std::fs::write(drive.path().join("file"), "1").unwrap();
    drive.sync();
    let cat = drive.strewn(["cat", "strewn://drive/file"]).output().unwrap();
    assert!(cat.status.success() && cat.stderr.is_empty(), "{}", String::from_utf8_lossy(&cat.stderr));
    let file = drive.beside("local");
    std::fs::write(&file, "2").unwrap();
    let error = |arguments: &[&str]| fail(drive.strewn(arguments));
    let cases: [(&[&str], &str); 4] = [
        (&["cat", "strewn://drive/missing"], "No such file or directory"),
        (&["cat", "strewn://drive/directory"], "Is a directory"),
        (&["ls", "strewn://drive/missing"], "No such file or directory"),
        (&["rm", "strewn://drive/file/below"], "Not a directory"),
    ];
    for (arguments, why) in cases {
        let said = error(arguments);
        assert!(said.contains(why), "{arguments:?}: {said}");
    }
    // A slash at the end means a directory.
    for (to, why) in [("strewn://drive/new/", "No such file or directory"), ("strewn://drive/file/", "not a directory")]
    {
        for from in [["cp", file.to_str().unwrap()], ["cp", "-"], ["mv", "strewn://drive/file"]] {
            let said = fail(drive.strewn(from).arg(to));
            assert!(said.contains(why), "{to}: {said}");
        }
    }
    let quiet = drive.strewn(["cp", "-q"]).arg(&file).arg("strewn://drive/directory/").output().unwrap();
    assert!(quiet.status.success() && quiet.stderr.is_empty(), "{}", String::from_utf8_lossy(&quiet.stderr));
    let said = fail(drive.strewn(["ls", "strewn://drive/", "--access", "./missing"]));
    assert!(said.contains("neither a file nor a saved one"), "{said}");
    assert_eq!(run(drive.strewn(["cat", "strewn://drive/directory/local"])), "2");
}

#[test]
fn buckets_are_made_listed_and_removed() {
    let drive = Drive::up();
    run(drive.strewn(["mb", "strewn://second"]));
    fail(drive.strewn(["mb", "strewn://second"]));
    let buckets = run(drive.strewn(["ls"]));
    assert!(buckets.contains("drive") && buckets.contains("second"), "{buckets}");
    let file = drive.beside("file");
    std::fs::write(&file, "x").unwrap();
    run(drive.strewn(["cp"]).arg(&file).arg("strewn://second/file"));
    let error = fail(drive.strewn(["rb", "strewn://second"]));
    assert!(error.contains("not empty") && error.contains("--force"), "{error}");
    run(drive.strewn(["rb", "--force", "strewn://second"]));
    assert!(!run(drive.strewn(["ls"])).contains("second"));
}

#[test]
fn what_one_way_writes_the_other_sees() {
    let drive = Drive::up();
    std::fs::write(drive.path().join("by-mount"), "1").unwrap();
    drive.sync();
    assert_eq!(run(drive.strewn(["cat", "strewn://drive/by-mount"])), "1");
    let file = drive.beside("file");
    std::fs::write(&file, "2").unwrap();
    run(drive.strewn(["cp"]).arg(&file).arg("strewn://drive/by-command"));
    crate::harness::wait_until("the mount sees the new file", || drive.path().join("by-command").exists());
    assert_eq!(std::fs::read(drive.path().join("by-command")).unwrap(), b"2");
}

#[test]
fn a_copy_replaces_the_files_and_links_that_are_there() {
    let drive = Drive::up();
    let (local, back) = (drive.beside("local"), drive.beside("back"));
    std::fs::create_dir(&local).unwrap();
    sh(&local, "mkdir tree; echo 1 > tree/file; ln -s file tree/link; ln -s file tree/same");
    std::fs::create_dir(&back).unwrap();
    for _ in 0..2 {
        run(drive.strewn(["cp", "-r"]).arg(local.join("tree")).arg("strewn://drive/"));
        run(drive.strewn(["cp", "-r", "strewn://drive/tree"]).arg(&back));
        assert_same_tree(&local.join("tree"), &back.join("tree"));
        sh(&local, "echo 2 > tree/file; ln -sfn elsewhere tree/link");
    }
    // A link to a file is followed.
    sh(&back, "echo old > target; ln -s target through");
    run(drive.strewn(["cp", "strewn://drive/tree/file"]).arg(back.join("through")));
    assert_eq!(std::fs::read_to_string(back.join("target")).unwrap(), "2\n");
    assert!(back.join("through").is_symlink());
}

#[test]
fn of_several_places_each_is_done() {
    let drive = Drive::up();
    for name in ["first", "last"] {
        std::fs::write(drive.path().join(name), name).unwrap();
    }
    drive.sync();
    let places = ["strewn://drive/first", "strewn://drive/missing", "strewn://drive/nothing", "strewn://drive/last"];
    let found = output(drive.strewn(["cat"]).args(places));
    assert_eq!((found.status.code(), &found.stdout[..]), (Some(1), &b"firstlast"[..]));
    let said = text(&found.stderr);
    assert!(said.contains("missing") && said.contains("nothing"), "{said}");
    let said = fail(drive.strewn(["rm"]).args(places));
    assert!(said.contains("missing") && said.contains("nothing"), "{said}");
    assert_eq!(run(drive.strewn(["ls", "strewn://drive/"])), "");
}

#[test]
fn a_reader_that_has_seen_enough_ends_a_command_quietly() {
    let drive = Drive::up();
    std::fs::write(drive.path().join("file"), vec![b'x'; 3_000_000]).unwrap();
    drive.sync();
    for command in [["cat", "strewn://drive/file"].as_slice(), &["cp", "-q", "strewn://drive/file", "-"]] {
        let mut child = drive.strewn(command).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut first = [0; 10];
        std::io::Read::read_exact(&mut child.stdout.take().unwrap(), &mut first).unwrap();
        let ended = child.wait_with_output().unwrap();
        assert_eq!((ended.status.code(), text(&ended.stderr)), (Some(128 + 13), String::new()), "{command:?}");
    }
}

#[test]
fn a_copy_that_waits_for_a_pipe_is_interrupted() {
    let drive = Drive::up();
    std::fs::write(drive.path().join("file"), vec![b'x'; 3_000_000]).unwrap();
    drive.sync();
    let pipe = drive.beside("pipe");
    sh(drive.path(), &format!("mkfifo {}", pipe.display()));
    for (to, signal) in [(&*pipe, Signal::INT), (Path::new("-"), Signal::TERM)] {
        let mut copy = drive.strewn(["cp", "-q", "strewn://drive/file"]);
        let mut child = copy.arg(to).stdout(Stdio::piped()).spawn().unwrap();
        // Nobody reads it, or no more than there is room for.
        let tasks = format!("/proc/{}/task", child.id());
        let waits = || {
            let mut tasks = std::fs::read_dir(&tasks).unwrap().map(|task| task.unwrap().path().join("wchan"));
            let at_pipe = |at: String| at == "wait_for_partner" || at.contains("pipe_write");
            tasks.any(|task| std::fs::read_to_string(task).is_ok_and(at_pipe))
        };
        wait_until("the copy waits", waits);
        kill_process(Pid::from_child(&child), signal).unwrap();
        let stat = format!("/proc/{}/stat", child.id());
        wait_until("the copy ends", || std::fs::read_to_string(&stat).unwrap().contains(") Z "));
        assert_eq!(child.wait().unwrap().code(), Some(128 + signal.as_raw()), "{to:?}");
    }
}

#[test]
fn an_interrupted_download_leaves_what_was_there() {
    let drive = Drive::up();
    std::fs::write(drive.path().join("file"), vec![b'x'; 3_000_000]).unwrap();
    drive.sync();
    let here = drive.beside("here");
    std::fs::create_dir(&here).unwrap();
    std::fs::write(here.join("file"), "old").unwrap();
    (0..10).for_each(|node| drive.node(node, &["hang"]));
    let mut child = drive.strewn(["cp", "-q", "strewn://drive/file"]).arg(&here).spawn().unwrap();
    let names = || std::fs::read_dir(&here).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    wait_until("the download begins", || names().len() == 2);
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(128 + 2));
    assert_eq!(names(), ["file"]);
    assert_eq!(std::fs::read_to_string(here.join("file")).unwrap(), "old");
}
