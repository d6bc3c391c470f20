//! Resources as columns: by type, each property that policies look at, each value once.
//!
//! A table holds nothing else of a resource. Which properties those are is settled by the plans that it is
//! made for.

use std::borrow::Cow;
use std::collections::HashMap;

use serde_json::Value;

use super::bits::Bits;
use super::column::{ABSENT, Column};
use super::extract::{Found, Slot, Wanted, extract, peek_type};
use super::plan::Plan;
use super::reads::{Reads, Root};
use crate::applies;
use crate::definition::Mode;
use crate::field::{full_name, full_name_of, resource_type, type_of_id};
use crate::json;

/// Rows of one type; what fits a code.
const ROWS_MAX: usize = u32::MAX as usize - 2;
/// Values that may be left over from rows that are gone, for a table with few rows.
const STALE_MIN: usize = 1_024;

/// Why a resource cannot be taken into a table.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    #[error("the resource is no JSON, or nested too deep: {0}")]
    Json(#[from] serde_json::Error),
    #[error("a table holds at most {ROWS_MAX} resources of one type")]
    TooMany,
}

/// Where a resource stands. It keeps its place until it is removed, or replaced by one of another type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Row {
    pub segment: u32,
    pub index: u32,
}

/// What stands around a resource, for `resourceGroup()` and `subscription()`. What is not given is as in
/// the policy's own surroundings.
#[derive(Debug, Clone, Copy, Default)]
pub struct Around<'a> {
    pub group: Option<&'a Value>,
    pub subscription: Option<&'a Value>,
}

/// Resources as columns.
#[derive(Debug, Default)]
pub struct Table {
    reads: Vec<Reads>,
    extra: Vec<Root>,
    segments: Vec<Segment>,
    by_type: HashMap<String, usize>,
    found: Found,
}

/// All resources of one type, as it is written.
#[derive(Debug)]
pub struct Segment {
    pub kind: String,
    pub roots: Vec<Root>,
    pub columns: Vec<Column>,
    /// Rows that hold a resource.
    pub live: Bits,
    /// Rows whose resource shows neither a location nor tags.
    bare: Bits,
    /// Whether mode All takes the type, mode Indexed those with a location or tags, and those without.
    modes: [bool; 3],
    free: Vec<u32>,
    rows: usize,
    wanted: Wanted,
    /// Rows that were replaced or removed since values were last forgotten.
    stale: usize,
    /// Changes whenever codes do.
    pub generation: u64,
}

/// Slots that are read of every resource, before those of the columns.
const TYPE: usize = 0;
const ID: usize = 1;
const NAME: usize = 2;
const OWN_SLOTS: usize = 3;

