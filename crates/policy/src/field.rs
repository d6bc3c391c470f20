//! Fields of a resource, as rules name them.

use std::borrow::Cow;

use serde_json::Value;

use crate::alias::{Alias, Aliases, Path, select, select_within};
use crate::json;

#[derive(Debug, Clone)]
pub enum Field {
    Type,
    Name,
    FullName,
    Kind,
    Location,
    Id,
    Tags,
    Tag(String),
    /// A member of the resource itself, such as `identity.type`.
    Plain(Path),
    Alias(Alias),
}

/// Members that rules may name without an alias.
const PLAIN: &[&str] = &[
    "identity",
    "sku",
    "plan",
    "zones",
    "managedBy",
    "extendedLocation",
    "apiVersion",
    "etag",
    "scope",
];

impl Field {
    pub fn parse(text: &str, aliases: &Aliases) -> Result<Field, String> {
        let folded = text.trim().to_ascii_lowercase();
        match folded.as_str() {
            "type" => return Ok(Field::Type),
            "name" => return Ok(Field::Name),
            "fullname" => return Ok(Field::FullName),
            "kind" => return Ok(Field::Kind),
            "location" => return Ok(Field::Location),
            "id" => return Ok(Field::Id),
            "tags" => return Ok(Field::Tags),
            "" => return Err("a field needs a name".into()),
            _ => {}
        }
        if folded.starts_with("tags.") || folded.starts_with("tags[") {
            return tag(text.trim()).map(Field::Tag);
        }
        let head = folded.split(['.', '[']).next().unwrap_or_default();
        let plain = PLAIN.iter().any(|known| known.eq_ignore_ascii_case(head));
        if plain && !folded.contains('/') {
            return Path::parse(text.trim()).map(Field::Plain);
        }
        aliases.find(text.trim()).map(Field::Alias)
    }

    /// Whether the field is a collection: conditions then hold for every element.
    pub fn is_list(&self) -> bool {
        match self {
            Field::Plain(path) => path.is_list(),
            Field::Alias(alias) => alias.is_list(),
            _ => false,
        }
    }

    /// The path into a resource of this type, for fields that have one.
    pub fn path(&self, resource_type: &str) -> Option<&Path> {
        self.path_at(resource_type, None)
    }

    /// The same, as the resource looks at an API version.
    pub fn path_at(&self, resource_type: &str, api_version: Option<&str>) -> Option<&Path> {
        match self {
            Field::Plain(path) => Some(path),
            Field::Alias(alias) => alias.path_at(resource_type, api_version),
            _ => None,
        }
    }

    /// What the field has in this resource, as it looks at an API version. A null is as good as missing.
    pub fn values<'v>(
        &self,
        resource: &'v Value,
        api_version: Option<&str>,
    ) -> Vec<Option<Cow<'v, Value>>> {
        let one = |value: Option<&'v Value>| vec![value.map(Cow::Borrowed)];
        let text = |text: String| vec![Some(Cow::Owned(Value::String(text)))];
        match self {
            Field::Type => match resource_type(resource) {
                kind if kind.is_empty() => vec![None],
                kind => text(kind.into_owned()),
            },
            Field::Name => full_name(resource).map_or(vec![None], |name| {
                text(name.rsplit('/').next().unwrap_or_default().to_owned())
            }),
            Field::FullName => full_name(resource).map_or(vec![None], text),
            Field::Kind => one(present(json::get(resource, "kind"))),
            Field::Location => one(present(json::get(resource, "location"))),
            Field::Id => one(present(json::get(resource, "id"))),
            Field::Tags => one(present(json::get(resource, "tags"))),
            Field::Tag(name) => {
                one(json::get(resource, "tags").and_then(|tags| present(json::get(tags, name))))
            }
            Field::Plain(path) => borrowed(select(&path.0, resource)),
            Field::Alias(alias) => match alias.path_at(&resource_type(resource), api_version) {
                Some(path) => borrowed(select(&path.0, resource)),
                None if alias.is_list() => Vec::new(),
                None => vec![None],
            },
        }
    }
}

/// What a path leads to, with one element each of the first lists.
pub fn within<'v>(path: &Path, resource: &'v Value, at: &[usize]) -> Vec<Option<Cow<'v, Value>>> {
    borrowed(select_within(&path.0, resource, at))
}

fn borrowed(values: Vec<Option<&Value>>) -> Vec<Option<Cow<'_, Value>>> {
    values
        .into_iter()
        .map(|value| present(value).map(Cow::Borrowed))
        .collect()
}

fn present(value: Option<&Value>) -> Option<&Value> {
    value.filter(|value| !value.is_null())
}

/// The name in `tags.x`, `tags[x]` and `tags['x']`, where `''` stands for one quote. A name that an
/// expression makes may be empty: no resource has such a tag.
fn tag(text: &str) -> Result<String, String> {
    let rest = &text["tags".len()..];
    let name = match rest.strip_prefix('.') {
        Some(name) => name.to_owned(),
        None => {
            let inner = rest
                .strip_prefix('[')
                .and_then(|inner| inner.strip_suffix(']'))
                .ok_or_else(|| format!("`{text}` lacks its closing bracket"))?;
            let quoted = inner
                .strip_prefix('\'')
                .and_then(|inner| inner.strip_suffix('\''));
            quoted.map_or_else(|| inner.to_owned(), |inner| inner.replace("''", "'"))
        }
    };
    Ok(name)
}

/// The type of a resource: its own word, or what its id says.
pub fn resource_type(resource: &Value) -> Cow<'_, str> {
    match json::text(resource, "type") {
        Some(kind) => Cow::Borrowed(kind),
        None => Cow::Owned(type_of_id(json::text(resource, "id").unwrap_or_default())),
    }
}

/// The type that an id names, or nothing.
pub fn type_of_id(id: &str) -> String {
    let segments: Vec<&str> = id.split('/').filter(|s| !s.is_empty()).collect();
    let provider = segments
        .iter()
        .rposition(|segment| segment.eq_ignore_ascii_case("providers"));
    match (provider, segments.len()) {
        (Some(at), many) if many > at + 2 => {
            let kinds = segments[at + 2..].iter().step_by(2);
            kinds.fold(segments[at + 1].to_owned(), |name, kind| {
                format!("{name}/{kind}")
            })
        }
        (None, 2) => "Microsoft.Resources/subscriptions".to_owned(),
        (None, 4) => "Microsoft.Resources/subscriptions/resourceGroups".to_owned(),
        _ => String::new(),
    }
}

/// The name with the names of the parents before it: `server/database`.
pub fn full_name(resource: &Value) -> Option<String> {
    let (name, id) = (json::text(resource, "name"), json::text(resource, "id"));
    full_name_of(name, id.unwrap_or_default())
}

/// The same, of a name and an id.
pub fn full_name_of(own: Option<&str>, id: &str) -> Option<String> {
    let segments: Vec<&str> = id.split('/').filter(|s| !s.is_empty()).collect();
    let provider = segments
        .iter()
        .rposition(|segment| segment.eq_ignore_ascii_case("providers"));
    if own.is_some_and(|own| own.contains('/')) {
        return own.map(str::to_owned);
    }
    match provider {
        Some(at) if segments.len() > at + 3 => {
            let names: Vec<&str> = segments[at + 3..].iter().step_by(2).copied().collect();
            Some(names.join("/"))
        }
        _ => own.or(segments.last().copied()).map(str::to_owned),
    }
}

/// A region without case and blanks: `East US 2` is `eastus2`.
pub fn location(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_whitespace())
        .collect::<String>()
        .to_lowercase()
}
