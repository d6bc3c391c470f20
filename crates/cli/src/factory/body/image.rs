//! Bodies of image templates: source, recipe, checks, and where versions go.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use wire::{IdError, ResourceId};

use super::super::Factory;
use super::super::content;
use super::super::document::{
    BuildSecret, Customizer, Distribution, GalleryDistribution, ImageTemplate, Source,
    TargetRegion, Validator,
};
use super::super::rules::{Reference, TemplateName, is_windows_path, kind};
use super::{sha256, without_null};

impl Factory {
    pub(super) fn template(&self, template: &ImageTemplate) -> Result<Value, IdError> {
        let distribute = template
            .distribute
            .iter()
            .map(|output| self.distribution(template, output))
            .collect::<Result<Vec<_>, _>>()?;
        let mut properties = json!({
            "source": self.source(&template.source)?,
            "customize": template.customize.iter().map(|step| self.customizer(step)).collect::<Vec<_>>(),
            "validate": {
                "continueDistributeOnFailure": false,
                "inVMValidations": template.validate.iter().map(|step| self.validator(step)).collect::<Vec<_>>(),
            },
            "distribute": distribute,
            "buildTimeoutInMinutes": template.build_timeout_in_minutes,
        });
        if let Some(firmware) = &template.test_firmware {
            properties["validate"]["bullion"] = json!({ "firmware": firmware });
        }
        if let Some(size) = template
            .vm_profile
            .as_ref()
            .and_then(|profile| profile.os_disk_size_gb)
        {
            properties["vmProfile"] = json!({ "osDiskSizeGB": size });
        }
        if let Some(handling) = &template.error_handling {
            properties["errorHandling"] = without_null(json!({
                "onCustomizerError": handling.on_customizer_error,
                "onValidationError": handling.on_validation_error,
            }));
        }
        Ok(properties)
    }

    fn source(&self, source: &Source) -> Result<Value, IdError> {
        Ok(match source {
            Source::PlatformImage {
                publisher,
                offer,
                sku,
                version,
                mirrors,
            } => without_null(json!({
                "type": "PlatformImage",
                "publisher": publisher.as_str(),
                "offer": offer.as_str(),
                "sku": sku.as_str(),
                "version": version.as_str(),
                "mirrors": (!mirrors.is_empty()).then_some(mirrors),
            })),
            Source::SharedImageVersion {
                image_definition,
                version,
            } => {
                let id = self.definition_id(image_definition)?;
                let id = id.child("versions", version.as_str())?;
                json!({ "type": "SharedImageVersion", "imageVersionId": id.to_string() })
            }
        })
    }

    fn customizer(&self, step: &Customizer) -> Value {
        match step {
            Customizer::Packages { name, packages } => {
                let packages: Vec<&str> = packages.iter().map(|package| package.as_str()).collect();
                json!({ "type": "Bullion.Packages", "name": name.as_str(), "packages": packages })
            }
            Customizer::File {
                name,
                source,
                destination,
                mode,
            } => {
                let bytes = self.file(&source.0);
                let mode = mode.as_ref().map(|mode| mode.as_str());
                // Where nobody says one, a file of Windows has none.
                let mode = match is_windows_path(destination.as_str()) {
                    true => mode,
                    false => mode.or(Some("0644")),
                };
                without_null(json!({
                    "type": "File",
                    "name": name.as_str(),
                    "sourceUri": data_uri(&bytes),
                    "destination": destination.as_str(),
                    "sha256Checksum": sha256(&bytes),
                    "mode": mode.map(|mode| format!("{mode:0>4}")),
                }))
            }
            Customizer::Shell {
                name,
                script,
                inline,
                secrets,
            } => {
                let script = script.as_ref().map(|script| &*script.0);
                self.script("Shell", name, script, inline, secrets)
            }
            Customizer::PowerShell { .. }
            | Customizer::WindowsRestart { .. }
            | Customizer::WindowsUpdate { .. } => self.windows_customizer(step),
            Customizer::CaCertificate { name, certificate } => {
                let bytes = self.file(&certificate.0);
                let text = String::from_utf8_lossy(&bytes).into_owned();
                json!({ "type": "Bullion.CaCertificate", "name": name.as_str(), "certificate": text })
            }
            Customizer::Ansible {
                name,
                playbook,
                variables,
            } => {
                let text = self.text(&playbook.0);
                json!({ "type": "Bullion.Ansible", "name": name.as_str(), "playbook": text, "variables": variables })
            }
            Customizer::CloudInit { name, user_data } => {
                let text = self.text(&user_data.0);
                json!({ "type": "Bullion.CloudInit", "name": name.as_str(), "userData": text })
            }
            Customizer::KernelCommandLine { name, add, remove } => {
                json!({ "type": "Bullion.KernelCommandLine", "name": name.as_str(), "add": add, "remove": remove })
            }
            Customizer::PartitionGrowth { name, enabled } => {
                json!({ "type": "Bullion.PartitionGrowth", "name": name.as_str(), "enabled": enabled })
            }
        }
    }

