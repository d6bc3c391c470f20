//! Disks that machines of this host read where they are stored, on one socket in the data folder.
//! Nothing is copied first, and many machines of one image read the store once.
//!
//! For machines that end with this process. One that goes on without it has a disk of its own,
//! because it must be able to read while no server runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use disk::DiskDigest;
use machine::MachineDisk;
use nbd::{Export, ExportMap, Listen, Options, Server};
use store::{FrameSource, ServedDisk, Serving, StoreError, Trace};
use tokio::sync::OnceCell;

/// A disk could not be served.
#[derive(Debug, thiserror::Error)]
pub enum ServingError {
    #[error("open the disk")]
    Store(#[from] StoreError),
    #[error("serve disks to machines")]
    Serve(#[from] nbd::ServeError),
    #[error("start the threads that read ahead")]
    Threads(#[source] std::io::Error),
    #[error("a worker thread ended before its work")]
    Worker(#[source] tokio::task::JoinError),
}

/// The server of one data folder, started when it is first needed.
pub struct ServedDisks {
    socket: PathBuf,
    running: OnceCell<Arc<Running>>,
    serial: AtomicU64,
}

struct Running {
    serving: Serving,
    exports: Arc<ExportMap>,
    _server: Server,
}

/// A disk that can be reached until this is dropped.
pub struct Attachable {
    name: String,
    socket: PathBuf,
    disk: Arc<ServedDisk>,
    running: Arc<Running>,
}

impl ServedDisks {
    /// `socket` is made when the first disk is served.
    pub fn new(socket: PathBuf) -> ServedDisks {
        ServedDisks {
            socket,
            running: OnceCell::new(),
            serial: AtomicU64::new(0),
        }
    }

    /// Serves a disk; what is read of it is noted.
    pub async fn serve(
        &self,
        source: Arc<dyn FrameSource>,
        digest: DiskDigest,
    ) -> Result<Attachable, ServingError> {
        let running = self.running.get_or_try_init(|| start(self.socket.clone()));
        let running = Arc::clone(running.await?);
        let opened = Arc::clone(&running);
        let disk = tokio::task::spawn_blocking(move || opened.serving.disk(&source, &digest));
        let disk = Arc::new(disk.await.map_err(ServingError::Worker)??);
        disk.record();
        // Each has a name of its own, so that one can go while another of the same disk stays.
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{serial}", digest.to_hex());
        let export = Arc::clone(&disk) as Arc<dyn Export>;
        running.exports.put(name.clone(), export);
        Ok(Attachable {
            name,
            socket: self.socket.clone(),
            disk,
            running,
        })
    }
}

async fn start(socket: PathBuf) -> Result<Arc<Running>, ServingError> {
    let start = move || {
        let exports = Arc::new(ExportMap::new());
        let server = Server::start(
            &[Listen::Unix(socket)],
            Arc::clone(&exports) as Arc<dyn nbd::Exports>,
            Options::default(),
        )?;
        Ok(Arc::new(Running {
            serving: Serving::new().map_err(ServingError::Threads)?,
            exports,
            _server: server,
        }))
    };
    let started = tokio::task::spawn_blocking(start).await;
    started.map_err(ServingError::Worker)?
}

impl Attachable {
    /// As a machine is given it.
    pub fn disk(&self) -> MachineDisk {
        MachineDisk::Served {
            socket: self.socket.clone(),
            export: self.name.clone(),
        }
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// What has been read so far.
    pub fn trace(&self) -> Trace {
        self.disk.recorded()
    }
}

impl Drop for Attachable {
    fn drop(&mut self) {
        self.running.exports.remove(&self.name);
    }
}
