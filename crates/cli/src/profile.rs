//! Where the server is and as whom to sign in.
//!
//! A profile is the server's `admin.json` or a file of the same shape written by `login`. The
//! BULLION_* variables replace single fields, so that a pipeline needs no file at all. The secret
//! is never printed or logged.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use camino::{Utf8Path, Utf8PathBuf};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use wire::TenantId;

use crate::error::CliError;
use crate::io::Io;

pub const URL: &str = "BULLION_URL";
pub const CA: &str = "BULLION_CA";
pub const TENANT: &str = "BULLION_TENANT";
pub const CLIENT_ID: &str = "BULLION_CLIENT_ID";
pub const CLIENT_SECRET: &str = "BULLION_CLIENT_SECRET";
pub const PROFILE: &str = "BULLION_PROFILE";

#[derive(Debug, Clone)]
pub struct Profile {
    pub url: String,
    /// PEM text of the private CA; the system's roots are used as well.
    pub ca: Option<String>,
    /// The file the CA came from, for clients that want a path.
    pub ca_file: Option<Utf8PathBuf>,
    /// Tenant that is signed in to first.
    pub tenant: TenantId,
    pub client_id: String,
    pub client_secret: SecretString,
}

/// The file's shape.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    url: Option<String>,
    /// PEM text, or the path of a PEM file.
    ca: Option<String>,
    tenant_id: Option<String>,
    client_id: Option<String>,
    client_secret: Option<String>,
}

/// The profile file that a command uses.
pub fn path(io: &Io, given: Option<&Utf8Path>) -> Utf8PathBuf {
    if let Some(path) = given {
        return path.into();
    }
    if let Some(path) = io.variable(PROFILE) {
        return path.into();
    }
    let config = match (io.variable("XDG_CONFIG_HOME"), io.variable("HOME")) {
        (Some(config), _) => Utf8PathBuf::from(config),
        (None, Some(home)) => Utf8Path::new(home).join(".config"),
        (None, None) => Utf8PathBuf::from("."),
    };
    config.join("bullion/profile.json")
}

/// Reads the profile and lets the environment replace its fields.
pub fn load(io: &Io, given: Option<&Utf8Path>) -> Result<Profile, CliError> {
    let path = path(io, given);
    let must_exist = given.is_some() || io.variable(PROFILE).is_some();
    let stored = match fs::read_to_string(&path) {
        Ok(text) => parse(&path, &text)?,
        Err(source) if source.kind() == std::io::ErrorKind::NotFound && !must_exist => {
            Stored::default()
        }
        Err(source) => return Err(CliError::ReadFile { path, source }),
    };
    complete(io, &path, stored)
}

/// Reads a file such as `admin.json` as it is, for `login`.
pub fn read(io: &Io, path: &Utf8Path) -> Result<Profile, CliError> {
    let text = fs::read_to_string(path).map_err(|source| CliError::ReadFile {
        path: path.into(),
        source,
    })?;
    complete(io, path, parse(path, &text)?)
}

fn parse(path: &Utf8Path, text: &str) -> Result<Stored, CliError> {
    serde_json::from_str(text).map_err(|error| CliError::BadProfile {
        path: path.into(),
        why: error.to_string(),
    })
}

fn complete(io: &Io, path: &Utf8Path, stored: Stored) -> Result<Profile, CliError> {
    let pick = |name: &str, stored: Option<String>| io.variable(name).map(str::to_owned).or(stored);
    let Some(url) = pick(URL, stored.url) else {
        return Err(CliError::NoProfile { path: path.into() });
    };
    let missing = |field: &str, name: &str| CliError::BadProfile {
        path: path.into(),
        why: format!("`{field}` is missing and {name} is not set"),
    };
    let url = url.trim_end_matches('/').to_owned();
    if !url.starts_with("https://") {
        return Err(CliError::BadProfile {
            path: path.into(),
            why: format!("`{url}` does not start with https://"),
        });
    }
    let folder = path.parent().unwrap_or(Utf8Path::new("."));
    let (ca, ca_file) = match (io.variable(CA), stored.ca) {
        (Some(variable), _) => read_ca(Utf8Path::new("."), variable)?,
        (None, Some(stored)) => read_ca(folder, &stored)?,
        (None, None) => (None, None),
    };
    Ok(Profile {
        url,
        ca,
        ca_file,
        tenant: pick(TENANT, stored.tenant_id)
            .ok_or_else(|| missing("tenantId", TENANT))?
            .parse()
            .map_err(|error: wire::IdKindError| CliError::BadProfile {
                path: path.into(),
                why: error.to_string(),
            })?,
        client_id: pick(CLIENT_ID, stored.client_id)
            .ok_or_else(|| missing("clientId", CLIENT_ID))?,
        client_secret: pick(CLIENT_SECRET, stored.client_secret)
            .ok_or_else(|| missing("clientSecret", CLIENT_SECRET))?
            .into(),
    })
}

fn read_ca(
    folder: &Utf8Path,
    value: &str,
) -> Result<(Option<String>, Option<Utf8PathBuf>), CliError> {
    if value.contains("-----BEGIN") {
        return Ok((Some(value.to_owned()), None));
    }
    let path = folder.join(value);
    let text = fs::read_to_string(&path).map_err(|source| CliError::ReadFile {
        path: path.clone(),
        source,
    })?;
    Ok((Some(text), Some(path)))
}

/// Whether there is a file that is not a profile of this application.
pub fn is_of_another(path: &Utf8Path, client_id: &str) -> bool {
    match fs::read_to_string(path) {
        Ok(text) => {
            let held = parse(path, &text).ok().and_then(|held| held.client_id);
            held.as_deref() != Some(client_id)
        }
        Err(error) => error.kind() != std::io::ErrorKind::NotFound,
    }
}

/// Writes the profile, readable by its owner only, in one step.
pub fn save(path: &Utf8Path, profile: &Profile) -> Result<(), CliError> {
    let failed = |source| CliError::WriteFile {
        path: path.into(),
        source,
    };
    let stored = Stored {
        url: Some(profile.url.clone()),
        ca: profile.ca.clone(),
        tenant_id: Some(profile.tenant.to_string()),
        client_id: Some(profile.client_id.clone()),
        client_secret: Some(profile.client_secret.expose_secret().to_owned()),
    };
    let text = serde_json::to_string_pretty(&stored).map_err(|error| failed(error.into()))?;
    let folder = path.parent().unwrap_or(Utf8Path::new("."));
    fs::create_dir_all(folder).map_err(failed)?;
    let temporary = path.with_extension("json.new");
    let _ = fs::remove_file(&temporary);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(failed)?;
    file.write_all(format!("{text}\n").as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&temporary, path))
        .map_err(failed)
}
