//! What policies come to, over HTTP: states, summaries, scans, reasons, and policies tried before they are assigned.

use serde_json::{Value, json};

use super::policies::{AUTHORIZATION, MANAGEMENT, assign, at, deny, made, subscription};
use super::site::{GROUP, Site};

/// Looks until `fits`; states follow writes in the background.
async fn until(site: &Site, method: &str, path: &str, fits: impl Fn(&Value) -> bool) -> Value {
    let looks = async {
        let mut turn = tokio::time::interval(std::time::Duration::from_millis(20));
        loop {
            turn.tick().await;
            let answer = site.ask(method, path, None).await;
            assert_eq!(answer.status, 200, "{:?}", answer.body);
            if fits(&answer.body) {
                return answer.body;
            }
        }
    };
    let patience = std::time::Duration::from_secs(60);
    tokio::time::timeout(patience, looks).await.unwrap()
}

fn insights(scope: &str, rest: &str) -> String {
    format!(
        "{scope}/providers/Microsoft.PolicyInsights/policyStates/latest/{rest}?api-version=2019-10-01"
    )
}

#[tokio::test]
async fn states_are_asked_as_azures_clients_ask() {
    let site = Site::start().await.with_group().await;
    let scope = subscription();
    let definition = at(&scope, "policyDefinitions", "not-there");
    made(
        &site,
        &definition,
        deny("Microsoft.Compute/galleries", "south"),
    )
    .await;
    let gallery = |name: &str| format!("{GROUP}/providers/Microsoft.Compute/galleries/{name}");
    made(&site, &gallery("bad"), json!({ "location": "south" })).await;
    made(&site, &gallery("good"), json!({ "location": "north" })).await;
    let assignment = at(&scope, "policyAssignments", "a");
    made(
        &site,
        &assignment,
        assign(&definition, json!({ "effect": { "value": "Audit" } })),
    )
    .await;

    let all = insights(&scope, "queryResults");
    let two = |body: &Value| body["@odata.count"] == 2;
    let seen = until(&site, "POST", &all, two).await;
    assert!(
        seen["@odata.context"]
            .as_str()
            .unwrap()
            .ends_with("policyStates/$metadata#latest")
    );
    let state = |name: &str| {
        let mut records = seen["value"].as_array().unwrap().iter();
        let found = records.find(|one| {
            let id = one["resourceId"].as_str().unwrap().to_lowercase();
            id == gallery(name).to_lowercase()
        });
        found.unwrap()["complianceState"]
            .as_str()
            .unwrap()
            .to_string()
    };
    assert_eq!(
        (state("bad").as_str(), state("good").as_str()),
        ("NonCompliant", "Compliant")
    );

    let count = async |path: &str| {
        let seen = site.ask("POST", path, None).await;
        assert_eq!(seen.status, 200, "{path}: {:?}", seen.body);
        seen.body["@odata.count"].as_u64().unwrap()
    };
    let bad =
        "$filter=complianceState%20eq%20'NonCompliant'%20and%20ResourceLocation%20eq%20'south'";
    assert_eq!(count(&format!("{all}&{bad}")).await, 1);
    assert_eq!(count(&format!("{all}&$top=1")).await, 1);
    assert_eq!(count(&format!("{all}&$to=2020-01-01T00:00:00Z")).await, 0);
    assert_eq!(count(&insights(GROUP, "queryResults")).await, 2);
    assert_eq!(count(&insights(&gallery("bad"), "queryResults")).await, 1);
    assert_eq!(count(&insights(&assignment, "queryResults")).await, 2);
    assert_eq!(count(&insights(&definition, "queryResults")).await, 2);
    assert_eq!(
        count(&insights(
            &at(&scope, "policyDefinitions", "other"),
            "queryResults"
        ))
        .await,
        0
    );
    let root = format!("{MANAGEMENT}/{}", site.tenant);
    assert_eq!(count(&insights(&root, "queryResults")).await, 2);
    let grouped =
        format!("{all}&$apply=groupby((complianceState),aggregate($count%20as%20n))&$orderby=n");
    let seen = site.ask("POST", &grouped, None).await;
    assert_eq!(seen.body["value"][0]["n"], 1, "{:?}", seen.body);
    let selected =
        format!("{all}&$select=resourceId,complianceState&$orderby=complianceState%20desc");
    let seen = site.ask("POST", &selected, None).await;
    assert_eq!(seen.body["value"][0]["complianceState"], "NonCompliant");
    assert!(seen.body["value"][0].get("timestamp").is_none());
    for (option, code) in [
        ("$filter=colour%20eq%20'red'", "InvalidFilterInQueryString"),
        ("$filter=((((", "InvalidFilterInQueryString"),
        ("$apply=groupby(x)", "BadRequest"),
        ("$orderby=x", "BadRequest"),
        ("$top=some", "BadRequest"),
        ("$from=yesterday", "InvalidParameter"),
        ("$skiptoken=x", "InvalidParameter"),
    ] {
        let seen = site.ask("POST", &format!("{all}&{option}"), None).await;
        assert_eq!(
            (seen.status, seen.code()),
            (400, code),
            "{option}: {:?}",
            seen.body
        );
    }
    let seen = site
        .ask("POST", &all.replace("/latest/", "/oldest/"), None)
        .await;
    assert_eq!(seen.code(), "InvalidParameter");

    let summary = site.ask("POST", &insights(&scope, "summarize"), None).await;
    let value = &summary.body["value"][0];
    assert_eq!(
        value["results"]["nonCompliantResources"], 1,
        "{:?}",
        summary.body
    );
    assert_eq!(
        value["policyAssignments"][0]["results"]["nonCompliantResources"],
        1
    );
    assert!(
        value["results"]["queryResultsUri"]
            .as_str()
            .unwrap()
            .contains("/queryResults?")
    );
    let filtered = format!(
        "{}&$filter=resourceLocation%20eq%20'north'",
        insights(&scope, "summarize")
    );
    let summary = site.ask("POST", &filtered, None).await;
    assert_eq!(
        summary.body["value"][0]["results"]["nonCompliantResources"],
        0
    );

    let begun = site
        .ask("POST", &insights(&scope, "triggerEvaluation"), None)
        .await;
    assert_eq!(begun.status, 202, "{:?}", begun.body);
    let ended = site.wait(begun.header("location")).await;
    assert_eq!(
        (ended.status, &ended.body["status"]),
        (200, &json!("Succeeded"))
    );
    let other = format!("{GROUP}/providers/Microsoft.PolicyInsights/asyncOperationResults/x");
    assert_eq!(site.get(&other).await.status, 404);

    // A write, an exemption and the end of an assignment are seen without being asked for.
    let exemption = at(&gallery("bad"), "policyExemptions", "e");
    let exempt = json!({ "properties": { "policyAssignmentId": assignment, "exemptionCategory": "Waiver" } });
    made(&site, &exemption, exempt).await;
    let one = insights(&gallery("bad"), "queryResults");
    until(&site, "POST", &one, |body| {
        body["value"][0]["complianceState"] == "Exempt"
    })
    .await;

    // What was before is told by `default`, in its range.
    let history = one.replace("/latest/", "/default/");
    until(&site, "POST", &history, |body| {
        let records = body["value"].as_array().unwrap();
        let mut states: Vec<_> = records.iter().map(|one| &one["complianceState"]).collect();
        states.sort_by_key(|state| state.to_string());
        states == ["Exempt", "NonCompliant"]
    })
    .await;
    let earlier = "$from=2020-01-01T00:00:00Z&$to=2020-01-02T00:00:00Z";
    assert_eq!(count(&format!("{history}&{earlier}")).await, 0);
    assert_eq!(site.delete(&assignment).await.status, 200);
    until(&site, "POST", &all, |body| body["@odata.count"] == 0).await;
}

