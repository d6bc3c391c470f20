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

/// The verdict on a machine that runs the latest version, or did before an earlier quickstart brought a newer one.
pub fn before(client: &Client, wanted: &Wanted, newer_is_there: bool) -> Result<Verdict> {
    stop_if_interrupted()?;
    let step = Step::begin(format!("verdict on {}", wanted.name));
    let verdict = wait_until(VERDICT_DEADLINE, "a verdict", || {
        let verdict = explain(client, wanted, &step)?;
        Ok(verdict.filter(|verdict| newer_is_there || verdict.state == COMPLIANT))
    })?;
    step.done(&verdict.in_a_word());
    Ok(verdict)
}

/// The verdict once the newer version is there: it must have turned, with a reason that names both versions.
pub fn after(client: &Client, wanted: &Wanted, newer: &str) -> Result<Verdict> {
    stop_if_interrupted()?;
    let step = Step::begin(format!("verdict on {} after {newer}", wanted.name));
    let verdict = wait_until(VERDICT_DEADLINE, "the verdict to turn", || {
        let verdict = explain(client, wanted, &step)?;
        Ok(verdict.filter(|verdict| verdict.state == NON_COMPLIANT))
    })?;
    let older = wanted.image.rsplit('/').next().unwrap_or_default();
    if !verdict.reason.contains(older) || !verdict.reason.contains(newer) {
        step.failed("");
        bail!(
            "the reason does not name {older} and {newer}: {}",
            verdict.reason
        );
    }
    let version = client.json(&["version", "show", &format!("{RELEASED}/{newer}")], &step)?;
    let visible = text(&version["systemData"]["createdAt"]);
    let verdict = Verdict {
        milliseconds: Some(between(&visible, &verdict.since)?),
        ..verdict
    };
    step.done(&verdict.in_a_word());
    Ok(verdict)
}

fn explain(client: &Client, wanted: &Wanted, step: &Step) -> Result<Option<Verdict>> {
    let told = client.answer(&["compliance", "explain", wanted.name], step)?;
    Ok(Verdict::of(wanted.name, &told))
}

impl Verdict {
    /// Reads what `bullion compliance explain` prints.
    fn of(machine: &str, told: &Value) -> Option<Self> {
        let policy = list(&told["policies"])
            .iter()
            .find(|policy| policy["assignment"]["name"] == ASSIGNMENT)?;
        Some(Self {
            machine: machine.to_owned(),
            state: text(&policy["complianceState"]),
            since: text(&policy["since"]),
            reason: text(&policy["reason"]),
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
        let told = serde_json::json!({"complianceState": "NonCompliant", "policies": [
            {"assignment": {"name": "other"}, "complianceState": "Compliant"},
            {"assignment": {"name": ASSIGNMENT}, "complianceState": "NonCompliant",
             "since": "2026-01-01T00:00:00.5Z", "reason": "runs 1.0.0, latest is 1.0.1"}]});
        let verdict = Verdict::of("m", &told).unwrap();
        assert_eq!(
            verdict.in_a_word(),
            "NonCompliant: runs 1.0.0, latest is 1.0.1"
        );
        assert_eq!(Verdict::of("m", &Value::Null), None);
    }

    #[test]
    fn moments_are_compared_in_milliseconds() {
        let far = between("2026-01-01T00:00:00.25Z", "2026-01-01T00:00:01.000001Z");
        assert_eq!(far.unwrap(), 750);
        assert!(between("", "2026-01-01T00:00:01Z").is_err());
    }
}
