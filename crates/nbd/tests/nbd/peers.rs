//! Clients of other programs: QEMU's tools and libnbd's.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use nbd::{Export, ExportMap, Listen, Options, Server, Tls};
use process::Command;

use crate::{Disk, MIB, Served};

async fn run(program: &str, args: &[&str]) -> String {
    let done = Command::new(program).args(args).run().await.unwrap();
    done.stdout_text()
}

#[tokio::test]
async fn qemu_and_libnbd_read_what_the_disk_holds() {
    let served = Served::new(Disk {
        ready: MIB as u64,
        ..Disk::striped(5 * MIB)
    });
    let info = run("nbdinfo", &["--json", &served.uri()]).await;
    for part in [
        "\"structured\": true",
        "\"export-size\": 5242880",
        "\"is_read_only\": true",
        "\"can_multi_conn\": true",
        "base:allocation",
        "a disk of stripes",
    ] {
        assert!(info.contains(part), "{part} is not in {info}");
    }
    let map = run("nbdinfo", &["--map", "--json", &served.uri()]).await;
    assert_eq!(map.matches("\"hole,zero\"").count(), 40, "{map}");
    let listed = run("nbdinfo", &["--list", "--json", &served.uri()]).await;
    assert!(listed.contains("\"export-name\": \"disk\""), "{listed}");
    let copied = served.folder.path().join("copied");
    let to = copied.to_str().unwrap();
    run("nbdcopy", &["--connections=4", &served.uri(), to]).await;
    assert!(std::fs::read(&copied).unwrap() == served.disk.content());
    std::fs::remove_file(&copied).unwrap();
    run(
        "qemu-img",
        &["convert", "-f", "raw", "-O", "raw", &served.uri(), to],
    )
    .await;
    assert!(std::fs::read(&copied).unwrap() == served.disk.content());
}

#[tokio::test]
async fn qemu_writes() {
    let served = Served::new(Disk::writable(5 * MIB));
    let commands = [
        "write -P 0x5a 1000448 70144",
        "write -z 65536 65536",
        "discard 131072 65536",
        "write -f -P 0x11 0 512",
        "flush",
        "read -P 0x5a 1000448 70144",
        "read -P 0 65536 131072",
    ];
    let mut args = vec!["-f", "raw"];
    for command in commands {
        args.extend(["-c", command]);
    }
    let uri = served.uri();
    args.push(&uri);
    let said = run("qemu-io", &args).await;
    assert!(!said.contains("failed"), "{said}");
    let content = served.disk.content();
    assert!(
        content[1_000_448..][..70_144]
            .iter()
            .all(|byte| *byte == 0x5a)
    );
    assert!(content[65_536..][..131_072].iter().all(|byte| *byte == 0));
    assert!(*served.disk.flushes.lock().unwrap() >= 2);
}

/// TLS of a server, and in `folder` what libnbd looks for: the authority, and a certificate of a
/// client.
fn certificates(folder: &Path) -> Tls {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "test");
    let authority = rcgen::CertifiedIssuer::self_signed(params, key).unwrap();
    std::fs::write(folder.join("ca-cert.pem"), authority.pem()).unwrap();
    let issue = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        let own = params.signed_by(&key, &authority).unwrap();
        (own.pem(), key.serialize_pem())
    };
    let (certificate, key) = issue("client");
    std::fs::write(folder.join("client-cert.pem"), certificate).unwrap();
    std::fs::write(folder.join("client-key.pem"), key).unwrap();
    let (certificate, key) = issue("localhost");
    let authority = authority.pem();
    Tls::from_pem(
        certificate.as_bytes(),
        key.as_bytes(),
        Some(authority.as_bytes()),
    )
    .unwrap()
}

#[tokio::test]
async fn libnbd_comes_by_tls_and_nobody_comes_without() {
    let folder = tempfile::tempdir().unwrap();
    let tls = certificates(folder.path());
    let disk = Arc::new(Disk {
        ready: MIB as u64,
        ..Disk::striped(3 * MIB)
    });
    let exports = Arc::new(ExportMap::new());
    exports.put("disk", Arc::clone(&disk) as Arc<dyn Export>);
    let options = Options {
        tls,
        ..Options::default()
    };
    let listen = [Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)))];
    let server = Server::start(&listen, exports, options).unwrap();
    let port = server.addresses()[0].port();
    let copied = folder.path().join("copied");
    let uri = |folder: &Path| {
        let folder = folder.display();
        format!("nbds://localhost:{port}/disk?tls-certificates={folder}")
    };
    let own = uri(folder.path());
    run("nbdcopy", &[&own, copied.to_str().unwrap()]).await;
    assert!(std::fs::read(&copied).unwrap() == disk.content());
    let refused = async |uri: String| {
        let asked = Command::new("nbdinfo").args([uri]).run().await;
        assert!(asked.is_err(), "{asked:?}");
    };
    refused(format!("nbd://localhost:{port}/disk")).await;
    // Without a certificate of its own.
    let other = tempfile::tempdir().unwrap();
    let authority = folder.path().join("ca-cert.pem");
    std::fs::copy(authority, other.path().join("ca-cert.pem")).unwrap();
    refused(uri(other.path())).await;
}

#[test]
fn certificates_that_cannot_be_used_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    let (certificate, key) = (read("client-cert.pem"), read("client-key.pem"));
    let check = |chain: &[u8], key: &[u8], authority: Option<&[u8]>, part: &str| {
        let error = Tls::from_pem(chain, key, authority)
            .unwrap_err()
            .to_string();
        assert!(error.contains(part), "{error}");
    };
    assert!(Tls::from_pem(&certificate, &key, None).is_ok());
    check(b"", &key, None, "no certificate");
    check(&certificate, b"", None, "key");
    check(&certificate, &key, Some(b"nonsense"), "no certificate");
}
