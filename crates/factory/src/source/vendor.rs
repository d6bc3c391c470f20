//! Vendors' cloud images from a folder: `{publisher}/{offer}/{sku}/{version}.{anything}`, a raw disk, qcow2, VHD, VHDX
//! or VMDK, whole or packed by xz or zstd. The content tells the format. A `{version}.json` with `url` and `sha256`
//! stands for an image that is fetched when it is first built from, and may ask for the vendor's signature.
//!
//! What a vendor sends is foreign: it is read as bytes, and never mounted by the host.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use disk::ReadAt;
use disk::export::{Options, export};
use disk::image::{Format, Image, Limits};
use process::Command;
use serde::Deserialize;
use store::FileDisk;
use uuid::Uuid;
use wire::compute::OsType;

use super::signature::{Signature, Signed};
use super::{
    Archive, BaseInputs, BaseRequest, FileState, LogLine, Pin, PlatformImage, Product, Provider,
    SourceError, SourceLine, shelf,
};
use crate::fetch::{Web, fetch_all, is_sha256, sha256_of};
use crate::import::{DISK_BYTES_MAX, Padded, holds_windows};
use crate::publish::SparseFile;

/// Raised whenever equal inputs would give other bytes.
const RECIPE: &str = "vendor 1";
const UNPACK_DEADLINE: Duration = Duration::from_secs(30 * 60);
const GIB: u64 = 1 << 30;

/// The images of one folder.
#[derive(Debug)]
pub struct VendorImages {
    folder: PathBuf,
    web: Arc<Web>,
}

/// An image that is somewhere else.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Description {
    url: String,
    sha256: String,
    signature: Option<Signature>,
    os_type: Option<OsType>,
}

/// Numbers between dots, compared as numbers.
type Version = Vec<u64>;

fn version_of(name: &str) -> Option<Version> {
    let parts: Option<Version> = name.split('.').map(|part| part.parse().ok()).collect();
    parts.filter(|parts| parts.len() == 3)
}

/// The versions of a product's folder and the file of each.
fn versions(path: &Path) -> BTreeMap<Version, (String, PathBuf)> {
    let mut found = BTreeMap::new();
    for (name, file) in shelf::files(path) {
        let parts: Vec<&str> = name.splitn(4, '.').collect();
        let [major, minor, patch, _] = parts.as_slice() else {
            continue;
        };
        let version = format!("{major}.{minor}.{patch}");
        if let Some(number) = version_of(&version) {
            found.insert(number, (version, file));
        }
    }
    found
}

impl VendorImages {
    pub fn new(folder: PathBuf, web: Arc<Web>) -> VendorImages {
        VendorImages { folder, web }
    }

    /// The product with its folder.
    fn find(&self, image: &PlatformImage) -> Option<(Product, PathBuf)> {
        let mut all = self.all().into_iter();
        all.find(|(product, _)| image.is_product(&product.publisher, &product.offer, &product.sku))
    }

    fn all(&self) -> Vec<(Product, PathBuf)> {
        let mut products = shelf::products(&self.folder);
        for (product, path) in &mut products {
            let versions = versions(path).into_values();
            product.versions = versions.map(|(version, _)| version).collect();
        }
        products.retain(|(product, _)| !product.versions.is_empty());
        products
    }

    /// The signature that a pinned image must have, and the folder of its description.
    fn signature(&self, pin: &Pin) -> Result<Option<(Signature, PathBuf)>, SourceError> {
        let found = self.find(&pin.image).and_then(|(_, folder)| {
            let number = version_of(&pin.image.version)?;
            let (_, path) = versions(&folder).remove(&number)?;
            Some((folder, path))
        });
        // A pin outlives its description; what was fetched is then named by its digest alone.
        let Some((folder, path)) = found.filter(|(_, path)| is_description(path)) else {
            return Ok(None);
        };
        let (_, signature) = described(&path)?;
        Ok(signature.map(|signature| (signature, folder)))
    }

