//! A pipeline and one writer schema: every path found, every type compared, the output's splice compiled.
//!
//! Pure: schemas come in parsed, and the id of the output schema is filled in by whoever registers it. The findings name
//! both sides of a mismatch and where each comes from.

use std::sync::Arc;

use super::evaluate::can_be_key;
use super::finding::Finding;
use super::program::{Action, NOW, Place, Program, Source, constant_type, mismatch, not_taken, wrong_key};
use crate::avro::value::Type;
use crate::avro::{NewField, Plan, Schema, Splice, append_fields};
use crate::store::types::bindable;

/// What reads and rewrites the records of one writer schema.
#[derive(Debug)]
pub struct SchemaPlan {
    /// Validates a datum and finds the fields that the program asks for.
    pub plan: Plan,
    /// Makes the output; none for a pipeline without a sink.
    pub output: Option<Output>,
}

/// What makes the output record of one writer schema.
#[derive(Debug)]
pub struct Output {
    /// Input bytes and new fields to output bytes.
    pub splice: Splice,
    /// The output schema.
    pub schema: Arc<Schema>,
    /// The registry's id of the output schema.
    pub schema_id: u32,
}

/// The output schema of a pipeline, as declared.
#[derive(Debug, Clone)]
pub enum OutputSchema {
    /// The input schema with the fields of `set` appended.
    Appended,
    /// One schema for all inputs.
    Fixed(Arc<Schema>),
}

/// A plan whose output schema has no id yet.
#[derive(Debug)]
pub struct Compiled {
    /// See [`SchemaPlan::plan`].
    pub plan: Plan,
    /// The splice, and the schema that it makes records of.
    pub output: Option<(Splice, Arc<Schema>)>,
}

/// Compiles `program` for records of `writer`; `output` is none for a pipeline without a sink.
pub fn compile(
    program: &Program,
    writer: Arc<Schema>,
    output: Option<&OutputSchema>,
) -> Result<Compiled, Vec<Finding>> {
    let mut findings = Vec::new();
    let mut paths = Vec::new();
    for (path, span) in &program.paths {
        // One path at a time first, so that every wrong one is reported and not only the first.
        if let Err(error) = Plan::compile(writer.clone(), &[path.as_str()]) {
            findings.push(
                Finding::new(*span, error.to_string()).help("see the fields of the input schema in the registry"),
            );
        }
        paths.push(path.as_str());
    }
    if !findings.is_empty() {
        return Err(findings);
    }
    let names: Vec<&str> = program.outputs.iter().map(|(name, _)| name.as_str()).collect();
    let whole = program
        .paths
        .first()
        .map(|(_, span)| *span)
        .or(program.outputs.first().map(|(n, _)| n.span));
    let plain = Plan::compile(writer.clone(), &paths).map_err(|e| in_place(whole, e.to_string()))?;
    let types = Types { program, plan: &plain };
    types.check(&mut findings);
    let new_fields = match output {
        // The schema says the types, and takes what does not follow from an expression as it comes.
        Some(OutputSchema::Fixed(schema)) => {
            types.into_fields(schema, &mut findings);
            Vec::new()
        }
        _ => types.new_fields(&mut findings),
    };
    if !findings.is_empty() {
        return Err(findings);
    }
    let Some(output) = output else {
        return Ok(Compiled {
            plan: plain,
            output: None,
        });
    };
    let place = program.outputs.first().map(|(name, _)| name.span).or(whole);
    match output {
        OutputSchema::Appended => {
            // One field at a time first, so that each is reported in its place.
            for (field, (_, place)) in new_fields.iter().zip(&program.outputs) {
                if let Err(error) = append_fields(&writer, std::slice::from_ref(field)) {
                    findings.extend(in_place(Some(place.span), error.to_string()));
                }
            }
            if !findings.is_empty() {
                return Err(findings);
            }
            let schema = append_fields(&writer, &new_fields).map_err(|e| in_place(place, e.to_string()))?;
            let schema = Arc::new(schema);
            let splice = Splice::compile(&plain, schema.clone(), &names).map_err(|e| in_place(place, e.to_string()))?;
            Ok(Compiled {
                plan: plain,
                output: Some((splice, schema)),
            })
        }
        OutputSchema::Fixed(schema) => {
            let (plan, splice) = Plan::compile_with_output(writer, &paths, schema.clone(), &names)
                .map_err(|e| in_place(place, e.to_string()))?;
            Ok(Compiled {
                plan,
                output: Some((splice, schema.clone())),
            })
        }
    }
}

