//! The machine executor: customizers in a machine that boots the parent's disk, for what the tree executor must not
//! touch or cannot do. What the machine wrote is compared with the parent, block by block.
//!
//! The disk may be anybody's: it is only ever read here as bytes, and nothing that the guest says is trusted.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::Engine;
use disk::{Changes, ReadAt};
use machine::{Firmware, Guest, Hypervisor, MachineSpec, Network, Stopped, System};
use store::FileDisk;

use super::customizer::{Action, Customizer, FileContent};
use super::error::BuildError;
use super::executor::{BuildContext, StepOutcome, StepTimes, interpreter};
use super::generalise;
use super::secrets::Redacted;
use super::windows;
use crate::test::{boot_deadline, quoted};

/// One argument of a program may have 128 KiB.
const PIECE_BYTES: usize = 60 << 10;
const COMMAND_DEADLINE: Duration = Duration::from_secs(10 * 60);
const STOP_GRACE: Duration = Duration::from_secs(120);
/// Windows takes its time, and an agent says goodbye first.
const WINDOWS_STOP_GRACE: Duration = Duration::from_secs(15 * 60);
const TAIL_LINES_MAX: usize = 40;
const BLOCK: usize = disk::BLOCK_SIZE;
/// What is compared at a time.
const STRIDE: usize = 256 * BLOCK;
/// Where scripts and files lie in the guest until it is switched off.
const PLACE: &str = "/run/bullion";
const ENVIRONMENT: &str = "DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 HOME=/root PYTHONHASHSEED=0 \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What is built in one machine.
pub struct MachineBuild<'a> {
    pub hypervisor: &'a dyn Hypervisor,
    /// The parent's disk, only read.
    pub parent: &'a Path,
    /// A copy of it, which the machine writes.
    pub disk: PathBuf,
    /// A folder of the machine's own.
    pub work: PathBuf,
    pub system: System,
    pub firmware: Firmware,
    pub customizers: &'a [Customizer],
    /// Takes away what belongs to one machine.
    pub generalize: bool,
    pub context: &'a BuildContext,
}

