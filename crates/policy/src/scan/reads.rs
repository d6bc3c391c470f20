//! What a part of a rule looks at: which fields of the resource, and what around it.
//!
//! A part whose answer depends on nothing else can be answered once for each combination of values.

use serde_json::{Map, Value};

use crate::alias::{Aliases, Step};
use crate::condition::{Leaf, Node, Operand, Over, Subject};
use crate::evaluate::{Evaluation, Surroundings};
use crate::expr::Expr;
use crate::field::Field;

/// What is known when a policy is assigned, before there is any resource.
pub struct Assigned<'a> {
    pub parameters: &'a Map<String, Value>,
    pub around: &'a Surroundings,
    pub aliases: &'a Aliases,
}

#[derive(Debug, Clone, Default)]
pub struct Reads {
    pub fields: Vec<Field>,
    /// A field is named by an expression that only a resource decides.
    pub whole: bool,
    pub group: bool,
    pub subscription: bool,
    pub clock: bool,
    /// The element of a count around; of no concern outside of the count.
    element: bool,
}

impl Reads {
    pub fn leaf(&mut self, leaf: &Leaf, known: &Assigned<'_>) {
        self.operand(&leaf.target, known);
        match &leaf.subject {
            Subject::Field(field, _) => self.fields.push(field.clone()),
            Subject::Computed(name, _) => self.named(name, known),
            Subject::Value(operand, _) => self.operand(operand, known),
            Subject::Count(count) => {
                match &count.over {
                    Over::Field(field) => self.fields.push(field.clone()),
                    Over::Value(operand) => self.operand(operand, known),
                }
                if let Some(filter) = &count.filter {
                    self.node(filter, known);
                }
            }
        }
    }

    pub fn node(&mut self, node: &Node, known: &Assigned<'_>) {
        match node {
            Node::All(nodes) | Node::Any(nodes) => {
                nodes.iter().for_each(|node| self.node(node, known));
            }
            Node::Not(inner) => self.node(inner, known),
            Node::Leaf(leaf) => self.leaf(leaf, known),
        }
    }

    pub fn operand(&mut self, operand: &Operand, known: &Assigned<'_>) {
        match operand {
            Operand::Constant(_) => {}
            Operand::Expression(expression) => self.expression(expression, known),
            Operand::List(items) => items.iter().for_each(|item| self.operand(item, known)),
            Operand::Object(members) => members
                .iter()
                .for_each(|(_, member)| self.operand(member, known)),
        }
    }

    fn expression(&mut self, expression: &Expr, known: &Assigned<'_>) {
        match expression {
            Expr::Literal(_) => {}
            Expr::Member { base, key, .. } => {
                self.expression(base, known);
                self.expression(key, known);
            }
            Expr::Call(function, arguments) => {
                for argument in arguments {
                    self.expression(argument, known);
                }
                match (function.name, arguments.first()) {
                    ("field", Some(name)) => self.named(name, known),
                    ("current", _) => self.element = true,
                    ("utcNow", _) => self.clock = true,
                    ("resourceGroup", _) => self.group = true,
                    ("subscription", _) => self.subscription = true,
                    _ => {}
                }
            }
        }
    }

    /// The field that an expression names. What cannot be named fails in every evaluation alike.
    fn named(&mut self, name: &Expr, known: &Assigned<'_>) {
        let mut inner = Reads::default();
        inner.expression(name, known);
        if !inner.is_constant() {
            self.whole = true;
            self.clock |= inner.clock;
            self.group |= inner.group;
            self.subscription |= inner.subscription;
            return;
        }
        let nothing = Value::Null;
        let mut evaluation =
            Evaluation::new(&nothing, known.parameters, known.around, known.aliases);
        let name = evaluation.expression(name).ok();
        let field = name
            .as_ref()
            .and_then(Value::as_str)
            .and_then(|name| Field::parse(name, known.aliases).ok());
        self.fields.extend(field);
    }

    /// Whether nothing of a resource, and nothing around it, is looked at.
    pub fn is_constant(&self) -> bool {
        let around = self.clock || self.group || self.subscription || self.element;
        self.fields.is_empty() && !self.whole && !around
    }

    /// Everything that another part looks at, too.
    pub fn join(&mut self, other: &Reads) {
        self.fields.extend(other.fields.iter().cloned());
        self.whole |= other.whole;
        self.group |= other.group;
        self.subscription |= other.subscription;
        self.clock |= other.clock;
    }

    /// Where in resources of a type the fields begin.
    pub fn roots(&self, kind: &str) -> Vec<Root> {
        let mut roots: Vec<Root> = Vec::new();
        let mut add = |root: Root| {
            if !roots.contains(&root) {
                roots.push(root);
            }
        };
        if self.whole {
            add(Root::Whole);
        } else {
            self.fields
                .iter()
                .filter_map(|field| Root::of(field, kind))
                .for_each(&mut add);
        }
        if self.group {
            add(Root::Group);
        }
        if self.subscription {
            add(Root::Subscription);
        }
        roots
    }
}

/// What a column of a table holds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Root {
    /// The property at these keys. Lists are whole.
    Path(Vec<String>),
    FullName,
    /// The id up to its resource group.
    Container,
    Group,
    Subscription,
    /// The whole resource.
    Whole,
}

impl Root {
    pub fn top(name: &str) -> Root {
        Root::Path(vec![name.to_owned()])
    }

    /// Nothing for the type, which all rows together have, and for a property that the type has not.
    fn of(field: &Field, kind: &str) -> Option<Root> {
        let keys = |steps: &[Step]| {
            let keys = steps.iter().map_while(|step| match step {
                Step::Key(key) => Some(key.clone()),
                Step::Each | Step::Inner(_) => None,
            });
            Root::Path(keys.collect())
        };
        Some(match field {
            Field::Type => return None,
            Field::Name | Field::FullName => Root::FullName,
            Field::Kind => Root::top("kind"),
            Field::Location => Root::top("location"),
            Field::Id => Root::top("id"),
            Field::Tags => Root::top("tags"),
            Field::Tag(name) => Root::Path(vec!["tags".to_owned(), name.clone()]),
            Field::Plain(_) | Field::Alias(_) => keys(&field.path(kind)?.0),
        })
    }
}
