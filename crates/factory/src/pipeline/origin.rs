//! What a build starts from, looked up once when a run begins: everything in here is pinned, so nothing that moves
//! afterwards changes the result.

use std::sync::Arc;

use access::Action;
use catalog::Resource;
use disk::DiskDigest;
use jobs::{StepError, StepHandle};
use machine::System;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use wire::{Location, ProvisioningState, ResourceId};

use super::recipe::source::{DISK, MANAGED_IMAGE, SNAPSHOT};
use super::recipe::{Executor, Recipe, RecipeSource};
use super::steps::failed;
use crate::build::{Action as Customization, Customizer};
use crate::factory::Factory;
use crate::import::holds_windows;
use crate::publish::{self, VERSION_READ};
use crate::source::{LATEST, Pin, PlatformImage};

const IMAGE_READ: &str = "Microsoft.Compute/images/read";
/// Whoever reads the bits of a disk can make a machine of them, so it takes more than a reader.
const DISK_WRITE: &str = "Microsoft.Compute/disks/write";
const SNAPSHOT_WRITE: &str = "Microsoft.Compute/snapshots/write";
/// Of images that say nothing of where they came from.
const UNKNOWN: &str = "unknown";
const LINUX: &str = "Linux";
const WINDOWS: &str = "Windows";

/// Who made every byte of a disk, so far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Ancestry {
    /// Built here from a pinned archive, by programs that are known.
    Built,
    /// Brought here: it may be anybody's, and hold anything.
    Foreign,
}

/// Where the first disk comes from.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Origin {
    /// A provider makes it of the pin.
    Platform,
    /// It is in a store.
    Disk { digest: DiskDigest },
    /// It is in a file of the blob folder.
    Blob { name: String, sha256: String },
}

impl Origin {
    /// The disk that is built on, where it was there before.
    pub fn disk(&self) -> Option<DiskDigest> {
        match self {
            Origin::Disk { digest } => Some(*digest),
            Origin::Platform | Origin::Blob { .. } => None,
        }
    }
}

/// What is said of the source in the image that is made of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Facts {
    pub publisher: String,
    pub offer: String,
    pub sku: String,
    pub version: String,
    /// Of the archive's state, the disk, or the file.
    pub digest: String,
    pub os_version: String,
}

/// The source as it was when the run began.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Sourced {
    pub origin: Origin,
    /// What packages come from.
    pub pin: Option<Pin>,
    pub facts: Facts,
    /// No file of the image is younger.
    pub epoch: i64,
    pub ancestry: Ancestry,
    pub os_type: String,
    pub executor: Executor,
    /// What `latest` came to, as the template's source shows it.
    pub exact: Option<String>,
}

impl Sourced {
    pub fn is_windows(&self) -> bool {
        self.os_type.eq_ignore_ascii_case(WINDOWS)
    }

    pub fn system(&self) -> System {
        match self.is_windows() {
            true => System::Windows,
            false => System::Linux,
        }
    }
}

/// Looks the recipe's source up under the rights of whoever asked for the run.
pub(super) async fn sourced(
    factory: &Arc<Factory>,
    handle: &StepHandle,
    recipe: &Recipe,
) -> Result<Sourced, StepError> {
    let mut sourced = match &recipe.source {
        RecipeSource::Platform(image) => platform(factory, recipe, image).await?,
        RecipeSource::Latest { definition } => {
            let version = latest(factory, handle, definition).await?;
            let mut sourced = of_resource(&version)?;
            sourced.exact = Some(version.id.name().to_owned());
            sourced
        }
        RecipeSource::Resource(id) => of_resource(&readable(factory, handle, id).await?)?,
        RecipeSource::Vhd { uri, sha256 } => blob(factory, uri, sha256).await?,
    };
    settle_executor(recipe, &mut sourced)?;
    let needs = recipe.customizers.iter().any(Customizer::needs_archive);
    if needs && sourced.pin.is_none() && sourced.executor == Executor::Tree {
        sourced.pin = Some(archive_of(factory, recipe, &sourced.facts).await?);
    }
    if let Some(pin) = &sourced.pin {
        sourced.epoch = sourced.epoch.max(pin.epoch);
    }
    Ok(sourced)
}

const fn os_type(windows: bool) -> &'static str {
    if windows { WINDOWS } else { LINUX }
}

async fn platform(
    factory: &Arc<Factory>,
    recipe: &Recipe,
    image: &PlatformImage,
) -> Result<Sourced, StepError> {
    let pin = factory.provider.resolve(image, &recipe.mirrors).await;
    let pin = pin.map_err(|error| failed("SourceFailed", &error))?;
    let ancestry = match pin.file {
        None => Ancestry::Built,
        Some(_) => Ancestry::Foreign,
    };
    Ok(Sourced {
        origin: Origin::Platform,
        facts: Facts {
            publisher: pin.image.publisher.clone(),
            offer: pin.image.offer.clone(),
            sku: pin.image.sku.clone(),
            version: pin.image.version.clone(),
            digest: pin.state.to_string(),
            os_version: pin.os_version.clone(),
        },
        epoch: pin.epoch,
        ancestry,
        os_type: os_type(pin.is_windows()).to_owned(),
        executor: Executor::Tree,
        exact: Some(pin.image.version.clone()),
        pin: Some(pin),
    })
}

