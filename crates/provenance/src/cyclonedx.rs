//! A bill of materials as CycloneDX 1.6 in JSON (<https://cyclonedx.org/docs/1.6/json/>). The same image gives the
//! same bytes.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::Image;
use crate::packages::{Inventory, Package};

/// The document of `image`.
pub fn cyclonedx(image: &Image<'_>, inventory: &Inventory) -> Value {
    let os = &inventory.os;
    let image_ref = format!("image:{}", image.digest);
    let components: Vec<Value> = inventory
        .packages
        .iter()
        .map(|package| component(package, inventory))
        .collect();
    let contents: Vec<&Value> = components.iter().map(|c| &c["bom-ref"]).collect();
    let dependencies = json!([{ "ref": image_ref, "dependsOn": contents }]);
    // Named by what it is about, so that it can be made again.
    let serial = Uuid::new_v5(
        &Uuid::NAMESPACE_URL,
        format!("{} {} {}", image.name, image.version, image.digest).as_bytes(),
    );
    json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": format!("urn:uuid:{serial}"),
        "version": 1,
        "metadata": {
            "timestamp": image.published,
            "tools": { "components": [{ "type": "application", "name": "bullion" }] },
            "component": {
                "bom-ref": image_ref,
                "type": "operating-system",
                "name": image.name,
                "version": image.version,
                "properties": [
                    { "name": "bullion:diskDigest", "value": image.digest },
                    { "name": "bullion:osRelease", "value": os.pretty_name },
                ],
            },
        },
        "components": components,
        "dependencies": dependencies,
    })
}

fn component(package: &Package, inventory: &Inventory) -> Value {
    let url = package.url(&inventory.os);
    let mut value = json!({
        "bom-ref": url,
        "type": "library",
        "name": package.name,
        "version": package.version,
        "purl": url,
        "properties": [
            { "name": "bullion:source", "value": package.source },
            { "name": "bullion:sourceVersion", "value": package.source_version },
        ],
    });
    if let Some(maintainer) = &package.maintainer {
        value["supplier"] = json!({ "name": maintainer });
    }
    if let Some(homepage) = &package.homepage {
        value["externalReferences"] = json!([{ "type": "website", "url": homepage }]);
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packages::tests::inventory;

    #[test]
    fn every_package_is_in_the_document_once() {
        let image = Image {
            name: "images/debian",
            version: "1.0.0",
            digest: "bd1:00",
            published: "2026-01-02T03:04:05Z",
        };
        let document = cyclonedx(&image, &inventory());
        assert_eq!(document, cyclonedx(&image, &inventory()));
        assert_eq!(document["components"].as_array().unwrap().len(), 3);
        assert_eq!(
            document["dependencies"][0]["dependsOn"][2],
            "pkg:deb/debian/zlib1g@1:1.2.13.dfsg-1?arch=amd64&distro=debian-12"
        );
        assert_eq!(document["components"][2]["version"], "1:1.2.13.dfsg-1");
    }
}
