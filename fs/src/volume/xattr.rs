//! Extended attributes.

use super::Volume;
use super::tree::refuse;
use crate::error::Result;
use bytes::Bytes;
use rustix::io::Errno;
use std::sync::Arc;
use strewn_cache::Stop;
use strewn_engine::bucket::Kind;
use strewn_engine::ids::InodeId;
use strewn_engine::record::{MAX_XATTR_BYTES, MAX_XATTR_NAME, Xattrs, check_xattrs};

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
    /// The value of an attribute. Errors: `ENODATA`, `EOPNOTSUPP` for a namespace that is not kept.
    pub async fn getxattr(&self, inode: InodeId, name: &[u8]) -> Result<Bytes> {
        check_name(name)?;
        let attributes = self.cache.transact(|tx| tx.attributes(inode)).await?;
        attributes.xattrs.get(name).cloned().ok_or(Errno::NODATA.into())
    }

    /// The names of all attributes, each followed by a NUL; those of the namespace `trusted.` only for the privileged.
    pub async fn listxattr(&self, inode: InodeId, privileged: bool) -> Result<Vec<u8>> {
        let attributes = self.cache.transact(|tx| tx.attributes(inode)).await?;
        let visible = attributes.xattrs.keys().filter(|name| privileged || !name.starts_with(b"trusted."));
        Ok(visible.flat_map(|name| name.iter().copied().chain([0])).collect())
    }

    /// Sets an attribute. Errors: `EEXIST`, `ENODATA`, `EOPNOTSUPP`, `EPERM` for `user.` on what is neither file nor
    /// directory, `ERANGE` for the name, `E2BIG` for the value, `ENOSPC` for all together.
    pub async fn setxattr(&self, inode: InodeId, name: &[u8], value: &[u8], mode: SetXattr) -> Result<()> {
        self.writable()?;
        check_name(name)?;
        if value.len() > MAX_XATTR_BYTES {
            return Err(Errno::TOOBIG.into());
        }
        let value = Bytes::copy_from_slice(value);
        self.change(inode, name, |xattrs| {
            match (mode, xattrs.contains_key(name)) {
                (SetXattr::Create, true) => return Err(refuse(Errno::EXIST)),
                (SetXattr::Replace, false) => return Err(refuse(Errno::NODATA)),
                _ => xattrs.insert(name.to_vec(), value.clone()),
            };
            check_xattrs(xattrs).map_err(|_| refuse(Errno::NOSPC))
        })
        .await
    }

    /// Removes an attribute. Errors: `ENODATA`.
    pub async fn removexattr(&self, inode: InodeId, name: &[u8]) -> Result<()> {
        self.writable()?;
        check_name(name)?;
        self.change(inode, name, |xattrs| match xattrs.remove(name) {
            Some(_) => Ok(()),
            None => Err(refuse(Errno::NODATA)),
        })
        .await
    }

    async fn change(
        &self,
        inode: InodeId,
        name: &[u8],
        change: impl Fn(&mut Xattrs) -> Result<(), Stop> + Send + Sync,
    ) -> Result<()> {
        let now = self.now();
        self.cache
            .transact(|tx| {
                let mut attributes = tx.attributes(inode)?;
                if name.starts_with(b"user.") && !matches!(attributes.kind, Kind::File | Kind::Directory) {
                    return Err(refuse(Errno::PERM));
                }
                change(Arc::make_mut(&mut attributes.xattrs))?;
                attributes.ctime = now;
                tx.set_attributes(inode, attributes)
            })
            .await?;
        Ok(())
    }
}

/// POSIX ACLs (`system.`) are refused: without the kernel's help nobody would enforce them.
fn check_name(name: &[u8]) -> Result<()> {
    let kept = [&b"user."[..], b"trusted.", b"security."].into_iter().find(|prefix| name.starts_with(prefix));
    match kept {
        None => Err(Errno::OPNOTSUPP.into()),
        Some(prefix) if name.len() == prefix.len() => Err(Errno::INVAL.into()),
        Some(_) if name.len() > MAX_XATTR_NAME => Err(Errno::RANGE.into()),
        Some(_) => Ok(()),
    }
}
