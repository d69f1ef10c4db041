//! Checks what pipelines require, and what they must not do to themselves or one another.

use super::super::{Config, GroupProtocol, OnError, OnMissing, OnTombstone, Pipeline, Spanned, StepKind, codes};
use super::Report;
use crate::config::Diagnostic;
use crate::kafka::{configured_instance, instance};

pub(super) fn check(config: &Config, report: &mut Report<'_>) {
    if config.pipelines.is_empty() {
        let finding = Diagnostic::error(codes::NO_PIPELINE, "there is no pipeline");
        report
            .findings
            .push(finding.help("add a section [pipelines.NAME] with a [pipelines.NAME.source]"));
    }
    for pipeline in config.pipelines.values() {
        name(pipeline, report);
        topics(pipeline, report);
        output_key(pipeline, report);
        instance_name(pipeline, report);
        dead_letters(pipeline, report);
        effects(pipeline, report);
        store(config, pipeline, report);
    }
    circles(config, report);
    shared_groups(config, report);
    shared_instances(config, report);
    assignors(config, report);
}

fn name(pipeline: &Pipeline, report: &mut Report<'_>) {
    let name = pipeline.name.as_str();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if name.is_empty() || !name.chars().all(plain) {
        let message = format!("a pipeline cannot be named `{name}`");
        let help = "metrics, logs and environment variables carry the name";
        report.error(
            codes::BAD_NAME,
            message,
            pipeline.name.span,
            "letters, digits, `-` and `_` only",
            help,
        );
    }
}

/// Whether brokers accept this as a topic name:
/// <https://github.com/apache/kafka/blob/trunk/clients/src/main/java/org/apache/kafka/common/internals/Topic.java>.
fn is_taken(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=249).contains(&name.len()) && name.chars().all(plain) && !matches!(name, "." | "..")
}

fn topics(pipeline: &Pipeline, report: &mut Report<'_>) {
    let sink = pipeline.sink.iter().map(|sink| &sink.topic);
    let dead_letters = pipeline.dead_letter.iter().map(|letters| &letters.topic);
    let all = pipeline.source.topics.iter().chain(sink).chain(dead_letters);
    for topic in all.filter(|topic| !is_taken(topic)) {
        let message = format!("a topic cannot be named `{}`", topic.value);
        let help = match topic.starts_with('^') {
            true => "patterns are not supported: list the topics",
            false => "write the name as the brokers have it",
        };
        let label = "letters, digits, `.`, `_` and `-` only, 249 at most";
        report.error(codes::BAD_NAME, message, topic.span, label, help);
    }
    // librdkafka refuses a list that has a topic twice, and the consumer would never start.
    let topics = &pipeline.source.topics;
    for (index, topic) in topics.iter().enumerate() {
        if let Some(other) = topics[..index].iter().find(|other| other.value == topic.value) {
            let message = format!("`{}` consumes `{}` twice", pipeline.name.value, topic.value);
            report.findings.push(
                Diagnostic::error(codes::CONFLICT, message)
                    .at(report.sources, topic.span, "again")
                    .with(report.sources, other.span, "named here")
                    .help("name each topic once"),
            );
        }
    }
    let source = |topic: &Spanned<String>| pipeline.source.topics.iter().find(|other| other.value == topic.value);
    if let Some(sink) = &pipeline.sink
        && let Some(consumed) = source(&sink.topic)
    {
        let message = format!("`{}` publishes to the topic that it consumes", pipeline.name.value);
        report.findings.push(
            Diagnostic::error(codes::TOPIC_LOOP, message)
                .at(report.sources, sink.topic.span, "published here")
                .with(report.sources, consumed.span, "consumed here")
                .help("choose another output topic: this would go round for ever"),
        );
    }
    let Some(dead_letter) = &pipeline.dead_letter else {
        return;
    };
    let sink = pipeline
        .sink
        .as_ref()
        .map(|sink| &sink.topic)
        .filter(|topic| topic.value == dead_letter.topic.value);
    if let Some(other) = source(&dead_letter.topic).or(sink) {
        let message = format!(
            "dead letters of `{}` go to a topic that it also consumes or publishes to",
            pipeline.name.value
        );
        report.findings.push(
            Diagnostic::error(codes::DEAD_LETTER_TOPIC, message)
                .at(report.sources, dead_letter.topic.span, "dead letters")
                .with(report.sources, other.span, "the same topic")
                .help("give dead letters a separate topic"),
        );
    }
}

