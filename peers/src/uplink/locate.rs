//! What is remembered so that a read costs no call to the satellite: where runs lie, and limits for reading segments.
//!
//! Both are loaded once however many reads wait for them, and forgotten before the limits run out, when they turn out to
//! be wrong, and when the caches are full.

use super::{Shared, random, unexpected};
use bytes::Bytes;
use ed25519_dalek::SigningKey;
use moka::future::Cache;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use strewn_engine::bucket::{Error, SegmentState};
use strewn_engine::content::BLOCK;
use strewn_engine::ids::{BucketId, InodeId, RunId, SegmentId};
use strewn_engine::order::{Order, Signed};
use strewn_engine::piece::Root;
use strewn_engine::segment::{Geometry, MAX_SEGMENT};
use strewn_wire::satellite::{Download, PieceLimit, Reply, Request, RunLocation, RunPart};

/// Limits are valid for an hour; what depends on them is forgotten well before.
const TTL: Duration = Duration::from_secs(45 * 60);
/// Bytes of the cache of run locations, about.
const RUNS_MEMORY: u64 = 8 << 20;
/// Bytes of the cache of limits, about.
const READERS_MEMORY: u64 = 16 << 20;
/// Bytes that a piece's limit, address and root take, about.
const PIECE_WEIGHT: u32 = 600;
/// Blocks of the longest run: it fills a segment.
const MAX_BLOCKS: u64 = MAX_SEGMENT / BLOCK;
/// What is younger is not asked for again: a failed read is tried again with fresh locations, and nodes that were not found
/// are looked for anew, if what was known of them is older than this.
const FRESH: Duration = Duration::from_secs(5);

/// Finds blocks of one bucket.
pub(super) struct Locator {
    pub(super) shared: Arc<Shared>,
    bucket: BucketId,
    runs: Cache<RunId, Arc<Location>>,
    readers: Cache<SegmentId, Arc<SegmentReader>>,
}

/// Where a run lies, checked.
pub(super) struct Location {
    place: Place,
    fetched: Instant,
}

enum Place {
    Inline(Bytes),
    /// In the order of the blocks, from block 0, without gaps.
    Parts(Vec<RunPart>),
}

/// Bytes that some blocks of a run are made of.
pub(super) enum Found {
    /// They are here.
    Inline(Bytes),
    /// They are these stretches of segments, in order.
    Stretches(Vec<(SegmentId, Range<u64>)>),
}

impl Locator {
    pub(super) fn new(shared: Arc<Shared>, bucket: BucketId) -> Self {
        let runs = Cache::builder()
            .max_capacity(RUNS_MEMORY)
            .weigher(|_, location: &Arc<Location>| location.weight())
            .time_to_live(TTL);
        let readers = Cache::builder()
            .max_capacity(READERS_MEMORY)
            .weigher(|_, reader: &Arc<SegmentReader>| reader.sources.len() as u32 * PIECE_WEIGHT)
            .time_to_live(TTL);
        Self { shared, bucket, runs: runs.build(), readers: readers.build() }
    }

    /// Where a run lies.
    pub(super) async fn run(&self, inode: InodeId, run: RunId) -> Result<Arc<Location>, Error> {
        let load = async {
            let request = Request::LocateRun { bucket: self.bucket, inode, run, first: 0, count: MAX_BLOCKS };
            match self.shared.satellite.ask(&request).await? {
                Reply::Run(location) => Ok(Arc::new(Location::new(location)?)),
                _ => Err(unexpected()),
            }
        };
        self.runs.try_get_with(run, load).await.map_err(|error| Error::clone(&error))
    }

    /// Limits for reading a segment that holds blocks of the run. Those that are nearly spent are renewed.
    pub(super) async fn reader(
        &self,
        inode: InodeId,
        run: RunId,
        segment: SegmentId,
    ) -> Result<Arc<SegmentReader>, Error> {
        if let Some(reader) = self.readers.get(&segment).await
            && reader.is_worn()
        {
            self.readers.invalidate(&segment).await;
        }
        let load = async {
            let key = SigningKey::from_bytes(&random());
            let uplink = key.verifying_key().to_bytes();
            let request = Request::BeginDownload { bucket: self.bucket, inode, run, segment, uplink };
            match self.shared.satellite.ask(&request).await? {
                Reply::Download(download) => {
                    self.shared.observer.learn(download.pieces.iter().map(|(piece, _)| piece.node.node));
                    Ok(Arc::new(SegmentReader::new(download, key)?))
                }
                _ => Err(unexpected()),
            }
        };
        self.readers.try_get_with(segment, load).await.map_err(|error| Error::clone(&error))
    }

