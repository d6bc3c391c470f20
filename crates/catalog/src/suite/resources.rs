//! Resources: put, get, delete, list; preconditions, unique names, pages.

use std::collections::BTreeMap;

use serde_json::json;
use wire::{Location, ProvisioningState, ResourceId, ResourceType};

use super::Backend;
use super::world::World;
use crate::auth::Record;
use crate::clock::ManualClock;
use crate::error::CatalogError;
use crate::pages::Pages;
use crate::resource::{
    Continuation, Draft, Etag, GET_MANY_MAX, PageRequest, Precondition, UniqueKey,
};

const GALLERY: &str = "/resourceGroups/rg/providers/Microsoft.Compute/galleries/g";

pub(super) async fn run<B: Backend>(fresh: &impl AsyncFn(ManualClock) -> B) {
    what_is_put_is_got(&World::new(fresh).await).await;
    preconditions(&World::new(fresh).await).await;
    parents_and_children(&World::new(fresh).await).await;
    names_are_unique(&World::new(fresh).await).await;
    versions_list_by_number(&World::new(fresh).await).await;
    pages_join_to_the_whole(&World::new(fresh).await).await;
    lists_show_what_the_permit_shows(&World::new(fresh).await).await;
    many_are_got_by_id(&World::new(fresh).await).await;
    a_read_permit_writes_nothing(&World::new(fresh).await).await;
    resources_are_counted_by_place(&World::new(fresh).await).await;
    members_are_listed_alone(&World::new(fresh).await).await;
}

async fn members_are_listed_alone<B: Backend>(world: &World<B>) {
    const MACHINES: &str = "Microsoft.Compute/virtualMachines";
    let of = ResourceType::new(MACHINES);
    for (name, properties) in [
        (
            "a",
            json!({ "image": { "id": "/x", "n": 1.5 }, "text": "a\0b" }),
        ),
        ("b", json!({ "image": { "id": { "deep": ["ü", null] } } })),
        ("c", json!({ "image": "none" })),
    ] {
        let id = world.id(&format!("/resourceGroups/rg/providers/{MACHINES}/{name}"));
        let (permit, draft) = (world.write(&id).await, Draft::new(properties));
        let put = world.catalog.put(&permit, draft, Precondition::None);
        put.await.expect("put");
    }
    let permit = world
        .list_permit(&world.operator, MACHINES, &world.id(""))
        .await;
    let expected = [
        ("a", vec![json!("/x"), json!(1.5)]),
        ("b", vec![json!({ "deep": ["ü", null] }), json!(null)]),
        ("c", vec![json!(null), json!(null)]),
    ];
    for size in 1..=4 {
        let pages = Pages::of(&world.catalog, &permit, MACHINES).by(size);
        let found = pages.members(&["image.id", "image.n"]).await.expect("list");
        let seen = found
            .iter()
            .map(|one| (one.id.name(), one.members.clone()))
            .collect::<Vec<_>>();
        assert_eq!(seen, expected, "by {size}");
    }
    let nothing = world
        .catalog
        .list_members(&permit, &of, &[], PageRequest::first(1))
        .await
        .expect("list");
    assert_eq!(nothing.found[0].members, [json!(null); 0]);
}

async fn what_is_put_is_got<B: Backend>(world: &World<B>) {
    let id = world.id("/resourceGroups/rg/providers/Microsoft.Compute/galleries/MyGallery");
    let mut draft =
        Draft::new(json!({"description": "ü", "n": 1.5, "deep": {"b": [1, null], "a": true}}))
            .location("North Europe")
            .tags(BTreeMap::from([("Owner".into(), "me".into())]))
            .state(ProvisioningState::Creating);
    draft.extra.insert("sku".into(), json!({"name": "x"}));
    let put = world
        .catalog
        .put(&world.write(&id).await, draft, Precondition::None)
        .await
        .expect("put");
    assert!(put.created);
    let other_case =
        ResourceId::parse(&id.to_string().replace("MyGallery", "MYGALLERY")).expect("an id");
    let got = world
        .catalog
        .get(&world.read(&other_case).await)
        .await
        .expect("get");
    assert_eq!(got, put.resource);
    assert_eq!(got.id.name(), "MyGallery");
    assert_eq!(got.system.created_by, world.operator.principal.to_string());

    world.clock.advance(super::world::DAY);
    let draft = Draft::from_resource(got.clone()).state(ProvisioningState::Succeeded);
    let again = world
        .catalog
        .put(&world.write(&other_case).await, draft, Precondition::None)
        .await
        .expect("put");
    assert!(!again.created);
    assert_eq!(
        again.resource.id.name(),
        "MyGallery",
        "the first casing is kept"
    );
    assert_eq!(again.resource.properties, got.properties);
    assert_eq!(again.resource.extra, got.extra);
    assert_ne!(again.resource.etag, got.etag);
    assert_eq!(again.resource.system.created_at, got.system.created_at);
    assert!(again.resource.system.changed_at > got.system.changed_at);
}

