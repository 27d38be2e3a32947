//! The expressions of a query: operators by how tightly they bind, steps into values, terms, calls.

use sqlparser::tokenizer::Token;

use super::super::datum::{self, Arithmetic, Datum};
use super::super::expr::{Comparison, Expr, Meta, Step};
use super::super::functions::{CAST_TYPES, Function};
use super::super::tokens::{Place, SyntaxError, hint};
use super::{AGGREGATES, DOWNSTREAM, MOST_DEPTH, Parser, RESERVED, STATEFUL, SUBQUERY, WINDOWS};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Operator {
    Or,
    And,
    Compare(Comparison),
    Arithmetic(Arithmetic),
    /// IN, LIKE, BETWEEN, IS, with or without NOT.
    Word,
}

const OR: u8 = 1;
const AND: u8 = 2;
const NOT: u8 = 3;
const COMPARE: u8 = 4;
const SUM: u8 = 5;
const PRODUCT: u8 = 6;
const STEP: u8 = 7;

impl Parser {
    /// Operators bind in this order: OR, AND, NOT, comparisons, `+ - | ^`, `* / % &`, steps.
    pub(super) fn expression(&mut self, least: u8) -> Result<Expr, SyntaxError> {
        self.depth += 1;
        let result = if self.depth > MOST_DEPTH {
            Err(self
                .tokens
                .place()
                .error(format!("nested more than {MOST_DEPTH} deep")))
        } else {
            self.operators(least)
        };
        self.depth -= 1;
        result
    }

    fn operators(&mut self, least: u8) -> Result<Expr, SyntaxError> {
        let mut left = if self.tokens.accept_word("not") {
            Expr::Not(Box::new(self.expression(NOT)?))
        } else {
            self.steps()?
        };
        let mut chain = 0;
        while let Some((binding, operator)) = self.operator() {
            if binding < least {
                break;
            }
            self.node(1)?;
            chain += 1;
            if chain > MOST_DEPTH {
                return Err(self.tokens.place().error(format!(
                    "more than {MOST_DEPTH} operators in a row; for one field use IN (...), else set parentheses"
                )));
            }
            left = self.operation(left, binding, operator)?;
        }
        Ok(left)
    }

    fn operator(&self) -> Option<(u8, Operator)> {
        use Arithmetic as A;
        use Comparison as C;
        Some(match self.tokens.peek() {
            Token::Eq | Token::DoubleEq => (COMPARE, Operator::Compare(C::Equal)),
            Token::Neq => (COMPARE, Operator::Compare(C::NotEqual)),
            Token::Lt => (COMPARE, Operator::Compare(C::Less)),
            Token::LtEq => (COMPARE, Operator::Compare(C::LessEqual)),
            Token::Gt => (COMPARE, Operator::Compare(C::Greater)),
            Token::GtEq => (COMPARE, Operator::Compare(C::GreaterEqual)),
            Token::Plus => (SUM, Operator::Arithmetic(A::Add)),
            Token::Minus => (SUM, Operator::Arithmetic(A::Subtract)),
            Token::Pipe => (SUM, Operator::Arithmetic(A::BitOr)),
            Token::Caret => (SUM, Operator::Arithmetic(A::BitXor)),
            Token::Mul => (PRODUCT, Operator::Arithmetic(A::Multiply)),
            Token::Div => (PRODUCT, Operator::Arithmetic(A::Divide)),
            Token::Mod => (PRODUCT, Operator::Arithmetic(A::Remainder)),
            Token::Ampersand => (PRODUCT, Operator::Arithmetic(A::BitAnd)),
            Token::Word(_) => {
                let word = self.tokens.word_at(0)?.to_ascii_lowercase();
                match word.as_str() {
                    "or" => (OR, Operator::Or),
                    "and" => (AND, Operator::And),
                    "in" | "like" | "between" | "is" => (COMPARE, Operator::Word),
                    "not" => match self.tokens.word_at(1)?.to_ascii_lowercase().as_str() {
                        "in" | "like" | "between" => (COMPARE, Operator::Word),
                        _ => return None,
                    },
                    _ => return None,
                }
            }
            _ => return None,
        })
    }

