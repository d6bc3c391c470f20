//! Actions such as `Microsoft.Compute/galleries/write`, and the patterns of role definitions.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Compared without case.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Action(String);

impl Action {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A read changes nothing: what stores refuse to write under.
    pub fn is_read(&self) -> bool {
        self.0.to_ascii_lowercase().ends_with("/read")
    }

    /// Whether a role's pattern covers this action. `*` stands for any text, slashes included, as in Azure.
    pub fn matches(&self, pattern: &str) -> bool {
        glob(
            pattern.to_ascii_lowercase().as_bytes(),
            self.0.to_ascii_lowercase().as_bytes(),
        )
    }
}

/// Linear in the product of the lengths: one remembered star is enough, since a later star supersedes it.
pub(crate) fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if p < pattern.len() && pattern[p] == b'*' {
            star = Some((p, t));
            p += 1;
        } else if p < pattern.len() && pattern[p] == text[t] {
            p += 1;
            t += 1;
        } else if let Some((at, from)) = star {
            star = Some((at, from + 1));
            p = at + 1;
            t = from + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&b| b == b'*')
}

impl PartialEq for Action {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Eq for Action {}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Action({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(action: &str, pattern: &str, expected: bool) {
        assert_eq!(
            Action::new(action).matches(pattern),
            expected,
            "{action} ~ {pattern}"
        );
    }

    #[test]
    fn patterns() {
        check("Microsoft.Compute/galleries/read", "*", true);
        check("Microsoft.Compute/galleries/read", "*/read", true);
        check("Microsoft.Compute/galleries/write", "*/read", false);
        check(
            "microsoft.compute/GALLERIES/write",
            "Microsoft.Compute/galleries/*",
            true,
        );
        check(
            "Microsoft.Compute/galleries/images/versions/write",
            "Microsoft.Compute/galleries/*/write",
            true,
        );
        check(
            "Microsoft.Compute/galleriesX/write",
            "Microsoft.Compute/galleries/*",
            false,
        );
        check("Microsoft.Compute/galleries/read", "", false);
        check("a/b/c/d", "*/b/*/d", true);
        check("a/b/c", "*/b/*/d", false);
    }
}
