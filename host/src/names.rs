//! Names: which are valid as ids, and which valid name somebody may have meant. Every room that
//! answers a mistake may use it; it uses nothing.

/// Checks an id as eKuiper does: letters, digits, `-` and `_`.
///
/// # Errors
/// The sentence that eKuiper answers.
pub fn validate_id(id: &str) -> Result<(), String> {
    if id.is_empty() {
        return Err("id cannot be empty".to_owned());
    }
    if id.trim() != id {
        return Err(format!("id '{id}' contains leading or trailing whitespace"));
    }
    if !id
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    {
        return Err(format!(
            "id '{id}' contains invalid characters: only alphanumeric, hyphens and underscores are allowed"
        ));
    }
    Ok(())
}

/// The candidate that is most likely meant by a misspelt word, if one is near enough.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| {
            (
                strsim::damerau_levenshtein(&lower, &candidate.to_lowercase()),
                candidate,
            )
        })
        .filter(|(distance, candidate)| {
            *distance <= (candidate.chars().count().max(lower.chars().count()) / 3).max(1)
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `unknown <what> "<word>"`, the nearest valid name, and all that are allowed.
#[must_use]
pub fn unknown(what: &str, word: &str, allowed: &[&str]) -> String {
    let hint = match nearest(word, allowed.iter().copied()) {
        Some(name) => format!("did you mean \"{name}\"? "),
        None => String::new(),
    };
    format!(
        "unknown {what} \"{word}\"; {hint}Allowed: {}",
        allowed.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_checked_with_the_sentences_of_ekuiper() {
        assert_eq!(validate_id("plant-1_A"), Ok(()));
        assert_eq!(validate_id("").unwrap_err(), "id cannot be empty");
        assert_eq!(
            validate_id(" a").unwrap_err(),
            "id ' a' contains leading or trailing whitespace"
        );
        for bad in ["a.b", "a/b", "ä", "$x", "a b"] {
            assert!(
                validate_id(bad).unwrap_err().contains("invalid characters"),
                "{bad}"
            );
        }
    }

    #[test]
    fn a_misspelling_finds_its_name_and_a_stranger_finds_none() {
        let known = ["connections", "confKeys", "streams", "rules"];
        assert_eq!(nearest("conections", known), Some("connections"));
        assert_eq!(nearest("CONFKEYS", known), Some("confKeys"));
        assert_eq!(nearest("stream", known), Some("streams"));
        assert_eq!(nearest("tables", known), None);
        assert_eq!(
            unknown("key", "rulez", &known),
            "unknown key \"rulez\"; did you mean \"rules\"? Allowed: connections, confKeys, streams, rules"
        );
    }
}
