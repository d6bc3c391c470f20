//! Templates of a folder, in all their parts, as the server gets them.

use serde_json::Value;
use wire::template::ImageTemplateProperties;
use wire::template::fields::{Strictness, settle_template};

use crate::fake;
use crate::harness::{Surroundings, shown};

const TEMPLATES: &str = "/subscriptions/11111111-2222-4333-8444-555555555555/resourceGroups/images\
                         /providers/Microsoft.VirtualMachineImages/imageTemplates";

/// The server knows every member, and reads back what the folder says.
#[tokio::test]
async fn all_parts_of_a_template_are_the_servers() {
    let fake = fake::start().await;
    let folder = tempfile::tempdir().unwrap();
    let surroundings = Surroundings {
        variables: fake.variables(folder.path()),
        ..Surroundings::default()
    };
    let line = ["apply", "tests/fixtures/templates", "--yes"];
    let outcome = surroundings.run(&line).await;
    assert_eq!(outcome.code, 0, "{}", shown(&line, &outcome));
    for name in ["base", "child"] {
        let sent = fake.get(&format!("{TEMPLATES}/{name}"))["properties"].clone();
        let Value::Object(mut properties) = sent.clone() else {
            panic!("no properties: {sent}");
        };
        settle_template(&mut properties, Strictness::Refuse).unwrap();
        let read: ImageTemplateProperties = serde_json::from_value(properties.into()).unwrap();
        assert!(read.more.is_empty(), "{:?}", read.more);
        insta::assert_snapshot!(name, serde_json::to_string_pretty(&sent).unwrap());
    }
}
