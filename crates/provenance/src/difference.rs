//! What changed in the packages from one image to another.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde::Serialize;

use crate::packages::{Inventory, Package, Version};

/// What became of one package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Change {
    Added,
    Removed,
    Upgraded,
    Downgraded,
}

/// One package that is not the same in both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    pub name: String,
    pub architecture: String,
    pub change: Change,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Version>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Version>,
}

/// The packages that differ, by name. Versions that dpkg holds for equal are no difference.
pub fn difference(before: &Inventory, after: &Inventory) -> Vec<Difference> {
    let mut pairs: BTreeMap<(&str, &str), [Option<&Package>; 2]> = BTreeMap::new();
    for (side, inventory) in [before, after].into_iter().enumerate() {
        for package in &inventory.packages {
            let key = (package.name.as_str(), package.architecture.as_str());
            pairs.entry(key).or_default()[side] = Some(package);
        }
    }
    pairs
        .into_iter()
        .filter_map(|((name, architecture), [before, after])| {
            let change = match (before, after) {
                (None, _) => Change::Added,
                (_, None) => Change::Removed,
                (Some(before), Some(after)) => match before.version.compare(&after.version) {
                    Ordering::Equal => return None,
                    Ordering::Less => Change::Upgraded,
                    Ordering::Greater => Change::Downgraded,
                },
            };
            Some(Difference {
                name: name.to_owned(),
                architecture: architecture.to_owned(),
                change,
                before: before.map(|p| p.version.clone()),
                after: after.map(|p| p.version.clone()),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packages::tests::inventory;

    #[test]
    fn each_kind_of_change_is_told() {
        let before = inventory();
        let mut after = before.clone();
        after.packages[0].version = "5.2.16-1".parse().unwrap();
        after.packages[1].name = "libstdc++7".into();
        after.packages[2].version = "1:1.2.9".parse().unwrap();
        let shown: Vec<String> = difference(&before, &after)
            .iter()
            .map(|d| format!("{} {:?}", d.name, d.change))
            .collect();
        assert_eq!(
            shown,
            [
                "bash Upgraded",
                "libstdc++6 Removed",
                "libstdc++7 Added",
                "zlib1g Downgraded"
            ]
        );
        assert_eq!(difference(&before, &before), []);
    }
}
