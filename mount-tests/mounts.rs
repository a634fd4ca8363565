//! Two mounts of one bucket: what is exclusive is exclusive on both, and what changes on one shows on the other.

use crate::harness::{Drive, differences, kill, run, sh, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Barrier;

/// Races of each kind.
const RACES: usize = 25;

/// A second mount of the drive's bucket, with a cache of its own.
fn second(drive: &Drive) -> PathBuf {
    let mountpoint = drive.beside("second");
    drive.mount("drive", &mountpoint, &drive.access(), &drive.beside("second-cache"));
    mountpoint
}

fn status(drive: &Drive, mountpoint: &Path) -> serde_json::Value {
    let text = run(drive.strewn(["status", "--json"]).arg(mountpoint));
    serde_json::from_str(&text).expect("status prints JSON")
}

/// True for the winner.
fn create(what: usize, path: &Path) -> bool {
    let done = match what {
        0 => fs::create_dir(path),
        _ => OpenOptions::new().write(true).create_new(true).open(path).map(drop),
    };
    match done {
        Ok(()) => true,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
        Err(error) => panic!("{}: {error}", path.display()),
    }
}

#[test]
fn of_two_mounts_that_create_the_same_name_one_wins() {
    let drive = Drive::up();
    let other = second(&drive);
    let mounts = [drive.path(), &other];
    let barrier = Barrier::new(mounts.len());
    let races = |mount: &Path| -> Vec<bool> {
        let race = |number: usize| {
            let path = mount.join(format!("race-{number}"));
            barrier.wait();
            create(number % 2, &path)
        };
        (0..2 * RACES).map(race).collect()
    };
    let won: Vec<Vec<bool>> = std::thread::scope(|scope| {
        let racers = mounts.map(|mount| scope.spawn(move || races(mount)));
        racers.map(|racer| racer.join().expect("it raced")).into()
    });
    for (number, (one, two)) in won[0].iter().zip(&won[1]).enumerate() {
        assert!(one != two, "race {number}: {one} and {two}");
    }
    for mount in mounts {
        run(drive.strewn(["sync"]).arg(mount));
        assert_eq!(status(&drive, mount)["conflicts"], 0);
    }
    for mount in mounts {
        wait_until("both show what was made", || fs::read_dir(mount).expect("it lists").count() == 2 * RACES);
    }
    run(drive.strewn(["umount"]).arg(&other));
}

#[test]
fn a_mount_that_died_blocks_nobody_for_long() {
    let drive = Drive::up();
    wait_until("all names", || status(&drive, drive.path())["lease"] == "all");
    let other = second(&drive);
    kill(drive.mount_pid());
    // It held all names, and nobody knows what it has made of them.
    fs::create_dir(other.join("mine")).expect("it is made as soon as the lease is over");
    assert!(status(&drive, &other)["lease_waits"].as_u64().is_some_and(|waits| waits > 0));
    run(Command::new("umount").arg("-l").arg(drive.path()));
    run(drive.strewn(["umount"]).arg(&other));
}

#[test]
fn what_one_mount_changes_shows_on_the_other() {
    let drive = Drive::up();
    let other = second(&drive);
    let (here, there) = (drive.path().join("file"), other.join("file"));
    for round in 0..5 {
        let text = format!("round {round}");
        fs::write(&here, &text).expect("it is written");
        drive.sync();
        wait_until(&text, || fs::read_to_string(&there).is_ok_and(|read| read == text));
    }
    fs::rename(&there, other.join("moved")).expect("it is moved");
    run(drive.strewn(["sync"]).arg(&other));
    wait_until("moved", || !here.exists() && drive.path().join("moved").exists());
    run(drive.strewn(["umount"]).arg(&other));
}

#[test]
fn what_is_removed_in_great_numbers_is_soon_gone_on_the_other() {
    let drive = Drive::up();
    let other = second(&drive);
    let directories = [drive.path().join("d"), other.join("d")];
    let names: Vec<String> = (0..8000).map(|number| format!("name-{number}")).collect();
    fs::create_dir(&directories[0]).unwrap();
    fs::write(directories[0].join(&names[0]), "").unwrap();
    for name in &names[1..] {
        fs::hard_link(directories[0].join(&names[0]), directories[0].join(name)).unwrap();
    }
    drive.sync();
    let shown = || names.iter().filter(|name| fs::symlink_metadata(directories[1].join(name)).is_ok()).count();
    wait_until("all are there", || shown() == names.len());
    for name in &names[1..] {
        fs::remove_file(directories[0].join(name)).unwrap();
    }
    drive.sync();
    // Sooner than the kernel would ask again by itself. The file stays, so that nothing else makes it ask.
    wait_until("all but one are gone", || shown() == 1);
    run(drive.strewn(["umount"]).arg(&other));
}

#[test]
fn who_lost_the_feed_believes_no_name() {
    let drive = Drive::up();
    let other = second(&drive);
    fs::create_dir(drive.path().join("d")).unwrap();
    drive.sync();
    let is_there = |name: &str| fs::symlink_metadata(other.join("d").join(name)).is_ok();
    wait_until("the directory is there", || is_there("."));
    assert!(!is_there("heard of") && !is_there("missed"));
    let process = Pid::from_raw(status(&drive, &other)["pid"].as_i64().expect("a process id") as i32).unwrap();
    kill_process(process, Signal::STOP).unwrap();
    // The first is the answer to a question that was asked before.
    for name in ["heard of", "missed"] {
        fs::write(drive.path().join("d").join(name), "").unwrap();
        drive.sync();
    }
    // As after more than the satellite remembers.
    let forget = "DELETE FROM feed; UPDATE buckets SET feed_first = sequence + 1;";
    sh(&drive.data().join("satellite"), &format!("sqlite3 metabase.sqlite '{forget}'"));
    kill_process(process, Signal::CONT).unwrap();
    // Sooner than the kernel would ask again by itself.
    wait_until("both are there", || is_there("heard of") && is_there("missed"));
    run(drive.strewn(["umount"]).arg(&other));
}

#[test]
fn a_mount_that_is_alone_holds_all_names() {
    let drive = Drive::up();
    let lease = |mount: &Path| status(&drive, mount)["lease"].as_str().map(str::to_owned);
    wait_until("all names", || lease(drive.path()).as_deref() == Some("all"));
    let waits = status(&drive, drive.path())["lease_waits"].clone();
    for number in 0..100 {
        fs::create_dir(drive.path().join(format!("{number}"))).expect("it is made");
    }
    assert_eq!(status(&drive, drive.path())["lease_waits"], waits, "it asks nobody");
    let told = run(drive.strewn(["status"]).arg(drive.path()));
    assert!(told.contains("\n  lease      all names: "), "{told}");
    // A second one that creates something takes part.
    let other = second(&drive);
    fs::create_dir(other.join("theirs")).expect("it is made");
    assert_ne!(lease(drive.path()).as_deref(), Some("all"));
    run(drive.strewn(["umount"]).arg(&other));
}

/// What commands may say when somebody else removes or makes what they work on.
const EXPECTED: [&str; 4] = ["No such file or directory", "File exists", "Directory not empty", "Stale file handle"];

/// Removes trees and copies them anew, whatever happens to them meanwhile. What the commands complained about.
fn replace_trees(mount: &Path, source: &Path, seed: usize) -> String {
    let rounds = std::env::var("STREWN_ROUNDS").map_or(60, |rounds| rounds.parse().expect("a number"));
    let replace = format!("rm -rf $tree 2>&1 || :; cp -a {} $tree 2>&1 || :", source.display());
    sh(mount, &format!("RANDOM={seed}; for round in $(seq {rounds}); do tree=x$((RANDOM % 4)); {replace}; done"))
}

#[test]
fn trees_that_both_remove_and_copy_are_the_same_everywhere_in_the_end() {
    let drive = Drive::up();
    let (other, fresh, source) = (second(&drive), drive.beside("fresh"), drive.beside("source"));
    fs::create_dir(&source).expect("a directory");
    sh(
        &source,
        "for d in 1 2 3; do mkdir -p s$d/t; for f in 1 2 3 4 5; do head -c 5000 /dev/urandom > s$d/t/f$f; done; done",
    );
    let (mounts, source) = ([drive.path(), &other], source.as_path());
    let said: Vec<String> = std::thread::scope(|scope| {
        let both = [0, 1].map(|seed| scope.spawn(move || replace_trees(mounts[seed], source, seed + 1)));
        both.into_iter().map(|one| one.join().expect("it ends")).collect()
    });
    for line in said.iter().flat_map(|said| said.lines()) {
        assert!(EXPECTED.iter().any(|expected| line.ends_with(expected)), "{line}");
    }
    for mount in [mounts, mounts].concat() {
        run(drive.strewn(["sync", "--timeout", "5m"]).arg(mount));
    }
    drive.mount("drive", &fresh, &drive.access(), &drive.beside("fresh-cache"));
    for mount in mounts {
        wait_until("both show what the network has", || differences(mount, &fresh).is_empty());
    }
    for mount in [&fresh, &other] {
        run(drive.strewn(["umount"]).arg(mount));
    }
}
