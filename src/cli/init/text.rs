//! Writes the pipeline's file: TOML, with comments that say what to change.

use super::draft::{Bound, Draft, Step};
use super::guess::Why;

/// The column at which comments after keys begin.
const COMMENTS: usize = 58;

/// Names and places for the file.
pub struct Places<'a> {
    /// The pipeline's name.
    pub name: &'a str,
    /// The input topic.
    pub topic: &'a str,
    /// The output topic.
    pub output: &'a str,
    /// The dead-letter topic.
    pub dead_letters: &'a str,
    /// The consumer group.
    pub group: &'a str,
    /// The file to be written, for the commands in its head.
    pub file: &'a str,
    /// The sections before the pipeline; `None` if other files contain them.
    pub connections: Option<&'a Connections>,
    /// Those other files.
    pub others: &'a [String],
}

/// The services that the pipeline uses.
#[derive(Debug, Clone)]
pub struct Connections {
    pub brokers: String,
    pub registry: String,
    pub database: Database,
}

/// A CQL server, or an SQLite file.
#[derive(Debug, Clone)]
pub enum Database {
    Cql {
        nodes: Vec<String>,
        keyspace: Option<String>,
    },
    Sqlite(String),
}

impl Connections {
    /// The connections as sections of a configuration.
    pub fn toml(&self) -> String {
        let mut out = String::new();
        if let Database::Sqlite(store) = &self.database {
            put(
                &mut out,
                &format!("store = {}", string(store)),
                "the embedded database; or [scylla] nodes",
            );
            out.push('\n');
        }
        out.push_str("[kafka]\n");
        put(&mut out, &format!("brokers = {}", string(&self.brokers)), "");
        out.push_str(
            "# properties = { \"security.protocol\" = \"sasl_ssl\" }    # any librdkafka property\n\n[registry]\n",
        );
        put(&mut out, &format!("url = {}", string(&self.registry)), "");
        put(
            &mut out,
            "register = true",
            "Messina derives the output schema and registers it",
        );
        if let Database::Cql { nodes, keyspace } = &self.database {
            out.push_str("\n[scylla]\n");
            let nodes: Vec<String> = nodes.iter().map(|node| string(node)).collect();
            put(&mut out, &format!("nodes = [{}]", nodes.join(", ")), "");
            if let Some(keyspace) = keyspace {
                put(&mut out, &format!("keyspace = {}", string(keyspace)), "");
            }
            out.push_str("# datacenter = \"dc1\"                  # the one to prefer, where there are several\n");
            out.push_str("# username = \"messina\"\n# password = { env = \"SCYLLA_PASSWORD\" }\n");
        }
        out
    }
}

