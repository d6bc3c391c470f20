//! GUID partition tables, written and read by the byte.
//!
//! Reading is of bytes from outside: every field is checked before it is used, both copies are
//! tried, and nothing is repaired.

use std::ops::Range;

use uuid::{Uuid, uuid};

use super::{LayoutError, SECTOR};
use crate::{ReadAt, WriteAt};

const SIGNATURE: &[u8; 8] = b"EFI PART";
const REVISION: u32 = 0x0001_0000;
const HEADER_LEN: usize = 92;
const ENTRY_LEN: usize = 128;
const NAME_UNITS: usize = 36;
const TABLE_ENTRIES: usize = 128;
const TABLE_SECTORS: u64 = (TABLE_ENTRIES * ENTRY_LEN) as u64 / SECTOR;

/// Entries that a table on a given disk may have before it is refused.
pub const MAX_ENTRIES: u32 = 1024;
/// Bytes that one entry on a given disk may have before the table is refused.
const MAX_ENTRY_LEN: u32 = 4096;

/// What a partition is for, as far as anything here cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PartitionKind {
    BiosBoot,
    EfiSystem,
    /// The root file system of an x86-64 Linux.
    RootX86_64,
    /// Any Linux file system.
    Linux,
    Other(Uuid),
}

const KINDS: [(PartitionKind, Uuid); 4] = [
    (
        PartitionKind::BiosBoot,
        uuid!("21686148-6449-6e6f-744e-656564454649"),
    ),
    (
        PartitionKind::EfiSystem,
        uuid!("c12a7328-f81f-11d2-ba4b-00a0c93ec93b"),
    ),
    (
        PartitionKind::RootX86_64,
        uuid!("4f68bce3-e8cd-4db1-96e7-fbcaf984b709"),
    ),
    (
        PartitionKind::Linux,
        uuid!("0fc63daf-8483-4772-8e79-3d69d8477de4"),
    ),
];

impl PartitionKind {
    pub fn guid(self) -> Uuid {
        match self {
            PartitionKind::Other(guid) => guid,
            known => {
                let found = KINDS.iter().find(|(kind, _)| *kind == known);
                found.map_or(Uuid::nil(), |(_, guid)| *guid)
            }
        }
    }

    fn from_guid(guid: Uuid) -> Self {
        let found = KINDS.iter().find(|(_, known)| *known == guid);
        found.map_or(PartitionKind::Other(guid), |(kind, _)| *kind)
    }
}

/// One partition. Sectors are of 512 bytes; the last one belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    pub kind: PartitionKind,
    pub id: Uuid,
    pub first_lba: u64,
    pub last_lba: u64,
    pub attributes: u64,
    pub name: String,
}

impl Partition {
    /// Its bytes on the disk.
    pub fn range(&self) -> Range<u64> {
        self.first_lba * SECTOR..(self.last_lba + 1) * SECTOR
    }
}

/// A partition table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpt {
    pub disk: Uuid,
    pub partitions: Vec<Partition>,
}

impl Gpt {
    /// Reads the table of a disk: the first copy, or the second one if the first is damaged.
    pub fn read(disk: &dyn ReadAt) -> Result<Gpt, LayoutError> {
        let sectors = disk.size() / SECTOR;
        if sectors < 3 {
            return Err(LayoutError::NoTable("the disk is too small for one"));
        }
        match read_copy(disk, 1, sectors) {
            Err(LayoutError::NoTable(reason)) => {
                read_copy(disk, sectors - 1, sectors).map_err(|error| match error {
                    LayoutError::NoTable(_) => LayoutError::NoTable(reason),
                    other => other,
                })
            }
            done => done,
        }
    }

    pub fn find(&self, kind: PartitionKind) -> Option<&Partition> {
        self.partitions
            .iter()
            .find(|partition| partition.kind == kind)
    }

    /// The root file system: the partition that says so, otherwise the largest Linux one.
    pub fn root(&self) -> Result<&Partition, LayoutError> {
        let linux = self
            .partitions
            .iter()
            .filter(|part| part.kind == PartitionKind::Linux);
        self.find(PartitionKind::RootX86_64)
            .or_else(|| linux.max_by_key(|part| part.last_lba - part.first_lba))
            .ok_or(LayoutError::NoRoot)
    }
}

