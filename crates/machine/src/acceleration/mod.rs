//! What machines run on here: the host's processor where that really works, else QEMU's
//! translator. Found out by running a guest, as a `/dev/kvm` that opens proves nothing: a
//! paravirtual one runs firmware and boot loaders and then never starts a stock kernel.

mod guest;

use process::Command;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

/// How long the probe's guest may take. A working KVM needs about half a second.
pub const PROBE_DEADLINE: Duration = Duration::from_secs(10);
const VERSION_DEADLINE: Duration = Duration::from_secs(30);
/// Version of the cache file; another one is probed anew.
const CACHE_VERSION: u32 = 1;
const KVM_DEVICE: &str = "/dev/kvm";
pub(crate) const QEMU: &str = "qemu-system-x86_64";

/// What executes a machine's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Accel {
    /// The host's processor.
    Kvm,
    /// QEMU's translator: works everywhere, several times slower.
    Tcg,
}

impl Accel {
    /// The same for a Windows, which takes what it asks for from the processor, and on KVM is told that it has a
    /// hypervisor: by the few words that every kernel has.
    pub(crate) fn windows_args(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => [
                "-accel",
                "kvm",
                "-cpu",
                "host,-arch-capabilities,hv-relaxed,hv-vapic,hv-spinlocks=0x1fff,hv-time",
            ],
            Self::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "max"],
        }
    }

    /// QEMU's arguments for it.
    pub(crate) fn args(self) -> [&'static str; 4] {
        match self {
            // Without this one feature, as QEMU aborts where KVM refuses to set its register,
            // which is common inside other people's virtual machines.
            Self::Kvm => ["-accel", "kvm", "-cpu", "host,-arch-capabilities"],
            // x86-64-v2: what current distributions ask for. More features (`max`) make guests
            // choose code paths that the translator is slow at: 10 to 20 % more time for a boot.
            Self::Tcg => [
                "-accel",
                "tcg,thread=multi",
                "-cpu",
                "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt",
            ],
        }
    }
}

impl fmt::Display for Accel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "KVM",
            Self::Tcg => "TCG",
        })
    }
}

/// What was chosen, and the reason in words for a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Acceleration {
    /// The choice.
    pub accel: Accel,
    /// Why.
    pub why: String,
}

/// What an answer depends on; when any of it changes, the probe runs again.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CacheKey {
    version: u32,
    kernel: String,
    qemu: String,
    device: Device,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Device {
    Absent,
    Denied,
    Opens,
}

#[derive(Serialize, Deserialize)]
struct Cached {
    key: CacheKey,
    answer: Acceleration,
}

/// Finds out what machines run on here, and remembers the answer in `cache_file`. It does not
/// fail: where QEMU is missing or the probe cannot run, the answer is TCG and says why.
pub async fn probe(cache_file: &Path) -> Acceleration {
    probe_within(cache_file, PROBE_DEADLINE).await
}

async fn probe_within(cache_file: &Path, deadline: Duration) -> Acceleration {
    let qemu = match qemu_version().await {
        Ok(version) => version,
        Err(error) => return tcg(error.to_string()),
    };
    let key = CacheKey {
        version: CACHE_VERSION,
        kernel: rustix::system::uname().release().to_string_lossy().into(),
        qemu,
        device: device(),
    };
    if let Some(cached) = read_cache(cache_file).filter(|cached| cached.key == key) {
        return cached.answer;
    }
    let answer = match key.device {
        Device::Absent => tcg(format!("there is no {KVM_DEVICE}")),
        Device::Denied => tcg(format!("{KVM_DEVICE} may not be opened by this user")),
        Device::Opens => {
            let scratch = cache_file.with_extension("img");
            match run_guest(&Accel::Kvm.args(), &scratch, deadline).await {
                Ok(()) => Acceleration {
                    accel: Accel::Kvm,
                    why: "a test guest ran to its end under KVM".into(),
                },
                Err(why) => tcg(format!("{KVM_DEVICE} opens, but {why}")),
            }
        }
    };
    tracing::info!(accel = %answer.accel, why = answer.why, "machines will run on");
    if let Err(error) = write_cache(
        cache_file,
        &Cached {
            key,
            answer: answer.clone(),
        },
    ) {
        tracing::warn!(%error, file = %cache_file.display(), "cannot remember the answer");
    }
    answer
}

