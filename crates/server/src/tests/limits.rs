//! Limits of what a subscription may have in a region: told to requests and met by jobs.

use serde_json::json;

use super::compute::{GALLERY, check, seen_by};
use super::galleries::{definition, publish};
use super::site::{GROUP, SUBSCRIPTION, Site};

/// What builds and promotions write on their own; a step that is done again finds what it wrote.
async fn jobs_meet_the_limits(site: &Site, version: &str) {
    let path = site.running.data.join("bullion.db");
    let catalog = catalog::SqliteCatalog::open(&path).await.unwrap();
    let limits = crate::limits::Limits {
        image_versions: 1,
        ..Default::default()
    };
    for (id, location, code) in [
        (version.to_owned(), "north", None),
        (format!("{version}1"), "south", None),
        (
            format!("{version}1"),
            "north",
            Some(wire::ErrorCode::OperationNotAllowed),
        ),
    ] {
        let id = wire::ResourceId::parse(&id).unwrap();
        let location = wire::Location::new(location);
        let answer =
            crate::limits::need_room_for(&catalog, &limits, site.tenant, &id, &location).await;
        assert_eq!(
            answer.err().map(|refusal| refusal.code),
            code,
            "{id} in {location}"
        );
    }
}

#[tokio::test]
async fn limits_are_told_and_shown() {
    let dir = tempfile::tempdir().unwrap();
    let limits = "[limits]\ngalleries = 1\nimage_definitions = 2\nimage_versions = 1\n";
    std::fs::write(dir.path().join("bullion.toml"), limits).unwrap();
    let site = Site::start_in(dir.path()).await.with_group().await;
    let image = definition(&site, GROUP).await;
    let version = format!("{image}/versions/1.0.0");
    publish(&site, &version, &["north"]).await;
    let second = format!("{GALLERY}2");
    check(
        &site,
        "PUT",
        &second,
        json!({ "location": "north" }),
        409,
        "Current Limit: 1, Current Usage: 1",
    )
    .await;
    check(
        &site,
        "PUT",
        &second,
        json!({ "location": "south" }),
        201,
        "",
    )
    .await;
    let copy = json!({ "location": "north", "properties": { "storageProfile": { "source": { "id": version } } } });
    check(
        &site,
        "PUT",
        &format!("{image}/versions/1.0.1"),
        copy,
        409,
        "OperationNotAllowed",
    )
    .await;
    check(
        &site,
        "PUT",
        GALLERY,
        json!({ "location": "north" }),
        200,
        "",
    )
    .await;
    jobs_meet_the_limits(&site, &version).await;
    let usages = site.get(&seen_by(SUBSCRIPTION, "North/usages")).await.body;
    let found: Vec<_> = usages["value"]
        .as_array()
        .unwrap()
        .iter()
        .map(|usage| {
            (
                usage["name"]["value"].as_str().unwrap(),
                usage["currentValue"].as_u64().unwrap(),
                usage["limit"].as_u64().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        found[..3],
        [
            ("galleries", 1, 1),
            ("galleryImages", 1, 2),
            ("galleryImageVersions", 1, 1)
        ]
    );
    let sizes = site.get(&seen_by(SUBSCRIPTION, "north/vmSizes")).await.body;
    assert_eq!(sizes["value"][1]["name"], "Standard_B1s");
}
