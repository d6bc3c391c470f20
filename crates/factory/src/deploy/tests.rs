//! Deployments on fakes: what a machine is made from, what a failure leaves, what a restart finds.

use std::sync::Arc;

use access::Permit;
use async_trait::async_trait;
use catalog::{Draft, JobRow, JobState, ManualClock, SqliteCatalog};
use jobs::testing::{self, Trial};
use machine::fake::BootScript;
use serde_json::json;
use wire::{ProvisioningState, ResourceId};

use super::{
    DeleteMachine, DeleteMachineInput, Deploy, DeployInput, MACHINE_WRITE, Power, PowerChange,
    PowerInput, PowerState, Which, instance_view, layers, machine_image,
};
use crate::disks::{DataDisk, Disks};
use crate::domains::{DomainName, KeyChoice, tests as domains};
use crate::testing::World;

/// A world with a published version and a machine that is about to be made.
struct OneMachine {
    world: World,
    vm: ResourceId,
}

impl OneMachine {
    async fn fresh() -> OneMachine {
        let world = World::new(&["north", "south"]).await;
        let (_, job) = world.run(&world.factory()).await;
        assert_eq!(job.state, JobState::Succeeded, "{:?}", job.failure);
        let vm = machine(&world, "web-1", "south", &world.definition).await;
        OneMachine { world, vm }
    }
}

async fn machine(world: &World, name: &str, region: &str, image: &ResourceId) -> ResourceId {
    let vm = world
        .group
        .extension("Microsoft.Compute", "virtualMachines", name)
        .unwrap();
    let body = json!({
        "hardwareProfile": { "vmSize": "Standard_B1s" },
        "storageProfile": { "imageReference": { "id": image.to_string() } },
        "osProfile": { "computerName": name, "adminUsername": "azureuser" },
    });
    let draft = Draft::new(body)
        .location(region)
        .state(ProvisioningState::Creating);
    world.put(&vm, draft).await;
    vm
}

#[async_trait]
impl Trial for OneMachine {
    type Kind = Deploy;

    fn kind(&self) -> Deploy {
        Deploy(self.world.factory())
    }

    fn input(&self) -> DeployInput {
        DeployInput {
            vm: self.vm.clone(),
        }
    }

    fn permit(&self) -> Permit {
        self.world.clerk_permit(MACHINE_WRITE, &self.vm)
    }

    fn catalog(&self) -> Arc<SqliteCatalog> {
        self.world.catalog.clone()
    }

    fn clock(&self) -> ManualClock {
        self.world.clock.clone()
    }

    async fn check_done(&self, _job: &JobRow) {
        assert_eq!(self.world.machines.running(), ["web-1"]);
        let resource = self.world.get(&self.vm).await.unwrap();
        assert_eq!(resource.state, ProvisioningState::Succeeded);
        let image = machine_image(&resource).unwrap();
        assert_eq!(image["exactVersion"], "1.0.0");
        assert_eq!(image["tattooMatches"], true);
        let reference = &resource.properties["storageProfile"]["imageReference"];
        assert_eq!(reference["exactVersion"], "1.0.0");
    }

