//! Finds types by example: what the documents of a sample have in common.
//!
//! A collection has no schema, but a pipeline is checked before it runs. Whole numbers count as `long`, because drivers choose between 32 and 64 bits
//! by the value. Pure. Invariants: every sampled value fits the resulting type, or an error says why there is none; an object that is used as a
//! dictionary, with different keys in each document, costs no more than any other.

use std::collections::BTreeMap;

use mongodb::bson::{RawBsonRef, RawDocument};

use super::codec::{key_of_bson, type_name};
use crate::avro::value::{Type, Unit};
use crate::store::ColumnType;

/// Maximum number of different fields of an object. One with more is a dictionary, whose keys are data.
const MOST_FIELDS: usize = 1000;

/// What has been seen of one field.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    ty: Option<Type>,
    /// Why the field has no type, whatever values follow.
    conflict: Option<Untyped>,
    /// How often each of BSON's types was seen.
    counts: BTreeMap<&'static str, usize>,
}

/// Why a sample gives no type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoType {
    /// No document of the sample has a value.
    Unseen,
    /// Types that have none in common, with the number of values of each type.
    Mixed(String),
    /// A type that a pipeline cannot use.
    Unusable(&'static str),
    /// An object with too many different fields.
    Dictionary,
}

/// Why values have no type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Untyped {
    /// They have no type in common, or one that no pipeline can use.
    Apart,
    /// An object with too many different fields.
    Dictionary,
}

impl Seen {
    /// Takes one value into account.
    pub fn add(&mut self, value: RawBsonRef<'_>) {
        *self.counts.entry(type_name(value)).or_default() += 1;
        if self.conflict.is_some() {
            return;
        }
        let joined = match (of(value), self.ty.take()) {
            (Ok(seen), None) => Ok(seen),
            (Ok(seen), Some(known)) => join(known, seen),
            // Null, or a type that no pipeline can use: it says nothing about the other values.
            (Err(Untyped::Apart), known) => {
                self.ty = known;
                return;
            }
            (Err(why @ Untyped::Dictionary), _) => Err(why),
        };
        match joined {
            Ok(ty) => self.ty = Some(ty),
            Err(why) => self.conflict = Some(why),
        }
    }

    /// The common type of all values seen.
    pub fn ty(self) -> Result<Type, NoType> {
        match self.conflict {
            Some(Untyped::Apart) => {
                let counts: Vec<String> = self
                    .counts
                    .iter()
                    .map(|(name, count)| format!("{name} {count}"))
                    .collect();
                return Err(NoType::Mixed(counts.join(", ")));
            }
            Some(Untyped::Dictionary) => return Err(NoType::Dictionary),
            None => {}
        }
        match self.ty.map(with_absent_fields) {
            Some(ty) if is_whole(&ty) => Ok(ty),
            Some(_) => Err(NoType::Unseen),
            None => match self.counts.into_keys().find(|name| *name != "null") {
                Some(name) => Err(NoType::Unusable(name)),
                None => Err(NoType::Unseen),
            },
        }
    }
}

/// The type of a value; an error for null and for types that no pipeline can use.
fn of(value: RawBsonRef<'_>) -> Result<Type, Untyped> {
    Ok(match value {
        RawBsonRef::Boolean(_) => Type::Bool,
        RawBsonRef::Int32(_) | RawBsonRef::Int64(_) => Type::Long,
        RawBsonRef::Double(_) => Type::Double,
        RawBsonRef::String(_) | RawBsonRef::Symbol(_) | RawBsonRef::ObjectId(_) => Type::String,
        RawBsonRef::DateTime(_) => Type::Timestamp(Unit::Millis),
        RawBsonRef::Decimal128(_) => Type::Decimal { precision: 0, scale: 0 },
        RawBsonRef::Binary(b) if b.subtype == mongodb::bson::spec::BinarySubtype::Uuid => Type::Uuid,
        RawBsonRef::Binary(_) => Type::Bytes,
        RawBsonRef::Array(items) => {
            let (mut item, mut nulls) = (Type::Null, false);
            for value in items {
                match value.map_err(|_| Untyped::Apart)? {
                    RawBsonRef::Null => nulls = true,
                    value => item = join(item, of(value)?)?,
                }
            }
            Type::List(Box::new(if nulls { item.nullable() } else { item }))
        }
        RawBsonRef::Document(document) => Type::Record(record(document)?),
        _ => return Err(Untyped::Apart),
    })
}

