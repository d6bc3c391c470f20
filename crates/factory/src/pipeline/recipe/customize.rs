//! A template's customizers as the build stage takes them, with the contents that they name by URI.

use std::collections::BTreeSet;
use std::path::PathBuf;

use base64::Engine;
use sha2::{Digest, Sha256};
use wire::template::{Customizer as WireCustomizer, SecretReference};

use super::{TemplateProblem, windows};
use crate::build::{
    Action, Customizer, FileContent, ImagePath, PackageName, Secret, WindowsAction, WindowsPath,
};
use crate::fetch::{Fetched, Remote, is_sha256};

const CUSTOMIZERS_MAX: usize = 100;
const DEFAULT_FILE_MODE: u32 = 0o644;
const USER_DATA_BYTES_MAX: usize = 1 << 20;
/// What stands for a script that was not fetched yet.
const TO_BE_FETCHED: &str = ": to be fetched";

/// What is wrong, and what would be right.
pub(super) type Wrong = (String, &'static str);

/// Reads contents; before a run has fetched them, whatever is remote is only listed.
pub(super) struct Contents<'a> {
    pub fetched: Option<&'a Fetched>,
    pub remote: Vec<Remote>,
}

impl Contents<'_> {
    /// The content of a URI, checked against a hash where one is given.
    fn read(&mut self, uri: &str, sha256: &str) -> Result<FileContent, Wrong> {
        if !sha256.is_empty() && !is_sha256(sha256) {
            let message = format!("`{sha256}` is not a SHA-256");
            return Err((message, "write 64 hexadecimal digits"));
        }
        if uri.starts_with("data:") {
            return data(uri, sha256).map(FileContent::Bytes);
        }
        if !uri.starts_with("https://") && !uri.starts_with("http://") {
            return Err((
                "the content is neither a base64 `data:` address nor one of http or https"
                    .to_owned(),
                "send the content itself as data:;base64,..., or name a place to fetch it from",
            ));
        }
        let remote = Remote {
            uri: uri.to_owned(),
            sha256: sha256.to_ascii_lowercase(),
        };
        let kept = match self.fetched {
            None => FileContent::Kept {
                path: PathBuf::new(),
                sha256: remote.sha256.clone(),
            },
            Some(fetched) => fetched.content(&remote).ok_or_else(|| {
                let message = format!("the content of {} was not fetched", remote.shown());
                (message, "run the template again")
            })?,
        };
        self.remote.push(remote);
        Ok(kept)
    }

    /// The lines of a script, wherever they stand.
    pub(super) fn script(
        &mut self,
        inline: &[String],
        uri: Option<&str>,
        sha256: &str,
    ) -> Result<Vec<String>, Wrong> {
        let uri = match (inline, uri.filter(|uri| !uri.is_empty())) {
            ([_, ..], None) => return Ok(inline.to_vec()),
            ([], Some(uri)) => uri,
            _ => {
                let message = "a script has either `inline` or `scriptUri`";
                return Err((message.to_owned(), "give one of them"));
            }
        };
        let bytes = match self.read(uri, sha256)? {
            FileContent::Bytes(bytes) => bytes,
            FileContent::Kept { .. } if self.fetched.is_none() => {
                return Ok(vec![TO_BE_FETCHED.to_owned()]);
            }
            FileContent::Kept { path, .. } => std::fs::read(&path)
                .map_err(|error| (error.to_string(), "run the template again"))?,
        };
        let text = String::from_utf8(bytes).map_err(|_| {
            let message = "the script is not UTF-8 text".to_owned();
            (message, "save it as UTF-8")
        })?;
        Ok(text.lines().map(str::to_owned).collect())
    }
}

pub(super) fn customizers(
    wire: &[WireCustomizer],
    contents: &mut Contents<'_>,
    keep: &mut impl FnMut(TemplateProblem),
) -> Vec<Customizer> {
    if wire.len() > CUSTOMIZERS_MAX {
        let message = format!("there are more than {CUSTOMIZERS_MAX} customizers");
        keep(TemplateProblem::new(
            "customize",
            message,
            "put several lines into one",
        ));
        return Vec::new();
    }
    let (mut made, mut names) = (Vec::new(), BTreeSet::new());
    for (index, customizer) in wire.iter().enumerate() {
        // Azure's names need not differ; those of steps must.
        let mut name = match customizer.name() {
            "" => format!("step-{}", index + 1),
            name => name.to_owned(),
        };
        if !names.insert(name.clone()) {
            name = format!("{name} ({})", index + 1);
            names.insert(name.clone());
        }
        let action = action(customizer, contents);
        let checked = action.and_then(|action| {
            Customizer::new(name, action).map_err(|error| (error.reason, "correct the customizer"))
        });
        match checked {
            Ok(customizer) => made.push(customizer),
            Err((message, hint)) => {
                keep(TemplateProblem::new(
                    format!("customize[{index}]"),
                    message,
                    hint,
                ));
            }
        }
    }
    made
}

