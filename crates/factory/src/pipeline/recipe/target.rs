//! Where an image goes, as the pipeline understands it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use wire::template::{DistributeRegion, Distributor, FileFormat, Versioning};
use wire::{Location, ResourceId, VersionNumber};

use super::TemplateProblem;
use super::source::{DEFINITION, MANAGED_IMAGE, VERSION};

const TARGETS_MAX: usize = 20;
const REGIONS_MAX: usize = 100;
const NAME_BYTES_MAX: usize = 64;
const STORAGE_ACCOUNT: &str = "Microsoft.Storage/storageAccounts";

/// How the number of a new version is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Numbering {
    /// The next patch of the greatest number, in one major if it is given.
    Latest {
        major: Option<i32>,
    },
    /// The source's own version.
    Source,
    Exactly(VersionNumber),
}

/// A gallery that the image goes to.
#[derive(Debug, Clone, PartialEq)]
pub struct Distribution {
    pub run_output: String,
    pub definition: ResourceId,
    pub numbering: Numbering,
    pub regions: Vec<DistributeRegion>,
    pub exclude_from_latest: bool,
    pub tags: BTreeMap<String, String>,
}

/// One place that the image goes to.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    Gallery(Distribution),
    Image(ImageTarget),
    File(FileTarget),
    Registry(RegistryTarget),
    Object(ObjectTarget),
    AzureGallery(Box<AzureGalleryTarget>),
}

/// A managed image.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageTarget {
    pub run_output: String,
    pub image: ResourceId,
    pub location: Location,
    pub tags: BTreeMap<String, String>,
}

/// A file of the blob folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileTarget {
    pub run_output: String,
    /// Absent: the server names it.
    pub uri: Option<String>,
    pub format: FileFormat,
}

/// An artifact of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryTarget {
    pub run_output: String,
    pub reference: Reference,
    pub format: FileFormat,
    /// The name of a secret with `user:password`.
    pub credential: Option<String>,
}

/// A file of an object store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectTarget {
    pub run_output: String,
    pub uri: String,
    pub format: FileFormat,
    /// The name of a secret with keys.
    pub credential: String,
}

/// A version in a gallery of Azure's, or of another Bullion's.
#[derive(Debug, Clone, PartialEq)]
pub struct AzureGalleryTarget {
    pub run_output: String,
    /// The image definition there.
    pub definition: ResourceId,
    /// The version's number; absent, the next patch of the greatest.
    pub number: Option<VersionNumber>,
    pub location: Location,
    /// At least one.
    pub regions: Vec<DistributeRegion>,
    pub exclude_from_latest: bool,
    pub tags: BTreeMap<String, String>,
    /// The blob container's address, without a query.
    pub container: reqwest::Url,
    pub storage_account: Option<ResourceId>,
    /// The name of a secret with a shared access signature.
    pub sas: String,
    /// The name of a secret with a service principal.
    pub credential: String,
}

/// `host[:port]/repository:tag`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    pub host: String,
    pub repository: String,
    pub tag: String,
}

impl Reference {
    pub fn parse(text: &str) -> Option<Reference> {
        let (host, rest) = text.split_once('/')?;
        let (repository, tag) = rest.rsplit_once(':')?;
        let host_ok = !host.is_empty()
            && host
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte));
        let part = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|byte| {
                    byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte)
                })
                && part.as_bytes()[0].is_ascii_alphanumeric()
        };
        let tag_ok = (1..=128).contains(&tag.len())
            && tag
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        let good = host_ok && repository.len() <= 255 && repository.split('/').all(part) && tag_ok;
        good.then(|| Reference {
            host: host.to_owned(),
            repository: repository.to_owned(),
            tag: tag.to_owned(),
        })
    }
}

impl std::fmt::Display for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}:{}", self.host, self.repository, self.tag)
    }
}

impl Target {
    pub fn run_output(&self) -> &str {
        match self {
            Target::Gallery(gallery) => &gallery.run_output,
            Target::Image(image) => &image.run_output,
            Target::File(file) => &file.run_output,
            Target::Registry(registry) => &registry.run_output,
            Target::Object(object) => &object.run_output,
            Target::AzureGallery(azure) => &azure.run_output,
        }
    }

    pub fn gallery(&self) -> Option<&Distribution> {
        match self {
            Target::Gallery(gallery) => Some(gallery),
            _ => None,
        }
    }
}

pub(super) fn targets(
    distribute: &[Distributor],
    needed: bool,
    keep: &mut impl FnMut(TemplateProblem),
) -> Vec<Target> {
    if (distribute.is_empty() && needed) || distribute.len() > TARGETS_MAX {
        keep(TemplateProblem::new(
            "distribute",
            format!("an image goes to 1 to {TARGETS_MAX} places"),
            "give at least one distribution",
        ));
        return Vec::new();
    }
    let (mut made, mut names) = (Vec::new(), BTreeSet::new());
    for (index, one) in distribute.iter().enumerate() {
        let place = Place(index);
        let name = one.run_output_name();
        if let Some(problem) = place.name(name, &mut names) {
            keep(problem);
        }
        match target(one, place) {
            Ok(target) => made.push(target),
            Err(problem) => keep(problem),
        }
    }
    made
}

