//! Owners, modes, times, extended attributes and access control lists.

use crate::*;

#[tokio::test]
async fn chown_and_writing_without_privilege_strip_privileges() {
    let f = Fixture::new().await;
    let v = &f.volume;
    let a = file(v, ROOT_INODE, b"a").await;
    let arm = async || {
        let mode = SetAttributes { mode: Some(0o6755), ..SetAttributes::default() };
        let _ = v.setattr(ROOT, a, mode).await.unwrap();
        v.setxattr(ROOT, a, b"security.capability", b"cap", SetXattr::Any).await.unwrap();
        assert_eq!(stat(v, a).await.attributes.mode, 0o6755);
    };
    let left = async || {
        let attributes = stat(v, a).await.attributes;
        (attributes.mode, attributes.xattrs.len())
    };
    let set = SetAttributes::default();
    arm().await;
    v.setattr(ROOT, a, SetAttributes { uid: Some(5), ..set }).await.unwrap();
    assert_eq!(left().await, (0o755, 0));
    arm().await;
    v.setattr(USER, a, SetAttributes { size: Some(9), ..set }).await.unwrap();
    assert_eq!(left().await, (0o755, 0));
    arm().await;
    v.setattr(USER, a, set).await.unwrap();
    assert_eq!(left().await, (0o755, 0));
    arm().await;
    v.write(a, b"x", WriteMode { unprivileged: Some(USER), ..AT_START }).await.unwrap();
    assert_eq!(left().await, (0o755, 0));
    arm().await;
    v.open(USER, a, Open { write: true, truncate: true, ..Open::default() }).await.unwrap();
    assert_eq!(left().await, (0o755, 0));
    arm().await;
    v.fallocate(USER, a, 0, 100, Allocate::Extend).await.unwrap();
    assert_eq!(left().await, (0o755, 0));
    arm().await;
    v.write(a, b"x", AT_START).await.unwrap();
    assert_eq!(left().await, (0o6755, 0), "the privileged keep the mode, nobody the capabilities");
}

#[tokio::test]
async fn times_are_set_as_asked() {
    let f = Fixture::new().await;
    let v = &f.volume;
    let a = file(v, ROOT_INODE, b"a").await;
    f.tick();
    let at = Timestamp { seconds: -5, nanos: 500_000_000 };
    let change = SetAttributes { atime: Some(SetTime::At(at)), mtime: Some(SetTime::Now), ..SetAttributes::default() };
    let changed = v.setattr(ROOT, a, change).await.unwrap().attributes;
    assert_eq!((changed.atime, changed.mtime, changed.ctime), (at, now(&f), now(&f)));
    f.tick();
    let omitted = SetAttributes { mode: Some(0o600), ..SetAttributes::default() };
    let changed = v.setattr(ROOT, a, omitted).await.unwrap().attributes;
    assert_eq!((changed.atime, changed.ctime), (at, now(&f)));
    let wild = SetTime::At(Timestamp { seconds: i64::MAX, nanos: u32::MAX });
    let changed = v.setattr(ROOT, a, SetAttributes { mtime: Some(wild), ..change }).await.unwrap().attributes;
    assert_eq!(changed.mtime, Timestamp { seconds: i64::MAX, nanos: 999_999_999 });
}

