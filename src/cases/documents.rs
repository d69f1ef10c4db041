//! Loads the documents of a case file into the references of its pipelines. Types are declared, or found in the documents of all cases
//! together, as production finds them in a sample of the collection. Each case sees only its own documents.

use std::collections::BTreeMap;
use std::sync::Arc;

use mongodb::bson::{Bson, RawDocumentBuf};

use super::file::Case;
use super::run::Error;
use super::tables::toml_to_json;
use crate::app::reference_shape;
use crate::config::{self, Sources};
use crate::reference::{Reference, References};

/// A case's documents, by the name of the reference.
pub type Documents = BTreeMap<String, Vec<RawDocumentBuf>>;

/// A case's documents.
///
/// # Errors
/// In words, which entry is not a document.
pub fn of_case(case: &Case) -> Result<Documents, String> {
    let mut all = Documents::new();
    for (name, documents) in &case.documents {
        let mut of = Vec::new();
        for (number, document) in documents.iter().enumerate() {
            let wrong = |what: &dyn std::fmt::Display| format!("documents.{name}[{number}]: {what}");
            let json = match document {
                toml::Value::String(text) => serde_json::from_str(text).map_err(|e| wrong(&e))?,
                table => toml_to_json(table),
            };
            let Bson::Document(document) = Bson::try_from(json).map_err(|e| wrong(&e))? else {
                return Err(wrong(&"a document is a table, or a JSON object in text"));
            };
            of.push(RawDocumentBuf::try_from(document).map_err(|e| wrong(&e))?);
        }
        all.insert(name.clone(), of);
    }
    Ok(all)
}

/// Empty references, with their types found in these documents.
///
/// # Errors
/// For which fields no type follows from the documents.
pub fn references(
    declared: &BTreeMap<String, config::Reference>,
    documents: &[Documents],
    sources: &Sources,
) -> Result<References, Error> {
    let mut made = Vec::new();
    for (name, reference) in declared {
        let sample: Vec<RawDocumentBuf> = documents
            .iter()
            .filter_map(|of| of.get(name))
            .flatten()
            .cloned()
            .collect();
        let shape = reference_shape(reference, &sample, sources).map_err(Error::Start)?;
        made.push(Arc::new(Reference::new(shape)));
    }
    Ok(References::new(made))
}

/// Replaces the content of all references with a case's documents.
///
/// # Errors
/// In words, which reference is unknown, or which document it cannot hold.
pub fn fill(references: &References, documents: &Documents) -> Result<(), String> {
    if let Some(unknown) = documents.keys().find(|name| references.get(name).is_none()) {
        return Err(format!(
            "documents.{unknown}: no pipeline uses a reference of this name"
        ));
    }
    for reference in references.all() {
        let of = documents.get(&*reference.shape.name).map_or(&[][..], Vec::as_slice);
        if let Some(number) = reference.replace(of) {
            let (name, key) = (&reference.shape.name, &reference.shape.key);
            return Err(format!(
                "documents.{name}[{number}]: it lacks `{key}`, the key of the reference"
            ));
        }
    }
    Ok(())
}
