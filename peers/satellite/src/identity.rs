//! The satellite's key and what derives from it: nothing secret lies in the metabase.

use ed25519_dalek::{SigningKey, VerifyingKey};
use strewn_engine::ids::{ApiKeyId, BucketId, NodeId, PieceId, SatelliteId, SegmentId};
use strewn_engine::secret::Key;
use zeroize::Zeroizing;

const API_KEY_CONTEXT: &str = "strewn satellite 1: secret of an API key";
const PIECE_CONTEXT: &str = "strewn satellite 1: names of pieces";

/// A satellite's identity.
pub(crate) struct Identity {
    signing: SigningKey,
    pieces: Key,
}

impl Identity {
    pub(crate) fn new(signing: SigningKey) -> Self {
        let seed = Zeroizing::new(signing.to_bytes());
        let pieces = Key::from_bytes(blake3::derive_key(PIECE_CONTEXT, &seed[..]));
        Self { signing, pieces }
    }

    pub(crate) fn id(&self) -> SatelliteId {
        SatelliteId::from_bytes(self.signing.verifying_key().to_bytes())
    }

    pub(crate) fn signing(&self) -> &SigningKey {
        &self.signing
    }

    pub(crate) fn verifying(&self) -> VerifyingKey {
        self.signing.verifying_key()
    }

    /// The secret that API keys with this head are made from.
    pub(crate) fn api_key_secret(&self, head: ApiKeyId) -> Key {
        let material = Zeroizing::new([&self.signing.to_bytes()[..], head.as_bytes()].concat());
        Key::from_bytes(blake3::derive_key(API_KEY_CONTEXT, &material))
    }

    /// The name of a piece on one node: tells nodes nothing, and tells the satellite what a limit was for.
    pub(crate) fn piece(&self, bucket: BucketId, segment: SegmentId, number: u16, node: NodeId) -> PieceId {
        let mut hasher = blake3::Hasher::new_keyed(self.pieces.as_bytes());
        hasher.update(bucket.as_bytes()).update(segment.as_bytes()).update(&number.to_le_bytes());
        PieceId::from_bytes(*hasher.update(node.as_bytes()).finalize().as_bytes())
    }
}