    /// How the segments of a run are stored. What the satellite said lately is not asked again.
    pub(super) async fn segments(&self, inode: InodeId, run: RunId) -> Result<Vec<SegmentState>, Error> {
        let mut segments = Vec::new();
        for segment in self.run(inode, run).await?.segments() {
            if self.readers.get(&segment).await.is_some_and(|reader| reader.fetched.elapsed() > FRESH) {
                self.readers.invalidate(&segment).await;
            }
            let reader = self.reader(inode, run, segment).await?;
            let (pieces, required) = (reader.sources.len() as u32, reader.geometry.required().into());
            segments.push(SegmentState { segment, pieces, required });
        }
        Ok(segments)
    }

    /// Forgets what a failed read used, if it may have been outdated. True if so: the read is worth another try.
    pub(super) async fn forget(&self, run: RunId, location: &Location) -> bool {
        let mut outdated = location.fetched.elapsed() > FRESH;
        if let Place::Parts(parts) = &location.place {
            for part in parts {
                if let Some(reader) = self.readers.get(&part.segment).await
                    && (reader.is_worn() || reader.moved.load(Ordering::Relaxed) || reader.fetched.elapsed() > FRESH)
                {
                    outdated = true;
                    self.readers.invalidate(&part.segment).await;
                }
            }
        }
        if outdated {
            self.runs.invalidate(&run).await;
        }
        outdated
    }
}

impl Location {
    fn new(location: RunLocation) -> Result<Self, Error> {
        let place = match location {
            RunLocation::Inline(bytes) => Place::Inline(bytes),
            RunLocation::Segments(parts) => {
                let mut next = 0;
                for part in &parts {
                    let blocks = part.count.saturating_mul(BLOCK);
                    let fits = part.first == next
                        && (1..=MAX_BLOCKS).contains(&part.count)
                        && (blocks - BLOCK + 1..=blocks).contains(&part.length)
                        && part.offset.checked_add(part.length).is_some_and(|end| end <= MAX_SEGMENT);
                    if !fits {
                        return Err(Error::Invalid("the satellite's place of a run cannot be".into()));
                    }
                    next += part.count;
                }
                Place::Parts(parts)
            }
        };
        Ok(Self { place, fetched: Instant::now() })
    }

    /// Where blocks `first..first + count` are.
    pub(super) fn find(&self, first: u64, count: u64) -> Result<Found, Error> {
        let beyond = || Error::Invalid(format!("no blocks {first}, {count} in the run"));
        let end = first.checked_add(count).filter(|_| count > 0).ok_or_else(beyond)?;
        match &self.place {
            Place::Inline(bytes) if first == 0 && count == 1 => Ok(Found::Inline(bytes.clone())),
            Place::Inline(_) => Err(beyond()),
            Place::Parts(parts) => {
                let mut stretches = Vec::new();
                let mut found = 0;
                for part in parts {
                    let (from, to) = (first.max(part.first), end.min(part.first + part.count));
                    if from < to {
                        let start = part.offset + (from - part.first) * BLOCK;
                        let stop = part.offset + ((to - part.first) * BLOCK).min(part.length);
                        stretches.push((part.segment, start..stop));
                        found += to - from;
                    }
                }
                if found == count { Ok(Found::Stretches(stretches)) } else { Err(beyond()) }
            }
        }
    }

    /// Segments it lies in.
    fn segments(&self) -> Vec<SegmentId> {
        match &self.place {
            Place::Inline(_) => Vec::new(),
            Place::Parts(parts) => {
                let mut segments: Vec<SegmentId> = parts.iter().map(|part| part.segment).collect();
                segments.dedup();
                segments
            }
        }
    }

    fn weight(&self) -> u32 {
        const BASE: usize = 100;
        let bytes = match &self.place {
            Place::Inline(bytes) => bytes.len(),
            Place::Parts(parts) => parts.len() * size_of::<RunPart>(),
        };
        (BASE + bytes) as u32
    }
}

/// Limits for one segment, shared by all reads of it until they are spent.
pub(super) struct SegmentReader {
    pub(super) geometry: Geometry,
    pub(super) sources: Vec<Source>,
    key: SigningKey,
    fetched: Instant,
    /// A limit was not accepted.
    refused: AtomicBool,
    /// A node was not where it should be.
    moved: AtomicBool,
}

/// A piece that can be read.
pub(super) struct Source {
    pub(super) limit: PieceLimit,
    pub(super) root: Root,
    budget: u64,
    /// Bytes ordered so far: orders are cumulative.
    spent: AtomicU64,
}

