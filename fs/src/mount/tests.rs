use super::*;
use proptest::prelude::*;
use std::os::unix::ffi::OsStrExt;

const SAMPLE: &[u8] = b"\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
40 27 0:44 / /mnt/a\\040b\\134 rw,nosuid,nodev shared:5 master:2 - fuse.strewn strewn:photos rw,user_id=0
41 27 0:45 / /mnt/stack rw - fuse.strewn strewn:old rw
42 41 0:46 / /mnt/stack rw - tmpfs none rw
43 27 0:47 / /mnt/over rw - tmpfs none rw
44 43 0:48 / /mnt/over rw - fuse.strewn strewn:new rw
45 27 0:49 / /mnt/under/x rw - fuse.strewn strewn:deep rw
not a mount
46 27 zero / /x rw - tmpfs none rw
47 27 0:50 / /y rw
";

fn top(path: &str) -> Option<u64> {
    table::top_at(&table::parse(SAMPLE), Path::new(path)).map(|entry| entry.id)
}

#[test]
fn the_mount_table_is_read() {
    let entries = table::parse(SAMPLE);
    assert_eq!(entries.iter().map(|entry| entry.id).collect::<Vec<_>>(), [22, 27, 40, 41, 42, 43, 44, 45]);
    let drive = &entries[2];
    assert_eq!(drive.path, Path::new("/mnt/a b\\"));
    assert_eq!((drive.fs_type.as_str(), drive.source.as_str()), (FS_TYPE, "strewn:photos"));
    assert_eq!((drive.device, drive.parent), ((0, 44), 27));
}

#[test]
fn the_top_of_a_stack_counts() {
    assert_eq!(top("/mnt/stack"), Some(42));
    assert_eq!(top("/mnt/over"), Some(44));
    assert_eq!(top("/mnt/under"), None);
    assert_eq!(top("/mnt/under/x"), Some(45));
    assert_eq!(top("/"), Some(27));
}

#[test]
fn places_have_names() {
    let names = table::names(&table::parse(SAMPLE));
    for name in ["proc", "a b\\", "stack", "x"] {
        assert!(names.contains(std::ffi::OsStr::new(name)), "{name}");
    }
    assert_eq!(names.len(), 5, "the root has none: {names:?}");
}

#[test]
fn what_is_mounted_on_a_drive_is_found() {
    let within = |text: &str| table::is_any_on(&table::parse(text.as_bytes()), FS_TYPE);
    let sample = std::str::from_utf8(SAMPLE).unwrap();
    assert!(within(sample), "a tmpfs on a drive");
    assert!(!within(&sample.replace("42 41 ", "42 27 ")), "drives side by side, and one on a tmpfs");
}

#[test]
fn what_cannot_be_mounted_on_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let options = MountOptions::default();
    let missing = directory.path().join("missing");
    assert!(matches!(check(&missing, &options), Err(MountError::Missing(path)) if path == missing));
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(matches!(check(&file, &options), Err(MountError::NotADirectory(path)) if path.ends_with("file")));
    assert!(matches!(check(&file.join("below"), &options), Err(MountError::NotADirectory(_))));
    assert!(matches!(check(directory.path(), &options), Err(MountError::NotEmpty(_))));
    let over = MountOptions { nonempty: true, ..MountOptions::default() };
    assert_eq!(check(directory.path(), &over).unwrap(), directory.path().canonicalize().unwrap());
    let error = check(Path::new("/proc"), &options).unwrap_err();
    assert!(error.to_string().contains("type proc: unmount it first"), "{error}");
    let link = directory.path().join("link");
    let target = directory.path().join("target");
    fs::create_dir(&target).unwrap();
    std::os::unix::fs::symlink(&target, &link).unwrap();
    assert_eq!(check(&link, &options).unwrap(), target.canonicalize().unwrap());
}

