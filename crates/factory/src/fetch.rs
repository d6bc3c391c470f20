//! Contents that a template names by URI: fetched once, kept by their SHA-256, and found there by every later run.
//!
//! Where a server may fetch from is the operator's to say: addresses of the server's own networks are refused unless
//! their host is listed. Must not know what a content is for.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use disk::export::Sink;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::build::FileContent;
use crate::source::hex;

/// One content.
pub const CONTENT_BYTES_MAX: u64 = 4 << 30;
const REDIRECTS_MAX: usize = 5;
/// So many zeros are a hole in a disk's file.
const HOLE_BYTES: usize = 4096;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Without a byte for this long, a fetch is given up.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// A content to fetch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remote {
    pub uri: String,
    /// What it must be; empty where nobody says.
    pub sha256: String,
}

impl Remote {
    /// The URI for people: what follows a `?` may be a signature.
    pub fn shown(&self) -> String {
        without_query(&self.uri)
    }
}

/// Whether the text is a SHA-256 in hexadecimal digits.
pub fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The SHA-256 of a file.
pub fn sha256_of(path: &Path) -> std::io::Result<String> {
    use std::io::Read;
    let (mut file, mut hasher) = (std::fs::File::open(path)?, Sha256::new());
    let mut piece = vec![0; 1 << 20];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(hex(&hasher.finalize())),
            length => hasher.update(&piece[..length]),
        }
    }
}

/// Why a content is not there.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("`{uri}` is not an address to fetch from")]
    BadUri { uri: String },
    #[error(
        "{host} is in a network of the server's own; the operator can allow it with `fetch_hosts` in bullion.toml"
    )]
    Refused { host: String },
    #[error("fetch {uri}")]
    Http {
        uri: String,
        #[source]
        source: reqwest::Error,
    },
    #[error("{uri} answers {status}")]
    Status { uri: String, status: u16 },
    #[error("{uri} is larger than {bytes_max} bytes")]
    TooLarge { uri: String, bytes_max: u64 },
    #[error("{uri} has SHA-256 {found}, not {expected}")]
    Changed {
        uri: String,
        found: String,
        expected: String,
    },
    #[error("`{}` holds no certificates (`fetch_ca` in bullion.toml)", path.display())]
    Certificates {
        path: PathBuf,
        #[source]
        source: reqwest::Error,
    },
    #[error("{operation} `{}`", path.display())]
    File {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

/// What was fetched for a run: the SHA-256 of each URI, and where contents are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetched {
    /// By URI; with a query, since that may be what tells two contents apart.
    pub known: BTreeMap<String, String>,
    #[serde(skip)]
    pub folder: PathBuf,
}

impl Fetched {
    /// Where the content is, if it was fetched and still is what was asked for.
    pub fn content(&self, remote: &Remote) -> Option<FileContent> {
        let sha256 = self.known.get(&remote.uri)?;
        let same = remote.sha256.is_empty() || remote.sha256 == *sha256;
        let path = self.folder.join(sha256);
        (same && path.is_file()).then(|| FileContent::Kept {
            path,
            sha256: sha256.clone(),
        })
    }

    /// Whether everything is there.
    pub fn holds(&self, remotes: &[Remote]) -> bool {
        remotes.iter().all(|remote| self.content(remote).is_some())
    }
}

/// Brings contents here.
#[async_trait]
pub trait Fetch: Send + Sync {
    /// Writes the content to `out` and answers its SHA-256.
    async fn fetch(&self, uri: &str, out: &mut std::fs::File) -> Result<String, FetchError>;
}

/// Has everything fetched that is not kept yet. What is named with its SHA-256 and kept is not asked for again;
/// what is named without one is, since it may have changed.
pub async fn fetch_all(
    fetch: &dyn Fetch,
    folder: &Path,
    remotes: &[Remote],
    log: &(dyn Fn(&str) + Send + Sync),
) -> Result<Fetched, FetchError> {
    let file = |operation, path: &Path| {
        let path = path.to_owned();
        move |source| FetchError::File {
            operation,
            path,
            source,
        }
    };
    std::fs::create_dir_all(folder).map_err(file("make", folder))?;
    let mut fetched = Fetched {
        known: BTreeMap::new(),
        folder: folder.to_owned(),
    };
    for remote in remotes {
        let kept = !remote.sha256.is_empty() && folder.join(&remote.sha256).is_file();
        if kept {
            fetched
                .known
                .insert(remote.uri.clone(), remote.sha256.clone());
            continue;
        }
        let mut partial =
            tempfile::NamedTempFile::new_in(folder).map_err(file("write in", folder))?;
        let found = fetch.fetch(&remote.uri, partial.as_file_mut()).await?;
        if !remote.sha256.is_empty() && remote.sha256 != found {
            return Err(FetchError::Changed {
                uri: remote.shown(),
                found,
                expected: remote.sha256.clone(),
            });
        }
        log(&format!("fetched {}, SHA-256 {found}", remote.shown()));
        let target = folder.join(&found);
        partial
            .persist(&target)
            .map_err(|error| file("keep", &target)(error.error))?;
        fetched.known.insert(remote.uri.clone(), found);
    }
    Ok(fetched)
}

