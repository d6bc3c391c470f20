//! Azure's Resource Manager as a client sees it: a token for a service principal, versions of an image definition, and
//! waiting for one that is being made.

use std::fmt;
use std::time::{Duration, Instant};

use jobs::StepError;
use reqwest::{Client, Method, Response, StatusCode, Url};
use serde::Deserialize;
use serde_json::Value;
use wire::ResourceId;

use super::{fault, tries};
use crate::fetch::Web;
use crate::pipeline::chain;

const API_VERSION: &str = "2024-03-03";
const ANSWER_BYTES_MAX: usize = 8 << 20;
const PAGES_MAX: usize = 1000;
/// Of an error's text, what is shown.
const SHOWN_CHARS: usize = 1000;
/// Between two looks at a version that is being made, where nobody says how long.
const PAUSE: Duration = Duration::from_secs(10);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Azure copies an image over all regions in less.
const WAIT_MAX: Duration = Duration::from_secs(6 * 3600);
/// A token is not used in its last minutes.
const TOKEN_MARGIN: Duration = Duration::from_secs(300);

/// The secret's content, with the names that Azure's command line writes. What is not used here is let be.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePrincipal {
    tenant_id: String,
    client_id: String,
    client_secret: String,
    #[serde(default = "public_authority")]
    active_directory_endpoint_url: String,
    #[serde(default = "public_arm")]
    resource_manager_endpoint_url: String,
}

fn public_authority() -> String {
    "https://login.microsoftonline.com".to_owned()
}

fn public_arm() -> String {
    "https://management.azure.com".to_owned()
}

impl fmt::Debug for ServicePrincipal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tenant, client) = (&self.tenant_id, &self.client_id);
        write!(f, "ServicePrincipal({client} of {tenant})")
    }
}

impl ServicePrincipal {
    pub fn parse(text: &str) -> Result<ServicePrincipal, StepError> {
        serde_json::from_str(text).map_err(|error| {
            // The error's own text may show a part of the secret; its place does not.
            let place = format!("line {}, column {}", error.line(), error.column());
            let why = "the secret is not a service principal as `az ad sp create-for-rbac --json-auth` prints one";
            fault("sign in", format!("{why} ({place})"))
        })
    }
}

/// One end of the interface, with whoever asks it.
pub struct Arm {
    end: End,
    authority: End,
    principal: ServicePrincipal,
    token: Option<(String, Instant)>,
}

/// An address, and what reaches it.
struct End {
    client: Client,
    url: Url,
}

impl End {
    async fn new(web: &Web, text: &str) -> Result<End, StepError> {
        let what = "reach Azure";
        let url = Url::parse(text).map_err(|error| fault(what, format!("{text}: {error}")))?;
        let client = web.client(&url).await;
        let client = client.map_err(|error| fault(what, chain(&error)))?;
        Ok(End { client, url })
    }

    /// An address below it; it keeps its own path.
    fn under(&self, path: &str) -> Result<Url, StepError> {
        let text = format!("{}/{path}", self.url.as_str().trim_end_matches('/'));
        Url::parse(&text).map_err(|error| fault("write an address", error))
    }
}

#[derive(Deserialize)]
struct Token {
    access_token: String,
    /// Seconds; some servers write them as a text.
    expires_in: Value,
}

impl Arm {
    pub async fn new(web: &Web, principal: ServicePrincipal) -> Result<Arm, StepError> {
        Ok(Arm {
            end: End::new(web, &principal.resource_manager_endpoint_url).await?,
            authority: End::new(web, &principal.active_directory_endpoint_url).await?,
            principal,
            token: None,
        })
    }

