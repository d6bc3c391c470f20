//! The keys of domains: which one a set names, and changing over to it. A key lies in a key file of the domain's own, or
//! in the transit engine that the configuration names, where a tenant's keys begin with the tenant's id.

use std::path::PathBuf;
use std::sync::Arc;

use jiff::{Timestamp, Unit};
use reqwest::Url;
use store::{DomainId, KeyError, KeyFile, KeyService, StoreError};
use wire::TenantId;

use super::record::{KeyPlace, Phase, Record};
use super::{DomainError, DomainName, DomainSetting};
use crate::keys::{KeyRing, Transit, TransitSettings};
use crate::regions::Regions;

const MAX_KEY_NAME: usize = 128;
/// Keys that a store may still need: each change adds one until all stores have the newest.
const MAX_FORMER: usize = 16;
/// Below the server's address, for keys in key files.
const KEYS: &str = "keys";

/// The key that a set names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyChoice {
    /// The one it has; a new one in a key file where it has none.
    Same,
    /// In a key file: a version that is known, or a new one.
    File { version: Option<String> },
    /// In the transit engine: a version, or whichever is the newest.
    Transit { key: String, version: Option<u64> },
}

/// A domain as this process has it.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub record: Record,
    pub ring: Arc<KeyRing>,
}

/// A key that is not where it should be. Asking for it fails; nothing else does.
#[derive(Debug)]
struct Missing {
    name: String,
    why: String,
}

impl Missing {
    fn error(&self) -> KeyError {
        KeyError::Unavailable {
            service: self.name.clone(),
            source: self.why.clone().into(),
        }
    }
}

impl KeyService for Missing {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn wrap(&self, _: &DomainId, _: &[u8; 32]) -> Result<Vec<u8>, KeyError> {
        Err(self.error())
    }

    fn unwrap(&self, _: &DomainId, _: &[u8]) -> Result<[u8; 32], KeyError> {
        Err(self.error())
    }

    fn is_newest(&self, _: &[u8]) -> Result<bool, KeyError> {
        Err(self.error())
    }
}

impl Regions {
    fn key_file(&self, name: &DomainName) -> PathBuf {
        self.domain_folder().join(format!("{}.key", name.as_str()))
    }

