//! The command line: one file per command, `output` for everything that is printed, `view` for what
//! a running host shows. Decides exit codes; holds no logic of the host.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

mod arenas;
mod check;
mod client;
mod completions;
mod connector;
mod deadletters;
mod demo;
mod folder;
mod import_ekuiper;
mod logs;
mod output;
mod run;
mod schema;
mod serve;
mod session;
mod table;
mod view;

use self::logs::{LogFormat, Logs};

/// Ended by its own mistake or the machine's, at run time.
const FAILED: u8 = 1;
/// The configuration is bad (EX_CONFIG of sysexits).
const BAD_CONFIG: u8 = 78;

/// A connector host for the edge: native connections, sandboxed connectors.
#[derive(Debug, Parser)]
#[command(name = "windlass", version, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    logging: Logging,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args, Debug)]
struct Logging {
    /// What is logged: a level (error, warn, info, debug, trace) or directives as in RUST_LOG
    #[arg(long, global = true, value_name = "LEVEL")]
    log: Option<String>,
    /// How log lines look
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run what these manifests say, until Ctrl-C
    Run(run::Arguments),
    /// Serve: REST on a data folder, with eKuiper's paths
    Serve(serve::Arguments),
    /// Check manifests: names, types, queries, connectors; starts nothing
    Check(check::Arguments),
    /// Show it working: a simulator, a query and sinks, all sandboxed; needs nothing else
    Demo(demo::Arguments),
    /// Make connectors, build them, look at them, try them
    #[command(subcommand)]
    Connector(connector::Command),
    /// Print a JSON Schema of a manifest, for editors
    Schema(schema::Arguments),
    /// Connections of a server: list, make, change, delete, look at them
    #[command(subcommand)]
    Connections(client::connections::Command),
    /// Streams of a server
    #[command(subcommand)]
    Streams(client::streams::Command),
    /// Rules of a server: list, make, change, delete, start and stop them
    #[command(subcommand)]
    Rules(client::rules::Command),
    /// Connectors of a server
    #[command(subcommand)]
    Connectors(client::connectors::Command),
    /// Show connections and rules of a server with their states and counters
    Status(client::status::Arguments),
    /// Make a server have what manifests say
    Apply(client::apply::Arguments),
    /// See what of an eKuiper works here: its folder, its export, or a running one; make a manifest of it
    ImportEkuiper(import_ekuiper::Arguments),
    /// Which server the commands talk to, and with which token
    #[command(subcommand)]
    Context(client::context::Command),
    /// Print completions for a shell
    Completions(completions::Arguments),
    /// Look at messages that could not be delivered, send them again, remove them
    #[command(subcommand, name = "deadletters")]
    DeadLetters(deadletters::Command),
    /// Compile a component into code for this machine (the host calls this itself)
    #[command(hide = true)]
    CompileComponent {
        /// The component, and where the compiled code goes
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

/// Parses the command line and does what it says.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Command::CompileComponent { arguments } = &cli.command {
        // A process of its own: no log, no runtime, nothing but the compiler.
        return crate::runtime::compile_main(arguments);
    }
    if matches!(
        cli.command,
        Command::Run(_) | Command::Serve(_) | Command::Demo(_)
    ) {
        arenas::limit();
    }
    let live = cli.command.draws_table();
    let logs = match Logs::start(
        cli.logging.log.as_deref(),
        cli.logging.log_format,
        cli.command.quiet(),
        live,
    ) {
        Ok(logs) => logs,
        Err(message) => {
            output::complain(&message);
            return ExitCode::from(BAD_CONFIG);
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(crate::runtime::threads())
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            output::complain(&format!("the threads cannot be started: {error}"));
            return ExitCode::from(FAILED);
        }
    };
    let ended = runtime.block_on(async {
        match cli.command {
            Command::Run(arguments) => run::run(arguments, &logs).await,
            Command::Serve(arguments) => serve::serve(arguments, &logs).await,
            Command::Check(arguments) => check::check(arguments).await,
            Command::Demo(arguments) => demo::demo(arguments, &logs).await,
            Command::Connector(command) => connector::main(command).await,
            Command::Schema(arguments) => schema::schema(arguments).await,
            Command::Connections(command) => client::connections::main(command).await,
            Command::Streams(command) => client::streams::main(command).await,
            Command::Rules(command) => client::rules::main(command).await,
            Command::Connectors(command) => client::connectors::main(command).await,
            Command::Status(arguments) => client::status::status(arguments, &logs).await,
            Command::Apply(arguments) => client::apply::apply(arguments).await,
            Command::ImportEkuiper(arguments) => import_ekuiper::import(arguments).await,
            Command::Context(command) => client::context::main(command),
            Command::Completions(arguments) => completions::completions(&arguments),
            Command::DeadLetters(command) => deadletters::main(command).await,
            Command::CompileComponent { .. } => Ok(ExitCode::SUCCESS),
        }
    });
    // Whatever still runs (a name being resolved) is not waited for.
    runtime.shutdown_background();
    ended.unwrap_or_else(|error| {
        if output::is_broken_pipe(&error) {
            return ExitCode::SUCCESS;
        }
        output::complain(&format!("{error:#}"));
        ExitCode::from(FAILED)
    })
}

impl Command {
    /// What is printed is the answer: the log shows warnings only, unless more is asked for.
    fn quiet(&self) -> bool {
        match self {
            Self::Run(_) | Self::Serve(_) => false,
            Self::Connector(command) => !command.runs(),
            _ => true,
        }
    }

    /// A live table takes the terminal: log lines go into it.
    fn draws_table(&self) -> bool {
        let json = match self {
            Self::Run(arguments) => arguments.json,
            Self::Serve(arguments) => arguments.json,
            Self::Demo(arguments) => arguments.json,
            Self::Status(arguments) => !arguments.draws_table(),
            _ => return false,
        };
        !json && std::io::stdout().is_terminal()
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_log_can_be_set_before_and_after_the_command() {
        for words in [
            ["windlass", "--log", "debug", "run", "m.yaml"],
            ["windlass", "run", "m.yaml", "--log", "debug"],
        ] {
            let cli = Cli::try_parse_from(words).unwrap();
            assert_eq!(cli.logging.log.as_deref(), Some("debug"));
        }
        assert!(
            Cli::try_parse_from(["windlass", "run"]).is_err(),
            "a manifest is needed"
        );
    }
}
