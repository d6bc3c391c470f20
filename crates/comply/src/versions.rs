//! A definition or initiative in all its versions, and which of them an assignment means.

use std::sync::Arc;

use policy::version::{self, Pattern, Version};

use crate::unit::Document;

/// At least one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Versions(Vec<(Option<Version>, Arc<Document>)>);

impl Versions {
    pub fn alone(document: Arc<Document>) -> Versions {
        let mut versions = Versions::default();
        versions.add(document);
        versions
    }

    /// Adds a version, unless there is one of its number.
    pub fn add(&mut self, document: Arc<Document>) {
        let number = document.version.as_deref().and_then(Version::parse);
        if !self.0.iter().any(|(known, _)| *known == number) {
            self.0.push((number, document));
        }
    }

    /// The newest that is meant. What names no version, and is alone, is always meant.
    pub fn of(&self, pattern: Option<&Pattern>) -> Option<&Arc<Document>> {
        if let [(None, alone)] = self.0.as_slice() {
            return Some(alone);
        }
        let numbers: Vec<Option<Version>> = self.0.iter().map(|(of, _)| of.clone()).collect();
        let at = version::newest(&numbers, pattern)?;
        self.0.get(at).map(|(_, document)| document)
    }
}

/// Finds what an assignment or an initiative names: by id and, where one is named, by version. Why there is none, where
/// there is none.
pub(crate) fn choose(
    found: Option<&Versions>,
    id: &str,
    version: Option<&str>,
) -> Result<Arc<Document>, String> {
    let pattern = version.map(Pattern::parse).transpose()?;
    let found = found.ok_or_else(|| format!("there is no definition `{id}`"))?;
    let chosen = found.of(pattern.as_ref()).cloned();
    chosen.ok_or_else(|| {
        let version = version.unwrap_or_default();
        format!("there is no version `{version}` of the definition `{id}`")
    })
}
