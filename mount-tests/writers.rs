//! Writers that know what they were promised, and judge what is there after a crash.
//!
//! Each works in a directory of its own until the drive fails under it. What an fsync covered has to be there; what was
//! written without one may be missing, unless it is older than the drive's promise ([`TICK`]); and nothing is ever there
//! that was not written: no zeros, no bytes from elsewhere, no other names.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// What is older than this is safe without a sync. A writer cannot go on for longer while it is not: so this is measured
/// between two calls of the same writer that succeeded, whatever the machine is busy with.
const TICK: Duration = Duration::from_secs(1);

/// Sizes of writes: some ride in the journal, some go to data files only.
const SIZES: [usize; 6] = [40, 500, 4_096, 32_768, 33_000, 100_000];

/// Most writes of a writer, so that a long round does not fill the disk.
const MOST_WRITES: u64 = 5_000;

/// What a writer that waits for no disk does between two calls, so that it does not overwhelm the others.
const THINK: Duration = Duration::from_millis(2);

/// Calls that were acknowledged, of all writers together.
#[derive(Default)]
pub(crate) struct Acknowledged(AtomicUsize);

impl Acknowledged {
    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    fn one_more(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// One kind of work.
pub(crate) trait Writer: Send {
    /// What it is called in a judgement.
    fn name(&self) -> &'static str;

    /// Works until something fails, and says how.
    fn work(&mut self, acknowledged: &Acknowledged) -> io::Error;

    /// Calls it was told are safe, up to now.
    fn promises(&self) -> usize;

    /// Panics if what is there is not what it may be.
    fn judge(&self);
}

/// One writer of every kind, each with a new directory below `dir`, which has to exist.
pub(crate) fn all(dir: &Path, seed: u64) -> io::Result<Vec<Box<dyn Writer>>> {
    let place = |name: &str| {
        let place = dir.join(name);
        fs::create_dir(&place).map(|()| place)
    };
    let writers: Vec<Box<dyn Writer>> = vec![
        Box::new(Log::new(place("log")?, seed, true)),
        Box::new(Log::new(place("unsynced-log")?, seed + 1, false)),
        Box::new(Names::new(place("names")?, seed + 2, true)),
        Box::new(Names::new(place("unsynced-names")?, seed + 3, false)),
        Box::new(Pages::new(place("pages")?.join("pages"), seed + 4, 4_096, 64)?),
        Box::new(Pages::new(place("large-pages")?.join("pages"), seed + 5, 102_400, 12)?),
        Box::new(Database::new(place("rollback")?, "delete")),
        Box::new(Database::new(place("wal")?, "wal")),
    ];
    sync_directory(dir)?;
    sync_directory(dir.parent().expect("it is below the mountpoint"))?;
    Ok(writers)
}

/// Bytes of a stream from an offset on; never zero.
pub(crate) fn bytes(seed: u64, offset: u64, length: usize) -> Vec<u8> {
    (offset..offset + length as u64).map(|at| (mix(seed ^ mix(at / 8)) >> (at % 8 * 8)) as u8 | 1).collect()
}

/// A number that looks random (splitmix64).
pub(crate) fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// A call without a sync.
struct Call {
    issued: Instant,
    returned: Instant,
}

/// Calls that by now have to be safe: those that came back [`TICK`] before a later one was begun that succeeded.
fn old_enough(calls: &[Call]) -> usize {
    let Some(last) = calls.last().map(|call| call.issued) else { return 0 };
    calls.iter().take_while(|call| call.returned + TICK <= last).count()
}

/// Appends to a file, with an fsync or fdatasync after each record, or with none at all.
struct Log {
    path: PathBuf,
    seed: u64,
    synced: bool,
    /// End of the file after each call that came back.
    ends: Vec<u64>,
    calls: Vec<Call>,
}

impl Log {
    fn new(dir: PathBuf, seed: u64, synced: bool) -> Self {
        Self { path: dir.join("log"), seed, synced, ends: Vec::new(), calls: Vec::new() }
    }

    fn append(&mut self, acknowledged: &Acknowledged) -> io::Result<()> {
        let mut file = OpenOptions::new().append(true).create(true).open(&self.path)?;
        file.sync_all()?;
        sync_directory(self.path.parent().expect("it has one"))?;
        let mut end = 0;
        for number in 0..MOST_WRITES {
            let issued = Instant::now();
            let record = bytes(self.seed, end, SIZES[mix(self.seed ^ number) as usize % SIZES.len()]);
            file.write_all(&record)?;
            match number % 3 {
                _ if !self.synced => std::thread::park_timeout(THINK),
                0 => file.sync_data()?,
                _ => file.sync_all()?,
            }
            end += record.len() as u64;
            self.ends.push(end);
            self.calls.push(Call { issued, returned: Instant::now() });
            acknowledged.one_more();
        }
        Err(done())
    }
}

impl Writer for Log {
    fn name(&self) -> &'static str {
        if self.synced { "log with fsync" } else { "log without fsync" }
    }

    fn work(&mut self, acknowledged: &Acknowledged) -> io::Error {
        self.append(acknowledged).expect_err("it ends with an error")
    }

    fn promises(&self) -> usize {
        if self.synced { self.ends.len() } else { old_enough(&self.calls) }
    }

    fn judge(&self) {
        let content = fs::read(&self.path).expect("the log's name was synced");
        let promised = self.promises().checked_sub(1).map_or(0, |last| self.ends[last]);
        let found = content.len() as u64;
        assert!(found >= promised, "{}: {found} bytes are left of {promised}", self.name());
        assert_same(self.name(), &content, &bytes(self.seed, 0, content.len()));
    }
}

/// What a name may stand for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum May {
    Absent,
    /// These bytes of the stream.
    File {
        seed: u64,
        length: usize,
    },
    /// Or only the first of them.
    Begun {
        seed: u64,
        length: usize,
    },
}

