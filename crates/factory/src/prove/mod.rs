//! Prove: what is in a finished disk and how it came to be, as signed statements that are kept with the disk. It
//! looks and writes down; it changes no disk and decides nothing.

mod check;
mod key;
#[cfg(test)]
mod statements_tests;

pub(crate) use check::Proof;
pub use check::{Opened, PROVENANCE_INVALID, ProofError, open};
pub use key::{KeyError, StatementKey, StatementKeys};

use std::collections::BTreeMap;
use std::sync::Arc;

use access::Permit;
use catalog::{
    CatalogError, Clock, STATEMENT_BYTES_MAX, Statements, StoredBill, StoredPackage,
    StoredStatement,
};
use disk::{DiskDigest, ReadAt};
use provenance::{
    BuildDefinition, BuildMetadata, Builder, Dependency, IN_TOTO_PAYLOAD, Image, Inventory,
    PredicateType, Provenance, ReadError, RunDetails, Statement, Subject, disk_digest_set,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::build::{BuildError, RootFs};
use crate::pipeline::{Proofs, ScanReport};
use crate::source::Pin;
use crate::tattoo::{TATTOO_PATH, Tattoo};

/// Says how the parameters of a provenance are to be read; raised when that changes.
const BUILD_TYPE: &str = "urn:bullion:build:1";
const OS_RELEASE: [&str; 2] = ["usr/lib/os-release", "etc/os-release"];
const OS_RELEASE_BYTES_MAX: u64 = 64 << 10;
const DPKG_STATUS: &str = "var/lib/dpkg/status";
const DPKG_STATUS_BYTES_MAX: u64 = 64 << 20;

/// The names of statements.
pub const PROVENANCE: &str = "provenance";
pub const SPDX: &str = "spdx";
pub const CYCLONEDX: &str = "cyclonedx";
pub const TESTS: &str = "tests";
pub const TATTOO: &str = "tattoo";
/// What `verify` rebuilds from. It holds the template, which readers of a version need not see, so it is not shown.
pub const RECORD: &str = "record";

/// Why nothing can be said of a disk.
#[derive(Debug, thiserror::Error)]
pub enum ProveError {
    #[error("find the root file system of the image")]
    Root(#[source] BuildError),
    #[error("read the root file system of the image")]
    Read(#[from] ext4::Ext4Error),
    #[error("the packages in the image cannot be told")]
    Packages(#[from] ReadError),
    #[error("write a statement")]
    Write(#[from] serde_json::Error),
    #[error("keep what is known of the image")]
    Keep(#[from] CatalogError),
}

/// What dpkg in the root file system of `disk` says is installed; nothing where there is no dpkg.
pub fn inventory(disk: &dyn ReadAt) -> Result<Option<Inventory>, ProveError> {
    let root = RootFs::find(disk).map_err(ProveError::Root)?;
    let found = root.read(disk, |tree| {
        let status = tree.read(DPKG_STATUS.as_bytes(), DPKG_STATUS_BYTES_MAX)?;
        let mut release = None;
        for path in OS_RELEASE {
            if release.is_none() {
                release = tree.read(path.as_bytes(), OS_RELEASE_BYTES_MAX)?;
            }
        }
        Ok::<_, ext4::Ext4Error>(release.zip(status))
    })?;
    let Some((release, status)) = found else {
        return Ok(None);
    };
    Ok(Some(Inventory::read(&release, &status)?))
}

/// All that is known of how a disk came to be.
#[derive(Debug, Clone)]
pub(crate) struct Story {
    pub digest: String,
    pub tattoo: Tattoo,
    /// The state of the archive that packages came from.
    pub pin: Option<Pin>,
    /// The disk that it was built on, which has a story of its own.
    pub parent: Option<DiskDigest>,
    /// Ids of the template and the run.
    pub template: String,
    pub run: String,
    pub customizers: Vec<String>,
    pub proofs: Proofs,
    /// What the disk can be built from again.
    pub record: Value,
    /// RFC 3339, in UTC.
    pub started: String,
}

/// What was kept, for the record of the run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Proven {
    pub statements: Vec<String>,
    /// Packages in the image; none where they cannot be told.
    pub packages: Option<usize>,
    pub key_id: String,
}

/// Signs and keeps every statement about the disk of `story`.
pub(crate) async fn keep(
    kept: &Arc<dyn Statements>,
    clock: &Arc<dyn Clock>,
    key: &StatementKey,
    permit: &Permit,
    story: &Story,
    inventory: Option<Inventory>,
) -> Result<Proven, ProveError> {
    let now = clock.now();
    let mut statements = vec![
        (
            PROVENANCE,
            PredicateType::Provenance,
            history(story, key, &now.to_string())?,
        ),
        (TESTS, PredicateType::TestResult, results(&story.proofs)),
        (TATTOO, PredicateType::Tattoo, record(&story.tattoo)),
        (RECORD, PredicateType::BuildRecord, story.record.clone()),
    ];
    if let Some(inventory) = &inventory {
        let name = short_name(&story.tattoo.image_definition);
        let image = Image {
            name: &name,
            version: &story.tattoo.image_version,
            digest: &story.digest,
            published: &story.tattoo.publish_date,
        };
        statements.push((
            SPDX,
            PredicateType::Spdx,
            provenance::spdx(&image, inventory),
        ));
        let bill = provenance::cyclonedx(&image, inventory);
        statements.push((CYCLONEDX, PredicateType::CycloneDx, bill));
        kept.keep_bill(permit, &story.digest, &stored_bill(inventory)?)
            .await?;
    }
    let signing = Signing {
        kept,
        key,
        permit,
        digest: &story.digest,
        tattoo: &story.tattoo,
    };
    let names = signing.keep(now, statements).await?;
    Ok(Proven {
        statements: names,
        packages: inventory.map(|inventory| inventory.packages.len()),
        key_id: key.id(),
    })
}

/// Signs and keeps what is known of a disk that was brought here: the record that is in it, and what was found when it was
/// looked at. Its story is not known to its beginning.
pub(crate) async fn keep_of_brought(
    clock: &Arc<dyn Clock>,
    signing: &Signing<'_>,
    proofs: &Proofs,
) -> Result<Proven, ProveError> {
    let statements = vec![
        (TESTS, PredicateType::TestResult, results(proofs)),
        (TATTOO, PredicateType::Tattoo, record(signing.tattoo)),
    ];
    Ok(Proven {
        statements: signing.keep(clock.now(), statements).await?,
        packages: None,
        key_id: signing.key.id(),
    })
}

/// Who signs, and about which disk.
pub(crate) struct Signing<'a> {
    pub kept: &'a Arc<dyn Statements>,
    pub key: &'a StatementKey,
    pub permit: &'a Permit,
    pub digest: &'a str,
    pub tattoo: &'a Tattoo,
}

impl Signing<'_> {
    async fn keep(
        &self,
        now: jiff::Timestamp,
        statements: Vec<(&str, PredicateType, Value)>,
    ) -> Result<Vec<String>, ProveError> {
        let mut names = Vec::new();
        for (name, predicate_type, predicate) in statements {
            let statement = Statement::new(self.subject(), predicate_type, predicate);
            let payload = serde_json::to_vec(&statement)?;
            let envelope = self.key.signing().seal(IN_TOTO_PAYLOAD, &payload);
            let envelope = serde_json::to_string(&envelope)?;
            // A template may bring more in its files than is kept. Its image is as good, and cannot be verified later.
            if name == RECORD && envelope.len() > STATEMENT_BYTES_MAX {
                continue;
            }
            let statement = StoredStatement {
                name: name.to_owned(),
                at: now,
                envelope,
            };
            self.kept
                .keep_statement(self.permit, self.digest, &statement)
                .await?;
            names.push(name.to_owned());
        }
        Ok(names)
    }

    fn subject(&self) -> Subject {
        Subject {
            name: format!(
                "{} {}",
                short_name(&self.tattoo.image_definition),
                self.tattoo.image_version
            ),
            digest: disk_digest_set(self.digest),
        }
    }
}

fn stored_bill(inventory: &Inventory) -> Result<StoredBill, serde_json::Error> {
    let packages = inventory.packages.iter().map(|package| {
        Ok(StoredPackage {
            name: package.name.clone(),
            source: package.source.clone(),
            body: serde_json::to_string(package)?,
        })
    });
    Ok(StoredBill {
        system: serde_json::to_string(&inventory.os)?,
        packages: packages.collect::<Result<_, serde_json::Error>>()?,
    })
}

/// `gallery/definition` of the definition's id.
fn short_name(definition: &str) -> String {
    let parts: Vec<&str> = definition.rsplit('/').collect();
    match parts[..] {
        [definition, _, gallery, ..] => format!("{gallery}/{definition}"),
        _ => definition.to_owned(),
    }
}

/// The archive's state, and the lists that it is made of.
fn dependencies_of(pin: &Pin) -> Vec<Dependency> {
    let mut dependencies = vec![Dependency {
        name: Some(pin.image.to_string()),
        digest: BTreeMap::from([("bullionArchiveV1".to_owned(), pin.state.to_string())]),
        ..Dependency::default()
    }];
    for suite in &pin.suites {
        let signed = ("InRelease".to_owned(), suite.in_release_sha256.clone());
        for (name, sha256) in std::iter::once(&signed).chain(&suite.packages) {
            dependencies.push(Dependency {
                name: Some(format!("{} {name}", suite.suite)),
                digest: BTreeMap::from([("sha256".to_owned(), sha256.clone())]),
                annotations: BTreeMap::from([("date".to_owned(), json!(suite.date))]),
                ..Dependency::default()
            });
        }
    }
    dependencies
}

fn history(story: &Story, key: &StatementKey, now: &str) -> Result<Value, serde_json::Error> {
    let tattoo = &story.tattoo;
    let parent = story.parent.iter().map(|digest| Dependency {
        name: Some("parent".to_owned()),
        digest: disk_digest_set(&digest.to_string()),
        ..Dependency::default()
    });
    let archive = story.pin.iter().flat_map(dependencies_of);
    let dependencies = parent.chain(archive).collect();
    serde_json::to_value(Provenance {
        build_definition: BuildDefinition {
            build_type: BUILD_TYPE.to_owned(),
            external_parameters: json!({
                "template": story.template,
                "recipeDigest": tattoo.recipe_digest,
                "customize": story.customizers,
                "imageDefinition": tattoo.image_definition,
            }),
            internal_parameters: json!({
                "buildId": tattoo.build_id,
                "diskBeforeTattoo": tattoo.parent_digest,
            }),
            resolved_dependencies: dependencies,
        },
        run_details: RunDetails {
            builder: Builder {
                id: format!("urn:bullion:factory:{}", key.id()),
                version: BTreeMap::from([(
                    "bullion".to_owned(),
                    env!("CARGO_PKG_VERSION").to_owned(),
                )]),
            },
            metadata: BuildMetadata {
                invocation_id: story.run.clone(),
                started_on: story.started.clone(),
                finished_on: now.to_owned(),
            },
            byproducts: Vec::new(),
        },
    })
}

/// The tattoo as it stands in the disk. It is signed here and not in the disk itself: the same inputs give the same
/// disk in every installation, whatever keys they have.
fn record(tattoo: &Tattoo) -> Value {
    json!({ "path": TATTOO_PATH, "record": crate::publish::tattoo_map(tattoo) })
}

/// What a scanner said, but for the rules that were kept.
fn scan_result(scan: &ScanReport) -> Value {
    json!({
        "name": scan.name,
        "annotations": {
            "scanner": scan.scanner,
            "score": scan.found.score,
            "passedRules": scan.found.passed,
            "notApplicableRules": scan.found.not_applicable,
            "brokenRules": scan.found.broken,
        },
    })
}

/// As in-toto's test-result predicate has it.
fn results(Proofs { reports, scans }: &Proofs) -> Value {
    let named = |passed: bool| -> Vec<String> {
        let checks = reports.iter().flat_map(|report| {
            report
                .checks
                .iter()
                .filter(move |check| check.passed == passed)
                .map(|check| format!("{:?}: {}", report.firmware, check.name))
        });
        let scanned = scans.iter().flat_map(|scan| &scan.checks);
        let scanned = scanned.filter(|check| check.passed == passed);
        checks
            .chain(scanned.map(|check| check.name.clone()))
            .collect()
    };
    let failed = named(false);
    let configuration: Vec<Value> = reports
        .iter()
        .map(|report| {
            json!({
                "name": format!("{:?}", report.firmware),
                "annotations": { "bootSeconds": report.boot_seconds },
            })
        })
        .chain(scans.iter().map(scan_result))
        .collect();
    json!({
        // A version that is distributed although it was refused has no report to show, and has not passed.
        "result": if failed.is_empty() && !reports.is_empty() { "PASSED" } else { "FAILED" },
        "configuration": configuration,
        "passedTests": named(true),
        "failedTests": failed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::TestReport;

    #[test]
    fn what_was_not_tested_has_not_passed() {
        let report = TestReport {
            firmware: machine::Firmware::Bios,
            boot_seconds: 1.0,
            state: machine::SystemState::Running,
            checks: Vec::new(),
        };
        let check = |reports: Vec<TestReport>, expected: &str| {
            let scans = Vec::new();
            assert_eq!(results(&Proofs { reports, scans })["result"], expected);
        };
        check(Vec::new(), "FAILED");
        check(vec![report], "PASSED");
    }

    #[test]
    fn images_are_called_by_gallery_and_definition() {
        let check = |id: &str, expected: &str| assert_eq!(short_name(id), expected);
        check(
            "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/galleries/golden/images/debian",
            "golden/debian",
        );
        check("debian", "debian");
    }
}
