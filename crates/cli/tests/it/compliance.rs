//! `compliance` and `policy what-if` against a server: what they print, and what they exit with.

use cli::args::compliance::{PolicyScope, WhatIf, WhatIfAbout};
use cli::args::{Command, Global};
use serde_json::{Map, Value, json};

use crate::fake::{self, Fake};
use crate::harness::{Surroundings, shown};

const ENG: &str = "/subscriptions/11111111-2222-4333-8444-555555555555";
const LATEST: &str = "providers/Microsoft.PolicyInsights/policyStates/latest";

fn machine() -> String {
    format!("{ENG}/resourceGroups/images/providers/Microsoft.Compute/virtualMachines/web-1")
}

fn state(name: &str, state: &str, reason: Option<&str>) -> Value {
    json!({
        "timestamp": "2026-11-21T06:00:00.123456Z", "since": "2026-11-21T05:00:00.5Z",
        "resourceId": format!("{ENG}/resourceGroups/images/providers/Microsoft.Compute/virtualMachines/{name}"),
        "complianceState": state, "policyAssignmentName": "golden", "policyDefinitionReferenceId": "currency",
        "reason": reason,
    })
}

fn summary(compliant: u64, not: u64) -> Value {
    let counts = json!([
        { "complianceState": "compliant", "count": compliant },
        { "complianceState": "noncompliant", "count": not },
        { "complianceState": "exempt", "count": 1 },
    ]);
    json!({ "value": [{
        "results": { "nonCompliantResources": not, "resourceDetails": counts },
        "policyAssignments": [{
            "policyAssignmentId": format!("{ENG}/providers/Microsoft.Authorization/policyAssignments/golden"),
            "results": { "resourceDetails": counts },
        }],
    }] })
}

fn explanation(state: &str) -> Value {
    json!({ "properties": {
        "resourceId": machine(),
        "complianceState": state,
        "machineImage": { "exactVersion": "1.0.0", "latestVersion": "1.0.1", "versionsBehind": 1 },
        "policies": [{
            "policyAssignmentId": format!("{ENG}/providers/Microsoft.Authorization/policyAssignments/golden"),
            "policyAssignmentDisplayName": "",
            "policyAssignmentScope": ENG,
            "policyDefinitionId": "/providers/Microsoft.Authorization/policyDefinitions/x",
            "policyDefinitionDisplayName": "Machines run the latest version",
            "policySetDefinitionDisplayName": "Golden images",
            "effect": "audit", "enforced": true, "complianceState": state,
            "since": "2026-11-21T05:00:00.5Z",
            "reason": "runs 1.0.0, latest is 1.0.1 (1 behind)",
            "message": "Deploy the machine anew.",
            "evaluatedExpressions": [
                { "expression": "Bullion.Factory/machineImage.versionsBehind", "expressionValue": 1,
                  "operator": "Greater", "targetValue": 0, "result": "True", "decided": true },
                { "expression": "type", "expressionValue": "x", "operator": "Equals", "targetValue": "x",
                  "result": "True", "decided": false },
            ],
            "fixes": ["deploy version 1.0.1"],
        }],
    } })
}

async fn world() -> (Fake, Surroundings, tempfile::TempDir) {
    let fake = fake::start().await;
    let folder = tempfile::tempdir().unwrap();
    let surroundings = Surroundings {
        variables: fake.variables(folder.path()),
        ..Surroundings::default()
    };
    let applied = surroundings
        .run(&["apply", "tests/fixtures/valid", "--yes"])
        .await;
    assert_eq!(applied.code, 0, "{}", applied.err);
    (fake, surroundings, folder)
}