/// `order = "key"` follows the keys of the input, so outputs with another key may be out of order. No warning if `order` is written: then it is intended.
fn output_key(pipeline: &Pipeline, report: &mut Report<'_>) {
    let key = pipeline.sink.as_ref().and_then(|sink| sink.key.as_ref());
    let Some(key) = key.filter(|_| !pipeline.order_is_written) else {
        return;
    };
    if matches!(key.value.trim(), "record.key" | "string(record.key)") {
        return;
    }
    let name = &pipeline.name.value;
    let message = format!("`{name}` keeps the order of each input key, but `sink.key` sets another key");
    let label = "outputs with the same key may be out of order";
    let help = format!(
        "set order = \"partition\" under [pipelines.{name}], or order = \"key\" if all records of one output key share one \
         input key"
    );
    report.warning(codes::OTHER_KEY, message, key.span, label, help);
}

/// Under the classic protocol, brokers accept the same characters and length in an instance name as in a topic name:
/// <https://github.com/apache/kafka/blob/trunk/clients/src/main/java/org/apache/kafka/common/requests/JoinGroupRequest.java>.
fn instance_name(pipeline: &Pipeline, report: &mut Report<'_>) {
    let source = &pipeline.source;
    let Some(id) = &source.instance_id else { return };
    let longest = instance(pipeline, pipeline.consumers.saturating_sub(1));
    if source.group_protocol == GroupProtocol::Classic && longest.is_some_and(|name| !is_taken(&name)) {
        let message = format!("an instance cannot be named `{}`", id.value);
        let label = "letters, digits, `.`, `_` and `-` only, 249 at most with what is appended";
        let help = "shorten it: each consumer's number and nine characters for the topics are appended";
        report.error(codes::BAD_NAME, message, id.span, label, help);
    }
}

fn dead_letters(pipeline: &Pipeline, report: &mut Report<'_>) {
    if pipeline.dead_letter.is_some() {
        return;
    }
    let mut missing = |what: &str, label: &str, span| {
        let message = format!(
            "{what} a dead letter, but `{}` has no [dead_letter]",
            pipeline.name.value
        );
        let help = format!(
            "add [pipelines.{}.dead_letter] with a topic, or choose another way",
            pipeline.name.value
        );
        report.error(codes::NO_DEAD_LETTER, message, span, label, help);
    };
    if pipeline.source.on_tombstone == OnTombstone::DeadLetter {
        missing(
            "a null value becomes",
            "on_tombstone = \"dead_letter\"",
            pipeline.source.span,
        );
    }
    for step in &pipeline.steps {
        let (on_missing, then, on_error) = match &step.kind {
            StepKind::Lookup(lookup) => (
                Some(lookup.on_missing),
                lookup.missing_deadline.as_ref().map(|missing| missing.then),
                Some(lookup.errors.on_error),
            ),
            StepKind::Reference(reference) => (
                Some(reference.on_missing),
                reference.missing_deadline.as_ref().map(|missing| missing.then),
                None,
            ),
            StepKind::Custom(custom) => (Some(custom.on_missing), None, Some(custom.errors.on_error)),
            StepKind::Write(write) => (None, None, Some(write.errors.on_error)),
            StepKind::Filter(_) | StepKind::Set(_) => continue,
        };
        let row = "an event without a row becomes";
        let told = [
            (
                on_missing == Some(OnMissing::DeadLetter),
                row,
                "on_missing = \"dead_letter\"",
            ),
            (
                then == Some(OnMissing::DeadLetter),
                row,
                "missing_then = \"dead_letter\"",
            ),
            (
                on_error == Some(OnError::DeadLetter),
                "an event whose requests fail becomes",
                "on_error = \"dead_letter\"",
            ),
        ];
        for (_, what, label) in told.into_iter().filter(|(is, ..)| *is) {
            missing(what, label, step.name.span);
        }
    }
}

