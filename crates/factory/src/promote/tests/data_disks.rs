//! Data disks go through all stages with the disk that they belong to: copied, counted, proved.

use super::*;
use crate::disks::{DataDisk, Disks};
use crate::import::{ImportSource, LocalDisk};

const BYTES: u64 = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn all_disks_of_a_version_are_promoted() {
    let chain = Chain::fresh().await;
    let world = &chain.world;
    let file = world.folder.path().join("data.raw");
    std::fs::write(&file, vec![5; BYTES as usize]).unwrap();
    let region = Location::new("north");
    let factory = world.factory();
    let taken = factory
        .import(&region, ImportSource::Here(LocalDisk::Raw(file)))
        .await;
    let data = DataDisk {
        lun: 2,
        digest: taken.unwrap().digest,
        logical_bytes: BYTES,
    };
    let first = world.definition.child("versions", "1.0.0").unwrap();
    let mut found = world.get(&first).await.unwrap();
    let mut disks = Disks::of(&found).unwrap();
    disks.data.push(data);
    disks.write(&mut found.properties["bullion"]);
    let shown =
        json!([{ "lun": 2, "hostCaching": "ReadOnly", "sizeInGB": 1, "source": { "id": "/a" } }]);
    found.properties["storageProfile"]["dataDiskImages"] = shown;
    world.put(&first, Draft::from_resource(found)).await;
    let done = chain.promote("test").await;
    assert_eq!(done.state, PromotionState::Succeeded, "{}", done.message);
    let version = chain.version("test").await.unwrap();
    assert_eq!(Disks::of(&version), Some(disks));
    assert_eq!(
        version.properties["storageProfile"]["dataDiskImages"],
        json!([{ "lun": 2, "hostCaching": "ReadOnly", "sizeInGB": 1 }])
    );
    let factory = world.factory();
    for region in ["south", "north"] {
        let region = Location::new(region);
        assert!(
            factory.regions().holder(&region, &data.digest).is_some(),
            "{region}"
        );
    }
    let verified = verify(&factory, &done).await.unwrap();
    assert!(verified.equal, "{verified:?}");
    assert_eq!(verified.stages[1].data_disks, [data]);
    // A region that lost a data disk has lost the version.
    let south = factory.regions().region(&Location::new("south")).unwrap();
    south.delete(&data.digest).unwrap();
    let verified = verify(&factory, &done).await.unwrap();
    assert_eq!(verified.stages[1].missing_in, [Location::new("south")]);
    let copies = crate::replicate::copies(&version);
    let there: Vec<bool> = copies
        .iter()
        .map(|copy| copy.is_there(factory.regions()))
        .collect();
    assert_eq!(there, [false, true]);
}
