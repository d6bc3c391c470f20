//! What is signed: in-toto statements, version 1 (<https://in-toto.io/Statement/v1>), and the SLSA provenance
//! predicate, version 1 (<https://slsa.dev/provenance/v1>). The names of members are theirs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The DSSE payload type of every statement.
pub const IN_TOTO_PAYLOAD: &str = "application/vnd.in-toto+json";
/// The name of a disk's digest among in-toto's; what it is stands in docs/FORMAT.md.
const DISK_DIGEST: &str = "bullionDiskV1";

/// Digests of one thing, by algorithm, in hexadecimal.
pub type DigestSet = BTreeMap<String, String>;

/// The digest set of a disk; its prefix `bd1:` becomes the name of the algorithm.
pub fn disk_digest_set(digest: &str) -> DigestSet {
    let hex = digest.strip_prefix("bd1:").unwrap_or(digest);
    BTreeMap::from([(DISK_DIGEST.to_owned(), hex.to_owned())])
}

/// What a statement says of its subjects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PredicateType {
    #[serde(rename = "https://slsa.dev/provenance/v1")]
    Provenance,
    #[serde(rename = "https://spdx.dev/Document/v2.3")]
    Spdx,
    #[serde(rename = "https://cyclonedx.org/bom/v1.6")]
    CycloneDx,
    /// Results of boots and checks.
    #[serde(rename = "https://in-toto.io/attestation/test-result/v0.1")]
    TestResult,
    /// The record of identity and origin that is in the disk itself.
    #[serde(rename = "urn:bullion:tattoo:1")]
    Tattoo,
    /// All that a build was made from, so that it can be made again.
    #[serde(rename = "urn:bullion:build-record:1")]
    BuildRecord,
}

/// What a statement is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    pub name: String,
    pub digest: DigestSet,
}

/// A claim about disks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Statement {
    #[serde(rename = "_type")]
    kind: StatementType,
    pub subject: Vec<Subject>,
    pub predicate_type: PredicateType,
    pub predicate: Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum StatementType {
    #[serde(rename = "https://in-toto.io/Statement/v1")]
    V1,
}

impl Statement {
    pub fn new(subject: Subject, predicate_type: PredicateType, predicate: Value) -> Self {
        Statement {
            kind: StatementType::V1,
            subject: vec![subject],
            predicate_type,
            predicate,
        }
    }

    /// Whether it is about the disk with this digest.
    pub fn concerns(&self, digest: &str) -> bool {
        let wanted = disk_digest_set(digest);
        self.subject.iter().any(|subject| {
            wanted
                .iter()
                .all(|(name, hex)| subject.digest.get(name) == Some(hex))
        })
    }
}

/// How a disk came to be, as SLSA tells it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Provenance {
    pub build_definition: BuildDefinition,
    pub run_details: RunDetails,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BuildDefinition {
    /// A URI that says how the parameters are to be read.
    pub build_type: String,
    /// What whoever asked for the build decided.
    pub external_parameters: Value,
    /// What the installation decided.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub internal_parameters: Value,
    /// Everything that went in, pinned.
    pub resolved_dependencies: Vec<Dependency>,
}

/// SLSA's resource descriptor.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Dependency {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub digest: DigestSet,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, Value>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunDetails {
    pub builder: Builder,
    pub metadata: BuildMetadata,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub byproducts: Vec<Dependency>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Builder {
    /// A URI that names the installation.
    pub id: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub version: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BuildMetadata {
    pub invocation_id: String,
    /// RFC 3339, in UTC.
    pub started_on: String,
    pub finished_on: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_statement_has_the_names_of_in_toto_and_slsa() {
        let provenance = Provenance {
            build_definition: BuildDefinition {
                build_type: "urn:bullion:build:1".into(),
                external_parameters: json!({ "template": "debian" }),
                internal_parameters: Value::Null,
                resolved_dependencies: vec![Dependency {
                    uri: Some("https://mirror.example/debian".into()),
                    digest: BTreeMap::from([("sha256".into(), "00".into())]),
                    ..Dependency::default()
                }],
            },
            run_details: RunDetails {
                builder: Builder {
                    id: "https://images.example".into(),
                    version: BTreeMap::new(),
                },
                metadata: BuildMetadata {
                    invocation_id: "run-1".into(),
                    started_on: "2026-01-02T03:04:05Z".into(),
                    finished_on: "2026-01-02T03:05:05Z".into(),
                },
                byproducts: Vec::new(),
            },
        };
        let subject = Subject {
            name: "images/debian 1.0.0".into(),
            digest: disk_digest_set("bd1:abcd"),
        };
        let statement = Statement::new(
            subject,
            PredicateType::Provenance,
            serde_json::to_value(&provenance).unwrap(),
        );
        let value = serde_json::to_value(&statement).unwrap();
        assert_eq!(
            value,
            json!({
                "_type": "https://in-toto.io/Statement/v1",
                "subject": [{ "name": "images/debian 1.0.0", "digest": { "bullionDiskV1": "abcd" } }],
                "predicateType": "https://slsa.dev/provenance/v1",
                "predicate": {
                    "buildDefinition": {
                        "buildType": "urn:bullion:build:1",
                        "externalParameters": { "template": "debian" },
                        "resolvedDependencies": [{ "uri": "https://mirror.example/debian", "digest": { "sha256": "00" } }],
                    },
                    "runDetails": {
                        "builder": { "id": "https://images.example" },
                        "metadata": {
                            "invocationId": "run-1",
                            "startedOn": "2026-01-02T03:04:05Z",
                            "finishedOn": "2026-01-02T03:05:05Z",
                        },
                    },
                },
            })
        );
        let back: Statement = serde_json::from_value(value.clone()).unwrap();
        assert_eq!(back, statement);
        assert!(back.concerns("bd1:abcd") && !back.concerns("bd1:ab"));

        let mut other = value;
        other["_type"] = json!("https://in-toto.io/Statement/v0.1");
        assert!(serde_json::from_value::<Statement>(other).is_err());
    }
}
