//! The blob folder: files that stand for VHDs in a storage account, and the URIs that name them.
//!
//! A URI of this server below `/blobs/` names a file of the folder. Others name something only at hosts that the
//! operator listed, so that a request can never have the server fetch from a place of the caller's choice. Whoever
//! reaches the server may read the files.

use std::io;
use std::path::{Component, Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderName, RANGE};
use http::request::Parts;
use http::{Method, StatusCode};
use hyper::body::Frame;
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncSeekExt as _, ReadBuf, Take};
use url::{Host, Url};

use crate::exchange::{Base, Reply};
use crate::path;

/// Where the files are on this server.
const PREFIX: &str = "blobs";
const BLOB_TYPE: HeaderName = HeaderName::from_static("x-ms-blob-type");
/// What one read puts into memory.
const CHUNK_BYTES: usize = 64 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum BlobsError {
    #[error("cannot use the blob folder {path}")]
    Folder {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
}

/// Why a URI names no file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlobError {
    #[error(
        "this server reads no VHDs: it was started without a blob folder (`blobs` in bullion.toml)"
    )]
    None,
    #[error(
        "VHDs are read from this server's blob folder, as {prefix}{{name}}, and from hosts that the operator lists \
         (`fetch_hosts` in bullion.toml)"
    )]
    Elsewhere { prefix: String },
    #[error("there is no blob '{name}'")]
    NotFound { name: String },
}

/// An opened folder.
#[derive(Debug)]
pub struct Blobs {
    folder: PathBuf,
    /// Host names of this server, besides those of the loopback.
    hosts: Vec<String>,
}

