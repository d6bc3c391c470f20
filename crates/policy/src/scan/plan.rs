//! One policy under one assignment, made ready for tables.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::bits::Bits;
use super::core::{Ask, Core};
use super::reads::{Reads, Root};
use super::shape::{ASK, Answer, FAILED, NO, Tree, YES, not};
use super::table::{Row, Segment, Table};
use super::test::{Rows, Test};
use crate::alias::Aliases;
use crate::applies;
use crate::definition::{Definition, Mode};
use crate::effect::Effect;
use crate::evaluate::Surroundings;
use crate::verdict::State;

/// What a plan is made of: the parts of a [`crate::verdict::Question`] that do not change from resource to
/// resource.
#[derive(Debug, Clone)]
pub struct Policy {
    pub definition: Arc<Definition>,
    /// As `parameters::effective` gives them.
    pub parameters: Map<String, Value>,
    pub reference: Option<String>,
    pub assignment: Value,
    pub exemptions: Vec<Value>,
    pub attestations: Vec<Value>,
    pub hierarchy: Value,
    /// Of rows that bring no resource group or subscription of their own, theirs are these.
    pub around: Surroundings,
    pub aliases: Arc<Aliases>,
}

/// What comes out for one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    /// The policy has nothing to say of it.
    NotApplicable = 16,
    Compliant,
    NonCompliant,
    Error,
    Protected,
    Exempt,
    Unknown,
    Conflict,
    /// The rule holds, and related resources decide.
    Search,
}

const OUTCOMES: [Outcome; 9] = [
    Outcome::NotApplicable,
    Outcome::Compliant,
    Outcome::NonCompliant,
    Outcome::Error,
    Outcome::Protected,
    Outcome::Exempt,
    Outcome::Unknown,
    Outcome::Conflict,
    Outcome::Search,
];

impl Outcome {
    /// A state as an outcome; without one, the policy does not apply.
    pub fn of(state: Option<State>) -> Outcome {
        match state {
            None => Outcome::NotApplicable,
            Some(State::Compliant) => Outcome::Compliant,
            Some(State::NonCompliant) => Outcome::NonCompliant,
            Some(State::Error) => Outcome::Error,
            Some(State::Protected) => Outcome::Protected,
            Some(State::Exempt) => Outcome::Exempt,
            Some(State::Unknown) => Outcome::Unknown,
            Some(State::Conflict) => Outcome::Conflict,
        }
    }

    fn from_answer(answer: Answer) -> Outcome {
        let at = OUTCOMES.iter().find(|outcome| **outcome as u8 == answer);
        at.copied().unwrap_or(Outcome::Error)
    }

    fn place(self) -> usize {
        usize::from(self as u8 - Outcome::NotApplicable as u8)
    }
}

/// The outcomes for the rows of one type. A row that is in no set is one that the policy does not apply to.
#[derive(Debug, Clone)]
pub struct Answers {
    sets: Vec<Option<Bits>>,
    rows: usize,
}

impl Answers {
    fn none(rows: usize) -> Answers {
        Answers {
            sets: vec![None; OUTCOMES.len()],
            rows,
        }
    }

    fn add(&mut self, outcome: Outcome, rows: &Bits) {
        match &mut self.sets[outcome.place()] {
            Some(set) => set.add(rows),
            empty => *empty = Some(rows.clone()),
        }
    }

    fn add_row(&mut self, outcome: Outcome, row: usize) {
        let rows = self.rows;
        let set = &mut self.sets[outcome.place()];
        set.get_or_insert_with(|| Bits::none(rows)).put(row, true);
    }

    /// The rows that came out so, if any did. Nothing is said of rows that a policy does not apply to.
    pub fn rows(&self, outcome: Outcome) -> Option<&Bits> {
        self.sets[outcome.place()].as_ref()
    }

    pub fn count(&self, outcome: Outcome) -> usize {
        self.rows(outcome).map_or(0, Bits::count)
    }

