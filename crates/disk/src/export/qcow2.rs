//! qcow2 version 3 with clusters of 64 KiB, compressed with zstd.
//!
//! Tables come before the data, and say where each cluster is, which depends on how small the
//! ones before it became. A sink that can be patched gets its tables last. For any other the disk
//! is compressed twice: once to learn the lengths, and once to write.
//!
//! Memory is 16 bytes for each cluster that holds data.

use std::io;

use zstd::bulk::Compressor;

use super::{ExportError, Output, limited, read_padded, units};
use crate::image::Format;
use crate::{ReadAt, is_zero};

const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
const PER_TABLE: u64 = CLUSTER / 8;
/// Reference counts of 16 bits.
const PER_COUNT_BLOCK: u64 = CLUSTER / 2;
/// As many as a first-level table of 32 MiB reaches.
const MAX_BYTES: u64 = (4 << 20) * PER_TABLE * CLUSTER;
const HEADER_LEN: u32 = 112;
const LEVEL: i32 = 3;

const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
const SECTOR: u64 = 512;
/// How far sectors stand above the offset in the entry of a compressed cluster.
const SECTORS_SHIFT: u32 = 62 - (CLUSTER_BITS - 8);
const ZSTD: u8 = 1;
const COMPRESSION_FEATURE: u64 = 1 << 3;

/// Where a cluster of the disk is in the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Placed {
    Zero,
    /// It did not get smaller and stands alone in a cluster.
    Whole(u64),
    Packed {
        at: u64,
        len: u32,
    },
}

/// Where the parts before the data are, in bytes.
struct Layout {
    size: u64,
    /// Which clusters may hold data, and so which second-level tables there are.
    used: Vec<u32>,
    tables: Vec<u32>,
    l1_entries: u64,
    count_table_clusters: u64,
    count_blocks: u64,
}

impl Layout {
    fn new(disk: &dyn ReadAt) -> Result<Layout, ExportError> {
        // Sizes are counted in sectors.
        let size = disk.size().next_multiple_of(SECTOR);
        limited(Format::Qcow2, size, MAX_BYTES)?;
        let used = units(disk, CLUSTER)?;
        let mut tables: Vec<u32> = used.iter().map(|index| index / PER_TABLE as u32).collect();
        tables.dedup();
        let mut layout = Layout {
            size,
            l1_entries: size.div_ceil(PER_TABLE * CLUSTER).max(1),
            used,
            tables,
            count_table_clusters: 1,
            count_blocks: 1,
        };
        layout.reserve_counts();
        Ok(layout)
    }

    /// Room for the counts of the largest image that this can become: nothing gets smaller.
    fn reserve_counts(&mut self) {
        loop {
            // A packed run before a whole cluster costs less than one cluster of padding.
            let most = self.data_at() / CLUSTER + 2 * self.used.len() as u64 + 1;
            let blocks = most.div_ceil(PER_COUNT_BLOCK);
            let table = (blocks * 8).div_ceil(CLUSTER);
            if (blocks, table) == (self.count_blocks, self.count_table_clusters) {
                return;
            }
            self.count_blocks = blocks;
            self.count_table_clusters = table;
        }
    }

    fn count_table_at(&self) -> u64 {
        CLUSTER
    }

    fn count_blocks_at(&self) -> u64 {
        self.count_table_at() + self.count_table_clusters * CLUSTER
    }

    fn l1_at(&self) -> u64 {
        self.count_blocks_at() + self.count_blocks * CLUSTER
    }

    fn tables_at(&self) -> u64 {
        self.l1_at() + (self.l1_entries * 8).next_multiple_of(CLUSTER)
    }

    fn data_at(&self) -> u64 {
        self.tables_at() + self.tables.len() as u64 * CLUSTER
    }
}

/// Takes a cluster that has been placed: how far the disk is done, and the bytes at their offset of the image.
type Emit<'a> = &'a mut dyn FnMut(u64, u64, &[u8]) -> Result<(), ExportError>;

/// Where all clusters are, and where the image ends.
#[derive(Debug)]
pub(super) struct Places {
    placed: Vec<Placed>,
    end: u64,
}

impl Places {
    pub(super) fn image_bytes(&self) -> u64 {
        self.end
    }
}

/// Compresses the disk once, to learn how small it gets.
pub(super) fn places(disk: &dyn ReadAt, out: &mut Output<'_>) -> Result<Places, ExportError> {
    let layout = Layout::new(disk)?;
    let mut clusters = Clusters::new(disk)?;
    let (placed, end) = clusters.place(&layout, &mut |_, _, _| out.done(0))?;
    Ok(Places { placed, end })
}

