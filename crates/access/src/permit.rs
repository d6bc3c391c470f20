//! The one decision: may this identity do this action at this scope. Yes is a [`Permit`], and every read
//! and write of the catalog takes one and takes its scope from it.
//!
//! Decided before anything is looked up, so that a caller without rights learns nothing about what exists.

use std::net::IpAddr;
use std::sync::Arc;

use uuid::Uuid;
use wire::{ArmError, ErrorCode, ResourceId, TenantId};

use crate::permissions::Asked;
use crate::{Action, Grants, Identity};

/// The request that a permit was given for, for the activity log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Where the caller's connection comes from; none inside the process.
    pub address: Option<IpAddr>,
    /// One for each request.
    pub request: Uuid,
    /// One for everything that belongs together, as the client says.
    pub correlation: Uuid,
    /// The ids of the role assignments that gave the right.
    pub rights: Vec<String>,
}

/// Why work is done that nobody asked for in a request. Every use is in a committed list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SystemReason {
    /// First start: the installation's tenant and its operator.
    Install,
    /// A reconciler brings what is there to what is wanted.
    Reconcile,
    /// A job writes down how far it came on the resource it works for.
    JobStatus,
    /// The server looks at its own regions and machines when it starts.
    Startup,
    /// Whoever presents a URL that was given out with a right, as long as it is good.
    SharedUrl,
}

/// What a list may show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Visible {
    All,
    /// Only these scopes and what is below them.
    Only(Vec<ResourceId>),
}

/// Proof that an action at a scope was allowed. Made by [`authorize`] and its two sisters, or by
/// [`Permit::system`]; nowhere else.
#[derive(Debug, Clone)]
pub struct Permit {
    action: Action,
    scope: ResourceId,
    tenant: TenantId,
    holder: Holder,
    visible: Visible,
    /// None where no request asked: jobs and the system's own work.
    origin: Option<Arc<Origin>>,
}

#[derive(Debug, Clone, Copy)]
enum Holder {
    Identity(Identity),
    System(SystemReason),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Forbidden {
    #[error("{principal} may not {action} at {scope}", principal = identity.principal)]
    NotAllowed {
        identity: Identity,
        action: Action,
        scope: ResourceId,
    },
    #[error("a token of tenant {token} was used for a resource of tenant {resource}")]
    WrongTenant { token: TenantId, resource: TenantId },
    #[error("no right to {action} at the linked {scope}", action = link.action, scope = link.scope)]
    Linked { identity: Identity, link: Box<Link> },
    #[error("{principal} may not {action} at {scope}: denied by {id}", principal = denied.identity.principal,
        action = denied.action, scope = denied.scope, id = denied.by)]
    Denied { denied: Box<DeniedBy> },
    #[error("{action} at {scope} is kept by a lock")]
    Locked {
        action: Action,
        scope: ResourceId,
        /// Some of the scopes whose locks are in the way.
        locked: Vec<ResourceId>,
    },
}

/// What was asked for, and the deny assignment that took it away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeniedBy {
    pub identity: Identity,
    pub action: Action,
    pub scope: ResourceId,
    pub by: ResourceId,
    pub name: String,
    pub at: ResourceId,
}

/// What was asked for, and what its body links to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub own: Action,
    pub own_scope: ResourceId,
    pub action: Action,
    pub scope: ResourceId,
}

