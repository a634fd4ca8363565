//! Extended attributes.

use super::acl::{self, Acl};
use super::tree::refuse;
use super::{Caller, Volume, rules};
use crate::error::Result;
use bytes::Bytes;
use rustix::io::Errno;
use std::sync::Arc;
use strewn_cache::{Stop, Stored};
use strewn_engine::bucket::{Kind, SegmentState};
use strewn_engine::ids::InodeId;
use strewn_engine::record::{Attributes, MAX_XATTR_NAME, MAX_XATTR_VALUE, check_xattrs};

/// How the names of the drive's own attributes begin.
const OWN: &[u8] = b"user.strewn.";
/// How far the file is on its way to the network.
const STATE: &[u8] = b"user.strewn.state";
/// How the network stores it.
const PIECES: &[u8] = b"user.strewn.pieces";
/// The label of a system that is not known here, and so is kept as it is.
const LABEL: &[u8] = b"security.selinux";
/// Segments that one question is about: each costs a request.
const MOST_SEGMENTS: usize = 64;

/// What setting does when the attribute exists or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetXattr {
    /// Creates or replaces.
    Any,
    /// `EEXIST` if it exists.
    Create,
    /// `ENODATA` if it does not.
    Replace,
}

impl Volume {
    /// The value of an attribute. Errors: `ENODATA`, `EOPNOTSUPP` for a namespace that is not kept and for a label that the
    /// file does not have.
    pub async fn getxattr(&self, inode: InodeId, name: &[u8]) -> Result<Bytes> {
        check_name(name)?;
        if name.starts_with(OWN) {
            return self.own_attribute(inode, name).await;
        }
        let attributes = self.cache.transact(|tx| tx.attributes(inode)).await?;
        // A listing asks for the label of every file, and stops asking a file system that has none.
        let missing = if name == LABEL { Errno::OPNOTSUPP } else { Errno::NODATA };
        attributes.xattrs.get(name).cloned().ok_or(missing.into())
    }

    /// The names of all attributes, each followed by a NUL; those of the namespace `trusted.` only for the privileged, and
    /// never the drive's own: copies of a file are not to carry them.
    pub async fn listxattr(&self, inode: InodeId, privileged: bool) -> Result<Vec<u8>> {
        let attributes = self.cache.transact(|tx| tx.attributes(inode)).await?;
        let visible = |name: &&Vec<u8>| (privileged || !name.starts_with(b"trusted.")) && !name.starts_with(OWN);
        let visible = attributes.xattrs.keys().filter(visible);
        Ok(visible.flat_map(|name| name.iter().copied().chain([0])).collect())
    }

    /// Sets an attribute. Errors: `EEXIST`, `ENODATA`, `EOPNOTSUPP`, `EPERM` for `user.` on what is neither file nor
    /// directory and for the drive's own, `ERANGE` for the name, `E2BIG` for the value, `ENOSPC` for all together; for access
    /// control lists `EINVAL` if it is none, `EACCES` for a default list of what is no directory.
    pub async fn setxattr(
        &self,
        caller: Caller,
        inode: InodeId,
        name: &[u8],
        value: &[u8],
        mode: SetXattr,
    ) -> Result<()> {
        self.writable()?;
        check_name(name)?;
        check_not_own(name)?;
        if value.len() > MAX_XATTR_VALUE {
            return Err(Errno::TOOBIG.into());
        }
        if is_acl(name) {
            let acl = Acl::parse(value).ok_or(Errno::INVAL)?;
            return self.change(inode, name, |attributes| set_acl(attributes, name, Some((&acl, caller)))).await;
        }
        let value = Bytes::copy_from_slice(value);
        self.change(inode, name, |attributes| {
            match (mode, attributes.xattrs.contains_key(name)) {
                (SetXattr::Create, true) => return Err(refuse(Errno::EXIST)),
                (SetXattr::Replace, false) => return Err(refuse(Errno::NODATA)),
                _ => Arc::make_mut(&mut attributes.xattrs).insert(name.to_vec(), value.clone()),
            };
            Ok(())
        })
        .await
    }

    /// Removes an attribute. Errors: `ENODATA`, `EPERM` for the drive's own. An access control list may be missing.
    pub async fn removexattr(&self, inode: InodeId, name: &[u8]) -> Result<()> {
        self.writable()?;
        check_name(name)?;
        check_not_own(name)?;
        self.change(inode, name, |attributes| match attributes.xattrs.contains_key(name) {
            _ if is_acl(name) => set_acl(attributes, name, None),
            true => {
                Arc::make_mut(&mut attributes.xattrs).remove(name);
                Ok(())
            }
            false => Err(refuse(Errno::NODATA)),
        })
        .await
    }

