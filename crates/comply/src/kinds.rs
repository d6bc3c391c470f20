//! Names of the resource types that policies are made of, and which types policies look at.

use wire::ResourceId;

pub const DEFINITIONS: &str = "Microsoft.Authorization/policyDefinitions";
pub const SET_DEFINITIONS: &str = "Microsoft.Authorization/policySetDefinitions";
pub const DEFINITION_VERSIONS: &str = "Microsoft.Authorization/policyDefinitions/versions";
pub const SET_DEFINITION_VERSIONS: &str = "Microsoft.Authorization/policySetDefinitions/versions";
pub const ASSIGNMENTS: &str = "Microsoft.Authorization/policyAssignments";
pub const EXEMPTIONS: &str = "Microsoft.Authorization/policyExemptions";
pub const ATTESTATIONS: &str = "Microsoft.PolicyInsights/attestations";
pub const MANAGEMENT_GROUPS: &str = "Microsoft.Management/managementGroups";
pub const SUBSCRIPTIONS: &str = "Microsoft.Resources/subscriptions";
pub const MACHINES: &str = "Microsoft.Compute/virtualMachines";
pub const IMAGES: &str = "Microsoft.Compute/galleries/images";
pub const VERSIONS: &str = "Microsoft.Compute/galleries/images/versions";
/// How policies name resource groups; everybody else says `Microsoft.Resources/resourceGroups`.
pub const RESOURCE_GROUPS: &str = "Microsoft.Resources/subscriptions/resourceGroups";
pub(crate) const OWN_RESOURCE_GROUPS: &str = "Microsoft.Resources/resourceGroups";

/// What policies consist of, and so never act upon: otherwise one could keep itself from being removed.
const NEVER: &[&str] = &["microsoft.authorization", "microsoft.policyinsights"];

/// The type under which policies know a resource.
pub fn of(id: &ResourceId) -> String {
    let kind = id.resource_type();
    match kind.is(OWN_RESOURCE_GROUPS) {
        true => RESOURCE_GROUPS.to_owned(),
        false => kind.to_string(),
    }
}

/// Whether policies look at this resource at all: a subscription and what is in it.
pub fn reached(id: &ResourceId) -> bool {
    let kind = id.resource_type();
    let namespace = kind.namespace();
    id.subscription().is_some()
        && !NEVER
            .iter()
            .any(|never| namespace.eq_ignore_ascii_case(never))
}

/// Whether a change of this resource changes what policies there are or whom they reach.
pub fn makes_policy(id: &ResourceId) -> bool {
    let kind = id.resource_type();
    [
        DEFINITIONS,
        SET_DEFINITIONS,
        DEFINITION_VERSIONS,
        SET_DEFINITION_VERSIONS,
        ASSIGNMENTS,
        EXEMPTIONS,
        ATTESTATIONS,
        MANAGEMENT_GROUPS,
        SUBSCRIPTIONS,
    ]
    .iter()
    .any(|policy| kind.is(policy))
}
