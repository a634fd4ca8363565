//! What a satellite said of a place in a bucket, kept so that a mount comes up while the satellite is away.
//!
//! ```text
//! version = 1 (1) | postcard of (BucketInfo, entries on the way from the grant's start to the place)
//! ```
//!
//! It holds what the satellite holds: keys in it are sealed, and only a grant that opens the place opens it from here.

use super::OpenBucket;
use strewn_engine::bucket::Entry;
use strewn_wire::satellite::BucketInfo;

const VERSION: u8 = 1;

/// Largest encoded place in bytes: a path of [`MAX_PATH`](strewn_engine::grant::MAX_PATH) has fewer entries.
pub const MAX_PLACE: usize = 4 << 20;

/// A remembered place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub(super) info: BucketInfo,
    /// Of the path's components, in order.
    pub entries: Vec<Entry>,
}

/// Bytes that are no place, or one of another version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a remembered place, or one of another version")]
pub struct InvalidPlace;

impl Place {
    /// What is to be remembered of a bucket that was opened, and of a path in it.
    pub fn new(bucket: &OpenBucket, entries: Vec<Entry>) -> Self {
        Self { info: bucket.info.clone(), entries }
    }

    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_extend(&(&self.info, &self.entries), vec![VERSION]).expect("plain structs encode")
    }

    /// Reads the stored form.
    pub fn decode(bytes: &[u8]) -> Result<Self, InvalidPlace> {
        let Some((&VERSION, body)) = bytes.split_first().filter(|_| bytes.len() <= MAX_PLACE) else {
            return Err(InvalidPlace);
        };
        let ((info, entries), rest): ((BucketInfo, Vec<Entry>), _) =
            postcard::take_from_bytes(body).map_err(|_| InvalidPlace)?;
        if rest.is_empty() { Ok(Self { info, entries }) } else { Err(InvalidPlace) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use strewn_engine::bucket::{BucketSettings, Cipher, Kind, Sealed};
    use strewn_engine::ids::{BucketId, InodeId};
    use strewn_engine::redundancy::Redundancy;

    /// As version 1 of the program wrote it.
    const WRITTEN: &str = concat!(
        "0105647269766501010101010101010101010101010101020202020202020202020202020202028080400003000406080a00",
        "3004040404040404040404040404040404040404040404040404040404040404040404040404040404040404040404040408",
        "050505050505050580c49fd50c01020202020202020202020202020202023006060606060606060606060606060606060606",
        "0606060606060606060606060606060606060606060606060606060606070707070707070707070707070707070100300808",
        "08080808080808080808080808080808080808080808080808080808080808080808080808080808080808080808",
    );

    fn place() -> Place {
        let sealed = |byte: u8| Sealed { generation: 0, bytes: vec![byte; Sealed::KEY_LEN].into() };
        let settings = BucketSettings {
            bucket: BucketId::from_bytes([1; 16]),
            root: InodeId::from_bytes([2; 16]),
            segment_size: 1 << 20,
            cipher: Cipher::Aes256Gcm,
            epoch: 3,
        };
        let info = BucketInfo {
            name: "drive".into(),
            settings,
            redundancy: Redundancy::SMALL,
            root_key: sealed(4),
            derivation: vec![5; 8].into(),
            created: 1_700_000_000,
        };
        let entry = Entry {
            parent: InodeId::from_bytes([2; 16]),
            name: vec![6; 48].try_into().unwrap(),
            child: InodeId::from_bytes([7; 16]),
            kind: Kind::Directory,
            key: sealed(8),
        };
        Place { info, entries: vec![entry] }
    }

    #[test]
    fn places_of_the_first_version_are_read() {
        assert_eq!(data_encoding::HEXLOWER.encode(&place().encode()), WRITTEN);
        let bytes = data_encoding::HEXLOWER.decode(WRITTEN.as_bytes()).unwrap();
        assert_eq!(Place::decode(&bytes), Ok(place()));
    }

    #[test]
    fn what_is_no_place_is_refused() {
        let bytes = place().encode();
        for length in 0..bytes.len() {
            assert_eq!(Place::decode(&bytes[..length]), Err(InvalidPlace), "{length}");
        }
        let other_version = [&[VERSION + 1], &bytes[1..]].concat();
        let longer = [&bytes[..], &[0]].concat();
        for bad in [other_version, longer, vec![VERSION; MAX_PLACE + 1]] {
            assert_eq!(Place::decode(&bad), Err(InvalidPlace));
        }
    }
}
