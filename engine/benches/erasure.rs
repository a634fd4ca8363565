//! How fast segments are coded, rebuilt and proven, in bytes of user data (pieces: of piece) per second on one core.

use bytes::Bytes;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use std::convert::Infallible;
use std::hint::black_box;
use std::ops::Range;
use strewn_engine::erasure::{Decoder, Encoder, StripeGroup};
use strewn_engine::piece::{PieceTree, RootBuilder, verify};
use strewn_engine::redundancy::{MAX_SHARE, Redundancy};
use strewn_engine::segment::Geometry;

const SEGMENT: u64 = 64 << 20;

/// The schemes measured: k of n, by the pieces that are begun.
const SCHEMES: [(&str, [u16; 4]); 2] = [("29/80", [29, 35, 80, 80]), ("4/10", [4, 6, 8, 10])];

fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(b"bench").finalize_xof().fill(&mut bytes);
    bytes
}

fn geometry([required, repair, success, total]: [u16; 4]) -> Geometry {
    let redundancy = Redundancy::new(required, repair, success, total).expect("a scheme");
    Geometry::new(redundancy, SEGMENT).expect("a segment")
}

fn encode(criterion: &mut Criterion) {
    let segment = noise(SEGMENT as usize);
    let mut group = criterion.benchmark_group("encode a segment in windows");
    group.throughput(Throughput::Bytes(SEGMENT));
    for (name, scheme) in SCHEMES {
        let geometry = geometry(scheme);
        let mut encoder = Encoder::new(geometry);
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                for window in 0..geometry.windows() {
                    let encoded = encoder.encode(window, |offset, buffer| copy(&segment, offset, buffer));
                    encoder.recycle(black_box(encoded.expect("infallible")));
                }
            });
        });
    }
}

fn copy(segment: &[u8], offset: u64, buffer: &mut [u8]) -> Result<(), Infallible> {
    buffer.copy_from_slice(&segment[offset as usize..][..buffer.len()]);
    Ok(())
}

fn decode(criterion: &mut Criterion) {
    let segment = noise(SEGMENT as usize);
    for (name, scheme) in SCHEMES {
        let geometry = geometry(scheme);
        let required = geometry.required();
        let mut group = criterion.benchmark_group(format!("decode {name}"));
        let windows: Vec<Vec<Bytes>> = [0, 1].map(|window| pieces(geometry, &segment, window)).into();
        for (case, numbers) in [
            ("all data pieces", 0..required),
            ("one missing", 1..required + 1),
            ("all data pieces missing", required..required * 2),
        ] {
            let whole = stripes(&geometry, &windows[1], numbers.clone(), geometry.window(1));
            let bytes =
                geometry.stripe_bytes(whole.stripes.start).start..geometry.stripe_bytes(whole.stripes.end - 1).end;
            read(&mut group, &format!("{case}, a window"), geometry, &whole, bytes);
            let one = stripes(&geometry, &windows[0], numbers, 0..1);
            read(&mut group, &format!("{case}, 4 KiB"), geometry, &one, 8_192..12_288);
        }
    }
}

fn pieces(geometry: Geometry, segment: &[u8], window: u32) -> Vec<Bytes> {
    let encoded = Encoder::new(geometry).encode(window, |offset, buffer| copy(segment, offset, buffer));
    let encoded = encoded.expect("infallible");
    (0..geometry.total()).map(|piece| encoded.piece(piece).expect("a piece").clone()).collect()
}

/// The shares of some stripes, which are the first of their window.
fn stripes(geometry: &Geometry, window: &[Bytes], numbers: Range<u16>, stripes: Range<u32>) -> StripeGroup {
    let share = geometry.share_length(stripes.start) as usize;
    let shares = numbers.map(|number| {
        let piece = &window[usize::from(number)];
        (number, (0..stripes.len()).map(|index| piece.slice(index * share..(index + 1) * share)).collect())
    });
    StripeGroup { shares: shares.collect(), stripes }
}

fn read(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    geometry: Geometry,
    stripes: &StripeGroup,
    bytes: Range<u64>,
) {
    let mut decoder = Decoder::new(geometry);
    let mut out = Vec::new();
    group.throughput(Throughput::Bytes(bytes.end - bytes.start));
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            out.clear();
            decoder.read(stripes, bytes.clone(), &mut out).expect("enough shares");
            black_box(out.len())
        });
    });
}

fn tree(criterion: &mut Criterion) {
    let piece = Bytes::from(noise(2_313_984));
    let mut group = criterion.benchmark_group("piece tree");
    group.throughput(Throughput::Bytes(piece.len() as u64));
    group.bench_function("build", |bencher| {
        bencher.iter(|| {
            let mut builder = RootBuilder::new();
            piece.chunks(128 << 10).for_each(|part| builder.update(part));
            black_box(builder.finish().expect("a piece").root())
        });
    });
    let tree = PieceTree::of(&piece, MAX_SHARE).expect("a piece");
    let (root, shape, share) = (tree.root(), tree.shape(), piece.slice(..MAX_SHARE as usize));
    group.throughput(Throughput::Bytes(share.len() as u64));
    group.bench_function("prove a share", |bencher| bencher.iter(|| tree.prove(black_box(0))));
    let proof = tree.prove(0).expect("a share");
    group.bench_function("verify a share", |bencher| {
        bencher.iter(|| verify(&root, shape, 0, share.clone(), black_box(&proof)).expect("a right share"));
    });
}

criterion_group!(benches, encode, decode, tree);
criterion_main!(benches);
