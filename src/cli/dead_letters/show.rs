//! `messina dead-letters show`: everything about one dead letter. Key, value and what the message quotes of them only with `--payload`.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value as Json, json};

use super::filter::Place;
use super::reader::{Part, Reader, Record};
use super::{Context, Target, Trouble, list};
use crate::app;
use crate::cli::clean::plain;
use crate::registry::{Registry, framing};
use crate::sink::letter::MESSAGE;
use crate::store::convert::hex;
use crate::telemetry::scrub::scrub;

/// The most bytes that are shown in hexadecimal. The rest is cut.
const HEX: usize = 4096;
/// The longest wait for the registry's answer. It includes the registry client's own time-out.
const REGISTRY: Duration = Duration::from_secs(15);

/// Show one dead letter.
#[derive(Debug, clap::Args)]
pub struct Show {
    #[command(flatten)]
    target: Target,
    /// Place of the dead letter, as `list` prints it.
    #[arg(value_name = "PARTITION:OFFSET")]
    place: Place,
    /// Show key, value and what the message quotes of them: as Avro if the registry knows the schema, otherwise as text or hexadecimal.
    #[arg(long)]
    payload: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Bytes in a form that people can read.
#[derive(Debug, PartialEq)]
enum Shown {
    Null,
    Avro(u32, Json),
    Text(String),
    /// The hexadecimal text, the number of bytes, and, if the bytes look like Avro, why they could not be decoded.
    Hex(String, usize, Option<String>),
}

/// Shows it.
pub fn run(args: &Show) -> anyhow::Result<ExitCode> {
    let context = args.target.resolve()?;
    let topic = context.only_topic()?;
    let reader = Reader::new(&context)?;
    let record = find(&reader, topic, args.place)?;
    let payload = args.payload.then(|| payload(&context, &record)).transpose()?;
    let mut out = io::stdout().lock();
    if args.json {
        let mut line = line(topic, &record, args.payload);
        let headers = record.headers.iter().map(|(name, value)| {
            let value = header(&record, name, value.as_deref(), args.payload);
            json!({String::from_utf8_lossy(name): value})
        });
        line["headers"] = headers.collect();
        if let Some([key, value]) = &payload {
            line["key"] = as_json(key);
            line["value"] = as_json(value);
        }
        writeln!(out, "{line:#}")?;
    } else {
        out.write_all(plain(&human(topic, &record, payload.as_ref())).as_bytes())?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn find(reader: &Reader, topic: &str, place: Place) -> anyhow::Result<Record> {
    let parts = reader.parts(topic, None)?;
    let Some(part) = parts.iter().find(|part| part.partition == place.partition) else {
        return Err(Trouble::Usage(format!(
            "topic {topic} has {} partitions: there is no {place}",
            parts.len()
        ))
        .into());
    };
    let mut found = None;
    if (part.from..part.to).contains(&place.offset) {
        let only = Part {
            from: place.offset,
            to: place.offset + 1,
            ..part.clone()
        };
        let _ = reader.read(&only, &mut |record| {
            found = (record.place == place).then_some(record);
            Ok(ControlFlow::Break(()))
        })?;
    }
    found.ok_or_else(|| {
        let (from, to) = (part.from, part.to);
        Trouble::Usage(format!(
            "topic {topic} has no record at {place}: partition {} holds offsets {from} to {}",
            place.partition,
            to - 1
        ))
        .into()
    })
}

/// Key and value, decoded.
fn payload(context: &Context, record: &Record) -> anyhow::Result<[Shown; 2]> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let registry = app::registry(&context.config).map_err(Trouble::Usage)?;
    let show = |bytes: Option<&[u8]>| match bytes {
        None => Shown::Null,
        Some(bytes) => runtime.block_on(shown(&registry, bytes)),
    };
    Ok([show(record.key.as_deref()), show(record.value.as_deref())])
}

async fn shown(registry: &Registry, bytes: &[u8]) -> Shown {
    let avro = match framing::parse(bytes) {
        Ok((id, start)) => match tokio::time::timeout(REGISTRY, registry.decode(id, &bytes[start..])).await {
            Ok(Ok(json)) => return Shown::Avro(id, json),
            Ok(Err(why)) => Some(format!("schema {id}: {why}")),
            Err(_) => Some(format!("schema {id}: the registry does not answer")),
        },
        Err(_) => None,
    };
    let printable = |c: char| !c.is_control() || matches!(c, '\n' | '\r' | '\t');
    match std::str::from_utf8(bytes) {
        Ok(text) if text.chars().all(printable) => Shown::Text(text.to_owned()),
        _ => Shown::Hex(hex(&bytes[..bytes.len().min(HEX)]), bytes.len(), avro),
    }
}

/// The line of `list`, with the full message if it was requested.
fn line(topic: &str, record: &Record, asked: bool) -> Json {
    let mut line = list::line(topic, record);
    if asked && let Some(letter) = &record.letter {
        line["message"] = Json::from(letter.message.as_str());
    }
    line
}

/// A header's value, as text or in hexadecimal. The message is shown in full only if it was requested.
fn header(record: &Record, name: &[u8], value: Option<&[u8]>, asked: bool) -> Json {
    let Some(bytes) = value else { return Json::Null };
    if !asked && name == MESSAGE.as_bytes() {
        return Json::from(match &record.letter {
            Some(letter) if letter.message.as_bytes() == bytes => letter.told(),
            // The message of an earlier failure, of a record that was a dead letter before.
            _ => scrub(&String::from_utf8_lossy(bytes)),
        });
    }
    std::str::from_utf8(bytes).map_or_else(|_| Json::from(format!("0x{}", hex(bytes))), Json::from)
}

fn as_json(shown: &Shown) -> Json {
    match shown {
        Shown::Null => Json::Null,
        Shown::Avro(id, json) => json!({"avro": json, "schema_id": id}),
        Shown::Text(text) => json!({"text": text}),
        Shown::Hex(hex, bytes, why) => json!({"hex": hex, "bytes": bytes, "not_avro": why}),
    }
}

fn human(topic: &str, record: &Record, payload: Option<&[Shown; 2]>) -> String {
    let asked = payload.is_some();
    let line = line(topic, record, asked);
    let mut text = String::new();
    let mut say = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<10} {value}");
    };
    say("place", &format!("{topic}, {}", record.place));
    for name in [
        "time",
        "pipeline",
        "step",
        "class",
        "reason",
        "message",
        "attempts",
        "schema_id",
        "replays",
    ] {
        match &line[name] {
            Json::Null => {}
            Json::String(value) => say(name, value),
            other => say(name, &other.to_string()),
        }
    }
    match &record.letter {
        Some(l) => say("record", &format!("{}/{}:{}", l.topic, l.partition, l.offset)),
        None => say("record", "not a dead letter of Messina"),
    }
    if let Json::String(time) = &line["record"]["time"] {
        say("made", time);
    }
    for (name, bytes) in [("key", &record.key), ("value", &record.value)] {
        match bytes {
            None => say(name, "null"),
            Some(bytes) => say(name, &format!("{} bytes", bytes.len())),
        }
    }
    text.push_str("headers\n");
    for (name, value) in &record.headers {
        let value = header(record, name, value.as_deref(), asked);
        let value = value
            .as_str()
            .map_or_else(|| value.to_string(), |text| text.escape_debug().to_string());
        let _ = writeln!(text, "  {}: {value}", String::from_utf8_lossy(name));
    }
    let Some(payload) = payload else {
        text.push_str("--payload shows key, value and the whole message\n");
        return text;
    };
    for (name, shown) in ["key", "value"].into_iter().zip(payload) {
        let _ = match shown {
            Shown::Null => writeln!(text, "{name}: null"),
            Shown::Avro(id, json) => writeln!(text, "{name}, Avro of schema {id}:\n{json:#}"),
            Shown::Text(value) => writeln!(text, "{name}, text:\n{value}"),
            Shown::Hex(hex, bytes, why) => {
                if let Some(why) = why {
                    let _ = writeln!(text, "{name} is not Avro: {why}");
                }
                let cut = if 2 * bytes > hex.len() {
                    format!(", the first {} of", hex.len() / 2)
                } else {
                    String::new()
                };
                writeln!(text, "{name}, hexadecimal{cut} {bytes} bytes:\n{hex}")
            }
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::RegistryOptions;
    use crate::sink::letter::{Header, Letter, OFFSET, PARTITION, PIPELINE, REASON, TOPIC};

    /// The message of a record that was a dead letter twice.
    #[test]
    fn what_a_message_quotes_is_shown_where_it_is_asked_for() {
        let first = [(PIPELINE, "p"), (MESSAGE, "bob's card: \"bob@x.org\"")];
        let last = [
            (PIPELINE, "q"),
            (TOPIC, "t"),
            (PARTITION, "0"),
            (OFFSET, "7"),
            (REASON, "type"),
            (MESSAGE, "\"alice@x.org\" is no uuid"),
        ];
        let headers: Vec<Header> = first
            .iter()
            .chain(&last)
            .map(|(name, value)| (name.as_bytes().to_vec(), Some(value.as_bytes().to_vec())))
            .collect();
        let record = Record {
            place: Place {
                partition: 0,
                offset: 3,
            },
            time: None,
            key: None,
            value: None,
            letter: Letter::read(&headers),
            headers,
        };
        let listed = list::line("dead", &record).to_string();
        let unasked = human("dead", &record, None);
        for text in [&listed, &unasked] {
            assert!(text.contains("is no uuid"), "{text}");
            assert!(!text.contains("alice") && !text.contains("x.org"), "{text}");
        }
        let asked = human("dead", &record, Some(&[Shown::Null, Shown::Null]));
        assert_eq!(asked.matches("alice@x.org").count(), 2, "{asked}");
        assert!(asked.contains("bob@x.org"), "{asked}");
    }

    #[tokio::test]
    async fn bytes_are_shown_as_what_they_are() {
        // Nobody listens there, so a request would be refused.
        let registry = Registry::new(RegistryOptions {
            urls: vec!["http://127.0.0.1:1".to_owned()],
            ..RegistryOptions::default()
        })
        .unwrap();
        assert_eq!(shown(&registry, b"caf\xc3\xa9\n").await, Shown::Text("café\n".into()));
        assert_eq!(shown(&registry, b"\xff\x01").await, Shown::Hex("ff01".into(), 2, None));
        let Shown::Hex(hex, bytes, Some(why)) = shown(&registry, &[0, 0, 0, 0, 7, 9]).await else {
            panic!("framed bytes without a registry are shown in hexadecimal");
        };
        assert_eq!((hex.as_str(), bytes), ("000000000709", 6));
        assert!(why.starts_with("schema 7: "), "{why}");
        let Shown::Hex(hex, bytes, _) = shown(&registry, &[0xff; HEX + 1]).await else {
            panic!("bytes are shown in hexadecimal");
        };
        assert_eq!((hex.len(), bytes), (2 * HEX, HEX + 1));
    }
}
