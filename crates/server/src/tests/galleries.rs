//! Groups, galleries, definitions, templates and machines, as clients make, change, list and delete them.

use serde_json::{Value, json};

use super::site::{GROUP, SUBSCRIPTION, Site};

fn gallery_of(group: &str) -> String {
    format!("{group}/providers/Microsoft.Compute/galleries/g")
}

pub fn definition_body() -> Value {
    json!({
        "location": "north",
        "properties": {
            "osType": "Linux",
            "osState": "Generalized",
            "identifier": { "publisher": "Example", "offer": "debian", "sku": "12" },
        },
    })
}

pub async fn definition(site: &Site, group: &str) -> String {
    definition_as(site, &site.token, group).await
}

pub async fn definition_as(site: &Site, token: &str, group: &str) -> String {
    let gallery = gallery_of(group);
    let made = site
        .ask_as(token, "PUT", &gallery, Some(json!({ "location": "north" })))
        .await;
    assert_eq!(made.status, 201, "{:?}", made.body);
    let path = format!("{gallery}/images/golden");
    let made = site
        .ask_as(token, "PUT", &path, Some(definition_body()))
        .await;
    assert_eq!(made.status, 201, "{:?}", made.body);
    path
}

pub fn template(definition: &str) -> Value {
    json!({
        "location": "north",
        "properties": {
            "source": { "type": "PlatformImage", "publisher": "Debian", "offer": "debian-12", "sku": "12-gen2", "version": "latest" },
            "customize": [{ "type": "Shell", "name": "a", "inline": ["true"] }],
            "distribute": [{
                "type": "SharedImage",
                "runOutputName": "golden",
                "galleryImageId": definition,
                "targetRegions": [{ "name": "north" }, { "name": "south" }],
            }],
        },
    })
}

pub fn machine(image: &str) -> Value {
    json!({
        "location": "south",
        "properties": {
            "hardwareProfile": { "vmSize": "Standard_B1s" },
            "storageProfile": { "imageReference": { "id": image } },
            "osProfile": { "computerName": "m", "adminUsername": "ops" },
        },
    })
}

/// Changes one member of `body`, given by pointer; a null takes it away.
pub fn with(mut body: Value, pointer: &str, value: Value) -> Value {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let parent = body.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    if value.is_null() {
        parent.remove(key);
    } else {
        parent.insert(key.to_string(), value);
    }
    body
}

/// Puts each body and compares status and a part of the message.
async fn check(site: &Site, path: &str, cases: &[(Value, u16, &str)]) {
    for (body, status, part) in cases {
        let seen = site.put(path, body.clone()).await;
        assert_eq!(seen.status, *status, "{path} {body}: {:?}", seen.body);
        assert!(
            seen.message().contains(part),
            "{path} {body}: {:?}",
            seen.body
        );
    }
}

#[tokio::test]
async fn galleries_live_by_azures_rules() {
    let site = Site::start().await.with_group().await;
    let gallery = gallery_of(GROUP);
    let body =
        json!({ "location": "north", "tags": { "a": "1" }, "properties": { "description": "d" } });
    let dashes = gallery.replace("/galleries/g", "/galleries/my-g");
    check(
        &site,
        &dashes,
        &[(body.clone(), 400, "Gallery name is invalid")],
    )
    .await;
    check(
        &site,
        &gallery,
        &[
            (json!({}), 400, "location property is required"),
            (
                with(body.clone(), "/properties/description", json!(1)),
                400,
                "could not be deserialized",
            ),
            (
                with(
                    body.clone(),
                    "/properties/sharingProfile",
                    json!({"permissions": "Community"}),
                ),
                400,
                "publicNamePrefix' is missing",
            ),
            (body.clone(), 201, ""),
            (
                with(body.clone(), "/properties/identifier", json!({})),
                200,
                "",
            ),
            (
                with(body.clone(), "/location", json!("south")),
                409,
                "already exists in location 'north'",
            ),
        ],
    )
    .await;
    let shown = site
        .get(
            &gallery
                .to_uppercase()
                .replace("SUBSCRIPTIONS", "subscriptions"),
        )
        .await;
    assert_eq!(shown.body["id"], gallery);
    assert_eq!(shown.body["type"], "Microsoft.Compute/galleries");
    assert_eq!(shown.body["properties"]["provisioningState"], "Succeeded");
    assert_eq!(
        shown.body["properties"]["identifier"]["uniqueName"],
        format!("{SUBSCRIPTION}-G")
    );
    assert_eq!(shown.body["tags"], json!({ "a": "1" }));

    let other = GROUP.replace("/factory", "/other");
    site.put(&other, json!({ "location": "north" })).await;
    check(
        &site,
        &gallery_of(&other),
        &[(body, 409, "not unique within the subscription")],
    )
    .await;
    assert_eq!(site.delete(&gallery).await.status, 200);
    assert_eq!(site.delete(&gallery).await.status, 204);
    assert_eq!(site.get(&gallery).await.status, 404);
}

