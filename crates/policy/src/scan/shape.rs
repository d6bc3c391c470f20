//! The logic of a rule, apart from its conditions: what of all, any and not is left for one type.

use crate::applies::Deciding;
use crate::condition::{Leaf, Node};

/// What a condition, or a part of a rule, says of a row.
pub type Answer = u8;
pub const NO: Answer = 0;
pub const YES: Answer = 1;
/// The evaluation fails.
pub const FAILED: Answer = 2;
/// Only the whole rule can tell: it takes too many steps to be sure.
pub const ASK: Answer = 3;
pub const UNKNOWN: Answer = u8::MAX;

/// A rule, its conditions numbered in order.
#[derive(Debug, Clone)]
pub enum Tree {
    All(Vec<Tree>),
    Any(Vec<Tree>),
    Not(Box<Tree>),
    Test(usize),
    Known(Answer),
}

impl Tree {
    /// The tree of a rule, and its conditions.
    pub fn of(node: &Node, leaves: &mut Vec<Leaf>) -> Tree {
        match node {
            Node::All(nodes) => {
                Tree::All(nodes.iter().map(|node| Tree::of(node, leaves)).collect())
            }
            Node::Any(nodes) => {
                Tree::Any(nodes.iter().map(|node| Tree::of(node, leaves)).collect())
            }
            Node::Not(inner) => Tree::Not(Box::new(Tree::of(inner, leaves))),
            Node::Leaf(leaf) => {
                leaves.push((**leaf).clone());
                Tree::Test(leaves.len() - 1)
            }
        }
    }

    /// What is left of the rule when only some conditions decide: the others hold where they stand.
    pub fn deciding(&self, leaves: &[Leaf], deciding: Deciding, negated: bool) -> Tree {
        let each = |trees: &[Tree]| {
            let trees = trees.iter();
            trees
                .map(|tree| tree.deciding(leaves, deciding, negated))
                .collect()
        };
        match self {
            Tree::All(trees) => Tree::All(each(trees)),
            Tree::Any(trees) => Tree::Any(each(trees)),
            Tree::Not(inner) => Tree::Not(Box::new(inner.deciding(leaves, deciding, !negated))),
            Tree::Test(at) if deciding.on(&leaves[*at].subject) => Tree::Test(*at),
            Tree::Test(_) => Tree::Known(u8::from(!negated)),
            Tree::Known(answer) => Tree::Known(*answer),
        }
    }

    /// The same rule where the answers of some conditions are known already. The order of evaluation stays,
    /// since what fails before something is decided counts.
    pub fn with(&self, known: &dyn Fn(usize) -> Option<Answer>) -> Tree {
        match self {
            Tree::Test(at) => known(*at).map_or(Tree::Test(*at), Tree::Known),
            Tree::Known(answer) => Tree::Known(*answer),
            Tree::Not(inner) => match inner.with(known) {
                Tree::Known(answer) => Tree::Known(not(answer)),
                inner => Tree::Not(Box::new(inner)),
            },
            Tree::All(trees) => match series(trees, known, YES) {
                Ok(trees) => only(trees).unwrap_or_else(Tree::All),
                Err(answer) => Tree::Known(answer),
            },
            Tree::Any(trees) => match series(trees, known, NO) {
                Ok(trees) => only(trees).unwrap_or_else(Tree::Any),
                Err(answer) => Tree::Known(answer),
            },
        }
    }
}

pub fn not(answer: Answer) -> Answer {
    match answer {
        NO => YES,
        YES => NO,
        other => other,
    }
}

/// The only one of a series, which says what the series says.
fn only(trees: Vec<Tree>) -> Result<Tree, Vec<Tree>> {
    <[Tree; 1]>::try_from(trees).map(|[tree]| tree)
}

/// The parts that are still to be asked, of a series that goes on while parts answer `on`; or the answer.
fn series(
    trees: &[Tree],
    known: &dyn Fn(usize) -> Option<Answer>,
    on: Answer,
) -> Result<Vec<Tree>, Answer> {
    let mut left = Vec::new();
    for tree in trees {
        match tree.with(known) {
            Tree::Known(answer) if answer == on => {}
            Tree::Known(answer) if left.is_empty() => return Err(answer),
            last @ Tree::Known(_) => {
                left.push(last);
                break;
            }
            tree => left.push(tree),
        }
    }
    match left.is_empty() {
        true => Err(on),
        false => Ok(left),
    }
}
