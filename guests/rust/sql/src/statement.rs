//! The statements of the sink. Names are quoted for the dialect, values are places for parameters.

use windlass_connector::Dialect;

/// What is done with a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Insert,
    Update,
    Upsert,
    Delete,
}

impl Kind {
    /// As a row says it, in any case.
    pub(crate) fn named(text: &str) -> Option<Self> {
        let kinds = [
            ("insert", Self::Insert),
            ("update", Self::Update),
            ("upsert", Self::Upsert),
            ("delete", Self::Delete),
        ];
        let found = kinds
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(text));
        found.map(|(_, kind)| *kind)
    }

    /// The row may not be there yet.
    pub(crate) fn is_insert(self) -> bool {
        matches!(self, Self::Insert | Self::Upsert)
    }
}

/// A statement for one row; the host puts several rows of an insert into one. Its parameters are the
/// columns in their order; an update's keys stand last among them, a delete has only these.
///
/// # Errors
/// A sentence: a name that cannot be one.
pub(crate) fn statement(
    dialect: Dialect,
    kind: Kind,
    table: &str,
    columns: &[String],
    keys: &[String],
) -> Result<String, String> {
    let table = dialect.table(table)?;
    let quote = |names: &[String]| -> Result<Vec<String>, String> {
        names.iter().map(|name| dialect.name(name)).collect()
    };
    let (quoted, quoted_keys) = (quote(columns)?, quote(keys)?);
    let mut number = 0;
    let mut place = |out: &mut String| {
        number += 1;
        dialect.place(out, number);
    };
    let mut out = String::with_capacity(64 + columns.len() * 24);
    match kind {
        Kind::Insert | Kind::Upsert => {
            out.push_str(&format!(
                "INSERT INTO {table} ({}) VALUES (",
                quoted.join(", ")
            ));
            for column in 0..columns.len() {
                if column > 0 {
                    out.push_str(", ");
                }
                place(&mut out);
            }
            out.push(')');
            if kind == Kind::Upsert {
                upsert(&mut out, dialect, &quoted, &quoted_keys);
            }
        }
        Kind::Update => {
            let split = columns.len().saturating_sub(keys.len());
            out.push_str(&format!("UPDATE {table} SET "));
            for (number, name) in quoted.iter().take(split).enumerate() {
                out.push_str(if number == 0 { "" } else { ", " });
                out.push_str(&format!("{name} = "));
                place(&mut out);
            }
            condition(&mut out, &quoted_keys, &mut place);
        }
        Kind::Delete => {
            out.push_str(&format!("DELETE FROM {table}"));
            condition(&mut out, &quoted_keys, &mut place);
        }
    }
    Ok(out)
}

fn condition(out: &mut String, keys: &[String], place: &mut impl FnMut(&mut String)) {
    for (number, name) in keys.iter().enumerate() {
        out.push_str(if number == 0 { " WHERE " } else { " AND " });
        out.push_str(&format!("{name} = "));
        place(out);
    }
}

/// What happens where the key is there already.
fn upsert(out: &mut String, dialect: Dialect, columns: &[String], keys: &[String]) {
    let mut changed: Vec<&String> = columns.iter().filter(|name| !keys.contains(name)).collect();
    let set = |source: &dyn Fn(&str) -> String, changed: &[&String]| {
        let each: Vec<String> = changed
            .iter()
            .map(|name| format!("{name} = {}", source(name)))
            .collect();
        each.join(", ")
    };
    if dialect == Dialect::Mysql {
        // There is no DO NOTHING, and IGNORE would hide other mistakes.
        if changed.is_empty() {
            changed.extend(keys.first());
        }
        out.push_str(" ON DUPLICATE KEY UPDATE ");
        out.push_str(&set(&|name| format!("VALUES({name})"), &changed));
        return;
    }
    out.push_str(&format!(" ON CONFLICT ({}) DO ", keys.join(", ")));
    if changed.is_empty() {
        out.push_str("NOTHING");
    } else {
        out.push_str("UPDATE SET ");
        out.push_str(&set(&|name| format!("excluded.{name}"), &changed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn written(dialect: Dialect, kind: Kind, columns: &[&str], keys: &[&str]) -> String {
        statement(dialect, kind, "s.t", &names(columns), &names(keys)).unwrap()
    }

    #[test]
    fn an_insert_names_its_columns() {
        assert_eq!(
            written(Dialect::Sqlite, Kind::Insert, &["a", "b"], &["a"]),
            "INSERT INTO `s`.`t` (`a`, `b`) VALUES (?, ?)"
        );
    }

    #[test]
    fn an_upsert_changes_all_but_the_key_in_each_dialect() {
        assert_eq!(
            written(Dialect::Postgresql, Kind::Upsert, &["a", "b", "k"], &["k"]),
            r#"INSERT INTO "s"."t" ("a", "b", "k") VALUES ($1, $2, $3) ON CONFLICT ("k") DO UPDATE SET "a" = excluded."a", "b" = excluded."b""#
        );
        assert_eq!(
            written(Dialect::Sqlite, Kind::Upsert, &["a", "j", "k"], &["k", "j"]),
            "INSERT INTO `s`.`t` (`a`, `j`, `k`) VALUES (?, ?, ?) ON CONFLICT (`k`, `j`) DO UPDATE SET `a` = excluded.`a`"
        );
        assert_eq!(
            written(Dialect::Mysql, Kind::Upsert, &["a", "k"], &["k"]),
            "INSERT INTO `s`.`t` (`a`, `k`) VALUES (?, ?) ON DUPLICATE KEY UPDATE `a` = VALUES(`a`)"
        );
    }

    #[test]
    fn an_upsert_of_nothing_but_its_key_leaves_the_row() {
        assert!(
            written(Dialect::Postgresql, Kind::Upsert, &["k"], &["k"])
                .ends_with(r#"ON CONFLICT ("k") DO NOTHING"#)
        );
        assert!(
            written(Dialect::Mysql, Kind::Upsert, &["k"], &["k"])
                .ends_with("ON DUPLICATE KEY UPDATE `k` = VALUES(`k`)")
        );
    }

    #[test]
    fn updates_and_deletes_find_their_row_by_the_key() {
        assert_eq!(
            written(
                Dialect::Postgresql,
                Kind::Update,
                &["a", "b", "j", "k"],
                &["j", "k"]
            ),
            r#"UPDATE "s"."t" SET "a" = $1, "b" = $2 WHERE "j" = $3 AND "k" = $4"#
        );
        assert_eq!(
            written(Dialect::Mysql, Kind::Delete, &["j", "k"], &["j", "k"]),
            "DELETE FROM `s`.`t` WHERE `j` = ? AND `k` = ?"
        );
    }

    #[test]
    fn names_with_statements_in_them_stay_names() {
        assert_eq!(
            written(
                Dialect::Postgresql,
                Kind::Insert,
                &["a\") VALUES (1); DROP TABLE t; --"],
                &[]
            ),
            r#"INSERT INTO "s"."t" ("a"") VALUES (1); DROP TABLE t; --") VALUES ($1)"#
        );
        assert!(statement(Dialect::Sqlite, Kind::Insert, "t", &names(&["a\0"]), &[]).is_err());
        assert!(statement(Dialect::Sqlite, Kind::Insert, "t.", &names(&["a"]), &[]).is_err());
    }

    #[test]
    fn kinds_are_named_in_any_case() {
        assert_eq!(Kind::named("UPSERT"), Some(Kind::Upsert));
        assert_eq!(Kind::named("replace"), None);
    }
}
