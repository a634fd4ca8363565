//! What is on the network comes back whole: without the cache, without most of the nodes.

use crate::harness::{Drive, assert_same_tree, sh};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A tree with everything that a file system must keep: sizes around every border, sparse files, links, modes, times,
/// extended attributes, odd names.
fn make_tree(dir: &Path) {
    std::fs::create_dir(dir).unwrap();
    sh(
        dir,
        r#"
        mkdir -p a/b/c empty 'names'
        for size in 0 1 4095 4096 4097 65519 65520 65521 1048576 3000001; do head -c $size /dev/urandom > a/size-$size; done
        truncate -s 50M a/sparse; echo middle | dd of=a/sparse bs=1 seek=20000000 conv=notrunc status=none
        for i in $(seq 300); do echo "file $i" > a/b/small-$i; done
        ln -s ../size-1 a/b/link; ln -s /nowhere/at/all a/dangling; ln a/size-4097 a/b/c/hard
        mkfifo a/fifo
        touch names/"$(printf 'n%.0s' $(seq 255))" names/$'new\nline' names/$'\xff\xfe' names/' spaces ' names/'ünïcödé'
        chmod 0640 a/size-1; chmod 0755 a/b/small-1; chmod 4711 a/b/small-2; chmod 0700 empty; chmod 1777 a/b/c
        touch -d '2001-02-03 04:05:06.789012345' a/size-4096; touch -hd '1999-12-31 23:59:59' a/b/link
        touch -d '1969-01-01' a/b/small-3
        setfattr -n user.colour -v blue a/size-0; setfattr -n user.empty a/size-1; setfattr -n user.dir -v yes a/b
        touch -d '2011-11-11 11:11:11.111' a/b a
        "#,
    );
}

/// Stops network and drive, forgets the cache, starts with all but `stopped` nodes.
fn restart_cold(drive: &Drive, stopped: std::ops::Range<usize>) {
    drive.stop();
    std::fs::remove_dir_all(drive.cache()).unwrap();
    drive.start();
    for node in stopped {
        drive.node(node, &["stop"]);
    }
}

#[test]
fn every_byte_and_attribute_comes_back_with_six_of_ten_nodes_gone() {
    let drive = Drive::up();
    let original = drive.beside("original");
    make_tree(&original);
    sh(&original, &format!("cp -a . '{}/tree'", drive.path().display()));
    drive.sync();
    restart_cold(&drive, 0..6);
    let du = drive.path().join("tree/a/sparse").metadata().unwrap().blocks() * 512;
    assert!((7..=100_000).contains(&du), "{du} bytes of a sparse file, of which nothing was read, are allocated");
    assert_same_tree(&original, &drive.path().join("tree"));
    let sparse = std::fs::File::open(drive.path().join("tree/a/sparse")).unwrap();
    let first = rustix::fs::seek(&sparse, rustix::fs::SeekFrom::Data(0)).unwrap();
    assert!((19_900_000..=20_000_000).contains(&first), "holes came back as holes: data at {first}");
}

#[test]
fn changes_in_place_reach_the_network() {
    let drive = Drive::up();
    let original = drive.beside("original");
    std::fs::create_dir(&original).unwrap();
    let script = |when: &str| {
        match when {
        "first" => "head -c 5000000 /dev/zero | tr '\\0' a > big; mkdir -p d/e; echo one > d/e/f; ln d/e/f g; cp big cut",
        _ => {
            "printf 'patch' | dd of=big bs=1 seek=2500000 conv=notrunc status=none; echo more >> big; truncate -s 1000000 cut
             mv d h; echo two > h/e/f; rm g; ln h/e/f again; setfattr -n user.k -v v big; chmod 600 again"
        }
    }
    };
    for dir in [&original, &drive.path().to_owned()] {
        sh(dir, script("first"));
    }
    drive.sync();
    for dir in [&original, &drive.path().to_owned()] {
        sh(dir, script("second"));
    }
    drive.sync();
    restart_cold(&drive, 4..10);
    let contents = "find . -type f | sort | xargs sha256sum; find . -printf '%y %m %n %p\\n' | sort; getfattr -d big";
    assert_eq!(sh(drive.path(), contents), sh(&original, contents));
}

#[test]
fn a_network_of_110_nodes_at_29_of_80_survives_the_loss_of_thirty() {
    let arguments = ["--nodes", "110", "--redundancy", "29/35/80/110", "--segment-size", "4M"];
    let drive = Drive::up_with(&arguments);
    let original = drive.beside("original");
    std::fs::create_dir(&original).unwrap();
    sh(&original, "head -c 9000000 /dev/urandom > big; for i in $(seq 50); do head -c 20000 /dev/urandom > f$i; done");
    sh(&original, &format!("cp -a . '{}/tree'", drive.path().display()));
    drive.sync();
    restart_cold(&drive, 0..30);
    assert_same_tree(&original, &drive.path().join("tree"));
}
