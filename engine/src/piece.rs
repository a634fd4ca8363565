//! The hash tree of a piece: a root that proves any share alone, and ids that differ per node.
//!
//! ```text
//!                 root            = BLAKE3 of the whole piece
//!              /        \
//!           node         \        a level pairs the one below; an odd last one stands for itself
//!          /    \         \
//!     share 0  share 1  share 2   chaining value of the share's bytes at its offset
//! ```
//! Shares are a power of two of BLAKE3's own 1 KiB leaves (64 KiB of them outside of tests), so the tree is BLAKE3's
//! own and the root is the plain hash of the piece; the last share may be shorter. A proof is the list of siblings from
//! the share up to the root.

use crate::ids::{NodeId, PieceId};
use crate::redundancy::MAX_SHARE;
use crate::secret::Key;
use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use bytes::Bytes;

/// The root of a piece's tree: BLAKE3 of its bytes.
pub type Root = [u8; 32];

/// Most siblings a proof can have: a piece of 64 MiB in shares of 1 KiB.
pub const MAX_PROOF: usize = 16;

/// Length of a piece and of its shares, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PieceShape {
    length: u64,
    share: u32,
}

/// Lengths that are no piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no piece of {length} bytes in shares of {share}")]
pub struct InvalidShape {
    length: u64,
    share: u32,
}

impl PieceShape {
    /// A piece of 1..=64 MiB bytes in shares of 64 KiB, the last possibly shorter.
    pub fn new(length: u64) -> Result<Self, InvalidShape> {
        Self::with_share(length, MAX_SHARE)
    }

    /// The same with shares of another power of two, 1 KiB..=64 KiB.
    pub fn with_share(length: u64, share: u32) -> Result<Self, InvalidShape> {
        let fits = (1..=crate::segment::MAX_SEGMENT).contains(&length) && Self::is_share(share);
        fits.then_some(Self { length, share }).ok_or(InvalidShape { length, share })
    }

    /// True if full shares may have this length.
    pub fn is_share(share: u32) -> bool {
        share.is_power_of_two() && (blake3::CHUNK_LEN as u32..=MAX_SHARE).contains(&share)
    }

    /// Length of the piece in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Length of a full share in bytes.
    pub fn share(&self) -> u32 {
        self.share
    }

    /// Shares of the piece: at least 1.
    pub fn shares(&self) -> u32 {
        self.length.div_ceil(u64::from(self.share)) as u32
    }

    /// Length of one share in bytes; 0 beyond the last one.
    pub fn share_length(&self, number: u32) -> u32 {
        let left = self.length.saturating_sub(self.share_offset(number));
        left.min(u64::from(self.share)) as u32
    }

    /// Where a share starts in the piece.
    pub fn share_offset(&self, number: u32) -> u64 {
        u64::from(number) * u64::from(self.share)
    }
}

/// The id of piece `number` on `node`: keyed BLAKE3 under the segment's secret, so that nodes cannot link the pieces of
/// a segment by their names.
pub fn piece_id(secret: &Key, node: NodeId, number: u16) -> PieceId {
    let mut hasher = blake3::Hasher::new_keyed(secret.as_bytes());
    hasher.update(b"strewn piece id 1\0").update(node.as_bytes()).update(&number.to_le_bytes());
    PieceId::from_bytes(*hasher.finalize().as_bytes())
}

/// Hashes a piece as its bytes come, in any portions (fastest in whole shares).
pub struct RootBuilder {
    share: u32,
    /// Chaining values of the shares before the current one.
    leaves: Vec<[u8; 32]>,
    current: blake3::Hasher,
}

impl RootBuilder {
    /// For a piece in shares of 64 KiB.
    pub fn new() -> Self {
        Self::with_share(MAX_SHARE).expect("64 KiB is a share")
    }

    /// For a piece in shares of another power of two, 1 KiB..=64 KiB.
    pub fn with_share(share: u32) -> Result<Self, InvalidShape> {
        let fits = PieceShape::is_share(share);
        let new = Self { share, leaves: Vec::new(), current: blake3::Hasher::new() };
        fits.then_some(new).ok_or(InvalidShape { length: 0, share })
    }

    /// Appends bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let mut room = u64::from(self.share) - self.current.count();
            if room == 0 {
                self.leaves.push(self.current.finalize_non_root());
                self.current = hasher_at(self.leaves.len() as u64 * u64::from(self.share));
                room = u64::from(self.share);
            }
            let (now, later) = bytes.split_at(bytes.len().min(room as usize));
            self.current.update(now);
            bytes = later;
        }
    }

    /// Bytes appended so far.
    pub fn length(&self) -> u64 {
        self.leaves.len() as u64 * u64::from(self.share) + self.current.count()
    }

    /// The tree of all bytes; [`InvalidShape`] if there are none, or more than a piece can have.
    pub fn finish(mut self) -> Result<PieceTree, InvalidShape> {
        let shape = PieceShape::with_share(self.length(), self.share)?;
        let last = match self.leaves.is_empty() {
            true => *self.current.finalize().as_bytes(),
            false => self.current.finalize_non_root(),
        };
        self.leaves.push(last);
        PieceTree::from_leaves(shape, self.leaves)
    }
}

