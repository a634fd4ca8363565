//! What a store does when it is opened: reads the logs from the index's marks on and brings the index up to them.
//!
//! Only a header with a footer that belongs to it makes a record, and the place of a record is never given to another; so
//! every such pair found is true, wherever it lies, and a stretch without one (given up, torn or damaged) is searched for
//! the next header. Records that no other one vouches for as synced were never acknowledged before the crash, or only just:
//! their data is read and checked. What lies behind the last record of a log is cut off.

use super::index::{Index, Location, Replay};
use super::log::{self, Log, LogError};
use super::record::{BadLog, Footer, HEADER, Header, UNIT, footer_length, header_crc, record_length};
use super::space::Found;
use super::{OpenError, check_shares};
use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use strewn_engine::ids::PieceId;

/// What recovery found.
pub(crate) struct Recovered {
    pub(crate) logs: Vec<Found>,
    /// The log with the highest number, if it can be written to.
    pub(crate) last: Option<Arc<Log>>,
    /// Highest log number in use.
    pub(crate) highest: u64,
    /// Highest sequence number in use.
    pub(crate) seq: u64,
    /// Live pieces.
    pub(crate) pieces: u64,
    /// Logs whose header is unreadable. They are kept.
    pub(crate) damaged: u64,
}

/// A record of a log.
pub(crate) enum Event {
    Piece { piece: PieceId, at: Location, synced: u64 },
    Tombstone { piece: PieceId, seq: u64, log: u64 },
}

