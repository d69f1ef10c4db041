//! The demo's Avro schemas, and how they get into the registry.

use serde_json::json;

/// `messina.demo.Geo`, which others refer to.
pub const GEO: &str = include_str!("schemas/geo.avsc");
/// `messina.demo.Money`, which others refer to.
pub const MONEY: &str = include_str!("schemas/money.avsc");
/// The schemas of values, by input topic.
pub const VALUES: [(&str, &str); 3] = [
    ("navigation", include_str!("schemas/navigation.avsc")),
    ("orders", include_str!("schemas/orders.avsc")),
    ("reactions", include_str!("schemas/reactions.avsc")),
];

const GEO_NAME: &str = "messina.demo.Geo";
const MONEY_NAME: &str = "messina.demo.Money";

/// Registers all schemas with the registry at `url`; the ids of [`VALUES`], in their order.
///
/// # Errors
/// In words: what the registry refused, or that it does not answer.
pub async fn register(url: &str) -> Result<[u32; 3], String> {
    for (name, schema) in [(GEO_NAME, GEO), (MONEY_NAME, MONEY)] {
        post(url, name, schema, &[]).await?;
    }
    let mut ids = [0; 3];
    for (id, (topic, schema)) in ids.iter_mut().zip(VALUES) {
        let used: Vec<&str> = [GEO_NAME, MONEY_NAME]
            .into_iter()
            .filter(|name| schema.contains(&format!("\"{name}\"")))
            .collect();
        *id = post(url, &format!("{topic}-value"), schema, &used).await?;
    }
    Ok(ids)
}

/// Registers one schema under a subject; its id. `references` are names that it refers to, each a subject of its own.
///
/// # Errors
/// In words, as [`register`].
pub async fn post(url: &str, subject: &str, schema: &str, references: &[&str]) -> Result<u32, String> {
    let references: Vec<_> = references
        .iter()
        .map(|name| json!({"name": name, "subject": name, "version": 1}))
        .collect();
    let body = json!({"schema": schema, "references": references});
    let wrong = |what: String| format!("schema of {subject}: {what}");
    let address = format!("{url}/subjects/{subject}/versions");
    let address = reqwest::Url::parse(&address).map_err(|e| wrong(e.to_string()))?;
    let client = crate::proxy::client([&address])
        .build()
        .map_err(|e| wrong(e.to_string()))?;
    let request = client.post(address).json(&body);
    let answer = request.send().await.map_err(|e| wrong(e.to_string()))?;
    let answer: serde_json::Value = answer.json().await.map_err(|e| wrong(e.to_string()))?;
    let id = answer["id"].as_u64().and_then(|id| u32::try_from(id).ok());
    id.ok_or_else(|| wrong(answer.to_string()))
}
