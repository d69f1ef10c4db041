//! `messina check --online` finds what only live services can show, names the place, and changes nothing.

use crate::support::Bench;
use crate::support::certificates::stranger;
use crate::support::process::finish;
use crate::support::three::{Three, text};

/// A mistake: which text is replaced (its first occurrence), by what, and what the finding must say.
struct Mistake {
    what: &'static str,
    from: &'static str,
    to: &'static str,
    says: &'static [&'static str],
}

const MISTAKES: [Mistake; 6] = [
    Mistake {
        what: "unknown field",
        from: "\"event.user.id\" }",
        to: "\"event.user.idd\" }",
        says: &["idd"],
    },
    Mistake {
        what: "wrong type of a bind",
        from: "event_time = \"event.ts\"",
        to: "event_time = \"event.event_type\"",
        says: &[":event_time", "enum", "timestamp"],
    },
    Mistake {
        what: "unknown table",
        from: "FROM profiles",
        to: "FROM profilez",
        says: &["profilez"],
    },
    Mistake {
        what: "unknown column",
        from: "SELECT segment, score",
        to: "SELECT segmentt, score",
        says: &["segmentt"],
    },
    Mistake {
        what: "unknown result column",
        from: "\"profile.score\"",
        to: "\"profile.scores\"",
        says: &["'profile'", "'scores'"],
    },
    Mistake {
        what: "missing topic",
        from: "navigation-enriched\"",
        to: "navigation-enrichedd\"",
        says: &["navigation-enrichedd"],
    },
];

#[test]
fn check_online() {
    let Some(bench) = Bench::find("check_online") else {
        return;
    };
    let three = Three::new(&bench, 0, 0, 1);
    three.load(&bench.keyspace);
    three.produce(&["--only-topics"]);
    let [_, local] = three.configs();

    let sound = finish(&["check", "--online"], &three.configs());
    assert_eq!(sound.code, Some(0), "a sound configuration: {}", sound.stderr);
    assert!(
        !bench.registry.has(&bench, &bench.name("navigation-enriched-value")),
        "a check registers nothing"
    );

    // A start would fail here: the output schema must be registered and is not. The finding shows its text, for whoever
    // registers it.
    let subject = bench.name("navigation-enriched-value");
    let must_exist = bench.file("must-exist.toml", "[registry]\nregister = false\n");
    let [three_toml, local_toml] = three.configs();
    let found = finish(&["check", "--online"], &[three_toml, local_toml, &must_exist]);
    assert_eq!(found.code, Some(78), "no output schema is registered: {}", found.stderr);
    for says in [
        format!("not registered under {subject}").as_str(),
        "\"name\":\"segment\"",
    ] {
        assert!(found.stderr.contains(says), "does not say {says:?}: {}", found.stderr);
    }

    // A configured certificate is checked whether or not it is used, so that its expiry is known before it breaks everything.
    let authority = stranger(&bench.folder);
    let text_of = format!(
        "[kafka]\nproperties = {{ \"ssl.ca.location\" = \"{}\" }}\n",
        authority.display()
    );
    let certificates = bench.file("certificates.toml", &text_of);
    let warned = finish(&["check", "--online"], &[three_toml, local_toml, &certificates]);
    assert_eq!(warned.code, Some(0), "a warning: {}", warned.stderr);
    for says in ["warning", "the authority expires in", "certificates.toml:2:"] {
        assert!(warned.stderr.contains(says), "does not say {says:?}: {}", warned.stderr);
    }

    for (number, Mistake { what, from, to, says }) in MISTAKES.iter().enumerate() {
        let good = text(&bench);
        let line = good[..good.find(from).unwrap()].lines().count();
        let name = format!("mistyped-{number}.toml");
        let config = bench.file(&name, &good.replacen(from, to, 1));
        let found = finish(&["check", "--online"], &[&config, local]);
        println!("{what}:\n{}", found.stderr);
        assert_eq!(found.code, Some(78), "{what}: {}", found.stderr);
        for text in says
            .iter()
            .map(|&text| text.to_owned())
            .chain([format!("{name}:{line}:")])
        {
            assert!(
                found.stderr.contains(&text),
                "{what}: does not say {text:?}: {}",
                found.stderr
            );
        }
    }

    // An output schema that the registry refuses because it is incompatible with the version that is there.
    let other = r#"{"type":"record","name":"Other","fields":[{"name":"x","type":"int"}]}"#;
    bench.registry.register(&bench, &subject, other);
    let found = finish(&["check", "--online"], &three.configs());
    assert_eq!(found.code, Some(78), "an incompatible output schema: {}", found.stderr);
    let says = format!("does not take the schema for {subject}");
    assert!(found.stderr.contains(&says), "does not say {says:?}: {}", found.stderr);
    assert_eq!(
        bench.registry.versions(&bench, &subject),
        [1],
        "a check registers nothing"
    );
    bench.clean();
}
