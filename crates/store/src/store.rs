//! Opening a store, and what it can say about itself.
//!
//! Reading needs no lock but a short one on the index. Writing is one at a time within a store,
//! each write on several threads: two ingests of the same new blocks must not both store them.

use std::io;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread;

use disk::DiskDigest;

use crate::cache::FrameCache;
use crate::codec::{MANIFESTS, PACKS, manifest_digest, manifest_name};
use crate::collect::read_note;
use crate::domain::Domain;
use crate::error::StoreError;
use crate::frame::{FRAME_BYTES, Unpacker};
use crate::header::{HEADER, Header, Lock, StoreId, open_header};
use crate::index::{Index, Location, Precedence};
use crate::keys::Keys;
use crate::manifest::{MAX_MANIFEST_BYTES, Manifest, Outside};
use crate::pack::{
    HEADER_LEN, MAX_FOOTER_BYTES, Pack, PackFooter, TRAILER_LEN, Trailer, check_header,
};
use crate::place::{Entry, Folder, Place};
use crate::view::StoredDisk;

/// Threads that one call uses unless told otherwise, at most.
const MAX_THREADS: usize = 16;

/// How a store works; the stored bytes do not depend on it.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Threads for one call.
    pub threads: NonZero<usize>,
    /// Decompressed frames of 64 KiB that a disk keeps that is opened without a shared cache.
    pub cached_frames: usize,
    /// Who keeps the secret of the store's domain.
    pub keys: Keys,
    /// The domain that a new encrypted store belongs to; one of its own unless given.
    pub domain: Option<Domain>,
    /// The name of a new store; a random one unless given.
    pub id: Option<StoreId>,
    /// Memory for what is known of the store's packs, in bytes. A store of which more would have
    /// to be known finds all that it holds, but may store some blocks twice.
    pub index_bytes: u64,
}

/// Enough for 10 TiB of distinct blocks.
pub const DEFAULT_INDEX_BYTES: u64 = 512 << 20;

impl Default for StoreOptions {
    fn default() -> Self {
        let threads = thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN);
        StoreOptions {
            threads: threads.min(NonZero::new(MAX_THREADS).unwrap_or(NonZero::<usize>::MIN)),
            cached_frames: 256,
            keys: Keys::default(),
            domain: None,
            id: None,
            index_bytes: DEFAULT_INDEX_BYTES,
        }
    }
}

/// One dedup domain at one place. Clones are the same store.
#[derive(Clone)]
pub struct Store(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) place: Box<dyn Place>,
    pub(crate) options: StoreOptions,
    pub(crate) header: Header,
    pub(crate) lock: RwLock<Lock>,
    index: RwLock<Index>,
    /// Held by who makes room in the index.
    pub(crate) tidy: Mutex<()>,
    writer: Mutex<()>,
}

/// A disk in a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskInfo {
    pub digest: DiskDigest,
    pub manifest_bytes: u64,
}

/// How large a disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSizes {
    pub logical_bytes: u64,
    /// Blocks that are not zero.
    pub data_bytes: u64,
}

