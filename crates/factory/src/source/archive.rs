//! Debian 12 from a package archive: pins its state with apt, unprivileged and apart from the
//! machine's own apt, and has a disk made of it. It must not change anything of the machine's.

use std::path::{Path, PathBuf};

use process::Command;
use sha2::{Digest, Sha256};
use std::time::Duration;

use super::bootstrap::{self, Tools};
use super::host_apt::{self, SourceLine};
use super::pin::{PinFolder, hex};
use super::release::{MAX_RELEASE_BYTES, Release};
use super::{
    Archive, BaseInputs, BaseRequest, LogLine, Pin, PlatformImage, Product, Provider, SourceError,
    SuiteState,
};

const PUBLISHER: &str = "Debian";
/// The release whose sources a Debian host is likely to have; those of the others are read beside them.
const HOST_CODENAME: &str = "bookworm";

/// One release of Debian.
#[derive(Debug)]
pub(super) struct DebianRelease {
    offer: &'static str,
    sku: &'static str,
    codename: &'static str,
    /// What it is called where its archive gives no point release.
    number: &'static str,
    /// The first one must be there.
    suites: [&'static str; 3],
}

/// Those that are offered.
pub(super) const RELEASES: [DebianRelease; 3] = [
    DebianRelease {
        offer: "debian-12",
        sku: "12-gen2",
        codename: "bookworm",
        number: "12",
        suites: ["bookworm", "bookworm-updates", "bookworm-security"],
    },
    DebianRelease {
        offer: "debian-13",
        sku: "13-gen2",
        codename: "trixie",
        number: "13",
        suites: ["trixie", "trixie-updates", "trixie-security"],
    },
    DebianRelease {
        offer: "debian-11",
        sku: "11-gen2",
        codename: "bullseye",
        number: "11",
        suites: ["bullseye", "bullseye-updates", "bullseye-security"],
    },
];
const COMPONENTS: [&str; 1] = ["main"];
pub(crate) const ARCHITECTURE: &str = "amd64";
const UPDATE_DEADLINE: Duration = Duration::from_secs(300);
/// An archive that sends nothing for so long is given up.
const SILENCE_MAX: Duration = Duration::from_secs(20);
/// Environment through which programs here may learn of a proxy.
pub(crate) const PROXY_VARIABLES: [&str; 8] = [
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
];

/// The provider of one release.
#[derive(Debug)]
pub struct DebianArchive {
    release: &'static DebianRelease,
    /// `<data>/cache`
    cache: PathBuf,
    pins: PinFolder,
    /// How long an archive may send nothing; whole seconds.
    silence: Duration,
    /// One update of the private apt state at a time.
    updating: tokio::sync::Mutex<()>,
}

impl DebianArchive {
    /// Debian 12. Keeps its state below `cache` (the data folder's cache). Touches nothing yet.
    pub fn new(cache: &Path) -> Self {
        DebianArchive::of(cache, &RELEASES[0])
    }

    pub(super) fn of(cache: &Path, release: &'static DebianRelease) -> Self {
        DebianArchive {
            release,
            cache: cache.to_owned(),
            pins: PinFolder::new(cache.join("archive")),
            silence: SILENCE_MAX,
            updating: tokio::sync::Mutex::new(()),
        }
    }

    /// The same with another limit to how long an archive may send nothing; whole seconds.
    pub fn with_silence(mut self, silence: Duration) -> Self {
        self.silence = silence;
        self
    }

    fn apt_folder(&self) -> PathBuf {
        match self.release.codename {
            HOST_CODENAME => self.cache.join("apt"),
            other => self.cache.join(format!("apt-{other}")),
        }
    }

    fn pins(&self) -> Vec<Pin> {
        let DebianRelease { offer, sku, .. } = self.release;
        let mut pins = self.pins.all();
        pins.retain(|pin| pin.image.is_product(PUBLISHER, offer, sku));
        pins
    }

    /// The newest pin of that version.
    fn pinned(&self, image: &PlatformImage) -> Result<Pin, SourceError> {
        let pins = self.pins();
        let DebianRelease { offer, sku, .. } = self.release;
        let known: Vec<&str> = pins.iter().map(|pin| pin.image.version.as_str()).collect();
        let error = SourceError::NotPinned {
            product: format!("{PUBLISHER}:{offer}:{sku}"),
            version: image.version.clone(),
            known: if known.is_empty() {
                "none".to_owned()
            } else {
                known.join(", ")
            },
        };
        pins.into_iter()
            .rev()
            .find(|pin| pin.image.version == image.version)
            .ok_or(error)
    }

