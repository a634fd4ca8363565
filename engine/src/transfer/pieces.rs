//! Sets of piece numbers.

/// A set of piece numbers 0..256.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct PieceSet([u64; 4]);

impl PieceSet {
    pub(super) fn insert(&mut self, piece: u16) {
        self.0[usize::from(piece) / 64] |= 1 << (piece % 64);
    }

    pub(super) fn remove(&mut self, piece: u16) {
        self.0[usize::from(piece) / 64] &= !(1 << (piece % 64));
    }

    pub(super) fn contains(&self, piece: u16) -> bool {
        self.0[usize::from(piece) / 64] & (1 << (piece % 64)) != 0
    }

    pub(super) fn len(&self) -> u16 {
        self.0.iter().map(|word| word.count_ones() as u16).sum()
    }

    pub(super) fn is_subset(&self, other: &Self) -> bool {
        self.minus(other) == Self::default()
    }

    pub(super) fn union(&self, other: &Self) -> Self {
        self.zip(other, |a, b| a | b)
    }

    pub(super) fn intersection(&self, other: &Self) -> Self {
        self.zip(other, |a, b| a & b)
    }

    pub(super) fn minus(&self, other: &Self) -> Self {
        self.zip(other, |a, b| a & !b)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = u16> + use<> {
        (0..).zip(self.0).flat_map(|(index, mut word): (u16, u64)| {
            std::iter::from_fn(move || {
                let bit = word.trailing_zeros() as u16;
                word &= word.checked_sub(1)?;
                Some(index * 64 + bit)
            })
        })
    }

    fn zip(&self, other: &Self, f: impl Fn(u64, u64) -> u64) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

impl FromIterator<u16> for PieceSet {
    fn from_iter<I: IntoIterator<Item = u16>>(pieces: I) -> Self {
        let mut set = Self::default();
        pieces.into_iter().for_each(|piece| set.insert(piece));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn behaves_as_a_set(a in prop::collection::btree_set(0u16..256, 0..40), b in prop::collection::btree_set(0u16..256, 0..40)) {
            let set = |numbers: &BTreeSet<u16>| numbers.iter().copied().collect::<PieceSet>();
            let (x, y) = (set(&a), set(&b));
            prop_assert_eq!(x.iter().collect::<BTreeSet<_>>(), a.clone());
            prop_assert_eq!(usize::from(x.len()), a.len());
            prop_assert_eq!(x.union(&y), set(&(&a | &b)));
            prop_assert_eq!(x.intersection(&y), set(&(&a & &b)));
            prop_assert_eq!(x.minus(&y), set(&(&a - &b)));
            prop_assert_eq!(x.is_subset(&y), a.is_subset(&b));
            let mut less = x;
            b.iter().for_each(|piece| less.remove(*piece));
            prop_assert!(b.iter().all(|piece| !less.contains(*piece)));
        }
    }
}
