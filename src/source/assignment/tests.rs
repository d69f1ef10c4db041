//! Tests of the assignment under random calls, watched by a model that knows only what the group, the consumer and the tasks know.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::ledger::NO_EPOCH;

#[derive(Debug, Clone)]
enum Step {
    Assigned(BTreeSet<usize>),
    /// Answers the n-th `FetchCommitted` ever emitted, current or not.
    Started(usize, Option<i64>),
    /// As `Started`, if the group has no offset and begins at its end.
    StartedAtEnd(usize, i64),
    Admit(usize),
    /// The n-th completion ever due arrives: in time, late, or a second time.
    Finish(usize),
    /// The same completion, if it is still due, never arrives.
    GiveUp(usize),
    Acknowledge,
    Revoked(BTreeSet<usize>, u64),
    Lost(BTreeSet<usize>),
    LostAll,
    Rewind(usize, i64),
    Restart,
    Tick(u64),
}

/// Two topics of three partitions.
fn partition(n: usize) -> Partition {
    Partition {
        topic: (n / 3) as u16,
        index: (n % 3) as i32,
    }
}

fn some() -> impl Strategy<Value = BTreeSet<usize>> {
    prop::collection::btree_set(0..6usize, 0..4)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => some().prop_map(Step::Assigned),
        4 => (any::<usize>(), prop::option::of(0..20i64)).prop_map(|(n, committed)| Step::Started(n, committed)),
        1 => (any::<usize>(), 0..20i64).prop_map(|(n, end)| Step::StartedAtEnd(n, end)),
        12 => (0..6usize).prop_map(Step::Admit),
        9 => any::<usize>().prop_map(Step::Finish),
        1 => any::<usize>().prop_map(Step::GiveUp),
        2 => Just(Step::Acknowledge),
        2 => (some(), 0..20u64).prop_map(|(list, seconds)| Step::Revoked(list, seconds)),
        1 => some().prop_map(Step::Lost),
        1 => Just(Step::LostAll),
        1 => (0..6usize, 0..25i64).prop_map(|(n, offset)| Step::Rewind(n, offset)),
        1 => Just(Step::Restart),
        2 => (0..8u64).prop_map(Step::Tick),
    ]
}

/// One assignment of one partition, as seen from outside.
#[derive(Debug, Default)]
struct Known {
    running: bool,
    draining: bool,
    unfinished: BTreeSet<i64>,
    /// Those that will never finish.
    given_up: BTreeSet<i64>,
    next: i64,
    /// The lowest offset that was refused while it started.
    refused: Option<i64>,
    committed: Option<i64>,
}

impl Known {
    fn is_busy(&self) -> bool {
        self.unfinished.len() > self.given_up.len()
    }
}

#[derive(Debug)]
struct Pending {
    list: Vec<Partition>,
    /// The assignments that were held at the revocation.
    tickets: Vec<Ticket>,
    deadline: Instant,
}

struct Watch {
    subject: Assignment,
    now: Instant,
    /// Assignments that are not over.
    held: BTreeMap<Partition, Ticket>,
    known: Vec<(Ticket, Known)>,
    fetches: Vec<Ticket>,
    due: Vec<(Ticket, i64)>,
    pending: Vec<Pending>,
    /// Partitions whose log went back, which the group does not know yet.
    rewound: BTreeSet<Partition>,
}

impl Watch {
    fn new() -> Watch {
        Watch {
            subject: Assignment::new(),
            now: Instant::now(),
            held: BTreeMap::new(),
            known: Vec::new(),
            fetches: Vec::new(),
            due: Vec::new(),
            pending: Vec::new(),
            rewound: BTreeSet::new(),
        }
    }

    fn known(&mut self, ticket: Ticket) -> &mut Known {
        &mut self.known.iter_mut().find(|(other, _)| *other == ticket).unwrap().1
    }

    fn is_current(&self, ticket: Ticket) -> bool {
        self.held.values().any(|held| *held == ticket)
    }

