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
    for path in ["shared/deep/file", "deep/file"] {
        let place = format!("strewn://drive/{path}");
        assert_eq!(run(drive.strewn(["cat", "--access", access, &place])), "hello\n");
    }
    fail(drive.strewn(["ls", "--access", access, "strewn://drive/secret"]));
    let denied = fail(drive.strewn(["cp", "--access", access, "-", "strewn://drive/new"]));
    assert!(denied.contains("read-only") || denied.contains("denied"), "{denied}");
    let shown: serde_json::Value =
        serde_json::from_str(&run(drive.strewn(["access", "inspect", "--json", access]))).unwrap();
    assert_eq!(shown["rights"], serde_json::json!(["read", "list"]));
}

#[test]
fn a_single_file_and_several_places_can_be_shared() {
    let drive = Drive::up();
    sh(drive.path(), "mkdir -p a/b c; echo one > a/b/file; echo two > c/file; head -c 300000 /dev/zero > c/large");
    drive.sync();
    let shared = |name: &str, places: &[&str], more: &[&str]| {
        let grant = drive.beside(name);
        run(drive.strewn(["access", "share", "--export-to"]).arg(&grant).args(places).args(more));
        grant.to_str().unwrap().to_owned()
    };
    let of = |access: &str, command: &[&str]| drive.strewn(command.iter().copied().chain(["--access", access]));
    // A file: under its path in the bucket, and as all that there is.
    let file = shared("file.grant", &["strewn://drive/c/large"], &[]);
    for place in ["strewn://drive/c/large", "strewn://drive/"] {
        assert_eq!(run(&mut of(&file, &["cat", place])).len(), 300_000, "{place}");
        assert!(run(&mut of(&file, &["ls", place])).ends_with("  large\n"));
        run(of(&file, &["cp", place]).arg(drive.beside("copy")));
        assert_eq!(std::fs::metadata(drive.beside("copy")).unwrap().len(), 300_000);
    }
    assert!(run(&mut of(&file, &["stat", "strewn://drive/c/large"])).contains("300000"));
    fail(&mut of(&file, &["cat", "strewn://drive/c/file"]));
    let empty = drive.beside("empty");
    std::fs::create_dir(&empty).unwrap();
    let said = fail(of(&file, &["mount", "strewn://drive/c/large"]).arg(&empty));
    assert!(said.contains("not a directory") && said.contains("strewn cat"), "{said}");
    // Several places: each under its path.
    let both = shared("both.grant", &["strewn://drive/a/b", "strewn://drive/c/file"], &["--writable"]);
    assert_eq!(run(&mut of(&both, &["cat", "strewn://drive/a/b/file"])), "one\n");
    assert_eq!(run(&mut of(&both, &["cat", "strewn://drive/c/file"])), "two\n");
    let said = fail(&mut of(&both, &["ls", "strewn://drive/"]));
    assert!(said.contains("it opens strewn://drive/a/b, strewn://drive/c/file"), "{said}");
    let said = fail(&mut of(&both, &["mv", "strewn://drive/a/b/file", "strewn://drive/c/file"]));
    assert!(said.contains("shared separately"), "{said}");
    let said = fail(&mut of(&both, &["rm", "-r", "strewn://drive/a/b"]));
    assert!(said.contains("all that the grant opens"), "{said}");
    std::fs::write(drive.beside("new"), "three").unwrap();
    for place in ["strewn://drive/a/b/new", "strewn://drive/c/file"] {
        run(of(&both, &["cp"]).arg(drive.beside("new")).arg(place));
        assert_eq!(run(drive.strewn(["cat", place])), "three");
        assert_eq!(run(&mut of(&both, &["cat", place])), "three");
    }
    let other = drive.beside("other");
    drive.mount("drive/a/b", &other, both.as_ref(), &drive.beside("other-cache"));
    assert_eq!(sh(&other, "cat file new"), "one\nthree");
    run(drive.strewn(["umount"]).arg(&other));
}

#[test]
fn who_may_only_write_can_add_and_see_nothing() {
    let drive = Drive::up();
    sh(drive.path(), "mkdir in; echo kept > in/there");
    drive.sync();
    let grant = drive.beside("in.grant");
    std::fs::write(&grant, run(drive.strewn(["access", "restrict", "--writeonly", "--path", "strewn://drive/in"])))
        .unwrap();
    let of = |command: &[&str]| drive.strewn(command.iter().copied().chain(["--access", grant.to_str().unwrap()]));
    sh(&drive.beside(""), "head -c 300000 /dev/urandom > new; mkdir tree; echo 1 > tree/a");
    run(of(&["cp"]).arg(drive.beside("new")).arg("strewn://drive/in/new"));
    run(of(&["cp", "-r"]).arg(drive.beside("tree")).arg("strewn://drive/in/tree"));
    for refused in [
        &["ls", "strewn://drive/in"][..],
        &["cat", "strewn://drive/in/there"],
        &["rm", "strewn://drive/in/there"],
        &["mv", "strewn://drive/in/there", "strewn://drive/in/gone"],
    ] {
        let said = fail(&mut of(refused));
        assert!(said.contains("does not allow"), "{refused:?}: {said}");
    }
    let said = fail(of(&["cp"]).arg(drive.beside("new")).arg("strewn://drive/in/there"));
    assert!(said.contains("does not allow"), "{said}");
    assert_eq!(run(drive.strewn(["cat", "strewn://drive/in/there"])), "kept\n");
    let seen = drive.beside("seen");
    run(drive.strewn(["cp", "-r", "strewn://drive/in"]).arg(&seen));
    sh(&drive.beside(""), "cmp new seen/new; diff -r tree seen/tree");
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
