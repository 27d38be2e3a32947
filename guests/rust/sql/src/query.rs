//! The source's configuration, checked, and the statement that it makes.

use std::collections::HashMap;

use serde::Deserialize;
use windlass_connector::sql::{Rows, Value};
use windlass_connector::{Dialect, Error, Millis};

use crate::index::{Index, IndexConfig, wrong};
use crate::template::Template;

/// The columns of a table that are more exact, or less, than what a text or a float is compared as.
const TYPES: &str = "SELECT COLUMN_NAME, CONCAT(DATA_TYPE, IF(COLUMN_TYPE LIKE '%unsigned%', ' unsigned', '')), \
    NUMERIC_PRECISION, NUMERIC_SCALE FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = COALESCE(?, DATABASE()) AND TABLE_NAME = ?";

const UNSIGNED: &str = "UNSIGNED";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Config {
    #[serde(default)]
    datasource: String,
    interval: Option<Millis>,
    internal_sql_query_cfg: Option<QueryConfig>,
    template_sql_query_cfg: Option<QueryConfig>,
}

/// Either form: the host has refused what does not belong to it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct QueryConfig {
    table: Option<String>,
    limit: Option<u64>,
    #[serde(alias = "TemplateSql")]
    template_sql: Option<String>,
    #[serde(flatten)]
    index: IndexConfig,
    index_fields: Vec<IndexConfig>,
}

/// What is asked again and again.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Query {
    pub(crate) dialect: Dialect,
    pub(crate) form: Form,
    pub(crate) index: Index,
    /// Rows of one query, at most; a statement of one's own has its own limit.
    pub(crate) limit: Option<u32>,
    /// Of the messages. Empty: none.
    pub(crate) subject: String,
    /// Milliseconds between two queries.
    pub(crate) interval: u32,
    /// Index columns whose values must be cast to be compared exactly, and to what.
    casts: HashMap<String, String>,
    /// The table whose columns' types must be known for that.
    types: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Form {
    /// A table's name, quoted.
    Table(String),
    Template(Template),
}

impl Query {
    /// # Errors
    /// `misconfigured`, with the property.
    pub(crate) fn new(config: Config, dialect: Dialect) -> Result<Self, Error> {
        let interval = match config.interval {
            None => {
                return Err(wrong(
                    "interval: a time between two queries is required, such as \"10s\"",
                ));
            }
            Some(Millis(0)) => {
                return Err(wrong(
                    "interval: 0 is no time between two queries; at least 1 ms",
                ));
            }
            Some(Millis(interval)) => u32::try_from(interval).unwrap_or(u32::MAX),
        };
        match (config.internal_sql_query_cfg, config.template_sql_query_cfg) {
            (Some(_), Some(_)) => Err(wrong(
                "templateSqlQueryCfg: give either internalSqlQueryCfg or templateSqlQueryCfg",
            )),
            (None, None) => Err(wrong(
                "internalSqlQueryCfg: say what to read, with internalSqlQueryCfg or templateSqlQueryCfg",
            )),
            (Some(query), None) => Self::of_table(query, dialect, config.datasource, interval),
            (None, Some(query)) => Self::of_template(query, dialect, config.datasource, interval),
        }
    }

    fn of_table(
        query: QueryConfig,
        dialect: Dialect,
        datasource: String,
        interval: u32,
    ) -> Result<Self, Error> {
        let table = query.table.unwrap_or_default();
        let quoted = dialect
            .table(&table)
            .map_err(|why| wrong(format!("table: {why}")))?;
        let limit = match query.limit {
            Some(0) => {
                return Err(wrong(
                    "limit: 0 rows give nothing; at least 1, or leave it out",
                ));
            }
            limit => limit.map(|limit| u32::try_from(limit).unwrap_or(u32::MAX)),
        };
        let index = Index::new(query.index, query.index_fields)?;
        for name in &index.names {
            dialect
                .name(name)
                .map_err(|why| wrong(format!("indexField: {why}")))?;
        }
        Ok(Self {
            dialect,
            form: Form::Table(quoted),
            index,
            limit,
            subject: if datasource.is_empty() {
                table.clone()
            } else {
                datasource
            },
            interval,
            casts: HashMap::new(),
            types: (dialect == Dialect::Mysql).then_some(table),
        })
    }

    fn of_template(
        query: QueryConfig,
        dialect: Dialect,
        datasource: String,
        interval: u32,
    ) -> Result<Self, Error> {
        let text = query
            .template_sql
            .filter(|text| !text.trim().is_empty())
            .ok_or_else(|| wrong("templateSql: a statement is required"))?;
        let index = Index::new(query.index, query.index_fields)?;
        let template = Template::new(&text, dialect, &index.names)
            .map_err(|why| wrong(format!("templateSql: {why}")))?;
        if !template.values.is_empty() && index.begin.is_none() {
            return Err(wrong(
                "indexValue: a statement with {{...}} needs a first value for each index column",
            ));
        }
        Ok(Self {
            dialect,
            form: Form::Template(template),
            index,
            limit: None,
            subject: datasource,
            interval,
            casts: HashMap::new(),
            types: None,
        })
    }

