//! One of the mounts, and what it is expected to show.

use crate::link::Link;
use crate::support::{ROOT, ROOT_INODE, root_key};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use strewn_cache::disk::MemoryDisk;
use strewn_cache::journal::BootId;
use strewn_cache::{Cache, Options, Root};
use strewn_engine::bucket::memory::MemoryBucket;
use strewn_engine::bucket::{BucketService, Entry, Kind};
use strewn_engine::ids::InodeId;
use strewn_fs::Volume;
use strewn_fs::volume::path::{Last, Paths};

/// What a path shows.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) inode: InodeId,
    /// `None` for a directory.
    pub(crate) content: Option<Vec<u8>>,
}

/// What is shown for a file that cannot be read any more.
pub(crate) const GONE: &[u8] = b"gone";

/// Everything a mount shows, by path.
pub(crate) type View = BTreeMap<String, Seen>;

pub(crate) struct Mount {
    pub(crate) host: &'static str,
    pub(crate) link: Link,
    disk: MemoryDisk,
    pub(crate) volume: Arc<Volume>,
    /// What it showed last, with its own operations since.
    pub(crate) view: View,
    /// Contents it wrote, ever.
    pub(crate) own: BTreeSet<Vec<u8>>,
    /// Contents it wrote and neither replaced nor removed, that are not on the network for sure.
    pub(crate) unsent: BTreeSet<Vec<u8>>,
    /// Those of them that cannot be shown before they are sent, since something else is here under the name that is left.
    pub(crate) hidden: BTreeSet<Vec<u8>>,
    /// Contents that may go to the network though they need not stay: those it made of others by giving them another length
    /// alone, and of files that lost the last name that is shown here and have more elsewhere.
    pub(crate) perhaps: BTreeSet<Vec<u8>>,
    /// Sequence number of the bucket up to which it shows what others did.
    pub(crate) heard: u64,
}

/// Cuts only when asked to, so that the test decides what goes into one.
fn options(host: &str) -> Options {
    let never = Duration::from_secs(3600);
    let deadline = Duration::from_secs(20);
    // A mount that holds a lease sends what others want of it by itself.
    Options { cut_idle: never, cut_age: never, deadline, host: host.to_owned(), leases: false, ..Options::default() }
}

async fn open(disk: &MemoryDisk, service: Arc<dyn BucketService>, options: Options) -> Arc<Volume> {
    let root = Root { inode: ROOT_INODE, key: root_key() };
    let cache = Cache::open_on(Arc::new(disk.clone()), BootId([1; 16]), service, root, options).await;
    Arc::new(Volume::new(cache.expect("the cache opens")))
}

impl Mount {
    pub(crate) async fn new(host: &'static str, bucket: &MemoryBucket) -> Self {
        let (link, disk) = (Link::new(bucket), MemoryDisk::new());
        let volume = open(&disk, Arc::new(link.clone()), options(host)).await;
        Self {
            host,
            link,
            disk,
            volume,
            view: View::new(),
            own: BTreeSet::new(),
            unsent: BTreeSet::new(),
            hidden: BTreeSet::new(),
            perhaps: BTreeSet::new(),
            heard: 0,
        }
    }

    pub(crate) fn cache(&self) -> &Cache {
        self.volume.cache()
    }

    pub(crate) fn paths(&self) -> Paths {
        Paths::new(self.volume.clone(), ROOT)
    }

    /// What it shows once it does not look at the network by itself any more.
    pub(crate) async fn settled_view(&self) -> View {
        let mut before = view(&self.volume).await;
        while !self.link.is_away() {
            self.cache().catch_up(0).await.expect("what was missed is loaded");
            let now = view(&self.volume).await;
            if now == before {
                break;
            }
            before = now;
        }
        before
    }

    pub(crate) fn has_pending(&self) -> bool {
        self.cache().status().pending_operations > 0
    }

    /// The process dies; another one goes on, with the line as it was.
    pub(crate) async fn crash(&mut self) {
        let was_away = self.link.is_away();
        self.link.set_away(true);
        let left = self.disk.kill();
        self.cache().close().await.expect("the old process ends");
        self.disk = left;
        self.link.set_away(was_away);
        self.volume = open(&self.disk, Arc::new(self.link.clone()), options(self.host)).await;
    }
}

