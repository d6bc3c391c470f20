//! What policies say of a write before it is stored: which are asked, and about what. How they answer together is the
//! engine's.

use std::sync::Arc;

use catalog::{PageRequest, Resource};
use policy::Fault;
use policy::evaluate::Surroundings;
use policy::request::{self, Act};
use serde_json::{Value, json};
use wire::{ResourceId, TenantId};

use crate::aliases::MACHINE_IMAGE;
use crate::cache::reading;
use crate::comply::Comply;
use crate::denial::Denial;
use crate::error::{ComplyError, Result};
use crate::kinds;
use crate::look::Look;
use crate::policies::Policies;
use crate::subject::Subject;
use crate::unit::Unit;

/// Resources of a group that are asked before it is deleted.
const CASCADE_PAGES_MAX: usize = 1000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteKind {
    Create,
    Update,
    Delete,
}

/// A write that is about to happen.
#[derive(Debug, Clone)]
pub struct Write {
    pub tenant: TenantId,
    pub kind: WriteKind,
    /// The whole resource as ARM would show it afterwards: `id`, `name`, `type` and what the request says; of a delete,
    /// what is stored.
    pub resource: Value,
    /// What is stored now.
    pub existing: Option<Value>,
    pub api_version: String,
}

/// What becomes of it.
#[derive(Debug, Clone)]
pub struct Decision {
    /// The resource after modify and append; to be stored in the place of what was proposed.
    pub resource: Value,
    pub changed: bool,
    /// What changed it: `{operation, field, value, policyAssignmentId}`.
    pub changes: Vec<Value>,
    /// Empty: it may be stored.
    pub denials: Vec<Denial>,
}

impl Decision {
    fn nothing(resource: Value) -> Decision {
        Decision {
            resource,
            changed: false,
            changes: Vec::new(),
            denials: Vec::new(),
        }
    }
}

impl Comply {
    /// What the policies that are stored at this moment say of the write.
    pub async fn decide(&self, write: Write) -> Result<Decision> {
        let id = id_of(&write.resource)?;
        let policies = self.cache.policies(&self.parts, write.tenant).await?;
        self.decide_by(policies, &id, write, None).await
    }

    /// The same under given policies, or under `only` some of them.
    pub(crate) async fn decide_by(
        &self,
        policies: Arc<Policies>,
        id: &ResourceId,
        write: Write,
        only: Option<&[Arc<Unit>]>,
    ) -> Result<Decision> {
        if !kinds::reached(id) {
            return Ok(Decision::nothing(write.resource));
        }
        let mut units = match only {
            Some(only) => only.to_vec(),
            None => policies.reaching(id),
        };
        units.retain(|unit| unit.enforced());
        if units.is_empty() {
            return Ok(Decision::nothing(write.resource));
        }
        let mut look = Look::new(&self.parts, &self.cache, Arc::clone(&policies));
        let written = write.resource.get("type").cloned();
        let mut proposed = write.resource;
        proposed["type"] = kinds::of(id).into();
        let mut subject = look.subject(id, proposed, &units).await?;
        subject.request = json!({ "apiVersion": write.api_version });
        let mut asked = Asked {
            subject,
            now: self.parts.clock.now(),
            units,
            changes: Vec::new(),
            denials: Vec::new(),
        };
        match write.kind {
            WriteKind::Delete => {
                asked.ask(Act::Delete);
                if asked.denials.is_empty() && id.resource_type().is(kinds::OWN_RESOURCE_GROUPS) {
                    self.ask_below(&mut asked, &policies, id).await?;
                }
            }
            WriteKind::Create | WriteKind::Update => asked.ask(Act::Write),
        }
        let mut resource = asked.subject.value;
        if let Value::Object(object) = &mut resource {
            // Computed, and not of the resource.
            object.shift_remove(MACHINE_IMAGE);
            if let Some(written) = written {
                object.insert("type".into(), written);
            }
        }
        Ok(Decision {
            resource,
            changed: !asked.changes.is_empty(),
            changes: asked.changes,
            denials: asked.denials,
        })
    }

