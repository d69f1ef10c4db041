//! The configuration's promise: every mistake is found at its place, with a remedy and all others of its stage, and secrets stay secret.
//!
//! One broken configuration per file in `tests/config/broken`, and one snapshot of the findings for each.

#![allow(clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use messina::config::{self, Config, Diagnostics, PropertyValue, Severity, Sources, StepKind};
use proptest::prelude::*;

const BASE: &str = r#"
[kafka]
brokers = "kafka-1:9092"
properties = { "security.protocol" = "sasl_ssl", "fetch.min.bytes" = 1000 }

[registry]
url = "http://registry:8081"

[scylla]
nodes = ["scylla-1:9042", "scylla-2:9042"]
password = { file = "/run/secrets/scylla" }

[pipelines.user-events.source]
topics = ["navigation"]
group = "navigation-enrichment"

[pipelines.user-events.sink]
topic = "navigation-enriched"
"#;

fn load(texts: &[&str], env: &[(&str, &str)]) -> Result<(Config, Sources), Diagnostics> {
    let texts = texts
        .iter()
        .enumerate()
        .map(|(index, text)| (format!("{index}.toml"), text.to_string()))
        .collect();
    config::load_str(
        texts,
        env.iter().map(|(name, value)| (name.to_string(), value.to_string())),
    )
}

fn loaded(texts: &[&str], env: &[(&str, &str)]) -> Config {
    load(texts, env).unwrap_or_else(|findings| panic!("{findings}")).0
}

fn refused(texts: &[&str], env: &[(&str, &str)]) -> Diagnostics {
    load(texts, env).expect_err("the configuration should be refused")
}

/// All findings of `check` about a file, from both phases.
fn findings(path: &Path) -> Diagnostics {
    match config::load(&[path.to_path_buf()], std::iter::empty()) {
        Ok((config, sources)) => config::check(&config, &sources).into(),
        Err(findings) => findings,
    }
}

fn broken() -> Vec<PathBuf> {
    let entries = std::fs::read_dir("tests/config/broken").expect("the folder is there");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
    paths.sort();
    paths
}

#[test]
fn broken_configs_are_explained() {
    let paths = broken();
    assert!(paths.len() >= 20);
    for path in paths {
        let name = path.file_stem().expect("a file").to_string_lossy().into_owned();
        insta::assert_snapshot!(name, findings(&path).human(false));
    }
}

#[test]
fn every_finding_has_a_place_and_a_remedy() {
    for path in broken() {
        let findings = findings(&path);
        assert!(!findings.is_empty(), "{}", path.display());
        for finding in findings.iter() {
            let said = !finding.help.is_empty()
                || finding
                    .place
                    .iter()
                    .any(|place| place.label.starts_with("did you mean"));
            assert!(said, "{}: nothing is proposed: {finding:?}", path.display());
            // Whatever is missing altogether has no place.
            let absent = matches!(finding.code.id, "MES0102" | "MES0201");
            let Some(place) = &finding.place else {
                assert!(absent, "{}: no place: {finding:?}", path.display());
                continue;
            };
            let text = std::fs::read_to_string(&path).expect("readable");
            let line = text.lines().nth(place.line - 1).expect("the line is there");
            assert!(place.column <= line.chars().count() + 1);
            assert!(
                line.starts_with(place.text.split("***").next().expect("a part")),
                "{line} is not {}",
                place.text
            );
        }
    }
}

#[test]
fn no_finding_shows_a_secret() {
    for path in broken() {
        let findings = findings(&path);
        for text in [
            findings.human(true),
            findings.json().expect("serialisable"),
            config::report::sarif(&findings).to_string(),
            config::report::github(&findings),
            format!("{findings:?}"),
        ] {
            for secret in ["hunter2", "271828", "314159"] {
                assert!(!text.contains(secret), "{}: {text}", path.display());
            }
        }
    }
}

#[test]
fn codes_are_unique_and_in_order() {
    let ids: Vec<&str> = config::codes::ALL.iter().map(|code| code.id).collect();
    assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
}

#[test]
fn json_holds_what_the_human_form_says() {
    let findings = refused(&["[kafka]\nbroker = 1\n"], &[]);
    let json: serde_json::Value = serde_json::from_str(&findings.json().expect("serialisable")).expect("JSON");
    assert_eq!(json[0]["code"], "MES0101");
    assert_eq!(json[0]["severity"], "error");
    assert_eq!(json[0]["place"]["line"], 2);
    assert_eq!(json[0]["place"]["column"], 1);
    assert_eq!(json[0]["place"]["text"], "broker = 1");
    assert_eq!(json[1]["code"], "MES0102");
    assert_eq!(json[1]["place"], serde_json::Value::Null);
}

#[test]
fn colour_only_when_asked() {
    let findings = refused(&["[kafka]\nbroker = 1\n"], &[]);
    assert!(!findings.human(false).contains('\x1b'));
    assert!(findings.human(true).contains('\x1b'));
}

#[test]
fn the_processors_are_sound() {
    let texts = [std::fs::read_to_string("config/processors.toml").expect("it is there")];
    let config = texts[0].replace("{ env = \"MONGO_URI\" }", "\"mongodb://mongo\"");
    let (config, sources) = load(&[&config], &[]).unwrap_or_else(|findings| panic!("{findings}"));
    let findings: Diagnostics = config::check(&config, &sources).into();
    assert!(findings.is_empty(), "{findings}");
}

#[test]
fn the_example_loads() {
    let (config, sources) = config::load(&["config/example.toml".into()], std::iter::empty()).expect("it loads");
    let pipeline = &config.pipelines["navigation"];
    assert_eq!(pipeline.max_in_flight.value, 1024);
    let StepKind::Lookup(lookup) = &pipeline.steps[0].kind else {
        panic!("a look-up comes first")
    };
    let cache = lookup.cache.as_ref().expect("a cache");
    assert_eq!(cache.ttl, Duration::from_secs(30));
    assert_eq!(cache.max_bytes.bytes(), 64 << 20);
    let StepKind::Write(write) = &pipeline.steps[1].kind else {
        panic!("a write comes second")
    };
    assert_eq!(write.ttl, Some(Duration::from_secs(30 * 86_400)));
    assert!(write.idempotent());
    let set: Vec<&str> = pipeline
        .sink
        .as_ref()
        .expect("a sink")
        .set
        .iter()
        .map(|b| b.name.as_str())
        .collect();
    assert_eq!(set, ["segment", "score", "processed_at"], "fields keep their order");
    // Only files of another machine are missing here.
    for finding in config::check(&config, &sources) {
        assert!(matches!(finding.code.id, "MES0402" | "MES0403"), "{finding:?}");
    }
}

#[test]
fn defaults_are_those_of_the_docs() {
    let config = loaded(&[BASE], &[]);
    assert_eq!(config.http.listen.to_string(), "127.0.0.1:9090");
    assert_eq!(config.limits.memory.to_string(), "256MiB");
    assert_eq!(config.shutdown_timeout, Duration::from_secs(30));
    assert_eq!(config.pipelines["user-events"].consumers.value, 1);
}

