//! Reads keys, texts and numbers of a registry hive (format `regf`). Nothing is written: that is hivex's work.

use std::collections::BTreeMap;

use crate::bytes::{part, u16_at, u32_at, utf16};

const HEADER: usize = 4096;
/// Entries of one list, and lists of one key: more than Windows itself makes.
const ENTRIES_MAX: u32 = 1 << 16;
const VALUE_BYTES_MAX: u32 = 16 << 10;
const TEXT: u32 = 1;
const NUMBER: u32 = 4;
const NAME_IS_LATIN: u16 = 0x20;
const VALUE_NAME_IS_LATIN: u16 = 1;
const IS_INLINE: u32 = 1 << 31;

/// Why a hive cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HiveError {
    #[error("it is no registry hive")]
    NotOne,
    #[error("the registry hive is damaged: {0}")]
    Damaged(&'static str),
    #[error("the registry hive claims {claimed} bytes and has {there}: it was cut off")]
    CutOff { claimed: u64, there: u64 },
}

/// The bytes of a hive's file.
#[derive(Debug, Clone, Copy)]
pub struct Hive<'a> {
    /// All that its cells can be in.
    cells: &'a [u8],
    root: u32,
    is_clean: bool,
}

/// What a value of a key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Text(String),
    Number(u32),
}

/// A key.
#[derive(Debug, Clone, Copy)]
pub struct Key<'a> {
    hive: Hive<'a>,
    cell: &'a [u8],
}

trait Damaged<T> {
    fn damaged(self, what: &'static str) -> Result<T, HiveError>;
}

impl<T> Damaged<T> for Option<T> {
    fn damaged(self, what: &'static str) -> Result<T, HiveError> {
        self.ok_or(HiveError::Damaged(what))
    }
}

impl<'a> Hive<'a> {
    pub fn open(bytes: &'a [u8]) -> Result<Self, HiveError> {
        let number = |at| u32_at(bytes, at).ok_or(HiveError::NotOne);
        if !bytes.starts_with(b"regf") || bytes.len() < HEADER {
            return Err(HiveError::NotOne);
        }
        let sum = (0..127).try_fold(0, |sum, index| Ok(sum ^ number(4 * index)?))?;
        // These two stand for themselves no sum.
        let sum = match sum {
            0 => 1,
            u32::MAX => u32::MAX - 1,
            sum => sum,
        };
        if sum != number(0x1fc)? {
            return Err(HiveError::Damaged("the checksum of its head is wrong"));
        }
        let length = number(0x28)?;
        let cells = bytes.get(HEADER..).and_then(|cells| part(cells, 0, length));
        let cells = cells.ok_or(HiveError::CutOff {
            claimed: HEADER as u64 + u64::from(length),
            there: bytes.len() as u64,
        })?;
        Ok(Hive {
            cells,
            root: number(0x24)?,
            is_clean: number(4)? == number(8)?,
        })
    }

    /// Whether all that Windows wrote to it is in it, and not in a log beside it.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.is_clean
    }

    /// The key at a path of ASCII names, in any case.
    pub fn key(&self, path: &[&str]) -> Result<Option<Key<'a>>, HiveError> {
        let mut key = self.key_at(self.root)?;
        for name in path {
            match key.child(name)? {
                Some(child) => key = child,
                None => return Ok(None),
            }
        }
        Ok(Some(key))
    }

    fn key_at(self, at: u32) -> Result<Key<'a>, HiveError> {
        let cell = self.cell(at)?;
        match cell.get(..2) {
            Some(b"nk") => Ok(Key { hive: self, cell }),
            _ => Err(HiveError::Damaged("a key is none")),
        }
    }

    fn cell(self, at: u32) -> Result<&'a [u8], HiveError> {
        const BAD: &str = "a cell leaves it";
        let size = part(self.cells, at, 4).and_then(|size| u32_at(size, 0));
        // In use, its size is negative.
        let size = (size.damaged(BAD)? as i32).checked_neg();
        let size = size.and_then(|size| u32::try_from(size).ok());
        let size = size.filter(|size| *size >= 4).damaged(BAD)?;
        Ok(&part(self.cells, at, size).damaged(BAD)?[4..])
    }
}

impl<'a> Key<'a> {
    fn number(&self, at: usize) -> Result<u32, HiveError> {
        u32_at(self.cell, at).damaged("a key is cut off")
    }

