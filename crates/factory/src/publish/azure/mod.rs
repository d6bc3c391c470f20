//! A version in a gallery of another cloud that speaks Azure's interface: the disk goes as a fixed VHD into a page
//! blob, the version is made of it there, and the blob is taken away. Azure itself and another Bullion are such clouds.
//!
//! A delivery that was cut off goes on where it was: a blob that is whole is not sent again, and a version that was
//! made of this disk is found. Must not know how the image came to be.

mod arm;
mod page_blob;
#[cfg(test)]
mod tests;
mod tries;
mod upload;

use async_trait::async_trait;
use jobs::{StepError, StepHandle};
use reqwest::Url;
use serde_json::{Value, json};
use wire::{ResourceId, VersionNumber};

use self::arm::{Arm, ServicePrincipal};
use self::page_blob::PageBlob;
use super::target::{Artifact, Deliver, Subject};
use crate::pipeline::{AzureGalleryTarget, chain};

/// The tag that says which disk a version was made of.
const DISK_TAG: &str = "bullion-disk";
const FIRST: VersionNumber = VersionNumber::new(1, 0, 0);

fn fault(what: &str, why: impl std::fmt::Display) -> StepError {
    StepError::failed("AzureGalleryFailed", format!("{what}: {why}"))
}

#[async_trait]
impl Deliver for AzureGalleryTarget {
    async fn deliver(&self, subject: &Subject, handle: &StepHandle) -> Result<Artifact, StepError> {
        let principal = ServicePrincipal::parse(&subject.secret(&self.credential).await?)?;
        let mut arm = Arm::new(&subject.factory.web, principal).await?;
        let (id, there) = self.version(&mut arm, subject).await?;
        if there.as_deref() == Some("Succeeded") {
            return Ok(self.artifact(&id, true));
        }
        let sas = subject.secret(&self.sas).await?;
        let blob = self.blob(subject, &sas).await?;
        // What ended badly there is asked for again, under its number.
        if matches!(there.as_deref(), None | Some("Failed" | "Canceled")) {
            upload::upload(&blob, subject, handle).await?;
            handle.progress("making the version");
            let made = arm.put(&id, self.body(subject, &blob)).await?;
            handle.log(format!("asked for {id}, {made}"));
        }
        let progress = |text: String| handle.progress(text);
        tokio::select! {
            ended = arm.until_ended(&id, &progress) => ended?,
            () = handle.until_cancelled() => return Err(StepError::canceled()),
        }
        // The version has its own copy. A blob that stays costs money but is no failure.
        match blob.delete().await {
            Ok(()) => handle.log(format!("{id} is there")),
            Err(error) => handle.log(format!("{id} is there; the blob stays: {error}")),
        }
        Ok(self.artifact(&id, false))
    }
}

impl AzureGalleryTarget {
    fn artifact(&self, id: &ResourceId, found: bool) -> Artifact {
        Artifact {
            id: Some(id.to_string()),
            uri: None,
            found,
        }
    }

    /// The version that is or becomes the subject's, with its state if it is there.
    async fn version(
        &self,
        arm: &mut Arm,
        subject: &Subject,
    ) -> Result<(ResourceId, Option<String>), StepError> {
        let (mut greatest, digest) = (None, subject.digest.to_string());
        for version in arm.versions(&self.definition).await? {
            let number = version["name"].as_str().and_then(|name| name.parse().ok());
            let ours = version["tags"][DISK_TAG].as_str() == Some(&digest);
            let asked = self.number.is_none() || self.number == number;
            if let (Some(number), true, true) = (number, ours, asked) {
                let state = version["properties"]["provisioningState"].as_str();
                let state = state.unwrap_or("Succeeded").to_owned();
                return Ok((self.numbered(number)?, Some(state)));
            }
            if number.is_some() && number == self.number {
                let message = format!(
                    "{} exists already and holds something else",
                    self.definition
                );
                return Err(fault("make the version", message));
            }
            greatest = greatest.max(number);
        }
        let next = match (self.number, greatest) {
            (Some(number), _) => number,
            (None, None) => FIRST,
            (None, Some(greatest)) => greatest.next_patch().ok_or_else(|| {
                fault(
                    "number the version",
                    format!("there is none after {greatest}"),
                )
            })?,
        };
        Ok((self.numbered(next)?, None))
    }

    fn numbered(&self, number: VersionNumber) -> Result<ResourceId, StepError> {
        let id = self.definition.child("versions", &number.to_string());
        id.map_err(|error| fault("name the version", error))
    }

    async fn blob(&self, subject: &Subject, sas: &str) -> Result<PageBlob, StepError> {
        let client = subject.factory.web.client(&self.container).await;
        let client = client.map_err(|error| fault("reach the storage account", chain(&error)))?;
        let mut url: Url = self.container.clone();
        let digest = subject.digest.to_string();
        let short: String = digest
            .chars()
            .filter(char::is_ascii_alphanumeric)
            .take(40)
            .collect();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty()
                .push(&format!("{}-{short}.vhd", self.run_output));
        }
        url.set_query(Some(sas.trim_start_matches('?')));
        Ok(PageBlob::new(client, url, digest))
    }

    fn body(&self, subject: &Subject, blob: &PageBlob) -> Value {
        let mut tags = json!(self.tags);
        tags[DISK_TAG] = subject.digest.to_string().into();
        let regions = self.regions.iter().map(|region| {
            let mut one = json!({
                "name": region.name.as_str(),
                "regionalReplicaCount": region.replica_count,
            });
            if let Some(kind) = &region.storage_account_type {
                one["storageAccountType"] = kind.as_str().into();
            }
            one
        });
        let source = match &self.storage_account {
            Some(account) => json!({
                "storageAccountId": account.to_string(),
                "uri": blob.address().as_str(),
            }),
            None => json!({ "uri": blob.url().as_str() }),
        };
        json!({
            "location": self.location.as_str(),
            "tags": tags,
            "properties": {
                "publishingProfile": {
                    "targetRegions": regions.collect::<Vec<_>>(),
                    "excludeFromLatest": self.exclude_from_latest,
                },
                "storageProfile": { "osDiskImage": { "source": source } },
            },
        })
    }
}
