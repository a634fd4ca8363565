//! A 64 MiB segment through a whole network in this process: upload, download, and download with n - k nodes stopped.
//!
//! The stages an upload is made of are measured beside it with the same bytes: encryption, erasure code, hashing of the
//! pieces, and moving them over piece channels to somebody who drops them. What remains of an upload is the nodes' work:
//! hashing again, the log, its sync. All ends run on this machine, so figures are for both ends together.

#[path = "../tests/common/mod.rs"]
mod common;

use bytes::Bytes;
use common::{Drive, File, grant, random, seal};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use futures::future::try_join_all;
use std::convert::Infallible;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};
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
use strewn_peers::transport::{ChannelDialer, ChannelListener, PeerAddress};
use strewn_peers::uplink::NewBucket;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;

const SCHEMES: [(Redundancy, usize); 2] = [(Redundancy::SMALL, 10), (Redundancy::STANDARD, 110)];
const SAMPLES: usize = 10;

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
        group.bench_function(BenchmarkId::new("upload", redundancy), |bencher| {
            bencher.iter_custom(|rounds| {
                let started = Instant::now();
                for _ in 0..rounds {
                    let id = SegmentId::from_bytes(random());
                    let put = drive.service().put_segment(id, Arc::new(segment.clone()));
                    runtime.block_on(put).unwrap();
                }
                started.elapsed()
            });
        });
        let file = runtime.block_on(drive.store("file", &plain)).unwrap();
        group.bench_function(BenchmarkId::new("download", redundancy), |bencher| {
            bencher.iter(|| runtime.block_on(read(&drive, &file)));
        });
        let parity = usize::from(redundancy.total - redundancy.required);
        runtime.block_on(async {
            for node in 0..parity {
                network.node(node, NodeAction::Stop).await.unwrap();
            }
        });
        group.bench_function(BenchmarkId::new("download-degraded", redundancy), |bencher| {
            bencher.iter(|| runtime.block_on(read(&drive, &file)));
        });
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
    group.bench_function("encrypt", |bencher| bencher.iter(|| black_box(seal(Cipher::Aes256Gcm, &plain))));
    for (redundancy, _) in SCHEMES {
        let geometry = Geometry::new(redundancy, MAX_SEGMENT).unwrap();
        group.bench_function(BenchmarkId::new("encode", redundancy), |bencher| {
            let mut encoder = Encoder::new(geometry);
            bencher.iter(|| {
                for window in 0..geometry.windows() {
                    let copy = |offset: u64, buffer: &mut [u8]| {
                        buffer.copy_from_slice(&segment[offset as usize..offset as usize + buffer.len()]);
                        Ok::<_, Infallible>(())
                    };
                    let encoded = encoder.encode(window, copy).unwrap();
                    encoder.recycle(encoded);
                }
            });
        });
        let piece = vec![7; geometry.piece_length() as usize];
        group.bench_function(BenchmarkId::new("hash", redundancy), |bencher| {
            bencher.iter(|| {
                for _ in 0..redundancy.total {
                    let mut builder = RootBuilder::new();
                    builder.update(&piece);
                    black_box(builder.finish().unwrap().root());
                }
            });
        });
        group.bench_function(BenchmarkId::new("transport", redundancy), |bencher| {
            let mut streams = runtime.block_on(channels(redundancy.total.into()));
            let piece = &piece;
            bencher.iter(|| {
                let sends = streams.iter_mut().map(|stream| async move {
                    stream.write_all(piece).await?;
                    stream.flush().await?;
                    stream.read_u8().await
                });
                runtime.block_on(try_join_all(sends)).unwrap()
            });
        });
    }
    group.finish();
}

/// Piece channels to somebody who drops what comes and confirms each piece.
async fn channels(count: usize) -> Vec<impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> {
    let identity = Identity::fresh();
    let (listener, mut incoming) = ChannelListener::start(&identity, "127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = PeerAddress { peer: identity.peer_id(), addresses: vec![listener.address().clone()] };
    let dialer = ChannelDialer::new(&Identity::fresh()).unwrap();
    let mut streams = Vec::new();
    for _ in 0..count {
        streams.push(dialer.open(&address).await.unwrap());
        let mut stream = incoming.recv().await.unwrap().stream;
        let scheme = if count == 10 { Redundancy::SMALL } else { Redundancy::STANDARD };
        let length = Geometry::new(scheme, MAX_SEGMENT).unwrap().piece_length();
        tokio::spawn(async move {
            let mut sink = tokio::io::sink();
            while let Ok(copied) = tokio::io::copy(&mut (&mut stream).take(length), &mut sink).await {
                if copied < length || stream.write_u8(1).await.is_err() || stream.flush().await.is_err() {
                    return;
                }
            }
        });
    }
    streams
}

criterion_group!(benches, whole_network, stages);
criterion_main!(benches);
