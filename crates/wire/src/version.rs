//! The number of an image version: `Major.Minor.Patch`, three int32, ordered as numbers.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Ordered numerically, never as text: 8.5.8 comes before 8.5.18.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct VersionNumber {
    pub major: i32,
    pub minor: i32,
    pub patch: i32,
}

/// Text as Azure's service answers it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "The image version name is invalid. The image version name should follow Major(int).Minor(int).Patch(int) format, for e.g: 1.0.0, 2018.12.1 etc"
)]
pub struct VersionNumberError;

impl VersionNumber {
    pub const fn new(major: i32, minor: i32, patch: i32) -> Self {
        Self {
            major,
            minor,
            patch,
        }
    }

    /// The next patch, unless the number is at its end.
    pub fn next_patch(self) -> Option<Self> {
        Some(Self {
            patch: self.patch.checked_add(1)?,
            ..self
        })
    }

    /// Fixed-width text whose byte order is the numeric order, for stores that sort by text.
    pub fn sort_key(self) -> String {
        format!("{:010}.{:010}.{:010}", self.major, self.minor, self.patch)
    }
}

impl FromStr for VersionNumber {
    type Err = VersionNumberError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split('.').map(|part| {
            let digits = (1..=10).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
            part.parse::<i32>().ok().filter(|_| digits)
        });
        let mut next = || parts.next().flatten();
        match (next(), next(), next(), parts.next()) {
            (Some(major), Some(minor), Some(patch), None) => Ok(Self {
                major,
                minor,
                patch,
            }),
            _ => Err(VersionNumberError),
        }
    }
}

impl fmt::Display for VersionNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl From<VersionNumber> for String {
    fn from(version: VersionNumber) -> Self {
        version.to_string()
    }
}

impl TryFrom<String> for VersionNumber {
    type Error = VersionNumberError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, ok: bool) {
        assert_eq!(text.parse::<VersionNumber>().is_ok(), ok, "{text}");
    }

    #[test]
    fn form() {
        check("1.0.0", true);
        check("2018.12.1", true);
        check("2147483647.0.0", true);
        check("2147483648.0.0", false);
        check("1.0", false);
        check("1.0.0.0", false);
        check("1.-1.0", false);
        check("+1.0.0", false);
        check("1.0.a", false);
        check("latest", false);
    }

    #[test]
    fn order_is_numeric_in_both_forms() {
        let mut versions: Vec<VersionNumber> = ["8.5.18", "8.5.8", "10.0.0", "9.9.9"]
            .iter()
            .map(|v| v.parse().unwrap())
            .collect();
        let mut by_key = versions.clone();
        versions.sort();
        by_key.sort_by_key(|v| v.sort_key());
        assert_eq!(versions, by_key);
        assert_eq!(versions[0].to_string(), "8.5.8");
    }
}
