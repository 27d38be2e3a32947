//! `CREATE STREAM name (columns) WITH (OPTION="value", ...)`: reads the statement and checks all that
//! can be checked without knowing which connectors and conf keys exist.

use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};
use sqlparser::tokenizer::Token;

use super::rows::{Delimited, Format};
use super::tokens::{Place, SyntaxError, Tokens, hint};

/// A column that a stream declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: FieldType,
}

/// The type of a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldType {
    /// `BIGINT`, `FLOAT`, `STRING`, `DATETIME`, `BOOLEAN` or `BYTEA`, in lower case.
    Plain(&'static str),
    /// `ARRAY(type)`
    Array(Box<FieldType>),
    /// `STRUCT(name type, ...)`
    Struct(Vec<Field>),
}

impl fmt::Display for FieldType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(name) => f.write_str(name),
            Self::Array(_) => f.write_str("array"),
            Self::Struct(_) => f.write_str("struct"),
        }
    }
}

/// The names of the format that a payload may have here.
pub const FORMATS: [&str; 3] = ["json", "binary", "delimited"];
const FOREIGN_FORMATS: [&str; 4] = ["protobuf", "urlencoded", "custom", "xml"];
const TYPES: [&str; 6] = ["bigint", "float", "string", "datetime", "boolean", "bytea"];
const OPTIONS: [&str; 16] = [
    "DATASOURCE",
    "TYPE",
    "FORMAT",
    "CONF_KEY",
    "SHARED",
    "KEY",
    "TIMESTAMP",
    "TIMESTAMP_FORMAT",
    "SCHEMAID",
    "STRICT_VALIDATION",
    "DELIMITER",
    "RETAIN_SIZE",
    "KIND",
    "EXTRA",
    "VERSION",
    "TEMP",
];

/// A stream as its statement defines it.
#[derive(Clone)]
pub struct StreamStatement {
    /// Its name.
    pub name: String,
    /// The declared columns; empty: whatever comes.
    pub fields: Vec<Field>,
    /// Topic, path, table: what the connector reads.
    pub datasource: String,
    /// The source connector, in lower case.
    pub typ: String,
    /// `json`, `binary` or `delimited`.
    pub format: String,
    /// The named configuration of the source.
    pub conf_key: Option<String>,
    /// One source instance for all rules.
    pub shared: bool,
    /// Between the values of a delimited payload.
    pub delimiter: String,
    /// Properties that go over those of the conf key. May hold secrets.
    pub extra: Map<String, Value>,
    /// `TIMESTAMP`, kept for display.
    pub timestamp: Option<String>,
    /// `TIMESTAMP_FORMAT`, kept for display.
    pub timestamp_format: Option<String>,
    /// `KEY`, kept for display.
    pub key: Option<String>,
    /// `SCHEMAID`, kept for display.
    pub schema_id: Option<String>,
    /// `STRICT_VALIDATION`, kept for display.
    pub strict_validation: bool,
    /// A word for comparing definitions.
    pub version: Option<String>,
    /// Not to be kept across a restart.
    pub temp: bool,
    /// Options that change nothing here, each with its place and the reason.
    pub warnings: Vec<SyntaxError>,
    type_place: Place,
    /// From the text of EXTRA to what comes behind it.
    extra_span: Option<(Place, Place)>,
}

/// Without `EXTRA`, which may hold secrets.
impl fmt::Debug for StreamStatement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamStatement")
            .field("name", &self.name)
            .field("typ", &self.typ)
            .field("datasource", &self.datasource)
            .field("format", &self.format)
            .finish_non_exhaustive()
    }
}

