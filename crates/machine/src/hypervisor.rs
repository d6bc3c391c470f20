//! The two traits that the rest of the program works with. They must not mention QEMU.

use crate::{Acceleration, Boot, ExecOutput, MachineError, MachineInfo, MachineSpec, Stopped};
use async_trait::async_trait;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Makes machines.
#[async_trait]
pub trait Hypervisor: Send + Sync {
    /// Starts a machine; it has not booted when this returns.
    async fn start(&self, spec: MachineSpec) -> Result<Arc<dyn Guest>, MachineError>;

    /// Takes over the persistent machine that an earlier process of ours started in `dir`, if it
    /// still runs.
    async fn adopt(&self, dir: &Path) -> Result<Option<Arc<dyn Guest>>, MachineError>;

    /// What machines run on here, and why.
    fn acceleration(&self) -> &Acceleration;
}

/// One running machine. A throwaway one ends when the last handle is dropped.
#[async_trait]
pub trait Guest: Send + Sync {
    /// Waits until a command runs in it and its boot is over.
    async fn wait_ready(&self, deadline: Duration) -> Result<Boot, MachineError>;

    /// Runs a line in the shell of a Linux guest's user. The line is the guest's business: nothing of it is
    /// interpreted here. `sudo` works without a password.
    async fn exec(&self, command: &str, deadline: Duration) -> Result<ExecOutput, MachineError>;

    /// Runs a script of PowerShell in a Windows guest, as SYSTEM, with these variables in its environment and in no file or
    /// command line.
    async fn script(
        &self,
        script: &str,
        variables: &[(&str, &str)],
        deadline: Duration,
    ) -> Result<ExecOutput, MachineError>;

    /// Runs a script that restarts a Windows guest, and waits until it is up again; where the script fails, it is not waited
    /// for.
    async fn restart(&self, script: &str, deadline: Duration) -> Result<ExecOutput, MachineError>;

    /// Brings what lies below its disks into them, while it runs, and answers when nothing is
    /// needed below any of them any more. Called again it goes on, also by another process.
    async fn fill(&self) -> Result<(), MachineError>;

    /// The last `limit` bytes that it wrote to its serial console.
    async fn serial_tail(&self, limit: usize) -> Result<String, MachineError>;

    /// Presses the power button, or has the agent of a Windows go, waits for `grace`, then switches it off. Stopping a
    /// stopped machine is fine.
    async fn stop(&self, grace: Duration) -> Result<Stopped, MachineError>;

    /// Switches it off. Killing a dead machine is fine.
    async fn kill(&self) -> Result<(), MachineError>;

    /// Whether it runs.
    fn is_running(&self) -> bool;

    /// What is known of it without asking it.
    fn info(&self) -> &MachineInfo;
}
