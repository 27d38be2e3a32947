//! What a rule may rely on when its files are rolled, and taken up again after a crash.

use std::io::Read as _;

use serde_json::{Value, json};

use super::*;

fn how(props: Value) -> (Properties, Vec<(String, String)>) {
    (props.as_object().unwrap().clone(), Vec::new())
}

async fn write_all(writer: &mut Writer, name: &Path, props: &Value, payloads: &[&str]) {
    let (properties, extra) = how(props.clone());
    let how = writer.how(&properties, &extra).unwrap();
    let payloads: Vec<Bytes> = payloads
        .iter()
        .map(|text| Bytes::from((*text).to_owned()))
        .collect();
    let (done, error) = writer.append(name, &payloads, &how, true).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(done, payloads.len());
    writer.how = None;
}

fn files(folder: &Path) -> Vec<(String, String)> {
    let mut found: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (
                name,
                String::from_utf8_lossy(&std::fs::read(entry.path()).unwrap()).into_owned(),
            )
        })
        .collect();
    found.sort();
    found
}

fn named(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected
        .iter()
        .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
        .collect()
}

#[tokio::test]
async fn a_file_that_is_full_gets_a_number_and_a_restart_goes_on_with_the_last() {
    let folder = tempfile::tempdir().unwrap();
    let name = folder.path().join("deep/out.log");
    let props = json!({"rollingCount": 2});
    let mut writer = Writer::new(folder.path().to_owned());
    write_all(&mut writer, &name, &props, &["1", "2", "3", "4", "5"]).await;
    // Another host, which was killed within a line.
    let mut text = std::fs::read(&name).unwrap();
    text.extend_from_slice(b"tor");
    std::fs::write(&name, text).unwrap();
    std::fs::write(folder.path().join("deep/out-3.log"), "not mine").unwrap();
    let mut writer = Writer::new(folder.path().to_owned());
    write_all(&mut writer, &name, &props, &["6", "7"]).await;
    let expected = [
        ("out-1.log", "1\n2\n"),
        ("out-2.log", "3\n4\n"),
        ("out-3.log", "not mine"),
        ("out-4.log", "5\ntor\n6\n"),
        ("out.log", "7\n"),
    ];
    assert_eq!(files(&folder.path().join("deep")), named(&expected));
}

