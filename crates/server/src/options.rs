//! How a server is started: options given in code or on a command line, over a file, over defaults.
//!
//! No configuration is needed. What is in the file and not known is refused, with its line.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use catalog::{Place, PlaceError};
use factory::StorageSettings;
use factory::fetch::Reach;
use serde::Deserialize;

use crate::engine::JobsRun;
use crate::limits::Limits;
use crate::rates::RatesConfig;
use crate::sinks::{SINKS_MAX, SinkAddress};
use crate::storage::{StorageError, StorageFile};

/// Read from the data folder when no file is named.
pub const FILE_NAME: &str = "bullion.toml";
/// As long as Azure keeps its own.
const ACTIVITY_DAYS: u32 = 90;
const LISTEN_DEFAULT: &str = "127.0.0.1:8443";

#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    #[error("cannot read the configuration {path}")]
    Read {
        path: PathBuf,
        #[source]
        cause: std::io::Error,
    },
    #[error("the configuration {path} is not valid")]
    Parse {
        path: PathBuf,
        #[source]
        cause: Box<toml::de::Error>,
    },
    #[error(
        "a front end leaves its jobs to another server, so it needs a database that both use: name it with --database"
    )]
    FrontEndAlone,
    #[error("activity_sinks names more than {SINKS_MAX} receivers")]
    Sinks,
    #[error(transparent)]
    Database(#[from] PlaceError),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// What a caller asks for; `None` leaves it to the file, and the file to the default.
#[derive(Clone, Debug, Default)]
pub struct ServeOptions {
    pub data: PathBuf,
    pub listen: Option<SocketAddr>,
    /// More names and addresses that the server certificate covers.
    pub names: Vec<String>,
    /// A folder whose files may be used as VHDs, by URIs of this server below `/blobs/`.
    pub blobs: Option<PathBuf>,
    /// A PostgreSQL database, `postgres://USER@HOST/NAME`, that several servers may share; otherwise SQLite in the
    /// data folder.
    pub database: Option<String>,
    /// Leaves builds, machines and all other jobs to another server on the database.
    pub front_end: bool,
    /// A CA, PEM, that is trusted besides the host's when issuers of federated credentials are asked for their keys.
    pub issuer_ca: Option<PathBuf>,
    /// `<data>/bullion.toml` where it exists, otherwise none.
    pub config: Option<PathBuf>,
}

/// The file. Names what an operator may set, and nothing that a default cannot stand in for.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigFile {
    pub listen: Option<SocketAddr>,
    #[serde(default)]
    pub names: Vec<String>,
    pub blobs: Option<PathBuf>,
    pub database: Option<String>,
    #[serde(default)]
    pub front_end: bool,
    pub issuer_ca: Option<PathBuf>,
    #[serde(default)]
    pub rates: RatesConfig,
    /// How long lines of the activity log are kept.
    pub activity_days: Option<u32>,
    /// Where else its lines are sent to.
    #[serde(default)]
    pub activity_sinks: Vec<SinkAddress>,
    /// Hosts that VHDs may be read from, and that builds may fetch contents from and send them to even if they are in
    /// the server's own networks.
    #[serde(default)]
    pub fetch_hosts: Vec<String>,
    /// Certificates, PEM, that are trusted besides the host's when contents are fetched and images sent.
    pub fetch_ca: Option<PathBuf>,
    /// How many galleries, definitions and versions a subscription may have in a region.
    #[serde(default)]
    pub limits: Limits,
    #[serde(default)]
    pub storage: StorageFile,
}

/// The options, resolved.
#[derive(Clone, Debug)]
pub struct Settings {
    pub listen: SocketAddr,
    pub names: Vec<String>,
    pub blobs: Option<PathBuf>,
    pub database: Option<Place>,
    pub jobs: JobsRun,
    pub issuer_ca: Option<PathBuf>,
    pub rates: RatesConfig,
    pub activity_days: u32,
    pub activity_sinks: Vec<SinkAddress>,
    pub reach: Reach,
    pub limits: Limits,
    pub storage: StorageSettings,
}

