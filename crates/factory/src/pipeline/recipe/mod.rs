//! A template's body as the pipeline understands it, checked before anything runs. What is wrong is said with its
//! place and what would be right. Nothing is looked up or fetched here.

mod customize;
pub(crate) mod source;
mod target;
mod windows;

use machine::Firmware;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use wire::template::{ImageTemplateProperties, OnBuildError, SwitchState, Validate, Validator};

use self::customize::{Contents, Wrong};
pub use self::source::RecipeSource;
pub use self::target::{
    AzureGalleryTarget, Distribution, FileTarget, ImageTarget, Numbering, ObjectTarget, Reference,
    RegistryTarget, Target,
};
use crate::build::Customizer;
use crate::fetch::{Fetched, Remote};
use crate::source::SourceLine;

const VALIDATORS_MAX: usize = 100;
const ALLOWED_MAX: usize = 200;
const MAX_DISK_GIB: u32 = 4095;
/// What a platform image's disk has where nobody says.
pub const DEFAULT_DISK_GIB: u32 = 2;
/// Azure's default and bounds of a build's time.
const DEFAULT_TIMEOUT_MINUTES: u32 = 240;
const MAX_TIMEOUT_MINUTES: u32 = 960;

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

/// What carries out the customizers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Executor {
    /// The parent's file tree under an overlay, in a namespace: for images that were built here.
    Tree,
    /// A machine that boots the disk.
    Machine,
}

/// How the finished image is looked through for secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SecretScan {
    pub enabled: bool,
    /// Paths that may hold one; `*` stands for anything.
    pub allow: Vec<String>,
}

impl Default for SecretScan {
    fn default() -> Self {
        SecretScan {
            enabled: true,
            allow: Vec::new(),
        }
    }
}

/// A template that can be built.
#[derive(Debug, Clone)]
pub struct Recipe {
    pub source: RecipeSource,
    pub mirrors: Vec<SourceLine>,
    pub customizers: Vec<Customizer>,
    pub validators: Vec<Validator>,
    /// The firmwares that the image is tested with.
    pub firmwares: Vec<Firmware>,
    pub targets: Vec<Target>,
    /// `None`: as large as the source.
    pub disk_gib: Option<u32>,
    pub timeout_minutes: u32,
    /// `None`: the tree where it may, else a machine.
    pub executor: Option<Executor>,
    /// Whether what belongs to one machine is taken away; a specialized image keeps it.
    pub generalize: bool,
    pub optimize: bool,
    pub scan: SecretScan,
    pub distribute_unproven: bool,
    pub source_only: bool,
    pub on_customizer_error: OnBuildError,
    pub on_validation_error: OnBuildError,
    /// What has to be fetched before it can be built.
    pub remote: Vec<Remote>,
}

impl Recipe {
    /// Reads the properties of a template. What it names by URI is listed, and not there.
    pub fn parse(properties: &Value) -> Result<Recipe, Vec<TemplateProblem>> {
        Recipe::read(properties, None)
    }

    /// The same with what was fetched for it.
    pub fn with(properties: &Value, fetched: &Fetched) -> Result<Recipe, Vec<TemplateProblem>> {
        Recipe::read(properties, Some(fetched))
    }

    fn read(properties: &Value, fetched: Option<&Fetched>) -> Result<Recipe, Vec<TemplateProblem>> {
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
        let mut contents = Contents {
            fetched,
            remote: Vec::new(),
        };
        let validate = body.validate.clone().unwrap_or_default();
        let source = RecipeSource::parse(&body.source).map_err(&mut keep).ok();
        let mirrors = source::mirrors(properties).map_err(&mut keep).ok();
        let customizers = customize::customizers(&body.customize, &mut contents, &mut keep);
        let validators = validators(&validate, &mut contents, &mut keep);
        let own = own_settings(&body, &validate).map_err(&mut keep).ok();
        let needed = !validate.source_validation_only;
        let targets = target::targets(&body.distribute, needed, &mut keep);
        let disk_gib = disk_gib(&body).map_err(&mut keep).ok();
        let errors = body.error_handling.unwrap_or_default();
        let (Some(source), Some(mirrors), Some(own), Some(disk_gib)) =
            (source, mirrors, own, disk_gib)
        else {
            return Err(problems);
        };
        if !problems.is_empty() {
            return Err(problems);
        }
        let boot = body.optimize.and_then(|optimize| optimize.vm_boot);
        Ok(Recipe {
            source,
            mirrors,
            customizers,
            validators,
            firmwares: own.firmwares,
            targets,
            disk_gib,
            timeout_minutes: match body.build_timeout_in_minutes.unwrap_or_default() {
                0 => DEFAULT_TIMEOUT_MINUTES,
                minutes => minutes.min(MAX_TIMEOUT_MINUTES),
            },
            executor: own.executor,
            generalize: own.generalize,
            optimize: boot.is_some_and(|boot| boot.state == SwitchState::Enabled),
            scan: own.scan,
            distribute_unproven: validate.continue_distribute_on_failure,
            source_only: validate.source_validation_only,
            on_customizer_error: errors.on_customizer_error.unwrap_or_default(),
            on_validation_error: errors.on_validation_error.unwrap_or_default(),
            remote: contents.remote,
        })
    }

