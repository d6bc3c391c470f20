//! Managed images, disks and snapshots, and versions that are made of them or of VHDs.

use serde_json::{Value, json};
use store::KeyFile;
use wire::ResourceId;

use super::fake::DIGEST;
use super::galleries::{definition, definition_as, definition_body};
use super::site::{Answer, GROUP, SUBSCRIPTION, Site, answer};
use super::tenancy::{SUBSCRIPTION_2, subscription, tenant};
use crate::import::SealedUri;

fn compute(kind: &str, name: &str) -> String {
    format!("{GROUP}/providers/Microsoft.Compute/{kind}/{name}")
}

fn image(source: Value) -> Value {
    let mut disk = json!({ "osType": "Linux", "osState": "Generalized", "caching": null });
    for (key, value) in source.as_object().unwrap() {
        disk[key] = value.clone();
    }
    json!({
        "location": "north",
        "properties": {
            "hyperVGeneration": "V2",
            "storageProfile": { "osDisk": disk, "dataDisks": [] },
        },
    })
}

fn disk(data: Value) -> Value {
    json!({
        "location": "north",
        "sku": { "name": "Standard_LRS" },
        "properties": { "creationData": data, "osType": "Linux" },
    })
}

/// Puts and waits; the resource as it is then.
pub async fn made(site: &Site, path: &str, body: Value) -> Value {
    let put = site.put(path, body).await;
    assert!(
        [200, 201, 202].contains(&put.status),
        "{path}: {:?}",
        put.body
    );
    let status = put.header("azure-asyncoperation");
    if !status.is_empty() {
        let ended = site.wait(status).await;
        assert_eq!(
            ended.body["status"], "Succeeded",
            "{path}: {:?}",
            ended.body
        );
    }
    site.get(path).await.body
}

async fn check(site: &Site, path: &str, body: Value, status: u16, part: &str) {
    let seen = site.put(path, body.clone()).await;
    assert_eq!(seen.status, status, "{path} {body}: {:?}", seen.body);
    assert!(seen.message().contains(part), "{body}: {:?}", seen.body);
}

#[tokio::test]
async fn an_image_has_the_bits_of_a_vhd_and_gives_them_to_a_version() {
    let site = Site::start().await.with_group().await;
    let definition = definition(&site, GROUP).await;
    let uri = site.blob("tiny.vhd", &[7; 4096]);
    let path = compute("images", "tiny");
    let shown = made(&site, &path, image(json!({ "blobUri": uri }))).await;
    assert_eq!(shown["properties"]["provisioningState"], "Succeeded");
    assert_eq!(shown["properties"]["bullion"]["diskDigest"], DIGEST);
    assert_eq!(shown["properties"]["bullion"]["importedFrom"], uri);
    assert_eq!(
        shown["properties"]["storageProfile"]["osDisk"]["diskSizeGB"],
        1
    );

    let version =
        |source: Value| json!({ "location": "north", "properties": { "storageProfile": source } });
    let from_image = version(json!({ "source": { "id": path } }));
    let shown = made(&site, &format!("{definition}/versions/1.0.0"), from_image).await;
    assert_eq!(shown["properties"]["bullion"]["diskDigest"], DIGEST);
    assert_eq!(shown["properties"]["bullion"]["copiedFrom"], path);
    assert_eq!(
        shown["properties"]["storageProfile"]["osDiskImage"]["sizeInGB"],
        1
    );

    let account = format!("{GROUP}/providers/Microsoft.Storage/storageAccounts/a");
    let from_vhd = version(
        json!({ "osDiskImage": { "source": { "uri": uri, "storageAccountId": account } } }),
    );
    let second = format!("{definition}/versions/1.0.1");
    let shown = made(&site, &second, from_vhd.clone()).await;
    assert_eq!(shown["properties"]["provisioningState"], "Succeeded");
    assert_eq!(shown["properties"]["bullion"]["diskDigest"], DIGEST);
    assert_eq!(site.put(&second, from_vhd).await.status, 200);
    let copy = version(json!({ "source": { "id": second } }));
    let shown = made(&site, &format!("{definition}/versions/1.0.2"), copy.clone()).await;
    assert_eq!(
        shown["properties"]["storageProfile"]["osDiskImage"].get("source"),
        None
    );
    assert_eq!(
        site.put(&format!("{definition}/versions/1.0.2"), copy)
            .await
            .status,
        200
    );

    assert_eq!(
        site.put(&path, json!({ "location": "north", "tags": { "a": "1" } }))
            .await
            .status,
        200
    );
    let other = site.blob("other.vhd", &[7; 4096]);
    check(
        &site,
        &path,
        image(json!({ "blobUri": other })),
        409,
        "is not allowed",
    )
    .await;
    assert_eq!(site.delete(&path).await.status, 200);
    assert_eq!(site.delete(&path).await.status, 204);
}

