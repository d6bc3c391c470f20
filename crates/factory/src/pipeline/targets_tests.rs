//! Whole runs on fakes: where an image comes from and where it goes, one failure at a time.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use catalog::Draft;
use serde_json::{Value, json};
use wire::factory::RunProperties;
use wire::template::RunState;

use crate::fake_web::{self, Answer, Asked};
use crate::testing::{World, template_properties};

const MIB: u64 = 1 << 20;

fn image_id(world: &World, name: &str) -> String {
    world
        .group
        .extension("Microsoft.Compute", "images", name)
        .unwrap()
        .to_string()
}

/// The world's template with these targets besides its gallery.
async fn with_targets(world: &World, more: Value) -> Value {
    let mut properties = template_properties(&world.definition, &["north"], "x");
    let targets = properties["distribute"].as_array_mut().unwrap();
    targets.extend(more.as_array().unwrap().iter().cloned());
    world.set_template(properties.clone()).await;
    properties
}

async fn work(world: &World) -> RunProperties {
    let factory = world.factory();
    let (begun, _) = world.run(&factory).await;
    world.record(&begun.run).await
}

async fn output(world: &World, name: &str) -> Value {
    let id = world.template.child("runOutputs", name).unwrap();
    world
        .get(&id)
        .await
        .map_or(Value::Null, |output| output.properties)
}

#[tokio::test]
async fn every_target_gets_the_image_and_says_where() {
    let world = World::new(&["north"]).await;
    let image = image_id(&world, "img");
    with_targets(&world, json!([
        { "type": "ManagedImage", "runOutputName": "image", "imageId": image, "location": "north" },
        { "type": "VHD", "runOutputName": "vhd" },
        { "type": "Bullion.File", "runOutputName": "qcow", "format": "Qcow2", "uri": "https://localhost:1/blobs/out/a.qcow2" },
    ]))
    .await;
    let record = work(&world).await;
    assert_eq!(record.run_state, RunState::Succeeded, "{}", record.message);
    let digest = record.outputs.unwrap().disk_digest.unwrap();
    assert_eq!(output(&world, "image").await["artifactId"], image);
    let made = world
        .get(&wire::ResourceId::parse(&image).unwrap())
        .await
        .unwrap();
    assert_eq!(made.properties["bullion"]["diskDigest"], digest.as_str());
    assert_eq!(made.properties["bullion"]["ancestry"], "Built");
    let uri = output(&world, "vhd").await["artifactUri"]
        .as_str()
        .unwrap()
        .to_owned();
    let name = uri.strip_prefix("https://localhost:1/blobs/").unwrap();
    let vhd = std::fs::File::open(world.folder.path().join(name)).unwrap();
    let bytes = vhd.metadata().unwrap().len();
    assert_eq!(bytes % MIB, 512, "whole MiB and a footer");
    let qcow = std::fs::read(world.folder.path().join("out/a.qcow2")).unwrap();
    assert_eq!(&qcow[..4], b"QFI\xfb");
    // Again: everything is found.
    let built = world.builder.built.lock().unwrap().len();
    let record = work(&world).await;
    assert_eq!(record.run_state, RunState::Succeeded, "{}", record.message);
    assert_eq!(world.builder.built.lock().unwrap().len(), built);
    assert_eq!(world.versions().await, ["1.0.0"]);
}

#[tokio::test]
async fn a_target_that_failed_is_tried_alone() {
    let world = World::new(&["north"]).await;
    let blob = world.folder.path().join("taken.vhd");
    std::fs::write(&blob, "somebody's").unwrap();
    with_targets(
        &world,
        json!([
            { "type": "VHD", "runOutputName": "vhd", "uri": "https://localhost:1/blobs/taken.vhd" },
        ]),
    )
    .await;
    let record = work(&world).await;
    assert_eq!(record.run_state, RunState::PartiallySucceeded);
    assert!(
        record.message.contains("holds something else"),
        "{}",
        record.message
    );
    assert_eq!(std::fs::read_to_string(&blob).unwrap(), "somebody's");
    assert_eq!(world.versions().await, ["1.0.0"]);
    assert_eq!(output(&world, "vhd").await, Value::Null);
    std::fs::remove_file(&blob).unwrap();
    let built = world.builder.built.lock().unwrap().len();
    let record = work(&world).await;
    assert_eq!(record.run_state, RunState::Succeeded, "{}", record.message);
    assert_eq!(world.builder.built.lock().unwrap().len(), built);
    assert_eq!(world.versions().await, ["1.0.0"]);
}

#[tokio::test]
async fn an_image_that_failed_its_checks_goes_out_only_where_that_is_asked_for() {
    let world = World::new(&["north"]).await;
    world.check_fails.store(true, Ordering::SeqCst);
    let mut properties = template_properties(&world.definition, &["north"], "x");
    properties["validate"]["continueDistributeOnFailure"] = true.into();
    world.set_template(properties).await;
    let record = work(&world).await;
    assert_eq!(record.run_state, RunState::Failed);
    assert!(
        record.message.contains("check `motd`"),
        "{}",
        record.message
    );
    assert_eq!(record.error.unwrap().code, "ValidationFailed");
    assert_eq!(world.versions().await, ["1.0.0"]);
}

