//! Applies a new configuration to a running process: changed pipelines are drained and replaced, the others continue.
//!
//! Everything is checked before anything stops: new pipelines are checked against the live services and created completely; only then do the old ones
//! drain. A configuration that is rejected changes nothing. Resources of the whole process (brokers, registry, database, HTTP, limits) need a
//! restart.
//!
//! Each reload also recreates pipelines that have halted or that their dead letters have stopped, changed or not: this is how an operator says that
//! the cause is fixed. When a rejected configuration is retried automatically, this applies only to pipelines that had halted by the time of the
//! reload.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::build::{self, Built};
use super::services::waited_for;
use super::{GRACE, PipelineEnd, Running, RunningPipeline, Shared, StartError, memory, stop};
use crate::config::{self, Config, Sources, StepKind};
use crate::source::status::STOPPED_BY_LIMIT;
use crate::telemetry::metrics::Metrics;

/// How long services may take to answer for a new pipeline; the old pipelines run meanwhile.
pub(super) const REACH: Duration = Duration::from_secs(30);

/// The outcomes of a reload, as the metrics name them.
pub(super) const OUTCOMES: [&str; 3] = ["taken", "unchanged", "rejected"];

/// The result of a reload.
#[derive(Debug)]
pub enum Taken {
    /// The files describe what runs already.
    Unchanged,
    /// The new configuration runs.
    Changed {
        /// The number of configurations applied so far, including this one.
        generation: i64,
        /// Pipelines that were started, including replacements.
        started: Vec<String>,
        /// How the pipelines ended that ran before.
        ended: Vec<PipelineEnd>,
    },
}

/// A valid configuration, and its new pipelines.
struct Plan {
    config: Config,
    sources: Sources,
    /// Names of pipelines that have to stop, because they are replaced or removed.
    leaving: BTreeSet<String>,
    built: Vec<Built>,
}

/// The error about something that did not answer within that time.
pub(super) fn gave_up(what: &str, after: Duration) -> StartError {
    StartError::Away(format!("{what}; gave up after {} s", after.as_secs()))
}

/// Limits how long creating `pipelines` pipelines, one after the other, may take: `reach` for each, and no single wait longer than `reach`.
async fn in_time<T>(
    shared: &Shared,
    reach: Duration,
    pipelines: usize,
    making: impl Future<Output = Result<T, StartError>>,
) -> Result<T, StartError> {
    let patience = reach.saturating_mul(u32::try_from(pipelines.max(1)).unwrap_or(u32::MAX));
    let made = tokio::select! {
        made = tokio::time::timeout(patience, making) => made,
        what = waited_for(shared, reach) => Ok(Err(gave_up(&what, reach))),
    };
    let waiting = shared.lock().unwrap_or_else(PoisonError::into_inner).waiting_for.take();
    made.unwrap_or_else(|_| {
        let what = waiting.map_or_else(|| "a service does not answer".to_owned(), |waiting| waiting.what);
        Err(gave_up(&what, patience))
    })
}

impl Running {
    /// Applies a configuration, which was checked offline, in place of the running one. Pipelines that had [halted](Running::halted) when it
    /// was offered are recreated.
    ///
    /// It can be dropped while it waits: pipelines that have been told to stop then stop, and the old configuration stays.
    ///
    /// # Errors
    /// Why it cannot be applied. The running pipelines continue.
    pub async fn take(
        &mut self,
        config: Config,
        sources: Sources,
        halted: BTreeSet<String>,
    ) -> Result<Taken, StartError> {
        let taken = match self.plan(config, sources, halted).await {
            Ok(Some(plan)) => Ok(self.carry_out(plan).await),
            Ok(None) => Ok(Taken::Unchanged),
            Err(error) => Err(error),
        };
        self.count_reload(match &taken {
            Ok(Taken::Unchanged) => "unchanged",
            Ok(Taken::Changed { .. }) => "taken",
            Err(_) => "rejected",
        });
        taken
    }

