//! What one principal was given in one tenant, in the form in which it is asked.
//!
//! Everything that a decision needs is here: assignments of its own and of the groups it is in, with their roles; the
//! deny assignments that are meant for it; and what all principals of the tenant share ([`Around`]). So whoever has
//! somebody's grants and calls [`crate::authorize`] has forgotten nothing.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use wire::{PrincipalId, ResourceId, TenantId};

use crate::Action;
use crate::around::Around;
use crate::permissions::{Asked, Permissions, Role};
use crate::role::{Assignment, built_in_ready};

/// A role that a principal holds at a scope and below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub scope: ResourceId,
    pub role: Arc<Role>,
    /// The role assignment that says so, for the activity log.
    pub assignment: Option<ResourceId>,
}

/// Whom a deny assignment is meant for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Denied {
    Everyone,
    These(Vec<PrincipalId>),
}

/// A deny assignment: takes away what roles give.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Denial {
    pub id: ResourceId,
    pub name: String,
    pub scope: ResourceId,
    pub permissions: Vec<Permissions>,
    pub denied: Denied,
    pub except: Vec<PrincipalId>,
    /// `doNotApplyToChildScopes`
    pub here_only: bool,
}

impl Denial {
    /// Whether it is meant for who is all of `held_as`.
    fn meant_for(&self, held_as: &[PrincipalId]) -> bool {
        let among = |list: &[PrincipalId]| list.iter().any(|one| held_as.contains(one));
        let denied = match &self.denied {
            Denied::Everyone => true,
            Denied::These(list) => among(list),
        };
        denied && !among(&self.except)
    }
}

/// All that a principal was given in a tenant. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grants(Arc<Inner>);

#[derive(Debug, PartialEq, Eq)]
struct Inner {
    tenant: TenantId,
    principal: PrincipalId,
    held_as: Vec<PrincipalId>,
    /// By folded scope.
    roles: HashMap<String, Vec<Arc<Role>>>,
    /// The scopes of the roles, each once, by their folded text.
    scopes: Vec<ResourceId>,
    denials: Vec<(Denial, Role)>,
    around: Arc<Around>,
    /// Which assignments gave which role, by folded scope.
    assignments: HashMap<String, Vec<(Arc<Role>, ResourceId)>>,
}

impl Grants {
    /// With built-in roles alone. Assignments of others or in other tenants are dropped: they must never count.
    pub fn new(tenant: TenantId, principal: PrincipalId, assignments: Vec<Assignment>) -> Self {
        let held = assignments
            .into_iter()
            .filter(|one| one.tenant == tenant && one.principal == principal)
            .filter_map(|one| {
                let role = built_in_ready(&one.role)?;
                let scope = one.scope;
                Some(Held {
                    scope,
                    role,
                    assignment: None,
                })
            });
        let around = Arc::new(Around::bare(tenant));
        Self::of(tenant, principal, Vec::new(), held, Vec::new(), around)
    }

    /// `groups` are those that the principal is in, at any depth.
    pub fn of(
        tenant: TenantId,
        principal: PrincipalId,
        groups: Vec<PrincipalId>,
        held: impl IntoIterator<Item = Held>,
        denials: Vec<Denial>,
        around: Arc<Around>,
    ) -> Self {
        let mut held_as = groups;
        held_as.push(principal);
        let mut roles: HashMap<String, Vec<Arc<Role>>> = HashMap::new();
        let mut scopes: Vec<ResourceId> = Vec::new();
        let mut assignments: HashMap<String, Vec<(Arc<Role>, ResourceId)>> = HashMap::new();
        for Held {
            scope,
            role,
            assignment,
        } in held
        {
            if let Some(assignment) = assignment {
                let at = assignments.entry(scope.folded().to_owned()).or_default();
                at.push((Arc::clone(&role), assignment));
            }
            let at = roles.entry(scope.folded().to_owned()).or_default();
            if at.is_empty() {
                scopes.push(scope);
            }
            if !at.contains(&role) {
                at.push(role);
            }
        }
        scopes.sort();
        let denials = denials
            .into_iter()
            .filter(|denial| denial.meant_for(&held_as))
            .map(|denial| {
                let role = Role::of(&denial.permissions);
                (denial, role)
            });
        Self(Arc::new(Inner {
            tenant,
            principal,
            roles,
            scopes,
            denials: denials.collect(),
            held_as,
            around,
            assignments,
        }))
    }

