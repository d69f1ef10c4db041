//! The demo's Avro schemas, and their registration.

use reqwest::{Client, Url};
use serde_json::json;

/// `messina.demo.Geo`, to which other schemas refer.
pub const GEO: &str = include_str!("schemas/geo.avsc");
/// `messina.demo.Money`, to which other schemas refer.
pub const MONEY: &str = include_str!("schemas/money.avsc");
/// The schemas of values, by input topic.
pub const VALUES: [(&str, &str); 3] = [
    ("navigation", include_str!("schemas/navigation.avsc")),
    ("orders", include_str!("schemas/orders.avsc")),
    ("reactions", include_str!("schemas/reactions.avsc")),
];

const GEO_NAME: &str = "messina.demo.Geo";
const MONEY_NAME: &str = "messina.demo.Money";

/// Registers all schemas with the registry at `url`; returns the ids of [`VALUES`], in their order.
///
/// # Errors
/// In words: what the registry refused, or that it does not answer.
pub async fn register(url: &str) -> Result<[u32; 3], String> {
    let registry = Subjects::of(url)?;
    for (name, schema) in [(GEO_NAME, GEO), (MONEY_NAME, MONEY)] {
        registry.post(name, schema, &[]).await?;
    }
    let mut ids = [0; 3];
    for (id, (topic, schema)) in ids.iter_mut().zip(VALUES) {
        let used: Vec<&str> = [GEO_NAME, MONEY_NAME]
            .into_iter()
            .filter(|name| schema.contains(&format!("\"{name}\"")))
            .collect();
        *id = registry.post(&format!("{topic}-value"), schema, &used).await?;
    }
    Ok(ids)
}

/// A client that registers schemas.
pub struct Subjects {
    client: Client,
    url: String,
}

impl Subjects {
    /// For the registry at `url`.
    ///
    /// # Errors
    /// In words: what is wrong with the address, or with HTTP.
    pub fn of(url: &str) -> Result<Subjects, String> {
        let address = Url::parse(url).map_err(|e| format!("{url}: {e}"))?;
        let client = crate::proxy::client(&address).build().map_err(|e| e.to_string())?;
        Ok(Subjects {
            client,
            url: url.to_owned(),
        })
    }

    /// Registers one schema under a subject; returns its id. `references` are the names that it refers to, each of
    /// which is also a subject.
    ///
    /// # Errors
    /// In words, as [`register`].
    pub async fn post(&self, subject: &str, schema: &str, references: &[&str]) -> Result<u32, String> {
        let references: Vec<_> = references
            .iter()
            .map(|name| json!({"name": name, "subject": name, "version": 1}))
            .collect();
        let body = json!({"schema": schema, "references": references});
        let wrong = |what: String| format!("schema of {subject}: {what}");
        let request = self
            .client
            .post(format!("{}/subjects/{subject}/versions", self.url))
            .json(&body);
        let answer = request.send().await.map_err(|e| wrong(e.to_string()))?;
        let answer: serde_json::Value = answer.json().await.map_err(|e| wrong(e.to_string()))?;
        let id = answer["id"].as_u64().and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| wrong(answer.to_string()))
    }
}