#[tokio::test]
async fn definitions_live_by_azures_rules() {
    let site = Site::start().await.with_group().await;
    let gallery = gallery_of(GROUP);
    let path = format!("{gallery}/images/golden");
    check(
        &site,
        &path,
        &[(definition_body(), 404, "Parent resource 'g' not found")],
    )
    .await;
    definition(&site, GROUP).await;
    let changed = |pointer: &str, value: Value| with(definition_body(), pointer, value);
    check(
        &site,
        &path,
        &[
            (definition_body(), 200, ""),
            (
                changed("/properties/osType", json!("Windows")),
                409,
                "Changing property 'galleryImage.properties.osType'",
            ),
            (
                changed("/properties/identifier/sku", json!("13")),
                409,
                "identifier.sku",
            ),
            (
                changed("/properties/hyperVGeneration", json!("V1")),
                409,
                "hyperVGeneration",
            ),
            (changed("/properties/osState", Value::Null), 200, ""),
            (changed("/properties/description", json!("new")), 200, ""),
            (
                changed(
                    "/properties/recommended",
                    json!({"vCPUs": {"min": 4, "max": 2}}),
                ),
                400,
                "must not be greater",
            ),
            (
                changed("/properties/recommended", json!({"memory": {"min": 0}})),
                400,
                "out of range",
            ),
        ],
    )
    .await;
    let second = format!("{gallery}/images/second");
    check(
        &site,
        &second,
        &[
            (
                changed("/properties/osType", Value::Null),
                400,
                "osType' is missing",
            ),
            (
                changed("/properties/osType", json!("BeOS")),
                400,
                "could not be deserialized",
            ),
            (
                changed("/properties/identifier/sku", json!("12.")),
                400,
                "not ending",
            ),
            (
                definition_body(),
                409,
                "already exists. Choose a different publisher, offer, sku",
            ),
            (changed("/properties/identifier/sku", json!("13")), 201, ""),
        ],
    )
    .await;
    let list = site.get(&format!("{gallery}/images")).await;
    assert_eq!(list.body["value"].as_array().unwrap().len(), 2);
    let busy = site.delete(&gallery).await;
    assert_eq!(busy.status, 409);
    assert!(
        busy.message()
            .contains("before nested resources are deleted"),
        "{:?}",
        busy.body
    );
}

