//! What the commands that need no server have in common: the data folder and how they fail.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use cli::error::CliError;

/// Where a server keeps everything.
#[derive(Debug, clap::Args)]
pub struct Data {
    /// Data folder of the server [default: ~/.local/share/bullion]
    #[arg(long = "data", value_name = "DIR", env = "BULLION_DATA")]
    given: Option<PathBuf>,
}

impl Data {
    pub fn folder(&self) -> Result<PathBuf, Failure> {
        if let Some(given) = &self.given {
            return Ok(given.clone());
        }
        let set = |name: &str| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        set("XDG_DATA_HOME")
            .or_else(|| set("HOME").map(|home| home.join(".local/share")))
            .map(|base| base.join("bullion"))
            .ok_or_else(|| Failure::usage("name the data folder with `--data`; HOME is not set"))
    }
}

/// Why a command ended badly.
#[derive(Debug)]
pub struct Failure {
    what: String,
    causes: Vec<String>,
    hints: Vec<String>,
    /// 0 where there is nothing to tell: whoever read the output has seen enough.
    code: u8,
}

impl Failure {
    pub fn new(what: impl Into<String>, error: impl Error) -> Failure {
        let mut causes = vec![error.to_string()];
        let mut cause = error.source();
        while let Some(inner) = cause {
            causes.push(inner.to_string());
            cause = inner.source();
        }
        Failure {
            what: what.into(),
            causes,
            hints: Vec::new(),
            code: 1,
        }
    }

    pub fn plain(what: impl Into<String>) -> Failure {
        Failure {
            what: what.into(),
            causes: Vec::new(),
            hints: Vec::new(),
            code: 1,
        }
    }

    pub fn usage(what: impl Into<String>) -> Failure {
        Failure {
            code: 2,
            ..Failure::plain(what)
        }
    }

    pub fn with_code(mut self, code: u8) -> Failure {
        self.code = code;
        self
    }

    /// Ctrl-C, in the way that a shell expects.
    pub fn interrupted(what: impl Into<String>) -> Failure {
        Failure {
            causes: vec!["interrupted".into()],
            code: 130,
            ..Failure::plain(what)
        }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hints.push(hint.into());
        self
    }

    /// Writes the failure to stderr, in the form of the client's errors, and gives the exit code.
    pub fn tell(&self) -> ExitCode {
        use std::io::Write;
        if self.code == 0 {
            return ExitCode::SUCCESS;
        }
        let mut lines = vec![format!("error: {}", self.what)];
        lines.extend(
            self.causes
                .iter()
                .map(|cause| format!("  because: {cause}")),
        );
        lines.extend(self.hints.iter().map(|hint| format!("hint: {hint}")));
        // There is nowhere left to report a stderr that cannot be written.
        let _ = writeln!(std::io::stderr(), "{}", lines.join("\n"));
        ExitCode::from(self.code)
    }
}

impl From<CliError> for Failure {
    fn from(error: CliError) -> Failure {
        if error.is_closed_output() {
            return Failure {
                code: 0,
                ..Failure::plain("")
            };
        }
        Failure::new("cannot write the result", error)
    }
}
