//! The deeds. Each either never returns, or returns what the host must have answered.

use std::hint::black_box;

use crate::bindings::windlass::connector::messaging::{Client, SubscribeOptions};
use crate::bindings::windlass::connector::types::{Batch, Columns, Error, Kind, Message};
use crate::bindings::windlass::connector::{http, log, sql};
use crate::{KEPT, LEAKED, error};

/// Fails the call with a sentence that the test reads.
fn wrong(what: &str) -> Error {
    Error {
        message: what.into(),
        ..error(Kind::Permanent, "host-was-wrong")
    }
}

fn expect(denied: Result<(), Error>, kind: Kind) -> Result<(), Error> {
    match denied {
        Err(error) if error.kind == kind => Ok(()),
        Err(error) => Err(wrong(&format!("{:?} {}", error.kind, error.message))),
        Ok(()) => Err(wrong("it was allowed")),
    }
}

pub(crate) fn run(deed: &str) -> Result<(), Error> {
    match deed {
        "panic" => panic!("on purpose, {}", black_box("with words")),
        "panic-long" => panic!("{}", "long words ".repeat(100_000)),
        #[cfg(target_arch = "wasm32")]
        "unreachable" => core::arch::wasm32::unreachable(),
        "out-of-bounds" => {
            // The very end of a memory that is never that large.
            let far = black_box(u32::MAX as usize - 8) as *const u32;
            // SAFETY: not safe at all; the sandbox is what is under test.
            black_box(unsafe { far.read_volatile() });
        }
        "divide" => {
            black_box(black_box(1_i32) / black_box(0_i32));
        }
        "call-nothing" => {
            // SAFETY: not safe at all; no function stands at that place of the table.
            let nothing: fn() = unsafe { std::mem::transmute(black_box(1_000_000_usize)) };
            nothing();
        }
        "overflow" => {
            black_box(deep(black_box(u64::MAX)));
        }
        "spin" => spin(),
        "spin-host" => loop {
            let _ = Batch::from_texts(&[]).len();
        },
        "host-calls" => loop {
            log::write(log::Level::Trace, "again");
        },
        "allocate" => loop {
            let mut block: Vec<u8> = Vec::with_capacity(1 << 20);
            block.push(1);
            std::mem::forget(black_box(block));
        },
        "leak" => {
            let block = vec![1_u8; 1 << 20];
            LEAKED.set(LEAKED.get() + block.len());
            std::mem::forget(black_box(block));
        }
        "handles" => loop {
            let batch = Batch::from_texts(&[]);
            KEPT.with_borrow_mut(|kept| kept.push(batch));
        },
        "huge-argument" => {
            let texts = vec!["x".repeat(1 << 10); 20 << 10];
            let _ = Batch::from_texts(&texts);
            let texts = vec!["x".repeat(1 << 10); 40 << 10];
            let _ = Batch::from_texts(&texts);
        }
        "flood" => {
            for line in 0..20_000 {
                log::write(log::Level::Info, &format!("line {line}"));
                eprintln!("line {line}");
            }
        }
        "exit" => std::process::exit(3),
        "error" => return Err(error(Kind::Transient, "asked")),
        "error-long" => {
            return Err(Error {
                message: "m".repeat(1 << 20),
                ..error(Kind::Transient, "asked")
            });
        }
        "not-utf8" => {
            // SAFETY: not safe at all; the host must notice that this is no text.
            let text = unsafe { String::from_utf8_unchecked(vec![0xff, 0xfe, 0xfd]) };
            log::write(log::Level::Info, &text);
        }
        "forge-ids" => {
            let ids = [
                "",
                "other",
                "plant",
                "default/plant",
                "../plant",
                "*",
                "broker\0",
            ];
            for id in ids {
                expect(Client::open(id).map(drop), Kind::Denied)?;
                expect(http::Client::open(id).map(drop), Kind::Denied)?;
                expect(sql::Client::open(id).map(drop), Kind::Denied)?;
            }
            let answers: Vec<_> = ids.iter().filter_map(|id| Client::open(id).err()).collect();
            let same =
                |pair: &[Error]| pair[0].message == pair[1].message && pair[0].code == pair[1].code;
            if !answers.windows(2).all(same) {
                return Err(wrong("the answers differ"));
            }
            // The right name, another interface.
            expect(http::Client::open("broker").map(drop), Kind::Denied)?;
            expect(sql::Client::open("broker").map(drop), Kind::Denied)?;
        }
        "forge-handle" => {
            // SAFETY: not safe at all; a number that nobody gave out must not be a handle.
            let forged = unsafe { Batch::from_handle(12_345) };
            let _ = forged.len();
        }
        "kept-handle" => {
            let before = KEPT.with_borrow_mut(|kept| kept.pop().map(|batch| batch.len()));
            let batch = Batch::from_texts(&["a".to_owned()]);
            KEPT.with_borrow_mut(|kept| kept.push(batch));
            if before.is_some() {
                return Err(wrong("an old handle was good"));
            }
        }
        "out-of-range" => {
            let batch = Batch::from_texts(&["a".to_owned(), "b".to_owned()]);
            let other = Batch::from_texts(&["a".to_owned()]);
            expect(batch.select(&[0, 2]).map(drop), Kind::Permanent)?;
            expect(batch.select(&[u32::MAX]).map(drop), Kind::Permanent)?;
            expect(batch.with_payloads(&other).map(drop), Kind::Permanent)?;
            expect(
                batch.with_subjects(&["s".to_owned()], &[0, 1]).map(drop),
                Kind::Permanent,
            )?;
            expect(
                batch.with_subjects(&["s".to_owned()], &[0]).map(drop),
                Kind::Permanent,
            )?;
            let columns = Columns {
                payloads: vec![1, 2, 3],
                ends: vec![2, 1],
                subjects: vec![],
                subject_of: vec![],
            };
            expect(Batch::from_columns(&columns).map(drop), Kind::Permanent)?;
        }
        "contents" => contents()?,
        "amplify" => {
            // One large payload, many times: small for the host, endless as contents.
            let one = Batch::from_texts(&["x".repeat(1 << 20)]);
            let many = one.select(&vec![0; 1_000])?;
            black_box(many.columns());
        }
        "pile-up" => loop {
            let batch = Batch::from_texts(&vec!["x".repeat(1 << 10); 1 << 10]);
            KEPT.with_borrow_mut(|kept| kept.push(batch));
        },
        "http" => requests()?,
        "sql" => statements()?,
        "subscribe" => {
            let options = SubscribeOptions {
                qos: None,
                extra: Vec::new(),
            };
            expect(
                Client::open("broker")?
                    .subscribe(&["t".to_owned()], &options)
                    .map(drop),
                Kind::Misconfigured,
            )?;
        }
        "outside" => outside()?,
        other => {
            return Err(Error {
                message: format!("no such deed: {other}"),
                ..error(Kind::Misconfigured, "deed")
            });
        }
    }
    Ok(())
}

