//! Picks the properties that a table needs out of a resource's JSON, without building the rest.
//!
//! Members are found as everywhere in this crate: by their exact name, else without case, and of a name
//! that is written twice the last counts.

use std::cell::Cell;
use std::fmt;

use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Number, Value};

use crate::json;

/// What was found for one property.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Slot {
    #[default]
    Absent,
    /// A text: where it stands in `Found::texts`.
    Text(usize, usize),
    Other(Value),
}

/// What was found in one resource.
#[derive(Debug, Default)]
pub struct Found {
    pub slots: Vec<Slot>,
    pub texts: String,
    /// Whether the resource shows a location or tags.
    pub placed: bool,
}

impl Found {
    /// The text of a slot, if it holds one.
    pub fn text(&self, slot: usize) -> Option<&str> {
        match self.slots.get(slot) {
            Some(Slot::Text(start, end)) => self.texts.get(*start..*end),
            _ => None,
        }
    }

    fn set_text(&mut self, slot: usize, text: &str) {
        let start = self.texts.len();
        self.texts.push_str(text);
        self.slots[slot] = Slot::Text(start, self.texts.len());
    }

    fn set(&mut self, slot: usize, value: Value) {
        match value {
            Value::String(text) => self.set_text(slot, &text),
            Value::Null => self.slots[slot] = Slot::Absent,
            other => self.slots[slot] = Slot::Other(other),
        }
    }
}

/// The properties that are looked for, as a tree of names.
#[derive(Debug, Default)]
pub struct Wanted {
    children: Vec<(String, Wanted)>,
    slot: Option<usize>,
}

impl Wanted {
    /// Looks for the property at these keys, too.
    pub fn add(&mut self, keys: &[String], slot: usize) {
        let Some((first, rest)) = keys.split_first() else {
            self.slot = Some(slot);
            return;
        };
        let at = match self.children.iter().position(|(name, _)| name == first) {
            Some(at) => at,
            None => {
                self.children.push((first.clone(), Wanted::default()));
                self.children.len() - 1
            }
        };
        self.children[at].1.add(rest, slot);
    }

    fn clear(&self, found: &mut Found) {
        if let Some(slot) = self.slot {
            found.slots[slot] = Slot::Absent;
        }
        for (_, child) in &self.children {
            child.clear(found);
        }
    }

    /// Takes what is wanted from a value that is there already.
    fn take(&self, value: &Value, found: &mut Found) {
        if let Some(slot) = self.slot {
            found.set(slot, value.clone());
        }
        for (name, child) in &self.children {
            match json::get(value, name) {
                Some(value) => child.take(value, found),
                None => child.clear(found),
            }
        }
    }
}

/// Reads one resource. `found` may be used again and again; what it held is gone.
///
/// # Errors
/// The text is no JSON, or nested too deep.
pub fn extract(
    bytes: &[u8],
    wanted: &Wanted,
    slots: usize,
    found: &mut Found,
) -> Result<(), serde_json::Error> {
    found.slots.clear();
    found.slots.resize(slots, Slot::Absent);
    found.texts.clear();
    found.placed = false;
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let seed = Seed {
        wanted,
        found,
        top: true,
    };
    seed.deserialize(&mut reader)?;
    reader.end()
}

struct Seed<'w, 'f> {
    wanted: &'w Wanted,
    found: &'f mut Found,
    top: bool,
}

impl<'de> DeserializeSeed<'de> for Seed<'_, '_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.wanted.slot.is_none() && self.wanted.children.is_empty() {
            return IgnoredAny::deserialize(deserializer).map(drop);
        }
        deserializer.deserialize_any(self)
    }
}

/// How a wanted member was found so far.
#[derive(Clone, PartialEq)]
enum By {
    Nothing,
    /// Under this name, which differs in case.
    Loose(String),
    Exact,
}

impl Seed<'_, '_> {
    fn scalar(self, value: Value) {
        if let Some(slot) = self.wanted.slot {
            self.found.set(slot, value);
        }
    }
}

impl<'de> Visitor<'de> for Seed<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.scalar(Value::Bool(value));
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.scalar(Value::from(value));
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.scalar(Value::from(value));
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.scalar(Number::from_f64(value).map_or(Value::Null, Value::Number));
        Ok(())
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        if let Some(slot) = self.wanted.slot {
            self.found.set_text(slot, value);
        }
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        match self.wanted.slot {
            Some(slot) => {
                let value = Value::deserialize(SeqAccessDeserializer::new(items))?;
                self.found.set(slot, value);
            }
            None => while items.next_element::<IgnoredAny>()?.is_some() {},
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        if self.wanted.slot.is_some() {
            let value = Value::deserialize(MapAccessDeserializer::new(members))?;
            self.wanted.take(&value, self.found);
            return Ok(());
        }
        let mut by = vec![By::Nothing; self.wanted.children.len()];
        while let Some(key) = members.next_key::<Name<'de>>()? {
            let key = key.0.as_ref();
            if self.top {
                let placed = ["location", "tags"];
                self.found.placed |= placed.iter().any(|name| name.eq_ignore_ascii_case(key));
            }
            let mut takers = Vec::new();
            for (at, (name, child)) in self.wanted.children.iter().enumerate() {
                if !name.eq_ignore_ascii_case(key) {
                    continue;
                }
                let exact = name == key;
                let better = match &by[at] {
                    By::Nothing => true,
                    By::Loose(other) => exact || other == key,
                    By::Exact => exact,
                };
                if better {
                    by[at] = match exact {
                        true => By::Exact,
                        false => By::Loose(key.to_owned()),
                    };
                    takers.push(child);
                }
            }
            match takers.as_slice() {
                [] => drop(members.next_value::<IgnoredAny>()?),
                [child] => {
                    child.clear(self.found);
                    let found = &mut *self.found;
                    members.next_value_seed(Seed {
                        wanted: child,
                        found,
                        top: false,
                    })?;
                }
                several => {
                    let value: Value = members.next_value()?;
                    for child in several {
                        child.clear(self.found);
                        child.take(&value, self.found);
                    }
                }
            }
        }
        Ok(())
    }
}

/// A member's name, borrowed where it can be.
struct Name<'t>(std::borrow::Cow<'t, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Name<'de>, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(name.into()))
            }

            fn visit_str<E>(self, name: &str) -> Result<Name<'de>, E> {
                Ok(Name(name.to_owned().into()))
            }
        }
        deserializer.deserialize_str(Reader)
    }
}

/// The `type` of a resource, read no further than needed. A guess: of one that is written twice, or under
/// two names, it may be the wrong one.
pub fn peek_type(bytes: &[u8]) -> Option<String> {
    struct Peek<'c>(&'c Cell<Option<String>>);
    impl<'de> Visitor<'de> for Peek<'_> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
            while let Some(key) = members.next_key::<Name<'de>>()? {
                if !key.0.eq_ignore_ascii_case("type") {
                    members.next_value::<IgnoredAny>()?;
                    continue;
                }
                if let Value::String(kind) = members.next_value()? {
                    self.0.set(Some(kind));
                    // What follows is not looked at.
                    return Err(A::Error::custom("found"));
                }
            }
            Ok(())
        }
    }
    let kind = Cell::new(None);
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    // How it ends does not matter: the reading proper comes after.
    drop(serde::Deserializer::deserialize_map(
        &mut reader,
        Peek(&kind),
    ));
    kind.into_inner()
}
