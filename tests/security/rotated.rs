//! Passwords of the brokers that are rotated while Messina runs: read again at SIGHUP, and where the brokers refuse the old one.

use std::path::Path;
use std::time::Duration;

use super::secrets::{all, tells_nothing};
use super::settings;
use crate::faults::pipelines;
use crate::support::judge::judge_good;
use crate::support::numbers::Numbers;
use crate::support::process::Messina;
use crate::support::{Bench, LONG, until};

const RECORDS: i64 = 500;
const PASSWORDS: [&str; 3] = ["f1rst-s3cret", "sec0nd-s3cret", "th1rd-s3cret"];

#[test]
fn rotated_password_of_the_brokers() {
    let Some((bench, mut settings)) = settings::find("rotated_password_of_the_brokers") else {
        return;
    };
    // A user of this test's own: others need the old password.
    settings.kafka_user = bench.name("rotating");
    PASSWORDS[0].clone_into(&mut settings.kafka_password);
    settings.kafka_tls.ca = bench.folder.join("authority.pem");
    std::fs::copy(bench.own().tls().join("ca.pem"), &settings.kafka_tls.ca).unwrap();
    let numbers = Numbers::new(&bench, 4, &pipelines("secure"));
    let configs = numbers.config(Duration::from_secs(30), &pipelines("secure"));
    give(&bench, &settings.kafka_user, PASSWORDS[0]);
    let secure = settings.file(&bench, "rotated");
    let configs: [&Path; 3] = [&configs[0], &configs[1], &secure];
    let messina = Messina::start_keeping_all("messina", &configs);
    messina.ready();
    let mut sent = numbers.load_from(0, 2000, RECORDS).wait();
    all(&bench, &numbers, &messina, sent);

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
        // Connections outlive a password; the broker takes them with it.
        bench.own().kill(&["kafka-secure"]);
        bench.own().start(&["kafka-secure"]);
        sent = numbers.load_from(sent, 2000, sent + RECORDS).wait();
        all(&bench, &numbers, &messina, sent);
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

fn give(bench: &Bench, user: &str, password: &str) {
    let (ok, answer) = bench.tool("scram", &[format!("--user={user}"), format!("--password={password}")]);
    assert!(ok, "{answer}");
}
