//! Pages through a query's answers: how many rows to ask for, how many of an answer to hand on, and
//! where to go on behind them.
//!
//! An answer that may have been cut short ends amid rows of equal index values: those at its end stay
//! behind and come with the next answer, so none is ever between two pages. Equal is taken widely
//! (case and trailing blanks do not count), as collations may; leaving too many behind costs nothing.

use windlass_connector::Error;
use windlass_connector::sql::{Rows, Value};

use crate::query::{Form, Query};

/// Rows of a page where no limit is given, and the most where one is: a guest's memory is bounded.
const MOST_ROWS: u32 = 4000;
/// Rows of an instance's first page: how large rows are is not known yet.
const FIRST_ROWS: u32 = 500;
/// Answers below this many bytes let the next one be larger.
const SMALL: usize = 1024 * 1024;
/// Answers above it make the next one smaller.
const LARGE: usize = 4 * SMALL;
/// Rows with the same index values, at most.
const WIDEST: u32 = 65_536;

/// The place in a query's rows.
#[derive(Debug)]
pub(crate) struct Pager {
    query: Query,
    /// The index values of the last row handed on.
    at: Option<Vec<Value>>,
    rows: u32,
    /// A page that holds nothing but equal rows has to be wider for once.
    wider: u32,
}

/// What to do with an answer.
#[derive(Debug, PartialEq)]
pub(crate) enum Page {
    /// Hand on the first so many rows. `more`: ask again at once.
    Take {
        rows: usize,
        checkpoint: Option<String>,
        more: bool,
    },
    /// Ask again at once, for more rows.
    Widen,
}

impl Pager {
    /// # Errors
    /// `misconfigured`: the checkpoint is not this query's.
    pub(crate) fn new(query: Query, resume: Option<&str>) -> Result<Self, Error> {
        // What has no index keeps no place.
        let at = match resume.filter(|_| !query.index.names.is_empty()) {
            Some(checkpoint) => Some(query.index.resume(checkpoint)?),
            None => query.index.begin.clone(),
        };
        let rows = query.limit.unwrap_or(MOST_ROWS).min(FIRST_ROWS);
        Ok(Self {
            query,
            at,
            rows,
            wider: 1,
        })
    }

    pub(crate) fn query(&self) -> &Query {
        &self.query
    }

    /// As [`Query::types`].
    pub(crate) fn types(&self) -> Option<(&'static str, Vec<Value>)> {
        self.query.types()
    }

    /// As [`Query::learn`].
    pub(crate) fn learn(&mut self, answer: &Rows) {
        self.query.learn(answer);
    }

    /// One more than a page: it shows whether the page's end is amid equal rows.
    fn asked(&self) -> u32 {
        self.rows.saturating_mul(self.wider).saturating_add(1)
    }

    /// The next statement and its parameters.
    ///
    /// # Errors
    /// `misconfigured`: a name that cannot be one.
    pub(crate) fn statement(&self) -> Result<(String, Vec<Value>), Error> {
        // Without an index the limit is all that comes, not a page.
        let limit = if self.query.index.names.is_empty() {
            self.query.limit
        } else {
            Some(self.asked())
        };
        self.query.statement(self.at.as_deref(), limit)
    }

    /// Looks at an answer, and moves behind what is handed on.
    ///
    /// # Errors
    /// `misconfigured`, in a sentence: the answer has no order in which nothing is lost.
    pub(crate) fn turn(&mut self, answer: &Rows) -> Result<Page, Error> {
        let count = answer.rows.len();
        if answer.truncated && count == 0 {
            return Err(Error::misconfigured(
                "size",
                "not one row fits into the connection's limit",
            ));
        }
        if self.query.index.names.is_empty() {
            if answer.truncated {
                return Err(Error::misconfigured(
                    "size",
                    format!(
                        "the answer has more than the {count} rows that the connection allows: set limit, or indexField to read it bit by bit"
                    ),
                ));
            }
            return Ok(Page::Take {
                rows: count,
                checkpoint: None,
                more: false,
            });
        }
        if count == 0 {
            return Ok(Page::Take {
                rows: 0,
                checkpoint: None,
                more: false,
            });
        }
        let places = self.places(&answer.columns)?;
        let is_table = matches!(self.query.form, Form::Table(_));
        let asked = usize::try_from(self.asked()).unwrap_or(usize::MAX);
        let cut = answer.truncated || (is_table && count >= asked);
        let rows = if cut {
            before_ties(&answer.rows, &places)
        } else {
            count
        };
        if rows == 0 {
            if answer.truncated || self.asked() >= WIDEST {
                return Err(Error::misconfigured(
                    "ties",
                    format!(
                        "more than {count} rows have the same {}: add a column to indexFields that tells them apart",
                        self.query.index.names.join(", ")
                    ),
                ));
            }
            self.wider = self.wider.saturating_mul(2);
            return Ok(Page::Widen);
        }
        self.wider = 1;
        let last = answer
            .rows
            .get(rows - 1)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let at: Vec<Value> = places
            .iter()
            .map(|place| last.get(*place).cloned().unwrap_or(Value::Null))
            .collect();
        if at.contains(&Value::Null) {
            return Err(Error::misconfigured(
                "null",
                format!(
                    "{} is null in a row: leave such rows out with WHERE",
                    self.query.index.names.join(" or ")
                ),
            ));
        }
        let checkpoint = self.query.index.checkpoint(&at);
        // A statement that answers with the same rows for ever must not spin.
        let more = cut && self.at.as_ref() != Some(&at);
        self.at = Some(at);
        Ok(Page::Take {
            rows,
            checkpoint: Some(checkpoint),
            more,
        })
    }

