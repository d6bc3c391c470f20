//! The installation's own small certificate authority and the server certificate it signs.
//!
//! Kept in `<data>/tls`; what is near its end is renewed at start. Must not be used for anything but the
//! listener: tokens are signed with keys of their own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::{Timestamp, ToSpan as _, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};

use crate::data::{self, DataError};

const CA_DAYS: i64 = 3650;
const CA_RENEW_DAYS: i64 = 365;
/// Clients refuse server certificates that live longer than this.
const SERVER_DAYS: i64 = 397;
const SERVER_RENEW_DAYS: i64 = 30;
/// Certificates begin a day early, for clients whose clock is behind.
const BACKDATE_DAYS: i64 = 1;
/// Mark of the note beside the certificates; another one means: make new certificates.
const NOTE_VERSION: u32 = 1;

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot keep the certificates")]
    Keep(#[from] DataError),
    #[error("cannot make a certificate")]
    Make(#[from] rcgen::Error),
    #[error("cannot use the certificate in {folder}; remove that folder to have a new one made")]
    Use {
        folder: PathBuf,
        #[source]
        cause: rustls::Error,
    },
    #[error("cannot parse {path}; remove the folder it is in to have a new one made")]
    Parse { path: PathBuf },
}

/// What was put into the certificates, so that whether to renew is decided without parsing X.509.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Note {
    version: u32,
    ca_not_after: Timestamp,
    server_not_after: Timestamp,
    names: Vec<String>,
}

/// The server's TLS configuration, and the certificate that clients are told to trust.
pub struct Identity {
    pub config: Arc<rustls::ServerConfig>,
    pub ca_path: PathBuf,
}

/// Loads the certificates in `folder`, making or renewing what is missing, near its end or for other names than the
/// host's own and these.
pub fn identity(folder: &Path, names: &[String], now: Timestamp) -> Result<Identity, TlsError> {
    data::create_folder(folder)?;
    let names = host_names(names);
    let files = Files::new(folder);
    let note = read_note(&files)?;
    let days = |count: i64| now + (count * 24).hours();
    let ca_fit = note
        .as_ref()
        .is_some_and(|note| note.ca_not_after > days(CA_RENEW_DAYS));
    let server_fit = ca_fit
        && note.as_ref().is_some_and(|note| {
            note.server_not_after > days(SERVER_RENEW_DAYS) && note.names == names
        });
    if !server_fit {
        let ca_not_after = match &note {
            Some(note) if ca_fit => note.ca_not_after,
            _ => {
                make_ca(&files, now)?;
                days(CA_DAYS)
            }
        };
        make_server(&files, &names, now)?;
        let note = Note {
            version: NOTE_VERSION,
            ca_not_after,
            server_not_after: days(SERVER_DAYS),
            names,
        };
        // Last, so that a crash before this line leaves a note that does not match and all is made again.
        let text = serde_json::to_vec_pretty(&note).expect("a note is plain data");
        data::write_private(&files.note, &text)?;
    }
    load(&files)
}

struct Files {
    folder: PathBuf,
    ca: PathBuf,
    ca_key: PathBuf,
    server: PathBuf,
    server_key: PathBuf,
    note: PathBuf,
}

impl Files {
    fn new(folder: &Path) -> Files {
        Files {
            folder: folder.to_path_buf(),
            ca: folder.join("ca.pem"),
            ca_key: folder.join("ca.key"),
            server: folder.join("server.pem"),
            server_key: folder.join("server.key"),
            note: folder.join("note.json"),
        }
    }

    fn all_there(&self) -> bool {
        [&self.ca, &self.ca_key, &self.server, &self.server_key]
            .iter()
            .all(|path| path.exists())
    }
}

/// `None` where certificates are missing or the note is not ours: everything is made anew then.
fn read_note(files: &Files) -> Result<Option<Note>, TlsError> {
    if !files.all_there() {
        return Ok(None);
    }
    let Some(text) = data::read_if_there(&files.note)? else {
        return Ok(None);
    };
    let note: Option<Note> = serde_json::from_slice(&text).ok();
    Ok(note.filter(|note| note.version == NOTE_VERSION))
}

/// The CA's parameters are a constant but for its dates: an issuer is rebuilt from them and the kept key.
fn ca_params(now: Timestamp) -> Result<CertificateParams, TlsError> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = distinguished_name("Bullion installation CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_dates(&mut params, now, CA_DAYS);
    Ok(params)
}

