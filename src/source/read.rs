//! Reads a record as far as the consumer loop does: framing, schema, and the fields that the pipeline uses.
//!
//! All of it is CPU work of well under a microsecond and is done in the loop, never deferred. Only the plan of a new schema can be missing; then the
//! record waits, and those of its partition behind it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::OnTombstone;
use crate::outcome::Outcome;
use crate::pipeline::event::Event;
use crate::pipeline::failure::Failure;
use crate::pipeline::plan::SchemaPlan;
use crate::pipeline::schemas::weight;
use crate::registry::framing;
use crate::registry::lru::Lru;
use crate::retry::Class;

/// How long a schema id that cannot be used is remembered before it is asked for again. Longer than the registry's client remembers an unknown id:
/// otherwise the client's remembered answer would be remembered here once more.
const UNUSABLE_FOR: Duration = Duration::from_secs(13);

/// Result of reading a record.
#[derive(Debug)]
pub enum Read {
    /// Its fields were found; it may run.
    Ready(Box<Event>),
    /// The schema of this id has to be fetched first.
    Waits(u32, Box<Event>),
    /// It ends here, without a step.
    Ends(Outcome, Box<Event>),
    /// It can never succeed.
    Fails(Failure, Box<Event>),
}

/// The plans that a loop knows; its own, so no lock is needed.
#[derive(Debug, Default)]
pub struct Plans {
    plans: Lru<(Result<Arc<SchemaPlan>, Failure>, Instant)>,
    /// The plan that was used last: most records have the schema of the one before.
    last: Option<(u32, Arc<SchemaPlan>)>,
}

impl Plans {
    /// Stores the answer for `id`. An error is forgotten after thirteen seconds.
    pub fn learn(&mut self, id: u32, plan: Result<Arc<SchemaPlan>, Failure>, now: Instant) {
        let weight = weight(&plan);
        self.plans.insert(id, (plan, now), weight);
        // The next look-up then counts as a use of the plan, so that the cache keeps it.
        self.last = None;
    }

    fn get(&mut self, id: u32, now: Instant) -> Option<Result<Arc<SchemaPlan>, &Failure>> {
        if let Some((last, plan)) = &self.last
            && *last == id
        {
            return Some(Ok(plan.clone()));
        }
        let expired = self
            .plans
            .get(id)
            .is_some_and(|(plan, at)| plan.is_err() && now.duration_since(*at) > UNUSABLE_FOR);
        if expired {
            self.plans.remove(id);
        }
        let (plan, _) = self.plans.get(id)?;
        if let Ok(plan) = plan {
            self.last = Some((id, plan.clone()));
        }
        Some(plan.as_ref().map(Arc::clone))
    }
}

/// Reads one record, unless it failed on admission. `now` is the loop's clock and only serves the memory of unusable schemas.
pub fn read(mut event: Box<Event>, plans: &mut Plans, tombstone: OnTombstone, now: Instant) -> Read {
    if let Some(failure) = event.failure.take() {
        return Read::Fails(failure, event);
    }
    let Some(value) = event.value() else {
        return match tombstone {
            OnTombstone::Skip => Read::Ends(Outcome::Skipped, event),
            OnTombstone::DeadLetter => Read::Fails(Failure::permanent("tombstone", "the record has no value"), event),
        };
    };
    let (id, start) = match framing::parse(value) {
        Ok(parsed) => parsed,
        Err(error) => return Read::Fails(Failure::permanent("framing", error.to_string()), event),
    };
    event.schema_id = Some(id);
    event.datum_start = start;
    let plan = match plans.get(id, now) {
        Some(Ok(plan)) => plan,
        Some(Err(failure)) => {
            let failure = Failure {
                class: Class::Permanent,
                ..failure.clone()
            };
            return Read::Fails(failure, event);
        }
        None => return Read::Waits(id, event),
    };
    let mut marks = std::mem::take(&mut event.marks);
    marks.resize(plan.plan.marks(), 0);
    let end = event.datum_end();
    let run = plan.plan.run(event.padded(), start, end, &mut marks);
    event.marks = marks;
    match run {
        Ok(()) => {
            event.plan = Some(plan);
            Read::Ready(event)
        }
        Err(error) => Read::Fails(Failure::permanent("avro", error.to_string()), event),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::avro::{Plan, Schema};
    use crate::registry::RegistryOptions;

    #[test]
    fn plans_are_not_remembered_without_end() {
        let field = "x".repeat(1 << 20);
        let json = format!(r#"{{"type":"record","name":"R","fields":[{{"name":"{field}","type":"int"}}]}}"#);
        let plan = Plan::compile(Arc::new(Schema::parse(&json).unwrap()), &[]).unwrap();
        let plan = Arc::new(SchemaPlan { plan, output: None });
        let (mut plans, now) = (Plans::default(), Instant::now());
        for id in 0..1_000 {
            plans.learn(id, Ok(plan.clone()), now);
            assert!(plans.get(id, now).is_some(), "who waits for it asks next");
            assert!(plans.get(0, now).is_some(), "what is in use stays");
            assert!(plans.plans.len() < 20);
        }
    }

    #[test]
    fn what_cannot_be_used_is_remembered_in_one_place_at_a_time() {
        assert!(
            UNUSABLE_FOR > RegistryOptions::default().unknown_ttl.mul_f64(1.2),
            "with its jitter"
        );
    }

    #[test]
    fn an_id_that_cannot_be_used_is_asked_for_again_after_a_while() {
        let (mut plans, start) = (Plans::default(), Instant::now());
        plans.learn(7, Err(Failure::permanent("registry", "no such schema")), start);
        let over = start + UNUSABLE_FOR;
        assert!(plans.get(7, over).is_some());
        assert!(plans.get(7, over + Duration::from_millis(1)).is_none());
    }

    #[test]
    fn ids_that_cannot_be_used_are_not_remembered_without_end() {
        let mut plans = Plans::default();
        let start = Instant::now();
        for id in 0..100_000 {
            let failure = Failure::permanent("schema", "no such schema: ".repeat(100));
            plans.learn(id, Err(failure), start);
            assert!(plans.get(id, start).is_some(), "who waits for it asks next");
            assert!(plans.plans.len() <= 40_000);
        }
    }
}