/// Every way to look into a batch and to make one agrees with every other.
fn contents() -> Result<(), Error> {
    let headers = vec![("h".to_owned(), "1".to_owned())];
    let message = |text: &str, subject: &str| Message {
        payload: text.into(),
        subject: subject.into(),
        headers: headers.clone(),
    };
    let batch = Batch::new(&[message("one", "a"), message("", "b"), message("three", "a")]);
    let columns = batch.columns();
    let right = columns.payloads == b"onethree"
        && columns.ends == [3, 3, 8]
        && columns.subjects == ["a", "b"]
        && columns.subject_of == [0, 1, 0]
        && batch.header("h") == ["1", "1", "1"]
        && batch.header("x") == ["", "", ""]
        && batch.texts()
            == [
                Some("one".to_owned()),
                Some(String::new()),
                Some("three".to_owned()),
            ];
    if !right {
        return Err(wrong("a batch of messages"));
    }
    let again = Batch::from_columns(&columns)?.with_subjects(&["s".to_owned()], &[])?;
    if again.columns().subjects != ["s"] || !again.columns().subject_of.is_empty() {
        return Err(wrong("with-subjects"));
    }
    let both = batch
        .with_payloads(&Batch::from_texts(&["x".into(), "y".into(), "z".into()]))?
        .select(&[2, 0])?;
    let seen = both.messages();
    let right = seen.len() == 2
        && seen[0].payload == b"z"
        && seen[1].payload == b"x"
        && seen[0].subject == "a"
        && seen[0].headers == headers;
    if right {
        Ok(())
    } else {
        Err(wrong("with-payloads and select"))
    }
}

