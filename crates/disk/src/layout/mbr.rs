//! Partition tables of the older kind, read by the byte: the four partitions of the first sector. What is inside an
//! extended one is not looked for.

use std::ops::Range;

use super::{LayoutError, SECTOR};
use crate::ReadAt;

const ENTRIES: std::ops::Range<usize> = 446..510;
const ENTRY_LEN: usize = 16;
const EMPTY: u8 = 0;
/// Stands for all partitions of a GUID partition table.
const PROTECTIVE: u8 = 0xee;
const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];

/// Where the partitions lie.
pub(super) fn read(disk: &dyn ReadAt) -> Result<Vec<Range<u64>>, LayoutError> {
    let mut sector = [0; SECTOR as usize];
    if disk.size() < SECTOR {
        return Err(LayoutError::NoTable("the disk is too small for one"));
    }
    disk.read_at(0, &mut sector).map_err(LayoutError::Read)?;
    if sector[510..] != [0x55, 0xaa] {
        return Err(LayoutError::NoTable("there is neither a GPT nor an MBR"));
    }
    let mut found = Vec::new();
    for entry in sector[ENTRIES].chunks_exact(ENTRY_LEN) {
        let kind = entry[4];
        if kind == EMPTY || EXTENDED.contains(&kind) {
            continue;
        }
        if kind == PROTECTIVE {
            return Err(LayoutError::NoTable(
                "the GPT that its MBR stands for is none",
            ));
        }
        let number = |at: usize| {
            let bytes = [entry[at], entry[at + 1], entry[at + 2], entry[at + 3]];
            u64::from(u32::from_le_bytes(bytes)) * SECTOR
        };
        let (start, length) = (number(8), number(12));
        if length == 0 || start + length > disk.size() {
            return Err(LayoutError::NoTable("a partition lies outside the disk"));
        }
        found.push(start..start + length);
    }
    Ok(found)
}
