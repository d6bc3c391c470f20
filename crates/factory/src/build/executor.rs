//! Carries out one customizer on one parent and answers the changed blocks.
//!
//! Order: sandbox (only where a program must run), normalise, delta, apply. After the sandbox no
//! mount is left, so everything else is plain reading of a folder and of the parent's bytes.

use std::collections::{HashSet, VecDeque};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use disk::Changes;
use ext4::{Change, Tree};
use sha2::{Digest, Sha256};

use super::block::ParentDisk;
use super::customizer::{Action, Customizer, PackageName};
use super::delta::delta;
use super::direct::{NewFile, write_file};
use super::error::BuildError;
use super::normalise::normalise;
use super::sandbox::{Bind, Job, Network, SandboxProgram, Verdict};

/// Lines of output kept for the error and the outcome.
const TAIL_LINES_MAX: usize = 40;
const STEP_PREFIX: &str = "step-";
const CERTIFICATE_FOLDER: &str = "usr/local/share/ca-certificates";
const CERTIFICATE_MODE: u32 = 0o644;

/// Where lines of output go as they come.
pub type LineSink = Arc<dyn Fn(&str) + Send + Sync>;

/// A pinned state of a package archive, as apt reads it.
#[derive(Debug, Clone)]
pub struct AptState {
    /// The folder of package lists.
    pub lists: PathBuf,
    /// The text of `sources.list` that the lists were read by.
    pub sources_list: String,
    /// Packages that were fetched before; new ones are added.
    pub debs: PathBuf,
    /// Further lines of apt configuration for fetching, such as a proxy.
    pub acquire: String,
    /// Variables for fetching, such as a proxy.
    pub environment: Vec<(String, String)>,
}

/// What a step needs besides the parent and the customizer.
#[derive(Clone)]
pub struct BuildContext {
    /// `SOURCE_DATE_EPOCH`: seconds since 1970 that no file is younger than.
    pub epoch: i64,
    pub apt: Option<AptState>,
    pub deadline: Duration,
    pub on_line: LineSink,
}

/// Where the time went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StepTimes {
    pub customise: Duration,
    pub delta: Duration,
    pub apply: Duration,
}

/// A customizer that succeeded.
#[derive(Debug)]
pub struct StepOutcome {
    /// Blocks of the whole disk that differ from the parent.
    pub changes: Changes,
    /// Records that were applied.
    pub records: usize,
    pub times: StepTimes,
    /// The last lines of its output.
    pub tail: Vec<String>,
}

/// Builds in one work folder, which nobody else uses.
#[derive(Debug)]
pub struct TreeExecutor {
    work: PathBuf,
    program: SandboxProgram,
}

impl TreeExecutor {
    /// Makes the folder and removes what a killed process left in it. `work` must lie on a file
    /// system that can be the upper layer of an overlay (ext4, xfs, btrfs, tmpfs).
    pub fn new(work: &Path, program: SandboxProgram) -> Result<Self, BuildError> {
        fs::create_dir_all(work).map_err(BuildError::file("make", work))?;
        let entries = fs::read_dir(work).map_err(BuildError::file("list", work))?;
        for entry in entries.flatten() {
            if entry
                .file_name()
                .as_bytes()
                .starts_with(STEP_PREFIX.as_bytes())
            {
                fs::remove_dir_all(entry.path())
                    .map_err(BuildError::file("remove", &entry.path()))?;
            }
        }
        Ok(TreeExecutor {
            work: work.to_owned(),
            program,
        })
    }

    /// What would stop every build here, found before one starts.
    pub fn check(&self) -> Result<(), BuildError> {
        if !rustix::process::geteuid().is_root() {
            return Err(BuildError::NeedsRoot);
        }
        for program in super::sandbox::PROGRAMS {
            process::find(program)?;
        }
        Ok(())
    }

