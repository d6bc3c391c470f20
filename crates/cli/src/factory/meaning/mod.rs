//! What no single value shows: duplicates, exclusive keys, regions that must include one another, tenants that must
//! agree.
//!
//! Runs on the trees, next to `check`, so that a faulty document still has its other faults
//! reported; a value of the wrong shape is skipped here because `check` has reported it.

mod identity;
mod pipeline;
mod policy;
mod steps;

use std::collections::BTreeMap;

use super::folder::Folder;
use super::names::{Entry, KINDS, Names};
use super::problem::{Place, Problems};
use super::tree::{Node, Position, Tree};

pub fn check(documents: &[(Place, Node)], names: &Names, folder: &Folder, problems: &mut Problems) {
    one_factory(documents, names, problems);
    for row in KINDS {
        no_duplicates(row.kind, names, problems);
    }
    galleries_differ_in_subscription(names, problems);
    values_differ(documents, "Subscription", "id", problems);
    identifiers_differ(documents, names, problems);
    let mut meaning = Meaning {
        documents,
        names,
        folder,
        problems,
    };
    for (place, node) in documents {
        match node.get("kind").and_then(Node::text) {
            Some("ImageTemplate") => meaning.template(place, node),
            Some("ServicePrincipal") => meaning.service_principal(place, node),
            Some("RoleAssignment") => meaning.role_assignment(place, node),
            Some("Pipeline") => meaning.pipeline(place, node),
            Some("PolicyAssignment") => meaning.policy_assignment(place, node),
            _ => {}
        }
    }
    meaning.consents_differ();
    meaning.assignments_differ();
    meaning.one_pipeline_per_definition();
}

/// The folder as far as it can be read, and where to say what is wrong with it.
struct Meaning<'a> {
    documents: &'a [(Place, Node)],
    names: &'a Names,
    folder: &'a Folder,
    problems: &'a mut Problems,
}

impl<'a> Meaning<'a> {
    fn report(&mut self, place: &Place, position: Position, what: String, right: &str) {
        self.problems
            .push(at(place, position), what, Some(right.to_owned()));
    }

    /// The document that a key refers to, if the reference is good.
    fn referred(&self, kind: &str, reference: Option<&Node>) -> Option<&'a Entry> {
        self.names.resolve(kind, reference?.text()?).ok()
    }

    fn document(&self, entry: &Entry) -> &'a (Place, Node) {
        &self.documents[entry.document]
    }

    /// Every document of a kind that has a name.
    fn of_kind(&self, kind: &str) -> Vec<(&'a Entry, &'a Place, &'a Node)> {
        let entries = self.names.of_kind(kind).iter();
        entries
            .map(|entry| {
                let (place, node) = self.document(entry);
                (entry, place, node)
            })
            .collect()
    }

    /// What `gallery: golden` refers to, and its kind.
    fn one_key(&self, node: Option<&Node>) -> Option<(&'static str, &'a Entry)> {
        let Tree::Map(entries) = &node?.value else {
            return None;
        };
        let [(key, value)] = entries.as_slice() else {
            return None;
        };
        let row = KINDS.iter().find(|row| {
            let (first, rest) = row.kind.split_at(1);
            key.text.strip_prefix(&first.to_lowercase()) == Some(rest)
        })?;
        Some((row.kind, self.referred(row.kind, Some(value))?))
    }

    /// The name of the tenant that a document belongs to.
    fn tenant_of(&self, kind: &str, entry: &Entry) -> Option<&'a str> {
        let (_, node) = match kind {
            "Tenant" => {
                return Some(
                    self.names
                        .of_kind(kind)
                        .iter()
                        .find(|known| known.document == entry.document)?
                        .name(),
                );
            }
            "Application" | "ServicePrincipal" | "Subscription" => self.document(entry),
            _ => self.document(
                self.names
                    .resolve("Subscription", entry.path.first()?)
                    .ok()?,
            ),
        };
        Some(self.referred("Tenant", node.get("tenant"))?.name())
    }
}

fn at(place: &Place, at: Position) -> Place {
    Place {
        file: place.file.clone(),
        at,
    }
}

