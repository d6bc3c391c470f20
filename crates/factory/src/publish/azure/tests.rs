//! Whole runs whose image goes to a gallery of another cloud: a fake of a storage account and of the Resource Manager,
//! one fault at a time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use wire::ResourceId;
use wire::factory::RunProperties;
use wire::template::RunState;

use super::page_blob::{PAGE_BYTES, PIECE_BYTES};
use crate::fake_web::{self, Answer, Asked};
use crate::pipeline::check_template;
use crate::testing::{World, template_properties};

const DEFINITION: &str = "/subscriptions/22222222-2222-2222-2222-222222222222/resourceGroups/there\
                          /providers/Microsoft.Compute/galleries/g/images/golden";
const MIB: u64 = 1 << 20;

/// A request that is answered otherwise, so many times.
#[derive(Clone)]
struct Fault {
    method: &'static str,
    /// A part of the address.
    at: &'static str,
    status: u16,
    times: usize,
}

#[derive(Default)]
struct Cloud {
    blob: Option<Blob>,
    /// By number.
    versions: BTreeMap<String, Value>,
    /// Looks at a version until it succeeded.
    looks: usize,
    /// What versions become.
    fails: bool,
    faults: Vec<Fault>,
    asked: Vec<String>,
}

struct Blob {
    bytes: Vec<u8>,
    mark: Option<String>,
    sent: u64,
}

#[derive(Clone, Default)]
struct FakeAzure(Arc<Mutex<Cloud>>);

impl FakeAzure {
    async fn start(&self) -> String {
        let azure = self.clone();
        fake_web::serve(move |asked| azure.0.lock().unwrap().answer(asked)).await
    }

    fn with<T>(&self, look: impl FnOnce(&mut Cloud) -> T) -> T {
        look(&mut self.0.lock().unwrap())
    }
}

impl Cloud {
    fn answer(&mut self, asked: Asked) -> Answer {
        let address = format!("{}?{}", asked.path, asked.query);
        self.asked.push(format!("{} {address}", asked.method));
        let fault = self.faults.iter_mut().find(|fault| {
            fault.times > 0 && fault.method == asked.method && address.contains(fault.at)
        });
        if let Some(fault) = fault {
            fault.times -= 1;
            let error = json!({ "error": { "code": "Odd", "message": "it does not want to" } });
            return Answer::json(fault.status, &error).with("retry-after", "0");
        }
        match asked.path.split('/').nth(1) {
            Some("tenant") => token(&asked),
            Some("account") => self.storage(&asked),
            _ => self.resources(&asked),
        }
    }

    fn storage(&mut self, asked: &Asked) -> Answer {
        assert!(asked.query.starts_with("sv=1&sig=hush"), "{}", asked.query);
        let comp = asked.query.split("comp=").nth(1);
        match (asked.method.as_str(), comp, &mut self.blob) {
            ("PUT", None, blob) => {
                assert_eq!(asked.header("x-ms-blob-type"), "PageBlob");
                let length = asked.header("x-ms-blob-content-length");
                *blob = Some(Blob {
                    bytes: vec![0; length.parse().unwrap()],
                    mark: None,
                    sent: 0,
                });
                Answer::of(201)
            }
            (_, _, None) => Answer::of(404),
            ("HEAD", _, Some(blob)) => {
                let answer = Answer::of(200).with("content-length", blob.bytes.len().to_string());
                match &blob.mark {
                    Some(mark) => answer.with("x-ms-meta-bulliondisk", mark),
                    None => answer,
                }
            }
            ("PUT", Some("page"), Some(blob)) => {
                let range = asked.header("range").strip_prefix("bytes=").unwrap();
                let (from, to) = range.split_once('-').unwrap();
                let (from, to): (u64, u64) = (from.parse().unwrap(), to.parse().unwrap());
                let length = to + 1 - from;
                let whole = from % PAGE_BYTES == 0 && length % PAGE_BYTES == 0;
                assert!(whole && length <= PIECE_BYTES as u64 && length == asked.body.len() as u64);
                blob.bytes[from as usize..=to as usize].copy_from_slice(&asked.body);
                blob.sent += length;
                Answer::of(201)
            }
            ("PUT", Some("metadata"), Some(blob)) => {
                blob.mark = Some(asked.header("x-ms-meta-bulliondisk").to_owned());
                Answer::of(200)
            }
            ("DELETE", ..) => {
                self.blob = None;
                Answer::of(202)
            }
            _ => Answer::of(400),
        }
    }