/// `put` or `delete` under each precondition, with and without the resource there.
async fn preconditions<B: Backend>(world: &World<B>) {
    let id = world.id(GALLERY);
    let permit = world.write(&id).await;
    let put = async |precondition| {
        world
            .catalog
            .put(&permit, Draft::new(json!({})), precondition)
            .await
    };
    let stale: Etag = "\"stale\"".parse().expect("an etag");
    for precondition in [Precondition::Present, Precondition::Match(stale.clone())] {
        let refused = put(precondition).await;
        assert!(
            matches!(refused, Err(CatalogError::Precondition { found: None, .. })),
            "{refused:?}"
        );
    }
    let first = put(Precondition::Absent).await.expect("put").resource.etag;
    let refused = put(Precondition::Absent).await;
    assert!(
        matches!(
            refused,
            Err(CatalogError::Precondition { found: Some(_), .. })
        ),
        "{refused:?}"
    );
    let sent: Etag = first.to_string().parse().expect("an etag");
    let second = put(Precondition::Match(sent))
        .await
        .expect("put")
        .resource
        .etag;
    put(Precondition::Match(first.clone()))
        .await
        .expect_err("the etag has changed");
    let refused = world
        .catalog
        .delete(&permit, Precondition::Match(first))
        .await;
    assert!(
        matches!(refused, Err(CatalogError::Precondition { .. })),
        "{refused:?}"
    );
    world
        .catalog
        .delete(&permit, Precondition::Match(second))
        .await
        .expect("delete");
    let gone = world.catalog.delete(&permit, Precondition::None).await;
    assert!(
        matches!(gone, Err(CatalogError::NotFound { .. })),
        "{gone:?}"
    );
}

async fn parents_and_children<B: Backend>(world: &World<B>) {
    let definition = world.id(&format!("{GALLERY}/images/d"));
    let permit = world.write(&definition).await;
    let orphan = world
        .catalog
        .put(&permit, Draft::new(json!({})), Precondition::None)
        .await;
    assert!(
        matches!(orphan, Err(CatalogError::ParentMissing { .. })),
        "{orphan:?}"
    );

    world.put(GALLERY).await;
    world
        .put("/resourceGroups/rg/providers/Microsoft.Compute/galleries/g2")
        .await;
    let gallery = world.write(&world.id(GALLERY)).await;
    assert!(
        !world.catalog.has_children(&gallery).await.expect("look"),
        "a sibling with a longer name is no child"
    );
    world
        .catalog
        .put(&permit, Draft::new(json!({})), Precondition::None)
        .await
        .expect("put");
    assert!(world.catalog.has_children(&gallery).await.expect("look"));
    let refused = world.catalog.delete(&gallery, Precondition::None).await;
    assert!(
        matches!(refused, Err(CatalogError::HasChildren { .. })),
        "{refused:?}"
    );

    world
        .put(&format!("{GALLERY}/images/d/versions/1.0.0"))
        .await;
    let below = world
        .catalog
        .list_below(&gallery, PageRequest::largest())
        .await
        .expect("list");
    assert_eq!(below.resources.len(), 2);
    let removed = world
        .catalog
        .delete_tree(&gallery, Precondition::None)
        .await
        .expect("delete");
    assert_eq!(removed.len(), 3);
    assert_eq!(removed[0], world.id(GALLERY));
    world
        .catalog
        .get(&world.read(&definition).await)
        .await
        .expect_err("gone");
    let other = world.id("/resourceGroups/rg/providers/Microsoft.Compute/galleries/g2");
    world
        .catalog
        .get(&world.read(&other).await)
        .await
        .expect("the sibling is there");
}

