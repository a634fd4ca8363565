//! What encryption costs: names, child keys, records, window tags, and full blocks of both ciphers.

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::sync::Arc;
use strewn_engine::bucket::{Cipher, Entry, Extent, Inode, Kind, Timestamp};
use strewn_engine::content::run::{RunCipher, TAG, run_id};
use strewn_engine::content::{BLOCK, BLOCK_PLAIN, window};
use strewn_engine::grant::{Actions, ApiKey, Caveat};
use strewn_engine::ids::{ApiKeyId, InodeId};
use strewn_engine::keys::{DirectoryKeys, InodeKeys};
use strewn_engine::name::Name;
use strewn_engine::record::{Attributes, Record};
use strewn_engine::secret::Key;

const PARENT: InodeId = InodeId::from_bytes([1; 16]);
const CHILD: InodeId = InodeId::from_bytes([2; 16]);

fn key(byte: u8) -> Key {
    Key::from_bytes([byte; 32])
}

fn record() -> Record {
    let time = Timestamp { seconds: 1_700_000_000, nanos: 123_456_789 };
    let attributes = Attributes {
        kind: Kind::File,
        mode: 0o644,
        uid: 1000,
        gid: 1000,
        size: 4096,
        atime: time,
        mtime: time,
        ctime: time,
        btime: time,
        rdev: 0,
        target: Bytes::new(),
        xattrs: Arc::default(),
    };
    Record { attributes, content: window::content_hash(&[]), entries_as_of: Timestamp::default(), allocated: None }
}

fn row(keys: &InodeKeys) -> Inode {
    let record = record();
    Inode {
        inode: CHILD,
        kind: Kind::File,
        version: 1,
        nlink: 1,
        size: record.attributes.size,
        record: keys.seal_record(CHILD, Kind::File, 1, &record),
        changed: Timestamp::default(),
        entries_changed: Timestamp::default(),
    }
}

fn directories(c: &mut Criterion) {
    let keys = DirectoryKeys::new(&key(1));
    let name: Name = "a name of usual length.txt".parse().expect("a name");
    let encrypted = keys.encrypt_name(PARENT, &name);
    let sealed = keys.seal_child(PARENT, &encrypted, CHILD, Kind::File, &key(2));
    let entry = Entry { parent: PARENT, name: encrypted.clone(), child: CHILD, kind: Kind::File, key: sealed };
    c.bench_function("directory/derive keys", |b| b.iter(|| DirectoryKeys::new(black_box(&key(1)))));
    c.bench_function("name/encrypt", |b| b.iter(|| keys.encrypt_name(PARENT, black_box(&name))));
    c.bench_function("name/decrypt", |b| b.iter(|| keys.decrypt_name(PARENT, black_box(&encrypted))));
    c.bench_function("child key/seal", |b| {
        b.iter(|| keys.seal_child(PARENT, black_box(&encrypted), CHILD, Kind::File, &key(2)))
    });
    c.bench_function("child key/open", |b| b.iter(|| keys.open_child(black_box(&entry))));
    let row = row(&InodeKeys::new(&key(2)));
    c.bench_function("listing/one entry with its record", |b| {
        b.iter(|| {
            let name = keys.decrypt_name(PARENT, black_box(&entry.name)).expect("authentic");
            let key = keys.open_child(&entry).expect("authentic");
            (name, InodeKeys::new(&key).open_record(&row).expect("authentic"))
        })
    });
}

fn inodes(c: &mut Criterion) {
    let keys = InodeKeys::new(&key(2));
    let (record, row) = (record(), row(&keys));
    c.bench_function("record/seal", |b| b.iter(|| keys.seal_record(CHILD, Kind::File, 1, black_box(&record))));
    c.bench_function("record/open", |b| b.iter(|| keys.open_record(black_box(&row))));
    let run = run_id(&key(3));
    let extent = |n: u64| Extent {
        offset: n * 8192,
        length: 4096,
        run,
        run_length: 65_520,
        run_offset: 0,
        cipher: Cipher::Aes256Gcm,
        run_key: keys.seal_run_key(run, &key(3)),
    };
    let extents: Vec<Extent> = (0..1024).map(extent).collect();
    c.bench_function("run key/open", |b| b.iter(|| keys.open_run_key(black_box(&extents[0]))));
    c.bench_function("window tag/1 extent", |b| b.iter(|| keys.window_tag(CHILD, 0, black_box(&extents[..1]))));
    c.bench_function("window tag/1024 extents", |b| b.iter(|| keys.window_tag(CHILD, 0, black_box(&extents))));
}

fn blocks(c: &mut Criterion) {
    for (name, cipher) in [("AES-256-GCM", Cipher::Aes256Gcm), ("ChaCha20-Poly1305", Cipher::ChaCha20Poly1305)] {
        let mut group = c.benchmark_group(name);
        group.bench_function("prepare", |b| b.iter(|| RunCipher::new(cipher, black_box(&key(3)), BLOCK_PLAIN)));
        group.throughput(Throughput::Bytes(BLOCK_PLAIN));
        let run = RunCipher::new(cipher, &key(3), BLOCK_PLAIN);
        let mut plaintext = vec![0x5a; BLOCK_PLAIN as usize];
        let mut ciphertext = vec![0; BLOCK_PLAIN as usize + TAG];
        assert_eq!(ciphertext.len() as u64, BLOCK);
        group.bench_function("seal 64 KiB", |b| {
            b.iter(|| run.seal_block_into(0, black_box(&plaintext), &mut ciphertext));
        });
        group.bench_function("open 64 KiB", |b| {
            b.iter(|| run.open_block_into(0, black_box(&ciphertext), &mut plaintext).expect("authentic"));
        });
        group.finish();
    }
}

fn api_keys(c: &mut Criterion) {
    let caveat = Caveat { disallow: Actions::CHANGES, ..Caveat::default() };
    let api_key = ApiKey::create(ApiKeyId::from_bytes([4; 16]), &key(4)).restrict(&caveat).expect("fits");
    let bytes = api_key.serialize();
    c.bench_function("api key/parse, verify and check", |b| {
        b.iter(|| {
            let api_key = ApiKey::parse(black_box(&bytes)).expect("well-formed");
            (api_key.verify(&key(4)), api_key.check(Timestamp::default()))
        })
    });
}

criterion_group!(benches, directories, inodes, blocks, api_keys);
criterion_main!(benches);