    fn operation(
        &mut self,
        left: Expr,
        binding: u8,
        operator: Operator,
    ) -> Result<Expr, SyntaxError> {
        let left = Box::new(left);
        if operator == Operator::Word {
            return self.predicate(left);
        }
        self.tokens.take();
        let right = Box::new(self.expression(binding + 1)?);
        Ok(match operator {
            Operator::Or => Expr::Or(left, right),
            Operator::And => Expr::And(left, right),
            Operator::Arithmetic(operator) => Expr::Arithmetic(operator, left, right),
            Operator::Compare(how) => Expr::Compare(how, left, right),
            Operator::Word => *left,
        })
    }

    /// IN, LIKE, BETWEEN, IS NULL. The denied forms are comparisons too: false for null.
    fn predicate(&mut self, value: Box<Expr>) -> Result<Expr, SyntaxError> {
        if self.tokens.accept_word("is") {
            let not = self.tokens.accept_word("not");
            self.tokens.expect_word("NULL")?;
            let is_null = Expr::IsNull(value);
            return Ok(if not {
                Expr::Not(Box::new(is_null))
            } else {
                is_null
            });
        }
        let not = self.tokens.accept_word("not");
        let found = if self.tokens.accept_word("in") {
            if self.tokens.accept(&Token::LParen) {
                if self.tokens.is_word("select") {
                    return self.refuse("a SELECT inside IN is a subquery", SUBQUERY);
                }
                let list = self.list(&Token::RParen)?;
                Expr::In(value.clone(), list)
            } else {
                Expr::InList(value.clone(), Box::new(self.expression(COMPARE + 1)?))
            }
        } else if self.tokens.accept_word("like") {
            Expr::Like(value.clone(), Box::new(self.expression(COMPARE + 1)?))
        } else {
            self.tokens.expect_word("BETWEEN")?;
            let from = Box::new(self.expression(COMPARE + 1)?);
            self.tokens.expect_word("AND")?;
            let to = Box::new(self.expression(COMPARE + 1)?);
            Expr::And(
                Box::new(Expr::Compare(Comparison::GreaterEqual, value.clone(), from)),
                Box::new(Expr::Compare(Comparison::LessEqual, value.clone(), to)),
            )
        };
        if !not {
            return Ok(found);
        }
        let known = Expr::Not(Box::new(Expr::IsNull(value)));
        Ok(Expr::And(
            Box::new(known),
            Box::new(Expr::Not(Box::new(found))),
        ))
    }

    fn list(&mut self, close: &Token) -> Result<Vec<Expr>, SyntaxError> {
        let mut list = Vec::new();
        if self.tokens.accept(close) {
            return Ok(list);
        }
        loop {
            list.push(self.expression(0)?);
            if !self.tokens.accept(&Token::Comma) {
                break;
            }
        }
        self.tokens.expect(close)?;
        Ok(list)
    }

    /// A term and the steps into it.
    fn steps(&mut self) -> Result<Expr, SyntaxError> {
        let value = self.term()?;
        self.steps_into(value)
    }

    fn steps_into(&mut self, mut value: Expr) -> Result<Expr, SyntaxError> {
        let mut steps = 0;
        loop {
            let step = if self.tokens.accept(&Token::Arrow) || self.tokens.accept(&Token::Period) {
                let name = match self.tokens.accept_string()? {
                    Some(name) => name,
                    None => self.tokens.name("the name of a member")?,
                };
                Step::Member(name.into())
            } else if self.tokens.accept(&Token::LBracket) {
                self.brackets()?
            } else {
                return Ok(value);
            };
            steps += 1;
            if steps > MOST_DEPTH {
                return Err(self
                    .tokens
                    .place()
                    .error(format!("more than {MOST_DEPTH} steps into a value")));
            }
            self.node(1)?;
            value = Expr::Step(Box::new(value), step);
        }
    }

