//! Reads files of an NTFS volume by their paths, and where their bytes lie. Only what that needs: no dates, no rights, no
//! compression, and nothing is repaired.

mod folder;
mod record;
mod stream;

use std::io;
use std::ops::Range;

use disk::ReadAt;

use crate::bytes::{array, u16_at, u64_at};
use record::{Record, Wanted, mend};
use stream::Content;

pub use stream::Stream;

const BOOT_SECTOR: usize = 512;
const DATA: Wanted = Wanted {
    kind: 0x80,
    name: "",
};
const ATTRIBUTE_LIST: Wanted = Wanted {
    kind: 0x20,
    name: "",
};
const VOLUME_INFORMATION: Wanted = Wanted {
    kind: 0x70,
    name: "",
};
const MFT: u64 = 0;
const LOG_FILE: u64 = 2;
const VOLUME: u64 = 3;
const ROOT_FOLDER: u64 = 5;
const RECORD_BYTES: std::ops::RangeInclusive<u64> = 512..=64 << 10;
const CLUSTER_BYTES: std::ops::RangeInclusive<u64> = 512..=2 << 20;
/// Records of one file.
const RECORDS_MAX: usize = 1024;
const LIST_BYTES_MAX: u64 = 1 << 20;
const JOURNAL_PAGE: usize = 4096;
const IS_DIRTY: u16 = 1;

