//! The part of the configuration that says where bits are and how they are kept.
//!
//! A zone for which no store is named has one in the data folder. Keys of object stores are no part of it: they come
//! from the environment, or from a file that a store's address names.

use std::path::PathBuf;
use std::time::Duration;

use factory::keys::TransitSettings;
use factory::{StorageSettings, StoreSetting};
use serde::Deserialize;
use store::place::At;
use store::region::Region;

const MIB: u64 = 1 << 20;
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// `[storage]`.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageFile {
    /// Mebibytes per second from one region to another, at most.
    pub bandwidth_mib: Option<u32>,
    /// Everything is read again within so many days.
    pub scrub_days: Option<u16>,
    /// Bits that nothing has any more are kept for so many hours.
    pub grace_hours: Option<u16>,
    /// What builds left on their way is kept for so many days.
    pub build_cache_days: Option<u16>,
    /// Mebibytes of memory for what is known of what all stores hold.
    pub index_mib: Option<u32>,
    pub key_service: Option<KeyServiceFile>,
    #[serde(default)]
    pub stores: Vec<StoreFile>,
}

/// `[storage.key_service]`: the transit engine of a Vault or OpenBao server.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyServiceFile {
    pub address: String,
    /// `transit` unless given.
    pub mount: Option<String>,
    pub key: String,
    pub namespace: Option<String>,
    /// `VAULT_TOKEN` of the environment unless given.
    pub token_file: Option<PathBuf>,
    /// Who signs the certificate of the key service.
    pub ca_file: Option<PathBuf>,
}

/// `[[storage.stores]]`: one store of a zone.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreFile {
    pub region: String,
    pub zone: String,
    /// Needed where a zone has more than one.
    pub name: Option<String>,
    /// A folder, or `s3://`, `az://`, `gs://`.
    pub at: String,
    #[serde(default)]
    pub premium: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    #[error("the store of zone {zone} in region {region} is at `{at}`, which cannot be")]
    Address {
        region: String,
        zone: String,
        at: String,
        #[source]
        cause: store::place::AtError,
    },
    #[error(
        "zone {zone} of region {region} has two stores of the name `{name}`: give each a `name` of its own"
    )]
    Twice {
        region: String,
        zone: String,
        name: String,
    },
    #[error("two stores are at `{at}`")]
    SamePlace { at: String },
    #[error(
        "the key service has no good `{field}`: `address` begins with https:// (or http:// for this host), and `mount` and `key` are names as in a path of Vault's"
    )]
    KeyService { field: &'static str },
}

impl StorageFile {
    pub fn settings(self) -> Result<StorageSettings, StorageError> {
        let default = StorageSettings::default();
        let mut stores: Vec<StoreSetting> = Vec::new();
        for store in self.stores {
            let setting = setting(store)?;
            let same_name = |known: &&StoreSetting| {
                (&known.region, &known.zone, &known.name)
                    == (&setting.region, &setting.zone, &setting.name)
            };
            if stores.iter().find(same_name).is_some() {
                let StoreSetting {
                    region, zone, name, ..
                } = setting;
                return Err(StorageError::Twice { region, zone, name });
            }
            if stores.iter().any(|known| known.at == setting.at) {
                let at = setting.at.to_string();
                return Err(StorageError::SamePlace { at });
            }
            stores.push(setting);
        }
        let times = |unit: Duration, count: Option<u16>, default| {
            count.map_or(default, |count| unit * u32::from(count))
        };
        Ok(StorageSettings {
            stores,
            bandwidth: self.bandwidth_mib.map(|mib| u64::from(mib) * MIB),
            scrub_period: times(DAY, self.scrub_days, default.scrub_period).max(DAY),
            grace: times(HOUR, self.grace_hours, default.grace),
            build_cache: times(DAY, self.build_cache_days, default.build_cache),
            key_service: self.key_service.map(key_service).transpose()?,
            index_bytes: self
                .index_mib
                .map_or(default.index_bytes, |mib| u64::from(mib) * MIB),
        })
    }
}

/// The token and the secrets of stores go there, so not over a network in the open.
fn key_service(file: KeyServiceFile) -> Result<TransitSettings, StorageError> {
    let is_here = |address: &str| {
        let host = address.strip_prefix("http://");
        let host = host.and_then(|rest| rest.split(['/', ':']).next());
        host.is_some_and(|host| matches!(host, "127.0.0.1" | "localhost" | "[::1]"))
    };
    let is_name = |name: &str, more: &[u8]| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || more.contains(&byte);
        !name.is_empty() && !name.contains("..") && name.bytes().all(plain)
    };
    let mount = file.mount.unwrap_or_else(|| "transit".to_owned());
    let bad = |field| Err(StorageError::KeyService { field });
    match () {
        () if !file.address.starts_with("https://") && !is_here(&file.address) => bad("address"),
        () if !is_name(&mount, b"-_./") => bad("mount"),
        () if !is_name(&file.key, b"-_.") => bad("key"),
        () => Ok(TransitSettings {
            address: file.address,
            mount,
            key: file.key,
            namespace: file.namespace,
            token_file: file.token_file,
            ca_file: file.ca_file,
        }),
    }
}

fn setting(store: StoreFile) -> Result<StoreSetting, StorageError> {
    let at: Result<At, _> = store.at.parse();
    let at = at.map_err(|cause| StorageError::Address {
        region: store.region.clone(),
        zone: store.zone.clone(),
        at: store.at.clone(),
        cause,
    })?;
    Ok(StoreSetting {
        region: wire::Location::new(&store.region).folded(),
        zone: store.zone,
        name: store.name.unwrap_or_else(|| Region::ONLY.to_owned()),
        at,
        premium: store.premium,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<usize, &str>) {
        let file: StorageFile = toml::from_str(text).expect("a file");
        match (file.settings(), expected) {
            (Ok(settings), Ok(stores)) => assert_eq!(settings.stores.len(), stores),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (outcome, _) => panic!("{outcome:?}"),
        }
    }

    #[test]
    fn secrets_go_to_a_key_service_over_tls() {
        let with = |text: &str| format!("[key_service]\nkey = \"stores\"\n{text}");
        check(&with("address = \"https://vault:8200\""), Ok(0));
        check(&with("address = \"http://127.0.0.1:8200\""), Ok(0));
        check(&with("address = \"http://vault:8200\""), Err("`address`"));
        check(
            &with("address = \"http://127.0.0.1.evil\""),
            Err("`address`"),
        );
        check(
            &with("address = \"https://vault\"\nmount = \"a/../b\""),
            Err("`mount`"),
        );
    }

    #[test]
    fn stores_have_a_place_and_a_name_of_their_own() {
        check("", Ok(0));
        check("scrub_days = 7\ngrace_hours = 0\nbandwidth_mib = 20", Ok(0));
        let two = |first: &str, second: &str| {
            format!(
                "[[stores]]\nregion = \"West Europe\"\nzone = \"1\"\n{first}\n\
                 [[stores]]\nregion = \"westeurope\"\nzone = \"1\"\n{second}\n"
            )
        };
        check(
            &two(
                "at = \"/a\"\nname = \"a\"",
                "at = \"s3://b/c\"\nname = \"b\"\npremium = true",
            ),
            Ok(2),
        );
        check(
            &two("at = \"/a\"", "at = \"/b\""),
            Err("give each a `name`"),
        );
        check(
            &two("at = \"/a\"\nname = \"a\"", "at = \"/a\"\nname = \"b\""),
            Err("two stores are at"),
        );
        check(
            &two("at = \"ftp://x\"", "at = \"/b\""),
            Err("which cannot be"),
        );
    }
}
