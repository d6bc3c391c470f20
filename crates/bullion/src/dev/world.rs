//! What a throw-away server has in it: regions, tenants with a subscription each, one application that is Owner in all of
//! them, an image in each and a VHD by URI.

use std::path::Path;
use std::time::{Duration, Instant};

use camino::Utf8PathBuf;
use cli::client::{Ask, Client};
use cli::error::CliError;
use cli::profile::Profile;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use uuid::Uuid;
use wire::TenantId;

use super::disk;
use crate::offline::Failure;

/// Any well-formed version is answered.
const VERSION: &str = "api-version=2026-11-01";
const OWNER: &str =
    "/providers/Microsoft.Authorization/roleDefinitions/8e3af657-a8ff-443c-a75c-2fe8c4bcb635";
const GROUP: &str = "dev";
const IMAGE: &str = "tiny";
const APPLICATION: &str = "dev";
const VHD: &str = "tiny.vhd";
/// Between two looks at an image that is being made. The server is ours and near.
const POLL: Duration = Duration::from_millis(2);
const IMAGE_SECONDS_MAX: u64 = 60;

/// What to make.
pub struct Wish {
    pub tenants: usize,
    pub regions: Vec<String>,
}

/// One tenant, with what was made in it.
struct Tenant {
    id: TenantId,
    subscription: String,
    image: String,
}

/// The application that every test signs in as.
struct Application {
    client_id: String,
    client_secret: String,
    /// Its principal in its home, the first tenant.
    principal: String,
}

/// A server's contents.
pub struct World {
    client: Client,
    ca: String,
    location: String,
    application: Application,
    tenants: Vec<Tenant>,
}

impl World {
    pub async fn make(
        running: &server::Running,
        blobs: &Path,
        wish: &Wish,
    ) -> Result<World, Failure> {
        let (client, ca) = operator(running)?;
        let failed = |error: CliError| Failure::new("the test world cannot be made", error);
        place(blobs, wish.tenants)?;
        let maker = Maker { client: &client };
        for region in &wish.regions {
            let path = format!("/providers/Bullion.Factory/regions/{region}");
            let body = json!({ "properties": {} });
            maker
                .put(client.home(), &path, body)
                .await
                .map_err(failed)?;
        }
        let location = wish.regions.first().cloned().unwrap_or_default();
        let mut ids = Vec::new();
        for number in 1..=wish.tenants {
            ids.push(maker.tenant(number).await.map_err(failed)?);
        }
        let Some(home) = ids.first() else {
            return Err(Failure::usage("there is no tenant"));
        };
        let application = maker.application(*home).await.map_err(failed)?;
        let mut tenants = Vec::new();
        for (index, id) in ids.iter().enumerate() {
            let principal = match index {
                0 => application.principal.clone(),
                _ => maker
                    .consent(*id, &application.client_id)
                    .await
                    .map_err(failed)?,
            };
            let made = maker.fill(*id, index + 1, &principal, &location).await;
            tenants.push(made.map_err(failed)?);
        }
        for tenant in &tenants {
            maker.settled(tenant).await?;
        }
        Ok(World {
            client,
            ca,
            location,
            application,
            tenants,
        })
    }

    /// Names and values, in an order that people can read.
    pub fn variables(&self) -> Vec<(String, String)> {
        let profile = self.client.profile();
        let mut variables = Vec::new();
        let mut set = |name: &str, value: &str| variables.push((name.to_owned(), value.to_owned()));
        set("BULLION_URL", &profile.url);
        set("BULLION_CA", &self.ca);
        set("BULLION_CLIENT_ID", &self.application.client_id);
        set("BULLION_CLIENT_SECRET", &self.application.client_secret);
        for (index, tenant) in self.tenants.iter().enumerate() {
            let number = index + 1;
            if index == 0 {
                // The one that the commands of this program sign in to.
                set("BULLION_TENANT", &tenant.id.to_string());
            }
            set(&format!("BULLION_TENANT_{number}"), &tenant.id.to_string());
            set(
                &format!("BULLION_SUBSCRIPTION_{number}"),
                &tenant.subscription,
            );
            set(&format!("BULLION_IMAGE_{number}"), &tenant.image);
        }
        // Of every tenant: who consents, and makes applications.
        set("BULLION_ADMIN_CLIENT_ID", &profile.client_id);
        set(
            "BULLION_ADMIN_CLIENT_SECRET",
            profile.client_secret.expose_secret(),
        );
        set("BULLION_VHD_URI", &format!("{}/blobs/{VHD}", profile.url));
        set("BULLION_LOCATION", &self.location);
        variables
    }