    async fn check_undone(&self, _job: &JobRow) {
        assert!(self.world.machines.running().is_empty());
        let resource = self.world.get(&self.vm).await.unwrap();
        assert_eq!(resource.state, ProvisioningState::Failed);
        assert!(machine_image(&resource).is_none());
        let south = self.world.folder.path().join("machines/south");
        let left = std::fs::read_dir(south)
            .map(Iterator::count)
            .unwrap_or_default();
        assert_eq!(left, 0, "the machine's folder stays");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deploying_passes_the_generic_tests() {
    testing::check_kind(OneMachine::fresh).await;
}

/// Deploys the machine and answers the job.
async fn deploy(world: &World, vm: &ResourceId) -> JobRow {
    let factory = world.factory();
    let input = DeployInput { vm: vm.clone() };
    let (runner, job) = world
        .submit::<Deploy>(&factory, MACHINE_WRITE, vm, &input)
        .await;
    assert!(runner.run_next().await);
    world.job(MACHINE_WRITE, vm, job).await
}

/// A machine that runs and is about to be switched.
struct OneSwitch {
    world: World,
    vm: ResourceId,
    change: PowerChange,
}

impl OneSwitch {
    async fn fresh(change: PowerChange) -> OneSwitch {
        let OneMachine { world, vm } = OneMachine::fresh().await;
        assert_eq!(deploy(&world, &vm).await.state, JobState::Succeeded);
        OneSwitch { world, vm, change }
    }

    /// What the machine says of its power, and whether its disk is there.
    async fn look(&self) -> (String, bool) {
        let factory = self.world.factory();
        let live = factory.power_state(&self.vm).await;
        let view = instance_view(&self.world.get(&self.vm).await.unwrap(), live);
        let code = view["statuses"][1]["code"].as_str().unwrap();
        let folder = factory.machine_folder(&self.vm, &wire::Location::new("south"));
        (code.to_owned(), layers::is_there(&folder, Which::Os))
    }
}

#[async_trait]
impl Trial for OneSwitch {
    type Kind = Power;

    fn kind(&self) -> Power {
        Power(self.world.factory())
    }

    fn input(&self) -> PowerInput {
        PowerInput {
            vm: self.vm.clone(),
            change: self.change,
        }
    }

    fn permit(&self) -> Permit {
        self.world.clerk_permit(MACHINE_WRITE, &self.vm)
    }

    fn catalog(&self) -> Arc<SqliteCatalog> {
        self.world.catalog.clone()
    }

    fn clock(&self) -> ManualClock {
        self.world.clock.clone()
    }

    async fn check_done(&self, _job: &JobRow) {
        let (running, code): (&[&str], _) = match self.change {
            PowerChange::Start | PowerChange::Restart => (&["web-1"], "PowerState/running"),
            PowerChange::PowerOff | PowerChange::PowerOffAtOnce => (&[], "PowerState/stopped"),
            PowerChange::Deallocate => (&[], "PowerState/deallocated"),
        };
        assert_eq!(self.world.machines.running(), running);
        assert_eq!(self.look().await, (code.to_owned(), true));
        let resource = self.world.get(&self.vm).await.unwrap();
        assert_eq!(resource.state, ProvisioningState::Succeeded);
    }

    /// A switch is not taken back; the machine says where it stands.
    async fn check_undone(&self, _job: &JobRow) {
        let code = match self.world.machines.running().is_empty() {
            true => "PowerState/stopped",
            false => "PowerState/running",
        };
        assert_eq!(self.look().await, (code.to_owned(), true));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn switching_passes_the_generic_tests() {
    for change in [
        PowerChange::Restart,
        PowerChange::PowerOffAtOnce,
        PowerChange::Deallocate,
    ] {
        testing::check_kind(async || OneSwitch::fresh(change).await).await;
    }
}

/// Another server that starts while a machine is on its way leaves it on its way: its job will say where it came to.
#[tokio::test(flavor = "multi_thread")]
async fn a_machine_is_on_its_way_until_its_job_ends() {
    for (stored, shown) in [
        (PowerState::Starting, "PowerState/starting"),
        (PowerState::Stopping, "PowerState/stopping"),
        (PowerState::Deallocating, "PowerState/deallocating"),
        (PowerState::Stopped, "PowerState/running"),
        (PowerState::Deallocated, "PowerState/running"),
    ] {
        let trial = OneSwitch::fresh(PowerChange::Start).await;
        let mut draft = Draft::from_resource(trial.world.get(&trial.vm).await.unwrap());
        draft.properties["bullion"]["powerState"] = json!(stored);
        trial.world.put(&trial.vm, draft).await;
        trial.world.factory().adopt_machines().await.unwrap();
        assert_eq!(trial.look().await, (shown.to_owned(), true));
    }
}

/// Two servers on one catalog: each sees only whether its own machines run.
#[tokio::test(flavor = "multi_thread")]
async fn another_servers_machine_is_left_as_that_one_wrote_it() {
    let OneMachine { world, vm } = OneMachine::fresh().await;
    assert_eq!(deploy(&world, &vm).await.state, JobState::Succeeded);
    let folder = world.folder.path().join("machines");
    std::fs::rename(&folder, world.folder.path().join("elsewhere")).unwrap();
    for (server, stored) in [("another", "running"), ("server", "stopped")] {
        let mut draft = Draft::from_resource(world.get(&vm).await.unwrap());
        draft.properties["bullion"]["server"] = json!(server);
        draft.properties["bullion"]["powerState"] = json!("running");
        world.put(&vm, draft).await;
        let factory = world.factory();
        factory.adopt_machines().await.unwrap();
        let resource = world.get(&vm).await.unwrap();
        assert_eq!(resource.properties["bullion"]["powerState"], stored);
        let shown = factory.shown_power_state(&resource).await;
        assert_eq!(json!(shown), stored);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_finds_machines_that_run_and_those_that_do_not() {
    let OneMachine { world, vm } = OneMachine::fresh().await;
    assert_eq!(deploy(&world, &vm).await.state, JobState::Succeeded);

    let factory = world.factory();
    let report = factory.adopt_machines().await.unwrap();
    assert_eq!(report.running, std::slice::from_ref(&vm));
    let view = instance_view(
        &world.get(&vm).await.unwrap(),
        factory.power_state(&vm).await,
    );
    assert_eq!(view["statuses"][1]["code"], "PowerState/running");

    let region = wire::Location::new("south");
    let guest = factory.guest(&vm, &region).await.unwrap().unwrap();
    guest.kill().await.unwrap();
    let factory = world.factory();
    let report = factory.adopt_machines().await.unwrap();
    assert_eq!(report.stopped, std::slice::from_ref(&vm));
    assert_eq!(factory.power_state(&vm).await, PowerState::Stopped);
    let resource = world.get(&vm).await.unwrap();
    assert_eq!(resource.properties["bullion"]["powerState"], "stopped");

    let input = DeleteMachineInput { vm: vm.clone() };
    let action = "Microsoft.Compute/virtualMachines/delete";
    let (runner, job) = world
        .submit::<DeleteMachine>(&factory, action, &vm, &input)
        .await;
    assert!(runner.run_next().await);
    assert_eq!(world.job(action, &vm, job).await.state, JobState::Succeeded);
    assert!(world.get(&vm).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_does_not_boot_is_told_and_gone() {
    let OneMachine { world, vm } = OneMachine::fresh().await;
    world
        .machines
        .boots(BootScript::Dies("no bootable device".to_owned()));
    let job = deploy(&world, &vm).await;
    assert_eq!(job.state, JobState::Failed);
    let failure = job.failure.unwrap();
    assert_eq!(failure.code, "BootFailed");
    assert!(
        failure.message.contains("no bootable device"),
        "{}",
        failure.message
    );
    assert!(world.machines.running().is_empty());
    let resource = world.get(&vm).await.unwrap();
    assert_eq!(resource.state, ProvisioningState::Failed);
    assert_eq!(
        resource.properties["bullion"]["error"]["code"],
        "BootFailed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_region_does_not_hold_is_not_deployed() {
    let world = World::new(&["north"]).await;
    world
        .regions
        .define(&wire::Location::new("west"), &["1".to_owned()])
        .unwrap();
    let (_, job) = world.run(&world.factory()).await;
    assert_eq!(job.state, JobState::Succeeded);
    let vm = machine(&world, "web-1", "west", &world.definition).await;
    let failure = deploy(&world, &vm).await.failure.unwrap();
    assert!(
        failure.message.contains("is not available in west region"),
        "{}",
        failure.message
    );

    let exact = world.definition.child("versions", "1.0.0").unwrap();
    let vm = machine(&world, "web-1", "west", &exact).await;
    let failure = deploy(&world, &vm).await.failure.unwrap();
    assert!(
        failure
            .message
            .contains("versions/1.0.0 is not available in west region"),
        "{}",
        failure.message
    );

    let vm = machine(&world, "web-1", "north", &exact).await;
    assert_eq!(deploy(&world, &vm).await.state, JobState::Succeeded);
}

/// Nothing of an encrypted version is read where anybody else's key opens it.
#[tokio::test(flavor = "multi_thread")]
async fn a_machine_of_an_encrypted_version_needs_its_own_key() {
    const SET: &str = "payroll";
    let OneMachine { world, .. } = OneMachine::fresh().await;
    let exact = world.definition.child("versions", "1.0.0").unwrap();
    let mut version = world.get(&exact).await.unwrap();
    let digest = version.properties["bullion"]["diskDigest"].as_str();
    let digest = digest.unwrap().parse().unwrap();
    let setting = domains::setting(SET, KeyChoice::Same);
    world.regions.put_domain(&setting).unwrap();
    domains::bring(&world.regions, SET, &digest);
    let north = wire::Location::new("north");
    let store = world.regions.store(&north).unwrap();
    let data = store
        .ingest(&disk::MemDisk::from(vec![4; 1 << 20]))
        .unwrap();
    domains::bring(&world.regions, SET, &data.digest);
    let mut disks = Disks::of(&version).unwrap();
    disks.data.push(DataDisk {
        lun: 4,
        digest: data.digest,
        logical_bytes: 1 << 20,
    });
    disks.write(&mut version.properties["bullion"]);
    let set = domains::set(SET).to_string();
    version.properties["publishingProfile"]["targetRegions"] = json!([{
        "name": "north",
        "encryption": { "osDiskImage": { "diskEncryptionSetId": set } },
    }]);
    world.put(&exact, Draft::from_resource(version)).await;

    let vm = machine(&world, "web-1", "north", &exact).await;
    assert_eq!(deploy(&world, &vm).await.state, JobState::Succeeded);
    let deployed = world.get(&vm).await.unwrap();
    let kept_in = domains::place(SET).folded();
    assert_eq!(deployed.properties["bullion"][super::KEPT_IN], kept_in);
    let folder = world.factory().machine_folder(&vm, &north);
    for (which, digest) in [(Which::Os, digest), (Which::Data(4), data.digest)] {
        let below = layers::needed(&folder, which, &north).unwrap();
        assert_eq!(below, Some((domains::place(SET), digest)));
    }

    let name = DomainName::of(&domains::set(SET));
    world.regions.erase_domain(&name, true).unwrap();
    let vm = machine(&world, "web-2", "north", &exact).await;
    let failure = deploy(&world, &vm).await.failure.unwrap();
    assert!(failure.message.contains("erased"), "{}", failure.message);
}