/// The newest version of a definition that counts for `latest`.
async fn latest(
    factory: &Arc<Factory>,
    handle: &StepHandle,
    definition: &ResourceId,
) -> Result<Resource, StepError> {
    let permit = handle
        .permit(&Action::new(VERSION_READ), definition)
        .await?;
    let found = publish::versions(&factory.catalog, &permit).await?;
    newest(found).ok_or_else(|| {
        let message = format!("{definition} has no version that {LATEST} could mean");
        StepError::failed("SourceFailed", message)
    })
}

/// Of versions in the order of their numbers, the last that is ready and not excluded.
pub(crate) fn newest(versions: Vec<Resource>) -> Option<Resource> {
    versions.into_iter().rev().find(|version| {
        let excluded = version
            .properties
            .pointer("/publishingProfile/excludeFromLatest");
        version.state == ProvisioningState::Succeeded && excluded != Some(&Value::Bool(true))
    })
}

async fn readable(
    factory: &Arc<Factory>,
    handle: &StepHandle,
    id: &ResourceId,
) -> Result<Resource, StepError> {
    let kind = id.resource_type();
    let action = match () {
        () if kind.is(MANAGED_IMAGE) => IMAGE_READ,
        () if kind.is(DISK) => DISK_WRITE,
        () if kind.is(SNAPSHOT) => SNAPSHOT_WRITE,
        () => VERSION_READ,
    };
    let permit = handle.permit(&Action::new(action), id).await?;
    factory
        .catalog
        .get(&permit.to_read_own())
        .await
        .map_err(|error| StepError::failed("SourceFailed", format!("the source {id}: {error}")))
}

fn of_resource(resource: &Resource) -> Result<Sourced, StepError> {
    let refused = |why: &str| {
        let message = format!("the source {} {why}", resource.id);
        StepError::failed("SourceFailed", message)
    };
    let text = |pointer: &str| resource.properties.pointer(pointer).and_then(Value::as_str);
    let digest = text("/bullion/diskDigest").and_then(|text| text.parse::<DiskDigest>().ok());
    let digest = digest.ok_or_else(|| refused("has no disk"))?;
    if resource.state != ProvisioningState::Succeeded {
        return Err(refused("is not ready"));
    }
    if !crate::replicate::domains_of(resource).is_empty() {
        return Err(refused(
            "is encrypted by a disk encryption set, and nothing can be made of it",
        ));
    }
    let security = text("/securityProfile/securityType").or(text("/storageProfile/securityType"));
    if security.is_some_and(|kind| ["TrustedLaunch", "ConfidentialVM"].contains(&kind)) {
        return Err(refused(
            "is a trusted-launch or confidential image, which cannot be built from",
        ));
    }
    let os_type = text("/storageProfile/osDisk/osType")
        .or(text("/osType"))
        .or(text("/bullion/osType"))
        .unwrap_or(LINUX);
    let said = |key: &str| {
        let tattoo = resource.properties.pointer("/bullion/tattoo");
        let value = tattoo
            .and_then(|tattoo| tattoo.get(key))
            .and_then(Value::as_str);
        value.unwrap_or(UNKNOWN).to_owned()
    };
    let published = text("/publishingProfile/publishedDate").and_then(|text| text.parse().ok());
    let date: jiff::Timestamp = published.unwrap_or(resource.system.created_at);
    Ok(Sourced {
        origin: Origin::Disk { digest },
        pin: None,
        facts: Facts {
            publisher: said("source.publisher"),
            offer: said("source.offer"),
            sku: said("source.sku"),
            version: said("source.version"),
            digest: digest.to_string(),
            os_version: said("os.version"),
        },
        epoch: date.as_second(),
        ancestry: ancestry_of(resource),
        os_type: os_type.to_owned(),
        executor: Executor::Tree,
        exact: None,
    })
}

/// What a resource with a disk says of who made it.
pub(super) fn ancestry_of(resource: &Resource) -> Ancestry {
    let facts = &resource.properties["bullion"];
    match facts["ancestry"].as_str() {
        Some("Foreign") => Ancestry::Foreign,
        _ if facts.get("tattoo").is_some() => Ancestry::Built,
        _ => Ancestry::Foreign,
    }
}

