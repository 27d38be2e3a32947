//! The words of eKuiper's SQL: sqlparser's tokenizer with a dialect of our own, where double quotes
//! are strings, and a cursor over its tokens. Knows nothing of what the statements mean.

use sqlparser::dialect::Dialect;
use sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};

pub use crate::names::nearest;

/// A mistake in a statement: its place in the statement's text, and one sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct SyntaxError {
    /// Counted from 1.
    pub line: u32,
    /// Counted from 1, in characters.
    pub column: u32,
    /// What was found and what is allowed.
    pub message: String,
}

/// A place in a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Counted from 1.
    pub line: u32,
    /// Counted from 1, in characters.
    pub column: u32,
}

impl Place {
    /// A mistake here.
    pub fn error(self, message: impl Into<String>) -> SyntaxError {
        SyntaxError {
            line: self.line,
            column: self.column,
            message: message.into(),
        }
    }
}

impl Place {
    /// Where it is in this text, in bytes; the text's end for a place behind it.
    pub(super) fn offset_in(self, text: &str) -> usize {
        let (mut line, mut column) = (1, 1);
        for (offset, character) in text.char_indices() {
            if (line, column) == (self.line, self.column) {
                return offset;
            }
            if character == '\n' {
                (line, column) = (line + 1, 1);
            } else {
                column += 1;
            }
        }
        text.len()
    }
}

impl From<Location> for Place {
    fn from(at: Location) -> Self {
        Self {
            line: u32::try_from(at.line).unwrap_or(u32::MAX),
            column: u32::try_from(at.column).unwrap_or(u32::MAX),
        }
    }
}

/// eKuiper's lexical rules, as far as sqlparser's tokenizer asks for them.
#[derive(Debug)]
struct Ekuiper;

impl Dialect for Ekuiper {
    fn is_delimited_identifier_start(&self, ch: char) -> bool {
        ch == '`'
    }

    fn is_identifier_start(&self, ch: char) -> bool {
        ch.is_alphabetic() || ch == '_' || ch == '$'
    }

    fn is_identifier_part(&self, ch: char) -> bool {
        ch.is_alphanumeric() || ch == '_' || ch == '$'
    }

    fn supports_string_literal_backslash_escape(&self) -> bool {
        true
    }
}

/// A cursor over the tokens of one statement, white space and comments left out.
#[derive(Debug)]
pub struct Tokens {
    tokens: Vec<TokenWithSpan>,
    at: usize,
    end: Place,
}

impl Tokens {
    /// Cuts a statement into tokens.
    ///
    /// # Errors
    /// A string or comment without an end, or a character that nothing starts with.
    pub fn new(sql: &str) -> Result<Self, SyntaxError> {
        let tokens = Tokenizer::new(&Ekuiper, sql)
            .with_unescape(false)
            .tokenize_with_location()
            .map_err(|error| Place::from(error.location).error(error.message))?;
        let end = tokens
            .last()
            .map_or(Place { line: 1, column: 1 }, |last| last.span.end.into());
        let mut tokens: Vec<_> = tokens
            .into_iter()
            .filter(|token| !matches!(token.token, Token::Whitespace(_) | Token::EOF))
            .collect();
        while tokens
            .last()
            .is_some_and(|last| last.token == Token::SemiColon)
        {
            tokens.pop();
        }
        Ok(Self { tokens, at: 0, end })
    }

    /// The token that comes next.
    #[must_use]
    pub fn peek(&self) -> &Token {
        self.peek_at(0)
    }

    /// The token that comes `ahead` after the next one.
    #[must_use]
    pub fn peek_at(&self, ahead: usize) -> &Token {
        self.tokens
            .get(self.at + ahead)
            .map_or(&Token::EOF, |token| &token.token)
    }

    /// Where the next token stands.
    #[must_use]
    pub fn place(&self) -> Place {
        self.tokens
            .get(self.at)
            .map_or(self.end, |token| token.span.start.into())
    }

    /// Takes the next token.
    pub fn take(&mut self) -> Token {
        let token = self.peek().clone();
        self.at += 1;
        token
    }

    /// Takes the next token if it is this one.
    pub fn accept(&mut self, token: &Token) -> bool {
        let found = self.peek() == token;
        self.at += usize::from(found);
        found
    }

    /// Takes the next token, which must be this one.
    ///
    /// # Errors
    /// It is another one.
    pub fn expect(&mut self, token: &Token) -> Result<(), SyntaxError> {
        if self.accept(token) {
            Ok(())
        } else {
            self.fail(&format!("\"{token}\""))
        }
    }

    /// Whether the next token is this key word, in any case, without quotes.
    #[must_use]
    pub fn is_word(&self, word: &str) -> bool {
        self.word_at(0)
            .is_some_and(|next| next.eq_ignore_ascii_case(word))
    }

