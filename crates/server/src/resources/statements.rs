//! What is known of the disks of versions: `{version}/providers/Bullion.Factory/statements`, the packages in them, and
//! which versions and machines an advisory or a package concerns.
//!
//! Statements are kept by disk, so a version that was promoted has those of the version that it is a copy of.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use access::Permit;
use catalog::{PackageUse, Pages, Resource, StoredBill, VERSIONS_USING_MAX};
use factory::pipeline::Base;
use factory::prove::{self, Opened};
use http::StatusCode;
use provenance::{Advisory, Hit, Inventory, OsRelease, Package, Query, difference};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use wire::{ArmError, ErrorCode, ResourceId};

use super::{Reply, machines, need, page_reply, skip_token, top, versions};
use crate::errors;
use crate::operation::{Call, Link};
use crate::state::Server;

pub const KIND: &str = "Bullion.Factory/statements";
pub const PACKAGES: &str = "Bullion.Factory/packages";
pub const VERIFY: &str = "Microsoft.Compute/galleries/images/versions/verifyBuild";
pub const COMPARE: &str = "Microsoft.Compute/galleries/images/versions/comparePackages";
pub const AFFECTED: &str = "Bullion.Factory/affected";
const BASE: &str = "baseVersion";

/// The version that the comparison begins at needs a right of its own.
pub fn links(body: &Value) -> Vec<Link> {
    let base = body[BASE].as_str();
    base.map(|scope| Link {
        scope: scope.to_owned(),
        action: versions::READ,
        target: BASE,
    })
    .into_iter()
    .collect()
}

/// The version below which the path is, and its disk.
async fn disk_of(server: &Server, permit: &Permit) -> Result<String, ArmError> {
    let version = server.catalog.get(permit).await.map_err(errors::catalog)?;
    digest(&version).map(str::to_owned).ok_or_else(|| {
        let message = format!("Nothing is known of what is in '{}'.", version.id);
        ArmError::new(ErrorCode::NotFound, message)
    })
}

fn digest(version: &Resource) -> Option<&str> {
    version.properties.pointer("/bullion/diskDigest")?.as_str()
}

/// The statements about a version, without their content.
pub async fn all(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let disk = disk_of(&server, &call.permit).await?;
    let names = server.statements.statement_names(&call.permit, &disk).await;
    let value: Vec<Value> = names
        .map_err(errors::catalog)?
        .into_iter()
        .filter(|(name, _)| name != prove::RECORD)
        .map(|(name, at)| {
            json!({
                "id": format!("{}/providers/{KIND}/{name}", call.permit.scope()),
                "name": name,
                "type": KIND,
                "properties": { "signedAt": at.to_string(), "diskDigest": disk },
            })
        })
        .collect();
    Ok(Reply::ok(json!({ "value": value })))
}

/// One statement. It is answered only if a key of this installation signed it, about this disk.
pub async fn get(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let disk = disk_of(&server, &call.permit).await?;
    let name = call.id.name().to_ascii_lowercase();
    if name == prove::RECORD {
        return Err(errors::not_found(&call.id));
    }
    let found = server
        .statements
        .statement(&call.permit, &disk, &name)
        .await;
    let Some(found) = found.map_err(errors::catalog)? else {
        return Err(errors::not_found(&call.id));
    };
    let broken = |cause: &dyn std::fmt::Display| {
        let message = format!(
            "The statement '{name}' about '{}' proves nothing: {cause}.",
            call.permit.scope()
        );
        ArmError::new(ErrorCode::Conflict, message)
    };
    let keys = server.work.statement_keys();
    let Opened {
        envelope,
        statement,
        key,
    } = prove::open(&found, &disk, &keys).map_err(|error| broken(&error))?;
    Ok(Reply::ok(json!({
        "id": call.id.to_string(),
        "name": found.name,
        "type": KIND,
        "properties": {
            "signedAt": found.at.to_string(),
            "diskDigest": disk,
            "keyId": key.id(),
            "publicKey": key.pem(),
            "envelope": envelope,
            "statement": statement,
        },
    })))
}

/// Builds the version again from what its build recorded, and compares. The answer is that of the operation.
pub async fn verify(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    need(&server, &call).await?;
    let base = match &call.body["base"] {
        Value::Null => Base::default(),
        given => serde_json::from_value(given.clone())
            .map_err(|_| errors::invalid("base", "The base is 'Rebuild' or 'Reuse'."))?,
    };
    let job = server.work.verify_build(&call.id, base);
    let job = server.submit(&call.permit, job).await?;
    server.polled(Reply::new(StatusCode::ACCEPTED, None), &call, &call.id, job)
}

/// The packages in a version.
pub async fn packages(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    if !call.id.name().eq_ignore_ascii_case("default") {
        return Err(errors::not_found(&call.id));
    }
    let inventory = inventory(&server, &call.permit).await?;
    Ok(Reply::ok(json!({
        "id": call.id.to_string(),
        "name": "default",
        "type": PACKAGES,
        "properties": inventory,
    })))
}

/// What changed in the packages from the version in the body to the path's.
pub async fn compare(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let [base] = &call.links[..] else {
        let message = format!("The body must name a version in '{BASE}'.");
        return Err(ArmError::new(ErrorCode::InvalidRequestContent, message).with_target(BASE));
    };
    let before = inventory(&server, base).await?;
    need(&server, &call).await?;
    let after = inventory(&server, &call.permit).await?;
    Ok(Reply::ok(json!({ "value": difference(&before, &after) })))
}

