//! A bill of materials as SPDX 2.3 in JSON (<https://spdx.github.io/spdx-spec/v2.3/>). The same image gives the same
//! bytes. Licences are not looked for: `NOASSERTION` says so, as the specification has it.

use serde_json::{Value, json};

use crate::Image;
use crate::packages::{Inventory, Package};

const NOTHING_SAID: &str = "NOASSERTION";
const IMAGE_ID: &str = "SPDXRef-Image";

/// The document of `image`.
pub fn spdx(image: &Image<'_>, inventory: &Inventory) -> Value {
    let os = &inventory.os;
    let mut packages = vec![json!({
        "SPDXID": IMAGE_ID,
        "name": image.name,
        "versionInfo": image.version,
        "primaryPackagePurpose": "OPERATING-SYSTEM",
        "downloadLocation": NOTHING_SAID,
        "filesAnalyzed": false,
        "licenseConcluded": NOTHING_SAID,
        "licenseDeclared": NOTHING_SAID,
        "copyrightText": NOTHING_SAID,
        "comment": format!("{}; disk digest {}", os.pretty_name, image.digest),
    })];
    let mut relationships = vec![json!({
        "spdxElementId": "SPDXRef-DOCUMENT",
        "relationshipType": "DESCRIBES",
        "relatedSpdxElement": IMAGE_ID,
    })];
    for package in &inventory.packages {
        let id = identifier(package);
        relationships.push(json!({
            "spdxElementId": IMAGE_ID,
            "relationshipType": "CONTAINS",
            "relatedSpdxElement": id,
        }));
        packages.push(described(&id, package, inventory));
    }
    json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": format!("{} {}", image.name, image.version),
        "documentNamespace": format!("urn:bullion:sbom:{}:{}", image.digest, image.version),
        "creationInfo": {
            "created": whole_seconds(image.published),
            "creators": ["Tool: bullion"],
        },
        "packages": packages,
        "relationships": relationships,
    })
}

fn described(id: &str, package: &Package, inventory: &Inventory) -> Value {
    let mut value = json!({
        "SPDXID": id,
        "name": package.name,
        "versionInfo": package.version,
        "downloadLocation": NOTHING_SAID,
        "filesAnalyzed": false,
        "licenseConcluded": NOTHING_SAID,
        "licenseDeclared": NOTHING_SAID,
        "copyrightText": NOTHING_SAID,
        "sourceInfo": format!("built from {} {}", package.source, package.source_version),
        "externalRefs": [{
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceType": "purl",
            "referenceLocator": package.url(&inventory.os),
        }],
    });
    if let Some(maintainer) = &package.maintainer {
        value["supplier"] = json!(format!("Organization: {maintainer}"));
    }
    if let Some(homepage) = &package.homepage {
        value["homepage"] = json!(homepage);
    }
    value
}

/// `SPDXRef-` and letters, digits, dots and dashes only; what is neither is written as its number, so that two
/// packages never get one identifier.
fn identifier(package: &Package) -> String {
    let mut id = String::from("SPDXRef-deb-");
    for byte in format!("{}.{}", package.name, package.architecture).bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' => id.push(char::from(byte)),
            other => id.push_str(&format!("-{other:02X}-")),
        }
    }
    id
}

/// SPDX knows no fractions of a second.
fn whole_seconds(time: &str) -> String {
    match time.split_once('.') {
        Some((whole, _)) => format!("{whole}Z"),
        None => time.to_owned(),
    }
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
            published: "2026-01-02T03:04:05.678Z",
        };
        let document = spdx(&image, &inventory());
        assert_eq!(document["creationInfo"]["created"], "2026-01-02T03:04:05Z");
        let ids: Vec<&str> = document["packages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|p| p["SPDXID"].as_str().unwrap())
            .collect();
        assert_eq!(
            ids,
            [
                "SPDXRef-Image",
                "SPDXRef-deb-bash.amd64",
                "SPDXRef-deb-libstdc-2B--2B-6.amd64",
                "SPDXRef-deb-zlib1g.amd64"
            ]
        );
        assert_eq!(document["relationships"].as_array().unwrap().len(), 4);
        assert_eq!(
            document["packages"][2]["sourceInfo"],
            "built from gcc-12 12.2.0-14+deb12u1"
        );
    }
}
