//! Advisories that the operator puts into a folder: OSV records as `.json`, Debian's OVAL files as `.xml`. The folder is
//! read again when something in it has changed. Nothing is fetched.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use provenance::{Advisories, Advisory, osv, oval};
use tokio::sync::Mutex;
use wire::{ArmError, ErrorCode};

use crate::errors;

const FILES_MAX: usize = 200_000;
/// What one file may take.
const FILE_BYTES_MAX: u64 = 512 << 20;
/// Debian's OVAL files say themselves of which release they speak.
const OVAL_DISTRIBUTION: &str = "debian";

/// The folder, and what was last read from it.
pub struct AdvisoryFolder {
    path: PathBuf,
    read: Mutex<Option<(Listing, Arc<Advisories>)>>,
}

/// Names, sizes and times of the files: what changes when one of them does.
type Listing = Vec<(PathBuf, u64, SystemTime)>;

#[derive(Debug, thiserror::Error)]
enum FolderError {
    #[error("read `{}`", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("`{}` is larger than {FILE_BYTES_MAX} bytes", .0.display())]
    TooLarge(PathBuf),
    #[error("there are more than {FILES_MAX} files in `{}`", .0.display())]
    TooMany(PathBuf),
}

impl AdvisoryFolder {
    /// The folder need not exist.
    pub fn new(path: PathBuf) -> AdvisoryFolder {
        AdvisoryFolder {
            path,
            read: Mutex::default(),
        }
    }

    /// All advisories of that name. One that no feed knows is an error: silence would mean that nothing is affected.
    pub async fn named(&self, name: &str) -> Result<Vec<Advisory>, ArmError> {
        let all = self.all().await?;
        let found: Vec<Advisory> = all.named(name).cloned().collect();
        if !found.is_empty() {
            return Ok(found);
        }
        let message = format!(
            "No advisory is called '{name}' among the {} that are known; put feeds (OSV as .json, OVAL as .xml) into \
             '{}' on the server, or ask for a package and a version.",
            all.len(),
            self.path.display()
        );
        Err(ArmError::new(ErrorCode::NotFound, message))
    }

    async fn all(&self) -> Result<Arc<Advisories>, ArmError> {
        let mut read = self.read.lock().await;
        let path = self.path.clone();
        let known = read.clone();
        let looked = tokio::task::spawn_blocking(move || look(&path, known)).await;
        let looked = looked.map_err(|error| errors::internal("reading advisories", &error))?;
        let fresh = looked.map_err(|error| errors::internal("reading advisories", &error))?;
        let all = Arc::clone(&fresh.1);
        *read = Some(fresh);
        Ok(all)
    }
}

type Known = (Listing, Arc<Advisories>);

fn look(folder: &Path, known: Option<Known>) -> Result<Known, FolderError> {
    let listing = list(folder)?;
    if let Some(known) = known.filter(|(before, _)| *before == listing) {
        return Ok(known);
    }
    let mut all = Vec::new();
    for (path, bytes, _) in &listing {
        if *bytes > FILE_BYTES_MAX {
            return Err(FolderError::TooLarge(path.clone()));
        }
        let text = std::fs::read(path).map_err(|source| FolderError::Read {
            path: path.clone(),
            source,
        })?;
        let oval = path.extension().is_some_and(|extension| extension == "xml");
        let parsed = match oval {
            true => oval::parse(&text, OVAL_DISTRIBUTION, None),
            false => osv::parse(&text).map(|one| one.into_iter().collect()),
        };
        match parsed {
            Ok(found) => all.extend(found),
            // One that cannot be read must not hide the others.
            Err(error) => tracing::warn!(path = %path.display(), %error, "an advisory is left out"),
        }
    }
    tracing::info!(advisories = all.len(), "advisories were read");
    Ok((listing, Arc::new(Advisories::new(all))))
}

fn list(folder: &Path) -> Result<Listing, FolderError> {
    let fail = |path: &Path| {
        let path = path.to_owned();
        move |source| FolderError::Read { path, source }
    };
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(fail(folder))?,
    };
    let mut listing = Vec::new();
    for entry in entries {
        let path = entry.map_err(fail(folder))?.path();
        if !path
            .extension()
            .is_some_and(|kind| kind == "json" || kind == "xml")
        {
            continue;
        }
        if listing.len() == FILES_MAX {
            return Err(FolderError::TooMany(folder.to_owned()));
        }
        let meta = std::fs::metadata(&path).map_err(fail(&path))?;
        let changed = meta.modified().map_err(fail(&path))?;
        listing.push((path, meta.len(), changed));
    }
    listing.sort();
    Ok(listing)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OSV: &str = r#"{"id": "CVE-2024-1", "affected": [{"package": {"ecosystem": "Debian:12", "name": "zlib"},
        "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}]}]}]}"#;

    #[tokio::test]
    async fn the_folder_is_read_again_when_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("advisories");
        let advisories = AdvisoryFolder::new(path.clone());
        let unknown = advisories.named("CVE-2024-1").await.unwrap_err();
        assert!(
            unknown.to_string().contains("0 that are known"),
            "{unknown}"
        );

        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("one.json"), OSV).unwrap();
        std::fs::write(path.join("broken.json"), "{").unwrap();
        std::fs::write(path.join("README"), "no advisory").unwrap();
        assert_eq!(advisories.named("cve-2024-1").await.unwrap().len(), 1);

        std::fs::write(path.join("two.json"), OSV).unwrap();
        assert_eq!(advisories.named("CVE-2024-1").await.unwrap().len(), 2);
    }
}
