//! Import: the disk in a file, raw or an image of another program, is taken into the stores of a region.
//!
//! Which file that is, and whether somebody may use it, is decided before: this module reads what it is given, as bytes
//! that anybody may have written.

mod vhd;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use disk::image::{Format, Image, ImageError, Layer, Limits};
use disk::{DiskDigest, ReadAt, check_range};
use jobs::StepError;
use serde::{Deserialize, Serialize};
use store::{FileDisk, FrameCache, Store, StoreError, StoredDisk};
use wire::Location;

use crate::Factory;
use crate::pipeline::{blocking, chain};
use crate::regions::Regions;

pub use vhd::fixed_footer;

/// Azure's largest image. A file is sparse and a claim is cheap, so the claim is checked.
pub const DISK_BYTES_MAX: u64 = 2048 << 30;
/// A disk's file is a little longer than the disk.
const FETCH_BYTES_MAX: u64 = DISK_BYTES_MAX + (64 << 20);
const SECTOR: u64 = 512;
const LIMITS: Limits = Limits {
    max_bytes: DISK_BYTES_MAX,
};

/// Where bits come from that no resource has yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImportSource {
    /// A file at an address of the web, which may carry a signature.
    Web(String),
    Here(LocalDisk),
}

/// What can be read at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalDisk {
    File(PathBuf),
    /// A file whose bytes are the disk's, whatever they look like: a machine wrote them.
    Raw(PathBuf),
    /// A qcow2 image that a machine wrote, over a disk of a region or by itself.
    Layer {
        file: PathBuf,
        over: Option<(Location, DiskDigest)>,
    },
    /// A new disk: nothing but zeros.
    Zeros {
        bytes: u64,
    },
}

/// A disk that is in a store now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Imported {
    pub digest: DiskDigest,
    /// The size of the disk.
    pub logical_bytes: u64,
}

/// Why a file is no disk.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error("the file cannot be read")]
    Read(#[source] io::Error),
    /// Azure's own words for it.
    #[error(
        "the specified cookie value in VHD footer indicates that this is not a supported VHD; the disk is expected to have cookie value 'conectix'"
    )]
    NoVhd,
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error("a disk of {bytes} bytes is empty, or does not end at a sector of {SECTOR} bytes")]
    Size { bytes: u64 },
    #[error("the disk has {bytes} bytes; {DISK_BYTES_MAX} is the maximum supported")]
    TooLarge { bytes: u64 },
}

impl Factory {
    /// Takes the disk into every zone of the region. Doing it twice finds what is there.
    pub async fn import(
        self: &Arc<Self>,
        region: &Location,
        source: ImportSource,
    ) -> Result<Imported, StepError> {
        let (regions, region) = (Arc::clone(self.regions()), region.clone());
        let (source, kept) = match source {
            ImportSource::Web(uri) => {
                let (path, folder) = self.fetched(&uri).await?;
                (LocalDisk::File(path), Some(folder))
            }
            ImportSource::Here(disk) => (disk, None),
        };
        blocking(move || {
            let imported = import(&regions, &region, &source);
            drop(kept);
            imported
        })
        .await
    }

    /// The file, which goes away with its folder.
    async fn fetched(&self, uri: &str) -> Result<(PathBuf, tempfile::TempDir), StepError> {
        let failed = |message: String| StepError::failed("VhdNotFetched", message);
        let folder = self.work_folder();
        let folder = folder.map_err(|error| failed(error.to_string()))?;
        let plain = crate::fetch::without_query(uri);
        // What is named as a VHD must be one.
        let name = match plain.to_ascii_lowercase().ends_with(".vhd") {
            true => "disk.vhd",
            false => "disk",
        };
        let path = folder.path().join(name);
        let file = std::fs::File::create(&path).map_err(|error| failed(error.to_string()))?;
        let done = self.web.fetch_disk(uri, &file, FETCH_BYTES_MAX).await;
        done.map_err(|error| failed(chain(&error)))?;
        Ok((path, folder))
    }
}

fn import(regions: &Regions, region: &Location, source: &LocalDisk) -> Result<Imported, StepError> {
    let refused = |error: ImportError| StepError::failed("InvalidVhd", chain(&error));
    if let LocalDisk::Layer {
        file,
        over: Some((place, parent)),
    } = source
    {
        let layer = open_layer(file).map_err(refused)?;
        let below = Below {
            regions,
            place,
            parent,
        };
        return into_stores(regions, region, layer.size(), &|store| {
            take_in_layer(store, &layer, &below)
        });
    }
    let disk = open(source).map_err(refused)?;
    into_stores(regions, region, disk.size(), &|store| {
        let taken = store.ingest(&*disk).map_err(|error| chain(&error))?;
        Ok(taken.digest)
    })
}

/// What a layer lies on.
struct Below<'a> {
    regions: &'a Regions,
    place: &'a Location,
    parent: &'a DiskDigest,
}

