//! The disks that machines begin with something on: of each a layer of its own over a disk of the region, which is read where
//! the region holds it. Nothing is copied before the machine starts.
//!
//! The layer is QEMU's and takes all that is written, so nothing that a guest was told is on disk depends on this
//! process. What lies below is served by this process; while that is away, a guest that reads what it has not read
//! before waits, and goes on when the next server has the disk under the same name. Once the machine is up, what is
//! below is brought into the layers while the machine runs. From then on it needs neither this process nor the region.
//!
//! A disk that begins empty is a raw file, and so is any that an earlier release copied; they need nothing and stay as they are.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use disk::DiskDigest;
use disk::image::{below, blank_layer};
use machine::{DataDisk, Guest, MachineDisk};
use store::{FileDisk, FrameSource, StoreError};
use wire::{Location, ResourceId};

use super::machines::folder_name;
use crate::factory::Factory;
use crate::import::LocalDisk;
use crate::pipeline::chain;
use crate::regions::{RegionError, Regions};
use crate::serving::{Attachable, ServingError};

const RAW: &str = ".raw";
const LAYER: &str = ".qcow2";
/// What the file of a data disk begins with.
const DATA: &str = "data-";
/// A layer names what is below so that `qemu-img` in the machine's folder finds it, too.
const BELOW: (&str, &str) = ("nbd+unix:///", "?socket=");
/// Machines whose disks are filled at once; more would only read the same disks at more places.
pub(super) const FILLS: usize = 2;
/// Between two attempts to fill the disks of a machine.
const FILL_PAUSE: Duration = Duration::from_secs(30);
/// For so long it is tried again: a day.
const FILL_TRIES: u32 = 2880;

/// A disk among those of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Which {
    /// The one that the machine boots from.
    Os,
    /// The data disk of a number.
    Data(u32),
}

/// What lies below the disks of a machine, as long as they need it.
pub(super) type Below = BTreeMap<Which, Attachable>;

impl Which {
    /// As clients name it.
    pub(super) fn of(lun: Option<u32>) -> Which {
        lun.map_or(Which::Os, Which::Data)
    }

    fn file(self, folder: &Path, end: &str) -> PathBuf {
        folder.join(match self {
            Which::Os => format!("disk{end}"),
            Which::Data(lun) => format!("{DATA}{lun}{end}"),
        })
    }

    /// The disk with nothing below it.
    pub(super) fn raw(self, folder: &Path) -> PathBuf {
        self.file(folder, RAW)
    }

    fn layer(self, folder: &Path) -> PathBuf {
        self.file(folder, LAYER)
    }

    /// Neither of the two yet.
    pub(super) fn new_file(self, folder: &Path) -> PathBuf {
        self.file(folder, ".new")
    }

    /// Under which name QEMU finds the socket in the machine's folder.
    fn socket(self) -> String {
        match self {
            Which::Os => "disk.sock".to_owned(),
            Which::Data(lun) => format!("lun{lun}.sock"),
        }
    }

    /// What is below it is served as: the same in every process, and another than any other disk's.
    pub(super) fn export(self, digest: &DiskDigest, vm: &ResourceId) -> String {
        let own = format!("{}-{}", digest.to_hex(), folder_name(vm));
        match self {
            Which::Os => own,
            Which::Data(lun) => format!("{own}-lun{lun}"),
        }
    }

    /// The name that its layer has for what is below.
    fn name_below(self, digest: &DiskDigest, vm: &ResourceId, place: Option<&Location>) -> String {
        let place = place.map(|place| format!("#{}", place.as_str()));
        let (export, place) = (self.export(digest, vm), place.unwrap_or_default());
        format!("{}{export}{}{}{place}", BELOW.0, BELOW.1, self.socket())
    }