/// Creates files, renames them over others, links and removes them; with an fsync of file and directory, or with none.
struct Names {
    dir: PathBuf,
    seed: u64,
    synced: bool,
    /// What each name may stand for: what was promised last, and what was tried since.
    names: BTreeMap<String, Vec<May>>,
    /// States that calls without a sync led to.
    reached: Vec<(String, May)>,
    calls: Vec<Call>,
    promised: usize,
}

impl Names {
    fn new(dir: PathBuf, seed: u64, synced: bool) -> Self {
        let (names, reached, calls) = (BTreeMap::new(), Vec::new(), Vec::new());
        Self { dir, seed, synced, names, reached, calls, promised: 0 }
    }

    /// A call that leads names to new states, over others in between.
    fn step(&mut self, to: &[(&str, &[May])], call: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
        for (name, states) in to {
            self.names.entry((*name).to_owned()).or_insert_with(|| vec![May::Absent]).extend_from_slice(states);
        }
        let issued = Instant::now();
        call(&self.dir)?;
        match self.synced {
            true => sync_directory(&self.dir)?,
            false => std::thread::park_timeout(THINK),
        }
        for (name, states) in to {
            self.reached.push(((*name).to_owned(), *states.last().expect("it leads somewhere")));
            self.calls.push(Call { issued, returned: Instant::now() });
        }
        Ok(())
    }

    fn round(&mut self, number: u64, acknowledged: &Acknowledged) -> io::Result<()> {
        let seed = mix(self.seed ^ number);
        let length = SIZES[seed as usize % SIZES.len()];
        let (file, begun) = (May::File { seed, length }, May::Begun { seed, length });
        let (temporary, target) = (format!("temporary-{number}"), format!("target-{}", number % 5));
        let (linked, old) = (format!("linked-{number}"), format!("linked-{}", number.saturating_sub(3)));
        let synced = self.synced;
        self.step(&[(&temporary, &[begun, file])], |dir| {
            let mut new = OpenOptions::new().write(true).create_new(true).mode(0o640).open(dir.join(&temporary))?;
            new.write_all(&bytes(seed, 0, length))?;
            if synced { new.sync_all() } else { Ok(()) }
        })?;
        self.step(&[(&linked, &[begun, file])], |dir| fs::hard_link(dir.join(&temporary), dir.join(&linked)))?;
        self.step(&[(&temporary, &[May::Absent]), (&target, &[begun, file])], |dir| {
            fs::rename(dir.join(&temporary), dir.join(&target))
        })?;
        if number >= 3 {
            self.step(&[(&old, &[May::Absent])], |dir| fs::remove_file(dir.join(&old)))?;
        }
        acknowledged.one_more();
        Ok(())
    }