#[test]
fn concurrency_is_a_number_or_is_found_between_bounds() {
    for (written, most, least) in [
        ("7", 7, None),
        ("\"auto\"", 4096, Some(16)),
        ("{ max = 100 }", 100, Some(16)),
        ("{ max = 8 }", 8, Some(8)),
        ("{ min = 5000 }", 5000, Some(5000)),
        ("{ min = 2, max = 3 }", 3, Some(2)),
    ] {
        let config = loaded(
            &[BASE, &format!("[pipelines.user-events]\nmax_in_flight = {written}\n")],
            &[],
        );
        let pipeline = &config.pipelines["user-events"];
        assert_eq!(
            (pipeline.max_in_flight.value, pipeline.min_in_flight),
            (most, least),
            "{written}"
        );
    }
}

#[test]
fn later_files_win() {
    let over = r#"
        kafka.properties."security.protocol" = "plaintext"
        [scylla]
        nodes = ["other:9042"]
        password = { env = "SCYLLA_PASSWORD" }
        [pipelines.second.source]
        topics = "orders"
        group = "orders"
    "#;
    let config = loaded(&[BASE, over], &[]);
    let properties: Vec<(String, String)> = config.kafka.properties.iter().map(property).collect();
    assert_eq!(
        properties,
        [
            ("security.protocol".into(), "plaintext".into()),
            ("fetch.min.bytes".to_owned(), "1000".to_owned())
        ]
    );
    let scylla = config.scylla.expect("it is there");
    assert_eq!(scylla.nodes.len(), 1, "lists are replaced");
    assert_eq!(*scylla.nodes[0], "other:9042");
    assert_eq!(config.pipelines.len(), 2, "tables are merged");
    let error = scylla.password.expect("it is there").reveal().expect_err("not set");
    assert!(
        error.to_string().contains("SCYLLA_PASSWORD"),
        "a reference is replaced whole: {error}"
    );
}

fn property(property: &config::Property) -> (String, String) {
    (property.name.value.clone(), property.value.reveal().expect("readable"))
}

#[test]
fn the_environment_wins_over_files() {
    let config = loaded(
        &[BASE],
        &[
            ("MESSINA__KAFKA__BROKERS", "other:9092"),
            ("MESSINA__KAFKA__PROPERTIES__SASL__PASSWORD", "12345"),
            ("MESSINA__PIPELINES__USER_EVENTS__MAX_IN_FLIGHT", "7"),
            ("MESSINA__SCYLLA__NODES", "[\"a:1\", \"b:2\", \"c:3\"]"),
            ("MESSINA__SCYLLA__USERNAME", "2026"),
            ("MESSINA__SHUTDOWN_TIMEOUT", "5s"),
            ("MESSINA__LOG", "{ format = \"json\" }"),
            ("MESSINA_OTHER", "not ours"),
            ("PATH", "/bin"),
        ],
    );
    assert_eq!(*config.kafka.brokers, "other:9092");
    assert_eq!(
        property(config.kafka.properties.last().expect("one")),
        ("sasl.password".into(), "12345".into())
    );
    assert_eq!(config.pipelines["user-events"].max_in_flight.value, 7);
    let scylla = config.scylla.expect("it is there");
    assert_eq!(scylla.nodes.len(), 3);
    assert_eq!(
        scylla.username.as_deref(),
        Some("2026"),
        "a number is text where text is wanted"
    );
    assert_eq!(config.shutdown_timeout, Duration::from_secs(5));
    assert_eq!(config.log.format, config::LogFormat::Json);
}

#[test]
fn a_store_with_a_host_is_told_as_the_path_that_it_means() {
    let refuses = |store: &str| {
        let found = refused(&[&format!("store = \"{store}\"\n{BASE}")], &[]);
        let finding = found.iter().next().expect("a finding");
        assert_eq!(finding.message, "`store` is not an embedded store");
        finding.help[0].clone()
    };
    assert_eq!(
        refuses("sqlite://x.db"),
        "write store = \"sqlite:x.db\": what follows `sqlite:` is a path"
    );
    assert!(refuses("sqlite://").contains("\"sqlite:PATH\""));
    let config = loaded(&[&format!("store = \"sqlite:///srv/x.db\"\n{BASE}")], &[]);
    assert_eq!(config.sqlite_path(), Some("///srv/x.db"));
}

#[test]
fn a_pipeline_without_topics_may_be_a_misspelling_of_one_with_them() {
    let step = "[[pipelines.user-event.steps]]\nname = \"own\"\nfilter = \"event.own\"\n";
    let order = "MESSINA__PIPELINES__USER_EVNTS__ORDER";
    let reset = "MESSINA__PIPELINES__USER_EVNTS__SOURCE__OFFSET_RESET";
    for (texts, env, key) in [
        (&[BASE][..], &[(order, "none")][..], "source"),
        (&[BASE], &[(reset, "latest")], "topics"),
        (&[BASE, step], &[], "source"),
    ] {
        let found = refused(texts, env);
        let missing = format!("`{key}` is missing in `");
        let finding = found.iter().find(|finding| finding.message.starts_with(&missing));
        let help = &finding.unwrap_or_else(|| panic!("{found}")).help;
        assert!(help[0].ends_with("; did you mean `user-events`?"), "{help:?}");
    }
    let other = refused(&[BASE, "[pipelines.clicks]\norder = \"key\"\n"], &[]);
    assert!(!other.to_string().contains("did you mean"), "{other}");
}

#[test]
fn mistakes_in_the_environment_name_the_variable() {
    let variables = [
        ("MESSINA__KAFKA__BORKERS", "kafka-1:9092"),
        ("MESSINA__HTTP__LISTEN", "nowhere"),
        ("MESSINA__KAFKA____BROKERS", "kafka-1:9092"),
        ("MESSINA__PIPELINES__USER_EVENTS__SOURCE__TOPICS__0", "navigation"),
        ("MESSINA__SCYLLA__PASSWORD", "[\"hunter2\"]"),
    ];
    let human = refused(&[BASE], &variables).human(false);
    assert!(!human.contains("hunter2"));
    for (name, _) in variables {
        assert!(human.contains(name), "{name} is not in:\n{human}");
    }
    insta::assert_snapshot!("environment", human);
}

#[test]
fn an_address_of_a_file_that_a_variable_replaces_is_told() {
    let text = format!("{BASE}\n[http]\nlisten = \"127.0.0.1:9090\"\n");
    let told = |text: &str, env: &[(&str, &str)]| {
        let (config, sources) = load(&[text], env).unwrap_or_else(|findings| panic!("{findings}"));
        let findings = Diagnostics::new(config::check(&config, &sources));
        let told = findings
            .iter()
            .filter(|finding| finding.message.contains("http.listen"));
        told.map(|finding| finding.message.clone()).collect::<String>()
    };
    let all = [("MESSINA__HTTP__LISTEN", "0.0.0.0:9090")];
    assert_eq!(told(BASE, &all), "", "no file says otherwise");
    assert_eq!(told(&text, &[]), "");
    assert_eq!(told(&text, &[("MESSINA__HTTP__LISTEN", "127.0.0.1:9090")]), "");
    let told = told(&text, &all);
    assert!(
        told.contains("0.toml:") && told.contains("$MESSINA__HTTP__LISTEN"),
        "{told}"
    );
}

