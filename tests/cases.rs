//! `messina test` as users see it: the example's cases pass, a wrong one says why, and `--update` writes the actual results.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_messina"));
    command
        .arg("test")
        .args(arguments)
        // The embedded services listen on this host, and must not be reached through a proxy.
        .env("http_proxy", "http://127.0.0.1:9");
    command
}

fn messina(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config/example.test.toml")
}

/// A file in a folder of its own; relative paths in it resolve as for the example.
fn file(name: &str, text: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("cases-{name}"));
    std::fs::create_dir_all(&folder).unwrap();
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let text = text
        .replace(
            "\"example.toml\"",
            &format!("\"{}\"", config.join("example.toml").display()),
        )
        .replace("\"schemas/", &format!("\"{}/", config.join("schemas").display()));
    let path = folder.join("cases.toml");
    std::fs::write(&path, text).unwrap();
    path
}

/// The output for cases of these pipelines, whose topics have the example's schema; `head` begins the file of cases.
fn tried(name: &str, head: &str, cases: &[String], pipelines: &str) -> Output {
    let services = "[kafka]\nbrokers = \"k:9092\"\n[registry]\nurl = \"http://r:8081\"\nregister = true\n";
    let path = file(name, &format!("config = [\"{name}.toml\"]\n{head}\n{}", cases.concat()));
    let config = format!("store = \"sqlite:a.db\"\n{services}{pipelines}");
    std::fs::write(path.with_file_name(format!("{name}.toml")), config).unwrap();
    messina(&[path.to_str().unwrap()])
}