    /// Takes for promised what has to be safe by now.
    fn settle(&mut self) {
        let safe = if self.synced { self.reached.len() } else { old_enough(&self.calls) };
        for (name, state) in &self.reached[self.promised..safe] {
            let states = self.names.get_mut(name).expect("it was tried");
            let at = states.iter().position(|may| may == state).expect("it was tried");
            states.drain(..at);
        }
        self.promised = safe;
    }
}

impl Writer for Names {
    fn name(&self) -> &'static str {
        if self.synced { "names with fsync" } else { "names without fsync" }
    }

    fn work(&mut self, acknowledged: &Acknowledged) -> io::Error {
        let mut rounds = (0..MOST_WRITES).map(|number| self.round(number, acknowledged));
        let error = rounds.find_map(Result::err).unwrap_or_else(done);
        self.settle();
        error
    }

    fn promises(&self) -> usize {
        self.promised
    }

    fn judge(&self) {
        let found: BTreeMap<String, Vec<u8>> = fs::read_dir(&self.dir)
            .expect("the directory was synced")
            .map(|entry| {
                let entry = entry.expect("it can be listed");
                let content = fs::read(entry.path()).expect("what is listed can be read");
                (entry.file_name().into_string().expect("a name of ours"), content)
            })
            .collect();
        for name in found.keys() {
            assert!(self.names.contains_key(name), "{}: nobody made {name}", self.name());
        }
        for (name, states) in &self.names {
            let content = found.get(name).map(Vec::as_slice);
            let fits = states.iter().any(|may| match (*may, content) {
                (May::Absent, None) => true,
                (May::File { seed, length }, Some(content)) => content == bytes(seed, 0, length),
                (May::Begun { seed, length }, Some(content)) => {
                    content.len() <= length && content == bytes(seed, 0, content.len())
                }
                _ => false,
            });
            assert!(fits, "{}: {name} holds {}", self.name(), content.map_or("nothing".into(), describe));
        }
    }
}

/// Overwrites pages of a file in place, a few at a time, then fdatasync.
struct Pages {
    path: PathBuf,
    seed: u64,
    size: usize,
    /// Of each page: what was synced last, and what was tried since.
    versions: Vec<Vec<u64>>,
    promised: usize,
}

impl Pages {
    fn new(path: PathBuf, seed: u64, size: usize, count: usize) -> io::Result<Self> {
        let pages = Self { path, seed, size, versions: vec![vec![0]; count], promised: 0 };
        let mut file = File::create(&pages.path)?;
        for page in 0..count {
            file.write_all(&pages.content(page, 0))?;
        }
        file.sync_all()?;
        sync_directory(pages.path.parent().expect("it has one"))?;
        Ok(pages)
    }

    fn content(&self, page: usize, version: u64) -> Vec<u8> {
        bytes(self.seed ^ mix(version), (page * self.size) as u64, self.size)
    }

    fn overwrite(&mut self, acknowledged: &Acknowledged) -> io::Result<()> {
        let file = OpenOptions::new().read(true).write(true).open(&self.path)?;
        for version in 1..=MOST_WRITES {
            let some = mix(self.seed ^ version);
            let pages: Vec<usize> = (0..1 + some % 3).map(|n| mix(some + n) as usize % self.versions.len()).collect();
            for &page in &pages {
                self.versions[page].push(version);
                file.write_all_at(&self.content(page, version), (page * self.size) as u64)?;
            }
            file.sync_data()?;
            for &page in &pages {
                self.versions[page] = vec![version];
            }
            self.promised += 1;
            acknowledged.one_more();
        }
        Err(done())
    }
}