    pub(super) fn remove_key_file(&self, name: &DomainName) {
        let path = self.key_file(name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "the key of a domain stays");
            }
            _ => {}
        }
    }

    fn transit(&self, key: &str) -> Option<Transit> {
        let settings = self.settings().key_service.clone()?;
        Some(Transit::new(TransitSettings {
            key: key.to_owned(),
            ..settings
        }))
    }

    fn service(&self, name: &DomainName, place: &KeyPlace) -> Arc<dyn KeyService> {
        match place {
            KeyPlace::File { .. } => match KeyFile::load(&self.key_file(name)) {
                Ok(file) => Arc::new(file),
                Err(error) => Arc::new(Missing {
                    name: "key file".to_owned(),
                    why: crate::pipeline::chain(&error),
                }),
            },
            KeyPlace::Transit { key, .. } => match self.transit(key) {
                Some(transit) => Arc::new(transit),
                None => Arc::new(Missing {
                    name: format!("transit {key}"),
                    why: "the configuration names no key service".to_owned(),
                }),
            },
        }
    }

    pub(super) fn kept(&self, name: &DomainName, record: Record) -> Kept {
        let services = |places: &[KeyPlace]| {
            let services = places.iter().map(|place| self.service(name, place));
            services.collect()
        };
        let ring = KeyRing::new(self.service(name, &record.key), services(&record.former));
        // Stores that are open ask the ring that they were opened with.
        let ring = match self.domains().get(name) {
            Some(known) => {
                known.ring.replace(ring);
                known.ring
            }
            None => Arc::new(ring),
        };
        Kept { record, ring }
    }

    /// Where people find the key: a path below the server's address, or an address.
    pub(super) fn key_path(&self, name: &DomainName, place: &KeyPlace) -> String {
        match place {
            KeyPlace::File { version } => format!("/{KEYS}/{}/{version}", name.as_str()),
            KeyPlace::Transit { key, version } => {
                let at = self.settings().key_service.as_ref();
                let address = at.map_or("", |at| at.address.trim_end_matches('/'));
                let mount = at.map_or("transit", |at| at.mount.trim_matches('/'));
                format!("{address}/v1/{mount}/keys/{key}/{version}")
            }
        }
    }

    /// The key that an address means: one of `own`, which are addresses of this server, or of the configured key service.
    pub fn key_choice(
        &self,
        name: &DomainName,
        tenant: TenantId,
        url: &str,
        own: &[&str],
    ) -> Result<KeyChoice, DomainError> {
        let asked = Url::parse(url.trim()).ok();
        let below = |base: &str| -> Option<Vec<String>> {
            let (asked, base) = (asked.as_ref()?, Url::parse(base).ok()?);
            let rest = asked
                .path()
                .strip_prefix(base.path().trim_end_matches('/'))?;
            let parts = rest.split('/').filter(|part| !part.is_empty());
            let plain = asked.query().is_none() && asked.username().is_empty();
            (plain && asked.origin() == base.origin()).then(|| parts.map(str::to_owned).collect())
        };
        for base in own {
            let parts = below(base).unwrap_or_default();
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            match parts[..] {
                [KEYS] => return Ok(KeyChoice::File { version: None }),
                [KEYS, named] if named == name.as_str() => {
                    return Ok(KeyChoice::File { version: None });
                }
                [KEYS, named, version] if named == name.as_str() => {
                    let version = Some(version.to_owned());
                    return Ok(KeyChoice::File { version });
                }
                _ => {}
            }
        }
        let service = self.settings().key_service.as_ref();
        let engine = service.map(|at| {
            let (address, mount) = (at.address.trim_end_matches('/'), at.mount.trim_matches('/'));
            format!("{address}/v1/{mount}/keys")
        });
        let parts = engine.as_deref().and_then(below).unwrap_or_default();
        let (key, version) = match &parts[..] {
            [key] => (key, None),
            [key, version] => (key, Some(version)),
            _ => return Err(elsewhere(engine.as_deref(), tenant)),
        };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let is_own = key.starts_with(&format!("{tenant}-"));
        if !is_own || key.len() > MAX_KEY_NAME || !key.bytes().all(plain) {
            return Err(elsewhere(engine.as_deref(), tenant));
        }
        let version = version.map(|version| version.parse::<u64>()).transpose();
        let version = version.map_err(|_| elsewhere(engine.as_deref(), tenant))?;
        Ok(KeyChoice::Transit {
            key: key.clone(),
            version,
        })
    }

    /// Finds or makes the key. `now` is the one in use.
    pub(super) fn chosen_key(
        &self,
        name: &DomainName,
        now: Option<&KeyPlace>,
        choice: &KeyChoice,
    ) -> Result<KeyPlace, DomainError> {
        let unknown = || DomainError::BadKey("The key has no such version.".to_owned());
        match (choice, now) {
            (KeyChoice::Same, Some(now)) => Ok(now.clone()),
            (
                KeyChoice::File {
                    version: Some(version),
                },
                Some(now),
            ) => match now {
                KeyPlace::File { version: known } if known == version => Ok(now.clone()),
                _ => Err(unknown()),
            },
            (KeyChoice::File { version: Some(_) }, None) => Err(unknown()),
            (KeyChoice::Same | KeyChoice::File { version: None }, now) => {
                let path = self.key_file(name);
                let file = KeyFile::load_or_create(&path)?;
                // What a domain of this name had before is nobody's, and what it has now is not new.
                if now.is_some() {
                    file.rotate()?;
                }
                let version = file.newest();
                Ok(KeyPlace::File { version })
            }
            (KeyChoice::Transit { key, version }, _) => {
                let transit = self.transit(key);
                let transit = transit.ok_or_else(|| {
                    DomainError::BadKey("The configuration names no key service.".to_owned())
                })?;
                let latest = transit.latest()?;
                if version.is_some_and(|version| version != latest) {
                    return Err(DomainError::BadKey(format!(
                        "The newest version of the key is {latest}; only that one wraps."
                    )));
                }
                Ok(KeyPlace::Transit {
                    key: key.clone(),
                    version: latest,
                })
            }
        }
    }

    pub(super) fn change_domain(
        &self,
        name: &DomainName,
        kept: Kept,
        wanted: &DomainSetting,
    ) -> Result<(), DomainError> {
        let key = self.chosen_key(name, Some(&kept.record.key), &wanted.key)?;
        let mut record = kept.record.clone();
        record.rotates = wanted.rotates;
        if key != record.key {
            if !same_service(&key, &record.key) {
                record.former.insert(0, record.key.clone());
                record.former.truncate(MAX_FORMER);
            }
            record.key = key;
            record.rotated_at = Some(now());
        }
        if record == kept.record {
            return Ok(());
        }
        self.write_record(name, &record)?;
        let kept = self.kept(name, record);
        self.domains().known().insert(name.clone(), kept);
        self.rewrap(name)
    }

    /// Has the newest version of the key wrap the secret; where it is in a key file, one that is made now. Blocks.
    pub fn rotate_domain(&self, name: &DomainName) -> Result<(), DomainError> {
        let _change = self.domains().change();
        let kept = self.domains().get(name).ok_or(DomainError::Unknown)?;
        if kept.record.phase != Phase::Active {
            return Err(DomainError::Erased);
        }
        let key = match &kept.record.key {
            KeyPlace::File { .. } => KeyChoice::File { version: None },
            KeyPlace::Transit { key, .. } => KeyChoice::Transit {
                key: key.clone(),
                version: None,
            },
        };
        let wanted = DomainSetting {
            set: kept.record.set.clone(),
            tenant: kept.record.tenant,
            region: kept.record.region.clone(),
            key,
            rotates: kept.record.rotates,
        };
        self.change_domain(name, kept, &wanted)
    }

    /// One small write for each store, whatever it holds. When all have it, older keys are forgotten.
    fn rewrap(&self, name: &DomainName) -> Result<(), DomainError> {
        let Some(kept) = self.domains().get(name) else {
            return Ok(());
        };
        let place = name.place(&kept.record.region).folded();
        let mut all = true;
        for member in self.entry(&place).members() {
            let Some(store) = member.store() else {
                all = false;
                continue;
            };
            let wrapped = store.keep_wrapped(&*kept.ring);
            wrapped.map_err(|source| DomainError::Store {
                shown: member.shown(),
                source,
            })?;
        }
        let mut record = kept.record.clone();
        if !all {
            return Ok(());
        }
        record.former.clear();
        match &record.key {
            KeyPlace::File { .. } => {
                KeyFile::load(&self.key_file(name)).and_then(|file| file.drop_old())?;
            }
            KeyPlace::Transit { .. } => self.remove_key_file(name),
        }
        self.write_record(name, &record)?;
        let kept = self.kept(name, record);
        self.domains().known().insert(name.clone(), kept);
        Ok(())
    }

    /// Takes newer versions of keys, where that is asked for, and closes what a key was taken away from. Blocks.
    pub(crate) fn keep_domains_wrapped(&self) {
        let _change = self.domains().change();
        for (name, kept) in self.domains().all() {
            if kept.record.phase != Phase::Active {
                continue;
            }
            let place = name.place(&kept.record.region).folded();
            for store in self.entry(&place).stores() {
                if let Ok(false) = store.recheck() {
                    let set = &kept.record.set;
                    tracing::warn!(%set, "a domain's key was taken away; nothing of it is read");
                }
            }
            // In a file it costs nothing to look whether an earlier change was not finished.
            let is_file = matches!(kept.record.key, KeyPlace::File { .. });
            let kept_up = match kept.record.rotates || is_file || !kept.record.former.is_empty() {
                true => self.take_newest(&name, &kept),
                false => Ok(()),
            };
            match kept_up {
                Ok(())
                | Err(DomainError::Store {
                    source: StoreError::Locked { .. },
                    ..
                }) => {}
                Err(error) => {
                    let (error, set) = (crate::pipeline::chain(&error), &kept.record.set);
                    tracing::warn!(%set, error, "a domain's secret stays wrapped with an older key");
                }
            }
        }
    }

    fn take_newest(&self, name: &DomainName, kept: &Kept) -> Result<(), DomainError> {
        let mut record = kept.record.clone();
        if let (true, KeyPlace::Transit { key, version }) = (record.rotates, &mut record.key)
            && let Some(transit) = self.transit(key)
        {
            *version = transit.latest()?;
        }
        if record != kept.record {
            record.rotated_at = Some(now());
            self.write_record(name, &record)?;
            let kept = self.kept(name, record);
            self.domains().known().insert(name.clone(), kept);
        }
        self.rewrap(name)
    }
}

fn elsewhere(engine: Option<&str>, tenant: TenantId) -> DomainError {
    let mut message = "The key URL names no key vault of this installation. Leave it out for a key that is made here"
        .to_owned();
    match engine {
        Some(engine) => message += &format!(", or name a key `{engine}/{tenant}-NAME`."),
        None => message += ".",
    }
    DomainError::BadKey(message)
}

/// Whether whoever unwraps the one unwraps the other.
fn same_service(one: &KeyPlace, other: &KeyPlace) -> bool {
    match (one, other) {
        (KeyPlace::File { .. }, KeyPlace::File { .. }) => true,
        (KeyPlace::Transit { key: one, .. }, KeyPlace::Transit { key: other, .. }) => one == other,
        _ => false,
    }
}

fn now() -> String {
    let now = Timestamp::now();
    now.round(Unit::Second).unwrap_or(now).to_string()
}
