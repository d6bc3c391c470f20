//! Two servers on one PostgreSQL: whatever a client asks of one of them, the other one knows.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use catalog::suite::fresh_postgres;
use reqwest::header::IF_MATCH;
use reqwest::{Certificate, Client, Method, RequestBuilder};
use serde_json::{Value, json};
use server::{Running, ServeOptions, start};
use tempfile::TempDir;
use tokio::task::JoinSet;

const VERSION: &str = "api-version=2026-11-01";
const SUBSCRIPTION: &str = "/subscriptions/11111111-1111-4111-8111-111111111111";
const GROUP: &str = "/subscriptions/11111111-1111-4111-8111-111111111111/resourceGroups/factory";
const CLIENTS: usize = 4;
const WRITES: usize = 8;
const ATTEMPTS_MAX: usize = 10_000;
/// For what the servers tell each other.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server, and a client of it.
#[derive(Clone)]
struct Site {
    url: String,
    client: Client,
    token: String,
}

#[derive(Debug)]
struct Answer {
    status: u16,
    etag: String,
    body: Value,
}

fn options(data: &Path, database: &str, front_end: bool) -> ServeOptions {
    ServeOptions {
        data: data.to_path_buf(),
        listen: Some("127.0.0.1:0".parse().expect("an address")),
        database: Some(database.to_owned()),
        front_end,
        ..ServeOptions::default()
    }
}

impl Site {
    fn of(running: &Running) -> Site {
        let ca = Certificate::from_pem(running.ca.as_bytes()).expect("a certificate");
        Site {
            url: running.url.clone(),
            client: Client::builder()
                .tls_certs_only([ca])
                .build()
                .expect("a client"),
            token: String::new(),
        }
    }

    async fn sign_in(&self, admin: &Value) -> String {
        let text = |key: &str| admin[key].as_str().expect("a text");
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", text("clientId")),
            ("client_secret", text("clientSecret")),
            ("scope", "https://management.core.windows.net//.default"),
        ];
        let url = format!("{}/{}/oauth2/v2.0/token", self.url, text("tenantId"));
        let said = answer(self.client.post(url).form(&form)).await;
        assert_eq!(said.status, 200, "{said:?}");
        said.body["access_token"].as_str().expect("a token").into()
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!("{}{path}?{VERSION}", self.url);
        self.client.request(method, url).bearer_auth(&self.token)
    }

    async fn get(&self, path: &str) -> Answer {
        answer(self.request(Method::GET, path)).await
    }

    async fn put(&self, path: &str, body: Value) -> Answer {
        answer(self.request(Method::PUT, path).json(&body)).await
    }

    async fn post(&self, path: &str) -> Answer {
        answer(self.request(Method::POST, path)).await
    }

    async fn delete(&self, path: &str) -> Answer {
        answer(self.request(Method::DELETE, path)).await
    }

    /// The same server, for somebody else.
    fn with_token(&self, token: &str) -> Site {
        Site {
            token: token.to_owned(),
            ..self.clone()
        }
    }

    async fn put_if(&self, etag: &str, path: &str, body: Value) -> Answer {
        let request = self.request(Method::PUT, path).header(IF_MATCH, etag);
        answer(request.json(&body)).await
    }
}

async fn answer(request: RequestBuilder) -> Answer {
    let response = request.send().await.expect("an answer");
    let status = response.status().as_u16();
    let text = response.text().await.expect("a body");
    let body: Value = serde_json::from_str(&text).unwrap_or(Value::String(text));
    Answer {
        status,
        etag: body["etag"].as_str().unwrap_or_default().to_owned(),
        body,
    }
}

/// Two servers that were started at the same moment on an empty database, and a client of each, signed in.
struct Pair {
    running: [Running; 2],
    sites: [Site; 2],
    folders: [TempDir; 2],
    database: String,
}

impl Pair {
    async fn start() -> Pair {
        let database = fresh_postgres().await;
        let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
        let (first, second) = tokio::join!(
            start(options(folders[0].path(), &database, false)),
            start(options(folders[1].path(), &database, true)),
        );
        let running = [first.expect("the first"), second.expect("the second")];
        let mut sites = [Site::of(&running[0]), Site::of(&running[1])];
        // Who came first made the administrator, and nobody else has a secret that opens nothing.
        let admins: Vec<Value> = folders
            .iter()
            .filter_map(|folder| std::fs::read(folder.path().join("admin.json")).ok())
            .map(|text| serde_json::from_slice(&text).expect("JSON"))
            .collect();
        assert_eq!(admins.len(), 1);
        // A token of one server is good on the other one, both ways.
        sites[0].token = sites[1].sign_in(&admins[0]).await;
        sites[1].token = sites[0].sign_in(&admins[0]).await;
        Pair {
            running,
            sites,
            folders,
            database,
        }
    }

    /// A region, a subscription and a group, each made on another server than the one before.
    async fn with_group(self) -> Pair {
        let [one, two] = &self.sites;
        let region = json!({ "location": "north", "properties": { "zones": ["1"] } });
        let made = one.put("/providers/Bullion.Factory/regions/north", region);
        let made = made.await;
        assert!(made.status < 300, "{made:?}");
        let body = json!({ "properties": { "displayName": "engineering" } });
        let made = two.put(SUBSCRIPTION, body).await;
        assert_eq!(made.status, 201, "{made:?}");
        let made = one.put(GROUP, json!({ "location": "north" })).await;
        assert_eq!(made.status, 201, "{made:?}");
        // The other server hears of the region.
        let known = async {
            while two.put(GROUP, json!({ "location": "north" })).await.status != 200 {
                tokio::task::yield_now().await;
            }
        };
        let known = tokio::time::timeout(PATIENCE, known).await;
        known.expect("the region is known");
        self
    }
}

