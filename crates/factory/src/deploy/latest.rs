//! Which version a machine is made from: the one that is named, or the greatest that its region can
//! use. Pure; the numbers decide, never a date.

use catalog::Resource;
use jiff::Timestamp;
use wire::compute::PublishingProfile;
use wire::{Location, ProvisioningState, ResourceId, VersionNumber};

use crate::disks::Disks;
use crate::replicate::place_of;

/// States of a version that `latest` may mean: a region that is complete is used while others copy; a version of
/// which a region failed is somebody's to look at first.
const LATEST_STATES: [ProvisioningState; 3] = [
    ProvisioningState::Succeeded,
    ProvisioningState::Creating,
    ProvisioningState::Updating,
];

/// A version that a machine could be made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    pub id: ResourceId,
    pub number: VersionNumber,
    pub disks: Disks,
    /// Where they are in the machine's region.
    pub place: Location,
    /// Whether `latest` means it in the machine's region.
    pub in_latest: bool,
}

/// The member of a version's `bullion` facts that says that it was deleted and can be had back, and the one of that
/// from which on no machine is made from it any more.
pub const SOFT_DELETED: &str = "softDeleted";
pub const CONSUMPTION_END: &str = "consumptionEndTime";

/// Whether a machine may be made from the version: not before its disk is there, and of a soft-deleted one until its
/// time is over. Other regions may still be copying, or have failed.
fn is_usable(version: &Resource, now: Timestamp) -> bool {
    let deleted = version.properties["bullion"].get(SOFT_DELETED);
    match deleted {
        None => version.state != ProvisioningState::Deleting,
        Some(deleted) => {
            let end = deleted[CONSUMPTION_END].as_str();
            end.and_then(|end| end.parse::<Timestamp>().ok())
                .is_some_and(|end| now < end)
        }
    }
}

/// Reads what decides of a version's resource. Nothing for one that has no disk of ours, or is not to be used.
pub(super) fn candidate(
    version: &Resource,
    region: &Location,
    now: Timestamp,
) -> Option<Candidate> {
    if !is_usable(version, now) {
        return None;
    }
    let disks = Disks::of(version)?;
    let profile = version
        .properties
        .get("publishingProfile")
        .cloned()
        .unwrap_or_default();
    let profile: PublishingProfile = serde_json::from_value(profile).unwrap_or_default();
    let target = profile
        .target_regions
        .iter()
        .find(|target| target.name == *region);
    let hidden_here = target
        .and_then(|target| target.exclude_from_latest)
        .unwrap_or(false);
    Some(Candidate {
        id: version.id.clone(),
        number: version.id.name().parse().ok()?,
        disks,
        place: place_of(version, region),
        in_latest: target.is_some()
            && !profile.exclude_from_latest
            && !hidden_here
            && LATEST_STATES.contains(&version.state),
    })
}

/// Why there is no version for a machine, in the words that clients of Azure know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoVersion {
    #[error("There is no latest image version exists for \"{definition}\"")]
    NoLatest { definition: ResourceId },
    #[error(
        "The gallery image {image} is not available in {region} region. Please contact image owner to replicate to this region, or change your requested region."
    )]
    NotInRegion { image: ResourceId, region: Location },
}

/// The greatest version that `latest` means, among those whose disks are all `complete` in the region.
pub(super) fn latest(
    definition: &ResourceId,
    region: &Location,
    candidates: Vec<Candidate>,
    complete: impl Fn(&Candidate) -> bool,
) -> Result<Candidate, NoVersion> {
    let mut offered = candidates;
    let any = !offered.is_empty();
    offered.retain(|candidate| candidate.in_latest);
    offered.sort_by_key(|candidate| candidate.number);
    let found = offered.into_iter().rev().find(complete);
    found.ok_or_else(|| match any {
        false => NoVersion::NoLatest {
            definition: definition.clone(),
        },
        true => NoVersion::NotInRegion {
            image: definition.clone(),
            region: region.clone(),
        },
    })
}