fn action(wire: &WireCustomizer, contents: &mut Contents<'_>) -> Result<Action, Wrong> {
    Ok(match wire {
        WireCustomizer::Packages { packages, .. } => Action::Packages {
            packages: packages
                .iter()
                .map(|name| package(name))
                .collect::<Result<_, _>>()?,
        },
        WireCustomizer::File {
            source_uri,
            destination,
            sha256_checksum,
            mode,
            ..
        } => {
            let content = contents.read(source_uri, sha256_checksum)?;
            let mode = mode.as_deref().unwrap_or_default();
            file(content, destination, mode)?
        }
        WireCustomizer::Shell {
            inline,
            script_uri,
            sha256_checksum,
            secrets,
            ..
        } => Action::Shell {
            lines: contents.script(inline, script_uri.as_deref(), sha256_checksum)?,
            secrets: references(secrets)?,
        },
        WireCustomizer::CaCertificate { certificate, .. } => Action::CaCertificate {
            pem: certificate.clone(),
        },
        WireCustomizer::PowerShell { .. }
        | WireCustomizer::WindowsRestart { .. }
        | WireCustomizer::WindowsUpdate { .. } => Action::Windows(windows::action(wire, contents)?),
        WireCustomizer::Ansible {
            playbook,
            variables,
            ..
        } => Action::Ansible {
            playbook: playbook.clone(),
            variables: serde_json::to_string(variables).unwrap_or_default(),
        },
        WireCustomizer::CloudInit { user_data, .. } => Action::CloudInit {
            user_data: cloud_config(user_data)?,
        },
        WireCustomizer::KernelCommandLine { add, remove, .. } => Action::KernelCommandLine {
            add: words(add)?,
            remove: words(remove)?,
        },
        WireCustomizer::PartitionGrowth { enabled, .. } => {
            Action::PartitionGrowth { enabled: *enabled }
        }
    })
}

/// A file of a Linux or of a Windows, as its destination says.
fn file(content: FileContent, destination: &str, mode: &str) -> Result<Action, Wrong> {
    if let Some(path) = WindowsPath::parse(destination) {
        return match mode {
            "" => Ok(Action::Windows(WindowsAction::File {
                content,
                destination: path,
            })),
            _ => Err((
                "a file of Windows has no `mode`".to_owned(),
                "leave it out, and use icacls in a PowerShell customizer",
            )),
        };
    }
    Ok(Action::File {
        content,
        destination: ImagePath::parse(destination).ok_or_else(|| {
            let message = format!("`{destination}` is not an absolute path of a file");
            (
                message,
                "write it like /etc/motd, or like C:\\app\\motd.txt",
            )
        })?,
        mode: file_mode(mode)?,
        uid: 0,
        gid: 0,
    })
}

pub(super) fn references(secrets: &[SecretReference]) -> Result<Vec<Secret>, Wrong> {
    let secrets = secrets.iter();
    secrets
        .map(|secret| Secret::parse(secret).map_err(|why| (why, "correct the secret")))
        .collect()
}

fn cloud_config(text: &str) -> Result<String, Wrong> {
    if !text.starts_with("#cloud-config\n") || text.len() > USER_DATA_BYTES_MAX {
        let message = "the user data is no cloud-config document of at most 1 MiB";
        return Err((message.to_owned(), "begin it with the line #cloud-config"));
    }
    Ok(text.to_owned())
}

fn words(words: &[String]) -> Result<Vec<String>, Wrong> {
    let good = |word: &&String| {
        !word.is_empty()
            && word.len() <= 500
            && word
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && !b"\"'\\$`".contains(&byte))
    };
    match words.iter().find(|word| !good(word)) {
        None => Ok(words.to_vec()),
        Some(word) => {
            let message = format!("`{word}` is not a word of a kernel's command line");
            Err((message, "write it like quiet or console=ttyS0"))
        }
    }
}

fn package(name: &str) -> Result<PackageName, Wrong> {
    let message = || format!("`{name}` is not the name of a Debian package");
    PackageName::parse(name).ok_or_else(|| (message(), "write `name` or `name=version`"))
}

fn file_mode(text: &str) -> Result<u32, Wrong> {
    if text.is_empty() {
        return Ok(DEFAULT_FILE_MODE);
    }
    let wrong = |_| (format!("`{text}` is not a file mode"), "write it like 0644");
    u32::from_str_radix(text, 8).map_err(wrong)
}

/// The bytes of a `data:` address.
fn data(uri: &str, sha256: &str) -> Result<Vec<u8>, Wrong> {
    let hint = "send the content itself as data:;base64,...";
    let data = uri
        .strip_prefix("data:")
        .and_then(|rest| rest.split_once(','));
    let Some((kind, data)) =
        data.filter(|(kind, _)| kind.ends_with(";base64") || *kind == "base64")
    else {
        let message = "the content is not a base64 `data:` address".to_owned();
        return Err((message, hint));
    };
    let engine = base64::engine::general_purpose::STANDARD;
    let bytes = engine
        .decode(data)
        .map_err(|error| (format!("its {kind} content: {error}"), hint))?;
    let hash = crate::source::hex(&Sha256::digest(&bytes));
    if !sha256.is_empty() && !sha256.eq_ignore_ascii_case(&hash) {
        let message = format!("the content has SHA-256 {hash}, not {sha256}");
        return Err((message, "correct sha256Checksum, or the file"));
    }
    Ok(bytes)
}
