//! What can be said about a batch without knowing the bucket: bounds of every field.

use super::*;
use crate::content::{WINDOW, run};

/// Refuses a batch that breaks the protocol whatever the state, as [`Error::Invalid`].
pub fn check_shape(commit: &Commit) -> Result<(), Error> {
    shape(commit).map_err(|what| Error::Invalid(format!("commit {:?}: {what}", commit.id)))
}

fn shape(commit: &Commit) -> Result<(), &'static str> {
    require(commit.number >= 1, "numbers start at 1")?;
    require(commit.operations.len() <= 2 * MAX_OPERATIONS, "too many operations")?;
    require(commit.runs.len() <= MAX_RUNS, "too many runs")?;
    let mut names = HashSet::with_capacity(commit.operations.len());
    let mut inodes = HashSet::with_capacity(commit.operations.len());
    let (mut expected, mut checked) = (HashSet::new(), HashSet::new());
    let mut extents = 0usize;
    for operation in &commit.operations {
        match operation {
            Operation::SetEntry(set) => {
                require(names.insert((set.parent, &set.name)), "a name is set twice")?;
                expected.extend(set.expected);
                set_entry(set)?;
            }
            Operation::PutInode(put) => {
                require(inodes.insert(put.inode), "an inode is put twice")?;
                extents += put.ranges.iter().map(|range| range.extents.len()).sum::<usize>();
                require(extents <= MAX_EXTENTS, "too many extents")?;
                put_inode(put)?;
            }
            Operation::CheckGone(check) => {
                require(checked.insert(check.inode), "an inode is checked twice")?;
            }
        }
    }
    require(commit.operations.len() - checked.len() <= MAX_OPERATIONS, "too many operations")?;
    require(checked.is_subset(&expected), "what is checked loses no name")?;
    require(checked.is_disjoint(&inodes), "what is put is checked")?;
    let mut runs = HashSet::with_capacity(commit.runs.len());
    for new in &commit.runs {
        require(runs.insert(new.run), "a run comes twice")?;
        require((1..=run::MAX_LENGTH).contains(&new.length), "length of a run")?;
        if let RunPlace::Inline(bytes) = &new.place {
            require(new.length <= MAX_INLINE as u64, "inline run too long")?;
            require(bytes.len() as u64 == run::ciphertext_len(new.length), "length of an inline run's block")?;
        }
    }
    Ok(())
}

fn set_entry(set: &SetEntry) -> Result<(), &'static str> {
    timestamp(&set.time)?;
    match &set.target {
        Some(target) => require(target.key.bytes.len() == Sealed::KEY_LEN, "length of a sealed key"),
        None => Ok(()),
    }
}

fn put_inode(put: &PutInode) -> Result<(), &'static str> {
    timestamp(&put.changed)?;
    require(put.version > put.expected_version && put.version <= i64::MAX as u64, "versions grow")?;
    require((16..=Sealed::MAX_RECORD).contains(&put.record.bytes.len()), "length of a sealed record")?;
    let size = match put.kind {
        Kind::File => put.size <= MAX_OFFSET,
        Kind::Symlink => (1..=4095).contains(&put.size),
        _ => put.size == 0,
    };
    require(size, "size")?;
    require(put.kind == Kind::File || (put.ranges.is_empty() && put.tags.is_empty()), "only files have content")?;
    let mut end = 0;
    for range in &put.ranges {
        let last = range.offset.checked_add(range.length).filter(|&last| last <= MAX_OFFSET);
        require(range.length >= 1 && range.offset >= end, "ranges overlap or are not sorted")?;
        end = last.ok_or("range beyond the largest offset")?;
        for extent in &range.extents {
            require(extent.run_key.bytes.len() == Sealed::KEY_LEN, "length of a sealed run key")?;
        }
    }
    require(put.tags.len() <= MAX_WINDOWS, "too many tags")?;
    require(put.tags.is_sorted_by(|a, b| a.0 < b.0), "tags are not sorted")?;
    require(put.tags.iter().all(|(window, _)| *window <= MAX_OFFSET / WINDOW), "no such window")
}

fn timestamp(time: &Timestamp) -> Result<(), &'static str> {
    require(time.nanos < 1_000_000_000, "nanoseconds")
}

fn require(holds: bool, what: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(what) }
}