async fn names_are_unique<B: Backend>(world: &World<B>) {
    world.put("/resourceGroups/other").await;
    let in_group = |group: &str| {
        world.id(&format!(
            "/resourceGroups/{group}/providers/Microsoft.Compute/galleries/g"
        ))
    };
    let key = |name: &str| UniqueKey::new("gallery", &[&world.subscription.to_string(), name]);
    let put = async |id: &ResourceId, name: &str| {
        let draft = Draft::new(json!({})).unique(key(name));
        world
            .catalog
            .put(&world.write(id).await, draft, Precondition::None)
            .await
    };
    let (first, second) = (in_group("rg"), in_group("other"));
    put(&first, "G").await.expect("put");
    put(&first, "g").await.expect("one's own name is free");
    let taken = put(&second, "g").await;
    assert!(
        matches!(&taken, Err(CatalogError::Taken { holder, .. }) if *holder == first),
        "{taken:?}"
    );
    let nothing = world.catalog.get(&world.read(&second).await).await;
    assert!(
        matches!(nothing, Err(CatalogError::NotFound { .. })),
        "a refused put stores nothing"
    );

    let plain = Draft::new(json!({"changed": true}));
    world
        .catalog
        .put(&world.write(&first).await, plain, Precondition::None)
        .await
        .expect("put");
    put(&second, "g")
        .await
        .expect_err("a put that names no key keeps those that are held");
    world
        .catalog
        .delete(&world.write(&first).await, Precondition::None)
        .await
        .expect("delete");
    put(&second, "g")
        .await
        .expect("a deleted resource's name is free");
    assert_ne!(
        UniqueKey::new("s", &["ab", "c"]),
        UniqueKey::new("s", &["a", "bc"])
    );
}

async fn versions_list_by_number<B: Backend>(world: &World<B>) {
    world.put(GALLERY).await;
    for definition in ["d", "d.x"] {
        world.put(&format!("{GALLERY}/images/{definition}")).await;
        for version in ["10.0.0", "1.10.0", "1.9.0", "1.9.10", "1.9.9"] {
            world
                .put(&format!("{GALLERY}/images/{definition}/versions/{version}"))
                .await;
        }
    }
    let scope = world.id(&format!("{GALLERY}/images/d"));
    let names = names(
        world,
        &scope,
        "Microsoft.Compute/galleries/images/versions",
        100,
    )
    .await;
    assert_eq!(names, ["1.9.0", "1.9.9", "1.9.10", "1.10.0", "10.0.0"]);
    let one = world.id(&format!("{GALLERY}/images/d/versions/1.9.9"));
    assert_eq!(
        self::names(
            world,
            &one,
            "microsoft.compute/GALLERIES/images/versions",
            9
        )
        .await,
        ["1.9.9"]
    );
}

async fn pages_join_to_the_whole<B: Backend>(world: &World<B>) {
    let kind = "Microsoft.Compute/galleries";
    let mut expected = Vec::new();
    for n in 0..7 {
        let name = format!("g{n}");
        world
            .put(&format!("/resourceGroups/rg/providers/{kind}/{name}"))
            .await;
        expected.push(name);
    }
    for limit in [1, 2, 3, 7, 8] {
        assert_eq!(
            names(world, &world.id(""), kind, limit).await,
            expected,
            "pages of {limit}"
        );
        let permit = world.read(&world.id("")).await;
        let pages = Pages::of(&world.catalog, &permit, kind).by(limit);
        let all = pages.all().await.expect("all pages");
        let all: Vec<&str> = all.iter().map(|one| one.id.name()).collect();
        assert_eq!(all, expected, "all by pages of {limit}");
    }
    for bad in ["", "1", "1zz", "2aa", "1616"] {
        assert!(
            matches!(bad.parse::<Continuation>(), Err(CatalogError::BadToken)),
            "{bad}"
        );
    }
}

async fn lists_show_what_the_permit_shows<B: Backend>(world: &World<B>) {
    let kind = "Microsoft.Compute/galleries";
    for group in ["a", "b"] {
        world.put(&format!("/resourceGroups/{group}")).await;
        world
            .put(&format!("/resourceGroups/{group}/providers/{kind}/{group}"))
            .await;
    }
    let reader = super::auth::reader_at(world, &world.id("/resourceGroups/b")).await;
    let permit = world.list_permit(&reader, kind, &world.id("")).await;
    let page = world
        .catalog
        .list(&permit, &ResourceType::new(kind), PageRequest::largest())
        .await
        .expect("list");
    let names: Vec<&str> = page
        .resources
        .iter()
        .map(|resource| resource.id.name())
        .collect();
    assert_eq!(names, ["b"]);
}

