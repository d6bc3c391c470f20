//! Runs one command in this process and shows all of what it did.

use std::collections::BTreeMap;
use std::io::{Cursor, Write};
use std::sync::{Arc, Mutex};

use clap::Parser;
use cli::args::{Command, Global};
use cli::io::{Io, Terminal};

#[derive(Debug, Parser)]
#[command(name = "bullion")]
struct Bullion {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Buffer {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

/// What surrounds a command.
#[derive(Default, Clone)]
pub struct Surroundings {
    pub variables: BTreeMap<String, String>,
    /// Typed on a terminal; without it stdin is no terminal.
    pub typed: Option<String>,
    /// Stops the command as Ctrl-C does.
    pub interrupt: Arc<tokio::sync::Notify>,
}

pub struct Outcome {
    pub code: u8,
    pub out: String,
    pub err: String,
}

impl Surroundings {
    pub async fn run(&self, line: &[&str]) -> Outcome {
        let parsed = Bullion::try_parse_from(["bullion"].iter().chain(line)).unwrap();
        self.run_command(&parsed.global, parsed.command).await
    }

    /// The same for a command that is not read from a line.
    pub async fn run_command(&self, global: &Global, command: Command) -> Outcome {
        let (out, err) = (Buffer::default(), Buffer::default());
        let mut io = Io {
            out: Box::new(out.clone()),
            err: Box::new(err.clone()),
            input: Box::new(Cursor::new(self.typed.clone().unwrap_or_default())),
            terminal: Terminal {
                stdin: self.typed.is_some(),
                stderr: false,
            },
            variables: self.variables.clone(),
            format: global.output,
            interrupt: self.interrupt.clone(),
            goes_on: Vec::new(),
        };
        let exit = cli::run(global, command, &mut io).await;
        Outcome {
            code: exit.code(),
            out: out.text(),
            err: err.text(),
        }
    }
}

/// Command, exit code and both streams, for a snapshot.
pub fn shown(line: &[&str], outcome: &Outcome) -> String {
    format!(
        "$ bullion {}\nexit code: {}\n----- stdout -----\n{}----- stderr -----\n{}",
        line.join(" "),
        outcome.code,
        outcome.out,
        outcome.err
    )
}
