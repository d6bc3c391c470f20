//! One file in somebody's object store that is no store of ours: where an image is sent to.
//!
//! Whoever names it is not the operator: the keys come with the address, nothing of this server's environment is used,
//! and which hosts may be reached is for the caller to decide ([`Parcel::endpoint`], [`Courier`]).

use std::io;
use std::sync::Arc;

use object_store::buffered::BufWriter;
use object_store::client::HttpClient;
use object_store::path::Path;
use object_store::{Attribute, Attributes, GetOptions, ObjectStore};
use tokio::io::AsyncWriteExt;

use super::at::{At, AtError};
use super::bucket::Bucket;
use super::object::{Limits, wait};

/// S3 takes 10,000 parts of an object; this allows some terabytes for the largest disk.
const PART_BYTES: usize = 64 << 20;
/// Parts on their way together.
const PARTS_AT_ONCE: usize = 2;
/// Says of an object what it holds.
const MARK: &str = "bullion-content";

/// A file to be, with what reaches it.
#[derive(Debug)]
pub struct Parcel {
    shown: String,
    store: Arc<dyn ObjectStore>,
    path: Path,
}

/// Sends the requests. Whoever knows which hosts may be reached makes one that reaches no other.
pub type Courier = HttpClient;

/// Why there is no parcel.
#[derive(Debug, thiserror::Error)]
pub enum ParcelError {
    #[error(transparent)]
    Address(#[from] AtError),
    #[error("`{0}` names no file: write it like s3://bucket/images/golden.qcow2")]
    NoFile(String),
    #[error("files are sent to s3:// and az://")]
    Kind,
    #[error("the address may not have `{0}`")]
    Setting(String),
    #[error("the keys must have the lines {0}")]
    NoKeys(&'static str),
    #[error("an endpoint is reached by a courier, and the cloud's own without one")]
    NoCourier,
    #[error("`{0}` is not a plain word")]
    NotPlain(String),
    #[error("prepare a client")]
    Client(#[source] io::Error),
}

/// What is at its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum There {
    Nothing,
    /// The same content, by its mark.
    Same,
    Other,
}

impl Parcel {
    /// The host that is asked, if the address names one; otherwise it is the cloud's own.
    pub fn endpoint(address: &str) -> Result<Option<String>, ParcelError> {
        Ok(bucket(address)?.endpoint().map(str::to_owned))
    }

    /// `keys` are lines `NAME=VALUE`, as they would be in the environment. An address with an endpoint is reached by a
    /// courier, and the cloud's own without one. No request is made.
    pub fn new(
        address: &str,
        keys: &str,
        limits: &Limits,
        courier: Option<Courier>,
    ) -> Result<Parcel, ParcelError> {
        let bucket = bucket(address)?;
        if bucket.endpoint().is_some() != courier.is_some() {
            return Err(ParcelError::NoCourier);
        }
        let store = bucket.connect_for_others(keys, limits, courier)?;
        Ok(Parcel {
            shown: bucket.to_string(),
            store,
            path: Path::from(bucket.prefix.as_str()),
        })
    }

    /// The address without settings.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// What is there already. Blocks.
    pub fn there(&self, mark: &str) -> io::Result<There> {
        let (store, path, mark) = (Arc::clone(&self.store), self.path.clone(), mark.to_owned());
        wait(async move {
            let options = GetOptions {
                head: true,
                ..GetOptions::default()
            };
            match store.get_opts(&path, options).await {
                Ok(found) => {
                    let has = found.attributes.get(&Attribute::Metadata(MARK.into()));
                    Ok(match has.is_some_and(|has| has.as_ref() == mark) {
                        true => There::Same,
                        false => There::Other,
                    })
                }
                Err(object_store::Error::NotFound { .. }) => Ok(There::Nothing),
                Err(error) => Err(error.into()),
            }
        })
    }

    /// Sends a file; it is there whole or not at all. Answers its bytes. Blocks.
    pub fn send(&self, file: std::fs::File, mark: &str) -> io::Result<u64> {
        let mark = (Attribute::Metadata(MARK.into()), mark.to_owned());
        let writer =
            BufWriter::with_capacity(Arc::clone(&self.store), self.path.clone(), PART_BYTES);
        let mut writer = writer
            .with_attributes(Attributes::from_iter([mark]))
            .with_max_concurrency(PARTS_AT_ONCE);
        wait(async move {
            let mut file = tokio::fs::File::from_std(file);
            let sent = match tokio::io::copy(&mut file, &mut writer).await {
                Ok(sent) => writer.shutdown().await.map(|()| sent),
                Err(error) => Err(error),
            };
            if sent.is_err() {
                // What was sent of it costs money until it is taken away; the first error is the one to tell.
                let _ = writer.abort().await;
            }
            sent
        })
    }
}

fn bucket(address: &str) -> Result<Bucket, ParcelError> {
    let At::Bucket(bucket) = address.parse()? else {
        return Err(ParcelError::Kind);
    };
    match bucket.prefix.is_empty() {
        true => Err(ParcelError::NoFile(bucket.to_string())),
        false => Ok(bucket),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S3: &str = "AWS_ACCESS_KEY_ID=a\nAWS_SECRET_ACCESS_KEY=hush\n";
    const AZURE: &str = "AZURE_STORAGE_ACCOUNT_NAME=a\nAZURE_STORAGE_ACCOUNT_KEY=aHVzaA==\n";

    #[test]
    fn addresses_name_a_file_and_keys_come_with_them() {
        let check = |address: &str, keys: &str, expected: Result<&str, &str>| {
            let parcel = Parcel::new(address, keys, &Limits::default(), None);
            match (parcel, expected) {
                (Ok(parcel), Ok(shown)) => assert_eq!(parcel.shown(), shown, "{address}"),
                (Err(error), Err(part)) => {
                    let error = error.to_string();
                    assert!(
                        error.contains(part) && !error.contains("hush"),
                        "{address}: {error}"
                    );
                }
                (parcel, _) => panic!("{address}: {parcel:?}"),
            }
        };
        check(
            "s3://b/images/a.qcow2?region=x",
            S3,
            Ok("s3://b/images/a.qcow2"),
        );
        check("az://c/a.vhd?account_name=a", AZURE, Ok("az://c/a.vhd"));
        check("s3://b", S3, Err("names no file"));
        check("gs://b/a.raw", S3, Err("s3:// and az://"));
        check("/srv/images/a.raw", S3, Err("s3:// and az://"));
        check(
            "s3://b/../a.raw?credentials=/etc/passwd",
            S3,
            Err("`credentials`"),
        );
        check(
            "s3://b/a.raw?imdsv1_fallback=true",
            S3,
            Err("`imdsv1_fallback`"),
        );
        check(
            "az://c/a.raw?use_emulator=true",
            AZURE,
            Err("`use_emulator`"),
        );
        check("s3://b/a.raw", "", Err("AWS_ACCESS_KEY_ID"));
        // Whoever has no key of their own does not get the host's role.
        check(
            "s3://b/a.raw",
            "AWS_METADATA_ENDPOINT=http://x\nAWS_SECRET_ACCESS_KEY=hush",
            Err("AWS_ACCESS_KEY_ID"),
        );
        check("az://c/a.vhd?account_name=a", "", Err("AZURE_STORAGE"));
        // They become a part of the host that is asked.
        check("s3://b/a.raw?region=x@127.0.0.1/", S3, Err("`region`"));
        check(
            "az://c/a.raw?account_name=127.0.0.1/",
            AZURE,
            Err("`account_name`"),
        );
        let account = AZURE.replace("NAME=a", "NAME=x@127.0.0.1/");
        check(
            "az://c/a.raw",
            &account,
            Err("`AZURE_STORAGE_ACCOUNT_NAME`"),
        );
        // Where it leads was not looked at.
        check(
            "s3://b/a.raw?endpoint=http://10.0.0.1:9000",
            S3,
            Err("courier"),
        );
    }

    #[test]
    fn an_endpoint_is_told_apart_from_the_clouds_own() {
        let check = |address: &str, expected: Option<&str>| {
            let endpoint = Parcel::endpoint(address).unwrap();
            assert_eq!(endpoint.as_deref(), expected, "{address}");
        };
        check("s3://b/a.raw?region=x", None);
        check(
            "s3://b/a.raw?endpoint=http://10.0.0.1:9000",
            Some("http://10.0.0.1:9000"),
        );
    }
}