    /// Carries out the actions, judging each.
    fn act(&mut self) {
        while let Some(action) = self.subject.next_action() {
            match action {
                Action::FetchCommitted(list) => {
                    assert!(!list.is_empty());
                    for (partition, ticket) in list {
                        assert!(
                            self.known.iter().all(|(other, _)| *other != ticket),
                            "an epoch was given out twice"
                        );
                        assert_eq!(
                            self.held.insert(partition, ticket),
                            None,
                            "the former assignment was not forgotten"
                        );
                        self.known.push((ticket, Known::default()));
                        self.fetches.push(ticket);
                    }
                }
                Action::Start {
                    partition,
                    ticket,
                    from,
                } => {
                    assert_eq!(self.held.get(&partition), Some(&ticket));
                    let known = self.known(ticket);
                    assert!(!known.running && !known.draining);
                    if let Some(refused) = known.refused {
                        assert!(from.is_some_and(|from| known.committed == Some(from) || from <= refused));
                    }
                    known.running = true;
                    known.next = from.unwrap_or(0);
                    if from < known.committed {
                        known.committed = None;
                        assert!(self.rewound.contains(&partition), "started before the group's offset");
                    }
                }
                Action::Forget { partition, ticket } => {
                    assert_eq!(
                        self.held.remove(&partition),
                        Some(ticket),
                        "forgotten twice, or never held"
                    );
                }
                Action::Commit(list) => {
                    // `unassign`, which must come next, has judged what the list holds.
                    let Some(Action::Unassign(partitions)) = self.subject.next_action() else {
                        panic!("a commit without its unassign")
                    };
                    assert!(!list.is_empty());
                    self.unassign(partitions, list);
                }
                Action::Unassign(partitions) => self.unassign(partitions, Vec::new()),
            }
        }
    }

    fn unassign(&mut self, partitions: Vec<Partition>, commits: Vec<(Partition, Position)>) {
        self.rewound.retain(|partition| !partitions.contains(partition));
        let ready = |watch: &Watch, pending: &Pending| {
            let drained = pending.tickets.iter().all(|ticket| {
                // Already over through loss, an earlier deadline or a new assignment, or with nothing unfinished.
                watch
                    .known
                    .iter()
                    .any(|(other, known)| other == ticket && (!known.is_busy() || !known.draining))
            });
            let mut list = pending.list.clone();
            list.retain(|partition| !watch.held.contains_key(partition));
            let forgotten = pending.tickets.iter().all(|ticket| !watch.is_current(*ticket));
            list == partitions && forgotten && (drained || pending.deadline <= watch.now)
        };
        let at = self.pending.iter().position(|pending| ready(self, pending));
        let pending = self
            .pending
            .remove(at.expect("an unassign that nobody asked for, or too early"));
        for (partition, position) in commits {
            let ticket = pending.tickets.iter().find(|ticket| self.name(**ticket) == partition);
            let known = self.known(*ticket.expect("a commit for a partition that was not revoked"));
            assert!(known.draining, "a commit for a partition that is lost or left before");
            check(known, position);
        }
        for ticket in pending.tickets {
            self.known(ticket).draining = false;
        }
    }

    fn name(&self, ticket: Ticket) -> Partition {
        self.subject.places[ticket.slot as usize].partition
    }