#[tokio::test]
async fn disks_and_snapshots_copy_each_other() {
    let site = Site::start().await.with_group().await;
    let definition = definition(&site, GROUP).await;
    let uri = site.blob("tiny.vhd", &[7; 4096]);
    let (first, snapshot, second) = (
        compute("disks", "a"),
        compute("snapshots", "s"),
        compute("disks", "b"),
    );
    let imported = made(
        &site,
        &first,
        disk(json!({ "createOption": "Import", "sourceUri": uri })),
    )
    .await;
    assert_eq!(imported["properties"]["diskSizeBytes"], 4096);
    assert_eq!(imported["sku"]["name"], "Standard_LRS");
    let copy = |id: &str| disk(json!({ "createOption": "Copy", "sourceResourceId": id }));
    made(&site, &snapshot, copy(&first)).await;
    let copied = made(&site, &second, copy(&snapshot)).await;
    for shown in [&imported, &copied] {
        assert_eq!(shown["properties"]["bullion"]["diskDigest"], DIGEST);
        assert_eq!(shown["properties"]["diskState"], "Unattached");
    }
    let empty = disk(json!({ "createOption": "Empty" }));
    let mut sized = empty.clone();
    sized["properties"]["diskSizeGB"] = json!(4);
    let shown = made(&site, &compute("disks", "empty"), sized).await;
    assert_eq!(shown["properties"]["diskSizeBytes"], 4u64 << 30);

    let from = |key: &str, id: &str| image(json!({ key: { "id": id } }));
    let shown = made(&site, &compute("images", "i"), from("snapshot", &snapshot)).await;
    assert_eq!(shown["properties"]["bullion"]["diskDigest"], DIGEST);
    made(&site, &compute("images", "j"), from("managedDisk", &second)).await;
    let body = json!({ "location": "north", "properties": { "storageProfile": { "osDiskImage": { "source": { "id": snapshot } } } } });
    made(&site, &format!("{definition}/versions/1.0.0"), body).await;
    let of_version = disk(
        json!({ "createOption": "FromImage", "galleryImageReference": { "id": format!("{definition}/versions/1.0.0") } }),
    );
    let shown = made(&site, &compute("disks", "c"), of_version).await;
    assert_eq!(shown["properties"]["bullion"]["diskDigest"], DIGEST);

    let (a, c) = (compute("disks", "x"), compute("disks", "a"));
    let lists = site
        .get(&format!(
            "/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Compute/disks"
        ))
        .await;
    assert_eq!(lists.body["value"].as_array().unwrap().len(), 4);
    check(&site, &a, empty, 400, "1 to 2048 GiB").await;
    check(&site, &a, disk(json!({})), 400, "createOption' is missing").await;
    check(
        &site,
        &a,
        disk(json!({ "createOption": "Upload" })),
        400,
        "must be one of",
    )
    .await;
    check(
        &site,
        &a,
        disk(json!({ "createOption": "Copy" })),
        400,
        "the id of one resource",
    )
    .await;
    check(
        &site,
        &a,
        disk(json!({ "createOption": "Import", "sourceResourceId": first })),
        400,
        "a sourceUri",
    )
    .await;
    check(
        &site,
        &a,
        copy(&compute("disks", "absent")),
        404,
        "is not found",
    )
    .await;
    check(&site, &c, copy(&snapshot), 409, "is not allowed").await;
    check(&site, &c, json!({ "location": "north" }), 200, "").await;
}

