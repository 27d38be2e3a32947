//! What can be known of a statement without asking the database: its first word, that it is one
//! statement, where its placeholders stand, and whether its one row of values may be repeated. Reads
//! quotes and comments as each of the three databases does; sends nothing.

use std::ops::Range;

use crate::error::ConnectionError;

/// How a statement is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    Sqlite,
    Postgres,
    MySql,
}

impl Dialect {
    /// As `wit/sql.wit` names it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgresql",
            Self::MySql => "mysql",
        }
    }

    /// The most parameters of one statement. The two servers count them in 16 bits; SQLite's bound
    /// is the default of SQLITE_MAX_VARIABLE_NUMBER.
    pub(super) fn most_parameters(self) -> usize {
        match self {
            Self::Sqlite => 32_766,
            Self::Postgres | Self::MySql => 65_535,
        }
    }
}

/// What a statement to SQLite may begin with. ATTACH, VACUUM INTO and PRAGMA reach other files.
const SQLITE: [&str; 12] = [
    "SELECT", "WITH", "VALUES", "INSERT", "REPLACE", "UPDATE", "DELETE", "CREATE", "ALTER", "DROP",
    "EXPLAIN", "ANALYZE",
];

/// What would change the session of a connection that others use next, or speaks another protocol
/// than that of statements and rows.
const SESSION: [&str; 27] = [
    "BEGIN",
    "START",
    "COMMIT",
    "END",
    "ROLLBACK",
    "ABORT",
    "SAVEPOINT",
    "RELEASE",
    "SET",
    "RESET",
    "DISCARD",
    "USE",
    "LOCK",
    "UNLOCK",
    "PREPARE",
    "EXECUTE",
    "DEALLOCATE",
    "DECLARE",
    "FETCH",
    "MOVE",
    "CLOSE",
    "LISTEN",
    "UNLISTEN",
    "COPY",
    "LOAD",
    "XA",
    "HANDLER",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Word,
    Placeholder,
    Symbol(u8),
    /// A string, a quoted name, a number.
    Other,
}

#[derive(Clone, Debug)]
struct Token {
    kind: Kind,
    at: Range<usize>,
}

/// One statement, without the semicolon at its end.
#[derive(Clone, Debug)]
pub(super) struct Statement<'a> {
    pub(super) dialect: Dialect,
    pub(super) text: &'a str,
    tokens: Vec<Token>,
    first: String,
    /// Comments that MySQL runs as code.
    conditional: bool,
}

fn refused(sentence: &str) -> ConnectionError {
    ConnectionError::permanent("statement", sentence)
}

impl<'a> Statement<'a> {
    /// Reads it.
    ///
    /// # Errors
    /// `permanent`: nothing, more than one statement, or one that may not be sent.
    pub(super) fn parse(text: &'a str, dialect: Dialect) -> Result<Self, ConnectionError> {
        let mut lexer = Lexer {
            text: text.as_bytes(),
            at: 0,
            dialect,
            conditional: false,
        };
        let mut tokens = Vec::new();
        while let Some(token) = lexer.next_token() {
            tokens.push(token);
        }
        let semicolon = |token: &Token| token.kind == Kind::Symbol(b';');
        while tokens.last().is_some_and(semicolon) {
            tokens.pop();
        }
        let Some(last) = tokens.last() else {
            return Err(refused("the statement is empty"));
        };
        if tokens.iter().any(semicolon) {
            return Err(refused(
                "there is more than one statement; send one at a time",
            ));
        }
        let text = text.get(..last.at.end).unwrap_or(text);
        let first = tokens
            .iter()
            .find(|token| token.kind == Kind::Word)
            .and_then(|token| text.get(token.at.clone()))
            .unwrap_or_default()
            .to_ascii_uppercase();
        let allowed = match dialect {
            Dialect::Sqlite => SQLITE.contains(&first.as_str()),
            Dialect::Postgres | Dialect::MySql => !SESSION.contains(&first.as_str()),
        };
        if !allowed {
            return Err(refused(&format!(
                "a statement that begins with {first:.20} is not sent: the connection is shared, and it would change more than data and tables"
            )));
        }
        Ok(Self {
            dialect,
            text,
            tokens,
            first,
            conditional: lexer.conditional,
        })
    }

    /// Its first word, in capitals.
    pub(super) fn first(&self) -> &str {
        &self.first
    }