    pub fn tenant(&self) -> TenantId {
        self.0.tenant
    }

    pub fn principal(&self) -> PrincipalId {
        self.0.principal
    }

    /// The principal itself and the groups that it is in.
    pub fn held_as(&self) -> &[PrincipalId] {
        &self.0.held_as
    }

    /// Whether the principal was given nothing in this tenant.
    pub fn is_empty(&self) -> bool {
        self.0.roles.is_empty()
    }

    pub fn around(&self) -> &Arc<Around> {
        &self.0.around
    }

    /// Scopes at which anything is allowed.
    pub(crate) fn any_scopes(&self) -> impl Iterator<Item = &ResourceId> {
        self.0.scopes.iter()
    }

    /// The folded scopes at and above one: those whose assignments hold for it, the nearest first.
    pub(crate) fn line<'a>(&'a self, scope: &'a ResourceId) -> Vec<&'a str> {
        let text = scope.folded();
        let mut line: Vec<&str> = Vec::with_capacity(16);
        if !scope.is_root() {
            line.push(text);
            // Ids are pairs of segments, so every second slash from the left begins a new level.
            let slashes = text.bytes().enumerate().filter(|(_, byte)| *byte == b'/');
            let levels: Vec<usize> = slashes.step_by(2).skip(1).map(|(at, _)| at).collect();
            line.extend(levels.into_iter().rev().map(|at| &text[..at]));
            let own = line.len();
            for group in self.0.around.tree.above(scope) {
                if !line[..own].contains(&group.as_str()) {
                    line.push(group);
                }
            }
        }
        line.push("/");
        line
    }

    pub(crate) fn allows(&self, asked: &Asked, line: &[&str]) -> bool {
        line.iter().any(|scope| self.allows_at(asked, scope))
    }

    /// The role assignments that allow the action at the scope, the nearest first, at most `limit`.
    pub fn rights(&self, action: &Action, scope: &ResourceId, limit: usize) -> Vec<ResourceId> {
        let asked = Asked::new(action);
        let line = self.line(scope);
        let at = line
            .iter()
            .filter_map(|scope| self.0.assignments.get(*scope));
        at.flatten()
            .filter(|(role, _)| role.covers(&asked))
            .map(|(_, assignment)| assignment.clone())
            .take(limit)
            .collect()
    }

    fn allows_at(&self, asked: &Asked, scope: &str) -> bool {
        let roles = self.0.roles.get(scope);
        roles.is_some_and(|roles| roles.iter().any(|role| role.covers(asked)))
    }

    /// Scopes below one at which the action is allowed.
    pub(crate) fn allowed_below(&self, asked: &Asked, scope: &ResourceId) -> Vec<ResourceId> {
        let tree = &self.0.around.tree;
        let below = |one: &&ResourceId| tree.holds(scope, one);
        self.0
            .scopes
            .iter()
            .filter(below)
            .filter(|one| self.allows_at(asked, one.folded()))
            .cloned()
            .collect()
    }

    /// The deny assignment that takes the action away, if one does.
    pub(crate) fn denial(&self, asked: &Asked, line: &[&str]) -> Option<&Denial> {
        let found = self.0.denials.iter().find(|(denial, role)| {
            let scope = denial.scope.folded();
            let reached = match denial.here_only {
                true => line.first() == Some(&scope),
                false => line.contains(&scope),
            };
            reached && role.covers(asked)
        });
        found.map(|(denial, _)| denial)
    }
}
