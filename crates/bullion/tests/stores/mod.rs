//! `bullion store` on folders, with no server anywhere: what a shell sees.

use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Said, command};

const MIB: usize = 1 << 20;

struct Place(TempDir);

impl Place {
    fn new() -> Place {
        let place = Place(tempfile::tempdir().expect("cannot make a folder"));
        place.ok(&["init", "--at", "one"]);
        place
    }

    fn run(&self, args: &[&str]) -> Said {
        let output = command()
            .arg("store")
            .args(args)
            .current_dir(self.0.path())
            .env("XDG_CONFIG_HOME", self.0.path().join("config"))
            .output();
        Said::from(output.expect("cannot start the program"))
    }

    fn ok(&self, args: &[&str]) -> Said {
        let said = self.run(args);
        assert_eq!(said.code, Some(0), "{args:?}: {said:#?}");
        said
    }

    fn json(&self, args: &[&str]) -> Value {
        let said = self.ok(&[args, &["--output", "json"]].concat());
        serde_json::from_str(&said.stdout).expect("stdout is JSON")
    }

    fn refused(&self, args: &[&str], code: i32, told: &[&str]) {
        let said = self.run(args);
        assert_eq!(said.code, Some(code), "{args:?}: {said:#?}");
        assert!(said.stdout.is_empty(), "{said:#?}");
        for text in told {
            assert!(said.stderr.contains(text), "{text:?} is not in {said:#?}");
        }
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.0.path().join(name), bytes).expect("cannot write a file");
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.0.path().join(name)).expect("cannot read a file")
    }

    fn exists(&self, name: &str) -> bool {
        Path::exists(&self.0.path().join(name))
    }
}

/// 3 MiB with noise at its start.
fn disk(seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = vec![0; 3 * MIB];
    for byte in &mut bytes[..300_000] {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        *byte = (state >> 56) as u8;
    }
    bytes
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().expect("a text")
}

#[test]
fn a_disk_goes_in_and_comes_out_in_every_format() {
    let place = Place::new();
    place.write("disk.raw", &disk(1));
    let put = place.json(&["put", "disk.raw", "--at", "one"]);
    assert_eq!(
        (text(&put, "format"), &put["logicalBytes"]),
        ("raw", &(3 * MIB).into())
    );
    assert!(put["newBytes"].as_u64() > Some(290_000) && put["cpuSeconds"].is_f64());
    let (id, digest) = (text(&put, "id"), text(&put, "digest"));
    assert!(digest.starts_with(&format!("bd1:{id}")));
    for format in ["raw", "qcow2", "vhd", "vhd-dynamic", "vhdx"] {
        let got = place.json(&[
            "get", id, format, "--format", format, "--verify", "--at", "one",
        ]);
        assert_eq!(
            (text(&got, "format"), &got["verified"]),
            (format, &true.into())
        );
        // What was written is told by its content, and is the same disk again.
        let again = place.json(&["put", format, "--at", "one"]);
        assert_eq!(
            (text(&again, "format"), text(&again, "digest")),
            (format, digest)
        );
        assert_eq!(again["newBytes"], 0);
        let said = place.run(&["get", id, "-", "--format", format, "--at", "one"]);
        assert_eq!(said.code, Some(0), "{format}: {}", said.stderr);
    }
    assert_eq!(place.read("raw"), disk(1));
    let listed = place.json(&["list", "--at", "one"]);
    assert_eq!(listed.as_array().map(Vec::len), Some(1));
    assert_eq!(place.json(&["scrub", "--at", "one"])[0]["sound"], true);
}

