//! What each document becomes on the server: a resource id and an ARM body.
//!
//! Bodies hold what the folder says and nothing else: what is left out is the server's to fill in,
//! and `plan` compares no more than this.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use wire::{IdError, ResourceId, SubscriptionId};

use super::document::{Customizer, Distribution, Document, Source, Validator};
use super::rules::{Reference, kind};
use super::{Entry, Factory};

/// The tag that says which factory a resource came from.
pub const FACTORY_TAG: &str = "bullion-factory";

/// Whose token a resource is written with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Realm {
    /// The tenant that the profile signs in to: regions and tenants live there.
    Installation,
    /// The tenant of this name.
    Tenant(String),
}

/// One resource as the folder wants it.
#[derive(Debug, Clone)]
pub struct Desired {
    pub kind: &'static str,
    /// What people call it: `images/golden`.
    pub label: String,
    pub id: ResourceId,
    pub realm: Realm,
    pub body: Value,
}

/// Every resource of the folder, parents before children.
pub fn desired(factory: &Factory) -> Result<Vec<Desired>, IdError> {
    let mut all = Vec::new();
    for row in super::names::KINDS {
        for entry in factory.names.of_kind(row.kind) {
            let document = &factory.documents[entry.document];
            if let Some(desired) = one(factory, row.kind, entry, document)? {
                all.push(desired);
            }
        }
    }
    Ok(all)
}

fn one(
    factory: &Factory,
    kind: &'static str,
    entry: &Entry,
    document: &Document,
) -> Result<Option<Desired>, IdError> {
    let (id, realm) = factory.locate(kind, entry)?;
    let tags = |own: &super::document::Tags| {
        let mut tags = own.clone();
        tags.insert(FACTORY_TAG.into(), factory.name.clone());
        json!(tags)
    };
    let body = match document {
        Document::Factory(_) => return Ok(None),
        Document::Tenant(tenant) => {
            let shown = tenant
                .display_name
                .as_deref()
                .unwrap_or(tenant.name.as_str());
            json!({ "properties": { "displayName": shown } })
        }
        Document::Region(region) => {
            let shown = region
                .display_name
                .as_deref()
                .unwrap_or(region.name.as_str());
            let zones: Vec<&str> = region.zones.iter().map(|zone| zone.as_str()).collect();
            json!({ "properties": { "displayName": shown, "zones": zones } })
        }
        Document::Subscription(subscription) => {
            json!({ "properties": { "displayName": subscription.name.as_str(), "tenant": subscription.tenant.text } })
        }
        Document::ResourceGroup(group) => {
            json!({ "location": group.location.text, "tags": tags(&group.tags) })
        }
        Document::Gallery(gallery) => {
            let properties = without_null(json!({ "description": gallery.description }));
            json!({ "location": factory.location(entry), "tags": tags(&gallery.tags), "properties": properties })
        }
        Document::ImageDefinition(image) => {
            let properties = without_null(json!({
                "description": image.description,
                "osType": image.os_type,
                "osState": image.os_state,
                "hyperVGeneration": image.hyper_v_generation,
                "architecture": image.architecture,
                "identifier": {
                    "publisher": image.identifier.publisher.as_str(),
                    "offer": image.identifier.offer.as_str(),
                    "sku": image.identifier.sku.as_str(),
                },
            }));
            json!({ "location": factory.location(entry), "tags": tags(&image.tags), "properties": properties })
        }
        Document::ImageTemplate(template) => {
            let properties = factory.template(template)?;
            json!({ "location": factory.location(entry), "tags": tags(&template.tags), "properties": properties })
        }
    };
    Ok(Some(Desired {
        kind,
        label: entry.path[entry.path.len().min(2) - 1..].join("/"),
        id,
        realm,
        body,
    }))
}

impl Factory {
    /// The id of a declared document and whose token reaches it.
    fn locate(&self, kind: &str, entry: &Entry) -> Result<(ResourceId, Realm), IdError> {
        let root = ResourceId::root();
        let name = entry.name();
        match kind {
            "Tenant" => {
                return Ok((
                    root.extension("Bullion.Factory", "tenants", name)?,
                    Realm::Installation,
                ));
            }
            "Region" => {
                return Ok((
                    root.extension("Bullion.Factory", "regions", name)?,
                    Realm::Installation,
                ));
            }
            "Factory" => return Ok((root, Realm::Installation)),
            _ => {}
        }
        let (subscription, tenant) = self.subscription(&entry.path[0]);
        let mut id = ResourceId::subscription_scope(subscription);
        for (depth, part) in entry.path.iter().enumerate().skip(1) {
            id = match (depth, kind) {
                (1, _) => id.child("resourceGroups", part)?,
                (2, "ImageTemplate") => {
                    id.extension("Microsoft.VirtualMachineImages", "imageTemplates", part)?
                }
                (2, _) => id.extension("Microsoft.Compute", "galleries", part)?,
                _ => id.child("images", part)?,
            };
        }
        Ok((id, Realm::Tenant(tenant)))
    }

