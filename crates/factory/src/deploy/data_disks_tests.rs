//! Data disks of machines on fakes: where their bits come from, and that what a machine wrote is kept.

use std::path::{Path, PathBuf};

use catalog::{Draft, JobRow, JobState, Resource};
use disk::image::Layer;
use disk::{DiskDigest, MemDisk, ReadAt};
use jobs::JobKind;
use machine::MachineDisk;
use process::Command;
use serde_json::{Value, json};
use store::FileDisk;
use wire::{Location, ProvisioningState, ResourceId};

use super::layers::{self, Which};
use super::{
    ChangeDisks, ChangeDisksInput, Create, DeleteMachine, DeleteMachineInput, Deploy, DeployInput,
    MACHINE_WRITE, Power, PowerChange, PowerInput, Wanted,
};
use crate::disks::{DataDisk, Disks};
use crate::domains::KEPT_IN;
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

    fn folder(&self) -> PathBuf {
        let factory = self.world.factory();
        factory.machine_folder(&self.vm, &Location::new("south"))
    }

    /// What a data disk is in the machine's folder, its first byte and its size, where the machine has it.
    fn look(&self, lun: u32) -> Option<(&'static str, u8, usize)> {
        let south = Location::new("south");
        let first = |disk: &dyn ReadAt| {
            let mut byte = [0];
            disk.read_at(0, &mut byte).unwrap();
            (byte[0], disk.size() as usize)
        };
        let open = |file: &Path| FileDisk::open(file).unwrap();
        let (kind, (byte, size)) = match layers::source(&self.folder(), Which::Data(lun), &south)? {
            LocalDisk::Raw(file) => ("raw", first(&open(&file))),
            LocalDisk::Layer {
                file,
                over: Some((place, digest)),
            } => {
                let below = self.world.regions.store(&place).unwrap();
                let below = below.disk(&digest).unwrap();
                let layer = Layer::open(open(&file), Default::default()).unwrap();
                ("layer", first(&layer.over(&below)))
            }
            other => panic!("{other:?}"),
        };
        Some((kind, byte, size))
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
    assert_eq!(site.look(0), Some(("raw", 0, 1 << 30)));
    assert_eq!(site.look(3), Some(("layer", 3, MIB)));
    assert_eq!(site.look(5), Some(("layer", 5, MIB)));
    assert_eq!(site.luns().await, [0, 5, 3]);
    for name in ["zero", "five", "web-1_DataDisk_3"] {
        let disk = site.disk(name).await.unwrap();
        assert_eq!(disk.properties["diskState"], "Attached", "{name}");
        assert_eq!(disk.properties["bullion"]["managedBy"], site.vm.to_string());
    }
    // While it runs nothing is taken from it.
    let refused = site.change(&[5], Vec::new()).await;
    assert_eq!(refused.failure.unwrap().code, "OperationNotAllowed");

    // What the machine wrote is the disk's from when it is taken off; here in a copy, as earlier releases made them.
    site.stop().await;
    let lun = Which::Data(5);
    layers::remove(&site.folder(), lun).unwrap();
    std::fs::write(lun.raw(&site.folder()), vec![9; MIB]).unwrap();
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
    assert_eq!(site.look(1), Some(("layer", 9, MIB)));
    assert_eq!(site.luns().await, [3, 1]);

    let vm = site.vm.clone();
    let gone = site
        .job::<DeleteMachine>(MACHINE_DELETE, &DeleteMachineInput { vm })
        .await;
    assert_eq!(gone.state, JobState::Succeeded, "{:?}", gone.failure);
    let five = site.disk("five").await.unwrap();
    assert_eq!(five.properties["diskState"], "Unattached");
    assert_eq!(Disks::of(&five), Some(Disks::only(digest)));
    assert!(!site.folder().exists());
}

/// Runs a program on the disks of a machine, in its folder.
async fn run(program: &str, args: &[&str], folder: &Path) {
    let ran = Command::new(program).args(args).cwd(folder).run().await;
    ran.unwrap_or_else(|error| panic!("{program} {args:?}: {error}"));
}

