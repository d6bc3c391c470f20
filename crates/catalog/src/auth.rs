//! What sign-in and authorisation read before there is a permit, and the records behind it.
//!
//! Narrow on purpose: every method answers one question of the token endpoint, the token check or `authorize`.
//! Nothing here reads a resource's body. All writes go through permits, except the two that a first start makes.

use access::{Assignment, Grants, Permit, SecretHash};
use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use wire::{AppId, PrincipalId, SubscriptionId, TenantId};

use crate::error::Result;

/// Secrets that one application may have at a time.
pub const SECRETS_MAX: usize = 20;
/// Certificates and federated credentials that one application may have at a time.
pub const CREDENTIALS_MAX: usize = 20;
/// Assignments of one principal that one decision reads.
pub const GRANTS_MAX: usize = 4000;
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
    /// Everything that a principal was given in a tenant.
    async fn grants(&self, tenant: TenantId, principal: PrincipalId) -> Result<Grants>;

    /// Newest first; those past `retires_at` are gone.
    async fn signing_keys(&self) -> Result<Vec<StoredKey>>;
    /// Makes a key known; older ones stay until they retire.
    async fn add_signing_key(&self, key: StoredKey) -> Result<()>;

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
    /// PKCS#8, PEM.
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
}
