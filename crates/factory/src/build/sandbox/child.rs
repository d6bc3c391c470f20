//! The side that runs inside the namespaces, as their first process: it makes the mounts, gives up
//! what the program must not have, runs it, and reports how it ended. When it ends, the kernel
//! kills every process that is left in here.
//!
//! It runs before anything of the server is set up and must not use any of it.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitCode, ExitStatus, Stdio};

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::{Resource, Rlimit};
use rustix::thread::CapabilitySet;

use super::{
    DATA_BYTES_MAX, HOST_NAME, Job, Network, REPORT, RUN_BYTES_MAX, Report, TMP_BYTES_MAX,
};

const JOB_BYTES_MAX: u64 = 64 << 20;
const OPEN_FILES_MAX: u64 = 1 << 16;
const RUN: &str = "/run/bullion";

/// What maintainer scripts need, and nothing by which root leaves a sandbox: no mounting, no raw
/// devices, no opening of files by handle, no kernel modules, no clock.
const CAPABILITIES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::AUDIT_WRITE);
const CAPABILITY_NUMBERS: std::ops::Range<u32> = 0..64;

/// A step of the set-up that failed.
#[derive(Debug)]
struct Refusal {
    operation: String,
    detail: String,
}

trait Named<T> {
    fn named(self, operation: impl Into<String>) -> Result<T, Refusal>;
}

impl<T, E: std::fmt::Display> Named<T> for Result<T, E> {
    fn named(self, operation: impl Into<String>) -> Result<T, Refusal> {
        self.map_err(|error| Refusal {
            operation: operation.into(),
            detail: error.to_string(),
        })
    }
}

/// Runs the job on standard input. To be called by a `main` that was given
/// [`super::SANDBOX_ARGUMENT`], before it does anything else.
#[must_use]
pub fn enter() -> ExitCode {
    let Ok(mut report) = File::create(REPORT) else {
        return ExitCode::FAILURE;
    };
    let said = match work() {
        Ok(status) => Report::Ended {
            code: status.code(),
            signal: status.signal(),
        },
        Err(Refusal { operation, detail }) => Report::Refused { operation, detail },
    };
    let written = serde_json::to_vec(&said)
        .map_err(io::Error::other)
        .and_then(|bytes| report.write_all(&bytes));
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn work() -> Result<ExitStatus, Refusal> {
    let job = read_job()?;
    let name_servers = match job.network {
        Network::Host => fs::read("/etc/resolv.conf").unwrap_or_default(),
        Network::None => Vec::new(),
    };
    rustix::system::sethostname(HOST_NAME.as_bytes()).named("setting the host name")?;
    mount_image(&job)?;
    mount_system(&job)?;
    leave_the_machine()?;
    if job.network == Network::Host {
        // Only ever in a layer that is thrown away.
        let _ = fs::remove_file("/etc/resolv.conf");
        fs::write("/etc/resolv.conf", name_servers).named("writing /etc/resolv.conf")?;
    }
    let policy = ServicePolicy::put().named("keeping services from being started")?;
    limit(&job)?;
    let status = run(&job)?;
    policy
        .take_away()
        .named("taking away /usr/sbin/policy-rc.d")?;
    Ok(status)
}

fn read_job() -> Result<Job, Refusal> {
    let mut bytes = Vec::new();
    io::stdin()
        .lock()
        .take(JOB_BYTES_MAX)
        .read_to_end(&mut bytes)
        .named("reading the job")?;
    serde_json::from_slice(&bytes).named("reading the job")
}

/// The parent, read-only, and the overlay on it. The current folder is the step's.
fn mount_image(job: &Job) -> Result<(), Refusal> {
    let options = format!(
        "ro,noload,loop,offset={},sizelimit={}",
        job.offset, job.length
    );
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the child that `process` started, with its limits, and it dies with all it starts"
    )]
    let output = std::process::Command::new("mount")
        .args(["-t", "ext4", "-o", &options, "--"])
        .args([job.parent.as_path(), Path::new("lower")])
        .stdin(Stdio::null())
        .output()
        .named("starting `mount`")?;
    if !output.status.success() {
        let detail = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(Refusal {
            operation: "mounting the parent's root file system".to_owned(),
            detail,
        });
    }
    let upper = &job.upper;
    overlay(
        "merged",
        &format!(
            "lowerdir=lower,upperdir={upper},workdir={upper}.work,\
             index=on,metacopy=off,redirect_dir=off,volatile"
        ),
    )
}

