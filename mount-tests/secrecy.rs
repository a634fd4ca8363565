//! No name and no byte of content lies in the clear on a node or satellite.

use crate::harness::{Drive, sh};
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
    sh(
        drive.path(),
        &format!(
            "mkdir dir-{NAME}; yes '{CONTENT}' | head -c 2000000 > dir-{NAME}/{NAME} || true; echo '{CONTENT}' > small-{NAME}
             ln -s {TARGET} link; setfattr -n user.{ATTRIBUTE} -v {ATTRIBUTE} small-{NAME}"
        ),
    );
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
