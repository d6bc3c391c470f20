//! `app`: what is shown of applications, and that a secret is shown once and nowhere else.

use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use crate::fake::{self, Fake, KEY, SECRET};
use crate::harness::{Outcome, Surroundings, shown};

struct Stage {
    fake: Fake,
    surroundings: Surroundings,
    folder: TempDir,
}

async fn stage() -> Stage {
    let fake = fake::start().await;
    let set = "/providers/Microsoft.Authorization/policySetDefinitions/golden-images";
    let called = serde_json::json!({ "properties": { "displayName": "Golden images" } });
    fake.put(set, called);
    let folder = tempfile::tempdir().unwrap();
    let surroundings = Surroundings {
        variables: fake.variables(folder.path()),
        ..Surroundings::default()
    };
    let applied = surroundings
        .run(&["apply", "tests/fixtures/stages", "--yes"])
        .await;
    assert_eq!(applied.code, 0, "{}", applied.err);
    fake.writes();
    Stage {
        fake,
        surroundings,
        folder,
    }
}

impl Stage {
    async fn check(&self, name: &str, line: &[&str]) -> Outcome {
        let outcome = self.surroundings.run(line).await;
        let text = shown(line, &outcome)
            .replace(self.folder.path().to_str().unwrap(), "FOLDER")
            .replace(&self.fake.url, "https://SERVER");
        insta::assert_snapshot!(name, text);
        outcome
    }
}

#[tokio::test]
async fn applications_are_listed_with_who_consented() {
    let stage = stage().await;
    stage.check("app_list", &["app", "list"]).await;
    stage
        .check("app_list_of_tenant", &["app", "list", "--tenant", "eng"])
        .await;
    stage
        .check("app_show", &["app", "show", "prod/promote"])
        .await;
    stage.check("app_unknown", &["app", "show", "promot"]).await;
}

#[tokio::test]
async fn a_secret_is_shown_once() {
    let stage = stage().await;
    let made = stage
        .check("app_secret_add", &["app", "secret", "add", "approver"])
        .await;
    assert_eq!(made.out.trim_end(), SECRET);
    assert!(!made.err.contains(SECRET), "{}", made.err);
    stage
        .check(
            "app_secret_add_json",
            &["app", "secret", "add", "approver", "--output", "json"],
        )
        .await;
    let listed = stage
        .check("app_secret_list", &["app", "secret", "list", "approver"])
        .await;
    assert!(!listed.out.contains(SECRET));
}

#[tokio::test]
async fn a_profile_holds_the_secret_and_nobody_sees_it() {
    let stage = stage().await;
    let path = stage.folder.path().join("approver.json");
    let path = path.to_str().unwrap();
    let line = ["app", "secret", "add", "approver", "--write-profile", path];
    let made = stage.check("app_secret_profile", &line).await;
    assert!(!format!("{}{}", made.out, made.err).contains(SECRET));
    let mode = std::fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut line = line.to_vec();
    line.extend(["--output", "json"]);
    let again = stage.check("app_secret_profile_json", &line).await;
    assert!(!format!("{}{}", again.out, again.err).contains(SECRET));
    // It is the profile of another: nothing of the administrator's is taken from the surroundings.
    let other = Surroundings::default();
    let outcome = other.run(&["--profile", path, "app", "list"]).await;
    assert_eq!(outcome.code, 0, "{}", outcome.err);
}

/// A secret that was shown once is not overwritten by another application's.
#[tokio::test]
async fn a_profile_of_somebody_else_is_left_alone() {
    let stage = stage().await;
    let path = stage.folder.path().join("admin.json");
    std::fs::write(&path, r#"{"clientId": "other"}"#).unwrap();
    let path = path.to_str().unwrap();
    let line = ["app", "secret", "add", "approver", "--write-profile", path];
    stage.check("app_secret_profile_of_another", &line).await;
    assert_eq!(stage.fake.writes(), [""; 0], "no secret was made");
}

#[tokio::test]
async fn a_secret_is_deleted_by_the_beginning_of_its_id() {
    let mut stage = stage().await;
    let line = ["app", "secret", "delete", "approver", "0000"];
    stage.check("app_secret_delete_nobody", &line).await;
    assert_eq!(stage.fake.writes().len(), 1, "it was only listed");
    let unknown = ["app", "secret", "delete", "approver", "1", "--yes"];
    stage.check("app_secret_delete_unknown", &unknown).await;
    stage.fake.writes();
    stage.surroundings.typed = Some("yes\n".into());
    let done = stage.surroundings.run(&line).await;
    assert_eq!(done.code, 0, "{}", done.err);
    assert!(done.err.contains(KEY), "{}", done.err);
    let last = stage.fake.writes().pop().unwrap();
    assert!(
        last.ends_with("/applications/approver/removePassword"),
        "{last}"
    );
}
