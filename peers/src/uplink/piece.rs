//! One piece moved over one stream: the uplink's side of [`strewn_wire::node`].

use super::streams::NodeStream;
use bytes::Bytes;
use ed25519_dalek::SigningKey;
use std::io;
use std::time::Duration;
use strewn_engine::order::{Order, OrderLimit, Receipt, Signed};
use strewn_wire::frame::{self, FrameError};
use strewn_wire::node::{self, MAX_DATA, MAX_MESSAGE, NodeError, Reply, Request};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// A put pays this far ahead: the most bytes a node could keep without storing them.
const ORDER_STEP: u64 = 1 << 20;
/// How long a node may take to confirm that a put was given up, before its stream is dropped instead.
const CANCEL_GRACE: Duration = Duration::from_secs(2);

/// Why a piece was not moved.
#[derive(Debug, thiserror::Error)]
pub(super) enum PieceError {
    /// The stream failed or ended.
    #[error("stream: {0}")]
    Lost(#[from] io::Error),
    /// The node refused.
    #[error("{0}")]
    Refused(NodeError),
    /// The node breaks the protocol.
    #[error("protocol broken: {0}")]
    Protocol(String),
    /// Nobody wants the piece any more.
    #[error("given up")]
    Cancelled,
}

impl From<FrameError> for PieceError {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Io(error) => Self::Lost(error),
            error => Self::Protocol(error.to_string()),
        }
    }
}

/// Where [`put`] takes a piece from.
pub(super) trait PieceSource: Send {
    /// The next bytes of the piece, in any portions; `None` after the last; [`PieceError::Cancelled`] to give up.
    fn next(&mut self) -> impl Future<Output = Result<Option<Bytes>, PieceError>> + Send;

    /// The stream took some more bytes.
    fn sent(&mut self);
}

/// Stores a piece of `length` bytes; returns the node's receipt. After `Ok` and [`PieceError::Cancelled`] the stream may be kept.
pub(super) async fn put(
    stream: &mut NodeStream,
    limit: &Signed<OrderLimit>,
    key: &SigningKey,
    length: u64,
    source: &mut impl PieceSource,
) -> Result<Signed<Receipt>, PieceError> {
    let (mut read, mut write) = tokio::io::split(&mut stream.stream);
    let reply = async { frame::read::<Reply>(&mut read, MAX_MESSAGE).await };
    tokio::pin!(reply);
    let sent = tokio::select! {
        biased;
        // An early answer can only be a refusal; what is half written makes the stream useless.
        early = &mut reply => return Err(refusal(early?)),
        sent = send(&mut write, limit, key, length, source) => sent,
    };
    match sent {
        Ok(()) => match reply.await? {
            Some(Reply::Stored(receipt)) => Ok(receipt),
            other => Err(refusal(other)),
        },
        Err(PieceError::Cancelled) => {
            let confirmed = async {
                frame::write(&mut write, &Request::Cancel, MAX_MESSAGE).await?;
                write.flush().await?;
                reply.await
            };
            match timeout(CANCEL_GRACE, confirmed).await {
                Ok(Ok(Some(Reply::End))) => Err(PieceError::Cancelled),
                Ok(Ok(other)) => Err(refusal(other)),
                Ok(Err(error)) => Err(error.into()),
                Err(_) => Err(PieceError::Lost(io::ErrorKind::TimedOut.into())),
            }
        }
        Err(error) => Err(error),
    }
}

async fn send(
    write: &mut (impl AsyncWrite + Unpin),
    limit: &Signed<OrderLimit>,
    key: &SigningKey,
    length: u64,
    source: &mut impl PieceSource,
) -> Result<(), PieceError> {
    let hash = limit.hash();
    let (mut sent, mut paid) = (0, 0);
    frame::write(write, &Request::Put { limit: limit.clone(), length }, MAX_MESSAGE).await?;
    while let Some(bytes) = source.next().await? {
        for data in bytes.chunks(MAX_DATA) {
            sent += data.len() as u64;
            let order = (sent > paid).then(|| {
                paid = (paid + ORDER_STEP).max(sent).min(length);
                Signed::new(&Order { limit: hash, bytes: paid }, key)
            });
            node::write_data(write, order, data).await?;
            source.sent();
        }
        // The next portion may be long in coming.
        write.flush().await?;
    }
    frame::write(write, &Request::End, MAX_MESSAGE).await?;
    Ok(write.flush().await?)
}

/// A share as a node sent it, not yet proven.
pub(super) struct SentShare {
    pub(super) number: u32,
    pub(super) bytes: Bytes,
    pub(super) proof: Vec<[u8; 32]>,
}

/// Where [`get`] brings shares.
pub(super) trait ShareSink: Send {
    /// A share has come; an error ends the request.
    fn arrived(&mut self, share: SentShare) -> impl Future<Output = Result<(), PieceError>> + Send;
}

/// Which shares of a piece to read, and what pays for them.
pub(super) struct GetRequest {
    pub(super) limit: Signed<OrderLimit>,
    pub(super) order: Signed<Order>,
    pub(super) first: u32,
    pub(super) count: u32,
    /// Length of the piece, as the segment's measures have it.
    pub(super) piece_length: u64,
}

