//! A faulty factory folder: every fault at its place, with what would be right, and nothing asked
//! of any server. One folder per fault in `tests/fixtures`.

use crate::harness::{Surroundings, shown};

async fn check(fixture: &str) {
    let folder = format!("tests/fixtures/{fixture}");
    let line = ["plan", folder.as_str()];
    let outcome = Surroundings::default().run(&line).await;
    insta::assert_snapshot!(fixture.replace('-', "_"), shown(&line, &outcome));
}

macro_rules! faults {
    ($($name:ident $fixture:literal)*) => {$(
        #[tokio::test]
        async fn $name() {
            check($fixture).await;
        }
    )*};
}

faults! {
    unknown_key "unknown-key"
    wrong_type "wrong-type"
    missing_script "missing-script"
    missing_key "missing-key"
    dangling_reference "dangling-reference"
    ambiguous_reference "ambiguous-reference"
    duplicate_names "duplicate-names"
    bad_names "bad-names"
    bad_numbers "bad-numbers"
    file_outside "file-outside"
    bad_certificate "bad-certificate"
    bad_script "bad-script"
    exclusive_keys "exclusive-keys"
    regions "regions"
    unknown_kind "unknown-kind"
    not_yaml "not-yaml"
    no_factory "no-factory"
    empty "empty"
    not_there "not-there"
    many_faults "many-faults"
    identity_faults "identity-faults"
    pipeline_faults "pipeline-faults"
    pipeline_shape "pipeline-shape"
    policy_faults "policy-faults"
}

#[tokio::test]
async fn file_too_large() {
    // Sparse, and not kept in the repository.
    std::fs::create_dir_all("tests/fixtures/file-too-large/files").unwrap();
    let file = std::fs::File::create("tests/fixtures/file-too-large/files/large").unwrap();
    file.set_len(3_000_001).unwrap();
    check("file-too-large").await;
}