#[tokio::test]
async fn states_are_summarized_listed_and_explained() {
    let (fake, surroundings, _folder) = world().await;
    let check = async |name: &str, line: &[&str]| {
        let outcome = surroundings.run(line).await;
        let text = shown(line, &outcome).replace(&fake.url, "https://SERVER");
        insta::assert_snapshot!(name, text);
    };
    fake.put(
        &format!("{ENG}/{LATEST}/summarize"),
        json!({ "value": [{ "results": {}, "policyAssignments": [] }] }),
    );
    check(
        "compliance_none",
        &["compliance", "summary", "--scope", ENG],
    )
    .await;
    fake.put(&format!("{ENG}/{LATEST}/summarize"), summary(3, 2));
    check(
        "compliance_summary",
        &["compliance", "summary", "--scope", ENG],
    )
    .await;
    let second = format!("{ENG}/{LATEST}/queryResults2");
    let next = format!("{}{second}?api-version=2019-10-01", fake.url);
    let reason = "runs 1.0.0, latest is 1.0.1 (1 behind)";
    fake.put(
        &second,
        json!({ "value": [state("web-1", "NonCompliant", Some(reason))] }),
    );
    fake.put(
        &format!("{ENG}/{LATEST}/queryResults"),
        json!({ "value": [state("web-2", "Compliant", None)], "@odata.nextLink": next }),
    );
    check("compliance_list", &["compliance", "list", "--scope", ENG]).await;
    check(
        "compliance_list_bad_scope",
        &["compliance", "list", "--scope", "x"],
    )
    .await;
    let machine = machine();
    fake.put(&machine, json!({ "properties": {} }));
    let default = format!("{machine}/providers/Bullion.Factory/compliance/default");
    fake.put(&default, explanation("NonCompliant"));
    check("compliance_explain", &["compliance", "explain", "web-1"]).await;
    fake.put(&default, explanation("Exempt"));
    let fine = surroundings.run(&["compliance", "explain", "web-1"]).await;
    assert_eq!(fine.code, 0, "{}", fine.err);
    let json = ["compliance", "explain", &machine, "--output", "json"];
    let json = surroundings.run(&json).await;
    let seen: Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(seen["machineImage"]["latestVersion"], "1.0.1");
}

#[tokio::test]
async fn policies_are_tried() {
    let (fake, surroundings, _folder) = world().await;
    let ask = async |about: WhatIfAbout, scope: Option<&str>| {
        let question = Command::WhatIf(WhatIf {
            scope: PolicyScope {
                scope: scope.map(str::to_owned),
                ..PolicyScope::default()
            },
            about,
        });
        surroundings.run_command(&Global::default(), question).await
    };
    let policy = || WhatIfAbout::Policy {
        definition: json!({ "properties": {} }),
        parameters: Map::from_iter([("n".to_owned(), json!(1))]),
    };
    let question = "providers/Bullion.Factory/policyWhatIf";
    let record = json!({ "resourceId": machine(), "complianceState": "NonCompliant", "effect": "deny", "reason": "because" });
    fake.put(
        &format!("{ENG}/{question}"),
        json!({ "properties": { "summary": { "NonCompliant": 1, "Error": 0 }, "records": [record] } }),
    );
    let seen = ask(policy(), Some(ENG)).await;
    insta::assert_snapshot!(
        "what_if_policy",
        format!("{}{}{}", seen.code, seen.out, seen.err)
    );
    let denial = json!({ "policyDefinitionName": "d", "policyAssignmentId": "/x/a" });
    fake.put(
        &format!("{ENG}/resourceGroups/images/{question}"),
        json!({ "properties": { "summary": {}, "records": [], "decision": { "denied": true, "denials": [denial], "changes": [] } } }),
    );
    let seen = ask(WhatIfAbout::Resource(json!({ "id": machine() })), None).await;
    insta::assert_snapshot!(
        "what_if_resource",
        format!("{}{}{}", seen.code, seen.out, seen.err)
    );
    let seen = ask(WhatIfAbout::Resource(json!({})), None).await;
    assert_eq!(seen.code, 2, "{}", seen.err);
    assert!(seen.err.contains("needs an `id`"), "{}", seen.err);
}
