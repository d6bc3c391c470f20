//! Everything a command takes from or gives to its surroundings: streams, variables, terminal.
//!
//! stdout is data, stderr is talk. A command never reaches past this module, so a test can run one
//! and see all of it.

use std::collections::BTreeMap;
use std::io::{BufRead, IsTerminal, Write};
use std::sync::Arc;

use tokio::sync::Notify;

use crate::error::CliError;

/// How results are printed on stdout.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Table,
    /// For programs; the shapes are stable
    Json,
}

/// Whether live progress and questions make sense.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Terminal {
    pub stdin: bool,
    pub stderr: bool,
}

pub struct Io {
    pub out: Box<dyn Write + Send>,
    pub err: Box<dyn Write + Send>,
    pub input: Box<dyn BufRead + Send>,
    pub terminal: Terminal,
    pub variables: BTreeMap<String, String>,
    pub format: Format,
    /// Notified when the user wants to stop.
    pub interrupt: Arc<Notify>,
    /// What to say when stopped now: what goes on without us, and how to reach it.
    pub goes_on: Vec<String>,
}

impl Io {
    /// The process's own streams and variables.
    pub fn process(format: Format) -> Io {
        Io {
            out: Box::new(std::io::stdout()),
            err: Box::new(std::io::stderr()),
            input: Box::new(std::io::BufReader::new(std::io::stdin())),
            terminal: Terminal {
                stdin: std::io::stdin().is_terminal(),
                stderr: std::io::stderr().is_terminal(),
            },
            variables: std::env::vars().collect(),
            format,
            interrupt: Arc::default(),
            goes_on: Vec::new(),
        }
    }

    pub fn variable(&self, name: &str) -> Option<&str> {
        self.variables
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    /// One line of data.
    pub fn line(&mut self, text: impl AsRef<str>) -> Result<(), CliError> {
        writeln!(self.out, "{}", text.as_ref()).map_err(CliError::Output)
    }

    /// Data that brings its own line ends.
    pub fn text(&mut self, text: &str) -> Result<(), CliError> {
        self.out
            .write_all(text.as_bytes())
            .map_err(CliError::Output)
    }

    /// One line of talk. A closed stderr must not stop the work, so failures are not reported.
    pub fn say(&mut self, text: impl AsRef<str>) {
        let _ = writeln!(self.err, "{}", text.as_ref());
    }

    pub fn json(&mut self, value: &impl serde::Serialize) -> Result<(), CliError> {
        let text =
            serde_json::to_string_pretty(value).map_err(|error| CliError::Output(error.into()))?;
        self.line(text)
    }

    /// Asks on stderr; only a clear yes is a yes.
    pub fn confirm(&mut self, question: &str) -> Result<bool, CliError> {
        let _ = write!(self.err, "{question} [y/N] ");
        let _ = self.err.flush();
        let mut answer = String::new();
        self.input
            .read_line(&mut answer)
            .map_err(CliError::Output)?;
        Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
    }

    /// Asks unless `yes` was given, and says `otherwise` after a no; an error where nobody can be asked.
    pub fn agreed(&mut self, yes: bool, question: &str, otherwise: &str) -> Result<bool, CliError> {
        if yes {
            return Ok(true);
        }
        if !self.terminal.stdin {
            return Err(CliError::failed(
                "there is nobody to ask",
                "run it with `--yes`",
            ));
        }
        let agreed = self.confirm(question)?;
        if !agreed {
            self.say(otherwise);
        }
        Ok(agreed)
    }
}

/// Columns padded to their widest cell; the last one is left as it is.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let render = |cells: Vec<&str>| {
        let padded: Vec<String> = cells
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        padded.join("  ").trim_end().to_owned()
    };
    let mut lines = vec![render(header.to_vec())];
    lines.extend(
        rows.iter()
            .map(|row| render(row.iter().map(String::as_str).collect())),
    );
    lines.join("\n")
}
