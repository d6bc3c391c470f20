//! A template's body as the pipeline understands it, checked before anything runs. Pure: what is
//! wrong is said with its place and what would be right.

use base64::Engine;
use build::{Action, Customizer, ImagePath, PackageName};
use machine::Firmware;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use wire::template::{
    Customizer as WireCustomizer, DistributeRegion, Distributor, ImageTemplateProperties, Source,
    Validator, Versioning,
};
use wire::{Location, ResourceId, VersionNumber};

use crate::build;
use crate::source::{PlatformImage, SourceLine};

const CUSTOMIZERS_MAX: usize = 100;
const VALIDATORS_MAX: usize = 100;
const REGIONS_MAX: usize = 100;
const DEFAULT_DISK_GIB: u32 = 2;
const MAX_DISK_GIB: u32 = 4095;
/// Azure's default and bounds of a build's time.
const DEFAULT_TIMEOUT_MINUTES: u32 = 240;
const MAX_TIMEOUT_MINUTES: u32 = 960;
const DEFAULT_FILE_MODE: u32 = 0o644;
const DEFINITION: &str = "Microsoft.Compute/galleries/images";
const VERSION: &str = "Microsoft.Compute/galleries/images/versions";

/// What is wrong with a template, where, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TemplateProblem {
    /// A path into the properties: `customize[2].inline`.
    pub path: String,
    pub message: String,
    pub hint: String,
}

impl TemplateProblem {
    fn new(path: impl Into<String>, message: impl Into<String>, hint: impl Into<String>) -> Self {
        TemplateProblem {
            path: path.into(),
            message: message.into(),
            hint: hint.into(),
        }
    }
}

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

/// Where the image goes.
#[derive(Debug, Clone, PartialEq)]
pub struct Distribution {
    pub run_output: String,
    pub definition: ResourceId,
    pub numbering: Numbering,
    pub regions: Vec<DistributeRegion>,
    pub exclude_from_latest: bool,
    pub tags: std::collections::BTreeMap<String, String>,
}

/// A template that can be built.
#[derive(Debug, Clone)]
pub struct Recipe {
    pub image: PlatformImage,
    pub mirrors: Vec<SourceLine>,
    pub customizers: Vec<Customizer>,
    pub validators: Vec<Validator>,
    /// The firmwares that the image is tested with.
    pub firmwares: Vec<Firmware>,
    pub distribution: Distribution,
    pub disk_gib: u32,
    pub timeout_minutes: u32,
}

impl Recipe {
    /// Reads the properties of a template.
    pub fn parse(properties: &Value) -> Result<Recipe, Vec<TemplateProblem>> {
        let body: ImageTemplateProperties =
            serde_json::from_value(properties.clone()).map_err(|error| {
                vec![TemplateProblem::new(
                    "",
                    error.to_string(),
                    "see the template's schema",
                )]
            })?;
        let mut problems = Vec::new();
        let mut keep = |problem: TemplateProblem| problems.push(problem);
        let image = platform_image(&body.source).map_err(&mut keep).ok();
        let mirrors = mirrors(properties).map_err(&mut keep).ok();
        let customizers = customizers(&body.customize, &mut keep);
        let validators = validators(&body, &mut keep);
        let firmwares = firmwares(&body).map_err(&mut keep).ok();
        let distribution = distribution(&body.distribute).map_err(&mut keep).ok();
        let disk_gib = disk_gib(&body).map_err(&mut keep).ok();
        let timeout_minutes = match body.build_timeout_in_minutes.unwrap_or_default() {
            0 => DEFAULT_TIMEOUT_MINUTES,
            minutes => minutes.min(MAX_TIMEOUT_MINUTES),
        };
        let all = (image, mirrors, firmwares, distribution, disk_gib);
        let (Some(image), Some(mirrors), Some(firmwares), Some(distribution), Some(disk_gib)) = all
        else {
            return Err(problems);
        };
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Recipe {
            image,
            mirrors,
            customizers,
            validators,
            firmwares,
            distribution,
            disk_gib,
            timeout_minutes,
        })
    }

    /// Names everything of the recipe that decides the image's content, the source's version aside.
    pub fn digest(&self) -> String {
        let PlatformImage {
            publisher,
            offer,
            sku,
            ..
        } = &self.image;
        let customizers: Vec<_> = self
            .customizers
            .iter()
            .map(|customizer| (customizer.name(), customizer.key_material()))
            .collect();
        let inputs = (publisher, offer, sku, customizers, self.disk_gib);
        format!("rd1:{}", jobs::step_key("recipe", 1, &inputs))
    }
}

