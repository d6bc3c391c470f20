//! The OpenAPI document of what this server answers, made from the operation table: a row that is not in the table is in
//! neither.
//!
//! Served at `/openapi.json`, and committed as `docs/openapi.json`. It tells paths, parameters, rights and answers; bodies
//! are Azure's own where the type is Azure's, and are told there.

use std::collections::BTreeSet;

use http::Method;
use serde_json::{Map, Value, json};

use crate::operation::Operation;
use crate::path::{Place, Shape};
use crate::{patch, table};

/// Where it is served.
pub const PATH: &str = "/openapi.json";
const SCOPE: &str = "https://management.core.windows.net//.default";

pub fn document() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for row in table::all() {
        for place in row.places {
            for (method, row) in methods(row) {
                let path = path_of(row, *place);
                let item = paths
                    .entry(path.clone())
                    .or_insert_with(|| json!({ "parameters": parameters(&path) }));
                let name = method.as_str().to_ascii_lowercase();
                let known = item.get(&name).is_some();
                if !known {
                    item[&name] = operation(row, &method, *place);
                }
            }
        }
    }
    paths.sort_keys();
    json!({
        "openapi": "3.0.3",
        "info": {
            "title": "Bullion",
            "description": "What a Bullion server answers to clients of Azure Resource Manager, and beside it.",
            "version": "2026-11-01",
            "license": { "name": "Apache-2.0" }
        },
        "servers": [{ "url": "/" }],
        "security": [{ "token": [SCOPE] }],
        "paths": paths,
        "components": {
            "securitySchemes": { "token": { "type": "oauth2", "flows": { "clientCredentials": {
                "tokenUrl": "/common/oauth2/v2.0/token", "scopes": { SCOPE: "Resource Manager" } } } } },
            "parameters": { "ApiVersion": { "name": "api-version", "in": "query", "required": true,
                "schema": { "type": "string", "pattern": "^20[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])(-preview)?$" } } },
            "responses": { "Error": { "description": "Refused, or failed.",
                "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Error" } } } } },
            "schemas": schemas(),
        }
    })
}

/// A row answers its own method; one for PUT may answer PATCH, too.
fn methods(row: &'static Operation) -> Vec<(Method, &'static Operation)> {
    let mut methods = vec![(row.method.clone(), row)];
    if row.method == Method::PUT && patch::fits(row) {
        methods.push((Method::PATCH, row));
    }
    methods
}

/// The path with names in braces, at one of the row's places.
fn path_of(row: &Operation, place: Place) -> String {
    let mut path = match place {
        Place::Root => String::new(),
        Place::ManagementGroup => "/providers/Microsoft.Management/managementGroups/{managementGroup}".into(),
        Place::Subscription => "/subscriptions/{subscriptionId}".into(),
        Place::Group => "/subscriptions/{subscriptionId}/resourceGroups/{resourceGroupName}".into(),
        Place::Resource => "/subscriptions/{subscriptionId}/resourceGroups/{resourceGroupName}/providers/{namespace}/{type}/{resource}".into(),
    };
    let (namespace, types) = row.kind.split_once('/').unwrap_or(("", row.kind));
    // Resource Manager's own types stand in the path without their namespace; tags do not.
    if namespace != "Microsoft.Resources" || types == "tags" {
        path.push_str(&format!("/providers/{namespace}"));
    }
    let types: Vec<&str> = types.split('/').collect();
    for (index, kind) in types.iter().enumerate() {
        path.push_str(&format!("/{kind}"));
        let last = index + 1 == types.len();
        if !last || row.shape == Shape::Named {
            path.push_str(&format!("/{{{}}}", name_of(kind)));
        }
    }
    path
}

fn name_of(kind: &str) -> String {
    match kind {
        "subscriptions" => "subscriptionId".into(),
        "resourceGroups" => "resourceGroupName".into(),
        _ => format!("{kind}Name"),
    }
}

fn parameters(path: &str) -> Vec<Value> {
    let mut seen = BTreeSet::new();
    let names = path
        .split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let mut parameters: Vec<Value> = names
        .filter(|name| seen.insert(*name))
        .map(|name| {
            let schema = match name {
                "subscriptionId" => json!({ "type": "string", "format": "uuid" }),
                "versionsName" => {
                    json!({ "type": "string", "pattern": "^[0-9]{1,9}\\.[0-9]{1,9}\\.[0-9]{1,9}$" })
                }
                _ => json!({ "type": "string", "pattern": "^[A-Za-z0-9_.-]{1,80}$" }),
            };
            json!({ "name": name, "in": "path", "required": true, "schema": schema })
        })
        .collect();
    parameters.push(json!({ "$ref": "#/components/parameters/ApiVersion" }));
    parameters
}