/// Brings the index up to the logs of `directory`.
pub(crate) fn recover(directory: &Path, index: &mut Index) -> Result<Recovered, OpenError> {
    let (applied, marks) = (index.applied()?, index.marks()?);
    let mut catch_up = CatchUp::new(index.replay()?, applied);
    let (mut ends, mut last, mut damaged) = (BTreeMap::new(), None, 0);
    let numbers = log::list(directory)?;
    for number in numbers.iter().copied() {
        let log = match Log::open(directory, number) {
            Ok(log) => log,
            Err(LogError::Bad(BadLog::Damaged)) => {
                tracing::error!(number, "piece log has no readable header");
                damaged += 1;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let end = catch_up.read(&log, marks.get(&number).copied().unwrap_or(UNIT))?;
        ends.insert(number, end);
        last = (Some(&number) == numbers.last()).then(|| Arc::new(log));
    }
    let seq = catch_up.finish(directory, &ends)?;
    let (live, pieces) = index.live()?;
    let found = |(number, end)| Found { number, end, live: live.get(&number).copied().unwrap_or(0) };
    let logs = ends.into_iter().map(found).collect();
    Ok(Recovered { logs, last, highest: numbers.last().copied().unwrap_or(0), seq, pieces, damaged })
}

struct CatchUp<'a> {
    replay: Replay<'a>,
    applied: u64,
    /// Highest sequence number seen.
    seq: u64,
    /// Every record up to this sequence number was synced.
    synced: u64,
    unproven: Vec<(PieceId, Location)>,
}

/// Records that wait for one that vouches for them; then they are sifted.
const UNPROVEN: usize = 4096;

impl<'a> CatchUp<'a> {
    fn new(replay: Replay<'a>, applied: u64) -> Self {
        Self { replay, applied, seq: applied, synced: applied, unproven: Vec::new() }
    }

    /// Takes in a log from its mark on, cuts off what lies behind its last record, and returns its end.
    fn read(&mut self, log: &Log, mark: u64) -> Result<u64, OpenError> {
        let mut end = mark;
        let mut result = Ok(());
        scan(log, mark, |at, event| {
            if at > end {
                log.punch(end, at - end);
            }
            end = at + event.record_length();
            result = self.event(event);
            if result.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        result?;
        if log.length()? > end {
            log.set_length(end)?;
        }
        Ok(end)
    }

    fn event(&mut self, event: Event) -> Result<(), OpenError> {
        match event {
            Event::Piece { piece, at, synced } => {
                self.seq = self.seq.max(at.seq);
                self.synced = self.synced.max(synced);
                if at.seq > self.applied {
                    self.unproven.push((piece, at));
                }
            }
            Event::Tombstone { piece, seq, .. } => {
                self.seq = self.seq.max(seq);
                if seq > self.applied {
                    self.replay.delete(&piece, seq)?;
                }
            }
        }
        if self.unproven.len() >= UNPROVEN { self.sift() } else { Ok(()) }
    }

    /// Puts what is vouched for into the index.
    fn sift(&mut self) -> Result<(), OpenError> {
        for (piece, at) in std::mem::take(&mut self.unproven) {
            if at.seq <= self.synced {
                self.replay.put(&piece, &at)?;
            } else {
                self.unproven.push((piece, at));
            }
        }
        Ok(())
    }

    fn finish(mut self, directory: &Path, ends: &BTreeMap<u64, u64>) -> Result<u64, OpenError> {
        self.sift()?;
        for (piece, at) in std::mem::take(&mut self.unproven) {
            let log = Log::open(directory, at.log)?;
            if is_whole(&log, &at)? {
                self.replay.put(&piece, &at)?;
            } else {
                tracing::warn!(%piece, "a piece that was never acknowledged is torn, dropping it");
                log.write_at(at.offset + record_length(at.length) - UNIT, &[0; HEADER])?;
            }
            log.sync()?;
        }
        self.replay.finish(ends, self.seq)?;
        Ok(self.seq)
    }
}

impl Event {
    fn record_length(&self) -> u64 {
        match self {
            Self::Piece { at, .. } => record_length(at.length),
            Self::Tombstone { .. } => UNIT,
        }
    }
}

/// Calls `found` with offset and content of every record from `from` on, ascending.
pub(crate) fn scan(log: &Log, from: u64, mut found: impl FnMut(u64, Event) -> ControlFlow<()>) -> io::Result<()> {
    let length = log.length()?;
    let mut window = Window { log, length, start: 0, bytes: Vec::new() };
    let mut at = from.max(UNIT).next_multiple_of(UNIT);
    while at + UNIT <= length {
        let event = match Header::decode(window.header(at)?, &log.nonce) {
            None => None,
            Some(Header::Tombstone { piece, seq, log }) => Some(Event::Tombstone { piece, seq, log }),
            Some(Header::Piece { piece, length, expires }) => {
                let crc = header_crc(window.header(at)?);
                read_footer(log, at, length, piece)?.filter(|footer| footer.header == crc).map(|footer| {
                    let Footer { seq, root, synced, .. } = footer;
                    Event::Piece {
                        piece,
                        at: Location { log: log.number, offset: at, length, seq, expires, root },
                        synced,
                    }
                })
            }
        };
        at += match event {
            None => UNIT,
            Some(event) => {
                let length = event.record_length();
                if found(at, event).is_break() {
                    return Ok(());
                }
                length
            }
        };
    }
    Ok(())
}

/// The footer of a record that should lie at `offset`; `None` if there is none.
pub(crate) fn read_footer(log: &Log, offset: u64, length: u64, piece: PieceId) -> io::Result<Option<Footer>> {
    let mut bytes = vec![0; footer_length(length)];
    match log.read_at(offset + UNIT + length, &mut bytes) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    Ok(Footer::decode(&bytes, length).filter(|footer| footer.piece == piece))
}

/// True if the data of a record is what its footer says.
fn is_whole(log: &Log, at: &Location) -> io::Result<bool> {
    let mut head = [0; HEADER];
    log.read_at(at.offset, &mut head)?;
    let Some(Header::Piece { piece, .. }) = Header::decode(&head, &log.nonce) else { return Ok(false) };
    let Some(footer) = read_footer(log, at.offset, at.length, piece)? else { return Ok(false) };
    let mut data = Vec::new();
    for first in (0..footer.shares.len()).step_by(READ_SHARES) {
        match check_shares(log, at, &footer.shares, first, READ_SHARES, &mut data) {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(e) => return Err(e),
        }
    }
    Ok(true)
}

/// Shares read at a time.
const READ_SHARES: usize = 16;

/// Reads headers one after the other without a system call for each.
struct Window<'a> {
    log: &'a Log,
    length: u64,
    start: u64,
    bytes: Vec<u8>,
}

/// Bytes read for a header where more headers may follow at once.
const WINDOW: u64 = 64 * 1024;

impl Window<'_> {
    /// The header at `at`; at + [`UNIT`] lies within the log.
    fn header(&mut self, at: u64) -> io::Result<&[u8; HEADER]> {
        if at < self.start || at + UNIT > self.start + self.bytes.len() as u64 {
            // A step right behind the window searches on; a jump reads one header only.
            let searching = at == self.start + self.bytes.len() as u64;
            let length = if searching { WINDOW } else { UNIT }.min(self.length - at);
            self.bytes.resize((length / UNIT * UNIT) as usize, 0);
            self.log.read_at(at, &mut self.bytes)?;
            self.start = at;
        }
        let from = (at - self.start) as usize;
        Ok(self.bytes[from..].first_chunk().expect("the window holds the header"))
    }
}
