//! An administrator's consent in a browser: the page, what it takes to approve, and where the browser goes then.

use serde_json::{Value, json};
use url::Url;
use wire::TenantId;

use super::site::{Answer, Site, answer};
use super::tenancy::tenant;

const BACK: &str = "https://www.example.com";

struct World {
    site: Site,
    /// Where the application is to be let in.
    there: TenantId,
    token: String,
    app: String,
}

async fn world() -> World {
    let site = Site::start().await;
    let (there, token) = tenant(&site, "production").await;
    let path = "/providers/Bullion.Factory/applications/seed";
    let body = json!({ "properties": {
        "displayName": "<b>Seed</b>", "multiTenant": true, "redirectUris": [BACK, "https://other.example/a?b=c"],
    } });
    let made = site.put(path, body).await;
    assert_eq!(made.status, 201, "{:?}", made.body);
    let app = made.body["properties"]["appId"]
        .as_str()
        .unwrap()
        .to_string();
    World {
        site,
        there,
        token,
        app,
    }
}

/// A form as a browser has it: the hidden fields, and the cookie.
struct Opened {
    answer: Answer,
    fields: Vec<(String, String)>,
    cookie: String,
}

impl World {
    async fn open(&self, path: &str, query: &[(&str, &str)]) -> Opened {
        let mut url =
            Url::parse(&format!("{}/{}{path}", self.site.running.url, self.there)).unwrap();
        url.query_pairs_mut().extend_pairs(query);
        let answer = answer(self.site.client.get(url)).await;
        let html = answer.body.as_str().unwrap_or_default().to_string();
        let value = |line: &str, name: &str| {
            let (_, rest) = line.split_once(&format!("{name}=\""))?;
            Some(
                rest.split('"')
                    .next()
                    .unwrap()
                    .replace("&quot;", "\"")
                    .replace("&lt;", "<")
                    .replace("&amp;", "&"),
            )
        };
        let hidden = html.lines().filter(|line| line.contains("type=\"hidden\""));
        let fields = hidden
            .map(|line| (value(line, "name").unwrap(), value(line, "value").unwrap()))
            .collect();
        let cookie = answer
            .header("set-cookie")
            .split(';')
            .next()
            .unwrap()
            .to_string();
        Opened {
            answer,
            fields,
            cookie,
        }
    }

    async fn authorize(&self, state: &str) -> Opened {
        let app = self.app.as_str();
        let query = [
            ("client_id", app),
            ("response_type", "code"),
            ("redirect_uri", BACK),
            ("state", state),
        ];
        self.open("/oauth2/authorize", &query).await
    }

    async fn send(&self, opened: &Opened, path: &str, more: &[(&str, &str)]) -> Answer {
        let mut form = opened.fields.clone();
        form.extend(
            more.iter()
                .map(|(name, value)| (name.to_string(), value.to_string())),
        );
        let url = format!("{}/{}{path}", self.site.running.url, self.there);
        let client = reqwest::Client::builder()
            .tls_certs_only([
                reqwest::Certificate::from_pem(self.site.running.ca.as_bytes()).unwrap(),
            ])
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .unwrap();
        answer(
            client
                .post(url)
                .header("cookie", &opened.cookie)
                .form(&form),
        )
        .await
    }

    async fn approve(&self, opened: &Opened, id: &str, secret: &str) -> Answer {
        let fields = [
            ("admin_id", id),
            ("admin_secret", secret),
            ("answer", "approve"),
        ];
        self.send(opened, "/oauth2/authorize", &fields).await
    }

    async fn consented(&self) -> bool {
        let path = "/providers/Bullion.Factory/servicePrincipals";
        let listed = self.site.ask_as(&self.token, "GET", path, None).await;
        let value = listed.body["value"].as_array().unwrap().clone();
        value
            .iter()
            .any(|one| one["properties"]["appId"] == json!(self.app))
    }
}

