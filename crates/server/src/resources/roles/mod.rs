//! `Microsoft.Authorization`: role definitions, role assignments and deny assignments, at any scope; and what their
//! lists have in common.
//!
//! What is assigned above a scope holds for it and is shown there. Nothing here decides: `access` does, from what these
//! handlers store.

pub mod assignments;
pub mod definitions;
pub mod denials;
pub mod operations;

use catalog::{Pages, Resource};
use serde_json::Value;
use wire::{ArmError, ErrorCode, PrincipalId, ResourceId, ResourceType};

use super::{Reply, page_reply, page_request};
use crate::errors;
use crate::hierarchy::looking;
use crate::operation::Call;
use crate::state::Server;

pub const ASSIGNMENT: &str = "Microsoft.Authorization/roleAssignments";
pub const DEFINITION: &str = "Microsoft.Authorization/roleDefinitions";
pub const DENIAL: &str = "Microsoft.Authorization/denyAssignments";
const TERMS_MAX: usize = 8;

/// What a list is asked for by `$filter`: terms that must all hold.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Not what is below the scope.
    pub at_scope: bool,
    /// What names this principal.
    pub principal: Option<PrincipalId>,
    /// What names this principal or a group that it is in.
    pub assigned_to: Option<PrincipalId>,
    /// `name eq 'value'`, names in lower case.
    pub members: Vec<(String, String)>,
}

impl Filter {
    /// `members` are the names, in lower case, that may be compared besides `principalId`.
    pub fn parse(text: &str, members: &[&str]) -> Result<Filter, ArmError> {
        let refuse = || {
            ArmError::new(
                ErrorCode::InvalidFilterInQueryString,
                format!(
                    "Invalid $filter '{}' specified in the query string.",
                    text.chars().take(200).collect::<String>()
                ),
            )
        };
        let mut filter = Filter::default();
        let terms = text.split(" and ").map(str::trim);
        for (index, term) in terms.filter(|term| !term.is_empty()).enumerate() {
            if index == TERMS_MAX {
                return Err(refuse());
            }
            let folded = term.to_lowercase();
            let principal = |text: &str| text.trim().parse().map_err(|_| refuse());
            if folded == "atscope()" {
                filter.at_scope = true;
            } else if let Some(rest) = folded.strip_prefix("assignedto('") {
                let id = rest.strip_suffix("')").ok_or_else(refuse)?;
                filter.assigned_to = Some(principal(id)?);
            } else if folded != "atscopeandbelow()" {
                let (name, value) = term.split_once(" eq ").ok_or_else(refuse)?;
                let value = value.trim().strip_prefix('\'');
                let value = value.and_then(|value| value.strip_suffix('\''));
                let (name, value) = (name.trim().to_lowercase(), value.ok_or_else(refuse)?);
                let value = value.replace("''", "'");
                match name.as_str() {
                    "principalid" => filter.principal = Some(principal(&value)?),
                    known if members.contains(&known) => filter.members.push((name, value)),
                    _ => return Err(refuse()),
                }
            }
        }
        Ok(filter)
    }

    pub fn of(call: &Call, members: &[&str]) -> Result<Filter, ArmError> {
        Filter::parse(call.query.get("$filter").unwrap_or_default(), members)
    }

    /// The principals that an entry may name: none where all may.
    async fn principals(
        &self,
        server: &Server,
        call: &Call,
    ) -> Result<Option<Vec<PrincipalId>>, ArmError> {
        let tenant = call.permit.tenant();
        match (self.principal, self.assigned_to) {
            (None, None) => Ok(None),
            (Some(one), None) => Ok(Some(vec![one])),
            (also, Some(one)) => {
                let grants = server.auth.grants(tenant, one).await;
                let mut all = grants.map_err(errors::catalog)?.held_as().to_vec();
                all.retain(|held| also.is_none_or(|also| also == *held));
                Ok(Some(all))
            }
        }
    }
}

