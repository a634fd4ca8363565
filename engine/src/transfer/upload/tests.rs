//! The upload step by step: what the simulator's oracle cannot tell.

use super::*;

const MS: Duration = Duration::from_millis(1);

fn nodes(numbers: std::ops::Range<u16>, first: u32) -> impl Iterator<Item = (u16, NodeRef)> {
    numbers.zip(first..).map(|(number, node)| (number, NodeRef(node)))
}

fn upload(redundancy: &str, windows: u32) -> Upload {
    let redundancy: Redundancy = redundancy.parse().unwrap();
    let settings = Settings { tail: Duration::ZERO, ..Settings::default() };
    Upload::new(redundancy, windows, nodes(0..redundancy.total, 0), settings, Duration::ZERO)
}

fn actions(upload: &mut Upload) -> Vec<Action> {
    std::iter::from_fn(|| upload.poll()).collect()
}

/// Does what is asked at once: encodes every window, and sends to all but the `slow` puts.
fn run(upload: &mut Upload, now: Duration, slow: &[u32]) -> Vec<Action> {
    let mut all = Vec::new();
    while let Some(action) = upload.poll() {
        match &action {
            Action::Encode(window) => upload.handle_encoded(now, *window),
            Action::Send { put, .. } if !slow.contains(&put.0) => upload.handle_sent(now, *put),
            _ => {}
        }
        all.push(action);
    }
    all
}

fn sends(actions: &[Action]) -> Vec<(u32, u32)> {
    let sends = actions.iter().filter_map(|action| match action {
        Action::Send { put, window } => Some((put.0, *window)),
        _ => None,
    });
    sends.collect()
}

fn outcome(actions: &[Action]) -> Option<(Vec<u16>, bool)> {
    actions.iter().find_map(|action| match action {
        Action::Done(Outcome::Stored { pieces, complete }) => {
            Some((pieces.iter().map(|piece| piece.number).collect(), *complete))
        }
        Action::Done(Outcome::Failed { .. }) => Some((vec![], false)),
        _ => None,
    })
}

#[test]
fn all_are_begun_and_the_rest_is_cancelled_at_success() {
    let mut upload = upload("2/3/4/6", 1);
    let begun = run(&mut upload, MS, &[]);
    assert_eq!(begun.iter().filter(|action| matches!(action, Action::Start { .. })).count(), 6);
    assert_eq!(sends(&begun), [(0, 0), (1, 0), (2, 0), (3, 0), (4, 0), (5, 0)]);
    for put in [5, 1, 3] {
        upload.handle_stored(2 * MS, PutId(put));
        assert_eq!(actions(&mut upload), []);
    }
    upload.handle_stored(3 * MS, PutId(0));
    let end = actions(&mut upload);
    assert_eq!(end[..2], [Action::Cancel(PutId(2)), Action::Cancel(PutId(4))]);
    assert_eq!(outcome(&end), Some((vec![0, 1, 3, 5], true)));
    assert_eq!((upload.running(), upload.wake_at()), (2, None));
    upload.handle_ended(4 * MS, PutId(2));
    upload.handle_stored(4 * MS, PutId(4));
    assert_eq!((upload.running(), actions(&mut upload)), (0, vec![]));
}

#[test]
fn the_rest_may_go_on_for_a_while_after_success() {
    let redundancy: Redundancy = "2/3/4/6".parse().unwrap();
    let settings = Settings { tail: 100 * MS, ..Settings::default() };
    let mut upload = Upload::new(redundancy, 1, nodes(0..6, 0), settings, Duration::ZERO);
    run(&mut upload, MS, &[]);
    for put in 0..4 {
        upload.handle_stored(2 * MS, PutId(put));
    }
    // Four are enough, but two more would be better.
    assert_eq!((actions(&mut upload), upload.wake_at()), (vec![], Some(102 * MS)));
    upload.handle_stored(50 * MS, PutId(4));
    assert_eq!(actions(&mut upload), []);
    upload.handle_tick(102 * MS);
    let end = actions(&mut upload);
    assert_eq!(end[0], Action::Cancel(PutId(5)));
    assert_eq!(outcome(&end), Some((vec![0, 1, 2, 3, 4], true)));
}