    fn resources(&mut self, asked: &Asked) -> Answer {
        if asked.header("authorization") != "Bearer it is me" {
            return Answer::of(401);
        }
        assert!(asked.query.starts_with("api-version="));
        let rest = asked.path.strip_prefix(DEFINITION).unwrap();
        let number = rest.strip_prefix("/versions").unwrap();
        let Some(number) = number.strip_prefix('/') else {
            let all: Vec<&Value> = self.versions.values().collect();
            return Answer::json(200, &json!({ "value": all }));
        };
        if asked.method == "PUT" {
            // What it is made of must be whole by then.
            assert!(self.blob.as_ref().is_some_and(|blob| blob.mark.is_some()));
            let mut version: Value = serde_json::from_slice(&asked.body).unwrap();
            version["name"] = number.into();
            version["properties"]["provisioningState"] = "Creating".into();
            self.versions.insert(number.to_owned(), version.clone());
            return Answer::json(201, &version);
        }
        let Some(version) = self.versions.get_mut(number) else {
            return Answer::json(404, &json!({}));
        };
        if self.looks == 0 {
            let end = if self.fails { "Failed" } else { "Succeeded" };
            version["properties"]["provisioningState"] = end.into();
        }
        self.looks = self.looks.saturating_sub(1);
        Answer::json(200, version).with("retry-after", "0")
    }
}

fn token(asked: &Asked) -> Answer {
    let form = String::from_utf8_lossy(&asked.body).into_owned();
    let known = form.contains("client_id=me") && form.contains("client_secret=hush");
    assert!(form.contains("%2F.default"), "{form}");
    match known {
        true => Answer::json(
            200,
            &json!({ "access_token": "it is me", "expires_in": 3600 }),
        ),
        false => Answer::json(401, &json!({ "error": "invalid_client" })),
    }
}

/// A world whose image goes there, too.
async fn world(azure: &FakeAzure, more: Value) -> World {
    let world = World::new(&["north"]).await;
    let host = azure.start().await;
    let tenant = world.clerk.tenant.to_string();
    let secrets = world.folder.path().join("secrets").join(tenant);
    std::fs::create_dir_all(&secrets).unwrap();
    let principal = json!({
        "tenantId": "tenant", "clientId": "me", "clientSecret": "hush",
        "activeDirectoryEndpointUrl": format!("http://{host}"),
        "resourceManagerEndpointUrl": format!("http://{host}/"),
    });
    std::fs::write(secrets.join("azure"), principal.to_string()).unwrap();
    std::fs::write(secrets.join("container"), "?sv=1&sig=hush\n").unwrap();
    let mut properties = template_properties(&world.definition, &["north"], "x");
    let mut target = json!({
        "type": "Bullion.AzureGallery", "runOutputName": "azure", "galleryImageId": DEFINITION,
        "location": "westeurope", "container": format!("http://{host}/account/images"),
        "sas": "container", "credential": "azure", "artifactTags": { "team": "a" },
    });
    for (name, value) in more.as_object().unwrap() {
        target[name] = value.clone();
    }
    properties["distribute"] = json!([properties["distribute"][0], target]);
    world.set_template(properties).await;
    world
}

async fn work(world: &World) -> RunProperties {
    let factory = world.factory();
    let (begun, _) = world.run(&factory).await;
    world.record(&begun.run).await
}

async fn artifact(world: &World) -> Value {
    let id = world.template.child("runOutputs", "azure").unwrap();
    let output = world.get(&id).await;
    output.map_or(Value::Null, |output| {
        output.properties["artifactId"].clone()
    })
}