impl Default for RootBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for RootBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RootBuilder({} bytes)", self.length())
    }
}

/// The tree of a whole piece: makes proofs without the piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PieceTree {
    shape: PieceShape,
    /// First the chaining value of each share (of a single share, the root), then the nodes above them, level by level
    /// up to the two children of the root. A level pairs the one below; an odd last one stands for itself.
    levels: Vec<Vec<[u8; 32]>>,
}

impl PieceTree {
    /// The tree of these bytes.
    pub fn of(bytes: &[u8], share: u32) -> Result<Self, InvalidShape> {
        let mut builder = RootBuilder::with_share(share)?;
        builder.update(bytes);
        builder.finish()
    }

    /// A tree from its stored leaves, one per share. Says nothing about whether they are right: compare the root.
    pub fn from_leaves(shape: PieceShape, leaves: Vec<[u8; 32]>) -> Result<Self, InvalidShape> {
        if leaves.len() != shape.shares() as usize {
            return Err(InvalidShape { length: shape.length, share: shape.share });
        }
        let mut levels = vec![leaves];
        while let Some(level) = levels.last().filter(|level| level.len() > 2) {
            levels.push(level.chunks(2).map(join).collect());
        }
        Ok(Self { shape, levels })
    }

    /// The piece's measures.
    pub fn shape(&self) -> PieceShape {
        self.shape
    }

    /// What [`from_leaves`](Self::from_leaves) takes: 32 bytes per share.
    pub fn leaves(&self) -> &[[u8; 32]] {
        &self.levels[0]
    }

    /// BLAKE3 of the piece.
    pub fn root(&self) -> Root {
        match self.levels.last().map(Vec::as_slice) {
            Some([left, right]) => *merge_subtrees_root(left, right, Mode::Hash).as_bytes(),
            _ => self.levels[0][0],
        }
    }

    /// The siblings that prove a share, from it up to the root; `None` if there is no such share.
    pub fn prove(&self, number: u32) -> Option<Vec<[u8; 32]>> {
        let number = Some(number as usize).filter(|number| *number < self.leaves().len())?;
        let level = |(height, level): (usize, &Vec<[u8; 32]>)| level.get((number >> height) ^ 1).copied();
        Some(self.levels.iter().enumerate().filter_map(level).collect())
    }
}

/// A share that was checked against its piece's root: only [`verify`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvenShare {
    root: Root,
    number: u32,
    bytes: Bytes,
}

impl ProvenShare {
    /// The root it was proven against.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// Its number in the piece: the stripe.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Its bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Its bytes.
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }
}

/// A share that its root does not prove: whoever sent it lies, or his disk does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("share {number} does not belong to the piece")]
pub struct BadShare {
    /// The share's number.
    pub number: u32,
}

/// Checks share `number` of a piece against its root.
pub fn verify(
    root: &Root,
    shape: PieceShape,
    number: u32,
    bytes: Bytes,
    proof: &[[u8; 32]],
) -> Result<ProvenShare, BadShare> {
    let bad = BadShare { number };
    if number >= shape.shares() || bytes.len() != shape.share_length(number) as usize || proof.len() > MAX_PROOF {
        return Err(bad);
    }
    let claimed = claimed_root(shape, number, &bytes, proof).ok_or(bad)?;
    // blake3::Hash compares in constant time; nothing here is secret, but nothing is lost either.
    (claimed == blake3::Hash::from_bytes(*root)).then_some(ProvenShare { root: *root, number, bytes }).ok_or(bad)
}

/// The root that share and proof lead to, or `None` if the proof has the wrong length.
fn claimed_root(shape: PieceShape, number: u32, bytes: &[u8], proof: &[[u8; 32]]) -> Option<blake3::Hash> {
    let lefts = path(number as usize, shape.shares() as usize);
    if proof.len() != lefts.len() {
        return None;
    }
    let mut hasher = hasher_at(shape.share_offset(number));
    hasher.update(bytes);
    let mut steps = lefts.iter().zip(proof);
    let Some(top) = steps.next_back() else { return Some(hasher.finalize()) };
    let value = steps.fold(hasher.finalize_non_root(), |value, (is_left, sibling)| match is_left {
        true => merge_subtrees_non_root(&value, sibling, Mode::Hash),
        false => merge_subtrees_non_root(sibling, &value, Mode::Hash),
    });
    Some(match top.0 {
        true => merge_subtrees_root(&value, top.1, Mode::Hash),
        false => merge_subtrees_root(top.1, &value, Mode::Hash),
    })
}

/// Whether the path from leaf `index` of `count` up to the root is the left child, at each step where it has a sibling.
fn path(mut index: usize, mut count: usize) -> Vec<bool> {
    let mut lefts = Vec::with_capacity(MAX_PROOF);
    while count > 1 {
        if index ^ 1 < count {
            lefts.push(index.is_multiple_of(2));
        }
        (index, count) = (index / 2, count.div_ceil(2));
    }
    lefts
}

