//! Free space of an ext4 file system that still holds what was there once: it becomes zeros, which take no room.
//!
//! The bitmaps are read here, bounds checked, and nothing but blocks that they call free is touched. What has a
//! layout that is not known is left as it is.

use disk::{Changes, CowDisk, ReadAt, WriteAt};

use super::block::RootFs;
use super::error::BuildError;

/// Raised whenever the same disk would become another one.
pub const OPTIMISE_FORMAT: u32 = 1;
const SUPERBLOCK_AT: u64 = 1024;
const MAGIC: u16 = 0xef53;
const BLOCK: usize = disk::BLOCK_SIZE;
const GROUPS_MAX: u64 = 1 << 20;
/// A group whose block bitmap was never written.
const BLOCK_UNINIT: u16 = 2;
const INCOMPAT_64BIT: u32 = 0x80;
const INCOMPAT_META_BG: u32 = 0x10;
const INCOMPAT_RECOVER: u32 = 0x4;

/// The blocks of free space that are not zeros, as changes to zeros.
pub fn zero_free_space(disk: &dyn ReadAt) -> Result<Changes, BuildError> {
    let root = RootFs::find(disk)?;
    let start = root.range().start;
    let fs = FileSystem {
        disk,
        start,
        length: root.length(),
    };
    let unread = BuildError::ReadWritten;
    let Some(layout) = fs.layout().map_err(unread)? else {
        return Ok(Changes::new());
    };
    let mut cow = CowDisk::new(disk);
    let zeros = [0u8; BLOCK];
    let mut block = [0u8; BLOCK];
    for group in 0..layout.groups {
        let Some(bitmap) = fs.bitmap(&layout, group).map_err(unread)? else {
            continue;
        };
        let first = layout.first + group * layout.per_group;
        let count = layout.per_group.min(layout.blocks.saturating_sub(first));
        for index in 0..count {
            let used = bitmap[(index / 8) as usize] & (1 << (index % 8)) != 0;
            if used {
                continue;
            }
            let at = start + (first + index) * BLOCK as u64;
            disk.read_at(at, &mut block).map_err(unread)?;
            if block != zeros {
                cow.write_at(at, &zeros).map_err(unread)?;
            }
        }
    }
    cow.into_changes().map_err(unread)
}

struct FileSystem<'a> {
    disk: &'a dyn ReadAt,
    start: u64,
    length: u64,
}

struct Layout {
    blocks: u64,
    first: u64,
    per_group: u64,
    groups: u64,
    descriptor: u64,
}

fn le16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

impl FileSystem<'_> {
    fn read(&self, at: u64, buf: &mut [u8]) -> std::io::Result<()> {
        disk::check_range(self.length, at, buf.len())?;
        self.disk.read_at(self.start + at, buf)
    }

    /// `None` for anything but a clean ext4 of 4 KiB blocks with its descriptors in one place.
    fn layout(&self) -> std::io::Result<Option<Layout>> {
        let mut superblock = [0u8; 1024];
        self.read(SUPERBLOCK_AT, &mut superblock)?;
        let incompat = le32(&superblock, 0x60);
        let known = le16(&superblock, 0x38) == MAGIC
            && le32(&superblock, 0x18) == 2
            && incompat & (INCOMPAT_META_BG | INCOMPAT_RECOVER) == 0;
        if !known {
            return Ok(None);
        }
        let wide = incompat & INCOMPAT_64BIT != 0;
        let high = if wide {
            u64::from(le32(&superblock, 0x150))
        } else {
            0
        };
        let blocks = u64::from(le32(&superblock, 0x4)) | high << 32;
        let first = u64::from(le32(&superblock, 0x14));
        let per_group = u64::from(le32(&superblock, 0x20));
        let descriptor = match wide {
            true => u64::from(le16(&superblock, 0xfe)),
            false => 32,
        };
        let inside = blocks
            .checked_mul(BLOCK as u64)
            .is_some_and(|bytes| bytes <= self.length);
        if !inside
            || !(8..=8 * BLOCK as u64).contains(&per_group)
            || ![32, 64].contains(&descriptor)
        {
            return Ok(None);
        }
        let groups = blocks.saturating_sub(first).div_ceil(per_group);
        Ok((groups <= GROUPS_MAX).then_some(Layout {
            blocks,
            first,
            per_group,
            groups,
            descriptor,
        }))
    }

    /// The block bitmap of a group; `None` where it was never written, and so was nothing of its free space.
    fn bitmap(&self, layout: &Layout, group: u64) -> std::io::Result<Option<[u8; BLOCK]>> {
        let mut bytes = [0u8; 64];
        let table = (layout.first + 1) * BLOCK as u64;
        let size = usize::try_from(layout.descriptor).unwrap_or(32);
        self.read(table + group * layout.descriptor, &mut bytes[..size])?;
        if le16(&bytes, 0x12) & BLOCK_UNINIT != 0 {
            return Ok(None);
        }
        let high = if size == 64 {
            u64::from(le32(&bytes, 0x20))
        } else {
            0
        };
        let at = (u64::from(le32(&bytes, 0)) | high << 32).saturating_mul(BLOCK as u64);
        let mut bitmap = [0u8; BLOCK];
        self.read(at, &mut bitmap)?;
        Ok(Some(bitmap))
    }
}