fn make_ca(files: &Files, now: Timestamp) -> Result<(), TlsError> {
    let key = KeyPair::generate()?;
    let certificate = ca_params(now)?.self_signed(&key)?;
    data::write_private(&files.ca_key, key.serialize_pem().as_bytes())?;
    data::write_private(&files.ca, certificate.pem().as_bytes())?;
    Ok(())
}

fn make_server(files: &Files, names: &[String], now: Timestamp) -> Result<(), TlsError> {
    let ca_key = KeyPair::from_pem(&text(&files.ca_key)?)?;
    let issuer = Issuer::new(ca_params(now)?, ca_key);
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = distinguished_name("Bullion server");
    for name in names {
        params.subject_alt_names.push(match name.parse() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(name.as_str().try_into()?),
        });
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    // Strict verifiers (Python 3.13 and later) refuse a leaf that does not name its issuer's key.
    params.use_authority_key_identifier_extension = true;
    set_dates(&mut params, now, SERVER_DAYS);
    let certificate = params.signed_by(&key, &issuer)?;
    data::write_private(&files.server_key, key.serialize_pem().as_bytes())?;
    data::write_private(&files.server, certificate.pem().as_bytes())?;
    Ok(())
}

fn distinguished_name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

/// From a day ago to `days` from now. rcgen takes whole days, which is as exact as a certificate needs to be.
fn set_dates(params: &mut CertificateParams, now: Timestamp, days: i64) {
    let day = |days: i64| {
        let date = (now + (days * 24).hours()).to_zoned(TimeZone::UTC).date();
        rcgen::date_time_ymd(date.year().into(), date.month() as u8, date.day() as u8)
    };
    params.not_before = day(-BACKDATE_DAYS);
    params.not_after = day(days);
}

fn text(path: &Path) -> Result<String, TlsError> {
    String::from_utf8(data::read(path)?).map_err(|_| TlsError::Parse {
        path: path.to_path_buf(),
    })
}

fn load(files: &Files) -> Result<Identity, TlsError> {
    let chain = CertificateDer::pem_file_iter(&files.server)
        .and_then(|certificates| certificates.collect::<Result<Vec<_>, _>>())
        .map_err(|_| TlsError::Parse {
            path: files.server.clone(),
        })?;
    let key = PrivateKeyDer::from_pem_file(&files.server_key).map_err(|_| TlsError::Parse {
        path: files.server_key.clone(),
    })?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|cause| TlsError::Use {
            folder: files.folder.clone(),
            cause,
        })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Identity {
        config: Arc::new(config),
        ca_path: files.ca.clone(),
    })
}

/// The names under which this host may be asked for: loopback always, and its own name.
fn host_names(extra: &[String]) -> Vec<String> {
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(String::from).into();
    let own = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    for name in std::iter::once(own.trim()).chain(extra.iter().map(String::as_str)) {
        let fit = name.parse::<std::net::IpAddr>().is_ok()
            || (!name.is_empty()
                && name.len() <= 253
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte)));
        if fit && !names.iter().any(|known| known == name) {
            names.push(name.to_string());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// Which of the two certificates a start after `days`, asked for `names`, makes anew.
    fn check(days: i64, names: &[&str], ca_renewed: bool, server_renewed: bool) {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("tls");
        let start: Timestamp = "2026-11-21T00:00:00Z".parse().unwrap();
        let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
        identity(&folder, &["localhost".into()], start).unwrap();
        let (ca, server) = (read("ca.pem"), read("server.pem"));
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        identity(&folder, &names, start + (days * 24).hours()).unwrap();
        assert_eq!(ca != read("ca.pem"), ca_renewed, "CA after {days} days");
        assert_eq!(
            server != read("server.pem"),
            server_renewed,
            "server after {days} days"
        );
        for file in ["ca.key", "server.key"] {
            let mode = std::fs::metadata(folder.join(file))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
    }

    #[test]
    fn certificates_are_kept_until_they_are_near_their_end() {
        check(0, &["localhost"], false, false);
        check(300, &["localhost"], false, false);
        check(370, &["localhost"], false, true);
        check(0, &["localhost", "10.0.0.1"], false, true);
        check(3400, &["localhost"], true, true);
    }

    #[test]
    fn host_names_drop_what_no_certificate_can_hold() {
        let names = host_names(&["bad name".into(), "10.0.0.1".into(), "localhost".into()]);
        assert_eq!(&names[..3], ["localhost", "127.0.0.1", "::1"]);
        assert!(names.contains(&"10.0.0.1".to_string()));
        assert!(!names.contains(&"bad name".to_string()));
        assert_eq!(names.iter().filter(|name| *name == "localhost").count(), 1);
    }
}
