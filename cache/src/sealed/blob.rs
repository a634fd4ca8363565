//! Blobs.

use super::{Error, MAX_BLOB, VERSION};
use crate::disk::{self, Disk};
use bytes::Bytes;

const DIRECTORY: &str = "blobs";
const TEMPORARY: &str = ".new";
const MAGIC: [u8; 8] = *b"strewnB\0";
const HEADER: u64 = 36;

pub(super) fn put(disk: &dyn Disk, number: u64, parts: &[&[u8]]) -> Result<(), Error> {
    let length = parts.iter().map(|part| part.len()).sum::<usize>();
    if length > MAX_BLOB {
        return Err(Error::TooLarge(length as u64));
    }
    let temporary = name(number) + TEMPORARY;
    disk::remove_if_there(disk, &temporary)?;
    let file = disk.create(&temporary)?;
    let header = header(number, length as u64, parts.iter().fold(0, |crc, part| crc32c::crc32c_append(crc, part)));
    let mut all: Vec<&[u8]> = Vec::with_capacity(parts.len() + 1);
    all.push(&header);
    all.extend(parts);
    let written = file.write_at(0, &all).and_then(|()| file.sync());
    if let Err(error) = written {
        // What is left of it is removed by the next attempt or the next start, if not now.
        let _ = disk.remove(&temporary);
        return Err(error.into());
    }
    disk.rename(&temporary, &name(number))?;
    Ok(disk.sync_dir(DIRECTORY)?)
}

pub(super) fn get(disk: &dyn Disk, number: u64) -> Result<Bytes, Error> {
    let name = name(number);
    let corrupt = |reason| Error::Corrupt { name: name.clone(), reason };
    let file = disk.open(&name).map_err(|error| Error::opening(&name, error))?;
    let length = file.length()?.checked_sub(HEADER).ok_or_else(|| corrupt("it is too short"))?;
    if length > MAX_BLOB as u64 {
        return Err(corrupt("it is too long"));
    }
    let mut found = [0; HEADER as usize];
    file.read_exact_at(0, &mut found)?;
    let mut content = vec![0; length as usize];
    file.read_exact_at(HEADER, &mut content)?;
    if found != header(number, length, crc32c::crc32c(&content)) {
        return Err(corrupt("its checksum is wrong"));
    }
    Ok(content.into())
}

/// Blobs with their content lengths; what was not finished is removed.
pub(super) fn list(disk: &dyn Disk) -> Result<Vec<(u64, u64)>, Error> {
    let mut found = Vec::new();
    for listed in disk.list(DIRECTORY)? {
        if listed.name.ends_with(TEMPORARY) {
            disk::remove_if_there(disk, &format!("{DIRECTORY}/{}", listed.name))?;
        } else if let Some(number) = parse(&listed.name) {
            found.push((number, listed.length.saturating_sub(HEADER)));
        }
    }
    found.sort_unstable();
    Ok(found)
}

pub(super) fn name(number: u64) -> String {
    format!("{DIRECTORY}/{number:016x}")
}

fn parse(name: &str) -> Option<u64> {
    let digits = name.len() == 16 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    digits.then(|| u64::from_str_radix(name, 16).ok()).flatten()
}

fn header(number: u64, length: u64, crc: u32) -> [u8; HEADER as usize] {
    let mut bytes = [0; HEADER as usize];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    bytes[16..24].copy_from_slice(&length.to_le_bytes());
    bytes[24..32].copy_from_slice(&number.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..32]);
    bytes[32..].copy_from_slice(&crc.to_le_bytes());
    bytes
}
