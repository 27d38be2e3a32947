//! How rows are cut into statements with several rows of values: powers of two, so that a handful of
//! prepared statements serves every number of rows. Sends nothing.

use super::link::size;
use super::text::Dialect;
use crate::connections::SqlValue;

/// More rows in one statement gain nothing, and cost the server time to read it.
const MOST_ROWS: usize = 512;
/// Well below what servers take in one packet unless told otherwise (MariaDB: 16 MiB).
const MOST_BYTES: usize = 4 * 1024 * 1024;

/// The number of rows of the next statement; at least 1 where there are any.
pub(super) fn next(rows: &[Vec<SqlValue>], dialect: Dialect) -> usize {
    let width = rows.first().map_or(1, Vec::len).max(1);
    let most = rows
        .len()
        .min(MOST_ROWS)
        .min(dialect.most_parameters() / width)
        .max(1);
    let mut bytes = 0_usize;
    let within = rows
        .iter()
        .take(most)
        .take_while(|row| {
            bytes += row.iter().map(size).sum::<usize>();
            bytes <= MOST_BYTES
        })
        .count();
    // The largest power of two that is not above.
    1 << within.max(1).ilog2()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_cut_into_powers_of_two_within_all_bounds() {
        let rows = |count: usize, width: usize, bytes: usize| {
            vec![vec![SqlValue::Blob(vec![0; bytes]); width]; count]
        };
        assert_eq!(next(&rows(1000, 3, 1), Dialect::MySql), 512);
        assert_eq!(next(&rows(511, 3, 1), Dialect::MySql), 256);
        assert_eq!(next(&rows(1, 3, 1), Dialect::MySql), 1);
        assert_eq!(next(&rows(600, 100, 0), Dialect::Sqlite), 256);
        assert_eq!(next(&rows(9, 1, 1_000_000), Dialect::Postgres), 4);
        assert_eq!(next(&rows(3, 1, 5_000_000), Dialect::Postgres), 1);
    }
}
