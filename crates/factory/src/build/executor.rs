//! Carries out one customizer on one parent and answers the changed blocks.
//!
//! Order: sandbox (only where a program must run), normalise, delta, apply. After the sandbox no
//! mount is left, so everything else is plain reading of a folder and of the parent's bytes.

use std::collections::{HashSet, VecDeque};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use disk::Changes;
use ext4::{Change, Content, Tree};

use super::block::ParentDisk;
use super::boot_loader::{self, CONFIG, CONFIG_BYTES_MAX};
use super::customizer::{Action, Customizer, FileContent, ImagePath, PackageName};
use super::delta::delta;
use super::direct::{NewFile, write_file};
use super::error::BuildError;
use super::normalise::normalise;
use super::sandbox::{Bind, Job, Network, SandboxProgram, Verdict};
use super::secrets::{Redacted, SecretValue};
use crate::source::{Watch, watched};

/// Lines of output kept for the error and the outcome.
const TAIL_LINES_MAX: usize = 40;
pub(super) const STEP_PREFIX: &str = "step-";
const CERTIFICATE_FOLDER: &str = "usr/local/share/ca-certificates";
const CERTIFICATE_MODE: u32 = 0o644;
const PLAIN_MODE: u32 = 0o644;
const PLAYBOOK_PROGRAM: &str = "usr/bin/ansible-playbook";
/// Between two looks at how much a customizer has written.
const QUOTA_PERIOD: Duration = Duration::from_millis(500);

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
    /// The values of the customizer's secrets.
    pub secrets: Vec<SecretValue>,
    pub deadline: Duration,
    pub on_line: LineSink,
    /// Where what a failed customizer left is kept, for people to look into.
    pub keep: Option<PathBuf>,
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

    pub(super) fn work(&self) -> &Path {
        &self.work
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
        if let Some(records) = direct(customizer, context.epoch)? {
            let (epoch, times) = (context.epoch, StepTimes::default());
            return finish(parent, name, epoch, records, times, Vec::new()).await;
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
        let done = match customizer.action() {
            Action::Packages { packages } => step.packages(packages).await,
            Action::Shell { lines, .. } => step.shell(lines).await,
            Action::CaCertificate { pem } => step.certificate(pem).await,
            Action::Ansible {
                playbook,
                variables,
            } => step.playbook(playbook, variables).await,
            Action::Windows(action) => Err(BuildError::NeedsWindows {
                customizer: name.to_owned(),
                kind: action.kind(),
            }),
            Action::File { .. }
            | Action::CloudInit { .. }
            | Action::KernelCommandLine { .. }
            | Action::PartitionGrowth { .. } => Ok(Vec::new()),
        };
        let tail = match done {
            Ok(tail) => tail,
            Err(error) => {
                keep(folder, context.keep.as_deref());
                return Err(error);
            }
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
        let outcome = finish(parent, name, epoch, records, times, tail).await?;
        drop(folder);
        for secret in &context.secrets {
            if secret.is_in(&outcome.changes) {
                return Err(BuildError::SecretLeft {
                    customizer: name.to_owned(),
                    secret: secret.name().to_owned(),
                });
            }
        }
        Ok(outcome)
    }
}

/// Moves the folder of a step to where it is kept. That it cannot be moved must not hide why the step failed.
fn keep(folder: tempfile::TempDir, target: Option<&Path>) {
    let Some(target) = target else {
        return;
    };
    let from = folder.keep();
    let moved = fs::create_dir_all(target).and_then(|()| fs::rename(&from, target.join("layer")));
    if let Err(error) = moved {
        tracing::warn!(%error, "a failed step's layer cannot be kept");
        let _ = fs::remove_dir_all(&from);
    }
}

/// How records are made of a tree.
type Records = Box<dyn FnOnce(&mut Tree<'_>) -> Result<Vec<Change>, BuildError> + Send>;

/// What needs no process: its records are made at once.
fn direct(customizer: &Customizer, epoch: i64) -> Result<Option<Records>, BuildError> {
    let text = |path: &str, text: String| {
        let destination = ImagePath::parse(path).ok_or_else(|| BuildError::BadEntry {
            path: path.to_owned(),
            reason: "it is not a path of a file",
        })?;
        Ok::<_, BuildError>(one_file(
            destination,
            Content::Bytes(text.into_bytes()),
            epoch,
        ))
    };
    Ok(Some(match customizer.action() {
        Action::File {
            content,
            destination,
            mode,
            uid,
            gid,
        } => {
            let content = match content {
                FileContent::Bytes(bytes) => Content::Bytes(bytes.clone()),
                FileContent::Kept { path, .. } => Content::File(path.clone()),
            };
            let (destination, mode, uid, gid) = (destination.clone(), *mode, *uid, *gid);
            Box::new(move |tree: &mut Tree<'_>| {
                let file = NewFile {
                    destination: &destination,
                    content,
                    mode,
                    uid,
                    gid,
                };
                write_file(tree, file, epoch)
            })
        }
        Action::CloudInit { user_data } => text(&customizer.cloud_file(), user_data.clone())?,
        Action::PartitionGrowth { enabled } => {
            let mode = if *enabled { "auto" } else { "off" };
            let config = format!(
                "#cloud-config\ngrowpart: {{mode: \"{mode}\"}}\nresize_rootfs: {enabled}\n"
            );
            text("/etc/cloud/cloud.cfg.d/91_growth.cfg", config)?
        }
        Action::KernelCommandLine { add, remove } => {
            let (add, remove) = (add.clone(), remove.clone());
            Box::new(move |tree: &mut Tree<'_>| command_line(tree, &add, &remove, epoch))
        }
        _ => return Ok(None),
    }))
}

fn one_file(destination: ImagePath, content: Content, epoch: i64) -> Records {
    Box::new(move |tree: &mut Tree<'_>| {
        let file = NewFile {
            destination: &destination,
            content,
            mode: PLAIN_MODE,
            uid: 0,
            gid: 0,
        };
        write_file(tree, file, epoch)
    })
}

fn command_line(
    tree: &mut Tree<'_>,
    add: &[String],
    remove: &[String],
    epoch: i64,
) -> Result<Vec<Change>, BuildError> {
    let lacking = || BuildError::BadParent {
        reason: format!("its boot loader has no `/{CONFIG}` with a line that starts a kernel"),
    };
    let config = tree.read(CONFIG.as_bytes(), CONFIG_BYTES_MAX)?;
    let config = config.and_then(|bytes| String::from_utf8(bytes).ok());
    let config = config.ok_or_else(lacking)?;
    let changed = boot_loader::with_command_line(&config, add, remove).ok_or_else(lacking)?;
    let destination = ImagePath::parse(&format!("/{CONFIG}")).ok_or_else(lacking)?;
    one_file(destination, Content::Bytes(changed.into_bytes()), epoch)(tree)
}

/// The layer that a customizer writes, in the folder of its step.
pub(super) const UPPER: &str = "upper";
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
pub(super) struct Step<'a> {
    pub(super) executor: &'a TreeExecutor,
    pub(super) parent: &'a ParentDisk,
    pub(super) customizer: &'a Customizer,
    pub(super) context: &'a BuildContext,
    pub(super) folder: &'a Path,
}

