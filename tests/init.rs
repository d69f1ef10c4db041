//! `messina init` without services: what it drafts from a schema file and a SQLite table passes `check` and `test`, and nothing is overwritten.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use messina::store::sqlite::{SqliteOptions, SqliteStore};

#[path = "support/terminal.rs"]
mod terminal;

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("init-{name}"));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        Folder(folder)
    }

    /// A `messina` command that runs in the folder.
    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_messina"));
        command
            .args(arguments.split_whitespace())
            .current_dir(&self.0)
            .stdin(Stdio::null());
        command
    }

    /// Runs it.
    fn messina(&self, arguments: &str) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// The same with an expected exit code; returns stdout and stderr.
    fn must(&self, code: i32, arguments: &str) -> (String, String) {
        let output = self.messina(arguments);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "messina {arguments}\n{out}{err}");
        (out, err)
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.join(name)).unwrap()
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.join(name), text).unwrap();
    }

    fn tables(&self, sql: &str) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let store = SqliteStore::open(&SqliteOptions::new(self.0.join("test.db"))).unwrap();
            store.execute_script(sql).await.unwrap();
        });
    }
}

const SERVICES: &str = "--brokers localhost:9092 --registry http://localhost:8081 --store sqlite:test.db";

fn schema(name: &str) -> String {
    format!("{}/tests/schemas/{name}.avsc", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn a_look_up_and_a_write_pass_check_and_test() {
    let folder = Folder::new("both");
    folder.tables(
        "CREATE TABLE users (user_id text PRIMARY KEY, segment text, partner_id text) WITHOUT ROWID;
         CREATE TABLE history (user_id text, ts timestamp, event_id uuid, partner_id text, segment text, spare text,
           PRIMARY KEY (user_id, ts, event_id)) WITHOUT ROWID;",
    );
    let schema = schema("event");
    let flags = format!(
        "init --topic web.events --schema {schema} {SERVICES} --table users --write history --name events --test"
    );
    let (_, said) = folder.must(0, &flags);
    assert!(
        said.contains("wrote events.toml") && said.contains("users.user_id <- event.user.id"),
        "{said}"
    );
    let text = folder.read("events.toml");
    for line in [
        "lookup = \"SELECT segment, partner_id FROM users WHERE user_id = :user_id\"",
        "bind = { user_id = \"event.user.id\" }",
        "write = \"INSERT INTO history (user_id, ts, event_id, partner_id, segment) VALUES (:user_id, :ts, :event_id, :partner_id, :segment)\"",
        "segment = \"user.segment\"",
        // The prefix avoids a field of the event with the same name.
        "user_partner_id = \"user.partner_id\"",
        "# left out: column spare, no field is named like it",
    ] {
        assert!(text.contains(line), "no line {line}:\n{text}");
    }
    folder.must(0, "check -c events.toml");
    let (out, _) = folder.must(0, "test events.test.toml");
    assert!(out.ends_with("1 passed, 0 failed\n"), "{out}");
    // The row was found: its value is in the output, and in the row that was written.
    let case = folder.read("events.test.toml");
    let expected = &case[case.find("expect = ").unwrap()..];
    assert_eq!(expected.matches("\"segment\": \"segment-1\"").count(), 2, "{case}");
    assert!(
        case.contains("\"outcome\": \"done\"") || !case.contains("outcome"),
        "{case}"
    );

    // Nothing is overwritten, and no file is added to those that exist.
    folder.write("events.toml", "mine");
    let (_, said) = folder.must(64, &flags);
    assert!(
        said.contains("events.toml, events.test.toml, events.avsc are there already: --force"),
        "{said}"
    );
    assert_eq!(folder.read("events.toml"), "mine");
    std::fs::remove_file(folder.0.join("events.test.toml")).unwrap();
    folder.must(64, &flags);
    assert!(!folder.0.join("events.test.toml").exists());
    folder.must(0, &format!("{flags} --force"));
    assert_eq!(folder.read("events.toml"), text);
}

#[test]
fn tables_of_every_type_and_names_in_quotes_pass_check_and_test() {
    let folder = Folder::new("types");
    folder.tables(
        "CREATE TABLE \"Order\" (\"order\" text, \"Weird name\" text, n int, big bigint, small smallint, f float, d double, b boolean,
           raw blob, at timestamp, on_day date, time_of time, id uuid, ip inet, money decimal, many varint, span duration,
           tags \"list<text>\", set_of \"set<int>\", map_of \"map<text, bigint>\", pair \"tuple<int, text>\", vec \"vector<float, 3>\",
           PRIMARY KEY (\"order\")) WITHOUT ROWID;
         CREATE TABLE uuids (device uuid, ip inet, at timestamp, PRIMARY KEY (device, ip, at)) WITHOUT ROWID;
         CREATE TABLE nodes (label text PRIMARY KEY, weight double) WITHOUT ROWID;",
    );
    folder.write(
        "e.avsc",
        r#"{"type": "record", "name": "E", "fields": [
            {"name": "order", "type": "string"}, {"name": "device", "type": ["null", "string"], "default": null},
            {"name": "ip", "type": {"type": "fixed", "name": "Ip", "size": 4}},
            {"name": "when", "type": {"type": "long", "logicalType": "local-timestamp-micros"}}]}"#,
    );
    folder.write(
        "tree.avsc",
        r#"{"type": "record", "name": "Tree", "fields": [{"name": "label", "type": "string"},
            {"name": "left", "type": ["null", "Tree"], "default": null},
            {"name": "children", "type": {"type": "array", "items": "Tree"}}]}"#,
    );
    let tested = |flags: &str, name: &str| {
        folder.must(0, &format!("init --topic t {SERVICES} --name {name} --test {flags}"));
        folder.must(0, &format!("check -c {name}.toml"));
        let (out, _) = folder.must(0, &format!("test {name}.test.toml"));
        assert!(out.ends_with("1 passed, 0 failed\n"), "{out}");
        assert!(
            !folder.read(&format!("{name}.test.toml")).contains("dead_letter"),
            "{name}"
        );
        folder.read(&format!("{name}.toml"))
    };
    let text = tested("--schema e.avsc --table Order", "order");
    assert!(
        text.contains("WHERE \\\"order\\\" = :value_order") || text.contains("WHERE \"order\" = :value_order"),
        "{text}"
    );
    assert!(text.contains("# left out: column Weird name"), "{text}");
    let text = tested("--schema e.avsc --write uuids", "keep");
    assert!(
        text.contains("# GUESS: event.when fits by its type only (column at, timestamp)"),
        "{text}"
    );
    tested("--schema tree.avsc --table nodes", "tree");
    // A file that already lies beside the case is used as it is.
    assert!(!folder.0.join("tree.avsc.toml").exists() && folder.read("tree.test.toml").contains("\"tree.avsc\""));
}

