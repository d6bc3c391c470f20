//! Tattoo: what an image is and where it came from, written into the image itself.
//!
//! The record is part of the disk, so it holds nothing but recorded inputs: the same inputs give
//! the same bytes. Nothing is mounted to write it. Parsing treats the text as hostile: it comes
//! from a machine that anyone may have changed.

mod windows;
#[cfg(test)]
mod windows_tests;

use std::collections::BTreeMap;
use std::fmt;

use disk::{Changes, ReadAt};
use ext4::{Change, Content, FileTime, Links, Meta};
use windisk::{System, SystemError};

use crate::build::{BuildError, RootFs};
use crate::confined::ConfinedError;

pub use windows::{TATTOO_KEY, apply as apply_to_windows};

/// Where the record lies in a Linux image.
pub const TATTOO_PATH: &str = "/etc/bullion-image";
/// More than this is no record of ours.
pub const TATTOO_BYTES_MAX: u64 = 16 << 10;
const VALUE_BYTES_MAX: usize = 1024;
const MODE: u32 = 0o444;
/// First line of every record; raised when a key changes its meaning.
const FORMAT: &str = "1";

/// The record. Every value is one line of printable text; [`Tattoo::render`] refuses others.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tattoo {
    pub source_publisher: String,
    pub source_offer: String,
    pub source_sku: String,
    pub source_version: String,
    /// Digest of the pinned archive state, or of the disk that was imported.
    pub source_digest: String,
    /// As people say it: `Debian GNU/Linux 12.15 (bookworm)`.
    pub os_version: String,
    /// Resource id of the image definition.
    pub image_definition: String,
    pub image_version: String,
    /// RFC 3339, in UTC.
    pub publish_date: String,
    pub recipe_digest: String,
    pub build_id: String,
    /// Digest of the disk before the record was written.
    pub parent_digest: String,
}

/// Why a text is no record, or a record cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TattooError {
    #[error("the tattoo is {bytes} bytes; the limit is {TATTOO_BYTES_MAX}")]
    TooLong { bytes: u64 },
    #[error("the tattoo is not UTF-8 text")]
    NotText,
    #[error("line {line} of the tattoo is not `key=value`")]
    BadLine { line: usize },
    #[error("the tattoo has `{key}` twice")]
    Twice { key: String },
    #[error("the tattoo lacks `{key}`")]
    Missing { key: &'static str },
    #[error("the tattoo's format is `{found}`; this version reads `{FORMAT}`")]
    Format { found: String },
    #[error("the tattoo's `{key}` must be one line of at most {VALUE_BYTES_MAX} printable bytes")]
    BadValue { key: &'static str },
}

/// Key and field, in the order they are written in.
macro_rules! fields {
    ($tattoo:expr) => {
        [
            ("source.publisher", &$tattoo.source_publisher),
            ("source.offer", &$tattoo.source_offer),
            ("source.sku", &$tattoo.source_sku),
            ("source.version", &$tattoo.source_version),
            ("source.digest", &$tattoo.source_digest),
            ("os.version", &$tattoo.os_version),
            ("image.definition", &$tattoo.image_definition),
            ("image.version", &$tattoo.image_version),
            ("publish.date", &$tattoo.publish_date),
            ("recipe.digest", &$tattoo.recipe_digest),
            ("build.id", &$tattoo.build_id),
            ("parent.digest", &$tattoo.parent_digest),
        ]
    };
}

impl Tattoo {
    /// The text, one `key=value` per line.
    pub fn render(&self) -> Result<String, TattooError> {
        let mut text = format!("format={FORMAT}\n");
        for (key, value) in fields!(self) {
            if value.len() > VALUE_BYTES_MAX || value.contains(char::is_control) {
                return Err(TattooError::BadValue { key });
            }
            text.push_str(&format!("{key}={value}\n"));
        }
        Ok(text)
    }

    /// Reads a record. Keys that are not known are skipped: a newer version may add some.
    pub fn parse(bytes: &[u8]) -> Result<Self, TattooError> {
        let mut values = pairs(bytes)?;
        let mut take = |key: &'static str| {
            let value = values.remove(key).ok_or(TattooError::Missing { key })?;
            if value.len() > VALUE_BYTES_MAX || value.contains(char::is_control) {
                return Err(TattooError::BadValue { key });
            }
            Ok(value.to_owned())
        };
        let found = take("format")?;
        if found != FORMAT {
            return Err(TattooError::Format { found });
        }
        Ok(Tattoo {
            source_publisher: take("source.publisher")?,
            source_offer: take("source.offer")?,
            source_sku: take("source.sku")?,
            source_version: take("source.version")?,
            source_digest: take("source.digest")?,
            os_version: take("os.version")?,
            image_definition: take("image.definition")?,
            image_version: take("image.version")?,
            publish_date: take("publish.date")?,
            recipe_digest: take("recipe.digest")?,
            build_id: take("build.id")?,
            parent_digest: take("parent.digest")?,
        })
    }
}

