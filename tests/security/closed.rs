//! The right to one of two topics is revoked under load: the other one goes on, and so does the closed one once the right is
//! granted again.

use std::time::Duration;

use rdkafka::producer::BaseRecord;

use super::{rights, settings};
use crate::faults::pipelines;
use crate::support::numbers::{Numbers, who};
use crate::support::process::Messina;
use crate::support::{LONG, until};

/// The longest that the other topic may stand still.
const SOON: Duration = Duration::from_secs(60);

#[test]
fn a_topic_that_is_closed_leaves_the_other() {
    closes("a_topic_that_is_closed_leaves_the_other", "at_least_once");
}

#[test]
fn a_topic_that_is_closed_leaves_the_other_exactly_once() {
    closes("a_topic_that_is_closed_leaves_the_other_exactly_once", "exactly_once");
}

fn closes(test: &str, delivery: &str) {
    let Some((bench, settings)) = settings::find(test) else {
        return;
    };
    let numbers = Numbers::new(&bench, 1, &pipelines("secure"));
    let (open, closed) = (numbers.topic.as_str(), bench.name("closed"));
    let closed = closed.as_str();
    bench.kafka.create(&bench, &[closed], 1);
    let schema = bench.registry.schema(&bench, numbers.schema_id);
    bench.registry.register(&bench, &format!("{closed}-value"), &schema);
    let open_to = |user: &str| rights::allow(&bench, user, "read", "topic", closed);
    // A topic with an ACL is closed to every user whom no ACL names.
    open_to("somebody");
    open_to(&settings.kafka_user);
    let topics = format!(
        "[pipelines.secure]\ndelivery = \"{delivery}\"\n[pipelines.secure.source]\ntopics = [\"{open}\", \"{closed}\"]\n\
         properties = {{ \"topic.metadata.refresh.interval.ms\" = 10000 }}\n"
    );
    let [numbers_config, local] = numbers.config(Duration::from_secs(30), &pipelines("secure"));
    let (secure, topics) = (settings.file(&bench, "closed"), bench.file("topics.toml", &topics));
    let messina = Messina::start_keeping_all("messina", &[&numbers_config, &local, &secure, &topics]);
    messina.ready();

    let mut sent = 0;
    let mut send = || {
        let (key, value) = (who(sent), numbers.record(sent, &who(sent)));
        for topic in [open, closed] {
            bench
                .kafka
                .send(BaseRecord::to(topic).key(key.as_bytes()).payload(value.as_slice()));
        }
        sent += 1;
    };
    let group = numbers.group("secure");
    let committed = |topic: &str| bench.kafka.committed(&group, topic)[0];
    // A metric of the process itself.
    let metric = |name: &str, topic: &str| {
        let text = messina.get("/metrics").unwrap_or_default();
        let (metric, label) = (format!("messina_{name}{{"), format!("topic=\"{topic}\""));
        let line = text
            .lines()
            .find(|line| line.starts_with(&metric) && line.contains(&label));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
    };
    let shown = |topic: &str| metric("committed_offset", topic).unwrap_or(0.0);
    let is_assigned = |topic: &str| metric("topic_assigned_partitions", topic).map(|partitions| partitions > 0.0);
    until("both topics to be committed", LONG, &[&messina], || {
        send();
        (committed(open) > 0 && committed(closed) > 0).then_some(())
    });
    rights::remove(&bench, &settings.kafka_user, "read", "topic", closed);
    until("the brokers to close one", LONG, &[&messina], || {
        send();
        messina.lines("Topic authorization failed").pop()
    });
    let mut goes_on = |when: &str| {
        let (_, end) = bench.kafka.ends(open)[0];
        until(&format!("the other to go on {when}"), SOON, &[&messina], || {
            send();
            (committed(open) > end && shown(open) > end as f64).then_some(())
        });
    };
    goes_on("while the closed one is still assigned");
    until("the group to take it", LONG, &[&messina], || {
        (messina.partitions() == 1 && is_assigned(closed) == Some(false)).then_some(())
    });
    goes_on("without the closed one");
    open_to(&settings.kafka_user);
    until("both to be committed to their ends", LONG, &[&messina], || {
        let done = |topic: &str| {
            let (committed, there) = bench.kafka.progress(&group, topic);
            committed == there
        };
        (done(open) && done(closed) && is_assigned(closed) == Some(true)).then_some(())
    });
    messina.stop();
    drop(messina);
    bench.clean();
}
