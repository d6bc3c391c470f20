//! `policy`: definitions compiled and policies tested from files, without a server.
//!
//! The language is the crate `policy`'s; here are only the files, the clock and what is printed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::policy::case::{self, Library, Outcome};
use ::policy::{Aliases, Compiled, compile, json as documents};
use clap::Subcommand;
use cli::args::compliance::WhatIf;
use cli::io::{Format, Io};
use serde_json::{Value, json};

use crate::offline::Failure;
use crate::policy_files;

/// Deepest folder that is looked into.
const FOLDERS_MAX: usize = 32;
/// Files of one run.
const FILES_MAX: usize = 100_000;
/// The largest file of cases or definitions; a definition alone has a limit of its own.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// The largest initiative: it names up to a thousand policies and describes each.
const INITIATIVE_BYTES_MAX: usize = 8 << 20;
/// The largest alias table: the provider list of a whole cloud.
const TABLE_BYTES_MAX: u64 = 512 << 20;
/// Evaluated expressions that are printed for a failed case.
const SHOWN_MAX: usize = 20;

#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Compile definitions and initiatives, and say where and why one is refused
    #[command(after_help = "Examples:
  bullion policy check policies/
  bullion policy check deny-public.json --aliases aliases.json")]
    Check {
        /// Definitions and initiatives: JSON files, or folders of them
        #[arg(required = true, value_name = "FILE|DIR")]
        paths: Vec<PathBuf>,
        /// Aliases: an object of names and paths, `az provider list --expand resourceTypes/aliases`,
        /// or lines of type, alias and path; an alias that it lacks is refused
        #[arg(long, value_name = "FILE")]
        aliases: Option<PathBuf>,
    },
    /// Run unit tests of policies
    #[command(after_help = "Examples:
  bullion policy test tests/
  bullion policy test cases.json --definitions policies/ --output json")]
    Test {
        /// Cases: JSON files, or folders of them
        #[arg(required = true, value_name = "FILE|DIR")]
        paths: Vec<PathBuf>,
        /// Folder of the definitions that cases name by `definitionPath`
        #[arg(long, value_name = "DIR")]
        definitions: Option<PathBuf>,
        /// Aliases, as for `check`
        #[arg(long, value_name = "FILE")]
        aliases: Option<PathBuf>,
    },
    /// Ask the server what a policy would find before it is assigned, or what the assigned ones would say of a resource
    #[command(after_help = "Examples:
  bullion policy what-if deny-old-images.json --parameters '{\"maximumAgeInDays\": 30}'
  bullion policy what-if golden-images.json --parameters @values.json --subscription production
  bullion policy what-if --resource web-2.json

Nothing is stored. Exit code: 1 if the resource would be denied")]
    WhatIf(policy_files::Ask),
    /// Tables of aliases
    #[command(subcommand)]
    Aliases(policy_files::Aliases),
}

/// Does it, or answers the question that only a server can.
pub fn run(command: PolicyCommand, io: &mut Io) -> Result<Option<WhatIf>, Failure> {
    let done = match command {
        PolicyCommand::WhatIf(ask) => return policy_files::question(ask).map(Some),
        PolicyCommand::Aliases(command) => policy_files::aliases(&command, io),
        PolicyCommand::Check { paths, aliases } => {
            let aliases = table(aliases.as_deref())?;
            check(&files(&paths)?, &aliases, io)
        }
        PolicyCommand::Test {
            paths,
            definitions,
            aliases,
        } => {
            let aliases = Arc::new(table(aliases.as_deref())?);
            let library = match &definitions {
                Some(folder) => library(folder)?,
                None => Library::default(),
            };
            test(&files(&paths)?, &library, &aliases, io)
        }
    };
    done.map(|()| None)
}

fn read(path: &Path, limit: u64) -> Result<String, Failure> {
    let failed = |error| Failure::new(format!("cannot read `{}`", path.display()), error);
    let size = std::fs::metadata(path).map_err(failed)?.len();
    if size > limit {
        let what = format!("`{}` has more than {limit} bytes", path.display());
        return Err(Failure::plain(what));
    }
    std::fs::read_to_string(path).map_err(failed)
}

fn table(path: Option<&Path>) -> Result<Aliases, Failure> {
    let Some(path) = path else {
        return Ok(Aliases::default());
    };
    let text = read(path, TABLE_BYTES_MAX)?;
    Aliases::read(&text)
        .map(Aliases::complete)
        .map_err(|fault| Failure::new(format!("`{}` is no alias table", path.display()), fault))
}

/// The files named, and those in the folders named, in the order of their names.
fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut found = Vec::new();
    for path in paths {
        if path.is_dir() {
            folder(path, 0, &mut found)?;
        } else {
            found.push(path.clone());
        }
    }
    Ok(found)
}

fn folder(path: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<(), Failure> {
    let failed = |error| {
        Failure::new(
            format!("cannot read the folder `{}`", path.display()),
            error,
        )
    };
    if depth > FOLDERS_MAX {
        let what = format!(
            "folders are nested more than {FOLDERS_MAX} deep at `{}`",
            path.display()
        );
        return Err(Failure::plain(what));
    }
    let mut entries = std::fs::read_dir(path)
        .and_then(|entries| entries.collect::<Result<Vec<_>, _>>())
        .map_err(failed)?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let is_json = path
            .extension()
            .is_some_and(|end| end == "json" || end == "jsonc");
        if path.is_dir() {
            folder(&path, depth + 1, found)?;
        } else if is_json {
            found.push(path);
        }
        if found.len() > FILES_MAX {
            return Err(Failure::plain(format!(
                "there are more than {FILES_MAX} files"
            )));
        }
    }
    Ok(())
}

