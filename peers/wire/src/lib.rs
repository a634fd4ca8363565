//! What the peers of a Strewn network say to each other, and how it is framed; independent of any transport.
//!
//! Every stream opens with a 4-byte header naming its protocol and version, then carries frames: a little-endian u32 length and
//! that many bytes of postcard (or raw bytes for piece data). Lengths are checked against the stream's limit
//! before anything is allocated.

pub mod frame;
pub mod node;
pub mod satellite;