    /// Counts a configuration that was rejected before it got here, because its files are wrong.
    pub fn rejected(&self) {
        self.count_reload("rejected");
    }

    fn count_reload(&self, outcome: &str) {
        let successful = i64::from(outcome != "rejected");
        self.metrics.config_last_reload_successful.of([]).set(successful);
        // Counted last, so that everything else is done when the count is visible.
        self.metrics.config_reloads_total.of([outcome]).inc();
    }

    /// Determines what changes, and creates what is new; none if nothing changes.
    async fn plan(
        &self,
        config: Config,
        sources: Sources,
        halted: BTreeSet<String>,
    ) -> Result<Option<Plan>, StartError> {
        let changes = config::changes(&self.sources, &sources);
        if !changes.sections.is_empty() {
            return Err(StartError::Config(changes.refused(&sources)));
        }
        let mut concerned = changes.pipelines;
        concerned.extend(halted);
        if concerned.is_empty() {
            return Ok(None);
        }
        let staying: Vec<_> = self.pipelines.iter().filter(|p| !concerned.contains(&p.name)).collect();
        let mut kept: usize = staying.iter().map(|p| p.share).sum();
        let fresh =
            |concerned: &BTreeSet<String>| config.pipelines.keys().filter(|name| concerned.contains(*name)).count();
        if memory::crowded(&config, kept, staying.len(), fresh(&concerned)) {
            tracing::info!("the shares of [limits] memory change: all pipelines are replaced");
            concerned.extend(staying.iter().map(|p| p.name.clone()));
            kept = 0;
        }
        let share = memory::share(&config, kept, fresh(&concerned));
        let wanted: Vec<_> = config
            .pipelines
            .iter()
            .filter(|(name, _)| concerned.contains(*name))
            .map(|(_, pipeline)| pipeline)
            .collect();
        let making = build::pipelines(&config, &sources, &self.common, &wanted, share);
        let made = in_time(&self.shared, REACH, wanted.len(), making).await;
        let built = made.inspect_err(|_| {
            for untaken in wanted {
                forget_series(&self.metrics, untaken, self.config.pipelines.get(&untaken.name.value));
            }
        })?;
        Ok(Some(Plan {
            config,
            sources,
            leaving: concerned,
            built,
        }))
    }

    /// Names of pipelines with a loop that has halted.
    pub fn halted(&self) -> BTreeSet<String> {
        let shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let halted = shared
            .pipelines
            .iter()
            .filter(|known| known.loops.iter().any(|l| has_halted(l.get().state)));
        halted.map(|known| known.name.clone()).collect()
    }

    /// Drains the pipelines that leave, and starts the new ones in their place.
    async fn carry_out(&mut self, plan: Plan) -> Taken {
        let Plan {
            config,
            sources,
            leaving,
            built,
        } = plan;
        let certificates = crate::certificates::files(&config).await;
        let deadline = Instant::now() + self.config.shutdown_timeout;
        for pipeline in self.pipelines.iter().filter(|p| leaving.contains(&p.name)) {
            tracing::info!(pipeline = pipeline.name, "draining, to be replaced or removed");
            // If there is no receiver, every loop has ended already.
            let _ = pipeline.stop.send(true);
        }
        self.ended(&leaving, deadline + GRACE).await;
        let (left, staying): (Vec<_>, Vec<_>) = std::mem::take(&mut self.pipelines)
            .into_iter()
            .partition(|p| leaving.contains(&p.name));
        self.pipelines = staying;
        // The loops have ended; the time that is left is for a producer that still has records to deliver.
        let mut ended = Vec::new();
        for mut pipeline in left {
            // To brokers an abandoned loop looks like a killed process: they tell it from its successor by its session, or by its
            // instance id or transactional id.
            if !pipeline.has_ended() {
                tracing::error!(
                    pipeline = pipeline.name,
                    "a consumer did not close in time and is abandoned: the group may wait for it until its session times out"
                );
                let given_up = pipeline
                    .give_up()
                    .into_iter()
                    .map(|state| (pipeline.name.clone(), state));
                let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
                shared.given_up.extend(given_up);
            }
            ended.push(pipeline.join(deadline).await);
        }
        // Until here they are shown as stopped. With nothing in their place, probes would report that all is well.
        for pipeline in &ended {
            self.forget(&pipeline.pipeline);
        }
        // Not earlier, because the last deliveries are counted, and would recreate the series.
        for gone in leaving.iter().filter_map(|name| self.config.pipelines.get(name)) {
            forget_series(&self.metrics, gone, config.pipelines.get(&gone.name.value));
        }

        self.config = Arc::new(config);
        self.sources = sources;
        self.metrics
            .watch_certificates(certificates.into_iter().map(|(file, _)| file).collect());
        let started = built.iter().map(|b| b.known.name.clone()).collect();
        for built in built {
            // A loop without a thread is reported as halted, and recreated by the next reload.
            let _ = self.launch(built);
        }
        let generation = self.metrics.config_generation.of([]);
        generation.inc();
        Taken::Changed {
            generation: generation.get(),
            started,
            ended,
        }
    }

