//! Running another program: its arguments never pass through a shell, and a failure names the whole command and
//! the last lines it printed.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail};

/// Lines of output that an error repeats.
const TAIL_LINES: usize = 30;

#[derive(Debug, Clone)]
pub struct Program {
    name: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    folder: Option<PathBuf>,
}

/// What a finished program left behind.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Program {
    pub fn new(name: impl Into<OsString>) -> Self {
        Self {
            name: name.into(),
            args: Vec::new(),
            env: Vec::new(),
            folder: None,
        }
    }

    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args
            .extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    pub fn in_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// The same program, run by another one that takes a command line (`sudo`, `setsid`).
    pub fn through(mut self, runner: &[&str]) -> Self {
        let Some((first, rest)) = runner.split_first() else {
            return self;
        };
        let old = std::mem::replace(&mut self.name, OsString::from(*first));
        let mut args: Vec<OsString> = rest.iter().map(OsString::from).collect();
        args.push(old);
        args.append(&mut self.args);
        self.args = args;
        self
    }

    /// As a user would type it.
    pub fn shown(&self) -> String {
        // The toolchain's own path says nothing; the name is what is typed.
        let name = Path::new(&self.name).file_name().unwrap_or(&self.name);
        let mut words = vec![name.to_string_lossy().into_owned()];
        words.extend(self.args.iter().map(|arg| quoted(&arg.to_string_lossy())));
        words.join(" ")
    }

    /// Runs on our own terminal and must succeed.
    pub fn run(&self) -> Result<()> {
        let status = self
            .command()
            .status()
            .with_context(|| self.cannot_start())?;
        if status.success() {
            return Ok(());
        }
        bail!("`{}` failed ({status})", self.shown())
    }

    /// Runs with its output kept; any exit status is an answer.
    pub fn output(&self) -> Result<Finished> {
        let output = self
            .command()
            .stdin(Stdio::null())
            .output()
            .with_context(|| self.cannot_start())?;
        Ok(Finished {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs with its output kept and must succeed.
    pub fn stdout(&self) -> Result<String> {
        let finished = self.output()?;
        if finished.status.success() {
            return Ok(finished.stdout);
        }
        bail!(
            "`{}` failed ({})\n{}",
            self.shown(),
            finished.status,
            tail(&finished.stderr, TAIL_LINES)
        )
    }

    /// Runs with its output kept; every line of its standard error is also told while it runs.
    pub fn stdout_while(&self, told: impl Fn(&str) + Send + Sync) -> Result<Finished> {
        let mut child = self
            .command()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| self.cannot_start())?;
        let stderr = Mutex::new(String::new());
        let mut stdout = String::new();
        std::thread::scope(|scope| {
            if let Some(pipe) = child.stderr.take() {
                scope.spawn(|| read_lines(pipe, &told, &stderr));
            }
            if let Some(mut pipe) = child.stdout.take() {
                let mut bytes = Vec::new();
                if pipe.read_to_end(&mut bytes).is_ok() {
                    stdout = String::from_utf8_lossy(&bytes).into_owned();
                }
            }
        });
        let status = child
            .wait()
            .with_context(|| format!("cannot wait for `{}`", self.shown()))?;
        let stderr = stderr.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(Finished {
            status,
            stdout,
            stderr,
        })
    }

    /// Runs with both outputs in a file; every line is also told while it runs.
    pub fn run_into(&self, log: &Path, told: impl Fn(&str) + Send + Sync) -> Result<ExitStatus> {
        use std::io::Write;
        let file = File::options().create(true).append(true).open(log);
        let file = Mutex::new(file.with_context(|| format!("cannot write {}", log.display()))?);
        let keep = |line: &str| {
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            // A log that cannot be written must not end the run that it describes.
            let _ = writeln!(file, "{line}");
            told(line);
        };
        keep(&format!("$ {}", self.shown()));
        let mut child = self
            .command()
            // A log is read later, and not only on a terminal.
            .envs([("TERM", "dumb"), ("CARGO_TERM_COLOR", "never")])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| self.cannot_start())?;
        std::thread::scope(|scope| {
            if let Some(pipe) = child.stderr.take() {
                scope.spawn(|| each_line(pipe, &keep));
            }
            if let Some(pipe) = child.stdout.take() {
                each_line(pipe, &keep);
            }
        });
        child
            .wait()
            .with_context(|| format!("cannot wait for `{}`", self.shown()))
    }

    /// Starts it away from our terminal and our process group, its output in a file, and leaves it running.
    pub fn start_apart(&self, log: &Path) -> Result<Child> {
        use std::os::unix::fs::OpenOptionsExt;
        use std::os::unix::process::CommandExt;
        // What a program says at its start may be for its owner only.
        let file = File::options()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(log);
        let file = file.with_context(|| format!("cannot write {}", log.display()))?;
        let second = file
            .try_clone()
            .with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = self.command();
        command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(second)
            .process_group(0);
        command.spawn().with_context(|| self.cannot_start())
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.name);
        command
            .args(&self.args)
            .envs(self.env.iter().map(|(name, value)| (name, value)));
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        command
    }

    fn cannot_start(&self) -> String {
        format!("cannot start `{}`", self.shown())
    }
}

/// Whether a program of this name is on the path.
pub fn exists(name: &str) -> bool {
    let Some(path) = std::env::var_os("PATH") else {
        return false;
    };
    std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
}

pub fn is_root() -> Result<bool> {
    let id = Program::new("id").arg("-u").stdout()?;
    Ok(id.trim() == "0")
}

/// The last lines of a text.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

fn read_lines(pipe: impl Read, told: &(impl Fn(&str) + Sync), kept: &Mutex<String>) {
    each_line(pipe, &|line: &str| {
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_str(line);
        kept.push('\n');
        drop(kept);
        told(line);
    });
}

fn each_line(pipe: impl Read, told: &impl Fn(&str)) {
    let mut reader = BufReader::new(pipe);
    let mut bytes = Vec::new();
    while matches!(reader.read_until(b'\n', &mut bytes), Ok(read) if read > 0) {
        told(String::from_utf8_lossy(&bytes).trim_end_matches(['\n', '\r']));
        bytes.clear();
    }
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A line that another thread may replace; the newest is what counts.
#[derive(Debug, Clone, Default)]
pub struct LastLine(Arc<Mutex<String>>);

impl LastLine {
    pub fn set(&self, line: &str) {
        line.trim()
            .clone_into(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub fn get(&self) -> String {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_it_would_be_typed() {
        let program = Program::new("apt-get")
            .args(["install", "-y", "it's"])
            .through(&["sudo", "-E"]);
        assert_eq!(program.shown(), r"sudo -E apt-get install -y 'it'\''s'");
    }

    #[test]
    fn a_failure_names_the_command_and_its_last_words() {
        let error = Program::new("sh")
            .args(["-c", "echo why >&2; exit 3"])
            .stdout()
            .unwrap_err()
            .to_string();
        assert!(error.contains("sh -c"), "{error}");
        assert!(error.contains("why"), "{error}");
    }

    #[test]
    fn lines_are_told_and_kept() {
        let seen = Mutex::new(Vec::new());
        let program = Program::new("sh").args(["-c", "echo data; echo talk >&2"]);
        let finished = program
            .stdout_while(|line| seen.lock().unwrap().push(line.to_owned()))
            .unwrap();
        assert_eq!(finished.stdout, "data\n");
        assert_eq!(finished.stderr, "talk\n");
        assert_eq!(*seen.lock().unwrap(), ["talk"]);
    }
}