    /// The file of a pin, fetched if it is not here, and still what was pinned.
    async fn file(&self, pin: &Pin, log: &LogLine) -> Result<PathBuf, SourceError> {
        let bad = |reason: String| SourceError::BadPin {
            state: pin.state.to_string(),
            reason,
        };
        let file = pin
            .file
            .as_ref()
            .ok_or_else(|| bad("it names no file".to_owned()))?;
        if file.from.starts_with("https://") {
            let folder = self.folder.join(".fetched");
            let remote = crate::fetch::Remote {
                uri: file.from.clone(),
                sha256: file.sha256.clone(),
            };
            let fetched = fetch_all(&*self.web, &folder, &[remote], &|_| {}).await;
            fetched.map_err(|error| SourceError::Provider(crate::pipeline::chain(&error)))?;
            let image = folder.join(&file.sha256);
            if let Some((signature, beside)) = self.signature(pin)? {
                let of = Signed {
                    web: &self.web,
                    image: &image,
                    sha256: &file.sha256,
                    kept: &folder,
                };
                of.check(&signature, &beside).await?;
                log("the vendor's signature is good");
            }
            return Ok(image);
        }
        let path = self.folder.join(&file.from);
        let hashed = path.clone();
        let found = tokio::task::spawn_blocking(move || sha256_of(&hashed)).await;
        let found = found.map_err(SourceError::Worker)?;
        let found = found.map_err(SourceError::file("read", &path))?;
        match found == file.sha256 {
            true => Ok(path),
            false => Err(bad(format!(
                "{} has changed since it was pinned",
                file.from
            ))),
        }
    }
}

/// Unpacks what is packed, into the work folder; anything else is answered as it is.
async fn unpacked(path: &Path, work: &Path) -> Result<PathBuf, SourceError> {
    let mut magic = [0u8; 6];
    let mut file = fs::File::open(path).map_err(SourceError::file("open", path))?;
    let read = file
        .read(&mut magic)
        .map_err(SourceError::file("read", path))?;
    let (program, extension) = match &magic[..read] {
        [0xfd, b'7', b'z', b'X', b'Z', 0] => ("xz", "xz"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => ("zstd", "zst"),
        _ => return Ok(path.to_owned()),
    };
    let packed = work.join(format!("image.{extension}"));
    fs::copy(path, &packed).map_err(SourceError::file("copy", path))?;
    Command::new(program)
        .args(["-d", "-q"])
        .arg(&packed)
        .deadline(UNPACK_DEADLINE)
        .run()
        .await?;
    Ok(work.join("image"))
}

#[async_trait::async_trait]
impl Provider for VendorImages {
    fn products(&self) -> Vec<Product> {
        self.all().into_iter().map(|(product, _)| product).collect()
    }

    async fn resolve(
        &self,
        image: &PlatformImage,
        _mirrors: &[SourceLine],
    ) -> Result<Pin, SourceError> {
        let (product, folder) = self.find(image).ok_or_else(|| SourceError::UnknownImage {
            image: image.to_string(),
            known: String::new(),
        })?;
        let mut known = versions(&folder);
        let found = match image.is_latest() {
            true => known.pop_last().map(|(_, found)| found),
            false => version_of(&image.version).and_then(|version| known.remove(&version)),
        };
        let (version, path) = found.ok_or_else(|| SourceError::NotPinned {
            product: product.to_string(),
            version: image.version.clone(),
            known: product.versions.join(", "),
        })?;
        let state = match is_description(&path) {
            true => described(&path)?.0,
            false => {
                let hashed = path.clone();
                let looked = tokio::task::spawn_blocking(move || {
                    let windows = holds_windows(&hashed).then_some(OsType::Windows);
                    sha256_of(&hashed).map(|sha256| (sha256, windows))
                });
                let looked = looked.await.map_err(SourceError::Worker)?;
                let (sha256, os_type) = looked.map_err(SourceError::file("read", &path))?;
                let from = path.strip_prefix(&self.folder).unwrap_or(&path);
                FileState {
                    sha256,
                    from: from.to_string_lossy().into_owned(),
                    os_type,
                }
            }
        };
        let modified = fs::metadata(&path).and_then(|meta| meta.modified());
        let modified = modified.map_err(SourceError::file("look at", &path))?;
        let epoch = jiff::Timestamp::try_from(modified)
            .unwrap_or_default()
            .as_second();
        let os_version = format!("{} {} {version}", product.publisher, product.offer);
        let pinned = PlatformImage {
            publisher: product.publisher,
            offer: product.offer,
            sku: product.sku,
            version,
        };
        Ok(Pin::of_file(pinned, os_version, epoch, state))
    }

    async fn inputs(&self, pin: &Pin, request: &BaseRequest) -> Result<BaseInputs, SourceError> {
        Ok(vec![
            ("recipe".to_owned(), RECIPE.to_owned()),
            ("state".to_owned(), pin.state.to_string()),
            ("disk-gib".to_owned(), request.disk_gib.to_string()),
        ])
    }

    async fn bootstrap(
        &self,
        pin: &Pin,
        request: &BaseRequest,
        work: &Path,
        log: LogLine,
    ) -> Result<PathBuf, SourceError> {
        let path = self.file(pin, &log).await?;
        log("reading the vendor's image");
        let image = unpacked(&path, work).await?;
        let (raw, wanted) = (work.join("disk.raw"), u64::from(request.disk_gib) * GIB);
        let target = raw.clone();
        let written = tokio::task::spawn_blocking(move || write_raw(&image, &target, wanted));
        written.await.map_err(SourceError::Worker)??;
        Ok(raw)
    }

    async fn archive(&self, _pin: &Pin) -> Result<Option<Archive>, SourceError> {
        Ok(None)
    }
}

fn is_description(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "json")
}

