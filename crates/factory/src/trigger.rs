//! Triggers: a template is built again when its source has a newer version. Builds are begun in the name of whoever
//! made the trigger, as far as their rights go at that moment.
//!
//! After several failures in a row a trigger waits until somebody ran the template with success.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use access::{Action, Identity, Permit, SystemReason, authorize};
use async_trait::async_trait;
use catalog::{CatalogError, Pages, Resource};
use jobs::{Cancel, Reconciler, StepError, Submit};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use wire::factory::RunProperties;
use wire::template::RunState;
use wire::{AppId, PrincipalId, ResourceId, TenantId};

use crate::factory::Factory;
use crate::pipeline::{BuildRun, RUN_TYPE, Recipe, RecipeSource, chain, change, exclusive, newest};
use crate::publish::{self, VERSION_READ};

pub const TRIGGER_TYPE: &str = "Microsoft.VirtualMachineImages/imageTemplates/triggers";
const RUN_ACTION: &str = "Microsoft.VirtualMachineImages/imageTemplates/run/action";
const PERIOD: Duration = Duration::from_secs(60);
/// Failures in a row after which nothing is built.
const FAILURES_MAX: usize = 3;

pub struct Triggers(pub Arc<Factory>);

/// What a trigger keeps that nobody is shown.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Kept {
    made_by: Option<Maker>,
    /// The source's version that was built last, or was there when the trigger was made.
    seen: Option<String>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Maker {
    tenant: TenantId,
    principal: PrincipalId,
    app: AppId,
}

#[async_trait]
impl Reconciler for Triggers {
    fn name(&self) -> &'static str {
        "triggers"
    }

    fn period(&self) -> Duration {
        PERIOD
    }

    async fn reconcile(&self, stop: &Cancel) -> Result<(), Box<dyn Error + Send + Sync>> {
        let mut first_error: Option<StepError> = None;
        for tenant in self.0.auth.tenants().await? {
            for trigger in self.all(tenant.tenant).await? {
                if stop.is_raised() {
                    return Ok(());
                }
                if let Err(error) = self.look_after(&trigger).await {
                    // The next one may do better; the pass still failed.
                    tracing::warn!(trigger = %trigger.id, %error, "a trigger cannot be looked after");
                    first_error.get_or_insert(error);
                }
            }
        }
        first_error.map_or(Ok(()), |error| Err(error.into()))
    }
}

impl Triggers {
    async fn all(&self, tenant: TenantId) -> Result<Vec<Resource>, CatalogError> {
        let permit = system(&ResourceId::root(), TRIGGER_TYPE, "read", tenant);
        list(&self.0, &permit, TRIGGER_TYPE).await
    }

    async fn look_after(&self, trigger: &Resource) -> Result<(), StepError> {
        let kept: Kept =
            serde_json::from_value(trigger.properties["bullion"].clone()).unwrap_or_default();
        let (Some(maker), Some(template)) = (kept.made_by, trigger.id.parent()) else {
            return Ok(());
        };
        let identity = Identity {
            tenant: maker.tenant,
            principal: maker.principal,
            app: maker.app,
        };
        let grants = self.0.auth.grants(maker.tenant, maker.principal).await?;
        let may = |action: &str, scope: &ResourceId| {
            authorize(
                &identity,
                &grants,
                &Action::new(action),
                scope,
                trigger.tenant,
            )
        };
        let permit = match may(RUN_ACTION, &template) {
            Ok(permit) => permit,
            Err(error) => {
                return self
                    .tell(trigger, &kept, "Unhealthy", &error.to_string())
                    .await;
            }
        };
        let template = self.0.catalog.get(&permit.to_read_own()).await?;
        let recipe = Recipe::parse(&template.properties);
        let Ok(recipe) = recipe else {
            let why = "The template cannot be built as it is.";
            return self.tell(trigger, &kept, "Unhealthy", why).await;
        };
        let current = match &recipe.source {
            RecipeSource::Platform(image) => {
                let pin = self.0.provider.resolve(image, &recipe.mirrors).await;
                pin.map(|pin| Some(pin.state.to_string()))
                    .map_err(|error| StepError::transient("SourceFailed", chain(&error)))?
            }
            RecipeSource::Latest { definition } => match may(VERSION_READ, definition) {
                Err(error) => {
                    return self
                        .tell(trigger, &kept, "Unhealthy", &error.to_string())
                        .await;
                }
                Ok(permit) => {
                    let found = publish::versions(&self.0.catalog, &permit).await?;
                    newest(found).map(|version| version.id.name().to_owned())
                }
            },
            _ => None,
        };
        let Some(current) = current else {
            return self
                .tell(trigger, &kept, "Healthy", "Trigger is active.")
                .await;
        };
        self.decide(trigger, kept, &template, &permit, current)
            .await
    }

