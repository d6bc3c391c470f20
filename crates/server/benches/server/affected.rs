//! What a flaw concerns, of ten thousand versions: from the question to the last byte of the answer, all pages of it.
//!
//! Each version has a disk of its own with a bill of as many packages as a small Debian has, nearly all of them the same, and
//! one in ten of them is run by a machine.

use std::path::Path;
use std::time::Instant;

use access::{Action, Permit, SystemReason};
use catalog::{
    Backend, Draft, Place, PostgresCatalog, Precondition, SqliteCatalog, StoredBill, StoredPackage,
};
use serde_json::{Value, json};
use wire::{ResourceId, TenantId};

use crate::client::{Target, request};
use crate::measure::{clients, processor, say};
use crate::seed::{self, SUBSCRIPTION};
use crate::{Result, SMALL};

const PACKAGES_EACH: usize = 205;
/// One in so many versions has the flaw that some have, and one in so many is run by a machine.
const SOME: usize = 10;
const TRIES: usize = 3;
const SYSTEM: &str = r#"{"id":"debian","versionId":"12","versionCodename":"bookworm","prettyName":"Debian GNU/Linux 12 (bookworm)"}"#;
const QUESTIONS: [(&str, &str); 4] = [
    ("a package that none has", "bash"),
    ("a package that none has as old", "openssl%3C3.0.14-1"),
    ("a package that one in ten has", "openssl%3C3.0.15-1"),
    ("a package that all have", "lib7"),
];

/// Into an empty folder: the versions, their disks' bills and machines, written past the server.
pub async fn fill(data: &Path) -> Result<()> {
    let running = seed::start(data).await?;
    let (target, token, tenant) = seed::sign_in(running.address, &running.ca, data).await?;
    seed::base(&mut target.connect().await?, &token, 1).await?;
    running.stop().await;
    match seed::database() {
        Some(place) => {
            let place: Place = place.parse()?;
            write(&PostgresCatalog::open(&place).await?, tenant).await
        }
        None => {
            write(
                &SqliteCatalog::open(&data.join("bullion.db")).await?,
                tenant,
            )
            .await
        }
    }
}

async fn write(catalog: &impl Backend, tenant: TenantId) -> Result<()> {
    let permit = |id: &str| -> Result<Permit> {
        let action = Action::new("Microsoft.Compute/galleries/images/versions/write");
        let id = ResourceId::parse(id)?;
        Ok(Permit::system(SystemReason::Install, action, id, tenant))
    };
    let shared: Vec<StoredPackage> = (1..PACKAGES_EACH)
        .map(|number| package(&format!("lib{number}"), "1.0-1"))
        .collect();
    for number in 0..SMALL {
        let (id, disk) = (seed::version(number), format!("bd1:{number:064x}"));
        let flawed = number % SOME == 0;
        let mut packages = shared.clone();
        packages.push(package(
            "openssl",
            if flawed { "3.0.14-1" } else { "3.0.15-1" },
        ));
        let bill = StoredBill {
            system: SYSTEM.into(),
            packages,
        };
        let permit_of_version = permit(&id)?;
        catalog.keep_bill(&permit_of_version, &disk, &bill).await?;
        let draft = Draft::new(version(&disk)).location("north");
        catalog
            .put(&permit_of_version, draft, Precondition::None)
            .await?;
        if flawed {
            let machine = format!(
                "/subscriptions/{SUBSCRIPTION}/resourceGroups/rg/providers/Microsoft.Compute/virtualMachines/m{number}"
            );
            let draft = Draft::new(machine_of(&id)).location("north");
            let machine = permit(&machine)?;
            catalog.put(&machine, draft, Precondition::None).await?;
        }
    }
    catalog.close().await;
    Ok(())
}

fn package(name: &str, version: &str) -> StoredPackage {
    let body = json!({ "name": name, "version": version, "architecture": "amd64", "source": name, "sourceVersion": version });
    StoredPackage {
        name: name.into(),
        source: name.into(),
        body: body.to_string(),
    }
}

/// In no region: no store has the disk, and replication would try to get it for ever.
fn version(disk: &str) -> Value {
    let mut properties = seed::properties();
    properties["publishingProfile"]["targetRegions"] = json!([]);
    properties["bullion"]["diskDigest"] = disk.into();
    properties["bullion"]["replication"] = json!([]);
    properties
}

/// As it is stored, but that no process is there.
fn machine_of(version: &str) -> Value {
    json!({
        "hardwareProfile": { "vmSize": "Standard_B1s" },
        "storageProfile": { "imageReference": { "id": version }, "osDisk": { "createOption": "FromImage" } },
        "osProfile": { "computerName": "bench", "adminUsername": "azureuser" },
    })
}

pub fn run(data: &Path) -> Result<()> {
    let own = tokio::runtime::Runtime::new()?;
    let clients = clients()?;
    let running = own.block_on(seed::start(data))?;
    let (address, ca, folder) = (running.address, running.ca.clone(), running.data.clone());
    let asking = async move {
        let (target, token, _) = seed::sign_in(address, &ca, &folder).await?;
        say(&format!(
            "\nwhat is affected, of {SMALL} versions with {PACKAGES_EACH} packages each and {} machines",
            SMALL / SOME
        ));
        for (what, query) in QUESTIONS {
            for _ in 0..TRIES {
                ask(&target, &token, what, query).await?;
            }
        }
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
    };
    clients.block_on(clients.spawn(asking))??;
    own.block_on(running.stop());
    Ok(())
}

async fn ask(target: &Target, token: &str, what: &str, query: &str) -> Result<()> {
    let mut connection = target.connect().await?;
    let mut path = format!(
        "/subscriptions/{SUBSCRIPTION}/providers/Bullion.Factory/affected?api-version=2026-11-01&query={query}"
    );
    let (before, begun) = (processor(), Instant::now());
    let (mut versions, mut machines, mut bytes, mut pages) = (0, 0, 0, 0);
    loop {
        let answer = connection
            .ask(&request("GET", &path, Some(token), None))
            .await?;
        if answer.status != 200 {
            let body = String::from_utf8_lossy(&answer.body);
            return Err(format!("GET {path}: {} {body}", answer.status).into());
        }
        (pages, bytes) = (pages + 1, bytes + answer.body.len());
        let page: Value = serde_json::from_slice(&answer.body)?;
        let shown = page["value"].as_array().map_or(&[][..], Vec::as_slice);
        versions += shown.len();
        let running = shown.iter().map(|one| one["virtualMachines"].as_array());
        machines += running.map(|some| some.map_or(0, Vec::len)).sum::<usize>();
        let Some(next) = page["nextLink"].as_str() else {
            break;
        };
        let at = next.find("/subscriptions");
        path = next[at.ok_or("a next link without a path")?..].to_owned();
    }
    let (took, after) = (begun.elapsed().as_secs_f64(), processor());
    say(&format!(
        "{what:<32} {took:>6.3} s   processor: server {:>6.3} s, client {:>6.3} s   {versions} versions, {machines} machines, {} KiB in {pages} pages",
        after[0] - before[0],
        after[1] - before[1],
        bytes / 1024,
    ));
    Ok(())
}