#[tokio::test]
async fn states_are_explained_and_policies_tried() {
    let site = Site::start().await.with_group().await;
    let gallery = format!("{GROUP}/providers/Microsoft.Compute/galleries/g");
    made(&site, &gallery, json!({ "location": "south" })).await;
    let ask = async |scope: &str, body: Value| {
        let path = format!("{scope}/providers/Bullion.Factory/policyWhatIf");
        site.ask("POST", &path, Some(json!({ "properties": body })))
            .await
    };
    let definition = deny("Microsoft.Compute/galleries", "south");
    let tried = ask(&subscription(), json!({ "definition": definition })).await;
    assert_eq!(tried.status, 200, "{:?}", tried.body);
    assert_eq!(
        tried.body["properties"]["records"][0]["complianceState"],
        "NonCompliant"
    );
    let stored = site
        .get(&format!(
            "{}/{AUTHORIZATION}/policyAssignments",
            subscription()
        ))
        .await;
    assert_eq!(
        stored.body["value"],
        json!([]),
        "nothing is assigned by asking"
    );
    for body in [
        json!({}),
        json!({ "definition": 1 }),
        json!({ "definition": { "policyRule": {} } }),
        json!({ "resource": { "id": "/subscriptions/x" } }),
        json!({ "resource": { "id": gallery }, "definition": definition }),
    ] {
        let seen = ask(GROUP, body.clone()).await;
        assert_eq!(seen.status, 400, "{body}: {:?}", seen.body);
    }

    let id = at(&subscription(), "policyDefinitions", "d");
    made(&site, &id, definition).await;
    made(
        &site,
        &at(&subscription(), "policyAssignments", "a"),
        assign(&id, json!({})),
    )
    .await;
    let proposed = json!({ "id": format!("{gallery}2"), "location": "south" });
    let seen = ask(GROUP, json!({ "resource": proposed })).await;
    assert_eq!(
        seen.body["properties"]["decision"]["denied"], true,
        "{:?}",
        seen.body
    );

    let why = format!("{gallery}/providers/Bullion.Factory/compliance/default");
    let bad = |body: &Value| body["properties"]["complianceState"] == "NonCompliant";
    let seen = until(&site, "GET", &why, bad).await;
    let policy = &seen["properties"]["policies"][0];
    assert_eq!(policy["policyDefinitionDisplayName"], "Not there");
    assert!(policy["since"].is_string());
    let decided = policy["evaluatedExpressions"].as_array().unwrap();
    assert!(
        decided.iter().any(|one| one["decided"] == true),
        "{decided:?}"
    );
    let none = format!(
        "{GROUP}/providers/Microsoft.Compute/galleries/none/providers/Bullion.Factory/compliance/default"
    );
    assert_eq!(site.get(&none).await.status, 404);
    assert_eq!(
        site.get(&why.replace("/default", "/other")).await.status,
        404
    );
}

