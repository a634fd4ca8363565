//! Where the path of a place begins: at the bucket's root, or at one of the places that were shared.

use crate::error::{Failure, Outcome};
use crate::location::Remote;
use strewn_engine::grant::Start;

/// What a grant opens that `place` is, or is in; and `place` by its path in the bucket.
///
/// The bucket's root is asked first, then the shared place with the longest path that begins `place`. A single shared place is
/// also where other paths begin.
pub(super) fn choose<'s>(starts: &'s [Start], place: &Remote) -> Outcome<(&'s Start, Remote)> {
    let holding = starts.iter().filter(|start| below(&start.path, &place.path).is_some());
    if let Some(start) = holding.max_by_key(|start| (start.path.is_empty(), start.path.len())) {
        return Ok((start, place.clone()));
    }
    match starts {
        [only] => {
            let path = if place.path.is_empty() { only.path.clone() } else { format!("{}/{}", only.path, place.path) };
            Ok((only, Remote { path, ..place.clone() }))
        }
        _ => {
            let opened = starts.iter().map(|start| Remote { path: start.path.clone(), ..place.clone() }.to_string());
            Err(Failure::new(format!("{place} is not in what the grant opens"))
                .hint(format!("it opens {}", opened.collect::<Vec<_>>().join(", "))))
        }
    }
}

/// What is left of a path below another one: empty if they are the same, `None` if it is elsewhere.
pub(super) fn below<'p>(above: &str, path: &'p str) -> Option<&'p str> {
    if above.is_empty() {
        return Some(path);
    }
    let rest = path.strip_prefix(above)?;
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix('/') }
}

#[cfg(test)]
mod tests {
    use super::*;
    use strewn_engine::bucket::Kind;
    use strewn_engine::ids::InodeId;
    use strewn_engine::secret::Key;

    fn starts(paths: &[&str]) -> Vec<Start> {
        let start = |(at, path): (usize, &&str)| Start {
            inode: InodeId::from_bytes([at as u8; 16]),
            kind: Kind::Directory,
            key: Key::from_bytes([at as u8; 32]),
            path: (*path).to_owned(),
        };
        paths.iter().enumerate().map(start).collect()
    }

    fn chosen(paths: &[&str], place: &str) -> Result<(String, String), String> {
        let place = Remote { bucket: "b".into(), path: place.into(), directory: false };
        let starts = starts(paths);
        let chosen = choose(&starts, &place).map(|(start, place)| (start.path.clone(), place.path));
        chosen.map_err(|failure| failure.message().to_owned())
    }

    #[test]
    fn paths_are_those_of_the_bucket() {
        let is = |start: &str, path: &str| Ok((start.to_owned(), path.to_owned()));
        assert_eq!(chosen(&[""], "a/b"), is("", "a/b"));
        assert_eq!(chosen(&["a/b"], "a/b/c"), is("a/b", "a/b/c"));
        assert_eq!(chosen(&["a/b", "a/bc"], "a/bc"), is("a/bc", "a/bc"));
        assert_eq!(chosen(&["a", "a/b"], "a/b/c"), is("a/b", "a/b/c"));
        assert_eq!(chosen(&["", "a"], "a/b"), is("", "a/b"), "a name may have changed, the root has not");
    }

    #[test]
    fn a_single_place_is_where_other_paths_begin() {
        assert_eq!(chosen(&["a/b"], ""), Ok(("a/b".into(), "a/b".into())));
        assert_eq!(chosen(&["a/b"], "c"), Ok(("a/b".into(), "a/b/c".into())));
        for place in ["", "c"] {
            assert!(chosen(&["a", "b"], place).unwrap_err().contains("not in what the grant opens"));
        }
    }
}
