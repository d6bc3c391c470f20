//! What each kind of check runs in the machine, and what its answer means. Pure. What a machine
//! answers is not trusted: it is only compared and shown.

use machine::{ExecOutput, System};
use wire::template::{ScanLimits, Validator};

use super::facts;
use crate::build::reason_against_user;
use crate::tattoo::{TATTOO_PATH, Tattoo};

const SCRIPT_BYTES_MAX: usize = 64 << 10;
const NAME_BYTES_MAX: usize = 128;
const RULES_MAX: usize = 1000;
const RULE_BYTES_MAX: usize = 300;

/// Why a check cannot be carried out as it is written, and what would be right.
pub fn reason_against(validator: &Validator) -> Option<(String, &'static str)> {
    let word = |text: &str, more: &[u8]| {
        (1..=NAME_BYTES_MAX).contains(&text.len())
            && !text.starts_with('-')
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || more.contains(&byte))
    };
    match validator {
        Validator::File { .. } => Some((
            "files of checks cannot be carried out yet".to_owned(),
            "write the file in a Shell check",
        )),
        Validator::Shell { inline, .. }
        | Validator::PowerShell { inline, .. }
        | Validator::Pester { inline, .. }
        | Validator::Testinfra { inline, .. }
            if inline.is_empty() =>
        {
            Some((
                "the check has no line to run".to_owned(),
                "give it lines in `inline`",
            ))
        }
        Validator::Shell { inline, .. }
        | Validator::PowerShell { inline, .. }
        | Validator::Pester { inline, .. }
        | Validator::Testinfra { inline, .. } => {
            let bytes: usize = inline.iter().map(String::len).sum();
            let nul = inline.iter().any(|line| line.contains('\0'));
            let long = || {
                (
                    "its script is too long, or holds a zero byte".to_owned(),
                    "shorten it",
                )
            };
            (bytes > SCRIPT_BYTES_MAX || nul)
                .then(long)
                .or_else(|| of_user(validator))
        }
        Validator::Service { service, .. } => (!word(service, b"@._:-")).then(|| {
            (
                format!("`{service}` is not the name of a service"),
                "write it like `ssh`",
            )
        }),
        Validator::SshdOption { option, .. } => (!word(option, b"")).then(|| {
            (
                format!("`{option}` is not an option of sshd"),
                "write it like `permitrootlogin`",
            )
        }),
        Validator::Tattoo { .. } => None,
        Validator::Facts { facts, .. } => facts::parse(facts).err(),
        Validator::OpenScap {
            content, profile, ..
        } if !word(content, b"._-") || !(profile.is_empty() || word(profile, b"._:-")) => Some((
            "the content or profile of a scan is not one".to_owned(),
            "name a file like `ssg-debian12-ds.xml`, and a profile by its id",
        )),
        Validator::OpenScap { limits, .. } | Validator::Lynis { limits, .. } => {
            reason_against_limits(limits)
        }
    }
}

fn of_user(validator: &Validator) -> Option<(String, &'static str)> {
    match validator {
        Validator::PowerShell {
            run_elevated,
            run_as_system,
            ..
        } => reason_against_user(*run_elevated, *run_as_system),
        _ => None,
    }
}

fn reason_against_limits(limits: &ScanLimits) -> Option<(String, &'static str)> {
    let scored = limits
        .min_score
        .is_none_or(|score| (0.0..=100.0).contains(&score));
    let few = limits.rules.len() <= RULES_MAX;
    let short = limits.rules.keys().all(|id| id.len() <= RULE_BYTES_MAX);
    (!(scored && few && short)).then(|| {
        (
            "the limits of a scan are none".to_owned(),
            "give `minScore` from 0 to 100, and at most 1000 `rules` by their ids",
        )
    })
}

/// Whether a check can be made in such a machine.
pub fn is_for(validator: &Validator, system: System) -> bool {
    match system {
        System::Windows => matches!(
            validator,
            Validator::PowerShell { .. } | Validator::Pester { .. } | Validator::Tattoo { .. }
        ),
        System::Linux => !matches!(
            validator,
            Validator::PowerShell { .. } | Validator::Pester { .. }
        ),
    }
}

/// The line for the machine's shell.
pub(super) fn command(validator: &Validator) -> String {
    match validator {
        Validator::Shell { inline, .. } => {
            // Traced, so that the output names the line that failed.
            format!("sudo /bin/sh -eux -c {}", quoted(&inline.join("\n")))
        }
        Validator::Service { service, .. } => {
            format!(
                "systemctl is-active -- {0} || {{ systemctl status --no-pager -n 20 -- {0}; false; }}",
                quoted(service)
            )
        }
        // Refused before a machine is started, or asked in another way.
        Validator::PowerShell { .. }
        | Validator::Testinfra { .. }
        | Validator::Pester { .. }
        | Validator::File { .. }
        | Validator::Facts { .. }
        | Validator::OpenScap { .. }
        | Validator::Lynis { .. } => "false".to_owned(),
        Validator::SshdOption { .. } => "sudo /usr/sbin/sshd -T".to_owned(),
        Validator::Tattoo { .. } => format!("cat {TATTOO_PATH}"),
    }
}

