//! One version from `eng` through `test` to `prod`, with real disks and a real machine, while the server is killed
//! at every step, rights are taken away and a region is lost.

use std::time::Duration;

use serde_json::{Value, json};

use super::support::{Installation, wait_for};
use super::{IMAGE, STAGE_DEADLINE, list, versions_of};

const TO_TEST: &str = "golden-test-1.0.0";
const TO_PROD: &str = "golden-prod-1.0.0";
const TEST_IMAGE: &str = "golden_test/debian-12";
const PROD_IMAGE: &str = "golden_prod/debian-12";
/// Who releases, signed in.
const APPROVER: &str = "approver.json";
/// The steps of a promotion to `test`, in order; in one of them a machine boots.
const STEPS: [&str; 6] = [
    "source",
    "gate built-and-tested",
    "gate works-in-test",
    "copy",
    "publish",
    "replicate",
];
const BOOTS: usize = 2;
/// A step without a machine, on a busy host.
const STEP_DEADLINE: Duration = Duration::from_secs(120);

/// Killed before and after the act of each step, while its machine boots, and before its end is journaled, a promotion
/// ends as if nothing had been: one record, one version, each gate asked once.
pub fn goes_through_every_kill(installation: &mut Installation, digest: &str) {
    let early = installation.run(&["promote", "1.0.0", "--to", "prod"]);
    early.failed().tells(&["not in the stage `test`"]);

    installation.stop();
    installation.start_to_halt_at(&place("BeforeAction", 0));
    two_ask_at_once(installation);
    installation.kill_at_halt(STEP_DEADLINE);
    let mut kills = 1;
    for seq in 0..STEPS.len() {
        if seq > 0 {
            installation.start_to_halt_at(&place("BeforeAction", seq));
            installation.kill_at_halt(STEP_DEADLINE);
            kills += 1;
        }
        if seq == BOOTS {
            kill_while_a_machine_boots(installation);
            kills += 1;
        }
        installation.start_to_halt_at(&place("AfterAction", seq));
        installation.kill_at_halt(STAGE_DEADLINE);
        kills += 1;
    }
    installation.start_to_halt_at("promote:AfterSettle");
    installation.kill_at_halt(STEP_DEADLINE);
    eprintln!("the promotion to test was killed {} times", kills + 1);
    installation.start();

    let done = ended(installation, TO_TEST);
    assert_eq!(done["state"], "Succeeded", "{done:#}");
    assert_eq!(done["attempt"], 1, "{done:#}");
    check_gates(&done, &["built-and-tested", "works-in-test"]);
    check_evidence(&done, digest);
    assert_eq!(versions_of(installation, TEST_IMAGE), ["1.0.0"]);
    assert_eq!(versions_of(installation, IMAGE), ["1.0.0"]);
    let promotions = installation.json(&["promotion", "list"]);
    let names: Vec<&Value> = list(&promotions).map(|one| &one["name"]).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    check_proof(installation, TO_TEST, digest);
    installation.wait_for_quiet();
}

fn place(point: &str, seq: usize) -> String {
    format!("promote:{point}({seq})")
}

/// Both are answered with the one promotion that there is.
fn two_ask_at_once(installation: &Installation) {
    let ask = || installation.json(&["promote", "1.0.0", "--to", "test", "--no-wait"]);
    let (one, two) = std::thread::scope(|scope| {
        let other = scope.spawn(ask);
        (ask(), other.join().expect("the other one asks"))
    });
    assert_eq!(one["id"], two["id"]);
    for seen in [one, two] {
        assert_eq!(seen["properties"]["attempt"], 1, "{seen:#}");
    }
}

fn kill_while_a_machine_boots(installation: &mut Installation) {
    installation.start();
    wait_for("a machine to start", STAGE_DEADLINE, || {
        let programs = installation.programs();
        let machine = |program: &String| program.contains("qemu-system");
        programs.iter().any(machine).then_some(())
    });
    installation.kill();
    installation.wait_for_programs();
}