#[test]
fn disks_travel_by_folder_and_by_bundle() {
    let place = Place::new();
    place.ok(&["init", "--at", "two"]);
    place.ok(&["init", "--at", "three"]);
    place.write("first", &disk(1));
    let mut changed = disk(1);
    changed[100_000] ^= 1;
    place.write("second", &changed);
    let put = |name: &str| place.json(&["put", name, "--at", "one"]);
    let (first, second) = (put("first"), put("second"));
    let (first, second) = (text(&first, "id"), text(&second, "id"));

    let all = place.json(&["push", first, "--to", "two", "--at", "one"]);
    let part = place.json(&["push", second, "--to", "two", "--at", "one"]);
    assert!(part["movedBytes"].as_u64() < all["movedBytes"].as_u64());
    // Another domain seals the same blocks as other frames, so what it has is found by block, not by frame.
    assert_eq!(
        (&part["frames"], &part["framesPresent"]),
        (&1.into(), &0.into())
    );

    place.ok(&["push", first, "--to", "all.bundle", "--at", "one"]);
    let without = ["--without", first, "--at", "one"];
    place.ok(&[&["push", second, "--to", "part.bundle"], &without[..]].concat());
    place.refused(
        &["put", "part.bundle", "--at", "three"],
        1,
        &[
            "the store holds no disk",
            "hint: the bundle was made `--without` a disk",
        ],
    );
    place.ok(&["put", "all.bundle", "--at", "three"]);
    let taken = place.json(&["put", "part.bundle", "--at", "three"]);
    assert_eq!(text(&taken, "id"), second);
    place.ok(&["get", second, "back", "--at", "three"]);
    assert_eq!(place.read("back"), changed);
}

#[test]
fn a_damaged_store_is_repaired_from_another() {
    let place = Place::new();
    place.write("disk.raw", &disk(9));
    let taken = place.json(&["put", "disk.raw", "--at", "one"]);
    place.ok(&["init", "--at", "two"]);
    place.ok(&["push", text(&taken, "id"), "--to", "two", "--at", "one"]);
    let packs = place.0.path().join("two/packs");
    let pack = std::fs::read_dir(&packs)
        .expect("the packs")
        .next()
        .expect("a pack")
        .expect("a pack")
        .path();
    let mut bytes = std::fs::read(&pack).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    std::fs::write(&pack, bytes).expect("write");
    assert_eq!(place.run(&["scrub", "--at", "two"]).code, Some(1));
    let done = place.json(&["repair", "--at", "two", "--from", "one"]);
    assert_eq!(done["damagedFrames"], 1, "{done}");
    assert_eq!(done["disksIncomplete"], 0, "{done}");
    place.ok(&["scrub", "--at", "two"]);
    place.ok(&[
        "get",
        text(&taken, "id"),
        "back.raw",
        "--at",
        "two",
        "--verify",
    ]);
    assert_eq!(place.read("back.raw"), place.read("disk.raw"));
}

#[test]
fn what_is_deleted_gives_its_room_back() {
    let place = Place::new();
    place.write("disk", &disk(7));
    let put = place.json(&["put", "disk", "--at", "one"]);
    place.ok(&["delete", text(&put, "id"), "--at", "one"]);
    let waits = place.json(&["gc", "--at", "one"]);
    assert_eq!(
        (&waits["removedPacks"], &waits["waitingPacks"]),
        (&0.into(), &1.into())
    );
    let gone = place.json(&["gc", "--grace-hours", "0", "--at", "one"]);
    assert_eq!(
        (&gone["removedPacks"], &gone["waitingPacks"]),
        (&1.into(), &0.into())
    );
    assert_eq!(place.json(&["status", "--at", "one"])["packs"], 0);
}

#[test]
fn mistakes_are_told_with_what_to_do() {
    let place = Place::new();
    place.write("disk", &disk(3));
    let put = place.json(&["put", "disk", "--at", "one"]);
    let id = text(&put, "id");
    place.refused(
        &["init", "--at", "one"],
        1,
        &["there is a store in one already"],
    );
    place.refused(
        &["list", "--at", "none"],
        1,
        &["no store in none", "hint: ", "store init"],
    );
    place.refused(
        &["get", "ffffffff", "x", "--at", "one"],
        1,
        &["holds no disk", "store list"],
    );
    place.refused(&["get", "ff", "x", "--at", "one"], 2, &["too short"]);
    place.refused(
        &["get", id, "disk", "--at", "one"],
        1,
        &["`disk` exists already"],
    );
    place.refused(
        &["get", id, "-", "--verify", "--at", "one"],
        2,
        &["cannot be read back"],
    );
    place.refused(
        &["put", "disk", "--parent", id, "--at", "one"],
        1,
        &["is not qcow2", "hint: ", "leave `--parent` out"],
    );
    place.write("packed.gz", b"\x1f\x8b\x08rest of it");
    place.refused(
        &["put", "packed.gz", "--at", "one"],
        1,
        &["gzip", "decompress it first"],
    );
    place.write("cut.vhd", &{
        place.ok(&["get", id, "whole.vhd", "--format", "vhd", "--at", "one"]);
        place.read("whole.vhd")[MIB..].to_vec()
    });
    place.refused(
        &["put", "cut.vhd", "--at", "one"],
        1,
        &["shorter than its footer says"],
    );
    place.refused(
        &["put", "disk", "--max-size", "0", "--at", "one"],
        1,
        &["over the limit"],
    );
    place.refused(&["put", "disk"], 2, &["--at"]);
    // Nothing half-written is left anywhere.
    assert!(!place.exists("x") && !place.exists("x.partial"));
}

