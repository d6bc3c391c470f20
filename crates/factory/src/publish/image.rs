//! A managed image: a resource in one region, whose store holds the disk.

use std::sync::Arc;

use access::Action;
use async_trait::async_trait;
use catalog::{CatalogError, Draft, Precondition};
use jobs::{StepError, StepHandle};
use serde_json::{Value, json};
use wire::ProvisioningState;

use super::target::{Artifact, Deliver, Subject};
use crate::pipeline::{ImageTarget, blocking, failed, replicate_to};

const IMAGE_WRITE: &str = "Microsoft.Compute/images/write";
const GIB: u64 = 1 << 30;

#[async_trait]
impl Deliver for ImageTarget {
    async fn deliver(&self, subject: &Subject, handle: &StepHandle) -> Result<Artifact, StepError> {
        let (factory, location) = (Arc::clone(&subject.factory), self.location.clone());
        let (home, digest) = (subject.home.clone(), subject.digest);
        blocking(move || {
            let stores = factory.regions().stores(&location);
            let stores = stores.map_err(|error| failed("RegionNotFound", &error))?;
            for (_, store) in stores {
                replicate_to(&factory, &store, &home, &digest)?;
            }
            Ok(())
        })
        .await?;
        let catalog = &subject.factory.catalog;
        let permit = handle
            .permit(&Action::new(IMAGE_WRITE), &self.image)
            .await?;
        let id = Some(self.image.to_string());
        let old = match catalog.get(&permit.to_read_own()).await {
            Ok(old) => Some(old),
            Err(CatalogError::NotFound { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        if let Some(old) = &old {
            let has = old.properties.pointer("/bullion/diskDigest");
            if has.and_then(|has| has.as_str()) == Some(&subject.digest.to_string()) {
                return Ok(Artifact {
                    id,
                    uri: None,
                    found: true,
                });
            }
        }
        let mut draft = Draft::new(properties(subject))
            .location(self.location.as_str())
            .tags(self.tags.clone());
        draft.state = ProvisioningState::Succeeded;
        let factory = &subject.factory;
        super::ask(&*factory.ask, subject.tenant, &self.image, &draft).await?;
        // Like Azure's builder, a run replaces the image that an earlier one made.
        let unmoved = match &old {
            Some(old) => Precondition::Match(old.etag.clone()),
            None => Precondition::Absent,
        };
        catalog.put(&permit, draft, unmoved).await?;
        handle.log(format!("made the managed image {}", self.image));
        Ok(Artifact {
            id,
            uri: None,
            found: false,
        })
    }
}

/// A managed image of the subject's disk, as Azure shows one.
fn properties(subject: &Subject) -> Value {
    let state = match subject.generalized {
        true => "Generalized",
        false => "Specialized",
    };
    json!({
        "hyperVGeneration": subject.generation,
        "storageProfile": {
            "osDisk": {
                "osType": subject.os_type,
                "osState": state,
                "diskSizeGB": subject.logical_bytes.div_ceil(GIB),
                "caching": "ReadWrite",
                "storageAccountType": "Standard_LRS",
            },
            "dataDisks": [],
            "zoneResilient": false,
        },
        "bullion": subject.facts,
    })
}
