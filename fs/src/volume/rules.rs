//! The small decisions of POSIX: modes, privileges, times. They depend on what they are given alone, but that a caller's other
//! groups, which seldom count, are asked of proc(5), which waits for nobody.

use super::Caller;
use std::sync::Arc;
use strewn_engine::bucket::{Kind, Timestamp};
use strewn_engine::record::{Attributes, Xattrs};

/// Set-user-id.
pub(crate) const SUID: u32 = 0o4000;
/// Set-group-id.
pub(crate) const SGID: u32 = 0o2000;
/// Everything chmod may set.
pub(crate) const MODE_BITS: u32 = 0o7777;
const GROUP_EXECUTE: u32 = 0o010;

/// The extended attribute that holds file capabilities.
pub(crate) const CAPABILITY: &[u8] = b"security.capability";

/// relatime refreshes an access time that is this old, in seconds.
const ATIME_MAX_AGE: i64 = 24 * 60 * 60;

/// Takes from a file what must not outlive a write or chown: set-user-id, and set-group-id if the group may execute, or if the
/// caller might not set it (Linux's `setattr_should_drop_sgid`). True if it had any.
pub(crate) fn drop_set_id(attributes: &mut Attributes, caller: Caller) -> bool {
    if attributes.kind == Kind::Directory {
        return false;
    }
    let before = attributes.mode;
    attributes.mode &= !SUID;
    if attributes.mode & SGID != 0 && (attributes.mode & GROUP_EXECUTE != 0 || !caller.keeps_set_group(attributes.gid))
    {
        attributes.mode &= !SGID;
    }
    attributes.mode != before
}

/// Takes away file capabilities, which no write, truncate or chown leaves in place. True if it had any.
pub(crate) fn drop_capabilities(attributes: &mut Attributes) -> bool {
    if !attributes.xattrs.contains_key(CAPABILITY) {
        return false;
    }
    Arc::<Xattrs>::make_mut(&mut attributes.xattrs).remove(CAPABILITY).is_some()
}

/// True if a write by someone with or without privilege changes more than content and times.
pub(crate) fn has_privileges(attributes: &Attributes) -> bool {
    attributes.mode & (SUID | SGID) != 0 || attributes.xattrs.contains_key(CAPABILITY)
}

/// Group and mode of what is made in `parent`: a set-group-id directory passes on its group, and to directories the bit.
pub(crate) fn inherit(parent: &Attributes, kind: Kind, gid: u32, mode: u32) -> (u32, u32) {
    if parent.mode & SGID == 0 {
        return (gid, mode);
    }
    match kind {
        Kind::Directory => (parent.gid, mode | SGID),
        _ => (parent.gid, mode),
    }
}

/// When reading is noted in access times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AccessTimes {
    /// Of everything but directories.
    pub files: Noted,
    /// Of directories.
    pub directories: Noted,
}

/// When a read is noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Noted {
    /// `noatime`.
    Never,
    /// `relatime`: when the time that is noted is not after the last change, or a day old.
    #[default]
    Relative,
    /// `strictatime`.
    Always,
}

impl AccessTimes {
    /// True if a read now is to be noted.
    pub(crate) fn is_due(self, attributes: &Attributes, now: Timestamp) -> bool {
        let noted = if attributes.kind == Kind::Directory { self.directories } else { self.files };
        match noted {
            Noted::Never => false,
            Noted::Relative => access_is_due(attributes, now),
            Noted::Always => true,
        }
    }
}

/// relatime: an access is recorded if the recorded one is not after the last change, or a day old.
fn access_is_due(attributes: &Attributes, now: Timestamp) -> bool {
    attributes.atime <= attributes.mtime
        || attributes.atime <= attributes.ctime
        || now.seconds.saturating_sub(attributes.atime.seconds) >= ATIME_MAX_AGE
}