    async fn decide(
        &self,
        trigger: &Resource,
        mut kept: Kept,
        template: &Resource,
        permit: &Permit,
        current: String,
    ) -> Result<(), StepError> {
        let failures = self.failures(template).await?;
        if failures >= FAILURES_MAX {
            let why = format!(
                "Trigger is suspended after {failures} failed runs in a row; it goes on after one that succeeds."
            );
            return self.tell(trigger, &kept, "Unhealthy", &why).await;
        }
        match &kept.seen {
            Some(seen) if *seen == current => {}
            // What is there when the trigger is made is what it waits for something newer than.
            None => kept.seen = Some(current),
            Some(_) => {
                if !self.begin(template, permit).await? {
                    return Ok(());
                }
                kept.seen = Some(current);
            }
        }
        self.tell(trigger, &kept, "Healthy", "Trigger is active.")
            .await
    }

    /// Begins a run; `false` where one is under way, after which it is looked again.
    async fn begin(&self, template: &Resource, permit: &Permit) -> Result<bool, StepError> {
        let Some(jobs) = self.0.jobs() else {
            return Ok(false);
        };
        let begun = self.0.begin_run(permit, template).await;
        let begun = begun.map_err(|error| StepError::failed("RunFailed", chain(&error)))?;
        let submit = Submit {
            exclusive: Some(exclusive(&template.id)),
            visible_at: vec![begun.run.clone()],
        };
        match jobs.submit::<BuildRun>(permit, &begun.input, submit).await {
            Ok(_) => Ok(true),
            Err(error) => {
                let own = system(&begun.run, RUN_TYPE, "delete", template.tenant);
                let removed = self
                    .0
                    .catalog
                    .delete(&own, catalog::Precondition::None)
                    .await;
                if let Err(error) = removed {
                    tracing::warn!(run = %begun.run, %error, "the record of a run that never began stays");
                }
                match error {
                    CatalogError::JobInTheWay { .. } => Ok(false),
                    other => Err(other.into()),
                }
            }
        }
    }

    /// How many of the template's last runs failed one after the other.
    async fn failures(&self, template: &Resource) -> Result<usize, StepError> {
        let Some(group) = template.id.group_scope() else {
            return Ok(0);
        };
        let permit = system(&group, RUN_TYPE, "read", template.tenant);
        let found = list(&self.0, &permit, RUN_TYPE).await?;
        let mut runs: Vec<RunProperties> = found
            .into_iter()
            .filter_map(|run| serde_json::from_value(run.properties).ok())
            .filter(|run: &RunProperties| run.template == template.id.to_string())
            .collect();
        runs.sort_by(|a, b| b.start_time.cmp(&a.start_time));
        let ended = runs.iter().filter(|run| run.end_time.is_some());
        Ok(ended
            .take_while(|run| run.run_state == RunState::Failed)
            .count())
    }

