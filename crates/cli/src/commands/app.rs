//! `app`: applications, and the secrets that they sign in with.
//!
//! A secret is on stdout once, or in a profile; it is in no message, and nothing of it is kept here.

use camino::Utf8Path;
use jiff::{Timestamp, ToSpan as _};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use wire::TenantId;

use super::scope::{Finder, Found, Tenant};
use crate::api;
use crate::args::Scope;
use crate::args::app::{App, Named, Secret, SecretAdd};
use crate::client::{Ask, Client};
use crate::error::{CliError, Exit};
use crate::io::{Format, Io, table};
use crate::profile::{self, Profile};

const APPLICATIONS: &str = "/providers/Bullion.Factory/applications";
const CONSENTS: &str = "/providers/Bullion.Factory/servicePrincipals";

/// An application and the tenant that owns it.
#[derive(Debug)]
struct Application {
    tenant: Tenant,
    found: Found,
}

impl Application {
    fn text(&self, key: &str) -> &str {
        self.found.body["properties"][key].as_str().unwrap_or("")
    }

    fn name(&self) -> &str {
        self.found.body["name"].as_str().unwrap_or("")
    }

    fn label(&self) -> String {
        format!("{}/{}", self.tenant.name, self.name())
    }

    fn is(&self, written: &str) -> bool {
        [self.name(), &self.label(), self.text("appId")]
            .iter()
            .any(|known| known.eq_ignore_ascii_case(written))
    }
}

pub async fn run(client: &Client, args: App, io: &mut Io) -> Result<Exit, CliError> {
    match args {
        App::List { tenant } => list(client, tenant.as_deref(), io).await,
        App::Show(named) => show(client, &named, io).await,
        App::Secret(Secret::Add(args)) => add(client, &args, io).await,
        App::Secret(Secret::List(named)) => secrets(client, &named, io).await,
        App::Secret(Secret::Delete { named, key, yes }) => {
            delete(client, &named, &key, yes, io).await
        }
    }
}

async fn list(client: &Client, tenant: Option<&str>, io: &mut Io) -> Result<Exit, CliError> {
    let all = everywhere(client, tenant, APPLICATIONS).await?;
    if io.format == Format::Json {
        let bodies: Vec<&Value> = all.iter().map(|one| &one.found.body).collect();
        io.json(&bodies)?;
        return Ok(Exit::Done);
    }
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|one| {
            let many = one.found.body["properties"]["multiTenant"] == true;
            let open = if many { "yes" } else { "no" };
            [
                &one.tenant.name,
                one.name(),
                one.text("appId"),
                open,
                one.text("displayName"),
            ]
            .map(str::to_owned)
            .to_vec()
        })
        .collect();
    let header = [
        "TENANT",
        "NAME",
        "CLIENT ID",
        "MULTI-TENANT",
        "DISPLAY NAME",
    ];
    io.line(table(&header, &rows))?;
    Ok(Exit::Done)
}

async fn show(client: &Client, named: &Named, io: &mut Io) -> Result<Exit, CliError> {
    let application = find(client, named).await?;
    if io.format == Format::Json {
        io.json(&application.found.body)?;
        return Ok(Exit::Done);
    }
    let tenant = &application.tenant;
    for (name, value) in [
        ("name", application.name()),
        ("display name", application.text("displayName")),
        ("client id", application.text("appId")),
        ("tenant", &format!("{} ({})", tenant.name, tenant.id)),
        ("principal id", application.text("principalId")),
    ] {
        io.line(format!("{name}: {value}"))?;
    }
    let app = application.text("appId");
    for consent in everywhere(client, None, CONSENTS).await? {
        if consent.text("appId") == app {
            let (tenant, principal) = (&consent.tenant.name, consent.text("principalId"));
            io.line(format!("consent of {tenant}: principal id {principal}"))?;
        }
    }
    Ok(Exit::Done)
}