    /// Brings the private lists up to date. Lists that did not change are not fetched again.
    async fn update(&self, sources: &[SourceLine]) -> Result<PathBuf, SourceError> {
        let folder = self.apt_folder();
        let lists = folder.join("state/lists");
        for path in [lists.join("partial"), folder.join("cache/archives/partial")] {
            std::fs::create_dir_all(&path).map_err(SourceError::file("make", &path))?;
        }
        let list: String = sources.iter().map(|line| format!("{line}\n")).collect();
        let list_file = folder.join("sources.list");
        std::fs::write(&list_file, list).map_err(SourceError::file("write", &list_file))?;
        let acquire = host_apt::acquire_settings(self.silence).await?;
        let config_file = folder.join("apt.conf");
        std::fs::write(&config_file, private_config(&folder, &acquire))
            .map_err(SourceError::file("write", &config_file))?;
        let updated = Command::new("apt-get")
            .args(["update", "--error-on=any", "-q"])
            // Nothing here asks apt about packages, and its cache takes longer to make than the lists to read.
            .args(["-o", "pkgCacheFile::Generate=false"])
            .env("APT_CONFIG", &config_file)
            .inherit(PROXY_VARIABLES)
            .deadline(UPDATE_DEADLINE)
            .run()
            .await;
        match updated {
            Ok(_) => Ok(lists),
            Err(
                source @ (process::ProcessError::Failed { .. }
                | process::ProcessError::Deadline { .. }),
            ) => {
                let known = self.pins().last().map(|pin| {
                    format!(
                        "or build from the last pinned state by asking for version {}",
                        pin.image.version
                    )
                });
                let hint = known.unwrap_or_else(|| "nothing was pinned here before".to_owned());
                Err(SourceError::ArchiveUnreachable { hint, source })
            }
            Err(other) => Err(other.into()),
        }
    }
}

/// An apt that reads nothing of the machine's configuration and writes below `folder` alone.
fn private_config(folder: &Path, acquire: &str) -> String {
    let folder = folder.display();
    format!(
        "Dir::Etc::main \"/dev/null\";\nDir::Etc::parts \"/dev/null\";\n\
         Dir::Etc::sourcelist \"{folder}/sources.list\";\nDir::Etc::sourceparts \"/dev/null\";\n\
         Dir::State \"{folder}/state\";\nDir::State::status \"/dev/null\";\nDir::Cache \"{folder}/cache\";\n\
         APT::Architecture \"{ARCHITECTURE}\";\nAPT::Architectures {{ \"{ARCHITECTURE}\"; }};\n\
         APT::Sandbox::User \"\";\nAcquire::Languages \"none\";\n{acquire}"
    )
}

/// What the suites in `lists` hold, in the order of `sources`, and the version that the main one
/// gives itself.
fn read_states(
    lists: &Path,
    sources: &[SourceLine],
    codename: &str,
) -> Result<(Vec<SuiteState>, Option<String>), SourceError> {
    let entries = std::fs::read_dir(lists).map_err(SourceError::file("list", lists))?;
    let mut found = Vec::new();
    for path in entries.flatten().map(|entry| entry.path()) {
        if !path.to_string_lossy().ends_with("InRelease") {
            continue;
        }
        let length = path
            .metadata()
            .map_err(SourceError::file("look at", &path))?
            .len();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if length > MAX_RELEASE_BYTES {
            return Err(SourceError::BadRelease {
                file: name,
                reason: "it is too long",
            });
        }
        let text = std::fs::read_to_string(&path).map_err(SourceError::file("read", &path))?;
        let release = Release::parse(&text, &name, &COMPONENTS, ARCHITECTURE)?;
        found.push((release, hex(&Sha256::digest(text.as_bytes()))));
    }
    let mut states = Vec::new();
    for line in sources {
        let wanted = found
            .iter()
            .find(|(release, _)| release.codename == line.suite);
        let Some((release, hash)) = wanted else {
            return Err(SourceError::BadRelease {
                file: format!("index of {}", line.suite),
                reason: "the archive calls this suite by another name",
            });
        };
        states.push(SuiteState {
            suite: line.suite.clone(),
            date: release.date,
            in_release_sha256: hash.clone(),
            packages: release.packages.clone(),
        });
    }
    let main = found
        .into_iter()
        .find(|(release, _)| release.codename == codename);
    Ok((states, main.and_then(|(release, _)| release.version)))
}

/// The host's sources, and the same of another release beside them: an archive holds all of them under one key ring.
fn beside(host: Vec<SourceLine>, codename: &str) -> Vec<SourceLine> {
    let mut sources = host.clone();
    for line in host {
        if let Some(rest) = line.suite.strip_prefix(HOST_CODENAME) {
            let suite = format!("{codename}{rest}");
            if !sources.iter().any(|known| known.suite == suite) {
                sources.push(SourceLine { suite, ..line });
            }
        }
    }
    sources
}

#[async_trait::async_trait]
impl Provider for DebianArchive {
    fn products(&self) -> Vec<Product> {
        let DebianRelease { offer, sku, .. } = self.release;
        let mut versions: Vec<String> = self
            .pins()
            .into_iter()
            .map(|pin| pin.image.version)
            .collect();
        versions.dedup();
        vec![Product {
            publisher: PUBLISHER.to_owned(),
            offer: (*offer).to_owned(),
            sku: (*sku).to_owned(),
            versions,
        }]
    }

