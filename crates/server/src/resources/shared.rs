//! Galleries of others that are open to a subscription, as their consumers read them:
//! `…/locations/{location}/sharedGalleries` and `communityGalleries`, and the Resource Graph query that lists the latter.
//!
//! A gallery is seen in its own region and in those that one of its versions is replicated to. Who may not see one is
//! answered as if it were not there.

use std::sync::Arc;

use catalog::Resource;
use factory::shared::{self, Consumer, GalleryName, Reach};
use serde_json::{Map, Value, json};
use wire::compute::PublishingProfile;
use wire::{ArmError, Location, ProvisioningState, ResourceId, VersionNumber};

use super::{Reply, images, soft_delete, versions};
use crate::errors;
use crate::operation::Call;
use crate::state::Server;

pub const SHARED: &str = "Microsoft.Compute/locations/sharedGalleries";
pub const COMMUNITY: &str = "Microsoft.Compute/locations/communityGalleries";
pub const GRAPH: &str = "Microsoft.ResourceGraph/resources";
/// What one answer of the graph holds.
const TOP_MAX: usize = 1000;
const TOP_DEFAULT: usize = 100;
const CLAUSES_MAX: usize = 8;
const COMMUNITY_TABLE: &str = "communitygalleryresources";
const COMMUNITY_TYPE: &str = "microsoft.compute/locations/communitygalleries";

/// One open gallery, seen from a region.
struct View {
    name: GalleryName,
    region: Location,
    gallery: Resource,
    versions: Vec<Resource>,
}

pub fn consumer(permit: &access::Permit) -> Option<Consumer> {
    Some(Consumer {
        tenant: permit.tenant(),
        subscription: permit.scope().subscription()?,
    })
}

fn region(call: &Call) -> Location {
    Location::new(call.id.part("locations").unwrap_or_default())
}

/// `sharedTo=tenant` asks for what is shared with the tenant; without it, with the subscription.
fn asked(call: &Call) -> Reach {
    match call.query.get("sharedTo") {
        Some(to) if to.eq_ignore_ascii_case("tenant") => Reach::Tenant,
        _ => Reach::Subscription,
    }
}

/// Whether a machine of the region could be made from the version.
fn is_in(version: &Resource, region: &Location) -> bool {
    let profile = version.properties["publishingProfile"].clone();
    let profile: PublishingProfile = serde_json::from_value(profile).unwrap_or_default();
    let targets = profile.target_regions.iter().any(|one| one.name == *region);
    version.state == ProvisioningState::Succeeded && !soft_delete::is_deleted(version) && targets
}

fn is_seen(gallery: &Resource, versions: &[Resource], region: &Location) -> bool {
    let home = Location::new(gallery.location.clone().unwrap_or_default());
    home == *region || versions.iter().any(|version| is_in(version, region))
}

async fn versions_of(server: &Server, gallery: &Resource) -> Result<Vec<Resource>, ArmError> {
    let found = shared::inside(&*server.catalog, gallery, versions::KIND).await;
    found.map_err(errors::catalog)
}

/// The gallery that the call's path names, if it is open to the call's subscription and seen in the region.
async fn view(server: &Server, call: &Call) -> Result<View, ArmError> {
    let missing = || errors::not_found(&call.id);
    let name = match (
        call.id.part("sharedGalleries"),
        call.id.part("communityGalleries"),
    ) {
        (Some(name), None) => GalleryName::Shared(name.to_string()),
        (None, Some(name)) => GalleryName::Community(name.to_string()),
        _ => return Err(missing()),
    };
    let consumer = consumer(&call.permit).ok_or_else(missing)?;
    let found = shared::find(&*server.catalog, &*server.auth, &consumer, &name).await;
    let gallery = found.map_err(errors::catalog)?.ok_or_else(missing)?;
    // The name as its owner's gallery has it, not in the caller's case.
    let name = match name {
        GalleryName::Shared(asked) => {
            GalleryName::Shared(shared::shared_name(&gallery).map_or(asked, str::to_string))
        }
        GalleryName::Community(asked) => {
            GalleryName::Community(shared::public_name(&gallery).map_or(asked, str::to_string))
        }
    };
    let versions = versions_of(server, &gallery).await?;
    let region = region(call);
    if !is_seen(&gallery, &versions, &region) {
        return Err(missing());
    }
    Ok(View {
        name,
        region,
        gallery,
        versions,
    })
}

