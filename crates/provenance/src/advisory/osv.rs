//! Advisories in OSV's JSON (<https://ossf.github.io/osv-schema/>), as osv.dev exports them. Ranges of Git commits and
//! ecosystems other than Linux distributions that have Debian's packages concern no package here and are passed over.

use serde::Deserialize;

use super::{Advisory, AffectedPackage, Named, Range, Until};
use crate::error::{ReadError, text};
use crate::packages::Version;

const BYTES_MAX: usize = 8 << 20;
const AFFECTED_MAX: usize = 10_000;
const EVENTS_MAX: usize = 1_000;
const WHAT: &str = "the OSV advisory";

#[derive(Deserialize)]
struct Record {
    id: String,
    #[serde(default)]
    aliases: Vec<String>,
    /// Names of the flaw in other ecosystems; Debian's records have the CVE here.
    #[serde(default)]
    upstream: Vec<String>,
    #[serde(default)]
    summary: String,
    #[serde(default)]
    details: String,
    withdrawn: Option<String>,
    #[serde(default)]
    severity: Vec<Severity>,
    #[serde(default)]
    affected: Vec<Affected>,
}

#[derive(Deserialize)]
struct Severity {
    score: String,
}

#[derive(Deserialize)]
struct Affected {
    package: Option<PackageName>,
    #[serde(default)]
    ranges: Vec<RangeRecord>,
    #[serde(default)]
    versions: Vec<String>,
}

#[derive(Deserialize)]
struct PackageName {
    ecosystem: String,
    name: String,
}