    async fn resolve(
        &self,
        image: &PlatformImage,
        mirrors: &[SourceLine],
    ) -> Result<Pin, SourceError> {
        let DebianRelease {
            offer,
            sku,
            codename,
            number,
            suites,
        } = self.release;
        if !image.is_product(PUBLISHER, offer, sku) {
            return Err(SourceError::UnknownImage {
                image: image.to_string(),
                known: format!("{PUBLISHER}:{offer}:{sku}"),
            });
        }
        if !image.is_latest() {
            let pin = self.pinned(image)?;
            self.pins.check(&pin)?;
            return Ok(pin);
        }
        let offered = match mirrors {
            [] => beside(host_apt::host_sources().await?, codename),
            named => named.to_vec(),
        };
        let sources = host_apt::select(&offered, suites, &COMPONENTS)?;
        let _one_at_a_time = self.updating.lock().await;
        let lists = self.update(&sources).await?;
        let (states, version) = read_states(&lists, &sources, codename)?;
        let point = version.unwrap_or_else(|| (*number).to_owned());
        let newest = states
            .iter()
            .map(|state| state.date)
            .max()
            .unwrap_or_default();
        let dated = format!("{point}.{}", newest.strftime("%Y%m%d"));
        let pinned = PlatformImage {
            publisher: PUBLISHER.to_owned(),
            offer: (*offer).to_owned(),
            sku: (*sku).to_owned(),
            version: dated,
        };
        let os_version = format!("Debian GNU/Linux {point} ({codename})");
        let pin = Pin::new(pinned, os_version, states, sources);
        self.pins.keep(&pin, &lists)?;
        self.pins.check(&pin)?;
        Ok(pin)
    }

    async fn inputs(&self, pin: &Pin, request: &BaseRequest) -> Result<BaseInputs, SourceError> {
        let tools = Tools::installed().await?;
        Ok(bootstrap::inputs(pin, request, &tools))
    }

    async fn bootstrap(
        &self,
        pin: &Pin,
        request: &BaseRequest,
        work: &Path,
        log: LogLine,
    ) -> Result<PathBuf, SourceError> {
        self.pins.check(pin)?;
        let acquire = host_apt::acquire_settings(self.silence).await?;
        let place = bootstrap::Place {
            lists: self.pins.lists(pin),
            debs: self.cache.join("debs"),
            work: work.to_owned(),
            acquire,
        };
        bootstrap::run(pin, request, &place, log).await
    }

    async fn archive(&self, pin: &Pin) -> Result<Option<Archive>, SourceError> {
        self.pins.check(pin)?;
        let proxies = PROXY_VARIABLES.iter().filter_map(|name| {
            let value = std::env::var(name).ok()?;
            Some(((*name).to_owned(), value))
        });
        Ok(Some(Archive {
            lists: self.pins.lists(pin),
            sources_list: pin.sources_list(),
            debs: self.cache.join("debs"),
            acquire: host_apt::acquire_settings(self.silence).await?,
            environment: proxies.collect(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_what_is_wrong_before_it_reaches_for_the_network() {
        let folder = tempfile::tempdir().unwrap();
        let provider = DebianArchive::new(folder.path());
        let other = "Debian:debian-13:13-gen2:latest".parse().unwrap();
        let error = provider.resolve(&other, &[]).await.unwrap_err();
        assert!(matches!(error, SourceError::UnknownImage { .. }), "{error}");
        let never = "Debian:debian-12:12-gen2:12.1.20230101".parse().unwrap();
        let error = provider.resolve(&never, &[]).await.unwrap_err().to_string();
        assert!(
            error.contains("was never pinned here; pinned are: none"),
            "{error}"
        );
        let latest = "debian:debian-12:12-gen2:Latest".parse().unwrap();
        let line = host_apt::one_line("deb http://mirror.example/debian trixie main").unwrap();
        let error = provider
            .resolve(&latest, &[line.unwrap()])
            .await
            .unwrap_err();
        assert!(matches!(error, SourceError::NoMirror { .. }), "{error}");
    }
}
