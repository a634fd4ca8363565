//! No name and no byte of content lies in the clear on a node or satellite, nor in a cache that is to be encrypted.

use crate::harness::{Drive, fail, run, sh};
use std::path::{Path, PathBuf};

const NAME: &str = "unmistakable-name-of-a-file";
const CONTENT: &str = "unmistakable content of a file";
const TARGET: &str = "unmistakable-target-of-a-link";
const ATTRIBUTE: &str = "unmistakable-attribute";

fn files_below(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() { files_below(&entry.path(), found) } else { found.push(entry.path()) }
    }
}

/// Files below `dir` that hold `marker`.
fn holding(dir: &Path, marker: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    files_below(dir, &mut files);
    let finder = |path: &PathBuf| {
        let bytes = std::fs::read(path).unwrap_or_default();
        bytes.windows(marker.len()).any(|window| window == marker.as_bytes())
    };
    files.into_iter().filter(finder).collect()
}

#[test]
fn stores_of_nodes_and_satellite_hold_no_plaintext() {
    let drive = Drive::up();
    write_markers(drive.path());
    drive.sync();
    drive.stop();
    // The control: the same search finds all of them in the cache, which is on the user's machine.
    for marker in [NAME, CONTENT, TARGET, ATTRIBUTE] {
        assert!(!holding(&drive.cache(), marker).is_empty(), "the search finds {marker:?} where it is");
        for entry in std::fs::read_dir(drive.data()).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && path != drive.cache() {
                assert_eq!(holding(&path, marker), Vec::<PathBuf>::new(), "{marker:?} in the clear");
            }
        }
    }
}

/// What is searched for is put on the drive; small and large, pending and uploaded.
fn write_markers(dir: &Path) {
    sh(
        dir,
        &format!(
            "mkdir dir-{NAME}; yes '{CONTENT}' | head -c 2000000 > dir-{NAME}/{NAME} || true; echo '{CONTENT}' > small-{NAME}
             ln -s {TARGET} link; setfattr -n user.{ATTRIBUTE} -v {ATTRIBUTE} small-{NAME}"
        ),
    );
}

#[test]
fn an_encrypted_cache_holds_no_plaintext() {
    for encrypt in [false, true] {
        let drive = Drive::network();
        // What is written stays pending.
        let options: &[&str] =
            if encrypt { &["--upload-delay", "1h", "--encrypt-cache"] } else { &["--upload-delay", "1h"] };
        drive.mount_drive(options);
        let cache = drive.beside("cache");
        write_markers(drive.path());
        sh(drive.path(), &format!("sync dir-{NAME}/{NAME} small-{NAME}"));
        let look = |when: &str| {
            for marker in [NAME, CONTENT, TARGET, ATTRIBUTE] {
                let found = holding(&cache, marker);
                assert_eq!(found.is_empty(), encrypt, "{marker:?} {when}: {found:?}");
            }
        };
        look("while it is pending");
        drive.kill_mount();
        look("after kill -9");
        drive.mount_drive(options);
        let kept = format!("cat small-{NAME}; readlink link; getfattr --only-values -n user.{ATTRIBUTE} small-{NAME}");
        assert_eq!(sh(drive.path(), &kept), format!("{CONTENT}\n{TARGET}\n{ATTRIBUTE}"));
        sh(drive.path(), &format!("{{ yes '{CONTENT}' || true; }} | head -c 2000000 | cmp - dir-{NAME}/{NAME}"));
        drive.sync();
        run(drive.strewn(["umount"]).arg(drive.path()));
        if !encrypt {
            continue;
        }
        look("when everything is uploaded");
        // Not by accident without it, and not looked into.
        let mut mount = drive.strewn(["mount", "drive", "--cache-dir"]);
        let said = fail(mount.arg(&cache).arg(drive.path()));
        assert!(said.contains("is encrypted") && said.contains("--encrypt-cache"), "{said}");
        let said = fail(drive.strewn(["cache", "status"]).arg(&cache));
        assert!(said.contains("is encrypted") && said.contains("--discard-pending"), "{said}");
        run(drive.strewn(["cache", "clear", "--discard-pending"]).arg(&cache));
        drive.mount_drive(&[]);
        assert_eq!(sh(drive.path(), "readlink link"), format!("{TARGET}\n"));
    }
}
