//! Snapshots: a state in a file of its own, so that what led to it need not be kept.

use super::format::{self, FILE_HEADER, FileHeader, FileKind, Mark, RECORD_HEADER, RecordHeader};
use super::store::{self, Live};
use super::writer::{Active, Handle, Shared};
use super::{Error, MAX_PAYLOAD, Position, Sequence};
use crate::disk::{self, DiskFile};
use std::sync::Arc;

/// Files for a snapshot, made and durable but empty. Dropped, they are removed.
pub struct Prepared {
    handle: Arc<Handle>,
    /// `None` once handed to the [`Snapshot`].
    files: Option<Files>,
}

struct Files {
    number: u64,
    snapshot: Arc<dyn DiskFile>,
    next: Active,
}

/// A snapshot being written. Dropped before [`Self::finish`], it is given up; nothing is lost.
pub struct Snapshot {
    handle: Arc<Handle>,
    number: u64,
    file: Arc<dyn DiskFile>,
    /// The journal file that takes the changes after the point.
    next: Arc<dyn DiskFile>,
    point: u64,
    parts: u64,
    end: u64,
    finished: bool,
}

impl Prepared {
    pub(super) fn new(handle: Arc<Handle>) -> Result<Self, Error> {
        let number = {
            let mut state = handle.shared.state.lock();
            state.check()?;
            if state.snapshotting {
                return Err(Error::SnapshotRunning);
            }
            state.snapshotting = true;
            let number = state.next_number;
            state.next_number += 2;
            number
        };
        match make_files(&handle.shared, number) {
            Ok(files) => Ok(Self { handle, files: Some(files) }),
            Err(error) => {
                give_up(&handle.shared, &[number, number + 1]);
                Err(error)
            }
        }
    }

    /// Sets the point of the snapshot: the state after the last change appended so far. Cheap; to be called under the
    /// caller's own lock, so that it knows which state that is. Later changes go to the new journal file.
    pub fn mark(mut self) -> Result<Snapshot, Error> {
        let shared = &self.handle.shared;
        let mut state = shared.state.lock();
        state.check()?;
        let Some(files) = &mut self.files else { return Err(Error::SnapshotRunning) };
        let point = state.last;
        let header =
            FileHeader { kind: FileKind::Journal, number: files.next.number, base: point, boot: shared.settings.boot };
        files.next.write_header(&header)?;
        let Some(Files { number, snapshot, next }) = self.files.take() else { return Err(Error::SnapshotRunning) };
        let next_file = next.file.clone();
        let next_number = next.number;
        let old = std::mem::replace(&mut state.active, next);
        {
            let mut store = shared.store.lock();
            store.live.insert(old.number, old.live());
            store.live.insert(number, Live::default());
            store.live.insert(next_number, Live::default());
        }
        if state.synced < state.last {
            state.unsynced.push(old.file);
        }
        drop(state);
        let handle = self.handle.clone();
        Ok(Snapshot {
            handle,
            number,
            file: snapshot,
            next: next_file,
            point,
            parts: 0,
            end: FILE_HEADER,
            finished: false,
        })
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if let Some(files) = &self.files {
            give_up(&self.handle.shared, &[files.number, files.next.number]);
        }
    }
}

impl Snapshot {
    /// The change after which the snapshot shows the state.
    pub fn point(&self) -> Sequence {
        Sequence(self.point)
    }

    /// Writes the next part of the state: at most [`MAX_PAYLOAD`] bytes, `parts` one after the other. Blocks. The position
    /// may be read from at once, and counts once the snapshot is finished.
    pub fn write(&mut self, parts: &[&[u8]]) -> Result<Position, Error> {
        self.put(Mark::SnapshotPart, parts)
    }

    /// Makes the snapshot durable and retires all older files. Blocks. Whatever else the state refers to (data files)
    /// must be durable before.
    pub fn finish(mut self) -> Result<(), Error> {
        let shared = self.handle.shared.clone();
        // Before the snapshot can be found complete, the journal file after it must be findable, too.
        if let Err(error) = self.next.sync() {
            return Err(shared.poison(&mut shared.state.lock(), error));
        }
        self.put(Mark::SnapshotEnd, &[])?;
        let header =
            FileHeader { kind: FileKind::Snapshot, number: self.number, base: self.point, boot: shared.settings.boot };
        self.file.write_at(0, &[&header.encode()])?;
        self.file.sync()?;
        self.finished = true;
        {
            let mut state = shared.state.lock();
            shared.store.lock().live.insert(self.number, Live { changes: 0, end: self.end, length: self.end });
            // The changes up to the point are durable in this form, whatever becomes of the older files.
            shared.advance(&mut state, self.point);
            state.unsynced.clear();
            state.snapshotting = false;
        }
        shared.store.retire_before(self.number);
        Ok(())
    }

    fn put(&mut self, mark: Mark, parts: &[&[u8]]) -> Result<Position, Error> {
        let length = parts.iter().map(|part| part.len()).sum::<usize>();
        if length > MAX_PAYLOAD {
            return Err(Error::TooLarge(length));
        }
        let length = length as u32;
        let payload_crc = format::payload_crc(parts);
        let header = RecordHeader { mark, length, sequence: self.parts + 1, synced: self.point, payload_crc };
        let header = header.encode(self.number);
        let mut all: Vec<&[u8]> = Vec::with_capacity(parts.len() + 2);
        all.push(&header);
        all.extend(parts);
        all.push(format::padding(length));
        self.file.write_at(self.end, &all)?;
        let position = Position { file: self.number, offset: self.end + RECORD_HEADER, length };
        self.end += format::record_length(length);
        self.parts += 1;
        Ok(position)
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        if !self.finished {
            give_up(&self.handle.shared, &[self.number]);
        }
    }
}

fn make_files(shared: &Shared, number: u64) -> Result<Files, Error> {
    let disk = &shared.store.disk;
    let snapshot = disk.create(&store::name(number))?;
    let next = Active::create(&**disk, number + 1, &shared.settings)?;
    next.file.sync()?;
    disk.sync_dir(store::DIRECTORY)?;
    Ok(Files { number, snapshot, next })
}

/// Removes files of a snapshot that does not come to be. If they stay, recovery takes them for what they are: incomplete.
fn give_up(shared: &Shared, numbers: &[u64]) {
    for number in numbers {
        shared.store.lock().live.remove(number);
        if let Err(error) = disk::remove_if_there(&*shared.store.disk, &store::name(*number)) {
            tracing::warn!(file = number, %error, "cannot remove an unfinished snapshot");
        }
    }
    shared.state.lock().snapshotting = false;
}
