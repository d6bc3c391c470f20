//! The `bullion` program: the client's commands, the daemon, and tools that need neither.
//!
//! This is dispatch only. Client commands are in `cli` and speak HTTPS; what touches a data folder
//! directly is here and says so.

mod audit;
mod dev;
mod doctor;
mod offline;
mod policy;
mod policy_files;
mod store_tool;
mod tattoo;

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use cli::args::Global;
use cli::io::Io;
use tracing_subscriber::EnvFilter;

use offline::Failure;

/// The filter of the logs if `--log` is not given.
const LOG: &str = "BULLION_LOG";
/// What a daemon logs unless told otherwise.
const SERVE_LOG: &str = "info";

/// A golden-image factory and gallery that speaks the Azure Resource Manager API
#[derive(Debug, Parser)]
#[command(
    name = "bullion",
    version,
    arg_required_else_help = true,
    after_help = "Start here:
  bullion serve --data /var/lib/bullion             # a server, on nothing but an empty folder
  bullion login --from /var/lib/bullion/admin.json
  bullion apply examples/golden-debian
  bullion build run golden-debian

Exit codes: 0 done, 1 failed, 2 wrong use (or `plan --detailed-exitcode` found changes), 3 something is not what
was signed or recorded, 130 interrupted"
)]
struct Bullion {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server until it is stopped by SIGTERM or Ctrl-C
    #[command(after_help = "Examples:
  bullion serve
  bullion serve --data /var/lib/bullion --listen 0.0.0.0:8443 --name factory.example
  bullion serve --data /var/lib/bullion --database postgres://bullion@db.example/bullion")]
    Serve(Serve),

    /// Run a throw-away server with tenants and images in it, for the time of one command
    #[command(after_help = "Examples:
  bullion dev -- ./test-my-pipeline.sh
  bullion dev --tenants 3 --env-file dev.env

The command and the file get BULLION_URL, BULLION_CA, BULLION_CLIENT_ID, BULLION_CLIENT_SECRET, for each tenant
BULLION_TENANT_n, BULLION_SUBSCRIPTION_n and BULLION_IMAGE_n (a managed image of generation V2), BULLION_VHD_URI,
BULLION_LOCATION, BULLION_TENANT (the first one, for this program's own commands), and of an administrator of every
tenant BULLION_ADMIN_CLIENT_ID and BULLION_ADMIN_CLIENT_SECRET. The client is Owner of every
subscription.

Exit code: the command's; 127 if it is not found")]
    Dev(dev::Dev),

    #[command(flatten)]
    Client(Box<cli::args::Command>),

    /// Check that this host can build and run images
    #[command(after_help = "Example:
  bullion doctor --data /var/lib/bullion")]
    Doctor(offline::Data),

    /// Export the activity log and prove that nobody changed it; works on a data folder, with or without its server
    #[command(subcommand)]
    Audit(audit::AuditCommand),

    /// Check and test policies, and ask what they would do
    #[command(subcommand)]
    Policy(policy::PolicyCommand),

    /// Keep disk images in a store: put, get, copy, check; no server is needed
    #[command(subcommand)]
    Store(store_tool::StoreCommand),

    /// The record of identity and origin that is in every image
    #[command(subcommand)]
    Tattoo(tattoo::TattooCommand),

    /// Print a completion script for a shell
    #[command(after_help = "Example:
  bullion completions bash > /etc/bash_completion.d/bullion")]
    Completions { shell: clap_complete::Shell },
}

#[derive(Debug, clap::Args)]
struct Serve {
    #[command(flatten)]
    data: offline::Data,

    /// Address to listen on; port 0 takes a free one [default: 127.0.0.1:8443]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,

    /// A further host name or address for the server's certificate; may be repeated
    #[arg(long = "name", value_name = "HOST")]
    names: Vec<String>,

    /// Folder whose files may be used as VHDs; whoever reaches the server may read them, at /blobs/
    #[arg(long, value_name = "DIR")]
    blobs: Option<PathBuf>,

    /// PostgreSQL database, which several servers may share: postgres://USER@HOST/NAME, without a password (that is
    /// in the file PGPASSFILE names, or in PGPASSWORD) [default: SQLite in the data folder]
    #[arg(
        long,
        value_name = "URL",
        env = "BULLION_DATABASE",
        hide_env_values = true
    )]
    database: Option<String>,

    /// Answer requests alone, and leave builds, machines and all other jobs to another server on the database
    #[arg(long)]
    front_end: bool,

    /// Configuration file [default: DATA/bullion.toml where it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

fn main() -> ExitCode {
    // The inner side of a build's sandbox is this program again, and must come before all else.
    if std::env::args_os()
        .nth(1)
        .is_some_and(|first| first == server::SANDBOX_ARGUMENT)
    {
        return server::enter_sandbox();
    }
    let arguments = Bullion::parse();
    start_logging(&arguments);
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::new("cannot start the program", error).tell(),
    };
    runtime.block_on(run(arguments))
}

fn start_logging(arguments: &Bullion) {
    let fallback = match arguments.command {
        Command::Serve(_) => SERVE_LOG,
        _ => "off",
    };
    let filter = arguments
        .global
        .log
        .clone()
        .or_else(|| std::env::var(LOG).ok());
    let filter = filter.as_deref().unwrap_or(fallback);
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new(fallback)))
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
}

async fn run(arguments: Bullion) -> ExitCode {
    let global = arguments.global;
    let mut io = Io::process(global.output);
    let result = match arguments.command {
        Command::Client(command) => return client(&global, *command, io).await,
        Command::Serve(args) => serve(args).await,
        Command::Dev(args) => return ended(dev::run(args, &mut io).await),
        Command::Doctor(data) => doctor::run(&data, &mut io).await,
        Command::Audit(command) => audit::run(command, &mut io).await,
        Command::Policy(command) => match policy::run(command, &mut io) {
            Ok(Some(question)) => {
                return client(&global, cli::args::Command::WhatIf(question), io).await;
            }
            done => done.map(drop),
        },
        Command::Store(command) => store_tool::run(command, &mut io),
        Command::Tattoo(command) => match tattoo::run(command) {
            Ok(question) => {
                let question = cli::args::Command::ReadTattoo(question);
                return client(&global, question, io).await;
            }
            Err(failure) => Err(failure),
        },
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Bullion::command(), "bullion", &mut script);
            io.text(&String::from_utf8_lossy(&script))
                .map_err(Failure::from)
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.tell(),
    }
}

fn ended(result: Result<ExitCode, Failure>) -> ExitCode {
    result.unwrap_or_else(|failure| failure.tell())
}

async fn client(global: &Global, command: cli::args::Command, mut io: Io) -> ExitCode {
    let interrupt = io.interrupt.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            interrupt.notify_one();
        }
    });
    ExitCode::from(cli::run(global, command, &mut io).await.code())
}

async fn serve(args: Serve) -> Result<(), Failure> {
    let options = server::ServeOptions {
        data: args.data.folder()?,
        listen: args.listen,
        names: args.names,
        blobs: args.blobs,
        database: args.database,
        front_end: args.front_end,
        config: args.config,
        ..server::ServeOptions::default()
    };
    server::serve(options)
        .await
        .map_err(|error| Failure::new("the server cannot run", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Bullion::command().debug_assert();
    }
}
