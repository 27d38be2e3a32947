//! `*.test.yaml`: what the connections give, what must come out. `read` makes cases of a file, `run`
//! drives one, `compare` says in which places the outcome is another than expected.

mod compare;
mod expect;
mod fields;
mod read;
mod run;

pub use compare::Difference;
pub use read::{Case, ConnectorName, TestFile};
pub use run::Outcome;
