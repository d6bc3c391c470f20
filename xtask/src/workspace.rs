//! Where the workspace is and what cargo says of it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::program::Program;

/// The checkout that this xtask was built from.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// The programs of the toolchain that runs us.
pub fn cargo() -> Program {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    Program::new(cargo).in_folder(root())
}

/// `cargo metadata` of our own crates, without what they depend on.
pub fn metadata() -> Result<Value> {
    let text = cargo()
        .args(["metadata", "--format-version", "1", "--no-deps", "--locked"])
        .stdout()?;
    serde_json::from_str(&text).context("cargo metadata printed what is not JSON")
}

/// Where cargo puts what it builds.
pub fn target_folder() -> Result<PathBuf> {
    let metadata = metadata()?;
    let folder = metadata["target_directory"]
        .as_str()
        .context("cargo metadata names no target directory")?;
    Ok(PathBuf::from(folder))
}

/// A `[[test]]` target.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TestTarget {
    pub package: String,
    pub name: String,
    pub needs: Needs,
}

/// What an integration test needs beside the toolchain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needs {
    Nothing,
    /// Machines, so that its tests run one after the other.
    Boot,
    /// A PostgreSQL server.
    Postgres,
}

impl Needs {
    /// The features by which a target and its package say what they need.
    pub const FEATURES: [(&str, Self); 2] =
        [("boot", Self::Boot), ("postgres-tests", Self::Postgres)];

    fn of(target: &Value) -> Self {
        let features = list(&target["required-features"]);
        let named = |(name, _): &&(&str, Self)| features.iter().any(|feature| feature == name);
        let found = Self::FEATURES.iter().find(named);
        found.map_or(Self::Nothing, |(_, needs)| *needs)
    }
}

/// The integration tests of all crates. What boots machines, or needs a database server, says so by its
/// `required-features`.
pub fn test_targets(metadata: &Value) -> Vec<TestTarget> {
    let mut found = Vec::new();
    for package in list(&metadata["packages"]) {
        for target in list(&package["targets"]) {
            if !list(&target["kind"]).iter().any(|kind| kind == "test") {
                continue;
            }
            found.push(TestTarget {
                package: text(&package["name"]),
                name: text(&target["name"]),
                needs: Needs::of(target),
            });
        }
    }
    found.sort();
    found
}

/// The packages that have a feature of this name.
pub fn packages_with_feature(metadata: &Value, feature: &str) -> Vec<String> {
    list(&metadata["packages"])
        .iter()
        .filter(|package| package["features"].get(feature).is_some())
        .map(|package| text(&package["name"]))
        .collect()
}

/// The packages that have a `[[bench]]` target.
pub fn packages_with_benches(metadata: &Value) -> Vec<String> {
    let has_bench = |package: &Value| {
        list(&package["targets"])
            .iter()
            .any(|target| list(&target["kind"]).iter().any(|kind| kind == "bench"))
    };
    list(&metadata["packages"])
        .iter()
        .filter(|p| has_bench(p))
        .map(|package| text(&package["name"]))
        .collect()
}

/// The `[[bench]]` targets of one package.
pub fn benches(metadata: &Value, package: &str) -> Vec<String> {
    let of_package = |candidate: &&Value| candidate["name"] == package;
    let targets = list(&metadata["packages"])
        .iter()
        .filter(of_package)
        .flat_map(|package| list(&package["targets"]));
    targets
        .filter(|target| list(&target["kind"]).iter().any(|kind| kind == "bench"))
        .map(|target| text(&target["name"]))
        .collect()
}

pub fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_test_needs_is_told_by_its_required_feature() {
        let metadata: Value = serde_json::json!({"packages": [
            {"name": "a", "features": {"boot": []}, "targets": [
                {"name": "a", "kind": ["lib"]},
                {"name": "boot", "kind": ["test"], "required-features": ["boot"]},
                {"name": "pg", "kind": ["test"], "required-features": ["postgres-tests"]}]},
            {"name": "b", "features": {}, "targets": [
                {"name": "suite", "kind": ["test"]},
                {"name": "speed", "kind": ["bench"]}]},
        ]});
        let targets = test_targets(&metadata);
        let told: Vec<_> = targets
            .iter()
            .map(|t| (t.package.as_str(), t.name.as_str(), t.needs))
            .collect();
        assert_eq!(
            told,
            [
                ("a", "boot", Needs::Boot),
                ("a", "pg", Needs::Postgres),
                ("b", "suite", Needs::Nothing)
            ]
        );
        assert_eq!(packages_with_feature(&metadata, "boot"), ["a"]);
        assert_eq!(packages_with_benches(&metadata), ["b"]);
        assert_eq!(benches(&metadata, "b"), ["speed"]);
    }
}
