//! What can go wrong in a command, how it is told, and what the user can do about it.
//!
//! A variant names what was being done; its cause is `source` and is printed once, by [`render`].

use std::error::Error;
use std::io;

use camino::Utf8PathBuf;
use reqwest::StatusCode;

use wire::TenantId;

use crate::factory::{LoadError, Problems};

#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error("cannot write the output")]
    Output(#[source] io::Error),
    #[error("cannot read `{path}`")]
    ReadFile {
        path: Utf8PathBuf,
        source: io::Error,
    },
    #[error("cannot write `{path}`")]
    WriteFile {
        path: Utf8PathBuf,
        source: io::Error,
    },
    #[error("no server to talk to: there is no profile at `{path}` and BULLION_URL is not set")]
    NoProfile { path: Utf8PathBuf },
    #[error("the profile `{path}` cannot be used: {why}")]
    BadProfile { path: Utf8PathBuf, why: String },
    #[error("{0}")]
    Usage(String),
    #[error("{what}")]
    Failed { what: String, hint: Option<String> },
    #[error("the certificate authority in {from} cannot be used")]
    BadCa {
        from: String,
        source: reqwest::Error,
    },
    #[error("cannot reach the server at {url}")]
    Connect { url: String, source: reqwest::Error },
    #[error("the server at {url} does not show a certificate that this profile trusts")]
    Tls { url: String, source: reqwest::Error },
    #[error("cannot {operation}: the connection broke")]
    Transport {
        operation: String,
        source: reqwest::Error,
    },
    #[error("signing in to tenant {tenant} as {client} was refused: {description}")]
    SignIn {
        tenant: TenantId,
        client: String,
        description: String,
        code: String,
    },
    #[error("cannot {operation}: {message} ({code})")]
    Arm {
        operation: String,
        status: StatusCode,
        code: String,
        message: String,
        details: Vec<String>,
    },
    #[error("cannot {operation}: the answer is not understood: {why}")]
    BadAnswer { operation: String, why: String },
    #[error("cannot {operation}: it did not finish within {minutes} minutes")]
    Deadline { operation: String, minutes: u64 },
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("interrupted")]
    Interrupted,
}

/// What a command ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Done,
    Failure,
    /// Wrong use of the command line.
    Usage,
    /// `plan --detailed-exitcode` found something to do.
    Changes,
    /// What was asked could not be answered; where 1 is an answer.
    Unknown,
    /// What was looked at is not what was signed or recorded.
    Refuted,
    Interrupted,
}

impl Exit {
    pub fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Failure => 1,
            Exit::Usage | Exit::Changes | Exit::Unknown => 2,
            Exit::Refuted => 3,
            Exit::Interrupted => 130,
        }
    }
}

impl CliError {
    pub fn failed(what: impl Into<String>, hint: impl Into<String>) -> CliError {
        CliError::Failed {
            what: what.into(),
            hint: Some(hint.into()),
        }
    }

    pub fn exit(&self) -> Exit {
        match self {
            CliError::Usage(_) => Exit::Usage,
            CliError::Interrupted => Exit::Interrupted,
            _ => Exit::Failure,
        }
    }

    /// Whether ARM said that the thing itself does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, CliError::Arm { status, .. } if *status == StatusCode::NOT_FOUND)
    }

    /// Whether ARM said that the caller may not.
    pub fn is_forbidden(&self) -> bool {
        matches!(self, CliError::Arm { code, .. } if code == "AuthorizationFailed")
    }

    /// Whether nobody reads stdout any more, as with `bullion … | head`. That is no failure.
    pub fn is_closed_output(&self) -> bool {
        matches!(self, CliError::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    fn hints(&self) -> Vec<String> {
        let one = |text: &str| vec![text.to_owned()];
        match self {
            CliError::NoProfile { .. } => vec![
                "start a server with `bullion serve`, then sign in with `bullion login --from DATA/admin.json`".into(),
                "or set BULLION_URL, BULLION_CA, BULLION_TENANT, BULLION_CLIENT_ID and BULLION_CLIENT_SECRET".into(),
            ],
            CliError::BadProfile { .. } => one("make a new one with `bullion login --from DATA/admin.json`"),
            CliError::BadCa { .. } => one("it must be a PEM file, such as the server's DATA/tls/ca.pem"),
            CliError::Connect { .. } => vec![
                "is the server running? `bullion serve` starts it and prints its address".into(),
                "another address? `bullion login --from DATA/admin.json` writes the profile again".into(),
            ],
            CliError::Tls { .. } => one(
                "the profile may be of another installation: `bullion login --from DATA/admin.json` takes over the server's own CA",
            ),
            CliError::Transport { .. } => one("run the command again: what the server has begun goes on by itself"),
            CliError::SignIn { .. } => one(
                "check tenant, client id and secret in the profile; `bullion login --from DATA/admin.json` restores the administrator",
            ),
            CliError::Failed { hint: Some(hint), .. } => vec![hint.clone()],
            CliError::Deadline { .. } => one("it goes on at the server; run the command again to see how far it is"),
            CliError::Arm { code, .. } => arm_hint(code).into_iter().collect(),
            CliError::Load(LoadError::Problems(_)) => one("nothing was created or changed"),
            _ => Vec::new(),
        }
    }
}

fn arm_hint(code: &str) -> Option<String> {
    let hint = match code {
        "AuthorizationFailed" => {
            "the signed-in application needs a role there; an owner gives it one with `kind: RoleAssignment` in a factory folder, or with `az role assignment create`"
        }
        "InvalidAuthenticationTokenTenant" => {
            "the resource belongs to another tenant; name that tenant with `--tenant`"
        }
        "ExpiredAuthenticationToken" | "InvalidAuthenticationToken" => {
            "sign in again with `bullion login`; compare this machine's clock with the server's"
        }
        "ResourceGroupNotFound" | "ResourceNotFound" | "SubscriptionNotFound" => {
            "check the name; `bullion image list`, `bullion build list` and `bullion vm list` show what exists"
        }
        "Conflict" => {
            "something else is changing it, or it exists in another shape; wait for it or look at it with `bullion rest GET`"
        }
        _ => return None,
    };
    Some(hint.into())
}

/// The whole error as the user sees it: what, why, what to do.
pub fn render(error: &CliError) -> String {
    let mut lines = Vec::new();
    if let CliError::Load(LoadError::Problems(problems)) = error {
        lines.push(problem_lines(problems));
    }
    lines.push(format!("error: {error}"));
    if let CliError::Arm { details, .. } = error {
        lines.extend(details.iter().map(|detail| format!("  {detail}")));
    }
    let mut cause = error.source();
    let mut last = error.to_string();
    while let Some(inner) = cause {
        let text = inner.to_string();
        if !last.ends_with(&text) {
            lines.push(format!("  because: {text}"));
        }
        last = text;
        cause = inner.source();
    }
    lines.extend(error.hints().iter().map(|hint| format!("hint: {hint}")));
    lines.join("\n")
}

fn problem_lines(problems: &Problems) -> String {
    problems.to_string()
}