impl StreamStatement {
    /// Reads `CREATE STREAM`.
    ///
    /// # Errors
    /// The place in `sql`, and a sentence with what is allowed. Never the value of an option that may
    /// hold a secret.
    pub fn parse(sql: &str) -> Result<Self, SyntaxError> {
        let mut tokens = Tokens::new(sql)?;
        tokens.expect_word("CREATE")?;
        if tokens.is_word("table") {
            return Err(tokens.place().error(
                "tables serve joins, which a rule here does not do; write CREATE STREAM, and look values up downstream",
            ));
        }
        tokens.expect_word("STREAM")?;
        let name = tokens.name("the stream's name")?;
        let fields = columns(&mut tokens, 0)?;
        let mut stream = Self {
            name,
            fields,
            datasource: String::new(),
            typ: "mqtt".to_owned(),
            format: "json".to_owned(),
            conf_key: None,
            shared: false,
            delimiter: ",".to_owned(),
            extra: Map::new(),
            timestamp: None,
            timestamp_format: None,
            key: None,
            schema_id: None,
            strict_validation: false,
            version: None,
            temp: false,
            warnings: Vec::new(),
            type_place: tokens.place(),
            extra_span: None,
        };
        tokens.expect_word("WITH")?;
        tokens.expect(&Token::LParen)?;
        let mut seen: Vec<String> = Vec::new();
        while !tokens.accept(&Token::RParen) {
            let place = tokens.place();
            let option = tokens.name("the name of an option")?.to_uppercase();
            if seen.contains(&option) {
                return Err(place.error(format!("option {option} stands twice")));
            }
            if !OPTIONS.contains(&option.as_str()) {
                let hint = hint(&option, OPTIONS);
                let all = OPTIONS.join(", ");
                return Err(place.error(format!("unknown option {option}{hint} Allowed: {all}")));
            }
            tokens.expect(&Token::Eq)?;
            stream.option(&option, place, &mut tokens)?;
            seen.push(option);
            if *tokens.peek() != Token::RParen {
                tokens.expect(&Token::Comma)?;
            }
        }
        if !tokens.is_at_end() {
            return tokens.fail("the end of the statement");
        }
        Ok(stream)
    }

    /// Checks the source type against the names that exist.
    ///
    /// # Errors
    /// It is not among them: the place, and the nearest name.
    pub fn check_type<'a>(
        &self,
        known: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), SyntaxError> {
        let known: Vec<_> = known.into_iter().collect();
        if known.contains(&self.typ.as_str()) {
            return Ok(());
        }
        let hint = hint(&self.typ, known.iter().copied());
        let message = format!(
            "unknown TYPE \"{}\"{hint} Known: {}",
            self.typ,
            known.join(", ")
        );
        Err(self.type_place.error(message))
    }

    /// The text `sql` that this was read from, with another EXTRA: for showing it without its secrets.
    #[must_use]
    pub fn with_extra(&self, sql: &str, extra: &str) -> String {
        let Some((start, end)) = self.extra_span else {
            return sql.to_owned();
        };
        let (start, end) = (start.offset_in(sql), end.offset_in(sql));
        let (before, behind) = (sql.get(..start), sql.get(end..));
        let quoted = extra.replace('\\', "\\\\").replace('"', "\\\"");
        format!(
            "{}\"{quoted}\"{}",
            before.unwrap_or_default(),
            behind.unwrap_or_default()
        )
    }

    /// How its payloads are to be read.
    #[must_use]
    pub fn row_format(&self) -> Format {
        match self.format.as_str() {
            "binary" => Format::Binary,
            "delimited" => Format::Delimited(Arc::new(Delimited {
                delimiter: self.delimiter.clone(),
                columns: self.fields.iter().map(column).collect(),
            })),
            _ => Format::Json,
        }
    }

    fn option(
        &mut self,
        option: &str,
        place: Place,
        tokens: &mut Tokens,
    ) -> Result<(), SyntaxError> {
        let at = tokens.place();
        let value = match tokens.accept_string()? {
            Some(text) => text,
            None => match tokens.take() {
                Token::Word(word) => word.value,
                Token::Number(digits, _) => digits,
                _ => {
                    return Err(at.error(format!(
                        "{option} takes a text in double quotes, TRUE or FALSE"
                    )));
                }
            },
        };
        if option == "EXTRA" {
            self.extra_span = Some((at, tokens.place()));
        }
        let flag = || match value.to_ascii_lowercase().as_str() {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(at.error(format!("{option} takes TRUE or FALSE"))),
        };
        let mut warn = |why: &str| self.warnings.push(place.error(format!("{option} {why}")));
        match option {
            "DATASOURCE" => self.datasource = value,
            "TYPE" => {
                if value.is_empty() {
                    return Err(at.error("TYPE is empty; leave it out for mqtt"));
                }
                self.typ = value.to_lowercase();
                self.type_place = at;
            }
            "FORMAT" => self.format = format(&value, at)?,
            "CONF_KEY" => self.conf_key = Some(value).filter(|key| !key.is_empty()),
            "SHARED" => self.shared = flag()?,
            "DELIMITER" => {
                if value.is_empty() {
                    return Err(at.error("DELIMITER is empty; it takes one or more characters"));
                }
                self.delimiter = value;
            }
            "EXTRA" => {
                self.extra = match serde_json::from_str(&value) {
                    Ok(extra) => extra,
                    Err(error) => {
                        return Err(at.error(format!(
                            "EXTRA takes a JSON object as text; it breaks at line {}, column {} of that text",
                            error.line(),
                            error.column()
                        )));
                    }
                };
            }
            "TEMP" => self.temp = flag()?,
            "VERSION" => self.version = Some(value),
            "STRICT_VALIDATION" => {
                self.strict_validation = flag()?;
                if self.strict_validation {
                    self.warnings.push(place.error(
                        "STRICT_VALIDATION changes nothing here: messages are not checked against the columns; write the check in WHERE",
                    ));
                }
            }
            "TIMESTAMP" => {
                warn("changes nothing here: there are no windows, so that event time is not used");
                self.timestamp = Some(value);
            }
            "TIMESTAMP_FORMAT" => {
                warn("changes nothing here: there are no windows, so that event time is not used");
                self.timestamp_format = Some(value);
            }
            "KEY" => {
                warn("changes nothing here: it is for joins");
                self.key = Some(value);
            }
            "SCHEMAID" => {
                warn("changes nothing here: no format needs a schema");
                self.schema_id = Some(value);
            }
            "KIND" if value.eq_ignore_ascii_case("lookup") => {
                return Err(at.error("KIND=\"lookup\" is for tables; a stream is scanned"));
            }
            _ => warn("changes nothing here: it is for tables"),
        }
        Ok(())
    }
}

