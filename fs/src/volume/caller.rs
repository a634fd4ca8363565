//! Who asks, and which groups he is in.

use std::fs::File;
use std::io::{self, Read as _};

/// Most that is read of a process's status: room for the 65,536 groups that a process may be in (`NGROUPS_MAX`).
const MOST_STATUS: u64 = 1 << 20;

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Permissions that what he makes does not get, unless the directory has a default access control list.
    pub umask: u32,
    /// His process or thread, which is asked for his other groups; 0 if it is not known.
    pub process: u32,
}

impl Caller {
    /// True for the superuser.
    pub fn is_privileged(&self) -> bool {
        self.uid == 0
    }

    /// True if he is known to be in a group. The kernel tells but the effective one of a caller; of the others proc(5) knows.
    pub(crate) fn is_in(&self, group: u32) -> bool {
        self.gid == group || self.process != 0 && status(self.process).is_ok_and(|status| lists_group(&status, group))
    }

    /// True if he may leave set-group-id on a file of a group.
    pub(crate) fn keeps_set_group(&self, group: u32) -> bool {
        self.is_privileged() || self.is_in(group)
    }
}

fn status(process: u32) -> io::Result<Vec<u8>> {
    let mut status = Vec::new();
    File::open(format!("/proc/{process}/status"))?.take(MOST_STATUS).read_to_end(&mut status)?;
    Ok(status)
}

fn lists_group(status: &[u8], group: u32) -> bool {
    let group = group.to_string();
    let mut lists = status.split(|&byte| byte == b'\n').filter_map(|line| line.strip_prefix(b"Groups:"));
    lists.any(|list| list.split(u8::is_ascii_whitespace).any(|one| one == group.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_in_a_status() {
        let status = b"Name:\tGroups: 5\\n\nGid:\t7\t7\t7\t7\nFDSize:\t64\nGroups:\t4 24 1000 \nNStgid:\t9\n";
        assert!([4, 24, 1000].into_iter().all(|group| lists_group(status, group)));
        assert!([5, 7, 9, 2, 100, 10001].into_iter().all(|group| !lists_group(status, group)));
        assert!(!lists_group(b"Name:\tx\nGroups:\t\n", 0) && !lists_group(b"", 0));
    }

    #[test]
    fn a_process_is_asked_for_its_groups() {
        let process = std::process::id();
        let caller = |gid, process| Caller { uid: 1000, gid, umask: 0, process };
        for group in rustix::process::getgroups().unwrap() {
            assert!(caller(group.as_raw() + 1, process).is_in(group.as_raw()));
        }
        let nobodys = u32::MAX - 7;
        assert!(!caller(1, process).is_in(nobodys) && !caller(1, 0).is_in(nobodys));
        assert!(caller(nobodys, 0).is_in(nobodys) && caller(nobodys, u32::MAX).keeps_set_group(nobodys));
        assert!(!caller(1, 0).keeps_set_group(nobodys) && Caller { uid: 0, ..caller(1, 0) }.keeps_set_group(nobodys));
    }
}
