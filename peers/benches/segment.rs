//! A 64 MiB segment through a whole network in this process: upload, download, and download with n - k nodes stopped.
//!
//! The stages an upload is made of are measured beside it with the same bytes: encryption, erasure code, hashing of the
//! pieces, and moving them over piece channels to somebody who drops them. What remains of an upload is the nodes' work:
//! hashing again, the log, its sync. All ends run on this machine, so figures are for both ends together. Beside the time
//! the CPU time of all threads is printed, which says more on a machine that has other things to do.

#[path = "../tests/common/mod.rs"]
mod common;

use bytes::Bytes;
use common::{Drive, File, grant, random, seal};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use futures::future::try_join_all;
use std::convert::Infallible;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;
use strewn_engine::bucket::{BucketService, Cipher};
use strewn_engine::content::{BLOCK, BLOCK_PLAIN};
use strewn_engine::erasure::Encoder;
use strewn_engine::ids::SegmentId;
use strewn_engine::piece::RootBuilder;
use strewn_engine::redundancy::Redundancy;
use strewn_engine::segment::{Geometry, MAX_SEGMENT};
use strewn_peers::identity::Identity;
use strewn_peers::local::control::NodeAction;
use strewn_peers::local::{LocalNetwork, LocalOptions};
use strewn_peers::transport::{BoxStream, ChannelDialer, ChannelListener, PeerAddress};
use strewn_peers::uplink::NewBucket;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;

const SCHEMES: [(Redundancy, usize); 2] = [(Redundancy::SMALL, 10), (Redundancy::STANDARD, 110)];
const SAMPLES: usize = 10;
/// Rounds over which CPU time is measured: it is counted in steps of 10 ms.
const CPU_ROUNDS: u32 = 20;

/// CPU time of all threads of this process so far.
fn cpu_time() -> Duration {
    const TICKS_PER_SECOND: u64 = 100;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND)
}

fn print_cpu(name: &str, scheme: impl std::fmt::Display, mut round: impl FnMut()) {
    let before = cpu_time();
    (0..CPU_ROUNDS).for_each(|_| round());
    println!("{name}/{scheme} CPU: {:?} a segment", (cpu_time() - before) / CPU_ROUNDS);
}

/// Plaintext that fills a segment.
fn plaintext() -> Vec<u8> {
    let mut bytes = vec![0; (MAX_SEGMENT / BLOCK * BLOCK_PLAIN) as usize];
    bytes.chunks_mut(1 << 16).for_each(|part| part[..32].copy_from_slice(&random::<32>()));
    bytes
}

fn whole_network(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let plain = plaintext();
    for (redundancy, nodes) in SCHEMES {
        let directory = tempfile::tempdir().unwrap();
        let (network, drive) = runtime.block_on(async {
            let options = LocalOptions { nodes: Some(nodes), redundancy: Some(redundancy), ..LocalOptions::default() };
            let network = LocalNetwork::start(directory.path(), &options).await.unwrap();
            let options = NewBucket { segment_size: MAX_SEGMENT, ..NewBucket::default() };
            let drive = Drive::create_with(&grant(&network, 1), "bench", &options).await;
            (network, drive)
        });
        let segment = seal(Cipher::Aes256Gcm, &plain).1;
        let mut group = criterion.benchmark_group("segment");
        group.throughput(Throughput::Bytes(MAX_SEGMENT)).sample_size(SAMPLES).measurement_time(Duration::from_secs(10));
        let upload = || {
            let id = SegmentId::from_bytes(random());
            runtime.block_on(drive.service().put_segment(id, Arc::new(segment.clone()))).unwrap();
        };
        group.bench_function(BenchmarkId::new("upload", redundancy), |bencher| bencher.iter(upload));
        print_cpu("segment/upload", redundancy, upload);
        let file = runtime.block_on(drive.store("file", &plain)).unwrap();
        let download = || runtime.block_on(read(&drive, &file));
        group.bench_function(BenchmarkId::new("download", redundancy), |bencher| bencher.iter(download));
        print_cpu("segment/download", redundancy, || drop(download()));
        let parity = usize::from(redundancy.total - redundancy.required);
        runtime.block_on(async {
            for node in 0..parity {
                network.node(node, NodeAction::Stop).await.unwrap();
            }
        });
        group.bench_function(BenchmarkId::new("download-degraded", redundancy), |bencher| bencher.iter(download));
        print_cpu("segment/download-degraded", redundancy, || drop(download()));
        group.finish();
        runtime.block_on(network.shutdown());
    }
}

