//! Galleries that are shared beyond role assignments: who is let in, and which resources the names mean by which
//! consumers know them (`/SharedGalleries/…`, `/CommunityGalleries/…`).
//!
//! Their owner decided that they are read; so they are read here without a right of the reader's own. Nothing that is
//! not open to the consumer may leave this module.

use access::{Action, Permit, SystemReason};
use catalog::{AuthStore, Catalog, CatalogError, Pages, Resource};
use serde_json::Value;
use wire::{ResourceId, SubscriptionId, TenantId};

const GALLERY: &str = "Microsoft.Compute/galleries";
const UUID_CHARS: usize = 36;

/// Who wants to use a gallery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Consumer {
    pub tenant: TenantId,
    pub subscription: SubscriptionId,
}

/// The name by which consumers know a gallery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GalleryName {
    /// `{subscription}-{GALLERY}`: shared with subscriptions and tenants.
    Shared(String),
    /// `{prefix}-{uuid}`: shared with everybody.
    Community(String),
}

/// An image of such a gallery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageName {
    pub gallery: GalleryName,
    pub image: String,
    /// None for the latest.
    pub version: Option<String>,
}

/// Whom of a consumer a gallery is shared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    Subscription,
    Tenant,
}

impl GalleryName {
    /// `/SharedGalleries/{name}` or `/CommunityGalleries/{name}`.
    pub fn unique_id(&self) -> String {
        match self {
            GalleryName::Shared(name) => format!("/SharedGalleries/{name}"),
            GalleryName::Community(name) => format!("/CommunityGalleries/{name}"),
        }
    }
}

impl ImageName {
    /// `{gallery}/Images/{image}` or `…/Versions/{version}` below it.
    pub fn parse(text: &str) -> Option<ImageName> {
        let id = ResourceId::parse(text).ok()?;
        let (image, version) = match id.part("Versions") {
            Some(version) => (id.parent()?, Some(version.to_owned())),
            None => (id.clone(), None),
        };
        let gallery = image.parent()?;
        let is_whole = gallery.parent().is_some_and(|above| above.is_root());
        let gallery = match (
            gallery.part("SharedGalleries"),
            gallery.part("CommunityGalleries"),
        ) {
            (Some(name), None) => GalleryName::Shared(name.to_owned()),
            (None, Some(name)) => GalleryName::Community(name.to_owned()),
            _ => return None,
        };
        let version = version.filter(|version| !version.eq_ignore_ascii_case("latest"));
        is_whole.then_some(ImageName {
            gallery,
            image: image.part("Images")?.to_owned(),
            version,
        })
    }
}

/// The public name of a gallery that is open to everybody.
pub fn public_name(gallery: &Resource) -> Option<&str> {
    let profile = &gallery.properties["sharingProfile"];
    let info = &profile["communityGalleryInfo"];
    let open = profile["permissions"] == "Community" && info["communityGalleryEnabled"] == true;
    info["publicNames"][0].as_str().filter(|_| open)
}

/// The name of a gallery that is shared with some.
pub fn shared_name(gallery: &Resource) -> Option<&str> {
    gallery
        .properties
        .pointer("/identifier/uniqueName")
        .and_then(Value::as_str)
}

/// How far a gallery is shared with the consumer: with its subscription, its tenant, or both.
pub fn reach(gallery: &Resource, consumer: &Consumer) -> Vec<Reach> {
    let profile = &gallery.properties["sharingProfile"];
    let groups = profile["groups"].as_array().map_or(&[][..], Vec::as_slice);
    let named = |kind: &str, id: &str| {
        profile["permissions"] == "Groups"
            && groups
                .iter()
                .filter(|group| group["type"] == kind)
                .filter_map(|group| group["ids"].as_array())
                .flatten()
                .any(|known| {
                    known
                        .as_str()
                        .is_some_and(|known| known.eq_ignore_ascii_case(id))
                })
    };
    let subscription = named("Subscriptions", &consumer.subscription.to_string());
    let tenant = named("AADTenants", &consumer.tenant.to_string());
    let reach = [(subscription, Reach::Subscription), (tenant, Reach::Tenant)];
    reach
        .into_iter()
        .filter_map(|(open, reach)| open.then_some(reach))
        .collect()
}

