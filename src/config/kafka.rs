//! `[kafka]`: the cluster, and librdkafka's properties.

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaConfRes;

use super::document::{Entry, Table, Value};
use super::reader::{Field, Section, all};
use super::redact::is_secret_name;
use super::shape::Shape;
use super::values::text;
use super::{Secret, SecretError, Span, Spanned};

/// The Kafka cluster that records are consumed from and published to.
#[derive(Clone, Debug)]
pub struct Kafka {
    /// Bootstrap servers, `host:port` separated by commas.
    pub brokers: Spanned<String>,
    /// librdkafka properties of every client.
    pub properties: Vec<Property>,
    /// librdkafka properties of consumers only; they win over `properties`.
    pub consumer_properties: Vec<Property>,
    /// librdkafka properties of producers only; they win over `properties`.
    pub producer_properties: Vec<Property>,
}

/// One librdkafka property, by librdkafka's own name (`security.protocol`).
#[derive(Clone, Debug)]
pub struct Property {
    /// The name, lower case with dots.
    pub name: Spanned<String>,
    /// The value as librdkafka accepts it; numbers and booleans are written as text.
    pub value: PropertyValue,
}

/// The value of a property: plain, or a secret (by reference, or because of the property's name).
#[derive(Clone, Debug)]
pub enum PropertyValue {
    /// May be printed.
    Plain(String),
    /// May not.
    Secret(Secret),
}

impl PropertyValue {
    /// The text to hand to librdkafka.
    ///
    /// # Errors
    /// If the environment variable or the file of a secret cannot be read.
    pub fn reveal(&self) -> Result<String, SecretError> {
        match self {
            Self::Plain(text) => Ok(text.clone()),
            Self::Secret(secret) => secret.reveal(),
        }
    }
}

/// Aliases of properties, and librdkafka's own names (`_RK_C_ALIAS` in rdkafka_conf.c, 2.12). librdkafka writes both names to one field, so the
/// last one set wins. Properties that only Messina may set are left out, under either name.
const ALIASES: [(&str, &str); 10] = [
    ("acks", "request.required.acks"),
    ("compression.type", "compression.codec"),
    ("delivery.timeout.ms", "message.timeout.ms"),
    ("linger.ms", "queue.buffering.max.ms"),
    ("max.in.flight", "max.in.flight.requests.per.connection"),
    ("max.partition.fetch.bytes", "fetch.message.max.bytes"),
    ("retries", "message.send.max.retries"),
    ("sasl.mechanism", "sasl.mechanisms"),
    (
        "sasl.oauthbearer.client.credentials.client.id",
        "sasl.oauthbearer.client.id",
    ),
    (
        "sasl.oauthbearer.client.credentials.client.secret",
        "sasl.oauthbearer.client.secret",
    ),
];

/// librdkafka's own name of a property.
pub fn real_name(name: &str) -> &str {
    let alias = ALIASES.iter().find(|(alias, _)| *alias == name);
    alias.map_or(name, |(_, real)| *real)
}

/// Properties whose last part is `file`: they would look like a secret's `{ file = … }`.
const FILE_PROPERTIES: [&str; 2] = [
    "sasl.oauthbearer.assertion.private.key",
    "sasl.oauthbearer.assertion.jwt.template",
];

impl Kafka {
    pub(super) fn read(field: Field<'_>) -> Option<Self> {
        let mut section = field.section()?;
        let brokers = section.required("brokers", "brokers = \"kafka-1:9092,kafka-2:9092\"", brokers);
        let properties = section.or("properties", vec![], Property::read_all);
        let consumer_properties = section.or("consumer_properties", vec![], Property::read_all);
        let producer_properties = section.or("producer_properties", vec![], Property::read_all);
        section.finish();
        Some(Self {
            brokers: brokers?,
            properties: properties?,
            consumer_properties: consumer_properties?,
            producer_properties: producer_properties?,
        })
    }
}

/// The brokers, from a list or from one string with commas.
fn brokers(field: Field<'_>) -> Option<Spanned<String>> {
    let span = field.span();
    let brokers = super::values::texts(field)?;
    let brokers: Vec<String> = brokers.into_iter().map(|broker| broker.value).collect();
    Some(Spanned::new(brokers.join(","), span))
}

impl Property {
    /// Reads a table of properties. `"a.b" = 1` and `a.b = 1` are the same property, although TOML nests the latter.
    pub(super) fn read_all(field: Field<'_>) -> Option<Vec<Self>> {
        if field.draws(Shape::Properties) {
            return None;
        }
        let section = field.section()?;
        let mut properties = Vec::new();
        let read = collect(&section, section.table, "", &mut properties);
        let properties = all(properties)?;
        read.then(|| last_of_each(properties))
    }
}

/// Keeps one property per name: the one from the last source. Merging keeps both spellings of a property, because TOML treats `"a.b"` and `a.b`
/// as different keys, and because librdkafka has aliases.
fn last_of_each(mut properties: Vec<Property>) -> Vec<Property> {
    let rank = |(at, property): (usize, &Property)| (property.name.span.file, at);
    let last: Vec<bool> = properties
        .iter()
        .enumerate()
        .map(|one| {
            let mut same = properties
                .iter()
                .enumerate()
                .filter(|(_, other)| real_name(other.name.as_str()) == real_name(one.1.name.as_str()));
            same.all(|other| rank(other) <= rank(one))
        })
        .collect();
    let mut last = last.into_iter();
    properties.retain(|_| last.next().unwrap_or(true));
    properties
}