/// What a store holds in all.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Usage {
    pub disks: u64,
    pub manifest_bytes: u64,
    pub packs: u64,
    pub pack_bytes: u64,
    pub frames: u64,
    /// Frames as they are stored.
    pub stored_bytes: u64,
    /// The same before compression.
    pub raw_bytes: u64,
    /// Packs that could not be understood when the store was opened.
    pub damaged_packs: Vec<String>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("options", &self.0.options)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store in a folder, which is made if it is not there. This process then has it to
    /// itself until the last clone is gone.
    pub fn open(folder: &Path, options: StoreOptions) -> Result<Store, StoreError> {
        let place = Folder::open(folder).map_err(|source| {
            let folder = folder.to_owned();
            match source.kind() {
                io::ErrorKind::WouldBlock => StoreError::InUse { folder },
                _ => StoreError::Open { folder, source },
            }
        })?;
        Store::open_place(Box::new(place), options)
    }

    /// Makes a store in a folder, in which there must be none.
    pub fn create(folder: &Path, options: StoreOptions) -> Result<Store, StoreError> {
        match is_store(folder) {
            true => Err(StoreError::IsStore {
                folder: folder.to_owned(),
            }),
            false => Store::open(folder, options),
        }
    }

    /// Opens a store that is there, and makes none.
    pub fn open_existing(folder: &Path, options: StoreOptions) -> Result<Store, StoreError> {
        match is_store(folder) {
            true => Store::open(folder, options),
            false => Err(StoreError::NoStore {
                folder: folder.to_owned(),
            }),
        }
    }

    /// Opens a store in any place. The caller sees to it that no one else writes there.
    pub fn open_place(place: Box<dyn Place>, options: StoreOptions) -> Result<Store, StoreError> {
        let (header, lock) = open_header(&*place, &options)?;
        let retired = read_note(&*place)?;
        let index = RwLock::new(Index::new(options.index_bytes));
        let inner = Inner {
            place,
            options,
            header,
            lock: RwLock::new(lock),
            index,
            tidy: Mutex::new(()),
            writer: Mutex::new(()),
        };
        inner.take_up(&retired)?;
        Ok(Store(Arc::new(inner)))
    }

    /// Whether a disk is here with all its frames.
    pub fn has(&self, digest: &DiskDigest) -> bool {
        let outside = self.0.outside(digest);
        outside.is_ok_and(|outside| self.0.check_complete(&outside).is_ok())
    }

    /// A disk, to be read like any other.
    pub fn disk(&self, digest: &DiskDigest) -> Result<StoredDisk, StoreError> {
        self.disk_in(digest, &self.0.own_cache())
    }

    /// The same, with frames in a cache that other disks share.
    pub fn disk_in(
        &self,
        digest: &DiskDigest,
        cache: &Arc<FrameCache>,
    ) -> Result<StoredDisk, StoreError> {
        StoredDisk::open(Arc::new(self.clone()), digest, cache)
    }

    pub fn manifest(&self, digest: &DiskDigest) -> Result<Manifest, StoreError> {
        self.0.manifest(digest)
    }

    /// How large a disk is. No key is needed.
    pub fn sizes(&self, digest: &DiskDigest) -> Result<DiskSizes, StoreError> {
        let outside = self.0.outside(digest)?;
        Ok(DiskSizes {
            logical_bytes: outside.size,
            data_bytes: outside.data_bytes,
        })
    }

    /// Disks that have a manifest, by digest.
    pub fn list(&self) -> Result<Vec<DiskInfo>, StoreError> {
        let entries = list(&*self.0.place, MANIFESTS)?;
        let info = |entry: &Entry| {
            let digest = manifest_digest(&entry.name)?;
            Some(DiskInfo {
                digest,
                manifest_bytes: entry.bytes,
            })
        };
        Ok(entries.iter().filter_map(info).collect())
    }

    pub fn usage(&self) -> Result<Usage, StoreError> {
        let disks = self.list()?;
        let index = self.0.index();
        let totals = index.totals();
        Ok(Usage {
            disks: disks.len() as u64,
            manifest_bytes: totals.table_bytes
                + disks.iter().map(|disk| disk.manifest_bytes).sum::<u64>(),
            packs: totals.packs,
            pack_bytes: totals.pack_bytes,
            frames: totals.frames,
            stored_bytes: totals.stored_bytes,
            raw_bytes: totals.raw_blocks * disk::BLOCK_SIZE as u64,
            damaged_packs: index.damaged.clone(),
        })
    }
}

/// The right to write to a store.
pub(crate) type Writer<'a> = MutexGuard<'a, ()>;

impl Inner {
    /// For a disk that is read by itself.
    pub(crate) fn own_cache(&self) -> Arc<FrameCache> {
        let frames = self.options.cached_frames as u64;
        Arc::new(FrameCache::new(frames * FRAME_BYTES as u64))
    }

    pub(crate) fn threads(&self) -> usize {
        self.options.threads.get()
    }

