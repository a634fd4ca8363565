//! Copying from one file to another, or within one: as a clone where it can be, see [`super::clones`].

use super::clones::{Clones, Origin, SHORTEST};
use super::map::{Backing, Content, Part};
use super::write::New;
use crate::Error;
use crate::cache::Position;
use crate::load::Gone;
use crate::shared::{Shared, State};
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;
use strewn_engine::bucket::{self, Extent};
use strewn_engine::ids::InodeId;
use strewn_engine::keys::InodeKeys;
use strewn_engine::record::Attributes;
use strewn_engine::secret::Key;

/// A copy waits for the network to say what it is of for one part in so many of the deadline. It only saves an upload.
const PATIENCE: u32 = 8;

/// Bytes of a file, and what they are part of on the network.
struct Copied {
    bytes: Bytes,
    extents: Vec<Extent>,
}

/// What clean bytes of a range are part of.
enum Found {
    /// These extents, and all bytes of the range are here.
    Extents(Vec<Extent>),
    /// The extents of a window are to be loaded.
    Load(u64, Key),
    /// Some of the bytes are not here.
    NotHere,
    /// Nothing that could be cloned.
    Nothing,
}

/// What must not have changed while a data file is read.
#[derive(PartialEq, Eq)]
struct Moment {
    generation: u64,
    changes: u32,
    batches: u32,
}

/// What is to be copied.
#[derive(Clone, Copy)]
struct Request {
    source: InodeId,
    from: u64,
    target: InodeId,
    to: u64,
    /// Bytes that are copied now.
    now: u64,
    /// Bytes that are to be copied in the end, these and what follows them.
    asked: u64,
}

impl Shared {
    /// See [`Cache::copy`](crate::Cache::copy).
    pub(crate) async fn copy<F>(
        self: &Arc<Self>,
        (source, from): (InodeId, u64),
        (target, to): (InodeId, u64),
        (now, asked): (u64, u64),
        update: F,
    ) -> Result<u64, Error>
    where
        F: FnMut(&mut Attributes) + Send,
    {
        let request = Request { source, from, target, to, now, asked };
        let Copied { bytes, extents } = self.read_to_copy(&request).await?;
        if bytes.is_empty() {
            return Ok(0);
        }
        let origins = self.origins(&request, &extents);
        let new = New { position: Position::At(to), data: &bytes, origins: &origins, first: false };
        self.write_new(target, new, update).await?;
        Ok(bytes.len() as u64)
    }

    async fn read_to_copy(self: &Arc<Self>, request: &Request) -> Result<Copied, Error> {
        let range = request.from..request.from.saturating_add(request.now);
        let found = self.find_extents(request, &range).await?;
        if matches!(found, Found::Extents(_))
            && let Some(copied) = self.read_clean(request, &range).await?
        {
            return Ok(copied);
        }
        let bytes = self.read(request.source, range.start, (range.end - range.start) as usize).await?;
        let range = range.start..range.start + bytes.len() as u64;
        if matches!(found, Found::NotHere)
            && let Found::Extents(_) = self.find_extents(request, &range).await?
            && let Some(copied) = self.read_clean(request, &range).await?
        {
            return Ok(copied);
        }
        Ok(Copied { bytes, extents: Vec::new() })
    }