pub(super) fn write(disk: &dyn ReadAt, out: &mut Output<'_>) -> Result<u64, ExportError> {
    let layout = Layout::new(disk)?;
    if out.sink.can_patch() {
        let mut clusters = Clusters::new(disk)?;
        out.zeros_to(layout.data_at())?;
        let (placed, end) = clusters.place(&layout, &mut |done, offset, bytes| {
            out.zeros_to(offset)?;
            out.bytes(bytes)?;
            out.done(done)
        })?;
        out.zeros_to(end)?;
        let mut at = 0;
        tables(&layout, &placed, end, &mut |bytes| {
            out.patch(at, bytes)?;
            at += bytes.len() as u64;
            Ok(())
        })?;
        out.done(disk.size())?;
    } else {
        let places = places(disk, out)?;
        write_placed(disk, &places, out)?;
    }
    Ok(layout.size)
}

/// What is wanted of an image whose clusters have their places.
pub(super) fn write_placed(
    disk: &dyn ReadAt,
    places: &Places,
    out: &mut Output<'_>,
) -> Result<(), ExportError> {
    let layout = Layout::new(disk)?;
    let changed = || ExportError::Read(io::Error::other("the disk changed while it was written"));
    if layout.used.len() != places.placed.len() {
        return Err(changed());
    }
    tables(&layout, &places.placed, places.end, &mut |bytes| {
        out.bytes(bytes)
    })?;
    out.zeros_to(layout.data_at())?;
    let mut clusters = Clusters::new(disk)?;
    let mut raw = vec![0; CLUSTER as usize];
    for (index, placed) in layout.used.iter().zip(&places.placed) {
        let (at, len) = match *placed {
            Placed::Zero => continue,
            Placed::Whole(at) => (at, CLUSTER),
            Placed::Packed { at, len } => (at, u64::from(len)),
        };
        out.zeros_to(at)?;
        if out.skip(len) {
            continue;
        }
        let start = u64::from(*index) * CLUSTER;
        read_padded(disk, start, &mut raw)?;
        let packed = clusters
            .packer
            .compress(&raw)
            .map_err(ExportError::Compress)?;
        match placed {
            Placed::Whole(_) if packed.len() >= raw.len() => out.bytes(&raw)?,
            Placed::Packed { len, .. } if packed.len() == *len as usize => out.bytes(&packed)?,
            _ => return Err(changed()),
        }
        out.done(start + CLUSTER)?;
    }
    out.zeros_to(places.end)?;
    out.done(disk.size())
}

/// Reads and compresses clusters.
struct Clusters<'a> {
    disk: &'a dyn ReadAt,
    packer: Compressor<'static>,
}

impl<'a> Clusters<'a> {
    fn new(disk: &'a dyn ReadAt) -> Result<Self, ExportError> {
        Ok(Clusters {
            disk,
            packer: Compressor::new(LEVEL).map_err(ExportError::Compress)?,
        })
    }

    /// Gives each cluster with data its place, in order, and hands out its bytes. Returns the
    /// places and the end of the image, which is whole clusters.
    fn place(
        &mut self,
        layout: &Layout,
        emit: Emit<'_>,
    ) -> Result<(Vec<Placed>, u64), ExportError> {
        let mut placed = Vec::with_capacity(layout.used.len());
        let mut raw = vec![0; CLUSTER as usize];
        let mut at = layout.data_at();
        for index in &layout.used {
            let start = u64::from(*index) * CLUSTER;
            read_padded(self.disk, start, &mut raw)?;
            if is_zero(&raw) {
                placed.push(Placed::Zero);
                continue;
            }
            let packed = self.packer.compress(&raw).map_err(ExportError::Compress)?;
            let end = start + CLUSTER;
            if packed.len() < raw.len() {
                emit(end, at, &packed)?;
                let len = packed.len() as u32;
                placed.push(Placed::Packed { at, len });
                at += u64::from(len);
            } else {
                at = at.next_multiple_of(CLUSTER);
                emit(end, at, &raw)?;
                placed.push(Placed::Whole(at));
                at += CLUSTER;
            }
        }
        Ok((placed, at.next_multiple_of(CLUSTER)))
    }
}