fn one_factory(documents: &[(Place, Node)], names: &Names, problems: &mut Problems) {
    let found = documents
        .iter()
        .filter(|(_, node)| node.get("kind").and_then(Node::text) == Some("Factory"))
        .count();
    if found == 0 {
        if let Some((place, _)) = documents.first() {
            problems.push(
                at(place, Position::START),
                "the folder has no document with `kind: Factory`",
                Some("add one with a `name`: resources are tagged with it, so that what is removed from the folder can be found".into()),
            );
        }
        return;
    }
    let mut entries = names.of_kind("Factory").iter();
    if let Some(first) = entries.next() {
        for second in entries.filter(|entry| entry.name() != first.name()) {
            problems.push(
                second.place.clone(),
                format!(
                    "a second Factory, `{}`; the first is at {}",
                    second.name(),
                    first.place
                ),
                Some("keep one per folder".into()),
            );
        }
    }
}

fn no_duplicates(kind: &str, names: &Names, problems: &mut Problems) {
    let mut seen: BTreeMap<String, &Place> = BTreeMap::new();
    for entry in names.of_kind(kind) {
        let path = entry.path.join("/");
        if let Some(first) = seen.get(&path.to_lowercase()) {
            problems.push(
                entry.place.clone(),
                format!("{kind} `{path}` is declared twice; the first is at {first}"),
                Some("rename or remove one (names compare without case)".into()),
            );
        } else {
            seen.insert(path.to_lowercase(), &entry.place);
        }
    }
}

fn galleries_differ_in_subscription(names: &Names, problems: &mut Problems) {
    let mut seen = BTreeMap::new();
    for entry in names.of_kind("Gallery") {
        let (Some(subscription), name) = (entry.path.first(), entry.name()) else {
            continue;
        };
        let key = (subscription.to_lowercase(), name.to_lowercase());
        let group = entry
            .path
            .len()
            .checked_sub(2)
            .map(|index| entry.path[index].to_lowercase());
        match seen.get(&key) {
            Some((other, first)) if *other != group => problems.push(
                entry.place.clone(),
                format!("a gallery `{name}` exists in another resource group of the subscription, declared at {first}"),
                Some("a gallery's name is unique within its subscription: choose another".into()),
            ),
            Some(_) => {}
            None => {
                seen.insert(key, (group, entry.place.clone()));
            }
        }
    }
}

fn values_differ(documents: &[(Place, Node)], kind: &str, key: &str, problems: &mut Problems) {
    let mut seen: BTreeMap<String, Place> = BTreeMap::new();
    for (place, node) in documents {
        if node.get("kind").and_then(Node::text) != Some(kind) {
            continue;
        }
        let Some((value, text)) = node.get(key).and_then(|value| Some((value, value.text()?)))
        else {
            continue;
        };
        let here = at(place, value.at);
        if let Some(first) = seen.get(&text.to_lowercase()) {
            problems.push(
                here,
                format!("`{key}` `{text}` is used twice; the first is at {first}"),
                Some(format!("give each {kind} its own")),
            );
        } else {
            seen.insert(text.to_lowercase(), here);
        }
    }
}

fn identifiers_differ(documents: &[(Place, Node)], names: &Names, problems: &mut Problems) {
    let mut seen: BTreeMap<Vec<String>, Place> = BTreeMap::new();
    for entry in names.of_kind("ImageDefinition") {
        let (place, node) = &documents[entry.document];
        let Some(identifier) = node.get("identifier") else {
            continue;
        };
        let part = |key: &str| {
            identifier
                .get(key)
                .and_then(Node::text)
                .map(str::to_lowercase)
        };
        let (Some(publisher), Some(offer), Some(sku)) =
            (part("publisher"), part("offer"), part("sku"))
        else {
            continue;
        };
        let gallery = entry.path[..entry.path.len() - 1].join("/").to_lowercase();
        let here = at(place, identifier.at);
        let key = vec![gallery, publisher, offer, sku];
        if let Some(first) = seen.get(&key) {
            problems.push(
                here,
                format!("publisher, offer and sku `{}` are used twice in the gallery; the first is at {first}", key[1..].join(":")),
                Some("change one of the three".into()),
            );
        } else {
            seen.insert(key, here);
        }
    }
}