    fn lose(&mut self, partition: Partition) {
        if let Some(ticket) = self.held.get(&partition).copied() {
            let known = self.known(ticket);
            (known.running, known.draining) = (false, false);
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Assigned(list) => {
                let list: Vec<Partition> = list.into_iter().map(partition).collect();
                for partition in &list {
                    self.lose(*partition);
                }
                self.subject.assigned(&list);
            }
            Step::Started(n, committed) => {
                if self.fetches.is_empty() {
                    return;
                }
                let ticket = self.fetches[n % self.fetches.len()];
                if self.is_current(ticket) && !self.known(ticket).running && !self.known(ticket).draining {
                    self.known(ticket).committed = committed;
                }
                self.subject.started(ticket, committed, 0);
            }
            Step::StartedAtEnd(n, end) => {
                if !self.fetches.is_empty() {
                    self.subject.started_at_end(self.fetches[n % self.fetches.len()], end);
                }
            }
            Step::Admit(n) => {
                let partition = partition(n);
                let ticket = self.held.get(&partition).copied();
                let running = ticket.is_some_and(|ticket| self.known(ticket).running);
                assert_eq!(self.subject.accepts(partition), running);
                let offset = ticket.map_or(5, |ticket| self.known(ticket).next);
                match self.subject.admit(partition, offset, None).unwrap() {
                    Intake::Admitted { ticket: given, .. } => {
                        assert!(running);
                        assert_eq!(Some(given), ticket);
                        self.known(given).unfinished.insert(offset);
                        self.known(given).next += 1;
                        self.due.push((given, offset));
                    }
                    Intake::Refused => {
                        assert!(!running);
                        if let Some(ticket) = ticket {
                            let known = self.known(ticket);
                            known.refused = known.refused.or(Some(offset));
                        }
                    }
                }
            }
            Step::Finish(n) => {
                if self.due.is_empty() {
                    return;
                }
                let (ticket, offset) = self.due[n % self.due.len()];
                let expected = match (self.is_current(ticket), self.known(ticket).unfinished.contains(&offset)) {
                    (false, _) => Ok(Completion::Stale),
                    (true, true) => Ok(Completion::Counted),
                    (true, false) => Err(LedgerError::NotInFlight { offset }),
                };
                assert_eq!(self.subject.finished(ticket, offset), expected);
                if expected == Ok(Completion::Counted) {
                    self.known(ticket).unfinished.remove(&offset);
                }
            }
            Step::GiveUp(n) => {
                if self.due.is_empty() {
                    return;
                }
                let (ticket, offset) = self.due.swap_remove(n % self.due.len());
                let unfinished = self.known(ticket).unfinished.contains(&offset);
                self.subject.give_up(ticket, usize::from(unfinished));
                if unfinished {
                    self.known(ticket).given_up.insert(offset);
                }
            }
            Step::Acknowledge => {
                let acknowledged: Vec<_> = self.subject.committable().collect();
                for (partition, ticket, position) in acknowledged {
                    self.subject.committed(ticket, position.offset);
                    self.rewound.remove(&partition);
                    self.known(ticket).committed = Some(position.offset);
                }
                assert_eq!(self.subject.committable().count(), 0);
            }
            Step::Revoked(list, seconds) => {
                let list: Vec<Partition> = list.into_iter().map(partition).collect();
                let deadline = self.now + Duration::from_secs(seconds);
                let mut tickets: Vec<Ticket> = list
                    .iter()
                    .filter_map(|partition| self.held.get(partition).copied())
                    .collect();
                for &ticket in &tickets {
                    let known = self.known(ticket);
                    known.draining |= known.running;
                    known.running = false;
                }
                tickets.retain(|ticket| self.known(*ticket).draining);
                self.pending.push(Pending {
                    list: list.clone(),
                    tickets,
                    deadline,
                });
                self.subject.revoked(&list, deadline);
            }
            Step::Lost(list) => {
                let list: Vec<Partition> = list.into_iter().map(partition).collect();
                for partition in &list {
                    self.lose(*partition);
                }
                self.pending.push(Pending {
                    list: list.clone(),
                    tickets: Vec::new(),
                    deadline: self.now,
                });
                self.subject.lost(&list);
            }
            Step::LostAll => {
                (0..6).for_each(|n| self.lose(partition(n)));
                self.subject.lost_all();
                self.act();
                assert!(self.held.is_empty() && self.pending.is_empty());
            }
            Step::Rewind(n, offset) => {
                let partition = partition(n);
                let ticket = self
                    .held
                    .get(&partition)
                    .copied()
                    .filter(|ticket| self.known(*ticket).running);
                let ledger = self
                    .subject
                    .held()
                    .find(|held| Some(held.ticket) == ticket)
                    .and_then(|held| held.ledger);
                let start = ledger
                    .and_then(Ledger::position)
                    .map(|position| offset.min(position.offset));
                assert_eq!(self.subject.rewind(partition, offset), start.is_some());
                if let Some(start) = start {
                    self.lose(partition);
                    assert!(matches!(self.subject.next_action(), Some(Action::Forget { .. })));
                    let Some(Action::Start {
                        ticket,
                        from: Some(from),
                        ..
                    }) = self.subject.next_action()
                    else {
                        panic!("a rewind starts the partition anew")
                    };
                    assert_eq!(from, start);
                    self.rewound.insert(partition);
                    self.held.insert(partition, ticket);
                    self.known.push((
                        ticket,
                        Known {
                            running: true,
                            next: start,
                            ..Known::default()
                        },
                    ));
                }
            }
            Step::Restart => {
                (0..6).for_each(|n| self.lose(partition(n)));
                self.subject.restart();
            }
            Step::Tick(seconds) => {
                self.now += Duration::from_secs(seconds);
                self.subject.tick(self.now);
                self.act();
                assert!(
                    self.pending.iter().all(|pending| pending.deadline > self.now),
                    "a deadline passed unanswered"
                );
            }
        }
        self.act();
        assert_eq!(
            self.subject.next_deadline(),
            self.pending.iter().map(|pending| pending.deadline).min()
        );
        let held: Vec<Held<'_>> = self.subject.held().collect();
        assert_eq!(held.len(), self.held.len());
        for held in held {
            assert_eq!(self.held.get(&held.partition), Some(&held.ticket));
        }
        let offered: Vec<_> = self.subject.committable().collect();
        for (partition, ticket, position) in offered {
            assert_eq!(self.held.get(&partition), Some(&ticket));
            check(self.known(ticket), position);
        }
        for pending in &self.pending {
            let busy = |ticket: &Ticket| {
                let (_, known) = self.known.iter().find(|(other, _)| other == ticket).unwrap();
                self.is_current(*ticket) && known.is_busy()
            };
            assert!(pending.tickets.iter().any(busy), "a revocation waits for nothing");
        }
    }
}