#[tokio::test]
async fn an_image_is_built_on_the_latest_version_of_another() {
    let world = World::new(&["north"]).await;
    let first = work(&world).await;
    let image = image_id(&world, "child");
    let mut properties = template_properties(&world.definition, &["north"], "child");
    properties["source"] = json!({
        "type": "SharedImageVersion",
        "imageVersionId": format!("{}/versions/latest", world.definition),
    });
    properties["vmProfile"] = Value::Null;
    properties["distribute"] = json!([
        { "type": "ManagedImage", "runOutputName": "image", "imageId": image, "location": "north" },
    ]);
    world.set_template(properties.clone()).await;
    let record = work(&world).await;
    assert_eq!(record.run_state, RunState::Succeeded, "{}", record.message);
    let template = world.get(&world.template).await.unwrap();
    assert_eq!(template.properties["source"]["exactVersion"], "1.0.0");
    let made = world
        .get(&wire::ResourceId::parse(&image).unwrap())
        .await
        .unwrap();
    let tattoo = &made.properties["bullion"]["tattoo"];
    assert_eq!(
        tattoo["source.digest"],
        first.outputs.unwrap().disk_digest.unwrap().as_str()
    );
    assert_eq!(tattoo["source.publisher"], "Debian");
    // The same disk as something that was brought here: the tree executor must not touch it.
    let foreign = world
        .group
        .extension("Microsoft.Compute", "images", "foreign")
        .unwrap();
    let mut body = made.properties.clone();
    body["bullion"] = json!({ "diskDigest": made.properties["bullion"]["diskDigest"] });
    world
        .put(&foreign, Draft::new(body).location("north"))
        .await;
    properties["source"] = json!({ "type": "ManagedImage", "imageId": foreign.to_string() });
    properties["vmProfile"] = json!({ "bullion": { "executor": "Tree" } });
    world.set_template(properties).await;
    let built = world.builder.built.lock().unwrap().len();
    let record = work(&world).await;
    assert!(
        record.message.contains("was not built here"),
        "{}",
        record.message
    );
    assert_eq!(world.builder.built.lock().unwrap().len(), built);
}

#[tokio::test]
async fn only_the_source_is_proved_where_that_is_asked_for() {
    let world = World::new(&["north"]).await;
    let mut properties = template_properties(&world.definition, &["north"], "x");
    properties["validate"] = json!({ "sourceValidationOnly": true });
    properties["distribute"] = json!([]);
    world.set_template(properties).await;
    let record = work(&world).await;
    assert_eq!(record.run_state, RunState::Succeeded, "{}", record.message);
    assert!(record.outputs.unwrap().boot_seconds.is_some());
    assert!(world.builder.built.lock().unwrap().is_empty());
    assert!(world.versions().await.is_empty());
}

#[tokio::test]
async fn an_image_with_a_secret_in_it_goes_nowhere() {
    let world = World::new(&["north"]).await;
    // The fake builder writes what a customizer says into a file.
    let mut properties = template_properties(&world.definition, &["north"], "AKIAIOSFODNN7EXAMPLE");
    world.set_template(properties.clone()).await;
    let record = work(&world).await;
    assert_eq!(record.error.unwrap().code, "SecretsFound");
    assert!(
        record.message.contains("/etc/built-motd: AWS access key"),
        "{}",
        record.message
    );
    assert!(!record.message.contains("AKIA"), "{}", record.message);
    assert!(world.versions().await.is_empty());
    properties["validate"]["bullion"] = json!({ "secrets": { "allow": ["/etc/built-*"] } });
    world.set_template(properties).await;
    let record = work(&world).await;
    assert_eq!(record.run_state, RunState::Succeeded, "{}", record.message);
}

/// A registry that keeps what it is sent, by path.
#[derive(Clone, Default)]
struct FakeRegistry(Arc<Mutex<BTreeMap<String, Vec<u8>>>>);

impl FakeRegistry {
    async fn start(&self) -> String {
        let registry = self.clone();
        fake_web::serve(move |asked| registry.answer(asked)).await
    }

    fn answer(&self, asked: Asked) -> Answer {
        let mut kept = self.0.lock().unwrap();
        let upload = || Answer::of(202).with("location", "/v2/images/golden/blobs/uploads/1");
        match asked.method.as_str() {
            "GET" => Answer::of(200),
            "HEAD" if kept.contains_key(&asked.path) => Answer::of(200),
            "HEAD" => Answer::of(404),
            "POST" => upload(),
            "PATCH" => {
                let upload_so_far = kept.entry("upload".to_owned()).or_default();
                upload_so_far.extend(asked.body);
                upload()
            }
            _ if asked.path.contains("/uploads/") => {
                let digest = asked.query.strip_prefix("digest=").unwrap();
                let digest = digest.replace("%3A", ":");
                let sent = kept.remove("upload").unwrap_or_default();
                kept.insert(format!("/v2/images/golden/blobs/{digest}"), sent);
                Answer::of(201)
            }
            _ => {
                kept.insert(asked.path, asked.body);
                Answer::of(201)
            }
        }
    }
}