/// What a mount with an empty cache shows.
pub(crate) async fn fresh_view(bucket: &MemoryBucket) -> View {
    let options = Options { read_only: true, ..options("fresh") };
    let volume = open(&MemoryDisk::new(), Arc::new(bucket.clone()), options).await;
    let view = view(&volume).await;
    volume.cache().close().await.expect("close");
    view
}

/// Walks through everything and reads it.
pub(crate) async fn view(volume: &Arc<Volume>) -> View {
    loop {
        if let Some(view) = walk(volume).await {
            return view;
        }
    }
}

/// The same; nothing if a directory is heard to be elsewhere meanwhile.
async fn walk(volume: &Arc<Volume>) -> Option<View> {
    let paths = Paths::new(volume.clone(), ROOT);
    let mut view = View::new();
    let mut open = vec![String::new()];
    while let Some(directory) = open.pop() {
        let mut listing = match paths.list(directory.as_bytes()).await {
            Err(error) if matches!(error.errno(), Errno::NOENT | Errno::NOTDIR) => return None,
            listing => listing.expect("list"),
        };
        loop {
            let (name, stat) = match listing.next().await {
                Ok(Some(line)) => line,
                Ok(None) => break,
                // Never looked into, and removed by somebody else, who is not heard yet.
                Err(error) if error.errno() == Errno::STALE => break,
                Err(error) => panic!("a line of {directory}: {error}"),
            };
            let path = format!("{directory}/{}", String::from_utf8(name).expect("names are text"));
            let content = match stat.attributes.kind {
                Kind::Directory => {
                    open.push(path.clone());
                    None
                }
                _ => match volume.read(stat.inode, 0, 1 << 20).await {
                    Ok(bytes) => Some(bytes.to_vec()),
                    // Removed by somebody else, who is not heard yet.
                    Err(error) if error.errno() == Errno::STALE => {
                        if std::env::var_os("STREWN_TRACE").is_some() {
                            eprintln!("    {path}: {error}");
                        }
                        Some(GONE.to_vec())
                    }
                    Err(error) => panic!("{path}: {error}"),
                },
            };
            view.insert(path, Seen { inode: stat.inode, content });
        }
    }
    Some(view)
}

/// Everything has as many links as it has names.
pub(crate) async fn check_links(host: &str, volume: &Arc<Volume>) {
    let view = view(volume).await;
    let paths = Paths::new(volume.clone(), ROOT);
    let inside = |path: &str, below: &str| below.rsplit_once('/').is_some_and(|(parent, _)| parent == path);
    for (path, seen) in &view {
        let names = match seen.content {
            Some(_) => view.values().filter(|other| other.inode == seen.inode).count(),
            None => 2 + view.iter().filter(|(below, seen)| seen.content.is_none() && inside(path, below)).count(),
        };
        let stat = paths.stat(path.as_bytes(), Last::Keep).await.expect("it is there");
        assert_eq!(stat.nlink as usize, names, "{host}: links of {path}:\n{}", show(&view));
    }
}

/// The bucket counts as many names of everything as it has, and keeps nothing without one.
pub(crate) fn check_counts(bucket: &MemoryBucket) {
    let snapshot = bucket.snapshot();
    for row in &snapshot.inodes {
        let names = snapshot.entries.iter().filter(|entry| entry.child == row.inode.inode).count();
        let below = |entry: &&Entry| entry.parent == row.inode.inode && entry.kind == Kind::Directory;
        match row.inode.kind {
            Kind::Directory => {
                assert_eq!(row.inode.nlink as usize, 2 + snapshot.entries.iter().filter(below).count());
                assert_eq!(names, usize::from(row.inode.inode != ROOT_INODE), "names of a directory");
            }
            _ => assert!(names > 0 && row.inode.nlink as usize == names, "{names} names of a file"),
        }
    }
}

/// A view for people.
pub(crate) fn show(view: &View) -> String {
    let line = |(path, seen): (&String, &Seen)| match &seen.content {
        None => format!("{path}/"),
        Some(content) => {
            let text = String::from_utf8_lossy(&content[..content.len().min(24)]).into_owned();
            format!("{path} ({}, {}: {text:?})", seen.inode, content.len())
        }
    };
    view.iter().map(line).collect::<Vec<_>>().join("\n")
}