fn effects(pipeline: &Pipeline, report: &mut Report<'_>) {
    let writes = pipeline
        .steps
        .iter()
        .any(|step| matches!(step.kind, StepKind::Write(_) | StepKind::Custom(_)));
    if pipeline.sink.is_none() && !writes {
        let message = format!("`{}` neither publishes nor writes", pipeline.name.value);
        let help = format!(
            "add [pipelines.{name}.sink], or a step with `write`",
            name = pipeline.name.value
        );
        report.warning(codes::NO_EFFECT, message, pipeline.name.span, "has no effect", help);
    }
}

fn store(config: &Config, pipeline: &Pipeline, report: &mut Report<'_>) {
    groups(config, pipeline, report);
    if config.scylla.is_some() || config.store.is_some() {
        return;
    }
    let needs = |kind: &StepKind| matches!(kind, StepKind::Lookup(_) | StepKind::Write(_));
    if let Some(step) = pipeline.steps.iter().find(|step| needs(&step.kind)) {
        let message = format!("step `{}` needs a database, and there is none", step.name.value);
        let help = "add a section [scylla] with `nodes`, or store = \"sqlite:PATH\" at the top of the file";
        report.error(codes::NO_STORE, message, step.name.span, "looks up or writes", help);
    }
}

/// The embedded store commits everything that has arrived in one transaction, whatever a step says. A step that counts attempts writes each row alone, because
/// the failure of a batch cannot be attributed to one row.
fn groups(config: &Config, pipeline: &Pipeline, report: &mut Report<'_>) {
    for step in &pipeline.steps {
        let StepKind::Write(write) = &step.kind else { continue };
        let Some(group) = &write.group else { continue };
        if config.store.is_some() {
            let message = format!(
                "step `{}` groups its rows, which the embedded store does by itself",
                step.name.value
            );
            let help = "remove `group`: writes that come in at the same time share a transaction";
            report.error(codes::CONFLICT, message, group.span, "for [scylla]", help);
        } else if write.errors.on_error != OnError::Retry {
            let message = format!(
                "step `{}` writes each row alone, because its `on_error` counts attempts",
                step.name.value
            );
            let help = "remove `group`; or `on_error`, if a row is to be retried until it is written";
            report.warning(codes::IDLE_GROUP, message, group.span, "groups nothing", help);
        }
    }
}

/// Pipelines of which each consumes what the one before publishes, and the first what the last does. A filter may end that, so it is only a warning.
fn circles(config: &Config, report: &mut Report<'_>) {
    let pipelines: Vec<&Pipeline> = config.pipelines.values().collect();
    for (start, first) in pipelines.iter().enumerate() {
        // From which pipeline each was reached. A circle is told at its first one, so those before are left out.
        let mut from = vec![None; pipelines.len()];
        let mut next = vec![start];
        while let Some(at) = next.pop() {
            for (to, other) in pipelines.iter().enumerate().skip(start) {
                if to != at && from[to].is_none() && consumed(pipelines[at], other).is_some() {
                    from[to] = Some(at);
                    next.push(to);
                }
            }
        }
        let mut circle = Vec::new();
        let mut last = from[start];
        while let Some(at) = last {
            circle.push(pipelines[at]);
            last = from[at].filter(|_| at != start);
        }
        circle.reverse();
        let [_, second, ..] = circle[..] else { continue };
        let (Some(sink), Some(topic)) = (&first.sink, consumed(first, second)) else {
            continue;
        };
        let fed: Vec<String> = circle[1..]
            .iter()
            .chain([first])
            .map(|pipeline| format!("`{}`", pipeline.name.value))
            .collect();
        let message = format!("`{}` feeds {}", first.name.value, fed.join(", which feeds "));
        report.findings.push(
            Diagnostic::warning(codes::TOPIC_LOOP, message)
                .at(report.sources, sink.topic.span, "published here")
                .with(report.sources, topic.span, "consumed here")
                .help("give one of them another output topic: without a filter this goes round for ever"),
        );
    }
}

