//! Tests of the breaker against a naive model, and of each rule.

use proptest::prelude::*;

use super::*;

fn at(start: Instant, ms: u64) -> Instant {
    start + Duration::from_millis(ms)
}

fn open(start: Instant) -> Breaker {
    let mut breaker = Breaker::new(Rules::default());
    for i in 0..20 {
        assert_eq!(breaker.failed(start, false, 0), i == 19);
    }
    breaker
}

#[test]
fn many_failures_in_a_row_open_it_and_a_success_between_them_does_not() {
    let start = Instant::now();
    let mut breaker = Breaker::new(Rules::default());
    for _ in 0..19 {
        assert!(!breaker.failed(start, false, 0));
    }
    let later = at(start, 6000);
    for _ in 0..19 {
        breaker.succeeded(later);
        breaker.succeeded(later);
        assert!(!breaker.failed(later, false, 0));
    }
    assert_eq!(breaker.state(), State::Closed);
    assert_eq!(open(start).state(), State::Open);
}

#[test]
fn few_failures_open_it_when_nothing_succeeded_for_a_while() {
    let start = Instant::now();
    let mut breaker = Breaker::new(Rules::default());
    for ms in [0, 200, 400, 900] {
        assert!(!breaker.failed(at(start, ms), false, 0));
    }
    assert!(breaker.failed(at(start, 1000), false, 0));
}

#[test]
fn one_event_that_fails_for_hours_opens_it_across_windows() {
    let start = Instant::now();
    let mut breaker = Breaker::new(Rules::default());
    let opened = (0..5).map(|i| breaker.failed(at(start, i * 9000), false, 0)).last();
    assert_eq!(opened, Some(true));
}

#[test]
fn half_of_the_requests_open_it_and_less_do_not() {
    let start = Instant::now();
    for (step, opens) in [(2, true), (3, false)] {
        let mut breaker = Breaker::new(Rules::default());
        let opened = (0..200u64).any(|i| {
            if i % step == 0 {
                breaker.failed(at(start, i), false, 0)
            } else {
                breaker.succeeded(at(start, i));
                false
            }
        });
        assert_eq!(opened, opens, "every {step}th fails");
    }
}

#[test]
fn probes_come_at_most_a_second_apart_and_a_success_closes() {
    let start = Instant::now();
    let mut breaker = open(start);
    let (mut now, mut probes) = (start, Vec::new());
    while now < at(start, 20_000) {
        match breaker.admit(now, u64::MAX) {
            Verdict::Go => panic!("open"),
            Verdict::Probe => {
                probes.push(now);
                breaker.failed(now, true, 0);
            }
            Verdict::Wait(until) => {
                assert!(until > now && until <= now + Duration::from_secs(1));
                now = until;
            }
        }
    }
    assert!(probes.len() >= 20, "{} probes in 20 s", probes.len());
    assert!(probes.windows(2).all(|w| w[1] - w[0] <= Duration::from_secs(1)));
    assert!(breaker.succeeded(now));
    assert_eq!(breaker.admit(now, 0), Verdict::Go);
}

#[test]
fn probes_that_are_never_heard_of_do_not_close_it_for_good() {
    let start = Instant::now();
    let mut breaker = open(start);
    let mut out = 0;
    for ms in (0..60_000).step_by(100) {
        if breaker.admit(at(start, ms), 0) == Verdict::Probe {
            out += 1;
        }
    }
    assert!((6..=15).contains(&out), "{out} probes");
}

#[derive(Debug, Clone)]
enum Call {
    Admit,
    Succeed,
    Fail,
    Return,
}

proptest! {
    /// Compares with a list of what happened since the last success.
    #[test]
    fn never_more_probes_than_allowed_and_never_shut_for_good(
        calls in prop::collection::vec(
            (prop_oneof![3 => Just(Call::Admit), 1 => Just(Call::Succeed), 5 => Just(Call::Fail), 1 => Just(Call::Return)], 0..700u64, any::<u64>()),
            1..300,
        ),
    ) {
        let start = Instant::now();
        let mut breaker = Breaker::new(Rules::default());
        let (mut now, mut out) = (start, 0u32);
        let mut in_a_row: Vec<Instant> = Vec::new();
        for (call, ms, random) in calls {
            now += Duration::from_millis(ms);
            let before = breaker.state();
            match call {
                Call::Admit => match breaker.admit(now, random) {
                    Verdict::Go => prop_assert_eq!(before, State::Closed),
                    Verdict::Probe => {
                        prop_assert!(before != State::Closed);
                        out += 1;
                        prop_assert!(out <= Rules::default().probes || ms > 0);
                        out = out.min(Rules::default().probes);
                    }
                    Verdict::Wait(until) => {
                        prop_assert!(before != State::Closed);
                        prop_assert!(until > now && until <= now + Duration::from_secs(1));
                    }
                },
                Call::Succeed => {
                    prop_assert_eq!(breaker.succeeded(now), before != State::Closed);
                    prop_assert_eq!(breaker.state(), State::Closed, "any success closes it");
                    out = 0;
                    in_a_row.clear();
                }
                Call::Fail => {
                    let probe = out > 0;
                    out = out.saturating_sub(1);
                    let opened = breaker.failed(now, probe, random);
                    in_a_row.push(now);
                    let row = in_a_row.len() >= 20
                        || (in_a_row.len() >= 5 && now - in_a_row[0] >= Duration::from_secs(1));
                    if before == State::Closed && row {
                        prop_assert!(opened);
                    }
                    prop_assert!(!(opened && before != State::Closed), "what is open does not open");
                    prop_assert!(before == State::Closed || breaker.state() != State::Closed, "a failure never closes it");
                }
                Call::Return => {
                    if out > 0 {
                        out -= 1;
                        breaker.returned();
                    }
                    prop_assert_eq!(breaker.state() == State::Closed, before == State::Closed);
                }
            }
        }
    }
}
