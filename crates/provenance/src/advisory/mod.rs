//! Which packages an advisory concerns. Two formats are read ([`osv`], [`oval`]) into one shape; what neither says for
//! certain counts as affected, since a quiet mistake here is the dear one.

pub mod osv;
pub mod oval;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::error::ReadError;
use crate::packages::{Inventory, OsRelease, Package, Version};

/// Longest question of [`Query`].
const QUERY_CHARS_MAX: usize = 300;

/// One advisory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Advisory {
    /// `CVE-2024-0727`, `DSA-5678-1`.
    pub id: String,
    /// Other names of the same flaw.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    #[serde(default)]
    pub summary: String,
    /// As the feed has it: a CVSS vector or a word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub severity: Option<String>,
    pub affected: Vec<AffectedPackage>,
}

/// A package, and the versions of it that have the flaw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AffectedPackage {
    /// `debian`.
    pub distribution: String,
    /// `12`; none: every release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    pub name: String,
    pub named: Named,
    /// None of either: every version.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ranges: Vec<Range>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub versions: Vec<String>,
}

/// What the name of an [`AffectedPackage`] is a name of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Named {
    Source,
    /// A binary package, or the source of the same name: Debian's OVAL files have had both.
    Binary,
}

/// Versions from one to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Range {
    /// The first that has the flaw; none: all from the beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub introduced: Option<Version>,
    pub until: Until,
}

/// Where a [`Range`] ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Until {
    /// It is not mended.
    Open,
    /// The first without the flaw.
    Fixed(Version),
    /// The last with the flaw.
    Last(Version),
}

/// A package that an advisory concerns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Hit {
    pub advisory: String,
    pub package: String,
    pub version: Version,
    /// The version that mends it, if the advisory knows one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fixed: Option<Version>,
}

impl Range {
    fn has(&self, version: &Version) -> bool {
        let begun = self
            .introduced
            .as_ref()
            .is_none_or(|first| version.compare(first) != Ordering::Less);
        begun
            && match &self.until {
                Until::Open => true,
                Until::Fixed(fixed) => version.compare(fixed) == Ordering::Less,
                Until::Last(last) => version.compare(last) != Ordering::Greater,
            }
    }
}

impl AffectedPackage {
    /// Whether `package` of a system `os` has the flaw; the answer holds the version that mends it.
    fn concerns(&self, os: &OsRelease, package: &Package) -> Option<Option<Version>> {
        let release = self.release.as_ref();
        if self.distribution != os.id || release.is_some_and(|r| *r != os.version_id) {
            return None;
        }
        let version = match self.named {
            Named::Binary if self.name == package.name => &package.version,
            _ if self.name == package.source => &package.source_version,
            _ => return None,
        };
        if self.versions.iter().any(|text| text == version.as_str()) {
            return Some(self.fixed_after(version));
        }
        if self.ranges.is_empty() {
            return self.versions.is_empty().then_some(None);
        }
        let range = self.ranges.iter().find(|range| range.has(version))?;
        Some(match &range.until {
            Until::Fixed(fixed) => Some(fixed.clone()),
            Until::Open | Until::Last(_) => None,
        })
    }

    fn fixed_after(&self, version: &Version) -> Option<Version> {
        self.ranges.iter().find_map(|range| match &range.until {
            Until::Fixed(fixed) if version.compare(fixed) == Ordering::Less => Some(fixed.clone()),
            _ => None,
        })
    }
}

impl Advisory {
    /// Whether it goes by this name, whatever the case.
    pub fn is_called(&self, name: &str) -> bool {
        std::iter::once(&self.id)
            .chain(&self.aliases)
            .any(|known| known.eq_ignore_ascii_case(name))
    }

    /// The package's flaw, if it has it.
    pub fn concerns(&self, os: &OsRelease, package: &Package) -> Option<Hit> {
        let fixed = self
            .affected
            .iter()
            .find_map(|affected| affected.concerns(os, package))?;
        Some(Hit {
            advisory: self.id.clone(),
            package: package.name.clone(),
            version: package.version.clone(),
            fixed,
        })
    }
}

/// Advisories, found by the names of packages and by their own.
#[derive(Debug, Default)]
pub struct Advisories {
    all: Vec<Advisory>,
    by_package: BTreeMap<String, Vec<usize>>,
    by_name: BTreeMap<String, Vec<usize>>,
}

impl Advisories {
    pub fn new(advisories: impl IntoIterator<Item = Advisory>) -> Self {
        let mut found = Advisories::default();
        for advisory in advisories {
            let index = found.all.len();
            let packages: BTreeSet<&String> = advisory.affected.iter().map(|a| &a.name).collect();
            for package in packages {
                let known = found.by_package.entry(package.clone()).or_default();
                known.push(index);
            }
            for name in std::iter::once(&advisory.id).chain(&advisory.aliases) {
                let known = found.by_name.entry(name.to_ascii_uppercase()).or_default();
                if known.last() != Some(&index) {
                    known.push(index);
                }
            }
            found.all.push(advisory);
        }
        found
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// All that go by this name: one flaw has advisories in several feeds.
    pub fn named(&self, name: &str) -> impl Iterator<Item = &Advisory> {
        self.by_name
            .get(&name.to_ascii_uppercase())
            .into_iter()
            .flatten()
            .map(|index| &self.all[*index])
    }

    /// Everything that is known of the packages of `inventory`, by package and advisory.
    pub fn hits(&self, inventory: &Inventory) -> Vec<Hit> {
        let mut hits = Vec::new();
        for package in &inventory.packages {
            let names: BTreeSet<&String> = [&package.name, &package.source].into();
            let found: BTreeSet<usize> = names
                .into_iter()
                .filter_map(|name| self.by_package.get(name))
                .flatten()
                .copied()
                .collect();
            hits.extend(
                found
                    .into_iter()
                    .filter_map(|index| self.all[index].concerns(&inventory.os, package)),
            );
        }
        hits
    }
}

/// How a version is compared in a [`Query`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Less,
    LessOrEqual,
    Equal,
    GreaterOrEqual,
    Greater,
}

