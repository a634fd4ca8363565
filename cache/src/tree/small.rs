//! Clean bytes of small files, for the index and back.

use super::{Node, Tree};
use crate::content::map::{Backing, Content, MAX_MEMORY};
use crate::warm::SmallRow;
use bytes::Bytes;
use strewn_engine::ids::InodeId;

impl Tree {
    /// Small files of which something is in memory.
    pub(crate) fn small_files(&self) -> Vec<InodeId> {
        let wanted = |node: &Node| node.content.as_deref().is_some_and(is_clean_memory);
        self.nodes.iter().filter(|(_, node)| wanted(node)).map(|(inode, _)| *inode).collect()
    }

    /// What a small file has in memory; `None` unless it is clean.
    pub(crate) fn small_row(&self, inode: InodeId) -> Option<SmallRow> {
        let node = self.nodes.get(&inode).filter(|node| !node.orphan)?;
        let content = node.content.as_deref().filter(|content| is_clean_memory(content))?;
        let Backing::Memory(bytes) = &content.backing else { return None };
        let size = node.attributes.size;
        let mut pieces = Vec::new();
        for range in content.present.iter().filter(|range| range.start < size) {
            let part = bytes.get(range.start as usize..range.end.min(size) as usize)?;
            pieces.push((range.start, Bytes::copy_from_slice(part)));
        }
        (!pieces.is_empty()).then_some(SmallRow { content: node.digest.hash, pieces })
    }

    /// True if the index may have the bytes of a file, and was not asked yet.
    pub(crate) fn is_forgotten_small(node: &Node) -> bool {
        let nothing_here = |content: &Content| {
            !content.recalled
                && !content.local
                && content.present.is_empty()
                && content.dirty.is_empty()
                && content.frozen.is_empty()
                && matches!(&content.backing, Backing::Memory(bytes) if bytes.is_empty())
        };
        node.attributes.size <= MAX_MEMORY && node.content.as_deref().is_some_and(nothing_here)
    }

    /// Takes in what the index has of a small file. False if it is of another content.
    pub(crate) fn take_small(&mut self, inode: InodeId, row: Option<SmallRow>) -> bool {
        let Some(node) = self.nodes.get_mut(&inode).filter(|node| Self::is_forgotten_small(node)) else { return true };
        let (hash, size) = (node.digest.hash, node.attributes.size);
        let Some(content) = node.content.as_deref_mut() else { return true };
        content.recalled = true;
        let Some(row) = row.filter(|row| row.content == hash) else { return false };
        for (offset, bytes) in &row.pieces {
            let Some(range) = SmallRow::range(*offset, bytes).filter(|range| range.start < size) else { continue };
            let range = range.start..range.end.min(size);
            self.write_memory(inode, *offset, &bytes[..(range.end - range.start) as usize]);
            if let Some(content) = self.nodes.get_mut(&inode).and_then(|node| node.content.as_deref_mut()) {
                content.present.insert(range);
            }
        }
        self.note_content(inode);
        true
    }

    /// Before the bytes of a small file leave memory: they are for the index.
    pub(super) fn leave_small(&mut self, inode: InodeId) {
        if let Some(row) = self.small_row(inode) {
            self.warm.left.push((inode, row));
        }
    }
}

/// True if memory holds nothing but bytes of the network's content.
fn is_clean_memory(content: &Content) -> bool {
    matches!(&content.backing, Backing::Memory(bytes) if !bytes.is_empty())
        && content.dirty.is_empty()
        && content.frozen.is_empty()
        && !content.local
}
