//! What each document becomes on the server: a resource id and an ARM body.
//!
//! Bodies hold what the folder says and nothing else: what is left out is the server's to fill in,
//! and `plan` compares no more than this.

mod identity;
mod image;
mod later;
mod pipeline;
mod policy;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use wire::{IdError, ResourceId, SubscriptionId};

use super::document::{Document, ImageDefinition, Tags};
use super::rules::{Reference, kind};
use super::{Entry, Factory};

pub use identity::{assignment_id, assignment_name};
pub use later::{Hole, KNOWN_AFTER_APPLY, Known, Later, fill};
pub use pipeline::PIPELINE_TAG;

/// The tag that says which factory a resource came from. Policies carry it in their metadata, role assignments in
/// how their name is made.
pub const FACTORY_TAG: &str = "bullion-factory";

/// Whose token a resource is written with.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
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
    pub address: Address,
    pub realm: Realm,
    pub body: Value,
    /// What in the body is not known from the folder alone.
    pub later: Vec<Hole>,
}

/// Where a resource is.
#[derive(Debug, Clone)]
pub enum Address {
    Known(ResourceId),
    /// A role assignment, whose name follows from who gets which role where.
    Assignment {
        scope: ResourceId,
        /// The GUID of the role.
        role: &'static str,
        principal: Later,
    },
}

impl Address {
    /// The id, once everything that it is made from is known.
    pub fn id(&self, factory: &str, known: &impl Known) -> Option<ResourceId> {
        match self {
            Address::Known(id) => Some(id.clone()),
            Address::Assignment {
                scope,
                role,
                principal,
            } => {
                let principal = known.value(principal)?;
                let name = assignment_name(factory, scope, role, principal.as_str()?);
                assignment_id(scope, &name).ok()
            }
        }
    }

    /// What must be there before it.
    pub fn parent(&self) -> Option<ResourceId> {
        match self {
            Address::Known(id) => id.parent(),
            Address::Assignment { scope, .. } => Some(scope.clone()),
        }
    }
}

/// A body and what is filled in later.
struct Shape {
    body: Value,
    later: Vec<Hole>,
}

impl Shape {
    fn of(body: Value) -> Shape {
        Shape {
            body,
            later: Vec::new(),
        }
    }
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
    let (address, realm, shape) = match document {
        Document::Factory(_) => return Ok(None),
        Document::RoleAssignment(assignment) => factory.role_assignment(assignment)?,
        Document::PolicyAssignment(assignment) => factory.policy_assignment(assignment)?,
        _ => {
            let (id, realm) = factory.locate(kind, entry)?;
            (Address::Known(id), realm, factory.shape(entry, document)?)
        }
    };
    Ok(Some(Desired {
        kind,
        label: label(kind, &entry.path),
        address,
        realm,
        body: shape.body,
        later: shape.later,
    }))
}

/// What people call it: a resource group is unique enough without its subscription, what is in a tenant is not.
fn label(kind: &str, path: &[String]) -> String {
    match kind {
        "Application" | "ServicePrincipal" | "PolicyDefinition" => path.join("/"),
        _ => path[path.len().min(2) - 1..].join("/"),
    }
}

impl Factory {
    /// The body of what has an id of its own.
    fn shape(&self, entry: &Entry, document: &Document) -> Result<Shape, IdError> {
        let body = match document {
            Document::Tenant(tenant) => {
                let shown = tenant.display_name.as_deref();
                json!({ "properties": { "displayName": shown.unwrap_or(tenant.name.as_str()) } })
            }
            Document::Region(region) => {
                let shown = region.display_name.as_deref();
                let zones: Vec<&str> = region.zones.iter().map(|zone| zone.as_str()).collect();
                json!({ "properties": { "displayName": shown.unwrap_or(region.name.as_str()), "zones": zones } })
            }
            Document::Subscription(subscription) => {
                json!({ "properties": { "displayName": subscription.name.as_str(), "tenant": subscription.tenant.text } })
            }
            Document::ResourceGroup(group) => {
                json!({ "location": group.location.text, "tags": self.tags(&group.tags) })
            }
            Document::Gallery(gallery) => {
                let properties = without_null(json!({ "description": gallery.description }));
                json!({ "location": self.location(entry), "tags": self.tags(&gallery.tags), "properties": properties })
            }
            Document::ImageDefinition(image) => self.image_definition(entry, image)?,
            Document::ImageTemplate(template) => {
                let properties = self.template(template)?;
                json!({ "location": self.location(entry), "tags": self.tags(&template.tags), "properties": properties })
            }
            Document::Application(application) => return Ok(self.application(application)),
            Document::ServicePrincipal(principal) => return self.service_principal(principal),
            Document::Pipeline(pipeline) => return self.pipeline(entry, pipeline),
            Document::PolicyDefinition(policy) => return Ok(self.policy_definition(policy)),
            Document::Factory(_) | Document::RoleAssignment(_) | Document::PolicyAssignment(_) => {
                Value::Null
            }
        };
        Ok(Shape::of(body))
    }

    fn image_definition(&self, entry: &Entry, image: &ImageDefinition) -> Result<Value, IdError> {
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
        let mut tags = self.tags(&image.tags);
        if let Some(pipeline) = self.pipeline_to(entry)? {
            tags[PIPELINE_TAG] = pipeline.to_string().into();
        }
        Ok(json!({ "location": self.location(entry), "tags": tags, "properties": properties }))
    }

    /// A document's own tags and the factory's.
    fn tags(&self, own: &Tags) -> Value {
        let mut tags = own.clone();
        tags.insert(FACTORY_TAG.into(), self.name.clone());
        json!(tags)
    }

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
            "Application" | "ServicePrincipal" => {
                let kind = if kind == "Application" {
                    "applications"
                } else {
                    "servicePrincipals"
                };
                let id = root.extension("Bullion.Factory", kind, name)?;
                return Ok((id, Realm::Tenant(self.tenant(&entry.path[0]))));
            }
            _ => {}
        }
        let (subscription, tenant) = self.subscription(&entry.path[0]);
        let mut id = ResourceId::subscription_scope(subscription);
        for (depth, part) in entry.path.iter().enumerate().skip(1) {
            id = match (depth, kind) {
                (1, "PolicyDefinition") => {
                    id.extension("Microsoft.Authorization", "policyDefinitions", part)?
                }
                (1, _) => id.child("resourceGroups", part)?,
                (2, "ImageTemplate") => {
                    id.extension("Microsoft.VirtualMachineImages", "imageTemplates", part)?
                }
                (2, "Pipeline") => id.extension("Bullion.Factory", "pipelines", part)?,
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
                self.tenant(&found.tenant.text),
            ),
            _ => (SubscriptionId::new(uuid::Uuid::nil()), String::new()),
        }
    }

    /// A tenant's name as it is declared, however it is referred to.
    fn tenant(&self, written: &str) -> String {
        let found = self.names.resolve("Tenant", written).ok();
        found.map_or(written, Entry::name).to_owned()
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
            Document::Pipeline(pipeline) => (&None, self.parent(&pipeline.resource_group)),
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

/// The digest in hexadecimal, as Azure's `sha256Checksum` is.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
