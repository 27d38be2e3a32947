//! From SQL to a [`Query`](super::Query): the small, stateless part of eKuiper's `SELECT`. What needs more than one
//! message is refused with a sentence that names what to use instead.
//!
//! A parser of our own over sqlparser's tokens: its expression parser reads `->`, `interval`, `date`
//! and others its own way. Knows nothing of rows.

mod expression;

use sqlparser::tokenizer::Token;

use super::expr::{Expr, Step};
use super::tokens::{Place, SyntaxError, Tokens};

/// Nodes of all expressions of one statement, aliases counted where they are used.
const MOST_NODES: usize = 2000;
/// Depth of parentheses and chains, so that evaluation needs little stack.
const MOST_DEPTH: usize = 200;

/// A statement that has been read.
#[derive(Debug)]
pub(super) struct Statement {
    pub(super) stream: String,
    pub(super) star: Option<Vec<String>>,
    pub(super) columns: Vec<(String, Expr)>,
    pub(super) condition: Option<Expr>,
    /// Members of the row that are read, with their first place.
    pub(super) fields: Vec<(String, Place)>,
    pub(super) reads_rows: bool,
}

const WINDOWS: &[&str] = &[
    "tumblingwindow",
    "hoppingwindow",
    "slidingwindow",
    "sessionwindow",
    "countwindow",
    "statewindow",
];
const AGGREGATES: &[&str] = &[
    "avg",
    "count",
    "max",
    "min",
    "sum",
    "collect",
    "deduplicate",
    "stddev",
    "stddevs",
    "var",
    "vars",
    "percentile_cont",
    "percentile_disc",
    "last_value",
    "merge_agg",
    "median",
];
const STATEFUL: &[&str] = &[
    "lag",
    "latest",
    "changed_col",
    "changed_cols",
    "had_changed",
    "acc_sum",
    "acc_count",
    "acc_max",
    "acc_min",
    "acc_avg",
    "row_number",
    "last_hit_time",
    "last_hit_count",
    "last_agg_hit_time",
    "last_agg_hit_count",
    "get_keyed_state",
    "delay",
    "window_start",
    "window_end",
    "unnest",
    "consecutive_count",
];
const RESERVED: &[&str] = &[
    "select", "from", "where", "group", "having", "order", "limit", "join", "as", "and", "or",
    "when", "then", "else", "end", "in", "like", "between", "is",
];

pub(super) fn parse(sql: &str) -> Result<Statement, SyntaxError> {
    let tokens = Tokens::new(sql)?;
    let sources = sources(&tokens);
    let mut parser = Parser {
        tokens,
        sources,
        aliases: Vec::new(),
        fields: Vec::new(),
        nodes: 0,
        depth: 0,
        whole: false,
    };
    parser.statement()
}

/// The stream's name and its alias: known before the columns are read, since `stream.a` is `a`.
fn sources(tokens: &Tokens) -> Vec<String> {
    let mut ahead = 0;
    let mut depth = 0_u32;
    loop {
        match tokens.peek_at(ahead) {
            Token::EOF => return Vec::new(),
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.saturating_sub(1),
            _ if depth == 0
                && ahead > 0
                && tokens
                    .word_at(ahead)
                    .is_some_and(|word| word.eq_ignore_ascii_case("from")) =>
            {
                break;
            }
            _ => {}
        }
        ahead += 1;
    }
    let word = |ahead| match tokens.peek_at(ahead) {
        Token::Word(word) => Some(word.value.clone()),
        _ => None,
    };
    let mut found: Vec<String> = word(ahead + 1).into_iter().collect();
    if tokens
        .word_at(ahead + 2)
        .is_some_and(|word| word.eq_ignore_ascii_case("as"))
    {
        found.extend(word(ahead + 3));
    }
    found
}

struct Parser {
    tokens: Tokens,
    sources: Vec<String>,
    aliases: Vec<(String, Expr, usize)>,
    fields: Vec<(String, Place)>,
    nodes: usize,
    depth: usize,
    whole: bool,
}

impl Parser {
    fn statement(&mut self) -> Result<Statement, SyntaxError> {
        if self.tokens.is_word("with") {
            return self.refuse("WITH makes a subquery", SUBQUERY);
        }
        self.tokens.expect_word("SELECT")?;
        if self.tokens.is_word("distinct") {
            return self.refuse("DISTINCT compares messages with each other", DOWNSTREAM);
        }
        let mut star = None;
        let mut columns: Vec<(String, Expr)> = Vec::new();
        loop {
            self.column(&mut star, &mut columns)?;
            if !self.tokens.accept(&Token::Comma) {
                break;
            }
        }
        self.tokens.expect_word("FROM")?;
        if *self.tokens.peek() == Token::LParen {
            return self.refuse("a SELECT inside FROM is a subquery", SUBQUERY);
        }
        let stream = self.tokens.name("a stream's name")?;
        if self.tokens.accept_word("as") {
            self.tokens.name("an alias of the stream")?;
        }
        if *self.tokens.peek() == Token::Comma {
            return self.refuse("two streams in FROM are a join", JOIN);
        }
        for word in ["join", "inner", "left", "right", "full", "cross"] {
            if self.tokens.is_word(word) {
                return self.refuse("joins are not done here", JOIN);
            }
        }
        let condition = match self.tokens.accept_word("where") {
            true => Some(self.expression(0)?),
            false => None,
        };
        self.rest()?;
        let bare = columns.is_empty() && star.as_ref().is_some_and(Vec::is_empty);
        let reads_rows = !bare || self.whole || !self.fields.is_empty();
        let highest = columns
            .iter()
            .map(|(_, value)| value)
            .chain(&condition)
            .map(Expr::height)
            .max();
        if highest.unwrap_or(0) > MOST_DEPTH {
            return Err(self.tokens.place().error(format!(
                "an expression is nested more than {MOST_DEPTH} deep; for one field with many values use IN (...)"
            )));
        }
        let fields = std::mem::take(&mut self.fields);
        Ok(Statement {
            stream,
            star,
            columns,
            condition,
            fields,
            reads_rows,
        })
    }

