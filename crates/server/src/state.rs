//! What every request needs: the stores, the keys, the factory, and the few questions that more than one
//! handler asks of them.

use std::sync::Arc;

use access::{Action, Bearer, ClientSecret, Identity, NewToken, Permit, SecretHash};
use catalog::{
    ActivityStore, AuthStore, Catalog, CatalogError, Installation, JobId, JobRow, NewJob,
    PageRequest, Statements,
};
use comply::Comply;
use jiff::Timestamp;
use jobs::Jobs;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::Semaphore;
use wire::{AppId, ArmError, Location, PrincipalId, ResourceId, ResourceType, TenantId};

use crate::activity::Recorder;
use crate::advisories::AdvisoryFolder;
use crate::attempts::Attempts;
use crate::blobs::Blobs;
use crate::exchange::Reply;
use crate::issuers::Issuers;
use crate::limits::Room;
use crate::oauth::TokenVersion;
use crate::operation::Call;
use crate::rates::Rates;
use crate::resources::policies::scans::Scans;
use crate::resources::{subscriptions, tenancy};
use crate::tokens::Tokens;
use crate::work::Work;
use crate::{errors, resources};

/// Password hashes computed at once: each takes a core for 20 ms and 19 MiB.
const HASHES_MAX: usize = 2;
const JOBS_LISTED_MAX: usize = 50;

pub struct Server {
    /// Where this server says that it is, without a slash at the end.
    pub url: String,
    pub installation: Installation,
    pub catalog: Arc<dyn Catalog>,
    pub auth: Arc<dyn AuthStore>,
    pub jobs: Jobs,
    pub work: Arc<dyn Work>,
    pub comply: Arc<Comply>,
    pub scans: Scans,
    pub tokens: Tokens,
    pub blobs: Option<Arc<Blobs>>,
    /// Hosts in networks of the server's own that may be fetched from.
    pub fetch_hosts: Vec<String>,
    pub issuers: Issuers,
    pub attempts: Attempts,
    pub hashing: Arc<Semaphore>,
    pub activity: Recorder,
    pub activities: Arc<dyn ActivityStore>,
    pub statements: Arc<dyn Statements>,
    pub advisories: AdvisoryFolder,
    pub rates: Rates,
    pub room: Room,
}

pub fn hashing() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(HASHES_MAX))
}

/// Sign-in.
impl Server {
    pub async fn tenant_exists(&self, tenant: TenantId) -> Result<Option<TenantId>, ArmError> {
        let found = self.auth.tenant(tenant).await.map_err(errors::catalog)?;
        Ok(found.map(|found| found.tenant))
    }

    pub async fn sign_in_principal(
        &self,
        tenant: TenantId,
        app: AppId,
    ) -> Result<Option<PrincipalId>, ArmError> {
        self.auth
            .service_principal(tenant, app)
            .await
            .map_err(errors::catalog)
    }

    pub async fn secret_fits(&self, app: AppId, secret: SecretString) -> Result<bool, ArmError> {
        let stored = self.auth.secrets(app).await.map_err(errors::catalog)?;
        let _turn = self.hashing.acquire().await;
        tokio::task::spawn_blocking(move || {
            stored
                .iter()
                .any(|stored| stored.hash.verify(secret.expose_secret()))
        })
        .await
        .map_err(|error| errors::internal("checking a secret", &error))
    }

    pub async fn hash(&self, secret: &ClientSecret) -> Result<SecretHash, ArmError> {
        let _turn = self.hashing.acquire().await;
        let secret = secret.clone();
        tokio::task::spawn_blocking(move || secret.hash())
            .await
            .map_err(|error| errors::internal("hashing a secret", &error))?
            .map_err(|error| errors::internal("hashing a secret", &error))
    }

    pub async fn issue_token(
        &self,
        base: &str,
        identity: Identity,
        bearer: Bearer<'_>,
        audience: &str,
        version: TokenVersion,
    ) -> Result<String, ArmError> {
        let tenant = identity.tenant;
        let issuer = match version {
            TokenVersion::V1 => format!("{base}/{tenant}/"),
            TokenVersion::V2 => format!("{base}/{tenant}/v2.0"),
        };
        let token = NewToken {
            identity,
            audience,
            issuer: &issuer,
            // ARM's tokens are v1 whichever endpoint gave them; clients read `appid`.
            v2: false,
            now: Timestamp::now().as_second().max(0) as u64,
            bearer,
        };
        self.tokens
            .mint(&token)
            .await
            .map_err(|error| errors::internal("signing a token", &error))
    }

    /// Whether a password is somebody's. Whoever has none takes as long to be refused.
    pub async fn password_fits(
        &self,
        stored: Option<SecretHash>,
        password: SecretString,
    ) -> Result<bool, ArmError> {
        let _turn = self.hashing.acquire().await;
        tokio::task::spawn_blocking(move || match stored {
            Some(hash) => hash.verify(password.expose_secret()),
            None => {
                // The same work, for nothing.
                let _ = ClientSecret::from_text(password.expose_secret().to_owned()).hash();
                false
            }
        })
        .await
        .map_err(|error| errors::internal("checking a password", &error))
    }

