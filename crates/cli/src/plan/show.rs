//! A plan on paper: a table for people, a fixed JSON shape for programs.

use serde_json::{Value, json};

use super::{Action, Plan};
use crate::error::CliError;
use crate::factory::body::KNOWN_AFTER_APPLY;
use crate::io::{Format, Io};

/// A kind as people say it.
pub fn noun(kind: &str) -> &'static str {
    match kind {
        "Tenant" => "tenant",
        "Subscription" => "subscription",
        "Region" => "region",
        "ResourceGroup" => "resource group",
        "Gallery" => "gallery",
        "ImageDefinition" => "image definition",
        "ImageTemplate" => "image template",
        "Application" => "application",
        "ServicePrincipal" => "service principal",
        "RoleAssignment" => "role assignment",
        "Pipeline" => "pipeline",
        "PolicyDefinition" => "policy definition",
        "PolicyAssignment" => "policy assignment",
        _ => "resource",
    }
}

pub fn print(io: &mut Io, plan: &Plan) -> Result<(), CliError> {
    match io.format {
        Format::Json => io.json(&as_json(plan)),
        Format::Table => {
            for line in lines(plan) {
                io.line(line)?;
            }
            Ok(())
        }
    }
}

fn lines(plan: &Plan) -> Vec<String> {
    if plan.is_empty() {
        return vec![format!(
            "No changes. The server holds what the factory `{}` says.",
            plan.factory
        )];
    }
    let mut lines = Vec::new();
    for item in &plan.items {
        let (mark, word) = match &item.action {
            Action::Keep => continue,
            Action::Create { .. } => ("+", "create"),
            Action::Change { .. } => ("~", "change"),
            Action::Delete { .. } => ("-", "delete"),
        };
        lines.push(format!(
            "  {mark} {word}  {:<17}  {}",
            noun(item.kind),
            item.label
        ));
        match &item.action {
            Action::Change { fields, .. } => lines.extend(fields.iter().map(|change| {
                let side = |text: &Option<String>| text.clone().unwrap_or_else(|| "(none)".into());
                format!(
                    "              {}: {} -> {}",
                    change.field,
                    side(&change.old),
                    side(&change.new)
                )
            })),
            Action::Create { open, .. } => lines.extend(
                open.iter()
                    .map(|field| format!("              {field}: {KNOWN_AFTER_APPLY}")),
            ),
            Action::Delete { blocked: Some(why) } => {
                lines.push(format!("              not possible now: {why}"))
            }
            _ => {}
        }
    }
    let sum = plan.summary();
    lines.push(format!(
        "Plan: {} to create, {} to change, {} to delete.",
        sum.create, sum.change, sum.delete
    ));
    if sum.delete > 0 {
        lines.push("Deletions are done by `bullion apply --prune` only.".into());
    }
    lines
}

fn as_json(plan: &Plan) -> Value {
    let changes: Vec<Value> = plan
        .items
        .iter()
        .filter_map(|item| {
            let mut value = json!({ "action": "", "kind": item.kind, "name": item.label, "id": item.id.as_ref().map(ToString::to_string) });
            match &item.action {
                Action::Keep => return None,
                Action::Create { open, .. } => {
                    value["action"] = "create".into();
                    if !open.is_empty() {
                        value["knownAfterApply"] = json!(open);
                    }
                }
                Action::Delete { blocked } => {
                    value["action"] = "delete".into();
                    value["blocked"] = json!(blocked);
                }
                Action::Change { fields, .. } => {
                    value["action"] = "change".into();
                    let field = |change: &super::FieldChange| {
                        json!({ "field": change.field, "old": change.old, "new": change.new })
                    };
                    value["fields"] = fields.iter().map(field).collect();
                }
            }
            Some(value)
        })
        .collect();
    json!({ "factory": plan.factory, "changes": changes, "summary": plan.summary() })
}