/// Why a file of a volume cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum NtfsError {
    #[error("read the NTFS volume")]
    Read(#[source] io::Error),
    #[error("the NTFS volume is damaged: {0}")]
    Damaged(&'static str),
    #[error("the file is compressed, encrypted or sparse")]
    Unsupported,
    #[error("the file has {bytes} bytes; the limit is {limit}")]
    TooLong { bytes: u64, limit: u64 },
}

/// What is not where it must be, is damage.
trait Damaged<T> {
    fn damaged(self, what: &'static str) -> Result<T, NtfsError>;
}

impl<T> Damaged<T> for Option<T> {
    fn damaged(self, what: &'static str) -> Result<T, NtfsError> {
        self.ok_or(NtfsError::Damaged(what))
    }
}

/// An NTFS volume in a range of a disk.
pub struct Volume<'a> {
    disk: &'a dyn ReadAt,
    range: Range<u64>,
    /// Bytes.
    cluster: u64,
    /// Bytes.
    record: u64,
    mft: Stream,
}

impl<'a> Volume<'a> {
    /// Opens the volume in `range` of `disk`; `None` where there is no NTFS.
    pub fn open(disk: &'a dyn ReadAt, range: Range<u64>) -> Result<Option<Self>, NtfsError> {
        const BAD: &str = "its first sector says what cannot be";
        if range.end.saturating_sub(range.start) < BOOT_SECTOR as u64 {
            return Ok(None);
        }
        let mut boot = [0; BOOT_SECTOR];
        disk.read_at(range.start, &mut boot)
            .map_err(NtfsError::Read)?;
        if &boot[3..11] != b"NTFS    " {
            return Ok(None);
        }
        let sector = u64::from(u16_at(&boot, 0x0b).damaged(BAD)?);
        let cluster = match boot[0x0d] {
            power @ 0x81.. => 1u64
                .checked_shl(256 - u32::from(power))
                .and_then(|sectors| sectors.checked_mul(sector)),
            sectors => Some(u64::from(sectors) * sector),
        };
        let is_size = |bytes: &u64, of: &std::ops::RangeInclusive<u64>| {
            bytes.is_power_of_two() && of.contains(bytes)
        };
        let cluster = cluster.filter(|bytes| is_size(bytes, &CLUSTER_BYTES));
        let cluster = cluster.damaged(BAD)?;
        let record = match i8::from_le_bytes([boot[0x40]]) {
            power @ ..0 => 1u64.checked_shl(u32::from(power.unsigned_abs())),
            clusters => u64::from(clusters.unsigned_abs()).checked_mul(cluster),
        };
        let record = record.filter(|bytes| is_size(bytes, &RECORD_BYTES));
        let mut volume = Volume {
            disk,
            range,
            cluster,
            record: record.damaged(BAD)?,
            mft: Stream {
                size: 0,
                content: Content::Resident(Vec::new()),
            },
        };
        let first = u64_at(&boot, 0x30).and_then(|lcn| lcn.checked_mul(cluster));
        let mut bytes = vec![0; volume.record as usize];
        volume.read_raw(first.damaged(BAD)?, &mut bytes)?;
        let first = Record::parse(MFT, bytes)?;
        // The rest of a table in many pieces is told by records that its first piece holds.
        let pieces = first.pieces(DATA)?;
        volume.mft = volume.joined(&pieces)?.damaged(BAD)?;
        volume.mft = volume.stream(MFT, DATA)?.damaged(BAD)?;
        Ok(Some(volume))
    }

    /// The content of the file at a path of ASCII names, in any case; `None` where there is none.
    pub fn file(&self, path: &[&str]) -> Result<Option<Stream>, NtfsError> {
        let mut number = ROOT_FOLDER;
        for name in path {
            match folder::entry(self, number, name)? {
                Some(found) => number = found,
                None => return Ok(None),
            }
        }
        self.stream(number, DATA)
    }

    /// All of a content, which must not be longer than `limit`.
    pub fn whole(&self, stream: &Stream, limit: u64) -> Result<Vec<u8>, NtfsError> {
        if stream.size > limit {
            return Err(NtfsError::TooLong {
                bytes: stream.size,
                limit,
            });
        }
        let mut bytes = vec![0; stream.size as usize];
        self.read(stream, 0, &mut bytes)?;
        Ok(bytes)
    }

    /// Where the bytes of a content lie on the disk, in their order: what is written there is in the file.
    pub fn places(&self, stream: &Stream) -> Result<Vec<Range<u64>>, NtfsError> {
        let Content::Runs { initialized, runs } = &stream.content else {
            return Err(NtfsError::Unsupported);
        };
        if *initialized < stream.size {
            return Err(NtfsError::Unsupported);
        }
        let mut places = Vec::new();
        let mut left = stream.size;
        for run in runs {
            let lcn = run.lcn.ok_or(NtfsError::Unsupported)?;
            let length = (run.vcn.end - run.vcn.start).saturating_mul(self.cluster);
            let start = self.range.start + lcn * self.cluster;
            let length = length.min(left);
            places.push(start..start + length);
            left -= length;
        }
        Ok(places)
    }

    /// Why Windows would not take the volume as it lies there; nothing when it was left in order.
    pub fn unclean(&self) -> Result<Option<&'static str>, NtfsError> {
        let flags = match self.stream(VOLUME, VOLUME_INFORMATION)? {
            Some(about) => u16_at(&self.whole(&about, 4096)?, 0x0a),
            None => None,
        };
        if flags.is_none_or(|flags| flags & IS_DIRTY != 0) {
            return Ok(Some("it is marked as dirty"));
        }
        if !self.journal_is_done()? {
            return Ok(Some("its journal is not empty"));
        }
        if let Some(file) = self.file(&["hiberfil.sys"])?
            && file.size >= 4
        {
            let mut magic = [0; 4];
            self.read(&file, 0, &mut magic)?;
            if magic.eq_ignore_ascii_case(b"hibr") {
                return Ok(Some("Windows is hibernated on it"));
            }
        }
        Ok(None)
    }

    /// Whether every change that the journal knows is on the disk, by the newer of its two restart pages.
    fn journal_is_done(&self) -> Result<bool, NtfsError> {
        const NO_CLIENT: u16 = 0xffff;
        const IS_CLEAN: u16 = 2;
        let journal = self.stream(LOG_FILE, DATA)?;
        let journal = journal.damaged("it has no journal")?;
        let mut newest = None;
        for at in [0, JOURNAL_PAGE as u64] {
            let mut page = vec![0; JOURNAL_PAGE];
            if at + JOURNAL_PAGE as u64 > journal.size {
                break;
            }
            self.read(&journal, at, &mut page)?;
            // Made, repaired or reset, and not used since.
            if page.starts_with(&[0xff; 4]) {
                continue;
            }
            if mend(&mut page, *b"RSTR").is_err() {
                return Ok(false);
            }
            let area = usize::from(u16_at(&page, 0x18).unwrap_or_default());
            let state = (|| {
                let number = u64_at(&page, area)?;
                let in_use = u16_at(&page, area + 0x0c)? != NO_CLIENT;
                let flags = u16_at(&page, area + 0x0e)?;
                Some((number, !in_use || flags & IS_CLEAN != 0))
            })();
            newest = newest.max(Some(state.damaged("its journal is none")?));
        }
        Ok(newest.is_none_or(|(_, done)| done))
    }

    /// The attribute of a record, wherever its pieces are.
    fn stream(&self, number: u64, wanted: Wanted) -> Result<Option<Stream>, NtfsError> {
        let record = self.record(number)?;
        let list = self.joined(&record.pieces(ATTRIBUTE_LIST)?)?;
        let Some(list) = list else {
            return self.joined(&record.pieces(wanted)?);
        };
        let list = self.whole(&list, LIST_BYTES_MAX)?;
        let mut records = vec![record];
        for number in listed(&list, wanted)? {
            if records.iter().all(|record| record.number != number) {
                if records.len() == RECORDS_MAX {
                    return Err(NtfsError::Damaged("a file is in too many records"));
                }
                records.push(self.record(number)?);
            }
        }
        let mut pieces = Vec::new();
        for record in &records {
            pieces.extend(record.pieces(wanted)?);
        }
        self.joined(&pieces)
    }

    fn joined(&self, pieces: &[record::Attribute<'_>]) -> Result<Option<Stream>, NtfsError> {
        let clusters = (self.range.end - self.range.start) / self.cluster;
        Stream::of(pieces, clusters, self.cluster)
    }

    fn record(&self, number: u64) -> Result<Record, NtfsError> {
        let offset = number.checked_mul(self.record);
        let mut bytes = vec![0; self.record as usize];
        self.read(
            &self.mft,
            offset.damaged("a record has no place")?,
            &mut bytes,
        )?;
        Record::parse(number, bytes)
    }

    /// Fills `buf` from `offset` of a content, which must not end before.
    fn read(&self, stream: &Stream, offset: u64, buf: &mut [u8]) -> Result<(), NtfsError> {
        const BAD: &str = "something is behind the end of a file";
        let end = offset.checked_add(buf.len() as u64);
        let end = end.filter(|end| *end <= stream.size).damaged(BAD)?;
        let (initialized, runs) = match &stream.content {
            Content::Resident(bytes) => {
                buf.copy_from_slice(&bytes[offset as usize..end as usize]);
                return Ok(());
            }
            Content::Runs { initialized, runs } => (*initialized, runs),
        };
        buf.fill(0);
        for run in runs {
            let Some(lcn) = run.lcn else { continue };
            // As large as the volume at most, and the volume is as large as the disk at most.
            let start = run.vcn.start.saturating_mul(self.cluster).max(offset);
            let stop = run.vcn.end.saturating_mul(self.cluster);
            let stop = stop.min(end).min(initialized);
            if start < stop {
                let place = lcn * self.cluster + (start - run.vcn.start * self.cluster);
                let part = &mut buf[(start - offset) as usize..(stop - offset) as usize];
                self.read_raw(place, part)?;
            }
        }
        Ok(())
    }

    /// Fills `buf` from `offset` of the volume.
    fn read_raw(&self, offset: u64, buf: &mut [u8]) -> Result<(), NtfsError> {
        let place = self.range.start.checked_add(offset);
        let place = place.filter(|place| {
            let end = place.checked_add(buf.len() as u64);
            end.is_some_and(|end| end <= self.range.end)
        });
        let place = place.damaged("something is outside the volume")?;
        self.disk.read_at(place, buf).map_err(NtfsError::Read)
    }
}

/// The records that an attribute list names for the attribute, in the order of its pieces.
fn listed(list: &[u8], wanted: Wanted) -> Result<Vec<u64>, NtfsError> {
    const BAD: &str = "an attribute list is none";
    let mut numbers = Vec::new();
    let mut at = 0;
    while at < list.len() {
        let length = usize::from(u16_at(list, at + 4).damaged(BAD)?);
        let entry = list
            .get(at..at + length)
            .filter(|entry| entry.len() >= 0x1a);
        let entry = entry.damaged(BAD)?;
        if array(entry, 0).map(u32::from_le_bytes) == Some(wanted.kind) {
            numbers.push(u64_at(entry, 0x10).damaged(BAD)? & ((1 << 48) - 1));
        }
        at += length;
    }
    Ok(numbers)
}
