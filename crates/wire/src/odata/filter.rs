//! `$filter`: a condition over one record.

use std::cmp::Ordering;

use serde_json::Value;

use super::lex::{Token, Tokens};
use super::{DEPTH_MAX, NAMES_MAX, QueryError, known_name, value};

/// A condition.
#[derive(Debug, Clone, PartialEq)]
pub struct Filter(Expr);

#[derive(Debug, Clone, PartialEq)]
enum Expr {
    Literal(Value),
    Property(String),
    /// The variable of the innermost `any` or `all`.
    Item,
    Not(Box<Expr>),
    And(Vec<Expr>),
    Or(Vec<Expr>),
    Compare(Comparison, Box<Expr>, Box<Expr>),
    In(Box<Expr>, Vec<Value>),
    Call(Function, Vec<Expr>),
    Some {
        of: String,
        every: bool,
        holds: Box<Expr>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Eq,
    Ne,
    Gt,
    Ge,
    Lt,
    Le,
}

impl Comparison {
    fn parse(word: &str) -> Option<Comparison> {
        Some(match word.to_lowercase().as_str() {
            "eq" => Comparison::Eq,
            "ne" => Comparison::Ne,
            "gt" => Comparison::Gt,
            "ge" => Comparison::Ge,
            "lt" => Comparison::Lt,
            "le" => Comparison::Le,
            _ => return None,
        })
    }

