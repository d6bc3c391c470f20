//! A machine that runs under QEMU: waiting for its boot, commands, its end. It must not start
//! one.

use super::qmp;
use crate::agent::Agent;
use crate::login::Login;
use crate::{Boot, ExecOutput, Guest, MachineError, MachineInfo, Stopped, SystemState, serial};
use async_trait::async_trait;
use process::{Child, ProcessId};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::{Mutex, OnceCell};

/// Between two tries to log in.
const LOGIN_PAUSE: Duration = Duration::from_millis(300);
/// How much of the console goes into an error.
const ERROR_TAIL: usize = 2048;
/// For QEMU to end after it was told to.
const QUIT_GRACE: Duration = Duration::from_secs(10);
const EXIT_GRACE: Duration = Duration::from_secs(2);
/// For the agent to say that it goes.
const LEAVE_DEADLINE: Duration = Duration::from_secs(60);
/// What brings a disk below into the one above, as QEMU knows it.
const FILL_JOB: &str = "fill";
/// What QEMU says of it when all is above and nothing was let go yet.
const FILLED: &str = "pending";
/// Between two looks at it.
const FILL_POLL: Duration = Duration::from_millis(500);
/// Bounds the list in [`SystemState::Degraded`].
const MAX_FAILED_UNITS: usize = 50;

/// Waits for the end of the boot inside the machine, then says how it went: the state, and the
/// failed units, one a line.
const BOOT_REPORT: &str = "\
if command -v cloud-init >/dev/null; then cloud-init status --wait >/dev/null 2>&1; fi
if command -v systemctl >/dev/null; then
  systemctl is-system-running --wait
  systemctl list-units --state=failed --plain --no-legend --no-pager | cut -d' ' -f1
fi";

/// QEMU's process, and how it is ended.
pub(super) enum Running {
    /// It ends with us.
    Child {
        id: ProcessId,
        child: Box<Mutex<Option<Child>>>,
    },
    /// It does not.
    Daemon { id: ProcessId, log: PathBuf },
}

impl Running {
    pub(super) fn child(child: Child) -> Self {
        // A process that has ended already is told apart by its identity: none has start tick 0.
        let id = child.id().unwrap_or(ProcessId {
            pid: u32::MAX,
            start_ticks: 0,
        });
        let child = Box::new(Mutex::new(Some(child)));
        Self::Child { id, child }
    }

    pub(super) fn id(&self) -> ProcessId {
        match self {
            Self::Child { id, .. } | Self::Daemon { id, .. } => *id,
        }
    }

    /// What QEMU said, once it has ended.
    pub(super) async fn last_words(&self) -> String {
        match self {
            Self::Child { child, .. } => {
                let mut child = child.lock().await;
                let Some(child) = child.as_mut() else {
                    return String::new();
                };
                match child.wait().await {
                    Ok(output) => output.tail(),
                    Err(error) => error.to_string(),
                }
            }
            Self::Daemon { log, .. } => serial::tail(log, ERROR_TAIL).unwrap_or_default(),
        }
    }

    pub(super) async fn kill(&self) -> Result<(), MachineError> {
        let ended = match self {
            Self::Child { child, .. } => match child.lock().await.take() {
                Some(child) => child.kill().await.map(drop),
                None => Ok(()),
            },
            Self::Daemon { id, .. } => id.kill().await,
        };
        ended.map_err(|source| MachineError::Program {
            name: "QEMU".into(),
            source,
        })
    }
}

/// How commands get in.
pub(super) enum Way {
    Login(Box<Login>),
    Agent(Agent),
}

pub(super) struct QemuGuest {
    info: MachineInfo,
    way: Way,
    running: Running,
    /// Measured once: when the first command had run.
    first_command_seconds: OnceCell<f64>,
}

impl QemuGuest {
    pub(super) fn new(info: MachineInfo, way: Way, running: Running) -> Self {
        Self {
            way,
            info,
            running,
            first_command_seconds: OnceCell::new(),
        }
    }

    fn serial(&self, limit: usize) -> String {
        serial::tail(&self.info.dir.join(serial::FILE), limit).unwrap_or_default()
    }

    async fn ended(&self) -> MachineError {
        MachineError::Ended {
            name: self.info.name.clone(),
            stderr: self.running.last_words().await,
            serial: self.serial(ERROR_TAIL),
        }
    }

    fn login(&self) -> Result<&Login, MachineError> {
        match &self.way {
            Way::Login(login) => Ok(login),
            Way::Agent(_) => Err(self.wrong("a Windows has no shell of a user")),
        }
    }

    fn agent(&self) -> Result<&Agent, MachineError> {
        match &self.way {
            Way::Agent(agent) => Ok(agent),
            Way::Login(_) => Err(self.wrong("only a Windows runs PowerShell")),
        }
    }

    fn wrong(&self, reason: &str) -> MachineError {
        MachineError::Spec {
            name: self.info.name.clone(),
            reason: reason.to_owned(),
        }
    }