#[tokio::test]
async fn extended_attributes_keep_their_rules() {
    let f = Fixture::new().await;
    let v = &f.volume;
    let a = file(v, ROOT_INODE, b"a").await;
    v.setxattr(ROOT, a, b"user.x", b"1", SetXattr::Create).await.unwrap();
    assert_eq!(errno(v.setxattr(ROOT, a, b"user.x", b"1", SetXattr::Create).await), Errno::EXIST);
    assert_eq!(errno(v.setxattr(ROOT, a, b"user.y", b"1", SetXattr::Replace).await), Errno::NODATA);
    v.setxattr(ROOT, a, b"user.x", b"2", SetXattr::Replace).await.unwrap();
    v.setxattr(ROOT, a, b"trusted.t", b"", SetXattr::Any).await.unwrap();
    assert_eq!(&v.getxattr(a, b"user.x").await.unwrap()[..], b"2");
    assert_eq!(v.listxattr(a, true).await.unwrap(), b"trusted.t\0user.x\0");
    assert_eq!(v.listxattr(a, false).await.unwrap(), b"user.x\0");
    v.removexattr(a, b"user.x").await.unwrap();
    assert_eq!(errno(v.removexattr(a, b"user.x").await), Errno::NODATA);
    assert_eq!(errno(v.getxattr(a, b"user.x").await), Errno::NODATA);
    // What listings ask for of every file, unless they are told not to; kept all the same.
    assert_eq!(errno(v.getxattr(a, b"security.selinux").await), Errno::OPNOTSUPP);
    v.setxattr(ROOT, a, b"security.selinux", b"label", SetXattr::Any).await.unwrap();
    assert_eq!(&v.getxattr(a, b"security.selinux").await.unwrap()[..], b"label");
    v.removexattr(a, b"security.selinux").await.unwrap();
    for refused in [&b"system.x"[..], b"x", b"other.x"] {
        assert_eq!(errno(v.setxattr(ROOT, a, refused, b"", SetXattr::Any).await), Errno::OPNOTSUPP);
        assert_eq!(errno(v.getxattr(a, refused).await), Errno::OPNOTSUPP);
    }
    assert_eq!(errno(v.setxattr(ROOT, a, b"user.", b"", SetXattr::Any).await), Errno::INVAL);
    let long = [&b"user."[..], &[b'n'; 251]].concat();
    assert_eq!(errno(v.setxattr(ROOT, a, &long, b"", SetXattr::Any).await), Errno::RANGE);
    v.setxattr(ROOT, a, &long[..255], b"", SetXattr::Any).await.unwrap();
    assert_eq!(errno(v.setxattr(ROOT, a, b"user.big", &[0; 65_537], SetXattr::Any).await), Errno::TOOBIG);
    v.setxattr(ROOT, a, b"user.big", &[1; 65_536], SetXattr::Any).await.unwrap();
    assert_eq!(v.getxattr(a, b"user.big").await.unwrap().len(), 65_536);
    assert_eq!(errno(v.setxattr(ROOT, a, b"user.more", &[0; 4_096], SetXattr::Any).await), Errno::NOSPC);
    let link = v.symlink(ROOT, ROOT_INODE, b"s", b"t").await.unwrap().stat.inode;
    assert_eq!(errno(v.setxattr(ROOT, link, b"user.x", b"", SetXattr::Any).await), Errno::PERM);
    v.setxattr(ROOT, link, b"trusted.x", b"", SetXattr::Any).await.unwrap();
}

/// An access control list in the kernel's form. Entries: tag, permissions, id.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let entry = |(tag, permissions, id): &(u16, u16, u32)| {
        [&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    2u32.to_le_bytes().into_iter().chain(entries.iter().flat_map(entry)).collect()
}

const ACCESS: &[u8] = b"system.posix_acl_access";
const DEFAULT: &[u8] = b"system.posix_acl_default";
const NO_ID: u32 = u32::MAX;