/// Everything before the data, in the order of the image.
fn tables(
    layout: &Layout,
    placed: &[Placed],
    end: u64,
    put: &mut dyn FnMut(&[u8]) -> Result<(), ExportError>,
) -> Result<(), ExportError> {
    put(&header(layout))?;
    let blocks = (0..layout.count_blocks).map(|n| layout.count_blocks_at() + n * CLUSTER);
    put(&padded(blocks))?;
    counts(layout, placed, end, put)?;
    let mut l1 = vec![0; layout.l1_entries as usize];
    for (table, at) in layout
        .tables
        .iter()
        .zip((layout.tables_at()..).step_by(CLUSTER as usize))
    {
        l1[*table as usize] = at | COPIED;
    }
    put(&padded(l1.into_iter()))?;
    let mut clusters = layout.used.iter().zip(placed).peekable();
    for table in &layout.tables {
        let mut entries = vec![0; PER_TABLE as usize];
        let of_table = |index: u32| index / PER_TABLE as u32 == *table;
        while let Some((index, placed)) = clusters.next_if(|(index, _)| of_table(**index)) {
            entries[*index as usize % PER_TABLE as usize] = entry(placed);
        }
        put(&padded(entries.into_iter()))?;
    }
    Ok(())
}

fn entry(placed: &Placed) -> u64 {
    match *placed {
        Placed::Zero => 0,
        Placed::Whole(at) => at | COPIED,
        Placed::Packed { at, len } => {
            let further = (at + u64::from(len) - 1) / SECTOR - at / SECTOR;
            at | further << SECTORS_SHIFT | COMPRESSED
        }
    }
}

/// How many entries point into each cluster of the image, block by block.
fn counts(
    layout: &Layout,
    placed: &[Placed],
    end: u64,
    put: &mut dyn FnMut(&[u8]) -> Result<(), ExportError>,
) -> Result<(), ExportError> {
    let mut places = placed.iter().peekable();
    // A packed cluster may end in the next block of counts.
    let mut over = 0u16;
    for block in 0..layout.count_blocks {
        let first = block * PER_COUNT_BLOCK;
        let mut counts = vec![0u16; PER_COUNT_BLOCK as usize];
        let whole = layout.data_at() / CLUSTER;
        for (cluster, count) in (first..).zip(&mut counts) {
            *count = u16::from(cluster < whole);
        }
        counts[0] += std::mem::take(&mut over);
        let last = first + PER_COUNT_BLOCK;
        let starts_here = |place: &&Placed| match place {
            Placed::Zero => true,
            Placed::Whole(at) | Placed::Packed { at, .. } => at / CLUSTER < last,
        };
        while let Some(place) = places.next_if(starts_here) {
            match *place {
                Placed::Zero => {}
                Placed::Whole(at) => counts[(at / CLUSTER - first) as usize] += 1,
                Placed::Packed { at, len } => {
                    let (from, to) = (at / CLUSTER, (at + u64::from(len) - 1) / CLUSTER);
                    counts[(from - first) as usize] += 1;
                    match to {
                        to if to == from => {}
                        to if to < last => counts[(to - first) as usize] += 1,
                        _ => over += 1,
                    }
                }
            }
        }
        assert!(
            end <= layout.count_blocks * PER_COUNT_BLOCK * CLUSTER,
            "room was reserved"
        );
        let bytes: Vec<u8> = counts.into_iter().flat_map(u16::to_be_bytes).collect();
        put(&bytes)?;
    }
    Ok(())
}

/// Entries of a table, filled up with zeros to whole clusters.
fn padded(entries: impl Iterator<Item = u64>) -> Vec<u8> {
    let mut bytes: Vec<u8> = entries.flat_map(u64::to_be_bytes).collect();
    bytes.resize(bytes.len().next_multiple_of(CLUSTER as usize), 0);
    bytes
}

fn header(layout: &Layout) -> Vec<u8> {
    let mut header = vec![0; CLUSTER as usize];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"QFI\xfb");
    put(4, &3u32.to_be_bytes());
    put(20, &CLUSTER_BITS.to_be_bytes());
    put(24, &layout.size.to_be_bytes());
    put(36, &(layout.l1_entries as u32).to_be_bytes());
    put(40, &layout.l1_at().to_be_bytes());
    put(48, &layout.count_table_at().to_be_bytes());
    put(56, &(layout.count_table_clusters as u32).to_be_bytes());
    put(72, &COMPRESSION_FEATURE.to_be_bytes());
    // Counts of 2^4 bits; no extension follows the header.
    put(96, &4u32.to_be_bytes());
    put(100, &HEADER_LEN.to_be_bytes());
    put(104, &[ZSTD]);
    header
}
