//! Disk encryption sets, and versions that are encrypted by them.

use serde_json::{Value, json};

use super::compute::check;
use super::galleries::{definition, publish};
use super::site::{GROUP, SUBSCRIPTION, Site};
use super::tenancy::{SUBSCRIPTION_2, subscription, tenant};

fn set_in(group: &str, name: &str) -> String {
    format!("{group}/providers/Microsoft.Compute/diskEncryptionSets/{name}")
}

fn body(location: &str) -> Value {
    json!({ "location": location, "identity": { "type": "SystemAssigned" }, "properties": {} })
}

#[tokio::test]
async fn a_set_is_made_shown_rotated_and_erased() {
    let site = Site::start().await.with_group().await;
    let set = set_in(GROUP, "own");
    let made = site.put(&set, body("north")).await;
    assert_eq!(made.status, 200, "{:?}", made.body);
    let shown = site.get(&set).await.body;
    let properties = &shown["properties"];
    assert_eq!(
        properties["encryptionType"],
        "EncryptionAtRestWithCustomerKey"
    );
    assert_eq!(properties["rotationToLatestKeyVersionEnabled"], false);
    assert_eq!(properties["provisioningState"], "Succeeded");
    assert!(shown["identity"]["principalId"].is_string(), "{shown}");
    let url = properties["activeKey"]["keyUrl"].as_str().unwrap();
    assert!(
        url.starts_with("https://") && url.ends_with("/keys/k/1"),
        "{url}"
    );
    // What a client read it may send again.
    assert_eq!(site.put(&set, shown.clone()).await.status, 200);

    let list = site
        .get(&set_in(GROUP, "")[..set_in(GROUP, "").len() - 1])
        .await
        .body;
    assert_eq!(list["value"][0]["name"], "own");
    let rotated = site.ask("POST", &format!("{set}/rotateKey"), None).await;
    assert_eq!(rotated.status, 200, "{:?}", rotated.body);
    let properties = &rotated.body["properties"];
    assert!(
        properties["activeKey"]["keyUrl"]
            .as_str()
            .unwrap()
            .ends_with("/keys/k/2")
    );
    assert!(properties["lastKeyRotationTimestamp"].is_string());
    // An older address is no wish for an older key.
    check(
        &site,
        "PATCH",
        &set,
        json!({ "tags": { "a": "1" } }),
        200,
        "",
    )
    .await;
    let properties = site.get(&set).await.body["properties"].clone();
    assert!(
        properties["activeKey"]["keyUrl"]
            .as_str()
            .unwrap()
            .ends_with("/keys/k/2")
    );

    let with = |properties: Value| json!({ "location": "north", "properties": properties });
    let cases = [
        (
            json!({ "activeKey": { "keyUrl": "https://missing" } }),
            "no key vault",
        ),
        (json!({ "activeKey": { "keyUrl": 7 } }), "must be a string"),
        (json!({ "encryptionType": "Both" }), "must be one of"),
        (
            json!({ "encryptionType": "EncryptionAtRestWithPlatformAndCustomerKeys" }),
            "has no sets of the type",
        ),
        (
            json!({ "federatedClientId": "x" }),
            "another tenant's vault",
        ),
        (
            json!({ "rotationToLatestKeyVersionEnabled": "x" }),
            "true or false",
        ),
    ];
    for (properties, part) in cases {
        check(
            &site,
            "PUT",
            &set_in(GROUP, "other"),
            with(properties),
            400,
            part,
        )
        .await;
    }
    check(
        &site,
        "PUT",
        &set_in(GROUP, "far"),
        body("mars"),
        400,
        "mars",
    )
    .await;

    let erase = format!("{set}/erase");
    let would = site.ask("POST", &erase, Some(json!({}))).await;
    assert_eq!((would.status, &would.body["done"]), (200, &json!(false)));
    check(
        &site,
        "POST",
        &erase,
        json!({ "confirm": "yes" }),
        400,
        "must be its name",
    )
    .await;
    assert_eq!(
        site.get(&set).await.body["properties"]["bullion"]["state"],
        "Active"
    );
    let done = site
        .ask("POST", &erase, Some(json!({ "confirm": "own" })))
        .await;
    assert_eq!((done.status, &done.body["done"]), (200, &json!(true)));
    assert_eq!(
        site.get(&set).await.body["properties"]["bullion"]["state"],
        "Erased"
    );
    assert_eq!(site.delete(&set).await.status, 200);
    assert_eq!(site.delete(&set).await.status, 204);
}

fn encrypted(region: &str, set: &str) -> Value {
    json!({ "name": region, "encryption": { "osDiskImage": { "diskEncryptionSetId": set } } })
}

fn copy_of(source: &str, regions: &[Value]) -> Value {
    json!({
        "location": "north",
        "properties": {
            "publishingProfile": { "targetRegions": regions },
            "storageProfile": { "source": { "id": source } },
        },
    })
}

