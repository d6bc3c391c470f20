//! What the states are: records of a scope, page by page, and their summary.
//!
//! Answers from memory. Only what describes a resource is read from the catalog, and only what the permit shows is told.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use access::{Permit, Visible};
use catalog::{Resource, StateKey};
use jiff::Timestamp;
use policy::json::get;
use policy::verdict::{State, Verdict};
use serde_json::{Value, json};
use wire::{ResourceId, TenantId};

use crate::board::Board;
use crate::comply::Comply;
use crate::denial::expression;
use crate::error::{ComplyError, Result};
use crate::kinds;
use crate::look::{self, Look};
use crate::policies::Policies;
use crate::reason;
use crate::reconcile::policies_of;
use crate::records::{DETAILED_MAX, LIMIT_DEFAULT, LIMIT_MAX, StatePage, StateQuery, StateRecord};
use crate::subject;
use crate::summary::{Summary, Tally};
use crate::unit::{Unit, UnitKey};

/// Evaluated expressions of one record. Their values may be kilobytes.
const EXPRESSIONS_MAX: usize = 25;
const BUILT_IN: &str = "/providers/microsoft.authorization/";

/// One state as the board has it.
pub(crate) struct Found {
    pub id: ResourceId,
    pub unit: Arc<Unit>,
    pub state: State,
    pub since: Timestamp,
    pub reason: Option<String>,
    pub evaluated_at: Timestamp,
}

/// Which states are asked for, and which may be told.
pub(crate) struct Area<'q> {
    permit: &'q Permit,
    scope: ResourceId,
    query: StateQuery,
}

impl<'q> Area<'q> {
    /// A policy's own id as the scope means its states where it is assigned.
    pub fn new(permit: &'q Permit, query: &StateQuery) -> Area<'q> {
        let mut query = query.clone();
        let own = permit.scope();
        let kind = own.resource_type();
        let member = match () {
            () if kind.is(kinds::ASSIGNMENTS) => Some(&mut query.assignment),
            () if kind.is(kinds::DEFINITIONS) => Some(&mut query.definition),
            () if kind.is(kinds::SET_DEFINITIONS) => Some(&mut query.set_definition),
            () => None,
        };
        let scope = match member {
            Some(member) => {
                *member = Some(own.to_string());
                own.parent().unwrap_or_else(ResourceId::root)
            }
            None => own.clone(),
        };
        Area {
            permit,
            scope,
            query,
        }
    }

    pub fn shows(&self, policies: &Policies, id: &ResourceId) -> bool {
        match self.permit.visible() {
            Visible::All => policies.within(id, &self.scope),
            Visible::Only(scopes) => scopes.iter().any(|scope| policies.within(id, scope)),
        }
    }

    pub fn asks_for(&self, unit: &Unit) -> bool {
        let same = |wanted: &Option<String>, own: &str| {
            wanted
                .as_ref()
                .is_none_or(|wanted| wanted.trim_end_matches('/').eq_ignore_ascii_case(own))
        };
        let defined = |wanted: &Option<String>, own: Option<&str>| {
            wanted
                .as_ref()
                .is_none_or(|wanted| own.is_some_and(|own| same_definition(wanted, own)))
        };
        let set = unit.assignment.set.as_ref().map(|set| set.id.as_str());
        same(&self.query.assignment, &unit.assignment.id.to_string())
            && defined(&self.query.definition, Some(&unit.definition.id))
            && defined(&self.query.set_definition, set)
            && same(
                &self.query.reference,
                unit.reference.as_deref().unwrap_or_default(),
            )
    }

    /// States from the board: those of whole resources, until there are enough. The id after which to go on, if there
    /// are more.
    fn page(&self, board: &Board, after: &str, limit: usize) -> (Vec<Found>, Option<String>) {
        let policies = &board.policies;
        let wanted: Vec<&Arc<Unit>> = policies
            .units
            .iter()
            .filter(|unit| self.asks_for(unit))
            .collect();
        let roots = match self.scope.resource_type().is(kinds::MANAGEMENT_GROUPS) {
            true => policies.subscriptions_below(&self.scope),
            false => vec![self.scope.clone()],
        };
        let mut found: Vec<Found> = Vec::new();
        for id in roots.iter().flat_map(|root| board.below(root, after)) {
            if found.len() >= limit {
                let last = found.last().map(|last| last.id.folded().to_owned());
                return (found, last);
            }
            let kind = kinds::of(id);
            let typed = self.query.resource_type.as_ref();
            if typed.is_some_and(|wanted| !wanted.eq_ignore_ascii_case(&kind))
                || !self.shows(policies, id)
            {
                continue;
            }
            let entries = wanted.iter().filter_map(|unit| board.own_entry(id, unit));
            let asked = |state: State| self.query.state.is_none_or(|wanted| wanted == state);
            found.extend(
                entries
                    .filter(|entry| asked(entry.state))
                    .map(|entry| Found {
                        id: entry.id.clone(),
                        unit: Arc::clone(entry.unit),
                        state: entry.state,
                        since: entry.since,
                        reason: entry.reason.map(str::to_owned),
                        evaluated_at: entry.evaluated_at,
                    }),
            );
        }
        (found, None)
    }
}

/// A built-in definition goes by its name at any scope.
fn same_definition(wanted: &str, own: &str) -> bool {
    let (wanted, own) = (
        wanted.trim_end_matches('/').to_lowercase(),
        own.to_lowercase(),
    );
    let name = |id: &str| id.rsplit('/').next().unwrap_or_default().to_owned();
    wanted == own || (own.starts_with(BUILT_IN) && name(&wanted) == name(&own))
}

impl Comply {
    /// The tenant's board; the first question waits until there is one.
    pub(crate) async fn board(&self, tenant: TenantId) -> Result<Arc<RwLock<Board>>> {
        if let Some(board) = self.boards.get(tenant) {
            return Ok(board);
        }
        self.settle().await?;
        let board = self.boards.get(tenant);
        board.ok_or(ComplyError::NotFound {
            id: ResourceId::root(),
        })
    }

