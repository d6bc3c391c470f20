//! Templates, and what pipelines share with them: steps told apart by name, scripts or lines, target regions.

use std::collections::BTreeMap;

use super::super::problem::Place;
use super::super::tree::{Node, Position, Tree};
use super::Meaning;

impl Meaning<'_> {
    pub(super) fn template(&mut self, place: &Place, node: &Node) {
        for list in ["customize", "validate"] {
            self.steps(place, list, node.get(list));
        }
        let outputs = node.get("distribute").map_or(&[][..], Node::items);
        self.names_differ(place, "distribute", "runOutputName", outputs);
        for output in outputs {
            self.version_or_major(place, output);
            self.regions(place, output);
        }
    }

    /// Customizers or checks.
    pub(super) fn steps(&mut self, place: &Place, list: &str, steps: Option<&Node>) {
        let items = steps.map_or(&[][..], Node::items);
        self.names_differ(place, list, "name", items);
        for item in items {
            let kind = item.get("type").and_then(Node::text);
            if let Some(kind @ ("Shell" | "PowerShell")) = kind {
                self.script_or_inline(place, item, kind);
            }
        }
    }

    pub(super) fn names_differ(&mut self, place: &Place, list: &str, key: &str, items: &[Node]) {
        let mut seen: BTreeMap<&str, Position> = BTreeMap::new();
        for name in items.iter().filter_map(|item| item.get(key)) {
            let Some(text) = name.text() else { continue };
            if let Some(first) = seen.get(text) {
                let what = format!(
                    "`{key}` `{text}` is used twice in `{list}`; the first is on line {}",
                    first.line
                );
                self.report(
                    place,
                    name.at,
                    what,
                    "name each step differently: reports and logs use the name",
                );
            } else {
                seen.insert(text, name.at);
            }
        }
    }

    fn script_or_inline(&mut self, place: &Place, item: &Node, kind: &str) {
        const KEYS: [&str; 6] = [
            "type",
            "name",
            "script",
            "inline",
            "secrets",
            "validExitCodes",
        ];
        // A misspelt `script` has been reported as an unknown key; that it is missing is no news.
        if item.keys().any(|key| !KEYS.contains(&key)) {
            return;
        }
        let given = |key: &str| item.get(key).filter(|node| node.value != Tree::Null);
        match (given("script"), given("inline")) {
            (Some(_), Some(inline)) => {
                self.report(
                    place,
                    inline.at,
                    format!("a {kind} step has both `script` and `inline`"),
                    "keep one of the two",
                );
            }
            (None, None) => self.report(
                place,
                item.at,
                format!("a {kind} step has neither `script` nor `inline`"),
                match kind {
                    "PowerShell" => {
                        "add `script: scripts/NAME.ps1`, or `inline:` with a list of lines"
                    }
                    _ => "add `script: scripts/NAME.sh`, or `inline:` with a list of lines",
                },
            ),
            _ => {}
        }
    }

    fn version_or_major(&mut self, place: &Place, output: &Node) {
        if let (Some(_), Some(major)) = (output.get("version"), output.get("major")) {
            self.report(
                    place,
                major.at,
                "`version` and `major` exclude each other".into(),
                "keep `major` to get the next free version, or `version` to publish exactly that one",
            );
        }
    }

    /// Azure's rule: a version lives in its definition's location, which must be a target region.
    pub(super) fn regions(&mut self, place: &Place, output: &Node) {
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
                    place,
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
                place,
                regions.at,
                format!("`targetRegions` leaves out `{home}`, where the image definition is"),
                &format!("add `- name: {home}`: a version must be in its definition's location"),
            );
        }
    }

    /// The location of the definition that versions go to, inherited as `location` is.
    fn home(&self, output: &Node) -> Option<String> {
        let mut entry = self.referred("ImageDefinition", output.get("imageDefinition"))?;
        for (key, kind) in [
            ("gallery", "Gallery"),
            ("resourceGroup", "ResourceGroup"),
            ("", ""),
        ] {
            let (_, node) = self.document(entry);
            if let Some(location) = node.get("location") {
                return location.text().map(str::to_owned);
            }
            entry = self.referred(kind, node.get(key))?;
        }
        None
    }
}
