//! Machines on QEMU: starting one, and finding the one that an earlier process of ours left
//! running. What a machine can do once it runs is in [`guest`].

mod arguments;
mod guest;
mod qmp;

use crate::acceleration::QEMU;
use crate::agent::{self, Agent, medium};
use crate::login::Login;
use crate::metadata;
use crate::record::Record;
use crate::seed::{self, Keys};
use crate::{
    Acceleration, Firmware, Guest, Hypervisor, Lifetime, MachineDisk, MachineError, MachineInfo,
    MachineSpec, MediaFile, Metadata, ServedDisk, System,
};
pub(crate) use arguments::drive;
use async_trait::async_trait;
use guest::{QemuGuest, Running, Way};
use process::{Command, ProcessError};
pub(crate) use qmp::connect;
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// QEMU's own words, of a machine that outlives us.
const LOG_FILE: &str = "qemu.log";
/// A port that was free when we looked may be taken when QEMU binds it.
const PORT_TRIES: u32 = 8;
/// Until the control socket answers.
const START_DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);
const MAX_NAME: usize = 64;

/// Starts machines with QEMU.
#[derive(Debug, Clone)]
pub struct Qemu {
    acceleration: Acceleration,
}

impl Qemu {
    /// Machines will run on this; see [`crate::probe`].
    #[must_use]
    pub fn new(acceleration: Acceleration) -> Self {
        Self { acceleration }
    }
}

/// What must be installed before a machine can start, one error for each thing that is not.
#[must_use]
pub fn missing_programs() -> Vec<MachineError> {
    let programs = [QEMU, "mkfs.vfat", "mcopy"].into_iter();
    let mut missing: Vec<_> = programs
        .filter_map(|program| process::find(program).err())
        .map(|source| MachineError::Program {
            name: "any".into(),
            source,
        })
        .collect();
    missing.extend(firmware_installed().err());
    missing
}

fn firmware_installed() -> Result<(), MachineError> {
    let files = [arguments::FIRMWARE_CODE, arguments::FIRMWARE_VARS];
    match files.into_iter().find(|file| !Path::new(file).exists()) {
        None => Ok(()),
        Some(file) => Err(MachineError::NoFirmware { path: file.into() }),
    }
}

#[async_trait]
impl Hypervisor for Qemu {
    async fn start(&self, spec: MachineSpec) -> Result<Arc<dyn Guest>, MachineError> {
        check(&spec)?;
        make_folder(&spec.dir)?;
        if let Some(record) = Record::read(&spec.dir)?
            && record.process().is_alive()
        {
            return Err(MachineError::Occupied {
                dir: spec.dir,
                pid: record.info.pid,
            });
        }
        link_disks(&spec)?;
        if spec.system == System::Windows {
            return self.start_windows(spec).await;
        }
        let keys = Keys::of(&spec.dir, &spec.name)?;
        seed::write(&spec, &keys).await?;
        if spec.firmware == Firmware::Uefi {
            copy_firmware_variables(&spec.dir)?;
        }
        let host_key = keys.host_line(&spec.name)?;
        let (running, ssh_port) = self.launch(&spec, &host_key, free_port).await?;
        let info = self.info(&spec, &host_key, ssh_port, &running);
        let way = login(&info, keys);
        Ok(Arc::new(QemuGuest::new(info, way, running)))
    }

    async fn adopt(&self, dir: &Path) -> Result<Option<Arc<dyn Guest>>, MachineError> {
        let Some(record) = Record::read(dir)? else {
            return Ok(None);
        };
        let id = record.process();
        if !id.is_alive() {
            return Ok(None);
        }
        // The folder may have been moved since; the record's own path is not trusted.
        let info = MachineInfo {
            dir: dir.to_owned(),
            key_file: dir.join(seed::KEY_FILE),
            ..record.info
        };
        // It may have been started a moment ago by a process that was killed right after that.
        while let Err(source) = qmp::run(dir, "query-status").await {
            if !id.is_alive() {
                return Ok(None);
            }
            if id.age() > START_DEADLINE {
                return Err(MachineError::Control {
                    name: info.name.clone(),
                    operation: "query-status",
                    source,
                });
            }
            tokio::time::sleep(POLL).await;
        }
        let keys = Keys::of(dir, &info.name)?;
        let log = dir.join(LOG_FILE);
        let running = Running::Daemon { id, log };
        let way = login(&info, keys);
        Ok(Some(Arc::new(QemuGuest::new(info, way, running))))
    }

