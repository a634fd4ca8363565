//! Frames: u32 little-endian length, then that many bytes.

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Why a frame could not be moved.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream ended or failed.
    #[error("stream: {0}")]
    Io(#[from] std::io::Error),
    /// A frame longer than the stream allows.
    #[error("frame of {length} bytes exceeds {limit}")]
    TooLong {
        /// Announced or encoded length.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// Bytes that are not the message.
    #[error("malformed message: {0}")]
    Malformed(#[from] postcard::Error),
}

/// Writes one message as a frame of at most `limit` bytes, in one write; does not flush.
pub async fn write<T: Serialize>(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &T,
    limit: usize,
) -> Result<(), FrameError> {
    let mut bytes = Vec::new();
    append(&mut bytes, message, limit)?;
    stream.write_all(&bytes).await?;
    Ok(())
}

/// Appends one message as a frame of at most `limit` bytes to `buffer`, for sending several in one write.
pub fn append<T: Serialize>(buffer: &mut Vec<u8>, message: &T, limit: usize) -> Result<(), FrameError> {
    let start = buffer.len() + 4;
    buffer.extend_from_slice(&[0; 4]);
    *buffer = postcard::to_extend(message, std::mem::take(buffer))?;
    let length = buffer.len() - start;
    if length > limit {
        return Err(FrameError::TooLong { length, limit });
    }
    buffer[start - 4..start].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(())
}

/// Reads one message of at most `limit` bytes; `None` if the stream ended cleanly before it.
pub async fn read<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
    limit: usize,
) -> Result<Option<T>, FrameError> {
    let mut head = [0; 4];
    if stream.read(&mut head[..1]).await? == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut head[1..]).await?;
    let length = u32::from_le_bytes(head) as usize;
    if length > limit {
        return Err(FrameError::TooLong { length, limit });
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    Ok(Some(postcard::from_bytes(&bytes)?))
}
