use super::*;
use crate::disk::{FileDisk, MemoryDisk};

fn inode(number: u8) -> InodeId {
    InodeId::from_bytes([number; 16])
}

fn open(disk: &MemoryDisk) -> DataFiles {
    DataFiles::open(Arc::new(disk.clone())).unwrap().0
}

fn read(files: &DataFiles, id: DataId, offset: u64, length: usize) -> Vec<u8> {
    let mut bytes = BytesMut::from(&b"x"[..]);
    let read = files.read_at(id, offset, length, &mut bytes).unwrap();
    assert_eq!(bytes.len(), read + 1);
    bytes[1..].to_vec()
}

#[test]
fn reads_what_was_written() {
    let files = open(&MemoryDisk::new());
    let id = files.fresh(inode(1)).unwrap();
    assert_eq!(read(&files, id, 0, 10), b"");
    files.write_at(id, 2, &[b"ab", b"cdef"]).unwrap();
    assert_eq!(read(&files, id, 0, 100), b"\0\0abcdef");
    assert_eq!(read(&files, id, 3, 2), b"bc");
    files.punch(id, 3, 2).unwrap();
    files.truncate(id, 7).unwrap();
    assert_eq!(read(&files, id, 0, 100), b"\0\0a\0\0de");
    let mut bytes = [9; 4];
    files.read_into(id, 5, &mut bytes).unwrap();
    assert_eq!(&bytes, b"de\0\0");
    assert_eq!(files.length(id).unwrap(), 7);
}

#[test]
fn a_missing_file_is_missing_and_not_empty() {
    let disk = MemoryDisk::new();
    let files = open(&disk);
    let id = DataId { inode: inode(1), generation: 5 };
    assert!(matches!(files.read_at(id, 0, 1, &mut BytesMut::new()), Err(Error::Missing(missing)) if missing == id));
    assert!(matches!(files.write_at(id, 0, &[b"x"]), Err(Error::Missing(_))));
    files.remove(id).unwrap();
    assert!(disk.names().is_empty());
}

#[test]
fn a_synced_file_and_its_name_survive_a_power_cut() {
    let disk = MemoryDisk::new();
    let files = open(&disk);
    let id = files.fresh(inode(0xab)).unwrap();
    files.write_at(id, 0, &[b"safe"]).unwrap();
    assert!(!files.is_clean(id));
    files.sync_blocking(id).unwrap();
    assert!(files.is_clean(id));
    files.write_at(id, 0, &[b"risk"]).unwrap();
    assert!(!files.is_clean(id));
    for seed in 0..32 {
        let (files, found) = DataFiles::open(Arc::new(disk.crash(seed))).unwrap();
        assert_eq!(found.iter().map(|found| (found.id, found.length)).collect::<Vec<_>>(), [(id, 4)]);
        // Torn at any byte.
        let found = read(&files, id, 0, 9);
        assert!(found.iter().zip(b"safe".iter().zip(b"risk")).all(|(found, (old, new))| found == old || found == new));
    }
}

#[test]
fn a_new_generation_leaves_the_old_one() {
    let disk = MemoryDisk::new();
    let files = open(&disk);
    let old = files.fresh(inode(1)).unwrap();
    files.write_at(old, 0, &[b"old"]).unwrap();
    let new = files.fresh(inode(1)).unwrap();
    files.write_at(new, 0, &[b"new"]).unwrap();
    assert_eq!((read(&files, old, 0, 9), read(&files, new, 0, 9)), (b"old".to_vec(), b"new".to_vec()));
    files.remove(old).unwrap();
    assert!(matches!(files.read_at(old, 0, 1, &mut BytesMut::new()), Err(Error::Missing(_))));
    assert_eq!(disk.names().len(), 1);
}

