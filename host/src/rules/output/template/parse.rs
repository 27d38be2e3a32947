//! From words to a tree. Everything outside the subset is refused here, with its place.

use serde_json::Value;

use super::TemplateError;
use super::lex::{Word, Words, words};
use super::print::{Verb, verbs};
use crate::rules::query::hint;

/// Parentheses and blocks inside each other, so that rendering needs little stack.
const MOST_DEPTH: usize = 50;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    Text(String),
    Print(Pipeline),
    Set {
        name: String,
        value: Pipeline,
        declares: bool,
    },
    If(Vec<(Pipeline, Vec<Node>)>, Vec<Node>),
    Range {
        names: Vec<String>,
        over: Pipeline,
        body: Vec<Node>,
        otherwise: Vec<Node>,
    },
}

/// Commands; each gets the result of the one before it as its last argument.
pub(super) type Pipeline = Vec<Command>;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Command {
    Value(Operand),
    Call(Function, Vec<Operand>),
    /// With its format, read when the template was.
    Printf(Vec<Verb>, Vec<Operand>),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Operand {
    Dot(Vec<String>),
    Variable(String, Vec<String>),
    Constant(Value),
    Inner(Pipeline, Vec<String>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Json,
    Index,
    Len,
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    And,
    Or,
    Not,
}

const FUNCTIONS: [(&str, Function); 13] = [
    ("json", Function::Json),
    ("toJson", Function::Json),
    ("index", Function::Index),
    ("len", Function::Len),
    ("eq", Function::Eq),
    ("ne", Function::Ne),
    ("lt", Function::Lt),
    ("le", Function::Le),
    ("gt", Function::Gt),
    ("ge", Function::Ge),
    ("and", Function::And),
    ("or", Function::Or),
    ("not", Function::Not),
];

const ALLOWED: &str = "Allowed: fields such as {{.a.b}}, variables, if / else if / else / end, range / else / end, json, toJson, index, len, eq, ne, lt, le, gt, ge, and, or, not, printf";
const FOREIGN: [&str; 6] = ["with", "define", "template", "block", "break", "continue"];

pub(super) fn parse(template: &str) -> Result<Vec<Node>, TemplateError> {
    let mut parser = Parser {
        template,
        words: words(template)?,
        at: 0,
        depth: 0,
        scope: vec![String::new()],
    };
    let (nodes, end) = parser.block()?;
    match end {
        Until::Text => Ok(nodes),
        Until::End(at) => parser.fail(at, "{{end}} without an if or range before it"),
        Until::Else(at) => parser.fail(at, "{{else}} without an if or range before it"),
    }
}

struct Parser<'a> {
    template: &'a str,
    words: Words,
    at: usize,
    depth: usize,
    /// Variables that can be seen here; the first is `$` itself.
    scope: Vec<String>,
}

enum Until {
    Text,
    End(usize),
    Else(usize),
}

impl Parser<'_> {
    fn fail<T>(&self, at: usize, message: impl Into<String>) -> Result<T, TemplateError> {
        Err(TemplateError::at(self.template, at, message))
    }

    fn peek(&self) -> Option<&Word> {
        self.words.get(self.at).map(|(word, _)| word)
    }

    fn place(&self) -> usize {
        self.words
            .get(self.at)
            .map_or(self.template.len(), |(_, at)| *at)
    }

    fn accept(&mut self, word: &Word) -> bool {
        let found = self.peek() == Some(word);
        self.at += usize::from(found);
        found
    }

    fn accept_name(&mut self, name: &str) -> bool {
        let found = matches!(self.peek(), Some(Word::Name(next)) if next == name);
        self.at += usize::from(found);
        found
    }

    fn close(&mut self) -> Result<(), TemplateError> {
        if self.accept(&Word::Close) {
            return Ok(());
        }
        self.fail(self.place(), format!("expected }}}}. {ALLOWED}"))
    }

    fn deeper(&mut self) -> Result<(), TemplateError> {
        self.depth += 1;
        if self.depth > MOST_DEPTH {
            return self.fail(self.place(), format!("nested more than {MOST_DEPTH} deep"));
        }
        Ok(())
    }

    /// Nodes until the text ends, or an `end` or `else` that belongs to the block around them.
    fn block(&mut self) -> Result<(Vec<Node>, Until), TemplateError> {
        self.deeper()?;
        let visible = self.scope.len();
        let mut nodes = Vec::new();
        let end = loop {
            let place = self.place();
            match self.peek() {
                None => break Until::Text,
                Some(Word::Text(text)) => {
                    nodes.push(Node::Text(text.clone()));
                    self.at += 1;
                    continue;
                }
                Some(_) => self.at += 1,
            }
            // That was `{{`.
            if self.accept_name("end") {
                self.close()?;
                break Until::End(place);
            }
            if self.accept_name("else") {
                break Until::Else(place);
            }
            if self.accept_name("if") {
                nodes.push(self.choice(place)?);
            } else if self.accept_name("range") {
                nodes.push(self.range(place)?);
            } else {
                nodes.push(self.print(place)?);
            }
        };
        self.scope.truncate(visible);
        self.depth -= 1;
        Ok((nodes, end))
    }

    fn print(&mut self, place: usize) -> Result<Node, TemplateError> {
        if let Some(Word::Name(name)) = self.peek()
            && FOREIGN.contains(&name.as_str())
        {
            return self.fail(
                place,
                format!("{name} is not supported in templates here. {ALLOWED}"),
            );
        }
        if let Some(Word::Variable(name, path)) = self.peek()
            && path.is_empty()
            && let Some((set @ (Word::Declare | Word::Assign), _)) = self.words.get(self.at + 1)
        {
            let (name, declares) = (name.clone(), *set == Word::Declare);
            if !declares {
                self.known(&name, place)?;
            }
            self.at += 2;
            let value = self.pipeline()?;
            self.close()?;
            if declares {
                self.scope.push(name.clone());
            }
            return Ok(Node::Set {
                name,
                value,
                declares,
            });
        }
        let pipeline = self.pipeline()?;
        self.close()?;
        Ok(Node::Print(pipeline))
    }

    fn choice(&mut self, place: usize) -> Result<Node, TemplateError> {
        let mut arms = Vec::new();
        loop {
            let condition = self.pipeline()?;
            self.close()?;
            let (body, end) = self.block()?;
            arms.push((condition, body));
            match end {
                Until::End(_) => return Ok(Node::If(arms, Vec::new())),
                Until::Text => return self.fail(place, "an if without {{end}}"),
                Until::Else(_) if self.accept_name("if") => {}
                Until::Else(_) => {
                    return Ok(Node::If(arms, self.otherwise(place)?));
                }
            }
        }
    }

    fn otherwise(&mut self, place: usize) -> Result<Vec<Node>, TemplateError> {
        self.close()?;
        match self.block()? {
            (nodes, Until::End(_)) => Ok(nodes),
            (_, Until::Else(at)) => self.fail(at, "a second {{else}}"),
            (_, Until::Text) => self.fail(place, "an else without {{end}}"),
        }
    }

    fn range(&mut self, place: usize) -> Result<Node, TemplateError> {
        let mut names = Vec::new();
        let declared = |at: usize| {
            let word = self.words.get(self.at + at).map(|(word, _)| word);
            matches!(word, Some(Word::Declare | Word::Comma))
        };
        if matches!(self.peek(), Some(Word::Variable(..))) && declared(1) {
            loop {
                let Some(Word::Variable(name, path)) = self.peek() else {
                    return self.fail(
                        self.place(),
                        "expected a variable, as in range $i, $v := .list",
                    );
                };
                if !path.is_empty() || name.is_empty() || names.len() == 2 {
                    return self.fail(
                        self.place(),
                        "range sets one or two variables, as in range $i, $v := .list",
                    );
                }
                names.push(name.clone());
                self.at += 1;
                if !self.accept(&Word::Comma) {
                    break;
                }
            }
            if !self.accept(&Word::Declare) {
                return self.fail(self.place(), "expected := after the variables of a range");
            }
        }
        let over = self.pipeline()?;
        self.close()?;
        let visible = self.scope.len();
        self.scope.extend(names.iter().cloned());
        let (body, end) = self.block()?;
        self.scope.truncate(visible);
        let otherwise = match end {
            Until::End(_) => Vec::new(),
            Until::Else(_) => self.otherwise(place)?,
            Until::Text => return self.fail(place, "a range without {{end}}"),
        };
        Ok(Node::Range {
            names,
            over,
            body,
            otherwise,
        })
    }

    fn known(&self, name: &String, place: usize) -> Result<(), TemplateError> {
        if self.scope.contains(name) {
            return Ok(());
        }
        let hint = hint(
            name,
            self.scope
                .iter()
                .map(String::as_str)
                .filter(|name| !name.is_empty()),
        );
        self.fail(place, format!("no variable ${name} is known here{hint}"))
    }

    fn pipeline(&mut self) -> Result<Pipeline, TemplateError> {
        self.deeper()?;
        let mut commands = vec![self.command(false)?];
        while self.accept(&Word::Pipe) {
            commands.push(self.command(true)?);
        }
        self.depth -= 1;
        Ok(commands)
    }

    fn command(&mut self, piped: bool) -> Result<Command, TemplateError> {
        let place = self.place();
        if let Some(Word::Name(name)) = self.peek() {
            let name = name.clone();
            self.at += 1;
            return self.call(&name, piped, place);
        }
        let Some(operand) = self.operand()? else {
            return self.fail(
                place,
                format!("expected a field, a value or a function. {ALLOWED}"),
            );
        };
        if piped {
            return self.fail(place, "a function must follow the |");
        }
        Ok(Command::Value(operand))
    }

    fn call(&mut self, name: &str, piped: bool, place: usize) -> Result<Command, TemplateError> {
        let mut arguments = Vec::new();
        while let Some(operand) = self.operand()? {
            arguments.push(operand);
        }
        let count = arguments.len() + usize::from(piped);
        if name == "printf" {
            let Some(Operand::Constant(Value::String(format))) = arguments.first() else {
                return self.fail(place, "printf takes its format as a text in quotes first");
            };
            let verbs = match verbs(format) {
                Ok(verbs) => verbs,
                Err(message) => return self.fail(place, message),
            };
            let takes = verbs.iter().filter(|verb| verb.takes_value()).count();
            if takes != count - 1 {
                return self.fail(
                    place,
                    format!("printf has {takes} verbs and {} values", count - 1),
                );
            }
            arguments.remove(0);
            return Ok(Command::Printf(verbs, arguments));
        }
        let Some((_, function)) = FUNCTIONS.iter().find(|(known, _)| *known == name) else {
            let known = FUNCTIONS
                .iter()
                .map(|(known, _)| *known)
                .chain(["printf", "range", "if", "end"]);
            let hint = hint(name, known);
            return self.fail(place, format!("unknown function {name}{hint} {ALLOWED}"));
        };
        let (least, most) = match function {
            Function::Json | Function::Len | Function::Not => (1, 1),
            Function::Index | Function::And | Function::Or => (1, usize::MAX),
            Function::Eq => (2, usize::MAX),
            _ => (2, 2),
        };
        if count < least || count > most {
            return self.fail(
                place,
                format!("{name} takes {least} argument(s), found {count}"),
            );
        }
        Ok(Command::Call(*function, arguments))
    }

    fn operand(&mut self) -> Result<Option<Operand>, TemplateError> {
        let place = self.place();
        let operand = match self.peek() {
            Some(Word::Dot(path)) => Operand::Dot(path.clone()),
            Some(Word::Variable(name, path)) => {
                let (name, path) = (name.clone(), path.clone());
                self.known(&name, place)?;
                Operand::Variable(name, path)
            }
            Some(Word::Constant(value)) => Operand::Constant(value.clone()),
            Some(Word::Left) => {
                self.at += 1;
                let inner = self.pipeline()?;
                if !self.accept(&Word::Right) {
                    return self.fail(place, "a parenthesis is not closed");
                }
                let mut path = Vec::new();
                while let Some(Word::Name(name)) = self.peek()
                    && let Some(name) = name.strip_prefix('.')
                {
                    path.push(name.to_owned());
                    self.at += 1;
                }
                return Ok(Some(Operand::Inner(inner, path)));
            }
            Some(Word::Name(name))
                if FUNCTIONS.iter().any(|(known, _)| known == name) || name == "printf" =>
            {
                return self.fail(
                    place,
                    format!("put {name} and its arguments in parentheses"),
                );
            }
            Some(Word::Name(name)) => {
                return self.fail(place, format!("{name} is not a value; a field starts with a point, a text stands in quotes. {ALLOWED}"));
            }
            _ => return Ok(None),
        };
        self.at += 1;
        Ok(Some(operand))
    }
}