#[test]
fn a_column_without_a_type_of_cql_has_no_case() {
    let folder = Folder::new("untyped");
    folder.tables("CREATE TABLE users (user_id text PRIMARY KEY, segment, partner_id text) WITHOUT ROWID;");
    let schema = schema("event");
    let flags = format!("init --topic t --schema {schema} {SERVICES} --table users --name events");
    let (_, said) = folder.must(64, &format!("{flags} --test"));
    assert!(said.contains("column segment of table users has no CQL type"), "{said}");
    folder.must(0, &flags);
}

#[test]
fn a_made_up_record_is_one_that_its_columns_take_or_that_is_said() {
    let folder = Folder::new("made-up");
    folder.tables(
        "CREATE TABLE items (id text PRIMARY KEY, embedding \"vector<float, 3>\", owners \"set<uuid>\", pages \"list<vector<int, 2>>\", ip inet)
           WITHOUT ROWID;",
    );
    folder.write(
        "item.avsc",
        r#"{"type": "record", "name": "Item", "fields": [{"name": "id", "type": "string"},
            {"name": "embedding", "type": {"type": "array", "items": "float"}},
            {"name": "owners", "type": ["null", {"type": "array", "items": "string"}], "default": null},
            {"name": "pages", "type": {"type": "array", "items": {"type": "array", "items": "int"}}}]}"#,
    );
    let drafted = |name: &str, flags: &str| {
        let flags = format!("init --topic t --schema item.avsc {SERVICES} --write items --name {name} --test {flags}");
        let (_, said) = folder.must(0, &flags);
        let (out, _) = folder.must(0, &format!("test {name}.test.toml"));
        assert!(out.ends_with("1 passed, 0 failed\n"), "{out}");
        let case = folder.read(&format!("{name}.test.toml"));
        (case[case.find("expect = ").unwrap()..].to_owned(), said)
    };
    let (expected, said) = drafted("fits", "");
    assert!(!said.contains("made up"), "{said}");
    assert_eq!(expected.matches("1.5").count(), 3, "{expected}");
    assert_eq!(
        expected.matches("50554d6e-29bb-11e5-b345-feff819cdc9f").count(),
        1,
        "{expected}"
    );
    assert!(expected.contains("pages"), "{expected}");

    // One cannot tell from which field an expression gets an address.
    let (expected, said) = drafted("odd", "--bind ip=string(event.id)");
    assert!(expected.contains("\"outcome\": \"dead_lettered\""), "{expected}");
    assert!(
        said.contains("warning: the record in odd.test.toml is made up, and its result is dead_lettered"),
        "{said}"
    );
}