fn back(answer: &Answer) -> (String, Vec<(String, String)>) {
    assert_eq!(answer.status, 303, "{:?}", answer.body);
    let url = Url::parse(answer.header("location")).unwrap();
    let pairs = url.query_pairs().into_owned().collect();
    (url.origin().ascii_serialization(), pairs)
}

fn of<'a>(pairs: &'a [(String, String)], name: &str) -> &'a str {
    pairs
        .iter()
        .find(|(known, _)| known == name)
        .map_or("", |(_, value)| value)
}

#[tokio::test]
async fn an_administrator_lets_an_application_in() {
    let world = world().await;
    let (operator, secret) = (world.site.app.to_string(), world.site.secret.clone());
    let opened = world.authorize("a&b\"<").await;
    assert_eq!(opened.answer.status, 200);
    let html = opened.answer.body.as_str().unwrap();
    assert!(
        html.contains("&lt;b&gt;Seed&lt;/b&gt;") && !html.contains("<b>"),
        "{html}"
    );
    assert!(
        opened
            .answer
            .header("content-security-policy")
            .contains("frame-ancestors 'none'")
    );
    assert!(
        opened
            .answer
            .header("content-security-policy")
            .contains(BACK)
    );
    for part in ["Secure", "HttpOnly", "SameSite=Strict"] {
        assert!(opened.answer.header("set-cookie").contains(part));
    }

    let wrong = world.approve(&opened, &operator, "wrong").await;
    assert_eq!(wrong.status, 401);
    assert!(wrong.body.as_str().unwrap().contains("not right"));
    assert!(!world.consented().await);
    let canceled = world
        .send(&opened, "/oauth2/authorize", &[("answer", "cancel")])
        .await;
    let (_, pairs) = back(&canceled);
    assert_eq!(
        (of(&pairs, "error"), of(&pairs, "state")),
        ("access_denied", "a&b\"<")
    );
    assert!(!world.consented().await);

    let approved = world.approve(&opened, &operator, &secret).await;
    let (origin, pairs) = back(&approved);
    assert_eq!((origin.as_str(), of(&pairs, "state")), (BACK, "a&b\"<"));
    assert_eq!(of(&pairs, "admin_consent"), "True");
    assert!(of(&pairs, "code").len() > 20);
    assert!(world.consented().await);
    // Once more is no mistake, and the other page says the tenant.
    let query = [
        ("client_id", world.app.as_str()),
        ("redirect_uri", "https://other.example/a?b=c"),
    ];
    let opened = world.open("/adminconsent", &query).await;
    let fields = [
        ("admin_id", operator.as_str()),
        ("admin_secret", &secret),
        ("answer", "approve"),
    ];
    let (_, pairs) = back(&world.send(&opened, "/adminconsent", &fields).await);
    assert_eq!(
        (of(&pairs, "tenant"), of(&pairs, "b")),
        (world.there.to_string().as_str(), "c")
    );
    assert_eq!(of(&pairs, "code"), "");
}