impl Writer for Pages {
    fn name(&self) -> &'static str {
        if self.size > 32_768 { "large pages" } else { "pages" }
    }

    fn work(&mut self, acknowledged: &Acknowledged) -> io::Error {
        self.overwrite(acknowledged).expect_err("it ends with an error")
    }

    fn promises(&self) -> usize {
        self.promised
    }

    fn judge(&self) {
        let content = fs::read(&self.path).expect("the file was synced");
        assert_eq!(content.len(), self.size * self.versions.len(), "{}", self.name());
        // A write that rides in the journal is there as a whole or not at all; a larger one may be there in part.
        let atom = if self.size > 32_768 { 512 } else { self.size };
        for (page, found) in content.chunks(self.size).enumerate() {
            let allowed: Vec<Vec<u8>> =
                self.versions[page].iter().map(|&version| self.content(page, version)).collect();
            for (at, part) in found.chunks(atom).enumerate() {
                let at = at * atom..at * atom + part.len();
                let fits = allowed.iter().any(|whole| whole[at.clone()] == *part);
                let versions = &self.versions[page];
                assert!(fits, "{}: page {page} at {at:?}: {}; versions {versions:?}", self.name(), describe(part));
            }
        }
    }
}

/// Inserts rows with the SQLite shell, a transaction each.
struct Database {
    path: PathBuf,
    mode: &'static str,
    /// Rows that were committed.
    rows: u64,
}

impl Database {
    fn new(dir: PathBuf, mode: &'static str) -> Self {
        Self { path: dir.join("database"), mode, rows: 0 }
    }

    fn insert(&mut self, acknowledged: &Acknowledged) -> io::Result<()> {
        let mut shell = Command::new("sqlite3");
        shell.args(["-batch", "-bail"]).arg(&self.path);
        let mut shell = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut input = shell.stdin.take().expect("it was piped");
        let mut output = BufReader::new(shell.stdout.take().expect("it was piped"));
        // `extra` syncs the directory after the rollback journal went: without it a commit is not durable.
        let begin = format!(
            "pragma journal_mode={}; pragma synchronous=extra; create table t(id integer primary key, v);",
            self.mode
        );
        let mut work = || -> io::Result<()> {
            writeln!(input, "{begin}")?;
            for row in 1..=MOST_WRITES {
                writeln!(input, "insert into t values({row}, printf('%d-%.500c', {row}, 'v')); select 'row', {row};")?;
                let expected = format!("row|{row}\n");
                let mut line = String::new();
                while line != expected {
                    line.clear();
                    if output.read_line(&mut line)? == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                self.rows = row;
                acknowledged.one_more();
            }
            Err(done())
        };
        let ended = work();
        drop((input, output));
        shell.kill().and_then(|()| shell.wait())?;
        ended
    }
}

impl Writer for Database {
    fn name(&self) -> &'static str {
        if self.mode == "wal" { "database with a log" } else { "database with a rollback journal" }
    }

    fn work(&mut self, acknowledged: &Acknowledged) -> io::Error {
        self.insert(acknowledged).expect_err("it ends with an error")
    }

    fn promises(&self) -> usize {
        self.rows as usize
    }

    fn judge(&self) {
        let check = "pragma integrity_check; \
            select count(*), coalesce(max(id), 0), count(*) filter (where v <> printf('%d-%.500c', id, 'v')) from t;";
        let output = Command::new("sqlite3").arg("-batch").arg(&self.path).arg(check).output().expect("it runs");
        let (said, failed) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let counts = said.trim().strip_prefix("ok\n").unwrap_or_else(|| panic!("{}: {said}{failed}", self.name()));
        let counts: Vec<u64> = counts.split('|').map(|count| count.parse().expect("a number")).collect();
        let [rows, last, wrong] = counts[..] else { panic!("{}: {said}", self.name()) };
        assert!(rows == last && wrong == 0, "{}: {said}", self.name());
        assert!(rows >= self.rows, "{}: {rows} rows are left of {}", self.name(), self.rows);
    }
}

/// The end of a writer that was left alone for too long.
fn done() -> io::Error {
    io::Error::other("everything was written before the end")
}

#[track_caller]
fn assert_same(name: &str, found: &[u8], expected: &[u8]) {
    if let Some(at) = found.iter().zip(expected).position(|(found, expected)| found != expected) {
        panic!("{name}: from byte {at} of {} on: {}", found.len(), describe(&found[at..]));
    }
}

/// What bytes look like, for people.
fn describe(bytes: &[u8]) -> String {
    let zeros = bytes.iter().take_while(|&&byte| byte == 0).count();
    format!("{} bytes, of them {zeros} zeros at the beginning: {:02x?}…", bytes.len(), &bytes[..bytes.len().min(16)])
}
