//! `strewn cache` on the caches of real drives.

use crate::harness::{Drive, fail, output, run, sh};
use serde_json::Value;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn a_cache_is_shown_checked_and_cleared() {
    let drive = Drive::up();
    let cache = |words: &[&str]| {
        let mut command = drive.strewn(["cache"]);
        command.args(words).arg(drive.cache());
        command
    };
    (0..5).for_each(|node| drive.node(node, &["stop"]));
    sh(drive.path(), "head -c 300000 /dev/urandom > file");
    let status = json(&run(cache(&["status", "--json"])));
    assert_eq!(status["mountpoint"].as_str(), drive.path().to_str());
    assert!(status["pending_bytes"].as_u64().unwrap() >= 300_000 && status["source"] == "strewn://drive/", "{status}");
    for refused in [&["verify"][..], &["clear"], &["clear", "--discard-pending"]] {
        let said = fail(cache(refused));
        assert!(said.contains("in use") && said.contains("strewn umount"), "{said}");
    }
    run(drive.strewn(["umount", "--no-wait"]).arg(drive.path()));
    let status = json(&run(cache(&["status", "--json"])));
    assert!(status["mountpoint"].is_null() && status["pending_files"] == 1, "{status}");
    assert!(status["bucket"].is_string() && status["root"].as_str().unwrap().len() == 32, "{status}");
    assert!(status["pending_bytes"].as_u64().unwrap() >= 300_000, "{status}");
    assert!(run(cache(&["status"])).contains("1 file, "), "for people too");
    assert_eq!(json(&run(cache(&["verify", "--json"])))["ok"], true);
    let cleared = output(cache(&["clear"]));
    let said = String::from_utf8(cleared.stderr).unwrap();
    assert!(cleared.status.success() && said.contains("kept 1 file, ") && said.contains("--discard-pending"), "{said}");
    // Damage is found, said, and an error.
    sh(&drive.cache(), "printf damaged | dd of=blobs/0000000000000000 bs=1 seek=36 conv=notrunc status=none");
    let verified = output(cache(&["verify", "--json"]));
    let told = json(&String::from_utf8(verified.stdout).unwrap());
    assert!(
        verified.status.code() == Some(1) && told["ok"] == false && told["damage"][0]["what"] == "identity",
        "{told}"
    );
    run(cache(&["clear", "--discard-pending"]));
    let said = fail(cache(&["status"]));
    assert!(said.contains("no cache directory"), "{said}");
    (0..5).for_each(|node| drive.node(node, &["start"]));
    drive.mount("drive", drive.path(), &drive.access(), &drive.cache());
    assert_eq!(sh(drive.path(), "ls"), "", "it was discarded");
}