/// What the operator says of other hosts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reach {
    /// Hosts that may be in networks of the server's own.
    pub hosts: Vec<String>,
    /// Certificates, PEM, that are trusted besides the host's own.
    pub ca: Option<PathBuf>,
}

/// Fetches by HTTP.
#[derive(Debug)]
pub struct Web {
    hosts: Vec<String>,
    ca: Vec<reqwest::Certificate>,
}

impl Web {
    pub fn new(reach: Reach) -> Result<Web, FetchError> {
        let ca = match &reach.ca {
            Some(path) => certificates(path)?,
            None => Vec::new(),
        };
        let hosts = reach.hosts;
        Ok(Web { hosts, ca })
    }

    /// A client that reaches only what it may, for one address: names are looked up once, here, so that they cannot
    /// mean something else afterwards.
    pub(crate) async fn client(&self, url: &reqwest::Url) -> Result<reqwest::Client, FetchError> {
        self.client_within(url, READ_TIMEOUT).await
    }

    /// The same with another limit to how long an answer may be waited for.
    pub(crate) async fn client_within(
        &self,
        url: &reqwest::Url,
        patience: Duration,
    ) -> Result<reqwest::Client, FetchError> {
        let bad = || FetchError::BadUri {
            uri: url.to_string().chars().take(200).collect(),
        };
        let host = url.host_str().ok_or_else(bad)?;
        let port = url.port_or_known_default().ok_or_else(bad)?;
        let plain = host.trim_matches(['[', ']']);
        let listed = self
            .hosts
            .iter()
            .any(|known| known.eq_ignore_ascii_case(plain));
        let refused = || FetchError::Refused {
            host: plain.to_owned(),
        };
        let mut builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(patience)
            .tls_certs_merge(self.ca.clone());
        if !listed {
            let found = tokio::net::lookup_host((plain, port)).await;
            let addresses: Vec<_> = found.map_err(|_| bad())?.collect();
            if addresses.is_empty() || !addresses.iter().all(|address| is_public(address.ip())) {
                return Err(refused());
            }
            builder = builder.no_proxy().resolve_to_addrs(plain, &addresses);
        }
        builder.build().map_err(|source| FetchError::Http {
            uri: plain.to_owned(),
            source,
        })
    }
}

impl Web {
    /// Writes a disk's file to `out`; what is zero becomes holes. Of formats it knows nothing.
    pub(crate) async fn fetch_disk(
        &self,
        uri: &str,
        out: &std::fs::File,
        bytes_max: u64,
    ) -> Result<(), FetchError> {
        let shown = without_query(uri);
        let file = |source| FetchError::File {
            operation: "write",
            path: PathBuf::from(&shown),
            source,
        };
        let mut answer = self.get(uri).await?;
        let mut sink = crate::publish::SparseFile::new(out);
        let mut length = 0;
        while let Some(chunk) = chunk(&mut answer, &shown).await? {
            length += chunk.len() as u64;
            if length > bytes_max {
                let uri = shown;
                return Err(FetchError::TooLarge { uri, bytes_max });
            }
            for piece in chunk.chunks(HOLE_BYTES) {
                let put = match piece.iter().all(|byte| *byte == 0) {
                    true => sink.zeros(piece.len() as u64),
                    false => sink.bytes(piece),
                };
                put.map_err(file)?;
            }
        }
        sink.end().map_err(file)
    }

    /// The answer that holds the content, after redirections.
    async fn get(&self, uri: &str) -> Result<reqwest::Response, FetchError> {
        let shown = without_query(uri);
        let http = |source: reqwest::Error| FetchError::Http {
            uri: shown.clone(),
            source: source.without_url(),
        };
        let bad = || FetchError::BadUri { uri: shown.clone() };
        let mut url = reqwest::Url::parse(uri).map_err(|_| bad())?;
        for _ in 0..=REDIRECTS_MAX {
            if !["http", "https"].contains(&url.scheme()) {
                return Err(bad());
            }
            let client = self.client(&url).await?;
            let answer = client.get(url.clone()).send().await.map_err(http)?;
            if answer.status().is_redirection() {
                let next = answer.headers().get("location");
                let next = next.and_then(|next| next.to_str().ok());
                let next = next.and_then(|next| url.join(next).ok());
                url = next.ok_or_else(bad)?;
                continue;
            }
            if !answer.status().is_success() {
                let status = answer.status().as_u16();
                return Err(FetchError::Status { uri: shown, status });
            }
            return Ok(answer);
        }
        Err(FetchError::Status {
            uri: shown,
            status: 310,
        })
    }
}

#[async_trait]
impl Fetch for Web {
    async fn fetch(&self, uri: &str, out: &mut std::fs::File) -> Result<String, FetchError> {
        self.fetch_up_to(uri, out, CONTENT_BYTES_MAX).await
    }
}

impl Web {
    /// The same with another limit to its bytes.
    pub(crate) async fn fetch_up_to(
        &self,
        uri: &str,
        out: &mut std::fs::File,
        bytes_max: u64,
    ) -> Result<String, FetchError> {
        save(self.get(uri).await?, out, &without_query(uri), bytes_max).await
    }
}

