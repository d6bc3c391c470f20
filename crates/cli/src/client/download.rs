//! Answers that are no JSON and too long for memory: taken piece by piece, from wherever an earlier
//! try was cut off.

use std::time::Duration;

use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG, IF_RANGE, RANGE};
use reqwest::{Response, StatusCode};
use wire::TenantId;

use super::{Client, Reply, arm_error};
use crate::error::CliError;

/// A whole download.
const DOWNLOAD_SECONDS_MAX: u64 = 7 * 24 * 3600;
/// Without a byte for so long the connection counts as broken. The first one may take as long as
/// the server needs to compress a disk.
const SILENCE_SECONDS_MAX: u64 = 300;
/// What of a refusal is read.
const REFUSAL_BYTES_MAX: usize = 64 * 1024;

/// Where a download stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct From {
    pub offset: u64,
    /// The tag of the bytes that are there; from others everything is wanted.
    pub tag: Option<String>,
}

/// A download that has begun.
pub struct Download {
    response: Response,
    operation: String,
    /// Where the first byte that comes belongs.
    pub offset: u64,
    /// The length of all of it.
    pub total: u64,
    pub tag: String,
    /// The disk in it.
    pub digest: String,
}

impl Client {
    /// Begins a download, or goes on with one. The offset of the answer says which it is.
    pub async fn download(
        &self,
        operation: &str,
        tenant: TenantId,
        path: &str,
        from: &From,
    ) -> Result<Download, CliError> {
        let url = self.url(operation, path)?;
        let token = self.token(tenant).await?;
        let mut request = self
            .http
            .get(url)
            .bearer_auth(token)
            .timeout(Duration::from_secs(DOWNLOAD_SECONDS_MAX));
        if let Some(tag) = from.tag.as_deref().filter(|_| from.offset > 0) {
            request = request
                .header(RANGE, format!("bytes={}-", from.offset))
                .header(IF_RANGE, tag);
        }
        let response = request.send().await;
        let response = response.map_err(|source| self.classify(operation, source))?;
        if !response.status().is_success() {
            return Err(self.refused(operation, response).await);
        }
        let text = |name: &str| {
            let value = response.headers().get(name)?;
            value.to_str().ok().map(str::to_owned)
        };
        let bad = |why: &str| CliError::BadAnswer {
            operation: operation.to_owned(),
            why: why.to_owned(),
        };
        let (offset, total) = match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let range = text(CONTENT_RANGE.as_str());
                range.as_deref().and_then(content_range)
            }
            _ => text(CONTENT_LENGTH.as_str()).and_then(|len| Some((0, len.parse().ok()?))),
        }
        .ok_or_else(|| bad("it does not say how long it is"))?;
        if offset != 0 && offset != from.offset {
            return Err(bad("it is another part than the one that was asked for"));
        }
        Ok(Download {
            tag: text(ETAG.as_str()).ok_or_else(|| bad("it has no tag"))?,
            digest: text(super::DISK_DIGEST).unwrap_or_default(),
            operation: operation.to_owned(),
            response,
            offset,
            total,
        })
    }

    async fn refused(&self, operation: &str, mut response: Response) -> CliError {
        let (status, headers) = (response.status(), response.headers().clone());
        let mut bytes = Vec::new();
        while let Ok(Some(chunk)) = response.chunk().await {
            if bytes.len() + chunk.len() > REFUSAL_BYTES_MAX {
                break;
            }
            bytes.extend_from_slice(&chunk);
        }
        let body = serde_json::from_slice(&bytes).unwrap_or_default();
        let reply = Reply {
            status,
            headers,
            body,
        };
        arm_error(operation, &reply)
    }
}

impl Download {
    /// The next bytes; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<impl AsRef<[u8]> + use<>>, CliError> {
        let silence = Duration::from_secs(SILENCE_SECONDS_MAX);
        let minutes = SILENCE_SECONDS_MAX / 60;
        match tokio::time::timeout(silence, self.response.chunk()).await {
            Ok(Ok(chunk)) => Ok(chunk),
            Ok(Err(source)) => Err(CliError::Transport {
                operation: self.operation.clone(),
                source,
            }),
            Err(_) => Err(CliError::Deadline {
                operation: self.operation.clone(),
                minutes,
            }),
        }
    }
}

/// The first byte and the length of all, of `bytes FIRST-LAST/ALL`.
fn content_range(text: &str) -> Option<(u64, u64)> {
    let (range, all) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, _) = range.split_once('-')?;
    Some((first.parse().ok()?, all.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_understood() {
        let check = |text: &str, expected| assert_eq!(content_range(text), expected, "{text}");
        check("bytes 5-9/100", Some((5, 100)));
        check("bytes 5-9/*", None);
        check("bytes */100", None);
        check("5-9/100", None);
    }
}