fn overlay(target: &str, options: &str) -> Result<(), Refusal> {
    let data = CString::new(options).named("writing mount options")?;
    rustix::mount::mount(
        "overlay",
        target,
        "overlay",
        MountFlags::NODEV,
        data.as_c_str(),
    )
    .named(format!("mounting the overlay `{target}`"))
}

/// What every program expects of a running system, and the job's own files below `/run`.
fn mount_system(job: &Job) -> Result<(), Refusal> {
    let inert = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount_on("proc", "proc", inert | MountFlags::RDONLY, "")?;
    mount_on("sys", "sysfs", inert | MountFlags::RDONLY, "")?;
    let writable = MountFlags::NOSUID | MountFlags::NODEV;
    mount_on(
        "tmp",
        "tmpfs",
        writable,
        &format!("mode=1777,size={TMP_BYTES_MAX}"),
    )?;
    mount_on(
        "run",
        "tmpfs",
        writable,
        &format!("mode=755,size={RUN_BYTES_MAX}"),
    )?;
    devices()?;
    let run = Path::new("merged").join(RUN.trim_start_matches('/'));
    let lock = Path::new("merged/run/lock");
    for folder in [run.as_path(), lock] {
        fs::create_dir_all(folder).named("making folders below /run")?;
    }
    fs::set_permissions(lock, fs::Permissions::from_mode(0o1777)).named("opening /run/lock")?;
    for file in &job.files {
        fs::write(run.join(&file.name), &file.text)
            .named(format!("writing {RUN}/{}", file.name))?;
    }
    for bind in &job.binds {
        let (upper, name) = (&job.upper, &bind.name);
        let lower = format!("{upper}.{name}.lower");
        rustix::mount::mount_bind(&bind.source, &lower)
            .named(format!("binding `{}`", bind.source.display()))?;
        fs::create_dir_all(run.join(name)).named("making folders below /run")?;
        let options =
            format!("lowerdir={lower},upperdir={upper}.{name}.upper,workdir={upper}.{name}.work");
        overlay(&run.join(name).to_string_lossy(), &options)?;
    }
    for folder in ["cache", "log"] {
        fs::create_dir_all(run.join(folder)).named("making folders below /run")?;
    }
    Ok(())
}

/// Mounts on a directory of the image, which must be one: a link could lead elsewhere.
fn mount_on(folder: &str, kind: &str, flags: MountFlags, options: &str) -> Result<(), Refusal> {
    let target = format!("merged/{folder}");
    if !fs::symlink_metadata(&target).is_ok_and(|meta| meta.is_dir()) {
        return Err(Refusal {
            operation: format!("mounting /{folder}"),
            detail: "the image has no such directory".to_owned(),
        });
    }
    let data = CString::new(options).named("writing mount options")?;
    rustix::mount::mount(kind, &target, kind, flags, data.as_c_str())
        .named(format!("mounting /{folder}"))
}

fn devices() -> Result<(), Refusal> {
    const NODES: [(&str, u32, u32); 6] = [
        ("null", 1, 3),
        ("zero", 1, 5),
        ("full", 1, 7),
        ("random", 1, 8),
        ("urandom", 1, 9),
        ("tty", 5, 0),
    ];
    const LINKS: [(&str, &str); 4] = [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ];
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount_on("dev", "tmpfs", flags, "mode=755,size=65536")?;
    let open = Mode::from_raw_mode(0o666);
    rustix::process::umask(Mode::empty());
    for (name, major, minor) in NODES {
        let device = rustix::fs::makedev(major, minor);
        rustix::fs::mknodat(
            CWD,
            format!("merged/dev/{name}"),
            FileType::CharacterDevice,
            open,
            device,
        )
        .named(format!("making /dev/{name}"))?;
    }
    rustix::process::umask(Mode::from_raw_mode(0o022));
    for (name, target) in LINKS {
        std::os::unix::fs::symlink(target, format!("merged/dev/{name}"))
            .named(format!("making /dev/{name}"))?;
    }
    fs::create_dir("merged/dev/shm").named("making /dev/shm")?;
    let shared = flags | MountFlags::NODEV;
    mount_on(
        "dev/shm",
        "tmpfs",
        shared,
        &format!("mode=1777,size={RUN_BYTES_MAX}"),
    )?;
    // No node can be added to the only place where nodes open.
    rustix::mount::mount_remount("merged/dev", flags | MountFlags::RDONLY, "").named("closing /dev")
}