#[test]
fn an_events_own_id_is_no_key_of_another_table() {
    let folder = Folder::new("ids");
    folder.tables("CREATE TABLE customers (id text PRIMARY KEY, segment text) WITHOUT ROWID;");
    let drafted = |name: &str, fields: &str| {
        let record = format!(r#"{{"type": "record", "name": "Order", "fields": [{fields}]}}"#);
        folder.write("order.avsc", &record);
        let flags = format!("init --topic orders --schema order.avsc {SERVICES} --table customers --name {name}");
        let (_, said) = folder.must(0, &flags);
        (folder.read(&format!("{name}.toml")), said)
    };
    let id = r#"{"name": "id", "type": "string"}"#;
    let customer =
        format!(r#"{{"name": "customer", "type": {{"type": "record", "name": "Customer", "fields": [{id}]}}}}"#);
    let (text, _) = drafted("named", &format!("{id}, {customer}"));
    assert!(text.contains("bind = { id = \"event.customer.id\" }"), "{text}");
    assert!(!text.contains("# GUESS:"), "{text}");
    let (text, said) = drafted("bare", id);
    assert!(
        text.contains("# GUESS: event.id has its name, and may be of something else (column id, text)"),
        "{text}"
    );
    assert!(text.contains("bind = { id = \"event.id\" }"), "{text}");
    assert!(
        said.contains("customers.id <- event.id   a guess: look at it"),
        "{said}"
    );
}

#[test]
fn a_table_that_is_written_too_is_looked_up_without_a_cache() {
    let folder = Folder::new("same");
    folder.tables("CREATE TABLE users (user_id text PRIMARY KEY, partner_id text) WITHOUT ROWID;");
    let flags = format!("init --topic t --schema {} {SERVICES}", schema("event"));
    folder.must(0, &format!("{flags} --table users --write users --out same.toml"));
    assert!(
        !folder.read("same.toml").contains("\ncache = "),
        "{}",
        folder.read("same.toml")
    );
    let (_, said) = folder.must(0, "check -c same.toml");
    assert!(!said.contains("warning"), "{said}");
    folder.must(0, &format!("{flags} --table users --out one.toml"));
    assert!(
        folder.read("one.toml").contains("\ncache = "),
        "{}",
        folder.read("one.toml")
    );
}

#[test]
fn names_that_are_words_of_cel_pass_check_and_test() {
    let folder = Folder::new("words");
    folder.tables("CREATE TABLE gates (\"in\" text PRIMARY KEY, \"null\" text) WITHOUT ROWID;");
    folder.write(
        "e.avsc",
        r#"{"type": "record", "name": "E", "fields": [{"name": "false", "type": {"type": "record", "name": "F",
            "fields": [{"name": "in", "type": "string"}]}}]}"#,
    );
    let flags = format!("init --topic t --schema e.avsc {SERVICES} --table gates");
    folder.must(0, &format!("{flags} --test"));
    let text = folder.read("t.toml");
    for line in [
        r#"bind = { value_in = "event['false']['in']" }"#,
        r#"set = { null = "gate['null']" }"#,
    ] {
        assert!(text.contains(line), "no line {line}:\n{text}");
    }
    folder.must(0, "check -c t.toml");
    let (out, _) = folder.must(0, "test t.test.toml");
    assert!(out.ends_with("1 passed, 0 failed\n"), "{out}");

    // A draft that its own check refuses is printed, because the findings point into it.
    let (out, said) = folder.must(78, &format!("{flags} --bind in=event.false.in --out wrong.toml"));
    assert!(out.contains("bind = { value_in = \"event.false.in\" }"), "{out}");
    assert!(
        said.contains("write them in brackets, event['in']") && said.contains("wrong.toml is not written"),
        "{said}"
    );
    assert!(!folder.0.join("wrong.toml").exists());
}