    /// Carries out `customizer` on `parent`. Dropping the future kills what runs.
    pub async fn run(
        &self,
        parent: Arc<ParentDisk>,
        customizer: &Customizer,
        context: &BuildContext,
    ) -> Result<StepOutcome, BuildError> {
        let name = customizer.name();
        if let Action::File {
            bytes,
            destination,
            mode,
            uid,
            gid,
        } = customizer.action()
        {
            let (bytes, destination) = (bytes.clone(), destination.clone());
            let (mode, uid, gid, epoch) = (*mode, *uid, *gid, context.epoch);
            let records = move |tree: &mut Tree<'_>| {
                let file = NewFile {
                    destination: &destination,
                    bytes,
                    mode,
                    uid,
                    gid,
                };
                write_file(tree, file, epoch)
            };
            return finish(
                parent,
                name,
                epoch,
                records,
                StepTimes::default(),
                Vec::new(),
            )
            .await;
        }
        self.check()?;
        let started = Instant::now();
        let folder = tempfile::Builder::new()
            .prefix(STEP_PREFIX)
            .tempdir_in(&self.work)
            .map_err(BuildError::file("make a folder in", &self.work))?;
        let step = Step {
            executor: self,
            parent: &parent,
            customizer,
            context,
            folder: folder.path(),
        };
        let tail = match customizer.action() {
            Action::Packages { packages } => step.packages(packages).await?,
            Action::Shell { lines } => step.shell(lines).await?,
            Action::CaCertificate { pem } => step.certificate(pem).await?,
            Action::File { .. } => Vec::new(),
        };
        let times = StepTimes {
            customise: started.elapsed(),
            ..StepTimes::default()
        };
        let (upper, epoch) = (folder.path().join(UPPER), context.epoch);
        let records = move |tree: &mut Tree<'_>| {
            normalise(&upper, epoch)?;
            delta(&upper, tree, epoch)
        };
        let outcome = finish(parent, name, epoch, records, times, tail).await;
        drop(folder);
        outcome
    }
}

/// The layer that a customizer writes, in the folder of its step.
const UPPER: &str = "upper";
/// The layer of fetching packages, which is thrown away.
const FETCH_UPPER: &str = "fetch-upper";

