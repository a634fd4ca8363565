//! Whether a cache directory is encrypted, and under which key.
//!
//! The key is drawn when the directory is first used, and lies in it, sealed under the key of the directory of the bucket that
//! it shows: `blobs/key`, made under a temporary name and renamed. Its being there says that journal and data files are
//! encrypted. Numbers are little-endian.
//!
//! ```text
//!  0  magic        8   "strewnC\0"
//!  8  version      4   1
//! 12  generation   4   of the key that seals it
//! 16  sealed key  48   see strewn_engine::at_rest
//! 64  CRC32C       4   of bytes 0..64
//! ```

use crate::cut::seal::draw;
use crate::disk::{self, Disk, EncryptedDisk};
use crate::sealed::{self, Sealed};
use crate::store::IDENTITY;
use crate::{Error, Root};
use std::io;
use std::sync::Arc;
use strewn_engine::at_rest::{open_cache_key, seal_cache_key};
use strewn_engine::bucket::{self, BucketSettings};
use strewn_engine::secret::Key;
use zeroize::Zeroizing;

const DIRECTORY: &str = "blobs";
const NAME: &str = "blobs/key";
const TEMPORARY: &str = "blobs/key.new";
const MAGIC: [u8; 8] = *b"strewnC\0";
const VERSION: u32 = 1;
const SEALED: usize = 48;
const LENGTH: usize = 16 + SEALED + 4;

/// The disk of a cache as the cache is to see it: with what it is encrypted under, if `wanted`. A directory that is used one
/// way is not used the other way. Blocks.
pub(crate) fn open(
    disk: Arc<dyn Disk>,
    settings: &BucketSettings,
    root: &Root,
    wanted: bool,
) -> Result<Arc<dyn Disk>, Error> {
    let used = match Sealed::look(disk.clone()).get_blob(IDENTITY) {
        Err(sealed::Error::Missing(_)) => false,
        // One that is damaged is for others to tell.
        _ => true,
    };
    let key = match (read(&*disk)?, wanted) {
        (None, false) => return Ok(disk),
        (None, true) if used => {
            return Err(refuse(
                "the cache directory is in use without encryption; when everything is uploaded (strewn umount), empty it \
                 with 'strewn cache clear', or choose another directory",
            ));
        }
        (Some(_), false) if used => {
            return Err(refuse(
                "the cache directory is encrypted: mount with --encrypt-cache; or, when everything is uploaded (strewn \
                 umount), empty it with 'strewn cache clear --discard-pending', or choose another directory",
            ));
        }
        (Some(_), false) => {
            // Of a mount that ended before it began.
            disk.remove(NAME)?;
            disk.sync_dir(DIRECTORY)?;
            return Ok(disk);
        }
        (Some(sealed), true) => {
            if !used {
                // The mount that made it may have ended before its name was durable, and nothing may be without it.
                disk.sync_dir(DIRECTORY)?;
            }
            open_cache_key(&root.key, settings.bucket, root.inode, &sealed).map_err(|_| {
                refuse("the cache directory is encrypted for another bucket or directory, or its key is damaged")
            })?
        }
        (None, true) => {
            let key = Key::from_bytes(*Zeroizing::new(draw()?));
            write(&*disk, &seal_cache_key(&root.key, settings.bucket, root.inode, &key))?;
            key
        }
    };
    Ok(Arc::new(EncryptedDisk::new(disk, key)))
}

/// True if journal and data files of a directory are encrypted.
pub(crate) fn is_encrypted(disk: &dyn Disk) -> Result<bool, Error> {
    match disk.open(NAME) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        found => Ok(found.map(|_| true)?),
    }
}

fn refuse(why: &str) -> Error {
    Error::Disk(Arc::new(io::Error::new(io::ErrorKind::InvalidInput, why)))
}

fn read(disk: &dyn Disk) -> Result<Option<bucket::Sealed>, Error> {
    let file = match disk.open(NAME) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let mut bytes = [0; LENGTH];
    file.read_exact_at(0, &mut bytes)?;
    parse(&bytes).map(Some).ok_or_else(|| refuse("the key of the encrypted cache directory is damaged"))
}

fn write(disk: &dyn Disk, sealed: &bucket::Sealed) -> Result<(), Error> {
    disk::remove_if_there(disk, TEMPORARY)?;
    let file = disk.create(TEMPORARY)?;
    file.write_at(0, &[&encode(sealed)])?;
    file.sync()?;
    disk.rename(TEMPORARY, NAME)?;
    Ok(disk.sync_dir(DIRECTORY)?)
}

fn encode(sealed: &bucket::Sealed) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[12..16].copy_from_slice(&sealed.generation.to_le_bytes());
    bytes[16..16 + SEALED].copy_from_slice(&sealed.bytes);
    let crc = crc32c::crc32c(&bytes[..16 + SEALED]);
    bytes[16 + SEALED..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn parse(bytes: &[u8; LENGTH]) -> Option<bucket::Sealed> {
    let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let whole =
        bytes[..8] == MAGIC && number(8) == VERSION && number(16 + SEALED) == crc32c::crc32c(&bytes[..16 + SEALED]);
    whole.then(|| bucket::Sealed { generation: number(12), bytes: bytes[16..16 + SEALED].to_vec().into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was written by the first version: it stays readable.
    #[test]
    fn an_old_key_file_is_read() {
        let mut old = b"strewnC\0\x01\0\0\0\x02\0\0\0".to_vec();
        old.extend([9; SEALED]);
        old.extend([0xf4, 0xfe, 0x51, 0x21]);
        let sealed = bucket::Sealed { generation: 2, bytes: vec![9; SEALED].into() };
        assert_eq!(encode(&sealed)[..], old);
        assert_eq!(parse(&old.clone().try_into().unwrap()), Some(sealed));
        for at in 0..LENGTH {
            let mut damaged: [u8; LENGTH] = old.clone().try_into().unwrap();
            damaged[at] ^= 1;
            assert_eq!(parse(&damaged), None, "byte {at}");
        }
    }
}
