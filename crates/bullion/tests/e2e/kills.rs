//! A server that is killed in each step of a small build, after the step's act, before those that are seen
//! outside, and while a customizer or apt runs: the run ends as if nothing had been, and nothing is left on the host.

use std::time::Duration;

use serde_json::Value;

use super::support::{Installation, wait_for};
use super::{STAGE_DEADLINE, apply, list, versions_of};

const TEMPLATE: &str = "small";
const IMAGE: &str = "golden/small";
/// A template whose base and first package list are those of the first one.
const DOCUMENTS: &str = "kind: ImageDefinition
name: small
gallery: golden
osType: Linux
osState: Generalized
hyperVGeneration: V2
architecture: x64
identifier:
  publisher: ExampleCorp
  offer: debian
  sku: small
---
kind: ImageTemplate
name: small
resourceGroup: images
source:
  type: PlatformImage
  publisher: Debian
  offer: debian-12
  sku: 12-gen2
  version: latest
customize:
  - type: Packages
    name: package
    packages: [tree]
  - type: Shell
    name: busy
    inline:
      - i=0; while [ $i -lt 1000000 ]; do i=$((i + 1)); done; echo done > /etc/busy
  - type: File
    name: file
    source: files/issue.net
    destination: /etc/small
distribute:
  - type: SharedImage
    imageDefinition: golden/small
    major: 1
    targetRegions:
      - name: north
      - name: south
vmProfile:
  osDiskSizeGB: 2
";
/// Where a step is met. A run that was begun twenty times is given up, so not every place of every step can be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Met {
    /// Its result is found, or a machine boots in it for minutes.
    Not,
    /// Its act is done, and nobody wrote down that it is.
    After,
    /// Also before it begins.
    Around,
    /// Also while its programs run.
    Within,
}

/// The steps in order.
const STEPS: [(&str, Met); 13] = [
    ("resolve", Met::Around),
    ("base", Met::Not),
    ("package", Met::Within),
    ("busy", Met::Within),
    ("file", Met::After),
    ("generalize", Met::After),
    ("version", Met::After),
    ("write", Met::After),
    ("secrets", Met::After),
    ("bios", Met::Not),
    ("statements", Met::After),
    ("version", Met::Around),
    ("north", Met::After),
];
/// Until programs of a step run, on a busy host.
const STEP_DEADLINE: Duration = Duration::from_secs(300);

/// One run through all kills.
pub fn a_small_build_goes_through_every_kill(installation: &mut Installation) {
    let folder = installation.beside("factory");
    std::fs::write(folder.join("small.yaml"), DOCUMENTS).expect("cannot write a file");
    apply(installation);
    installation.stop();
    installation.start_to_halt_at(&place("BeforeAction", 0));
    let started = installation.json(&["build", "run", TEMPLATE, "--no-wait"]);
    let run = started["name"]
        .as_str()
        .expect("a run has a name")
        .to_owned();
    kill(installation);
    let mut kills = 1;
    for (seq, (_, met)) in STEPS.iter().enumerate() {
        if seq > 0 && *met == Met::Around {
            installation.start_to_halt_at(&place("BeforeAction", seq));
            kill(installation);
            kills += 1;
        }
        if *met == Met::Within {
            kill_while_programs_run(installation);
            kills += 1;
        }
        if *met != Met::Not {
            installation.start_to_halt_at(&place("AfterAction", seq));
            kill(installation);
            kills += 1;
        }
    }
    installation.start_to_halt_at("build-run:AfterSettle");
    kill(installation);
    eprintln!("the small build was killed {} times", kills + 1);
    installation.start();
    check(installation, &run);
}

fn place(point: &str, seq: usize) -> String {
    format!("build-run:{point}({seq})")
}

/// Kills it once it has come to its place. Whatever the place, the host is as before.
fn kill(installation: &mut Installation) {
    installation.wait_for_halt(STAGE_DEADLINE);
    installation.kill();
    installation.wait_for_quiet();
}

fn kill_while_programs_run(installation: &mut Installation) {
    installation.start();
    wait_for("a program of the step to run", STEP_DEADLINE, || {
        (!installation.programs().is_empty()).then_some(())
    });
    installation.kill();
    installation.wait_for_quiet();
}

/// One run, each step once in its record, one version, and no folder of a step left.
fn check(installation: &Installation, run: &str) {
    let done = wait_for("the run to end", STAGE_DEADLINE, || {
        let shown = installation.json(&["build", "show", run]);
        (shown["properties"]["runState"] != "Running").then_some(shown)
    });
    let properties = &done["properties"];
    assert_eq!(properties["runState"], "Succeeded", "{done:#}");
    let names: Vec<&str> = list(&properties["steps"])
        .map(|step| {
            assert_eq!(step["state"], "Succeeded", "{step:#}");
            step["name"].as_str().unwrap_or_default()
        })
        .collect();
    let expected = STEPS.iter().map(|(name, _)| *name).chain(["south"]);
    assert_eq!(names, expected.collect::<Vec<_>>());
    assert_eq!(versions_of(installation, IMAGE), ["1.0.0"]);
    let runs = installation.json(&["build", "list"]);
    let of = |run: &&Value| {
        run["properties"]["template"]
            .as_str()
            .is_some_and(|id| id.ends_with("/small"))
    };
    assert_eq!(list(&runs).filter(of).count(), 1, "{runs:#}");
    installation.wait_for_quiet();
    assert_eq!(installation.left_of_steps(), [""; 0]);
}