/// What is asked of images: an advisory by name, or a package by name and version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Query {
    Advisory(String),
    Package(PackageQuery),
}

/// `openssl<3.0.15-1~deb12u1`, or a name alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageQuery {
    name: String,
    bound: Option<(Comparison, Version)>,
}

impl Query {
    /// Reads `CVE-2024-0727`, `openssl`, `openssl<3.0.15`, `openssl>=3`. What has dashes and digits as advisories
    /// have them (`CVE-…`, `DSA-…`, `DLA-…`, `GHSA-…`, `DEBIAN-…`) is one; everything else is a package.
    pub fn parse(text: &str) -> Result<Self, ReadError> {
        const WHAT: &str = "the question";
        const ADVISORIES: [&str; 6] = ["CVE-", "DSA-", "DLA-", "GHSA-", "DEBIAN-", "OSV-"];
        let text = text.trim();
        if text.len() > QUERY_CHARS_MAX {
            return Err(ReadError::TooLong {
                what: WHAT,
                bytes: text.len(),
                limit: QUERY_CHARS_MAX,
            });
        }
        let upper = text.to_ascii_uppercase();
        if ADVISORIES.iter().any(|start| upper.starts_with(start)) {
            return Ok(Query::Advisory(upper));
        }
        let at = text.find(['<', '>', '=']).unwrap_or(text.len());
        let (name, rest) = (text[..at].trim(), &text[at..]);
        let plain = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
        if name.is_empty() || !name.chars().all(plain) {
            return Err(ReadError::malformed(
                WHAT,
                format!(
                    "`{text}` is neither an advisory such as CVE-2024-0727 nor a package such as openssl<3.0.15"
                ),
            ));
        }
        let operators = [
            ("<=", Comparison::LessOrEqual),
            (">=", Comparison::GreaterOrEqual),
            ("==", Comparison::Equal),
            ("<", Comparison::Less),
            (">", Comparison::Greater),
            ("=", Comparison::Equal),
        ];
        let bound = operators
            .iter()
            .find_map(|(sign, comparison)| Some((*comparison, rest.strip_prefix(sign)?)))
            .map(|(comparison, version)| Ok((comparison, version.trim().parse()?)))
            .transpose()?;
        Ok(Query::Package(PackageQuery {
            name: name.to_owned(),
            bound,
        }))
    }
}

impl PackageQuery {
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether `package` is meant: by its own name and version, or by its source's.
    pub fn matches(&self, package: &Package) -> bool {
        let within = |version: &Version| {
            self.bound.as_ref().is_none_or(|(comparison, bound)| {
                let ordering = version.compare(bound);
                match comparison {
                    Comparison::Less => ordering == Ordering::Less,
                    Comparison::LessOrEqual => ordering != Ordering::Greater,
                    Comparison::Equal => ordering == Ordering::Equal,
                    Comparison::GreaterOrEqual => ordering != Ordering::Less,
                    Comparison::Greater => ordering == Ordering::Greater,
                }
            })
        };
        if self.name == package.name {
            within(&package.version)
        } else {
            self.name == package.source && within(&package.source_version)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packages::tests::inventory;

    #[test]
    fn questions_are_told_apart() {
        let check = |text: &str, expected: Result<&[&str], &str>| {
            let inventory = inventory();
            let answer = Query::parse(text).map_err(|error| error.to_string());
            match (answer, expected) {
                (Ok(Query::Advisory(name)), Ok(names)) => assert_eq!([name.as_str()], names),
                (Ok(Query::Package(query)), Ok(names)) => {
                    let found: Vec<&str> = inventory
                        .packages
                        .iter()
                        .filter(|package| query.matches(package))
                        .map(|package| package.name.as_str())
                        .collect();
                    assert_eq!(found, names, "{text}");
                }
                (Err(error), Err(part)) => assert!(error.contains(part), "{error}"),
                (answer, expected) => panic!("{text}: {answer:?}, expected {expected:?}"),
            }
        };
        check("cve-2024-0727", Ok(&["CVE-2024-0727"]));
        check("bash", Ok(&["bash"]));
        check("bash < 5.2.15-2+b8", Ok(&["bash"]));
        check("bash<5.2.15-2", Ok(&[]));
        check("bash>=5.2.15-2+b7", Ok(&["bash"]));
        check("bash>5.2.15-2+b7", Ok(&[]));
        check("bash==5.2.15-2+b7", Ok(&["bash"]));
        check("gcc-12<12.2.0-14+deb12u2", Ok(&["libstdc++6"]));
        check("libstdc++6", Ok(&["libstdc++6"]));
        check("zlib<=1:1.2.13.dfsg-1", Ok(&["zlib1g"]));
        check("", Err("neither an advisory"));
        check("<3", Err("neither an advisory"));
        check("a b<3", Err("neither an advisory"));
        check("bash<", Err("a Debian version"));
    }
}
