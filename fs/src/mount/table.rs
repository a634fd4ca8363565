//! The kernel's mount table, `/proc/self/mountinfo`: one line per mount,
//! `id parent major:minor root path options [tags…] - type source super-options`, with blanks as `\040` and the like.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

const MOUNTINFO: &str = "/proc/self/mountinfo";

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountEntry {
    /// Its id, unique while it is mounted.
    pub id: u64,
    /// Id of the mount it is mounted on.
    pub parent: u64,
    /// Device number, `major:minor`: the name of its FUSE connection.
    pub device: (u32, u32),
    /// What of the drive it shows: `/` for all of it.
    pub root: PathBuf,
    /// Where it is mounted.
    pub path: PathBuf,
    /// Its type, with subtype.
    pub fs_type: String,
    /// What it says it is mounted from.
    pub source: String,
}

/// All mounts this process sees, in the order in which they were made at each place.
pub(super) fn read() -> io::Result<Vec<MountEntry>> {
    Ok(parse(&std::fs::read(MOUNTINFO)?))
}

/// The names of all places that something is mounted on, without what leads there.
pub(super) fn names(entries: &[MountEntry]) -> HashSet<OsString> {
    entries.iter().filter_map(|entry| entry.path.file_name()).map(OsString::from).collect()
}

/// True if something is mounted on a place within a mount of this type.
pub(super) fn is_any_on(entries: &[MountEntry], fs_type: &str) -> bool {
    let within: HashSet<u64> = entries.iter().filter(|entry| entry.fs_type == fs_type).map(|entry| entry.id).collect();
    entries.iter().any(|entry| within.contains(&entry.parent))
}

/// The mount that a walk to `path` ends in, if one begins exactly there: the last of those stacked on it.
pub(super) fn top_at<'a>(entries: &'a [MountEntry], path: &Path) -> Option<&'a MountEntry> {
    let here: Vec<&MountEntry> = entries.iter().filter(|entry| entry.path == path).collect();
    // Of mounts stacked on one place, each has the one below as its parent; the top is nobody's parent there.
    let covered = |entry: &MountEntry| here.iter().any(|other| other.parent == entry.id && other.id != entry.id);
    here.iter().rev().find(|entry| !covered(entry)).copied()
}

/// Lines that do not look as expected are left out.
pub(super) fn parse(text: &[u8]) -> Vec<MountEntry> {
    text.split(|&byte| byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|&byte| byte == b' ');
    let id = number(fields.next()?)?;
    let parent = number(fields.next()?)?;
    let device = std::str::from_utf8(fields.next()?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let root = unescape(fields.next()?);
    let path = unescape(fields.next()?);
    let mut rest = fields.skip_while(|field| *field != b"-").skip(1);
    let fs_type = String::from_utf8_lossy(&unescape(rest.next()?)).into_owned();
    let source = String::from_utf8_lossy(&unescape(rest.next()?)).into_owned();
    Some(MountEntry {
        id,
        parent,
        device: (major.parse().ok()?, minor.parse().ok()?),
        root: PathBuf::from(OsString::from_vec(root)),
        path: PathBuf::from(OsString::from_vec(path)),
        fs_type,
        source,
    })
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Undoes `\ooo`. A backslash that begins no such group stands for itself.
pub(super) fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        match octal(rest) {
            Some(byte) => {
                plain.push(byte);
                rest = &rest[4..];
            }
            None => {
                plain.push(first);
                rest = tail;
            }
        }
    }
    plain
}

fn octal(text: &[u8]) -> Option<u8> {
    let [b'\\', digits @ ..] = text.get(..4)? else { return None };
    let value = digits
        .iter()
        .try_fold(0u32, |sum, digit| matches!(digit, b'0'..=b'7').then(|| sum * 8 + u32::from(digit - b'0')))?;
    u8::try_from(value).ok()
}