    fn acceleration(&self) -> &Acceleration {
        &self.acceleration
    }
}

impl Qemu {
    /// The rest of a start, with a medium in place of a seed, and a port that nobody else can be at.
    async fn start_windows(&self, spec: MachineSpec) -> Result<Arc<dyn Guest>, MachineError> {
        let key = medium::write(&spec).await?;
        if spec.firmware == Firmware::Uefi {
            copy_firmware_variables(&spec.dir)?;
        }
        let (running, port) = self.launch(&spec, "", || Ok(0)).await?;
        let info = self.info(&spec, "", port, &running);
        match qmp::connect(&spec.dir, agent::SOCKET).await {
            Ok(stream) => {
                let agent = Agent::over(&spec.name, stream, key);
                Ok(Arc::new(QemuGuest::new(info, Way::Agent(agent), running)))
            }
            Err(source) => {
                running.kill().await?;
                Err(MachineError::Control {
                    name: spec.name,
                    operation: "connect to the agent's port",
                    source,
                })
            }
        }
    }

    fn info(
        &self,
        spec: &MachineSpec,
        host_key: &str,
        ssh_port: u16,
        running: &Running,
    ) -> MachineInfo {
        MachineInfo {
            pid: running.id().pid,
            ssh_port,
            user: spec.user.clone(),
            key_file: spec.dir.join(seed::KEY_FILE),
            host_key: host_key.to_owned(),
            accel: self.acceleration.accel,
            firmware: spec.firmware,
            lifetime: spec.lifetime,
            name: spec.name.clone(),
            dir: spec.dir.clone(),
        }
    }

