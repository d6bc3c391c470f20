//! Proof that a promotion moved nothing but a name: both versions have one digest, and the bits behind it are whole
//! wherever the stage keeps them.

use std::collections::BTreeMap;
use std::sync::Arc;

use catalog::Resource;
use disk::DiskDigest;
use jobs::StepError;
use serde::Serialize;
use wire::promotion::PromotionProperties;
use wire::{Location, ResourceId};

use super::rights;
use crate::disks::{DataDisk, Disks};
use crate::factory::Factory;
use crate::pipeline::{blocking, store_failed};

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verified {
    /// All digests are equal, both as the versions say and as they were computed; each stage was read in one region at
    /// least, and no copy that was read is damaged.
    pub equal: bool,
    pub stages: Vec<VerifiedStage>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifiedStage {
    pub stage: String,
    pub version_id: ResourceId,
    pub disk_digest: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub data_disks: Vec<DataDisk>,
    /// The regions of the version where all disks were read whole and their digests computed anew.
    pub computed_in: Vec<Location>,
    /// Those where it is not, or not whole: replication is behind there, or the copy is damaged.
    pub missing_in: Vec<Location>,
}

/// Reads both versions as the stage's principal, and the disk of each in all its regions.
pub async fn verify(
    factory: &Arc<Factory>,
    promotion: &PromotionProperties,
) -> Result<Verified, StepError> {
    let rights = rights::rights(&*factory.auth, promotion).await?;
    let mut stages = Vec::new();
    let mut digests = Vec::new();
    let mut read = Read::new();
    let mut damaged = false;
    for (name, permit) in [
        (&promotion.from.name, rights.source),
        (&promotion.to.name, rights.own.to_read_own()),
    ] {
        let version = factory.catalog.get(&permit).await?;
        let disks = Disks::of(&version);
        let mut computed_in = Vec::new();
        let mut missing_in = Vec::new();
        for (region, copy) in copies(factory, &version, &mut read).await? {
            damaged |= copy == Held::Damaged;
            match copy {
                Held::Whole => computed_in.push(region),
                Held::Absent | Held::Damaged => missing_in.push(region),
            }
        }
        let data_disks = disks.as_ref().map(|disks| disks.data.clone());
        let os = disks.as_ref().map(|disks| disks.os);
        digests.push(disks.filter(|_| !computed_in.is_empty()));
        stages.push(VerifiedStage {
            stage: name.clone(),
            version_id: version.id,
            disk_digest: os.map(|digest| digest.to_string()),
            data_disks: data_disks.unwrap_or_default(),
            computed_in,
            missing_in,
        });
    }
    let first = digests.first().cloned().flatten();
    let equal = !damaged && first.is_some() && digests.iter().all(|disks| *disks == first);
    Ok(Verified { equal, stages })
}

/// Where the version says that it is, its home first.
fn regions_of(version: &Resource) -> Vec<Location> {
    let home = Location::new(version.location.clone().unwrap_or_default());
    let profile = &version.properties["publishingProfile"]["targetRegions"];
    let targets = profile.as_array().into_iter().flatten();
    let targets = targets.filter_map(|target| Some(Location::new(target["name"].as_str()?)));
    let mut regions = vec![home];
    for target in targets {
        if !regions
            .iter()
            .any(|known| known.folded() == target.folded())
        {
            regions.push(target);
        }
    }
    regions
}

/// What was read already, by region and disk.
pub(crate) type Read = BTreeMap<(String, String), Held>;

/// What each region of the version has of its disks, its home first.
pub(crate) async fn copies(
    factory: &Arc<Factory>,
    version: &Resource,
    read: &mut Read,
) -> Result<Vec<(Location, Held)>, StepError> {
    let disks = Disks::of(version);
    let mut copies = Vec::new();
    for region in regions_of(version) {
        let copy = match &disks {
            Some(disks) => look_at_all(factory, disks, &region, read).await?,
            None => Held::Absent,
        };
        copies.push((region, copy));
    }
    Ok(copies)
}

/// What a region has of a disk, from good to bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Held {
    /// All of it, and the digest computed from it is its name.
    Whole,
    Absent,
    Damaged,
}

/// What the region has of all disks together: the worst of them.
async fn look_at_all(
    factory: &Arc<Factory>,
    disks: &Disks,
    region: &Location,
    read: &mut Read,
) -> Result<Held, StepError> {
    let mut worst = Held::Whole;
    for digest in disks.all() {
        worst = worst.max(look(factory, *digest, region, read).await?);
    }
    Ok(worst)
}

/// Reads the disk in the region. What two stages share is read once.
async fn look(
    factory: &Arc<Factory>,
    digest: DiskDigest,
    region: &Location,
    read: &mut Read,
) -> Result<Held, StepError> {
    let key = (region.folded(), digest.to_string());
    if let Some(known) = read.get(&key) {
        return Ok(*known);
    }
    let (regions, place) = (Arc::clone(&factory.regions), region.clone());
    let copy = blocking(move || {
        let Some(store) = regions.holder(&place, &digest) else {
            return Ok(Held::Absent);
        };
        let report = store
            .verify(&digest)
            .map_err(|error| store_failed(&error))?;
        Ok(match report.is_sound() {
            true => Held::Whole,
            false => Held::Damaged,
        })
    })
    .await?;
    read.insert(key, copy);
    Ok(copy)
}