/// The place of one distribution in the template.
#[derive(Clone, Copy)]
struct Place(usize);

impl Place {
    fn bad(self, path: &str, message: impl Into<String>, hint: &str) -> TemplateProblem {
        TemplateProblem::new(format!("distribute[{}].{path}", self.0), message, hint)
    }

    /// The id of a resource of one type.
    fn id(
        self,
        path: &str,
        id: &str,
        kind: &str,
        called: &str,
    ) -> Result<ResourceId, TemplateProblem> {
        let parsed = ResourceId::parse(id).ok();
        let found = parsed.filter(|id| id.resource_type().is(kind));
        found.ok_or_else(|| self.bad(path, format!("`{id}` is no {called}"), "give its id"))
    }

    fn reference(self, text: &str) -> Result<Reference, TemplateProblem> {
        let hint = "write it like registry.example/images/golden:1.0";
        Reference::parse(text).ok_or_else(|| {
            let message = format!("`{text}` is not the name of an artifact");
            self.bad("reference", message, hint)
        })
    }

    /// The rest of the address is looked at where it is used.
    fn object(self, uri: &str) -> Result<String, TemplateProblem> {
        if uri.starts_with("s3://") || uri.starts_with("az://") {
            return Ok(uri.to_owned());
        }
        let shown = uri.split('?').next().unwrap_or_default();
        let message = format!("`{shown}` is no place in an object store");
        let hint = "write it like s3://bucket/images/golden.qcow2";
        Err(self.bad("uri", message, hint))
    }

    /// A run output is a resource, so its name must be one and must be unique.
    fn name(self, name: &str, names: &mut BTreeSet<String>) -> Option<TemplateProblem> {
        let good = (1..=NAME_BYTES_MAX).contains(&name.len())
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if !good {
            let message = format!("`{name}` is not the name of a run output");
            let hint = "use 1 to 64 letters, digits, dashes, dots and underscores";
            return Some(self.bad("runOutputName", message, hint));
        }
        if !names.insert(name.to_ascii_lowercase()) {
            let message = format!("there are two distributions named `{name}`");
            return Some(self.bad("runOutputName", message, "give each its own name"));
        }
        None
    }
}

fn target(one: &Distributor, place: Place) -> Result<Target, TemplateProblem> {
    match one {
        Distributor::SharedImage { .. } => gallery(one, place).map(Target::Gallery),
        Distributor::ManagedImage {
            run_output_name,
            image_id,
            location,
            artifact_tags,
        } => Ok(Target::Image(ImageTarget {
            run_output: run_output_name.clone(),
            image: place.id("imageId", image_id, MANAGED_IMAGE, "managed image")?,
            location: location.clone(),
            tags: artifact_tags.clone(),
        })),
        Distributor::Vhd {
            run_output_name,
            uri,
            ..
        } => Ok(file(run_output_name, uri.as_ref(), FileFormat::Vhd)),
        Distributor::File {
            run_output_name,
            format,
            uri,
        } => Ok(file(run_output_name, uri.as_ref(), *format)),
        Distributor::Oci {
            run_output_name,
            reference,
            format,
            credential,
        } => Ok(Target::Registry(RegistryTarget {
            run_output: run_output_name.clone(),
            reference: place.reference(reference)?,
            format: *format,
            credential: credential.clone(),
        })),
        Distributor::ObjectStore {
            run_output_name,
            uri,
            format,
            credential,
        } => Ok(Target::Object(ObjectTarget {
            run_output: run_output_name.clone(),
            uri: place.object(uri)?,
            format: *format,
            credential: credential.clone(),
        })),
        Distributor::AzureGallery { .. } => azure_gallery(one, place)
            .map(Box::new)
            .map(Target::AzureGallery),
    }
}

fn azure_gallery(one: &Distributor, place: Place) -> Result<AzureGalleryTarget, TemplateProblem> {
    let Distributor::AzureGallery {
        run_output_name,
        gallery_image_id,
        location,
        target_regions,
        exclude_from_latest,
        artifact_tags,
        container,
        storage_account_id,
        sas,
        credential,
    } = one
    else {
        let message = "it is no gallery of Azure's";
        return Err(place.bad("type", message, "use Bullion.AzureGallery"));
    };
    let (definition, numbering) = destination(gallery_image_id, None, place)?;
    let number = match numbering {
        Numbering::Exactly(number) => Some(number),
        Numbering::Latest { .. } | Numbering::Source => None,
    };
    let account =
        |id: &String| place.id("storageAccountId", id, STORAGE_ACCOUNT, "storage account");
    let mut regions = target_regions.clone();
    if regions.is_empty() {
        regions.push(DistributeRegion {
            name: location.clone(),
            replica_count: 1,
            storage_account_type: None,
        });
    }
    check_regions(&regions, place)?;
    Ok(AzureGalleryTarget {
        run_output: run_output_name.clone(),
        definition,
        number,
        location: location.clone(),
        regions,
        exclude_from_latest: *exclude_from_latest,
        tags: artifact_tags.clone(),
        container: container_address(container, place)?,
        storage_account: storage_account_id.as_ref().map(account).transpose()?,
        sas: sas.clone(),
        credential: credential.clone(),
    })
}

