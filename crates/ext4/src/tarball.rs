//! Turns a tar archive into the changes that make the same tree, in byte order of the paths.
//!
//! Only headers are read here; content stays in the archive and is read by offset when a change
//! is applied, so a tree of any size takes little memory. The archive is not trusted: every
//! length has a limit and what is not understood is refused rather than guessed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use tar::{EntryType, Header};

use crate::change::{Change, Content, FileTime, Links, Meta, NodeKind, Xattr, Xattrs};
use crate::error::show;

const RECORD_BYTES: u64 = 512;
/// A long name, link target or set of extended headers.
const EXTENSION_BYTES_MAX: u64 = 1 << 20;
const MEMBERS_MAX: usize = 4_000_000;
const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";

#[derive(Debug, thiserror::Error)]
pub enum TarError {
    #[error("cannot read the archive at byte {offset}")]
    Read {
        offset: u64,
        #[source]
        source: io::Error,
    },

    #[error("the archive is damaged at byte {offset}: {reason}")]
    Damaged { offset: u64, reason: &'static str },

    #[error("`{path}` in the archive cannot be carried over: {reason}")]
    Unsupported { path: String, reason: &'static str },

    #[error(
        "the hard link `{path}` in the archive points to `{target}`, which is not a file in it"
    )]
    DanglingLink { path: String, target: String },

    #[error("the archive has more than {MEMBERS_MAX} members")]
    TooManyMembers,
}

/// The changes that write the tree of the tar archive `archive`, parents first. A modification
/// time later than `epoch` becomes `epoch`.
///
/// Of several names of one file, the first in byte order becomes the file and the others hard
/// links to it, whatever the archive's own order.
pub fn from_tar(archive: &Path, epoch: i64) -> Result<Vec<Change>, TarError> {
    let file = File::open(archive).map_err(|source| TarError::Read { offset: 0, source })?;
    let mut scanner = Scanner {
        archive,
        input: BufReader::new(file),
        offset: 0,
        epoch,
    };
    let mut members = BTreeMap::new();
    while let Some((path, member)) = scanner.member()? {
        members.insert(path, member);
        if members.len() > MEMBERS_MAX {
            return Err(TarError::TooManyMembers);
        }
    }
    resolve_links(&mut members)?;
    Ok(changes(members))
}

#[derive(Debug)]
enum Body {
    Directory,
    File(Content),
    Symlink(Vec<u8>),
    Node(NodeKind),
    HardLink(Vec<u8>),
}

#[derive(Debug)]
struct Member {
    meta: Meta,
    xattrs: Xattrs,
    body: Body,
}

type Members = BTreeMap<Vec<u8>, Member>;

/// Makes the first name of each file the one that holds the content.
fn resolve_links(members: &mut Members) -> Result<(), TarError> {
    let mut names: BTreeMap<Vec<u8>, Vec<Vec<u8>>> = BTreeMap::new();
    for (path, member) in members.iter() {
        if let Body::HardLink(target) = &member.body {
            let dangling = || TarError::DanglingLink {
                path: show(path),
                target: show(target),
            };
            match members.get(target).map(|member| &member.body) {
                Some(Body::File(_) | Body::Symlink(_) | Body::Node(_)) => {}
                _ => return Err(dangling()),
            }
            names.entry(target.clone()).or_default().push(path.clone());
        }
    }
    for (holder, mut group) in names {
        group.push(holder.clone());
        group.sort();
        let first = group[0].clone();
        if first != holder
            && let (Some(content), Some(link)) = (members.remove(&holder), members.remove(&first))
        {
            members.insert(
                holder,
                Member {
                    body: Body::HardLink(first.clone()),
                    ..link
                },
            );
            members.insert(first.clone(), content);
        }
        for path in &group[1..] {
            if let Some(member) = members.get_mut(path) {
                member.body = Body::HardLink(first.clone());
            }
        }
    }
    Ok(())
}

fn changes(members: Members) -> Vec<Change> {
    let mut changes = Vec::with_capacity(members.len());
    for (path, Member { meta, xattrs, body }) in members {
        let is_link = matches!(body, Body::HardLink(_));
        changes.push(match body {
            Body::Directory => Change::Dir {
                path: path.clone(),
                meta,
            },
            Body::File(content) => Change::File {
                path: path.clone(),
                meta,
                content,
                links: Links::Break,
            },
            Body::Symlink(target) => Change::Symlink {
                path: path.clone(),
                meta,
                target,
            },
            Body::Node(kind) => Change::Node {
                path: path.clone(),
                meta,
                kind,
            },
            Body::HardLink(target) => Change::HardLink {
                path: path.clone(),
                target,
            },
        });
        if !xattrs.is_empty() && !is_link {
            changes.push(Change::Xattrs { path, xattrs });
        }
    }
    changes
}

/// What extended headers said about the member that follows them.
#[derive(Debug, Default)]
struct Extension {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: Option<FileTime>,
    xattrs: Xattrs,
    acl: bool,
    sparse: bool,
}