    /// How large the messages of a whole page were.
    pub(crate) fn weigh(&mut self, bytes: usize) {
        if bytes > LARGE {
            self.rows = (self.rows / 2).max(1);
        } else if bytes < SMALL {
            let most = self.query.limit.unwrap_or(MOST_ROWS).min(MOST_ROWS);
            self.rows = self.rows.saturating_mul(2).min(most);
        }
    }

    fn places(&self, columns: &[String]) -> Result<Vec<usize>, Error> {
        let place = |name: &String| {
            let exact = columns.iter().position(|column| column == name);
            exact
                .or_else(|| columns.iter().position(|column| column.eq_ignore_ascii_case(name)))
                .ok_or_else(|| {
                    Error::misconfigured(
                        "index",
                        format!("the answer has no column \"{name}\", which is an index column; it has {}", columns.join(", ")),
                    )
                })
        };
        self.query.index.names.iter().map(place).collect()
    }
}

/// How many rows stand before those that have the same index values as the last one.
fn before_ties(rows: &[Vec<Value>], places: &[usize]) -> usize {
    let Some(last) = rows.last() else {
        return 0;
    };
    let same = |row: &Vec<Value>| {
        places
            .iter()
            .all(|place| tied(row.get(*place), last.get(*place)))
    };
    rows.iter()
        .rposition(|row| !same(row))
        .map_or(0, |place| place + 1)
}

