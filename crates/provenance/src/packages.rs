//! The packages that an image says it has, read from dpkg's own database and `os-release`. A line that dpkg would
//! not have written is an error, not a guess: a bill of materials that left something out would be worse than none.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};

use crate::error::{ReadError, text};

const STATUS_BYTES_MAX: usize = 64 << 20;
const OS_RELEASE_BYTES_MAX: usize = 64 << 10;
const PACKAGES_MAX: usize = 100_000;
/// What a package URL leaves as it is beside letters and digits.
const PURL: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b':');

/// A Debian version, ordered as dpkg orders them (`~` before nothing, epochs first).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Version(String);

impl Version {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn parsed(&self) -> debversion::Version {
        debversion::Version::from_str(&self.0).expect("checked when it was made")
    }
}

impl FromStr for Version {
    type Err = ReadError;

    fn from_str(text: &str) -> Result<Self, ReadError> {
        debversion::Version::from_str(text)
            .map_err(|_| ReadError::malformed("a Debian version", format!("`{text}`")))?;
        Ok(Version(text.to_owned()))
    }
}

impl TryFrom<String> for Version {
    type Error = ReadError;

    fn try_from(text: String) -> Result<Self, ReadError> {
        text.parse()
    }
}

impl From<Version> for String {
    fn from(version: Version) -> String {
        version.0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Version {
    /// As dpkg compares them. Not `Ord`: `1.0` and `1.00` are equal to dpkg and two texts to everybody else.
    pub fn compare(&self, other: &Version) -> Ordering {
        self.parsed().cmp(&other.parsed())
    }
}

/// What an image says it is, of `os-release(5)`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OsRelease {
    /// `debian`.
    pub id: String,
    /// `12`; empty for a release that has no number yet.
    pub version_id: String,
    /// `Debian GNU/Linux 12 (bookworm)`.
    pub pretty_name: String,
}

impl OsRelease {
    /// Reads the text of `/etc/os-release`: `KEY=value` lines with shell quoting, comments and blanks.
    pub fn parse(bytes: &[u8]) -> Result<Self, ReadError> {
        let mut release = OsRelease::default();
        for line in text("os-release", bytes, OS_RELEASE_BYTES_MAX)?.lines() {
            let Some((key, value)) = line.trim().split_once('=') else {
                continue;
            };
            let field = match key {
                "ID" => &mut release.id,
                "VERSION_ID" => &mut release.version_id,
                "PRETTY_NAME" => &mut release.pretty_name,
                _ => continue,
            };
            *field = unquoted(value);
        }
        if release.id.is_empty() {
            return Err(ReadError::malformed("os-release", "it has no ID"));
        }
        Ok(release)
    }
}

fn unquoted(value: &str) -> String {
    let inner = ['"', '\'']
        .iter()
        .find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
    let mut plain = String::with_capacity(value.len());
    let mut letters = inner.unwrap_or(value).chars();
    while let Some(letter) = letters.next() {
        plain.extend(if letter == '\\' {
            letters.next()
        } else {
            Some(letter)
        });
    }
    plain
}

/// One installed package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Package {
    pub name: String,
    pub version: Version,
    pub architecture: String,
    /// What it was built from; advisories of distributions speak of these.
    pub source: String,
    pub source_version: Version,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintainer: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub homepage: Option<String>,
}

impl Package {
    /// The package URL (purl): `pkg:deb/debian/bash@5.2.15-2%2Bb7?arch=amd64&distro=debian-12`.
    pub fn url(&self, os: &OsRelease) -> String {
        let encode = |text: &str| utf8_percent_encode(text, PURL).to_string();
        let distribution = if os.version_id.is_empty() {
            os.id.clone()
        } else {
            format!("{}-{}", os.id, os.version_id)
        };
        format!(
            "pkg:deb/{}/{}@{}?arch={}&distro={}",
            encode(&os.id),
            encode(&self.name.to_ascii_lowercase()),
            encode(self.version.as_str()),
            encode(&self.architecture),
            encode(&distribution)
        )
    }
}

/// All that an image says it has, ordered by name and architecture.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Inventory {
    pub os: OsRelease,
    pub packages: Vec<Package>,
}

impl Inventory {
    /// Reads `/etc/os-release` and `/var/lib/dpkg/status`. Packages that are not fully installed are left out, as
    /// `dpkg-query` does for `${db:Status-Status}` other than `installed`.
    pub fn read(os_release: &[u8], dpkg_status: &[u8]) -> Result<Self, ReadError> {
        let os = OsRelease::parse(os_release)?;
        let status = text("dpkg's status", dpkg_status, STATUS_BYTES_MAX)?;
        let stanzas = deb822_fast::Deb822::from_str(status)
            .map_err(|error| ReadError::malformed("dpkg's status", error))?;
        let mut packages = Vec::new();
        for stanza in stanzas.iter() {
            let installed = stanza
                .get("Status")
                .is_some_and(|status| status.split_ascii_whitespace().nth(2) == Some("installed"));
            if !installed {
                continue;
            }
            if packages.len() == PACKAGES_MAX {
                return Err(ReadError::TooMany {
                    what: "dpkg's status",
                    limit: PACKAGES_MAX,
                });
            }
            packages.push(package(stanza)?);
        }
        packages.sort_by(|a: &Package, b: &Package| {
            (&a.name, &a.architecture).cmp(&(&b.name, &b.architecture))
        });
        Ok(Inventory { os, packages })
    }
}

