//! Functions of text.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::RESULT_CHARS_MAX;
use super::numbers::whole;

/// The name space of `guid()` in Resource Manager templates.
const GUID_NAMESPACE: Uuid = Uuid::from_u128(0x11fb06fb_712d_4ddd_98c7_e71bbd588830);
/// Bytes that a text of the longest kind may have, with some to spare: nothing larger is made at all.
const BYTES_MAX: usize = 8 * RESULT_CHARS_MAX;
/// Characters of a `uniqueString`.
const UNIQUE_LENGTH: usize = 13;

pub fn text(value: &Value) -> Result<&str, String> {
    match value {
        Value::String(text) => Ok(text),
        Value::Null => Err("expected text, found null".into()),
        Value::Bool(_) => Err("expected text, found a truth value".into()),
        Value::Number(_) => Err("expected text, found a number".into()),
        Value::Array(_) => Err("expected text, found a list".into()),
        Value::Object(_) => Err("expected text, found an object".into()),
    }
}

/// A text within the limit.
pub fn made(text: String) -> Result<Value, String> {
    // Most texts are short, and their characters need not be counted.
    match text.len() <= RESULT_CHARS_MAX || text.chars().count() <= RESULT_CHARS_MAX {
        true => Ok(Value::String(text)),
        false => Err(format!("a text has at most {RESULT_CHARS_MAX} characters")),
    }
}