impl Table {
    /// A table for these plans.
    pub fn new<'p>(plans: impl IntoIterator<Item = &'p Plan>) -> Table {
        let mut table = Table::default();
        for plan in plans {
            table.reads.extend(plan.reads().cloned());
            for root in plan.roots() {
                if !table.extra.contains(root) {
                    table.extra.push(root.clone());
                }
            }
        }
        table
    }

    /// Resources in the table.
    pub fn len(&self) -> usize {
        self.segments
            .iter()
            .map(|segment| segment.live.count())
            .sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Takes in a resource that is given as JSON.
    ///
    /// # Errors
    /// It is no JSON, or nested deeper than 128 levels; or the table is full.
    pub fn insert(&mut self, bytes: &[u8], around: Around<'_>) -> Result<Row, TableError> {
        let segment = self.read(bytes)?;
        let index = self.segments[segment].vacant()?;
        self.fill(segment, index, bytes, around);
        Ok(row(segment, index))
    }

    /// Puts a resource in the place of another. The row is another one if the type is.
    ///
    /// # Errors
    /// As of `insert`; the old one is then still there.
    pub fn replace(
        &mut self,
        old: Row,
        bytes: &[u8],
        around: Around<'_>,
    ) -> Result<Row, TableError> {
        let segment = self.read(bytes)?;
        if segment == old.segment as usize && self.holds(old) {
            self.fill(segment, old.index as usize, bytes, around);
            self.segments[segment].used();
            return Ok(old);
        }
        let index = self.segments[segment].vacant()?;
        self.fill(segment, index, bytes, around);
        self.remove(old);
        Ok(row(segment, index))
    }

    /// Takes in a resource that is there as a value.
    ///
    /// # Errors
    /// The table is full.
    pub fn insert_value(
        &mut self,
        resource: &Value,
        around: Around<'_>,
    ) -> Result<Row, TableError> {
        let kind = resource_type(resource);
        let segment = self.segment_of(&kind);
        let index = self.segments[segment].vacant()?;
        self.segments[segment].put_value(index, resource, around);
        Ok(row(segment, index))
    }

    pub fn remove(&mut self, old: Row) {
        if self.holds(old)
            && let Some(segment) = self.segments.get_mut(old.segment as usize)
        {
            segment.live.put(old.index as usize, false);
            segment.free.push(old.index);
            segment.used();
        }
    }

    pub fn holds(&self, row: Row) -> bool {
        let segment = self.segments.get(row.segment as usize);
        segment.is_some_and(|segment| segment.live.has(row.index as usize))
    }

    /// Reads a resource as its type wants it, and says which segment that is.
    fn read(&mut self, bytes: &[u8]) -> Result<usize, TableError> {
        let guess = peek_type(bytes).unwrap_or_default();
        let mut segment = self.segment_of(&guess);
        // The type that counts is known after reading. The second time it is right.
        for _ in 0..2 {
            let here = &self.segments[segment];
            let slots = OWN_SLOTS + here.roots.len();
            extract(bytes, &here.wanted, slots, &mut self.found)?;
            let kind = match self.found.text(TYPE) {
                Some(kind) => kind.to_owned(),
                None => type_of_id(self.found.text(ID).unwrap_or_default()),
            };
            if kind == here.kind {
                break;
            }
            segment = self.segment_of(&kind);
        }
        Ok(segment)
    }

    fn segment_of(&mut self, kind: &str) -> usize {
        if let Some(at) = self.by_type.get(kind) {
            return *at;
        }
        let mut roots: Vec<Root> = self.extra.clone();
        for reads in &self.reads {
            for root in reads.roots(kind) {
                if !roots.contains(&root) {
                    roots.push(root);
                }
            }
        }
        self.segments.push(Segment::new(kind, roots));
        self.by_type
            .insert(kind.to_owned(), self.segments.len() - 1);
        self.segments.len() - 1
    }

    fn fill(&mut self, segment: usize, index: usize, bytes: &[u8], around: Around<'_>) {
        self.segments[segment].put_found(index, &self.found, bytes, around);
    }
}

fn row(segment: usize, index: usize) -> Row {
    // Both are bounded: a segment by its rows, segments by the rows of all.
    Row {
        segment: u32::try_from(segment).unwrap_or(u32::MAX),
        index: u32::try_from(index).unwrap_or(u32::MAX),
    }
}

/// The first four parts of an id: its subscription and resource group, or what stands there.
fn container(id: &str) -> &str {
    let mut parts = 0;
    let mut inside = false;
    for (at, c) in id.char_indices() {
        match (c == '/', inside) {
            (true, true) if parts == 4 => return &id[..at],
            (true, _) => inside = false,
            (false, false) => {
                inside = true;
                parts += 1;
            }
            (false, true) => {}
        }
    }
    id
}

/// What modes take of a type: All, Indexed with a location, Indexed without.
fn modes(kind: &str) -> [bool; 3] {
    let with = |mode: Mode, located: bool| {
        let mut shown = serde_json::Map::new();
        shown.insert("type".to_owned(), Value::String(kind.to_owned()));
        if located {
            shown.insert("location".to_owned(), Value::Null);
        }
        applies::mode_takes(mode, &Value::Object(shown))
    };
    [
        with(Mode::All, true),
        with(Mode::Indexed, true),
        with(Mode::Indexed, false),
    ]
}

