//! Sign-in by certificate and by tokens of outside issuers, and what is refused.

use access::SigningKey;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use rcgen::SigningKey as _;
use serde_json::{Value, json};

use super::site::{AUDIENCE, Answer, Site, options};
use crate::start::start_with;

const CI: &str = "/providers/Bullion.Factory/applications/ci";
const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// An RSA key, and what stands for it in public.
struct Key {
    pair: rcgen::KeyPair,
    jwk: Value,
}

impl Key {
    fn new(kid: &str) -> Key {
        let key = SigningKey::generate(kid).unwrap();
        let access::VerifyingKey {
            modulus, exponent, ..
        } = key.public();
        Key {
            jwk: json!({ "kty": "RSA", "use": "sig", "kid": kid, "n": modulus, "e": exponent }),
            pair: rcgen::KeyPair::from_pem(key.pem()).unwrap(),
        }
    }

    fn certificate(&self, until: i32) -> String {
        let mut params = rcgen::CertificateParams::new(vec!["ci".to_string()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        params.self_signed(&self.pair).unwrap().pem()
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let text = format!("{}.{}", part(header), part(claims));
        let signature = self.pair.sign(text.as_bytes()).unwrap();
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

fn now() -> i64 {
    Timestamp::now().as_second()
}

struct World {
    site: Site,
    app: String,
    token_path: String,
}

async fn world() -> World {
    world_on(Site::start().await).await
}

async fn world_on(site: Site) -> World {
    let made = site.put(CI, json!({})).await;
    assert_eq!(made.status, 201, "{:?}", made.body);
    World {
        app: made.body["properties"]["appId"]
            .as_str()
            .unwrap()
            .to_string(),
        token_path: format!("/{}/oauth2/v2.0/token", site.tenant),
        site,
    }
}

impl World {
    async fn present(&self, assertion: &str, resource: &str) -> Answer {
        let scope = format!("{resource}/.default");
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", self.app.as_str()),
            ("client_assertion_type", JWT_BEARER),
            ("client_assertion", assertion),
            ("scope", &scope),
        ];
        self.site.post_form(&self.token_path, &form).await
    }

    async fn check(&self, assertion: &str, expected: Result<(), u32>) {
        let seen = self.present(assertion, AUDIENCE).await;
        match expected {
            Ok(()) => {
                assert_eq!(seen.status, 200, "{:?}", seen.body);
                let token = seen.body["access_token"].as_str().unwrap();
                let asked = self.site.ask_as(token, "GET", "/subscriptions", None).await;
                assert_ne!(asked.status, 401, "{:?}", asked.body);
            }
            Err(code) => {
                assert_eq!(seen.status, 401, "{assertion}: {:?}", seen.body);
                assert_eq!(seen.body["error"], "invalid_client");
                assert_eq!(seen.body["error_codes"], json!([code]), "{:?}", seen.body);
            }
        }
    }

    fn claims(&self) -> Value {
        json!({
            "iss": self.app, "sub": self.app, "jti": uuid::Uuid::new_v4(),
            "aud": format!("{}{}", self.site.running.url, self.token_path),
            "nbf": now(), "exp": now() + 600,
        })
    }
}

fn with(mut claims: Value, name: &str, value: Value) -> Value {
    claims[name] = value;
    claims
}

#[tokio::test]
async fn an_application_signs_in_with_its_certificate() {
    let world = world().await;
    let (key, other) = (Key::new("k"), Key::new("k"));
    let path = format!("{CI}/certificates/laptop");
    let body = |pem: String| json!({ "properties": { "certificate": pem } });
    for (pem, part) in [
        (String::new(), "must be text"),
        ("nonsense".to_string(), "no X.509 certificate"),
        (key.certificate(2021), "has expired"),
    ] {
        let seen = world.site.put(&path, body(pem)).await;
        assert_eq!(seen.status, 400);
        assert!(seen.message().contains(part), "{:?}", seen.body);
    }
    let made = world.site.put(&path, body(key.certificate(2099))).await;
    assert_eq!(made.status, 201, "{:?}", made.body);
    let thumbprint = made.body["properties"]["thumbprintSha256"].clone();
    let header = json!({ "alg": "RS256", "typ": "JWT", "x5t#S256": thumbprint });
    let sign = |claims: &Value| key.sign(&header, claims);

    let good = sign(&world.claims());
    world.check(&good, Ok(())).await;
    world.check(&good, Err(700_027)).await;
    let vault = world.present(&good, "https://vault.azure.net").await;
    assert_eq!(
        vault.status, 200,
        "one assertion, one token of each resource: {:?}",
        vault.body
    );
    assert_eq!(
        world.present(&good, "https://vault.azure.net").await.status,
        401
    );
    world.check(&sign(&world.claims()), Ok(())).await;

    let url = &world.site.running.url;
    let elsewhere = format!("{url}/{}/oauth2/v2.0/token", uuid::Uuid::new_v4());
    for (claims, code) in [
        (with(world.claims(), "aud", json!(elsewhere)), 700_023),
        (with(world.claims(), "aud", json!(AUDIENCE)), 700_023),
        (with(world.claims(), "exp", json!(now() - 1000)), 700_024),
        (with(world.claims(), "exp", json!(now() + 100_000)), 700_024),
        (with(world.claims(), "nbf", json!(now() + 1000)), 700_024),
        (
            with(world.claims(), "sub", json!(uuid::Uuid::new_v4())),
            700_021,
        ),
        (
            with(world.claims(), "iss", json!(uuid::Uuid::new_v4())),
            70_021,
        ),
        (with(world.claims(), "jti", json!("")), 700_027),
    ] {
        world.check(&sign(&claims), Err(code)).await;
    }
    world
        .check(&other.sign(&header, &world.claims()), Err(700_027))
        .await;
    let unnamed = json!({ "alg": "RS256" });
    world
        .check(&key.sign(&unnamed, &world.claims()), Err(700_027))
        .await;
    let none = json!({ "alg": "none", "x5t#S256": thumbprint });
    let forged = format!("{}.{}.", part(&none), part(&world.claims()));
    world.check(&forged, Err(50_027)).await;
    // A token of ours is no assertion.
    let seen = world.present(&world.site.token, AUDIENCE).await;
    assert_eq!(seen.status, 401, "{:?}", seen.body);
    world.check("a.b.c", Err(50_027)).await;

    assert_eq!(world.site.delete(&path).await.status, 200);
    world.check(&sign(&world.claims()), Err(700_027)).await;
    assert_eq!(
        world
            .site
            .put(&path, body(key.certificate(2099)))
            .await
            .status,
        201
    );
    assert_eq!(
        world.site.delete(CI).await.status,
        200,
        "credentials go along"
    );
    assert_eq!(world.site.get(&path).await.status, 404);
}

#[tokio::test]
async fn a_form_says_one_thing() {
    let world = world().await;
    let form = |fields: &[(&'static str, &'static str)]| {
        let mut form = vec![
            ("grant_type", "client_credentials".to_string()),
            ("client_id", world.app.clone()),
            ("scope", format!("{AUDIENCE}/.default")),
        ];
        form.extend(
            fields
                .iter()
                .map(|(name, value)| (*name, value.to_string())),
        );
        form
    };
    for (fields, code) in [
        (
            vec![
                ("client_secret", "x"),
                ("client_assertion", "a.b.c"),
                ("client_assertion_type", JWT_BEARER),
            ],
            90_023,
        ),
        (vec![("client_assertion", "a.b.c")], 900_144),
        (
            vec![
                ("client_assertion", "a.b.c"),
                ("client_assertion_type", "saml"),
            ],
            50_027,
        ),
        (vec![], 7_000_216),
    ] {
        let form = form(&fields);
        let form: Vec<(&str, &str)> = form
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let seen = world.site.post_form(&world.token_path, &form).await;
        assert_eq!(
            seen.body["error_codes"],
            json!([code]),
            "{fields:?}: {:?}",
            seen.body
        );
    }
}

#[tokio::test]
async fn an_outside_token_signs_in_as_the_application_that_expects_it() {
    let world = world().await;
    let key = Key::new("outside");
    let path = format!("{CI}/federatedCredentials/main");
    let subject = "repo:a/b:ref:refs/heads/main";
    let issuer = "https://token.actions.example";
    let credential = json!({ "properties": {
        "issuer": issuer, "subject": subject, "keys": { "keys": [key.jwk] },
    } });
    for (name, value, part) in [
        ("issuer", json!("http://token.actions.example"), "https URL"),
        ("issuer", json!("https://user@x"), "https URL"),
        ("subject", json!(""), "must be text"),
        ("audiences", json!([]), "1 to 10"),
        ("audiences", json!("x"), "list of texts"),
        (
            "keys",
            json!({ "keys": [{ "kty": "oct", "k": "AAAA" }] }),
            "JWKS",
        ),
    ] {
        let mut body = credential.clone();
        body["properties"][name] = value;
        let seen = world.site.put(&path, body).await;
        assert_eq!(seen.status, 400, "{name}");
        assert!(seen.message().contains(part), "{:?}", seen.body);
    }
    let made = world.site.put(&path, credential.clone()).await;
    assert_eq!(made.status, 201, "{:?}", made.body);
    assert_eq!(
        made.body["properties"]["audiences"],
        json!(["api://AzureADTokenExchange"])
    );

    let header = json!({ "alg": "RS256", "kid": "outside" });
    let claims = json!({
        "iss": issuer, "sub": subject, "aud": "api://AzureADTokenExchange",
        "iat": now(), "exp": now() + 300,
    });
    let good = key.sign(&header, &claims);
    world.check(&good, Ok(())).await;
    world.check(&good, Ok(())).await;
    let sign = |name: &str, value: Value| key.sign(&header, &with(claims.clone(), name, value));
    for (token, code) in [
        (sign("sub", json!("repo:a/b:pull_request")), 70_021),
        (sign("iss", json!("https://token.actions.example/")), 70_021),
        (sign("aud", json!(AUDIENCE)), 700_213),
        (sign("exp", json!(now() - 1000)), 700_213),
        (Key::new("outside").sign(&header, &claims), 700_213),
        (
            format!("{}.{}.", part(&json!({ "alg": "none" })), part(&claims)),
            50_027,
        ),
    ] {
        world.check(&token, Err(code)).await;
    }
    assert_eq!(world.site.delete(&path).await.status, 200);
    world.check(&good, Err(70_021)).await;
}

#[tokio::test]
async fn an_issuer_is_asked_for_its_keys() {
    let issuer = Site::start().await;
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("issuer.pem");
    std::fs::write(&ca, &issuer.running.ca).unwrap();
    let mut settings = options(dir.path());
    settings.issuer_ca = Some(ca);
    let (running, _) = start_with(settings, super::fake::engine).await.unwrap();
    let world = world_on(Site::around(running).await).await;

    // The other server is an OpenID issuer like any; its operator's token is the outside token.
    let name = format!("{}/{}/v2.0", issuer.running.url, issuer.tenant);
    let claims: Value = {
        let text = issuer.token.split('.').nth(1).unwrap();
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).unwrap()).unwrap()
    };
    let path = format!("{CI}/federatedCredentials/other");
    let credential = |issuer: &str| {
        json!({ "properties": {
        "issuer": issuer, "subject": claims["sub"], "audiences": [AUDIENCE],
    } })
    };
    assert_eq!(world.site.put(&path, credential(&name)).await.status, 201);
    world.check(&issuer.token, Ok(())).await;

    // Nobody answers there, and what does not answer is no reason to hang or to let in.
    let nobody = claims["iss"]
        .as_str()
        .unwrap()
        .replace("localhost", "127.0.0.2");
    let own = Key::new("k");
    let forged = with(claims.clone(), "iss", json!(nobody));
    let forged = own.sign(&json!({ "alg": "RS256", "kid": "k" }), &forged);
    assert_eq!(world.site.put(&path, credential(&nobody)).await.status, 200);
    world.check(&forged, Err(700_213)).await;
    world.check(&issuer.token, Err(70_021)).await;
}

#[tokio::test]
async fn secrets_are_listed_without_themselves_and_removed() {
    let world = world().await;
    let made = world
        .site
        .ask("POST", &format!("{CI}/addPassword"), None)
        .await;
    let secret = made.body["secretText"].as_str().unwrap();
    let app = world.app.parse().unwrap();
    let tenant = world.site.tenant.to_string();
    assert_eq!(world.site.token(&tenant, app, secret).await.status, 200);
    let listed = world
        .site
        .ask("POST", &format!("{CI}/listPasswords"), None)
        .await;
    assert_eq!(listed.body["value"][0]["keyId"], made.body["keyId"]);
    assert!(!listed.body.to_string().contains(secret));
    let remove = async |key: Value| {
        let body = json!({ "keyId": key });
        let path = format!("{CI}/removePassword");
        world.site.ask("POST", &path, Some(body)).await.status
    };
    assert_eq!(remove(json!("x")).await, 400);
    assert_eq!(remove(made.body["keyId"].clone()).await, 204);
    assert_eq!(remove(made.body["keyId"].clone()).await, 404);
    assert_eq!(world.site.token(&tenant, app, secret).await.status, 401);
}
