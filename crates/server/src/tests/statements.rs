//! What is known of a version's disk: statements that are checked before they are shown, packages, and what is affected.

use access::{Action, Permit, SystemReason};
use catalog::{
    Catalog as _, Draft, Precondition, SqliteCatalog, Statements as _, StoredBill, StoredPackage,
    StoredStatement,
};
use jiff::Timestamp;
use provenance::{IN_TOTO_PAYLOAD, PredicateType, SigningKey, Statement, Subject, disk_digest_set};
use serde_json::{Value, json};
use wire::ResourceId;

use super::bits::made;
use super::fake::{DIGEST, statement_key};
use super::galleries::definition;
use super::site::{GROUP, Site};

const OPENSSL: &str = r#"{"name":"libssl3","version":"3.0.14-1","architecture":"amd64","source":"openssl","sourceVersion":"3.0.14-1"}"#;
const DEBIAN: &str =
    r#"{"id":"debian","versionId":"12","prettyName":"Debian GNU/Linux 12 (bookworm)"}"#;
const ADVISORY: &str = r#"{"id":"CVE-2026-1","affected":[{"package":{"ecosystem":"Debian:12","name":"openssl"},
    "ranges":[{"type":"ECOSYSTEM","events":[{"introduced":"0"},{"fixed":"3.0.15-1"}]}]}]}"#;

/// A site with one version, and its path.
async fn with_version() -> (Site, String) {
    let site = Site::start().await.with_group().await;
    let definition = definition(&site, GROUP).await;
    let uri = site.blob("tiny.vhd", &[7; 4096]);
    let path = format!("{definition}/versions/1.0.0");
    let account = format!("{GROUP}/providers/Microsoft.Storage/storageAccounts/a");
    let body = json!({
        "location": "north",
        "properties": { "storageProfile": {
            "osDiskImage": { "source": { "uri": uri, "storageAccountId": account } },
        } },
    });
    made(&site, &path, body).await;
    (site, path)
}

/// The server's own catalog, as the factory writes to it.
async fn kept(site: &Site) -> (SqliteCatalog, Permit) {
    let catalog = SqliteCatalog::open(&site.running.data.join("bullion.db")).await;
    let permit = Permit::system(
        SystemReason::JobStatus,
        Action::new("Bullion.Factory/statements/write"),
        ResourceId::root(),
        site.tenant,
    );
    (catalog.expect("the catalog"), permit)
}

async fn keep(site: &Site, name: &str, key: &SigningKey, digest: &str) {
    let subject = Subject {
        name: "golden/debian 1.0.0".into(),
        digest: disk_digest_set(digest),
    };
    let statement = Statement::new(
        subject,
        PredicateType::TestResult,
        json!({ "result": "PASSED" }),
    );
    let payload = serde_json::to_vec(&statement).unwrap();
    let (catalog, permit) = kept(site).await;
    let statement = StoredStatement {
        name: name.into(),
        at: Timestamp::UNIX_EPOCH,
        envelope: serde_json::to_string(&key.seal(IN_TOTO_PAYLOAD, &payload)).unwrap(),
    };
    let done = catalog.keep_statement(&permit, DIGEST, &statement).await;
    done.expect("a statement");
}

