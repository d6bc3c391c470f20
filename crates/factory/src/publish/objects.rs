//! A file in somebody's bucket, S3 or Azure Blob, by keys that the template names. It appears there whole or not at
//! all, and replaces nothing that something else put there.

use std::fs;
use std::sync::Arc;

use async_trait::async_trait;
use jobs::{StepError, StepHandle};
use reqwest::Url;
use store::place::{Courier, Limits, Parcel, There};

use super::file::write_disk;
use super::target::{Artifact, Deliver, Subject};
use crate::fetch::Web;
use crate::pipeline::{ObjectTarget, blocking, chain};

fn fault(error: &(dyn std::error::Error + 'static)) -> StepError {
    StepError::failed("ObjectStoreFailed", chain(error))
}

/// Where this server may reach is decided in one place, and what it decided is what is reached.
async fn courier(web: &Web, endpoint: &str, limits: &Limits) -> Result<Courier, StepError> {
    let url = Url::parse(endpoint);
    let url = url.map_err(|error| StepError::failed("ObjectStoreFailed", error.to_string()))?;
    let client = web.client_within(&url, limits.request).await;
    client.map(Courier::new).map_err(|error| fault(&error))
}

#[async_trait]
impl Deliver for ObjectTarget {
    async fn deliver(&self, subject: &Subject, handle: &StepHandle) -> Result<Artifact, StepError> {
        let keys = subject.secret(&self.credential).await?;
        let (limits, endpoint) = (Limits::default(), Parcel::endpoint(&self.uri));
        let courier = match endpoint.map_err(|error| fault(&error))? {
            Some(endpoint) => Some(courier(&subject.factory.web, &endpoint, &limits).await?),
            None => None,
        };
        let parcel = Parcel::new(&self.uri, &keys, &limits, courier);
        let parcel = Arc::new(parcel.map_err(|error| fault(&error))?);
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
