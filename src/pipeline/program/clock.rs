//! Finds uses of the wall clock in writes: when a record runs again it gets another time there, and each attempt gets another
//! remaining TTL.

use super::super::finding::Finding;
use super::{Action, ComputedSource, Program, Source};
use crate::config::{Pipeline, StepKind, codes};
use crate::store::ColumnType;
use crate::store::cql::TTL_MARKER;

impl Program {
    /// How its writes, as `config` declares them, use the clock. In a key that is an error, because each run would create another row. Elsewhere it is
    /// a warning, because two values would have the same write timestamp. Returns errors and warnings.
    pub fn of_the_clock(&self, config: &Pipeline) -> (Vec<Finding>, Vec<Finding>) {
        let (mut refused, mut warned) = (Vec::new(), Vec::new());
        for (declared, step) in config.steps.iter().zip(&self.steps) {
            let (StepKind::Write(declared), Action::Write(write)) = (&declared.kind, &step.action) else {
                continue;
            };
            if !write.idempotent {
                continue;
            }
            let markers = write.statement.markers().iter().zip(&write.binds);
            for (index, (marker, place)) in markers.enumerate() {
                // The remaining TTL of a row depends on the time, and has to.
                if marker.name == TTL_MARKER || !self.tells_the_time(&place.source) {
                    continue;
                }
                let (name, what) = (&marker.name, &place.what);
                if write.statement.is_key(index) {
                    let message = format!(
                        "marker :{name} is in the primary key and {what} comes from the clock: a record that runs again makes another row"
                    );
                    let finding = Finding::new(place.span, message).code(codes::NOT_REPEATABLE);
                    refused.push(finding.help(
                        "bind record.timestamp or a time of the event; or say `idempotent = false`, and accept the rows of replays twice",
                    ));
                } else if declared.idempotent_stated.is_none() {
                    let stays = match marker.ty {
                        ColumnType::Set(_) | ColumnType::Map(..) => "and unless the column is frozen both stay",
                        _ => "and which of them stays is undefined",
                    };
                    let message = format!(
                        "marker :{name} takes {what}, which comes from the clock: a record that runs again writes another value under the same write \
                         timestamp, {stays}"
                    );
                    let finding = Finding::new(place.span, message).code(codes::NOT_REPEATABLE);
                    warned.push(finding.help(
                        "bind record.timestamp or a time of the event; or say `idempotent = true` where either value will do",
                    ));
                }
            }
        }
        (refused, warned)
    }

    /// Computes each TTL that depends on the clock at the time of each attempt: the values of `set` steps are as old as those steps, and a write may wait for
    /// hours after them. A TTL that depends on a `set` step with a `when` stays unchanged.
    pub(super) fn let_lives_wane(&mut self) {
        for index in 0..self.steps.len() {
            let Action::Write(write) = &self.steps[index].action else {
                continue;
            };
            let mut markers = write.statement.markers().iter().zip(&write.binds);
            let Some(marker) =
                markers.position(|(marker, place)| marker.name == TTL_MARKER && self.tells_the_time(&place.source))
            else {
                continue;
            };
            let mut life = self.of_its_time(&write.binds[marker].source);
            // It depends on a step with a `when`: it keeps the time of that step, and 0 means for ever, as usual.
            if self.of_a_step(&life) {
                continue;
            }
            // A computed 0 means expired; a literal 0 means for ever, as usual.
            if let Source::Computed(computed) = &mut life {
                computed.expression.zero_to_for_ever();
            }
            if let Action::Write(write) = &mut self.steps[index].action {
                write.binds[marker].source = life;
                write.waning = Some(marker);
            }
        }
    }

    /// The source, with the expressions of `set` steps that use the clock in place of their values.
    fn of_its_time(&self, source: &Source) -> Source {
        match source {
            Source::Named(index) => match self.named_value(*index) {
                // The value of a step with a `when` is null if the step did not run.
                Some((step, place)) if step.when.is_none() && self.tells_the_time(&place.source) => {
                    self.of_its_time(&place.source)
                }
                _ => source.clone(),
            },
            Source::Computed(computed) => Source::Computed(Box::new(ComputedSource {
                expression: computed.expression.clone(),
                inputs: computed.inputs.iter().map(|input| self.of_its_time(input)).collect(),
            })),
            Source::Now(_)
            | Source::Event(_)
            | Source::Record(_)
            | Source::Column { .. }
            | Source::Rows { .. }
            | Source::Constant(_) => source.clone(),
        }
    }

    /// Whether it uses the clock through the value of a `set` step.
    fn of_a_step(&self, source: &Source) -> bool {
        match source {
            Source::Named(_) => self.tells_the_time(source),
            Source::Computed(computed) => computed.inputs.iter().any(|input| self.of_a_step(input)),
            Source::Now(_)
            | Source::Event(_)
            | Source::Record(_)
            | Source::Column { .. }
            | Source::Rows { .. }
            | Source::Constant(_) => false,
        }
    }

