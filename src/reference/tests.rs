//! Tests of a collection in memory: found by key, updated change by change, swept after a read.

use super::*;
use mongodb::bson::{Bson, Document, RawDocumentBuf, doc};

fn reference(key: &str) -> Reference {
    Reference::new(Shape {
        name: "partners".into(),
        collection: "crm.partners".to_owned(),
        key: key.to_owned(),
        key_type: ColumnType::Text,
        fields: vec![("name".to_owned(), Type::String)],
        max_bytes: 1 << 20,
    })
}

fn put(to: &Reference, document: &Document) -> bool {
    to.put(0, &RawDocumentBuf::try_from(document).unwrap(), false).0
}

fn name(of: &Reference, key: &str) -> Option<Value<'static>> {
    of.find(&Value::String(key.into())).unwrap().map(|row| row[0].clone())
}

#[test]
fn a_document_is_found_by_another_field_than_its_id_and_follows_a_change_of_it() {
    let partners = reference("code");
    assert!(put(&partners, &doc! { "_id": 1, "code": "a", "name": "Ada" }));
    assert_eq!(name(&partners, "a"), Some(Value::String("Ada".into())));
    assert!(put(&partners, &doc! { "_id": 1, "code": "b", "name": "Ada" }));
    assert_eq!((name(&partners, "a"), partners.entries()), (None, 1));
    assert!(
        !put(&partners, &doc! { "_id": 1, "name": "Ada" }),
        "it has no key any more"
    );
    assert_eq!((name(&partners, "b"), partners.entries()), (None, 0));
    put(&partners, &doc! { "_id": 2, "code": "c", "name": "Bob" });
    partners.remove(RawBsonRef::Int32(2));
    assert_eq!(partners.entries(), 0);
}

#[test]
fn of_two_documents_with_one_key_the_end_of_the_other_changes_nothing() {
    let partners = reference("code");
    let ada = Some(Value::String("Ada".into()));
    put(&partners, &doc! { "_id": 1, "code": "a", "name": "Old" });
    put(&partners, &doc! { "_id": 2, "code": "a", "name": "Ada" });
    partners.remove(RawBsonRef::Int32(1));
    assert_eq!(name(&partners, "a"), ada);
    put(&partners, &doc! { "_id": 1, "code": "a", "name": "Old" });
    put(&partners, &doc! { "_id": 2, "code": "a", "name": "Ada" });
    put(&partners, &doc! { "_id": 1, "code": "b", "name": "Old" });
    assert_eq!((name(&partners, "a"), partners.entries()), (ada, 2));
    put(&partners, &doc! { "_id": 1, "name": "Old" });
    let left = partners.remove(RawBsonRef::Int32(2)).unwrap();
    assert_eq!(
        name(&partners, "a"),
        Some(Value::String("Ada".into())),
        "until none is found"
    );
    partners.is_free(&left);
    assert_eq!((name(&partners, "a"), name(&partners, "b")), (None, None));
    assert_eq!(partners.entries(), 0);
    let keys = partners.keys.as_ref().unwrap();
    assert_eq!((keys.owners.entries(), keys.by_id.entries()), (0, 0));
}

