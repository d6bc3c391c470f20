//! The first start and every start: data folder, certificates, catalog, administrator, listener.
//!
//! [`serve`] runs until it is told to stop; [`start`] does the same inside a process that goes on.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use access::ClientSecret;
use catalog::{
    AuthStore, Backend, CatalogError, Installation, NewInstallation, Place, PostgresCatalog,
    SqliteCatalog, StoredSecret, SystemClock,
};
use comply::Comply;
use jiff::{Timestamp, ToSpan as _};
use serde_json::{Value, json};
use store::KeyFile;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use uuid::Uuid;
use wire::{AppId, PrincipalId, TenantId};

use crate::activity::{KeepError, Recorder};
use crate::advisories::AdvisoryFolder;
use crate::attempts::Attempts;
use crate::blobs::{Blobs, BlobsError};
use crate::data::{self, DataError, DataFolder};
use crate::engine::{Engine, EngineError, EngineParts};
use crate::issuers::{Issuers, IssuersError};
use crate::limits::Room;
use crate::metadata::Cables;
use crate::net::listen::{self, ListenError};
use crate::net::tls::{self, TlsError};
use crate::options::{OptionsError, ServeOptions, Settings};
use crate::rates::Rates;
use crate::resources::policies::scans::Scans;
use crate::state::{self, Server};
use crate::tokens::{Tokens, TokensError};
use crate::{activity, app, banner, production};

