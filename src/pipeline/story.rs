//! Describes an ended event as JSON for `tap`: the input, inputs and results of each step, and the output.
//!
//! It uses what the event still holds, so that events that nobody looks at keep no notes. Expressions are evaluated again, so `now()` is later. Long
//! content is cut. The content of a record is shown as names, types and lengths unless values are requested.

use std::time::Instant;

use serde_json::{Map, Value as Json, json};

use super::evaluate::{holds, life_left, value};
use super::event::Event;
use super::failure::Failure;
use super::program::{Action, Place, Program, Stage, Step};
use super::runner::Runtime;
use crate::avro::Value;
use crate::avro::json::to_json;
use crate::registry::framing::HEADER;
use crate::tap::Showing;

/// The longest record whose content is shown, in bytes.
const LONGEST: usize = 64 * 1024;
/// The longest text that is shown, in characters.
const TEXT: usize = 200;
/// The most items of a list that are shown.
const ITEMS: usize = 10;
/// The most fields shown of a map, or of a record within another value. Of the outermost record all fields are shown, because the schema
/// bounds them.
const FIELDS: usize = 200;

/// Describes `event`, which ended as `outcome`.
pub fn story(
    runtime: &Runtime,
    event: &Event,
    outcome: &str,
    failure: Option<&Failure>,
    now: Instant,
    showing: Showing,
) -> Json {
    let teller = Teller {
        program: &runtime.program,
        event,
        failure: failure.or(event.failure.as_ref()),
        showing,
    };
    let origin = &event.origin;
    let seconds = |until: Instant| until.saturating_duration_since(event.admitted).as_secs_f64();
    json!({
        "topic": &*origin.topic,
        "partition": origin.partition,
        "offset": origin.offset,
        "timestamp_ms": origin.timestamp_ms,
        "key": event.key().map(|key| teller.key(key)),
        "schema_id": event.schema_id,
        "event": teller.input(),
        "steps": teller.steps(),
        "output": (outcome == "done").then(|| teller.output(runtime)).flatten(),
        "outcome": outcome,
        "failure": teller.failure.map(|failure| json!({
            "step": failure.step.as_deref(), "class": failure.class.as_str(), "reason": failure.reason,
            "message": match showing {
                Showing::Shapes => failure.scrubbed().message,
                Showing::Values => failure.message.clone(),
            },
            "attempts": failure.attempts,
        })),
        "seconds_to_producer": event.produced.map(seconds),
        "seconds": seconds(now),
    })
}

/// Values by name.
type Fields = Map<String, Json>;

struct Teller<'a> {
    program: &'a Program,
    event: &'a Event,
    failure: Option<&'a Failure>,
    showing: Showing,
}

