//! Garage, a distributed S3-compatible server, as three nodes that keep three copies, for the time of the tests. Its program
//! takes ten minutes to compile, so it is used where somebody has installed it and is not installed here.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::objects::free_address;
use crate::program::{self, Program};
use crate::workspace;

/// How to have it.
pub const INSTALL: &str =
    "cargo install garage --version 2.5.0 --locked --root target/test-clients/garage";
const NODES: usize = 3;
const BUCKET: &str = "golden";
const REGION: &str = "garage";
/// Made up, for these tests alone.
const KEY: &str = "GK0123456789abcdef01234567";
const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
/// How long the nodes may take to start and to know each other.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Lines of a node's own log that a failed start shows.
const LOG_LINES: usize = 20;

pub struct Cluster {
    program: PathBuf,
    folder: PathBuf,
    log: PathBuf,
    nodes: Vec<Node>,
}

struct Node {
    process: Child,
    settings: PathBuf,
    objects: SocketAddr,
}

/// Where it was installed, if it was.
pub fn installed() -> Result<Option<PathBuf>> {
    let ours = workspace::target_folder()?.join("test-clients/garage/bin/garage");
    Ok(if ours.is_file() {
        Some(ours)
    } else {
        program::exists("garage").then(|| PathBuf::from("garage"))
    })
}

impl Cluster {
    /// With a bucket and a key for it.
    pub fn start(program: PathBuf, log: &Path) -> Result<Cluster> {
        let folder = std::env::temp_dir().join(format!("bullion-garage-{}", std::process::id()));
        let mut cluster = Cluster {
            program,
            folder,
            log: log.to_owned(),
            nodes: Vec::new(),
        };
        for number in 0..NODES {
            let node = cluster.node(number)?;
            cluster.nodes.push(node);
        }
        cluster.join()?;
        cluster.make_bucket()?;
        Ok(cluster)
    }

    /// For the tests' environment: an address of a bucket, without a prefix, by the first node.
    pub fn url(&self) -> Result<String> {
        let keys = self.folder.join("keys");
        let text = format!("AWS_ACCESS_KEY_ID={KEY}\nAWS_SECRET_ACCESS_KEY={SECRET}\n");
        std::fs::write(&keys, text).with_context(|| format!("cannot write {}", keys.display()))?;
        let first = self.nodes.first().context("there are nodes")?.objects;
        let keys = keys.display();
        Ok(format!(
            "s3://{BUCKET}?endpoint=http://{first}&region={REGION}&credentials={keys}"
        ))
    }

    /// The process of a node that may be lost: nobody asks it.
    pub fn spare(&self) -> Result<u32> {
        Ok(self.nodes.last().context("there are nodes")?.process.id())
    }

    fn node(&self, number: usize) -> Result<Node> {
        let folder = self.folder.join(number.to_string());
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        let (others, objects) = (free_address()?, free_address()?);
        let settings = folder.join("garage.toml");
        let text = format!(
            "metadata_dir = {meta:?}\ndata_dir = {data:?}\ndb_engine = \"sqlite\"\n\
             replication_factor = {NODES}\nrpc_bind_addr = \"{others}\"\n\
             rpc_public_addr = \"{others}\"\nrpc_secret = \"{SECRET}\"\n\
             [s3_api]\ns3_region = \"{REGION}\"\napi_bind_addr = \"{objects}\"\n",
            meta = folder.join("meta"),
            data = folder.join("data"),
        );
        std::fs::write(&settings, text)
            .with_context(|| format!("cannot write {}", settings.display()))?;
        let process = self
            .garage(&settings)
            .arg("server")
            .start_apart(&self.log)?;
        Ok(Node {
            process,
            settings,
            objects,
        })
    }

    fn garage(&self, settings: &Path) -> Program {
        Program::new(&self.program)
            .env("RUST_LOG", "garage=info")
            .arg("-c")
            .arg(settings)
    }

    /// Lets the nodes know each other, each in a zone of its own.
    fn join(&mut self) -> Result<()> {
        let mut names = Vec::new();
        for node in &self.nodes {
            let name = self.until(&self.garage(&node.settings).args(["node", "id", "-q"]))?;
            names.push(name.trim().to_owned());
        }
        let first = self.nodes.first().context("there are nodes")?;
        let ask = |args: &[&str]| self.until(&self.garage(&first.settings).args(args));
        for name in &names[1..] {
            ask(&["node", "connect", name])?;
        }
        for (number, name) in names.iter().enumerate() {
            let id = name.split('@').next().unwrap_or_default();
            let zone = format!("zone-{number}");
            ask(&["layout", "assign", "-z", &zone, "-c", "10G", id])?;
        }
        ask(&["layout", "apply", "--version", "1"]).map(drop)
    }

    fn make_bucket(&self) -> Result<()> {
        let first = self.nodes.first().context("there are nodes")?;
        for args in [
            &["key", "import", "--yes", "-n", "tests", KEY, SECRET][..],
            &["bucket", "create", BUCKET],
            &[
                "bucket", "allow", "--read", "--write", "--owner", BUCKET, "--key", KEY,
            ],
        ] {
            self.until(&self.garage(&first.settings).args(args))?;
        }
        Ok(())
    }

    /// What it prints once it succeeds: a cluster that starts refuses for a while.
    fn until(&self, program: &Program) -> Result<String> {
        let began = Instant::now();
        loop {
            let finished = program.output()?;
            if finished.status.success() {
                return Ok(finished.stdout);
            }
            if began.elapsed() > PATIENCE {
                let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                bail!(
                    "`{}` failed: {}\n{}",
                    program.shown(),
                    finished.stderr.trim(),
                    program::tail(&log, LOG_LINES)
                );
            }
            std::thread::park_timeout(LOOK_AGAIN);
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            // Nothing that it keeps is wanted; the tests may have killed it.
            let _ = node.process.kill();
            let _ = node.process.wait();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