#[test]
fn two_drafts_of_one_topic_are_two_pipelines_with_two_groups() {
    let folder = Folder::new("two");
    folder.tables("CREATE TABLE users (user_id text PRIMARY KEY, segment text) WITHOUT ROWID;");
    let flags = format!("init --topic t --schema {} {SERVICES} --table users", schema("event"));
    for (file, group) in [("a.toml", "messina-t-a"), ("b.toml", "messina-t-b")] {
        let (_, said) = folder.must(0, &format!("{flags} --out {file}"));
        assert!(said.contains(&format!("reads t in group {group}")), "{said}");
        assert!(folder.read(file).contains(&format!("\ngroup = \"{group}\"")), "{file}");
    }
    folder.must(0, "check -c a.toml -c b.toml");
    // Both pipelines are found.
    for pipeline in ["t-a", "t-b"] {
        folder.must(
            0,
            &format!("size -c a.toml -c b.toml --rate 1000 --pipeline {pipeline}"),
        );
    }
    // A file named after the topic holds the pipeline named after the topic, which is also the default.
    folder.must(0, &format!("{flags} --out t.toml"));
    assert!(folder.read("t.toml").contains("\ngroup = \"messina-t\""));
    let (_, said) = folder.must(64, &flags);
    assert!(
        said.contains(
            "t.toml is there already: --force writes over it, --out FILE and --name NAME make another pipeline"
        ),
        "{said}"
    );
}

#[test]
fn a_draft_that_is_refused_leaves_no_file_in_the_way_of_the_next() {
    let folder = Folder::new("refused");
    folder.tables("CREATE TABLE users (user_id text PRIMARY KEY, segment text) WITHOUT ROWID;");
    let flags = format!("init --topic t --schema {} {SERVICES} --table users", schema("event"));
    let left = || {
        let files = std::fs::read_dir(&folder.0).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| name.starts_with("t.")).collect();
        names.sort();
        names
    };
    for more in ["", " --test"] {
        let (_, said) = folder.must(64, &format!("{flags} --bind user_id=event.nothing{more}"));
        assert!(
            said.contains(
                "--bind user_id=event.nothing: path \"nothing\": no field \"nothing\" in the event; it has event_id"
            ),
            "{said}"
        );
        assert!(left().is_empty(), "{:?}", left());
    }
    // Only the case shows that a record does not fit into a text.
    let wrong = format!("{flags} --bind user_id=event.user --test");
    let (out, said) = folder.must(64, &wrong);
    assert!(
        said.contains("marker :user_id cannot take event.user")
            && said.contains("say what is meant with --bind COLUMN=EXPRESSION"),
        "{said}"
    );
    assert!(left().is_empty(), "{:?}", left());
    // The finding points into the printed draft.
    assert!(out.contains("bind = { user_id = \"event.user\" }"), "{out}");
    assert!(said.contains("t.toml is not written"), "{said}");
    folder.must(0, &format!("{flags} --bind user_id=event.user.id --test"));
    let all = ["t.avsc", "t.test.toml", "t.toml"];
    assert_eq!(left(), all);
    // Existing files are never removed.
    folder.must(64, &wrong);
    folder.must(64, &format!("{wrong} --force"));
    assert_eq!(left(), all);
}

