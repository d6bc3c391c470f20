//! What a build costs, beside mkosi's in the same run: a whole Debian with its packages at hand, one changed file, a
//! child image, and nothing changed.
//!
//! Booting the image to test it is left out of all figures: the peer does not do it, and it is the guest's time.

mod meter;
mod ours;
mod peer;

use std::fs;

use anyhow::{Context, Result, bail};

use self::meter::Cost;
use crate::deps::{self, Purpose};
use crate::{quickstart, workspace};

/// What both install beside the minimal system; the peer starts with systemd's own boot loader.
const PACKAGES: [&str; 20] = [
    "ca-certificates",
    "cloud-guest-utils",
    "cloud-init",
    "dbus",
    "e2fsprogs",
    "fdisk",
    "ifupdown",
    "initramfs-tools",
    "iproute2",
    "isc-dhcp-client",
    "kmod",
    "linux-image-cloud-amd64",
    "locales",
    "openssh-server",
    "procps",
    "sudo",
    "systemd",
    "systemd-sysv",
    "udev",
    "zstd",
];
const RELEASE: &str = "bookworm";
/// How often three letters are repeated in a file of 1 KB.
const REPEATED: usize = 341;

/// Measures all of it and prints a table.
pub fn run() -> Result<()> {
    deps::install(Purpose::Bench)?;
    let binary = quickstart::release_binary()?;
    let folder = workspace::target_folder()?.join("bench-build");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    if deps::privileges()?.is_none_or(|runner| !runner.is_empty()) {
        bail!("this bench measures programs that need root; run it as root");
    }
    let ours = ours::measure(&folder.join("ours"), &binary)?;
    let peer = peer::measure(&folder.join("mkosi"))?;
    println!("                                     CPU s   wall s  RSS MB  new KiB");
    let row = |name: &str, cost: &Cost, new: Option<u64>| {
        let new = new.map_or_else(String::new, |bytes| (bytes >> 10).to_string());
        println!(
            "{name:<36} {:>6.2} {:>8.2} {:>7} {new:>8}",
            cost.cpu,
            cost.wall,
            cost.memory >> 20
        );
    };
    for (name, made) in &ours {
        row(name, &made.cost, Some(made.new_bytes));
    }
    for (name, cost) in &peer {
        row(name, cost, None);
    }
    Ok(())
}
