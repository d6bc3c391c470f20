//! What sign-in and authorisation read before there is a permit, and the records behind it.
//!
//! Narrow on purpose: every method answers one question of the token endpoint, the token check or `authorize`.
//! Nothing here reads a resource's body. All writes go through permits, except the two that a first start makes.

use access::{Assignment, Denial, Grants, LockLevel, Permissions, Permit, RoleId, SecretHash};
use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use wire::{AppId, PrincipalId, ResourceId, SubscriptionId, TenantId};

use crate::error::Result;

/// Secrets that one application may have at a time.
pub const SECRETS_MAX: usize = 20;
/// Certificates and federated credentials that one application may have at a time.
pub const CREDENTIALS_MAX: usize = 20;
/// Assignments that one principal may have in a tenant, those of its groups among them.
pub const GRANTS_MAX: usize = 20_000;
/// Groups that one principal may be in, at any depth.
pub const GROUPS_MAX: usize = 2000;
/// Deny assignments, and locks, of one tenant.
pub const DENIALS_MAX: usize = 2000;
pub const LOCKS_MAX: usize = 20_000;
/// Management groups, and subscriptions, of one tenant.
pub const TREE_MAX: usize = 20_000;
/// Members that one group may have.
pub const MEMBERS_MAX: usize = 10_000;
/// Tenants of one installation.
pub const TENANTS_MAX: usize = 1000;
/// Principals of one tenant that one answer may list.
pub const PRINCIPALS_MAX: usize = 10_000;
/// Signing keys kept for tokens still in flight.
pub const SIGNING_KEYS_MAX: usize = 16;

/// Pre-permit reads, and the writes whose records they read.
#[async_trait]
pub trait AuthStore: Send + Sync {
    /// What the first start made; `None` before it.
    async fn installation(&self) -> Result<Option<Installation>>;
    /// The first start: the installation tenant, the operator application with its first secret, its principal there
    /// and that principal's Owner at `/`, in one transaction. `Installed` if there is one already.
    async fn install(&self, new: NewInstallation) -> Result<Installation>;

    async fn tenant(&self, tenant: TenantId) -> Result<Option<TenantRecord>>;
    /// By name, without case.
    async fn tenant_named(&self, name: &str) -> Result<Option<TenantRecord>>;
    async fn tenants(&self) -> Result<Vec<TenantRecord>>;
    async fn subscription_tenant(&self, subscription: SubscriptionId) -> Result<Option<TenantId>>;

    async fn application(&self, app: AppId) -> Result<Option<ApplicationRecord>>;
    /// The application's principal in a tenant: none means that it may not sign in there.
    async fn service_principal(&self, tenant: TenantId, app: AppId) -> Result<Option<PrincipalId>>;
    /// Secrets of an application that have not expired, newest first.
    async fn secrets(&self, app: AppId) -> Result<Vec<StoredSecret>>;
    /// Certificates and federated credentials of an application, expired ones too.
    async fn credentials(&self, app: AppId) -> Result<Vec<Credential>>;
    /// Remembers that an assertion was used; `false` if it had been before. It is forgotten after `until`.
    async fn use_assertion(&self, assertion: &str, until: Timestamp) -> Result<bool>;
    /// Every application that may sign in to a tenant, its own and those consented to, by their ids.
    async fn principals(&self, tenant: TenantId) -> Result<Vec<PrincipalRecord>>;
    /// Everything that decides what a principal may do in a tenant, as of this moment: kept in memory, and read anew
    /// when the tenant's epoch says that something has changed.
    async fn grants(&self, tenant: TenantId, principal: PrincipalId) -> Result<Grants>;
    /// The role assignments that name one of the principals, by their ids. At most [`GRANTS_MAX`].
    async fn assigned(
        &self,
        tenant: TenantId,
        principals: &[PrincipalId],
    ) -> Result<Vec<ResourceId>>;
    /// What stands for a principal in a tenant's directory.
    async fn object(&self, tenant: TenantId, principal: PrincipalId) -> Result<Option<Object>>;
    /// Users, or groups, of a tenant. At most [`PRINCIPALS_MAX`].
    async fn objects(&self, tenant: TenantId, of: ObjectKind) -> Result<Vec<Object>>;
    /// Those directly in a group. At most [`MEMBERS_MAX`].
    async fn members(&self, tenant: TenantId, group: PrincipalId) -> Result<Vec<PrincipalId>>;
    /// Somebody who signs in with a password, by sign-in name without case.
    async fn user_named(&self, tenant: TenantId, name: &str) -> Result<Option<UserRecord>>;
    async fn user(&self, tenant: TenantId, principal: PrincipalId) -> Result<Option<UserRecord>>;
    /// The application behind a resource that has a managed identity.
    async fn managed_identity(
        &self,
        tenant: TenantId,
        resource: &ResourceId,
    ) -> Result<Option<(AppId, PrincipalId)>>;

