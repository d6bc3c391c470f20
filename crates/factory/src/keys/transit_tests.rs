//! Stores whose secret a transit engine keeps, against a server that answers as Vault's does.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use disk::MemDisk;
use serde_json::{Value, json};
use store::{KeyFile, KeyService, KeyState, StoreError};
use wire::Location;

use super::{KeyRing, Transit, TransitSettings};
use crate::{RegionError, Regions, StorageSettings};

const TOKEN: &str = "s.token";
const NONCE_BYTES: usize = 12;
const MAX_TRIES: u32 = 1_000_000;
const MAX_REQUEST_BYTES: usize = 64 << 10;

/// A transit engine with one key under every name: every version of it encrypts in its own way, and what was changed or
/// belongs to another domain is refused.
#[derive(Clone)]
pub(crate) struct FakeTransit {
    pub address: String,
    state: Arc<Mutex<State>>,
}

pub(crate) struct State {
    /// The oldest first; version 1 is at the beginning.
    pub keys: Vec<[u8; 32]>,
    /// Versions below it do not decrypt any more.
    pub oldest: usize,
    pub sealed: bool,
}

impl FakeTransit {
    fn start() -> FakeTransit {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let fake = FakeTransit {
            address: format!("http://{}/", listener.local_addr().unwrap()),
            state: Arc::new(Mutex::new(State {
                keys: vec![rand::random()],
                oldest: 1,
                sealed: false,
            })),
        };
        let served = fake.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let _ = stream.and_then(|stream| served.serve(stream));
            }
        });
        fake
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn settings(&self, token_file: &Path) -> TransitSettings {
        TransitSettings {
            address: self.address.clone(),
            mount: "/transit/".to_owned(),
            key: "bullion".to_owned(),
            namespace: Some("images".to_owned()),
            token_file: Some(token_file.to_owned()),
            ca_file: None,
        }
    }

    /// One request; the connection ends with it.
    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut bytes = Vec::new();
        let mut piece = [0; 4096];
        let (head, body) = loop {
            let read = stream.read(&mut piece)?;
            bytes.extend_from_slice(&piece[..read]);
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let Some((head, body)) = text.split_once("\r\n\r\n") else {
                assert!(read > 0 && bytes.len() < MAX_REQUEST_BYTES);
                continue;
            };
            let head = head.to_lowercase();
            let lines = head.lines();
            let length = lines
                .filter_map(|line| line.strip_prefix("content-length: "))
                .find_map(|length| length.parse::<usize>().ok());
            if body.len() >= length.unwrap_or(0) {
                break (head.clone(), body.to_owned());
            }
        };
        let (status, answer) = self.answer(&head, &serde_json::from_str(&body).unwrap_or_default());
        let answer = answer.to_string();
        let length = answer.len();
        write!(
            stream,
            "HTTP/1.1 {status} x\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{answer}"
        )
    }

    fn answer(&self, head: &str, body: &Value) -> (u16, Value) {
        let state = self.state();
        let refuse = |status: u16, what: &str| (status, json!({ "errors": [what] }));
        let asked = head.split(" http").next().unwrap_or_default().to_owned();
        if state.sealed {
            return refuse(503, "Vault is sealed");
        }
        let has = |line: &str| head.lines().any(|known| known == line);
        if !has(&format!("x-vault-token: {TOKEN}")) || !has("x-vault-namespace: images") {
            return refuse(403, "permission denied");
        }
        let bytes = |name: &str| {
            STANDARD
                .decode(body[name].as_str().unwrap_or_default())
                .ok()
        };
        let about = bytes("associated_data").unwrap_or_default();
        // Every name means the same key.
        let (asked, name) = asked.rsplit_once('/').unwrap_or_default();
        assert!(!name.is_empty());
        match asked {
            "get /v1/transit/keys" => (
                200,
                json!({ "data": { "latest_version": state.keys.len(), "type": "aes256-gcm96" } }),
            ),
            "post /v1/transit/encrypt" => {
                let nonce: [u8; NONCE_BYTES] = rand::random();
                let key = state.keys.last().unwrap();
                let sealed = seal(key, &nonce, &about, &bytes("plaintext").unwrap());
                let text = format!("vault:v{}:{}", state.keys.len(), STANDARD.encode(sealed));
                (
                    200,
                    json!({ "data": { "ciphertext": text, "key_version": state.keys.len() } }),
                )
            }
            "post /v1/transit/decrypt" => {
                let text = body["ciphertext"].as_str().unwrap_or_default();
                let (version, sealed) = text
                    .strip_prefix("vault:v")
                    .unwrap()
                    .split_once(':')
                    .unwrap();
                let version: usize = version.parse().unwrap();
                if version < state.oldest || version > state.keys.len() {
                    return refuse(
                        400,
                        "ciphertext or signature version is disallowed by policy (too old)",
                    );
                }
                let sealed = STANDARD.decode(sealed).unwrap_or_default();
                match open(&state.keys[version - 1], &about, &sealed) {
                    Some(plain) => (
                        200,
                        json!({ "data": { "plaintext": STANDARD.encode(plain) } }),
                    ),
                    None => refuse(400, "cipher: message authentication failed"),
                }
            }
            _ => refuse(404, "no handler for route"),
        }
    }
}

