//! `templateSql`: a statement with `{{.name}}` where the value of an index column goes. A value is
//! bound as a parameter, never written into the text; nothing else of Go's templates is known.
//!
//! The statement is read only as far as needed to tell text, quoted names and comments apart. A value
//! in quotes of its own (`'{{.at}}'`, as templates that splice text need them) loses these.

use windlass_connector::Dialect;

/// A statement, ready for its values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template {
    /// The statement with places for parameters.
    pub(crate) statement: String,
    /// For each parameter the index column that it is the value of.
    pub(crate) values: Vec<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Within {
    Plain,
    Quotes(char),
    LineComment,
    BlockComment,
}

impl Template {
    /// # Errors
    /// A sentence that shows the place.
    pub(crate) fn new(text: &str, dialect: Dialect, names: &[String]) -> Result<Self, String> {
        let mut out = Self {
            statement: String::with_capacity(text.len()),
            values: Vec::new(),
        };
        let mut within = Within::Plain;
        let mut rest = text;
        while let Some(next) = rest.chars().next() {
            if let Some(inner) = rest.strip_prefix("{{") {
                let (action, after) = inner
                    .split_once("}}")
                    .ok_or_else(|| format!("the {{{{ before {:?} is never closed", head(inner)))?;
                rest = after;
                match within {
                    Within::Plain => {}
                    Within::Quotes('\'')
                        if out.statement.ends_with('\'')
                            && after.starts_with('\'')
                            && !after.starts_with("''") =>
                    {
                        out.statement.pop();
                        rest = after.get(1..).unwrap_or_default();
                        within = Within::Plain;
                    }
                    _ => {
                        return Err(format!(
                            "{{{{{action}}}}} stands within quotes or a comment: a value is bound as a parameter and stands alone"
                        ));
                    }
                }
                out.values.push(place_of(action, names)?);
                dialect.place(&mut out.statement, out.values.len());
                continue;
            }
            let two = rest.get(..2).unwrap_or_default();
            let mut taken = next.len_utf8();
            within = match within {
                Within::Plain => match next {
                    '\'' | '"' | '`' => Within::Quotes(next),
                    '-' if two == "--" => Within::LineComment,
                    '#' if dialect == Dialect::Mysql => Within::LineComment,
                    '/' if two == "/*" => Within::BlockComment,
                    _ => {
                        own_parameter(rest, dialect)?;
                        Within::Plain
                    }
                },
                Within::Quotes('\'' | '"') if next == '\\' && dialect == Dialect::Mysql => {
                    taken += rest.chars().nth(1).map_or(0, char::len_utf8);
                    within
                }
                Within::Quotes(quote) if quote == next => Within::Plain,
                Within::LineComment if next == '\n' => Within::Plain,
                Within::BlockComment if two == "*/" => {
                    taken = 2;
                    Within::Plain
                }
                other => other,
            };
            let (copied, after) = rest.split_at_checked(taken).unwrap_or((rest, ""));
            out.statement.push_str(copied);
            rest = after;
        }
        Ok(out)
    }
}

/// A parameter that the author wrote would shift the places of the values.
fn own_parameter(rest: &str, dialect: Dialect) -> Result<(), String> {
    let is_one = match dialect {
        Dialect::Sqlite | Dialect::Mysql => rest.starts_with('?'),
        Dialect::Postgresql => rest
            .strip_prefix('$')
            .is_some_and(|after| after.starts_with(|c: char| c.is_ascii_digit())),
    };
    if is_one {
        return Err(format!(
            "{:?}: there are no parameters but {{{{.name}}}}",
            head(rest)
        ));
    }
    Ok(())
}

fn place_of(action: &str, names: &[String]) -> Result<usize, String> {
    let path = action.trim();
    let known = path
        .strip_prefix('.')
        .and_then(|name| names.iter().position(|known| known == name));
    known.ok_or_else(|| {
        let names: Vec<String> = names
            .iter()
            .map(|name| format!("{{{{.{name}}}}}"))
            .collect();
        let allowed = if names.is_empty() {
            "there is no index column that it could be the value of".to_owned()
        } else {
            format!("allowed: {}", names.join(", "))
        };
        format!("{{{{{action}}}}} is not known here; {allowed}")
    })
}

fn head(text: &str) -> String {
    text.chars().take(24).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(text: &str, dialect: Dialect) -> Result<(String, Vec<usize>), String> {
        let names = ["id", "at"].map(str::to_owned);
        Template::new(text, dialect, &names).map(|made| (made.statement, made.values))
    }

    #[test]
    fn a_value_becomes_a_parameter_of_the_dialect() {
        let text = "select * from t where at > {{.at}} or (at = {{ .at }} and id > {{.id}}) order by at, id";
        for (dialect, places) in [
            (Dialect::Sqlite, ["?", "?", "?"]),
            (Dialect::Postgresql, ["$1", "$2", "$3"]),
            (Dialect::Mysql, ["?", "?", "?"]),
        ] {
            let [a, b, c] = places;
            assert_eq!(
                template(text, dialect).unwrap(),
                (
                    format!(
                        "select * from t where at > {a} or (at = {b} and id > {c}) order by at, id"
                    ),
                    vec![1, 1, 0]
                )
            );
        }
    }

    #[test]
    fn a_value_in_quotes_of_its_own_loses_them() {
        assert_eq!(
            template(
                "select * from t where at > '{{.at}}' and x = 'y'",
                Dialect::Postgresql
            )
            .unwrap(),
            (
                "select * from t where at > $1 and x = 'y'".to_owned(),
                vec![1]
            )
        );
    }

    #[test]
    fn quotes_and_comments_stay_as_they_are() {
        for (text, dialect) in [
            ("select '?', \"a?\", 'it''s' from t -- ?\n", Dialect::Sqlite),
            ("select 1 /* ? $1 'x */ from t # '", Dialect::Mysql),
            ("select 'a\\'?' from t", Dialect::Mysql),
            (
                "select data ? 'a' from t where b = '$1' and c > {{.id}}::bigint",
                Dialect::Postgresql,
            ),
            ("select 'ö€' from `tä?`", Dialect::Mysql),
        ] {
            let (statement, _) = template(text, dialect).unwrap();
            assert_eq!(statement, text.replace("{{.id}}", "$1"));
        }
    }

    #[test]
    fn what_is_no_index_column_or_no_place_for_a_value_is_named() {
        for (text, dialect, word) in [
            ("select {{.name}}", Dialect::Sqlite, "{{.id}}, {{.at}}"),
            ("select {{if .id}}1{{end}}", Dialect::Sqlite, "not known"),
            ("select {{.id", Dialect::Sqlite, "never closed"),
            ("select 'a{{.id}}'", Dialect::Sqlite, "within quotes"),
            ("select '{{.id}}%'", Dialect::Sqlite, "within quotes"),
            ("select \"{{.id}}\"", Dialect::Sqlite, "within quotes"),
            ("select 1 -- {{.id}}", Dialect::Sqlite, "comment"),
            ("select ?", Dialect::Mysql, "no parameters"),
            ("select ?1", Dialect::Sqlite, "no parameters"),
            ("select $1", Dialect::Postgresql, "no parameters"),
        ] {
            let error = template(text, dialect).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
        let error = Template::new("{{.id}}", Dialect::Sqlite, &[]).unwrap_err();
        assert!(error.contains("no index column"), "{error}");
    }
}