fn record(document: &RawDocument) -> Result<Vec<(String, Type)>, Untyped> {
    let mut fields = Vec::new();
    for element in document {
        let (name, value) = element.map_err(|_| Untyped::Apart)?;
        if fields.len() == MOST_FIELDS {
            return Err(Untyped::Dictionary);
        }
        let ty = if value == RawBsonRef::Null {
            Type::Null
        } else {
            of(value)?
        };
        fields.push((name.as_str().to_owned(), ty));
    }
    Ok(fields)
}

/// The smallest type that covers both; `Type::Null` stands for a type that is not known yet.
fn join(a: Type, b: Type) -> Result<Type, Untyped> {
    Ok(match (a, b) {
        (a, b) if a == b => a,
        (Type::Null, t) | (t, Type::Null) => t,
        (Type::Nullable(a), b) | (b, Type::Nullable(a)) => join(*a, b.non_null().clone())?.nullable(),
        (Type::Long, Type::Double) | (Type::Double, Type::Long) => Type::Double,
        (Type::Long, d @ Type::Decimal { .. }) | (d @ Type::Decimal { .. }, Type::Long) => d,
        (Type::List(a), Type::List(b)) => Type::List(Box::new(join(*a, *b)?)),
        (Type::Record(mut a), Type::Record(b)) => {
            for (number, (name, ty)) in b.into_iter().enumerate() {
                // Try the same position first: documents of one origin usually have their fields in the same order.
                let at = match a.get(number) {
                    Some((same, _)) if *same == name => Some(number),
                    _ => a.iter().position(|(known, _)| *known == name),
                };
                match at {
                    Some(at) => a[at].1 = join(std::mem::replace(&mut a[at].1, Type::Null), ty)?,
                    None if a.len() == MOST_FIELDS => return Err(Untyped::Dictionary),
                    None => a.push((name, ty)),
                }
            }
            Type::Record(a)
        }
        _ => return Err(Untyped::Apart),
    })
}

/// The type with every field of a record nullable, because no document has to have it. A field without a value in the sample is left out, like one
/// that no document has: that is an error only for a pipeline that uses it.
fn with_absent_fields(ty: Type) -> Type {
    match ty {
        Type::List(item) => Type::List(Box::new(with_absent_fields(*item))),
        Type::Nullable(inner) => with_absent_fields(*inner).nullable(),
        Type::Record(fields) => {
            let nullable = |(name, ty): (String, Type)| (name, with_absent_fields(ty).nullable());
            let fields = fields.into_iter().map(nullable);
            Type::Record(fields.filter(|(_, ty)| is_whole(ty)).collect())
        }
        other => other,
    }
}

/// Whether no part of the type is still unknown.
fn is_whole(ty: &Type) -> bool {
    match ty {
        Type::Null => false,
        Type::List(item) | Type::Nullable(item) => is_whole(item),
        Type::Record(fields) => fields.iter().all(|(_, ty)| is_whole(ty)),
        _ => true,
    }
}

/// Which kinds of keys the values of a key field are, and how many of each.
#[derive(Debug, Default)]
pub struct SeenKeys(BTreeMap<u8, usize>);

impl SeenKeys {
    /// Takes one key into account; `None` for a document without one.
    pub fn add(&mut self, value: Option<RawBsonRef<'_>>) {
        let tag = value.and_then(key_of_bson).map_or(0, |key| key[0]);
        *self.0.entry(tag).or_default() += 1;
    }

