//! What of a condition is the same for all resources is worked out once, when a policy is assigned: values
//! that parameters give, and names of fields that are put together from them.
//!
//! Nothing else of a condition changes: what fails, and what costs too much, stays as it is and fails where
//! the rule gets to it.

use serde_json::Value;

use super::reads::{Assigned, Reads};
use crate::condition::{Leaf, Operand, Subject};
use crate::evaluate::Evaluation;
use crate::expr::Expr;
use crate::field::Field;

/// Settles what it can of a condition, in so many steps for each value.
pub fn settle(leaf: &mut Leaf, known: &Assigned<'_>, steps_max: u64) {
    if let Some(value) = settled(&leaf.target, known, steps_max) {
        leaf.target = Operand::Constant(value);
    }
    let subject = match &leaf.subject {
        Subject::Computed(name, text) => {
            named(name, known, steps_max).map(|field| Subject::Field(field, text.clone()))
        }
        Subject::Value(operand, text) => settled(operand, known, steps_max)
            .map(|value| Subject::Value(Operand::Constant(value), text.clone())),
        Subject::Field(..) | Subject::Count(_) => None,
    };
    if let Some(subject) = subject {
        leaf.subject = subject;
    }
}

/// The value of an operand that looks at nothing of a resource and its surroundings.
fn settled(operand: &Operand, known: &Assigned<'_>, steps_max: u64) -> Option<Value> {
    if matches!(operand, Operand::Constant(_)) {
        return None;
    }
    let mut reads = Reads::default();
    reads.operand(operand, known);
    if !reads.is_constant() {
        return None;
    }
    let nothing = Value::Null;
    let mut evaluation =
        Evaluation::new(&nothing, known.parameters, known.around, known.aliases).unexplained();
    let value = evaluation.operand(operand).ok()?;
    (evaluation.steps() <= steps_max).then_some(value)
}

fn named(name: &Expr, known: &Assigned<'_>, steps_max: u64) -> Option<Field> {
    let name = settled(&Operand::Expression(name.clone()), known, steps_max)?;
    Field::parse(name.as_str()?, known.aliases).ok()
}
