//! How each database wants a statement written: quoted names, places for parameters.

use crate::{Error, sql};

/// A way of writing statements, as `wit/sql.wit` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// SQLite.
    Sqlite,
    /// PostgreSQL.
    Postgresql,
    /// MySQL and MariaDB.
    Mysql,
}

impl Dialect {
    /// Of this connection; known while it is down too.
    ///
    /// # Errors
    /// `misconfigured`: a database that is not among these.
    pub fn of(client: &sql::Client) -> Result<Self, Error> {
        Self::named(&client.dialect())
    }

    /// By its name in the contract.
    ///
    /// # Errors
    /// `misconfigured`: a database that is not among these.
    pub fn named(name: &str) -> Result<Self, Error> {
        match name {
            "sqlite" => Ok(Self::Sqlite),
            "postgresql" => Ok(Self::Postgresql),
            "mysql" => Ok(Self::Mysql),
            other => Err(Error::misconfigured(
                "dialect",
                format!(
                    "the connection's database is \"{other}\"; this connector knows sqlite, postgresql and mysql"
                ),
            )),
        }
    }

    /// One name, whatever is in it, as an identifier.
    ///
    /// SQLite takes a name in double quotes that it does not find for a text, so it gets backticks.
    ///
    /// # Errors
    /// A sentence: the name is empty or holds NUL.
    pub fn name(self, name: &str) -> Result<String, String> {
        if name.is_empty() {
            return Err("a name cannot be empty".to_owned());
        }
        if name.contains('\0') {
            return Err(format!("the name {name:?} holds NUL"));
        }
        let quote = match self {
            Self::Sqlite | Self::Mysql => '`',
            Self::Postgresql => '"',
        };
        let mut out = String::with_capacity(name.len() + 2);
        out.push(quote);
        for c in name.chars() {
            if c == quote {
                out.push(quote);
            }
            out.push(c);
        }
        out.push(quote);
        Ok(out)
    }

    /// A table, perhaps with its schema before it: `table` or `schema.table`.
    ///
    /// # Errors
    /// A sentence: a part is empty or holds NUL.
    pub fn table(self, table: &str) -> Result<String, String> {
        let parts: Result<Vec<String>, String> =
            table.split('.').map(|part| self.name(part)).collect();
        parts
            .map(|parts| parts.join("."))
            .map_err(|why| format!("{table:?} is not a table: {why}"))
    }

    /// Appends the place of parameter `number`, counted from 1. Parameters stand in the order of
    /// their numbers.
    pub fn place(self, out: &mut String, number: usize) {
        match self {
            Self::Postgresql => {
                out.push('$');
                out.push_str(&number.to_string());
            }
            Self::Sqlite | Self::Mysql => out.push('?'),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_quoted_so_that_nothing_in_it_ends_it() {
        for (dialect, name, quoted) in [
            (Dialect::Sqlite, "a", "`a`"),
            (
                Dialect::Sqlite,
                "a`; DROP TABLE t; --",
                "`a``; DROP TABLE t; --`",
            ),
            (Dialect::Mysql, "a`b\"c\\", "`a``b\"c\\`"),
            (
                Dialect::Postgresql,
                "a\" FROM t; --",
                "\"a\"\" FROM t; --\"",
            ),
            (Dialect::Postgresql, "größe in %", "\"größe in %\""),
        ] {
            assert_eq!(dialect.name(name).unwrap(), quoted);
        }
        assert!(Dialect::Sqlite.name("").is_err());
        assert!(Dialect::Postgresql.name("a\0b").is_err());
    }

    #[test]
    fn a_table_may_have_its_schema_before_it() {
        assert_eq!(
            Dialect::Postgresql.table("plant.readings").unwrap(),
            "\"plant\".\"readings\""
        );
        assert_eq!(Dialect::Mysql.table("readings").unwrap(), "`readings`");
        for table in ["", ".", "a.", ".b", "a..b", "a\0"] {
            assert!(Dialect::Mysql.table(table).is_err(), "{table:?}");
        }
    }

    #[test]
    fn parameters_have_the_places_of_their_database() {
        let place = |dialect: Dialect| {
            let mut out = String::new();
            dialect.place(&mut out, 12);
            out
        };
        assert_eq!(place(Dialect::Sqlite), "?");
        assert_eq!(place(Dialect::Postgresql), "$12");
        assert_eq!(place(Dialect::Mysql), "?");
    }

    #[test]
    fn an_unknown_database_is_misconfigured_and_named() {
        let error = Dialect::named("oracle").unwrap_err();
        assert_eq!(error.kind, crate::Kind::Misconfigured);
        assert!(error.message.contains("oracle"), "{}", error.message);
        assert_eq!(Dialect::named("mysql").unwrap(), Dialect::Mysql);
    }
}