fn package(stanza: &deb822_fast::Paragraph) -> Result<Package, ReadError> {
    let field = |key: &str| stanza.get(key).map(str::trim).filter(|v| !v.is_empty());
    let needed = |key: &'static str| {
        field(key).map(str::to_owned).ok_or_else(|| {
            let name = field("Package").unwrap_or("a package without a name");
            ReadError::malformed("dpkg's status", format!("{name} has no {key}"))
        })
    };
    let name = needed("Package")?;
    let version: Version = needed("Version")?.parse()?;
    // `Source: glibc (2.36-9)`; without a version it is the package's, without the field the name too.
    let (source, source_version) = match field("Source") {
        None => (name.clone(), version.clone()),
        Some(text) => match text.split_once(" (") {
            None => (text.to_owned(), version.clone()),
            Some((source, rest)) => (source.to_owned(), rest.trim_end_matches(')').parse()?),
        },
    };
    Ok(Package {
        architecture: needed("Architecture")?,
        maintainer: field("Maintainer").map(str::to_owned),
        homepage: field("Homepage").map(str::to_owned),
        name,
        version,
        source,
        source_version,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const OS: &[u8] =
        b"PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID=\"12\"\nID=debian\n# end\n";
    pub(crate) const STATUS: &[u8] = b"Package: zlib1g\nStatus: install ok installed\nMaintainer: Mark Brown <broonie@debian.org>\n\
Architecture: amd64\nMulti-Arch: same\nSource: zlib\nVersion: 1:1.2.13.dfsg-1\nDescription: compression library - runtime\n a long\n .\n text\n\
Homepage: http://zlib.net/\n\n\
Package: libstdc++6\nStatus: install ok installed\nArchitecture: amd64\nSource: gcc-12 (12.2.0-14+deb12u1)\nVersion: 12.2.0-14+b1\n\n\
Package: gone\nStatus: deinstall ok config-files\nArchitecture: all\nVersion: 1\n\n\
Package: bash\nEssential: yes\nStatus: install ok installed\nArchitecture: amd64\nVersion: 5.2.15-2+b7\nSource: bash (5.2.15-2)\n";

    pub(crate) fn inventory() -> Inventory {
        Inventory::read(OS, STATUS).unwrap()
    }

    #[test]
    fn dpkgs_status_is_read_and_ordered() {
        let inventory = inventory();
        let shown: Vec<String> = inventory
            .packages
            .iter()
            .map(|p| {
                format!(
                    "{} {} {} from {} {}",
                    p.name, p.version, p.architecture, p.source, p.source_version
                )
            })
            .collect();
        assert_eq!(
            shown,
            [
                "bash 5.2.15-2+b7 amd64 from bash 5.2.15-2",
                "libstdc++6 12.2.0-14+b1 amd64 from gcc-12 12.2.0-14+deb12u1",
                "zlib1g 1:1.2.13.dfsg-1 amd64 from zlib 1:1.2.13.dfsg-1",
            ]
        );
        assert_eq!(inventory.os.pretty_name, "Debian GNU/Linux 12 (bookworm)");
        assert_eq!(
            inventory.packages[1].url(&inventory.os),
            "pkg:deb/debian/libstdc%2B%2B6@12.2.0-14%2Bb1?arch=amd64&distro=debian-12"
        );
    }

    #[test]
    fn what_dpkg_would_not_write_is_refused() {
        let check = |os: &[u8], status: &[u8], expected: &str| {
            let error = Inventory::read(os, status).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(b"NAME=x\n", STATUS, "it has no ID");
        check(OS, b"\xff\xfe", "not UTF-8");
        check(
            OS,
            b"Package: a\nStatus: install ok installed\nArchitecture: all\n",
            "a has no Version",
        );
        check(
            OS,
            b"Package: a\nStatus: install ok installed\nArchitecture: all\nVersion: not a version\n",
            "`not a version`",
        );
        check(OS, b"no colon here\n", "dpkg's status");
    }

    #[test]
    fn versions_are_ordered_as_dpkg_orders_them() {
        let check = |a: &str, b: &str, expected: Ordering| {
            let (a, b): (Version, Version) = (a.parse().unwrap(), b.parse().unwrap());
            assert_eq!(a.compare(&b), expected, "{a} {b}");
            assert_eq!(b.compare(&a), expected.reverse(), "{b} {a}");
        };
        check("1.0-1", "1.0-1", Ordering::Equal);
        check("1.0~rc1-1", "1.0-1", Ordering::Less);
        check("1:0.1", "9.9", Ordering::Greater);
        check("3.0.9-1", "3.0.11-1~deb12u2", Ordering::Less);
        check("3.0.11-1~deb12u2", "3.0.11-1", Ordering::Less);
        check("1.2.13.dfsg-1", "1.2.13.dfsg-1+b1", Ordering::Less);
        check("1.0", "1.00", Ordering::Equal);
    }
}