#[tokio::test]
async fn lists_are_paged_by_links_that_work() {
    let site = Site::start().await.with_group().await;
    let sub = format!("/subscriptions/{SUBSCRIPTION}");
    for number in 0..4 {
        let path = format!("{sub}/resourceGroups/g{number}");
        let tags = json!({ "even": (number % 2 == 0).to_string() });
        site.put(&path, json!({ "location": "north", "tags": tags }))
            .await;
    }
    let mut url = format!("{sub}/resourcegroups?api-version=2024-11-01&$top=2");
    let mut names: Vec<String> = Vec::new();
    for _ in 0..10 {
        let page = site.get(&url).await;
        let items = page.body["value"].as_array().unwrap();
        names.extend(
            items
                .iter()
                .map(|item| item["name"].as_str().unwrap().to_string()),
        );
        match page.body["nextLink"].as_str() {
            Some(next) => url = next.to_string(),
            None => break,
        }
    }
    assert_eq!(names, ["factory", "g0", "g1", "g2", "g3"]);
    let filter = "$filter=tagname%20eq%20%27even%27%20and%20tagvalue%20eq%20%27true%27";
    let seen = site
        .get(&format!(
            "{sub}/resourcegroups?api-version=2024-11-01&{filter}"
        ))
        .await;
    assert_eq!(seen.body["value"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn templates_are_checked_before_they_are_kept() {
    let site = Site::start().await.with_group().await;
    let path = format!("{GROUP}/providers/Microsoft.VirtualMachineImages/imageTemplates/t");
    let missing = format!("{}/images/golden", gallery_of(GROUP));
    check(
        &site,
        &path,
        &[(template(&missing), 400, "create it first")],
    )
    .await;
    let definition = definition(&site, GROUP).await;
    let body = template(&definition);
    let changed = |pointer: &str, value: Value| with(body.clone(), pointer, value);
    check(&site, &path, &[
        (changed("/location", json!("nowhere")), 400, "not one of this installation's regions: north, south"),
        (changed("/properties/source", Value::Null), 400, "missing field `source`"),
        (changed("/properties/source/type", json!("Floppy")), 400, "unknown variant"),
        (changed("/properties/impossible", json!(true)), 400, "impossible"),
        (
            with(body.clone(), "/properties/customize/0/inline", json!(["x".repeat(5 << 20)])),
            413,
            "more than",
        ),
        (with(body.clone(), "/properties/distribute", json!([{ "type": "SharedImage", "runOutputName": "r", "galleryImageId": GROUP }])), 400, "not the id of an image definition"),
        (with(body.clone(), "/properties/distribute", json!([{ "type": "SharedImage", "runOutputName": "r", "galleryImageId": "golden" }])), 400, "Expect fully qualified resource Id"),
        (body.clone(), 201, ""),
        (body.clone(), 200, ""),
    ])
    .await;
    let other = with(body.clone(), "/properties/customize", json!([]));
    let old = format!("{path}?api-version=2023-07-01");
    check(
        &site,
        &old,
        &[
            (body, 200, ""),
            (other.clone(), 409, "Update/Upgrade of image templates"),
        ],
    )
    .await;
    check(&site, &path, &[(other, 200, "")]).await;

    let run = site.ask("POST", &format!("{path}/run"), None).await;
    assert_eq!(run.status, 202, "{:?}", run.body);
    assert_eq!(run.header("retry-after"), "1");
    let ended = site.wait(run.header("azure-asyncoperation")).await;
    assert_eq!(ended.body["status"], "Succeeded", "{:?}", ended.body);
    assert_eq!(site.get(run.header("location")).await.status, 200);
    let log = site
        .ask(
            "POST",
            &format!("{}/readLog", run.header("x-bullion-run")),
            None,
        )
        .await;
    assert_eq!(log.body["lines"], json!(["one line"]));
    assert_eq!(log.body["done"], true);
    let command = format!("{}/runCommand", run.header("x-bullion-run"));
    for (script, status, told) in [
        (json!(["true"]), 200, "exitCode"),
        (json!(["hang"]), 409, "in the background"),
        (
            json!(["ls"]),
            409,
            "'errorHandling.onValidationError' is 'abort'",
        ),
        (json!(["", " "]), 400, "one line at least"),
        (json!(["x".repeat(300 << 10)]), 400, "at most"),
        (json!("true"), 400, "invalid type"),
        (Value::Null, 400, "invalid type"),
    ] {
        let body = json!({ "script": script });
        let answer = site.ask("POST", &command, Some(body)).await;
        assert_eq!(answer.status, status, "{:?}", answer.body);
        let said = answer.body.to_string();
        assert!(said.contains(told), "{said}");
    }
    assert_eq!(
        site.ask("POST", &format!("{path}/cancel"), None)
            .await
            .status,
        204
    );
    assert_eq!(site.get(&format!("{path}/runOutputs")).await.status, 200);
    assert_eq!(site.delete(&path).await.status, 204);
    assert_eq!(site.delete(&path).await.status, 204);
}

#[tokio::test]
async fn machines_are_deployed_and_deleted_by_jobs() {
    let site = Site::start().await.with_group().await;
    let path = format!("{GROUP}/providers/Microsoft.Compute/virtualMachines/m");
    let missing = format!("{}/images/golden", gallery_of(GROUP));
    check(&site, &path, &[(machine(&missing), 404, "was not found")]).await;
    let definition = definition(&site, GROUP).await;
    let body = machine(&definition);
    let changed = |pointer: &str, value: Value| with(body.clone(), pointer, value);
    check(
        &site,
        &path,
        &[
            (
                changed("/properties/osProfile", Value::Null),
                400,
                "'osProfile' is missing",
            ),
            (
                changed("/properties/osProfile/adminUsername", json!("root")),
                400,
                "admin user name",
            ),
            (
                changed(
                    "/properties/storageProfile/imageReference/version",
                    json!("1.0.0"),
                ),
                400,
                "cannot be used together",
            ),
            (
                changed("/properties/storageProfile/imageReference", json!({})),
                400,
                "gallery images",
            ),
            (
                changed("/properties/bullion", json!({"firmware": "coreboot"})),
                400,
                "firmware",
            ),
            (changed("/location", json!("nowhere")), 400, "regions"),
        ],
    )
    .await;
    let made = site.put(&path, body.clone()).await;
    assert_eq!(
        (made.status, &made.body["properties"]["provisioningState"]),
        (201, &json!("Creating"))
    );
    let ended = site.wait(made.header("azure-asyncoperation")).await;
    assert_eq!(ended.body["status"], "Succeeded");
    let shown = site
        .get(&format!(
            "{path}?api-version=2026-04-01&$expand=instanceView"
        ))
        .await;
    assert_eq!(
        shown.body["properties"]["instanceView"]["statuses"][0]["code"],
        "PowerState/running"
    );
    let image = site
        .get(&format!(
            "{path}/providers/Bullion.Factory/machineImages/default"
        ))
        .await;
    assert_eq!(image.status, 200);
    let image = site
        .get(&format!(
            "{path}/providers/Bullion.Factory/machineImages/other"
        ))
        .await;
    assert_eq!(image.status, 404);
    check(
        &site,
        &path,
        &[
            (changed("/tags", Value::Null), 200, ""),
            (
                changed("/properties/hardwareProfile/vmSize", json!("Standard_B2s")),
                409,
                "vmSize",
            ),
        ],
    )
    .await;
    let gone = site.delete(&path).await;
    assert_eq!(gone.status, 202);
    assert_eq!(
        site.wait(gone.header("azure-asyncoperation")).await.body["status"],
        "Succeeded"
    );
    assert_eq!(site.get(gone.header("location")).await.status, 204);
    assert_eq!(site.delete(&path).await.status, 204);
}

/// A published version, as the factory leaves it.
pub async fn publish(site: &Site, id: &str, regions: &[&str]) {
    use catalog::Catalog as _;
    let catalog = catalog::SqliteCatalog::open(&site.running.data.join("bullion.db"))
        .await
        .unwrap();
    let action = access::Action::new("Microsoft.Compute/galleries/images/versions/write");
    let id = wire::ResourceId::parse(id).unwrap();
    let permit = access::Permit::system(access::SystemReason::Reconcile, action, id, site.tenant);
    let regions: Vec<Value> = regions.iter().map(|name| json!({ "name": name })).collect();
    let draft = catalog::Draft::new(json!({
        "publishingProfile": { "targetRegions": regions, "publishedDate": "2026-11-21T00:00:00Z" },
        "storageProfile": { "osDiskImage": { "sizeInGB": 2 } },
        "bullion": { "diskDigest": "bd1:00", "replication": { "north": {} } },
    }));
    catalog
        .put(
            &permit,
            draft.location("north"),
            catalog::Precondition::Absent,
        )
        .await
        .unwrap();
    catalog.close().await;
}

#[tokio::test]
async fn versions_keep_their_bits_and_change_their_regions() {
    let site = Site::start().await.with_group().await;
    let definition = definition(&site, GROUP).await;
    let version = format!("{definition}/versions/1.2.0");
    for name in ["1.10.0", "1.2.0", "1.9.1"] {
        publish(&site, &format!("{definition}/versions/{name}"), &["north"]).await;
    }
    let list = site.get(&format!("{definition}/versions")).await;
    let names: Vec<&str> = list.body["value"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["1.2.0", "1.9.1", "1.10.0"]);

    let plain = site.get(&version).await;
    assert_eq!(plain.body["properties"].get("replicationStatus"), None);
    assert_eq!(
        plain.body["properties"]["bullion"],
        json!({ "diskDigest": "bd1:00" })
    );
    let expanded = format!("{version}?api-version=2024-03-03&$expand=ReplicationStatus");
    let expanded = site.get(&expanded).await;
    assert_eq!(
        expanded.body["properties"]["replicationStatus"]["aggregatedState"],
        "Completed"
    );

    // What `az sig image-version update` sends: everything back, the storage profile empty.
    let body = with(plain.body, "/properties/storageProfile", json!({}));
    let safety = json!({ "allowDeletionOfReplicatedLocations": true });
    let body = with(body, "/properties/safetyProfile", safety);
    let regions = |names: &[&str]| {
        let regions: Vec<Value> = names.iter().map(|name| json!({ "name": name })).collect();
        with(
            body.clone(),
            "/properties/publishingProfile/targetRegions",
            json!(regions),
        )
    };
    let profile = |key: &str, value: Value| {
        with(
            body.clone(),
            &format!("/properties/publishingProfile/{key}"),
            value,
        )
    };
    check(
        &site,
        &version,
        &[
            (regions(&["north", "south"]), 200, ""),
            (regions(&["North", "SOUTH"]), 200, ""),
            (regions(&["north", "North"]), 400, "Duplicate regions"),
            (regions(&["south"]), 400, "must contain the location"),
            (
                regions(&["north", "nowhere"]),
                400,
                "not one of this installation's regions",
            ),
            (profile("replicaCount", json!(0)), 400, "out of range"),
            (
                profile("storageAccountType", json!("Premium_LRS")),
                409,
                "storageAccountType' is not allowed",
            ),
            (
                profile("endOfLifeDate", json!("2020-01-01T00:00:00Z")),
                400,
                "future date",
            ),
            (profile("endOfLifeDate", json!("soon")), 400, "not a date"),
            (
                profile("publishedDate", json!("1999-01-01T00:00:00Z")),
                200,
                "",
            ),
            (
                with(
                    body.clone(),
                    "/properties/bullion",
                    json!({"diskDigest": "bd1:ff"}),
                ),
                200,
                "",
            ),
            (
                with(
                    body.clone(),
                    "/properties/storageProfile",
                    json!({"source": {"id": GROUP}}),
                ),
                409,
                "source.id' is not allowed",
            ),
        ],
    )
    .await;
    let shown = site.get(&version).await.body;
    assert_eq!(shown["properties"]["bullion"]["diskDigest"], "bd1:00");
    assert_eq!(
        shown["properties"]["storageProfile"]["osDiskImage"]["sizeInGB"],
        2
    );
    assert_eq!(
        shown["properties"]["publishingProfile"]["publishedDate"],
        "2026-11-21T00:00:00Z"
    );

    let safe = with(
        body.clone(),
        "/properties/safetyProfile",
        json!({ "blockDeletionBeforeEndOfLife": true }),
    );
    let safe = with(
        safe,
        "/properties/publishingProfile/endOfLifeDate",
        json!("2200-01-01"),
    );
    check(&site, &version, &[(safe, 200, "")]).await;
    let blocked = site.delete(&version).await;
    assert!(
        blocked.message().contains("end of life date"),
        "{:?}",
        blocked.body
    );
    assert_eq!(
        blocked.code(),
        "DeleteGalleryImageVersionBlockedBeforeEndOfLife"
    );
    assert_eq!(
        site.delete(&format!("{definition}/versions/1.10.0"))
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn a_version_is_made_from_another_by_a_job() {
    let site = Site::start().await.with_group().await;
    let definition = definition(&site, GROUP).await;
    let source = format!("{definition}/versions/1.0.0");
    publish(&site, &source, &["north"]).await;
    let copy = format!("{definition}/versions/2.0.0");
    let body = |source: &str| json!({ "location": "north", "properties": { "storageProfile": { "source": { "id": source } } } });
    let versions = |name: &str| format!("{definition}/versions/{name}");
    check(
        &site,
        &versions("2.0"),
        &[(body(&source), 400, "Major(int).Minor(int).Patch(int)")],
    )
    .await;
    check(
        &site,
        &copy,
        &[
            (
                json!({ "location": "north" }),
                400,
                "needs exactly one source",
            ),
            (body("nothing"), 400, "Expect fully qualified resource Id"),
            (body(&versions("9.9.9")), 404, "is not found"),
            (body(GROUP), 400, "gallery image version"),
        ],
    )
    .await;
    let made = site.put(&copy, body(&source)).await;
    assert_eq!(
        (made.status, &made.body["properties"]["provisioningState"]),
        (201, &json!("Creating"))
    );
    let ended = site.wait(made.header("azure-asyncoperation")).await;
    assert_eq!(ended.body["status"], "Succeeded", "{:?}", ended.body);
    let shown = site.get(&copy).await.body;
    assert_eq!(shown["properties"]["provisioningState"], "Succeeded");
    assert_eq!(shown["properties"]["bullion"]["diskDigest"], "bd1:00");
    assert_eq!(
        shown["properties"]["publishingProfile"]["targetRegions"][0]["name"],
        "north"
    );

    // Packer's first gallery version has the source elsewhere.
    let old = json!({ "location": "north", "properties": { "publishingProfile": { "source": { "managedImage": { "id": source } } } } });
    let path = format!("{}?api-version=2019-03-01", versions("3.0.0"));
    assert_eq!(site.put(&path, old).await.status, 201);

    let unlucky = with(body(&source), "/tags", json!({ "unlucky": "yes" }));
    let made = site.put(&versions("4.0.0"), unlucky).await;
    let ended = site.wait(made.header("azure-asyncoperation")).await;
    assert_eq!(
        ended.body["error"]["code"], "ReplicationFailed",
        "{:?}",
        ended.body
    );
    let shown = site.get(&versions("4.0.0")).await.body;
    assert_eq!(shown["properties"]["provisioningState"], "Failed");
}

#[tokio::test]
async fn a_group_goes_with_everything_in_it() {
    let site = Site::start().await.with_group().await;
    let definition = definition(&site, GROUP).await;
    let machine_path = format!("{GROUP}/providers/Microsoft.Compute/virtualMachines/m");
    let made = site.put(&machine_path, machine(&definition)).await;
    site.wait(made.header("azure-asyncoperation")).await;
    let listed = site
        .get(&format!("/subscriptions/{SUBSCRIPTION}/resources"))
        .await;
    let kinds: Vec<&str> = listed.body["value"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["type"].as_str().unwrap())
        .collect();
    assert!(
        kinds.contains(&"Microsoft.Compute/virtualMachines"),
        "{kinds:?}"
    );
    let gone = site.delete(GROUP).await;
    assert_eq!(gone.status, 202);
    assert_eq!(site.wait(gone.header("location")).await.status, 204);
    assert_eq!(site.delete(GROUP).await.code(), "ResourceGroupNotFound");
    assert_eq!(
        site.put(GROUP, json!({ "location": "south" })).await.status,
        201
    );
    assert_eq!(site.get(&definition).await.status, 404);
}
