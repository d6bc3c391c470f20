//! `vm`: machines deployed from images.

use camino::{Utf8Path, Utf8PathBuf};
use serde_json::{Value, json};
use wire::{NameRule, ResourceId};

use super::scope::{Finder, Located, VM, bodies};
use crate::api;
use crate::args::{Firmware, Scope, Vm, VmCreate};
use crate::client::{Ask, Client};
use crate::error::{CliError, Exit};
use crate::io::{Format, Io, table};
use crate::progress::Progress;

pub async fn run(
    client: &Client,
    args: Vm,
    profile: &Utf8Path,
    io: &mut Io,
) -> Result<Exit, CliError> {
    match args {
        Vm::Create(args) => create(client, &args, io).await?,
        Vm::List { scope } => list(client, &scope, io).await?,
        Vm::Show { name, scope } => {
            let vm = Finder::new(client, &scope).find(VM, &name).await?;
            let body = get(client, &vm).await?;
            io.json(&body)?;
        }
        Vm::Delete { name, yes, scope } => return delete(client, &name, yes, &scope, io).await,
        Vm::Tattoo { name, scope } => tattoo(client, &name, &scope, io).await?,
        Vm::Ssh { name, scope } => ssh(client, &name, &scope, profile, io).await?,
    }
    Ok(Exit::Done)
}

async fn get(client: &Client, vm: &Located) -> Result<Value, CliError> {
    let path = format!("{}&$expand=instanceView", api::path(&vm.id));
    client
        .get(&format!("show machine {}", vm.id.name()), vm.tenant, &path)
        .await
}

async fn create(client: &Client, args: &VmCreate, io: &mut Io) -> Result<(), CliError> {
    NameRule::VirtualMachine
        .check(&args.name)
        .map_err(|error| CliError::Usage(error.to_string()))?;
    let key = args.ssh_key.as_deref().map(public_key).transpose()?;
    let finder = Finder::new(client, &args.scope);
    // The group is where the machine goes; its image is in whatever group its gallery is in.
    let anywhere = Scope {
        resource_group: None,
        ..args.scope.clone()
    };
    let (image, image_tenant) = image(&Finder::new(client, &anywhere), &args.image).await?;
    let group = group(&finder, &image, image_tenant, &args.scope).await?;
    let tenant = group.tenant;
    let id = group
        .id
        .extension("Microsoft.Compute", "virtualMachines", &args.name)
        .map_err(|error| CliError::Usage(format!("`{}`: {error}", args.name)))?;
    let body = body(args, &image, key);
    let operation = format!("create machine {}", args.name);
    let path = api::path(&id);
    let ask = Ask {
        operation: &operation,
        tenant,
        method: "PUT",
        path: &path,
        body: Some(&body),
    };
    io.goes_on = vec![
        format!(
            "Stopped waiting. Machine {} is still being created at the server.",
            args.name
        ),
        format!("  look at it:  bullion vm show {}", args.name),
        format!("  remove it:   bullion vm delete {}", args.name),
    ];
    io.say(format!(
        "Creating machine {} in {} from {}",
        args.name, args.region, image
    ));
    let reply = client.send_linked(ask, image_tenant).await?;
    if args.no_wait {
        return match io.format {
            Format::Json => io.json(&reply.body),
            Format::Table => io.line(id.to_string()),
        };
    }
    let progress = Progress::start(io);
    progress.show(format!("waiting until machine {} has booted", args.name));
    client.wait(ask, reply).await?;
    drop(progress);
    io.goes_on.clear();
    let vm = Located { tenant, id };
    let live = get(client, &vm).await?;
    match io.format {
        Format::Json => io.json(&live),
        Format::Table => print(io, std::slice::from_ref(&live)),
    }
}