/// May `identity` do `action` at `scope`, which belongs to `tenant`?
pub fn authorize(
    identity: &Identity,
    grants: &Grants,
    action: &Action,
    scope: &ResourceId,
    tenant: TenantId,
) -> Result<Permit, Forbidden> {
    same_tenant(identity, tenant)?;
    let (asked, line) = (Asked::new(action), grants.line(scope));
    if !counts(identity, grants) || !grants.allows(&asked, &line) {
        return Err(Forbidden::NotAllowed {
            identity: *identity,
            action: action.clone(),
            scope: scope.clone(),
        });
    }
    // Reads are never denied: whoever may not change a thing may still see why.
    if let Some(denial) = grants.denial(&asked, &line).filter(|_| !action.is_read()) {
        return Err(Forbidden::Denied {
            denied: Box::new(DeniedBy {
                identity: *identity,
                action: action.clone(),
                scope: scope.clone(),
                by: denial.id.clone(),
                name: denial.name.clone(),
                at: denial.scope.clone(),
            }),
        });
    }
    let locked = grants.around().locks.in_the_way(&asked, &line);
    if !locked.is_empty() {
        return Err(Forbidden::Locked {
            action: action.clone(),
            scope: scope.clone(),
            locked,
        });
    }
    Ok(Permit::held_by(
        *identity,
        action,
        scope,
        tenant,
        Visible::All,
    ))
}

/// May `identity` list at `scope`? Rights below the scope are enough, and then only what lies there is seen.
pub fn authorize_list(
    identity: &Identity,
    grants: &Grants,
    action: &Action,
    scope: &ResourceId,
    tenant: TenantId,
) -> Result<Permit, Forbidden> {
    same_tenant(identity, tenant)?;
    let (asked, line) = (Asked::new(action), grants.line(scope));
    let counts = counts(identity, grants);
    let visible = if counts && grants.allows(&asked, &line) {
        Visible::All
    } else {
        let below = match counts {
            true => grants.allowed_below(&asked, scope),
            false => Vec::new(),
        };
        if below.is_empty() {
            return Err(Forbidden::NotAllowed {
                identity: *identity,
                action: action.clone(),
                scope: scope.clone(),
            });
        }
        Visible::Only(below)
    };
    Ok(Permit::held_by(*identity, action, scope, tenant, visible))
}

/// What of the caller's own is at `scope`? Nobody is refused: whoever has no right sees nothing. A right anywhere in a
/// subscription shows that subscription, since clients name by it what lies in it.
pub fn authorize_own(
    identity: &Identity,
    grants: &Grants,
    action: &Action,
    scope: &ResourceId,
    tenant: TenantId,
) -> Result<Permit, Forbidden> {
    same_tenant(identity, tenant)?;
    let (asked, line) = (Asked::new(action), grants.line(scope));
    let counts = counts(identity, grants);
    let visible = if counts && grants.allows(&asked, &line) {
        Visible::All
    } else {
        let tree = &grants.around().tree;
        let around = |granted: &ResourceId| match granted.subscription() {
            Some(subscription) => ResourceId::subscription_scope(subscription),
            None => granted.clone(),
        };
        let mut scopes: Vec<ResourceId> = grants
            .any_scopes()
            .filter(|granted| counts && tree.holds(scope, granted))
            .map(around)
            .collect();
        let inside = |granted: &ResourceId| tree.subscriptions_in(granted);
        let placed: Vec<ResourceId> = scopes.iter().flat_map(inside).collect();
        scopes.extend(placed);
        scopes.sort();
        scopes.dedup();
        Visible::Only(scopes)
    };
    Ok(Permit::held_by(*identity, action, scope, tenant, visible))
}

/// May the holder of `own` also do `action` at a resource that its body links to? `identities` are those
/// that the caller proved, each with its grants; the one of the linked resource's tenant decides.
pub fn authorize_link(
    own: &Permit,
    identities: &[(Identity, Grants)],
    action: &Action,
    scope: &ResourceId,
    tenant: TenantId,
) -> Result<Permit, Forbidden> {
    let mut kept = None;
    let known = identities.iter().filter(|(one, _)| one.tenant == tenant);
    for (identity, grants) in known {
        match authorize(identity, grants, action, scope, tenant) {
            Ok(permit) => return Ok(permit),
            // The right is there; what keeps it from being used is told as it is.
            Err(refused @ (Forbidden::Denied { .. } | Forbidden::Locked { .. })) => {
                kept = Some(refused);
            }
            Err(_) => {}
        }
    }
    Err(kept.unwrap_or_else(|| match own.holder {
        Holder::Identity(identity) => {
            let (own, own_scope) = (own.action.clone(), own.scope.clone());
            let link = Link {
                own,
                own_scope,
                action: action.clone(),
                scope: scope.clone(),
            };
            Forbidden::Linked {
                identity,
                link: Box::new(link),
            }
        }
        Holder::System(_) => Forbidden::WrongTenant {
            token: own.tenant,
            resource: tenant,
        },
    }))
}

