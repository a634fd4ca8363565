//! Recovery: which files and records count, and reading them.

use super::format::{self, FILE_HEADER, FileHeader, FileKind, Mark, ParsedHeader, RECORD_HEADER, Reader};
use super::{BootId, Damage, Error, Position, Sequence, Settings, store};
use crate::disk::{Disk, DiskFile};
use bytes::Bytes;
use std::sync::Arc;

/// What a journal held when it was opened.
pub struct Recovered {
    /// The last change; the next one gets the number after it.
    pub last: Sequence,
    /// Point of the snapshot that [`Self::records`] starts with, if there is one.
    pub snapshot: Option<Sequence>,
    /// True if any file was begun in another boot of the machine: what was not synced then may be gone.
    pub rebooted: bool,
    /// Where the journal is damaged, if [`Settings::accept_damage`] let it be opened nevertheless.
    pub damage: Option<Damage>,
    disk: Arc<dyn Disk>,
    boot: BootId,
    files: Vec<ChainFile>,
}

/// A record of a journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Part of the snapshot, or a change after it.
    pub kind: RecordKind,
    /// The number of the change; for parts of a snapshot, the change that the snapshot was taken after.
    pub sequence: Sequence,
    /// Where the payload lies.
    pub position: Position,
    /// The boot in which the record was written.
    pub boot: BootId,
    /// True if that was another boot than this one.
    pub rebooted: bool,
    /// The payload.
    pub payload: Bytes,
}

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKind {
    /// A part of the snapshot, in the order in which the parts were written.
    Snapshot,
    /// A change.
    Change,
}

impl Recovered {
    /// All valid records in order: the parts of the snapshot, then the changes after it.
    pub fn records(&self) -> Records<'_> {
        Records { recovered: self, file: 0, reader: None }
    }

    pub(super) fn new(disk: Arc<dyn Disk>, boot: BootId, chain: &Chain) -> Self {
        let snapshot = chain.files.iter().find(|file| file.header.kind == FileKind::Snapshot);
        Self {
            last: Sequence(chain.last),
            snapshot: snapshot.map(|file| Sequence(file.header.base)),
            rebooted: chain.files.iter().any(|file| file.header.boot != boot),
            damage: chain.damage.clone(),
            disk,
            boot,
            files: chain.files.clone(),
        }
    }
}

/// Reads the records of a [`Recovered`]. After an error it ends.
pub struct Records<'a> {
    recovered: &'a Recovered,
    file: usize,
    reader: Option<Reader>,
}

impl Iterator for Records<'_> {
    type Item = Result<Record, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let result = self.advance();
        if result.is_err() {
            self.file = self.recovered.files.len();
        }
        result.transpose()
    }
}

impl Records<'_> {
    fn advance(&mut self) -> Result<Option<Record>, Error> {
        loop {
            let Some(file) = self.recovered.files.get(self.file) else { return Ok(None) };
            let number = file.header.number;
            let reader = match &mut self.reader {
                Some(reader) => reader,
                empty => {
                    empty.insert(Reader::new(self.recovered.disk.open(&store::name(number))?, number, FILE_HEADER))
                }
            };
            let offset = reader.offset();
            if offset >= file.end {
                self.file += 1;
                self.reader = None;
                continue;
            }
            // It was whole a moment ago.
            let lost = || Error::Io(Arc::new(std::io::ErrorKind::UnexpectedEof.into()));
            let (header, payload) = reader.next()?.ok_or_else(lost)?;
            let (kind, sequence) = match header.mark {
                Mark::Change => (RecordKind::Change, header.sequence),
                Mark::SnapshotPart => (RecordKind::Snapshot, file.header.base),
                Mark::SnapshotEnd => continue,
            };
            return Ok(Some(Record {
                kind,
                sequence: Sequence(sequence),
                position: Position { file: number, offset: offset + RECORD_HEADER, length: header.length },
                boot: file.header.boot,
                rebooted: file.header.boot != self.recovered.boot,
                payload: Bytes::copy_from_slice(payload),
            }));
        }
    }
}

