//! YAML text to a tree in which every node knows its place. YAML 1.2 core schema, so JSON is YAML;
//! equal keys, tags of one's own and what JSON cannot hold are mistakes. Knows nothing of manifests.

use std::collections::HashMap;
use std::sync::Arc;

use granit_parser::{Event, Parser, ScalarStyle, Span};

use super::node::{Entry, Kind, Node};
use super::place::{ManifestError, Pos, Text, pointer_to};
use super::scalar::resolve;
use super::variables::{self, Lookup};

/// Nodes of one file, aliases expanded: a bound against files that multiply themselves.
const MOST_NODES: usize = 1_000_000;
/// Nested lists and mappings.
const DEEPEST: usize = 64;

/// Every document of a file. Mistakes go to `errors`, all that can be found: after a syntax error
/// the rest of the file is not read, and the answer's second part is false. Without `lookup` a
/// `${NAME}` is text like any other.
pub(super) fn parse(
    text: &str,
    file: &Arc<str>,
    lookup: Option<&Lookup<'_>>,
    errors: &mut Vec<ManifestError>,
) -> (Vec<Node>, bool) {
    let options = granit_parser::options! {
        emit_comments: false,
        flow_nesting_limit: DEEPEST,
        block_nesting_limit: DEEPEST,
        simple_key_max_lookahead: 65_536,
    };
    let mut reader = Reader {
        events: Parser::new_from_str_with_options(text, options),
        text,
        file,
        lookup,
        errors,
        path: String::new(),
        anchors: HashMap::new(),
        nodes: 0,
    };
    let mut documents = Vec::new();
    while let Some((event, span)) = reader.next() {
        match event {
            Event::StreamEnd => return (documents, true),
            Event::StreamStart | Event::DocumentEnd => {}
            // Anchors are known in their own document only.
            Event::DocumentStart(..) => reader.anchors.clear(),
            event => match reader.node(event, span) {
                Some(node) => documents.push(node),
                None => break,
            },
        }
    }
    (documents, false)
}

struct Reader<'t, 'a> {
    events: Parser<'t, granit_parser::StrInput<'t>>,
    text: &'t str,
    file: &'a Arc<str>,
    lookup: Option<&'a Lookup<'a>>,
    errors: &'a mut Vec<ManifestError>,
    path: String,
    anchors: HashMap<usize, Node>,
    nodes: usize,
}

