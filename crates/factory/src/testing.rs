//! A world in which whole runs can be tested: a catalog in memory with a template in it, a data
//! folder, and fakes for the archive, the builder and machines. It is for tests only.

pub mod windows;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;

use access::{Action, Assignment, Identity, Permit, RoleId, SecretHash, authorize};
use catalog::{
    AuthStore, Catalog, Clock, Draft, Installation, JobRow, JobStore, ManualClock, NewInstallation,
    Precondition, Record, Resource, SqliteCatalog, Statements as _, StoredSecret,
};
use jobs::{JobId, JobKind, Runner, RunnerBuilder, Submit};
use machine::fake::FakeHypervisor;
use machine::{ExecOutput, MachineDisk};
use serde_json::{Value, json};
use wire::factory::RunProperties;
use wire::{AppId, ArmError, ErrorCode, Location, PrincipalId, ResourceId, TenantId};

use crate::fetch::Reach;
use crate::pipeline::{Begun, BuildRun, FakeBuilder};
use crate::publish::Ask;
use crate::source::testing::FakeProvider;
use crate::{BlobPlace, Factory, FactoryOptions, Parts, Regions, ServedDisks};

const OWNER: &str = "8e3af657-a8ff-443c-a75c-2fe8c4bcb635";
/// The same in every world, so that equal recipes get equal tattoos.
const SUBSCRIPTION: &str = "00000000-0000-0000-0000-0000000000aa";
const COMPUTE: &str = "Microsoft.Compute";

/// The world. Its files go with it.
pub struct World {
    pub folder: tempfile::TempDir,
    pub catalog: Arc<SqliteCatalog>,
    pub clock: ManualClock,
    /// Who sets the world up.
    pub operator: Identity,
    /// In whose name jobs run.
    pub clerk: Identity,
    assignment: ResourceId,
    pub group: ResourceId,
    pub definition: ResourceId,
    pub template: ResourceId,
    pub provider: Arc<FakeProvider>,
    pub builder: Arc<FakeBuilder>,
    pub machines: FakeHypervisor,
    /// Open for as long as the world is: a dying factory may hold its stores a moment longer than
    /// the next one waits.
    pub regions: Arc<Regions>,
    /// For the same reason.
    pub served: Arc<ServedDisks>,
    /// Asked before versions are written.
    pub ask: Arc<FakeAsk>,
    /// The check `motd` fails while this is set.
    pub check_fails: Arc<AtomicBool>,
}

/// Refuses every version while its switch is on, and counts how often it was asked.
#[derive(Debug, Default)]
pub struct FakeAsk {
    pub refuses: AtomicBool,
    pub asked: AtomicUsize,
}

#[async_trait]
impl Ask for FakeAsk {
    async fn may_write(&self, _: TenantId, resource: Value) -> Result<(), ArmError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if !self.refuses.load(Ordering::SeqCst) {
            return Ok(());
        }
        let name = resource["name"].as_str().unwrap_or_default();
        let message = format!("Resource '{name}' was disallowed by policy.");
        Err(ArmError::new(ErrorCode::RequestDisallowedByPolicy, message))
    }
}

/// A template with one customizer, two checks, and the regions named.
pub fn template_properties(definition: &ResourceId, regions: &[&str], motd: &str) -> Value {
    let regions: Vec<Value> = regions
        .iter()
        .map(|name| json!({ "name": name, "replicaCount": 1 }))
        .collect();
    json!({
        "source": {
            "type": "PlatformImage",
            "publisher": "Debian", "offer": "debian-12", "sku": "12-gen2", "version": "latest",
        },
        "customize": [{ "type": "Shell", "name": "motd", "inline": [format!("echo {motd} > /etc/motd")] }],
        "validate": {
            "continueDistributeOnFailure": false,
            "inVMValidations": [
                { "type": "Bullion.Tattoo", "name": "tattoo" },
                { "type": "Shell", "name": "motd", "inline": ["test -s /etc/motd"] },
            ],
        },
        "distribute": [{
            "type": "SharedImage",
            "runOutputName": "golden",
            "galleryImageId": definition.to_string(),
            "versioning": { "scheme": "Latest", "major": 1 },
            "targetRegions": regions,
        }],
        "vmProfile": { "osDiskSizeGB": 2 },
        "buildTimeoutInMinutes": 60,
    })
}

fn child(parent: &ResourceId, kind: &str, name: &str) -> ResourceId {
    parent.child(kind, name).expect("an id")
}

