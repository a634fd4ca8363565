//! Where a passphrase comes from: standard input, a file or the environment; never the command line.

use crate::error::{Context, Failure, Outcome};
use std::io::{IsTerminal, Read};
use std::path::PathBuf;
use zeroize::Zeroizing;

/// Environment variable that may hold the passphrase.
pub(crate) const VARIABLE: &str = "STREWN_PASSPHRASE";

/// Longest passphrase in bytes.
const MAX: u64 = 4096;

/// Options that say where the passphrase is.
#[derive(Debug, clap::Args)]
pub(crate) struct PassphraseArgs {
    /// Read the passphrase from this file (its first line); `-` is standard input. Without it STREWN_PASSPHRASE is
    /// used, then standard input
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

impl PassphraseArgs {
    /// The passphrase: not empty, without the line's end.
    pub(crate) fn read(&self) -> Outcome<Zeroizing<Vec<u8>>> {
        let text = match &self.passphrase_file {
            Some(path) if path.as_os_str() != "-" => {
                let what = format!("reading the passphrase from {}", path.display());
                take(std::fs::File::open(path).context(&what)?).context(&what)?
            }
            Some(_) => take(std::io::stdin().lock()).context("reading the passphrase")?,
            None => match std::env::var(VARIABLE) {
                Ok(value) => Zeroizing::new(value.into_bytes()),
                Err(_) if std::io::stdin().is_terminal() => {
                    return Err(Failure::usage("a passphrase is needed")
                        .hint(format!("pass --passphrase-file FILE, set {VARIABLE}, or pipe it to standard input")));
                }
                Err(_) => take(std::io::stdin().lock()).context("reading the passphrase")?,
            },
        };
        let end = text.iter().position(|byte| *byte == b'\n' || *byte == b'\r').unwrap_or(text.len());
        if end == 0 {
            return Err(Failure::usage("the passphrase is empty"));
        }
        Ok(Zeroizing::new(text[..end].to_vec()))
    }
}

fn take(source: impl Read) -> std::io::Result<Zeroizing<Vec<u8>>> {
    let mut text = Zeroizing::new(Vec::with_capacity(MAX as usize));
    source.take(MAX).read_to_end(&mut text)?;
    Ok(text)
}