impl Source {
    /// Bytes ordered so far.
    pub(super) fn spent(&self) -> u64 {
        self.spent.load(Ordering::Relaxed)
    }
}

impl SegmentReader {
    fn new(download: Download, key: SigningKey) -> Result<Self, Error> {
        let geometry = Geometry::new(download.redundancy, download.length);
        let geometry = geometry.map_err(|error| Error::Invalid(error.to_string()))?;
        let mut sources = Vec::with_capacity(download.pieces.len());
        for (limit, root) in download.pieces {
            let claimed = limit.limit.unverified().map_err(|error| Error::Invalid(error.to_string()))?;
            sources.push(Source { limit, root, budget: claimed.bytes, spent: AtomicU64::new(0) });
        }
        Ok(Self {
            geometry,
            sources,
            key,
            fetched: Instant::now(),
            refused: AtomicBool::new(false),
            moved: AtomicBool::new(false),
        })
    }

    /// Orders that many more bytes of a piece; `None` if the limit does not reach so far.
    pub(super) fn pay(&self, source: &Source, bytes: u64) -> Option<Signed<Order>> {
        let add = |spent: u64| spent.checked_add(bytes).filter(|sum| *sum <= source.budget);
        match source.spent.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add) {
            Ok(before) => {
                Some(Signed::new(&Order { limit: source.limit.limit.hash(), bytes: before + bytes }, &self.key))
            }
            Err(_) => {
                self.refuse();
                None
            }
        }
    }

    /// Notes that a limit is not accepted any more.
    pub(super) fn refuse(&self) {
        self.refused.store(true, Ordering::Relaxed);
    }

    /// Notes that a node was not found where the satellite had seen it.
    pub(super) fn miss(&self) {
        self.moved.store(true, Ordering::Relaxed);
    }

    fn is_worn(&self) -> bool {
        let nearly_spent = |source: &Source| source.spent() > source.budget.saturating_mul(7) / 8;
        let moved = self.moved.load(Ordering::Relaxed) && self.fetched.elapsed() > FRESH;
        moved || self.refused.load(Ordering::Relaxed) || self.sources.iter().any(nearly_spent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(first: u64, count: u64, offset: u64, length: u64) -> RunPart {
        RunPart { first, count, segment: SegmentId::from_bytes([first as u8; 16]), offset, length }
    }

    fn found(location: &Location, first: u64, count: u64) -> Vec<(u8, Range<u64>)> {
        match location.find(first, count).unwrap() {
            Found::Stretches(found) => found.into_iter().map(|(id, range)| (id.as_bytes()[0], range)).collect(),
            Found::Inline(_) => panic!("not inline"),
        }
    }

    #[test]
    fn blocks_are_found_across_parts() {
        let parts = vec![part(0, 3, 1000, 3 * BLOCK), part(3, 2, 0, BLOCK + 17)];
        let location = Location::new(RunLocation::Segments(parts)).unwrap();
        assert_eq!(found(&location, 1, 1), [(0, 1000 + BLOCK..1000 + 2 * BLOCK)]);
        assert_eq!(found(&location, 4, 1), [(3, BLOCK..BLOCK + 17)]);
        assert_eq!(found(&location, 2, 3), [(0, 1000 + 2 * BLOCK..1000 + 3 * BLOCK), (3, 0..BLOCK + 17)]);
        for (first, count) in [(0, 0), (0, 6), (5, 1), (u64::MAX, 2)] {
            assert!(location.find(first, count).is_err(), "{first} {count}");
        }
        let inline = Location::new(RunLocation::Inline(Bytes::from_static(b"x"))).unwrap();
        assert!(matches!(inline.find(0, 1), Ok(Found::Inline(_))));
        assert!(inline.find(0, 2).is_err());
    }

    #[test]
    fn impossible_places_are_refused() {
        for bad in [
            vec![part(1, 1, 0, 5)],
            vec![part(0, 1, 0, 0)],
            vec![part(0, 1, 0, BLOCK + 1)],
            vec![part(0, 2, 0, BLOCK)],
            vec![part(0, 0, 0, 0)],
            vec![part(0, u64::MAX, 0, 1)],
            vec![part(0, 1, u64::MAX, 5)],
            vec![part(0, 1, MAX_SEGMENT, 5)],
            vec![part(0, 1, 0, 5), part(0, 1, 0, 5)],
        ] {
            assert!(Location::new(RunLocation::Segments(bad.clone())).is_err(), "{bad:?}");
        }
    }
}