fn in_place(span: Option<crate::config::Span>, message: String) -> Vec<Finding> {
    let help =
        "a field of `set` needs a name that the input lacks and a type that Avro has; or give the sink a `schema`";
    span.map(|span| Finding::new(span, message).help(help))
        .into_iter()
        .collect()
}

/// The types of all sources, for one writer schema.
struct Types<'a> {
    program: &'a Program,
    plan: &'a Plan,
}

impl Types<'_> {
    fn of(&self, source: &Source) -> Option<Type> {
        Some(match source {
            Source::Event(slot) => self.plan.slot_type(*slot),
            Source::Record(field) => field.value_type(),
            Source::Column { step, column } => match &self.program.steps.get(*step)?.action {
                Action::Lookup(lookup) => lookup.statement.gives().nth(*column)?.1.nullable(),
                Action::Custom(custom) => custom.gives.get(*column)?.1.clone().nullable(),
                Action::Reference(refer) => refer.reference.shape.fields.get(*column)?.1.clone().nullable(),
                _ => return None,
            },
            Source::Rows { step } => match &self.program.steps.get(*step)?.action {
                Action::Lookup(lookup) => lookup.statement.records()?.nullable(),
                _ => return None,
            },
            Source::Named(index) => self.program.steps.iter().find_map(|step| match &step.action {
                Action::Set { first, values } => {
                    values
                        .get(index.checked_sub(*first)?)
                        .and_then(|(_, place)| self.of(&place.source))
                        .map(|ty| {
                            // A step that did not run leaves its names null.
                            if step.when.is_some() { ty.nullable() } else { ty }
                        })
                }
                _ => None,
            })?,
            Source::Constant(value) => constant_type(value)?,
            Source::Now => NOW,
            Source::Computed(c) => {
                let inputs: Vec<Type> = c.inputs.iter().map(|i| self.of(i).unwrap_or(Type::Any)).collect();
                c.expression.result_type(&inputs)?
            }
        })
    }

    fn check(&self, findings: &mut Vec<Finding>) {
        for step in &self.program.steps {
            if let Some(when) = &step.when {
                self.condition(when, findings);
            }
            match &step.action {
                Action::Lookup(l) => self.markers(&l.statement, &l.binds, findings),
                Action::Reference(refer) => {
                    if let Some(ty) = self.of(&refer.key.source) {
                        findings.extend(wrong_key(&refer.key, &ty, &refer.reference));
                    }
                }
                Action::Write(w) => self.markers(&w.statement, &w.binds, findings),
                Action::Custom(custom) => {
                    for (place, (name, wanted)) in custom.binds.iter().zip(&custom.takes) {
                        if let Some(ty) = self.of(&place.source) {
                            findings.extend(not_taken(place, &ty, name, wanted));
                        }
                    }
                }
                Action::Filter(condition) => self.condition(condition, findings),
                Action::Set { .. } => {}
            }
        }
        if let Some(key) = &self.program.key
            && let Some(ty) = self.of(&key.source)
            && !can_be_key(&ty)
        {
            let message = format!(
                "a key is text, bytes, a UUID or a whole number, and {} is {ty}",
                key.what
            );
            findings.push(Finding::new(key.span, message).help("make text of it: string(...)"));
        }
    }

    fn markers(&self, statement: &crate::store::Statement, binds: &[Place], findings: &mut Vec<Finding>) {
        for (marker, place) in statement.markers().iter().zip(binds) {
            if let Some(ty) = self.of(&place.source)
                && let Err(why) = bindable(&ty, &marker.ty)
            {
                findings.push(mismatch(place, &marker.name, &why));
            }
        }
    }

    fn condition(&self, place: &Place, findings: &mut Vec<Finding>) {
        if let Some(ty) = self.of(&place.source)
            && *ty.non_null() != Type::Bool
        {
            findings.push(
                Finding::new(
                    place.span,
                    format!("a condition is true or false, and {} is {ty}", place.what),
                )
                .help("compare it with something, as in event.kind == 'click'"),
            );
        }
    }

    fn into_fields(&self, schema: &Schema, findings: &mut Vec<Finding>) {
        for (name, place) in &self.program.outputs {
            if let Some(ty) = self.of(&place.source)
                && let Err(why) = schema.takes(&name.value, &ty)
            {
                let message = format!(
                    "field '{}' of the output schema cannot take {}: {why}",
                    name.value, place.what
                );
                findings.push(Finding::new(place.span, message).help(
                    "convert it with a CEL function such as string(...), int(...) or double(...), or change the field's type in the sink's `schema`",
                ));
            }
        }
    }

    fn new_fields(&self, findings: &mut Vec<Finding>) -> Vec<NewField> {
        let mut fields = Vec::new();
        for (name, place) in &self.program.outputs {
            match self.of(&place.source) {
                Some(ty) if ty != Type::Any && ty != Type::Null => {
                    fields.push(NewField {
                        name: name.value.clone(),
                        ty,
                    });
                }
                _ => findings.push(
                    Finding::new(
                        place.span,
                        format!("the type of '{}' does not follow from this expression", name.value),
                    )
                    .help("say it with a conversion: string(...), int(...), double(...) or bool(...)"),
                ),
            }
        }
        fields
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::pipeline::program;
    use crate::reference::References;

    /// The messages of what does not fit in a pipeline with this sink.
    async fn found(schema: &str, sink: &str, output: OutputSchema) -> Result<(), String> {
        let toml = format!(
            "[kafka]\nbrokers = \"k:9092\"\n[registry]\nurl = \"http://r:8081\"\n[pipelines.p.source]\ntopics = [\"t\"]\ngroup = \"g\"\n\
             [pipelines.p.sink]\ntopic = \"o\"\n{sink}\n"
        );
        let (config, _) = config::load_str(vec![("t.toml".into(), toml)], std::iter::empty()).unwrap();
        let parsed = program::parse(&config.pipelines["p"]).unwrap();
        let program = parsed
            .prepare(None, &References::default(), &Default::default())
            .await
            .unwrap();
        compile(&program, Arc::new(Schema::parse(schema).unwrap()), Some(&output))
            .map(|_| ())
            .map_err(|found| found.into_iter().map(|f| f.message).collect::<Vec<_>>().join("; "))
    }

    #[tokio::test]
    async fn new_fields_are_compared_with_those_of_a_given_schema() {
        let input = r#"{"type": "record", "name": "E", "fields": [{"name": "id", "type": "long"}, {"name": "name", "type": ["null", "string"]},
            {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}},
            {"name": "tags", "type": {"type": "array", "items": "string"}}]}"#;
        let output = r#"{"type": "record", "name": "O", "fields": [{"name": "id", "type": "long"}, {"name": "score", "type": "double"},
            {"name": "label", "type": ["null", "string"], "default": null}, {"name": "all", "type": {"type": "array", "items": "string"}, "default": []}]}"#;
        let output = OutputSchema::Fixed(Arc::new(Schema::parse(output).unwrap()));
        let findings = async |set: &str| found(input, &format!("set = {{ {set} }}"), output.clone()).await;
        for good in [
            "score = \"event.id\"",
            "score = \"double(event.price)\"",
            "score = \"2.5\", label = \"event.name\"",
            "score = \"3\", label = \"null\"",
            "score = \"3\", all = \"event.tags.map(t, t + '!')\"",
        ] {
            assert_eq!(findings(good).await, Ok(()), "{good}");
        }
        for (bad, why) in [
            (
                "score = \"event.price\"",
                "event.price: decimal(9, 2) does not go into double",
            ),
            ("score = \"event.name\"", "event.name: string does not go into double"),
            (
                "score = \"string(event.id)\"",
                "what this expression gives: string does not go into double",
            ),
            ("score = \"null\"", "this literal: null does not go into double"),
        ] {
            let wanted = format!("field 'score' of the output schema cannot take {why}");
            assert_eq!(findings(bad).await, Err(wanted), "{bad}");
        }
        let both = findings("score = \"event.price\", label = \"event.id\"")
            .await
            .unwrap_err();
        assert_eq!(both.matches("does not go into").count(), 2, "{both}");
    }

    #[tokio::test]
    async fn a_key_of_a_type_that_has_no_bytes_is_found() {
        let schema = r#"{"type": "record", "name": "E", "fields": [{"name": "id", "type": "long"}, {"name": "price", "type": ["null", "double"]},
            {"name": "tags", "type": {"type": "array", "items": "string"}}, {"name": "kind", "type": {"type": "enum", "name": "K", "symbols": ["a"]}}]}"#;
        let findings = async |key: &str| found(schema, &format!("key = \"{key}\""), OutputSchema::Appended).await;
        for good in ["event.id", "event.kind", "string(event.price)", "event.id + 1"] {
            assert_eq!(findings(good).await, Ok(()), "{good}");
        }
        for (bad, ty) in [
            ("event.price", "double"),
            ("event.tags", "array"),
            ("event.price * 2.0", "double"),
        ] {
            let error = findings(bad).await.unwrap_err();
            assert!(
                error.starts_with("a key is text, bytes, a UUID or a whole number, and"),
                "{error}"
            );
            assert!(error.contains(ty), "{error}");
        }
    }
}
