//! Places that were mounted before, so that they can be mounted while the satellite is away.
//!
//! A file per grant and path in `places` below the default cache directory, named by a hash of both; the content is a
//! [`Place`]. It is a cache: removing it costs nothing but that.

use crate::config;
use crate::error::Outcome;
use crate::location::Remote;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use strewn_engine::grant::AccessGrant;
use strewn_peers::uplink::{MAX_PLACE, Place};

/// Where a place is remembered.
pub(crate) struct Memory {
    file: PathBuf,
    known: Option<Place>,
}

impl Memory {
    /// What is remembered of a path under a grant.
    pub(crate) fn of(grant: &AccessGrant, place: &Remote) -> Outcome<Self> {
        let mut hasher = blake3::Hasher::new_derive_key("strewn 2026 remembered place");
        // Equal grants may be written in several ways, which only means that one is remembered several times.
        let text = grant.serialize().unwrap_or_default();
        for part in [text.as_str(), &place.bucket, &place.path] {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
        }
        let file = config::cache_dir()?.join("places").join(hasher.finalize().to_hex().as_str());
        let known = read(&file);
        Ok(Self { file, known })
    }

    /// What the satellite said the last time.
    pub(crate) fn known(&self) -> Option<&Place> {
        self.known.as_ref()
    }

    /// Remembers what it says now. That it cannot be kept is no reason not to mount.
    pub(crate) fn keep(&self, place: &Place) {
        if self.known.as_ref() == Some(place) {
            return;
        }
        let kept = self.file.parent().map_or(Ok(()), config::private_dir);
        if let Err(failure) = kept.and_then(|()| config::write_private(&self.file, &place.encode())) {
            tracing::warn!("cannot be mounted without the satellite later: {}", failure.message());
        }
    }
}

/// What cannot be read is not remembered.
fn read(file: &std::path::Path) -> Option<Place> {
    let mut bytes = Vec::new();
    File::open(file).ok()?.take(MAX_PLACE as u64 + 1).read_to_end(&mut bytes).ok()?;
    Place::decode(&bytes).ok()
}