    /// Loads what has to be known to clone, unless the network is away: a copy does not wait for it.
    async fn find_extents(self: &Arc<Self>, request: &Request, range: &Range<u64>) -> Result<Found, Error> {
        loop {
            let found = look_for_extents(&self.state.lock(), request, range)?;
            let Found::Load(number, key) = &found else { return Ok(found) };
            if !self.state.lock().pipeline.reachable {
                return Ok(Found::Nothing);
            }
            let loaded = self.load_window(request.source, key, *number, Gone::IsAnError);
            match tokio::time::timeout(self.options.deadline / PATIENCE, loaded).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::debug!("copied without being cloned: {error}");
                    return Ok(Found::Nothing);
                }
                Err(_) => {
                    let silent = bucket::Error::Unreachable(String::from("no answer about what is to be copied"));
                    self.note_network::<()>(&Err(silent));
                    return Ok(Found::Nothing);
                }
            }
        }
    }

    /// Reads a range whose clean bytes certainly are those of the extents: nobody writes to the data file meanwhile, and
    /// nothing of the file was changed. `None` if something was.
    async fn read_clean(&self, request: &Request, range: &Range<u64>) -> Result<Option<Copied>, Error> {
        let inode = request.source;
        let _alone = self.hold(inode).await?;
        let (extents, before, range) = {
            let mut state = self.state.lock();
            let Found::Extents(extents) = look_for_extents(&state, request, range)? else { return Ok(None) };
            let Some(node) = state.tree.node_mut(inode) else { return Ok(None) };
            let range = range.start..range.end.min(node.attributes.size);
            let Some(content) = node.content.as_deref_mut() else { return Ok(None) };
            content.readers += 1;
            (extents, Moment::of(content), range)
        };
        let bytes = self.read_file(inode, before.generation, range.clone(), std::slice::from_ref(&range))?;
        let state = self.state.lock();
        let content = state.tree.node(inode).and_then(|node| node.content.as_deref());
        let same = content.is_some_and(|content| Moment::of(content) == before);
        Ok(same.then_some(Copied { bytes, extents }))
    }

    /// The runs that have the copied bytes, for the file they are copied into.
    fn origins(&self, request: &Request, extents: &[Extent]) -> Vec<(Range<u64>, Origin)> {
        let &Request { source, from, target, to, asked, .. } = request;
        let state = self.state.lock();
        let (Some(theirs), Some(ours)) = (state.tree.node(source), state.tree.node(target)) else { return Vec::new() };
        let keys = InodeKeys::new(&theirs.key);
        let into = InodeKeys::new(&ours.key);
        let nothing = Clones::default();
        let clones = ours.content.as_deref().and_then(|content| content.clones.as_deref()).unwrap_or(&nothing);
        let asked = to..to.saturating_add(asked);
        let origin = |extent: &Extent| {
            let origin = Origin::new((extent, &keys), from, (to, &into))?;
            let may = source == target || clones.completes(&origin, &asked);
            let start = extent.offset - from + to;
            may.then_some((start..start + extent.length, origin))
        };
        extents.iter().filter_map(origin).collect()
    }
}

/// What of a range can be cloned, if all of it is here.
fn look_for_extents(state: &State, request: &Request, range: &Range<u64>) -> Result<Found, Error> {
    let node = state.tree.node(request.source).ok_or(Error::Stale)?;
    // What programs store into the data file by themselves is not what the extents have.
    let Some(content) = node.content.as_deref().filter(|content| !content.exposed) else { return Ok(Found::Nothing) };
    let range = range.start..range.end.min(node.attributes.size);
    if range.is_empty() {
        return Ok(Found::Nothing);
    }
    if let Some(number) = content.unloaded(&range) {
        return Ok(Found::Load(number, node.key.clone()));
    }
    let mut extents = content.clean_extents(&range);
    extents.retain(|extent| extent.run_length >= SHORTEST);
    if request.source != request.target {
        if let Some(number) = extents.iter().find_map(|extent| content.unloaded(&extent.whole_run()?)) {
            return Ok(Found::Load(number, node.key.clone()));
        }
        extents.retain(|extent| content.has_whole_run(extent));
    }
    if extents.is_empty() {
        return Ok(Found::Nothing);
    }
    let parts = content.parts(range);
    if parts.iter().any(|part| matches!(part, Part::Remote(..) | Part::Unknown(_))) {
        return Ok(Found::NotHere);
    }
    let is_file = matches!(content.backing, Backing::File);
    let all_here = is_file && parts.iter().all(|part| matches!(part, Part::Present(_)));
    Ok(if all_here { Found::Extents(extents) } else { Found::Nothing })
}

impl Moment {
    fn of(content: &Content) -> Self {
        Self { generation: content.generation, changes: content.changes, batches: content.batches }
    }
}
