//! Whether anybody else has a file open or mapped: the kernel says so by granting a lease (`F_SETLEASE`, fcntl(2)), which is
//! given back at once. No library wraps it, so this is the one place of the crate with foreign calls.

use std::fs::File;
use std::os::fd::AsRawFd;

/// `F_SETSIG` of asm-generic/fcntl.h, which the library lacks.
const F_SETSIG: i32 = 10;

/// True if `file`, open for reading, is the only open file of its inode, and nothing is mapped from it by way of others. False
/// too where leases are not known or not allowed.
#[allow(unsafe_code)] // no safe wrapper exists; the arguments are plain numbers
pub(super) fn is_alone(file: &File) -> bool {
    let fd = file.as_raw_fd();
    // SAFETY: these commands take integers and no pointers, and `file` keeps the descriptor open during the calls.
    let lease = |kind: i32| unsafe { libc::fcntl(fd, libc::F_SETLEASE, kind) } == 0;
    // Who opens the file in between waits for the lease to go; the signal that tells the holder must not be SIGIO, which ends
    // a process, but one that nobody notices.
    // SAFETY: as above.
    let quiet = unsafe { libc::fcntl(fd, F_SETSIG, libc::SIGURG) } == 0;
    quiet && lease(libc::F_WRLCK) && lease(libc::F_UNLCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_reader_or_writer_is_noticed() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("file");
        std::fs::write(&path, b"x").expect("writes");
        let file = File::open(&path).expect("opens");
        assert!(is_alone(&file));
        for writes in [false, true] {
            let other = File::options().read(true).write(writes).open(&path).expect("opens");
            assert!(!is_alone(&file));
            drop(other);
            assert!(is_alone(&file));
        }
    }
}
