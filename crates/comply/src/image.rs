//! The computed aliases of machines: which image a machine runs, and what has become of that image since.
//!
//! Azure's language cannot look up `latest`; here it is looked up before the rule is asked. Pure: what versions there
//! are is given.

use catalog::Resource;
use jiff::Timestamp;
use policy::json::{get, text};
use serde_json::{Map, Value, json};
use wire::{ProvisioningState, ResourceId, VersionNumber};

use crate::kinds;

/// This tag on a version says that it must not be used any more; its value says why.
pub(crate) const REVOKED_TAG: &str = "bullion-revoked";
const DAY_SECONDS: i64 = 24 * 3600;

/// The versions of one image definition.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Image {
    /// By number.
    pub versions: Vec<Version>,
    /// Of the definition itself.
    pub end_of_life: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Version {
    pub number: VersionNumber,
    /// `latest` may mean it.
    pub in_latest: bool,
    pub published: Option<String>,
    pub end_of_life: Option<String>,
    pub revoked: Option<String>,
}

/// What a machine is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reference {
    pub definition: ResourceId,
    /// What it runs, where that is known or named.
    pub exact: Option<VersionNumber>,
}

impl Version {
    pub fn of(resource: &Resource) -> Option<Version> {
        let profile = get(&resource.properties, "publishingProfile");
        let member = |name: &str| profile.and_then(|profile| get(profile, name));
        let date = |name: &str| member(name).and_then(Value::as_str).map(str::to_owned);
        let hidden = member("excludeFromLatest").and_then(Value::as_bool) == Some(true);
        let revoked = resource
            .tags
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(REVOKED_TAG))
            .map(|(_, why)| why.clone())
            .filter(|why| !why.eq_ignore_ascii_case("false"));
        Some(Version {
            number: resource.id.name().parse().ok()?,
            in_latest: resource.state == ProvisioningState::Succeeded && !hidden,
            published: date("publishedDate"),
            end_of_life: date("endOfLifeDate"),
            revoked,
        })
    }
}

impl Image {
    pub fn new(definition: Option<&Resource>, versions: &[Resource]) -> Image {
        let mut versions: Vec<Version> = versions.iter().filter_map(Version::of).collect();
        versions.sort_by_key(|version| version.number);
        let end = definition.and_then(|one| text(&one.properties, "endOfLifeDate"));
        Image {
            versions,
            end_of_life: end.map(str::to_owned),
        }
    }

    pub fn latest(&self) -> Option<&Version> {
        self.versions.iter().rfind(|version| version.in_latest)
    }

    fn find(&self, number: VersionNumber) -> Option<&Version> {
        let at = self
            .versions
            .binary_search_by_key(&number, |version| version.number);
        at.ok().map(|at| &self.versions[at])
    }

    /// Versions after this one that `latest` may mean.
    fn after(&self, number: VersionNumber) -> usize {
        let later = self.versions.iter().rev();
        later
            .take_while(|version| version.number > number)
            .filter(|version| version.in_latest)
            .count()
    }
}

/// The image that a machine names, if it names one of a gallery.
pub(crate) fn reference(machine: &Value) -> Option<Reference> {
    let properties = get(machine, "properties")?;
    let image = get(get(properties, "storageProfile")?, "imageReference")?;
    let id = ResourceId::parse(text(image, "id")?).ok()?;
    let facts = get(properties, "bullion");
    let exact = text(image, "exactVersion")
        .or_else(|| facts.and_then(|facts| text(facts, "exactVersion")))
        .and_then(|exact| exact.parse().ok());
    let kind = id.resource_type();
    if kind.is(kinds::VERSIONS) {
        let exact = exact.or_else(|| id.name().parse().ok());
        let definition = id.parent()?;
        return Some(Reference { definition, exact });
    }
    kind.is(kinds::IMAGES).then_some(Reference {
        definition: id,
        exact,
    })
}