/// Its address may carry a signature, which nobody sees afterwards.
#[tokio::test]
async fn a_vhd_may_lie_at_a_host_that_the_operator_lists() {
    let dir = tempfile::tempdir().unwrap();
    let hosts = "fetch_hosts = [\"account.blob.example\"]\n";
    std::fs::write(dir.path().join("bullion.toml"), hosts).unwrap();
    let site = Site::start_in(dir.path()).await.with_group().await;
    let definition = definition(&site, GROUP).await;
    let uri = "https://account.blob.example/images/a.vhd?sv=1&sig=hush";
    let version = json!({
        "location": "north",
        "properties": { "storageProfile": { "osDiskImage": { "source": { "uri": uri } } } },
    });
    let check = async |path: &str, body: Value| {
        let shown = made(&site, path, body).await;
        assert_eq!(shown["properties"]["bullion"]["diskDigest"], DIGEST);
        assert!(!shown.to_string().contains("hush"), "{path}: {shown}");
    };
    check(&compute("images", "i"), image(json!({ "blobUri": uri }))).await;
    check(&format!("{definition}/versions/1.0.0"), version).await;
    let data = json!({ "createOption": "Import", "sourceUri": uri, "storageAccountId": null });
    check(&compute("disks", "d"), disk(data)).await;
    // Nor does anybody who gets hold of the server's files but not of its keys.
    let folder = site.running.data.clone();
    let holds = |path: &std::path::Path| {
        let bytes = std::fs::read(path).unwrap();
        bytes.windows(4).any(|part| part == b"hush")
    };
    let files = std::fs::read_dir(folder).unwrap().flatten();
    let files: Vec<_> = files
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
        .collect();
    assert!(
        files
            .iter()
            .any(|path| path.to_string_lossy().contains("bullion.db")),
        "{files:?}"
    );
    for path in files {
        assert!(!holds(&path), "{}", path.display());
    }
}

/// What another server sealed, an earlier release wrote, or somebody moved to another resource.
#[test]
fn an_address_is_opened_for_its_resource_by_who_sealed_it() {
    let folder = tempfile::tempdir().unwrap();
    let key = |name: &str| KeyFile::load_or_create(&folder.path().join(name)).unwrap();
    let (own, other) = (key("own"), key("other"));
    let id = |name: &str| {
        let text =
            format!("/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/disks/{name}");
        ResourceId::parse(&text).unwrap()
    };
    let signed = "https://account.blob.example/a.vhd?sig=hush";
    let sealed = SealedUri::seal(&own, &id("d"), signed).unwrap();
    assert!(!json!(sealed).to_string().contains("blob.example"));
    assert_eq!(sealed.open(&own, &id("d")).unwrap(), signed);
    for (key, name) in [(&other, "d"), (&own, "e")] {
        let error = sealed.open(key, &id(name)).unwrap_err().to_string();
        assert!(
            error.contains("keys/catalog.key") && !error.contains("hush"),
            "{error}"
        );
    }
    let earlier: SealedUri = serde_json::from_value(json!(signed)).unwrap();
    assert_eq!(earlier.open(&own, &id("d")).unwrap(), signed);
    // One that opens nothing may be read by any server.
    let plain = SealedUri::seal(&own, &id("d"), "https://a.example/a.vhd").unwrap();
    assert_eq!(
        plain.open(&other, &id("d")).unwrap(),
        "https://a.example/a.vhd"
    );
}

