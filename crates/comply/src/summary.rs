//! How many resources comply: states rolled up as Azure rolls them up, for a scope, its assignments and their policies.

use std::collections::{BTreeMap, HashMap};

use policy::verdict::State;
use serde::Serialize;

use crate::records::StateRecord;

/// `value[0]` of Azure's answer, without its links.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    pub results: Results,
    pub policy_assignments: Vec<AssignmentSummary>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Results {
    pub non_compliant_resources: usize,
    pub non_compliant_policies: usize,
    pub resource_details: Vec<Count>,
    pub policy_details: Vec<Count>,
    pub policy_group_details: Vec<Count>,
}

/// How many have a state, the state in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Count {
    pub compliance_state: String,
    pub count: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AssignmentSummary {
    pub policy_assignment_id: String,
    pub policy_set_definition_id: String,
    pub results: Results,
    pub policy_definitions: Vec<DefinitionSummary>,
    pub policy_groups: Vec<GroupSummary>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DefinitionSummary {
    pub policy_definition_id: String,
    pub policy_definition_reference_id: String,
    pub policy_definition_group_names: Vec<String>,
    pub effect: String,
    pub results: Results,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupSummary {
    pub policy_group_name: String,
    pub results: Results,
}

/// States by whatever they are counted for.
type States = HashMap<String, State>;

impl Summary {
    pub fn of<'r>(records: impl IntoIterator<Item = &'r StateRecord>) -> Summary {
        let mut tally = Tally::default();
        for record in records {
            tally.add(record);
        }
        tally.finish()
    }
}

/// A summary under way; records may come in any number.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    resources: States,
    groups: States,
    assignments: BTreeMap<String, AssignmentTally>,
}

#[derive(Debug, Default)]
struct AssignmentTally {
    id: String,
    set: String,
    resources: States,
    groups: BTreeMap<String, States>,
    definitions: BTreeMap<(String, String), DefinitionTally>,
}

#[derive(Debug, Default)]
struct DefinitionTally {
    id: String,
    reference: String,
    groups: Vec<String>,
    effect: String,
    resources: States,
}

/// The state of both together.
fn roll(states: &mut States, key: String, state: State) {
    let rolled = states.get(&key).copied();
    let rolled = State::rolled(rolled.into_iter().chain([state]));
    states.insert(key, rolled.unwrap_or(state));
}

impl Tally {
    pub fn add(&mut self, record: &StateRecord) {
        let state = record.compliance_state;
        let resource = record.resource_id.to_lowercase();
        roll(&mut self.resources, resource.clone(), state);
        let key = record.policy_assignment_id.to_lowercase();
        let assignment = self.assignments.entry(key.clone()).or_default();
        assignment.id.clone_from(&record.policy_assignment_id);
        assignment.set.clone_from(&record.policy_set_definition_id);
        roll(&mut assignment.resources, resource.clone(), state);
        for group in &record.policy_definition_group_names {
            roll(&mut self.groups, format!("{key} {group}"), state);
            let states = assignment.groups.entry(group.clone()).or_default();
            roll(states, resource.clone(), state);
        }
        let key = (
            record.policy_definition_id.to_lowercase(),
            record.policy_definition_reference_id.to_lowercase(),
        );
        let definition = assignment.definitions.entry(key).or_default();
        if definition.id.is_empty() {
            definition.id.clone_from(&record.policy_definition_id);
            definition
                .reference
                .clone_from(&record.policy_definition_reference_id);
            definition
                .groups
                .clone_from(&record.policy_definition_group_names);
            definition
                .effect
                .clone_from(&record.policy_definition_action);
        }
        roll(&mut definition.resources, resource, state);
    }

    pub fn finish(self) -> Summary {
        let mut policies = States::new();
        let mut failing = 0;
        let mut assignments = Vec::new();
        for (key, assignment) in self.assignments {
            if let Some(state) = State::rolled(assignment.resources.values().copied()) {
                policies.insert(key, state);
            }
            let summary = assignment.finish();
            failing += summary.results.non_compliant_policies;
            assignments.push(summary);
        }
        Summary {
            results: results(&self.resources, &policies, &self.groups, failing),
            policy_assignments: assignments,
        }
    }
}

impl AssignmentTally {
    fn finish(self) -> AssignmentSummary {
        let mut policies = States::new();
        let mut definitions = Vec::new();
        for (key, definition) in self.definitions {
            let state = State::rolled(definition.resources.values().copied());
            if let Some(state) = state {
                policies.insert(format!("{} {}", key.0, key.1), state);
            }
            let failing = usize::from(state == Some(State::NonCompliant));
            definitions.push(DefinitionSummary {
                results: results(
                    &definition.resources,
                    &States::new(),
                    &States::new(),
                    failing,
                ),
                policy_definition_id: definition.id,
                policy_definition_reference_id: definition.reference,
                policy_definition_group_names: definition.groups,
                effect: definition.effect,
            });
        }
        let rolled = |(name, states): (&String, &States)| {
            State::rolled(states.values().copied()).map(|state| (name.clone(), state))
        };
        let groups: States = self.groups.iter().filter_map(rolled).collect();
        let failing = policies
            .values()
            .filter(|state| **state == State::NonCompliant);
        let failing = failing.count();
        let nothing = States::new();
        AssignmentSummary {
            results: results(&self.resources, &policies, &groups, failing),
            policy_groups: self
                .groups
                .iter()
                .map(|(name, states)| GroupSummary {
                    policy_group_name: name.clone(),
                    results: results(states, &nothing, &nothing, 0),
                })
                .collect(),
            policy_assignment_id: self.id,
            policy_set_definition_id: self.set,
            policy_definitions: definitions,
        }
    }
}

fn results(resources: &States, policies: &States, groups: &States, failing: usize) -> Results {
    let bad = resources
        .values()
        .filter(|state| **state == State::NonCompliant);
    Results {
        non_compliant_resources: bad.count(),
        non_compliant_policies: failing,
        resource_details: counts(resources),
        policy_details: counts(policies),
        policy_group_details: counts(groups),
    }
}

/// In Azure's rank.
fn counts(states: &States) -> Vec<Count> {
    let mut counts: BTreeMap<u8, (State, usize)> = BTreeMap::new();
    for state in states.values() {
        counts.entry(*state as u8).or_insert((*state, 0)).1 += 1;
    }
    let count = |(state, count): (State, usize)| Count {
        compliance_state: state.name().to_lowercase(),
        count,
    };
    counts.into_values().map(count).collect()
}