    /// Names everything of the recipe that decides the image's content, the source's version aside.
    pub fn digest(&self) -> String {
        let customizers: Vec<_> = self
            .customizers
            .iter()
            .map(|customizer| (customizer.name(), customizer.key_material()))
            .collect();
        let inputs = (
            self.source.product(),
            customizers,
            self.disk_gib,
            self.executor,
            self.generalize,
            self.optimize,
        );
        format!("rd1:{}", jobs::step_key("recipe", 2, &inputs))
    }

    /// The gallery whose version the image says it is.
    pub fn first_gallery(&self) -> Option<&Distribution> {
        self.targets.iter().find_map(Target::gallery)
    }
}

/// Refuses a template that no run could build.
pub fn check_template(properties: &Value) -> Result<(), Vec<TemplateProblem>> {
    Recipe::parse(properties).map(|_| ())
}

fn validators(
    validate: &Validate,
    contents: &mut Contents<'_>,
    keep: &mut impl FnMut(TemplateProblem),
) -> Vec<Validator> {
    if validate.in_vm_validations.len() > VALIDATORS_MAX {
        let message = format!("there are more than {VALIDATORS_MAX} checks");
        keep(TemplateProblem::new(
            "validate.inVMValidations",
            message,
            "join some of them",
        ));
    }
    let mut made = Vec::new();
    for (index, validator) in validate.in_vm_validations.iter().enumerate() {
        match settled(validator, contents) {
            Ok(validator) => made.push(validator),
            Err((message, hint)) => keep(TemplateProblem::new(
                format!("validate.inVMValidations[{index}]"),
                message,
                hint,
            )),
        }
    }
    made
}

/// A check with its script in it.
fn settled(validator: &Validator, contents: &mut Contents<'_>) -> Result<Validator, Wrong> {
    let mut validator = validator.clone();
    if let Validator::Shell {
        inline,
        script_uri,
        sha256_checksum,
        ..
    }
    | Validator::PowerShell {
        inline,
        script_uri,
        sha256_checksum,
        ..
    }
    | Validator::Pester {
        inline,
        script_uri,
        sha256_checksum,
        ..
    }
    | Validator::Testinfra {
        inline,
        script_uri,
        sha256_checksum,
        ..
    } = &mut validator
        && let Some(uri) = script_uri.take().filter(|uri| !uri.is_empty())
    {
        *inline = contents.script(inline, Some(&uri), sha256_checksum)?;
        sha256_checksum.clear();
    }
    match crate::test::reason_against(&validator) {
        None => Ok(validator),
        Some(wrong) => Err(wrong),
    }
}