#[tokio::test]
async fn the_image_becomes_a_version_there() {
    let azure = FakeAzure::default();
    azure.with(|cloud| cloud.looks = 2);
    let account = "/subscriptions/22222222-2222-2222-2222-222222222222/resourceGroups/there\
                   /providers/Microsoft.Storage/storageAccounts/account";
    let regions = json!([
        { "name": "westeurope", "replicaCount": 2, "storageAccountType": "Standard_ZRS" },
        { "name": "northeurope", "replicaCount": 1 },
    ]);
    let more = json!({ "targetRegions": regions, "storageAccountId": account });
    let world = world(&azure, more).await;
    let record = work(&world).await;
    assert_eq!(record.run_state, RunState::Succeeded, "{}", record.message);
    assert_eq!(
        artifact(&world).await,
        format!("{DEFINITION}/versions/1.0.0")
    );
    let digest = record.outputs.unwrap().disk_digest.unwrap();
    let version = azure.with(|cloud| cloud.versions["1.0.0"].clone());
    assert_eq!(
        version["tags"],
        json!({ "team": "a", "bullion-disk": digest })
    );
    let profile = &version["properties"]["publishingProfile"];
    let first = json!({ "name": "westeurope", "regionalReplicaCount": 2, "storageAccountType": "Standard_ZRS" });
    assert_eq!(profile["targetRegions"][0], first);
    let source = &version["properties"]["storageProfile"]["osDiskImage"]["source"];
    assert_eq!(source["storageAccountId"], account);
    let uri = source["uri"].as_str().unwrap();
    assert!(uri.ends_with(".vhd") && !uri.contains("hush"), "{uri}");
    assert!(azure.with(|cloud| cloud.blob.is_none()), "the blob is gone");
    // Again: the version is found, nothing is sent.
    azure.with(|cloud| cloud.asked.clear());
    let record = work(&world).await;
    assert_eq!(record.run_state, RunState::Succeeded, "{}", record.message);
    let writes = azure.with(|cloud| {
        let writes = cloud.asked.iter().filter(|asked| asked.starts_with("PUT"));
        writes.count()
    });
    assert_eq!(writes, 0);
}

/// What the blob held when the version was asked for is the disk, as a VHD, and only what is not zero was sent.
#[tokio::test]
async fn the_blob_is_a_vhd_of_the_disk() {
    let azure = FakeAzure::default();
    azure.with(|cloud| {
        cloud.fails = true;
    });
    let world = world(&azure, json!({})).await;
    let record = work(&world).await;
    assert_eq!(record.run_state, RunState::PartiallySucceeded);
    assert!(
        record.message.contains("failed there"),
        "{}",
        record.message
    );
    let digest = record.outputs.unwrap().disk_digest.unwrap();
    let (bytes, mark, sent) = azure.with(|cloud| {
        let blob = cloud.blob.as_ref().unwrap();
        (blob.bytes.clone(), blob.mark.clone(), blob.sent)
    });
    assert_eq!(mark.as_deref(), Some(digest.as_str()));
    assert_eq!(bytes.len() as u64 % MIB, 512, "whole MiB and a footer");
    assert!(sent < bytes.len() as u64 / 2, "{sent} of {}", bytes.len());
    assert_eq!(&bytes[bytes.len() - 512..][..8], b"conectix");
    let disk = disk::MemDisk::from(bytes[..bytes.len() - 512].to_vec());
    assert_eq!(disk::digest_of(&disk).unwrap().0.to_string(), digest);
    // What failed there is asked for again, under its number, and the blob is not sent again. So is what was cancelled.
    azure.with(|cloud| cloud.asked.clear());
    let record = work(&world).await;
    assert_eq!(record.run_state, RunState::PartiallySucceeded);
    let puts = azure.with(|cloud| {
        let puts = cloud.asked.iter().filter(|asked| asked.starts_with("PUT"));
        puts.count()
    });
    assert_eq!(puts, 1, "the version alone");
    azure.with(|cloud| {
        let version = cloud.versions.get_mut("1.0.0").unwrap();
        version["properties"]["provisioningState"] = "Canceled".into();
        cloud.fails = false;
        cloud.asked.clear();
    });
    let record = work(&world).await;
    assert_eq!(record.run_state, RunState::Succeeded, "{}", record.message);
    assert_eq!(
        artifact(&world).await,
        format!("{DEFINITION}/versions/1.0.0")
    );
    let pages = azure.with(|cloud| cloud.asked.iter().any(|asked| asked.contains("comp=page")));
    assert!(!pages);
}

