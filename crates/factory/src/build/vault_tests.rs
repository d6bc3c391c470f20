//! Secrets that a key-value store keeps, against a server that answers as Vault's second version of it does.

use std::path::PathBuf;
use std::sync::Arc;

use wire::TenantId;

use super::*;
use crate::fake_web::{self, Answer, Asked};

const TOKEN: &str = "s.token";
const KNOWN: &str = r#"{"request_id":"1","data":{"data":{"password":"hunter22","port":5432},"metadata":{"version":3}}}"#;
const FIRST_VERSION: &str = r#"{"data":{"password":"hunter33"}}"#;

async fn fake() -> String {
    format!("http://{}/", fake_web::serve(answer).await)
}

fn answer(asked: Asked) -> Answer {
    let with = |status, body: &str| Answer {
        body: body.to_owned(),
        ..Answer::of(status)
    };
    match asked.path.as_str() {
        _ if asked.header("x-vault-token") != TOKEN => {
            with(403, r#"{"errors":["permission denied"]}"#)
        }
        "/v1/secret/data/ci" => with(200, KNOWN),
        "/v1/kv/ci" => with(200, FIRST_VERSION),
        "/v1/secret/data/endless" => with(200, &"[".repeat(VAULT_BYTES_MAX * 2)),
        // A vault that stands by sends whoever asks to the active one, and a token is not taken anywhere else.
        "/v1/secret/data/moved" => Answer::of(307).with("location", "/v1/secret/data/ci"),
        _ => with(404, r#"{"errors":[]}"#),
    }
}

fn asked(path: &str, field: &str) -> [Secret; 1] {
    [Secret {
        name: "TOKEN".to_owned(),
        place: SecretPlace::Vault {
            path: path.to_owned(),
            field: field.to_owned(),
        },
    }]
}

fn secrets(operator: TenantId, address: Option<String>, token: &'static str) -> Secrets {
    let variables: Variables = Arc::new(move |name: &str| match name {
        "VAULT_ADDR" => address.clone(),
        "VAULT_TOKEN" => Some(token.to_owned()),
        _ => None,
    });
    Secrets::with(PathBuf::from("/nowhere"), Some(operator), variables)
}

#[tokio::test]
async fn a_field_of_a_vault_is_a_secret() {
    let operator = TenantId::random();
    let vault = secrets(operator, Some(fake().await), TOKEN);
    let check = async |path: &str, field: &str, expected: Result<&str, &str>| {
        let found = vault.look_up(&asked(path, field), operator).await;
        match (&found, expected) {
            (Ok(values), Ok(value)) => assert_eq!(values[0].reveal(), value, "{path}"),
            (Err(error), Err(part)) => {
                let text = error.to_string();
                assert!(text.contains(part) && text.contains("TOKEN"), "{text}");
                assert!(!text.contains("hunter"), "{text}");
            }
            _ => panic!("{path} {field}: {found:?}"),
        }
    };
    check("secret/data/ci", "password", Ok("hunter22")).await;
    check("kv/ci", "password", Ok("hunter33")).await;
    check("secret/data/ci", "user", Err("has no field user")).await;
    check("secret/data/ci", "port", Err("has no field port")).await;
    check(
        "secret/data/other",
        "password",
        Err("the vault answers 404"),
    )
    .await;
    check(
        "secret/data/moved",
        "password",
        Err("the vault answers 307"),
    )
    .await;
    check("secret/data/endless", "password", Err("not understood")).await;
}

#[tokio::test]
async fn a_vault_serves_the_operator_and_nobody_else() {
    let (operator, other) = (TenantId::random(), TenantId::random());
    let check = async |vault: Secrets, tenant: TenantId, part: &str| {
        let asked = asked("secret/data/ci", "password");
        let text = vault.look_up(&asked, tenant).await.unwrap_err().to_string();
        assert!(text.contains(part), "{text}");
    };
    let address = fake().await;
    let with = |token| secrets(operator, Some(address.clone()), token);
    check(with(TOKEN), other, "operator's own tenant").await;
    check(with("s.revoked"), operator, "the vault answers 403").await;
    check(secrets(operator, None, TOKEN), operator, "no VAULT_ADDR").await;
    let nobody = "http://127.0.0.1:1".to_owned();
    let gone = secrets(operator, Some(nobody), TOKEN);
    check(gone, operator, "ask the vault").await;
}
