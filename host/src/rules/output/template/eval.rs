//! Renders a tree over a value.

use std::borrow::Cow;
use std::cmp::Ordering;

use serde_json::Value;

use super::RenderError;
use super::parse::{Command, Function, Node, Operand, Pipeline};
use super::print::{kind, print, printf};

/// Nested ranges multiply: what a template may write for one message.
const MOST_OUTPUT: usize = 16 * 1024 * 1024;
/// Turns of all ranges together, also of those that write nothing.
const MOST_TURNS: usize = 1_000_000;

pub(super) struct Renderer<'a> {
    pub(super) out: String,
    variables: Vec<(&'a str, Cow<'a, Value>)>,
    turns: usize,
    /// A value that is missing is an error and not `<no value>`.
    strict: bool,
}

impl<'a> Renderer<'a> {
    pub(super) fn new(root: &'a Value, strict: bool) -> Self {
        Self {
            out: String::new(),
            variables: vec![("", Cow::Borrowed(root))],
            turns: 0,
            strict,
        }
    }

    #[expect(
        clippy::ptr_arg,
        reason = "a clone of a borrowed one is free and lives as long as the root"
    )]
    pub(super) fn nodes(
        &mut self,
        nodes: &'a [Node],
        dot: &Cow<'a, Value>,
    ) -> Result<(), RenderError> {
        let visible = self.variables.len();
        for node in nodes {
            self.node(node, dot)?;
            if self.out.len() > MOST_OUTPUT {
                return Err(RenderError::new("the template writes more than 16 MiB"));
            }
        }
        self.variables.truncate(visible);
        Ok(())
    }

    #[expect(
        clippy::ptr_arg,
        reason = "a clone of a borrowed one is free and lives as long as the root"
    )]
    fn node(&mut self, node: &'a Node, dot: &Cow<'a, Value>) -> Result<(), RenderError> {
        match node {
            Node::Text(text) => self.out.push_str(text),
            Node::Print(pipeline) => {
                let value = self.pipeline(pipeline, dot)?;
                if self.strict && value.is_null() {
                    return Err(RenderError::new(format!("{} is missing", named(pipeline))));
                }
                print(&value, &mut self.out);
            }
            Node::Set {
                name,
                value,
                declares,
            } => {
                let value = self.pipeline(value, dot)?;
                let slot = self
                    .variables
                    .iter_mut()
                    .rev()
                    .find(|(known, _)| *known == name);
                match (declares, slot) {
                    (false, Some(slot)) => slot.1 = value,
                    _ => self.variables.push((name, value)),
                }
            }
            Node::If(arms, otherwise) => {
                for (condition, body) in arms {
                    let value = self.pipeline(condition, dot)?;
                    if truth(&value) {
                        return self.nodes(body, dot);
                    }
                }
                return self.nodes(otherwise, dot);
            }
            Node::Range {
                names,
                over,
                body,
                otherwise,
            } => {
                let items = items(self.pipeline(over, dot)?)?;
                if items.is_empty() {
                    return self.nodes(otherwise, dot);
                }
                for (key, item) in items {
                    self.turns += 1;
                    if self.turns > MOST_TURNS {
                        return Err(RenderError::new(
                            "the ranges of the template turn too often",
                        ));
                    }
                    let visible = self.variables.len();
                    match names.as_slice() {
                        [value] => self.variables.push((value, item.clone())),
                        [index, value] => {
                            self.variables.push((index, Cow::Owned(key)));
                            self.variables.push((value, item.clone()));
                        }
                        _ => {}
                    }
                    self.nodes(body, &item)?;
                    self.variables.truncate(visible);
                }
            }
        }
        Ok(())
    }

    fn pipeline(
        &self,
        pipeline: &'a Pipeline,
        dot: &Cow<'a, Value>,
    ) -> Result<Cow<'a, Value>, RenderError> {
        let mut last: Option<Cow<'a, Value>> = None;
        for command in pipeline {
            last = Some(match command {
                Command::Value(operand) => self.operand(operand, dot)?,
                Command::Printf(verbs, operands) => {
                    let values = self.arguments(operands, last, dot)?;
                    let text = printf(verbs, values.iter().map(|value| &**value));
                    Cow::Owned(Value::String(text.map_err(RenderError::new)?))
                }
                Command::Call(function @ (Function::And | Function::Or), operands) => {
                    self.logic(*function, operands, last, dot)?
                }
                Command::Call(function, operands) => {
                    call(*function, self.arguments(operands, last, dot)?)?
                }
            });
        }
        Ok(last.unwrap_or(Cow::Owned(Value::Null)))
    }

    fn arguments(
        &self,
        operands: &'a [Operand],
        last: Option<Cow<'a, Value>>,
        dot: &Cow<'a, Value>,
    ) -> Result<Vec<Cow<'a, Value>>, RenderError> {
        let mut values: Vec<_> = operands
            .iter()
            .map(|operand| self.operand(operand, dot))
            .collect::<Result<_, _>>()?;
        values.extend(last);
        Ok(values)
    }

    /// Stops at the first value that decides.
    fn logic(
        &self,
        function: Function,
        operands: &'a [Operand],
        last: Option<Cow<'a, Value>>,
        dot: &Cow<'a, Value>,
    ) -> Result<Cow<'a, Value>, RenderError> {
        let decides = function == Function::Or;
        let mut value = Cow::Owned(Value::Null);
        for operand in operands {
            value = self.operand(operand, dot)?;
            if truth(&value) == decides {
                return Ok(value);
            }
        }
        Ok(last.unwrap_or(value))
    }

    fn operand(
        &self,
        operand: &'a Operand,
        dot: &Cow<'a, Value>,
    ) -> Result<Cow<'a, Value>, RenderError> {
        match operand {
            Operand::Constant(value) => Ok(Cow::Borrowed(value)),
            Operand::Dot(path) => walk(dot.clone(), path),
            Operand::Variable(name, path) => {
                let value = self.variables.iter().rev().find(|(known, _)| known == name);
                walk(
                    value.map_or(Cow::Owned(Value::Null), |(_, value)| value.clone()),
                    path,
                )
            }
            Operand::Inner(pipeline, path) => walk(self.pipeline(pipeline, dot)?, path),
        }
    }
}

