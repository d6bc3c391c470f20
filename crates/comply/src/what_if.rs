//! What would be, if: a policy that is not assigned yet against everything that is there, or a resource that is not
//! there yet against all policies. Nothing is written.

use std::collections::BTreeMap;
use std::sync::Arc;

use access::{Permit, Visible};
use catalog::{PageRequest, Resource};
use jiff::Timestamp;
use policy::Fault;
use policy::json::text;
use policy::verdict::State;
use serde::Serialize;
use serde_json::{Value, json};
use wire::ResourceId;

use crate::cache::reading;
use crate::comply::Comply;
use crate::decide::{Decision, Write, WriteKind, id_of};
use crate::denial::Denial;
use crate::error::{ComplyError, Result};
use crate::explain::effect_of;
use crate::look::Look;
use crate::policies::Policies;
use crate::records::state_name;
use crate::subject::Subject;
use crate::unit::{self, Document, Unit};
use crate::versions;
use crate::{kinds, outcome, reason};

/// Records that one forecast tells; the counts are of all.
const RECORDS_MAX: usize = 1_000;
/// Pages of resources that one forecast looks at.
const PAGES_MAX: usize = 1_000;
const BATCH: usize = 500;
/// Names of what is not stored.
const ASSIGNMENT: &str = "what-if";