#[test]
fn a_failed_sync_is_reported_until_the_file_is_gone() {
    let disk = MemoryDisk::new();
    let files = open(&disk);
    let id = files.fresh(inode(1)).unwrap();
    let other = files.fresh(inode(2)).unwrap();
    files.write_at(id, 0, &[b"x"]).unwrap();
    files.write_at(other, 0, &[b"x"]).unwrap();
    disk.fail_syncs(Some(5));
    assert!(matches!(files.sync_blocking(id), Err(Error::Io(_))));
    disk.fail_syncs(None);
    assert!(matches!(files.sync_blocking(id), Err(Error::Io(cause)) if cause.raw_os_error() == Some(5)));
    assert!(matches!(files.write_at(id, 0, &[b"x"]), Err(Error::Io(_))));
    files.sync_blocking(other).unwrap();
    files.remove(id).unwrap();
    let next = files.fresh(inode(1)).unwrap();
    files.write_at(next, 0, &[b"x"]).unwrap();
    files.sync_blocking(next).unwrap();
}

#[test]
fn few_files_are_open_and_none_of_their_syncs_is_forgotten() {
    let disk = MemoryDisk::new();
    let files = open(&disk);
    let ids: Vec<DataId> = (0..200).map(|number| files.fresh(inode(number)).unwrap()).collect();
    for id in &ids {
        files.write_at(*id, 0, &[&id.generation.to_le_bytes()]).unwrap();
    }
    assert_eq!(files.handles.open_count(), open::OPEN_FILES);
    for id in &ids {
        files.sync_blocking(*id).unwrap();
    }
    let after = open(&disk.crash(7));
    for id in &ids {
        assert_eq!(read(&after, *id, 0, 8), id.generation.to_le_bytes());
    }
}

#[tokio::test]
async fn a_full_disk_is_told_apart() {
    let disk = MemoryDisk::new();
    let files = open(&disk);
    let id = files.fresh(inode(1)).unwrap();
    disk.set_capacity(Some(10));
    assert!(matches!(files.write_at(id, 0, &[&[1; 11]]), Err(Error::NoSpace)));
    files.write_at(id, 0, &[&[1; 10]]).unwrap();
    files.sync(id).await.unwrap();
    files.sync(id).await.unwrap();
}

#[test]
fn the_kernel_gets_a_handle_that_cannot_write() {
    let directory = tempfile::tempdir().unwrap();
    let files = DataFiles::open(FileDisk::open(directory.path()).unwrap()).unwrap().0;
    let id = files.fresh(inode(3)).unwrap();
    files.write_at(id, 0, &[&vec![7; 9 << 20]]).unwrap();
    let handle = files.open_read_only(id).unwrap();
    assert!(std::os::unix::fs::FileExt::write_at(&handle, b"x", 0).is_err());
    assert!(files.allocated(id).unwrap() > 0);
    files.remove(id).unwrap();
    assert!(matches!(files.open_read_only(id), Err(Error::Missing(_))));
    assert!(open(&MemoryDisk::new()).open_read_only(id).is_err());
}

#[test]
fn names_are_parsed_strictly() {
    let id = DataId { inode: inode(0xab), generation: 0x1f };
    let file = name(id);
    assert_eq!(file, format!("data/ab/{}.000000000000001f", "ab".repeat(16)));
    assert_eq!(parse(file.rsplit('/').next().unwrap()), Some(id));
    for wrong in
        ["", "x", "abc.1", &format!("{}.1f", "ab".repeat(16)), &format!("{}.+00000000000001f", "AB".repeat(16))]
    {
        assert_eq!(parse(wrong), None, "{wrong}");
    }
}

#[test]
fn a_file_that_is_opened_to_be_synced_may_push_out_one_that_has_to_be_synced_too() {
    let files = open(&MemoryDisk::new());
    // All of them share a lane, as some of any hundred files do.
    let inode = |number| {
        let mut bytes = [7; 16];
        bytes[1] = number;
        InodeId::from_bytes(bytes)
    };
    let ids: Vec<DataId> = (0..=open::OPEN_FILES as u8).map(|number| files.fresh(inode(number)).unwrap()).collect();
    for id in &ids {
        files.write_at(*id, 0, &[b"x"]).unwrap();
    }
    // The last one found no room among files that all have to be synced: it was closed at once.
    let (theirs, last) = (files.clone(), ids[open::OPEN_FILES]);
    let (done, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || done.send(theirs.sync_blocking(last)));
    wait.recv_timeout(std::time::Duration::from_secs(20)).expect("the sync ends").unwrap();
    assert!(files.is_clean(last));
    assert!(files.handles.open_count() <= open::OPEN_FILES);
}
