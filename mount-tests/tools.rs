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
fn a_copy_on_the_drive_is_not_uploaded() {
    let drive = Drive::up_with(&[]);
    let uploaded = || {
        drive.sync();
        drive.status()["uploaded_bytes"].as_u64().unwrap()
    };
    sh(drive.path(), "mkdir a b; head -c 100000000 /dev/urandom > a/big");
    let before = uploaded();
    assert!(before >= 100_000_000, "{before}");
    sh(drive.path(), "cp a/big b/big; cmp a/big b/big");
    uploaded();
    sh(drive.path(), "cp b/big b/again; cmp a/big b/again");
    let copies = uploaded() - before;
    assert!(copies < 1_000_000, "{copies} bytes were uploaded for copies");
    // Nor what a file got more since, and the copies do not hang on the first.
    sh(drive.path(), "head -c 5000000 /dev/urandom >> a/big; sync a/big");
    let before = uploaded();
    sh(drive.path(), "cp a/big b/longer; cp a/big keep; rm -r a");
    let copies = uploaded() - before;
    assert!(copies < 1_000_000, "{copies} bytes were uploaded for copies");
    restart_cold(&drive);
    sh(drive.path(), "cmp keep b/longer; cmp -n 100000000 keep b/big; cmp b/big b/again");
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

#[test]
fn borg_archives_check_and_come_back() {
    let drive = Drive::up();
    let repository = drive.path().join("repository");
    let borg = |dir: &Path, arguments: &[&str]| {
        let mut command = Command::new("borg");
        command.envs([("BORG_PASSPHRASE", "secret"), ("BORG_RELOCATED_REPO_ACCESS_IS_OK", "yes")]);
        command.env("BORG_BASE_DIR", drive.beside("borg")).env("BORG_REPO", &repository).current_dir(dir);
        run(command.args(arguments))
    };
    let peers = sources().join("peers");
    borg(&peers, &["init", "-e", "repokey"]);
    for archive in ["::one", "::two"] {
        borg(&peers, &["create", archive, "satellite"]);
    }
    borg(&peers, &["prune", "--keep-last", "1"]);
    borg(&peers, &["compact"]);
    drive.sync();
    restart_cold(&drive);
    borg(&peers, &["check", "--verify-data"]);
    let restored = drive.beside("restored");
    std::fs::create_dir(&restored).unwrap();
    borg(&restored, &["extract", "::two"]);
    assert_same_tree(&peers.join("satellite"), &restored.join("satellite"));
}

#[test]
fn cargo_builds_and_runs() {
    let drive = Drive::up();
    sh(
        drive.path(),
        "unset CARGO_TARGET_DIR; cargo init -q --offline --vcs none --name tool tool; cd tool; cargo build -q --offline; echo '// changed' >> src/main.rs
        cargo build -q --offline; test \"$(target/debug/tool)\" = 'Hello, world!'; cargo clean -q; test ! -e target/debug",
    );
}

#[test]
fn a_virtual_environment_of_python_works() {
    let drive = Drive::up();
    sh(
        drive.path(),
        "/usr/bin/python3 -m venv venv; venv/bin/python -m pip --version; venv/bin/python -m compileall -q venv/lib",
    );
    drive.sync();
    restart_cold(&drive);
    sh(drive.path(), "venv/bin/python -c 'import pip, json, sys; assert sys.prefix != sys.base_prefix'");
}

#[test]
fn a_package_is_unpacked_configured_and_purged() {
    let drive = Drive::up();
    let package = drive.beside("package");
    std::fs::create_dir_all(package.join("DEBIAN")).unwrap();
    let about =
        "Package: strewn-test\nVersion: 1\nArchitecture: all\nMaintainer: t <t@example.invalid>\nDescription: test\n";
    std::fs::write(package.join("DEBIAN/control"), about).unwrap();
    sh(
        &package,
        &format!("mkdir -p usr/share/test etc; cp -r '{}/engine' usr/share/test; ln usr/share/test/engine/Cargo.toml etc/hard
        echo one > etc/test.conf; echo /etc/test.conf > DEBIAN/conffiles; cd ..; dpkg-deb -b package one.deb
        echo two > package/etc/test.conf; sed -i 's/Version: 1/Version: 2/' package/DEBIAN/control; dpkg-deb -b package two.deb",
            sources().display()
        ),
    );
    let dpkg = |arguments: &str| {
        let root =
            "mkdir -p root/var/lib/dpkg/updates root/var/lib/dpkg/info root/var/log; touch root/var/lib/dpkg/status";
        sh(drive.path(), &format!("{root}; PATH=$PATH:/usr/sbin:/sbin dpkg --force-not-root --root=root {arguments}"))
    };
    for (archive, setting) in [("one.deb", "one\n"), ("two.deb", "two\n")] {
        dpkg(&format!("-i '{}'", drive.beside(archive).display()));
        assert_eq!(std::fs::read_to_string(drive.path().join("root/etc/test.conf")).unwrap(), setting);
    }
    dpkg("--verify strewn-test");
    // The times of directories are those of unpacking, on any file system.
    sh(drive.path(), &format!("cd root/usr; find . -type d -exec touch -r '{}/usr/{{}}' {{}} ';'", package.display()));
    assert_same_tree(&package.join("usr"), &drive.path().join("root/usr"));
    dpkg("--purge strewn-test");
    assert!(!drive.path().join("root/etc/test.conf").exists() && !drive.path().join("root/usr").exists());
}

/// What muxers of video do: a header of unknown length is left out and written when the end is known, an index at the end is
/// moved to the front.
#[test]
fn files_are_written_back_and_forth() {
    let drive = Drive::up();
    let script = "import os, sys, random
random.seed(7)
frames = [random.randbytes(random.randrange(1, 90000)) for _ in range(120)]
def movie(path):
    with open(path, 'w+b') as f:
        f.write(bytes(48)); index = []
        for frame in frames:
            index.append(f.tell()); f.write(len(frame).to_bytes(4, 'big')); f.write(frame)
        end = f.tell(); table = b''.join(at.to_bytes(8, 'big') for at in index); f.write(table)
        f.seek(0); f.write(b'MOVI' + end.to_bytes(8, 'big') + len(index).to_bytes(4, 'big'))
        for at in random.Random(1).sample(index, 40): f.seek(at + 4); f.write(b'K')
        f.flush(); os.fsync(f.fileno())
        # The index goes to the front: everything behind it moves, from the end backwards.
        size = os.fstat(f.fileno()).st_size; shift = len(table); at = size
        while at > 48:
            n = min(65536, at - 48); at -= n; f.seek(at); part = f.read(n); f.seek(at + shift); f.write(part)
        f.seek(48); f.write(table); f.truncate(size)
movie(sys.argv[1]); movie(sys.argv[2])
";
    let local = drive.beside("local");
    run(Command::new("python3").args(["-c", script]).arg(&local).arg(drive.path().join("movie")));
    drive.sync();
    restart_cold(&drive);
    run(Command::new("cmp").arg(&local).arg(drive.path().join("movie")));
}