    /// Whether a value depends on the wall clock.
    fn tells_the_time(&self, source: &Source) -> bool {
        match source {
            Source::Now(_) => true,
            Source::Named(index) => self
                .named_value(*index)
                .is_some_and(|(_, place)| self.tells_the_time(&place.source)),
            Source::Computed(computed) => computed.inputs.iter().any(|input| self.tells_the_time(input)),
            Source::Event(_)
            | Source::Record(_)
            | Source::Column { .. }
            | Source::Rows { .. }
            | Source::Constant(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::demo::cluster::Scratch;
    use crate::pipeline::program::parse;
    use crate::reference::References;
    use crate::store::AnyStore;
    use crate::store::sqlite::{SqliteOptions, SqliteStore};

    /// The errors and the warnings.
    async fn findings(write: &str) -> (Vec<Finding>, Vec<Finding>) {
        let scratch = Scratch::new().unwrap();
        let store = SqliteStore::open(&SqliteOptions::new(scratch.database())).unwrap();
        let table = "CREATE TABLE t (id bigint, at timestamp, hour bigint, seen timestamp, hours \"set<bigint>\", PRIMARY KEY (id, at, hour)) WITHOUT ROWID";
        store.execute_script(table).await.unwrap();
        let toml = format!(
            "store = \"sqlite::memory:\"\n[kafka]\nbrokers = \"k:9092\"\n[registry]\nurl = \"http://r:8081\"\n\
             [pipelines.p.source]\ntopics = [\"t\"]\ngroup = \"g\"\n\
             [[pipelines.p.steps]]\nname = \"s\"\nset = {{ clock = \"now()\", own = \"record.timestamp\" }}\n\
             [[pipelines.p.steps]]\nname = \"z\"\nset = {{ hour = \"s.clock / 3600000000\" }}\n\
             [[pipelines.p.steps]]\nname = \"w\"\n{write}\n"
        );
        let (config, _) = config::load_str(vec![("t.toml".into(), toml)], std::iter::empty()).unwrap();
        let pipeline = &config.pipelines["p"];
        let store = AnyStore::Sqlite(store);
        let program = parse(pipeline)
            .unwrap()
            .prepare(Some(&store), &References::default(), &Default::default())
            .await
            .unwrap();
        let (refused, warned) = program.of_the_clock(pipeline);
        let mut both = refused.iter().chain(&warned);
        assert!(both.all(|finding| finding.code == codes::NOT_REPEATABLE));
        (refused, warned)
    }

    /// The number of errors and of warnings.
    async fn found(write: &str) -> (usize, usize) {
        let (refused, warned) = findings(write).await;
        (refused.len(), warned.len())
    }

    #[tokio::test]
    async fn of_two_values_one_stays_and_in_a_collection_both() {
        for (column, value, wanted) in [
            ("seen", "s.clock", "which of them stays is undefined"),
            ("hours", "[z.hour]", "unless the column is frozen both stay"),
        ] {
            let write = format!(
                "write = \"INSERT INTO t (id, at, hour, {column}) VALUES (:id, :at, :hour, :{column})\"\n\
                 bind = {{ at = \"s.own\", hour = \"1\", {column} = \"{value}\" }}\n"
            );
            let (_, warned) = findings(&write).await;
            assert_eq!(warned.len(), 1, "{warned:?}");
            assert!(warned[0].message.contains(wanted), "{warned:?}");
        }
    }

    #[tokio::test]
    async fn the_clock_in_a_key_is_refused_by_whichever_way_it_comes() {
        let insert = |at: &str, hour: &str, seen: &str| {
            format!(
                "write = \"INSERT INTO t (id, at, hour, seen) VALUES (:id, :at, :hour, :seen)\"\n\
                 bind = {{ at = \"{at}\", hour = \"{hour}\", seen = \"{seen}\" }}\n"
            )
        };
        for (at, hour, seen, wanted) in [
            ("now()", "1", "s.own", (1, 0)),
            ("s.clock", "1", "s.own", (1, 0)),
            ("s.own", "s.clock / 3600000000", "s.own", (1, 0)),
            ("s.own", "z.hour", "s.own", (1, 0)),
            ("s.own", "1", "now()", (0, 1)),
            ("s.own", "1", "s.clock", (0, 1)),
            ("now()", "z.hour", "s.clock", (2, 1)),
            ("record.timestamp", "event.hour", "s.own", (0, 0)),
        ] {
            let write = insert(at, hour, seen);
            assert_eq!(found(&write).await, wanted, "{write}");
        }
        let write = insert("now()", "1", "now()");
        assert_eq!(found(&format!("{write}idempotent = false\n")).await, (0, 0));
        assert_eq!(found(&format!("{write}idempotent = true\n")).await, (1, 0));
        let delete =
            "write = \"DELETE FROM t WHERE id = :id AND at = :at AND hour = :hour\"\nbind = { at = \"s.clock\" }\n";
        assert_eq!(found(delete).await, (1, 0));
        // The remaining TTL of a row depends on the time.
        let life = insert("s.own", "1", "s.own") + "ttl_seconds = \"event.end - z.hour\"\n";
        assert_eq!(found(&life).await, (0, 0));
    }
}