    /// Stops one pipeline; the others continue. Its records that are still in flight at the end of `shutdown_timeout` are
    /// abandoned.
    pub async fn end(&mut self, name: &str) {
        let by = Instant::now() + self.config.shutdown_timeout + GRACE;
        for pipeline in self.pipelines.iter().filter(|p| p.name == name) {
            // If there is no receiver, every loop has ended already.
            let _ = pipeline.stop.send(true);
        }
        self.ended(&BTreeSet::from([name.to_owned()]), by).await;
    }

    /// Waits until the loops of these pipelines have ended, and reports what they wait for.
    async fn ended(&mut self, leaving: &BTreeSet<String>, by: Instant) {
        let of_those = leaving.clone();
        // The report ends when this is dropped.
        let mut reporter = JoinSet::new();
        reporter.spawn(stop::name_what_runs(
            self.shared.clone(),
            self.metrics.clone(),
            move |name: &str| of_those.contains(name),
            tokio::time::sleep,
        ));
        all_ended(&self.pipelines, leaving, &mut self.ended.1, by).await;
    }

    /// Removes the pipeline from what probes show.
    fn forget(&self, name: &str) {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.pipelines.retain(|other| other.name != name);
        let sink = build::sink_gate(name);
        shared.breakers.retain(|gate| gate.name() != sink);
        drop(shared);
        let sampled = self.sampled.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        for (_, cache, _) in sampled.into_iter().flat_map(|sampled| sampled.caches) {
            cache.entries.set(0);
            cache.bytes.set(0);
        }
    }
}

/// Waits until the loops of these pipelines have ended; each end is announced through `told`. Stops at `by`, because librdkafka may
/// never close a consumer.
async fn all_ended(
    pipelines: &[RunningPipeline],
    leaving: &BTreeSet<String>,
    told: &mut mpsc::UnboundedReceiver<()>,
    by: Instant,
) {
    let left = || pipelines.iter().any(|p| leaving.contains(&p.name) && !p.has_ended());
    // The caller holds a sender, so the channel does not close.
    while left() && tokio::time::timeout_at(by.into(), told.recv()).await.is_ok() {}
}

/// Removes the series of a pipeline that is gone or was never started: all, or those of clients, steps and topics that its successor does
/// not have. Their last values would be taken for current: a client without brokers, or memory that nothing holds.
fn forget_series(metrics: &Metrics, gone: &config::Pipeline, stays: Option<&config::Pipeline>) {
    let name = gone.name.value.as_str();
    let Some(stays) = stays else {
        metrics.forget_all("pipeline", name);
        metrics.forget_all("dependency", &build::sink_gate(name));
        return;
    };
    let forget = |label: &str, of: fn(&config::Pipeline) -> BTreeSet<String>| {
        for value in of(gone).difference(&of(stays)) {
            metrics.forget_each(&[("pipeline", name), (label, value.as_str())]);
        }
    };
    forget("client", build::clients);
    forget("step", |pipeline| {
        pipeline.steps.iter().map(|step| step.name.value.clone()).collect()
    });
    forget("topic", |pipeline| {
        pipeline.source.topics.iter().map(|topic| topic.value.clone()).collect()
    });
    for step in &stays.steps {
        forget_other_kinds(metrics, name, step);
    }
}

