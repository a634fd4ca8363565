//! A small disk of its own for a cache directory: an ext4 file system in a file, on a loop device, whose power can be cut.

use crate::harness::{output, run, wait_until};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Written without a sync right before the power is cut: it must be lost, or the cut was none.
const CONTROL: &str = "written-last";

/// Makes the directory's file system forget everything that is not on the disk yet, and fail from then on. The file of the
/// control is written as late as can be, because the kernel may write it out by itself.
const SHUT_DOWN: &str = "import fcntl, os, struct, sys
EXT4_IOC_SHUTDOWN, NO_LOG_FLUSH = 0x8004587d, 2
directory, control = os.open(sys.argv[1], os.O_RDONLY), os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT)
os.write(control, b'not synced')
fcntl.ioctl(directory, EXT4_IOC_SHUTDOWN, struct.pack('I', NO_LOG_FLUSH))";

/// The file system and the device under it. Dropping it takes both away.
pub(crate) struct Disk {
    device: PathBuf,
    mountpoint: PathBuf,
}

impl Disk {
    /// Makes and mounts a file system of so many bytes, kept in the file `image`.
    #[track_caller]
    pub(crate) fn new(image: &Path, mountpoint: &Path, bytes: u64) -> Self {
        std::fs::File::create(image).and_then(|file| file.set_len(bytes)).expect("a file for the disk");
        std::fs::create_dir_all(mountpoint).expect("a mountpoint");
        run(Command::new("mkfs.ext4").arg("-q").arg(image));
        let attached = output(Command::new("losetup").args(["--find", "--show"]).arg(image));
        assert!(
            attached.status.success(),
            "this test needs root and a free loop device (losetup --find): {}",
            String::from_utf8_lossy(&attached.stderr)
        );
        let device = PathBuf::from(String::from_utf8_lossy(&attached.stdout).trim());
        let disk = Self { device, mountpoint: mountpoint.to_owned() };
        disk.mount();
        disk
    }

    /// Mounts it, as after a boot. Nothing reaches the disk by itself: neither by a commit of the file system at times, nor
    /// because it takes a rename for a wish that the new bytes be safe.
    #[track_caller]
    pub(crate) fn mount(&self) {
        let mut mount = Command::new("mount");
        run(mount.args(["-o", "noauto_da_alloc,commit=300"]).arg(&self.device).arg(&self.mountpoint));
    }

    /// Cuts the power: what was not synced is gone, and nothing can be read or written any more.
    #[track_caller]
    pub(crate) fn cut_power(&self) {
        let control = self.mountpoint.join(CONTROL);
        run(Command::new("python3").args(["-c", SHUT_DOWN]).arg(&self.mountpoint).arg(control));
    }

    /// Unmounts what the power was cut of, once nobody uses it, and mounts it again.
    #[track_caller]
    pub(crate) fn mount_after_cut(&self) {
        // Threads of a killed process may still be on their way out.
        wait_until("nobody uses the disk", || output(Command::new("umount").arg(&self.mountpoint)).status.success());
        wait_until("the kernel has let go of the disk", || {
            // Refused while a file system on it is mounted anywhere.
            let mut exclusive = std::fs::OpenOptions::new();
            exclusive.read(true).custom_flags(rustix::fs::OFlags::EXCL.bits() as i32).open(&self.device).is_ok()
        });
        self.mount();
        let control = std::fs::read(self.mountpoint.join(CONTROL)).unwrap_or_default();
        assert!(control.is_empty(), "what was not synced survived: the power was not cut");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The end of a test: what fails here has been reported where it mattered.
        drop(Command::new("umount").arg("-l").arg(&self.mountpoint).output());
        drop(Command::new("losetup").arg("--detach").arg(&self.device).output());
    }
}