/// Where the store has the disk below, only what was written is read.
fn take_in_layer(store: &Store, layer: &Layer, below: &Below<'_>) -> Result<DiskDigest, String> {
    let told = |error: StoreError| chain(&error);
    if store.has(below.parent) {
        let taken = store.ingest_layer(below.parent, layer, &|_| true);
        return Ok(taken.map_err(told)?.digest);
    }
    let readers = below.regions.readers(below.place, below.parent);
    let readers = Arc::new(readers.map_err(|error| chain(&error))?);
    let parent = StoredDisk::open(readers, below.parent, &Arc::new(FrameCache::default()));
    let parent = parent.map_err(told)?;
    let taken = store.ingest(&layer.over(&parent));
    Ok(taken.map_err(told)?.digest)
}

/// Takes a disk of so many bytes into all stores of a region.
fn into_stores(
    regions: &Regions,
    region: &Location,
    logical_bytes: u64,
    take_in: &dyn Fn(&Store) -> Result<DiskDigest, String>,
) -> Result<Imported, StepError> {
    let stores = regions
        .stores(region)
        .map_err(|error| StepError::failed("RegionUnavailable", chain(&error)))?;
    let mut digest = None;
    for (zone, store) in stores {
        let taken = match digest {
            None => take_in(&store),
            // The bytes were hashed once; a second zone gets what the first one has.
            Some(known) if store.has(&known) => continue,
            Some(_) => take_in(&store),
        };
        let taken = taken
            .map_err(|message| StepError::failed("ImportFailed", format!("{zone}: {message}")))?;
        if digest.is_some_and(|known| known != taken) {
            let message = "the file was changed while it was read";
            return Err(StepError::failed("ImportFailed", message));
        }
        digest = Some(taken);
    }
    let digest = digest.ok_or_else(|| StepError::failed("RegionUnavailable", "no zone"))?;
    Ok(Imported {
        digest,
        logical_bytes,
    })
}

/// The disk inside the source, its size checked.
fn open(source: &LocalDisk) -> Result<Box<dyn ReadAt>, ImportError> {
    let disk: Box<dyn ReadAt> = match source {
        LocalDisk::Zeros { bytes } => Box::new(Zeros(*bytes)),
        LocalDisk::File(path) => open_file(path)?,
        LocalDisk::Layer { file, .. } => {
            let file = FileDisk::open(file).map_err(ImportError::Read)?;
            Box::new(Image::open_as(file, Format::Qcow2, LIMITS)?)
        }
        LocalDisk::Raw(path) => Box::new(FileDisk::open(path).map_err(ImportError::Read)?),
    };
    let bytes = disk.size();
    if bytes == 0 || !bytes.is_multiple_of(SECTOR) {
        return Err(ImportError::Size { bytes });
    }
    if bytes > DISK_BYTES_MAX {
        return Err(ImportError::TooLarge { bytes });
    }
    Ok(disk)
}

fn open_layer(file: &Path) -> Result<Layer, ImportError> {
    let file = FileDisk::open(file).map_err(ImportError::Read)?;
    Ok(Layer::open(file, LIMITS)?)
}

/// Whether there is Windows on a disk image of which nobody says it. What cannot be read is none: whoever takes the image in
/// is told why it cannot. Blocks.
pub(crate) fn holds_windows(path: &Path) -> bool {
    let file = FileDisk::open(path).map_err(ImportError::Read);
    let image = file.and_then(|file| Ok(Image::open(file, LIMITS)?));
    image.is_ok_and(|image| windisk::System::find(&image).is_ok())
}

/// The content tells the format. A file that is named as a VHD must be one.
fn open_file(path: &Path) -> Result<Box<dyn ReadAt>, ImportError> {
    let file = FileDisk::open(path).map_err(ImportError::Read)?;
    let named = path
        .extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("vhd"));
    let image = Image::open(file, LIMITS)?;
    if named && !matches!(image.format(), Format::VhdFixed | Format::VhdDynamic) {
        return Err(ImportError::NoVhd);
    }
    Ok(Box::new(image))
}

/// A disk on which nothing was written.
struct Zeros(u64);

impl ReadAt for Zeros {
    fn size(&self) -> u64 {
        self.0
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(self.0, offset, buf.len())?;
        buf.fill(0);
        Ok(())
    }

    fn next_data(&self, _offset: u64) -> io::Result<Option<std::ops::Range<u64>>> {
        Ok(None)
    }
}

/// A disk with zeros behind it.
pub(crate) struct Padded<'a> {
    disk: &'a dyn ReadAt,
    size: u64,
}

impl<'a> Padded<'a> {
    /// `size` is that of the disk or more.
    pub(crate) fn new(disk: &'a dyn ReadAt, size: u64) -> Self {
        Padded {
            disk,
            size: size.max(disk.size()),
        }
    }
}

