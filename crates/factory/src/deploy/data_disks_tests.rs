//! Data disks of machines on fakes: where their bits come from, and that what a machine wrote is kept.

use catalog::{Draft, JobRow, JobState, Resource};
use disk::DiskDigest;
use jobs::JobKind;
use serde_json::{Value, json};
use wire::{Location, ProvisioningState, ResourceId};

use super::{
    ChangeDisks, ChangeDisksInput, Create, DeleteMachine, DeleteMachineInput, Deploy, DeployInput,
    MACHINE_WRITE, Power, PowerChange, PowerInput, Wanted, data_disks::file_name,
};
use crate::disks::{DataDisk, Disks};
use crate::import::{ImportSource, LocalDisk};
use crate::testing::World;

const MIB: usize = 1 << 20;
const MACHINE_DELETE: &str = "Microsoft.Compute/virtualMachines/delete";

struct Site {
    world: World,
    vm: ResourceId,
}

fn disk_id(world: &World, name: &str) -> ResourceId {
    world
        .group
        .extension("Microsoft.Compute", "disks", name)
        .unwrap()
}

/// A disk of such bytes in the region's store.
async fn stored(world: &World, byte: u8) -> DiskDigest {
    let file = world.folder.path().join(format!("{byte}.bytes"));
    std::fs::write(&file, vec![byte; MIB]).unwrap();
    let region = Location::new("south");
    let factory = world.factory();
    let taken = factory
        .import(&region, ImportSource::Here(LocalDisk::Raw(file)))
        .await;
    taken.unwrap().digest
}

impl Site {
    /// A version with a data disk, a disk resource, and a machine that asks for an empty disk and that one.
    async fn fresh() -> Site {
        let world = World::new(&["north", "south"]).await;
        let (_, job) = world.run(&world.factory()).await;
        assert_eq!(job.state, JobState::Succeeded, "{:?}", job.failure);
        let data = DataDisk {
            lun: 3,
            digest: stored(&world, 3).await,
            logical_bytes: MIB as u64,
        };
        let version = world.definition.child("versions", "1.0.0").unwrap();
        let mut found = world.get(&version).await.unwrap();
        let mut disks = Disks::of(&found).unwrap();
        disks.data.push(data);
        disks.write(&mut found.properties["bullion"]);
        world.put(&version, Draft::from_resource(found)).await;
        let facts = json!({ "diskDigest": stored(&world, 5).await, "logicalBytes": MIB });
        let body = json!({ "diskState": "Unattached", "bullion": facts });
        world
            .put(&disk_id(&world, "five"), Draft::new(body).location("south"))
            .await;
        let vm = world
            .group
            .extension("Microsoft.Compute", "virtualMachines", "web-1")
            .unwrap();
        let element = |lun: u32, option: &str, name: &str, gib: Value| {
            json!({
                "lun": lun, "createOption": option, "diskSizeGB": gib,
                "managedDisk": { "id": disk_id(&world, name).to_string() },
            })
        };
        let body = json!({
            "hardwareProfile": { "vmSize": "Standard_B1s" },
            "storageProfile": {
                "imageReference": { "id": world.definition.to_string() },
                "dataDisks": [
                    element(0, "Empty", "zero", json!(1)),
                    element(5, "Attach", "five", Value::Null),
                ],
            },
            "osProfile": { "computerName": "web-1", "adminUsername": "azureuser" },
        });
        let draft = Draft::new(body)
            .location("south")
            .state(ProvisioningState::Creating);
        world.put(&vm, draft).await;
        Site { world, vm }
    }

    async fn job<K: JobKind>(&self, action: &str, input: &K::Input) -> JobRow
    where
        K::Input: Sync,
    {
        let (world, vm) = (&self.world, &self.vm);
        let factory = world.factory();
        let (runner, job) = world.submit::<K>(&factory, action, vm, input).await;
        assert!(runner.run_next().await);
        world.job(action, vm, job).await
    }

    async fn deploy(&self) -> JobRow {
        let vm = self.vm.clone();
        self.job::<Deploy>(MACHINE_WRITE, &DeployInput { vm }).await
    }

    async fn stop(&self) {
        let input = PowerInput {
            vm: self.vm.clone(),
            change: PowerChange::PowerOff,
        };
        let stopped = self.job::<Power>(MACHINE_WRITE, &input).await;
        assert_eq!(stopped.state, JobState::Succeeded);
    }

    async fn change(&self, detach: &[u32], attach: Vec<Wanted>) -> JobRow {
        let input = ChangeDisksInput {
            vm: self.vm.clone(),
            detach: detach.to_vec(),
            attach: attach.into_iter().map(|one| (one, json!({}))).collect(),
        };
        self.job::<ChangeDisks>(MACHINE_WRITE, &input).await
    }

