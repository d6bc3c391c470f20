//! What no single value shows: duplicates, exclusive keys, regions that must include one another.
//!
//! Runs on the trees, next to `check`, so that a faulty document still has its other faults
//! reported; a value of the wrong shape is skipped here because `check` has reported it.

use std::collections::BTreeMap;

use super::names::{KINDS, Names};
use super::problem::{Place, Problems};
use super::tree::{Node, Position, Tree};

pub fn check(documents: &[(Place, Node)], names: &Names, problems: &mut Problems) {
    one_factory(documents, names, problems);
    for row in KINDS {
        no_duplicates(row.kind, names, problems);
    }
    galleries_differ_in_subscription(names, problems);
    values_differ(documents, "Subscription", "id", problems);
    identifiers_differ(documents, names, problems);
    for (place, node) in documents {
        if node.get("kind").and_then(Node::text) == Some("ImageTemplate") {
            Template {
                place,
                node,
                documents,
                names,
                problems,
            }
            .check();
        }
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

struct Template<'a> {
    place: &'a Place,
    node: &'a Node,
    documents: &'a [(Place, Node)],
    names: &'a Names,
    problems: &'a mut Problems,
}

impl Template<'_> {
    fn check(&mut self) {
        let node = self.node;
        for list in ["customize", "validate"] {
            let items = node.get(list).map_or(&[][..], Node::items);
            self.names_differ(list, "name", items);
            for item in items {
                if item.get("type").and_then(Node::text) == Some("Shell") {
                    self.script_or_inline(item);
                }
            }
        }
        let outputs = node.get("distribute").map_or(&[][..], Node::items);
        self.names_differ("distribute", "runOutputName", outputs);
        for output in outputs {
            self.version_or_major(output);
            self.regions(output);
        }
    }

    fn report(&mut self, position: Position, what: String, right: &str) {
        self.problems
            .push(at(self.place, position), what, Some(right.to_owned()));
    }

    fn names_differ(&mut self, list: &str, key: &str, items: &[Node]) {
        let mut seen: BTreeMap<&str, Position> = BTreeMap::new();
        for name in items.iter().filter_map(|item| item.get(key)) {
            let Some(text) = name.text() else { continue };
            if let Some(first) = seen.get(text) {
                let what = format!(
                    "`{key}` `{text}` is used twice in `{list}`; the first is on line {}",
                    first.line
                );
                self.report(
                    name.at,
                    what,
                    "name each step differently: reports and logs use the name",
                );
            } else {
                seen.insert(text, name.at);
            }
        }
    }

    fn script_or_inline(&mut self, item: &Node) {
        // A misspelt `script` has been reported as an unknown key; that it is missing is no news.
        if item
            .keys()
            .any(|key| !["type", "name", "script", "inline"].contains(&key))
        {
            return;
        }
        let given = |key: &str| item.get(key).filter(|node| node.value != Tree::Null);
        match (given("script"), given("inline")) {
            (Some(_), Some(inline)) => {
                self.report(
                    inline.at,
                    "a Shell step has both `script` and `inline`".into(),
                    "keep one of the two",
                );
            }
            (None, None) => self.report(
                item.at,
                "a Shell step has neither `script` nor `inline`".into(),
                "add `script: scripts/NAME.sh`, or `inline:` with a list of lines",
            ),
            _ => {}
        }
    }

    fn version_or_major(&mut self, output: &Node) {
        if let (Some(_), Some(major)) = (output.get("version"), output.get("major")) {
            self.report(
                major.at,
                "`version` and `major` exclude each other".into(),
                "keep `major` to get the next free version, or `version` to publish exactly that one",
            );
        }
    }

    /// Azure's rule: a version lives in its definition's location, which must be a target region.
    fn regions(&mut self, output: &Node) {
        let Some(regions) = output.get("targetRegions") else {
            return;
        };
        let mut seen: Vec<String> = Vec::new();
        for name in regions
            .items()
            .iter()
            .filter_map(|region| region.get("name"))
        {
            let Some(text) = name.text() else { continue };
            if seen.contains(&text.to_lowercase()) {
                self.report(
                    name.at,
                    format!("region `{text}` is listed twice"),
                    "list each region once and raise `replicaCount`",
                );
            }
            seen.push(text.to_lowercase());
        }
        let Some(home) = self.home(output) else {
            return;
        };
        if !seen.is_empty() && !seen.contains(&home.to_lowercase()) {
            self.report(
                regions.at,
                format!("`targetRegions` leaves out `{home}`, where the image definition is"),
                &format!("add `- name: {home}`: a version must be in its definition's location"),
            );
        }
    }

    /// The location of the definition that an output goes to, inherited as `location` is.
    fn home(&self, output: &Node) -> Option<String> {
        let reference = output.get("imageDefinition")?.text()?;
        let mut entry = self.names.resolve("ImageDefinition", reference).ok()?;
        for (key, kind) in [
            ("gallery", "Gallery"),
            ("resourceGroup", "ResourceGroup"),
            ("", ""),
        ] {
            let (_, node) = &self.documents[entry.document];
            if let Some(location) = node.get("location") {
                return location.text().map(str::to_owned);
            }
            entry = self.names.resolve(kind, node.get(key)?.text()?).ok()?;
        }
        None
    }
}
