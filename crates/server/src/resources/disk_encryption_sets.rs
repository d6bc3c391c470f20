//! `Microsoft.Compute/diskEncryptionSets`: keys of a tenant's own. What a set encrypts in its region lies there in a dedup
//! domain of its own, whose secret the set's key wraps.
//!
//! The resource says which key it is; the stores and the key itself are the factory's. A set that encrypts a version
//! cannot be deleted, but erased it can be at any time.

use std::sync::Arc;

use access::{Action, Permit, SystemReason};
use catalog::{Catalog, Pages, Resource};
use factory::domains::{DomainState, Phase};
use serde_json::{Map, Value, json};
use wire::{ArmError, ErrorCode, NameRule, ResourceId, TenantId};

use super::{
    Reply, delete, find, list, need, present, properties, settle_location, store, tracked, versions,
};
use crate::body::{self, ResourceBody};
use crate::operation::Call;
use crate::state::Server;
use crate::work::DomainAsked;
use crate::{errors, managed};

pub const KIND: &str = "Microsoft.Compute/diskEncryptionSets";
pub const READ: &str = "Microsoft.Compute/diskEncryptionSets/read";
pub const ASSOCIATED: &str = "Microsoft.Compute/diskEncryptionSets/associatedResources";
pub const ROTATE: &str = "Microsoft.Compute/diskEncryptionSets/rotateKey";
pub const ERASE: &str = "Microsoft.Compute/diskEncryptionSets/erase";
const TYPES: [&str; 3] = [
    "EncryptionAtRestWithCustomerKey",
    "EncryptionAtRestWithPlatformAndCustomerKeys",
    "ConfidentialVmEncryptedWithCustomerKey",
];
const TYPE: &str = "properties.encryptionType";
const KEY: &str = "properties.activeKey.keyUrl";
const ROTATES: &str = "rotationToLatestKeyVersionEnabled";
const KEPT: [&str; 3] = ["activeKey", "encryptionType", ROTATES];
/// Written by the service alone.
const READ_ONLY: [&str; 4] = [
    "bullion",
    "previousKeys",
    "lastKeyRotationTimestamp",
    "autoKeyRotationError",
];

pub async fn put(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    NameRule::ImageDefinition
        .check(call.id.name())
        .map_err(|error| errors::invalid("diskEncryptionSetName", error.to_string()))?;
    let mut body = ResourceBody::parse(&call.body, &call.id)?;
    let old = find(&server, &call).await?;
    let location = settle_location(&call, &body, old.as_ref())?;
    server.need_region(&location, "location")?;
    let kept = old.as_ref().map(properties);
    body::keep(&mut body.properties, kept.as_ref(), &KEPT);
    body::read_only(&mut body.properties, kept.as_ref(), &READ_ONLY);
    let rotates = settle(kept.as_ref(), &mut body.properties)?;
    let identity = managed::settle(&server, &call, body.identity.as_ref(), old.as_ref()).await?;
    body.identity = None;
    call.preconditions.check(old.as_ref())?;
    let key_url = body.properties["activeKey"]["keyUrl"].as_str();
    let known = kept.as_ref().map(|kept| &kept["activeKey"]["keyUrl"]);
    let asked = DomainAsked {
        set: call.id.clone(),
        tenant: call.permit.tenant(),
        region: wire::Location::new(&location),
        // What the resource said before is no wish for an older version of the key.
        key_url: key_url
            .filter(|url| known.and_then(Value::as_str) != Some(url))
            .map(str::to_string),
        own: vec![call.base.url("", &[]), server.url.clone()],
        rotates,
    };
    let state = server.work.put_domain(asked).await?;
    show_key(&server, &mut body.properties, &state);
    let draft = identity.on(tracked(body, &location, old.as_ref()));
    let is_new = old.is_none();
    match store(&server, &call, old.as_ref(), draft).await {
        // Clients of sets know no 201.
        Ok(put) => Ok(Reply::ok(shown(&server, &put.resource).await)),
        Err(error) => {
            if is_new && find(&server, &call).await?.is_none() {
                server.work.remove_domain(&call.id).await?;
            }
            Err(error)
        }
    }
}

/// Whether newer versions of the key are taken by themselves.
fn settle(
    old: Option<&Map<String, Value>>,
    properties: &mut Map<String, Value>,
) -> Result<bool, ArmError> {
    let kind = properties.get("encryptionType").and_then(Value::as_str);
    let kind = kind.unwrap_or(TYPES[0]);
    let known = TYPES.iter().find(|known| known.eq_ignore_ascii_case(kind));
    match known {
        Some(known) if *known == TYPES[0] => {
            properties.insert("encryptionType".into(), TYPES[0].into());
        }
        Some(known) => {
            let message = format!(
                "This installation has no sets of the type '{known}'; use '{}'.",
                TYPES[0]
            );
            return Err(errors::invalid(TYPE, message));
        }
        None => {
            let message = format!("The encryption type must be one of {}.", TYPES.join(", "));
            return Err(errors::invalid(TYPE, message));
        }
    }
    let client = properties.get("federatedClientId").and_then(Value::as_str);
    if client.is_some_and(|client| !client.is_empty() && client != "None") {
        return Err(errors::invalid(
            "properties.federatedClientId",
            "Keys in another tenant's vault are not supported.",
        ));
    }
    match properties.get("activeKey") {
        None | Some(Value::Null) => {
            properties.insert("activeKey".into(), json!({}));
        }
        Some(Value::Object(key)) => match key.get("keyUrl") {
            None | Some(Value::Null | Value::String(_)) => {}
            Some(_) => return Err(body::wrong_type(KEY, "a string")),
        },
        Some(_) => return Err(body::wrong_type("properties.activeKey", "an object")),
    }
    if old.is_none() {
        properties.insert("previousKeys".into(), json!([]));
    }
    match properties.get(ROTATES) {
        None | Some(Value::Null) => {
            properties.insert(ROTATES.into(), false.into());
            Ok(false)
        }
        Some(Value::Bool(rotates)) => Ok(*rotates),
        Some(_) => Err(body::wrong_type(
            &format!("properties.{ROTATES}"),
            "true or false",
        )),
    }
}