/// Nonce, hidden bytes, check. A stand-in for AES-GCM that needs no other crate.
fn seal(key: &[u8; 32], nonce: &[u8; NONCE_BYTES], about: &[u8], plain: &[u8]) -> Vec<u8> {
    let mut stream = vec![0; plain.len()];
    blake3::Hasher::new_keyed(key)
        .update(nonce)
        .finalize_xof()
        .fill(&mut stream);
    let mut sealed = nonce.to_vec();
    sealed.extend(plain.iter().zip(stream).map(|(byte, mask)| byte ^ mask));
    let mut check = blake3::Hasher::new_keyed(key);
    check.update(b"check").update(about).update(&sealed);
    sealed.extend_from_slice(check.finalize().as_bytes());
    sealed
}

fn open(key: &[u8; 32], about: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let (nonce, rest) = sealed.split_first_chunk::<NONCE_BYTES>()?;
    let hidden = &rest[..rest.len().checked_sub(32)?];
    // Sealing what is hidden shows it again.
    let plain = &seal(key, nonce, about, hidden)[NONCE_BYTES..][..hidden.len()];
    (seal(key, nonce, about, plain) == sealed).then(|| plain.to_vec())
}

pub(crate) struct World {
    pub folder: tempfile::TempDir,
    pub fake: FakeTransit,
}

impl World {
    pub(crate) fn new() -> World {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), format!("{TOKEN}\n")).unwrap();
        World {
            folder,
            fake: FakeTransit::start(),
        }
    }

    fn token(&self) -> PathBuf {
        self.folder.path().join("token")
    }

    /// The stores of a server, with or without the key service.
    pub(crate) fn regions(&self, with_service: bool) -> Regions {
        let settings = StorageSettings {
            key_service: with_service.then(|| self.fake.settings(&self.token())),
            ..StorageSettings::default()
        };
        let folder = self.folder.path().join("regions");
        // A program that another test starts at this moment holds a copy of a lock until its own files are closed.
        let mut tries = 0..MAX_TRIES;
        let regions = loop {
            tries.next().expect("the stores stay locked");
            match Regions::open_with(&folder, settings.clone()) {
                Err(RegionError::Open {
                    source: StoreError::InUse { .. },
                    ..
                }) => std::thread::yield_now(),
                opened => break opened.unwrap(),
            }
        };
        regions.define(&north(), &["1".to_owned()]).unwrap();
        regions
    }
}

pub(crate) fn north() -> Location {
    Location::new("north")
}

fn wrapped_by(regions: &Regions) -> (String, u64) {
    let info = regions.store(&north()).unwrap().key_info().unwrap();
    match info.state {
        KeyState::Wrapped { service } => (service, info.generation),
        other => panic!("{other:?}"),
    }
}