/// Writes the protective MBR (not its boot code) and both copies of the table.
pub(super) fn write(gpt: &Gpt, disk: &mut dyn WriteAt) -> Result<(), LayoutError> {
    let sectors = disk.size() / SECTOR;
    let mut entries = vec![0; TABLE_ENTRIES * ENTRY_LEN];
    let (slots, _) = entries.as_chunks_mut::<ENTRY_LEN>();
    assert!(
        gpt.partitions.len() <= slots.len(),
        "a table has room for {TABLE_ENTRIES}"
    );
    for (slot, partition) in slots.iter_mut().zip(&gpt.partitions) {
        *slot = entry_bytes(partition);
    }
    let crc = crc32(&entries);
    let last = sectors - 1;
    let first_copy = header_bytes(gpt.disk, 1, last, 2, sectors, crc);
    let second_copy = header_bytes(gpt.disk, last, 1, last - TABLE_SECTORS, sectors, crc);
    let mut put = |lba: u64, bytes: &[u8]| disk.write_at(lba * SECTOR, bytes);
    put(1, &first_copy)
        .and_then(|()| put(2, &entries))
        .and_then(|()| put(last - TABLE_SECTORS, &entries))
        .and_then(|()| put(last, &second_copy))
        .and_then(|()| disk.write_at(440, &protective_mbr(sectors)))
        .map_err(LayoutError::Write)
}

/// The last 72 bytes of the first sector: one partition of type 0xEE over the whole disk.
fn protective_mbr(sectors: u64) -> [u8; 72] {
    let mut tail = [0; 72];
    let entry = &mut tail[6..22];
    entry[1..4].copy_from_slice(&[0x00, 0x02, 0x00]);
    entry[4] = 0xee;
    entry[5..8].copy_from_slice(&[0xff; 3]);
    entry[8..12].copy_from_slice(&1u32.to_le_bytes());
    let covered = u32::try_from(sectors - 1).unwrap_or(u32::MAX);
    entry[12..16].copy_from_slice(&covered.to_le_bytes());
    tail[70..].copy_from_slice(&[0x55, 0xaa]);
    tail
}

fn header_bytes(
    disk: Uuid,
    this: u64,
    other: u64,
    entries: u64,
    sectors: u64,
    entries_crc: u32,
) -> [u8; SECTOR as usize] {
    let mut header = [0; SECTOR as usize];
    header[..8].copy_from_slice(SIGNATURE);
    header[8..12].copy_from_slice(&REVISION.to_le_bytes());
    header[12..16].copy_from_slice(&(HEADER_LEN as u32).to_le_bytes());
    header[24..32].copy_from_slice(&this.to_le_bytes());
    header[32..40].copy_from_slice(&other.to_le_bytes());
    header[40..48].copy_from_slice(&(2 + TABLE_SECTORS).to_le_bytes());
    header[48..56].copy_from_slice(&(sectors - 2 - TABLE_SECTORS).to_le_bytes());
    header[56..72].copy_from_slice(&disk.to_bytes_le());
    header[72..80].copy_from_slice(&entries.to_le_bytes());
    header[80..84].copy_from_slice(&(TABLE_ENTRIES as u32).to_le_bytes());
    header[84..88].copy_from_slice(&(ENTRY_LEN as u32).to_le_bytes());
    header[88..92].copy_from_slice(&entries_crc.to_le_bytes());
    let crc = crc32(&header[..HEADER_LEN]);
    header[16..20].copy_from_slice(&crc.to_le_bytes());
    header
}

fn entry_bytes(partition: &Partition) -> [u8; ENTRY_LEN] {
    let mut entry = [0; ENTRY_LEN];
    entry[..16].copy_from_slice(&partition.kind.guid().to_bytes_le());
    entry[16..32].copy_from_slice(&partition.id.to_bytes_le());
    entry[32..40].copy_from_slice(&partition.first_lba.to_le_bytes());
    entry[40..48].copy_from_slice(&partition.last_lba.to_le_bytes());
    entry[48..56].copy_from_slice(&partition.attributes.to_le_bytes());
    let (units, _) = entry[56..].as_chunks_mut::<2>();
    for (unit, value) in units
        .iter_mut()
        .zip(partition.name.encode_utf16().take(NAME_UNITS))
    {
        *unit = value.to_le_bytes();
    }
    entry
}