    /// Keeps a refresh token, and forgets those that have expired.
    async fn keep_refresh(&self, token: StoredRefresh) -> Result<()>;
    /// Uses a refresh token up. One that was used before ends every token of its sign-in.
    async fn use_refresh(&self, digest: &str) -> Result<RefreshUse>;

    /// Newest first; those past `retires_at` are gone.
    async fn signing_keys(&self) -> Result<Vec<StoredKey>>;
    /// Makes a key known; older ones stay until they retire.
    async fn add_signing_key(&self, key: StoredKey) -> Result<()>;
    /// Keeps a key in another form, if it is kept as `old` still.
    async fn reseal_signing_key(&self, kid: &str, old: &str, new: &str) -> Result<()>;
    /// Makes a key known that signs from now on, and has the others retire no later than `others_until`.
    async fn rotate_signing_key(&self, key: StoredKey, others_until: Timestamp) -> Result<()>;

    /// Adds a secret to the application at the permit's scope.
    async fn add_secret(&self, permit: &Permit, secret: StoredSecret) -> Result<()>;
    /// Takes a secret from the application at the permit's scope; `false` if it had none such.
    async fn remove_secret(&self, permit: &Permit, secret: Uuid) -> Result<bool>;
    /// The secrets of the application at the permit's scope, expired ones too.
    async fn secrets_of(&self, permit: &Permit) -> Result<Vec<StoredSecret>>;
}

/// Which tenant owns the installation and which application operates it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Installation {
    pub tenant: TenantId,
    pub operator_app: AppId,
    pub operator_principal: PrincipalId,
}

/// Everything that a first start decides.
#[derive(Clone, Debug)]
pub struct NewInstallation {
    pub installation: Installation,
    /// The installation tenant's name among the tenants.
    pub tenant_name: String,
    pub tenant_display_name: String,
    /// Of the operator's application, as resource and to people.
    pub operator_name: String,
    pub secret: StoredSecret,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantRecord {
    pub tenant: TenantId,
    pub name: String,
    pub display_name: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApplicationRecord {
    pub app: AppId,
    pub home: TenantId,
    pub display_name: String,
    pub audience: Audience,
    /// Where a browser may be sent after a consent.
    pub redirects: Vec<String>,
    /// Of a managed identity: it has no credentials that anybody could add.
    pub managed: bool,
}

/// What a principal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ObjectKind {
    User,
    Group,
    ServicePrincipal,
}

impl ObjectKind {
    /// As role assignments name it.
    pub fn as_str(self) -> &'static str {
        match self {
            ObjectKind::User => "User",
            ObjectKind::Group => "Group",
            ObjectKind::ServicePrincipal => "ServicePrincipal",
        }
    }
}

/// A principal and the resource that made it; none for the principal that the operator has in a tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    pub principal: PrincipalId,
    pub kind: ObjectKind,
    pub resource: Option<ResourceId>,
}

/// What a sign-in with a password reads.
#[derive(Clone, Debug)]
pub struct UserRecord {
    pub principal: PrincipalId,
    pub resource: ResourceId,
    pub password: Option<SecretHash>,
    pub enabled: bool,
}

/// A refresh token, known by its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRefresh {
    pub digest: String,
    /// The sign-in that it goes back to.
    pub family: Uuid,
    pub tenant: TenantId,
    pub principal: PrincipalId,
    pub app: AppId,
    pub expires_at: Timestamp,
}

/// What came of using a refresh token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RefreshUse {
    Good(StoredRefresh),
    /// Somebody has a copy; nobody stays signed in by it.
    UsedBefore,
    Unknown,
}

/// Who may have an application sign in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Its home tenant alone.
    Home,
    /// Every tenant that has a principal for it.
    ManyTenants,
}

