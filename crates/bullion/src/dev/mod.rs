//! `dev`: the whole system for a test run. A server in a temporary folder, with tenants and images in it, for as long as
//! one command runs.
//!
//! What is set up is set up through the REST API, like anybody's; this module knows nothing that a client could not.

mod disk;
mod world;

use std::ffi::OsString;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus};

use cli::io::Io;
use tempfile::TempDir;

use crate::offline::Failure;
use world::{Wish, World};

/// Regions of a throw-away server, unless others are named.
const REGIONS: [&str; 3] = ["westeurope", "northeurope", "eastus"];
const TENANTS_MAX: u16 = 50;
/// What a shell adds to a signal's number.
const SIGNALED: i32 = 128;
/// The environment file holds a secret, if one of a server that will be gone soon.
const PRIVATE_FILE: u32 = 0o600;
const NOT_FOUND: u8 = 127;

#[derive(Debug, clap::Args)]
pub struct Dev {
    /// Tenants, each with a subscription and a managed image
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=i64::from(TENANTS_MAX)))]
    tenants: u16,

    /// Also write the variables to this file, as NAME=value lines
    #[arg(long, value_name = "FILE")]
    env_file: Option<PathBuf>,

    /// Region to have; may be repeated, the first is the images' [default: westeurope, northeurope, eastus]
    #[arg(long = "region", value_name = "NAME")]
    regions: Vec<String>,

    /// Command to run with the variables set; without one, the server runs until Ctrl-C
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

pub async fn run(args: Dev, io: &mut Io) -> Result<ExitCode, Failure> {
    let folder = tempfile::Builder::new()
        .prefix("bullion-dev-")
        .tempdir()
        .map_err(|error| Failure::new("cannot make a temporary folder", error))?;
    let blobs = folder.path().join("blobs");
    std::fs::create_dir(&blobs)
        .map_err(|error| Failure::new("cannot make a temporary folder", error))?;
    let options = server::ServeOptions {
        data: folder.path().join("data"),
        listen: Some(([127, 0, 0, 1], 0).into()),
        blobs: Some(blobs.clone()),
        ..server::ServeOptions::default()
    };
    let running = server::start(options)
        .await
        .map_err(|error| Failure::new("the server cannot run", error))?;
    let done = with_server(args, &running, &blobs, io).await;
    running.stop().await;
    remove(folder, io);
    done
}

async fn with_server(
    args: Dev,
    running: &server::Running,
    blobs: &Path,
    io: &mut Io,
) -> Result<ExitCode, Failure> {
    let regions = match args.regions {
        named if named.is_empty() => REGIONS.map(str::to_owned).to_vec(),
        named => named,
    };
    let wish = Wish {
        tenants: usize::from(args.tenants),
        regions,
    };
    let world = World::make(running, blobs, &wish).await?;
    let variables = world.variables();
    if let Some(file) = &args.env_file {
        write(file, &variables)
            .map_err(|error| Failure::new(format!("cannot write `{}`", file.display()), error))?;
    }
    let ended = match args.command.split_first() {
        Some((program, rest)) => command(program, rest, &variables).await,
        None => until_interrupted(&variables, io)
            .await
            .map(|()| ExitCode::SUCCESS),
    };
    // Machines are processes of their own and would outlive the server.
    world.remove_machines().await?;
    ended
}

async fn command(
    program: &OsString,
    args: &[OsString],
    variables: &[(String, String)],
) -> Result<ExitCode, Failure> {
    match process::run_foreground(program, args, variables).await {
        Ok(status) => Ok(code(status)),
        Err(error) => {
            let missing = matches!(error, process::ProcessError::NotFound { .. });
            let failure = Failure::new("the command did not run", error);
            Err(if missing {
                failure.with_code(NOT_FOUND)
            } else {
                failure
            })
        }
    }
}

/// As a shell would give it on.
fn code(status: ExitStatus) -> ExitCode {
    let signaled = status.signal().map(|signal| SIGNALED + signal);
    let code = status.code().or(signaled).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

async fn until_interrupted(variables: &[(String, String)], io: &mut Io) -> Result<(), Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen =
        |kind| signal(kind).map_err(|error| Failure::new("cannot watch for signals", error));
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut term = listen(SignalKind::terminate())?;
    for (name, value) in variables {
        io.line(format!("export {name}={value}"))?;
    }
    io.out
        .flush()
        .map_err(|error| Failure::new("cannot write the result", error))?;
    io.say("The server runs until Ctrl-C; everything in it goes with it.");
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = term.recv() => {}
    }
    Ok(())
}

/// Whole or not at all: somebody may be waiting for the file.
fn write(file: &Path, variables: &[(String, String)]) -> std::io::Result<()> {
    let folder = match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut text = String::new();
    for (name, value) in variables {
        text.push_str(&format!("{name}={value}\n"));
    }
    let temporary = tempfile::Builder::new().make_in(folder, |path| {
        std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(PRIVATE_FILE)
            .open(path)
    })?;
    temporary.as_file().write_all(text.as_bytes())?;
    temporary.persist(file)?;
    Ok(())
}

fn remove(folder: TempDir, io: &mut Io) {
    let path = folder.path().to_path_buf();
    if let Err(error) = folder.close() {
        io.say(format!("warning: `{}` stays: {error}", path.display()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_given_on_as_a_shell_does() {
        let check = |raw: i32, expected: u8| {
            assert_eq!(code(ExitStatus::from_raw(raw)), ExitCode::from(expected));
        };
        check(0, 0);
        check(7 << 8, 7);
        check(255 << 8, 255);
        check(9, 137);
        check(15, 143);
    }

    #[test]
    fn the_variables_are_lines_of_a_private_file() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("env");
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        for value in ["1", "2"] {
            write(&file, &[pair("A", value), pair("B", "x")]).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "A=2\nB=x\n");
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, PRIVATE_FILE);
    }
}