fn check(known: &Known, position: Position) {
    assert!(known.running || known.draining);
    assert!(
        known.unfinished.first().is_none_or(|first| position.offset <= *first),
        "committed past an unfinished record"
    );
    assert!(known.unfinished.first().is_some_and(|first| position.offset == *first) || position.offset == known.next);
    assert!(known.committed.is_none_or(|committed| committed < position.offset));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn keeps_its_promises_under_any_calls(steps in prop::collection::vec(step(), 0..200)) {
        let mut watch = Watch::new();
        for step in steps {
            watch.step(step);
        }
        watch.step(Step::Tick(1000));
        prop_assert!(watch.pending.is_empty(), "a revocation was never answered");
    }
}

const P: Partition = Partition { topic: 0, index: 3 };
const Q: Partition = Partition { topic: 1, index: 0 };

/// An assignment that runs `P` from offset 10, with 10 and 11 in flight.
fn running() -> (Assignment, Ticket) {
    let mut assignment = Assignment::new();
    assignment.assigned(&[P]);
    let Some(Action::FetchCommitted(list)) = assignment.next_action() else {
        panic!("no fetch")
    };
    let (_, ticket) = list[0];
    assignment.started(ticket, Some(10), i64::MIN);
    assert_eq!(
        assignment.next_action(),
        Some(Action::Start {
            partition: P,
            ticket,
            from: Some(10)
        })
    );
    for offset in [10, 11] {
        assert!(matches!(
            assignment.admit(P, offset, Some(1)),
            Ok(Intake::Admitted { .. })
        ));
    }
    (assignment, ticket)
}

fn actions(assignment: &mut Assignment) -> Vec<Action> {
    std::iter::from_fn(|| assignment.next_action()).collect()
}

#[test]
fn a_drain_commits_and_then_unassigns() {
    let (mut assignment, ticket) = running();
    assignment.revoked(&[P, Q], Instant::now() + Duration::from_secs(60));
    assert_eq!(actions(&mut assignment), []);
    assert!(!assignment.accepts(P));
    assert_eq!(assignment.admit(P, 12, None), Ok(Intake::Refused));
    assert_eq!(assignment.finished(ticket, 11), Ok(Completion::Counted));
    assert_eq!(actions(&mut assignment), []);
    assert_eq!(assignment.finished(ticket, 10), Ok(Completion::Counted));
    assert_eq!(actions(&mut assignment), drained(ticket, 12, 1015, &[P, Q]));
    assert_eq!(assignment.finished(ticket, 10), Ok(Completion::Stale));
}

/// The actions when P is drained: its commit, and the answer to the group for all that it takes back.
fn drained(ticket: Ticket, offset: i64, clock: i64, revoked: &[Partition]) -> [Action; 3] {
    let position = Position {
        offset,
        clock,
        leader_epoch: NO_EPOCH,
    };
    [
        Action::Forget { partition: P, ticket },
        Action::Commit(vec![(P, position)]),
        Action::Unassign(revoked.to_vec()),
    ]
}

#[test]
fn a_drain_does_not_wait_for_what_is_given_up_nor_commits_past_it() {
    let (mut assignment, ticket) = running();
    assignment.admit(P, 12, None).unwrap();
    assignment.give_up(ticket, 2);
    assignment.revoked(&[P], Instant::now() + Duration::from_secs(60));
    assert_eq!(actions(&mut assignment), []);
    assert_eq!(assignment.finished(ticket, 10), Ok(Completion::Counted));
    assert_eq!(actions(&mut assignment), drained(ticket, 11, 1007, &[P]));
    // Nothing else is in flight.
    let (mut assignment, ticket) = running();
    assignment.revoked(&[P], Instant::now() + Duration::from_secs(60));
    assignment.give_up(ticket, 2);
    let expected = [Action::Forget { partition: P, ticket }, Action::Unassign(vec![P])];
    assert_eq!(actions(&mut assignment), expected);
}