    async fn token(&mut self) -> Result<String, StepError> {
        let what = "sign in";
        if let Some((token, until)) = &self.token
            && *until > Instant::now()
        {
            return Ok(token.clone());
        }
        let who = &self.principal;
        let path = format!("{}/oauth2/v2.0/token", who.tenant_id);
        let url = self.authority.under(&path)?;
        let scope = self.end.under(".default")?;
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", &who.client_id),
            ("client_secret", &who.client_secret),
            ("scope", scope.as_str()),
        ];
        let asked = || self.authority.client.post(url.clone()).form(&form);
        let answer = tries::send(what, asked).await?;
        let status = answer.status();
        let body = body_of(what, answer).await?;
        if !status.is_success() {
            let code = body["error"].as_str().unwrap_or_default();
            let text = body["error_description"].as_str().unwrap_or_default();
            let why = shown(&format!("{status} {code} {text}"));
            return Err(fault(what, why));
        }
        let token: Token =
            serde_json::from_value(body).map_err(|_| fault(what, "the answer holds no token"))?;
        let seconds = token.expires_in.as_u64();
        let seconds = seconds.or_else(|| token.expires_in.as_str()?.parse().ok());
        let life = Duration::from_secs(seconds.unwrap_or_default());
        let until = Instant::now() + life.saturating_sub(TOKEN_MARGIN);
        self.token = Some((token.access_token.clone(), until));
        Ok(token.access_token)
    }

    async fn call(
        &mut self,
        what: &str,
        method: Method,
        url: Url,
        body: Option<&Value>,
    ) -> Result<Response, StepError> {
        let token = self.token().await?;
        let asked = || {
            let asked = self.end.client.request(method.clone(), url.clone());
            let asked = asked.bearer_auth(&token);
            match body {
                Some(body) => asked.json(body),
                None => asked,
            }
        };
        tries::send(what, asked).await
    }

    /// An answer that says yes, and how long to wait for the next question.
    async fn good(
        &mut self,
        what: &str,
        method: Method,
        url: Url,
        body: Option<&Value>,
    ) -> Result<(Value, Option<Duration>), StepError> {
        let answer = self.call(what, method, url, body).await?;
        let (status, pause) = (answer.status(), tries::pause_of(&answer));
        let body = body_of(what, answer).await?;
        match status.is_success() {
            true => Ok((body, pause)),
            false => Err(refused(what, status, &body["error"])),
        }
    }

    fn url(&self, id: &ResourceId, rest: &str) -> Result<Url, StepError> {
        let path = format!("{}{rest}", id.to_string().trim_start_matches('/'));
        let mut url = self.end.under(&path)?;
        url.query_pairs_mut()
            .append_pair("api-version", API_VERSION);
        Ok(url)
    }

    /// All versions of an image definition.
    pub async fn versions(&mut self, definition: &ResourceId) -> Result<Vec<Value>, StepError> {
        let what = "list the versions";
        let first = self.url(definition, "/versions")?;
        let (mut found, mut next) = (Vec::new(), Some(first.clone()));
        for _ in 0..PAGES_MAX {
            let Some(url) = next.take() else { break };
            // The token goes to the host that was named, and to no other.
            if url.origin() != first.origin() {
                return Err(fault(what, "the next page is at another host"));
            }
            let (mut page, _) = self.good(what, Method::GET, url, None).await?;
            if let Some(Value::Array(values)) = page.get_mut("value").map(Value::take) {
                found.extend(values);
            }
            let link = page["nextLink"].as_str().filter(|link| !link.is_empty());
            let link = link.map(Url::parse).transpose();
            next = link.map_err(|error| fault(what, error))?;
        }
        Ok(found)
    }

    /// Asks for a version; answers its state.
    pub async fn put(&mut self, id: &ResourceId, body: Value) -> Result<String, StepError> {
        let url = self.url(id, "")?;
        let (made, _) = self
            .good("make the version", Method::PUT, url, Some(&body))
            .await?;
        Ok(state(&made).to_owned())
    }

    /// Waits for the version's end, which is good only if it succeeded.
    pub async fn until_ended(
        &mut self,
        id: &ResourceId,
        progress: &(dyn Fn(String) + Send + Sync),
    ) -> Result<(), StepError> {
        let what = "wait for the version";
        let began = Instant::now();
        while began.elapsed() < WAIT_MAX {
            let mut url = self.url(id, "")?;
            url.query_pairs_mut()
                .append_pair("$expand", "ReplicationStatus");
            let (version, pause) = self.good(what, Method::GET, url, None).await?;
            let regions = &version["properties"]["replicationStatus"]["summary"];
            match state(&version) {
                "Succeeded" => return Ok(()),
                "Failed" | "Canceled" => {
                    let why = shown(&format!("it failed there; its regions: {regions}"));
                    return Err(fault(what, why));
                }
                other => progress(format!("{other} {}", regions_shown(regions))),
            }
            tokio::time::sleep(pause.unwrap_or(PAUSE).min(PAUSE_MAX)).await;
        }
        Err(fault(
            what,
            "it takes too long; the next run goes on with it",
        ))
    }
}

fn state(version: &Value) -> &str {
    let state = version["properties"]["provisioningState"].as_str();
    state.unwrap_or("Succeeded")
}

fn regions_shown(summary: &Value) -> String {
    let regions = summary.as_array().into_iter().flatten().map(|region| {
        let name = region["region"].as_str().unwrap_or_default();
        format!("{name} {} %", region["progress"])
    });
    shown(&regions.collect::<Vec<_>>().join(", "))
}

async fn body_of(what: &str, mut answer: Response) -> Result<Value, StepError> {
    let mut bytes = Vec::new();
    loop {
        let chunk = answer.chunk().await;
        let chunk = chunk.map_err(|error| fault(what, chain(&error.without_url())))?;
        let Some(chunk) = chunk else { break };
        if bytes.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(fault(what, "the answer is too long"));
        }
        bytes.extend_from_slice(&chunk);
    }
    // A proxy's page is no JSON; the status says enough then.
    Ok(serde_json::from_slice(&bytes).unwrap_or_default())
}

fn refused(what: &str, status: StatusCode, error: &Value) -> StepError {
    let code = error["code"].as_str().unwrap_or_default();
    let message = error["message"].as_str().unwrap_or_default();
    fault(what, shown(&format!("{status} {code}: {message}")))
}

fn shown(text: &str) -> String {
    text.trim().chars().take(SHOWN_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_principal_is_what_the_command_line_prints() {
        let check = |text: &str, expected: Result<&str, &str>| match ServicePrincipal::parse(text) {
            Ok(read) => {
                let end = read.resource_manager_endpoint_url.as_str();
                assert_eq!(Ok(end), expected, "{text}");
                assert!(!format!("{read:?}").contains("hush"));
            }
            Err(error) => {
                let (error, part) = (error.to_string(), expected.unwrap_err());
                assert!(error.contains(part) && !error.contains("hush"), "{error}");
            }
        };
        let printed = r#"{ "clientId": "c", "clientSecret": "hush", "subscriptionId": "s", "tenantId": "t",
            "activeDirectoryEndpointUrl": "https://login.microsoftonline.com",
            "resourceManagerEndpointUrl": "https://management.azure.com/",
            "sqlManagementEndpointUrl": "https://management.core.windows.net:8443/" }"#;
        check(printed, Ok("https://management.azure.com/"));
        let short = r#"{ "clientId": "c", "clientSecret": "hush", "tenantId": "t" }"#;
        check(short, Ok("https://management.azure.com"));
        check("hush", Err("json-auth"));
        check(r#"{ "clientId": "c", "clientSecret": 7 }"#, Err("column"));
    }
}