    /// Whatever may follow in SQL, and does not follow here.
    fn rest(&self) -> Result<(), SyntaxError> {
        let refused = [
            (
                "group",
                "GROUP BY needs a window over several messages",
                DOWNSTREAM,
            ),
            (
                "having",
                "HAVING needs a window over several messages",
                DOWNSTREAM,
            ),
            (
                "order",
                "ORDER BY compares messages with each other",
                "Messages keep the order of their arrival; sort them downstream, where they are stored",
            ),
            (
                "limit",
                "LIMIT counts messages",
                "Choose messages with WHERE",
            ),
            ("union", "UNION joins two queries", JOIN),
            ("over", "OVER looks at several messages", DOWNSTREAM),
        ];
        for (word, what, instead) in refused {
            if self.tokens.is_word(word) {
                return self.refuse(what, instead);
            }
        }
        if self.tokens.is_at_end() {
            return Ok(());
        }
        self.tokens.fail("the end of the statement")
    }

    fn refuse<T>(&self, what: &str, instead: &str) -> Result<T, SyntaxError> {
        Err(self
            .tokens
            .place()
            .error(format!("{what}, which a rule here does not do. {instead}")))
    }

    fn column(
        &mut self,
        star: &mut Option<Vec<String>>,
        columns: &mut Vec<(String, Expr)>,
    ) -> Result<(), SyntaxError> {
        let place = self.tokens.place();
        let qualified = self
            .tokens
            .word_at(0)
            .is_some_and(|word| self.sources.iter().any(|s| s == word))
            && *self.tokens.peek_at(1) == Token::Period
            && *self.tokens.peek_at(2) == Token::Mul;
        if qualified {
            self.tokens.take();
            self.tokens.take();
        }
        if self.tokens.accept(&Token::Mul) {
            if star.is_some() {
                return Err(place.error("* stands twice"));
            }
            let mut except = Vec::new();
            if self.tokens.accept_word("except") {
                except = self.names()?;
            }
            if self.tokens.accept_word("replace") {
                self.tokens.expect(&Token::LParen)?;
                loop {
                    let start = self.nodes;
                    let value = self.expression(0)?;
                    self.tokens.expect_word("AS")?;
                    let name = self.tokens.name("the name of a column")?;
                    self.keep(columns, name, value, self.nodes - start);
                    if !self.tokens.accept(&Token::Comma) {
                        break;
                    }
                }
                self.tokens.expect(&Token::RParen)?;
            }
            *star = Some(except);
            return Ok(());
        }
        let start = self.nodes;
        let called = match (self.tokens.word_at(0), self.tokens.peek_at(1)) {
            (Some(name), Token::LParen) => Some(name.to_ascii_lowercase()),
            _ => None,
        };
        let value = self.expression(0)?;
        let name = if self.tokens.accept_word("as") {
            self.tokens.name("the name of the column")?
        } else {
            match (&value, called) {
                // The steps stand within the call, so the call names it.
                (Expr::Step(..), Some(name)) if value.is_of_meta() => name,
                (Expr::Field(name) | Expr::Step(_, Step::Member(name)), _) => name.to_string(),
                (Expr::Call(..) | Expr::Meta(_), Some(name)) => name,
                _ => {
                    let unnamed = |(name, _): &&(String, Expr)| name.starts_with("kuiper_field_");
                    format!("kuiper_field_{}", columns.iter().filter(unnamed).count())
                }
            }
        };
        self.keep(columns, name, value, self.nodes - start);
        Ok(())
    }

    /// A later column of the same name takes the place of an earlier one.
    fn keep(&mut self, columns: &mut Vec<(String, Expr)>, name: String, value: Expr, nodes: usize) {
        columns.retain(|(other, _)| *other != name);
        if value != Expr::Field(name.as_str().into()) {
            self.aliases.retain(|(other, ..)| *other != name);
            self.aliases.push((name.clone(), value.clone(), nodes));
        }
        columns.push((name, value));
    }

    fn names(&mut self) -> Result<Vec<String>, SyntaxError> {
        self.tokens.expect(&Token::LParen)?;
        let mut names = vec![self.tokens.name("the name of a column")?];
        while self.tokens.accept(&Token::Comma) {
            names.push(self.tokens.name("the name of a column")?);
        }
        self.tokens.expect(&Token::RParen)?;
        Ok(names)
    }

    fn node(&mut self, count: usize) -> Result<(), SyntaxError> {
        self.nodes += count;
        if self.nodes > MOST_NODES {
            return Err(self.tokens.place().error(format!(
                "the query is too long: more than {MOST_NODES} terms"
            )));
        }
        Ok(())
    }
}

const DOWNSTREAM: &str = "Send the messages on and compute that downstream, in a database or an analytics engine such as eKuiper; to put several rows into one payload, give the action batchSize and lingerInterval";
const JOIN: &str = "Write one rule for each stream and join downstream, where both arrive";
const SUBQUERY: &str = "Write two rules and tie them with a memory topic";
