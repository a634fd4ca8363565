//! The peers of a Strewn network on real transports: identities, libp2p and piece channels, the uplink that implements
//! [`BucketService`](strewn_engine::bucket::BucketService) over them, the glue that serves a satellite or a storage node,
//! and [`local`]: a whole network in one process.
//!
//! What a satellite or node *does* is in `strewn-satellite` and `strewn-node`, which know no transport. Here are the
//! connections, the retries, the deadlines and the order in which things start and stop.

pub mod identity;
pub mod local;
pub mod serve;
pub mod transport;
pub mod uplink;
