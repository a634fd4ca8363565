//! How far a segment is spread: which code, and how many pieces are needed, repaired at, waited for and begun.

use serde::{Deserialize, Serialize};

/// The erasure code, by name, so that a faster one can follow without a new format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Code {
    /// Reed-Solomon over GF(2^16) as computed by the reed-solomon-simd crate, systematic.
    ReedSolomonSimd,
}

/// A redundancy scheme: 1 <= required <= repair <= success <= total <= 256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Redundancy {
    /// The code.
    pub code: Code,
    /// k: any that many pieces rebuild a segment.
    pub required: u16,
    /// Below or at this many healthy pieces a segment is repaired.
    pub repair: u16,
    /// An upload is done once that many pieces are stored.
    pub success: u16,
    /// Pieces an upload begins.
    pub total: u16,
}

/// Largest share in bytes: piece i is share i of every stripe.
pub const MAX_SHARE: u32 = 64 * 1024;

/// Numbers that are no redundancy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("redundancy {0} is not k/repair/success/total with 1 <= k <= repair <= success <= total <= 256")]
pub struct InvalidRedundancy(pub String);

impl Redundancy {
    /// 29/35/80/110.
    pub const STANDARD: Self = Self::of(29, 35, 80, 110);
    /// 4/6/8/10, for a local network of ten nodes.
    pub const SMALL: Self = Self::of(4, 6, 8, 10);
    /// 16/20/24/28.
    pub const ARCHIVE: Self = Self::of(16, 20, 24, 28);

    const fn of(required: u16, repair: u16, success: u16, total: u16) -> Self {
        Self { code: Code::ReedSolomonSimd, required, repair, success, total }
    }

    /// Checks the bounds.
    pub fn new(required: u16, repair: u16, success: u16, total: u16) -> Result<Self, InvalidRedundancy> {
        let scheme = Self::of(required, repair, success, total);
        scheme.is_valid().then_some(scheme).ok_or_else(|| InvalidRedundancy(scheme.to_string()))
    }

    /// True if the bounds hold; anything parsed must be asked.
    pub fn is_valid(&self) -> bool {
        1 <= self.required
            && self.required <= self.repair
            && self.repair <= self.success
            && self.success <= self.total
            && self.total <= 256
    }
}

impl std::fmt::Display for Redundancy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}/{}", self.required, self.repair, self.success, self.total)
    }
}

impl std::str::FromStr for Redundancy {
    type Err = InvalidRedundancy;

    /// Parses `k/repair/success/total`, or the names `standard`, `small` and `archive`.
    fn from_str(text: &str) -> Result<Self, InvalidRedundancy> {
        match text {
            "standard" => return Ok(Self::STANDARD),
            "small" => return Ok(Self::SMALL),
            "archive" => return Ok(Self::ARCHIVE),
            _ => {}
        }
        let bad = || InvalidRedundancy(text.to_owned());
        let numbers: Result<Vec<u16>, _> = text.split('/').map(str::parse).collect();
        match numbers.map_err(|_| bad())?[..] {
            [k, r, s, t] => Self::new(k, r, s, t).map_err(|_| bad()),
            _ => Err(bad()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_names_and_numbers_and_nothing_else() {
        assert_eq!("4/6/8/10".parse(), Ok(Redundancy::SMALL));
        assert_eq!("standard".parse(), Ok(Redundancy::STANDARD));
        for bad in ["", "4", "4/6/8", "0/1/1/1", "5/4/8/10", "4/6/8/257", "4/6/8/10/12", "a/b/c/d"] {
            assert!(bad.parse::<Redundancy>().is_err(), "{bad}");
        }
    }
}
