//! Pipelines: stages that differ, applications that can do what a promotion does, gates that can be passed.

use std::collections::BTreeMap;

use super::super::names::Entry;
use super::super::problem::Place;
use super::super::tree::{Node, Tree};
use super::Meaning;

impl Meaning<'_> {
    pub(super) fn pipeline(&mut self, place: &Place, node: &Node) {
        let stages = node.get("stages").map_or(&[][..], Node::items);
        self.names_differ(place, "stages", "name", stages);
        self.definitions_differ(place, stages);
        let mut before = None;
        for (index, stage) in stages.iter().enumerate() {
            self.tenant_of_stage(place, stage);
            if index == 0 {
                self.first_stage(place, stage);
            } else {
                self.later_stage(place, stage, before);
            }
            before = self
                .referred("Tenant", stage.get("tenant"))
                .map(Entry::name);
        }
    }

    fn definitions_differ(&mut self, place: &Place, stages: &[Node]) {
        let mut seen = BTreeMap::new();
        for written in stages
            .iter()
            .filter_map(|stage| stage.get("imageDefinition"))
        {
            let Some(definition) = self.referred("ImageDefinition", Some(written)) else {
                continue;
            };
            let Some(first) = seen.get(&definition.document) else {
                seen.insert(definition.document, written.at);
                continue;
            };
            let what = format!(
                "`{}` is the image definition of two stages; the first is on line {}",
                definition.path.join("/"),
                first.line
            );
            self.report(
                place,
                written.at,
                what,
                "give each stage an image definition of its own: what is in it has passed that stage's gates",
            );
        }
    }

    fn tenant_of_stage(&mut self, place: &Place, stage: &Node) {
        let Some(written) = stage.get("imageDefinition") else {
            return;
        };
        let definition = self.referred("ImageDefinition", Some(written));
        let owner = definition.and_then(|entry| self.tenant_of("ImageDefinition", entry));
        let said = self.referred("Tenant", stage.get("tenant"));
        if let (Some(owner), Some(said)) = (owner, said)
            && owner != said.name()
        {
            let what = format!(
                "the image definition is of tenant `{owner}`, but the stage of `{}`",
                said.name()
            );
            let right = format!("write `tenant: {owner}`, or name a definition of that tenant");
            self.report(place, written.at, what, &right);
        }
    }

    /// Versions are built in the first stage, not promoted to it.
    fn first_stage(&mut self, place: &Place, stage: &Node) {
        for key in ["application", "gates", "targetRegions"] {
            let Some(given) = stage.get(key) else {
                continue;
            };
            if given.value == Tree::Null
                || matches!(&given.value, Tree::List(items) if items.is_empty())
            {
                continue;
            }
            self.report(
                place,
                given.at,
                format!("the first stage has `{key}`, but nothing is promoted to it"),
                "remove it: versions get there from a template, whose checks are its gates",
            );
        }
    }

    fn later_stage(&mut self, place: &Place, stage: &Node, before: Option<&str>) {
        match stage.get("application") {
            None => self.report(
                place,
                stage.at,
                "`application` is missing in a stage that versions are promoted to".into(),
                "add `application`: as whom a promotion reads the stage before and writes to this one",
            ),
            Some(written) => self.can_act(place, stage, written, before),
        }
        let regions = stage.get("targetRegions").map_or(&[][..], Node::items);
        if regions.is_empty() {
            self.report(
                place,
                stage.at,
                "`targetRegions` is missing in a stage that versions are promoted to".into(),
                "add `targetRegions:` with one `- name: REGION` or more",
            );
        }
        self.regions(place, stage);
        let gates = stage.get("gates").map_or(&[][..], Node::items);
        self.names_differ(place, "gates", "name", gates);
        for gate in gates {
            match gate.get("type").and_then(Node::text) {
                Some("DeployAndCheck") => self.deploy_and_check(place, gate, regions),
                Some("Approval") => self.approval(place, stage, gate),
                _ => {}
            }
        }
    }

    /// A promotion acts as the stage's application in two tenants: it needs a principal in both.
    fn can_act(&mut self, place: &Place, stage: &Node, written: &Node, before: Option<&str>) {
        let Some(application) = self.referred("Application", Some(written)) else {
            return;
        };
        let home = self.tenant_of("Application", application);
        let own = self
            .referred("Tenant", stage.get("tenant"))
            .map(Entry::name);
        let mut needed = vec![(own, "of this stage"), (before, "of the stage before")];
        needed.dedup_by_key(|(tenant, _)| *tenant);
        for (tenant, whose) in needed {
            let Some(tenant) = tenant else { continue };
            if home == Some(tenant) || self.consented(application, tenant) {
                continue;
            }
            let what = format!(
                "the application `{}` has no principal in the tenant {whose}, `{tenant}`",
                application.path.join("/")
            );
            let right = format!(
                "add a document with `kind: ServicePrincipal`, `tenant: {tenant}` and `application: {}`",
                application.path.join("/")
            );
            self.report(place, written.at, what, &right);
        }
    }

    fn consented(&self, application: &Entry, tenant: &str) -> bool {
        self.of_kind("ServicePrincipal")
            .into_iter()
            .any(|(entry, _, node)| {
                let consented = self.referred("Application", node.get("application"));
                consented.is_some_and(|found| found.document == application.document)
                    && self.tenant_of("ServicePrincipal", entry) == Some(tenant)
            })
    }

    fn deploy_and_check(&mut self, place: &Place, gate: &Node, regions: &[Node]) {
        self.steps(place, "checks", gate.get("checks"));
        let Some((region, text)) = gate
            .get("region")
            .and_then(|node| Some((node, node.text()?)))
        else {
            return;
        };
        let names: Vec<&str> = regions
            .iter()
            .filter_map(|region| region.get("name")?.text())
            .collect();
        if !names.is_empty() && !names.iter().any(|name| name.eq_ignore_ascii_case(text)) {
            self.report(
                place,
                region.at,
                format!("`region` is `{text}`, which is not one of the stage's `targetRegions`"),
                &format!("write {}", super::super::problem::one_of(names)),
            );
        }
    }

    /// Whoever is to say yes is of the stage's tenant, and there are enough of them.
    fn approval(&mut self, place: &Place, stage: &Node, gate: &Node) {
        let Some(tenant) = self
            .referred("Tenant", stage.get("tenant"))
            .map(Entry::name)
        else {
            return;
        };
        let named = gate.get("principals").map_or(&[][..], Node::items);
        let mut seen = BTreeMap::new();
        for written in named {
            let Some((kind, principal)) = self.one_key(Some(written)) else {
                continue;
            };
            let path = principal.path.join("/");
            let theirs = self.tenant_of(kind, principal);
            if let Some(theirs) = theirs.filter(|theirs| *theirs != tenant) {
                let what = format!(
                    "`{path}` is a principal of tenant `{theirs}`, but the stage is of `{tenant}`"
                );
                self.report(
                    place,
                    written.at,
                    what,
                    &format!("name principals of `{tenant}`"),
                );
            }
            if let Some(first) = seen.insert(principal.document, written.at) {
                let what = format!(
                    "`{path}` is named twice; the first is on line {}",
                    first.line
                );
                self.report(place, written.at, what, "name each once");
            }
        }
        let asked = gate.get("count").map(|count| (count, &count.value));
        if let Some((count, Tree::Int(number))) = asked
            && !named.is_empty()
            && usize::try_from(*number).is_ok_and(|number| number > named.len())
        {
            let what = format!(
                "{number} approvals are asked for, of {} who are named",
                named.len()
            );
            self.report(place, count.at, what, "name more, or ask for fewer");
        }
    }

    /// An image definition names the one pipeline that promotes to it.
    pub(super) fn one_pipeline_per_definition(&mut self) {
        let mut seen: BTreeMap<usize, (&str, usize)> = BTreeMap::new();
        for (pipeline, place, node) in self.of_kind("Pipeline") {
            let stages = node.get("stages").map_or(&[][..], Node::items);
            for stage in stages.iter().skip(1) {
                let Some(written) = stage.get("imageDefinition") else {
                    continue;
                };
                let Some(definition) = self.referred("ImageDefinition", Some(written)) else {
                    continue;
                };
                let this = (pipeline.name(), pipeline.document);
                let first = *seen.entry(definition.document).or_insert(this);
                if first.1 != pipeline.document {
                    let what = format!(
                        "the pipeline `{}` promotes to `{}`, too",
                        first.0,
                        definition.path.join("/")
                    );
                    self.report(
                        place,
                        written.at,
                        what,
                        "one pipeline promotes to an image definition",
                    );
                }
            }
        }
    }
}