/// Reads the properties below `prefix`. False if one of them is malformed.
fn collect<'a>(section: &Section<'a>, table: &'a Table, prefix: &str, out: &mut Vec<Option<Property>>) -> bool {
    let mut right = true;
    for Entry { key, node } in &table.entries {
        let name = format!("{prefix}{}", key.value);
        let field = Field {
            cx: section.cx,
            path: format!("{}.{name}", section.path),
            node,
        };
        match &node.value {
            Value::Table(inner) if inner.entries.is_empty() => right = field.wrong_type::<()>("a string").is_some(),
            Value::Table(inner) if !is_secret_reference(&name, inner) => {
                right &= collect(section, inner, &format!("{name}."), out);
            }
            _ => {
                // `a.b.c = 1` is underlined as a whole, although TOML gives only the position of `c`.
                let whole = Span {
                    start: key.span.end.saturating_sub(name.len()),
                    ..key.span
                };
                let span = if section.cx.sources.written(whole) == name {
                    whole
                } else {
                    key.span
                };
                if taken_as(&name, "").is_err_and(|refused| refused.unknown) {
                    section.cx.hide(node);
                }
                let value = value(&name, field);
                out.push(value.map(|value| Property {
                    name: Spanned::new(name, span),
                    value,
                }));
            }
        }
    }
    right
}

fn is_secret_reference(name: &str, table: &Table) -> bool {
    matches!(&table.entries[..], [only] if matches!(only.key.as_str(), "env" | "file"))
        && !FILE_PROPERTIES.contains(&name)
}

fn value(name: &str, field: Field<'_>) -> Option<PropertyValue> {
    match &field.node.value {
        Value::Table(_) => Secret::read(field).map(PropertyValue::Secret),
        // A secret without quotes is still a secret. It is kept as written, because `007` is not 7.
        Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Datetime if is_secret_name(name) => {
            Some(PropertyValue::Secret(Secret::unquoted(&field)))
        }
        Value::Integer(Some(number)) => Some(PropertyValue::Plain(number.to_string())),
        Value::Float(_) => Some(PropertyValue::Plain(field.cx.sources.written(field.span()).to_owned())),
        Value::Boolean(boolean) => Some(PropertyValue::Plain(boolean.to_string())),
        Value::String(_) if is_secret_name(name) => Secret::read(field).map(PropertyValue::Secret),
        Value::String(_) => text(field).map(|text| PropertyValue::Plain(text.value)),
        Value::Integer(None) | Value::Datetime if field.cx.sources.is_environment(field.span()) => {
            text(field).map(|text| PropertyValue::Plain(text.value))
        }
        Value::Integer(None) | Value::Datetime | Value::Array(_) => field.wrong_type("a string, a number or a boolean"),
    }
}

/// Why librdkafka refuses a property.
pub(super) struct Refused {
    /// Whether it knows no property by this name.
    pub(super) unknown: bool,
    pub(super) why: String,
}

/// Sets a property on a configuration from which no client is created, and returns what librdkafka then has as its value: nothing, if it does not tell.
pub(super) fn taken_as(name: &str, value: &str) -> Result<String, Refused> {
    let set = ClientConfig::new().set(name, value).create_native_config();
    let native = set.map_err(|error| match error {
        KafkaError::ClientConfig(kind, why, ..) => Refused {
            unknown: kind == RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN,
            why,
        },
        // The name or the value contains a zero byte.
        _ => Refused {
            unknown: false,
            why: "it contains a zero byte".to_owned(),
        },
    })?;
    Ok(native.get(name).unwrap_or_default())
}

/// Properties that may have a fraction.
const FRACTIONS: [&str; 2] = ["linger.ms", "queue.buffering.max.ms"];

fn hexadecimal(text: &str) -> Option<i64> {
    i64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

/// Whether a value says a number, and librdkafka has `read` another. It stops at what cannot belong to a number, so `5m` is 5; it takes `010` for octal, and a
/// number that is too large loses its upper bits.
pub(super) fn is_misread(name: &str, value: &str, read: &str) -> bool {
    let said = value.trim();
    // A word may stand for a number, such as `all` for -1.
    let is_number = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
    if !is_number(said.trim_start_matches(['+', '-'])) {
        return false;
    }
    match said.parse::<f64>() {
        // Where a fraction is allowed it comes back with six digits, which may be those of a whole number.
        Ok(number) if FRACTIONS.contains(&name) => read
            .parse::<f64>()
            .is_ok_and(|read| (read - number).abs() > 1e-5 * number.abs()),
        Ok(number) => read.parse::<i64>().is_ok_and(|read| read as f64 != number),
        // Text comes back as it was given, and is no number then either. It reads hexadecimal digits as such.
        Err(_) => read.parse::<f64>().is_ok() && hexadecimal(said).is_none_or(|number| read.parse() != Ok(number)),
    }
}
