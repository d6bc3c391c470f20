//! Promotions over three tenants on fakes: what stops one, what waits, and what a death at any moment leaves.

mod data_disks;
mod faults;
mod provenance;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use access::{Action, Assignment, Grants, Identity, Permit, RoleId, authorize};
use async_trait::async_trait;
use catalog::{
    Audience, Catalog as _, CatalogError, Clock as _, Draft, JobRow, JobStore as _, ManualClock,
    Precondition, Record as Row, SqliteCatalog,
};
use jobs::testing::{self, Trial};
use jobs::{Reconciler as _, RunnerBuilder, Submit};
use serde_json::{Value, json};
use wire::promotion::{Actor, GateState, Opinion, PromotionProperties, PromotionState};
use wire::{AppId, Location, PrincipalId, ResourceId, TenantId};

use super::*;
use crate::testing::World;

const OWNER: &str = "8e3af657-a8ff-443c-a75c-2fe8c4bcb635";
const CONTRIBUTOR: &str = "b24988ac-6180-42a0-ab88-20f7382dd24c";
const READER: &str = "acdd72a7-3385-48ef-bd42-f606fba81ae7";
const STAGES: [&str; 3] = ["eng", "test", "prod"];

/// One stage after the first.
struct Stage {
    operator: Identity,
    definition: ResourceId,
    app: AppId,
    /// What the tenant before gave: consent and the role Reader.
    consent: ResourceId,
    reader: ResourceId,
}

/// Three tenants with version 1.0.0 in the first.
struct Chain {
    world: World,
    stages: Vec<Stage>,
    pipeline: ResourceId,
    properties: Value,
}

fn root(namespace: &str, kind: &str, name: &str) -> ResourceId {
    ResourceId::root().extension(namespace, kind, name).unwrap()
}

fn guid() -> String {
    uuid::Uuid::new_v4().to_string()
}

fn actor(identity: &Identity) -> Actor {
    Actor {
        tenant: identity.tenant,
        principal: identity.principal,
        app: identity.app,
    }
}

impl Chain {
    async fn fresh() -> Chain {
        Chain::with_gates(json!([
            { "type": "TestsPassed", "name": "tests" },
            { "type": "DeployAndCheck", "name": "boots", "region": "south", "validators": [
                { "type": "Shell", "name": "motd", "inline": ["test -s /etc/motd"] },
            ] },
        ]))
        .await
    }

    async fn with_approval() -> Chain {
        Chain::with_gates(json!([
            { "type": "TestsPassed", "name": "tests" },
            { "type": "Approval", "name": "yes", "count": 1, "expiresInHours": 72 },
        ]))
        .await
    }

    /// Both later stages have these gates.
    async fn with_gates(gates: Value) -> Chain {
        let world = World::new(&["north", "south"]).await;
        let (_, built) = world.run(&world.factory()).await;
        assert_eq!(
            built.state,
            catalog::JobState::Succeeded,
            "{:?}",
            built.failure
        );
        let pipeline = world
            .group
            .extension("Bullion.Factory", "pipelines", "golden");
        let mut chain = Chain {
            pipeline: pipeline.unwrap(),
            world,
            stages: Vec::new(),
            properties: Value::Null,
        };
        let mut stages = vec![json!({
            "name": "eng", "tenant": chain.world.operator.tenant,
            "imageDefinition": chain.world.definition,
        })];
        for name in &STAGES[1..] {
            let stage = chain.add_stage(name).await;
            stages.push(json!({
                "name": name, "tenant": stage.operator.tenant, "imageDefinition": stage.definition,
                "application": stage.app, "gates": gates,
                "targetRegions": [{ "name": "south", "replicaCount": 2 }, { "name": "north" }],
            }));
            chain.stages.push(stage);
        }
        chain.properties = json!({ "stages": stages });
        chain
    }

    async fn put(&self, identity: &Identity, id: &ResourceId, draft: Draft) {
        let permit = self.world.permit_of(identity, "write", id).await;
        let put = self
            .world
            .catalog
            .put(&permit, draft, Precondition::None)
            .await;
        put.expect("put a resource");
    }

    async fn delete(&self, identity: &Identity, id: &ResourceId) {
        let permit = self.world.permit_of(identity, "delete", id).await;
        let gone = self.world.catalog.delete(&permit, Precondition::None).await;
        gone.expect("delete a resource");
    }

