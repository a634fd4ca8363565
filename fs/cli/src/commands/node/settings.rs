//! `node.json` in a node's directory: what `init` was told.

use crate::config;
use crate::error::{Context, Failure, Outcome};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::Path;

const FILE: &str = "node.json";
const VERSION: u32 = 1;

/// Settings of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Settings {
    pub(super) satellite: String,
    pub(super) ticket: String,
    pub(super) capacity: u64,
    pub(super) listen: Vec<String>,
    pub(super) channel: Option<SocketAddr>,
    pub(super) announce: Vec<String>,
}

/// The file's content.
#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    #[serde(flatten)]
    settings: Settings,
}

/// The version alone, read before the rest is understood.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

impl Settings {
    /// Makes the directory and the file; refuses where there is one already.
    pub(super) fn create(&self, data: &Path) -> Outcome {
        config::private_dir(data)?;
        let path = data.join(FILE);
        if path.exists() {
            return Err(Failure::new(format!("there is a storage node in {} already", data.display()))
                .hint("'strewn node run' starts it"));
        }
        self.store(data)
    }

    /// Writes the file, in place of what is there.
    pub(super) fn store(&self, data: &Path) -> Outcome {
        let stored = Stored { version: VERSION, settings: self.clone() };
        let text = serde_json::to_vec_pretty(&stored).context("writing the settings")?;
        config::write_private(&data.join(FILE), &text)
    }

    /// Reads the file.
    pub(super) fn load(data: &Path) -> Outcome<Self> {
        let path = data.join(FILE);
        let what = format!("reading {}", path.display());
        let text = std::fs::read(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Failure::new(format!("there is no storage node in {}", data.display()))
                .hint("'strewn node init' makes one; --data names its directory"),
            _ => Failure::new(format!("{what}: {error}")),
        })?;
        let Version { version } = serde_json::from_slice(&text).context(&what)?;
        if version != VERSION {
            return Err(Failure::new(format!(
                "{} is of version {version}; this program knows version {VERSION}",
                path.display()
            )));
        }
        let stored: Stored = serde_json::from_slice(&text).context(&what)?;
        Ok(stored.settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings {
            satellite: "/ip4/1.2.3.4/tcp/5".into(),
            ticket: "t".into(),
            capacity: 1 << 40,
            listen: vec!["/ip4/0.0.0.0/tcp/1".into()],
            channel: Some("0.0.0.0:2".parse().unwrap()),
            announce: Vec::new(),
        };
        settings.create(dir.path()).unwrap();
        assert_eq!(Settings::load(dir.path()).unwrap(), settings);
        assert!(settings.create(dir.path()).is_err(), "an existing node is not overwritten");
    }
}
