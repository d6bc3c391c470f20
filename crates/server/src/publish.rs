//! A client's PUT of an image version: where an existing one is replicated, or a new one made from another.
//!
//! A new version has the same disks as its source, so nothing is copied but what a region lacks; disks of VHDs are
//! taken in first.

use std::sync::Arc;

use access::Action;
use async_trait::async_trait;
use catalog::{NewJob, Outcome, Resource};
use jiff::{Timestamp, Unit};
use jobs::{JobContext, JobError, JobKind, NoUndo, OnUndo, StepError, StepHandle};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use wire::{ArmError, ProvisioningState, ResourceId};

use crate::body::ResourceBody;
use crate::errors;
use crate::exchange::Reply;
use crate::import::{self, Importer, Origins};
use crate::operation::Call;
use crate::resources::bits::{self, Bits};
use crate::resources::{
    data_disks, managed_images, power, put_reply_of, store, submit_with, tracked, versions,
};
use crate::state::Server;

const WRITE: &str = "Microsoft.Compute/galleries/images/versions/write";
/// What a copy takes over: it is the same disk, from the same build.
const FACTS: &str = "bullion";
const SOURCE: &str = "properties.storageProfile.source.id";
const GIB: u64 = 1 << 30;

/// Regions, counts and dates may change; the replication reconciler brings the stores to it.
pub async fn update(
    server: &Arc<Server>,
    call: &Call,
    old: &Resource,
    body: ResourceBody,
    location: &str,
) -> Result<Reply, ArmError> {
    let draft = tracked(body, location, Some(old)).state(old.state);
    let put = store(server, call, Some(old), draft).await?;
    server.work.nudge_replication();
    Ok(put_reply_of(put.created, versions::shown(&put.resource)))
}

pub async fn create(
    server: &Arc<Server>,
    call: &Call,
    mut body: ResourceBody,
    location: &str,
) -> Result<Reply, ArmError> {
    let asked = data_disks::asked(&data_disks::OF_VERSION, &call.body)?;
    let missing = errors::invalid(
        SOURCE,
        "A new image version needs exactly one source: the id of a managed image, disk, snapshot or \
         gallery image version, or the URI of a VHD.",
    );
    let sources = versions::sources(&call.body);
    data_disks::need_other_than(&data_disks::OF_VERSION, &asked, &sources)?;
    let bits = bits::find(server, call, sources, missing).await?;
    let mut origins = Origins::default();
    match bits {
        Bits::Of(source) => {
            check_fits(server, call, &source).await?;
            body.properties
                .insert(FACTS.into(), bits::facts_of(&source));
            take_profile(&mut body, &source);
            data_disks::inherit(&data_disks::OF_VERSION, &mut body.properties, &source)?;
        }
        Bits::Machine(machine) => {
            check_fits_machine(server, call, &machine).await?;
            power::need_off(server, &machine, "Create Gallery Image Version").await?;
            let facts = bits::facts_of_machine(&machine);
            body.properties.insert(FACTS.into(), facts);
            body.properties["storageProfile"]["osDiskImage"] =
                json!({ "hostCaching": "ReadWrite" });
            data_disks::inherit(&data_disks::OF_VERSION, &mut body.properties, &machine)?;
            origins = bits::origins_of_machine(&machine);
        }
        Bits::From(from) => {
            let facts = bits::facts_from(&body.properties, &[versions::URI]);
            body.properties.insert(FACTS.into(), facts);
            origins.os = Some(from);
        }
    }
    data_disks::find(
        server,
        call,
        &data_disks::OF_VERSION,
        asked,
        &mut body.properties,
        &mut origins,
    )
    .await?;
    body.properties["publishingProfile"]["publishedDate"] = published_now().into();
    let draft = tracked(body, location, None).state(ProvisioningState::Creating);
    let exclusive = import::exclusive(&call.id, &origins, "version");
    let input = PublishCopyInput {
        version: call.id.clone(),
        origins,
    };
    let job = NewJob {
        kind: PublishCopy::NAME.into(),
        input: json!(input),
        exclusive: Some(exclusive),
        visible_at: Vec::new(),
    };
    let (put, job) = submit_with(server, call, None, draft, job).await?;
    let reply = put_reply_of(put.created, versions::shown(&put.resource));
    server.polled(reply, call, &call.id, job)
}

/// What a version shows of its disk, where the client does not say: as its source, whatever that is.
fn take_profile(body: &mut ResourceBody, source: &Resource) {
    let profile = body
        .properties
        .entry("storageProfile")
        .or_insert_with(|| json!({}));
    let of_source = &source.properties["storageProfile"];
    if source.id.resource_type().is(versions::KIND) {
        for (key, value) in of_source.as_object().into_iter().flatten() {
            if profile.get(key).is_none() {
                let mut value = value.clone();
                // Where the source's own disk came from is no source of the copy.
                if let Some(member) = value.as_object_mut() {
                    member.remove("source");
                }
                if key != data_disks::OF_VERSION.list {
                    profile[key] = value;
                }
            }
        }
        return;
    }
    let bytes = source.properties[FACTS]["logicalBytes"].as_u64();
    profile["osDiskImage"]["sizeInGB"] = bytes.unwrap_or_default().div_ceil(GIB).into();
    let caching = of_source["osDisk"]["caching"].as_str().unwrap_or("None");
    profile["osDiskImage"]["hostCaching"] = caching.into();
}