/// Removes series that only other kinds of steps export: an earlier step of the same name may have been of such a kind, and alerts take from these
/// series which service a step asks. The step already exports the rest itself.
fn forget_other_kinds(metrics: &Metrics, pipeline: &str, step: &config::Step) {
    let of = [("pipeline", pipeline), ("step", step.name.value.as_str())];
    let (mut caches, mut writes, mut groups, mut refers) = (false, false, false, false);
    match &step.kind {
        StepKind::Lookup(lookup) => caches = lookup.cache.is_some(),
        StepKind::Write(write) => (writes, groups) = (true, write.group.is_some()),
        StepKind::Reference(_) => refers = true,
        StepKind::Filter(_) | StepKind::Set(_) | StepKind::Custom(_) => {}
    }
    if !caches {
        for counted in [
            &metrics.cache_hits_total,
            &metrics.cache_misses_total,
            &metrics.cache_coalesced_total,
            &metrics.cache_evictions_total,
        ] {
            counted.forget_each(&of);
        }
        metrics.cache_entries.forget_each(&of);
        metrics.cache_bytes.forget_each(&of);
    }
    if !caches && !refers {
        metrics.cache_stale_total.forget_each(&of);
    }
    if !writes {
        metrics.rows_written_total.forget_each(&of);
    }
    if !groups {
        metrics.write_batches_total.forget_each(&of);
        metrics.grouped_rows_total.forget_each(&of);
    }
    if !refers {
        metrics.reference_lookups_total.forget_each(&of);
    }
}