fn same_tenant(identity: &Identity, tenant: TenantId) -> Result<(), Forbidden> {
    if identity.tenant == tenant {
        return Ok(());
    }
    Err(Forbidden::WrongTenant {
        token: identity.tenant,
        resource: tenant,
    })
}

/// Grants are read separately from the identity; a mix-up must never allow anything.
fn counts(identity: &Identity, grants: &Grants) -> bool {
    grants.tenant() == identity.tenant && grants.principal() == identity.principal
}

impl Permit {
    fn held_by(
        identity: Identity,
        action: &Action,
        scope: &ResourceId,
        tenant: TenantId,
        visible: Visible,
    ) -> Self {
        Self {
            action: action.clone(),
            scope: scope.clone(),
            tenant,
            holder: Holder::Identity(identity),
            visible,
            origin: None,
        }
    }

    /// For work without a caller. Each use names its reason and stands in the committed list.
    pub fn system(
        reason: SystemReason,
        action: Action,
        scope: ResourceId,
        tenant: TenantId,
    ) -> Self {
        Self {
            action,
            scope,
            tenant,
            holder: Holder::System(reason),
            visible: Visible::All,
            origin: None,
        }
    }

    /// To look at what the scope hangs on (its gallery, its definition): a service checks a resource's
    /// parents whether or not the caller may read them. Reads only; nothing beside or below.
    pub fn to_read_ancestor(&self, ancestor: &ResourceId) -> Option<Self> {
        let above = self.scope.is_within(ancestor) && &self.scope != ancestor;
        above.then(|| self.reading(ancestor.clone()))
    }

    /// To look at the scope itself, or to list what is below it, before writing it.
    pub fn to_read_own(&self) -> Self {
        self.reading(self.scope.clone())
    }

    fn reading(&self, scope: ResourceId) -> Self {
        let action = Action::new(format!("{}/read", scope.resource_type()));
        Self {
            action,
            scope,
            visible: Visible::All,
            ..self.clone()
        }
    }

    /// The same right at a resource below the scope, for an action that spans its children (deleting a
    /// group deletes what is in it).
    pub fn to_descendant(&self, below: &ResourceId) -> Option<Self> {
        below.is_within(&self.scope).then(|| Self {
            scope: below.clone(),
            ..self.clone()
        })
    }

    /// The same permit, for a request. Those that are made from it are for the same one.
    pub fn for_request(mut self, origin: Arc<Origin>) -> Self {
        self.origin = Some(origin);
        self
    }

    pub fn origin(&self) -> Option<&Origin> {
        self.origin.as_deref()
    }

    /// The reason why the system works on its own; none where somebody asked.
    pub fn system_reason(&self) -> Option<SystemReason> {
        match self.holder {
            Holder::Identity(_) => None,
            Holder::System(reason) => Some(reason),
        }
    }

    /// A custom role belongs to its tenant, whichever of its assignable scopes it was asked for at. The right at each
    /// of those is the caller's to have checked.
    pub fn to_role_definition(&self) -> Option<Self> {
        const KIND: &str = "roleDefinitions";
        let kind = self.scope.resource_type();
        let definition = kind.is(&format!("Microsoft.Authorization/{KIND}"));
        let root = ResourceId::root();
        let scope = root.extension("Microsoft.Authorization", KIND, self.scope.name());
        let scope = scope.ok().filter(|_| definition)?;
        Some(Self {
            scope,
            ..self.clone()
        })
    }