#[test]
fn a_deadline_commits_what_is_finished_and_no_more() {
    let (mut assignment, ticket) = running();
    let deadline = Instant::now() + Duration::from_secs(5);
    assignment.revoked(&[P], deadline);
    assignment.finished(ticket, 10).unwrap();
    assignment.tick(deadline - Duration::from_nanos(1));
    assert_eq!(actions(&mut assignment), []);
    assert_eq!(assignment.next_deadline(), Some(deadline));
    assignment.tick(deadline);
    assert_eq!(actions(&mut assignment), drained(ticket, 11, 1007, &[P]));
    assert_eq!(assignment.next_deadline(), None);
}

#[test]
fn a_partition_lost_during_its_drain_is_not_committed() {
    let (mut assignment, ticket) = running();
    assignment.finished(ticket, 10).unwrap();
    assignment.revoked(&[P], Instant::now() + Duration::from_secs(60));
    assignment.lost_all();
    assert_eq!(
        actions(&mut assignment),
        [Action::Forget { partition: P, ticket }, Action::Unassign(vec![P])]
    );
    assert_eq!(assignment.committable().count(), 0);
}

#[test]
fn an_empty_or_unknown_revocation_is_answered() {
    let mut assignment = Assignment::new();
    assignment.revoked(&[], Instant::now());
    assignment.lost(&[Q]);
    assert_eq!(
        actions(&mut assignment),
        [Action::Unassign(vec![]), Action::Unassign(vec![Q])]
    );
}

#[test]
fn a_record_refused_while_starting_is_fetched_again() {
    let mut assignment = Assignment::new();
    assignment.assigned(&[P]);
    let Some(Action::FetchCommitted(list)) = assignment.next_action() else {
        panic!("no fetch")
    };
    for offset in [7, 8] {
        assert_eq!(assignment.admit(P, offset, None), Ok(Intake::Refused));
    }
    let ticket = list[0].1;
    assignment.started(ticket, None, i64::MIN);
    assert_eq!(
        actions(&mut assignment),
        [Action::Start {
            partition: P,
            ticket,
            from: Some(7)
        }]
    );
}

#[test]
fn a_partition_assigned_twice_starts_at_its_first_unfinished_record() {
    let (mut assignment, old) = running();
    assignment.finished(old, 10).unwrap();
    assignment.revoked(&[P], Instant::now() + Duration::from_secs(60));
    assignment.assigned(&[P]);
    let acted = actions(&mut assignment);
    assert_eq!(
        acted[0],
        Action::Forget {
            partition: P,
            ticket: old
        }
    );
    let Action::FetchCommitted(list) = &acted[1] else {
        panic!("no fetch")
    };
    assert_eq!(acted[2], Action::Unassign(vec![]), "what came back is not given away");
    let ticket = list[0].1;
    assignment.started(old, Some(99), 0);
    assignment.started(ticket, None, i64::MIN);
    assert_eq!(
        actions(&mut assignment),
        [Action::Start {
            partition: P,
            ticket,
            from: Some(11)
        }]
    );
    assert!(assignment.accepts(P) && assignment.next_deadline().is_none());
}

#[test]
fn a_revocation_does_not_wait_for_a_later_assignment() {
    let (mut assignment, old) = running();
    assignment.assigned(&[Q]);
    let Some(Action::FetchCommitted(list)) = assignment.next_action() else {
        panic!("no fetch")
    };
    let of_q = list[0].1;
    assignment.started(of_q, Some(0), 0);
    actions(&mut assignment);
    assignment.admit(Q, 0, None).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    assignment.revoked(&[P, Q], deadline);
    assignment.assigned(&[P]);
    let Some(Action::FetchCommitted(list)) = actions(&mut assignment).pop() else {
        panic!("no fetch")
    };
    assert_ne!(list[0].1, old);
    assignment.started(list[0].1, Some(10), 0);
    actions(&mut assignment);
    assignment.admit(P, 10, None).unwrap();
    assignment.revoked(&[P], deadline);
    actions(&mut assignment);
    assignment.finished(of_q, 0).unwrap();
    assert_eq!(actions(&mut assignment).pop(), Some(Action::Unassign(vec![Q])));
    assert!(
        assignment.next_deadline().is_some(),
        "the second revocation goes on waiting"
    );
}