/// The administrator's first secret; `addPassword` makes the next.
const ADMIN_SECRET_DAYS: i64 = 730;
const INSTALLATION_TENANT: &str = "installation";

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot use the configuration")]
    Options(#[from] OptionsError),
    #[error("cannot use the data folder")]
    Data(#[from] DataError),
    #[error("cannot set up TLS")]
    Tls(#[from] TlsError),
    #[error("cannot open the catalog")]
    Catalog(#[from] CatalogError),
    #[error(transparent)]
    Activity(#[from] KeepError),
    #[error("cannot set up sign-in")]
    Tokens(#[from] TokensError),
    #[error("cannot use the key that secrets in the catalog are sealed with")]
    CatalogKey(#[from] store::KeyError),
    #[error("cannot make the administrator's secret")]
    Secret(#[from] access::SecretError),
    #[error(transparent)]
    Issuers(#[from] IssuersError),
    #[error(transparent)]
    Blobs(#[from] BlobsError),
    #[error("cannot set up the factory")]
    Engine(#[from] EngineError),
    #[error("cannot listen")]
    Listen(#[from] ListenError),
    #[error("cannot watch for signals")]
    Signals(#[source] std::io::Error),
}

/// A server in this process.
pub struct Running {
    pub url: String,
    /// The certificate to trust, PEM.
    pub ca: String,
    pub data: PathBuf,
    pub address: SocketAddr,
    stop: watch::Sender<bool>,
    listener: JoinHandle<()>,
    complying: JoinHandle<()>,
    recording: JoinHandle<()>,
    pub(crate) cables: Cables,
    engine: Box<dyn Engine>,
    catalog: Arc<dyn Backend>,
    folder: DataFolder,
}

impl Running {
    /// Lets running requests and steps end, then frees the data folder.
    pub async fn stop(self) {
        let _ = self.stop.send(true);
        if let Err(error) = self.listener.await {
            tracing::error!(%error, "the listener ended badly");
        }
        if let Err(error) = self.cables.ended().await {
            tracing::error!(%error, "the machines' metadata service ended badly");
        }
        self.engine.stop().await;
        if let Err(error) = self.complying.await {
            tracing::error!(%error, "the evaluation of policies ended badly");
        }
        if let Err(error) = self.recording.await {
            tracing::error!(%error, "the activity log ended badly");
        }
        // Writes what is in the log into the database, so that a copy of that one file is whole.
        self.catalog.close().await;
        let _ = std::fs::remove_file(self.folder.server());
    }
}

/// What a first start made, for the banner.
pub struct FirstStart {
    pub secret: ClientSecret,
}

pub async fn start(options: ServeOptions) -> Result<Running, ServeError> {
    start_with(options, production::engine)
        .await
        .map(|(running, _)| running)
}

/// Serves until SIGTERM or SIGINT.
pub async fn serve(options: ServeOptions) -> Result<(), ServeError> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate()).map_err(ServeError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Signals)?;
    let (running, first) = start_with(options, production::engine).await?;
    banner::show(&running, first.as_ref());
    // The secret does not stay in memory longer than it is shown.
    drop(first);
    let probe = async {
        banner::show_acceleration(&running.engine.acceleration().await);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = probe => {}
        _ = term.recv() => tracing::info!("SIGTERM: stopping"),
        _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
    }
    running.stop().await;
    Ok(())
}

/// A start with the engine that `make` gives.
pub async fn start_with(
    options: ServeOptions,
    make: impl AsyncFnOnce(EngineParts) -> Result<Box<dyn Engine>, EngineError>,
) -> Result<(Running, Option<FirstStart>), ServeError> {
    let folder = DataFolder::open(&options.data)?;
    let settings = options.resolve()?;
    let identity = tls::identity(&folder.tls(), &settings.names, Timestamp::now())?;
    let (blobs, (stop, stopped)) = (open_blobs(&settings)?, watch::channel(false));
    let (listener, address, url) = bind(settings.listen).await?;
    let (catalog, installation, first) = established(&folder, &settings, &url, &identity).await?;
    let log = activity::keep(&*catalog, &folder, installation.tenant, &settings).await?;
    let (comply, tokens) = (policies_of(&catalog), tokens_of(&catalog, &folder).await?);
    let engine = make(EngineParts {
        data: folder.root().to_path_buf(),
        server: folder.name()?,
        catalog: Arc::clone(&catalog),
        installation,
        blobs: blobs.clone(),
        seal: tokens.seal(),
        url: url.clone(),
        reach: settings.reach.clone(),
        jobs: settings.jobs,
        comply: Arc::clone(&comply),
        limits: settings.limits,
        storage: settings.storage,
    })
    .await?;
    let (activity, recording) = Recorder::start(&catalog, log, &stopped);
    let server = Arc::new(Server {
        url: url.clone(),
        installation,
        catalog: catalog.clone(),
        auth: catalog.clone(),
        jobs: engine.jobs(),
        work: engine.work(),
        comply: Arc::clone(&comply),
        scans: Scans::default(),
        tokens,
        blobs,
        fetch_hosts: settings.reach.hosts,
        issuers: Issuers::new(settings.issuer_ca.as_deref())?,
        attempts: Attempts::default(),
        hashing: state::hashing(),
        activity,
        activities: catalog.clone(),
        statements: catalog.clone(),
        advisories: AdvisoryFolder::new(folder.root().join("advisories")),
        rates: Rates::new(settings.rates),
        room: Room::new(settings.limits),
    });
    let cables = Cables::serve(Arc::clone(&server), stopped.clone());
    let app = app::router(server);
    let serving = listen::run(listener, identity.config, app, stopped.clone());
    note_running(&folder, &url)?;
    let running = Running {
        url,
        ca: String::from_utf8_lossy(&data::read(&identity.ca_path)?).into_owned(),
        data: folder.root().to_path_buf(),
        address,
        stop,
        listener: tokio::spawn(serving),
        complying: follow(comply, stopped),
        recording,
        cables,
        engine,
        catalog,
        folder,
    };
    Ok((running, first))
}

/// The keys that tokens are signed with, which lie sealed in the catalog.
async fn tokens_of(catalog: &Arc<dyn Backend>, folder: &DataFolder) -> Result<Tokens, ServeError> {
    let seal = Arc::new(KeyFile::load_or_create(&folder.catalog_key())?);
    Ok(Tokens::load(catalog.clone(), seal, Timestamp::now()).await?)
}

/// The catalog, with the installation in it.
async fn established(
    folder: &DataFolder,
    settings: &Settings,
    url: &str,
    identity: &tls::Identity,
) -> Result<(Arc<dyn Backend>, Installation, Option<FirstStart>), ServeError> {
    let catalog = open_catalog(folder, settings.database.as_ref()).await?;
    let (installation, first) = install(catalog.as_ref(), folder, url, &identity.ca_path).await?;
    Ok((catalog, installation, first))
}

/// Where clients on this machine find the server, and which process it is.
fn note_running(folder: &DataFolder, url: &str) -> Result<(), ServeError> {
    let note = json!({ "pid": std::process::id(), "url": url });
    write_json(&folder.server(), &note)
}

fn open_blobs(settings: &Settings) -> Result<Option<Arc<Blobs>>, BlobsError> {
    let open = |folder| Blobs::open(folder, &settings.names).map(Arc::new);
    settings.blobs.as_deref().map(open).transpose()
}

/// Before anything is stored: a port in use should leave no half-made installation behind.
async fn bind(asked: SocketAddr) -> Result<(TcpListener, SocketAddr, String), ListenError> {
    let listener = listen::bind(asked).await?;
    let address = listener.local_addr();
    let fail = |cause| ListenError::Bind {
        address: asked,
        cause,
    };
    let address = address.map_err(fail)?;
    Ok((listener, address, url_of(address)))
}

/// The database that was named, or the one in the data folder.
async fn open_catalog(
    folder: &DataFolder,
    place: Option<&Place>,
) -> Result<Arc<dyn Backend>, ServeError> {
    let own = folder.database();
    let Some(place) = place else {
        data::claim_private(&own)?;
        return Ok(Arc::new(SqliteCatalog::open(&own).await?));
    };
    let catalog = PostgresCatalog::open(place).await?;
    tracing::info!(database = %place, "the catalog is in PostgreSQL");
    if own.exists() {
        tracing::warn!(unused = %own.display(), "what the data folder's own catalog holds is not served");
    }
    Ok(Arc::new(catalog))
}

fn policies_of(catalog: &Arc<dyn Backend>) -> Arc<Comply> {
    Comply::new(comply::Parts {
        catalog: catalog.clone(),
        auth: catalog.clone(),
        feed: catalog.clone(),
        states: catalog.clone(),
        clock: Arc::new(SystemClock),
    })
}

/// Keeps the states of policies current until the stop.
fn follow(comply: Arc<Comply>, mut stopped: watch::Receiver<bool>) -> JoinHandle<()> {
    tokio::spawn(comply.run(async move {
        // An error means that the sender is gone, and with it the server.
        let _ = stopped.wait_for(|stop| *stop).await;
    }))
}

fn url_of(address: SocketAddr) -> String {
    if address.ip().is_loopback() || address.ip().is_unspecified() {
        format!("https://localhost:{}", address.port())
    } else {
        format!("https://{address}")
    }
}

/// The installation, made now if this is the first start.
async fn install(
    auth: &dyn AuthStore,
    folder: &DataFolder,
    url: &str,
    ca: &Path,
) -> Result<(Installation, Option<FirstStart>), ServeError> {
    if let Some(installation) = auth.installation().await? {
        move_admin(folder, url)?;
        return Ok((installation, None));
    }
    let secret = ClientSecret::random()?;
    let now = Timestamp::now();
    let stored = StoredSecret {
        id: Uuid::new_v4(),
        name: "first start".into(),
        hint: secret.expose().chars().take(3).collect(),
        hash: secret.hash()?,
        made_at: now,
        expires_at: now + (ADMIN_SECRET_DAYS * 24).hours(),
    };
    let installation = Installation {
        tenant: TenantId::random(),
        operator_app: AppId::random(),
        operator_principal: PrincipalId::random(),
    };
    let admin = json!({
        "url": url,
        "ca": ca,
        "tenantId": installation.tenant.to_string(),
        "clientId": installation.operator_app.to_string(),
        "clientSecret": secret.expose(),
    });
    // The file comes first: a crash in between makes a new secret, never an installation without one.
    write_json(&folder.admin(), &admin)?;
    let made = auth
        .install(NewInstallation {
            installation,
            tenant_name: INSTALLATION_TENANT.into(),
            tenant_display_name: "This installation".into(),
            operator_name: "operator".into(),
            secret: stored,
        })
        .await;
    match made {
        Ok(made) => Ok((made, Some(FirstStart { secret }))),
        // Another server made it on the same database at the same moment: our secret opens nothing.
        Err(CatalogError::Installed) => {
            data::remove(&folder.admin())?;
            let made = auth.installation().await?;
            Ok((made.ok_or(CatalogError::Installed)?, None))
        }
        Err(error) => Err(error.into()),
    }
}

/// Brings the administrator's file up to a new address. Whoever moved it to a safer place does not get it
/// back, and what is not ours in it stays.
fn move_admin(folder: &DataFolder, url: &str) -> Result<(), ServeError> {
    let path = folder.admin();
    let Some(text) = data::read_if_there(&path)? else {
        return Ok(());
    };
    match serde_json::from_slice::<Value>(&text) {
        Ok(mut admin) if admin.is_object() && admin["url"] != url => {
            admin["url"] = url.into();
            write_json(&path, &admin)
        }
        _ => Ok(()),
    }
}

fn write_json(path: &Path, value: &Value) -> Result<(), ServeError> {
    let text = serde_json::to_vec_pretty(value).unwrap_or_default();
    Ok(data::write_private(path, &text)?)
}
