//! `encryption-set`: what is shown and asked, and that nothing is erased or deleted without a yes.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fake::{self, Fake};
use crate::harness::{Outcome, Surroundings, shown};

const SET: &str = "/subscriptions/11111111-2222-4333-8444-555555555555/resourceGroups/images/providers/Microsoft.Compute/diskEncryptionSets/payroll";

struct Stage {
    fake: Fake,
    surroundings: Surroundings,
    /// Of the certificate.
    _folder: TempDir,
}

async fn stage() -> Stage {
    let fake = fake::start().await;
    let folder = tempfile::tempdir().unwrap();
    let surroundings = Surroundings {
        variables: fake.variables(folder.path()),
        ..Surroundings::default()
    };
    let stage = Stage {
        fake,
        surroundings,
        _folder: folder,
    };
    let applied = stage.run(&["apply", "tests/fixtures/valid", "--yes"]).await;
    assert_eq!(applied.code, 0, "{}", applied.err);
    stage.fake.writes();
    stage
}

impl Stage {
    async fn run(&self, line: &[&str]) -> Outcome {
        self.surroundings.run(line).await
    }

    async fn check(&self, name: &str, line: &[&str], asked: &[&str]) {
        let outcome = self.run(line).await;
        insta::assert_snapshot!(name, shown(line, &outcome));
        assert_eq!(self.fake.writes(), asked, "{name}");
    }

    fn keep(&self, action: &str, answer: Value) {
        self.fake.put(&format!("{SET}{action}"), answer);
    }
}

fn set() -> Value {
    json!({ "location": "north", "properties": {
        "activeKey": { "keyUrl": "https://localhost/keys/1/2" },
        "lastKeyRotationTimestamp": "2026-11-21T04:00:00Z",
    }})
}

#[tokio::test]
async fn a_set_is_made_listed_and_its_key_replaced() {
    let stage = stage().await;
    let (put, rotate) = (format!("PUT {SET}"), format!("POST {SET}/rotateKey"));
    let create = "encryption-set create payroll --region north -g images";
    let words: Vec<&str> = create.split(' ').collect();
    stage.check("set_create", &words, &[&put]).await;
    let made = stage.fake.get(SET);
    assert_eq!(made["properties"]["activeKey"], Value::Null);
    let given = [
        &words[..],
        &["--key-url", "https://vault/v1/transit/keys/a"],
    ]
    .concat();
    stage.run(&given).await;
    let made = stage.fake.get(SET);
    assert_eq!(
        made["properties"]["activeKey"]["keyUrl"],
        "https://vault/v1/transit/keys/a"
    );
    stage.keep("", set());
    stage.keep("/rotateKey", set());
    stage.fake.writes();
    let list = ["encryption-set", "list"];
    stage.check("set_list", &list, &[]).await;
    let line = ["encryption-set", "rotate", "payroll"];
    stage.check("set_rotate", &line, &[&rotate]).await;
    let line = ["encryption-set", "rotate", "pay"];
    stage.check("set_unknown", &line, &[]).await;
}

#[tokio::test]
async fn nothing_is_erased_or_deleted_without_a_yes() {
    let stage = stage().await;
    stage.keep("", set());
    let lost = |done: bool| {
        json!({ "done": done, "domain": "0123", "disks": ["bd1:01", "bd1:02"], "bytes": 5 << 20,
            "alsoElsewhere": ["bd1:02"], "waiting": ["zone 2"], "versions": ["/some/version/1.0.0"] })
    };
    stage.keep("/erase", lost(false));
    let (look, delete) = (format!("POST {SET}/erase"), format!("DELETE {SET}"));
    let erase = ["encryption-set", "erase", "payroll"];
    let with = |option: &'static str| [&erase[..], &[option]].concat();
    stage
        .check("set_erase_dry", &with("--dry-run"), &[&look])
        .await;
    stage.check("set_erase_unasked", &erase, &[&look]).await;
    let line = ["encryption-set", "delete", "payroll"];
    stage.check("set_delete_unasked", &line, &[]).await;
    stage.keep("/erase", lost(true));
    stage
        .check("set_erase", &with("--yes"), &[&look, &look])
        .await;
    let line = ["encryption-set", "delete", "payroll", "--yes"];
    stage.check("set_delete", &line, &[&delete]).await;
}
