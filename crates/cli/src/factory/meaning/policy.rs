//! Policy assignments: that a definition reaches the scope, and that its parameters are given.

use serde_json::{Map, Value};

use super::super::names::Entry;
use super::super::policy_file;
use super::super::problem::{Place, nearest, one_of};
use super::super::tree::{Node, Tree};
use super::Meaning;

impl Meaning<'_> {
    pub(super) fn policy_assignment(&mut self, place: &Place, node: &Node) {
        let scope = self.one_key(node.get("scope"));
        let assigned = self.one_key(node.get("definition"));
        if let (Some((kind, scope)), Some((_, definition))) = (scope, assigned) {
            self.definition_reaches(place, node, (kind, scope), definition);
        }
        if let Some((_, definition)) = assigned {
            self.parameters(place, node, definition);
        }
        if let Some((_, scope)) = scope {
            let left_out = node.get("notScopes").map_or(&[][..], Node::items);
            for written in left_out {
                self.is_below(place, written, scope);
            }
        }
    }

    /// A definition is known in the subscription that keeps it.
    fn definition_reaches(
        &mut self,
        place: &Place,
        node: &Node,
        (kind, scope): (&str, &Entry),
        definition: &Entry,
    ) {
        let Some(written) = node.get("scope") else {
            return;
        };
        let keeper = definition.path.first().map_or("", String::as_str);
        let inside = kind != "Tenant"
            && scope
                .path
                .first()
                .is_some_and(|subscription| subscription.eq_ignore_ascii_case(keeper));
        if inside {
            return;
        }
        self.report(
            place,
            written.at,
            format!(
                "the policy definition `{}` is kept in the subscription `{keeper}`, which the scope is not in",
                definition.name()
            ),
            &format!("assign it in `{keeper}`, or declare the definition in the scope's subscription, too"),
        );
    }

    fn is_below(&mut self, place: &Place, written: &Node, scope: &Entry) {
        let Some((_, inner)) = self.one_key(Some(written)) else {
            return;
        };
        let begins = inner.path.len() > scope.path.len()
            && inner
                .path
                .iter()
                .zip(&scope.path)
                .all(|(inner, outer)| inner.eq_ignore_ascii_case(outer));
        // A tenant's name is no part of the paths in its subscriptions.
        let in_tenant = self
            .names
            .of_kind("Tenant")
            .iter()
            .any(|tenant| tenant.document == scope.document);
        if !begins && !in_tenant {
            self.report(
                place,
                written.at,
                format!("`{}` is not below the scope", inner.path.join("/")),
                "name what is to be left out of the scope",
            );
        }
    }

    /// The parameters that the definition's file declares are those that can be given.
    fn parameters(&mut self, place: &Place, node: &Node, definition: &Entry) {
        let (_, document) = self.document(definition);
        let Some(file) = document.get("file").and_then(Node::text) else {
            return;
        };
        let Some(policy) = self
            .folder
            .file(file)
            .ok()
            .and_then(|bytes| policy_file::parse(&bytes).ok())
        else {
            return;
        };
        let none = Map::new();
        let declared = policy
            .get("parameters")
            .and_then(Value::as_object)
            .unwrap_or(&none);
        let given = match node.get("parameters").map(|given| &given.value) {
            Some(Tree::Map(entries)) => entries.as_slice(),
            _ => &[],
        };
        for (key, value) in given {
            let Some((_, parameter)) = declared
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(&key.text))
            else {
                let what = format!(
                    "the policy `{}` has no parameter `{}`",
                    definition.name(),
                    key.text
                );
                let names = declared.keys().map(String::as_str);
                let right = match nearest(&key.text, names.clone()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("`{file}` declares {}", one_of(names)),
                };
                self.report(place, key.at, what, &right);
                continue;
            };
            self.allowed(place, &key.text, value, parameter);
        }
        for (name, parameter) in declared {
            let is_given = given
                .iter()
                .any(|(key, _)| key.text.eq_ignore_ascii_case(name));
            if !is_given && parameter.get("defaultValue").is_none() {
                let what = format!(
                    "the policy `{}` needs the parameter `{name}`, which has no default",
                    definition.name()
                );
                let at = node.get("parameters").unwrap_or(node).at;
                self.report(place, at, what, &format!("add `{name}: …` to `parameters`"));
            }
        }
    }

    fn allowed(&mut self, place: &Place, name: &str, value: &Node, parameter: &Value) {
        let Some(allowed) = parameter.get("allowedValues").and_then(Value::as_array) else {
            return;
        };
        let written = value.to_json();
        let same = |one: &Value| match (one.as_str(), written.as_str()) {
            (Some(one), Some(written)) => one.eq_ignore_ascii_case(written),
            _ => *one == written,
        };
        if allowed.is_empty() || allowed.iter().any(same) {
            return;
        }
        let all: Vec<String> = allowed
            .iter()
            .map(|one| one.as_str().map_or_else(|| one.to_string(), str::to_owned))
            .collect();
        let what = format!("the parameter `{name}` cannot be {}", value.describe());
        let right = format!("it is {}", one_of(all.iter().map(String::as_str)));
        self.report(place, value.at, what, &right);
    }
}
