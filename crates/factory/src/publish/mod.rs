//! Publish: a tested disk becomes an image version, a resource that others see. It is written whole
//! or not at all, only under the right of whoever asked for it, and taken back by the run that made
//! it and by no other.

mod ask;
mod azure;
mod file;
mod image;
mod objects;
mod registry;
mod target;

pub(crate) use ask::ask;
pub use ask::{Ask, Nobody};

use std::collections::BTreeMap;
use std::sync::Arc;

use access::{Action, Permit, SystemReason};
use catalog::{Catalog, CatalogError, Draft, Pages, Precondition, Resource};
use disk::DiskDigest;
use jobs::StepError;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use wire::compute::ScanFacts;
use wire::{Location, ProvisioningState, ResourceId, TenantId, VersionNumber};

use crate::pipeline::{Distribution, Numbering};
use crate::tattoo::Tattoo;

pub(crate) use file::SparseFile;
pub use target::{Artifact, Deliver, Subject};

pub const VERSION_TYPE: &str = "Microsoft.Compute/galleries/images/versions";
/// The right to read versions, and with it to use their disks.
pub const VERSION_READ: &str = "Microsoft.Compute/galleries/images/versions/read";
const VERSION_DELETE: &str = "Microsoft.Compute/galleries/images/versions/delete";
const FIRST_MAJOR: i32 = 1;
const GIB: u64 = 1 << 30;

/// A version's number and date, chosen once for the same inputs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Allocation {
    pub version: VersionNumber,
    pub published_date: String,
    /// The key of the step that chose it; the version's resource carries it, too.
    pub owner: String,
}

/// Numbers of a definition that are in use, and by which allocation.
pub type Taken = BTreeMap<VersionNumber, Option<String>>;

/// All versions below the permit's definition.
pub async fn taken(catalog: &Arc<dyn Catalog>, permit: &Permit) -> Result<Taken, StepError> {
    let mut taken = Taken::new();
    for version in versions(catalog, permit).await? {
        if let Ok(number) = version.id.name().parse() {
            let owner = version.properties.pointer("/bullion/allocation");
            taken.insert(number, owner.and_then(Value::as_str).map(str::to_owned));
        }
    }
    Ok(taken)
}

/// The version resources below the permit's scope, in the order of their numbers.
pub(crate) async fn versions(
    catalog: &Arc<dyn Catalog>,
    permit: &Permit,
) -> Result<Vec<Resource>, CatalogError> {
    Pages::of(&**catalog, permit, VERSION_TYPE).all().await
}

/// Whether a number that was chosen before may still be used for what it was chosen for.
pub fn is_ours(taken: &Taken, allocation: &Allocation) -> bool {
    let owner = taken.get(&allocation.version);
    owner.is_none_or(|owner| owner.as_deref() == Some(&allocation.owner))
}

/// The number of the next version.
pub fn next_number(
    numbering: Numbering,
    taken: &Taken,
    source: &str,
) -> Result<VersionNumber, StepError> {
    let conflict = |message: String| StepError::failed("Conflict", message);
    let exactly = |number: VersionNumber| match taken.contains_key(&number) {
        true => Err(conflict(format!(
            "version {number} exists already with another content"
        ))),
        false => Ok(number),
    };
    match numbering {
        Numbering::Exactly(number) => exactly(number),
        Numbering::Source => {
            let number = source.parse().map_err(|_| {
                conflict(format!(
                    "the source's version {source} cannot be the number of a version"
                ))
            })?;
            exactly(number)
        }
        Numbering::Latest { major } => {
            let greatest = taken
                .keys()
                .rfind(|number| major.is_none_or(|major| number.major == major));
            match greatest {
                None => Ok(VersionNumber::new(major.unwrap_or(FIRST_MAJOR), 0, 0)),
                Some(number) => number
                    .next_patch()
                    .ok_or_else(|| conflict(format!("there is no patch after {number}"))),
            }
        }
    }
}

/// Everything that becomes a version's resource.
#[derive(Debug, Clone)]
pub struct Publication {
    pub version: ResourceId,
    pub run: ResourceId,
    pub template: ResourceId,
    /// Where the disk is.
    pub home: Location,
    /// The image definition's own region, which is the version's.
    pub location: Location,
    pub ancestry: &'static str,
    pub distribution: Distribution,
    pub allocation: Allocation,
    pub digest: DiskDigest,
    pub logical_bytes: u64,
    pub tattoo: Tattoo,
    pub boot_seconds: f64,
    pub scans: Vec<ScanFacts>,
}

