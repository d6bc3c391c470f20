//! Looks after promotions that no job works on: an approval that did not come in time ends one, and one whose region
//! was down is tried again.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use access::{Action, Identity, Permit, SystemReason, authorize};
use async_trait::async_trait;
use catalog::{CatalogError, Draft, Pages, Precondition, Resource};
use jiff::Timestamp;
use jobs::{Cancel, Reconciler, StepError, Submit};
use wire::promotion::{PromotionProperties, PromotionState};
use wire::{ResourceId, TenantId};

use super::record::{self, Record};
use super::{PROMOTION_TYPE, PROMOTION_WRITE, Promote, PromoteInput, decide};
use crate::factory::Factory;

const PERIOD: Duration = Duration::from_secs(15);

pub struct Promotions(pub Arc<Factory>);

#[async_trait]
impl Reconciler for Promotions {
    fn name(&self) -> &'static str {
        "promotions"
    }

    fn period(&self) -> Duration {
        PERIOD
    }

    async fn reconcile(&self, stop: &Cancel) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.0.look_for_regions().await;
        let mut first_error: Option<StepError> = None;
        for tenant in self.0.auth.tenants().await? {
            for promotion in self.all(tenant.tenant).await? {
                if stop.is_raised() {
                    return Ok(());
                }
                if let Err(error) = self.look_after(&promotion).await {
                    // The next one may do better; the pass still failed.
                    tracing::warn!(promotion = %promotion.id, %error, "a promotion cannot be looked after");
                    first_error.get_or_insert(error);
                }
            }
        }
        first_error.map_or(Ok(()), |error| Err(error.into()))
    }
}

impl Promotions {
    async fn all(&self, tenant: TenantId) -> Result<Vec<Resource>, CatalogError> {
        let action = Action::new(format!("{PROMOTION_TYPE}/read"));
        let permit = Permit::system(SystemReason::Reconcile, action, ResourceId::root(), tenant);
        let promotions = Pages::of(&*self.0.catalog, &permit, PROMOTION_TYPE);
        promotions.all().await
    }

    async fn look_after(&self, resource: &Resource) -> Result<(), StepError> {
        let promotion = record::parse(&resource.properties)?;
        let now = self.0.clock.now();
        let record = Record::in_tenant(&self.0, &resource.id, resource.tenant);
        match promotion.state {
            PromotionState::WaitingForApproval if due(&promotion, now) => {
                record
                    .change(|promotion| {
                        decide::expire(promotion, now);
                    })
                    .await
            }
            PromotionState::WaitingForRegion if !too_early(&promotion, now) => {
                self.again(&record, resource, promotion).await
            }
            _ => Ok(()),
        }
    }

    /// Submits the job again for whoever asked, if they still may ask. The record says `Running` from the same moment
    /// on: whoever cancels then cancels the job, too.
    async fn again(
        &self,
        record: &Record,
        resource: &Resource,
        mut promotion: PromotionProperties,
    ) -> Result<(), StepError> {
        let Some(jobs) = self.0.jobs() else {
            return Ok(());
        };
        let asked = promotion.requested_by;
        let identity = Identity {
            tenant: asked.tenant,
            principal: asked.principal,
            app: asked.app,
        };
        let grants = self.0.auth.grants(asked.tenant, asked.principal).await?;
        let action = Action::new(PROMOTION_WRITE);
        let permit = authorize(&identity, &grants, &action, &resource.id, resource.tenant);
        let permit = match permit {
            Ok(permit) => permit,
            Err(error) => {
                let (now, why) = (self.0.clock.now().to_string(), error.to_string());
                return record
                    .change(|promotion| {
                        promotion.state = PromotionState::Failed;
                        promotion.end_time = Some(now.clone());
                        promotion.message = format!("AuthorizationFailed: {why}");
                    })
                    .await;
            }
        };
        let input = PromoteInput {
            promotion: resource.id.clone(),
        };
        let submit = Submit {
            exclusive: Some(super::exclusive(&resource.id)),
            visible_at: Vec::new(),
        };
        promotion.state = PromotionState::Running;
        promotion.retry_time = None;
        let draft = Draft {
            properties: serde_json::to_value(&promotion).unwrap_or_default(),
            ..Draft::from_resource(resource.clone())
        };
        let unmoved = Precondition::Match(resource.etag.clone());
        let submitted = jobs
            .put_and_submit::<Promote>(&permit, draft, unmoved, &input, submit)
            .await;
        match submitted {
            // Somebody else was faster; the next round looks again.
            Ok(_) | Err(CatalogError::JobInTheWay { .. } | CatalogError::Precondition { .. }) => {
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// A region that is down is not asked in every round.
fn too_early(promotion: &PromotionProperties, now: Timestamp) -> bool {
    let retry = promotion.retry_time.as_deref();
    let retry = retry.and_then(|text| text.parse::<Timestamp>().ok());
    retry.is_some_and(|retry| now < retry)
}

fn due(promotion: &PromotionProperties, now: Timestamp) -> bool {
    decide::expire(&mut promotion.clone(), now)
}
