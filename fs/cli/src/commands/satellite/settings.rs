//! `satellite.json` in a satellite's directory: what `init` was told.

use crate::config;
use crate::error::{Context, Failure, Outcome};
use serde::{Deserialize, Serialize};
use std::path::Path;
use strewn_engine::redundancy::Redundancy;

const FILE: &str = "satellite.json";
const VERSION: u32 = 1;

/// Settings of a satellite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) listen: Vec<String>,
    pub(super) redundancy: Redundancy,
    pub(super) one_network: bool,
}

/// The file's content.
#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    listen: Vec<String>,
    redundancy: String,
    one_network: bool,
}

impl Settings {
    pub(super) fn of_satellite(&self) -> strewn_satellite::Settings {
        let of_place = if self.one_network {
            strewn_satellite::Settings::local()
        } else {
            strewn_satellite::Settings::production()
        };
        strewn_satellite::Settings { redundancy: self.redundancy, ..of_place }
    }
}

/// Makes the directory and the file; refuses where there is one already.
pub(super) fn create(data: &Path, settings: &Settings) -> Outcome {
    config::private_dir(data)?;
    let path = data.join(FILE);
    if path.exists() {
        return Err(Failure::new(format!("there is a satellite in {} already", data.display()))
            .hint("'strewn satellite run' starts it"));
    }
    let redundancy = settings.redundancy.to_string();
    let stored =
        Stored { version: VERSION, listen: settings.listen.clone(), redundancy, one_network: settings.one_network };
    config::write_private(&path, &serde_json::to_vec_pretty(&stored).context("writing the settings")?)
}

/// Reads the file.
pub(super) fn load(data: &Path) -> Outcome<Settings> {
    let path = data.join(FILE);
    let what = format!("reading {}", path.display());
    let text = std::fs::read(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Failure::new(format!("there is no satellite in {}", data.display()))
            .hint("'strewn satellite init' makes one; --data names its directory"),
        _ => Failure::new(format!("{what}: {error}")),
    })?;
    let stored: Stored = serde_json::from_slice(&text).context(&what)?;
    if stored.version != VERSION {
        return Err(Failure::new(format!(
            "{} is of version {}; this program knows version {VERSION}",
            path.display(),
            stored.version
        )));
    }
    let redundancy = stored.redundancy.parse().context(&what)?;
    Ok(Settings { listen: stored.listen, redundancy, one_network: stored.one_network })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_kept_and_other_versions_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(load(dir.path()).is_err());
        let settings =
            Settings { listen: vec!["/ip4/1.2.3.4/tcp/5".into()], redundancy: Redundancy::SMALL, one_network: true };
        create(dir.path(), &settings).unwrap();
        assert_eq!(load(dir.path()).unwrap(), settings);
        assert!(create(dir.path(), &settings).is_err(), "an existing satellite is not overwritten");
        let path = dir.path().join(FILE);
        let newer = std::fs::read_to_string(&path).unwrap().replace("\"version\": 1", "\"version\": 2");
        std::fs::write(&path, newer).unwrap();
        assert!(load(dir.path()).unwrap_err().message().contains("version 2"));
    }
}
