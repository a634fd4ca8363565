//! `strewn mb`.

use super::AccessArg;
use crate::error::Outcome;
use crate::location::Remote;
use crate::output::parse_size;
use crate::session::caller;
use crate::{config, remote};
use strewn_engine::bucket::Cipher;
use strewn_engine::redundancy::Redundancy;
use strewn_peers::uplink::NewBucket;

/// Make a bucket
#[derive(Debug, clap::Args)]
pub(crate) struct Mb {
    /// Its name: 3 to 63 lower-case letters, digits, '-' and '.'
    #[arg(value_name = "strewn://BUCKET")]
    bucket: Remote,
    #[command(flatten)]
    access: AccessArg,
    /// Pieces needed/repaired at/waited for/begun, or standard (29/35/80/110), small (4/6/8/10), archive (16/20/24/28)
    /// [default: the satellite's]
    #[arg(long, value_name = "K/REPAIR/SUCCESS/TOTAL")]
    redundancy: Option<Redundancy>,
    /// Largest segment
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = parse_size)]
    segment_size: u64,
    /// Cipher of content
    #[arg(long, value_enum, default_value_t)]
    cipher: CipherArg,
}

/// A cipher's name on the command line.
#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
enum CipherArg {
    /// AES-256-GCM: fastest where the processor has AES instructions
    #[default]
    Aes256Gcm,
    /// ChaCha20-Poly1305: fastest elsewhere
    Chacha20Poly1305,
}

impl Mb {
    pub(crate) async fn run(self) -> Outcome {
        if !self.bucket.path.is_empty() {
            return Err(crate::error::Failure::usage(format!("{} is a path, not a bucket", self.bucket)));
        }
        let grant = config::load_access(self.access.access.as_deref())?;
        let uplink = remote::connect(&grant).await?;
        let cipher = match self.cipher {
            CipherArg::Aes256Gcm => Cipher::Aes256Gcm,
            CipherArg::Chacha20Poly1305 => Cipher::ChaCha20Poly1305,
        };
        let (segment_size, redundancy, user) = (self.segment_size, self.redundancy, caller());
        let options = NewBucket { segment_size, cipher, redundancy, mode: 0o755, uid: user.uid, gid: user.gid };
        let made = uplink.create_bucket(&self.bucket.bucket, &options).await;
        made.map(drop).map_err(|error| remote::explain(&self.bucket.bucket, &error))
    }
}
