//! Clients of other programs: QEMU's tools and libnbd's.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use nbd::{Export, ExportMap, Listen, Options, Server, Tls};
use process::Command;
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

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

/// A certificate authority, and a server's certificate of it, in the files that libnbd looks for.
fn certificates(folder: &Path) -> ServerConfig {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "test");
    let authority = rcgen::CertifiedIssuer::self_signed(params, key).unwrap();
    std::fs::write(folder.join("ca-cert.pem"), authority.pem()).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let own = params.signed_by(&key, &authority).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let chain: Vec<CertificateDer<'static>> = vec![own.der().clone()];
    ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap()
}

#[tokio::test]
async fn libnbd_comes_by_tls_and_nobody_comes_without() {
    let folder = tempfile::tempdir().unwrap();
    let config = certificates(folder.path());
    let disk = Arc::new(Disk {
        ready: MIB as u64,
        ..Disk::striped(3 * MIB)
    });
    let exports = Arc::new(ExportMap::new());
    exports.put("disk", Arc::clone(&disk) as Arc<dyn Export>);
    let options = Options {
        tls: Tls::Required(Arc::new(config)),
        ..Options::default()
    };
    let listen = [Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)))];
    let server = Server::start(&listen, exports, options).unwrap();
    let port = server.addresses()[0].port();
    let copied = folder.path().join("copied");
    let uri = format!(
        "nbds://localhost:{port}/disk?tls-certificates={}",
        folder.path().display()
    );
    run("nbdcopy", &[&uri, copied.to_str().unwrap()]).await;
    assert!(std::fs::read(&copied).unwrap() == disk.content());
    let open = Command::new("nbdinfo").args([format!("nbd://localhost:{port}/disk")]);
    assert!(open.run().await.is_err());
}