#[tokio::test]
async fn trouble_is_told_or_gone_round() {
    let check = async |fault: Fault, expected: Result<(), &str>| {
        let azure = FakeAzure::default();
        azure.with(|cloud| cloud.faults.push(fault.clone()));
        let world = world(&azure, json!({})).await;
        let record = work(&world).await;
        let name = format!("{} {} {}", fault.method, fault.at, fault.status);
        let message = record.message;
        match expected {
            Ok(()) => assert_eq!(record.run_state, RunState::Succeeded, "{name}: {message}"),
            Err(part) => {
                assert_eq!(record.run_state, RunState::PartiallySucceeded, "{name}");
                assert!(message.contains(part), "{name}: {message}");
                assert!(!message.contains("hush"), "{name}: {message}");
                // The gallery here has it all the same, and the next run brings only what is missing.
                assert_eq!(world.versions().await, ["1.0.0"]);
                let built = world.builder.built.lock().unwrap().len();
                let record = work(&world).await;
                assert_eq!(
                    record.run_state,
                    RunState::Succeeded,
                    "{name}: {}",
                    record.message
                );
                assert_eq!(world.builder.built.lock().unwrap().len(), built);
            }
        }
        assert_eq!(azure.with(|cloud| cloud.versions.len()), 1, "{name}");
    };
    let fault = |method, at, status, times| Fault {
        method,
        at,
        status,
        times,
    };
    check(fault("POST", "/token", 401, 1), Err("sign in: 401")).await;
    check(fault("POST", "/token", 503, 2), Ok(())).await;
    check(
        fault("GET", "/versions?", 403, 1),
        Err("list the versions: 403 Forbidden Odd: it does not"),
    )
    .await;
    check(
        fault("PUT", "/account/", 403, 1),
        Err("must not have expired"),
    )
    .await;
    check(fault("HEAD", "/account/", 500, 3), Ok(())).await;
    check(fault("PUT", "comp=page", 503, 4), Ok(())).await;
    check(
        fault("PUT", "comp=page", 409, 1),
        Err("send a piece of the disk"),
    )
    .await;
    check(fault("PUT", "comp=metadata", 412, 1), Err("mark the blob")).await;
    check(
        fault("PUT", "/versions/", 400, 1),
        Err("make the version: 400"),
    )
    .await;
    check(fault("PUT", "/versions/", 429, 1), Ok(())).await;
    check(
        fault("GET", "/versions/1.0.0", 404, 1),
        Err("wait for the version"),
    )
    .await;
    check(fault("DELETE", "/account/", 403, 1), Ok(())).await;
}

#[tokio::test]
async fn a_number_that_is_taken_is_left_alone() {
    let azure = FakeAzure::default();
    let others =
        json!({ "name": "2.3.4", "tags": {}, "properties": { "provisioningState": "Succeeded" } });
    azure.with(|cloud| cloud.versions.insert("2.3.4".to_owned(), others.clone()));
    let exactly = json!({ "galleryImageId": format!("{DEFINITION}/versions/2.3.4") });
    let taken = world(&azure, exactly).await;
    let record = work(&taken).await;
    assert_eq!(record.run_state, RunState::PartiallySucceeded);
    assert!(
        record.message.contains("holds something else"),
        "{}",
        record.message
    );
    assert_eq!(azure.with(|cloud| cloud.versions["2.3.4"].clone()), others);
    // Without a number, it is the next one.
    let next = world(&azure, json!({})).await;
    let record = work(&next).await;
    assert_eq!(record.run_state, RunState::Succeeded, "{}", record.message);
    assert_eq!(
        artifact(&next).await,
        format!("{DEFINITION}/versions/2.3.5")
    );
}

#[tokio::test]
async fn what_cannot_be_is_refused_at_once() {
    let check = async |more: Value, part: &str| {
        let azure = FakeAzure::default();
        let world = world(&azure, more).await;
        let template = world.get(&world.template).await.unwrap();
        let problems = check_template(&template.properties).unwrap_err();
        let message = format!("{problems:?}");
        assert!(
            message.contains(part) && !message.contains("hush"),
            "{part}: {message}"
        );
    };
    let signed = "https://account.blob.core.windows.net/images?sv=1&sig=hush";
    check(json!({ "container": signed }), "carries more than").await;
    check(
        json!({ "container": "ftp://account/images" }),
        "not the address",
    )
    .await;
    check(
        json!({ "storageAccountId": DEFINITION }),
        "is no storage account",
    )
    .await;
    let id = ResourceId::parse(DEFINITION).unwrap();
    let gallery = id.parent().unwrap().to_string();
    check(
        json!({ "galleryImageId": gallery }),
        "is not an image definition",
    )
    .await;
}
