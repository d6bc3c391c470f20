//! The way of a version through the example's pipeline: a check that says no first, the promotion to each stage, the
//! approval by somebody else, and the proof that nothing but names moved.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::client::Client;
use super::place::Place;
use super::server::wait_until;
use crate::progress::Step;
use crate::workspace::{list, text};

/// What `examples/golden-debian` calls its parts.
const PIPELINE: &str = "golden";
pub const TEST: &str = "test";
pub const PROD: &str = "prod";
const APPROVER: &str = "release-approver";
/// The check of the stage `test`, and a line of it that cannot hold: machines under test have no way out.
const CHECK_FILE: &str = "scripts/check-functional.sh";
const IMPOSSIBLE: &str = "\ngetent hosts packages.example.com > /dev/null || fail \"packages.example.com has no address\"\n";
/// From an approval to the end of the promotion: a region may get the whole disk.
const PROMOTION_DEADLINE: Duration = Duration::from_secs(600);

/// A version that arrived at a stage.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Arrival {
    pub name: String,
    pub stage: String,
    pub version: String,
    /// Of the disk, as the version in the stage's own gallery says.
    pub digest: String,
    /// How many people said yes.
    pub approvals: usize,
    pub boot_seconds: Option<f64>,
    /// Bytes that each region of the stage got.
    pub moved: Vec<(String, u64)>,
    /// The disks of this stage and the one before were read anew, and have one digest.
    pub verified: bool,
    /// Of an attempt that a gate rejected: its gate and the output of what failed.
    pub rejected: Option<Rejected>,
    /// From asking for it to its end; nothing where it was found done.
    pub seconds: Option<f64>,
}

/// Why a gate said no.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rejected {
    pub gate: String,
    pub check: String,
    pub output: Vec<String>,
}

/// A copy of the example whose stage `test` asks for what no machine under test can have.
pub fn stricter(example: &Path, place: &Place) -> Result<PathBuf> {
    let copy = place.stricter_factory();
    super::flow::copy_example(example, &copy)?;
    super::flow::append(&copy.join(CHECK_FILE), IMPOSSIBLE)?;
    Ok(copy)
}

/// Whether the version is in the stage already.
pub fn is_done(client: &Client, stage: &str, version: &str) -> bool {
    let known = client.ask(&["promotion", "show", &name_of(stage, version)]);
    known.is_some_and(|known| known["properties"]["state"] == "Succeeded")
}

fn name_of(stage: &str, version: &str) -> String {
    format!("{PIPELINE}-{stage}-{version}")
}

/// Asks for a promotion that a gate must reject, and reads why it did.
pub fn is_rejected(client: &Client, stage: &str, version: &str) -> Result<Rejected> {
    let step = Step::begin(format!("{version} to {stage}, with a check that fails"));
    let args = ["promote", version, "--to", stage, "--pipeline", PIPELINE];
    if client.json(&args, &step).is_ok() {
        step.failed("");
        bail!("the promotion of {version} to {stage} passed a check that cannot pass");
    }
    let shown = client.json(&["promotion", "show", &name_of(stage, version)], &step)?;
    let rejected = rejection(&shown["properties"])
        .with_context(|| format!("the promotion of {version} to {stage} failed, but at no gate"))?;
    step.done(&format!("rejected by {}", rejected.in_a_word()));
    Ok(rejected)
}

/// Promotes a version to a stage, with an approval by somebody else where it waits for one. Found done, it is left as
/// it is.
pub fn promote(client: &Client, place: &Place, stage: &str, version: &str) -> Result<Arrival> {
    let step = Step::begin(format!("{version} to {stage}"));
    let name = name_of(stage, version);
    let show = ["promotion", "show", &name];
    let was_found = is_done(client, stage, version);
    let began = std::time::Instant::now();
    if !was_found {
        let args = ["promote", version, "--to", stage, "--pipeline", PIPELINE];
        let asked = client.json(&args, &step)?;
        if asked["properties"]["state"] == "WaitingForApproval" {
            approve(client, place, &name, &step)?;
        }
    }
    let shown = wait_until(PROMOTION_DEADLINE, "the promotion to end", || {
        let shown = client.json(&show, &step)?;
        let state = text(&shown["properties"]["state"]);
        match state.as_str() {
            "Running" | "WaitingForRegion" => Ok(None),
            "Succeeded" => Ok(Some(shown)),
            _ => bail!(
                "the promotion of {version} to {stage} is {state}: {}",
                text(&shown["properties"]["message"])
            ),
        }
    })?;
    let seconds = (!was_found).then(|| began.elapsed().as_secs_f64());
    let image = match stage {
        TEST => "golden_test/debian-12",
        _ => "golden_prod/debian-12",
    };
    let there = client.json(&["version", "show", &format!("{image}/{version}")], &step)?;
    // Every disk is read: once it has arrived, not each time that it is found.
    let verified = match was_found {
        true => false,
        false => client.json(&["promotion", "verify", &name], &step)?["equal"] == true,
    };
    let arrival = Arrival {
        seconds,
        digest: text(&there["properties"]["bullion"]["diskDigest"]),
        verified,
        ..Arrival::of(&name, &shown)
    };
    step.done(&arrival.in_a_word());
    Ok(arrival)
}

