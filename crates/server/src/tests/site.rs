//! A server on a free port and a client that trusts it.

use std::path::Path;
use std::time::Duration;

use reqwest::{Certificate, Client, Method};
use serde_json::{Value, json};
use tempfile::TempDir;
use wire::{AppId, TenantId};

use super::fake;
use crate::options::ServeOptions;
use crate::start::{Running, ServeError, start_with};

pub const AUDIENCE: &str = "https://management.core.windows.net/";
pub const VERSION: &str = "api-version=2026-11-01";
pub const SUBSCRIPTION: &str = "11111111-1111-4111-8111-111111111111";
pub const GROUP: &str =
    "/subscriptions/11111111-1111-4111-8111-111111111111/resourceGroups/factory";

const POLL: Duration = Duration::from_millis(20);
/// Long enough for a step that is tried again on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Site {
    pub running: Running,
    pub client: Client,
    pub tenant: TenantId,
    pub app: AppId,
    pub secret: String,
    pub token: String,
    _dir: Option<TempDir>,
}

/// One answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    pub fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or_default()
    }

    pub fn message(&self) -> &str {
        self.body["error"]["message"].as_str().unwrap_or_default()
    }
}

pub fn options(data: &Path) -> ServeOptions {
    let blobs = data.join("blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    ServeOptions {
        data: data.to_path_buf(),
        blobs: Some(blobs),
        listen: Some("127.0.0.1:0".parse().unwrap()),
        ..ServeOptions::default()
    }
}

pub async fn try_start(data: &Path) -> Result<Running, ServeError> {
    start_with(options(data), fake::engine)
        .await
        .map(|(running, _)| running)
}

impl Site {
    pub async fn start() -> Site {
        let dir = tempfile::tempdir().unwrap();
        let mut site = Site::start_in(dir.path()).await;
        site._dir = Some(dir);
        site
    }

    pub async fn start_in(data: &Path) -> Site {
        Site::around(try_start(data).await.unwrap()).await
    }

    /// A client of a server that is there.
    pub async fn around(running: Running) -> Site {
        let data = running.data.clone();
        let ca = Certificate::from_pem(running.ca.as_bytes()).unwrap();
        let client = Client::builder().tls_certs_only([ca]).build().unwrap();
        let admin = std::fs::read(data.join("admin.json")).unwrap();
        let admin: Value = serde_json::from_slice(&admin).unwrap();
        let text = |key: &str| admin[key].as_str().unwrap().to_string();
        let mut site = Site {
            running,
            client,
            tenant: text("tenantId").parse().unwrap(),
            app: text("clientId").parse().unwrap(),
            secret: text("clientSecret"),
            token: String::new(),
            _dir: None,
        };
        site.token = site.sign_in(site.tenant).await;
        site
    }

    /// The operator's token of a tenant.
    pub async fn sign_in(&self, tenant: TenantId) -> String {
        let answer = self
            .token(&tenant.to_string(), self.app, &self.secret)
            .await;
        assert_eq!(answer.status, 200, "{:?}", answer.body);
        answer.body["access_token"].as_str().unwrap().to_string()
    }

    pub async fn token(&self, tenant: &str, app: AppId, secret: &str) -> Answer {
        let app = app.to_string();
        let scope = format!("{AUDIENCE}/.default");
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", &app),
            ("client_secret", secret),
            ("scope", &scope),
        ];
        self.post_form(&format!("/{tenant}/oauth2/v2.0/token"), &form)
            .await
    }

    pub async fn post_form(&self, path: &str, form: &[(&str, &str)]) -> Answer {
        let url = format!("{}{path}", self.running.url);
        answer(self.client.post(url).form(form)).await
    }

    /// A request with the token of the installation's tenant. A path without a query gets a version.
    pub async fn ask(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        self.ask_as(&self.token, method, path, body).await
    }

    pub async fn ask_as(
        &self,
        token: &str,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Answer {
        let path = if path.contains('?') {
            path.to_string()
        } else {
            format!("{path}?{VERSION}")
        };
        let url = if path.starts_with("https:") {
            path
        } else {
            format!("{}{path}", self.running.url)
        };
        let method: Method = method.parse().unwrap();
        let mut request = self.client.request(method, url).bearer_auth(token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        answer(request).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.ask("PUT", path, Some(body)).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, None).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.ask("DELETE", path, None).await
    }

    /// A subscription and a group in the installation's own tenant.
    pub async fn with_group(self) -> Site {
        let body = json!({ "properties": { "displayName": "engineering" } });
        let made = self
            .put(&format!("/subscriptions/{SUBSCRIPTION}"), body)
            .await;
        assert_eq!(made.status, 201, "{:?}", made.body);
        let made = self.put(GROUP, json!({ "location": "north" })).await;
        assert_eq!(made.status, 201, "{:?}", made.body);
        self
    }

    /// A new application without any right, signed in.
    pub async fn stranger(&self) -> (String, String) {
        let path = "/providers/Bullion.Factory/applications/stranger";
        let made = self.put(path, json!({})).await;
        let app: AppId = made.body["properties"]["appId"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap();
        let principal = made.body["properties"]["principalId"]
            .as_str()
            .unwrap()
            .to_string();
        let secret = self.ask("POST", &format!("{path}/addPassword"), None).await;
        assert_eq!(secret.status, 200, "{:?}", secret.body);
        let secret = secret.body["secretText"].as_str().unwrap();
        let token = self.token(&self.tenant.to_string(), app, secret).await;
        assert_eq!(token.status, 200, "{:?}", token.body);
        (
            token.body["access_token"].as_str().unwrap().to_string(),
            principal,
        )
    }

    /// Puts a file into the blob folder and gives its URI.
    pub fn blob(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.running.data.join("blobs").join(name);
        std::fs::write(path, bytes).unwrap();
        format!("{}/blobs/{name}", self.running.url)
    }

    /// Polls an operation until it has ended.
    pub async fn wait(&self, url: &str) -> Answer {
        let polls = async {
            let mut turn = tokio::time::interval(POLL);
            loop {
                turn.tick().await;
                let answer = self.get(url).await;
                if answer.status != 202 && answer.body["status"] != "InProgress" {
                    return answer;
                }
            }
        };
        let ended = tokio::time::timeout(PATIENCE, polls).await;
        ended.unwrap_or_else(|_| panic!("{url} does not end"))
    }
}

pub async fn answer(request: reqwest::RequestBuilder) -> Answer {
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let text = response.text().await.unwrap();
    let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
    Answer {
        status,
        headers,
        body,
    }
}