#[test]
fn a_draft_whose_case_could_not_run_stays() {
    let folder = Folder::new("kept");
    folder.tables("CREATE TABLE users (user_id text PRIMARY KEY, segment text) WITHOUT ROWID;");
    let flags = format!(
        "init --topic t --schema {} {SERVICES} --table users --test",
        schema("event")
    );
    let mut command = folder.command(&flags);
    let output = command.env("TMPDIR", folder.0.join("nowhere")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(69), "{said}");
    assert!(said.contains("t.toml and t.test.toml are written"), "{said}");
    folder.must(0, "check -c t.toml");
    folder.must(0, "test --update t.test.toml");
    let (out, _) = folder.must(0, "test t.test.toml");
    assert!(out.ends_with("1 passed, 0 failed\n"), "{out}");
}

#[test]
fn a_link_that_leads_nowhere_is_not_written_through() {
    let folder = Folder::new("link");
    folder.tables("CREATE TABLE users (user_id text PRIMARY KEY, segment text) WITHOUT ROWID;");
    std::os::unix::fs::symlink("elsewhere.toml", folder.0.join("t.toml")).unwrap();
    let flags = format!("init --topic t --schema {} {SERVICES} --table users", schema("event"));
    let (_, said) = folder.must(64, &flags);
    assert!(said.contains("t.toml is there already"), "{said}");
    assert!(!folder.0.join("elsewhere.toml").exists());
}

#[test]
fn connections_may_come_from_a_file() {
    let folder = Folder::new("base");
    folder.tables("CREATE TABLE users (user_id text PRIMARY KEY, segment text) WITHOUT ROWID;");
    folder.write(
        "base.toml",
        "store = \"sqlite:test.db\"\n[kafka]\nbrokers = \"k:9092\"\nproperties = { \"sasl.password\" = { env = \"NOT_SET_HERE\" } }\n[registry]\nurl = \"http://r:8081\"\nregister = true\n",
    );
    let flags = format!("init -c base.toml --topic t --schema {} --table users", schema("event"));
    let (_, said) = folder.must(78, &flags);
    assert!(
        said.contains("NOT_SET_HERE"),
        "what is wrong with the file is told: {said}"
    );
    let sound = folder.read("base.toml").replace("properties = ", "# ");
    folder.write("base.toml", &sound);
    folder.must(0, &format!("{flags} --test"));
    assert!(!folder.read("t.toml").contains("[kafka]"));
    folder.must(0, "check -c base.toml -c t.toml");
    folder.must(0, "test t.test.toml");
    let (_, said) = folder.must(
        64,
        &format!(
            "init -c base.toml -c t.toml --topic t --schema {} --table users",
            schema("event")
        ),
    );
    assert!(said.contains("there is a pipeline `t` already"), "{said}");
}

#[test]
fn what_is_missing_is_named_by_its_flag() {
    let folder = Folder::new("flags");
    folder.tables("CREATE TABLE users (user_id text PRIMARY KEY, segment text) WITHOUT ROWID; CREATE TABLE blobs (k blob PRIMARY KEY, v text) WITHOUT ROWID;");
    let event = schema("event");
    folder.write("int.avsc", "\"int\"");
    let some = format!("--topic t --schema {event} {SERVICES}");
    for (flags, says) in [
        (String::new(), "--topic is missing"),
        ("--topic t".to_owned(), "--table TABLE"),
        ("--topic t --table users".to_owned(), "--brokers is missing"),
        (
            "--topic t --table users --brokers k:9092".to_owned(),
            "--registry is missing",
        ),
        (
            "--topic t --table users --brokers k:9092 --registry http://r".to_owned(),
            "--nodes is missing",
        ),
        (
            format!("{some} --table nobody"),
            "table nobody: SQLite has no table nobody",
        ),
        (
            format!("{some} --table users --bind x=event.id"),
            "no table has a column x",
        ),
        (format!("{some} --table users --bind x"), "COLUMN=EXPRESSION"),
        (format!("{some} --table users --out - --test"), "--out FILE"),
        (
            format!("--topic t --schema int.avsc {SERVICES} --table users"),
            "outermost type",
        ),
        (
            format!("--topic t --schema none.avsc {SERVICES} --table users"),
            "cannot read none.avsc",
        ),
        (format!("{some} --table users --nodes n:9042"), "cannot be used with"),
    ] {
        let (_, said) = folder.must(64, &format!("init {flags}"));
        assert!(said.contains(says), "`{flags}` does not say {says:?}: {said}");
    }
    let (out, _) = folder.must(0, &format!("init {some} --table users --out -"));
    assert!(
        out.starts_with("# Pipeline `t`") && out.contains("[pipelines.t.sink]"),
        "{out}"
    );
    folder.must(
        0,
        &format!("init {some} --table blobs --bind k=record.key --out blobs.toml"),
    );
    folder.must(0, "check -c blobs.toml");
    // The registry is not reachable, and no file is given.
    let (_, said) = folder.must(
        69,
        "init --topic t --brokers 127.0.0.1:9 --registry http://127.0.0.1:9 --store sqlite:test.db --table users",
    );
    assert!(said.contains("the registry"), "{said}");
    assert!(!folder.0.join("t.toml").exists());
}

