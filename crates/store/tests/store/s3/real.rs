//! A real server that the tests are given; without one nothing here is tested. It must not care what a bucket holds.

use std::io::{Seek, SeekFrom, Write};

use disk::MemDisk;
use object_store::ClientOptions;
use object_store::client::{HttpConnector as _, ReqwestConnector};
use rustix::process::{Pid, Signal, kill_process};
use store::Store;
use store::place::{At, Limits, Parcel, There};

use super::{big, lives};
use crate::{disk_of, options, whole};

/// Where it is, as an address without a prefix; set by `cargo xtask test`.
const REAL: &str = "BULLION_TEST_S3";
/// The process of one of its nodes, which may be killed: the others have copies of everything.
const NODE: &str = "BULLION_TEST_S3_NODE";

/// A bucket and where nothing is in it yet, and settings.
fn given() -> Option<(String, String)> {
    let real = std::env::var(REAL).ok()?;
    let (bucket, settings) = real.split_once('?').expect("an address with settings");
    let prefix = format!("{bucket}/{:016x}", rand::random::<u64>());
    Some((prefix, settings.to_owned()))
}

fn place() -> Option<At> {
    let (prefix, settings) = given()?;
    Some(
        format!("{prefix}?{settings}")
            .parse()
            .expect("an address of a place"),
    )
}

#[test]
fn it_is_a_place() {
    let Some(at) = place() else { return };
    crate::places::check(&*at.open().expect("open"));
}

#[test]
fn a_store_lives_in_it() {
    let Some(at) = place() else { return };
    lives(&at, Limits::default());
}

/// A whole file of several parts, its mark, and what is there before and after.
#[test]
fn a_file_is_sent_to_it() {
    let Some((prefix, settings)) = given() else {
        return;
    };
    // As a tenant would send them: a parcel takes no file of keys that an address names.
    let (keys, settings): (Vec<&str>, Vec<&str>) = settings
        .split('&')
        .partition(|setting| setting.starts_with("credentials="));
    let keys = keys.first().expect("a file of keys");
    let keys = keys.trim_start_matches("credentials=");
    let keys = std::fs::read_to_string(keys).expect("read the keys");
    let address = format!("{prefix}/disk.raw?{}", settings.join("&"));
    let options = ClientOptions::new().with_allow_http(true);
    let courier = ReqwestConnector::default().connect(&options);
    let courier = Some(courier.expect("a client"));
    let parcel = Parcel::new(&address, &keys, &Limits::default(), courier).expect("an address");
    assert_eq!(parcel.there("one").expect("ask"), There::Nothing);
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(&vec![7; 70 << 20]).expect("write");
    file.seek(SeekFrom::Start(0)).expect("seek");
    assert_eq!(parcel.send(file, "one").expect("send"), 70 << 20);
    assert_eq!(parcel.there("one").expect("ask"), There::Same);
    assert_eq!(parcel.there("two").expect("ask"), There::Other);
}

#[test]
fn versions_outlive_a_node_of_the_server() {
    let (Some(at), Ok(node)) = (place(), std::env::var(NODE)) else {
        return;
    };
    let open = || Store::open_place(at.open().expect("open"), options()).expect("open a store");
    let read = |store: &Store, digest: &_, disk: &MemDisk| {
        let found = whole(&store.disk(digest).expect("disk"));
        assert_eq!(found, disk.as_bytes());
    };
    let (first, second) = (big(), disk_of(&[1, 2, 3, 4, 5], 0));
    let store = open();
    let before = store.ingest(&first).expect("ingest").digest;
    let node = Pid::from_raw(node.parse().expect("a process id")).expect("a process");
    kill_process(node, Signal::KILL).expect("kill the node");
    read(&store, &before, &first);
    let after = store.ingest(&second).expect("ingest").digest;
    assert!(store.verify(&before).expect("verify").is_sound());
    drop(store);
    let store = open();
    read(&store, &before, &first);
    read(&store, &after, &second);
}
