//! Data disks of versions and managed images: from every source, by Azure's rules, and along with every copy.

use serde_json::{Value, json};

use super::bits::made;
use super::fake::DIGEST;
use super::galleries::definition;
use super::site::{GROUP, Site};

const SECOND: &str = "bd1:0202020202020202020202020202020202020202020202020202020202020202";
const THIRD: &str = "bd1:0303030303030303030303030303030303030303030303030303030303030303";

fn compute(kind: &str, name: &str) -> String {
    format!("{GROUP}/providers/Microsoft.Compute/{kind}/{name}")
}

fn version(profile: Value) -> Value {
    json!({ "location": "north", "properties": { "storageProfile": profile } })
}

/// A site with a definition, a disk and a snapshot of other bytes.
async fn site() -> (Site, String) {
    let site = Site::start().await.with_group().await;
    let definition = definition(&site, GROUP).await;
    for (kind, name, byte) in [
        ("disks", "two", 2),
        ("snapshots", "three", 3),
        ("snapshots", "os", 7),
    ] {
        let uri = site.blob(&format!("{name}.vhd"), &[byte; 4096]);
        let data = json!({ "createOption": "Import", "sourceUri": uri });
        let body = json!({ "location": "north", "properties": { "creationData": data } });
        made(&site, &compute(kind, name), body).await;
    }
    (site, definition)
}

async fn check(site: &Site, path: &str, body: Value, status: u16, part: &str) {
    let seen = site.put(path, body.clone()).await;
    assert_eq!(seen.status, status, "{path} {body}: {:?}", seen.body);
    assert!(seen.message().contains(part), "{body}: {:?}", seen.body);
}

fn facts(shown: &Value) -> Vec<(u64, &str)> {
    let facts = shown["properties"]["bullion"]["dataDisks"].as_array();
    let facts = facts.into_iter().flatten();
    facts
        .map(|fact| {
            (
                fact["lun"].as_u64().unwrap(),
                fact["diskDigest"].as_str().unwrap(),
            )
        })
        .collect()
}

#[tokio::test]
async fn a_version_has_the_disks_of_its_sources_and_gives_them_on() {
    let (site, definition) = site().await;
    let uri = site.blob("data.vhd", &[3; 8192]);
    let profile = json!({
        "osDiskImage": { "source": { "id": compute("snapshots", "os") } },
        "dataDiskImages": [
            { "lun": 4, "source": { "uri": uri } },
            { "lun": 0, "hostCaching": "ReadOnly", "source": { "id": compute("disks", "two") } },
        ],
    });
    let first = format!("{definition}/versions/1.0.0");
    let shown = made(&site, &first, version(profile.clone())).await;
    assert_eq!(shown["properties"]["provisioningState"], "Succeeded");
    assert_eq!(shown["properties"]["bullion"]["diskDigest"], DIGEST);
    assert_eq!(facts(&shown), [(0, SECOND), (4, THIRD)]);
    let images = &shown["properties"]["storageProfile"]["dataDiskImages"];
    assert_eq!(
        images[0],
        json!({
            "lun": 0, "hostCaching": "ReadOnly", "sizeInGB": 1, "source": { "id": compute("disks", "two") },
        })
    );
    assert_eq!(images[1]["lun"], 4);
    assert_eq!(
        (&images[1]["hostCaching"], &images[1]["sizeInGB"]),
        (&json!("None"), &json!(1))
    );
    // What was read may be sent back, and be left out; not changed.
    check(&site, &first, version(profile.clone()), 200, "").await;
    check(&site, &first, version(json!({})), 200, "").await;
    let mut other = profile;
    other["dataDiskImages"][1]["source"]["id"] = json!(compute("snapshots", "three"));
    check(&site, &first, version(other), 409, "is not allowed").await;

    let copy = version(json!({ "source": { "id": first } }));
    let shown = made(&site, &format!("{definition}/versions/1.0.1"), copy).await;
    assert_eq!(facts(&shown), [(0, SECOND), (4, THIRD)]);
    let images = &shown["properties"]["storageProfile"]["dataDiskImages"];
    assert_eq!(
        images[0],
        json!({ "lun": 0, "hostCaching": "ReadOnly", "sizeInGB": 1 })
    );

    // One of them as a disk.
    let reference = json!({ "id": first, "lun": 4 });
    let data = json!({ "createOption": "FromImage", "galleryImageReference": reference });
    let body = json!({ "location": "north", "properties": { "creationData": data } });
    let shown = made(&site, &compute("disks", "four"), body.clone()).await;
    assert_eq!(shown["properties"]["bullion"]["diskDigest"], THIRD);
    assert_eq!(shown["properties"]["diskSizeBytes"], 8192);
    let mut absent = body.clone();
    absent["properties"]["creationData"]["galleryImageReference"]["lun"] = json!(5);
    check(
        &site,
        &compute("disks", "five"),
        absent,
        400,
        "no data disk",
    )
    .await;
    let mut os = body;
    os["properties"]["creationData"]["galleryImageReference"] = json!({ "id": first });
    let shown = made(&site, &compute("disks", "os"), os).await;
    assert_eq!(shown["properties"]["bullion"]["diskDigest"], DIGEST);
    assert_eq!(facts(&shown), []);

    // And as an image file.
    let url = |lun: &str| format!("{first}/providers/Bullion.Factory/exports/raw?lun={lun}");
    let get = |lun| {
        let url = format!("{}{}&api-version=2026-11-01", site.running.url, url(lun));
        site.client.get(url).bearer_auth(&site.token).send()
    };
    let answer = get("4").await.unwrap();
    let name = answer.headers()["content-disposition"].to_str().unwrap();
    assert_eq!(
        (answer.status().as_u16(), name),
        (200, "attachment; filename=\"golden-1.0.0-lun4.raw\"")
    );
    assert_eq!(get("3").await.unwrap().status(), 404);
    assert_eq!(get("x").await.unwrap().status(), 400);
}