/// Makes the image the root, and the machine's files unreachable.
fn leave_the_machine() -> Result<(), Refusal> {
    std::env::set_current_dir("merged").named("entering the image")?;
    rustix::process::pivot_root(".", ".").named("making the image the root")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).named("leaving the machine's root")?;
    std::env::set_current_dir("/").named("entering the image")
}

fn limit(job: &Job) -> Result<(), Refusal> {
    let limits = [
        (Resource::Core, 0),
        (Resource::Fsize, job.length),
        (Resource::Nofile, OPEN_FILES_MAX),
        (Resource::Data, DATA_BYTES_MAX),
    ];
    for (resource, value) in limits {
        // Raising what we were given may not be allowed, and is not the point.
        let value = rustix::process::getrlimit(resource)
            .maximum
            .map_or(value, |given| given.min(value));
        let limit = Rlimit {
            current: Some(value),
            maximum: Some(value),
        };
        rustix::process::setrlimit(resource, limit).named("setting limits")?;
    }
    for number in CAPABILITY_NUMBERS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if CAPABILITIES.contains(capability) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // Beyond the last that this kernel knows.
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(error).named("giving up capabilities"),
        }
    }
    Ok(())
}

fn run(job: &Job) -> Result<ExitStatus, Refusal> {
    let Some((program, arguments)) = job.arguments.split_first() else {
        return Err(Refusal {
            operation: "reading the job".to_owned(),
            detail: "it has no program".to_owned(),
        });
    };
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the child that `process` started, with its limits, and it dies with all it starts"
    )]
    std::process::Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(job.environment.iter().map(|(name, value)| (name, value)))
        .current_dir("/")
        .stdin(Stdio::null())
        .status()
        .named(format!("starting `{program}` in the image"))
}

/// `/usr/sbin/policy-rc.d`, by which Debian's packages ask whether they may start a service. It is
/// there only while the program runs, and leaves no trace in the layer.
struct ServicePolicy {
    /// Time of the directory before, when the file was made by us.
    made_in: Option<Timespec>,
}

impl ServicePolicy {
    const FOLDER: &str = "/usr/sbin";
    const FILE: &str = "/usr/sbin/policy-rc.d";
    const TEXT: &str = "#!/bin/sh\nexit 101\n";

    fn put() -> io::Result<Self> {
        let own = Path::new(RUN).join("policy-rc.d");
        fs::write(&own, Self::TEXT)?;
        fs::set_permissions(&own, fs::Permissions::from_mode(0o755))?;
        let Ok(folder) = fs::metadata(Self::FOLDER) else {
            return Ok(ServicePolicy { made_in: None });
        };
        match fs::symlink_metadata(Self::FILE) {
            Ok(found) if found.is_file() => {
                rustix::mount::mount_bind(&own, Self::FILE)?;
                Ok(ServicePolicy { made_in: None })
            }
            Ok(_) => Ok(ServicePolicy { made_in: None }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::copy(&own, Self::FILE)?;
                let before = Timespec {
                    tv_sec: folder.mtime(),
                    tv_nsec: folder.mtime_nsec(),
                };
                Self::set_folder_time(before)?;
                Ok(ServicePolicy {
                    made_in: Some(before),
                })
            }
            Err(error) => Err(error),
        }
    }

    fn take_away(self) -> io::Result<()> {
        let Some(before) = self.made_in else {
            return Ok(());
        };
        let Ok(folder) = fs::metadata(Self::FOLDER) else {
            return Ok(());
        };
        let untouched = (folder.mtime(), folder.mtime_nsec()) == (before.tv_sec, before.tv_nsec);
        if fs::read_to_string(Self::FILE).is_ok_and(|text| text == Self::TEXT) {
            fs::remove_file(Self::FILE)?;
        }
        if untouched {
            Self::set_folder_time(before)?;
        }
        Ok(())
    }

    fn set_folder_time(time: Timespec) -> io::Result<()> {
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        Ok(rustix::fs::utimensat(
            CWD,
            Self::FOLDER,
            &times,
            AtFlags::empty(),
        )?)
    }
}