fn operation(row: &Operation, method: &Method, place: Place) -> Value {
    let verb = match *method {
        Method::PUT => "put",
        Method::PATCH => "update",
        Method::DELETE => "delete",
        Method::POST => "post",
        Method::HEAD => "exists",
        _ if row.shape == Shape::Collection => "list",
        _ => "get",
    };
    let kind = row.kind.replace('/', "_");
    let json_body = |name: &str| {
        let schema = json!({ "$ref": format!("#/components/schemas/{name}") });
        json!({ "application/json": { "schema": schema } })
    };
    let answer = |what: &str| json!({ "description": what, "content": json_body("Answer") });
    let empty = |what: &str| json!({ "description": what });
    let mut responses = Map::new();
    match *method {
        Method::HEAD => drop(responses.insert("204".into(), empty("There is one."))),
        Method::DELETE => {
            responses.insert("200".into(), empty("Removed."));
            responses.insert("202".into(), empty("Accepted; poll as the headers say."));
            responses.insert("204".into(), empty("There was none."));
        }
        Method::PUT | Method::PATCH | Method::POST => {
            responses.insert("200".into(), answer("Done."));
            responses.insert("201".into(), answer("Made."));
            responses.insert("202".into(), empty("Accepted; poll as the headers say."));
            responses.insert("204".into(), empty("Done, and nothing to tell."));
        }
        _ => {
            responses.insert("200".into(), answer("What is there."));
            responses.insert("202".into(), empty("Not done yet."));
            responses.insert("204".into(), empty("Done, and nothing to tell."));
        }
    }
    // What is answered to HEAD has no body, so its refusals have none.
    let refused = match *method {
        Method::HEAD => empty("Refused, or there is none."),
        _ => json!({ "$ref": "#/components/responses/Error" }),
    };
    responses.insert("default".into(), refused);
    let mut operation = json!({
        "operationId": format!("{verb}_{kind}_{place:?}"),
        "tags": [row.kind.split('/').next().unwrap_or_default()],
        "x-action": row.action,
        "responses": responses,
    });
    if [Method::PUT, Method::PATCH].contains(method) {
        operation["requestBody"] = json!({ "required": true, "content": json_body("Resource") });
    }
    if *method == Method::POST {
        operation["requestBody"] = json!({ "required": false, "content": json_body("Answer") });
    }
    operation
}

fn schemas() -> Value {
    let text = json!({ "type": "string" });
    json!({
        "Resource": { "type": "object", "properties": {
            "location": text, "tags": { "type": "object", "additionalProperties": { "type": "string", "maxLength": 256 } },
            "properties": { "type": "object" } } },
        "Answer": { "type": "object" },
        "Error": { "type": "object", "required": ["error"], "properties": { "error": {
            "type": "object", "required": ["code", "message"],
            "properties": { "code": text, "message": text, "target": text } } } }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `BULLION_UPDATE=1` writes it.
    #[test]
    fn the_committed_document_is_the_tables() {
        let text = format!("{:#}\n", document());
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
        if std::env::var_os("BULLION_UPDATE").is_some() {
            std::fs::write(path, &text).unwrap();
        }
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            committed == text,
            "docs/openapi.json is not what the operation table says; run with BULLION_UPDATE=1"
        );
    }

    #[test]
    fn every_row_is_in_it_and_every_name_has_its_parameter() {
        let document = document();
        let paths = document["paths"].as_object().unwrap();
        for row in table::all() {
            for place in row.places {
                let item = &paths[&path_of(row, *place)];
                assert!(
                    item[row.method.as_str().to_ascii_lowercase()].is_object(),
                    "{} {}",
                    row.method,
                    row.kind
                );
            }
        }
        let mut ids = BTreeSet::new();
        for (path, item) in paths {
            let names = path.matches('{').count();
            assert!(
                item["parameters"].as_array().unwrap().len() <= names + 1,
                "{path}"
            );
            for (_, operation) in item
                .as_object()
                .unwrap()
                .iter()
                .filter(|(name, _)| *name != "parameters")
            {
                assert!(
                    ids.insert(operation["operationId"].to_string()),
                    "{path}: {}",
                    operation["operationId"]
                );
            }
        }
    }
}
