//! Writing a template: which members a body may have at its api-version, what it links to, and what may change later.
//!
//! Azure refuses to update a template's recipe; so do we, below the api-version from which it is allowed
//! here (a documented quirk: factory as code changes recipes in place).

use std::sync::Arc;

use access::Action;
use catalog::JOB_JSON_BYTES_MAX;
use serde_json::{Map, Value};
use wire::template::fields::{Strictness, UnknownField, settle_template};
use wire::template::{ImageTemplateProperties, SwitchState};
use wire::{ApiVersion, ArmError, ErrorCode, NameRule, ResourceId};

use super::super::{
    Reply, bits, find, groups, images, managed_images, patched, properties, put_reply,
    settle_location, store, tracked, versions,
};
use super::begin;
use crate::body::{self, ResourceBody};
use crate::errors;
use crate::operation::{Call, Link};
use crate::state::Server;

const PUBLISH: &str = "Microsoft.Compute/galleries/images/versions/write";
const IMAGE_WRITE: &str = "Microsoft.Compute/images/write";
const ASSIGN: &str = "Microsoft.ManagedIdentity/userAssignedIdentities/assign/action";
const IDENTITY: &str = "Microsoft.ManagedIdentity/userAssignedIdentities";
const GROUP_WRITE: &str = "Microsoft.Resources/subscriptions/resourceGroups/write";
const READ_ONLY: [&str; 5] = [
    "lastRunStatus",
    "exactStagingResourceGroup",
    "provisioningError",
    "createdAt",
    "bullion",
];
/// Room is left for what else a run's input holds.
const RECIPE_BYTES_MAX: usize = JOB_JSON_BYTES_MAX - 16 * 1024;
/// What may change below the version that allows everything; the last only from 2024-02-01.
const CHANGEABLE: [&str; 2] = ["autoRun", "vmProfile"];
/// What a PATCH may carry.
const PATCHED: [&str; 3] = ["identity", "properties", "tags"];
const PATCHED_PROPERTIES: [&str; 2] = ["distribute", "vmProfile"];
/// Azure's bound of a build's time, in minutes.
const TIMEOUT_MAX: u64 = 960;

/// From this version on, members that are not known are refused, and letters count.
pub(super) fn strictness(version: &ApiVersion) -> Strictness {
    match version.at_least(2024, 2, 1) {
        true => Strictness::Refuse,
        false => Strictness::Tolerate,
    }
}

pub(super) fn unknown(error: UnknownField) -> ArmError {
    let target = error.place.clone();
    validation(&target, format!("Validation failed: {error}."))
}

/// The galleries and images that the template publishes to, the bits that it starts from, the identity that it has.
pub fn links(body: &Value) -> Vec<Link> {
    // A version that does not count letters must not be a way around the permission check.
    let mut settled = body["properties"].as_object().cloned().unwrap_or_default();
    // What is not known is told by the handler.
    let _ = settle_template(&mut settled, Strictness::Tolerate);
    let mut links = Vec::new();
    let mut link = |id: Option<&Value>, action, target| {
        if let Some(id) = id.and_then(Value::as_str) {
            links.push(Link {
                scope: id.to_string(),
                action,
                target,
            });
        }
    };
    let targets = settled.get("distribute").and_then(Value::as_array);
    for target in targets.into_iter().flatten() {
        let gallery = "properties.distribute.galleryImageId";
        link(target.get("galleryImageId"), PUBLISH, gallery);
        link(
            target.get("imageId"),
            IMAGE_WRITE,
            "properties.distribute.imageId",
        );
    }
    for (member, target) in [
        ("imageVersionId", "properties.source.imageVersionId"),
        ("imageId", "properties.source.imageId"),
        ("diskId", "properties.source.diskId"),
    ] {
        let id = settled.get("source").and_then(|source| source.get(member));
        let action = id
            .and_then(Value::as_str)
            .map_or(versions::READ, bits::action);
        link(id, action, target);
    }
    let staging = settled.get("stagingResourceGroup");
    let given = staging.filter(|id| id.as_str().is_some_and(|id| !id.is_empty()));
    link(given, GROUP_WRITE, "properties.stagingResourceGroup");
    let identities = body.pointer("/identity/userAssignedIdentities");
    for id in identities.and_then(Value::as_object).into_iter().flatten() {
        let id = Value::from(id.0.clone());
        link(Some(&id), ASSIGN, "identity.userAssignedIdentities");
    }
    links
}