#[tokio::test]
async fn a_version_is_encrypted_in_every_region_or_in_none() {
    let site = Site::start().await.with_group().await;
    let (north, south) = (set_in(GROUP, "n"), set_in(GROUP, "s"));
    assert_eq!(site.put(&north, body("north")).await.status, 200);
    assert_eq!(site.put(&south, body("south")).await.status, 200);
    let image = definition(&site, GROUP).await;
    let source = format!("{image}/versions/1.0.0");
    publish(&site, &source, &["north"]).await;
    let path = format!("{image}/versions/2.0.0");
    let bare = json!({ "name": "south" });
    let missing = set_in(GROUP, "none");
    let two = json!({ "name": "north", "encryption": {
        "osDiskImage": { "diskEncryptionSetId": north },
        "dataDiskImages": [{ "lun": 0, "diskEncryptionSetId": south }],
    } });
    let secure = json!({ "name": "north", "encryption": { "osDiskImage": {
        "diskEncryptionSetId": north, "securityProfile": { "confidentialVMEncryptionType": "x" },
    } } });
    let cases = [
        (
            vec![encrypted("north", &north), bare.clone()],
            400,
            "A disk encryption set is required",
        ),
        (vec![encrypted("north", &missing)], 404, "is not found"),
        (
            vec![encrypted("north", &south)],
            400,
            "cannot encrypt disks in region",
        ),
        (
            vec![encrypted("north", &image)],
            400,
            "not the id of a disk encryption set",
        ),
        (vec![two], 400, "by one disk encryption set"),
        (vec![secure], 400, "confidential"),
    ];
    for (regions, status, part) in cases {
        check(
            &site,
            "PUT",
            &path,
            copy_of(&source, &regions),
            status,
            part,
        )
        .await;
    }
    let both = [encrypted("north", &north), encrypted("south", &south)];
    let made = site.put(&path, copy_of(&source, &both)).await;
    assert_eq!(made.status, 201, "{:?}", made.body);
    site.wait(made.header("azure-asyncoperation")).await;
    let shown = site.get(&path).await.body;
    let regions = &shown["properties"]["publishingProfile"]["targetRegions"];
    for (at, set) in [(0, &north), (1, &south)] {
        let named = &regions[at]["encryption"]["osDiskImage"]["diskEncryptionSetId"];
        assert_eq!(named, &json!(set));
    }
    // It stays as it was chosen.
    let fixed = "PropertyChangeNotAllowed";
    for regions in [
        vec![json!({ "name": "north" }), bare.clone()],
        vec![encrypted("north", &north), bare.clone()],
    ] {
        check(&site, "PUT", &path, copy_of(&source, &regions), 409, fixed).await;
    }
    let same = site.put(&path, copy_of(&source, &both)).await;
    assert_eq!(same.status, 200, "{:?}", same.body);
    let later = copy_of(&source, &[encrypted("north", &north)]);
    check(&site, "PUT", &source, later, 409, fixed).await;
    // Nothing is made of it, and its sets stay as long as it does.
    let third = format!("{image}/versions/3.0.0");
    let of_it = copy_of(&path, &[json!({ "name": "north" })]);
    check(
        &site,
        "PUT",
        &third,
        of_it,
        409,
        "is encrypted by a disk encryption set",
    )
    .await;
    let refused = site.delete(&north).await;
    assert_eq!(
        (refused.status, refused.code()),
        (409, "OperationNotAllowed")
    );
    let used = site.get(&format!("{north}/associatedResources")).await.body;
    assert_eq!(used["value"].as_array().unwrap().len(), 1, "{used}");
    let erased = site
        .ask(
            "POST",
            &format!("{south}/erase"),
            Some(json!({ "confirm": "s" })),
        )
        .await;
    assert_eq!(erased.body["versions"].as_array().unwrap().len(), 1);
    let fourth = format!("{image}/versions/4.0.0");
    check(
        &site,
        "PUT",
        &fourth,
        copy_of(&source, &both),
        400,
        "was erased",
    )
    .await;
    assert_eq!(site.delete(&path).await.status, 200);
    assert_eq!(site.delete(&north).await.status, 200);
}

#[tokio::test]
async fn a_set_of_another_tenant_encrypts_nothing() {
    let site = Site::start().await;
    let (_, token_1) = tenant(&site, "engineering").await;
    let (_, token_2) = tenant(&site, "production").await;
    subscription(&site, &token_1, SUBSCRIPTION).await;
    subscription(&site, &token_2, SUBSCRIPTION_2).await;
    let foreign = set_in(
        &format!("/subscriptions/{SUBSCRIPTION_2}/resourceGroups/factory"),
        "x",
    );
    let made = site
        .ask_as(&token_2, "PUT", &foreign, Some(body("north")))
        .await;
    assert_eq!(made.status, 200, "{:?}", made.body);
    let seen = site.ask_as(&token_1, "GET", &foreign, None).await;
    assert_ne!(seen.status, 200);
    let image = super::galleries::definition_as(&site, &token_1, GROUP).await;
    let version = format!("{image}/versions/1.0.0");
    let asked = copy_of(&version, &[encrypted("north", &foreign)]);
    let seen = site.ask_as(&token_1, "PUT", &version, Some(asked)).await;
    assert_eq!(
        (seen.status, seen.code()),
        (403, "LinkedAuthorizationFailed"),
        "{:?}",
        seen.body
    );
}