/// A signature in the address would be shown to whoever reads the template.
fn container_address(text: &str, place: Place) -> Result<reqwest::Url, TemplateProblem> {
    let shown: String = text.split(['?', '#']).next().unwrap_or_default().into();
    let url = reqwest::Url::parse(text).ok();
    let url = url.filter(|url| ["http", "https"].contains(&url.scheme()) && url.path().len() > 1);
    let url = url.ok_or_else(|| {
        let message = format!("`{shown}` is not the address of a blob container");
        let hint = "write it like https://account.blob.core.windows.net/images";
        place.bad("container", message, hint)
    })?;
    let plain = url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
    match plain {
        true => Ok(url),
        false => Err(place.bad(
            "container",
            format!("the address carries more than {shown}"),
            "leave the signature out; `sas` names the secret that holds it",
        )),
    }
}

fn file(run_output: &str, uri: Option<&String>, format: FileFormat) -> Target {
    Target::File(FileTarget {
        run_output: run_output.to_owned(),
        uri: uri.filter(|uri| !uri.is_empty()).cloned(),
        format,
    })
}

fn gallery(one: &Distributor, place: Place) -> Result<Distribution, TemplateProblem> {
    let Distributor::SharedImage {
        run_output_name,
        gallery_image_id,
        versioning,
        target_regions,
        replication_regions,
        storage_account_type,
        exclude_from_latest,
        artifact_tags,
    } = one
    else {
        return Err(place.bad("type", "it is no gallery", "use SharedImage"));
    };
    if !target_regions.is_empty() && !replication_regions.is_empty() {
        let message = "targetRegions and replicationRegions cannot be given together";
        return Err(place.bad("targetRegions", message, "leave out replicationRegions"));
    }
    let (definition, numbering) = destination(gallery_image_id, *versioning, place)?;
    let mut regions = target_regions.clone();
    regions.extend(replication_regions.iter().map(|name| DistributeRegion {
        name: name.clone(),
        replica_count: 1,
        storage_account_type: storage_account_type.clone(),
    }));
    check_regions(&regions, place)?;
    Ok(Distribution {
        run_output: run_output_name.clone(),
        definition,
        numbering,
        regions,
        exclude_from_latest: *exclude_from_latest,
        tags: artifact_tags.clone(),
    })
}

/// The image definition, and how its next version is numbered.
fn destination(
    id: &str,
    versioning: Option<Versioning>,
    place: Place,
) -> Result<(ResourceId, Numbering), TemplateProblem> {
    let hint = "give the id of an image definition, with or without /versions/x.y.z";
    let bad = |message: String| place.bad("galleryImageId", message, hint);
    let id = ResourceId::parse(id).map_err(|error| bad(error.to_string()))?;
    if id.resource_type().is(DEFINITION) {
        let numbering = match versioning {
            None => Numbering::Latest { major: None },
            Some(Versioning::Latest { major }) => Numbering::Latest {
                // Clients that cannot leave it out send -1.
                major: major.filter(|major| *major >= 0),
            },
            Some(Versioning::Source) => Numbering::Source,
        };
        return Ok((id, numbering));
    }
    match (id.resource_type().is(VERSION), id.parent()) {
        (true, Some(definition)) => {
            let number = id.name().parse::<VersionNumber>();
            let number = number.map_err(|error| bad(error.to_string()))?;
            Ok((definition, Numbering::Exactly(number)))
        }
        _ => Err(bad(format!("`{id}` is not an image definition"))),
    }
}

fn check_regions(regions: &[DistributeRegion], place: Place) -> Result<(), TemplateProblem> {
    let bad = |message, hint| place.bad("targetRegions", message, hint);
    let twice = |name: &Location| regions.iter().filter(|region| region.name == *name).count() > 1;
    if let Some(region) = regions.iter().find(|region| twice(&region.name)) {
        let message = format!("region `{}` is named twice", region.name);
        return Err(bad(message, "name each region once"));
    }
    if regions.is_empty() || regions.len() > REGIONS_MAX {
        let message = format!("1 to {REGIONS_MAX} target regions are needed");
        return Err(bad(message, "name the regions that shall hold the image"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_name_host_repository_and_tag() {
        let check = |text: &str, expected: Option<&str>| {
            let seen = Reference::parse(text).map(|reference| reference.to_string());
            assert_eq!(seen.as_deref(), expected, "{text}");
        };
        check(
            "localhost:5000/images/golden:1.0",
            Some("localhost:5000/images/golden:1.0"),
        );
        check(
            "registry.example/golden:1",
            Some("registry.example/golden:1"),
        );
        check("golden:1", None);
        check("host/golden", None);
        check("host/../golden:1", None);
        check("ho st/golden:1", None);
        check("host/Golden:1", None);
        check("host/golden:", None);
    }
}
