//! What a server says of its own REST in `/openapi.json`, and whether an answer is so: its status, its
//! content type, its body. Every answer that [`crate::rest::Rest`] reads is held against it.

use std::collections::HashMap;
use std::sync::OnceLock;

use jsonschema::Validator;
use serde_json::{Value, json};

use crate::pusher::{Answered, Client};

/// Larger bodies are not looked into: tests that measure would measure that.
const MOST: usize = 64 * 1024;

/// A description of REST.
#[derive(Debug)]
pub struct Description {
    document: Value,
    operations: Vec<Operation>,
}

#[derive(Debug)]
struct Operation {
    /// In upper case.
    method: String,
    path: String,
    answers: HashMap<u16, Vec<Content>>,
}

/// One way in which an answer may be written.
#[derive(Debug)]
struct Content {
    typ: String,
    /// Where its schema stands.
    pointer: String,
    validator: OnceLock<Validator>,
}

/// The description by the server that was asked first: they are all the same program.
static KNOWN: OnceLock<Description> = OnceLock::new();

impl Description {
    /// That of the server on this port; None: it does not give it now.
    #[must_use]
    pub fn of_server(port: u16) -> Option<&'static Self> {
        if let Some(known) = KNOWN.get() {
            return Some(known);
        }
        let answered = Client::new(port)
            .send("GET", "/openapi.json", &[], b"")
            .ok()?;
        let document = serde_json::from_str(&answered.body).ok()?;
        Some(KNOWN.get_or_init(|| Self::new(document)))
    }

    /// Reads a document.
    ///
    /// # Panics
    /// It is no OpenAPI.
    #[must_use]
    pub fn new(document: Value) -> Self {
        let mut operations = Vec::new();
        for (path, item) in document["paths"].as_object().expect("paths") {
            for (method, operation) in item.as_object().expect("operations") {
                let mut answers = HashMap::new();
                for (status, answer) in operation["responses"].as_object().expect("responses") {
                    let place = format!(
                        "/paths/{}/{method}/responses/{status}/content",
                        escaped(path)
                    );
                    let contents = answer["content"].as_object().into_iter().flatten();
                    let contents = contents.map(|(typ, _)| Content {
                        typ: typ.clone(),
                        pointer: format!("{place}/{}/schema", escaped(typ)),
                        validator: OnceLock::new(),
                    });
                    let status = status.parse().expect("a status");
                    answers.insert(status, contents.collect());
                }
                operations.push(Operation {
                    method: method.to_uppercase(),
                    path: path.clone(),
                    answers,
                });
            }
        }
        Self {
            document,
            operations,
        }
    }

    /// All of it.
    #[must_use]
    pub fn document(&self) -> &Value {
        &self.document
    }

    /// Whether an answer is as described. A path or method that is not described is the server's to
    /// refuse, and no matter here.
    ///
    /// # Errors
    /// A sentence on what is not.
    ///
    /// # Panics
    /// A schema of the description is none.
    pub fn check(&self, method: &str, path: &str, answered: &Answered) -> Result<(), String> {
        let path = path.split('?').next().unwrap_or_default();
        let Some(operation) = self.find(method, path) else {
            return Ok(());
        };
        let name = format!("{method} {}", operation.path);
        let status = answered.status;
        let Some(contents) = operation.answers.get(&status) else {
            return Err(format!(
                "{name} is answered {status}, which is not described: {}",
                answered.body
            ));
        };
        let typ = answered.header("content-type").unwrap_or_default();
        let typ = typ.split(';').next().unwrap_or_default().trim();
        if contents.is_empty() {
            return match answered.body.is_empty() {
                true => Ok(()),
                false => Err(format!(
                    "{name}, {status}: no body is described: {}",
                    answered.body
                )),
            };
        }
        let Some(content) = contents.iter().find(|content| content.typ == typ) else {
            return Err(format!(
                "{name}, {status}: the content type \"{typ}\" is not described"
            ));
        };
        if typ != "application/json" || answered.body.len() > MOST {
            return Ok(());
        }
        let body: Value = serde_json::from_str(&answered.body)
            .map_err(|error| format!("{name}, {status}: no JSON: {error}: {}", answered.body))?;
        let validator = content.validator.get_or_init(|| {
            let whole = json!({
                "$ref": format!("#{}", content.pointer),
                "paths": self.document["paths"], "components": self.document["components"],
            });
            jsonschema::validator_for(&whole)
                .unwrap_or_else(|error| panic!("{}: {error}", content.pointer))
        });
        let errors: Vec<String> = validator
            .iter_errors(&body)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        match errors.is_empty() {
            true => Ok(()),
            false => Err(format!("{name}, {status}: {errors:?} in {body}")),
        }
    }

    /// The operation of a path; one that is written out goes before one with a parameter there.
    fn find(&self, method: &str, path: &str) -> Option<&Operation> {
        let fits = |operation: &&Operation| {
            operation.method == method && {
                let (known, given) = (operation.path.split('/'), path.split('/'));
                known.clone().count() == given.clone().count()
                    && known
                        .zip(given)
                        .all(|(known, given)| known.starts_with('{') || known == given)
            }
        };
        let parameters = |operation: &&Operation| operation.path.matches('{').count();
        self.operations.iter().filter(fits).min_by_key(parameters)
    }
}

fn escaped(name: &str) -> String {
    name.replace('~', "~0")
        .replace('/', "~1")
        .replace('{', "%7B")
        .replace('}', "%7D")
}
