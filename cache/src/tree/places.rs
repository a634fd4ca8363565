//! The places of an inode: its names. Almost always there is one; each of thousands, as backups by hard links make, costs no more.

use crate::Name;
use std::collections::BTreeSet;
use std::mem;
use strewn_engine::ids::InodeId;

/// More names than this are searched as a set.
const FEW: usize = 16;

/// A name and the directory it is in.
type Place = (InodeId, Name);

/// Places, each once; the first is the oldest while there are few.
#[derive(Debug)]
#[expect(clippy::box_collection, reason = "every node has room for a list, and a set is larger")]
pub(crate) enum Places {
    /// At most [`FEW`].
    Few(Vec<Place>),
    /// More, or fewer that once were more.
    Many(Box<BTreeSet<Place>>),
}

impl Default for Places {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl Places {
    /// Adds a place, if it is not known already. Room is made for one at first.
    pub(crate) fn add(&mut self, directory: InodeId, name: &Name) {
        match self {
            Self::Few(places) if is_among(places, directory, name) => {}
            Self::Few(places) if places.len() < FEW => {
                if places.is_empty() {
                    places.reserve_exact(1);
                }
                places.push((directory, name.clone()));
            }
            Self::Few(places) => {
                let more = mem::take(places).into_iter().chain([(directory, name.clone())]);
                *self = Self::Many(Box::new(more.collect()));
            }
            Self::Many(places) => drop(places.insert((directory, name.clone()))),
        }
    }

    /// Takes a place away. True if it was known.
    pub(crate) fn remove(&mut self, directory: InodeId, name: &Name) -> bool {
        match self {
            Self::Few(places) => {
                let before = places.len();
                places.retain(|(at, known)| *at != directory || known != name);
                places.len() < before
            }
            Self::Many(places) => places.remove(&(directory, name.clone())),
        }
    }

    /// Makes a place the only one; gives one that was known before if it is another.
    pub(crate) fn replace(&mut self, directory: InodeId, name: &Name) -> Option<Place> {
        let before = self.first().filter(|(at, known)| *at != directory || known != name).cloned();
        *self = Self::default();
        self.add(directory, name);
        before
    }

    /// True if a place is known.
    pub(crate) fn contains(&self, directory: InodeId, name: &Name) -> bool {
        match self {
            Self::Few(places) => is_among(places, directory, name),
            Self::Many(places) => places.contains(&(directory, name.clone())),
        }
    }

    /// Every place.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Place> {
        let (few, many) = match self {
            Self::Few(places) => (&places[..], None),
            Self::Many(places) => (&[][..], Some(places)),
        };
        few.iter().chain(many.into_iter().flat_map(|places| places.iter()))
    }

    /// One of the places.
    pub(crate) fn first(&self) -> Option<&Place> {
        self.iter().next()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Few(places) => places.len(),
            Self::Many(places) => places.len(),
        }
    }

    /// True if none is known.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn is_among(places: &[Place], directory: InodeId, name: &Name) -> bool {
    places.iter().any(|(at, known)| *at == directory && known == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn names_are_a_set_however_many(steps in prop::collection::vec((any::<bool>(), 0..3u8, 0..20u8), 0..200)) {
            let (mut names, mut expected) = (Places::default(), BTreeSet::new());
            for (add, directory, name) in steps {
                let (directory, name) = (InodeId::from_bytes([directory; 16]), Name::new(&[b'a' + name]).unwrap());
                prop_assert_eq!(names.contains(directory, &name), expected.contains(&(directory, name.clone())));
                if add {
                    names.add(directory, &name);
                    expected.insert((directory, name));
                } else {
                    prop_assert_eq!(names.remove(directory, &name), expected.remove(&(directory, name)));
                }
                prop_assert_eq!((names.len(), names.is_empty()), (expected.len(), expected.is_empty()));
                prop_assert_eq!(names.iter().cloned().collect::<BTreeSet<_>>(), expected.clone());
            }
            let first = names.first().cloned();
            let (directory, name) = (InodeId::from_bytes([9; 16]), Name::new(b"z").unwrap());
            prop_assert_eq!(names.replace(directory, &name), first);
            prop_assert_eq!(names.replace(directory, &name), None);
            prop_assert_eq!(names.len(), 1);
        }
    }
}
