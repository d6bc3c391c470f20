//! The words of this crate: what a machine shall be, and what it turned out to be. Data only.

use crate::Accel;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;

/// What the machine starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Firmware {
    /// `SeaBIOS`: Azure's generation 1.
    Bios,
    /// OVMF: Azure's generation 2.
    Uefi,
}

/// Who ends the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Lifetime {
    /// It ends when its handle is dropped and when this process dies, however it dies.
    Throwaway,
    /// It goes on without us; after a restart it is adopted from its folder.
    Persistent,
}

/// What the machine can reach. Our own login works in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Network {
    /// Nothing but DHCP: what a test finds then was in the image.
    Isolated,
    /// What this host reaches, through address translation.
    Outbound,
}

/// What is on the disk, and so by which way commands get in, and which devices it can be sure to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum System {
    /// A Linux with cloud-init, which makes a login for us: SSH. Its devices are virtio's.
    Linux,
    /// A Windows that sysprep has generalized, whose Setup starts our agent: a serial port. Its devices are those that
    /// Windows brings drivers for.
    Windows,
}

/// A file for a Windows guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaFile {
    /// Letters and digits; the guest finds it by this name in the folder `$env:BULLION_MEDIUM`.
    pub name: String,
    /// Where it is here.
    pub path: PathBuf,
}

/// Whether a machine has a network for its metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Metadata {
    /// One network card, as every machine.
    None,
    /// A second one, to us alone.
    Cable,
}

/// Where a machine's disk is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MachineDisk {
    /// A raw disk in a file.
    File(PathBuf),
    /// A network block device on a socket of this host. The machine needs it for as long as it
    /// runs.
    Served(ServedDisk),
    /// A qcow2 image in a file, which takes what is written.
    Layer {
        /// The image.
        file: PathBuf,
        /// What lies below, as long as the image needs that. The machine waits for it where it is
        /// away, and needs it no more after [`crate::Guest::fill`].
        below: Option<ServedDisk>,
    },
}

/// Where a network block device is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedDisk {
    /// The socket.
    pub socket: PathBuf,
    /// The name that the disk has there: letters, digits and `-`.
    pub export: String,
}

impl<P: Into<PathBuf>> From<P> for MachineDisk {
    fn from(path: P) -> Self {
        Self::File(path.into())
    }
}

/// A disk beside the one that the machine boots from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataDisk {
    /// The number of its place. The guest finds it as `/dev/disk/by-id/virtio-lun{lun}`.
    pub lun: u32,
    /// Where it is.
    pub disk: MachineDisk,
}

/// Windows Server asks for 2 GiB with a desktop, and updates for more.
const WINDOWS_MEMORY_MIB: u32 = 4096;

/// What to start.
#[derive(Debug, Clone)]
pub struct MachineSpec {
    /// For messages and the process list.
    pub name: String,
    /// The machine's own folder; made if absent. It holds keys, so only we may read it.
    pub dir: PathBuf,
    /// Its disk.
    pub disk: MachineDisk,
    /// Its other disks, each with a number of its own.
    pub data_disks: Vec<DataDisk>,
    /// Writes go to a temporary overlay and are forgotten; no disk changes.
    pub snapshot: bool,
    /// What is on its disk.
    pub system: System,
    /// What a Windows guest finds on its medium; a Linux guest has none.
    pub media: Vec<MediaFile>,
    /// BIOS or UEFI.
    pub firmware: Firmware,
    /// Virtual processors.
    pub cpus: u8,
    /// Memory.
    pub memory_mib: u32,
    /// Who ends it.
    pub lifetime: Lifetime,
    /// What it can reach.
    pub network: Network,
    /// Whether it gets the second network, on which it can ask for what [`crate::metadata`] answers.
    pub metadata: Metadata,
    /// The login that is made in it, with `sudo` without a password.
    pub user: String,
    /// Its host name.
    pub hostname: String,
}

impl MachineSpec {
    /// A throwaway UEFI machine with the defaults of a test boot: two processors, 1 GiB, a
    /// forgotten disk, no network.
    pub fn new(
        name: impl Into<String>,
        dir: impl Into<PathBuf>,
        disk: impl Into<MachineDisk>,
    ) -> Self {
        let name = name.into();
        Self {
            hostname: name.clone(),
            name,
            dir: dir.into(),
            disk: disk.into(),
            data_disks: Vec::new(),
            snapshot: true,
            system: System::Linux,
            media: Vec::new(),
            firmware: Firmware::Uefi,
            cpus: 2,
            memory_mib: 1024,
            lifetime: Lifetime::Throwaway,
            network: Network::Isolated,
            metadata: Metadata::None,
            user: "bullion".into(),
        }
    }

    /// The same for a Windows, which takes more memory.
    #[must_use]
    pub fn windows(mut self) -> Self {
        self.system = System::Windows;
        self.memory_mib = WINDOWS_MEMORY_MIB;
        self
    }
}

/// What the machine's service manager said of its boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SystemState {
    /// Everything that should run does.
    Running,
    /// It runs, but these units failed.
    Degraded(Vec<String>),
    /// It has no systemd, or said something else.
    Unknown(String),
}

impl fmt::Display for SystemState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Running => f.write_str("running"),
            Self::Degraded(units) => write!(f, "degraded: {}", units.join(", ")),
            Self::Unknown(said) => write!(f, "unknown: {said}"),
        }
    }
}

/// A finished boot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Boot {
    /// From the start of the machine to the end of the first command run in it.
    pub seconds: f64,
    /// What the system says of itself once everything has started.
    pub state: SystemState,
}

/// A command's end inside the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecOutput {
    /// Its exit status; 128 + n when signal n ended it, as shells count. Of a Windows, all 32 bits of it.
    pub status: u32,
    /// The end of its standard output.
    pub stdout: String,
    /// The end of its standard error.
    pub stderr: String,
}

impl ExecOutput {
    /// Whether the status is zero.
    #[must_use]
    pub fn success(&self) -> bool {
        self.status == 0
    }
}

/// How a machine stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Stopped {
    /// The guest shut itself down, or was down already.
    Cleanly,
    /// It did not in time, and was switched off.
    Forced,
}

/// What is known of a machine without asking it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineInfo {
    /// As in the spec.
    pub name: String,
    /// Its folder.
    pub dir: PathBuf,
    /// QEMU's process.
    pub pid: u32,
    /// Where its SSH server answers, on 127.0.0.1; 0 for a Windows, which has none.
    pub ssh_port: u16,
    /// The login.
    pub user: String,
    /// The private key of the login, a file.
    pub key_file: PathBuf,
    /// The host key as a `known_hosts` line wants it: `ssh-ed25519 AAAA…`.
    pub host_key: String,
    /// What it runs on.
    pub accel: Accel,
    /// What it started with.
    pub firmware: Firmware,
    /// Who ends it.
    pub lifetime: Lifetime,
}
