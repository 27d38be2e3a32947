//! The tree itself: who may import whom, what stands where. The whole matrix is in this file.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Room (a module below the crate's root) and the rooms that it may import, or single items of them. A
/// room that is not here fails the test, so that it gets a line.
const MATRIX: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("message", &["error"]),
    ("progress", &[]),
    ("names", &[]),
    ("inflate", &[]),
    ("connectors", &[]),
    ("kit", &["error"]),
    ("config", &["error"]),
    ("snapshot", &["config"]),
    ("connections", &["error", "message"]),
    ("interfaces", &["connections", "error", "message"]),
    // One trait: the store keeps the few values that a connection must not forget.
    ("store", &["error", "message", "connections::Memory"]),
    (
        "runtime",
        &["connections", "error", "interfaces", "message", "progress"],
    ),
    (
        "harness",
        &[
            "config",
            "connections",
            "error",
            "interfaces",
            "message",
            "progress",
            "runtime",
        ],
    ),
    (
        "rules",
        &[
            "config",
            "connections",
            "connectors",
            "error",
            "message",
            "progress",
            "runtime",
            "snapshot",
            "store",
        ],
    ),
    (
        "catalog",
        &[
            "config",
            "connections",
            "connectors",
            "error",
            "progress",
            "rules",
            "runtime",
            "snapshot",
            "store",
        ],
    ),
    (
        "api",
        &[
            "catalog",
            "config",
            "connections",
            "error",
            "message",
            "rules",
            "runtime",
            "snapshot",
            "store",
        ],
    ),
    (
        "host",
        &[
            "api",
            "catalog",
            "config",
            "connections",
            "connectors",
            "error",
            "message",
            "progress",
            "rules",
            "runtime",
            "snapshot",
            "store",
        ],
    ),
    (
        "cli",
        // Of connections only how secrets are masked: what is printed here has none either.
        &[
            "api",
            "config",
            "connections::secrets::MASK",
            "connections::secrets::mask",
            "connections::secrets::redact_url",
            "connectors",
            "error",
            "harness",
            "host",
            "kit",
            "progress",
            "runtime",
            "snapshot",
            "store",
        ],
    ),
    ("main", &["cli"]),
    ("lib", &[]),
];

/// Rooms that every other may import: they import nothing themselves.
const FOR_ALL: &[&str] = &["names", "inflate"];

/// Where `anyhow` may stand: at the top, where errors are only printed.
const ANYHOW: &[&str] = &["main.rs", "cli", "host.rs", "host", "config.rs"];

/// The shared files that may name connection types: the module itself and the list of types; and
/// the pool, which attaches the host types that never stand in the list of connections.
const REGISTRARS: &[&str] = &[
    "connections/mod.rs",
    "connections/registry.rs",
    "connections/pool.rs",
    "connections/pool/shared.rs",
    "connections/pool/lend.rs",
];

/// Where the host's side of an interface that guests export stands, if not under its own name.
const CALLED_IN: &[(&str, &str)] = &[("meta", "runtime/connector.rs")];

const MOST_LINES: usize = 800;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Path below `host/src` and text of each file there, without comments and unit tests.
fn sources() -> Vec<(String, String)> {
    let base = root().join("host/src");
    let mut found: Vec<(String, String)> = files(&base, "rs")
        .into_iter()
        .map(|file| {
            let name = file
                .strip_prefix(&base)
                .expect("below")
                .to_string_lossy()
                .into_owned();
            (
                name,
                code(&fs::read_to_string(&file).expect("a source file is UTF-8")),
            )
        })
        .filter(|(name, _)| {
            !name
                .split('/')
                .any(|part| part == "tests" || part == "tests.rs")
        })
        .collect();
    found.sort();
    assert!(found.len() > 5, "host/src is there");
    found
}

/// All files of this kind below a folder, build results left out.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = entry.file_name();
            if path.is_dir()
                && name != "target"
                && name != "node_modules"
                && name != ".git"
                && name != ".venv"
            {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    found
}

