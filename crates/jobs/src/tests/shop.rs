//! A small world with a job in it: two pure steps, two with effects, and a shelf on which the effects are seen.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use access::{Action, Assignment, Identity, Permit, RoleId, SecretHash, authorize};
use async_trait::async_trait;
use catalog::{
    AuthStore, Catalog, Clock, Draft, Installation, JobRow, ManualClock, NewInstallation, Outcome,
    Precondition, Record, SqliteCatalog, StoredSecret,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::Notify;
use wire::{AppId, PrincipalId, ResourceId, TenantId};

use crate::report::lock;
use crate::testing::Trial;
use crate::{JobContext, JobError, JobKind, OnUndo, StepError, StepHandle, step_key};

const OWNER: &str = "8e3af657-a8ff-443c-a75c-2fe8c4bcb635";

/// The world.
#[derive(Clone)]
pub struct Shop {
    pub catalog: Arc<SqliteCatalog>,
    pub clock: ManualClock,
    pub operator: Identity,
    pub clerk: Identity,
    pub shelf: Arc<Shelf>,
    assignment: ResourceId,
}

/// What survives a runner: effects, counts, and how the middle step behaves.
#[derive(Default)]
pub struct Shelf {
    pub goods: Mutex<BTreeMap<String, u32>>,
    pub made: Mutex<u32>,
    pub status: Mutex<String>,
    pub mood: Mutex<Mood>,
    pub begun: Notify,
    pub go_on: Notify,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Mood {
    #[default]
    Good,
    /// The first tries fail for now.
    Transient(u32),
    Panics,
    /// Waits until it is asked to stop.
    Waits,
    /// Waits, and does not hear that it is asked to stop.
    Deaf,
    /// Waits until the test lets it go on.
    Held,
    /// Its undo fails for good.
    NoWayBack,
}

pub struct Selling(Arc<Shelf>);

#[derive(Serialize, Deserialize)]
pub struct Order {
    pub article: String,
}

#[derive(Serialize, Deserialize)]
pub enum TakeBack {
    FromShelf(String),
    Notice,
}

#[async_trait]
impl JobKind for Selling {
    const NAME: &'static str = "selling";
    type Input = Order;
    type Undo = TakeBack;

    async fn run(&self, cx: &mut JobContext<TakeBack>, order: Order) -> Result<Value, JobError> {
        let shelf = &self.0;
        let article = &order.article;
        let made = cx
            .step("make", step_key("make", 1, article), |cx| async move {
                cx.log(format!("making {article}"));
                cx.detail(json!({ "weight": 3 }));
                *lock(&shelf.made) += 1;
                self.behave(&cx).await?;
                Ok(format!("{article}!"))
            })
            .await?;
        let good = made.value.clone();
        cx.step_once(
            "put",
            OnUndo::Call(TakeBack::FromShelf(good.clone())),
            |cx| async move {
                cx.permit(&Action::new("Bullion.Factory/regions/write"), cx.scope())
                    .await?;
                lock(&shelf.goods).insert(good, 1);
                Ok(())
            },
        )
        .await?;
        let price = cx
            .step("price", step_key("price", 1, &made.value), |_| async {
                Ok(7)
            })
            .await?;
        cx.step_once("notice", OnUndo::Call(TakeBack::Notice), |_| async move {
            lock(&shelf.goods).insert("notice".into(), price.value);
            Ok(())
        })
        .await?;
        Ok(json!(made.value))
    }

    async fn undo(
        &self,
        _: &StepHandle,
        undo: TakeBack,
        _: Option<Value>,
    ) -> Result<(), StepError> {
        if *lock(&self.0.mood) == Mood::NoWayBack {
            return Err(StepError::failed("Stuck", "it sticks to the shelf"));
        }
        let name = match undo {
            TakeBack::FromShelf(name) => name,
            TakeBack::Notice => "notice".into(),
        };
        lock(&self.0.goods).remove(&name);
        Ok(())
    }

    async fn settle(
        &self,
        _: &StepHandle,
        order: &Order,
        outcome: &Outcome,
    ) -> Result<(), StepError> {
        let word = match outcome {
            Outcome::Succeeded(_) => "sold",
            Outcome::Failed(_) => "failed",
            Outcome::Canceled(_) => "canceled",
        };
        *lock(&self.0.status) = format!("{} {word}", order.article);
        Ok(())
    }
}

impl Selling {
    async fn behave(&self, cx: &StepHandle) -> Result<(), StepError> {
        let mood = *lock(&self.0.mood);
        self.0.begun.notify_one();
        match mood {
            Mood::Good | Mood::NoWayBack => Ok(()),
            Mood::Transient(0) => Ok(()),
            Mood::Transient(left) => {
                *lock(&self.0.mood) = Mood::Transient(left - 1);
                Err(StepError::transient("Busy", "the workshop is busy"))
            }
            Mood::Panics => panic!("a panic on purpose"),
            Mood::Waits => {
                cx.until_cancelled().await;
                Err(StepError::canceled())
            }
            Mood::Deaf => std::future::pending().await,
            Mood::Held => {
                self.0.go_on.notified().await;
                Ok(())
            }
        }
    }
}

impl Shop {
    pub async fn new() -> Shop {
        let clock = ManualClock::default();
        let catalog = Arc::new(
            SqliteCatalog::in_memory(Arc::new(clock.clone()))
                .await
                .expect("open"),
        );
        let (tenant, app) = (TenantId::random(), AppId::random());
        let operator = Identity {
            tenant,
            principal: PrincipalId::random(),
            app,
        };
        let secret = StoredSecret {
            id: uuid::Uuid::new_v4(),
            name: "x".into(),
            hint: "x".into(),
            hash: SecretHash::from_stored("x".into()),
            made_at: clock.now(),
            expires_at: clock.now(),
        };
        let installation = Installation {
            tenant,
            operator_app: app,
            operator_principal: operator.principal,
        };
        let new = NewInstallation {
            installation,
            tenant_name: "t".into(),
            tenant_display_name: "T".into(),
            operator_name: "operator".into(),
            secret,
        };
        catalog.install(new).await.expect("install");
        let clerk = Identity {
            tenant,
            principal: PrincipalId::random(),
            app: AppId::random(),
        };
        let name = uuid::Uuid::new_v4().to_string();
        let assignment =
            ResourceId::root().extension("Microsoft.Authorization", "roleAssignments", &name);
        let assignment = assignment.expect("an id");
        let shop = Shop {
            catalog,
            clock,
            operator,
            clerk,
            shelf: Arc::default(),
            assignment,
        };
        shop.employ().await;
        shop
    }

    pub fn mood(self, mood: Mood) -> Shop {
        *lock(&self.shelf.mood) = mood;
        self
    }

    /// Gives the clerk rights, in whose name jobs run.
    async fn employ(&self) {
        let record = Record::RoleAssignment(Assignment {
            tenant: self.clerk.tenant,
            principal: self.clerk.principal,
            role: RoleId::new(OWNER),
            scope: ResourceId::root(),
        });
        let permit = self.permit_for(&self.operator, &self.assignment).await;
        self.catalog
            .put(
                &permit,
                Draft::new(json!({})).record(record),
                Precondition::None,
            )
            .await
            .expect("assign");
    }

    /// Takes them away.
    pub async fn dismiss(&self) {
        let permit = self.permit_for(&self.operator, &self.assignment).await;
        self.catalog
            .delete(&permit, Precondition::None)
            .await
            .expect("dismiss");
    }

    /// Puts a lock on everything.
    pub async fn shut(&self) {
        let id = ResourceId::root().extension("Microsoft.Authorization", "locks", "shut");
        let permit = self.permit_for(&self.operator, &id.expect("an id")).await;
        let draft = Draft::new(json!({})).record(Record::Lock(access::LockLevel::ReadOnly));
        let put = self.catalog.put(&permit, draft, Precondition::None).await;
        put.expect("lock");
    }

    async fn permit_for(&self, identity: &Identity, scope: &ResourceId) -> Permit {
        let grants = self
            .catalog
            .grants(identity.tenant, identity.principal)
            .await
            .expect("grants");
        let action = Action::new(format!("{}/write", scope.resource_type()));
        authorize(identity, &grants, &action, scope, identity.tenant).expect("a permit")
    }
}

#[async_trait]
impl Trial for Shop {
    type Kind = Selling;

    fn kind(&self) -> Selling {
        Selling(self.shelf.clone())
    }

    fn input(&self) -> Order {
        Order {
            article: "pan".into(),
        }
    }

    fn permit(&self) -> Permit {
        let scope = ResourceId::root()
            .extension("Bullion.Factory", "regions", "north")
            .expect("an id");
        let role = RoleId::new(OWNER);
        let Identity {
            tenant, principal, ..
        } = self.clerk;
        let assignment = Assignment {
            tenant,
            principal,
            role,
            scope: ResourceId::root(),
        };
        let grants = access::Grants::new(tenant, principal, vec![assignment]);
        let action = Action::new("Bullion.Factory/regions/write");
        authorize(&self.clerk, &grants, &action, &scope, tenant).expect("a permit")
    }

    fn catalog(&self) -> Arc<SqliteCatalog> {
        self.catalog.clone()
    }

    fn clock(&self) -> ManualClock {
        self.clock.clone()
    }

    async fn check_done(&self, job: &JobRow) {
        assert_eq!(job.output, Some(json!("pan!")));
        assert_eq!(
            *lock(&self.shelf.goods),
            BTreeMap::from([("pan!".into(), 1), ("notice".into(), 7)])
        );
        assert_eq!(*lock(&self.shelf.status), "pan sold");
    }

    async fn check_undone(&self, job: &JobRow) {
        assert!(job.failure.is_some());
        assert_eq!(*lock(&self.shelf.goods), BTreeMap::new());
        assert_eq!(*lock(&self.shelf.status), "pan failed");
    }
}
