//! Whether anybody else has a file open or mapped: the kernel says so by granting a lease (`F_SETLEASE`, fcntl(2)), which is
//! given back at once. No library wraps it, so this is the one place of the crate with foreign calls.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// `F_SETSIG` of asm-generic/fcntl.h, which the library lacks.
const F_SETSIG: i32 = 10;

/// Who uses a file besides the handle that is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Others {
    /// Nobody has it open or mapped.
    None,
    /// Somebody has.
    Some,
    /// The file system does not say.
    Unknown,
}

/// Who uses a file besides `file`, which is open for reading.
#[allow(unsafe_code)] // no safe wrapper exists; the arguments are plain numbers
pub(super) fn others(file: &File) -> Others {
    let fd = file.as_raw_fd();
    // SAFETY: these commands take integers and no pointers, and `file` keeps the descriptor open during the calls.
    let control = |command: i32, argument: i32| match unsafe { libc::fcntl(fd, command, argument) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    };
    // Who opens the file in between waits for the lease to go; the signal that tells the holder must not be SIGIO, which ends
    // a process, but one that nobody notices.
    let lease = control(F_SETSIG, libc::SIGURG).and_then(|()| control(libc::F_SETLEASE, libc::F_WRLCK));
    match lease.and_then(|()| control(libc::F_SETLEASE, libc::F_UNLCK)) {
        Ok(()) => Others::None,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Others::Some,
        Err(_) => Others::Unknown,
    }
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
        assert_eq!(others(&file), Others::None);
        for writes in [false, true] {
            let other = File::options().read(true).write(writes).open(&path).expect("opens");
            assert_eq!(others(&file), Others::Some);
            drop(other);
            assert_eq!(others(&file), Others::None);
        }
        let unknown = File::open(directory.path()).expect("opens");
        assert_eq!(others(&unknown), Others::Unknown);
    }
}
