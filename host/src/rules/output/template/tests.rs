use serde_json::json;

use super::*;

fn render(template: &str, value: &Value) -> String {
    let template = Template::parse(template).unwrap_or_else(|error| panic!("{template}: {error}"));
    template
        .render(value)
        .unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn fields_and_functions_print_as_go_prints_them() {
    let row = json!({
        "t": 20.0, "n": 12345678, "big": u64::MAX, "s": "a\"b", "on": true, "nil": null,
        "o": {"b": [1, "x", null], "a": 2.5}, "list": [{"v": 1}, {"v": 2}], "zero": 0, "empty": ""
    });
    for (template, expected) in [
        (
            "{{.t}} {{.n}} {{.big}} {{.on}}",
            "20 12345678 18446744073709551615 true",
        ),
        ("{{.missing}} {{.nil}}", "<no value> <no value>"),
        ("{{.o}}", "map[a:2.5 b:[1 x <nil>]]"),
        (
            "{{json .o}} {{.s | toJson}}",
            r#"{"b":[1,"x",null],"a":2.5} "a\"b""#,
        ),
        (
            "{{index .o.b 1}} {{index .list 1 \"v\"}} {{(index .list 0).v}}",
            "x 2 1",
        ),
        ("{{len .list}} {{len .o}} {{len .empty}}", "2 2 0"),
        (
            "{{if .zero}}a{{else if .empty}}b{{else if gt .t 19.5}}c{{else}}d{{end}}",
            "c",
        ),
        ("{{if and .on (lt .n 5)}}x{{else}}y{{end}}", "y"),
        ("{{if or .zero .s}}x{{end}}{{if not .on}}z{{end}}", "x"),
        (
            "{{eq .t 20}} {{eq .s \"x\" \"a\\\"b\"}} {{ne .n 1}} {{ge .n 12345678}} {{eq .s 5}}",
            "true true true true false",
        ),
        ("{{range .list}}<{{.v}}>{{end}}", "<1><2>"),
        (
            "{{range $i, $v := .list}}{{if $i}},{{end}}{{$i}}={{$v.v}}{{end}}",
            "0=1,1=2",
        ),
        ("{{range $k, $v := .o}}{{$k}} {{end}}", "a b "),
        ("{{range .missing}}x{{else}}none{{end}}", "none"),
        ("{{range .list}}{{.v}}{{$.t}} {{end}}", "120 220 "),
        ("{{$x := .t}}{{range .list}}{{$x = .v}}{{end}}{{$x}}", "2"),
        (
            "{{printf \"%d|%s|%v|%f|%.2f|%q|%05d|%-4s|%4s|%%\" .n .s .on .t .o.a .empty .zero \"l\" \"r\"}}",
            "12345678|a\"b|true|20.000000|2.50|\"\"|00000|l   |   r|%",
        ),
        ("{{.t | printf \"%.1f\"}}", "20.0"),
        ("a {{- .t -}} b {{/* note }} */ -}}  c", "a20b c"),
        ("{{`raw \"text\"`}}{{\"}}\"}}{{ -3 }}", "raw \"text\"}}-3"),
    ] {
        assert_eq!(render(template, &row), expected, "{template}");
    }
}

#[test]
fn templates_of_ekuipers_kind_work() {
    let rows = json!([{"temperature": 31.2, "id": "a"}, {"temperature": 5, "id": "b"}]);
    assert_eq!(
        render(
            "[{{range $index, $ele := .}}{{if $index}},{{end}}{\"result\":{{if gt $ele.temperature 30.0}}\"high\"{{else}}\"low\"{{end}}}{{end}}]",
            &rows
        ),
        r#"[{"result":"high"},{"result":"low"}]"#
    );
    assert_eq!(
        render(
            "{\"t\":{{index . 0 \"temperature\" | printf \"%.0f\"}}}",
            &rows
        ),
        r#"{"t":31}"#
    );
    assert_eq!(render("{{json .}}", &rows), rows.to_string());
}

#[test]
fn what_is_outside_the_subset_is_refused_with_its_place() {
    for (template, line, column, part) in [
        ("a\n {{with .a}}{{end}}", 2, 2, "with is not supported"),
        ("{{define \"x\"}}{{end}}", 1, 1, "define is not supported"),
        ("{{jsn .a}}", 1, 3, "did you mean \"json\"?"),
        ("{{.a", 1, 1, "does not end"),
        ("{{if .a}}x", 1, 1, "without {{end}}"),
        ("x{{end}}", 1, 2, "without an if"),
        ("{{else}}", 1, 1, "without an if"),
        ("{{if .a}}{{else}}{{else}}{{end}}", 1, 18, "second"),
        ("{{$x}}", 1, 3, "no variable $x"),
        ("{{range $v := .l}}{{end}}{{$v}}", 1, 28, "no variable $v"),
        ("{{printf \"%x\" .a}}", 1, 3, "no verb %x"),
        ("{{printf \"%d\"}}", 1, 3, "1 verbs and 0 values"),
        ("{{printf .a}}", 1, 3, "format"),
        ("{{eq .a}}", 1, 3, "eq takes 2"),
        ("{{len len .a}}", 1, 7, "parentheses"),
        ("{{.a | .b}}", 1, 8, "function must follow"),
        ("{{.a ; .b}}", 1, 6, "no meaning"),
        ("{{.a..b}}", 1, 5, "name is missing"),
        ("{{}}", 1, 5, "expected a field"),
        ("{{\"a}}", 1, 3, "does not end"),
        ("{{(len .a}}", 1, 3, "not closed"),
        ("{{/* x}}", 1, 1, "comment does not end"),
    ] {
        let error = Template::parse(template).unwrap_err();
        assert!(error.message.contains(part), "{template}: {error}");
        assert_eq!(
            (error.line, error.column),
            (line, column),
            "{template}: {error}"
        );
    }
    assert!(Template::parse(&"{{if .a}}".repeat(5000)).is_err());
    assert!(Template::parse(&format!("{{{{ {} }}}}", "(".repeat(5000))).is_err());
}

#[test]
fn what_cannot_be_rendered_is_an_error_without_values() {
    let row = json!({"a": "hush", "l": [1]});
    for (template, part) in [
        ("{{.a.b}}", "field b is asked of a text"),
        ("{{.none.b}}", "field b is asked of a missing value"),
        ("{{index .l 5}}", "index 5 of a list of 1"),
        ("{{lt .a 5}}", "cannot compare a text with a number"),
        ("{{range .a}}{{end}}", "range cannot go over a text"),
        ("{{printf \"%d\" .a}}", "%d of printf does not take a text"),
        ("{{len 5}}", "len does not take"),
    ] {
        let error = Template::parse(template)
            .unwrap()
            .render(&row)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(part) && !error.contains("hush"),
            "{template}: {error}"
        );
    }
}

