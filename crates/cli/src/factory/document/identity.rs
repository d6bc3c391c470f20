//! Who acts: applications, their principals in other tenants, and the roles that these are given.
//!
//! Nothing here holds a secret: those are made at the server, by `bullion app secret add`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::super::rules::{Reference, RoleName, ScopeName, kind};

/// An application: what signs in with a secret. In the tenant that owns it, it has a principal, to which roles are
/// given.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Application {
    pub name: ScopeName,
    /// The tenant that owns the application.
    pub tenant: Reference<kind::Tenant>,
    pub display_name: Option<String>,
    /// Whether other tenants may consent to it; `false` unless given.
    #[serde(default)]
    pub multi_tenant: bool,
}

/// A tenant's consent to an application of another tenant: a principal of the application in this tenant. It has no
/// right until a role is given to it.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ServicePrincipal {
    pub name: ScopeName,
    /// The tenant that consents.
    pub tenant: Reference<kind::Tenant>,
    /// The application, which is `multiTenant` and of another tenant.
    pub application: Reference<kind::Application>,
}

/// A role, given to a principal at a scope and everything below it.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RoleAssignment {
    /// For people; what it is called on the server follows from what it says.
    pub name: ScopeName,
    pub role: RoleName,
    pub scope: Scope,
    pub principal: Principal,
}

/// A place in the hierarchy, by one of these keys.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Scope {
    /// The whole tenant, with all that will ever be in it.
    Tenant(Reference<kind::Tenant>),
    Subscription(Reference<kind::Subscription>),
    ResourceGroup(Reference<kind::ResourceGroup>),
    Gallery(Reference<kind::Gallery>),
    ImageDefinition(Reference<kind::ImageDefinition>),
    ImageTemplate(Reference<kind::ImageTemplate>),
    Pipeline(Reference<kind::Pipeline>),
}

/// Somebody who can be given a role, by one of these keys.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Principal {
    /// The application's principal in its own tenant.
    Application(Reference<kind::Application>),
    /// The application's principal in a tenant that consented to it.
    ServicePrincipal(Reference<kind::ServicePrincipal>),
}