/// The second principal: an application of production that may approve, and nothing else.
fn approve(client: &Client, place: &Place, name: &str, step: &Step) -> Result<()> {
    let profile = place.approver();
    let written = profile.to_string_lossy();
    let secret = [
        "app",
        "secret",
        "add",
        APPROVER,
        "--write-profile",
        &written,
    ];
    client.json(&secret, step)?;
    let approver = client.signed_in_as(&profile);
    approver.json(&["promotion", "approve", name], step)?;
    Ok(())
}

/// The line with which somebody else approves.
pub fn approval_command(client: &Client, place: &Place, name: &str) -> String {
    format!(
        "{} --profile {} promotion approve {name}",
        client.typed(),
        place.approver().display()
    )
}

impl Arrival {
    /// Reads a promotion that succeeded.
    pub fn of(name: &str, shown: &Value) -> Self {
        let properties = &shown["properties"];
        let gates = list(&properties["gates"]);
        let approvals = gates.iter().map(|gate| &gate["evidence"]["approvals"]);
        let boots = gates.iter().map(|gate| &gate["evidence"]);
        let deployed = |evidence: &&Value| evidence["machine"].is_object();
        Self {
            name: name.to_owned(),
            stage: text(&properties["to"]["name"]),
            version: text(&properties["version"]),
            approvals: approvals.map(|yes| list(yes).len()).sum(),
            boot_seconds: boots
                .filter(deployed)
                .find_map(|evidence| evidence["bootSeconds"].as_f64()),
            moved: list(&properties["copies"])
                .iter()
                .map(|copy| {
                    let bytes = copy["movedBytes"].as_u64().unwrap_or(0);
                    (text(&copy["region"]), bytes)
                })
                .collect(),
            rejected: list(&properties["earlier"]).iter().find_map(rejection),
            ..Self::default()
        }
    }

    pub fn in_a_word(&self) -> String {
        let how = match self.seconds {
            None => "found".to_owned(),
            Some(seconds) => format!("run   {seconds:>8.1} s"),
        };
        let gate = match (self.boot_seconds, self.approvals) {
            (Some(boot), _) => format!(", its machine booted in {boot:.0} s"),
            (None, 0) => String::new(),
            (None, count) => format!(", approved by {count}"),
        };
        let proof = if self.verified { ", proved" } else { "" };
        format!("{how}{gate}{proof}")
    }
}

impl Rejected {
    pub fn in_a_word(&self) -> String {
        format!("{}: {}: {}", self.gate, self.check, self.output.join(", "))
    }
}

/// What a gate of this attempt failed on, if a gate did.
fn rejection(attempt: &Value) -> Option<Rejected> {
    let gate = list(&attempt["gates"])
        .iter()
        .find(|gate| gate["state"] == "Failed")?;
    let checks = list(&gate["evidence"]["checks"]);
    let check = checks.iter().find(|check| check["passed"] == false);
    let output = check.map_or_else(|| text(&gate["message"]), |check| text(&check["output"]));
    let said = |line: &&str| !line.is_empty() && !line.starts_with('+');
    Some(Rejected {
        gate: text(&gate["name"]),
        check: check.map(|check| text(&check["name"])).unwrap_or_default(),
        output: output
            .lines()
            .map(str::trim)
            .filter(said)
            .map(str::to_owned)
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promotion_is_read_with_the_attempt_that_was_rejected() {
        let shown = serde_json::json!({"properties": {
            "version": "1.0.0", "to": {"name": "test"},
            "gates": [
                {"name": "tests", "state": "Passed", "evidence": {"bootSeconds": 9.0}},
                {"name": "boots", "state": "Passed", "evidence": {"bootSeconds": 41.0, "machine": {"id": "m"}}}],
            "copies": [{"region": "north", "movedBytes": 0}],
            "earlier": [{"gates": [{"name": "boots", "state": "Failed", "evidence": {"checks": [
                {"name": "is-this-version", "passed": true, "output": "x"},
                {"name": "works", "passed": false, "output": "+ test 1\n\nno address\n\nexit status 1"}]}}]}]}});
        let arrival = Arrival::of("golden-test-1.0.0", &shown);
        assert_eq!(arrival.boot_seconds, Some(41.0), "the stage's own boot");
        assert_eq!(arrival.moved, [("north".to_owned(), 0)]);
        let rejected = arrival.rejected.unwrap();
        assert_eq!((&*rejected.gate, &*rejected.check), ("boots", "works"));
        assert_eq!(rejected.output, ["no address", "exit status 1"]);
    }

    #[test]
    fn an_attempt_that_failed_at_no_gate_is_no_rejection() {
        let attempt = serde_json::json!({"gates": [{"name": "a", "state": "NotReached"}]});
        assert_eq!(rejection(&attempt), None);
    }
}
