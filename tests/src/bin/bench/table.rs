//! Rows, their bars, and the table.

use serde_json::{Value, json};

/// One figure beside its bars. Less is better in all of them.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) unit: &'static str,
    /// At least as good as the best peer.
    pub(crate) must: f64,
    /// What a good design should reach.
    pub(crate) aim: f64,
    /// None: it could not be measured.
    pub(crate) value: Option<f64>,
    /// The absolute figures behind a ratio, and whatever else belongs to it.
    pub(crate) note: String,
    /// A verdict that does not follow from the value.
    said: Option<&'static str>,
}

impl Row {
    pub(crate) fn new(
        what: &str,
        unit: &'static str,
        must: f64,
        aim: f64,
        value: f64,
        note: String,
    ) -> Self {
        let value = value.is_finite().then_some(value);
        Self {
            what: what.to_owned(),
            unit,
            must,
            aim,
            value,
            note,
            said: None,
        }
    }

    /// A figure without a bar.
    pub(crate) fn plain(what: &str, unit: &'static str, value: f64, note: String) -> Self {
        Self::new(what, unit, f64::NAN, f64::NAN, value, note)
    }

    /// A row whose measurement failed.
    pub(crate) fn missing(name: &str) -> Self {
        Self::failed(name, "see above")
    }

    /// A row whose measurement broke off, with the reason.
    pub(crate) fn failed(name: &str, why: &str) -> Self {
        Self::plain(name, "", f64::NAN, format!("could not be measured: {why}"))
    }

    /// A row with nothing to measure, and why that is so.
    pub(crate) fn none(name: &str, why: &str) -> Self {
        Self {
            said: Some(""),
            ..Self::plain(name, "", f64::NAN, why.to_owned())
        }
    }

    /// Missed whatever the figure says, and why.
    pub(crate) fn broken(self, why: String) -> Self {
        Self {
            said: Some("MISSED"),
            note: format!("{why}; {}", self.note),
            ..self
        }
    }

    fn verdict(&self) -> &'static str {
        if let Some(said) = self.said {
            return said;
        }
        match self.value {
            None => "?",
            Some(_) if self.must.is_nan() => "",
            Some(value) if value <= self.aim => "aim",
            Some(value) if value <= self.must => "must",
            Some(_) => "MISSED",
        }
    }
}

/// A figure with as many digits as say something.
fn figure(value: f64) -> String {
    match value {
        v if v.is_nan() => "-".to_owned(),
        0.0 => "0".to_owned(),
        v if v.abs() >= 100.0 => format!("{v:.0}"),
        v if v.abs() >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

/// The rows as a table in Markdown.
pub(crate) fn render(rows: &[Row]) -> String {
    let mut lines = vec![
        ["", "unit", "must", "aim", "measured", "", "note"].map(str::to_owned),
        ["-", "-", "-", "-", "-", "-", "-"].map(str::to_owned),
    ];
    for row in rows {
        let measured = row.value.map_or_else(|| "-".to_owned(), figure);
        let cells = [
            row.what.clone(),
            row.unit.to_owned(),
            figure(row.must),
            figure(row.aim),
            measured,
            row.verdict().to_owned(),
            row.note.clone(),
        ];
        lines.push(cells);
    }
    let width = |column: usize| {
        lines
            .iter()
            .map(|cells| cells[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..7).map(width).collect();
    let mut out = String::new();
    for cells in &lines {
        let padded: Vec<String> = cells
            .iter()
            .zip(&widths)
            .map(|(cell, &width)| {
                let fill = if cell == "-" && cells[0] == "-" {
                    "-"
                } else {
                    " "
                };
                format!("{cell}{}", fill.repeat(width - cell.chars().count()))
            })
            .collect();
        out.push_str(&format!("| {} |\n", padded.join(" | ")));
    }
    out
}

/// The same for programs.
pub(crate) fn json(rows: &[Row]) -> Value {
    let number = |value: f64| {
        if value.is_finite() {
            json!(value)
        } else {
            Value::Null
        }
    };
    rows.iter()
        .map(|row| {
            json!({
                "what": row.what, "unit": row.unit, "must": number(row.must), "aim": number(row.aim),
                "value": row.value, "verdict": row.verdict(), "note": row.note,
            })
        })
        .collect()
}
