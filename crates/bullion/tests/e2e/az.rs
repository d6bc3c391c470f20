//! The real az, on what the rest of the test made: scripts say what is done. Without az, nothing is.

use std::process::Command;

use super::apply;
use super::support::{self, Installation};

/// The folder that az is in.
const AZ: &str = "BULLION_TEST_AZ";
/// The program that stands for Azure's blob storage.
const AZURITE: &str = "BULLION_TEST_AZURITE";
/// Whom az signs in as: somebody of the machine's tenant.
const IDENTITY: &str = "kind: Application
name: az
tenant: eng
displayName: Whoever drives az
---
kind: RoleAssignment
name: az-owns-eng
role: Owner
scope:
  subscription: eng-images
principal:
  application: az
";

/// From its next start on, the server sends images to this host, and reads VHDs from it.
pub fn may_reach_this_host(installation: &Installation) {
    let data = installation.data();
    let ca = data.join("tls/ca.pem");
    let config = format!(
        "fetch_hosts = [\"127.0.0.1\", \"localhost\"]\nfetch_ca = {:?}\n",
        ca.to_string_lossy()
    );
    std::fs::write(data.join("bullion.toml"), config).expect("cannot write a file");
}

/// The machine `web-1` is stopped, started and made an image of.
pub fn drives_the_machine(installation: &Installation) {
    let shown = installation.json(&["vm", "show", "web-1"]);
    let machine = shown["id"].as_str().expect("a machine has an id");
    let given = [("BULLION_MACHINE", machine.to_owned())];
    run(installation, "az-machines.sh", &given);
}

/// The template's image goes into a gallery that speaks Azure's interface: this server's own, by way of a storage
/// account.
pub fn finds_the_image_elsewhere(installation: &Installation, template: &str) {
    let Ok(azurite) = std::env::var(AZURITE) else {
        eprintln!("{AZURITE} names no program: no image goes through it");
        return;
    };
    let definition = installation.json(&["image", "show", super::IMAGE]);
    let id = definition["id"].as_str().expect("a definition has an id");
    let (group, _) = id.split_once("/providers/").expect("it is in a group");
    let template =
        format!("{group}/providers/Microsoft.VirtualMachineImages/imageTemplates/{template}");
    let data = installation.data().to_string_lossy().into_owned();
    let given = [
        ("AZURITE", azurite),
        ("BULLION_TEMPLATE", template),
        ("BULLION_DATA", data),
    ];
    run(installation, "az-gallery-elsewhere.sh", &given);
}

fn run(installation: &Installation, script: &str, given: &[(&str, String)]) {
    let Ok(az) = std::env::var(AZ) else {
        eprintln!("{AZ} names no folder with az: {script} is not run");
        return;
    };
    let documents = installation.beside("factory").join("az.yaml");
    std::fs::write(documents, IDENTITY).expect("cannot write a file");
    apply(installation);
    let profile = installation.beside("az.json");
    let file = profile.to_string_lossy();
    let sign_in = ["app", "secret", "add", "az", "--write-profile", &file];
    installation.run(&sign_in).succeeded();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../xtask/clients");
    let path = std::env::var("PATH").unwrap_or_default();
    let ended = Command::new("bash")
        .arg(format!("{folder}/{script}"))
        .env("PATH", format!("{az}:{path}"))
        .envs(given.iter().map(|(name, value)| (name, value)))
        .env("BULLION_CA", installation.data().join("tls/ca.pem"))
        .envs(support::signed_in(&profile))
        .status()
        .expect("cannot run bash");
    assert!(ended.success(), "{script}: {ended}");
}