/// What a pipeline prints, for a message: the path of a field, never a value.
fn named(pipeline: &Pipeline) -> String {
    match pipeline.first() {
        Some(Command::Value(Operand::Dot(path))) => format!("field {}", path.join(".")),
        _ => "a value".to_owned(),
    }
}

fn walk<'a>(mut value: Cow<'a, Value>, path: &[String]) -> Result<Cow<'a, Value>, RenderError> {
    for name in path {
        value = match value {
            Cow::Borrowed(Value::Object(members)) => members
                .get(name)
                .map_or(Cow::Owned(Value::Null), Cow::Borrowed),
            Cow::Owned(Value::Object(mut members)) => {
                Cow::Owned(members.swap_remove(name).unwrap_or(Value::Null))
            }
            other => {
                let kind = kind(&other);
                return Err(RenderError::new(format!("field {name} is asked of {kind}")));
            }
        };
    }
    Ok(value)
}

fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(members) => !members.is_empty(),
    }
}

/// Index or name, and value; objects by name, as Go sorts them.
fn items<'a>(value: Cow<'a, Value>) -> Result<Vec<(Value, Cow<'a, Value>)>, RenderError> {
    fn sorted<'v>(mut items: Vec<(Value, Cow<'v, Value>)>) -> Vec<(Value, Cow<'v, Value>)> {
        items.sort_by(|(a, _), (b, _)| a.as_str().cmp(&b.as_str()));
        items
    }
    Ok(match value {
        Cow::Borrowed(Value::Array(items)) => items
            .iter()
            .enumerate()
            .map(|(at, item)| (at.into(), Cow::Borrowed(item)))
            .collect(),
        Cow::Owned(Value::Array(items)) => items
            .into_iter()
            .enumerate()
            .map(|(at, item)| (at.into(), Cow::Owned(item)))
            .collect(),
        Cow::Borrowed(Value::Object(members)) => sorted(
            members
                .iter()
                .map(|(name, item)| (name.as_str().into(), Cow::Borrowed(item)))
                .collect(),
        ),
        Cow::Owned(Value::Object(members)) => sorted(
            members
                .into_iter()
                .map(|(name, item)| (name.into(), Cow::Owned(item)))
                .collect(),
        ),
        other if other.is_null() => Vec::new(),
        other => {
            return Err(RenderError::new(format!(
                "range cannot go over {}",
                kind(&other)
            )));
        }
    })
}