    /// Deletes the machines that tests left running.
    pub async fn remove_machines(&self) -> Result<(), Failure> {
        for tenant in &self.tenants {
            let list = format!(
                "/subscriptions/{}/providers/Microsoft.Compute/virtualMachines?{VERSION}",
                tenant.subscription
            );
            let found = self.client.get("list the machines", tenant.id, &list).await;
            // A test may have taken the subscription away.
            let Ok(found) = found else { continue };
            for machine in found["value"].as_array().into_iter().flatten() {
                let path = format!("{}?{VERSION}", machine["id"].as_str().unwrap_or_default());
                let ask = Ask {
                    operation: "remove a machine",
                    tenant: tenant.id,
                    method: "DELETE",
                    path: &path,
                    body: None,
                };
                self.client
                    .finish(ask)
                    .await
                    .map_err(|error| Failure::new("a machine may still run", error))?;
            }
        }
        Ok(())
    }
}

/// A client of the operator, and where the CA's certificate is.
fn operator(running: &server::Running) -> Result<(Client, String), Failure> {
    let failed = |what: &str| format!("cannot read {what} of the new server");
    let file = running.data.join("admin.json");
    let text = std::fs::read(&file)
        .map_err(|error| Failure::new(failed("the administrator's file"), error))?;
    let admin: Value = serde_json::from_slice(&text)
        .map_err(|error| Failure::new(failed("the administrator's file"), error))?;
    let member = |name: &str| admin[name].as_str().unwrap_or_default().to_owned();
    let tenant = member("tenantId")
        .parse()
        .map_err(|error| Failure::new(failed("the administrator's file"), error))?;
    let ca = Utf8PathBuf::from_path_buf(running.data.join("tls/ca.pem"))
        .map_err(|path| Failure::plain(format!("the path `{}` is no text", path.display())))?;
    let client = Client::new(Profile {
        url: running.url.clone(),
        ca: Some(running.ca.clone()),
        ca_file: Some(ca.clone()),
        tenant,
        client_id: member("clientId"),
        client_secret: member("clientSecret").into(),
    });
    let client = client.map_err(|error| Failure::new("cannot reach the new server", error))?;
    Ok((client, ca.into_string()))
}

/// Writes the VHDs: one for everybody, and one for each tenant's image, so that a copy tells whose it is.
fn place(blobs: &Path, tenants: usize) -> Result<(), Failure> {
    let write = |name: &str, label: &str| {
        let path = blobs.join(name);
        std::fs::write(&path, disk::vhd(label))
            .map_err(|error| Failure::new(format!("cannot write `{}`", path.display()), error))
    };
    write(VHD, "bullion dev")?;
    (1..=tenants).try_for_each(|number| write(&image_file(number), &format!("tenant {number}")))
}

fn image_file(number: usize) -> String {
    format!("image-{number}.vhd")
}

struct Maker<'a> {
    client: &'a Client,
}

