//! Tests of the ledger against a map of everything that ever happened to it.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    /// Admit the offset this far above the last one.
    Admit { gap: i64, timestamp_ms: Option<i64> },
    /// Finish one of the records in flight (the n-th, modulo how many there are).
    Finish(usize),
    /// Finish any offset, known or not.
    FinishAny(i64),
    /// Admit any offset, in order or not.
    AdmitAny(i64),
    /// Commit what may be committed.
    Commit,
}

fn step() -> impl Strategy<Value = Step> {
    let timestamp = prop_oneof![
        4 => (0..5i64).prop_map(|ms| Some(1_700_000_000_000 + ms)),
        1 => Just(None),
        1 => any::<i64>().prop_map(Some),
    ];
    prop_oneof![
        8 => (prop_oneof![4 => Just(1i64), 1 => 1..50i64], timestamp)
            .prop_map(|(gap, timestamp_ms)| Step::Admit { gap, timestamp_ms }),
        7 => any::<usize>().prop_map(Step::Finish),
        1 => (-5..300i64).prop_map(Step::FinishAny),
        1 => (-5..300i64).prop_map(Step::AdmitAny),
        2 => Just(Step::Commit),
    ]
}

/// One admitted record, as the model remembers it.
#[derive(Debug, Clone, Copy)]
struct Known {
    timestamp_ms: Option<i64>,
    timestamp: i64,
    finished: bool,
}

/// Every record is remembered for ever; every question is answered by looking at all of them.
#[derive(Default)]
struct Model {
    records: BTreeMap<i64, Known>,
    next: Option<i64>,
    committed: Option<i64>,
}

impl Model {
    fn position(&self) -> Option<i64> {
        self.records
            .iter()
            .find(|(_, known)| !known.finished)
            .map(|(offset, _)| *offset)
            .or(self.next)
    }

    fn clock_below(&self, offset: i64, start: i64) -> i64 {
        self.records
            .range(..offset)
            .next_back()
            .map_or(start, |(_, known)| known.timestamp)
    }

