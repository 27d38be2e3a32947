//! Tables of the answers, as wide as what is in them.

use std::io;

use serde_json::Value;

use crate::cli::output;

/// The widest a column gets, the last one aside.
const WIDEST: usize = 60;
/// The widest the last column gets.
const LAST: usize = 300;

/// Rows of texts below a line of heads.
#[derive(Debug)]
pub(in crate::cli) struct Table {
    rows: Vec<Vec<String>>,
    columns: usize,
}

impl Table {
    pub(in crate::cli) fn new(heads: &[&str]) -> Self {
        Self {
            rows: vec![heads.iter().map(|head| (*head).to_owned()).collect()],
            columns: heads.len(),
        }
    }

    /// Adds a row; what is missing is empty.
    pub(in crate::cli) fn row(&mut self, cells: &[&str]) {
        let cells = (0..self.columns).map(|column| {
            let width = if column + 1 == self.columns {
                LAST
            } else {
                WIDEST
            };
            output::plain(cells.get(column).copied().unwrap_or_default(), width)
        });
        self.rows.push(cells.collect());
    }

    fn lines(&self) -> Vec<String> {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or_default()
        };
        let widths: Vec<usize> = (0..self.columns).map(width).collect();
        let line = |row: &Vec<String>| {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&format!("{cell:<width$}  "));
            }
            line.trim_end().to_owned()
        };
        self.rows.iter().map(line).collect()
    }

    /// To stdout; `nothing` where there are no rows.
    pub(in crate::cli) fn say(&self, nothing: &str) -> io::Result<()> {
        if self.rows.len() < 2 {
            return output::say(nothing);
        }
        self.lines().iter().try_for_each(|line| output::say(line))
    }
}

/// A field as text for people: texts as they are, nothing for what is not there.
pub(super) fn field(value: &Value, name: &str) -> String {
    match value.get(name) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) => {
            let texts = items.iter().map(|item| match item {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            });
            texts.collect::<Vec<_>>().join(", ")
        }
        Some(other) => other.to_string(),
    }
}

/// A value by itself: one line with `json`, else for people.
pub(super) fn say_value(value: &Value, json: bool) -> anyhow::Result<()> {
    if json {
        output::say_json(value)?;
    } else {
        output::say(&serde_json::to_string_pretty(value)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_is_in_them_and_nothing_drives_the_terminal() {
        let mut table = Table::new(&["ID", "STATUS", "ERR"]);
        table.row(&["plant", "connected"]);
        table.row(&["a-longer-one", "disconnected", "refused\u{1b}[2J\nby ä"]);
        assert_eq!(
            table.lines(),
            [
                "ID            STATUS        ERR",
                "plant         connected",
                "a-longer-one  disconnected  refused\u{fffd}[2J by ä",
            ]
        );
    }

    #[test]
    fn a_field_is_text_whatever_it_is() {
        let value = json!({"a": "x", "b": 1, "c": ["r1", 2], "d": null});
        let texts: Vec<_> = ["a", "b", "c", "d", "e"]
            .iter()
            .map(|name| field(&value, name))
            .collect();
        assert_eq!(texts, ["x", "1", "r1, 2", "", ""]);
    }
}