/// The text up to its unit tests, without comments.
fn code(text: &str) -> String {
    let mut out = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let next = lines.peek().map_or("", |next| next.trim_start());
        if line.trim() == "#[cfg(test)]"
            && (next.starts_with("mod ") || next.starts_with("pub(crate) mod "))
        {
            // `mod tests;` is another file; `mod tests {` goes on to the end of this one.
            if next.ends_with('{') {
                break;
            }
            lines.next();
            continue;
        }
        if !line.trim_start().starts_with("//") {
            out.push_str(line.split(" // ").next().unwrap_or_default());
            out.push('\n');
        }
    }
    out
}

/// The module that a file is: `connections/mqtt/mod.rs` is `connections::mqtt`.
fn module(file: &str) -> Vec<String> {
    let mut parts: Vec<String> = file
        .trim_end_matches(".rs")
        .split('/')
        .map(str::to_owned)
        .collect();
    if parts.last().is_some_and(|last| last == "mod") {
        parts.pop();
    }
    parts
}

/// Every path of the crate that a file names, from the crate's root: `crate::...`, `super::...`,
/// also in groups. A path within the file's own module is among them.
fn paths(file: &str, code: &str) -> Vec<Vec<String>> {
    let here = module(file);
    let mut found = Vec::new();
    for (start, head) in [("crate::", false), ("super::", true)]
        .iter()
        .flat_map(|(word, up)| code.match_indices(word).map(move |(at, _)| (at, *up)))
    {
        let before = code[..start].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        let mut rest = &code[start..];
        let mut base = if head { here.clone() } else { Vec::new() };
        rest = rest.strip_prefix("crate::").unwrap_or(rest);
        while let Some(above) = rest.strip_prefix("super::") {
            base.pop();
            rest = above;
        }
        expand(&mut rest, &base, &mut found);
    }
    found
}

/// Reads `a::{b, c::D}` and adds `base::a::b`, `base::a::c::D`.
fn expand(rest: &mut &str, base: &[String], found: &mut Vec<Vec<String>>) {
    let mut path = base.to_vec();
    loop {
        *rest = rest.trim_start();
        if let Some(inner) = rest.strip_prefix('{') {
            *rest = inner;
            loop {
                *rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == ',');
                if let Some(after) = rest.strip_prefix('}') {
                    *rest = after;
                    return;
                }
                let before = rest.len();
                expand(rest, &path, found);
                // ` as Name` and whatever else is no path.
                let end = rest.find([',', '}']).unwrap_or(rest.len());
                *rest = &rest[end..];
                if rest.is_empty() || rest.len() == before {
                    return;
                }
            }
        }
        let end = rest
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        *rest = after;
        if !word.is_empty() {
            path.push(word.to_owned());
        }
        match rest.strip_prefix("::") {
            Some(more) if !word.is_empty() => *rest = more,
            _ => break,
        }
    }
    if path.len() > base.len() {
        found.push(path);
    }
}