    /// What a command answers, unless the machine ends first.
    async fn while_running<T>(
        &self,
        command: impl Future<Output = Result<T, MachineError>> + Send,
    ) -> Result<T, MachineError> {
        let id = self.running.id();
        let ended = tokio::select! {
            ended = command => ended,
            _ = id.gone() => return Err(self.ended().await),
        };
        match ended {
            Err(_) if !self.is_running() => Err(self.ended().await),
            // The port of an agent is closed a moment before QEMU has ended.
            Err(MachineError::Agent { .. }) if self.gone_within(EXIT_GRACE).await? => {
                Err(self.ended().await)
            }
            ended => ended,
        }
    }

    /// Tries until a command runs. What did not work last is left in `last`.
    async fn first_command(&self, login: &Login, last: &mut String) -> f64 {
        loop {
            // A try that hangs is cut by the login's own deadline, a command by this one.
            match login.exec("true", QUIT_GRACE).await {
                Ok(_) => return self.running.id().age().as_secs_f64(),
                Err(error) => *last = error.to_string(),
            }
            tokio::time::sleep(LOGIN_PAUSE).await;
        }
    }

    async fn boot(&self, deadline: Duration, last: &mut String) -> Result<Boot, MachineError> {
        let login = match &self.way {
            Way::Login(login) => login,
            Way::Agent(agent) => {
                *last = "its agent has not said hello".to_owned();
                agent.ready().await?;
                let age = async || self.running.id().age().as_secs_f64();
                return Ok(Boot {
                    seconds: *self.first_command_seconds.get_or_init(age).await,
                    state: SystemState::Running,
                });
            }
        };
        let seconds = match self.first_command_seconds.get() {
            Some(seconds) => *seconds,
            None => self.first_command(login, last).await,
        };
        let seconds = *self
            .first_command_seconds
            .get_or_init(async || seconds)
            .await;
        *last = format!("a command ran after {seconds:.1} s, but the boot did not come to its end");
        let report = login.exec(BOOT_REPORT, deadline).await?;
        Ok(Boot {
            seconds,
            state: state_of(&report.stdout),
        })
    }

    async fn control(&self, operation: &'static str) -> Result<(), MachineError> {
        self.ask(operation, json!({})).await.map(drop)
    }

    async fn ask(&self, operation: &'static str, arguments: Value) -> Result<Value, MachineError> {
        let answer = qmp::run_with(&self.info.dir, operation, arguments).await;
        answer.map_err(|source| self.refused(operation, source))
    }

    /// How far a disk that is being filled is, by whomever.
    async fn filling(&self) -> Result<Option<String>, MachineError> {
        let jobs = self.ask("query-block-jobs", json!({})).await?;
        let mut jobs = jobs.as_array().into_iter().flatten();
        let job = jobs.find(|job| job["device"] == FILL_JOB);
        Ok(job.map(|job| job["status"].as_str().unwrap_or_default().to_owned()))
    }

    /// All disks by name, each with how many others it needs below it.
    async fn disks(&self) -> Result<Vec<(String, u64)>, MachineError> {
        let disks = self.ask("query-block", json!({})).await?;
        let disks = disks.as_array().into_iter().flatten();
        let named = disks.filter_map(|disk| {
            let depth = disk["inserted"]["backing_file_depth"].as_u64()?;
            Some((disk["device"].as_str()?.to_owned(), depth))
        });
        Ok(named.collect())
    }

    /// Lets a disk that is filled go without the one below. Before that, where everything is in it must be in its
    /// file: QEMU keeps that back until somebody asks, and a machine that is killed takes it along.
    async fn let_go(&self) -> Result<(), MachineError> {
        for (disk, _) in self.disks().await? {
            let flush = json!({ "command-line": format!("qemu-io {disk} flush") });
            let told = self.ask("human-monitor-command", flush).await?;
            if let Some(error) = told.as_str().map(str::trim).filter(|told| !told.is_empty()) {
                return Err(self.refused("fill the disks", io::Error::other(error.to_owned())));
            }
        }
        self.ask("job-finalize", json!({ "id": FILL_JOB })).await?;
        Ok(())
    }

    fn refused(&self, operation: &'static str, source: io::Error) -> MachineError {
        MachineError::Control {
            name: self.info.name.clone(),
            operation,
            source,
        }
    }

    /// Whether QEMU ended within `grace`.
    async fn gone_within(&self, grace: Duration) -> Result<bool, MachineError> {
        match tokio::time::timeout(grace, self.running.id().gone()).await {
            Err(_) => Ok(false),
            Ok(Ok(())) => Ok(true),
            Ok(Err(source)) => Err(MachineError::Program {
                name: self.info.name.clone(),
                source,
            }),
        }
    }
}

