//! The Windows on a disk: the volume that it is on, its hive SOFTWARE, and which blocks of the disk another one would
//! change.

use std::collections::BTreeMap;
use std::ops::Range;

use disk::layout::LayoutError;
use disk::{Changes, CowDisk, ReadAt, WriteAt};

use crate::hive::{Hive, HiveError, Value};
use crate::ntfs::{NtfsError, Stream, Volume};

/// The largest hive that is read; `SOFTWARE` of an old server has some 200 MiB.
pub const HIVE_BYTES_MAX: u64 = 512 << 20;
const SOFTWARE: [&str; 4] = ["Windows", "System32", "config", "SOFTWARE"];

/// Where Windows says which one it is.
const VERSION: [&str; 3] = ["Microsoft", "Windows NT", "CurrentVersion"];
const FIRST_ELEVEN: u32 = 22000;
/// Of each word of a version.
const WORD_CHARS_MAX: usize = 100;

/// Why nothing can be told of the Windows on a disk, or nothing be written into it.
#[derive(Debug, thiserror::Error)]
pub enum SystemError {
    #[error("read the partition table")]
    Layout(#[from] LayoutError),
    #[error(
        "there is no Windows on the disk: no NTFS volume has Windows\\System32\\config\\SOFTWARE"
    )]
    None,
    #[error("read the hive SOFTWARE")]
    Volume(#[from] NtfsError),
    #[error("Windows was not shut down on the disk: {0}; start it once and shut it down")]
    Unclean(&'static str),
    #[error("the hive SOFTWARE")]
    Hive(#[from] HiveError),
    #[error(
        "the hive SOFTWARE has changes in a log beside it; start Windows once and shut it down"
    )]
    Logged,
    #[error(
        "the hive SOFTWARE has {needed} bytes with the change and room for {room} on the disk: a file on NTFS is not made \
         longer here; start Windows once, install or update something, which makes room, and shut it down"
    )]
    NoRoom { needed: u64, room: u64 },
    #[error("write the changed blocks")]
    Write(#[source] std::io::Error),
}

/// The volume that Windows is on.
pub struct System<'a> {
    volume: Volume<'a>,
    software: Stream,
}

/// The hive SOFTWARE as it lies on a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HiveFile {
    pub bytes: Vec<u8>,
    /// Where they are on the disk, in order.
    places: Vec<Range<u64>>,
}

impl<'a> System<'a> {
    /// Looks for the volume with the hive among the partitions of a disk. A volume that cannot be read is told of, unless
    /// there is another.
    pub fn find(disk: &'a dyn ReadAt) -> Result<Self, SystemError> {
        let mut why = SystemError::None;
        for range in disk::layout::partitions(disk)? {
            let found = Volume::open(disk, range).and_then(|volume| {
                let Some(volume) = volume else {
                    return Ok(None);
                };
                let software = volume.file(&SOFTWARE)?;
                Ok(software.map(|software| System { volume, software }))
            });
            match found {
                Ok(Some(system)) => return Ok(system),
                Ok(None) => {}
                Err(error) => why = error.into(),
            }
        }
        Err(why)
    }

    /// Refuses a volume whose files Windows itself would first put in order.
    pub fn check_clean(&self) -> Result<(), SystemError> {
        match self.volume.unclean()? {
            None => Ok(()),
            Some(why) => Err(SystemError::Unclean(why)),
        }
    }

    pub fn software(&self) -> Result<HiveFile, SystemError> {
        Ok(HiveFile {
            bytes: self.volume.whole(&self.software, HIVE_BYTES_MAX)?,
            places: self.volume.places(&self.software)?,
        })
    }
}

impl HiveFile {
    /// Refuses a hive that is not whole without the log beside it.
    pub fn check_clean(&self) -> Result<(), SystemError> {
        match Hive::open(&self.bytes)?.is_clean() {
            true => Ok(()),
            false => Err(SystemError::Logged),
        }
    }

    /// The texts and numbers of a key; `None` where there is no such key.
    pub fn values(&self, key: &[&str]) -> Result<Option<BTreeMap<String, Value>>, SystemError> {
        let key = Hive::open(&self.bytes)?.key(key)?;
        Ok(key.map(|key| key.values()).transpose()?)
    }

    /// The texts of a key; `None` where there is no such key.
    pub fn texts(&self, key: &[&str]) -> Result<Option<BTreeMap<String, String>>, SystemError> {
        let only_texts = |values: BTreeMap<String, Value>| {
            let texts = values.into_iter();
            let texts = texts.filter_map(|(name, value)| match value {
                Value::Text(text) => Some((name, text)),
                Value::Number(_) => None,
            });
            texts.collect()
        };
        Ok(self.values(key)?.map(only_texts))
    }

    /// What Windows says it is, as people say it: `Windows Server 2022 Datacenter 21H2 (20348.2700)`. Nothing where it does
    /// not say. One line of printable characters.
    pub fn version(&self) -> Result<Option<String>, SystemError> {
        let values = self.values(&VERSION)?.unwrap_or_default();
        let text = |names: [&str; 2]| {
            let found = names.iter().find_map(|name| values.get(*name)?.text());
            found.map(plain).filter(|text| !text.is_empty())
        };
        let Some(mut name) = text(["ProductName"; 2]) else {
            return Ok(None);
        };
        let build = text(["CurrentBuildNumber", "CurrentBuild"]);
        // Windows 11 calls itself 10 there, for the sake of old programs.
        let number = build.as_ref().and_then(|build| build.parse::<u32>().ok());
        if number.is_some_and(|number| number >= FIRST_ELEVEN) {
            name = name.replacen("Windows 10", "Windows 11", 1);
        }
        let release = text(["DisplayVersion", "ReleaseId"]);
        let build = match (build, values.get("UBR")) {
            (Some(build), Some(Value::Number(revision))) => Some(format!("({build}.{revision})")),
            (build, _) => build.map(|build| format!("({build})")),
        };
        let words = [Some(name), release, build];
        Ok(Some(
            words.into_iter().flatten().collect::<Vec<_>>().join(" "),
        ))
    }

    /// The blocks of `disk` that change when the hive, which must not need more room than it has, gets other bytes.
    pub fn changes(&self, disk: &dyn ReadAt, bytes: &[u8]) -> Result<Changes, SystemError> {
        let room = self.bytes.len();
        if bytes.len() != room {
            return Err(SystemError::NoRoom {
                needed: bytes.len() as u64,
                room: room as u64,
            });
        }
        let mut cow = CowDisk::new(disk);
        let mut rest = bytes;
        for place in &self.places {
            let (part, after) = rest.split_at((place.end - place.start) as usize);
            cow.write_at(place.start, part)
                .map_err(SystemError::Write)?;
            rest = after;
        }
        cow.into_changes().map_err(SystemError::Write)
    }
}

/// A text of anybody's, so that it can stand in a line.
fn plain(text: &str) -> String {
    let printable = text.chars().filter(|char| !char.is_control());
    let cut: String = printable.take(WORD_CHARS_MAX).collect();
    cut.trim().to_owned()
}