#[tokio::test]
async fn an_access_control_list_and_the_mode_are_one() {
    let f = Fixture::new().await;
    let v = &f.volume;
    let a = file(v, ROOT_INODE, b"a").await;
    let mode = async |v: &Volume| v.getattr(a).await.unwrap().attributes.mode;
    let list = acl(&[(1, 7, NO_ID), (2, 6, 1000), (4, 5, NO_ID), (16, 6, NO_ID), (32, 4, NO_ID)]);
    v.setxattr(ROOT, a, ACCESS, &list, SetXattr::Any).await.unwrap();
    assert_eq!((mode(v).await, &v.getxattr(a, ACCESS).await.unwrap()[..]), (0o764, &list[..]));
    assert_eq!(v.listxattr(a, false).await.unwrap(), b"system.posix_acl_access\0");

    let chmod = SetAttributes { mode: Some(0o640), ..SetAttributes::default() };
    v.setattr(ROOT, a, chmod).await.unwrap();
    let masked = acl(&[(1, 6, NO_ID), (2, 6, 1000), (4, 5, NO_ID), (16, 4, NO_ID), (32, 0, NO_ID)]);
    assert_eq!(&v.getxattr(a, ACCESS).await.unwrap()[..], &masked[..]);

    // A list that says no more than a mode is one.
    let plain = acl(&[(1, 6, NO_ID), (4, 0, NO_ID), (32, 0, NO_ID)]);
    v.setxattr(ROOT, a, ACCESS, &plain, SetXattr::Any).await.unwrap();
    assert_eq!((mode(v).await, errno(v.getxattr(a, ACCESS).await)), (0o600, Errno::NODATA));
    v.removexattr(a, ACCESS).await.unwrap();

    assert_eq!(errno(v.setxattr(ROOT, a, ACCESS, b"nonsense", SetXattr::Any).await), Errno::INVAL);
    assert_eq!(errno(v.setxattr(ROOT, a, DEFAULT, &list, SetXattr::Any).await), Errno::ACCESS);
    let link = v.symlink(ROOT, ROOT_INODE, b"s", b"t").await.unwrap().stat.inode;
    assert_eq!(errno(v.setxattr(ROOT, link, ACCESS, &list, SetXattr::Any).await), Errno::OPNOTSUPP);
}

#[tokio::test]
async fn set_group_id_does_not_outlive_a_list_set_by_a_stranger_to_the_group() {
    let f = Fixture::new().await;
    let v = &f.volume;
    let a = file(v, ROOT_INODE, b"a").await;
    let list = acl(&[(1, 7, NO_ID), (4, 7, NO_ID), (32, 0, NO_ID)]);
    let chmod = SetAttributes { mode: Some(0o2770), ..SetAttributes::default() };
    for (caller, after) in [(ROOT, 0o2770), (Caller { gid: 0, ..USER }, 0o2770), (USER, 0o770)] {
        v.setattr(ROOT, a, chmod).await.unwrap();
        v.setxattr(caller, a, ACCESS, &list, SetXattr::Any).await.unwrap();
        assert_eq!(v.getattr(a).await.unwrap().attributes.mode, after);
    }
}

#[tokio::test]
async fn a_default_list_takes_the_place_of_the_umask() {
    let f = Fixture::new().await;
    let v = &f.volume;
    let careful = Caller { umask: 0o077, ..ROOT };
    let plain = v.mkdir(careful, ROOT_INODE, b"plain", 0o777).await.unwrap().stat;
    assert_eq!(plain.attributes.mode, 0o700);

    let d = v.mkdir(careful, ROOT_INODE, b"d", 0o2777).await.unwrap().stat.inode;
    let list = acl(&[(1, 7, NO_ID), (2, 7, 1000), (4, 5, NO_ID), (16, 7, NO_ID), (32, 5, NO_ID)]);
    v.setxattr(ROOT, d, DEFAULT, &list, SetXattr::Any).await.unwrap();
    let made = v.mknod(careful, d, b"f", 0o100_664, 0).await.unwrap().stat;
    assert_eq!(made.attributes.mode, 0o664);
    let expected = acl(&[(1, 6, NO_ID), (2, 7, 1000), (4, 5, NO_ID), (16, 6, NO_ID), (32, 4, NO_ID)]);
    assert_eq!(&v.getxattr(made.inode, ACCESS).await.unwrap()[..], &expected[..]);
    assert_eq!(errno(v.getxattr(made.inode, DEFAULT).await), Errno::NODATA);

    let inner = v.mkdir(careful, d, b"inner", 0o777).await.unwrap().stat;
    assert_eq!(inner.attributes.mode, 0o2775);
    assert_eq!(&v.getxattr(inner.inode, DEFAULT).await.unwrap()[..], &list[..]);
    let link = v.symlink(careful, d, b"s", b"t").await.unwrap().stat;
    assert_eq!((link.attributes.mode, link.attributes.xattrs.len()), (0o777, 0));
}

