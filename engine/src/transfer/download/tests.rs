//! The download step by step: what the simulator's oracle cannot tell.

use super::*;
use crate::erasure::{Decoder, Encoder};
use crate::piece::{PieceTree, verify};
use bytes::Bytes;
use std::convert::Infallible;

const MS: Duration = Duration::from_millis(1);

/// A segment of 2 of 4 in shares of 1 KiB, and its pieces.
struct Stored {
    geometry: Geometry,
    segment: Vec<u8>,
    pieces: Vec<(Bytes, PieceTree)>,
}

impl Stored {
    fn new(stripes: u64) -> Self {
        let geometry = Geometry::with_share("2/2/4/4".parse().unwrap(), 2048 * stripes, 1024).unwrap();
        let segment: Vec<u8> = (0..geometry.length()).map(|i| (i * 7 + i / 253) as u8).collect();
        let mut pieces = vec![Vec::new(); 4];
        for window in 0..geometry.windows() {
            let read = |offset: u64, buffer: &mut [u8]| {
                buffer.copy_from_slice(&segment[offset as usize..][..buffer.len()]);
                Ok::<_, Infallible>(())
            };
            let encoded = Encoder::new(geometry).encode(window, read).unwrap();
            (0..).zip(&mut pieces).for_each(|(number, piece)| piece.extend_from_slice(encoded.piece(number).unwrap()));
        }
        let with_tree = |bytes: Vec<u8>| {
            let tree = PieceTree::of(&bytes, 1024).unwrap();
            (Bytes::from(bytes), tree)
        };
        Self { geometry, segment, pieces: pieces.into_iter().map(with_tree).collect() }
    }

    fn download(&self, range: Range<u64>, settings: Settings) -> Download {
        let sources = (0..).zip(&self.pieces).map(|(number, (_, tree))| (number, tree.root()));
        Download::new(self.geometry, range, sources, settings, Latencies::default(), Duration::ZERO)
    }

    fn share(&self, piece: u16, number: u32) -> Result<ProvenShare, BadShare> {
        let (bytes, tree) = &self.pieces[usize::from(piece)];
        let start = tree.shape().share_offset(number) as usize;
        let share = bytes.slice(start..start + tree.shape().share_length(number) as usize);
        verify(&tree.root(), tree.shape(), number, share, &tree.prove(number).unwrap())
    }
}

fn actions(download: &mut Download) -> Vec<Action> {
    std::iter::from_fn(|| download.poll()).collect()
}

fn get(get: u32, piece: u16, shares: Range<u32>) -> Action {
    Action::Get { get: GetId(get), piece, shares }
}

#[test]
fn a_small_read_asks_one_node_for_one_share() {
    let stored = Stored::new(5);
    let mut download = stored.download(5_200..5_300, Settings::default());
    assert_eq!(actions(&mut download), [get(0, 1, 2..3)]);
    download.handle_share(MS, GetId(0), stored.share(1, 2));
    let group = download.take(MS).unwrap();
    let mut bytes = Vec::new();
    Decoder::new(stored.geometry).read(&group, 5_200..5_300, &mut bytes).unwrap();
    assert_eq!(bytes, stored.segment[5_200..5_300]);
    // The node's own end is still to come: it is told to stop, which costs nothing.
    assert_eq!(actions(&mut download), [Action::Cancel(GetId(0)), Action::Done(Outcome::Finished)]);
    download.handle_ended(MS, GetId(0));
    assert_eq!((download.running(), download.wake_at()), (0, None));
}

#[test]
fn a_long_read_asks_all_data_pieces_and_moves_on_as_stripes_are_taken() {
    let stored = Stored::new(8);
    let settings = Settings { window: 4 * 2048, ..Settings::default() };
    let mut download = stored.download(0..u64::MAX, settings);
    assert_eq!(actions(&mut download), [get(0, 0, 0..2), get(1, 1, 0..2)]);
    for (id, piece) in [(0, 0), (1, 1)] {
        (0..2).for_each(|number| download.handle_share(MS, GetId(id), stored.share(piece, number)));
        download.handle_ended(MS, GetId(id));
    }
    assert_eq!(actions(&mut download), [get(2, 0, 2..4), get(3, 1, 2..4)], "the second half of the window");
    assert_eq!(download.held(), 4 * 1024);
    assert_eq!(download.take(MS).unwrap().stripes, 0..2);
    assert_eq!(download.take(MS), None);
    for (id, piece) in [(2, 0), (3, 1)] {
        (2..4).for_each(|number| download.handle_share(MS, GetId(id), stored.share(piece, number)));
        download.handle_ended(MS, GetId(id));
    }
    assert_eq!(actions(&mut download), [get(4, 0, 4..6), get(5, 1, 4..6)]);
}

