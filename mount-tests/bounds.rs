//! What a mount takes of the machine, measured under load: memory, file descriptors, and room for its cache.
//!
//! ```text
//! cargo bench -p strewn --bench bounds -- [--read-files N] [--read-size MIB] [--entries N] [--write MIB]
//!                                         [--cache-size MIB] [--json]
//! ```
//!
//! A network on this machine and two mounts of its bucket: one fills the bucket, the other is measured while it reads many
//! files at once with an empty cache, lists a directory with very many entries, and writes more than its cache may hold.
//! Memory is the high-water mark of the resident set in each of these (`VmHWM`); descriptors and bytes on disk are looked at
//! all the time. Ends with status 1 if anything is over its bound.

#[allow(dead_code)] // the tests use the rest
mod harness;

use harness::{Drive, run};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Most bytes of memory.
const MAX_MEMORY: u64 = 256 << 20;
/// Most descriptors beside one for each node.
const MAX_DESCRIPTORS: u64 = 256;
/// Most data files open.
const MAX_DATA_FILES: u64 = 64;
/// Storage nodes, with a redundancy that needs little disk.
const NODES: u64 = 6;
const REDUNDANCY: &str = "4/5/5/6";
/// How often descriptors and disk are looked at.
const SAMPLE: Duration = Duration::from_millis(50);
/// Bytes of a read or write.
const STEP: usize = 1 << 20;
const MIB: u64 = 1 << 20;
/// Files that are written at once.
const WRITERS: u64 = 4;
/// Threads that make the entries.
const MAKERS: u64 = 4;

/// How much is done.
struct Sizes {
    read_files: u64,
    read_size: u64,
    entries: u64,
    write: u64,
    cache: u64,
    json: bool,
}

/// What was seen of the mount in one load.
#[derive(Debug, Default, Clone, Copy)]
struct Seen {
    memory: u64,
    descriptors: u64,
    data_files: u64,
    cache: u64,
}

fn main() -> ExitCode {
    let sizes = match Sizes::parse() {
        Ok(Some(sizes)) => sizes,
        // Started by `cargo test --benches`, which only wants to know that it is there.
        Ok(None) => return ExitCode::SUCCESS,
        Err(wrong) => {
            eprintln!("bounds: {wrong}");
            return ExitCode::from(2);
        }
    };
    if measure(&sizes) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Does everything; true if all bounds were kept.
fn measure(sizes: &Sizes) -> bool {
    let drive = Drive::network_with(&["--nodes", &NODES.to_string(), "--redundancy", REDUNDANCY]);
    let size = format!("{}M", sizes.cache / MIB);
    let filler = drive.beside("filler");
    let mount = |at: &Path, cache: PathBuf| {
        fs::create_dir_all(at).expect("a mountpoint");
        let mut mount = drive.strewn(["mount", "drive", "--detach", "--cache-size", &size, "--cache-dir"]);
        run(mount.arg(cache).arg(at));
    };
    mount(&filler, drive.beside("filler-cache"));
    let filled = Instant::now();
    let preparing = watched(mount_of(&drive, &filler), &drive.beside("filler-cache"), || fill(&filler, sizes));
    eprintln!("filled in {:.0?}: {preparing:?} (not judged)", filled.elapsed());
    run(drive.strewn(["umount"]).arg(&filler));
    fs::remove_dir_all(drive.beside("filler-cache")).expect("the cache of a mount that ended");

    mount(drive.path(), drive.beside("cache"));
    let (pid, cache, path) = (drive.mount_pid(), drive.beside("cache"), drive.path());
    let loads: [(&str, &dyn Fn()); 3] = [
        ("read", &|| read_at_once(path, sizes)),
        ("list", &|| list(&path.join("many"), sizes)),
        ("write", &|| {
            write_at_once(path, sizes);
            drive.sync();
        }),
    ];
    let mut kept = true;
    for (name, load) in loads {
        let begun = Instant::now();
        let seen = watched(pid, &cache, load);
        kept &= tell(name, &seen, begun.elapsed(), sizes);
    }
    kept
}

fn mount_of(drive: &Drive, mountpoint: &Path) -> u32 {
    let status = run(drive.strewn(["status", "--json"]).arg(mountpoint));
    let status: serde_json::Value = serde_json::from_str(&status).expect("status prints JSON");
    status["pid"].as_u64().expect("a process id") as u32
}

/// Files to read, and a directory with many entries.
fn fill(root: &Path, sizes: &Sizes) {
    for number in 0..sizes.read_files {
        write_file(&root.join(format!("read-{number}")), sizes.read_size, number);
    }
    let many = root.join("many");
    fs::create_dir(&many).expect("a directory");
    thread::scope(|scope| {
        for maker in 0..MAKERS {
            let many = &many;
            scope.spawn(move || {
                for number in (maker..sizes.entries).step_by(MAKERS as usize) {
                    File::create(many.join(format!("entry-{number:08}"))).expect("an entry");
                }
            });
        }
    });
}

fn read_at_once(root: &Path, sizes: &Sizes) {
    thread::scope(|scope| {
        for number in 0..sizes.read_files {
            scope.spawn(move || {
                let mut file = File::open(root.join(format!("read-{number}"))).expect("a file");
                let (mut bytes, mut expected) = (vec![0; STEP], Noise(number));
                let mut left = sizes.read_size as usize;
                while left > 0 {
                    let step = left.min(STEP);
                    file.read_exact(&mut bytes[..step]).expect("its bytes");
                    let mut right = vec![0; step];
                    expected.fill(&mut right);
                    assert!(bytes[..step] == right, "read-{number} is not what was written");
                    left -= step;
                }
            });
        }
    });
}

/// What `ls -l` asks for.
fn list(directory: &Path, sizes: &Sizes) {
    let mut seen = 0;
    for entry in fs::read_dir(directory).expect("a directory") {
        let entry = entry.expect("an entry");
        entry.metadata().expect("its attributes");
        seen += 1;
    }
    assert_eq!(seen, sizes.entries, "entries listed");
}

fn write_at_once(root: &Path, sizes: &Sizes) {
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            scope.spawn(move || {
                write_file(&root.join(format!("written-{writer}")), sizes.write / WRITERS, 1_000_000 + writer)
            });
        }
    });
}

