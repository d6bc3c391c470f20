//! The token endpoint, discovery, and what tokens are refused.

use access::{Identity, NewToken, SigningKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde_json::{Value, json};
use store::KeyFile;
use store::keys::open_text;
use wire::{AppId, PrincipalId, TenantId};

use super::site::{AUDIENCE, Site, answer};

#[tokio::test]
async fn clients_find_their_way_in() {
    let site = Site::start().await;
    let url = site.running.url.clone();
    let plain = async |path: &str| answer(site.client.get(format!("{url}{path}"))).await;

    let cloud = plain("/metadata/endpoints?api-version=2022-09-01").await;
    assert_eq!(cloud.body["authentication"]["loginEndpoint"], url);
    assert_eq!(cloud.body["authentication"]["audiences"][0], AUDIENCE);
    let clouds = plain("/metadata/endpoints?api-version=2019-05-01").await;
    assert_eq!(clouds.body[0]["resourceManager"], url);

    let tenant = site.tenant;
    let openid = plain(&format!("/{tenant}/v2.0/.well-known/openid-configuration")).await;
    assert_eq!(openid.body["issuer"], format!("{url}/{tenant}/v2.0"));
    let any = plain("/organizations/v2.0/.well-known/openid-configuration").await;
    assert_eq!(any.body["issuer"], format!("{url}/organizations/v2.0"));
    let unknown = TenantId::random();
    let absent = plain(&format!("/{unknown}/v2.0/.well-known/openid-configuration")).await;
    assert_eq!(
        (absent.status, &absent.body["error_codes"]),
        (400, &json!([90002]))
    );

    let keys = plain(&format!("/{tenant}/discovery/v2.0/keys")).await;
    assert_eq!(keys.body["keys"][0]["kty"], "RSA");
    assert_eq!(plain("/healthz").await.status, 200);
    assert_eq!(
        answer(site.client.post(format!("{url}/healthz")))
            .await
            .status,
        405
    );
}

#[tokio::test]
async fn refusals_carry_the_numbers_that_clients_print() {
    let site = Site::start().await;
    let (tenant, app) = (site.tenant.to_string(), site.app.to_string());
    let other_tenant = TenantId::random().to_string();
    let other_app = AppId::random().to_string();
    let scope = format!("{AUDIENCE}/.default");
    let secret = site.secret.clone();
    let good = [
        ("grant_type", "client_credentials"),
        ("client_id", &app),
        ("client_secret", &secret),
        ("scope", &scope),
    ];
    // The field that is changed, to what (empty: left out), at which tenant, and what comes of it.
    for (field, value, tenant, status, code) in [
        ("", "", &tenant, 200, 0),
        ("", "", &other_tenant, 400, 90002),
        ("", "", &"nonsense".to_string(), 400, 90002),
        ("client_id", &other_app, &tenant, 400, 700016),
        ("client_id", "", &tenant, 400, 900144),
        ("client_secret", "wrong", &tenant, 401, 7000215),
        ("client_secret", "", &tenant, 401, 7000216),
        ("grant_type", "device_code", &tenant, 400, 70003),
        ("grant_type", "", &tenant, 400, 900144),
        ("scope", AUDIENCE, &tenant, 400, 1002012),
        (
            "scope",
            "https://else.example/.default",
            &tenant,
            400,
            500011,
        ),
        ("scope", "https://vault.azure.net/.default", &tenant, 200, 0),
    ] as [(&str, &str, &String, u16, u32); 12]
    {
        let form: Vec<(&str, &str)> = good
            .iter()
            .map(|(name, kept)| (*name, if *name == field { value } else { kept }))
            .collect();
        let seen = site
            .post_form(&format!("/{tenant}/oauth2/v2.0/token"), &form)
            .await;
        assert_eq!(seen.status, status, "{field}={value}: {:?}", seen.body);
        if code != 0 {
            assert_eq!(seen.body["error_codes"], json!([code]), "{field}={value}");
            let text = seen.body["error_description"].as_str().unwrap();
            assert!(text.starts_with(&format!("AADSTS{code}: ")), "{text}");
        }
    }
    let mut twice = good.to_vec();
    twice.push(("client_id", &app));
    let seen = site
        .post_form(&format!("/{tenant}/oauth2/v2.0/token"), &twice)
        .await;
    assert_eq!(seen.status, 400);
}

#[tokio::test]
async fn the_first_version_answers_in_strings() {
    let site = Site::start().await;
    let app = site.app.to_string();
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", &app),
        ("client_secret", &site.secret),
        ("resource", "https://management.azure.com/"),
    ];
    let path = format!("/{}/oauth2/token?api-version=1.0", site.tenant);
    let seen = site.post_form(&path, &form).await;
    assert_eq!(seen.body["expires_in"], "3600");
    let token = seen.body["access_token"].as_str().unwrap();
    assert_eq!(
        site.ask_as(token, "GET", "/subscriptions", None)
            .await
            .status,
        200
    );
}