    pub fn of(&self, row: usize) -> Outcome {
        let has = |outcome: &&Outcome| self.rows(**outcome).is_some_and(|set| set.has(row));
        let found = OUTCOMES.iter().skip(1).find(has);
        found.copied().unwrap_or(Outcome::NotApplicable)
    }
}

/// Why a table cannot be answered for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    #[error("the table was not made for this plan: it lacks what the policy looks at")]
    OtherTable,
    #[error("the table has no such row")]
    NoRow,
}

/// A policy under an assignment, and the answers it has given so far. A plan is for one table.
#[derive(Debug)]
pub struct Plan {
    core: Core,
    roots: Vec<Root>,
    specials: Vec<Option<Special>>,
}

/// What is left of a policy for one type.
#[derive(Debug)]
struct Special {
    generation: u64,
    effect: Effects,
    /// The policy cannot apply to this type, whatever the rule says.
    left_out: bool,
    /// No row of the type can have any outcome.
    silent: bool,
    mode: Mode,
    assigned: Decided,
    exempt: Decided,
    stated: Decided,
    rule: Tree,
    applies: Tree,
    tests: Vec<Test>,
    /// For rows that are judged as a whole: those that no exemption covers, and those that are exempt.
    wholes: Box<[Test; 2]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effects {
    One(Effect),
    /// It cannot be told, for any resource.
    Broken,
    /// It depends on the resource.
    Several,
}

/// A question whose answer may be the same for all rows.
#[derive(Debug)]
enum Decided {
    Always(Answer),
    By(Test),
}

impl Plan {
    pub fn new(policy: Policy) -> Plan {
        let core = Core::new(policy);
        Plan {
            roots: core.roots(),
            core,
            specials: Vec::new(),
        }
    }

    pub fn policy(&self) -> &Policy {
        &self.core.policy
    }

    /// From here on it is this time. Answers that time may change are found anew.
    pub fn at(&mut self, now: Timestamp) {
        if self.core.ages() && now != self.core.policy.around.now {
            self.specials.clear();
        }
        self.core.policy.around.now = now;
    }

    /// What each part of the policy looks at.
    pub(super) fn reads(&self) -> impl Iterator<Item = &Reads> {
        let core = &self.core;
        core.leaf_reads
            .iter()
            .chain([&core.effect_reads, &core.stated_reads, &core.reads])
    }

    pub(super) fn roots(&self) -> &[Root] {
        &self.roots
    }

    /// The outcomes for a whole table, one for each of its segments.
    ///
    /// # Errors
    /// The table was made for other plans.
    pub fn scan(&mut self, table: &Table) -> Result<Vec<Answers>, ScanError> {
        let mut answers = Vec::with_capacity(table.segments().len());
        for (at, segment) in table.segments().iter().enumerate() {
            self.prepare(at, segment)?;
            let special = self.specials[at].as_mut().ok_or(ScanError::OtherTable)?;
            answers.push(special.scan(&self.core, segment));
        }
        Ok(answers)
    }

    /// The outcome for one row.
    ///
    /// # Errors
    /// The table was made for other plans, or has no such row.
    pub fn outcome(&mut self, table: &Table, row: Row) -> Result<Outcome, ScanError> {
        let at = row.segment as usize;
        let segment = table.segments().get(at).ok_or(ScanError::NoRow)?;
        if !segment.live.has(row.index as usize) {
            return Err(ScanError::NoRow);
        }
        self.prepare(at, segment)?;
        let special = self.specials[at].as_mut().ok_or(ScanError::OtherTable)?;
        Ok(special.row(&self.core, segment, row.index as usize))
    }