/// On a socket that nobody had before.
fn served_in(folder: &tempfile::TempDir, regions: &Arc<Regions>) -> Arc<ServedDisks> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let socket = folder.path().join(format!("nbd-{number}.sock"));
    Arc::new(ServedDisks::new(socket, Arc::clone(regions)))
}

/// The record on the disk of a machine.
pub fn record_on(disk: &MachineDisk) -> Option<String> {
    let text = match disk {
        MachineDisk::File(file) => {
            crate::tattoo::read(&store::FileDisk::open(file).ok()?).ok()??
        }
        MachineDisk::Served(disk)
        | MachineDisk::Layer {
            below: Some(disk), ..
        } => {
            let disk = nbd::RemoteDisk::connect_unix(&disk.socket, &disk.export).ok()?;
            crate::tattoo::read(&disk).ok()??
        }
        MachineDisk::Layer { file, below: None } => {
            let file = store::FileDisk::open(file).ok()?;
            let disk = disk::image::Image::open(file, Default::default()).ok()?;
            crate::tattoo::read(&disk).ok()??
        }
    };
    String::from_utf8(text).ok()
}

/// Fake machines whose tattoo is the one on their disk.
fn fake_machines(check_fails: Arc<AtomicBool>) -> FakeHypervisor {
    FakeHypervisor::answering(move |spec, command| {
        if command.contains("bullion-image") {
            let stdout = record_on(&spec.disk)?;
            return Some(ExecOutput {
                status: 0,
                stdout,
                stderr: String::new(),
            });
        }
        let fails = command.contains("/etc/motd") && check_fails.load(Ordering::SeqCst);
        let stderr = "motd is empty".to_owned();
        fails.then_some(ExecOutput {
            status: 1,
            stdout: String::new(),
            stderr,
        })
    })
}

impl World {
    pub async fn new(regions: &[&str]) -> World {
        let clock = ManualClock::default();
        let catalog = SqliteCatalog::in_memory(Arc::new(clock.clone()))
            .await
            .expect("a catalog");
        let catalog = Arc::new(catalog);
        let operator = install(&catalog, &clock).await;
        let clerk = Identity {
            tenant: operator.tenant,
            principal: PrincipalId::random(),
            app: AppId::random(),
        };
        let name = uuid::Uuid::new_v4().to_string();
        let assignment =
            ResourceId::root().extension("Microsoft.Authorization", "roleAssignments", &name);
        let subscription = ResourceId::root().child("subscriptions", SUBSCRIPTION);
        let group = child(&subscription.expect("an id"), "resourceGroups", "images");
        let gallery = group
            .extension(COMPUTE, "galleries", "gallery")
            .expect("an id");
        let definition = child(&gallery, "images", "debian");
        let template =
            group.extension("Microsoft.VirtualMachineImages", "imageTemplates", "golden");
        let folder = tempfile::tempdir().expect("a folder");
        let known = Arc::new(Regions::open(&folder.path().join("regions")).expect("regions"));
        let check_fails = Arc::new(AtomicBool::new(false));
        let world = World {
            provider: Arc::new(FakeProvider::default()),
            builder: Arc::new(FakeBuilder::new(&folder.path().join("build")).expect("a builder")),
            machines: fake_machines(Arc::clone(&check_fails)),
            template: template.expect("an id"),
            assignment: assignment.expect("an id"),
            served: served_in(&folder, &known),
            regions: known,
            folder,
            catalog,
            clock,
            operator,
            clerk,
            group,
            definition,
            check_fails,
            ask: Arc::default(),
        };
        world.populate(&gallery, regions).await;
        world
    }

    async fn populate(&self, gallery: &ResourceId, regions: &[&str]) {
        let record = Record::RoleAssignment(Assignment {
            tenant: self.clerk.tenant,
            principal: self.clerk.principal,
            role: RoleId::new(OWNER),
            scope: ResourceId::root(),
        });
        self.put(&self.assignment, Draft::new(json!({})).record(record))
            .await;
        let subscription = self.group.parent().expect("a parent");
        self.put(
            &subscription,
            Draft::new(json!({})).record(Record::Subscription),
        )
        .await;
        for id in [&self.group, gallery] {
            self.put(id, Draft::new(json!({})).location(regions[0]))
                .await;
        }
        let definition =
            json!({ "osType": "Linux", "osState": "Generalized", "hyperVGeneration": "V1" });
        self.put(
            &self.definition,
            Draft::new(definition).location(regions[0]),
        )
        .await;
        self.set_template(template_properties(&self.definition, regions, "welcome"))
            .await;
        for region in regions {
            self.regions
                .define(&Location::new(*region), &["1".to_owned()])
                .expect("a region");
        }
    }