    async fn assign(
        &self,
        operator: &Identity,
        scope: &ResourceId,
        principal: PrincipalId,
        role: &str,
    ) -> ResourceId {
        let id = scope.extension("Microsoft.Authorization", "roleAssignments", &guid());
        let id = id.unwrap();
        let assignment = Assignment {
            tenant: operator.tenant,
            principal,
            role: RoleId::new(role),
            scope: scope.clone(),
        };
        let draft = Draft::new(json!({})).record(Row::RoleAssignment(assignment));
        self.put(operator, &id, draft).await;
        id
    }

    async fn add_stage(&self, name: &str) -> Stage {
        let operator = Identity {
            tenant: TenantId::random(),
            principal: PrincipalId::random(),
            app: self.world.operator.app,
        };
        let tenant = Row::Tenant {
            tenant: operator.tenant,
            display_name: name.to_owned(),
            operator_principal: operator.principal,
        };
        let id = root("Bullion.Factory", "tenants", name);
        let draft = Draft::new(json!({})).record(tenant);
        self.put(&self.world.operator, &id, draft).await;
        let subscription = ResourceId::root().child("subscriptions", &guid()).unwrap();
        let draft = Draft::new(json!({})).record(Row::Subscription);
        self.put(&operator, &subscription, draft).await;
        let group = subscription.child("resourceGroups", "images").unwrap();
        let gallery = group.extension("Microsoft.Compute", "galleries", "gallery");
        let gallery = gallery.unwrap();
        let definition = gallery.child("images", "debian").unwrap();
        for id in [&group, &gallery] {
            self.put(&operator, id, Draft::new(json!({})).location("south"))
                .await;
        }
        let bound = [(PIPELINE_TAG.to_owned(), self.pipeline.to_string())];
        let draft = json!({ "osType": "Linux", "hyperVGeneration": "V2" });
        let draft = Draft::new(draft).location("south");
        self.put(&operator, &definition, draft.tags(bound.into()))
            .await;

        let (app, own) = (AppId::random(), PrincipalId::random());
        let application = Row::Application {
            app,
            principal: own,
            display_name: name.to_owned(),
            audience: Audience::ManyTenants,
            redirects: Vec::new(),
        };
        let id = root(
            "Bullion.Factory",
            "applications",
            &format!("promote-{name}"),
        );
        self.put(&operator, &id, Draft::new(json!({})).record(application))
            .await;
        self.assign(&operator, &gallery, own, CONTRIBUTOR).await;
        let before = self.stages.last();
        let (giver, scope) = before
            .map_or((&self.world.operator, &self.world.definition), |stage| {
                (&stage.operator, &stage.definition)
            });
        let guest = PrincipalId::random();
        let consent = root(
            "Bullion.Factory",
            "servicePrincipals",
            &format!("promote-{name}"),
        );
        let row = Row::ServicePrincipal {
            app,
            principal: guest,
        };
        self.put(giver, &consent, Draft::new(json!({})).record(row))
            .await;
        let reader = self.assign(giver, scope, guest, READER).await;
        Stage {
            operator,
            definition,
            app,
            consent,
            reader,
        }
    }

    fn stage(&self, name: &str) -> &Stage {
        &self.stages[STAGES.iter().position(|stage| *stage == name).unwrap() - 1]
    }

    fn id(&self, stage: &str) -> ResourceId {
        let group = self.stage(stage).definition.group_scope().unwrap();
        let name = format!("golden-{stage}-1.0.0");
        group
            .extension("Bullion.Factory", "promotions", &name)
            .unwrap()
    }

    /// The operator of the stage's tenant asks; their rights are made by hand, since they are looked up elsewhere.
    fn permit_to(&self, stage: &str) -> Permit {
        let asker = self.stage(stage).operator;
        let assignment = Assignment {
            tenant: asker.tenant,
            principal: asker.principal,
            role: RoleId::new(OWNER),
            scope: ResourceId::root(),
        };
        let grants = Grants::new(asker.tenant, asker.principal, vec![assignment]);
        let action = Action::new(PROMOTION_WRITE);
        authorize(&asker, &grants, &action, &self.id(stage), asker.tenant).unwrap()
    }

    fn asked(&self, stage: &str) -> PromotionProperties {
        self.asked_after(stage, None)
    }

