//! The network is away: what is here goes on, what is not fails in time and says why, and all of it comes back by itself.

use crate::harness::{Drive, fail, is_mounted, output, run, sh, text, wait_until};
use rustix::io::Errno;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a request may wait for the network in these tests.
const DEADLINE: &str = "deadline=2";
/// What must not need the network may take this long on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(1);
/// What fails at its deadline has failed by then.
const IN_TIME: Duration = Duration::from_secs(10);

/// Does something that must not take long; gives what came of it and says how long it took.
#[track_caller]
fn within<T>(limit: Duration, what: &str, work: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let done = work();
    let took = begun.elapsed();
    println!("{what}: {took:?}");
    assert!(took < limit, "{what} took {took:?}");
    done
}

fn errno<T>(result: std::io::Result<T>) -> Option<Errno> {
    result.err().and_then(|error| Errno::from_io_error(&error))
}

#[test]
fn what_is_here_goes_on_while_the_network_is_away() {
    let drive = Drive::network();
    let path = drive.path();
    let elsewhere = drive.beside("elsewhere");
    sh(drive.beside("").as_path(), "head -c 3000000 /dev/urandom > elsewhere");
    run(drive.strewn(["cp"]).arg(&elsewhere).arg("strewn://drive/elsewhere"));
    drive.mount_drive(&["-o", DEADLINE]);
    sh(path, "mkdir d; head -c 200000 /dev/urandom > d/here; cp d/here ../here; ls -l; ls -l d");
    drive.sync();

    drive.kill_network();

    within(AT_ONCE, "statvfs", || rustix::fs::statvfs(path)).unwrap();
    let listed = within(AT_ONCE, "a listing", || fs::read_dir(path.join("d")).unwrap().count());
    assert_eq!(listed, 1);
    let size = within(AT_ONCE, "stat", || fs::metadata(path.join("elsewhere")).unwrap().len());
    assert_eq!(size, 3_000_000);
    let absent = within(AT_ONCE, "stat of what is not there", || errno(fs::metadata(path.join("d/not-there"))));
    assert_eq!(absent, Some(Errno::NOENT), "all names of the directory are known");
    assert!(
        within(AT_ONCE, "a read", || fs::read(path.join("d/here")).unwrap()) == fs::read(drive.beside("here")).unwrap()
    );
    // Changes of all kinds.
    sh(
        path,
        "for i in $(seq 50); do echo $i > d/new-$i; done; mkdir -p e/f; mv d/new-1 e/f/moved; ln d/new-2 e/linked
         rm d/new-3; chmod 600 d/new-4; echo more >> d/here; ln -s d e/link; setfattr -n user.colour -v blue d/new-5",
    );
    let mut appended = OpenOptions::new().append(true).open(path.join("elsewhere")).unwrap();
    appended.write_all(b"more").unwrap();
    within(AT_ONCE, "fsync", || appended.sync_all()).unwrap();

    // What is not here fails, and is not mistaken for something else.
    let mut file = File::open(path.join("elsewhere")).unwrap();
    let failed = within(IN_TIME, "a read of what is not here", || errno(file.read(&mut [0; 4096])));
    assert_eq!(failed, Some(Errno::TIMEDOUT));
    assert_eq!(fs::metadata(path.join("elsewhere")).unwrap().len(), 3_000_004);
    // And who waits for it can be killed.
    let mut reader = Command::new("cat").arg(path.join("elsewhere")).stdout(Stdio::null()).spawn().unwrap();
    reader.kill().unwrap();
    within(IN_TIME, "the end of a killed reader", || reader.wait()).unwrap();

    wait_until("the status says so", || drive.status()["reachable"] == false);
    let status = drive.status();
    assert!(status["last_error"].as_str().unwrap().contains("unreachable"), "{status}");
    let shown = run(drive.strewn(["status"]).arg(path));
    assert!(shown.contains("UNREACHABLE") && shown.contains("network unreachable: "), "{shown}");

    // Neither unmounting nor mounting needs it.
    let refused = output(drive.strewn(["umount", "--timeout", "500ms"]).arg(path));
    let said = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("not on the network yet") && said.contains("nothing is lost"), "{said}");
    assert!(is_mounted(path));
    drop((appended, file));
    run(drive.strewn(["umount", "--no-wait"]).arg(path));
    drive.mount_drive(&["-o", DEADLINE]);
    assert_eq!(sh(path, "cat e/f/moved; readlink e/link; stat -c '%h %a' d/new-2 d/new-4"), "1\nd\n2 644\n1 600\n");

    // It all goes on by itself.
    drive.start();
    wait_until("the network is back", || drive.status()["reachable"] == true);
    wait_until("everything is uploaded", || drive.status()["pending_operations"] == 0);
    sh(path, "head -c 3000000 elsewhere | cmp - ../elsewhere; tail -c 4 elsewhere | grep -x more");
    let other = drive.beside("other");
    drive.mount("drive", &other, &drive.access(), &drive.beside("other-cache"));
    let contents =
        "find . -type f | sort | xargs sha256sum; find . -printf '%y %m %n %p %l\\n' | sort; getfattr -d d/new-5";
    assert_eq!(sh(&other, contents), sh(path, contents));
    run(drive.strewn(["umount"]).arg(&other));
}

