//! What a recipe can ask for, checked before anything runs. It knows nothing of how it is done.

use std::fmt;
use std::path::PathBuf;

use wire::template::SecretReference;

use super::windows_action::WindowsAction;

/// Raised whenever the executor would make something else of the same customizer.
const EXECUTOR_FORMAT: u32 = 1;

const NAME_BYTES_MAX: usize = 128;
const PACKAGES_MAX: usize = 2000;
const PACKAGE_BYTES_MAX: usize = 200;
pub(super) const FILE_BYTES_MAX: usize = 64 << 20;
const SECRETS_MAX: usize = 50;
const PLAYBOOK_BYTES_MAX: usize = 1 << 20;
const SCRIPT_BYTES_MAX: usize = 1 << 20;
const CERTIFICATE_BYTES_MAX: usize = 1 << 20;
const PATH_BYTES_MAX: usize = 4000;

/// Named inputs of a step, in order. Together with the parent's digest they decide its result.
pub type KeyMaterial = Vec<(String, String)>;

/// A customizer that cannot be carried out as it is written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("customizer `{name}`: {reason}")]
pub struct InvalidCustomizer {
    pub name: String,
    pub reason: String,
}

/// A Debian package as `apt-get install` takes it: a name, perhaps with `:arch` and `=version`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PackageName(String);

impl PackageName {
    /// `None` for anything apt could take for an option, a pattern, a file or a removal.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let (name, version) = text
            .split_once('=')
            .map_or((text, None), |(name, version)| (name, Some(version)));
        let name_ok = name.len() >= 2
            && name.len() <= PACKAGE_BYTES_MAX
            && plain(name.as_bytes()[0])
            && name.bytes().all(|byte| plain(byte) || b"+-.:".contains(&byte))
            // A trailing `-` means removal to apt.
            && !name.ends_with('-');
        let version_ok = version.is_none_or(|version| {
            (1..=PACKAGE_BYTES_MAX).contains(&version.len())
                && version
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"+-.:~".contains(&byte))
        });
        (name_ok && version_ok).then(|| PackageName(text.to_owned()))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// An absolute path in the image, without `.`, `..` or empty components; never the root itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ImagePath(String);

impl ImagePath {
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let relative = text.strip_prefix('/')?;
        let good = |part: &str| {
            !matches!(part, "" | "." | "..") && part.len() <= 255 && !part.contains('\0')
        };
        (text.len() <= PATH_BYTES_MAX && relative.split('/').all(good))
            .then(|| ImagePath(relative.to_owned()))
    }

    /// Without the leading slash.
    #[must_use]
    pub fn relative(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ImagePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", self.0)
    }
}

/// The bytes of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileContent {
    Bytes(Vec<u8>),
    /// A file of the host that is named by what is in it, and only read.
    Kept {
        path: PathBuf,
        sha256: String,
    },
}

impl FileContent {
    pub(super) fn key(&self) -> String {
        match self {
            FileContent::Bytes(bytes) => blake3::hash(bytes).to_hex().to_string(),
            FileContent::Kept { sha256, .. } => format!("sha256:{sha256}"),
        }
    }
}

/// Where a secret is kept. Its value is looked up when it is needed, and is in nothing that is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretPlace {
    Environment(String),
    File(String),
    Vault { path: String, field: String },
}

/// A secret that a script finds in its environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secret {
    /// The variable.
    pub name: String,
    pub place: SecretPlace,
}

