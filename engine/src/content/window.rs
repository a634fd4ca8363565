//! Windows: every 64 MiB of file offset, each proven by a tag over its extents.
//!
//! The tag is keyed BLAKE3 ([`InodeKeys::window_tag`](crate::keys::InodeKeys::window_tag)); the inode record seals
//! [`content_hash`] over all tags. So a commit renews the tags of the windows it touches and one hash, and a reader of one
//! window proves it without the others' extents.

use super::WINDOW;
use crate::bucket::{Extent, InvalidRow, MAX_OFFSET, MAX_WINDOWS, WindowTag};
use crate::kdf;
use std::ops::Range;

/// The window that holds the byte at `offset`.
pub const fn window_of(offset: u64) -> u64 {
    offset / WINDOW
}

/// The bytes of a window.
pub const fn range(window: u64) -> Range<u64> {
    let start = window.saturating_mul(WINDOW);
    start..start.saturating_add(WINDOW)
}

/// The windows that hold bytes of `range`.
pub fn covering(range: Range<u64>) -> Range<u64> {
    if range.is_empty() {
        return 0..0;
    }
    window_of(range.start)..window_of(range.end - 1) + 1
}

/// Cuts a range of bytes at the borders of windows: (window, part), in order.
pub fn split(range: Range<u64>) -> impl Iterator<Item = (u64, Range<u64>)> {
    covering(range.clone()).map(move |window| {
        let whole = self::range(window);
        (window, whole.start.max(range.start)..whole.end.min(range.end))
    })
}

/// Groups a checked list of extents by window: (window, its extents), in order.
pub fn by_window(extents: &[Extent]) -> impl Iterator<Item = (u64, &[Extent])> {
    let same = |a: &Extent, b: &Extent| window_of(a.offset) == window_of(b.offset);
    extents.chunk_by(same).map(|part| (window_of(part[0].offset), part))
}

/// What an inode record seals of a file's content: BLAKE3 over (window (8, big-endian) | tag (32)) of every window that
/// has extents, in order.
pub fn content_hash(tags: &[(u64, WindowTag)]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(kdf::CONTENT);
    for (window, tag) in tags {
        let mut bytes = [0; 40];
        bytes[..8].copy_from_slice(&window.to_be_bytes());
        bytes[8..].copy_from_slice(&tag.0);
        hasher.update(&bytes);
    }
    *hasher.finalize().as_bytes()
}

/// Checks a list of tags: sorted, no window twice or beyond the largest file, at most [`MAX_WINDOWS`].
pub fn check_tags(tags: &[(u64, WindowTag)]) -> Result<(), InvalidRow> {
    let sorted = tags.is_sorted_by(|(a, _), (b, _)| a < b);
    let within = tags.last().is_none_or(|(window, _)| *window <= window_of(MAX_OFFSET));
    (sorted && within && tags.len() <= MAX_WINDOWS).then_some(()).ok_or(InvalidRow("window tags"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TAG: WindowTag = WindowTag([1; 32]);

    #[test]
    fn ranges_are_cut_at_borders() {
        let parts: Vec<_> = split(WINDOW - 2..2 * WINDOW + 1).collect();
        assert_eq!(parts, [(0, WINDOW - 2..WINDOW), (1, WINDOW..2 * WINDOW), (2, 2 * WINDOW..2 * WINDOW + 1)]);
        assert_eq!(split(5..5).count(), 0);
        assert_eq!(split(WINDOW..2 * WINDOW).collect::<Vec<_>>(), [(1, WINDOW..2 * WINDOW)]);
        assert_eq!(covering(0..u64::MAX), 0..window_of(u64::MAX - 1) + 1);
    }

    proptest! {
        #[test]
        fn parts_join_to_the_range(start in 0..u64::MAX / 2, length in 0..5 * WINDOW) {
            let mut at = start;
            for (window, part) in split(start..start + length) {
                prop_assert_eq!(part.start, at);
                prop_assert!(part.start < part.end);
                prop_assert!(range(window).start <= part.start && part.end <= range(window).end);
                at = part.end;
            }
            prop_assert_eq!(at, start + length);
        }
    }

    #[test]
    fn the_content_hash_depends_on_every_tag_and_window() {
        let other = WindowTag([2; 32]);
        let lists: [&[(u64, WindowTag)]; 6] =
            [&[], &[(0, TAG)], &[(1, TAG)], &[(0, other)], &[(0, TAG), (1, other)], &[(0, other), (1, TAG)]];
        let hashes: std::collections::BTreeSet<_> = lists.into_iter().map(content_hash).collect();
        assert_eq!(hashes.len(), lists.len());
    }

    #[test]
    fn lists_of_tags_are_checked() {
        let last = window_of(MAX_OFFSET);
        assert!(check_tags(&[]).is_ok());
        assert!(check_tags(&[(0, TAG), (last, TAG)]).is_ok());
        assert!(check_tags(&[(last + 1, TAG)]).is_err());
        assert!(check_tags(&[(1, TAG), (1, TAG)]).is_err());
        assert!(check_tags(&[(1, TAG), (0, TAG)]).is_err());
        let many: Vec<_> = (0..MAX_WINDOWS as u64 + 1).map(|window| (window, TAG)).collect();
        assert!(check_tags(&many).is_err());
        assert!(check_tags(&many[1..]).is_ok());
    }
}
