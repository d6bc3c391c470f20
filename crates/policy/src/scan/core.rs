//! What a plan knows that never changes, and how it answers for one combination of values: by the
//! evaluator, on a resource that has these values and nothing else.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::plan::{Outcome, Policy};
use super::reads::{Assigned, Reads, Root};
use super::settle::settle;
use super::shape::{ASK, Answer, FAILED, Tree};
use super::table::Segment;
use crate::applies::Deciding;
use crate::condition::{Leaf, Operand, Subject};
use crate::effect::Effect;
use crate::evaluate::{Evaluation, STEPS_MAX, Surroundings};
use crate::field::Field;
use crate::json::{key_of, list, text};
use crate::operator;
use crate::scope;
use crate::verdict::{Question, State, Verdict};

/// The part of a condition's steps that may go into what is worked out once: what is not counted again may
/// not add up to more than the half that is left over.
const SETTLED_SHARE: u64 = 8;

/// What is asked of a combination of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Whether a condition of the rule holds.
    Leaf(usize),
    /// Whether the assignment takes the resource.
    Assigned,
    /// Whether an exemption covers it.
    Exempt,
    /// What state it has if the rule holds.
    Stated,
    /// What comes out as a whole, of a resource that no exemption covers and of one that is exempt.
    Whole,
    WholeExempt,
}

#[derive(Debug)]
pub struct Core {
    pub policy: Policy,
    pub leaves: Vec<Leaf>,
    pub rule: Tree,
    pub applies: Tree,
    pub leaf_reads: Vec<Reads>,
    /// What decides the effect, if it is not the same for all resources.
    pub effect_reads: Reads,
    pub stated_reads: Reads,
    /// All of these together.
    pub reads: Reads,
    /// Columns for the assignment, for exemptions, and for overrides of the effect.
    pub assigned_roots: Vec<Root>,
    pub exempt_roots: Vec<Root>,
    pub effect_roots: Vec<Root>,
    pub stated_roots: Vec<Root>,
    /// Steps that one condition may take before the rule as a whole has to be counted.
    steps_share: u64,
}

impl Core {
    pub fn new(mut policy: Policy) -> Core {
        // Exemptions of other assignments need no asking, and least of all for every resource.
        let (assignment, reference) = (&policy.assignment, policy.reference.as_deref());
        policy
            .exemptions
            .retain(|exemption| scope::concerns(exemption, assignment, reference));
        policy
            .attestations
            .retain(|attestation| scope::concerns(attestation, assignment, reference));
        let definition = Arc::clone(&policy.definition);
        let known = Assigned {
            parameters: &policy.parameters,
            around: &policy.around,
            aliases: &policy.aliases,
        };
        let mut leaves = Vec::new();
        let rule = Tree::of(&definition.condition, &mut leaves);
        let steps_share = STEPS_MAX / (2 * leaves.len().max(1) as u64);
        let applies = match Deciding::of(&definition.condition) {
            Deciding::Nothing => Tree::Known(super::shape::YES),
            deciding => rule.deciding(&leaves, deciding, false),
        };
        // Which conditions decide is told by how they are written, so this comes after.
        for leaf in &mut leaves {
            settle(leaf, &known, steps_share / SETTLED_SHARE);
        }
        let leaf_reads: Vec<Reads> = leaves
            .iter()
            .map(|leaf| {
                let mut reads = Reads::default();
                reads.leaf(leaf, &known);
                reads
            })
            .collect();
        let mut effect_reads = Reads::default();
        effect_reads.operand(&definition.then.effect, &known);
        let stated_reads = stated(&policy, &known);
        let mut reads = Reads::default();
        for part in leaf_reads.iter().chain([&effect_reads, &stated_reads]) {
            reads.join(part);
        }
        let location = || Root::top("location");
        let overrides = scope::own_list(&policy.assignment, "overrides");
        let by_place = overrides
            .iter()
            .flat_map(|entry| list(entry, "selectors"))
            .any(|selector| !is_reference(selector));
        let attested = !policy.attestations.is_empty();
        let assigned_roots = scope_roots(std::slice::from_ref(&policy.assignment), true);
        let exempt_roots = scope_roots(&policy.exemptions, false);
        Core {
            assigned_roots,
            exempt_roots,
            effect_roots: by_place.then(location).into_iter().collect(),
            stated_roots: attested.then(|| Root::top("id")).into_iter().collect(),
            steps_share,
            policy,
            leaves,
            rule,
            applies,
            leaf_reads,
            effect_reads,
            stated_reads,
            reads,
        }
    }