    pub async fn set_template(&self, properties: Value) {
        self.put(&self.template, Draft::new(properties).location("north"))
            .await;
    }

    pub async fn put(&self, id: &ResourceId, draft: Draft) {
        let permit = self.permit_of(&self.operator, "write", id).await;
        self.catalog
            .put(&permit, draft, Precondition::None)
            .await
            .expect("put a resource");
    }

    pub async fn get(&self, id: &ResourceId) -> Option<Resource> {
        let permit = self.permit_of(&self.operator, "read", id).await;
        self.catalog.get(&permit).await.ok()
    }

    /// Takes the clerk's rights away.
    pub async fn dismiss_clerk(&self) {
        let permit = self
            .permit_of(&self.operator, "delete", &self.assignment)
            .await;
        self.catalog
            .delete(&permit, Precondition::None)
            .await
            .expect("dismiss");
    }

    pub(crate) async fn permit_of(
        &self,
        identity: &Identity,
        verb: &str,
        scope: &ResourceId,
    ) -> Permit {
        let grants = self
            .catalog
            .grants(identity.tenant, identity.principal)
            .await
            .expect("grants");
        let action = Action::new(format!("{}/{verb}", scope.resource_type()));
        authorize(identity, &grants, &action, scope, identity.tenant).expect("a permit")
    }

    /// A permit of the clerk's that needs no catalog; its rights are looked up when a step asks.
    pub fn clerk_permit(&self, action: &str, scope: &ResourceId) -> Permit {
        let Identity {
            tenant, principal, ..
        } = self.clerk;
        let role = RoleId::new(OWNER);
        let assignment = Assignment {
            tenant,
            principal,
            role,
            scope: ResourceId::root(),
        };
        let grants = access::Grants::new(tenant, principal, vec![assignment]);
        authorize(&self.clerk, &grants, &Action::new(action), scope, tenant).expect("a permit")
    }

    /// Changes what was signed about a version's disk, as whoever may write to the database could.
    pub async fn tamper(&self, version: &ResourceId, name: &str, change: impl FnOnce(&mut Value)) {
        let found = self.get(version).await.expect("a version");
        let disk = found.properties["bullion"]["diskDigest"].as_str();
        let disk = disk.expect("a digest");
        let permit = self.permit_of(&self.operator, "read", version).await;
        let kept = self.catalog.statement(&permit, disk, name).await;
        let mut kept = kept.expect("a catalog").expect("a statement");
        let mut envelope = serde_json::from_str(&kept.envelope).expect("an envelope");
        change(&mut envelope);
        kept.envelope = envelope.to_string();
        let permit = self.permit_of(&self.operator, "write", version).await;
        let done = self.catalog.keep_statement(&permit, disk, &kept).await;
        done.expect("keep a statement");
    }

    /// Gives a version a disk that nothing is known of.
    pub async fn replace_disk(&self, version: &ResourceId) {
        const EPOCH: i64 = 1_800_000_000;
        let mut found = self.get(version).await.expect("a version");
        let digest = found.properties["bullion"]["diskDigest"].as_str();
        let digest: disk::DiskDigest = digest.expect("a digest").parse().expect("a digest");
        let store = self.regions.store(&Location::new("north")).expect("north");
        let old = store.disk(&digest).expect("a disk");
        let record = crate::tattoo::Tattoo::default();
        let changes = crate::tattoo::apply(&old, &record, EPOCH).expect("a record");
        let new = store.ingest_child(&digest, &changes).expect("a disk");
        found.properties["bullion"]["diskDigest"] = new.digest.to_string().into();
        self.put(version, Draft::from_resource(found)).await;
    }

    /// Throws all disks away, as if the folders of the stores had been lost.
    pub fn lose_disks(&mut self) {
        let folder = self.folder.path().join("regions");
        let zones: Vec<_> = self
            .regions
            .names()
            .into_iter()
            .map(|name| (self.regions.zones(&name), name))
            .collect();
        self.regions =
            Arc::new(Regions::open(&self.folder.path().join("no-regions")).expect("none"));
        std::fs::remove_dir_all(&folder).expect("remove the stores");
        let regions = Regions::open(&folder).expect("regions");
        for (zones, name) in zones {
            regions.define(&name, &zones).expect("a region");
        }
        self.regions = Arc::new(regions);
        self.served = served_in(&self.folder, &self.regions);
    }