/// A type that a delimited value is converted to; others stay texts.
fn column(field: &Field) -> (String, Option<String>) {
    let kind = match &field.kind {
        FieldType::Plain(kind @ ("bigint" | "float" | "boolean")) => Some((*kind).to_owned()),
        _ => None,
    };
    (field.name.clone(), kind)
}

fn format(value: &str, at: Place) -> Result<String, SyntaxError> {
    let lower = value.to_lowercase();
    if FORMATS.contains(&lower.as_str()) {
        return Ok(lower);
    }
    let allowed = FORMATS.join(", ");
    Err(if FOREIGN_FORMATS.contains(&lower.as_str()) {
        at.error(format!(
            "FORMAT \"{lower}\" is not decoded by the host; let the connector decode it, or take \"binary\". Allowed: {allowed}"
        ))
    } else {
        let hint = hint(&lower, FORMATS);
        at.error(format!(
            "unknown FORMAT \"{lower}\"{hint} Allowed: {allowed}"
        ))
    })
}

fn columns(tokens: &mut Tokens, depth: u8) -> Result<Vec<Field>, SyntaxError> {
    tokens.expect(&Token::LParen)?;
    let mut fields: Vec<Field> = Vec::new();
    while !tokens.accept(&Token::RParen) {
        let place = tokens.place();
        let name = tokens.name("a column's name")?;
        if fields.iter().any(|field| field.name == name) {
            return Err(place.error(format!("column {name} stands twice")));
        }
        let kind = column_type(tokens, depth)?;
        fields.push(Field { name, kind });
        if *tokens.peek() != Token::RParen {
            tokens.expect(&Token::Comma)?;
        }
    }
    Ok(fields)
}