/// Answers each question as it comes. Returns everything that was on the screen, and the exit code.
fn asked(folder: &Folder, arguments: &str, answers: &[(&str, &str)]) -> (String, Option<i32>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_messina"));
    command.args(arguments.split_whitespace()).current_dir(&folder.0);
    let (mut master, slave) = terminal::on_terminal(&mut command);
    let mut child = command.spawn().unwrap();
    // Closes our copies of the slave end, so that only the child holds it.
    drop((command, slave));
    let (mut seen, mut answered) = (String::new(), 0);
    let mut answers = answers.iter();
    let mut next = answers.next();
    let mut part = [0; 4096];
    // Reading fails once nobody holds the other end any more.
    while let Ok(read @ 1..) = master.read(&mut part) {
        seen.push_str(&String::from_utf8_lossy(&part[..read]));
        if let Some((question, answer)) = next
            && seen[answered..].ends_with(&format!("{question}: "))
        {
            master.write_all(format!("{answer}\n").as_bytes()).unwrap();
            answered = seen.len();
            next = answers.next();
        }
    }
    assert_eq!(next, None, "it is not asked: {seen}");
    (seen, child.wait().unwrap().code())
}

#[test]
fn on_a_terminal_it_asks_for_what_no_flag_says() {
    let folder = Folder::new("asked");
    folder.tables("CREATE TABLE users (user_id text PRIMARY KEY, segment text, partner_id text) WITHOUT ROWID;");
    let arguments = format!("init --schema {} --store sqlite:test.db", schema("event"));
    let answers = [
        ("(--topic)", "web.events"),
        ("(--brokers)", "localhost:9092"),
        ("(--registry)", "http://localhost:8081"),
        ("(--table)", "users"),
    ];
    let (seen, code) = asked(&folder, &arguments, &answers);
    assert_eq!(code, Some(0), "{seen}");
    assert!(
        seen.contains("Topic to read") && seen.contains("wrote web-events.toml"),
        "{seen}"
    );
    let by_flags = Folder::new("told");
    by_flags.tables("CREATE TABLE users (user_id text PRIMARY KEY, segment text, partner_id text) WITHOUT ROWID;");
    by_flags.must(
        0,
        &format!(
            "init --topic web.events --schema {} {SERVICES} --table users",
            schema("event")
        ),
    );
    assert_eq!(folder.read("web-events.toml"), by_flags.read("web-events.toml"));

    // A CQL database has keyspaces, and asks for one. Its tables cannot be listed, because no server answers.
    let arguments_of_cql = format!("init --topic t --schema {}", schema("event"));
    let answers = [
        ("(--brokers)", "localhost:9092"),
        ("(--registry)", "http://localhost:8081"),
        ("sqlite:PATH) (--nodes)", "127.0.0.1:1"),
        ("(--table)", "users"),
        ("Keyspace of the tables (--keyspace)", "shop"),
    ];
    let (seen, code) = asked(&folder, &arguments_of_cql, &answers);
    assert_eq!(code, Some(69), "{seen}");

    // Without an answer, nothing is drafted.
    let (seen, code) = asked(&folder, &arguments, &[("(--topic)", "")]);
    assert_eq!(code, Some(64), "{seen}");
    assert!(seen.contains("--topic is missing: topic to read"), "{seen}");
}