/// Whether a loop in this state takes no more records, because it halted or because of its dead letters.
fn has_halted(state: &str) -> bool {
    matches!(state, "halted" | STOPPED_BY_LIMIT)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use tokio::sync::watch;

    use super::*;
    use crate::app::Waiting;
    use crate::app::launch::RunningLoop;
    use crate::app::output::SharedOutput;
    use crate::app::threads::Threads;
    use crate::source::status::LoopState;

    fn pipeline(more: &str, step: &str) -> config::Pipeline {
        let write = "write = \"INSERT INTO t (a) VALUES (:a)\", bind = { a = \"id\" }";
        with_step(more, step, write)
    }

    fn with_step(more: &str, step: &str, does: &str) -> config::Pipeline {
        let toml = format!(
            r#"
store = "sqlite:a.db"
[kafka]
brokers = "b:9092"
[registry]
url = "http://r:8081"
[pipelines.p]
{more}
source = {{ topics = ["t"], group = "g" }}
sink = {{ topic = "out" }}
steps = [{{ name = "{step}", {does} }}]
"#
        );
        let loaded = config::load_str(vec![("t.toml".into(), toml)], std::iter::empty());
        let (mut config, _) = loaded.unwrap_or_else(|e| panic!("{}", e.human(false)));
        config.pipelines.remove("p").unwrap()
    }

    /// Metrics with the series of one version of a pipeline and of another.
    fn shown() -> Arc<Metrics> {
        let metrics = Metrics::new().unwrap();
        for client in ["consumer-0", "consumer-1", "consumer-2", "producer", "producer-0"] {
            metrics.kafka_brokers_up.of(["p", client]).set(0);
            metrics.kafka_brokers_up.of(["q", client]).set(0);
        }
        for step in ["old", "new", "decode"] {
            metrics.failures_total.of(["p", step, "transient", "warn"]).inc();
        }
        metrics.breaker_state.of(["sink p"]).set(0);
        metrics
    }

    fn lines(metrics: &Metrics, part: &str) -> Vec<String> {
        let text = String::from_utf8(metrics.render()).unwrap();
        let lines = text
            .lines()
            .filter(|line| !line.starts_with('#') && line.contains(part));
        lines.map(str::to_owned).collect()
    }

    #[tokio::test]
    async fn a_consumer_that_is_never_closed_holds_no_reload_up() {
        let (_tell, mut told) = mpsc::unbounded_channel();
        let (stop, stopped) = watch::channel(false);
        let (metrics, mut threads) = (Metrics::new().unwrap(), Threads::new(Some(1)));
        let (thread, state) = (threads.next(&metrics).unwrap(), Arc::<LoopState>::default());
        let stuck = RunningPipeline {
            name: "stuck".to_owned(),
            share: 0,
            output: Arc::new(SharedOutput::of(&[])),
            loops: vec![RunningLoop {
                task: tokio::spawn(std::future::pending()),
                thread: Arc::downgrade(&thread),
                state: state.clone(),
            }],
            alive: Arc::new(AtomicUsize::new(1)),
            stop,
        };
        let leaving = BTreeSet::from([stuck.name.clone()]);
        let mut pipelines = [stuck];
        all_ended(&pipelines, &leaving, &mut told, Instant::now()).await;
        assert!(!pipelines[0].has_ended());
        let given_up = pipelines[0].give_up();
        assert!(matches!(given_up.as_slice(), [one] if one.ptr_eq(&Arc::downgrade(&state))));
        let successor = threads.next(&metrics).unwrap();
        assert_eq!(
            [thread.name(), successor.name()],
            ["loop-0", "loop-1"],
            "it may stand still"
        );
        let [stuck] = pipelines;
        let end = stuck.join(Instant::now()).await;
        assert!(end.ends.is_empty(), "{end:?}");
        assert!(
            stopped.has_changed().is_err(),
            "it would tell its halt under its successor's name"
        );
    }

    #[tokio::test]
    async fn many_pipelines_have_more_time_and_a_service_that_is_away_has_not() {
        let (shared, reach) = (Shared::default(), Duration::from_millis(200));
        let making = || async {
            tokio::time::sleep(reach * 2).await;
            Ok(7)
        };
        assert!(matches!(in_time(&shared, reach, 20, making()).await, Ok(7)));
        let never = std::future::pending::<Result<i32, StartError>>();
        let late = in_time(&shared, reach, 1, never).await.unwrap_err().to_string();
        assert_eq!(late, "a service does not answer; gave up after 0 s");
        shared.lock().unwrap().waiting_for = Some(Waiting {
            what: "the registry: away".to_owned(),
            since: Instant::now().checked_sub(reach).unwrap(),
        });
        let away = in_time(&shared, reach, 20, making()).await.unwrap_err().to_string();
        assert_eq!(away, "the registry: away; gave up after 0 s");
        assert_eq!(shared.lock().unwrap().waiting_for, None);
    }

    #[test]
    fn what_its_dead_letters_have_stopped_is_made_anew_like_what_has_halted() {
        let made_anew = ["running", "joining", "halted", STOPPED_BY_LIMIT].map(has_halted);
        assert_eq!(made_anew, [false, false, true, true]);
    }

    #[test]
    fn clients_and_steps_that_a_new_version_has_not_leave_no_series() {
        let metrics = shown();
        let (old, new) = (pipeline("consumers = 3", "old"), pipeline("consumers = 1", "new"));
        forget_series(&metrics, &old, Some(&new));
        let clients = lines(&metrics, "messina_kafka_brokers_up{");
        for gone in ["consumer-1", "consumer-2"] {
            let of = |pipeline: &str| {
                let of = |line: &&String| line.contains(&format!("\"{gone}\",pipeline=\"{pipeline}\""));
                clients.iter().filter(of).count()
            };
            assert_eq!((of("p"), of("q")), (0, 1), "{clients:?}");
        }
        assert_eq!(clients.len(), 8);
        let steps = lines(&metrics, "messina_failures_total{");
        assert_eq!(steps.len(), 2, "{steps:?}");
        assert!(!steps.iter().any(|line| line.contains("\"old\"")), "{steps:?}");
    }

    #[test]
    fn a_producer_without_transactions_leaves_no_series_beside_those_with() {
        let metrics = shown();
        let old = pipeline("", "old");
        let new = pipeline("delivery = \"exactly_once\"", "old");
        forget_series(&metrics, &old, Some(&new));
        let left = lines(&metrics, "\"p\"");
        assert!(
            !left.iter().any(|line| line.contains("client=\"producer\"")),
            "{left:?}"
        );
        assert!(
            left.iter().any(|line| line.contains("client=\"producer-0\"")),
            "{left:?}"
        );
    }

    #[test]
    fn a_topic_that_a_new_version_does_not_read_leaves_no_series() {
        let metrics = shown();
        for (pipeline, topic) in [("p", "t"), ("p", "u"), ("q", "t")] {
            metrics.topic_assigned_partitions.of([pipeline, topic]).set(0);
        }
        let (old, mut new) = (pipeline("", "old"), pipeline("", "old"));
        new.source.topics[0].value = "u".to_owned();
        forget_series(&metrics, &old, Some(&new));
        assert_eq!(
            lines(&metrics, "messina_topic_assigned_partitions{"),
            [
                r#"messina_topic_assigned_partitions{pipeline="p",topic="u"} 0"#,
                r#"messina_topic_assigned_partitions{pipeline="q",topic="t"} 0"#,
            ]
        );
    }

    #[test]
    fn a_step_of_another_kind_under_its_name_leaves_no_series_of_the_old_one() {
        let lookup = "lookup = \"SELECT a FROM t WHERE b = :b\"";
        let cached = format!("{lookup}, cache = {{ ttl = \"1s\" }}");
        let write = "write = \"INSERT INTO t (a) VALUES (:a)\"";
        let kinds: [(&str, &[&str]); 5] = [
            (lookup, &["failures"]),
            (
                cached.as_str(),
                &["cache_entries", "cache_hits", "cache_stale", "failures"],
            ),
            (write, &["failures", "rows_written"]),
            (
                "reference = \"r\", key = \"id\"",
                &["cache_stale", "failures", "reference_lookups"],
            ),
            ("set = { c = \"id\" }", &["failures"]),
        ];
        for (does, stay) in kinds {
            let metrics = Metrics::new().unwrap();
            for pipeline in ["p", "q"] {
                let of = [pipeline, "s"];
                metrics.cache_hits_total.of(of);
                metrics.cache_entries.of(of);
                metrics.cache_stale_total.of(of);
                metrics.rows_written_total.of(of);
                metrics.write_batches_total.of(of);
                metrics.grouped_rows_total.of(of);
                metrics.reference_lookups_total.of([pipeline, "s", "found"]);
                metrics.failures_total.of([pipeline, "s", "transient", "warn"]);
            }
            let (old, new) = (pipeline("", "s"), with_step("", "s", does));
            forget_series(&metrics, &old, Some(&new));
            let left = lines(&metrics, "pipeline=\"p\"");
            let left: Vec<&str> = left
                .iter()
                .filter_map(|line| line.strip_prefix("messina_")?.split_once('{'))
                .map(|(name, _)| name.trim_end_matches("_total"))
                .collect();
            assert_eq!(left, stay, "{does}");
            assert_eq!(lines(&metrics, "pipeline=\"q\"").len(), 8, "{does}");
        }
    }

    #[test]
    fn a_pipeline_that_is_not_taken_leaves_nothing_behind() {
        let metrics = shown();
        forget_series(&metrics, &pipeline("", "old"), None);
        assert_eq!(lines(&metrics, "\"p\""), Vec::<String>::new());
        assert_eq!(lines(&metrics, "sink p"), Vec::<String>::new());
        assert_eq!(lines(&metrics, "messina_kafka_brokers_up{").len(), 5);
    }
}