impl Blobs {
    pub fn open(folder: &Path, hosts: &[String]) -> Result<Blobs, BlobsError> {
        let folder = std::fs::canonicalize(folder).map_err(|cause| BlobsError::Folder {
            path: folder.to_path_buf(),
            cause,
        })?;
        Ok(Blobs {
            folder,
            hosts: hosts.to_vec(),
        })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The name of the blob that a URI means, if it is one of this server's and is there.
    pub fn name_of(&self, uri: &str, base: &Base, server: &str) -> Result<String, BlobError> {
        let name = self.own_name(uri, base, server)?;
        self.path(&name).map(|_| name)
    }

    /// The name of the blob that a URI means, if it is one of this server's; it need not be there.
    pub fn own_name(&self, uri: &str, base: &Base, server: &str) -> Result<String, BlobError> {
        let elsewhere = || BlobError::Elsewhere {
            prefix: format!("{}/{PREFIX}/", base.as_str()),
        };
        let url = Url::parse(uri).map_err(|_| elsewhere())?;
        let port = |text: &str| Url::parse(text).ok()?.port_or_known_default();
        let known = [base.as_str(), server];
        let own_port = known
            .iter()
            .any(|text| port(text) == url.port_or_known_default());
        let host = url.host_str().unwrap_or_default();
        let own_host = known.iter().any(|text| {
            let other = Url::parse(text).ok();
            other.as_ref().and_then(Url::host_str) == Some(host)
        }) || self.hosts.iter().any(|name| name == host)
            || is_loopback(&url);
        let segments = path::segments(url.path()).map_err(|_| elsewhere())?;
        let rest = segments
            .split_first()
            .filter(|(first, rest)| first.eq_ignore_ascii_case(PREFIX) && !rest.is_empty());
        match rest {
            Some((_, rest)) if url.scheme() == "https" && own_host && own_port => {
                Ok(rest.join("/"))
            }
            _ => Err(elsewhere()),
        }
    }

    /// The file of a blob. A link that leads out of the folder names nothing.
    pub fn path(&self, name: &str) -> Result<PathBuf, BlobError> {
        let not_found = || BlobError::NotFound {
            name: name.chars().take(200).collect(),
        };
        let relative = Path::new(name);
        let plain = relative
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        if !plain || name.is_empty() {
            return Err(not_found());
        }
        let path = std::fs::canonicalize(self.folder.join(relative)).map_err(|_| not_found())?;
        if path.starts_with(&self.folder) && path.is_file() {
            return Ok(path);
        }
        Err(not_found())
    }
}

/// Whether a URI is the web's, at a host of the list.
pub fn is_listed(uri: &str, hosts: &[String]) -> bool {
    let Ok(url) = Url::parse(uri) else {
        return false;
    };
    let host = url.host_str().unwrap_or_default();
    let host = host.trim_matches(['[', ']']);
    let listed = hosts.iter().any(|known| known.eq_ignore_ascii_case(host));
    ["http", "https"].contains(&url.scheme()) && listed
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// The blob that a request's path names; `None` leaves it to others.
pub fn route(parts: &Parts) -> Option<String> {
    let segments = path::segments(parts.uri.path()).ok()?;
    let (first, rest) = segments.split_first()?;
    (first == PREFIX && !rest.is_empty()).then(|| rest.join("/"))
}

/// Answers with the file, whole or the range that was asked for, in the way of a page blob.
pub async fn answer(blobs: Option<&Blobs>, name: &str, parts: &Parts) -> Reply {
    if parts.method != Method::GET && parts.method != Method::HEAD {
        return crate::oauth::method_not_allowed(parts, "GET, HEAD");
    }
    let Some(path) = blobs.and_then(|blobs| blobs.path(name).ok()) else {
        return Reply::new(StatusCode::NOT_FOUND, None);
    };
    match open(&path, parts).await {
        Ok(reply) => reply,
        Err(error) => {
            tracing::warn!(name, %error, "a blob cannot be read");
            Reply::new(StatusCode::NOT_FOUND, None)
        }
    }
}

async fn open(path: &Path, parts: &Parts) -> io::Result<Reply> {
    let mut file = File::open(path).await?;
    let size = file.metadata().await?.len();
    let asked = parts
        .headers
        .get(RANGE)
        .and_then(|value| value.to_str().ok());
    let range = asked.and_then(|text| byte_range(text, size));
    if asked.is_some_and(|text| text.starts_with("bytes=")) && range.is_none() {
        return Ok(Reply::new(StatusCode::RANGE_NOT_SATISFIABLE, None)
            .with(CONTENT_RANGE, &format!("bytes */{size}")));
    }
    let (status, first, length) = match range {
        Some((first, last)) => (StatusCode::PARTIAL_CONTENT, first, last - first + 1),
        None => (StatusCode::OK, 0, size),
    };
    file.seek(io::SeekFrom::Start(first)).await?;
    let mut reply = Reply::new(status, None)
        .with(CONTENT_TYPE, "application/octet-stream")
        .with(CONTENT_LENGTH, &length.to_string())
        .with(ACCEPT_RANGES, "bytes")
        .with(BLOB_TYPE, "PageBlob");
    if range.is_some() {
        let shown = format!("bytes {first}-{}/{size}", first + length - 1);
        reply = reply.with(CONTENT_RANGE, &shown);
    }
    if parts.method == Method::GET {
        reply.content = Some(Body::new(FileBody(file.take(length))));
    }
    Ok(reply)
}

/// First and last byte of a single range; several ranges at once are not served.
pub fn byte_range(text: &str, size: u64) -> Option<(u64, u64)> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let end = size.checked_sub(1)?;
    let (first, last) = match (first.trim(), last.trim()) {
        ("", last) => (size.saturating_sub(last.parse().ok()?), end),
        (first, "") => (first.parse().ok()?, end),
        (first, last) => (first.parse().ok()?, last.parse::<u64>().ok()?.min(end)),
    };
    (first <= last).then_some((first, last))
}

/// A part of a file on its way out.
struct FileBody(Take<File>);

impl axum::body::HttpBody for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut buffer = ReadBuf::new(&mut chunk);
        match Pin::new(&mut self.0).poll_read(cx, &mut buffer) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(Some(Err(error))),
            Poll::Ready(Ok(())) => {
                let read = buffer.filled().len();
                chunk.truncate(read);
                let frame = Frame::data(Bytes::from(chunk));
                Poll::Ready((read > 0).then_some(Ok(frame)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    const SERVER: &str = "https://localhost:8443";

    fn blobs(folder: &Path) -> Blobs {
        std::fs::create_dir(folder.join("in")).unwrap();
        std::fs::write(folder.join("in/tiny.vhd"), b"x").unwrap();
        std::fs::write(folder.join("secret"), b"x").unwrap();
        std::os::unix::fs::symlink(folder.join("secret"), folder.join("in/out.vhd")).unwrap();
        Blobs::open(&folder.join("in"), &["factory.example".into()]).unwrap()
    }

    #[test]
    fn only_files_of_the_folder_have_names() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = blobs(folder.path());
        let base = Base::of(&HeaderMap::new(), SERVER);
        let check = |uri: &str, fit: bool| {
            let seen = blobs.name_of(uri, &base, SERVER);
            assert_eq!(seen.is_ok(), fit, "{uri}: {seen:?}");
        };
        check("https://localhost:8443/blobs/tiny.vhd", true);
        check("https://127.0.0.1:8443/blobs/tiny.vhd", true);
        check("https://[::1]:8443/blobs//tiny.vhd?sv=1", true);
        check("https://factory.example:8443/blobs/tiny.vhd", true);
        check("https://localhost/blobs/tiny.vhd", false);
        check("http://localhost:8443/blobs/tiny.vhd", false);
        check("https://169.254.169.254:8443/blobs/tiny.vhd", false);
        check("https://localhost:8443/blobs/absent.vhd", false);
        check("https://localhost:8443/blobs/", false);
        check("https://localhost:8443/blobs", false);
        check("https://localhost:8443/blobs/out.vhd", false);
        check("https://localhost:8443/blobs/../secret", false);
        check("https://localhost:8443/blobs/%2e%2e/secret", false);
        check("https://localhost:8443/blobs/..%2fsecret", false);
        check("https://localhost:8443/other/tiny.vhd", false);
        check("file:///etc/passwd", false);
        check("/etc/passwd", false);
        check("", false);
    }

    #[test]
    fn other_hosts_are_those_of_the_list() {
        let hosts = ["account.blob.example".to_owned(), "::1".to_owned()];
        let check = |uri: &str, fit: bool| assert_eq!(is_listed(uri, &hosts), fit, "{uri}");
        check("https://account.blob.example/images/a.vhd?sv=1", true);
        check("http://Account.blob.example:10000/a.vhd", true);
        check("http://[::1]:10000/a.vhd", true);
        check("https://other.blob.example/account.blob.example", false);
        check("https://account.blob.example@other.example/a.vhd", false);
        check("ftp://account.blob.example/a.vhd", false);
        check("file:///account.blob.example", false);
        check("account.blob.example/a.vhd", false);
    }

    #[test]
    fn ranges() {
        let check = |text: &str, expected: Option<(u64, u64)>| {
            assert_eq!(byte_range(text, 1000), expected, "{text}");
        };
        check("bytes=0-99", Some((0, 99)));
        check("bytes=900-", Some((900, 999)));
        check("bytes=-100", Some((900, 999)));
        check("bytes=-5000", Some((0, 999)));
        check("bytes=990-5000", Some((990, 999)));
        check("bytes=1000-", None);
        check("bytes=5-4", None);
        check("bytes=0-1,4-5", None);
        check("bytes=", None);
        check("lines=1-2", None);
        assert_eq!(byte_range("bytes=0-", 0), None);
    }
}