/// Makes the records and applies them, on a thread for blocking work.
async fn finish(
    parent: Arc<ParentDisk>,
    name: &str,
    epoch: i64,
    records: impl FnOnce(&mut Tree<'_>) -> Result<Vec<Change>, BuildError> + Send + 'static,
    mut times: StepTimes,
    tail: Vec<String>,
) -> Result<StepOutcome, BuildError> {
    let name = name.to_owned();
    let work = move || {
        let started = Instant::now();
        let records = parent.root().read(parent.disk(), records)?;
        times.delta = started.elapsed();
        let started = Instant::now();
        let count = records.len();
        let changes = parent
            .root()
            .apply(parent.disk(), records, epoch)
            .map_err(BuildError::write(&name))?;
        times.apply = started.elapsed();
        Ok(StepOutcome {
            changes,
            records: count,
            times,
            tail,
        })
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(BuildError::Worker)?
}

/// One customizer under way.
struct Step<'a> {
    executor: &'a TreeExecutor,
    parent: &'a ParentDisk,
    customizer: &'a Customizer,
    context: &'a BuildContext,
    folder: &'a Path,
}

impl Step<'_> {
    async fn shell(&self, lines: &[String]) -> Result<Vec<String>, BuildError> {
        let mut command = interpreter(lines);
        command.push("/run/bullion/script");
        let job = self.job(&command, Network::None)?;
        self.sandbox(job.file("script", lines.join("\n") + "\n"), UPPER)
            .await
    }

    async fn certificate(&self, pem: &str) -> Result<Vec<String>, BuildError> {
        const PROGRAM: &str = "usr/sbin/update-ca-certificates";
        let present = self
            .parent
            .root()
            .read(self.parent.disk(), |tree| tree.entry(PROGRAM.as_bytes()));
        if present?.is_none() {
            return Err(BuildError::BadParent {
                reason: format!(
                    "customizer `{}` needs `/{PROGRAM}`; install the package `ca-certificates` before it",
                    self.customizer.name()
                ),
            });
        }
        let file = format!(
            "/{CERTIFICATE_FOLDER}/{}",
            self.customizer.certificate_file()
        );
        let script = format!(
            "mkdir -p /{CERTIFICATE_FOLDER}\n\
             cat /run/bullion/certificate > \"$1\"\n\
             chmod {CERTIFICATE_MODE:o} \"$1\"\n\
             exec update-ca-certificates\n"
        );
        let job = self.job(
            &["/bin/sh", "-eu", "/run/bullion/script", &file],
            Network::None,
        )?;
        let pem = pem.trim_end().to_owned() + "\n";
        self.sandbox(job.file("script", script).file("certificate", pem), UPPER)
            .await
    }

    /// Twice in a sandbox: apt fetches with a network and its layer is thrown away, then installs
    /// from what was fetched without one, so that no package's script reaches the network.
    async fn packages(&self, packages: &[PackageName]) -> Result<Vec<String>, BuildError> {
        let Some(apt) = &self.context.apt else {
            return Err(BuildError::NoArchive {
                customizer: self.customizer.name().to_owned(),
            });
        };
        fs::create_dir_all(&apt.debs).map_err(BuildError::file("make", &apt.debs))?;
        let fetch = self.apt_job(apt, &["--download-only"], packages, Network::Host)?;
        let fetch = apt
            .environment
            .iter()
            .fold(fetch, |job, (name, value)| job.variable(name, value));
        self.sandbox(fetch, FETCH_UPPER).await?;
        self.keep_debs(apt)?;
        let install = self.apt_job(apt, &["--no-download"], packages, Network::None)?;
        self.sandbox(install, UPPER).await
    }

    fn apt_job(
        &self,
        apt: &AptState,
        options: &[&str],
        packages: &[PackageName],
        network: Network,
    ) -> Result<Job, BuildError> {
        let mut arguments = vec!["apt-get", "-c", "/run/bullion/apt.conf", "-y", "-q"];
        arguments.extend(options);
        arguments.extend(["install", "--"]);
        arguments.extend(packages.iter().map(PackageName::as_str));
        let job = self.job(&arguments, network)?;
        Ok(job
            .file("apt.conf", format!("{}{}", APT_SETTINGS, apt.acquire))
            .file("sources.list", apt.sources_list.clone())
            .variable("APT_CONFIG", "/run/bullion/apt.conf")
            .bind(Bind {
                source: apt.lists.clone(),
                name: "lists".to_owned(),
            })
            .bind(Bind {
                source: apt.debs.clone(),
                name: "archives".to_owned(),
            }))
    }

    /// Moves the packages that apt fetched to those kept for later builds. The apt that fetched
    /// them is the image's own, so each is held against the pinned lists here.
    fn keep_debs(&self, apt: &AptState) -> Result<(), BuildError> {
        let fetched = Job::written_to(self.folder, FETCH_UPPER, "archives");
        let debs = packages_in(&fetched)?;
        if debs.is_empty() {
            return Ok(());
        }
        let known = known_hashes(&apt.lists)?;
        for name in debs {
            let path = fetched.join(&name);
            if !known.contains(&sha256_of(&path).map_err(BuildError::file("read", &path))?) {
                return Err(BuildError::UnknownPackage {
                    customizer: self.customizer.name().to_owned(),
                    file: name.to_string_lossy().into_owned(),
                });
            }
            let partial = apt.debs.join(format!(".{}", name.to_string_lossy()));
            fs::copy(&path, &partial).map_err(BuildError::file("copy", &path))?;
            fs::rename(&partial, apt.debs.join(&name))
                .map_err(BuildError::file("rename", &partial))?;
        }
        Ok(())
    }

    fn job(&self, arguments: &[&str], network: Network) -> Result<Job, BuildError> {
        let root = self.parent.root();
        let top = root.read(self.parent.disk(), |tree| tree.entry(b""))?;
        let top = top.ok_or_else(|| BuildError::BadParent {
            reason: "it has no root directory".to_owned(),
        })?;
        Ok(
            Job::new(self.parent.path(), root, top.meta, arguments, network)
                .variable("SOURCE_DATE_EPOCH", &self.context.epoch.to_string()),
        )
    }

    /// Runs the job and answers the tail of its output.
    async fn sandbox(&self, job: Job, upper: &str) -> Result<Vec<String>, BuildError> {
        let customizer = self.customizer.name().to_owned();
        let tail = Arc::new(Mutex::new(VecDeque::new()));
        let sink = {
            let (tail, on_line) = (Arc::clone(&tail), Arc::clone(&self.context.on_line));
            move |line: &str| {
                on_line(line);
                let mut tail = tail
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner);
                tail.push_back(line.to_owned());
                if tail.len() > TAIL_LINES_MAX {
                    tail.pop_front();
                }
            }
        };
        let verdict = job
            .run(
                &self.executor.program,
                self.folder,
                upper,
                self.context.deadline,
                sink,
            )
            .await?;
        let tail: Vec<String> = tail
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .iter()
            .cloned()
            .collect();
        match verdict {
            Verdict::Success => Ok(tail),
            Verdict::Failure { status } => Err(BuildError::Failed {
                customizer,
                status,
                tail,
            }),
            Verdict::Deadline => Err(BuildError::Deadline {
                customizer,
                after: self.context.deadline,
                tail,
            }),
        }
    }
}

