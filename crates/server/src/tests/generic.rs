//! What every type has: tags by themselves, PATCH, conditions, lists with filters, and limits of rate.

use serde_json::{Value, json};

use super::site::{GROUP, SUBSCRIPTION, Site, answer};

const TAGS: &str = "providers/Microsoft.Resources/tags/default";

async fn gallery(site: &Site, name: &str, tags: Value) -> String {
    let path = format!("{GROUP}/providers/Microsoft.Compute/galleries/{name}");
    let body = json!({ "location": "north", "tags": tags, "properties": { "description": name } });
    let made = site.put(&path, body).await;
    assert_eq!(made.status, 201, "{:?}", made.body);
    path
}

#[tokio::test]
async fn tags_by_themselves() {
    let site = Site::start().await.with_group().await;
    let path = gallery(&site, "g1", json!({ "a": "1" })).await;
    let tags = format!("{path}/{TAGS}");
    let patch = |operation: &str, tags: Value| json!({ "operation": operation, "properties": { "tags": tags } });
    for (method, body, expected) in [
        ("GET", None, json!({ "a": "1" })),
        (
            "PATCH",
            Some(patch("Merge", json!({ "A": "2", "b": "3" }))),
            json!({ "A": "2", "b": "3" }),
        ),
        (
            "PATCH",
            Some(patch("Delete", json!({ "a": "2" }))),
            json!({ "b": "3" }),
        ),
        (
            "PATCH",
            Some(patch("Delete", json!({ "b": "other" }))),
            json!({ "b": "3" }),
        ),
        (
            "PATCH",
            Some(patch("Replace", json!({ "c": "4" }))),
            json!({ "c": "4" }),
        ),
        (
            "PUT",
            Some(json!({ "properties": { "tags": { "d": "5" } } })),
            json!({ "d": "5" }),
        ),
    ] {
        let answer = site.ask(method, &tags, body.clone()).await;
        assert_eq!(answer.status, 200, "{method} {body:?}: {:?}", answer.body);
        assert_eq!(
            answer.body["properties"]["tags"], expected,
            "{method} {body:?}"
        );
        assert_eq!(answer.body["name"], "default");
        let shown = site.get(&path).await;
        assert_eq!(shown.body["tags"], expected);
        assert_eq!(
            shown.body["properties"]["description"], "g1",
            "nothing else moves"
        );
    }
    assert_eq!(site.delete(&tags).await.status, 200);
    assert_eq!(site.get(&path).await.body["tags"], json!({}));
    for (method, path, body, status) in [
        (
            "PATCH",
            tags.clone(),
            json!({ "operation": "Set", "properties": {} }),
            400,
        ),
        ("PATCH", tags.clone(), json!([]), 400),
        (
            "PUT",
            tags.clone(),
            json!({ "properties": { "tags": { "a": 1 } } }),
            400,
        ),
        (
            "PUT",
            format!("{path}/providers/Microsoft.Resources/tags/other"),
            json!({ "properties": {} }),
            400,
        ),
        (
            "PUT",
            format!("{path}x/{TAGS}"),
            json!({ "properties": {} }),
            404,
        ),
    ] {
        let answer = site.ask(method, &path, Some(body.clone())).await;
        assert_eq!(
            answer.status, status,
            "{method} {path} {body}: {:?}",
            answer.body
        );
    }
    // Groups and subscriptions have them, too.
    for scope in [GROUP.to_string(), format!("/subscriptions/{SUBSCRIPTION}")] {
        let put = site
            .put(
                &format!("{scope}/{TAGS}"),
                json!({ "properties": { "tags": { "x": "y" } } }),
            )
            .await;
        assert_eq!(put.status, 200, "{:?}", put.body);
        assert_eq!(site.get(&scope).await.body["tags"], json!({ "x": "y" }));
    }
}

#[tokio::test]
async fn a_patch_changes_what_it_names() {
    let site = Site::start().await.with_group().await;
    let path = gallery(&site, "g1", json!({ "a": "1" })).await;
    let patched = site
        .ask("PATCH", &path, Some(json!({ "tags": { "b": "2" } })))
        .await;
    assert_eq!(patched.status, 200, "{:?}", patched.body);
    assert_eq!(patched.body["tags"], json!({ "b": "2" }));
    assert_eq!(patched.body["properties"]["description"], "g1");
    let patched = site
        .ask(
            "PATCH",
            &path,
            Some(json!({ "properties": { "description": "new" } })),
        )
        .await;
    assert_eq!(patched.body["properties"]["description"], "new");
    assert_eq!(patched.body["tags"], json!({ "b": "2" }));
    let group = site
        .ask("PATCH", GROUP, Some(json!({ "tags": { "team": "x" } })))
        .await;
    assert_eq!(
        (group.status, &group.body["tags"]),
        (200, &json!({ "team": "x" })),
        "{:?}",
        group.body
    );
    for (path, body, status) in [
        (path.clone(), json!({ "location": "south" }), 409),
        (path.clone(), json!([]), 400),
        (format!("{path}x"), json!({ "tags": {} }), 404),
        (
            format!(
                "{GROUP}/providers/Microsoft.Authorization/roleAssignments/22222222-2222-4222-8222-222222222222"
            ),
            json!({}),
            405,
        ),
    ] {
        let answer = site.ask("PATCH", &path, Some(body.clone())).await;
        assert_eq!(answer.status, status, "{path} {body}: {:?}", answer.body);
    }
}

