//! What a connector says of itself, as constants.

/// What a connector is.
#[derive(Clone, Copy, Debug)]
pub struct Descriptor {
    /// Its own name. In a rule it is called as the host registered it.
    pub name: &'static str,
    /// Its version, usually `env!("CARGO_PKG_VERSION")`.
    pub version: &'static str,
    /// One sentence for people.
    pub description: &'static str,
    /// What its configuration may be.
    pub schema: Schema,
    /// The connections it needs.
    pub slots: &'static [Slot],
}

/// JSON Schema of the configuration, as text.
#[derive(Clone, Copy, Debug)]
pub enum Schema {
    /// One for all that the component does.
    One(&'static str),
    /// One for its source and one for its sink. They become `$defs/source` and `$defs/sink` of a
    /// schema that allows either; the host takes the one for the use at hand.
    PerRole {
        /// Of the source.
        source: &'static str,
        /// Of the sink.
        sink: &'static str,
    },
}

impl Schema {
    /// The document as it stands in the contract's descriptor.
    #[must_use]
    pub fn document(self) -> String {
        match self {
            Self::One(schema) => schema.to_owned(),
            Self::PerRole { source, sink } => [
                r##"{"$schema":"https://json-schema.org/draft/2020-12/schema","$defs":{"source":"##,
                source,
                r#","sink":"#,
                sink,
                r##"},"anyOf":[{"$ref":"#/$defs/source"},{"$ref":"#/$defs/sink"}]}"##,
            ]
            .concat(),
        }
    }
}

/// A connection that a connector needs: `Client::open` takes its name.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// Its name.
    pub name: &'static str,
    /// `messaging`, `http` or `sql`.
    pub interface: &'static str,
    /// The connector can work without it.
    pub optional: bool,
    /// One sentence for people.
    pub description: &'static str,
}

impl Slot {
    /// A connection to publish to or subscribe at.
    #[must_use]
    pub const fn messaging(name: &'static str, description: &'static str) -> Self {
        Self {
            name,
            interface: "messaging",
            optional: false,
            description,
        }
    }

    /// A connection to send requests over.
    #[must_use]
    pub const fn http(name: &'static str, description: &'static str) -> Self {
        Self {
            name,
            interface: "http",
            optional: false,
            description,
        }
    }

    /// A connection to run statements on.
    #[must_use]
    pub const fn sql(name: &'static str, description: &'static str) -> Self {
        Self {
            name,
            interface: "sql",
            optional: false,
            description,
        }
    }

    /// The connector can work without it.
    #[must_use]
    pub const fn optional(mut self) -> Self {
        self.optional = true;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schemas_of_two_roles_become_one_document_that_holds_both() {
        let document = Schema::PerRole {
            source: r#"{"title":"in"}"#,
            sink: r#"{"title":"out"}"#,
        }
        .document();
        let value: serde_json::Value = serde_json::from_str(&document).unwrap();
        assert_eq!(value["$defs"]["source"]["title"], "in");
        assert_eq!(value["$defs"]["sink"]["title"], "out");
        assert_eq!(value["anyOf"][1]["$ref"], "#/$defs/sink");
    }
}
