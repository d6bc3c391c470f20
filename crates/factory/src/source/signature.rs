//! A vendor's detached OpenPGP signature of an image, or of the list of checksums that the image is in, as gpgv sees it.
//! It decides nothing but whether a key of the given ring signed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use process::{Command, ProcessError};
use serde::Deserialize;

use super::{SourceError, shelf};
use crate::fetch::Web;

const SIGNATURE_BYTES_MAX: u64 = 1 << 20;
const SUMS_BYTES_MAX: u64 = 16 << 20;
const CHECK_DEADLINE: Duration = Duration::from_secs(10 * 60);

/// Where a signature is and whose it must be.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Signature {
    url: String,
    /// File of public keys beside the description, as `gpg --export` writes it.
    keyring: String,
    /// The list of SHA-256 checksums that was signed, where the image itself was not.
    sums_url: Option<String>,
}

impl Signature {
    /// What is wrong with it as it is written.
    pub fn reason_against(&self) -> Option<String> {
        let urls = [Some(&self.url), self.sums_url.as_ref()];
        if !urls
            .into_iter()
            .flatten()
            .all(|url| url.starts_with("https://"))
        {
            return Some("the `url`s of its `signature` must be https".to_owned());
        }
        (!shelf::is_plain(&self.keyring))
            .then(|| "`keyring` is the name of a file beside the description".to_owned())
    }
}

/// An image that was fetched and is what its digest says.
pub(super) struct Signed<'a> {
    pub web: &'a Web,
    pub image: &'a Path,
    pub sha256: &'a str,
    /// Where signatures are kept beside images, so that what was fetched once can be used without a network.
    pub kept: &'a Path,
}

impl Signed<'_> {
    /// Whether a key of the ring in `beside` signed it.
    pub async fn check(&self, signature: &Signature, beside: &Path) -> Result<(), SourceError> {
        let keyring = beside.join(&signature.keyring);
        if !keyring.is_file() {
            return Err(SourceError::Provider(format!(
                "the ring of keys `{}` is not there",
                keyring.display()
            )));
        }
        let known = self
            .kept(&signature.url, "sig", SIGNATURE_BYTES_MAX)
            .await?;
        let signed = match &signature.sums_url {
            Some(url) => self.kept(url, "sums", SUMS_BYTES_MAX).await?,
            None => self.image.to_owned(),
        };
        let looked = Command::new("gpgv")
            .arg("--keyring")
            .arg(&keyring)
            .arg("--")
            .arg(&known)
            .arg(&signed)
            .deadline(CHECK_DEADLINE)
            .run()
            .await;
        let refused = |why: String| {
            // The next try asks the vendor again.
            let _ = std::fs::remove_file(&known);
            if signature.sums_url.is_some() {
                let _ = std::fs::remove_file(&signed);
            }
            SourceError::Provider(format!("the signature {} {why}", signature.url))
        };
        match looked {
            Ok(_) => {}
            Err(ProcessError::Failed { tail, .. }) => {
                return Err(refused(format!("proves nothing: {}", tail.trim())));
            }
            Err(other) => return Err(other.into()),
        }
        if signature.sums_url.is_some() {
            let text = std::fs::read(&signed).map_err(SourceError::file("read", &signed))?;
            if !names(&text, self.sha256) {
                return Err(refused(format!(
                    "is of a list that does not name {}",
                    self.sha256
                )));
            }
        }
        Ok(())
    }

    /// A small file of the vendor's, kept beside the image.
    async fn kept(&self, url: &str, ending: &str, limit: u64) -> Result<PathBuf, SourceError> {
        let path = self.kept.join(format!("{}.{ending}", self.sha256));
        if path.is_file() {
            return Ok(path);
        }
        let partial = tempfile::NamedTempFile::new_in(self.kept);
        let mut partial = partial.map_err(SourceError::file("write in", self.kept))?;
        let fetched = self
            .web
            .fetch_up_to(url, partial.as_file_mut(), limit)
            .await;
        fetched.map_err(|error| SourceError::Provider(crate::pipeline::chain(&error)))?;
        let keep = partial.persist(&path).map_err(|error| error.error);
        keep.map_err(SourceError::file("keep", &path))?;
        Ok(path)
    }
}

/// Whether a list of checksums has this one; the names of files in it are the vendor's own business.
fn names(list: &[u8], sha256: &str) -> bool {
    let lines = list.split(|byte| *byte == b'\n');
    lines
        .filter_map(|line| line.split(u8::is_ascii_whitespace).next())
        .any(|word| word.eq_ignore_ascii_case(sha256.as_bytes()))
}