/// Refuses a template that no run could build.
pub fn check_template(properties: &Value) -> Result<(), Vec<TemplateProblem>> {
    Recipe::parse(properties).map(|_| ())
}

fn platform_image(source: &Source) -> Result<PlatformImage, TemplateProblem> {
    match source {
        Source::PlatformImage {
            publisher,
            offer,
            sku,
            version,
            ..
        } => {
            let version = if version.is_empty() {
                crate::source::LATEST
            } else {
                version
            };
            let text = format!("{publisher}:{offer}:{sku}:{version}");
            text.parse().map_err(|error| {
                TemplateProblem::new(
                    "source",
                    format!("{error}"),
                    "give publisher, offer and sku",
                )
            })
        }
        Source::ManagedImage { .. }
        | Source::SharedImageVersion { .. }
        | Source::Disk { .. }
        | Source::Vhd { .. } => Err(TemplateProblem::new(
            "source.type",
            "this kind of source cannot be built from yet",
            "use PlatformImage",
        )),
    }
}

/// `source.mirrors`: lines as in `sources.list`, in place of the host's own.
fn mirrors(properties: &Value) -> Result<Vec<SourceLine>, TemplateProblem> {
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
            "list lines like `deb [signed-by=FILE] URI SUITE main`",
        )
    };
    let lines: Vec<String> =
        serde_json::from_value(lines.clone()).map_err(|error| bad(error.to_string()))?;
    let mut sources = Vec::new();
    for line in lines {
        let parsed = line
            .parse::<SourceLine>()
            .map_err(|error| bad(error.to_string()))?;
        sources.push(parsed);
    }
    Ok(sources)
}

fn customizers(wire: &[WireCustomizer], keep: &mut impl FnMut(TemplateProblem)) -> Vec<Customizer> {
    if wire.len() > CUSTOMIZERS_MAX {
        let message = format!("there are more than {CUSTOMIZERS_MAX} customizers");
        keep(TemplateProblem::new(
            "customize",
            message,
            "put several lines into one",
        ));
        return Vec::new();
    }
    let mut made: Vec<Customizer> = Vec::new();
    for (index, customizer) in wire.iter().enumerate() {
        let path = format!("customize[{index}]");
        match one_customizer(customizer, index) {
            Ok(customizer) if made.iter().any(|other| other.name() == customizer.name()) => {
                let message = format!("there are two customizers named `{}`", customizer.name());
                keep(TemplateProblem::new(
                    path,
                    message,
                    "give each its own name",
                ));
            }
            Ok(customizer) => made.push(customizer),
            Err((message, hint)) => keep(TemplateProblem::new(path, message, hint)),
        }
    }
    made
}