async fn many_are_got_by_id<B: Backend>(world: &World<B>) {
    let kind = "Microsoft.Compute/galleries";
    for group in ["a", "b"] {
        world.put(&format!("/resourceGroups/{group}")).await;
        world
            .put(&format!("/resourceGroups/{group}/providers/{kind}/{group}"))
            .await;
    }
    let asked = [
        "/resourceGroups/b/providers/Microsoft.Compute/galleries/B",
        "/resourceGroups/a/providers/Microsoft.Compute/galleries/none",
        "/resourceGroups/a/providers/Microsoft.Compute/galleries/a",
        "/resourceGroups/b/providers/Microsoft.Compute/galleries/b",
    ]
    .map(|id| world.id(id));
    let names = async |scope: &str| -> Vec<String> {
        let permit = world.read(&world.id(scope)).await;
        let found = world.catalog.get_many(&permit, &asked).await.expect("get");
        found.iter().map(|one| one.id.name().to_owned()).collect()
    };
    assert_eq!(names("").await, ["a", "b"]);
    assert_eq!(names("/resourceGroups/b").await, ["b"]);
    let permit = world.read(&world.id("")).await;
    let nothing = world.catalog.get_many(&permit, &[]).await.expect("get");
    assert_eq!(nothing, []);
    let many = vec![world.id(""); GET_MANY_MAX + 1];
    let refused = world.catalog.get_many(&permit, &many).await;
    assert!(
        matches!(refused, Err(CatalogError::TooLarge { .. })),
        "{refused:?}"
    );
}

async fn a_read_permit_writes_nothing<B: Backend>(world: &World<B>) {
    let id = world.id(GALLERY);
    let permit = world.read(&id).await;
    let refused = world
        .catalog
        .put(&permit, Draft::new(json!({})), Precondition::None)
        .await;
    assert!(
        matches!(refused, Err(CatalogError::ReadOnlyPermit { .. })),
        "{refused:?}"
    );
    world.put(GALLERY).await;
    let refused = world.catalog.delete(&permit, Precondition::None).await;
    assert!(
        matches!(refused, Err(CatalogError::ReadOnlyPermit { .. })),
        "{refused:?}"
    );
    let draft = Draft::new(json!({})).record(Record::Subscription);
    let refused = world
        .catalog
        .put(&world.write(&id).await, draft, Precondition::None)
        .await;
    assert!(
        matches!(refused, Err(CatalogError::Mismatch { .. })),
        "{refused:?}"
    );
}

/// All names of a list, read in pages.
async fn names<B: Backend>(
    world: &World<B>,
    scope: &ResourceId,
    kind: &str,
    limit: usize,
) -> Vec<String> {
    const PAGES_MAX: usize = 100;
    let permit = world.list_permit(&world.operator, kind, scope).await;
    let mut names = Vec::new();
    let mut request = PageRequest::first(limit);
    for _ in 0..PAGES_MAX {
        let page = world
            .catalog
            .list(&permit, &ResourceType::new(kind), request)
            .await
            .expect("list");
        assert!(page.resources.len() <= limit);
        names.extend(
            page.resources
                .iter()
                .map(|resource| resource.id.name().to_owned()),
        );
        let Some(next) = page.next else { return names };
        // As it travels in a nextLink.
        request = PageRequest::first(limit).after(next.to_string().parse().expect("a token"));
    }
    panic!("the list does not end");
}

async fn resources_are_counted_by_place<B: Backend>(world: &World<B>) {
    for (name, location) in [("a", "East US"), ("b", "eastus"), ("c", "north")] {
        let rest = format!("/resourceGroups/rg/providers/Microsoft.Compute/galleries/{name}");
        let permit = world.write(&world.id(&rest)).await;
        let draft = Draft::new(json!({})).location(location);
        let put = world.catalog.put(&permit, draft, Precondition::None).await;
        put.expect("put");
    }
    let whole = world.write(&world.id("/resourceGroups/rg")).await;
    let kind = ResourceType::new("Microsoft.Compute/galleries");
    for (location, expected) in [("eastus", 2), ("EAST us", 2), ("north", 1), ("south", 0)] {
        let location = Location::new(location);
        let found = world
            .catalog
            .count(&whole.to_read_own(), &kind, Some(&location))
            .await;
        assert_eq!(found.expect("count"), expected, "{location}");
    }
    let one = world.id("/resourceGroups/rg/providers/Microsoft.Compute/galleries/a");
    let below = world.write(&one).await.to_read_own();
    let east = Location::new("eastus");
    let found = world.catalog.count(&below, &kind, Some(&east)).await;
    assert_eq!(found.expect("count"), 1);
}
