//! The state of a pipeline, and what holds it up, from what its consumers report.

use super::Mood;
use crate::cli::top::answer::Loop;
use crate::source::status::STOPPED_BY_LIMIT;

/// The state of a pipeline in a word or two, which is that of its worst consumer, and everything that delays it.
pub(super) fn state(loops: &[Loop], stopped: bool) -> ((Mood, String), Vec<String>) {
    let mut found: Vec<((Mood, String), String)> = Vec::new();
    // A pipeline stopped by its dead letters gets its own word, below.
    let halted = loops.iter().filter(|one| one.state != STOPPED_BY_LIMIT);
    for why in halted.filter_map(|one| one.halted.as_deref()) {
        found.push(((Mood::Bad, "halted".to_owned()), format!("halted: {why}")));
    }
    // Metrics and states are two answers, and the pipeline may have stopped between them.
    if stopped || loops.iter().any(|one| one.state == STOPPED_BY_LIMIT) {
        let why = "stopped: more dead letters than stop_above allows; fix the cause, then restart or send SIGHUP";
        found.push(((Mood::Bad, "dead letters".to_owned()), why.to_owned()));
    }
    let stalled = loops
        .iter()
        .flat_map(|one| &one.partitions)
        .filter(|p| p.stalled)
        .count();
    if stalled > 0 {
        let why = format!("partitions without progress: {stalled}");
        found.push(((Mood::Bad, format!("stalled: {stalled}")), why));
    }
    let others = loops
        .iter()
        .filter(|one| one.halted.is_none() && one.state != "running");
    let mut named: Vec<&str> = Vec::new();
    for state in others.map(|one| one.state.as_str()).filter(|state| !state.is_empty()) {
        if !named.contains(&state) {
            named.push(state);
            let many = loops.iter().filter(|one| one.state == state).count();
            let why = format!("consumers {state}: {many} of {}", loops.len());
            found.push(((Mood::Warn, state.to_owned()), why));
        }
    }
    // A loop that ends, or takes no records, is paused as well, however much room there is.
    let takes = |one: &Loop| matches!(one.state.as_str(), "running" | "joining");
    if loops.iter().any(|one| one.paused && takes(one)) {
        let why = "paused: memory, concurrency or a transaction is full, or 200,000 records wait behind one";
        found.push(((Mood::Warn, "paused".to_owned()), why.to_owned()));
    }
    let waiting: u64 = loops.iter().map(|one| one.waiting_for_schema).sum();
    if waiting > 0 {
        let why = format!("records waiting for their schema from the registry: {waiting}");
        found.push(((Mood::Warn, "no schema".to_owned()), why));
    }
    let word = match found.first() {
        Some((state, _)) => state.clone(),
        None if loops.is_empty() => (Mood::Warn, "starting".to_owned()),
        None => (Mood::Good, "running".to_owned()),
    };
    (word, found.into_iter().map(|(_, why)| why).collect())
}