impl Teller<'_> {
    fn key(&self, key: &[u8]) -> Json {
        match self.showing {
            Showing::Shapes => Json::from(format!("{} bytes", key.len())),
            Showing::Values => Json::from(cut(&key_text(key))),
        }
    }

    fn input(&self) -> Json {
        let Some(bytes) = self.event.value() else {
            return Json::Null;
        };
        match &self.event.plan {
            Some(plan) if bytes.len() <= LONGEST => match plan.plan.writer().decode(self.event.datum()) {
                Ok(datum) => shown(&datum, self.showing),
                Err(error) => Json::from(format!("{} bytes: {error}", bytes.len())),
            },
            Some(_) | None => Json::from(format!("{} bytes", bytes.len())),
        }
    }

    fn output(&self, runtime: &Runtime) -> Option<Json> {
        let sink = runtime.sink.as_ref()?;
        let made = self.event.plan.as_ref()?.output.as_ref()?;
        let (bytes, key) = runtime.output_of(self.event).ok()?;
        let value = if bytes.len() <= LONGEST {
            shown(&made.schema.decode(bytes.get(HEADER..)?).ok()?, self.showing)
        } else {
            Json::from(format!("{} bytes", bytes.len()))
        };
        let set: Vec<&str> = self.program.outputs.iter().map(|(name, _)| name.as_str()).collect();
        Some(
            json!({"topic": sink.topic(), "key": key.map(|key| self.key(&key)), "schema_id": made.schema_id, "value": value, "set": set}),
        )
    }

    /// The steps in the order in which they ran, up to the one that ended the event.
    fn steps(&self) -> Vec<Json> {
        let mut told = Vec::new();
        // Without a plan no step has run.
        if self.event.plan.is_none() {
            return told;
        }
        for stage in &self.program.stages {
            let members = match stage {
                Stage::Alone(index) => std::slice::from_ref(index),
                Stage::Together(members) => members,
            };
            let fails = members.iter().any(|&index| self.failed(&self.program.steps[index]));
            let last = members.iter().position(|&index| self.left_out(index));
            for (place, &index) in members.iter().enumerate() {
                let behind = last.is_some_and(|last| place > last);
                told.push(self.step(index, fails || behind));
            }
            if fails || last.is_some() {
                break;
            }
        }
        told
    }

    fn failed(&self, step: &Step) -> bool {
        self.failure
            .is_some_and(|failure| failure.step.as_deref() == Some(&*step.name))
    }

    fn left_out(&self, index: usize) -> bool {
        self.event.left_out == Some(index)
    }

    /// What happened to a step. The answer of one may be `gone`: beside a step that failed, or behind one of its stage that left the event out.
    fn step(&self, index: usize, gone: bool) -> Json {
        let step = &self.program.steps[index];
        let failed = self.failed(step);
        let runs = match &step.when {
            None => true,
            Some(when) => holds(self.program, &when.source, self.event).unwrap_or(failed),
        };
        let (does, took, gave) = self.took_and_gave(index, step);
        let came_to = match &step.action {
            _ if failed => "failed",
            _ if self.left_out(index) => "left out",
            _ if !runs => "not run",
            _ if gone => "not known",
            Action::Filter(_) => "kept",
            Action::Set { .. } => "set",
            Action::Write(_) => "written",
            Action::Lookup(_) | Action::Reference(_) | Action::Custom(_) if gave.is_some() => "found",
            Action::Lookup(_) | Action::Reference(_) | Action::Custom(_) => "no row",
        };
        let mut story = Map::new();
        story.insert("step".to_owned(), Json::from(&*step.name));
        story.insert("does".to_owned(), Json::from(does));
        story.insert("came_to".to_owned(), Json::from(came_to));
        if runs && let Some(took) = took {
            story.insert("took".to_owned(), Json::Object(took));
        }
        if runs && let Some(gave) = gave {
            story.insert("gave".to_owned(), Json::Object(gave));
        }
        Json::Object(story)
    }

    fn took_and_gave(&self, index: usize, step: &Step) -> (&'static str, Option<Fields>, Option<Fields>) {
        match &step.action {
            Action::Lookup(lookup) => {
                let names = lookup.statement.markers().iter().map(|marker| marker.name.as_str());
                let gives = lookup.statement.gives().map(|(name, _)| name.to_owned());
                (
                    "look up",
                    Some(self.values(names, &lookup.binds)),
                    self.row(index, gives),
                )
            }
            Action::Reference(refer) => {
                let gives = refer.reference.shape.fields.iter().map(|(name, _)| name.clone());
                let took = self.values(std::iter::once("key"), std::slice::from_ref(&refer.key));
                ("reference", Some(took), self.row(index, gives))
            }
            Action::Custom(custom) => {
                let names = custom.takes.iter().map(|(name, _)| name.as_str());
                let gives = custom.gives.iter().map(|(name, _)| name.clone());
                (
                    "custom",
                    Some(self.values(names, &custom.binds)),
                    self.row(index, gives),
                )
            }
            Action::Write(write) => {
                let names = write.statement.markers().iter().map(|marker| marker.name.as_str());
                let mut took = self.values(names, &write.binds);
                if let Some(life) = write.waning {
                    let (marker, place) = (&write.statement.markers()[life], &write.binds[life]);
                    let left = life_left(self.program, &place.source, self.event);
                    let left = left.map_or(Json::Null, |left| shown(&left, self.showing));
                    took.insert(marker.name.clone(), left);
                }
                ("write", Some(took), None)
            }
            Action::Filter(_) => ("filter", None, None),
            Action::Set { first, values } => {
                let named = values.iter().enumerate().map(|(i, (name, _))| {
                    let value = self
                        .event
                        .named
                        .get(first + i)
                        .map_or(Json::Null, |value| shown(value, self.showing));
                    (name.clone(), value)
                });
                ("set", None, Some(named.collect()))
            }
        }
    }

    fn values<'n>(&self, names: impl Iterator<Item = &'n str>, places: &[Place]) -> Fields {
        let values = places
            .iter()
            .map(|place| match value(self.program, &place.source, self.event) {
                Ok(value) => shown(&value, self.showing),
                Err(_) => Json::Null,
            });
        names.map(str::to_owned).zip(values).collect()
    }

    fn row(&self, index: usize, names: impl Iterator<Item = String>) -> Option<Fields> {
        let row = self.event.rows.get(index)?.as_deref()?.as_ref()?;
        Some(names.zip(row.iter().map(|value| shown(value, self.showing))).collect())
    }
}