#[test]
fn the_slow_are_hedged_and_whoever_comes_first_counts() {
    let stored = Stored::new(1);
    for winner in [0, 2] {
        let mut download = stored.download(0..u64::MAX, Settings::default());
        actions(&mut download);
        download.handle_share(10 * MS, GetId(1), stored.share(1, 0));
        download.handle_ended(10 * MS, GetId(1));
        // The usual is 10 ms now, so that 30 ms are slow.
        assert_eq!(download.wake_at(), Some(30 * MS));
        download.handle_tick(29 * MS);
        assert_eq!(actions(&mut download), []);
        download.handle_tick(30 * MS);
        assert_eq!(actions(&mut download), [get(2, 2, 0..1)]);
        let (piece, loser) = if winner == 0 { (0, 2) } else { (2, 0) };
        download.handle_share(31 * MS, GetId(winner), stored.share(piece, 0));
        assert!(actions(&mut download).contains(&Action::Cancel(GetId(loser))));
        let group = download.take(31 * MS).unwrap();
        assert_eq!(
            group.shares.iter().map(|(piece, _)| *piece).collect::<Vec<_>>(),
            if winner == 0 { [0, 1] } else { [1, 2] }
        );
        assert_eq!(actions(&mut download).last(), Some(&Action::Done(Outcome::Finished)));
    }
}

#[test]
fn a_wrong_share_is_blamed_and_made_up_for() {
    let stored = Stored::new(3);
    let mut download = stored.download(0..u64::MAX, Settings::default());
    assert_eq!(actions(&mut download), [get(0, 0, 0..3), get(1, 1, 0..3)]);
    download.handle_share(MS, GetId(0), stored.share(0, 0));
    download.handle_share(MS, GetId(0), Err(BadShare { number: 1 }));
    let expected = [Action::Blame { piece: 0, share: 1 }, Action::Cancel(GetId(0)), get(2, 2, 1..3)];
    assert_eq!(actions(&mut download), expected, "stripe 0 has all it needs");
    download.handle_failed(MS, GetId(0), Failure::Lost);
    assert_eq!(actions(&mut download), []);
}

#[test]
fn the_lost_get_a_second_chance_when_needed_and_the_absent_none() {
    let stored = Stored::new(1);
    let settings = Settings::default();
    let mut download = stored.download(0..u64::MAX, settings);
    actions(&mut download);
    download.handle_failed(MS, GetId(0), Failure::Lost);
    assert_eq!(actions(&mut download), [get(2, 2, 0..1)]);
    download.handle_failed(MS, GetId(1), Failure::Absent);
    assert_eq!(actions(&mut download), [get(3, 3, 0..1)]);
    download.handle_failed(MS, GetId(2), Failure::Absent);
    assert_eq!(actions(&mut download), [], "piece 0 is left alone for a while");
    assert!(download.wake_at().unwrap() <= MS + settings.pause);
    download.handle_tick(MS + settings.pause);
    assert_eq!(actions(&mut download), [get(4, 0, 0..1)]);
    download.handle_failed(MS + settings.pause, GetId(4), Failure::Lost);
    let end = [Action::Cancel(GetId(3)), Action::Done(Outcome::Failed { reachable: 1, needed: 2 })];
    assert_eq!(actions(&mut download), end);
}

#[test]
fn silence_ends_in_failure() {
    let stored = Stored::new(1);
    let settings = Settings { attempts: 1, ..Settings::default() };
    let mut download = stored.download(0..u64::MAX, settings);
    actions(&mut download);
    let mut wakes = 0;
    while let Some(wake) = download.wake_at() {
        download.handle_tick(wake);
        wakes += 1;
    }
    let actions = actions(&mut download);
    assert_eq!(actions.last(), Some(&Action::Done(Outcome::Failed { reachable: 0, needed: 2 })));
    assert!(wakes < 10);
    assert_eq!(download.running(), 2, "the hedges were never begun");
}

#[test]
fn shares_that_were_not_asked_for_are_ignored() {
    let stored = Stored::new(3);
    let mut download = stored.download(0..2048, Settings::default());
    actions(&mut download);
    download.handle_share(MS, GetId(0), stored.share(1, 0));
    download.handle_share(MS, GetId(0), stored.share(0, 2));
    download.handle_share(MS, GetId(9), stored.share(0, 0));
    download.handle_ended(MS, GetId(9));
    assert_eq!((download.held(), actions(&mut download)), (0, vec![]));
}

#[test]
fn stripes_that_must_be_rebuilt_come_together() {
    let stored = Stored::new(4);
    let mut download = stored.download(0..u64::MAX, Settings::default());
    actions(&mut download);
    download.handle_failed(MS, GetId(0), Failure::Absent);
    assert_eq!(actions(&mut download), [get(2, 2, 0..4)]);
    for number in 0..4 {
        download.handle_share(MS, GetId(1), stored.share(1, number));
        assert_eq!(download.take(MS), None, "one call of the code costs as much as four");
        download.handle_share(MS, GetId(2), stored.share(2, number));
    }
    assert_eq!(download.take(MS).unwrap().stripes, 0..4);
}

#[test]
fn nothing_wanted_is_done_at_once() {
    let stored = Stored::new(1);
    for range in [0..0, 2048..4000] {
        let mut download = stored.download(range, Settings::default());
        assert_eq!(actions(&mut download), [Action::Done(Outcome::Finished)]);
    }
}
