//! The real program without machines: it starts on nothing, does what it is asked and says what is wrong. Every test
//! shows command, exit code and both streams.

// A test starts programs as a user does, and says why it failed.
#![allow(clippy::disallowed_methods, clippy::print_stderr)]

mod stores;
mod support;
mod tattoos;

use std::net::TcpListener;

use support::{Installation, Said, command, copy_example, edit};

#[test]
fn a_factory_is_applied_once_and_is_still_there_after_a_kill() {
    let mut installation = Installation::new();
    let folder = installation.beside("factory");
    copy_example(&folder);
    let folder = folder.to_string_lossy();

    let plan = ["plan", &folder, "--detailed-exitcode"];
    assert_eq!(
        installation.run(&plan).code,
        Some(2),
        "everything is to be created"
    );
    let applied = installation.json(&["apply", &folder, "--yes"]);
    assert!(
        applied["applied"]["create"].as_u64() > Some(5),
        "{applied:#}"
    );
    let again = installation.json(&["apply", &folder, "--yes"]);
    for what in ["create", "change", "delete"] {
        assert_eq!(again["applied"][what], 0, "{again:#}");
    }
    installation.kill();
    installation.start();
    installation.run(&plan).succeeded();
    let images = installation.run(&["image", "list"]).succeeded();
    assert!(images.stdout.contains("debian-12"), "{images:#?}");

    installation.stop();
    assert!(
        !installation.data().join("server.json").exists(),
        "an orderly stop leaves no address behind"
    );
}

/// A mistake in the folder: where it is, what is told, and that nothing came of it.
#[track_caller]
fn check_mistake(installation: &Installation, file: &str, from: &str, to: &str, told: &[&str]) {
    let folder = installation.beside(&format!(
        "mistake-{}",
        told.join("-").replace(['/', ' ', '`'], "")
    ));
    copy_example(&folder);
    edit(&folder.join(file), from, to);
    let folder = folder.to_string_lossy();
    installation
        .run(&["apply", &folder, "--yes"])
        .failed()
        .tells(told)
        .tells(&["nothing was created"]);
    let regions = installation.json(&["rest", "GET", "/providers/Bullion.Factory/regions"]);
    assert_eq!(
        regions["value"],
        serde_json::json!([]),
        "something was created"
    );
}

#[test]
fn a_mistake_in_the_folder_is_told_with_its_place_before_anything_is_created() {
    let installation = Installation::new();
    let recipe = "golden-debian.yaml";
    let check = |file: &str, from: &str, to: &str, told: &[&str]| {
        check_mistake(&installation, file, from, to, told)
    };
    check(
        recipe,
        "    mode: \"0644\"",
        "    mood: \"0644\"",
        &["golden-debian.yaml:23", "mood", "mode"],
    );
    check(
        recipe,
        "packages: [chrony]",
        "packages: chrony",
        &["golden-debian.yaml:18", "packages"],
    );
    check(
        recipe,
        "script: scripts/harden.sh",
        "script: scripts/soften.sh",
        &["golden-debian.yaml:26", "soften.sh"],
    );
    check(
        "gallery.yaml",
        "resourceGroup: images",
        "resourceGroup: pictures",
        &["gallery.yaml:6", "pictures", "images"],
    );
}

/// A server that cannot start says why and what to do, and ends.
#[track_caller]
fn check_refused(said: Said, told: &[&str]) {
    said.failed().tells(told);
}

#[test]
fn a_server_that_cannot_start_says_why() {
    let mut installation = Installation::new();
    let serve = |data: &std::path::Path, address: &str| {
        let output = command()
            .args(["serve", "--listen", address, "--data"])
            .arg(data)
            .output();
        Said::from(output.expect("cannot start the program"))
    };
    check_refused(
        serve(&installation.data(), "127.0.0.1:0"),
        &["in use", "--data"],
    );

    let other = TcpListener::bind("127.0.0.1:0").expect("cannot listen");
    let address = other.local_addr().expect("it has an address").to_string();
    check_refused(
        serve(&installation.beside("second"), &address),
        &[&address, "--listen"],
    );

    installation.stop();
    std::fs::write(installation.data().join("bullion.toml"), "lisen = 1\n")
        .expect("cannot write a file");
    check_refused(
        serve(&installation.data(), "127.0.0.1:0"),
        &["bullion.toml", "lisen"],
    );
}

#[test]
fn who_may_not_or_cannot_sign_in_is_told_what_to_do() {
    let mut installation = Installation::new();
    let list = |installation: &Installation, secret: &str| {
        let mut list = command();
        list.args(["rest", "GET", "/providers/Bullion.Factory/regions"])
            .env("BULLION_PROFILE", installation.beside("profile.json"));
        if !secret.is_empty() {
            list.env("BULLION_CLIENT_SECRET", secret);
        }
        Said::from(list.output().expect("cannot start the program"))
    };
    list(&installation, "").succeeded();
    list(&installation, "guessed")
        .failed()
        .tells(&["hint:", "secret"]);
    installation.kill();
    list(&installation, "")
        .failed()
        .tells(&["hint:", "bullion serve"]);
}

/// Runs `bullion policy` over files: what stands on stdout, word for word, and the exit code.
#[track_caller]
fn check_policy(folder: &std::path::Path, args: &[&str], code: i32, stdout: &str) {
    let output = command()
        .arg("policy")
        .args(args)
        .current_dir(folder)
        .output()
        .expect("cannot start the program");
    let said = Said::from(output);
    assert_eq!(said.code, Some(code), "{said:#?}");
    assert_eq!(said.stdout, stdout, "{said:#?}");
    assert_eq!(said.stderr.is_empty(), code == 0, "{said:#?}");
}

#[test]
fn policies_are_checked_and_tested_without_a_server() {
    let folder = tempfile::tempdir().expect("cannot make a folder");
    let write = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).expect("cannot write a file");
    };
    std::fs::create_dir(folder.path().join("rules")).expect("cannot make a folder");
    write(
        "rules/tagged.json",
        r#"{"policyRule": { // an owner is asked for
            "if": {"field": "tags.owner", "exists": false}, "then": {"effect": "deny"}}}"#,
    );
    write(
        "wrong.json",
        r#"{"policyRule": {"if": {"field": "type", "is": 1}, "then": {"effect": "deny"}}}"#,
    );
    write(
        "cases.json",
        r#"{"cases": [
            {"id": "bare", "definitionPath": "tagged.json", "evaluation": "request",
             "resource": {"type": "Test/things"}, "expect": {"request": "deny"}},
            {"id": "owned", "definitionPath": "tagged.json",
             "resource": {"type": "Test/things", "tags": {"Owner": "me"}}, "expect": {"if": true}}]}"#,
    );
    check_policy(
        folder.path(),
        &["check", "rules"],
        0,
        "fine    rules/tagged.json (definition)\n1 passed, 0 failed\n",
    );
    check_policy(
        folder.path(),
        &["check", "wrong.json"],
        1,
        "refused wrong.json: policyRule.if.is: there is no condition `is`\n0 passed, 1 failed\n",
    );
    check_policy(
        folder.path(),
        &["test", "cases.json", "--definitions", "rules"],
        1,
        "failed owned: if: expected true, got false [policyRule.if: tags.owner = \"me\" exists false is false]\n\
         1 passed, 1 failed\n",
    );
}
