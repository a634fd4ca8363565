//! What a crash may leave.

use crate::common::Picture;
use crate::model::State;
use std::collections::BTreeMap;
use std::sync::Arc;
use strewn_engine::bucket::Kind;
use strewn_engine::ids::InodeId;

/// Between which states a recovered one must lie.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Names, links, modes, owners and extended attributes are those of one state from this one …
    pub from: usize,
    /// … to this one.
    pub to: usize,
    /// Bytes of every file are no older than this state.
    pub files: usize,
    /// Bytes of these files are no older than these states.
    pub synced: Arc<BTreeMap<InodeId, usize>>,
}

impl Bounds {
    fn floor(&self, file: InodeId) -> usize {
        self.synced.get(&file).copied().unwrap_or(0).max(self.files)
    }

    /// Checks a recovered picture; says what is wrong with it.
    pub fn check(&self, found: &Picture, states: &[State]) -> Result<(), String> {
        self.check_names(found, states)?;
        let files = found.iter().filter(|(_, node)| node.0.kind == Kind::File);
        for (path, (_, _, inode, bytes)) in files {
            let versions = Versions::new(*inode, &states[self.floor(*inode)..=self.to]);
            versions.check(bytes).map_err(|wrong| format!("{path} ({inode}): {wrong}"))?;
        }
        Ok(())
    }

    fn check_names(&self, found: &Picture, states: &[State]) -> Result<(), String> {
        let found = without_content(found.clone());
        let mut closest: Option<String> = None;
        for index in (self.from..=self.to).rev() {
            let expected = without_content(states[index].picture());
            if found == expected {
                return Ok(());
            }
            let wrong = || format!("\nagainst state {index}: {}", difference(&found, &expected));
            let shorter = closest.as_ref().is_none_or(|closest| closest.len() > wrong().len());
            if shorter {
                closest = Some(wrong());
            }
        }
        Err(format!(
            "no state from {} to {} has these names and attributes{}",
            self.from,
            self.to,
            closest.unwrap_or_default()
        ))
    }
}

/// The contents a file had.
struct Versions<'a>(Vec<&'a [u8]>);

impl<'a> Versions<'a> {
    fn new(inode: InodeId, states: &'a [State]) -> Self {
        let nodes = states.iter().filter_map(|state| state.nodes.get(&inode));
        Self(nodes.map(|node| node.content.as_slice()).collect())
    }

    fn check(&self, bytes: &[u8]) -> Result<(), String> {
        if self.0.contains(&bytes) {
            return Ok(());
        }
        if !self.0.iter().any(|content| content.len() == bytes.len()) {
            let lengths: Vec<usize> = self.0.iter().map(|content| content.len()).collect();
            return Err(format!("it never had {} bytes, only {lengths:?}", bytes.len()));
        }
        let known = |at: usize, byte: u8| self.0.iter().any(|content| content.get(at) == Some(&byte));
        match bytes.iter().enumerate().position(|(at, byte)| !known(at, *byte)) {
            None => Ok(()),
            Some(at) => {
                let had: Vec<_> = self.0.iter().map(|content| content.get(at)).collect();
                Err(format!("byte {at} of {} is {}, and was never but {had:?}", bytes.len(), bytes[at]))
            }
        }
    }
}

/// What must be of one moment: all but bytes and sizes of files.
fn without_content(mut picture: Picture) -> Picture {
    for (attributes, _, _, bytes) in picture.values_mut() {
        if attributes.kind == Kind::File {
            attributes.size = 0;
        }
        bytes.clear();
    }
    picture
}

/// Says where two pictures differ.
pub fn difference(found: &Picture, expected: &Picture) -> String {
    let mut lines = Vec::new();
    for (path, (attributes, links, inode, bytes)) in found {
        match expected.get(path) {
            None => lines.push(format!("{path} ({inode}) is there")),
            Some(other) if other.2 != *inode => lines.push(format!("{path} is {inode}, not {}", other.2)),
            Some(other) if other.0 != *attributes => lines.push(format!("{path}: {attributes:?}, not {:?}", other.0)),
            Some(other) if other.1 != *links => lines.push(format!("{path}: {links} links, not {}", other.1)),
            Some(other) if other.3 != *bytes => {
                let at = bytes.iter().zip(&other.3).position(|(a, b)| a != b);
                lines.push(format!(
                    "{path} ({inode}): {} bytes, not {}; first difference at {at:?}",
                    bytes.len(),
                    other.3.len()
                ));
            }
            _ => {}
        }
    }
    let missing = expected.iter().filter(|(path, _)| !found.contains_key(*path));
    lines.extend(missing.map(|(path, node)| format!("{path} ({}) is missing", node.2)));
    lines.join("; ")
}
