//! The states of one tenant, in memory: a byte for each resource and policy, and a row where there is more to say.
//!
//! Says what a new outcome changes, and takes the change; who writes it to the database in between is not known here.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Bound;
use std::sync::Arc;

use catalog::{StateKey, StateWrite, StoredState};
use jiff::Timestamp;
use policy::verdict::State;
use wire::ResourceId;

use crate::outcome::{Outcome, read, stored};
use crate::policies::Policies;
use crate::unit::{Unit, UnitKey};

const STATES: [State; 7] = [
    State::NonCompliant,
    State::Compliant,
    State::Error,
    State::Conflict,
    State::Protected,
    State::Exempt,
    State::Unknown,
];

pub(crate) struct Board {
    pub policies: Arc<Policies>,
    /// By folded id.
    resources: BTreeMap<String, u32>,
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    cells: HashMap<UnitKey, Cells>,
}

struct Slot {
    id: ResourceId,
    created_at: Timestamp,
    evaluated_at: Timestamp,
}

/// One policy's states by the resource's number: 0 is none, else one more than the place in `STATES`.
#[derive(Default)]
struct Cells {
    states: Vec<u8>,
    rows: HashMap<u32, Row>,
}

/// Of a state that is not, or was not always, Compliant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub since: Timestamp,
    pub reason: Option<String>,
}

/// The new state of one policy for one resource.
#[derive(Debug)]
pub(crate) struct Change {
    key: UnitKey,
    state: Option<State>,
    row: Option<Row>,
    /// What the database is told; nothing where only memory knows the state.
    pub write: Option<StateWrite>,
}

/// One state with what is known of it.
pub(crate) struct Entry<'b> {
    pub id: &'b ResourceId,
    pub unit: &'b Arc<Unit>,
    pub state: State,
    pub since: Timestamp,
    pub reason: Option<&'b str>,
    pub evaluated_at: Timestamp,
}

impl Board {
    pub fn new(policies: Arc<Policies>) -> Board {
        Board {
            policies,
            resources: BTreeMap::new(),
            slots: Vec::new(),
            free: Vec::new(),
            cells: HashMap::new(),
        }
    }

    /// A state that an earlier process kept. The resource counts as not looked at until it is.
    pub fn restore(&mut self, state: StoredState) {
        let at = self.number(&state.key.resource, state.since, Timestamp::MIN);
        let cells = self.cells.entry(key(&state.key)).or_default();
        cells.set(at, Some(read(state.state)));
        let (since, reason) = (state.since, state.reason);
        cells.rows.insert(at, Row { since, reason });
    }

    /// Resources whose states were restored, but which were not looked at since.
    pub fn unseen(&self) -> Vec<ResourceId> {
        let slots = self.slots.iter().flatten();
        slots
            .filter(|slot| slot.evaluated_at == Timestamp::MIN)
            .map(|slot| slot.id.clone())
            .collect()
    }

    fn number(&mut self, id: &ResourceId, created_at: Timestamp, evaluated_at: Timestamp) -> u32 {
        let slot = Slot {
            id: id.clone(),
            created_at,
            evaluated_at,
        };
        if let Some(at) = self.resources.get(id.folded()) {
            self.slots[*at as usize] = Some(slot);
            return *at;
        }
        let at = self.free.pop().unwrap_or(self.slots.len() as u32);
        if at as usize == self.slots.len() {
            self.slots.push(None);
        }
        self.slots[at as usize] = Some(slot);
        self.resources.insert(id.folded().to_owned(), at);
        at
    }