/// By path: what is said of it, and its bytes.
type Objects = BTreeMap<String, (String, Vec<u8>)>;

/// A bucket that keeps what it is sent, by path, with what is said of it.
async fn bucket() -> (String, Arc<Mutex<Objects>>) {
    let kept: Arc<Mutex<Objects>> = Arc::default();
    let held = Arc::clone(&kept);
    let host = fake_web::serve(move |asked| {
        let mut held = held.lock().unwrap();
        assert!(asked.header("authorization").contains("Credential=me/"));
        let mark = asked.header("x-amz-meta-bullion-content").to_owned();
        match (asked.method.as_str(), held.get(&asked.path)) {
            ("PUT", _) => {
                held.insert(asked.path, (mark, asked.body));
                Answer::of(200).with("etag", "\"1\"")
            }
            (_, None) => Answer::of(404),
            (_, Some((mark, bytes))) => Answer::of(200)
                .with("content-length", bytes.len().to_string())
                .with("last-modified", "Sat, 21 Nov 2026 00:00:00 GMT")
                .with("etag", "\"1\"")
                .with("x-amz-meta-bullion-content", mark),
        }
    })
    .await;
    (host, kept)
}

#[tokio::test]
async fn a_bucket_gets_the_disk_as_a_file() {
    let world = World::new(&["north"]).await;
    let (host, kept) = bucket().await;
    let secrets = world.folder.path().join("secrets");
    let secrets = secrets.join(world.clerk.tenant.to_string());
    std::fs::create_dir_all(&secrets).unwrap();
    let keys = "AWS_ACCESS_KEY_ID=me\nAWS_SECRET_ACCESS_KEY=hush\n";
    std::fs::write(secrets.join("keys"), keys).unwrap();
    let target = |host: &str| {
        let uri = format!("s3://images/a.qcow2?region=x&endpoint=http://{host}");
        json!([{
            "type": "Bullion.ObjectStore", "runOutputName": "object", "format": "Qcow2",
            "uri": uri, "credential": "keys",
        }])
    };
    with_targets(&world, target(&host)).await;
    let record = work(&world).await;
    assert_eq!(record.run_state, RunState::Succeeded, "{}", record.message);
    let place = output(&world, "object").await["artifactUri"].clone();
    assert_eq!(place, "s3://images/a.qcow2");
    let sent = kept.lock().unwrap()["/images/a.qcow2"].clone();
    assert_eq!(&sent.1[..4], b"QFI\xfb");
    // Again: it is found. What somebody else put there is left alone.
    let record = work(&world).await;
    assert_eq!(record.run_state, RunState::Succeeded, "{}", record.message);
    let others = ("bd1:other Qcow2".to_owned(), b"other".to_vec());
    kept.lock()
        .unwrap()
        .insert("/images/a.qcow2".to_owned(), others.clone());
    let record = work(&world).await;
    assert!(
        record.message.contains("holds something else"),
        "{}",
        record.message
    );
    assert_eq!(kept.lock().unwrap()["/images/a.qcow2"], others);
    // A host of the server's own networks that the operator does not list.
    let port = host.rsplit_once(':').unwrap().1;
    with_targets(&world, target(&format!("127.0.0.2:{port}"))).await;
    let record = work(&world).await;
    assert!(
        record.message.contains("network of the server's own"),
        "{}",
        record.message
    );
    assert!(!record.message.contains("hush"), "{}", record.message);
}

#[tokio::test]
async fn a_registry_gets_the_disk_as_an_artifact() {
    let world = World::new(&["north"]).await;
    let registry = FakeRegistry::default();
    let host = registry.start().await;
    with_targets(
        &world,
        json!([{
            "type": "Bullion.Oci", "runOutputName": "oci", "format": "Qcow2",
            "reference": format!("{host}/images/golden:1.0"),
        }]),
    )
    .await;
    let record = work(&world).await;
    assert_eq!(record.run_state, RunState::Succeeded, "{}", record.message);
    let uri = output(&world, "oci").await["artifactUri"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        uri.starts_with(&format!("oci://{host}/images/golden@sha256:")),
        "{uri}"
    );
    let kept = registry.0.lock().unwrap().clone();
    let manifest: Value = serde_json::from_slice(&kept["/v2/images/golden/manifests/1.0"]).unwrap();
    let layer = manifest["layers"][0]["digest"].as_str().unwrap();
    let disk = &kept[&format!("/v2/images/golden/blobs/{layer}")];
    assert_eq!(&disk[..4], b"QFI\xfb");
    assert_eq!(manifest["layers"][0]["size"], disk.len());
    use sha2::Digest;
    let hash = crate::source::hex(&sha2::Sha256::digest(disk));
    assert_eq!(layer, format!("sha256:{hash}"));
    assert_eq!(
        kept[&format!(
            "/v2/images/golden/blobs/{}",
            manifest["config"]["digest"].as_str().unwrap()
        )],
        b"{}"
    );
}