#[tokio::test]
async fn a_page_that_was_not_asked_for_rightly_is_none() {
    let world = world().await;
    let app = world.app.as_str();
    let home = "/providers/Bullion.Factory/applications/home";
    let made = world
        .site
        .put(home, json!({ "properties": { "redirectUris": [BACK] } }))
        .await;
    let home = made.body["properties"]["appId"]
        .as_str()
        .unwrap()
        .to_string();
    let code = ("response_type", "code");
    let cases: [(&[(&str, &str)], u32); 7] = [
        (&[code, ("redirect_uri", BACK)], 900_144),
        (&[code, ("redirect_uri", BACK), ("client_id", "x")], 700_016),
        (
            &[code, ("redirect_uri", BACK), ("client_id", &home)],
            700_016,
        ),
        (&[code, ("client_id", app)], 900_144),
        (
            &[
                code,
                ("client_id", app),
                ("redirect_uri", "https://www.example.com.evil.example"),
            ],
            50_011,
        ),
        (
            &[
                code,
                ("client_id", app),
                ("redirect_uri", "https://www.example.com/"),
            ],
            50_011,
        ),
        (
            &[
                ("response_type", "token"),
                ("client_id", app),
                ("redirect_uri", BACK),
            ],
            700_054,
        ),
    ];
    for (query, code) in cases {
        let opened = world.open("/oauth2/authorize", query).await;
        assert_eq!(opened.answer.status, 400, "{query:?}");
        let html = opened.answer.body.as_str().unwrap();
        assert!(html.contains(&format!("AADSTS{code}")), "{query:?}: {html}");
        assert_eq!(opened.answer.header("location"), "");
    }
    for uris in [
        json!("x"),
        json!(["http://www.example.com"]),
        json!(["https://a#b"]),
        json!([1]),
        json!(["*"]),
    ] {
        let body = json!({ "properties": { "redirectUris": uris } });
        let seen = world
            .site
            .put("/providers/Bullion.Factory/applications/bad", body)
            .await;
        assert_eq!(seen.status, 400, "{uris}");
    }
    let gone = json!({ "properties": { "multiTenant": true, "redirectUris": [] } });
    assert_eq!(
        world
            .site
            .put("/providers/Bullion.Factory/applications/seed", gone)
            .await
            .status,
        200
    );
    assert_eq!(world.authorize("x").await.answer.status, 400);
}

#[tokio::test]
async fn nobody_approves_for_somebody_else() {
    let world = world().await;
    let (operator, secret) = (world.site.app.to_string(), world.site.secret.clone());
    let mut opened = world.authorize("x").await;
    let cookie = std::mem::take(&mut opened.cookie);
    let refused = |answer: Answer| {
        assert_eq!(answer.status, 400, "{:?}", answer.body);
        assert!(answer.body.as_str().unwrap().contains("not from this page"));
    };
    refused(world.approve(&opened, &operator, &secret).await);
    opened.cookie = "__Host-consent=guessed".into();
    refused(world.approve(&opened, &operator, &secret).await);
    let other = world.authorize("x").await;
    opened.cookie = other.cookie;
    refused(world.approve(&opened, &operator, &secret).await);
    assert!(!world.consented().await);
    opened.cookie = cookie;

    // Signed in, but without the right; and not of this tenant at all.
    let reader = "/providers/Bullion.Factory/applications/reader";
    let made = world
        .site
        .ask_as(&world.token, "PUT", reader, Some(json!({})))
        .await;
    let id = made.body["properties"]["appId"]
        .as_str()
        .unwrap()
        .to_string();
    let made = world
        .site
        .ask_as(&world.token, "POST", &format!("{reader}/addPassword"), None)
        .await;
    let password = made.body["secretText"].as_str().unwrap();
    let seen = world.approve(&opened, &id, password).await;
    assert_eq!(seen.status, 401);
    assert!(
        seen.body.as_str().unwrap().contains("may not consent"),
        "{:?}",
        seen.body
    );
    let seen = world.approve(&opened, &world.app, "x").await;
    assert!(seen.body.as_str().unwrap().contains("not right"));
    assert!(!world.consented().await);
}

#[tokio::test]
async fn secrets_are_not_tried_out_on_the_page() {
    let world = world().await;
    let operator = world.site.app.to_string();
    let opened = world.authorize("x").await;
    let mut last = Value::Null;
    for _ in 0..20 {
        let seen = world.approve(&opened, &operator, "wrong").await;
        last = json!(seen.status);
        if seen.status == 429 {
            assert!(!seen.header("retry-after").is_empty());
            break;
        }
    }
    assert_eq!(last, 429);
    let secret = world.site.secret.clone();
    assert_eq!(world.approve(&opened, &operator, &secret).await.status, 429);
    assert!(!world.consented().await);
}
