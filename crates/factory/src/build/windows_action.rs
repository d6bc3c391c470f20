//! What a recipe can ask of a Windows guest, checked before anything runs.

use std::time::Duration;

use super::customizer::{FILE_BYTES_MAX, FileContent, KeyMaterial, Secret, reason_against_script};

/// What programs of Windows take that know nothing of long paths.
const PATH_BYTES_MAX: usize = 240;
const EXIT_CODES_MAX: usize = 100;
const COMMAND_BYTES_MAX: usize = 8000;
const FILTERS_MAX: usize = 100;

/// A path of a Windows, with its drive, without `.`, `..` or empty components.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WindowsPath(String);

impl WindowsPath {
    /// Both kinds of slashes are taken.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.replace('/', "\\");
        let (drive, rest) = text.split_once(":\\")?;
        let good = |part: &str| {
            !part.is_empty()
                && !part.ends_with(['.', ' '])
                && !part.contains(|char: char| char.is_control() || "<>:\"|?*".contains(char))
        };
        let drive_ok = drive.len() == 1 && drive.as_bytes()[0].is_ascii_alphabetic();
        (drive_ok && text.len() <= PATH_BYTES_MAX && rest.split('\\').all(good))
            .then_some(WindowsPath(text))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What is done in a Windows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WindowsAction {
    /// Writes one file; directories above it that are missing are made.
    File {
        content: FileContent,
        destination: WindowsPath,
    },
    /// Runs the lines as one script, as SYSTEM, without a network. It has succeeded if it ends with one of the codes; none
    /// means 0.
    PowerShell {
        lines: Vec<String>,
        secrets: Vec<Secret>,
        exit_codes: Vec<i32>,
    },
    /// Restarts the guest by a command, and waits until it is up and the check, if there is one, ends with 0.
    Restart {
        command: String,
        check: String,
        timeout: Duration,
    },
    /// Installs updates, with a network, and restarts as often as it takes.
    Update {
        criteria: String,
        /// `include:` or `exclude:` and an expression of PowerShell about `$_`; the first that holds decides.
        filters: Vec<String>,
        /// At a time.
        limit: u32,
    },
}

impl WindowsAction {
    /// As templates name it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            WindowsAction::File { .. } => "File",
            WindowsAction::PowerShell { .. } => "PowerShell",
            WindowsAction::Restart { .. } => "WindowsRestart",
            WindowsAction::Update { .. } => "WindowsUpdate",
        }
    }

    pub(super) fn add_to(&self, material: &mut KeyMaterial) {
        let mut add = |name: &str, value: String| material.push((name.to_owned(), value));
        add("kind", format!("windows {}", self.kind()));
        match self {
            WindowsAction::File {
                content,
                destination,
            } => {
                add("destination", destination.as_str().to_owned());
                add("content", content.key());
            }
            WindowsAction::PowerShell {
                lines,
                secrets,
                exit_codes,
            } => {
                for line in lines {
                    add("line", line.clone());
                }
                for secret in secrets {
                    add("secret", format!("{} {:?}", secret.name, secret.place));
                }
                add("exit-codes", format!("{exit_codes:?}"));
            }
            WindowsAction::Restart { command, check, .. } => {
                add("command", command.clone());
                add("check", check.clone());
            }
            WindowsAction::Update {
                criteria,
                filters,
                limit,
            } => {
                add("criteria", criteria.clone());
                for filter in filters {
                    add("filter", filter.clone());
                }
                add("limit", limit.to_string());
            }
        }
    }

    /// Why it cannot be carried out as it is written.
    pub(super) fn reason_against(&self) -> Option<String> {
        let bad = |text: &str| text.len() > COMMAND_BYTES_MAX || text.contains(char::is_control);
        let line =
            || format!("a command or criterion is one line of at most {COMMAND_BYTES_MAX} bytes");
        match self {
            WindowsAction::File {
                content: FileContent::Bytes(bytes),
                ..
            } if bytes.len() > FILE_BYTES_MAX => {
                Some(format!("its file is larger than {FILE_BYTES_MAX} bytes"))
            }
            WindowsAction::File { .. } => None,
            WindowsAction::PowerShell { exit_codes, .. } if exit_codes.len() > EXIT_CODES_MAX => {
                Some(format!("it names more than {EXIT_CODES_MAX} exit codes"))
            }
            WindowsAction::PowerShell { lines, secrets, .. } => {
                reason_against_script(lines, secrets)
            }
            WindowsAction::Restart { command, check, .. } => {
                (command.is_empty() || bad(command) || bad(check)).then(line)
            }
            WindowsAction::Update { filters, .. } if filters.len() > FILTERS_MAX => {
                Some(format!("it names more than {FILTERS_MAX} filters"))
            }
            WindowsAction::Update {
                criteria, filters, ..
            } => {
                let known = |filter: &String| {
                    filter.starts_with("include:") || filter.starts_with("exclude:")
                };
                if let Some(filter) = filters.iter().find(|filter| !known(filter)) {
                    return Some(format!(
                        "the filter `{filter}` begins neither with `include:` nor with `exclude:`"
                    ));
                }
                (criteria.is_empty() || bad(criteria) || filters.iter().any(|filter| bad(filter)))
                    .then(line)
            }
        }
    }
}