    /// Records at or below the permit's scope. A page ends with a resource, so that it may hold more than its limit.
    pub async fn states(&self, permit: &Permit, query: &StateQuery) -> Result<StatePage> {
        let board = self.board(permit.tenant()).await?;
        let area = Area::new(permit, query);
        let most = if query.details {
            DETAILED_MAX
        } else {
            LIMIT_MAX
        };
        let limit = match query.limit {
            0 => LIMIT_DEFAULT.min(most),
            limit => limit.min(most),
        };
        let after = match &query.after {
            Some(token) => after(token)?,
            None => String::new(),
        };
        let policies = policies_of(&board);
        let (found, next) = {
            let board = board.read().unwrap_or_else(PoisonError::into_inner);
            area.page(&board, &after, limit)
        };
        let mut teller = Teller::new(self, policies);
        let mut records = Vec::with_capacity(found.len());
        for one in &found {
            records.extend(teller.record(one, query.details).await?);
        }
        Ok(StatePage {
            records,
            next: next.as_deref().map(token),
        })
    }

    /// How many comply, at or below the permit's scope.
    pub async fn summarize(&self, permit: &Permit, query: &StateQuery) -> Result<Summary> {
        let board = self.board(permit.tenant()).await?;
        let area = Area::new(permit, query);
        let mut tally = Tally::default();
        // One record for each policy, filled in for one resource after the other.
        let mut records: HashMap<UnitKey, StateRecord> = HashMap::new();
        let mut position = String::new();
        loop {
            // The board is let go of between pages, so that a large summary keeps no state waiting.
            let (found, next) = {
                let board = board.read().unwrap_or_else(PoisonError::into_inner);
                area.page(&board, &position, LIMIT_MAX)
            };
            for one in &found {
                let known = records.contains_key(&one.unit.key);
                if !known {
                    records.insert(one.unit.key.clone(), bare(one, &one.unit));
                }
                if let Some(record) = records.get_mut(&one.unit.key) {
                    record.resource_id = one.id.to_string();
                    record.compliance_state = one.state;
                    tally.add(record);
                }
            }
            match next {
                Some(next) => position = next,
                None => return Ok(tally.finish()),
            }
        }
    }
}

pub(crate) fn unit_of(policies: &Policies, key: &StateKey) -> Option<Arc<Unit>> {
    let same = |unit: &&Arc<Unit>| {
        unit.key.assignment == key.assignment.folded()
            && unit.key.reference.eq_ignore_ascii_case(&key.reference)
    };
    policies.units.iter().find(same).cloned()
}

/// Reads what records tell besides the state, each resource once.
pub(crate) struct Teller<'a> {
    comply: &'a Comply,
    policies: Arc<Policies>,
    look: Look<'a>,
    resources: HashMap<String, Option<Resource>>,
}

/// Resources that one page keeps.
const RESOURCES_MAX: usize = LIMIT_MAX;

