//! Looking a name up in a folder: its index is a tree of nodes, the first in the folder's record, the others in blocks.

use super::record::{Wanted, mend};
use super::{Damaged, NtfsError, Volume};
use crate::bytes::{u16_at, u32_at, u64_at, utf16};

const ROOT: Wanted = Wanted {
    kind: 0x90,
    name: "$I30",
};
const BLOCKS: Wanted = Wanted {
    kind: 0xa0,
    name: "$I30",
};
const ROOT_BYTES_MAX: u64 = 64 << 10;
/// The largest folder of a Windows disk, WinSxS, has some hundreds of nodes; twice as many as that are looked at.
const NODES_MAX: usize = 1 << 14;
/// What nodes that are smaller than a cluster are counted in.
const SECTOR: u64 = 512;
const HAS_NODE_BELOW: u16 = 1;
const IS_LAST: u16 = 2;
const RECORD_NUMBER: u64 = (1 << 48) - 1;
const BAD: &str = "the index of a folder is none";

/// The record of the entry `name` of the folder with this record. ASCII names only, whatever their case. The order of
/// entries depends on a table of the volume, so all nodes are looked at.
pub(super) fn entry(
    volume: &Volume<'_>,
    folder: u64,
    name: &str,
) -> Result<Option<u64>, NtfsError> {
    let Some(root) = volume.stream(folder, ROOT)? else {
        return Err(NtfsError::Damaged("a folder has no index"));
    };
    let root = volume.whole(&root, ROOT_BYTES_MAX)?;
    let block = u32_at(&root, 8).damaged(BAD)? as usize;
    if !block.is_power_of_two() || !(512..=ROOT_BYTES_MAX as usize).contains(&block) {
        return Err(NtfsError::Damaged(BAD));
    }
    let unit = match volume.cluster {
        cluster if cluster <= block as u64 => cluster,
        _ => SECTOR,
    };
    let blocks = volume.stream(folder, BLOCKS)?;
    let mut below = Vec::new();
    if let Some(found) = scan(root.get(0x10..).damaged(BAD)?, name, &mut below)? {
        return Ok(Some(found));
    }
    for _ in 0..NODES_MAX {
        let Some(vcn) = below.pop() else {
            return Ok(None);
        };
        let blocks = blocks.as_ref().damaged(BAD)?;
        let mut node = vec![0; block];
        let offset = vcn.checked_mul(unit).damaged(BAD)?;
        volume.read(blocks, offset, &mut node)?;
        mend(&mut node, *b"INDX")?;
        if let Some(found) = scan(node.get(0x18..).damaged(BAD)?, name, &mut below)? {
            return Ok(Some(found));
        }
    }
    Err(NtfsError::Damaged("the index of a folder has no end"))
}

/// Looks through one node, and notes the nodes below it.
fn scan(node: &[u8], name: &str, below: &mut Vec<u64>) -> Result<Option<u64>, NtfsError> {
    let mut at = u32_at(node, 0).damaged(BAD)? as usize;
    let end = u32_at(node, 4).damaged(BAD)? as usize;
    let node = node.get(..end).damaged(BAD)?;
    loop {
        let length = usize::from(u16_at(node, at + 8).damaged(BAD)?);
        let flags = u16_at(node, at + 12).damaged(BAD)?;
        let entry = node.get(at..at + length).filter(|entry| entry.len() >= 16);
        let entry = entry.damaged(BAD)?;
        if flags & HAS_NODE_BELOW != 0 && below.len() < NODES_MAX {
            let vcn = length.checked_sub(8).and_then(|at| u64_at(entry, at));
            below.push(vcn.damaged(BAD)?);
        }
        if flags & IS_LAST != 0 {
            return Ok(None);
        }
        let units = usize::from(*entry.get(0x50).damaged(BAD)?);
        let written = entry.get(0x52..0x52 + 2 * units).damaged(BAD)?;
        if utf16(written).eq_ignore_ascii_case(name) {
            return Ok(Some(u64_at(entry, 0).damaged(BAD)? & RECORD_NUMBER));
        }
        at += length;
    }
}