fn read_copy(disk: &dyn ReadAt, lba: u64, sectors: u64) -> Result<Gpt, LayoutError> {
    let mut header = [0; SECTOR as usize];
    disk.read_at(lba * SECTOR, &mut header)
        .map_err(LayoutError::Read)?;
    if &header[..8] != SIGNATURE {
        return Err(LayoutError::NoTable("there is no GPT signature"));
    }
    let header_len = u32_at(&header, 12) as usize;
    if !(HEADER_LEN..=SECTOR as usize).contains(&header_len) {
        return Err(LayoutError::NoTable("the header has an impossible length"));
    }
    let mut summed = header;
    summed[16..20].fill(0);
    if crc32(&summed[..header_len]) != u32_at(&header, 16) {
        return Err(LayoutError::NoTable("the header's checksum is wrong"));
    }
    if u64_at(&header, 24) != lba {
        return Err(LayoutError::NoTable("the header belongs to another sector"));
    }
    let (count, entry_len) = (u32_at(&header, 80), u32_at(&header, 84));
    if count > MAX_ENTRIES || !(ENTRY_LEN as u32..=MAX_ENTRY_LEN).contains(&entry_len) {
        return Err(LayoutError::NoTable(
            "the header describes an impossible table",
        ));
    }
    let mut entries = vec![0; count as usize * entry_len as usize];
    let start = u64_at(&header, 72).checked_mul(SECTOR).filter(|start| {
        start
            .checked_add(entries.len() as u64)
            .is_some_and(|end| end <= disk.size())
    });
    let start = start.ok_or(LayoutError::NoTable("the entries lie outside the disk"))?;
    disk.read_at(start, &mut entries)
        .map_err(LayoutError::Read)?;
    if crc32(&entries) != u32_at(&header, 88) {
        return Err(LayoutError::NoTable("the entries' checksum is wrong"));
    }
    let mut partitions = Vec::new();
    for entry in entries.chunks_exact(entry_len as usize) {
        partitions.extend(read_entry(entry, sectors)?);
    }
    Ok(Gpt {
        disk: guid_at(&header, 56),
        partitions,
    })
}

fn read_entry(entry: &[u8], sectors: u64) -> Result<Option<Partition>, LayoutError> {
    let kind = guid_at(entry, 0);
    if kind.is_nil() {
        return Ok(None);
    }
    let (first_lba, last_lba) = (u64_at(entry, 32), u64_at(entry, 40));
    if first_lba > last_lba || last_lba >= sectors {
        return Err(LayoutError::NoTable("a partition lies outside the disk"));
    }
    let units = entry[56..ENTRY_LEN]
        .as_chunks::<2>()
        .0
        .iter()
        .map(|unit| u16::from_le_bytes(*unit));
    let name: Vec<u16> = units.take_while(|unit| *unit != 0).collect();
    Ok(Some(Partition {
        kind: PartitionKind::from_guid(kind),
        id: guid_at(entry, 16),
        first_lba,
        last_lba,
        attributes: u64_at(entry, 48),
        name: String::from_utf16_lossy(&name),
    }))
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes_at(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes_at(bytes, at))
}

fn guid_at(bytes: &[u8], at: usize) -> Uuid {
    Uuid::from_bytes_le(bytes_at(bytes, at))
}

const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut value = index as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 {
                0xedb8_8320 ^ (value >> 1)
            } else {
                value >> 1
            };
            bit += 1;
        }
        table[index] = value;
        index += 1;
    }
    table
};

/// CRC-32 as GPT uses it (IEEE 802.3, reflected).
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc: u32, byte| {
        CRC_TABLE[usize::from(crc as u8 ^ byte)] ^ (crc >> 8)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_of_the_usual_check_value() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }
}
