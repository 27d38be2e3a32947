//! The little that must be known of CREATE STREAM before whoever reads it in full has seen it: its
//! name, and one of its options. Never complains: what is broken is said by the query's own reader.

use super::super::merge;

/// `stream` or `table`, and the name that a statement creates; None where it is something else.
pub(super) fn statement_of(sql: &str) -> Option<(&'static str, &str)> {
    let name = stream_name(sql)?;
    let second = sql.split_whitespace().nth(1)?;
    let kind = if second.eq_ignore_ascii_case("table") {
        "table"
    } else {
        "stream"
    };
    Some((kind, name))
}

/// The name in `CREATE STREAM name …`, and in that of a table; None where it is something else.
#[must_use]
pub fn stream_name(sql: &str) -> Option<&str> {
    merge::stream_name(sql)
}

/// The value of an option of `CREATE STREAM … WITH (…)`, its name without regard to case. Options
/// stand behind the columns: what looks like one inside a quoted text is not taken.
#[must_use]
pub fn stream_option(sql: &str, option: &str) -> Option<String> {
    let mut before: Option<Word> = None;
    let mut name: Option<Word> = None;
    for word in (Words { rest: sql }) {
        if word == Word::Sign('=') {
            name = before.take();
            continue;
        }
        if let Some(Word::Plain(found)) = &name
            && found.eq_ignore_ascii_case(option)
        {
            return match word {
                Word::Plain(text) | Word::Quoted(text) => Some(text),
                Word::Sign(_) => None,
            };
        }
        name = None;
        before = Some(word);
    }
    None
}

#[derive(Debug, PartialEq, Eq)]
enum Word {
    Plain(String),
    Quoted(String),
    Sign(char),
}

struct Words<'t> {
    rest: &'t str,
}

impl Iterator for Words<'_> {
    type Item = Word;

    fn next(&mut self) -> Option<Word> {
        self.rest = self.rest.trim_start();
        let first = self.rest.chars().next()?;
        if matches!(first, '"' | '\'' | '`') {
            let mut text = String::new();
            let mut chars = self.rest.char_indices().skip(1);
            while let Some((at, c)) = chars.next() {
                match c {
                    '\\' if first == '"' => {
                        if let Some((_, escaped)) = chars.next() {
                            text.push(escaped);
                        }
                    }
                    c if c == first => {
                        self.rest = self.rest.get(at + c.len_utf8()..).unwrap_or_default();
                        return Some(Word::Quoted(text));
                    }
                    c => text.push(c),
                }
            }
            self.rest = "";
            return Some(Word::Quoted(text));
        }
        let end = self
            .rest
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(self.rest.len());
        if end == 0 {
            self.rest = self.rest.get(first.len_utf8()..).unwrap_or_default();
            return Some(Word::Sign(first));
        }
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        Some(Word::Plain(word.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_is_found_by_its_name_and_not_inside_a_text() {
        let sql = r#"create stream `a b` (type string, x struct(type bigint)) with (DATASOURCE="TYPE=\"no\", CONF_KEY", Type = "HttpPull", shared=TRUE)"#;
        assert_eq!(stream_option(sql, "TYPE").as_deref(), Some("HttpPull"));
        assert_eq!(
            stream_option(sql, "datasource").as_deref(),
            Some("TYPE=\"no\", CONF_KEY")
        );
        assert_eq!(stream_option(sql, "SHARED").as_deref(), Some("TRUE"));
        assert_eq!(stream_option(sql, "CONF_KEY"), None);
        for broken in [
            "",
            "create",
            "WITH (TYPE=",
            "WITH (TYPE=\"mqtt",
            "=\"x\"",
            "\"",
        ] {
            assert!(stream_option(broken, "DATASOURCE").is_none(), "{broken}");
        }
    }

    #[test]
    fn a_statement_has_a_kind_and_a_name() {
        assert_eq!(
            statement_of("\n CREATE TABLE T110\n (S1 string)"),
            Some(("table", "T110"))
        );
        assert_eq!(
            statement_of("create stream demo()"),
            Some(("stream", "demo"))
        );
        assert_eq!(statement_of("SELECT 1"), None);
    }
}
