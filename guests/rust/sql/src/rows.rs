//! Rows as JSON objects, all of them in one piece of memory, as the contract's columns.
//!
//! How values look there: `Value::write_json`.

use windlass_connector::sql::Value;
use windlass_connector::{Columns, Error, write_json_text};

/// One message per row, under one subject. An empty subject is none.
///
/// # Errors
/// `misconfigured`: two columns have the same name, so that one value would be lost.
pub(crate) fn messages(
    names: &[String],
    rows: &[Vec<Value>],
    subject: &str,
) -> Result<Columns, Error> {
    // What stands before each value: `{"a":` and `,"b":`.
    let mut heads = Vec::with_capacity(names.len());
    for (place, name) in names.iter().enumerate() {
        if names.iter().take(place).any(|before| before == name) {
            return Err(Error::misconfigured(
                "columns",
                format!(
                    "two columns of the answer are named \"{name}\": give one of them another name with AS"
                ),
            ));
        }
        let mut head = vec![if place == 0 { b'{' } else { b',' }];
        write_json_text(&mut head, name);
        head.push(b':');
        heads.push(head);
    }
    let mut payloads = Vec::with_capacity(rows.len().saturating_mul(64));
    let mut ends = Vec::with_capacity(rows.len());
    for row in rows {
        if heads.is_empty() {
            payloads.push(b'{');
        }
        for (head, value) in heads.iter().zip(row) {
            payloads.extend_from_slice(head);
            value.write_json(&mut payloads);
        }
        payloads.push(b'}');
        // An answer is far below the 4 GiB that a guest can hold.
        ends.push(u32::try_from(payloads.len()).unwrap_or(u32::MAX));
    }
    Ok(Columns {
        payloads,
        ends,
        subjects: Some(subject.to_owned())
            .filter(|subject| !subject.is_empty())
            .into_iter()
            .collect(),
        subject_of: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(columns: &Columns) -> Vec<String> {
        let mut begin = 0;
        let cut = |end: &u32| {
            let text = String::from_utf8(columns.payloads[begin..*end as usize].to_vec()).unwrap();
            begin = *end as usize;
            text
        };
        columns.ends.iter().map(cut).collect()
    }

    #[test]
    fn every_kind_of_value_has_its_place_in_json_without_loss() {
        let names = ["i", "r", "t", "b", "n", "y", "x"].map(str::to_owned);
        let rows = [
            vec![
                Value::Integer(i64::MAX),
                Value::Real(0.1),
                Value::Text("a\"\\\n\u{1}ö€".to_owned()),
                Value::Blob(vec![0xff, 0]),
                Value::Null,
                Value::Boolean(true),
                Value::Real(f64::NAN),
            ],
            vec![
                Value::Integer(i64::MIN),
                Value::Real(-2.0),
                Value::Text(String::new()),
                Value::Blob(Vec::new()),
                Value::Null,
                Value::Boolean(false),
                Value::Real(f64::NEG_INFINITY),
            ],
        ];
        let columns = messages(&names, &rows, "plant").unwrap();
        assert_eq!(
            texts(&columns),
            [
                r#"{"i":9223372036854775807,"r":0.1,"t":"a\"\\\n\u0001ö€","b":"/wA=","n":null,"y":true,"x":"NaN"}"#,
                r#"{"i":-9223372036854775808,"r":-2.0,"t":"","b":"","n":null,"y":false,"x":"-Infinity"}"#,
            ]
        );
        assert_eq!(columns.subjects, ["plant"]);
        assert!(messages(&names, &rows, "").unwrap().subjects.is_empty());
    }

    #[test]
    fn two_columns_of_one_name_are_misconfigured_and_a_name_may_hold_anything() {
        let names = ["a", "b", "a"].map(str::to_owned);
        let error = messages(&names, &[], "").unwrap_err();
        assert!(error.message.contains("\"a\""), "{}", error.message);
        let odd = messages(&["a\"b".to_owned()], &[vec![Value::Integer(1)]], "").unwrap();
        assert_eq!(texts(&odd), [r#"{"a\"b":1}"#]);
    }
}