pub async fn put(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    NameRule::ImageTemplate
        .check(call.id.name())
        .map_err(|error| errors::invalid("imageTemplateName", error.to_string()))?;
    let mut body = ResourceBody::parse(&call.body, &call.id)?;
    let old = find(&server, &call).await?;
    let location = settle_location(&call, &body, old.as_ref())?;
    server.need_region(&location, "location")?;
    settle_template(&mut body.properties, strictness(&call.version)).map_err(unknown)?;
    let kept = old.as_ref().map(properties);
    body::read_only(&mut body.properties, kept.as_ref(), &READ_ONLY);
    body.properties.remove("provisioningState");
    settle_source(&mut body.properties, kept.as_ref());
    let typed = body::typed::<ImageTemplateProperties>(&body.properties)?;
    check_size(&body.properties)?;
    check_profile(&call, &body.properties)?;
    check_identity(body.identity.as_ref())?;
    if let Some(kept) = &kept {
        check_update(&call, kept, &body.properties)?;
    }
    server.work.check_template(&body.properties)?;
    check_targets(&server, &call, &body.properties).await?;
    let staging = check_staging(&server, &call, &location, kept.is_some()).await?;
    if let Some(group) = staging {
        let id = group.to_string();
        body.properties
            .insert("exactStagingResourceGroup".into(), id.into());
    }
    let state = typed.auto_run.and_then(|auto| auto.state);
    let draft = tracked(body, &location, old.as_ref());
    let put = store(&server, &call, old.as_ref(), draft).await?;
    if put.created && state == Some(SwitchState::Enabled) {
        begin(&server, &call, &put.resource).await?;
    }
    Ok(put_reply(&put))
}

/// Tags and identity, and from 2024-02-01 on the profile of the build's machine.
pub async fn patch(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let members = |value: Option<&Value>| -> Vec<String> {
        let members = value.and_then(Value::as_object);
        members.map_or_else(Vec::new, |members| members.keys().cloned().collect())
    };
    let odd = |given: Vec<String>, known: &[&str], place: &str| {
        let odd = given.into_iter().find(|key| !known.contains(&key.as_str()));
        odd.map_or(Ok(()), |field| {
            let place = place.to_owned();
            Err(unknown(UnknownField { place, field }))
        })
    };
    odd(members(Some(&call.body)), &PATCHED, "")?;
    let given = members(call.body.get("properties"));
    odd(given, &PATCHED_PROPERTIES, "properties")?;
    put(Arc::clone(&server), patched(&server, call).await?).await
}

/// `latest` may be left out; what it came to is ours to say, and is of the source that it was said of.
fn settle_source(properties: &mut Map<String, Value>, old: Option<&Map<String, Value>>) {
    let without = |source: &Value| {
        let mut source = source.clone();
        if let Some(source) = source.as_object_mut() {
            source.remove("exactVersion");
        }
        source
    };
    let Some(source) = properties
        .get_mut("source")
        .filter(|source| source.is_object())
    else {
        return;
    };
    let exact = old
        .and_then(|old| old.get("source"))
        .filter(|old| without(old) == without(source))
        .and_then(|old| old.get("exactVersion"));
    match exact {
        Some(exact) => source["exactVersion"] = exact.clone(),
        None => *source = without(source),
    }
}

/// What Azure says of the build's machine and its time, though nothing of it decides how it is built here.
fn check_profile(call: &Call, properties: &Map<String, Value>) -> Result<(), ArmError> {
    let minutes = properties
        .get("buildTimeoutInMinutes")
        .and_then(Value::as_u64);
    if minutes.is_some_and(|minutes| minutes > TIMEOUT_MAX) {
        return Err(validation(
            "properties.buildTimeoutInMinutes",
            format!("The build timeout is at most {TIMEOUT_MAX} minutes."),
        ));
    }
    let network = properties
        .get("vmProfile")
        .and_then(|profile| profile.get("vnetConfig"));
    let given = |member: &str| {
        let text = network.and_then(|network| network.get(member));
        text.and_then(Value::as_str)
            .is_some_and(|text| !text.is_empty())
    };
    let target = "properties.vmProfile.vnetConfig";
    if !given("containerInstanceSubnetId") {
        return Ok(());
    }
    let wrong = match () {
        () if !call.version.at_least(2024, 2, 1) => "needs api-version 2024-02-01 or later",
        () if !given("subnetId") => "needs subnetId",
        () if given("proxyVmSize") => "cannot be used together with proxyVmSize",
        () => return Ok(()),
    };
    Err(validation(
        target,
        format!("containerInstanceSubnetId {wrong}."),
    ))
}