    /// Starts QEMU on one of `ports`, writes down that it runs, and waits until its control socket answers.
    async fn launch(
        &self,
        spec: &MachineSpec,
        host_key: &str,
        mut ports: impl FnMut() -> std::io::Result<u16>,
    ) -> Result<(Running, u16), MachineError> {
        let mut last = MachineError::Spec {
            name: spec.name.clone(),
            reason: "no free port on 127.0.0.1".into(),
        };
        for _ in 0..PORT_TRIES {
            let port = ports().map_err(|source| MachineError::Control {
                name: spec.name.clone(),
                operation: "find a free port",
                source,
            })?;
            let running = self.spawn(spec, port).await?;
            let info = self.info(spec, host_key, port, &running);
            let record = Record::new(info, running.id().start_ticks);
            if let Err(error) = record.write(&spec.dir) {
                // Without its record nobody would find it again.
                running.kill().await?;
                return Err(error);
            }
            match answers(spec, running).await {
                Ok(running) => return Ok((running, port)),
                Err(MachineError::Ended {
                    stderr,
                    name,
                    serial,
                }) if stderr.contains("Could not set up host forwarding rule") => {
                    tracing::debug!(machine = name, port, "port was taken meanwhile");
                    last = MachineError::Ended {
                        name,
                        stderr,
                        serial,
                    };
                }
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    async fn spawn(&self, spec: &MachineSpec, port: u16) -> Result<Running, MachineError> {
        for stale in [
            qmp::SOCKET,
            agent::SOCKET,
            metadata::SOCKET,
            crate::serial::FILE,
            LOG_FILE,
        ] {
            let stale = spec.dir.join(stale);
            match std::fs::remove_file(&stale) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(MachineError::file("remove", stale)(error));
                }
                _ => {}
            }
        }
        // QEMU puts the overlay of a forgotten disk into TMPDIR.
        let command = Command::new(QEMU)
            .args(arguments::of(spec, self.acceleration.accel, port))
            .env("TMPDIR", &spec.dir)
            .cwd(&spec.dir);
        let failed = |source: ProcessError| MachineError::Program {
            name: spec.name.clone(),
            source,
        };
        match spec.lifetime {
            Lifetime::Throwaway => {
                let child = command.spawn().map_err(failed)?;
                Ok(Running::child(child))
            }
            Lifetime::Persistent => {
                let log = spec.dir.join(LOG_FILE);
                let id = command.spawn_daemon(&log).await.map_err(failed)?;
                Ok(Running::Daemon { id, log })
            }
        }
    }
}

/// Waits until QEMU's control socket answers. When it does not, nothing is left running.
async fn answers(spec: &MachineSpec, running: Running) -> Result<Running, MachineError> {
    let start = Instant::now();
    loop {
        let alive = running.id().is_alive();
        match qmp::run(&spec.dir, "query-status").await {
            Ok(_) => return Ok(running),
            Err(_) if !alive => {
                let stderr = running.last_words().await;
                return Err(MachineError::Ended {
                    name: spec.name.clone(),
                    stderr,
                    serial: String::new(),
                });
            }
            Err(source) if start.elapsed() > START_DEADLINE => {
                running.kill().await?;
                return Err(MachineError::Control {
                    name: spec.name.clone(),
                    operation: "wait for its control socket",
                    source,
                });
            }
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}

fn login(info: &MachineInfo, keys: Keys) -> Way {
    let login = Login::new(&info.name, info.ssh_port, &info.user, keys);
    Way::Login(Box::new(login))
}

fn free_port() -> std::io::Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    Ok(listener.local_addr()?.port())
}

fn make_folder(dir: &Path) -> Result<(), MachineError> {
    let made = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir);
    made.map_err(MachineError::file("make", dir))
}

/// A machine that starts again keeps what its firmware wrote.
fn copy_firmware_variables(dir: &Path) -> Result<(), MachineError> {
    firmware_installed()?;
    let to: PathBuf = dir.join(arguments::VARS_FILE);
    if to.exists() {
        return Ok(());
    }
    let new = dir.join("efivars.new");
    let copied = std::fs::copy(arguments::FIRMWARE_VARS, &new);
    let renamed = copied.and_then(|_| std::fs::rename(&new, &to));
    renamed.map_err(MachineError::file("write", &to))
}

/// Refuses what QEMU or cloud-init would read as something else.
fn check(spec: &MachineSpec) -> Result<(), MachineError> {
    let name_like = |text: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        !text.is_empty()
            && text.len() <= MAX_NAME
            && text.bytes().all(plain)
            && text.as_bytes()[0].is_ascii_alphanumeric()
    };
    let all: Vec<&MachineDisk> = arguments::disks(spec).map(|(_, _, disk)| disk).collect();
    let reason = if !name_like(&spec.name) {
        "the name may hold letters, digits, `-`, `_` and `.`"
    } else if !name_like(&spec.hostname) || spec.hostname.contains('_') {
        "the host name may hold letters, digits, `-` and `.`"
    } else if !name_like(&spec.user) {
        "the user name may hold letters, digits, `-`, `_` and `.`"
    } else if !spec.dir.is_absolute() || !all.iter().all(|disk| disk_path(disk).is_absolute()) {
        "its folder and its disks must be absolute paths"
    } else if spec.cpus == 0 || spec.memory_mib < 64 {
        "it needs a processor and 64 MiB of memory at least"
    } else if spec.system == System::Windows
        && (spec.lifetime == Lifetime::Persistent || spec.metadata == Metadata::Cable)
    {
        "a Windows ends with its handle, and has no network for its metadata"
    } else if spec.system == System::Windows && spec.data_disks.len() > arguments::DATA_PORTS {
        "a Windows has at most 4 data disks"
    } else if !spec.media.iter().all(is_medium) {
        "a file for its medium needs a name of letters and digits, and must be there"
    } else if !luns_differ(spec) {
        "its data disks need numbers that differ"
    } else if let Some(reason) = all.iter().find_map(|disk| disk_reason(disk)) {
        reason
    } else {
        return Ok(());
    };
    Err(MachineError::Spec {
        name: spec.name.clone(),
        reason: reason.into(),
    })
}

fn is_medium(file: &MediaFile) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric();
    !file.name.is_empty()
        && file.name.len() <= MAX_NAME
        && file.name.bytes().all(plain)
        && file.path.is_absolute()
        && file.path.is_file()
}

fn luns_differ(spec: &MachineSpec) -> bool {
    let mut luns: Vec<u32> = spec.data_disks.iter().map(|data| data.lun).collect();
    luns.sort_unstable();
    luns.windows(2).all(|pair| pair[0] != pair[1])
}

fn disk_path(disk: &MachineDisk) -> &Path {
    match disk {
        MachineDisk::File(path) | MachineDisk::Layer { file: path, .. } => path,
        MachineDisk::Served(disk) => &disk.socket,
    }
}

/// What of a disk is served.
fn served(disk: &MachineDisk) -> Option<&ServedDisk> {
    match disk {
        MachineDisk::File(_) | MachineDisk::Layer { below: None, .. } => None,
        MachineDisk::Served(disk)
        | MachineDisk::Layer {
            below: Some(disk), ..
        } => Some(disk),
    }
}

