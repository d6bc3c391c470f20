//! Versions as image files: whole, in parts, and to nobody without the right.

use serde_json::json;

use super::fake::{DIGEST, exported_disk};
use super::galleries::definition;
use super::site::{GROUP, Site, VERSION};

const MIB: usize = 1 << 20;

async fn version(site: &Site) -> String {
    let definition = definition(site, GROUP).await;
    let uri = site.blob("tiny.vhd", &[7; 4096]);
    let path = format!("{definition}/versions/1.0.0");
    let source = json!({ "osDiskImage": { "source": { "uri": uri } } });
    let body = json!({ "location": "north", "properties": { "storageProfile": source } });
    let put = site.put(&path, body).await;
    let ended = site.wait(put.header("azure-asyncoperation")).await;
    assert_eq!(ended.body["status"], "Succeeded", "{:?}", ended.body);
    path
}

fn url(site: &Site, version: &str, format: &str) -> String {
    let url = &site.running.url;
    format!("{url}{version}/providers/Bullion.Factory/exports/{format}?{VERSION}")
}

#[tokio::test]
async fn a_version_is_downloaded_whole_and_in_parts() {
    let site = Site::start().await.with_group().await;
    let version = version(&site).await;
    let url = url(&site, &version, "raw");
    let get = || site.client.get(&url).bearer_auth(&site.token);
    let whole = get().send().await.unwrap();
    assert_eq!(whole.status(), 200);
    let headers = whole.headers().clone();
    let header = |name: &str| headers[name].to_str().unwrap();
    assert_eq!(header("bullion-disk-digest"), DIGEST);
    assert_eq!(header("content-length"), MIB.to_string());
    assert_eq!(
        header("content-disposition"),
        "attachment; filename=\"golden-1.0.0.raw\""
    );
    let etag = header("etag").to_owned();
    let disk = exported_disk();
    assert!(whole.bytes().await.unwrap() == disk);

    // What is asked for, and what comes: status, range.
    let check = async |name: &str, value: &str, if_range: &str, status: u16, part: &str| {
        let mut request = get().header(name, value);
        if !if_range.is_empty() {
            request = request.header("if-range", if_range);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), status, "{value}");
        let range = answer.headers().get("content-range");
        assert_eq!(range.map_or("", |range| range.to_str().unwrap()), part);
        answer.bytes().await.unwrap()
    };
    let last = MIB - 1;
    let rest_of = format!("bytes 700000-{last}/{MIB}");
    let rest = check("range", "bytes=700000-", &etag, 206, &rest_of);
    assert!(rest.await == disk[700_000..]);
    let five = format!("bytes 5-9/{MIB}");
    let middle = check("range", "bytes=5-9", "", 206, &five);
    assert!(middle.await == disk[5..10]);
    let other = check("range", "bytes=5-9", "\"another\"", 200, "");
    assert!(other.await == disk);
    check(
        "range",
        "bytes=2000000-",
        "",
        416,
        &format!("bytes */{MIB}"),
    )
    .await;
    check("if-none-match", &etag, "", 304, "").await;

    let head = site
        .client
        .head(&url)
        .bearer_auth(&site.token)
        .send()
        .await
        .unwrap();
    assert_eq!(head.status(), 200);
    assert_eq!(head.headers()["content-length"], MIB.to_string().as_str());
}

#[tokio::test]
async fn every_format_is_there_and_nothing_else_is() {
    let site = Site::start().await.with_group().await;
    let version = version(&site).await;
    for (format, magic) in [
        ("qcow2", &b"QFI\xfb"[..]),
        ("vhd", &exported_disk()[..8]),
        ("vhd-dynamic", b"conectix"),
        ("VHDX", b"vhdxfile"),
    ] {
        let url = url(&site, &version, format);
        let get = || site.client.get(&url).bearer_auth(&site.token);
        let whole = get().send().await.unwrap().bytes().await.unwrap();
        assert!(whole.starts_with(magic), "{format}");
        let part = get().header("range", "bytes=100000-").send().await.unwrap();
        let part = part.bytes().await.unwrap();
        assert!(
            whole.get(100_000..).unwrap_or_default() == part || whole.len() < 100_001,
            "{format}"
        );
    }
    let vmdk = site
        .get(&format!("{version}/providers/Bullion.Factory/exports/vmdk"))
        .await;
    assert_eq!(vmdk.status, 404);
    assert!(
        vmdk.message()
            .contains("raw, qcow2, vhd, vhd-dynamic, vhdx"),
        "{:?}",
        vmdk.body
    );
    let gallery = format!("{GROUP}/providers/Microsoft.Compute/galleries/g");
    let of_gallery = site
        .get(&format!("{gallery}/providers/Bullion.Factory/exports/raw"))
        .await;
    assert_eq!(of_gallery.status, 404);
}
