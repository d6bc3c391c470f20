//! One release of a distribution from its package archive: pins its state with apt, unprivileged and apart from the
//! machine's own apt, and has a disk made of it. It must not change anything of the machine's.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use process::{Command, ProcessError};
use sha2::{Digest, Sha256};

use super::bootstrap::{self, Tools};
use super::content::DEBIAN;
use super::host_apt::{self, SourceLine};
use super::pin::{Described, PinFolder, hex};
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
    number: &'static str,
    suites: [&'static str; 3],
}

/// Those that are offered.
pub(super) const RELEASES: [DebianRelease; 3] = [
    DebianRelease {
        offer: "debian-12",
        sku: "12-gen2",
        number: "12",
        suites: ["bookworm", "bookworm-updates", "bookworm-security"],
    },
    DebianRelease {
        offer: "debian-13",
        sku: "13-gen2",
        number: "13",
        suites: ["trixie", "trixie-updates", "trixie-security"],
    },
    DebianRelease {
        offer: "debian-11",
        sku: "11-gen2",
        number: "11",
        suites: ["bullseye", "bullseye-updates", "bullseye-security"],
    },
];
pub(crate) const ARCHITECTURE: &str = "amd64";
/// What apt says of an archive whose signature is not what it must be.
const BAD_SIGNATURES: [&str; 3] = ["GPG error", "is not signed", "OpenPGP signature"];
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

/// A release as it is offered.
#[derive(Debug, Clone)]
pub(super) struct Distribution {
    /// Without versions.
    pub product: Product,
    /// As people say it: `Ubuntu`.
    pub name: String,
    /// What it is called where its archive gives no point release.
    pub number: String,
    /// The first one must be there; it is the release's own name.
    pub suites: Vec<String>,
    pub components: Vec<String>,
    /// What is not Debian.
    pub other: Option<OtherArchive>,
}

/// The archive of another distribution than Debian.
#[derive(Debug, Clone)]
pub(super) struct OtherArchive {
    pub mirror: String,
    /// The public keys of which one must have signed it, whoever names another mirror.
    pub keyring: PathBuf,
    /// What a base system of it has beside the minimum.
    pub packages: Vec<String>,
}

impl From<&DebianRelease> for Distribution {
    fn from(release: &DebianRelease) -> Self {
        Distribution {
            product: Product {
                publisher: PUBLISHER.to_owned(),
                offer: release.offer.to_owned(),
                sku: release.sku.to_owned(),
                versions: Vec::new(),
            },
            name: DEBIAN.to_owned(),
            number: release.number.to_owned(),
            suites: release.suites.map(str::to_owned).into(),
            components: vec!["main".to_owned()],
            other: None,
        }
    }
}

impl Distribution {
    fn codename(&self) -> &str {
        self.suites.first().map_or("", String::as_str)
    }

    /// Where its packages come from. `mirrors` are taken in place of what is known of it when given.
    async fn sources(&self, mirrors: &[SourceLine]) -> Result<Vec<SourceLine>, SourceError> {
        let offered = match (mirrors, &self.other) {
            ([], None) => beside(host_apt::host_sources().await?, self.codename()),
            ([], Some(other)) => other.lines(&self.suites, &self.components),
            (named, _) => named.to_vec(),
        };
        host_apt::select(&offered, &self.suites, &self.components)
    }

    /// The lines by which apt here checks the signature, and those that are pinned and written into the image. A ring
    /// of an operator's is a file of this machine, so an image goes by the keys that its own packages bring.
    fn signed(&self, mut sources: Vec<SourceLine>) -> (Vec<SourceLine>, Vec<SourceLine>) {
        let Some(other) = &self.other else {
            return (sources.clone(), sources);
        };
        for line in &mut sources {
            line.signed_by = None;
        }
        let mut here = sources.clone();
        for line in &mut here {
            line.signed_by = Some(other.keyring.display().to_string());
        }
        (here, sources)
    }
}

impl OtherArchive {
    fn lines(&self, suites: &[String], components: &[String]) -> Vec<SourceLine> {
        let line = |suite: &String| SourceLine {
            uri: self.mirror.clone(),
            suite: suite.clone(),
            components: components.to_vec(),
            signed_by: None,
        };
        suites.iter().map(line).collect()
    }
}

