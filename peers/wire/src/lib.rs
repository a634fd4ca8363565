//! What the peers of a Strewn network say to each other, and how it is framed; independent of any transport.
//!
//! A stream's protocol and its version are agreed on by the transport when it opens (libp2p's protocol name, or ALPN). Then
//! it carries frames: a little-endian u32 length and that many bytes of postcard. Lengths are checked against the stream's limit
//! before anything is allocated.

pub mod frame;
pub mod node;
pub mod satellite;