/// One word for a shell, whatever is in it.
pub(crate) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// Whether the answer is the one that was asked for, and what to show of it.
pub(super) fn judge(validator: &Validator, output: &ExecOutput, tattoo: &Tattoo) -> (bool, String) {
    if !output.success() {
        let said = format!(
            "{}{}\nexit status {}",
            output.stdout, output.stderr, output.status
        );
        return (false, said);
    }
    match validator {
        Validator::Shell { .. }
        | Validator::Service { .. }
        | Validator::File { .. }
        | Validator::Facts { .. }
        | Validator::OpenScap { .. }
        | Validator::Lynis { .. }
        | Validator::PowerShell { .. }
        | Validator::Pester { .. }
        | Validator::Testinfra { .. } => (true, format!("{}{}", output.stdout, output.stderr)),
        Validator::SshdOption { option, value, .. } => sshd_option(&output.stdout, option, value),
        Validator::Tattoo { .. } => compare(&output.stdout, tattoo),
    }
}

fn sshd_option(effective: &str, option: &str, value: &str) -> (bool, String) {
    let option = option.to_ascii_lowercase();
    let found: Vec<&str> = effective
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(name, _)| *name == option)
        .map(|(_, value)| value.trim())
        .collect();
    if found
        .iter()
        .any(|have| have.eq_ignore_ascii_case(value.trim()))
    {
        return (true, format!("{option} is {value}"));
    }
    match found.as_slice() {
        [] => (false, format!("sshd knows no option {option}")),
        have => (
            false,
            format!("{option} is {}, not {value}", have.join(", ")),
        ),
    }
}

/// The record in the machine must be the whole record, and nothing else.
fn compare(found: &str, tattoo: &Tattoo) -> (bool, String) {
    match tattoo.render() {
        Ok(expected) => compare_texts(TATTOO_PATH, found, &expected),
        Err(error) => (false, error.to_string()),
    }
}

/// The text at a place, by lines.
pub(super) fn compare_texts(place: &str, found: &str, expected: &str) -> (bool, String) {
    if found == expected {
        return (true, expected.to_owned());
    }
    let lacks = expected
        .lines()
        .filter(|line| !found.lines().any(|have| have == *line));
    let extra = found
        .lines()
        .filter(|line| !expected.lines().any(|want| want == *line));
    let lines: Vec<String> = lacks
        .map(|line| format!("- {line}"))
        .chain(extra.map(|line| format!("+ {line}")))
        .collect();
    (
        false,
        format!("{place} differs from the record:\n{}", lines.join("\n")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sshd_options_are_read_as_sshd_prints_them() {
        let check = |option: &str, value: &str, passed: bool, text: &str| {
            let effective = "permitrootlogin no\nacceptenv LANG\nacceptenv LC_*\n";
            assert_eq!(
                sshd_option(effective, option, value),
                (passed, text.to_owned())
            );
        };
        check("permitrootlogin", "no", true, "permitrootlogin is no");
        check("PermitRootLogin", "No", true, "permitrootlogin is No");
        check(
            "permitrootlogin",
            "yes",
            false,
            "permitrootlogin is no, not yes",
        );
        check("acceptenv", "LC_*", true, "acceptenv is LC_*");
        check("permit", "no", false, "sshd knows no option permit");
    }

    #[test]
    fn names_cannot_become_commands() {
        let service = |name: &str| Validator::Service {
            name: String::new(),
            service: name.to_owned(),
        };
        let check = |name: &str, good: bool| {
            assert_eq!(reason_against(&service(name)).is_none(), good, "{name}");
        };
        check("ssh", true);
        check("getty@tty1.service", true);
        check("ssh; reboot", false);
        check("-H", false);
        check("", false);
        assert_eq!(quoted("it's"), "'it'\\''s'");
    }

    #[test]
    fn a_changed_tattoo_shows_what_differs() {
        let tattoo = Tattoo {
            image_version: "1.0.0".to_owned(),
            ..Tattoo::default()
        };
        let forged = tattoo
            .render()
            .unwrap()
            .replace("image.version=1.0.0", "image.version=2.0.0");
        let (passed, text) = compare(&forged, &tattoo);
        assert!(!passed);
        assert!(
            text.ends_with("- image.version=1.0.0\n+ image.version=2.0.0"),
            "{text}"
        );
    }
}