#[test]
fn nested_ranges_cannot_hold_the_host() {
    let row = json!({"l": vec![0; 1000]});
    let template =
        Template::parse("{{range .l}}{{range $.l}}{{range $.l}}{{end}}{{end}}{{end}}").unwrap();
    assert!(template.render(&row).is_err());
}

#[test]
fn a_dynamic_property_is_rendered_from_text_and_from_a_map_alike() {
    let row = br#"{"line":{"id":"A"},"n":7,"nil":null}"#;
    let map: Map<String, Value> = serde_json::from_slice(row).unwrap();
    for (text, expected) in [
        ("plant/{{.line.id}}/{{.n}}", Ok("plant/A/7")),
        (
            "plant/{{if gt .n 5}}hot{{else}}cold{{end}}",
            Ok("plant/hot"),
        ),
        ("plant/{{.none}}", Err("field none is missing")),
        ("plant/{{.line.none}}", Err("field line.none is missing")),
        ("plant/{{.nil}}", Err("field nil is missing")),
    ] {
        let property = DynamicProperty::parse(text).unwrap();
        let expected = expected.map(str::to_owned).map_err(str::to_owned);
        assert_eq!(
            property.render(&map).map_err(|e| e.to_string()),
            expected,
            "{text}"
        );
        assert_eq!(
            property.render_json(row).map_err(|e| e.to_string()),
            expected,
            "{text}"
        );
    }
    assert!(DynamicProperty::is_dynamic("a/{{.b}}") && !DynamicProperty::is_dynamic("a/b"));
}