impl MachineBuild<'_> {
    /// Carries the customizers out, in order; the first that fails ends it.
    pub async fn run(&self) -> Result<StepOutcome, BuildError> {
        let started = Instant::now();
        let spec = self.spec()?;
        let accel = self.hypervisor.acceleration().accel;
        let guest = self.hypervisor.start(spec).await?;
        let work = async {
            let limit = boot_deadline(accel, self.system);
            let boot = guest.wait_ready(limit).await?;
            (self.context.on_line)(&format!(
                "the build machine booted in {:.1} s",
                boot.seconds
            ));
            match self.system {
                System::Linux => self.customise(&*guest).await,
                System::Windows => self.customise_windows(&*guest).await,
            }
        };
        let done = tokio::time::timeout(self.context.deadline, work).await;
        let tail = match done {
            Ok(Ok(tail)) => tail,
            ended => {
                // It ends with its handle anyway; what it says about ending cannot change why it failed.
                let _ = guest.kill().await;
                return Err(match ended {
                    Ok(Err(error)) => error,
                    _ => BuildError::Deadline {
                        customizer: "machine".to_owned(),
                        after: self.context.deadline,
                        tail: Vec::new(),
                    },
                });
            }
        };
        let stopped = guest
            .stop(match self.system {
                System::Linux => STOP_GRACE,
                System::Windows => WINDOWS_STOP_GRACE,
            })
            .await?;
        if stopped == Stopped::Forced {
            return Err(BuildError::BadParent {
                reason: "the build machine did not shut down, so its disk may be torn".to_owned(),
            });
        }
        self.written(started.elapsed(), tail).await
    }

    fn spec(&self) -> Result<MachineSpec, BuildError> {
        let mut spec = MachineSpec::new("build", &self.work, &self.disk);
        if self.system == System::Windows {
            spec = spec.windows();
            spec.media = windows::media(self.customizers, &self.work.with_extension("media"))?;
        }
        spec.snapshot = false;
        spec.firmware = self.firmware;
        // Packages come from where the guest's own apt says, updates from where Windows gets them; nothing else gets a
        // network.
        let fetches = |one: &Customizer| one.needs_archive() || windows::fetches(one);
        spec.network = match self.customizers.iter().any(fetches) {
            true => Network::Outbound,
            false => Network::Isolated,
        };
        Ok(spec)
    }

    /// What the machine, which is off now, made of the parent.
    async fn written(
        &self,
        customise: Duration,
        tail: Vec<String>,
    ) -> Result<StepOutcome, BuildError> {
        let started = Instant::now();
        let (parent, disk) = (self.parent.to_owned(), self.disk.clone());
        let compared = tokio::task::spawn_blocking(move || difference(&parent, &disk));
        let changes = compared.await.map_err(BuildError::Worker)?;
        let changes = changes.map_err(BuildError::ReadWritten)?;
        for secret in &self.context.secrets {
            if secret.is_in(&changes) {
                return Err(BuildError::SecretLeft {
                    customizer: "machine".to_owned(),
                    secret: secret.name().to_owned(),
                });
            }
        }
        Ok(StepOutcome {
            changes,
            records: 0,
            times: StepTimes {
                customise,
                delta: started.elapsed(),
                ..StepTimes::default()
            },
            tail,
        })
    }

    async fn customise(&self, guest: &dyn Guest) -> Result<Vec<String>, BuildError> {
        let redacted = Redacted::new(&self.context.secrets);
        let shell = Shell {
            guest,
            on_line: &|line: &str| (self.context.on_line)(&redacted.line(line)),
        };
        shell.run("prepare", &format!("mkdir -p {PLACE}")).await?;
        let mut tail = Vec::new();
        for customizer in self.customizers {
            (shell.on_line)(&format!("customizer {}", customizer.name()));
            tail = self.one(&shell, customizer).await?;
        }
        if self.generalize {
            shell
                .put(generalise::SCRIPT.as_bytes(), "generalise")
                .await?;
            let user = &guest.info().user;
            let line = format!("sh {PLACE}/generalise {}", quoted(user));
            // The last command: the login is gone after it.
            shell.run("generalise", &line).await?;
        }
        Ok(tail)
    }

    async fn customise_windows(&self, guest: &dyn Guest) -> Result<Vec<String>, BuildError> {
        let session = windows::Session::new(guest, self.context);
        let mut tail = Vec::new();
        for (index, customizer) in self.customizers.iter().enumerate() {
            (self.context.on_line)(&format!("customizer {}", customizer.name()));
            tail = session.one(index, customizer).await?;
        }
        if self.generalize {
            session.generalise().await?;
        }
        Ok(tail)
    }

    async fn one(
        &self,
        shell: &Shell<'_>,
        customizer: &Customizer,
    ) -> Result<Vec<String>, BuildError> {
        let name = customizer.name();
        match customizer.action() {
            Action::Shell { lines, .. } => {
                let variables = self
                    .context
                    .secrets
                    .iter()
                    .fold(String::new(), |text, secret| {
                        text + &format!("export {}={}\n", secret.name(), quoted(secret.reveal()))
                    });
                shell.put(variables.as_bytes(), "variables").await?;
                let script = lines.join("\n") + "\n";
                shell.put(script.as_bytes(), "script").await?;
                let words: Vec<String> = interpreter(lines).into_iter().map(quoted).collect();
                let inner = format!(
                    ". {PLACE}/variables; exec {} {PLACE}/script",
                    words.join(" ")
                );
                let line = format!("env -i {ENVIRONMENT} sh -c {}", quoted(&inner));
                shell.run(name, &line).await
            }
            Action::Packages { packages } => {
                let names: Vec<String> = packages.iter().map(|one| quoted(one.as_str())).collect();
                let apt = "apt-get -q -y -o Dpkg::Use-Pty=false";
                shell
                    .run(name, &format!("env {ENVIRONMENT} {apt} update"))
                    .await?;
                let line = format!(
                    "env {ENVIRONMENT} {apt} install --no-install-recommends -- {}",
                    names.join(" ")
                );
                shell.run(name, &line).await
            }
            Action::Ansible {
                playbook,
                variables,
            } => {
                shell.put(playbook.as_bytes(), "playbook.yml").await?;
                shell.put(variables.as_bytes(), "variables.json").await?;
                let line = format!(
                    "env {ENVIRONMENT} ANSIBLE_NOCOLOR=1 ansible-playbook --inventory=localhost, --connection=local \
                     --extra-vars=@{PLACE}/variables.json {PLACE}/playbook.yml"
                );
                shell.run(name, &line).await
            }
            Action::KernelCommandLine { add, remove } => {
                shell.run(name, &command_line_script(add, remove)).await
            }
            Action::Windows(action) => Err(BuildError::NeedsWindows {
                customizer: name.to_owned(),
                kind: action.kind(),
            }),
            _ => self.write(shell, customizer).await,
        }
    }

    /// Those that are a file, and perhaps a command behind it.
    async fn write(
        &self,
        shell: &Shell<'_>,
        customizer: &Customizer,
    ) -> Result<Vec<String>, BuildError> {
        let name = customizer.name();
        match customizer.action() {
            Action::File {
                content,
                destination,
                mode,
                uid,
                gid,
            } => {
                let bytes = match content {
                    FileContent::Bytes(bytes) => bytes.clone(),
                    FileContent::Kept { path, .. } => {
                        std::fs::read(path).map_err(BuildError::file("read", path))?
                    }
                };
                let place = destination.to_string();
                shell.write(name, &bytes, &place, *mode, (*uid, *gid)).await
            }
            Action::CaCertificate { pem } => {
                let place = format!(
                    "/usr/local/share/ca-certificates/{}",
                    customizer.certificate_file()
                );
                let pem = pem.trim_end().to_owned() + "\n";
                shell
                    .write(name, pem.as_bytes(), &place, 0o644, (0, 0))
                    .await?;
                shell.run(name, "update-ca-certificates").await
            }
            Action::CloudInit { user_data } => {
                let place = customizer.cloud_file();
                shell
                    .write(name, user_data.as_bytes(), &place, 0o644, (0, 0))
                    .await
            }
            Action::PartitionGrowth { enabled } => {
                let mode = if *enabled { "auto" } else { "off" };
                let text = format!(
                    "#cloud-config\ngrowpart: {{mode: \"{mode}\"}}\nresize_rootfs: {enabled}\n"
                );
                let place = "/etc/cloud/cloud.cfg.d/91_growth.cfg";
                shell
                    .write(name, text.as_bytes(), place, 0o644, (0, 0))
                    .await
            }
            _ => Ok(Vec::new()),
        }
    }
}

