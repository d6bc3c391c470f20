//! Galleries beyond the basics: PATCH, the rules of versions and definitions, soft delete, sharing with others.

use serde_json::{Value, json};

use super::galleries::{definition, definition_as, definition_body, publish};
use super::site::{GROUP, SUBSCRIPTION, Site};
use super::tenancy::{SUBSCRIPTION_2, subscription, tenant};

pub const GALLERY: &str = "/subscriptions/11111111-1111-4111-8111-111111111111/resourceGroups/factory/providers/Microsoft.Compute/galleries/g";

pub async fn check(site: &Site, method: &str, path: &str, body: Value, status: u16, part: &str) {
    let seen = site.ask(method, path, Some(body.clone())).await;
    assert_eq!(
        seen.status, status,
        "{method} {path} {body}: {:?}",
        seen.body
    );
    let told = seen.message().contains(part) || seen.code() == part;
    assert!(told, "{method} {path} {body}: {:?}", seen.body);
}

fn names(list: &Value) -> Vec<&str> {
    let items = list["value"].as_array().unwrap();
    items
        .iter()
        .map(|item| item["name"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn a_patch_changes_what_it_names() {
    let site = Site::start().await.with_group().await;
    let image = definition(&site, GROUP).await;
    let version = format!("{image}/versions/1.0.0");
    publish(&site, &version, &["north", "south"]).await;
    check(
        &site,
        "PATCH",
        GALLERY,
        json!({ "tags": { "a": "1" } }),
        200,
        "",
    )
    .await;
    let identity = json!({ "identity": { "type": "SystemAssigned" } });
    check(&site, "PATCH", GALLERY, identity, 200, "").await;
    let body = json!({ "tags": { "b": "2" }, "properties": { "description": "d" } });
    check(&site, "PATCH", GALLERY, body, 200, "").await;
    let shown = site.get(GALLERY).await.body;
    assert_eq!(shown["tags"], json!({ "b": "2" }));
    assert_eq!(shown["properties"]["description"], "d");
    assert_eq!(shown["identity"]["type"], "SystemAssigned");

    let recommended = json!({ "properties": { "recommended": { "vCPUs": { "min": 2 } } } });
    check(&site, "PATCH", &image, recommended, 200, "").await;
    let body = json!({ "properties": { "osType": "Windows" } });
    check(
        &site,
        "PATCH",
        &image,
        body,
        409,
        "PropertyChangeNotAllowed",
    )
    .await;
    assert_eq!(
        site.get(&image).await.body["properties"]["osState"],
        "Generalized"
    );

    let body = json!({ "properties": { "publishingProfile": { "excludeFromLatest": true } } });
    check(&site, "PATCH", &version, body, 200, "").await;
    let shown = site.get(&version).await.body;
    let profile = &shown["properties"]["publishingProfile"];
    assert_eq!(profile["excludeFromLatest"], true);
    assert_eq!(profile["targetRegions"].as_array().unwrap().len(), 2);
    assert_eq!(shown["properties"]["bullion"]["diskDigest"], "bd1:00");

    check(
        &site,
        "PATCH",
        &format!("{GALLERY}x"),
        json!({}),
        404,
        "was not found",
    )
    .await;
    check(&site, "PATCH", GALLERY, json!([]), 400, "JSON object").await;
}

#[tokio::test]
async fn versions_say_where_and_how_they_are_kept() {
    let site = Site::start().await.with_group().await;
    let image = definition(&site, GROUP).await;
    let version = format!("{image}/versions/1.0.0");
    publish(&site, &version, &["north", "south"]).await;
    let source = json!({ "source": { "id": version } });
    let new = |profile: Value| {
        let properties = json!({ "publishingProfile": profile, "storageProfile": source });
        json!({ "location": "north", "properties": properties })
    };
    let path = format!("{image}/versions/2.0.0");
    let regions = |storage: &str| json!({ "targetRegions": [{ "name": "north" }, { "name": "south", "storageAccountType": storage }] });
    let cases = [
        (
            json!({ "storageAccountType": "Floppy" }),
            "must be one of Standard_LRS",
        ),
        (
            json!({ "storageAccountType": "Standard_LRS", "storageAccountStrategy": "PreferStandard_ZRS" }),
            "cannot be used together",
        ),
        (
            regions("standard_zrs"),
            "ZRS storage account type is not supported in this region",
        ),
        (
            json!({ "replicationMode": "Deep" }),
            "must be one of Full, Shallow",
        ),
        (
            json!({ "replicationMode": "shallow", "targetRegions": [{ "name": "north" }, { "name": "south" }] }),
            "source region only",
        ),
        (
            json!({ "replicationMode": "Shallow", "targetRegions": [{ "name": "north", "regionalReplicaCount": 2 }] }),
            "one replica",
        ),
        (
            json!({ "targetExtendedLocations": [{ "name": "edge" }] }),
            "edge zones",
        ),
        (json!({ "replicaCount": 101 }), "between 1 and 100"),
    ];
    for (profile, part) in cases {
        check(&site, "PUT", &path, new(profile), 400, part).await;
    }
    let zones = json!({ "storageAccountStrategy": "preferstandard_zrs",
        "targetRegions": [{ "name": "north" }, { "name": "south" }] });
    let made = site.put(&path, new(zones)).await;
    assert_eq!(made.status, 201, "{:?}", made.body);
    site.wait(made.header("azure-asyncoperation")).await;
    let shown = site.get(&path).await.body;
    let profile = &shown["properties"]["publishingProfile"];
    assert_eq!(profile["storageAccountStrategy"], "PreferStandard_ZRS");
    assert_eq!(
        profile["targetRegions"][0]["storageAccountType"],
        "Standard_ZRS"
    );
    assert_eq!(
        profile["targetRegions"][1]["storageAccountType"],
        "Standard_LRS"
    );
    assert_eq!(
        shown["properties"]["safetyProfile"]["reportedForPolicyViolation"],
        false
    );

    let fewer = |safety: Value| {
        json!({ "properties": { "safetyProfile": safety,
            "publishingProfile": { "targetRegions": [{ "name": "north" }] } } })
    };
    check(
        &site,
        "PATCH",
        &path,
        fewer(json!({})),
        409,
        "allowDeletionOfReplicatedLocations",
    )
    .await;
    let wrong = fewer(json!({ "allowDeletionOfReplicatedLocations": "yes" }));
    check(&site, "PATCH", &path, wrong, 400, "true or false").await;
    let allowed = fewer(json!({ "allowDeletionOfReplicatedLocations": true }));
    check(&site, "PATCH", &path, allowed, 200, "").await;
}

#[tokio::test]
async fn definitions_say_what_fits_them() {
    let site = Site::start().await.with_group().await;
    let image = definition(&site, GROUP).await;
    let shown = site.get(&image).await.body;
    let trusted = json!([{ "name": "SecurityType", "value": "TrustedLaunchSupported" }]);
    assert_eq!(shown["properties"]["features"], trusted);
    let path = format!("{GALLERY}/images/other");
    let with = |key: &str, value: Value| {
        let mut body = definition_body();
        body["properties"]["identifier"]["sku"] = "other".into();
        body["properties"][key] = value;
        body
    };
    let feature = |name: &str, value: &str| json!([{ "name": name, "value": value }]);
    for (key, value, part) in [
        (
            "features",
            feature("SecurityType", "Vault"),
            "must be one of",
        ),
        ("features", json!([{ "name": "x" }]), "a name and a value"),
        (
            "features",
            json!([{ "name": "x", "value": "1" }, { "name": "X", "value": "2" }]),
            "given twice",
        ),
        (
            "disallowed",
            json!({ "diskTypes": ["Tape"] }),
            "disk type \"Tape\"",
        ),
        ("purchasePlan", json!({ "price": "1" }), "purchase plan"),
        ("endOfLifeDate", json!("2020-01-01"), "future date"),
        ("endOfLifeDate", json!("never"), "is not a date"),
        ("eula", json!(1), "must be a string"),
        ("architecture", json!("vax"), "one of x64, Arm64"),
    ] {
        check(&site, "PUT", &path, with(key, value), 400, part).await;
    }
    let mut first = with("features", feature("SecurityType", "TrustedLaunch"));
    first["properties"]["hyperVGeneration"] = "V1".into();
    check(&site, "PUT", &path, first, 400, "generation V2").await;
    let body = with("features", feature("IsHibernateSupported", "true"));
    check(&site, "PUT", &path, body, 201, "").await;
    let body = with("features", feature("SecurityType", "Standard"));
    check(&site, "PUT", &path, body.clone(), 409, "allowUpdateImage").await;
    let mut allowed = body;
    allowed["properties"]["allowUpdateImage"] = true.into();
    check(&site, "PUT", &path, allowed, 200, "").await;
}

#[tokio::test]
async fn a_soft_deleted_version_comes_back() {
    let site = Site::start().await.with_group().await;
    let image = definition(&site, GROUP).await;
    let version = format!("{image}/versions/1.0.0");
    publish(&site, &version, &["north"]).await;
    let policy = |policy: Value| json!({ "properties": { "softDeletePolicy": policy } });
    for (value, part) in [
        (json!({ "isSoftDeleteEnabled": 1 }), "true or false"),
        (
            json!({ "isSoftDeleteEnabled": true, "retentionPeriodInDays": 0 }),
            "out of range",
        ),
        (json!([]), "an object"),
    ] {
        check(&site, "PATCH", GALLERY, policy(value), 400, part).await;
    }
    let on =
        json!({ "isSoftDeleteEnabled": true, "retentionPeriodInDays": 3, "gracePeriodInDays": 4 });
    check(&site, "PATCH", GALLERY, policy(on), 200, "").await;
    let mut elsewhere = definition_body();
    elsewhere["location"] = "south".into();
    elsewhere["properties"]["identifier"]["sku"] = "south".into();
    let path = format!("{GALLERY}/images/south");
    check(&site, "PUT", &path, elsewhere, 409, "in one location").await;

    assert_eq!(site.delete(&version).await.status, 200);
    assert_eq!(site.delete(&version).await.status, 204);
    assert_eq!(site.get(&version).await.status, 404);
    assert!(names(&site.get(&format!("{image}/versions")).await.body).is_empty());
    let deleted = format!("{GALLERY}/softdeletedartifacttypes/images/artifacts/golden/versions");
    let listed = site.get(&deleted).await.body;
    assert_eq!(names(&listed), ["1.0.0"]);
    let one = &listed["value"][0]["properties"];
    assert_eq!(one["resourceArmId"], version);
    let time = |key: &str| {
        one[key]
            .as_str()
            .unwrap()
            .parse::<jiff::Timestamp>()
            .unwrap()
    };
    let hours = |from: &str, to: &str| (time(to) - time(from)).total(jiff::Unit::Hour).unwrap();
    assert_eq!(hours("softDeletedTime", "consumptionEndTime"), 72.0);
    assert_eq!(hours("consumptionEndTime", "hardDeletionTargetTime"), 96.0);

    let again = json!({ "location": "north", "properties": { "storageProfile": { "source": { "id": version } } } });
    check(&site, "PUT", &version, again, 409, "is soft-deleted").await;
    for path in [&image, GALLERY] {
        assert_eq!(site.delete(path).await.status, 409);
    }
    // What `az sig image-version undelete` sends.
    check(
        &site,
        "PUT",
        &version,
        json!({ "location": "north", "tags": {} }),
        200,
        "",
    )
    .await;
    assert_eq!(
        site.get(&version).await.body["properties"]["provisioningState"],
        "Succeeded"
    );
    assert!(names(&site.get(&deleted).await.body).is_empty());

    assert_eq!(site.delete(&version).await.status, 200);
    let restore = json!({ "properties": { "restore": true, "storageProfile": {} } });
    check(&site, "PATCH", &version, restore, 200, "").await;
    assert_eq!(site.delete(&version).await.status, 200);
    assert_eq!(site.delete(&format!("{deleted}/1.0.0")).await.status, 200);
    assert_eq!(site.delete(&format!("{deleted}/1.0.0")).await.status, 204);
    assert_eq!(site.delete(&image).await.status, 200);
}

#[tokio::test]
async fn soft_delete_ends_when_its_time_has_come() {
    use catalog::Catalog as _;
    use jobs::Reconciler as _;

    let site = Site::start().await.with_group().await;
    let image = definition(&site, GROUP).await;
    let version = format!("{image}/versions/1.0.0");
    publish(&site, &version, &["north"]).await;
    let on = json!({ "properties": { "softDeletePolicy": { "isSoftDeleteEnabled": true } } });
    check(&site, "PATCH", GALLERY, on, 200, "").await;
    assert_eq!(site.delete(&version).await.status, 200);
    let catalog = catalog::SqliteCatalog::open(&site.running.data.join("bullion.db"))
        .await
        .unwrap();
    let catalog = std::sync::Arc::new(catalog);
    let clock = std::sync::Arc::new(catalog::ManualClock::starting_at(jiff::Timestamp::now()));
    use crate::resources::soft_delete::{Purge, PurgeParts};
    let purge = Purge::new(PurgeParts {
        catalog: catalog.clone(),
        feed: catalog.clone(),
        auth: catalog.clone(),
        clock: clock.clone(),
    });
    let action = access::Action::new("Microsoft.Compute/galleries/images/versions/read");
    let id = wire::ResourceId::parse(&version).unwrap();
    let permit = access::Permit::system(access::SystemReason::Reconcile, action, id, site.tenant);
    let stop = jobs::CancelSource::new();
    for (hours, there) in [(6 * 24, true), (2 * 24, false)] {
        clock.advance(std::time::Duration::from_secs(hours * 3600));
        purge.reconcile(&stop.token()).await.unwrap();
        assert_eq!(catalog.get(&permit).await.is_ok(), there, "{hours}");
    }
}

fn gallery(permissions: &str) -> Value {
    json!({ "location": "north", "properties": { "sharingProfile": { "permissions": permissions } } })
}

pub fn seen_by(subscription: &str, rest: &str) -> String {
    format!("/subscriptions/{subscription}/providers/Microsoft.Compute/locations/{rest}")
}

#[tokio::test]
async fn a_gallery_is_shared_with_a_subscription_of_another_tenant() {
    let site = Site::start().await.with_group().await;
    let (other, token) = tenant(&site, "production").await;
    subscription(&site, &token, SUBSCRIPTION_2).await;
    assert_eq!(site.put(GALLERY, gallery("groups")).await.status, 201);
    let image = format!("{GALLERY}/images/golden");
    assert_eq!(site.put(&image, definition_body()).await.status, 201);
    publish(&site, &format!("{image}/versions/1.0.0"), &["north"]).await;
    let share = format!("{GALLERY}/share");
    let update = |operation: &str, kind: &str, id: &str| json!({ "operationType": operation, "groups": [{ "type": kind, "ids": [id] }] });
    for (body, status, part) in [
        (json!({}), 400, "could not be deserialized"),
        (json!({ "operationType": "Add" }), 400, "At least one"),
        (
            json!({ "operationType": "EnableCommunity" }),
            409,
            "permissions are Groups",
        ),
        (
            update("Add", "Subscriptions", "everyone"),
            400,
            "could not be deserialized",
        ),
    ] {
        check(&site, "POST", &share, body, status, part).await;
    }
    let unique = format!("{SUBSCRIPTION}-G");
    let list = seen_by(SUBSCRIPTION_2, "north/sharedGalleries");
    let one = format!("{list}/{unique}");
    let ask = async |path: &str| site.ask_as(&token, "GET", path, None).await;
    assert!(names(&ask(&list).await.body).is_empty());
    assert_eq!(ask(&one).await.status, 404);
    let add = update("Add", "Subscriptions", SUBSCRIPTION_2);
    check(&site, "POST", &share, add.clone(), 200, "").await;
    assert_eq!(names(&ask(&list).await.body), [unique.as_str()]);
    assert_eq!(
        ask(&one).await.body["identifier"]["uniqueId"],
        format!("/SharedGalleries/{unique}")
    );
    assert_eq!(names(&ask(&format!("{one}/images")).await.body), ["golden"]);
    let version = format!("{one}/images/golden/versions/1.0.0");
    assert_eq!(
        ask(&version).await.body["properties"]["publishedDate"],
        "2026-11-21T00:00:00Z"
    );
    assert_eq!(ask(&version).await.body["properties"].get("bullion"), None);
    assert_eq!(ask(&one.replace("/north/", "/south/")).await.status, 404);
    let groups = site
        .get(&format!(
            "{GALLERY}?api-version=2026-03-03&$expand=SharingProfile/Groups"
        ))
        .await;
    let groups = &groups.body["properties"]["sharingProfile"]["groups"];
    assert_eq!(groups[0]["ids"], json!([SUBSCRIPTION_2]));

    let own = definition_as(&site, &token, &GROUP.replace(SUBSCRIPTION, SUBSCRIPTION_2)).await;
    let body = |id: String| json!({ "location": "north", "properties": { "storageProfile": { "source": { "id": id } } } });
    let open = format!("/SharedGalleries/{unique}/Images/golden/Versions/1.0.0");
    let path = format!("{own}/versions/1.0.0");
    let made = site
        .ask_as(&token, "PUT", &path, Some(body(open.clone())))
        .await;
    assert_eq!(made.status, 201, "{:?}", made.body);
    assert_eq!(made.body["properties"]["bullion"]["diskDigest"], "bd1:00");
    let mut machine = super::galleries::machine("x");
    machine["properties"]["storageProfile"]["imageReference"] =
        json!({ "sharedGalleryImageId": open });
    let path = GROUP.replace(SUBSCRIPTION, SUBSCRIPTION_2)
        + "/providers/Microsoft.Compute/virtualMachines/m";
    let made = site
        .ask_as(&token, "PUT", &path, Some(machine.clone()))
        .await;
    assert_eq!(made.status, 201, "{:?}", made.body);

    check(
        &site,
        "POST",
        &share,
        update("Remove", "Subscriptions", SUBSCRIPTION_2),
        200,
        "",
    )
    .await;
    let path = format!("{own}/versions/1.0.1");
    let refused = site.ask_as(&token, "PUT", &path, Some(body(open))).await;
    assert_eq!(refused.status, 404, "{:?}", refused.body);
    check(
        &site,
        "POST",
        &share,
        update("Add", "AADTenants", &other.to_string()),
        200,
        "",
    )
    .await;
    assert!(names(&ask(&list).await.body).is_empty());
    let by_tenant = format!("{list}?api-version=2023-07-03&sharedTo=tenant");
    assert_eq!(names(&ask(&by_tenant).await.body), [unique.as_str()]);
    check(
        &site,
        "POST",
        &share,
        json!({ "operationType": "Reset" }),
        200,
        "",
    )
    .await;
    assert_eq!(ask(&one).await.status, 404);
    check(
        &site,
        "PUT",
        GALLERY,
        gallery("Private"),
        409,
        "permissions' is not allowed",
    )
    .await;
}

#[tokio::test]
async fn a_community_gallery_is_everybodys() {
    let site = Site::start().await.with_group().await;
    let (_, token) = tenant(&site, "production").await;
    subscription(&site, &token, SUBSCRIPTION_2).await;
    let mut body = gallery("Community");
    let info = json!({ "publisherUri": "https://example.test", "publisherContact": "a@example.test",
                       "eula": "https://example.test/eula", "publicNamePrefix": "golden" });
    body["properties"]["sharingProfile"]["communityGalleryInfo"] = info;
    let mut bad = body.clone();
    bad["properties"]["sharingProfile"]["communityGalleryInfo"]["publicNamePrefix"] = "a-b".into();
    check(&site, "PUT", GALLERY, bad, 400, "5 to 16 letters").await;
    let made = site.put(GALLERY, body.clone()).await;
    assert_eq!(made.status, 201, "{:?}", made.body);
    let info = &made.body["properties"]["sharingProfile"]["communityGalleryInfo"];
    let name = info["publicNames"][0].as_str().unwrap();
    assert!(name.starts_with("golden-"), "{info}");
    let image = format!("{GALLERY}/images/golden");
    assert_eq!(site.put(&image, definition_body()).await.status, 201);
    for number in ["1.2.0", "1.10.0"] {
        publish(&site, &format!("{image}/versions/{number}"), &["north"]).await;
    }
    let one = seen_by(SUBSCRIPTION_2, &format!("north/communityGalleries/{name}"));
    let ask = async |path: &str| site.ask_as(&token, "GET", path, None).await;
    assert_eq!(ask(&one).await.status, 404);
    let query = json!({ "query": "communitygalleryresources| where type == 'microsoft.compute/locations/communitygalleries' | where location == 'north' ", "options": { "$top": 30 } });
    let graph = async |body: Value| {
        let path = "/providers/Microsoft.ResourceGraph/resources?api-version=2021-03-01";
        site.ask_as(&token, "POST", path, Some(body)).await
    };
    assert_eq!(graph(query.clone()).await.body["totalRecords"], 0);
    let share = format!("{GALLERY}/share");
    let enable = json!({ "operationType": "EnableCommunity" });
    check(&site, "POST", &share, enable, 200, "").await;
    let found = graph(query).await.body;
    assert_eq!(found["data"][0]["name"], name);
    assert_eq!(found["resultTruncated"], "false");
    let refused = graph(json!({ "query": "resources | project name" })).await;
    assert_eq!(refused.status, 400);
    assert_eq!(
        ask(&one).await.body["properties"]["communityMetadata"]["publisherContact"],
        "a@example.test"
    );
    let versions = ask(&format!("{one}/images/golden/versions")).await.body;
    assert_eq!(names(&versions), ["1.10.0"]);
    assert_eq!(
        ask(&format!("{one}/images/golden/versions/1.2.0"))
            .await
            .status,
        200
    );

    let own = definition_as(&site, &token, &GROUP.replace(SUBSCRIPTION, SUBSCRIPTION_2)).await;
    let source = json!({ "communityGalleryImageId": format!("/CommunityGalleries/{name}/Images/golden/Versions/1.2.0") });
    let version =
        json!({ "location": "north", "properties": { "storageProfile": { "source": source } } });
    let path = format!("{own}/versions/1.0.0");
    let made = site.ask_as(&token, "PUT", &path, Some(version)).await;
    assert_eq!(made.status, 201, "{:?}", made.body);
    // The PUT of `az sig update` sends the profile back and changes nothing of it.
    check(&site, "PUT", GALLERY, body, 200, "").await;
    assert_eq!(ask(&one).await.status, 200);
    let busy = site.delete(GALLERY).await;
    assert!(
        busy.message().contains("Reset its sharing"),
        "{:?}",
        busy.body
    );
    check(
        &site,
        "POST",
        &share,
        json!({ "operationType": "Reset" }),
        200,
        "",
    )
    .await;
    assert_eq!(ask(&one).await.status, 404);
}

#[tokio::test]
async fn images_are_made_of_machines_that_are_off_and_generalized() {
    let site = Site::start().await.with_group().await;
    let image = definition(&site, GROUP).await;
    let machine = format!("{GROUP}/providers/Microsoft.Compute/virtualMachines/m");
    let mut body = super::galleries::machine(&image);
    body["location"] = "north".into();
    body["properties"]["bullion"] = json!({ "firmware": "Uefi" });
    let made = site.put(&machine, body).await;
    assert_eq!(made.status, 201, "{:?}", made.body);
    site.wait(made.header("azure-asyncoperation")).await;
    let post = async |action: &str| site.ask("POST", &format!("{machine}/{action}"), None).await;
    let done = async |action: &str| {
        let asked = post(action).await;
        assert_eq!(asked.status, 202, "{action}: {:?}", asked.body);
        let ended = site.wait(asked.header("azure-asyncoperation")).await;
        assert_eq!(
            ended.body["status"], "Succeeded",
            "{action}: {:?}",
            ended.body
        );
    };
    done("restart").await;
    let running = post("generalize").await;
    assert!(
        running.message().contains("since the VM is running"),
        "{:?}",
        running.body
    );
    done("deallocate").await;
    let view = site.get(&format!("{machine}/instanceView")).await.body;
    assert_eq!(view["statuses"][0]["code"], "PowerState/deallocated");
    let from =
        json!({ "location": "north", "properties": { "sourceVirtualMachine": { "id": machine } } });
    let path = format!("{GROUP}/providers/Microsoft.Compute/images/i");
    check(
        &site,
        "PUT",
        &path,
        from.clone(),
        409,
        "requires the Virtual Machine 'm' to be Generalized",
    )
    .await;
    let version = |number: &str, key: &str| {
        let storage = json!({ "source": { key: machine } });
        let body = json!({ "location": "north", "properties": { "storageProfile": storage } });
        (format!("{image}/versions/{number}"), body)
    };
    let (number, body) = version("1.0.0", "virtualMachineId");
    check(&site, "PUT", &number, body, 409, "is not Specialized").await;
    assert_eq!(post("generalize").await.status, 200);
    let refused = post("start").await;
    assert!(
        refused
            .message()
            .contains("'start' is not allowed on VM 'm' since the VM is generalized"),
        "{:?}",
        refused.body
    );
    assert_eq!(post("capture").await.code(), "OperationNotAllowed");
    let mut elsewhere = from.clone();
    elsewhere["location"] = "south".into();
    check(&site, "PUT", &path, elsewhere, 400, "so must be its image").await;
    let made = site.put(&path, from).await;
    assert_eq!(made.status, 201, "{:?}", made.body);
    site.wait(made.header("azure-asyncoperation")).await;
    let shown = site.get(&path).await.body;
    assert_eq!(shown["properties"]["hyperVGeneration"], "V2");
    assert_eq!(
        shown["properties"]["bullion"]["diskDigest"],
        super::fake::DIGEST
    );
    assert_eq!(
        shown["properties"]["storageProfile"]["osDisk"]["osState"],
        "Generalized"
    );
    for (number, key) in [("1.0.0", "virtualMachineId"), ("1.0.1", "id")] {
        let (path, body) = version(number, key);
        let made = site.put(&path, body).await;
        assert_eq!(made.status, 201, "{:?}", made.body);
        site.wait(made.header("azure-asyncoperation")).await;
        let shown = site.get(&path).await.body;
        assert_eq!(shown["properties"]["bullion"]["copiedFrom"], machine);
        assert_eq!(shown["properties"]["provisioningState"], "Succeeded");
    }
}

#[tokio::test]
async fn galleries_list_applications() {
    let site = Site::start().await.with_group().await;
    definition(&site, GROUP).await;
    let path = format!("{GALLERY}/applications/tool");
    let body = |os: &str| json!({ "location": "north", "properties": { "supportedOSType": os } });
    check(
        &site,
        "PUT",
        &path,
        body("BeOS"),
        400,
        "one of Linux, Windows",
    )
    .await;
    check(&site, "PUT", &path, body("Linux"), 201, "").await;
    check(
        &site,
        "PUT",
        &path,
        body("Windows"),
        409,
        "PropertyChangeNotAllowed",
    )
    .await;
    let version = format!("{path}/versions/1.0.0");
    let profile = json!({ "source": { "mediaLink": "https://example.test/tool.zip" },
                          "manageActions": { "install": "true", "remove": "true" } });
    let of = |profile: Value| json!({ "location": "north", "properties": { "publishingProfile": profile } });
    check(
        &site,
        "PUT",
        &version,
        of(json!({})),
        400,
        "mediaLink' is missing",
    )
    .await;
    check(
        &site,
        "PUT",
        &format!("{path}/versions/1"),
        of(profile.clone()),
        400,
        "Major(int)",
    )
    .await;
    check(&site, "PUT", &version, of(profile.clone()), 201, "").await;
    let mut other = profile;
    other["source"]["mediaLink"] = "https://example.test/other.zip".into();
    check(
        &site,
        "PUT",
        &version,
        of(other),
        409,
        "PropertyChangeNotAllowed",
    )
    .await;
    let hidden = json!({ "properties": { "publishingProfile": { "excludeFromLatest": true } } });
    check(&site, "PATCH", &version, hidden, 200, "").await;
    let shown = site.get(&version).await.body;
    assert_eq!(
        shown["properties"]["publishingProfile"]["targetRegions"][0]["name"],
        "north"
    );
    assert_eq!(
        names(&site.get(&format!("{GALLERY}/applications")).await.body),
        ["tool"]
    );
    assert_eq!(
        names(&site.get(&format!("{path}/versions")).await.body),
        ["1.0.0"]
    );
    assert_eq!(site.delete(&path).await.status, 409);
    assert_eq!(site.delete(&version).await.status, 200);
    assert_eq!(site.delete(&path).await.status, 200);
}
