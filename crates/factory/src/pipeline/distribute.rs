//! Where a proven image goes: each target is a step or some of its own. One that fails does not hold up the others,
//! and the next run finds those that are done.

use std::collections::BTreeMap;
use std::sync::Arc;

use access::Action;
use jobs::{JobError, OnUndo, StepError, StepHandle, step_key};
use serde_json::{Value, json};
use store::Store;
use wire::ResourceId;
use wire::compute::ScanFacts;
use wire::factory::Stage;

use super::origin::Ancestry;
use super::prove::{Allocated, Tattooed, gallery_step};
use super::recipe::{Distribution, Target};
use super::run::{Named, Run, RunUndo};
use super::stages::{Cx, Resolved};
use super::steps::{Shown, blocking};
use crate::disks::Disks;
use crate::publish::{self, Allocation, Artifact, Deliver, Publication, Published, Subject};
use crate::replicate::{self, RegionResult};

const VERSION_WRITE: &str = "Microsoft.Compute/galleries/images/versions/write";

/// What came of a run's targets.
#[derive(Debug, Default)]
pub(super) struct Delivered {
    pub artifacts: BTreeMap<String, Artifact>,
    /// The first gallery's version.
    pub version: Option<ResourceId>,
    pub failures: Vec<String>,
    /// The first target's failure, for when none succeeded.
    pub first_failure: Option<JobError>,
}

/// What of a finished image its targets are told.
pub(super) struct Finished<'a> {
    pub resolved: &'a Resolved,
    pub home: &'a Arc<Store>,
    pub tattooed: &'a Tattooed,
    pub allocated: &'a Allocated,
    pub boot_seconds: f64,
    pub scans: Vec<ScanFacts>,
}

