//! What the client's policy commands take from files: questions for `what-if`, and alias tables for `aliases import`.
//! The documents may hold comments, and are the policy language's, which the client itself does not know.

use std::path::{Path, PathBuf};

use ::policy::{alias, json as documents};
use clap::Subcommand;
use cli::args::compliance::{PolicyScope, WhatIf, WhatIfAbout};
use cli::io::Io;
use serde_json::{Map, Value};

use crate::offline::Failure;

/// The largest document of a question.
const DOCUMENT_BYTES_MAX: u64 = 8 << 20;
/// The largest provider list: a whole cloud's has some hundred megabytes.
const PROVIDERS_BYTES_MAX: u64 = 512 << 20;

#[derive(Debug, clap::Args)]
pub struct Ask {
    /// Definition or initiative: JSON, a whole resource or its properties
    #[arg(value_name = "FILE", required_unless_present = "resource")]
    definition: Option<PathBuf>,

    /// Values of its parameters, by name: JSON, or @FILE
    #[arg(long, value_name = "JSON|@FILE", requires = "definition")]
    parameters: Option<String>,

    /// Instead: a resource that is not created yet, whole, with its `id`, against what is assigned
    #[arg(long, value_name = "FILE", conflicts_with_all = ["definition", "scope", "subscription", "resource_group"])]
    resource: Option<PathBuf>,

    #[command(flatten)]
    scope: PolicyScope,
}

#[derive(Debug, Subcommand)]
pub enum Aliases {
    /// Make an alias table from what `az provider list --expand resourceTypes/aliases` printed
    #[command(after_help = "Example:
  az provider list --expand resourceTypes/aliases > providers.json
  bullion policy aliases import providers.json --to aliases.tsv
  bullion policy check policies/ --aliases aliases.tsv")]
    Import {
        /// The provider list, JSON
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Where the table goes [default: stdout]
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
}

fn read(path: &Path, limit: u64) -> Result<Value, Failure> {
    let failed = |error| Failure::new(format!("cannot read `{}`", path.display()), error);
    if std::fs::metadata(path).map_err(failed)?.len() > limit {
        let what = format!("`{}` has more than {limit} bytes", path.display());
        return Err(Failure::plain(what));
    }
    let text = std::fs::read_to_string(path).map_err(failed)?;
    parsed(&text, &path.display().to_string())
}

fn parsed(text: &str, name: &str) -> Result<Value, Failure> {
    documents::parse_within(text, usize::MAX)
        .map_err(|error| Failure::new(format!("`{name}` is no JSON"), error))
}

/// The question that the arguments and their files ask.
pub fn question(ask: Ask) -> Result<WhatIf, Failure> {
    let about = match (&ask.definition, &ask.resource) {
        (_, Some(resource)) => WhatIfAbout::Resource(read(resource, DOCUMENT_BYTES_MAX)?),
        (Some(definition), None) => WhatIfAbout::Policy {
            definition: read(definition, DOCUMENT_BYTES_MAX)?,
            parameters: parameters(ask.parameters.as_deref())?,
        },
        (None, None) => return Err(Failure::plain("there is nothing to ask about")),
    };
    Ok(WhatIf {
        scope: ask.scope,
        about,
    })
}

fn parameters(written: Option<&str>) -> Result<Map<String, Value>, Failure> {
    let document = match written {
        None => return Ok(Map::new()),
        Some(written) => match written.strip_prefix('@') {
            Some(path) => read(Path::new(path), DOCUMENT_BYTES_MAX)?,
            None => parsed(written, "--parameters")?,
        },
    };
    match document {
        Value::Object(values) => Ok(values),
        _ => Err(Failure::plain(
            "`--parameters` is an object of names and values",
        )),
    }
}

pub fn aliases(command: &Aliases, io: &mut Io) -> Result<(), Failure> {
    let Aliases::Import { file, to } = command;
    let document = read(file, PROVIDERS_BYTES_MAX)?;
    let table = Table::of(&document);
    if table.lines.is_empty() {
        return Err(Failure::plain(format!(
            "`{}` holds no alias: it must be the output of `az provider list --expand resourceTypes/aliases`",
            file.display()
        )));
    }
    let text = table.text();
    match to {
        None => io.text(&text)?,
        Some(to) => std::fs::write(to, text)
            .map_err(|error| Failure::new(format!("cannot write `{}`", to.display()), error))?,
    }
    io.say(format!(
        "{} aliases of {} types; {} left out, whose paths a policy cannot walk",
        table.lines.len(),
        table.types,
        table.left_out
    ));
    Ok(())
}

/// Lines of an alias table, in order.
#[derive(Default)]
struct Table {
    lines: Vec<String>,
    types: usize,
    left_out: usize,
}

impl Table {
    /// From a list of providers, `{"value": […]}` around it, or one provider.
    fn of(document: &Value) -> Table {
        let mut table = Table::default();
        let inner = document.get("value").unwrap_or(document);
        match inner {
            Value::Array(providers) => providers.iter().for_each(|one| table.provider(one)),
            one => table.provider(one),
        }
        table.lines.sort();
        table.lines.dedup();
        table
    }