    /// What the drive tells of a file by way of attributes that nobody can set.
    async fn own_attribute(&self, inode: InodeId, name: &[u8]) -> Result<Bytes> {
        match name {
            STATE => Ok(self.cache.file_state(inode).to_string().into()),
            PIECES => Ok(describe(&self.cache.stored(inode, MOST_SEGMENTS).await?).into()),
            _ => Err(Errno::NODATA.into()),
        }
    }

    async fn change(
        &self,
        inode: InodeId,
        name: &[u8],
        change: impl Fn(&mut Attributes) -> Result<(), Stop> + Send + Sync,
    ) -> Result<()> {
        let now = self.now();
        self.cache
            .transact(|tx| {
                let mut attributes = tx.attributes(inode)?;
                if name.starts_with(b"user.") && !matches!(attributes.kind, Kind::File | Kind::Directory) {
                    return Err(refuse(Errno::PERM));
                }
                change(&mut attributes)?;
                check_xattrs(&attributes.xattrs).map_err(|_| refuse(Errno::NOSPC))?;
                attributes.ctime = now;
                tx.set_attributes(inode, attributes)
            })
            .await?;
        Ok(())
    }
}

/// `10/4 9/4`: for every segment that holds bytes of the file, pieces that exist and pieces that are enough.
fn describe(stored: &Stored) -> String {
    if stored.segments.is_empty() {
        // Small files and small changes lie with the satellite.
        return String::from(if stored.is_there { "inline" } else { "none" });
    }
    let segment = |segment: &SegmentState| format!("{}/{}", segment.pieces, segment.required);
    let mut words: Vec<String> = stored.segments.iter().map(segment).collect();
    if stored.more {
        words.push(String::from("..."));
    }
    words.join(" ")
}

fn check_not_own(name: &[u8]) -> Result<()> {
    if name.starts_with(OWN) { Err(Errno::PERM.into()) } else { Ok(()) }
}

fn is_acl(name: &[u8]) -> bool {
    matches!(name, acl::ACCESS | acl::DEFAULT)
}

/// Sets or takes away an access control list. Who may not keep set-group-id on a chmod may not keep it here.
fn set_acl(attributes: &mut Attributes, name: &[u8], given: Option<(&Acl, Caller)>) -> Result<(), Stop> {
    let acl = given.map(|(acl, _)| acl);
    match (attributes.kind, name) {
        (Kind::Symlink, _) => Err(refuse(Errno::OPNOTSUPP)),
        (Kind::Directory, acl::DEFAULT) => {
            acl::set_default(attributes, acl);
            Ok(())
        }
        (_, acl::DEFAULT) if acl.is_none() => Ok(()),
        (_, acl::DEFAULT) => Err(refuse(Errno::ACCESS)),
        _ => {
            if given.is_some_and(|(_, caller)| !caller.keeps_set_group(attributes.gid)) {
                attributes.mode &= !rules::SGID;
            }
            acl::set_access(attributes, acl);
            Ok(())
        }
    }
}

fn check_name(name: &[u8]) -> Result<()> {
    if is_acl(name) {
        return Ok(());
    }
    let kept = [&b"user."[..], b"trusted.", b"security."].into_iter().find(|prefix| name.starts_with(prefix));
    match kept {
        None => Err(Errno::OPNOTSUPP.into()),
        Some(prefix) if name.len() == prefix.len() => Err(Errno::INVAL.into()),
        Some(_) if name.len() > MAX_XATTR_NAME => Err(Errno::RANGE.into()),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use strewn_engine::ids::SegmentId;

    #[test]
    fn pieces_are_told_by_segment() {
        let segment = |pieces| SegmentState { segment: SegmentId::from_bytes([1; 16]), pieces, required: 4 };
        let stored = |segments, more| Stored { is_there: true, segments, more };
        assert_eq!(describe(&Stored::default()), "none");
        assert_eq!(describe(&stored(vec![], false)), "inline");
        assert_eq!(describe(&stored(vec![segment(10), segment(9)], false)), "10/4 9/4");
        assert_eq!(describe(&stored(vec![segment(10)], true)), "10/4 ...");
    }
}
