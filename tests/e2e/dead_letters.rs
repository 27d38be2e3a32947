//! What cannot be delivered is kept with its reason, can be looked at, sent again, removed, also
//! while the host runs.

use std::time::Duration;

use serde_json::Value;
use windlass_tests::load::{Publish, Subscribe, Subscriber, dial};
use windlass_tests::machine::{shared, wait_until};
use windlass_tests::mosquitto::Mosquitto;
use windlass_tests::windlass::{Said, Windlass, command};
use windlass_tests::wire::{Delivery, publish};

use crate::settings::{expect_alive, wait_ready, warm};

/// `windlass deadletters WORDS... --data DIR --json`
fn letters(windlass: &Windlass, words: &[&str]) -> Said {
    let data = windlass.data().display().to_string();
    let mut arguments = vec!["deadletters"];
    arguments.extend_from_slice(words);
    arguments.extend_from_slice(&["--data", &data, "--json"]);
    let said = command(&arguments);
    assert_eq!(said.code, Some(0), "{words:?}: {said:?}");
    said
}

fn id(letter: &Value) -> String {
    match &letter["id"] {
        Value::String(id) => id.clone(),
        id => id.to_string(),
    }
}

#[test]
fn dead_letters_are_listed_shown_sent_again_and_removed_while_the_host_runs() {
    let _machine = shared();
    let broker = Mosquitto::start();
    let far = Subscriber::start(Subscribe::new(broker.port(), "far", "out", 1));
    let mut windlass = Windlass::start(&warm(&broker.url(), &broker.url(), 1));
    wait_ready(&windlass, &["plant"], &["warm"]);
    let (mut socket, _, _) = dial(broker.port(), "rubbish", true, None).expect("the broker is up");
    let mut bytes = Vec::new();
    for payload in ["broken one", "broken two", "broken three"] {
        publish(
            &mut bytes,
            "in/poison",
            Delivery::default(),
            payload.as_bytes(),
        );
    }
    std::io::Write::write_all(&mut socket, &bytes).expect("sent");

    let mut kept = Vec::new();
    wait_until(Duration::from_secs(10), "three dead letters", || {
        kept = letters(&windlass, &["ls"]).json();
        kept.len() == 3
    });
    for letter in &kept {
        let text = letter.to_string();
        assert!(
            text.contains("warm") && text.contains("in/poison"),
            "rule and topic are named: {text}"
        );
    }
    let shown = letters(&windlass, &["show", &id(&kept[0])]).out;
    assert!(
        shown.contains("broken one"),
        "the payload is shown: {shown}"
    );

    // Sent again it is as bad as before: it comes back, and is not lost.
    letters(&windlass, &["resend", &id(&kept[1])]);
    wait_until(
        Duration::from_secs(15),
        "what was sent again is back",
        || {
            let now = letters(&windlass, &["ls"]).json();
            now.len() == 3
                && now.iter().any(|letter| {
                    !kept
                        .iter()
                        .any(|before| id(before) == id(letter) && before == letter)
                })
        },
    );

    let now = letters(&windlass, &["ls"]).json();
    letters(&windlass, &["rm", &id(&now[0])]);
    assert_eq!(letters(&windlass, &["ls"]).json().len(), 2);
    expect_alive(broker.port(), "in/1", &far, 0);
    windlass.kill();
    assert_eq!(
        letters(&windlass, &["ls"]).json().len(),
        2,
        "they survive a kill"
    );
}

#[test]
fn a_letter_that_died_of_a_bad_topic_arrives_when_it_is_sent_again_after_the_rule_was_mended() {
    use windlass_tests::manifest::{Manifest, publish_to};
    let _machine = shared();
    let broker = Mosquitto::start();
    let far = Subscriber::start(Subscribe::new(broker.port(), "far", "out/#", 1));
    // A topic made of the message: for the first one it has a wildcard in it, which no broker takes.
    let manifest = |topic: &str| {
        Manifest::new()
            .mqtt("plant", &broker.url())
            .mqtt_stream("demo", "plant", "in/#", 1, false)
            .rule("all", "SELECT * FROM demo", publish_to("plant", topic, 1))
    };
    let mut windlass = Windlass::start(&manifest("out/{{.pad}}/#"));
    let refused = windlass_tests::machine::holds_within(Duration::from_secs(30), || {
        windlass
            .rule("all")
            .is_some_and(|(status, _)| status == "running")
    });
    if !refused {
        // Refused before it starts is as good: then nothing can be lost.
        assert_eq!(
            windlass.exit_within(Duration::from_secs(5)),
            Some(78),
            "{}",
            windlass.log()
        );
        return;
    }
    wait_ready(&windlass, &["plant"], &["all"]);
    let sent = Publish::new(broker.port(), "in/1", 1)
        .count(1)
        .start()
        .join();
    assert_eq!(sent.acknowledged, [0]);
    wait_until(Duration::from_secs(10), "a dead letter", || {
        letters(&windlass, &["ls"]).json().len() == 1
    });
    windlass.kill();
    std::fs::write(windlass.manifest(), manifest("out").yaml()).expect("written");
    windlass.up();
    wait_ready(&windlass, &["plant"], &["all"]);
    let kept = letters(&windlass, &["ls"]).json();
    letters(&windlass, &["resend", &id(&kept[0])]);
    far.wait_for(1, Duration::from_secs(15));
    wait_until(Duration::from_secs(5), "no dead letter is left", || {
        letters(&windlass, &["ls"]).json().is_empty()
    });
}