/// Fetches and proves all blocks of a one-segment file.
async fn read(drive: &Drive, file: &File) -> Bytes {
    let extent = &file.extents[0];
    let blocks = extent.run_length.div_ceil(BLOCK_PLAIN);
    drive.bucket.service.run_blocks(file.inode, extent.run, 0, blocks).await.unwrap()
}

fn stages(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let plain = plaintext();
    let segment = seal(Cipher::Aes256Gcm, &plain).1;
    let mut group = criterion.benchmark_group("stage");
    group.throughput(Throughput::Bytes(MAX_SEGMENT)).sample_size(SAMPLES).measurement_time(Duration::from_secs(5));
    let encrypt = || drop(black_box(seal(Cipher::Aes256Gcm, &plain)));
    group.bench_function("encrypt", |bencher| bencher.iter(encrypt));
    print_cpu("stage/encrypt", "AES-256-GCM", encrypt);
    for (redundancy, _) in SCHEMES {
        let geometry = Geometry::new(redundancy, MAX_SEGMENT).unwrap();
        let mut encoder = Encoder::new(geometry);
        let mut encode = || {
            for window in 0..geometry.windows() {
                let copy = |offset: u64, buffer: &mut [u8]| {
                    buffer.copy_from_slice(&segment[offset as usize..offset as usize + buffer.len()]);
                    Ok::<_, Infallible>(())
                };
                let encoded = encoder.encode(window, copy).unwrap();
                encoder.recycle(encoded);
            }
        };
        group.bench_function(BenchmarkId::new("encode", redundancy), |bencher| bencher.iter(&mut encode));
        print_cpu("stage/encode", redundancy, encode);

        let piece = vec![7; geometry.piece_length() as usize];
        let hash = || {
            for _ in 0..redundancy.total {
                let mut builder = RootBuilder::new();
                builder.update(&piece);
                black_box(builder.finish().unwrap().root());
            }
        };
        group.bench_function(BenchmarkId::new("hash", redundancy), |bencher| bencher.iter(hash));
        print_cpu("stage/hash", redundancy, hash);

        let mut streams = runtime.block_on(channels(redundancy.total.into(), geometry.piece_length()));
        let mut send = || {
            let piece = &piece;
            let sends = streams.iter_mut().map(|stream| async move {
                stream.write_all(piece).await?;
                stream.flush().await?;
                stream.read_u8().await
            });
            runtime.block_on(try_join_all(sends)).unwrap();
        };
        group.bench_function(BenchmarkId::new("transport", redundancy), |bencher| bencher.iter(&mut send));
        print_cpu("stage/transport", redundancy, send);
    }
    group.finish();
}

/// Piece channels to somebody who drops what comes and confirms each piece.
async fn channels(count: usize, piece: u64) -> Vec<BoxStream> {
    let identity = Identity::fresh();
    let (listener, mut incoming) = ChannelListener::start(&identity, "127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = PeerAddress { peer: identity.peer_id(), addresses: vec![listener.address().clone()] };
    let dialer = ChannelDialer::new(&Identity::fresh()).unwrap();
    let mut streams = Vec::new();
    for _ in 0..count {
        streams.push(dialer.open(&address).await.unwrap());
        let mut stream = incoming.recv().await.unwrap().stream;
        tokio::spawn(async move {
            let mut sink = tokio::io::sink();
            while let Ok(copied) = tokio::io::copy(&mut (&mut stream).take(piece), &mut sink).await {
                if copied < piece || stream.write_u8(1).await.is_err() || stream.flush().await.is_err() {
                    return;
                }
            }
        });
    }
    streams
}

criterion_group!(benches, whole_network, stages);
criterion_main!(benches);
