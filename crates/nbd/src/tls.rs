//! What TLS on a server needs, out of PEM files. It must not read files itself.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use crate::server::Tls;

/// Certificates in one file; more than this is not a chain.
const MAX_CERTIFICATES: usize = 64;

/// Why there is no TLS with these files.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the {what} cannot be understood")]
    Pem {
        what: &'static str,
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    #[error("there is no certificate in the {what}")]
    Empty { what: &'static str },
    #[error("the certificate and the key cannot be used")]
    Unusable(#[source] rustls::Error),
    #[error("the certificates of the clients' authority cannot be used")]
    Authority(#[source] rustls::server::VerifierBuilderError),
}

impl Tls {
    /// A server's certificate with its chain, and its key. With the certificates of an authority,
    /// only clients come in that show a certificate of it.
    pub fn from_pem(chain: &[u8], key: &[u8], authority: Option<&[u8]>) -> Result<Tls, TlsError> {
        let chain = certificates("certificate", chain)?;
        let what = "key";
        let key =
            PrivateKeyDer::from_pem_slice(key).map_err(|source| TlsError::Pem { what, source })?;
        let builder = ServerConfig::builder();
        let builder = match authority {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates("clients' authority", authority)? {
                    roots.add(certificate).map_err(TlsError::Unusable)?;
                }
                let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build();
                builder.with_client_cert_verifier(verifier.map_err(TlsError::Authority)?)
            }
        };
        let config = builder.with_single_cert(chain, key);
        Ok(Tls::Required(Arc::new(config.map_err(TlsError::Unusable)?)))
    }
}

fn certificates(what: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem)
        .take(MAX_CERTIFICATES)
        .collect();
    let found = found.map_err(|source| TlsError::Pem { what, source })?;
    match found.is_empty() {
        true => Err(TlsError::Empty { what }),
        false => Ok(found),
    }
}