    /// Whether time alone may change an answer.
    pub fn ages(&self) -> bool {
        let holders = self
            .policy
            .exemptions
            .iter()
            .chain(&self.policy.attestations);
        let ends = |holder: &Value| scope::own_text(holder, "expiresOn").is_some();
        self.reads.clock || { holders }.any(ends)
    }

    /// Columns beside those of the rule.
    pub fn roots(&self) -> Vec<Root> {
        let parts = [
            &self.assigned_roots,
            &self.exempt_roots,
            &self.effect_roots,
            &self.stated_roots,
        ];
        let mut roots: Vec<Root> = parts.into_iter().flatten().cloned().collect();
        roots.dedup();
        roots
    }

    pub fn question<'q>(
        &'q self,
        resource: &'q Value,
        around: &'q Surroundings,
        exemptions: &'q [Value],
    ) -> Question<'q> {
        let policy = &self.policy;
        Question {
            definition: &policy.definition,
            parameters: &policy.parameters,
            reference: policy.reference.as_deref(),
            assignment: &policy.assignment,
            resource,
            related: &[],
            exemptions,
            attestations: &policy.attestations,
            hierarchy: &policy.hierarchy,
            around,
            aliases: &policy.aliases,
        }
    }

    /// The answer for these values of these columns.
    pub fn answer(&self, ask: Ask, segment: &Segment, columns: &[usize], codes: &[u32]) -> Answer {
        if let Ask::Leaf(leaf) = ask
            && let Some(answer) = self.plain(leaf, segment, columns, codes)
        {
            return answer;
        }
        let (resource, around) = self.resource(segment, columns, codes);
        let policy = &self.policy;
        match ask {
            Ask::Leaf(leaf) => self.leaf(leaf, &resource, &around),
            Ask::Assigned => u8::from(scope::assigned(
                &policy.assignment,
                &resource,
                &policy.hierarchy,
            )),
            Ask::Exempt => u8::from(scope::exempt(
                &policy.exemptions,
                &policy.assignment,
                policy.reference.as_deref(),
                &resource,
                &policy.hierarchy,
                policy.around.now,
            )),
            Ask::Stated => {
                let question = self.question(&resource, &around, &[]);
                let effect = question.effect().unwrap_or(Effect::Audit);
                match question.state(effect, true, &mut Verdict::default()) {
                    Ok(state) => Outcome::of(Some(state)) as Answer,
                    Err(_) => Outcome::Error as Answer,
                }
            }
            Ask::Whole => whole(&self.question(&resource, &around, &[])) as Answer,
            Ask::WholeExempt => {
                // One that names nothing covers everything.
                let everything = [Value::Object(Map::new())];
                whole(&self.question(&resource, &around, &everything)) as Answer
            }
        }
    }

    fn leaf(&self, leaf: usize, resource: &Value, around: &Surroundings) -> Answer {
        let policy = &self.policy;
        let evaluation = Evaluation::new(resource, &policy.parameters, around, &policy.aliases);
        let mut evaluation = evaluation.unexplained();
        let holds = evaluation.leaf(&self.leaves[leaf]);
        match holds {
            _ if evaluation.steps() > self.steps_share => ASK,
            Ok(holds) => u8::from(holds),
            Err(_) => FAILED,
        }
    }

    /// The answer of a condition that compares one property with a constant.
    fn plain(
        &self,
        leaf: usize,
        segment: &Segment,
        columns: &[usize],
        codes: &[u32],
    ) -> Option<Answer> {
        let leaf = &self.leaves[leaf];
        let (Subject::Field(field, _), Operand::Constant(target)) = (&leaf.subject, &leaf.target)
        else {
            return None;
        };
        let ([column], [code]) = (columns, codes) else {
            return None;
        };
        if field.is_list() || matches!(field, Field::Type) {
            return None;
        }
        let mut value = segment.columns[*column].get(*code);
        if let (Field::Name, Some(Value::String(name))) = (field, &mut value)
            && let Some(slash) = name.rfind('/')
        {
            name.drain(..=slash);
        }
        let holds = match (field, &value) {
            (Field::Location, Some(Value::String(place))) => {
                operator::location_holds(leaf.operator, place, target)
            }
            (_, value) => operator::holds(leaf.operator, value.as_ref(), target),
        };
        Some(holds.map_or(FAILED, u8::from))
    }

    /// A resource that has these values, and what is around it.
    fn resource(
        &self,
        segment: &Segment,
        columns: &[usize],
        codes: &[u32],
    ) -> (Value, Cow<'_, Surroundings>) {
        let mut around = Cow::Borrowed(&self.policy.around);
        let mut object = Map::new();
        let mut paths: Vec<(&[String], Value)> = Vec::new();
        for (column, code) in columns.iter().zip(codes) {
            let Some(value) = segment.columns[*column].get(*code) else {
                continue;
            };
            match &segment.roots[*column] {
                Root::Whole => object = value.as_object().cloned().unwrap_or_default(),
                Root::FullName => drop(object.insert("name".to_owned(), value)),
                Root::Container => drop(object.insert("id".to_owned(), value)),
                Root::Group => around.to_mut().resource_group = value,
                Root::Subscription => around.to_mut().subscription = value,
                Root::Path(keys) => paths.push((keys, value)),
            }
        }
        if !columns.iter().any(|c| segment.roots[*c] == Root::Whole) {
            object.insert("type".to_owned(), Value::String(segment.kind.clone()));
        }
        // What holds others goes first; they are in it already, and with the same values.
        paths.sort_by_key(|(keys, _)| keys.len());
        for (keys, value) in paths {
            set(&mut object, keys, value);
        }
        (Value::Object(object), around)
    }
}

