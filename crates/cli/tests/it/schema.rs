//! The published schema is the one that the types give, and the example factory holds to it.

use cli::factory::body::Address;

use crate::harness::{Surroundings, shown};

const PUBLISHED: &str = "../../docs/schema/factory.schema.json";

#[tokio::test]
async fn published_schema_is_current() {
    let printed = Surroundings::default().run(&["schema"]).await.out;
    let published = std::fs::read_to_string(PUBLISHED).unwrap_or_default();
    assert!(
        printed == published,
        "run `bullion schema > docs/schema/factory.schema.json`"
    );
}

#[test]
fn example_of_child_images_is_without_fault() {
    let factory = cli::factory::load("../../examples/child-images".into()).unwrap();
    let desired = cli::factory::body::desired(&factory).unwrap();
    let web = desired.iter().find(|desired| match &desired.address {
        Address::Known(id) => id.name() == "web" && desired.kind == "ImageTemplate",
        Address::Assignment { .. } => false,
    });
    let source = &web.unwrap().body["properties"]["source"];
    let parent = source["imageVersionId"].as_str().unwrap();
    assert!(parent.ends_with("/images/base/versions/latest"), "{parent}");
}

#[test]
fn example_of_a_scanned_image_is_without_fault() {
    let factory = cli::factory::load("../../examples/scanned-image".into()).unwrap();
    let desired = cli::factory::body::desired(&factory).unwrap();
    let template = desired.iter().find(|one| one.kind == "ImageTemplate");
    let checks = &template.unwrap().body["properties"]["validate"]["inVMValidations"];
    let kinds: Vec<_> = checks
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["type"])
        .collect();
    assert_eq!(kinds, ["Bullion.OpenScap", "Bullion.Lynis"]);
    assert_eq!(checks[0]["rules"]["xccdf_example_rule_umask"], "Warn");
    assert_eq!(checks[1]["rules"]["PKGS-7388"], "Fail");
}

#[test]
fn example_of_a_windows_server_is_without_fault() {
    let factory = cli::factory::load("../../examples/windows-server".into()).unwrap();
    let desired = cli::factory::body::desired(&factory).unwrap();
    let template = desired.iter().find(|one| one.kind == "ImageTemplate");
    let body = &template.unwrap().body["properties"];
    let steps = body["customize"].as_array().unwrap();
    let kinds: Vec<_> = steps.iter().map(|one| &one["type"]).collect();
    assert_eq!(
        kinds,
        ["PowerShell", "File", "WindowsUpdate", "WindowsRestart"]
    );
    assert_eq!(steps[0]["validExitCodes"], serde_json::json!([0, 3010]));
    // A file of Windows has no mode.
    assert_eq!(steps[1]["destination"], r"C:\inetpub\wwwroot\index.html");
    assert!(steps[1].get("mode").is_none());
    assert_eq!(steps[2]["filters"][1], "include:$true");
    assert_eq!(steps[3]["restartTimeout"], "30m");
    assert_eq!(body["validate"]["inVMValidations"][0]["type"], "PowerShell");
}

#[test]
fn example_factory_is_without_fault() {
    let factory = cli::factory::load("../../examples/golden-debian".into()).unwrap();
    let desired = cli::factory::body::desired(&factory).unwrap();
    let ids: Vec<String> = desired
        .iter()
        .map(|desired| match &desired.address {
            Address::Known(id) => format!("{} {id}", desired.kind),
            Address::Assignment { scope, .. } => format!("{} at {scope}", desired.kind),
        })
        .collect();
    insta::assert_snapshot!("example_resources", ids.join("\n"));
    let of_kind = |kind: &str| desired.iter().find(|desired| desired.kind == kind);
    let template = &of_kind("ImageTemplate").unwrap().body;
    let mut body = template.clone();
    // The contents are the example's to change; their presence is what matters here.
    for step in body["properties"]["customize"].as_array_mut().unwrap() {
        for key in ["sourceUri", "scriptUri", "sha256Checksum", "certificate"] {
            if step.get(key).is_some() {
                assert!(step[key].as_str().unwrap().len() > 40, "{key}");
                step[key] = "…".into();
            }
        }
    }
    let checks = &mut body["properties"]["validate"]["inVMValidations"];
    let checks = checks.as_array_mut().unwrap().iter_mut();
    for check in checks.filter(|check| check["name"] == "certificate-is-trusted") {
        check["inline"] = "…".into();
    }
    insta::assert_snapshot!("example_template", format!("{body:#}"));
    // What the server reads it as.
    let _: wire::template::ImageTemplate = serde_json::from_value(template.clone()).unwrap();
}

#[tokio::test]
async fn without_a_profile_it_says_how_to_get_one() {
    let line = ["plan", "tests/fixtures/valid"];
    let mut surroundings = Surroundings::default();
    surroundings
        .variables
        .insert("HOME".into(), "/nonexistent".into());
    let outcome = surroundings.run(&line).await;
    insta::assert_snapshot!("no_profile", shown(&line, &outcome));
}
