//! Cuts bytes into lines and lines into CSV fields. No file, no task.

use std::io;

use serde_json::{Map, Value};
use tokio::io::{AsyncBufRead, AsyncBufReadExt};

/// What [`next_line`] found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// A line is in the buffer, without its end.
    Whole,
    /// A line longer than the limit was skipped; the buffer holds its head.
    TooLong,
    /// No more.
    End,
}

/// Reads one line into `line` (`\n` or `\r\n` ends it, or the end of the file) and adds the bytes it
/// took to `offset`. Never holds more than `limit` bytes.
pub(super) async fn next_line(
    from: &mut (impl AsyncBufRead + Unpin),
    line: &mut Vec<u8>,
    limit: usize,
    offset: &mut u64,
) -> io::Result<Line> {
    line.clear();
    let (mut any, mut too_long) = (false, false);
    loop {
        let bytes = from.fill_buf().await?;
        if bytes.is_empty() {
            break;
        }
        any = true;
        let end = bytes.iter().position(|&byte| byte == b'\n');
        let taken = end.map_or(bytes.len(), |end| end + 1);
        let room = limit.saturating_sub(line.len());
        let text = bytes.get(..end.unwrap_or(taken)).unwrap_or_default();
        too_long |= text.len() > room;
        line.extend_from_slice(text.get(..room.min(text.len())).unwrap_or_default());
        from.consume(taken);
        *offset += u64::try_from(taken).unwrap_or(u64::MAX);
        if end.is_some() {
            break;
        }
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(match (any, too_long) {
        (false, _) => Line::End,
        (true, true) => Line::TooLong,
        (true, false) => Line::Whole,
    })
}

/// A quoted field of this row goes on in the next line (RFC 4180, section 2.6).
pub(super) fn is_open(row: &[u8]) -> bool {
    row.iter().filter(|&&byte| byte == b'"').count() % 2 == 1
}

/// The fields of a row. A quote inside a quoted field is doubled.
pub(super) fn fields(row: &str, delimiter: u8) -> Vec<String> {
    let delimiter = char::from(delimiter);
    let (mut fields, mut field, mut quoted) = (Vec::new(), String::new(), false);
    let mut chars = row.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' if quoted => quoted = false,
            '"' if field.is_empty() => quoted = true,
            other if other == delimiter && !quoted => fields.push(std::mem::take(&mut field)),
            other => field.push(other),
        }
    }
    fields.push(field);
    fields
}

/// A row as an object of texts. Without a name for a column: `cols0`, `cols1`, ... as in eKuiper.
pub(super) fn row_object(row: &str, delimiter: u8, names: &[String]) -> Map<String, Value> {
    let named = |(place, field)| {
        let name = names
            .get(place)
            .cloned()
            .unwrap_or_else(|| format!("cols{place}"));
        (name, Value::String(field))
    };
    fields(row, delimiter)
        .into_iter()
        .enumerate()
        .map(named)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines(text: &str, limit: usize) -> Vec<(Line, String, u64)> {
        let (mut from, mut line, mut offset) = (text.as_bytes(), Vec::new(), 0);
        let mut all = Vec::new();
        loop {
            let found = next_line(&mut from, &mut line, limit, &mut offset)
                .await
                .unwrap();
            if found == Line::End {
                return all;
            }
            all.push((found, String::from_utf8(line.clone()).unwrap(), offset));
        }
    }

    #[tokio::test]
    async fn lines_end_as_on_any_system_and_a_long_one_is_skipped_whole() {
        let found = lines("a\r\n\nlong line\nlast", 4).await;
        let whole = |text: &str, offset| (Line::Whole, text.to_owned(), offset);
        let long = (Line::TooLong, "long".to_owned(), 14);
        assert_eq!(
            found,
            [whole("a", 3), whole("", 4), long, whole("last", 18)]
        );
    }

    #[test]
    fn quotes_delimiters_and_missing_names_are_read_as_rfc_4180_says() {
        assert_eq!(
            fields(r#"a,"b, ""c""",,d"#, b','),
            ["a", r#"b, "c""#, "", "d"]
        );
        assert_eq!(fields("a;b", b';'), ["a", "b"]);
        assert!(is_open(r#"a,"b"#.as_bytes()) && !is_open(br#"a,"b""#));
        let object = row_object("1,2", b',', &["id".to_owned()]);
        assert_eq!(
            serde_json::to_string(&object).unwrap(),
            r#"{"id":"1","cols1":"2"}"#
        );
    }
}
