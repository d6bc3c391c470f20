//! Bodies of applications, consents and role assignments.

use serde_json::{Value, json};
use uuid::Uuid;
use wire::{IdError, ResourceId};

use super::super::document::identity::{
    Application, Principal, RoleAssignment, Scope, ServicePrincipal,
};
use super::super::rules::{Reference, kind};
use super::super::{Entry, Factory};
use super::{Address, Hole, Later, Realm, Shape};

/// The namespace of the names of role assignments.
const ASSIGNMENTS: Uuid = Uuid::from_u128(0x581c_e1f0_a0e3_5343_b7d1_c12c_13ca_1ac2);
const ROLE_ASSIGNMENT: &str = "roleAssignments";
const ROLE_DEFINITION: &str = "Microsoft.Authorization/roleDefinitions";

/// The name of an assignment that this factory makes. It follows from what the assignment says, so a second `apply`
/// finds it, and one that somebody else made is never taken for the factory's.
pub fn assignment_name(factory: &str, scope: &ResourceId, role: &str, principal: &str) -> String {
    let text = [factory, scope.folded(), role, principal].join("\n");
    Uuid::new_v5(&ASSIGNMENTS, text.as_bytes()).to_string()
}

/// The id of an assignment.
pub fn assignment_id(scope: &ResourceId, name: &str) -> Result<ResourceId, IdError> {
    scope.extension("Microsoft.Authorization", ROLE_ASSIGNMENT, name)
}

impl Factory {
    pub(super) fn application(&self, application: &Application) -> Shape {
        let shown = application
            .display_name
            .as_deref()
            .unwrap_or(application.name.as_str());
        let properties = json!({ "displayName": shown, "multiTenant": application.multi_tenant });
        Shape::of(json!({ "tags": self.tags(&Default::default()), "properties": properties }))
    }

    pub(super) fn service_principal(&self, principal: &ServicePrincipal) -> Result<Shape, IdError> {
        let body =
            json!({ "tags": self.tags(&Default::default()), "properties": { "appId": null } });
        let app = self.property_of(&principal.application, "appId")?;
        let mut shape = Shape::of(body);
        shape.later.extend(app.map(|from| Hole {
            pointer: "/properties/appId".into(),
            field: "appId".into(),
            from,
        }));
        Ok(shape)
    }

    /// An assignment is at its scope, in the scope's tenant.
    pub(super) fn role_assignment(
        &self,
        assignment: &RoleAssignment,
    ) -> Result<(Address, Realm, Shape), IdError> {
        let (scope, realm) = self.scope(&assignment.scope)?;
        let role = wire::roles::named(&assignment.role.0).map_or("", |role| role.guid);
        let subscription = scope
            .subscription()
            .map(|id| format!("/subscriptions/{id}"))
            .unwrap_or_default();
        let mut shape = Shape::of(json!({ "properties": {
            "roleDefinitionId": format!("{subscription}/providers/{ROLE_DEFINITION}/{role}"),
            "principalId": null,
            "principalType": "ServicePrincipal",
        } }));
        let Some(principal) = self.principal(&assignment.principal)? else {
            return Ok((Address::Known(scope), realm, shape));
        };
        shape.later.push(Hole {
            pointer: "/properties/principalId".into(),
            field: "principalId".into(),
            from: principal.clone(),
        });
        let address = Address::Assignment {
            scope,
            role,
            principal,
        };
        Ok((address, realm, shape))
    }

    /// Where the id of a principal comes from. Nothing where the reference is dangling, which `load` has excluded.
    pub(super) fn principal(&self, principal: &Principal) -> Result<Option<Later>, IdError> {
        match principal {
            Principal::Application(application) => self.property_of(application, "principalId"),
            Principal::ServicePrincipal(consent) => self.property_of(consent, "principalId"),
        }
    }

    /// A property that the server gives to a document of the folder.
    pub(super) fn property_of<K: kind::Kind>(
        &self,
        reference: &Reference<K>,
        name: &'static str,
    ) -> Result<Option<Later>, IdError> {
        let Some(entry) = self.parent(reference) else {
            return Ok(None);
        };
        let (id, realm) = self.locate(K::NAME, entry)?;
        Ok(Some(Later::Property { realm, id, name }))
    }

    /// The id of a scope and whose token reaches it.
    pub(super) fn scope(&self, scope: &Scope) -> Result<(ResourceId, Realm), IdError> {
        fn found<'a, K: kind::Kind>(
            factory: &'a Factory,
            reference: &Reference<K>,
        ) -> Option<(&'static str, &'a Entry)> {
            Some((K::NAME, factory.parent(reference)?))
        }
        let place = match scope {
            Scope::Tenant(tenant) => {
                return Ok((ResourceId::root(), Realm::Tenant(self.tenant(&tenant.text))));
            }
            Scope::Subscription(at) => found(self, at),
            Scope::ResourceGroup(at) => found(self, at),
            Scope::Gallery(at) => found(self, at),
            Scope::ImageDefinition(at) => found(self, at),
            Scope::ImageTemplate(at) => found(self, at),
            Scope::Pipeline(at) => found(self, at),
        };
        match place {
            Some((kind, entry)) => self.locate(kind, entry),
            None => Ok((ResourceId::root(), Realm::Installation)),
        }
    }

    /// The ids of scopes, as JSON.
    pub(super) fn scopes(&self, scopes: &[Scope]) -> Result<Vec<Value>, IdError> {
        let ids = scopes.iter().map(|scope| self.scope(scope));
        ids.map(|id| Ok(Value::String(id?.0.to_string()))).collect()
    }
}