type Wrong = (String, &'static str);

fn one_customizer(wire: &WireCustomizer, index: usize) -> Result<Customizer, Wrong> {
    let action = match wire {
        WireCustomizer::Packages { packages, .. } => Action::Packages {
            packages: packages
                .iter()
                .map(|name| package(name))
                .collect::<Result<_, _>>()?,
        },
        WireCustomizer::File {
            source_uri,
            destination,
            sha256_checksum,
            mode,
            ..
        } => Action::File {
            bytes: content(source_uri, sha256_checksum)?,
            destination: ImagePath::parse(destination).ok_or_else(|| {
                let message = format!("`{destination}` is not an absolute path of a file");
                (message, "write it like /etc/motd")
            })?,
            mode: file_mode(mode.as_deref().unwrap_or_default())?,
            uid: 0,
            gid: 0,
        },
        WireCustomizer::Shell {
            inline,
            script_uri,
            sha256_checksum,
            ..
        } => Action::Shell {
            lines: script(inline, script_uri.as_deref(), sha256_checksum)?,
        },
        WireCustomizer::CaCertificate { certificate, .. } => Action::CaCertificate {
            pem: certificate.clone(),
        },
        other => {
            let message = format!(
                "a customizer of type {} cannot be carried out yet",
                other.kind()
            );
            return Err((message, "leave it out"));
        }
    };
    let name = match wire.name() {
        "" => format!("step-{}", index + 1),
        name => name.to_owned(),
    };
    Customizer::new(name, action).map_err(|error| (error.reason, "correct the customizer"))
}

fn package(name: &str) -> Result<PackageName, Wrong> {
    let message = || format!("`{name}` is not the name of a Debian package");
    PackageName::parse(name).ok_or_else(|| (message(), "write `name` or `name=version`"))
}

fn file_mode(text: &str) -> Result<u32, Wrong> {
    if text.is_empty() {
        return Ok(DEFAULT_FILE_MODE);
    }
    let wrong = |_| (format!("`{text}` is not a file mode"), "write it like 0644");
    u32::from_str_radix(text, 8).map_err(wrong)
}

/// The lines of a shell customizer, wherever they stand.
fn script(inline: &[String], uri: Option<&str>, sha256: &str) -> Result<Vec<String>, Wrong> {
    match (inline, uri) {
        ([_, ..], None) => Ok(inline.to_vec()),
        ([], Some(uri)) => {
            let text = String::from_utf8(content(uri, sha256)?);
            let wrong = |_| {
                (
                    "the script is not UTF-8 text".to_owned(),
                    "save it as UTF-8",
                )
            };
            Ok(text.map_err(wrong)?.lines().map(str::to_owned).collect())
        }
        _ => {
            let message = "a shell customizer has either `inline` or `scriptUri`";
            Err((message.to_owned(), "give one of them"))
        }
    }
}

/// The bytes of a `data:` address. Anything else would be fetched at build time, from a place that
/// may hold something else the next time.
fn content(uri: &str, sha256: &str) -> Result<Vec<u8>, Wrong> {
    let hint = "send the content itself as data:;base64,...";
    let data = uri
        .strip_prefix("data:")
        .and_then(|rest| rest.split_once(','));
    let Some((kind, data)) =
        data.filter(|(kind, _)| kind.ends_with(";base64") || *kind == "base64")
    else {
        return Err((
            "the content is not a base64 `data:` address".to_owned(),
            hint,
        ));
    };
    let engine = base64::engine::general_purpose::STANDARD;
    let bytes = engine
        .decode(data)
        .map_err(|error| (format!("its {kind} content: {error}"), hint))?;
    let hash = crate::source::hex(&Sha256::digest(&bytes));
    if !sha256.is_empty() && !sha256.eq_ignore_ascii_case(&hash) {
        let message = format!("the content has SHA-256 {hash}, not {sha256}");
        return Err((message, "correct sha256Checksum, or the file"));
    }
    Ok(bytes)
}

fn validators(
    body: &ImageTemplateProperties,
    keep: &mut impl FnMut(TemplateProblem),
) -> Vec<Validator> {
    let Some(validate) = &body.validate else {
        return Vec::new();
    };
    if validate.continue_distribute_on_failure {
        keep(TemplateProblem::new(
            "validate.continueDistributeOnFailure",
            "an image that failed its checks is never published here",
            "set it to false",
        ));
    }
    if validate.in_vm_validations.len() > VALIDATORS_MAX {
        let message = format!("there are more than {VALIDATORS_MAX} checks");
        keep(TemplateProblem::new(
            "validate.inVMValidations",
            message,
            "join some of them",
        ));
    }
    for (index, validator) in validate.in_vm_validations.iter().enumerate() {
        if let Some((message, hint)) = crate::test::reason_against(validator) {
            keep(TemplateProblem::new(
                format!("validate.inVMValidations[{index}]"),
                message,
                hint,
            ));
        }
    }
    validate.in_vm_validations.clone()
}

/// `validate.bullion.firmware`: what the image is tested with, BIOS alone unless it says more.
fn firmwares(body: &ImageTemplateProperties) -> Result<Vec<Firmware>, TemplateProblem> {
    let more = body
        .validate
        .as_ref()
        .and_then(|validate| validate.more.get("bullion"));
    let Some(asked) = more.and_then(|bullion| bullion.get("firmware")) else {
        return Ok(vec![Firmware::Bios]);
    };
    let names: Vec<&str> = match asked {
        Value::String(name) => vec![name],
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let parsed: Option<Vec<Firmware>> = names.iter().map(|name| firmware(name)).collect();
    parsed
        .filter(|list| !list.is_empty() && list.len() <= 2)
        .ok_or_else(|| {
            TemplateProblem::new(
                "validate.bullion.firmware",
                "unknown firmware",
                "use `Bios`, `Uefi` or both",
            )
        })
}

/// A firmware by its name on the wire.
pub(crate) fn firmware(name: &str) -> Option<Firmware> {
    let named = |known: &str| name.eq_ignore_ascii_case(known);
    match name {
        _ if named("bios") => Some(Firmware::Bios),
        _ if named("uefi") => Some(Firmware::Uefi),
        _ => None,
    }
}

/// A problem of the one distribution.
fn undistributable(path: &str, message: String, hint: &str) -> TemplateProblem {
    TemplateProblem::new(format!("distribute[0].{path}"), message, hint)
}

fn distribution(distribute: &[Distributor]) -> Result<Distribution, TemplateProblem> {
    let [
        Distributor::SharedImage {
            run_output_name,
            gallery_image_id,
            versioning,
            target_regions,
            replication_regions,
            exclude_from_latest,
            artifact_tags,
            ..
        },
    ] = distribute
    else {
        let message = "an image goes to one gallery";
        let hint = "give exactly one SharedImage distribution";
        return Err(TemplateProblem::new("distribute", message, hint));
    };
    let (definition, numbering) = destination(gallery_image_id, *versioning)?;
    Ok(Distribution {
        run_output: run_output_name.clone(),
        definition,
        numbering,
        regions: regions(target_regions, replication_regions)?,
        exclude_from_latest: *exclude_from_latest,
        tags: artifact_tags.clone(),
    })
}

/// The image definition, and how its next version is numbered.
fn destination(
    id: &str,
    versioning: Option<Versioning>,
) -> Result<(ResourceId, Numbering), TemplateProblem> {
    let hint = "give the id of an image definition, with or without /versions/x.y.z";
    let bad = |message: String| undistributable("galleryImageId", message, hint);
    let id = ResourceId::parse(id).map_err(|error| bad(error.to_string()))?;
    if id.resource_type().is(DEFINITION) {
        let numbering = match versioning {
            None => Numbering::Latest { major: None },
            Some(Versioning::Latest { major }) => Numbering::Latest { major },
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

fn regions(
    targets: &[DistributeRegion],
    plain: &[Location],
) -> Result<Vec<DistributeRegion>, TemplateProblem> {
    let bad = |message, hint| undistributable("targetRegions", message, hint);
    let mut regions = targets.to_vec();
    regions.extend(plain.iter().map(|name| DistributeRegion {
        name: name.clone(),
        replica_count: 1,
        storage_account_type: None,
    }));
    let twice = |name: &Location| regions.iter().filter(|region| region.name == *name).count() > 1;
    if let Some(region) = regions.iter().find(|region| twice(&region.name)) {
        let message = format!("region `{}` is named twice", region.name);
        return Err(bad(message, "name each region once"));
    }
    if regions.is_empty() || regions.len() > REGIONS_MAX {
        let message = format!("1 to {REGIONS_MAX} target regions are needed");
        return Err(bad(message, "name the regions that shall hold the image"));
    }
    Ok(regions)
}

fn disk_gib(body: &ImageTemplateProperties) -> Result<u32, TemplateProblem> {
    let asked = body
        .vm_profile
        .as_ref()
        .and_then(|profile| profile.os_disk_size_gb);
    match asked.unwrap_or_default() {
        0 => Ok(DEFAULT_DISK_GIB),
        gib @ 1..=MAX_DISK_GIB => Ok(gib),
        gib => Err(TemplateProblem::new(
            "vmProfile.osDiskSizeGB",
            format!("{gib} GB is not a size of a disk here"),
            format!("use 1 to {MAX_DISK_GIB}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const DEFINITION_ID: &str = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/rg/providers/Microsoft.Compute/galleries/g/images/d";

    fn properties(place: &str, value: Value) -> Value {
        let definition = ResourceId::parse(DEFINITION_ID).unwrap();
        let mut body = crate::testing::template_properties(&definition, &["north"], "x");
        *body.pointer_mut(place).unwrap() = value;
        body
    }

    /// What is wrong, as `path: message`, when `value` stands at `place` in a good template.
    #[track_caller]
    fn check(place: &str, value: Value, expected: &str) {
        let problems = check_template(&properties(place, value)).map_err(|problems| {
            let texts = problems
                .iter()
                .map(|problem| format!("{}: {}", problem.path, problem.message));
            texts.collect::<Vec<_>>().join("; ")
        });
        assert_eq!(problems.err().unwrap_or_default(), expected);
    }

    #[test]
    fn a_good_template_is_good() {
        check("/buildTimeoutInMinutes", json!(0), "");
        check("/vmProfile/osDiskSizeGB", json!(0), "");
        check("/validate/inVMValidations", json!([]), "");
    }

    #[test]
    fn every_part_is_checked() {
        check(
            "/source",
            json!({ "type": "ManagedImage", "imageId": "x" }),
            "source.type: this kind of source cannot be built from yet",
        );
        check(
            "/customize/0",
            json!({ "type": "Bullion.Packages", "name": "p", "packages": ["--purge"] }),
            "customize[0]: `--purge` is not the name of a Debian package",
        );
        check(
            "/customize/0",
            json!({ "type": "Shell", "name": "s" }),
            "customize[0]: a shell customizer has either `inline` or `scriptUri`",
        );
        check(
            "/customize/0",
            json!({ "type": "File", "name": "f", "sourceUri": "data:;base64,eA==", "destination": "etc/x" }),
            "customize[0]: `etc/x` is not an absolute path of a file",
        );
        check(
            "/validate/inVMValidations/0",
            json!({ "type": "Bullion.Service", "name": "s", "service": "a b" }),
            "validate.inVMValidations[0]: `a b` is not the name of a service",
        );
        check(
            "/validate/continueDistributeOnFailure",
            json!(true),
            "validate.continueDistributeOnFailure: an image that failed its checks is never published here",
        );
        check(
            "/distribute",
            json!([]),
            "distribute: an image goes to one gallery",
        );
        check(
            "/distribute/0/targetRegions",
            json!([{ "name": "West Europe" }, { "name": "westeurope" }]),
            "distribute[0].targetRegions: region `West Europe` is named twice",
        );
        check(
            "/vmProfile/osDiskSizeGB",
            json!(5000),
            "vmProfile.osDiskSizeGB: 5000 GB is not a size of a disk here",
        );
    }

    #[test]
    fn content_must_be_what_its_hash_says() {
        let file = |uri: &str, hash: &str| json!({ "type": "File", "name": "f", "sourceUri": uri, "destination": "/etc/x", "sha256Checksum": hash });
        let good = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881";
        check("/customize/0", file("data:;base64,eA==", good), "");
        check(
            "/customize/0",
            file("data:;base64,eA==", "00"),
            &format!("customize[0]: the content has SHA-256 {good}, not 00"),
        );
        check(
            "/customize/0",
            file("https://files.example/x", ""),
            "customize[0]: the content is not a base64 `data:` address",
        );
    }

    #[test]
    fn a_recipe_is_named_by_what_decides_its_content() {
        let digest =
            |place: &str, value: Value| Recipe::parse(&properties(place, value)).unwrap().digest();
        let same = digest("/buildTimeoutInMinutes", json!(10));
        assert_eq!(same, digest("/buildTimeoutInMinutes", json!(20)));
        assert_eq!(same, digest("/source/version", json!("12.15.20261118")));
        assert_ne!(same, digest("/customize/0/inline/0", json!("true")));
        assert_ne!(same, digest("/vmProfile/osDiskSizeGB", json!(3)));
    }
}