fn gallery(name: &str) -> String {
    format!("{GROUP}/providers/Microsoft.Compute/galleries/{name}")
}

/// Adds a word to a description as careful clients do: only to what they have read.
async fn add_word(site: &Site, path: &str, word: &str) {
    for _ in 0..ATTEMPTS_MAX {
        let found = site.get(path).await;
        let old = found.body["properties"]["description"]
            .as_str()
            .unwrap_or_default();
        let body = json!({
            "location": "north",
            "properties": { "description": format!("{old} {word}") },
        });
        match site.put_if(&found.etag, path, body).await {
            Answer {
                status: 200 | 201, ..
            } => return,
            Answer { status: 412, .. } => {}
            refused => panic!("{refused:?}"),
        }
    }
    panic!("others were always faster");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_serve_the_same_tenants_under_concurrent_writes() {
    let pair = Pair::start().await.with_group().await;
    let shared = gallery("shared");
    let made = pair.sites[0]
        .put(&shared, json!({ "location": "north" }))
        .await;
    assert_eq!(made.status, 201, "{made:?}");
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let (site, other) = (
            pair.sites[client % 2].clone(),
            pair.sites[(client + 1) % 2].clone(),
        );
        let shared = shared.clone();
        clients.spawn(async move {
            for n in 0..WRITES {
                let own = gallery(&format!("g{client}x{n}"));
                let made = site.put(&own, json!({ "location": "north" })).await;
                assert_eq!(made.status, 201, "{made:?}");
                let read = other.get(&own).await;
                assert_eq!(
                    (read.status, &read.etag),
                    (200, &made.etag),
                    "read on the other server at once"
                );
                add_word(&site, &shared, &format!("w{client}x{n}")).await;
            }
        });
    }
    clients.join_all().await;
    let found = pair.sites[1].get(&shared).await;
    let words = found.body["properties"]["description"]
        .as_str()
        .expect("a text");
    let words: BTreeSet<&str> = words.split_whitespace().collect();
    assert_eq!(words.len(), CLIENTS * WRITES, "no change was lost");
    for site in &pair.sites {
        let list = site
            .get(&format!("{GROUP}/providers/Microsoft.Compute/galleries"))
            .await;
        let list = list.body["value"].as_array().expect("a list").len();
        assert_eq!(list, CLIENTS * WRITES + 1);
    }
    for running in pair.running {
        running.stop().await;
    }
}

/// Rights are kept in memory by each server, and yet nobody has one that was taken away on the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_that_one_server_takes_away_is_refused_by_the_other_at_once() {
    let pair = Pair::start().await.with_group().await;
    let [one, two] = &pair.sites;
    let path = "/providers/Bullion.Factory/applications/ci";
    let made = one.put(path, json!({})).await;
    assert_eq!(made.status, 201, "{made:?}");
    let text = |of: &Answer, at: &str| {
        of.body
            .pointer(at)
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    let principal = text(&made, "/properties/principalId").expect("a principal");
    let secret = one.post(&format!("{path}/addPassword")).await;
    let admin = pair
        .folders
        .iter()
        .find_map(|folder| std::fs::read(folder.path().join("admin.json")).ok())
        .expect("an administrator");
    let admin: Value = serde_json::from_slice(&admin).expect("JSON");
    let credentials = json!({
        "tenantId": admin["tenantId"],
        "clientId": text(&made, "/properties/appId"),
        "clientSecret": text(&secret, "/secretText"),
    });
    let token = two.sign_in(&credentials).await;
    let as_ci = [one.with_token(&token), two.with_token(&token)];
    let role =
        "/providers/Microsoft.Authorization/roleDefinitions/acdd72a7-3385-48ef-bd42-f606fba81ae7";
    let body = json!({ "properties": { "roleDefinitionId": role, "principalId": principal } });
    for round in 0..WRITES {
        let (writer, other) = (&pair.sites[round % 2], &as_ci[(round + 1) % 2]);
        let given = format!(
            "{GROUP}/providers/Microsoft.Authorization/roleAssignments/22222222-2222-4222-8222-{round:012}"
        );
        let made = writer.put(&given, body.clone()).await;
        assert_eq!(made.status, 201, "{made:?}");
        for site in &as_ci {
            assert_eq!(site.get(GROUP).await.status, 200, "given");
        }
        assert_eq!(writer.delete(&given).await.status, 200);
        assert_eq!(other.get(GROUP).await.status, 403, "taken away");
    }
    let rotated = one
        .post("/providers/Bullion.Factory/rotateSigningKey")
        .await;
    assert_eq!(rotated.status, 200, "{rotated:?}");
    let fresh = one.sign_in(&credentials).await;
    for token in [&token, &fresh] {
        let seen = two.with_token(token).get("/subscriptions").await;
        assert_eq!(seen.status, 200, "a token of either key");
    }
    for running in pair.running {
        running.stop().await;
    }
}

/// Nothing is in a server's folder that the other needs to go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_server_did_is_there_after_both_have_stopped() {
    let pair = Pair::start().await.with_group().await;
    for running in pair.running {
        running.stop().await;
    }
    let again = start(options(pair.folders[1].path(), &pair.database, true)).await;
    let again = again.expect("start again");
    let mut site = Site::of(&again);
    site.token.clone_from(&pair.sites[0].token);
    let found = site.get(GROUP).await;
    assert_eq!(found.status, 200, "{found:?}");
    again.stop().await;
}