#[test]
fn only_drives_are_unmounted() {
    let directory = tempfile::tempdir().unwrap();
    assert!(matches!(MountPoint::find(directory.path()), Err(UnmountError::NotMounted(_))));
    assert!(matches!(MountPoint::find(&directory.path().join("no")), Err(UnmountError::NotMounted(_))));
    assert!(
        matches!(MountPoint::find(Path::new("/proc")), Err(UnmountError::NotOurs { fs_type, .. }) if fs_type == "proc")
    );
    assert_eq!(at(directory.path()).unwrap(), At::Nothing);
    assert_eq!(at(Path::new("/proc")).unwrap(), At::Other("proc".into()));
    assert!(!clean_stale(directory.path()).unwrap());
    // A mount that is gone needs no unmounting, and what is there now is left alone.
    let proc = table::top_at(&table::read().unwrap(), Path::new("/proc")).unwrap().clone();
    let same = MountPoint { entry: MountEntry { parent: u64::MAX, ..proc.clone() } };
    assert!(same.is_mounted().unwrap());
    for entry in [
        MountEntry { id: u64::MAX, ..proc.clone() },
        MountEntry { fs_type: FS_TYPE.into(), ..proc.clone() },
        MountEntry { device: (7, 7), ..proc.clone() },
        MountEntry { source: "strewn:gone".into(), ..proc },
    ] {
        let gone = MountPoint { entry };
        assert!(!gone.is_mounted().unwrap());
        gone.unmount().unwrap();
        assert!(Path::new("/proc/self").exists());
    }
}

#[test]
fn options_become_words_without_loopholes() {
    let options = MountOptions {
        source: "strewn:a,allow_other\\".into(),
        read_only: true,
        allow_other: Some(false),
        noexec: true,
        ..MountOptions::default()
    };
    let expected = "fsname=strewn:a\\,allow_other\\\\,subtype=strewn,default_permissions,max_read=1048576,ro,noexec";
    assert_eq!(helper_options(&options), expected);
    let data = kernel_data(7, 0o40755, &options);
    assert!(data.starts_with("fd=7,rootmode=40755,user_id=") && data.ends_with(",default_permissions"), "{data}");
    assert_eq!(flags(&options), MountFlags::NOSUID | MountFlags::NODEV | MountFlags::RDONLY | MountFlags::NOEXEC);
    let trusted = MountOptions { suid: true, dev: true, allow_other: Some(true), ..MountOptions::default() };
    assert!(kernel_data(7, 0o40755, &trusted).ends_with(",default_permissions,allow_other"));
    assert_eq!(flags(&trusted), MountFlags::empty());
    assert_eq!(source(&trusted), "strewn");
}

#[test]
fn a_note_for_umount_is_added_and_removed_among_others() {
    let directory = tempfile::tempdir().unwrap();
    let utab = Utab::in_directory(directory.path().join("mount"));
    let path = directory.path().join("mount/utab");
    utab.remove(Path::new("/mnt/x")).unwrap();
    assert!(!path.exists());
    utab.add(Path::new("/mnt/x"), "strewn:a").unwrap();
    let first = "SRC=strewn:a TARGET=/mnt/x ROOT=/ OPTS=uhelper=fuse.strewn\n";
    assert_eq!(fs::read_to_string(&path).unwrap(), first);
    let foreign = "ID=7 SRC=/dev/x TARGET=/mnt/x\\040y ROOT=/ OPTS=user=me\n";
    fs::write(&path, format!("{foreign}{first}")).unwrap();
    utab.add(Path::new("/mnt/x"), "strewn:b").unwrap();
    utab.add(Path::new("/mnt/odd #\\name"), "s").unwrap();
    let table = fs::read_to_string(&path).unwrap();
    let odd = "SRC=s TARGET=/mnt/odd\\040\\043\\134name ROOT=/ OPTS=uhelper=fuse.strewn\n";
    assert_eq!(table, format!("{foreign}{}{odd}", first.replace(":a", ":b")));
    utab.remove(Path::new("/mnt/x")).unwrap();
    utab.remove(Path::new("/mnt/odd #\\name")).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), foreign);
}

proptest! {
    #[test]
    fn any_table_is_parsed_without_panic(text in proptest::collection::vec(any::<u8>(), 0..300)) {
        let entries = table::parse(&text);
        prop_assert!(entries.len() <= text.len());
    }

    #[test]
    fn any_path_comes_back(name in "[ -~\\t\\n]{1,40}") {
        let directory = tempfile::tempdir().unwrap();
        let utab = Utab::in_directory(directory.path().into());
        let target = Path::new("/mnt").join(name.replace('/', ""));
        utab.add(&target, "strewn").unwrap();
        let table = fs::read(directory.path().join("utab")).unwrap();
        let value = table.split(|&byte| byte == b' ').find_map(|field| field.strip_prefix(b"TARGET=")).unwrap();
        prop_assert_eq!(table::unescape(value), target.as_os_str().as_bytes());
        utab.remove(&target).unwrap();
        prop_assert!(fs::read(directory.path().join("utab")).unwrap().is_empty());
    }
}
