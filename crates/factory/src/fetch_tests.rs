//! Contents and vendors' images from a server with TLS: what it is trusted by, what it must send, and how much.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::fake_keys::FakeKeys;
use crate::source::{BaseRequest, LogLine, PlatformImage, Provider, VendorImages};

const HOST: &str = "127.0.0.1";
/// More than a server keeps in memory for one content.
const LARGE_BYTES: usize = 96 << 20;
const PIECE_BYTES: usize = 1 << 20;
const REQUEST_BYTES_MAX: usize = 16 << 10;

/// What lies at a path.
enum Body {
    Bytes(Vec<u8>),
    /// So many zeros, whose number is not told before.
    Zeros(usize),
    Elsewhere(String),
}

/// A server with a certificate of its own making.
struct Site {
    port: u16,
    certificate: PathBuf,
}

impl Site {
    async fn start(folder: &Path, bodies: BTreeMap<&'static str, Body>) -> Site {
        let made = rcgen::generate_simple_self_signed([HOST.to_owned()]).unwrap();
        let certificate = folder.join("site.pem");
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind((HOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let bodies = Arc::new(bodies);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, bodies) = (acceptor.clone(), Arc::clone(&bodies));
                // A client that goes away is what some of the tests are about.
                tokio::spawn(async move { serve(stream, acceptor, &bodies).await.ok() });
            }
        });
        Site { port, certificate }
    }

    fn url(&self, path: &str) -> String {
        format!("https://{HOST}:{}{path}", self.port)
    }

    fn web(&self) -> Web {
        let reach = Reach {
            hosts: vec![HOST.to_owned()],
            ca: Some(self.certificate.clone()),
        };
        Web::new(reach).unwrap()
    }
}

