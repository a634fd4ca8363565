//! Standard output for results, standard error for everything else; progress bars on a terminal.

use crate::control::Pending;
use crate::error::{Context, Failure, Outcome};
use indicatif::{BinaryBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Prints one line to standard output. A closed pipe ends the command, as SIGPIPE would, not with a panic.
pub(crate) fn line(text: impl std::fmt::Display) -> Outcome {
    written(writeln!(std::io::stdout().lock(), "{text}"))
}

/// Writes bytes to standard output.
pub(crate) fn write(bytes: &[u8]) -> Outcome {
    written(std::io::stdout().write_all(bytes))
}

/// Writes out what standard output still holds.
pub(crate) fn flush() -> Outcome {
    written(std::io::stdout().flush())
}

/// Does what waits for whoever is at the other end of a pipe, for ever perhaps: a signal can end the command meanwhile.
pub(crate) async fn waiting<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

fn written(result: std::io::Result<()>) -> Outcome {
    match result {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            Err(Failure::signalled(rustix::process::Signal::PIPE.as_raw() as u8))
        }
        result => result.context("writing to standard output"),
    }
}

/// Says something on standard error, if that is possible: the terminal may be gone, the disk of a log full, and neither is a
/// reason to stop serving a drive.
pub(crate) fn say(text: impl std::fmt::Display) {
    drop(writeln!(std::io::stderr().lock(), "{text}"));
}

/// Prints a value as one line of JSON.
pub(crate) fn json(value: &impl serde::Serialize) -> Outcome {
    line(serde_json::to_string(value).context("encoding JSON")?)
}

/// Bytes for people: `1.50 GiB`.
pub(crate) fn bytes(count: u64) -> String {
    BinaryBytes(count).to_string()
}

/// Parses a size: a number of bytes, or with the suffix K, M, G or T (powers of 1024; `KiB`, `MB` and the like too).
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        _ => return Err(format!("{text:?} is no size: write bytes, or a number with K, M, G or T")),
    };
    let number: f64 = number.parse().map_err(|_| format!("{text:?} is no size"))?;
    let size = number * factor as f64;
    if size >= u64::MAX as f64 { Err(format!("{text:?} is too large")) } else { Ok(size as u64) }
}

/// Parses a duration: a number of seconds, or with the suffix ms, s, m or h.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim() {
        "" | "s" | "sec" => 1.0,
        "ms" => 1e-3,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("{text:?} is no duration: write seconds, or a number with ms, s, m or h")),
    };
    let number: f64 = number.parse().map_err(|_| format!("{text:?} is no duration"))?;
    match Duration::try_from_secs_f64(number * factor) {
        Ok(duration) if duration <= LONGEST => Ok(duration),
        _ => Err(format!("{text:?} is too long: at most 8760h")),
    }
}

/// Longest duration that may be asked for: a year.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// How far an upload is: a bar on a terminal, else a line every few seconds.
pub(crate) struct UploadProgress {
    bar: ProgressBar,
    most: u64,
    terminal: bool,
    /// When the next line is due.
    due: Instant,
}

/// When progress is said first if there is no terminal: what takes less is not worth a line in somebody's log.
const SAY_AFTER: Duration = Duration::from_secs(1);
/// How often it is said after that.
const SAY_EVERY: Duration = Duration::from_secs(5);

impl UploadProgress {
    /// A bar that appears with the first report.
    pub(crate) fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let style =
            ProgressStyle::with_template("{spinner} uploading {bar:30} {binary_bytes}/{binary_total_bytes} {msg}");
        let bar = ProgressBar::with_draw_target(Some(0), target);
        bar.set_style(style.expect("the template is constant and valid"));
        Self { bar, most: 0, terminal, due: Instant::now() + SAY_AFTER }
    }

    /// Shows a report.
    pub(crate) fn show(&mut self, pending: Pending) {
        self.most = self.most.max(pending.bytes);
        let message = progress_line(pending);
        if self.terminal {
            self.bar.set_length(self.most);
            self.bar.set_position(self.most - unsent(pending));
            self.bar.set_message(message);
        } else if pending.is_nothing() {
            // Nothing to wait for is nothing to say.
        } else if self.due <= Instant::now() {
            say(format_args!("uploading: {message}"));
            self.due = Instant::now() + SAY_EVERY;
        }
    }

    /// Takes the bar away.
    pub(crate) fn finish(self) {
        self.bar.finish_and_clear();
    }
}

/// Bytes that the uplink has not taken yet.
fn unsent(pending: Pending) -> u64 {
    pending.bytes.saturating_sub(pending.sending)
}

/// `12 files, 3.50 MiB pending, 1.00 MiB/s, 4 s left`.
fn progress_line(pending: Pending) -> String {
    let left = match (pending.bytes, pending.rate) {
        (0, _) => String::new(),
        (_, 0) => ", waiting for the network".to_owned(),
        (_, rate) => format!(", {}/s, {} s left", bytes(rate), unsent(pending).div_ceil(rate)),
    };
    format!("{pending} pending{left}")
}

/// A bar for a transfer of a known number of bytes; hidden without a terminal.
pub(crate) fn transfer_bar(total: u64, what: &str) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{msg} {bar:30} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}");
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    bar.set_style(style.expect("the template is constant and valid"));
    bar.set_message(what.to_owned());
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_says_files_bytes_rate_and_time_left() {
        let pending = Pending { files: 12, bytes: 5 << 20, changes: 30, sending: 1 << 20, rate: 1 << 20 };
        assert_eq!(progress_line(pending), "12 files, 5.00 MiB pending, 1.00 MiB/s, 4 s left");
        let away = Pending { rate: 0, ..pending };
        assert_eq!(progress_line(away), "12 files, 5.00 MiB pending, waiting for the network");
        let names = Pending { changes: 2, ..Pending::default() };
        assert_eq!(progress_line(names), "2 changes pending");
    }

    #[test]
    fn durations_parse_with_units_and_refuse_nonsense() {
        assert_eq!(parse_duration("30"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("1.5 h"), Ok(Duration::from_secs(5400)));
        for bad in ["", "x", "1d", "-1", "1e9", "9999h"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_parse_with_units_and_refuse_nonsense() {
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(parse_size("64M"), Ok(64 << 20));
        assert_eq!(parse_size("1.5 GiB"), Ok(3 << 29));
        for bad in ["", "x", "1Q", "-1", "1e9999T", "99999999999T"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }
}
