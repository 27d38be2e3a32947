//! Delivery to a scripted sink.

use parking_lot::Mutex;

use super::*;
use crate::message::Message;

/// A sink whose answers are a function of the batch and of how often it was asked.
struct Scripted<F> {
    answer: F,
    calls: u32,
    written: Vec<String>,
    /// Its links are up from then on.
    up: Instant,
}

impl<F> fmt::Debug for Scripted<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "scripted sink after {} calls", self.calls)
    }
}

type Answer = Result<Vec<Rejection>, WriteError>;

#[async_trait]
impl<F: FnMut(u32, &[String]) -> Answer + Send> Writer for Scripted<F> {
    async fn write(&mut self, batch: Batch) -> Answer {
        self.calls += 1;
        let texts: Vec<String> = batch
            .iter()
            .map(|m| String::from_utf8_lossy(&m.payload).into_owned())
            .collect();
        let answer = (self.answer)(self.calls, &texts);
        if let Ok(rejections) = &answer {
            for (place, text) in texts.into_iter().enumerate() {
                if !rejections.iter().any(|r| r.index as usize == place) {
                    self.written.push(text);
                }
            }
        }
        answer
    }
    async fn slots_up(&mut self) {
        tokio::time::sleep_until(self.up).await;
    }
}

#[derive(Debug, Default)]
struct Box_ {
    letters: Mutex<Vec<(String, String)>>,
    refuse: Mutex<u32>,
}

#[async_trait]
impl Graveyard for Box_ {
    async fn bury(
        &self,
        batch: &Batch,
        reason: &ConnectionError,
        _attempts: u32,
    ) -> Result<(), String> {
        let mut refuse = self.refuse.lock();
        if *refuse > 0 {
            *refuse -= 1;
            return Err("the dead letters are full".into());
        }
        for message in batch.iter() {
            let text = String::from_utf8_lossy(&message.payload).into_owned();
            self.letters.lock().push((text, reason.to_string()));
        }
        Ok(())
    }
}

fn batch(texts: &[&str]) -> Batch {
    texts
        .iter()
        .map(|text| Message::new((*text).to_owned()))
        .collect::<Vec<_>>()
        .into()
}

async fn run(
    answer: impl FnMut(u32, &[String]) -> Answer + Send,
    texts: &[&str],
    graves: &Box_,
) -> (Result<(), Stop>, Vec<String>, Progress) {
    let now = Instant::now();
    run_with(answer, batch(texts), graves, RetryPolicy::default(), now).await
}

async fn run_with(
    answer: impl FnMut(u32, &[String]) -> Answer + Send,
    batch: Batch,
    graves: &Box_,
    retry: RetryPolicy,
    up: Instant,
) -> (Result<(), Stop>, Vec<String>, Progress) {
    let mut sink = Scripted {
        answer,
        calls: 0,
        written: Vec::new(),
        up,
    };
    let progress = Progress::default();
    let mut trapped = VecDeque::new();
    let result = Delivery::new(&mut sink, graves, &progress, &mut trapped)
        .with_retry(retry)
        .run(batch, crate::rules::now_ms())
        .await;
    (result, sink.written, progress)
}

fn said(error: ConnectionError) -> Answer {
    Err(WriteError::Said(error))
}

