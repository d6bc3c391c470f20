//! Disks and snapshots by URL: for a while, in parts, and to nobody else.

use http::Method;
use serde_json::{Value, json};

use super::bits::made;
use super::fake::exported_disk;
use super::site::{GROUP, Site};

async fn disk(site: &Site, kind: &str) -> String {
    let path = format!("{GROUP}/providers/Microsoft.Compute/{kind}/d");
    let uri = site.blob("tiny.vhd", &[7; 4096]);
    let data = json!({ "createOption": "Import", "sourceUri": uri });
    let body = json!({ "location": "north", "properties": { "creationData": data } });
    made(site, &path, body).await;
    path
}

async fn begin(site: &Site, disk: &str, body: Value) -> super::site::Answer {
    site.ask("POST", &format!("{disk}/beginGetAccess"), Some(body))
        .await
}

async fn read(site: &Site, url: &str, header: Option<(&str, &str)>) -> (u16, Vec<u8>) {
    let mut request = site.client.get(url);
    if let Some((name, value)) = header {
        request = request.header(name, value);
    }
    let answer = request.send().await.unwrap();
    (
        answer.status().as_u16(),
        answer.bytes().await.unwrap().to_vec(),
    )
}

#[tokio::test]
async fn a_disk_is_read_by_its_url_until_that_is_revoked() {
    let site = Site::start().await.with_group().await;
    for kind in ["disks", "snapshots"] {
        let path = disk(&site, kind).await;
        let asked = json!({ "access": "Read", "durationInSeconds": 3600 });
        let answer = begin(&site, &path, asked).await;
        assert_eq!(answer.status, 200, "{:?}", answer.body);
        let url = answer.body["accessSAS"].as_str().unwrap().to_owned();
        let shown = site.get(&path).await.body;
        assert_eq!(shown["properties"]["diskState"], "ActiveSAS");
        assert_eq!(shown["properties"]["bullion"].get("access"), None);
        assert!(!shown.to_string().contains("sig="));
        let (status, whole) = read(&site, &url, None).await;
        let size = exported_disk().len();
        assert_eq!((status, whole.len()), (200, size + 512));
        assert!(whole[..size] == exported_disk() && whole[size..].starts_with(b"conectix"));
        for name in ["range", "x-ms-range"] {
            let (status, part) = read(&site, &url, Some((name, "bytes=1000-1999"))).await;
            assert_eq!((status, &part[..]), (206, &whole[1000..2000]));
        }
        let head = site.client.head(&url).send().await.unwrap();
        assert_eq!(head.headers()["x-ms-blob-type"], "PageBlob");
        assert_eq!(
            head.headers()["content-length"],
            (size + 512).to_string().as_str()
        );

        let forged = format!("{url}A");
        let no_token = url.split("&sig=").next().unwrap().to_owned();
        let other = url.replace(&format!("/{kind}/d"), &format!("/{kind}/e"));
        for url in [&forged, &no_token, &other] {
            assert_eq!(read(&site, url, None).await.0, 403, "{url}");
        }
        let put = site.client.request(Method::PUT, &url).send().await.unwrap();
        assert_eq!(put.status(), 405);
        let seen = site.delete(&path).await;
        assert!(
            seen.message().contains("Call EndGetAccess"),
            "{:?}",
            seen.body
        );
        let end = format!("{path}/endGetAccess");
        assert_eq!(site.ask("POST", &end, None).await.status, 200);
        assert_eq!(read(&site, &url, None).await.0, 403);
        let shown = site.get(&path).await.body;
        assert_eq!(shown["properties"]["diskState"], "Unattached");
        assert_eq!(site.delete(&path).await.status, 200);
    }
}

#[tokio::test]
async fn a_url_ends_with_its_time() {
    let site = Site::start().await.with_group().await;
    let path = disk(&site, "disks").await;
    let answer = begin(
        &site,
        &path,
        json!({ "access": "Read", "durationInSeconds": 1 }),
    )
    .await;
    let url = answer.body["accessSAS"].as_str().unwrap().to_owned();
    // The longer the server takes, the later; it ends in any case.
    while read(&site, &url, Some(("range", "bytes=0-0"))).await.0 != 403 {}
    let shown = site.get(&path).await.body;
    assert_eq!(shown["properties"]["diskState"], "Unattached");
}

#[tokio::test]
async fn what_is_not_granted() {
    let site = Site::start().await.with_group().await;
    let path = disk(&site, "disks").await;
    for (body, part) in [
        (
            json!({ "access": "Write", "durationInSeconds": 60 }),
            "not uploaded",
        ),
        (
            json!({ "access": "None", "durationInSeconds": 60 }),
            "must be 'Read'",
        ),
        (json!({ "durationInSeconds": 60 }), "must be 'Read'"),
        (json!({ "access": "Read" }), "out of range"),
        (
            json!({ "access": "Read", "durationInSeconds": 0 }),
            "out of range",
        ),
        (
            json!({ "access": "Read", "durationInSeconds": 60, "fileFormat": "ZIP" }),
            "'VHD' or 'VHDX'",
        ),
    ] {
        let seen = begin(&site, &path, body).await;
        assert_eq!(seen.status, 400, "{:?}", seen.body);
        assert!(seen.message().contains(part), "{:?}", seen.body);
    }
    let absent = format!("{GROUP}/providers/Microsoft.Compute/disks/none");
    let asked = json!({ "access": "Read", "durationInSeconds": 60 });
    assert_eq!(begin(&site, &absent, asked).await.status, 404);
}