#[test]
fn a_placeholder_in_a_variable_is_to_be_replaced_there() {
    let variable = [("MESSINA__PIPELINES__USER_EVENTS__SOURCE__GROUP", "${STAGE}-enrichment")];
    let (config, sources) = load(&[BASE], &variable).unwrap_or_else(|findings| panic!("{findings}"));
    let findings = Diagnostics::new(config::check(&config, &sources));
    let told = findings
        .iter()
        .find(|finding| finding.message.contains("the placeholder in"))
        .expect("a warning");
    assert_eq!(told.help, ["write the value itself"]);
}

#[test]
fn a_file_that_is_not_there_is_a_finding() {
    let findings = config::load(&["tests/config/absent.toml".into()], std::iter::empty()).expect_err("refused");
    assert_eq!(findings.iter().next().expect("one").code.id, "MES0001");
    assert_eq!(
        findings.iter().count(),
        1,
        "what is absent may be in the other file: {findings}"
    );
}

#[test]
fn mistakes_of_all_files_come_at_once() {
    let findings = refused(&["[kafka]\nbrokers = 1\n", "[registry]\nurl = 2\n[htpt]\n"], &[]);
    let places: Vec<String> = findings
        .iter()
        .filter_map(|d| d.place.as_ref())
        .map(|p| format!("{}:{}", p.file, p.line))
        .collect();
    assert_eq!(places, ["0.toml:2", "1.toml:2", "1.toml:3"]);
}

#[test]
fn brackets_that_are_single_or_double_by_mistake_are_told_without_echoes() {
    let helps = |text: &str| {
        let findings = refused(&[BASE, text], &[]);
        findings.iter().flat_map(|d| d.help.clone()).collect::<Vec<_>>()
    };
    let step = "[pipelines.user-events.steps]\nname = \"a\"\nfilter = \"event.a\"\n";
    let double = "write `[[pipelines.user-events.steps]]`, in double brackets, once for each step";
    assert_eq!(helps(step), [double]);
    assert_eq!(helps(&step.repeat(2)), [double], "once, not at each key");
    assert_eq!(helps(&step.repeat(3)), [double, double]);
    // A header that is right is not told to become what it is.
    let right = "[[pipelines.user-events.steps]]\nname = \"b\"\nfilter = \"event.b\"\n";
    let first = format!("line 1 has `[pipelines.user-events.steps]`: {double}");
    assert_eq!(helps(&format!("{step}{right}")), [double, first.as_str()]);
    assert_eq!(helps(&format!("{step}{right}{right}")), [double, first.as_str()]);
    assert_eq!(helps(&format!("{right}{step}{right}")), [double]);
    let usual = "a key or section is written once: remove one of them, or join them";
    let listed = "[pipelines.user-events]\nsteps = [{ name = \"a\", filter = \"event.a\" }]\n";
    assert_eq!(helps(&format!("{listed}{right}")), [usual]);
    let single = "write `[pipelines.second]`, in single brackets";
    let source = "source = { topics = \"t\", group = \"g\" }\n";
    assert_eq!(helps(&format!("[[pipelines.second]]\n{source}")), [single]);
    let behind = "[pipelines.second.source]\ntopics = \"t\"\ngroup = \"g\"\n[[pipelines.second]]\norder = \"key\"\n";
    assert_eq!(helps(behind), [single]);
    // Other keys are still told by themselves.
    let twice = "[[pipelines.user-events.steps]]\nname = \"a\"\nname = \"b\"\nfilter = \"event.a\"\n";
    assert_eq!(helps(twice), [usual]);
}

#[test]
fn a_key_without_a_default_is_not_to_be_removed() {
    let step = "[[pipelines.user-events.steps]]\nname = \"a\"\nlookup = \"SELECT a FROM t WHERE k = :k\"\ncache = { ttl = \"0s\" }\n";
    let found = refused(&[BASE, step], &[]).human(false);
    assert!(
        found.contains("this key has no default") && !found.contains("remove the key"),
        "{found}"
    );
}

