//! Passwords and certificates are rotated while Messina runs: it reads them again on SIGHUP, and when the old ones are
//! refused.

use std::path::Path;
use std::time::{Duration, Instant};

use super::secrets::tells_nothing;
use super::settings::{self, Tls};
use crate::faults::pipelines;
use crate::support::certificates::renewed;
use crate::support::judge::judge_good;
use crate::support::numbers::Numbers;
use crate::support::process::Messina;
use crate::support::proxy::Proxy;
use crate::support::{Bench, LONG, until};

const RECORDS: i64 = 500;
const PASSWORDS: [&str; 3] = ["f1rst-s3cret", "sec0nd-s3cret", "th1rd-s3cret"];

#[test]
fn rotated_password_of_the_brokers() {
    let Some((bench, mut settings)) = settings::find_alone("rotated_password_of_the_brokers") else {
        return;
    };
    // A user of this test's own, because others need the old password.
    settings.kafka_user = bench.name("rotating");
    PASSWORDS[0].clone_into(&mut settings.kafka_password);
    settings.kafka_tls.ca = bench.folder.join("authority.pem");
    std::fs::copy(bench.own().tls().join("ca.pem"), &settings.kafka_tls.ca).unwrap();
    let numbers = Numbers::new(&bench, 4, &pipelines("secure"));
    let configs = numbers.config(Duration::from_secs(30), &pipelines("secure"));
    give(&bench, &settings.kafka_user, PASSWORDS[0]);
    let secure = settings.file(&bench, "rotated");
    let configs: [&Path; 3] = [&configs[0], &configs[1], &secure];
    // Wrong at the start: the file is read again with each attempt.
    bench.file("rotated-kafka.secret", "wr0ng-s3cret\n");
    let messina = Messina::start_keeping_all("messina", &configs);
    until("the brokers to refuse a wrong password", LONG, &[&messina], || {
        let mut lines = messina.lines("not ready: the brokers do not answer").into_iter();
        lines.find(|line| line.contains("uthentication failed"))
    });
    bench.file("rotated-kafka.secret", &format!("{}\n", PASSWORDS[0]));
    messina.ready();
    let mut sent = numbers.load_from(0, 2000, RECORDS).wait();
    numbers.committed("secure", sent, &[&messina]);

    let read = || messina.lines("the login of the brokers has changed").len();
    for (number, password) in PASSWORDS.iter().enumerate().skip(1) {
        give(&bench, &settings.kafka_user, password);
        bench.file("rotated-kafka.secret", &format!("{password}\n"));
        if number == 1 {
            messina.hang_up();
            until("the password to be read again", LONG, &[&messina], || {
                (read() == 1).then_some(())
            });
        }
        // Connections outlive a changed password, so the broker is killed to break them.
        bench.own().kill(&["kafka-secure"]);
        bench.own().start(&["kafka-secure"]);
        sent = numbers.load_from(sent, 2000, sent + RECORDS).wait();
        numbers.committed("secure", sent, &[&messina]);
        assert!(read() >= number, "{number}: not read again");
    }

    let authority = std::fs::read_to_string(&settings.kafka_tls.ca).unwrap();
    std::fs::write(&settings.kafka_tls.ca, format!("# another\n{authority}")).unwrap();
    messina.hang_up();
    until("changed certificates to be named", LONG, &[&messina], || {
        messina
            .lines("the certificates for the brokers have changed")
            .pop()
            .filter(|line| line.contains("restart"))
    });
    messina.stop();
    for password in PASSWORDS {
        assert!(!messina.all().contains(password), "the log tells a password");
    }
    tells_nothing("the log", &messina.all());
    judge_good(&bench, &numbers, "secure", sent);
    drop(messina);
    bench.clean();
}

#[test]
fn rotated_password_and_certificate_of_the_database() {
    let Some((bench, mut settings)) = settings::find("rotated_password_and_certificate_of_the_database") else {
        return;
    };
    // A user of this test's own, behind a proxy that can break its connections.
    let proxy = Proxy::new("127.0.0.1:0", &settings.nodes, 1);
    settings.nodes = proxy.address.to_string();
    settings.database_user = bench.name("rotating").replace('-', "_").to_lowercase();
    PASSWORDS[0].clone_into(&mut settings.database_password);
    let tls = bench.own().tls();
    let certificate = || renewed(&tls, &bench.folder, "rotated");
    settings.database_tls = Tls {
        ca: tls.join("ca.pem"),
        client: Some(certificate()),
    };
    let database = bench.database();
    let alter = |verb: &str, password: &str| {
        let role = &settings.database_user;
        let statement =
            format!("{verb} ROLE {role} WITH PASSWORD = '{password}' AND LOGIN = true AND SUPERUSER = true");
        // Cassandra allows a password to be changed only every five seconds.
        until("the password to be changed", LONG, &[], || {
            database.try_run(&bench, &statement).ok()
        });
    };
    alter("CREATE", PASSWORDS[0]);
    let numbers = Numbers::new(&bench, 4, &pipelines("secure"));
    let configs = numbers.config(Duration::from_secs(30), &pipelines("secure"));
    let secure = settings.file(&bench, "rotated");
    let messina = Messina::start_keeping_all("messina", &[&configs[0], &configs[1], &secure]);
    messina.ready();
    let mut sent = numbers.load_from(0, 2000, RECORDS).wait();
    numbers.committed("secure", sent, &[&messina]);

    // SIGHUP while records arrive: a new session replaces the old one.
    let load = numbers.load_from(sent, 200, sent + RECORDS);
    alter("ALTER", PASSWORDS[1]);
    bench.file("rotated-database.secret", &format!("{}\n", PASSWORDS[1]));
    certificate();
    messina.hang_up();
    until("the credentials to be read again", LONG, &[&messina], || {
        messina.lines("a new session is in use").pop()
    });
    sent = load.wait();
    numbers.committed("secure", sent, &[&messina]);

    // The server's password changes first: Messina waits while the old one is refused.
    alter("ALTER", PASSWORDS[2]);
    let load = numbers.load_from(sent, 2000, sent + RECORDS);
    let mut broken: Option<Instant> = None;
    until("the old password to be refused", LONG, &[&messina], || {
        // The server caches a password for some seconds. A login takes time, too, and must not be interrupted.
        if broken.is_none_or(|at| at.elapsed() > Duration::from_secs(10)) {
            proxy.break_all();
            broken = Some(Instant::now());
        }
        messina.lines("are incorrect").pop()
    });
    bench.file("rotated-database.secret", &format!("{}\n", PASSWORDS[2]));
    sent = load.wait();
    numbers.committed("secure", sent, &[&messina]);

    std::fs::remove_file(bench.folder.join("rotated.key")).unwrap();
    messina.hang_up();
    until("a file that is gone to be named", LONG, &[&messina], || {
        messina
            .lines("SIGHUP: [scylla]: ")
            .pop()
            .filter(|line| line.contains("rotated.key"))
    });
    messina.stop();
    for password in PASSWORDS {
        assert!(!messina.all().contains(password), "the log tells a password");
    }
    tells_nothing("the log", &messina.all());
    judge_good(&bench, &numbers, "secure", sent);
    database.run(&bench, &format!("DROP ROLE {}", settings.database_user));
    drop(messina);
    bench.clean();
}

fn give(bench: &Bench, user: &str, password: &str) {
    let (ok, answer) = bench.tool("scram", &[format!("--user={user}"), format!("--password={password}")]);
    assert!(ok, "{answer}");
}
