//! Archives of other distributions than Debian, such as Ubuntu's. An operator describes one in the marketplace's folder,
//! `{publisher}/{offer}/{sku}/archive.json`, and puts the ring of keys that must have signed it beside that.
//!
//! What the description says goes into apt's configuration, so nothing in it is taken that could be more than it should.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use super::archive::{AptArchive, Distribution, Folders, OtherArchive};
use super::pin::PinFolder;
use super::{
    Archive, BaseInputs, BaseRequest, LogLine, Pin, PlatformImage, Product, Provider, SourceError,
    SourceLine, shelf,
};
use crate::build::PackageName;

const DESCRIPTION: &str = "archive.json";
/// Suites, components and packages of one description.
const WORDS_MAX: usize = 500;

/// What an operator says of an archive.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Description {
    name: String,
    number: String,
    mirror: String,
    suites: Vec<String>,
    components: Vec<String>,
    /// File of public keys beside the description, as `gpg --export` writes it.
    keyring: String,
    packages: Vec<String>,
}

impl Description {
    /// What is wrong with it.
    fn reason_against(&self) -> Option<&'static str> {
        let lists = [&self.suites, &self.components, &self.packages];
        let word = |text: &String| is_word(text, "-._/");
        match () {
            () if lists
                .iter()
                .any(|list| list.is_empty() || list.len() > WORDS_MAX) =>
            {
                Some(
                    "`suites`, `components` and `packages` must each name some, and not more than 500",
                )
            }
            () if !is_word(&self.name, "-._ ") => {
                Some("`name` is what people call it, in plain letters")
            }
            () if !self.number.split('.').all(is_number) => {
                Some("`number` is numbers with dots between them, such as 24.04")
            }
            () if !is_mirror(&self.mirror) => {
                Some("`mirror` must be an http or https address without user, query or blanks")
            }
            () if !self.suites.iter().chain(&self.components).all(word) => {
                Some("a suite or component is not a plain word")
            }
            () if !self
                .packages
                .iter()
                .all(|name| PackageName::parse(name).is_some()) =>
            {
                Some("`packages` holds what is not the name of a package")
            }
            () if !shelf::is_plain(&self.keyring) => {
                Some("`keyring` is the name of a file beside the description")
            }
            () => None,
        }
    }
}

fn is_word(text: &str, also: &str) -> bool {
    let good = |letter: char| letter.is_ascii_alphanumeric() || also.contains(letter);
    !text.is_empty() && !text.starts_with('-') && !text.contains("..") && text.chars().all(good)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// An address over HTTP, of plain letters.
pub(super) fn is_mirror(text: &str) -> bool {
    let place = text
        .strip_prefix("https://")
        .or(text.strip_prefix("http://"));
    place.is_some_and(|place| is_word(place.trim_end_matches('/'), "-._~/:"))
}

/// All archives that are described in one folder.
#[derive(Debug)]
pub(super) struct DescribedArchives {
    shelf: PathBuf,
    /// `<data>/cache`
    cache: PathBuf,
    updating: Arc<tokio::sync::Mutex<()>>,
}

impl DescribedArchives {
    pub fn new(shelf: &Path, cache: &Path) -> Self {
        DescribedArchives {
            shelf: shelf.to_owned(),
            cache: cache.to_owned(),
            updating: Arc::default(),
        }
    }

    fn all(&self) -> Vec<(Product, PathBuf)> {
        let mut all = shelf::products(&self.shelf);
        all.retain(|(_, folder)| folder.join(DESCRIPTION).is_file());
        all
    }

    /// Two distributions may have other packages under the same name and number, so nothing is shared between them.
    fn folders(&self, product: &Product) -> Folders {
        let Product {
            publisher,
            offer,
            sku,
            ..
        } = product;
        let own = self.cache.join("archives");
        let own = own.join(publisher).join(offer).join(sku);
        Folders {
            apt: own.join("apt"),
            pins: own.join("pins"),
            debs: own.join("debs"),
        }
    }

    /// Reads the description of the product, which may have changed since it was read last.
    fn archive_of(&self, image: &PlatformImage) -> Result<AptArchive, SourceError> {
        let mut all = self.all().into_iter();
        let found = all.find(|(one, _)| image.is_product(&one.publisher, &one.offer, &one.sku));
        let (product, folder) = found.ok_or_else(|| SourceError::UnknownImage {
            image: image.to_string(),
            known: String::new(),
        })?;
        let (file, folders) = (folder.join(DESCRIPTION), self.folders(&product));
        let said: Description = shelf::read(&file)?;
        let keyring = folder.join(&said.keyring);
        let bad = |reason: String| SourceError::BadDescription {
            file: file.clone(),
            reason,
        };
        if let Some(reason) = said.reason_against() {
            return Err(bad(reason.to_owned()));
        }
        if !keyring.is_file() {
            return Err(bad(format!(
                "the ring of keys `{}` is not there",
                said.keyring
            )));
        }
        // apt splits its lines there.
        if keyring.to_string_lossy().contains([' ', '\t', ',', ']']) {
            return Err(bad(
                "apt cannot be told of a ring whose path has blanks, commas or brackets".to_owned(),
            ));
        }
        let distribution = Distribution {
            product,
            name: said.name,
            number: said.number,
            suites: said.suites,
            components: said.components,
            other: Some(OtherArchive {
                mirror: said.mirror,
                keyring,
                packages: said.packages,
            }),
        };
        let updating = Arc::clone(&self.updating);
        Ok(AptArchive::of(distribution, folders, updating))
    }
}

#[async_trait::async_trait]
impl Provider for DescribedArchives {
    /// One whose description is bad is offered as well: what is wrong with it is told when it is asked for.
    fn products(&self) -> Vec<Product> {
        let mut all: Vec<Product> = self.all().into_iter().map(|(product, _)| product).collect();
        for product in &mut all {
            let pins = PinFolder::new(self.folders(product).pins);
            product.versions = pins.versions(product);
        }
        all
    }

    async fn resolve(
        &self,
        image: &PlatformImage,
        mirrors: &[SourceLine],
    ) -> Result<Pin, SourceError> {
        self.archive_of(image)?.resolve(image, mirrors).await
    }

    async fn inputs(&self, pin: &Pin, request: &BaseRequest) -> Result<BaseInputs, SourceError> {
        self.archive_of(&pin.image)?.inputs(pin, request).await
    }

    async fn bootstrap(
        &self,
        pin: &Pin,
        request: &BaseRequest,
        work: &Path,
        log: LogLine,
    ) -> Result<PathBuf, SourceError> {
        let archive = self.archive_of(&pin.image)?;
        archive.bootstrap(pin, request, work, log).await
    }

    async fn archive(&self, pin: &Pin) -> Result<Option<Archive>, SourceError> {
        self.archive_of(&pin.image)?.archive(pin).await
    }
}