fn tied(a: Option<&Value>, b: Option<&Value>) -> bool {
    match (a, b) {
        (Some(Value::Text(a)), Some(Value::Text(b))) => {
            a == b || {
                let fold = |text: &str| text.trim_end().to_lowercase();
                fold(a) == fold(b)
            }
        }
        (a, b) => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_connector::{Dialect, from_json};

    fn pager(inner: &str, resume: Option<&str>) -> Pager {
        let config = format!(r#"{{"interval":1,"internalSqlQueryCfg":{{"table":"t",{inner}}}}}"#);
        Pager::new(
            Query::new(from_json(&config).unwrap(), Dialect::Sqlite).unwrap(),
            resume,
        )
        .unwrap()
    }

    /// A table `(id, n)` as a database would answer for it.
    fn answer(pager: &Pager, table: &[(i64, i64)], most: usize) -> Rows {
        let (statement, params) = pager.statement().unwrap();
        let limit: usize = statement.rsplit(' ').next().unwrap().parse().unwrap();
        let after = |row: &&(i64, i64)| match params.as_slice() {
            [] => true,
            [Value::Integer(id)] => row.0 > *id,
            [Value::Integer(id), Value::Integer(n)] => (row.0, row.1) > (*id, *n),
            other => panic!("{other:?}"),
        };
        let rows: Vec<Vec<Value>> = table
            .iter()
            .filter(after)
            .take(limit)
            .map(|(id, n)| vec![Value::Integer(*id), Value::Integer(*n)])
            .collect();
        let truncated = rows.len() > most;
        Rows {
            columns: vec!["id".to_owned(), "n".to_owned()],
            rows: rows.into_iter().take(most).collect(),
            truncated,
        }
    }

    /// All that comes until nothing more does; each page by a new instance.
    fn read(inner: &str, table: &[(i64, i64)], most: usize) -> Vec<i64> {
        let (mut got, mut resume) = (Vec::new(), None::<String>);
        for _ in 0..1000 {
            let mut pager = pager(inner, resume.as_deref());
            let page = loop {
                let answer = answer(&pager, table, most);
                match pager.turn(&answer).unwrap() {
                    Page::Widen => {}
                    Page::Take {
                        rows,
                        checkpoint,
                        more,
                    } => {
                        for row in &answer.rows[..rows] {
                            let Value::Integer(n) = row[1] else { panic!() };
                            got.push(n);
                        }
                        break (checkpoint, more);
                    }
                }
            };
            match page {
                (Some(checkpoint), _) => resume = Some(checkpoint),
                (None, _) => return got,
            }
        }
        panic!("never ends");
    }

    #[test]
    fn equal_index_values_at_the_edge_of_a_page_lose_nothing_and_repeat_nothing() {
        let table: Vec<(i64, i64)> = [1, 1, 2, 3, 3, 3, 3, 3, 4, 5, 5]
            .into_iter()
            .zip(0..)
            .collect();
        let all: Vec<i64> = (0..11).collect();
        for limit in 1..13 {
            let inner = format!(r#""limit":{limit},"indexField":"id""#);
            assert_eq!(read(&inner, &table, 1000), all, "limit {limit}");
            let inner = format!(
                r#""limit":{limit},"indexFields":[{{"indexField":"id"}},{{"indexField":"n"}}]"#
            );
            assert_eq!(
                read(&inner, &table, 1000),
                all,
                "limit {limit}, two columns"
            );
        }
        for most in 6..12 {
            assert_eq!(
                read(r#""indexField":"id""#, &table, most),
                all,
                "connection's limit {most}"
            );
        }
    }

    #[test]
    fn more_equal_rows_than_the_connection_gives_are_named() {
        let table: Vec<(i64, i64)> = (0..10).map(|n| (1, n)).collect();
        let mut pager = pager(r#""indexField":"id""#, None);
        let answer = answer(&pager, &table, 5);
        let error = pager.turn(&answer).unwrap_err();
        assert!(
            error.message.contains("more than 5 rows have the same id"),
            "{}",
            error.message
        );
    }

    #[test]
    fn a_full_page_is_followed_at_once_and_the_last_one_is_not() {
        let table: Vec<(i64, i64)> = (0..7).map(|n| (n, n)).collect();
        let mut pager = pager(r#""limit":5,"indexField":"id""#, None);
        let first = answer(&pager, &table, 100);
        assert_eq!(
            pager.turn(&first).unwrap(),
            Page::Take {
                rows: 5,
                checkpoint: Some(r#"{"id":4}"#.to_owned()),
                more: true
            }
        );
        let second = answer(&pager, &table, 100);
        assert_eq!(
            pager.turn(&second).unwrap(),
            Page::Take {
                rows: 2,
                checkpoint: Some(r#"{"id":6}"#.to_owned()),
                more: false
            }
        );
        let none = answer(&pager, &table, 100);
        assert_eq!(
            pager.turn(&none).unwrap(),
            Page::Take {
                rows: 0,
                checkpoint: None,
                more: false
            }
        );
    }

    #[test]
    fn a_checkpoint_is_where_it_goes_on_and_comes_before_the_first_value() {
        let inner = r#""indexField":"id","indexValue":2"#;
        assert_eq!(
            pager(inner, None).statement().unwrap().1,
            [Value::Integer(2)]
        );
        assert_eq!(
            pager(inner, Some(r#"{"id":9}"#)).statement().unwrap().1,
            [Value::Integer(9)]
        );
    }

    #[test]
    fn without_an_index_the_same_rows_come_again_and_may_not_be_cut() {
        let mut plain = pager(r#""limit":2"#, None);
        let mut rows = Rows {
            columns: vec!["id".to_owned()],
            rows: vec![vec![Value::Integer(1)], vec![Value::Integer(2)]],
            truncated: false,
        };
        assert_eq!(
            plain.turn(&rows).unwrap(),
            Page::Take {
                rows: 2,
                checkpoint: None,
                more: false
            }
        );
        rows.truncated = true;
        assert!(plain.turn(&rows).unwrap_err().message.contains("set limit"));
    }

    #[test]
    fn an_index_column_that_the_answer_lacks_or_leaves_null_is_named() {
        let mut pager = pager(r#""indexField":"id""#, None);
        let rows = |column: &str, value| Rows {
            columns: vec![column.to_owned()],
            rows: vec![vec![value]],
            truncated: false,
        };
        let error = pager.turn(&rows("other", Value::Integer(1))).unwrap_err();
        assert!(error.message.contains("\"id\""), "{}", error.message);
        assert!(
            pager
                .turn(&rows("id", Value::Null))
                .unwrap_err()
                .message
                .contains("null")
        );
        assert!(pager.turn(&rows("ID", Value::Integer(1))).is_ok());
    }

    #[test]
    fn texts_that_a_collation_may_take_for_equal_stay_together() {
        let text = |text: &str| vec![Value::Text(text.to_owned())];
        assert_eq!(
            before_ties(&[text("a"), text("b"), text("B "), text("b")], &[0]),
            1
        );
        assert_eq!(before_ties(&[text("a"), text("b"), text("c")], &[0]), 2);
    }

    #[test]
    fn pages_grow_with_small_rows_and_shrink_with_large_ones() {
        let mut pager = pager(r#""indexField":"id""#, None);
        assert_eq!(pager.asked(), FIRST_ROWS + 1);
        for _ in 0..10 {
            pager.weigh(1000);
        }
        assert_eq!(pager.asked(), MOST_ROWS + 1);
        for _ in 0..20 {
            pager.weigh(LARGE + 1);
        }
        assert_eq!(pager.asked(), 2);
    }
}