    /// What to ask before the first statement; None: nothing (any more).
    ///
    /// MySQL compares a number with a text as two floats, which have 53 bits: values of columns that
    /// have more come as texts, and must be cast back.
    pub(crate) fn types(&self) -> Option<(&'static str, Vec<Value>)> {
        let table = self
            .types
            .as_ref()
            .filter(|_| !self.index.names.is_empty())?;
        let (schema, table) = match table.rsplit_once('.') {
            Some((schema, table)) => (Value::Text(schema.to_owned()), table),
            None => (Value::Null, table.as_str()),
        };
        Some((TYPES, vec![schema, Value::Text(table.to_owned())]))
    }

    /// The answer to that.
    pub(crate) fn learn(&mut self, answer: &Rows) {
        // A table that is not there yet is asked for again.
        if !answer.rows.is_empty() {
            self.types = None;
        }
        for row in &answer.rows {
            let [Value::Text(name), Value::Text(typ), precision, scale] = row.as_slice() else {
                continue;
            };
            let number = |value: &Value| match value {
                Value::Integer(value) => *value,
                _ => 0,
            };
            let cast = match typ.as_str() {
                "decimal" | "decimal unsigned" => {
                    // Room for a first value with more digits behind the point than the column has.
                    let whole = number(precision) - number(scale);
                    format!("DECIMAL(65, {})", (65 - whole).clamp(0, 30))
                }
                "bigint unsigned" => UNSIGNED.to_owned(),
                "float" => "FLOAT".to_owned(),
                _ => continue,
            };
            self.casts.insert(name.to_lowercase(), cast);
        }
    }

    /// The statement for the rows behind `after`, perhaps not more than `limit`, and its parameters.
    ///
    /// # Errors
    /// `misconfigured`: a name that cannot be one.
    pub(crate) fn statement(
        &self,
        after: Option<&[Value]>,
        limit: Option<u32>,
    ) -> Result<(String, Vec<Value>), Error> {
        let table = match &self.form {
            Form::Template(template) => {
                let after = after.unwrap_or_default();
                let value = |place: &usize| after.get(*place).cloned().unwrap_or(Value::Null);
                return Ok((
                    template.statement.clone(),
                    template.values.iter().map(value).collect(),
                ));
            }
            Form::Table(table) => table,
        };
        let names: Result<Vec<String>, String> = self
            .index
            .names
            .iter()
            .map(|name| self.dialect.name(name))
            .collect();
        let names = names.map_err(wrong)?;
        let mut out = format!("SELECT * FROM {table}");
        let mut params = Vec::new();
        if !names.is_empty() {
            // Databases disagree on where null stands in an order, and nothing is behind it.
            for (place, name) in names.iter().enumerate() {
                out.push_str(if place == 0 { " WHERE " } else { " AND " });
                out.push_str(name);
                out.push_str(" IS NOT NULL");
            }
            if let Some(after) = after {
                out.push_str(" AND ");
                self.behind(&mut out, &mut params, &names, after);
            }
            out.push_str(" ORDER BY ");
            out.push_str(&names.join(", "));
        }
        if let Some(limit) = limit {
            out.push_str(&format!(" LIMIT {limit}"));
        }
        Ok((out, params))
    }

