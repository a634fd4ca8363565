//! Old bytes stay readable: every sealed or stored format of the engine's cryptography, against bytes committed in
//! `tests/data`. If one of these fails, data in the field would be lost: add a new version beside the old one.

use bytes::Bytes;
use std::sync::Arc;
use strewn_engine::bucket::{Cipher, EncryptedName, Entry, Extent, Inode, Kind, Sealed, Timestamp, WindowTag};
use strewn_engine::content::run::{RunCipher, run_id};
use strewn_engine::content::window::content_hash;
use strewn_engine::grant::{AccessGrant, Actions, ApiKey, Caveat, OpenedKey, Subtree};
use strewn_engine::ids::{ApiKeyId, BucketId, InodeId};
use strewn_engine::keys::{Derivation, DirectoryKeys, InodeKeys, RootSecret};
use strewn_engine::record::{Attributes, Record, Xattrs};
use strewn_engine::secret::Key;

macro_rules! data {
    ($name:literal) => {
        hex(include_str!(concat!("data/", $name, ".hex")))
    };
}

const BUCKET: BucketId = BucketId::from_bytes([0xb0; 16]);
const PARENT: InodeId = InodeId::from_bytes([0x10; 16]);
const CHILD: InodeId = InodeId::from_bytes([0x20; 16]);

fn key(byte: u8) -> Key {
    Key::from_bytes([byte; 32])
}

fn hex(text: &str) -> Vec<u8> {
    data_encoding::HEXLOWER.decode(text.trim().as_bytes()).expect("committed data is hexadecimal")
}

/// Compares in hexadecimal, so that a failure can be read.
#[track_caller]
fn assert_bytes(actual: &[u8], committed: &[u8]) {
    assert_eq!(data_encoding::HEXLOWER.encode(actual), data_encoding::HEXLOWER.encode(committed));
}

fn sealed(bytes: Vec<u8>) -> Sealed {
    Sealed { generation: 0, bytes: bytes.into() }
}

#[test]
fn derivation_and_root_secret() {
    let derivation = Derivation::new([0x5a; 32]);
    assert_bytes(&derivation.encode(), &data!("derivation"));
    let derivation = Derivation::parse(&data!("derivation")).unwrap();
    let secret = RootSecret::derive(b"correct horse battery staple", &derivation).unwrap();
    assert_bytes(secret.key().as_bytes(), &data!("root-secret"));
}

#[test]
fn root_directory_key() {
    let bucket_key = RootSecret::from_key(key(1)).bucket_key(BUCKET);
    assert_bytes(&bucket_key.seal_root(BUCKET, PARENT, &key(2)).bytes, &data!("root-directory-key"));
    assert_eq!(bucket_key.open_root(BUCKET, PARENT, &sealed(data!("root-directory-key"))), Ok(key(2)));
}

#[test]
fn names() {
    let keys = DirectoryKeys::new(&key(3));
    let long = [b'n'; 255];
    for (plain, committed) in [("päth name.txt".as_bytes(), data!("name")), (&long[..], data!("name-255"))] {
        let name = plain.try_into().unwrap();
        assert_bytes(keys.encrypt_name(PARENT, &name).as_bytes(), &committed);
        assert_eq!(keys.decrypt_name(PARENT, &EncryptedName::try_from(committed).unwrap()), Ok(name));
    }
}

#[test]
fn child_key() {
    let keys = DirectoryKeys::new(&key(3));
    let name = EncryptedName::try_from(data!("name")).unwrap();
    let seal = keys.seal_child(PARENT, &name, CHILD, Kind::File, &key(4));
    assert_bytes(&seal.bytes, &data!("child-key"));
    let entry = Entry { parent: PARENT, name, child: CHILD, kind: Kind::File, key: sealed(data!("child-key")) };
    assert_eq!(keys.open_child(&entry), Ok(key(4)));
}

#[test]
fn inode_records() {
    let time = |seconds, nanos| Timestamp { seconds, nanos };
    let xattrs =
        Xattrs::from([(b"user.colour".to_vec(), Bytes::from_static(b"blue")), (b"user.empty".to_vec(), Bytes::new())]);
    let file = Attributes {
        kind: Kind::File,
        mode: 0o4755,
        uid: 1000,
        gid: 100,
        size: 5_000_000_000,
        atime: time(1_700_000_000, 1),
        mtime: time(-1, 999_999_999),
        ctime: time(1_700_000_001, 0),
        btime: time(0, 0),
        rdev: 0,
        target: Bytes::new(),
        xattrs: Arc::new(xattrs),
    };
    let target = Bytes::from_static(b"../elsewhere");
    let link = Attributes { kind: Kind::Symlink, size: 12, target, xattrs: Arc::default(), ..file.clone() };
    let device = Attributes { kind: Kind::CharDevice, size: 0, rdev: 0x0103, xattrs: Arc::default(), ..file.clone() };
    let keys = InodeKeys::new(&key(4));
    for (attributes, allocated, committed) in [
        (file.clone(), None, data!("record-file")),
        (link, None, data!("record-symlink")),
        (device, None, data!("record-device")),
        (file, Some(4_999_999_999), data!("record-file-2")),
    ] {
        let (kind, size) = (attributes.kind, attributes.size);
        let record = Record { attributes, content: [0xcc; 32], entries_as_of: time(7, 8), allocated };
        assert_bytes(&keys.seal_record(CHILD, kind, 9, &record).bytes, &committed);
        let row = Inode {
            inode: CHILD,
            kind,
            version: 9,
            nlink: 1,
            size,
            record: sealed(committed),
            changed: time(0, 0),
            entries_changed: time(0, 0),
        };
        assert_eq!(keys.open_record(&row), Ok(record));
    }
}