#[tokio::test]
async fn sources_that_are_none() {
    let site = Site::start().await.with_group().await;
    let definition = definition(&site, GROUP).await;
    let path = compute("images", "i");
    let url = &site.running.url;
    for (source, status, part) in [
        (json!({}), 400, "exactly one source"),
        (
            json!({ "blobUri": "http://169.254.169.254/latest" }),
            400,
            "blob folder",
        ),
        (
            json!({ "blobUri": "file:///etc/passwd" }),
            400,
            "blob folder",
        ),
        (
            json!({ "blobUri": format!("{url}/blobs/absent.vhd") }),
            400,
            "there is no blob",
        ),
        (
            json!({ "blobUri": format!("{url}/blobs/..%2f..%2fbullion.db") }),
            400,
            "blob",
        ),
        (
            json!({ "snapshot": { "id": compute("snapshots", "s") } }),
            404,
            "is not found",
        ),
        (json!({ "snapshot": { "id": GROUP } }), 400, "managed image"),
        (json!({ "snapshot": { "id": "s" } }), 400, "fully qualified"),
        (
            json!({ "osState": "Sleepy" }),
            400,
            "must be one of Generalized",
        ),
        (json!({ "osType": null }), 400, "osType' is missing"),
    ] {
        check(&site, &path, image(source), status, part).await;
    }
    let mut data = image(json!({ "blobUri": site.blob("a.vhd", b"x") }));
    data["properties"]["storageProfile"]["dataDisks"] = json!([{ "lun": 0 }]);
    check(&site, &path, data, 400, "has no source").await;
    check(
        &site,
        &path,
        json!({ "location": "north" }),
        400,
        "osDisk' is missing",
    )
    .await;

    // What cannot be read fails in the job and says so.
    let put = site
        .put(
            &path,
            image(json!({ "blobUri": site.blob("empty.vhd", b"") })),
        )
        .await;
    assert_eq!(put.status, 201, "{:?}", put.body);
    let ended = site.wait(put.header("azure-asyncoperation")).await;
    assert_eq!(
        ended.body["error"]["code"], "InvalidVhd",
        "{:?}",
        ended.body
    );
    let shown = site.get(&path).await.body;
    assert_eq!(shown["properties"]["provisioningState"], "Failed");
    let from = |id: &str| json!({ "location": "north", "properties": { "storageProfile": { "source": { "id": id } } } });
    let version = format!("{definition}/versions/1.0.0");
    check(&site, &version, from(&path), 409, "not ready").await;

    let uri = site.blob("tiny.vhd", &[7; 512]);
    let mut first = image(json!({ "blobUri": uri, "osState": "Specialized" }));
    made(&site, &compute("images", "special"), first.clone()).await;
    check(
        &site,
        &version,
        from(&compute("images", "special")),
        409,
        "OS State in the parent",
    )
    .await;
    first["properties"]["storageProfile"]["osDisk"]["osState"] = json!("Generalized");
    first["properties"]["hyperVGeneration"] = Value::Null;
    made(&site, &compute("images", "first"), first).await;
    let v2 = definition.replace("/golden", "/second");
    let mut body = definition_body();
    body["properties"]["hyperVGeneration"] = json!("V2");
    body["properties"]["identifier"]["sku"] = json!("other");
    assert_eq!(site.put(&v2, body).await.status, 201);
    let version = format!("{v2}/versions/1.0.0");
    check(
        &site,
        &version,
        from(&compute("images", "first")),
        409,
        "['V1'] than the parent",
    )
    .await;
    let both = json!({ "location": "north", "properties": { "storageProfile": {
        "source": { "id": compute("images", "first") },
        "osDiskImage": { "source": { "uri": uri } },
    } } });
    check(&site, &version, both, 400, "exactly one source").await;
}