    /// Whether an audience is this server under one of its loopback names or its own URL.
    pub fn is_own_url(&self, audience: &str) -> bool {
        let port = self.url.rsplit(':').next().unwrap_or_default();
        let audience = audience.trim_end_matches('/');
        let names = ["localhost", "127.0.0.1", "[::1]"];
        audience == self.url
            || names
                .iter()
                .any(|name| audience == format!("https://{name}:{port}"))
    }
}

/// Rights.
impl Server {
    /// The right of a call's own caller to something beside the call's scope, in the same tenant.
    pub async fn right_of(
        &self,
        own: &Permit,
        action: &str,
        scope: &ResourceId,
    ) -> Result<Permit, ArmError> {
        let Some(identity) = own.identity() else {
            return Err(errors::bad_request("This is asked for by somebody."));
        };
        let grants = self.auth.grants(identity.tenant, identity.principal).await;
        let grants = grants.map_err(errors::catalog)?;
        let action = Action::new(action);
        access::authorize(identity, &grants, &action, scope, own.tenant())
            .map_err(|forbidden| forbidden.to_arm())
    }
}

/// Resources.
impl Server {
    /// A right that a request needs at its own resource besides the row's, because of what its body says.
    pub async fn need_right(&self, call: &Call, action: &str) -> Result<(), ArmError> {
        let (scope, tenant) = (call.permit.scope(), call.permit.tenant());
        let Some(identity) = call.permit.identity() else {
            return Ok(());
        };
        let grants = self.auth.grants(identity.tenant, identity.principal).await;
        let grants = grants.map_err(errors::catalog)?;
        access::authorize(identity, &grants, &Action::new(action), scope, tenant)
            .map(drop)
            .map_err(|refused| refused.to_arm())
    }

    pub async fn exists(&self, permit: &Permit) -> Result<bool, ArmError> {
        match self.catalog.get(permit).await {
            Ok(_) => Ok(true),
            Err(CatalogError::NotFound { .. }) => Ok(false),
            Err(error) => Err(errors::catalog(error)),
        }
    }

    pub fn need_region(&self, name: &str, target: &str) -> Result<(), ArmError> {
        let regions = self.work.regions();
        if regions.contains(&Location::new(name)) {
            return Ok(());
        }
        let known: Vec<&str> = regions.iter().map(Location::as_str).collect();
        Err(errors::invalid(
            target,
            format!(
                "The location '{}' is not one of this installation's regions: {}.",
                name.chars().take(100).collect::<String>(),
                if known.is_empty() {
                    "it has none yet; make one with PUT /providers/Bullion.Factory/regions/{name}"
                        .to_string()
                } else {
                    known.join(", ")
                }
            ),
        ))
    }

    pub async fn has_subscriptions(
        &self,
        own: &Permit,
        tenant: TenantId,
    ) -> Result<bool, ArmError> {
        let permit = tenancy::tenant_permit(own, tenant);
        let of = ResourceType::new(subscriptions::KIND);
        let page = self
            .catalog
            .list(&permit, &of, PageRequest::first(1))
            .await
            .map_err(errors::catalog)?;
        Ok(!page.resources.is_empty())
    }
}

/// Long-running operations.
impl Server {
    pub async fn submit(&self, permit: &Permit, job: NewJob) -> Result<JobId, ArmError> {
        let submitted = self.jobs.store().submit(permit, job).await;
        self.jobs.wake();
        submitted.map_err(errors::catalog)
    }

    pub async fn cancel(&self, permit: &Permit, job: JobId) -> Result<(), ArmError> {
        let asked = self.jobs.cancel(permit, job).await;
        asked.map(drop).map_err(errors::catalog)
    }

    pub async fn jobs_at(&self, permit: &Permit) -> Result<Vec<JobRow>, ArmError> {
        self.jobs
            .store()
            .jobs(permit, JOBS_LISTED_MAX)
            .await
            .map_err(errors::catalog)
    }

    /// Both headers of an operation; either way of polling ends at the same job.
    pub fn polled(
        &self,
        reply: Reply,
        call: &Call,
        on: &ResourceId,
        job: JobId,
    ) -> Result<Reply, ArmError> {
        let status = operation_url(call, on, resources::operations::KIND, job)?;
        let result = operation_url(call, on, resources::operations::RESULT_KIND, job)?;
        Ok(reply.polled_at(&status, &result))
    }

    pub fn result_url(&self, call: &Call, on: &ResourceId, job: JobId) -> Result<String, ArmError> {
        operation_url(call, on, resources::operations::RESULT_KIND, job)
    }
}

fn operation_url(call: &Call, on: &ResourceId, kind: &str, job: JobId) -> Result<String, ArmError> {
    let (namespace, kind) = kind.split_once('/').unwrap_or_default();
    let id = on
        .extension(namespace, kind, &job.to_string())
        .map_err(|error| errors::internal("an operation's id", &error))?;
    let version = call.version.to_string();
    Ok(call.base.url(&id.to_string(), &[("api-version", &version)]))
}