impl View {
    /// Members that every level has; `path` is what follows the gallery's unique id.
    fn shown(&self, name: &str, path: &str, kind: &str, properties: Value) -> Value {
        let family = match &self.name {
            GalleryName::Shared(_) => "shared",
            GalleryName::Community(_) => "community",
        };
        json!({
            "name": name,
            "location": self.region.as_str(),
            "type": format!("Microsoft.Compute/locations/{family}{kind}"),
            "identifier": { "uniqueId": format!("{}{path}", self.name.unique_id()) },
            "properties": properties,
        })
    }

    fn gallery_shown(&self) -> Value {
        let mut properties = json!({ "artifactTags": self.gallery.tags });
        let name = match &self.name {
            GalleryName::Shared(name) => name,
            GalleryName::Community(name) => {
                properties["communityMetadata"] = community_metadata(&self.gallery);
                name
            }
        };
        self.shown(name, "", "Gallery", properties)
    }

    fn image_shown(&self, definition: &Resource) -> Value {
        let kept = [
            "osType",
            "osState",
            "hyperVGeneration",
            "identifier",
            "architecture",
            "features",
            "recommended",
            "disallowed",
            "endOfLifeDate",
            "purchasePlan",
            "privacyStatementUri",
            "eula",
        ];
        let mut properties: Map<String, Value> = Map::new();
        for key in kept {
            if let Some(value) = definition.properties.get(key) {
                properties.insert(key.into(), value.clone());
            }
        }
        properties.insert("artifactTags".into(), json!(definition.tags));
        let name = definition.id.name();
        let path = format!("/Images/{name}");
        self.shown(name, &path, "GalleryImage", Value::Object(properties))
    }

    fn version_shown(&self, version: &Resource) -> Value {
        let profile = &version.properties["publishingProfile"];
        let storage = &version.properties["storageProfile"];
        let mut disks = json!({ "osDiskImage": disk_shown(&storage["osDiskImage"]) });
        if let Some(data) = storage["dataDiskImages"].as_array() {
            let shown = data.iter().map(|disk| {
                let mut shown = disk_shown(disk);
                shown["lun"] = disk["lun"].clone();
                shown
            });
            disks["dataDiskImages"] = shown.collect();
        }
        let mut properties = json!({
            "publishedDate": profile["publishedDate"],
            "excludeFromLatest": profile["excludeFromLatest"] == true,
            "storageProfile": disks,
            "artifactTags": version.tags,
        });
        if let Some(end) = profile.get("endOfLifeDate") {
            properties["endOfLifeDate"] = end.clone();
        }
        let definition = version.id.parent();
        let image = definition.as_ref().map_or("", ResourceId::name);
        let name = version.id.name();
        let path = format!("/Images/{image}/Versions/{name}");
        self.shown(name, &path, "GalleryImageVersion", properties)
    }

    /// The versions of an image that the region has; of a community gallery only the latest, as in Azure.
    fn versions_of(&self, image: &str) -> Vec<&Resource> {
        let of_image = |version: &&Resource| {
            let definition = version.id.parent();
            definition.is_some_and(|one| one.name().eq_ignore_ascii_case(image))
                && is_in(version, &self.region)
        };
        self.versions.iter().filter(of_image).collect()
    }

