//! The step that says what is in the finished disk and how it came to be. It comes before the version is published, so
//! a version that can be seen has its statements.

use std::sync::Arc;

use access::{Action, Permit, SystemReason};
use disk::DiskDigest;
use jobs::{JobContext, JobError, StepHandle, step_key};
use store::Store;
use wire::factory::Stage;

use super::prove::{Proofs, Tattooed};
use super::rebuild::BuildRecord;
use super::run::{Named, Run, RunUndo};
use super::stages::Resolved;
use super::steps::{Shown, blocking, failed, store_failed};
use crate::prove::{self, Proven, Signing, Story};

const STATEMENTS_WRITE: &str = "Bullion.Factory/statements/write";
/// Raised when statements say more, so that they are made again.
const FORMAT: u32 = 5;

impl Run {
    /// Signs and keeps statements about the disk.
    pub(super) async fn prove(
        &mut self,
        cx: &mut JobContext<RunUndo>,
        resolved: &Resolved,
        home: &Arc<Store>,
        (base, tattooed): (&DiskDigest, &Tattooed),
        proofs: Proofs,
    ) -> Result<(), JobError> {
        // What was brought here has no story that is known to its beginning.
        if !resolved.is_built() {
            return self.prove_brought(cx, tattooed, proofs).await;
        }
        let factory = Arc::clone(&self.factory);
        let digest = tattooed.disk.digest;
        let story = Story {
            digest: digest.to_string(),
            tattoo: tattooed.tattoo.clone(),
            pin: resolved.source.pin.clone(),
            parent: resolved.source.origin.disk(),
            template: self.input.template.to_string(),
            run: self.input.run.to_string(),
            customizers: self
                .recipe
                .customizers
                .iter()
                .map(|customizer| customizer.name().to_owned())
                .collect(),
            proofs,
            record: BuildRecord::of(self, resolved, base, &tattooed.tattoo)?,
            started: self.started().to_owned(),
        };
        let signs = factory.statement_key();
        let key = step_key("statements", FORMAT, &(digest, signs.id()));
        let permit = self.statements_permit();
        let store = Arc::clone(home);
        let action = move |handle: StepHandle, _: Shown| async move {
            let inventory = blocking(move || {
                let disk = store.disk(&digest).map_err(|error| store_failed(&error))?;
                prove::inventory(&disk).map_err(|error| failed("StatementsFailed", &error))
            })
            .await?;
            let proven = prove::keep(
                &factory.statements,
                &factory.clock,
                &signs,
                &permit,
                &story,
                inventory,
            )
            .await
            .map_err(|error| failed("StatementsFailed", &error))?;
            handle.log(match proven.packages {
                Some(packages) => format!("{packages} packages are in the image"),
                None => "the image has no package database that is known".to_owned(),
            });
            Ok(proven)
        };
        let named = Named::pure(Stage::Publish, "statements", key);
        let _: Proven = self.step(cx, named, |_| true, action).await?;
        Ok(())
    }

    /// Of a disk that was brought here: what is in it now, and not how it came to be.
    async fn prove_brought(
        &mut self,
        cx: &mut JobContext<RunUndo>,
        tattooed: &Tattooed,
        proofs: Proofs,
    ) -> Result<(), JobError> {
        let (factory, tattooed) = (Arc::clone(&self.factory), tattooed.clone());
        let signs = factory.statement_key();
        let digest = tattooed.disk.digest;
        let key = step_key("statements-brought", 1, &(digest, signs.id()));
        let permit = self.statements_permit();
        let action = move |_: StepHandle, _: Shown| async move {
            let signing = Signing {
                kept: &factory.statements,
                key: &signs,
                permit: &permit,
                digest: &digest.to_string(),
                tattoo: &tattooed.tattoo,
            };
            let kept = prove::keep_of_brought(&factory.clock, &signing, &proofs).await;
            kept.map_err(|error| failed("StatementsFailed", &error))
        };
        let named = Named::pure(Stage::Publish, "statements", key);
        let _: Proven = self.step(cx, named, |_| true, action).await?;
        Ok(())
    }

    fn statements_permit(&self) -> Permit {
        Permit::system(
            SystemReason::JobStatus,
            Action::new(STATEMENTS_WRITE),
            self.input.run.clone(),
            self.tenant,
        )
    }
}
