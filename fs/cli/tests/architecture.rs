//! The arrows between the crates, as ARCHITECTURE.md draws them: fails when a crate imports what it must not.

use serde_json::Value;
use std::collections::BTreeSet;
use std::process::Command;

/// Which crates of the workspace each may see.
const ARROWS: &[(&str, &[&str])] = &[
    ("strewn-engine", &[]),
    ("strewn-cache", &["strewn-engine"]),
    ("strewn-fs", &["strewn-engine", "strewn-cache"]),
    ("strewn-wire", &["strewn-engine"]),
    ("strewn-satellite", &["strewn-engine", "strewn-wire"]),
    ("strewn-node", &["strewn-engine", "strewn-wire"]),
    ("strewn-peers", &["strewn-engine", "strewn-wire", "strewn-satellite", "strewn-node"]),
    ("strewn", &["strewn-engine", "strewn-cache", "strewn-fs", "strewn-peers", "strewn-satellite"]),
];

/// Who alone may use a library that would otherwise leak through the layers.
const OWNERS: &[(&str, &[&str])] = &[
    ("fuser", &["strewn-fs"]),
    ("clap", &["strewn"]),
    ("libp2p", &["strewn-peers"]),
    ("libp2p-stream", &["strewn-peers"]),
    ("libp2p-tls", &["strewn-peers"]),
    ("indicatif", &["strewn"]),
    ("aes-gcm", &["strewn-engine"]),
    ("chacha20poly1305", &["strewn-engine"]),
    ("aes-siv", &["strewn-engine"]),
    ("reed-solomon-simd", &["strewn-engine"]),
];

/// What the engine must do without: clocks, randomness, disks, networks.
const NOT_IN_ENGINE: &[&str] = &["tokio", "rusqlite", "getrandom", "rand", "rustix", "libp2p", "tracing"];

fn packages() -> Vec<(String, BTreeSet<String>)> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline", "--locked"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let normal = |package: &Value| {
        let dependencies = package["dependencies"].as_array().expect("a list").iter();
        let built_in = dependencies.filter(|dependency| dependency["kind"] != "dev");
        built_in.map(|dependency| dependency["name"].as_str().expect("a name").to_owned()).collect()
    };
    let packages = metadata["packages"].as_array().expect("a list").iter();
    packages.map(|package| (package["name"].as_str().expect("a name").to_owned(), normal(package))).collect()
}

#[test]
fn crates_see_only_what_the_architecture_allows() {
    let packages = packages();
    assert_eq!(packages.len(), ARROWS.len(), "a crate without a line in ARROWS, or the other way round");
    for (name, dependencies) in &packages {
        let (_, allowed) = ARROWS.iter().find(|(known, _)| known == name).unwrap_or_else(|| panic!("{name} is new"));
        for dependency in dependencies.iter().filter(|dependency| dependency.starts_with("strewn")) {
            assert!(allowed.contains(&dependency.as_str()), "{name} must not import {dependency}");
        }
        for (library, owners) in OWNERS {
            let used = dependencies.contains(*library);
            assert!(!used || owners.contains(&name.as_str()), "{name} must not import {library}");
        }
    }
}

#[test]
fn the_engine_does_no_io() {
    let packages = packages();
    let (_, dependencies) = packages.iter().find(|(name, _)| name == "strewn-engine").expect("the engine exists");
    for library in NOT_IN_ENGINE {
        assert!(!dependencies.contains(*library), "strewn-engine must not import {library}");
    }
}
