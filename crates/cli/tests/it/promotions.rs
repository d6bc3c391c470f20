//! `promote` and `promotion` against a server: what they print, and what they asked for.

use serde_json::{Value, json};

use crate::fake::{self, ENG};
use crate::harness::{Surroundings, shown};

const GROUP: &str = "/subscriptions/11111111-2222-4333-8444-555555555555/resourceGroups/images";
const SOMEBODY: &str = "00000000-0000-4000-8000-00000000b001";

fn stage(name: &str) -> Value {
    let definition = format!("{GROUP}/providers/Microsoft.Compute/galleries/{name}/images/debian");
    json!({ "name": name, "tenant": ENG, "imageDefinition": definition })
}

fn promotion(state: &str, gate: &str, message: &str) -> Value {
    json!({ "properties": {
        "pipeline": format!("{GROUP}/providers/Bullion.Factory/pipelines/golden"),
        "stage": "test", "version": "1.0.0", "from": stage("eng"), "to": stage("test"),
        "state": state, "message": message,
        "sourceVersionId": format!("{GROUP}/providers/Microsoft.Compute/galleries/eng/images/debian/versions/1.0.0"),
        "diskDigest": "bd1:00", "startTime": "2026-11-21T04:00:00Z",
        "requestedBy": { "tenant": ENG, "principal": SOMEBODY, "app": SOMEBODY },
        "gates": [
            { "name": "tests", "state": "Passed", "time": "2026-11-21T04:00:01Z", "by": [SOMEBODY] },
            { "name": "yes", "state": gate, "message": "0 of 1 approvals" },
        ],
    } })
}

#[tokio::test]
async fn a_version_goes_from_stage_to_stage() {
    let fake = fake::start().await;
    let folder = tempfile::tempdir().unwrap();
    let surroundings = Surroundings {
        variables: fake.variables(folder.path()),
        ..Surroundings::default()
    };
    let check = async |name: &str, line: &[&str]| {
        let outcome = surroundings.run(line).await;
        let text = shown(line, &outcome).replace(&fake.url, "https://SERVER");
        insta::assert_snapshot!(name, text);
    };
    let applied = surroundings
        .run(&["apply", "tests/fixtures/valid", "--yes"])
        .await;
    assert_eq!(applied.code, 0, "{}", applied.err);
    fake.writes();
    check("promote_no_pipeline", &["promote", "1.0.0", "--to", "test"]).await;
    let pipeline = format!("{GROUP}/providers/Bullion.Factory/pipelines/golden");
    let stages = json!({ "properties": { "stages": [stage("eng"), stage("test")] } });
    fake.put(&pipeline, stages);
    check("promote_no_stage", &["promote", "1.0.0", "--to", "prod"]).await;
    check(
        "promotion_unknown",
        &["promotion", "show", "golden-test-1.0.0"],
    )
    .await;

    let id = format!("{GROUP}/providers/Bullion.Factory/promotions/golden-test-1.0.0");
    let waits = "the gate `yes` waits for approval";
    fake.put(&id, promotion("WaitingForApproval", "Waiting", waits));
    check("promote_waits", &["promote", "1.0.0", "--to", "test"]).await;
    check("promotion_list", &["promotion", "list"]).await;
    let name = "golden-test-1.0.0";
    check("promotion_show", &["promotion", "show", name]).await;
    fake.put(&id, promotion("Rejected", "Failed", "rejected"));
    check("promote_rejected", &["promote", "1.0.0", "--to", "test"]).await;
    fake.writes();
    for word in ["approve", "reject", "cancel"] {
        let done = surroundings.run(&["promotion", word, name]).await;
        assert_eq!(done.code, 0, "{}", done.err);
        assert_eq!(fake.writes(), [format!("POST {id}/{word}")]);
    }
    check("promotion_verify", &["promotion", "verify", name]).await;
}
