//! Plain types to and from those of the FUSE library, version 0.18.

use crate::Error;
use crate::volume::{Caller, Entry, Open, SetTime, Stat};
use fuser::{FileAttr, FileType, INodeNo, OpenFlags, TimeOrNow};
use rustix::fs::OFlags;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use strewn_engine::bucket::{Kind, Timestamp};

/// What stat(2) calls a block.
const STAT_BLOCK: u64 = 512;

/// Preferred size of reads and writes that stat(2) tells.
const PREFERRED_IO: u32 = 128 * 1024;

pub(super) fn caller(request: &fuser::Request) -> Caller {
    maker(request, 0)
}

/// The caller of a request that makes something.
pub(super) fn maker(request: &fuser::Request, umask: u32) -> Caller {
    Caller { uid: request.uid(), gid: request.gid(), umask, process: request.pid() }
}

pub(super) fn errno(error: &Error) -> fuser::Errno {
    fuser::Errno::from_i32(error.errno().raw_os_error())
}

pub(super) fn entry(entry: &Entry) -> FileAttr {
    attributes(entry.number, &entry.stat)
}

pub(super) fn attributes(number: u64, stat: &Stat) -> FileAttr {
    let attributes = &stat.attributes;
    FileAttr {
        ino: INodeNo(number),
        size: attributes.size,
        blocks: stat.allocated.div_ceil(STAT_BLOCK),
        atime: system_time(attributes.atime),
        mtime: system_time(attributes.mtime),
        ctime: system_time(attributes.ctime),
        crtime: system_time(attributes.btime),
        kind: file_type(attributes.kind),
        perm: (attributes.mode & 0o7777) as u16,
        nlink: stat.nlink,
        uid: attributes.uid,
        gid: attributes.gid,
        // 32 bits in the protocol, which is where they came from
        rdev: attributes.rdev as u32,
        blksize: PREFERRED_IO,
        flags: 0,
    }
}

/// Attributes of what does not exist.
pub(super) fn nothing() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

pub(super) fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::CharDevice => FileType::CharDevice,
        Kind::BlockDevice => FileType::BlockDevice,
    }
}

/// Times that a `SystemTime` cannot hold stop at the epoch rather than wrap.
pub(super) fn system_time(time: Timestamp) -> SystemTime {
    let seconds = Duration::from_secs(time.seconds.unsigned_abs());
    let whole = match time.seconds {
        0.. => UNIX_EPOCH.checked_add(seconds),
        _ => UNIX_EPOCH.checked_sub(seconds),
    };
    let nanos = Duration::from_nanos(time.nanos.min(999_999_999).into());
    whole.and_then(|whole| whole.checked_add(nanos)).unwrap_or(UNIX_EPOCH)
}

pub(super) fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::At(asked_time(time)),
    }
}

/// The time the kernel asked for.
///
/// The library turns (seconds, nanoseconds) before 1970 into a time that lies that many seconds *and nanoseconds* before
/// it, where the nanoseconds count forward. Taken apart the same way, both come out as they went in.
fn asked_time(time: SystemTime) -> Timestamp {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => {
            Timestamp { seconds: i64::try_from(after.as_secs()).unwrap_or(i64::MAX), nanos: after.subsec_nanos() }
        }
        Err(before) => {
            let before = before.duration();
            let seconds = 0i64.checked_sub_unsigned(before.as_secs()).unwrap_or(i64::MIN);
            Timestamp { seconds, nanos: before.subsec_nanos() }
        }
    }
}

pub(super) fn open(flags: OpenFlags) -> Open {
    let bits = OFlags::from_bits_retain(flags.0.cast_unsigned());
    let access = bits & OFlags::RWMODE;
    Open {
        read: access != OFlags::WRONLY,
        write: access != OFlags::RDONLY,
        truncate: bits.contains(OFlags::TRUNC),
        exclusive: bits.contains(OFlags::EXCL),
        no_atime: bits.contains(OFlags::NOATIME),
        direct: bits.contains(OFlags::DIRECT),
    }
}

pub(super) fn is_append(flags: OpenFlags) -> bool {
    has(flags, OFlags::APPEND)
}

/// `O_DSYNC` of asm-generic/fcntl.h, a bit of `O_SYNC` too; what rustix calls so is all of `O_SYNC`.
const O_DSYNC: u32 = 0o10_000;

/// True for a write that is to be durable when it returns: by how the file was opened, or by a flag of the one call.
pub(super) fn is_synchronous(flags: OpenFlags) -> bool {
    flags.0.cast_unsigned() & O_DSYNC != 0
}

fn has(flags: OpenFlags, flag: OFlags) -> bool {
    OFlags::from_bits_retain(flags.0.cast_unsigned()).contains(flag)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the library makes of what the kernel sends.
    fn as_the_library_does(seconds: i64, nanos: u32) -> SystemTime {
        match seconds {
            0.. => UNIX_EPOCH + Duration::new(seconds.unsigned_abs(), nanos),
            _ => UNIX_EPOCH - Duration::new(seconds.unsigned_abs(), nanos),
        }
    }

    #[test]
    fn times_come_through_on_both_sides_of_1970() {
        for (seconds, nanos) in
            [(0, 0), (1, 5), (-1, 0), (-1, 500_000_000), (-2, 1), (1 << 40, 999_999_999), (-(1 << 40), 7)]
        {
            let time = Timestamp { seconds, nanos };
            assert_eq!(asked_time(as_the_library_does(seconds, nanos)), time);
        }
    }

    #[test]
    fn times_go_out_as_they_are() {
        let half_before = system_time(Timestamp { seconds: -1, nanos: 500_000_000 });
        assert_eq!(UNIX_EPOCH.duration_since(half_before).unwrap(), Duration::from_millis(500));
        assert_eq!(system_time(Timestamp { seconds: 3, nanos: 4 }), UNIX_EPOCH + Duration::new(3, 4));
        assert_eq!(system_time(Timestamp { seconds: i64::MIN, nanos: 0 }), UNIX_EPOCH - Duration::from_secs(1 << 63));
    }

    #[test]
    fn open_flags() {
        let flags = |bits: OFlags| OpenFlags(bits.bits().cast_signed());
        let parsed = open(flags(OFlags::RDWR | OFlags::TRUNC | OFlags::APPEND));
        assert_eq!(parsed, Open { read: true, write: true, truncate: true, ..Open::default() });
        assert_eq!(open(flags(OFlags::WRONLY)), Open { write: true, ..Open::default() });
        assert!(is_synchronous(flags(OFlags::WRONLY | OFlags::SYNC)));
        assert!(is_synchronous(OpenFlags(0o10_001)) && !is_synchronous(flags(OFlags::WRONLY)));
        assert!(is_append(flags(OFlags::APPEND)) && !is_append(flags(OFlags::RDWR)));
    }
}
