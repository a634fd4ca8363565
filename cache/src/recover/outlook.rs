//! The first reading of the journal.

use crate::Error;
use crate::journal::Recovered;
use crate::record::{self, Mutation};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use strewn_engine::ids::InodeId;

/// What the end of the journal says about its beginning.
#[derive(Default)]
pub(super) struct Outlook {
    /// Cuts that became batches and were not taken apart again.
    pub(super) batches: BTreeSet<u64>,
    pub(super) committed: u64,
    /// Where each freeze stands.
    pub(super) freezes: BTreeMap<u64, u64>,
    /// Where the last freeze stands whose cut became a batch: what was written before is in sealed files or on the network.
    pub(super) sealed: u64,
    /// Up to where data files are durable.
    pub(super) synced: HashMap<(InodeId, u64), u64>,
    /// Data files that programs may have changed by themselves, and made durable: all that is in them counts.
    pub(super) exposed: HashSet<(InodeId, u64)>,
}

impl Outlook {
    pub(super) fn read(recovered: &Recovered) -> Result<Self, Error> {
        let mut outlook = Self::default();
        for record in recovered.records() {
            let record = record?;
            for mutation in decode(&record.payload)? {
                outlook.note(&mutation, record.sequence.0);
            }
        }
        let batches = outlook.freezes.iter().filter(|(cut, _)| outlook.batches.contains(cut));
        outlook.sealed = batches.map(|(_, position)| *position).max().unwrap_or(0);
        Ok(outlook)
    }

    fn note(&mut self, mutation: &Mutation, position: u64) {
        match mutation {
            Mutation::Freeze { cut } => drop(self.freezes.insert(*cut, position)),
            Mutation::Cut { cut, .. } => {
                self.batches.insert(*cut);
            }
            Mutation::Committed { cut } => self.committed = self.committed.max(*cut),
            Mutation::Uncut { from, .. } => {
                self.batches.split_off(from);
            }
            Mutation::Pipeline { committed, .. } => self.committed = self.committed.max(*committed),
            Mutation::Synced { inode, generation, position } => {
                let mark = self.synced.entry((*inode, *generation)).or_default();
                *mark = (*mark).max(*position);
            }
            Mutation::Exposed { inode, generation, exposed: true } => {
                self.exposed.insert((*inode, *generation));
            }
            Mutation::Exposed { inode, generation, exposed: false } => {
                self.exposed.remove(&(*inode, *generation));
            }
            _ => {}
        }
    }
}

pub(super) fn decode(payload: &[u8]) -> Result<Vec<Mutation>, Error> {
    record::decode(payload).map_err(|error| Error::Corrupt(error.to_string()))
}