/// What is supposed.
#[derive(Debug, Clone)]
pub enum WhatIf {
    /// The assignment's body, as if at the permit's scope; and the definition or initiative, if that is not stored.
    Policy {
        definition: Option<Value>,
        assignment: Value,
    },
    /// A whole resource, as if it were written.
    Resource {
        resource: Value,
        existing: Option<Value>,
        api_version: String,
    },
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Forecast {
    /// Pairs of resource and policy by state.
    pub summary: BTreeMap<String, usize>,
    /// Resources that were looked at.
    pub resources: usize,
    /// Not everything at the scope was looked at.
    pub truncated: bool,
    /// Worst first.
    pub records: Vec<ForecastRecord>,
    /// Of a proposed resource: what would become of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<ForecastDecision>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ForecastRecord {
    pub resource_id: String,
    pub policy_assignment_id: String,
    pub policy_definition_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_definition_reference_id: Option<String>,
    pub effect: String,
    #[serde(serialize_with = "state_name")]
    pub compliance_state: State,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub fixes: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ForecastDecision {
    pub denied: bool,
    pub denials: Vec<Denial>,
    pub changes: Vec<Value>,
    pub resource: Value,
}

impl Comply {
    pub async fn what_if(&self, permit: &Permit, ask: WhatIf) -> Result<Forecast> {
        let policies = self.cache.policies(&self.parts, permit.tenant()).await?;
        match ask {
            WhatIf::Policy {
                definition,
                assignment,
            } => {
                let units = self.suppose(permit, definition, assignment).await?;
                self.forecast(permit, policies, &units).await
            }
            WhatIf::Resource {
                resource,
                existing,
                api_version,
            } => {
                let write = Write {
                    tenant: permit.tenant(),
                    kind: match existing {
                        Some(_) => WriteKind::Update,
                        None => WriteKind::Create,
                    },
                    resource,
                    existing,
                    api_version,
                };
                self.forecast_write(permit, policies, write).await
            }
        }
    }

    /// The units of an assignment that is not stored.
    async fn suppose(
        &self,
        permit: &Permit,
        definition: Option<Value>,
        mut assignment: Value,
    ) -> Result<Vec<Arc<Unit>>> {
        let documents = self.cache.documents(&self.parts, permit.tenant()).await?;
        let refused = |reason: &str| {
            let fault = Fault::new("properties.policyDefinitionId", reason);
            ComplyError::document("assignment")(fault)
        };
        let name = text(&assignment, "name").unwrap_or(ASSIGNMENT).to_owned();
        let id = permit
            .scope()
            .extension("Microsoft.Authorization", "policyAssignments", &name);
        let id = id.map_err(|error| refused(&error.to_string()))?;
        if !assignment["properties"].is_object() {
            assignment = json!({ "properties": assignment });
        }
        let own = match &definition {
            None => None,
            Some(body) => {
                let document = self.supposed(permit, body)?;
                assignment["properties"]["policyDefinitionId"] = document.id.clone().into();
                Some(document)
            }
        };
        assignment["id"] = id.to_string().into();
        assignment["name"] = name.into();
        let find = |wanted: &str, version: Option<&str>| {
            let wanted = wanted.trim_end_matches('/');
            let own = own
                .as_ref()
                .filter(|own| own.id.eq_ignore_ascii_case(wanted));
            match own {
                Some(own) => Ok(Arc::clone(own)),
                None => versions::choose(documents.get(&wanted.to_lowercase()), wanted, version),
            }
        };
        let found = unit::assigned(&id, assignment, &find);
        let found = Arc::new(found.ok_or_else(|| refused("an assignment needs a scope"))?);
        let units = unit::units(&found, &find);
        if let Some(why) = units.iter().find_map(|unit| unit.broken.as_deref()) {
            return Err(refused(why));
        }
        Ok(units.into_iter().map(Arc::new).collect())
    }

    fn supposed(&self, permit: &Permit, body: &Value) -> Result<Arc<Document>> {
        let compiled = policy::compile(body, self.aliases());
        let compiled = compiled.map_err(ComplyError::document("definition"))?;
        let kind = match compiled {
            policy::Compiled::Definition(_) => kinds::DEFINITIONS,
            policy::Compiled::Initiative(_) => kinds::SET_DEFINITIONS,
        };
        let name = text(body, "name").unwrap_or(ASSIGNMENT);
        let scope = permit.scope().to_string();
        let id = format!("{}/providers/{kind}/{name}", scope.trim_end_matches('/'));
        Ok(Arc::new(Document::new(&id, body, ASSIGNMENT.to_owned())))
    }

    async fn forecast(
        &self,
        permit: &Permit,
        policies: Arc<Policies>,
        units: &[Arc<Unit>],
    ) -> Result<Forecast> {
        let scope = permit.scope();
        let roots = match scope.resource_type().is(kinds::MANAGEMENT_GROUPS) {
            true => policies.subscriptions_below(scope),
            false => vec![scope.clone()],
        };
        let shows = |id: &ResourceId| match permit.visible() {
            Visible::All => true,
            Visible::Only(scopes) => scopes.iter().any(|scope| policies.within(id, scope)),
        };
        let mut look = Look::new(&self.parts, &self.cache, Arc::clone(&policies));
        let mut forecast = Forecast::default();
        let mut pages = 0;
        for root in &roots {
            let own = crate::look::get(&self.parts, root, policies.tenant).await?;
            let own: Vec<Resource> = own.into_iter().collect();
            self.foresee(&mut look, &own, units, &mut forecast, &shows)
                .await?;
            let reader = reading(root, policies.tenant);
            let mut page = PageRequest::first(BATCH);
            loop {
                pages += 1;
                if pages > PAGES_MAX {
                    forecast.truncated = true;
                    return Ok(finished(forecast));
                }
                let answer = self.parts.catalog.list_below(&reader, page).await;
                let answer = answer.map_err(ComplyError::catalog("look at all resources"))?;
                self.foresee(&mut look, &answer.resources, units, &mut forecast, &shows)
                    .await?;
                let Some(next) = answer.next else {
                    break;
                };
                page = PageRequest::first(BATCH).after(next);
            }
        }
        Ok(finished(forecast))
    }

    async fn foresee(
        &self,
        look: &mut Look<'_>,
        resources: &[Resource],
        units: &[Arc<Unit>],
        forecast: &mut Forecast,
        shows: &impl Fn(&ResourceId) -> bool,
    ) -> Result<()> {
        let now = self.parts.clock.now();
        let mut subjects = Vec::with_capacity(resources.len());
        for resource in resources {
            if kinds::reached(&resource.id) && shows(&resource.id) {
                subjects.push(look.stored(resource, units).await?);
            }
        }
        forecast.resources += subjects.len();
        let units = units.to_vec();
        let records = tokio::task::spawn_blocking(move || {
            let each = subjects
                .iter()
                .flat_map(|subject| judge(subject, &units, now));
            each.collect::<Vec<ForecastRecord>>()
        });
        for record in records.await.map_err(|_| ComplyError::Ended)? {
            add(forecast, record);
        }
        Ok(())
    }

    async fn forecast_write(
        &self,
        permit: &Permit,
        policies: Arc<Policies>,
        write: Write,
    ) -> Result<Forecast> {
        let id = id_of(&write.resource)?;
        if !id.is_within(permit.scope()) {
            let reason = format!("the resource is not at or below {}", permit.scope());
            return Err(ComplyError::document("resource")(Fault::new("id", reason)));
        }
        let decision = self
            .decide_by(Arc::clone(&policies), &id, write, None)
            .await?;
        let units = match kinds::reached(&id) {
            true => policies.reaching(&id),
            false => Vec::new(),
        };
        let now = self.parts.clock.now();
        let mut look = Look::new(&self.parts, &self.cache, policies);
        let mut value = decision.resource.clone();
        value["type"] = kinds::of(&id).into();
        let subject = look.subject(&id, value, &units).await?;
        let mut forecast = Forecast {
            resources: 1,
            ..Forecast::default()
        };
        for record in judge(&subject, &units, now) {
            add(&mut forecast, record);
        }
        let Decision {
            resource,
            changes,
            denials,
            ..
        } = decision;
        forecast.decision = Some(ForecastDecision {
            denied: !denials.is_empty(),
            denials,
            changes,
            resource,
        });
        Ok(finished(forecast))
    }
}

fn judge(subject: &Subject, units: &[Arc<Unit>], now: Timestamp) -> Vec<ForecastRecord> {
    let id = subject
        .id
        .as_ref()
        .map_or_else(String::new, ToString::to_string);
    let record = |(unit, verdict): outcome::Judgement| {
        Some(ForecastRecord {
            resource_id: id.clone(),
            policy_assignment_id: unit.assignment.id.to_string(),
            policy_definition_id: unit.definition.id.clone(),
            policy_definition_reference_id: unit.reference.clone(),
            effect: effect_of(&unit, &verdict),
            compliance_state: verdict.state?,
            reason: reason::reason(&unit, &verdict, subject),
            fixes: reason::fixes(&unit, &verdict, subject),
        })
    };
    let verdicts = outcome::verdicts(subject, units, now);
    verdicts.into_iter().filter_map(record).collect()
}

fn add(forecast: &mut Forecast, record: ForecastRecord) {
    let state = record.compliance_state.name().to_owned();
    *forecast.summary.entry(state).or_insert(0) += 1;
    // Of what complies, nothing need be told while there is something else to tell.
    if forecast.records.len() < RECORDS_MAX {
        forecast.records.push(record);
        return;
    }
    if record.compliance_state == State::Compliant {
        return;
    }
    let weaker = forecast
        .records
        .iter()
        .position(|kept| kept.compliance_state == State::Compliant);
    if let Some(at) = weaker {
        forecast.records[at] = record;
    }
}

fn finished(mut forecast: Forecast) -> Forecast {
    let rank = |state: State| match state {
        // Told last, though Azure ranks it second.
        State::Compliant => u8::MAX,
        other => other as u8,
    };
    forecast
        .records
        .sort_by_key(|record| rank(record.compliance_state));
    forecast
}
