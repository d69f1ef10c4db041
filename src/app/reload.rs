//! Takes another configuration while the process runs: pipelines that changed are drained and replaced, and the others go on.
//!
//! Everything that can be found wrong is found before anything is stopped: the new pipelines are checked against the live services and made in
//! full, and only then the old ones drain. A configuration that cannot be taken leaves all as it was. What the process has only one of (brokers,
//! registry, database, HTTP, limits) takes a restart.
//!
//! A pipeline that has halted is made anew by each reload, changed or not: it is how an operator says that the cause is gone.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::build::{self, Built};
use super::{PipelineEnd, Running, RunningPipeline, StartError, loop_name, memory, stop};
use crate::config::{self, Config, Sources};

/// How long services may take to answer for new pipelines; the old ones run meanwhile.
const REACH: Duration = Duration::from_secs(30);

/// What can become of a configuration, as the metrics call it.
pub(super) const OUTCOMES: [&str; 3] = ["taken", "unchanged", "rejected"];

/// What a reload came to.
#[derive(Debug)]
pub enum Taken {
    /// The files say what runs.
    Unchanged,
    /// The new configuration runs.
    Changed {
        /// How many configurations have been taken, this one included.
        generation: i64,
        /// Pipelines that were started, those that took another's place included.
        started: Vec<String>,
        /// How those ended that were there before.
        ended: Vec<PipelineEnd>,
    },
}

/// A configuration that can be taken, and its pipelines.
struct Plan {
    config: Config,
    sources: Sources,
    /// Names of those that have to go, because they are replaced or not wanted any more.
    leaving: BTreeSet<String>,
    built: Vec<Built>,
}

impl Running {
    /// Takes a configuration, which was checked offline, in place of the one that runs.
    ///
    /// It can be dropped while it waits; what has been told to stop then stops, and the configuration stays the old one.
    ///
    /// # Errors
    /// Why it cannot be taken. The pipelines that ran run on.
    pub async fn take(&mut self, config: Config, sources: Sources) -> Result<Taken, StartError> {
        let taken = match self.plan(config, sources).await {
            Ok(Some(plan)) => self.carry_out(plan).await,
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

    /// Counts a configuration that was rejected before it came here, since its files are wrong.
    pub fn rejected(&self) {
        self.count_reload("rejected");
    }

    fn count_reload(&self, outcome: &str) {
        let successful = i64::from(outcome != "rejected");
        self.metrics.config_last_reload_successful.of([]).set(successful);
        // Last: who has seen it counted finds the rest done.
        self.metrics.config_reloads_total.of([outcome]).inc();
    }

    /// Finds out what has to be done, and makes what is new; none where nothing is to be done.
    async fn plan(&self, config: Config, sources: Sources) -> Result<Option<Plan>, StartError> {
        let changes = config::changes(&self.sources, &sources);
        if !changes.sections.is_empty() {
            return Err(StartError::Config(changes.refused(&sources)));
        }
        let mut concerned = changes.pipelines;
        concerned.extend(self.halted());
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
        let made = tokio::time::timeout(REACH, making).await;
        let waited_for = self
            .shared
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .waiting_for
            .take();
        let built = made.unwrap_or_else(|_| {
            let what = waited_for.unwrap_or_else(|| "a service does not answer".to_owned());
            Err(StartError::Process(format!(
                "{what}; gave up after {} s",
                REACH.as_secs()
            )))
        })?;
        Ok(Some(Plan {
            config,
            sources,
            leaving: concerned,
            built,
        }))
    }

    /// Names of pipelines of which a loop does not go on.
    fn halted(&self) -> Vec<String> {
        let shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let halted = shared
            .pipelines
            .iter()
            .filter(|known| known.loops.iter().any(|l| l.get().state == "halted"));
        halted.map(|known| known.name.clone()).collect()
    }

    /// Drains what leaves, and starts what is new in its place.
    async fn carry_out(&mut self, plan: Plan) -> Result<Taken, StartError> {
        let Plan {
            config,
            sources,
            leaving,
            built,
        } = plan;
        let deadline = Instant::now() + self.config.shutdown_timeout;
        for pipeline in self.pipelines.iter().filter(|p| leaving.contains(&p.name)) {
            tracing::info!(pipeline = pipeline.name, "draining, to be replaced or removed");
            // No receiver: every loop has ended already.
            let _ = pipeline.stop.send(true);
        }
        self.ended(&leaving).await;
        let (left, staying): (Vec<_>, Vec<_>) = std::mem::take(&mut self.pipelines)
            .into_iter()
            .partition(|p| leaving.contains(&p.name));
        self.pipelines = staying;
        for pipeline in &left {
            self.forget(pipeline);
        }
        // Its loops have ended: what takes time is a producer that still has records to deliver.
        let joined = tokio::task::spawn_blocking(move || left.into_iter().map(|p| p.join(deadline)).collect());
        let ended: Vec<PipelineEnd> = joined.await.unwrap_or_default();
        // Not before: what is delivered last is counted, and would bring series back.
        for name in leaving.iter().filter(|name| !config.pipelines.contains_key(*name)) {
            self.metrics.forget_all("pipeline", name);
            self.metrics.forget_all("dependency", &build::sink_gate(name));
        }

        self.config = Arc::new(config);
        self.sources = sources;
        let started = built.iter().map(|b| b.known.name.clone()).collect();
        for built in built {
            self.launch(built)?;
        }
        let generation = self.metrics.config_generation.of([]);
        generation.inc();
        Ok(Taken::Changed {
            generation: generation.get(),
            started,
            ended,
        })
    }

    /// Waits until the loops of these have ended, and says what they wait for.
    async fn ended(&mut self, leaving: &BTreeSet<String>) {
        // It ends when it is dropped.
        let mut reporter = JoinSet::new();
        reporter.spawn(stop::name_what_runs(
            self.shared.clone(),
            self.metrics.clone(),
            tokio::time::sleep,
        ));
        while self
            .pipelines
            .iter()
            .any(|p| leaving.contains(&p.name) && !p.has_ended())
        {
            // A sender of it is here: it does not close.
            self.ended.1.recv().await;
        }
    }

    /// Probes do not show it any more.
    fn forget(&self, pipeline: &RunningPipeline) {
        let name = &pipeline.name;
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.pipelines.retain(|other| other.name != *name);
        let sink = build::sink_gate(name);
        shared.breakers.retain(|gate| gate.name() != sink);
        drop(shared);
        self.sampled.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        for number in 0..pipeline.loops.len() {
            self.metrics.forget_runtime(&loop_name(name, number));
        }
    }
}