impl Secret {
    pub fn parse(wire: &SecretReference) -> Result<Secret, String> {
        let word = |text: &str, more: &[u8]| {
            (1..=NAME_BYTES_MAX).contains(&text.len())
                && !text.contains("..")
                && text
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || more.contains(&byte))
        };
        let variable = |text: &str| word(text, b"_") && !text.as_bytes()[0].is_ascii_digit();
        if !variable(&wire.name) {
            return Err(format!("`{}` is not the name of a variable", wire.name));
        }
        let place = match (&wire.environment, &wire.file, &wire.vault) {
            (Some(name), None, None) if variable(name) => SecretPlace::Environment(name.clone()),
            (None, Some(name), None) if word(name, b"_-.") => SecretPlace::File(name.clone()),
            (None, None, Some(path)) if word(path, b"_-./") => SecretPlace::Vault {
                path: path.trim_matches('/').to_owned(),
                field: wire.field.clone().unwrap_or_else(|| "value".to_owned()),
            },
            _ => {
                return Err(format!(
                    "the secret `{}` needs exactly one of `environment`, `file` and `vault`, and a plain name in it",
                    wire.name
                ));
            }
        };
        Ok(Secret {
            name: wire.name.clone(),
            place,
        })
    }
}

/// What is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Installs packages, without those that are only recommended, from the pinned archive state.
    Packages { packages: Vec<PackageName> },
    /// Writes one file; directories above it that are missing become root's, 0755.
    File {
        content: FileContent,
        destination: ImagePath,
        mode: u32,
        uid: u32,
        gid: u32,
    },
    /// Runs the lines as one script, as root, without a network: by what its `#!` line names, else by `sh -eu`.
    Shell {
        lines: Vec<String>,
        secrets: Vec<Secret>,
    },
    /// Makes the image trust a certificate authority.
    CaCertificate { pem: String },
    /// Applies a playbook to the image by the `ansible-playbook` in it. `variables` is JSON.
    Ansible { playbook: String, variables: String },
    /// What every machine of the image does at its first start.
    CloudInit { user_data: String },
    /// Changes the kernel's command line in the boot loader's configuration.
    KernelCommandLine {
        add: Vec<String>,
        remove: Vec<String>,
    },
    /// Whether machines grow the root partition to their disk.
    PartitionGrowth { enabled: bool },
    /// What only a Windows guest can do.
    Windows(WindowsAction),
}

impl Action {
    /// As templates name it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Action::Packages { .. } => "Bullion.Packages",
            Action::File { .. } => "File",
            Action::Shell { .. } => "Shell",
            Action::CaCertificate { .. } => "Bullion.CaCertificate",
            Action::Ansible { .. } => "Bullion.Ansible",
            Action::CloudInit { .. } => "Bullion.CloudInit",
            Action::KernelCommandLine { .. } => "Bullion.KernelCommandLine",
            Action::PartitionGrowth { .. } => "Bullion.PartitionGrowth",
            Action::Windows(action) => action.kind(),
        }
    }
}

/// One customizer of a recipe. Its name is for people, except that a certificate is stored under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Customizer {
    name: String,
    action: Action,
}

impl Customizer {
    /// Refuses what cannot be carried out.
    pub fn new(name: impl Into<String>, action: Action) -> Result<Self, InvalidCustomizer> {
        let name = name.into();
        match reason_against(&name, &action) {
            Some(reason) => Err(InvalidCustomizer { name, reason }),
            None => Ok(Customizer { name, action }),
        }
    }