    /// A thread that panicked while it held the lock left the index as it was or with one more
    /// whole pack, so what it guards is still sound.
    pub(crate) fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index
            .read()
            .unwrap_or_else(|poison| poison.into_inner())
    }

    pub(crate) fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        self.index
            .write()
            .unwrap_or_else(|poison| poison.into_inner())
    }

    /// The right to write, which one caller has at a time.
    pub(crate) fn writer(&self) -> Writer<'_> {
        self.writer
            .lock()
            .unwrap_or_else(|poison| poison.into_inner())
    }

    /// Writes a pack and, once it is safe, makes its frames known.
    pub(crate) fn commit(&self, pack: &Pack, precedence: Precedence) -> Result<(), StoreError> {
        self.put(&pack.name, &pack.bytes)?;
        let bytes = pack.bytes.len() as u64;
        self.take(&pack.name, bytes, &pack.footer, precedence);
        Ok(())
    }

    pub(crate) fn put(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.place
            .put(name, bytes)
            .map_err(|source| StoreError::Put {
                name: name.to_owned(),
                source,
            })
    }

    /// Makes a disk visible, which needs all its frames.
    pub(crate) fn publish(&self, digest: &DiskDigest, bytes: &[u8]) -> Result<(), StoreError> {
        let name = manifest_name(digest);
        let damaged = |what| StoreError::Damaged {
            name: name.clone(),
            what,
        };
        self.check_complete(&Manifest::outside(bytes).map_err(damaged)?)?;
        // What is there may be damaged; then this is the repair.
        match self.outside(digest) {
            Ok(found) if self.check_complete(&found).is_ok() => Ok(()),
            Ok(_) | Err(StoreError::UnknownDisk(_) | StoreError::Damaged { .. }) => {
                self.put(&name, bytes)
            }
            Err(error) => Err(error),
        }
    }

    /// The bytes of a manifest, which may be wrong.
    pub(crate) fn manifest_bytes(&self, digest: &DiskDigest) -> Result<Vec<u8>, StoreError> {
        let name = manifest_name(digest);
        match self.place.get(&name, MAX_MANIFEST_BYTES) {
            Ok(bytes) => bytes.ok_or(StoreError::UnknownDisk(*digest)),
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => Err(StoreError::Damaged {
                name,
                what: "it is too long",
            }),
            Err(source) => Err(StoreError::Get { name, source }),
        }
    }

    pub(crate) fn manifest(&self, digest: &DiskDigest) -> Result<Manifest, StoreError> {
        let bytes = self.manifest_bytes(digest)?;
        let decoded = Manifest::decode(&bytes, &self.domain()?);
        let decoded = decoded.and_then(|manifest| match manifest.digest == *digest {
            true => Ok(manifest),
            false => Err("it is another disk's"),
        });
        decoded.map_err(|what| StoreError::Damaged {
            name: manifest_name(digest),
            what,
        })
    }

    /// What of a manifest can be read without a key.
    pub(crate) fn outside(&self, digest: &DiskDigest) -> Result<Outside, StoreError> {
        let bytes = self.manifest_bytes(digest)?;
        let read = Manifest::outside(&bytes).and_then(|outside| match outside.digest == *digest {
            true => Ok(outside),
            false => Err("it is another disk's"),
        });
        read.map_err(|what| StoreError::Damaged {
            name: manifest_name(digest),
            what,
        })
    }

    /// Bytes of a pack, by the pack's number.
    pub(crate) fn pack_range(
        &self,
        pack: u32,
        offset: u32,
        len: u32,
    ) -> Result<Vec<u8>, StoreError> {
        let name = self.index().pack(pack);
        self.place
            .get_range(&name, u64::from(offset), len as usize)
            .map_err(|source| match source.kind() {
                io::ErrorKind::UnexpectedEof => StoreError::Damaged {
                    name,
                    what: "it is shorter than it was",
                },
                _ => StoreError::Get { name, source },
            })
    }

    /// Checks and decompresses stored bytes that came from `at`.
    pub(crate) fn unpack(
        &self,
        at: &Location,
        stored: &[u8],
        unpacker: &mut Unpacker,
        into: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        let domain = self.domain()?;
        unpacker
            .unpack(&domain, (at.id, at.coding, at.blocks), stored, into)
            .map_err(|what| self.damaged_frame(at, what))
    }

    pub(crate) fn damaged_frame(&self, at: &Location, what: &'static str) -> StoreError {
        StoreError::DamagedFrame {
            frame: at.id,
            pack: self.index().pack(at.pack),
            what,
        }
    }
}

