//! Which stages a version goes through, and what each asks before it takes one.

use schemars::JsonSchema;
use serde::Deserialize;

use super::super::rules::{Reference, ScopeName, kind};
use super::identity::Principal;
use super::{Tags, TargetRegion, Validator};

/// A promotion pipeline. Whoever may write it decides what its stages ask, so it belongs into a resource group of the
/// strictest stage. `apply` also names the pipeline in the tag `bullion-pipeline` of the image definitions that it promotes
/// to, without which nothing is promoted there.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Pipeline {
    pub name: ScopeName,
    pub resource_group: Reference<kind::ResourceGroup>,
    /// In order; a version cannot skip one.
    #[schemars(length(min = 2, max = 16))]
    pub stages: Vec<Stage>,
    #[serde(default)]
    pub tags: Tags,
}

/// One stage: a gallery of one tenant, and what it asks of a version. The first stage is where versions are built; it
/// has neither application nor gates.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Stage {
    pub name: ScopeName,
    /// The tenant that the image definition is of.
    pub tenant: Reference<kind::Tenant>,
    pub image_definition: Reference<kind::ImageDefinition>,
    /// As whom a promotion to this stage acts. It needs a principal in this tenant, with the right to write versions,
    /// and one in the tenant of the stage before, with the right to read them.
    pub application: Option<Reference<kind::Application>>,
    /// Where this stage keeps its versions; the first is their home.
    #[serde(default)]
    #[schemars(length(max = 32))]
    pub target_regions: Vec<TargetRegion>,
    /// Asked in order; the first that says no ends the promotion.
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub gates: Vec<Gate>,
}

/// What a stage asks before it takes a version.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(tag = "type", deny_unknown_fields, rename_all_fields = "camelCase")]
pub enum Gate {
    /// The version was built here and passed the checks of its template.
    TestsPassed { name: ScopeName },
    /// There is a signed provenance of the version: it was built here, or where a key is trusted. Without this gate a
    /// version that has none is promoted; one whose provenance proves nothing never is.
    Provenance { name: ScopeName },
    /// A machine started from the version in one of the stage's regions passes these checks.
    DeployAndCheck {
        name: ScopeName,
        region: Reference<kind::Region>,
        #[schemars(length(min = 1, max = 64))]
        checks: Vec<Validator>,
    },
    /// People of the stage's tenant say yes, with `bullion promotion approve`. They need the role Bullion Promotion
    /// Approver, and whoever built the version or asked for the promotion does not count.
    Approval {
        name: ScopeName,
        /// Who of them; anybody with the role unless given.
        #[serde(default)]
        #[schemars(length(max = 64))]
        principals: Vec<Principal>,
        /// How many different ones; 1 unless given.
        #[serde(default = "one")]
        #[schemars(range(min = 1, max = 16))]
        count: u32,
        /// 72 unless given.
        #[serde(default = "three_days")]
        #[schemars(range(min = 1, max = 2160))]
        expires_in_hours: u32,
    },
}

fn one() -> u32 {
    1
}

fn three_days() -> u32 {
    72
}
