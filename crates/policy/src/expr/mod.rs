//! Template expressions: `[concat('a', parameters('b'))]`, parsed once into a tree.
//!
//! Which functions exist and how many arguments they take is settled here, so that a misspelled name
//! is refused when the definition is compiled. Values are the evaluator's business.

pub mod compare;
mod dates;
mod functions;
mod ip;
pub mod lists;
mod numbers;
mod texts;

use serde_json::{Number, Value};

pub use compare::{Ordered, equal, order};
pub use dates::{instant, render as render_instant};
pub use functions::{Function, Need, function};

/// The longest expression, as in Azure.
pub const EXPRESSION_BYTES_MAX: usize = 81_920;
/// Arguments of one call, as in Azure.
pub const ARGUMENTS_MAX: usize = 128;
/// Deepest nesting of calls in one expression.
pub const EXPRESSION_DEPTH_MAX: usize = 64;
/// The largest text, in characters, that a function may make, as in Azure.
pub const RESULT_CHARS_MAX: usize = 131_072;

#[derive(Debug, Clone)]
pub enum Expr {
    Literal(Value),
    Call(&'static Function, Vec<Expr>),
    /// `base.name` and `base[index]`; what a context function does not have is null and no error.
    Member {
        base: Box<Expr>,
        key: Box<Expr>,
        lenient: bool,
    },
}

/// The expression in a text, if it is one: `[…]`, but not `[[…`, which stands for the text `[…`.
pub fn body(text: &str) -> Option<&str> {
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    (!text.starts_with("[[")).then_some(inner)
}

/// A text that is no expression, as it is meant.
pub fn unescape(text: &str) -> &str {
    match text.starts_with("[[") {
        true => &text[1..],
        false => text,
    }
}

/// Parses what stands between the brackets.
pub fn parse(text: &str) -> Result<Expr, String> {
    if text.len() > EXPRESSION_BYTES_MAX {
        return Err(format!(
            "an expression has at most {EXPRESSION_BYTES_MAX} bytes"
        ));
    }
    let mut parser = Parser { text, at: 0 };
    let expr = parser.expression(0)?;
    parser.blanks();
    match parser.rest().is_empty() {
        true => Ok(expr),
        false => Err(format!(
            "`{}` at character {} of the expression is out of place",
            parser.rest().chars().next().unwrap_or(' '),
            parser.at + 1
        )),
    }
}

impl Expr {
    /// Every call in the tree, outermost first.
    pub fn calls<'e>(&'e self, see: &mut dyn FnMut(&'static Function, &'e [Expr])) {
        match self {
            Expr::Literal(_) => {}
            Expr::Call(function, arguments) => {
                see(function, arguments);
                for argument in arguments {
                    argument.calls(see);
                }
            }
            Expr::Member { base, key, .. } => {
                base.calls(see);
                key.calls(see);
            }
        }
    }

    /// Whether the value is an answer of the surroundings, whose members may be missing.
    fn is_context(&self) -> bool {
        match self {
            Expr::Literal(_) => false,
            Expr::Call(function, _) => function.need == Need::Context,
            Expr::Member { lenient, .. } => *lenient,
        }
    }
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
}

impl Parser<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn blanks(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
    }

    fn take(&mut self, wanted: char) -> bool {
        self.blanks();
        let found = self.rest().starts_with(wanted);
        self.at += if found { wanted.len_utf8() } else { 0 };
        found
    }

    fn expression(&mut self, depth: usize) -> Result<Expr, String> {
        if depth > EXPRESSION_DEPTH_MAX {
            return Err(format!(
                "calls are nested more than {EXPRESSION_DEPTH_MAX} deep"
            ));
        }
        let mut expr = self.primary(depth)?;
        let mut members = 0;
        loop {
            let key = if self.take('.') {
                Expr::Literal(Value::String(self.word()?))
            } else if self.take('[') {
                let key = self.expression(depth + 1)?;
                if !self.take(']') {
                    return Err("expected `]`".into());
                }
                key
            } else {
                return Ok(expr);
            };
            members += 1;
            if members > EXPRESSION_DEPTH_MAX {
                return Err(format!(
                    "members are nested more than {EXPRESSION_DEPTH_MAX} deep"
                ));
            }
            let lenient = expr.is_context();
            expr = Expr::Member {
                base: Box::new(expr),
                key: Box::new(key),
                lenient,
            };
        }
    }

    fn primary(&mut self, depth: usize) -> Result<Expr, String> {
        self.blanks();
        match self.rest().chars().next() {
            None => Err("the expression ends too early".into()),
            Some('\'') => Ok(Expr::Literal(Value::String(self.quoted()?))),
            Some(c) if c.is_ascii_digit() || c == '-' || c == '+' => self.number(),
            Some(_) => self.call(depth),
        }
    }

    fn quoted(&mut self) -> Result<String, String> {
        let mut text = String::new();
        let mut chars = self.rest()[1..].char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            if c != '\'' {
                text.push(c);
            } else if chars.peek().is_some_and(|(_, next)| *next == '\'') {
                chars.next();
                text.push('\'');
            } else {
                self.at += at + 2;
                return Ok(text);
            }
        }
        Err("a text in quotes does not end".into())
    }

    fn number(&mut self) -> Result<Expr, String> {
        let rest = self.rest();
        let end = rest
            .char_indices()
            .skip(1)
            .find(|(_, c)| !(c.is_ascii_digit() || *c == '.'))
            .map_or(rest.len(), |(at, _)| at);
        let token = rest[..end].trim_start_matches('+').to_owned();
        let number: Number = token
            .parse()
            .map_err(|_| format!("`{token}` is no number"))?;
        self.at += end;
        Ok(Expr::Literal(Value::Number(number)))
    }

    fn word(&mut self) -> Result<String, String> {
        self.blanks();
        let rest = self.rest();
        let end = rest
            .char_indices()
            .find(|(_, c)| !(c.is_alphanumeric() || *c == '_' || *c == '$'))
            .map_or(rest.len(), |(at, _)| at);
        if end == 0 {
            return Err(match rest.chars().next() {
                Some(c) => format!("expected a name, found `{c}`"),
                None => "the expression ends too early".into(),
            });
        }
        let word = rest[..end].to_owned();
        self.at += end;
        Ok(word)
    }

    fn call(&mut self, depth: usize) -> Result<Expr, String> {
        let name = self.word()?;
        if !self.take('(') {
            return match name.to_ascii_lowercase().as_str() {
                "true" => Ok(Expr::Literal(Value::Bool(true))),
                "false" => Ok(Expr::Literal(Value::Bool(false))),
                "null" => Ok(Expr::Literal(Value::Null)),
                _ => Err(format!("expected `(` after `{name}`")),
            };
        }
        let mut arguments = Vec::new();
        if !self.take(')') {
            loop {
                arguments.push(self.expression(depth + 1)?);
                if self.take(')') {
                    break;
                }
                if !self.take(',') {
                    return Err(format!("expected `,` or `)` in the call of `{name}`"));
                }
            }
        }
        let function = function(&name)?;
        function.check_arguments(arguments.len())?;
        Ok(Expr::Call(function, arguments))
    }
}