/// Reads shares; hands each on as it comes. After `Ok` and [`PieceError::Refused`] the stream may be kept.
pub(super) async fn get(
    stream: &mut NodeStream,
    request: &GetRequest,
    sink: &mut impl ShareSink,
) -> Result<(), PieceError> {
    let &GetRequest { first, count, piece_length, .. } = request;
    let (limit, order) = (request.limit.clone(), request.order.clone());
    let stream = &mut stream.stream;
    frame::write(stream, &Request::Get { limit, order, first, count }, MAX_MESSAGE).await?;
    stream.flush().await?;
    let end = first.checked_add(count).ok_or_else(|| PieceError::Protocol("shares beyond the last".into()))?;
    let mut next = first;
    loop {
        match frame::read(stream, MAX_MESSAGE).await? {
            Some(Reply::Shares { first, proofs, length, data }) => {
                let within = first == next && !proofs.is_empty() && proofs.len() <= (end - next) as usize;
                if !within || length != piece_length {
                    return Err(PieceError::Protocol("shares nobody asked for".into()));
                }
                let mut bytes = node::read_raw_bytes(stream, data).await?;
                for proof in proofs {
                    let share = bytes.split_to(bytes.len().min(node::SHARE as usize));
                    sink.arrived(SentShare { number: next, bytes: share, proof }).await?;
                    next += 1;
                }
            }
            Some(Reply::End) if next == end => return Ok(()),
            Some(Reply::Failed(error)) => return Err(PieceError::Refused(error)),
            other => return Err(refusal(other)),
        }
    }
}