/// Words are checked before they come here: none holds a quote, a dollar or a blank.
fn command_line_script(add: &[String], remove: &[String]) -> String {
    let mut script = String::from("set -eu; f=/boot/grub/grub.cfg; ");
    for word in remove {
        let word = word
            .replace(['/', '.', '*', '[', ']', '^'], "?")
            .replace('?', "[^ ]");
        script += &format!(
            "sed -i -E '/^[[:space:]]*linux[[:space:]]/s/ {word}(=[^ ]*)?( |$)/\\2/' $f; "
        );
        script += &format!(
            "[ ! -f /etc/default/grub ] || sed -i -E '/CMDLINE/s/(\"| ){word}(=[^ \"]*)?/\\1/' /etc/default/grub; "
        );
    }
    let words = add.join(" ").replace('/', "\\/").replace('&', "\\&");
    if !words.is_empty() {
        script += &format!("sed -i -E '/^[[:space:]]*linux[[:space:]]/s/$/ {words}/' $f; ");
        script += &format!(
            "[ ! -f /etc/default/grub ] || sed -i -E 's/^GRUB_CMDLINE_LINUX=\"/&{words} /' /etc/default/grub; "
        );
    }
    format!("sh -c {}", quoted(&script))
}

/// Commands in the guest, as root.
struct Shell<'a> {
    guest: &'a dyn Guest,
    on_line: &'a (dyn Fn(&str) + Send + Sync),
}