fn extent(offset: u64, run_offset: u64, cipher: Cipher) -> Extent {
    let run_key = sealed(data!("run-key"));
    Extent { offset, length: 1000, run: run_id(&key(5)), run_length: 100_000, run_offset, cipher, run_key }
}

#[test]
fn run_id_and_run_key() {
    assert_bytes(run_id(&key(5)).as_bytes(), &data!("run-id"));
    let keys = InodeKeys::new(&key(4));
    assert_bytes(&keys.seal_run_key(run_id(&key(5)), &key(5)).bytes, &data!("run-key"));
    assert_eq!(keys.open_run_key(&extent(0, 0, Cipher::Aes256Gcm)), Ok(key(5)));
}

#[test]
fn run_blocks() {
    // A full block is 65,520 bytes, so the last of this run holds 40.
    let length = 65_520 + 40;
    let plaintext: Vec<u8> = (0..40).collect();
    for (cipher, committed) in
        [(Cipher::Aes256Gcm, data!("block-aes-256-gcm")), (Cipher::ChaCha20Poly1305, data!("block-chacha20-poly1305"))]
    {
        let run = RunCipher::new(cipher, &key(5), length);
        let mut block = plaintext.clone();
        run.seal_block(1, &mut block);
        assert_bytes(&block, &committed);
        let mut block = committed;
        assert_eq!(run.open_block(1, &mut block), Ok(&plaintext[..]));
    }
}

#[test]
fn window_tags_and_content_hash() {
    let extents = [
        extent(0, 0, Cipher::Aes256Gcm),
        extent(1000, 1000, Cipher::Aes256Gcm),
        extent(5000, 0, Cipher::ChaCha20Poly1305),
    ];
    let tag = InodeKeys::new(&key(4)).window_tag(CHILD, 0, &extents);
    assert_bytes(&tag.0, &data!("window-tag"));
    assert_bytes(&content_hash(&[(0, tag), (70_000, WindowTag([1; 32]))]), &data!("content-hash"));
}

fn caveats() -> [Caveat; 2] {
    let subtree = |inode| Subtree { bucket: BUCKET, inode };
    let seconds = |seconds| Some(Timestamp { seconds, nanos: 0 });
    [
        Caveat { disallow: Actions::CHANGES, nonce: Some([0x77; 16]), ..Caveat::default() },
        Caveat {
            subtrees: Some(vec![subtree(PARENT), subtree(CHILD)]),
            not_before: seconds(1_700_000_000),
            not_after: seconds(1_800_000_000),
            max_ttl: Some(std::time::Duration::from_secs(86_400)),
            ..Caveat::default()
        },
    ]
}

fn api_key() -> ApiKey {
    let key = ApiKey::create(ApiKeyId::from_bytes([0xa0; 16]), &key(6));
    caveats().iter().fold(key, |key, caveat| key.restrict(caveat).unwrap())
}

#[test]
fn api_keys() {
    assert_bytes(&api_key().serialize(), &data!("api-key"));
    let parsed = ApiKey::parse(&data!("api-key")).unwrap();
    assert!(parsed.verify(&key(6)));
    assert_eq!(parsed.caveats().collect::<Option<Vec<_>>>(), Some(caveats().to_vec()));
    assert_bytes(&parsed.tail().0, &data!("api-key-tail"));
}

#[test]
fn access_grants() {
    let grant = AccessGrant {
        satellite: "/ip4/127.0.0.1/tcp/7777/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN".to_owned(),
        api_key: api_key(),
        keys: vec![
            OpenedKey::Root { secret: RootSecret::from_key(key(1)), derivation: Derivation::new([0x5a; 32]) },
            OpenedKey::Subtree {
                bucket: BUCKET,
                bucket_name: "drive".to_owned(),
                inode: PARENT,
                kind: Kind::Directory,
                key: key(3),
                path: "holiday/2024".to_owned(),
            },
        ],
    };
    let committed = include_str!("data/grant.txt");
    assert_eq!(grant.serialize().unwrap().as_str(), committed.trim());
    assert_eq!(AccessGrant::parse(committed), Ok(grant));
}
