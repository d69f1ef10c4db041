//! The schema registry seen from outside.

use serde_json::{Value, json};

use super::Bench;

/// The registry's base URL.
pub struct Registry {
    /// As in `[registry] url`.
    pub url: String,
    client: reqwest::Client,
}

impl Registry {
    /// Talks to the registry at `url`.
    pub fn new(url: &str) -> Registry {
        Registry {
            url: url.trim_end_matches('/').to_owned(),
            client: reqwest::Client::new(),
        }
    }

    /// Registers an Avro schema, and returns its id.
    pub fn register(&self, bench: &Bench, subject: &str, schema: &str) -> u32 {
        self.register_as(bench, subject, "AVRO", schema)
    }

    /// Lets a subject accept versions that are incompatible with earlier ones.
    pub fn allow_anything(&self, bench: &Bench, subject: &str) {
        let request = self
            .client
            .put(format!("{}/config/{subject}", self.url))
            .json(&json!({"compatibility": "NONE"}));
        bench.wait(async { request.send().await.unwrap().error_for_status().unwrap() });
    }

    /// Registers a schema of a type, `AVRO`, `JSON` or `PROTOBUF`, and returns its id.
    pub fn register_as(&self, bench: &Bench, subject: &str, kind: &str, schema: &str) -> u32 {
        let request = self
            .client
            .post(format!("{}/subjects/{subject}/versions", self.url))
            .json(&json!({"schema": schema, "schemaType": kind}));
        let answer: Value = bench.wait(async {
            request
                .send()
                .await
                .unwrap()
                .error_for_status()
                .unwrap()
                .json()
                .await
                .unwrap()
        });
        u32::try_from(answer["id"].as_u64().unwrap()).unwrap()
    }

    /// The schema with this id.
    pub fn schema(&self, bench: &Bench, id: u32) -> String {
        let answer = bench.wait(self.get(&format!("/schemas/ids/{id}"))).unwrap();
        answer["schema"].as_str().unwrap().to_owned()
    }

    /// The version numbers of the subject.
    pub fn versions(&self, bench: &Bench, subject: &str) -> Vec<u64> {
        let answer = bench.wait(self.get(&format!("/subjects/{subject}/versions")));
        answer
            .map(|versions| serde_json::from_value(versions).unwrap())
            .unwrap_or_default()
    }

    /// Whether the subject has any version.
    pub fn has(&self, bench: &Bench, subject: &str) -> bool {
        !self.versions(bench, subject).is_empty()
    }

    /// The answer to a GET; None if it is 404.
    async fn get(&self, path: &str) -> Option<Value> {
        let answer = self.client.get(format!("{}{path}", self.url)).send().await.unwrap();
        if answer.status() == reqwest::StatusCode::NOT_FOUND {
            return None;
        }
        Some(answer.error_for_status().unwrap().json().await.unwrap())
    }
}
