//! A file in somebody's bucket, S3 or Azure Blob, by keys that the template names. It appears there whole or not at
//! all, and replaces nothing that something else put there.

use std::fs;
use std::sync::Arc;

use async_trait::async_trait;
use jobs::{StepError, StepHandle};
use reqwest::Url;
use store::place::{Limits, Parcel, There};

use super::file::write_disk;
use super::target::{Artifact, Deliver, Subject};
use crate::pipeline::{ObjectTarget, blocking, chain};

fn fault(error: &(dyn std::error::Error + 'static)) -> StepError {
    StepError::failed("ObjectStoreFailed", chain(error))
}

#[async_trait]
impl Deliver for ObjectTarget {
    async fn deliver(&self, subject: &Subject, handle: &StepHandle) -> Result<Artifact, StepError> {
        let keys = subject.secret(&self.credential).await?;
        let parcel = Parcel::new(&self.uri, &keys, &Limits::default());
        let parcel = Arc::new(parcel.map_err(|error| fault(&error))?);
        if let Some(endpoint) = parcel.endpoint() {
            // Where this server may reach is decided in one place.
            let url = Url::parse(endpoint);
            let url =
                url.map_err(|error| StepError::failed("ObjectStoreFailed", error.to_string()))?;
            let client = subject.factory.web.client(&url).await;
            client.map_err(|error| fault(&error))?;
        }
        let mark = format!("{} {:?}", subject.digest, self.format);
        let work = subject
            .factory
            .work_folder()
            .map_err(|error| fault(&error))?;
        let (store, digest, format) = (Arc::clone(&subject.store), subject.digest, self.format);
        let (log, to) = (handle.clone(), Arc::clone(&parcel));
        let found = blocking(move || {
            match to.there(&mark).map_err(|error| fault(&error))? {
                There::Same => return Ok(true),
                There::Nothing => {}
                There::Other => {
                    let message = format!("{} exists and holds something else", to.shown());
                    return Err(StepError::failed("Conflict", message));
                }
            }
            let path = work.path().join("object");
            let file = fs::File::create_new(&path).map_err(|error| fault(&error))?;
            write_disk(&store, &digest, format, &file)?;
            log.progress(format!("sending {}", to.shown()));
            let file = fs::File::open(&path).map_err(|error| fault(&error))?;
            let sent = to.send(file, &mark).map_err(|error| fault(&error))?;
            log.log(format!("sent {sent} bytes to {}", to.shown()));
            Ok(false)
        })
        .await?;
        Ok(Artifact {
            id: None,
            uri: Some(parcel.shown().to_owned()),
            found,
        })
    }
}
