//! One disk that starts both under BIOS and under UEFI.
//!
//! The order is fixed: a BIOS-boot partition for GRUB's core image, an EFI system partition, and
//! the root file system in the rest. The file systems are written by others.

use std::ops::Range;

use uuid::Uuid;

use super::gpt::{self, Gpt, Partition, PartitionKind};
use super::{LayoutError, SECTOR};
use crate::WriteAt;

const MIB: u64 = 1 << 20;
const BIOS_BOOT: Range<u64> = MIB..2 * MIB;
const ESP: Range<u64> = 2 * MIB..66 * MIB;

/// The root file system needs at least this much for the layout to make sense.
const MIN_ROOT: u64 = 16 * MIB;

/// Where GRUB's boot.img keeps the sector of the core image.
const BOOT_KERNEL_SECTOR: usize = 0x5c;
/// Code of boot.img; what follows in the sector is the disk signature and the partition table.
const BOOT_CODE: usize = 440;
/// Where the first sector of core.img says where the rest of it is.
const CORE_BLOCKLIST: usize = 500;
/// The segment at which the rest of core.img is loaded: 0x8200 / 16.
const CORE_SEGMENT: u16 = 0x820;

/// Identifiers of the disk and its partitions. They end up in the image, so they are an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionIds {
    pub disk: Uuid,
    pub bios_boot: Uuid,
    pub esp: Uuid,
    pub root: Uuid,
}

/// A disk of one size with its three partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HybridLayout {
    size: u64,
    ids: PartitionIds,
}

impl HybridLayout {
    pub fn new(size: u64, ids: PartitionIds) -> Result<Self, LayoutError> {
        if !size.is_multiple_of(MIB) {
            return Err(LayoutError::Unaligned { size });
        }
        // The last MiB holds the second partition table.
        let needed = ESP.end + MIN_ROOT + MIB;
        if size < needed {
            return Err(LayoutError::TooSmall { size, needed });
        }
        Ok(HybridLayout { size, ids })
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes of the BIOS-boot partition.
    pub fn bios_boot(&self) -> Range<u64> {
        BIOS_BOOT
    }

    /// Bytes of the EFI system partition.
    pub fn esp(&self) -> Range<u64> {
        ESP
    }

    /// Bytes of the root file system: a whole number of MiB.
    pub fn root(&self) -> Range<u64> {
        ESP.end..self.size - MIB
    }

    /// The table that [`Self::write_tables`] writes.
    pub fn table(&self) -> Gpt {
        let part = |kind, id, range: Range<u64>, name: &str| Partition {
            kind,
            id,
            first_lba: range.start / SECTOR,
            last_lba: range.end / SECTOR - 1,
            attributes: 0,
            name: name.to_owned(),
        };
        Gpt {
            disk: self.ids.disk,
            partitions: vec![
                part(
                    PartitionKind::BiosBoot,
                    self.ids.bios_boot,
                    self.bios_boot(),
                    "bios-boot",
                ),
                part(PartitionKind::EfiSystem, self.ids.esp, self.esp(), "esp"),
                part(
                    PartitionKind::RootX86_64,
                    self.ids.root,
                    self.root(),
                    "root",
                ),
            ],
        }
    }

    /// Writes the protective MBR and both copies of the GPT. Boot code is left as it is.
    pub fn write_tables(&self, disk: &mut dyn WriteAt) -> Result<(), LayoutError> {
        if disk.size() != self.size {
            return Err(LayoutError::TooSmall {
                size: disk.size(),
                needed: self.size,
            });
        }
        gpt::write(&self.table(), disk)
    }

    /// Writes GRUB's boot.img and core.img, each told where the next piece is. The partition table
    /// in the first sector is left as it is.
    pub fn write_bios_boot(
        &self,
        disk: &mut dyn WriteAt,
        boot_img: &[u8],
        core_img: &[u8],
    ) -> Result<(), LayoutError> {
        let limit = BIOS_BOOT.end - BIOS_BOOT.start;
        if boot_img.len() as u64 != SECTOR {
            return Err(LayoutError::BootImage(boot_img.len()));
        }
        if core_img.len() as u64 <= SECTOR || core_img.len() as u64 > limit {
            return Err(LayoutError::CoreImage {
                size: core_img.len(),
                limit,
            });
        }
        let first_lba = BIOS_BOOT.start / SECTOR;
        let mut boot = boot_img.to_vec();
        boot[BOOT_KERNEL_SECTOR..][..8].copy_from_slice(&first_lba.to_le_bytes());
        let mut core = core_img.to_vec();
        core.resize(core.len().next_multiple_of(SECTOR as usize), 0);
        let more = (core.len() as u64 / SECTOR - 1) as u16;
        core[CORE_BLOCKLIST..][..8].copy_from_slice(&(first_lba + 1).to_le_bytes());
        core[CORE_BLOCKLIST + 8..][..2].copy_from_slice(&more.to_le_bytes());
        core[CORE_BLOCKLIST + 10..][..2].copy_from_slice(&CORE_SEGMENT.to_le_bytes());
        disk.write_at(0, &boot[..BOOT_CODE])
            .map_err(LayoutError::Write)?;
        disk.write_at(BIOS_BOOT.start, &core)
            .map_err(LayoutError::Write)
    }
}