    fn windows_customizer(&self, step: &Customizer) -> Value {
        match step {
            Customizer::PowerShell {
                name,
                script,
                inline,
                valid_exit_codes,
                secrets,
            } => {
                let script = script.as_ref().map(|script| &*script.0);
                let mut step = self.script("PowerShell", name, script, inline, secrets);
                add_codes(&mut step, valid_exit_codes);
                step
            }
            Customizer::WindowsRestart {
                name,
                restart_command,
                restart_check_command,
                restart_timeout,
            } => without_null(json!({
                "type": "WindowsRestart",
                "name": name.as_str(),
                "restartCommand": restart_command,
                "restartCheckCommand": restart_check_command,
                "restartTimeout": restart_timeout.as_ref().map(|timeout| timeout.as_str()),
            })),
            Customizer::WindowsUpdate {
                name,
                search_criteria,
                filters,
                update_limit,
            } => without_null(json!({
                "type": "WindowsUpdate",
                "name": name.as_str(),
                "searchCriteria": search_criteria,
                "filters": (!filters.is_empty()).then_some(filters),
                "updateLimit": update_limit,
            })),
            _ => Value::Null,
        }
    }

    fn windows_validator(&self, step: &Validator) -> Value {
        match step {
            Validator::Pester { name, file } => {
                json!({ "type": "Bullion.Pester", "name": name.as_str(), "inline": [self.text(&file.0)] })
            }
            Validator::PowerShell {
                name,
                script,
                inline,
                valid_exit_codes,
            } => {
                let inline = match script {
                    Some(script) => json!([self.text(&script.0)]),
                    None => json!(inline),
                };
                let mut step =
                    json!({ "type": "PowerShell", "name": name.as_str(), "inline": inline });
                add_codes(&mut step, valid_exit_codes);
                step
            }
            _ => Value::Null,
        }
    }

    /// A customizer of this type that runs a script.
    fn script(
        &self,
        kind: &str,
        name: &TemplateName,
        script: Option<&str>,
        inline: &Option<Vec<String>>,
        secrets: &[BuildSecret],
    ) -> Value {
        let mut step = json!({ "type": kind, "name": name.as_str() });
        match script {
            Some(script) => {
                let bytes = self.file(script);
                step["scriptUri"] = data_uri(&bytes).into();
                step["sha256Checksum"] = sha256(&bytes).into();
            }
            None => step["inline"] = json!(inline),
        }
        add_secrets(&mut step, secrets);
        step
    }

    pub(super) fn validator(&self, step: &Validator) -> Value {
        match step {
            Validator::Service { name, service } => {
                json!({ "type": "Bullion.Service", "name": name.as_str(), "service": service.as_str() })
            }
            Validator::SshdOption {
                name,
                option,
                value,
            } => json!({
                "type": "Bullion.SshdOption",
                "name": name.as_str(),
                "option": option.as_str(),
                "value": value.as_str(),
            }),
            Validator::Tattoo { name } => {
                json!({ "type": "Bullion.Tattoo", "name": name.as_str() })
            }
            Validator::Facts { name, file } => {
                // What a file holds was looked at when the folder was read.
                let facts = content::facts(&String::from_utf8_lossy(&self.file(&file.0)));
                json!({ "type": "Bullion.Facts", "name": name.as_str(), "facts": facts.unwrap_or_default() })
            }
            Validator::Testinfra { name, file } => {
                json!({ "type": "Bullion.Testinfra", "name": name.as_str(), "inline": [self.text(&file.0)] })
            }
            Validator::Pester { .. } | Validator::PowerShell { .. } => self.windows_validator(step),
            Validator::OpenScap {
                name,
                content,
                profile,
                fails_from,
                rules,
                min_score,
            } => without_null(json!({
                "type": "Bullion.OpenScap",
                "name": name.as_str(),
                "content": content,
                "profile": profile,
                "failsFrom": fails_from,
                "rules": (!rules.is_empty()).then_some(rules),
                "minScore": min_score,
            })),
            Validator::Lynis {
                name,
                fails_from,
                rules,
                min_score,
            } => without_null(json!({
                "type": "Bullion.Lynis",
                "name": name.as_str(),
                "failsFrom": fails_from,
                "rules": (!rules.is_empty()).then_some(rules),
                "minScore": min_score,
            })),
            // A check has no `scriptUri` on the wire; the whole script as one entry keeps what spans lines.
            Validator::Shell {
                name,
                script: Some(script),
                ..
            } => {
                let text = String::from_utf8_lossy(&self.file(&script.0)).into_owned();
                json!({ "type": "Shell", "name": name.as_str(), "inline": [text] })
            }
            Validator::Shell { name, inline, .. } => {
                json!({ "type": "Shell", "name": name.as_str(), "inline": inline })
            }
        }
    }

