//! What the folder declares, and what a reference means.
//!
//! A document's path is its parents' names and its own: `images/golden/debian-12`. A reference is
//! the end of such a path, as long as it fits one document only. Names compare without case, as
//! ARM's do.

use std::collections::BTreeMap;

use super::problem::{Place, nearest};
use super::tree::Node;

/// The kinds in the order in which they are created, each with the key that names its parent. A document refers to
/// kinds above its own only, so there can be no cycle.
pub const KINDS: &[KindRow] = &[
    KindRow {
        kind: "Factory",
        parent: None,
    },
    KindRow {
        kind: "Tenant",
        parent: None,
    },
    KindRow {
        kind: "Region",
        parent: None,
    },
    KindRow {
        kind: "Application",
        parent: Some(("tenant", "Tenant")),
    },
    KindRow {
        kind: "ServicePrincipal",
        parent: Some(("tenant", "Tenant")),
    },
    KindRow {
        kind: "Subscription",
        parent: None,
    },
    KindRow {
        kind: "ResourceGroup",
        parent: Some(("subscription", "Subscription")),
    },
    KindRow {
        kind: "Gallery",
        parent: Some(("resourceGroup", "ResourceGroup")),
    },
    KindRow {
        kind: "ImageDefinition",
        parent: Some(("gallery", "Gallery")),
    },
    KindRow {
        kind: "ImageTemplate",
        parent: Some(("resourceGroup", "ResourceGroup")),
    },
    KindRow {
        kind: "Pipeline",
        parent: Some(("resourceGroup", "ResourceGroup")),
    },
    KindRow {
        kind: "RoleAssignment",
        parent: None,
    },
    KindRow {
        kind: "PolicyDefinition",
        parent: Some(("subscription", "Subscription")),
    },
    KindRow {
        kind: "PolicyAssignment",
        parent: None,
    },
];

pub struct KindRow {
    pub kind: &'static str,
    pub parent: Option<(&'static str, &'static str)>,
}

/// A document that was declared.
#[derive(Debug, Clone)]
pub struct Entry {
    pub path: Vec<String>,
    pub place: Place,
    /// Index of the document in the folder.
    pub document: usize,
}

impl Entry {
    fn ends_with(&self, wanted: &[&str]) -> bool {
        wanted.len() <= self.path.len()
            && self
                .path
                .iter()
                .rev()
                .zip(wanted.iter().rev())
                .all(|(have, want)| have.eq_ignore_ascii_case(want))
    }

    pub fn name(&self) -> &str {
        self.path.last().map_or("", String::as_str)
    }
}

#[derive(Debug, Default)]
pub struct Names(BTreeMap<&'static str, Vec<Entry>>);

pub enum Unresolved {
    Unknown {
        near: Option<String>,
        declared: Vec<String>,
    },
    Ambiguous(Vec<String>),
}

impl Names {
    /// Collects names from documents that may still be faulty: one without a readable name is left
    /// out here and reported by `check`.
    pub fn collect(documents: &[(Place, Node)]) -> Names {
        let mut names = Names::default();
        for row in KINDS {
            let mut entries = Vec::new();
            for (index, (place, node)) in documents.iter().enumerate() {
                if node.get("kind").and_then(Node::text) != Some(row.kind) {
                    continue;
                }
                let Some(name) = node.get("name") else {
                    continue;
                };
                let Some(text) = name.text() else { continue };
                let mut path = names.parent_path(row, node);
                path.push(text.to_owned());
                let place = Place {
                    file: place.file.clone(),
                    at: name.at,
                };
                entries.push(Entry {
                    path,
                    place,
                    document: index,
                });
            }
            names.0.insert(row.kind, entries);
        }
        names
    }

    fn parent_path(&self, row: &KindRow, node: &Node) -> Vec<String> {
        let Some((key, kind)) = row.parent else {
            return Vec::new();
        };
        let written = node.get(key).and_then(Node::text).unwrap_or("");
        match self.resolve(kind, written) {
            Ok(parent) => parent.path.clone(),
            // The dangling reference is one problem; its children need not add theirs.
            Err(_) => vec![written.to_owned()],
        }
    }

    pub fn of_kind(&self, kind: &str) -> &[Entry] {
        self.0.get(kind).map_or(&[], Vec::as_slice)
    }

    /// What each document of a kind can be called, as short as makes it unique.
    pub fn declared(&self, kind: &str) -> Vec<String> {
        let entries = self.of_kind(kind).iter();
        entries.map(|entry| self.shortest(kind, entry)).collect()
    }

    fn shortest(&self, kind: &str, entry: &Entry) -> String {
        let ends = |length: usize| entry.path[entry.path.len() - length..].join("/");
        (1..entry.path.len())
            .map(ends)
            .find(|end| matches!(self.resolve(kind, end), Ok(found) if found.path == entry.path))
            .unwrap_or_else(|| entry.path.join("/"))
    }

    /// The document whose path ends most like the reference.
    fn near(&self, kind: &str, wanted: &[&str]) -> Option<String> {
        let entries = self.of_kind(kind);
        let end = |entry: &Entry| {
            let length = wanted.len().min(entry.path.len());
            entry.path[entry.path.len() - length..].join("/")
        };
        let ends: Vec<String> = entries.iter().map(end).collect();
        let near = nearest(&wanted.join("/"), ends.iter().map(String::as_str))?;
        let at = ends.iter().position(|end| end == near)?;
        Some(self.shortest(kind, &entries[at]))
    }

    pub fn resolve(&self, kind: &str, reference: &str) -> Result<&Entry, Unresolved> {
        let wanted: Vec<&str> = reference.split('/').collect();
        let entries = self.of_kind(kind);
        let mut found = entries.iter().filter(|entry| entry.ends_with(&wanted));
        match (found.next(), found.next()) {
            (Some(entry), None) => Ok(entry),
            (None, _) => Err(Unresolved::Unknown {
                near: self.near(kind, &wanted),
                declared: self.declared(kind),
            }),
            (Some(first), Some(second)) => {
                // The same path twice is a duplicate, which is reported where it is declared.
                let folded = |entry: &Entry| entry.path.join("/").to_lowercase();
                if folded(first) == folded(second) {
                    return Ok(first);
                }
                let all = entries.iter().filter(|entry| entry.ends_with(&wanted));
                Err(Unresolved::Ambiguous(
                    all.map(|entry| entry.path.join("/")).collect(),
                ))
            }
        }
    }
}
