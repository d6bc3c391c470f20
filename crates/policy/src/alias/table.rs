//! How one alias is written: as Azure's tools describe it, and as a line of a table.
//!
//! A line has the type, the alias, its default path; then, where they are known, whether it is `Modifiable` or not (`None`),
//! and what it is at API versions: `path|version,version|Modifiable`, several with `;` between them.

use serde_json::Value;

use super::{Path, Place, Versioned};
use crate::json;

const MODIFIABLE: &str = "Modifiable";
const FIXED: &str = "None";

/// One alias of a provider list, or a path alone. Nothing, if no path is told.
pub(super) fn described(kind: Option<&str>, alias: &Value) -> Option<Result<Place, String>> {
    let paths = json::list(alias, "paths");
    let newest = || {
        let of = |path: &Value| {
            let versions = json::list(path, "apiVersions").iter();
            versions.filter_map(Value::as_str).max().map(str::to_owned)
        };
        let named = paths
            .iter()
            .filter(|path| json::text(path, "path").is_some());
        let newest = named.max_by_key(|path| of(path))?;
        json::text(newest, "path")
    };
    let default = alias
        .as_str()
        .or_else(|| json::text(alias, "defaultPath"))
        .or_else(|| json::text(alias, "path"))
        .or_else(newest)?;
    Some(of_paths(kind, default, alias, paths))
}

fn of_paths(
    kind: Option<&str>,
    default: &str,
    alias: &Value,
    paths: &[Value],
) -> Result<Place, String> {
    let mut place = Place::plain(kind.map(str::to_owned), Path::parse(default)?);
    place.modifiable = attributes(json::get(alias, "defaultMetadata"));
    for path in paths {
        let api_versions = json::list(path, "apiVersions").iter();
        let found = Versioned {
            api_versions: api_versions
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect(),
            path: match json::text(path, "path") {
                Some(own) => Path::parse(own)?,
                None => place.path.clone(),
            },
            modifiable: attributes(json::get(path, "metadata")),
        };
        add(&mut place, found);
    }
    Ok(place)
}

/// Only what is otherwise than by default need be known.
fn add(place: &mut Place, found: Versioned) {
    let same = found.path == place.path
        && found
            .modifiable
            .is_none_or(|own| Some(own) == place.modifiable);
    if !same && !found.api_versions.is_empty() {
        place.versions.push(found);
    }
}

fn attributes(metadata: Option<&Value>) -> Option<bool> {
    modifiable(json::text(metadata?, "attributes")?)
}

fn modifiable(word: &str) -> Option<bool> {
    let is = |known: &str| {
        word.split(',')
            .any(|one| one.trim().eq_ignore_ascii_case(known))
    };
    match () {
        () if is(MODIFIABLE) => Some(true),
        () if is(FIXED) => Some(false),
        () => None,
    }
}

/// The place that a line tells. Nothing, if its path is none that can be walked.
pub(super) fn place(kind: &str, path: &str, more: &[&str]) -> Option<Place> {
    let mut place = Place::plain(Some(kind.to_owned()), Path::parse(path).ok()?);
    place.modifiable = more.first().and_then(|word| modifiable(word));
    let versions = more.get(1).copied().unwrap_or_default();
    for one in versions.split(';').filter(|one| !one.is_empty()) {
        let mut parts = one.split('|');
        let path = Path::parse(parts.next()?).ok()?;
        let api_versions = parts.next().unwrap_or_default().split(',');
        let found = Versioned {
            api_versions: api_versions.map(str::to_owned).collect(),
            path,
            modifiable: parts.next().and_then(modifiable),
        };
        add(&mut place, found);
    }
    Some(place)
}

/// A line of a table for one alias of a provider list. Nothing, if its path is none that can be walked, or if a word of it
/// cannot stand in a line.
pub fn line(kind: &str, alias: &Value) -> Option<String> {
    let name = json::text(alias, "name")?;
    let place = described(Some(kind), alias)?.ok()?;
    let clean = |text: &str| !text.is_empty() && !text.contains(['\t', '\n', '\r', '|', ';']);
    let named = place.versions.iter().flat_map(|one| &one.api_versions);
    if !clean(kind) || !clean(name) || !named.into_iter().all(|version| clean(version)) {
        return None;
    }
    let word = |modifiable: Option<bool>| match modifiable {
        Some(true) => MODIFIABLE,
        Some(false) => FIXED,
        None => "",
    };
    let versions = place.versions.iter().map(|one| {
        let numbers = one.api_versions.join(",");
        let text = format!("{}|{numbers}|{}", one.path, word(one.modifiable));
        text.trim_end_matches('|').to_owned()
    });
    let versions = versions.collect::<Vec<String>>().join(";");
    let text = [
        kind,
        name,
        &place.path.to_string(),
        word(place.modifiable),
        &versions,
    ]
    .join("\t");
    Some(text.trim_end_matches('\t').to_owned())
}
