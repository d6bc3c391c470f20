//! Machines that are scripts: a test says how they boot and what their commands answer. They
//! behave like the real ones where callers can tell: order of calls, ending, adoption. A Windows is spoken to
//! as a real one is, by its agent, whose side a task plays.

use crate::agent::Agent;
pub use crate::agent::fake::AgentFault;
use crate::agent::fake::play;
use crate::{
    Accel, Acceleration, Boot, ExecOutput, Guest, Hypervisor, Lifetime, MachineDisk, MachineError,
    MachineInfo, MachineSpec, Stopped, System, SystemState,
};
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How a fake machine boots.
#[derive(Debug, Clone, Default)]
pub enum BootScript {
    /// It is ready at once.
    #[default]
    Ready,
    /// It is ready, but these units failed.
    Degraded(Vec<String>),
    /// It never gets ready; this stands on its console.
    Hangs(String),
    /// QEMU ends by itself; this was its last word.
    Dies(String),
}

type Answer = Arc<dyn Fn(&MachineSpec, &str) -> Option<ExecOutput> + Send + Sync>;

#[derive(Default)]
struct World {
    /// Machines by folder; persistent ones stay here when their handle is dropped.
    running: BTreeMap<PathBuf, Arc<FakeState>>,
    log: Vec<String>,
}

/// Makes fake machines. A clone shares the machines: it stands for the server after a restart.
#[derive(Clone)]
pub struct FakeHypervisor {
    world: Arc<Mutex<World>>,
    boot: Arc<Mutex<BootScript>>,
    agents: Arc<Mutex<AgentFault>>,
    answer: Answer,
    acceleration: Acceleration,
}

impl Default for FakeHypervisor {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeHypervisor {
    /// Machines that boot, and whose commands all succeed and say nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::answering(|_, _| None)
    }

    /// Machines whose commands are answered by `answer`; where it says nothing, the command
    /// succeeds in silence.
    pub fn answering(
        answer: impl Fn(&MachineSpec, &str) -> Option<ExecOutput> + Send + Sync + 'static,
    ) -> Self {
        Self {
            world: Arc::default(),
            boot: Arc::default(),
            agents: Arc::default(),
            answer: Arc::new(answer),
            acceleration: Acceleration {
                accel: Accel::Tcg,
                why: "a fake".into(),
            },
        }
    }

    /// From now on machines boot like this.
    pub fn boots(&self, script: BootScript) {
        *lock(&self.boot) = script;
    }

    /// From now on the agents of Windows guests have this fault.
    pub fn agents(&self, fault: AgentFault) {
        *lock(&self.agents) = fault;
    }

    /// What was asked of the machines so far: `start NAME`, `exec NAME COMMAND`, `stop NAME`, …; of a Windows also
    /// `script NAME VARIABLES SCRIPT`.
    #[must_use]
    pub fn log(&self) -> Vec<String> {
        lock(&self.world).log.clone()
    }

    /// Names of the machines that run.
    #[must_use]
    pub fn running(&self) -> Vec<String> {
        let world = lock(&self.world);
        let names = world.running.values().map(|state| state.info.name.clone());
        names.collect()
    }

    /// The far end of a Windows guest's port, for as long as it lives.
    fn play_agent(&self, far: tokio::io::DuplexStream, state: &Arc<FakeState>) {
        let (fault, answer) = (state.fault, Arc::clone(&self.answer));
        let (world, spec) = (Arc::clone(&self.world), state.spec.clone());
        let state = Arc::downgrade(state);
        tokio::spawn(async move {
            let (log, name) = (Arc::clone(&world), spec.name.clone());
            let script = move |script: &str, variables: &[(String, String)]| {
                let names: Vec<&str> = variables.iter().map(|(name, _)| name.as_str()).collect();
                let line = format!("script {name} [{}] {script}", names.join(" "));
                lock(&log).log.push(line);
                answer(&spec, script)
            };
            let mut far = far;
            let goes = play(&mut far, AGENT_KEY, fault, &script).await;
            if let (true, Some(state)) = (goes, state.upgrade()) {
                state.end(&world, "off");
            }
            // Not before: a port that is closed is that of a machine that is gone.
            drop(far);
        });
    }

