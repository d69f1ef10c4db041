//! Divides `[limits] memory`. Caches and references take what they declare. The rest is divided equally among pipelines: a quarter of each share for
//! prefetched records, a quarter for the producer's queue, half for records in flight.
//!
//! A pipeline keeps its share as long as it runs. Pipelines that a reload adds get what is left; if that is too little, the others are recreated with
//! smaller shares. The sum stays below the limit.

use crate::config::{Config, Pipeline, StepKind};

/// The least that is divided, whatever the limit is; the check has already warned if each pipeline gets less.
const LEAST: usize = 1 << 20;

/// The memory limit of the whole process, in bytes.
pub(crate) fn limit(config: &Config) -> usize {
    usize::try_from(config.limits.memory.bytes()).unwrap_or(usize::MAX)
}

/// The share of each of `fresh` new pipelines, beside others that keep `kept` bytes.
pub(crate) fn share(config: &Config, kept: usize, fresh: usize) -> usize {
    divide(for_pipelines(config), kept, fresh)
}

/// Whether each of `fresh` new pipelines would get less than half of what it would get if the `running` ones were
/// recreated too.
pub(super) fn crowded(config: &Config, kept: usize, running: usize, fresh: usize) -> bool {
    is_crowded(for_pipelines(config), kept, running, fresh)
}

fn is_crowded(all: usize, kept: usize, running: usize, fresh: usize) -> bool {
    fresh > 0 && divide(all, kept, fresh) < divide(all, 0, running + fresh) / 2
}

fn divide(all: usize, kept: usize, among: usize) -> usize {
    all.saturating_sub(kept).max(LEAST) / among.max(1)
}

fn for_pipelines(config: &Config) -> usize {
    let caches: u64 = config.pipelines.values().map(caches).sum();
    let references: u64 = config.references.values().map(|r| r.max_bytes.bytes()).sum();
    let held = usize::try_from(caches.saturating_add(references)).unwrap_or(usize::MAX);
    limit(config).saturating_sub(held)
}

fn caches(pipeline: &Pipeline) -> u64 {
    let caches = pipeline.steps.iter().filter_map(|step| match &step.kind {
        StepKind::Lookup(lookup) => lookup.cache.as_ref().map(|c| c.max_bytes.bytes()),
        _ => None,
    });
    caches.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: usize = 120 << 20;

    #[test]
    fn one_that_comes_takes_the_place_of_one_that_went() {
        let share = divide(ALL, 0, 3);
        assert_eq!(share, 40 << 20);
        assert!(!is_crowded(ALL, 2 * share, 2, 1));
        assert_eq!(divide(ALL, 2 * share, 1), share);
    }

    #[test]
    fn one_more_finds_no_room_and_the_others_make_some() {
        assert!(is_crowded(ALL, ALL, 1, 1));
        assert!(is_crowded(ALL, ALL, 3, 1));
        // Without new pipelines nothing has to be recreated.
        assert!(!is_crowded(ALL, ALL, 3, 0));
    }

    proptest::proptest! {
        #[test]
        fn the_shares_stay_below_the_limit(all in LEAST..ALL, running in 0_usize..9, fresh in 1_usize..9) {
            let each = divide(all, 0, running.max(1));
            let kept = each * running;
            let (kept, among) = if is_crowded(all, kept, running, fresh) { (0, running + fresh) } else { (kept, fresh) };
            proptest::prop_assert!(kept + divide(all, kept, among) * among <= all.max(kept + LEAST));
        }
    }
}
