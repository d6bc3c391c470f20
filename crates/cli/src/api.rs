//! The api-version that each kind of resource is addressed with, and paths made from ids.

use wire::ResourceId;

/// Our own resources, and image templates: from this version on templates can be updated.
pub const BULLION: &str = "2026-11-01";
pub const COMPUTE_GALLERY: &str = "2026-03-03";
pub const COMPUTE_VM: &str = "2025-04-01";
/// Disks and what encrypts them.
pub const COMPUTE_DISKS: &str = "2025-01-02";
pub const RESOURCES: &str = "2024-11-01";
pub const SUBSCRIPTIONS: &str = "2022-12-01";
/// Role assignments.
pub const AUTHORIZATION: &str = "2022-04-01";
/// Policy definitions, initiatives and assignments.
pub const POLICY: &str = "2025-01-01";

/// States of policies.
pub const POLICY_INSIGHTS: &str = "2019-10-01";

/// The version that a resource of this type is read and written with.
pub fn version_of(id: &ResourceId) -> &'static str {
    let kind = id.resource_type();
    match kind.namespace() {
        "Microsoft.Compute" if kind.is("Microsoft.Compute/virtualMachines") => COMPUTE_VM,
        "Microsoft.Compute" if kind.is("Microsoft.Compute/diskEncryptionSets") => COMPUTE_DISKS,
        "Microsoft.Compute" => COMPUTE_GALLERY,
        "Microsoft.Authorization" if kind.is("Microsoft.Authorization/roleAssignments") => {
            AUTHORIZATION
        }
        "Microsoft.Authorization" => POLICY,
        "Microsoft.Resources" if kind.is("Microsoft.Resources/subscriptions") => SUBSCRIPTIONS,
        "Microsoft.Resources" => RESOURCES,
        _ => BULLION,
    }
}

/// The path of a resource with its api-version.
pub fn path(id: &ResourceId) -> String {
    format!("{id}?api-version={}", version_of(id))
}

/// The path of a list or an action below an id: `collection(rg, "/providers/…/galleries", v)`.
pub fn below(id: &ResourceId, rest: &str, version: &str) -> String {
    let base = id.to_string();
    let base = base.trim_end_matches('/');
    format!("{base}{rest}?api-version={version}")
}