    fn prepare(&mut self, at: usize, segment: &Segment) -> Result<(), ScanError> {
        if self.specials.len() <= at {
            self.specials.resize_with(at + 1, || None);
        }
        match &mut self.specials[at] {
            Some(special) if special.generation == segment.generation => {}
            Some(special) => special.forget(segment),
            empty => {
                let special = Special::new(&self.core, segment).ok_or(ScanError::OtherTable)?;
                *empty = Some(special);
            }
        }
        Ok(())
    }
}

impl Special {
    /// Nothing if the segment lacks a column.
    fn new(core: &Core, segment: &Segment) -> Option<Special> {
        let columns = |roots: &[Root]| -> Option<Vec<usize>> {
            roots.iter().map(|root| segment.column(root)).collect()
        };
        let of = |reads: &Reads, more: &[Root]| {
            let mut roots = reads.roots(&segment.kind);
            let own: Vec<Root> = more
                .iter()
                .filter(|r| !roots.contains(r))
                .cloned()
                .collect();
            roots.extend(own);
            columns(&roots)
        };
        let mut tests = Vec::new();
        for (leaf, reads) in core.leaf_reads.iter().enumerate() {
            tests.push(Test::new(Ask::Leaf(leaf), of(reads, &[])?));
        }
        let known = |leaf: usize| {
            let test: &Test = &tests[leaf];
            test.is_constant().then(|| test.constant(core, segment))
        };
        let (rule, applies) = (core.rule.with(&known), core.applies.with(&known));
        let decided = |ask: Ask, columns: Vec<usize>| Decided::of(ask, columns, core, segment);
        // What judges as a whole needs no scope: that is settled before.
        let more: Vec<Root> = [&core.effect_roots, &core.stated_roots]
            .into_iter()
            .flatten()
            .cloned()
            .collect();
        let one = of(&core.effect_reads, &core.effect_roots)?.is_empty();
        let (effect, left_out) = effect_of(core, segment, one);
        let stated = of(&core.stated_reads, &core.stated_roots)?;
        Some(Special {
            generation: segment.generation,
            silent: silent(core, effect, &rule, &applies),
            mode: core.policy.definition.mode,
            effect,
            left_out,
            assigned: decided(Ask::Assigned, columns(&core.assigned_roots)?),
            exempt: decided(Ask::Exempt, columns(&core.exempt_roots)?),
            stated: match effect {
                Effects::One(Effect::Audit | Effect::Deny) => {
                    Decided::Always(Outcome::NonCompliant as Answer)
                }
                _ => decided(Ask::Stated, stated),
            },
            rule,
            applies,
            wholes: Box::new([
                Test::new(Ask::Whole, of(&core.reads, &more)?),
                Test::new(Ask::WholeExempt, of(&core.reads, &more)?),
            ]),
            tests,
        })
    }

    fn forget(&mut self, segment: &Segment) {
        self.generation = segment.generation;
        self.tests.iter_mut().for_each(Test::forget);
        self.wholes.iter_mut().for_each(Test::forget);
        for decided in [&mut self.assigned, &mut self.exempt, &mut self.stated] {
            if let Decided::By(test) = decided {
                test.forget();
            }
        }
    }

    fn scan(&mut self, core: &Core, segment: &Segment) -> Answers {
        let mut answers = Answers::none(segment.rows());
        if self.silent {
            return answers;
        }
        let taken = segment.taken(self.mode);
        let assigned = self.assigned.rows(core, segment, &taken).yes;
        match self.effect {
            Effects::Broken => answers.add(Outcome::Error, &assigned),
            Effects::Several => self.ask(core, segment, &assigned, &mut answers),
            Effects::One(effect) if effect.looks_for_existence() => {
                let rows = eval(&self.rule, &mut self.tests, core, segment, &assigned);
                self.odd(core, segment, &rows, &mut answers);
                if !self.left_out {
                    self.split(core, segment, &rows.yes, Outcome::Search, &mut answers);
                }
            }
            Effects::One(_) => self.judge(core, segment, &assigned, &mut answers),
        }
        answers
    }

    /// Those that are exempt, and the others.
    fn split(
        &mut self,
        core: &Core,
        segment: &Segment,
        rows: &Bits,
        others: Outcome,
        answers: &mut Answers,
    ) {
        let exempt = self.exempt.rows(core, segment, rows).yes;
        let mut rest = rows.clone();
        rest.take_away(&exempt);
        answers.add(Outcome::Exempt, &exempt);
        answers.add(others, &rest);
    }