#[test]
fn properties_are_written_in_either_way() {
    let text = r#"
        [kafka]
        brokers = ["a:1", "b:2"]
        [kafka.properties]
        security.protocol = "ssl"
        "ssl.key.password" = "hunter2"
        sasl.oauthbearer.assertion.private.key.file = "/run/key"
        enable.ssl.certificate.verification = false
        linger = 0.5
        [registry]
        url = ["http://a", "http://b"]
    "#;
    let config = loaded(&[text], &[]);
    assert_eq!(*config.kafka.brokers, "a:1,b:2");
    assert_eq!(config.registry.urls.len(), 2);
    let properties: Vec<String> = config
        .kafka
        .properties
        .iter()
        .map(property)
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    assert_eq!(
        properties,
        [
            "security.protocol=ssl",
            "ssl.key.password=hunter2",
            "sasl.oauthbearer.assertion.private.key.file=/run/key",
            "enable.ssl.certificate.verification=false",
            "linger=0.5",
        ]
    );
    assert!(matches!(config.kafka.properties[1].value, PropertyValue::Secret(_)));
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn a_section_is_merged_though_it_has_a_key_of_a_reference() {
    let log = "[log]\nlevel = \"debug\"\nformat = \"json\"\n";
    let file = "[log]\nfile = \"messina.log\"\n";
    let pipeline = "[pipelines.file.source]\ntopics = \"t\"\ngroup = \"g\"\n";
    let variable = [("MESSINA__LOG__FILE", "messina.log")];
    for config in [
        loaded(&[BASE, log, file, pipeline], &[]),
        loaded(&[BASE, log, pipeline], &variable),
    ] {
        assert_eq!(*config.log.level, "debug");
        assert_eq!(config.log.format, config::LogFormat::Json);
        assert!(config.log.file.is_some());
        let names: Vec<&String> = config.pipelines.keys().collect();
        assert_eq!(names, ["file", "user-events"]);
    }
}

#[test]
fn a_table_of_free_names_is_merged_though_they_are_those_of_a_reference() {
    let set = |name: &str| format!("[pipelines.user-events.sink.set]\n{name} = \"event.a\"\n");
    let variable = [("MESSINA__PIPELINES__USER_EVENTS__SINK__SET__SUBJECT", "event.a")];
    let config = loaded(&[BASE, &set("env"), &set("file")], &variable);
    let sink = config.pipelines["user-events"].sink.as_ref().expect("it is there");
    let names: Vec<&str> = sink.set.iter().map(|binding| binding.name.as_str()).collect();
    assert_eq!(names, ["env", "file", "subject"]);
}

#[test]
fn the_last_source_of_a_property_wins_however_it_is_written() {
    let text = r#"
        [kafka]
        brokers = "a:1"
        [kafka.properties]
        sasl.mechanism = "PLAIN"
        "sasl.username" = "file"
        "client.rack" = "one"
        [registry]
        url = "http://a"
    "#;
    let over = "kafka.properties.client.rack = \"two\"\n";
    let variables = [
        ("MESSINA__KAFKA__PROPERTIES__SASL__USERNAME", "variable"),
        (
            "MESSINA__KAFKA__PROPERTIES__CLIENT__ID",
            "123456789012345678901234567890",
        ),
    ];
    let config = loaded(&[text, over], &variables);
    let mut properties: Vec<_> = config.kafka.properties.iter().map(property).collect();
    properties.sort();
    let expected = [
        ("client.id", "123456789012345678901234567890"),
        ("client.rack", "two"),
        ("sasl.mechanism", "PLAIN"),
        ("sasl.username", "variable"),
    ];
    assert_eq!(
        properties,
        expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
    );
}

#[test]
fn a_variable_loses_its_last_line_break() {
    let variables = [
        ("MESSINA__SCYLLA__PASSWORD", "x \r\n"),
        ("MESSINA__PIPELINES__USER_EVENTS__MAX_IN_FLIGHT", "7\n"),
    ];
    let config = loaded(&[BASE], &variables);
    let password = config.scylla.and_then(|scylla| scylla.password).expect("one");
    assert_eq!(password.reveal().expect("written out"), "x ");
    assert_eq!(config.pipelines["user-events"].max_in_flight.value, 7);
}

#[test]
fn one_text_is_a_list_with_commas() {
    let variables = [
        ("MESSINA__SCYLLA__NODES", "a:1, b:2,"),
        ("MESSINA__REGISTRY__URL", "http://a,http://b"),
        ("MESSINA__KAFKA__BROKERS", "a:1,b:2"),
        ("MESSINA__PIPELINES__USER_EVENTS__SOURCE__TOPICS", "2026"),
    ];
    let config = loaded(&[BASE], &variables);
    let texts = |all: &[config::Spanned<String>]| all.iter().map(|one| one.value.clone()).collect::<Vec<_>>();
    assert_eq!(texts(&config.scylla.expect("it is there").nodes), ["a:1", "b:2"]);
    assert_eq!(texts(&config.registry.urls), ["http://a", "http://b"]);
    assert_eq!(*config.kafka.brokers, "a:1,b:2");
    assert_eq!(texts(&config.pipelines["user-events"].source.topics), ["2026"]);
    let commas = refused(&[BASE], &[("MESSINA__SCYLLA__NODES", " , ")]).human(false);
    assert!(commas.contains("`scylla.nodes` is not text"), "{commas}");
}

/// The findings of `check` about a pipeline with these sections, as code and message.
fn said(properties: &str, rest: &str) -> Vec<(String, String)> {
    let text = format!(
        "[kafka]\nbrokers = \"a:1\"\n[kafka.properties]\n{properties}\n[registry]\nurl = \"http://a\"\n\
         [pipelines.p]\nsink = {{ topic = \"out\" }}\n{rest}"
    );
    let (config, sources) = load(&[&text], &[]).unwrap_or_else(|findings| panic!("{findings}"));
    let findings = Diagnostics::new(config::check(&config, &sources));
    findings
        .iter()
        .map(|finding| (finding.code.id.to_owned(), finding.message.clone()))
        .collect()
}

fn is_sound(properties: &str, rest: &str) {
    let said = said(properties, rest);
    assert!(said.is_empty(), "{said:?}");
}

const SOURCE: &str = "source = { topics = \"t\", group = \"g\" }\n";

#[test]
fn a_property_that_librdkafka_does_not_take_is_found() {
    let known = "security.protocol = \"ssl\"\n\"ssl.key.password\" = \"x\"\n\"fetch.min.bytes\" = { env = \"PATH\" }\nacks = \"all\"";
    is_sound(known, SOURCE);
    for (property, message) in [
        (
            "securty.protocol = \"ssl\"",
            "librdkafka knows no property `securty.protocol`",
        ),
        (
            "\"sasl.passwrod\" = { env = \"PATH\" }",
            "librdkafka knows no property `sasl.passwrod`",
        ),
        (
            "security.protocol = \"tls\"",
            "librdkafka does not take `security.protocol`",
        ),
        ("fetch.min.bytes = 0", "librdkafka does not take `fetch.min.bytes`"),
        (
            "security_protocol = \"ssl\"",
            "librdkafka knows no property `security_protocol`",
        ),
    ] {
        let said = said(property, SOURCE);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].0 == "MES0407" && said[0].1.starts_with(message), "{said:?}");
    }
}

#[test]
fn a_number_that_librdkafka_reads_as_another_is_found() {
    for right in [
        "\"session.timeout.ms\" = \" 45000 \"",
        "\"socket.timeout.ms\" = 60000.0",
        "\"linger.ms\" = 0.5",
        "\"linger.ms\" = 12345.67",
        "\"socket.send.buffer.bytes\" = \"0x100000\"",
        "\"client.id\" = \"5m\"",
        "\"client.id\" = \"007\"",
        "\"log.connection.close\" = \"1\"",
        "acks = \"all\"",
    ] {
        is_sound(right, SOURCE);
    }
    for (wrong, read) in [
        ("\"message.timeout.ms\" = \"5m\"", "5"),
        ("\"delivery.timeout.ms\" = \"5m\"", "5"),
        ("\"session.timeout.ms\" = 45.5", "45"),
        ("\"max.poll.interval.ms\" = \"5m\"", "5"),
        ("\"fetch.message.max.bytes\" = \"1MiB\"", "1"),
        ("\"linger.ms\" = \"5.5ms\"", "5.5"),
        ("\"linger.ms\" = \"5ms\"", "5"),
        ("\"socket.timeout.ms\" = \"0100\"", "64"),
        ("\"socket.timeout.ms\" = 4294997296", "30000"),
    ] {
        let said = said(wrong, SOURCE);
        assert!(said.len() == 1 && said[0].0 == "MES0407", "{wrong}: {said:?}");
        let told = format!("would be read as {read}, not as");
        assert!(said[0].1.contains(&told), "{said:?}");
    }
    // What librdkafka reads is what counts for the group.
    let drain = said("\"max.poll.interval.ms\" = 20000.0", SOURCE);
    assert!(drain.len() == 1 && drain[0].0 == "MES0406", "{drain:?}");
}

#[test]
fn what_stands_under_a_name_that_is_misspelt_may_be_a_secret() {
    let text = format!(
        "[kafka]\nbrokers = \"a:1\"\n[kafka.properties]\n\"sasl.pasword\" = \"hunter2\"\n[registry]\nurl = \"http://a\"\n\
         [pipelines.p]\nsink = {{ topic = \"out\" }}\n{SOURCE}"
    );
    let (config, sources) = load(&[&text], &[]).unwrap_or_else(|findings| panic!("{findings}"));
    let findings = Diagnostics::new(config::check(&config, &sources));
    let told = format!("{}{}", findings.human(false), findings.json().unwrap());
    assert!(told.contains("sasl.pasword") && !told.contains("hunter2"), "{told}");
}