    fn asked_again(&self, stage: &str, before: &PromotionProperties) -> PromotionProperties {
        self.asked_after(stage, Some(before.clone()))
    }

    fn asked_after(&self, stage: &str, before: Option<PromotionProperties>) -> PromotionProperties {
        let pipeline = check_pipeline(&self.properties).expect("a pipeline");
        let asked = Request {
            id: self.id(stage),
            pipeline: self.pipeline.clone(),
            stage: stage.to_owned(),
            version: "1.0.0".to_owned(),
            by: actor(&self.stage(stage).operator),
            now: self.world.clock.now(),
            before,
        };
        request(&pipeline, &asked).expect("a request")
    }

    async fn ask(&self, stage: &str) {
        let record = serde_json::to_value(self.asked(stage)).unwrap();
        let (permit, draft) = (self.permit_to(stage), Draft::new(record));
        let put = self.world.catalog.put(&permit, draft, Precondition::Absent);
        put.await.expect("ask");
    }

    /// Works on the promotion to the end of a job, turning the clock to each retry.
    async fn work(&self, stage: &str) -> PromotionProperties {
        let mut builder =
            RunnerBuilder::new(self.world.catalog.clone(), self.world.catalog.clone());
        let factory = self.world.factory();
        factory.register(&mut builder);
        let runner = builder.build();
        let input = PromoteInput {
            promotion: self.id(stage),
        };
        let permit = self.permit_to(stage);
        let submitted = runner
            .jobs()
            .submit::<Promote>(&permit, &input, Submit::default())
            .await;
        let job = submitted.expect("submit");
        for _ in 0..10 {
            runner.run_next().await;
            let row = self.world.catalog.job(&permit, job).await.expect("a job");
            if row.state.ended() {
                return self.promotion(stage).await;
            }
            self.world.clock.advance(Duration::from_secs(60));
        }
        panic!("the job does not end");
    }

    async fn promote(&self, stage: &str) -> PromotionProperties {
        self.ask(stage).await;
        self.work(stage).await
    }

    async fn get(&self, stage: &str, id: &ResourceId) -> Option<catalog::Resource> {
        let operator = &self.stage(stage).operator;
        let permit = self.world.permit_of(operator, "read", id).await;
        self.world.catalog.get(&permit).await.ok()
    }

    async fn promotion(&self, stage: &str) -> PromotionProperties {
        let found = self.get(stage, &self.id(stage)).await.expect("a promotion");
        serde_json::from_value(found.properties).expect("a promotion")
    }

    async fn version(&self, stage: &str) -> Option<catalog::Resource> {
        let id = self.stage(stage).definition.child("versions", "1.0.0");
        self.get(stage, &id.unwrap()).await
    }

    /// Writes what somebody decided.
    async fn decide(&self, stage: &str, promotion: &PromotionProperties) {
        let draft = Draft::new(serde_json::to_value(promotion).unwrap());
        self.put(&self.stage(stage).operator, &self.id(stage), draft)
            .await;
    }

    async fn reconcile(&self) {
        let stop = jobs::CancelSource::new().token();
        let done = Promotions(self.world.factory()).reconcile(&stop).await;
        done.expect("reconcile");
    }
}

fn somebody(tenant: TenantId) -> Actor {
    Actor {
        tenant,
        principal: PrincipalId::random(),
        app: AppId::random(),
    }
}

fn digest(version: &catalog::Resource) -> String {
    let digest = version.properties["bullion"]["diskDigest"].as_str();
    digest.expect("a digest").to_owned()
}

#[async_trait]
impl Trial for Chain {
    type Kind = Promote;

    fn kind(&self) -> Promote {
        Promote(self.world.factory())
    }

    fn input(&self) -> PromoteInput {
        PromoteInput {
            promotion: self.id("test"),
        }
    }

    fn permit(&self) -> Permit {
        self.permit_to("test")
    }

    fn catalog(&self) -> Arc<SqliteCatalog> {
        self.world.catalog.clone()
    }

    fn clock(&self) -> ManualClock {
        self.world.clock.clone()
    }