/// The image's id: a definition for its latest version, or one version.
async fn image(
    finder: &Finder<'_>,
    written: &str,
) -> Result<(ResourceId, wire::TenantId), CliError> {
    if written.starts_with('/') {
        let found = finder.by_id(written).await?;
        return Ok((found.id, found.tenant));
    }
    let (definition, version) = match written.split('/').collect::<Vec<_>>().as_slice() {
        [gallery, definition, version] => (
            format!("{gallery}/{definition}"),
            Some((*version).to_owned()),
        ),
        _ => (written.to_owned(), None),
    };
    let found = finder.definition(&definition).await?;
    let id = match version.filter(|version| version != "latest") {
        None => found.id,
        Some(version) => found
            .id
            .child("versions", &version)
            .map_err(|error| CliError::Usage(format!("`{written}`: {error}")))?,
    };
    Ok((id, found.tenant))
}

/// Where the machine goes: the named group, or the image's own.
async fn group(
    finder: &Finder<'_>,
    image: &ResourceId,
    tenant: wire::TenantId,
    scope: &Scope,
) -> Result<Located, CliError> {
    let named = scope.resource_group.is_some() || scope.subscription.is_some();
    match image.group_scope().filter(|_| !named) {
        Some(id) => Ok(Located { tenant, id }),
        None => finder.group().await,
    }
}

fn body(args: &VmCreate, image: &ResourceId, key: Option<String>) -> Value {
    let mut os = json!({
        "computerName": args.name,
        "adminUsername": args.admin,
        "linuxConfiguration": { "disablePasswordAuthentication": true },
    });
    if let Some(key) = key {
        let path = format!("/home/{}/.ssh/authorized_keys", args.admin);
        os["linuxConfiguration"]["ssh"] =
            json!({ "publicKeys": [{ "path": path, "keyData": key }] });
    }
    let mut properties = json!({
        "hardwareProfile": { "vmSize": args.size },
        "storageProfile": { "imageReference": { "id": image.to_string() } },
        "osProfile": os,
    });
    if let Some(firmware) = args.firmware {
        let name = match firmware {
            Firmware::Bios => "Bios",
            Firmware::Uefi => "Uefi",
        };
        properties["bullion"] = json!({ "firmware": name });
    }
    json!({ "location": args.region, "properties": properties })
}

fn public_key(path: &Utf8Path) -> Result<String, CliError> {
    let text = std::fs::read_to_string(path).map_err(|source| CliError::ReadFile {
        path: path.into(),
        source,
    })?;
    let key = text.trim();
    if key.contains("PRIVATE KEY") {
        return Err(CliError::Usage(format!(
            "`{path}` is a private key; give the public one, `{path}.pub`"
        )));
    }
    let known = ["ssh-", "ecdsa-", "sk-"]
        .iter()
        .any(|start| key.starts_with(start));
    if !known || key.lines().count() != 1 {
        return Err(CliError::Usage(format!(
            "`{path}` does not hold one OpenSSH public key"
        )));
    }
    Ok(key.to_owned())
}

async fn list(client: &Client, scope: &Scope, io: &mut Io) -> Result<(), CliError> {
    let items = bodies(Finder::new(client, scope).list(VM).await?);
    match io.format {
        Format::Json => io.json(&items),
        Format::Table => print(io, &items),
    }
}

fn print(io: &mut Io, items: &[Value]) -> Result<(), CliError> {
    let text = |item: &Value, pointer: &str| {
        item.pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or("")
            .to_owned()
    };
    let rows: Vec<Vec<String>> = items
        .iter()
        .map(|item| {
            let image = text(item, "/properties/storageProfile/imageReference/id");
            let definition = ResourceId::parse(&image)
                .ok()
                .and_then(|id| id.part("images").map(str::to_owned));
            let boot = item
                .pointer("/properties/bullion/bootSeconds")
                .and_then(Value::as_f64);
            vec![
                text(item, "/name"),
                text(item, "/location"),
                text(item, "/properties/provisioningState"),
                text(item, "/properties/bullion/powerState"),
                definition.unwrap_or_default(),
                text(
                    item,
                    "/properties/storageProfile/imageReference/exactVersion",
                ),
                boot.map_or_else(String::new, |seconds| format!("{seconds:.1} s")),
            ]
        })
        .collect();
    io.line(table(
        &[
            "NAME", "REGION", "STATE", "POWER", "IMAGE", "VERSION", "BOOT",
        ],
        &rows,
    ))
}