#[test]
fn the_examples_cases_pass() {
    let output = messina(&[example().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
    assert!(stdout(&output).ends_with("5 passed, 0 failed\n"), "{}", stdout(&output));
    assert!(!stdout(&output).contains("not tried"), "{}", stdout(&output));
}

#[test]
fn a_wrong_case_says_what_came_and_an_update_writes_it() {
    let text = std::fs::read_to_string(example()).unwrap();
    let text = text
        .replace("\"segment\": \"gold\"", "\"segment\": \"silver\"")
        .replace("expect = '''{\"value\": {\"id\": 9}}'''\n", "");
    let path = file("wrong", &text);
    let junit = path.with_file_name("junit.xml");
    let (path, junit) = (path.to_str().unwrap(), junit.to_str().unwrap());
    let output = messina(&[path, "--junit", junit]);
    let said = stdout(&output);
    assert_eq!(output.status.code(), Some(1), "{said}{}", stderr(&output));
    assert!(
        said.contains("value.segment: expected \"silver\", got \"gold\""),
        "{said}"
    );
    assert!(said.contains("the case has no `expect`; its result was:"), "{said}");
    assert!(said.ends_with("3 passed, 2 failed\n"), "{said}");
    let junit = std::fs::read_to_string(junit).unwrap();
    assert!(junit.contains("tests=\"5\" failures=\"2\""), "{junit}");

    let output = messina(&[path, "--update"]);
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    let updated = std::fs::read_to_string(path).unwrap();
    assert!(
        updated.starts_with("# Cases of example.toml") && updated.contains("\"segment\": \"gold\""),
        "{updated}"
    );
    let output = messina(&[path, "--only", "known user"]);
    assert!(stdout(&output).ends_with("1 passed, 0 failed\n"), "{}", stdout(&output));
    // No case that ran made the condition leave the write out.
    assert!(
        stdout(&output).contains("not tried: navigation: step history left out by its `when`"),
        "{}",
        stdout(&output)
    );
}

#[test]
fn an_update_fills_in_an_expectation_that_cannot_be_read() {
    let text = std::fs::read_to_string(example()).unwrap();
    let unread = text.replace("expect = '''{\"outcome\": \"skipped\"}'''", "expect = ''");
    assert_ne!(unread, text);
    let path = file("unread", &unread);
    let path = path.to_str().unwrap();
    let output = messina(&[path, "--only", "tombstone"]);
    assert_eq!(output.status.code(), Some(78), "{}{}", stdout(&output), stderr(&output));
    let output = messina(&[path, "--only", "tombstone", "--update"]);
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
    let output = messina(&[path, "--only", "tombstone"]);
    one_passed(&output);
}

#[test]
fn that_no_case_is_meant_is_an_error() {
    let output = messina(&[example().to_str().unwrap(), "--only", "heartbeet"]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(64), "{}{said}", stdout(&output));
    assert!(
        said.starts_with("error: no case has `heartbeet` in its name: there are ") && said.contains("heartbeat"),
        "{said}"
    );
}

#[test]
fn a_bad_file_leaves_the_others_their_results() {
    let good = example();
    let bad = file("bad", "config = [\"example.toml\"]\n[[cases]]\nnome = \"a\"\n");
    let junit = bad.with_file_name("junit.xml");
    // An earlier run may have left it.
    let _ = std::fs::remove_file(&junit);
    let (good, bad, junit) = (good.to_str().unwrap(), bad.to_str().unwrap(), junit.to_str().unwrap());
    let output = messina(&[bad, good, "--only", "heartbeat", "--junit", junit]);
    let (said, why) = (stdout(&output), stderr(&output));
    assert_eq!(output.status.code(), Some(78), "{said}{why}");
    assert!(why.contains(&format!("{bad}: ")) && why.contains("nome"), "{why}");
    assert!(
        said.contains("ok   navigation: a heartbeat is not kept\n")
            && said.ends_with(&format!(
                "no result: {bad}\n1 passed, 0 failed, 1 file without result\n"
            )),
        "{said}"
    );
    let junit = std::fs::read_to_string(junit).unwrap();
    assert!(junit.contains("tests=\"2\" failures=\"0\" errors=\"1\""), "{junit}");
    assert!(
        junit.contains("a heartbeat is not kept") && junit.contains("<error message="),
        "{junit}"
    );
}

#[test]
fn a_report_that_cannot_be_written_is_a_wrong_argument() {
    let junit = "no/such/folder/junit.xml";
    let output = messina(&[example().to_str().unwrap(), "--only", "heartbeat", "--junit", junit]);
    assert_eq!(output.status.code(), Some(64), "{}", stderr(&output));
    assert!(
        stderr(&output).ends_with("No such file or directory (os error 2)\n")
            && stderr(&output).contains(&format!("error: cannot write {junit}: ")),
        "{}",
        stderr(&output)
    );
    assert!(stdout(&output).ends_with("1 passed, 0 failed\n"), "{}", stdout(&output));
}

#[test]
fn a_bad_file_counts_before_a_report_that_cannot_be_written() {
    let bad = file("bad-unreported", "[[cases]]\nnome = \"a\"\n");
    let junit = "no/such/folder/junit.xml";
    let output = messina(&[bad.to_str().unwrap(), "--junit", junit]);
    let why = stderr(&output);
    assert_eq!(output.status.code(), Some(78), "{why}");
    assert!(why.contains(&format!("error: cannot write {junit}: ")), "{why}");
}

#[test]
fn a_file_that_cannot_be_updated_keeps_its_results() {
    // A case in braces has no line of its own for an expectation.
    let case = r#"cases = [{ name = "a", pipeline = "p", record = { raw = "x" } }]"#;
    let path = file(
        "braces",
        &format!("config = [\"braces.toml\"]\n{case}\nschemas = {{ navigation = \"schemas/navigation.avsc\" }}\n"),
    );
    let config = "store = \"sqlite:a.db\"\n[kafka]\nbrokers = \"k:9092\"\n[registry]\nurl = \"http://r:8081\"\nregister = true\n\
        [pipelines.p]\nsource = { topics = \"navigation\", group = \"g\" }\nsink = { topic = \"out\" }\ndead_letter = { topic = \"dead\" }\n";
    std::fs::write(path.with_file_name("braces.toml"), config).unwrap();
    let output = messina(&[path.to_str().unwrap(), "--update"]);
    let (said, why) = (stdout(&output), stderr(&output));
    assert_eq!(output.status.code(), Some(78), "{said}{why}");
    assert!(why.contains("an expectation cannot be written into this file"), "{why}");
    assert!(
        said.starts_with("FAIL p: a\n") && said.ends_with("0 passed, 1 failed\n"),
        "{said}"
    );
}

#[test]
fn what_the_check_warns_of_is_said() {
    let head = "schemas = { navigation = \"schemas/navigation.avsc\" }";
    let case = "[[cases]]\nname = \"a\"\n\
        record.value = { id = 1, kind = \"cart\", time = 0, user = { id = \"u1\" } }\nexpect = '{}'\n";
    // Neither publishes nor writes.
    let pipeline = "[pipelines.p.source]\ntopics = [\"navigation\"]\ngroup = \"p\"\n";
    let output = tried("warned", head, &[case.to_owned()], pipeline);
    one_passed(&output);
    assert!(stderr(&output).contains("warning[MES"), "{}", stderr(&output));
}

#[test]
fn an_interrupt_leaves_nothing_behind() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cases-interrupted");
    // An earlier run may have left the folder.
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    let entries = || -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&folder).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    let mut child = command(&[example().to_str().unwrap()])
        .env("TMPDIR", &folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let began = Instant::now();
    while entries().is_empty() {
        assert!(child.try_wait().unwrap().is_none(), "it has ended without a directory");
        assert!(began.elapsed() < Duration::from_secs(60), "no directory within 60 s");
        std::thread::sleep(Duration::from_millis(5));
    }
    // SAFETY: a system call without memory; the child has not been waited for, so the id is still its own.
    let sent = unsafe { libc::kill(child.id().cast_signed(), libc::SIGINT) };
    assert_eq!(sent, 0);
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        output.status.code(),
        Some(130),
        "{}{}",
        stdout(&output),
        stderr(&output)
    );
    assert_eq!(entries(), Vec::<PathBuf>::new());
}