impl<'a> Teller<'a> {
    pub fn new(comply: &'a Comply, policies: Arc<Policies>) -> Teller<'a> {
        Teller {
            look: Look::new(&comply.parts, &comply.cache, Arc::clone(&policies)),
            comply,
            policies,
            resources: HashMap::new(),
        }
    }

    /// The record of a refused request, whose resource need not be there.
    pub fn refusal(&self, found: &Found, effect: &str) -> StateRecord {
        let mut record = bare(found, &found.unit);
        record.policy_definition_action = effect.to_owned();
        record.management_group_ids = self.groups_above(&found.id);
        record
    }

    fn groups_above(&self, id: &ResourceId) -> String {
        let groups = self.policies.above(id).as_array();
        let groups = groups.into_iter().flatten().filter_map(Value::as_str);
        groups.collect::<Vec<_>>().join(",")
    }

    /// The record of a state; nothing if its resource is gone by now.
    pub async fn record(&mut self, found: &Found, details: bool) -> Result<Option<StateRecord>> {
        let key = found.id.folded();
        if !self.resources.contains_key(key) {
            if self.resources.len() >= RESOURCES_MAX {
                self.resources.clear();
            }
            let tenant = self.policies.tenant;
            let resource = look::get(&self.comply.parts, &found.id, tenant).await?;
            self.resources.insert(key.to_owned(), resource);
        }
        let Some(Some(resource)) = self.resources.get(key) else {
            return Ok(None);
        };
        let unit = match found.unit.varies() {
            true => found.unit.meant(&subject::shown(resource)),
            false => Arc::clone(&found.unit),
        };
        let mut record = bare(found, &unit);
        record.resource_location = resource.location.clone().unwrap_or_default();
        record.resource_tags = json!(resource.tags).to_string();
        record.management_group_ids = self.groups_above(&found.id);
        if details {
            let units = [Arc::clone(&unit)];
            let subject = self.look.stored(resource, &units).await?;
            let verdict = unit.judge(&subject, self.comply.parts.clock.now());
            record.policy_evaluation_details = Some(evaluation(&verdict));
            record.compliance_reason_code = reason::code(&verdict);
        }
        Ok(Some(record))
    }
}

/// `policyEvaluationDetails` of a verdict.
pub(crate) fn evaluation(verdict: &Verdict) -> Value {
    let expressions = verdict.explained.iter().take(EXPRESSIONS_MAX);
    let mut details = json!({
        "evaluatedExpressions": expressions.map(expression).collect::<Vec<Value>>(),
    });
    if let Some(existence) = &verdict.existence {
        details["ifNotExistsDetails"] = json!({
            "resourceId": existence["resourceId"],
            "totalResources": existence["totalResources"],
        });
    }
    if let Some(error) = &verdict.error {
        details["reason"] = error.clone().into();
    }
    details
}

/// What a record tells without looking at the resource.
fn bare(found: &Found, unit: &Unit) -> StateRecord {
    let Found { id, .. } = found;
    let version = |version: Option<&String>| version.cloned().unwrap_or_default();
    let assignment = &unit.assignment;
    let properties = &assignment.value["properties"];
    let set = assignment.set.as_ref();
    let text = |value: Option<&Value>| value.map_or_else(String::new, Value::to_string);
    StateRecord {
        timestamp: found.evaluated_at,
        since: found.since,
        resource_id: id.to_string(),
        resource_type: kinds::of(id),
        resource_location: String::new(),
        resource_group: id.resource_group().unwrap_or_default().to_owned(),
        resource_tags: String::new(),
        subscription_id: id
            .subscription()
            .map_or_else(String::new, |id| id.to_string()),
        policy_assignment_id: assignment.id.to_string(),
        policy_assignment_name: assignment.id.name().to_owned(),
        policy_assignment_scope: assignment.scope.to_string(),
        policy_assignment_parameters: text(get(properties, "parameters")),
        policy_definition_id: unit.definition.id.clone(),
        policy_definition_name: unit.definition.name.clone(),
        policy_definition_action: unit.effect.clone(),
        policy_definition_version: version(unit.definition.version.as_ref()),
        policy_definition_category: unit.definition.category.clone(),
        policy_definition_reference_id: unit.reference.clone().unwrap_or_default(),
        policy_definition_group_names: unit.groups.clone(),
        policy_set_definition_version: version(set.and_then(|set| set.version.as_ref())),
        policy_set_definition_id: set.map_or_else(String::new, |set| set.id.clone()),
        policy_set_definition_name: set.map_or_else(String::new, |set| set.name.clone()),
        management_group_ids: String::new(),
        compliance_state: found.state,
        is_compliant: matches!(found.state, State::Compliant | State::Exempt),
        effective_parameters: Value::Object(unit.parameters.clone()).to_string(),
        compliance_reason_code: String::new(),
        reason: found.reason.clone(),
        policy_evaluation_details: None,
    }
}

/// A token's first character; a change of its meaning changes it.
const TOKEN_VERSION: char = '1';
const TOKEN_CHARS_MAX: usize = 8 << 10;

pub(crate) fn token(text: &str) -> String {
    let hex = text.bytes().map(|byte| format!("{byte:02x}"));
    std::iter::once(TOKEN_VERSION.to_string())
        .chain(hex)
        .collect()
}

pub(crate) fn after(token: &str) -> Result<String> {
    let hex = token
        .strip_prefix(TOKEN_VERSION)
        .ok_or(ComplyError::BadToken)?;
    if hex.len() > TOKEN_CHARS_MAX || hex.len() % 2 != 0 || !hex.is_ascii() {
        return Err(ComplyError::BadToken);
    }
    let byte = |at: usize| u8::from_str_radix(&hex[at * 2..at * 2 + 2], 16);
    let bytes: Vec<u8> = (0..hex.len() / 2)
        .map(byte)
        .collect::<std::result::Result<_, _>>()
        .map_err(|_| ComplyError::BadToken)?;
    String::from_utf8(bytes).map_err(|_| ComplyError::BadToken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back_and_anything_else_is_refused() {
        assert_eq!(
            after(&token("/subscriptions/x")).unwrap(),
            "/subscriptions/x"
        );
        for bad in ["", "2", "1zz", "1é", "1f", "1ff"] {
            assert!(matches!(after(bad), Err(ComplyError::BadToken)), "{bad}");
        }
    }
}