/// A `store serve` that runs, and the line that it said.
struct Serving(std::process::Child, Value);

impl Serving {
    fn start(place: &Place, args: &[&str]) -> Serving {
        let mut child = command()
            .args(["store", "serve", "--output", "json"])
            .env("XDG_CONFIG_HOME", place.0.path().join("config"))
            .args(args)
            .current_dir(place.0.path())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("cannot start the program");
        let said = Serving::line(&mut child);
        Serving(child, said)
    }

    /// Byte by byte: what comes after the line is the next one's.
    fn line(child: &mut std::process::Child) -> Value {
        let out = child.stdout.as_mut().expect("it is piped");
        let mut line = Vec::new();
        for byte in std::io::Read::bytes(out) {
            match byte.expect("cannot read its output") {
                b'\n' => break,
                byte => line.push(byte),
            }
        }
        serde_json::from_slice(&line).expect("a line of JSON")
    }

    fn client(&self, place: &Place) -> nbd::Client {
        nbd::Client::connect_unix(&place.0.path().join("s"), "").expect("cannot connect")
    }

    /// Ends it as Ctrl-C does.
    fn stop(mut self) -> Value {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("cannot signal");
        let said = Serving::line(&mut self.0);
        assert!(self.0.wait().expect("it ends").success());
        said
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It has ended, unless a test failed before.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_disk_is_served_and_what_is_written_becomes_another() {
    let place = Place::new();
    let mut bytes = disk(1);
    place.write("disk.raw", &bytes);
    let id = text(&place.json(&["put", "disk.raw", "--at", "one"]), "id").to_owned();
    let serve = [&id, "--at", "one", "--socket", "s"];
    let serving = Serving::start(&place, &[&serve[..], &["--record-trace"]].concat());
    let offered = &serving.1["serving"][0];
    assert_eq!(
        (text(offered, "id"), &offered["writable"]),
        (id.as_str(), &false.into())
    );
    let url = offered["urls"][0].as_str().expect("a URL");
    assert!(
        url.starts_with(&format!("nbd+unix:///{id}?socket=/")),
        "{url}"
    );
    let mut client = serving.client(&place);
    assert!(client.read(0, 3 * MIB as u32).expect("read") == bytes);
    drop(client);
    let ended = serving.stop();
    assert!(
        ended["ended"]["tracedBytes"].as_u64() > Some(290_000),
        "{ended}"
    );
    assert!(!place.exists("s"), "the socket is gone");
    assert!(place.exists("one/traces"));

    let serving = Serving::start(&place, &[&serve[..], &["--changes", "vm.disk"]].concat());
    let mut client = serving.client(&place);
    client.write(1_000_000, &[7; 5000]).expect("write");
    bytes[1_000_000..1_005_000].fill(7);
    client.zero(0, 8192).expect("zero");
    bytes[..8192].fill(0);
    drop(client);
    assert_eq!(serving.stop()["ended"]["changedBytes"], 4 * 4096);
    let child = place.json(&["put", "vm.disk", "--at", "one"]);
    place.ok(&["get", text(&child, "id"), "child.raw", "--at", "one"]);
    assert!(place.read("child.raw") == bytes);

    place.refused(&["serve", &id, "--at", "one"], 2, &["--socket"]);
    let listen = ["serve", &id, "--at", "one", "--listen", "127.0.0.1:0"];
    place.refused(&listen, 2, &["--certificate"]);
}
