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
