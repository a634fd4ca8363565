//! Piece channels: one TCP connection, TLS 1.3 under the peers' libp2p identities, no multiplexer.
//!
//! Both ends show a certificate as libp2p's TLS specification has it (self-signed, carrying the libp2p public key and its
//! signature), so a peer is the same peer on either kind of connection. AES-256-GCM comes first, which libp2p's own
//! security upgrade offers no way to ask for. The application protocol [`ALPN`] carries the version; then the connection
//! is the stream.

use super::address::channel_address;
use super::{BoxStream, INBOUND_QUEUE, Inbound, Incoming, PeerAddress, Protocol, TransportError};
use crate::identity::Identity;
use libp2p::{Multiaddr, PeerId};
use libp2p_tls::certificate;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::BufReader;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::NoServerSessionStorage;
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::{
    self, CertificateError, ClientConfig, CommonState, DigitallySignedStruct, DistinguishedName, ServerConfig,
    SignatureScheme, version,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Application protocol in the TLS handshake: what the channel carries, and the version.
const ALPN: &[u8] = b"strewn-piece/1";
/// Connecting and the handshake, together.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes that a listener runs at once.
const MAX_HANDSHAKES: usize = 64;
/// TLS reads records in small steps: this much is taken from the socket at once.
const READ_BUFFER: usize = 64 * 1024;
/// After a failed accept (no file descriptors left) the listener waits this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Opens piece channels.
#[derive(Clone)]
pub struct ChannelDialer {
    connector: TlsConnector,
}

impl ChannelDialer {
    /// A dialer under this identity.
    pub fn new(identity: &Identity) -> Result<Self, TransportError> {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&version::TLS13])
            .map_err(setup)?
            .dangerous() // the one certificate is checked as libp2p specifies, by `Verifier`
            .with_custom_certificate_verifier(Arc::new(Verifier))
            .with_client_cert_resolver(Arc::new(certificate(identity)?));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.enable_sni = false;
        config.resumption = Resumption::disabled();
        Ok(Self { connector: TlsConnector::from(Arc::new(config)) })
    }

    /// Opens a channel to the first of the peer's channel addresses that answers with the right peer id.
    pub async fn open(&self, to: &PeerAddress) -> Result<BoxStream, TransportError> {
        let mut reason = "no piece channel announced".to_owned();
        for socket in to.channels().await {
            match timeout(HANDSHAKE, self.connect(socket, to.peer)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(failed)) => reason = format!("{socket}: {failed}"),
                Err(_) => reason = format!("{socket}: no answer"),
            }
        }
        Err(TransportError::Unreachable { peer: to.peer, reason })
    }

    async fn connect(&self, socket: SocketAddr, peer: PeerId) -> Result<BoxStream, String> {
        let stream = connected(TcpStream::connect(socket).await).map_err(|error| error.to_string())?;
        let nobody = ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into());
        let stream = self.connector.connect(nobody, stream).await.map_err(|error| error.to_string())?;
        match peer_of(stream.get_ref().1) {
            Some(found) if found == peer => Ok(Box::new(stream)),
            Some(found) => Err(format!("another peer answered: {found}")),
            None => Err("no peer id".into()),
        }
    }
}

/// Accepts piece channels; stops when dropped. Channels that were accepted live on: how many is the acceptor's business.
pub struct ChannelListener {
    address: Multiaddr,
    task: AbortHandle,
}