/// A source and the definition must say the same about the system, where the source says it.
async fn check_fits(server: &Server, call: &Call, source: &Resource) -> Result<(), ArmError> {
    if !source.id.resource_type().is(managed_images::KIND) {
        return Ok(());
    }
    let disk = &source.properties["storageProfile"]["osDisk"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let says = Says {
        os_state: text(&disk["osState"]),
        os_type: text(&disk["osType"]),
        generation: text(&source.properties["hyperVGeneration"]),
    };
    check_says(server, call, &source.id, &says).await
}

/// A generalized machine makes generalized images, any other specialized ones.
async fn check_fits_machine(
    server: &Server,
    call: &Call,
    machine: &Resource,
) -> Result<(), ArmError> {
    let state = match power::is_generalized(machine) {
        true => "Generalized",
        false => "Specialized",
    };
    let says = Says {
        os_state: state.into(),
        os_type: "Linux".into(),
        generation: bits::generation_of(machine).into(),
    };
    check_says(server, call, &machine.id, &says).await
}

/// What a source says of its system.
struct Says {
    os_state: String,
    os_type: String,
    generation: String,
}

async fn check_says(
    server: &Server,
    call: &Call,
    id: &ResourceId,
    says: &Says,
) -> Result<(), ArmError> {
    let parent = call.id.parent();
    let permit = parent.and_then(|parent| call.permit.to_read_ancestor(&parent));
    let Some(permit) = permit else {
        return Ok(());
    };
    let definition = server.catalog.get(&permit).await.map_err(errors::catalog)?;
    let differ = |of_source: &String, key: &str| {
        let wanted = definition.properties[key].as_str().unwrap_or_default();
        (!of_source.eq_ignore_ascii_case(wanted)).then(|| wanted.to_string())
    };
    let message = if let Some(wanted) = differ(&says.os_state, "osState") {
        format!(
            "Cannot create Gallery Image Version from: {id} since the OS State in the parent gallery \
             image ({wanted}) is not {}.",
            says.os_state
        )
    } else if let Some(wanted) = differ(&says.os_type, "osType") {
        format!(
            "Cannot create Gallery Image Version from: {id} since the OS Type in the parent gallery \
             image ({wanted}) is not {}.",
            says.os_type
        )
    } else if let Some(wanted) = differ(&says.generation, "hyperVGeneration") {
        format!(
            "The resource with id '{id}' has a different Hypervisor generation ['{}'] than the \
             parent gallery image Hypervisor generation ['{wanted}'].",
            says.generation
        )
    } else {
        return Ok(());
    };
    Err(errors::conflict(message))
}

/// Whole seconds: clients parse at most six digits of a fraction.
fn published_now() -> String {
    let now = Timestamp::now();
    now.round(Unit::Second).unwrap_or(now).to_string()
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PublishCopyInput {
    pub version: ResourceId,
    /// Where those bits come from that are in no store yet.
    #[serde(default, skip_serializing_if = "Origins::is_empty")]
    pub origins: Origins,
}

/// Brings the bits of a new version to every region of it; then the version may be used.
pub struct PublishCopy(pub Importer);

#[async_trait]
impl JobKind for PublishCopy {
    const NAME: &'static str = "publish-copy";
    type Input = PublishCopyInput;
    type Undo = NoUndo;

    async fn run(
        &self,
        cx: &mut JobContext<NoUndo>,
        input: PublishCopyInput,
    ) -> Result<Value, JobError> {
        let nothing = OnUndo::Nothing("replicas of a version that failed are deleted with it");
        self.0.bring_all(cx, &input.version, &input.origins).await?;
        cx.step_once("replicate", nothing, |step| {
            self.replicate(step, &input.version)
        })
        .await?;
        Ok(Value::Null)
    }

    async fn undo(
        &self,
        _cx: &StepHandle,
        undo: NoUndo,
        _output: Option<Value>,
    ) -> Result<(), StepError> {
        match undo {}
    }

    async fn settle(
        &self,
        cx: &StepHandle,
        input: &PublishCopyInput,
        outcome: &Outcome,
    ) -> Result<(), StepError> {
        self.0.settle(cx, &input.version, outcome).await
    }
}

impl PublishCopy {
    async fn replicate(&self, step: StepHandle, version: &ResourceId) -> Result<(), StepError> {
        let permit = step.permit(&Action::new(WRITE), version).await?;
        let version = self.0.catalog.get(&permit.to_read_own()).await?;
        tokio::select! {
            copied = self.0.work.replicate(&step, &version) => copied,
            () = step.until_cancelled() => Err(StepError::canceled()),
        }
    }
}
