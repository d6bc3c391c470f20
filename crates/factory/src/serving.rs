//! Disks that machines of this host read where they are stored, on one socket in the data folder.
//! Nothing is copied first, and many machines of one image read the store once.
//!
//! For machines that end with this process. One that goes on without it has a disk of its own,
//! because it must be able to read while no server runs.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use disk::DiskDigest;
use machine::MachineDisk;
use nbd::{Export, ExportMap, Listen, Options, Server};
use store::{CacheStats, FrameSource, ServedDisk, Serving, StoreError, Trace};
use tokio::sync::OnceCell;
use wire::Location;

use crate::regions::{RegionError, Regions};

/// A disk could not be served.
#[derive(Debug, thiserror::Error)]
pub enum ServingError {
    #[error("open the disk")]
    Store(#[from] StoreError),
    #[error(transparent)]
    Region(#[from] RegionError),
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
    regions: Arc<Regions>,
    running: OnceCell<Arc<Running>>,
    serial: AtomicU64,
    open: Mutex<HashMap<OpenKey, Arc<OpenDisk>>>,
}

/// A disk in a region.
type OpenKey = (String, DiskDigest);
/// What all who read it share. Locked while it is opened, so that nobody opens it twice.
type OpenDisk = tokio::sync::Mutex<Weak<ServedDisk>>;

struct Running {
    serving: Serving,
    exports: Arc<ExportMap>,
    _server: Server,
}

/// A disk that can be reached until this is dropped.
pub struct Attachable {
    name: String,
    socket: PathBuf,
    region: Location,
    disk: Arc<ServedDisk>,
    /// Keeps tables and read-ahead for others of the same disk.
    _shared: Arc<ServedDisk>,
    running: Arc<Running>,
}

impl ServedDisks {
    /// `socket` is made when the first disk is served.
    pub fn new(socket: PathBuf, regions: Arc<Regions>) -> ServedDisks {
        ServedDisks {
            socket,
            regions,
            running: OnceCell::new(),
            serial: AtomicU64::new(0),
            open: Mutex::default(),
        }
    }

    /// Serves a disk from whichever stores of the region hold it; what is read of it is noted.
    pub async fn serve(
        &self,
        region: &Location,
        digest: DiskDigest,
    ) -> Result<Attachable, ServingError> {
        // Each has a name of its own, so that one can go while another of the same disk stays.
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{serial}", digest.to_hex());
        self.serve_as(name, region, digest).await
    }

    /// The same under a name that is known elsewhere, which takes the place of one that is there.
    pub async fn serve_as(
        &self,
        name: String,
        region: &Location,
        digest: DiskDigest,
    ) -> Result<Attachable, ServingError> {
        let running = self.running.get_or_try_init(|| start(self.socket.clone()));
        let running = Arc::clone(running.await?);
        let shared = self.shared(&running, region, digest).await?;
        let disk = Arc::new(shared.another());
        disk.record();
        let export = Arc::clone(&disk) as Arc<dyn Export>;
        running.exports.put(name.clone(), export);
        Ok(Attachable {
            name,
            socket: self.socket.clone(),
            region: region.clone(),
            disk,
            _shared: shared,
            running,
        })
    }

    /// The disk, opened once for all who read it at the same time.
    async fn shared(
        &self,
        running: &Arc<Running>,
        region: &Location,
        digest: DiskDigest,
    ) -> Result<Arc<ServedDisk>, ServingError> {
        let open = {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            open.retain(|_, disk| {
                // Somebody is opening it, or it is in use.
                Arc::strong_count(disk) > 1
                    || disk.try_lock().map_or(true, |disk| disk.strong_count() > 0)
            });
            Arc::clone(open.entry((region.folded(), digest)).or_default())
        };
        let mut open = open.lock().await;
        if let Some(disk) = open.upgrade() {
            return Ok(disk);
        }
        let (regions, region) = (Arc::clone(&self.regions), region.clone());
        let running = Arc::clone(running);
        let opened = tokio::task::spawn_blocking(move || {
            let readers = regions.readers(&region, &digest)?;
            let source: Arc<dyn FrameSource> = Arc::new(readers);
            Ok::<_, ServingError>(running.serving.disk(&source, &digest)?)
        });
        let disk = Arc::new(opened.await.map_err(ServingError::Worker)??);
        *open = Arc::downgrade(&disk);
        Ok(disk)
    }

    /// Keeps what a boot read, beside what other boots of the disk have read, wherever the region holds the disk.
    /// Without it machines start all the same, so it is never why anything fails.
    pub async fn keep_trace(&self, region: &Location, digest: DiskDigest, trace: Trace) {
        if trace.is_empty() {
            return;
        }
        let (regions, region) = (Arc::clone(&self.regions), region.clone());
        let keep = move || {
            let region = regions.region(&region)?;
            Ok::<_, ServingError>(region.keep_trace(&digest, &trace)?)
        };
        let kept = tokio::task::spawn_blocking(keep).await;
        let kept = kept.map_err(ServingError::Worker);
        if let Err(error) = kept.and_then(|kept| kept) {
            let error = crate::pipeline::chain(&error);
            tracing::warn!(%digest, error, "a boot trace is not kept");
        }
    }

    /// What has been read, and what was there before it was asked for.
    pub fn stats(&self) -> CacheStats {
        let running = self.running.get();
        running
            .map(|running| running.serving.stats())
            .unwrap_or_default()
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

    pub fn region(&self) -> &Location {
        &self.region
    }

    /// Whether a boot of the disk was seen before, so that another one finds its blocks loaded.
    pub fn is_traced(&self) -> bool {
        self.disk.is_traced()
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