    /// The word without quotes that comes `ahead` after the next one.
    #[must_use]
    pub fn word_at(&self, ahead: usize) -> Option<&str> {
        match self.peek_at(ahead) {
            Token::Word(word) if word.quote_style.is_none() => Some(&word.value),
            _ => None,
        }
    }

    /// Takes the next token if it is this key word.
    pub fn accept_word(&mut self, word: &str) -> bool {
        let found = self.is_word(word);
        self.at += usize::from(found);
        found
    }

    /// Takes the next token, which must be this key word.
    ///
    /// # Errors
    /// It is another one.
    pub fn expect_word(&mut self, word: &str) -> Result<(), SyntaxError> {
        if self.accept_word(word) {
            Ok(())
        } else {
            self.fail(word)
        }
    }

    /// Takes a name: a word, or anything in back quotes.
    ///
    /// # Errors
    /// Something else stands there; in double quotes it is a text, which the sentence says.
    pub fn name(&mut self, what: &str) -> Result<String, SyntaxError> {
        match self.peek() {
            Token::Word(word) => {
                let name = word.value.clone();
                self.at += 1;
                Ok(name)
            }
            // The text itself is not shown: it may be a secret.
            Token::DoubleQuotedString(_) => Err(self.place().error(format!(
                "expected {what}, found a text; double quotes make a text, a name stands in back quotes"
            ))),
            _ => self.fail(what),
        }
    }

    /// Takes the next token if it is a text in quotes, and reads its escapes.
    ///
    /// # Errors
    /// An escape that does not exist.
    pub fn accept_string(&mut self) -> Result<Option<String>, SyntaxError> {
        let place = self.place();
        let (text, quote) = match self.peek() {
            Token::DoubleQuotedString(text) => (text, '"'),
            Token::SingleQuotedString(text) => (text, '\''),
            _ => return Ok(None),
        };
        let text = unescape(text, quote).map_err(|message| place.error(message))?;
        self.at += 1;
        Ok(Some(text))
    }

    /// Nothing is left.
    #[must_use]
    pub fn is_at_end(&self) -> bool {
        *self.peek() == Token::EOF
    }

    /// The mistake that the next token is not what was expected.
    ///
    /// # Errors
    /// Always.
    pub fn fail<T>(&self, expected: &str) -> Result<T, SyntaxError> {
        let found = match self.peek() {
            Token::EOF => "the end of the statement".to_owned(),
            Token::DoubleQuotedString(_) | Token::SingleQuotedString(_) => "a text".to_owned(),
            token => format!("{token}"),
        };
        Err(self
            .place()
            .error(format!("expected {expected}, found {found}")))
    }
}

/// Go's escapes, and a doubled quote.
fn unescape(text: &str, quote: char) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c == quote {
            // The tokenizer leaves a quote in only where it is doubled.
            chars.next();
        }
        if c != '\\' {
            out.push(c);
            continue;
        }
        out.push(match chars.next() {
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('0') => '\0',
            Some('u') => {
                let digits: String = chars.by_ref().take(4).collect();
                u32::from_str_radix(&digits, 16)
                    .ok()
                    .filter(|_| digits.len() == 4)
                    .and_then(char::from_u32)
                    .ok_or_else(|| format!("\\u{digits} is not a character"))?
            }
            Some(c @ ('\\' | '"' | '\'' | '/' | '%' | '_')) => c,
            Some(c) => {
                return Err(format!(
                    "unknown escape \\{c} in a text; write \\\\ for a backslash itself"
                ));
            }
            None => '\\',
        });
    }
    Ok(out)
}

/// `; did you mean "x"?`, or nothing.
#[must_use]
pub fn hint<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, candidates).map_or_else(String::new, |name| format!("; did you mean \"{name}\"?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn double_quotes_are_texts_and_back_quotes_are_names() {
        let mut tokens = Tokens::new(r#""a\"b" `my field` 'it''s' "C:\\x""#).unwrap();
        assert_eq!(tokens.accept_string().unwrap().unwrap(), "a\"b");
        assert_eq!(tokens.name("a name").unwrap(), "my field");
        assert_eq!(tokens.accept_string().unwrap().unwrap(), "it's");
        assert_eq!(tokens.accept_string().unwrap().unwrap(), r"C:\x");
        assert!(tokens.is_at_end());
    }

    #[test]
    fn an_unknown_escape_and_an_open_string_are_refused_with_their_place() {
        let error = Tokens::new("a\n  \"\\q\"").and_then(|mut t| {
            t.take();
            t.accept_string()
        });
        let error = error.unwrap_err();
        assert_eq!((error.line, error.column), (2, 3));
        assert!(error.message.contains("\\q"), "{error}");
        let error = Tokens::new("SELECT \"abc").unwrap_err();
        assert_eq!((error.line, error.column), (1, 8));
    }
}