impl ReadAt for Padded<'_> {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(self.size, offset, buf.len())?;
        let inside = self.disk.size().saturating_sub(offset);
        let inside = usize::try_from(inside).map_or(buf.len(), |inside| inside.min(buf.len()));
        let (data, zeros) = buf.split_at_mut(inside);
        zeros.fill(0);
        match data {
            [] => Ok(()),
            data => self.disk.read_at(offset, data),
        }
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<std::ops::Range<u64>>> {
        match offset < self.disk.size() {
            true => self.disk.next_data(offset),
            false => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use disk::MemDisk;

    use super::*;

    const MIB: usize = 1 << 20;

    fn disk() -> Vec<u8> {
        let mut disk = vec![0; MIB];
        disk[8192..8200].copy_from_slice(b"contents");
        disk
    }

    fn vhd(disk: &[u8]) -> Vec<u8> {
        let mut bytes = disk.to_vec();
        bytes.extend(fixed_footer(disk.len() as u64));
        bytes
    }

    fn place(folder: &Path) -> (Regions, Location) {
        let region = Location::new("north");
        let regions = Regions::open(&folder.join("regions")).unwrap();
        regions
            .define(&region, &["1".to_owned(), "2".to_owned()])
            .unwrap();
        (regions, region)
    }

    #[test]
    fn a_raw_disk_and_its_vhd_are_one_disk_in_every_zone() {
        let folder = tempfile::tempdir().unwrap();
        let (regions, region) = place(folder.path());
        let mut digests = Vec::new();
        for (name, bytes) in [
            ("a.raw", disk()),
            ("b.vhd", vhd(&disk())),
            ("c", vhd(&disk())),
        ] {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            let imported = import(&regions, &region, &LocalDisk::File(path)).unwrap();
            assert_eq!(imported.logical_bytes, MIB as u64);
            digests.push(imported.digest);
        }
        assert!(digests.iter().all(|digest| *digest == digests[0]));
        for (_, store) in regions.stores(&region).unwrap() {
            assert!(store.has(&digests[0]));
        }
        // What a machine wrote is not looked into: the footer is a part of its disk.
        let path = folder.path().join("b.vhd");
        let raw = import(&regions, &region, &LocalDisk::Raw(path)).unwrap();
        assert_eq!(raw.logical_bytes, MIB as u64 + 512);
        assert_ne!(raw.digest, digests[0]);
        let zeros = import(&regions, &region, &LocalDisk::Zeros { bytes: 1 << 30 }).unwrap();
        assert_ne!(zeros.digest, digests[0]);
    }

    #[test]
    fn a_layer_is_taken_in_over_its_disk_in_any_region() {
        let folder = tempfile::tempdir().unwrap();
        let (regions, region) = place(folder.path());
        let other = Location::new("south");
        regions.define(&other, &["1".to_owned()]).unwrap();
        let path = folder.path().join("a.raw");
        std::fs::write(&path, disk()).unwrap();
        let parent = import(&regions, &region, &LocalDisk::Raw(path)).unwrap();
        let file = folder.path().join("layer");
        let layer = |over| LocalDisk::Layer {
            file: file.clone(),
            over,
        };
        let write = |size| {
            let blank = disk::image::blank_layer(size, "nbd+unix:///below");
            std::fs::write(&file, blank).unwrap();
        };
        write(MIB as u64);
        for place in [&region, &other] {
            let over = Some((region.clone(), parent.digest));
            let taken = import(&regions, place, &layer(over)).unwrap();
            assert_eq!(taken, parent, "nothing was written to it");
        }
        // A disk that grew is zero there.
        write(2 * MIB as u64);
        let over = Some((region.clone(), parent.digest));
        let grown = import(&regions, &region, &layer(over)).unwrap();
        let mut raw = disk();
        raw.resize(2 * MIB, 0);
        assert_eq!(
            grown.digest,
            disk::digest_of(&MemDisk::from(raw)).unwrap().0
        );
        // What it needs must be said: the name in it is not looked at.
        let error = import(&regions, &region, &layer(None)).unwrap_err();
        assert!(error.to_string().contains("backing file"), "{error}");
        let unknown = Some((other, DiskDigest::from_bytes([1; 32])));
        assert!(import(&regions, &region, &layer(unknown)).is_err());
    }

    fn check(name: &str, bytes: &[u8], part: &str) {
        let folder = tempfile::tempdir().unwrap();
        let (regions, region) = place(folder.path());
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let error = import(&regions, &region, &LocalDisk::File(path)).unwrap_err();
        let said = error.to_string().to_lowercase();
        assert!(said.contains(part), "{name}: {error}");
    }

    #[test]
    fn what_is_no_disk_is_refused() {
        check("a.vhd", &disk(), "cookie value 'conectix'");
        check("a.vhd", b"", "cookie value 'conectix'");
        check("a.raw", b"", "is empty");
        check("a.raw", &[1; 1000], "sector");
        let mut short = vhd(&disk());
        short.drain(..4096);
        check("a.vhd", &short, "vhd");
        let mut torn = vhd(&disk());
        let end = torn.len();
        torn[end - 100] ^= 1;
        check("a.vhd", &torn, "vhd");
        check("a.img", b"\x1f\x8b\x08 is packed", "gzip");
    }
}