#[test]
fn the_status_tells_who_was_reached() {
    let drive = Drive::network();
    drive.mount_drive(&["-o", DEADLINE]);
    let before = drive.status();
    assert!(before["satellite_reachable"] == true && before["nodes_known"] == 0, "{before}");
    sh(drive.path(), "head -c 3000000 /dev/urandom > a");
    drive.sync();
    let stored = drive.status();
    assert!(stored["nodes_known"] == 10 && stored["nodes_unreachable"] == 0, "{stored}");
    assert!(stored["nodes_reachable"].as_u64() >= Some(8), "{stored}");
    drive.node(3, &["stop"]);
    sh(drive.path(), "head -c 3000000 /dev/urandom > b");
    drive.sync();
    wait_until("it was noticed", || drive.status()["nodes_unreachable"] == 1);
    let shown = run(drive.strewn(["status"]).arg(drive.path()));
    assert!(shown.contains("satellite  reachable") && shown.contains("of 10 reachable, 1 UNREACHABLE"), "{shown}");
    drive.kill_network();
    wait_until("the satellite is away", || drive.status()["satellite_reachable"] == false);
    assert!(run(drive.strewn(["status"]).arg(drive.path())).contains("satellite  UNREACHABLE, last answer "));
    drive.start();
    wait_until("it is back", || drive.status()["satellite_reachable"] == true);
}

#[test]
fn a_place_that_was_never_mounted_needs_the_network() {
    let drive = Drive::network();
    drive.kill_network();
    fs::create_dir(drive.path()).unwrap();
    let mut mount = drive.strewn(["mount", "drive"]);
    let said = fail(mount.arg(drive.path()).arg("--cache-dir").arg(drive.beside("cache")));
    assert!(said.contains("unreachable") && said.contains("satellite"), "{said}");
}

/// Names below a directory, with their sizes: what `ls -lR` asks for.
fn walk(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| 1 + if entry.metadata().unwrap().is_dir() { walk(&entry.path()) } else { 0 }).sum()
}

#[test]
fn ten_thousand_pending_changes_are_there_at_once_after_kill_9() {
    const DIRECTORIES: usize = 10;
    const FILES: usize = 1_000;
    /// The mark is one second in a release build; this is a debug build on a busy machine.
    const SOON: Duration = Duration::from_secs(15);
    let drive = Drive::network();
    drive.mount_drive(&["-o", DEADLINE]);
    let all = drive.path().join("all");
    fs::create_dir(&all).unwrap();
    drive.sync();
    drive.kill_network();
    for directory in 0..DIRECTORIES {
        let directory = all.join(directory.to_string());
        fs::create_dir(&directory).unwrap();
        for file in 0..FILES {
            fs::write(directory.join(file.to_string()), format!("{}/{file}", directory.display())).unwrap();
        }
    }
    assert!(drive.status()["pending_files"].as_u64().unwrap() >= (DIRECTORIES * FILES) as u64);
    drive.kill_mount();
    within(SOON, "from exec to ready with 10,000 pending files", || drive.mount_drive(&["-o", DEADLINE]));
    let found = within(SOON, "the first complete listing", || walk(&all));
    assert_eq!(found, DIRECTORIES * (FILES + 1));
    for directory in 0..DIRECTORIES {
        for file in (0..FILES).step_by(97) {
            let path = all.join(directory.to_string()).join(file.to_string());
            assert_eq!(fs::read_to_string(&path).unwrap(), path.display().to_string());
        }
    }
    drive.start();
    drive.sync();
    let other = drive.beside("other");
    drive.mount("drive", &other, &drive.access(), &drive.beside("other-cache"));
    assert_eq!(walk(&other.join("all")), DIRECTORIES * (FILES + 1));
    run(drive.strewn(["umount"]).arg(&other));
}