    fn provider(&mut self, provider: &Value) {
        let namespace = provider["namespace"].as_str().unwrap_or_default();
        for one in provider["resourceTypes"].as_array().into_iter().flatten() {
            let before = self.lines.len();
            let kind = one["resourceType"].as_str().unwrap_or_default();
            for found in one["aliases"].as_array().into_iter().flatten() {
                self.alias(&format!("{namespace}/{kind}"), found);
            }
            self.types += usize::from(self.lines.len() > before);
        }
    }

    fn alias(&mut self, kind: &str, found: &Value) {
        match alias::table::line(kind, found) {
            Some(line) => self.lines.push(line),
            None => self.left_out += 1,
        }
    }

    fn text(&self) -> String {
        let mut text = String::from("resourceType\talias\tdefaultPath\tattributes\tapiVersions\n");
        for line in &self.lines {
            text.push_str(line);
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use ::policy::Aliases as Known;
    use serde_json::json;

    use super::*;

    fn check(document: Value, lines: &[&str], left_out: usize) {
        let table = Table::of(&document);
        let text = table.text();
        let seen: Vec<&str> = text.lines().skip(1).collect();
        assert_eq!(seen, lines, "{document}");
        assert_eq!(table.left_out, left_out, "{document}");
        assert!(Known::read(&text).is_ok());
    }

    #[test]
    fn a_provider_list_becomes_a_table() {
        let provider = json!({ "namespace": "M.C", "resourceTypes": [
            { "resourceType": "vms", "aliases": [
                { "name": "M.C/vms/size", "defaultPath": "properties.size",
                  "defaultMetadata": { "type": "String", "attributes": "Modifiable" },
                  "paths": [{ "path": "properties.size", "apiVersions": ["1", "2"] }] },
                { "name": "M.C/vms/fixed", "defaultPath": "properties.fixed",
                  "defaultMetadata": { "attributes": "None" },
                  "paths": [{ "path": "properties.fixed", "apiVersions": ["2", "3"],
                              "metadata": { "attributes": "Modifiable" } }] },
                { "name": "M.C/vms/disks[*].gb", "paths": [
                    { "path": "properties.old[*].gb", "apiVersions": ["1"] },
                    { "path": "properties.disks[*].gb", "apiVersions": ["2"] } ] },
                { "name": "M.C/vms/none" },
                { "name": "a\tb", "defaultPath": "properties.x" },
            ] },
            { "resourceType": "none", "aliases": null },
        ] });
        let lines = [
            "M.C/vms\tM.C/vms/disks[*].gb\tproperties.disks[*].gb\t\tproperties.old[*].gb|1",
            "M.C/vms\tM.C/vms/fixed\tproperties.fixed\tNone\tproperties.fixed|2,3|Modifiable",
            "M.C/vms\tM.C/vms/size\tproperties.size\tModifiable",
        ];
        check(provider.clone(), &lines, 2);
        check(json!([provider]), &lines, 2);
        check(json!({ "value": [provider, provider] }), &lines, 4);
        check(json!("x"), &[], 0);
        check(json!([[[]]]), &[], 0);
    }
}