/// The whole file.
pub fn text(draft: &Draft, places: &Places<'_>) -> String {
    let Places { name, file, .. } = places;
    let files: String = places.others.iter().map(|other| format!("-c {other} ")).collect();
    let mut out = format!(
        "# Pipeline `{name}`, drafted by `messina init` from the schema of `{}` and {}.\n# Yours to change: what begins with GUESS comes \
         first.\n#\n#   messina check {files}-c {file}             # what is wrong with this file\n#   messina check {files}-c {file} \
         --online    # and with topics, schema, statements and types\n#   messina run {files}-c {file} --dry-run    # what would come of the next records\n#   messina run {files}-c {file}\n",
        places.topic,
        tables(draft)
    );
    if let Some(connections) = places.connections {
        out.push('\n');
        out.push_str(&connections.toml());
    }
    out.push_str(&format!("\n[pipelines.{name}]\n"));
    put(
        &mut out,
        "order = \"key\"",
        "of records with one key; or \"partition\", \"none\"",
    );
    out.push_str(&format!("\n[pipelines.{name}.source]\n"));
    put(&mut out, &format!("topics = [{}]", string(places.topic)), "");
    put(
        &mut out,
        &format!("group = {}", string(places.group)),
        "the consumer group: one of its own for each pipeline",
    );
    put(
        &mut out,
        "on_tombstone = \"skip\"",
        "a record without a value; or \"dead_letter\"",
    );
    for step in draft.lookup.iter().chain(&draft.write) {
        out.push_str(&format!("\n[[pipelines.{name}.steps]]\n"));
        put(&mut out, &format!("name = {}", string(&step.name)), "");
        let is_lookup = draft.lookup.as_ref() == Some(step);
        let kind = if is_lookup { "lookup" } else { "write" };
        put(&mut out, &format!("{kind} = {}", string(&step.statement)), "");
        bindings(&mut out, step);
        if is_lookup {
            if draft.write.as_ref().is_some_and(|write| write.table == step.table) {
                out.push_str(
                    "# No cache: it would hide what the next step writes to this table (messina explain MES0214).\n",
                );
            } else {
                put(
                    &mut out,
                    "cache = { ttl = \"30s\" }",
                    "how old an answer may be; without it each record asks",
                );
            }
            put(
                &mut out,
                "on_missing = \"null\"",
                "no such row: null | skip | dead_letter | retry",
            );
            if !step.whole_key {
                out.push_str(
                    "# The event does not name the whole key, so several rows may be found, and the first is taken.\n",
                );
                out.push_str(
                    "# rows = \"list\"                       # all of them, as arrays; max_rows bounds them\n",
                );
            }
        } else {
            out.push_str("# ttl = \"30d\"                         # the life of a row\n");
            out.push_str("# when = \"event.FIELD != 'VALUE'\"     # only some records, by a condition in CEL\n");
        }
        for (column, why) in &step.left {
            out.push_str(&format!("# left out: column {column}, {why}\n"));
        }
    }
    out.push_str(&format!("\n[pipelines.{name}.sink]\n"));
    put(
        &mut out,
        &format!("topic = {}", string(places.output)),
        "create it first",
    );
    out.push_str("# key = \"event.FIELD\"                 # the input's key, unless this says another; see order\n");
    if draft.set.is_empty() {
        out.push_str("# set = { processed_at = \"now()\" }     # new fields behind the event's own\n");
    } else {
        out.push_str("# New fields behind the event's own; each may be null. Other values: \"now()\", or an expression in CEL.\n");
        let set: Vec<String> = draft
            .set
            .iter()
            .map(|(field, value)| format!("{field} = {}", string(value)))
            .collect();
        put(&mut out, &format!("set = {{ {} }}", set.join(", ")), "");
    }
    out.push_str(&format!("\n[pipelines.{name}.dead_letter]\n"));
    put(
        &mut out,
        &format!("topic = {}", string(places.dead_letters)),
        "records that can never succeed; create it first",
    );
    out
}

fn tables(draft: &Draft) -> String {
    let names: Vec<String> = draft
        .lookup
        .iter()
        .chain(&draft.write)
        .map(|step| format!("table `{}`", step.table.name))
        .collect();
    names.join(" and ")
}

/// The step's `bind`, after comments about its guesses.
fn bindings(out: &mut String, step: &Step) {
    for Bound {
        column,
        expression,
        why,
        ..
    } in &step.bind
    {
        let doubt = match why {
            None | Some(Why::Name) => continue,
            Some(Why::Bare) => "has its name, and may be of something else",
            Some(Why::Alike) => "is named somewhat like it",
            Some(Why::Type) => "fits by its type only",
        };
        out.push_str(&format!(
            "# GUESS: {expression} {doubt} (column {}, {})\n",
            column.name, column.ty
        ));
    }
    let bind: Vec<String> = step
        .bind
        .iter()
        .map(|b| format!("{} = {}", b.marker, string(&b.expression)))
        .collect();
    put(out, &format!("bind = {{ {} }}", bind.join(", ")), "");
}

fn put(out: &mut String, line: &str, comment: &str) {
    out.push_str(line);
    if !comment.is_empty() {
        let pad = COMMENTS.saturating_sub(line.chars().count()).max(1);
        out.push_str(&" ".repeat(pad));
        out.push_str(&format!("# {comment}"));
    }
    out.push('\n');
}

/// A text as a TOML string.
pub fn string(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