#[test]
fn a_log_that_went_back_starts_anew() {
    let (mut assignment, old) = running();
    assert_eq!(
        assignment.admit(P, 10, None),
        Err(LedgerError::Behind {
            offset: 10,
            expected: 12
        })
    );
    assert!(assignment.rewind(P, 3));
    let expected_forget = Action::Forget {
        partition: P,
        ticket: old,
    };
    let acted = actions(&mut assignment);
    assert_eq!(acted[0], expected_forget);
    let Action::Start {
        ticket, from: Some(3), ..
    } = acted[1]
    else {
        panic!("no start")
    };
    assert_eq!(
        assignment.admit(P, 3, Some(0)),
        Ok(Intake::Admitted {
            ticket,
            timestamp: 1016,
            due: None
        })
    );
    assert_eq!(assignment.finished(old, 10), Ok(Completion::Stale));
    let offered: Vec<i64> = assignment
        .committable()
        .map(|(_, _, position)| position.offset)
        .collect();
    assert_eq!(offered, [3], "the group's offset goes back with the log");
}

#[test]
fn where_a_group_begins_at_the_end_is_committed_without_a_record() {
    let mut assignment = Assignment::new();
    let start = |assignment: &mut Assignment, end| {
        let Some(Action::FetchCommitted(list)) = assignment.next_action() else {
            panic!("no fetch")
        };
        assignment.started_at_end(list[0].1, end);
        match assignment.next_action() {
            Some(Action::Start { from: Some(from), .. }) => from,
            other => panic!("no start: {other:?}"),
        }
    };
    let offered = |assignment: &Assignment| -> Vec<i64> {
        assignment
            .committable()
            .map(|(_, _, position)| position.offset)
            .collect()
    };
    assignment.assigned(&[P]);
    assert_eq!(start(&mut assignment, 7), 7);
    assert_eq!(offered(&assignment), [7]);
    // When it starts again before that is committed, it does not skip what has come meanwhile.
    assignment.restart();
    assert!(matches!(assignment.next_action(), Some(Action::Forget { .. })));
    assert_eq!(start(&mut assignment, 9), 7);
    assignment.revoked(&[P], Instant::now() + Duration::from_secs(60));
    let committed = actions(&mut assignment).into_iter().find_map(|action| match action {
        Action::Commit(positions) => Some(positions),
        _ => None,
    });
    let position = Position {
        offset: 7,
        clock: i64::MIN,
        leader_epoch: NO_EPOCH,
    };
    assert_eq!(committed, Some(vec![(P, position)]));
}

/// The end of the log was lost, or it is another log, which is read from its end on. The next records have offsets that are in
/// flight.
#[test]
fn a_log_that_went_back_behind_an_unfinished_record_loses_neither_that_nor_what_is_new() {
    let (mut assignment, old) = running();
    assignment.finished(old, 11).unwrap();
    assert!(matches!(
        assignment.admit(P, 11, Some(1)),
        Err(LedgerError::Behind { .. })
    ));
    assert!(assignment.rewind(P, 11));
    let acted = actions(&mut assignment);
    assert!(
        matches!(acted[..], [Action::Forget { ticket, .. }, Action::Start { from: Some(10), .. }] if ticket == old),
        "{acted:?}"
    );
    for offset in [10, 11] {
        assert!(matches!(
            assignment.admit(P, offset, Some(1)),
            Ok(Intake::Admitted { .. })
        ));
    }
    let offered: Vec<i64> = assignment
        .committable()
        .map(|(_, _, position)| position.offset)
        .collect();
    assert_eq!(offered, [10]);
}

#[test]
fn a_record_behind_the_one_that_was_due_says_which_that_was() {
    for (committed, expected) in [
        (Some(10), [Some(10), None, Some(51)]),
        // If the group has no offset, no offset is due.
        (None, [None, None, Some(51)]),
    ] {
        let mut assignment = Assignment::new();
        assignment.assigned(&[P]);
        let ticket = fetch(&mut assignment);
        assignment.started(ticket, committed, i64::MIN);
        actions(&mut assignment);
        let dues = [49, 50, 52].map(|offset| match assignment.admit(P, offset, None) {
            Ok(Intake::Admitted { due, .. }) => due,
            refused => panic!("{refused:?}"),
        });
        assert_eq!(dues, expected);
    }
}