/// Where the state of an archive is kept.
#[derive(Debug, Clone)]
pub(super) struct Folders {
    /// The private apt's.
    pub apt: PathBuf,
    pub pins: PathBuf,
    /// Packages that were fetched.
    pub debs: PathBuf,
}

impl Folders {
    /// Releases of Debian have packages in common.
    fn of_debian(cache: &Path, codename: &str) -> Self {
        let apt = match codename {
            HOST_CODENAME => "apt".to_owned(),
            other => format!("apt-{other}"),
        };
        Folders {
            apt: cache.join(apt),
            pins: cache.join("archive"),
            debs: cache.join("debs"),
        }
    }
}

/// The provider of one release.
#[derive(Debug)]
pub struct AptArchive {
    distribution: Distribution,
    folders: Folders,
    pins: PinFolder,
    /// How long an archive may send nothing; whole seconds.
    silence: Duration,
    /// One update of the private apt state at a time.
    updating: Arc<tokio::sync::Mutex<()>>,
}

impl AptArchive {
    /// Debian 12. Keeps its state below `cache` (the data folder's cache). Touches nothing yet.
    pub fn new(cache: &Path) -> Self {
        AptArchive::of_debian(cache, &RELEASES[0])
    }

    pub(super) fn of_debian(cache: &Path, release: &DebianRelease) -> Self {
        let folders = Folders::of_debian(cache, release.suites[0]);
        AptArchive::of(release.into(), folders, Arc::default())
    }

    /// `updating` is held while the private apt works, by all that share its folder.
    pub(super) fn of(
        distribution: Distribution,
        folders: Folders,
        updating: Arc<tokio::sync::Mutex<()>>,
    ) -> Self {
        AptArchive {
            pins: PinFolder::new(folders.pins.clone()),
            distribution,
            folders,
            silence: SILENCE_MAX,
            updating,
        }
    }

    /// The same with another limit to how long an archive may send nothing; whole seconds.
    pub fn with_silence(mut self, silence: Duration) -> Self {
        self.silence = silence;
        self
    }

    fn pins(&self) -> Vec<Pin> {
        self.pins.of_product(&self.distribution.product)
    }