/// Every line of a record, those with unknown keys as well, so that nothing that was added to it is overlooked. The
/// bytes must be a record; control characters of unknown keys are shown as U+FFFD.
pub fn lines(bytes: &[u8]) -> Result<BTreeMap<String, String>, TattooError> {
    Tattoo::parse(bytes)?;
    let plain = |text: &str| text.replace(char::is_control, "\u{fffd}");
    let pairs = pairs(bytes)?.into_iter();
    Ok(pairs
        .map(|(key, value)| (plain(key), plain(value)))
        .collect())
}

fn pairs(bytes: &[u8]) -> Result<BTreeMap<&str, &str>, TattooError> {
    if bytes.len() as u64 > TATTOO_BYTES_MAX {
        return Err(TattooError::TooLong {
            bytes: bytes.len() as u64,
        });
    }
    let text = std::str::from_utf8(bytes).map_err(|_| TattooError::NotText)?;
    let mut values = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let (key, value) = line
            .split_once('=')
            .ok_or(TattooError::BadLine { line: index + 1 })?;
        if values.insert(key, value).is_some() {
            return Err(TattooError::Twice {
                key: key.chars().take(VALUE_BYTES_MAX).collect(),
            });
        }
    }
    Ok(values)
}

impl fmt::Display for Tattoo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fields!(self)
            .iter()
            .try_for_each(|(key, value)| writeln!(f, "{key}={value}"))
    }
}

