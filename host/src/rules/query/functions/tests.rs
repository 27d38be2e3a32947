use super::*;

fn call(name: &str, arguments: &[Datum<'static>]) -> Outcome<'static> {
    let function = Function::find(name).unwrap();
    function.check(arguments.len()).unwrap();
    function.call(arguments.to_vec(), &Context::default())
}

fn json(text: &'static str) -> Datum<'static> {
    Datum::from_json(text.as_bytes())
}

#[test]
fn functions_give_what_ekuiper_documents() {
    let t = |text: &'static str| Datum::text(text);
    let n = Datum::Int;
    for (name, arguments, expected) in [
        ("abs", vec![n(-3)], n(3)),
        ("abs", vec![n(i64::MIN)], Datum::Uint(1 << 63)),
        ("CEIL", vec![Datum::Float(1.2)], Datum::Float(2.0)),
        ("sqrt", vec![n(-1)], Datum::Null),
        ("power", vec![n(2), n(10)], Datum::Float(1024.0)),
        ("concat", vec![t("a"), n(1), Datum::Float(2.0)], t("a12")),
        ("length", vec![t("grün")], n(4)),
        ("numbytes", vec![t("grün")], n(5)),
        ("substring", vec![t("hello"), n(1), n(3)], t("el")),
        ("substring", vec![t("hello"), n(2)], t("llo")),
        ("trim", vec![t(" a ")], t("a")),
        ("indexof", vec![t("abcd"), t("cd")], n(2)),
        ("indexof", vec![t("abcd"), t("x")], n(-1)),
        (
            "split_value",
            vec![t("/test/device001/message"), t("/"), n(2)],
            t("device001"),
        ),
        ("startswith", vec![t("abc"), t("ab")], Datum::Bool(true)),
        ("cast", vec![t("12"), t("bigint")], n(12)),
        ("cast", vec![Datum::Float(2.7), t("bigint")], n(2)),
        ("cast", vec![Datum::Float(2.0), t("string")], t("2")),
        ("cast", vec![t("true"), t("boolean")], Datum::Bool(true)),
        ("coalesce", vec![Datum::Null, n(1)], n(1)),
        ("isnull", vec![Datum::Null], Datum::Bool(true)),
        ("cardinality", vec![json("[1,2,3]")], n(3)),
        (
            "array_contains",
            vec![json("[1,2.0]"), n(2)],
            Datum::Bool(true),
        ),
        ("array_position", vec![json("[1,\"a\"]"), t("a")], n(1)),
        ("array_join", vec![json("[1,null,\"a\"]"), t("-")], t("1-a")),
        ("element_at", vec![json("{\"a\":7}"), t("a")], n(7)),
        (
            "keys",
            vec![json("{\"a\":7,\"b\":1}")],
            json("[\"a\",\"b\"]"),
        ),
        (
            "object_construct",
            vec![t("a"), n(1), t("b"), Datum::Null],
            json("{\"a\":1}"),
        ),
        ("upper", vec![Datum::Null], Datum::Null),
        ("parse_json", vec![t("{\"a\":[1]}")], json("{\"a\":[1]}")),
        ("decode", vec![t("YWI="), t("base64")], t("ab")),
    ] {
        assert_eq!(call(name, &arguments), Ok(expected), "{name}{arguments:?}");
    }
}

#[test]
fn the_wrong_kind_is_a_type_error() {
    assert_eq!(call("upper", &[Datum::Int(1)]), Err(TypeError));
    assert_eq!(call("sqrt", &[Datum::text("4")]), Err(TypeError));
    assert_eq!(
        call("cast", &[Datum::text("x"), Datum::text("bigint")]),
        Err(TypeError)
    );
    assert_eq!(
        call("lpad", &[Datum::text("x"), Datum::Int(1 << 40)]),
        Err(TypeError)
    );
}

#[test]
fn a_uuid_has_the_form_of_version_4_and_comes_once() {
    let (a, b) = (new_uuid(), new_uuid());
    assert_ne!(a, b);
    assert_eq!(a.len(), 36);
    assert_eq!(a.as_bytes()[14], b'4');
    assert!(matches!(a.as_bytes()[19], b'8' | b'9' | b'a' | b'b'));
}

#[test]
fn the_number_of_arguments_is_checked_with_a_sentence() {
    let sentence = |name, count| Function::find(name).unwrap().check(count).unwrap_err();
    assert_eq!(sentence("upper", 2), "upper takes 1 argument, found 2");
    assert_eq!(
        sentence("substring", 1),
        "substring takes 2 to 3 arguments, found 1"
    );
    assert_eq!(
        sentence("concat", 0),
        "concat takes 1 or more arguments, found 0"
    );
}