#[tokio::test]
async fn an_image_of_another_tenant_needs_a_token_of_it() {
    let site = Site::start().await;
    let (_, token_1) = tenant(&site, "engineering").await;
    let (_, token_2) = tenant(&site, "production").await;
    subscription(&site, &token_1, SUBSCRIPTION).await;
    subscription(&site, &token_2, SUBSCRIPTION_2).await;
    let path = compute("images", "tiny");
    let uri = site.blob("tiny.vhd", &[7; 4096]);
    let put = site
        .ask_as(
            &token_1,
            "PUT",
            &path,
            Some(image(json!({ "blobUri": uri }))),
        )
        .await;
    let status = put.header("azure-asyncoperation");
    loop {
        let seen = site.ask_as(&token_1, "GET", status, None).await;
        if seen.body["status"] != "InProgress" {
            assert_eq!(seen.body["status"], "Succeeded", "{:?}", seen.body);
            break;
        }
    }
    let group = GROUP.replace(SUBSCRIPTION, SUBSCRIPTION_2);
    let version = definition_as(&site, &token_2, &group).await + "/versions/1.0.0";
    let body = json!({ "location": "north", "properties": { "storageProfile": { "source": { "id": path } } } });
    let put = async |auxiliary: Option<&str>| -> Answer {
        let url = format!("{}{version}?api-version=2024-03-03", site.running.url);
        let mut request = site.client.put(url).bearer_auth(&token_2).json(&body);
        if let Some(token) = auxiliary {
            request = request.header("x-ms-authorization-auxiliary", format!("Bearer {token}"));
        }
        answer(request).await
    };
    for auxiliary in [None, Some(token_2.as_str())] {
        let seen = put(auxiliary).await;
        assert_eq!(
            (seen.status, seen.code()),
            (403, "LinkedAuthorizationFailed"),
            "{:?}",
            seen.body
        );
        assert!(seen.message().contains("images/read"), "{:?}", seen.body);
    }
    assert_eq!(put(Some("x.y.z")).await.status, 401);
    let seen = put(Some(&token_1)).await;
    assert_eq!(seen.status, 201, "{:?}", seen.body);
}

#[tokio::test]
async fn blobs_are_read_like_page_blobs() {
    let site = Site::start().await;
    let bytes: Vec<u8> = (0..200_000u32).map(|number| number as u8).collect();
    let uri = site.blob("a.vhd", &bytes);
    let get = async |range: &str| {
        let mut request = site.client.get(&uri);
        if !range.is_empty() {
            request = request.header("range", range);
        }
        let response = request.send().await.unwrap();
        let range = response.headers().get("content-range").cloned();
        let range = range.map(|range| range.to_str().unwrap().to_string());
        let kind = response.headers().get("x-ms-blob-type").cloned();
        (
            response.status().as_u16(),
            range,
            kind,
            response.bytes().await.unwrap(),
        )
    };
    let (status, _, kind, all) = get("").await;
    assert_eq!((status, kind.unwrap().to_str().unwrap()), (200, "PageBlob"));
    assert_eq!(all, bytes);
    let (status, range, _, part) = get("bytes=100000-100099").await;
    assert_eq!(
        (status, range.as_deref()),
        (206, Some("bytes 100000-100099/200000"))
    );
    assert_eq!(part, bytes[100_000..100_100]);
    assert_eq!(get("bytes=300000-").await.0, 416);
    let head = site.client.head(&uri).send().await.unwrap();
    assert_eq!(head.headers()["content-length"], "200000");
    for path in [
        "/blobs/absent.vhd",
        "/blobs/..%2fbullion.db",
        "/blobs/%2e%2e/admin.json",
    ] {
        let seen = answer(site.client.get(format!("{}{path}", site.running.url))).await;
        assert!([400, 401, 404].contains(&seen.status), "{path}: {seen:?}");
        assert!(!seen.body.to_string().contains("clientSecret"));
    }
    assert_eq!(answer(site.client.post(&uri)).await.status, 405);
}