#[test]
fn other_findings_of_its_line_do_not_show_it_either() {
    let kafka = |properties: &str| {
        format!(
            "[kafka]\nbrokers = \"a:1\"\nproperties = {{ sasl.pasword = \"hunter2\", {properties} }}\n[registry]\nurl = \"http://a\"\n\
             [pipelines.p]\nsink = {{ topic = \"out\" }}\n{SOURCE}"
        )
    };
    let hides = |findings: &Diagnostics, count: usize| {
        let told = format!("{}{}", findings.human(false), findings.json().unwrap());
        assert!(findings.iter().count() == count && !told.contains("hunter2"), "{told}");
        assert!(told.contains("***"), "{told}");
    };
    let text = kafka("group.id = \"g\", acks = \"0\"");
    let (config, sources) = load(&[&text], &[]).unwrap_or_else(|findings| panic!("{findings}"));
    hides(&Diagnostics::new(config::check(&config, &sources)), 3);
    hides(&refused(&[&kafka("linger.ms = [1]")], &[]), 1);
    for section in [
        "scylla = { nodes = 5, pasword = \"hunter2\" }",
        "scylla = { nodes = 5, pw = 'hunter2' }",
        "scyla = { nodes = \"s\", pw = [\"hunter2\"] }\nscylla = 5",
        "log = { level = 5, sentry = { pw = { a = \"\"\"hunter2\"\"\" } } }",
    ] {
        let text = format!("{section}\n[kafka]\nbrokers = \"a:1\"\n[registry]\nurl = \"http://a\"\n");
        hides(&refused(&[&text], &[]), 2);
    }
    hides(&refused(&[BASE], &[("MESSINA__SCYLLA__PW", "hunter2")]), 1);
    let known = refused(&[BASE], &[("MESSINA__SCYLLA__NODE", "s:9042")]);
    assert!(known.human(false).contains("NODE=s:9042"), "{known}");
}

#[test]
fn times_that_librdkafka_makes_no_consumer_of_are_found() {
    let consumer = "source = { topics = \"t\", group = \"g\", group_protocol = \"consumer\" }\n";
    is_sound("\"max.poll.interval.ms\" = 60000", consumer);
    let session = said(
        "\"session.timeout.ms\" = 60000\n\"heartbeat.interval.ms\" = 1000",
        consumer,
    );
    let codes: Vec<&str> = session.iter().map(|(code, _)| code.as_str()).collect();
    assert_eq!(codes, ["MES0407", "MES0407"], "{session:?}");
    let poll = said("\"max.poll.interval.ms\" = 44000", SOURCE);
    assert!(poll.len() == 1 && poll[0].0 == "MES0407", "{poll:?}");
}

#[test]
fn properties_of_which_librdkafka_makes_no_client_are_found() {
    for (properties, told) in [
        ("retries = 0", "`retries` must be"),
        ("\"queuing.strategy\" = \"lifo\"", "`queuing.strategy` must be"),
        (
            "\"fetch.max.bytes\" = 1000000\n\"receive.message.max.bytes\" = 1000000",
            "`receive.message.max.bytes` must be",
        ),
        (
            "\"linger.ms\" = 5\n\"message.timeout.ms\" = 5",
            "`message.timeout.ms` must be",
        ),
        (
            "\"reconnect.backoff.max.ms\" = 10",
            "`reconnect.backoff.max.ms` must be",
        ),
    ] {
        let said = said(properties, SOURCE);
        assert!(said.len() == 1 && said[0].0 == "MES0407", "{properties}: {said:?}");
        assert!(said[0].1.contains(told), "{said:?}");
    }
    // Things that only the target machine has are not checked.
    let elsewhere = "\"security.protocol\" = \"ssl\"\n\"ssl.ca.location\" = \"/is/not/there\"\n\
                     \"plugin.library.paths\" = \"is-not-there\"\nretries = 1";
    is_sound(elsewhere, SOURCE);
}

#[test]
fn what_a_consumer_reads_is_said_by_the_property_that_it_has() {
    let once = |own: &str| {
        let properties = format!("properties = {{ \"isolation.level\" = \"{own}\" }}");
        format!("delivery = \"exactly_once\"\nsource = {{ topics = \"t\", group = \"g\", {properties} }}\n")
    };
    let (committed, uncommitted) = ("read_committed", "read_uncommitted");
    let shared = |level: &str| format!("\"isolation.level\" = \"{level}\"");
    is_sound(&shared(uncommitted), &once(committed));
    let said = said(&shared(committed), &once(uncommitted));
    assert!(said.len() == 1 && said[0].0 == "MES0401", "{said:?}");
}

#[test]
fn a_topic_that_a_variable_names_twice_is_found() {
    let variable = [("MESSINA__PIPELINES__USER_EVENTS__SOURCE__TOPICS", "clicks,views,clicks")];
    let base = BASE.replace("password = { file = \"/run/secrets/scylla\" }\n", "");
    let (config, sources) = load(&[&base], &variable).unwrap_or_else(|findings| panic!("{findings}"));
    let found = Diagnostics::new(config::check(&config, &sources)).human(false);
    assert!(
        found.contains("consumes `clicks` twice") && found.contains("1 error"),
        "{found}"
    );
}

#[test]
fn pipelines_that_feed_one_another_in_a_circle_are_a_warning() {
    let told = |pipelines: &[(&str, &str, &str)]| {
        let mut text = "[kafka]\nbrokers = \"a:1\"\n[registry]\nurl = \"http://a\"\n".to_owned();
        for (name, from, to) in pipelines {
            text.push_str(&format!(
                "[pipelines.{name}]\nsource = {{ topics = \"{from}\", group = \"{name}\" }}\nsink = {{ topic = \"{to}\" }}\n"
            ));
        }
        let (config, sources) = load(&[&text], &[]).unwrap_or_else(|findings| panic!("{findings}"));
        let findings = Diagnostics::new(config::check(&config, &sources));
        assert!(!findings.has_errors(), "{findings}");
        let all = findings
            .iter()
            .map(|finding| (finding.code.id, finding.message.clone()));
        all.collect::<Vec<_>>()
    };
    let chain = [("a", "one", "two"), ("b", "two", "three"), ("c", "three", "four")];
    assert!(told(&chain).is_empty());
    let two = told(&[
        ("back", "two", "one"),
        ("orders", "one", "two"),
        ("other", "two", "six"),
    ]);
    let wanted = "`back` feeds `orders`, which feeds `back`".to_owned();
    assert_eq!(two, [("MES0207", wanted)]);
    let three = told(&[chain[0], chain[1], ("c", "three", "one"), ("d", "three", "four")]);
    let wanted = "`a` feeds `b`, which feeds `c`, which feeds `a`".to_owned();
    assert_eq!(three, [("MES0207", wanted)]);
}