    /// What an outcome changes for a resource. Nothing, if state and reason are as they were.
    pub fn compare(
        &self,
        id: &ResourceId,
        unit: &Unit,
        outcome: Option<&Outcome>,
        now: Timestamp,
    ) -> Option<Change> {
        let at = self.resources.get(id.folded()).copied();
        let cells = self.cells.get(&unit.key);
        let before = at.zip(cells).and_then(|(at, cells)| cells.get(at));
        let row = at.zip(cells).and_then(|(at, cells)| cells.rows.get(&at));
        let Some(outcome) = outcome else {
            let before = before?;
            let key = state_key(id, unit);
            let kept = row.is_some() || before != State::Compliant;
            return Some(Change {
                key: unit.key.clone(),
                state: None,
                row: None,
                write: kept.then_some(StateWrite::End(key)),
            });
        };
        let same = before == Some(outcome.state);
        let reason = row.and_then(|row| row.reason.as_deref());
        if same && reason == outcome.reason.as_deref() {
            return None;
        }
        // What was compliant from the first look on has no row: its beginning is the resource's or the assignment's.
        let row = match (before, outcome.state) {
            (None, State::Compliant) => None,
            _ => Some(Row {
                since: row.filter(|_| same).map_or(now, |row| row.since),
                reason: outcome.reason.clone(),
            }),
        };
        let write = row.as_ref().map(|row| {
            StateWrite::Put(StoredState {
                key: state_key(id, unit),
                state: stored(outcome.state),
                since: row.since,
                reason: row.reason.clone(),
            })
        });
        Some(Change {
            key: unit.key.clone(),
            state: Some(outcome.state),
            row,
            write,
        })
    }

    /// The policies, besides those in `judged`, that the resource has a state by.
    pub fn others(&self, id: &ResourceId, judged: &HashSet<&UnitKey>) -> Vec<Change> {
        let Some(at) = self.resources.get(id.folded()).copied() else {
            return Vec::new();
        };
        let with = self
            .cells
            .iter()
            .filter(|(key, cells)| cells.get(at).is_some() && !judged.contains(key));
        with.map(|(key, cells)| end(id, key, cells, at)).collect()
    }

    /// All that goes with a resource.
    pub fn without(&self, id: &ResourceId) -> Vec<Change> {
        self.others(id, &HashSet::new())
    }

    /// All that goes with a policy: each resource with its change.
    pub fn without_unit(&self, key: &UnitKey) -> Vec<(ResourceId, Change)> {
        let Some(cells) = self.cells.get(key) else {
            return Vec::new();
        };
        let slots = self.slots.iter().enumerate();
        slots
            .filter_map(|(at, slot)| Some((u32::try_from(at).ok()?, slot.as_ref()?)))
            .filter(|(at, _)| cells.get(*at).is_some())
            .map(|(at, slot)| (slot.id.clone(), end(&slot.id, key, cells, at)))
            .collect()
    }

    /// Takes changes of a resource that was evaluated, and that it was.
    pub fn take(
        &mut self,
        id: &ResourceId,
        created_at: Timestamp,
        now: Timestamp,
        changes: Vec<Change>,
    ) {
        let at = self.number(id, created_at, now);
        for change in changes {
            self.set(at, change);
        }
    }

    /// Takes the end of states alone.
    pub fn drop_states(&mut self, id: &ResourceId, changes: Vec<Change>) {
        if let Some(at) = self.resources.get(id.folded()).copied() {
            for change in changes {
                self.set(at, change);
            }
        }
    }

    fn set(&mut self, at: u32, change: Change) {
        let cells = self.cells.entry(change.key).or_default();
        cells.set(at, change.state);
        match change.row {
            Some(row) => drop(cells.rows.insert(at, row)),
            None => drop(cells.rows.remove(&at)),
        }
    }

    /// Forgets a resource; its states were dropped before.
    pub fn forget(&mut self, id: &ResourceId) {
        if let Some(at) = self.resources.remove(id.folded()) {
            self.slots[at as usize] = None;
            self.free.push(at);
        }
    }

    /// Forgets a policy; its states were dropped before.
    pub fn forget_unit(&mut self, key: &UnitKey) {
        self.cells.remove(key);
    }

