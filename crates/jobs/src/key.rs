//! Keys of pure steps: a hash over what a step is and what goes into it.
//!
//! Whatever is not in the key must not change the result.

use catalog::StepKey;
use serde::Serialize;
use serde_json::Value;

const CONTEXT: &str = "bullion job step key v1";

/// The key of a step: its kind, a mark that is raised whenever what it makes of the same inputs changes, and the
/// inputs. Two inputs that are equal as JSON, whatever the order of their members, have the same key.
pub fn step_key(kind: &str, version: u32, inputs: &impl Serialize) -> StepKey {
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    frame(&mut hasher, kind.as_bytes());
    hasher.update(&version.to_le_bytes());
    match serde_json::to_value(inputs) {
        Ok(value) => update(&mut hasher, &value),
        // Inputs that JSON cannot hold (a map with keys that are no text) get a key that no others get.
        Err(_) => {
            hasher.update(uuid::Uuid::new_v4().as_bytes());
        }
    }
    StepKey::from_hash(*hasher.finalize().as_bytes())
}

/// Each value begins with its type and its length, so that no two different values give the same bytes.
fn update(hasher: &mut blake3::Hasher, value: &Value) {
    match value {
        Value::Null => {
            hasher.update(b"z");
        }
        Value::Bool(flag) => {
            hasher.update(if *flag { b"t" } else { b"f" });
        }
        Value::Number(number) => {
            hasher.update(b"n");
            frame(hasher, number.to_string().as_bytes());
        }
        Value::String(text) => {
            hasher.update(b"s");
            frame(hasher, text.as_bytes());
        }
        Value::Array(items) => {
            hasher.update(b"a");
            hasher.update(&(items.len() as u64).to_le_bytes());
            items.iter().for_each(|item| update(hasher, item));
        }
        Value::Object(members) => {
            hasher.update(b"o");
            hasher.update(&(members.len() as u64).to_le_bytes());
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_key(|(name, _)| *name);
            for (name, member) in members {
                frame(hasher, name.as_bytes());
                update(hasher, member);
            }
        }
    }
}

fn frame(hasher: &mut blake3::Hasher, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_le_bytes());
    hasher.update(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(left: &Value, right: &Value, same: bool) {
        assert_eq!(
            step_key("k", 1, left) == step_key("k", 1, right),
            same,
            "{left} {right}"
        );
    }

    #[test]
    fn keys_tell_inputs_apart_and_nothing_else() {
        check(&json!({"a": 1, "b": [2]}), &json!({"b": [2], "a": 1}), true);
        check(&json!({"a": 1}), &json!({"a": "1"}), false);
        check(&json!(["ab", "c"]), &json!(["a", "bc"]), false);
        check(&json!([["a"], "b"]), &json!([["a", "b"]]), false);
        check(&json!({"a": null}), &json!({}), false);
        assert_ne!(step_key("k", 1, &0), step_key("k", 2, &0));
        assert_ne!(step_key("k", 1, &0), step_key("l", 1, &0));
    }

    #[test]
    fn the_definition_is_fixed() {
        // Stored keys name results for good: a change here repeats every step ever done.
        let key = step_key("customize", 1, &json!({"base": "bd1:00", "n": 1}));
        assert_eq!(
            key.to_string(),
            "92b6a7d8c11160f49cbd5d5b4de533194ce0cea384d17cee5e0074f4c13f367b"
        );
    }
}