async fn add(client: &Client, args: &SecretAdd, io: &mut Io) -> Result<Exit, CliError> {
    let application = find(client, &args.named).await?;
    let client_id = application.text("appId").to_owned();
    if let Some(path) = &args.write_profile
        && profile::is_of_another(path, &client_id)
    {
        return Err(CliError::failed(
            format!(
                "`{path}` is there already and is no profile of {}",
                application.label()
            ),
            "name another file, or remove this one; nothing was made",
        ));
    }
    let end = args.days.map(|days| {
        let end = Timestamp::now() + (i64::from(days) * 24).hours();
        end.to_string()
    });
    let body = json!({ "displayName": args.name, "endDateTime": end });
    let mut made = post(client, &application, "addPassword", "make a secret", &body).await?;
    let made_object = made.as_object_mut();
    let secret = match made_object.and_then(|made| made.remove("secretText")) {
        Some(Value::String(secret)) if !secret.is_empty() => secret,
        _ => {
            return Err(CliError::BadAnswer {
                operation: "make a secret".into(),
                why: "there is no secret in it".into(),
            });
        }
    };
    let signs_in = Profile {
        tenant: application.found.tenant,
        client_id,
        client_secret: secret.into(),
        ..client.profile().clone()
    };
    let text = |made: &Value, key: &str| made[key].as_str().unwrap_or("").to_owned();
    io.say(format!(
        "Secret {} of {}, until {}.",
        text(&made, "keyId"),
        application.label(),
        text(&made, "endDateTime")
    ));
    made["tenantId"] = json!(signs_in.tenant);
    made["clientId"] = json!(signs_in.client_id);
    match &args.write_profile {
        Some(path) => {
            made["profile"] = json!(path);
            write(path, signs_in, &application, io).await?;
        }
        None => made["secretText"] = signs_in.client_secret.expose_secret().into(),
    }
    match (io.format, made["secretText"].as_str()) {
        (Format::Json, _) => io.json(&made)?,
        (Format::Table, Some(secret)) => {
            io.say(format!(
                "It is shown this once. Client id {}, tenant {}.",
                text(&made, "clientId"),
                text(&made, "tenantId")
            ));
            io.line(secret)?;
        }
        (Format::Table, None) => {}
    }
    Ok(Exit::Done)
}

/// Writes a profile that has signed in once, so it works.
async fn write(
    path: &Utf8Path,
    signs_in: Profile,
    application: &Application,
    io: &mut Io,
) -> Result<(), CliError> {
    let client = Client::new(signs_in)?;
    client.token(client.home()).await?;
    profile::save(path, client.profile())?;
    io.say(format!(
        "`{path}` signs in as {}: `bullion --profile {path} …`",
        application.label()
    ));
    Ok(())
}

async fn secrets(client: &Client, named: &Named, io: &mut Io) -> Result<Exit, CliError> {
    let application = find(client, named).await?;
    let held = held(client, &application).await?;
    if io.format == Format::Json {
        io.json(&held)?;
        return Ok(Exit::Done);
    }
    let keys = [
        "keyId",
        "displayName",
        "hint",
        "startDateTime",
        "endDateTime",
    ];
    let cells = |secret: &Value| {
        let text = |key: &str| secret[key].as_str().unwrap_or("").to_owned();
        keys.map(text).to_vec()
    };
    let rows: Vec<Vec<String>> = held.iter().map(cells).collect();
    io.line(table(&["KEY ID", "NAME", "BEGINS", "MADE", "ENDS"], &rows))?;
    Ok(Exit::Done)
}

async fn held(client: &Client, application: &Application) -> Result<Vec<Value>, CliError> {
    let operation = "list the secrets";
    let answer = post(client, application, "listPasswords", operation, &json!({})).await?;
    match answer["value"].as_array() {
        Some(held) => Ok(held.clone()),
        None => Err(CliError::BadAnswer {
            operation: operation.into(),
            why: "there is no list in it".into(),
        }),
    }
}