    fn text(&self, file: &str) -> String {
        String::from_utf8_lossy(&self.file(file)).into_owned()
    }

    fn distribution(
        &self,
        template: &ImageTemplate,
        output: &Distribution,
    ) -> Result<Value, IdError> {
        Ok(match output {
            Distribution::SharedImage(gallery) => return self.gallery(gallery),
            Distribution::ManagedImage {
                run_output_name,
                image,
                resource_group,
                location,
            } => {
                let group = resource_group.as_ref().unwrap_or(&template.resource_group);
                let group = match self.parent(group) {
                    Some(entry) => self.locate("ResourceGroup", entry)?.0,
                    None => ResourceId::root(),
                };
                let id = group.extension("Microsoft.Compute", "images", image.as_str())?;
                json!({
                    "type": "ManagedImage",
                    "runOutputName": run_output_name.as_str(),
                    "imageId": id.to_string(),
                    "location": location.text,
                })
            }
            Distribution::File(file) => of_type("Bullion.File", file),
            Distribution::Oci(registry) => of_type("Bullion.Oci", registry),
            Distribution::ObjectStore(object) => of_type("Bullion.ObjectStore", object),
            Distribution::AzureGallery(gallery) => of_type("Bullion.AzureGallery", gallery),
        })
    }

    fn gallery(&self, output: &GalleryDistribution) -> Result<Value, IdError> {
        let GalleryDistribution {
            run_output_name,
            image_definition,
            version,
            major,
            target_regions,
            exclude_from_latest,
        } = output;
        let mut id = self.definition_id(image_definition)?;
        let name = self
            .parent(image_definition)
            .map_or("", |entry| entry.name());
        if let Some(version) = version {
            id = id.child("versions", version.as_str())?;
        }
        let mut value = json!({
            "type": "SharedImage",
            "runOutputName": run_output_name.as_ref().map_or(name, |name| name.as_str()),
            "galleryImageId": id.to_string(),
            "targetRegions": self.target_regions(target_regions),
            "excludeFromLatest": exclude_from_latest,
        });
        if version.is_none() {
            value["versioning"] = without_null(json!({ "scheme": "Latest", "major": major }));
        }
        Ok(value)
    }

    pub(super) fn definition_id(
        &self,
        reference: &Reference<kind::ImageDefinition>,
    ) -> Result<ResourceId, IdError> {
        match self.parent(reference) {
            Some(entry) => Ok(self.locate("ImageDefinition", entry)?.0),
            None => Ok(ResourceId::root()),
        }
    }

    pub(super) fn target_regions(&self, regions: &[TargetRegion]) -> Vec<Value> {
        let shown = |region: &TargetRegion| json!({ "name": region.name.text, "replicaCount": region.replica_count });
        regions.iter().map(shown).collect()
    }
}

/// What is written down the same way in a folder.
fn of_type(kind: &str, target: &impl serde::Serialize) -> Value {
    let mut value = json!({ "type": kind });
    if let (Value::Object(value), Value::Object(target)) = (&mut value, json!(target)) {
        value.extend(target);
    }
    value
}

fn add_codes(step: &mut Value, codes: &[i32]) {
    if !codes.is_empty() {
        step["validExitCodes"] = json!(codes);
    }
}

fn add_secrets(step: &mut Value, secrets: &[BuildSecret]) {
    if !secrets.is_empty() {
        let all = secrets.iter().map(|secret| without_null(json!(secret)));
        step["secrets"] = all.collect();
    }
}

fn data_uri(bytes: &[u8]) -> String {
    format!("data:;base64,{}", STANDARD.encode(bytes))
}
