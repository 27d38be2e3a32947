//! Reading a policy, and its sums.

use super::*;

fn read(properties: Value) -> Result<RetryPolicy, Vec<ConfigError>> {
    let mut properties = properties.as_object().unwrap().clone();
    let policy = RetryPolicy::take_from(&mut properties);
    assert!(properties.is_empty(), "{properties:?} is left");
    policy
}

#[test]
fn without_a_word_a_message_is_tried_for_ever_with_a_doubling_wait() {
    let policy = read(json!({})).unwrap();
    assert_eq!(policy, RetryPolicy::default());
    assert!(!policy.is_used_up(u32::MAX));
    assert_eq!(policy.until_ms(5), None);
    let ms = |tries, random| policy.wait(None, tries, random).as_millis();
    assert_eq!([ms(1, 0.0), ms(2, 0.0), ms(3, 0.0)], [100, 200, 400]);
    assert_eq!([ms(1, 1.0), ms(9, 1.0)], [50, 50], "never below the floor");
    assert_eq!(ms(10_000, 0.0), 10_000);
    assert_eq!(ms(10_000, 0.5), 5_025);
}

#[test]
fn the_other_side_is_heeded_but_not_for_more_than_an_hour() {
    let policy = RetryPolicy::default();
    let wait = |asked| {
        policy
            .wait(Some(Duration::from_secs(asked)), 1, 0.0)
            .as_secs()
    };
    assert_eq!([wait(0), wait(60), wait(1_000_000)], [0, 60, 3600]);
}

#[test]
fn all_of_it_is_read_in_any_case_and_resend_interval_is_a_wait_that_does_not_grow() {
    let policy = read(json!({"retry": {
        "Attempts": "5", "deadline": "1h", "expireWhileDown": true, "delay": 20, "maxDelay": "1s",
        "multiplier": 3, "jitterFactor": 0,
    }}))
    .unwrap();
    assert!(policy.is_used_up(5) && !policy.is_used_up(4));
    assert_eq!(policy.until_ms(1000), Some(3_601_000));
    assert!(policy.expire_while_down);
    let ms = |policy: &RetryPolicy, tries| policy.wait(None, tries, 1.0).as_millis();
    assert_eq!(
        [1, 2, 3, 4, 5].map(|n| ms(&policy, n)),
        [20, 60, 180, 540, 1000]
    );
    let policy = read(json!({"resendInterval": 70, "retry": {"attempts": 2}})).unwrap();
    assert_eq!([1, 2, 50].map(|n| ms(&policy, n)), [70, 70, 70]);
    assert!(policy.is_used_up(2));
    assert_eq!(
        read(json!({"resendInterval": 0, "retry": null})).unwrap(),
        RetryPolicy::default()
    );
    let slow = read(json!({"retry": {"delay": "1m"}})).unwrap();
    assert_eq!(slow.wait(None, 1, 0.0).as_secs(), 60);
}

#[test]
fn every_mistake_has_its_place_and_its_sentence() {
    for (given, at, words) in [
        (
            json!({"retry": {"atempts": 3}}),
            "/retry/atempts",
            "did you mean \"attempts\"?",
        ),
        (
            json!({"retry": {"attempts": -1}}),
            "/retry/attempts",
            "a whole number, 0 for ever, not -1",
        ),
        (
            json!({"retry": {"deadline": "soon"}}),
            "/retry/deadline",
            "text like 500ms, 1m, 2h, not \"soon\"",
        ),
        (
            json!({"retry": {"jitterFactor": 2}}),
            "/retry/jitterFactor",
            "from 0 to 1, not 2",
        ),
        (
            json!({"retry": {"expireWhileDown": true}}),
            "/retry/expireWhileDown",
            "needs a \"deadline\"",
        ),
        (
            json!({"retry": {"delay": "2s", "maxDelay": "1s"}}),
            "/retry/maxDelay",
            "1000 ms, less than",
        ),
        (
            json!({"retry": {"delay": 1}, "resendInterval": 5}),
            "/retry/delay",
            "both say how long",
        ),
        (json!({"retry": 3}), "/retry", "an object like"),
        (
            json!({"resendInterval": "often"}),
            "/resendInterval",
            "milliseconds, not \"often\"",
        ),
    ] {
        let errors = read(given.clone()).unwrap_err();
        assert_eq!(errors.len(), 1, "{given}: {errors:?}");
        assert_eq!(errors[0].at, at, "{given}");
        assert!(
            errors[0].message.contains(words),
            "{given}: {}",
            errors[0].message
        );
    }
}

#[test]
fn the_schema_has_every_name_agrees_on_defaults_and_on_mistakes() {
    let all = properties();
    let mut names: Vec<_> = all.keys().map(String::as_str).collect();
    names.sort_unstable();
    let mut known = RetryPolicy::PROPERTIES.to_vec();
    known.sort_unstable();
    assert_eq!(names, known);
    let keys = all["retry"]["properties"].as_object().unwrap();
    let mut names: Vec<_> = keys.keys().map(String::as_str).collect();
    names.sort_unstable();
    let mut known = KEYS.to_vec();
    known.sort_unstable();
    assert_eq!(names, known);
    let defaults: Map<String, Value> = keys
        .iter()
        .filter_map(|(name, schema)| Some((name.clone(), schema.get("default")?.clone())))
        .collect();
    assert_eq!(defaults.len(), KEYS.len());
    assert_eq!(
        read(json!({"retry": defaults})).unwrap(),
        RetryPolicy::default()
    );
    let schema = json!({"type": "object", "properties": all, "additionalProperties": false});
    let validator = jsonschema::validator_for(&schema).unwrap();
    for (good, value) in [
        (
            true,
            json!({"retry": {"attempts": 3, "deadline": "1h30m", "delay": 5}}),
        ),
        (true, json!({"resendInterval": "100", "retry": null})),
        (false, json!({"retry": {"atempts": 3}})),
        (false, json!({"retry": {"attempts": -1}})),
        (false, json!({"retry": {"deadline": "soon"}})),
        (false, json!({"retry": {"multiplier": 0.5}})),
        (false, json!({"retry": 3})),
        (false, json!({"resendInterval": "often"})),
    ] {
        assert_eq!(validator.is_valid(&value), good, "{value}");
        assert_eq!(read(value.clone()).is_ok(), good, "{value}");
    }
}
