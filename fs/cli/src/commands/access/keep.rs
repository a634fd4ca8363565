//! `strewn access import|list|use|remove`: named grants in the configuration directory.

use crate::config;
use crate::error::{Context, Failure, Outcome};
use crate::output;
use std::path::Path;
use strewn_engine::grant::AccessGrant;

/// Save a grant under a name
#[derive(Debug, clap::Args)]
pub(crate) struct Import {
    /// Name to save it under
    name: String,
    /// File that holds the grant; `-` is standard input
    #[arg(default_value = "-")]
    file: String,
    /// Replace a saved grant of that name
    #[arg(long, short)]
    force: bool,
}

/// Longest grant in bytes.
const MAX_GRANT: u64 = 1 << 20;

impl Import {
    pub(crate) fn run(self) -> Outcome {
        let text = if self.file == "-" {
            use std::io::Read;
            let mut text = String::new();
            std::io::stdin().lock().take(MAX_GRANT).read_to_string(&mut text).context("reading the grant")?;
            text
        } else {
            std::fs::read_to_string(&self.file).context(format_args!("reading {}", self.file))?
        };
        let grant = AccessGrant::parse(text.trim()).context("reading the grant")?;
        save(&self.name, &grant, self.force)
    }
}

/// List the saved grants
#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// One line of JSON per grant
    #[arg(long)]
    json: bool,
}

impl List {
    pub(crate) fn run(self) -> Outcome {
        let default = config::default_access()?;
        for name in config::access_names()? {
            let is_default = default.as_deref() == Some(&name);
            let satellite = config::load_access(Some(&name)).map(|grant| grant.satellite);
            if self.json {
                let satellite = satellite.ok();
                output::json(&serde_json::json!({ "name": name, "default": is_default, "satellite": satellite }))?;
            } else {
                let mark = if is_default { "*" } else { " " };
                let satellite = satellite.unwrap_or_else(|failure| format!("({})", failure.message()));
                output::line(format_args!("{mark} {name}  {satellite}"))?;
            }
        }
        Ok(())
    }
}

/// Choose the grant that is used when none is given
#[derive(Debug, clap::Args)]
pub(crate) struct Use {
    /// Name of a saved grant
    name: String,
}

impl Use {
    pub(crate) fn run(self) -> Outcome {
        existing(&self.name)?;
        config::write_private(&config::config_dir()?.join("default-access"), format!("{}\n", self.name).as_bytes())
    }
}

/// Forget a saved grant
#[derive(Debug, clap::Args)]
pub(crate) struct Remove {
    /// Its name
    name: String,
}

impl Remove {
    pub(crate) fn run(self) -> Outcome {
        let path = existing(&self.name)?;
        std::fs::remove_file(&path).context(format_args!("removing {}", path.display()))
    }
}

/// Saves a grant; the first one becomes the default.
pub(super) fn save(name: &str, grant: &AccessGrant, force: bool) -> Outcome {
    let path = config::access_path(name)?;
    if path.exists() && !force {
        return Err(Failure::new(format!("there is a grant {name:?} already")).hint("--force replaces it"));
    }
    config::private_dir(path.parent().unwrap_or(Path::new(".")))?;
    let text = grant.serialize().context("writing the grant")?;
    config::write_private(&path, format!("{}\n", text.as_str()).as_bytes())?;
    if config::default_access()?.is_none() {
        config::write_private(&config::config_dir()?.join("default-access"), format!("{name}\n").as_bytes())?;
    }
    Ok(())
}

fn existing(name: &str) -> Outcome<std::path::PathBuf> {
    let path = config::access_path(name)?;
    if path.is_file() {
        return Ok(path);
    }
    Err(Failure::new(format!("there is no saved grant {name:?}")).hint("'strewn access list' shows them"))
}
