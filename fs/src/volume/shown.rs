//! Owners and permissions as one mount shows them, whatever is kept: for a bucket that somebody of another machine fills.

use super::{SetAttributes, Stat};
use crate::error::Result;
use rustix::io::Errno;
use strewn_engine::bucket::Kind;

/// What a mount shows in place of what is kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shown {
    /// Everything belongs to this user.
    pub uid: Option<u32>,
    /// Everything belongs to this group.
    pub gid: Option<u32>,
    /// Permissions that nothing has but symbolic links, `0..=0o777`.
    pub umask: u32,
}

impl Shown {
    /// A stat as it is shown.
    pub(super) fn apply(&self, stat: &mut Stat) {
        let attributes = &mut stat.attributes;
        attributes.uid = self.uid.unwrap_or(attributes.uid);
        attributes.gid = self.gid.unwrap_or(attributes.gid);
        if attributes.kind != Kind::Symlink {
            attributes.mode &= !(self.umask & 0o777);
        }
    }

    /// What is left to change of a chown. Errors: `EPERM` for another owner than the one that is shown, which would not show.
    pub(super) fn owners_to_change(&self, mut change: SetAttributes) -> Result<SetAttributes> {
        change.uid = to_change(self.uid, change.uid)?;
        change.gid = to_change(self.gid, change.gid)?;
        Ok(change)
    }
}

fn to_change(shown: Option<u32>, wanted: Option<u32>) -> Result<Option<u32>> {
    match (shown, wanted) {
        (Some(shown), Some(wanted)) if shown != wanted => Err(Errno::PERM.into()),
        (Some(_), _) => Ok(None),
        (None, wanted) => Ok(wanted),
    }
}