/// The machine was the stage's and ran this version, and each check was answered once.
fn check_evidence(promotion: &Value, digest: &str) {
    let evidence = &promotion["gates"][1]["evidence"];
    assert_eq!(evidence["diskDigest"], digest);
    let machine = &evidence["machine"];
    assert_eq!(machine["region"], "north", "{machine:#}");
    assert_eq!(machine["tenant"], promotion["to"]["tenant"], "{machine:#}");
    assert_eq!(machine["firmware"], "uefi", "{machine:#}");
    assert!(machine["id"].is_string() && machine["endedAt"].is_string());
    assert!(evidence["bootSeconds"].as_f64() > Some(0.0), "{evidence:#}");
    let mut names: Vec<&Value> = list(&evidence["checks"])
        .map(|check| {
            assert_eq!(check["passed"], true, "{check:#}");
            &check["name"]
        })
        .collect();
    let asked = names.len();
    assert!(asked > 1, "{evidence:#}");
    names.dedup();
    assert_eq!(names.len(), asked);
}

fn check_gates(promotion: &Value, names: &[&str]) {
    let gates: Vec<(&str, &str)> = list(&promotion["gates"])
        .map(|gate| {
            let text = |key: &str| gate[key].as_str().unwrap_or_default();
            (text("name"), text("state"))
        })
        .collect();
    let expected: Vec<(&str, &str)> = names.iter().map(|name| (*name, "Passed")).collect();
    assert_eq!(gates, expected);
}

/// Both stages' disks, read anew, have the digest of the build; where a region had the blocks, none were moved.
fn check_proof(installation: &Installation, name: &str, digest: &str) {
    let proof = installation.json(&["promotion", "verify", name]);
    assert_eq!(proof["equal"], true, "{proof:#}");
    for stage in list(&proof["stages"]) {
        assert_eq!(stage["diskDigest"], digest, "{proof:#}");
        assert!(list(&stage["computedIn"]).count() > 0, "{proof:#}");
        assert_eq!(list(&stage["missingIn"]).count(), 0, "{proof:#}");
    }
    let promotion = show(installation, name);
    let copies: Vec<&Value> = list(&promotion["copies"]).collect();
    assert!(!copies.is_empty(), "{promotion:#}");
    for copy in copies {
        eprintln!(
            "{name}: {} bytes moved to {}, {} frames were there",
            copy["movedBytes"], copy["region"], copy["framesPresent"]
        );
        let shared = ["north", "south"]
            .iter()
            .any(|region| copy["region"] == *region);
        assert_eq!(copy["movedBytes"] == 0, shared, "{copy:#}");
    }
}

/// The stage's role in the tenant before it is taken away, and a promotion stops; given back, it goes on.
pub fn stops_without_consent(installation: &Installation) {
    let tenant = show(installation, TO_TEST)["to"]["tenant"].clone();
    let tenant = tenant.as_str().expect("a stage has a tenant");
    let consent = "/providers/Bullion.Factory/servicePrincipals/promote-prod";
    let withdraw = ["rest", "DELETE", consent, "--tenant", tenant];
    installation.run(&withdraw).succeeded();
    let stopped = installation.run(&["promote", "1.0.0", "--to", "prod"]);
    stopped.failed().tells(&["LinkedAuthorizationFailed"]);
    assert_eq!(versions_of(installation, PROD_IMAGE), [""; 0]);
    let folder = installation.beside("factory");
    let apply = ["apply", &folder.to_string_lossy(), "--yes"].map(str::to_owned);
    let apply: Vec<&str> = apply.iter().map(String::as_str).collect();
    installation.run(&apply).succeeded();
}