impl Segment {
    fn new(kind: &str, roots: Vec<Root>) -> Segment {
        let mut wanted = Wanted::default();
        for (slot, name) in ["type", "id", "name"].into_iter().enumerate() {
            wanted.add(&[name.to_owned()], slot);
        }
        for (at, root) in roots.iter().enumerate() {
            if let Root::Path(keys) = root
                && !matches!(keys.as_slice(), [one] if ["type", "id", "name"].contains(&one.as_str()))
            {
                wanted.add(keys, OWN_SLOTS + at);
            }
        }
        let columns = roots.iter().map(|_| Column::default()).collect();
        Segment {
            kind: kind.to_owned(),
            roots,
            columns,
            live: Bits::default(),
            bare: Bits::default(),
            modes: modes(kind),
            free: Vec::new(),
            rows: 0,
            wanted,
            stale: 0,
            generation: 0,
        }
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn column(&self, root: &Root) -> Option<usize> {
        self.roots.iter().position(|own| own == root)
    }

    /// The rows that a mode takes.
    pub fn taken(&self, mode: Mode) -> Bits {
        let [all, indexed, bare] = self.modes;
        let (takes, even_bare) = match mode {
            Mode::All => (all, all),
            Mode::Indexed => (indexed, bare),
        };
        if !takes {
            return Bits::none(self.rows);
        }
        let mut taken = self.live.clone();
        if !even_bare {
            taken.take_away(&self.bare);
        }
        taken
    }

    /// Whether a mode takes one row.
    pub fn takes(&self, mode: Mode, row: usize) -> bool {
        let [all, indexed, bare] = self.modes;
        match mode {
            Mode::All => all,
            Mode::Indexed => bare || (indexed && !self.bare.has(row)),
        }
    }

    fn vacant(&mut self) -> Result<usize, TableError> {
        if let Some(index) = self.free.pop() {
            return Ok(index as usize);
        }
        match self.rows < ROWS_MAX {
            true => Ok(self.rows),
            false => Err(TableError::TooMany),
        }
    }

    fn put_row(&mut self, index: usize, bare: bool) {
        self.rows = self.rows.max(index + 1);
        self.live.put(index, true);
        self.bare.put(index, bare);
    }

    fn put_found(&mut self, index: usize, found: &Found, bytes: &[u8], around: Around<'_>) {
        let id = found.text(ID);
        for (at, root) in self.roots.iter().enumerate() {
            let slot = match root {
                Root::Path(keys) if keys.as_slice() == ["id"] => ID,
                Root::Path(keys) if keys.as_slice() == ["name"] => NAME,
                Root::Path(keys) if keys.as_slice() == ["type"] => TYPE,
                _ => OWN_SLOTS + at,
            };
            let column = &mut self.columns[at];
            let code = match root {
                Root::Path(_) => match &found.slots[slot] {
                    Slot::Absent => ABSENT,
                    Slot::Text(..) => column.text(found.text(slot).unwrap_or_default()),
                    Slot::Other(value) => column.value(value),
                },
                Root::FullName => full_name_of(found.text(NAME), id.unwrap_or_default())
                    .map_or(ABSENT, |name| column.text(&name)),
                Root::Container => id.map_or(ABSENT, |id| column.text(container(id))),
                Root::Group => around.group.map_or(ABSENT, |group| column.value(group)),
                Root::Subscription => {
                    let subscription = around.subscription;
                    subscription.map_or(ABSENT, |subscription| column.value(subscription))
                }
                // What was read is JSON, and so is text.
                Root::Whole => std::str::from_utf8(bytes).map_or(ABSENT, |text| column.json(text)),
            };
            column.put(index, code);
        }
        self.put_row(index, !found.placed);
    }

    fn put_value(&mut self, index: usize, resource: &Value, around: Around<'_>) {
        let id = json::text(resource, "id");
        for (at, root) in self.roots.iter().enumerate() {
            let value: Option<Cow<'_, Value>> = match root {
                Root::Path(keys) => keys
                    .iter()
                    .try_fold(resource, |value, key| json::get(value, key))
                    .map(Cow::Borrowed),
                Root::FullName => full_name(resource).map(|name| Cow::Owned(Value::String(name))),
                Root::Container => id.map(|id| Cow::Owned(Value::String(container(id).to_owned()))),
                Root::Group => around.group.map(Cow::Borrowed),
                Root::Subscription => around.subscription.map(Cow::Borrowed),
                Root::Whole => Some(Cow::Borrowed(resource)),
            };
            let column = &mut self.columns[at];
            let code = value.map_or(ABSENT, |value| column.value(&value));
            column.put(index, code);
        }
        let shown = |name: &str| json::get(resource, name).is_some();
        self.put_row(index, !(shown("location") || shown("tags")));
    }

    /// Counts a value that may have become of no use, and forgets such values when there are many.
    fn used(&mut self) {
        self.stale += 1;
        if self.stale < self.rows.max(STALE_MIN) {
            return;
        }
        for row in &self.free {
            for column in &mut self.columns {
                column.put(*row as usize, ABSENT);
            }
        }
        self.columns.iter_mut().for_each(Column::compact);
        self.stale = 0;
        self.generation += 1;
    }
}
