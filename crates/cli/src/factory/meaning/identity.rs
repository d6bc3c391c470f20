//! Consents and roles: whose an application is, and that a principal and a scope are of one tenant.

use std::collections::BTreeMap;

use super::super::problem::Place;
use super::super::tree::{Node, Tree};
use super::Meaning;

impl Meaning<'_> {
    /// A consent is to an application of another tenant that is open to others.
    pub(super) fn service_principal(&mut self, place: &Place, node: &Node) {
        let written = node.get("application");
        let (Some(application), Some(written)) = (self.referred("Application", written), written)
        else {
            return;
        };
        let Some(tenant) = self.referred("Tenant", node.get("tenant")) else {
            return;
        };
        let name = application.path.join("/");
        if self.tenant_of("Application", application) == Some(tenant.name()) {
            self.report(
                place,
                written.at,
                format!("the application `{name}` is of the tenant that consents"),
                &format!("it has a principal there already: refer to it as `application: {name}`"),
            );
            return;
        }
        let (_, body) = self.document(application);
        let open = body.get("multiTenant").map(|open| &open.value);
        if open != Some(&Tree::Bool(true)) {
            self.report(
                place,
                written.at,
                format!("the application `{name}` is not open to other tenants"),
                "add `multiTenant: true` to it",
            );
        }
    }

    /// One consent to an application in a tenant.
    pub(super) fn consents_differ(&mut self) {
        let mut seen = BTreeMap::new();
        for (entry, place, node) in self.of_kind("ServicePrincipal") {
            let application = self.referred("Application", node.get("application"));
            let tenant = self.tenant_of("ServicePrincipal", entry);
            let (Some(application), Some(tenant)) = (application, tenant) else {
                continue;
            };
            match seen.get(&(application.document, tenant)) {
                None => {
                    seen.insert((application.document, tenant), &entry.place);
                }
                Some(first) => {
                    let what = format!(
                        "`{tenant}` consents to this application twice; the first is at {first}"
                    );
                    let at = node
                        .get("application")
                        .map_or(node.at, |written| written.at);
                    self.report(place, at, what, "remove one of the two");
                }
            }
        }
    }

    /// A principal is given roles in its own tenant only.
    pub(super) fn role_assignment(&mut self, place: &Place, node: &Node) {
        let Some(written) = node.get("principal") else {
            return;
        };
        let scope = self.one_key(node.get("scope"));
        let scope = scope.and_then(|(kind, entry)| self.tenant_of(kind, entry));
        let principal = self.one_key(Some(written));
        let (Some(scope), Some((kind, principal))) = (scope, principal) else {
            return;
        };
        let Some(tenant) = self.tenant_of(kind, principal) else {
            return;
        };
        if tenant == scope {
            return;
        }
        let right = match kind {
            "Application" => format!(
                "name the ServicePrincipal of the application in `{scope}`, or a scope of `{tenant}`"
            ),
            _ => format!("name a principal of `{scope}`, or a scope of `{tenant}`"),
        };
        let what = format!(
            "the scope is of tenant `{scope}`, but `{}` is a principal of tenant `{tenant}`",
            principal.path.join("/")
        );
        self.report(place, written.at, what, &right);
    }

    /// The server refuses what an assignment says already.
    pub(super) fn assignments_differ(&mut self) {
        let mut seen = BTreeMap::new();
        for (entry, place, node) in self.of_kind("RoleAssignment") {
            let role = node.get("role").and_then(Node::text);
            let scope = self.one_key(node.get("scope"));
            let principal = self.one_key(node.get("principal"));
            let (Some(role), Some((_, scope)), Some((_, principal))) = (role, scope, principal)
            else {
                continue;
            };
            let says = (role, scope.document, principal.document);
            match seen.get(&says) {
                None => {
                    seen.insert(says, &entry.place);
                }
                Some(first) => {
                    let what = format!("this says the same as the assignment at {first}");
                    self.report(place, node.at, what, "remove one of the two");
                }
            }
        }
    }
}