impl Shell<'_> {
    async fn run(&self, customizer: &str, line: &str) -> Result<Vec<String>, BuildError> {
        let output = self
            .guest
            .exec(&format!("sudo {line}"), COMMAND_DEADLINE)
            .await?;
        let said = format!("{}{}", output.stdout, output.stderr);
        for line in said.lines() {
            (self.on_line)(line);
        }
        let lines: Vec<&str> = said.lines().collect();
        let from = lines.len().saturating_sub(TAIL_LINES_MAX);
        let tail: Vec<String> = lines[from..]
            .iter()
            .map(|line| (*line).to_owned())
            .collect();
        if output.success() {
            return Ok(tail);
        }
        Err(BuildError::Failed {
            customizer: customizer.to_owned(),
            status: format!("exit status {}", output.status),
            tail,
        })
    }

    /// A file of the place, in pieces; what is in it is in no command line that sudo would log.
    async fn put(&self, bytes: &[u8], name: &str) -> Result<(), BuildError> {
        let place = format!("{PLACE}/{name}");
        self.run(name, &format!("sh -c ': > {place} && chmod 600 {place}'"))
            .await?;
        let engine = base64::engine::general_purpose::STANDARD;
        for piece in bytes.chunks(PIECE_BYTES) {
            let text = engine.encode(piece);
            let line = format!("echo {text} | base64 -d | sudo tee -a {place} > /dev/null");
            let output = self.guest.exec(&line, COMMAND_DEADLINE).await?;
            if !output.success() {
                return Err(BuildError::Failed {
                    customizer: name.to_owned(),
                    status: format!("exit status {}", output.status),
                    tail: vec![output.stderr],
                });
            }
        }
        Ok(())
    }

    async fn write(
        &self,
        customizer: &str,
        bytes: &[u8],
        place: &str,
        mode: u32,
        (uid, gid): (u32, u32),
    ) -> Result<Vec<String>, BuildError> {
        self.put(bytes, "file").await?;
        let line = format!(
            "install -D -m {mode:04o} -o {uid} -g {gid} {PLACE}/file {}",
            quoted(place)
        );
        self.run(customizer, &line).await
    }
}

/// The blocks of `disk` that are not those of `parent`.
fn difference(parent: &Path, disk: &Path) -> std::io::Result<Changes> {
    let (parent, disk) = (FileDisk::open(parent)?, FileDisk::open(disk)?);
    if parent.size() != disk.size() {
        return Err(std::io::Error::other("the size of the disk has changed"));
    }
    let (mut old, mut new) = (vec![0u8; STRIDE], vec![0u8; STRIDE]);
    let (mut changes, mut at) = (Changes::new(), 0u64);
    while at < disk.size() {
        // Where neither has data, both are zeros.
        let next = |disk: &FileDisk| disk.next_data(at);
        let data = [next(&parent)?, next(&disk)?].into_iter().flatten();
        let Some(start) = data.map(|range| range.start.max(at)).min() else {
            break;
        };
        at = start / STRIDE as u64 * STRIDE as u64;
        let length = usize::try_from((disk.size() - at).min(STRIDE as u64)).unwrap_or(STRIDE);
        parent.read_at(at, &mut old[..length])?;
        disk.read_at(at, &mut new[..length])?;
        let pairs = old[..length].chunks(BLOCK).zip(new[..length].chunks(BLOCK));
        for (index, (before, after)) in pairs.enumerate() {
            if before != after {
                let mut block = [0u8; BLOCK];
                block[..after.len()].copy_from_slice(after);
                changes.set(at / BLOCK as u64 + index as u64, &block);
            }
        }
        at += STRIDE as u64;
    }
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let size = 3 * STRIDE;
        let mut bytes = vec![0u8; size];
        bytes[10] = 1;
        bytes[STRIDE + 5 * BLOCK] = 2;
        std::fs::write(path("a"), &bytes).unwrap();
        bytes[STRIDE + 5 * BLOCK] = 0;
        bytes[2 * STRIDE + BLOCK + 1] = 3;
        let file = std::fs::File::create(path("b")).unwrap();
        file.set_len(size as u64).unwrap();
        let mut disk = file;
        use std::os::unix::fs::FileExt;
        disk.write_all_at(&bytes[..BLOCK], 0).unwrap();
        disk.write_all_at(&[3], (2 * STRIDE + BLOCK + 1) as u64)
            .unwrap();
        std::io::Write::flush(&mut disk).unwrap();
        let changes = difference(&path("a"), &path("b")).unwrap();
        let seen: Vec<u64> = changes.iter().map(|(index, _)| index).collect();
        assert_eq!(seen, [256 + 5, 512 + 1]);
    }
}