/// A record that could not be written into an image.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error(transparent)]
    Record(#[from] TattooError),
    #[error("find the root file system of the image")]
    Root(#[source] BuildError),
    #[error("write the tattoo into the image")]
    Write(#[from] ext4::Ext4Error),
    #[error(transparent)]
    Windows(#[from] SystemError),
    #[error("write the tattoo into the registry")]
    Hivex(#[from] ConfinedError),
    #[error("the registry does not hold the tattoo that was written into it")]
    NotKept,
    #[error("a worker thread ended before its work")]
    Worker(#[source] tokio::task::JoinError),
}

/// Writes the record into the root file system of `parent` and answers the blocks that changed.
/// `epoch` is the time that the file and its inode get.
pub fn apply(parent: &dyn ReadAt, record: &Tattoo, epoch: i64) -> Result<Changes, ApplyError> {
    let file = Change::File {
        path: TATTOO_PATH.trim_start_matches('/').into(),
        meta: Meta {
            uid: 0,
            gid: 0,
            mode: MODE,
            mtime: FileTime::from_seconds(epoch),
        },
        content: Content::Bytes(record.render()?.into_bytes()),
        links: Links::Break,
    };
    let root = RootFs::find(parent).map_err(ApplyError::Root)?;
    Ok(root.apply(parent, vec![file], epoch)?)
}

/// The record in the root file system of `disk`, or in the registry where there is Windows on it; `None` when it has none.
pub fn read(disk: &dyn ReadAt) -> Result<Option<Vec<u8>>, ApplyError> {
    let root = match RootFs::find(disk) {
        Ok(root) => root,
        Err(none) => {
            return match System::find(disk) {
                Ok(system) => windows::read(&system),
                Err(SystemError::None | SystemError::Layout(_)) => Err(ApplyError::Root(none)),
                Err(error) => Err(error.into()),
            };
        }
    };
    let path = TATTOO_PATH.trim_start_matches('/').as_bytes();
    Ok(root.read(disk, |tree| tree.read(path, TATTOO_BYTES_MAX))?)
}

/// What the Windows on a disk says that it is.
pub fn windows_version(disk: &dyn ReadAt) -> Result<Option<String>, SystemError> {
    System::find(disk)?.software()?.version()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tattoo() -> Tattoo {
        Tattoo {
            source_publisher: "Debian".into(),
            os_version: "Debian GNU/Linux 12.15 (bookworm)".into(),
            image_version: "1.0.0".into(),
            build_id: "a=b".into(),
            ..Tattoo::default()
        }
    }

    #[test]
    fn the_text_is_fixed() {
        let expected = "format=1\nsource.publisher=Debian\nsource.offer=\nsource.sku=\nsource.version=\n\
                        source.digest=\nos.version=Debian GNU/Linux 12.15 (bookworm)\nimage.definition=\n\
                        image.version=1.0.0\npublish.date=\nrecipe.digest=\nbuild.id=a=b\nparent.digest=\n";
        assert_eq!(tattoo().render().unwrap(), expected);
        assert_eq!(Tattoo::parse(expected.as_bytes()).unwrap(), tattoo());
    }

    #[test]
    fn other_texts_are_refused() {
        let good = tattoo().render().unwrap();
        let check = |text: &str, expected: TattooError| {
            assert_eq!(
                Tattoo::parse(text.as_bytes()).unwrap_err(),
                expected,
                "{text:?}"
            );
        };
        check("", TattooError::Missing { key: "format" });
        check("format=2\n", TattooError::Format { found: "2".into() });
        check(
            &good.replace("build.id=a=b\n", ""),
            TattooError::Missing { key: "build.id" },
        );
        check(
            &format!("{good}image.version=2\n"),
            TattooError::Twice {
                key: "image.version".into(),
            },
        );
        check(&format!("{good}words\n"), TattooError::BadLine { line: 14 });
        check(
            &format!("{good}x={}\n", "y".repeat(20_000)),
            TattooError::TooLong {
                bytes: good.len() as u64 + 20_003,
            },
        );
        check(
            &good.replace("1.0.0", "1.0\u{1b}[2J"),
            TattooError::BadValue {
                key: "image.version",
            },
        );
        assert_eq!(Tattoo::parse(b"\xff=1").unwrap_err(), TattooError::NotText);
        assert_eq!(
            Tattoo::parse(format!("{good}future.key=1\n").as_bytes()).unwrap(),
            tattoo()
        );
    }

    #[test]
    fn a_line_that_was_added_is_seen() {
        let good = tattoo().render().unwrap();
        let all = lines(format!("{good}x\u{7}=\u{1b}[2J\n").as_bytes()).unwrap();
        assert_eq!(all["x\u{fffd}"], "\u{fffd}[2J");
        assert_eq!((all.len(), all["format"].as_str()), (14, "1"));
    }

    #[test]
    fn a_value_cannot_add_a_line() {
        let forged = Tattoo {
            os_version: "x\nimage.version=9".into(),
            ..tattoo()
        };
        assert_eq!(
            forged.render().unwrap_err(),
            TattooError::BadValue { key: "os.version" }
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = Tattoo::parse(&bytes);
        }

        #[test]
        fn what_renders_is_read_back(value in "[^\\p{Cc}]{0,200}") {
            let tattoo = Tattoo { os_version: value, ..tattoo() };
            prop_assert_eq!(Tattoo::parse(tattoo.render().unwrap().as_bytes()).unwrap(), tattoo);
        }
    }
}