fn column_type(tokens: &mut Tokens, depth: u8) -> Result<FieldType, SyntaxError> {
    let place = tokens.place();
    if depth > 32 {
        return Err(place.error("types are nested more than 32 deep"));
    }
    let name = tokens.name("a column's type")?.to_lowercase();
    match name.as_str() {
        "array" => {
            tokens.expect(&Token::LParen)?;
            let inner = column_type(tokens, depth + 1)?;
            tokens.expect(&Token::RParen)?;
            Ok(FieldType::Array(Box::new(inner)))
        }
        "struct" => Ok(FieldType::Struct(columns(tokens, depth + 1)?)),
        _ => match TYPES.iter().find(|known| **known == name) {
            Some(known) => Ok(FieldType::Plain(known)),
            None => {
                let hint = hint(&name, TYPES.into_iter().chain(["array", "struct"]));
                Err(place.error(format!(
                    "unknown type {name}{hint} Allowed: {}, array(type), struct(name type, ...)",
                    TYPES.join(", ")
                )))
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_gives_all_its_options() {
        let stream = StreamStatement::parse(
            r#"create stream demo (id BIGINT, `my tag` string, pos STRUCT(x FLOAT, tags ARRAY(STRING)))
               with (datasource="plant/+/x", Type="MQTT", FORMAT="Delimited", CONF_KEY="line1", SHARED=TRUE,
               DELIMITER="\t", EXTRA="{\"qos\":1,\"password\":\"x\"}", TIMESTAMP="ts", TEMP="true", RETAIN_SIZE="3");"#,
        )
        .unwrap();
        assert_eq!(
            (stream.name.as_str(), stream.typ.as_str()),
            ("demo", "mqtt")
        );
        assert_eq!(
            (stream.datasource.as_str(), stream.format.as_str()),
            ("plant/+/x", "delimited")
        );
        assert_eq!(stream.conf_key.as_deref(), Some("line1"));
        assert!(stream.shared && stream.temp);
        assert_eq!(stream.delimiter, "\t");
        assert_eq!(stream.extra.get("qos"), Some(&Value::from(1)));
        assert_eq!(stream.fields[1].name, "my tag");
        assert_eq!(stream.fields[0].kind, FieldType::Plain("bigint"));
        assert!(matches!(&stream.fields[2].kind, FieldType::Struct(inner) if inner.len() == 2));
        let warned: Vec<_> = stream.warnings.iter().map(|w| w.message.as_str()).collect();
        assert_eq!(warned.len(), 2, "{warned:?}");
        assert!(warned[0].starts_with("TIMESTAMP changes nothing") && warned[1].contains("tables"));
        let Format::Delimited(how) = stream.row_format() else {
            panic!()
        };
        assert_eq!(how.columns[0], ("id".to_owned(), Some("bigint".to_owned())));
    }

    #[test]
    fn the_shortest_statement_is_mqtt_with_json() {
        let stream = StreamStatement::parse(r#"CREATE STREAM s () WITH (DATASOURCE="t")"#).unwrap();
        assert_eq!(
            (stream.typ.as_str(), stream.format.as_str()),
            ("mqtt", "json")
        );
        assert!(stream.fields.is_empty() && stream.warnings.is_empty() && !stream.shared);
    }

    #[test]
    fn mistakes_name_the_place_and_the_nearest_valid_name() {
        for (sql, line, column, part) in [
            (
                "CREATE STREAM s () WITH (\n DATASUORCE=\"t\")",
                2,
                2,
                "did you mean \"DATASOURCE\"?",
            ),
            (
                "CREATE STREAM s () WITH (FORMAT=\"jsno\")",
                1,
                33,
                "did you mean \"json\"?",
            ),
            (
                "CREATE STREAM s () WITH (FORMAT=\"protobuf\")",
                1,
                33,
                "let the connector decode it",
            ),
            (
                "CREATE STREAM s (a BIGNIT) WITH ()",
                1,
                20,
                "did you mean \"bigint\"?",
            ),
            (
                "CREATE STREAM s (a BIGINT, a FLOAT) WITH ()",
                1,
                28,
                "column a stands twice",
            ),
            (
                "CREATE STREAM s () WITH (SHARED=\"yes\")",
                1,
                33,
                "TRUE or FALSE",
            ),
            (
                "CREATE STREAM s () WITH (EXTRA=\"{\\\"password\\\":hush}\")",
                1,
                32,
                "EXTRA takes a JSON object",
            ),
            (
                "CREATE STREAM s () WITH (TYPE=\"a\", type=\"b\")",
                1,
                36,
                "TYPE stands twice",
            ),
            ("CREATE TABLE t () WITH ()", 1, 8, "CREATE STREAM"),
            ("CREATE STREAM s", 1, 16, "expected \"(\""),
            ("CREATE STREAM \"s\" () WITH ()", 1, 15, "back quotes"),
            (
                "CREATE STREAM s () WITH () x",
                1,
                28,
                "end of the statement",
            ),
        ] {
            let error = StreamStatement::parse(sql).unwrap_err();
            assert_eq!((error.line, error.column), (line, column), "{sql}: {error}");
            assert!(error.message.contains(part), "{sql}: {error}");
            assert!(!error.message.contains("hush"), "a secret is in: {error}");
        }
    }

    #[test]
    fn an_unknown_source_type_names_the_nearest() {
        let stream = StreamStatement::parse("CREATE STREAM s () WITH (TYPE=\"mqqt\")").unwrap();
        let error = stream.check_type(["mqtt", "http"]).unwrap_err();
        assert_eq!(error.column, 31);
        assert!(error.message.contains("did you mean \"mqtt\"?"), "{error}");
        assert!(stream.check_type(["mqqt"]).is_ok());
    }
}
