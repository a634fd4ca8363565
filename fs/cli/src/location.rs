//! Places in a bucket as they are typed: `strewn://BUCKET/PATH`, or `BUCKET/PATH` where only buckets can be meant.

use crate::error::{Failure, Outcome};
use std::path::PathBuf;
use std::str::FromStr;

/// The scheme of remote places.
pub(crate) const SCHEME: &str = "strewn://";

/// A place in a bucket. `path` has no leading or trailing slash and no empty, `.` or `..` component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Remote {
    pub(crate) bucket: String,
    pub(crate) path: String,
    /// It was typed with a slash at its end: only a directory is meant.
    pub(crate) directory: bool,
}

/// A place on either side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Location {
    Remote(Remote),
    Local(PathBuf),
    /// `-`: standard input or output.
    Standard,
}

impl Remote {
    /// Parses `BUCKET[/PATH]`, with or without the scheme.
    pub(crate) fn parse(text: &str) -> Outcome<Self> {
        let rest = text.strip_prefix(SCHEME).unwrap_or(text);
        let (bucket, path) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(Failure::usage(format!("{text:?} names no bucket: write {SCHEME}BUCKET/PATH")));
        }
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        if parts.contains(&"..") {
            return Err(Failure::usage(format!("{text:?}: '..' has no meaning in a bucket")));
        }
        Ok(Self { bucket: bucket.to_owned(), path: parts.join("/"), directory: path.ends_with('/') })
    }

    /// The place `name` within this one.
    pub(crate) fn join(&self, name: &str) -> Self {
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}/{name}", self.path) };
        Self { bucket: self.bucket.clone(), path, directory: false }
    }

    /// The last component, or the bucket's name at its root.
    pub(crate) fn file_name(&self) -> &str {
        match self.path.rsplit('/').next() {
            Some(name) if !name.is_empty() => name,
            _ => &self.bucket,
        }
    }
}

impl std::fmt::Display for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.bucket, self.path)
    }
}

impl FromStr for Remote {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text).map_err(|failure| failure.message().to_owned())
    }
}

impl FromStr for Location {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "-" {
            Ok(Self::Standard)
        } else if text.starts_with(SCHEME) {
            text.parse().map(Self::Remote)
        } else {
            Ok(Self::Local(text.into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(bucket: &str, path: &str) -> Remote {
        Remote { bucket: bucket.into(), path: path.into(), directory: false }
    }

    #[test]
    fn remote_places_are_normalised() {
        assert_eq!(Remote::parse("strewn://b").unwrap(), remote("b", ""));
        assert_eq!(Remote::parse("b/x//./y").unwrap(), remote("b", "x/y"));
        assert_eq!(Remote::parse("b/x/").unwrap(), Remote { directory: true, ..remote("b", "x") });
        assert_eq!(remote("b", "").join("x").join("y").to_string(), "strewn://b/x/y");
        assert_eq!(remote("b", "x/y").file_name(), "y");
        assert_eq!(remote("b", "").file_name(), "b");
        for bad in ["", "strewn://", "/x", "b/../c"] {
            assert!(Remote::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_the_scheme_makes_a_place_remote() {
        assert_eq!("-".parse(), Ok(Location::Standard));
        assert_eq!("b/x".parse(), Ok(Location::Local("b/x".into())));
        assert_eq!("strewn://b/x".parse(), Ok(Location::Remote(remote("b", "x"))));
    }
}
