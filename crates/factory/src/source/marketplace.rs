//! The marketplace: every platform image that this server offers, from whichever provider makes it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::archive::RELEASES;
use super::described::DescribedArchives;
use super::vendor::VendorImages;
use super::{
    AptArchive, Archive, BaseInputs, BaseRequest, LogLine, Pin, PlatformImage, Product, Provider,
    SourceError, SourceLine,
};
use crate::fetch::Web;

/// All providers of one data folder.
pub struct Marketplace(Vec<Box<dyn Provider>>);

impl Marketplace {
    /// Archives keep their state below `{data}/cache`; descriptions of other archives than Debian's and vendors' images
    /// lie in `{data}/marketplace`.
    pub fn new(data: &Path, web: &Arc<Web>) -> Marketplace {
        let cache = data.join("cache");
        let mut providers: Vec<Box<dyn Provider>> = Vec::new();
        for release in &RELEASES {
            providers.push(Box::new(AptArchive::of_debian(&cache, release)));
        }
        let shelf = data.join("marketplace");
        providers.push(Box::new(DescribedArchives::new(&shelf, &cache)));
        providers.push(Box::new(VendorImages::new(shelf, Arc::clone(web))));
        Marketplace(providers)
    }

    /// Who makes the image. A vendor's folder comes last and is asked for what nobody else has.
    fn of(&self, image: &PlatformImage) -> Result<&dyn Provider, SourceError> {
        let offers = |provider: &&dyn Provider| {
            let named = |product: &Product| {
                image.is_product(&product.publisher, &product.offer, &product.sku)
            };
            provider.products().iter().any(named)
        };
        let found = self.0.iter().map(Box::as_ref).find(offers);
        found.ok_or_else(|| {
            let known = self.products().into_iter();
            let known: Vec<String> = known.map(|one| one.to_string()).collect();
            SourceError::UnknownImage {
                image: image.to_string(),
                known: known.join(", "),
            }
        })
    }
}

#[async_trait::async_trait]
impl Provider for Marketplace {
    fn products(&self) -> Vec<Product> {
        self.0
            .iter()
            .flat_map(|provider| provider.products())
            .collect()
    }

    async fn resolve(
        &self,
        image: &PlatformImage,
        mirrors: &[SourceLine],
    ) -> Result<Pin, SourceError> {
        self.of(image)?.resolve(image, mirrors).await
    }

    async fn inputs(&self, pin: &Pin, request: &BaseRequest) -> Result<BaseInputs, SourceError> {
        self.of(&pin.image)?.inputs(pin, request).await
    }

    async fn bootstrap(
        &self,
        pin: &Pin,
        request: &BaseRequest,
        work: &Path,
        log: LogLine,
    ) -> Result<PathBuf, SourceError> {
        self.of(&pin.image)?
            .bootstrap(pin, request, work, log)
            .await
    }

    async fn archive(&self, pin: &Pin) -> Result<Option<Archive>, SourceError> {
        self.of(&pin.image)?.archive(pin).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn web() -> Arc<Web> {
        Arc::new(Web::new(crate::fetch::Reach::default()).unwrap())
    }

    #[tokio::test]
    async fn every_product_has_one_provider() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("marketplace/acme/appliance/v1");
        std::fs::create_dir_all(&image).unwrap();
        std::fs::write(image.join("1.0.20260101.img"), vec![0u8; 1 << 20]).unwrap();
        std::fs::write(image.join("1.0.20260203.img"), vec![1u8; 1 << 20]).unwrap();
        std::fs::write(image.join("notes.txt"), "no version").unwrap();
        let marketplace = Marketplace::new(folder.path(), &web());
        let products = marketplace.products();
        let products: Vec<String> = products.iter().map(ToString::to_string).collect();
        assert_eq!(
            products,
            [
                "Debian:debian-12:12-gen2",
                "Debian:debian-13:13-gen2",
                "Debian:debian-11:11-gen2",
                "acme:appliance:v1",
            ]
        );
        let latest = "Acme:Appliance:v1:latest".parse().unwrap();
        let pin = marketplace.resolve(&latest, &[]).await.unwrap();
        assert_eq!(pin.image.to_string(), "acme:appliance:v1:1.0.20260203");
        assert!(pin.file.is_some());
        let raw = marketplace
            .bootstrap(
                &pin,
                &BaseRequest { disk_gib: 1 },
                folder.path(),
                std::sync::Arc::new(|_| {}),
            )
            .await
            .unwrap();
        assert_eq!(std::fs::metadata(&raw).unwrap().len(), 1 << 30);
        assert_eq!(std::fs::read(&raw).unwrap()[..2], [1, 1]);
        let unknown = "a:b:c:latest".parse().unwrap();
        let error = marketplace
            .resolve(&unknown, &[])
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("acme:appliance:v1"), "{error}");
    }

    #[tokio::test]
    async fn a_file_that_changed_is_not_built_from() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("marketplace/acme/appliance/v1");
        std::fs::create_dir_all(&image).unwrap();
        let file = image.join("1.0.20260101.img");
        std::fs::write(&file, vec![0u8; 1 << 20]).unwrap();
        let marketplace = Marketplace::new(folder.path(), &web());
        let latest = "acme:appliance:v1:latest".parse().unwrap();
        let pin = marketplace.resolve(&latest, &[]).await.unwrap();
        std::fs::write(&file, vec![2u8; 1 << 20]).unwrap();
        let made = marketplace
            .bootstrap(
                &pin,
                &BaseRequest { disk_gib: 1 },
                folder.path(),
                std::sync::Arc::new(|_| {}),
            )
            .await;
        let error = made.unwrap_err().to_string();
        assert!(error.contains("changed since it was pinned"), "{error}");
    }
}
