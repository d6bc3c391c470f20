//! Role definitions: the built-in ones, and who was assigned which.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use serde::{Deserialize, Serialize};
use wire::{PrincipalId, ResourceId, TenantId, roles};

use crate::Action;
use crate::permissions::{Permissions, Role};

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
        built_in_ready(&self.id()).is_some_and(|role| role.allows(action))
    }

    /// As custom roles write theirs.
    pub fn permissions(&self) -> Permissions {
        let list = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Permissions {
            actions: list(self.permission.actions),
            not_actions: list(self.permission.not_actions),
            ..Permissions::default()
        }
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
                "Bullion.Factory/applications/*/action",
                "Bullion.Factory/applications/*/write",
                "Bullion.Factory/applications/*/delete",
                "Bullion.Factory/users/write",
                "Bullion.Factory/users/delete",
                "Bullion.Factory/groups/write",
                "Bullion.Factory/groups/delete",
                "Bullion.Factory/groups/*/write",
                "Bullion.Factory/groups/*/delete",
                "Bullion.Factory/signingKeys/*/action",
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
        guid: roles::GALLERY_SHARING_ADMIN.guid,
        name: roles::GALLERY_SHARING_ADMIN.name,
        description: "This role allows user to share gallery to another subscription/tenant or share it to the public.",
        permission: RolePermission {
            actions: &[
                "Microsoft.Compute/galleries/read",
                "Microsoft.Compute/galleries/share/action",
            ],
            not_actions: &[],
        },
    },
    RoleDefinition {
        guid: roles::POLICY_CONTRIBUTOR.guid,
        name: roles::POLICY_CONTRIBUTOR.name,
        description: "Users with rights to create/modify resource policy, create support ticket and read resources/hierarchy.",
        permission: RolePermission {
            actions: &[
                "*/read",
                "Microsoft.Authorization/policyassignments/*",
                "Microsoft.Authorization/policydefinitions/*",
                "Microsoft.Authorization/policyexemptions/*",
                "Microsoft.Authorization/policysetdefinitions/*",
                "Microsoft.PolicyInsights/*",
                "Microsoft.Support/*",
                "Bullion.Factory/policyWhatIf/action",
            ],
            not_actions: &[],
        },
    },
    RoleDefinition {
        guid: roles::MANAGED_IDENTITY_OPERATOR.guid,
        name: roles::MANAGED_IDENTITY_OPERATOR.name,
        description: "Read and Assign User Assigned Identity",
        permission: RolePermission {
            actions: &[
                "Microsoft.ManagedIdentity/userAssignedIdentities/*/read",
                "Microsoft.ManagedIdentity/userAssignedIdentities/*/assign/action",
                "Microsoft.ManagedIdentity/userAssignedIdentities/read",
                "Microsoft.ManagedIdentity/userAssignedIdentities/assign/action",
                "Microsoft.Authorization/*/read",
                "Microsoft.Resources/subscriptions/resourceGroups/read",
            ],
            not_actions: &[],
        },
    },
    RoleDefinition {
        guid: roles::MANAGED_IDENTITY_CONTRIBUTOR.guid,
        name: roles::MANAGED_IDENTITY_CONTRIBUTOR.name,
        description: "Create, Read, Update, and Delete User Assigned Identity",
        permission: RolePermission {
            actions: &[
                "Microsoft.ManagedIdentity/userAssignedIdentities/read",
                "Microsoft.ManagedIdentity/userAssignedIdentities/write",
                "Microsoft.ManagedIdentity/userAssignedIdentities/delete",
                "Microsoft.Authorization/*/read",
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

/// A built-in role, ready to be asked.
pub fn built_in_ready(id: &RoleId) -> Option<Arc<Role>> {
    static READY: LazyLock<HashMap<&'static str, Arc<Role>>> = LazyLock::new(|| {
        let ready = |role: &RoleDefinition| {
            let RolePermission {
                actions,
                not_actions,
            } = role.permission;
            (role.guid, Arc::new(Role::of_static(actions, not_actions)))
        };
        BUILT_IN.iter().map(ready).collect()
    });
    READY.get(id.as_str()).cloned()
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
