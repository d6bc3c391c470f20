//! What a role allows or a denial takes away: patterns of actions less patterns of exceptions, and the same for data.
//!
//! [`Permissions`] is what is stored and shown; [`Role`] is the same made ready to be asked thousands of times a second.

use serde::{Deserialize, Serialize};

use crate::Action;
use crate::action::glob;

/// One entry of a definition's `permissions`, as Azure writes it. Patterns compare without case; `*` stands for any text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Permissions {
    pub actions: Vec<String>,
    pub not_actions: Vec<String>,
    pub data_actions: Vec<String>,
    pub not_data_actions: Vec<String>,
}

/// What several permissions together allow. An exception takes away from its own entry alone, as in Azure.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Role {
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    allowed: Vec<Pattern>,
    excepted: Vec<Pattern>,
}

/// In lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern(Box<str>);

/// An action in the form that patterns are compared with.
pub(crate) struct Asked(String);

impl Asked {
    pub fn new(action: &Action) -> Self {
        Self(action.as_str().to_ascii_lowercase())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Role {
    pub fn of<'a>(permissions: impl IntoIterator<Item = &'a Permissions>) -> Self {
        let entries = permissions
            .into_iter()
            .map(|one| Entry::of(&one.actions, &one.not_actions));
        Self {
            entries: entries.collect(),
        }
    }

    pub(crate) fn of_static(actions: &[&str], not_actions: &[&str]) -> Self {
        Self {
            entries: vec![Entry::of(actions, not_actions)],
        }
    }

    pub fn allows(&self, action: &Action) -> bool {
        self.covers(&Asked::new(action))
    }

    pub(crate) fn covers(&self, asked: &Asked) -> bool {
        let any = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(&asked.0));
        self.entries
            .iter()
            .any(|entry| any(&entry.allowed) && !any(&entry.excepted))
    }
}

impl Entry {
    fn of(allowed: &[impl AsRef<str>], excepted: &[impl AsRef<str>]) -> Self {
        let patterns = |texts: &[_]| texts.iter().map(Pattern::of).collect();
        Self {
            allowed: patterns(allowed),
            excepted: excepted.iter().map(Pattern::of).collect(),
        }
    }
}

impl Pattern {
    fn of(text: &impl AsRef<str>) -> Self {
        Self(text.as_ref().to_ascii_lowercase().into())
    }

    fn matches(&self, action: &str) -> bool {
        &*self.0 == "*" || glob(self.0.as_bytes(), action.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(permissions: &[(&[&str], &[&str])], action: &str, expected: bool) {
        let list = |texts: &[&str]| texts.iter().map(|text| text.to_string()).collect();
        let permissions: Vec<Permissions> = permissions
            .iter()
            .map(|(actions, not_actions)| Permissions {
                actions: list(actions),
                not_actions: list(not_actions),
                ..Permissions::default()
            })
            .collect();
        let role = Role::of(&permissions);
        assert_eq!(role.allows(&Action::new(action)), expected, "{action}");
    }

    #[test]
    fn an_exception_takes_from_its_own_entry() {
        let write = "Microsoft.Compute/galleries/write";
        check(&[(&["*"], &[])], write, true);
        check(&[(&["*"], &["Microsoft.Compute/*"])], write, false);
        check(
            &[(&["*"], &["microsoft.COMPUTE/*"]), (&["*/WRITE"], &[])],
            write,
            true,
        );
        check(&[], write, false);
        check(&[(&[], &[])], write, false);
        check(&[(&["*/read"], &[])], write, false);
    }
}