async fn blob(factory: &Arc<Factory>, uri: &str, sha256: &str) -> Result<Sourced, StepError> {
    let place = factory.blobs.clone();
    let missing = || StepError::failed("SourceFailed", format!("there is no blob {uri} here"));
    let place = place.ok_or_else(missing)?;
    let name = place.name_of(uri).ok_or_else(missing)?;
    let path = place.existing(&name).ok_or_else(missing)?;
    let (hash, modified, os_type) = super::steps::blocking(move || {
        let read = |error: std::io::Error| failed("SourceFailed", &error);
        let modified = std::fs::metadata(&path)
            .and_then(|meta| meta.modified())
            .map_err(read)?;
        let hash = crate::fetch::sha256_of(&path).map_err(read)?;
        Ok((hash, modified, os_type(holds_windows(&path))))
    })
    .await?;
    if !sha256.is_empty() && *sha256 != hash {
        let message = format!("{uri} has SHA-256 {hash}, not {sha256}");
        return Err(StepError::failed("SourceFailed", message));
    }
    let date = jiff::Timestamp::try_from(modified).unwrap_or_default();
    Ok(Sourced {
        origin: Origin::Blob {
            name,
            sha256: hash.clone(),
        },
        pin: None,
        facts: Facts {
            publisher: UNKNOWN.to_owned(),
            offer: UNKNOWN.to_owned(),
            sku: UNKNOWN.to_owned(),
            version: UNKNOWN.to_owned(),
            digest: hash,
            os_version: UNKNOWN.to_owned(),
        },
        epoch: date.as_second(),
        ancestry: Ancestry::Foreign,
        os_type: os_type.to_owned(),
        executor: Executor::Tree,
        exact: None,
    })
}

/// Refuses what the source's system cannot do, by the name of whoever asks for it.
fn check_system(recipe: &Recipe, sourced: &Sourced) -> Result<(), StepError> {
    let refused = |message: String| Err(StepError::failed("SourceFailed", message));
    let windows = sourced.is_windows();
    for customizer in &recipe.customizers {
        let (name, kind) = (customizer.name(), customizer.action().kind());
        match (windows, customizer.action()) {
            (true, Customization::Windows(_)) => {}
            (true, Customization::File { destination, .. }) => {
                return refused(format!(
                    "the source is a Windows image, and the File customizer `{name}` writes {destination}; write the \
                     destination like C:\\app\\motd.txt"
                ));
            }
            (true, _) => {
                return refused(format!(
                    "the source is a Windows image, and the {kind} customizer `{name}` is not for one: use File, \
                     PowerShell, WindowsRestart and WindowsUpdate"
                ));
            }
            (false, Customization::Windows(_)) => {
                return refused(format!(
                    "the {kind} customizer `{name}` needs a Windows source, and this one is none"
                ));
            }
            (false, _) => {}
        }
    }
    for check in recipe.validators.iter().filter(|one| !one.is_scan()) {
        let (name, kind) = (crate::test::name(check), check.kind());
        if !crate::test::is_for(check, sourced.system()) {
            return refused(match windows {
                true => format!(
                    "the source is a Windows image, and the {kind} check `{name}` is not for one: use PowerShell, \
                     Bullion.Pester and Bullion.Tattoo"
                ),
                false => {
                    format!(
                        "the {kind} check `{name}` needs a Windows source, and this one is none"
                    )
                }
            });
        }
        if windows && !recipe.generalize {
            return refused(format!(
                "the check `{name}` needs a generalized Windows, because Setup is the only way into one, and \
                 vmProfile.bullion.generalize is false"
            ));
        }
    }
    Ok(())
}

/// The tree where it may, a machine where it must; refused before anything is built where neither can.
fn settle_executor(recipe: &Recipe, sourced: &mut Sourced) -> Result<(), StepError> {
    check_system(recipe, sourced)?;
    let refused = |message: String| Err(StepError::failed("SourceFailed", message));
    sourced.executor = match (sourced.ancestry, recipe.executor) {
        (Ancestry::Foreign, Some(Executor::Tree)) => {
            return refused(
                "the source was not built here, and the host's kernel never mounts such a disk: use \
                 vmProfile.bullion.executor Machine, or leave it out"
                    .to_owned(),
            );
        }
        (Ancestry::Foreign, _) => Executor::Machine,
        (Ancestry::Built, _) if sourced.is_windows() => Executor::Machine,
        (Ancestry::Built, asked) => asked.unwrap_or(Executor::Tree),
    };
    Ok(())
}

/// The present state of the archive that the source's own ancestor came from.
async fn archive_of(
    factory: &Arc<Factory>,
    recipe: &Recipe,
    facts: &Facts,
) -> Result<Pin, StepError> {
    let image = PlatformImage {
        publisher: facts.publisher.clone(),
        offer: facts.offer.clone(),
        sku: facts.sku.clone(),
        version: LATEST.to_owned(),
    };
    let pin = factory.provider.resolve(&image, &recipe.mirrors).await;
    pin.map_err(|error| failed("SourceFailed", &error))
}

/// The region of a target, or of the template where no gallery says one.
pub(super) fn home_of(homes: &[(ResourceId, String)], own: &str) -> Location {
    Location::new(homes.first().map_or(own, |(_, home)| home.as_str()))
}