impl<'t> Reader<'t, '_> {
    fn next(&mut self) -> Option<(Event<'t>, Span)> {
        match self.events.next()? {
            Ok(next) => Some(next),
            Err(error) => {
                let at = position(error.marker());
                let line = self.text.lines().nth(at.line.saturating_sub(1) as usize);
                let hint =
                    match self.lookup.is_some() && line.is_some_and(|line| line.contains("${")) {
                        true => "; between { } or [ ], a ${VARIABLE} stands in quotes",
                        false => "",
                    };
                self.wrong(at, format!("this is not YAML: {}{hint}", error.info()));
                None
            }
        }
    }

    fn wrong(&mut self, at: Pos, message: impl Into<String>) {
        self.errors.push(ManifestError::new(
            at.in_file(self.file),
            self.path.clone(),
            message,
        ));
    }

    /// One node with all below it; None once nothing more can be read.
    fn node(&mut self, event: Event<'t>, span: Span) -> Option<Node> {
        let at = position(&span.start);
        self.nodes += 1;
        let (node, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let is_text = tag
                    .as_ref()
                    .is_some_and(|tag| tag.is_yaml_core_schema_tag("str"));
                if !is_text && let Some(tag) = tag {
                    self.wrong(
                        at,
                        format!("the tag {tag} is not supported; allowed: !!str"),
                    );
                }
                (self.scalar(&text, style, is_text, at, span), anchor)
            }
            Event::SequenceStart(_, anchor, tag) => {
                if let Some(tag) = tag {
                    self.wrong(at, format!("the tag {tag} is not supported on a list"));
                }
                (self.list(at)?, anchor)
            }
            Event::MappingStart(_, anchor, tag) => {
                if let Some(tag) = tag {
                    self.wrong(at, format!("the tag {tag} is not supported on a mapping"));
                }
                (self.map(at)?, anchor)
            }
            Event::Alias(id) => {
                let Some(node) = self.anchors.get(&id).cloned() else {
                    self.wrong(at, "an alias cannot stand inside what it refers to");
                    return None;
                };
                self.nodes = self.nodes.saturating_add(node.count);
                (node, 0)
            }
            _ => {
                self.wrong(at, "this is not a value");
                return None;
            }
        };
        if self.nodes > MOST_NODES {
            self.wrong(
                at,
                format!("more than {MOST_NODES} values in one file, aliases expanded"),
            );
            return None;
        }
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Some(node)
    }

    fn list(&mut self, at: Pos) -> Option<Node> {
        let mut nodes = Vec::new();
        let length = self.path.len();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::SequenceEnd) {
                let count = 1 + nodes.iter().map(|node: &Node| node.count).sum::<usize>();
                return Some(Node {
                    at,
                    kind: Kind::List(nodes),
                    text: Text::Opaque,
                    count,
                });
            }
            self.path.push_str(&format!("/{}", nodes.len()));
            let node = self.node(event, span);
            self.path.truncate(length);
            nodes.push(node?);
        }
    }

    fn map(&mut self, at: Pos) -> Option<Node> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut seen: HashMap<String, Pos> = HashMap::new();
        let mut merges = Vec::new();
        let length = self.path.len();
        loop {
            let (event, span) = self.next()?;
            let key_at = position(&span.start);
            let (key, plain) = match event {
                Event::MappingEnd => break,
                // A variable is never replaced in a key.
                Event::Scalar(key, style, ..) => (key.into_owned(), style == ScalarStyle::Plain),
                _ => {
                    self.wrong(key_at, "a key must be text");
                    return None;
                }
            };
            let (event, span) = self.next()?;
            self.path = pointer_to(&self.path, &key);
            let node = self.node(event, span);
            let node = match node {
                Some(node) => node,
                None => {
                    self.path.truncate(length);
                    return None;
                }
            };
            if plain && key == "<<" {
                merges.push((key_at, node));
            } else if let Some(first) = seen.get(&key) {
                let first = first.in_file(self.file);
                self.wrong(
                    key_at,
                    format!("the key \"{key}\" stands twice; first at {first}"),
                );
            } else {
                seen.insert(key.clone(), key_at);
                entries.push(Entry {
                    key,
                    at: key_at,
                    node,
                });
            }
            self.path.truncate(length);
        }
        for (at, node) in merges {
            self.merge(&mut entries, at, node);
        }
        let count = 1 + entries
            .iter()
            .map(|entry| 1 + entry.node.count)
            .sum::<usize>();
        Some(Node {
            at,
            kind: Kind::Map(entries),
            text: Text::Opaque,
            count,
        })
    }

    /// `<<: *defaults`: what is not there yet is taken from the other mapping.
    fn merge(&mut self, entries: &mut Vec<Entry>, at: Pos, node: Node) {
        match node.kind {
            Kind::Map(more) => {
                for entry in more {
                    if !entries.iter().any(|present| present.key == entry.key) {
                        entries.push(entry);
                    }
                }
            }
            Kind::List(nodes) if nodes.iter().all(|node| matches!(node.kind, Kind::Map(_))) => {
                for node in nodes {
                    self.merge(entries, at, node);
                }
            }
            _ => self.wrong(at, "\"<<\" takes a mapping or a list of mappings"),
        }
    }

    fn scalar(
        &mut self,
        raw: &str,
        style: ScalarStyle,
        is_text: bool,
        at: Pos,
        span: Span,
    ) -> Node {
        let value = match self.lookup.map(|lookup| variables::expand(raw, lookup)) {
            None => raw.into(),
            Some(Ok(value)) => value,
            Some(Err(message)) => {
                self.wrong(at, message);
                raw.into()
            }
        };
        let text = match span.byte_range() {
            Some(range) if *value == *raw => self.notation(raw, style, range.start, range.end, at),
            _ => Text::Opaque,
        };
        let kind = if style == ScalarStyle::Plain && !is_text {
            match resolve(&value) {
                Ok(kind) => kind,
                Err(message) => {
                    self.wrong(at, message);
                    Kind::Null
                }
            }
        } else {
            Kind::Text(value.into_owned())
        };
        Node {
            at,
            kind,
            text,
            count: 1,
        }
    }

    /// How places inside this scalar map to places in the file.
    fn notation(&self, value: &str, style: ScalarStyle, start: usize, end: usize, at: Pos) -> Text {
        let source = self.text.get(start..end).unwrap_or_default();
        match style {
            ScalarStyle::Plain if source == value => Text::Line(at),
            ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted
                if source.get(1..source.len().saturating_sub(1)) == Some(value)
                    && !value.contains('\n') =>
            {
                Text::Line(Pos {
                    line: at.line,
                    column: at.column + 1,
                })
            }
            ScalarStyle::Literal | ScalarStyle::Folded => self.block(value, style, start, at),
            _ => Text::Opaque,
        }
    }

    /// The span of a block begins with its text, after the indent.
    /// The span of a block begins with its text, after the indent.
    fn block(&self, value: &str, style: ScalarStyle, start: usize, at: Pos) -> Text {
        let one_line = !value.trim_end_matches('\n').contains('\n');
        let begins = value.lines().next().unwrap_or_default();
        let there = self.text.get(start..).unwrap_or_default().lines().next();
        if begins.is_empty() || there != Some(begins) || (style == ScalarStyle::Folded && !one_line)
        {
            return Text::Opaque;
        }
        Text::Block(at)
    }
}

