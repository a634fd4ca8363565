//! `strewn access create`.

use super::Destination;
use crate::error::{Context, Failure, Outcome};
use crate::passphrase::PassphraseArgs;
use crate::remote;
use std::path::PathBuf;
use strewn_engine::grant::{AccessGrant, ApiKey, OpenedKey};
use strewn_engine::keys::{Derivation, RootSecret};
use strewn_peers::uplink::Uplink;

/// Make a grant from a satellite's address, an API key and a passphrase
///
/// The passphrase never leaves this machine. The salt that belongs to it is taken from the buckets that the key may see, so that
/// the same passphrase opens them again; without any bucket a new one is drawn.
#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    /// The satellite's multiaddress with its peer id, as 'strewn satellite run' prints it
    #[arg(long, value_name = "MULTIADDR")]
    satellite: String,
    /// File that holds the API key
    #[arg(long, value_name = "FILE")]
    api_key_file: PathBuf,
    #[command(flatten)]
    passphrase: PassphraseArgs,
    /// A bucket that the passphrase must open
    #[arg(long, value_name = "NAME")]
    bucket: Option<String>,
    #[command(flatten)]
    destination: Destination,
}

impl Create {
    pub(crate) async fn run(self) -> Outcome {
        let api_key = read_api_key(&self.api_key_file)?;
        let passphrase = self.passphrase.read()?;
        let without_keys =
            AccessGrant { satellite: self.satellite.clone(), api_key: api_key.clone(), keys: Vec::new() };
        let uplink = remote::connect(&without_keys).await?;
        let derivation = self.derivation(&uplink).await?;
        let derived = tokio::task::spawn_blocking(move || {
            RootSecret::derive(&passphrase, &derivation).map(|secret| (secret, derivation))
        });
        let (secret, derivation) =
            derived.await.context("deriving the root secret")?.context("deriving the root secret")?;
        let keys = vec![OpenedKey::Root { secret, derivation }];
        let grant = AccessGrant { satellite: self.satellite, api_key, keys };
        if let Some(bucket) = &self.bucket {
            // "Wrong passphrase" is said here, not when somebody mounts.
            remote::open_bucket(&remote::connect(&grant).await?, bucket).await?;
        }
        self.destination.put(&grant)
    }

    /// The salt and parameters of the named bucket, else of the first one that there is, else new ones.
    async fn derivation(&self, uplink: &Uplink) -> Outcome<Derivation> {
        let buckets = uplink.buckets().await.context("asking the satellite for its buckets")?;
        let wanted = |name: &str| self.bucket.as_deref().is_none_or(|wanted| wanted == name);
        match buckets.iter().find(|bucket| wanted(&bucket.name)) {
            Some(bucket) => Derivation::parse(&bucket.derivation).context(format_args!("bucket {:?}", bucket.name)),
            None if self.bucket.is_some() => {
                Err(Failure::new(format!("bucket {:?} not found", self.bucket.as_deref().unwrap_or_default())))
            }
            None => {
                let mut salt = [0; 32];
                getrandom::fill(&mut salt).context("drawing a salt")?;
                Ok(Derivation::new(salt))
            }
        }
    }
}

fn read_api_key(path: &std::path::Path) -> Outcome<ApiKey> {
    let text = std::fs::read_to_string(path).context(format_args!("reading {}", path.display()))?;
    let bytes = data_encoding::BASE64URL_NOPAD.decode(text.trim().as_bytes()).context("reading the API key")?;
    ApiKey::parse(&bytes).context("reading the API key")
}
