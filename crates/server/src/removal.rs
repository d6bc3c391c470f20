//! The job behind `DELETE` of a resource group: machines first, each as its own deletion would, then the rest.
//!
//! Bits in the stores are not touched: what no version names any more is the store's own matter.

use std::sync::Arc;

use access::Action;
use async_trait::async_trait;
use catalog::{Catalog, CatalogError, JobState, NewJob, PageRequest, Pages, Precondition};
use jobs::{JobContext, JobError, JobKind, Jobs, NoUndo, OnUndo, StepError, StepHandle};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use wire::{ArmError, ResourceId, ResourceType};

use crate::resources::{disk_encryption_sets as sets, machines};
use crate::work::Work;

/// Machines of one group; past this the deletion says so and is asked for again.
const MACHINES_MAX: usize = 1000;
const DELETE: &str = "Microsoft.Resources/subscriptions/resourceGroups/delete";

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RemoveGroupInput {
    pub group: ResourceId,
}

pub struct RemoveGroup {
    pub catalog: Arc<dyn Catalog>,
    pub jobs: Jobs,
    pub work: Arc<dyn Work>,
}

pub fn job(group: &ResourceId) -> NewJob {
    NewJob {
        kind: RemoveGroup::NAME.into(),
        input: json!({ "group": group }),
        exclusive: Some(format!("delete {}", group.folded())),
        visible_at: Vec::new(),
    }
}

#[async_trait]
impl JobKind for RemoveGroup {
    const NAME: &'static str = "remove-group";
    type Input = RemoveGroupInput;
    type Undo = NoUndo;

    async fn run(
        &self,
        cx: &mut JobContext<NoUndo>,
        input: RemoveGroupInput,
    ) -> Result<Value, JobError> {
        let group = &input.group;
        let machines = OnUndo::Nothing("a machine that was removed does not come back");
        cx.step_once("remove machines", machines, |step| {
            self.remove_machines(step, group)
        })
        .await?;
        let sets = OnUndo::Nothing("a key that was erased does not come back");
        cx.step_once("remove keys", sets, |step| self.remove_sets(step, group))
            .await?;
        let rest = OnUndo::Nothing("it is the last step");
        cx.step_once("remove resources", rest, |step| async move {
            let permit = step.permit(&Action::new(DELETE), group).await?;
            match self.catalog.delete_tree(&permit, Precondition::None).await {
                Ok(removed) => Ok(removed.len()),
                Err(CatalogError::NotFound { .. }) => Ok(0),
                Err(error) => Err(StepError::from(error)),
            }
        })
        .await?;
        Ok(Value::Null)
    }

    async fn undo(
        &self,
        _cx: &StepHandle,
        undo: NoUndo,
        _output: Option<Value>,
    ) -> Result<(), StepError> {
        match undo {}
    }
}

impl RemoveGroup {
    /// The domains of disk encryption sets go with them. What they encrypt elsewhere keeps the group.
    async fn remove_sets(&self, step: StepHandle, group: &ResourceId) -> Result<usize, StepError> {
        let permit = step.permit(&Action::new(DELETE), group).await?;
        let read = permit.to_read_own();
        let sets = Pages::of(&*self.catalog, &read, sets::KIND).all().await?;
        let outside = |version: &ResourceId| !version.is_within(group);
        let refused = |error: ArmError| StepError::failed("Conflict", error.message);
        for set in &sets {
            sets::need_unused(&*self.catalog, &set.id, set.tenant, outside)
                .await
                .map_err(refused)?;
        }
        for set in &sets {
            self.work.remove_domain(&set.id).await.map_err(refused)?;
        }
        Ok(sets.len())
    }

    /// The right to delete the group is the right to delete what is in it.
    async fn remove_machines(
        &self,
        step: StepHandle,
        group: &ResourceId,
    ) -> Result<usize, StepError> {
        let permit = step.permit(&Action::new(DELETE), group).await?;
        let of = ResourceType::new(machines::KIND);
        let page = PageRequest::first(MACHINES_MAX);
        let page = self.catalog.list(&permit.to_read_own(), &of, page).await?;
        let mut removed = 0;
        for machine in &page.resources {
            let Some(own) = permit.to_descendant(&machine.id) else {
                continue;
            };
            step.progress(format!("removing {}", machine.id.name()));
            let mut job = self.work.delete_machine(&machine.id);
            job.exclusive = Some(machines::exclusive(&machine.id));
            let job = match self.jobs.store().submit(&own, job).await {
                Ok(job) => job,
                // Deployed or deleted at this moment: wait for that, then look again.
                Err(CatalogError::JobInTheWay { running, .. }) => {
                    self.jobs.wait(&own, running).await?;
                    return Err(StepError::transient(
                        "Conflict",
                        format!("the machine {} was being worked on", machine.id.name()),
                    ));
                }
                Err(error) => return Err(error.into()),
            };
            self.jobs.wake();
            let row = self.jobs.wait(&own, job).await?;
            if row.state != JobState::Succeeded {
                let why = row
                    .failure
                    .map_or_else(String::new, |failure| failure.message);
                return Err(StepError::failed(
                    "Conflict",
                    format!(
                        "the machine {} could not be removed: {why}",
                        machine.id.name()
                    ),
                ));
            }
            removed += 1;
        }
        Ok(removed)
    }
}
