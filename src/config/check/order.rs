//! Whether records of one key or of one partition may run concurrently although the pipeline has an order, as far as the statements show.
//!
//! [`Program::commutes`](crate::pipeline::program::Program::commutes) decides it with certainty, once the database has reported each statement's
//! table.

use super::super::{Config, Pipeline, StepKind};
use super::cql::tables;

/// Whether no look-up reads a table that a write changes, and every step may be repeated.
pub fn commutes(config: &Config, pipeline: &Pipeline) -> bool {
    let keyspace = config.scylla.as_ref().and_then(|scylla| scylla.keyspace.as_ref());
    let keyspace = keyspace.map(|keyspace| keyspace.as_str());
    let (mut read, mut written) = (Vec::new(), Vec::new());
    for step in &pipeline.steps {
        match &step.kind {
            StepKind::Lookup(lookup) => read.extend(tables(&lookup.cql, keyspace)),
            // If a write names several tables, the first is the one that it changes; it only reads the others.
            StepKind::Write(write) if write.idempotent() => {
                written.extend(tables(&write.cql, keyspace).into_iter().next())
            }
            // A custom step may keep state that nobody else knows.
            StepKind::Write(_) | StepKind::Custom(_) => return false,
            StepKind::Filter(_) | StepKind::Set(_) | StepKind::Reference(_) => {}
        }
    }
    written.iter().all(|table| !read.contains(table))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load_str;

    #[test]
    fn what_reads_what_it_writes_and_what_cannot_be_repeated_runs_in_turn() {
        const LOOKUP: &str = "lookup = \"SELECT a FROM seen WHERE b = :b\"";
        let runs_at_once = |steps: &[&str]| {
            let steps: String = steps
                .iter()
                .enumerate()
                .map(|(i, step)| format!("[[pipelines.p.steps]]\nname = \"s{i}\"\n{step}\n"))
                .collect();
            let text = format!(
                "[kafka]\nbrokers = \"k:1\"\n[registry]\nurl = \"http://r\"\n[scylla]\nnodes = [\"s:1\"]\nkeyspace = \"K\"\n\
                 [pipelines.p.source]\ntopics = [\"t\"]\ngroup = \"g\"\n{steps}"
            );
            let (config, _) = load_str(vec![("t.toml".into(), text)], std::iter::empty())
                .unwrap_or_else(|e| panic!("{}", e.human(false)));
            commutes(&config, &config.pipelines["p"])
        };
        let insert = |table: &str| format!("write = \"INSERT INTO {table} (a, b) VALUES (:a, :b)\"");
        assert!(runs_at_once(&[LOOKUP, "set = { x = \"event.a\" }"]));
        assert!(runs_at_once(&[LOOKUP, &insert("written")]));
        assert!(runs_at_once(&[LOOKUP, &insert("other.seen")]));
        for same in ["seen", "k.Seen", "\\\"k\\\".seen"] {
            assert!(!runs_at_once(&[LOOKUP, &insert(same)]), "{same}");
        }
        let once = format!("{}\nidempotent = false", insert("written"));
        assert!(!runs_at_once(&[&once]));
        assert!(!runs_at_once(&["custom = \"geo\""]));
    }
}
