//! Which types of values [`encode`](super::encode) can write as which node, for checks before any record arrives.
//!
//! Invariant: a refused type has values that fail in `encode` for reasons other than null; an accepted type fails there only for a value that is
//! null, out of range, or malformed. As with the markers of statements, a null inside a type is no mismatch, because a step may leave out the records
//! where it occurs. A type that is always null is one.

use std::collections::BTreeMap;

use super::encode::encode;
use super::encode_error::EncodeError;
use super::schema::{Field, Logical, Node, NodeId, Schema, Shape};
use super::types;
use super::uuid;
use super::value::{Type, Value};

impl Schema {
    /// Whether values of a type can be written as the outermost record's field of this name. The error names both sides.
    /// A field that does not exist accepts anything, because that is reported as another kind of error.
    pub fn takes(&self, field: &str, ty: &Type) -> Result<(), String> {
        match self.fields().and_then(|fields| fields.iter().find(|f| f.name == field)) {
            Some(field) if *ty == Type::Null => null(self, field.node),
            Some(field) => Takes::new(self).ask(field.node, ty),
            None => Ok(()),
        }
    }

    /// Whether this one value can be written as the outermost record's field of this name.
    pub fn holds(&self, field: &str, value: &Value<'_>) -> Result<(), EncodeError> {
        match self.fields().and_then(|fields| fields.iter().find(|f| f.name == field)) {
            Some(field) => encode(self, field.node, value, &mut Vec::new()),
            None => Ok(()),
        }
    }
}

fn null(schema: &Schema, id: NodeId) -> Result<(), String> {
    let is_null = |id: &NodeId| schema.node(*id).shape == Shape::Null;
    let fits = match &schema.node(id).shape {
        Shape::Union(branches) => branches.iter().any(is_null),
        _ => is_null(&id),
    };
    if fits {
        Ok(())
    } else {
        Err(mismatch(schema, id, &Type::Null))
    }
}

struct Takes<'s> {
    schema: &'s Schema,
    /// Whether a branch takes a type, by the type's address. Without this cache, the time would double with each level of
    /// a deep type.
    known: BTreeMap<(NodeId, usize), bool>,
}

