//! An artifact in a registry that speaks the OCI distribution protocol: the disk's file as the only layer, a manifest,
//! and a tag. What the registry has already is not sent again.

use std::fs;
use std::io::Read;

use async_trait::async_trait;
use jobs::{StepError, StepHandle};
use reqwest::header::{AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, LOCATION, WWW_AUTHENTICATE};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::file::write_disk;
use super::target::{Artifact, Deliver, Subject};
use crate::fetch::{Web, sha256_of};
use crate::pipeline::{Reference, RegistryTarget, blocking, chain};
use crate::source::hex;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const ARTIFACT: &str = "application/vnd.bullion.image.v1";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// What one request carries of a layer.
const PIECE_BYTES: usize = 8 << 20;

/// A registry, and what opens it.
struct Registry<'a> {
    client: reqwest::Client,
    base: Url,
    reference: &'a Reference,
    credential: Option<String>,
    token: Option<String>,
}

fn fault(what: &str) -> impl Fn(reqwest::Error) -> StepError + '_ {
    move |error| {
        StepError::failed(
            "RegistryFailed",
            format!("{what}: {}", chain(&error.without_url())),
        )
    }
}

fn refused(what: &str, answer: &Response) -> StepError {
    let status = answer.status().as_u16();
    StepError::failed(
        "RegistryFailed",
        format!("{what}: the registry answers {status}"),
    )
}

impl Registry<'_> {
    fn url(&self, rest: &str) -> Result<Url, StepError> {
        let path = format!("v2/{}/{rest}", self.reference.repository);
        let url = self.base.join(&path);
        url.map_err(|error| StepError::failed("RegistryFailed", error.to_string()))
    }

    fn ask(&self, method: Method, url: Url) -> RequestBuilder {
        let asked = self.client.request(method, url);
        match &self.token {
            Some(token) => asked.header(AUTHORIZATION, token),
            None => asked,
        }
    }

    /// Signs in the way that the registry asks for, if it does.
    async fn sign_in(&mut self) -> Result<(), StepError> {
        let what = "reach the registry";
        let url = self
            .base
            .join("v2/")
            .map_err(|error| StepError::failed("RegistryFailed", error.to_string()))?;
        let answer = self.client.get(url).send().await.map_err(fault(what))?;
        if answer.status() != StatusCode::UNAUTHORIZED {
            return Ok(());
        }
        let challenge = answer
            .headers()
            .get(WWW_AUTHENTICATE)
            .and_then(|text| text.to_str().ok());
        let challenge = challenge.unwrap_or_default().to_owned();
        let basic = self.credential.as_ref().map(|credential| {
            use base64::Engine;
            format!(
                "Basic {}",
                base64::engine::general_purpose::STANDARD.encode(credential)
            )
        });
        let Some(parts) = challenge.strip_prefix("Bearer ") else {
            self.token = basic;
            return Ok(());
        };
        let part = |name: &str| {
            let found = parts
                .split(',')
                .find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('='));
            found.map(|text| text.trim_matches('"').to_owned())
        };
        let realm = part("realm").and_then(|realm| Url::parse(&realm).ok());
        let realm = realm
            .ok_or_else(|| StepError::failed("RegistryFailed", "it names no place to sign in"))?;
        // A credential goes to the registry's own host, or over TLS.
        let same = realm.host_str() == self.base.host_str() || realm.scheme() == "https";
        if !same {
            return Err(StepError::failed(
                "RegistryFailed",
                "it asks to sign in without TLS",
            ));
        }
        let scope = format!("repository:{}:pull,push", self.reference.repository);
        let mut asked = self.client.get(realm).query(&[("scope", scope)]);
        if let Some(service) = part("service") {
            asked = asked.query(&[("service", service)]);
        }
        if let Some(basic) = basic {
            asked = asked.header(AUTHORIZATION, basic);
        }
        let answer = asked
            .send()
            .await
            .map_err(fault("sign in to the registry"))?;
        if !answer.status().is_success() {
            return Err(refused("sign in to the registry", &answer));
        }
        let body: Value = answer
            .json()
            .await
            .map_err(fault("sign in to the registry"))?;
        let token = body["token"].as_str().or(body["access_token"].as_str());
        self.token = token.map(|token| format!("Bearer {token}"));
        Ok(())
    }

    /// Sends a blob in pieces, unless it is there.
    async fn blob(&self, digest: &str, source: &mut (dyn Read + Send)) -> Result<(), StepError> {
        let what = "send a blob";
        let there = self.ask(Method::HEAD, self.url(&format!("blobs/{digest}"))?);
        if there
            .send()
            .await
            .map_err(fault(what))?
            .status()
            .is_success()
        {
            return Ok(());
        }
        let begun = self.ask(Method::POST, self.url("blobs/uploads/")?);
        let mut answer = begun
            .header("content-length", "0")
            .send()
            .await
            .map_err(fault(what))?;
        let (mut piece, mut at) = (vec![0u8; PIECE_BYTES], 0u64);
        loop {
            if !answer.status().is_success() {
                return Err(refused(what, &answer));
            }
            let next = self.location(&answer)?;
            let length = read_full(source, &mut piece)
                .map_err(|error| StepError::failed("RegistryFailed", error.to_string()))?;
            if length == 0 {
                let mut end = next;
                end.query_pairs_mut().append_pair("digest", digest);
                let answer = self
                    .ask(Method::PUT, end)
                    .header("content-length", "0")
                    .send()
                    .await;
                let answer = answer.map_err(fault(what))?;
                return match answer.status().is_success() {
                    true => Ok(()),
                    false => Err(refused(what, &answer)),
                };
            }
            let range = format!("{at}-{}", at + length as u64 - 1);
            let sent = self
                .ask(Method::PATCH, next)
                .header(CONTENT_TYPE, "application/octet-stream")
                .header(CONTENT_RANGE, range)
                .body(piece[..length].to_vec());
            answer = sent.send().await.map_err(fault(what))?;
            at += length as u64;
        }
    }

    /// Where an upload goes on: at the registry itself and nowhere else, since what opens it is sent along.
    fn location(&self, answer: &Response) -> Result<Url, StepError> {
        let said = answer
            .headers()
            .get(LOCATION)
            .and_then(|text| text.to_str().ok());
        let next = said.and_then(|said| self.base.join(said).ok());
        let same = |url: &Url| {
            url.host_str() == self.base.host_str() && url.scheme() == self.base.scheme()
        };
        next.filter(same).ok_or_else(|| {
            StepError::failed("RegistryFailed", "it does not say where an upload goes on")
        })
    }

    async fn manifest(&self, layer: &Value, empty: &str) -> Result<String, StepError> {
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": ARTIFACT,
            "config": { "mediaType": EMPTY, "digest": empty, "size": 2 },
            "layers": [layer],
        });
        let bytes = manifest.to_string().into_bytes();
        let digest = format!("sha256:{}", hex(&Sha256::digest(&bytes)));
        let url = self.url(&format!("manifests/{}", self.reference.tag))?;
        let sent = self
            .ask(Method::PUT, url)
            .header(CONTENT_TYPE, MANIFEST)
            .body(bytes);
        let answer = sent.send().await.map_err(fault("send the manifest"))?;
        match answer.status().is_success() {
            true => Ok(digest),
            false => Err(refused("send the manifest", &answer)),
        }
    }
}