#[tokio::test]
async fn only_a_statement_that_proves_something_is_shown() {
    let (site, version) = with_version().await;
    let statements = format!("{version}/providers/Bullion.Factory/statements");
    let empty = site.get(&statements).await;
    assert_eq!(empty.body["value"], json!([]), "{:?}", empty.body);
    keep(&site, "tests", &statement_key(), DIGEST).await;
    keep(&site, "foreign", &SigningKey::from_seed(&[8; 32]), DIGEST).await;
    keep(&site, "other", &statement_key(), "bd1:00").await;

    let listed = site.get(&statements).await.body;
    let names: Vec<&Value> = listed["value"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["name"])
        .collect();
    assert_eq!(names, ["foreign", "other", "tests"]);

    let check = async |name: &str, status: u16, part: &str| {
        let seen = site.get(&format!("{statements}/{name}")).await;
        assert_eq!(seen.status, status, "{name}: {:?}", seen.body);
        assert!(
            seen.body.to_string().contains(part),
            "{name}: {:?}",
            seen.body
        );
    };
    check("tests", 200, r#""result":"PASSED""#).await;
    check("Tests", 200, &statement_key().public().id()).await;
    check("foreign", 409, "none of the trusted keys").await;
    check("other", 409, "another disk").await;
    check("none", 404, "").await;
    let elsewhere = version.replace("1.0.0", "9.9.9");
    let seen = site
        .get(&format!("{elsewhere}/providers/Bullion.Factory/statements"))
        .await;
    assert_eq!(seen.status, 404, "{:?}", seen.body);

    let keys = "/providers/Bullion.Factory/statementKeys";
    let before = site.get(keys).await.body;
    assert_eq!(before["value"].as_array().unwrap().len(), 1);
    let rotated = site
        .ask(
            "POST",
            "/providers/Bullion.Factory/rotateStatementKey",
            None,
        )
        .await;
    assert_eq!(rotated.status, 200, "{:?}", rotated.body);
    let shown = rotated.body["value"].as_array().unwrap();
    let signs: Vec<&Value> = shown
        .iter()
        .map(|key| &key["properties"]["signs"])
        .collect();
    assert_eq!(signs, [true, false]);
    assert_eq!(shown[1]["name"], before["value"][0]["name"]);
    check("tests", 200, &statement_key().public().id()).await;
}

#[tokio::test]
async fn what_is_affected_is_found_by_package_and_by_advisory() {
    let (site, version) = with_version().await;
    let packages = format!("{version}/providers/Bullion.Factory/packages/default");
    assert_eq!(site.get(&packages).await.status, 404);
    let (catalog, permit) = kept(&site).await;
    let bill = StoredBill {
        system: DEBIAN.into(),
        packages: vec![StoredPackage {
            name: "libssl3".into(),
            source: "openssl".into(),
            body: OPENSSL.into(),
        }],
    };
    catalog
        .keep_bill(&permit, DIGEST, &bill)
        .await
        .expect("a bill");
    let shown = site.get(&packages).await.body;
    assert_eq!(shown["properties"]["packages"][0]["name"], "libssl3");
    let same = site
        .ask(
            "POST",
            &format!("{version}/comparePackages"),
            Some(json!({ "baseVersion": version })),
        )
        .await;
    assert_eq!(
        (same.status, &same.body["value"]),
        (200, &json!([])),
        "{:?}",
        same.body
    );
    let nothing = site
        .ask(
            "POST",
            &format!("{version}/comparePackages"),
            Some(json!({})),
        )
        .await;
    assert_eq!(nothing.status, 400, "{:?}", nothing.body);

    let folder = site.running.data.join("advisories");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("one.json"), ADVISORY).unwrap();
    let subscription = GROUP.split("/resourceGroups").next().unwrap();
    let check = async |query: &str, status: u16, expected: &str| {
        let path = format!(
            "{subscription}/providers/Bullion.Factory/affected?api-version=2026-11-01&query={query}"
        );
        let seen = site.get(&path).await;
        assert_eq!(seen.status, status, "{query}: {:?}", seen.body);
        let found = match status {
            200 => seen.body["value"].to_string(),
            _ => seen.message().to_owned(),
        };
        assert!(found.contains(expected), "{query}: {found}");
    };
    check("libssl3%3C3.0.15", 200, "versions/1.0.0").await;
    check("openssl", 200, r#""package":"libssl3""#).await;
    check("libssl3%3C3.0.14", 200, "[]").await;
    check("bash", 200, "[]").await;
    check("cve-2026-1", 200, r#""fixed":"3.0.15-1""#).await;
    check("CVE-2026-2", 404, "No advisory is called").await;
    check("", 400, "neither an advisory").await;
}

/// Versions of as many disks, each with packages that most of them share.
const MANY_VERSIONS: usize = 300;
const PACKAGES_EACH: usize = 20;
/// Every so many versions the flaw is in.
const FLAWED_EACH: usize = 10;

#[tokio::test]
async fn many_versions_are_asked_at_once() {
    let (site, version) = with_version().await;
    let (catalog, _) = kept(&site).await;
    let permit = |id: &ResourceId| {
        let write = Action::new("Microsoft.Compute/galleries/images/versions/write");
        Permit::system(SystemReason::Install, write, id.clone(), site.tenant)
    };
    let parent = ResourceId::parse(version.rsplit_once("/versions/").unwrap().0).unwrap();
    let package = |name: &str, version: &str| StoredPackage {
        name: name.into(),
        source: name.into(),
        body: json!({ "name": name, "version": version, "architecture": "amd64", "source": name,
            "sourceVersion": version })
        .to_string(),
    };
    let shared = (1..PACKAGES_EACH).map(|number| package(&format!("lib{number}"), "1.0-1"));
    let shared: Vec<StoredPackage> = shared.collect();
    for number in 0..MANY_VERSIONS {
        let id = parent.child("versions", &format!("2.0.{number}")).unwrap();
        let digest = format!("bd1:{number:064x}");
        let properties = json!({
            "publishingProfile": { "targetRegions": [{ "name": "north", "regionalReplicaCount": 1 }] },
            "storageProfile": { "osDiskImage": { "sizeInGB": 2 } },
            "bullion": { "diskDigest": digest, "logicalBytes": 2_147_483_648_u64 },
        });
        let draft = Draft::new(properties).location("north");
        let stored = catalog.put(&permit(&id), draft, Precondition::None).await;
        stored.expect("a version");
        let flawed = number % FLAWED_EACH == 0;
        let mut packages = shared.clone();
        packages.push(package(
            "openssl",
            if flawed { "3.0.14-1" } else { "3.0.15-1" },
        ));
        let bill = StoredBill {
            system: DEBIAN.into(),
            packages,
        };
        let done = catalog.keep_bill(&permit(&id), &digest, &bill).await;
        done.expect("a bill");
    }
    let subscription = GROUP.split("/resourceGroups").next().unwrap();
    let check = async |query: &str, expected: usize| {
        let path = format!(
            "{subscription}/providers/Bullion.Factory/affected?api-version=2026-11-01&query={query}"
        );
        let seen = site.get(&path).await;
        assert_eq!(seen.status, 200, "{query}: {:?}", seen.body);
        assert_eq!(seen.body["value"].as_array().unwrap().len(), expected);
    };
    check("openssl%3C3.0.15-1", MANY_VERSIONS / FLAWED_EACH).await;
    check("openssl%3C3.0.14-1", 0).await;
    check("lib7", MANY_VERSIONS).await;
    check("bash", 0).await;

    // Page after page they are the same, in their order, with the machines that run them.
    let (image, exact) = (parent.to_string(), "2.0.20");
    for (name, reference) in [
        ("a", json!({ "id": image, "exactVersion": exact })),
        ("b", json!({ "id": format!("{image}/versions/{exact}") })),
        ("c", json!({ "id": format!("{image}/versions/2.0.21") })),
        ("d", json!({ "publisher": "elsewhere" })),
    ] {
        let machine = format!("{GROUP}/providers/Microsoft.Compute/virtualMachines/{name}");
        let machine = ResourceId::parse(&machine).unwrap();
        let properties = json!({ "storageProfile": { "imageReference": reference } });
        let draft = Draft::new(properties).location("north");
        let stored = catalog
            .put(&permit(&machine), draft, Precondition::None)
            .await;
        stored.expect("a machine");
    }
    let mut seen = Vec::new();
    let mut next = format!(
        "{subscription}/providers/Bullion.Factory/affected?api-version=2026-11-01&$top=7&query=openssl%3C3.0.15-1"
    );
    loop {
        let page = site.get(&next).await;
        assert_eq!(page.status, 200, "{:?}", page.body);
        let shown = page.body["value"].as_array().unwrap();
        assert!(shown.len() <= 7);
        seen.extend(shown.clone());
        let Some(link) = page.body["nextLink"].as_str() else {
            break;
        };
        next = link[link.find("/subscriptions").unwrap()..].to_owned();
    }
    let names: Vec<&str> = seen.iter().filter_map(|one| one["name"].as_str()).collect();
    let flawed = (0..MANY_VERSIONS).step_by(FLAWED_EACH);
    let expected: Vec<String> = flawed.map(|number| format!("2.0.{number}")).collect();
    assert_eq!(names, expected);
    let running: Vec<&Value> = seen
        .iter()
        .map(|one| &one["virtualMachines"])
        .filter(|machines| **machines != json!([]))
        .collect();
    let machine =
        |name: &str| format!("{GROUP}/providers/Microsoft.Compute/virtualMachines/{name}");
    assert_eq!(running, [&json!([machine("a"), machine("b")])]);
    let refused = site
        .get(
            &next
                .replace("$top=7", "$top=no")
                .replace("%24top=7", "$top=no"),
        )
        .await;
    assert_eq!(refused.status, 400, "{:?}", refused.body);
}