    /// Id and tenant of a subscription; `load` has checked that both are there.
    fn subscription(&self, name: &str) -> (SubscriptionId, String) {
        let document = self
            .names
            .resolve("Subscription", name)
            .ok()
            .map(|entry| &self.documents[entry.document]);
        match document {
            Some(Document::Subscription(found)) => (
                found
                    .id
                    .as_str()
                    .parse()
                    .unwrap_or(SubscriptionId::new(uuid::Uuid::nil())),
                found.tenant.text.clone(),
            ),
            _ => (SubscriptionId::new(uuid::Uuid::nil()), String::new()),
        }
    }

    /// A document's own location, or the one it inherits.
    fn location(&self, entry: &Entry) -> String {
        let (own, parent) = match &self.documents[entry.document] {
            Document::ResourceGroup(group) => return group.location.text.clone(),
            Document::Gallery(gallery) => (&gallery.location, self.parent(&gallery.resource_group)),
            Document::ImageDefinition(image) => (&image.location, self.parent(&image.gallery)),
            Document::ImageTemplate(template) => {
                (&template.location, self.parent(&template.resource_group))
            }
            _ => return String::new(),
        };
        match (own, parent) {
            (Some(own), _) => own.text.clone(),
            (None, Some(parent)) => self.location(parent),
            (None, None) => String::new(),
        }
    }

    fn parent<K: kind::Kind>(&self, reference: &Reference<K>) -> Option<&Entry> {
        self.names.resolve(K::NAME, &reference.text).ok()
    }

    fn template(&self, template: &super::document::ImageTemplate) -> Result<Value, IdError> {
        let Source::PlatformImage {
            publisher,
            offer,
            sku,
            version,
        } = &template.source;
        let distribute = template
            .distribute
            .iter()
            .map(|output| self.distribution(output))
            .collect::<Result<Vec<_>, _>>()?;
        let mut properties = json!({
            "source": {
                "type": "PlatformImage",
                "publisher": publisher.as_str(),
                "offer": offer.as_str(),
                "sku": sku.as_str(),
                "version": version.as_str(),
            },
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
        Ok(properties)
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
                json!({
                    "type": "File",
                    "name": name.as_str(),
                    "sourceUri": data_uri(&bytes),
                    "destination": destination.as_str(),
                    "sha256Checksum": sha256(&bytes),
                    "mode": format!("{:0>4}", mode.as_str()),
                })
            }
            Customizer::Shell {
                name,
                script: Some(script),
                ..
            } => {
                let bytes = self.file(&script.0);
                json!({
                    "type": "Shell",
                    "name": name.as_str(),
                    "scriptUri": data_uri(&bytes),
                    "sha256Checksum": sha256(&bytes),
                })
            }
            Customizer::Shell { name, inline, .. } => {
                json!({ "type": "Shell", "name": name.as_str(), "inline": inline })
            }
            Customizer::CaCertificate { name, certificate } => {
                let bytes = self.file(&certificate.0);
                let text = String::from_utf8_lossy(&bytes).into_owned();
                json!({ "type": "Bullion.CaCertificate", "name": name.as_str(), "certificate": text })
            }
        }
    }

    fn validator(&self, step: &Validator) -> Value {
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

    fn distribution(&self, output: &Distribution) -> Result<Value, IdError> {
        let Distribution::SharedImage {
            run_output_name,
            image_definition,
            version,
            major,
            target_regions,
            exclude_from_latest,
        } = output;
        let (mut id, mut name) = (ResourceId::root(), "");
        if let Some(entry) = self.parent(image_definition) {
            (id, _) = self.locate("ImageDefinition", entry)?;
            name = entry.name();
        }
        if let Some(version) = version {
            id = id.child("versions", version.as_str())?;
        }
        let regions: Vec<Value> = target_regions
            .iter()
            .map(|region| json!({ "name": region.name.text, "replicaCount": region.replica_count }))
            .collect();
        let mut value = json!({
            "type": "SharedImage",
            "runOutputName": run_output_name.as_ref().map_or(name, |name| name.as_str()),
            "galleryImageId": id.to_string(),
            "targetRegions": regions,
            "excludeFromLatest": exclude_from_latest,
        });
        if version.is_none() {
            value["versioning"] = without_null(json!({ "scheme": "Latest", "major": major }));
        }
        Ok(value)
    }
}

fn without_null(value: Value) -> Value {
    match value {
        Value::Object(map) => map
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .collect::<Map<_, _>>()
            .into(),
        other => other,
    }
}

fn data_uri(bytes: &[u8]) -> String {
    format!("data:;base64,{}", STANDARD.encode(bytes))
}

/// The digest in hexadecimal, as Azure's `sha256Checksum` is.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