fn write_file(path: &Path, size: u64, seed: u64) {
    let mut file = File::create(path).expect("a file");
    let (mut bytes, mut noise, mut left) = (vec![0; STEP], Noise(seed), size as usize);
    while left > 0 {
        let step = left.min(STEP);
        noise.fill(&mut bytes[..step]);
        file.write_all(&bytes[..step]).expect("room");
        left -= step;
    }
    file.sync_all().expect("a disk");
}

/// Does something while a mount is looked at.
fn watched(pid: u32, cache: &Path, load: impl Fn()) -> Seen {
    // "5" resets the high-water mark of the resident set.
    fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("the mount is ours");
    let done = AtomicBool::new(false);
    let mut seen = thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut seen = Seen::default();
            while !done.load(Ordering::Acquire) {
                look(pid, cache, &mut seen);
                thread::sleep(SAMPLE);
            }
            look(pid, cache, &mut seen);
            seen
        });
        load();
        done.store(true, Ordering::Release);
        watcher.join().expect("it does not panic")
    });
    seen.memory = high_water(pid);
    seen
}

fn look(pid: u32, cache: &Path, seen: &mut Seen) {
    let (mut descriptors, mut data_files) = (0, 0);
    let data = cache.join("data");
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).expect("the mount runs") {
        descriptors += 1;
        let target = entry.and_then(|entry| fs::read_link(entry.path()));
        // One may be closed between listing and looking.
        data_files += u64::from(target.is_ok_and(|target| target.starts_with(&data)));
    }
    seen.descriptors = seen.descriptors.max(descriptors);
    seen.data_files = seen.data_files.max(data_files);
    seen.cache = seen.cache.max(disk_usage(cache));
}

/// Bytes of disk that the files of a directory take. What goes while it is looked at counts as gone.
fn disk_usage(directory: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else { return 0 };
    let bytes = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => disk_usage(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    };
    entries.flatten().map(bytes).sum()
}

fn high_water(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the mount runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the kernel tells it");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

/// Prints what was seen; true if it is within bounds.
fn tell(load: &str, seen: &Seen, took: Duration, sizes: &Sizes) -> bool {
    let measures = [
        ("memory", seen.memory, MAX_MEMORY),
        ("descriptors", seen.descriptors, MAX_DESCRIPTORS + NODES),
        ("data_files", seen.data_files, MAX_DATA_FILES),
        ("cache", seen.cache, sizes.cache),
    ];
    let kept = measures.iter().all(|(_, found, most)| found <= most);
    if sizes.json {
        let told: serde_json::Map<_, _> = measures
            .iter()
            .map(|(name, found, most)| ((*name).to_owned(), serde_json::json!({ "found": found, "most": most })))
            .collect();
        let seconds = took.as_secs_f64();
        println!("{}", serde_json::json!({ "load": load, "seconds": seconds, "kept": kept, "measures": told }));
    } else {
        println!("{load}: {took:.1?}");
        for (name, found, most) in measures {
            let over = if found > most { "  OVER" } else { "" };
            println!("  {name:<12} {found:>12} of {most}{over}");
        }
    }
    kept
}

impl Sizes {
    /// `None` if nothing is to be measured.
    fn parse() -> Result<Option<Self>, String> {
        let mut sizes = Self {
            read_files: 64,
            read_size: 16 * MIB,
            entries: 1_000_000,
            write: 4096 * MIB,
            cache: 2048 * MIB,
            json: false,
        };
        let mut wanted = false;
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut number = || {
                let text = arguments.next().ok_or(format!("{argument} needs a number"))?;
                text.parse::<u64>().map_err(|error| format!("{argument} {text}: {error}"))
            };
            match argument.as_str() {
                // From cargo.
                "--bench" => wanted = true,
                "--read-files" => sizes.read_files = number()?,
                "--read-size" => sizes.read_size = number()? * MIB,
                "--entries" => sizes.entries = number()?,
                "--write" => sizes.write = number()? * MIB,
                "--cache-size" => sizes.cache = number()? * MIB,
                "--json" => sizes.json = true,
                _ => return Err(format!("unknown argument {argument}")),
            }
        }
        Ok(wanted.then_some(sizes))
    }
}

/// Bytes that do not compress and are the same for the same seed (SplitMix64).
struct Noise(u64);

impl Noise {
    fn fill(&mut self, bytes: &mut [u8]) {
        for eight in bytes.chunks_mut(8) {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            eight.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes()[..eight.len()]);
        }
    }
}