    fn guest(&self, state: Arc<FakeState>) -> Arc<dyn Guest> {
        Arc::new(FakeGuest {
            state,
            world: Arc::clone(&self.world),
            answer: Arc::clone(&self.answer),
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct FakeState {
    spec: MachineSpec,
    info: MachineInfo,
    boot: BootScript,
    alive: AtomicBool,
    /// Of a Windows.
    agent: Option<Agent>,
    fault: AgentFault,
}

impl FakeState {
    /// A guest of this process does at once what it does, or never: that one is not waited for long.
    fn patience(&self, deadline: Duration) -> Duration {
        match self.fault {
            AgentFault::Silent | AgentFault::NoRestart | AgentFault::Hangs => SHORT,
            _ => deadline,
        }
    }

    /// The machine is not there any more.
    fn end(&self, world: &Mutex<World>, how: &str) {
        let mut world = lock(world);
        if self.alive.swap(false, Ordering::SeqCst) {
            world.log.push(format!("{how} {}", self.spec.name));
            world.running.remove(&self.spec.dir);
        }
    }
}

const SHORT: Duration = Duration::from_millis(300);
const AGENT_KEY: &str = "the key on the medium";
const PORT_BYTES: usize = 64 << 10;

struct FakeGuest {
    state: Arc<FakeState>,
    world: Arc<Mutex<World>>,
    answer: Answer,
}

#[async_trait]
impl Hypervisor for FakeHypervisor {
    async fn start(&self, spec: MachineSpec) -> Result<Arc<dyn Guest>, MachineError> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut world = lock(&self.world);
        if let Some(state) = world.running.get(&spec.dir) {
            return Err(MachineError::Occupied {
                dir: spec.dir,
                pid: state.info.pid,
            });
        }
        let info = MachineInfo {
            name: spec.name.clone(),
            dir: spec.dir.clone(),
            pid: number,
            ssh_port: 1,
            user: spec.user.clone(),
            key_file: spec.dir.join("id_ed25519"),
            host_key: "ssh-ed25519 FAKE".into(),
            accel: Accel::Tcg,
            firmware: spec.firmware,
            lifetime: spec.lifetime,
        };
        world.log.push(format!("start {}", spec.name));
        let port = (spec.system == System::Windows).then(|| tokio::io::duplex(PORT_BYTES));
        let (near, far) = port.unzip();
        let state = Arc::new(FakeState {
            info,
            boot: lock(&self.boot).clone(),
            alive: AtomicBool::new(true),
            agent: near.map(|near| Agent::over(&spec.name, near, AGENT_KEY.to_owned())),
            fault: *lock(&self.agents),
            spec,
        });
        if let Some(far) = far {
            self.play_agent(far, &state);
        }
        let dir = state.spec.dir.clone();
        world.running.insert(dir, Arc::clone(&state));
        Ok(self.guest(state))
    }

    async fn adopt(&self, dir: &Path) -> Result<Option<Arc<dyn Guest>>, MachineError> {
        let found = lock(&self.world).running.get(dir).cloned();
        let found = found.filter(|state| state.spec.lifetime == Lifetime::Persistent);
        Ok(found.map(|state| self.guest(state)))
    }

    fn acceleration(&self) -> &Acceleration {
        &self.acceleration
    }
}

impl FakeGuest {
    fn end(&self, how: &str) {
        self.state.end(&self.world, how);
    }

    fn ended(&self) -> MachineError {
        MachineError::Ended {
            name: self.state.spec.name.clone(),
            stderr: String::new(),
            serial: String::new(),
        }
    }

    /// The agent of a Windows.
    fn agent(&self) -> Result<&Agent, MachineError> {
        self.alive()?;
        self.state.agent.as_ref().ok_or_else(|| MachineError::Spec {
            name: self.state.spec.name.clone(),
            reason: "only a Windows runs PowerShell".to_owned(),
        })
    }

    /// A machine that ended is why nothing was answered.
    fn while_running<T>(&self, done: Result<T, MachineError>) -> Result<T, MachineError> {
        match done {
            Err(_) if !self.is_running() => Err(self.ended()),
            done => done,
        }
    }

    fn alive(&self) -> Result<(), MachineError> {
        match self.is_running() {
            true => Ok(()),
            false => Err(self.ended()),
        }
    }
}

#[async_trait]
impl Guest for FakeGuest {
    async fn wait_ready(&self, deadline: Duration) -> Result<Boot, MachineError> {
        self.alive()?;
        let name = self.state.spec.name.clone();
        let state = match self.state.boot.clone() {
            BootScript::Ready => SystemState::Running,
            BootScript::Degraded(units) => SystemState::Degraded(units),
            BootScript::Hangs(serial) => {
                return Err(MachineError::NotReady {
                    name,
                    after: deadline,
                    accel: Accel::Tcg,
                    last: "connection refused".into(),
                    serial,
                });
            }
            BootScript::Dies(stderr) => {
                self.end("died");
                return Err(MachineError::Ended {
                    name,
                    stderr,
                    serial: String::new(),
                });
            }
        };
        if let Some(agent) = &self.state.agent {
            let patience = self.state.patience(deadline);
            let ready = tokio::time::timeout(patience, agent.ready()).await;
            ready.map_err(|_| MachineError::NotReady {
                name,
                after: deadline,
                accel: Accel::Tcg,
                last: "its agent has not said hello".into(),
                serial: String::new(),
            })??;
        }
        let seconds = 1.5;
        Ok(Boot { seconds, state })
    }

    async fn exec(&self, command: &str, _deadline: Duration) -> Result<ExecOutput, MachineError> {
        self.alive()?;
        let spec = &self.state.spec;
        if spec.system == System::Windows {
            return Err(MachineError::Spec {
                name: spec.name.clone(),
                reason: "a Windows has no shell of a user".to_owned(),
            });
        }
        let line = format!("exec {} {command}", spec.name);
        lock(&self.world).log.push(line);
        Ok((self.answer)(spec, command).unwrap_or(ExecOutput {
            status: 0,
            stdout: String::new(),
            stderr: String::new(),
        }))
    }

    async fn script(
        &self,
        script: &str,
        variables: &[(&str, &str)],
        deadline: Duration,
    ) -> Result<ExecOutput, MachineError> {
        let patience = self.state.patience(deadline);
        let done = self.agent()?.exec(script, variables, patience).await;
        self.while_running(done)
    }

    async fn restart(&self, script: &str, deadline: Duration) -> Result<ExecOutput, MachineError> {
        let patience = self.state.patience(deadline);
        let done = self.agent()?.restart(script, patience).await;
        self.while_running(done)
    }

    /// A disk that needs another one goes on needing it: nothing here reads or writes.
    async fn fill(&self) -> Result<(), MachineError> {
        self.alive()?;
        let spec = &self.state.spec;
        let data = spec.data_disks.iter().map(|data| &data.disk);
        let needs = |disk| matches!(disk, &MachineDisk::Layer { below: Some(_), .. });
        match std::iter::once(&spec.disk).chain(data).any(needs) {
            true => Err(MachineError::Control {
                name: spec.name.clone(),
                operation: "fill the disks",
                source: std::io::ErrorKind::Unsupported.into(),
            }),
            false => Ok(()),
        }
    }

    async fn serial_tail(&self, limit: usize) -> Result<String, MachineError> {
        let text = match &self.state.boot {
            BootScript::Hangs(serial) => serial.as_str(),
            _ => "fake login: ",
        };
        let start = text.ceil_char_boundary(text.len().saturating_sub(limit));
        Ok(text[start..].to_owned())
    }

    async fn stop(&self, grace: Duration) -> Result<Stopped, MachineError> {
        if let (true, Some(agent)) = (self.is_running(), &self.state.agent) {
            let left = agent.leave(grace).await;
            if left.is_err() && self.is_running() {
                self.end("stop");
                return Ok(Stopped::Forced);
            }
            self.end("off");
        }
        self.end("stop");
        Ok(Stopped::Cleanly)
    }

    async fn kill(&self) -> Result<(), MachineError> {
        self.end("kill");
        Ok(())
    }

    fn is_running(&self) -> bool {
        self.state.alive.load(Ordering::SeqCst)
    }

    fn info(&self) -> &MachineInfo {
        &self.state.info
    }
}

impl Drop for FakeGuest {
    fn drop(&mut self) {
        if self.state.spec.lifetime == Lifetime::Throwaway {
            self.end("drop");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(60);

    fn spec(name: &str, lifetime: Lifetime) -> MachineSpec {
        MachineSpec {
            lifetime,
            ..MachineSpec::new(name, format!("/machines/{name}"), "/disk")
        }
    }

    #[tokio::test]
    async fn throwaway_ends_with_its_handle_and_persistent_is_adopted() {
        let before = FakeHypervisor::new();
        let throwaway = before.start(spec("t", Lifetime::Throwaway)).await.unwrap();
        let persistent = before.start(spec("p", Lifetime::Persistent)).await.unwrap();
        assert_eq!(before.running(), ["p", "t"]);
        drop((throwaway, persistent));
        let after = before.clone();
        assert_eq!(after.running(), ["p"]);
        assert!(
            after
                .adopt(Path::new("/machines/t"))
                .await
                .unwrap()
                .is_none()
        );
        let adopted = after
            .adopt(Path::new("/machines/p"))
            .await
            .unwrap()
            .unwrap();
        adopted.wait_ready(DEADLINE).await.unwrap();
        adopted.stop(DEADLINE).await.unwrap();
        adopted.kill().await.unwrap();
        assert!(!adopted.is_running());
        assert_eq!(after.log(), ["start t", "start p", "drop t", "stop p"]);
        let error = adopted.exec("true", DEADLINE).await.unwrap_err();
        assert!(matches!(error, MachineError::Ended { .. }));
    }

    #[tokio::test]
    async fn a_windows_runs_scripts_and_goes_by_itself() {
        let fake = FakeHypervisor::answering(|_, script| {
            (script == "bad").then(|| ExecOutput {
                status: 7,
                stdout: "no".into(),
                stderr: String::new(),
            })
        });
        let windows = |name: &str| spec(name, Lifetime::Throwaway).windows();
        let guest = fake.start(windows("w")).await.unwrap();
        guest.wait_ready(DEADLINE).await.unwrap();
        assert!(guest.exec("dir", DEADLINE).await.is_err());
        let said = guest.script("bad", &[("A", "x")], DEADLINE).await.unwrap();
        assert_eq!((said.status, &*said.stdout), (7, "no"));
        guest.restart("shutdown /r", DEADLINE).await.unwrap();
        assert_eq!(guest.stop(DEADLINE).await.unwrap(), Stopped::Cleanly);
        assert!(!guest.is_running());
        let log = fake.log();
        assert_eq!(
            log[..3],
            ["start w", "script w [A] bad", "script w [] shutdown /r"]
        );

        fake.agents(AgentFault::Silent);
        let guest = fake.start(windows("s")).await.unwrap();
        let error = guest.wait_ready(DEADLINE).await.unwrap_err();
        assert!(error.to_string().contains("not said hello"), "{error}");

        fake.agents(AgentFault::DiesInRun);
        let guest = fake.start(windows("d")).await.unwrap();
        guest.wait_ready(DEADLINE).await.unwrap();
        let error = guest.script("dir", &[], DEADLINE).await.unwrap_err();
        assert!(!matches!(error, MachineError::Spec { .. }), "{error}");

        let linux = fake.start(spec("l", Lifetime::Throwaway)).await.unwrap();
        let error = linux.script("dir", &[], DEADLINE).await.unwrap_err();
        assert!(error.to_string().contains("only a Windows"), "{error}");
    }

    #[tokio::test]
    async fn boots_as_scripted() {
        let fake = FakeHypervisor::answering(|spec, command| {
            (command == "hostname").then(|| ExecOutput {
                status: 0,
                stdout: spec.hostname.clone(),
                stderr: String::new(),
            })
        });
        let guest = fake.start(spec("a", Lifetime::Throwaway)).await.unwrap();
        let again = fake.start(spec("a", Lifetime::Throwaway)).await;
        assert!(matches!(again, Err(MachineError::Occupied { .. })));
        let said = guest.exec("hostname", DEADLINE).await.unwrap();
        assert_eq!(said.stdout, "a");
        assert!(guest.exec("anything", DEADLINE).await.unwrap().success());

        fake.boots(BootScript::Hangs("Kernel panic".into()));
        let guest = fake.start(spec("b", Lifetime::Throwaway)).await.unwrap();
        let error = guest.wait_ready(DEADLINE).await.unwrap_err();
        assert!(error.to_string().ends_with("Kernel panic"), "{error}");
        assert_eq!(guest.serial_tail(5).await.unwrap(), "panic");

        fake.boots(BootScript::Dies("no such disk".into()));
        let guest = fake.start(spec("c", Lifetime::Throwaway)).await.unwrap();
        let error = guest.wait_ready(DEADLINE).await.unwrap_err();
        assert!(matches!(error, MachineError::Ended { .. }));
        assert!(!guest.is_running());
    }
}