/// The topic of a pipeline's sink, where another one consumes it.
fn consumed<'p>(one: &Pipeline, other: &'p Pipeline) -> Option<&'p Spanned<String>> {
    let sink = one.sink.as_ref()?;
    other.source.topics.iter().find(|topic| topic.value == sink.topic.value)
}

fn shared_groups(config: &Config, report: &mut Report<'_>) {
    let pipelines: Vec<&Pipeline> = config.pipelines.values().collect();
    for (index, pipeline) in pipelines.iter().enumerate() {
        let clash = pipelines[..index].iter().find_map(|other| {
            let topic = pipeline
                .source
                .topics
                .iter()
                .find(|topic| other.source.topics.iter().any(|t| t.value == topic.value))?;
            (pipeline.source.group.value == other.source.group.value).then_some((other, topic))
        });
        let Some((other, topic)) = clash else { continue };
        let (one, two) = (&other.name.value, &pipeline.name.value);
        let message = format!(
            "`{one}` and `{two}` consume `{}` in one group, so each sees only a part of it",
            topic.value
        );
        report.findings.push(
            Diagnostic::error(codes::SHARED_GROUP, message)
                .at(report.sources, pipeline.source.group.span, "the same group")
                .with(report.sources, other.source.group.span, "as here")
                .help("give each pipeline a group of its own"),
        );
    }
}

/// Members of a group with the same `group.instance.id` fence each other. Two pipelines get the same one as soon as they consume the same topics.
fn shared_instances(config: &Config, report: &mut Report<'_>) {
    let pipelines: Vec<&Pipeline> = config.pipelines.values().collect();
    for (index, pipeline) in pipelines.iter().enumerate() {
        let Some(id) = &pipeline.source.instance_id else {
            continue;
        };
        let other = pipelines[..index].iter().find_map(|other| {
            let shares = other.source.group.value == pipeline.source.group.value && share_an_instance(other, pipeline);
            other.source.instance_id.as_ref().filter(|_| shares)
        });
        let Some(other) = other else { continue };
        let message = format!(
            "two pipelines are members of one group by one `instance_id`, `{}`",
            id.value
        );
        report.findings.push(
            Diagnostic::error(codes::CONFLICT, message)
                .at(report.sources, id.span, "taken")
                .with(report.sources, other.span, "by this one")
                .help(
                    "give each its own `instance_id` or its own group: the brokers admit one member at a time per `instance_id`",
                ),
        );
    }
}

/// Whether consumers of two pipelines have the same `group.instance.id`, leaving the digest of the topics aside.
fn share_an_instance(one: &Pipeline, other: &Pipeline) -> bool {
    let has = |pipeline: &Pipeline, id: &str| {
        let number = id.rsplit('-').next().and_then(|number| number.parse::<usize>().ok());
        let number = number.filter(|number| *number < *pipeline.consumers).unwrap_or(0);
        configured_instance(pipeline, number).as_deref() == Some(id)
    };
    // Checking the first consumer of each is enough. If both pipelines have several, they share the names with the smaller numbers; if one has a single
    // consumer, that is its only name.
    [(one, other), (other, one)]
        .into_iter()
        .any(|(one, other)| configured_instance(one, 0).is_some_and(|id| has(other, &id)))
}

/// The members of a group must use the same assignor: the brokers admit only the first one otherwise.
fn assignors(config: &Config, report: &mut Report<'_>) {
    let classic = |pipeline: &&Pipeline| pipeline.source.group_protocol == GroupProtocol::Classic;
    let pipelines: Vec<&Pipeline> = config.pipelines.values().filter(classic).collect();
    for (index, pipeline) in pipelines.iter().enumerate() {
        let group = &pipeline.source.group;
        let other = pipelines[..index]
            .iter()
            .find(|other| other.source.group.value == group.value && other.source.assignor != pipeline.source.assignor);
        let Some(other) = other else { continue };
        let message = format!(
            "`{}` and `{}` are members of one group with different `assignor`s",
            other.name.value, pipeline.name.value
        );
        report.findings.push(
            Diagnostic::error(codes::CONFLICT, message)
                .at(report.sources, group.span, "the same group")
                .with(report.sources, other.source.group.span, "as here")
                .help("write the same `assignor` in both, or give each a group of its own"),
        );
    }
}
