//! The JSON Schema of the language, made from the types of `document`.

use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::document::Document;

/// The schema that editors use and that `check` walks.
pub fn schema() -> Value {
    SchemaSettings::draft2020_12()
        .into_generator()
        .into_root_schema_for::<Document>()
        .to_value()
}

/// The schema as the file in `docs/schema` holds it.
pub fn schema_text() -> String {
    // A `Value` always turns into text: its keys are strings.
    format!("{:#}\n", schema())
}
