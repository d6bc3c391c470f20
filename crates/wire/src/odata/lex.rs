//! Text into tokens.

use serde_json::Value;

use super::{QueryError, TEXT_BYTES_MAX, TOKENS_MAX};

#[derive(Debug, Clone, PartialEq)]
pub enum Token {
    /// A property, a keyword, a function.
    Word(String),
    Literal(Value),
    Open,
    Close,
    Comma,
    Slash,
    Colon,
    End,
}

/// Tokens with the place, in characters from 1, where each starts.
pub struct Tokens {
    tokens: Vec<(usize, Token)>,
    at: usize,
}

impl Tokens {
    pub fn of(text: &str) -> Result<Tokens, QueryError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(QueryError::TooLong);
        }
        let chars: Vec<char> = text.chars().collect();
        let mut tokens = Vec::new();
        let mut at = 0;
        while at < chars.len() {
            if chars[at].is_whitespace() {
                at += 1;
                continue;
            }
            if tokens.len() == TOKENS_MAX {
                return Err(QueryError::TooLong);
            }
            let start = at;
            let token = next(&chars, &mut at)?;
            tokens.push((start + 1, token));
        }
        tokens.push((chars.len() + 1, Token::End));
        Ok(Tokens { tokens, at: 0 })
    }

    fn current(&self) -> &(usize, Token) {
        // The last token is the end, and nothing steps over it.
        &self.tokens[self.at.min(self.tokens.len() - 1)]
    }

    pub fn peek(&self) -> &Token {
        &self.current().1
    }

    pub fn take(&mut self) -> Token {
        let token = self.peek().clone();
        if token != Token::End {
            self.at += 1;
        }
        token
    }

    pub fn takes(&mut self, token: &Token) -> bool {
        let fits = self.peek() == token;
        if fits {
            self.take();
        }
        fits
    }

    pub fn takes_word(&mut self, word: &str) -> bool {
        let fits = matches!(self.peek(), Token::Word(found) if found.eq_ignore_ascii_case(word));
        if fits {
            self.take();
        }
        fits
    }

    pub fn need(&mut self, token: &Token, what: &str) -> Result<(), QueryError> {
        match self.takes(token) {
            true => Ok(()),
            false => Err(self.wrong(format!("{what} is expected"))),
        }
    }

    pub fn word(&mut self, what: &str) -> Result<String, QueryError> {
        if let Token::Word(word) = self.peek() {
            let word = word.clone();
            self.take();
            return Ok(word);
        }
        Err(self.wrong(format!("{what} is expected")))
    }

    pub fn wrong(&self, what: String) -> QueryError {
        QueryError::Syntax {
            at: self.current().0,
            what,
        }
    }
}

fn next(chars: &[char], at: &mut usize) -> Result<Token, QueryError> {
    let start = *at;
    let single = match chars[start] {
        '(' => Some(Token::Open),
        ')' => Some(Token::Close),
        ',' => Some(Token::Comma),
        '/' => Some(Token::Slash),
        ':' => Some(Token::Colon),
        _ => None,
    };
    if let Some(token) = single {
        *at += 1;
        return Ok(token);
    }
    if chars[start] == '\'' {
        return quoted(chars, at).map(|text| Token::Literal(text.into()));
    }
    let wordy = |c: char| c.is_alphanumeric() || "_.$@-+".contains(c);
    // Inside of a number or a time a colon is part of it.
    let number = chars[start].is_ascii_digit() || chars[start] == '-';
    while *at < chars.len() && (wordy(chars[*at]) || number && chars[*at] == ':') {
        *at += 1;
    }
    let word: String = chars[start..*at].iter().collect();
    if word.is_empty() {
        let what = format!("'{}' is not expected", chars[start]);
        return Err(QueryError::Syntax {
            at: start + 1,
            what,
        });
    }
    // datetime'2026-01-01T00:00:00Z', as version 2 of OData writes times.
    let typed = ["datetime", "datetimeoffset", "guid"];
    if *at < chars.len()
        && chars[*at] == '\''
        && typed.iter().any(|name| name.eq_ignore_ascii_case(&word))
    {
        return quoted(chars, at).map(|text| Token::Literal(text.into()));
    }
    literal(word, number, start)
}

fn literal(word: String, number: bool, start: usize) -> Result<Token, QueryError> {
    match word.to_lowercase().as_str() {
        "true" => return Ok(Token::Literal(true.into())),
        "false" => return Ok(Token::Literal(false.into())),
        "null" => return Ok(Token::Literal(Value::Null)),
        _ => {}
    }
    if !number {
        return Ok(Token::Word(word));
    }
    if let Ok(number) = word.parse::<i64>() {
        return Ok(Token::Literal(number.into()));
    }
    if let Some(number) = word.parse().ok().and_then(serde_json::Number::from_f64) {
        return Ok(Token::Literal(Value::Number(number)));
    }
    let time = word.parse::<jiff::Timestamp>().is_ok() || word.parse::<jiff::civil::Date>().is_ok();
    let id = word.parse::<uuid::Uuid>().is_ok();
    if time || id {
        return Ok(Token::Literal(word.into()));
    }
    let what = format!("'{word}' is no number and no time");
    Err(QueryError::Syntax {
        at: start + 1,
        what,
    })
}

/// A text in quotes, in which two quotes are one.
fn quoted(chars: &[char], at: &mut usize) -> Result<String, QueryError> {
    let start = *at;
    let mut text = String::new();
    *at += 1;
    while *at < chars.len() {
        let c = chars[*at];
        *at += 1;
        if c != '\'' {
            text.push(c);
        } else if chars.get(*at) == Some(&'\'') {
            text.push('\'');
            *at += 1;
        } else {
            return Ok(text);
        }
    }
    Err(QueryError::Syntax {
        at: start + 1,
        what: "the quote does not end".into(),
    })
}