/// The claims of a token, unchecked.
fn claims(token: &str) -> Value {
    let part = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

#[tokio::test]
async fn tokens_that_are_refused() {
    let site = Site::start().await;
    let good = claims(&site.token);
    assert_eq!(good["aud"], AUDIENCE);
    assert_eq!(good["appid"], site.app.to_string());
    let now = Timestamp::now().as_second() as u64;
    let identity = Identity {
        tenant: site.tenant,
        principal: good["oid"]
            .as_str()
            .unwrap()
            .parse::<PrincipalId>()
            .unwrap(),
        app: site.app,
    };
    let issuer = good["iss"].as_str().unwrap().to_string();
    let mint = |key: &SigningKey, audience: &str, issuer: &str, now: u64| {
        let token = NewToken {
            identity,
            audience,
            issuer,
            v2: false,
            bearer: access::Bearer::Application,
            now,
        };
        key.mint(&token).unwrap()
    };
    let ours = stored_key(&site).await;
    let theirs = SigningKey::generate("theirs").unwrap();
    let same_name = SigningKey::generate(ours.id()).unwrap();
    let encode = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let unsigned = format!(
        "{}.{}.",
        encode(json!({"alg": "none", "typ": "JWT", "kid": ours.id()})),
        encode(good.clone())
    );
    let mut parts: Vec<String> = site.token.split('.').map(String::from).collect();
    let mut promoted = good.clone();
    promoted["oid"] = PrincipalId::random().to_string().into();
    parts[1] = encode(promoted);
    let other_issuer = format!("https://localhost/{}/v2.0", TenantId::random());
    for (what, token) in [
        ("none", String::new()),
        ("garbage", "abc".to_string()),
        ("unsigned", unsigned),
        ("changed", parts.join(".")),
        ("expired", mint(&ours, AUDIENCE, &issuer, now - 7200)),
        ("early", mint(&ours, AUDIENCE, &issuer, now + 7200)),
        (
            "other audience",
            mint(&ours, "https://vault.azure.net", &issuer, now),
        ),
        ("other issuer", mint(&ours, AUDIENCE, &other_issuer, now)),
        ("unknown key", mint(&theirs, AUDIENCE, &issuer, now)),
        (
            "another key of that name",
            mint(&same_name, AUDIENCE, &issuer, now),
        ),
        ("long", "a".repeat(20_000)),
    ] {
        let seen = site.ask_as(&token, "GET", "/subscriptions", None).await;
        assert_eq!(seen.status, 401, "{what}: {:?}", seen.body);
        let challenge = seen.header("www-authenticate");
        assert!(
            challenge.contains("authorization_uri=\"https://"),
            "{what}: {challenge}"
        );
    }
    let fresh = mint(&ours, AUDIENCE, &issuer, now);
    assert_eq!(
        site.ask_as(&fresh, "GET", "/subscriptions", None)
            .await
            .status,
        200
    );
    let anonymous = answer(
        site.client
            .get(format!("{}/subscriptions", site.running.url)),
    )
    .await;
    assert_eq!(
        (anonymous.status, anonymous.code()),
        (401, "AuthenticationFailed")
    );
}

/// The key with which the server signs, read from its database.
async fn stored_key(site: &Site) -> SigningKey {
    use catalog::AuthStore as _;
    let path = site.running.data.join("bullion.db");
    let catalog = catalog::SqliteCatalog::open(&path).await.unwrap();
    let key = catalog.signing_keys().await.unwrap().remove(0);
    assert!(!key.private_pem.contains("PRIVATE KEY"), "it lies open");
    let seal = KeyFile::load(&site.running.data.join("keys/catalog.key")).unwrap();
    let kept: Value = serde_json::from_str(&key.private_pem).unwrap();
    let about = format!("signing key {}", key.kid);
    let pem = open_text(&seal, &about, kept["sealed"].as_str().unwrap()).unwrap();
    SigningKey::from_pem(key.kid, pem).unwrap()
}

#[tokio::test]
async fn auxiliary_tokens_are_few_and_all_good() {
    let site = Site::start().await;
    let url = format!("{}/subscriptions?api-version=2022-12-01", site.running.url);
    let good = format!("Bearer {}", site.token);
    for (header, status) in [
        (good.clone(), 200),
        ([good.as_str(); 3].join(", "), 200),
        ([good.as_str(); 4].join(", "), 401),
        (format!("{good}, Bearer bad"), 401),
        ("Basic abc".to_string(), 401),
        (String::new(), 401),
    ] {
        let request = site.client.get(&url).bearer_auth(&site.token);
        let seen = answer(request.header("x-ms-authorization-auxiliary", &header)).await;
        assert_eq!(seen.status, status, "{header}");
    }
}