struct Scanner<'p> {
    archive: &'p Path,
    input: BufReader<File>,
    offset: u64,
    epoch: i64,
}

impl Scanner<'_> {
    fn damaged<T>(&self, reason: &'static str) -> Result<T, TarError> {
        Err(TarError::Damaged {
            offset: self.offset,
            reason,
        })
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), TarError> {
        let offset = self.offset;
        self.input
            .read_exact(buffer)
            .map_err(|source| TarError::Read { offset, source })?;
        self.offset += buffer.len() as u64;
        Ok(())
    }

    fn skip(&mut self, bytes: u64) -> Result<(), TarError> {
        let offset = self.offset;
        let distance = i64::try_from(bytes).map_err(|error| TarError::Read {
            offset,
            source: io::Error::other(error),
        })?;
        self.input
            .seek_relative(distance)
            .map_err(|source| TarError::Read { offset, source })?;
        self.offset += bytes;
        Ok(())
    }

    /// The next header; `None` at the end of the archive.
    fn header(&mut self) -> Result<Option<Header>, TarError> {
        let mut record = [0; RECORD_BYTES as usize];
        self.fill(&mut record)?;
        if record.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let sum: u32 = record
            .iter()
            .enumerate()
            .map(|(index, byte)| {
                if (148..156).contains(&index) {
                    u32::from(b' ')
                } else {
                    u32::from(*byte)
                }
            })
            .sum();
        let header = Header::from_byte_slice(&record).clone();
        match header.cksum() {
            Ok(expected) if expected == sum => Ok(Some(header)),
            _ => self.damaged("a header's checksum is wrong"),
        }
    }

    fn extension_bytes(&mut self, header: &Header) -> Result<Vec<u8>, TarError> {
        let size = match header.entry_size() {
            Ok(size) if size <= EXTENSION_BYTES_MAX => size,
            _ => return self.damaged("an extended header is too long"),
        };
        let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
        self.fill(&mut bytes)?;
        self.skip(size.next_multiple_of(RECORD_BYTES) - size)?;
        Ok(bytes)
    }

    /// The next member, with all that its extended headers say.
    fn member(&mut self) -> Result<Option<(Vec<u8>, Member)>, TarError> {
        let mut extension = Extension::default();
        loop {
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            match header.entry_type() {
                EntryType::XHeader => {
                    let bytes = self.extension_bytes(&header)?;
                    self.pax(&bytes, &mut extension)?;
                }
                EntryType::GNULongName => {
                    extension.path = Some(until_nul(self.extension_bytes(&header)?));
                }
                EntryType::GNULongLink => {
                    extension.link = Some(until_nul(self.extension_bytes(&header)?));
                }
                EntryType::XGlobalHeader => {
                    self.extension_bytes(&header)?;
                }
                _ => return self.body(&header, extension).map(Some),
            }
        }
    }

    fn body(
        &mut self,
        header: &Header,
        extension: Extension,
    ) -> Result<(Vec<u8>, Member), TarError> {
        let raw_path = extension
            .path
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let path = clean(&raw_path)?;
        let refuse = |reason| {
            Err(TarError::Unsupported {
                path: show(&path),
                reason,
            })
        };
        if extension.acl {
            return refuse(
                "it carries a textual access control list; archive it as extended attributes",
            );
        }
        if extension.sparse {
            return refuse("it is stored as a sparse file");
        }
        let Some(numbers) = numbers(header) else {
            return self.damaged("a number in a header is malformed");
        };
        let mtime = extension
            .mtime
            .unwrap_or(FileTime::from_seconds(numbers.mtime));
        let meta = Meta {
            uid: extension.uid.unwrap_or(numbers.uid),
            gid: extension.gid.unwrap_or(numbers.gid),
            mode: numbers.mode & 0o7777,
            mtime: mtime.clamped_to(self.epoch),
        };
        let link = extension
            .link
            .or_else(|| header.link_name_bytes().map(|name| name.into_owned()));
        let (major, minor) = (numbers.major, numbers.minor);
        let body = match header.entry_type() {
            EntryType::Regular | EntryType::Continuous => {
                Body::File(self.content(extension.size.unwrap_or(numbers.size))?)
            }
            EntryType::Directory => Body::Directory,
            EntryType::Symlink => Body::Symlink(link.unwrap_or_default()),
            EntryType::Link => Body::HardLink(clean(&link.unwrap_or_default())?),
            EntryType::Fifo => Body::Node(NodeKind::Fifo),
            EntryType::Char => Body::Node(NodeKind::Char { major, minor }),
            EntryType::Block => Body::Node(NodeKind::Block { major, minor }),
            _ => return refuse("its type is not known"),
        };
        Ok((
            path,
            Member {
                meta,
                xattrs: extension.xattrs,
                body,
            },
        ))
    }

    /// Remembers where the content that begins here lies, and goes on after it.
    fn content(&mut self, length: u64) -> Result<Content, TarError> {
        let content = Content::FileRange {
            path: self.archive.to_path_buf(),
            offset: self.offset,
            length,
        };
        match length.checked_next_multiple_of(RECORD_BYTES) {
            Some(padded) => self.skip(padded).map(|()| content),
            None => self.damaged("a length in a header is malformed"),
        }
    }

    /// Records of the form `length key=value\n`; a value may hold any byte.
    fn pax(&self, mut bytes: &[u8], extension: &mut Extension) -> Result<(), TarError> {
        while !bytes.is_empty() {
            let Some((key, value, rest)) = pax_record(bytes) else {
                return self.damaged("an extended header is malformed");
            };
            bytes = rest;
            if let Some(name) = key.strip_prefix(XATTR_PREFIX) {
                extension.xattrs.push(Xattr {
                    name: name.to_vec(),
                    value: value.to_vec(),
                });
                continue;
            }
            match key {
                b"path" => extension.path = Some(value.to_vec()),
                b"linkpath" => extension.link = Some(value.to_vec()),
                b"size" => extension.size = Some(self.pax_number(value)?),
                b"uid" => extension.uid = Some(self.pax_number(value)?),
                b"gid" => extension.gid = Some(self.pax_number(value)?),
                b"mtime" => match pax_time(value) {
                    Some(time) => extension.mtime = Some(time),
                    None => return self.damaged("a time in an extended header is malformed"),
                },
                key if key.starts_with(b"SCHILY.acl.") => extension.acl = true,
                key if key.starts_with(b"GNU.sparse.") => extension.sparse = true,
                _ => {}
            }
        }
        Ok(())
    }

    fn pax_number<T: std::str::FromStr>(&self, value: &[u8]) -> Result<T, TarError> {
        match std::str::from_utf8(value)
            .ok()
            .and_then(|text| text.parse().ok())
        {
            Some(number) => Ok(number),
            None => self.damaged("a number in an extended header is malformed"),
        }
    }
}