#[test]
fn nobody_waits_for_a_tail_that_has_failed() {
    let redundancy: Redundancy = "2/3/4/6".parse().unwrap();
    let mut upload = Upload::new(redundancy, 1, nodes(0..6, 0), Settings::default(), Duration::ZERO);
    run(&mut upload, MS, &[]);
    upload.handle_failed(MS, PutId(5));
    for put in 0..4 {
        upload.handle_stored(2 * MS, PutId(put));
    }
    upload.handle_failed(3 * MS, PutId(4));
    assert_eq!(outcome(&actions(&mut upload)), Some((vec![0, 1, 2, 3], true)));
}

#[test]
fn the_slow_do_not_hold_up_the_fast_and_catch_up_when_needed() {
    let mut upload = upload("2/3/4/6", 10);
    // Puts 4 and 5 never get through window 0: the four others are enough, so nobody waits for them.
    let fast = run(&mut upload, MS, &[4, 5]);
    assert_eq!(sends(&fast).iter().filter(|(put, _)| *put == 0).count(), 10);
    assert_eq!(sends(&fast).iter().filter(|(put, _)| *put == 4).count(), 1);
    // One of the four fails: now 4 is needed, and the windows are encoded again for it.
    upload.handle_failed(2 * MS, PutId(0));
    upload.handle_sent(2 * MS, PutId(4));
    let again = run(&mut upload, 2 * MS, &[5]);
    assert_eq!(sends(&again), (1..10).map(|window| (4, window)).collect::<Vec<_>>());
    for put in 1..=4 {
        upload.handle_stored(3 * MS, PutId(put));
    }
    assert_eq!(outcome(&actions(&mut upload)), Some((vec![1, 2, 3, 4], true)));
}

#[test]
fn the_needed_are_waited_for_with_patience() {
    let mut upload = upload("2/4/6/6", 10);
    let first = run(&mut upload, MS, &[5]);
    let windows = sends(&first).iter().filter(|(put, _)| *put == 0).count();
    assert_eq!(windows, 1 + Settings::default().held_windows, "the fast are ahead by what is held");
    let until = MS + Settings::default().patience;
    assert_eq!(upload.wake_at(), Some(until));
    upload.handle_tick(until - MS);
    assert_eq!(run(&mut upload, until - MS, &[5]), []);
    upload.handle_tick(until);
    assert_eq!(sends(&run(&mut upload, until, &[5])).iter().filter(|(put, _)| *put == 0).count(), 10 - windows);
}

#[test]
fn the_lost_are_replaced_and_begin_at_the_start() {
    let mut upload = upload("2/3/4/4", 2);
    run(&mut upload, MS, &[]);
    upload.handle_failed(2 * MS, PutId(1));
    assert_eq!(actions(&mut upload), [Action::Replace(vec![1])]);
    upload.handle_failed(2 * MS, PutId(3));
    assert_eq!(actions(&mut upload), [], "one question at a time");
    upload.handle_replacements(3 * MS, [(1, NodeRef(9)), (0, NodeRef(8)), (1, NodeRef(7))]);
    let replaced = run(&mut upload, 3 * MS, &[]);
    assert_eq!(replaced[0], Action::Start { put: PutId(4), number: 1, node: NodeRef(9) });
    assert!(replaced.contains(&Action::Replace(vec![3])));
    assert_eq!(sends(&replaced), [(4, 0), (4, 1)]);
    // No other node for piece 3: with repair + 1 = 4 of 4 needed there is no hope left.
    upload.handle_replacements(4 * MS, []);
    let end = actions(&mut upload);
    assert_eq!(end.last(), Some(&Action::Done(Outcome::Failed { stored: 0, needed: 4 })));
    assert_eq!(upload.running(), 3);
}