impl ServeOptions {
    pub fn resolve(&self) -> Result<Settings, OptionsError> {
        let file = match &self.config {
            Some(path) => read(path)?,
            None => {
                let path = self.data.join(FILE_NAME);
                if path.exists() {
                    read(&path)?
                } else {
                    ConfigFile::default()
                }
            }
        };
        let database = self.database.clone().or(file.database);
        let jobs = match (self.front_end || file.front_end, &database) {
            (false, _) => JobsRun::Here,
            (true, Some(_)) => JobsRun::Elsewhere,
            (true, None) => return Err(OptionsError::FrontEndAlone),
        };
        if file.activity_sinks.len() > SINKS_MAX {
            return Err(OptionsError::Sinks);
        }
        let default = LISTEN_DEFAULT.parse().expect("the default is an address");
        Ok(Settings {
            listen: self.listen.or(file.listen).unwrap_or(default),
            names: file.names.into_iter().chain(self.names.clone()).collect(),
            blobs: self.blobs.clone().or(file.blobs),
            database: database.map(|text| text.parse()).transpose()?,
            jobs,
            issuer_ca: self.issuer_ca.clone().or(file.issuer_ca),
            rates: file.rates,
            activity_sinks: file.activity_sinks,
            activity_days: file.activity_days.unwrap_or(ACTIVITY_DAYS),
            reach: Reach {
                hosts: file.fetch_hosts,
                ca: file.fetch_ca,
            },
            limits: file.limits,
            storage: file.storage.settings()?,
        })
    }
}

fn read(path: &Path) -> Result<ConfigFile, OptionsError> {
    let text = std::fs::read_to_string(path).map_err(|cause| OptionsError::Read {
        path: path.to_path_buf(),
        cause,
    })?;
    toml::from_str(&text).map_err(|cause| OptionsError::Parse {
        path: path.to_path_buf(),
        cause: Box::new(cause),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(file: Option<&str>, listen: Option<&str>, expected: Result<&str, &str>) {
        let dir = tempfile::tempdir().unwrap();
        if let Some(file) = file {
            std::fs::write(dir.path().join(FILE_NAME), file).unwrap();
        }
        let options = ServeOptions {
            data: dir.path().to_path_buf(),
            listen: listen.map(|text| text.parse().unwrap()),
            ..ServeOptions::default()
        };
        match (options.resolve(), expected) {
            (Ok(settings), Ok(address)) => assert_eq!(settings.listen.to_string(), address),
            (Err(OptionsError::Parse { cause, .. }), Err(part)) => {
                assert!(cause.to_string().contains(part), "{cause}");
            }
            (outcome, expected) => panic!("{outcome:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn the_command_line_wins_over_the_file_and_the_file_over_the_default() {
        check(None, None, Ok("127.0.0.1:8443"));
        check(Some("listen = \"127.0.0.1:1\""), None, Ok("127.0.0.1:1"));
        check(
            Some("listen = \"127.0.0.1:1\""),
            Some("127.0.0.1:2"),
            Ok("127.0.0.1:2"),
        );
        check(
            Some("# c\nlisen = \"127.0.0.1:1\""),
            None,
            Err("unknown field `lisen`"),
        );
        check(Some("listen = 8443"), None, Err("line 1"));
        let sinks = "activity_sinks = [\"syslog+tls://logs.example\", \"otlp+http://[::1]\"]";
        check(Some(sinks), None, Ok("127.0.0.1:8443"));
        check(
            Some("activity_sinks = [\"tcp://logs.example\"]"),
            None,
            Err("is no protocol of receivers"),
        );
        let limits = "[limits]\nimage_versions = 20000";
        check(Some(limits), None, Ok("127.0.0.1:8443"));
        check(
            Some("[limits]\nimages = 1"),
            None,
            Err("unknown field `images`"),
        );
    }

    #[test]
    fn the_example_of_three_zones_is_a_configuration() {
        let text = include_str!("../../../examples/three-zones/bullion.toml");
        let file: ConfigFile = toml::from_str(text).unwrap();
        let storage = file.storage.settings().unwrap();
        assert_eq!(storage.stores.len(), 5);
        assert_eq!(storage.bandwidth, Some(50 << 20));
    }

    #[test]
    fn a_database_is_one_line_without_a_password() {
        check(
            Some("database = \"postgres://me@db.example/b\"\nfront_end = true"),
            None,
            Ok("127.0.0.1:8443"),
        );
        for (file, told) in [
            ("database = \"postgres://me:x@db.example/b\"", "PGPASSFILE"),
            ("front_end = true", "--database"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join(FILE_NAME), file).unwrap();
            let options = ServeOptions {
                data: dir.path().to_path_buf(),
                ..ServeOptions::default()
            };
            let said = options.resolve().unwrap_err().to_string();
            assert!(said.contains(told), "{said}");
        }
    }
}
