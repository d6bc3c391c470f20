//! Whom a receiver's TLS is trusted by, and who we are to it: the files of an address. One provider, rustls.

use std::path::Path;
use std::sync::Arc;

use reqwest::{Certificate, ClientBuilder, Identity};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::{SinkAddress, SinkError};

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Reads a file of an address.
pub(super) fn file<T>(
    sink: &SinkAddress,
    path: &Path,
    read: impl FnOnce(Vec<u8>) -> Result<T, Cause>,
) -> Result<T, SinkError> {
    let text = std::fs::read(path).map_err(Cause::from);
    text.and_then(read).map_err(|cause| SinkError::File {
        sink: sink.to_string(),
        path: path.display().to_string(),
        cause,
    })
}

fn tls_failed<E: Into<Cause>>(sink: &SinkAddress) -> impl Fn(E) -> SinkError {
    let sink = sink.to_string();
    move |cause| SinkError::Tls {
        sink: sink.clone(),
        cause: cause.into(),
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Cause> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match all? {
        none if none.is_empty() => Err("there is no certificate in it".into()),
        all => Ok(all),
    }
}

/// For connections of our own.
pub(super) fn config(sink: &SinkAddress) -> Result<Arc<ClientConfig>, SinkError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(tls_failed(sink))?;
    let builder = match sink.ca() {
        Some(path) => {
            let roots = file(sink, path, |pem| {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(&pem)? {
                    roots.add(certificate)?;
                }
                Ok(roots)
            })?;
            builder.with_root_certificates(roots)
        }
        None => {
            let verifier = rustls_platform_verifier::Verifier::new(provider);
            let verifier = Arc::new(verifier.map_err(tls_failed(sink))?);
            builder
                .dangerous()
                .with_custom_certificate_verifier(verifier)
        }
    };
    let config = match sink.identity() {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let (chain, key) = file(sink, path, |pem| {
                Ok((certificates(&pem)?, PrivateKeyDer::from_pem_slice(&pem)?))
            })?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(tls_failed(sink))?
        }
    };
    Ok(Arc::new(config))
}

/// The same for the HTTP client.
pub(super) fn client(
    sink: &SinkAddress,
    mut builder: ClientBuilder,
) -> Result<reqwest::Client, SinkError> {
    if let Some(path) = sink.ca() {
        let roots = file(sink, path, |pem| Ok(Certificate::from_pem_bundle(&pem)?))?;
        builder = builder.tls_certs_only(roots);
    }
    if let Some(path) = sink.identity() {
        builder = builder.identity(file(sink, path, |pem| Ok(Identity::from_pem(&pem)?))?);
    }
    builder.build().map_err(tls_failed(sink))
}