    /// Stands for a scan where the executor names what it works on.
    pub(super) fn of_scan(name: &str) -> Self {
        Customizer {
            name: name.to_owned(),
            action: Action::Shell {
                lines: Vec::new(),
                secrets: Vec::new(),
            },
        }
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    #[must_use]
    pub fn action(&self) -> &Action {
        &self.action
    }

    #[must_use]
    pub fn needs_archive(&self) -> bool {
        matches!(self.action, Action::Packages { .. })
    }

    /// Everything of this customizer that decides the result, the executor and the writer included.
    /// The parent's digest, the epoch and, for packages, the pinned archive state come on top.
    #[must_use]
    pub fn key_material(&self) -> KeyMaterial {
        let mut material = vec![
            (
                "executor".to_owned(),
                format!("bullion-tree {EXECUTOR_FORMAT}"),
            ),
            ("writer".to_owned(), ext4::writer_version()),
        ];
        let mut add = |name: &str, value: String| material.push((name.to_owned(), value));
        match &self.action {
            Action::Packages { packages } => {
                add("kind", "packages".to_owned());
                for package in packages {
                    add("package", package.as_str().to_owned());
                }
            }
            Action::File {
                content,
                destination,
                mode,
                uid,
                gid,
            } => {
                add("kind", "file".to_owned());
                add("destination", destination.to_string());
                add("mode", format!("{mode:04o}"));
                add("owner", format!("{uid}:{gid}"));
                add("content", content.key());
            }
            Action::Shell { lines, secrets } => {
                add("kind", "shell".to_owned());
                for line in lines {
                    add("line", line.clone());
                }
                // Which secrets, never their values.
                for secret in secrets {
                    add("secret", format!("{} {:?}", secret.name, secret.place));
                }
            }
            Action::Ansible {
                playbook,
                variables,
            } => {
                add("kind", "ansible".to_owned());
                add("playbook", playbook.clone());
                add("variables", variables.clone());
            }
            Action::CloudInit { user_data } => {
                add("kind", "cloud-init".to_owned());
                add("file", self.cloud_file());
                add("user-data", user_data.clone());
            }
            Action::KernelCommandLine { add: new, remove } => {
                add("kind", "kernel-command-line".to_owned());
                add("add", new.join(" "));
                add("remove", remove.join(" "));
            }
            Action::PartitionGrowth { enabled } => {
                add("kind", "partition-growth".to_owned());
                add("enabled", enabled.to_string());
            }
            Action::Windows(action) => action.add_to(&mut material),
            Action::CaCertificate { pem } => {
                add("kind", "ca-certificate".to_owned());
                add("file", self.certificate_file());
                add("content", blake3::hash(pem.as_bytes()).to_hex().to_string());
            }
        }
        material
    }

    /// The secrets that it needs.
    #[must_use]
    pub fn secrets(&self) -> &[Secret] {
        match &self.action {
            Action::Shell { secrets, .. }
            | Action::Windows(WindowsAction::PowerShell { secrets, .. }) => secrets,
            _ => &[],
        }
    }

    /// The file of cloud-init's configuration that holds the user data.
    pub(super) fn cloud_file(&self) -> String {
        format!("/etc/cloud/cloud.cfg.d/50_{}.cfg", self.safe_name())
    }

    /// The name a certificate is stored under.
    pub(super) fn certificate_file(&self) -> String {
        format!("{}.crt", self.safe_name())
    }

    /// The customizer's name, reduced to what is safe in the name of a file.
    fn safe_name(&self) -> String {
        let safe = |character: char| character.is_ascii_alphanumeric() || "-_".contains(character);
        self.name
            .chars()
            .map(|character| if safe(character) { character } else { '-' })
            .collect()
    }
}

fn reason_against(name: &str, action: &Action) -> Option<String> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains(char::is_control) {
        return Some(format!(
            "its name must have 1 to {NAME_BYTES_MAX} printable characters"
        ));
    }
    match action {
        Action::Packages { packages } if packages.is_empty() => {
            Some("it names no package".to_owned())
        }
        Action::Packages { packages } if packages.len() > PACKAGES_MAX => {
            Some(format!("it names more than {PACKAGES_MAX} packages"))
        }
        Action::File {
            content: FileContent::Bytes(bytes),
            ..
        } if bytes.len() > FILE_BYTES_MAX => {
            Some(format!("its file is larger than {FILE_BYTES_MAX} bytes"))
        }
        Action::Ansible { playbook, .. }
            if playbook.trim().is_empty() || playbook.len() > PLAYBOOK_BYTES_MAX =>
        {
            Some(format!("its playbook has 1 to {PLAYBOOK_BYTES_MAX} bytes"))
        }
        Action::KernelCommandLine { add, remove } if add.is_empty() && remove.is_empty() => {
            Some("it changes nothing of the command line".to_owned())
        }
        Action::File { mode, .. } if *mode > 0o7777 => {
            Some(format!("its mode {mode:o} is not a file mode"))
        }
        Action::Shell { lines, secrets } => reason_against_script(lines, secrets),
        Action::Windows(action) => action.reason_against(),
        Action::CaCertificate { pem } => reason_against_certificate(pem),
        _ => None,
    }
}

