//! Versions of definitions, and the patterns by which assignments and initiatives choose one.
//!
//! A version is `major.minor.patch`, with `-preview` or `-deprecated` behind it at times. A pattern may
//! leave the end open: `1.*.*`, `1.2.*`.

use std::cmp::Ordering;
use std::fmt;

/// One version. A preview is older than the release of the same number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    numbers: [u32; 3],
    suffix: String,
}

impl Version {
    pub fn parse(text: &str) -> Option<Version> {
        let text = text.trim();
        let (numbers, suffix) = text.split_once('-').unwrap_or((text, ""));
        let parts: Vec<u32> = numbers
            .split('.')
            .map(|part| part.parse().ok())
            .collect::<Option<_>>()?;
        let numbers = match parts.as_slice() {
            [major] => [*major, 0, 0],
            [major, minor] => [*major, *minor, 0],
            [major, minor, patch] => [*major, *minor, *patch],
            _ => return None,
        };
        Some(Version {
            numbers,
            suffix: suffix.to_ascii_lowercase(),
        })
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Version) -> Ordering {
        let released = |version: &Version| version.suffix != "preview";
        self.numbers
            .cmp(&other.numbers)
            .then(released(self).cmp(&released(other)))
            .then(self.suffix.cmp(&other.suffix))
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Version) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Which versions are meant. `None` stands for any number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    numbers: [Option<u32>; 3],
    suffix: Option<String>,
}

impl Pattern {
    /// Reads `1.*.*`, `1.2.*` or `1.2.3`, each with or without a suffix such as `-preview`.
    pub fn parse(text: &str) -> Result<Pattern, String> {
        let reason = || format!("`{text}` is no version such as `1.*.*` or `1.2.*`");
        let (numbers, suffix) = text.trim().split_once('-').unwrap_or((text.trim(), ""));
        let part = |part: &str| match part {
            "*" => Some(None),
            number => number.parse().ok().map(Some),
        };
        let parts: Vec<Option<u32>> = numbers
            .split('.')
            .map(part)
            .collect::<Option<_>>()
            .ok_or_else(reason)?;
        let numbers: [Option<u32>; 3] = parts.try_into().map_err(|_| reason())?;
        // What follows an open number is open too, and the first is never open.
        let [major, minor, patch] = numbers;
        if major.is_none() || (minor.is_none() && patch.is_some()) {
            return Err(reason());
        }
        Ok(Pattern {
            numbers,
            suffix: (!suffix.is_empty()).then(|| suffix.to_ascii_lowercase()),
        })
    }

    pub fn matches(&self, version: &Version) -> bool {
        let fits = |(wanted, found): (&Option<u32>, &u32)| wanted.is_none_or(|w| w == *found);
        let preview = version.suffix == "preview";
        self.numbers.iter().zip(&version.numbers).all(fits)
            && match &self.suffix {
                Some(suffix) => *suffix == version.suffix,
                // A preview must be asked for, or be named in full.
                None => !preview || self.numbers.iter().all(Option::is_some),
            }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, number) in self.numbers.iter().enumerate() {
            let dot = if index == 0 { "" } else { "." };
            match number {
                Some(number) => write!(f, "{dot}{number}")?,
                None => write!(f, "{dot}*")?,
            }
        }
        match &self.suffix {
            Some(suffix) => write!(f, "-{suffix}"),
            None => Ok(()),
        }
    }
}

/// The index of the newest version that is meant; without a pattern, of the newest of all.
/// What has no version is older than everything.
pub fn newest(versions: &[Option<Version>], pattern: Option<&Pattern>) -> Option<usize> {
    let fits = |version: &Option<Version>| match (pattern, version) {
        (None, _) => true,
        (Some(pattern), Some(version)) => pattern.matches(version),
        (Some(_), None) => false,
    };
    let found = versions.iter().enumerate().filter(|(_, v)| fits(v));
    found
        .max_by(|(_, a), (_, b)| a.cmp(b))
        .map(|(index, _)| index)
}
