//! The customizers of Azure's builder that are for Windows, with its defaults.

use std::time::Duration;

use wire::template::Customizer as WireCustomizer;

use super::customize::{Contents, Wrong, references};
use crate::build::{WindowsAction, reason_against_user};

const RESTART: &str = "shutdown /r /f /t 0 /c \"packer restart\"";
const RESTART_TIMEOUT: Duration = Duration::from_secs(5 * 60);
const RESTART_TIMEOUT_MAX: Duration = Duration::from_secs(16 * 60 * 60);
/// What Azure calls recommended updates.
const CRITERIA: &str = "BrowseOnly=0 and IsInstalled=0";
const EVERY_UPDATE: &str = "include:$true";
const UPDATE_LIMIT: u32 = 1000;

/// What a customizer for Windows does.
pub(super) fn action(
    wire: &WireCustomizer,
    contents: &mut Contents<'_>,
) -> Result<WindowsAction, Wrong> {
    match wire {
        WireCustomizer::PowerShell {
            inline,
            script_uri,
            sha256_checksum,
            run_elevated,
            run_as_system,
            valid_exit_codes,
            secrets,
            ..
        } => {
            if let Some(wrong) = reason_against_user(*run_elevated, *run_as_system) {
                return Err(wrong);
            }
            Ok(WindowsAction::PowerShell {
                lines: contents.script(inline, script_uri.as_deref(), sha256_checksum)?,
                secrets: references(secrets)?,
                exit_codes: valid_exit_codes.clone(),
            })
        }
        WireCustomizer::WindowsRestart {
            restart_command,
            restart_check_command,
            restart_timeout,
            ..
        } => {
            let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
            Ok(WindowsAction::Restart {
                command: given(restart_command).unwrap_or_else(|| RESTART.to_owned()),
                check: given(restart_check_command).unwrap_or_default(),
                timeout: match given(restart_timeout) {
                    None => RESTART_TIMEOUT,
                    Some(text) => timeout(&text)?,
                },
            })
        }
        WireCustomizer::WindowsUpdate {
            search_criteria,
            filters,
            update_limit,
            ..
        } => {
            let criteria = search_criteria.as_deref().filter(|text| !text.is_empty());
            Ok(WindowsAction::Update {
                criteria: criteria.unwrap_or(CRITERIA).to_owned(),
                filters: match &filters[..] {
                    [] => vec![EVERY_UPDATE.to_owned()],
                    filters => filters.to_vec(),
                },
                // Azure's schema says that 0 is the default, and its documentation that 1000 is.
                limit: match update_limit.unwrap_or_default() {
                    0 => UPDATE_LIMIT,
                    limit => limit.min(UPDATE_LIMIT),
                },
            })
        }
        other => Err((
            format!("{} is not for Windows", other.kind()),
            "correct the customizer",
        )),
    }
}

/// A number and a unit, as in `90s`, `5m` or `2h`.
fn timeout(text: &str) -> Result<Duration, Wrong> {
    let wrong = || {
        let message = format!("`{text}` is no time from 1s to 16h");
        (message, "write it like 5m or 2h")
    };
    let unit = text.find(|char: char| !char.is_ascii_digit());
    let (number, unit) = text.split_at(unit.ok_or_else(wrong)?);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "s" => number,
        "m" => number.saturating_mul(60),
        "h" => number.saturating_mul(60 * 60),
        _ => return Err(wrong()),
    };
    let time = Duration::from_secs(seconds);
    let good = (Duration::from_secs(1)..=RESTART_TIMEOUT_MAX).contains(&time);
    good.then_some(time).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// What comes of a customizer, or what is wrong with it.
    fn read(wire: Value) -> Result<WindowsAction, String> {
        let wire: WireCustomizer = serde_json::from_value(wire).unwrap();
        let mut contents = Contents {
            fetched: None,
            remote: Vec::new(),
        };
        action(&wire, &mut contents).map_err(|(message, _)| message)
    }

    #[test]
    fn defaults_are_those_of_azure() {
        assert_eq!(
            read(json!({ "type": "WindowsRestart" })).unwrap(),
            WindowsAction::Restart {
                command: "shutdown /r /f /t 0 /c \"packer restart\"".to_owned(),
                check: String::new(),
                timeout: Duration::from_secs(300),
            }
        );
        assert_eq!(
            read(json!({ "type": "WindowsUpdate", "updateLimit": 0 })).unwrap(),
            WindowsAction::Update {
                criteria: "BrowseOnly=0 and IsInstalled=0".to_owned(),
                filters: vec!["include:$true".to_owned()],
                limit: 1000,
            }
        );
        assert_eq!(
            read(json!({ "type": "PowerShell", "inline": ["dir"] })).unwrap(),
            WindowsAction::PowerShell {
                lines: vec!["dir".to_owned()],
                secrets: Vec::new(),
                exit_codes: Vec::new(),
            }
        );
    }

    #[test]
    fn times_are_a_number_and_a_unit() {
        let check = |text: &str, seconds: Option<u64>| {
            let read = timeout(text).ok().map(|time| time.as_secs());
            assert_eq!(read, seconds, "{text}");
        };
        check("90s", Some(90));
        check("5m", Some(300));
        check("2h", Some(7200));
        check("17h", None);
        check("0m", None);
        check("5", None);
        check("m", None);
        check("5 m", None);
        check("99999999999999999999h", None);
        check("1h30m", None);
    }

    #[test]
    fn what_azure_refuses_is_refused() {
        let system = json!({ "type": "PowerShell", "inline": ["dir"], "runAsSystem": true });
        assert!(read(system).unwrap_err().contains("`runElevated` is true"));
        let both = json!({ "type": "PowerShell" });
        assert!(read(both).unwrap_err().contains("either `inline` or"));
    }
}
