//! The `bullion` command line, run as a user would: arguments in, JSON out, talk shown while it works.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::place::Place;
use crate::program::{Finished, Program};
use crate::progress::Step;

/// `plan --detailed-exitcode` found something to do.
const EXIT_CHANGES: i32 = 2;

pub struct Client {
    binary: PathBuf,
    profile: PathBuf,
}

/// Whether the server holds what a folder says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    Same,
    Changes,
}

impl Client {
    /// Signs in as the administrator whose secret the server made.
    pub fn login(place: &Place, binary: PathBuf) -> Result<Self> {
        let step = Step::begin("login");
        let profile = place.profile();
        let login = Program::new(&binary)
            .args(["login", "--from"])
            .arg(place.data().join("admin.json"));
        // Only the server's user may read that file; the profile then belongs to whoever runs this.
        let login = place.privileged(login.arg("--profile").arg(&profile));
        let finished = login.stdout_while(|_| ())?;
        if !finished.status.success() {
            step.failed("");
            bail!("cannot sign in:\n{}", finished.stderr.trim_end());
        }
        place.take_over(&profile)?;
        step.done(&format!("profile {}", profile.display()));
        Ok(Self { binary, profile })
    }

    /// With the profile of an earlier login.
    pub fn known(place: &Place, binary: PathBuf) -> Self {
        Self {
            binary,
            profile: place.profile(),
        }
    }

    /// The same program with the profile of somebody else.
    pub fn signed_in_as(&self, profile: &Path) -> Self {
        Self {
            binary: self.binary.clone(),
            profile: profile.to_owned(),
        }
    }

    /// A command that must succeed; its answer is JSON.
    pub fn json(&self, args: &[&str], step: &Step) -> Result<Value> {
        let finished = self.run(args, step)?;
        self.must_succeed(args, &finished)?;
        parse(args, &finished.stdout)
    }

    /// What a command answered, whatever its exit code says of it: that a machine does not comply is an answer.
    pub fn answer(&self, args: &[&str], step: &Step) -> Result<Value> {
        let finished = self.run(args, step)?;
        if finished.stdout.trim().is_empty() {
            self.must_succeed(args, &finished)?;
        }
        parse(args, &finished.stdout)
    }

    /// A question that may have no answer yet, asked without telling what it says.
    pub fn ask(&self, args: &[&str]) -> Option<Value> {
        let finished = self.program(args).output().ok()?;
        let succeeded = finished.status.success();
        succeeded
            .then(|| parse(args, &finished.stdout).ok())
            .flatten()
    }

    pub fn plan(&self, folder: &Path, step: &Step) -> Result<Plan> {
        let folder = folder.to_string_lossy();
        let args = ["plan", &folder, "--detailed-exitcode"];
        let finished = self.run(&args, step)?;
        match finished.status.code() {
            Some(0) => Ok(Plan::Same),
            Some(EXIT_CHANGES) => Ok(Plan::Changes),
            _ => {
                self.must_succeed(&args, &finished)?;
                Ok(Plan::Same)
            }
        }
    }

    /// As a user would type it, for the closing words.
    pub fn typed(&self) -> String {
        self.binary.display().to_string()
    }

    pub fn profile(&self) -> &Path {
        &self.profile
    }

    fn run(&self, args: &[&str], step: &Step) -> Result<Finished> {
        let talk = step.talk();
        self.program(args).stdout_while(move |line| talk.say(line))
    }

    fn program(&self, args: &[&str]) -> Program {
        let program = Program::new(&self.binary)
            .args(args)
            .args(["--output", "json"]);
        program.env("BULLION_PROFILE", &self.profile)
    }

    fn must_succeed(&self, args: &[&str], finished: &Finished) -> Result<()> {
        if finished.status.success() {
            return Ok(());
        }
        bail!(
            "`bullion {}` failed ({}):\n{}",
            args.join(" "),
            finished.status,
            complaint(&finished.stderr)
        )
    }
}

/// What went wrong, without the progress that was told before it.
fn complaint(stderr: &str) -> &str {
    let at = stderr.find("\nerror:").map_or(0, |at| at + 1);
    stderr[at..].trim_end()
}

fn parse(args: &[&str], text: &str) -> Result<Value> {
    if text.trim().is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_str(text).with_context(|| {
        format!(
            "`bullion {}` printed what is not JSON: {text}",
            args.join(" ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_begins_with_the_error() {
        let check = |stderr: &str, expected: &str| assert_eq!(complaint(stderr), expected);
        check(
            "step 1\nerror: no space\nhint: free some\n",
            "error: no space\nhint: free some",
        );
        check("error: no space\n", "error: no space");
        check("what?\n", "what?");
    }
}
