//! What a custom role may name: the operations of this server's table, and those that Azure has beside them, so that a
//! role which was written for Azure can be brought along.
//!
//! `Microsoft.Authorization/providerOperations` shows the first kind.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use access::Action;
use serde_json::{Value, json};
use wire::ArmError;

use crate::errors;
use crate::operation::Call;
use crate::resources::Reply;
use crate::state::Server;
use crate::table;

pub const KIND: &str = "Microsoft.Authorization/providerOperations";
/// A pattern's length; Azure's longest operation has under 200.
const BYTES_MAX: usize = 256;

/// Types of Azure in namespaces that are served here, which are not: naming them is no mistake, and allows nothing.
const ELSEWHERE: &[&str] = &[
    "Microsoft.Compute/availabilitySets",
    "Microsoft.Compute/capacityReservationGroups",
    "Microsoft.Compute/cloudServices",
    "Microsoft.Compute/diskAccesses",
    "Microsoft.Compute/diskEncryptionSets",
    "Microsoft.Compute/disks",
    "Microsoft.Compute/galleries/applications",
    "Microsoft.Compute/galleries/inVMAccessControlProfiles",
    "Microsoft.Compute/galleries/scripts",
    "Microsoft.Compute/hostGroups",
    "Microsoft.Compute/locations",
    "Microsoft.Compute/operations",
    "Microsoft.Compute/proximityPlacementGroups",
    "Microsoft.Compute/register",
    "Microsoft.Compute/restorePointCollections",
    "Microsoft.Compute/skus",
    "Microsoft.Compute/snapshots",
    "Microsoft.Compute/sshPublicKeys",
    "Microsoft.Compute/virtualMachineScaleSets",
    "Microsoft.Compute/virtualMachines",
    "Microsoft.Authorization/classicAdministrators",
    "Microsoft.Authorization/elevateAccess",
    "Microsoft.Authorization/permissions",
    "Microsoft.Authorization/roleAssignmentScheduleRequests",
    "Microsoft.Authorization/roleEligibilityScheduleRequests",
    "Microsoft.Resources/checkResourceName",
    "Microsoft.Resources/deployments",
    "Microsoft.Resources/links",
    "Microsoft.Resources/subscriptions",
    "Microsoft.Resources/tags",
    "Microsoft.ManagedIdentity/userAssignedIdentities",
    "Microsoft.PolicyInsights/remediations",
    "Microsoft.PolicyInsights/policyTrackedResources",
    "Microsoft.PolicyInsights/policyEvents",
    "Microsoft.VirtualMachineImages/imageTemplates/triggers",
];

/// Whether an action, or a pattern of actions, means anything.
pub fn is_known(pattern: &str) -> bool {
    if pattern == "*" {
        return true;
    }
    if pattern.len() > BYTES_MAX || !pattern.contains('/') {
        return false;
    }
    let fit = |c: char| c.is_ascii_alphanumeric() || "./*-_".contains(c);
    if !pattern.chars().all(fit) || pattern.contains("//") {
        return false;
    }
    let matches = |action: &str| Action::new(action).matches(pattern);
    table::actions().any(matches) || is_elsewhere(pattern)
}

/// `{namespace}/{type}…/{read|write|delete|…/action}` of something that Azure has.
fn is_elsewhere(pattern: &str) -> bool {
    let ends = ["/read", "/write", "/delete", "/action", "/*"];
    let folded = pattern.to_lowercase();
    let Some((namespace, _)) = folded.split_once('/') else {
        return false;
    };
    if !ends.iter().any(|end| folded.ends_with(end)) {
        return false;
    }
    let served = table::namespaces()
        .keys()
        .any(|one| one.to_lowercase() == namespace);
    if !served {
        return namespace.starts_with("microsoft.") && !namespace.contains('*');
    }
    // Types whose operations are all here are not among these, so a slip in one of them is found.
    ELSEWHERE.iter().any(|known| {
        let known = known.to_lowercase();
        let rest = folded.strip_prefix(&known);
        let deeper = rest.is_some_and(|rest| rest.matches('/').count() > 1);
        let verbs = ["/read", "/write", "/delete", "/*"];
        deeper || rest.is_some_and(|rest| verbs.contains(&rest))
    })
}

pub async fn all(_server: Arc<Server>, _call: Call) -> Result<Reply, ArmError> {
    let shown: Vec<Value> = by_namespace()
        .into_iter()
        .map(|(namespace, actions)| shown(&namespace, &actions))
        .collect();
    Ok(Reply::ok(json!({ "value": shown })))
}

pub async fn one(_server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let name = call.id.name();
    let all = by_namespace();
    let found = all
        .iter()
        .find(|(namespace, _)| namespace.eq_ignore_ascii_case(name));
    match found {
        Some((namespace, actions)) => Ok(Reply::ok(shown(namespace, actions))),
        None => Err(errors::not_found(&call.id)),
    }
}

fn by_namespace() -> BTreeMap<String, BTreeSet<&'static str>> {
    let mut all: BTreeMap<String, BTreeSet<&'static str>> = BTreeMap::new();
    for action in table::actions() {
        let namespace = action.split('/').next().unwrap_or_default();
        all.entry(namespace.to_string()).or_default().insert(action);
    }
    all
}

fn shown(namespace: &str, actions: &BTreeSet<&'static str>) -> Value {
    let operations: Vec<Value> = actions
        .iter()
        .map(|action| json!({ "name": action, "displayName": action, "isDataAction": false }))
        .collect();
    json!({
        "id": format!("/providers/{KIND}/{namespace}"),
        "type": KIND,
        "name": namespace,
        "displayName": namespace,
        "resourceTypes": [],
        "operations": operations,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_that_mean_something() {
        let check = |pattern: &str, expected: bool| {
            assert_eq!(is_known(pattern), expected, "{pattern}");
        };
        check("*", true);
        check("*/read", true);
        check("Microsoft.Compute/*", true);
        check("microsoft.compute/GALLERIES/write", true);
        check("Microsoft.Compute/galleries/images/versions/*", true);
        check("Microsoft.Compute/galleries/fly/action", false);
        check("Microsoft.Compute/galleris/read", false);
        check("Microsoft.Compute/galleries", false);
        check("Microsoft.Compute/disks/beginGetAccess/action", true);
        check("Microsoft.Compute/availabilitySets/read", true);
        check(
            "Microsoft.Network/virtualNetworks/subnets/join/action",
            true,
        );
        check("Contoso.Network/x/read", false);
        check("Microsoft.Network/x", false);
        check("Bullion.Factory/pipelines/write", true);
        check("Bullion.Factory/pipelnes/write", false);
        check("read", false);
        check("", false);
        check("Microsoft.Compute/gall eries/read", false);
    }
}
