//! `Bullion.Factory/promotions`: asking for one, and what people say of it.
//!
//! The record is the stage's: it is in the group of the stage's image definition, so its tenant decides who may ask and
//! who may approve. The promotion itself acts as the stage's application, not as the caller.

use std::sync::Arc;

use access::{Identity, Permit};
use catalog::{Draft, Precondition, Resource};
use factory::promote::{self, Approved, OpinionError, Promote, Request, RequestError};
use jiff::Timestamp;
use jobs::JobKind as _;
use serde_json::{Value, json};
use wire::promotion::{Actor, Opinion, PromotionProperties, PromotionState};
use wire::{ArmError, ErrorCode, ResourceId};

use super::{Reply, find, list, pipelines, present, put_reply, show, submit_with};
use crate::body::ResourceBody;
use crate::enforcement;
use crate::errors;
use crate::operation::{Call, Link};
use crate::state::Server;

pub const KIND: &str = promote::PROMOTION_TYPE;
const PIPELINE: &str = "properties.pipeline";
const PIPELINE_READ: &str = "Bullion.Factory/pipelines/read";

/// Who asks must be able to read the pipeline, in its own tenant.
pub fn links(body: &Value) -> Vec<Link> {
    let pipeline = body.pointer("/properties/pipeline").and_then(Value::as_str);
    pipeline
        .map(|scope| Link {
            scope: scope.to_string(),
            action: PIPELINE_READ,
            target: PIPELINE,
        })
        .into_iter()
        .collect()
}

/// Asks for a promotion. One that is under way or has succeeded is answered as it is; one that ended otherwise is
/// tried again.
pub async fn put(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let body = ResourceBody::parse(&call.body, &call.id)?;
    let old = find(&server, &call).await?;
    let before = old.as_ref().map(record).transpose()?;
    if let (Some(old), Some(before)) = (&old, &before) {
        call.preconditions.check(Some(old))?;
        if !before.state.ended() || before.state == PromotionState::Succeeded {
            return Ok(Reply::ok(present(old)));
        }
    }
    let pipeline = pipeline(&server, &call).await?;
    let text = |key: &str| {
        let target = format!("properties.{key}");
        let value = body.properties.get(key).and_then(Value::as_str);
        let missing = format!("Required parameter '{target}' is missing.");
        value
            .map(str::to_string)
            .ok_or_else(|| errors::invalid(&target, missing))
    };
    let stages = promote::check_pipeline(&pipeline.properties);
    let stages = stages.map_err(|problems| pipelines::invalid(&problems))?;
    let asked = Request {
        id: call.id.clone(),
        pipeline: pipeline.id,
        stage: text("stage")?,
        version: text("version")?,
        by: actor(&call.permit)?,
        now: Timestamp::now(),
        before,
    };
    let promotion = promote::request(&stages, &asked).map_err(|error| cannot_ask(&error))?;
    if promotion.to.tenant != call.permit.tenant() {
        return Err(errors::invalid(
            "properties.stage",
            "The stage is of another tenant than the group of its image definition.",
        ));
    }
    may_publish(&server, &call, &promotion).await?;
    let draft = Draft::new(to_value(&promotion)?);
    let job = server.work.promote(&call.id);
    let (put, job) = submit_with(&server, &call, old.as_ref(), draft, job).await?;
    server.polled(put_reply(&put), &call, &call.id, job)
}

/// The policies of the stage are asked before anything is copied, about the version that the promotion would make.
async fn may_publish(
    server: &Server,
    call: &Call,
    promotion: &PromotionProperties,
) -> Result<(), ArmError> {
    let stage = &promotion.to;
    let definition = ResourceId::parse(&stage.image_definition).ok();
    let id = definition.and_then(|id| id.child("versions", &promotion.version).ok());
    // A stage that names no definition is refused by the promotion itself.
    let Some(id) = id else { return Ok(()) };
    let home = stage.target_regions.first().map(|region| &region.name);
    let body = json!({
        "location": home,
        "properties": { "publishingProfile": { "targetRegions": stage.target_regions } },
    });
    enforcement::foreseen(server, stage.tenant, &id, &body, &call.version).await
}

fn cannot_ask(error: &RequestError) -> ArmError {
    let target = match error {
        RequestError::Version(_) => "properties.version",
        RequestError::Elsewhere { .. } => "promotionName",
        _ => "properties.stage",
    };
    errors::invalid(target, format!("{error}."))
}

async fn pipeline(server: &Server, call: &Call) -> Result<Resource, ArmError> {
    let Some(permit) = call.links.first() else {
        let message = format!("Required parameter '{PIPELINE}' is missing.");
        return Err(errors::invalid(PIPELINE, message));
    };
    if !permit.scope().resource_type().is(pipelines::KIND) {
        let message = format!("'{}' is not the id of a pipeline.", permit.scope());
        return Err(errors::invalid(PIPELINE, message));
    }
    let found = server.catalog.get(&permit.to_read_own()).await;
    found.map_err(errors::catalog)
}