async fn delete(
    client: &Client,
    named: &Named,
    key: &str,
    yes: bool,
    io: &mut Io,
) -> Result<Exit, CliError> {
    let application = find(client, named).await?;
    let label = application.label();
    let held = held(client, &application).await?;
    let ids = held.iter().filter_map(|secret| secret["keyId"].as_str());
    let found: Vec<&str> = ids.filter(|id| id.starts_with(key)).collect();
    let [id] = found.as_slice() else {
        return Err(CliError::failed(
            format!("{} secrets of {label} begin with `{key}`", found.len()),
            format!("`bullion app secret list {label}` shows them"),
        ));
    };
    let question = format!("Delete secret {id} of {label}?");
    if !io.agreed(yes, &question, "Nothing was deleted.")? {
        return Ok(Exit::Failure);
    }
    let body = json!({ "keyId": id });
    post(
        client,
        &application,
        "removePassword",
        "delete a secret",
        &body,
    )
    .await?;
    io.say(format!("Deleted secret {id} of {label}."));
    Ok(Exit::Done)
}

async fn post(
    client: &Client,
    application: &Application,
    action: &str,
    what: &str,
    body: &Value,
) -> Result<Value, CliError> {
    let operation = format!("{what} of {}", application.label());
    let id = application.found.id().ok_or_else(|| CliError::BadAnswer {
        operation: operation.clone(),
        why: "the application has no id".into(),
    })?;
    let path = api::below(&id, &format!("/{action}"), api::BULLION);
    let ask = Ask {
        operation: &operation,
        tenant: application.found.tenant,
        method: "POST",
        path: &path,
        body: Some(body),
    };
    Ok(client.send(ask).await?.body)
}

/// Applications, or consents, of every tenant that may be looked at.
async fn everywhere(
    client: &Client,
    tenant: Option<&str>,
    collection: &str,
) -> Result<Vec<Application>, CliError> {
    let scope = Scope::default();
    let tenants = Finder::new(client, &scope).tenants().await?;
    let wanted = |known: &Tenant| {
        tenant.is_none_or(|wanted| {
            known.name.eq_ignore_ascii_case(wanted) || known.id.to_string() == wanted.to_lowercase()
        })
    };
    let mut all = Vec::new();
    let mut refused = None;
    for known in tenants.into_iter().filter(wanted) {
        let path = format!("{collection}?api-version={}", api::BULLION);
        match client.list("list applications", known.id, &path).await {
            Ok(items) => all.extend(items.into_iter().map(|body| of(&known, known.id, body))),
            // Whoever may look at one tenant need not in every other.
            Err(error @ (CliError::Arm { .. } | CliError::SignIn { .. })) => refused = Some(error),
            Err(error) => return Err(error),
        }
    }
    match refused {
        Some(error) if all.is_empty() => Err(error),
        _ => Ok(all),
    }
}

fn of(known: &Tenant, tenant: TenantId, body: Value) -> Application {
    Application {
        tenant: known.clone(),
        found: Found { tenant, body },
    }
}

async fn find(client: &Client, named: &Named) -> Result<Application, CliError> {
    let written = &named.application;
    let all = everywhere(client, named.tenant.as_deref(), APPLICATIONS).await?;
    let (mut found, others): (Vec<Application>, Vec<Application>) =
        all.into_iter().partition(|one| one.is(written));
    match (found.pop(), found.as_slice()) {
        (Some(one), []) => Ok(one),
        (None, _) => {
            let known: Vec<String> = others.iter().map(Application::label).collect();
            Err(CliError::failed(
                format!("there is no application `{written}`"),
                format!("there are: {}", known.join(", ")),
            ))
        }
        (Some(one), more) => {
            let all: Vec<String> = more.iter().chain([&one]).map(Application::label).collect();
            Err(CliError::failed(
                format!("more than one application is called `{written}`"),
                format!("write one of: {}", all.join(", ")),
            ))
        }
    }
}