/// QEMU writes to a part of a data disk and has filled another one: that is what is taken in.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_over_a_data_disk_is_kept() {
    const OPEN: [&str; 2] = ["-f", "qcow2"];
    let site = Site::fresh().await;
    assert_eq!(site.deploy().await.state, JobState::Succeeded);
    site.stop().await;
    let (folder, south) = (site.folder(), Location::new("south"));
    let factory = site.world.factory();
    let attached = layers::attach(&factory, &site.vm, &south, &[3, 5]).await;
    let attached = attached.unwrap();
    assert_eq!(attached.below.len(), 3);
    for data in &attached.data {
        let MachineDisk::Layer {
            file,
            below: Some(below),
        } = &data.disk
        else {
            panic!("{data:?}");
        };
        // As a machine that starts has it.
        let link = folder.join(format!("lun{}.sock", data.lun));
        std::os::unix::fs::symlink(&below.socket, link).unwrap();
        let file = file.to_str().unwrap();
        let fill = ["-C", "-c", "read 0 256k", file];
        run("qemu-io", &[&OPEN[..], &fill].concat(), &folder).await;
        if data.lun == 5 {
            let write = ["-c", "write -P 9 300k 100k", "-c", "flush", file];
            run("qemu-io", &[&OPEN[..], &write].concat(), &folder).await;
        }
        let copy = ["convert", "-O", "raw", "-f", "qcow2", file];
        let copied = format!("copy-{}", data.lun);
        run("qemu-img", &[&copy[..], &[&copied]].concat(), &folder).await;
    }
    drop((attached, factory));
    // As if that of the image had begun in a domain of its own.
    let id = disk_id(&site.world, "web-1_DataDisk_3");
    let mut began = site.world.get(&id).await.unwrap();
    began.properties["bullion"][KEPT_IN] = "south~payroll".into();
    site.world.put(&id, Draft::from_resource(began)).await;
    let mut five = vec![5; MIB];
    five[300 << 10..400 << 10].fill(9);
    assert_eq!(std::fs::read(folder.join("copy-5")).unwrap(), five);

    let done = site.change(&[3, 5], Vec::new()).await;
    assert_eq!(done.state, JobState::Succeeded, "{:?}", done.failure);
    assert_eq!((site.look(3), site.look(5)), (None, None));
    let taken = async |name: &str| Disks::of(&site.disk(name).await.unwrap()).unwrap().os;
    let expected = disk::digest_of(&MemDisk::from(five)).unwrap().0;
    assert_eq!(taken("five").await, expected);
    assert_eq!(
        taken("web-1_DataDisk_3").await,
        stored(&site.world, 3).await,
        "nothing was written to it"
    );
    let now = site.disk("web-1_DataDisk_3").await.unwrap();
    let facts = &now.properties["bullion"];
    assert_eq!(facts[KEPT_IN], Value::Null, "it lies where all are now");
}

/// A machine reads on under the same names when another server is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_serves_what_all_disks_need() {
    let site = Site::fresh().await;
    assert_eq!(site.deploy().await.state, JobState::Succeeded);
    let (folder, south) = (site.folder(), Location::new("south"));
    let served = [Which::Os, Which::Data(3), Which::Data(5)].map(|which| {
        let (place, digest) = layers::needed(&folder, which, &south).unwrap().unwrap();
        assert_eq!(place, south);
        (which, digest, which.export(&digest, &site.vm))
    });
    let socket = site.world.served.serve(&south, served[0].1).await.unwrap();
    let socket = socket.socket().to_owned();
    let open = |export: &str| nbd::RemoteDisk::connect_unix(&socket, export);
    // The first server goes, once it has looked at the disks for the last time.
    for (_, _, export) in &served {
        while open(export).is_ok() {
            tokio::task::yield_now().await;
        }
    }
    let factory = site.world.factory();
    let report = factory.adopt_machines().await.unwrap();
    assert_eq!(report.running, std::slice::from_ref(&site.vm));
    for (which, digest, export) in &served {
        let disk = open(export).unwrap_or_else(|error| panic!("{which}: {error}"));
        assert_eq!(disk::digest_of(&disk).unwrap().0, *digest, "{which}");
    }
}

/// A disk of a region that is longer on the machine is zero behind its end.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_of_the_image_may_be_longer_on_the_machine() {
    let site = Site::fresh().await;
    let mut machine = site.world.get(&site.vm).await.unwrap();
    let id = disk_id(&site.world, "three").to_string();
    machine.properties["storageProfile"]["dataDisks"][0] = json!({
        "lun": 3, "createOption": "FromImage", "diskSizeGB": 1, "managedDisk": { "id": id },
    });
    site.world
        .put(&site.vm, Draft::from_resource(machine))
        .await;
    let done = site.deploy().await;
    assert_eq!(done.state, JobState::Succeeded, "{:?}", done.failure);
    assert_eq!(site.look(3), Some(("layer", 3, 1 << 30)));
    site.stop().await;
    assert_eq!(
        site.change(&[3], Vec::new()).await.state,
        JobState::Succeeded
    );
    let three = site.disk("three").await.unwrap();
    assert_eq!(three.properties["bullion"]["logicalBytes"], 1 << 30);
    assert_ne!(Disks::of(&three).unwrap().os, stored(&site.world, 3).await);
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
