//! Two real servers on one PostgreSQL. One is killed with a job half done, and the other takes the job over when the
//! lease of the dead one has ended: it finishes it, or says that the bits are not where it can read them.

// A test starts programs as a user does, and says why it failed.
#![allow(clippy::disallowed_methods, clippy::print_stderr)]

mod support;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use support::{Installation, Said, wait_for};
use tempfile::TempDir;

/// Where the test command says which server there is.
const POSTGRES: &str = "BULLION_TEST_POSTGRES";
/// A lease ends after a minute.
const TAKEN_OVER: Duration = Duration::from_secs(300);
const DISK_BYTES: u32 = 8 << 20;
const SUBSCRIPTION: &str = "/subscriptions/11111111-1111-4111-8111-111111111111";
const GALLERY: &str = "/subscriptions/11111111-1111-4111-8111-111111111111/resourceGroups/g\
                       /providers/Microsoft.Compute/galleries/golden";
const IMAGE: &str = "/subscriptions/11111111-1111-4111-8111-111111111111/resourceGroups/g\
                     /providers/Microsoft.Compute/galleries/golden/images/i";
const VERSION: &str = "/subscriptions/11111111-1111-4111-8111-111111111111/resourceGroups/g\
                       /providers/Microsoft.Compute/galleries/golden/images/i/versions/1.0.0";

/// Killed after the disk was taken in and before that was written down: the other server takes it in itself.
#[test]
fn a_job_of_a_killed_server_is_finished_by_the_other_one() {
    let mut two = Two::with_a_job_at("publish-copy:AfterAction(0)");
    let ended = two.taken_over();
    assert_eq!(ended["status"], "Succeeded", "{ended:#}");
    let version = two.second.json(&["rest", "GET", VERSION]);
    let properties = &version["properties"];
    assert_eq!(properties["provisioningState"], "Succeeded", "{version:#}");
    assert!(
        properties["bullion"]["diskDigest"].is_string(),
        "{version:#}"
    );

    // The dead one comes back, and finds nothing to do.
    two.first.start();
    for server in [&two.first, &two.second] {
        let seen = server.json(&["rest", "GET", VERSION]);
        assert_eq!(seen["etag"], version["etag"], "{seen:#}");
        let all = server.json(&["rest", "GET", &format!("{IMAGE}/versions")]);
        assert_eq!(all["value"].as_array().map(Vec::len), Some(1), "{all:#}");
        let file = server.beside("exported.raw");
        let file = file.to_string_lossy();
        let export = ["version", "export", "golden/i/1.0.0", &file];
        let said = server.run(&export);
        match std::ptr::eq(server, &two.second) {
            true => assert_eq!(said.code, Some(0), "the bits are here: {said:#?}"),
            false => drop(said),
        }
    }
}

/// Killed when the disk was in its own stores, as the journal says: the other one has no such bits, and says so. The
/// first one mends it when it comes back.
#[test]
fn a_job_whose_bits_died_with_their_server_says_so() {
    let mut two = Two::with_a_job_at("publish-copy:BeforeAction(1)");
    let ended = two.taken_over();
    assert_eq!(ended["status"], "Failed", "{ended:#}");
    assert_eq!(ended["error"]["code"], "ReplicationFailed", "{ended:#}");
    let message = ended["error"]["message"].as_str().unwrap_or_default();
    for part in ["region north", "no region of this server holds the disk"] {
        assert!(message.contains(part), "{message}");
    }

    two.first.start();
    wait_for("the version to be mended", TAKEN_OVER, || {
        let seen = two.second.json(&["rest", "GET", VERSION]);
        (seen["properties"]["provisioningState"] == "Succeeded").then_some(())
    });
}

/// Two servers, of which the first one works on a job.
struct Two {
    first: Installation,
    second: Installation,
    /// Where the job's state is read.
    operation: String,
    _blobs: TempDir,
}

