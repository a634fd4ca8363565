//! The names under which mount(8), fstab and umount(8) call this program, turned into its own commands.
//!
//! ```text
//! mount.strewn SOURCE DIR [-sfnv] [-o OPTIONS]    ->  strewn mount --detach --quiet SOURCE DIR -o OPTIONS
//! mount.strewn SOURCE DIR -o remount,OPTIONS      ->  mount -i -o remount,OPTIONS DIR, as far as they are the kernel's
//! umount.fuse.strewn DIR [-flnrv]                 ->  strewn umount [--no-wait] [--lazy] DIR
//! ```

use crate::error::{Failure, Outcome};
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// Options that the kernel can change on a mounted drive, also with "no" before them.
const REMOUNTED: [&str; 9] = ["ro", "rw", "suid", "dev", "exec", "atime", "diratime", "relatime", "strictatime"];

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
    if let Some(words) = remount(&options) {
        let failed = Command::new("mount").args(["-i", "-o", &words]).args(places.get(1)).exec();
        return Err(Failure::new(format!("running mount -i -o {words}: {failed}")));
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

/// What the kernel is to change, if anything. The rest says how the drive is, as mount(8) repeats it.
fn remount(options: &[OsString]) -> Option<String> {
    let words: Vec<&str> =
        options.iter().filter_map(|option| option.to_str()).flat_map(|text| text.split(',')).collect();
    let is_changed = |word: &&&str| {
        REMOUNTED.contains(word) || word.strip_prefix("no").is_some_and(|word| REMOUNTED.contains(&word))
    };
    let changed: Vec<&str> = words.iter().filter(is_changed).copied().collect();
    words.contains(&"remount").then(|| [&["remount"], &changed[..]].concat().join(","))
}

/// umount(8) names the directory before the flags.
fn umount(given: &[OsString]) -> Outcome<Vec<OsString>> {
    let mut places = Vec::new();
    let (mut forced, mut lazy) = (false, false);
    let mut rest = given.iter();
    while let Some(argument) = rest.next() {
        match argument.to_str() {
            Some("-f") => forced = true,
            Some("-l") => lazy = true,
            // The type and the namespace, which are those of this process.
            Some("-t" | "-N") => drop(rest.next()),
            Some(flag) if flag.starts_with('-') => {}
            _ => places.push(argument.clone()),
        }
    }
    let mut arguments: Vec<OsString> = ["strewn", "umount"].map(OsString::from).into();
    arguments.extend((forced || lazy).then(|| "--no-wait".into()));
    arguments.extend(lazy.then(|| "--lazy".into()));
    arguments.push("--".into());
    arguments.extend(places);
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
    fn the_kernel_is_asked_for_a_remount() {
        let words = |line: &str| remount(&[line.into()]);
        let repeated = "ro,nosuid,relatime,remount,user_id=0,default_permissions,max_read=1048576,uhelper=fuse.strewn";
        assert_eq!(words(repeated).as_deref(), Some("remount,ro,nosuid,relatime"));
        assert_eq!(words("remount,rw,noexec,access=work").as_deref(), Some("remount,rw,noexec"));
        assert_eq!(words("ro,noexec"), None);
    }

    #[test]
    fn helper_calls_become_commands() {
        assert_eq!(
            translate("/sbin/mount.strewn drive /mnt -s -o rw,access=work"),
            "strewn mount --detach --quiet -o rw,access=work -- drive /mnt"
        );
        assert_eq!(translate("mount.fuse.strewn drive /mnt -v"), "strewn mount --detach -- drive /mnt");
        assert_eq!(translate("/sbin/umount.fuse.strewn /mnt -v"), "strewn umount -- /mnt");
        assert_eq!(translate("umount.fuse.strewn /mnt -l"), "strewn umount --no-wait --lazy -- /mnt");
        assert_eq!(translate("umount.fuse.strewn /mnt -l -f"), "strewn umount --no-wait --lazy -- /mnt");
        assert_eq!(translate("umount.fuse.strewn -f /mnt"), "strewn umount --no-wait -- /mnt");
        assert_eq!(translate("umount.fuse.strewn /mnt -n -t fuse.strewn"), "strewn umount -- /mnt");
        assert_eq!(translate("strewn ls x"), "strewn ls x");
    }
}