/// What is wrong with a disk, if anything is.
fn disk_reason(disk: &MachineDisk) -> Option<&'static str> {
    if let MachineDisk::File(file) | MachineDisk::Layer { file, .. } = disk
        && !file.is_file()
    {
        return Some("its disk is not a file");
    }
    let served = served(disk)?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let is_socket = |meta: std::fs::Metadata| meta.file_type().is_socket();
    if !served.export.bytes().all(plain) {
        return Some("the name of its disk may hold letters, digits and `-`");
    }
    (!served.socket.metadata().is_ok_and(is_socket)).then_some("its disk is not served")
}

/// Where QEMU finds the sockets of disks that are served.
fn link_disks(spec: &MachineSpec) -> Result<(), MachineError> {
    for (_, link, disk) in arguments::disks(spec) {
        let Some(ServedDisk { socket, .. }) = served(disk) else {
            continue;
        };
        let link = spec.dir.join(link);
        match std::fs::remove_file(&link) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(MachineError::file("remove", link)(error));
            }
            _ => {}
        }
        std::os::unix::fs::symlink(socket, &link).map_err(MachineError::file("link", link))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_not_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let disk = folder.path().join("disk");
        std::fs::write(&disk, [0; 4096]).unwrap();
        let data = folder.path().join("data");
        std::fs::write(&data, [0; 4096]).unwrap();
        let data = crate::DataDisk {
            lun: 5,
            disk: data.into(),
        };
        let spec = MachineSpec {
            firmware: Firmware::Bios,
            data_disks: vec![data],
            ..MachineSpec::new("vm", folder.path(), &disk)
        };
        let keys = Keys::of(&spec.dir, &spec.name).unwrap();
        seed::write(&spec, &keys).await.unwrap();
        let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let taken = (taken.local_addr().unwrap().port(), taken);
        let free = free_port().unwrap();
        let qemu = Qemu::new(Acceleration {
            accel: crate::Accel::Tcg,
            why: "a test".into(),
        });
        let mut ports = [taken.0, free].into_iter();
        let next = || Ok(ports.next().unwrap());
        let (running, port) = qemu.launch(&spec, "a key", next).await.unwrap();
        assert_eq!(port, free);
        running.kill().await.unwrap();
        let error = qemu
            .launch(&spec, "a key", || Ok(taken.0))
            .await
            .err()
            .unwrap();
        assert!(matches!(error, MachineError::Ended { .. }), "{error}");
    }

    #[test]
    fn bad_specs_are_refused_with_a_reason() {
        let folder = tempfile::tempdir().unwrap();
        let disk = folder.path().join("disk");
        std::fs::write(&disk, "").unwrap();
        let good = MachineSpec::new("vm-1", folder.path(), &disk);
        super::check(&good).unwrap();
        let check = |change: &dyn Fn(&mut MachineSpec), expected: &str| {
            let mut spec = good.clone();
            change(&mut spec);
            let error = super::check(&spec).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(&|spec| spec.name = "a,b".into(), "the name");
        check(&|spec| spec.name = String::new(), "the name");
        check(&|spec| spec.hostname = "a b".into(), "host name");
        check(&|spec| spec.user = "-x".into(), "user name");
        check(&|spec| spec.dir = "here".into(), "absolute");
        check(&|spec| spec.disk = "/no/such".into(), "not a file");
        check(&|spec| spec.memory_mib = 1, "memory");
        let lasting = |spec: &mut MachineSpec| {
            *spec = spec.clone().windows();
            spec.lifetime = Lifetime::Persistent;
        };
        check(&lasting, "ends with its handle");
        let media = |name: &str, path: &Path| crate::MediaFile {
            name: name.into(),
            path: path.into(),
        };
        check(&|spec| spec.media = vec![media("a/b", &disk)], "medium");
        let gone = Path::new("/no/such");
        check(&|spec| spec.media = vec![media("0", gone)], "medium");
        let data = |lun, path: &str| crate::DataDisk {
            lun,
            disk: path.into(),
        };
        check(
            &|spec| spec.data_disks = vec![data(0, "/no/such")],
            "not a file",
        );
        check(
            &|spec| spec.data_disks = vec![data(1, "/a"), data(1, "/b")],
            "differ",
        );
        let served = |socket: &str, export: &str| {
            MachineDisk::Served(ServedDisk {
                socket: socket.into(),
                export: export.to_owned(),
            })
        };
        check(&|spec| spec.disk = served("/no/such", "a"), "not served");
        check(&|spec| spec.disk = served("/no/such", "a,b"), "letters");
    }
}