fn one_passed(output: &Output) {
    assert!(
        stdout(output).ends_with("1 passed, 0 failed\n"),
        "{}{}",
        stdout(output),
        stderr(output)
    );
}

#[test]
fn a_case_that_is_run_alone_has_the_types_of_all() {
    let recipes = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/cookbook");
    let read = |name: &str| std::fs::read_to_string(recipes.join(name)).unwrap();
    let declared = r#"{ name = "string", since = "timestamp-millis", tags = "array<string>" }"#;
    let cases = read("reference.test.toml")
        .replace("services.toml", recipes.join("services.toml").to_str().unwrap())
        .replace("\"../schemas/", "\"schemas/");
    let path = file("alone", &cases);
    let config = read("reference.toml").replace(declared, r#"["name", "since", "tags"]"#);
    std::fs::write(path.with_file_name("reference.toml"), config).unwrap();
    let output = messina(&[path.to_str().unwrap(), "--only", "little is known"]);
    one_passed(&output);
}

#[test]
fn a_pipeline_that_groups_its_writes_is_tried_too() {
    let cases = std::fs::read_to_string(example()).unwrap();
    let path = file("grouped", &cases.replace("\"example.toml\"", "\"grouped.toml\""));
    let config = std::fs::read_to_string(example().with_file_name("example.toml")).unwrap();
    let grouped = config.replace("ttl = \"30d\"", "ttl = \"30d\"\ngroup = {}");
    assert_ne!(grouped, config);
    std::fs::write(path.with_file_name("grouped.toml"), grouped).unwrap();
    let output = messina(&[path.to_str().unwrap(), "--only", "known user"]);
    one_passed(&output);
}

#[test]
fn of_two_pipelines_of_one_topic_each_is_judged_by_its_own_outputs() {
    let case = |pipeline: &str, id: u8| {
        format!(
            "[[cases]]\nname = \"{id} by {pipeline}\"\npipeline = \"{pipeline}\"\n\
             record.value = {{ id = {id}, kind = \"cart\", time = 0, user = {{ id = \"u1\" }} }}\n\
             expect = '''{{\"value\": {{\"id\": {id}, \"by\": \"{pipeline}\"}}}}'''\n"
        )
    };
    let head = "schemas = { navigation = \"schemas/navigation.avsc\" }";
    let cases = [case("a", 1), case("b", 2), case("b", 3), case("a", 4)];
    let pipeline = |name: &str| {
        format!(
            "[pipelines.{name}.source]\ntopics = [\"navigation\"]\ngroup = \"{name}\"\n\
             [pipelines.{name}.sink]\ntopic = \"by-{name}\"\nset = {{ by = \"'{name}'\" }}\n"
        )
    };
    let output = tried("both", head, &cases, &(pipeline("a") + &pipeline("b")));
    assert!(
        stdout(&output).ends_with("4 passed, 0 failed\n"),
        "{}{}",
        stdout(&output),
        stderr(&output)
    );
}

#[test]
fn what_another_pipeline_of_its_topic_does_is_no_part_of_a_case() {
    let head = "schemas = { navigation = \"schemas/navigation.avsc\" }\n\
        tables = { seen = \"id bigint PRIMARY KEY, kind text\" }";
    let case = |pipeline: &str, id: u8, kind: &str, expect: &str| {
        format!(
            "[[cases]]\nname = \"{id} by {pipeline}\"\npipeline = \"{pipeline}\"\n\
             record.value = {{ id = {id}, kind = \"{kind}\", time = 0, user = {{ id = \"u1\" }} }}\n\
             expect = '''{expect}'''\n"
        )
    };
    let cases = [
        case("a", 1, "cart", r#"{"value": {"id": 1}}"#),
        case("a", 2, "heartbeat", r#"{"outcome": "skipped"}"#),
        case("b", 3, "cart", r#"{"rows": {"seen": [{"id": 3, "kind": "cart"}]}}"#),
        case("a", 4, "cart", r#"{"value": {"id": 4}}"#),
    ];
    let pipelines = r#"
[pipelines.a.source]
topics = ["navigation"]
group = "a"
[[pipelines.a.steps]]
name = "carts"
filter = "event.kind == 'cart'"
[pipelines.a.sink]
topic = "carts"
[pipelines.b.source]
topics = ["navigation"]
group = "b"
[[pipelines.b.steps]]
name = "seen"
write = "INSERT INTO seen (id, kind) VALUES (:id, :kind)"
"#;
    let output = tried("apart", head, &cases, pipelines);
    let said = stdout(&output);
    assert_eq!(
        said,
        "ok   a: 1 by a\nok   a: 2 by a\nok   b: 3 by b\nok   a: 4 by a\n4 passed, 0 failed\n",
        "{}",
        stderr(&output)
    );
}

#[test]
fn what_a_case_names_of_the_tables_is_looked_at_whether_it_changed_or_not() {
    let head = "schemas = { navigation = \"schemas/navigation.avsc\" }\n\
        tables = { profiles = \"user_id text PRIMARY KEY, segment text\" }";
    let other = r#"{ user_id = "u2", segment = "gold" }"#;
    let case = |name: &str, held: &str, expected: &str| {
        format!(
            "[[cases]]\nname = \"{name}\"\nrows.profiles = [{held}]\n\
             record.value = {{ id = 1, kind = \"cart\", time = 0, user = {{ id = \"u1\" }} }}\n\
             expect = '''{{\"rows\": {{{expected}}}}}'''\n"
        )
    };
    let cases = [
        case("empty", "", r#""profiles": []"#),
        case("another", other, r#""profiles": [{"user_id": "u2"}]"#),
        case("misspelt", other, r#""profiles": [{"user_id": "u2", "segmant": null}]"#),
        case("no table", "", r#""profile": []"#),
    ];
    let pipeline = r#"
[pipelines.forget.source]
topics = ["navigation"]
group = "forget"
[[pipelines.forget.steps]]
name = "profile"
write = "DELETE FROM profiles WHERE user_id = :user_id"
bind = { user_id = "event.user.id" }
"#;
    let output = tried("rows", head, &cases, pipeline);
    assert_eq!(
        stdout(&output),
        "ok   forget: empty\nok   forget: another\nFAIL forget: misspelt\n       rows.profiles: the table has no column segmant\n\
         FAIL forget: no table\n       rows.profile: there is no such table; declare its columns under [tables]\n2 passed, 2 failed\n",
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_step_that_fails_as_its_case_expects_has_been_tried() {
    let head = "schemas = { navigation = \"schemas/navigation.avsc\" }\n\
        tables = { seen = \"id int PRIMARY KEY, kind text\" }";
    // More than the table's int holds.
    let case = "[[cases]]\nname = \"too large\"\n\
        record.value = { id = 5000000000, kind = \"cart\", time = 0, user = { id = \"u1\" } }\n\
        expect = '''{\"outcome\": \"dead_lettered\", \"dead_letter\": {\"step\": \"seen\"}}'''\n";
    let pipeline = r#"
[pipelines.keep.source]
topics = ["navigation"]
group = "keep"
[pipelines.keep.dead_letter]
topic = "dead"
[[pipelines.keep.steps]]
name = "seen"
write = "INSERT INTO seen (id, kind) VALUES (:id, :kind)"
"#;
    let output = tried("failing", head, &[case.to_owned()], pipeline);
    assert_eq!(
        stdout(&output),
        "ok   keep: too large\n1 passed, 0 failed\n",
        "{}",
        stderr(&output)
    );
}

#[test]
fn what_a_stuck_pipeline_goes_on_trying_is_not_taken_for_a_later_cases() {
    let head = "schemas = { a = \"schemas/navigation.avsc\", b = \"schemas/navigation.avsc\" }\n\
        [tables]\nprofiles = \"user_id text PRIMARY KEY, segment text\"\nseen = \"id bigint PRIMARY KEY, segment text\"";
    // The second case inserts the row that the first one waits for.
    let case = |pipeline: &str, user: &str, rows: &str| {
        format!(
            "[[cases]]\nname = \"{user} by {pipeline}\"\npipeline = \"{pipeline}\"\nrows.profiles = [{rows}]\n\
             record.value = {{ id = 1, kind = \"cart\", time = 0, user = {{ id = \"{user}\" }} }}\n\
             expect = '''{{}}'''\n"
        )
    };
    let cases = [
        case("a", "u1", ""),
        case("b", "u2", "{ user_id = \"u1\", segment = \"gold\" }"),
    ];
    let pipeline = |name: &str| {
        format!(
            "[pipelines.{name}.source]\ntopics = [\"{name}\"]\ngroup = \"{name}\"\n\
             [[pipelines.{name}.steps]]\nname = \"profile\"\nlookup = \"SELECT segment FROM profiles WHERE user_id = :user_id\"\n\
             bind = {{ user_id = \"event.user.id\" }}\non_missing = \"retry\"\n\
             [[pipelines.{name}.steps]]\nname = \"seen\"\nwrite = \"INSERT INTO seen (id, segment) VALUES (:id, :segment)\"\n\
             bind = {{ segment = \"profile.segment\" }}\n"
        )
    };
    let output = tried("stuck", head, &cases, &(pipeline("a") + &pipeline("b")));
    let said = stdout(&output);
    assert!(said.ends_with("0 passed, 2 failed\n"), "{said}{}", stderr(&output));
    assert_eq!(said.matches("got no outcome within").count(), 2, "{said}");
    assert!(!said.contains("rows.seen"), "{said}");
}

#[test]
fn what_cannot_be_run_is_told_in_words() {
    let head = "config = [\"example.toml\"]\nschemas = { navigation = \"schemas/navigation.avsc\" }\n";
    let tables = "[tables]\nprofiles = \"user_id text PRIMARY KEY, segment text, score double, country text\"\n\
        events_by_user = \"user_id text, at timestamp, id bigint, kind text, amount decimal, PRIMARY KEY ((user_id), at, id)\"\n";
    let case = "[[cases]]\nname = \"a\"\nrecord.value = { id = 1 }\n";
    for (name, text, said) in [
        ("key", format!("{head}[[cases]]\nnome = \"a\"\n"), "nome"),
        ("field", format!("{head}{tables}{case}"), "case \"a\": record.value: "),
        (
            "table",
            format!("{head}{case}"),
            "declare tables.profiles in the case file",
        ),
        (
            "pipeline",
            format!("{head}{tables}{case}pipeline = \"x\"\n"),
            "there is no pipeline x; there are navigation",
        ),
        (
            "expect",
            format!("{head}{tables}{case}expect = 'null'\n"),
            "line 9: case \"a\": expect: expected a JSON object such as {\"outcome\": \"done\"}, found null",
        ),
        ("config", case.to_owned(), "say which configuration"),
    ] {
        let output = messina(&[file(name, &text).to_str().unwrap()]);
        assert_eq!(
            output.status.code(),
            Some(78),
            "{name}: {}{}",
            stdout(&output),
            stderr(&output)
        );
        assert!(stderr(&output).contains(said), "{name}: {}", stderr(&output));
    }
}