#[test]
fn secrets_are_wrapped_for_their_domain() {
    let world = World::new();
    let transit = Transit::new(world.fake.settings(&world.token()));
    let folder = world.folder.path();
    let ids: Vec<_> = ["a", "b"]
        .iter()
        .map(|name| {
            let keys = KeyFile::create(&folder.join(name)).unwrap();
            let options = store::StoreOptions {
                keys: store::Keys::Service(Arc::new(keys)),
                ..Default::default()
            };
            let store = store::Store::open(&folder.join(format!("{name}-store")), options).unwrap();
            store.key_info().unwrap().domain
        })
        .collect();
    let wrapped = transit.wrap(&ids[0], &[7; 32]).unwrap();
    assert_eq!(transit.unwrap(&ids[0], &wrapped).unwrap(), [7; 32]);
    assert!(transit.is_newest(&wrapped).unwrap());
    let check = |error: store::KeyError, expected: &str| {
        assert!(error.to_string().contains(expected), "{error}");
    };
    check(
        transit.unwrap(&ids[1], &wrapped).unwrap_err(),
        "400 cipher: message authentication failed",
    );
    check(
        transit.unwrap(&ids[0], b"not of a vault").unwrap_err(),
        "does not have the key",
    );
    world.fake.state().sealed = true;
    check(
        transit.unwrap(&ids[0], &wrapped).unwrap_err(),
        "reach the key service transit transit/bullion",
    );
    world.fake.state().sealed = false;
    std::fs::write(world.token(), "another").unwrap();
    check(
        transit.wrap(&ids[0], &[7; 32]).unwrap_err(),
        "403 permission denied",
    );
    std::fs::write(world.token(), "\n").unwrap();
    check(
        transit.wrap(&ids[0], &[7; 32]).unwrap_err(),
        "token is empty",
    );
}

#[test]
fn stores_go_from_the_key_file_to_the_service_and_follow_its_key() {
    let world = World::new();
    let disk = MemDisk::from(vec![5; 1 << 20]);
    let digest = {
        let regions = world.regions(false);
        assert_eq!(wrapped_by(&regions), ("key file".to_owned(), 1));
        regions
            .store(&north())
            .unwrap()
            .ingest(&disk)
            .unwrap()
            .digest
    };
    {
        let regions = world.regions(true);
        assert_eq!(
            wrapped_by(&regions),
            ("transit transit/bullion".to_owned(), 2)
        );
        assert!(regions.store(&north()).unwrap().verify(&digest).is_ok());
    }
    // From here on the key file is not needed.
    std::fs::remove_file(world.folder.path().join("keys/stores.key")).unwrap();
    let regions = world.regions(true);
    assert!(regions.store(&north()).unwrap().verify(&digest).is_ok());
    assert_eq!(wrapped_by(&regions).1, 2, "nothing is wrapped for nothing");
    world.fake.state().keys.push(rand::random());
    assert_eq!(regions.keep_wrapped(), 1);
    assert_eq!(wrapped_by(&regions).1, 3);
    assert_eq!(regions.keep_wrapped(), 0);
    // The older version can be forgotten now.
    world.fake.state().oldest = 2;
    drop(regions);
    let regions = world.regions(true);
    assert!(regions.store(&north()).unwrap().verify(&digest).is_ok());
}

#[test]
fn a_service_that_is_away_locks_the_stores_until_it_is_back() {
    let world = World::new();
    let disk = MemDisk::from(vec![6; 1 << 20]);
    let digest = {
        let regions = world.regions(true);
        regions
            .store(&north())
            .unwrap()
            .ingest(&disk)
            .unwrap()
            .digest
    };
    world.fake.state().sealed = true;
    let regions = world.regions(true);
    let store = regions.store(&north()).unwrap();
    assert!(store.disk(&digest).is_err());
    assert!(store.has(&digest), "what needs no key goes on");
    world.fake.state().sealed = false;
    assert!(regions.rescan().unwrap().is_empty());
    assert!(store.verify(&digest).is_ok());
    // A version of the key that is forgotten takes the stores with it: nobody can read them any more.
    world.fake.state().keys.push(rand::random());
    world.fake.state().oldest = 2;
    drop((store, regions));
    let regions = world.regions(true);
    let store = regions.store(&north()).unwrap();
    assert!(store.disk(&digest).is_err());
    let why = store.key_info().unwrap().locked.unwrap();
    assert!(why.contains("too old"), "{why}");
}

#[test]
fn a_ring_unwraps_what_either_wrapped() {
    let world = World::new();
    let file = KeyFile::create(&world.folder.path().join("one.key")).unwrap();
    let regions = world.regions(false);
    let domain = regions.store(&north()).unwrap().key_info().unwrap().domain;
    let by_file = file.wrap(&domain, &[3; 32]).unwrap();
    let transit = Transit::new(world.fake.settings(&world.token()));
    let ring = KeyRing::new(Arc::new(transit), vec![Arc::new(file)]);
    let by_service = ring.wrap(&domain, &[4; 32]).unwrap();
    assert_eq!(ring.unwrap(&domain, &by_file).unwrap(), [3; 32]);
    assert_eq!(ring.unwrap(&domain, &by_service).unwrap(), [4; 32]);
    assert!(!ring.is_newest(&by_file).unwrap());
    assert!(ring.is_newest(&by_service).unwrap());
}