    fn brackets(&mut self) -> Result<Step, SyntaxError> {
        let from = match self.tokens.peek() {
            Token::Colon => None,
            _ => Some(Box::new(self.expression(0)?)),
        };
        if !self.tokens.accept(&Token::Colon) {
            self.tokens.expect(&Token::RBracket)?;
            return Ok(Step::Index(
                from.unwrap_or_else(|| Box::new(Expr::Constant(Datum::Null))),
            ));
        }
        let to = match self.tokens.peek() {
            Token::RBracket => None,
            _ => Some(Box::new(self.expression(0)?)),
        };
        self.tokens.expect(&Token::RBracket)?;
        Ok(Step::Slice(from, to))
    }

    fn term(&mut self) -> Result<Expr, SyntaxError> {
        self.node(1)?;
        let place = self.tokens.place();
        if let Some(text) = self.tokens.accept_string()? {
            return Ok(Expr::Constant(Datum::text(text)));
        }
        match self.tokens.peek() {
            Token::Number(digits, _) => {
                let number = datum::number(digits);
                self.tokens.take();
                let number = number.ok_or_else(|| place.error("not a number"))?;
                Ok(Expr::Constant(number))
            }
            Token::Minus => {
                self.tokens.take();
                Ok(match self.expression(STEP)? {
                    Expr::Constant(Datum::Int(value)) => {
                        Expr::Constant(Datum::integer(-i128::from(value)))
                    }
                    Expr::Constant(Datum::Uint(value)) => {
                        Expr::Constant(Datum::integer(-i128::from(value)))
                    }
                    Expr::Constant(Datum::Float(value)) => Expr::Constant(Datum::Float(-value)),
                    other => Expr::Negate(Box::new(other)),
                })
            }
            Token::Plus => {
                self.tokens.take();
                self.expression(STEP)
            }
            Token::LParen => {
                self.tokens.take();
                if self.tokens.is_word("select") {
                    return self.refuse("a SELECT inside an expression is a subquery", SUBQUERY);
                }
                let inner = self.expression(0)?;
                self.tokens.expect(&Token::RParen)?;
                Ok(inner)
            }
            Token::Word(word) if word.quote_style.is_none() => {
                let word = word.value.clone();
                self.word(&word, place)
            }
            Token::Word(word) => {
                let name = word.value.clone();
                self.tokens.take();
                self.field(name, place)
            }
            Token::StringConcat => self.tokens.fail("a value; to join texts use concat(a, b)"),
            Token::Mul => self
                .tokens
                .fail("a value; * stands for all columns, alone or before EXCEPT"),
            _ => self.tokens.fail("a value"),
        }
    }

    fn word(&mut self, word: &str, place: Place) -> Result<Expr, SyntaxError> {
        let lower = word.to_ascii_lowercase();
        if *self.tokens.peek_at(1) == Token::LParen && !RESERVED.contains(&lower.as_str()) {
            return self.call(&lower, place);
        }
        match lower.as_str() {
            "true" | "false" => {
                self.tokens.take();
                Ok(Expr::Constant(Datum::Bool(lower == "true")))
            }
            "null" => {
                self.tokens.take();
                Ok(Expr::Constant(Datum::Null))
            }
            "case" => {
                self.tokens.take();
                self.case()
            }
            reserved if RESERVED.contains(&reserved) => self.tokens.fail(&format!(
                "a value; a field of that name stands in back quotes, `{word}`"
            )),
            _ => {
                self.tokens.take();
                self.field(word.to_owned(), place)
            }
        }
    }

    fn field(&mut self, mut name: String, mut place: Place) -> Result<Expr, SyntaxError> {
        let mut qualified = false;
        if *self.tokens.peek() == Token::Period && self.sources.contains(&name) {
            self.tokens.take();
            place = self.tokens.place();
            name = self.tokens.name("the name of a field")?;
            qualified = true;
        }
        if !qualified
            && let Some((_, value, nodes)) = self.aliases.iter().find(|(alias, ..)| *alias == name)
        {
            let (value, nodes) = (value.clone(), *nodes);
            self.node(nodes)?;
            return Ok(value);
        }
        if !self.fields.iter().any(|(other, _)| *other == name) {
            self.fields.push((name.clone(), place));
        }
        Ok(Expr::Field(name.into()))
    }

