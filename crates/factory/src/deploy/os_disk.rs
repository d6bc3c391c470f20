//! The disk that a machine boots from: a layer of its own over the version's disk, which is read where the region
//! holds it. Nothing is copied before the machine starts.
//!
//! The layer is QEMU's and takes all that is written, so nothing that a guest was told is on disk depends on this
//! process. What lies below is served by this process; while that is away, a guest that reads what it has not read
//! before waits, and goes on when the next server has the disk under the same name. Once the machine is up, what is
//! below is brought into the layer while the machine runs. From then on it needs neither this process nor the region.
//!
//! Machines of earlier releases have a raw file instead, and keep it.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use disk::DiskDigest;
use disk::image::{below, blank_layer};
use machine::{Guest, MachineDisk};
use store::{FileDisk, FrameSource, StoreError};
use wire::{Location, ResourceId};

use super::machines::folder_name;
use crate::factory::Factory;
use crate::import::LocalDisk;
use crate::pipeline::chain;
use crate::regions::{RegionError, Regions};
use crate::serving::{Attachable, ServingError};

/// What earlier releases made.
const RAW: &str = "disk.raw";
const LAYER: &str = "disk.qcow2";
/// The layer names what is below so that `qemu-img` in the machine's folder finds it, too.
const BELOW: (&str, &str) = ("nbd+unix:///", "?socket=disk.sock");
/// Disks that are filled at once; more would only read the same disk at more places.
pub(super) const FILLS: usize = 2;
/// Between two attempts to fill a disk.
const FILL_PAUSE: Duration = Duration::from_secs(30);
/// For so long it is tried again: a day.
const FILL_TRIES: u32 = 2880;

/// Why a machine has no disk.
#[derive(Debug, thiserror::Error)]
pub(super) enum OsDiskError {
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
    #[error("the machine's disk was written over `{name}`, which is no disk of a region")]
    Below { name: String },
    #[error("the machine has no disk; it was never deployed, or on another server")]
    None,
}

/// Whether a machine has its disk in this folder.
pub(super) fn is_there(folder: &Path) -> bool {
    folder.join(LAYER).is_file() || folder.join(RAW).is_file()
}

/// Gives a machine a new disk, which is the disk of this digest in a place of the region: what all share, or a domain
/// with a key of its own. Blocks.
pub(super) fn lay_out(
    regions: &Regions,
    (vm, folder): (&ResourceId, &Path),
    (region, place): (&Location, &Location),
    digest: &DiskDigest,
) -> Result<(), OsDiskError> {
    let size = regions.readers(place, digest)?.manifest(digest)?.size();
    let name = name_of(digest, vm, (place != region).then_some(place));
    let (file, new) = (folder.join(LAYER), folder.join("disk.new"));
    let write = || {
        let mut out = File::create(&new)?;
        out.write_all(&blank_layer(size, &name))?;
        out.sync_all()?;
        std::fs::rename(&new, &file)?;
        match std::fs::remove_file(folder.join(RAW)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        File::open(folder)?.sync_all()
    };
    write().map_err(OsDiskError::Write)
}

/// What a machine's disk is served as: the same in every process.
fn export(digest: &DiskDigest, vm: &ResourceId) -> String {
    format!("{}-{}", digest.to_hex(), folder_name(vm))
}

/// The name that a layer has for what is below it.
fn name_of(digest: &DiskDigest, vm: &ResourceId, place: Option<&Location>) -> String {
    let place = place.map(|place| format!("#{}", place.as_str()));
    let place = place.unwrap_or_default();
    format!("{}{}{}{place}", BELOW.0, export(digest, vm), BELOW.1)
}

/// The disk that a layer needs, by that name, and the place, if that is not the region.
fn below_of(name: &str) -> Option<(DiskDigest, Option<Location>)> {
    let (export, place) = name.strip_prefix(BELOW.0)?.split_once(BELOW.1)?;
    let (hex, _) = export.split_once('-')?;
    let place = match place {
        "" => None,
        place => Some(Location::new(place.strip_prefix('#')?)),
    };
    Some((format!("bd1:{hex}").parse().ok()?, place))
}

/// The disk that lies below the one in a machine's folder, as long as that one needs it.
fn needed(folder: &Path, region: &Location) -> Result<Option<(Location, DiskDigest)>, OsDiskError> {
    if folder.join(RAW).is_file() {
        return Ok(None);
    }
    let file = match FileDisk::open(&folder.join(LAYER)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(OsDiskError::None);
        }
        file => file.map_err(OsDiskError::Read)?,
    };
    let Some(name) = below(file)? else {
        return Ok(None);
    };
    let Some((digest, place)) = below_of(&name) else {
        return Err(OsDiskError::Below { name });
    };
    Ok(Some((place.unwrap_or_else(|| region.clone()), digest)))
}

/// What lies below the machine's disk, served for as long as the answer is kept; nothing if the disk needs nothing.
pub(super) async fn served(
    factory: &Factory,
    vm: &ResourceId,
    region: &Location,
) -> Result<Option<Attachable>, OsDiskError> {
    let Some((place, digest)) = needed(&factory.machine_folder(vm, region), region)? else {
        return Ok(None);
    };
    let name = export(&digest, vm);
    let served = factory.served.serve_as(name, &place, digest).await?;
    Ok(Some(served))
}

/// The machine's disk as it is given to a machine that starts, and what must be kept while it runs.
pub(super) async fn attach(
    factory: &Factory,
    vm: &ResourceId,
    region: &Location,
) -> Result<(MachineDisk, Option<Attachable>), OsDiskError> {
    let served = served(factory, vm, region).await?;
    let folder = factory.machine_folder(vm, region);
    let disk = match folder.join(RAW) {
        raw if raw.is_file() => MachineDisk::File(raw),
        _ => MachineDisk::Layer {
            file: folder.join(LAYER),
            below: served.as_ref().map(Attachable::place),
        },
    };
    Ok((disk, served))
}

/// The disk of a machine that does not run, to be taken in.
pub(super) fn source(folder: &Path, region: &Location) -> Option<LocalDisk> {
    let (raw, file) = (folder.join(RAW), folder.join(LAYER));
    if raw.is_file() {
        return Some(LocalDisk::Raw(raw));
    }
    let below = needed(folder, region).inspect_err(|error| {
        tracing::warn!(folder = %folder.display(), error = chain(error), "a machine's disk cannot be read");
    });
    Some(LocalDisk::Layer {
        file,
        over: below.ok()?,
    })
}

/// Sees to it that the disk of a machine that runs soon needs nothing below it. Goes on by itself; once is enough.
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
                Err(why) => tracing::debug!(machine = %vm, why, "its disk is not filled yet"),
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
    if !factory.machines.has_below(vm) {
        let below = served(factory, vm, region).await;
        match below.map_err(|error| chain(&error))? {
            None => return Ok(()),
            Some(below) => factory.machines.keep_below(vm, below),
        }
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

    #[test]
    fn a_layer_names_its_disk_in_the_name_that_it_is_served_as() {
        let digest = DiskDigest::from_bytes([0xab; 32]);
        let vm = ResourceId::root()
            .extension("Microsoft.Compute", "virtualMachines", "Web-1")
            .unwrap();
        let own = Location::new("south.of-its-own");
        for place in [None, Some(&own)] {
            let name = name_of(&digest, &vm, place);
            assert_eq!(below_of(&name), Some((digest, place.cloned())));
        }
        for other in ["", "nbd+unix:///ab-1?socket=disk.sock", "/etc/passwd"] {
            assert_eq!(below_of(other), None, "{other}");
        }
    }
}
