//! `Microsoft.Compute/galleries/images`: image definitions.
//!
//! What an image is (OS, state, generation, publisher/offer/sku) is fixed with the definition; the triple is
//! unique within the gallery.

use std::sync::Arc;

use catalog::UniqueKey;
use wire::compute::ImageDefinitionProperties;
use wire::{ArmError, NameRule};

use super::definition_rules::{check, check_fixed, defaults, need_members};
use super::version_rules::check_end_of_life;
use super::{
    Reply, delete, find, list, present, properties, put_reply, settle_location, show, soft_delete,
    store_unique, tracked,
};
use crate::body::{self, ResourceBody};
use crate::errors;
use crate::limits;
use crate::operation::Call;
use crate::state::Server;

pub const KIND: &str = "Microsoft.Compute/galleries/images";

/// What an update that leaves them out does not take away.
const KEPT: [&str; 10] = [
    "osType",
    "osState",
    "hyperVGeneration",
    "identifier",
    "architecture",
    "features",
    "purchasePlan",
    "privacyStatementUri",
    "releaseNoteUri",
    "eula",
];
pub async fn put(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    NameRule::ImageDefinition
        .check(call.id.name())
        .map_err(|error| errors::invalid("galleryImageName", error.to_string()))?;
    let mut body = ResourceBody::parse(&call.body, &call.id)?;
    let old = find(&server, &call).await?;
    let location = settle_location(&call, &body, old.as_ref())?;
    let kept = old.as_ref().map(properties);
    body::keep(&mut body.properties, kept.as_ref(), &KEPT);
    if kept.is_none() {
        defaults(&call, &mut body.properties);
        soft_delete::need_gallery_location(&server, &call, &location).await?;
        limits::need_room(&server, &call, KIND, &location).await?;
    }
    need_members(&body.properties)?;
    let definition = body::typed::<ImageDefinitionProperties>(&body.properties)?;
    let identifier = &definition.identifier;
    for (member, rule, value) in [
        ("publisher", NameRule::Publisher, &identifier.publisher),
        ("offer", NameRule::OfferOrSku, &identifier.offer),
        ("sku", NameRule::OfferOrSku, &identifier.sku),
    ] {
        rule.check(value).map_err(|error| {
            errors::invalid(
                &format!("properties.identifier.{member}"),
                error.to_string(),
            )
        })?;
    }
    if let Some(kept) = &kept {
        check_fixed(kept, &body.properties)?;
    }
    check(&body.properties)?;
    let path = "properties.endOfLifeDate";
    check_end_of_life(kept.as_ref(), &body.properties, path)?;
    // Said of one update, not of the image.
    body.properties.remove("allowUpdateImage");
    let gallery = call.id.parent().map(|gallery| gallery.folded().to_string());
    let gallery = gallery.unwrap_or_default();
    let key = [
        gallery.as_str(),
        &identifier.publisher,
        &identifier.offer,
        &identifier.sku,
    ];
    let draft =
        tracked(body, &location, old.as_ref()).unique(UniqueKey::new("image-identifier", &key));
    let taken = format!(
        "Gallery image: {} identified by (publisher:{}, offer:{}, sku:{}) already exists. Choose a \
         different publisher, offer, sku combination.",
        call.id.name(),
        identifier.publisher,
        identifier.offer,
        identifier.sku
    );
    let put = store_unique(&server, &call, old.as_ref(), draft, &taken).await?;
    Ok(put_reply(&put))
}

pub async fn get(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    show(&server, &call).await
}

pub async fn remove(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    delete(&server, &call).await
}

pub async fn all(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    list(&server, &call, KIND, |image| Some(present(image))).await
}