fn read_full(source: &mut (dyn Read + Send), piece: &mut [u8]) -> std::io::Result<usize> {
    let mut length = 0;
    while length < piece.len() {
        match source.read(&mut piece[length..])? {
            0 => break,
            more => length += more,
        }
    }
    Ok(length)
}

/// TLS everywhere but on this host.
fn address(host: &str) -> Result<Url, StepError> {
    let loopback = ["localhost", "127.0.0.1", "[::1]"];
    let plain = host.rsplit_once(':').map_or(host, |(plain, _)| plain);
    let scheme = match loopback.contains(&plain) {
        true => "http",
        false => "https",
    };
    let base = Url::parse(&format!("{scheme}://{host}/"));
    base.map_err(|error| StepError::failed("RegistryFailed", error.to_string()))
}

#[async_trait]
impl Deliver for RegistryTarget {
    async fn deliver(&self, subject: &Subject, handle: &StepHandle) -> Result<Artifact, StepError> {
        let reference = &self.reference;
        let base = address(&reference.host)?;
        let web: &Web = &subject.factory.web;
        let client = web.client(&base).await;
        let client = client.map_err(|error| StepError::failed("RegistryFailed", chain(&error)))?;
        let credential = match &self.credential {
            Some(name) => Some(subject.secret(name).await?),
            None => None,
        };
        let work = subject
            .factory
            .work_folder()
            .map_err(|error| StepError::failed("ExportFailed", error.to_string()))?;
        let path = work.path().join("layer");
        let (store, digest, format, target) = (
            subject.store.clone(),
            subject.digest,
            self.format,
            path.clone(),
        );
        let (sha256, bytes) = blocking(move || {
            let io = |error: std::io::Error| StepError::failed("ExportFailed", error.to_string());
            let file = fs::File::create(&target).map_err(io)?;
            write_disk(&store, &digest, format, &file)?;
            let length = file.metadata().map_err(io)?.len();
            Ok((sha256_of(&target).map_err(io)?, length))
        })
        .await?;
        let mut registry = Registry {
            client,
            base,
            reference,
            credential,
            token: None,
        };
        registry.sign_in().await?;
        let layer_digest = format!("sha256:{sha256}");
        let mut file = fs::File::open(&path)
            .map_err(|error| StepError::failed("ExportFailed", error.to_string()))?;
        registry.blob(&layer_digest, &mut file).await?;
        let empty = format!("sha256:{}", hex(&Sha256::digest(b"{}")));
        registry.blob(&empty, &mut &b"{}"[..]).await?;
        let extension = self.format.extension();
        let layer = json!({
            "mediaType": format!("application/vnd.bullion.disk.v1+{extension}"),
            "digest": layer_digest,
            "size": bytes,
            "annotations": { "org.opencontainers.image.title": format!("{}.{extension}", self.run_output) },
        });
        let manifest = registry.manifest(&layer, &empty).await?;
        handle.log(format!("pushed {reference}, {manifest}"));
        Ok(Artifact {
            id: None,
            uri: Some(format!(
                "oci://{}/{}@{manifest}",
                reference.host, reference.repository
            )),
            found: false,
        })
    }
}