impl Maker<'_> {
    async fn put(&self, tenant: TenantId, path: &str, body: Value) -> Result<Value, CliError> {
        self.send("PUT", tenant, path, Some(&body)).await
    }

    async fn send(
        &self,
        method: &str,
        tenant: TenantId,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, CliError> {
        let operation = format!("{method} {path}");
        let path = format!("{path}?{VERSION}");
        let ask = Ask {
            operation: &operation,
            tenant,
            method,
            path: &path,
            body,
        };
        Ok(self.client.send(ask).await?.body)
    }

    async fn tenant(&self, number: usize) -> Result<TenantId, CliError> {
        let path = format!("/providers/Bullion.Factory/tenants/tenant-{number}");
        let body = json!({ "properties": { "displayName": format!("Tenant {number}") } });
        let made = self.put(self.client.home(), &path, body).await?;
        text(&made, "tenantId", &path)?
            .parse()
            .map_err(|_| bad(&path))
    }

    async fn application(&self, home: TenantId) -> Result<Application, CliError> {
        let path = format!("/providers/Bullion.Factory/applications/{APPLICATION}");
        let body = json!({ "properties": { "multiTenant": true } });
        let made = self.put(home, &path, body).await?;
        let secret_path = format!("{path}/addPassword");
        let secret = self.send("POST", home, &secret_path, None).await?;
        let secret = secret["secretText"].as_str();
        Ok(Application {
            client_id: text(&made, "appId", &path)?,
            principal: text(&made, "principalId", &path)?,
            client_secret: secret.ok_or_else(|| bad(&secret_path))?.to_owned(),
        })
    }

    /// The principal that the application has in another tenant from now on.
    async fn consent(&self, tenant: TenantId, app: &str) -> Result<String, CliError> {
        let path = format!("/providers/Bullion.Factory/servicePrincipals/{APPLICATION}");
        let body = json!({ "properties": { "appId": app } });
        let made = self.put(tenant, &path, body).await?;
        text(&made, "principalId", &path)
    }

    /// A subscription with the application as its Owner, a group, and an image on its way.
    async fn fill(
        &self,
        id: TenantId,
        number: usize,
        principal: &str,
        location: &str,
    ) -> Result<Tenant, CliError> {
        let subscription = Uuid::new_v4().to_string();
        let path = format!("/subscriptions/{subscription}");
        let named = json!({ "properties": { "displayName": format!("Subscription {number}") } });
        self.put(id, &path, named).await?;
        let assignment = format!(
            "{path}/providers/Microsoft.Authorization/roleAssignments/{}",
            Uuid::new_v4()
        );
        let role = json!({ "properties": { "roleDefinitionId": OWNER, "principalId": principal } });
        self.put(id, &assignment, role).await?;
        let group = format!("{path}/resourceGroups/{GROUP}");
        let here = json!({ "location": location });
        self.put(id, &group, here).await?;
        let image = format!("{group}/providers/Microsoft.Compute/images/{IMAGE}");
        let url = &self.client.profile().url;
        let body = json!({
            "location": location,
            "properties": {
                "hyperVGeneration": "V2",
                "storageProfile": { "osDisk": {
                    "osType": "Linux",
                    "osState": "Generalized",
                    "blobUri": format!("{url}/blobs/{}", image_file(number)),
                } },
            },
        });
        self.put(id, &image, body).await?;
        Ok(Tenant {
            id,
            subscription,
            image,
        })
    }

    /// Waits until a tenant's image is there.
    async fn settled(&self, tenant: &Tenant) -> Result<(), Failure> {
        let failed = |error| Failure::new("the test world cannot be made", error);
        let path = format!("{}?{VERSION}", tenant.image);
        let began = Instant::now();
        loop {
            let image = self
                .client
                .get("look at an image", tenant.id, &path)
                .await
                .map_err(failed)?;
            match image["properties"]["provisioningState"].as_str() {
                Some("Succeeded") => return Ok(()),
                Some("Creating") if began.elapsed().as_secs() < IMAGE_SECONDS_MAX => {}
                state => {
                    let state = state.unwrap_or("no state");
                    let what = format!("the image {} is not made: {state}", tenant.image);
                    return Err(Failure::plain(what));
                }
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

fn text(resource: &Value, property: &str, path: &str) -> Result<String, CliError> {
    let found = resource["properties"][property].as_str();
    found.map(str::to_owned).ok_or_else(|| bad(path))
}

fn bad(path: &str) -> CliError {
    CliError::BadAnswer {
        operation: format!("make {path}"),
        why: "a member is missing".into(),
    }
}
