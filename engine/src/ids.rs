//! Identifiers. One type each, so that they cannot be mixed up.
//!
//! All are plain byte strings: 128 random bits for what the uplink draws, 256 bits for hashes and public keys.
//! They print as lower-case hexadecimal; `Debug` prints the first eight digits.

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name([u8; $len]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $len;

            /// Wraps raw bytes.
            pub const fn from_bytes(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// The raw bytes.
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = InvalidId;
            fn try_from(bytes: &[u8]) -> Result<Self, InvalidId> {
                bytes.try_into().map(Self).map_err(|_| InvalidId)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{}({})", stringify!($name), &data_encoding::HEXLOWER.encode(&self.0)[..8])
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).map_err(|_| InvalidId)?;
                Self::try_from(bytes.as_slice())
            }
        }
    };
}

/// Bytes or text of the wrong length or alphabet for an identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a valid identifier")]
pub struct InvalidId;

id!(/// An inode of a bucket's tree. Drawn at random by the uplink that creates it, never reused.
    InodeId, 16);
id!(/// A bucket. Drawn at random when the bucket is made.
    BucketId, 16);
id!(/// A run: an encrypted stretch of bytes. Derived from the run's key, so equal ids mean equal keys.
    RunId, 16);
id!(/// A segment. Drawn at random by the uplink that uploads it, so that beginning it twice is harmless.
    SegmentId, 16);
id!(/// A commit batch. Drawn at random; a replay under the same id is applied once.
    CommitId, 16);
id!(/// One mount's stream of commits: batches of one stream are numbered and applied in order.
    MountId, 16);
id!(/// The serial number of an order limit, drawn at random by the satellite.
    Serial, 16);
id!(/// The head of an API key (macaroon), public to the satellite.
    ApiKeyId, 16);
id!(/// A piece on one storage node. Differs per node, so that nodes cannot link pieces by name.
    PieceId, 32);
id!(/// A storage node: its ed25519 public key.
    NodeId, 32);
id!(/// A satellite: its ed25519 public key.
    SatelliteId, 32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_and_parses() {
        let id = InodeId::from_bytes([0xab; 16]);
        assert_eq!(id.to_string().parse::<InodeId>(), Ok(id));
        assert_eq!(format!("{id:?}"), "InodeId(abababab)");
        assert_eq!("abc".parse::<InodeId>(), Err(InvalidId));
        assert_eq!(InodeId::try_from(&[0u8; 15][..]), Err(InvalidId));
    }
}