impl Run {
    /// Brings the image to every target.
    pub(super) async fn distribute(
        &mut self,
        cx: &mut Cx,
        finished: &Finished<'_>,
    ) -> Result<Delivered, JobError> {
        let mut delivered = Delivered::default();
        let mut numbers = finished.allocated.numbers.clone().into_iter();
        for target in self.recipe.targets.clone() {
            let done = match &target {
                Target::Gallery(gallery) => match numbers.next() {
                    Some(number) => {
                        self.deliver_to_gallery(
                            cx,
                            finished,
                            &target,
                            gallery,
                            &number,
                            &mut delivered,
                        )
                        .await
                    }
                    None => Err(JobError::failed(
                        "InternalServerError",
                        "a gallery has no number",
                    )),
                },
                Target::Image(image) => self.to(cx, finished, &target, image.clone()).await,
                Target::File(file) => self.to(cx, finished, &target, file.clone()).await,
                Target::Registry(registry) => {
                    self.to(cx, finished, &target, registry.clone()).await
                }
                Target::Object(object) => self.to(cx, finished, &target, object.clone()).await,
                Target::AzureGallery(azure) => {
                    self.to(cx, finished, &target, (**azure).clone()).await
                }
            };
            match done {
                Ok(artifact) => {
                    delivered
                        .artifacts
                        .insert(target.run_output().to_owned(), artifact);
                }
                Err(error @ JobError::Failed { .. }) => {
                    delivered.failures.push(format!(
                        "{} was not distributed: {error}",
                        target.run_output()
                    ));
                    delivered.first_failure.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(delivered)
    }

    /// One step for a target that is delivered at once.
    async fn to(
        &mut self,
        cx: &mut Cx,
        finished: &Finished<'_>,
        target: &Target,
        deliver: impl Deliver + 'static,
    ) -> Result<Artifact, JobError> {
        let subject = self.subject(finished);
        let named = Named {
            stage: Stage::Publish,
            name: target.run_output(),
            key: None,
            undo: OnUndo::Nothing(
                "as with Azure's builder, whoever cancels takes care of what was delivered",
            ),
        };
        let action = move |handle: StepHandle, shown: Shown| async move {
            let artifact = deliver.deliver(&subject, &handle).await?;
            if artifact.found {
                shown.found();
            }
            Ok(artifact)
        };
        self.step(cx, named, |_| true, action).await
    }

    fn subject(&self, finished: &Finished<'_>) -> Subject {
        let disk = &finished.tattooed.disk;
        let uefi = self.recipe.firmwares.first() == Some(&machine::Firmware::Uefi);
        Subject {
            factory: Arc::clone(&self.factory),
            store: Arc::clone(finished.home),
            home: finished.resolved.home(),
            digest: disk.digest,
            logical_bytes: disk.logical_bytes,
            tenant: self.tenant,
            template: self.input.template.clone(),
            facts: self.facts(finished),
            os_type: finished.resolved.source.os_type.clone(),
            generalized: self.recipe.generalize,
            generation: if uefi { "V2" } else { "V1" },
        }
    }

    /// What a resource that is made of the disk says of it.
    fn facts(&self, finished: &Finished<'_>) -> Value {
        let tattoo = &finished.tattooed.tattoo;
        json!({
            "diskDigest": finished.tattooed.disk.digest.to_string(),
            "logicalBytes": finished.tattooed.disk.logical_bytes,
            "run": self.input.run.to_string(),
            "recipeDigest": tattoo.recipe_digest,
            "bootSeconds": finished.boot_seconds,
            "scans": finished.scans,
            "tattoo": publish::tattoo_map(tattoo),
            "ancestry": ancestry(finished.resolved),
            "osType": finished.resolved.source.os_type,
        })
    }

    async fn deliver_to_gallery(
        &mut self,
        cx: &mut Cx,
        finished: &Finished<'_>,
        target: &Target,
        gallery: &Distribution,
        number: &Allocation,
        delivered: &mut Delivered,
    ) -> Result<Artifact, JobError> {
        let first = delivered.version.is_none();
        let name = gallery_step(target, first);
        let version = self.publish(cx, finished, &name, gallery, number).await?;
        if first {
            delivered.version = Some(version.clone());
        }
        let failures = self
            .replicate(cx, finished, gallery, &version, first)
            .await?;
        delivered.failures.extend(failures);
        Ok(Artifact {
            id: Some(version.to_string()),
            uri: None,
            found: false,
        })
    }

    /// Makes the version a resource, under the right of whoever asked for the run.
    async fn publish(
        &mut self,
        cx: &mut Cx,
        finished: &Finished<'_>,
        name: &str,
        gallery: &Distribution,
        number: &Allocation,
    ) -> Result<ResourceId, JobError> {
        let version = gallery
            .definition
            .child("versions", &number.version.to_string());
        let version = version.map_err(|error| super::steps::failed("BadRequest", &error))?;
        let homes = &finished.resolved.homes;
        let location = homes.iter().find(|(id, _)| *id == gallery.definition);
        let home = finished.resolved.home();
        let publication = Publication {
            version: version.clone(),
            run: self.input.run.clone(),
            template: self.input.template.clone(),
            location: location.map_or(home.clone(), |(_, home)| wire::Location::new(home)),
            home,
            ancestry: ancestry(finished.resolved),
            distribution: gallery.clone(),
            allocation: number.clone(),
            digest: finished.tattooed.disk.digest,
            logical_bytes: finished.tattooed.disk.logical_bytes,
            tattoo: finished.tattooed.tattoo.clone(),
            boot_seconds: finished.boot_seconds,
            scans: finished.scans.clone(),
        };
        let (catalog, store) = (Arc::clone(&self.factory.catalog), Arc::clone(finished.home));
        let whom = Arc::clone(&self.factory.ask);
        let undo = RunUndo::Unpublish {
            version: version.clone(),
            run: self.input.run.clone(),
        };
        let named = Named {
            stage: Stage::Publish,
            name,
            key: None,
            undo: OnUndo::Call(undo),
        };
        let action = move |handle: StepHandle, shown: Shown| async move {
            let digest = publication.digest;
            let whole = blocking(move || Ok(store.has(&digest))).await?;
            if !whole {
                let message = format!("the disk {digest} is not whole in its home region");
                return Err(StepError::failed("StoreFailed", message));
            }
            let permit = handle
                .permit(&Action::new(VERSION_WRITE), &publication.version)
                .await?;
            let published = publish::publish(&catalog, &*whom, &permit, &publication).await?;
            if published.existed {
                shown.found();
            }
            handle.log(match &published {
                Published { existed: true, .. } => format!("{version} was published before"),
                Published { .. } => format!("published {version}"),
            });
            Ok(published)
        };
        let published: Published = self.step(cx, named, |_| true, action).await?;
        Ok(published.version_id)
    }

    /// Copies the disk to every target region. A region that fails does not hold up the others; the
    /// reconciler goes on with it. Answers what went wrong.
    async fn replicate(
        &mut self,
        cx: &mut Cx,
        finished: &Finished<'_>,
        gallery: &Distribution,
        version: &ResourceId,
        first: bool,
    ) -> Result<Vec<String>, JobError> {
        let digest = finished.tattooed.disk.digest;
        let mut failures = Vec::new();
        for region in gallery.regions.clone() {
            let want = replicate::want_of(
                region.storage_account_type.as_deref(),
                Some(region.replica_count),
            );
            let inputs = (
                digest,
                region.name.folded(),
                region.storage_account_type,
                region.replica_count,
            );
            let key = step_key("replicate", 2, &inputs);
            let copy = replicate::Copy {
                version: version.clone(),
                tenant: self.tenant,
                disks: Disks::only(digest),
                home: finished.resolved.home(),
                from: finished.resolved.home(),
                region: region.name.clone(),
                place: region.name.clone(),
                want,
            };
            let (regions, wanted) = (Arc::clone(&self.factory.regions), copy.clone());
            let good = move |found: &RegionResult| found.is_complete() && wanted.is_there(&regions);
            let factory = Arc::clone(&self.factory);
            let action = move |handle: StepHandle, _: Shown| async move {
                let progress = handle.clone();
                let result = copy
                    .run(&factory, &move |percent| {
                        progress.progress(format!("{percent} %"))
                    })
                    .await?;
                if let RegionResult::Failed { reason } = &result {
                    handle.log(format!("region {}: {reason}", copy.region));
                }
                Ok(result)
            };
            let name = region_step(gallery, &region.name, first);
            let named = Named::pure(Stage::Replicate, &name, key);
            let result: RegionResult = self.step(cx, named, good, action).await?;
            if let RegionResult::Failed { reason } = result {
                failures.push(format!(
                    "region {} does not hold the image yet: {reason}",
                    region.name
                ));
            }
        }
        if !failures.is_empty() {
            self.factory.nudge_replication();
        }
        Ok(failures)
    }
}

fn ancestry(resolved: &Resolved) -> &'static str {
    match resolved.source.ancestry {
        Ancestry::Built => "Built",
        Ancestry::Foreign => "Foreign",
    }
}

/// What the step that brings a version to a region is called; those of the first gallery need no name.
pub(super) fn region_step(gallery: &Distribution, region: &wire::Location, first: bool) -> String {
    match first {
        true => region.to_string(),
        false => format!("{} {region}", gallery.run_output),
    }
}
