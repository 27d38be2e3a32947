//! An HTTP server that enters what is posted to it, for the trials whose sink is one. Judges nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use windlass_tests::httpd::{Httpd, Reply};
use windlass_tests::oracle::{Judge, Ledger};

/// A server that enters what is posted and answers 204 after so many milliseconds, which may be set anew;
/// at once for 0.
pub(crate) fn ledger_server(delay: u64) -> (Httpd, Arc<Mutex<Ledger>>, Arc<AtomicU64>) {
    let ledger = Arc::new(Mutex::new(Ledger::new(Judge::Exact)));
    let delay = Arc::new(AtomicU64::new(delay));
    let server = Httpd::start({
        let (ledger, delay) = (Arc::clone(&ledger), Arc::clone(&delay));
        move |asked| {
            ledger
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .enter(&asked.body);
            match delay.load(Ordering::Relaxed) {
                0 => Reply::status(204),
                delay => Reply::After(Duration::from_millis(delay), Box::new(Reply::status(204))),
            }
        }
    });
    (server, ledger, delay)
}