#[test]
fn a_negative_partition_is_no_partition() {
    let mut assignment = Assignment::new();
    assignment.assigned(&[Partition { topic: 0, index: -1 }]);
    assert_eq!(actions(&mut assignment), []);
}

#[test]
fn a_restart_forgets_what_finished_and_begins_at_the_groups_offset() {
    let [a, b, c] = [0, 1, 2].map(|index| Partition { topic: 0, index });
    let mut assignment = Assignment::new();
    assignment.assigned(&[a, b, c]);
    let Some(Action::FetchCommitted(starting)) = assignment.next_action() else {
        panic!("offsets are fetched");
    };
    assignment.started(starting[0].1, Some(10), 5);
    assignment.started(starting[1].1, None, i64::MIN);
    assignment.started(starting[2].1, Some(0), 0);
    while assignment.next_action().is_some() {}
    let mut tickets = Vec::new();
    for (partition, offset) in [(a, 10), (a, 11), (b, 70), (b, 71), (c, 0)] {
        let Ok(Intake::Admitted { ticket, .. }) = assignment.admit(partition, offset, Some(1)) else {
            panic!("running partitions take records in");
        };
        tickets.push((ticket, offset));
    }
    for (ticket, offset) in &tickets[..4] {
        assert_eq!(assignment.finished(*ticket, *offset), Ok(Completion::Counted));
    }
    assignment.revoked(&[c], Instant::now() + Duration::from_secs(60));
    assignment.restart();
    assert_eq!(assignment.committable().count(), 0);
    assert_eq!(assignment.finished(tickets[4].0, 0), Ok(Completion::Stale));
    let actions: Vec<Action> = std::iter::from_fn(|| assignment.next_action()).collect();
    let forgotten = actions.iter().filter(|action| matches!(action, Action::Forget { .. }));
    assert_eq!(forgotten.count(), 3);
    assert!(
        !actions.iter().any(|action| matches!(action, Action::Commit(_))),
        "{actions:?}"
    );
    assert!(actions.contains(&Action::Unassign(vec![c])), "{actions:?}");
    let again = actions.iter().find_map(|action| match action {
        Action::FetchCommitted(starting) => Some(starting.clone()),
        _ => None,
    });
    let again = again.unwrap();
    assert_eq!(again.iter().map(|(p, _)| *p).collect::<Vec<_>>(), [a, b]);
    assignment.started(again[0].1, Some(10), 5);
    // The group has no offset yet: it begins where it began before, and not after what has finished.
    assignment.started(again[1].1, None, i64::MIN);
    let from: Vec<_> = std::iter::from_fn(|| assignment.next_action())
        .filter_map(|action| match action {
            Action::Start { partition, from, .. } => Some((partition, from)),
            _ => None,
        })
        .collect();
    assert_eq!(from, [(a, Some(10)), (b, Some(70))]);
}

/// The loop postpones actions while a commit is waited for, and records that were fetched before still arrive.
#[test]
fn nothing_is_taken_in_before_its_start_is_taken() {
    let (mut assignment, _) = running();
    assert!(assignment.rewind(P, 5));
    for offset in [6, 7] {
        assert_eq!(assignment.admit(P, offset, None), Ok(Intake::Refused));
    }
    assert!(!assignment.accepts(P) && !assignment.rewind(P, 3));
    let taken = actions(&mut assignment);
    assert!(
        matches!(taken[..], [Action::Forget { .. }, Action::Start { from: Some(5), .. }]),
        "{taken:?}"
    );
    for offset in [5, 6] {
        assert!(matches!(assignment.admit(P, offset, None), Ok(Intake::Admitted { .. })));
    }

    for (committed, from) in [(Some(10), Some(10)), (None, Some(12))] {
        let mut assignment = Assignment::new();
        assignment.assigned(&[P]);
        let Some(Action::FetchCommitted(starting)) = assignment.next_action() else {
            panic!("offsets are fetched");
        };
        assignment.started(starting[0].1, committed, i64::MIN);
        for offset in [13, 12, 14] {
            assert_eq!(assignment.admit(P, offset, None), Ok(Intake::Refused));
        }
        let start = Action::Start {
            partition: P,
            ticket: starting[0].1,
            from,
        };
        assert_eq!(actions(&mut assignment), [start]);
        assert!(assignment.accepts(P));
    }

    // Nothing is committed if it leaves before.
    let (mut assignment, _) = running();
    assert!(assignment.rewind(P, 5));
    assignment.revoked(&[P], Instant::now() + Duration::from_secs(60));
    let taken = actions(&mut assignment);
    assert!(
        matches!(taken.last(), Some(Action::Unassign(left)) if left[..] == [P]),
        "{taken:?}"
    );
    assert!(!taken.iter().any(|action| matches!(action, Action::Commit(_))));
    assert_eq!(assignment.held().count(), 0);
}