    /// The condition for rows behind these values, the first column weighing most.
    fn behind(&self, out: &mut String, params: &mut Vec<Value>, names: &[String], after: &[Value]) {
        let mut bind = |out: &mut String, name: &str, value: &Value| {
            params.push(value.clone());
            // Integers are compared exactly with every kind of number.
            let cast = self.casts.get(&name.to_lowercase());
            let cast = cast.filter(|cast| match value {
                Value::Text(_) => true,
                // A fraction would be rounded, past rows that are behind it.
                Value::Real(_) => *cast != UNSIGNED,
                _ => false,
            });
            match cast {
                Some(cast) => {
                    out.push_str("CAST(");
                    self.dialect.place(out, params.len());
                    out.push_str(&format!(" AS {cast})"));
                }
                None => self.dialect.place(out, params.len()),
            }
        };
        if let ([name], [plain], [value]) = (names, self.index.names.as_slice(), after) {
            out.push_str(name);
            out.push_str(" > ");
            bind(out, plain, value);
            return;
        }
        if self.dialect != Dialect::Mysql {
            out.push_str(&format!("({}) > (", names.join(", ")));
            for (place, (plain, value)) in self.index.names.iter().zip(after).enumerate() {
                if place > 0 {
                    out.push_str(", ");
                }
                bind(out, plain, value);
            }
            out.push(')');
            return;
        }
        // MySQL compares rows as the others do, but does not use an index for it.
        let mut columns = names.iter().zip(&self.index.names).zip(after).peekable();
        let mut open = 0;
        while let Some(((name, plain), value)) = columns.next() {
            let is_last = columns.peek().is_none();
            if open == 0 {
                out.push_str(&format!("{name} >= "));
                bind(out, plain, value);
                out.push_str(" AND ");
            }
            if is_last {
                out.push_str(&format!("{name} > "));
                bind(out, plain, value);
            } else {
                out.push_str(&format!("({name} > "));
                bind(out, plain, value);
                out.push_str(&format!(" OR {name} = "));
                bind(out, plain, value);
                out.push_str(" AND ");
                open += 1;
            }
        }
        out.push_str(&")".repeat(open));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_connector::{Kind, from_json};

    fn query(config: &str, dialect: Dialect) -> Result<Query, Error> {
        Query::new(from_json(config)?, dialect)
    }

    fn table(inner: &str, dialect: Dialect) -> Query {
        let config =
            format!(r#"{{"interval":"1s","internalSqlQueryCfg":{{"table":"a.t",{inner}}}}}"#);
        query(&config, dialect).unwrap()
    }

    const TWO: &str = r#""indexFields":[{"indexField":"a"},{"indexField":"b"}]"#;

    #[test]
    fn a_table_is_read_in_the_order_of_its_index_from_the_beginning() {
        let plain = table(r#""indexField":"id","limit":10"#, Dialect::Postgresql);
        assert_eq!(
            plain.statement(None, Some(10)).unwrap(),
            (
                r#"SELECT * FROM "a"."t" WHERE "id" IS NOT NULL ORDER BY "id" LIMIT 10"#.to_owned(),
                vec![]
            )
        );
        assert_eq!(
            plain.statement(Some(&[Value::Integer(7)]), Some(10)).unwrap(),
            (
                r#"SELECT * FROM "a"."t" WHERE "id" IS NOT NULL AND "id" > $1 ORDER BY "id" LIMIT 10"#.to_owned(),
                vec![Value::Integer(7)]
            )
        );
        assert_eq!(
            (plain.limit, plain.interval, plain.subject.as_str()),
            (Some(10), 1000, "a.t")
        );
        let whole = table(r#""limit":3"#, Dialect::Sqlite);
        assert_eq!(
            whole.statement(None, Some(3)).unwrap().0,
            "SELECT * FROM `a`.`t` LIMIT 3"
        );
        assert_eq!(
            whole.statement(None, None).unwrap().0,
            "SELECT * FROM `a`.`t`"
        );
    }

    #[test]
    fn several_index_columns_are_compared_as_one_row() {
        let after = [Value::Integer(1), Value::Text("x".to_owned())];
        for (dialect, condition, params) in [
            (Dialect::Sqlite, "(`a`, `b`) > (?, ?)", 2),
            (Dialect::Postgresql, r#"("a", "b") > ($1, $2)"#, 2),
            (
                Dialect::Mysql,
                "`a` >= ? AND (`a` > ? OR `a` = ? AND `b` > ?)",
                4,
            ),
        ] {
            let (statement, bound) = table(TWO, dialect)
                .statement(Some(&after), Some(5))
                .unwrap();
            assert!(statement.contains(condition), "{statement}");
            assert!(statement.contains("IS NOT NULL AND"), "{statement}");
            assert_eq!(bound.len(), params);
        }
        let three = r#""indexFields":[{"indexField":"a"},{"indexField":"b"},{"indexField":"c"}]"#;
        let after = [Value::Integer(1), Value::Integer(2), Value::Integer(3)];
        let (statement, bound) = table(three, Dialect::Mysql)
            .statement(Some(&after), Some(5))
            .unwrap();
        assert!(
            statement
                .contains("`a` >= ? AND (`a` > ? OR `a` = ? AND (`b` > ? OR `b` = ? AND `c` > ?))"),
            "{statement}"
        );
        let values: Vec<i64> = bound
            .iter()
            .map(|value| match value {
                Value::Integer(value) => *value,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(values, [1, 1, 1, 2, 2, 3]);
    }

    #[test]
    fn in_mysql_what_is_more_exact_than_a_float_is_cast_to_the_columns_type() {
        let mut two = table(TWO, Dialect::Mysql);
        let (_, asked) = two.types().unwrap();
        assert_eq!(asked, ["a", "t"].map(|text| Value::Text(text.to_owned())));
        let row = |name: &str, typ: &str, precision, scale| {
            let text = |text: &str| Value::Text(text.to_owned());
            vec![text(name), text(typ), precision, scale]
        };
        two.learn(&Rows {
            columns: Vec::new(),
            rows: Vec::new(),
            truncated: false,
        });
        assert!(two.types().is_some(), "the table is not there yet");
        two.learn(&Rows {
            columns: Vec::new(),
            rows: vec![
                row("A", "decimal", Value::Integer(40), Value::Integer(2)),
                row(
                    "b",
                    "bigint unsigned",
                    Value::Integer(20),
                    Value::Integer(0),
                ),
                row("c", "varchar", Value::Null, Value::Null),
            ],
            truncated: false,
        });
        assert!(two.types().is_none());
        let text = |text: &str| Value::Text(text.to_owned());
        let condition = |after: &[Value]| two.statement(Some(after), None).unwrap().0;
        let exact = condition(&[text("1.50"), text("18446744073709551615")]);
        assert!(
            exact.contains(
                "`a` >= CAST(? AS DECIMAL(65, 27)) AND (`a` > CAST(? AS DECIMAL(65, 27)) OR \
                 `a` = CAST(? AS DECIMAL(65, 27)) AND `b` > CAST(? AS UNSIGNED))"
            ),
            "{exact}"
        );
        let plain = condition(&[Value::Integer(1), Value::Real(2.5)]);
        assert!(!plain.contains("CAST"), "{plain}");
        assert!(table(TWO, Dialect::Postgresql).types().is_none());
        assert!(table(r#""limit":1"#, Dialect::Mysql).types().is_none());
    }

    #[test]
    fn names_with_statements_in_them_stay_names() {
        let config = r#"{"interval":1,"internalSqlQueryCfg":{"table":"t`; DROP TABLE t; --","indexField":"x` OR 1=1 --"}}"#;
        let (statement, _) = query(config, Dialect::Mysql)
            .unwrap()
            .statement(None, Some(1))
            .unwrap();
        assert_eq!(
            statement,
            "SELECT * FROM `t``; DROP TABLE t; --` WHERE `x`` OR 1=1 --` IS NOT NULL ORDER BY `x`` OR 1=1 --` LIMIT 1"
        );
    }

    #[test]
    fn a_template_is_asked_with_the_index_values_as_parameters() {
        let config = r#"{"interval":"5s","datasource":"plant","templateSqlQueryCfg":
            {"templateSql":"select * from t where id > {{.id}} order by id","indexField":"id","indexValue":5}}"#;
        let query = query(config, Dialect::Sqlite).unwrap();
        assert_eq!(query.subject, "plant");
        assert_eq!(
            query
                .statement(query.index.begin.as_deref(), Some(9))
                .unwrap(),
            (
                "select * from t where id > ? order by id".to_owned(),
                vec![Value::Integer(5)]
            )
        );
    }

    #[test]
    fn a_configuration_that_cannot_work_is_named() {
        let inner = r#""internalSqlQueryCfg":{"table":"t"}"#;
        let template = r#""templateSqlQueryCfg":{"templateSql":"select 1"}"#;
        for (config, word) in [
            (format!(r#"{{"interval":1,{inner},{template}}}"#), "either"),
            (r#"{"interval":1}"#.to_owned(), "say what to read"),
            (format!("{{{inner}}}"), "interval"),
            (format!(r#"{{"interval":0,{inner}}}"#), "interval: 0"),
            (format!(r#"{{"interval":"0s",{inner}}}"#), "interval: 0"),
            (format!(r#"{{"interval":"soon",{inner}}}"#), "soon"),
            (r#"{"interval":1,"internalSqlQueryCfg":{"table":"t","limit":0}}"#.to_owned(), "limit: 0"),
            (r#"{"interval":1,"internalSqlQueryCfg":{"table":"t."}}"#.to_owned(), "table: "),
            (r#"{"interval":1,"internalSqlQueryCfg":{"table":"t","indexField":"a\u0000"}}"#.to_owned(), "NUL"),
            (r#"{"interval":1,"templateSqlQueryCfg":{"templateSql":" "}}"#.to_owned(), "templateSql"),
            (
                r#"{"interval":1,"templateSqlQueryCfg":{"templateSql":"select {{.id}}","indexField":"id"}}"#.to_owned(),
                "first value",
            ),
            (
                r#"{"interval":1,"templateSqlQueryCfg":{"templateSql":"select {{.x}}","indexField":"id"}}"#.to_owned(),
                "{{.id}}",
            ),
        ] {
            let error = query(&config, Dialect::Sqlite).unwrap_err();
            assert_eq!(error.kind, Kind::Misconfigured, "{config}");
            assert!(error.message.contains(word), "{config}: {}", error.message);
        }
    }
}