/// Asks with one more header.
async fn with(
    site: &Site,
    method: &str,
    path: &str,
    header: (&str, &str),
    body: Option<Value>,
) -> super::site::Answer {
    let url = format!("{}{path}?api-version=2026-11-01", site.running.url);
    let request = site
        .client
        .request(method.parse().unwrap(), url)
        .bearer_auth(&site.token);
    let request = request.header(header.0, header.1);
    answer(match body {
        Some(body) => request.json(&body),
        None => request,
    })
    .await
}

#[tokio::test]
async fn conditions_are_about_the_etag() {
    let site = Site::start().await.with_group().await;
    let path = gallery(&site, "g1", json!({})).await;
    let shown = site.get(&path).await;
    let etag = shown.header("etag").to_string();
    assert_eq!(shown.body["etag"], etag);
    let body = Some(json!({ "location": "north", "properties": { "description": "2" } }));
    for (method, header, body, status) in [
        ("GET", ("if-none-match", etag.as_str()), None, 304),
        ("GET", ("if-none-match", "\"other\""), None, 200),
        ("PUT", ("if-match", "\"other\""), body.clone(), 412),
        ("PUT", ("if-none-match", "*"), body.clone(), 412),
        (
            "PATCH",
            ("if-match", "\"other\""),
            Some(json!({ "tags": {} })),
            412,
        ),
        ("PUT", ("if-match", etag.as_str()), body.clone(), 200),
        ("PUT", ("if-match", etag.as_str()), body, 412),
        ("DELETE", ("if-match", etag.as_str()), None, 412),
        ("DELETE", ("if-match", "*"), None, 200),
    ] {
        let answer = with(&site, method, &path, header, body).await;
        assert_eq!(
            answer.status, status,
            "{method} {header:?}: {:?}",
            answer.body
        );
    }
}

#[tokio::test]
async fn lists_of_everything() {
    let site = Site::start().await.with_group().await;
    for (name, tags) in [
        ("g1", json!({ "a": "1" })),
        ("g2", json!({ "a": "2" })),
        ("other", json!({})),
    ] {
        gallery(&site, name, tags).await;
    }
    let all = format!("/subscriptions/{SUBSCRIPTION}/resources?api-version=2024-11-01");
    for (query, expected) in [
        ("", vec!["g1", "g2", "other"]),
        ("&$filter=", vec!["g1", "g2", "other"]),
        (
            "&$filter=resourceType eq 'Microsoft.Compute/galleries' and tagName eq 'a'",
            vec!["g1", "g2"],
        ),
        ("&$filter=tagname eq 'a' and tagvalue eq '2'", vec!["g2"]),
        ("&$filter=substringof('the', name)", vec!["other"]),
        ("&$filter=resourceGroup eq 'nobody'", vec![]),
    ] {
        let answer = site.get(&format!("{all}{query}")).await;
        assert_eq!(answer.status, 200, "{query}: {:?}", answer.body);
        let names: Vec<&str> = answer.body["value"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, expected, "{query}");
    }
    // A page is full where there is enough, whatever the filter leaves out on the way.
    let page = site
        .get(&format!("{all}&$top=2&$filter=tagName eq 'a'"))
        .await;
    assert_eq!(page.body["value"].as_array().unwrap().len(), 2);
    let first = site
        .get(&format!(
            "{all}&$top=1&$expand=createdTime,provisioningState"
        ))
        .await;
    assert_eq!(first.body["value"][0]["provisioningState"], "Succeeded");
    assert!(first.body["value"][0].get("changedTime").is_none());
    let second = site.get(first.body["nextLink"].as_str().unwrap()).await;
    assert_eq!(second.body["value"][0]["name"], "g2");
    assert!(
        second.body["value"][0]["createdTime"].is_string(),
        "a next link keeps what was asked"
    );
}

#[tokio::test]
async fn who_asks_too_fast_waits() {
    let dir = tempfile::tempdir().unwrap();
    let text = "[rates]\nreads = { burst = 3, per_second = 1 }\n";
    std::fs::write(dir.path().join("bullion.toml"), text).unwrap();
    let site = Site::start_in(dir.path()).await.with_group().await;
    let header = "x-ms-ratelimit-remaining-subscription-reads";
    let first = site.get(GROUP).await;
    assert_eq!((first.status, first.header(header)), (200, "2"));
    let mut refused = None;
    for _ in 0..20 {
        let answer = site.get(GROUP).await;
        if answer.status == 429 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("three at once are all there are");
    assert_eq!(refused.code(), "TooManyRequests");
    assert_eq!(refused.header("retry-after"), "1");
    let write = site.put(GROUP, json!({ "location": "north" })).await;
    assert_eq!(write.status, 200, "writes are counted by themselves");
}
