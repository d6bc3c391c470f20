//! Proof that a promotion moved nothing but a name: both versions have one digest, and the bits behind it are whole
//! wherever the stage keeps them.

use std::sync::Arc;

use disk::DiskDigest;
use jobs::StepError;
use serde::Serialize;
use wire::promotion::PromotionProperties;
use wire::{Location, ResourceId};

use super::{digest_of, rights};
use crate::factory::Factory;
use crate::pipeline::{blocking, store_failed};

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verified {
    /// All digests are equal and every copy that was read is whole.
    pub equal: bool,
    pub stages: Vec<VerifiedStage>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifiedStage {
    pub stage: String,
    pub version_id: ResourceId,
    pub disk_digest: Option<String>,
    /// Where the disk was read whole and its digest computed anew.
    pub computed_in: Option<Location>,
}

/// Reads both versions as the stage's principal, and the disk of each in its home region.
pub async fn verify(
    factory: &Arc<Factory>,
    promotion: &PromotionProperties,
) -> Result<Verified, StepError> {
    let rights = rights::rights(&*factory.auth, promotion).await?;
    let mut stages = Vec::new();
    let mut digests = Vec::new();
    for (name, permit) in [
        (&promotion.from.name, rights.source),
        (&promotion.to.name, rights.own.to_read_own()),
    ] {
        let version = factory.catalog.get(&permit).await?;
        let digest = digest_of(&version);
        let home = Location::new(version.location.clone().unwrap_or_default());
        let computed_in = match digest {
            Some(digest) => whole(factory, digest, home).await?,
            None => None,
        };
        digests.push(digest.filter(|_| computed_in.is_some()));
        stages.push(VerifiedStage {
            stage: name.clone(),
            version_id: version.id,
            disk_digest: digest.map(|digest| digest.to_string()),
            computed_in,
        });
    }
    let first = digests.first().copied().flatten();
    let equal = first.is_some() && digests.iter().all(|digest| *digest == first);
    Ok(Verified { equal, stages })
}

/// The region, if the disk there is whole and its digest the one that its name says.
async fn whole(
    factory: &Arc<Factory>,
    digest: DiskDigest,
    region: Location,
) -> Result<Option<Location>, StepError> {
    let regions = Arc::clone(&factory.regions);
    blocking(move || {
        let Some(store) = regions.holder(&region, &digest) else {
            return Ok(None);
        };
        let report = store
            .verify(&digest)
            .map_err(|error| store_failed(&error))?;
        Ok(report.is_sound().then_some(region))
    })
    .await
}