impl Two {
    fn with_a_job_at(place: &str) -> Two {
        let blobs = tempfile::tempdir().expect("cannot create a folder");
        let disk: Vec<u8> = (0..DISK_BYTES).map(|at| (at / 251) as u8).collect();
        std::fs::write(blobs.path().join("disk.raw"), disk).expect("cannot write a disk");
        let database = fresh_database();
        let options = shared(&database, blobs.path());
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let mut first = Installation::with(&options);
        furnish(&first);
        first.stop();
        first.start_to_halt_at(place);
        let operation = begin(&first);
        // It holds the job all the while.
        first.wait_for_halt(TAKEN_OVER);
        let second = Installation::with(&options);
        second.login_as_of(&first);
        let seen = second.json(&["rest", "GET", &operation]);
        assert_eq!(seen["status"], "InProgress", "{seen:#}");
        Two {
            first,
            second,
            operation,
            _blobs: blobs,
        }
    }

    /// Kills the first server and answers how the second one ended the job.
    fn taken_over(&mut self) -> Value {
        self.first.kill();
        wait_for("the other server to end the job", TAKEN_OVER, || {
            let seen = self.second.json(&["rest", "GET", &self.operation]);
            (seen["status"] != "InProgress").then_some(seen)
        })
    }
}

fn shared(database: &str, blobs: &Path) -> [String; 4] {
    let blobs = blobs.to_string_lossy().into_owned();
    [
        "--database".into(),
        database.into(),
        "--blobs".into(),
        blobs,
    ]
}

/// A schema of its own in the server of the test command.
fn fresh_database() -> String {
    let server = std::env::var(POSTGRES).unwrap_or_else(|_| {
        panic!("{POSTGRES} names no server; `cargo xtask test --part postgres` starts one")
    });
    let schema = format!("t{}", uuid::Uuid::new_v4().simple());
    let output = Command::new("psql")
        .args(["--quiet", "--no-psqlrc", "--dbname", &server])
        .args(["--command", &format!("create schema {schema}")])
        .output()
        .expect("cannot start psql");
    Said::from(output).succeeded();
    let join = if server.contains('?') { '&' } else { '?' };
    format!("{server}{join}options=-csearch_path%3D{schema}")
}

/// A region, a subscription, a group, a gallery and an image definition.
fn furnish(server: &Installation) {
    let region = r#"{"location":"north","properties":{"zones":["1"]}}"#;
    let definition = r#"{"location":"north","properties":{"osType":"Linux","osState":"Generalized",
        "hyperVGeneration":"V2","identifier":{"publisher":"p","offer":"o","sku":"s"}}}"#;
    let here = r#"{"location":"north"}"#;
    let named = r#"{"properties":{"displayName":"one"}}"#;
    let group = format!("{SUBSCRIPTION}/resourceGroups/g");
    for (path, body) in [
        ("/providers/Bullion.Factory/regions/north", region),
        (SUBSCRIPTION, named),
        (&group, here),
        (GALLERY, here),
        (IMAGE, definition),
    ] {
        server
            .run(&["rest", "PUT", path, "--body", body])
            .succeeded();
    }
}

/// Asks for a version of the file in the blob folder, and answers where its operation is read.
fn begin(server: &Installation) -> String {
    let text = std::fs::read_to_string(server.data().join("server.json")).expect("a server");
    let text: Value = serde_json::from_str(&text).expect("it is JSON");
    let url = text["url"].as_str().expect("a URL");
    let account =
        format!("{SUBSCRIPTION}/resourceGroups/g/providers/Microsoft.Storage/storageAccounts/a");
    let source =
        serde_json::json!({ "uri": format!("{url}/blobs/disk.raw"), "storageAccountId": account });
    let storage = serde_json::json!({ "osDiskImage": { "source": source } });
    let body =
        serde_json::json!({ "location": "north", "properties": { "storageProfile": storage } });
    let said = server.run(&["rest", "PUT", VERSION, "--body", &body.to_string()]);
    let said = said.succeeded();
    let line = said
        .stderr
        .lines()
        .find_map(|line| line.strip_prefix("azure-asyncoperation: "));
    let whole = line.unwrap_or_else(|| panic!("no operation is named: {said:#?}"));
    whole.trim_start_matches(url).to_owned()
}
