//! The header Retry-After (RFC 9110, section 10.2.3): for how long a server asks to be left alone.

use std::time::{SystemTime, UNIX_EPOCH};

/// No server is believed that asks for more.
const LONGEST_MS: u64 = 3_600_000;

/// Milliseconds that the headers of an answer ask to wait, an hour at most. None: they do not.
#[must_use]
pub fn retry_after_ms(headers: &[(String, String)]) -> Option<u32> {
    let (_, value) = headers
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case("retry-after"))?;
    let value = value.trim();
    let wait = match value.parse::<u64>() {
        Ok(seconds) => seconds.saturating_mul(1000),
        Err(_) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
            date(value)?
                .saturating_sub(now.as_secs())
                .saturating_mul(1000)
        }
    };
    u32::try_from(wait.min(LONGEST_MS)).ok()
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110, section 5.6.7) as seconds since 1970.
fn date(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let mut words = text.split_ascii_whitespace().skip(1);
    let day: u64 = words.next()?.parse().ok()?;
    let month = words.next()?;
    let month = MONTHS.iter().position(|name| *name == month)?;
    let month = u64::try_from(month).ok()? + 1;
    let year: u64 = words.next()?.parse().ok()?;
    let mut time = words
        .next()?
        .split(':')
        .map(|part| part.parse::<u64>().ok());
    let (hour, minute, second) = (time.next()??, time.next()??, time.next()??);
    if words.next()? != "GMT" || !(1970..10_000).contains(&year) || !(1..=31).contains(&day) {
        return None;
    }
    // Days of the civil calendar, years counted from March.
    let (years, months) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days =
        365 * years + years / 4 - years / 100 + years / 400 + (153 * months + 2) / 5 + day - 1;
    let since = days.checked_sub(719_468)?;
    Some(since * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(value: &str) -> Option<u32> {
        retry_after_ms(&[("Retry-After".to_owned(), value.to_owned())])
    }

    #[test]
    fn seconds_and_dates_are_read_and_nonsense_is_not() {
        assert_eq!(asked("120"), Some(120_000));
        assert_eq!(asked("0"), Some(0));
        assert_eq!(asked("999999999"), Some(3_600_000));
        assert_eq!(asked("Sun, 06 Nov 1994 08:49:37 GMT"), Some(0));
        assert_eq!(asked("Fri, 31 Dec 2999 23:59:59 GMT"), Some(3_600_000));
        for text in ["soon", "-1", "Sun, 06 Foo 1994 08:49:37 GMT", ""] {
            assert_eq!(asked(text), None, "{text}");
        }
        assert_eq!(retry_after_ms(&[]), None);
    }

    #[test]
    fn a_date_is_seconds_since_1970() {
        assert_eq!(date("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(date("Thu, 29 Feb 2024 12:00:00 GMT"), Some(1_709_208_000));
    }
}
