//! Where a store is, as people write it: a path, `file://`, `s3://`, `az://` or `gs://`.
//!
//! An address holds no secret: it is shown in messages, and a command line can be read by everybody
//! on the host. Keys come from the environment, or from a file that the address names.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::bucket::Bucket;
use super::named::Named;
use super::object::{Limits, ObjectPlace};
use super::{Folder, Place};

/// A folder, or a part of an object store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum At {
    Folder(PathBuf),
    Bucket(Bucket),
}

/// Why a text is no address of a store.
#[derive(Debug, thiserror::Error)]
pub enum AtError {
    #[error("`{0}` names no folder and no bucket")]
    Empty(String),
    #[error("stores are in folders, s3://, az:// and gs://, not in `{0}://`")]
    Scheme(String),
    #[error("`file://` is followed by an absolute path, as in file:///srv/images")]
    RelativeFile,
    #[error("`{0}` is not a word that a prefix may have: use a-z A-Z 0-9 . _ -")]
    Prefix(String),
    #[error("an address has no setting `{0}`")]
    Setting(String),
    #[error(
        "a key has no place in an address: set it in the environment, or name a file with `credentials=FILE`"
    )]
    Secret,
    #[error("the address cannot be read")]
    Url(#[from] url::ParseError),
}

impl At {
    /// Takes the place for this process. `WouldBlock` says that another process has it.
    pub fn open(&self) -> io::Result<Box<dyn Place>> {
        self.open_with(Limits::default())
    }

    /// The same with other limits for requests to object stores.
    pub fn open_with(&self, limits: Limits) -> io::Result<Box<dyn Place>> {
        let name = self.to_string();
        match self {
            At::Folder(path) => Ok(Box::new(Named::new(name, Folder::open(path)?))),
            At::Bucket(bucket) => {
                let place = ObjectPlace::open(bucket.connect(&limits)?, &bucket.prefix, limits);
                let place = place.map_err(|error| super::named::named(&name, error))?;
                if !place.honours_conditions() {
                    tracing::info!(
                        store = name,
                        "this object store ignores conditional writes; nothing depends on them, but keep \
                         other writers away"
                    );
                }
                Ok(Box::new(Named::new(name, place)))
            }
        }
    }

    /// A part of this place: a folder in the folder, a longer prefix. Words of `a-z 0-9 -`, with `/`.
    pub fn within(&self, part: &str) -> At {
        match self {
            At::Folder(path) => At::Folder(path.join(part)),
            At::Bucket(bucket) => At::Bucket(bucket.within(part)),
        }
    }

    pub fn folder(&self) -> Option<&Path> {
        match self {
            At::Folder(path) => Some(path),
            At::Bucket(_) => None,
        }
    }
}

impl FromStr for At {
    type Err = AtError;

    fn from_str(text: &str) -> Result<At, AtError> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return match text.is_empty() {
                true => Err(AtError::Empty(text.to_owned())),
                false => Ok(At::Folder(PathBuf::from(text))),
            };
        };
        match scheme {
            "file" if rest.starts_with('/') => Ok(At::Folder(PathBuf::from(rest))),
            "file" => Err(AtError::RelativeFile),
            _ => Bucket::parse(scheme, text).map(At::Bucket),
        }
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            At::Folder(path) => path.display().fmt(f),
            At::Bucket(bucket) => bucket.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<&str, &str>) {
        match (text.parse::<At>(), expected) {
            (Ok(at), Ok(shown)) => assert_eq!(at.to_string(), shown, "{text}"),
            (Err(error), Err(part)) => {
                assert!(error.to_string().contains(part), "{text}: {error}");
            }
            (outcome, _) => panic!("{text}: {outcome:?}"),
        }
    }

    #[test]
    fn addresses_are_read_and_shown_without_their_settings() {
        check("/srv/images", Ok("/srv/images"));
        check("images", Ok("images"));
        check("file:///srv/images", Ok("/srv/images"));
        check("s3://golden", Ok("s3://golden"));
        check("s3://golden/north/1/", Ok("s3://golden/north/1"));
        check(
            "s3://golden/a?endpoint=http://127.0.0.1:9000&region=garage",
            Ok("s3://golden/a"),
        );
        check("az://container/a", Ok("az://container/a"));
        check("gs://bucket/a", Ok("gs://bucket/a"));
    }

    #[test]
    fn what_is_no_address_is_refused_with_what_would_be() {
        check("", Err("names no folder"));
        check("ftp://host/a", Err("not in `ftp://`"));
        check("file://srv", Err("absolute path"));
        check("s3:///a", Err("names no folder and no bucket"));
        check("s3://b/../c", Ok("s3://b/c"));
        check("s3://b/a%2Fb", Err("not a word"));
        check("s3://b/.hidden", Err("not a word"));
        check("s3://b?colour=red", Err("no setting `colour`"));
        check("s3://b?secret_access_key=x", Err("credentials=FILE"));
        check("s3://me:secret@b/a", Err("credentials=FILE"));
    }
}
