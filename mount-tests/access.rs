//! Grants: a restricted one opens exactly what it says.

use crate::harness::{Drive, fail, output, run, sh, text, wait_until};

#[test]
fn a_read_only_grant_of_a_subtree_shows_that_subtree_and_takes_no_change() {
    let drive = Drive::up();
    sh(
        drive.path(),
        "mkdir -p shared/deep secret; echo hello > shared/deep/file; echo no > secret/file; ln -s deep/file shared/link",
    );
    drive.sync();
    let grant = drive.beside("shared.grant");
    let text = run(drive.strewn(["access", "restrict", "--readonly", "--path", "strewn://drive/shared"]));
    std::fs::write(&grant, text).unwrap();
    let other = drive.beside("other");
    drive.mount("drive", &other, &grant, &drive.beside("other-cache"));
    assert_eq!(sh(&other, "find . | sort; cat link"), ".\n./deep\n./deep/file\n./link\nhello\n");
    for change in
        ["touch new", "echo x >> deep/file", "rm deep/file", "mv link l", "chmod 600 deep/file", "mkdir d", "ln link k"]
    {
        let error = fail(std::process::Command::new("sh").args(["-c", change]).current_dir(&other).env("LC_ALL", "C"));
        assert!(error.contains("Read-only file system") || error.contains("Permission denied"), "{change}: {error}");
    }
    run(drive.strewn(["umount"]).arg(&other));
    // Without a mount the same grant sees the same, and the bucket's root stays closed.
    let access = grant.to_str().unwrap();
    assert_eq!(run(drive.strewn(["cat", "--access", access, "strewn://drive/deep/file"])), "hello\n");
    fail(drive.strewn(["ls", "--access", access, "strewn://drive/secret"]));
    let denied = fail(drive.strewn(["cp", "--access", access, "-", "strewn://drive/new"]));
    assert!(denied.contains("read-only") || denied.contains("denied"), "{denied}");
    let shown: serde_json::Value =
        serde_json::from_str(&run(drive.strewn(["access", "inspect", "--json", access]))).unwrap();
    assert_eq!(shown["rights"], serde_json::json!(["read", "list"]));
}

#[test]
fn an_expired_grant_opens_nothing() {
    let drive = Drive::up();
    let grant = drive.beside("old.grant");
    let said = fail(drive.strewn(["access", "restrict", "--not-after", "2001-01-01T00:00:00Z"]));
    assert!(said.contains("past"), "nobody wants that: {said}");
    std::fs::write(&grant, run(drive.strewn(["access", "restrict", "--not-after", "+2s"]))).unwrap();
    let list = || output(drive.strewn(["ls", "--access", grant.to_str().unwrap(), "strewn://drive/"]));
    wait_until("the grant ends", || !list().status.success());
    let error = text(&list().stderr);
    assert!(error.contains("denied"), "{error}");
}

#[test]
fn the_passphrase_opens_the_bucket_and_another_one_is_wrong() {
    let drive = Drive::up();
    std::fs::write(drive.path().join("file"), "content").unwrap();
    drive.sync();
    let inspected: serde_json::Value =
        serde_json::from_str(&run(drive.strewn(["access", "inspect", "--json"]))).unwrap();
    let satellite = inspected["satellite"].as_str().unwrap().to_owned();
    let key = drive.beside("api-key");
    std::fs::write(&key, run(drive.strewn(["access", "api-key"]))).unwrap();
    let create = |passphrase: &std::path::Path| {
        let mut command = drive.strewn(["access", "create", "--satellite", &satellite, "--bucket", "drive"]);
        command.arg("--api-key-file").arg(&key).arg("--passphrase-file").arg(passphrase);
        command
    };
    let grant = drive.beside("again.grant");
    std::fs::write(&grant, run(&mut create(&drive.data().join("passphrase")))).unwrap();
    assert_eq!(run(drive.strewn(["cat", "--access", grant.to_str().unwrap(), "strewn://drive/file"])), "content");
    let wrong = drive.beside("wrong");
    std::fs::write(&wrong, "not the passphrase").unwrap();
    let error = fail(&mut create(&wrong));
    assert!(error.contains("wrong passphrase"), "{error}");
}