    fn odd(&mut self, core: &Core, segment: &Segment, rows: &Rows, answers: &mut Answers) {
        if let Some(failed) = &rows.failed {
            answers.add(Outcome::Error, failed);
        }
        if let Some(ask) = &rows.ask {
            self.ask(core, segment, ask, answers);
        }
    }

    /// Judges rows one by one.
    fn ask(&mut self, core: &Core, segment: &Segment, rows: &Bits, answers: &mut Answers) {
        for row in rows.rows() {
            let outcome = self.ask_row(core, segment, row);
            answers.add_row(outcome, row);
        }
    }

    fn judge(&mut self, core: &Core, segment: &Segment, assigned: &Bits, answers: &mut Answers) {
        let applies = eval(&self.applies, &mut self.tests, core, segment, assigned);
        self.odd(core, segment, &applies, answers);
        if self.left_out {
            return;
        }
        let exempt = self.exempt.rows(core, segment, &applies.yes).yes;
        answers.add(Outcome::Exempt, &exempt);
        let mut judged = applies.yes;
        judged.take_away(&exempt);
        let rows = eval(&self.rule, &mut self.tests, core, segment, &judged);
        self.odd(core, segment, &rows, answers);
        rows.without_odd(&mut judged);
        judged.take_away(&rows.yes);
        answers.add(Outcome::Compliant, &judged);
        match &mut self.stated {
            Decided::Always(outcome) => answers.add(Outcome::from_answer(*outcome), &rows.yes),
            Decided::By(test) => {
                for row in rows.yes.rows() {
                    let outcome = Outcome::from_answer(test.row(core, segment, row));
                    answers.add_row(outcome, row);
                }
            }
        }
    }

    fn ask_row(&mut self, core: &Core, segment: &Segment, row: usize) -> Outcome {
        let [whole, whole_exempt] = &mut *self.wholes;
        let whole = match self.exempt.row(core, segment, row) {
            YES => whole_exempt,
            _ => whole,
        };
        Outcome::from_answer(match whole.is_constant() {
            true => whole.constant(core, segment),
            false => whole.row(core, segment, row),
        })
    }

    fn row(&mut self, core: &Core, segment: &Segment, row: usize) -> Outcome {
        if self.silent
            || !segment.takes(self.mode, row)
            || self.assigned.row(core, segment, row) != YES
        {
            return Outcome::NotApplicable;
        }
        let effect = match self.effect {
            Effects::Broken => return Outcome::Error,
            Effects::Several => return self.ask_row(core, segment, row),
            Effects::One(effect) => effect,
        };
        let searches = effect.looks_for_existence();
        if !searches {
            match eval_row(&self.applies, &mut self.tests, core, segment, row) {
                YES if !self.left_out => {}
                FAILED => return Outcome::Error,
                ASK => return self.ask_row(core, segment, row),
                _ => return Outcome::NotApplicable,
            }
            if self.exempt.row(core, segment, row) == YES {
                return Outcome::Exempt;
            }
        }
        match eval_row(&self.rule, &mut self.tests, core, segment, row) {
            FAILED => Outcome::Error,
            ASK => self.ask_row(core, segment, row),
            YES if searches && self.left_out => Outcome::NotApplicable,
            YES if searches && self.exempt.row(core, segment, row) == YES => Outcome::Exempt,
            YES if searches => Outcome::Search,
            YES => Outcome::from_answer(self.stated.row(core, segment, row)),
            _ if searches => Outcome::NotApplicable,
            _ => Outcome::Compliant,
        }
    }
}

/// The effect for a type, and whether that keeps the policy from applying to it.
fn effect_of(core: &Core, segment: &Segment, one: bool) -> (Effects, bool) {
    if !one {
        return (Effects::Several, false);
    }
    let kind = Value::String(segment.kind.clone());
    let kind = Value::Object(Map::from_iter([("type".to_owned(), kind)]));
    let question = core.question(&kind, &core.policy.around, &[]);
    let Ok(effect) = question.effect() else {
        return (Effects::Broken, false);
    };
    let definition = &core.policy.definition;
    let foreign = applies::foreign_alias(&definition.condition, &kind);
    let left_out =
        applies::left_out(definition, effect, &kind) || (foreign && !effect.looks_for_existence());
    (Effects::One(effect), left_out)
}

/// Whether no row of a type can have any outcome, with what is left of the rule for it.
fn silent(core: &Core, effect: Effects, rule: &Tree, applies: &Tree) -> bool {
    match effect {
        Effects::One(Effect::Disabled) => true,
        Effects::One(_) if core.policy.definition.names_unreal => true,
        Effects::One(effect) if effect.looks_for_existence() => matches!(rule, Tree::Known(NO)),
        Effects::One(_) => matches!(applies, Tree::Known(NO)),
        Effects::Broken | Effects::Several => false,
    }
}

impl Decided {
    fn of(ask: Ask, columns: Vec<usize>, core: &Core, segment: &Segment) -> Decided {
        let test = Test::new(ask, columns);
        match test.is_constant() {
            true => Decided::Always(test.constant(core, segment)),
            false => Decided::By(test),
        }
    }