#[tokio::test]
async fn a_mount_may_show_other_owners_and_less_permissions() {
    let shown = Shown { uid: Some(5), gid: Some(6), umask: 0o027 };
    let f = Fixture::new().await;
    let v = &Volume::new(f.volume.cache().clone()).showing(shown);
    let a = v.mknod(ROOT, ROOT_INODE, b"a", 0o100_666, 0).await.unwrap().stat;
    let seen = |stat: &Stat| (stat.attributes.uid, stat.attributes.gid, stat.attributes.mode);
    assert_eq!(seen(&a), (5, 6, 0o640));
    assert_eq!(seen(&v.symlink(ROOT, ROOT_INODE, b"s", b"t").await.unwrap().stat), (5, 6, 0o777));
    let chown = |uid, gid| SetAttributes { uid, gid, ..SetAttributes::default() };
    assert_eq!(errno(v.setattr(ROOT, a.inode, chown(Some(7), None)).await), Errno::PERM);
    assert_eq!(errno(v.setattr(ROOT, a.inode, chown(None, Some(7))).await), Errno::PERM);
    assert_eq!(seen(&v.setattr(ROOT, a.inode, chown(Some(5), Some(6))).await.unwrap()), (5, 6, 0o640));
    // What is kept is what was made.
    let kept = v.cache().transact(|tx| tx.attributes(a.inode)).await.unwrap();
    assert_eq!((kept.uid, kept.gid, kept.mode), (0, 0, 0o666));
}

#[tokio::test]
async fn reading_moves_the_access_time_as_relatime_says() {
    let f = Fixture::new().await;
    let v = &f.volume;
    let a = file(v, ROOT_INODE, b"a").await;
    let read = Open { read: true, ..Open::default() };
    f.tick();
    v.open(ROOT, a, Open { no_atime: true, ..read }).await.unwrap();
    assert_ne!(stat(v, a).await.attributes.atime, now(&f));
    v.open(ROOT, a, read).await.unwrap();
    let first = now(&f);
    assert_eq!(stat(v, a).await.attributes.atime, first);
    f.tick();
    v.open(ROOT, a, read).await.unwrap();
    assert_eq!(stat(v, a).await.attributes.atime, first, "read after the last change already");
    f.clock.advance(24 * 3600 * 1_000_000_000);
    v.open(ROOT, a, read).await.unwrap();
    assert_eq!(stat(v, a).await.attributes.atime, now(&f));
}

#[tokio::test]
async fn the_drives_own_attributes_can_be_read_and_nothing_else() {
    let f = Fixture::new().await;
    let v = &f.volume;
    let a = file(v, ROOT_INODE, b"a").await;
    v.write(a, &[7; 100_000], AT_START).await.unwrap();
    v.setxattr(ROOT, a, b"user.mine", b"1", SetXattr::Any).await.unwrap();
    assert_eq!(&v.getxattr(a, b"user.strewn.pieces").await.unwrap()[..], b"none");
    v.cache().drain(|_| {}).await.unwrap();
    assert_eq!(&v.getxattr(a, b"user.strewn.state").await.unwrap()[..], b"committed");
    assert_eq!(&v.getxattr(a, b"user.strewn.pieces").await.unwrap()[..], b"1/1");
    assert_eq!(v.listxattr(a, true).await.unwrap(), b"user.mine\0", "copies must not carry them");
    for name in [&b"user.strewn.state"[..], b"user.strewn.pieces", b"user.strewn.other"] {
        assert_eq!(errno(v.setxattr(ROOT, a, name, b"x", SetXattr::Any).await), Errno::PERM);
        assert_eq!(errno(v.removexattr(a, name).await), Errno::PERM);
    }
    assert_eq!(errno(v.getxattr(a, b"user.strewn.other").await), Errno::NODATA);
    f.bucket.set_unreachable(true);
    v.write(a, b"changed", AT_START).await.unwrap();
    let state = v.getxattr(a, b"user.strewn.state").await.unwrap();
    assert!(state == "pending" || state == "uploading", "{state:?}");
}