    fn listed_versions(&self, image: &str) -> Vec<&Resource> {
        let all = self.versions_of(image);
        if matches!(self.name, GalleryName::Shared(_)) {
            return all;
        }
        let shown = |version: &&&Resource| {
            version.properties["publishingProfile"]["excludeFromLatest"] != true
        };
        let number = |version: &&&Resource| version.id.name().parse::<VersionNumber>().ok();
        let latest = all.iter().filter(shown).max_by_key(number);
        latest.copied().into_iter().collect()
    }
}

fn disk_shown(disk: &Value) -> Value {
    let caching = disk["hostCaching"].as_str().unwrap_or("None");
    json!({ "diskSizeGB": disk["sizeInGB"], "hostCaching": caching })
}

fn community_metadata(gallery: &Resource) -> Value {
    let info = &gallery.properties["sharingProfile"]["communityGalleryInfo"];
    json!({
        "publisherUri": info["publisherUri"],
        "publisherContact": info["publisherContact"],
        "eula": info["eula"],
        "publicNames": info["publicNames"],
    })
}

/// Galleries that are shared with the subscription or its tenant.
pub async fn galleries(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let region = region(&call);
    let mut value = Vec::new();
    if let Some(consumer) = consumer(&call.permit) {
        let all = shared::every_gallery(&*server.catalog, &*server.auth).await;
        for gallery in all.map_err(errors::catalog)? {
            if !shared::reach(&gallery, &consumer).contains(&asked(&call)) {
                continue;
            }
            let versions = versions_of(&server, &gallery).await?;
            let name = shared::shared_name(&gallery).map(str::to_string);
            if let (true, Some(name)) = (is_seen(&gallery, &versions, &region), name) {
                let (name, region) = (GalleryName::Shared(name), region.clone());
                let view = View {
                    name,
                    region,
                    gallery,
                    versions,
                };
                value.push(view.gallery_shown());
            }
        }
    }
    Ok(Reply::ok(json!({ "value": value })))
}

pub async fn gallery(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    Ok(Reply::ok(view(&server, &call).await?.gallery_shown()))
}

pub async fn definitions(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let view = view(&server, &call).await?;
    let all = shared::inside(&*server.catalog, &view.gallery, images::KIND).await;
    let all = all.map_err(errors::catalog)?;
    let value: Vec<Value> = all.iter().map(|one| view.image_shown(one)).collect();
    Ok(Reply::ok(json!({ "value": value })))
}

pub async fn definition(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let view = view(&server, &call).await?;
    let name = call.id.part("images").unwrap_or_default();
    let all = shared::inside(&*server.catalog, &view.gallery, images::KIND).await;
    let all = all.map_err(errors::catalog)?;
    let found = all
        .iter()
        .find(|one| one.id.name().eq_ignore_ascii_case(name));
    match found {
        Some(found) => Ok(Reply::ok(view.image_shown(found))),
        None => Err(errors::not_found(&call.id)),
    }
}

pub async fn all_versions(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let view = view(&server, &call).await?;
    let image = call.id.part("images").unwrap_or_default();
    let listed = view.listed_versions(image);
    let value: Vec<Value> = listed.iter().map(|one| view.version_shown(one)).collect();
    Ok(Reply::ok(json!({ "value": value })))
}

pub async fn version(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let view = view(&server, &call).await?;
    let image = call.id.part("images").unwrap_or_default();
    let all = view.versions_of(image);
    let found = all
        .iter()
        .find(|one| one.id.name().eq_ignore_ascii_case(call.id.name()));
    match found {
        Some(found) => Ok(Reply::ok(view.version_shown(found))),
        None => Err(errors::not_found(&call.id)),
    }
}

