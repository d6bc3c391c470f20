//! A factory of two tenants: what is known only after `apply`, who signs in where, and what is deleted again.

use std::path::Path;

use serde_json::json;
use tempfile::TempDir;

use crate::fake::{self, ENG, Fake};
use crate::harness::{Outcome, Surroundings, shown};

const PROD: &str = "00000000-0000-4000-8000-00000000a002";
const APPROVER: &str =
    "/of/00000000-0000-4000-8000-00000000a002/providers/bullion.factory/applications/approver";

struct Stage {
    fake: Fake,
    surroundings: Surroundings,
    /// A copy of the fixture that a test may change.
    folder: TempDir,
}

async fn stage() -> Stage {
    let fake = fake::start().await;
    let set = "/providers/Microsoft.Authorization/policySetDefinitions/golden-images";
    fake.put(
        set,
        json!({ "properties": { "displayName": "Golden images" } }),
    );
    let folder = tempfile::tempdir().unwrap();
    copy(Path::new("tests/fixtures/stages"), folder.path());
    let surroundings = Surroundings {
        variables: fake.variables(folder.path()),
        ..Surroundings::default()
    };
    Stage {
        fake,
        surroundings,
        folder,
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

impl Stage {
    async fn run(&self, words: &[&str]) -> Outcome {
        let folder = self.folder.path().to_str().unwrap();
        let mut line = vec![words[0], folder];
        line.extend(&words[1..]);
        self.surroundings.run(&line).await
    }

    async fn check(&self, name: &str, words: &[&str]) {
        let outcome = self.run(words).await;
        let text = shown(words, &outcome).replace(self.folder.path().to_str().unwrap(), "FOLDER");
        let lines = text.lines().map(|line| match line.split_once(" (") {
            Some((head, tail)) if tail.ends_with(" s)") => head,
            _ => line,
        });
        insta::assert_snapshot!(name, lines.collect::<Vec<_>>().join("\n"));
    }

    async fn applied(&self) {
        let outcome = self.run(&["apply", "--yes"]).await;
        assert_eq!(outcome.code, 0, "{}", outcome.err);
        self.fake.writes();
    }

    fn change(&self, file: &str, old: &str, new: &str) {
        let path = self.folder.path().join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(old), "{file} has {old}");
        std::fs::write(path, text.replace(old, new)).unwrap();
    }
}

#[tokio::test]
async fn what_is_known_after_apply_is_filled_in() {
    let stage = stage().await;
    stage.check("stages_plan", &["plan"]).await;
    assert_eq!(stage.fake.writes(), [""; 0]);
    stage.check("stages_apply", &["apply", "--yes"]).await;
    insta::assert_snapshot!("stages_requests", stage.fake.writes().join("\n"));
    {
        let state = stage.fake.state.lock().unwrap();
        let held = |end: &str| {
            let found = state.resources.iter().find(|(path, _)| path.ends_with(end));
            &found.unwrap().1["properties"]
        };
        let approver = &state.resources[APPROVER]["properties"];
        let pipeline = held("/pipelines/golden");
        assert_eq!(pipeline["stages"][0]["tenant"], ENG);
        assert_eq!(pipeline["stages"][1]["tenant"], PROD);
        let promote = held("/applications/promote");
        assert_eq!(pipeline["stages"][1]["application"], promote["appId"]);
        let gate = &pipeline["stages"][1]["gates"][2];
        assert_eq!(gate["principals"], json!([approver["principalId"]]));
        insta::assert_snapshot!("stages_pipeline", format!("{pipeline:#}"));
        insta::assert_snapshot!(
            "stages_policy",
            format!(
                "{:#}\n{:#}\n{:#}",
                held("/policydefinitions/latest"),
                held("/policyassignments/runs-latest"),
                held("/policyassignments/golden")
            )
        );
        let _: wire::promotion::PipelineProperties =
            serde_json::from_value(pipeline.clone()).unwrap();
    }
    let again = stage.run(&["plan", "--detailed-exitcode"]).await;
    assert_eq!((again.code, again.err.as_str()), (0, ""), "{}", again.out);
    assert_eq!(stage.fake.writes(), [""; 0]);
}

#[tokio::test]
async fn changes_are_shown_by_field() {
    let stage = stage().await;
    stage.applied().await;
    stage.change(
        "pipeline.yaml",
        "name: released",
        "name: released\n        expiresInHours: 24",
    );
    stage.change("policies/latest.json", "\"audit\"", "\"deny\"");
    stage.change("policy.yaml", "behindMax: 0", "behindMax: 1");
    stage.change("identities.yaml", "role: Contributor", "role: Owner");
    stage.check("stages_changes", &["plan"]).await;
}

#[tokio::test]
async fn an_application_that_is_made_anew_has_another_id() {
    let stage = stage().await;
    stage.applied().await;
    stage.fake.state.lock().unwrap().resources.remove(APPROVER);
    stage.check("stages_anew", &["plan"]).await;
    stage
        .check("stages_anew_json", &["plan", "--output", "json"])
        .await;
}

/// Only what this factory made: not what others assigned, nor what another factory declares.
#[tokio::test]
async fn what_is_taken_out_is_deleted() {
    let stage = stage().await;
    stage.applied().await;
    let scope = "/subscriptions/11111111-2222-4333-8444-666666666666";
    let roles = format!("{scope}/providers/Microsoft.Authorization/roleAssignments");
    let of_others = json!({ "properties": {
        "scope": scope,
        "roleDefinitionId": "/providers/Microsoft.Authorization/roleDefinitions/acdd72a7-3385-48ef-bd42-f606fba81ae7",
        "principalId": "00000000-0000-4000-8000-00000000e001",
    } });
    stage.fake.put(
        &format!("{roles}/00000000-0000-4000-8000-000000000001"),
        of_others,
    );
    for file in ["identities.yaml", "pipeline.yaml", "policy.yaml"] {
        std::fs::remove_file(stage.folder.path().join(file)).unwrap();
    }
    stage.check("stages_deletes", &["plan"]).await;
    let outcome = stage.run(&["apply", "--yes", "--prune"]).await;
    assert_eq!(outcome.code, 0, "{}", outcome.err);
    insta::assert_snapshot!("stages_deletions", stage.fake.writes().join("\n"));
    let again = stage.run(&["plan", "--detailed-exitcode"]).await;
    assert_eq!(again.code, 0, "{}", again.out);
}

/// A role that somebody else gave already is not given twice.
#[tokio::test]
async fn an_assignment_that_says_the_same_is_found() {
    let stage = stage().await;
    stage.applied().await;
    let renamed = {
        let mut state = stage.fake.state.lock().unwrap();
        let ours = |path: &&String| path.contains("/golden/providers/microsoft.authorization/");
        let path = state.resources.keys().find(ours).unwrap().clone();
        state.resources.remove(&path).unwrap()
    };
    let scope = renamed["properties"]["scope"].as_str().unwrap().to_owned();
    let other = "00000000-0000-4000-8000-000000000002";
    let path = format!("{scope}/providers/Microsoft.Authorization/roleAssignments/{other}");
    stage.fake.put(&path, renamed);
    let again = stage.run(&["plan", "--detailed-exitcode"]).await;
    assert_eq!(again.code, 0, "{}", again.out);
}

#[tokio::test]
async fn a_built_in_that_is_not_there_is_named() {
    let stage = stage().await;
    stage.change("policy.yaml", "Golden images", "Golden imags");
    stage.check("stages_no_built_in", &["plan"]).await;
}