#[test]
fn a_name_that_no_topic_has_is_found() {
    for topic in ["^navigation.*", "a b", "a:b", ".."] {
        let said = said("", &format!("source = {{ topics = [\"{topic}\"], group = \"g\" }}\n"));
        assert!(said.len() == 1 && said[0].0 == "MES0203", "{topic}: {said:?}");
    }
    let list = "source = { topics = \"a.b, c_d-1\", group = \"g\" }\n";
    is_sound("", list);
}

#[test]
fn members_of_one_group_have_instances_of_their_own() {
    let two = |group: &str, consumers: usize| {
        format!(
            "source = {{ topics = \"t\", group = \"g\", instance_id = \"i\" }}\n\
             [pipelines.q]\nsink = {{ topic = \"other\" }}\nconsumers = {consumers}\n\
             source = {{ topics = \"u\", group = \"{group}\", instance_id = \"i\" }}\n"
        )
    };
    let said_of_one = said("", &two("g", 1));
    assert!(
        said_of_one.len() == 1 && said_of_one[0].0 == "MES0108",
        "{said_of_one:?}"
    );
    is_sound("", &two("h", 1));
    // With several consumers, a number is appended to each id.
    is_sound("", &two("g", 2));
    let numbered = |id: &str| two("g", 2).replacen("\"i\"", &format!("\"{id}\""), 1);
    is_sound("", &numbered("i-2"));
    let said_of_a_number = said("", &numbered("i-1"));
    assert!(
        said_of_a_number.len() == 1 && said_of_a_number[0].0 == "MES0108",
        "{said_of_a_number:?}"
    );
}

#[test]
fn an_instance_by_a_name_that_brokers_do_not_take_is_found() {
    let source =
        |id: &str, more: &str| format!("source = {{ topics = \"t\", group = \"g\", instance_id = \"{id}\"{more} }}\n");
    for id in ["pod 0", "pod/0", &"p".repeat(241)] {
        let told = said("", &source(id, ""));
        assert!(told.len() == 1 && told[0].0 == "MES0203", "{id}: {told:?}");
        // With this protocol nothing is appended, and brokers accept any id.
        is_sound("", &source(id, ", group_protocol = \"consumer\""));
    }
    is_sound("", &source(&"p".repeat(240), ""));
    // The last id is the longest.
    let numbered = |length: usize| source(&"p".repeat(length), "") + "consumers = 11\n";
    is_sound("", &numbered(237));
    let told = said("", &numbered(238));
    assert!(told.len() == 1 && told[0].0 == "MES0203", "{told:?}");
}

#[test]
fn a_secret_that_cannot_be_what_it_should_is_found_and_not_shown() {
    for (section, right) in [
        ("mongo]\nuri", "mongodb://hunter2@m"),
        ("sentry]\ndsn", "https://hunter2@sentry.example/1"),
    ] {
        let section = |value: &str| format!("{SOURCE}[{section} = \"{value}\"\n");
        is_sound("", &section(right));
        let wrong = said("", &section("hunter2"));
        assert!(wrong.len() == 1 && wrong[0].0 == "MES0403", "{wrong:?}");
        assert!(!wrong[0].1.contains("hunter2"));
    }
}

#[test]
fn a_budget_of_which_nearly_nothing_is_left_for_a_pipeline_is_a_warning() {
    let told = |cache: &str, memory: &str| {
        let text = format!(
            "store = \"sqlite::memory:\"\n[kafka]\nbrokers = \"a:1\"\n[registry]\nurl = \"http://a\"\n[limits]\nmemory = \"{memory}\"\n\
             [pipelines.p]\n{SOURCE}sink = {{ topic = \"out\" }}\n[[pipelines.p.steps]]\nname = \"who\"\n\
             lookup = \"SELECT a FROM b WHERE c = :c\"\ncache = {{ ttl = \"1s\", max_bytes = \"{cache}\" }}\n"
        );
        let (config, sources) = load(&[&text], &[]).unwrap_or_else(|findings| panic!("{findings}"));
        let findings = Diagnostics::new(config::check(&config, &sources));
        let told = findings.iter().filter(|finding| finding.code.id == "MES0404");
        told.map(|finding| (finding.severity == Severity::Warning, finding.message.clone()))
            .collect::<Vec<_>>()
    };
    assert!(told("63MiB", "64MiB").is_empty(), "1 MiB is left");
    let said = told("65000KiB", "64MiB");
    assert!(said.len() == 1 && said[0].0, "{said:?}");
    assert!(
        said[0].1.contains("of 64MiB leaves less than 1MiB for each pipeline"),
        "{said:?}"
    );
    let said = told("64MiB", "64MiB");
    assert!(said.len() == 1 && !said[0].0, "told once: {said:?}");
}

#[test]
fn an_output_schema_that_is_not_avro_is_found_without_services() {
    let told = |schema: &str| {
        let text = format!(
            "[kafka]\nbrokers = \"a:1\"\n[registry]\nurl = \"http://a\"\n\
             [pipelines.p]\nsink = {{ topic = \"out\", schema = {schema} }}\n{SOURCE}"
        );
        let (config, sources) = load(&[&text], &[]).unwrap_or_else(|findings| panic!("{findings}"));
        let findings = Diagnostics::new(config::check(&config, &sources));
        findings.iter().map(|finding| finding.code.id).collect::<Vec<_>>()
    };
    let none: [&str; 0] = [];
    let right = "'{\"type\": \"record\", \"name\": \"O\", \"fields\": [{\"name\": \"id\", \"type\": \"long\"}]}'";
    assert_eq!(told(right), none);
    assert_eq!(told("{ file = \"config/schemas/navigation.avsc\" }"), none);
    for (wrong, code) in [
        ("'{\"type\": \"record\",}'", "MES0502"),
        ("'{\"type\": \"rekord\", \"name\": \"O\"}'", "MES0502"),
        ("{ file = \"Cargo.toml\" }", "MES0502"),
        ("{ file = \"tests\" }", "MES0402"),
    ] {
        assert_eq!(told(wrong), [code], "{wrong}");
    }
}

#[test]
fn a_ratio_that_dead_letters_are_never_above_is_found() {
    let dead_letter = |ratio: &str| {
        format!("[pipelines.user-events.dead_letter]\ntopic = \"d\"\nstop_above = {{ ratio = {ratio} }}\n")
    };
    for ratio in ["1", "1.0", "100"] {
        let found = refused(&[BASE, &dead_letter(ratio)], &[]).human(false);
        assert!(found.contains("ratio` is not a number from 0 and below 1"), "{found}");
        assert!(found.contains("one per cent is 0.01"), "{found}");
    }
    for ratio in ["0", "0.999"] {
        loaded(&[BASE, &dead_letter(ratio)], &[]);
    }
}

