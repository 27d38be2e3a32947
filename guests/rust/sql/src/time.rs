//! Times as a configuration writes them (`dateTimeFormat`), turned into a notation that every
//! database reads. No calendar: the database says what is no day.

/// The parts of a format and how many digits each has.
const PARTS: [(&str, usize, Part); 10] = [
    ("YYYY", 4, Part::Year),
    ("yyyy", 4, Part::Year),
    ("MM", 2, Part::Month),
    ("dd", 2, Part::Day),
    ("DD", 2, Part::Day),
    ("HH", 2, Part::Hour),
    ("hh", 2, Part::Hour),
    ("mm", 2, Part::Minute),
    ("SSS", 3, Part::Millisecond),
    ("ss", 2, Part::Second),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Year,
    Month,
    Day,
    Hour,
    Minute,
    Second,
    Millisecond,
}

/// `value`, written as `format` says, as `YYYY-MM-DD HH:MM:SS.mmm`.
///
/// # Errors
/// A sentence: the value is not written so, or the format lacks a day.
pub(crate) fn normalized(value: &str, format: &str) -> Result<String, String> {
    let wrong = || format!("{value:?} is not written as {format:?} says");
    let (mut date, mut time) = ([None; 3], ["00"; 3]);
    let mut milliseconds = None;
    let (mut left, mut rest) = (format, value);
    while let Some(next) = left.chars().next() {
        let found = PARTS.iter().find(|(name, ..)| left.starts_with(name));
        let Some((name, digits, part)) = found else {
            left = left.get(next.len_utf8()..).unwrap_or_default();
            rest = rest.strip_prefix(next).ok_or_else(wrong)?;
            continue;
        };
        left = left.get(name.len()..).unwrap_or_default();
        if *part == Part::Millisecond {
            // `ss.SSS` is often written `ssSSS`.
            rest = rest.strip_prefix(['.', ',']).unwrap_or(rest);
        }
        let (number, after) = rest.split_at_checked(*digits).ok_or_else(wrong)?;
        if !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(wrong());
        }
        rest = after;
        let [year, month, day] = &mut date;
        let [hour, minute, second] = &mut time;
        match part {
            Part::Year => *year = Some(number),
            Part::Month => *month = Some(number),
            Part::Day => *day = Some(number),
            Part::Hour => *hour = number,
            Part::Minute => *minute = number,
            Part::Second => *second = number,
            Part::Millisecond => milliseconds = Some(number),
        }
    }
    if !rest.is_empty() {
        return Err(wrong());
    }
    let [Some(year), Some(month), Some(day)] = date else {
        return Err(format!(
            "{format:?} must say where year (YYYY), month (MM) and day (dd) stand"
        ));
    };
    let [hour, minute, second] = time;
    let mut out = format!("{year}-{month}-{day} {hour}:{minute}:{second}");
    if let Some(milliseconds) = milliseconds {
        out.push('.');
        out.push_str(milliseconds);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_by_its_format_and_written_as_databases_read_it() {
        for (value, format, wanted) in [
            (
                "2022-04-13 06:22:32.233",
                "YYYY-MM-dd HH:mm:ssSSS",
                "2022-04-13 06:22:32.233",
            ),
            (
                "2022-04-13 06:22:32233",
                "YYYY-MM-dd HH:mm:ssSSS",
                "2022-04-13 06:22:32.233",
            ),
            ("13/04/2022", "dd/MM/YYYY", "2022-04-13 00:00:00"),
            ("20220413T0622", "yyyyMMddTHHmm", "2022-04-13 06:22:00"),
        ] {
            assert_eq!(normalized(value, format).unwrap(), wanted);
        }
    }

    #[test]
    fn a_time_that_does_not_fit_its_format_is_named() {
        for (value, format) in [
            ("2022-04-13", "YYYY-MM-dd HH:mm"),
            ("2022-04-13 1", "YYYY-MM-dd"),
            ("2o22-04-13", "YYYY-MM-dd"),
            ("2022-04-é", "YYYY-MM-dd"),
            ("06:22", "HH:mm"),
            ("", "YYYY-MM-dd"),
        ] {
            assert!(normalized(value, format).is_err(), "{value} {format}");
        }
    }
}