fn certificates(path: &Path) -> Result<Vec<reqwest::Certificate>, FetchError> {
    let pem = std::fs::read(path).map_err(|source| FetchError::File {
        operation: "read",
        path: path.to_owned(),
        source,
    })?;
    let bad = |source| FetchError::Certificates {
        path: path.to_owned(),
        source,
    };
    reqwest::Certificate::from_pem_bundle(&pem).map_err(bad)
}

/// What follows a `?` may be a signature.
pub(crate) fn without_query(uri: &str) -> String {
    uri.split(['?', '#']).next().unwrap_or_default().to_owned()
}

async fn chunk(
    answer: &mut reqwest::Response,
    shown: &str,
) -> Result<Option<bytes::Bytes>, FetchError> {
    let chunk = answer.chunk().await;
    chunk.map_err(|source| FetchError::Http {
        uri: shown.to_owned(),
        source: source.without_url(),
    })
}

async fn save(
    mut answer: reqwest::Response,
    out: &mut std::fs::File,
    shown: &str,
    bytes_max: u64,
) -> Result<String, FetchError> {
    let too_large = || FetchError::TooLarge {
        uri: shown.to_owned(),
        bytes_max,
    };
    if answer
        .content_length()
        .is_some_and(|length| length > bytes_max)
    {
        return Err(too_large());
    }
    let (mut hasher, mut length) = (Sha256::new(), 0u64);
    while let Some(chunk) = chunk(&mut answer, shown).await? {
        length += chunk.len() as u64;
        if length > bytes_max {
            return Err(too_large());
        }
        hasher.update(&chunk);
        out.write_all(&chunk).map_err(|source| FetchError::File {
            operation: "write",
            path: PathBuf::from(shown),
            source,
        })?;
    }
    Ok(hex(&hasher.finalize()))
}

/// Whether an address is one of the internet's, and none of the server's own networks.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            let shared = a == 100 && (64..128).contains(&b);
            !(v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_unspecified()
                || v4.is_multicast()
                || v4.is_broadcast()
                || v4.is_documentation()
                || shared
                || a == 0
                || a >= 240)
        }
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => is_public(IpAddr::V4(v4)),
            None => {
                let first = v6.segments()[0];
                // Global unicast alone; 2002::/16 and 64:ff9b:: carry IPv4 addresses inside.
                (0x2000..0x4000).contains(&first) && first != 0x2002
            }
        },
    }
}

#[cfg(test)]
#[path = "fetch_tests.rs"]
mod https_tests;

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers every URI with itself.
    struct Echo;

    #[async_trait]
    impl Fetch for Echo {
        async fn fetch(&self, uri: &str, out: &mut std::fs::File) -> Result<String, FetchError> {
            out.write_all(uri.as_bytes()).unwrap();
            Ok(hex(&Sha256::digest(uri.as_bytes())))
        }
    }

    fn remote(uri: &str, sha256: &str) -> Remote {
        Remote {
            uri: uri.to_owned(),
            sha256: sha256.to_owned(),
        }
    }

    #[tokio::test]
    async fn contents_are_kept_by_what_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let one = remote("https://a.example/x?sig=1", "");
        let fetched = fetch_all(&Echo, folder.path(), std::slice::from_ref(&one), &|_| {})
            .await
            .unwrap();
        let sha256 = fetched.known[&one.uri].clone();
        assert!(fetched.holds(&[one, remote("https://a.example/x?sig=1", &sha256)]));
        assert!(!fetched.holds(&[remote("https://a.example/y", "")]));
        let wrong = remote("https://a.example/z", &sha256);
        // It is kept already, so it is not asked for: the hash names it, not the address.
        fetch_all(&Echo, folder.path(), &[wrong], &|_| {})
            .await
            .unwrap();
        let other = remote("https://a.example/z?secret", &"0".repeat(64));
        let error = fetch_all(&Echo, folder.path(), &[other], &|_| {})
            .await
            .unwrap_err();
        assert!(error.to_string().contains("has SHA-256"), "{error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }

    #[test]
    fn own_networks_are_told_from_the_internet() {
        let check = |text: &str, public: bool| {
            assert_eq!(is_public(text.parse().unwrap()), public, "{text}");
        };
        check("93.184.216.34", true);
        check("127.0.0.1", false);
        check("169.254.169.254", false);
        check("10.0.0.1", false);
        check("100.64.0.1", false);
        check("::1", false);
        check("::ffff:127.0.0.1", false);
        check("fd00::1", false);
        check("2002:7f00:1::", false);
        check("2606:2800:220:1::1", true);
    }

    #[tokio::test]
    async fn the_servers_own_networks_are_not_reached() {
        let folder = tempfile::tempdir().unwrap();
        let asked = remote("http://127.0.0.1:1/x", "");
        let web = Web::new(Reach::default()).unwrap();
        let error = fetch_all(&web, folder.path(), &[asked], &|_| {})
            .await
            .unwrap_err();
        assert!(matches!(error, FetchError::Refused { .. }), "{error}");
    }
}
