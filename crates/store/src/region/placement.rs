//! Which stores of a region shall hold a disk, for a storage account type and a number of replicas.
//!
//! Replicas are complete copies on distinct stores as long as there are stores; the rest share those
//! copies, and the answer says so.

use std::fmt;
use std::sync::Arc;

use disk::DiskDigest;

use super::{Member, Region};

/// Zones in each of which a zone-redundant disk has a complete copy.
const REDUNDANT_ZONES: usize = 3;

/// Azure's storage account types, as far as they differ here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Kind {
    /// One zone.
    #[default]
    StandardLrs,
    /// One zone, on stores that are labelled premium.
    PremiumLrs,
    /// A complete copy in each of three zones.
    StandardZrs,
}

impl Kind {
    /// What a name of Azure's asks for; `None` for a name that it does not have.
    pub fn of(name: Option<&str>) -> Option<Kind> {
        let Some(name) = name else {
            return Some(Kind::default());
        };
        let known = [
            ("Standard_LRS", Kind::StandardLrs),
            ("StandardSSD_LRS", Kind::StandardLrs),
            ("Premium_LRS", Kind::PremiumLrs),
            ("PremiumV2_LRS", Kind::PremiumLrs),
            ("Standard_ZRS", Kind::StandardZrs),
        ];
        let found = known
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, kind)| *kind)
    }
}

/// What is asked of a region for one disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Want {
    pub kind: Kind,
    /// At least one.
    pub replicas: u32,
}

impl Default for Want {
    fn default() -> Self {
        Want {
            kind: Kind::default(),
            replicas: 1,
        }
    }
}

impl Want {
    /// What both ask for together: the kinds that are asked for differ only in where, so that two
    /// versions of one disk need the stores of both.
    pub fn new(kind: Kind, replicas: u32) -> Want {
        let replicas = replicas.max(1);
        Want { kind, replicas }
    }
}

/// The stores that shall hold a disk.
#[derive(Debug, Clone)]
pub struct Placement {
    pub members: Vec<Arc<Member>>,
    /// Replicas with stores of their own.
    pub copies: u32,
    /// Replicas that share those.
    pub shared: u32,
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stores = self.members.len();
        let (copies, shared) = (self.copies, self.shared);
        write!(
            f,
            "{copies} of {} replicas on {stores} stores",
            copies + shared
        )?;
        match shared {
            0 => Ok(()),
            shared => write!(f, "; {shared} share them"),
        }
    }
}

/// Why a region cannot do what is asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    #[error("ZRS storage account type is not supported in this region.")]
    ZonesMissing { zones: usize },
    #[error("Premium storage account type is not supported in this region.")]
    PremiumMissing,
    #[error("no store of the region can be used: {0}")]
    Away(String),
}

impl Region {
    /// Whether the region can ever do what is asked, be its stores there now or not.
    pub fn check(&self, kind: Kind) -> Result<(), PlacementError> {
        let zones = self.zones().len();
        match kind {
            Kind::StandardZrs if zones < REDUNDANT_ZONES => {
                Err(PlacementError::ZonesMissing { zones })
            }
            Kind::PremiumLrs if !self.members().iter().any(|member| member.premium) => {
                Err(PlacementError::PremiumMissing)
            }
            _ => Ok(()),
        }
    }

    /// The stores that shall hold a disk. Where any zone would do, the one that has the most of it
    /// already does; of a zone that has all its stores away, nothing is expected.
    pub fn place(&self, digest: &DiskDigest, want: Want) -> Result<Placement, PlacementError> {
        self.check(want.kind)?;
        let members = self.members();
        let fit = |member: &&Arc<Member>| want.kind != Kind::PremiumLrs || member.premium;
        let in_zone = |zone: &String| -> Vec<Arc<Member>> {
            let here = members.iter().filter(|member| member.zone == *zone);
            let mut here: Vec<_> = here.filter(fit).cloned().collect();
            // Those that hold it first, then those that could.
            here.sort_by_key(|member| match member.store() {
                Some(store) if store.has(digest) => 0,
                Some(_) => 1,
                None => 2,
            });
            here
        };
        let zones: Vec<Vec<Arc<Member>>> = self.zones().iter().map(in_zone).collect();
        if want.kind == Kind::StandardZrs {
            return Ok(every_zone(zones, want.replicas));
        }
        let usable = |zone: &&Vec<Arc<Member>>| zone.iter().any(|member| member.store().is_some());
        let held = |zone: &Vec<Arc<Member>>| zone.iter().filter(|m| m.has(digest)).count();
        // The first of those that hold the most.
        let chosen = zones
            .iter()
            .filter(usable)
            .rev()
            .max_by_key(|zone| held(zone));
        let Some(zone) = chosen else {
            let why = members.iter().find_map(|member| member.why_away());
            return Err(PlacementError::Away(why.unwrap_or_default()));
        };
        let usable = zone.iter().filter(|member| member.store().is_some());
        let taken: Vec<_> = usable.take(want.replicas as usize).cloned().collect();
        let copies = taken.len() as u32;
        Ok(Placement {
            members: taken,
            copies,
            shared: want.replicas - copies,
        })
    }
}

/// A replica is a copy in each of three zones. A zone that is away is waited for.
fn every_zone(mut zones: Vec<Vec<Arc<Member>>>, replicas: u32) -> Placement {
    zones.truncate(REDUNDANT_ZONES);
    let fewest = zones.iter().map(Vec::len).min().unwrap_or(0) as u32;
    let copies = replicas.min(fewest);
    let taken = zones
        .into_iter()
        .flat_map(|zone| zone.into_iter().take(copies as usize));
    Placement {
        members: taken.collect(),
        copies,
        shared: replicas - copies,
    }
}
