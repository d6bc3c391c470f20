//! Region names as clients write them: `westeurope`, `East US`. Compared without case and blanks.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A region's name. Keeps the caller's spelling; equality folds case and blanks.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Location(String);

impl Location {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The form to compare and to key by: lower case, no blanks.
    pub fn folded(&self) -> String {
        self.0
            .chars()
            .filter(|c| !c.is_whitespace())
            .flat_map(char::to_lowercase)
            .collect()
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl PartialEq for Location {
    fn eq(&self, other: &Self) -> bool {
        self.folded() == other.folded()
    }
}

impl Eq for Location {}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_and_blanks_do_not_count() {
        assert_eq!(Location::new("East US"), Location::new("eastus"));
        assert_ne!(Location::new("eastus"), Location::new("eastus2"));
    }
}
