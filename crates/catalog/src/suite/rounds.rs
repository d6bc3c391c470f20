//! Rounds: everything comes up in the end, what was written comes up at once, and nothing twice.

use crate::{Position, Reading, Round, Stretch};
use access::{Action, Permit, SystemReason};
use wire::{ResourceId, ResourceType, TenantId};

use super::Backend;
use super::world::World;
use crate::clock::ManualClock;
use crate::resource::Precondition;

const KIND: &str = "Microsoft.Compute/galleries";
const SHORT: Stretch = Stretch { calm: 2, behind: 3 };

pub(super) async fn run<B: Backend>(fresh: &impl AsyncFn(ManualClock) -> B) {
    everything_comes_up_and_what_was_written_first(&World::new(fresh).await).await;
    few_are_shown_whole_each_time(&World::new(fresh).await).await;
    a_position_of_another_database_begins_again(fresh).await;
}

fn path(name: &str) -> String {
    format!("/resourceGroups/rg/providers/{KIND}/{name}")
}

fn permit(tenant: TenantId) -> Permit {
    let action = Action::new(format!("{KIND}/read"));
    Permit::system(SystemReason::Reconcile, action, ResourceId::root(), tenant)
}

/// The names that one round shows, in its order.
async fn round<B: Backend>(
    world: &World<B>,
    stretch: Stretch,
    position: &mut Position,
    also: &[&str],
) -> Vec<String> {
    let reading = Reading {
        catalog: &world.catalog,
        feed: &world.catalog,
        kind: ResourceType::new(KIND),
        tenants: vec![world.tenant],
        permit: &permit,
        stretch,
    };
    let round = Round::begin(reading, position.clone()).await;
    let mut round = round.expect("a round");
    for name in also {
        round.also(world.tenant, world.id(&path(name)));
    }
    let mut names = Vec::new();
    while let Some(resources) = round.next().await.expect("resources") {
        names.extend(resources.iter().map(|one| one.id.name().to_owned()));
    }
    *position = round.end();
    names
}

async fn everything_comes_up_and_what_was_written_first<B: Backend>(world: &World<B>) {
    for n in 0..7 {
        world.put(&path(&format!("g{n}"))).await;
    }
    let mut position = Position::default();
    let check = async |position: &mut Position, also: &[&str], expected: &[&str]| {
        assert_eq!(round(world, SHORT, position, also).await, expected);
    };
    check(&mut position, &[], &["g0", "g1", "g2"]).await;
    world.put(&path("g1")).await;
    check(&mut position, &[], &["g1", "g3", "g4", "g5"]).await;
    assert!(!position.is_caught_up());
    check(&mut position, &[], &["g6"]).await;
    assert!(position.is_caught_up());
    check(&mut position, &[], &["g0", "g1"]).await;
    // What is shown by name is not shown again, and what is gone is not shown.
    world.put(&path("g3")).await;
    world.put(&path("g6")).await;
    let gone = world.write(&world.id(&path("g6"))).await;
    let removed = world.catalog.delete(&gone, Precondition::None).await;
    removed.expect("delete");
    check(&mut position, &["g5", "none", "g5"], &["g5", "g3", "g2"]).await;
    position.look_again();
    check(&mut position, &[], &["g0", "g1", "g2"]).await;
    check(&mut position, &[], &["g3", "g4", "g5"]).await;
    assert!(position.is_caught_up());
}

async fn few_are_shown_whole_each_time<B: Backend>(world: &World<B>) {
    let mut position = Position::default();
    for expected in [&["a"][..], &["a", "b"], &["a", "b", "c"]] {
        world.put(&path(expected.last().expect("a name"))).await;
        let mut seen = round(world, Stretch::default(), &mut position, &[]).await;
        seen.sort();
        assert_eq!(seen, expected);
    }
}

async fn a_position_of_another_database_begins_again<B: Backend>(
    fresh: &impl AsyncFn(ManualClock) -> B,
) {
    let (long, short) = (World::new(fresh).await, World::new(fresh).await);
    for n in 0..9 {
        long.put(&path(&format!("g{n}"))).await;
    }
    let mut position = Position::default();
    while !position.is_caught_up() {
        round(&long, SHORT, &mut position, &[]).await;
    }
    short.put(&path("a")).await;
    let seen = round(&short, SHORT, &mut position, &[]).await;
    assert_eq!(seen, ["a"]);
}