fn check(files: &[PathBuf], aliases: &Aliases, io: &mut Io) -> Result<(), Failure> {
    let mut failed = 0;
    let mut shown = Vec::new();
    for file in files {
        let name = file.display().to_string();
        let result = checked(file, aliases);
        failed += usize::from(result.is_err());
        match (&result, io.format) {
            (Ok(kind), Format::Table) => io.line(format!("fine    {name} ({kind})"))?,
            (Err((path, reason)), Format::Table) => {
                io.line(format!("refused {name}: {path}: {reason}"))?;
            }
            (Ok(kind), Format::Json) => {
                shown.push(json!({ "file": name, "passed": true, "kind": kind }));
            }
            (Err((path, reason)), Format::Json) => shown.push(json!({
                "file": name, "passed": false, "path": path, "reason": reason,
            })),
        }
    }
    if io.format == Format::Json {
        io.json(&shown)?;
    }
    ended(files.len() - failed, failed, "definition", io)
}

/// What a file holds, or where and why it is refused.
fn checked(file: &Path, aliases: &Aliases) -> Result<&'static str, (String, String)> {
    let text = std::fs::metadata(file)
        .and_then(|found| match found.len() > FILE_BYTES_MAX {
            true => Err(std::io::Error::other("the file is too large")),
            false => std::fs::read_to_string(file),
        })
        .map_err(|error| ("$".to_owned(), error.to_string()))?;
    let document = documents::parse_within(&text, INITIATIVE_BYTES_MAX).map_err(|error| {
        (
            format!("line {}, column {}", error.line, error.column),
            error.reason,
        )
    })?;
    match compile(&document, aliases) {
        Ok(Compiled::Initiative(_)) => Ok("initiative"),
        Ok(Compiled::Definition(_)) if text.len() > documents::BODY_BYTES_MAX => Err((
            "$".to_owned(),
            format!(
                "a definition has at most {} bytes",
                documents::BODY_BYTES_MAX
            ),
        )),
        Ok(Compiled::Definition(_)) => Ok("definition"),
        Err(fault) => Err((fault.path, fault.reason)),
    }
}

fn ended(passed: usize, failed: usize, what: &str, io: &mut Io) -> Result<(), Failure> {
    let line = format!("{passed} passed, {failed} failed");
    match io.format {
        Format::Table => io.line(line)?,
        Format::Json => io.say(line),
    }
    match failed {
        0 => Ok(()),
        1 => Err(Failure::plain(format!("one {what} failed"))),
        many => Err(Failure::plain(format!("{many} {what}s failed"))),
    }
}

/// All definitions of a folder, under their paths in it.
fn library(root: &Path) -> Result<Library, Failure> {
    let mut library = Library::default();
    let mut found = Vec::new();
    folder(root, 0, &mut found)?;
    for file in found {
        let text = read(&file, FILE_BYTES_MAX)?;
        let name = file.strip_prefix(root).unwrap_or(&file);
        // A file that is no JSON is missed by the case that needs it, and by no other.
        if let Ok(document) = documents::parse_within(&text, INITIATIVE_BYTES_MAX) {
            library.add(&name.to_string_lossy(), document);
        }
    }
    Ok(library)
}

fn test(
    files: &[PathBuf],
    library: &Library,
    aliases: &Arc<Aliases>,
    io: &mut Io,
) -> Result<(), Failure> {
    let now = jiff::Timestamp::now();
    let (mut passed, mut failed) = (0, 0);
    let mut shown: Vec<Value> = Vec::new();
    for file in files {
        let limit = usize::try_from(FILE_BYTES_MAX).unwrap_or(usize::MAX);
        let document = documents::parse_within(&read(file, FILE_BYTES_MAX)?, limit)
            .map_err(|error| Failure::new(format!("`{}` holds no cases", file.display()), error))?;
        for found in case::cases(&document) {
            let outcome = case::run(found, library, aliases, now);
            match outcome.passed() {
                true => passed += 1,
                false => failed += 1,
            }
            match io.format {
                Format::Table if !outcome.passed() => tell(&outcome, io)?,
                Format::Table => {}
                Format::Json => shown.push(json!({
                    "id": outcome.id,
                    "passed": outcome.passed(),
                    "verdict": outcome.verdict,
                })),
            }
        }
    }
    if io.format == Format::Json {
        io.json(&shown)?;
    }
    ended(passed, failed, "case", io)
}

/// One line for a failed case: what was expected, what came, and what decided.
fn tell(outcome: &Outcome, io: &mut Io) -> Result<(), Failure> {
    let mut line = format!("failed {}", outcome.id);
    if !outcome.title.is_empty() {
        line.push_str(&format!(" ({})", outcome.title));
    }
    line.push_str(&format!(": {}", outcome.differences.join("; ")));
    if let Some(error) = outcome.verdict["error"].as_str() {
        line.push_str(&format!("; error: {error}"));
    }
    let decided = outcome.explained.iter().take(SHOWN_MAX).map(|one| {
        format!(
            "{}: {} = {} {} {} is {}",
            one.path, one.expression, one.value, one.operator, one.target, one.result
        )
    });
    let decided: Vec<String> = decided.collect();
    if !decided.is_empty() {
        line.push_str(&format!(" [{}]", decided.join("; ")));
    }
    Ok(io.line(line)?)
}
