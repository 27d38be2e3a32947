//! The messages of columns, one after the other.

use crate::Columns;

impl Columns {
    /// Each message's payload and subject, in order.
    pub fn contents(&self) -> impl Iterator<Item = (&[u8], &str)> {
        let mut begin = 0;
        self.ends.iter().enumerate().map(move |(number, end)| {
            let end = usize::try_from(*end).unwrap_or(usize::MAX);
            let payload = self.payloads.get(begin..end).unwrap_or_default();
            begin = end;
            let subject = self
                .subject_of
                .get(number)
                .and_then(|place| usize::try_from(*place).ok())
                .unwrap_or(0);
            (
                payload,
                self.subjects.get(subject).map_or("", String::as_str),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_are_cut_where_the_columns_say() {
        let mut columns = Columns {
            payloads: b"abcd".to_vec(),
            ends: vec![1, 1, 4],
            subjects: vec!["x".to_owned(), "y".to_owned()],
            subject_of: vec![1, 0, 1],
        };
        let all: Vec<_> = columns.contents().collect();
        assert_eq!(all, [(&b"a"[..], "y"), (b"", "x"), (b"bcd", "y")]);
        columns.subjects.clear();
        columns.subject_of.clear();
        assert!(columns.contents().all(|(_, subject)| subject.is_empty()));
    }
}