    /// Writes down how the trigger is, if that is news.
    async fn tell(
        &self,
        trigger: &Resource,
        kept: &Kept,
        code: &str,
        message: &str,
    ) -> Result<(), StepError> {
        let kept = serde_json::to_value(kept).unwrap_or_default();
        let old = &trigger.properties["status"];
        let same = old["code"] == code && old["message"] == message;
        if same && trigger.properties["bullion"] == kept {
            return Ok(());
        }
        let time = match same {
            true => old["time"].clone(),
            false => Value::from(self.0.clock.now().to_string()),
        };
        let status = json!({ "code": code, "message": message, "time": time });
        let permit = system(&trigger.id, TRIGGER_TYPE, "write", trigger.tenant);
        let changed = change(&self.0.catalog, &permit, |draft| {
            draft.properties["status"] = status.clone();
            draft.properties["bullion"] = kept.clone();
        });
        match changed.await {
            // A trigger that was removed meanwhile has no status.
            Ok(()) | Err(CatalogError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn system(scope: &ResourceId, kind: &str, verb: &str, tenant: TenantId) -> Permit {
    let action = Action::new(format!("{kind}/{verb}"));
    Permit::system(SystemReason::Reconcile, action, scope.clone(), tenant)
}

async fn list(
    factory: &Factory,
    permit: &Permit,
    kind: &str,
) -> Result<Vec<Resource>, CatalogError> {
    Pages::of(&*factory.catalog, permit, kind).all().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::World;

    fn trigger_of(world: &World) -> ResourceId {
        world.template.child("triggers", "t").unwrap()
    }

    async fn with_trigger() -> (World, Arc<Factory>) {
        let world = World::new(&["north"]).await;
        let clerk = world.clerk;
        let made_by =
            json!({ "tenant": clerk.tenant, "principal": clerk.principal, "app": clerk.app });
        let properties = json!({ "kind": "SourceImage", "bullion": { "madeBy": made_by } });
        world
            .put(&trigger_of(&world), catalog::Draft::new(properties))
            .await;
        let factory = world.factory();
        (world, factory)
    }

    async fn runs(world: &World) -> usize {
        let permit = world.clerk_permit("Bullion.Factory/runs/read", &world.group);
        let runs = Pages::of(&*world.catalog, &permit, RUN_TYPE).all();
        runs.await.unwrap().len()
    }

    /// One round, after which so many runs exist and the trigger says so.
    async fn check(world: &World, factory: &Arc<Factory>, expected: usize, says: &str) {
        Triggers(Arc::clone(factory))
            .reconcile(&jobs::CancelSource::new().token())
            .await
            .unwrap();
        assert_eq!(runs(world).await, expected);
        let trigger = world.get(&trigger_of(world)).await.unwrap();
        let status = trigger.properties["status"]["message"].as_str().unwrap();
        assert!(status.contains(says), "{status}");
    }

    #[tokio::test]
    async fn a_newer_source_is_built_once() {
        let (world, factory) = with_trigger().await;
        let mut builder = jobs::RunnerBuilder::new(world.catalog.clone(), world.catalog.clone());
        factory.register(&mut builder);
        let runner = builder.build();
        check(&world, &factory, 0, "active").await;
        check(&world, &factory, 0, "active").await;
        world.provider.move_archive();
        check(&world, &factory, 1, "active").await;
        check(&world, &factory, 1, "active").await;
        assert!(runner.run_next().await);
        assert_eq!(world.versions().await, ["1.0.0"]);
        // Runs that fail, one after the other.
        *world.builder.failing.lock().unwrap() = Some("motd".to_owned());
        for expected in 2..5 {
            world.provider.move_archive();
            world.clock.advance(Duration::from_secs(60));
            check(&world, &factory, expected, "active").await;
            assert!(runner.run_next().await);
        }
        world.provider.move_archive();
        check(&world, &factory, 4, "suspended after 3 failed runs").await;
        *world.builder.failing.lock().unwrap() = None;
        world.dismiss_clerk().await;
        check(&world, &factory, 4, "may not").await;
    }
}
