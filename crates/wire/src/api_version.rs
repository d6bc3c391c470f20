//! The `api-version` of a request: opaque but for its form, and comparable by date.

use std::fmt;
use std::str::FromStr;

use jiff::civil::Date;

/// `YYYY-MM-DD`, or that with a lower-case suffix such as `-preview`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApiVersion {
    date: Date,
    suffix: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the api-version '{0}' is invalid; the expected form is YYYY-MM-DD or YYYY-MM-DD-preview")]
pub struct ApiVersionError(String);

const SUFFIX_BYTES_MAX: usize = 32;

impl ApiVersion {
    /// The version that Bullion's own client sends; from it on, what Azure has no shape for is allowed.
    pub fn newest() -> Self {
        Self {
            date: jiff::civil::date(2026, 11, 1),
            suffix: None,
        }
    }

    /// Whether this version is dated at or after the given day, preview or not.
    pub fn at_least(&self, year: i16, month: i8, day: i8) -> bool {
        Date::new(year, month, day).is_ok_and(|other| self.date >= other)
    }
}

impl FromStr for ApiVersion {
    type Err = ApiVersionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail = || ApiVersionError(text.chars().take(64).collect());
        let (date, rest) = text.split_at_checked(10).ok_or_else(fail)?;
        let digits = date.bytes().enumerate().all(|(i, b)| match i {
            4 | 7 => b == b'-',
            _ => b.is_ascii_digit(),
        });
        let suffix = match rest.strip_prefix('-') {
            None if rest.is_empty() => None,
            Some(suffix)
                if (1..=SUFFIX_BYTES_MAX).contains(&suffix.len())
                    && suffix
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b == b'-') =>
            {
                Some(suffix.to_ascii_lowercase())
            }
            _ => return Err(fail()),
        };
        if !digits {
            return Err(fail());
        }
        let date = date.parse().map_err(|_| fail())?;
        Ok(Self { date, suffix })
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.suffix {
            None => write!(f, "{}", self.date),
            Some(suffix) => write!(f, "{}-{suffix}", self.date),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<&str>) {
        let seen = text
            .parse::<ApiVersion>()
            .ok()
            .map(|version| version.to_string());
        assert_eq!(seen.as_deref(), expected, "{text}");
    }

    #[test]
    fn form() {
        check("2024-03-03", Some("2024-03-03"));
        check("2022-05-01-preview", Some("2022-05-01-preview"));
        check("2022-05-01-Preview", Some("2022-05-01-preview"));
        check("2024-13-03", None);
        check("2024-3-3", None);
        check("latest", None);
        check("2024-03-03-", None);
        check("2024-03-03 ", None);
        check("", None);
        check("1.0", None);
    }

    #[test]
    fn order_is_by_date() {
        let version: ApiVersion = "2024-03-03".parse().unwrap();
        assert!(version.at_least(2024, 3, 3));
        assert!(!version.at_least(2024, 3, 4));
        assert!(ApiVersion::newest() > version);
    }
}