impl ChannelListener {
    /// Listens; port 0 takes a free one.
    pub async fn start(identity: &Identity, socket: SocketAddr) -> Result<(Self, Incoming), TransportError> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&version::TLS13])
            .map_err(setup)?
            .with_client_cert_verifier(Arc::new(Verifier))
            .with_cert_resolver(Arc::new(certificate(identity)?));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;

        let failed = |error: std::io::Error| TransportError::Listen {
            address: channel_address(socket),
            reason: error.to_string(),
        };
        let listener = TcpListener::bind(socket).await.map_err(failed)?;
        let address = channel_address(listener.local_addr().map_err(failed)?);
        let (inbound, incoming) = mpsc::channel(INBOUND_QUEUE);
        let task = tokio::spawn(accept(listener, TlsAcceptor::from(Arc::new(config)), inbound)).abort_handle();
        Ok((Self { address, task }, incoming))
    }

    /// Where it listens.
    pub fn address(&self) -> &Multiaddr {
        &self.address
    }
}

impl Drop for ChannelListener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, inbound: mpsc::Sender<Inbound>) {
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    loop {
        let Ok(permit) = handshakes.clone().acquire_owned().await else { return };
        let accepted = match listener.accept().await {
            Ok((stream, socket)) => connected(Ok(stream)).map(|stream| (stream, channel_address(socket))),
            Err(error) => Err(error),
        };
        let (stream, remote) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "piece channel not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (acceptor, inbound) = (acceptor.clone(), inbound.clone());
        tokio::spawn(async move {
            let _permit = permit;
            let stream = match timeout(HANDSHAKE, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => return tracing::debug!(%error, "piece channel: handshake failed"),
                Err(_) => return tracing::debug!("piece channel: handshake timed out"),
            };
            let Some(peer) = peer_of(stream.get_ref().1) else { return };
            // The listener's owner may be gone: then the channel closes.
            let _ = inbound.send(Inbound { peer, remote, protocol: Protocol::Piece, stream: Box::new(stream) }).await;
        });
    }
}

fn connected(stream: std::io::Result<TcpStream>) -> std::io::Result<BufReader<TcpStream>> {
    let stream = stream?;
    stream.set_nodelay(true)?;
    Ok(BufReader::with_capacity(READ_BUFFER, stream))
}

fn peer_of(connection: &CommonState) -> Option<PeerId> {
    let [certificate] = connection.peer_certificates()? else { return None };
    Some(certificate::parse(certificate).ok()?.peer_id())
}

/// The certificate to show. (rustls's own checks would refuse it for libp2p's extension, which is marked critical.)
fn certificate(identity: &Identity) -> Result<SingleCertAndKey, TransportError> {
    let (certificate, key) = certificate::generate(&identity.keypair()).map_err(setup)?;
    let key = aws_lc_rs::sign::any_ecdsa_type(&key).map_err(setup)?;
    Ok(CertifiedKey::new(vec![certificate], key).into())
}

fn provider() -> Arc<CryptoProvider> {
    use aws_lc_rs::cipher_suite::{TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256};
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = vec![TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256];
    Arc::new(provider)
}

fn setup(error: impl std::fmt::Display) -> TransportError {
    TransportError::Closed(format!("piece channel: {error}"))
}

/// Accepts exactly one certificate, valid by libp2p's rules. *Who* it belongs to is checked after the handshake.
#[derive(Debug)]
struct Verifier;

impl Verifier {
    fn check(certificate: &CertificateDer<'_>, others: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        let bad = || rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
        if !others.is_empty() {
            return Err(bad());
        }
        certificate::parse(certificate).map(drop).map_err(|_| bad())
    }

    fn signed(
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let bad = |_| rustls::Error::InvalidCertificate(CertificateError::BadSignature);
        let parsed = certificate::parse(certificate)
            .map_err(|_| rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))?;
        parsed.verify_signature(signed.scheme, message, signed.signature()).map_err(bad)?;
        Ok(HandshakeSignatureValid::assertion())
    }

    fn old_tls() -> rustls::Error {
        rustls::Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOffered)
    }

    fn schemes() -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::ECDSA_NISTP384_SHA384, SignatureScheme::ED25519]
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Self::check(certificate, others).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(Self::old_tls())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::signed(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Self::schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Self::check(certificate, others).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(Self::old_tls())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::signed(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Self::schemes()
    }
}