    /// The disk that its layer needs, by that name, and the place, if that is not the region.
    fn parse_below(self, name: &str) -> Option<(DiskDigest, Option<Location>)> {
        let (export, socket) = name.strip_prefix(BELOW.0)?.split_once(BELOW.1)?;
        let (hex, _) = export.split_once('-')?;
        let place = match socket.strip_prefix(self.socket().as_str())? {
            "" => None,
            place => Some(Location::new(place.strip_prefix('#')?)),
        };
        Some((format!("bd1:{hex}").parse().ok()?, place))
    }
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Which::Os => f.write_str("disk"),
            Which::Data(lun) => write!(f, "data disk {lun}"),
        }
    }
}

/// Why a machine has no disk.
#[derive(Debug, thiserror::Error)]
pub(super) enum LayerError {
    #[error(transparent)]
    Region(#[from] RegionError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Serving(#[from] ServingError),
    #[error("write the machine's disk")]
    Write(#[source] std::io::Error),
    #[error("read the machine's disk")]
    Read(#[source] std::io::Error),
    #[error("the machine's disk is not what it should be")]
    Image(#[from] disk::image::ImageError),
    #[error("the machine's {which} was written over `{name}`, which is no disk of a region")]
    Below { which: Which, name: String },
    #[error("the machine has no {0}; it was never deployed, or on another server")]
    None(Which),
}

/// Whether a machine has the disk in this folder.
pub(super) fn is_there(folder: &Path, which: Which) -> bool {
    which.layer(folder).is_file() || which.raw(folder).is_file()
}

/// Takes a disk away, whatever it is. Done twice, it does nothing more.
pub(super) fn remove(folder: &Path, which: Which) -> std::io::Result<()> {
    for file in [which.raw(folder), which.layer(folder)] {
        match std::fs::remove_file(file) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Gives a machine a new disk, which begins as the disk of this digest in a place of the region: what all share, or a
/// domain with a key of its own. It may be longer than that one; what is behind it is zeros. Blocks.
pub(super) fn lay_out(
    regions: &Regions,
    (vm, folder, which): (&ResourceId, &Path, Which),
    (region, place): (&Location, &Location),
    (digest, bytes): (&DiskDigest, Option<u64>),
) -> Result<(), LayerError> {
    let size = regions.readers(place, digest)?.manifest(digest)?.size();
    let size = bytes.map_or(size, |bytes| bytes.max(size));
    let name = which.name_below(digest, vm, (place != region).then_some(place));
    let (file, new) = (which.layer(folder), which.new_file(folder));
    let write = || {
        let mut out = File::create(&new)?;
        out.write_all(&blank_layer(size, &name))?;
        out.sync_all()?;
        std::fs::rename(&new, &file)?;
        match std::fs::remove_file(which.raw(folder)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        File::open(folder)?.sync_all()
    };
    write().map_err(LayerError::Write)
}

/// The disk that lies below the one in a machine's folder, as long as that one needs it.
pub(super) fn needed(
    folder: &Path,
    which: Which,
    region: &Location,
) -> Result<Option<(Location, DiskDigest)>, LayerError> {
    if which.raw(folder).is_file() {
        return Ok(None);
    }
    let file = match FileDisk::open(&which.layer(folder)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(LayerError::None(which)),
        file => file.map_err(LayerError::Read)?,
    };
    let Some(name) = below(file)? else {
        return Ok(None);
    };
    let Some((digest, place)) = which.parse_below(&name) else {
        return Err(LayerError::Below { which, name });
    };
    Ok(Some((place.unwrap_or_else(|| region.clone()), digest)))
}

/// What lies below a machine's disk, served for as long as the answer is kept; nothing if the disk needs nothing.
async fn served(
    factory: &Factory,
    vm: &ResourceId,
    region: &Location,
    which: Which,
) -> Result<Option<Attachable>, LayerError> {
    let folder = factory.machine_folder(vm, region);
    let Some((place, digest)) = needed(&folder, which, region)? else {
        return Ok(None);
    };
    let name = which.export(&digest, vm);
    let served = factory.served.serve_as(name, &place, digest).await?;
    Ok(Some(served))
}

/// The disks in a machine's folder that may need something below them.
fn layers(folder: &Path) -> Vec<Which> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let data = entries.filter_map(|entry| {
        let name = entry.file_name();
        let lun = name.to_str()?.strip_prefix(DATA)?.strip_suffix(LAYER)?;
        lun.parse().ok().map(Which::Data)
    });
    let mut found: Vec<Which> = std::iter::once(Which::Os).chain(data).collect();
    found.retain(|which| which.layer(folder).is_file());
    found.sort_unstable();
    found
}

/// What lies below the disks of a machine that runs, but for those that are `served` already; and why one of them is not.
pub(super) async fn below_all(
    factory: &Factory,
    vm: &ResourceId,
    region: &Location,
    is_served: impl Fn(Which) -> bool,
) -> (Below, Option<LayerError>) {
    let (mut all, mut failed) = (Below::new(), None);
    for which in layers(&factory.machine_folder(vm, region)) {
        if is_served(which) {
            continue;
        }
        match served(factory, vm, region, which).await {
            Ok(Some(below)) => drop(all.insert(which, below)),
            Ok(None) => {}
            // The others are served all the same: the guest waits for this one alone.
            Err(error) => failed = Some(error),
        }
    }
    (all, failed)
}

/// The disks of a machine as they are given to it when it starts, and what must be kept while it runs.
pub(super) struct Attached {
    pub os: MachineDisk,
    pub data: Vec<DataDisk>,
    pub below: Below,
}

/// The disk that a machine boots from and the data disks of these numbers.
pub(super) async fn attach(
    factory: &Factory,
    vm: &ResourceId,
    region: &Location,
    luns: &[u32],
) -> Result<Attached, LayerError> {
    let mut below = Below::new();
    let os = attach_one(factory, vm, region, Which::Os, &mut below).await?;
    let mut data = Vec::new();
    for &lun in luns {
        let disk = attach_one(factory, vm, region, Which::Data(lun), &mut below).await?;
        data.push(DataDisk { lun, disk });
    }
    Ok(Attached { os, data, below })
}

async fn attach_one(
    factory: &Factory,
    vm: &ResourceId,
    region: &Location,
    which: Which,
    kept: &mut Below,
) -> Result<MachineDisk, LayerError> {
    let served = served(factory, vm, region, which).await?;
    let folder = factory.machine_folder(vm, region);
    let raw = which.raw(&folder);
    if raw.is_file() {
        return Ok(MachineDisk::File(raw));
    }
    let below = served.as_ref().map(Attachable::place);
    kept.extend(served.map(|served| (which, served)));
    let file = which.layer(&folder);
    Ok(MachineDisk::Layer { file, below })
}

/// A disk of a machine that does not run, to be taken in.
pub(super) fn source(folder: &Path, which: Which, region: &Location) -> Option<LocalDisk> {
    if !is_there(folder, which) {
        return None;
    }
    let raw = which.raw(folder);
    if raw.is_file() {
        return Some(LocalDisk::Raw(raw));
    }
    let below = needed(folder, which, region).inspect_err(|error| {
        tracing::warn!(folder = %folder.display(), error = chain(error), "a machine's disk cannot be read");
    });
    Some(LocalDisk::Layer {
        file: which.layer(folder),
        over: below.ok()?,
    })
}

/// Sees to it that the disks of a machine that runs soon need nothing below them. Goes on by itself; once is enough.
pub(super) fn fill(
    factory: &Arc<Factory>,
    vm: &ResourceId,
    region: &Location,
    guest: &Arc<dyn Guest>,
) {
    if !factory.machines.begins_to_fill(vm) {
        return;
    }
    let (factory, guest) = (Arc::downgrade(factory), Arc::downgrade(guest));
    let (vm, region) = (vm.clone(), region.clone());
    tokio::spawn(async move {
        for _ in 0..FILL_TRIES {
            let (Some(factory), Some(guest)) = (factory.upgrade(), guest.upgrade()) else {
                return;
            };
            if !guest.is_running() {
                return;
            }
            match fill_once(&factory, &vm, &region, &*guest).await {
                Ok(()) => return factory.machines.is_filled(&vm),
                Err(why) => tracing::debug!(machine = %vm, why, "its disks are not filled yet"),
            }
            drop((factory, guest));
            tokio::time::sleep(FILL_PAUSE).await;
        }
    });
}

async fn fill_once(
    factory: &Arc<Factory>,
    vm: &ResourceId,
    region: &Location,
    guest: &dyn Guest,
) -> Result<(), String> {
    let is_served = |which| factory.machines.has_below(vm, which);
    let (below, failed) = below_all(factory, vm, region, is_served).await;
    factory.machines.keep_below(vm, below);
    if let Some(error) = failed {
        return Err(chain(&error));
    }
    if !factory.machines.has_any_below(vm) {
        return Ok(());
    }
    let _turn = factory
        .fills
        .acquire()
        .await
        .map_err(|error| error.to_string())?;
    guest.fill().await.map_err(|error| chain(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EACH: [Which; 3] = [Which::Os, Which::Data(0), Which::Data(63)];

    fn vm() -> ResourceId {
        ResourceId::root()
            .extension("Microsoft.Compute", "virtualMachines", "Web-1")
            .unwrap()
    }

    #[test]
    fn a_layer_names_its_disk_in_the_name_that_it_is_served_as() {
        let (digest, vm) = (DiskDigest::from_bytes([0xab; 32]), vm());
        let own = Location::new("south.of-its-own");
        for which in EACH {
            for place in [None, Some(&own)] {
                let name = which.name_below(&digest, &vm, place);
                assert_eq!(which.parse_below(&name), Some((digest, place.cloned())));
                for other in EACH.into_iter().filter(|other| *other != which) {
                    assert_eq!(other.parse_below(&name), None, "{other}: {name}");
                }
            }
            for other in ["", "nbd+unix:///ab-1?socket=disk.sock", "/etc/passwd"] {
                assert_eq!(which.parse_below(other), None, "{other}");
            }
        }
        // As the releases before named it, whose machines go on.
        let export = format!("{}-{}", "ab".repeat(32), folder_name(&vm));
        let known = format!("nbd+unix:///{export}?socket=disk.sock");
        assert_eq!(Which::Os.name_below(&digest, &vm, None), known);
        let exports = EACH.map(|which| which.export(&digest, &vm));
        assert_eq!(exports[0], export);
        let kept = exports
            .iter()
            .collect::<std::collections::BTreeSet<_>>()
            .len();
        assert_eq!(kept, EACH.len(), "one name for each disk");
    }

    #[test]
    fn layers_are_found_in_a_folder_among_whatever_else_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        assert_eq!(layers(folder), []);
        for name in [
            "disk.qcow2",
            "data-7.qcow2",
            "data-10.qcow2",
            "data-3.raw",
            "data-4.new",
            "data-.qcow2",
            "data-99999999999.qcow2",
            "seed.img",
        ] {
            std::fs::write(folder.join(name), b"").unwrap();
        }
        std::fs::create_dir(folder.join("data-8.qcow2")).unwrap();
        assert_eq!(layers(folder), [Which::Os, Which::Data(7), Which::Data(10)]);
        let south = Location::new("south");
        let raw = source(folder, Which::Data(3), &south);
        assert_eq!(raw, Some(LocalDisk::Raw(folder.join("data-3.raw"))));
        assert_eq!(source(folder, Which::Data(4), &south), None);
        let none = needed(folder, Which::Data(4), &south).unwrap_err();
        assert!(none.to_string().contains("no data disk 4"), "{none}");
        let torn = needed(folder, Which::Data(7), &south);
        assert!(matches!(torn, Err(LayerError::Image(_))), "{torn:?}");
        // One that names another disk than a region's is not followed.
        let foreign = blank_layer(1 << 20, "nbd+unix:///x?socket=/run/other.sock");
        std::fs::write(folder.join("data-7.qcow2"), foreign).unwrap();
        let foreign = needed(folder, Which::Data(7), &south);
        assert!(matches!(foreign, Err(LayerError::Below { .. })));
        remove(folder, Which::Data(7)).unwrap();
        remove(folder, Which::Data(7)).unwrap();
        assert!(!is_there(folder, Which::Data(7)));
    }
}
