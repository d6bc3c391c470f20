//! Data disks in the bodies of machines: what is kept, what is refused, and when.

use serde_json::{Value, json};

use super::bits::made;
use super::galleries::{definition, machine};
use super::site::{GROUP, Site};

fn compute(kind: &str, name: &str) -> String {
    format!("{GROUP}/providers/Microsoft.Compute/{kind}/{name}")
}

/// A site with a disk, and the body of a machine with these data disks.
async fn site() -> (Site, impl Fn(Value) -> Value) {
    let site = Site::start().await.with_group().await;
    let image = definition(&site, GROUP).await;
    let data = json!({ "createOption": "Empty" });
    let body =
        json!({ "location": "south", "properties": { "creationData": data, "diskSizeGB": 4 } });
    made(&site, &compute("disks", "four"), body).await;
    let with = move |disks: Value| {
        let mut body = machine(&image);
        body["properties"]["storageProfile"]["dataDisks"] = disks;
        body
    };
    (site, with)
}

async fn check(site: &Site, path: &str, body: Value, status: u16, part: &str) {
    let seen = site.put(path, body.clone()).await;
    assert_eq!(seen.status, status, "{body}: {:?}", seen.body);
    assert!(seen.message().contains(part), "{body}: {:?}", seen.body);
}

#[tokio::test]
async fn a_new_machine_says_what_its_data_disks_are() {
    let (site, with) = site().await;
    let path = compute("virtualMachines", "m");
    let four = json!({ "id": compute("disks", "four") });
    for (disks, part) in [
        (json!([{ "createOption": "Empty" }]), "lun' is missing"),
        (
            json!([{ "lun": 64, "createOption": "Empty" }]),
            "between 0 and 63, inclusive",
        ),
        (
            json!([{ "lun": 1, "createOption": "Empty" }, { "lun": 1, "createOption": "Empty" }]),
            "must be unique",
        ),
        (
            json!([{ "lun": 1 }]),
            "must be one of Empty, FromImage, Attach",
        ),
        (
            json!([{ "lun": 1, "createOption": "Copy" }]),
            "Make a disk of a snapshot",
        ),
        (
            json!([{ "lun": 1, "createOption": "Attach" }]),
            "managedDisk.id' is missing",
        ),
        (
            json!([{ "lun": 1, "createOption": "Attach", "managedDisk": { "id": GROUP } }]),
            "not the id of a disk",
        ),
        (
            json!([{ "lun": 1, "createOption": "Empty", "diskSizeGB": 4000 }]),
            "between 1 and 2048",
        ),
        (
            json!([{ "lun": 1, "createOption": "Empty", "name": "a/b" }]),
            "name",
        ),
        (json!({ "lun": 1 }), "an array"),
    ] {
        check(&site, &path, with(disks), 400, part).await;
    }
    let many: Vec<Value> = (0..17)
        .map(|lun| json!({ "lun": lun, "createOption": "Empty" }))
        .collect();
    check(&site, &path, with(json!(many)), 409, "data disks allowed").await;
    // As az writes them.
    let disks = json!([
        { "lun": 0, "createOption": "empty", "diskSizeGB": 2, "managedDisk": { "storageAccountType": null } },
        { "lun": 3, "createOption": "fromImage", "caching": "ReadOnly", "name": "own" },
        { "lun": 5, "createOption": "attach", "managedDisk": four },
    ]);
    let shown = made(&site, &path, with(disks)).await;
    let list = &shown["properties"]["storageProfile"]["dataDisks"];
    assert_eq!(list[0]["name"], "m_DataDisk_0");
    assert_eq!(
        list[0]["managedDisk"]["id"],
        compute("disks", "m_DataDisk_0")
    );
    assert_eq!(
        (&list[0]["createOption"], &list[0]["diskSizeGB"]),
        (&json!("Empty"), &json!(2))
    );
    assert_eq!(
        (&list[1]["name"], &list[1]["caching"]),
        (&json!("own"), &json!("ReadOnly"))
    );
    assert_eq!(
        (&list[2]["name"], &list[2]["createOption"]),
        (&json!("four"), &json!("Attach"))
    );
}

#[tokio::test]
async fn disks_are_put_on_and_taken_off_while_the_machine_is_off() {
    let (site, with) = site().await;
    let path = compute("virtualMachines", "m");
    let shown = made(
        &site,
        &path,
        with(json!([{ "lun": 0, "createOption": "Empty", "diskSizeGB": 1 }])),
    )
    .await;
    let list = shown["properties"]["storageProfile"]["dataDisks"].clone();
    // What was read changes nothing, running or not; and az sends it without the image.
    check(&site, &path, with(list.clone()), 200, "").await;
    let mut without = with(list.clone());
    let profile = without["properties"]["storageProfile"].as_object_mut();
    profile.unwrap().remove("imageReference");
    let put = site.put(&path, without.clone()).await;
    assert_eq!(put.status, 200, "{:?}", put.body);
    let image = |body: &Value| body["properties"]["storageProfile"]["imageReference"].clone();
    assert_eq!(image(&put.body), image(&shown));
    let new = compute("virtualMachines", "new");
    check(&site, &new, without, 400, "imageReference' is missing").await;
    let mut more = list.clone();
    let four = json!({ "lun": 1, "createOption": "Attach", "managedDisk": { "id": compute("disks", "four") } });
    more.as_array_mut().unwrap().push(four);
    let off = json!([{ "lun": 0, "createOption": "Empty", "toBeDetached": true }]);
    for body in [with(more.clone()), with(json!([])), with(off.clone())] {
        check(&site, &path, body, 409, "since the VM is running").await;
    }
    let action = format!("{path}/attachDetachDataDisks");
    let attach = json!({ "dataDisksToAttach": [{ "diskId": compute("disks", "four") }] });
    let ask = async |body: &Value| site.ask("POST", &action, Some(body.clone())).await;
    assert_eq!(ask(&attach).await.code(), "OperationNotAllowed");
    let stopped = site.ask("POST", &format!("{path}/deallocate"), None).await;
    site.wait(stopped.header("azure-asyncoperation")).await;
    for body in [with(more), with(json!([])), with(off)] {
        let put = site.put(&path, body).await;
        assert_eq!(put.status, 200, "{:?}", put.body);
        assert_eq!(put.body["properties"]["provisioningState"], "Updating");
        // The list says what is there until the job has changed it.
        assert_eq!(put.body["properties"]["storageProfile"]["dataDisks"], list);
        let ended = site.wait(put.header("azure-asyncoperation")).await;
        assert_eq!(ended.body["status"], "Succeeded", "{:?}", ended.body);
    }
    let asked = ask(&attach).await;
    assert_eq!(asked.status, 202, "{:?}", asked.body);
    site.wait(asked.header("azure-asyncoperation")).await;
    let absent = json!({ "dataDisksToDetach": [{ "diskId": compute("disks", "four") }] });
    assert!(ask(&absent).await.message().contains("not attached"));
    let wrong = json!({ "dataDisksToAttach": [{ "diskId": compute("images", "four") }] });
    assert!(ask(&wrong).await.message().contains("not the id of a disk"));
    let mut image = with(list);
    image["properties"]["storageProfile"]["dataDisks"] =
        json!([{ "lun": 7, "createOption": "FromImage" }]);
    check(&site, &path, image, 400, "no more disks of its image").await;
}
