//! kill -9 of the mount: what was acknowledged is there after the next mount, and goes up by itself.

use crate::harness::{Drive, run, sh};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;

/// Mounts the drive of the network again after its mount was killed.
fn remount(drive: &Drive) {
    drive.mount("drive", drive.path(), &drive.access(), &drive.cache());
}

#[test]
fn everything_written_is_there_after_kill_9() {
    let drive = Drive::up();
    let path = drive.path();
    let mut expected = Vec::new();
    for round in 0..3 {
        for file in 0..40 {
            let content = vec![file as u8; 1000 * file + round];
            std::fs::write(path.join(format!("r{round}-f{file}")), &content).unwrap();
            expected.push((format!("r{round}-f{file}"), content));
        }
        sh(
            path,
            &format!(
                "mkdir -p d{round}/e; mv r{round}-f1 d{round}/e/moved; ln r{round}-f2 d{round}/hard; rm r{round}-f3; chmod 600 r{round}-f4"
            ),
        );
        drive.kill_mount();
        remount(&drive);
        for (name, content) in &expected {
            let place = match name.as_str() {
                name if name.ends_with("-f1") => path.join(format!("d{}/e/moved", &name[1..2])),
                name if name.ends_with("-f3") => {
                    assert!(!path.join(name).exists(), "{name} was removed");
                    continue;
                }
                name => path.join(name),
            };
            assert!(std::fs::read(&place).unwrap() == *content, "{}", place.display());
        }
    }
    drive.sync();
    drive.stop();
    std::fs::remove_dir_all(drive.cache()).unwrap();
    drive.start();
    assert_eq!(std::fs::read(path.join("r2-f39")).unwrap(), vec![39; 39_002]);
    assert_eq!(sh(path, "stat -c %h r0-f2; stat -c %a r0-f4"), "2\n600\n");
}

#[test]
fn synced_overwrites_survive_kill_9_in_the_middle_of_an_upload() {
    let drive = Drive::up();
    let file = drive.path().join("database");
    let open = || OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&file).unwrap();
    let mut database = open();
    database.write_all(&vec![0; 4 << 20]).unwrap();
    let mut last = [0u8; 1024];
    for round in 1..=3u8 {
        for page in (0..1024).step_by(3) {
            database.write_all_at(&[round; 4096], page * 4096).unwrap();
            last[page as usize] = round;
        }
        database.sync_data().unwrap();
        drive.kill_mount();
        remount(&drive);
        database = open();
        for (page, round) in last.iter().enumerate() {
            let mut bytes = [0; 4096];
            database.read_exact_at(&mut bytes, page as u64 * 4096).unwrap();
            assert!(bytes.iter().all(|byte| byte == round), "page {page}");
        }
    }
}

#[test]
fn the_network_survives_the_kill_of_the_mount_and_the_mount_that_of_the_network() {
    let drive = Drive::up();
    std::fs::write(drive.path().join("before"), "before").unwrap();
    drive.sync();
    assert_eq!(std::fs::read_dir(drive.path()).unwrap().count(), 1);
    let status = run(drive.strewn(["local", "status", "--json", "--data"]).arg(drive.data()));
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let pid = rustix::process::Pid::from_raw(status["pid"].as_i64().unwrap() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    // The drive goes on: cached content is read, new content is written and kept.
    assert_eq!(std::fs::read(drive.path().join("before")).unwrap(), b"before");
    let mut file = File::create(drive.path().join("after")).unwrap();
    file.write_all(b"after").unwrap();
    file.sync_all().unwrap();
    drop(file);
    run(drive.strewn(["umount", "--no-wait"]).arg(drive.path()));
    drive.start();
    assert_eq!(std::fs::read(drive.path().join("after")).unwrap(), b"after");
    drive.sync();
}