/// As `string()` and `format()` print a value.
pub fn printed(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(value) => if *value { "True" } else { "False" }.to_owned(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

pub fn string(arguments: &[Value]) -> Result<Value, String> {
    made(printed(&arguments[0]))
}

pub fn to_lower(arguments: &[Value]) -> Result<Value, String> {
    made(text(&arguments[0])?.to_lowercase())
}

pub fn to_upper(arguments: &[Value]) -> Result<Value, String> {
    made(text(&arguments[0])?.to_uppercase())
}

pub fn trim(arguments: &[Value]) -> Result<Value, String> {
    made(text(&arguments[0])?.trim().to_owned())
}

pub fn substring(arguments: &[Value]) -> Result<Value, String> {
    let chars: Vec<char> = text(&arguments[0])?.chars().collect();
    let start = usize::try_from(whole(&arguments[1])?).ok();
    let start = start.filter(|start| *start <= chars.len());
    let start = start.ok_or("`substring` starts outside of the text")?;
    let length = match arguments.get(2) {
        None => chars.len() - start,
        Some(length) => usize::try_from(whole(length)?)
            .ok()
            .filter(|length| *length <= chars.len() - start)
            .ok_or("`substring` ends outside of the text")?,
    };
    Ok(Value::String(chars[start..start + length].iter().collect()))
}

pub fn replace(arguments: &[Value]) -> Result<Value, String> {
    let (whole, old, new) = (
        text(&arguments[0])?,
        text(&arguments[1])?,
        text(&arguments[2])?,
    );
    if old.is_empty() {
        return Err("`replace` needs a text to look for".into());
    }
    let grown = whole.matches(old).count().saturating_mul(new.len());
    if grown.saturating_add(whole.len()) > BYTES_MAX {
        return Err(format!("a text has at most {RESULT_CHARS_MAX} characters"));
    }
    made(whole.replace(old, new))
}

pub fn split(arguments: &[Value]) -> Result<Value, String> {
    let separators: Vec<&str> = match &arguments[1] {
        Value::Array(items) => items.iter().map(text).collect::<Result<_, _>>()?,
        other => vec![text(other)?],
    };
    let mut parts = vec![text(&arguments[0])?.to_owned()];
    for separator in separators.into_iter().filter(|s| !s.is_empty()) {
        parts = parts
            .iter()
            .flat_map(|part| part.split(separator).map(str::to_owned))
            .collect();
    }
    Ok(parts.into())
}

pub fn join(arguments: &[Value]) -> Result<Value, String> {
    let Value::Array(items) = &arguments[0] else {
        return Err("`join` takes a list".into());
    };
    let delimiter = text(&arguments[1])?;
    if items.len().saturating_mul(delimiter.len()) > BYTES_MAX {
        return Err(format!("a text has at most {RESULT_CHARS_MAX} characters"));
    }
    let parts: Vec<String> = items.iter().map(printed).collect();
    made(parts.join(delimiter))
}

pub fn starts_with(arguments: &[Value]) -> Result<Value, String> {
    let (whole, part) = (text(&arguments[0])?, text(&arguments[1])?);
    Ok(Value::Bool(
        whole.to_lowercase().starts_with(&part.to_lowercase()),
    ))
}

pub fn ends_with(arguments: &[Value]) -> Result<Value, String> {
    let (whole, part) = (text(&arguments[0])?, text(&arguments[1])?);
    Ok(Value::Bool(
        whole.to_lowercase().ends_with(&part.to_lowercase()),
    ))
}

pub fn pad_left(arguments: &[Value]) -> Result<Value, String> {
    let value = printed(&arguments[0]);
    let length = usize::try_from(whole(&arguments[1])?)
        .ok()
        .filter(|length| *length <= RESULT_CHARS_MAX)
        .ok_or("`padLeft` has no such length")?;
    let pad = match arguments.get(2) {
        None => ' ',
        Some(pad) => {
            let mut chars = text(pad)?.chars();
            match (chars.next(), chars.next()) {
                (Some(pad), None) => pad,
                _ => return Err("`padLeft` fills with one character".into()),
            }
        }
    };
    let missing = length.saturating_sub(value.chars().count());
    made(
        std::iter::repeat_n(pad, missing)
            .chain(value.chars())
            .collect(),
    )
}

pub fn format(arguments: &[Value]) -> Result<Value, String> {
    let template = text(&arguments[0])?;
    let mut output = String::new();
    let mut rest = template;
    while let Some(at) = rest.find(['{', '}']) {
        output.push_str(&rest[..at]);
        let tail = &rest[at..];
        if tail.starts_with("{{") || tail.starts_with("}}") {
            output.push_str(&tail[..1]);
            rest = &tail[2..];
            continue;
        }
        let end = tail
            .starts_with('{')
            .then(|| tail.find('}'))
            .flatten()
            .ok_or("`format` has a brace without its pair")?;
        output.push_str(&placed(&tail[1..end], &arguments[1..])?);
        if output.len() > BYTES_MAX {
            return Err(format!("a text has at most {RESULT_CHARS_MAX} characters"));
        }
        rest = &tail[end + 1..];
    }
    output.push_str(rest);
    made(output)
}

/// One placeholder of `format`: `0`, `0:D3`, `0:N0`.
fn placed(placeholder: &str, values: &[Value]) -> Result<String, String> {
    let (index, how) = placeholder.split_once(':').unwrap_or((placeholder, ""));
    let value = index
        .trim()
        .parse::<usize>()
        .ok()
        .and_then(|index| values.get(index))
        .ok_or_else(|| format!("`format` has no value for `{{{placeholder}}}`"))?;
    let digits = how
        .strip_prefix(['D', 'd'])
        .and_then(|digits| digits.parse::<usize>().ok())
        .filter(|digits| *digits <= 100);
    Ok(match (digits, value.as_i64()) {
        (Some(digits), Some(number)) => format!("{number:0digits$}"),
        _ => printed(value),
    })
}

fn joined(arguments: &[Value]) -> Result<String, String> {
    let parts: Vec<&str> = arguments.iter().map(text).collect::<Result<_, _>>()?;
    Ok(parts.join("-"))
}

pub fn guid(arguments: &[Value]) -> Result<Value, String> {
    let name = joined(arguments)?;
    made(Uuid::new_v5(&GUID_NAMESPACE, name.as_bytes()).to_string())
}

/// Thirteen characters that depend on nothing but the arguments. Azure's own hash is not published,
/// so the characters are not Azure's.
pub fn unique_string(arguments: &[Value]) -> Result<Value, String> {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let digest = Sha256::digest(joined(arguments)?.as_bytes());
    let characters = digest.iter().take(UNIQUE_LENGTH);
    made(
        characters
            .map(|byte| char::from(ALPHABET[usize::from(byte % 32)]))
            .collect(),
    )
}

pub fn base64(arguments: &[Value]) -> Result<Value, String> {
    made(STANDARD.encode(text(&arguments[0])?))
}

fn decoded(encoded: &str) -> Result<String, String> {
    let bytes = STANDARD
        .decode(encoded)
        .map_err(|_| "the text is no base64")?;
    String::from_utf8(bytes).map_err(|_| "the base64 holds no text".into())
}

pub fn base64_to_string(arguments: &[Value]) -> Result<Value, String> {
    made(decoded(text(&arguments[0])?)?)
}

pub fn base64_to_json(arguments: &[Value]) -> Result<Value, String> {
    crate::json::parse(&decoded(text(&arguments[0])?)?).map_err(|error| error.to_string())
}

pub fn data_uri(arguments: &[Value]) -> Result<Value, String> {
    let encoded = STANDARD.encode(text(&arguments[0])?);
    made(format!("data:text/plain;charset=utf8;base64,{encoded}"))
}

pub fn data_uri_to_string(arguments: &[Value]) -> Result<Value, String> {
    let uri = text(&arguments[0])?;
    let (head, data) = uri
        .strip_prefix("data:")
        .and_then(|rest| rest.split_once(','))
        .ok_or("the text is no data URI")?;
    match head.ends_with(";base64") {
        true => made(decoded(data)?),
        false => made(unescaped(data)?),
    }
}

pub fn uri(arguments: &[Value]) -> Result<Value, String> {
    let (base, relative) = (text(&arguments[0])?, text(&arguments[1])?);
    if relative.contains("://") {
        return made(relative.to_owned());
    }
    let host = base.find("://").map_or(0, |at| at + 3);
    let path = base[host..].find('/').map(|at| host + at);
    let kept = match (path, relative.starts_with('/')) {
        (Some(path), true) => &base[..path],
        (Some(_), false) => &base[..=base.rfind('/').unwrap_or(0)],
        (None, true) => base,
        (None, false) => return made(format!("{base}/{relative}")),
    };
    made(format!("{kept}{relative}"))
}

pub fn uri_component(arguments: &[Value]) -> Result<Value, String> {
    let mut output = String::new();
    for byte in text(&arguments[0])?.bytes() {
        match byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            true => output.push(char::from(byte)),
            false => output.push_str(&format!("%{byte:02X}")),
        }
    }
    made(output)
}

fn unescaped(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let escaped = (*first == b'%')
            .then(|| tail.get(..2))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8(bytes).map_err(|_| "the escapes hold no text".into())
}

pub fn uri_component_to_string(arguments: &[Value]) -> Result<Value, String> {
    made(unescaped(text(&arguments[0])?)?)
}