    async fn check_done(&self, _job: &JobRow) {
        let promotion = self.promotion("test").await;
        assert_eq!(
            promotion.state,
            PromotionState::Succeeded,
            "{}",
            promotion.message
        );
        assert!(
            promotion
                .gates
                .iter()
                .all(|gate| gate.state == GateState::Passed)
        );
        let version = self.version("test").await.expect("a version");
        assert_eq!(Some(digest(&version)), promotion.disk_digest);
        assert_eq!(Some(version.id.to_string()), promotion.version_id);
        assert!(self.world.machines.running().is_empty());
    }

    async fn check_undone(&self, _job: &JobRow) {
        let promotion = self.promotion("test").await;
        assert_eq!(
            promotion.state,
            PromotionState::Failed,
            "{}",
            promotion.message
        );
        assert!(self.version("test").await.is_none());
        assert!(self.world.machines.running().is_empty());
    }
}

async fn asked() -> Chain {
    let chain = Chain::fresh().await;
    chain.ask("test").await;
    chain
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_worked_on_twice_changes_nothing() {
    testing::runs_twice(&asked).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_that_fails_anywhere_publishes_nothing() {
    testing::fails_at_each_step(&asked).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn taking_a_promotion_back_survives_deaths() {
    testing::undoes_twice(&asked).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_at_any_step_of_a_promotion_is_survived() {
    testing::dies_at_each_step(&asked).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_disk_goes_through_all_stages_and_none_is_skipped() {
    let chain = Chain::fresh().await;
    let early = chain.promote("prod").await;
    assert_eq!(early.state, PromotionState::Failed);
    assert!(
        early.message.contains("not in the stage `test`"),
        "{}",
        early.message
    );
    assert_eq!(chain.promote("test").await.state, PromotionState::Succeeded);
    chain.decide("prod", &chain.asked("prod")).await;
    let late = chain.work("prod").await;
    assert_eq!(late.state, PromotionState::Succeeded, "{}", late.message);

    let first = chain.world.definition.child("versions", "1.0.0").unwrap();
    let first = chain.world.get(&first).await.unwrap();
    let (test, prod) = (chain.version("test").await, chain.version("prod").await);
    let (test, prod) = (test.unwrap(), prod.unwrap());
    assert_eq!(
        [digest(&test), digest(&prod)],
        [digest(&first), digest(&first)]
    );
    assert_eq!(prod.location.as_deref(), Some("south"), "its own regions");
    let regions = &prod.properties["publishingProfile"]["targetRegions"];
    assert_eq!(regions[0]["regionalReplicaCount"], 2);
    let facts = |version: &catalog::Resource| version.properties["bullion"].clone();
    assert_eq!(facts(&prod)["run"], facts(&first)["run"]);
    assert_eq!(
        facts(&prod)["builtBy"]["principal"],
        json!(chain.world.clerk.principal)
    );
    assert_eq!(facts(&prod)["copiedFrom"], test.id.to_string());
    let verified = verify(&chain.world.factory(), &late).await.unwrap();
    assert!(verified.equal, "{verified:?}");
    let read: Vec<&str> = verified.stages[1]
        .computed_in
        .iter()
        .map(Location::as_str)
        .collect();
    assert_eq!(read, ["south", "north"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_fails_in_the_stage_rejects() {
    let chain = Chain::fresh().await;
    chain.world.check_fails.store(true, Ordering::SeqCst);
    let promotion = chain.promote("test").await;
    assert_eq!(promotion.state, PromotionState::Rejected);
    assert_eq!(promotion.gates[0].state, GateState::Passed);
    assert!(promotion.gates[0].evidence["run"].is_string());
    let gate = &promotion.gates[1];
    assert_eq!(gate.state, GateState::Failed);
    assert!(gate.message.contains("motd is empty"), "{}", gate.message);
    let checks: Vec<(&str, bool)> = gate.evidence["checks"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|check| (check["name"].as_str().unwrap(), check["passed"] == true))
        .collect();
    assert_eq!(checks, [("is-this-version", true), ("motd", false)]);
    let machine = &gate.evidence["machine"];
    let stage = chain.stage("test");
    assert_eq!(machine["region"], "south");
    assert_eq!(machine["tenant"], json!(stage.operator.tenant));
    assert_eq!(machine["principal"], json!(gate.by[0]));
    assert_eq!(machine["imageDefinition"], json!(stage.definition));
    assert!(machine["id"].is_string() && machine["endedAt"].is_string());
    assert_eq!(
        machine["firmware"], "uefi",
        "the stage's, not the builder's"
    );
    assert_eq!(gate.evidence["diskDigest"], json!(promotion.disk_digest));
    assert!(chain.version("test").await.is_none());

    chain.world.check_fails.store(false, Ordering::SeqCst);
    let again = chain.asked_again("test", &promotion);
    chain.decide("test", &again).await;
    let done = chain.work("test").await;
    assert_eq!(done.state, PromotionState::Succeeded, "{}", done.message);
    assert_eq!((done.attempt, done.earlier.len()), (2, 1));
    assert_eq!(
        done.earlier[0].gates, promotion.gates,
        "why not is not forgotten"
    );
    let mut many = done;
    for _ in 0..20 {
        many = chain.asked_again("test", &many);
    }
    let kept: Vec<u32> = many.earlier.iter().map(|one| one.attempt).collect();
    assert_eq!(kept, (6..22).collect::<Vec<u32>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_of_another_lets_it_go_on() {
    let chain = Chain::with_approval().await;
    let waiting = chain.promote("test").await;
    assert_eq!(waiting.state, PromotionState::WaitingForApproval);
    assert_eq!(waiting.gates[1].state, GateState::Waiting);
    let builder = waiting.built_by.expect("a builder").principal;
    assert_eq!(builder, chain.world.clerk.principal);
    assert!(chain.version("test").await.is_none());
    let again = chain.work("test").await;
    assert_eq!(
        again.expires, waiting.expires,
        "a restart gives no more time"
    );

    let now = chain.world.clock.now();
    let tenant = chain.stage("test").operator.tenant;
    let yes = Opinion::default();
    let refusals = [
        (again.requested_by, false, OpinionError::Requester),
        (somebody(tenant), true, OpinionError::Builder),
        (
            Actor {
                app: chain.stage("test").app,
                ..somebody(tenant)
            },
            false,
            OpinionError::Stage,
        ),
    ];
    for (by, built, expected) in refusals {
        let refused = approve(&mut again.clone(), by, built, &yes, now);
        assert_eq!(refused, Err(expected));
    }
    let (by, mut approved) = (somebody(tenant), again);
    let enough = approve(&mut approved, by, false, &yes, now);
    assert_eq!(enough, Ok(Approved::Enough));
    chain.decide("test", &approved).await;
    let done = chain.work("test").await;
    assert_eq!(done.state, PromotionState::Succeeded, "{}", done.message);
    assert_eq!(done.gates[1].by, [by.principal]);
    assert!(chain.version("test").await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_that_does_not_come_ends_it() {
    let chain = Chain::with_approval().await;
    let waiting = chain.promote("test").await;
    chain.world.clock.advance(Duration::from_secs(71 * 3600));
    chain.reconcile().await;
    let state = chain.promotion("test").await.state;
    assert_eq!(state, PromotionState::WaitingForApproval);
    chain.world.clock.advance(Duration::from_secs(3600));
    let by = somebody(chain.stage("test").operator.tenant);
    let now = chain.world.clock.now();
    let late = approve(&mut waiting.clone(), by, false, &Opinion::default(), now);
    assert_eq!(
        late,
        Err(OpinionError::Expired),
        "before anybody looked after it"
    );
    chain.reconcile().await;
    let over = chain.promotion("test").await;
    assert_eq!(over.state, PromotionState::Expired);
    assert_eq!(over.gates[1].state, GateState::Failed);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_withdrawn_stops_the_next_step() {
    let stops = async |chain: &Chain| {
        let stopped = chain.promote("test").await;
        assert_eq!(stopped.state, PromotionState::Failed);
        let message = &stopped.message;
        assert!(
            message.starts_with("LinkedAuthorizationFailed"),
            "{message}"
        );
        assert!(chain.version("test").await.is_none());
    };
    let chain = Chain::fresh().await;
    chain
        .delete(&chain.world.operator, &chain.stage("test").reader)
        .await;
    stops(&chain).await;

    let chain = Chain::fresh().await;
    chain
        .delete(&chain.world.operator, &chain.stage("test").consent)
        .await;
    stops(&chain).await;

    // Between a gate that waited and what comes after it.
    let chain = Chain::with_approval().await;
    let mut waiting = chain.promote("test").await;
    chain
        .delete(&chain.world.operator, &chain.stage("test").consent)
        .await;
    let by = somebody(chain.stage("test").operator.tenant);
    let now = chain.world.clock.now();
    approve(&mut waiting, by, false, &Opinion::default(), now).unwrap();
    chain.decide("test", &waiting).await;
    let stopped = chain.work("test").await;
    assert_eq!(stopped.state, PromotionState::Failed);
    assert!(stopped.message.starts_with("LinkedAuthorizationFailed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_forbidden_is_not_promoted() {
    let chain = Chain::fresh().await;
    let refuses = |on: bool| chain.world.ask.refuses.store(on, Ordering::SeqCst);
    refuses(true);
    let stopped = chain.promote("test").await;
    assert_eq!(stopped.state, PromotionState::Failed);
    let message = &stopped.message;
    assert!(
        message.starts_with("RequestDisallowedByPolicy"),
        "{message}"
    );
    assert!(chain.version("test").await.is_none());
    refuses(false);
    let again = chain.asked_again("test", &stopped);
    chain.decide("test", &again).await;
    let done = chain.work("test").await;
    assert_eq!(done.state, PromotionState::Succeeded, "{}", done.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_that_the_stage_does_not_name_promotes_nothing() {
    let mut chain = Chain::fresh().await;
    let group = &chain.world.group;
    chain.pipeline = group
        .extension("Bullion.Factory", "pipelines", "golden2")
        .unwrap();
    let mut record = {
        let id = chain.id("test").to_string().replace("golden-", "golden2-");
        let pipeline = check_pipeline(&chain.properties).unwrap();
        let asked = Request {
            id: ResourceId::parse(&id).unwrap(),
            pipeline: chain.pipeline.clone(),
            stage: "test".to_owned(),
            version: "1.0.0".to_owned(),
            by: actor(&chain.stage("test").operator),
            now: chain.world.clock.now(),
            before: None,
        };
        request(&pipeline, &asked).unwrap()
    };
    record.gates.clear();
    chain.decide("test", &record).await;
    let stopped = chain.work("test").await;
    assert_eq!(stopped.state, PromotionState::Failed);
    assert!(
        stopped.message.contains(PIPELINE_TAG),
        "{}",
        stopped.message
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelines_are_checked_part_by_part() {
    let chain = Chain::with_approval().await;
    let check = |at: &str, value: Value, path: &str| {
        let mut properties = chain.properties.clone();
        *properties.pointer_mut(at).expect(at) = value;
        let problems = check_pipeline(&properties).expect_err(at);
        assert!(
            problems.iter().any(|problem| problem.path == path),
            "{at}: {problems:?}"
        );
    };
    check("/stages", json!([]), "stages");
    check("/stages", json!("x"), "stages");
    check("/stages/1/name", json!("eng"), "stages[1].name");
    check("/stages/1/name", json!("a b"), "stages[1].name");
    check(
        "/stages/1/imageDefinition",
        json!("/x"),
        "stages[1].imageDefinition",
    );
    check(
        "/stages/1/application",
        Value::Null,
        "stages[1].application",
    );
    check(
        "/stages/1/targetRegions",
        json!([]),
        "stages[1].targetRegions",
    );
    check(
        "/stages/1/gates/1/count",
        json!(0),
        "stages[1].gates[1].count",
    );
    check(
        "/stages/1/gates/1/expiresInHours",
        json!(0),
        "stages[1].gates[1].expiresInHours",
    );
    check(
        "/stages/1/gates/1/name",
        json!("tests"),
        "stages[1].gates[1].name",
    );
    let boots = |region: &str, validators: Value| json!({ "type": "DeployAndCheck", "name": "b", "region": region, "validators": validators });
    let empty = json!([{ "type": "Shell", "name": "x", "inline": [] }]);
    check(
        "/stages/1/gates/1",
        boots("mars", empty.clone()),
        "stages[1].gates[1].region",
    );
    check(
        "/stages/1/gates/1",
        boots("south", json!([])),
        "stages[1].gates[1].validators",
    );
    check(
        "/stages/1/gates/1",
        boots("south", empty),
        "stages[1].gates[1].validators[0]",
    );
    let mut properties = chain.properties.clone();
    properties["stages"][0]["gates"] = json!([{ "type": "TestsPassed", "name": "t" }]);
    assert!(check_pipeline(&properties).is_err());
}