/// A promotion makes a version in a job; the stage's policies are asked when it is asked for.
#[tokio::test]
async fn a_promotion_is_refused_by_the_policies_of_its_stage() {
    let (site, pipeline, id) = super::promotions::world().await;
    let test = GROUP.replace("/factory", "/test");
    let definition = at(&subscription(), "policyDefinitions", "d");
    let versions = "Microsoft.Compute/galleries/images/versions";
    made(&site, &definition, deny(versions, "south")).await;
    let assignment = at(&test, "policyAssignments", "a");
    made(&site, &assignment, assign(&definition, json!({}))).await;
    let asked = super::promotions::asked(&pipeline);
    let seen = site.put(&id, asked.clone()).await;
    assert_eq!(
        (seen.status, seen.code()),
        (403, "RequestDisallowedByPolicy"),
        "{:?}",
        seen.body
    );
    assert_eq!(site.get(&id).await.status, 404);
    assert_eq!(site.delete(&assignment).await.status, 200);
    assert_eq!(site.put(&id, asked).await.status, 201);
}

#[tokio::test]
async fn what_was_refused_is_an_event() {
    let site = Site::start().await.with_group().await;
    let scope = subscription();
    let definition = at(&scope, "policyDefinitions", "not-there");
    let body = deny("Microsoft.Compute/galleries", "south");
    made(&site, &definition, body).await;
    let assignment = at(&scope, "policyAssignments", "a");
    made(&site, &assignment, assign(&definition, json!({}))).await;
    let gallery = format!("{GROUP}/providers/Microsoft.Compute/galleries/g");
    let refused = site.put(&gallery, json!({ "location": "south" })).await;
    assert_eq!(refused.code(), "RequestDisallowedByPolicy");
    made(&site, &gallery, json!({ "location": "north" })).await;

    let events = |scope: &str, view: &str, query: &str| {
        format!(
            "{scope}/providers/Microsoft.PolicyInsights/policyEvents/{view}/queryResults?api-version=2019-10-01{query}"
        )
    };
    let denied = "&$filter=policyDefinitionAction%20eq%20'deny'%20and%20isCompliant%20eq%20false";
    for place in [&scope, GROUP, &assignment, &definition] {
        let seen = site
            .ask("POST", &events(place, "default", denied), None)
            .await;
        assert_eq!(seen.status, 200, "{:?}", seen.body);
        assert_eq!(seen.body["@odata.count"], 1, "{place}: {:?}", seen.body);
        let event = &seen.body["value"][0];
        assert_eq!(event["resourceId"], gallery);
        assert_eq!(event["policyDefinitionAction"], "deny");
        assert_eq!(event["complianceState"], "NonCompliant");
        assert_eq!(event["tenantId"], site.tenant.to_string());
        assert!(!event["principalOid"].as_str().unwrap().is_empty());
    }
    let apply = "&$apply=groupby((policyAssignmentName),aggregate($count%20as%20n))";
    let counted = site
        .ask("POST", &events(&scope, "default", apply), None)
        .await;
    assert_eq!(counted.body["value"][0]["policyAssignmentName"], "a");
    // A refused request is no state, and no change of one.
    let states = format!(
        "{gallery}/providers/Microsoft.PolicyInsights/policyStates/default/queryResults?api-version=2019-10-01"
    );
    let all_fine = |body: &Value| {
        let found = body["value"].as_array().unwrap();
        !found.is_empty()
            && found
                .iter()
                .all(|one| one["complianceState"] == "Compliant")
    };
    until(&site, "POST", &states, all_fine).await;
    let latest = site.ask("POST", &events(&scope, "latest", ""), None).await;
    assert_eq!((latest.status, latest.code()), (400, "InvalidParameter"));
}
