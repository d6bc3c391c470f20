//! One property of many resources: each value once, and for each row which of them it has.

use std::hash::Hash;

use indexmap::{Equivalent, IndexSet};
use serde_json::Value;

/// The code of a row that has no value. Others are one more than the value's place.
pub const ABSENT: u32 = 0;

/// A value as it is told apart from others: a text, or the JSON of anything else.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    json: bool,
    text: Box<str>,
}

#[derive(Hash)]
struct KeyRef<'t> {
    json: bool,
    text: &'t str,
}

impl Equivalent<Key> for KeyRef<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        self.json == key.json && *self.text == *key.text
    }
}

#[derive(Debug, Default)]
pub struct Column {
    values: IndexSet<Key>,
    codes: Vec<u32>,
}

impl Column {
    pub fn codes(&self) -> &[u32] {
        &self.codes
    }

    /// One more than the largest code.
    pub fn bound(&self) -> usize {
        self.values.len() + 1
    }

    pub fn text(&mut self, text: &str) -> u32 {
        self.intern(KeyRef { json: false, text })
    }

    /// The code of any value; a null is as good as none.
    pub fn value(&mut self, value: &Value) -> u32 {
        match value {
            Value::Null => ABSENT,
            Value::String(text) => self.text(text),
            other => self.json(&other.to_string()),
        }
    }

    /// The code of a value that is given as its JSON.
    pub fn json(&mut self, text: &str) -> u32 {
        self.intern(KeyRef { json: true, text })
    }

    fn intern(&mut self, key: KeyRef<'_>) -> u32 {
        let place = match self.values.get_index_of(&key) {
            Some(place) => place,
            None => {
                let text = key.text.into();
                let json = key.json;
                self.values.insert_full(Key { json, text }).0
            }
        };
        // A table has fewer rows than codes, and so fewer values.
        u32::try_from(place + 1).unwrap_or(u32::MAX)
    }

    pub fn put(&mut self, row: usize, code: u32) {
        if row >= self.codes.len() {
            self.codes.resize(row + 1, ABSENT);
        }
        self.codes[row] = code;
    }

    /// The value of a code.
    pub fn get(&self, code: u32) -> Option<Value> {
        let place = (code as usize).checked_sub(1)?;
        let key = self.values.get_index(place)?;
        match key.json {
            false => Some(Value::String(key.text.to_string())),
            true => serde_json::from_str(&key.text).ok(),
        }
    }

    /// Forgets values that no row has any more. Codes change.
    pub fn compact(&mut self) {
        let mut places = vec![ABSENT; self.bound()];
        let mut kept = IndexSet::new();
        for code in &mut self.codes {
            let Some(place) = (*code as usize).checked_sub(1) else {
                continue;
            };
            if places[*code as usize] == ABSENT
                && let Some(key) = self.values.get_index(place)
            {
                let place = kept.insert_full(key.clone()).0;
                places[*code as usize] = u32::try_from(place + 1).unwrap_or(u32::MAX);
            }
            *code = places[*code as usize];
        }
        self.values = kept;
    }
}
