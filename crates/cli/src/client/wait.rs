//! Long operations: polls what the server names until it has ended.

use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde_json::Value;

use super::{Ask, Client, Reply, operation_error};
use wire::TenantId;

use crate::error::CliError;

/// An operation that takes longer is left to the server.
const WAIT_MINUTES_MAX: u64 = 240;
/// Looks that may fail in a row, each after a pause.
pub const FAILED_LOOKS_MAX: u32 = 60;
/// Pause between polls where the server names none.
const POLL_PAUSE: Duration = Duration::from_secs(1);

impl Client {
    /// The resource at `path`, or nothing if there is none.
    pub async fn find(
        &self,
        operation: &str,
        tenant: TenantId,
        path: &str,
    ) -> Result<Option<Value>, CliError> {
        match self.get(operation, tenant, path).await {
            Ok(body) => Ok(Some(body)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub async fn get(
        &self,
        operation: &str,
        tenant: TenantId,
        path: &str,
    ) -> Result<Value, CliError> {
        let ask = Ask {
            operation,
            tenant,
            method: "GET",
            path,
            body: None,
        };
        Ok(self.send(ask).await?.body)
    }

    /// Sends the request and waits until what it started has ended; gives the final resource.
    pub async fn finish(&self, ask: Ask<'_>) -> Result<Value, CliError> {
        let reply = self.send(ask).await?;
        self.wait(ask, reply).await
    }

    /// Sends the request, waits until what it started has ended, and gives what came of it, as the operation says.
    pub async fn output(&self, ask: Ask<'_>) -> Result<Value, CliError> {
        let reply = self.send(ask).await?;
        let pause = reply.retry_after().unwrap_or(POLL_PAUSE);
        let Some(url) = reply.header("azure-asyncoperation").map(str::to_owned) else {
            return Ok(reply.body);
        };
        let mut ended = self.poll_operation(ask, &url, pause).await?;
        Ok(ended["properties"].take())
    }

    /// Waits for the operation that an answer has started.
    pub async fn wait(&self, ask: Ask<'_>, reply: Reply) -> Result<Value, CliError> {
        let pause = reply.retry_after().unwrap_or(POLL_PAUSE);
        if let Some(url) = reply.header("azure-asyncoperation").map(str::to_owned) {
            self.poll_operation(ask, &url, pause).await?;
            return self.outcome(ask).await;
        }
        if reply.status == StatusCode::ACCEPTED
            && let Some(url) = reply.header("location").map(str::to_owned)
        {
            return self.poll_location(ask, &url, pause).await;
        }
        if ask.method == "PUT" && is_running(&reply.body) {
            return self.poll_resource(ask, pause).await;
        }
        Ok(reply.body)
    }

    /// What is there after the operation: the resource, or nothing after a POST or DELETE.
    async fn outcome(&self, ask: Ask<'_>) -> Result<Value, CliError> {
        match ask.method {
            "PUT" | "PATCH" => self.get(ask.operation, ask.tenant, ask.path).await,
            _ => Ok(Value::Null),
        }
    }

    async fn poll_operation(
        &self,
        ask: Ask<'_>,
        url: &str,
        mut pause: Duration,
    ) -> Result<Value, CliError> {
        let started = Instant::now();
        loop {
            self.pause(ask.operation, started, pause).await?;
            let reply = self.look(ask, url).await?;
            pause = reply.retry_after().unwrap_or(POLL_PAUSE);
            let status = reply
                .body
                .get("status")
                .and_then(Value::as_str)
                .unwrap_or("");
            match status {
                "Succeeded" => return Ok(reply.body),
                "Failed" | "Canceled" => {
                    let none =
                        serde_json::json!({ "code": status, "message": "no reason was given" });
                    let error = reply
                        .body
                        .get("error")
                        .filter(|error| error.is_object())
                        .unwrap_or(&none);
                    return Err(operation_error(ask.operation, error));
                }
                "" => {
                    return Err(CliError::BadAnswer {
                        operation: ask.operation.to_owned(),
                        why: "the operation has no status".into(),
                    });
                }
                _ => {}
            }
        }
    }

    async fn poll_location(
        &self,
        ask: Ask<'_>,
        url: &str,
        mut pause: Duration,
    ) -> Result<Value, CliError> {
        let started = Instant::now();
        loop {
            self.pause(ask.operation, started, pause).await?;
            let reply = self.look(ask, url).await?;
            if reply.status != StatusCode::ACCEPTED {
                return Ok(reply.body);
            }
            pause = reply.retry_after().unwrap_or(POLL_PAUSE);
        }
    }

    async fn poll_resource(&self, ask: Ask<'_>, pause: Duration) -> Result<Value, CliError> {
        let started = Instant::now();
        loop {
            self.pause(ask.operation, started, pause).await?;
            let body = self.look(ask, ask.path).await?.body;
            if !is_running(&body) {
                return Ok(body);
            }
        }
    }

    /// One look at work that goes on at the server. That a server is started again meanwhile is no
    /// reason to give up: it goes on with the work, and so does this.
    async fn look(&self, ask: Ask<'_>, url: &str) -> Result<Reply, CliError> {
        let look = Ask {
            method: "GET",
            path: url,
            body: None,
            ..ask
        };
        for _ in 1..FAILED_LOOKS_MAX {
            match self.send(look).await {
                Err(CliError::Connect { .. } | CliError::Transport { .. }) => {}
                result => return result,
            }
            tokio::time::sleep(POLL_PAUSE).await;
        }
        self.send(look).await
    }

    async fn pause(
        &self,
        operation: &str,
        started: Instant,
        pause: Duration,
    ) -> Result<(), CliError> {
        if started.elapsed() > Duration::from_secs(WAIT_MINUTES_MAX * 60) {
            return Err(CliError::Deadline {
                operation: operation.to_owned(),
                minutes: WAIT_MINUTES_MAX,
            });
        }
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

fn is_running(body: &Value) -> bool {
    let state = body
        .pointer("/properties/provisioningState")
        .and_then(Value::as_str);
    matches!(
        state,
        Some("Creating" | "Updating" | "Accepted" | "Deleting" | "Running")
    )
}