impl Audience {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Audience::Home => "home",
            Audience::ManyTenants => "many-tenants",
        }
    }

    pub(crate) fn stored(text: &str) -> Option<Audience> {
        [Audience::Home, Audience::ManyTenants]
            .into_iter()
            .find(|audience| audience.as_str() == text)
    }
}

/// What an application proves itself with besides secrets. Nothing in it is secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "kind",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub enum Credential {
    /// Base64 of the certificate's DER.
    Certificate { certificate: String },
    /// Tokens of an outside issuer.
    Federated {
        issuer: String,
        subject: String,
        audiences: Vec<String>,
        /// The issuer's keys, where it cannot be asked for them: a JWKS document.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        keys: Option<String>,
    },
}

/// An application's principal in a tenant. Its redirects are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrincipalRecord {
    pub principal: PrincipalId,
    pub application: ApplicationRecord,
}

/// One client secret, kept as a hash.
#[derive(Clone, Debug)]
pub struct StoredSecret {
    pub id: Uuid,
    pub name: String,
    /// Its first characters, so that people can tell secrets apart.
    pub hint: String,
    pub hash: SecretHash,
    pub made_at: Timestamp,
    pub expires_at: Timestamp,
}

/// A key that signs tokens.
#[derive(Clone)]
pub struct StoredKey {
    pub kid: String,
    /// PKCS#8, PEM, as whoever keeps it sealed it.
    pub private_pem: String,
    pub made_at: Timestamp,
    /// Tokens that it signed have expired by then.
    pub retires_at: Timestamp,
}

/// Without the key itself: records end up in logs.
impl std::fmt::Debug for StoredKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoredKey")
            .field("kid", &self.kid)
            .field("retires_at", &self.retires_at)
            .finish()
    }
}

/// The row beside a resource that [`AuthStore`] reads. A put writes both in one transaction, and removing the
/// resource removes the row.
#[derive(Clone, Debug)]
pub enum Record {
    /// None; or, on a resource that has one, the one that it has.
    Plain,
    /// `Bullion.Factory/tenants`, in the installation tenant alone. Besides the tenant it makes the operator's
    /// principal there and gives it Owner at that tenant's `/`.
    Tenant {
        tenant: TenantId,
        display_name: String,
        operator_principal: PrincipalId,
    },
    /// `subscriptions`: belongs to the permit's tenant from now on.
    Subscription,
    /// `Bullion.Factory/applications`, with its principal in the permit's tenant.
    Application {
        app: AppId,
        principal: PrincipalId,
        display_name: String,
        audience: Audience,
        redirects: Vec<String>,
    },
    /// `Bullion.Factory/servicePrincipals`: an application of another tenant, consented into the permit's.
    ServicePrincipal { app: AppId, principal: PrincipalId },
    /// `Bullion.Factory/applications/certificates` and `…/federatedCredentials`: of the application that it sits in.
    Credential(Credential),
    /// `Microsoft.Authorization/roleAssignments`: at the scope that the resource sits on, in the permit's tenant.
    RoleAssignment(Assignment),
    /// `Microsoft.Authorization/roleDefinitions`, at the tenant's root: what the role allows.
    RoleDefinition {
        role: RoleId,
        permissions: Vec<Permissions>,
    },
    /// `Microsoft.Authorization/denyAssignments`, at the scope that the resource sits on.
    DenyAssignment(Denial),
    /// `Microsoft.Authorization/locks`, on the scope that the resource sits on.
    Lock(LockLevel),
    /// `Microsoft.Management/managementGroups`: the name of the group above, none for the root group.
    ManagementGroup { parent: Option<String> },
    /// `subscriptions`: the name of the management group that it is in, none for the root group.
    Placement { group: Option<String> },
    /// `Bullion.Factory/users`. Without a password the one that is there stays.
    User {
        principal: PrincipalId,
        name: String,
        password: Option<SecretHash>,
        enabled: bool,
    },
    /// `Bullion.Factory/groups`
    Group { principal: PrincipalId },
    /// `Bullion.Factory/groups/members`: in the group that it sits in.
    Member { principal: PrincipalId },
    /// A resource that has an identity of its own: an application of the permit's tenant that lives as long as the
    /// resource has the record. `None` takes the identity away.
    ManagedIdentity(Option<NewIdentity>),
}

/// What a managed identity is made of; one that is there keeps its ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewIdentity {
    pub app: AppId,
    pub principal: PrincipalId,
    pub display_name: String,
}
