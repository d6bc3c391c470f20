//! What a template is built from, as the pipeline understands it. Nothing is looked up here.

use serde_json::Value;
use wire::ResourceId;
use wire::template::Source;

use super::TemplateProblem;
use crate::fetch::is_sha256;
use crate::source::{LATEST, PlatformImage, SourceError, SourceLine};

pub const DEFINITION: &str = "Microsoft.Compute/galleries/images";
pub const VERSION: &str = "Microsoft.Compute/galleries/images/versions";
pub const MANAGED_IMAGE: &str = "Microsoft.Compute/images";
pub const DISK: &str = "Microsoft.Compute/disks";
pub const SNAPSHOT: &str = "Microsoft.Compute/snapshots";

/// Where the first disk of a build comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecipeSource {
    /// Made by a provider of platform images.
    Platform(PlatformImage),
    /// The newest version of a definition that is in the latest.
    Latest { definition: ResourceId },
    /// A version, managed image, disk or snapshot.
    Resource(ResourceId),
    /// A file of the blob folder.
    Vhd { uri: String, sha256: String },
}

impl RecipeSource {
    pub(super) fn parse(source: &Source) -> Result<RecipeSource, TemplateProblem> {
        match source {
            Source::PlatformImage {
                publisher,
                offer,
                sku,
                version,
                ..
            } => platform_image([publisher, offer, sku, version]),
            Source::ManagedImage { image_id } => {
                of_kind(image_id, &[MANAGED_IMAGE], "imageId").map(RecipeSource::Resource)
            }
            Source::Disk { disk_id } => {
                of_kind(disk_id, &[DISK, SNAPSHOT], "diskId").map(RecipeSource::Resource)
            }
            Source::SharedImageVersion {
                image_version_id, ..
            } => {
                let id = of_kind(image_version_id, &[VERSION, DEFINITION], "imageVersionId")?;
                let parent = id.parent();
                Ok(match parent {
                    _ if id.resource_type().is(DEFINITION) => {
                        RecipeSource::Latest { definition: id }
                    }
                    Some(definition) if id.name().eq_ignore_ascii_case(LATEST) => {
                        RecipeSource::Latest { definition }
                    }
                    _ => RecipeSource::Resource(id),
                })
            }
            Source::Vhd {
                uri,
                sha256_checksum,
            } => {
                if !sha256_checksum.is_empty() && !is_sha256(sha256_checksum) {
                    return Err(TemplateProblem::new(
                        "source.sha256Checksum",
                        "it is not a SHA-256",
                        "write 64 hexadecimal digits",
                    ));
                }
                let (uri, sha256) = (uri.clone(), sha256_checksum.to_ascii_lowercase());
                Ok(RecipeSource::Vhd { uri, sha256 })
            }
        }
    }

    /// What of the source names the recipe, its version aside.
    pub(super) fn product(&self) -> Vec<String> {
        match self {
            RecipeSource::Platform(image) => {
                vec![
                    image.publisher.clone(),
                    image.offer.clone(),
                    image.sku.clone(),
                ]
            }
            RecipeSource::Latest { definition } => vec![definition.folded().to_owned()],
            RecipeSource::Resource(id) if id.resource_type().is(VERSION) => {
                vec![
                    id.parent()
                        .map_or_else(|| id.folded().to_owned(), |one| one.folded().to_owned()),
                ]
            }
            RecipeSource::Resource(id) => vec![id.folded().to_owned()],
            RecipeSource::Vhd { uri, .. } => vec![uri.clone()],
        }
    }
}

fn platform_image(parts: [&String; 4]) -> Result<RecipeSource, TemplateProblem> {
    let [publisher, offer, sku, version] = parts;
    let version = if version.is_empty() { LATEST } else { version };
    let text = format!("{publisher}:{offer}:{sku}:{version}");
    let parsed = text.parse().map_err(|error| {
        TemplateProblem::new(
            "source",
            format!("{error}"),
            "give publisher, offer and sku",
        )
    });
    parsed.map(RecipeSource::Platform)
}

fn of_kind(id: &str, kinds: &[&str], member: &str) -> Result<ResourceId, TemplateProblem> {
    let parsed = ResourceId::parse(id).ok();
    let fit = parsed.filter(|id| kinds.iter().any(|kind| id.resource_type().is(kind)));
    fit.ok_or_else(|| {
        TemplateProblem::new(
            format!("source.{member}"),
            format!("`{id}` is not the id of one of: {}", kinds.join(", ")),
            "give a whole resource id",
        )
    })
}

/// `source.mirrors`: lines as in `sources.list`, in place of the host's own.
pub(super) fn mirrors(properties: &Value) -> Result<Vec<SourceLine>, TemplateProblem> {
    let Some(lines) = properties
        .pointer("/source/mirrors")
        .filter(|value| !value.is_null())
    else {
        return Ok(Vec::new());
    };
    let bad = |message: String| {
        TemplateProblem::new(
            "source.mirrors",
            message,
            "list lines like `deb [signed-by=FILE] URI SUITE main`, with a URI of http or https and a FILE in \
             /usr/share/keyrings or /etc/apt/keyrings of the server's machine",
        )
    };
    let lines: Vec<String> =
        serde_json::from_value(lines.clone()).map_err(|error| bad(error.to_string()))?;
    let parsed = lines.into_iter().map(|line| {
        let parsed: SourceLine = line
            .parse()
            .map_err(|error: SourceError| bad(error.to_string()))?;
        if parsed.is_for_anybody() {
            Ok(parsed)
        } else {
            Err(bad(format!(
                "`{parsed}` is no mirror that a template may name"
            )))
        }
    });
    parsed.collect()
}
