use super::*;
use std::collections::HashSet;

fn round_trip(disk: &dyn Disk) {
    let file = disk.create("a/b/file").unwrap();
    assert_eq!(disk.create("a/b/file").err().unwrap().kind(), io::ErrorKind::AlreadyExists);
    file.write_at(3, &[b"one", b"", b"two"]).unwrap();
    let mut buffer = [9; 16];
    assert_eq!(file.read_at(0, &mut buffer).unwrap(), 9);
    assert_eq!(&buffer[..9], b"\0\0\0onetwo");
    file.punch_hole(3, 3).unwrap();
    assert_eq!(file.length().unwrap(), 9);
    file.read_exact_at(2, &mut buffer[..5]).unwrap();
    assert_eq!(&buffer[..5], b"\0\0\0\0t");
    assert_eq!(file.read_exact_at(5, &mut buffer[..5]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    file.set_len(4).unwrap();
    file.sync().unwrap();
    disk.rename("a/b/file", "a/b/other").unwrap();
    disk.sync_dir("a/b").unwrap();
    let listed = disk.list("a/b").unwrap();
    assert_eq!(listed.iter().map(|file| (file.name.as_str(), file.length)).collect::<Vec<_>>(), [("other", 4)]);
    assert_eq!(disk.open("a/b/file").err().unwrap().kind(), io::ErrorKind::NotFound);
    disk.remove("a/b/other").unwrap();
    assert_eq!(disk.remove("a/b/other").unwrap_err().kind(), io::ErrorKind::NotFound);
    assert!(disk.list("a/b").unwrap().is_empty());
    assert!(disk.list("nowhere").unwrap().is_empty());
}

#[test]
fn both_disks_keep_files() {
    round_trip(&MemoryDisk::new());
    let directory = tempfile::tempdir().unwrap();
    round_trip(&*FileDisk::open(directory.path()).unwrap());
}

#[test]
fn many_parts_are_written_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let disk = FileDisk::open(directory.path()).unwrap();
    let file = disk.create("parts").unwrap();
    let numbers: Vec<[u8; 2]> = (0..300u16).map(u16::to_be_bytes).collect();
    let parts: Vec<&[u8]> = numbers.iter().map(|number| &number[..]).collect();
    file.write_at(1, &parts).unwrap();
    let mut bytes = vec![0; 601];
    file.read_exact_at(0, &mut bytes).unwrap();
    assert_eq!(bytes[1..], numbers.concat());
}

#[test]
fn long_writes_arrive_whole_wherever_they_begin() {
    let directory = tempfile::tempdir().unwrap();
    let file = FileDisk::open(directory.path()).unwrap().create("long").unwrap();
    let bytes: Vec<u8> = (0..1_000_000u32).map(|at| (at % 251) as u8).collect();
    for offset in [0, 1, 256 << 10, (256 << 10) - 1, 12_345_678] {
        file.write_at(offset, &[&bytes]).unwrap();
        let mut read = vec![0; bytes.len()];
        file.read_exact_at(offset, &mut read).unwrap();
        assert!(read == bytes, "at {offset}");
    }
    assert_eq!(file.length().unwrap(), 13_345_678);
}

#[test]
fn a_directory_is_private_and_used_once() {
    use std::os::unix::fs::PermissionsExt;
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("x/cache");
    let disk = FileDisk::open(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    let error = FileDisk::open(&path).err().unwrap();
    assert!(matches!(error, OpenError::InUse { pid: Some(pid), .. } if pid == std::process::id()), "{error}");
    assert!(error.to_string().contains(&format!("process {}", std::process::id())));
    drop(disk);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    FileDisk::open(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_lock_is_waited_for_only_while_its_process_dies() {
    assert!(!file::is_dying(std::process::id()));
    let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    assert!(!file::is_dying(child.id()));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(file::is_dying(child.id()));

    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("cache");
    let disk = FileDisk::open(&path).unwrap();
    std::fs::write(path.join("lock"), child.id().to_string()).unwrap();
    std::thread::scope(|scope| {
        let opening = scope.spawn(|| FileDisk::open(&path));
        drop(disk);
        opening.join().unwrap().unwrap();
    });
}

#[test]
fn names_stay_inside() {
    let directory = tempfile::tempdir().unwrap();
    let disk = FileDisk::open(directory.path()).unwrap();
    for name in ["../x", "/etc/passwd", "a/../../x", ""] {
        assert_eq!(disk.open(name).err().unwrap().kind(), io::ErrorKind::InvalidInput, "{name}");
    }
}

#[test]
fn a_power_cut_keeps_what_was_synced_and_any_part_of_the_rest() {
    let disk = MemoryDisk::new();
    let file = disk.create("d/f").unwrap();
    file.write_at(0, &[&[1; 1024]]).unwrap();
    file.sync().unwrap();
    disk.sync_dir("d").unwrap();
    file.write_at(0, &[&[2; 1024]]).unwrap();
    file.write_at(1024, &[&[3; 10]]).unwrap();
    disk.create("d/unsynced").unwrap();
    let mut images = HashSet::new();
    for seed in 0..200 {
        let image = disk.crash(seed);
        let bytes = image.bytes("d/f").expect("its name was synced");
        assert!(bytes[..1024].iter().all(|&byte| byte == 1 || byte == 2));
        assert_eq!(bytes, disk.crash(seed).bytes("d/f").unwrap());
        images.insert((bytes, image.bytes("d/unsynced").is_some()));
    }
    // Sectors old or new (4), second write there or not (2), name there or not (2), and some torn within a sector.
    let whole = |(bytes, _): &&(Vec<u8>, bool)| {
        let sectors = bytes[..1024].chunks(512).all(|sector| sector == [1; 512] || sector == [2; 512]);
        sectors && [1024, 1034].contains(&bytes.len())
    };
    assert_eq!(images.iter().filter(whole).count(), 16);
    assert!(images.len() > 20);
    assert_eq!(disk.kill().bytes("d/f"), disk.bytes("d/f"));
}

fn encrypted() -> (MemoryDisk, EncryptedDisk) {
    let disk = MemoryDisk::new();
    let key = strewn_engine::secret::Key::from_bytes([5; 32]);
    (disk.clone(), EncryptedDisk::new(Arc::new(disk), key))
}

#[test]
fn an_encrypted_disk_shows_nothing_and_has_no_paths() {
    let (below, disk) = encrypted();
    let marker = b"unmistakable bytes";
    for (name, hidden) in [("data/00/a", true), ("journal/1", true), ("sealed/a", false), ("blobs/1", false)] {
        let file = disk.create(name).unwrap();
        for at in [0, 1_000, 4_090, 100_001] {
            file.write_at(at, &[marker]).unwrap();
            let mut found = [0; 18];
            file.read_exact_at(at, &mut found).unwrap();
            assert_eq!(&found, marker);
        }
        let bytes = below.bytes(name).unwrap();
        assert_eq!(bytes.windows(marker.len()).all(|window| window != marker), hidden, "{name}");
        assert_eq!(disk.path(name), None);
    }
    let moved = disk.rename("data/00/a", "data/00/b");
    assert_eq!(moved.unwrap_err().kind(), io::ErrorKind::Unsupported);
    disk.rename("blobs/1", "blobs/2").unwrap();
}

#[test]
fn holes_of_an_encrypted_file_stay_holes() {
    let (below, disk) = encrypted();
    let file = disk.create("data/00/a").unwrap();
    file.write_at(1 << 20, &[b"island"]).unwrap();
    file.write_at(8 << 20, &[&vec![0; 1 << 20]]).unwrap();
    assert!(file.allocated().unwrap() < 3 << 20, "{}", file.allocated().unwrap());
    let all = below.bytes("data/00/a").unwrap();
    assert_eq!(all.iter().filter(|&&byte| byte != 0).count().div_ceil(16), 1);
    file.punch_hole(1 << 20, 6).unwrap();
    assert!(below.bytes("data/00/a").unwrap()[(1 << 20) + 16..].iter().all(|&byte| byte == 0));
    let mut found = [9; 32];
    file.read_exact_at((1 << 20) - 8, &mut found).unwrap();
    assert_eq!(found, [0; 32]);
}

#[derive(Debug, Clone)]
enum Step {
    Write(u64, Vec<usize>),
    Length(u64),
    Punch(u64, u64),
    Read(u64, usize),
    Reopen,
}

fn step() -> impl proptest::strategy::Strategy<Value = Step> {
    use proptest::prelude::*;
    // Around blocks, sectors, and what is encrypted at a time.
    let near = |at: u64| (at.saturating_sub(40)..at + 40).boxed();
    let place = prop_oneof![near(0), near(64), near(4096), near(8192), near(262_144), (0u64..600_000).boxed()];
    let size = prop_oneof![0usize..50, 4_000usize..4_200, 250_000usize..300_000];
    prop_oneof![
        4 => (place.clone(), prop::collection::vec(size, 1..4)).prop_map(|(at, parts)| Step::Write(at, parts)),
        1 => place.clone().prop_map(Step::Length),
        2 => (place.clone(), 0u64..9_000).prop_map(|(at, length)| Step::Punch(at, length)),
        3 => (place, 0usize..10_000).prop_map(|(at, length)| Step::Read(at, length)),
        1 => Just(Step::Reopen),
    ]
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(64))]
    #[test]
    fn an_encrypted_file_is_a_file(steps in proptest::collection::vec(step(), 1..30)) {
        let (_, disk) = encrypted();
        let mut file = disk.create("data/00/a").unwrap();
        let mut plain: Vec<u8> = Vec::new();
        let mut next = 0u8;
        for step in steps {
            match step {
                Step::Write(at, lengths) => {
                    let part = |length: usize| {
                        next = next.wrapping_add(1);
                        vec![next % 8; length]
                    };
                    let parts: Vec<Vec<u8>> = lengths.into_iter().map(part).collect();
                    file.write_at(at, &parts.iter().map(|part| &part[..]).collect::<Vec<_>>()).unwrap();
                    let bytes = parts.concat();
                    if !bytes.is_empty() {
                        plain.resize(plain.len().max(at as usize + bytes.len()), 0);
                        plain[at as usize..][..bytes.len()].copy_from_slice(&bytes);
                    }
                }
                Step::Length(length) => {
                    file.set_len(length).unwrap();
                    plain.resize(length as usize, 0);
                }
                Step::Punch(at, length) => {
                    file.punch_hole(at, length).unwrap();
                    let end = (at + length).min(plain.len() as u64) as usize;
                    if (at as usize) < end {
                        plain[at as usize..end].fill(0);
                    }
                }
                Step::Read(at, length) => {
                    let mut found = vec![9; length];
                    let read = file.read_at(at, &mut found).unwrap();
                    let here = plain.len().saturating_sub(at as usize).min(length);
                    assert!((here..=here + 15).contains(&read), "{read} of {here} at {at}");
                    assert_eq!(found[..here], plain[plain.len().min(at as usize)..][..here]);
                    assert!(found[here..read].iter().all(|&byte| byte == 0));
                }
                Step::Reopen => file = disk.open("data/00/a").unwrap(),
            }
            assert_eq!(file.length().unwrap(), (plain.len() as u64).next_multiple_of(16));
        }
        let mut found = vec![9; plain.len()];
        file.read_exact_at(0, &mut found).unwrap();
        assert_eq!(found, plain);
    }
}

#[test]
fn a_torn_write_of_an_encrypted_file_damages_nothing_beside_it() {
    let (below, disk) = encrypted();
    below.keep_sectors_whole();
    let file = disk.create("data/00/a").unwrap();
    file.write_at(0, &[&[1; 5_000]]).unwrap();
    file.sync().unwrap();
    disk.sync_dir("data/00").unwrap();
    file.write_at(1_003, &[&[2; 2_000]]).unwrap();
    for seed in 0..100 {
        let key = strewn_engine::secret::Key::from_bytes([5; 32]);
        let left = EncryptedDisk::new(Arc::new(below.crash(seed)), key);
        let mut bytes = vec![0; 5_000];
        left.open("data/00/a").unwrap().read_exact_at(0, &mut bytes).unwrap();
        assert!(bytes[..1_003].iter().chain(&bytes[3_003..]).all(|&byte| byte == 1), "seed {seed}");
        assert!(bytes[1_003..3_003].iter().all(|&byte| byte == 1 || byte == 2), "seed {seed}");
    }
}