/// The folders of `connections/`; one without a `mod.rs` holds the parts of the file beside it.
fn connection_types() -> BTreeSet<String> {
    let entries = fs::read_dir(root().join("host/src/connections")).expect("host/src/connections");
    entries
        .flatten()
        .filter(|entry| entry.path().join("mod.rs").is_file())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

fn report(title: &str, wrong: &[String]) {
    assert!(wrong.is_empty(), "{title}:\n  {}", wrong.join("\n  "));
}

#[test]
fn paths_are_found_in_every_form() {
    let code = "use crate::{error::{A, B as C}, message};\nuse super::super::store::Store;\nlet x = crate::rules::run(); mycrate::no();\nuse super::status;\n";
    let mut found: Vec<String> = paths("connections/mqtt/session.rs", code)
        .iter()
        .map(|path| path.join("::"))
        .collect();
    found.sort();
    let expected = [
        "connections::mqtt::status",
        "connections::store::Store",
        "error::A",
        "error::B",
        "message",
        "rules::run",
    ];
    assert_eq!(found, expected);
    assert_eq!(
        code_of("//! wasm\nlet a = 1; // wasm\n#[cfg(test)]\nmod tests {\nwasm"),
        "let a = 1;\n"
    );
}

fn code_of(text: &str) -> String {
    code(text)
}

/// A room covers everything in it, an item itself.
fn covers(allowed: &str, path: &str) -> bool {
    path.strip_prefix(allowed)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

#[test]
fn an_item_that_is_allowed_does_not_open_its_room() {
    assert!(covers("error", "error::ConnectionError") && covers("error", "error"));
    assert!(covers("connections::Memory", "connections::Memory"));
    assert!(!covers("connections::Memory", "connections::MemoryBus"));
    assert!(!covers("connections::Memory", "connections::pool::Pool"));
    assert!(!covers("error", "errors::Other"));
}

#[test]
fn every_room_imports_only_what_the_matrix_allows() {
    let mut wrong = Vec::new();
    for (file, code) in sources() {
        let room = module(&file)
            .first()
            .cloned()
            .unwrap_or_else(|| "lib".to_owned());
        let Some((_, allowed)) = MATRIX.iter().find(|(name, _)| *name == room) else {
            wrong.push(format!(
                "{file}: the room `{room}` has no line in the matrix"
            ));
            continue;
        };
        for path in paths(&file, &code) {
            let to = path[0].as_str();
            // A path of one word that is no room is an item of the crate's root.
            let is_room = MATRIX.iter().any(|(name, _)| *name == to);
            let allowed = FOR_ALL.contains(&to)
                || allowed.contains(&to)
                || allowed.contains(&path.join("::").as_str());
            if is_room && to != room && !allowed {
                wrong.push(format!(
                    "{file}: `{room}` may not import `{}`",
                    path.join("::")
                ));
            }
        }
    }
    report("imports that the matrix does not allow", &wrong);
}

#[test]
fn interfaces_see_connections_only_through_the_traits_of_their_parent_module() {
    let mut wrong = Vec::new();
    for (file, code) in sources()
        .iter()
        .filter(|(file, _)| file.starts_with("interfaces/"))
    {
        for path in paths(file, code)
            .iter()
            .filter(|path| path[0] == "connections")
        {
            // The inbox is what `subscribe` of those traits hands out.
            let below = path
                .get(1)
                .is_some_and(|next| next.starts_with(char::is_lowercase) && next != "inbox");
            if below {
                wrong.push(format!("{file}: {}", path.join("::")));
            }
        }
    }
    report("interfaces that reach into connections", &wrong);
}

#[test]
fn no_connection_type_imports_a_sibling_and_nothing_shared_imports_a_type() {
    let types = connection_types();
    let mut wrong = Vec::new();
    for (file, code) in sources()
        .iter()
        .filter(|(file, _)| file.starts_with("connections/"))
    {
        let own = module(file)
            .get(1)
            .filter(|name| types.contains(*name))
            .cloned();
        for path in paths(file, code)
            .iter()
            .filter(|path| path[0] == "connections")
        {
            let Some(to) = path.get(1).filter(|name| types.contains(*name)) else {
                continue;
            };
            if own.as_ref() != Some(to) && !REGISTRARS.contains(&file.as_str()) {
                wrong.push(format!("{file}: {}", path.join("::")));
            }
        }
    }
    report(
        "connection types that are imported beside the registry",
        &wrong,
    );
}

#[test]
fn every_folder_of_connections_is_on_the_registry_list() {
    let registrars: Vec<String> = sources()
        .into_iter()
        .filter(|(file, _)| REGISTRARS.contains(&file.as_str()))
        .map(|(_, code)| code)
        .collect();
    let named = |name: &str| {
        let path = format!("{name}::");
        registrars
            .iter()
            .flat_map(|code| code.lines())
            .any(|line| line.contains(&path) && !line.trim_start().starts_with("use "))
    };
    let missing: Vec<String> = connection_types()
        .into_iter()
        .filter(|name| !named(name))
        .collect();
    report(
        "folders without a line in the list of connection types",
        &missing,
    );
}

#[test]
fn connections_and_the_store_know_nothing_of_wasm() {
    let mut wrong = Vec::new();
    for (file, code) in sources() {
        if file.starts_with("connections/")
            || file.starts_with("store")
            || file == "message.rs"
            || file == "error.rs"
        {
            let lines = code
                .lines()
                .filter(|line| line.to_lowercase().contains("wasm"));
            wrong.extend(lines.map(|line| format!("{file}: {}", line.trim())));
        }
    }
    report("rooms that must not know of wasm", &wrong);
}

#[test]
fn anyhow_stands_only_where_errors_are_printed() {
    let wrong: Vec<String> = sources()
        .into_iter()
        .filter(|(_, code)| code.contains("anyhow"))
        .map(|(file, _)| file)
        .filter(|file| {
            !ANYHOW
                .iter()
                .any(|allowed| file == allowed || file.split('/').next() == Some(*allowed))
        })
        .collect();
    report("`anyhow` outside the top", &wrong);
}

#[test]
fn each_interface_of_the_contract_has_its_file_on_the_hosts_side() {
    let worlds = fs::read_to_string(root().join("wit/worlds.wit")).expect("wit/worlds.wit");
    let mut wrong = Vec::new();
    for file in files(&root().join("wit"), "wit") {
        let name = file
            .file_stem()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        if name == "worlds" {
            continue;
        }
        // What guests export is called, not offered: its host side may stand in the runtime.
        let exported = worlds.contains(&format!("export {name};"));
        let mut places = vec![format!("interfaces/{name}.rs")];
        if exported {
            places.push(format!("runtime/{name}.rs"));
            places.extend(
                CALLED_IN
                    .iter()
                    .filter(|(called, _)| *called == name)
                    .map(|(_, place)| (*place).to_owned()),
            );
        }
        if !places
            .iter()
            .any(|place| root().join("host/src").join(place).is_file())
        {
            wrong.push(format!("wit/{name}.wit: none of {}", places.join(", ")));
        }
    }
    report("interfaces without a host side", &wrong);
}

#[test]
fn the_bindings_for_c_are_those_of_the_contract() {
    // The same command as in guests/c/sdk/regenerate, which writes the file.
    let sums = std::process::Command::new("sh")
        .args(["-c", "LC_ALL=C sha256sum -- *.wit"])
        .current_dir(root().join("wit"))
        .output()
        .expect("sh can be started");
    let noted = fs::read_to_string(root().join("guests/c/sdk/wit.sum")).expect("wit.sum");
    assert_eq!(
        String::from_utf8_lossy(&sums.stdout),
        noted,
        "wit/ has changed since guests/c/sdk/connector.h was made: run guests/c/sdk/regenerate"
    );
}

#[test]
fn no_file_is_longer_than_a_reader_can_hold() {
    let mut wrong = Vec::new();
    for folder in ["host", "tests", "guests"] {
        for file in files(&root().join(folder), "rs") {
            let lines = fs::read_to_string(&file)
                .unwrap_or_default()
                .lines()
                .count();
            if lines > MOST_LINES {
                wrong.push(format!("{}: {lines} lines", file.display()));
            }
        }
    }
    report(&format!("files of more than {MOST_LINES} lines"), &wrong);
}

#[test]
fn every_file_says_first_what_it_is_for() {
    let mut wrong = Vec::new();
    for folder in ["host/src", "tests/src", "tests/e2e", "guests/rust"] {
        for file in files(&root().join(folder), "rs") {
            // Unit tests in a file of their own belong to the module beside them.
            if file.ends_with("tests.rs") {
                continue;
            }
            if !fs::read_to_string(&file)
                .unwrap_or_default()
                .starts_with("//!")
            {
                wrong.push(file.display().to_string());
            }
        }
    }
    report("files that do not begin with `//!`", &wrong);
}

#[test]
fn the_readme_names_only_paths_that_exist() {
    const FOLDERS: [&str; 5] = ["host/", "guests/", "tests/", "wit/", ".ci/"];
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md");
    let quoted = readme.split('`').skip(1).step_by(2);
    let linked = readme
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next());
    let mut named = 0;
    let mut wrong = Vec::new();
    for path in quoted.chain(linked) {
        let path = path
            .trim_start_matches("./")
            .split(['#', ' '])
            .next()
            .unwrap_or_default();
        let is_pattern = path.contains(['<', '{', '*', '$', '\n']);
        if !is_pattern && FOLDERS.iter().any(|folder| path.starts_with(folder)) {
            named += 1;
            if !root().join(path).exists() {
                wrong.push(path.to_owned());
            }
        }
    }
    report("paths in README.md that do not exist", &wrong);
    assert!(
        named >= 3,
        "the README's map names the parts of the tree; found {named}"
    );
}