/// None, or exactly one that the user assigned.
fn check_identity(identity: Option<&Value>) -> Result<(), ArmError> {
    let Some(identity) = identity else {
        return Ok(());
    };
    let kind = identity["type"].as_str().unwrap_or_default();
    let ids = identity["userAssignedIdentities"].as_object();
    let count = ids.map_or(0, Map::len);
    let is = |id: &str| ResourceId::parse(id).is_ok_and(|id| id.resource_type().is(IDENTITY));
    let fit = match kind {
        "None" => count == 0,
        "UserAssigned" => count == 1 && ids.is_some_and(|ids| ids.keys().all(|id| is(id))),
        _ => false,
    };
    if fit {
        return Ok(());
    }
    Err(validation(
        "identity",
        "A template has no identity, or exactly one of type UserAssigned.".to_owned(),
    ))
}

/// A group for staging must be there, in the template's region, and empty. Nothing is staged in it here, so none is
/// made where none is given.
async fn check_staging(
    server: &Server,
    call: &Call,
    location: &str,
    known: bool,
) -> Result<Option<ResourceId>, ArmError> {
    let target = "properties.stagingResourceGroup";
    let of_group = |permit: &&access::Permit| permit.action() == &Action::new(GROUP_WRITE);
    let Some(permit) = call.links.iter().find(of_group) else {
        return Ok(None);
    };
    let scope = permit.scope();
    let bad = |why: &str| {
        validation(
            target,
            format!("The staging resource group '{scope}' {why}."),
        )
    };
    if !scope.resource_type().is(groups::KIND) || scope.subscription() != call.id.subscription() {
        return Err(bad(
            "is not a resource group of the template's subscription",
        ));
    }
    let group = match server.catalog.get(&permit.to_read_own()).await {
        Ok(group) => group,
        Err(catalog::CatalogError::NotFound { .. }) => return Err(bad("does not exist")),
        Err(error) => return Err(errors::catalog(error)),
    };
    let here = group.location.unwrap_or_default();
    if wire::Location::new(here) != wire::Location::new(location) {
        return Err(bad("is not in the template's region"));
    }
    let full = server.catalog.has_children(&permit.to_read_own()).await;
    if !known && full.map_err(errors::catalog)? {
        return Err(bad("is not empty"));
    }
    Ok(Some(scope.clone()))
}

/// The definitions and regions that the template names must be there. Links were authorised before.
async fn check_targets(
    server: &Server,
    call: &Call,
    properties: &Map<String, Value>,
) -> Result<(), ArmError> {
    for permit in &call.links {
        let asked = permit.action();
        if asked == &Action::new(PUBLISH) {
            check_gallery(server, permit).await?;
        }
        let is_image = permit.scope().resource_type().is(managed_images::KIND);
        if asked == &Action::new(IMAGE_WRITE) && !is_image {
            return Err(validation(
                "properties.distribute.imageId",
                format!("'{}' is not the id of a managed image.", permit.scope()),
            ));
        }
    }
    let targets = properties.get("distribute").and_then(Value::as_array);
    for target in targets.into_iter().flatten() {
        let regions = target.get("targetRegions").and_then(Value::as_array);
        let names = regions
            .into_iter()
            .flatten()
            .filter_map(|region| region.get("name"));
        let old_names = target.get("replicationRegions").and_then(Value::as_array);
        for name in names.chain(old_names.into_iter().flatten()) {
            let name = name.as_str().unwrap_or_default();
            server.need_region(name, "properties.distribute.targetRegions")?;
        }
        if let Some(location) = target.get("location").and_then(Value::as_str) {
            server.need_region(location, "properties.distribute.location")?;
        }
        if let Some(uri) = target.get("uri").and_then(Value::as_str) {
            check_blob(server, call, uri, "properties.distribute.uri")?;
        }
    }
    let source = properties
        .get("source")
        .and_then(|source| source.get("uri"));
    if let Some(uri) = source.and_then(Value::as_str) {
        check_blob(server, call, uri, "properties.source.uri")?;
    }
    Ok(())
}