fn tcg(why: String) -> Acceleration {
    let accel = Accel::Tcg;
    Acceleration { accel, why }
}

async fn qemu_version() -> Result<String, process::ProcessError> {
    let command = Command::new(QEMU).arg("--version");
    let output = command.deadline(VERSION_DEADLINE).run().await?;
    let text = output.stdout_text();
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

fn device() -> Device {
    let opened = File::options().read(true).write(true).open(KVM_DEVICE);
    match opened {
        Ok(_) => Device::Opens,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Device::Absent,
        Err(_) => Device::Denied,
    }
}

/// Boots the guest; `Err` says in words what it did instead of its work.
async fn run_guest(accel: &[&str], scratch: &Path, deadline: Duration) -> Result<(), String> {
    if let Err(error) = write_file(scratch, &guest::disk()) {
        return Err(format!("the test guest could not be written: {error}"));
    }
    let command = Command::new(QEMU)
        .args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-m",
            "64",
        ])
        .args(["-machine", "q35", "-serial", "stdio"])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=1"])
        .args(accel)
        .arg("-drive")
        .arg(crate::qemu::drive(
            "if=virtio,format=raw,readonly=on",
            scratch,
        ))
        .deadline(deadline);
    let ended = command.output().await;
    if let Err(error) = std::fs::remove_file(scratch) {
        tracing::warn!(%error, file = %scratch.display(), "cannot remove the test guest");
    }
    let output = ended.map_err(|error| match error {
        process::ProcessError::Deadline { after, .. } => format!(
            "a test guest did not get through its work in {after:?}: this host does not run stock kernels"
        ),
        other => other.to_string(),
    })?;
    let worked = output.stdout_text().contains(guest::TOKEN);
    if worked && output.status.code() == Some(guest::EXIT_STATUS) {
        return Ok(());
    }
    let said = output.tail();
    let said = said.lines().next().unwrap_or("(nothing)");
    Err(format!("QEMU ended with {}: {said}", output.status))
}

fn read_cache(file: &Path) -> Option<Cached> {
    serde_json::from_slice(&std::fs::read(file).ok()?).ok()
}

fn write_cache(file: &Path, cached: &Cached) -> std::io::Result<()> {
    write_file(file, &serde_json::to_vec_pretty(cached)?)
}

fn write_file(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(file, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn guest_finishes_under_tcg_and_is_cut_at_the_deadline() {
        let folder = tempfile::tempdir().unwrap();
        let scratch = folder.path().join("guest,with a comma.img");
        let patience = Duration::from_secs(60);
        run_guest(&Accel::Tcg.args(), &scratch, patience)
            .await
            .unwrap();
        assert!(!scratch.exists());
        let none = Duration::from_millis(1);
        let why = run_guest(&Accel::Tcg.args(), &scratch, none)
            .await
            .unwrap_err();
        assert!(why.contains("did not get through"), "{why}");
        let why = run_guest(&["-accel", "nonsense"], &scratch, patience).await;
        let why = why.unwrap_err();
        assert!(
            why.contains("exit status: 1") && why.contains("nonsense"),
            "{why}"
        );
    }

    #[tokio::test]
    async fn answer_is_remembered_for_this_host_only() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("cache/probe.json");
        let probe = async || probe_within(&file, Duration::from_secs(1)).await.why;
        assert!(!probe().await.is_empty());
        let mut cached = read_cache(&file).unwrap();
        cached.answer.why = "remembered".into();
        write_cache(&file, &cached).unwrap();
        assert_eq!(probe().await, "remembered");
        cached.key.kernel.push_str("-other");
        write_cache(&file, &cached).unwrap();
        assert_ne!(probe().await, "remembered");
        std::fs::write(&file, "not JSON").unwrap();
        assert!(!probe().await.is_empty());
        read_cache(&file).expect("it was written again");
    }
}
