//! A page blob behind a shared access signature: what of its interface a disk needs.
//!
//! Requests after Microsoft's "Blob Storage REST API", version 2021-12-02. Pages have 512 bytes; one request writes at
//! most 4 MiB of them.

use bytes::Bytes;
use jobs::StepError;
use reqwest::header::{CONTENT_LENGTH, RANGE};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url};

use super::{fault, tries};

pub const PAGE_BYTES: u64 = 512;
/// What one request writes at most.
pub const PIECE_BYTES: usize = 4 << 20;
const API_VERSION: &str = "2021-12-02";
/// Of an error's text, what is shown.
const SHOWN_BYTES: usize = 300;
/// Says which disk the blob holds whole.
const MARK: &str = "x-ms-meta-bulliondisk";

/// A blob that may not be there yet. Its address carries a signature and is not shown.
#[derive(Clone)]
pub struct PageBlob {
    client: Client,
    url: Url,
    disk: String,
}

impl PageBlob {
    /// A blob that is to hold `disk`.
    pub fn new(client: Client, url: Url, disk: String) -> PageBlob {
        PageBlob { client, url, disk }
    }

    /// The address with the signature.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// The address without it.
    pub fn address(&self) -> Url {
        let mut url = self.url.clone();
        url.set_query(None);
        url
    }

    fn ask(&self, method: Method, comp: Option<&str>) -> RequestBuilder {
        let mut url = self.url.clone();
        if let Some(comp) = comp {
            url.query_pairs_mut().append_pair("comp", comp);
        }
        let asked = self.client.request(method, url);
        asked.header("x-ms-version", API_VERSION)
    }

    fn put(&self, comp: Option<&str>) -> RequestBuilder {
        self.ask(Method::PUT, comp).header(CONTENT_LENGTH, 0)
    }

    /// Whether the blob is there and holds all of the disk.
    pub async fn is_whole(&self, bytes: u64) -> Result<bool, StepError> {
        let what = "look at the blob";
        let answer = tries::send(what, || self.ask(Method::HEAD, None)).await?;
        if answer.status() == StatusCode::NOT_FOUND {
            return Ok(false);
        }
        let answer = good(what, answer).await?;
        let says = |name: &str| answer.headers().get(name)?.to_str().ok();
        let length = says("content-length").and_then(|text| text.parse().ok());
        Ok(length == Some(bytes) && says(MARK) == Some(&self.disk))
    }

    /// A blob of so many bytes, all zero.
    pub async fn create(&self, bytes: u64) -> Result<(), StepError> {
        let what = "make the blob";
        let asked = || {
            self.put(None)
                .header("x-ms-blob-type", "PageBlob")
                .header("x-ms-blob-content-length", bytes)
        };
        good(what, tries::send(what, asked).await?).await?;
        Ok(())
    }

    /// Writes whole pages.
    pub async fn write(&self, at: u64, pages: Vec<u8>) -> Result<(), StepError> {
        let what = "send a piece of the disk";
        let range = format!("bytes={at}-{}", at + pages.len() as u64 - 1);
        // Cheap to have again, for another try.
        let pages = Bytes::from(pages);
        let asked = || {
            self.ask(Method::PUT, Some("page"))
                .header("x-ms-page-write", "update")
                .header(RANGE, &range)
                .body(pages.clone())
        };
        good(what, tries::send(what, asked).await?).await?;
        Ok(())
    }

    /// Says that the blob is whole.
    pub async fn mark(&self) -> Result<(), StepError> {
        let what = "mark the blob as whole";
        let asked = || self.put(Some("metadata")).header(MARK, &self.disk);
        good(what, tries::send(what, asked).await?).await?;
        Ok(())
    }

    pub async fn delete(&self) -> Result<(), StepError> {
        let what = "delete the blob";
        let answer = tries::send(what, || self.ask(Method::DELETE, None)).await?;
        if answer.status() != StatusCode::NOT_FOUND {
            good(what, answer).await?;
        }
        Ok(())
    }
}

/// An answer that says yes, or what the store says instead.
async fn good(what: &str, answer: Response) -> Result<Response, StepError> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let code = answer.headers().get("x-ms-error-code").cloned();
    let code = code.as_ref().and_then(|code| code.to_str().ok());
    let why = match code {
        Some(code) => format!("the storage account answers {status} ({code})"),
        None => format!("the storage account answers {status}"),
    };
    let why: String = why.chars().take(SHOWN_BYTES).collect();
    let hint = match status {
        StatusCode::FORBIDDEN => {
            "; the signature needs the rights to read, create, write and delete, and must not have expired"
        }
        StatusCode::NOT_FOUND => "; make the container first",
        _ => "",
    };
    Err(fault(what, format!("{why}{hint}")))
}