/// One request; the connection ends with it.
async fn serve(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    bodies: &BTreeMap<&'static str, Body>,
) -> std::io::Result<()> {
    let mut stream = acceptor.accept(stream).await?;
    let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
    while !bytes.ends_with(b"\r\n\r\n") {
        let read = stream.read(&mut piece).await?;
        if read == 0 || bytes.len() > REQUEST_BYTES_MAX {
            return Ok(());
        }
        bytes.extend_from_slice(&piece[..read]);
    }
    let head = String::from_utf8_lossy(&bytes).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default();
    let head = |status: &str, more: String| {
        format!("HTTP/1.1 {status}\r\n{more}connection: close\r\n\r\n").into_bytes()
    };
    match bodies.get(path) {
        None => {
            stream
                .write_all(&head("404 Not Found", String::new()))
                .await?
        }
        Some(Body::Elsewhere(url)) => {
            let more = format!("location: {url}\r\ncontent-length: 0\r\n");
            stream.write_all(&head("302 Found", more)).await?;
        }
        Some(Body::Bytes(body)) => {
            let more = format!("content-length: {}\r\n", body.len());
            stream.write_all(&head("200 OK", more)).await?;
            stream.write_all(body).await?;
        }
        Some(Body::Zeros(count)) => {
            stream.write_all(&head("200 OK", String::new())).await?;
            let zeros = vec![0; PIECE_BYTES];
            for _ in 0..count / PIECE_BYTES {
                stream.write_all(&zeros).await?;
            }
        }
    }
    stream.shutdown().await
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

#[tokio::test]
async fn contents_come_from_whom_they_are_trusted_and_are_what_was_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let bodies = BTreeMap::from([
        ("/tool", Body::Bytes(b"a tool".to_vec())),
        ("/moved", Body::Elsewhere("/tool".to_owned())),
        ("/down", Body::Elsewhere("ftp://127.0.0.1/tool".to_owned())),
        (
            "/inside",
            Body::Elsewhere("https://127.0.0.2:1/".to_owned()),
        ),
    ]);
    let site = Site::start(folder.path(), bodies).await;
    let contents = folder.path().join("contents");
    let check = async |web: &Web, path: &str, sha256: &str, expected: Result<(), &str>| {
        let asked = Remote {
            uri: site.url(path),
            sha256: sha256.to_owned(),
        };
        let fetched = fetch_all(web, &contents, &[asked], &|_| {}).await;
        match (fetched, expected) {
            (Ok(_), Ok(())) => {}
            (Err(error), Err(part)) => {
                let text = crate::pipeline::chain(&error);
                assert!(text.contains(part), "{path}: {text}");
            }
            (fetched, _) => panic!("{path}: {fetched:?}"),
        }
    };
    let (web, digest) = (site.web(), sha256(b"a tool"));
    let reach = Reach {
        hosts: vec![HOST.to_owned()],
        ca: None,
    };
    let stranger = Web::new(reach).unwrap();
    check(&stranger, "/tool", &digest, Err("certificate")).await;
    check(&web, "/tool", &"0".repeat(64), Err("has SHA-256")).await;
    check(&web, "/none", "", Err("answers 404")).await;
    check(&web, "/down", "", Err("is not an address")).await;
    check(&web, "/inside", "", Err("in a network of the server's own")).await;
    let kept = || std::fs::read_dir(&contents).unwrap().count();
    assert_eq!(kept(), 0, "nothing of what was refused is kept");
    check(&web, "/moved", &digest, Ok(())).await;
    check(&web, "/tool", "", Ok(())).await;
    assert_eq!(std::fs::read(contents.join(&digest)).unwrap(), b"a tool");
    assert_eq!(kept(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_content_is_written_as_it_comes_and_ends_at_the_limit() {
    let folder = tempfile::tempdir().unwrap();
    let bodies = BTreeMap::from([
        ("/large", Body::Zeros(LARGE_BYTES)),
        ("/told", Body::Bytes(vec![0; PIECE_BYTES])),
    ]);
    let site = Site::start(folder.path(), bodies).await;
    let web = site.web();
    let fetch = async |path: &str, limit: u64| {
        let mut file = tempfile::tempfile_in(folder.path()).unwrap();
        let found = web.fetch_up_to(&site.url(path), &mut file, limit).await;
        (found, file.metadata().unwrap().len())
    };
    let all = LARGE_BYTES as u64;
    let (found, written) = fetch("/large", all).await;
    assert_eq!(found.unwrap(), sha256(&vec![0; LARGE_BYTES]));
    assert_eq!(written, all);
    for (path, limit) in [("/large", all - 1), ("/told", 1000)] {
        let (found, written) = fetch(path, limit).await;
        assert!(matches!(found, Err(FetchError::TooLarge { .. })), "{path}");
        assert!(written <= limit, "{path}: {written}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vendors_image_is_used_when_its_signature_is_good() {
    let folder = tempfile::tempdir().unwrap();
    let disk = vec![7u8; 3 << 20];
    let digest = sha256(&disk);
    let sums = format!("{}  other.raw\n{digest} *disk.raw\n", "0".repeat(64));
    let vendor = FakeKeys::new(folder.path(), "vendor@example.com").await;
    let other = FakeKeys::new(folder.path(), "other@example.com").await;
    let (mine, ring) = (
        async |bytes: &[u8]| Body::Bytes(vendor.detached(bytes).await),
        vendor.ring().await,
    );
    let bodies = BTreeMap::from([
        ("/disk.raw", Body::Bytes(disk.clone())),
        ("/disk.asc", mine(&disk).await),
        ("/other.asc", Body::Bytes(other.detached(&disk).await)),
        ("/SHA256SUMS", Body::Bytes(sums.clone().into_bytes())),
        ("/SHA256SUMS.gpg", mine(sums.as_bytes()).await),
        ("/OTHERSUMS", Body::Bytes(b"none".to_vec())),
        ("/OTHERSUMS.gpg", mine(b"none").await),
    ]);
    let site = Site::start(folder.path(), bodies).await;
    let check = async |signature: serde_json::Value, expected: Result<(), &str>| {
        let place = tempfile::tempdir_in(folder.path()).unwrap();
        let product = place.path().join("Example/linux/1");
        std::fs::create_dir_all(&product).unwrap();
        std::fs::write(product.join("vendor.gpg"), &ring).unwrap();
        let mut description = serde_json::json!({ "url": site.url("/disk.raw"), "sha256": digest });
        if !signature.is_null() {
            description["signature"] = signature.clone();
        }
        std::fs::write(product.join("1.0.0.json"), description.to_string()).unwrap();
        let images = VendorImages::new(place.path().to_owned(), Arc::new(site.web()));
        let image: PlatformImage = "Example:linux:1:latest".parse().unwrap();
        let log: LogLine = Arc::new(|_| {});
        let work = tempfile::tempdir_in(folder.path()).unwrap();
        let made = async {
            let pin = images.resolve(&image, &[]).await?;
            let request = BaseRequest { disk_gib: 1 };
            images.bootstrap(&pin, &request, work.path(), log).await
        };
        match (made.await, expected) {
            (Ok(raw), Ok(())) => {
                let mut begins = vec![0; disk.len()];
                let mut file = std::fs::File::open(raw).unwrap();
                std::io::Read::read_exact(&mut file, &mut begins).unwrap();
                assert!(begins == disk);
            }
            (Err(error), Err(part)) => {
                let text = crate::pipeline::chain(&error);
                assert!(text.contains(part), "{signature}: {text}");
                assert!(!work.path().join("disk.raw").exists());
            }
            (made, _) => panic!("{signature}: {made:?}"),
        }
    };
    let signed = |path: &str, sums: Option<&str>| {
        let mut signature = serde_json::json!({ "url": site.url(path), "keyring": "vendor.gpg" });
        if let Some(sums) = sums {
            signature["sumsUrl"] = site.url(sums).into();
        }
        signature
    };
    check(serde_json::Value::Null, Ok(())).await;
    check(signed("/disk.asc", None), Ok(())).await;
    check(signed("/SHA256SUMS.gpg", Some("/SHA256SUMS")), Ok(())).await;
    check(signed("/other.asc", None), Err("proves nothing")).await;
    check(signed("/SHA256SUMS.gpg", None), Err("proves nothing")).await;
    check(
        signed("/OTHERSUMS.gpg", Some("/OTHERSUMS")),
        Err("does not name"),
    )
    .await;
    check(signed("/none.asc", None), Err("answers 404")).await;
    let mut lost = signed("/disk.asc", None);
    lost["keyring"] = "none.gpg".into();
    check(lost.clone(), Err("is not there")).await;
    lost["keyring"] = "../vendor.gpg".into();
    check(lost, Err("name of a file beside")).await;
}