async fn check_gallery(server: &Server, permit: &access::Permit) -> Result<(), ArmError> {
    let scope = permit.scope();
    let pinned = scope.resource_type().is(versions::KIND);
    let definition = if pinned {
        scope.parent()
    } else {
        Some(scope.clone())
    };
    let definition = definition.filter(|definition| definition.resource_type().is(images::KIND));
    let Some(definition) = definition else {
        return Err(validation(
            "properties.distribute.galleryImageId",
            format!("'{scope}' is not the id of an image definition."),
        ));
    };
    let above = permit.to_read_ancestor(&definition);
    let own = || permit.to_read_own();
    if !server.exists(&above.unwrap_or_else(own)).await? {
        return Err(validation(
            "properties.distribute.galleryImageId",
            format!("The image definition '{definition}' does not exist; create it first."),
        ));
    }
    Ok(())
}

/// A file that a template reads or writes lies in this server's blob folder.
fn check_blob(server: &Server, call: &Call, uri: &str, target: &str) -> Result<(), ArmError> {
    let refused = |error: crate::blobs::BlobError| {
        let shown: String = uri.chars().take(200).collect();
        validation(
            target,
            format!("The URI '{shown}' cannot be used: {error}."),
        )
    };
    let blobs = server.blobs.as_ref();
    let blobs = blobs.ok_or_else(|| refused(crate::blobs::BlobError::None))?;
    let named = blobs.own_name(uri, &call.base, &server.url);
    named.map(drop).map_err(refused)
}

/// A run takes a copy of the recipe with it: what is too large for that is refused here, not at the run.
fn check_size(properties: &Map<String, Value>) -> Result<(), ArmError> {
    let bytes = serde_json::to_vec(properties).map_or(usize::MAX, |text| text.len());
    if bytes <= RECIPE_BYTES_MAX {
        return Ok(());
    }
    Err(ArmError::new(
        ErrorCode::RequestEntityTooLarge,
        format!(
            "The template has {bytes} bytes, more than {RECIPE_BYTES_MAX}. Give large files by a URI with their \
             SHA-256, put them into a package, or split the template in two."
        ),
    ))
}

pub(super) fn validation(target: &str, message: String) -> ArmError {
    ArmError::new(ErrorCode::ValidationFailed, message).with_target(target)
}

fn check_update(
    call: &Call,
    old: &Map<String, Value>,
    new: &Map<String, Value>,
) -> Result<(), ArmError> {
    if call.version.at_least(2026, 11, 1) {
        return Ok(());
    }
    let changeable = |key: &str| {
        key == CHANGEABLE[0] || (key == CHANGEABLE[1] && call.version.at_least(2024, 2, 1))
    };
    let own = |key: &str| READ_ONLY.contains(&key);
    // Clients send back what they read, with what they know no value of left out or null.
    let said = |properties: &Map<String, Value>, key: &str| {
        let value = properties.get(key).cloned().unwrap_or_default();
        without_nothing(value)
    };
    let differs = |key: &String| !own(key) && !changeable(key) && said(old, key) != said(new, key);
    if !old.keys().chain(new.keys()).any(differs) {
        return Ok(());
    }
    Err(errors::conflict(
        "Update/Upgrade of image templates is currently not supported. From api-version 2026-11-01 on \
         this server allows it.",
    ))
}

/// The value without what says nothing: nulls, empty lists, texts and objects, and what is off.
fn without_nothing(value: Value) -> Value {
    let nothing = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.is_empty(),
        Value::Object(members) => members.is_empty(),
        Value::Number(number) => number.as_u64() == Some(0),
        Value::Bool(true) => false,
    };
    match value {
        Value::Object(members) => {
            let settled = members
                .into_iter()
                .map(|(key, value)| (key, without_nothing(value)));
            let kept: Map<String, Value> = settled.filter(|(_, value)| !nothing(value)).collect();
            match kept.is_empty() {
                true => Value::Null,
                false => Value::Object(kept),
            }
        }
        Value::Array(values) => Value::Array(values.into_iter().map(without_nothing).collect()),
        other if nothing(&other) => Value::Null,
        other => other,
    }
}