    pub fn action(&self) -> &Action {
        &self.action
    }

    pub fn scope(&self) -> &ResourceId {
        &self.scope
    }

    pub fn tenant(&self) -> TenantId {
        self.tenant
    }

    /// Who holds it; nobody where the system works on its own.
    pub fn identity(&self) -> Option<&Identity> {
        match &self.holder {
            Holder::Identity(identity) => Some(identity),
            Holder::System(_) => None,
        }
    }

    /// For `createdBy` and the activity log.
    pub fn holder(&self) -> String {
        match &self.holder {
            Holder::Identity(identity) => identity.principal.to_string(),
            Holder::System(reason) => format!("system/{reason:?}"),
        }
    }

    /// A permit to read writes nothing.
    pub fn may_write(&self) -> bool {
        !self.action.is_read()
    }

    pub fn visible(&self) -> &Visible {
        &self.visible
    }

    /// Whether a list under this permit may show the resource.
    pub fn may_see(&self, id: &ResourceId) -> bool {
        match &self.visible {
            Visible::All => id.is_within(&self.scope),
            Visible::Only(scopes) => scopes.iter().any(|scope| id.is_within(scope)),
        }
    }
}

impl Forbidden {
    /// Code and text as Azure's clients know them.
    pub fn to_arm(&self) -> ArmError {
        match self {
            Self::NotAllowed {
                identity,
                action,
                scope,
            } => ArmError::new(
                ErrorCode::AuthorizationFailed,
                format!(
                    "The client '{}' with object id '{}' does not have authorization to perform action '{action}' over scope '{scope}' or the scope is invalid. If access was recently granted, please refresh your credentials.",
                    identity.app, identity.principal
                ),
            ),
            Self::WrongTenant { token, resource } => ArmError::new(
                ErrorCode::InvalidAuthenticationTokenTenant,
                format!(
                    "The access token is from the wrong issuer. It must match the tenant '{resource}' associated with this subscription, but is of tenant '{token}'. Please use the authority of the tenant '{resource}' to get the token."
                ),
            ),
            Self::Denied { denied } => denied.to_arm(),
            Self::Locked {
                action,
                scope,
                locked,
            } => {
                let verb = match action.as_str().to_ascii_lowercase().ends_with("/delete") {
                    true => "delete",
                    false => "write",
                };
                let locked: Vec<&str> = locked.iter().map(ResourceId::folded).collect();
                ArmError::new(
                    ErrorCode::ScopeLocked,
                    format!(
                        "The scope '{scope}' cannot perform {verb} operation because following scope(s) are locked: '{}'. Please remove the lock and try again.",
                        locked.join(",")
                    ),
                )
            }
            Self::Linked { identity, link } => {
                let Link {
                    own,
                    own_scope,
                    action,
                    scope,
                } = &**link;
                let linked = scope
                    .subscription()
                    .map_or_else(|| scope.to_string(), |s| s.to_string());
                ArmError::new(
                    ErrorCode::LinkedAuthorizationFailed,
                    format!(
                        "The client '{}' with object id '{}' has permission to perform action '{own}' on scope '{own_scope}'; however, it does not have permission to perform action '{action}' on the linked scope(s) '{scope}', or the current tenant '{}' is not authorized to access linked subscription '{linked}'.",
                        identity.app, identity.principal, identity.tenant
                    ),
                )
            }
        }
    }
}

impl DeniedBy {
    fn to_arm(&self) -> ArmError {
        let Self {
            identity,
            action,
            scope,
            by,
            name,
            at,
        } = self;
        ArmError::new(
            ErrorCode::DenyAssignmentAuthorizationFailed,
            format!(
                "The client '{}' with object id '{}' has permission to perform action '{action}' on scope '{scope}'; however, the access is denied because of the deny assignment with name '{name}' and Id '{}' at scope '{at}'.",
                identity.app,
                identity.principal,
                by.name()
            ),
        )
    }
}