/// It waits as a record: killed and started again, the server still knows, and who asked cannot say yes.
pub fn waits_for_somebody_else(installation: &mut Installation) {
    let asked = installation.run(&["promote", "1.0.0", "--to", "prod"]);
    asked.succeeded().tells(&["bullion promotion approve"]);
    let before = show(installation, TO_PROD);
    assert_eq!(before["state"], "WaitingForApproval", "{before:#}");
    installation.kill();
    installation.start();
    let after = show(installation, TO_PROD);
    assert_eq!(
        after, before,
        "waiting survives a kill, and its end does not move"
    );
    let own = installation.run(&["promotion", "approve", TO_PROD]);
    own.failed().tells(&["asked for a promotion"]);
}

/// A promotion that was approved while its region was away.
pub struct Approved {
    gates: Value,
}

/// Somebody else says yes, and the server is killed before it can do anything about it. Then a region of the stage is
/// away: the promotion waits, and nothing is lost.
pub fn waits_for_a_region(installation: &mut Installation) -> Approved {
    let asked = show(installation, TO_PROD);
    let region = asked["to"]["targetRegions"][0]["name"].as_str();
    let region = region.expect("a stage has a region").to_owned();
    installation.stop();
    installation.start_to_halt_at(&place("BeforeAction", 0));
    approve(installation);
    installation.kill_at_halt(STEP_DEADLINE);

    let copy = STEPS.iter().position(|step| *step == "copy");
    let copy = copy.expect("a promotion copies");
    installation.start_to_halt_at(&place("BeforeAction", copy));
    installation.kill_at_halt(STEP_DEADLINE);
    installation.unplug_region(&region);
    installation.start();
    let waiting = wait_for("the promotion to wait", STEP_DEADLINE, || {
        let promotion = show(installation, TO_PROD);
        (promotion["state"] != "Running").then_some(promotion)
    });
    assert_eq!(waiting["state"], "WaitingForRegion", "{waiting:#}");
    assert_eq!(waiting["regionFailures"], 1, "{waiting:#}");
    assert!(waiting["retryTime"].is_string(), "{waiting:#}");
    check_gates(&waiting, &["built-and-tested", "release-approval"]);
    assert_eq!(versions_of(installation, PROD_IMAGE), [""; 0]);
    installation.plug_region_in(&region);
    Approved {
        gates: waiting["gates"].clone(),
    }
}

fn approve(installation: &Installation) {
    let profile = installation.beside(APPROVER);
    let profile = profile.to_string_lossy();
    let sign_in = [
        "app",
        "secret",
        "add",
        "release-approver",
        "--write-profile",
        &profile,
    ];
    installation.run(&sign_in).succeeded();
    let approve = ["promotion", "approve", TO_PROD, "--comment", "looked at it"];
    installation.run_as(APPROVER, &approve).succeeded();
}

impl Approved {
    /// With its region back it went on by itself, on the approval that it had.
    pub fn is_finished(&self, installation: &Installation, digest: &str) {
        let done = ended(installation, TO_PROD);
        assert_eq!(done["state"], "Succeeded", "{done:#}");
        assert_eq!(done["gates"], self.gates, "no gate was asked again");
        let approvals = list(&done["gates"][1]["evidence"]["approvals"]);
        let comments: Vec<&Value> = approvals.map(|yes| &yes["comment"]).collect();
        assert_eq!(comments, [&json!("looked at it")]);
        for image in [IMAGE, TEST_IMAGE, PROD_IMAGE] {
            assert_eq!(versions_of(installation, image), ["1.0.0"]);
        }
        check_proof(installation, TO_PROD, digest);
    }
}

fn show(installation: &Installation, name: &str) -> Value {
    let shown = installation.json(&["promotion", "show", name]);
    shown["properties"].clone()
}

/// The promotion, once nothing moves it any more.
fn ended(installation: &Installation, name: &str) -> Value {
    wait_for("the promotion to end", STAGE_DEADLINE, || {
        let promotion = show(installation, name);
        let state = promotion["state"].as_str().unwrap_or_default();
        let moves = ["Running", "WaitingForApproval", "WaitingForRegion"].contains(&state);
        (!moves).then_some(promotion)
    })
}
