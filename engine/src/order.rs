//! Order limits, orders and receipts: the only way to touch a storage node.
//!
//! ```text
//! satellite --OrderLimit--> uplink --OrderLimit, Order--> node --Receipt--> uplink --Receipt--> satellite
//! ```
//! A *limit* is a byte budget that the satellite grants to one uplink key for one piece on one node and one action. It
//! is not a ticket: streams may share it until the node stops accepting it. An *order* spends it: the uplink signs
//! cumulative bytes before they move, and the node settles the highest. A *receipt* is the node's word that it holds a
//! piece durably, with the root it computed itself.
//!
//! What is signed travels as the bytes that were signed ([`Signed`]): postcard of the value, under a context that
//! names its type and version, so that one kind of message never passes for another.

use crate::bucket::Timestamp;
use crate::ids::{NodeId, PieceId, SatelliteId, Serial};
use bytes::Bytes;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::marker::PhantomData;

/// What a limit allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Action {
    Put,
    Get,
    Delete,
    GetAudit,
    GetRepair,
    PutRepair,
    PutGracefulExit,
}

/// A satellite's permission to move up to `bytes` bytes of one piece.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderLimit {
    /// The satellite that signed it.
    pub satellite: SatelliteId,
    /// The node that may honour it.
    pub node: NodeId,
    /// The uplink's one-time ed25519 public key that signs orders.
    pub uplink: [u8; 32],
    /// The piece.
    pub piece: PieceId,
    /// What may be done.
    pub action: Action,
    /// Byte budget.
    pub bytes: u64,
    /// Serial number of its own.
    pub serial: Serial,
    /// When it was made.
    pub created: Timestamp,
    /// After this the node accepts it no more.
    pub expires: Timestamp,
    /// When the piece itself expires, if ever.
    pub piece_expires: Option<Timestamp>,
}

/// An uplink's payment: `bytes` in all under the limit with this hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// BLAKE3 of the limit's signed bytes.
    pub limit: [u8; 32],
    /// Cumulative bytes paid for on this limit by this order.
    pub bytes: u64,
}

/// A node's word that it holds a piece durably.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// BLAKE3 of the limit's signed bytes.
    pub limit: [u8; 32],
    /// Length of the piece in bytes.
    pub length: u64,
    /// The piece's root, computed by the node.
    pub root: [u8; 32],
}

/// Something that is signed: its context string separates it from every other kind.
pub trait Signable: Serialize + DeserializeOwned {
    /// Name and version of the message.
    const CONTEXT: &'static [u8];
}

impl Signable for OrderLimit {
    const CONTEXT: &'static [u8] = b"strewn order limit 1";
}
impl Signable for Order {
    const CONTEXT: &'static [u8] = b"strewn order 1";
}
impl Signable for Receipt {
    const CONTEXT: &'static [u8] = b"strewn receipt 1";
}

/// The signature does not belong to the bytes and key, or the bytes are not what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("bad signature or malformed signed message")]
pub struct BadSignature;

/// Encoded value with an ed25519 signature (64 bytes) over its context and bytes.
#[derive(Serialize, Deserialize)]
#[serde(bound = "")]
pub struct Signed<T> {
    bytes: Bytes,
    signature: Bytes,
    #[serde(skip)]
    kind: PhantomData<T>,
}

impl<T> Clone for Signed<T> {
    fn clone(&self) -> Self {
        Self { bytes: self.bytes.clone(), signature: self.signature.clone(), kind: PhantomData }
    }
}

impl<T> PartialEq for Signed<T> {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes && self.signature == other.signature
    }
}

impl<T> Eq for Signed<T> {}

impl<T> std::fmt::Debug for Signed<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signed({} bytes)", self.bytes.len())
    }
}

impl<T: Signable> Signed<T> {
    /// Signs a value.
    pub fn new(value: &T, key: &SigningKey) -> Self {
        let bytes = postcard::to_allocvec(value).expect("plain structs encode");
        let signature = key.sign(&message::<T>(&bytes)).to_bytes();
        Self { bytes: bytes.into(), signature: signature.to_vec().into(), kind: PhantomData }
    }

    /// The value, if `key` signed it.
    pub fn verify(&self, key: &VerifyingKey) -> Result<T, BadSignature> {
        let signature = Signature::from_slice(&self.signature).map_err(|_| BadSignature)?;
        key.verify_strict(&message::<T>(&self.bytes), &signature).map_err(|_| BadSignature)?;
        self.unverified()
    }

    /// The value as it claims to be, for finding out whose signature to check.
    pub fn unverified(&self) -> Result<T, BadSignature> {
        let (value, rest) = postcard::take_from_bytes(&self.bytes).map_err(|_| BadSignature)?;
        rest.is_empty().then_some(value).ok_or(BadSignature)
    }

    /// BLAKE3 of the signed bytes: what orders and receipts refer to.
    pub fn hash(&self) -> [u8; 32] {
        *blake3::hash(&self.bytes).as_bytes()
    }
}

