//! Times as eKuiper's users write them.

use std::time::Duration;

/// Parses a time as Go writes it: `300ms`, `1.5h`, `2h45m`. None for anything else, a sign and a
/// number without unit among them.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    // Longer units first: `m` is a prefix of `ms`.
    const UNITS: [(&str, u64); 8] = [
        ("ns", 1),
        ("us", 1_000),
        ("\u{b5}s", 1_000),
        ("\u{3bc}s", 1_000),
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
        ("m", 60_000_000_000),
        ("h", 3_600_000_000_000),
    ];
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut rest, mut total) = (text, 0_u64);
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(end);
        let (unit, nanos) = UNITS.iter().find(|(unit, _)| tail.starts_with(unit))?;
        rest = tail.strip_prefix(unit)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let whole: u64 = if whole.is_empty() {
            0
        } else {
            whole.parse().ok()?
        };
        total = total.checked_add(whole.checked_mul(*nanos)?)?;
        let mut scale = *nanos;
        for digit in fraction.chars() {
            scale /= 10;
            total = total.checked_add(u64::from(digit.to_digit(10)?).checked_mul(scale)?)?;
        }
    }
    (!text.is_empty()).then(|| Duration::from_nanos(total))
}

/// A time in the largest unit that shows it whole.
pub(super) fn show_duration(time: Duration) -> String {
    let ms = time.as_millis();
    match ms {
        0 => "0s".to_owned(),
        _ if ms.is_multiple_of(3_600_000) => format!("{}h", ms / 3_600_000),
        _ if ms.is_multiple_of(60_000) => format!("{}m", ms / 60_000),
        _ if ms.is_multiple_of(1_000) => format!("{}s", ms / 1_000),
        _ => format!("{ms}ms"),
    }
}