    fn unfinished(&self) -> Vec<i64> {
        self.records
            .iter()
            .filter(|(_, known)| !known.finished)
            .map(|(offset, _)| *offset)
            .collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn behaves_like_the_model(
        start in prop::option::of(0..100i64),
        clock in prop_oneof![Just(i64::MIN), Just(1_700_000_000_000_500i64), 0..10i64],
        steps in prop::collection::vec(step(), 0..250),
        now_ms in prop_oneof![Just(i64::MAX), Just(1_700_000_000_002i64)],
    ) {
        let mut ledger = Ledger::new(start, clock);
        let mut model = Model { next: start, committed: start, ..Model::default() };
        let mut positions = Vec::new();
        for step in steps {
            match step {
                Step::Admit { gap, timestamp_ms } => {
                    let offset = model.next.map_or(gap - 1, |next| next - 1 + gap);
                    let timestamp = ledger.admit(offset, timestamp_ms).unwrap();
                    let previous = model.clock_below(i64::MAX, clock);
                    prop_assert!(timestamp > previous && timestamp >= 0);
                    if let Some(ms) = timestamp_ms.filter(|ms| (0..=MAX_RECORD_TIMESTAMP_MS).contains(ms)) {
                        prop_assert_eq!(timestamp, (ms * 1000).max(previous + 1));
                    }
                    model.records.insert(offset, Known { timestamp_ms, timestamp, finished: false });
                    model.next = Some(offset + 1);
                }
                Step::AdmitAny(offset) => {
                    let expected = model.next.unwrap_or(0);
                    match ledger.admit(offset, None) {
                        Ok(timestamp) => {
                            prop_assert!(offset >= expected);
                            model.records.insert(offset, Known { timestamp_ms: None, timestamp, finished: false });
                            model.next = Some(offset + 1);
                        }
                        Err(error) => {
                            prop_assert!(offset < expected);
                            prop_assert_eq!(error, LedgerError::Behind { offset, expected });
                        }
                    }
                }
                Step::Finish(n) => {
                    let unfinished = model.unfinished();
                    if !unfinished.is_empty() {
                        let offset = unfinished[n % unfinished.len()];
                        ledger.finish(offset).unwrap();
                        model.records.get_mut(&offset).unwrap().finished = true;
                    }
                }
                Step::FinishAny(offset) => {
                    let known = model.records.get_mut(&offset).filter(|known| !known.finished);
                    let expected = if known.is_some() { Ok(()) } else { Err(LedgerError::NotInFlight { offset }) };
                    prop_assert_eq!(ledger.finish(offset), expected);
                    if let Some(known) = known {
                        known.finished = true;
                    }
                }
                Step::Commit => {
                    if let Some(position) = ledger.committable() {
                        ledger.committed(position.offset);
                        ledger.committed(position.offset - 1); // a late acknowledgement changes nothing
                        model.committed = Some(position.offset);
                        prop_assert_eq!(ledger.committable(), None);
                    }
                }
            }
            let unfinished = model.unfinished();
            prop_assert_eq!(ledger.in_flight(), unfinished.len());
            prop_assert_eq!(ledger.first_unfinished(), unfinished.first().copied());
            let mut behind = unfinished.first().into_iter().flat_map(|first| model.records.range(first..));
            let believed = |ms: &i64| *ms > 0 && *ms <= MAX_RECORD_TIMESTAMP_MS && *ms <= now_ms;
            let first_ms = behind.find_map(|(_, known)| known.timestamp_ms.filter(believed));
            prop_assert_eq!(ledger.first_unfinished_ms(now_ms), first_ms);
            prop_assert_eq!(ledger.last_admitted(), model.records.keys().next_back().copied());
            let first = model.records.keys().next().copied();
            let repeated_from = model.committed.or(first).filter(|_| ledger.committable().is_some());
            let left = repeated_from.zip(model.next).map_or(0, |(from, next)| (next - from) as usize);
            let held = unfinished.first().map_or(0, |first| model.records.range(first..).count());
            prop_assert_eq!(ledger.left(), left.max(held));
            prop_assert_eq!(ledger.span(), held);
            prop_assert_eq!(ledger.waiting_bytes(), (held - unfinished.len()) * 64);
            prop_assert_eq!(ledger.position().map(|position| position.offset), model.position());
            match ledger.committable() {
                Some(position) => {
                    prop_assert!(unfinished.iter().all(|offset| position.offset <= *offset));
                    prop_assert_eq!(Some(position.offset), model.position());
                    prop_assert_eq!(position.clock, model.clock_below(position.offset, clock));
                    prop_assert!(model.committed.is_none_or(|committed| committed < position.offset));
                    positions.push(position);
                }
                None => prop_assert!(model.position().is_none() || model.position() <= model.committed),
            }
        }
        for position in positions {
            let metadata = encode_clock(position.clock);
            let mut replay = Ledger::new(Some(position.offset), decode_clock(metadata.as_bytes()).unwrap());
            for (offset, known) in model.records.range(position.offset..) {
                prop_assert_eq!(replay.admit(*offset, known.timestamp_ms), Ok(known.timestamp));
            }
        }
    }

    #[test]
    fn clock_survives_the_commit_metadata(clock in i64::MIN..=MAX_CLOCK) {
        prop_assert_eq!(decode_clock(encode_clock(clock).as_bytes()), Some(clock));
    }

    #[test]
    fn any_metadata_is_tolerated(metadata in prop::collection::vec(any::<u8>(), 0..40)) {
        if !metadata.starts_with(b"messina1:") {
            prop_assert_eq!(decode_clock(&metadata), None);
        }
    }

    #[test]
    fn no_clock_of_others_uses_up_that_of_a_partition(clock in any::<i64>()) {
        let clock = decode_clock(encode_clock(clock).as_bytes()).unwrap_or(i64::MIN);
        let mut ledger = Ledger::new(Some(0), clock).with_writes(1000);
        for offset in 0..1000 {
            prop_assert!(ledger.admit(offset, None).is_ok());
        }
    }
}

#[test]
fn metadata_is_stable_and_foreign_metadata_is_none() {
    assert_eq!(encode_clock(1_700_000_000_000_000), "messina1:gqll7vatq8");
    assert_eq!(encode_clock(0), "messina1:0");
    assert_eq!(decode_clock(encode_clock(i64::MIN).as_bytes()), Some(i64::MIN));
    // The latest timestamp that a record can have, and many writes after it.
    let late = own_micros(Some(MAX_RECORD_TIMESTAMP_MS)).unwrap() + (1 << 50);
    assert_eq!(decode_clock(encode_clock(late).as_bytes()), Some(late));
    for later in [i64::MAX, i64::MAX / 2] {
        assert_eq!(decode_clock(encode_clock(later).as_bytes()), None);
    }
    assert_eq!(decode_clock(b"messina1:\xff"), None);
    for foreign in [
        "",
        "messina1:",
        "messina2:10",
        "messina1:10 ",
        "messina1:é",
        "leader-epoch=4",
        "messina1:zzzzzzzzzzzzzzz",
    ] {
        assert_eq!(decode_clock(foreign.as_bytes()), None, "{foreign}");
    }
}

#[test]
fn the_first_place_of_a_new_group_is_committed_before_its_records_finish() {
    let mut ledger = Ledger::new(None, i64::MIN);
    assert_eq!(ledger.committable(), None);
    ledger.admit(41, Some(7)).unwrap();
    assert_eq!(
        ledger.committable(),
        Some(Position {
            offset: 41,
            clock: i64::MIN,
            leader_epoch: NO_EPOCH,
        })
    );
    ledger.finish(41).unwrap();
    assert_eq!(
        ledger.committable(),
        Some(Position {
            offset: 42,
            clock: 7000,
            leader_epoch: NO_EPOCH,
        })
    );
}

#[test]
fn the_time_of_the_first_unfinished_record_is_its_own_whatever_the_write_clock_says() {
    let late = MAX_RECORD_TIMESTAMP_MS;
    let mut ledger = Ledger::new(Some(0), i64::MIN);
    assert_eq!(ledger.first_unfinished_ms(late), None);
    for (offset, ms) in [
        (0, Some(late)),
        (1, Some(5)),
        (2, None),
        (3, Some(9)),
        (4, Some(late + 1)),
    ] {
        ledger.admit(offset, ms).unwrap();
    }
    let mut after = |offset| {
        ledger.finish(offset).unwrap();
        ledger.first_unfinished_ms(late)
    };
    assert_eq!(after(1), Some(late));
    assert_eq!(after(0), Some(9), "offset 2 has none");
    assert_eq!(after(2), Some(9));
    assert_eq!(after(3), None, "no date that is believed");
    assert_eq!(after(4), None, "nothing is in flight");
}

#[test]
fn a_record_from_the_future_or_without_a_clock_hides_no_age() {
    let mut ledger = Ledger::new(Some(0), i64::MIN);
    for (offset, ms) in [(0, 1001), (1, 0), (2, -7), (3, 1000)] {
        ledger.admit(offset, Some(ms)).unwrap();
    }
    assert_eq!(ledger.first_unfinished_ms(1000), Some(1000));
    assert_eq!(ledger.first_unfinished_ms(1001), Some(1001), "its time has come");
    assert_eq!(ledger.first_unfinished_ms(999), None);
}

#[test]
fn where_a_new_group_begins_is_committed_before_any_record() {
    let mut ledger = Ledger::beginning(41);
    let begins = Position {
        offset: 41,
        clock: i64::MIN,
        leader_epoch: NO_EPOCH,
    };
    assert_eq!((ledger.committable(), ledger.uncommitted()), (Some(begins), Some(41)));
    ledger.committed(41);
    assert_eq!((ledger.committable(), ledger.uncommitted()), (None, Some(41)));
    assert_eq!(
        ledger.admit(40, None),
        Err(LedgerError::Behind {
            offset: 40,
            expected: 41
        })
    );
    ledger.admit(43, None).unwrap();
    assert_eq!(
        (ledger.position().unwrap().offset, ledger.uncommitted()),
        (43, Some(41))
    );
}

#[test]
fn a_position_has_the_leader_epoch_of_the_record_before_it() {
    let mut ledger = Ledger::new(Some(5), i64::MIN);
    let epoch = |ledger: &Ledger| ledger.position().unwrap().leader_epoch;
    assert_eq!(epoch(&ledger), NO_EPOCH);
    ledger.begins_after(2);
    for (offset, leader_epoch) in [(5, 2), (6, 3), (7, 4)] {
        ledger.leads(leader_epoch);
        ledger.admit(offset, None).unwrap();
    }
    let after = |offset| {
        ledger.finish(offset).unwrap();
        epoch(&ledger)
    };
    assert_eq!([6, 5, 7].map(after), [2, 3, 4]);
    // The group's epoch says nothing about a log that went back.
    let mut rewound = Ledger::rewound(3, 7000);
    rewound.begins_after(2);
    assert_eq!(epoch(&rewound), NO_EPOCH);
}

#[test]
fn what_is_finished_is_left_until_its_commit_is_acknowledged() {
    let mut ledger = Ledger::new(Some(5), i64::MIN);
    assert_eq!(ledger.left(), 0);
    (5..8).for_each(|offset| assert!(ledger.admit(offset, None).is_ok()));
    assert_eq!(ledger.left(), 3);
    (5..8).for_each(|offset| ledger.finish(offset).unwrap());
    assert_eq!((ledger.in_flight(), ledger.left()), (0, 3));
    ledger.committed(7);
    assert_eq!(ledger.left(), 1);
    ledger.committed(8);
    assert_eq!(ledger.left(), 0);
    // A place that is not committed yet has no records.
    assert_eq!(Ledger::beginning(41).left(), 0);
}

/// They run again together with the unfinished one.
#[test]
fn what_is_finished_behind_an_unfinished_one_is_left() {
    let mut ledger = Ledger::new(Some(5), i64::MIN);
    [5, 6, 7, 100]
        .into_iter()
        .for_each(|offset| assert!(ledger.admit(offset, None).is_ok()));
    ledger.finish(5).unwrap();
    ledger.committed(6);
    [7, 100].into_iter().for_each(|offset| ledger.finish(offset).unwrap());
    assert_eq!((ledger.in_flight(), ledger.left()), (1, 3));
}

#[test]
fn where_a_log_went_back_to_is_committed_before_any_record() {
    let mut ledger = Ledger::rewound(3, 7000);
    let begins = Position {
        offset: 3,
        clock: 7000,
        leader_epoch: NO_EPOCH,
    };
    assert_eq!(ledger.committable(), Some(begins));
    assert!(ledger.is_rewound());
    assert_eq!(ledger.admit(3, None), Ok(7001));
    ledger.committed(3);
    assert!(!ledger.is_rewound());
    assert_eq!((ledger.committable(), ledger.uncommitted()), (None, Some(3)));
}

#[test]
fn what_waited_behind_a_record_gives_its_room_back() {
    let mut ledger = Ledger::new(Some(0), i64::MIN);
    (0..200_000).for_each(|offset| assert!(ledger.admit(offset, None).is_ok()));
    (1..200_000).for_each(|offset| ledger.finish(offset).unwrap());
    assert_eq!((ledger.span(), ledger.waiting_bytes()), (200_000, 199_999 * 64));
    ledger.finish(0).unwrap();
    assert_eq!((ledger.span(), ledger.waiting_bytes()), (0, 0));
    assert!(ledger.ring.capacity() <= KEPT, "{}", ledger.ring.capacity());
}

#[test]
fn room_that_is_needed_again_and_again_is_kept() {
    let mut ledger = Ledger::new(Some(0), i64::MIN);
    let mut rooms = Vec::new();
    for round in 0..10 {
        let (first, end) = (round * 1700, round * 1700 + 2000);
        let new = ledger.last_admitted().map_or(0, |last| last + 1)..end;
        new.for_each(|offset| assert!(ledger.admit(offset, None).is_ok()));
        (first..end - 300).for_each(|offset| ledger.finish(offset).unwrap());
        assert_eq!(ledger.span(), 300);
        rooms.push(ledger.ring.capacity());
    }
    rooms.dedup();
    assert_eq!(rooms.len(), 1, "{rooms:?}");
}

#[test]
fn a_clock_at_its_end_is_an_error() {
    let mut ledger = Ledger::new(Some(0), i64::MAX);
    assert_eq!(
        ledger.admit(0, Some(1)),
        Err(LedgerError::ClockExhausted { clock: i64::MAX })
    );
    assert_eq!((ledger.in_flight(), ledger.committable()), (0, None));
}

#[test]
fn offsets_at_the_end_of_the_range_do_not_overflow() {
    let mut ledger = Ledger::new(None, i64::MIN);
    ledger.admit(0, None).unwrap();
    ledger.admit(i64::MAX, None).unwrap();
    ledger.finish(i64::MAX).unwrap();
    assert_eq!(
        ledger.finish(i64::MAX - 1),
        Err(LedgerError::NotInFlight { offset: i64::MAX - 1 })
    );
    ledger.finish(0).unwrap();
    assert_eq!(ledger.committable().map(|position| position.offset), Some(i64::MAX));
}

#[test]
fn each_write_of_a_record_has_a_timestamp_of_its_own_and_so_it_is_again() {
    let admit = |ledger: &mut Ledger| {
        let of = |(offset, ms)| ledger.admit(offset, Some(ms)).unwrap();
        [(10, 5), (11, 5), (12, 4), (13, 6)].map(of)
    };
    let mut ledger = Ledger::new(Some(10), i64::MIN).with_writes(3);
    assert_eq!(admit(&mut ledger), [5000, 5008, 5016, 6000]);
    ledger.finish(10).unwrap();
    ledger.finish(11).unwrap();
    let position = ledger.position().unwrap();
    assert_eq!(
        (position.offset, position.clock),
        (12, 5015),
        "the last one of the last record"
    );
    let mut again = Ledger::new(Some(12), position.clock).with_writes(3);
    assert_eq!(again.admit(12, Some(4)), Ok(5016));
    assert_eq!(again.admit(13, Some(6)), Ok(6000));
    // No writes, as many as have room, and one more.
    for (writes, second) in [(0, 1008), (8, 1008), (9, 1016)] {
        let mut ledger = Ledger::new(None, i64::MIN).with_writes(writes);
        let admitted = [ledger.admit(0, Some(1)), ledger.admit(1, Some(1))];
        assert_eq!(admitted, [Ok(1000), Ok(second)], "{writes}");
    }
    let mut late = Ledger::new(Some(0), i64::MAX - 2).with_writes(3);
    assert_eq!(
        late.admit(0, None),
        Err(LedgerError::ClockExhausted { clock: i64::MAX - 2 })
    );
}

#[test]
fn what_is_new_to_a_pipeline_that_has_lost_a_write_is_younger_than_all_that_it_wrote() {
    let run = |writes: usize, records: i64| -> Vec<i64> {
        let mut ledger = Ledger::new(Some(10), i64::MIN).with_writes(writes);
        let offsets = 10..10 + records;
        offsets.map(|offset| ledger.admit(offset, Some(5)).unwrap()).collect()
    };
    let (before, after) = (run(2, 3), run(1, 4));
    assert_eq!(after[..3], before);
    let last_write = before[2] + 1;
    assert!(after[3] > last_write, "{before:?} {after:?}");
}