#[tokio::test]
async fn an_image_has_data_disks_of_every_source() {
    let (site, definition) = site().await;
    let uri = site.blob("data.vhd", &[9; 4096]);
    let image = |data: Value| {
        json!({ "location": "north", "properties": {
            "hyperVGeneration": "V2",
            "storageProfile": {
                "osDisk": { "osType": "Linux", "osState": "Generalized", "snapshot": { "id": compute("snapshots", "os") } },
                "dataDisks": data,
            },
        } })
    };
    let data = json!([
        { "lun": 1, "blobUri": uri },
        { "lun": 2, "managedDisk": { "id": compute("disks", "two") }, "caching": "ReadWrite" },
        { "lun": 3, "snapshot": { "id": compute("snapshots", "three") } },
    ]);
    let path = compute("images", "many");
    let shown = made(&site, &path, image(data)).await;
    assert_eq!(
        shown["properties"]["provisioningState"], "Succeeded",
        "{shown}"
    );
    let nine = DIGEST.replace("01", "09");
    assert_eq!(facts(&shown), [(1, nine.as_str()), (2, SECOND), (3, THIRD)]);
    assert_eq!(
        shown["properties"]["storageProfile"]["dataDisks"][0]["diskSizeGB"],
        1
    );
    // Without a file to read there is nothing to wait for.
    let known = json!([{ "lun": 2, "managedDisk": { "id": compute("disks", "two") } }]);
    let put = site.put(&compute("images", "known"), image(known)).await;
    assert_eq!(
        put.body["properties"]["provisioningState"], "Succeeded",
        "{:?}",
        put.body
    );
    let shown = made(
        &site,
        &format!("{definition}/versions/1.0.0"),
        version(json!({ "source": { "id": path } })),
    )
    .await;
    assert_eq!(facts(&shown), [(1, nine.as_str()), (2, SECOND), (3, THIRD)]);
    let images = &shown["properties"]["storageProfile"]["dataDiskImages"];
    assert_eq!(
        images[1],
        json!({ "lun": 2, "hostCaching": "ReadWrite", "sizeInGB": 1 })
    );
    // The client's word about caching counts, not one about a disk that is not there.
    let own = json!({ "source": { "id": path }, "dataDiskImages": [{ "lun": 3, "hostCaching": "ReadOnly" }] });
    let shown = made(&site, &format!("{definition}/versions/1.0.1"), version(own)).await;
    assert_eq!(
        shown["properties"]["storageProfile"]["dataDiskImages"][2]["hostCaching"],
        "ReadOnly"
    );
}

#[tokio::test]
async fn rules_of_data_disks() {
    let (site, definition) = site().await;
    let os = json!({ "source": { "id": compute("snapshots", "os") } });
    let two = json!({ "id": compute("disks", "two") });
    let uri = site.blob("same.vhd", &[3; 8192]);
    let with = |data: Value| version(json!({ "osDiskImage": os, "dataDiskImages": data }));
    let path = format!("{definition}/versions/1.0.0");
    for (data, part) in [
        (
            json!([{ "lun": 1, "source": two }, { "lun": 1, "source": { "uri": uri } }]),
            "Duplicated lun numbers have been detected in the input data disks. Lun number must be unique for \
             each data disk",
        ),
        (json!([{ "source": two }]), "lun' is missing"),
        (
            json!([{ "lun": 64, "source": two }]),
            "between 0 and 63, inclusive",
        ),
        (json!([{ "lun": -1, "source": two }]), "out of range"),
        (json!([{ "lun": 1 }]), "has no source"),
        (
            json!([{ "lun": 1, "source": two }, { "lun": 2, "source": two }]),
            "source of its own",
        ),
        (
            json!([{ "lun": 1, "source": { "uri": uri } }, { "lun": 2, "source": { "uri": uri } }]),
            "source of its own",
        ),
        (
            json!([{ "lun": 1, "source": { "id": compute("snapshots", "os") } }]),
            "source of its own",
        ),
        (
            json!([{ "lun": 1, "source": { "id": definition } }]),
            "managed image",
        ),
        (
            json!([{ "lun": 1, "source": { "uri": "https://example.test/a.vhd" } }]),
            "blob folder",
        ),
        (json!({ "lun": 1 }), "an array"),
    ] {
        check(&site, &path, with(data), 400, part).await;
    }
    let gone = json!([{ "lun": 1, "source": { "id": compute("disks", "absent") } }]);
    check(&site, &path, with(gone), 404, "is not found").await;
    made(&site, &path, with(json!([{ "lun": 1, "source": two }]))).await;
    // A whole image brings its own, or none.
    let whole = json!({ "source": { "id": path }, "dataDiskImages": [{ "lun": 2, "source": { "uri": uri } }] });
    let second = format!("{definition}/versions/1.0.1");
    check(&site, &second, version(whole), 400, "OS disk only").await;
    let of_version = json!([{ "lun": 1, "source": { "id": path } }]);
    check(
        &site,
        &second,
        with(of_version),
        400,
        "a disk, a snapshot or a VHD",
    )
    .await;
    let many: Vec<Value> = (0..65).map(|lun| json!({ "lun": lun })).collect();
    check(&site, &second, with(json!(many)), 400, "at most 64").await;
}
