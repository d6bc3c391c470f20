//! `env`: lines for a shell that point other clients at this server. stdout is meant for `eval`.

use camino::Utf8PathBuf;
use secrecy::ExposeSecret;
use wire::TenantId;

use super::scope::{Finder, Subscription};
use crate::args::{Env, Global, Scope};
use crate::client::Client;
use crate::error::{CliError, Exit};
use crate::io::Io;
use crate::profile::{self, Profile};

/// The name under which `az` knows this server.
const CLOUD: &str = "Bullion";

pub async fn run(global: &Global, args: &Env, io: &mut Io) -> Result<Exit, CliError> {
    let profile = profile::load(io, global.profile.as_deref())?;
    let ca = ca_file(global, &profile, io)?;
    let lines = match args {
        Env::Az => {
            let client = Client::new(profile)?;
            let scope = Scope::default();
            let subscriptions = Finder::new(&client, &scope).subscriptions().await?;
            az(client.profile(), ca, &subscriptions)
        }
        Env::Sh => sh(&profile, ca),
    };
    for line in lines {
        io.line(line)?;
    }
    Ok(Exit::Done)
}

/// The CA as a file: the one that was named, or one written beside the profile.
fn ca_file(global: &Global, profile: &Profile, io: &Io) -> Result<Option<Utf8PathBuf>, CliError> {
    let Some(pem) = &profile.ca else {
        return Ok(None);
    };
    if let Some(file) = &profile.ca_file {
        return Ok(Some(
            file.canonicalize_utf8().unwrap_or_else(|_| file.clone()),
        ));
    }
    let path = profile::path(io, global.profile.as_deref()).with_file_name("ca.pem");
    let same = std::fs::read_to_string(&path).is_ok_and(|held| held == *pem);
    if !same {
        let failed = |source| CliError::WriteFile {
            path: path.clone(),
            source,
        };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        std::fs::write(&path, pem).map_err(failed)?;
    }
    Ok(Some(path.canonicalize_utf8().unwrap_or(path)))
}

/// `az` signs in per tenant, so there is one line for each tenant that has a subscription.
fn az(profile: &Profile, ca: Option<Utf8PathBuf>, subscriptions: &[Subscription]) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(ca) = ca {
        lines.push(format!("export REQUESTS_CA_BUNDLE={}", quoted(ca.as_str())));
    }
    // Without this az asks Microsoft's own sign-in service about this server.
    lines.push("export AZURE_CORE_INSTANCE_DISCOVERY=false".into());
    lines.push(format!(
        "az cloud register -n {CLOUD} --endpoint-resource-manager {url} 2>/dev/null || \
         az cloud update -n {CLOUD} --endpoint-resource-manager {url}",
        url = quoted(&profile.url)
    ));
    lines.push(format!("az cloud set -n {CLOUD}"));
    let mut tenants: Vec<TenantId> = subscriptions.iter().map(|known| known.tenant).collect();
    tenants.sort();
    tenants.dedup();
    if tenants.is_empty() {
        tenants.push(profile.tenant);
    }
    for tenant in tenants {
        lines.push(format!(
            "az login --service-principal -u {} -p {} --tenant {tenant} --allow-no-subscriptions --output none",
            quoted(&profile.client_id),
            quoted(profile.client_secret.expose_secret()),
        ));
    }
    if let Some(first) = subscriptions.first() {
        lines.push(format!("az account set -s {}", first.id));
    }
    lines
}

fn sh(profile: &Profile, ca: Option<Utf8PathBuf>) -> Vec<String> {
    let mut lines = vec![format!("export {}={}", profile::URL, quoted(&profile.url))];
    if let Some(ca) = ca {
        lines.push(format!("export {}={}", profile::CA, quoted(ca.as_str())));
    }
    lines.push(format!("export {}={}", profile::TENANT, profile.tenant));
    lines.push(format!(
        "export {}={}",
        profile::CLIENT_ID,
        quoted(&profile.client_id)
    ));
    lines.push(format!(
        "export {}={}",
        profile::CLIENT_SECRET,
        quoted(profile.client_secret.expose_secret())
    ));
    lines
}

/// One word for a shell, whatever it holds.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+=,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn words_survive_a_shell() {
        assert_eq!(quoted("https://localhost:8443"), "https://localhost:8443");
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's $x"), r"'it'\''s $x'");
        assert_eq!(quoted(""), "''");
    }
}