async fn inventory(server: &Server, permit: &Permit) -> Result<Inventory, ArmError> {
    let disk = disk_of(server, permit).await?;
    let bill = server.statements.bill(permit, &disk).await;
    let Some(bill) = bill.map_err(errors::catalog)? else {
        let message = format!("The packages in '{}' are not known.", permit.scope());
        return Err(ArmError::new(ErrorCode::NotFound, message));
    };
    read_bill(&bill)
}

fn read_bill(bill: &StoredBill) -> Result<Inventory, ArmError> {
    let packages = bill.packages.iter().map(|package| stored(&package.body));
    let mut inventory = Inventory {
        os: stored(&bill.system)?,
        packages: packages.collect::<Result<_, _>>()?,
    };
    inventory
        .packages
        .sort_by(|a, b| (&a.name, &a.architecture).cmp(&(&b.name, &b.architecture)));
    Ok(inventory)
}

fn stored<T: DeserializeOwned>(text: &str) -> Result<T, ArmError> {
    serde_json::from_str(text).map_err(|error| errors::internal("reading packages", &error))
}

/// `?query=CVE-2024-0727` or `?query=openssl<3.0.15`: versions with that flaw or package, and machines that run them.
pub async fn affected(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let text = call.query.get("query").unwrap_or_default();
    let query = Query::parse(text).map_err(|error| errors::invalid("query", error.to_string()))?;
    let limit = top(&call)?.unwrap_or(VERSIONS_USING_MAX);
    let after = skip_token(&call)?;
    let (uses, hits) = match &query {
        Query::Package(package) => {
            let names = BTreeSet::from([package.name().to_owned()]);
            let found = |_: &OsRelease, one: &Package| {
                package.matches(one).then(|| Hit {
                    advisory: String::new(),
                    package: one.name.clone(),
                    version: one.version.clone(),
                    fixed: None,
                })
            };
            hits(&server, &call.permit, &names, found).await?
        }
        Query::Advisory(name) => {
            let known = server.advisories.named(name).await?;
            let names = known.iter().flat_map(|one| &one.affected);
            let names = names.map(|affected| affected.name.clone()).collect();
            let found = |os: &OsRelease, one: &Package| {
                known
                    .iter()
                    .find_map(|advisory: &Advisory| advisory.concerns(os, one))
            };
            hits(&server, &call.permit, &names, found).await?
        }
    };
    if uses.is_empty() {
        return Ok(Reply::ok(json!({ "value": [] })));
    }
    let versions = server
        .statements
        .versions_using(&call.permit, &uses, after.as_ref(), limit)
        .await
        .map_err(errors::catalog)?;
    let machines = match versions.found.is_empty() {
        true => BTreeMap::new(),
        false => machines_by_version(&server, &call.permit).await?,
    };
    let shown = versions.found.iter().map(|one| {
        let mut found: Vec<&Hit> = Vec::new();
        for hit in one.uses.iter().filter_map(|at| hits.get(*at)) {
            if !found.contains(&hit) {
                found.push(hit);
            }
        }
        json!({
            "id": one.version.to_string(),
            "name": one.version.name(),
            "packages": found,
            "virtualMachines": machines.get(one.version.folded()).map(Vec::as_slice).unwrap_or_default(),
        })
    });
    Ok(page_reply(&call, shown.collect(), versions.next))
}

/// The uses of packages that go by one of the names of which `found` says something, and what it says of each. A package
/// and its system are read once, however many disks have them.
async fn hits(
    server: &Server,
    permit: &Permit,
    names: &BTreeSet<String>,
    found: impl Fn(&OsRelease, &Package) -> Option<Hit>,
) -> Result<(Vec<PackageUse>, Vec<Hit>), ArmError> {
    let (mut uses, mut hits) = (Vec::new(), Vec::new());
    // One package may go by two of the names.
    let mut judged: BTreeSet<(i64, String)> = BTreeSet::new();
    for name in names {
        let known = server.statements.uses_of_package(permit, name).await;
        for one in known.map_err(errors::catalog)? {
            if !judged.insert((one.package, one.system.clone())) {
                continue;
            }
            if let Some(hit) = found(&stored(&one.system)?, &stored(&one.body)?) {
                uses.push(one);
                hits.push(hit);
            }
        }
    }
    Ok((uses, hits))
}

/// What of a machine says which version it runs: an id, and a number where that is the id of a definition.
const IMAGE: [&str; 2] = [
    "storageProfile.imageReference.id",
    "storageProfile.imageReference.exactVersion",
];

/// Ids of machines by the version that they run, folded.
async fn machines_by_version(
    server: &Server,
    permit: &Permit,
) -> Result<BTreeMap<String, Vec<String>>, ArmError> {
    let mut by_version: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let machines = Pages::of(&*server.catalog, permit, machines::KIND);
    for machine in machines.members(&IMAGE).await.map_err(errors::catalog)? {
        let [image, exact] = &machine.members[..] else {
            continue;
        };
        let Some(Ok(id)) = image.as_str().map(ResourceId::parse) else {
            continue;
        };
        let version = match exact.as_str() {
            Some(exact) if !id.resource_type().is(versions::KIND) => id.child("versions", exact),
            _ => Ok(id),
        };
        if let Ok(version) = version {
            let known = by_version.entry(version.folded().to_owned()).or_default();
            known.push(machine.id.to_string());
        }
    }
    Ok(by_version)
}
