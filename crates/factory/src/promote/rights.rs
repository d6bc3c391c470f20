//! As whom a promotion acts: the stage's own application, by its service principal in each of the two tenants.
//!
//! Rights are read anew whenever they are needed. A consent that was withdrawn or a role that was taken away since
//! the step before stops the promotion at the next.

use access::{Action, Grants, Identity, Permit, authorize, authorize_link};
use catalog::{Audience, AuthStore};
use jobs::StepError;
use wire::promotion::PromotionProperties;
use wire::{AppId, ErrorCode, ResourceId, TenantId};

use super::plan;
use crate::publish::VERSION_READ;

/// Both rights that a promotion needs.
pub(super) struct Rights {
    /// To write the version in the stage's own gallery.
    pub own: Permit,
    /// To read the version in the stage before.
    pub source: Permit,
}

pub(super) async fn rights(
    auth: &dyn AuthStore,
    promotion: &PromotionProperties,
) -> Result<Rights, StepError> {
    let broken = |error: plan::RequestError| StepError::failed("BadRequest", error.to_string());
    let target = plan::version_id(&promotion.to, &promotion.version).map_err(broken)?;
    let source = plan::version_id(&promotion.from, &promotion.version).map_err(broken)?;
    let app = promotion.to.application.ok_or_else(|| {
        StepError::failed("BadRequest", "the stage has no application to promote as")
    })?;
    let own_tenant = tenant_of(auth, &target, promotion.to.tenant).await?;
    let source_tenant = tenant_of(auth, &source, promotion.from.tenant).await?;
    let Some((identity, grants)) = identity(auth, own_tenant, app).await? else {
        let message =
            format!("the application {app} of the stage has no service principal in its tenant");
        return Err(StepError::failed(
            ErrorCode::LinkedAuthorizationFailed.as_str(),
            message,
        ));
    };
    let write = Action::new(super::VERSION_WRITE);
    let own = authorize(&identity, &grants, &write, &target, own_tenant)?;
    let mut identities = vec![(identity, grants)];
    if source_tenant != own_tenant {
        identities.extend(self::identity(auth, source_tenant, app).await?);
    }
    let read = Action::new(VERSION_READ);
    let source = authorize_link(&own, &identities, &read, &source, source_tenant)?;
    Ok(Rights { own, source })
}

/// The application's identity in a tenant and what it was given there, if it may sign in there at all.
async fn identity(
    auth: &dyn AuthStore,
    tenant: TenantId,
    app: AppId,
) -> Result<Option<(Identity, Grants)>, StepError> {
    let known = auth.application(app).await?;
    let open =
        known.is_some_and(|known| known.home == tenant || known.audience == Audience::ManyTenants);
    let principal = auth.service_principal(tenant, app).await?;
    let Some(principal) = principal.filter(|_| open) else {
        return Ok(None);
    };
    let grants = auth.grants(tenant, principal).await?;
    let identity = Identity {
        tenant,
        principal,
        app,
    };
    Ok(Some((identity, grants)))
}

/// The stage's tenant must own the subscription that it names: a pipeline does not say whose a gallery is.
async fn tenant_of(
    auth: &dyn AuthStore,
    scope: &ResourceId,
    said: TenantId,
) -> Result<TenantId, StepError> {
    let owner = match scope.subscription() {
        Some(subscription) => auth.subscription_tenant(subscription).await?,
        None => None,
    };
    if owner == Some(said) {
        return Ok(said);
    }
    let message = format!("`{scope}` is not of the tenant {said} that the stage names");
    Err(StepError::failed(
        ErrorCode::LinkedAuthorizationFailed.as_str(),
        message,
    ))
}
