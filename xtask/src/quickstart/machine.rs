//! Machines of a quickstart: begun, so that others may boot beside them, then waited for. They stay.

use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::Value;

use super::client::Client;
use super::flow::stop_if_interrupted;
use super::report::Machine;
use super::server::wait_until;
use crate::progress::Step;
use crate::workspace::{list, text};

/// A machine of 1 GiB, its emulator, and as much again for what runs beside it.
const MEMORY_FOR_TWO_KIB: u64 = 3 << 20;
/// An emulated boot on a busy host.
const BOOT_DEADLINE: Duration = Duration::from_secs(1200);

/// A machine that a quickstart makes.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    pub name: &'static str,
    pub image: &'static str,
    pub region: &'static str,
    /// The resource group, whose subscription it is in.
    pub group: &'static str,
}

/// What was found of a machine, or done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    Found,
    Started,
    /// There is no memory for two at once.
    NotYet,
}

/// Has the server make the machine, and does not wait for it, if there is memory for more than one.
pub fn begin(client: &Client, wanted: &Wanted) -> Result<Begun> {
    stop_if_interrupted()?;
    let step = Step::begin(format!("machine {}", wanted.name));
    let begun = make(client, wanted, has_memory_for_two(), &step)?;
    step.done(match begun {
        Begun::Found => "found running",
        Begun::Started => "begun; it boots beside what comes next",
        Begun::NotYet => "later: there is no memory for two at once",
    });
    Ok(begun)
}

/// The machine, once it runs, and what it says from inside it is.
pub fn finish(client: &Client, wanted: &Wanted, begun: Option<Begun>) -> Result<Machine> {
    stop_if_interrupted()?;
    let step = Step::begin(format!("machine {} in {}", wanted.name, wanted.region));
    let begun = match begun {
        None | Some(Begun::NotYet) => make(client, wanted, true, &step)?,
        Some(begun) => begun,
    };
    wait_until(BOOT_DEADLINE, "the machine to boot", || {
        let shown = client.json(&["vm", "show", wanted.name], &step)?;
        match text(&shown["properties"]["provisioningState"]).as_str() {
            "Succeeded" => Ok(Some(())),
            "Failed" | "Canceled" => bail!(
                "the machine {} did not come up: {}",
                wanted.name,
                text(&shown["properties"]["bullion"]["error"]["message"])
            ),
            _ => Ok(None),
        }
    })?;
    let tattoo = client.json(&["vm", "tattoo", wanted.name], &step)?;
    let found = begun == Begun::Found;
    let machine = Machine::of_tattoo(wanted.name, wanted.region, found, &tattoo);
    step.done(&machine.in_a_word());
    Ok(machine)
}

pub fn delete(client: &Client, wanted: &Wanted) {
    let step = Step::begin(format!("delete machine {}", wanted.name));
    match client.json(&["vm", "delete", wanted.name, "--yes"], &step) {
        Ok(_) => step.done("the next quickstart makes it again"),
        Err(_) => step.done("there was none"),
    };
}

fn make(client: &Client, wanted: &Wanted, now: bool, step: &Step) -> Result<Begun> {
    let machines = client.json(&["vm", "list"], step)?;
    let known = list(&machines)
        .iter()
        .any(|machine| machine["name"] == wanted.name);
    if known {
        let shown = client.json(&["vm", "show", wanted.name], step)?;
        if is_running(&shown) || is_coming(&shown) {
            return Ok(Begun::Found);
        }
    }
    if !now {
        return Ok(Begun::NotYet);
    }
    if known {
        // Its process is gone, as after a restart of this host: what it was is in the image.
        client.json(&["vm", "delete", wanted.name, "--yes"], step)?;
    }
    let create = [
        "vm",
        "create",
        wanted.name,
        "--image",
        wanted.image,
        "--region",
        wanted.region,
        "--resource-group",
        wanted.group,
        "--no-wait",
    ];
    client.json(&create, step)?;
    Ok(Begun::Started)
}

fn is_running(machine: &Value) -> bool {
    let properties = &machine["properties"];
    let statuses = list(&properties["instanceView"]["statuses"]);
    statuses
        .iter()
        .any(|status| status["code"] == "PowerState/running")
        || properties["bullion"]["powerState"]
            .as_str()
            .is_some_and(|state| state.eq_ignore_ascii_case("running"))
}

/// An interrupted quickstart left it to the server.
fn is_coming(machine: &Value) -> bool {
    let state = text(&machine["properties"]["provisioningState"]);
    matches!(state.as_str(), "Creating" | "Updating")
}

fn has_memory_for_two() -> bool {
    let told = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    available_kib(&told).is_some_and(|kib| kib >= MEMORY_FOR_TWO_KIB)
}

fn available_kib(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_powered_machine_is_running() {
        let check = |code: &str, expected: bool| {
            let machine = serde_json::json!({"properties": {"instanceView": {"statuses": [
                {"code": "ProvisioningState/succeeded"}, {"code": code}]}}});
            assert_eq!(is_running(&machine), expected, "{code}");
        };
        check("PowerState/running", true);
        check("PowerState/stopped", false);
        assert!(!is_running(&Value::Null));
    }

    #[test]
    fn memory_is_read_in_kib() {
        let told = "MemTotal:  100 kB\nMemAvailable:   4096 kB\n";
        assert_eq!(available_kib(told), Some(4096));
        assert_eq!(available_kib(""), None);
    }
}