    fn file(&self, lun: u32) -> std::path::PathBuf {
        let factory = self.world.factory();
        let folder = factory.machine_folder(&self.vm, &Location::new("south"));
        folder.join(file_name(lun))
    }

    /// A data disk's first byte and size, where the machine has it.
    fn look(&self, lun: u32) -> Option<(u8, usize)> {
        let bytes = std::fs::read(self.file(lun)).ok()?;
        Some((bytes[0], bytes.len()))
    }

    async fn disk(&self, name: &str) -> Option<Resource> {
        self.world.get(&disk_id(&self.world, name)).await
    }

    async fn luns(&self) -> Vec<u64> {
        let machine = self.world.get(&self.vm).await.unwrap();
        let list = machine.properties["storageProfile"]["dataDisks"].clone();
        let list: Vec<Value> = serde_json::from_value(list).unwrap();
        list.iter()
            .map(|one| one["lun"].as_u64().unwrap())
            .collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_has_the_disks_of_its_image_and_those_that_are_asked_for() {
    let site = Site::fresh().await;
    let done = site.deploy().await;
    assert_eq!(done.state, JobState::Succeeded, "{:?}", done.failure);
    assert_eq!(site.look(0), Some((0, 1 << 30)));
    assert_eq!(site.look(3), Some((3, MIB)));
    assert_eq!(site.look(5), Some((5, MIB)));
    assert_eq!(site.luns().await, [0, 5, 3]);
    for name in ["zero", "five", "web-1_DataDisk_3"] {
        let disk = site.disk(name).await.unwrap();
        assert_eq!(disk.properties["diskState"], "Attached", "{name}");
        assert_eq!(disk.properties["bullion"]["managedBy"], site.vm.to_string());
    }
    // While it runs nothing is taken from it.
    let refused = site.change(&[5], Vec::new()).await;
    assert_eq!(refused.failure.unwrap().code, "OperationNotAllowed");

    // What the machine wrote is the disk's from when it is taken off.
    site.stop().await;
    std::fs::write(site.file(5), vec![9; MIB]).unwrap();
    let done = site.change(&[5, 0], Vec::new()).await;
    assert_eq!(done.state, JobState::Succeeded, "{:?}", done.failure);
    assert_eq!((site.look(5), site.look(0)), (None, None));
    assert_eq!(site.luns().await, [3]);
    let five = site.disk("five").await.unwrap();
    assert_eq!(five.properties["diskState"], "Unattached");
    assert_eq!(five.properties["bullion"].get("managedBy"), None);
    let digest = stored(&site.world, 9).await;
    assert_eq!(Disks::of(&five), Some(Disks::only(digest)));
    assert!(Disks::of(&site.disk("zero").await.unwrap()).is_some());

    // And another place has it with that.
    let wanted = Wanted {
        lun: 1,
        disk: disk_id(&site.world, "five"),
        create: Create::Attach,
        gib: None,
    };
    let done = site.change(&[], vec![wanted.clone()]).await;
    assert_eq!(done.state, JobState::Succeeded, "{:?}", done.failure);
    assert_eq!(site.look(1), Some((9, MIB)));
    assert_eq!(site.luns().await, [3, 1]);

    let vm = site.vm.clone();
    let gone = site
        .job::<DeleteMachine>(MACHINE_DELETE, &DeleteMachineInput { vm })
        .await;
    assert_eq!(gone.state, JobState::Succeeded, "{:?}", gone.failure);
    let five = site.disk("five").await.unwrap();
    assert_eq!(five.properties["diskState"], "Unattached");
    assert_eq!(Disks::of(&five), Some(Disks::only(digest)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_that_fails_leaves_the_disks_that_it_found() {
    let site = Site::fresh().await;
    site.world
        .machines
        .boots(machine::fake::BootScript::Hangs("a console".into()));
    let failed = site.deploy().await;
    assert_eq!(failed.state, JobState::Failed);
    assert_eq!(site.look(5), None);
    assert!(site.disk("zero").await.is_none());
    assert!(site.disk("web-1_DataDisk_3").await.is_none());
    let five = site.disk("five").await.unwrap();
    assert_eq!(five.properties["diskState"], "Unattached");
    site.world.machines.boots(machine::fake::BootScript::Ready);
    let done = site.deploy().await;
    assert_eq!(done.state, JobState::Succeeded, "{:?}", done.failure);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_is_one_machines() {
    let site = Site::fresh().await;
    let id = disk_id(&site.world, "five");
    let mut found = site.world.get(&id).await.unwrap();
    found.properties["bullion"]["managedBy"] = "/another/machine".into();
    site.world.put(&id, Draft::from_resource(found)).await;
    let refused = site.deploy().await;
    let failure = refused.failure.unwrap();
    assert_eq!(failure.code, "ConflictingUserInput", "{failure:?}");
    assert!(failure.message.contains("already owned by VM"));
}