fn is_store(folder: &Path) -> bool {
    folder.join(HEADER).is_file() || folder.join(PACKS).is_dir()
}

/// Whether there is a store in a place, be it one that lost its header.
pub(crate) fn is_store_in(place: &dyn Place) -> Result<bool, StoreError> {
    let header = place.exists(HEADER).map_err(|source| StoreError::Get {
        name: HEADER.to_owned(),
        source,
    })?;
    Ok(header || !list(place, PACKS)?.is_empty())
}

pub(crate) fn list(place: &dyn Place, prefix: &str) -> Result<Vec<Entry>, StoreError> {
    place.list(prefix).map_err(|source| StoreError::List {
        prefix: prefix.to_owned(),
        source,
    })
}

/// The outer error is of the place and may pass; the inner one is of the pack and will not.
pub(crate) fn read_footer(
    place: &dyn Place,
    entry: &Entry,
) -> Result<Result<PackFooter, &'static str>, StoreError> {
    let range = |offset: u64, len: usize| {
        place
            .get_range(&entry.name, offset, len)
            .map_err(|source| StoreError::Get {
                name: entry.name.clone(),
                source,
            })
    };
    let Some(trailer_at) = entry.bytes.checked_sub(TRAILER_LEN as u64) else {
        return Ok(Err("it ends too early"));
    };
    if trailer_at < HEADER_LEN as u64 {
        return Ok(Err("it ends too early"));
    }
    if let Err(what) = check_header(&range(0, HEADER_LEN)?) {
        return Ok(Err(what));
    }
    let trailer = match Trailer::parse(&range(trailer_at, TRAILER_LEN)?, entry.bytes) {
        Ok(trailer) => trailer,
        Err(what) => return Ok(Err(what)),
    };
    let start = trailer_at - u64::from(trailer.footer_len);
    let footer = range(start, trailer.footer_len as usize)?;
    Ok(PackFooter::parse(&entry.name, &trailer, &footer, start))
}

/// The same for a pack that was understood before, whose frames end at `frames_end`: in one read. What begins the file
/// is in the checksum too.
pub(crate) fn read_known_footer(
    place: &dyn Place,
    entry: &Entry,
    frames_end: u64,
) -> Result<Result<PackFooter, &'static str>, StoreError> {
    let len = entry.bytes.saturating_sub(frames_end);
    if len < TRAILER_LEN as u64 || len > u64::from(MAX_FOOTER_BYTES) + TRAILER_LEN as u64 {
        return read_footer(place, entry);
    }
    let read = place.get_range(&entry.name, frames_end, len as usize);
    let end = read.map_err(|source| StoreError::Get {
        name: entry.name.clone(),
        source,
    })?;
    let Some((footer, trailer)) = end.split_last_chunk::<TRAILER_LEN>() else {
        return Ok(Err("it ends too early"));
    };
    match Trailer::parse(trailer, entry.bytes) {
        Ok(trailer) if trailer.footer_len as usize == footer.len() => {
            Ok(PackFooter::parse(&entry.name, &trailer, footer, frames_end))
        }
        Ok(_) => Ok(Err("its footer has another length than it had")),
        Err(what) => Ok(Err(what)),
    }
}

/// For messages about a file that a call was given.
pub(crate) fn file_error(
    doing: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> StoreError + use<> {
    let path: PathBuf = path.to_owned();
    move |source| StoreError::File {
        doing,
        path,
        source,
    }
}