pub async fn approve(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let old = need_own(&server, &call).await?;
    let mut promotion = record(&old)?;
    let by = actor(&call.permit)?;
    let built_it = built_by(&server, &promotion, by).await?;
    let opinion = opinion(&call)?;
    let approved = promote::approve(&mut promotion, by, built_it, &opinion, Timestamp::now());
    match approved.map_err(refused)? {
        Approved::Counted => decided(&server, &call, old, &promotion).await,
        Approved::Enough => {
            // Between the request and the last approval there may be a week, and another policy.
            may_publish(&server, &call, &promotion).await?;
            let draft = Draft {
                properties: to_value(&promotion)?,
                ..Draft::from_resource(old.clone())
            };
            let job = server.work.promote(&call.id);
            let (put, _) = submit_with(&server, &call, Some(&old), draft, job).await?;
            Ok(Reply::ok(present(&put.resource)))
        }
    }
}

/// The same person is another principal in another tenant: the application tells.
async fn built_by(
    server: &Server,
    promotion: &PromotionProperties,
    actor: Actor,
) -> Result<bool, ArmError> {
    let Some(builder) = promotion.built_by else {
        return Ok(false);
    };
    let there = server
        .auth
        .service_principal(builder.tenant, actor.app)
        .await
        .map_err(errors::catalog)?;
    Ok(builder.principal == actor.principal || there == Some(builder.principal))
}

pub async fn reject(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let old = need_own(&server, &call).await?;
    let mut promotion = record(&old)?;
    let by = actor(&call.permit)?;
    promote::reject(&mut promotion, by, &opinion(&call)?, Timestamp::now()).map_err(refused)?;
    decided(&server, &call, old, &promotion).await
}

/// One that waits is over at once; one that is worked on takes back what it did first.
pub async fn cancel(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let old = need_own(&server, &call).await?;
    let mut promotion = record(&old)?;
    if promotion.state == PromotionState::Running {
        let jobs = server.jobs_at(&call.permit).await?;
        let active = jobs
            .iter()
            .find(|job| job.kind == Promote::NAME && job.scope == call.id && !job.state.ended());
        if let Some(job) = active {
            server.cancel(&call.permit, job.id).await?;
        }
        return Ok(Reply::ok(present(&old)));
    }
    promote::cancel(&mut promotion, Timestamp::now()).map_err(refused)?;
    decided(&server, &call, old, &promotion).await
}

pub async fn verify(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let promotion = record(&need_own(&server, &call).await?)?;
    if promotion.state != PromotionState::Succeeded {
        return Err(errors::conflict(
            "Only a promotion that succeeded can be verified.",
        ));
    }
    let verified = server.work.verify_promotion(&promotion).await?;
    Ok(Reply::ok(verified))
}

pub async fn get(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    show(&server, &call).await
}

pub async fn all(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    list(&server, &call, KIND, |promotion| Some(present(promotion))).await
}

/// The promotion that an action is about.
async fn need_own(server: &Server, call: &Call) -> Result<Resource, ArmError> {
    let found = server.catalog.get(&call.permit.to_read_own()).await;
    found.map_err(errors::catalog)
}

async fn decided(
    server: &Server,
    call: &Call,
    old: Resource,
    promotion: &PromotionProperties,
) -> Result<Reply, ArmError> {
    let unmoved = Precondition::Match(old.etag.clone());
    let draft = Draft {
        properties: to_value(promotion)?,
        ..Draft::from_resource(old)
    };
    let put = server.catalog.put(&call.permit, draft, unmoved).await;
    Ok(Reply::ok(present(&put.map_err(errors::catalog)?.resource)))
}

fn record(resource: &Resource) -> Result<PromotionProperties, ArmError> {
    serde_json::from_value(resource.properties.clone())
        .map_err(|error| errors::internal("reading a promotion", &error))
}

fn to_value(promotion: &PromotionProperties) -> Result<Value, ArmError> {
    serde_json::to_value(promotion).map_err(|error| errors::internal("a promotion", &error))
}

fn opinion(call: &Call) -> Result<Opinion, ArmError> {
    if call.body.is_null() {
        return Ok(Opinion::default());
    }
    serde_json::from_value(call.body.clone())
        .map_err(|error| errors::invalid("comment", error.to_string()))
}

fn actor(permit: &Permit) -> Result<Actor, ArmError> {
    let identity: Option<&Identity> = permit.identity();
    let identity = identity.ok_or_else(|| errors::bad_request("Nobody asks for this."))?;
    Ok(Actor {
        tenant: identity.tenant,
        principal: identity.principal,
        app: identity.app,
    })
}

fn refused(error: OpinionError) -> ArmError {
    let code = match error {
        OpinionError::Comment => ErrorCode::InvalidParameter,
        OpinionError::Requester
        | OpinionError::Builder
        | OpinionError::Stage
        | OpinionError::NotNamed => ErrorCode::AuthorizationFailed,
        OpinionError::NotWaiting
        | OpinionError::Expired
        | OpinionError::Twice
        | OpinionError::Ended => ErrorCode::Conflict,
    };
    ArmError::new(code, format!("This cannot be: {error}."))
}