#[cfg(test)]
mod tests {
    use disk::DiskDigest;
    use serde_json::json;

    use super::*;

    const DEFINITION: &str = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/rg/providers/Microsoft.Compute/galleries/g/images/d";

    fn version(number: &str, in_latest: bool) -> Candidate {
        let definition = ResourceId::parse(DEFINITION).unwrap();
        let number: VersionNumber = number.parse().unwrap();
        Candidate {
            id: definition.child("versions", &number.to_string()).unwrap(),
            number,
            disks: Disks::only(DiskDigest::from_bytes([number.patch as u8; 32])),
            place: Location::new("south"),
            in_latest,
        }
    }

    #[track_caller]
    fn check(versions: &[(&str, bool)], missing: &[u8], expected: Result<&str, &str>) {
        let definition = ResourceId::parse(DEFINITION).unwrap();
        let region = Location::new("south");
        let candidates = versions
            .iter()
            .map(|(number, shown)| version(number, *shown))
            .collect();
        let there = |candidate: &Candidate| !missing.contains(&candidate.disks.os.as_bytes()[0]);
        let found = latest(&definition, &region, candidates, there);
        let found = found
            .map(|version| version.number.to_string())
            .map_err(|error| error.to_string());
        match expected {
            Ok(number) => assert_eq!(found.as_deref(), Ok(number)),
            Err(text) => assert!(
                found.as_ref().is_err_and(|error| error.contains(text)),
                "{found:?}"
            ),
        }
    }

    #[test]
    fn states_decide_who_is_offered() {
        let now: Timestamp = "2026-11-21T10:00:00Z".parse().unwrap();
        let check = |state, deleted: Option<&str>, expected: Option<bool>| {
            let mut properties = json!({
                "publishingProfile": { "targetRegions": [{ "name": "south" }] },
                "bullion": { "diskDigest": DiskDigest::from_bytes([1; 32]).to_string() },
            });
            if let Some(end) = deleted {
                properties["bullion"][SOFT_DELETED] = json!({ CONSUMPTION_END: end });
            }
            let version = Resource {
                id: version("1.0.0", true).id,
                tenant: "00000000-0000-4000-8000-000000000001".parse().unwrap(),
                location: Some("north".into()),
                tags: Default::default(),
                properties,
                extra: Default::default(),
                state,
                etag: "x".parse().unwrap(),
                system: catalog::SystemData {
                    created_at: now,
                    created_by: String::new(),
                    changed_at: now,
                    changed_by: String::new(),
                },
            };
            let seen = candidate(&version, &Location::new("south"), now);
            assert_eq!(
                seen.map(|one| one.in_latest),
                expected,
                "{state:?} {deleted:?}"
            );
        };
        check(ProvisioningState::Succeeded, None, Some(true));
        check(ProvisioningState::Creating, None, Some(true));
        check(ProvisioningState::Failed, None, Some(false));
        check(ProvisioningState::Deleting, None, None);
        let deleting = ProvisioningState::Deleting;
        check(deleting, Some("2026-11-22T00:00:00Z"), Some(false));
        check(deleting, Some("2026-11-21T10:00:00Z"), None);
    }

    #[test]
    fn numbers_decide() {
        check(
            &[("1.0.9", true), ("1.0.10", true), ("1.0.2", true)],
            &[],
            Ok("1.0.10"),
        );
        check(&[("2.0.0", true), ("1.9.9", true)], &[], Ok("2.0.0"));
    }

    #[test]
    fn hidden_and_incomplete_versions_are_passed_over() {
        check(&[("1.0.1", true), ("1.0.2", false)], &[], Ok("1.0.1"));
        check(&[("1.0.1", true), ("1.0.2", true)], &[2], Ok("1.0.1"));
        check(
            &[("1.0.1", true)],
            &[1],
            Err("is not available in south region"),
        );
        check(
            &[("1.0.1", false)],
            &[],
            Err("is not available in south region"),
        );
        check(&[], &[], Err("There is no latest image version exists"));
    }
}