fn position(marker: &granit_parser::Marker) -> Pos {
    Pos {
        line: u32::try_from(marker.line()).unwrap_or(u32::MAX),
        column: u32::try_from(marker.col()).unwrap_or(u32::MAX - 1) + 1,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn read(text: &str) -> (Vec<Node>, Vec<ManifestError>) {
        let mut errors = Vec::new();
        let lookup = |name: &str| (name == "N").then(|| "7".to_owned());
        let (nodes, _) = parse(text, &Arc::from("m.yaml"), Some(&lookup), &mut errors);
        (nodes, errors)
    }

    fn value(text: &str) -> Value {
        let (nodes, errors) = read(text);
        assert_eq!(errors, []);
        nodes.first().map(Node::to_value).unwrap_or_default()
    }

    fn mistakes(text: &str) -> Vec<String> {
        read(text).1.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn json_is_yaml_and_keeps_order_and_64_bits() {
        let json = "{\n\t\"z\": 9223372036854775807,\n\t\"a\": [18446744073709551615, -9223372036854775808, 1.5e3, \"\\u00e4\"]}";
        assert_eq!(value(json), serde_json::from_str::<Value>(json).unwrap());
        assert_eq!(
            value(json).as_object().unwrap().keys().collect::<Vec<_>>(),
            ["z", "a"]
        );
    }

    #[test]
    fn a_variable_without_quotes_takes_its_type_and_in_quotes_stays_text() {
        assert_eq!(
            value("a: ${N}\nb: \"${N}\"\n${N}: 1\n"),
            serde_json::json!({"a": 7, "b": "7", "${N}": 1})
        );
        assert!(mistakes("{a: ${N}}")[0].ends_with("a ${VARIABLE} stands in quotes"));
        assert_eq!(
            mistakes("a:\n  - ok\n  - x${NO}"),
            ["m.yaml:3:5: the variable NO is not set; set it, or give a default: ${NO:-default}"]
        );
    }

    #[test]
    fn equal_keys_name_both_places() {
        let (_, errors) = read("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\n");
        assert_eq!(
            errors[0].to_string(),
            "m.yaml:5:3: the key \"c\" stands twice; first at m.yaml:3:3"
        );
        assert_eq!(errors[0].pointer, "/b/c");
    }

    #[test]
    fn anchors_and_merge_keys_are_expanded_and_bounded() {
        assert_eq!(
            value("base: &b {x: 1, y: 2}\nuse: {<<: *b, y: 3}\n"),
            serde_json::json!({"base": {"x": 1, "y": 2}, "use": {"y": 3, "x": 1}})
        );
        let mut bomb = String::from("a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n");
        for level in 1..9 {
            let below = level - 1;
            let row = vec![format!("*a{below}"); 10].join(",");
            bomb.push_str(&format!("a{level}: &a{level} [{row}]\n"));
        }
        assert!(
            mistakes(&bomb)[0].contains("more than 1000000 values"),
            "{:?}",
            mistakes(&bomb)
        );
        assert!(mistakes("a: &a [*a]")[0].contains("cannot stand inside what it refers to"));
    }

    #[test]
    fn what_json_cannot_hold_is_a_sentence_with_its_place() {
        assert_eq!(
            mistakes("a: .inf"),
            ["m.yaml:1:4: .inf is no number here; put it in quotes if it is text"]
        );
        assert_eq!(
            mistakes("a: 18446744073709551616"),
            [
                "m.yaml:1:4: 18446744073709551616 does not fit into 64 bits; put it in quotes if it is text"
            ]
        );
        assert!(mistakes("a: !secret x")[0].contains("the tag !secret is not supported"));
        assert!(mistakes("[a]: 1")[0].contains("a key must be text"));
    }

    #[test]
    fn a_syntax_error_has_its_line_and_column() {
        let (_, errors) = read("a: 1\nb: [1, 2\nc: 3\n");
        assert!(
            errors[0].message.starts_with("this is not YAML: "),
            "{errors:?}"
        );
        assert!(errors[0].line >= 2 && errors[0].column >= 1, "{errors:?}");
        assert!(mistakes("a: *nowhere")[0].starts_with("m.yaml:1:4: this is not YAML"));
        let deep = "[".repeat(1000);
        assert!(mistakes(&deep)[0].starts_with("m.yaml:1:65: this is not YAML"));
    }
}