/// What comes out for a resource as a whole, short of an existence search.
fn whole(question: &Question<'_>) -> Outcome {
    let verdict = question.judge();
    let searches = verdict.effect.is_some_and(Effect::looks_for_existence);
    match verdict.state {
        Some(State::Exempt) | None => Outcome::of(verdict.state),
        Some(_) if searches && verdict.condition == Some(true) => Outcome::Search,
        state => Outcome::of(state),
    }
}

fn set(object: &mut Map<String, Value>, keys: &[String], value: Value) {
    let Some((first, rest)) = keys.split_first() else {
        return;
    };
    let key = key_of(object, first);
    if rest.is_empty() {
        object.insert(key, value);
        return;
    }
    let inner = object
        .entry(key)
        .or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(inner) = inner {
        set(inner, rest, value);
    }
}

/// What the state of a resource depends on once the rule holds.
fn stated(policy: &Policy, known: &Assigned<'_>) -> Reads {
    let then = &policy.definition.then;
    let mut reads = Reads::default();
    let changes = then.changes.iter().flat_map(|change| {
        let parts = [
            Some(&change.field),
            change.value.as_ref(),
            change.condition.as_ref(),
        ];
        parts.into_iter().flatten()
    });
    let others = [&then.conflict, &then.default_state, &then.actions];
    for operand in changes.chain(others.into_iter().flatten()) {
        reads.operand(operand, known);
    }
    reads
}

fn is_reference(selector: &Value) -> bool {
    text(selector, "kind")
        .is_some_and(|kind| kind.eq_ignore_ascii_case("policyDefinitionReferenceId"))
}

/// The columns that decide whether a resource lies in scopes and passes selectors.
fn scope_roots(holders: &[Value], leaves_out: bool) -> Vec<Root> {
    let mut scopes: Vec<Cow<'_, str>> = Vec::new();
    let mut selects = false;
    for holder in holders {
        scopes.extend(scope::scope_of(holder).map(Cow::Owned));
        if leaves_out {
            let left_out = scope::own_list(holder, "notScopes").iter();
            scopes.extend(left_out.filter_map(Value::as_str).map(Cow::Borrowed));
        }
        selects |= !scope::own_list(holder, "resourceSelectors").is_empty();
    }
    let deep = |scope: &str| scope.split('/').filter(|part| !part.is_empty()).count() > 4;
    let mut roots = Vec::new();
    if scopes.iter().any(|scope| deep(scope)) {
        roots.push(Root::top("id"));
    } else if !scopes.is_empty() {
        roots.push(Root::Container);
    }
    if selects {
        roots.push(Root::top("location"));
    }
    roots
}