/// The next fetch and its ticket, with what came before it.
fn fetch(assignment: &mut Assignment) -> Ticket {
    let fetched = actions(assignment).into_iter().find_map(|action| match action {
        Action::FetchCommitted(list) => Some(list[0].1),
        _ => None,
    });
    fetched.expect("offsets are fetched")
}

/// Where the partition starts.
fn start(assignment: &mut Assignment) -> Option<i64> {
    match actions(assignment)[..] {
        [Action::Start { from, .. }] => from,
        ref other => panic!("no start: {other:?}"),
    }
}

#[test]
fn a_restart_withdraws_the_commit_of_what_has_drained() {
    let (mut assignment, ticket) = running();
    assignment.revoked(&[P], Instant::now() + Duration::from_secs(60));
    for offset in [10, 11] {
        assert_eq!(assignment.finished(ticket, offset), Ok(Completion::Counted));
    }
    assignment.restart();
    let left = actions(&mut assignment);
    assert_eq!(
        left,
        [Action::Forget { partition: P, ticket }, Action::Unassign(vec![P])]
    );
}

/// The group's offset belongs to a log that no longer exists, and has not been replaced yet.
#[test]
fn a_log_that_went_back_is_restarted_where_it_went_back_to() {
    for (taken, admitted) in [(false, false), (true, false), (true, true)] {
        let mut assignment = Assignment::new();
        assignment.assigned(&[P]);
        let ticket = fetch(&mut assignment);
        assignment.started(ticket, Some(1000), i64::MIN);
        actions(&mut assignment);
        assert!(assignment.admit(P, 1000, Some(7)).is_ok());
        assert!(assignment.rewind(P, 0));
        if taken {
            actions(&mut assignment);
        }
        if admitted {
            assert!(matches!(assignment.admit(P, 0, None), Ok(Intake::Admitted { .. })));
        }
        assignment.restart();
        let ticket = fetch(&mut assignment);
        assignment.started(ticket, Some(1000), 5);
        assert_eq!(start(&mut assignment), Some(0), "{taken} {admitted}");
        let Ok(Intake::Admitted { timestamp, .. }) = assignment.admit(P, 0, None) else {
            panic!("it runs");
        };
        assert!(timestamp > 7000, "{timestamp}: what the old log wrote would win");
        // Once that is committed, the group's offset is what counts.
        assignment.committed(ticket, 0);
        assignment.restart();
        let ticket = fetch(&mut assignment);
        assignment.started(ticket, Some(3), 5);
        assert_eq!(start(&mut assignment), Some(3));
    }
}

#[test]
fn a_log_that_went_back_above_the_groups_offset_is_restarted_there() {
    for taken in [false, true] {
        let (mut assignment, ticket) = running();
        for offset in [10, 11] {
            assert_eq!(assignment.finished(ticket, offset), Ok(Completion::Counted));
        }
        assert!(!assignment.repeats(P, 11));
        assert!(assignment.rewind(P, 11));
        if taken {
            actions(&mut assignment);
        }
        assignment.restart();
        let ticket = fetch(&mut assignment);
        assignment.started(ticket, Some(10), i64::MIN);
        assert_eq!(start(&mut assignment), Some(10), "what finished was thrown away");
    }
}

#[test]
fn what_finished_behind_an_unfinished_record_is_repeated_unless_it_is_gone() {
    let (mut assignment, ticket) = running();
    assert!(!assignment.repeats(P, 11), "nothing is finished");
    assert_eq!(assignment.finished(ticket, 11), Ok(Completion::Counted));
    assert_eq!([10, 11].map(|offset| assignment.repeats(P, offset)), [false, true]);
    assert_eq!(assignment.finished(ticket, 10), Ok(Completion::Counted));
    assert!(!assignment.repeats(P, 11), "nothing is unfinished");
}
