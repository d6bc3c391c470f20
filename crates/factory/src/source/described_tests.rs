//! A small archive of another distribution, signed by keys made here, read by the real apt.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::described::DescribedArchives;
use super::pin::hex;
use super::{Pin, Provider, SourceError};
use crate::fake_keys::FakeKeys;
use crate::fake_web::{Answer, Asked, serve};

const IMAGE: &str = "Canonical:ubuntu-24_04-lts:server:latest";
const RING: &str = "archive.gpg";
const PACKAGES: &str = "Package: tool\nVersion: 1\nArchitecture: amd64\nMaintainer: x\nSize: 1\n\
    Filename: pool/tool.deb\nSHA256: 1111111111111111111111111111111111111111111111111111111111111111\n\
    Description: a tool\n";

/// What a suite says of itself, as Ubuntu's archive does: the release's name is that of each of its suites.
fn release(suite: &str, packages: &str) -> String {
    let hash = hex(&Sha256::digest(packages));
    let size = packages.len();
    format!(
        "Origin: Ubuntu\nSuite: {suite}\nVersion: 24.04\nCodename: noble\n\
         Date: Thu, 25 Apr 2024 15:10:33 UTC\nArchitectures: amd64\nComponents: main universe\nSHA256:\n \
         {hash} {size} main/binary-amd64/Packages\n {hash} {size} universe/binary-amd64/Packages\n"
    )
}

/// Suites with the signed index of each.
type Indexes = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// An archive, an operator who describes it, and who signs it.
struct Bench {
    folder: tempfile::TempDir,
    keys: FakeKeys,
    host: String,
    /// The index of each suite.
    indexes: Indexes,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Bench {
    async fn new() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let keys = FakeKeys::new(folder.path(), "archive@example.com").await;
        let indexes = Indexes::default();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let (served, seen) = (Arc::clone(&indexes), Arc::clone(&asked));
        let host = serve(move |asked: Asked| {
            seen.lock().unwrap().push(asked.path.clone());
            answer(&asked.path, &served.lock().unwrap())
        })
        .await;
        let bench = Bench {
            folder,
            keys,
            host,
            indexes,
            asked,
        };
        for suite in ["noble", "noble-updates"] {
            bench
                .publish(suite, &release(suite, PACKAGES), &bench.keys)
                .await;
        }
        std::fs::create_dir_all(bench.shelf()).unwrap();
        std::fs::write(bench.shelf().join(RING), bench.keys.ring().await).unwrap();
        bench.describe(&bench.description());
        bench
    }

    async fn publish(&self, suite: &str, text: &str, keys: &FakeKeys) {
        let signed = keys.clear_signed(text).await;
        let mut indexes = self.indexes.lock().unwrap();
        indexes.retain(|(known, _)| known != suite);
        indexes.push((suite.to_owned(), signed));
    }

    fn shelf(&self) -> PathBuf {
        let shelf = self.folder.path().join("marketplace");
        shelf.join("Canonical/ubuntu-24_04-lts/server")
    }

    fn description(&self) -> Value {
        json!({
            "name": "Ubuntu",
            "number": "24.04",
            "mirror": format!("http://{}/ubuntu", self.host),
            "suites": ["noble", "noble-updates"],
            "components": ["main", "universe"],
            "keyring": RING,
            "packages": ["linux-image-virtual", "openssh-server", "cloud-init"],
        })
    }

    fn describe(&self, description: &Value) {
        let file = self.shelf().join("archive.json");
        std::fs::write(file, description.to_string()).unwrap();
    }

    fn provider(&self) -> DescribedArchives {
        let folder: &Path = self.folder.path();
        DescribedArchives::new(&folder.join("marketplace"), &folder.join("cache"))
    }

    async fn resolve(&self, image: &str) -> Result<Pin, SourceError> {
        self.provider().resolve(&image.parse().unwrap(), &[]).await
    }

    #[track_caller]
    fn nothing_is_pinned(&self) {
        assert_eq!(self.provider().products()[0].versions, [""; 0]);
    }
}