struct Numbers {
    size: u64,
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: i64,
    major: u32,
    minor: u32,
}

fn numbers(header: &Header) -> Option<Numbers> {
    Some(Numbers {
        size: header.entry_size().ok()?,
        mode: header.mode().ok()?,
        uid: header.uid().ok()?.try_into().ok()?,
        gid: header.gid().ok()?.try_into().ok()?,
        mtime: header.mtime().ok()?.try_into().ok()?,
        major: header.device_major().ok().flatten().unwrap_or_default(),
        minor: header.device_minor().ok().flatten().unwrap_or_default(),
    })
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    bytes.truncate(end);
    bytes
}

/// `./usr/bin/` becomes `usr/bin`; the root becomes the empty path. `..` is refused.
fn clean(raw: &[u8]) -> Result<Vec<u8>, TarError> {
    let parts: Vec<&[u8]> = raw
        .split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .collect();
    if parts.contains(&b"..".as_slice()) {
        return Err(TarError::Unsupported {
            path: show(raw),
            reason: "it holds `..`",
        });
    }
    Ok(parts.join(&b'/'))
}

fn pax_record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let blank = bytes.iter().position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(&bytes[..blank]).ok()?.parse().ok()?;
    let record = bytes.get(blank + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((&record[..equals], &record[equals + 1..], &bytes[length..]))
}

/// Decimal seconds, perhaps negative, perhaps with a fraction.
fn pax_time(value: &[u8]) -> Option<FileTime> {
    const DIGITS: usize = 9;
    let text = std::str::from_utf8(value).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction
        .chars()
        .chain(std::iter::repeat('0'))
        .take(DIGITS)
        .collect();
    let nanoseconds: u32 = digits.parse().ok()?;
    let seconds: i64 = whole.parse().ok()?;
    if text.starts_with('-') && nanoseconds > 0 {
        return Some(FileTime {
            seconds: seconds.checked_sub(1)?,
            nanoseconds: 1_000_000_000 - nanoseconds,
        });
    }
    Some(FileTime {
        seconds,
        nanoseconds,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pax_records_may_hold_any_byte() {
        let record = b"24 SCHILY.xattr.u.x=a\nb\n11 path=ab\n";
        let (key, value, rest) = pax_record(record).unwrap();
        assert_eq!(
            (key, value),
            (b"SCHILY.xattr.u.x".as_slice(), b"a\nb".as_slice())
        );
        let (key, value, rest) = pax_record(rest).unwrap();
        assert_eq!(
            (key, value, rest),
            (b"path".as_slice(), b"ab".as_slice(), b"".as_slice())
        );
    }

    #[test]
    fn pax_times() {
        let check = |text: &str, expected: Option<(i64, u32)>| {
            let got = pax_time(text.as_bytes()).map(|time| (time.seconds, time.nanoseconds));
            assert_eq!(got, expected, "{text}");
        };
        check("12", Some((12, 0)));
        check("12.5", Some((12, 500_000_000)));
        check("-1.25", Some((-2, 750_000_000)));
        check("12.1234567891", Some((12, 123_456_789)));
        check("12.x", None);
        check("", None);
    }
}