/// The kind that the type bits of a mode (`S_IFMT`) stand for.
pub(crate) fn kind_of_mode(mode: u32) -> Option<Kind> {
    Some(match mode & 0o170_000 {
        // mknod(2): zero means a regular file
        0 | 0o100_000 => Kind::File,
        0o040_000 => Kind::Directory,
        0o120_000 => Kind::Symlink,
        0o010_000 => Kind::Fifo,
        0o140_000 => Kind::Socket,
        0o020_000 => Kind::CharDevice,
        0o060_000 => Kind::BlockDevice,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn attributes(kind: Kind, mode: u32) -> Attributes {
        Attributes {
            kind,
            mode,
            uid: 1,
            gid: 2,
            size: 0,
            atime: Timestamp::default(),
            mtime: Timestamp::default(),
            ctime: Timestamp::default(),
            btime: Timestamp::default(),
            rdev: 0,
            target: Bytes::new(),
            xattrs: Arc::default(),
        }
    }

    #[test]
    fn set_id_goes_as_posix_says() {
        let root = Caller { uid: 0, gid: 0, umask: 0, process: 0 };
        let (member, stranger) = (Caller { uid: 7, gid: 2, ..root }, Caller { uid: 7, gid: 7, ..root });
        for (kind, before, after, by_stranger) in [
            (Kind::File, 0o6755, 0o755, 0o755),
            (Kind::File, 0o6745, 0o2745, 0o745),
            (Kind::File, 0o2644, 0o2644, 0o644),
            (Kind::File, 0o4644, 0o644, 0o644),
            (Kind::File, 0o755, 0o755, 0o755),
            (Kind::Directory, 0o6755, 0o6755, 0o6755),
        ] {
            for (caller, after) in [(root, after), (member, after), (stranger, by_stranger)] {
                let mut a = attributes(kind, before);
                assert_eq!(drop_set_id(&mut a, caller), before != after);
                assert_eq!(a.mode, after);
            }
        }
    }

    #[test]
    fn capabilities_go_and_nothing_else() {
        let mut a = attributes(Kind::File, 0o755);
        assert!(!drop_capabilities(&mut a));
        let xattrs = Arc::make_mut(&mut a.xattrs);
        xattrs.insert(CAPABILITY.to_vec(), Bytes::from_static(b"cap"));
        xattrs.insert(b"user.a".to_vec(), Bytes::from_static(b"b"));
        assert!(has_privileges(&a));
        assert!(drop_capabilities(&mut a));
        assert!(!has_privileges(&a));
        assert_eq!(a.xattrs.len(), 1);
    }

    #[test]
    fn set_group_id_directories_pass_on_their_group() {
        let plain = attributes(Kind::Directory, 0o755);
        let shared = attributes(Kind::Directory, 0o2755);
        assert_eq!(inherit(&plain, Kind::Directory, 9, 0o700), (9, 0o700));
        assert_eq!(inherit(&shared, Kind::File, 9, 0o600), (2, 0o600));
        assert_eq!(inherit(&shared, Kind::Directory, 9, 0o700), (2, 0o2700));
    }

    #[test]
    fn relatime() {
        let at = |seconds| Timestamp { seconds, nanos: 0 };
        let mut a = attributes(Kind::File, 0o644);
        (a.atime, a.mtime, a.ctime) = (at(100), at(50), at(60));
        assert!(!access_is_due(&a, at(200)));
        assert!(access_is_due(&a, at(100 + ATIME_MAX_AGE)));
        a.mtime = at(100);
        assert!(access_is_due(&a, at(200)));
        (a.mtime, a.ctime) = (at(50), at(150));
        assert!(access_is_due(&a, at(200)));
    }

    #[test]
    fn access_times_of_files_and_directories_are_kept_as_asked() {
        let now = Timestamp { seconds: 200, nanos: 0 };
        let of = |kind, times: AccessTimes| {
            let mut read = attributes(kind, 0o755);
            read.atime = Timestamp { seconds: 100, nanos: 0 };
            let again = times.is_due(&read, now);
            read.ctime = now;
            (times.is_due(&read, now), again)
        };
        let kinds = [Kind::File, Kind::Directory];
        let all = |files, directories| kinds.map(|kind| of(kind, AccessTimes { files, directories }));
        assert_eq!(all(Noted::Relative, Noted::Relative), [(true, false); 2]);
        assert_eq!(all(Noted::Relative, Noted::Never), [(true, false), (false, false)]);
        assert_eq!(all(Noted::Never, Noted::Never), [(false, false); 2]);
        assert_eq!(all(Noted::Always, Noted::Always), [(true, true); 2]);
    }

    #[test]
    fn mode_types() {
        assert_eq!(kind_of_mode(0o010_644), Some(Kind::Fifo));
        assert_eq!(kind_of_mode(0o644), Some(Kind::File));
        assert_eq!(kind_of_mode(0o170_644), None);
    }
}