/// The files that recovery reads, and what becomes of the others.
pub(super) struct Chain {
    /// The snapshot if any, then journal files with at least one record.
    pub(super) files: Vec<ChainFile>,
    /// Number of the last change.
    pub(super) last: u64,
    /// Larger than the number of any file.
    pub(super) next_number: u64,
    /// Files before the chain: number and size.
    pub(super) retired: Vec<(u64, u64)>,
    /// Files that hold nothing that counts.
    pub(super) garbage: Vec<u64>,
    pub(super) damage: Option<Damage>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct ChainFile {
    pub(super) header: FileHeader,
    /// Where its records that count end.
    pub(super) end: u64,
}

/// A file of the directory, opened.
struct Candidate {
    number: u64,
    length: u64,
    file: Arc<dyn DiskFile>,
    header: Option<FileHeader>,
    blank: bool,
}

/// Finds the chain without changing anything.
pub(super) fn find(disk: &Arc<dyn Disk>, settings: &Settings) -> Result<Chain, Error> {
    let candidates = candidates(&**disk)?;
    let base = newest_complete_snapshot(&candidates)?;
    let start = base.as_ref().map_or(0, |(index, _)| index + 1);
    let mut chain = follow(&candidates[start..], base.map(|(_, snapshot)| snapshot))?;
    if let Some(damage) = &chain.damage
        && !settings.accept_damage
    {
        return Err(Error::Damaged(damage.clone()));
    }
    chain.next_number = candidates.last().map_or(1, |newest| newest.number + 1);
    let first = chain.files.first().map_or(u64::MAX, |file| file.header.number);
    for candidate in &candidates {
        if chain.files.iter().any(|file| file.header.number == candidate.number) {
            continue;
        }
        if candidate.number < first && candidate.header.is_some() && start > 0 {
            chain.retired.push((candidate.number, candidate.length));
        } else {
            chain.garbage.push(candidate.number);
        }
    }
    Ok(chain)
}

fn candidates(disk: &dyn Disk) -> Result<Vec<Candidate>, Error> {
    let mut found = Vec::new();
    for listed in disk.list(store::DIRECTORY)? {
        let Some(number) = store::number(&listed.name) else { continue };
        let file = disk.open(&store::name(number))?;
        let parsed = format::read_header(&*file, number)?;
        let blank = matches!(parsed, ParsedHeader::Blank);
        let header = if let ParsedHeader::Valid(header) = parsed { Some(header) } else { None };
        found.push(Candidate { number, length: listed.length, file, header, blank });
    }
    found.sort_by_key(|candidate| candidate.number);
    Ok(found)
}

fn newest_complete_snapshot(candidates: &[Candidate]) -> Result<Option<(usize, ChainFile)>, Error> {
    for (index, candidate) in candidates.iter().enumerate().rev() {
        let Some(header) = candidate.header.filter(|header| header.kind == FileKind::Snapshot) else { continue };
        if let Some(end) = end_of_snapshot(candidate)? {
            return Ok(Some((index, ChainFile { header, end })));
        }
    }
    Ok(None)
}

/// Where a complete snapshot ends: all parts in order, then the end record. `None` if it is not complete.
fn end_of_snapshot(candidate: &Candidate) -> Result<Option<u64>, Error> {
    let mut reader = Reader::new(candidate.file.clone(), candidate.number, FILE_HEADER);
    let mut expected = 1;
    while let Some((header, _)) = reader.next()? {
        match header.mark {
            Mark::SnapshotPart if header.sequence == expected => expected += 1,
            Mark::SnapshotEnd if header.sequence == expected => return Ok(Some(reader.offset())),
            _ => return Ok(None),
        }
    }
    Ok(None)
}

/// Follows the changes after the snapshot through the journal files among `candidates`.
fn follow(candidates: &[Candidate], snapshot: Option<ChainFile>) -> Result<Chain, Error> {
    let mut last = snapshot.map_or(0, |file| file.header.base);
    let mut files = Vec::from_iter(snapshot);
    // Where the chain breaks off, if it goes no further.
    let mut end = snapshot.map_or((0, 0), |file| (file.header.number, file.end));
    let mut broken = None;
    let mut suspects = Vec::new();
    let mut before_first = true;
    for (index, candidate) in candidates.iter().enumerate() {
        let cutoff = candidates[index + 1..].iter().filter_map(journal_base).min().unwrap_or(u64::MAX);
        let header = match candidate.header {
            Some(header) if header.kind == FileKind::Journal => header,
            None if !candidate.blank => {
                suspects.push((candidate, FILE_HEADER, cutoff));
                continue;
            }
            _ => continue,
        };
        if broken.is_none() && header.base != last && header.base < cutoff {
            // The file after a snapshot, or the first of all, begins where that one ends: nothing unsynced lies between.
            let surely = before_first || header.base < last;
            broken = Some(
                surely.then(|| format!("journal file {:016x} goes on after change {}", header.number, header.base)),
            );
        }
        if broken.is_some() {
            suspects.push((candidate, FILE_HEADER, cutoff));
            continue;
        }
        if header.base >= cutoff {
            continue;
        }
        before_first = false;
        let (stop, newest) = read_changes(candidate, header.base, cutoff)?;
        if newest > last {
            files.push(ChainFile { header, end: stop });
        }
        last = newest;
        end = (header.number, stop);
        suspects.clear();
        if last < cutoff {
            suspects.push((candidate, stop, cutoff));
        }
    }
    let reason = match broken.flatten() {
        Some(reason) => Some(reason),
        None => proof_of_loss(&suspects, last)?,
    };
    let damage = reason.map(|reason| Damage { file: end.0, offset: end.1, missing: last + 1, reason });
    Ok(Chain { files, last, next_number: 0, retired: Vec::new(), garbage: Vec::new(), damage })
}

fn journal_base(candidate: &Candidate) -> Option<u64> {
    candidate.header.filter(|header| header.kind == FileKind::Journal).map(|header| header.base)
}

/// Reads the changes of a file from `base + 1` up to `cutoff` at most: where they end, and the last one.
fn read_changes(candidate: &Candidate, base: u64, cutoff: u64) -> Result<(u64, u64), Error> {
    let mut reader = Reader::new(candidate.file.clone(), candidate.number, FILE_HEADER);
    let mut last = base;
    let mut end = FILE_HEADER;
    while last < cutoff
        && let Some((header, _)) = reader.next()?
    {
        if header.mark != Mark::Change || header.sequence != last + 1 {
            break;
        }
        last += 1;
        end = reader.offset();
    }
    Ok((end, last))
}

/// Looks behind the end of the chain for a record that says that more had been durable.
fn proof_of_loss(suspects: &[(&Candidate, u64, u64)], last: u64) -> Result<Option<String>, Error> {
    let mut proof = None;
    for &(candidate, from, cutoff) in suspects {
        let mut reader = Reader::new(candidate.file.clone(), candidate.number, from);
        reader.scan(|offset, header| {
            if header.synced > last && header.sequence <= cutoff && proof.is_none() {
                proof = Some(format!(
                    "change {} in file {:016x} at offset {offset} was written when {} changes were durable",
                    header.sequence, candidate.number, header.synced
                ));
            }
        })?;
    }
    Ok(proof)
}