    fn rows(&mut self, core: &Core, segment: &Segment, mask: &Bits) -> Rows {
        match self {
            Decided::Always(answer) => Rows::all(*answer, mask),
            Decided::By(test) => test.rows(core, segment, mask),
        }
    }

    fn row(&mut self, core: &Core, segment: &Segment, row: usize) -> Answer {
        match self {
            Decided::Always(answer) => *answer,
            Decided::By(test) => test.row(core, segment, row),
        }
    }
}

/// Where a rule holds among the rows. Each part is asked only of rows that the parts before leave open, so
/// that what fails, fails as it does in the order of the rule.
fn eval(tree: &Tree, tests: &mut [Test], core: &Core, segment: &Segment, mask: &Bits) -> Rows {
    match tree {
        Tree::Known(answer) => Rows::all(*answer, mask),
        Tree::Test(at) => tests[*at].rows(core, segment, mask),
        Tree::Not(inner) => {
            let mut rows = eval(inner, tests, core, segment, mask);
            let mut yes = mask.clone();
            yes.take_away(&rows.yes);
            rows.without_odd(&mut yes);
            rows.yes = yes;
            rows
        }
        Tree::All(trees) => {
            let mut open = Rows::all(YES, mask);
            for tree in trees {
                if open.yes.is_empty() {
                    break;
                }
                let rows = eval(tree, tests, core, segment, &open.yes);
                open.join_odd(&rows);
                open.yes = rows.yes;
            }
            open
        }
        Tree::Any(trees) => {
            let mut found = Rows::all(NO, mask);
            let mut open = mask.clone();
            for tree in trees {
                if open.is_empty() {
                    break;
                }
                let rows = eval(tree, tests, core, segment, &open);
                found.join_odd(&rows);
                found.yes.add(&rows.yes);
                open.take_away(&rows.yes);
                rows.without_odd(&mut open);
            }
            found
        }
    }
}

fn eval_row(tree: &Tree, tests: &mut [Test], core: &Core, segment: &Segment, row: usize) -> Answer {
    let mut series = |trees: &[Tree], on: Answer| {
        for tree in trees {
            let answer = eval_row(tree, tests, core, segment, row);
            if answer != on {
                return answer;
            }
        }
        on
    };
    match tree {
        Tree::Known(answer) => *answer,
        Tree::All(trees) => series(trees, YES),
        Tree::Any(trees) => series(trees, NO),
        Tree::Not(inner) => not(eval_row(inner, tests, core, segment, row)),
        Tree::Test(at) => tests[*at].row(core, segment, row),
    }
}