/// Whose rights a script asks for, as Azure takes it, and what would be right. Everything runs as SYSTEM here.
pub(crate) fn reason_against_user(
    elevated: bool,
    as_system: bool,
) -> Option<(String, &'static str)> {
    (as_system && !elevated).then(|| {
        (
            "`runAsSystem` can only be true when `runElevated` is true".to_owned(),
            "set `runElevated`, or leave both out: everything runs as SYSTEM here",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_a_drive_and_nothing_that_windows_reads_otherwise() {
        let check = |text: &str, expected: Option<&str>| {
            let path = WindowsPath::parse(text);
            assert_eq!(path.as_ref().map(WindowsPath::as_str), expected, "{text}");
        };
        check(r"C:\app\motd.txt", Some(r"C:\app\motd.txt"));
        check("c:/app/motd.txt", Some(r"c:\app\motd.txt"));
        for bad in [
            "/etc/motd",
            r"C:\",
            r"C:app",
            r"C:\a\\b",
            r"C:\a\..\b",
            r"C:\a.",
            r"C:\a:stream",
            r"CC:\a",
            r"\\server\share\a",
            r"C:\a\b*",
        ] {
            check(bad, None);
        }
        check(&format!(r"C:\{}", "a".repeat(300)), None);
    }

    #[test]
    fn what_cannot_be_carried_out_is_refused() {
        let update = |filter: &str| WindowsAction::Update {
            criteria: "IsInstalled=0".to_owned(),
            filters: vec![filter.to_owned()],
            limit: 1,
        };
        let restart = |command: &str| WindowsAction::Restart {
            command: command.to_owned(),
            check: String::new(),
            timeout: Duration::from_secs(1),
        };
        let check = |action: WindowsAction, expected: &str| {
            let reason = action.reason_against().unwrap_or_default();
            assert!(
                reason.contains(expected) && reason.is_empty() == expected.is_empty(),
                "{reason}"
            );
        };
        check(update("exclude:$_.Title -like '*Preview*'"), "");
        check(update("$true"), "begins neither with");
        check(update("include:a\nb"), "is one line");
        check(restart("shutdown /r"), "");
        check(restart(""), "is one line");
        let script = |lines: Vec<String>| WindowsAction::PowerShell {
            lines,
            secrets: Vec::new(),
            exit_codes: vec![0, 3010],
        };
        check(script(vec!["dir".to_owned()]), "");
        check(script(Vec::new()), "no line to run");
        check(script(vec!["\0".to_owned()]), "a zero byte");
    }
}