#[tokio::test]
async fn the_time_stands_in_the_name_and_no_two_files_have_one() {
    for (pattern, rest) in [("prefix", "out.csv"), ("suffix", "out")] {
        let folder = tempfile::tempdir().unwrap();
        let name = folder.path().join("out.csv");
        let props = json!({"rollingCount": 1, "rollingNamePattern": pattern});
        let mut writer = Writer::new(folder.path().to_owned());
        let many: Vec<String> = (0..50).map(|number| number.to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        write_all(&mut writer, &name, &props, &many).await;
        let found = files(folder.path());
        assert_eq!(found.len(), 50);
        assert!(
            found
                .iter()
                .all(|(name, text)| name.contains(rest) && text.ends_with('\n'))
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_is_finished_when_it_is_old_or_large_enough() {
    let folder = tempfile::tempdir().unwrap();
    let name = folder.path().join("a");
    let mut writer = Writer::new(folder.path().to_owned());
    let props = json!({"rollingInterval": "10s", "rollingSize": 8});
    write_all(&mut writer, &name, &props, &["1"]).await;
    tokio::time::sleep(std::time::Duration::from_secs(11)).await;
    write_all(
        &mut writer,
        &name,
        &props,
        &["2", "3", "too long a line", "4"],
    )
    .await;
    let expected = [
        ("a", "4\n"),
        ("a-1", "1\n"),
        ("a-2", "2\n3\ntoo long a line\n"),
    ];
    assert_eq!(files(folder.path()), named(&expected));
}

#[tokio::test]
async fn a_list_is_one_at_any_time_and_after_any_tear() {
    let folder = tempfile::tempdir().unwrap();
    let name = folder.path().join("a.json");
    let props = json!({"fileType": "json"});
    let mut writer = Writer::new(folder.path().to_owned());
    let read = || serde_json::from_slice::<Value>(&std::fs::read(&name).unwrap()).unwrap();
    write_all(&mut writer, &name, &props, &[r#"{"a":1}"#]).await;
    assert_eq!(read(), json!([{"a": 1}]));
    write_all(
        &mut writer,
        &name,
        &props,
        &["[]", "[{\"a\":2},\n [3]]", "no JSON"],
    )
    .await;
    let whole = json!([{"a": 1}, {"a": 2}, [3], "no JSON"]);
    assert_eq!(read(), whole);
    let before = std::fs::read(&name).unwrap();
    write_all(&mut writer, &name, &props, &["5"]).await;
    let after = std::fs::read(&name).unwrap();
    let begin = before.len() - LIST_END.len();
    for written in 0..after.len() - begin {
        // What a crash leaves: some of the new bytes over the old ones.
        let mut torn = before.clone();
        let end = (begin + written).max(before.len());
        torn.resize(end, b'?');
        torn[begin..begin + written].copy_from_slice(&after[begin..begin + written]);
        std::fs::write(&name, &torn).unwrap();
        let mut writer = Writer::new(folder.path().to_owned());
        write_all(&mut writer, &name, &props, &["6"]).await;
        let found = read();
        let list = found.as_array().unwrap();
        assert_eq!(
            &list[..4],
            whole.as_array().unwrap().as_slice(),
            "{written}"
        );
        assert_eq!(list.last(), Some(&json!(6)), "{written}");
    }
}

#[tokio::test]
async fn a_header_stands_once_in_a_file_and_other_columns_begin_a_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let name = folder.path().join("a.csv");
    let props = json!({"fileType": "csv", "hasHeader": true});
    let mut writer = Writer::new(folder.path().to_owned());
    write_all(
        &mut writer,
        &name,
        &props,
        &["a,b\n1,2\n", "a,b\r\n3,4\r\n"],
    )
    .await;
    let mut writer = Writer::new(folder.path().to_owned());
    write_all(&mut writer, &name, &props, &["a,b\n5,6", "c\n7"]).await;
    let expected = [("a-1.csv", "a,b\n1,2\n3,4\n5,6\n"), ("a.csv", "c\n7\n")];
    assert_eq!(files(folder.path()), named(&expected));
}

#[tokio::test]
async fn a_compressed_file_is_readable_at_any_time_and_another_file_is_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    let name = folder.path().join("a.gz");
    for (method, props) in [
        ("gzip", json!({"compression": "gzip"})),
        ("zstd", json!({"compression": "zstd"})),
    ] {
        std::fs::write(&name, "somebody else's").unwrap();
        let mut writer = Writer::new(folder.path().to_owned());
        write_all(&mut writer, &name, &props, &["1", "2"]).await;
        let whole = std::fs::read(&name).unwrap();
        // A crash within the next piece.
        let mut torn = whole.clone();
        torn.extend_from_slice(&whole[..whole.len() - 4]);
        std::fs::write(&name, &torn).unwrap();
        let mut writer = Writer::new(folder.path().to_owned());
        write_all(&mut writer, &name, &props, &["3"]).await;
        let packed = std::fs::read(&name).unwrap();
        let mut text = String::new();
        match method {
            "gzip" => {
                let mut decoder = flate2::read::MultiGzDecoder::new(&*packed);
                decoder.read_to_string(&mut text).unwrap();
            }
            _ => {
                let mut decoder = zstd::stream::read::Decoder::new(&*packed).unwrap();
                decoder.read_to_string(&mut text).unwrap();
            }
        }
        assert_eq!(text, "1\n2\n3\n", "{method}");
        let other = std::fs::read_to_string(folder.path().join("a-1.gz")).unwrap();
        assert_eq!(other, "somebody else's");
        std::fs::remove_file(folder.path().join("a-1.gz")).unwrap();
    }
}

#[tokio::test]
async fn a_file_that_was_rotated_away_is_begun_anew() {
    let folder = tempfile::tempdir().unwrap();
    let name = folder.path().join("a");
    let mut writer = Writer::new(folder.path().to_owned());
    write_all(&mut writer, &name, &json!({}), &["1"]).await;
    std::fs::rename(&name, folder.path().join("b")).unwrap();
    write_all(&mut writer, &name, &json!({}), &["2"]).await;
    // As logrotate's copytruncate does.
    std::fs::write(&name, "").unwrap();
    write_all(&mut writer, &name, &json!({}), &["3"]).await;
    assert_eq!(files(folder.path()), named(&[("a", "3\n"), ("b", "1\n")]));
}
