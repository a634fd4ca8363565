//! A disk whose files hold no plaintext.
//!
//! Encrypted is what lies below `journal` and `data`: names, keys and content. Sealed segments and batches are ciphertext
//! already, and whose directory it is stands in the clear. Each file has keys of its own, derived from its name, which is
//! never given to another one (see [`strewn_engine::at_rest`] for the cipher).
//!
//! Files keep their lengths but for what fills the last block of 16 bytes: up to 15 zeros. A change to part of a block
//! reads the rest of it and writes the block in place, so bytes beside it that were durable depend on the disk to write a
//! sector of 512 bytes wholly or not at all, as it does.
//!
//! Whoever reads a block while part of it is changed waits, as the block is nothing in between.
//!
//! There is no path to a file of such a disk: neither the kernel (passthrough) nor SQLite (the index) may use it past us.

use super::{Disk, DiskFile, Listed};
use parking_lot::RwLock;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use strewn_engine::at_rest::{BLOCK, FileCipher, SECTOR};
use strewn_engine::secret::Key;
use zeroize::Zeroize;

/// Directories whose files are encrypted.
const DIRECTORIES: [&str; 2] = ["journal/", "data/"];
/// Files that share a lane wait for each other's changes.
const LANES: usize = 64;
/// Bytes encrypted at a time.
const STEP: usize = 64 * SECTOR;

/// Encrypts a disk under the key of its cache.
pub struct EncryptedDisk {
    disk: Arc<dyn Disk>,
    key: Key,
    lanes: Arc<[RwLock<()>; LANES]>,
}

impl EncryptedDisk {
    /// What of `disk` is below `journal` and `data` must have been written under this key.
    pub fn new(disk: Arc<dyn Disk>, key: Key) -> Self {
        Self { disk, key, lanes: Arc::new(std::array::from_fn(|_| RwLock::default())) }
    }

    fn wrap(&self, name: &str, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        if !DIRECTORIES.iter().any(|directory| name.starts_with(directory)) {
            return file;
        }
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        let lane = hasher.finish() as usize % LANES;
        Arc::new(EncryptedFile { file, cipher: FileCipher::new(&self.key, name), lanes: self.lanes.clone(), lane })
    }
}

impl Disk for EncryptedDisk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.wrap(name, self.disk.create(name)?))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.wrap(name, self.disk.open(name)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        if DIRECTORIES.iter().any(|directory| from.starts_with(directory) || to.starts_with(directory)) {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "an encrypted file keeps its name"));
        }
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn sync_dir(&self, directory: &str) -> io::Result<()> {
        self.disk.sync_dir(directory)
    }

    fn list(&self, directory: &str) -> io::Result<Vec<Listed>> {
        self.disk.list(directory)
    }

    fn free(&self) -> io::Result<u64> {
        self.disk.free()
    }

    fn path(&self, _name: &str) -> Option<PathBuf> {
        None
    }
}

struct EncryptedFile {
    file: Arc<dyn DiskFile>,
    cipher: FileCipher,
    lanes: Arc<[RwLock<()>; LANES]>,
    lane: usize,
}

