//! The bucket of a local network and its grant, made when the network is new.
//!
//! ```text
//! D/passphrase   64 random hexadecimal digits (0600)
//! D/access       the grant of everything in the bucket `drive` (0600)
//! ```

use super::drive::BUCKET;
use crate::config;
use crate::error::{Context, Outcome};
use crate::remote;
use crate::session::caller;
use std::path::{Path, PathBuf};
use strewn_engine::bucket::Error;
use strewn_engine::grant::{AccessGrant, OpenedKey};
use strewn_engine::keys::{Derivation, RootSecret};
use strewn_peers::local::LocalNetwork;
use strewn_peers::uplink::{NewBucket, UplinkError};
use zeroize::Zeroizing;

/// The grant file of the bucket `drive`; both are made if they do not exist.
pub(super) async fn ensure(network: &LocalNetwork, data: &Path) -> Outcome<PathBuf> {
    let path = data.join("access");
    if path.exists() {
        return Ok(path);
    }
    let passphrase = passphrase(&data.join("passphrase"))?;
    let mut salt = [0; 32];
    getrandom::fill(&mut salt).context("drawing a salt")?;
    let derivation = Derivation::new(salt);
    let derived = tokio::task::spawn_blocking(move || {
        RootSecret::derive(&passphrase, &derivation).map(|secret| (secret, derivation))
    });
    let (secret, derivation) =
        derived.await.context("deriving the root secret")?.context("deriving the root secret")?;
    let mut grant: AccessGrant = network.access();
    grant.keys = vec![OpenedKey::Root { secret, derivation }];
    make_bucket(&grant, network.segment_size()).await?;
    // Last: from now on the network counts as set up.
    let text = grant.serialize().context("writing the grant")?;
    config::write_private(&path, format!("{}\n", text.as_str()).as_bytes())?;
    Ok(path)
}

/// The passphrase kept with the network, so that a set-up that was interrupted goes on with the same one.
fn passphrase(path: &Path) -> Outcome<Zeroizing<Vec<u8>>> {
    let read = || std::fs::read(path).map(Zeroizing::new).context(format_args!("reading {}", path.display()));
    if !path.exists() {
        let mut random = Zeroizing::new([0; 32]);
        getrandom::fill(random.as_mut()).context("drawing a passphrase")?;
        config::write_private(path, data_encoding::HEXLOWER.encode(random.as_ref()).as_bytes())?;
    }
    read()
}

async fn make_bucket(grant: &AccessGrant, segment_size: u64) -> Outcome {
    let uplink = remote::connect(grant).await?;
    let user = caller();
    let options = NewBucket { segment_size, mode: 0o755, uid: user.uid, gid: user.gid, ..NewBucket::default() };
    match uplink.create_bucket(BUCKET, &options).await {
        Ok(_) => Ok(()),
        // A set-up that was interrupted after this step has another salt in its bucket: that bucket is empty.
        Err(UplinkError::Bucket(Error::Invalid(_))) => {
            let buckets = uplink.buckets().await.context("listing buckets")?;
            for bucket in buckets.iter().filter(|bucket| bucket.name == BUCKET) {
                uplink.remove_bucket(bucket.settings.bucket, false).await.context("removing the unfinished bucket")?;
            }
            uplink.create_bucket(BUCKET, &options).await.map(drop).context("making the bucket")
        }
        Err(error) => Err(error).context("making the bucket"),
    }
}
