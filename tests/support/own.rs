//! A service of a test's own, which it may kill, on its own ports. Jars and certificates are those of the usual state folder.
//!
//! Invariant: what was started ends with its [`Own`], and so does its folder. The ports never change, so whatever a killed run left is stopped
//! before the next start; a failed test leaves its logs until then.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::PathBuf;
use std::process::{Command, Output};

/// A running service.
pub struct Own {
    state: PathBuf,
    service: &'static str,
    options: Vec<(&'static str, String)>,
}

impl Own {
    /// Starts `service` with these options (variables of `tests/services`, ports included) and waits until it answers.
    pub fn start(service: &'static str, name: &str, options: &[(&'static str, &str)]) -> Own {
        let options = options
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()))
            .collect();
        let own = Own {
            state: PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("own-{name}")),
            service,
            options,
        };
        if own.state.exists() {
            own.run("down", service);
            std::fs::remove_dir_all(&own.state).unwrap();
        }
        std::fs::create_dir_all(&own.state).unwrap();
        let usual = std::env::var_os("MESSINA_SERVICES_STATE")
            .map(PathBuf::from)
            .unwrap_or_else(|| {
                let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
                let cache = cache.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache"));
                cache.join("messina-services")
            });
        for shared in ["lib", "tls"] {
            if usual.join(shared).is_dir() {
                std::os::unix::fs::symlink(usual.join(shared), own.state.join(shared)).unwrap();
            }
        }
        own.run("up", service);
        own
    }

    /// Runs a verb (`kill9`, `restart`, `freeze`, `thaw` …) on the service or one of its nodes.
    pub fn run(&self, verb: &str, name: &str) {
        let output = self.call(verb, name);
        assert!(
            output.status.success(),
            "{verb} {name}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn call(&self, verb: &str, name: &str) -> Output {
        let mut command = Command::new("bash");
        command.args(["tests/services/services", verb, name]);
        command.env("MESSINA_SERVICES_STATE", &self.state);
        command.envs(self.options.iter().map(|(name, value)| (*name, value)));
        command.output().unwrap()
    }

    /// A file of the certificates: `ca.pem`, `client.crt`, `client.key`.
    #[allow(dead_code, reason = "not every test that shares this file asks for it")]
    pub fn certificate(&self, name: &str) -> PathBuf {
        self.state.join("tls").join(name)
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // A panic here would abort the following tests.
            self.call("down", self.service);
        } else {
            self.run("down", self.service);
            std::fs::remove_dir_all(&self.state).unwrap();
        }
    }
}
