//! The names under which mount(8), fstab and umount(8) call this program, turned into its own commands.
//!
//! ```text
//! mount.strewn SOURCE DIR [-sfnv] [-o OPTIONS]    ->  strewn mount --detach --quiet SOURCE DIR -o OPTIONS
//! umount.fuse.strewn DIR [-flnrv]                 ->  strewn umount [--no-wait] [--lazy] DIR
//! ```

use crate::error::{Failure, Outcome};
use std::ffi::OsString;
use std::path::Path;

/// The arguments to parse: those given, or their translation if the program was called by a helper's name.
pub(crate) fn arguments(given: impl Iterator<Item = OsString>) -> Outcome<Vec<OsString>> {
    let given: Vec<OsString> = given.collect();
    let name = given.first().and_then(|first| Path::new(first).file_name()).unwrap_or_default();
    match name.to_str() {
        Some("mount.strewn" | "mount.fuse.strewn") => mount(&given[1..]),
        Some("umount.strewn" | "umount.fuse.strewn") => umount(&given[1..]),
        _ => Ok(given),
    }
}

fn mount(given: &[OsString]) -> Outcome<Vec<OsString>> {
    let mut places = Vec::new();
    let mut options = Vec::new();
    let mut quiet = true;
    let mut rest = given.iter();
    while let Some(argument) = rest.next() {
        match argument.to_str() {
            Some("-o") => options.push(rest.next().ok_or_else(|| Failure::usage("-o needs options"))?.clone()),
            // -s: tolerate unknown options, -n: do not write mtab, -v: verbose; -f would be a dry run.
            Some("-v") => quiet = false,
            Some("-s" | "-n") => {}
            Some("-f") => return Ok(vec!["strewn".into(), "--version".into()]),
            Some(flag) if flag.starts_with("-o") => options.push(flag[2..].into()),
            _ => places.push(argument.clone()),
        }
    }
    let mut arguments: Vec<OsString> = ["strewn", "mount", "--detach"].map(OsString::from).into();
    arguments.extend(quiet.then(|| "--quiet".into()));
    for option in options {
        arguments.extend(["-o".into(), option]);
    }
    arguments.push("--".into());
    arguments.extend(places);
    Ok(arguments)
}

fn umount(given: &[OsString]) -> Outcome<Vec<OsString>> {
    let mut arguments: Vec<OsString> = ["strewn", "umount"].map(OsString::from).into();
    for argument in given {
        match argument.to_str() {
            Some("-f") => arguments.push("--no-wait".into()),
            Some("-l") => arguments.extend(["--no-wait".into(), "--lazy".into()]),
            Some(flag) if flag.starts_with('-') => {}
            _ => arguments.extend(["--".into(), argument.clone()]),
        }
    }
    Ok(arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translate(line: &str) -> String {
        let words = arguments(line.split(' ').map(OsString::from)).unwrap();
        words.join(" ".as_ref()).into_string().unwrap()
    }

    #[test]
    fn helper_calls_become_commands() {
        assert_eq!(
            translate("/sbin/mount.strewn drive /mnt -s -o rw,access=work"),
            "strewn mount --detach --quiet -o rw,access=work -- drive /mnt"
        );
        assert_eq!(translate("mount.fuse.strewn drive /mnt -v"), "strewn mount --detach -- drive /mnt");
        assert_eq!(translate("/sbin/umount.fuse.strewn /mnt -v"), "strewn umount -- /mnt");
        assert_eq!(translate("umount.fuse.strewn -l /mnt"), "strewn umount --no-wait --lazy -- /mnt");
        assert_eq!(translate("umount.fuse.strewn -f /mnt"), "strewn umount --no-wait -- /mnt");
        assert_eq!(translate("strewn ls x"), "strewn ls x");
    }
}