fn message<T: Signable>(bytes: &[u8]) -> Vec<u8> {
    [T::CONTEXT, &[0], bytes].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    fn limit() -> OrderLimit {
        OrderLimit {
            satellite: SatelliteId::from_bytes([1; 32]),
            node: NodeId::from_bytes([2; 32]),
            uplink: [3; 32],
            piece: PieceId::from_bytes([4; 32]),
            action: Action::GetRepair,
            bytes: 2_319_360,
            serial: Serial::from_bytes([5; 16]),
            created: Timestamp { seconds: 1_700_000_000, nanos: 123_456_789 },
            expires: Timestamp { seconds: 1_700_003_600, nanos: 0 },
            piece_expires: Some(Timestamp { seconds: -1, nanos: 999_999_999 }),
        }
    }

    fn order() -> Order {
        Order { limit: [6; 32], bytes: 262_144 }
    }

    fn receipt() -> Receipt {
        Receipt { limit: [6; 32], length: 2_319_360, root: [7; 32] }
    }

    fn hex<T: Signable>(value: &T) -> String {
        data_encoding::HEXLOWER.encode(&postcard::to_allocvec(&Signed::new(value, &key(9))).unwrap())
    }

    fn reads<T: Signable + PartialEq + std::fmt::Debug>(old: &str, value: &T) {
        let bytes = data_encoding::HEXLOWER.decode(old.as_bytes()).unwrap();
        let signed: Signed<T> = postcard::from_bytes(&bytes).unwrap();
        assert_eq!(signed.verify(&key(9).verifying_key()).as_ref(), Ok(value));
        assert_eq!(hex(value), old, "what is written today is what was written then");
    }

    #[test]
    fn old_bytes_are_read_and_written_alike() {
        reads(include_str!("../tests/data/order-limit-1.hex").trim(), &limit());
        reads(include_str!("../tests/data/order-1.hex").trim(), &order());
        reads(include_str!("../tests/data/receipt-1.hex").trim(), &receipt());
    }

    #[test]
    fn only_the_signer_is_believed() {
        let signed = Signed::new(&order(), &key(1));
        assert_eq!(signed.verify(&key(1).verifying_key()), Ok(order()));
        assert_eq!(signed.verify(&key(2).verifying_key()), Err(BadSignature));
        assert_eq!(signed.unverified(), Ok(order()));
    }

    #[test]
    fn one_kind_of_message_never_passes_for_another() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Other(Order);
        impl Signable for Other {
            const CONTEXT: &'static [u8] = b"strewn other 1";
        }
        let signed = Signed::new(&Other(order()), &key(1));
        let disguised = Signed::<Order> { bytes: signed.bytes, signature: signed.signature, kind: PhantomData };
        assert_eq!(disguised.unverified(), Ok(order()), "the bytes alone are the same");
        assert_eq!(disguised.verify(&key(1).verifying_key()), Err(BadSignature));
    }

    #[test]
    fn bytes_behind_the_value_are_refused() {
        let mut bytes = postcard::to_allocvec(&order()).unwrap();
        bytes.push(0);
        let signature = key(1).sign(&message::<Order>(&bytes)).to_bytes().to_vec().into();
        let signed = Signed::<Order> { bytes: bytes.into(), signature, kind: PhantomData };
        assert_eq!(signed.verify(&key(1).verifying_key()), Err(BadSignature));
    }

    #[test]
    fn a_signature_of_another_length_is_refused() {
        let signed = Signed::new(&order(), &key(1));
        for length in [0, 63] {
            let cut = Signed::<Order> { signature: signed.signature.slice(..length), ..signed.clone() };
            assert_eq!(cut.verify(&key(1).verifying_key()), Err(BadSignature));
        }
    }

    #[test]
    fn the_hash_is_of_the_signed_bytes_whoever_signs() {
        assert_eq!(Signed::new(&limit(), &key(1)).hash(), Signed::new(&limit(), &key(2)).hash());
        let other = OrderLimit { bytes: 1, ..limit() };
        assert_ne!(Signed::new(&limit(), &key(1)).hash(), Signed::new(&other, &key(1)).hash());
    }

    proptest! {
        #[test]
        fn no_flipped_bit_is_accepted(at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let signed = Signed::new(&limit(), &key(1));
            let (mut bytes, mut signature) = (signed.bytes.to_vec(), signed.signature.to_vec());
            let at = at.index(bytes.len() + signature.len());
            match at.checked_sub(bytes.len()) {
                Some(at) => signature[at] ^= 1 << bit,
                None => bytes[at] ^= 1 << bit,
            }
            let signed = Signed::<OrderLimit> { bytes: bytes.into(), signature: signature.into(), kind: PhantomData };
            prop_assert_eq!(signed.verify(&key(1).verifying_key()), Err(BadSignature));
        }

        #[test]
        fn any_bytes_are_parsed_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(signed) = postcard::from_bytes::<Signed<OrderLimit>>(&bytes) {
                prop_assert_eq!(signed.verify(&key(1).verifying_key()), Err(BadSignature));
                let _ = signed.unverified();
            }
        }
    }
}
