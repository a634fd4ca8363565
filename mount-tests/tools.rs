//! Tools that people point at a drive: their data comes back from the network alone.

use crate::harness::{Drive, assert_same_tree, run, sh};
use std::path::Path;
use std::process::Command;

/// The sources of this workspace: a real tree that is always there.
fn sources() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// Ends the drive and starts it again with an empty cache and three nodes less.
fn restart_cold(drive: &Drive) {
    drive.stop();
    std::fs::remove_dir_all(drive.cache()).unwrap();
    drive.start();
    for node in [1, 4, 8] {
        drive.node(node, &["stop"]);
    }
}

#[test]
fn restic_backs_up_and_its_repository_checks() {
    let drive = Drive::up();
    let restic = |arguments: &[&str]| {
        let mut command = Command::new("restic");
        command.env("RESTIC_PASSWORD", "secret").arg("--no-cache").arg("-r").arg(drive.path().join("repository"));
        run(command.args(arguments))
    };
    let engine = sources().join("engine");
    restic(&["init"]);
    restic(&["backup", engine.to_str().unwrap()]);
    restic(&["backup", engine.to_str().unwrap()]);
    drive.sync();
    restart_cold(&drive);
    restic(&["check", "--read-data"]);
    let restored = drive.beside("restored");
    restic(&["restore", "latest", "--target", restored.to_str().unwrap()]);
    assert_same_tree(&engine, &restored.join(engine.canonicalize().unwrap().strip_prefix("/").unwrap()));
}

#[test]
fn git_clones_commits_and_checks() {
    let drive = Drive::up();
    let origin = drive.beside("origin");
    std::fs::create_dir(&origin).unwrap();
    let identity = "-c user.name=t -c user.email=t@example.invalid";
    sh(
        &origin,
        &format!(
            "git init -q; cp -r '{}/engine' '{}/cache' .; git add -A; git {identity} commit -qm one",
            sources().display(),
            sources().display()
        ),
    );
    sh(
        drive.path(),
        &format!(
            "git clone -q '{}' clone; cd clone; echo x > new; git add new; git {identity} commit -qm two; git gc -q",
            origin.display()
        ),
    );
    drive.sync();
    restart_cold(&drive);
    sh(
        drive.path(),
        "cd clone; git -c safe.directory='*' fsck --full --strict; test -z \"$(git -c safe.directory='*' status --porcelain)\"",
    );
}

#[test]
fn sqlite_keeps_a_thousand_transactions_in_both_journal_modes() {
    let drive = Drive::up();
    for mode in ["delete", "wal"] {
        let inserts = "begin; insert into t(v) values (hex(randomblob(50))); commit;\n".repeat(500);
        let script = drive.beside("script.sql");
        std::fs::write(
            &script,
            format!("pragma journal_mode={mode}; create table t(id integer primary key, v);\n{inserts}"),
        )
        .unwrap();
        sh(drive.path(), &format!("sqlite3 {mode}.db < '{}' > /dev/null", script.display()));
    }
    drive.sync();
    restart_cold(&drive);
    for mode in ["delete", "wal"] {
        let checked = sh(drive.path(), &format!("sqlite3 {mode}.db 'pragma integrity_check; select count(*) from t;'"));
        assert_eq!(checked, "ok\n500\n", "{mode}");
    }
}

#[test]
fn rsync_transfers_nothing_the_second_time() {
    let drive = Drive::up();
    let sync = || {
        let mut rsync = Command::new("rsync");
        run(rsync
            .args(["-aHX", "--itemize-changes", "--exclude", "target", "--exclude", ".git"])
            .arg(format!("{}/", sources().join("peers").display()))
            .arg(drive.path().join("copy")))
    };
    assert!(!sync().is_empty());
    assert_eq!(sync(), "");
    drive.sync();
    restart_cold(&drive);
    assert_eq!(sync(), "");
}

#[test]
fn tar_unpacks_and_packs_the_same() {
    let drive = Drive::up();
    let archive = drive.beside("archive.tar");
    let list = "--sort=name --xattrs --sparse --exclude=./target --exclude=./.git";
    sh(sources(), &format!("tar {list} -cf '{}' ./engine ./fs ./README.md", archive.display()));
    sh(
        drive.path(),
        &format!(
            "mkdir tree; tar --xattrs -xpf '{0}' -C tree; tar {list} -cf - -C tree . > '{0}.again'",
            archive.display()
        ),
    );
    sh(drive.path(), &format!("mkdir '{0}.d'; tar --xattrs -xpf '{0}' -C '{0}.d'", archive.display()));
    for part in ["engine", "fs"] {
        assert_same_tree(&drive.beside("archive.tar.d").join(part), &drive.path().join("tree").join(part));
    }
}