fn packages_in(folder: &Path) -> Result<Vec<OsString>, BuildError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)
        .map_err(BuildError::file("list", folder))?
        .flatten()
    {
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if is_file && entry.file_name().as_bytes().ends_with(b".deb") {
            names.push(entry.file_name());
        }
    }
    Ok(names)
}

/// The SHA-256 of every package in the lists.
fn known_hashes(lists: &Path) -> Result<HashSet<String>, BuildError> {
    let mut known = HashSet::new();
    for entry in fs::read_dir(lists)
        .map_err(BuildError::file("list", lists))?
        .flatten()
    {
        if !entry.file_name().as_bytes().ends_with(b"_Packages") {
            continue;
        }
        let file = File::open(entry.path()).map_err(BuildError::file("open", &entry.path()))?;
        for line in BufReader::new(file).split(b'\n') {
            let line = line.map_err(BuildError::file("read", &entry.path()))?;
            if let Some(hash) = line.strip_prefix(b"SHA256: ") {
                known.insert(String::from_utf8_lossy(hash).trim().to_owned());
            }
        }
    }
    if known.is_empty() {
        return Err(BuildError::NoLists {
            folder: lists.to_owned(),
        });
    }
    Ok(known)
}

fn sha256_of(path: &Path) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut file = File::open(path)?;
    let mut piece = vec![0; 1 << 20];
    loop {
        match file.read(&mut piece)? {
            0 => {
                return Ok(hasher
                    .finalize()
                    .iter()
                    .map(|byte| format!("{byte:02x}"))
                    .collect());
            }
            length => hasher.update(&piece[..length]),
        }
    }
}

/// Keeps apt's own state out of the image, and its answers out of the hands of the image's settings.
const APT_SETTINGS: &str = r#"Dir::Etc::sourcelist "/run/bullion/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::State::lists "/run/bullion/lists";
Dir::Cache "/run/bullion/cache";
Dir::Cache::archives "/run/bullion/archives";
Dir::Log "/run/bullion/log";
APT::Install-Recommends "false";
APT::Sandbox::User "root";
APT::Get::Assume-Yes "true";
APT::Color "false";
Acquire::Languages "none";
Acquire::Check-Valid-Until "false";
Dpkg::Use-Pty "false";
Dpkg::Options { "--force-confdef"; "--force-confold"; "--force-unsafe-io"; };
"#;

/// What runs a script: its `#!` line, read as the kernel reads it (a program and at most one argument), or
/// `sh` that stops at the first failure. Started by us because `/run` is mounted without execution.
fn interpreter(lines: &[String]) -> Vec<&str> {
    let named = lines.first().and_then(|line| line.strip_prefix("#!"));
    match named.map(str::trim).filter(|named| !named.is_empty()) {
        Some(named) => {
            let (program, argument) = named.split_once([' ', '\t']).unwrap_or((named, ""));
            let argument = Some(argument.trim()).filter(|argument| !argument.is_empty());
            std::iter::once(program).chain(argument).collect()
        }
        None => vec!["/bin/sh", "-eu"],
    }
}

#[cfg(test)]
mod tests {
    fn check(script: &str, expected: &[&str]) {
        let lines: Vec<String> = script.lines().map(str::to_owned).collect();
        assert_eq!(super::interpreter(&lines), expected, "{script}");
    }

    #[test]
    fn the_first_line_names_the_interpreter() {
        check("echo x", &["/bin/sh", "-eu"]);
        check("#!/bin/bash\necho x", &["/bin/bash"]);
        check(
            "#! /usr/bin/env  -S python3 -u",
            &["/usr/bin/env", "-S python3 -u"],
        );
        check("#!", &["/bin/sh", "-eu"]);
        check("", &["/bin/sh", "-eu"]);
    }
}