/// A version that is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Published {
    pub version_id: ResourceId,
    /// It was there before, from the same inputs.
    pub existed: bool,
}

/// Makes the resource, or finds the one that the same inputs made before. The permit's scope is the
/// version.
pub async fn publish(
    catalog: &Arc<dyn Catalog>,
    whom: &dyn Ask,
    permit: &Permit,
    publication: &Publication,
) -> Result<Published, StepError> {
    let version_id = publication.version.clone();
    let draft = draft(publication);
    if !is_there(catalog, permit).await? {
        ask(whom, permit.tenant(), &version_id, &draft).await?;
        match catalog.put(permit, draft, Precondition::Absent).await {
            Ok(_) => {
                return Ok(Published {
                    version_id,
                    existed: false,
                });
            }
            Err(CatalogError::Precondition { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let there = catalog.get(&permit.to_read_own()).await?;
    let fact = |name: &str| {
        there.properties["bullion"][name]
            .as_str()
            .unwrap_or_default()
    };
    let same_disk = fact("diskDigest") == publication.digest.to_string();
    if !same_disk || fact("allocation") != publication.allocation.owner {
        let message = format!(
            "version {} was published by someone else meanwhile; run the template again for the next number",
            publication.allocation.version
        );
        return Err(StepError::failed("Conflict", message));
    }
    let existed = fact("run") != publication.run.to_string();
    add_regions(catalog, permit, publication).await?;
    Ok(Published {
        version_id,
        existed,
    })
}

/// Whether there is a version at the permit's scope: then nothing is written, and nobody is asked.
pub(crate) async fn is_there(
    catalog: &Arc<dyn Catalog>,
    permit: &Permit,
) -> Result<bool, StepError> {
    match catalog.get(&permit.to_read_own()).await {
        Ok(_) => Ok(true),
        Err(CatalogError::NotFound { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// A version that was there gets the target regions that the template names now; none is taken away.
async fn add_regions(
    catalog: &Arc<dyn Catalog>,
    permit: &Permit,
    publication: &Publication,
) -> Result<(), StepError> {
    let wanted = target_regions(publication);
    let there = catalog.get(&permit.to_read_own()).await?;
    let has = |properties: &Value, region: &Value| {
        let name = Location::new(region["name"].as_str().unwrap_or_default());
        let known = properties
            .pointer("/publishingProfile/targetRegions")
            .and_then(Value::as_array);
        known.is_some_and(|known| {
            known
                .iter()
                .any(|other| Location::new(other["name"].as_str().unwrap_or_default()) == name)
        })
    };
    if wanted.iter().all(|region| has(&there.properties, region)) {
        return Ok(());
    }
    crate::pipeline::change(catalog, permit, |draft| {
        for region in &wanted {
            if !has(&draft.properties, region)
                && let Some(regions) =
                    draft.properties["publishingProfile"]["targetRegions"].as_array_mut()
            {
                regions.push(region.clone());
            }
        }
    })
    .await?;
    Ok(())
}

fn target_regions(publication: &Publication) -> Vec<Value> {
    let regions = publication.distribution.regions.iter();
    regions
        .map(|region| {
            json!({
                "name": region.name,
                "regionalReplicaCount": region.replica_count,
                "storageAccountType": region.storage_account_type.as_deref().unwrap_or("Standard_LRS"),
            })
        })
        .collect()
}

fn draft(publication: &Publication) -> Draft {
    let Publication {
        distribution,
        allocation,
        tattoo,
        ..
    } = publication;
    let source = format!(
        "{}:{}:{}:{}",
        tattoo.source_publisher, tattoo.source_offer, tattoo.source_sku, tattoo.source_version
    );
    let replication: serde_json::Map<String, Value> = distribution
        .regions
        .iter()
        .map(|region| {
            (
                region.name.folded(),
                json!({ "state": "Unknown", "progress": 0, "details": "" }),
            )
        })
        .collect();
    let properties = json!({
        "publishingProfile": {
            "targetRegions": target_regions(publication),
            "replicaCount": 1,
            "excludeFromLatest": distribution.exclude_from_latest,
            "publishedDate": allocation.published_date,
            "storageAccountType": "Standard_LRS",
            "replicationMode": "Full",
        },
        "storageProfile": {
            "source": { "id": publication.template.to_string() },
            "osDiskImage": {
                "sizeInGB": publication.logical_bytes.div_ceil(GIB),
                "hostCaching": "ReadWrite",
            },
        },
        "safetyProfile": { "reportedForPolicyViolation": false },
        "bullion": {
            "diskDigest": publication.digest.to_string(),
            "run": publication.run.to_string(),
            "recipeDigest": tattoo.recipe_digest,
            "source": source,
            "bootSeconds": publication.boot_seconds,
            "scans": publication.scans,
            "tattoo": tattoo_map(tattoo),
            "allocation": allocation.owner,
            "ancestry": publication.ancestry,
            "home": publication.home,
            "replication": replication,
        },
    });
    Draft::new(properties)
        .location(publication.location.as_str())
        .tags(distribution.tags.clone())
        .state(ProvisioningState::Succeeded)
}

/// The record as readers of resources see it: key by key, as it stands in the image.
pub(crate) fn tattoo_map(tattoo: &Tattoo) -> BTreeMap<String, String> {
    let text = tattoo.render().unwrap_or_default();
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// Takes a version back if `run` made it. Done twice, or for one that is not there, it does nothing.
pub async fn unpublish(
    catalog: &Arc<dyn Catalog>,
    version: &ResourceId,
    run: &ResourceId,
    tenant: TenantId,
) -> Result<(), StepError> {
    // The system's right, not the requester's: what a run began is taken back even where the right
    // to publish was withdrawn meanwhile.
    let permit = Permit::system(
        SystemReason::JobStatus,
        Action::new(VERSION_DELETE),
        version.clone(),
        tenant,
    );
    let there = match catalog.get(&permit.to_read_own()).await {
        Ok(there) => there,
        Err(CatalogError::NotFound { .. }) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let made_by = there
        .properties
        .pointer("/bullion/run")
        .and_then(Value::as_str);
    if made_by != Some(&run.to_string()) {
        return Ok(());
    }
    match catalog
        .delete(&permit, Precondition::Match(there.etag))
        .await
    {
        Ok(_) | Err(CatalogError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken_of(numbers: &[&str]) -> Taken {
        numbers
            .iter()
            .map(|number| (number.parse().unwrap(), None))
            .collect()
    }

    #[test]
    fn the_next_number_is_azures() {
        let all = [
            "0.1.1", "0.1.2", "1.0.0", "1.0.1", "1.1.0", "1.1.1", "1.2.0", "2.0.0", "2.0.1",
            "2.1.0",
        ];
        let check = |major, numbers: &[&str], expected: &str| {
            let next = next_number(Numbering::Latest { major }, &taken_of(numbers), "x").unwrap();
            assert_eq!(next.to_string(), expected);
        };
        check(None, &all, "2.1.1");
        check(Some(2), &all, "2.1.1");
        check(Some(1), &all, "1.2.1");
        check(Some(0), &all, "0.1.3");
        check(Some(7), &all, "7.0.0");
        check(None, &[], "1.0.0");
        check(None, &["1.0.9", "1.0.10"], "1.0.11");
    }

    #[test]
    fn a_given_number_must_be_free() {
        let taken = taken_of(&["12.15.20261118"]);
        assert!(next_number(Numbering::Source, &taken, "12.15.20261118").is_err());
        let next = next_number(Numbering::Source, &taken, "12.16.20270101").unwrap();
        assert_eq!(next, VersionNumber::new(12, 16, 20_270_101));
        assert!(
            next_number(
                Numbering::Exactly(VersionNumber::new(12, 15, 20_261_118)),
                &taken,
                ""
            )
            .is_err()
        );
        assert!(next_number(Numbering::Source, &taken, "rolling").is_err());
    }

    #[test]
    fn a_number_chosen_before_is_kept_unless_another_took_it() {
        let ours = Allocation {
            version: VersionNumber::new(1, 0, 0),
            published_date: String::new(),
            owner: "me".to_owned(),
        };
        let check = |owner: Option<Option<&str>>, expected: bool| {
            let taken: Taken = owner
                .map(|owner| (ours.version, owner.map(str::to_owned)))
                .into_iter()
                .collect();
            assert_eq!(is_ours(&taken, &ours), expected, "{owner:?}");
        };
        check(None, true);
        check(Some(Some("me")), true);
        check(Some(Some("you")), false);
        check(Some(None), false);
    }
}