/// The node above a pair, or a last one without a sibling itself.
fn join(pair: &[[u8; 32]]) -> [u8; 32] {
    match pair {
        [left, right] => merge_subtrees_non_root(left, right, Mode::Hash),
        _ => pair[0],
    }
}

fn hasher_at(offset: u64) -> blake3::Hasher {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(offset);
    hasher
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(length: usize) -> Bytes {
        (0..length).map(|i| (i * 31 + i / 251) as u8).collect()
    }

    #[test]
    fn the_root_is_plain_blake3() {
        for length in [1, 63, 1024, 65_535, 65_536, 65_537, 131_072, 200_000, 5 * 65_536, 8 * 65_536, 9 * 65_536 + 64] {
            let bytes = bytes(length);
            let tree = PieceTree::of(&bytes, MAX_SHARE).unwrap();
            assert_eq!(tree.root(), *blake3::hash(&bytes).as_bytes(), "{length}");
        }
    }

    #[test]
    fn a_share_is_proven_alone_and_nothing_else_is() {
        let piece = bytes(6 * 65_536 + 100);
        let tree = PieceTree::of(&piece, MAX_SHARE).unwrap();
        let (root, shape) = (tree.root(), tree.shape());
        for number in 0..7 {
            let start = shape.share_offset(number) as usize;
            let share = piece.slice(start..start + shape.share_length(number) as usize);
            let proof = tree.prove(number).unwrap();
            assert_eq!(verify(&root, shape, number, share.clone(), &proof).unwrap().into_bytes(), share);
            let mut wrong = share.to_vec();
            wrong[50] ^= 1;
            assert!(verify(&root, shape, number, wrong.into(), &proof).is_err());
            assert!(verify(&root, shape, number, share.slice(1..), &proof).is_err());
            assert!(verify(&root, shape, number ^ 1, share.clone(), &proof).is_err());
            assert!(verify(&root, shape, number, share.clone(), &proof[1..]).is_err());
            assert!(verify(&root, shape, number + 7, share.clone(), &proof).is_err());
            let longer = PieceShape::new(shape.length() + 8 * 65_536).unwrap();
            assert!(verify(&root, longer, number, share, &proof).is_err());
        }
        assert_eq!(tree.prove(7), None);
    }

    #[test]
    fn an_empty_piece_and_odd_shares_are_refused() {
        assert!(RootBuilder::new().finish().is_err());
        assert!(RootBuilder::with_share(512).is_err());
        assert!(PieceShape::new(0).is_err());
        assert!(PieceTree::from_leaves(PieceShape::new(65_537).unwrap(), vec![[0; 32]]).is_err());
    }

    #[test]
    fn piece_ids_differ_by_secret_node_and_number() {
        let id = |secret: u8, node: u8, number| {
            piece_id(&Key::from_bytes([secret; 32]), NodeId::from_bytes([node; 32]), number)
        };
        assert_eq!(id(1, 2, 3), id(1, 2, 3));
        assert_eq!(id(1, 2, 3).to_string(), "9092cdf977ce14f2da03f716f34db91030131ad973da2132704751020170edcf");
        for other in [id(2, 2, 3), id(1, 3, 3), id(1, 2, 4), id(1, 2, 259)] {
            assert_ne!(id(1, 2, 3), other);
        }
    }

    proptest! {
        #[test]
        fn any_portions_give_the_same_tree(length in 1usize..40_000, portion in 1usize..5_000, share in 0u32..3) {
            let (bytes, share) = (bytes(length), 1024 << share);
            let mut builder = RootBuilder::with_share(share).unwrap();
            bytes.chunks(portion).for_each(|part| builder.update(part));
            prop_assert_eq!(builder.length(), length as u64);
            let tree = builder.finish().unwrap();
            prop_assert_eq!(&tree, &PieceTree::of(&bytes, share).unwrap());
            prop_assert_eq!(tree.root(), *blake3::hash(&bytes).as_bytes());
            prop_assert_eq!(&PieceTree::from_leaves(tree.shape(), tree.leaves().to_vec()).unwrap(), &tree);
            for number in 0..tree.shape().shares() {
                let start = tree.shape().share_offset(number) as usize;
                let share = bytes.slice(start..start + tree.shape().share_length(number) as usize);
                prop_assert!(verify(&tree.root(), tree.shape(), number, share, &tree.prove(number).unwrap()).is_ok());
            }
        }

        #[test]
        fn no_proof_makes_it_panic(
            length in 1u64..200_000,
            number in any::<u32>(),
            share in prop::collection::vec(any::<u8>(), 0..2_000),
            proof in prop::collection::vec(any::<[u8; 32]>(), 0..20),
        ) {
            let shape = PieceShape::with_share(length, 1024).unwrap();
            prop_assert!(verify(&[7; 32], shape, number, share.into(), &proof).is_err());
        }
    }
}