#[test]
fn the_stalled_are_given_up_and_rounds_are_bounded() {
    let settings = Settings { rounds: 2, ..Settings::default() };
    let redundancy = "1/1/2/2".parse().unwrap();
    let mut upload = Upload::new(redundancy, 1, nodes(0..2, 0), settings, Duration::ZERO);
    run(&mut upload, Duration::ZERO, &[1]);
    upload.handle_stored(MS, PutId(0));
    let mut now = Duration::ZERO;
    for round in 0..2 {
        now += settings.stall;
        assert_eq!(upload.wake_at(), Some(now));
        upload.handle_tick(now);
        assert_eq!(actions(&mut upload), [Action::Cancel(PutId(1 + round)), Action::Replace(vec![1])]);
        upload.handle_replacements(now, [(1, NodeRef(5))]);
        run(&mut upload, now, &[2 + round]);
    }
    upload.handle_progress(now + MS, PutId(3));
    upload.handle_tick(now + settings.stall);
    assert_eq!(actions(&mut upload), [], "it takes bytes");
    upload.handle_tick(now + settings.stall + MS);
    let end = actions(&mut upload);
    assert_eq!(end[0], Action::Cancel(PutId(3)));
    assert_eq!(outcome(&end), Some((vec![], false)), "one of the two needed is stored");
}

#[test]
fn the_deadline_accepts_one_more_than_repair() {
    for (stored, accepted) in [(2, false), (3, true)] {
        let mut upload = upload("1/2/5/6", 1);
        run(&mut upload, MS, &[]);
        for put in 0..stored {
            upload.handle_stored(2 * MS, PutId(put));
        }
        let deadline = Settings::default().deadline;
        (1..1_200).for_each(|s| (stored..6).for_each(|put| upload.handle_progress(s * 1000 * MS, PutId(put))));
        upload.handle_tick(deadline - MS);
        assert_eq!(outcome(&actions(&mut upload)), None);
        upload.handle_tick(deadline);
        let end = actions(&mut upload);
        let expected = if accepted { (0..stored as u16).collect() } else { vec![] };
        assert_eq!(outcome(&end), Some((expected, false)));
    }
}

#[test]
fn a_slow_put_is_moved_only_once_the_segment_is_safe() {
    for (stored, moved) in [(1, vec![]), (2, vec![2, 3])] {
        let mut upload = upload("1/1/4/4", 1);
        run(&mut upload, MS, &[]);
        (0..stored).for_each(|put| upload.handle_stored(2 * MS, PutId(put)));
        let mut seen = Vec::new();
        for second in 1..=10 {
            let now = second * 1000 * MS;
            assert_eq!(outcome(&seen), None);
            (stored..4).for_each(|put| upload.handle_progress(now, PutId(put)));
            seen.extend(actions(&mut upload));
        }
        let cancelled = seen.iter().filter_map(|action| match action {
            Action::Cancel(put) => Some(put.0),
            _ => None,
        });
        assert_eq!(cancelled.collect::<Vec<_>>(), moved, "{stored} stored, 2 are enough");
    }
}

#[test]
fn a_receipt_for_what_was_not_sent_is_a_failure() {
    let mut upload = upload("1/1/1/1", 2);
    run(&mut upload, MS, &[0]);
    upload.handle_stored(MS, PutId(0));
    assert!(actions(&mut upload).contains(&Action::Replace(vec![0])));
    assert_eq!(upload.stored(), []);
    upload.handle_stored(MS, PutId(77));
    upload.handle_ended(MS, PutId(77));
}

#[test]
fn giving_up_ends_everything() {
    let mut upload = upload("2/3/4/6", 3);
    run(&mut upload, MS, &[0, 1, 2, 3, 4, 5]);
    upload.abort(2 * MS);
    let end = actions(&mut upload);
    assert_eq!(end.iter().filter(|action| matches!(action, Action::Cancel(_))).count(), 6);
    assert_eq!(end.last(), Some(&Action::Done(Outcome::Failed { stored: 0, needed: 4 })));
    upload.abort(3 * MS);
    assert_eq!(actions(&mut upload), []);
}