/// What Bullion adds to `validate` and `vmProfile`, each under the member `bullion`.
struct OwnSettings {
    firmwares: Vec<Firmware>,
    scan: SecretScan,
    executor: Option<Executor>,
    generalize: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct OwnProfile {
    executor: Option<Executor>,
    generalize: bool,
}

impl Default for OwnProfile {
    fn default() -> Self {
        OwnProfile {
            executor: None,
            generalize: true,
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct OwnValidate {
    firmware: Value,
    secrets: SecretScan,
}

fn own_settings(
    body: &ImageTemplateProperties,
    validate: &Validate,
) -> Result<OwnSettings, TemplateProblem> {
    let profile = body.vm_profile.as_ref();
    let profile: OwnProfile = own(
        profile.and_then(|profile| profile.more.get("bullion")),
        "vmProfile.bullion",
        "it has executor (Tree or Machine) and generalize",
    )?;
    let validate: OwnValidate = own(
        validate.more.get("bullion"),
        "validate.bullion",
        "it has firmware and secrets (enabled, allow)",
    )?;
    if validate.secrets.allow.len() > ALLOWED_MAX {
        let message = format!("there are more than {ALLOWED_MAX} paths");
        let path = "validate.bullion.secrets.allow";
        return Err(TemplateProblem::new(path, message, "join some with a `*`"));
    }
    Ok(OwnSettings {
        firmwares: firmwares(&validate.firmware)?,
        scan: validate.secrets,
        executor: profile.executor,
        generalize: profile.generalize,
    })
}

fn own<T: serde::de::DeserializeOwned + Default>(
    value: Option<&Value>,
    path: &str,
    hint: &str,
) -> Result<T, TemplateProblem> {
    match value.filter(|value| !value.is_null()) {
        None => Ok(T::default()),
        Some(value) => serde_json::from_value(value.clone())
            .map_err(|error| TemplateProblem::new(path, error.to_string(), hint)),
    }
}

/// What the image is tested with, BIOS alone unless it says more.
fn firmwares(asked: &Value) -> Result<Vec<Firmware>, TemplateProblem> {
    let names: Vec<&str> = match asked {
        Value::Null => return Ok(vec![Firmware::Bios]),
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

fn disk_gib(body: &ImageTemplateProperties) -> Result<Option<u32>, TemplateProblem> {
    let asked = body
        .vm_profile
        .as_ref()
        .and_then(|profile| profile.os_disk_size_gb);
    match asked.unwrap_or_default() {
        0 => Ok(None),
        gib @ 1..=MAX_DISK_GIB => Ok(Some(gib)),
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
    use wire::ResourceId;

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
            "source.imageId: `x` is not the id of one of: Microsoft.Compute/images",
        );
        check(
            "/customize/0",
            json!({ "type": "Bullion.Packages", "name": "p", "packages": ["--purge"] }),
            "customize[0]: `--purge` is not the name of a Debian package",
        );
        check(
            "/customize/0",
            json!({ "type": "Shell", "name": "s" }),
            "customize[0]: a script has either `inline` or `scriptUri`",
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
            "/distribute",
            json!([]),
            "distribute: an image goes to 1 to 20 places",
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

    /// What is wrong with a line of `source.mirrors`.
    #[track_caller]
    fn check_mirror(line: &str, expected: &str) {
        let image = json!({
            "type": "PlatformImage", "publisher": "Debian", "offer": "debian-12", "sku": "12-gen2", "version": "latest",
            "mirrors": [line],
        });
        check("/source", image, expected);
    }

    #[test]
    fn a_mirror_is_asked_over_http_and_its_keys_are_the_operators() {
        check_mirror("deb http://mirror.example/debian bookworm main", "");
        check_mirror(
            "deb [signed-by=/usr/share/keyrings/a.gpg,/etc/apt/keyrings/b.asc] https://mirror.example:8443/debian bookworm main",
            "",
        );
        let fingerprint = "A".repeat(40);
        check_mirror(
            &format!("deb [signed-by={fingerprint}!] http://mirror.example bookworm main"),
            "",
        );
        for line in [
            "deb file:///srv/mirror bookworm main",
            "deb ssh://-oProxyCommand=x/debian bookworm main",
            "deb http://mirror.example/../debian bookworm main",
            "deb [signed-by=/srv/blobs/mine.gpg] http://mirror.example bookworm main",
            "deb [signed-by=/usr/share/keyrings/../../../srv/mine.gpg] http://mirror.example bookworm main",
            "deb [signed-by=/usr/share/keyrings/a.gpg,] http://mirror.example bookworm main",
            "deb [signed-by=AAAA] http://mirror.example bookworm main",
        ] {
            let expected =
                format!("source.mirrors: `{line}` is no mirror that a template may name");
            check_mirror(line, &expected);
        }
        let unread = "source.mirrors: `bookworm main` is not a package source; write `deb [signed-by=FILE] URI SUITE COMPONENT...`";
        check_mirror("bookworm main", unread);
    }

    #[test]
    fn content_must_be_what_its_hash_says() {
        let file = |uri: &str, hash: &str| json!({ "type": "File", "name": "f", "sourceUri": uri, "destination": "/etc/x", "sha256Checksum": hash });
        let good = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881";
        let other = "0".repeat(64);
        check("/customize/0", file("data:;base64,eA==", good), "");
        check(
            "/customize/0",
            file("data:;base64,eA==", &other),
            &format!("customize[0]: the content has SHA-256 {good}, not {other}"),
        );
        check(
            "/customize/0",
            file("ftp://files.example/x", ""),
            "customize[0]: the content is neither a base64 `data:` address nor one of http or https",
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
