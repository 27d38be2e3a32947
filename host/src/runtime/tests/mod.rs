//! The runtime against a component that does what a host must survive (`guests/rust/misbehaving`).
//! Only messages in memory; real servers are for the tests of the whole host.

mod loading;
mod sinks;
mod sources;
mod speed;
pub(crate) mod support;

pub(crate) use support::compile_command;

/// Not a test: what the tests' runtime starts to compile a component.
#[test]
#[ignore = "run by the tests themselves, in a child"]
fn the_child_that_compiles() {
    let paths: Vec<_> = ["IN", "OUT"].iter().filter_map(std::env::var_os).collect();
    let code = super::compile_main(&paths);
    assert_eq!(
        format!("{code:?}"),
        format!("{:?}", std::process::ExitCode::SUCCESS)
    );
}