#[test]
fn what_has_no_effect_and_what_is_empty_is_found() {
    let scylla = |keys: &str| format!("{SOURCE}[scylla]\nnodes = \"n\"\n{keys}\n");
    is_sound("", &scylla("datacenter = \"d\"\nrack = \"r\"\nfailover = true"));
    for keys in ["rack = \"r\"", "failover = true"] {
        let said = said("", &scylla(keys));
        assert!(said.len() == 1 && said[0].0 == "MES0108", "{said:?}");
    }
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("empty-secret");
    std::fs::write(&path, "\n").expect("writable");
    let empty = said(
        &format!("\"ssl.key.password\" = {{ file = '{}' }}", path.display()),
        SOURCE,
    );
    assert_eq!(empty, [("MES0403".to_owned(), "a secret is empty".to_owned())]);
    std::fs::write(&path, "two\nlines\n").expect("writable");
    let headers = format!(
        "{SOURCE}[tracing]\notlp = \"http://o\"\nheaders = {{ x-a = {{ file = '{}' }} }}\n",
        path.display()
    );
    let lines = said("", &headers);
    assert!(lines.len() == 1 && lines[0].0 == "MES0403", "{lines:?}");
}

#[test]
fn keys_that_do_not_go_together_are_found() {
    let load_refuses = |rest: &str, message: &str| {
        let found = refused(&[BASE, rest], &[]).human(false);
        assert!(found.contains("MES010") && found.contains(message), "{found}");
    };
    load_refuses(
        "[pipelines.user-events.source]\ngroup_protocol = \"consumer\"\nassignor = \"range\"\n",
        "`assignor` is for",
    );
    load_refuses(
        "[pipelines.user-events.dead_letter]\ntopic = \"d\"\nstop_above = {}\n",
        "`pipelines.user-events.dead_letter.stop_above` is not a limit",
    );
    let one = |found: Vec<(String, String)>| assert!(found.len() == 1 && found[0].0 == "MES0108", "{found:?}");
    let assignors = |other: &str| {
        format!(
            "{SOURCE}[pipelines.q]\nsink = {{ topic = \"other\" }}\n\
             source = {{ topics = \"u\", group = \"g\", assignor = \"{other}\" }}\n"
        )
    };
    one(said("", &assignors("range")));
    is_sound("", &assignors("cooperative-sticky"));
    let once = format!("delivery = \"exactly_once\"\ntransaction_interval = \"45s\"\n{SOURCE}");
    one(said("", &once));
    is_sound("\"transaction.timeout.ms\" = 61000", &once);
    let delete = |key: &str| {
        format!(
            "{SOURCE}[[pipelines.p.steps]]\nname = \"w\"\nwrite = \"DELETE FROM t WHERE a = :a\"\n{key}\n\
             [scylla]\nnodes = \"n\"\n"
        )
    };
    one(said("", &delete("ttl = \"1d\"")));
    one(said("", &delete("ttl_seconds = \"event.ttl\"")));
    is_sound("", &delete(""));
    let tls = |url: &str| {
        let text = BASE.replace(
            "url = \"http://registry:8081\"",
            &format!("url = \"{url}\"\ntls = {{}}"),
        );
        let (config, sources) = load(&[&text], &[]).unwrap_or_else(|findings| panic!("{findings}"));
        let findings = Diagnostics::new(config::check(&config, &sources));
        findings
            .iter()
            .any(|finding| finding.message.contains("changes nothing"))
    };
    assert!(tls("http://registry:8081") && !tls("https://registry:8081"));
}

/// A pipeline with these steps and with transactions, which are aborted after 45 s unless configured otherwise.
fn with_transactions(steps: &str) -> String {
    format!("delivery = \"exactly_once\"\n{SOURCE}{steps}[scylla]\nnodes = \"n\"\n")
}

fn step(name: &str, keys: &str) -> String {
    format!("[[pipelines.p.steps]]\nname = \"{name}\"\n{keys}\n")
}

fn look_up(name: &str, keys: &str) -> String {
    step(name, &format!("lookup = \"SELECT a FROM t WHERE k = :k\"\n{keys}"))
}

#[test]
fn a_row_that_ends_late_is_warned_of() {
    let lives = |days: u32| {
        let write = format!("write = \"INSERT INTO t (k) VALUES (:k)\"\nttl = \"{days}d\"");
        format!("{SOURCE}{}[scylla]\nnodes = \"n\"\n", step("w", &write))
    };
    let found = said("", &lives(7300));
    assert!(found.len() == 1 && found[0].0 == "MES0307", "{found:?}");
    is_sound("", &lives(30));
}

#[test]
fn a_step_that_gives_up_later_than_its_transaction_is_found() {
    let of = |step: String| with_transactions(&step);
    let missing = |time: &str| {
        let keys = format!("on_missing = \"retry\"\nmissing_deadline = \"{time}\"");
        of(look_up("a", &keys))
    };
    let failing = |time: &str| {
        let keys = format!("on_error = \"null\"\nretry = {{ max_elapsed = \"{time}\" }}");
        of(look_up("a", &keys))
    };
    let writes = |time: &str| {
        let write = "write = \"INSERT INTO t (k) VALUES (:k)\"\non_error = \"skip\"";
        of(step("a", &format!("{write}\nretry = {{ max_elapsed = \"{time}\" }}")))
    };
    let custom = |time: &str| of(step("a", &format!("custom = \"c\"\ntimeout = \"{time}\"")));
    // The attempts may be used up before the time is.
    let counted = |time: &str| failing(time).replace("max_elapsed", "max_attempts = 3, max_elapsed");
    let (will, may) = ("`a` would never give a record up", "`a` may never give a record up");
    let surely: [&dyn Fn(&str) -> String; 3] = [&missing, &failing, &writes];
    let perhaps: [&dyn Fn(&str) -> String; 2] = [&custom, &counted];
    let steps = surely.map(|step| (step, will)).into_iter();
    for (gives_up_after, says) in steps.chain(perhaps.map(|step| (step, may))) {
        let said = said("", &gives_up_after("45s"));
        assert!(said.len() == 1 && said[0].0 == "MES0108", "{said:?}");
        assert!(said[0].1.contains(says), "{said:?}");
        is_sound("", &gives_up_after("44s"));
        is_sound("\"transaction.timeout.ms\" = 61000", &gives_up_after("45s"));
    }
    is_sound("", &missing("45s").replace("exactly_once", "at_least_once"));
    // What steps do by default.
    let bounded = look_up("a", "on_error = \"null\"") + &look_up("b", "on_error = \"skip\"");
    is_sound("", &of(bounded + &step("c", "custom = \"c\"")));
}

#[test]
fn steps_that_give_up_later_than_their_transaction_together_are_a_warning() {
    let gives_up = |name: &str, on_error: &str, bind: &str| {
        let keys = format!("on_error = \"{on_error}\"\nretry = {{ max_elapsed = \"30s\" }}\n{bind}");
        look_up(name, &keys)
    };
    let of_the_first = "bind = { k = \"a.a\" }";
    for last in ["null", "skip"] {
        let two = gives_up("a", "null", "") + &gives_up("b", last, of_the_first);
        let said = said("", &with_transactions(&two));
        assert!(said.len() == 1 && said[0].0 == "MES0108", "{said:?}");
        assert!(said[0].1.contains("several steps of `p` give up"), "{said:?}");
    }
    let at_the_same_time = gives_up("a", "null", "") + &gives_up("b", "null", "");
    is_sound("", &with_transactions(&at_the_same_time));
    let own = step(
        "c",
        "custom = \"c\"\non_error = \"null\"\nretry = { max_elapsed = \"30s\" }",
    );
    let look_up = gives_up("a", "null", "");
    for one_after_the_other in [look_up.clone() + &own, own + &look_up] {
        let said = said("", &with_transactions(&one_after_the_other));
        assert!(said.len() == 1 && said[0].0 == "MES0108", "{said:?}");
    }
    let over_after_one = gives_up("a", "skip", "") + &gives_up("b", "null", of_the_first);
    is_sound("", &with_transactions(&over_after_one));
}

