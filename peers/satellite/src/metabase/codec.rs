//! Values of rows: ids, kinds, sealed things and postcard columns. What a row holds is checked like anything read from outside.

use super::Error;
use bytes::Bytes;
use rusqlite::Row;
use serde::Serialize;
use serde::de::DeserializeOwned;
use strewn_engine::bucket::{Cipher, Kind, Sealed, Timestamp};

/// A blob column.
pub(crate) fn blob<'r>(row: &'r Row<'_>, column: usize) -> Result<&'r [u8], Error> {
    row.get_ref(column)?.as_blob().map_err(|_| damaged("blob", column))
}

/// A column that is an identifier.
pub(crate) fn id<T: for<'b> TryFrom<&'b [u8]>>(row: &Row<'_>, column: usize) -> Result<T, Error> {
    T::try_from(blob(row, column)?).map_err(|_| damaged("identifier", column))
}

/// A count, size or offset; they stay below 2^63.
pub(crate) fn number(row: &Row<'_>, column: usize) -> Result<u64, Error> {
    u64::try_from(row.get::<_, i64>(column)?).map_err(|_| damaged("number", column))
}

/// A number below 2^32.
pub(crate) fn small(row: &Row<'_>, column: usize) -> Result<u32, Error> {
    u32::try_from(row.get::<_, i64>(column)?).map_err(|_| damaged("number", column))
}

/// A number as a column holds it. Callers have checked that it is below 2^63; what is not is held as the largest.
pub(crate) fn column(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Generation and bytes, in two columns.
pub(crate) fn sealed(row: &Row<'_>, generation: usize) -> Result<Sealed, Error> {
    Ok(Sealed { generation: small(row, generation)?, bytes: Bytes::copy_from_slice(blob(row, generation + 1)?) })
}

/// Seconds and nanoseconds, in two columns.
pub(crate) fn timestamp(row: &Row<'_>, seconds: usize) -> Result<Timestamp, Error> {
    Ok(Timestamp { seconds: row.get(seconds)?, nanos: small(row, seconds + 1)? })
}

/// A kind.
pub(crate) fn kind(row: &Row<'_>, column: usize) -> Result<Kind, Error> {
    let code = small(row, column)? as usize;
    KINDS.get(code).copied().ok_or_else(|| damaged("kind", column))
}

/// A kind as a column holds it.
pub(crate) fn kind_code(kind: Kind) -> i64 {
    KINDS.iter().position(|known| *known == kind).expect("all kinds are listed") as i64
}

/// A cipher.
pub(crate) fn cipher(row: &Row<'_>, column: usize) -> Result<Cipher, Error> {
    let code = small(row, column)? as usize;
    CIPHERS.get(code).copied().ok_or_else(|| damaged("cipher", column))
}

/// A cipher as a column holds it.
pub(crate) fn cipher_code(cipher: Cipher) -> i64 {
    CIPHERS.iter().position(|known| *known == cipher).expect("all ciphers are listed") as i64
}

/// A postcard column.
pub(crate) fn decoded<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> Result<T, Error> {
    postcard::from_bytes(blob(row, column)?).map_err(|_| damaged("value", column))
}

/// A value for a postcard column.
pub(crate) fn encoded<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_allocvec(value).expect("plain structs encode")
}

fn damaged(what: &str, column: usize) -> Error {
    Error::Damaged(format!("no {what} in column {column}"))
}

/// Codes are positions: never reorder.
const KINDS: [Kind; 7] =
    [Kind::File, Kind::Directory, Kind::Symlink, Kind::Fifo, Kind::Socket, Kind::CharDevice, Kind::BlockDevice];

/// Codes are positions: never reorder.
const CIPHERS: [Cipher; 2] = [Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305];
