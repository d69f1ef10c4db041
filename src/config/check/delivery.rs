//! Checks the requirements and conflicts of `exactly_once`.

use std::time::Duration;

use super::super::{
    Config, Delivery, ErrorPolicy, GroupProtocol, MissingDeadline, OnError, OnMissing, Pipeline, Property,
    PropertyValue, Step, StepKind, codes,
};
use super::Report;
use super::expression::heads;
use super::group::set;
use super::names::expressions;
use crate::kafka::TRANSACTION_TIMEOUT;

pub(super) fn check(config: &Config, pipeline: &Pipeline, report: &mut Report<'_>) {
    let name = &pipeline.name.value;
    if *pipeline.delivery != Delivery::ExactlyOnce {
        if let Some(interval) = &pipeline.transaction_interval {
            let message = format!("`{name}` has a `transaction_interval` and no transactions");
            let help = "remove it, or write delivery = \"exactly_once\"";
            report.error(
                codes::CONFLICT,
                message,
                interval.span,
                "only under `exactly_once`",
                help,
            );
        }
        return;
    }
    let span = pipeline.delivery.span;
    if pipeline.sink.is_none() {
        let message = format!("`{name}` is to deliver exactly once and publishes nothing");
        let help = "write \"at_least_once\", under which repeated writes give the same rows; or add a [sink]";
        report.error(codes::CONFLICT, message, span, "about what a sink publishes", help);
    }
    if pipeline.source.group_protocol == GroupProtocol::Consumer {
        let message =
            format!("`{name}` is to deliver exactly once, which Messina does with the classic group protocol only");
        let help = "remove `group_protocol`, or write \"at_least_once\"";
        report.error(
            codes::CONFLICT,
            message,
            span,
            "excludes group_protocol = \"consumer\"",
            help,
        );
    }
    let timeout = timeout(config, pipeline);
    interval(pipeline, timeout, report);
    deadlines(pipeline, timeout, report);
    rows_without_end(pipeline, report);
    repeated(pipeline, report);
    if let Some(property) = set(config, pipeline, "isolation.level").filter(|property| reads_uncommitted(property)) {
        let message = "`isolation.level` cannot be `read_uncommitted` under `exactly_once`".to_owned();
        let label = format!("`{name}` would read the records of aborted transactions");
        report.error(
            codes::OWNED_PROPERTY,
            message,
            property.name.span,
            label,
            "remove it: `read_committed` is the default",
        );
    }
}

/// How long the brokers leave a transaction open.
fn timeout(config: &Config, pipeline: &Pipeline) -> Duration {
    let sink = pipeline.sink.iter().flat_map(|sink| &sink.properties);
    let shared = config.kafka.producer_properties.iter().chain(&config.kafka.properties);
    let set = sink.chain(shared).find(|p| p.name.as_str() == "transaction.timeout.ms");
    match set.map(|property| &property.value) {
        Some(PropertyValue::Plain(value)) => value.parse().map_or(TRANSACTION_TIMEOUT, Duration::from_millis),
        Some(PropertyValue::Secret(_)) | None => TRANSACTION_TIMEOUT,
    }
}

/// A transaction that is still open after three quarters of the brokers' timeout is aborted. With too long an interval, every transaction would be.
fn interval(pipeline: &Pipeline, timeout: Duration, report: &mut Report<'_>) {
    let Some(interval) = &pipeline.transaction_interval else {
        return;
    };
    if interval.value >= timeout * 3 / 4 {
        let message = format!(
            "`{}` would abort each of its transactions before it commits",
            pipeline.name.value
        );
        let label = format!(
            "at three quarters of transaction.timeout.ms, {} ms",
            timeout.as_millis()
        );
        let help = "shorten it; or raise transaction.timeout.ms in the sink's `properties`";
        report.error(codes::CONFLICT, message, interval.span, label, help);
    }
}

/// When a transaction is aborted, its records run again and the step's time for giving up starts again. A step that may try for as long as a
/// transaction may be open therefore never gives up. This is only a warning where `max_attempts` may end the attempts earlier, and for the `timeout`
/// of one attempt of a custom step, which seldom takes that long.
fn deadlines(pipeline: &Pipeline, timeout: Duration, report: &mut Report<'_>) {
    let limit = timeout * 3 / 4;
    let transaction = format!(
        "a transaction is aborted after three quarters of transaction.timeout.ms, {} ms",
        timeout.as_millis()
    );
    let mut found = false;
    for step in &pipeline.steps {
        let attempt = match &step.kind {
            StepKind::Custom(custom) => custom.timeout,
            StepKind::Lookup(_)
            | StepKind::Write(_)
            | StepKind::Filter(_)
            | StepKind::Set(_)
            | StepKind::Reference(_) => Duration::ZERO,
        };
        let time = longest(step, |_| true).max(attempt);
        if time < limit {
            continue;
        }
        found = true;
        let name = &step.name.value;
        let help = "shorten its `retry.max_elapsed`, `missing_deadline` or `timeout`; or raise transaction.timeout.ms in the sink's `properties`";
        let by_time = longest(step, |giving_up| giving_up.by_time_alone);
        if by_time >= limit {
            let message = format!("`{name}` would never give a record up: before that, the record runs again");
            let label = format!("gives up after {} ms, and {transaction}", by_time.as_millis());
            report.error(codes::CONFLICT, message, step.name.span, label, help);
        } else {
            let message = format!("`{name}` may never give a record up: before that, the record runs again");
            let label = format!("may try for {} ms, and {transaction}", time.as_millis());
            report.warning(codes::CONFLICT, message, step.name.span, label, help);
        }
    }
    let together = one_after_another(&pipeline.steps);
    if !found && together >= limit {
        let message = format!(
            "a record for which several steps of `{}` give up runs again before it has come to the last of them",
            pipeline.name.value
        );
        let label = format!("they give up after {} ms, and {transaction}", together.as_millis());
        let help = "shorten `retry.max_elapsed` or `missing_deadline`; or raise transaction.timeout.ms in the sink's `properties`";
        report.warning(codes::CONFLICT, message, pipeline.delivery.span, label, help);
    }
}

