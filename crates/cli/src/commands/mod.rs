//! The commands: each turns its arguments into requests and the answers into output.

mod app;
mod build;
mod compliance;
mod encryption_sets;
mod env;
mod export;
mod factory;
mod follow;
mod image;
mod junit;
mod login;
mod promotion;
mod rest;
mod scope;
mod signing_keys;
mod statements;
mod tattoo;
mod verify;
mod vm;
mod what_if;

use serde_json::Value;

use crate::args::{Command, Global};
use crate::client::Client;
use crate::error::{CliError, Exit, render};
use crate::io::Io;
use crate::profile;

/// Runs one command to its end or to an interrupt, and tells what went wrong.
pub async fn run(global: &Global, command: Command, io: &mut Io) -> Exit {
    let interrupt = io.interrupt.clone();
    let result = tokio::select! {
        biased;
        result = dispatch(global, command, io) => result,
        () = interrupt.notified() => Err(CliError::Interrupted),
    };
    match result {
        Ok(exit) => exit,
        Err(CliError::Interrupted) => {
            for line in std::mem::take(&mut io.goes_on) {
                io.say(line);
            }
            Exit::Interrupted
        }
        Err(error) if error.is_closed_output() => Exit::Done,
        Err(error) => {
            io.say(render(&error));
            error.exit()
        }
    }
}

async fn dispatch(global: &Global, command: Command, io: &mut Io) -> Result<Exit, CliError> {
    match command {
        Command::Schema => {
            io.text(&crate::factory::schema_text())?;
            Ok(Exit::Done)
        }
        Command::Login(args) => login::login(global, &args, io).await,
        Command::Logout => login::logout(global, io),
        Command::Plan(args) => factory::plan(global, &args, io).await,
        Command::Apply(args) => factory::apply(global, &args, io).await,
        Command::Build(args) => {
            let profile = profile::path(io, global.profile.as_deref());
            build::run(&connect(global, io)?, args, &profile, io).await
        }
        Command::Image(args) => image::images(&connect(global, io)?, args, io).await,
        Command::Version(args) => image::versions(&connect(global, io)?, args, io).await,
        Command::Sbom(args) => statements::sbom(&connect(global, io)?, args, io).await,
        Command::SigningKey(args) => signing_keys::run(&connect(global, io)?, args, io).await,
        Command::EncryptionSet(args) => encryption_sets::run(&connect(global, io)?, args, io).await,
        Command::Statement(args) => statements::statements(&connect(global, io)?, args, io).await,
        Command::Verify(args) => verify::run(&connect(global, io)?, &args, io).await,
        Command::Affected(args) => statements::affected(connect(global, io), &args, io).await,
        Command::Promote(args) => promotion::promote(&connect(global, io)?, &args, io).await,
        Command::Promotion(args) => promotion::run(&connect(global, io)?, args, io).await,
        Command::App(args) => app::run(&connect(global, io)?, args, io).await,
        Command::ReadTattoo(args) => tattoo::read(connect(global, io), &args, io).await,
        Command::Vm(args) => {
            let profile = profile::path(io, global.profile.as_deref());
            vm::run(&connect(global, io)?, args, &profile, io).await
        }
        Command::Compliance(args) => compliance::run(&connect(global, io)?, args, io).await,
        Command::WhatIf(args) => what_if::run(&connect(global, io)?, &args, io).await,
        Command::Rest(args) => rest::run(&connect(global, io)?, &args, io).await,
        Command::Env(args) => env::run(global, &args, io).await,
    }
}

fn connect(global: &Global, io: &Io) -> Result<Client, CliError> {
    Client::new(profile::load(io, global.profile.as_deref())?)
}

/// A text in an answer; empty where there is none.
fn text(value: &Value, pointer: &str) -> String {
    let found = value.pointer(pointer).and_then(Value::as_str);
    found.unwrap_or_default().to_owned()
}
