//! Role definitions, who was assigned which, and what a principal's assignments add up to.

use serde::{Deserialize, Serialize};
use wire::{PrincipalId, ResourceId, TenantId, roles};

use crate::Action;

/// The GUID of a role definition, in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RoleId(String);

impl RoleId {
    /// From a bare GUID or from the id of a role definition, whose last segment it is.
    pub fn new(text: &str) -> Self {
        let guid = text.rsplit('/').next().unwrap_or_default();
        Self(guid.to_ascii_lowercase())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a role allows: the actions less the not-actions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RolePermission {
    pub actions: &'static [&'static str],
    pub not_actions: &'static [&'static str],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoleDefinition {
    pub guid: &'static str,
    pub name: &'static str,
    pub description: &'static str,
    pub permission: RolePermission,
}

impl RoleDefinition {
    pub fn id(&self) -> RoleId {
        RoleId::new(self.guid)
    }

    pub fn allows(&self, action: &Action) -> bool {
        let any = |patterns: &[&str]| patterns.iter().any(|pattern| action.matches(pattern));
        any(self.permission.actions) && !any(self.permission.not_actions)
    }
}

/// Azure's action lists where Azure has the role (its built-in roles reference).
const BUILT_IN: &[RoleDefinition] = &[
    RoleDefinition {
        guid: roles::OWNER.guid,
        name: roles::OWNER.name,
        description: "Grants full access to manage all resources, including the ability to assign roles.",
        permission: RolePermission {
            actions: &["*"],
            not_actions: &[],
        },
    },
    RoleDefinition {
        guid: roles::CONTRIBUTOR.guid,
        name: roles::CONTRIBUTOR.name,
        description: "Grants full access to manage all resources, but does not allow assigning roles.",
        permission: RolePermission {
            actions: &["*"],
            not_actions: &[
                "Microsoft.Authorization/*/Delete",
                "Microsoft.Authorization/*/Write",
                "Microsoft.Authorization/elevateAccess/Action",
                "Microsoft.Compute/galleries/share/action",
                "Bullion.Factory/applications/write",
                "Bullion.Factory/applications/delete",
                "Bullion.Factory/applications/addPassword/action",
                "Bullion.Factory/servicePrincipals/write",
                "Bullion.Factory/servicePrincipals/delete",
                "Bullion.Factory/tenants/write",
                "Bullion.Factory/tenants/delete",
                "Bullion.Factory/promotions/approve/action",
                "Bullion.Factory/promotions/reject/action",
            ],
        },
    },
    RoleDefinition {
        guid: roles::READER.guid,
        name: roles::READER.name,
        description: "View all resources, but does not allow making any changes.",
        permission: RolePermission {
            actions: &["*/read"],
            not_actions: &[],
        },
    },
    RoleDefinition {
        guid: roles::USER_ACCESS_ADMINISTRATOR.guid,
        name: roles::USER_ACCESS_ADMINISTRATOR.name,
        description: "Lets you manage user access to resources.",
        permission: RolePermission {
            actions: &["*/read", "Microsoft.Authorization/*"],
            not_actions: &[],
        },
    },
    RoleDefinition {
        guid: roles::GALLERY_IMAGE_READER.guid,
        name: roles::GALLERY_IMAGE_READER.name,
        description: "This is the role for reading gallery images.",
        permission: RolePermission {
            actions: &[
                "Microsoft.Compute/galleries/images/read",
                "Microsoft.Compute/galleries/images/versions/read",
            ],
            not_actions: &[],
        },
    },
    RoleDefinition {
        guid: roles::GALLERY_PUBLISHER.guid,
        name: roles::GALLERY_PUBLISHER.name,
        description: "This is the role for publishing gallery artifacts.",
        permission: RolePermission {
            actions: &[
                "Microsoft.Compute/galleries/images/read",
                "Microsoft.Compute/galleries/images/write",
                "Microsoft.Compute/galleries/images/versions/read",
                "Microsoft.Compute/galleries/images/versions/write",
                "Microsoft.Compute/galleries/read",
                "Microsoft.Resources/subscriptions/resourceGroups/read",
            ],
            not_actions: &[],
        },
    },
    RoleDefinition {
        guid: roles::PROMOTION_REQUESTER.guid,
        name: roles::PROMOTION_REQUESTER.name,
        description: "Lets you ask for promotions and cancel them. What a promotion does, it does as its stage's application.",
        permission: RolePermission {
            actions: &[
                "Bullion.Factory/pipelines/read",
                "Bullion.Factory/promotions/read",
                "Bullion.Factory/promotions/write",
                "Bullion.Factory/promotions/cancel/action",
                "Bullion.Factory/operations/read",
                "Microsoft.Resources/subscriptions/read",
                "Microsoft.Resources/subscriptions/resourceGroups/read",
            ],
            not_actions: &[],
        },
    },
    RoleDefinition {
        guid: roles::PROMOTION_APPROVER.guid,
        name: roles::PROMOTION_APPROVER.name,
        description: "Lets you approve and reject promotions that others asked for.",
        permission: RolePermission {
            actions: &[
                "Bullion.Factory/pipelines/read",
                "Bullion.Factory/promotions/read",
                "Bullion.Factory/promotions/approve/action",
                "Bullion.Factory/promotions/reject/action",
                "Bullion.Factory/operations/read",
                "Microsoft.Resources/subscriptions/read",
                "Microsoft.Resources/subscriptions/resourceGroups/read",
            ],
            not_actions: &[],
        },
    },
];

pub fn built_in_roles() -> &'static [RoleDefinition] {
    BUILT_IN
}

pub fn built_in_role(id: &RoleId) -> Option<&'static RoleDefinition> {
    BUILT_IN.iter().find(|role| role.guid == id.as_str())
}

/// A role, given to a principal, at a scope and everything below it, in one tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    pub tenant: TenantId,
    pub principal: PrincipalId,
    pub role: RoleId,
    pub scope: ResourceId,
}

/// All assignments of one principal in one tenant, read before there is a permit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grants {
    tenant: TenantId,
    principal: PrincipalId,
    assignments: Vec<Assignment>,
}

impl Grants {
    /// Assignments of others or in other tenants are dropped: they must never count.
    pub fn new(tenant: TenantId, principal: PrincipalId, assignments: Vec<Assignment>) -> Self {
        let assignments = assignments
            .into_iter()
            .filter(|a| a.tenant == tenant && a.principal == principal)
            .collect();
        Self {
            tenant,
            principal,
            assignments,
        }
    }

    pub fn tenant(&self) -> TenantId {
        self.tenant
    }

    pub fn principal(&self) -> PrincipalId {
        self.principal
    }

    /// Whether the principal was given nothing in this tenant.
    pub fn is_empty(&self) -> bool {
        self.assignments.is_empty()
    }

    /// Scopes at which anything is allowed.
    pub(crate) fn any_scopes(&self) -> impl Iterator<Item = &ResourceId> {
        self.assignments
            .iter()
            .filter(|a| built_in_role(&a.role).is_some())
            .map(|a| &a.scope)
    }

    /// Scopes at which the action is allowed.
    pub(crate) fn scopes<'a>(&'a self, action: &'a Action) -> impl Iterator<Item = &'a ResourceId> {
        self.assignments
            .iter()
            .filter(|a| built_in_role(&a.role).is_some_and(|role| role.allows(action)))
            .map(|a| &a.scope)
    }
}
