//! `login` and `logout`: the profile file.

use std::io::Read;

use camino::Utf8Path;

use crate::args::{Global, Login};
use crate::client::Client;
use crate::error::{CliError, Exit};
use crate::io::Io;
use crate::profile::{self, Profile};

/// A secret is a line of text; anything longer is the wrong file.
const SECRET_BYTES_MAX: u64 = 4096;

pub async fn login(global: &Global, args: &Login, io: &mut Io) -> Result<Exit, CliError> {
    let mut profile = match &args.from {
        Some(path) => profile::read(io, path)?,
        None => from_arguments(args, io)?,
    };
    if args.from.is_some()
        && let Some(tenant) = &args.tenant
    {
        profile.tenant = parse_tenant(tenant)?;
    }
    let client = Client::new(profile)?;
    // Signing in now, so that a wrong secret is found here and not by the next command.
    client.token(client.home()).await?;
    let path = profile::path(io, global.profile.as_deref());
    profile::save(&path, client.profile())?;
    let signed_in = client.profile();
    io.say(format!(
        "Signed in to {} (tenant {}) as {}; profile written to `{path}`.",
        signed_in.url, signed_in.tenant, signed_in.client_id
    ));
    Ok(Exit::Done)
}

fn from_arguments(args: &Login, io: &mut Io) -> Result<Profile, CliError> {
    let need = |value: &Option<String>, name: &str| {
        value
            .clone()
            .ok_or_else(|| CliError::Usage(format!("`--{name}` is missing")))
    };
    let url = need(&args.url, "url")?.trim_end_matches('/').to_owned();
    if !url.starts_with("https://") {
        return Err(CliError::Usage(format!(
            "`{url}` does not start with https://"
        )));
    }
    let read = |path: &Utf8Path| {
        std::fs::read_to_string(path).map_err(|source| CliError::ReadFile {
            path: path.into(),
            source,
        })
    };
    let secret = match args.client_secret_file.as_deref() {
        None => return Err(CliError::Usage("`--client-secret-file` is missing".into())),
        Some(path) if path == "-" => {
            let mut text = String::new();
            let mut limited = (&mut io.input).take(SECRET_BYTES_MAX);
            limited
                .read_to_string(&mut text)
                .map_err(|source| CliError::ReadFile {
                    path: path.into(),
                    source,
                })?;
            text
        }
        Some(path) => read(path)?,
    };
    Ok(Profile {
        url,
        ca: args.ca.as_deref().map(read).transpose()?,
        ca_file: args.ca.clone(),
        tenant: parse_tenant(&need(&args.tenant, "tenant")?)?,
        client_id: need(&args.client_id, "client-id")?,
        client_secret: secret.trim().to_owned().into(),
    })
}

fn parse_tenant(text: &str) -> Result<wire::TenantId, CliError> {
    text.parse()
        .map_err(|error: wire::IdKindError| CliError::Usage(error.to_string()))
}

pub fn logout(global: &Global, io: &mut Io) -> Result<Exit, CliError> {
    let path = profile::path(io, global.profile.as_deref());
    match std::fs::remove_file(&path) {
        Ok(()) => io.say(format!("Deleted `{path}`.")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            io.say(format!("There is no profile at `{path}`."));
        }
        Err(source) => return Err(CliError::WriteFile { path, source }),
    }
    Ok(Exit::Done)
}
