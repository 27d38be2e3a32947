//! Cuts a template into plain text and the words of its actions, each with its place.

use super::TemplateError;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Word {
    Text(String),
    /// `{{`
    Open,
    /// `}}`
    Close,
    /// `.`, or `.a.b`
    Dot(Vec<String>),
    /// `$x`, or `$x.a.b`; the name of `$` itself is empty
    Variable(String, Vec<String>),
    /// `.a` behind a closing parenthesis
    Name(String),
    Constant(serde_json::Value),
    /// `(`
    Left,
    /// `)`
    Right,
    /// `|`
    Pipe,
    Comma,
    /// `:=`
    Declare,
    /// `=`
    Assign,
}

pub(super) type Words = Vec<(Word, usize)>;

pub(super) fn words(template: &str) -> Result<Words, TemplateError> {
    let mut words = Words::new();
    let mut at = 0;
    let mut trim = false;
    loop {
        let rest = template.get(at..).unwrap_or_default();
        let (text, open) = match rest.find("{{") {
            Some(found) => (rest.get(..found).unwrap_or_default(), Some(at + found)),
            None => (rest, None),
        };
        let mut text = if trim { text.trim_start() } else { text };
        let Some(open) = open else {
            if !text.is_empty() {
                words.push((Word::Text(text.to_owned()), at));
            }
            return Ok(words);
        };
        let mut lexer = Lexer {
            template,
            at: open + 2,
        };
        // `{{-3}}` is a number: the mark for trimming is followed by white space.
        if lexer.rest().starts_with('-')
            && lexer.rest().chars().nth(1).is_some_and(char::is_whitespace)
        {
            lexer.at += 1;
            text = text.trim_end();
        }
        if !text.is_empty() {
            words.push((Word::Text(text.to_owned()), at));
        }
        if lexer.rest().trim_start().starts_with("/*") {
            trim = lexer.comment(open)?;
        } else {
            words.push((Word::Open, open));
            trim = lexer.action(open, &mut words)?;
        }
        at = lexer.at;
    }
}

struct Lexer<'a> {
    template: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        self.template.get(self.at..).unwrap_or_default()
    }

    fn fail<T>(&self, at: usize, message: impl Into<String>) -> Result<T, TemplateError> {
        Err(TemplateError::at(self.template, at, message))
    }

    /// Steps behind `*/}}`; true if the text after it is to be trimmed.
    fn comment(&mut self, open: usize) -> Result<bool, TemplateError> {
        let Some(end) = self.rest().find("*/") else {
            return self.fail(open, "a comment does not end; it ends with */}}");
        };
        self.at += end + 2;
        match self.close() {
            Some(trim) => Ok(trim),
            None => self.fail(self.at, "nothing may follow a comment in its braces"),
        }
    }

    /// Steps behind `}}` or ` -}}`, if they come next.
    fn close(&mut self) -> Option<bool> {
        let rest = self.rest();
        let start = rest.trim_start();
        let space = rest.len() - start.len();
        let (trim, length) = match start {
            _ if start.starts_with("}}") => (false, 2),
            _ if space > 0 && start.starts_with("-}}") => (true, 3),
            _ => return None,
        };
        self.at += space + length;
        Some(trim)
    }

    fn action(&mut self, open: usize, words: &mut Words) -> Result<bool, TemplateError> {
        loop {
            if let Some(trim) = self.close() {
                words.push((Word::Close, self.at));
                return Ok(trim);
            }
            self.at += self.rest().len() - self.rest().trim_start().len();
            let at = self.at;
            let Some(next) = self.rest().chars().next() else {
                return self.fail(open, "an action does not end; it ends with }}");
            };
            let after_parenthesis =
                matches!(words.last(), Some((Word::Right, end)) if *end + 1 == at);
            let word = match next {
                '.' if self
                    .rest()
                    .chars()
                    .nth(1)
                    .is_some_and(|c| c.is_ascii_digit()) =>
                {
                    self.number()?
                }
                '.' => match self.path()? {
                    path if after_parenthesis => {
                        words.extend(
                            path.into_iter()
                                .map(|name| (Word::Name(format!(".{name}")), at)),
                        );
                        continue;
                    }
                    path => Word::Dot(path),
                },
                '$' => {
                    self.at += 1;
                    let name = self.name().to_owned();
                    Word::Variable(name, self.path()?)
                }
                '"' => self.quoted()?,
                '`' => {
                    let Some(end) = self.rest().get(1..).and_then(|rest| rest.find('`')) else {
                        return self.fail(at, "a text in back quotes does not end");
                    };
                    let text = self.rest().get(1..=end).unwrap_or_default().to_owned();
                    self.at += end + 2;
                    Word::Constant(text.into())
                }
                '(' | ')' | '|' | ',' | '=' => {
                    self.at += 1;
                    match next {
                        '(' => Word::Left,
                        ')' => Word::Right,
                        '|' => Word::Pipe,
                        ',' => Word::Comma,
                        _ => Word::Assign,
                    }
                }
                ':' if self.rest().starts_with(":=") => {
                    self.at += 2;
                    Word::Declare
                }
                '0'..='9' | '-' | '+' => self.number()?,
                c if is_name(c) => match self.name() {
                    "true" => Word::Constant(true.into()),
                    "false" => Word::Constant(false.into()),
                    "nil" => Word::Constant(serde_json::Value::Null),
                    name => Word::Name(name.to_owned()),
                },
                other => return self.fail(at, format!("{other:?} has no meaning in an action")),
            };
            words.push((word, at));
        }
    }

    fn name(&mut self) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        self.at += end;
        rest.get(..end).unwrap_or_default()
    }

    /// `.a.b`; a point alone gives no name.
    fn path(&mut self) -> Result<Vec<String>, TemplateError> {
        let mut path = Vec::new();
        while self.rest().starts_with('.') {
            let at = self.at;
            self.at += 1;
            match self.name() {
                "" if path.is_empty() && !self.rest().starts_with('.') => return Ok(path),
                "" => return self.fail(at, "a field's name is missing after the point"),
                name => path.push(name.to_owned()),
            }
        }
        Ok(path)
    }

    fn quoted(&mut self) -> Result<Word, TemplateError> {
        let at = self.at;
        let mut escaped = false;
        let end = self.rest().char_indices().skip(1).find(|(_, c)| {
            let end = *c == '"' && !escaped;
            escaped = *c == '\\' && !escaped;
            end
        });
        let Some((end, _)) = end else {
            return self.fail(at, "a text in double quotes does not end");
        };
        let text = self.rest().get(..=end).unwrap_or_default();
        self.at += end + 1;
        match serde_json::from_str::<String>(text) {
            Ok(text) => Ok(Word::Constant(text.into())),
            Err(_) => self.fail(
                at,
                "a text in double quotes has an escape that does not exist",
            ),
        }
    }

    fn number(&mut self) -> Result<Word, TemplateError> {
        let at = self.at;
        let rest = self.rest();
        let end = rest
            .char_indices()
            .skip(1)
            .find(|(_, c)| !(c.is_ascii_alphanumeric() || *c == '.'))
            .map_or(rest.len(), |(end, _)| end);
        let text = rest.get(..end).unwrap_or_default().trim_start_matches('+');
        self.at += end;
        let number = match text.starts_with('.') {
            true => serde_json::from_str::<serde_json::Number>(&format!("0{text}")),
            false => serde_json::from_str(text),
        };
        match number {
            Ok(number) => Ok(Word::Constant(number.into())),
            Err(_) => self.fail(at, format!("{text:?} is not a number")),
        }
    }
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}