#[test]
fn a_row_that_is_waited_for_without_end_in_a_transaction_is_a_warning() {
    let waits = with_transactions(&look_up("a", "on_missing = \"retry\""));
    let said = said("", &waits);
    assert!(said.len() == 1 && said[0].0 == "MES0108", "{said:?}");
    assert!(said[0].1.contains("without a row at `a`"), "{said:?}");
    is_sound("", &waits.replace("exactly_once", "at_least_once"));
}

#[test]
fn what_a_property_must_be_holds_for_a_reference_too() {
    let path = std::env::temp_dir().join(format!("messina-bound-{}", std::process::id()));
    let exactly = format!("delivery = \"exactly_once\"\n{SOURCE}");
    for (name, wrong, right) in [
        ("acks", "1", "all"),
        ("request.required.acks", "0", "-1"),
        ("enable.idempotence", "false", "true"),
        ("check.crcs", "true", "false"),
        ("isolation.level", "read_uncommitted", "read_committed"),
    ] {
        let property = format!("\"{name}\" = {{ file = '{}' }}", path.display());
        std::fs::write(&path, format!("{wrong}\n")).expect("writable");
        let said_of_wrong = said(&property, &exactly);
        assert_eq!(said_of_wrong.len(), 1, "{said_of_wrong:?}");
        let (code, message) = &said_of_wrong[0];
        assert!(code == "MES0401" && message.contains(name), "{said_of_wrong:?}");
        std::fs::write(&path, right).expect("writable");
        is_sound(&property, &exactly);
    }
    std::fs::remove_file(&path).expect("removable");
}

#[test]
fn a_secret_file_is_read_again_each_time() {
    let path = std::env::temp_dir().join(format!("messina-secret-{}", std::process::id()));
    std::fs::write(&path, "first\r\n").expect("writable");
    let text = format!("{BASE}\n[sentry]\ndsn = {{ file = '{}' }}\n", path.display());
    let config = loaded(&[&text], &[]);
    let dsn = config.sentry.expect("it is there").dsn;
    assert_eq!(dsn.reveal().expect("readable"), "first");
    std::fs::write(&path, "second").expect("writable");
    assert_eq!(dsn.reveal().expect("readable"), "second");
    std::fs::remove_file(&path).expect("removable");
    assert!(dsn.reveal().is_err());
    assert_eq!(format!("{dsn} {dsn:?}"), "*** ***");
}

#[test]
fn a_place_inside_an_expression_is_found() {
    let text = format!("{BASE}key = 'event.user.id'\n");
    let (config, sources) = load(&[&text], &[]).expect("it loads");
    let key = config.pipelines["user-events"]
        .sink
        .as_ref()
        .and_then(|sink| sink.key.clone())
        .expect("a key");
    let place = sources.place(sources.part(&key, 6..10), "here".into());
    assert_eq!((place.column, place.underline_length), (14, 4));
    assert_eq!(place.text, "key = 'event.user.id'");
}

#[test]
fn warnings_alone_are_not_errors() {
    let text = "[kafka]\nbrokers='a:1'\n[registry]\nurl='http://a'\n[pipelines.p.source]\ntopics='t'\ngroup='g'\n";
    let (config, sources) = load(&[text], &[]).expect("it loads");
    let findings = Diagnostics::new(config::check(&config, &sources));
    assert_eq!(
        findings.iter().map(|d| d.severity).collect::<Vec<_>>(),
        [Severity::Warning]
    );
    assert!(!findings.has_errors());
}

/// Pieces of TOML and Messina's own keys, so that random text is almost a configuration.
fn piece() -> impl Strategy<Value = String> {
    let words = [
        "[kafka]",
        "[registry]",
        "[scylla]",
        "[pipelines.a.source]",
        "[[pipelines.a.steps]]",
        "[pipelines.a.sink]",
        "brokers",
        "url",
        "topics",
        "group",
        "name",
        "lookup",
        "write",
        "set",
        "bind",
        "cache",
        "ttl",
        "password",
        "properties",
        "=",
        "=",
        "=",
        "{",
        "}",
        "[",
        "]",
        ",",
        ".",
        "\"",
        "'",
        "\"\"\"",
        "'''",
        "\"30s\"",
        "\"event.a\"",
        "1",
        "-1",
        "1.5",
        "true",
        "1979-05-27",
        "env",
        "file",
        "\n",
        "\n",
        "\n",
        "\r\n",
        "#",
        "\\",
        "é",
        "\u{0}",
        "\"SELECT a FROM t WHERE b = :b\"",
    ];
    prop_oneof![9 => proptest::sample::select(words.to_vec()).prop_map(str::to_owned), 1 => "\\PC{0,6}"]
}

proptest! {
    #[test]
    fn a_password_of_the_environment_is_what_it_says(password in "[0-9A-Za-z_+.:-]{1,24}") {
        let variables = [
            ("MESSINA__KAFKA__PROPERTIES__SASL__PASSWORD", password.as_str()),
            ("MESSINA__SCYLLA__PASSWORD", password.as_str()),
        ];
        let config = loaded(&[BASE], &variables);
        let last = config.kafka.properties.last().expect("one");
        prop_assert!(matches!(last.value, PropertyValue::Secret(_)));
        prop_assert_eq!(property(last).1, password.clone());
        let scylla = config.scylla.and_then(|scylla| scylla.password).expect("one");
        prop_assert_eq!(scylla.reveal().expect("written out"), password);
    }

    #[test]
    fn no_text_makes_the_loader_panic(pieces in prop::collection::vec(piece(), 0..60), value in "\\PC{0,20}") {
        let text = pieces.concat();
        let spaced = pieces.join(" ");
        for text in [&text, &spaced] {
            let env = [("MESSINA__SCYLLA__PASSWORD", value.as_str()), ("MESSINA__PIPELINES__A__STEPS", value.as_str())];
            match load(&[text], &env) {
                Ok((config, sources)) => { Diagnostics::new(config::check(&config, &sources)).human(true); }
                Err(findings) => { findings.human(true); }
            }
        }
    }

    #[test]
    fn no_mutation_of_a_config_makes_it_panic(at in 0..BASE.len(), length in 0usize..20, with in "\\PC{0,4}") {
        let end = (at + length).min(BASE.len());
        let text = format!("{}{with}{}", &BASE[..at], &BASE[end..]);
        match load(&[&text], &[]) {
            Ok((config, sources)) => { Diagnostics::new(config::check(&config, &sources)).human(false); }
            Err(findings) => { findings.human(false); }
        }
    }
}
