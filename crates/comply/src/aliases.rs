//! The aliases of the types that Bullion serves, from `aliases.tsv`.
//!
//! The table is not complete on purpose: an alias that it lacks is worked out from its name, so that a policy about
//! types that only Azure has can be assigned, and finds nothing here.

use std::sync::{Arc, LazyLock};

use policy::Aliases;

/// Where the computed facts about a machine's image stand in the resource that policies see. Never stored.
pub(crate) const MACHINE_IMAGE: &str = "machineImage";

static ALIASES: LazyLock<Arc<Aliases>> = LazyLock::new(|| {
    // The table is a part of the program, and a test reads all of it.
    Arc::new(Aliases::read(include_str!("../aliases.tsv")).unwrap_or_default())
});

pub fn aliases() -> &'static Arc<Aliases> {
    &ALIASES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_table_is_an_alias() {
        let lines = include_str!("../aliases.tsv").lines().skip(1);
        for line in lines {
            let columns: Vec<&str> = line.split('\t').collect();
            let [kind, alias, path] = columns.as_slice() else {
                panic!("{line}");
            };
            let found = aliases().find(alias).unwrap();
            let steps = found.path(kind).unwrap_or_else(|| panic!("{line}"));
            assert_eq!(*steps, policy::alias::Path::parse(path).unwrap(), "{line}");
        }
    }

    #[test]
    fn an_alias_that_the_table_lacks_is_worked_out() {
        let found = aliases().find("Microsoft.Storage/storageAccounts/minimumTlsVersion");
        let path = found.unwrap();
        let path = path.path("Microsoft.Storage/storageAccounts").unwrap();
        assert_eq!(
            *path,
            policy::alias::Path::parse("properties.minimumTlsVersion").unwrap()
        );
    }
}