impl<'s> Takes<'s> {
    fn new(schema: &'s Schema) -> Takes<'s> {
        let known = BTreeMap::new();
        Takes { schema, known }
    }

    fn ask(&mut self, id: NodeId, from: &Type) -> Result<(), String> {
        let schema = self.schema;
        let node = schema.node(id);
        let fits = match (from, &node.shape) {
            (Type::Nullable(inner), _) => return self.ask(id, inner),
            (Type::Union(members), _) => return members.iter().try_for_each(|member| self.ask(id, member)),
            (Type::Null | Type::Any, _) => true,
            (_, Shape::Union(branches)) => {
                let mut others = branches.iter().filter(|b| schema.node(**b).shape != Shape::Null);
                if let (Some(only), None) = (others.next(), others.next()) {
                    return self.ask(*only, from);
                }
                branches.iter().any(|branch| self.alternative(*branch, from))
            }
            (Type::List(items), Shape::Array(to)) => {
                return self.ask(*to, items).map_err(|e| format!("in items: {e}"));
            }
            (Type::Map(key, values), Shape::Map(to)) if is_text(key) => {
                return self.ask(*to, values).map_err(|e| format!("in values: {e}"));
            }
            (Type::Record(fields), Shape::Map(to)) => {
                return fields
                    .iter()
                    .try_for_each(|(name, ty)| self.ask(*to, ty).map_err(|e| format!("in field {name}: {e}")));
            }
            (Type::Record(fields), Shape::Record { fields: to, .. }) => return self.record(id, fields, to),
            // The keys of a map are known only at run time.
            (Type::Map(key, values), Shape::Record { fields, .. }) if is_text(key) => {
                fields.is_empty() || fields.iter().any(|field| self.alternative(field.node, values))
            }
            _ => scalar(node, from),
        };
        if fits { Ok(()) } else { Err(mismatch(schema, id, from)) }
    }

    fn alternative(&mut self, id: NodeId, from: &Type) -> bool {
        let asked = (id, std::ptr::from_ref(from).addr());
        if let Some(known) = self.known.get(&asked) {
            return *known;
        }
        let takes = self.ask(id, from).is_ok();
        self.known.insert(asked, takes);
        takes
    }

    fn record(&mut self, id: NodeId, from: &[(String, Type)], to: &[Field]) -> Result<(), String> {
        let is = |field: &Field, name: &str| field.name == name || field.aliases.iter().any(|alias| alias == name);
        if let Some((unknown, _)) = from.iter().find(|(name, _)| !to.iter().any(|field| is(field, name))) {
            let name = self.schema.node(id).shape.name().unwrap_or_default();
            return Err(format!("{name} has no field {unknown}"));
        }
        for field in to {
            match (from.iter().find(|(name, _)| is(field, name)), &field.default) {
                (Some((name, ty)), _) => {
                    self.ask(field.node, ty).map_err(|e| format!("in field {name}: {e}"))?;
                }
                (None, Some(_)) => {}
                (None, None) => return Err(format!("field {} is missing and has no default", field.name)),
            }
        }
        Ok(())
    }
}

/// Whether the keys of a map may be strings, as Avro's are.
fn is_text(key: &Type) -> bool {
    matches!(key.non_null(), Type::String | Type::Enum(_) | Type::Any)
}

fn scalar(node: &Node, from: &Type) -> bool {
    let number = matches!(from, Type::Int | Type::Long);
    let text = matches!(from, Type::String | Type::Enum(_));
    let uuid = match from {
        Type::Enum(symbols) => symbols.iter().any(|symbol| uuid::parse(symbol.as_bytes()).is_some()),
        _ => matches!(from, Type::String | Type::Uuid),
    };
    match (&node.shape, node.logical) {
        (Shape::Boolean, _) => *from == Type::Bool,
        (Shape::Int | Shape::Long, logical) => {
            number
                || match logical {
                    Some(Logical::Date) => *from == Type::Date,
                    Some(Logical::Time(_)) => matches!(from, Type::Time(_)),
                    Some(Logical::Timestamp(_)) => matches!(from, Type::Timestamp(_)),
                    Some(Logical::LocalTimestamp(_)) => matches!(from, Type::LocalTimestamp(_)),
                    _ => false,
                }
        }
        (Shape::Float | Shape::Double, _) => number || matches!(from, Type::Float | Type::Double),
        (Shape::String, Some(_)) => uuid,
        (Shape::String, None) => text || matches!(from, Type::Uuid | Type::Bytes | Type::Fixed(_)),
        (Shape::Bytes | Shape::Fixed { .. }, Some(Logical::Decimal { .. })) => {
            number || matches!(from, Type::Decimal { .. })
        }
        (Shape::Bytes, _) => text || matches!(from, Type::Bytes | Type::Fixed(_)),
        (Shape::Fixed { .. }, Some(Logical::Uuid)) => uuid,
        (Shape::Fixed { .. }, Some(Logical::Duration)) => *from == Type::Duration,
        (Shape::Fixed { size, .. }, _) => matches!(from, Type::Bytes) || *from == Type::Fixed(*size),
        (Shape::Enum { symbols, .. }, _) => match from {
            Type::Enum(own) => own.iter().any(|symbol| symbols.contains(symbol)),
            _ => *from == Type::String,
        },
        (Shape::Null | Shape::Array(_) | Shape::Map(_) | Shape::Record { .. } | Shape::Union(_), _) => false,
    }
}

fn mismatch(schema: &Schema, id: NodeId, from: &Type) -> String {
    format!("{from} does not go into {}", types::type_of(schema, id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::avro::value::Unit;

    fn record(fields: &[(&'static str, Value<'static>)]) -> Value<'static> {
        Value::Record(fields.iter().map(|(name, v)| ((*name).into(), v.clone())).collect())
    }

    /// Types, each with values of which at least one fits wherever the type is accepted.
    fn samples() -> Vec<(Type, Vec<Value<'static>>)> {
        let text = |t: &'static str| Value::String(t.into());
        let uuid = "03030303-0303-0303-0303-030303030303";
        let bytes = |b: &'static [u8]| Value::Bytes(b.into());
        let times = |make: fn(i64, Unit) -> Value<'static>| vec![make(1_000_000_000, Unit::Nanos)];
        let decimal = |scale| Value::Decimal {
            unscaled: vec![0].into(),
            scale,
        };
        let list = |t: Type| Type::List(Box::new(t));
        let map = |k: Type, v: Type| Type::Map(Box::new(k), Box::new(v));
        let fields = |f: &[(&str, Type)]| Type::Record(f.iter().map(|(n, t)| ((*n).to_owned(), t.clone())).collect());
        vec![
            (Type::Bool, vec![Value::Bool(true)]),
            (Type::Int, vec![Value::Int(3)]),
            (Type::Long, vec![Value::Long(3)]),
            (Type::Float, vec![Value::Float(0.5)]),
            (Type::Double, vec![Value::Double(0.5)]),
            (Type::String, vec![text("x"), text("A"), text(uuid)]),
            (Type::Enum(vec!["A".into(), "Z".into()]), vec![text("A"), text("Z")]),
            (Type::Enum(vec!["Z".into()]), vec![text("Z")]),
            (Type::Bytes, vec![bytes(b"ab"), bytes(&[b'a'; 16])]),
            (Type::Fixed(2), vec![bytes(b"ab")]),
            (Type::Fixed(3), vec![bytes(b"abc")]),
            (Type::Date, vec![Value::Date(3)]),
            (Type::Time(Unit::Nanos), times(Value::Time)),
            (Type::Timestamp(Unit::Nanos), times(Value::Timestamp)),
            (Type::LocalTimestamp(Unit::Nanos), times(Value::LocalTimestamp)),
            (Type::Decimal { precision: 9, scale: 2 }, vec![decimal(2)]),
            (Type::Decimal { precision: 0, scale: 0 }, vec![decimal(0)]),
            (Type::Uuid, vec![Value::Uuid([3; 16])]),
            (
                Type::Duration,
                vec![Value::Duration {
                    months: 1,
                    days: 2,
                    millis: 3,
                }],
            ),
            (list(Type::Int), vec![Value::List(vec![Value::Int(3)])]),
            (list(Type::String.nullable()), vec![Value::List(vec![text("x")])]),
            (
                map(Type::String, Type::Long),
                vec![
                    Value::Map(vec![(text("a"), Value::Long(3))]),
                    Value::Map(vec![(text("x"), Value::Long(3))]),
                ],
            ),
            (
                map(Type::Uuid, Type::Long),
                vec![Value::Map(vec![(Value::Uuid([3; 16]), Value::Long(3))])],
            ),
            (
                fields(&[("a", Type::Int.nullable())]),
                vec![record(&[("a", Value::Int(3))])],
            ),
            (
                fields(&[("old", Type::Int), ("b", Type::String)]),
                vec![record(&[("old", Value::Int(3)), ("b", text("x"))])],
            ),
            (fields(&[("b", Type::String)]), vec![record(&[("b", text("x"))])]),
            (Type::Null, vec![Value::Null]),
        ]
    }

    const SCHEMAS: [&str; 35] = [
        r#""null""#,
        r#""boolean""#,
        r#""int""#,
        r#""long""#,
        r#""float""#,
        r#""double""#,
        r#""string""#,
        r#""bytes""#,
        r#"{"type":"int","logicalType":"date"}"#,
        r#"{"type":"int","logicalType":"time-millis"}"#,
        r#"{"type":"long","logicalType":"time-micros"}"#,
        r#"{"type":"long","logicalType":"timestamp-millis"}"#,
        r#"{"type":"long","logicalType":"timestamp-micros"}"#,
        r#"{"type":"long","logicalType":"local-timestamp-millis"}"#,
        r#"{"type":"string","logicalType":"uuid"}"#,
        r#"{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}"#,
        r#"{"type":"fixed","name":"D","size":8,"logicalType":"decimal","precision":9,"scale":2}"#,
        r#"{"type":"fixed","name":"F","size":2}"#,
        r#"{"type":"fixed","name":"U","size":16,"logicalType":"uuid"}"#,
        r#"{"type":"fixed","name":"L","size":12,"logicalType":"duration"}"#,
        r#"{"type":"enum","name":"E","symbols":["A","B"]}"#,
        r#"{"type":"array","items":"int"}"#,
        r#"{"type":"array","items":"string"}"#,
        r#"{"type":"array","items":["null","double"]}"#,
        r#"{"type":"map","values":"long"}"#,
        r#"{"type":"map","values":"string"}"#,
        r#"{"type":"record","name":"R","fields":[{"name":"a","type":"long"}]}"#,
        r#"{"type":"record","name":"R","fields":[{"name":"a","type":"string"}]}"#,
        r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int","aliases":["old"]},{"name":"b","type":"bytes","default":""}]}"#,
        r#"["null","double"]"#,
        r#"["string","null"]"#,
        r#"["null",{"type":"long","logicalType":"timestamp-micros"}]"#,
        r#"["int","string"]"#,
        r#"["null","boolean","bytes",{"type":"array","items":"int"}]"#,
        r#"["null",{"type":"record","name":"A","fields":[{"name":"a","type":"int"}]},{"type":"record","name":"B","fields":[{"name":"b","type":"string"}]}]"#,
    ];

    #[test]
    fn what_is_taken_is_what_the_encoder_writes() {
        let (mut taken, mut refused) = (0, 0);
        for json in SCHEMAS {
            let schema = Schema::parse(&format!(
                r#"{{"type":"record","name":"Root","fields":[{{"name":"f","type":{json}}}]}}"#
            ))
            .unwrap();
            for (ty, values) in samples() {
                let written: Vec<bool> = values
                    .iter()
                    .map(|value| schema.encode(&record(&[("f", value.clone())]), &mut Vec::new()).is_ok())
                    .collect();
                // For some types only some values fit: strings that are UUIDs, bytes of the right length.
                let any = written.contains(&true);
                assert_eq!(schema.takes("f", &ty).is_ok(), any, "{ty} as {json}: {written:?}");
                if ty != Type::Null {
                    assert_eq!(
                        schema.takes("f", &ty.clone().nullable()).is_ok(),
                        any,
                        "{ty} or null as {json}"
                    );
                }
                *(if any { &mut taken } else { &mut refused }) += 1;
            }
            assert_eq!(schema.takes("f", &Type::Any), Ok(()));
            assert_eq!(schema.takes("another", &Type::Bool), Ok(()));
        }
        assert!(taken > 100 && refused > 400, "{taken} {refused}");
    }

    #[test]
    fn a_type_that_is_asked_about_by_many_alternatives_is_looked_at_once() {
        let next = r#"{"name":"next","type":["null","A","B"]}"#;
        let schema = Schema::parse(&format!(
            r#"{{"type":"record","name":"A","fields":[{{"name":"next","type":["null","A",{{"type":"record","name":"B","fields":[{next},{{"name":"x","type":"string"}}]}}]}},{{"name":"x","type":"int"}}]}}"#
        ))
        .unwrap();
        // At each level only the second branch takes it, and the innermost level decides.
        for (last, fits) in [(Type::String, true), (Type::Bool, false)] {
            let level = |next: Type, x: Type| Type::Record(vec![("next".into(), next), ("x".into(), x)]);
            let ty = (0..60).fold(level(Type::Null, last), |next, _| level(next, Type::String));
            assert_eq!(schema.takes("next", &ty).is_ok(), fits);
        }
    }

    #[test]
    fn every_member_of_a_union_must_fit() {
        let schema = Schema::parse(
            r#"{"type":"record","name":"Root","fields":[{"name":"f","type":["null","double"]},{"name":"g","type":{"type":"array","items":"int"}}]}"#,
        )
        .unwrap();
        assert_eq!(schema.takes("f", &Type::Union(vec![Type::Int, Type::Double])), Ok(()));
        assert_eq!(
            schema.takes("f", &Type::Union(vec![Type::Int, Type::String]).nullable()),
            Err("string does not go into double".to_owned())
        );
        assert_eq!(
            schema.takes("g", &Type::List(Box::new(Type::String))),
            Err("in items: string does not go into int".to_owned())
        );
    }
}