fn is_open(gallery: &Resource, name: &GalleryName, consumer: &Consumer) -> bool {
    let same = |known: Option<&str>, name: &str| {
        known.is_some_and(|known| known.eq_ignore_ascii_case(name))
    };
    match name {
        GalleryName::Shared(name) => {
            same(shared_name(gallery), name) && !reach(gallery, consumer).is_empty()
        }
        GalleryName::Community(name) => same(public_name(gallery), name),
    }
}

/// The gallery of a name, if it is open to the consumer.
pub async fn find(
    catalog: &dyn Catalog,
    auth: &dyn AuthStore,
    consumer: &Consumer,
    name: &GalleryName,
) -> Result<Option<Resource>, CatalogError> {
    let galleries = match name {
        GalleryName::Community(_) => every_gallery(catalog, auth).await?,
        GalleryName::Shared(name) => {
            let owner = name.get(..UUID_CHARS).and_then(|text| text.parse().ok());
            let Some(owner): Option<SubscriptionId> = owner else {
                return Ok(None);
            };
            let Some(tenant) = auth.subscription_tenant(owner).await? else {
                return Ok(None);
            };
            list(
                catalog,
                ResourceId::subscription_scope(owner),
                tenant,
                GALLERY,
            )
            .await?
        }
    };
    let mut open = galleries
        .into_iter()
        .filter(|gallery| is_open(gallery, name, consumer));
    Ok(open.next())
}

/// All galleries of all tenants. What is open of them is for the caller to choose, by [`reach`] or [`public_name`].
pub async fn every_gallery(
    catalog: &dyn Catalog,
    auth: &dyn AuthStore,
) -> Result<Vec<Resource>, CatalogError> {
    let mut all = Vec::new();
    for tenant in auth.tenants().await? {
        all.extend(list(catalog, ResourceId::root(), tenant.tenant, GALLERY).await?);
    }
    Ok(all)
}

/// What of a type is in an open gallery: its definitions, or its versions in the order of their numbers.
pub async fn inside(
    catalog: &dyn Catalog,
    gallery: &Resource,
    kind: &str,
) -> Result<Vec<Resource>, CatalogError> {
    list(catalog, gallery.id.clone(), gallery.tenant, kind).await
}

async fn list(
    catalog: &dyn Catalog,
    scope: ResourceId,
    tenant: TenantId,
    kind: &str,
) -> Result<Vec<Resource>, CatalogError> {
    let action = Action::new(format!("{kind}/read"));
    let permit = Permit::system(SystemReason::Reconcile, action, scope, tenant);
    Pages::of(catalog, &permit, kind).all().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_images() {
        let check = |text: &str, expected: Option<(&str, &str, Option<&str>)>| {
            let seen = ImageName::parse(text);
            let seen = seen.as_ref().map(|name| {
                let gallery = match &name.gallery {
                    GalleryName::Shared(name) | GalleryName::Community(name) => name.as_str(),
                };
                (gallery, name.image.as_str(), name.version.as_deref())
            });
            assert_eq!(seen, expected, "{text}");
        };
        check("/SharedGalleries/s-G/Images/d", Some(("s-G", "d", None)));
        check(
            "/sharedgalleries/s-G/images/d/versions/1.0.0",
            Some(("s-G", "d", Some("1.0.0"))),
        );
        check(
            "/CommunityGalleries/p-1/Images/d/Versions/latest",
            Some(("p-1", "d", None)),
        );
        check("/CommunityGalleries/p-1", None);
        check("/CommunityGalleries/p-1/Images", None);
        check("/x/y/SharedGalleries/p/Images/d", None);
        check("SharedGalleries/p/Images/d", None);
    }
}