    /// The type that a step's key has to fit; any type if there was no document. The error names the kinds if there are several, or values that
    /// cannot be a key.
    pub fn ty(&self) -> Result<ColumnType, String> {
        let kinds: Vec<(u8, usize)> = self.0.iter().map(|(tag, count)| (*tag, *count)).collect();
        match kinds.as_slice() {
            [] => Ok(ColumnType::Any),
            [(b's', _)] => Ok(ColumnType::Text),
            [(b'n', _)] => Ok(ColumnType::BigInt),
            [(b'b', _)] => Ok(ColumnType::Blob),
            kinds => {
                let named = kinds.iter().map(|(tag, count)| match tag {
                    b's' => format!("{count} are text"),
                    b'n' => format!("{count} are whole numbers"),
                    b'b' => format!("{count} are bytes"),
                    _ => format!("{count} have none that can be one"),
                });
                Err(named.collect::<Vec<_>>().join(", "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mongodb::bson::{Document, RawDocumentBuf, doc};

    fn seen(documents: &[Document]) -> Result<Type, NoType> {
        let mut seen = Seen::default();
        for document in documents {
            let raw = RawDocumentBuf::try_from(document).unwrap();
            if let Some(value) = raw.get("f").unwrap() {
                seen.add(value);
            }
        }
        seen.ty()
    }

    #[test]
    fn a_sample_gives_the_least_common_type() {
        assert_eq!(
            seen(&[doc! { "f": 1 }, doc! { "f": 1_i64 << 40 }, doc! {}]),
            Ok(Type::Long)
        );
        assert_eq!(seen(&[doc! { "f": 1 }, doc! { "f": 1.5 }]), Ok(Type::Double));
        let list = Type::List(Box::new(Type::String));
        assert_eq!(seen(&[doc! { "f": [] }, doc! { "f": ["a"] }]), Ok(list));
        let nulls = Type::List(Box::new(Type::Long.nullable()));
        assert_eq!(seen(&[doc! { "f": [1] }, doc! { "f": [null, 2] }]), Ok(nulls));
        let record = Type::Record(vec![
            ("x".to_owned(), Type::Long.nullable()),
            ("y".to_owned(), Type::String.nullable()),
        ]);
        assert_eq!(
            seen(&[doc! { "f": { "x": null } }, doc! { "f": { "x": 1, "y": "b" } }]),
            Ok(record)
        );
        let unknown = doc! { "x": 1, "y": null, "z": [] };
        let known = Type::Record(vec![("x".to_owned(), Type::Long.nullable())]);
        assert_eq!(seen(&[doc! { "f": unknown.clone() }]), Ok(known.clone()));
        let list = Type::List(Box::new(known));
        assert_eq!(seen(&[doc! { "f": [unknown] }]), Ok(list));
    }

    #[test]
    fn what_gives_no_type_is_said() {
        assert_eq!(seen(&[doc! {}, doc! { "f": null }]), Err(NoType::Unseen));
        assert_eq!(seen(&[doc! { "f": [] }]), Err(NoType::Unseen));
        let mixed = seen(&[doc! { "f": 1 }, doc! { "f": "a" }, doc! { "f": "b" }]);
        assert_eq!(mixed, Err(NoType::Mixed("int 1, string 2".to_owned())));
        let minimum = mongodb::bson::Bson::MinKey;
        assert_eq!(seen(&[doc! { "f": minimum }]), Err(NoType::Unusable("another type")));
    }

    /// An object with `many` keys, numbered from `from`.
    fn keys(from: usize, many: usize) -> Document {
        (from..from + many)
            .map(|key| (format!("k{key}"), mongodb::bson::Bson::Int32(1)))
            .collect()
    }

    #[test]
    fn an_object_with_keys_of_its_own_in_each_document_is_a_dictionary() {
        let own: Vec<Document> = (0..1000).map(|number| doc! { "f": keys(number * 100, 100) }).collect();
        assert_eq!(seen(&own), Err(NoType::Dictionary));
        let items: Vec<Document> = (0..1000).map(|number| keys(number * 100, 100)).collect();
        assert_eq!(seen(&[doc! { "f": items }]), Err(NoType::Dictionary));
        assert_eq!(seen(&[doc! { "f": keys(0, MOST_FIELDS + 1) }]), Err(NoType::Dictionary));
        let mut swapped = keys(1, MOST_FIELDS - 1);
        swapped.extend(keys(0, 1));
        match seen(&[doc! { "f": keys(0, MOST_FIELDS) }, doc! { "f": swapped }]) {
            Ok(Type::Record(fields)) => assert_eq!(fields.len(), MOST_FIELDS),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn keys_are_of_one_kind() {
        let mut keys = SeenKeys::default();
        assert_eq!(keys.ty(), Ok(ColumnType::Any));
        keys.add(Some(RawBsonRef::String("a")));
        assert_eq!(keys.ty(), Ok(ColumnType::Text));
        keys.add(Some(RawBsonRef::Int32(1)));
        keys.add(None);
        assert_eq!(
            keys.ty(),
            Err("1 have none that can be one, 1 are whole numbers, 1 are text".to_owned())
        );
    }
}
