//! Access control lists: who else may do what, enforced by the kernel, kept by the drive, carried by the tools.

use crate::harness::{Drive, fail, run, sh};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// A user who owns nothing on the drive.
const STRANGER: &str = "12345";

/// A network and its drive, open to all users. Needs root: only root may act as somebody else.
fn drive_for_all() -> Drive {
    assert!(rustix::process::geteuid().is_root(), "this test needs root: it acts as two users");
    let drive = Drive::network();
    drive.mount_drive(&["-o", "allow_other"]);
    let beside = drive.path().parent().unwrap();
    std::fs::set_permissions(beside, std::fs::Permissions::from_mode(0o755)).unwrap();
    drive
}

/// A command line of a shell of the stranger.
fn stranger(dir: &Path, line: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", STRANGER, "--regid", STRANGER, "--clear-groups", "sh", "-ec", line]).current_dir(dir);
    command
}

#[test]
fn lists_let_in_and_keep_out() {
    let drive = drive_for_all();
    sh(drive.path(), "umask 077; echo secret > f; mkdir d; echo other > d/f");
    assert!(fail(stranger(drive.path(), "cat f")).contains("Permission denied"));
    sh(drive.path(), &format!("setfacl -m u:{STRANGER}:r f; setfacl -m u:{STRANGER}:rwx -m d:u:{STRANGER}:rwX d"));
    assert_eq!(run(stranger(drive.path(), "cat f")), "secret\n");
    assert!(fail(stranger(drive.path(), "echo more >> f")).contains("Permission denied"));
    run(stranger(drive.path(), "echo mine > d/mine"));

    // What is made later begins with the default list, whatever the umask; the mask of chmod bounds it.
    sh(drive.path(), "umask 077; echo later > d/later; mkdir d/in; echo deep > d/in/deep");
    assert_eq!(run(stranger(drive.path(), "cat d/later d/in/deep; echo more >> d/later")), "later\ndeep\n");
    sh(drive.path(), "chmod g= d/later");
    assert!(fail(stranger(drive.path(), "cat d/later")).contains("Permission denied"));
    sh(drive.path(), "setfacl -b f");
    assert!(fail(stranger(drive.path(), "cat f")).contains("Permission denied"));
}

#[test]
fn lists_come_back_from_the_network_and_travel_with_copies() {
    let drive = drive_for_all();
    let lists = "cd tree; getfacl -R --numeric . | grep -v '^#'; stat -c '%A %n' d d/f";
    sh(drive.path(), "umask 022; mkdir -p tree/d; setfacl -m d:u:1:rwx,d:g:2:rx,u:3:x tree/d; echo f > tree/d/f");
    let before = sh(drive.path(), lists);
    assert!(before.contains("user:3:--x") && before.contains("default:user:1:rwx"), "{before}");
    run(drive.strewn(["umount"]).arg(drive.path()));
    std::fs::remove_dir_all(drive.beside("cache")).unwrap();
    drive.mount_drive(&["-o", "allow_other"]);
    assert_eq!(sh(drive.path(), lists), before);

    let copy = drive.beside("copy");
    run(Command::new("rsync").arg("-aA").arg(drive.path().join("tree")).arg(&copy));
    assert_eq!(sh(&copy, lists), before);
    let again = Command::new("rsync").args(["-aAinc", "--delete"]).arg(copy.join("tree")).arg(drive.path()).output();
    assert_eq!(crate::harness::text(&again.unwrap().stdout), "");
}

/// Linux since 6.2: without execution for the group it stays for who might set it, as for a member by another than his first group.
#[test]
fn set_group_id_goes_with_what_a_stranger_to_the_group_changes() {
    let drive = drive_for_all();
    for change in ["echo more >> f", "fallocate -l 9 f", "truncate -s 3 f", ": > f", "setfacl -m u:1:r f"] {
        for (groups, mode) in [("--groups=777", "2666"), ("--clear-groups", "666")] {
            sh(drive.path(), &format!("rm -f f; echo f > f; chown {STRANGER}:777 f; chmod 2666 f"));
            let mut command = Command::new("setpriv");
            command.args(["--reuid", STRANGER, "--regid", STRANGER, groups, "sh", "-ec", change]);
            run(command.current_dir(drive.path()));
            assert_eq!(sh(drive.path(), "stat -c %a f"), format!("{mode}\n"), "{change} {groups}");
        }
    }
}

#[test]
fn a_mount_shows_the_owners_it_is_told_to() {
    let drive = Drive::network();
    drive.mount_drive(&["-o", "uid=12345,gid=54321,umask=027"]);
    sh(drive.path(), "echo f > f; mkdir d");
    assert_eq!(sh(drive.path(), "umask 0; stat -c '%u %g %a' f d"), "12345 54321 640\n12345 54321 750\n");
    assert_eq!(sh(drive.path(), "ls -ln | tail -n 1 | cut -d ' ' -f 3,4"), "12345 54321\n");
    assert!(fail(drive.strewn(["mount", "drive", "/nowhere", "-o", "umask=9"])).contains("umask=9"));
}