impl DiskFile for EncryptedFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let _lane = self.lanes[self.lane].read();
        let (skip, whole) = (within(offset), BLOCK * (buffer.len() / BLOCK));
        if skip == 0 && whole == buffer.len() {
            return self.read_blocks(offset, buffer);
        }
        // The blocks around it, of which the ends are not asked for.
        let mut done = 0;
        let mut blocks = vec![0; STEP.min(buffer.len() + 2 * BLOCK).next_multiple_of(BLOCK)];
        while done < buffer.len() {
            let at = offset + done as u64;
            let skip = within(at);
            let wanted = (skip + buffer.len() - done).next_multiple_of(BLOCK).min(blocks.len());
            let read = self.read_blocks(at - skip as u64, &mut blocks[..wanted])?;
            let found = &blocks[skip.min(read)..read];
            let step = found.len().min(buffer.len() - done);
            buffer[done..done + step].copy_from_slice(&found[..step]);
            done += step;
            if read < wanted {
                break;
            }
        }
        blocks.zeroize();
        Ok(done)
    }

    fn write_at(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        let _lane = self.lanes[self.lane].write();
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let end = offset.checked_add(length as u64).ok_or(io::ErrorKind::FileTooLarge)?;
        let mut source = Source { parts, at: 0 };
        let mut at = offset;
        let mut blocks = Vec::with_capacity(STEP.min(length + 2 * BLOCK));
        while at < end {
            let skip = within(at);
            // Steps end where sectors end, so that sectors of zeros are seen.
            let limit = (at - skip as u64 + STEP as u64) / SECTOR as u64 * SECTOR as u64;
            let stop = end.min(limit);
            blocks.clear();
            blocks.resize((skip + (stop - at) as usize).next_multiple_of(BLOCK), 0);
            let filled = skip + (stop - at) as usize;
            if skip > 0 {
                self.read_blocks(at - skip as u64, &mut blocks[..BLOCK])?;
            }
            if filled < blocks.len() && (skip == 0 || blocks.len() > BLOCK) {
                let last = blocks.len() - BLOCK;
                self.read_blocks(at - skip as u64 + last as u64, &mut blocks[last..])?;
            }
            source.fill(&mut blocks[skip..filled]);
            self.cipher.encrypt(at - skip as u64, &mut blocks);
            self.file.write_at(at - skip as u64, &[&blocks])?;
            at = stop;
        }
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        // What a power cut left of a block is nothing.
        let length = self.file.length()?;
        Ok(length - within(length) as u64)
    }

    fn allocated(&self) -> io::Result<u64> {
        self.file.allocated()
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let _lane = self.lanes[self.lane].write();
        let kept = within(length);
        if kept > 0 {
            self.clear(length - kept as u64, kept..BLOCK)?;
        }
        self.file.set_len(length.checked_next_multiple_of(BLOCK as u64).ok_or(io::ErrorKind::FileTooLarge)?)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn punch_hole(&self, offset: u64, length: u64) -> io::Result<()> {
        let _lane = self.lanes[self.lane].write();
        let end = offset.saturating_add(length).min(self.file.length()?);
        if offset >= end {
            return Ok(());
        }
        let (first, last) = (within(offset), within(end));
        let (start, stop) = (offset - first as u64, end - last as u64);
        if start == stop {
            return self.clear(start, first..last);
        }
        if first > 0 {
            self.clear(start, first..BLOCK)?;
        }
        if last > 0 {
            self.clear(stop, 0..last)?;
        }
        let start = offset.next_multiple_of(BLOCK as u64);
        self.file.punch_hole(start, stop - start)
    }

    fn start_writeback(&self, offset: u64, length: u64) {
        self.file.start_writeback(offset, length);
    }
}

impl EncryptedFile {
    /// Reads whole blocks; bytes of blocks that are whole.
    fn read_blocks(&self, offset: u64, blocks: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(offset, blocks)?;
        let whole = read - read % BLOCK;
        self.cipher.decrypt(offset, &mut blocks[..whole]);
        blocks[whole..].fill(0);
        Ok(whole)
    }

    /// Makes part of a block zeros.
    fn clear(&self, offset: u64, part: std::ops::Range<usize>) -> io::Result<()> {
        let mut block = [0; BLOCK];
        if self.read_blocks(offset, &mut block)? == BLOCK {
            block[part].fill(0);
            self.cipher.encrypt(offset, &mut block);
            self.file.write_at(offset, &[&block])?;
        }
        Ok(())
    }
}

/// Bytes from the start of a block.
fn within(offset: u64) -> usize {
    (offset % BLOCK as u64) as usize
}

/// Parts that are taken one after the other.
struct Source<'a> {
    parts: &'a [&'a [u8]],
    /// Bytes taken of the first.
    at: usize,
}

impl Source<'_> {
    /// Takes as many bytes as fit, which must be there.
    fn fill(&mut self, mut buffer: &mut [u8]) {
        while !buffer.is_empty() {
            let Some(part) = self.parts.first().map(|part| &part[self.at..]) else { return };
            let step = part.len().min(buffer.len());
            let (here, rest) = buffer.split_at_mut(step);
            here.copy_from_slice(&part[..step]);
            buffer = rest;
            if step == part.len() {
                (self.parts, self.at) = (&self.parts[1..], 0);
            } else {
                self.at += step;
            }
        }
    }
}