fn refusal(reply: Option<Reply>) -> PieceError {
    match reply {
        Some(Reply::Failed(error)) => PieceError::Refused(error),
        Some(_) => PieceError::Protocol("an answer that fits no question".into()),
        None => PieceError::Lost(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;
    use strewn_engine::bucket::Timestamp;
    use strewn_engine::ids::{PieceId, Serial};
    use strewn_engine::order::Action;
    use tokio::io::{AsyncReadExt, DuplexStream};

    const PIECE: u64 = 3 * (1 << 20) + 5;

    struct Pieces {
        left: Vec<Bytes>,
        /// Gives up instead of ending.
        cancel: bool,
        signs_of_life: usize,
    }

    impl Pieces {
        fn of(length: u64, cancel: bool) -> Self {
            let bytes = Bytes::from(vec![7; length as usize]);
            let at = bytes.len() / 3;
            Self { left: vec![bytes.slice(at..), bytes.slice(..at)], cancel, signs_of_life: 0 }
        }
    }

    impl PieceSource for Pieces {
        async fn next(&mut self) -> Result<Option<Bytes>, PieceError> {
            match self.left.pop() {
                None if self.cancel => Err(PieceError::Cancelled),
                next => Ok(next),
            }
        }

        fn sent(&mut self) {
            self.signs_of_life += 1;
        }
    }

    #[derive(Default)]
    struct Shares(Vec<(u32, usize)>);

    impl ShareSink for Shares {
        async fn arrived(&mut self, share: SentShare) -> Result<(), PieceError> {
            self.0.push((share.number, share.bytes.len()));
            Ok(())
        }
    }

    fn limit(identity: &Identity, action: Action) -> Signed<OrderLimit> {
        let limit = OrderLimit {
            satellite: identity.satellite_id(),
            node: identity.node_id(),
            uplink: *identity.public(),
            piece: PieceId::from_bytes([1; 32]),
            action,
            bytes: PIECE,
            serial: Serial::from_bytes([2; 16]),
            created: Timestamp::default(),
            expires: Timestamp::default(),
            piece_expires: None,
        };
        Signed::new(&limit, &identity.signing_key())
    }

    fn pair(identity: &Identity) -> (NodeStream, DuplexStream) {
        let (near, far) = tokio::io::duplex(64 * 1024);
        (NodeStream { node: identity.node_id(), stream: Box::new(near), kept: false }, far)
    }

    /// Takes a put as a node does; returns bytes received and paid for, and whether it was given up.
    async fn take_put(far: &mut DuplexStream, identity: &Identity) -> (u64, u64, bool) {
        let (mut received, mut paid) = (0, 0);
        loop {
            match frame::read(far, MAX_MESSAGE).await.unwrap().unwrap() {
                Request::Put { length, .. } => assert_eq!(length, PIECE),
                Request::Order(order) => paid = order.verify(&identity.signing_key().verifying_key()).unwrap().bytes,
                Request::Data { length } => {
                    received += node::read_raw_bytes(far, length).await.unwrap().len() as u64;
                    assert!(received <= paid, "an order comes before the bytes");
                }
                Request::End => return (received, paid, false),
                Request::Cancel => return (received, paid, true),
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_put_pays_before_it_sends_and_ends_with_a_receipt() {
        let identity = Identity::fresh();
        let (mut near, mut far) = pair(&identity);
        let limit = limit(&identity, Action::Put);
        let receipt =
            Signed::new(&Receipt { limit: limit.hash(), length: PIECE, root: [0; 32] }, &identity.signing_key());
        let answer = receipt.clone();
        let node_identity = identity.clone();
        let node = tokio::spawn(async move {
            let taken = take_put(&mut far, &node_identity).await;
            frame::write(&mut far, &Reply::Stored(answer), MAX_MESSAGE).await.unwrap();
            taken
        });
        let mut source = Pieces::of(PIECE, false);
        let key = identity.signing_key();
        assert_eq!(put(&mut near, &limit, &key, PIECE, &mut source).await.unwrap(), receipt);
        assert_eq!(node.await.unwrap(), (PIECE, PIECE, false));
        assert!(source.signs_of_life >= 12, "{}", source.signs_of_life);
    }

    #[tokio::test]
    async fn a_put_given_up_leaves_the_stream_usable() {
        let identity = Identity::fresh();
        let (mut near, mut far) = pair(&identity);
        let limit = limit(&identity, Action::Put);
        let node_identity = identity.clone();
        let node = tokio::spawn(async move {
            let taken = take_put(&mut far, &node_identity).await;
            frame::write(&mut far, &Reply::End, MAX_MESSAGE).await.unwrap();
            (taken, far)
        });
        let key = identity.signing_key();
        let result = put(&mut near, &limit, &key, PIECE, &mut Pieces::of(1000, true)).await;
        assert!(matches!(result, Err(PieceError::Cancelled)), "{result:?}");
        let (taken, mut far) = node.await.unwrap();
        assert_eq!((taken.0, taken.2), (1000, true));
        near.stream.write_all(b"next").await.unwrap();
        let mut next = [0; 4];
        far.read_exact(&mut next).await.unwrap();
        assert_eq!(&next, b"next");
    }

    #[tokio::test]
    async fn a_refusal_stops_a_put_that_is_still_sending() {
        let identity = Identity::fresh();
        let (mut near, mut far) = pair(&identity);
        // The node reads nothing more: only an early look at its answer ends this.
        frame::write(&mut far, &Reply::Failed(NodeError::Full), MAX_MESSAGE).await.unwrap();
        let limit = limit(&identity, Action::Put);
        let key = identity.signing_key();
        let result = put(&mut near, &limit, &key, PIECE, &mut Pieces::of(PIECE, false)).await;
        assert!(matches!(result, Err(PieceError::Refused(NodeError::Full))), "{result:?}");
    }

    async fn get_from(replies: Vec<(Reply, usize)>, count: u32) -> (Result<(), PieceError>, Vec<(u32, usize)>) {
        let identity = Identity::fresh();
        let (mut near, mut far) = pair(&identity);
        let limit = limit(&identity, Action::Get);
        let order = Signed::new(&Order { limit: limit.hash(), bytes: 1 }, &identity.signing_key());
        tokio::spawn(async move {
            frame::read::<Request>(&mut far, MAX_MESSAGE).await.unwrap();
            for (reply, data) in replies {
                frame::write(&mut far, &reply, MAX_MESSAGE).await.unwrap();
                far.write_all(&vec![0; data]).await.unwrap();
            }
        });
        let request = GetRequest { limit, order, first: 4, count, piece_length: PIECE };
        let mut shares = Shares::default();
        (get(&mut near, &request, &mut shares).await, shares.0)
    }

    fn shares(first: u32, count: usize, length: u64, data: u32) -> (Reply, usize) {
        (Reply::Shares { first, proofs: vec![Vec::new(); count], length, data }, data as usize)
    }

    #[tokio::test]
    async fn a_get_takes_exactly_what_it_asked_for() {
        let full = node::SHARE as u32;
        let (result, got) =
            get_from(vec![shares(4, 2, PIECE, 2 * full), shares(6, 1, PIECE, 9), (Reply::End, 0)], 3).await;
        assert!(result.is_ok(), "{result:?}");
        assert_eq!(got, [(4, full as usize), (5, full as usize), (6, 9)]);

        for (replies, reason) in [
            (vec![shares(5, 1, PIECE, 9)], "another share"),
            (vec![shares(4, 4, PIECE, 9)], "too many"),
            (vec![shares(4, 0, PIECE, 9)], "none"),
            (vec![shares(4, 1, PIECE + 1, 9)], "another piece"),
            (vec![(Reply::Shares { first: 4, proofs: vec![vec![]], length: PIECE, data: u32::MAX }, 0)], "too long"),
            (vec![shares(4, 1, PIECE, 9), (Reply::End, 0)], "early end"),
            (vec![(Reply::Deleted, 0)], "another answer"),
        ] {
            let (result, _) = get_from(replies, 3).await;
            assert!(matches!(result, Err(PieceError::Protocol(_))), "{reason}: {result:?}");
        }
        let (result, _) = get_from(vec![(Reply::Failed(NodeError::NotFound), 0)], 3).await;
        assert!(matches!(result, Err(PieceError::Refused(NodeError::NotFound))));
        let (result, _) = get_from(vec![shares(4, 1, PIECE, 9)], 3).await;
        assert!(matches!(result, Err(PieceError::Lost(_))), "{result:?}");
    }
}