    /// Ids of what has a state, at or below a scope that is no management group, after an id.
    pub fn below<'b>(
        &'b self,
        scope: &ResourceId,
        after: &str,
    ) -> impl Iterator<Item = &'b ResourceId> {
        let prefix = if scope.is_root() {
            String::new()
        } else {
            scope.folded().to_owned()
        };
        let own = (prefix.as_str() > after || after.is_empty())
            .then(|| self.resources.get(&prefix))
            .flatten();
        // '0' follows '/'.
        let (low, high) = (format!("{prefix}/"), format!("{prefix}0"));
        let start = match after >= low.as_str() {
            true => Bound::Excluded(after.to_owned()),
            false => Bound::Included(low),
        };
        let empty = after >= high.as_str();
        let rest = (!empty).then(|| self.resources.range((start, Bound::Excluded(high))));
        own.into_iter()
            .chain(rest.into_iter().flatten().map(|(_, at)| at))
            .filter_map(|at| self.slots[*at as usize].as_ref())
            .map(|slot| &slot.id)
    }

    /// All states of a resource, in the order of the policies.
    pub fn entries<'b>(&'b self, id: &ResourceId) -> impl Iterator<Item = Entry<'b>> {
        let at = self.resources.get(id.folded()).copied();
        let units = at.map_or(&[][..], |_| self.policies.units.as_slice());
        units.iter().filter_map(move |unit| self.entry(at?, unit))
    }

    /// The state of a resource by one of this board's own policies.
    pub fn own_entry<'b>(&'b self, id: &ResourceId, unit: &'b Arc<Unit>) -> Option<Entry<'b>> {
        self.entry(self.resources.get(id.folded()).copied()?, unit)
    }

    /// The same by a policy of that key.
    pub fn state(&self, id: &ResourceId, unit: &Arc<Unit>) -> Option<Entry<'_>> {
        let at = self.resources.get(id.folded()).copied()?;
        let unit = self.policies.units.iter().find(|own| own.key == unit.key)?;
        self.entry(at, unit)
    }

    /// Whether the policy has a state for the resource.
    pub fn has(&self, id: &ResourceId, key: &UnitKey) -> bool {
        let at = self.resources.get(id.folded());
        let cells = self.cells.get(key);
        at.zip(cells)
            .is_some_and(|(at, cells)| cells.get(*at).is_some())
    }

    fn entry<'b>(&'b self, at: u32, unit: &'b Arc<Unit>) -> Option<Entry<'b>> {
        let cells = self.cells.get(&unit.key)?;
        let state = cells.get(at)?;
        let slot = self.slots.get(at as usize)?.as_ref()?;
        let row = cells.rows.get(&at);
        let always = slot.created_at.max(unit.assignment.created_at);
        Some(Entry {
            id: &slot.id,
            unit,
            state,
            since: row.map_or(always, |row| row.since),
            reason: row.and_then(|row| row.reason.as_deref()),
            evaluated_at: slot.evaluated_at,
        })
    }
}

impl Cells {
    fn get(&self, at: u32) -> Option<State> {
        let cell = self.states.get(at as usize).copied().unwrap_or(0);
        STATES.get(usize::from(cell).checked_sub(1)?).copied()
    }

    fn set(&mut self, at: u32, state: Option<State>) {
        let at = at as usize;
        if at >= self.states.len() {
            self.states.resize(at + 1, 0);
        }
        let place = state.and_then(|state| STATES.iter().position(|known| *known == state));
        self.states[at] = place.map_or(0, |place| place as u8 + 1);
    }
}

fn end(id: &ResourceId, key: &UnitKey, cells: &Cells, at: u32) -> Change {
    // Keys are folded ids, so they parse; one that does not has no row to end.
    let assignment = ResourceId::parse(&key.assignment).ok();
    let kept = cells.rows.contains_key(&at);
    let write = assignment.filter(|_| kept).map(|assignment| {
        StateWrite::End(StateKey {
            resource: id.clone(),
            assignment,
            reference: key.reference.clone(),
        })
    });
    Change {
        key: key.clone(),
        state: None,
        row: None,
        write,
    }
}

fn state_key(id: &ResourceId, unit: &Unit) -> StateKey {
    StateKey {
        resource: id.clone(),
        assignment: unit.assignment.id.clone(),
        reference: unit.reference.clone().unwrap_or_default(),
    }
}

fn key(stored: &StateKey) -> UnitKey {
    UnitKey {
        assignment: stored.assignment.folded().to_owned(),
        reference: stored.reference.to_ascii_lowercase(),
    }
}
