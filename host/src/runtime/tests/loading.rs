//! From bytes to a connector: the cache, the child, and the sentences when something is missing.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::support::{compile_command, lab, runtime, wasm};
use crate::connections::Interface;
use crate::runtime::{LoadError, Progress, Runtime, RuntimeConfig};

/// Counts compilations.
#[derive(Debug, Default)]
struct Compilations(AtomicUsize);

impl Progress for Compilations {
    fn compiling(&self, connector: &str, _since: Duration) {
        assert_eq!(connector, "x");
    }
    fn done(&self, _connector: &str, _took: Duration) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_component_says_what_it_is_without_any_grant() {
    let connector = &lab().connector;
    assert_eq!(connector.descriptor.name, "misbehaving");
    assert!(connector.has_source && connector.has_sink);
    assert_eq!(
        connector.descriptor.slots[0].interface,
        Interface::Messaging
    );
    assert_eq!(connector.descriptor.config_schema["type"], "object");
    assert!(connector.compiled_size > connector.wasm_size);
    assert!(
        connector
            .imports
            .iter()
            .any(|import| import == "windlass:connector/messaging@0.1.0")
    );
    assert_eq!(connector.digest.len(), 64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn code_is_compiled_once_and_a_flipped_bit_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let compilations = Compilations::default();
    for _ in 0..2 {
        runtime(dir.path(), 1)
            .load("x", wasm(), &compilations)
            .await
            .unwrap();
    }
    assert_eq!(compilations.0.load(Ordering::SeqCst), 1);

    let entry = fs::read_dir(dir.path())
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let mut code = fs::read(&entry).unwrap();
    let middle = code.len() / 2;
    code[middle] ^= 1;
    fs::write(&entry, code).unwrap();
    let runtime = runtime(dir.path(), 1);
    runtime.load("x", wasm(), &compilations).await.unwrap();
    assert_eq!(
        (
            runtime.damaged_code(),
            compilations.0.load(Ordering::SeqCst)
        ),
        (1, 2)
    );
    let names: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(
        names.iter().filter(|name| name.ends_with(".cwasm")).count(),
        1,
        "{names:?}"
    );
    assert_eq!(
        names
            .iter()
            .filter(|name| name.ends_with(".damaged"))
            .count(),
        1,
        "{names:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn code_under_another_key_or_of_another_component_is_not_run() {
    let dir = tempfile::tempdir().unwrap();
    runtime(dir.path(), 1).load("x", wasm(), &()).await.unwrap();
    let other = RuntimeConfig {
        cache_dir: dir.path().to_owned(),
        compile_command: compile_command(),
        worker_threads: 1,
        code_cache_key: Some([8; 32]),
    };
    let other = Runtime::new(other).unwrap();
    other.load("x", wasm(), &()).await.unwrap();
    assert_eq!(other.damaged_code(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_was_made_is_kept_and_half_a_key_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let start = || {
        let cache_dir = dir.path().to_owned();
        Runtime::new(RuntimeConfig {
            cache_dir,
            compile_command: compile_command(),
            ..RuntimeConfig::default()
        })
        .unwrap()
    };
    let compilations = Compilations::default();
    for _ in 0..2 {
        start().load("x", wasm(), &compilations).await.unwrap();
    }
    assert_eq!(compilations.0.load(Ordering::SeqCst), 1);
    fs::write(dir.path().join("key"), b"half").unwrap();
    start().load("x", wasm(), &compilations).await.unwrap();
    assert_eq!(compilations.0.load(Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_loads_at_once_compile_once() {
    let dir = tempfile::tempdir().unwrap();
    let (runtime, compilations) = (runtime(dir.path(), 1), Compilations::default());
    let (one, two) = tokio::join!(
        runtime.load("x", wasm(), &compilations),
        runtime.load("x", wasm(), &compilations)
    );
    assert_eq!(one.unwrap().digest, two.unwrap().digest);
    assert_eq!(compilations.0.load(Ordering::SeqCst), 1);
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_owner_can_read_or_write_compiled_code() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("code");
    runtime(&cache, 1).load("x", wasm(), &()).await.unwrap();
    assert_eq!(
        fs::metadata(&cache).unwrap().permissions().mode() & 0o777,
        0o700
    );
    for entry in fs::read_dir(&cache).unwrap() {
        assert_eq!(
            entry.unwrap().metadata().unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_a_connector_is_refused_in_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = runtime(dir.path(), 1);
    let component = |rest: &[u8]| Bytes::from([b"\0asm\x0d\0\x01\0".as_ref(), rest].concat());
    let error = runtime.load("x", component(b""), &()).await.unwrap_err();
    assert!(matches!(error, LoadError::Export { .. }), "{error}");
    assert!(
        error.to_string().contains("does not export `meta`")
            && error.to_string().contains("exports nothing"),
        "{error}"
    );
    let error = runtime
        .load("x", component(b"\xff\xff\xff"), &())
        .await
        .unwrap_err();
    assert!(matches!(error, LoadError::Compile { .. }), "{error}");
    // Truncated in the middle.
    let error = runtime
        .load("x", wasm().slice(..wasm().len() / 2), &())
        .await
        .unwrap_err();
    assert!(matches!(error, LoadError::Compile { .. }), "{error}");
    assert!(fs::read_dir(dir.path()).unwrap().all(|entry| {
        !entry
            .unwrap()
            .file_name()
            .into_string()
            .unwrap()
            .starts_with("tmp-")
    }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compiler_that_dies_is_reported_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let config = RuntimeConfig {
        cache_dir: dir.path().to_owned(),
        compile_command: ["/bin/sh", "-c", "kill -9 $$"].map(Into::into).into(),
        worker_threads: 1,
        code_cache_key: Some([7; 32]),
    };
    let error = Runtime::new(config)
        .unwrap()
        .load("x", wasm(), &())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("signal: 9"), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runtime_can_be_shut_down_and_dropped_inside_another() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = runtime(dir.path(), 1);
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&seen);
    runtime
        .handle()
        .spawn(async move { counted.fetch_add(1, Ordering::SeqCst) })
        .await
        .unwrap();
    runtime.shutdown(Duration::from_secs(1)).await;
    drop(runtime);
    assert_eq!(seen.load(Ordering::SeqCst), 1);
}