/// The aliases' values. A fact that is not known is not there: rules say themselves what that means.
pub(crate) fn facts(machine: &Value, image: &Image, now: Timestamp) -> Value {
    let Some(reference) = reference(machine) else {
        return json!({});
    };
    let latest = image.latest();
    // Before a machine is made, it is judged by what it would be made from.
    let exact = reference
        .exact
        .or_else(|| latest.map(|latest| latest.number));
    let version = exact.and_then(|exact| image.find(exact));
    let mut facts = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            facts.insert(name.to_owned(), value);
        }
    };
    let gallery = reference.definition.parent();
    put(
        "sourceGalleryId",
        gallery.map(|gallery| gallery.to_string().into()),
    );
    put(
        "definitionId",
        Some(reference.definition.to_string().into()),
    );
    put("exactVersion", exact.map(|exact| exact.to_string().into()));
    put(
        "latestVersion",
        latest.map(|latest| latest.number.to_string().into()),
    );
    put(
        "versionsBehind",
        version.map(|own| image.after(own.number).into()),
    );
    let published = version.and_then(|own| own.published.clone());
    put(
        "ageDays",
        published
            .as_deref()
            .and_then(|date| age(date, now))
            .map(Value::from),
    );
    put("publishedDate", published.map(Value::from));
    put("revoked", version.map(|own| own.revoked.is_some().into()));
    put(
        "revokedReason",
        version.and_then(|own| own.revoked.clone()).map(Value::from),
    );
    let end = version
        .and_then(|own| own.end_of_life.as_ref())
        .or(image.end_of_life.as_ref());
    put("endOfLifeDate", end.map(|end| end.clone().into()));
    let properties = get(machine, "properties");
    let matches = properties
        .and_then(|properties| get(properties, "bullion"))
        .and_then(|facts| get(facts, "tattooMatches"));
    put(
        "tattooMatches",
        matches.filter(|matches| matches.is_boolean()).cloned(),
    );
    Value::Object(facts)
}

/// Whole days since a date; 0 for one that is still to come.
fn age(published: &str, now: Timestamp) -> Option<i64> {
    let published = policy::expr::instant(published)?;
    let seconds = now.as_second().saturating_sub(published.as_second());
    Some(seconds.max(0) / DAY_SECONDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFINITION: &str = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/rg/providers/Microsoft.Compute/galleries/g/images/d";

    fn version(number: &str, in_latest: bool) -> Version {
        Version {
            number: number.parse().unwrap(),
            in_latest,
            published: Some("2026-11-01T00:00:00Z".into()),
            end_of_life: None,
            revoked: (number == "1.0.3").then(|| "leaks a key".into()),
        }
    }

    /// Facts of a machine that names `id` and runs `exact`; `-` in `versions` marks one that `latest` does not mean.
    #[track_caller]
    fn check(id: &str, exact: Option<&str>, versions: &[&str], expected: &Value) {
        let image = Image {
            versions: versions
                .iter()
                .map(|text| version(text.trim_start_matches('-'), !text.starts_with('-')))
                .collect(),
            end_of_life: Some("2027-01-01".into()),
        };
        let machine = json!({ "properties": {
            "storageProfile": { "imageReference": { "id": id, "exactVersion": exact } },
            "bullion": { "tattooMatches": true },
        }});
        let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        let facts = facts(&machine, &image, now);
        for (name, value) in expected.as_object().unwrap() {
            assert_eq!(
                facts.get(name).unwrap_or(&Value::Null),
                value,
                "{name} in {facts}"
            );
        }
    }

    #[test]
    fn versions_are_counted_by_number() {
        let one = format!("{DEFINITION}/versions/1.0.0");
        let expected = json!({ "exactVersion": "1.0.0", "latestVersion": "1.0.10", "versionsBehind": 2,
            "ageDays": 20, "revoked": false, "tattooMatches": true, "endOfLifeDate": "2027-01-01" });
        check(&one, None, &["1.0.0", "1.0.9", "1.0.10"], &expected);
        let hidden = json!({ "latestVersion": "1.0.1", "versionsBehind": 1 });
        check(&one, None, &["1.0.0", "1.0.1", "-1.0.2"], &hidden);
        let revoked =
            json!({ "revoked": true, "revokedReason": "leaks a key", "versionsBehind": 0 });
        check(DEFINITION, Some("1.0.3"), &["1.0.0", "1.0.3"], &revoked);
    }

    #[test]
    fn a_machine_to_be_made_counts_as_what_latest_means_now() {
        let expected = json!({ "exactVersion": "1.0.1", "versionsBehind": 0 });
        check(DEFINITION, None, &["1.0.0", "1.0.1"], &expected);
    }

    #[test]
    fn what_is_not_known_is_not_there() {
        let gone = json!({ "exactVersion": "1.0.0", "latestVersion": "1.0.1", "versionsBehind": null,
            "ageDays": null, "revoked": null });
        check(DEFINITION, Some("1.0.0"), &["1.0.1"], &gone);
        let none = json!({ "latestVersion": null, "exactVersion": null, "versionsBehind": null });
        check(DEFINITION, None, &[], &none);
        let foreign = json!({ "sourceGalleryId": null, "definitionId": null });
        check("/subscriptions/x", None, &["1.0.0"], &foreign);
        check("no id", None, &["1.0.0"], &foreign);
    }
}