    fn child(&self, name: &str) -> Result<Option<Key<'a>>, HiveError> {
        if self.number(0x14)? == 0 {
            return Ok(None);
        }
        let list = self.hive.cell(self.number(0x1c)?)?;
        let mut found = None;
        for at in self.listed(list)? {
            let child = self.hive.key_at(at)?;
            if child.name()?.eq_ignore_ascii_case(name) {
                found = Some(child);
                break;
            }
        }
        Ok(found)
    }

    /// Where the keys of a list are; a list of lists has no lists of lists in it.
    fn listed(&self, list: &[u8]) -> Result<Vec<u32>, HiveError> {
        if list.get(..2) != Some(b"ri") {
            return entries(list);
        }
        let mut all = Vec::new();
        for at in entries(list)? {
            all.extend(entries(self.hive.cell(at)?)?);
            if all.len() > ENTRIES_MAX as usize {
                return Err(HiveError::Damaged("a key has too many keys below it"));
            }
        }
        Ok(all)
    }

    fn name(&self) -> Result<String, HiveError> {
        const BAD: &str = "a key is cut off";
        let length = usize::from(u16_at(self.cell, 0x48).damaged(BAD)?);
        let name = self.cell.get(0x4c..0x4c + length).damaged(BAD)?;
        let flags = u16_at(self.cell, 2).damaged(BAD)?;
        Ok(text_of(name, flags & NAME_IS_LATIN != 0))
    }

    /// Its values that are texts or numbers, by their names. Others, and texts that are too long to be a line, are left
    /// out.
    pub fn values(&self) -> Result<BTreeMap<String, Value>, HiveError> {
        let mut values = BTreeMap::new();
        let count = self.number(0x24)?;
        if count == 0 {
            return Ok(values);
        }
        let list = self.hive.cell(self.number(0x28)?)?;
        if count > ENTRIES_MAX || count as usize > list.len() / 4 {
            return Err(HiveError::Damaged("a key has more values than it can"));
        }
        let (list, _) = list.as_chunks::<4>();
        for at in &list[..count as usize] {
            if let Some((name, value)) = self.hive.value_at(u32::from_le_bytes(*at))? {
                values.insert(name, value);
            }
        }
        Ok(values)
    }
}

impl Value {
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            Value::Number(_) => None,
        }
    }
}

impl Hive<'_> {
    fn value_at(self, at: u32) -> Result<Option<(String, Value)>, HiveError> {
        const BAD: &str = "a value is cut off";
        let cell = self.cell(at)?;
        if cell.get(..2) != Some(b"vk") {
            return Err(HiveError::Damaged("a value is none"));
        }
        let number = |at| u32_at(cell, at).damaged(BAD);
        let (length, place, kind) = (number(4)?, number(8)?, number(0x0c)?);
        let inline = length & IS_INLINE != 0;
        let length = length & !IS_INLINE;
        let value = match kind {
            TEXT if length > VALUE_BYTES_MAX => return Ok(None),
            TEXT => {
                let data = match inline {
                    true => part(cell, 8, length.min(4)),
                    false if length == 0 => Some(&[][..]),
                    false => part(self.cell(place)?, 0, length),
                };
                let text = utf16(data.damaged(BAD)?);
                Value::Text(text.trim_end_matches('\0').to_owned())
            }
            // One of another length is none.
            NUMBER if inline && length == 4 => Value::Number(place),
            _ => return Ok(None),
        };
        let name_length = usize::from(u16_at(cell, 2).damaged(BAD)?);
        let name = cell.get(0x14..0x14 + name_length).damaged(BAD)?;
        let flags = u16_at(cell, 0x10).damaged(BAD)?;
        let name = text_of(name, flags & VALUE_NAME_IS_LATIN != 0);
        Ok(Some((name, value)))
    }
}

/// Where the entries of a list are: with a hash beside each in the newer kinds.
fn entries(list: &[u8]) -> Result<Vec<u32>, HiveError> {
    const BAD: &str = "a list of keys is none";
    let width = match list.get(..2) {
        Some(b"lf" | b"lh") => 8,
        Some(b"li" | b"ri") => 4,
        _ => return Err(HiveError::Damaged(BAD)),
    };
    let count = usize::from(u16_at(list, 2).damaged(BAD)?);
    let entries = list.get(4..4 + count * width).damaged(BAD)?;
    let at = entries
        .chunks_exact(width)
        .filter_map(|entry| u32_at(entry, 0));
    Ok(at.collect())
}

fn text_of(bytes: &[u8], latin: bool) -> String {
    match latin {
        true => bytes.iter().map(|byte| char::from(*byte)).collect(),
        false => utf16(bytes),
    }
}
