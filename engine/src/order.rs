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