/// When a step gives up on a record.
struct GivingUp {
    /// The longest time before it gives up.
    time: Duration,
    /// Whether only the time counts. If false, `max_attempts` may be reached first.
    by_time_alone: bool,
    end: End,
}

/// The longest time after which a step gives up on a record in one of the ways that count.
fn longest(step: &Step, counts: impl Fn(&GivingUp) -> bool) -> Duration {
    let failing = |errors: &ErrorPolicy| {
        let end = match errors.on_error {
            OnError::Retry => return None,
            OnError::Null => End::GoesOn,
            OnError::Skip | OnError::DeadLetter => End::Over,
        };
        Some(GivingUp {
            time: errors.max_elapsed,
            by_time_alone: errors.max_attempts.is_none(),
            end,
        })
    };
    let missing = |missing: &MissingDeadline| {
        let end = match missing.then {
            OnMissing::Null => End::GoesOn,
            OnMissing::Skip | OnMissing::DeadLetter | OnMissing::Retry => End::Over,
        };
        GivingUp {
            time: missing.deadline,
            by_time_alone: true,
            end,
        }
    };
    let ends = match &step.kind {
        StepKind::Lookup(lookup) => [failing(&lookup.errors), lookup.missing_deadline.as_ref().map(missing)],
        StepKind::Reference(reference) => [None, reference.missing_deadline.as_ref().map(missing)],
        StepKind::Write(write) => [failing(&write.errors), None],
        StepKind::Custom(custom) => [failing(&custom.errors), None],
        StepKind::Filter(_) | StepKind::Set(_) => [None, None],
    };
    let ways = ends.into_iter().flatten().filter(counts);
    ways.map(|giving_up| giving_up.time).max().unwrap_or_default()
}

/// What happens to a record that a step has given up on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// It continues with the next steps.
    GoesOn,
    /// It is skipped or becomes a dead letter.
    Over,
}

/// The longest that a record takes if its steps give up one after another. Neighbouring look-ups run concurrently unless one needs another's values.
fn one_after_another(steps: &[Step]) -> Duration {
    let (mut most, mut before, mut stage) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    let mut members: Vec<&str> = Vec::new();
    for step in steps {
        let asks = matches!(step.kind, StepKind::Lookup(_) | StepKind::Reference(_));
        let uses = |text: &str| heads(text).iter().any(|head| members.contains(&head.name));
        // If there are no members, the previous step is not a look-up.
        if !asks || members.is_empty() || expressions(step).iter().any(|expression| uses(expression)) {
            before = before.saturating_add(std::mem::take(&mut stage));
            members.clear();
        }
        if asks {
            members.push(step.name.as_str());
        }
        most = most.max(before.saturating_add(longest(step, |_| true)));
        stage = stage.max(longest(step, |giving_up| giving_up.end == End::GoesOn));
    }
    most
}

/// A look-up that waits for its row without a limit keeps its transaction open, and so holds back the records of other keys and partitions in that
/// transaction.
fn rows_without_end(pipeline: &Pipeline, report: &mut Report<'_>) {
    for step in &pipeline.steps {
        let (on_missing, deadline) = match &step.kind {
            StepKind::Lookup(lookup) => (lookup.on_missing, &lookup.missing_deadline),
            StepKind::Reference(reference) => (reference.on_missing, &reference.missing_deadline),
            StepKind::Write(_) | StepKind::Filter(_) | StepKind::Set(_) | StepKind::Custom(_) => continue,
        };
        if on_missing == OnMissing::Retry && deadline.is_none() {
            let message = format!(
                "a record without a row at `{}` holds back other keys and partitions: each transaction that contains it is aborted",
                step.name.value
            );
            let help = "add `missing_deadline` and `missing_then`; or write delivery = \"at_least_once\", under which only what comes after it in its order waits";
            report.warning(
                codes::CONFLICT,
                message,
                step.name.span,
                "waits without end under `exactly_once`",
                help,
            );
        }
    }
}

/// Aborting a transaction revokes what it published, but not what it wrote to the store.
fn repeated(pipeline: &Pipeline, report: &mut Report<'_>) {
    for step in &pipeline.steps {
        if let StepKind::Write(write) = &step.kind
            && let Some(stated) = write.idempotent_stated.as_ref().filter(|stated| !stated.value)
        {
            let message = format!(
                "an aborted transaction runs its records again, and `{}` writes again what cannot be repeated",
                step.name.value
            );
            let help = "make it repeatable, with values of the event alone; or write delivery = \"at_least_once\", under which less is run again";
            report.warning(
                codes::NOT_REPEATABLE,
                message,
                stated.span,
                "repeated under `exactly_once`",
                help,
            );
        }
    }
}

fn reads_uncommitted(property: &Property) -> bool {
    property.value.reveal().is_ok_and(|value| value != "read_committed")
}