#[test]
fn the_end_of_an_object_id_or_a_uuid_is_not_that_of_its_text_or_of_other_bytes() {
    let id = mongodb::bson::oid::ObjectId::new();
    let uuid = mongodb::bson::Uuid::new();
    let bytes = uuid.bytes();
    let named = |name: &str| Some(Value::String(name.to_owned().into()));
    for (text, other) in [
        (id.to_hex(), RawBsonRef::ObjectId(id)),
        (
            uuid.to_string(),
            RawBsonRef::Binary(mongodb::bson::RawBinaryRef {
                subtype: mongodb::bson::spec::BinarySubtype::Uuid,
                bytes: &bytes,
            }),
        ),
    ] {
        let ids = [Bson::try_from(other).unwrap(), Bson::String(text.clone())];
        let [first, second] = ids.map(|id| doc! { "_id": id, "code": "a", "name": "Ada" });
        // At first, the document held has the text as its `_id`; then, the other value. Only the removal of the
        // document held returns the key, for which the primary is then asked.
        let partners = reference("_id");
        let key = codec::key_of_value(&Value::String(text.as_str().into()));
        assert!(put(&partners, &first) && put(&partners, &second));
        assert_eq!(partners.remove(other), None);
        assert_eq!(name(&partners, &text), named("Ada"));
        assert!(put(&partners, &first));
        assert_eq!(partners.remove(other), key);
        assert_eq!(name(&partners, &text), named("Ada"), "until none is found");
        partners.is_free(&key.unwrap());
        assert_eq!((name(&partners, &text), partners.entries()), (None, 0));
        // A document that is alone with its key, at least since the last read, is removed at once.
        assert!(put(&partners, &first) && put(&partners, &second));
        partners.put(1, &RawDocumentBuf::try_from(&second).unwrap(), true);
        partners.sweep(1);
        assert_eq!(partners.remove(RawBsonRef::String(&text)), None);
        assert_eq!(partners.entries(), 0);
        // The same with another key field.
        let partners = reference("code");
        assert!(put(&partners, &first) && put(&partners, &second));
        assert_eq!(partners.remove(other), None);
        assert_eq!(name(&partners, "a"), named("Ada"));
    }
}

#[test]
fn a_key_that_is_left_is_given_where_another_document_may_have_it() {
    let partners = reference("code");
    let change = |document: Document| {
        partners
            .change(0, &RawDocumentBuf::try_from(&document).unwrap())
            .unwrap()
    };
    let key = |of: &str| codec::key_of_value(&Value::String(of.into()));
    for (id, code) in [(1, "a"), (2, "a"), (2, "a"), (3, "b")] {
        assert_eq!(change(doc! { "_id": id, "code": code, "name": "Ada" }), None);
    }
    assert_eq!(partners.remove(RawBsonRef::Int32(3)), None, "it was alone");
    let moved = change(doc! { "_id": 2, "code": "b", "name": "Ada" });
    assert_eq!(moved, key("a"));
    assert!(name(&partners, "a").is_some() && !partners.is_taken(&key("a").unwrap()));
    change(doc! { "_id": 1, "code": "a", "name": "Old" });
    // A third document may have the key.
    assert_eq!(partners.remove(RawBsonRef::Int32(1)), key("a"));
    partners.is_free(&key("a").unwrap());
    assert_eq!(name(&partners, "a"), None);
    change(doc! { "_id": 1, "code": "a", "name": "Old" });
    assert_eq!(partners.remove(RawBsonRef::Int32(1)), None);
}

#[test]
fn a_key_that_was_left_amid_a_reading_is_found_out_when_it_is_over() {
    let partners = reference("code");
    let a = codec::key_of_value(&Value::String("a".into())).unwrap();
    let read = |generation, documents: &[(i32, &str)]| {
        let mut left = Vec::new();
        for (id, code) in documents {
            let document = doc! { "_id": *id, "code": *code, "name": "Ada" };
            let document = RawDocumentBuf::try_from(&document).unwrap();
            left.extend(partners.put(generation, &document, true).1);
        }
        partners.sweep(generation);
        left
    };
    assert!(read(1, &[(1, "a"), (2, "a")]).is_empty());
    assert_eq!(read(2, &[(2, "b"), (1, "a")]), std::slice::from_ref(&a));
    assert!(!partners.is_orphaned(&a), "the other one was read behind it");
    read(3, &[(2, "a"), (1, "a")]);
    assert_eq!(read(4, &[(2, "b"), (1, "c")]), std::slice::from_ref(&a));
    assert!(!partners.is_orphaned(&a) && name(&partners, "a").is_none());
    // The first document is inserted again during the read.
    assert_eq!(read(5, &[(2, "a"), (1, "a"), (1, "d")]), std::slice::from_ref(&a));
    assert!(partners.is_orphaned(&a) && name(&partners, "a").is_some());
}