/// Text as it is; other bytes escaped.
pub fn key_text(key: &[u8]) -> String {
    match std::str::from_utf8(key) {
        Ok(text) => text.to_owned(),
        Err(_) => key.iter().map(|byte| format!("\\x{byte:02x}")).collect(),
    }
}

fn shown(value: &Value<'_>, showing: Showing) -> Json {
    match showing {
        Showing::Shapes => shape(value),
        Showing::Values => match value {
            Value::Record(fields) => {
                let fields = fields.iter();
                Json::Object(
                    fields
                        .map(|(name, value)| (name.to_string(), shortened(to_json(value))))
                        .collect(),
                )
            }
            other => shortened(to_json(other)),
        },
    }
}

/// A value's type and length, without its content; the keys of a map are content.
fn shape(value: &Value<'_>) -> Json {
    let words = match value {
        Value::Null => return Json::Null,
        Value::Bool(_) => "boolean".to_owned(),
        Value::Int(_) => "int".to_owned(),
        Value::Long(_) => "long".to_owned(),
        Value::Float(_) => "float".to_owned(),
        Value::Double(_) => "double".to_owned(),
        Value::String(text) => format!("text of {} bytes", text.len()),
        Value::Bytes(bytes) => format!("{} bytes", bytes.len()),
        Value::Date(_) => "date".to_owned(),
        Value::Time(..) => "time".to_owned(),
        Value::Timestamp(..) => "timestamp".to_owned(),
        Value::LocalTimestamp(..) => "local timestamp".to_owned(),
        Value::Decimal { .. } => "decimal".to_owned(),
        Value::Uuid(_) => "uuid".to_owned(),
        Value::Duration { .. } => "duration".to_owned(),
        Value::Map(entries) => format!("map of {}", entries.len()),
        Value::List(items) => match items.as_slice() {
            [] => "empty list".to_owned(),
            [first, rest @ ..] => {
                let mut list = vec![shape(first)];
                list.extend((!rest.is_empty()).then(|| Json::from(format!("and {} more", rest.len()))));
                return Json::Array(list);
            }
        },
        Value::Record(fields) => {
            return Json::Object(
                fields
                    .iter()
                    .map(|(name, value)| (name.to_string(), shape(value)))
                    .collect(),
            );
        }
    };
    Json::from(words)
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(TEXT) {
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], text.len()),
        None => text.to_owned(),
    }
}

