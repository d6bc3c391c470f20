//! Disks that machines of this host read where they are stored, on one socket in the data folder.
//! Nothing is copied first, and many machines of one image read the store once.
//!
//! A machine that goes on without this process waits for what it has not read yet, until a server has the disk again
//! under the same name; its own disk is filled meanwhile, so that it soon needs nobody ([`crate::deploy`]).

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
        MachineDisk::Served(self.place())
    }

    /// Where it is.
    pub fn place(&self) -> machine::ServedDisk {
        machine::ServedDisk {
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

    pub fn digest(&self) -> &DiskDigest {
        self.disk.digest()
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
        let export = Arc::clone(&self.disk) as Arc<dyn Export>;
        self.running.exports.remove_own(&self.name, &export);
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::atomic::AtomicBool;

    use disk::{MemDisk, ReadAt};
    use store::place::{Entry, MemoryPlace, Place};
    use store::region::{Member, Region};
    use store::{FRAME_BLOCKS, Keys, Store, StoreOptions};

    use super::*;

    const DISK_BYTES: usize = 12 << 20;
    const READ_BYTES: usize = 64 << 10;

    /// A place that counts what is read of it, and can be lost.
    #[derive(Debug, Clone, Default)]
    struct Watched {
        inner: MemoryPlace,
        bytes: Arc<AtomicU64>,
        is_lost: Arc<AtomicBool>,
    }

    impl Watched {
        fn look(&self, bytes: usize) -> io::Result<()> {
            self.bytes.fetch_add(bytes as u64, Ordering::SeqCst);
            match self.is_lost.load(Ordering::SeqCst) {
                true => Err(io::Error::other("the device is gone")),
                false => Ok(()),
            }
        }

        fn read(&self) -> u64 {
            self.bytes.load(Ordering::SeqCst)
        }
    }

    impl Place for Watched {
        fn put(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
            self.look(0)?;
            self.inner.put(name, bytes)
        }

        fn get_range(&self, name: &str, offset: u64, len: usize) -> io::Result<Vec<u8>> {
            self.look(len)?;
            self.inner.get_range(name, offset, len)
        }

        fn size(&self, name: &str) -> io::Result<Option<u64>> {
            self.look(0)?;
            self.inner.size(name)
        }

        fn list(&self, prefix: &str) -> io::Result<Vec<Entry>> {
            self.look(0)?;
            self.inner.list(prefix)
        }

        fn delete(&self, name: &str) -> io::Result<()> {
            self.look(0)?;
            self.inner.delete(name)
        }
    }

    struct World {
        _folder: tempfile::TempDir,
        served: ServedDisks,
        places: Vec<Watched>,
        north: Location,
        disk: MemDisk,
        digest: DiskDigest,
    }

    impl World {
        /// A disk without two equal blocks, in every zone.
        fn new(zones: &[&str]) -> World {
            let folder = tempfile::tempdir().unwrap();
            let regions = Regions::open(&folder.path().join("regions")).unwrap();
            let north = Location::new("north");
            let names: Vec<String> = zones.iter().map(ToString::to_string).collect();
            regions.define(&north, &names).unwrap();
            let mut noise = blake3::Hasher::new().finalize_xof();
            let mut bytes = vec![0; DISK_BYTES];
            noise.fill(&mut bytes);
            let disk = MemDisk::from(bytes);
            let digest = disk::digest_of(&disk).unwrap().0;
            let mut places = Vec::new();
            for zone in zones {
                let place = Watched::default();
                let options = StoreOptions {
                    keys: Keys::Off,
                    ..StoreOptions::default()
                };
                let store = Store::open_place(Box::new(place.clone()), options).unwrap();
                assert_eq!(store.ingest(&disk).unwrap().digest, digest);
                let region = regions.region(&north).unwrap();
                region.add(Member::open(zone, Region::ONLY, false, store));
                place.bytes.store(0, Ordering::SeqCst);
                places.push(place);
            }
            World {
                served: ServedDisks::new(folder.path().join("nbd.sock"), Arc::new(regions)),
                _folder: folder,
                places,
                north,
                disk,
                digest,
            }
        }

        /// What a machine does that begins at `from`.
        fn machine(&self, at: &Attachable, from: usize, each: &dyn Fn(usize)) {
            let place = at.place();
            let disk = nbd::RemoteDisk::connect_unix(&place.socket, &place.export).unwrap();
            let reads = DISK_BYTES / READ_BYTES;
            let (mut got, mut expected) = (vec![0; READ_BYTES], vec![0; READ_BYTES]);
            for number in (0..reads).cycle().skip(from % reads).take(reads) {
                let offset = (number * READ_BYTES) as u64;
                disk.read_at(offset, &mut got).unwrap();
                self.disk.read_at(offset, &mut expected).unwrap();
                assert!(got == expected, "at {offset}");
                each(number);
            }
        }

        fn stored(&self, zone: usize) -> u64 {
            let all = self.places[zone].inner.list("").unwrap();
            all.iter().map(|entry| entry.bytes).sum()
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn twenty_machines_that_start_at_once_read_the_region_once() {
        const MACHINES: usize = 20;
        let world = Arc::new(World::new(&["1", "2"]));
        let mut serving = tokio::task::JoinSet::new();
        for _ in 0..MACHINES {
            let world = Arc::clone(&world);
            serving.spawn(async move { world.served.serve(&world.north, world.digest).await });
        }
        let all = serving.join_all().await.into_iter();
        let all: Vec<Attachable> = all.map(Result::unwrap).collect();
        std::thread::scope(|scope| {
            for (number, at) in all.iter().enumerate() {
                let world = &*world;
                // Not all in one step: some are ahead, as machines are.
                scope.spawn(move || world.machine(at, number * 7, &|_| ()));
            }
        });
        let read: u64 = world.places.iter().map(Watched::read).sum();
        // A frame that somebody has lies between two that are read together, now and then.
        let most = world.stored(0) / 20 * 21;
        assert!(read <= most, "{read} bytes were read, not {most} at most");
        let stats = world.served.stats();
        let frames = DISK_BYTES / (FRAME_BLOCKS * disk::BLOCK_SIZE);
        assert_eq!(stats.asked_frames + stats.ahead_frames, frames as u64);
        assert_eq!(stats.evicted_frames, 0);
        let traces: Vec<Trace> = all.iter().map(Attachable::trace).collect();
        assert!(
            traces
                .iter()
                .all(|trace| trace.bytes() == DISK_BYTES as u64)
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_machine_reads_on_when_a_store_is_lost() {
        let world = World::new(&["1", "2", "3"]);
        let at = world
            .served
            .serve(&world.north, world.digest)
            .await
            .unwrap();
        let lose = |number: usize| {
            let lost = |place: &Watched| place.is_lost.load(Ordering::SeqCst);
            // Whichever is read, twice: only one is left then.
            if number == 20 || number == 60 {
                let used = world.places.iter().filter(|place| !lost(place));
                let used = used.max_by_key(|place| place.read()).unwrap();
                used.is_lost.store(true, Ordering::SeqCst);
            }
        };
        world.machine(&at, 0, &lose);
        let read: Vec<u64> = world.places.iter().map(Watched::read).collect();
        assert!(read.iter().all(|read| *read > 0), "{read:?}");
        // Another machine gets the disk from what is left, and a region that is lost is an error.
        let other = world
            .served
            .serve(&world.north, world.digest)
            .await
            .unwrap();
        world.machine(&other, 100, &|_| ());
        drop((at, other));
        for place in &world.places {
            place.is_lost.store(true, Ordering::SeqCst);
        }
        let error = world.served.serve(&world.north, world.digest).await;
        assert!(matches!(error, Err(ServingError::Store(_))));
    }
}
