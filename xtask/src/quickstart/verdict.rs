//! What the policy of production says of its machine: before a newer version got there, and after.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::client::Client;
use super::flow::stop_if_interrupted;
use super::machine::Wanted;
use super::server::wait_until;
use crate::progress::Step;
use crate::workspace::{list, text};

/// The assignment of `examples/golden-debian`.
const ASSIGNMENT: &str = "prod-runs-latest";
const RELEASED: &str = "golden_prod/debian-12";
const COMPLIANT: &str = "Compliant";
const NON_COMPLIANT: &str = "NonCompliant";
/// A verdict that is not there by then does not come.
const VERDICT_DEADLINE: Duration = Duration::from_secs(60);

/// What one policy says of one machine.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Verdict {
    pub machine: String,
    pub state: String,
    /// Since when, as the server wrote it down.
    pub since: String,
    pub reason: String,
    /// From the moment at which the newer version became visible.
    pub milliseconds: Option<i64>,
}

/// The verdict on a machine that runs the latest version.
pub fn before(client: &Client, wanted: &Wanted) -> Result<Verdict> {
    stop_if_interrupted()?;
    let step = Step::begin(format!("verdict on {}", wanted.name));
    let verdict = wait_until(VERDICT_DEADLINE, "a verdict", || {
        let verdict = stored(client, wanted, &step)?;
        Ok(verdict.filter(|verdict| verdict.state == COMPLIANT))
    })?;
    step.done(&verdict.in_a_word());
    Ok(verdict)
}

/// The verdict once the newer version is there: it must have turned, with a reason that names both versions.
pub fn after(client: &Client, wanted: &Wanted, newer: &str) -> Result<Verdict> {
    stop_if_interrupted()?;
    let step = Step::begin(format!("verdict on {} after {newer}", wanted.name));
    let verdict = wait_until(VERDICT_DEADLINE, "the verdict to turn", || {
        let verdict = stored(client, wanted, &step)?;
        Ok(verdict.filter(|verdict| verdict.state == NON_COMPLIANT))
    })?;
    let explained = client.answer(&["compliance", "explain", wanted.name], &step)?;
    let reason = explained_reason(&explained).unwrap_or_default();
    let older = wanted.image.rsplit('/').next().unwrap_or_default();
    if !reason.contains(older) || !reason.contains(newer) {
        step.failed("");
        bail!("the reason does not name {older} and {newer}: {reason}");
    }
    let version = client.json(&["version", "show", &format!("{RELEASED}/{newer}")], &step)?;
    let visible = text(&version["systemData"]["createdAt"]);
    let machine = client.json(&["vm", "show", wanted.name], &step)?;
    let made = text(&machine["systemData"]["createdAt"]);
    // One that was made after `--stop`, from the older version, did not wait for the newer one.
    let was_there = !made.is_empty() && between(&made, &visible)? >= 0;
    let milliseconds = between(&visible, &verdict.since)?;
    let verdict = Verdict {
        milliseconds: was_there.then_some(milliseconds),
        reason,
        ..verdict
    };
    step.done(&verdict.in_a_word());
    Ok(verdict)
}

/// The verdict as the server keeps it.
fn stored(client: &Client, wanted: &Wanted, step: &Step) -> Result<Option<Verdict>> {
    let states = client.json(&["compliance", "list"], step)?;
    Ok(Verdict::of(wanted.name, &states))
}

/// What `bullion compliance explain` gives as our policy's reason.
fn explained_reason(explained: &Value) -> Option<String> {
    let policy = list(&explained["policies"])
        .iter()
        .find(|policy| last(&policy["policyAssignmentId"]).eq_ignore_ascii_case(ASSIGNMENT))?;
    (policy["complianceState"] == NON_COMPLIANT).then(|| text(&policy["reason"]))
}

impl Verdict {
    /// Finds the machine in what `bullion compliance list` prints.
    fn of(machine: &str, states: &Value) -> Option<Self> {
        let state = list(states).iter().find(|state| {
            state["policyAssignmentName"] == ASSIGNMENT
                && last(&state["resourceId"]).eq_ignore_ascii_case(machine)
        })?;
        Some(Self {
            machine: machine.to_owned(),
            state: text(&state["complianceState"]),
            since: text(&state["since"]),
            reason: text(&state["reason"]),
            milliseconds: None,
        })
    }

    pub fn in_a_word(&self) -> String {
        let reason = match self.reason.is_empty() {
            true => String::new(),
            false => format!(": {}", self.reason),
        };
        let after = self.milliseconds.map_or_else(String::new, |milliseconds| {
            format!(" ({milliseconds} ms after the version was there)")
        });
        format!("{}{reason}{after}", self.state)
    }
}

/// The name at the end of a resource id.
fn last(id: &Value) -> String {
    let id = text(id);
    id.rsplit('/').next().unwrap_or_default().to_owned()
}

/// Milliseconds from one moment to another.
fn between(from: &str, to: &str) -> Result<i64> {
    let read = |text: &str| {
        text.parse::<jiff::Timestamp>()
            .with_context(|| format!("`{text}` is not a time"))
    };
    Ok(read(to)?.as_millisecond() - read(from)?.as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_of_our_assignment_is_read() {
        let record = |machine: &str, assignment: &str, state: &str| {
            serde_json::json!({"resourceId": format!("/subscriptions/s/virtualMachines/{machine}"),
                "policyAssignmentName": assignment, "complianceState": state,
                "since": "2026-01-01T00:00:00.5Z", "reason": "runs 1.0.0, latest is 1.0.1"})
        };
        let states = serde_json::json!([
            record("M", "other", "Compliant"),
            record("n", ASSIGNMENT, "Compliant"),
            record("M", ASSIGNMENT, NON_COMPLIANT),
        ]);
        let verdict = Verdict::of("m", &states).unwrap();
        assert_eq!(
            verdict.in_a_word(),
            "NonCompliant: runs 1.0.0, latest is 1.0.1"
        );
        assert_eq!(Verdict::of("o", &states), None);
        let explained = |state: &str| {
            serde_json::json!({"policies": [
                {"policyAssignmentId": "/subscriptions/s/other", "complianceState": state, "reason": "o"},
                {"policyAssignmentId": format!("/subscriptions/s/{ASSIGNMENT}"),
                 "complianceState": state, "reason": "r"}]})
        };
        let reason = explained_reason(&explained(NON_COMPLIANT));
        assert_eq!(reason.as_deref(), Some("r"));
        assert_eq!(explained_reason(&explained(COMPLIANT)), None);
    }

    #[test]
    fn moments_are_compared_in_milliseconds() {
        let far = between("2026-01-01T00:00:00.25Z", "2026-01-01T00:00:01.000001Z");
        assert_eq!(far.unwrap(), 750);
        assert!(between("", "2026-01-01T00:00:01Z").is_err());
    }
}
