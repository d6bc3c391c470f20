//! Records of the master file table and the attributes in them.

use super::{Damaged, NtfsError};
use crate::bytes::{u16_at, u32_at, u64_at, utf16};

const SECTOR: usize = 512;
const IN_USE: u16 = 1;
const END: u32 = 0xffff_ffff;
/// Attributes of one record; a record of 64 KiB has no room for more.
const ATTRIBUTES_MAX: usize = 4096;
const COMPRESSED: u16 = 0x00ff;
const ENCRYPTED: u16 = 0x4000;

/// Puts back what each sector's last two bytes stood for. They are the same number in all sectors, so that a block that
/// was torn is told from a whole one.
pub(super) fn mend(block: &mut [u8], magic: [u8; 4]) -> Result<(), NtfsError> {
    const TORN: NtfsError = NtfsError::Damaged("a block of its tables is torn");
    if block.get(..4) != Some(magic.as_slice()) {
        return Err(NtfsError::Damaged("a block of its tables is none"));
    }
    let at = usize::from(u16_at(block, 4).ok_or(TORN)?);
    let count = usize::from(u16_at(block, 6).ok_or(TORN)?);
    if count != block.len() / SECTOR + 1 {
        return Err(TORN);
    }
    let stamp = u16_at(block, at).ok_or(TORN)?;
    for sector in 1..count {
        let end = sector * SECTOR - 2;
        let kept = u16_at(block, at + 2 * sector).ok_or(TORN)?;
        if u16_at(block, end) != Some(stamp) {
            return Err(TORN);
        }
        block[end..end + 2].copy_from_slice(&kept.to_le_bytes());
    }
    Ok(())
}

/// One record, mended.
pub(super) struct Record {
    pub number: u64,
    bytes: Vec<u8>,
}

/// Which attribute of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    pub kind: u32,
    pub name: &'static str,
}

/// One attribute, or the piece of it that stands in one record.
pub(super) struct Attribute<'r>(&'r [u8]);

/// Where an attribute's content is.
pub(super) enum Value<'r> {
    Resident(&'r [u8]),
    Mapped {
        lowest_vcn: u64,
        size: u64,
        initialized: u64,
        pairs: &'r [u8],
    },
}

impl Value<'_> {
    /// The first cluster of the file that this piece tells of.
    pub fn lowest_vcn(&self) -> u64 {
        match self {
            Value::Resident(_) => 0,
            Value::Mapped { lowest_vcn, .. } => *lowest_vcn,
        }
    }
}

impl Record {
    pub fn parse(number: u64, mut bytes: Vec<u8>) -> Result<Record, NtfsError> {
        mend(&mut bytes, *b"FILE")?;
        match u16_at(&bytes, 0x16) {
            Some(flags) if flags & IN_USE != 0 => Ok(Record { number, bytes }),
            _ => Err(NtfsError::Damaged("a record that is in use says it is not")),
        }
    }

    /// All pieces of the attribute in this record, in their order.
    pub fn pieces(&self, wanted: Wanted) -> Result<Vec<Attribute<'_>>, NtfsError> {
        const BAD: &str = "an attribute leaves its record";
        let mut found = Vec::new();
        let mut at = usize::from(u16_at(&self.bytes, 0x14).damaged(BAD)?);
        for _ in 0..ATTRIBUTES_MAX {
            let kind = u32_at(&self.bytes, at).damaged(BAD)?;
            if kind == END {
                return Ok(found);
            }
            let length = u32_at(&self.bytes, at + 4).damaged(BAD)? as usize;
            let bytes = self.bytes.get(at..at.saturating_add(length));
            let bytes = bytes.filter(|bytes| bytes.len() >= 0x18).damaged(BAD)?;
            let attribute = Attribute(bytes);
            if kind == wanted.kind && attribute.name().damaged(BAD)? == wanted.name {
                found.push(attribute);
            }
            at += length;
        }
        Err(NtfsError::Damaged("a record has no end"))
    }
}

impl<'r> Attribute<'r> {
    fn name(&self) -> Option<String> {
        let length = 2 * usize::from(self.0[9]);
        let at = usize::from(u16_at(self.0, 0x0a)?);
        match length {
            0 => Some(String::new()),
            _ => Some(utf16(self.0.get(at..at + length)?)),
        }
    }

    pub fn value(&self) -> Result<Value<'r>, NtfsError> {
        const BAD: &str = "an attribute's content leaves it";
        let flags = u16_at(self.0, 0x0c).damaged(BAD)?;
        if flags & (COMPRESSED | ENCRYPTED) != 0 {
            return Err(NtfsError::Unsupported);
        }
        if self.0[8] == 0 {
            let length = u32_at(self.0, 0x10).damaged(BAD)? as usize;
            let at = usize::from(u16_at(self.0, 0x14).damaged(BAD)?);
            let value = self.0.get(at..at.saturating_add(length));
            return value.map(Value::Resident).damaged(BAD);
        }
        let at = usize::from(u16_at(self.0, 0x20).damaged(BAD)?);
        let number = |at| u64_at(self.0, at);
        let lowest_vcn = number(0x10).damaged(BAD)?;
        // Only the first piece says how long the whole is.
        let first = lowest_vcn == 0;
        let size = |at| if first { number(at) } else { Some(0) };
        Ok(Value::Mapped {
            lowest_vcn,
            size: size(0x30).damaged(BAD)?,
            initialized: size(0x38).damaged(BAD)?,
            pairs: self.0.get(at..).damaged(BAD)?,
        })
    }
}
