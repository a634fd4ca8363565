//! What encryption costs: names, records and blocks.

use criterion::{Criterion, criterion_group, criterion_main};

fn names(_: &mut Criterion) {}

criterion_group!(benches, names);
criterion_main!(benches);
