//! `${NAME}` and `${NAME:-default}` in the scalars of a manifest. Works on the text of one scalar
//! after YAML has been parsed: a value can never add structure to the document.

use std::borrow::Cow;

/// Where variables come from: the process environment, or a map in a test.
pub type Lookup<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// Replaces `${NAME}` and `${NAME:-default}`; `$${` stands for `${`. An empty variable counts as
/// unset where there is a default. A value is not looked at again.
///
/// # Errors
/// A sentence that names the variable: unset without a default, not a name, not closed.
pub(super) fn expand<'t>(text: &'t str, lookup: &Lookup<'_>) -> Result<Cow<'t, str>, String> {
    if !text.contains("${") {
        return Ok(Cow::Borrowed(text));
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, found) = rest.split_at(at);
        if let Some(escaped) = before.strip_suffix('$') {
            out.push_str(escaped);
            out.push_str("${");
            rest = found.get(2..).unwrap_or_default();
            continue;
        }
        out.push_str(before);
        let inner = found.get(2..).unwrap_or_default();
        let Some((inside, after)) = inner.split_once('}') else {
            return Err(
                "\"${\" is not closed by \"}\"; write \"$${\" for the characters themselves"
                    .to_owned(),
            );
        };
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        if !is_name(name) {
            return Err(format!(
                "\"${{{inside}}}\" names no variable: a name is letters, digits and \"_\"; \
                 write \"$${{\" for the characters themselves"
            ));
        }
        match (lookup(name), default) {
            (Some(value), None) => out.push_str(&value),
            (Some(value), Some(_)) if !value.is_empty() => out.push_str(&value),
            (_, Some(default)) => out.push_str(default),
            (None, None) => {
                return Err(format!(
                    "the variable {name} is not set; set it, or give a default: ${{{name}:-default}}"
                ));
            }
        }
        rest = after;
    }
    out.push_str(rest);
    Ok(Cow::Owned(out))
}

fn is_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(text: &str) -> Result<String, String> {
        let lookup = |name: &str| match name {
            "HOST" => Some("broker".to_owned()),
            "EMPTY" => Some(String::new()),
            "NESTED" => Some("${HOST}".to_owned()),
            _ => None,
        };
        expand(text, &lookup).map(Cow::into_owned)
    }

    #[test]
    fn variables_defaults_and_escapes() {
        assert_eq!(
            with("tcp://${HOST}:${PORT:-1883}").unwrap(),
            "tcp://broker:1883"
        );
        assert_eq!(with("${EMPTY}|${EMPTY:-x}|${NO:-}").unwrap(), "|x|");
        assert_eq!(
            with("$${HOST} costs $5, $share/g/f").unwrap(),
            "${HOST} costs $5, $share/g/f"
        );
        assert_eq!(
            with("${NESTED}").unwrap(),
            "${HOST}",
            "a value is not expanded again"
        );
    }

    #[test]
    fn an_unset_variable_a_bad_name_and_an_open_brace_are_sentences() {
        assert!(
            with("${NO}")
                .unwrap_err()
                .starts_with("the variable NO is not set")
        );
        assert!(
            with("${a b}")
                .unwrap_err()
                .contains("\"${a b}\" names no variable")
        );
        assert!(with("${}").unwrap_err().contains("names no variable"));
        assert!(with("x ${HOST").unwrap_err().contains("not closed"));
    }
}
