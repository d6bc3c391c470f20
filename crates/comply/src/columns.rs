//! Many resources at once: the engine's columns tell which of them comply, and only the others are judged one by one,
//! for their reasons.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use policy::scan::{Answers, Around, Outcome, Plan, Row, Table};
use policy::verdict::State;
use serde_json::Value;

use crate::policies::Policies;
use crate::subject::Subject;
use crate::unit::{Unit, UnitKey};

/// With fewer resources than this, columns cost more than they save.
pub(crate) const WORTHWHILE: usize = 32;

/// Columns and plans, kept over the pages of one scope: what they have answered once for a value they know.
#[derive(Debug)]
pub(crate) struct Columns {
    policies: Arc<Policies>,
    plans: HashMap<UnitKey, Plan>,
    table: Table,
}

/// What is known without asking further.
pub(crate) type Known = Option<State>;

impl Columns {
    pub fn new(
        policies: &Arc<Policies>,
        wanted: impl Fn(&Unit) -> bool,
        now: Timestamp,
    ) -> Columns {
        let units = policies.units.iter().filter(|unit| wanted(unit));
        let plans: HashMap<UnitKey, Plan> = units
            .filter_map(|unit| {
                let policy = unit.for_columns(&policies.links, now)?;
                Some((unit.key.clone(), Plan::new(policy)))
            })
            .collect();
        Columns {
            table: Table::new(plans.values()),
            plans,
            policies: Arc::clone(policies),
        }
    }

    /// Whether they are of these policies.
    pub fn are_of(&self, policies: &Arc<Policies>) -> bool {
        Arc::ptr_eq(&self.policies, policies)
    }

    /// For each subject: what is known of it by its units. A unit that is not there has to be asked.
    pub fn judge<'c>(
        &mut self,
        cases: impl Iterator<Item = (&'c Subject, &'c [Arc<Unit>])> + Clone,
        now: Timestamp,
    ) -> Vec<HashMap<UnitKey, Known>> {
        let mut rows: Vec<Option<Row>> = Vec::new();
        for (subject, _) in cases.clone() {
            let given = |value: &'c Value| Some(value).filter(|value| !value.is_null());
            let around = Around {
                group: given(&subject.group),
                subscription: given(&subject.subscription),
            };
            // A table that is full leaves the resource to be judged by itself.
            rows.push(self.table.insert_value(&subject.value, around).ok());
        }
        let mut answers: HashMap<&UnitKey, Option<Vec<Answers>>> = HashMap::new();
        let mut known = Vec::with_capacity(rows.len());
        for ((_, units), row) in cases.zip(&rows) {
            let mut own = HashMap::new();
            for unit in units.iter().filter(|_| row.is_some()) {
                let plans = &mut self.plans;
                let table = &self.table;
                let found = answers.entry(&unit.key).or_insert_with(|| {
                    let plan = plans.get_mut(&unit.key)?;
                    plan.at(now);
                    plan.scan(table).ok()
                });
                let (Some(found), Some(row)) = (found, row) else {
                    continue;
                };
                let outcome = found.get(row.segment as usize);
                let outcome = outcome.map(|answers| answers.of(row.index as usize));
                if let Some(known) = outcome.and_then(settled) {
                    own.insert(unit.key.clone(), known);
                }
            }
            known.push(own);
        }
        for row in rows.into_iter().flatten() {
            self.table.remove(row);
        }
        known
    }
}

/// An outcome of which nothing more is to be said. Those with a reason are asked for it.
fn settled(outcome: Outcome) -> Option<Known> {
    match outcome {
        Outcome::NotApplicable => Some(None),
        Outcome::Compliant => Some(Some(State::Compliant)),
        Outcome::Protected => Some(Some(State::Protected)),
        Outcome::Exempt => Some(Some(State::Exempt)),
        Outcome::Unknown => Some(Some(State::Unknown)),
        Outcome::NonCompliant | Outcome::Error | Outcome::Conflict | Outcome::Search => None,
    }
}