    /// The newest pin of that version.
    fn pinned(&self, image: &PlatformImage) -> Result<Pin, SourceError> {
        let pins = self.pins();
        let known: Vec<&str> = pins.iter().map(|pin| pin.image.version.as_str()).collect();
        let error = SourceError::NotPinned {
            product: self.distribution.product.to_string(),
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
        let folder = &self.folders.apt;
        let lists = folder.join("state/lists");
        for path in [lists.join("partial"), folder.join("cache/archives/partial")] {
            std::fs::create_dir_all(&path).map_err(SourceError::file("make", &path))?;
        }
        let list: String = sources.iter().map(|line| format!("{line}\n")).collect();
        let list_file = folder.join("sources.list");
        std::fs::write(&list_file, list).map_err(SourceError::file("write", &list_file))?;
        let acquire = host_apt::acquire_settings(self.silence).await?;
        let config_file = folder.join("apt.conf");
        std::fs::write(&config_file, private_config(folder, &acquire))
            .map_err(SourceError::file("write", &config_file))?;
        let updated = Command::new("apt-get")
            // What a suite is called is checked below; apt would hold on to what it was called before.
            .args([
                "update",
                "--error-on=any",
                "-q",
                "--allow-releaseinfo-change",
            ])
            // Nothing here asks apt about packages, and its cache takes longer to make than the lists to read.
            .args(["-o", "pkgCacheFile::Generate=false"])
            .env("APT_CONFIG", &config_file)
            .inherit(PROXY_VARIABLES)
            .deadline(UPDATE_DEADLINE)
            .run()
            .await;
        match updated {
            Ok(_) => Ok(lists),
            Err(source @ (ProcessError::Failed { .. } | ProcessError::Deadline { .. })) => {
                Err(self.update_error(source))
            }
            Err(other) => Err(other.into()),
        }
    }

    fn update_error(&self, source: ProcessError) -> SourceError {
        let refused = |tail: &str| BAD_SIGNATURES.iter().any(|text| tail.contains(text));
        if let ProcessError::Failed { tail, .. } = &source
            && refused(tail)
        {
            let other = self.distribution.other.as_ref();
            let ring = other.map(|other| format!("`{}`", other.keyring.display()));
            return SourceError::BadSignature {
                ring: ring.unwrap_or_else(|| "its source line's `signed-by`".to_owned()),
                source,
            };
        }
        let known = self.pins().last().map(|pin| {
            format!(
                "or build from the last pinned state by asking for version {}",
                pin.image.version
            )
        });
        let hint = known.unwrap_or_else(|| "nothing was pinned here before".to_owned());
        SourceError::ArchiveUnreachable {
            hint,
            source: source.into(),
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

/// What the suites in `lists` hold, in the order of `sources`, and the version that the first one gives itself.
fn read_states(
    lists: &Path,
    sources: &[SourceLine],
) -> Result<(Vec<SuiteState>, Option<String>), SourceError> {
    let (mut states, mut version) = (Vec::new(), None);
    for line in sources {
        let (path, name) = index_of(lists, &line.suite)?;
        let text = std::fs::read_to_string(&path).map_err(SourceError::file("read", &path))?;
        let release = Release::parse(&text, &name, &line.components, ARCHITECTURE)?;
        if !release.is_called(&line.suite) {
            return Err(SourceError::BadRelease {
                file: format!("index of {}", line.suite),
                reason: "the archive calls this suite by another name",
            });
        }
        if states.is_empty() {
            version = release.version;
        }
        states.push(SuiteState {
            suite: line.suite.clone(),
            date: release.date,
            in_release_sha256: hex(&Sha256::digest(text.as_bytes())),
            packages: release.packages,
        });
    }
    Ok((states, version))
}

/// The signed index of a suite among apt's lists, by the name that apt gives it.
fn index_of(lists: &Path, suite: &str) -> Result<(PathBuf, String), SourceError> {
    let ending = format!("_dists_{}_InRelease", suite.replace('/', "_"));
    let entries = std::fs::read_dir(lists).map_err(SourceError::file("list", lists))?;
    let mut names = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    let bad = |file: String, reason| SourceError::BadRelease { file, reason };
    let name = names
        .find(|name| name.ends_with(&ending))
        .ok_or_else(|| bad(format!("index of {suite}"), "apt has none"))?;
    let path = lists.join(&name);
    let length = path
        .metadata()
        .map_err(SourceError::file("look at", &path))?
        .len();
    match length > MAX_RELEASE_BYTES {
        true => Err(bad(name, "it is too long")),
        false => Ok((path, name)),
    }
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
impl Provider for AptArchive {
    fn products(&self) -> Vec<Product> {
        let versions = self.pins.versions(&self.distribution.product);
        vec![Product {
            versions,
            ..self.distribution.product.clone()
        }]
    }

    async fn resolve(
        &self,
        image: &PlatformImage,
        mirrors: &[SourceLine],
    ) -> Result<Pin, SourceError> {
        let Distribution {
            product,
            name,
            number,
            other,
            ..
        } = &self.distribution;
        if !image.is_product(&product.publisher, &product.offer, &product.sku) {
            return Err(SourceError::UnknownImage {
                image: image.to_string(),
                known: product.to_string(),
            });
        }
        if !image.is_latest() {
            let pin = self.pinned(image)?;
            self.pins.check(&pin)?;
            return Ok(pin);
        }
        let sources = self.distribution.sources(mirrors).await?;
        let (here, sources) = self.distribution.signed(sources);
        let _one_at_a_time = self.updating.lock().await;
        let lists = self.update(&here).await?;
        let (states, version) = read_states(&lists, &sources)?;
        let point = version.unwrap_or_else(|| number.clone());
        let newest = states
            .iter()
            .map(|state| state.date)
            .max()
            .unwrap_or_default();
        let dated = format!("{point}.{}", newest.strftime("%Y%m%d"));
        let pinned = PlatformImage {
            publisher: product.publisher.clone(),
            offer: product.offer.clone(),
            sku: product.sku.clone(),
            version: dated,
        };
        let os_version = format!("{name} {point} ({})", self.distribution.codename());
        let mut pin = Pin::new(pinned, os_version, states, sources);
        pin.described = other.as_ref().map(|other| Described {
            name: name.clone(),
            packages: other.packages.clone(),
        });
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
            debs: self.folders.debs.clone(),
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
            debs: self.folders.debs.clone(),
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
        let provider = AptArchive::new(folder.path());
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
