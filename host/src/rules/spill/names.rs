//! Names of tenants, rules and actions as names of folders, and back. Touches no disk.

/// The longest folder name made here, in bytes; file systems stop at 255.
const LONGEST: usize = 200;

/// The folder name of `name`: letters, digits, `-`, `_` and inner dots stay, every other byte
/// becomes `%XX`. Two names never share a folder: one too long is cut and ends in its hash.
#[must_use]
pub(super) fn folder_name(name: &str) -> String {
    let mut folder = String::with_capacity(name.len());
    for (place, byte) in name.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => folder.push(char::from(byte)),
            b'.' if place > 0 => folder.push('.'),
            _ => {
                folder.push('%');
                for half in [byte >> 4, byte & 15] {
                    folder.extend(char::from_digit(u32::from(half), 16));
                }
            }
        }
    }
    if folder.is_empty() {
        // No name at all: `%` alone is never made above.
        folder.push('%');
    }
    if folder.len() > LONGEST {
        folder.truncate(LONGEST);
        folder.push('~');
        folder.push_str(&blake3::hash(name.as_bytes()).to_hex().as_str()[..16]);
    }
    folder
}

/// The name that a folder stands for; the folder's own name where it is not one of ours.
#[must_use]
pub(super) fn original(folder: &str) -> String {
    if folder == "%" {
        return String::new();
    }
    let mut bytes = Vec::with_capacity(folder.len());
    let mut rest = folder.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = (rest.next().and_then(digit), rest.next().and_then(digit));
        let (Some(high), Some(low)) = digits else {
            return folder.to_owned();
        };
        bytes.push(high << 4 | low);
    }
    String::from_utf8(bytes).unwrap_or_else(|_| folder.to_owned())
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_comes_back_from_its_folder_and_cannot_leave_it() {
        for name in [
            "rule1", "mqtt_0", "..", ".", "a/b\\c", "%", "", "Wärme 1", "a.b", "\0",
        ] {
            let folder = folder_name(name);
            assert_eq!(original(&folder), name);
            assert!(
                !folder.contains(['/', '\\', '\0']) && !folder.starts_with('.'),
                "{folder}"
            );
        }
    }

    #[test]
    fn long_names_stay_apart_and_short_enough() {
        let (a, b) = (
            format!("{}a", "é".repeat(200)),
            format!("{}b", "é".repeat(200)),
        );
        assert_ne!(folder_name(&a), folder_name(&b));
        assert!(folder_name(&a).len() < 255);
    }
}
