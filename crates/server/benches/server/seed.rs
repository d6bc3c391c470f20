//! What is asked about: a subscription with a gallery, and versions by the thousand, written past the server.

use std::net::SocketAddr;
use std::path::Path;

use access::{Action, Permit, SystemReason};
use catalog::{Catalog as _, Draft, Precondition, SqliteCatalog};
use serde_json::{Value, json};
use server::{Running, ServeOptions};
use wire::{ResourceId, TenantId};

use crate::Result;
use crate::client::{Connection, Target, request};

pub const SUBSCRIPTION: &str = "5b0d0d4e-7d5a-4b3e-8a51-0f6a2c9d1e01";
/// Versions of one definition.
pub const VERSIONS: usize = 10_000;
const API: &str = "api-version=2024-03-03";
/// More definitions and versions than a subscription may have in a region unless told otherwise.
const CONFIG: &str = "[limits]\nimage_definitions = 100000000\nimage_versions = 100000000\n";

pub fn database() -> Option<String> {
    std::env::var("BULLION_BENCH_DATABASE").ok()
}

pub fn gallery() -> String {
    format!(
        "/subscriptions/{SUBSCRIPTION}/resourceGroups/rg/providers/Microsoft.Compute/galleries/g"
    )
}

/// Of the n-th of all versions.
pub fn version(number: usize) -> String {
    let (definition, patch) = (number / VERSIONS, number % VERSIONS);
    format!("{}/images/d{definition}/versions/1.0.{patch}", gallery())
}

pub async fn start(data: &Path) -> Result<Running> {
    let config = data.with_extension("toml");
    std::fs::write(&config, CONFIG)?;
    let options = ServeOptions {
        data: data.to_path_buf(),
        config: Some(config),
        listen: Some("127.0.0.1:0".parse()?),
        database: database(),
        ..ServeOptions::default()
    };
    Ok(server::start(options).await?)
}

/// The operator's sign-in: a connection, the token and the tenant.
pub async fn sign_in(
    address: SocketAddr,
    ca: &str,
    data: &Path,
) -> Result<(Target, String, TenantId)> {
    let target = Target::new(address, ca)?;
    let admin: Value = serde_json::from_slice(&std::fs::read(data.join("admin.json"))?)?;
    let text = |key: &str| admin[key].as_str().unwrap_or_default().to_owned();
    let form = format!(
        "grant_type=client_credentials&scope=https%3A%2F%2Fmanagement.azure.com%2F%2F.default&client_id={}&client_secret={}",
        text("clientId"),
        url::form_urlencoded::byte_serialize(text("clientSecret").as_bytes()).collect::<String>()
    );
    let tenant = text("tenantId");
    let path = format!("/{tenant}/oauth2/v2.0/token");
    let answer = target
        .connect()
        .await?
        .ask(&request("POST", &path, None, Some(&form)))
        .await?;
    let token: Value = serde_json::from_slice(&answer.body)?;
    let token = token["access_token"].as_str().ok_or("no token")?.to_owned();
    Ok((target, token, tenant.parse()?))
}

pub fn run(data: &Path, count: usize) -> Result<()> {
    tokio::runtime::Runtime::new()?.block_on(fill(data, count))
}

async fn fill(data: &Path, count: usize) -> Result<()> {
    let running = start(data).await?;
    let (target, token, tenant) = sign_in(running.address, &running.ca, data).await?;
    let mut connection = target.connect().await?;
    base(&mut connection, &token, count.div_ceil(VERSIONS)).await?;
    running.stop().await;
    if database().is_some() {
        return Ok(());
    }
    let catalog = SqliteCatalog::open(&data.join("bullion.db")).await?;
    let permit = |id: &str| -> Result<Permit> {
        let action = Action::new("Microsoft.Compute/galleries/images/versions/write");
        Ok(Permit::system(
            SystemReason::Install,
            action,
            ResourceId::parse(id)?,
            tenant,
        ))
    };
    let first = permit(&version(0))?;
    let draft = Draft::new(properties()).location("north");
    catalog.put(&first, draft, Precondition::None).await?;
    let ids = (1..count).map(|number| ResourceId::parse(&version(number)));
    let ids = ids.collect::<Result<Vec<_>, _>>()?;
    catalog::suite::copies(&catalog, &first, &ids).await?;
    catalog.close().await;
    Ok(())
}

pub async fn base(connection: &mut Connection, token: &str, definitions: usize) -> Result<()> {
    let mut put = async |path: &str, body: Value| -> Result<()> {
        let path = format!("{path}?{API}");
        let answer = connection
            .ask(&request("PUT", &path, Some(token), Some(&body.to_string())))
            .await?;
        match answer.status {
            200 | 201 => Ok(()),
            status => Err(format!(
                "PUT {path}: {status} {}",
                String::from_utf8_lossy(&answer.body)
            )
            .into()),
        }
    };
    put(
        "/providers/Bullion.Factory/regions/north",
        json!({ "properties": { "zones": ["1"] } }),
    )
    .await?;
    put(
        &format!("/subscriptions/{SUBSCRIPTION}"),
        json!({ "properties": { "displayName": "bench" } }),
    )
    .await?;
    let group = format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/rg");
    put(&group, json!({ "location": "north" })).await?;
    put(&gallery(), json!({ "location": "north", "properties": {} })).await?;
    for number in 0..definitions {
        put(
            &format!("{}/images/d{number}", gallery()),
            definition(&format!("d{number}")),
        )
        .await?;
    }
    Ok(())
}

pub fn definition(sku: &str) -> Value {
    json!({ "location": "north", "tags": { "made-by": "bench" }, "properties": {
        "osType": "Linux", "osState": "Generalized", "hyperVGeneration": "V2",
        "description": "a definition as clients write them",
        "identifier": { "publisher": "bench", "offer": "linux", "sku": sku },
        "recommended": { "vCPUs": { "min": 1, "max": 8 }, "memory": { "min": 1, "max": 16 } },
        "features": [{ "name": "SecurityType", "value": "TrustedLaunchSupported" }] } })
}

/// As a build publishes them, but without a disk: no store has one here, and replication would try to get it for ever.
pub fn properties() -> Value {
    json!({
        "publishingProfile": {
            "targetRegions": [{ "name": "north", "regionalReplicaCount": 1, "storageAccountType": "Standard_LRS" }],
            "replicaCount": 1, "excludeFromLatest": false, "publishedDate": "2026-11-20T10:00:00Z",
            "storageAccountType": "Standard_LRS", "replicationMode": "Full"
        },
        "storageProfile": { "osDiskImage": { "sizeInGB": 2, "hostCaching": "None" } },
        "safetyProfile": { "reportedForPolicyViolation": false, "allowDeletionOfReplicatedLocations": true },
        "bullion": {
            "logicalBytes": 2_147_483_648_u64, "builtBy": { "principal": "7d5a4b3e-8a51-4f6a-8c9d-1e0102030405" },
            "replication": [{ "region": "north", "state": "Completed", "progress": 100 }]
        }
    })
}