/// The same with long texts, lists, maps and keys cut.
fn shortened(json: Json) -> Json {
    match json {
        Json::String(text) => Json::from(cut(&text)),
        Json::Array(items) => {
            let more = items.len().saturating_sub(ITEMS);
            let mut list: Vec<Json> = items.into_iter().take(ITEMS).map(shortened).collect();
            list.extend((more > 0).then(|| Json::from(format!("and {more} more"))));
            Json::Array(list)
        }
        Json::Object(fields) => {
            let more = fields.len().saturating_sub(FIELDS);
            let mut object = Fields::new();
            for (name, value) in fields.into_iter().take(FIELDS) {
                add(&mut object, cut(&name), shortened(value));
            }
            if more > 0 {
                add(&mut object, "…".to_owned(), Json::from(format!("and {more} more")));
            }
            Json::Object(object)
        }
        other => other,
    }
}

/// Adds a field, with a number if its name is taken: long keys may start alike and be cut to the same text.
fn add(fields: &mut Fields, name: String, value: Json) {
    let mut own = name.clone();
    let mut number = 1;
    while fields.contains_key(&own) {
        number += 1;
        own = format!("{name} #{number}");
    }
    fields.insert(own, value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::borrow::Cow;

    fn nested() -> Value<'static> {
        let text = |text: &'static str| Value::String(Cow::Borrowed(text));
        Value::Record(vec![
            ("name".into(), text("Ada")),
            ("none".into(), Value::Null),
            ("many".into(), Value::List((0..12).map(Value::Int).collect())),
            ("map".into(), Value::Map(vec![(text("secret"), Value::Bool(true))])),
        ])
    }

    #[test]
    fn a_shape_holds_nothing_of_the_content() {
        let shape = shape(&nested());
        assert_eq!(
            shape.to_string(),
            r#"{"name":"text of 3 bytes","none":null,"many":["int","and 11 more"],"map":"map of 1"}"#
        );
    }

    #[test]
    fn what_is_long_is_cut() {
        let json = shown(&nested(), Showing::Values);
        assert_eq!(json["many"], json!([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, "and 2 more"]));
        assert_eq!(json["map"]["secret"], true);
        let long = "é".repeat(TEXT + 1);
        assert_eq!(cut(&long), format!("{}… (402 bytes)", "é".repeat(TEXT)));
        assert_eq!(cut("short"), "short");
    }

    #[test]
    fn of_large_maps_and_long_keys_the_beginning_is_shown() {
        let map = |keys: Vec<String>| {
            let keys = keys.into_iter().map(|key| Value::String(Cow::Owned(key)));
            Value::Map(keys.map(|key| (key, Value::Null)).collect())
        };
        let many = shown(&map((0..FIELDS + 3).map(|n| n.to_string()).collect()), Showing::Values);
        let fields = many.as_object().unwrap();
        assert_eq!(fields.len(), FIELDS + 1);
        assert_eq!(fields["…"], "and 3 more");
        let long = shown(&map(vec!["k".repeat(TEXT + 1)]), Showing::Values);
        assert_eq!(long, json!({format!("{}… (201 bytes)", "k".repeat(TEXT)): null}));
        let alike = ["a", "b", "c"].map(|end| format!("{}{end}", "k".repeat(TEXT)));
        let begins = format!("{}… (201 bytes)", "k".repeat(TEXT));
        let all = json!({begins.clone(): null, format!("{begins} #2"): null, format!("{begins} #3"): null});
        assert_eq!(shown(&map(alike.to_vec()), Showing::Values), all);
        // The fields of a record come from the schema, and what a step adds comes last.
        let fields = (0..FIELDS + 3).map(|n| (n.to_string().into(), map(vec![])));
        let record = shown(&Value::Record(fields.collect()), Showing::Values);
        assert_eq!(record.as_object().unwrap().len(), FIELDS + 3);
    }

    #[test]
    fn keys_are_text_where_they_can_be() {
        assert_eq!(key_text("né".as_bytes()), "né");
        assert_eq!(key_text(&[0xff, 0]), "\\xff\\x00");
    }
}
