//! Tests of expressions: which become paths, the results of CEL, and their types.

use super::*;

fn computed(text: &str, steps: &[&str]) -> Computed {
    match parse(text, steps).unwrap() {
        Expression::Computed(c) => c,
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn plain_paths_never_reach_the_interpreter() {
    let path = |t: &str| match parse(t, &["profile"]).unwrap() {
        Expression::Path(r) => r,
        other => panic!("{t}: {other:?}"),
    };
    assert_eq!(path("event.user.id"), Reference::Event("user.id".into()));
    assert_eq!(path("event.items[0].sku"), Reference::Event("items[0].sku".into()));
    assert_eq!(path("event.tags['x y']"), Reference::Event("tags['x y']".into()));
    assert_eq!(path("record.offset"), Reference::Record(RecordField::Offset));
    assert_eq!(
        path("profile.score"),
        Reference::Step {
            step: "profile".into(),
            column: "score".into()
        }
    );
    assert!(matches!(parse(" now() ", &[]).unwrap(), Expression::Now));
    assert!(matches!(parse("'a'", &[]).unwrap(), Expression::Constant(Value::String(s)) if s == "a"));
    assert!(matches!(
        parse("-3", &[]).unwrap(),
        Expression::Constant(Value::Long(-3))
    ));
}

#[test]
fn paths_inside_an_expression_become_variables_once() {
    let c = computed("event.kind != 'heartbeat' && (event.n > 3 || event.kind == 'x')", &[]);
    assert_eq!(
        c.inputs,
        [Reference::Event("kind".into()), Reference::Event("n".into())]
    );
    let run = |kind: &str, n| {
        c.evaluate(
            &Interpreter::default(),
            &[Value::String(Cow::Borrowed(kind)), Value::Int(n)],
        )
        .unwrap()
    };
    assert_eq!(run("heartbeat", 9), Value::Bool(false));
    assert_eq!(run("click", 2), Value::Bool(false));
    assert_eq!(run("x", 2), Value::Bool(true));
    assert_eq!(c.result_type(&[Type::String, Type::Int]), Some(Type::Bool));
}

#[test]
fn comprehensions_keep_their_variables() {
    let c = computed("event.items.exists(i, i.qty > event.least)", &[]);
    assert_eq!(
        c.inputs,
        [Reference::Event("items".into()), Reference::Event("least".into())]
    );
    let item = |q| Value::Record(vec![(Cow::Borrowed("qty"), Value::Int(q))]);
    let items = Value::List(vec![item(1), item(5)]);
    let run = |least| {
        c.evaluate(&Interpreter::default(), &[items.borrowed(), Value::Int(least)])
            .unwrap()
    };
    assert_eq!(run(4), Value::Bool(true));
    assert_eq!(run(5), Value::Bool(false));
}

#[test]
fn a_macro_goes_through_a_map_in_the_order_of_the_wire() {
    let text = |t: &'static str| Value::String(t.into());
    let names = ["h", "c", "a", "g", "b", "f", "e", "d"];
    let map = Value::Map(names.map(|name| (text(name), Value::Int(1))).to_vec());
    let record = object(&names.map(|name| (name, Value::Int(1))));
    let all = Value::List(names.map(text).to_vec());
    for value in [&map, &record] {
        let run = |text: &str| {
            let c = computed(text, &["p"]);
            let inputs: Vec<_> = c.inputs.iter().map(|_| value.borrowed()).collect();
            c.evaluate(&Interpreter::default(), &inputs)
        };
        for _ in 0..50 {
            assert_eq!(run("p.m.map(k, k)"), Ok(all.clone()));
            assert_eq!(
                run("p.m.filter(k, k > 'f')"),
                Ok(Value::List(vec![text("h"), text("g")]))
            );
            assert_eq!(run("p.m.map(k, string(p.m[k]) + k)[0]"), Ok(text("1h")));
        }
        assert_eq!(
            run("p.m.exists_one(k, k == 'b') && size(p.m) == 8"),
            Ok(Value::Bool(true))
        );
    }
    let twice = Value::Map(vec![(text("a"), Value::Int(1)), (text("a"), Value::Int(2))]);
    let keys = computed("p.m.map(k, k)", &["p"]).evaluate(&Interpreter::default(), &[twice]);
    assert_eq!(keys, Ok(Value::List(vec![text("a")])));
}

#[test]
fn keys_are_quoted_in_paths() {
    let path = |text: &str| match parse(text, &[]) {
        Ok(Expression::Path(Reference::Event(path))) => path,
        other => panic!("{text}: {other:?}"),
    };
    for (text, key) in [(r#"event.tags["it's"]"#, "it's"), (r#"event.tags["a\\b"]"#, r"a\b")] {
        let parts = path::parse(&path(text)).unwrap();
        assert_eq!(parts.last(), Some(&path::Part::Key(key.to_owned())), "{text}");
    }
}

#[test]
fn every_name_is_a_path_as_a_member_is_written() {
    // `in` and the other keywords are CEL's own even after a dot; `for` and other reserved words are not.
    for (name, written) in [
        ("in", "['in']"),
        ("true", "['true']"),
        ("false", "['false']"),
        ("null", "['null']"),
        ("größe", "['größe']"),
        ("order-id", "['order-id']"),
        ("a b", "['a b']"),
        ("1st", "['1st']"),
        ("for", ".for"),
        ("package", ".package"),
        ("inner", ".inner"),
    ] {
        assert_eq!(member(name), written);
        let column = Reference::Step {
            step: "row".into(),
            column: name.into(),
        };
        match parse(&format!("row{written}"), &["row"]) {
            Ok(Expression::Path(reference)) => assert_eq!(reference, column),
            other => panic!("{name}: {other:?}"),
        }
        match parse(&format!("event{written}{written}"), &[]) {
            Ok(Expression::Path(Reference::Event(text))) => assert_eq!(path::parse(&text).unwrap().len(), 2, "{text}"),
            other => panic!("{name}: {other:?}"),
        }
    }
    for (text, has) in [
        ("event.in", true),
        ("event.a.null.b == 1", true),
        ("event.inner == true", false),
        ("event['in']", false),
    ] {
        assert_eq!(has_keyword_behind_dot(text), has, "{text}");
        assert_eq!(parse(text, &[]).is_err(), has, "{text}");
    }
}

#[test]
fn a_macro_may_call_its_variable_as_it_likes() {
    for name in ["v0", "v1", "i"] {
        let c = computed(&format!("event.ids.exists({name}, {name} == event.wanted)"), &[]);
        let ids = Value::List(vec![Value::Int(1), Value::Int(2)]);
        let run = |wanted| {
            c.evaluate(&Interpreter::default(), &[ids.borrowed(), Value::Int(wanted)])
                .unwrap()
        };
        assert_eq!((run(2), run(3)), (Value::Bool(true), Value::Bool(false)), "{name}");
    }
}

#[test]
fn has_asks_for_presence() {
    let c = computed("has(event.user.email)", &[]);
    assert_eq!(
        c.evaluate(&Interpreter::default(), &[Value::Null]).unwrap(),
        Value::Bool(false)
    );
    assert_eq!(
        c.evaluate(&Interpreter::default(), &[Value::Int(1)]).unwrap(),
        Value::Bool(true)
    );
}

fn object(fields: &[(&'static str, Value<'static>)]) -> Value<'static> {
    Value::Record(fields.iter().map(|(name, v)| ((*name).into(), v.clone())).collect())
}

#[test]
fn what_is_absent_within_an_input_is_null() {
    let run = |text: &str, inputs: &[Value<'_>]| computed(text, &["p"]).evaluate(&Interpreter::default(), inputs);
    let text = |t: &'static str| Value::String(t.into());
    let flags = Value::Map(vec![(text("new"), text("yes"))]);
    assert_eq!(run("p.flags['vip'] == 'yes'", &[flags.borrowed()]), Ok(Value::Null));
    assert_eq!(run("p.flags['new'] == 'yes'", &[flags]), Ok(Value::Bool(true)));
    let address = object(&[("floor", Value::Null), ("city", text("Rome"))]);
    assert_eq!(run("p.address.floor > 3", &[address.borrowed()]), Ok(Value::Null));
    assert_eq!(run("p.address.city == 'Rome'", &[address]), Ok(Value::Bool(true)));
    assert_eq!(
        run("p.tags[event.n] == 'a'", &[Value::List(vec![]), Value::Int(0)]),
        Ok(Value::Null)
    );
    let items = |discounts: &[Value<'static>]| {
        let item = |discount: &Value<'static>| object(&[("discount", discount.clone())]);
        Value::List(discounts.iter().map(item).collect())
    };
    let some = "event.items.exists(i, i.discount > 0.5)";
    assert_eq!(run(some, &[items(&[Value::Null])]), Ok(Value::Null));
    assert_eq!(
        run(some, &[items(&[Value::Null, Value::Double(0.9)])]),
        Ok(Value::Bool(true))
    );
    assert_eq!(run(some, &[items(&[Value::Double(0.1)])]), Ok(Value::Bool(false)));
    // A failure for another reason is still an error.
    assert!(run("event.a / event.b > 1", &[Value::Int(1), Value::Int(0)]).is_err());
    assert!(run(some, &[items(&[text("x")])]).is_err());
    let lines = |quantity: Value<'static>| Value::List(vec![object(&[("qty", quantity), ("note", Value::Null)])]);
    let counted = "event.items.all(i, int(i.qty) > 0)";
    assert_eq!(run(counted, &[lines(text("7"))]), Ok(Value::Bool(true)));
    assert_eq!(run(counted, &[lines(Value::Null)]), Ok(Value::Null));
    assert!(
        run(counted, &[lines(text("x"))]).is_err(),
        "another field is absent, and has no part in it"
    );
}

#[test]
fn what_fails_over_what_is_there_fails_whatever_is_absent_beside_it() {
    let run = |text: &str, inputs: &[Value<'_>]| computed(text, &[]).evaluate(&Interpreter::default(), inputs);
    let text = Value::String("x".into());
    for expression in [
        "event.a / event.b + event.c",
        "event.a % event.b + event.c",
        "event.a * 9223372036854775807 + event.b > event.c",
        "event.c > 1 || event.a / event.b > 1",
        "event.a / event.b > 1 && event.c",
    ] {
        let names = computed(expression, &[]).inputs;
        let inputs: Vec<_> = names
            .iter()
            .map(|input| match input {
                Reference::Event(path) if path == "a" => Value::Int(7),
                Reference::Event(path) if path == "b" => Value::Int(0),
                _ => Value::Null,
            })
            .collect();
        assert!(run(expression, &inputs).is_err(), "{expression}");
    }
    for function in ["int", "uint", "double", "bool"] {
        let expression = format!("string({function}(event.a)) + event.b");
        assert!(
            run(&expression, &[text.borrowed(), Value::Null]).is_err(),
            "{expression}"
        );
    }
    let bytes = Value::Bytes(Cow::Borrowed(&[0xff]));
    assert!(run("string(event.a) + event.b", &[bytes, Value::Null]).is_err());
    // If both operands fail, the right one decides.
    for operator in ["&&", "||"] {
        let null_last = format!("event.a / event.b > 1 {operator} event.c > 3");
        let inputs = [Value::Int(7), Value::Int(0), Value::Null];
        assert_eq!(run(&null_last, &inputs), Ok(Value::Null), "{operator}");
        let null_first = format!("event.c > 3 {operator} event.a / event.b > 1");
        let inputs = [Value::Null, Value::Int(7), Value::Int(0)];
        assert!(run(&null_first, &inputs).is_err(), "{operator}");
    }
}

#[test]
fn of_a_null_every_function_gives_null() {
    for expression in [
        "int(event.a)",
        "uint(event.a) > uint('1')",
        "double(event.a)",
        "bool(event.a)",
        "string(event.a)",
        "bytes(event.a)",
        "size(event.a)",
        "event.a.size()",
        "event.a.startsWith('x')",
        "event.a.endsWith('x')",
        "event.a.contains('x')",
        "'x'.startsWith(event.a)",
        "'x'.endsWith(event.a)",
        "'x'.contains(event.a)",
        "-event.a",
        "!event.a",
        "event.a + 1",
        "event.a - 1",
        "event.a * 2",
        "event.a / 0",
        "event.a % 0",
        "1 + event.a",
        "1 - event.a",
        "2 * event.a",
        "1 / event.a",
        "1 % event.a",
        "1.0 / event.a",
        "'x' + event.a",
        "event.a < 1",
        "1 >= event.a",
        "1 in event.a",
        "event.a ? 1 : 2",
        "event.a && true",
        "event.a || false",
        "[1, 2][event.a]",
        "event.a.all(i, i > 0)",
        "event.a.exists(i, i > 0)",
        "event.a.exists_one(i, i > 0)",
        "event.a.map(i, i + 1)",
        "event.a.filter(i, i > 0)",
    ] {
        let null = computed(expression, &[]).evaluate(&Interpreter::default(), &[Value::Null]);
        assert_eq!(null, Ok(Value::Null), "{expression}");
    }
}

#[test]
fn a_null_is_a_value_of_its_own_where_it_is_compared_or_looked_for() {
    for (expression, holds) in [
        ("event.a == 'x'", false),
        ("event.a != 'x'", true),
        ("event.a == null", true),
        ("null != event.a", false),
        ("event.a in ['x']", false),
        ("!(event.a in ['x'])", true),
        ("event.a in ['x', null]", true),
        ("event.a != null && event.a != 'x'", false),
    ] {
        let null = computed(expression, &[]).evaluate(&Interpreter::default(), &[Value::Null]);
        assert_eq!(null, Ok(Value::Bool(holds)), "{expression}");
    }
}

#[test]
fn a_time_is_a_number_as_a_key_too() {
    let run = |key: Value<'static>, asked: Value<'static>| {
        let map = Value::Map(vec![(key, Value::Int(5))]);
        computed("p.rates[event.at]", &["p"]).evaluate(&Interpreter::default(), &[map, asked])
    };
    assert_eq!(run(Value::Date(3), Value::Date(3)), Ok(Value::Long(5)));
    let at = |time| Value::Timestamp(time, Unit::Millis);
    assert_eq!(run(at(7), at(7)), Ok(Value::Long(5)));
    assert_eq!(run(at(7), at(8)), Ok(Value::Null));
}

#[test]
fn a_number_is_found_as_a_key_whatever_its_type() {
    let decimal = |unscaled: i128, scale| Value::Decimal {
        unscaled: unscaled.to_be_bytes().to_vec().into(),
        scale,
    };
    let run = |text: &str, key: &Value<'static>| {
        let map = Value::Map(vec![(key.clone(), Value::Int(7))]);
        computed(text, &["p"]).evaluate(&Interpreter::default(), &[map])
    };
    for key in [decimal(5, 0), decimal(500, 2), Value::Float(5.0), Value::Double(5.0)] {
        assert_eq!(run("p.m[5]", &key), Ok(Value::Long(7)), "{key:?}");
        assert_eq!(run("p.m[5.0]", &key), Ok(Value::Long(7)), "{key:?}");
        assert_eq!(run("p.m[6]", &key), Ok(Value::Null), "{key:?}");
        assert_eq!(run("5 in p.m", &key), Ok(Value::Bool(true)), "{key:?}");
        assert_eq!(
            run("p.m.map(k, k)", &key),
            Ok(Value::List(vec![Value::Long(5)])),
            "{key:?}"
        );
    }
    let many = decimal(9_007_199_254_740_993, 0);
    assert_eq!(run("p.m[9007199254740993]", &many), Ok(Value::Long(7)));
    assert_eq!(run("9007199254740992 in p.m", &many), Ok(Value::Bool(false)));
    for (key, text) in [
        (decimal(-50, 2), "-0.50"),
        (decimal(12_345_678_901_234_567_890, 0), "12345678901234567890"),
        (Value::Float(0.1), "0.1"),
        (Value::Double(1e19), "10000000000000000000"),
        (Value::Double(f64::NAN), "NaN"),
    ] {
        assert_eq!(run(&format!("p.m['{text}']"), &key), Ok(Value::Long(7)), "{text}");
        assert_eq!(run(&format!("'{text}' in p.m"), &key), Ok(Value::Bool(true)), "{text}");
    }
}

#[test]
fn a_map_is_asked_for_no_key_that_cel_does_not_have() {
    for (key, has) in [
        (Type::Bytes, false),
        (Type::Fixed(4), false),
        (Type::List(Box::new(Type::Long)), false),
        (Type::Record(vec![]), false),
        (Type::Decimal { precision: 9, scale: 0 }, true),
        (Type::Float, true),
        (Type::Date, true),
        (Type::Uuid, true),
    ] {
        for text in ["p.m[p.k] > 1", "p.k in p.m"] {
            let c = computed(text, &["p"]);
            let map = Type::Map(Box::new(key.clone()), Box::new(Type::Long));
            let inputs: Vec<_> = c
                .inputs
                .iter()
                .map(|input| match input {
                    Reference::Step { column, .. } if column == "m" => map.clone(),
                    _ => key.clone(),
                })
                .collect();
            let found = c.mistaken(&inputs);
            assert_eq!(found.is_none(), has, "{text} of {key}: {found:?}");
            assert!(found.is_none_or(|found| found.fails), "{text} of {key}");
        }
    }
    // A number that is not whole is looked up by its text.
    let doubles = Type::Map(Box::new(Type::Double), Box::new(Type::Long));
    for text in ["'0.5' in p.m", "5 in p.m", "5.0 in p.m"] {
        let found = computed(text, &["p"]).mistaken(std::slice::from_ref(&doubles));
        assert_eq!(found, None, "{text}");
    }
}

#[test]
fn an_order_with_what_is_no_number_is_null() {
    let run = |text: &str, inputs: &[Value<'_>]| computed(text, &[]).evaluate(&Interpreter::default(), inputs);
    let share = "double(event.clicks) / double(event.views) > 0.1";
    let none = [Value::Long(0), Value::Long(0)];
    assert_eq!(run(share, &none), Ok(Value::Null));
    assert_eq!(
        run(&format!("{share} || event.clicks == 0"), &none),
        Ok(Value::Bool(true))
    );
    assert_eq!(
        run(&format!("!({share})"), &[Value::Long(2), Value::Long(4)]),
        Ok(Value::Bool(false))
    );
    for text in [
        "event.a < 1",
        "event.a <= 0.5",
        "1 > event.a",
        "1u >= event.a",
        "event.a > event.a",
    ] {
        assert_eq!(run(text, &[Value::Double(f64::NAN)]), Ok(Value::Null), "{text}");
    }
    assert_eq!(
        run("event.a == event.a", &[Value::Double(f64::NAN)]),
        Ok(Value::Bool(false))
    );
    for mistaken in ["'x' > 1", "event.a > 'x'", "[1.0] < [event.a]", "event.a + 1 > 2.0"] {
        assert!(run(mistaken, &[Value::Double(f64::NAN)]).is_err(), "{mistaken}");
    }
}

#[test]
fn a_field_that_no_record_has_is_found() {
    let address = Type::Record(vec![("floor".into(), Type::Int.nullable())]).nullable();
    let list = Type::List(Box::new(address.clone()));
    let unknown = |text: &str, ty: &Type| {
        let found = computed(text, &["p"]).unknown_field(std::slice::from_ref(ty));
        found.map(|field| (field.name, field.known))
    };
    for (text, ty) in [
        ("p.address.floor > 3", &address),
        ("has(p.address.flor) ? p.address.flor > 3 : false", &address),
        ("event.items.exists(i, i.floor > 3)", &list),
        ("event.items.map(i, i.floor).exists(f, f > 3)", &list),
        (
            "p.flags['vip'] == 'yes'",
            &Type::Map(Box::new(Type::String), Box::new(Type::String)),
        ),
        ("p.address.flor > 3", &Type::Any),
    ] {
        assert_eq!(unknown(text, ty), None, "{text}");
    }
    for (text, ty) in [
        ("p.address.flor > 3", &address),
        ("event.items.exists(i, i.flor > 3)", &list),
        ("event.items.filter(i, size(string(i.flor)) > 3)", &list),
        ("p.all[0].flor > 3", &list),
        ("has(p.address.flor.door)", &address),
    ] {
        assert_eq!(
            unknown(text, ty),
            Some(("flor".to_owned(), vec!["floor".to_owned()])),
            "{text}"
        );
    }
}

#[test]
fn has_asks_for_presence_within_an_input() {
    let run = |text: &str, inputs: &[Value<'_>]| computed(text, &["p"]).evaluate(&Interpreter::default(), inputs);
    let address = |floor| object(&[("floor", floor)]);
    for (text, value, there) in [
        ("has(p.address.floor)", address(Value::Int(0)), true),
        ("has(p.address.floor)", address(Value::Null), false),
        ("has(p.address.door)", address(Value::Int(1)), false),
        (
            "has(p.address.floor) && p.address.floor > 3",
            address(Value::Null),
            false,
        ),
        (
            "!has(p.address.floor) || p.address.floor > 3",
            address(Value::Int(4)),
            true,
        ),
        (
            "event.items.exists(i, has(i.floor))",
            Value::List(vec![address(Value::Null)]),
            false,
        ),
        (
            "event.items.all(i, has(i.floor))",
            Value::List(vec![address(Value::Int(1))]),
            true,
        ),
    ] {
        assert_eq!(run(text, &[value]), Ok(Value::Bool(there)), "{text}");
    }
    let geo = |lat| object(&[("geo", object(&[("lat", lat)]))]);
    let tags = Value::Map(vec![(Value::String("home".into()), address(Value::Int(1)))]);
    for (text, value, there) in [
        ("has(p.address.floor)", Value::Null, false),
        ("!has(p.address.floor)", Value::Null, true),
        ("has(p.address.geo.lat)", Value::Null, false),
        ("has(p.address.geo.lat)", object(&[]), false),
        ("has(p.address.geo.lat)", object(&[("geo", Value::Null)]), false),
        ("has(p.address.geo.lat)", geo(Value::Null), false),
        ("has(p.address.geo.lat)", geo(Value::Int(1)), true),
        (
            "event.items.exists(i, has(i.floor))",
            Value::List(vec![Value::Null]),
            false,
        ),
        ("has(p.tags['home'].floor)", tags.borrowed(), true),
        ("has(p.tags['work'].floor)", tags.borrowed(), false),
        ("has(p.tags['home'].floor)", Value::Null, false),
        ("has(p.rows[0].floor)", Value::List(vec![]), false),
        ("has(p.rows[0].floor)", Value::List(vec![Value::Null]), false),
        ("has(p.rows[0].floor)", Value::List(vec![address(Value::Int(1))]), true),
    ] {
        assert_eq!(run(text, &[value]), Ok(Value::Bool(there)), "{text}");
    }
    // A value that exists and cannot have fields is still a mistake.
    let text = Value::String("x".into());
    for mistaken in [
        "has(p.address.floor)",
        "has(p.address.geo.lat)",
        "has(p.rows[0].floor)",
        "has({'a': int(p.n)}.a.b)",
    ] {
        assert!(run(mistaken, &[text.borrowed()]).is_err(), "{mistaken}");
    }
    let some = "event.items.filter(i, has(i.floor)).map(i, i.floor)";
    let items = Value::List(vec![address(Value::Null), address(Value::Int(2))]);
    assert_eq!(run(some, &[items]), Ok(Value::List(vec![Value::Long(2)])));
}

#[test]
fn mistakes_are_named() {
    assert!(matches!(parse("evnt.a", &["profile"]), Err(ExpressionError::UnknownName { name, .. }) if name == "evnt"));
    assert!(matches!(parse("record.ofset == 1", &[]), Err(ExpressionError::UnknownRecordField(f)) if f == "ofset"));
    assert!(matches!(
        parse("profile == 1", &["profile"]),
        Err(ExpressionError::WholeStep(_))
    ));
    assert!(matches!(parse("1 +", &[]), Err(ExpressionError::Syntax(_))));
    for (text, name) in [
        ("now() - event.at > 5", "now"),
        ("event.name.toLower() == 'a'", "toLower"),
        ("event.items.exists(i, i.name.trim() == '')", "trim"),
        ("event.n.string() == '3'", "string"),
    ] {
        assert_eq!(
            parse(text, &[]).unwrap_err(),
            ExpressionError::UnknownFunction(name.into()),
            "{text}"
        );
    }
    for text in [
        "string(event.n) + string(size(event.name)) == '33' || type(event.n) == type(3)",
        "event.name.startsWith('a') && event.name.endsWith('b') && event.name.contains('c') && event.name.size() > 3",
        "event.items.all(i, i > 0) ? -int(event.a) : int(double(event.b) * 2.0) % 3",
        "event.items.exists_one(i, i in [1, 2]) && !bool(event.c) && bytes(event.d) != b'x' && event.e[0].f == uint('3')",
    ] {
        assert!(parse(text, &[]).is_ok(), "{text}");
    }
}

#[test]
fn types_follow_from_shapes() {
    let t = |text: &str, inputs: &[Type]| computed(text, &["p"]).result_type(inputs);
    assert_eq!(
        t("p.a == null ? 'none' : p.a", &[Type::String.nullable()]),
        Some(Type::String.nullable())
    );
    assert_eq!(t("p.a * 2.0", &[Type::Double]), Some(Type::Double));
    assert_eq!(t("string(p.a)", &[Type::Int]), Some(Type::String));
    assert_eq!(t("p.a.map(x, x)", &[Type::List(Box::new(Type::Int))]), None);
    let ints = Type::List(Box::new(Type::Int));
    assert_eq!(t("p.a.exists_one(x, x > 1)", &[ints]), Some(Type::Bool));
    let floats = Type::List(Box::new(Type::Float.nullable()));
    assert_eq!(
        t("size(p.a) > 1 ? p.a : null", &[floats]),
        Some(Type::List(Box::new(Type::Double.nullable())).nullable())
    );
    let maps = Type::List(Box::new(Type::Map(Box::new(Type::String), Box::new(Type::Int))));
    assert_eq!(t("size(p.a) > 1 ? p.a : null", &[maps]), None);
    // A null literal makes null the operators that it reaches, but not the comparisons that accept null.
    for (text, ty) in [
        ("(p.a > 1 ? p.a : null) + 10", Type::Long.nullable()),
        ("-(p.a > 1 ? null : p.a)", Type::Long.nullable()),
        ("(p.a > 1 ? p.a : null) > 3", Type::Bool.nullable()),
        ("string(p.a > 1 ? p.a : null)", Type::String.nullable()),
        ("(p.a > 1 ? p.a : null) + 1 == 3", Type::Bool.nullable()),
        ("[1].exists(x, x > (p.a > 1 ? p.a : null))", Type::Bool.nullable()),
        ("(p.a > 1 ? p.a : null) == 3", Type::Bool),
        ("(p.a > 1 ? p.a : null) in [3, null]", Type::Bool),
        ("(p.a > 1 ? p.a : null) in {3: 4}", Type::Bool.nullable()),
        ("p.a == null ? 0 : p.a", Type::Long),
    ] {
        assert_eq!(t(text, &[Type::Long]), Some(ty), "{text}");
    }
}

#[test]
fn a_time_keeps_its_unit_as_a_number() {
    let (millis, micros) = (Type::Timestamp(Unit::Millis), Type::Timestamp(Unit::Micros));
    let counts = |text: &str| {
        computed(text, &["p"]).counts(
            &[vec![micros.clone()], vec![millis.clone()]],
            &[micros.clone(), millis.clone()],
        )
    };
    for text in [
        "p.a != null ? p.a : null",
        "p.a + 1",
        "1 + p.a",
        "p.a - 1",
        "int(p.a)",
        "p.a == p.b ? p.a : p.a + 5",
    ] {
        let found = counts(text);
        assert!(
            !found.is_empty() && found.iter().all(|ty| *ty == micros),
            "{text}: {found:?}"
        );
    }
    assert_eq!(counts("p.a != null ? p.a : p.b"), [micros.clone(), millis.clone()]);
    for text in ["p.a / 1000", "p.a - p.b", "p.a + p.b", "p.a > p.b", "string(p.a)"] {
        assert_eq!(counts(text), [], "{text}");
    }
    // It keeps the unit within an input, too.
    let record = Type::Record(vec![("at".into(), micros.clone().nullable())]);
    for (text, ty) in [
        ("p.a[p.b] + 1", Type::List(Box::new(micros.clone()))),
        ("p.a[p.b].at", Type::List(Box::new(record.clone()))),
        (
            "p.a[string(p.b)]",
            Type::Map(Box::new(Type::String), Box::new(micros.clone())),
        ),
        ("p.a.map(i, i.at)[0]", Type::List(Box::new(record.clone()))),
        ("p.a.filter(t, t > 0)", Type::List(Box::new(micros.clone()))),
        (
            "p.a.map(t, t)",
            Type::Map(Box::new(micros.clone()), Box::new(Type::String)),
        ),
        (
            "p.a.map(t, t > 0, [t]).map(l, l[0])",
            Type::List(Box::new(micros.clone())),
        ),
    ] {
        let found = computed(text, &["p"]).counts(&[vec![], vec![millis.clone()]], &[ty, millis.clone()]);
        assert_eq!(found, std::slice::from_ref(&micros), "{text}");
    }
    let times = Type::List(Box::new(micros.clone()));
    for text in ["p.a.map(t, t / 1000)", "p.a.map(t, 'x')[0]", "p.a.exists_one(t, t > 0)"] {
        let found = computed(text, &["p"]).counts(&[vec![micros.clone()]], std::slice::from_ref(&times));
        assert_eq!(found, [], "{text}");
    }
    let c = computed("p.a.exists(i, i.at > p.b)", &["p"]);
    let items = Type::List(Box::new(record));
    assert_eq!(
        c.different_units(&[vec![], vec![millis.clone()]], &[items, millis.clone()]),
        Some((micros, millis, false))
    );
}

#[test]
fn decimals_as_doubles() {
    assert_eq!(convert::decimal_to_f64(&[0x30, 0x39], 2), 123.45);
    assert_eq!(convert::decimal_to_f64(&[0xff], 0), -1.0);
    assert_eq!(convert::decimal_to_f64(&[], 3), 0.0);
}

#[test]
fn the_text_of_a_decimal_has_all_its_digits() {
    let decimal = |unscaled: i64, scale| Value::Decimal {
        unscaled: unscaled.to_be_bytes().to_vec().into(),
        scale,
    };
    let run = |text: &str, value: Value<'_>| {
        let c = computed(text, &["p"]);
        let inputs: Vec<_> = c.inputs.iter().map(|_| value.borrowed()).collect();
        c.evaluate(&Interpreter::default(), &inputs)
    };
    for (unscaled, scale, digits) in [
        (1_234_567_890_123_456_789, 2, "12345678901234567.89"),
        (9_007_199_254_740_993, 0, "9007199254740993"),
        (9_007_199_254_740_992, 0, "9007199254740992"),
        (-10_000, 2, "-100.00"),
    ] {
        let text = |text: String| Ok(Value::String(text.into()));
        assert_eq!(run("string(p.a)", decimal(unscaled, scale)), text(digits.to_owned()));
        assert_eq!(
            run("'x' + string(p.a)", decimal(unscaled, scale)),
            text(format!("x{digits}"))
        );
        // Elsewhere in the expression the same value is still a number.
        assert_eq!(
            run("p.a > 0.0 ? string(p.a) : '-' + string(p.a)", decimal(unscaled, scale)),
            text(if unscaled > 0 {
                digits.to_owned()
            } else {
                format!("-{digits}")
            })
        );
    }
    assert_eq!(
        run("string(double(p.a))", decimal(10_000, 2)),
        Ok(Value::String("100".into()))
    );
    assert_eq!(run("string(p.a)", Value::Null), Ok(Value::Null));
    assert_eq!(run("string(p.a)", Value::Double(1.5)), Ok(Value::String("1.5".into())));
    // The digits of a float differ from those of the double that it is converted to.
    assert_eq!(run("string(p.a)", Value::Float(0.1)), Ok(Value::String("0.1".into())));
    assert_eq!(run("string(p.a)", Value::Float(3.0)), Ok(Value::String("3".into())));
    let c = computed("p.a > 0.0 ? string(p.a) : ''", &["p"]);
    let decimal = Type::Decimal {
        precision: 19,
        scale: 2,
    };
    assert_eq!(c.result_type(&[decimal.clone(), decimal]), Some(Type::String));
}

#[test]
fn the_whole_number_of_a_decimal_has_all_its_digits() {
    let run = |text: &str, unscaled: i128, scale| {
        let c = computed(text, &["p"]);
        let value = Value::Decimal {
            unscaled: unscaled.to_be_bytes().to_vec().into(),
            scale,
        };
        let inputs: Vec<_> = c.inputs.iter().map(|_| value.borrowed()).collect();
        c.evaluate(&Interpreter::default(), &inputs)
    };
    for (unscaled, scale, whole) in [
        (9_007_199_254_740_993, 0, 9_007_199_254_740_993),
        (4_026_532_800_000_000_123, 0, 4_026_532_800_000_000_123),
        (i128::from(i64::MIN), 0, i64::MIN),
        (i128::from(i64::MAX), 0, i64::MAX),
        (-199, 2, -1),
        (199, 2, 1),
        (-5, 1, 0),
        (7, -3, 7000),
        (0, 2, 0),
    ] {
        assert_eq!(
            run("int(p.a)", unscaled, scale),
            Ok(Value::Long(whole)),
            "{unscaled} {scale}"
        );
    }
    for beyond in [
        i128::from(i64::MAX) + 1,
        i128::from(i64::MIN) - 1,
        12_345_678_901_234_567_890,
    ] {
        assert!(run("int(p.a)", beyond, 0).is_err(), "{beyond}");
        // A branch that is not taken does not fail.
        assert_eq!(
            run("p.a * p.a < 9.0 ? int(p.a) : 0", beyond, 0),
            Ok(Value::Long(0)),
            "{beyond}"
        );
    }
    let c = computed("p.a > 0.0 ? int(p.a) : 0", &["p"]);
    let decimal = Type::Decimal { precision: 0, scale: 0 };
    assert_eq!(c.result_type(&[decimal.clone(), decimal]), Some(Type::Long));
}

#[test]
fn an_operator_that_meets_no_null_fails_though_another_input_is_null() {
    let inputs = [Value::Double(1.5), Value::Int(3), Value::Null];
    for expression in [
        "event.a * 100 > event.b && event.c != 'X'",
        "event.a % 2.0 > 1.0 || event.b == event.c",
        "event.a > 'x' || event.b == event.c",
        "event.a + event.b > 1.0 && event.c == null",
        "event.a.startsWith('x') || event.b > 7 || event.c != null",
    ] {
        let c = computed(expression, &[]);
        let values: Vec<_> = c
            .inputs
            .iter()
            .map(|input| match input {
                Reference::Event(path) if path == "a" => inputs[0].borrowed(),
                Reference::Event(path) if path == "b" => inputs[1].borrowed(),
                _ => inputs[2].borrowed(),
            })
            .collect();
        assert!(c.evaluate(&Interpreter::default(), &values).is_err(), "{expression}");
    }
}

#[test]
fn errors_tell_types_and_no_values() {
    let text = Value::String("alice@x.org".into());
    let list = Value::List(vec![text.clone()]);
    for expression in [
        "p.a + p.n",
        "p.a - p.a",
        "p.a < p.n",
        "p.l[p.a]",
        "p.l[0.5]",
        "p.l + p.a",
        "p.n / 0",
        "p.n % 0",
        "p.n * 9223372036854775807",
        "int(p.a)",
        "bool(p.a)",
        "-p.a",
        "p.a ? 1 : 2",
        "{p.a: 1, p.a: 2}",
        "{p.l: 1}",
        "{'a': p.a}",
        "uint(p.n) + uint('9223372036854775807')",
    ] {
        let c = computed(expression, &["p"]);
        let inputs: Vec<_> = c
            .inputs
            .iter()
            .map(|input| match input {
                Reference::Step { column, .. } if column == "a" => text.borrowed(),
                Reference::Step { column, .. } if column == "l" => list.borrowed(),
                _ => Value::Long(31_337),
            })
            .collect();
        let error = c.evaluate(&Interpreter::default(), &inputs).unwrap_err();
        assert!(
            !error.contains("alice") && !error.contains("31337"),
            "{expression}: {error}"
        );
    }
}

#[test]
fn operators_that_their_operands_do_not_have_are_found() {
    let told = |text: &str, ty: &Type| {
        let c = computed(text, &["p"]);
        let inputs: Vec<_> = c.inputs.iter().map(|_| ty.clone()).collect();
        c.mistaken(&inputs).map(|mistaken| mistaken.message)
    };
    let decimal = Type::Decimal { precision: 9, scale: 2 };
    let texts = Type::List(Box::new(Type::String));
    let counts = Type::Map(Box::new(Type::String), Box::new(Type::Long));
    let record = Type::Record(vec![("n".into(), Type::Long), ("t".into(), Type::String.nullable())]);
    let records = Type::List(Box::new(record.clone()));
    for (text, ty, what) in [
        ("p.a == 'u1'", &Type::Bytes, "bytes == string is false for every record"),
        ("p.a == '42'", &Type::Long, "int == string is false for every record"),
        (
            "'42' != p.a",
            &Type::Long.nullable(),
            "string != int is true for every record",
        ),
        ("p.a * 100 > 5000", &Type::Double, "double * int is not defined"),
        ("p.a * 100 > 5000", &decimal, "double * int is not defined"),
        ("p.a % 2.0 > 1.0", &Type::Float, "double % double is not defined"),
        ("p.a - 'x' == ''", &Type::String, "string - string is not defined"),
        ("p.a + 1 > 2", &Type::String.nullable(), "string + int is not defined"),
        ("p.a + 1u > 2u", &Type::Int, "int + uint is not defined"),
        (
            "p.a > '2024'",
            &Type::Timestamp(Unit::Millis),
            "int > string is not defined",
        ),
        ("p.a < p.b", &texts, "list < list is not defined"),
        ("!p.a", &Type::Long, "!int is not defined"),
        ("p.a ? 1 : 2", &Type::String, "string ? … : … is not defined"),
        ("-p.a", &Type::String, "-string is not defined"),
        (
            "p.a in ['1', '2']",
            &Type::Long,
            "int in a list of string is false for every record",
        ),
        ("1 in p.a", &texts, "int in a list of string is false for every record"),
        ("1 in p.a", &counts, "int in a map of string is false for every record"),
        ("'a' in p.a", &Type::String, "string in string is not defined"),
        (
            "p.a.exists(i, i.n == 'x')",
            &records,
            "int == string is false for every record",
        ),
        ("p.a.all(i, i.t > 1)", &records, "string > int is not defined"),
        ("string(p.a) + 1 == ''", &decimal, "string + int is not defined"),
        ("p.a && true", &Type::Long, "&& of int is not defined"),
        ("true || p.a", &Type::String.nullable(), "|| of string is not defined"),
        ("p.a.contains('x')", &texts, "contains of list is not defined"),
        ("'x'.startsWith(p.a)", &Type::Long, "startsWith of int is not defined"),
        ("size(p.a) > 1", &Type::Long, "size of int is not defined"),
        ("int(p.a == 'vip') + 1", &Type::String, "int of bool is not defined"),
    ] {
        let told = told(text, ty).unwrap_or_default();
        assert!(told.starts_with(what), "{text}: {told}");
    }
    for (text, ty) in [
        ("p.a == null || null != p.a", &Type::Long),
        ("p.a > 1 && p.a == 2 && p.a in [1, 2]", &Type::Double),
        ("p.a == 1.5 || p.a <= 1u || p.a in [1.0]", &Type::Long),
        ("p.a * 100.0 > 5000", &Type::Double),
        ("p.a % 2 == 1 && -p.a < 0", &Type::Long),
        ("p.a + 'x' < 'y' && p.a in ['x', null]", &Type::Uuid),
        ("p.a + b'x' == b'y'", &Type::Fixed(4)),
        ("string(p.a) == 'u1'", &Type::Bytes.nullable()),
        ("dyn(p.a) == '42'", &Type::Long),
        ("p.a == '42'", &Type::Any),
        ("p.a == '42'", &Type::Union(vec![Type::Long, Type::String])),
        ("type(p.a) == type(1) ? p.a * 2 > 1 : p.a * 2.0 > 1.0", &Type::Double),
        ("(p.a > 0 ? p.a : null) == null", &Type::Long),
        ("has(p.a.t) && p.a.t == 'x'", &record),
        ("p.a[0].n == 1 && 'n' in p.a[0] && p.a + [] == p.a", &records),
        ("p.a.map(i, i.n + 1).filter(n, n > 3).exists_one(n, n == 5)", &records),
        ("p.a['x'] + 1 > 2 && 'x' in p.a", &counts),
    ] {
        assert_eq!(told(text, ty), None, "{text}");
    }
    // A decimal with many digits is compared as a double, which is what a literal is anyway.
    let wide = Type::Decimal { precision: 0, scale: 0 };
    assert_eq!(
        told("p.a == p.b", &wide).unwrap_or_default(),
        "== compares a decimal as a double, by 15 digits"
    );
    for (text, ty) in [
        ("p.a == p.b", &decimal),
        ("p.a == 1.5 || p.a != null", &wide),
        ("string(p.a) == string(p.b) && int(p.a) != int(p.b)", &wide),
    ] {
        assert_eq!(told(text, ty), None, "{text}");
    }
    let list = |item: &Type| Type::List(Box::new(item.clone()));
    let keys = Type::Map(Box::new(wide.clone()), Box::new(Type::Long));
    for (text, inputs, rounds) in [
        ("!(p.a in p.b)", [Type::Long, list(&wide)], true),
        ("p.a in p.b", [wide.clone(), list(&Type::Long)], true),
        ("p.a in [p.b, 1]", [Type::Long, wide.clone()], true),
        ("1234567890123456789 in p.a", [list(&wide), Type::Any], true),
        ("p.a in p.b", [wide.clone(), keys.clone()], true),
        ("5 in p.a", [list(&wide), Type::Any], false),
        ("p.a in [1, 2.5]", [wide.clone(), Type::Any], false),
        ("p.a in p.b", [decimal.clone(), list(&decimal)], false),
        ("p.a in p.b", [Type::Long, keys], false),
    ] {
        let told = computed(text, &["p"])
            .mistaken(&inputs)
            .map(|mistaken| mistaken.message);
        let what = rounds.then_some("in compares a decimal as a double, by 15 digits");
        assert_eq!(told.as_deref(), what, "{text} of {inputs:?}");
    }
    // Literals that no value of the type equals.
    let kinds = Type::Enum(vec!["heartbeat".into(), "click".into()]);
    for (text, ty, what) in [
        (
            "p.a != 'HEARTBEAT'",
            &kinds,
            "enum != this literal is true for every record",
        ),
        (
            "'CLICK' == p.a",
            &kinds.clone().nullable(),
            "enum == this literal is false for every record",
        ),
        (
            "p.a in ['CLICK', 'HEARTBEAT']",
            &kinds,
            "enum in these literals is false for every record",
        ),
        (
            "p.a == 0.1",
            &Type::Float,
            "float == this literal is false for every record",
        ),
        (
            "p.a in [0.1, 0.2]",
            &Type::Float,
            "float in these literals is false for every record",
        ),
        (
            "p.a == '7D444840-9DC0-11D1-B245-5FFDCE74FAD2'",
            &Type::Uuid,
            "uuid == this literal is false for every record",
        ),
        (
            "p.a in ['7d444840', 'x']",
            &Type::Uuid,
            "uuid in these literals is false for every record",
        ),
    ] {
        assert_eq!(told(text, ty).as_deref(), Some(what), "{text}");
    }
    for (text, ty) in [
        ("p.a != 'click' && p.a in ['CLICK', 'click']", &kinds),
        ("p.a in ['CLICK', null] || p.a == null", &kinds),
        ("p.a == 0.5 || p.a in [0.1, 0.5] || p.a in []", &Type::Float),
        ("p.a > 0.1 && string(p.a) == '0.1'", &Type::Float),
        ("p.a == 0.1", &Type::Double),
        ("p.a == '7d444840-9dc0-11d1-b245-5ffdce74fad2'", &Type::Uuid),
    ] {
        assert_eq!(told(text, ty), None, "{text}");
    }
    // Two values that may both be null are equal then.
    let c = computed("p.a == p.b", &["p"]);
    assert_eq!(c.mistaken(&[Type::Long.nullable(), Type::String.nullable()]), None);
    assert!(c.mistaken(&[Type::Long.nullable(), Type::String]).is_some());
}

#[test]
fn what_is_found_in_operators_is_what_the_interpreter_says() {
    let values = [
        (Type::Bool, Value::Bool(true)),
        (Type::Long, Value::Long(3)),
        (Type::Double, Value::Double(3.0)),
        (Type::String, Value::String("x".into())),
        (Type::Bytes, Value::Bytes(Cow::Borrowed(b"x"))),
        (Type::List(Box::new(Type::Long)), Value::List(vec![Value::Long(3)])),
        (
            Type::Map(Box::new(Type::String), Box::new(Type::Long)),
            Value::Map(vec![(Value::String("x".into()), Value::Long(3))]),
        ),
    ];
    for operator in ["+", "-", "*", "/", "%", "<", "<=", ">", ">=", "==", "!=", "in"] {
        let c = computed(&format!("p.a {operator} p.b == null"), &["p"]);
        let plain = computed(&format!("p.a {operator} p.b"), &["p"]);
        for (a, left) in &values {
            for (b, right) in &values {
                let found = plain.mistaken(&[a.clone(), b.clone()]);
                let given = c.evaluate(&Interpreter::default(), &[left.borrowed(), right.borrowed()]);
                let fails = given.is_err();
                let never = found.as_ref().is_some_and(|found| !found.fails);
                assert!(
                    fails == (found.is_some() && !never) || fails && never,
                    "{a} {operator} {b}: {found:?}, {given:?}"
                );
                if never && !fails {
                    let given = plain.evaluate(&Interpreter::default(), &[left.borrowed(), right.borrowed()]);
                    assert_eq!(given, Ok(Value::Bool(operator == "!=")), "{a} {operator} {b}");
                }
            }
        }
    }
    for text in [
        "p.a && true",
        "true && p.a",
        "p.a || false",
        "false || p.a",
        "int(p.a)",
        "uint(p.a)",
        "double(p.a)",
        "bool(p.a)",
        "string(p.a)",
        "bytes(p.a)",
        "size(p.a)",
        "p.a.size()",
        "p.a.contains('x')",
        "p.a.startsWith('x')",
        "p.a.endsWith('x')",
        "'x'.contains(p.a)",
        "'x'.startsWith(p.a)",
        "'x'.endsWith(p.a)",
    ] {
        let c = computed(text, &["p"]);
        for (ty, value) in &values {
            let found = c.mistaken(std::slice::from_ref(ty));
            let given = c.evaluate(&Interpreter::default(), &[value.borrowed()]);
            // int('x') is another mistake: it concerns the content of the text, not its kind.
            let undefined = given.as_ref().is_err_and(|error| error.contains("is not defined for"));
            assert_eq!(undefined, found.is_some(), "{text} of {ty}: {found:?}, {given:?}");
        }
    }
}