    /// How many values it wants, where their places can be counted: with numbers, the highest one.
    pub(super) fn parameters(&self) -> Option<usize> {
        if self.conditional {
            return None;
        }
        let mut count = 0;
        for text in self.placeholders() {
            match text.get(1..) {
                Some("") => count += 1,
                Some(number) => count = count.max(number.parse().ok()?),
                None => return None,
            }
        }
        Some(count)
    }

    fn placeholders(&self) -> impl Iterator<Item = &'a str> + '_ {
        self.tokens
            .iter()
            .filter(|token| token.kind == Kind::Placeholder)
            .filter_map(|token| self.text.get(token.at.clone()))
    }

    /// It holds this word outside quotes and comments.
    pub(super) fn has_word(&self, word: &str) -> bool {
        self.tokens.iter().any(|token| self.is_word(token, word))
    }

    fn is_word(&self, token: &Token, word: &str) -> bool {
        token.kind == Kind::Word
            && self
                .text
                .get(token.at.clone())
                .is_some_and(|text| text.eq_ignore_ascii_case(word))
    }

    /// The statement with each placeholder replaced by what `render` makes of its number, which
    /// starts at 1. Only for placeholders with numbers.
    pub(super) fn rendered(&self, render: &dyn Fn(usize) -> String) -> String {
        self.rendered_in(0..self.text.len(), render)
    }

    fn rendered_in(&self, range: Range<usize>, render: &dyn Fn(usize) -> String) -> String {
        let mut out = String::with_capacity(range.len());
        let mut done = range.start;
        for token in &self.tokens {
            let inside = token.at.start >= range.start && token.at.end <= range.end;
            if token.kind != Kind::Placeholder || !inside {
                continue;
            }
            let number = self.text.get(token.at.start + 1..token.at.end);
            let Some(number) = number.and_then(|number| number.parse().ok()) else {
                continue;
            };
            out.push_str(self.text.get(done..token.at.start).unwrap_or_default());
            out.push_str(&render(number));
            done = token.at.end;
        }
        out.push_str(self.text.get(done..range.end).unwrap_or_default());
        out
    }

    /// The one row of values of a plain `INSERT ... VALUES (...)`, where repeating it means the same
    /// as running the statement once per row: all placeholders stand in it, in their plain form.
    pub(super) fn row(&self) -> Option<Row<'_, 'a>> {
        if self.conditional || !matches!(self.first.as_str(), "INSERT" | "REPLACE") {
            return None;
        }
        let mut depth = 0_usize;
        let mut open = None;
        let mut row = None;
        let mut after_values = false;
        for (place, token) in self.tokens.iter().enumerate() {
            match token.kind {
                Kind::Symbol(b'(') => {
                    if depth == 0 && after_values {
                        open = Some(token.at.start);
                    }
                    depth += 1;
                }
                Kind::Symbol(b')') => {
                    depth = depth.checked_sub(1)?;
                    if depth == 0
                        && let Some(start) = open
                    {
                        row = Some((start..token.at.end, place));
                        break;
                    }
                }
                Kind::Word if depth == 0 && self.is_word(token, "VALUES") => {
                    after_values = true;
                    continue;
                }
                _ => {}
            }
            if after_values && depth == 0 {
                return None;
            }
        }
        let (range, last) = row?;
        let follows = self.tokens.get(last + 1);
        if follows.is_some_and(|token| token.kind != Kind::Word) {
            return None;
        }
        let mut placeholders = 0;
        for token in self.tokens.iter().filter(|t| t.kind == Kind::Placeholder) {
            let plain = self.dialect == Dialect::Postgres || token.at.len() == 1;
            if !plain || token.at.start < range.start || token.at.end > range.end {
                return None;
            }
            placeholders += 1;
        }
        (placeholders > 0).then_some(Row {
            statement: self,
            range,
        })
    }
}

/// See [`Statement::row`].
#[derive(Debug)]
pub(super) struct Row<'s, 'a> {
    statement: &'s Statement<'a>,
    range: Range<usize>,
}

impl Row<'_, '_> {
    /// The statement with its row of values `rows` times; `render` makes the placeholder of a row
    /// (from 0) and a number (from 1) where they have numbers.
    pub(super) fn repeated(&self, rows: usize, render: &dyn Fn(usize, usize) -> String) -> String {
        let text = self.statement.text;
        let mut out = text.get(..self.range.start).unwrap_or_default().to_owned();
        out.reserve(rows * self.range.len());
        for row in 0..rows {
            if row > 0 {
                out.push(',');
            }
            let one = self
                .statement
                .rendered_in(self.range.clone(), &|number| render(row, number));
            out.push_str(&one);
        }
        out.push_str(text.get(self.range.end..).unwrap_or_default());
        out
    }
}

struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
    dialect: Dialect,
    conditional: bool,
}

fn starts_name(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

fn in_name(byte: u8) -> bool {
    starts_name(byte) || byte.is_ascii_digit() || byte == b'$'
}

impl Lexer<'_> {
    fn peek(&self, ahead: usize) -> u8 {
        self.text.get(self.at + ahead).copied().unwrap_or(0)
    }

    fn rest(&self) -> &[u8] {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn next_token(&mut self) -> Option<Token> {
        self.skip_blank();
        let start = self.at;
        let byte = *self.text.get(start)?;
        let kind = match (byte, self.dialect) {
            (b'\'', _) => self.quoted(b'\'', self.dialect == Dialect::MySql),
            (b'"', _) => self.quoted(b'"', self.dialect == Dialect::MySql),
            (b'`', Dialect::MySql | Dialect::Sqlite) => self.quoted(b'`', false),
            (b'[', Dialect::Sqlite) => self.quoted(b']', false),
            (b'?', Dialect::MySql) => self.run(|_| false, Kind::Placeholder),
            (b'?', Dialect::Sqlite) => self.run(|b| b.is_ascii_digit(), Kind::Placeholder),
            (b':' | b'@' | b'$', Dialect::Sqlite) if in_name(self.peek(1)) => {
                self.run(in_name, Kind::Placeholder)
            }
            (b'$', Dialect::Postgres) if self.peek(1).is_ascii_digit() => {
                self.run(|b| b.is_ascii_digit(), Kind::Placeholder)
            }
            (b'$', Dialect::Postgres) => self.dollar_quoted(),
            _ if starts_name(byte) => {
                let escapes = matches!(byte, b'e' | b'E')
                    && self.peek(1) == b'\''
                    && self.dialect == Dialect::Postgres;
                if escapes {
                    self.at += 1;
                    self.quoted(b'\'', true)
                } else {
                    self.run(in_name, Kind::Word)
                }
            }
            _ if byte.is_ascii_digit() => self.run(in_name, Kind::Other),
            _ => self.run(|_| false, Kind::Symbol(byte)),
        };
        Some(Token {
            kind,
            at: start..self.at,
        })
    }

    /// One byte and all that belong to it.
    fn run(&mut self, belongs: impl Fn(u8) -> bool, kind: Kind) -> Kind {
        self.at += 1;
        while self.at < self.text.len() && belongs(self.peek(0)) {
            self.at += 1;
        }
        kind
    }

    /// Up to the quote that ends it, or the end of the text: the database then says what is wrong.
    fn quoted(&mut self, end: u8, escapes: bool) -> Kind {
        self.at += 1;
        while self.at < self.text.len() {
            let byte = self.peek(0);
            let doubled = byte == end && self.peek(1) == end && end != b']';
            if doubled || (byte == b'\\' && escapes) {
                self.at += 2;
            } else {
                self.at += 1;
                if byte == end {
                    break;
                }
            }
        }
        self.at = self.at.min(self.text.len());
        Kind::Other
    }

    /// `$tag$ ... $tag$`.
    fn dollar_quoted(&mut self) -> Kind {
        let rest = self.rest();
        let name = rest
            .iter()
            .skip(1)
            .position(|byte| !in_name(*byte) || *byte == b'$');
        let tag = match name {
            Some(length) if rest.get(length + 1) == Some(&b'$') => rest.get(..length + 2),
            _ => None,
        };
        let Some(tag) = tag else {
            return self.run(|_| false, Kind::Symbol(b'$'));
        };
        let body = rest.get(tag.len()..).unwrap_or_default();
        let end = body.windows(tag.len()).position(|window| window == tag);
        self.at = match end {
            Some(end) => self.at + end + 2 * tag.len(),
            None => self.text.len(),
        };
        Kind::Other
    }

    fn skip_blank(&mut self) {
        loop {
            let rest = self.rest();
            let my = self.dialect == Dialect::MySql;
            if rest.first().is_some_and(u8::is_ascii_whitespace) {
                self.at += 1;
            } else if (rest.starts_with(b"--") && (!my || self.peek(2) <= b' '))
                || (my && rest.starts_with(b"#"))
            {
                let line = rest.iter().position(|byte| *byte == b'\n');
                self.at += line.unwrap_or(rest.len());
            } else if rest.starts_with(b"/*") {
                self.conditional |= my && (rest.starts_with(b"/*!") || rest.starts_with(b"/*M!"));
                self.skip_comment();
            } else {
                return;
            }
        }
    }

    fn skip_comment(&mut self) {
        let mut depth = 0_usize;
        while self.at < self.text.len() {
            let rest = self.rest();
            if rest.starts_with(b"/*") && (depth == 0 || self.dialect == Dialect::Postgres) {
                depth += 1;
                self.at += 2;
            } else if rest.starts_with(b"*/") {
                depth -= 1;
                self.at += 2;
                if depth == 0 {
                    return;
                }
            } else {
                self.at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Dialect::{MySql, Postgres, Sqlite};
    use super::*;

    fn repeated(text: &str, dialect: Dialect) -> Option<String> {
        let statement = Statement::parse(text, dialect).unwrap();
        let row = statement.row()?;
        Some(row.repeated(2, &|row, number| format!("${}", row * 10 + number)))
    }

    #[test]
    fn a_plain_insert_is_repeated_and_its_tail_stays() {
        assert_eq!(
            repeated(
                "insert into t (a, b) values (?, lower(?)) ON DUPLICATE KEY UPDATE a = VALUES(a);",
                MySql
            )
            .unwrap(),
            "insert into t (a, b) values (?, lower(?)),(?, lower(?)) ON DUPLICATE KEY UPDATE a = VALUES(a)"
        );
        assert_eq!(
            repeated(
                "INSERT INTO t VALUES ($1, $2, $1) ON CONFLICT (a) DO NOTHING",
                Postgres
            )
            .unwrap(),
            "INSERT INTO t VALUES ($1, $2, $1),($11, $12, $11) ON CONFLICT (a) DO NOTHING"
        );
        assert!(repeated("INSERT INTO \"values\" VALUES (?)", Sqlite).is_some());
    }

    #[test]
    fn what_would_not_mean_the_same_is_not_repeated() {
        for (text, dialect) in [
            ("UPDATE t SET a = ? WHERE b = ?", MySql),
            ("INSERT INTO t SELECT ?", Sqlite),
            ("INSERT INTO t VALUES (?), (?)", Sqlite),
            ("INSERT INTO t VALUES (?1, ?1)", Sqlite),
            ("INSERT INTO t VALUES (1)", Sqlite),
            (
                "INSERT INTO t VALUES ($1) ON CONFLICT (a) DO UPDATE SET b = $2",
                Postgres,
            ),
            (
                "INSERT INTO t VALUES (?) ON DUPLICATE KEY UPDATE a = ?",
                MySql,
            ),
            ("INSERT INTO t VALUES /*! (1), */ (?)", MySql),
        ] {
            assert_eq!(repeated(text, dialect), None, "{text}");
        }
    }

    #[test]
    fn placeholders_in_quotes_and_comments_do_not_count() {
        for (text, dialect, count) in [
            ("SELECT '?', \"?\", `?`, ? -- ?\n/* ? */ # ?\n", MySql, 1),
            ("SELECT 'it\\'s ?', ?", MySql, 1),
            ("SELECT 'it''s ?', [?], ?", Sqlite, 1),
            (
                "SELECT '\\', $1, E'\\' $5', $a$ $7 $a$, a$9, \"$8\" /* /* $6 */ $6 */ || $2",
                Postgres,
                2,
            ),
            ("SELECT a ? 'b' FROM t WHERE c = $1", Postgres, 1),
        ] {
            let statement = Statement::parse(text, dialect).unwrap();
            assert_eq!(statement.parameters(), Some(count), "{text}");
        }
    }

    #[test]
    fn only_one_statement_and_none_that_reaches_beyond_the_data_is_sent() {
        let refused = |text: &str, dialect| Statement::parse(text, dialect).unwrap_err().message;
        for dialect in [Sqlite, Postgres, MySql] {
            assert!(refused("  -- nothing\n ; ", dialect).contains("empty"));
            assert!(refused("SELECT 1; DROP TABLE t", dialect).contains("more than one"));
            assert!(refused("/* x */ begin", dialect).contains("BEGIN"));
        }
        for text in [
            "ATTACH 'x' AS y",
            "VACUUM INTO 'x'",
            "pragma journal_mode=delete",
        ] {
            assert!(refused(text, Sqlite).contains("not sent"), "{text}");
        }
        assert!(Statement::parse("(select ';') union select 2;", Postgres).is_ok());
    }
}