/// One page of what holds at a scope, lies on it or, unless the filter says otherwise, below it. What is inherited
/// comes first, and only to those who may see everything at the scope.
async fn list_held(
    server: &Server,
    call: &Call,
    of: &str,
    filter: &Filter,
    show: impl Fn(&Resource) -> Option<Value>,
) -> Result<Reply, ArmError> {
    let first = call.query.get("$skiptoken").is_none();
    let mut value: Vec<Value> = Vec::new();
    let whole = *call.permit.visible() == access::Visible::All;
    if first && whole {
        for one in inherited(server, call, of).await? {
            value.extend(show(&one));
        }
    }
    let mut page = page_request(call)?;
    if filter.at_scope {
        page = page.directly();
    }
    let page = server
        .catalog
        .list(&call.permit, &ResourceType::new(of), page)
        .await
        .map_err(errors::catalog)?;
    value.extend(page.resources.iter().filter_map(show));
    Ok(page_reply(call, value, page.next))
}

/// What sits on the scopes above the call's, the highest first.
async fn inherited(server: &Server, call: &Call, of: &str) -> Result<Vec<Resource>, ArmError> {
    let tenant = call.permit.tenant();
    let mut found = Vec::new();
    for scope in above(server, call).await?.into_iter().rev() {
        let permit = looking(scope.clone(), tenant);
        let pages = Pages::of(&*server.catalog, &permit, of).directly();
        found.extend(pages.all().await.map_err(errors::catalog)?);
    }
    Ok(found)
}

/// The scopes above the call's, nearest first.
async fn above(server: &Server, call: &Call) -> Result<Vec<ResourceId>, ArmError> {
    let Some(identity) = call.permit.identity() else {
        return Ok(Vec::new());
    };
    let tenant = call.permit.tenant();
    let grants = server.auth.grants(tenant, identity.principal).await;
    let around = grants.map_err(errors::catalog)?.around().clone();
    let mut line = around.tree.at_or_above(&call.id);
    line.retain(|scope| *scope != call.id);
    Ok(line)
}

/// The id of a definition as seen from a scope: az compares it with what it lists there.
pub fn definition_id(scope: &ResourceId, guid: &str) -> String {
    let subscription = scope.subscription();
    let prefix = subscription
        .map(|id| format!("/subscriptions/{id}"))
        .unwrap_or_default();
    format!("{prefix}/providers/{DEFINITION}/{guid}")
}

/// When something was written and by whom, as this namespace shows it.
fn written(resource: &Resource, shown: &mut Value) {
    let system = &resource.system;
    shown["createdOn"] = system.created_at.to_string().into();
    shown["updatedOn"] = system.changed_at.to_string().into();
    shown["createdBy"] = system.created_by.clone().into();
    shown["updatedBy"] = system.changed_by.clone().into();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters() {
        let one = "11111111-1111-4111-8111-111111111111";
        let check = |text: &str, expected: Option<&str>| {
            let seen = Filter::parse(text, &["rolename"]).ok().map(|filter| {
                let of = |id: Option<PrincipalId>| id.map_or("-".into(), |_| "id".to_string());
                format!(
                    "{} {} {} {}",
                    filter.at_scope,
                    of(filter.principal),
                    of(filter.assigned_to),
                    filter.members.len()
                )
            });
            assert_eq!(seen.as_deref(), expected, "{text}");
        };
        check("", Some("false - - 0"));
        check("atScope()", Some("true - - 0"));
        check("atScopeAndBelow()", Some("false - - 0"));
        check(&format!("principalId eq '{one}'"), Some("false id - 0"));
        check(
            &format!("atScope() and assignedTo('{one}')"),
            Some("true - id 0"),
        );
        check("roleName eq 'It''s'", Some("false - - 1"));
        check("principalId eq 'x'", None);
        check("principalId ne 'x'", None);
        check("assignedTo('x", None);
        check("name eq 'x'", None);
        check("roleName eq x", None);
        check(&["atScope()"; 9].join(" and "), None);
    }
}