async fn delete(
    client: &Client,
    name: &str,
    yes: bool,
    scope: &Scope,
    io: &mut Io,
) -> Result<Exit, CliError> {
    let vm = Finder::new(client, scope).find(VM, name).await?;
    let question = format!("Delete machine {} and its disk?", vm.id.name());
    if !io.agreed(yes, &question, "Nothing was deleted.")? {
        return Ok(Exit::Failure);
    }
    let operation = format!("delete machine {}", vm.id.name());
    let path = api::path(&vm.id);
    client
        .finish(Ask {
            operation: &operation,
            tenant: vm.tenant,
            method: "DELETE",
            path: &path,
            body: None,
        })
        .await?;
    io.say(format!("Deleted machine {}.", vm.id.name()));
    Ok(Exit::Done)
}

async fn tattoo(client: &Client, name: &str, scope: &Scope, io: &mut Io) -> Result<(), CliError> {
    let vm = Finder::new(client, scope).find(VM, name).await?;
    let path = api::below(
        &vm.id,
        "/providers/Bullion.Factory/machineImages/default",
        api::BULLION,
    );
    let operation = format!("read the image record of machine {}", vm.id.name());
    let body = client.get(&operation, vm.tenant, &path).await?;
    if io.format == Format::Json {
        return io.json(&body);
    }
    let Some(record) = body
        .pointer("/properties/tattoo")
        .and_then(Value::as_object)
    else {
        return Err(CliError::BadAnswer {
            operation,
            why: "there is no record in it".into(),
        });
    };
    for (key, value) in record {
        io.line(format!("{key}={}", value.as_str().unwrap_or("")))?;
    }
    match body
        .pointer("/properties/tattooMatches")
        .and_then(Value::as_bool)
    {
        Some(false) => Err(CliError::failed(
            "the record inside the machine is not the one of the version it was made from",
            "compare it with `bullion version show`; the machine's /etc/bullion-image was changed",
        )),
        _ => Ok(()),
    }
}

async fn ssh(
    client: &Client,
    name: &str,
    scope: &Scope,
    profile: &Utf8Path,
    io: &mut Io,
) -> Result<(), CliError> {
    let vm = Finder::new(client, scope).find(VM, name).await?;
    let body = get(client, &vm).await?;
    let Some(ssh) = body
        .pointer("/properties/bullion/ssh")
        .filter(|ssh| ssh.is_object())
    else {
        return Err(CliError::failed(
            format!("machine {} has no address yet", vm.id.name()),
            format!("look at its state with `bullion vm show {}`", vm.id.name()),
        ));
    };
    print_ssh(io, profile, ssh)
}

/// The command that logs in to a machine.
pub(super) fn print_ssh(io: &mut Io, profile: &Utf8Path, ssh: &Value) -> Result<(), CliError> {
    if io.format == Format::Json {
        return io.json(ssh);
    }
    let text = |key: &str| ssh[key].as_str().unwrap_or("");
    let mut words = vec!["ssh".to_owned()];
    if !text("keyFile").is_empty() {
        words.push(format!("-i {}", text("keyFile")));
    }
    if !text("hostKey").is_empty() {
        let file = remember_host(profile, ssh)?;
        words.push(format!("-o UserKnownHostsFile={file}"));
        words.push("-o StrictHostKeyChecking=yes".into());
    }
    words.push(format!("-p {}", ssh["port"].as_u64().unwrap_or(22)));
    words.push(format!("{}@{}", text("user"), text("host")));
    io.line(words.join(" "))
}

/// The machine's host key in a file of its own beside the profile: ports are used again by other
/// machines, so the user's own list of hosts would soon be wrong.
fn remember_host(profile: &Utf8Path, ssh: &Value) -> Result<Utf8PathBuf, CliError> {
    let text = |key: &str| ssh[key].as_str().unwrap_or("");
    let port = ssh["port"].as_u64().unwrap_or(22);
    let path = profile.with_file_name(format!("known_hosts_{port}"));
    let line = format!("[{}]:{port} {}\n", text("host"), text("hostKey"));
    let failed = |source| CliError::WriteFile {
        path: path.clone(),
        source,
    };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    std::fs::write(&path, line).map_err(failed)?;
    Ok(path)
}