#[async_trait]
impl Guest for QemuGuest {
    async fn wait_ready(&self, deadline: Duration) -> Result<Boot, MachineError> {
        let mut last = "none".to_owned();
        let id = self.running.id();
        let booted = tokio::select! {
            booted = tokio::time::timeout(deadline, self.boot(deadline, &mut last)) => booted,
            _ = id.gone() => return Err(self.ended().await),
        };
        match booted {
            Ok(Ok(boot)) => Ok(boot),
            Ok(Err(_)) if !self.is_running() => Err(self.ended().await),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(MachineError::NotReady {
                name: self.info.name.clone(),
                after: deadline,
                accel: self.info.accel,
                last,
                serial: self.serial(ERROR_TAIL),
            }),
        }
    }

    async fn exec(&self, command: &str, deadline: Duration) -> Result<ExecOutput, MachineError> {
        let login = self.login()?;
        self.while_running(login.exec(command, deadline)).await
    }

    async fn script(
        &self,
        script: &str,
        variables: &[(&str, &str)],
        deadline: Duration,
    ) -> Result<ExecOutput, MachineError> {
        let agent = self.agent()?;
        let command = agent.exec(script, variables, deadline);
        self.while_running(command).await
    }

    async fn restart(&self, script: &str, deadline: Duration) -> Result<ExecOutput, MachineError> {
        let agent = self.agent()?;
        self.while_running(agent.restart(script, deadline)).await
    }

    async fn fill(&self) -> Result<(), MachineError> {
        let mut begun = BTreeSet::new();
        loop {
            if let Some(status) = self.filling().await? {
                if status == FILLED {
                    self.let_go().await?;
                }
                tokio::time::sleep(FILL_POLL).await;
                continue;
            }
            let mut layers = self.disks().await?;
            layers.retain(|(_, below)| *below > 0);
            if layers.is_empty() {
                return Ok(());
            }
            layers.retain(|(disk, _)| !begun.contains(disk));
            let Some((next, _)) = layers.pop() else {
                let source = io::Error::other("what is below could not be read, or it was stopped");
                return Err(self.refused("fill the disks", source));
            };
            let arguments = json!({ "job-id": FILL_JOB, "device": next, "auto-finalize": false });
            self.ask("block-stream", arguments).await?;
            begun.insert(next);
        }
    }

    async fn serial_tail(&self, limit: usize) -> Result<String, MachineError> {
        let file = self.info.dir.join(serial::FILE);
        serial::tail(&file, limit).map_err(MachineError::file("read", &file))
    }

    async fn stop(&self, grace: Duration) -> Result<Stopped, MachineError> {
        if !self.is_running() {
            return Ok(Stopped::Cleanly);
        }
        if let Way::Agent(agent) = &self.way {
            match agent.leave(LEAVE_DEADLINE).await {
                Ok(()) if self.gone_within(grace).await? => return Ok(Stopped::Cleanly),
                Ok(()) => {}
                // It may be going by itself: its port is closed a moment before QEMU has ended.
                Err(_) if self.gone_within(EXIT_GRACE).await? => return Ok(Stopped::Cleanly),
                Err(error) => {
                    tracing::warn!(machine = self.info.name, %error, "the agent does not go");
                }
            }
        }
        match self.control("system_powerdown").await {
            Ok(()) if self.gone_within(grace).await? => return Ok(Stopped::Cleanly),
            Ok(()) => {}
            // It may have ended between the two lines above, or its control socket is stuck.
            Err(_) if !self.is_running() => return Ok(Stopped::Cleanly),
            Err(error) => {
                tracing::warn!(machine = self.info.name, %error, "cannot press the power button");
            }
        }
        // QEMU writes out what it holds on `quit`, which it does not when killed.
        if self.control("quit").await.is_err() || !self.gone_within(QUIT_GRACE).await? {
            self.running.kill().await?;
        }
        Ok(Stopped::Forced)
    }

    async fn kill(&self) -> Result<(), MachineError> {
        self.running.kill().await
    }

    fn is_running(&self) -> bool {
        self.running.id().is_alive()
    }

    fn info(&self) -> &MachineInfo {
        &self.info
    }
}

fn state_of(report: &str) -> SystemState {
    let mut lines = report
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty());
    match lines.next() {
        Some("running") => SystemState::Running,
        Some("degraded") => {
            let units = lines.take(MAX_FAILED_UNITS).map(str::to_owned);
            SystemState::Degraded(units.collect())
        }
        other => SystemState::Unknown(other.unwrap_or_default().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_is_understood() {
        let check = |report: &str, expected| assert_eq!(state_of(report), expected);
        check("running\n", SystemState::Running);
        let units = vec!["a.service".to_owned(), "b.mount".to_owned()];
        check(
            "degraded\na.service\nb.mount\n",
            SystemState::Degraded(units),
        );
        check("", SystemState::Unknown(String::new()));
        check("maintenance\n", SystemState::Unknown("maintenance".into()));
    }
}