    fn case(&mut self) -> Result<Expr, SyntaxError> {
        let subject = match self.tokens.is_word("when") {
            true => None,
            false => Some(self.expression(0)?),
        };
        let mut arms = Vec::new();
        while self.tokens.accept_word("when") {
            let mut condition = self.expression(0)?;
            if let Some(subject) = &subject {
                let (a, b) = (Box::new(subject.clone()), Box::new(condition));
                condition = Expr::Compare(Comparison::Equal, a, b);
            }
            self.tokens.expect_word("THEN")?;
            arms.push((condition, self.expression(0)?));
        }
        if arms.is_empty() {
            return self.tokens.fail("WHEN");
        }
        let otherwise = match self.tokens.accept_word("else") {
            true => Some(Box::new(self.expression(0)?)),
            false => None,
        };
        self.tokens.expect_word("END")?;
        Ok(Expr::Case(arms, otherwise))
    }

    fn call(&mut self, name: &str, place: Place) -> Result<Expr, SyntaxError> {
        if WINDOWS.contains(&name) {
            return self.refuse("windows gather several messages", DOWNSTREAM);
        }
        if AGGREGATES.contains(&name) {
            return self.refuse(
                &format!("{name} is computed over several messages"),
                DOWNSTREAM,
            );
        }
        if STATEFUL.contains(&name) {
            return self.refuse(
                &format!("{name} needs what earlier messages held"),
                DOWNSTREAM,
            );
        }
        self.tokens.take();
        self.tokens.take();
        if name == "meta" || name == "mqtt" {
            return self.meta();
        }
        let Some(function) = Function::find(name) else {
            let hint = hint(name, Function::names().chain(["meta"]));
            let all: Vec<_> = Function::names().chain(["meta"]).collect();
            return Err(place.error(format!(
                "unknown function {name}{hint} Known: {}",
                all.join(", ")
            )));
        };
        let arguments = self.list(&Token::RParen)?;
        if self.tokens.is_word("over") || self.tokens.is_word("filter") {
            return self.refuse("OVER and FILTER look at several messages", DOWNSTREAM);
        }
        function
            .check(arguments.len())
            .map_err(|sentence| place.error(sentence))?;
        if let (true, Some(Expr::Constant(Datum::Text(to)))) = (name == "cast", arguments.get(1))
            && !CAST_TYPES.contains(&to.to_ascii_lowercase().as_str())
        {
            let hint = hint(to, CAST_TYPES);
            return Err(place.error(format!(
                "cast knows no type \"{to}\"{hint} Known: {}",
                CAST_TYPES.join(", ")
            )));
        }
        Ok(Expr::Call(function, arguments))
    }

    fn meta(&mut self) -> Result<Expr, SyntaxError> {
        if self.tokens.accept(&Token::Mul) {
            self.tokens.expect(&Token::RParen)?;
            return Ok(Expr::Meta(Meta::All));
        }
        let mut name = match self.tokens.accept_string()? {
            Some(name) => name,
            None => self
                .tokens
                .name("topic, qos, retained, messageId, timestamp or the name of a header")?,
        };
        if self.sources.contains(&name) && self.tokens.accept(&Token::Period) {
            name = self.tokens.name("a name")?;
        }
        // Headers may have a `-` in their names.
        while self.tokens.accept(&Token::Minus) {
            name = name + "-" + &self.tokens.name("the rest of a header's name")?;
        }
        let value = match (self.tokens.peek(), name.to_ascii_lowercase().as_str()) {
            (Token::Arrow | Token::Period | Token::LBracket, _) => {
                let whole = Expr::Meta(Meta::Nested(name.into()));
                self.steps_into(whole)?
            }
            (_, "topic") => Expr::Meta(Meta::Topic),
            (_, "qos") => Expr::Meta(Meta::Qos),
            (_, "retained") => Expr::Meta(Meta::Retained),
            (_, "messageid") => Expr::Meta(Meta::MessageId),
            (_, "timestamp") => Expr::Meta(Meta::Timestamp),
            _ => Expr::Meta(Meta::Header(name.into())),
        };
        self.tokens.expect(&Token::RParen)?;
        Ok(value)
    }
}