impl Step<'_> {
    async fn shell(&self, lines: &[String]) -> Result<Vec<String>, BuildError> {
        let mut command = interpreter(lines);
        command.push("/run/bullion/script");
        let job = self.job(&command, Network::None)?;
        let job = self.context.secrets.iter().fold(job, |job, secret| {
            job.variable(secret.name(), secret.reveal())
        });
        self.sandbox(job.file("script", lines.join("\n") + "\n"), UPPER)
            .await
    }

    /// The image's own Ansible, on the image itself, without a network.
    async fn playbook(&self, playbook: &str, variables: &str) -> Result<Vec<String>, BuildError> {
        self.need(PLAYBOOK_PROGRAM, "ansible-core")?;
        let arguments = [
            "/usr/bin/ansible-playbook",
            "--inventory=localhost,",
            "--connection=local",
            "--extra-vars=@/run/bullion/variables.json",
            "/run/bullion/playbook.yml",
        ];
        let job = self
            .job(&arguments, Network::None)?
            .variable("ANSIBLE_LOCAL_TEMP", "/tmp")
            .variable("ANSIBLE_REMOTE_TEMP", "/tmp")
            .variable("ANSIBLE_NOCOLOR", "1")
            .variable("ANSIBLE_PYTHON_INTERPRETER", "/usr/bin/python3")
            .variable("PYTHONDONTWRITEBYTECODE", "1")
            .file("playbook.yml", playbook)
            .file("variables.json", variables);
        self.sandbox(job, UPPER).await
    }

    /// Refuses a parent that has no such program.
    fn need(&self, program: &str, package: &str) -> Result<(), BuildError> {
        let root = self.parent.root();
        let found = root.read(self.parent.disk(), |tree| tree.entry(program.as_bytes()));
        if found?.is_some() {
            return Ok(());
        }
        Err(BuildError::BadParent {
            reason: format!(
                "customizer `{}` needs `/{program}`; install the package `{package}` before it",
                self.customizer.name()
            ),
        })
    }

    async fn certificate(&self, pem: &str) -> Result<Vec<String>, BuildError> {
        const PROGRAM: &str = "usr/sbin/update-ca-certificates";
        self.need(PROGRAM, "ca-certificates")?;
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

    /// In a sandbox, without a network, from packages that were fetched before, so that no package's script reaches
    /// the network. What is not kept yet is fetched first, in a sandbox whose layer is thrown away. Whether that is
    /// needed only apt knows, and asking it costs as much as a small installation; so where the packages that were
    /// asked for are kept, the installation is tried at once.
    async fn packages(&self, packages: &[PackageName]) -> Result<Vec<String>, BuildError> {
        let Some(apt) = &self.context.apt else {
            return Err(BuildError::NoArchive {
                customizer: self.customizer.name().to_owned(),
            });
        };
        fs::create_dir_all(&apt.debs).map_err(BuildError::file("make", &apt.debs))?;
        let install = || self.apt_job(apt, &["--no-download"], packages, Network::None);
        let first = match are_kept(&apt.debs, packages)? {
            true => match self.sandbox(install()?, UPPER).await {
                Err(error @ BuildError::Failed { .. }) => Some(error),
                ended => return ended,
            },
            false => None,
        };
        let fetch = self.apt_job(apt, &["--download-only"], packages, Network::Host)?;
        let fetch = apt
            .environment
            .iter()
            .fold(fetch, |job, (name, value)| job.variable(name, value));
        self.fetched(fetch).await?;
        match (self.keep_debs(apt)?, first) {
            // Everything was there, so it failed for another reason.
            (0, Some(error)) => return Err(error),
            (_, Some(_)) => Job::remove_layer(self.folder, UPPER)?,
            (_, None) => {}
        }
        self.sandbox(install()?, UPPER).await
    }

    /// Has apt fetch, and ends it where one file cannot be had.
    async fn fetched(&self, fetch: Job) -> Result<(), BuildError> {
        let watch = Watch::default();
        let fetching = self.sandbox_watched(fetch, FETCH_UPPER, Some(watch.clone()));
        match watched(&watch, fetching).await {
            Ok(ended) => ended.map(drop),
            Err(source) => Err(BuildError::NotFetched {
                customizer: self.customizer.name().to_owned(),
                source,
            }),
        }
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

    /// Moves the packages that apt fetched to those kept for later builds, and answers how many. The apt that fetched
    /// them is the image's own, so each is held against the pinned lists here.
    fn keep_debs(&self, apt: &AptState) -> Result<usize, BuildError> {
        let fetched = Job::written_to(self.folder, FETCH_UPPER, "archives");
        let debs = packages_in(&fetched)?;
        if debs.is_empty() {
            return Ok(0);
        }
        let known = known_hashes(&apt.lists)?;
        for name in &debs {
            let path = fetched.join(name);
            if !known
                .contains(&crate::fetch::sha256_of(&path).map_err(BuildError::file("read", &path))?)
            {
                return Err(BuildError::UnknownPackage {
                    customizer: self.customizer.name().to_owned(),
                    file: name.to_string_lossy().into_owned(),
                });
            }
            let partial = apt.debs.join(format!(".{}", name.to_string_lossy()));
            fs::copy(&path, &partial).map_err(BuildError::file("copy", &path))?;
            fs::rename(&partial, apt.debs.join(name))
                .map_err(BuildError::file("rename", &partial))?;
        }
        Ok(debs.len())
    }

    pub(super) fn job(&self, arguments: &[&str], network: Network) -> Result<Job, BuildError> {
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
    pub(super) async fn sandbox(&self, job: Job, upper: &str) -> Result<Vec<String>, BuildError> {
        self.sandbox_watched(job, upper, None).await
    }

    async fn sandbox_watched(
        &self,
        job: Job,
        upper: &str,
        watch: Option<Watch>,
    ) -> Result<Vec<String>, BuildError> {
        let customizer = self.customizer.name().to_owned();
        let tail = Arc::new(Mutex::new(VecDeque::new()));
        let sink = {
            let (tail, on_line) = (Arc::clone(&tail), Arc::clone(&self.context.on_line));
            let redacted = Redacted::new(&self.context.secrets);
            move |line: &str| {
                let line = &*redacted.line(line);
                watch.iter().for_each(|watch| watch.line(line));
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
        let layer = self.folder.join(upper);
        let limit = self.parent.root().length();
        let run = job.run(
            &self.executor.program,
            self.folder,
            upper,
            self.context.deadline,
            sink,
        );
        // What runs is killed when its future is dropped.
        let verdict = tokio::select! {
            verdict = run => verdict?,
            () = outgrown(layer, limit) => {
                return Err(BuildError::TooMuchWritten { customizer, limit });
            }
        };
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

/// Ends when the layer holds more than the image has room for, which the kernel does not look after.
async fn outgrown(layer: PathBuf, limit: u64) {
    loop {
        tokio::time::sleep(QUOTA_PERIOD).await;
        let layer = layer.clone();
        let written = tokio::task::spawn_blocking(move || written_below(&layer)).await;
        if written.is_ok_and(|written| written > limit) {
            return;
        }
    }
}

/// Bytes that the files below a folder take. What vanishes meanwhile takes none.
fn written_below(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let (mut pending, mut total) = (vec![folder.to_owned()], 0u64);
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else {
                continue;
            };
            total = total.saturating_add(meta.blocks() * 512);
            if meta.is_dir() {
                pending.push(entry.path());
            }
        }
    }
    total
}

/// Whether some version of each package is kept. It may be another one than is wanted, and says nothing of what it
/// depends on.
fn are_kept(debs: &Path, packages: &[PackageName]) -> Result<bool, BuildError> {
    let kept = packages_in(debs)?;
    let names: HashSet<&[u8]> = kept
        .iter()
        .filter_map(|file| file.as_bytes().split(|byte| *byte == b'_').next())
        .collect();
    let name = |package: &PackageName| {
        let end = package.as_str().find([':', '=']);
        package.as_str()[..end.unwrap_or(package.as_str().len())].to_owned()
    };
    Ok(packages
        .iter()
        .all(|package| names.contains(name(package).as_bytes())))
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
pub(super) fn interpreter(lines: &[String]) -> Vec<&str> {
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