fn call<'a>(
    function: Function,
    arguments: Vec<Cow<'a, Value>>,
) -> Result<Cow<'a, Value>, RenderError> {
    let flag = |value: bool| Ok(Cow::Owned(Value::Bool(value)));
    let mut arguments = arguments.into_iter();
    let first = arguments.next().unwrap_or(Cow::Owned(Value::Null));
    let second = |mut arguments: std::vec::IntoIter<Cow<'a, Value>>| {
        arguments.next().unwrap_or(Cow::Owned(Value::Null))
    };
    let order = |wanted: fn(Ordering) -> bool, second: Cow<'a, Value>| {
        compare(&first, &second)
            .map(|order| Cow::Owned(Value::Bool(wanted(order))))
            .ok_or_else(|| {
                RenderError::new(format!(
                    "cannot compare {} with {}",
                    kind(&first),
                    kind(&second)
                ))
            })
    };
    match function {
        Function::Json => Ok(Cow::Owned(Value::String(first.to_string()))),
        Function::Not => flag(!truth(&first)),
        Function::Len => match &*first {
            Value::String(text) => Ok(Cow::Owned(text.len().into())),
            Value::Array(items) => Ok(Cow::Owned(items.len().into())),
            Value::Object(members) => Ok(Cow::Owned(members.len().into())),
            other => Err(RenderError::new(format!(
                "len does not take {}",
                kind(other)
            ))),
        },
        Function::Index => {
            let mut value = first;
            for key in arguments {
                value = index(value, &key)?;
            }
            Ok(value)
        }
        Function::Eq => {
            let mut rest = arguments;
            flag(rest.any(|other| same(&first, &other)))
        }
        Function::Ne => flag(!same(&first, &second(arguments))),
        Function::Lt => order(Ordering::is_lt, second(arguments)),
        Function::Le => order(Ordering::is_le, second(arguments)),
        Function::Gt => order(Ordering::is_gt, second(arguments)),
        Function::Ge => order(Ordering::is_ge, second(arguments)),
        Function::And | Function::Or => Ok(first),
    }
}

fn same(a: &Value, b: &Value) -> bool {
    a == b || compare(a, b) == Some(Ordering::Equal)
}

fn compare(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => Some(a.cmp(&b)),
            _ => match (a.as_u64(), b.as_u64()) {
                (Some(a), Some(b)) => Some(a.cmp(&b)),
                _ => a.as_f64()?.partial_cmp(&b.as_f64()?),
            },
        },
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        _ => None,
    }
}

fn index<'a>(value: Cow<'a, Value>, key: &Value) -> Result<Cow<'a, Value>, RenderError> {
    let missing = || Cow::Owned(Value::Null);
    match (&*value, key) {
        (Value::Object(_), Value::String(name)) => walk(value, std::slice::from_ref(name)),
        (Value::Array(items), Value::Number(number)) => {
            let at = number.as_u64().and_then(|at| usize::try_from(at).ok());
            let length = items.len();
            let Some(at) = at.filter(|at| *at < length) else {
                return Err(RenderError::new(format!(
                    "index {number} of a list of {length}"
                )));
            };
            Ok(match value {
                Cow::Borrowed(Value::Array(items)) => {
                    items.get(at).map_or_else(missing, Cow::Borrowed)
                }
                Cow::Owned(Value::Array(mut items)) => Cow::Owned(items.swap_remove(at)),
                _ => missing(),
            })
        }
        (other, key) => Err(RenderError::new(format!(
            "index of {} by {}",
            kind(other),
            kind(key)
        ))),
    }
}