fn described(path: &Path) -> Result<(FileState, Option<Signature>), SourceError> {
    let bad = |reason: String| SourceError::BadDescription {
        file: path.to_owned(),
        reason,
    };
    let said: Description = shelf::read(path)?;
    if !said.url.starts_with("https://") || !is_sha256(&said.sha256) {
        return Err(bad("it needs an https `url` and a `sha256`".to_owned()));
    }
    if let Some(reason) = said.signature.as_ref().and_then(Signature::reason_against) {
        return Err(bad(reason));
    }
    let state = FileState {
        sha256: said.sha256.to_ascii_lowercase(),
        from: said.url,
        os_type: said.os_type,
    };
    Ok((state, said.signature))
}

/// The disk in the image as a raw file, as large as is wanted and never smaller than it is.
fn write_raw(image: &Path, raw: &Path, wanted: u64) -> Result<(), SourceError> {
    let unreadable = |error: &(dyn std::error::Error + 'static)| {
        SourceError::Provider(format!(
            "the vendor's image: {}",
            crate::pipeline::chain(error)
        ))
    };
    let file = FileDisk::open(image).map_err(SourceError::file("open", image))?;
    let limits = Limits {
        max_bytes: DISK_BYTES_MAX,
    };
    let disk = Image::open(file, limits).map_err(|error| unreadable(&error))?;
    if disk.size() > wanted {
        return Err(SourceError::Provider(format!(
            "the image's disk has {} bytes; set vmProfile.osDiskSizeGB to {} or more",
            disk.size(),
            disk.size().div_ceil(GIB)
        )));
    }
    let out = fs::File::create(raw).map_err(SourceError::file("make", raw))?;
    let options = Options {
        format: Format::Raw,
        id: Uuid::nil(),
    };
    let mut sink = SparseFile::new(&out);
    let padded = Padded::new(&disk, wanted);
    export(&padded, &options, &mut sink, &|_| true).map_err(|error| unreadable(&error))?;
    sink.end().map_err(SourceError::file("write", raw))
}
