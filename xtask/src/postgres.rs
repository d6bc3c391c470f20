//! A PostgreSQL server for the time of the tests or of a benchmark: a data folder of its own, reached by a socket in that folder alone,
//! run by a user without rights, and stopped by its process id. The host's own servers are not touched.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::program::{self, Program};

/// Where Debian puts the programs of each version.
const VERSIONS: &str = "/usr/lib/postgresql";
/// PostgreSQL refuses to run as root; Debian's package makes this user.
const USER: &str = "postgres";
/// How long a server may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Lines of the server's own log that a failed start shows.
const LOG_LINES: usize = 20;
const SETTINGS: [&str; 2] = ["listen_addresses=", "max_connections=400"];
const CARELESS: [&str; 3] = [
    "fsync=off",
    "synchronous_commit=off",
    "full_page_writes=off",
];

/// Whether a write waits for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writes {
    /// What lies in the folder is worth nothing after the tests.
    Careless,
    /// As anybody has it who keeps what is in it.
    Durable,
}

pub struct Server {
    folder: PathBuf,
    process: Child,
}

impl Server {
    pub fn start(log: &Path, writes: Writes) -> Result<Self> {
        let programs = programs()?;
        let as_user = as_user()?;
        let as_user: Vec<&str> = as_user.iter().map(String::as_str).collect();
        // Short, since the name of a socket may have no more than 107 bytes, and where every user may go.
        let folder = std::env::temp_dir().join(format!("bullion-pg-{}", std::process::id()));
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        let data = folder.join("data");
        if !as_user.is_empty() {
            let owner = Program::new("chown").arg(USER).arg(folder.as_os_str());
            owner.stdout().context("cannot give the folder away")?;
        }
        let init = Program::new(programs.join("initdb"))
            .arg("--pgdata")
            .arg(data.as_os_str())
            .args(["--auth=trust", "--username=bullion", "--no-sync"])
            .args(["--encoding=UTF8", "--locale=C.UTF-8"])
            .in_folder(&folder);
        init.through(&as_user).stdout()?;
        let mut serve = Program::new(programs.join("postgres"))
            .arg("-D")
            .arg(data.as_os_str())
            .arg("-k")
            .arg(folder.as_os_str())
            .in_folder(&folder);
        let careless = CARELESS.iter().filter(|_| writes == Writes::Careless);
        for setting in SETTINGS.iter().chain(careless) {
            serve = serve.args(["-c", setting]);
        }
        let process = serve.through(&as_user).start_apart(log)?;
        let mut server = Self { folder, process };
        server.wait_until_ready(&programs, log)?;
        Ok(server)
    }

    /// For the environment of what uses it.
    pub fn url(&self) -> String {
        format!(
            "postgres:///postgres?host={}&user=bullion",
            self.folder.display()
        )
    }

    fn wait_until_ready(&mut self, programs: &Path, log: &Path) -> Result<()> {
        let began = Instant::now();
        let ready = Program::new(programs.join("pg_isready"))
            .arg("--host")
            .arg(self.folder.as_os_str());
        while !ready.output()?.status.success() {
            let ended = self.process.try_wait()?;
            if ended.is_some() || began.elapsed() > PATIENCE {
                let text = std::fs::read_to_string(log).unwrap_or_default();
                bail!(
                    "PostgreSQL did not start\n{}",
                    program::tail(&text, LOG_LINES)
                );
            }
            std::thread::park_timeout(LOOK_AGAIN);
        }
        Ok(())
    }

    /// SIGINT: ends sessions and stops, without waiting for clients.
    fn stop(&mut self) -> Result<()> {
        let kill = |signal: &str| {
            Program::new("kill")
                .args([signal, &self.process.id().to_string()])
                .output()
        };
        kill("-INT")?;
        let began = Instant::now();
        while self.process.try_wait()?.is_none() {
            if began.elapsed() > PATIENCE {
                self.process.kill()?;
                self.process.wait()?;
            }
            std::thread::park_timeout(LOOK_AGAIN);
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("PostgreSQL could not be stopped: {error:#}");
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// The programs of the newest version there is.
fn programs() -> Result<PathBuf> {
    let versions = std::fs::read_dir(VERSIONS)
        .with_context(|| format!("PostgreSQL is not installed: there is no {VERSIONS}"))?;
    let newest = versions
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .max()
        .with_context(|| format!("there is no version in {VERSIONS}"))?;
    Ok(Path::new(VERSIONS).join(newest.to_string()).join("bin"))
}

/// How a program is run without rights. It becomes the program, so that its process id is the server's.
fn as_user() -> Result<Vec<String>> {
    if !program::is_root()? {
        return Ok(Vec::new());
    }
    let words = [
        "setpriv",
        "--reuid",
        USER,
        "--regid",
        USER,
        "--init-groups",
        "--reset-env",
    ];
    Ok(words.into_iter().map(str::to_owned).collect())
}