fn answer(path: &str, indexes: &[(String, Vec<u8>)]) -> Answer {
    let body = |body: &[u8]| Answer {
        body: String::from_utf8_lossy(body).into_owned(),
        ..Answer::of(200)
    };
    let index = indexes
        .iter()
        .find(|(suite, _)| path == format!("/ubuntu/dists/{suite}/InRelease"));
    match index {
        Some((_, signed)) => body(signed),
        None if path.ends_with("/binary-amd64/Packages") => body(PACKAGES.as_bytes()),
        None => Answer::of(404),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_described_is_pinned_and_found_again() {
    let bench = Bench::new().await;
    let pin = bench.resolve(IMAGE).await.unwrap();
    assert_eq!(pin.image.version, "24.04.20240425");
    assert_eq!(pin.os_version, "Ubuntu 24.04 (noble)");
    // Two suites of one name are told apart, and the ring of this machine is not in the image.
    let suites: Vec<&str> = pin.suites.iter().map(|one| one.suite.as_str()).collect();
    assert_eq!(suites, ["noble", "noble-updates"]);
    let signed = bench.indexes.lock().unwrap().clone();
    for (state, (suite, index)) in pin.suites.iter().zip(&signed) {
        assert_eq!(
            state.in_release_sha256,
            hex(&Sha256::digest(index)),
            "{suite}"
        );
        assert_eq!(state.packages.len(), 2, "{suite}");
    }
    assert_eq!(
        pin.sources_list(),
        format!(
            "deb http://{0}/ubuntu noble main universe\ndeb http://{0}/ubuntu noble-updates main universe\n",
            bench.host
        )
    );
    assert_eq!(pin.described.as_ref().unwrap().packages.len(), 3);
    // apt has read the lists and made no cache of its own of them, which would take longer.
    let cache = bench
        .folder
        .path()
        .join("cache/archives/Canonical/ubuntu-24_04-lts/server/apt/cache");
    let made: Vec<_> = std::fs::read_dir(&cache).unwrap().flatten().collect();
    let is_cache =
        |entry: &std::fs::DirEntry| entry.path().extension().is_some_and(|end| end == "bin");
    assert!(!made.iter().any(is_cache), "{made:?}");
    // Asking for a pinned version asks nobody.
    bench.asked.lock().unwrap().clear();
    let again = bench.resolve(&pin.image.to_string()).await.unwrap();
    assert_eq!(again, pin);
    assert!(bench.asked.lock().unwrap().is_empty());
    let offered = bench.provider().products().remove(0).versions;
    assert_eq!(offered, std::slice::from_ref(&pin.image.version));
    let archive = bench.provider().archive(&pin).await.unwrap().unwrap();
    assert_eq!(archive.sources_list, pin.sources_list());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_the_given_keys_signed_is_pinned() {
    let bench = Bench::new().await;
    let other = FakeKeys::new(bench.folder.path(), "other@example.com").await;
    let refused = async |expected: &str| {
        let error = bench.resolve(IMAGE).await.unwrap_err();
        assert!(
            matches!(error, SourceError::BadSignature { .. }),
            "{error:?}"
        );
        let text = crate::pipeline::chain(&error);
        assert!(text.contains(RING) && text.contains(expected), "{text}");
        bench.nothing_is_pinned();
    };
    bench
        .publish("noble", &release("noble", PACKAGES), &other)
        .await;
    refused("NO_PUBKEY").await;
    // Changed after it was signed.
    bench
        .publish("noble", &release("noble", PACKAGES), &bench.keys)
        .await;
    let changed = |(_, index): &mut (String, Vec<u8>)| {
        *index = String::from_utf8_lossy(index)
            .replace("24.04", "24.10")
            .into_bytes();
    };
    bench.indexes.lock().unwrap().iter_mut().for_each(changed);
    refused("signature").await;
    bench.indexes.lock().unwrap().clear();
    let error = bench.resolve(IMAGE).await.unwrap_err();
    assert!(
        matches!(error, SourceError::ArchiveUnreachable { .. }),
        "{error:?}"
    );
    bench.nothing_is_pinned();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_of_another_suite_or_other_lists_are_not_taken() {
    let bench = Bench::new().await;
    let check = async |text: String, expected: &str| {
        bench.publish("noble-updates", &text, &bench.keys).await;
        let error = bench.resolve(IMAGE).await.unwrap_err();
        let text = crate::pipeline::chain(&error);
        assert!(text.contains(expected), "{text}");
        bench.nothing_is_pinned();
    };
    // Signed by the right key, as that of something else: a mirror may hold back updates this way.
    check(
        release("jammy-updates", PACKAGES).replace("noble", "jammy"),
        "by another name",
    )
    .await;
    check(
        release("noble-updates", &PACKAGES.replace("a tool", "b tool")),
        "Hash Sum mismatch",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_description_says_what_is_wrong_before_anybody_is_asked() {
    let bench = Bench::new().await;
    let check = async |change: Value, expected: &str| {
        let mut description = bench.description();
        let change = change.as_object().unwrap().clone();
        description.as_object_mut().unwrap().extend(change);
        bench.describe(&description);
        let error = bench.resolve(IMAGE).await.unwrap_err().to_string();
        assert!(
            error.contains(expected) && error.contains("archive.json"),
            "{error}"
        );
        assert_eq!(
            bench.provider().products().len(),
            1,
            "it is offered all the same"
        );
        assert!(bench.asked.lock().unwrap().is_empty());
    };
    check(
        json!({ "mirror": "[trusted=yes] http://a.example/ubuntu" }),
        "`mirror`",
    )
    .await;
    check(json!({ "mirror": "file:///etc" }), "`mirror`").await;
    check(json!({ "suites": ["noble main\ndeb"] }), "plain word").await;
    check(json!({ "suites": ["../../noble"] }), "plain word").await;
    check(json!({ "components": [] }), "must each name some").await;
    check(
        json!({ "packages": ["--option"] }),
        "not the name of a package",
    )
    .await;
    check(json!({ "number": "noble" }), "`number`").await;
    check(json!({ "name": "Ubuntu\"\n" }), "`name`").await;
    check(
        json!({ "keyring": "../archive.gpg" }),
        "beside the description",
    )
    .await;
    check(json!({ "keyring": "none.gpg" }), "`none.gpg` is not there").await;
    check(json!({ "more": 1 }), "unknown field `more`").await;
    bench.describe(&json!("x".repeat(70_000)));
    let error = bench.resolve(IMAGE).await.unwrap_err().to_string();
    assert!(error.contains("too long"), "{error}");
}