    fn holds(self, a: &Value, b: &Value) -> bool {
        let seen = value::compare(a, b);
        match self {
            Comparison::Eq => seen == Some(Ordering::Equal),
            Comparison::Ne => seen != Some(Ordering::Equal),
            Comparison::Gt => seen == Some(Ordering::Greater),
            Comparison::Ge => seen.is_some_and(Ordering::is_ge),
            Comparison::Lt => seen == Some(Ordering::Less),
            Comparison::Le => seen.is_some_and(Ordering::is_le),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Function {
    Contains,
    /// `contains` with its arguments the other way round.
    SubstringOf,
    StartsWith,
    EndsWith,
    ToLower,
    ToUpper,
    Trim,
    Length,
}

impl Function {
    fn parse(word: &str) -> Option<(Function, usize)> {
        Some(match word.to_lowercase().as_str() {
            "contains" => (Function::Contains, 2),
            "substringof" => (Function::SubstringOf, 2),
            "startswith" => (Function::StartsWith, 2),
            "endswith" => (Function::EndsWith, 2),
            "tolower" => (Function::ToLower, 1),
            "toupper" => (Function::ToUpper, 1),
            "trim" => (Function::Trim, 1),
            "length" => (Function::Length, 1),
            _ => return None,
        })
    }

    fn call(self, arguments: &[Value]) -> Value {
        let text = |index: usize| {
            let text = arguments.get(index).and_then(Value::as_str);
            text.map(str::to_lowercase)
        };
        let two = text(0).zip(text(1));
        match self {
            Function::Contains => two.is_some_and(|(a, b)| a.contains(&b)).into(),
            Function::SubstringOf => two.is_some_and(|(a, b)| b.contains(&a)).into(),
            Function::StartsWith => two.is_some_and(|(a, b)| a.starts_with(&b)).into(),
            Function::EndsWith => two.is_some_and(|(a, b)| a.ends_with(&b)).into(),
            Function::ToLower => text(0).into(),
            Function::ToUpper => text(0).map(|text| text.to_uppercase()).into(),
            Function::Trim => text(0).map(|text| text.trim().to_owned()).into(),
            Function::Length => text(0).map(|text| text.chars().count()).into(),
        }
    }
}

impl Filter {
    /// All of `text` is one condition over records with the members `known`.
    pub fn parse(text: &str, known: &[String]) -> Result<Filter, QueryError> {
        let mut tokens = Tokens::of(text)?;
        let filter = Filter::read(&mut tokens, known)?;
        match tokens.peek() {
            Token::End => Ok(filter),
            _ => Err(tokens.wrong("the end, 'and' or 'or' is expected".into())),
        }
    }

    /// A condition at the front of the tokens.
    pub(super) fn read(tokens: &mut Tokens, known: &[String]) -> Result<Filter, QueryError> {
        let mut parser = Parser {
            tokens,
            known,
            depth: 0,
            variables: Vec::new(),
        };
        parser.any_of().map(Filter)
    }

    pub fn holds(&self, record: &Value) -> bool {
        self.0.holds(record, None)
    }
}

struct Parser<'p> {
    tokens: &'p mut Tokens,
    known: &'p [String],
    depth: usize,
    variables: Vec<String>,
}

impl Parser<'_> {
    fn deeper<T>(
        &mut self,
        parse: impl FnOnce(&mut Self) -> Result<T, QueryError>,
    ) -> Result<T, QueryError> {
        if self.depth == DEPTH_MAX {
            return Err(QueryError::TooLong);
        }
        self.depth += 1;
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    fn any_of(&mut self) -> Result<Expr, QueryError> {
        let mut items = vec![self.all_of()?];
        while self.tokens.takes_word("or") {
            items.push(self.all_of()?);
        }
        Ok(one_or(items, Expr::Or))
    }

    fn all_of(&mut self) -> Result<Expr, QueryError> {
        let mut items = vec![self.comparison()?];
        while self.tokens.takes_word("and") {
            items.push(self.comparison()?);
        }
        Ok(one_or(items, Expr::And))
    }

    fn comparison(&mut self) -> Result<Expr, QueryError> {
        if self.tokens.takes_word("not") {
            let inner = self.deeper(Self::comparison)?;
            return Ok(Expr::Not(Box::new(inner)));
        }
        let left = self.operand()?;
        let Token::Word(word) = self.tokens.peek() else {
            return Ok(left);
        };
        if word.eq_ignore_ascii_case("in") {
            self.tokens.take();
            return Ok(Expr::In(Box::new(left), self.literals()?));
        }
        let Some(comparison) = Comparison::parse(word) else {
            return Ok(left);
        };
        self.tokens.take();
        let right = self.operand()?;
        Ok(Expr::Compare(comparison, Box::new(left), Box::new(right)))
    }

    fn literals(&mut self) -> Result<Vec<Value>, QueryError> {
        self.tokens.need(&Token::Open, "'('")?;
        let mut literals = Vec::new();
        loop {
            match self.tokens.take() {
                Token::Literal(literal) => literals.push(literal),
                _ => return Err(self.tokens.wrong("a value is expected".into())),
            }
            if !self.tokens.takes(&Token::Comma) {
                break;
            }
        }
        self.tokens.need(&Token::Close, "')'")?;
        Ok(literals)
    }

    fn operand(&mut self) -> Result<Expr, QueryError> {
        match self.tokens.peek().clone() {
            Token::Literal(literal) => {
                self.tokens.take();
                Ok(Expr::Literal(literal))
            }
            Token::Open => {
                self.tokens.take();
                let inner = self.deeper(Self::any_of)?;
                self.tokens.need(&Token::Close, "')'")?;
                Ok(inner)
            }
            Token::Word(word) => {
                let from = self.tokens.wrong(format!("there is no function '{word}'"));
                self.tokens.take();
                if self.tokens.takes(&Token::Open) {
                    let (function, count) = Function::parse(&word).ok_or(from)?;
                    return self.call(function, count);
                }
                if self.tokens.takes(&Token::Slash) {
                    return self.lambda(&word);
                }
                if self.variables.last() == Some(&word) {
                    return Ok(Expr::Item);
                }
                known_name(&word, self.known).map(Expr::Property)
            }
            _ => Err(self
                .tokens
                .wrong("a property or a value is expected".into())),
        }
    }

    fn call(&mut self, function: Function, count: usize) -> Result<Expr, QueryError> {
        let mut arguments = Vec::with_capacity(count);
        for index in 0..count {
            if index > 0 {
                self.tokens.need(&Token::Comma, "','")?;
            }
            arguments.push(self.deeper(Self::operand)?);
        }
        self.tokens.need(&Token::Close, "')'")?;
        Ok(Expr::Call(function, arguments))
    }

    /// `list/any(x: condition)`, one inside of another no deeper than one.
    fn lambda(&mut self, word: &str) -> Result<Expr, QueryError> {
        let of = known_name(word, self.known)?;
        let every = match self.tokens.word("'any' or 'all'")?.to_lowercase().as_str() {
            "any" => false,
            "all" => true,
            _ => return Err(self.tokens.wrong("'any' or 'all' is expected".into())),
        };
        if !self.variables.is_empty() {
            return Err(self
                .tokens
                .wrong("'any' inside of 'any' is not supported".into()));
        }
        self.tokens.need(&Token::Open, "'('")?;
        let variable = self.tokens.word("a variable")?;
        self.tokens.need(&Token::Colon, "':'")?;
        self.variables.push(variable);
        let holds = self.deeper(Self::any_of);
        self.variables.pop();
        let holds = Box::new(holds?);
        self.tokens.need(&Token::Close, "')'")?;
        Ok(Expr::Some { of, every, holds })
    }
}

fn one_or(mut items: Vec<Expr>, several: impl FnOnce(Vec<Expr>) -> Expr) -> Expr {
    match (items.len(), items.pop()) {
        (1, Some(one)) => one,
        (_, last) => {
            items.extend(last);
            several(items)
        }
    }
}

impl Expr {
    fn holds(&self, record: &Value, item: Option<&Value>) -> bool {
        match self {
            Expr::Not(inner) => !inner.holds(record, item),
            Expr::And(items) => items.iter().all(|one| one.holds(record, item)),
            Expr::Or(items) => items.iter().any(|one| one.holds(record, item)),
            Expr::Compare(comparison, a, b) => {
                comparison.holds(&a.value(record, item), &b.value(record, item))
            }
            Expr::In(one, literals) => {
                let found = one.value(record, item);
                literals.iter().any(|literal| value::equal(literal, &found))
            }
            Expr::Some { of, every, holds } => {
                let items = value::member(record, of).and_then(Value::as_array);
                let mut items = items.into_iter().flatten().take(NAMES_MAX * NAMES_MAX);
                match every {
                    true => items.all(|item| holds.holds(record, Some(item))),
                    false => items.any(|item| holds.holds(record, Some(item))),
                }
            }
            Expr::Literal(_) | Expr::Property(_) | Expr::Item | Expr::Call(..) => {
                self.value(record, item) == Value::Bool(true)
            }
        }
    }

    fn value(&self, record: &Value, item: Option<&Value>) -> Value {
        match self {
            Expr::Literal(literal) => literal.clone(),
            Expr::Property(name) => value::member(record, name).cloned().unwrap_or_default(),
            Expr::Item => item.cloned().unwrap_or_default(),
            Expr::Call(function, arguments) => {
                let arguments: Vec<Value> = arguments
                    .iter()
                    .map(|one| one.value(record, item))
                    .collect();
                function.call(&arguments)
            }
            _ => self.holds(record, item).into(),
        }
    }
}