    /// A group that goes takes everything in it along, so what protects that protects the group.
    async fn ask_below(
        &self,
        asked: &mut Asked,
        policies: &Arc<Policies>,
        group: &ResourceId,
    ) -> Result<()> {
        let protects =
            |unit: &Arc<Unit>| unit.enforced() && unit.forbids_actions() && unit.cascades();
        // Assignments may sit on the group's resources, so all the tenant's are asked.
        if !policies.units.iter().any(protects) {
            return Ok(());
        }
        let permit = reading(group, policies.tenant);
        let mut look = Look::new(&self.parts, &self.cache, Arc::clone(policies));
        let mut page = PageRequest::largest();
        for _ in 0..CASCADE_PAGES_MAX {
            let answer = self.parts.catalog.list_below(&permit, page).await;
            let answer = answer.map_err(ComplyError::catalog("look into a group"))?;
            for resource in answer
                .resources
                .iter()
                .filter(|one| kinds::reached(&one.id))
            {
                let mut units = policies.reaching(&resource.id);
                units.retain(protects);
                if units.is_empty() {
                    continue;
                }
                asked.subject = subject_below(&mut look, resource, &units).await?;
                asked.units = units;
                asked.ask(Act::Delete);
            }
            let Some(next) = answer.next.filter(|_| asked.denials.is_empty()) else {
                return Ok(());
            };
            page = PageRequest::largest().after(next);
        }
        Ok(())
    }
}

async fn subject_below(
    look: &mut Look<'_>,
    resource: &Resource,
    units: &[Arc<Unit>],
) -> Result<Subject> {
    let value = crate::subject::shown(resource);
    look.subject(&resource.id, value, units).await
}

pub(crate) fn id_of(resource: &Value) -> Result<ResourceId> {
    let id = policy::json::text(resource, "id").map(ResourceId::parse);
    let reason = match id {
        Some(Ok(id)) => return Ok(id),
        Some(Err(error)) => error.to_string(),
        None => "a resource needs its id".to_owned(),
    };
    Err(ComplyError::document("resource")(Fault::new("id", reason)))
}

/// A request that policies look at, as far as they have come.
struct Asked {
    subject: Subject,
    now: jiff::Timestamp,
    units: Vec<Arc<Unit>>,
    changes: Vec<Value>,
    denials: Vec<Denial>,
}

impl Asked {
    /// Asks all of them. Who is broken refuses what would be stored, but nothing that goes: else nothing could be
    /// removed any more.
    fn ask(&mut self, act: Act) {
        for unit in &mut self.units {
            *unit = unit.meant(&self.subject.value);
        }
        for unit in self.units.iter().filter(|unit| unit.broken.is_some()) {
            let verdict = unit.fault(&self.subject);
            if let Some(why) = verdict.error.clone().filter(|_| act != Act::Delete) {
                self.denials.push(Denial::new(unit, &verdict, Some(why)));
            }
        }
        let around: Vec<(&Arc<Unit>, Surroundings)> = self
            .units
            .iter()
            .map(|unit| (unit, unit.around(&self.subject, self.now)))
            .collect();
        let mut asked = Vec::with_capacity(around.len());
        let mut questions = Vec::with_capacity(around.len());
        for (unit, around) in &around {
            if let Some(question) = unit.question(&self.subject, around) {
                asked.push(*unit);
                questions.push(question);
            }
        }
        if questions.is_empty() {
            return;
        }
        let decision = request::decide(&questions, act);
        for denial in decision.denials {
            let unit = asked[denial.policy];
            self.denials
                .push(Denial::new(unit, &denial.verdict, denial.reason));
        }
        for (policy, planned) in decision.changes {
            let mut change = planned.to_json();
            change["policyAssignmentId"] = asked[policy].assignment.id.to_string().into();
            self.changes.push(change);
        }
        self.subject.value = decision.resource;
    }
}