    /// A factory of this world, as after a restart.
    pub fn factory(&self) -> Arc<Factory> {
        self.factory_with(Parts {
            provider: self.provider.clone(),
            builder: self.builder.clone(),
            regions: Some(Arc::clone(&self.regions)),
            served: Some(Arc::clone(&self.served)),
            hypervisor: Some(Arc::new(self.machines.clone())),
            fetch: None,
            web: None,
        })
    }

    /// The same with other tools.
    pub fn factory_with(&self, parts: Parts) -> Arc<Factory> {
        let options = FactoryOptions {
            server: "server".to_owned(),
            data: self.folder.path().to_owned(),
            catalog: self.catalog.clone(),
            feed: self.catalog.clone(),
            auth: self.catalog.clone(),
            jobs: self.catalog.clone(),
            statements: self.catalog.clone(),
            ask: self.ask.clone(),
            blobs: Some(BlobPlace {
                folder: self.folder.path().to_owned(),
                url: "https://localhost:1".to_owned(),
            }),
            reach: Reach {
                hosts: vec!["127.0.0.1".to_owned()],
                ca: None,
            },
            storage: crate::StorageSettings::default(),
        };
        Factory::with_parts(options, parts).expect("a factory")
    }

    /// The record of a new run of the template.
    pub async fn begin_run(&self, factory: &Arc<Factory>) -> Begun {
        let template = self.get(&self.template).await.expect("a template");
        let permit = self.clerk_permit(RUN_ACTION, &self.template);
        factory.begin_run(&permit, &template).await.expect("a run")
    }
}

impl World {
    /// Starts a run of the template and works on it to its end.
    pub async fn run(&self, factory: &Arc<Factory>) -> (Begun, JobRow) {
        let begun = self.begin_run(factory).await;
        let (runner, job) = self
            .submit::<BuildRun>(factory, RUN_ACTION, &self.template, &begun.input)
            .await;
        assert!(runner.run_next().await, "the job was not claimed");
        let row = self.job(RUN_ACTION, &self.template, job).await;
        (begun, row)
    }

    /// Submits a job and answers a runner that works when it is told to.
    pub async fn submit<K: JobKind>(
        &self,
        factory: &Arc<Factory>,
        action: &str,
        scope: &ResourceId,
        input: &K::Input,
    ) -> (Runner, JobId) {
        let mut builder = RunnerBuilder::new(self.catalog.clone(), self.catalog.clone());
        factory.register(&mut builder);
        let runner = builder.build();
        let permit = self.clerk_permit(action, scope);
        let job = runner
            .jobs()
            .submit::<K>(&permit, input, Submit::default())
            .await
            .expect("submit");
        (runner, job)
    }

    pub async fn job(&self, action: &str, scope: &ResourceId, job: JobId) -> JobRow {
        self.catalog
            .job(&self.clerk_permit(action, scope), job)
            .await
            .expect("the job")
    }

    /// The record of a run.
    pub async fn record(&self, run: &ResourceId) -> RunProperties {
        let run = self.get(run).await.expect("the record of the run");
        serde_json::from_value(run.properties).expect("a run")
    }

    /// The numbers of the versions that are published.
    pub async fn versions(&self) -> Vec<String> {
        let action = "Microsoft.Compute/galleries/images/versions/read";
        let permit = self.clerk_permit(action, &self.definition);
        let catalog: Arc<dyn Catalog> = self.catalog.clone();
        let found = crate::publish::versions(&catalog, &permit)
            .await
            .expect("the versions");
        found
            .iter()
            .map(|version| version.id.name().to_owned())
            .collect()
    }
}

/// What a caller must be allowed to have a run.
pub const RUN_ACTION: &str = "Microsoft.VirtualMachineImages/imageTemplates/run/action";

async fn install(catalog: &SqliteCatalog, clock: &ManualClock) -> Identity {
    let operator = Identity {
        tenant: TenantId::random(),
        principal: PrincipalId::random(),
        app: AppId::random(),
    };
    let installation = Installation {
        tenant: operator.tenant,
        operator_app: operator.app,
        operator_principal: operator.principal,
    };
    let secret = StoredSecret {
        id: uuid::Uuid::new_v4(),
        name: "x".to_owned(),
        hint: "x".to_owned(),
        hash: SecretHash::from_stored("x".to_owned()),
        made_at: clock.now(),
        expires_at: clock.now(),
    };
    let new = NewInstallation {
        installation,
        tenant_name: "t".to_owned(),
        tenant_display_name: "T".to_owned(),
        operator_name: "operator".to_owned(),
        secret,
    };
    catalog.install(new).await.expect("an installation");
    operator
}
