//! The definitions and initiatives that every tenant has, from the files in `built-in/`.

use std::sync::LazyLock;

use serde_json::{Value, json};

use crate::kinds;

const DEFINITIONS: [&str; 7] = [
    include_str!("../built-in/approved-galleries.json"),
    include_str!("../built-in/image-age.json"),
    include_str!("../built-in/versions-behind.json"),
    include_str!("../built-in/not-revoked.json"),
    include_str!("../built-in/not-past-end-of-life.json"),
    include_str!("../built-in/tattoo-matches.json"),
    include_str!("../built-in/lifecycle-tag.json"),
];
const INITIATIVES: [&str; 1] = [include_str!("../built-in/golden-images.json")];

static READ: LazyLock<(Vec<Value>, Vec<Value>)> = LazyLock::new(|| {
    let read = |files: &[&str], kind: &str| files.iter().map(|file| whole(file, kind)).collect();
    (
        read(&DEFINITIONS, kinds::DEFINITIONS),
        read(&INITIATIVES, kinds::SET_DEFINITIONS),
    )
});

/// Policy definitions as whole resources: id, name, type, properties.
pub fn built_in_definitions() -> &'static [Value] {
    &READ.0
}

/// Initiatives, likewise.
pub fn built_in_initiatives() -> &'static [Value] {
    &READ.1
}

/// The files are a part of the program, and a test compiles all of them.
fn whole(file: &str, kind: &str) -> Value {
    let mut document: Value = serde_json::from_str(file).unwrap_or_default();
    let name = document["name"].as_str().unwrap_or_default().to_owned();
    json!({
        "id": format!("/providers/{kind}/{name}"),
        "name": name,
        "type": kind,
        "properties": document["properties"].take(),
    })
}

#[cfg(test)]
mod tests {
    use policy::Compiled;

    use super::*;
    use crate::aliases;

    #[test]
    fn all_of_them_compile() {
        for document in built_in_definitions() {
            let compiled = policy::compile(document, aliases());
            assert!(
                matches!(compiled, Ok(Compiled::Definition(_))),
                "{document}: {compiled:?}"
            );
        }
    }

    #[test]
    fn initiatives_name_definitions_that_are_there() {
        for document in built_in_initiatives() {
            let Ok(Compiled::Initiative(initiative)) = policy::compile(document, aliases()) else {
                panic!("{document}");
            };
            assert_eq!(initiative.members.len(), built_in_definitions().len());
            for member in &initiative.members {
                let mut known = built_in_definitions().iter();
                assert!(
                    known.any(|known| known["id"] == member.definition_id.as_str()),
                    "{}",
                    member.definition_id
                );
            }
        }
    }
}