fn show_key(server: &Server, properties: &mut Map<String, Value>, state: &DomainState) {
    let url = match state.key_path.strip_prefix('/') {
        Some(_) => format!("{}{}", server.url.trim_end_matches('/'), state.key_path),
        None => state.key_path.clone(),
    };
    let active = properties.entry("activeKey").or_insert_with(|| json!({}));
    active["keyUrl"] = url.into();
    if let Some(at) = &state.rotated_at {
        properties.insert("lastKeyRotationTimestamp".into(), at.clone().into());
    }
}

/// As it is now: a key may have been rotated, and stores come and go.
async fn shown(server: &Server, set: &Resource) -> Value {
    let mut shown = present(set);
    let state = server.work.domain_state(&set.id).await;
    if let (Some(state), Some(properties)) = (state, shown["properties"].as_object_mut()) {
        show_key(server, properties, &state);
        properties.insert("bullion".into(), json!(state));
    }
    shown
}

pub async fn get(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let set = need(&server, &call).await?;
    Ok(Reply::ok(shown(&server, &set).await))
}

/// What is live is in each set's own answer.
pub async fn all(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    list(&server, &call, KIND, |set| Some(present(set))).await
}

/// The versions that the set encrypts.
pub async fn associated(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    need(&server, &call).await?;
    let used = users(&*server.catalog, &call.id, call.permit.tenant()).await?;
    let ids: Vec<String> = used.iter().map(ToString::to_string).collect();
    Ok(Reply::ok(json!({ "value": ids })))
}

/// Has the newest version of the key wrap the secret. No block is written anew.
pub async fn rotate(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let set = need(&server, &call).await?;
    server.work.rotate_domain(&set.id).await?;
    Ok(Reply::ok(shown(&server, &set).await))
}

/// Takes the domain's secret away for good, where `confirm` names the set; else tells what that would come to.
pub async fn erase(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let set = need(&server, &call).await?;
    let confirmed = match &call.body["confirm"] {
        Value::Null => false,
        Value::String(name) if name.eq_ignore_ascii_case(set.id.name()) => true,
        _ => {
            let message = format!(
                "To erase everything that the set encrypts, 'confirm' must be its name, '{}'. Without 'confirm' nothing \
                 is erased, and the answer says what would be.",
                set.id.name()
            );
            return Err(errors::invalid("confirm", message));
        }
    };
    let erasure = server.work.erase_domain(&set.id, confirmed).await?;
    let used = users(&*server.catalog, &set.id, call.permit.tenant()).await?;
    let used: Vec<String> = used.iter().map(ToString::to_string).collect();
    let mut shown = json!(erasure);
    shown["done"] = confirmed.into();
    shown["versions"] = used.into();
    Ok(Reply::ok(shown))
}

/// First the secret and the stores, then the resource: what an interruption leaves can be deleted again.
pub async fn remove(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let Some(set) = find(&server, &call).await? else {
        return Ok(Reply::no_content());
    };
    call.preconditions.check(Some(&set))?;
    need_unused(&*server.catalog, &set.id, call.permit.tenant(), |_| true).await?;
    server.work.remove_domain(&set.id).await?;
    delete(&server, &call).await
}

/// That no version which `counts` is encrypted by the set, soft-deleted ones too.
pub async fn need_unused(
    catalog: &dyn Catalog,
    set: &ResourceId,
    tenant: TenantId,
    counts: impl Fn(&ResourceId) -> bool,
) -> Result<(), ArmError> {
    let used = users(catalog, set, tenant).await?;
    let Some(user) = used.iter().find(|user| counts(user)) else {
        return Ok(());
    };
    let message = format!(
        "The disk encryption set '{}' cannot be deleted, because it encrypts {user}. Delete what it encrypts first, or \
         erase it.",
        set.name()
    );
    Err(ArmError::new(ErrorCode::OperationNotAllowed, message))
}

/// Versions that name the set. They are in its subscription.
async fn users(
    catalog: &dyn Catalog,
    set: &ResourceId,
    tenant: TenantId,
) -> Result<Vec<ResourceId>, ArmError> {
    let subscription = set.subscription().map(ResourceId::subscription_scope);
    let scope = subscription.unwrap_or_else(ResourceId::root);
    let permit = Permit::system(
        SystemReason::Reconcile,
        Action::new(versions::READ),
        scope,
        tenant,
    );
    let all = Pages::of(catalog, &permit, versions::KIND).all().await;
    let all = all.map_err(errors::catalog)?;
    let names = |version: &&Resource| {
        let sets = factory::replicate::sets_of(version);
        sets.iter().any(|one| one == set)
    };
    Ok(all.iter().filter(names).map(|one| one.id.clone()).collect())
}

/// That a set may encrypt new disks.
pub async fn need_active(server: &Server, set: &Resource, target: &str) -> Result<(), ArmError> {
    let state = server.work.domain_state(&set.id).await;
    match state.map(|state| state.state) {
        Some(Phase::Active) => Ok(()),
        _ => Err(errors::invalid(
            target,
            format!(
                "The disk encryption set '{}' was erased and encrypts nothing any more.",
                set.id
            ),
        )),
    }
}
