//! `messina check --online` finds what only live services can tell, says where it is, and changes nothing.

use crate::support::Bench;
use crate::support::certificates::stranger;
use crate::support::process::finish;
use crate::support::three::{Three, text};

/// A mistake: what is replaced (at its first place), by what, and what the finding must say.
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

    // A certificate that is named is judged whether or not it is used, before the day on which it ends everything.
    let authority = stranger(&bench.folder);
    let text_of = format!(
        "[kafka]\nproperties = {{ \"ssl.ca.location\" = \"{}\" }}\n",
        authority.display()
    );
    let certificates = bench.file("certificates.toml", &text_of);
    let [three_toml, local_toml] = three.configs();
    let warned = finish(&["check", "--online"], &[three_toml, local_toml, &certificates]);
    assert_eq!(warned.code, Some(0), "a warning: {}", warned.stderr);
    for says in ["warning", "the authority runs out in", "certificates.toml:2:"] {
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
    bench.clean();
}