/// The one query of Azure Resource Graph that is answered: which community galleries there are. Everybody sees them.
pub async fn query(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let text = call.body["query"].as_str().unwrap_or_default();
    let wanted = clauses(text).ok_or_else(|| {
        errors::bad_request(format!(
            "This server answers one kind of query: {COMMUNITY_TABLE} | where type == '{COMMUNITY_TYPE}' | \
             where location == '…' | where name == '…'."
        ))
    })?;
    let options = &call.body["options"];
    let top = options["$top"]
        .as_u64()
        .map_or(TOP_DEFAULT, |top| top as usize);
    let skip = match options["$skipToken"].as_str() {
        None => 0,
        Some(token) => token
            .parse::<usize>()
            .map_err(|_| errors::invalid("options.$skipToken", "The $skipToken is not valid."))?,
    };
    let all = shared::every_gallery(&*server.catalog, &*server.auth).await;
    let mut rows: Vec<Value> = Vec::new();
    for gallery in all.map_err(errors::catalog)? {
        if shared::public_name(&gallery).is_none() {
            continue;
        }
        let versions = versions_of(&server, &gallery).await?;
        for region in server.work.regions() {
            if is_seen(&gallery, &versions, &region) {
                rows.extend(row(&gallery, &region).filter(|row| fits(row, &wanted)));
            }
        }
    }
    let total = rows.len();
    let page: Vec<Value> = rows
        .into_iter()
        .skip(skip)
        .take(top.clamp(1, TOP_MAX))
        .collect();
    let end = skip + page.len();
    let mut answer = json!({
        "totalRecords": total,
        "count": page.len(),
        "data": page,
        "facets": [],
        "resultTruncated": "false",
    });
    if end < total {
        answer["$skipToken"] = end.to_string().into();
    }
    Ok(Reply::ok(answer))
}

fn row(gallery: &Resource, region: &Location) -> Option<Value> {
    let name = shared::public_name(gallery)?;
    let location = region.folded();
    Some(json!({
        "id": format!("/providers/Microsoft.Compute/locations/{location}/communityGalleries/{name}"),
        "name": name,
        "type": COMMUNITY_TYPE,
        "location": location,
        "properties": {
            "communityMetadata": community_metadata(gallery),
            "identifier": { "uniqueId": format!("/CommunityGalleries/{name}") },
            "artifactTags": gallery.tags,
        },
    }))
}

/// The pairs that a query's rows must have, `None` if it is another query.
fn clauses(text: &str) -> Option<Vec<(String, String)>> {
    let mut parts = text.split('|').map(str::trim);
    let table = parts.next()?;
    if !table.eq_ignore_ascii_case(COMMUNITY_TABLE) {
        return None;
    }
    let mut wanted = Vec::new();
    for part in parts {
        let clause = part.strip_prefix("where ")?;
        let (name, value) = clause
            .split_once("==")
            .or_else(|| clause.split_once("=~"))?;
        let value = value.trim();
        let value = value
            .strip_prefix('\'')
            .and_then(|value| value.strip_suffix('\''))?;
        let name = name.trim().to_lowercase();
        let known = ["type", "location", "name"].contains(&name.as_str());
        if !known || value.contains('\'') || wanted.len() == CLAUSES_MAX {
            return None;
        }
        wanted.push((name, value.to_string()));
    }
    Some(wanted)
}

fn fits(row: &Value, wanted: &[(String, String)]) -> bool {
    wanted.iter().all(|(name, value)| {
        row[name]
            .as_str()
            .is_some_and(|known| known.eq_ignore_ascii_case(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let check = |text: &str, expected: Option<usize>| {
            assert_eq!(clauses(text).map(|found| found.len()), expected, "{text}");
        };
        check("communitygalleryresources", Some(0));
        check(
            "communitygalleryresources| where type == 'microsoft.compute/locations/communitygalleries' \
             | where location == 'north' ",
            Some(2),
        );
        check("communitygalleryresources | where name =~ 'x'", Some(1));
        check("resources | where type == 'x'", None);
        check("communitygalleryresources | where type == x", None);
        check("communitygalleryresources | where size == '1'", None);
        check("communitygalleryresources | project name", None);
        check("", None);
    }
}