#[derive(Deserialize)]
struct RangeRecord {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    events: Vec<Event>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Event {
    Introduced(String),
    Fixed(String),
    LastAffected(String),
    Limit(serde::de::IgnoredAny),
}

/// Reads one advisory; `None` for one that was withdrawn.
pub fn parse(bytes: &[u8]) -> Result<Option<Advisory>, ReadError> {
    let record: Record = serde_json::from_str(text(WHAT, bytes, BYTES_MAX)?)
        .map_err(|error| ReadError::malformed(WHAT, error))?;
    if record.withdrawn.is_some() {
        return Ok(None);
    }
    if record.affected.len() > AFFECTED_MAX {
        return Err(ReadError::TooMany {
            what: WHAT,
            limit: AFFECTED_MAX,
        });
    }
    let affected = record
        .affected
        .into_iter()
        .filter_map(|affected| read_affected(affected).transpose())
        .collect::<Result<_, _>>()?;
    let summary = if record.summary.is_empty() {
        record.details.lines().next().unwrap_or("").to_owned()
    } else {
        record.summary
    };
    Ok(Some(Advisory {
        id: record.id,
        aliases: [record.aliases, record.upstream].concat(),
        summary,
        severity: record.severity.into_iter().next().map(|s| s.score),
        affected,
    }))
}

fn read_affected(affected: Affected) -> Result<Option<AffectedPackage>, ReadError> {
    let Some(package) = affected.package else {
        return Ok(None);
    };
    // `Debian:12`, `Ubuntu:22.04:LTS`.
    let mut parts = package.ecosystem.split(':');
    let distribution = parts.next().unwrap_or("").to_ascii_lowercase();
    if !["debian", "ubuntu"].contains(&distribution.as_str()) {
        return Ok(None);
    }
    let release = parts.find(|part| part.starts_with(|c: char| c.is_ascii_digit()));
    let mut ranges = Vec::new();
    for range in affected.ranges.iter().filter(|r| r.kind == "ECOSYSTEM") {
        ranges.extend(read_range(range)?);
    }
    // All that it says is in ranges of commits: nothing that can be compared here.
    if ranges.is_empty() && affected.versions.is_empty() && !affected.ranges.is_empty() {
        return Ok(None);
    }
    Ok(Some(AffectedPackage {
        distribution,
        release: release.map(str::to_owned),
        name: package.name,
        named: Named::Source,
        ranges,
        versions: affected.versions,
    }))
}

fn read_range(range: &RangeRecord) -> Result<Vec<Range>, ReadError> {
    if range.events.len() > EVENTS_MAX {
        return Err(ReadError::TooMany {
            what: "a range of an OSV advisory",
            limit: EVENTS_MAX,
        });
    }
    // `0` means before every version; otherwise where a range begins that the next event ends.
    let mut open: Option<Option<Version>> = None;
    let mut ranges = Vec::new();
    for event in &range.events {
        let until = match event {
            Event::Introduced(text) => {
                ranges.extend(open.take().map(|introduced| Range {
                    introduced,
                    until: Until::Open,
                }));
                open = Some(if text == "0" {
                    None
                } else {
                    Some(text.parse()?)
                });
                continue;
            }
            Event::Limit(_) => continue,
            Event::Fixed(text) => Until::Fixed(text.parse()?),
            Event::LastAffected(text) => Until::Last(text.parse()?),
        };
        if let Some(introduced) = open.take() {
            ranges.push(Range { introduced, until });
        }
    }
    ranges.extend(open.map(|introduced| Range {
        introduced,
        until: Until::Open,
    }));
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::advisory::Advisories;
    use crate::packages::tests::inventory;
    use serde_json::{Value, json};

    fn advisory(ecosystem: &str, name: &str, events: Value) -> Value {
        json!({
            "id": "DEBIAN-CVE-2023-45853",
            "upstream": ["CVE-2023-45853"],
            "details": "An overflow.\nMore of it.",
            "affected": [{
                "package": { "ecosystem": ecosystem, "name": name },
                "ranges": [{ "type": "ECOSYSTEM", "events": events }],
            }],
        })
    }

    #[test]
    fn ranges_are_compared_with_source_packages() {
        let check = |ecosystem: &str, name: &str, events: Value, expected: &[&str]| {
            let bytes = serde_json::to_vec(&advisory(ecosystem, name, events.clone())).unwrap();
            let read = parse(&bytes).unwrap().unwrap();
            assert!(read.is_called("cve-2023-45853") && read.summary == "An overflow.");
            let shown: Vec<String> = Advisories::new([read])
                .hits(&inventory())
                .into_iter()
                .map(|hit| match hit.fixed {
                    Some(fixed) => format!("{} until {fixed}", hit.package),
                    None => hit.package,
                })
                .collect();
            assert_eq!(shown, expected, "{ecosystem} {name} {events}");
        };
        let zero = json!({ "introduced": "0" });
        check("Debian:12", "zlib", json!([zero]), &["zlib1g"]);
        check("Debian:12", "zlib1g", json!([zero]), &[]);
        check("Debian:11", "zlib", json!([zero]), &[]);
        check("Debian", "zlib", json!([zero]), &["zlib1g"]);
        check("PyPI", "zlib", json!([zero]), &[]);
        let fixed = json!({ "fixed": "12.2.0-14+deb12u2" });
        check(
            "Debian:12",
            "gcc-12",
            json!([zero, fixed]),
            &["libstdc++6 until 12.2.0-14+deb12u2"],
        );
        check(
            "Debian:12",
            "gcc-12",
            json!([zero, { "fixed": "12.2.0-14+deb12u1" }]),
            &[],
        );
        check(
            "Debian:12",
            "bash",
            json!([zero, { "fixed": "4.0" }, { "introduced": "5.2" }, { "last_affected": "5.2.15-2" }]),
            &["bash"],
        );
        check("Debian:12", "bash", json!([{ "introduced": "5.3" }]), &[]);
        check("Debian:12", "bash", json!([{ "fixed": "9" }]), &[]);
    }

    #[test]
    fn listed_versions_withdrawn_and_broken_ones() {
        let mut listed = advisory("Debian:12", "bash", json!([]));
        listed["affected"][0]["versions"] = json!(["5.2.15-2"]);
        let read = parse(&serde_json::to_vec(&listed).unwrap()).unwrap();
        assert_eq!(Advisories::new(read).hits(&inventory()).len(), 1);

        listed["withdrawn"] = json!("2024-01-01T00:00:00Z");
        assert_eq!(parse(&serde_json::to_vec(&listed).unwrap()), Ok(None));

        let bad = advisory("Debian:12", "bash", json!([{ "introduced": "not one" }]));
        assert!(parse(&serde_json::to_vec(&bad).unwrap()).is_err());
        assert!(parse(b"{\"id\": 1}").is_err());
    }
}