pub(super) fn reason_against_script(lines: &[String], secrets: &[Secret]) -> Option<String> {
    if lines.is_empty() {
        return Some("it has no line to run".to_owned());
    }
    if secrets.len() > SECRETS_MAX {
        return Some(format!("it names more than {SECRETS_MAX} secrets"));
    }
    if lines.iter().map(String::len).sum::<usize>() > SCRIPT_BYTES_MAX {
        return Some(format!(
            "its script is larger than {SCRIPT_BYTES_MAX} bytes"
        ));
    }
    let holds_zero = lines.iter().any(|line| line.contains('\0'));
    holds_zero.then(|| "its script holds a zero byte".to_owned())
}

fn reason_against_certificate(pem: &str) -> Option<String> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    if pem.len() > CERTIFICATE_BYTES_MAX {
        return Some(format!(
            "its certificate is larger than {CERTIFICATE_BYTES_MAX} bytes"
        ));
    }
    if pem.contains("PRIVATE KEY") {
        return Some(
            "its certificate holds a private key, which must not get into an image".to_owned(),
        );
    }
    // update-ca-certificates links one certificate per file; of a bundle only the first would count.
    match (pem.matches(BEGIN).count(), pem.matches(END).count()) {
        (1, 1) => None,
        (0, _) | (_, 0) => {
            Some("its certificate is not in PEM form (-----BEGIN CERTIFICATE-----)".to_owned())
        }
        _ => Some("it holds more than one certificate; make one customizer for each".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_names() {
        let check =
            |text: &str, good: bool| assert_eq!(PackageName::parse(text).is_some(), good, "{text}");
        check("chrony", true);
        check("libc6:amd64", true);
        check("nginx=1.22.1-9+deb12u3", true);
        check("g++", true);
        check("0ad", true);
        check("chrony-", false);
        check("-y", false);
        check("./local.deb", false);
        check("a", false);
        check("Chrony", false);
        check("chrony nginx", false);
        check("chrony=", false);
        check("lib*", false);
        check("chrony/stable", false);
    }

    #[test]
    fn image_paths() {
        let check =
            |text: &str, good: bool| assert_eq!(ImagePath::parse(text).is_some(), good, "{text}");
        check("/etc/motd", true);
        check("/a b/ä", true);
        check("etc/motd", false);
        check("/", false);
        check("/etc/", false);
        check("/etc/../motd", false);
        check("//motd", false);
        check("/a\0b", false);
    }

    #[test]
    fn refused_customizers_say_why() {
        let check = |action: Action, expected: &str| {
            let error = Customizer::new("x", action).unwrap_err().to_string();
            assert_eq!(error, format!("customizer `x`: {expected}"));
        };
        let pem = "-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n";
        check(Action::Packages { packages: vec![] }, "it names no package");
        let shell = Action::Shell {
            lines: vec![],
            secrets: vec![],
        };
        check(shell, "it has no line to run");
        check(
            Action::CaCertificate { pem: "MII".into() },
            "its certificate is not in PEM form (-----BEGIN CERTIFICATE-----)",
        );
        check(
            Action::CaCertificate { pem: pem.repeat(2) },
            "it holds more than one certificate; make one customizer for each",
        );
        check(
            Action::CaCertificate {
                pem: format!("{pem}-----BEGIN PRIVATE KEY-----"),
            },
            "its certificate holds a private key, which must not get into an image",
        );
    }

    #[test]
    fn keys_differ_where_results_may() {
        let key = |name: &str, action| Customizer::new(name, action).unwrap().key_material();
        let shell = |line: &str| Action::Shell {
            lines: vec![line.to_owned()],
            secrets: vec![],
        };
        assert_eq!(key("a", shell("true")), key("b", shell("true")));
        assert_ne!(key("a", shell("true")), key("a", shell("false")));
        let pem = "-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n".to_owned();
        assert_ne!(
            key("a", Action::CaCertificate { pem: pem.clone() }),
            key("b", Action::CaCertificate { pem })
        );
    }
}
