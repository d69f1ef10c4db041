//! `messina size`: estimates how many cores and pods a rate needs, before there is a cluster.

use std::process::ExitCode;
use std::time::Duration;

use super::{ConfigFiles, ELSEWHERE, answer};
use crate::config::parse_duration;
use crate::reference::server::connections;
use crate::shutdown::Exit;
use crate::sizing::{Load, Needs, needs};

/// Estimate how many cores, pods and records in flight the pipelines need for a given rate, from measured costs. No service is asked.
#[derive(Debug, clap::Args)]
pub struct Size {
    #[command(flatten)]
    config: ConfigFiles,
    /// Only this pipeline.
    #[arg(long)]
    pipeline: Option<String>,
    /// Records per second, over all pods.
    #[arg(long, value_parser = positive)]
    rate: f64,
    /// Size of a record's value, in bytes.
    #[arg(long, default_value = "600", value_parser = positive)]
    bytes: f64,
    /// Cache hit ratio: the share of look-ups with a cache, and of references on demand, that the cache answers.
    #[arg(long, default_value = "0.95", value_parser = share)]
    hit_ratio: f64,
    /// Mean (not median) response time of the database, and of MongoDB for references on demand.
    #[arg(long, default_value = "2ms", value_parser = duration)]
    store_latency: Duration,
    /// How long a record waits in the producer for a batch (`linger.ms`).
    #[arg(long, default_value = "1ms", value_parser = duration)]
    linger: Duration,
    /// Partitions of the source.
    #[arg(long, default_value_t = 20)]
    partitions: usize,
    /// Cores per pod.
    #[arg(long, default_value = "1", value_parser = positive)]
    cores: f64,
    /// Share of its cores that a pod may use at that rate; the rest is for catching up and for peaks.
    #[arg(long, default_value = "0.6", value_parser = utilisation)]
    utilisation: f64,
    /// Factor of your machine: CPU per record measured there, divided by what this command estimates (see docs/sizing.md).
    #[arg(long, default_value = "1", value_parser = positive)]
    machine: f64,
    /// Print one JSON object to stdout.
    #[arg(long)]
    json: bool,
}

fn positive(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if number.is_finite() && number > 0.0 {
        Ok(number)
    } else {
        Err("a number above zero is needed".to_owned())
    }
}

fn share(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.0..=1.0).contains(&number) {
        Ok(number)
    } else {
        Err("a share is from 0 to 1".to_owned())
    }
}

fn utilisation(text: &str) -> Result<f64, String> {
    let share = share(text)?;
    if share > 0.0 {
        Ok(share)
    } else {
        Err("a share above 0 is needed".to_owned())
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "a duration is needed, such as 2ms or 1s".to_owned())
}

/// Runs the command.
pub fn run(args: &Size) -> anyhow::Result<ExitCode> {
    let (config, _) = args.config.taken(&ELSEWHERE)?;
    let load = Load {
        rate: args.rate,
        bytes: args.bytes,
        hit_ratio: args.hit_ratio,
        store_latency: args.store_latency,
        connections: connections(config.mongo.as_ref()),
        linger: args.linger,
        partitions: args.partitions,
        cores: args.cores,
        utilisation: args.utilisation,
        machine: args.machine,
    };
    let sized: Vec<(&str, Needs)> = config
        .pipelines
        .iter()
        .filter(|(name, _)| args.pipeline.as_ref().is_none_or(|wanted| wanted == *name))
        .map(|(name, pipeline)| (name.as_str(), needs(&config, pipeline, &load)))
        .collect();
    if sized.is_empty() {
        say!(
            "error: there is no such pipeline; there are: {}",
            config.pipeline_names()
        );
        return Ok(Exit::Usage.into());
    }
    if args.json {
        let object: serde_json::Map<String, serde_json::Value> = sized
            .iter()
            .map(|(name, needs)| Ok(((*name).to_owned(), serde_json::to_value(needs)?)))
            .collect::<Result<_, serde_json::Error>>()?;
        answer(&format!("{}\n", serde_json::Value::Object(object)))?;
    } else {
        let mut text: String = sized.iter().map(|(name, needs)| words(name, needs, &load)).collect();
        text.push_str(
            "These are estimates, for each pipeline by itself; docs/sizing.md says what they are made of, and how to scale them to your machine.\n",
        );
        answer(&text)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn words(name: &str, needs: &Needs, load: &Load) -> String {
    use std::fmt::Write;

    let mut text = format!("{name}: {:.0} records/s of {:.0} bytes\n", load.rate, load.bytes);
    let mut line = |what: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {what:<28}{value}");
    };
    for (part, us) in &needs.parts {
        line(part, format!("{us:6.2} µs"));
    }
    line("CPU for a record", format!("{:6.2} µs", needs.cpu_us));
    line("cores kept busy", format!("{:6.2}", needs.cores));
    let used = needs.cores / (needs.pods as f64 * load.cores) * 100.0;
    line(
        "pods",
        format!("{:6} of {} cores, {used:.0} % used", needs.pods, load.cores),
    );
    line("consumers of a pod", format!("{:6}", needs.consumers));
    line(
        "in flight in a pod",
        format!("{:6.0}, by Little's law", needs.in_flight),
    );
    line("max_in_flight", format!("{:6}", needs.max_in_flight));
    line(
        "memory of a pod",
        format!("{:6.0} MB at that bound", needs.memory_bytes / 1e6),
    );
    if let Some(most) = needs.of_key {
        let why = "because order = \"key\" runs one of its records at a time";
        line("records/s of one key", format!("{most:6.0} at most, {why}"));
    }
    for why in &needs.not_enough {
        line("not enough", why.clone());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_that_may_not_be_used_are_refused() {
        assert_eq!(utilisation("1"), Ok(1.0));
        for wrong in ["0", "-0", "1.1", "NaN"] {
            assert!(utilisation(wrong).is_err(), "{wrong}");
        }
    }
}