#[test]
fn a_key_that_passes_to_another_document_is_found_all_through_a_reading() {
    let partners = reference("code");
    let read = |generation, id: i32, code: &str| {
        let document = doc! { "_id": id, "code": code, "name": id.to_string() };
        let document = RawDocumentBuf::try_from(&document).unwrap();
        assert_eq!(partners.put(generation, &document, true), (true, None));
    };
    let named = |id: &'static str| Some(Value::String(id.into()));
    read(1, 1, "a");
    read(1, 2, "b");
    partners.sweep(1);
    read(2, 1, "c");
    assert_eq!(name(&partners, "a"), named("1"), "who has it now is not read yet");
    read(2, 2, "a");
    assert_eq!((name(&partners, "a"), name(&partners, "b")), (named("2"), named("2")));
    partners.sweep(2);
    assert_eq!((name(&partners, "b"), partners.entries()), (None, 2));
    // The first document is inserted again during the read, and so is read twice. No sweep would remove its first
    // entry, which belongs to this read.
    read(3, 1, "c");
    read(3, 1, "d");
    partners.sweep(3);
    assert_eq!((name(&partners, "c"), name(&partners, "d")), (None, named("1")));
}

#[test]
fn where_there_is_no_room_a_reading_finds_out_what_is_gone() {
    let partners = reference("code");
    let document = |id: i32, code: &str| {
        let document = doc! { "_id": id, "code": code, "name": "Ada" };
        RawDocumentBuf::try_from(&document).unwrap()
    };
    for (id, code) in [(1, "a"), (2, "b"), (3, "c")] {
        partners.put(1, &document(id, code), true);
    }
    partners.sweep(1);
    assert_eq!((partners.older(1), partners.older(2)), (0, 9));
    // The first document now has another key, and the second another `_id`; the fourth is new.
    for (id, code) in [(1, "d"), (5, "b"), (3, "c"), (4, "e")] {
        partners.mark(2, &document(id, code));
    }
    assert_eq!(partners.older(2), 4, "all of the first, and who had the second key");
    partners.sweep(2);
    let found = ["a", "b", "c", "d", "e"].map(|code| name(&partners, code).is_some());
    assert_eq!(found, [false, true, true, false, false]);
    for (id, code) in [(1, "d"), (5, "b"), (3, "c"), (4, "e")] {
        partners.put(3, &document(id, code), true);
    }
    assert_eq!((partners.older(3), partners.entries()), (0, 4));
}

#[test]
fn changes_stop_where_it_is_full() {
    let partners = reference("_id");
    let change = |id: i32| {
        let document = doc! { "_id": id.to_string(), "name": "n".repeat(1000) };
        partners.change(0, &RawDocumentBuf::try_from(&document).unwrap())
    };
    let taken = (0..10_000).filter(|id| change(*id).is_ok()).count();
    assert_eq!(partners.entries(), taken as u64);
    assert!((900..1100).contains(&taken), "{taken}");
    let largest = partners.shape.max_bytes + 2000;
    assert!(partners.bytes() <= largest, "passed by one document at most");
    assert_eq!(change(0).unwrap_err().label, "max_bytes");
}

#[test]
fn a_document_that_does_not_fit_fails_who_needs_it_until_it_is_mended() {
    let partners = reference("_id");
    put(&partners, &doc! { "_id": "a", "name": 7 });
    let error = partners.find(&Value::String("a".into())).unwrap_err();
    assert_eq!(
        error.message,
        "a document of crm.partners: field name is int, but string is expected"
    );
    assert_eq!(partners.unfit(), 1);
    put(&partners, &doc! { "_id": "a", "name": "Ada" });
    assert_eq!(
        (name(&partners, "a"), partners.unfit()),
        (Some(Value::String("Ada".into())), 0)
    );
    assert_eq!(name(&partners, "b"), None);
}

#[test]
fn what_was_known_to_be_current_stays_so() {
    let partners = reference("_id");
    let now = Instant::now();
    let earlier = now.checked_sub(Duration::from_secs(1)).unwrap();
    assert_eq!(partners.age(now), None);
    for at in [earlier, now, earlier] {
        partners.is_current(at);
    }
    assert_eq!(partners.age(now), Some(Duration::ZERO));
}
