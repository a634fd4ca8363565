//! `strewn access restrict` and `share`: a narrower grant from a grant.

use super::super::AccessArg;
use super::Destination;
use crate::config;
use crate::error::{Context, Failure, Outcome};
use crate::location::Remote;
use crate::remote;
use strewn_engine::bucket::Timestamp;
use strewn_engine::grant::{Actions, Caveat, OpenedKey};

/// Derive a narrower grant
///
/// Restricting rights and times needs no network. With --path the paths are looked up, and the new grant holds the keys of
/// these places and of nothing else.
#[derive(Debug, clap::Args)]
pub(crate) struct Restrict {
    #[command(flatten)]
    access: AccessArg,
    #[command(flatten)]
    limits: Limits,
    /// No changes: as --disallow-writes --disallow-deletes
    #[arg(long)]
    readonly: bool,
    /// Only adding: as --disallow-reads --disallow-lists --disallow-deletes
    #[arg(long, conflicts_with = "readonly")]
    writeonly: bool,
    /// Only this file or directory; may be given several times
    #[arg(long = "path", value_name = "strewn://BUCKET/PATH")]
    paths: Vec<Remote>,
    #[command(flatten)]
    destination: Destination,
}

/// Make a grant for somebody else: of the given places only, read-only unless told otherwise
///
/// Under the grant each place has the path in the bucket that it has now, also if it is renamed later. If the grant opens a single
/// place, paths may also begin there: `strewn mount BUCKET DIR` mounts that directory.
#[derive(Debug, clap::Args)]
pub(crate) struct Share {
    /// What to share
    #[arg(required = true, value_name = "strewn://BUCKET/PATH")]
    paths: Vec<Remote>,
    #[command(flatten)]
    access: AccessArg,
    #[command(flatten)]
    limits: Limits,
    /// Allow changes
    #[arg(long)]
    writable: bool,
    #[command(flatten)]
    destination: Destination,
}

#[derive(Debug, clap::Args)]
struct Limits {
    /// No reading of content
    #[arg(long)]
    disallow_reads: bool,
    /// No writing
    #[arg(long)]
    disallow_writes: bool,
    /// No listing
    #[arg(long)]
    disallow_lists: bool,
    /// No removing and no changing of what exists
    #[arg(long)]
    disallow_deletes: bool,
    /// Not before this time: RFC 3339, or from now on as in `+2h`
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    not_before: Option<Timestamp>,
    /// Not at or after this time: RFC 3339, or from now on as in `+7d`
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    not_after: Option<Timestamp>,
}

impl Restrict {
    pub(crate) async fn run(self) -> Outcome {
        let mut caveat = self.limits.caveat()?;
        if self.readonly {
            (caveat.disallow.write, caveat.disallow.delete) = (true, true);
        }
        if self.writeonly {
            let Actions { read, list, delete, .. } = &mut caveat.disallow;
            (*read, *list, *delete) = (true, true, true);
        }
        derive(&self.access, &caveat, &self.paths, &self.destination).await
    }
}

impl Share {
    pub(crate) async fn run(self) -> Outcome {
        let mut caveat = self.limits.caveat()?;
        if !self.writable {
            (caveat.disallow.write, caveat.disallow.delete) = (true, true);
        }
        derive(&self.access, &caveat, &self.paths, &self.destination).await
    }
}

impl Limits {
    fn caveat(&self) -> Outcome<Caveat> {
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).context("drawing a nonce")?;
        let disallow = Actions {
            read: self.disallow_reads,
            write: self.disallow_writes,
            list: self.disallow_lists,
            delete: self.disallow_deletes,
        };
        let (not_before, not_after) = (self.not_before, self.not_after);
        let ends = |at: Timestamp| {
            let begins = not_before.map_or(0, |before| before.seconds).max(jiff::Timestamp::now().as_second());
            at.seconds <= begins
        };
        if not_after.is_some_and(ends) {
            return Err(Failure::usage("--not-after is past, or not after --not-before: the grant would open nothing"));
        }
        Ok(Caveat { disallow, not_before, not_after, nonce: Some(nonce), ..Caveat::default() })
    }
}

async fn derive(access: &AccessArg, caveat: &Caveat, paths: &[Remote], destination: &Destination) -> Outcome {
    let grant = config::load_access(access.access.as_deref())?;
    let narrowed = if paths.is_empty() {
        grant.restrict(caveat)
    } else {
        let mut keys = Vec::new();
        for path in paths {
            keys.push(opened_key(&grant, path).await?);
        }
        grant.share(caveat, keys)
    };
    destination.put(&narrowed.context("narrowing the grant")?)
}

async fn opened_key(grant: &strewn_engine::grant::AccessGrant, path: &Remote) -> Outcome<OpenedKey> {
    let opened = remote::open_any(grant, path).await?;
    Ok(OpenedKey::Subtree {
        bucket: opened.bucket,
        bucket_name: path.bucket.clone(),
        inode: opened.root.inode,
        kind: opened.kind,
        key: opened.root.key,
        path: opened.place.path,
    })
}

/// Parses RFC 3339, `now`, or a span from now on such as `+2h` or `+7d`.
fn parse_time(text: &str) -> Result<Timestamp, String> {
    let now = jiff::Timestamp::now();
    let moment = match text.strip_prefix('+') {
        Some(span) => {
            let span: jiff::Span = span.parse().map_err(|error| format!("{text:?}: {error}"))?;
            now.to_zoned(jiff::tz::TimeZone::UTC).checked_add(span).map_err(|error| error.to_string())?.timestamp()
        }
        None if text == "now" => now,
        None => text.parse().map_err(|error: jiff::Error| format!("{text:?}: {error}"))?,
    };
    Ok(Timestamp { seconds: moment.as_second(), nanos: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_absolute_or_from_now_on() {
        assert_eq!(parse_time("1970-01-02T00:00:00Z"), Ok(Timestamp { seconds: 86_400, nanos: 0 }));
        let now = parse_time("now").unwrap().seconds;
        assert!((now + 7195..=now + 7205).contains(&parse_time("+2h").unwrap().seconds));
        assert!((now + 604_795..=now + 604_805).contains(&parse_time("+7d").unwrap().seconds));
        for bad in ["", "+", "tomorrow", "+2 parsecs"] {
            assert!(parse_time(bad).is_err(), "{bad}");
        }
    }
}
