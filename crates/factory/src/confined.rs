//! Programs of this host that work on bytes or code of others: as nobody and without rights, in namespaces of their own, with
//! a folder to work in and nothing else of the host but its programs. There is no network. What they leave is hostile too.
//!
//! It must not know what a program is for. Customizers, which need a whole system, have `build::sandbox`.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use process::{Command, Output, ProcessError};
use rustix::fs::{Mode, OFlags};

/// The folder as the program sees it.
pub(crate) const WORK: &str = "/work";
const NOBODY: u32 = 65534;
const MEMORY_BYTES_MAX: u64 = 2 << 30;
const FILE_BYTES_MAX: u64 = 1 << 30;
/// Of all that run as nobody on this host.
const PROCESSES_MAX: u32 = 512;
const OPEN_FILES_MAX: u32 = 1024;
const USERS: &str = "nobody:x:65534:65534:nobody:/work:/usr/sbin/nologin\n";
/// What makes nobody of root, and is given up with that.
const RIGHTS: [&str; 3] = ["CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP"];

/// Why such a program did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ConfinedError {
    #[error(
        "a program that must not be trusted is started as nobody, which needs root. Start the server as root (`sudo bullion serve`)"
    )]
    NeedsRoot,
    #[error("{operation} `{}`", path.display())]
    File {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Process(#[from] ProcessError),
}

fn file(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ConfinedError {
    let path = path.to_owned();
    move |source| ConfinedError::File {
        operation,
        path,
        source,
    }
}

/// A place for such programs; it goes with all that is in it.
pub(crate) struct Confined {
    folder: tempfile::TempDir,
}

impl Confined {
    /// Makes one in a folder of ours.
    pub fn new(parent: &Path) -> Result<Self, ConfinedError> {
        if !rustix::process::geteuid().is_root() {
            return Err(ConfinedError::NeedsRoot);
        }
        let folder = tempfile::Builder::new()
            .prefix("confined-")
            .tempdir_in(parent)
            .map_err(file("make a folder in", parent))?;
        let place = Confined { folder };
        let etc = place.folder.path().join("etc");
        for (path, owner) in [(&place.work(), NOBODY), (&etc, 0)] {
            fs::create_dir(path)
                .and_then(|()| chown(path, Some(owner), Some(owner)))
                .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)))
                .map_err(file("make", path))?;
        }
        let users = etc.join("passwd");
        fs::write(&users, USERS).map_err(file("write", &users))?;
        Ok(place)
    }

    /// The folder that the program sees as [`WORK`].
    pub fn work(&self) -> PathBuf {
        self.folder.path().join("work")
    }

    /// Writes a file for the program, before it runs.
    pub fn put(&self, name: &str, bytes: &[u8]) -> Result<(), ConfinedError> {
        let path = self.work().join(name);
        let write = || {
            let mut file = fs::File::create_new(&path)?;
            file.set_permissions(fs::Permissions::from_mode(0o600))?;
            file.write_all(bytes)?;
            chown(&path, Some(NOBODY), Some(NOBODY))
        };
        write().map_err(file("write", &path))
    }

    /// Reads a file that the program left: only one that is none by a link, and not longer than `limit`.
    pub fn take(&self, name: &str, limit: u64) -> Result<Vec<u8>, ConfinedError> {
        let path = self.work().join(name);
        let read = || {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let opened = fs::File::from(rustix::fs::open(&path, flags, Mode::empty())?);
            let about = opened.metadata()?;
            if !about.is_file() || about.len() > limit {
                return Err(io::Error::other(format!(
                    "it is no file of at most {limit} bytes"
                )));
            }
            let mut bytes = Vec::new();
            opened.take(limit).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        read().map_err(file("read", &path))
    }

    /// The program, which is found as all are, with what keeps it in.
    pub fn command(&self, program: &str, deadline: Duration) -> Result<Command, ConfinedError> {
        let inner = process::find(program)?;
        let mut command = Command::new("bwrap").args([
            "--unshare-ipc",
            "--unshare-pid",
            "--unshare-net",
            "--unshare-uts",
            "--unshare-cgroup-try",
            "--die-with-parent",
            "--new-session",
            "--cap-drop",
            "ALL",
        ]);
        for right in RIGHTS {
            command = command.args(["--cap-add", right]);
        }
        for (target, link) in [
            ("usr/bin", "/bin"),
            ("usr/sbin", "/sbin"),
            ("usr/lib", "/lib"),
            ("usr/lib64", "/lib64"),
        ] {
            command = command.args(["--symlink", target, link]);
        }
        Ok(command
            .args(["--ro-bind", "/usr", "/usr"])
            .args([
                "--proc", "/proc", "--dev", "/dev", "--perms", "1777", "--tmpfs", "/tmp",
            ])
            .arg("--ro-bind")
            .arg(self.folder.path().join("etc"))
            .args(["/etc", "--bind"])
            .arg(self.work())
            .args([WORK, "--chdir", WORK, "--setenv", "HOME", WORK, "--"])
            .arg("prlimit")
            .arg(format!("--as={MEMORY_BYTES_MAX}"))
            .arg(format!("--fsize={FILE_BYTES_MAX}"))
            .arg(format!("--nproc={PROCESSES_MAX}"))
            .arg(format!("--nofile={OPEN_FILES_MAX}"))
            .args(["--core=0", "--", "setpriv"])
            .arg(format!("--reuid={NOBODY}"))
            .arg(format!("--regid={NOBODY}"))
            .args(["--clear-groups", "--inh-caps=-all", "--bounding-set=-all"])
            .args(["--no-new-privs", "--"])
            .arg(inner)
            .deadline(deadline))
    }

    /// Runs the program to success.
    pub async fn run(
        &self,
        program: &str,
        arguments: &[&str],
        deadline: Duration,
    ) -> Result<Output, ConfinedError> {
        let command = self.command(program, deadline)?;
        Ok(command.args(arguments).run().await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(60);

    async fn says(script: &str) -> Result<String, ConfinedError> {
        let folder = tempfile::tempdir().unwrap();
        let place = Confined::new(folder.path())?;
        place.put("given", b"given\n")?;
        let output = place.run("sh", &["-c", script], DEADLINE).await?;
        Ok(output.stdout_text())
    }

    #[tokio::test]
    async fn it_is_nobody_with_nothing() {
        let seen = says(
            "id -u; cat given; grep CapBnd /proc/self/status; ls /etc; ls -A /sys/class/net /home /root /var 2>/dev/null; true",
        );
        assert_eq!(
            seen.await.unwrap(),
            "65534\ngiven\nCapBnd:\t0000000000000000\npasswd\n"
        );
        for forbidden in [
            "touch /usr/x",
            "touch /etc/x",
            "mount -t tmpfs x /tmp",
            "cat /proc/1/environ",
        ] {
            assert!(says(forbidden).await.is_err(), "{forbidden}");
        }
    }

    #[tokio::test]
    async fn what_it_leaves_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let place = Confined::new(folder.path()).unwrap();
        let script =
            "ln -s /etc/shadow link; mkfifo pipe; echo good > file; head -c 9 /dev/zero > long";
        place.run("sh", &["-c", script], DEADLINE).await.unwrap();
        assert_eq!(place.take("file", 8).unwrap(), b"good\n");
        for name in ["link", "pipe", "long", "none"] {
            assert!(place.take(name, 8).is_err(), "{name}");
        }
    }

    #[tokio::test]
    async fn it_ends_with_its_time_and_all_it_started_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let place = Confined::new(folder.path()).unwrap();
        let command = place.command("sh", Duration::from_millis(500)).unwrap();
        let ended = command.args(["-c", "sleep 1000 & sleep 1000"]).run().await;
        assert!(
            matches!(ended, Err(ProcessError::Deadline { .. })),
            "{ended:?}"
        );
    }
}
