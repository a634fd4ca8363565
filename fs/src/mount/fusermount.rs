//! `fusermount3`, the set-user-id helper that mounts for users who are not root. It opens the device, mounts, and passes
//! the descriptor back over a unix socket; the socket is its standard input, so that no descriptor has to be let through.

use super::{MountError, UnmountError};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};

const HELPERS: [&str; 2] = ["fusermount3", "fusermount"];
/// Tells the helper on which descriptor to answer: its standard input.
const ANSWER_ON: (&str, &str) = ("_FUSE_COMMFD", "0");
/// Longest part of a helper's message that is passed on.
const MAX_REASON: usize = 400;

/// Mounts with options in the helper's notation, and returns the device.
pub(super) fn mount(path: &Path, options: &str) -> Result<OwnedFd, MountError> {
    let failed = |error: io::Error| MountError::Failed { path: path.into(), reason: error.to_string() };
    for helper in HELPERS {
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        let child = Command::new(helper)
            .args(["-o", options, "--"])
            .arg(path)
            .env(ANSWER_ON.0, ANSWER_ON.1)
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let child = match child {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(failed)?,
        };
        // Ends without a descriptor when the helper gives up.
        let received = receive(&ours);
        drop(ours);
        let output = child.wait_with_output().map_err(failed)?;
        return match received {
            Ok(Some(device)) if output.status.success() => Ok(device),
            Ok(_) => Err(refusal(path, &output)),
            Err(error) => Err(failed(error)),
        };
    }
    Err(MountError::NoHelper)
}

/// Unmounts.
pub(super) fn unmount(path: &Path, lazy: bool) -> Result<(), UnmountError> {
    for helper in HELPERS {
        let mut command = Command::new(helper);
        command.arg("-u").args(lazy.then_some("-z")).arg("--").arg(path).stdin(Stdio::null());
        match command.output() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(UnmountError::Failed { path: path.into(), reason: error.to_string() }),
            Ok(output) if output.status.success() => return Ok(()),
            Ok(output) => {
                let reason = reason(&output);
                return Err(if reason.contains("busy") {
                    UnmountError::Busy(path.into())
                } else if reason.contains("not permitted") || reason.contains("not found in") {
                    UnmountError::Permission(path.into())
                } else {
                    UnmountError::Failed { path: path.into(), reason }
                });
            }
        }
    }
    Err(UnmountError::NoHelper)
}

/// A value in the helper's option list: commas and backslashes would end it.
pub(super) fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace(',', "\\,")
}

fn receive(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut messages = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    loop {
        let mut parts = [IoSliceMut::new(&mut byte)];
        match rustix::net::recvmsg(socket, &mut parts, &mut messages, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => break,
        }
    }
    let rights = messages.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok(rights)
}

fn refusal(path: &Path, output: &Output) -> MountError {
    let reason = reason(output);
    if reason.contains("user_allow_other") {
        MountError::AllowOther
    } else if reason.contains("fuse device not found") || reason.contains("/dev/fuse: No such") {
        MountError::NoDevice
    } else if reason.contains("open /dev/fuse: Permission denied") {
        let reason = "only root may open /dev/fuse here; let others (as root: chmod 666 /dev/fuse), or mount as root";
        MountError::Permission { path: path.into(), reason: reason.into() }
    } else if reason.contains("ermission denied")
        || reason.contains("not permitted")
        || reason.contains("no write access")
    {
        MountError::Permission { path: path.into(), reason }
    } else {
        MountError::Failed { path: path.into(), reason }
    }
}

/// What the helper said, in one line.
fn reason(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let line: String = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
    match line.is_empty() {
        true => format!("fusermount3 ended with {}", output.status),
        false => line.chars().take(MAX_REASON).collect(),
    }
}