#[tokio::test(start_paused = true)]
async fn a_transient_failure_is_tried_again_until_it_works() {
    let graves = Box_::default();
    let answer = |call: u32, _: &[String]| {
        if call < 6 {
            said(ConnectionError::transient("busy", "busy"))
        } else {
            Ok(vec![])
        }
    };
    let (result, written, progress) = run(answer, &["a", "b"], &graves).await;
    assert_eq!(
        (result, written),
        (Ok(()), vec!["a".to_owned(), "b".to_owned()])
    );
    assert!(
        progress.trouble.lock().is_none(),
        "trouble ends with success"
    );
    assert!(graves.letters.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_kept() {
    let graves = Box_::default();
    let begin = Instant::now();
    let answer = |call: u32, _: &[String]| {
        if call == 1 {
            said(
                ConnectionError::transient("http:429", "slow down")
                    .retry_after(Duration::from_secs(7)),
            )
        } else {
            Ok(vec![])
        }
    };
    run(answer, &["a"], &graves).await.0.unwrap();
    assert_eq!(begin.elapsed().as_secs(), 7);
}

#[tokio::test(start_paused = true)]
async fn only_the_poison_of_a_batch_is_dead_lettered_and_order_holds() {
    let graves = Box_::default();
    let answer = |_: u32, texts: &[String]| {
        if texts.iter().any(|t| t == "poison") {
            said(ConnectionError::permanent("bad", "cannot be written"))
        } else {
            Ok(vec![])
        }
    };
    let (result, written, _) =
        run(answer, &["a", "b", "poison", "c", "d", "e", "f"], &graves).await;
    result.unwrap();
    assert_eq!(written, ["a", "b", "c", "d", "e", "f"]);
    assert_eq!(
        *graves.letters.lock(),
        [("poison".to_owned(), "cannot be written".to_owned())]
    );
}

#[tokio::test(start_paused = true)]
async fn rejected_messages_are_retried_or_buried_each_for_its_own_kind() {
    let graves = Box_::default();
    let answer = |call: u32, texts: &[String]| {
        if call > 1 {
            assert_eq!(texts, ["b"]);
            return Ok(vec![]);
        }
        Ok(vec![
            Rejection {
                index: 1,
                error: ConnectionError::transient("t", "later"),
            },
            Rejection {
                index: 2,
                error: ConnectionError::permanent("p", "never"),
            },
        ])
    };
    let (result, written, _) = run(answer, &["a", "b", "c"], &graves).await;
    result.unwrap();
    assert_eq!(written, ["a", "b"]);
    assert_eq!(
        *graves.letters.lock(),
        [("c".to_owned(), "never".to_owned())]
    );
}

#[tokio::test(start_paused = true)]
async fn the_third_trap_on_the_same_message_dead_letters_it_and_the_others_arrive() {
    let graves = Box_::default();
    let mut on_poison_alone = 0;
    let answer = |_: u32, texts: &[String]| {
        if texts.iter().any(|t| t == "poison") {
            on_poison_alone += u32::from(texts.len() == 1);
            Err(WriteError::Broke("unreachable".into()))
        } else {
            Ok(vec![])
        }
    };
    let (result, written, _) = run(answer, &["a", "poison", "b"], &graves).await;
    result.unwrap();
    assert_eq!(written, ["a", "b"]);
    assert_eq!(graves.letters.lock().len(), 1);
    assert_eq!(on_poison_alone, 3);
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_cannot_be_opened_yet_costs_no_message_its_life() {
    let graves = Box_::default();
    let answer = |call: u32, _: &[String]| {
        if call < 40 {
            Err(WriteError::Unready("no memory for it".into()))
        } else {
            Ok(vec![])
        }
    };
    let (result, written, _) = run(answer, &["a", "b"], &graves).await;
    assert_eq!(
        (result, written),
        (Ok(()), vec!["a".to_owned(), "b".to_owned()])
    );
    assert!(graves.letters.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_connector_that_traps_on_everything_stops_the_rule() {
    let graves = Box_::default();
    let texts: Vec<String> = (0..50).map(|n| n.to_string()).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let answer = |_: u32, _: &[String]| Err(WriteError::Broke("index out of bounds".into()));
    let (result, _, _) = run(answer, &texts, &graves).await;
    let stop = result.unwrap_err();
    assert!(stop.0.contains("index out of bounds"), "{stop}");
    assert_eq!(graves.letters.lock().len(), 11);
}

#[tokio::test(start_paused = true)]
async fn full_dead_letters_wait_and_lose_nothing() {
    let graves = Box_::default();
    *graves.refuse.lock() = 4;
    let answer = |_: u32, _: &[String]| said(ConnectionError::permanent("bad", "no"));
    run(answer, &["a"], &graves).await.0.unwrap();
    assert_eq!(graves.letters.lock().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_configuration_that_cannot_work_stops_the_rule_with_its_sentence() {
    let graves = Box_::default();
    let answer = |_: u32, _: &[String]| {
        said(ConnectionError::misconfigured(
            "topic",
            "the topic is empty",
        ))
    };
    let (result, _, _) = run(answer, &["a"], &graves).await;
    assert_eq!(result, Err(Stop("the topic is empty".into())));
    assert!(
        graves.letters.lock().is_empty(),
        "nothing is dead-lettered for a wrong configuration"
    );
}

fn texts(written: &[&str]) -> Vec<String> {
    written.iter().map(|text| (*text).to_owned()).collect()
}

/// Messages that were taken so long ago.
fn aged(texts: &[(&str, u64)]) -> Batch {
    let message = |(text, seconds): &(&str, u64)| {
        let mut message = Message::new((*text).to_owned());
        message.arrival.at_ms = crate::rules::now_ms() - seconds * 1000;
        message
    };
    texts.iter().map(message).collect::<Vec<_>>().into()
}

#[tokio::test(start_paused = true)]
async fn only_tries_that_reached_the_other_side_count_each_for_its_own_messages() {
    let graves = Box_::default();
    let five = RetryPolicy {
        attempts: Some(5),
        ..RetryPolicy::default()
    };
    // "a" is refused for ever; behind it the circuit is open more often than not.
    let answer = |call: u32, texts: &[String]| {
        if call % 4 == 1 {
            return said(ConnectionError::disconnected("gone", "the link is down"));
        }
        let rejection = |(text, index): (&String, u32)| {
            let error = match text.as_str() {
                "a" => ConnectionError::transient("http:503", "HTTP 503"),
                _ if call < 40 => ConnectionError::transient("http:circuit-open", "not sent"),
                _ => return None,
            };
            Some(Rejection { index, error })
        };
        Ok(texts.iter().zip(0..).filter_map(rejection).collect())
    };
    let now = Instant::now();
    let (result, written, progress) =
        run_with(answer, batch(&["a", "b", "c"]), &graves, five, now).await;
    assert_eq!((result, written), (Ok(()), texts(&["b", "c"])));
    let letters = graves.letters.lock().clone();
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_eq!(letters[0].0, "a");
    assert!(
        letters[0].1.contains("given up after 5 tries: "),
        "{letters:?}"
    );
    let buried = &progress.buried;
    assert_eq!(buried.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn the_last_try_of_a_message_is_followed_by_the_wait_that_the_other_side_asked_for() {
    let graves = Box_::default();
    let once = RetryPolicy {
        attempts: Some(1),
        ..RetryPolicy::default()
    };
    let begin = Instant::now();
    let answer = |_: u32, _: &[String]| {
        said(ConnectionError::transient("http:429", "slow").retry_after(Duration::from_secs(9)))
    };
    let (_, written, _) = run_with(answer, batch(&["a", "b"]), &graves, once, begin).await;
    assert!(written.is_empty());
    assert_eq!(graves.letters.lock().len(), 2);
    assert_eq!(begin.elapsed().as_secs(), 9);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_counts_from_when_a_message_was_taken_and_only_after_a_try_that_failed() {
    let graves = Box_::default();
    let hour = RetryPolicy {
        deadline: Some(Duration::from_secs(3600)),
        ..RetryPolicy::default()
    };
    let begin = Instant::now();
    // After an outage of days: the first try of all works.
    let old = aged(&[("a", 900_000), ("b", 60)]);
    let up = begin + Duration::from_secs(86_400);
    let answer = |_: u32, _: &[String]| Ok(vec![]);
    let (_, written, _) = run_with(answer, old.clone(), &graves, hour, up).await;
    assert_eq!(written, texts(&["a", "b"]));
    assert!(graves.letters.lock().is_empty());
    // A server that fails for half an hour: one is too old by then, the other is not.
    let begin = Instant::now();
    let answer = move |_: u32, _: &[String]| {
        if begin.elapsed() < Duration::from_secs(1800) {
            return said(ConnectionError::transient("http:503", "HTTP 503"));
        }
        Ok(vec![])
    };
    let batch = aged(&[("a", 3000), ("b", 60)]);
    let (_, written, _) = run_with(answer, batch, &graves, hour, begin).await;
    assert_eq!(written, texts(&["b"]));
    let letters = graves.letters.lock().clone();
    assert_eq!(letters.len(), 1);
    assert!(
        letters[0].1.contains("given up 3600s after it was taken"),
        "{letters:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn with_expire_while_down_an_outage_makes_dead_letters_of_what_is_too_old_and_of_nothing_else()
 {
    let graves = Box_::default();
    let policy = RetryPolicy {
        deadline: Some(Duration::from_secs(3600)),
        expire_while_down: true,
        ..RetryPolicy::default()
    };
    let up = Instant::now() + Duration::from_secs(1800);
    let answer = |_: u32, _: &[String]| Ok(vec![]);
    let batch = aged(&[("a", 3000), ("b", 60), ("c", 7200)]);
    let (_, written, _) = run_with(answer, batch, &graves, policy, up).await;
    assert_eq!(written, texts(&["b"]));
    let letters = graves.letters.lock().clone();
    let whose: Vec<_> = letters.iter().map(|(text, _)| text.as_str()).collect();
    assert_eq!(whose, ["c", "a"], "the oldest first, each at its time");
    assert!(
        letters[0].1.contains("its connection was down"),
        "{letters:?}"
    );
}