/// Requests over the connection in the slot `web`, which answers with the request's own body, and not
/// at all to `fail`.
fn requests() -> Result<(), Error> {
    let client = http::Client::open("web")?;
    let request = |body: &str| http::Request {
        method: "post".into(),
        path: "/x".into(),
        headers: vec![("a".into(), "b".into())],
        body: body.into(),
        timeout_ms: None,
    };
    let answer = client.send(&request("one"))?;
    if answer.status != 200
        || answer.body != b"one"
        || answer.headers != [("method".into(), "POST".into())]
    {
        return Err(wrong("send"));
    }
    let bodies: Vec<String> = (0..20)
        .map(|index| {
            if index == 7 {
                "fail".into()
            } else {
                format!("body {index}")
            }
        })
        .collect();
    let batch = Batch::from_texts(&bodies);
    let all: Vec<_> = bodies.iter().map(|body| request(body)).collect();
    for answers in [
        client.send_each(&request(""), &batch),
        client.send_all(&all),
    ] {
        let right = answers.len() == bodies.len()
            && answers
                .iter()
                .zip(&bodies)
                .all(|(answer, body)| match answer {
                    Ok(response) => response.body == body.as_bytes(),
                    Err(error) => {
                        body == "fail"
                            && error.code == "refused"
                            && !error.message.contains("10.0.0.1")
                    }
                });
        if !right {
            return Err(wrong("send-each or send-all"));
        }
    }
    Ok(())
}

/// Statements over the connection in the slot `db`, which answers with the parameters as its row.
fn statements() -> Result<(), Error> {
    let client = sql::Client::open("db")?;
    if client.dialect() != "sqlite" {
        return Err(wrong("dialect"));
    }
    let row = || {
        vec![
            sql::Value::Null,
            sql::Value::Boolean(true),
            sql::Value::Integer(i64::MIN),
            sql::Value::Real(0.5),
            sql::Value::Text("text".into()),
            sql::Value::Blob(vec![0, 255]),
        ]
    };
    let rows = client.query("select", &row())?;
    let same = format!("{:?}", rows.rows) == format!("{:?}", [row()]);
    if !same || rows.columns != ["c"] || !rows.truncated {
        return Err(wrong("query"));
    }
    match client.execute_many("insert", &[row(), row(), row()])? {
        3 => Ok(()),
        _ => Err(wrong("execute-many")),
    }
}

/// Nothing outside the sandbox is there.
fn outside() -> Result<(), Error> {
    if std::fs::read_dir("/").is_ok() || std::fs::write("/tmp/escape", "x").is_ok() {
        return Err(wrong("there is a file system"));
    }
    if std::env::vars().next().is_some() || std::env::args().next().is_some() {
        return Err(wrong("there is an environment"));
    }
    let reached = std::net::TcpStream::connect("127.0.0.1:9").map_err(|error| error.kind());
    if !matches!(reached, Err(std::io::ErrorKind::PermissionDenied)) {
        return Err(wrong(&format!("the network answered {reached:?}")));
    }
    if std::net::UdpSocket::bind("127.0.0.1:0").is_ok() {
        return Err(wrong("there is UDP"));
    }
    Ok(())
}

fn spin() {
    let mut count = 0_u64;
    loop {
        count = black_box(count.wrapping_add(1));
    }
}

/// Ends only when the stack does, long before the number. Keeps nothing in linear memory.
#[inline(never)]
fn deep(level: u64) -> u64 {
    if level == 0 {
        0
    } else {
        deep(level - 1).wrapping_mul(31) ^ level
    }
}
