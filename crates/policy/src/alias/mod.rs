//! Aliases: names of properties that rules use, and where in a resource each one leads.
//!
//! The table is the caller's. Where it has been given none, the path is worked out from the name, which
//! is right for almost all aliases; a table that was given is taken as complete.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use crate::error::Fault;
use crate::json;

pub mod table;

/// One step into a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Key(String),
    /// `[*]`: every element of a list.
    Each,
    /// A key of an element, or of the `properties` in it: Resource Manager shows resources that lie in
    /// others in both ways, and without a table it is not known which.
    Inner(String),
}

/// The way to a property: `properties.rules[*].port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path(pub Vec<Step>);

/// Steps of one path; Azure's longest have about twenty.
pub const STEPS_MAX: usize = 64;
/// Members of a resource that stand beside `properties`.
const TOP: &[&str] = &[
    "sku",
    "zones",
    "plan",
    "kind",
    "identity",
    "managedBy",
    "extendedLocation",
    "tags",
];

impl Path {
    pub fn parse(text: &str) -> Result<Path, String> {
        let mut steps = Vec::new();
        for part in text.split('.') {
            let name = part.trim_end_matches("[*]");
            let lists = (part.len() - name.len()) / "[*]".len();
            let odd = name.is_empty() || name.contains(['[', ']', '*', '(', ')', ' ']);
            if odd {
                return Err(format!("`{text}` is no path to a property"));
            }
            steps.push(Step::Key(name.to_owned()));
            steps.extend(std::iter::repeat_n(Step::Each, lists));
        }
        match steps.len() <= STEPS_MAX {
            true => Ok(Path(steps)),
            false => Err(format!("a path has at most {STEPS_MAX} steps")),
        }
    }

    pub fn is_list(&self) -> bool {
        self.0.contains(&Step::Each)
    }

    /// How many lists this path and another lead through together, from the start.
    pub fn shared_lists(&self, other: &Path) -> usize {
        let same = |(a, b): &(&Step, &Step)| match (a, b) {
            (Step::Each, Step::Each) => true,
            (Step::Key(a) | Step::Inner(a), Step::Key(b) | Step::Inner(b)) => {
                a.eq_ignore_ascii_case(b)
            }
            _ => false,
        };
        let shared = self.0.iter().zip(&other.0).take_while(same);
        shared.filter(|(step, _)| **step == Step::Each).count()
    }

    /// Lists that the path leads through.
    pub fn lists(&self) -> usize {
        self.0.iter().filter(|step| **step == Step::Each).count()
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.0.iter().enumerate() {
            let dot = if index == 0 { "" } else { "." };
            match step {
                Step::Key(key) | Step::Inner(key) => write!(f, "{dot}{key}")?,
                Step::Each => f.write_str("[*]")?,
            }
        }
        Ok(())
    }
}

/// A member of an element, or of the `properties` in it.
fn inner<'v>(value: &'v Value, key: &str) -> Option<&'v Value> {
    json::get(value, key).or_else(|| json::get(json::get(value, "properties")?, key))
}

/// Everything that the steps lead to. Without `[*]` that is one value, or nothing; with it, as many as the
/// lists have elements, and nothing for an element that lacks the property.
pub fn select<'v>(steps: &[Step], from: &'v Value) -> Vec<Option<&'v Value>> {
    select_within(steps, from, &[])
}

/// The same, but of the first lists one element each: the one of that index.
pub fn select_within<'v>(
    steps: &[Step],
    from: &'v Value,
    within: &[usize],
) -> Vec<Option<&'v Value>> {
    let mut found = vec![Some(from)];
    let mut within = within.iter();
    for step in steps {
        match step {
            Step::Key(key) => {
                for value in &mut found {
                    *value = value.and_then(|value| json::get(value, key));
                }
            }
            Step::Inner(key) => {
                for value in &mut found {
                    *value = value.and_then(|value| inner(value, key));
                }
            }
            Step::Each => {
                let lists = found.into_iter().flatten().filter_map(Value::as_array);
                found = match within.next() {
                    Some(index) => lists
                        .filter_map(|list| list.get(*index))
                        .map(Some)
                        .collect(),
                    None => lists.flatten().map(Some).collect(),
                };
            }
        }
    }
    found
}

/// Where a selected value stands: the index in each list that leads to it.
pub type Indices = Vec<usize>;

/// The same, with the place of each value.
pub fn select_places<'v>(
    steps: &[Step],
    from: &'v Value,
    within: &[usize],
) -> Vec<(Indices, Option<&'v Value>)> {
    let mut found: Vec<(Indices, Option<&Value>)> = vec![(Vec::new(), Some(from))];
    let mut within = within.iter();
    for step in steps {
        match step {
            Step::Key(key) => {
                for (_, value) in &mut found {
                    *value = value.and_then(|value| json::get(value, key));
                }
            }
            Step::Inner(key) => {
                for (_, value) in &mut found {
                    *value = value.and_then(|value| inner(value, key));
                }
            }
            Step::Each => {
                let only = within.next();
                let mut elements = Vec::new();
                for (at, value) in found {
                    let items = value.and_then(Value::as_array).into_iter().flatten();
                    for (index, item) in items.enumerate() {
                        if only.is_none_or(|only| *only == index) {
                            let at = at.iter().copied().chain([index]).collect();
                            elements.push((at, Some(item)));
                        }
                    }
                }
                found = elements;
            }
        }
    }
    found
}

/// Where an alias leads in one resource type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// Any type, if none is named.
    pub kind: Option<String>,
    pub path: Path,
    /// Whether `modify` may change it; none if the table does not say.
    pub modifiable: Option<bool>,
    /// API versions at which it is otherwise.
    pub versions: Vec<Versioned>,
}

/// What an alias is at some API versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Versioned {
    pub api_versions: Vec<String>,
    pub path: Path,
    pub modifiable: Option<bool>,
}

impl Place {
    fn plain(kind: Option<String>, path: Path) -> Place {
        Place {
            kind,
            path,
            modifiable: None,
            versions: Vec::new(),
        }
    }

    fn at(&self, api_version: Option<&str>) -> (&Path, Option<bool>) {
        let named = |versioned: &&Versioned| {
            let mut own = versioned.api_versions.iter();
            own.any(|own| api_version.is_some_and(|asked| own.eq_ignore_ascii_case(asked)))
        };
        match self.versions.iter().find(named) {
            Some(found) => (&found.path, found.modifiable.or(self.modifiable)),
            None => (&self.path, self.modifiable),
        }
    }
}

/// Where one alias leads, by resource type.
#[derive(Debug, Clone)]
pub struct Alias {
    /// As the rule writes it.
    pub name: String,
    places: Vec<Place>,
    /// The end of a type that has the property in its own `properties`: `Microsoft.X/kind.a` names a
    /// property of `Microsoft.X/…/kind`, or one below `kind` of other types.
    own: Option<(String, Path)>,
}

impl Alias {
    /// The path for a resource of this type; nothing if the alias is another type's.
    pub fn path(&self, resource_type: &str) -> Option<&Path> {
        self.path_at(resource_type, None)
    }

    /// The same, as the resource looks at an API version.
    pub fn path_at(&self, resource_type: &str, api_version: Option<&str>) -> Option<&Path> {
        let last = resource_type.rsplit('/').next().unwrap_or_default();
        if let Some((kind, path)) = &self.own
            && kind.eq_ignore_ascii_case(last)
        {
            return Some(path);
        }
        let place = self.place(resource_type)?;
        Some(place.at(api_version).0)
    }

    fn place(&self, resource_type: &str) -> Option<&Place> {
        let fits = |place: &&Place| {
            let kind = place.kind.as_ref();
            kind.is_none_or(|kind| kind.eq_ignore_ascii_case(resource_type))
        };
        self.places.iter().find(fits)
    }

    /// Whether `modify` may change the property at an API version. What a table does not forbid it allows.
    pub fn may_change(&self, resource_type: &str, api_version: Option<&str>) -> bool {
        let place = self.place(resource_type);
        place.is_none_or(|place| place.at(api_version).1 != Some(false))
    }

    /// Whether `modify` may change it in any type, at any API version.
    pub fn may_ever_change(&self) -> bool {
        let may = |place: &Place| {
            let mut all = place.versions.iter().map(|one| one.modifiable);
            place.modifiable != Some(false) || all.any(|one| one == Some(true))
        };
        self.places.is_empty() || self.places.iter().any(may)
    }

    pub fn is_list(&self) -> bool {
        self.name.contains("[*]")
    }

    /// One that leads nowhere: no type has it.
    pub fn nowhere(name: &str) -> Alias {
        Alias {
            name: name.to_owned(),
            places: Vec::new(),
            own: None,
        }
    }
}

/// The table: from an alias, without case, to its paths.
#[derive(Debug, Clone, Default)]
pub struct Aliases {
    places: HashMap<String, Vec<Place>>,
    complete: bool,
    /// Where to look next; a case adds a few to a large table that it shares.
    base: Option<Arc<Aliases>>,
}

impl Aliases {
    /// Adds one alias, of one type or of whatever type bears it.
    pub fn add(&mut self, kind: Option<&str>, name: &str, path: &str) -> Result<(), Fault> {
        let path = Path::parse(path).map_err(|reason| Fault::new(name, reason))?;
        self.put(name, Place::plain(kind.map(str::to_owned), path));
        Ok(())
    }

    fn put(&mut self, name: &str, place: Place) {
        let places = self.places.entry(name.to_ascii_lowercase()).or_default();
        places.push(place);
    }

    /// An empty table in front of another.
    pub fn over(base: Arc<Aliases>) -> Aliases {
        Aliases {
            base: Some(base),
            ..Aliases::default()
        }
    }

    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// From now on an alias that is not in the table does not exist.
    pub fn complete(mut self) -> Aliases {
        self.complete = true;
        self
    }

    /// The alias of this name, from the table or from its form.
    pub fn find(&self, name: &str) -> Result<Alias, String> {
        if let Some(places) = self.places.get(&name.to_ascii_lowercase()) {
            return Ok(Alias {
                name: name.to_owned(),
                places: places.clone(),
                own: None,
            });
        }
        if let Some(base) = &self.base {
            return base.find(name);
        }
        if self.complete {
            return Err(format!("there is no alias `{name}`"));
        }
        derived(name)
    }

    /// Reads a table in any of its forms: an object of alias and path; the provider list of Azure's
    /// tools, with aliases expanded; or lines of type, alias and path between tabs.
    pub fn read(text: &str) -> Result<Aliases, Fault> {
        let mut aliases = Aliases::default();
        match text
            .trim_start_matches('\u{feff}')
            .trim_start()
            .chars()
            .next()
        {
            Some('{' | '[') => {
                let document = json::parse_within(text, usize::MAX)
                    .map_err(|error| Fault::new("aliases", error.to_string()))?;
                aliases.read_json(&document)?;
            }
            _ => aliases.read_lines(text)?,
        }
        Ok(aliases)
    }

    fn read_lines(&mut self, text: &str) -> Result<(), Fault> {
        for (number, line) in text.lines().enumerate() {
            let columns: Vec<&str> = line.split('\t').collect();
            match columns.as_slice() {
                ["resourceType", "alias", ..] | [""] => {}
                // A path that this engine cannot walk is left out: a rule that needs it is refused.
                [kind, alias, path, more @ ..] if more.len() <= 2 => {
                    if let Some(place) = table::place(kind, path, more) {
                        self.put(alias, place);
                    }
                }
                _ => {
                    return Err(Fault::new(
                        format!("line {}", number + 1),
                        "expected resource type, alias and path between tabs",
                    ));
                }
            }
        }
        Ok(())
    }

    pub fn read_json(&mut self, document: &Value) -> Result<(), Fault> {
        let value = json::get(document, "value").filter(|value| value.is_array());
        match value.unwrap_or(document) {
            Value::Object(map) if map.contains_key("namespace") => self.provider(document),
            Value::Object(map) => {
                for (name, path) in map {
                    let place = table::described(None, path);
                    let place = place
                        .ok_or_else(|| Fault::new(name, "expected the path of the alias"))?
                        .map_err(|reason| Fault::new(name, reason))?;
                    self.put(name, place);
                }
                Ok(())
            }
            Value::Array(items) => items.iter().try_for_each(|item| self.provider(item)),
            _ => Err(Fault::new("aliases", "expected an object or a list")),
        }
    }

    /// One provider, or one alias with its own type.
    fn provider(&mut self, provider: &Value) -> Result<(), Fault> {
        let name = json::text(provider, "alias").or_else(|| json::text(provider, "name"));
        let kind = json::text(provider, "resourceType");
        if let (Some(name), Some(place)) = (name, table::described(kind, provider)) {
            self.put(name, place.map_err(|reason| Fault::new(name, reason))?);
            return Ok(());
        }
        let namespace = json::text(provider, "namespace")
            .ok_or_else(|| Fault::new("aliases", "expected a provider with its `namespace`"))?;
        for kind in json::list(provider, "resourceTypes") {
            let Some(name) = json::text(kind, "resourceType") else {
                continue;
            };
            let full = format!("{namespace}/{name}");
            for alias in json::list(kind, "aliases") {
                let place = table::described(Some(&full), alias);
                // As for lines: what cannot be walked is left out.
                if let (Some(name), Some(Ok(place))) = (json::text(alias, "name"), place) {
                    self.put(name, place);
                }
            }
        }
        Ok(())
    }
}

/// Aliases that are used much and whose names do not tell their paths: type, alias, path.
const IRREGULAR: &[(&str, &str, &str)] = &[
    (
        "virtualMachines",
        "virtualMachines/sku.name",
        "hardwareProfile.vmSize",
    ),
    (
        "virtualMachines",
        "virtualMachines/imagePublisher",
        "storageProfile.imageReference.publisher",
    ),
    (
        "virtualMachines",
        "virtualMachines/imageOffer",
        "storageProfile.imageReference.offer",
    ),
    (
        "virtualMachines",
        "virtualMachines/imageSku",
        "storageProfile.imageReference.sku",
    ),
    (
        "virtualMachines",
        "virtualMachines/imageVersion",
        "storageProfile.imageReference.version",
    ),
    (
        "virtualMachines",
        "virtualMachines/osDisk.uri",
        "storageProfile.osDisk.vhd.uri",
    ),
    (
        "virtualMachines",
        "imagePublisher",
        "storageProfile.imageReference.publisher",
    ),
    (
        "virtualMachines",
        "imageOffer",
        "storageProfile.imageReference.offer",
    ),
    (
        "virtualMachines",
        "imageSku",
        "storageProfile.imageReference.sku",
    ),
    (
        "virtualMachines",
        "imageVersion",
        "storageProfile.imageReference.version",
    ),
    (
        "virtualMachines",
        "imageId",
        "storageProfile.imageReference.id",
    ),
    ("virtualMachines", "licenseType", "licenseType"),
    (
        "virtualMachineScaleSets",
        "imagePublisher",
        "virtualMachineProfile.storageProfile.imageReference.publisher",
    ),
    (
        "virtualMachineScaleSets",
        "imageOffer",
        "virtualMachineProfile.storageProfile.imageReference.offer",
    ),
    (
        "virtualMachineScaleSets",
        "imageSku",
        "virtualMachineProfile.storageProfile.imageReference.sku",
    ),
    (
        "virtualMachineScaleSets",
        "imageVersion",
        "virtualMachineProfile.storageProfile.imageReference.version",
    ),
    (
        "virtualMachineScaleSets",
        "imageId",
        "virtualMachineProfile.storageProfile.imageReference.id",
    ),
    (
        "virtualMachineScaleSets",
        "licenseType",
        "virtualMachineProfile.licenseType",
    ),
    ("disks", "imagePublisher", "creationData.imageReference.id"),
    ("disks", "imageOffer", "creationData.imageReference.id"),
    ("disks", "imageSku", "creationData.imageReference.id"),
    ("disks", "imageVersion", "creationData.imageReference.id"),
    ("disks", "imageId", "creationData.imageReference.id"),
];
const COMPUTE: &str = "Microsoft.Compute/";

/// `Microsoft.X/kind/a.b` leads to `properties.a.b`, or to `a.b` where `a` stands beside `properties`.
fn derived(name: &str) -> Result<Alias, String> {
    let (kind, rest) = name
        .rsplit_once('/')
        .filter(|(kind, rest)| kind.contains('.') && !rest.is_empty())
        .ok_or_else(|| format!("`{name}` is no field and no alias"))?;
    let irregular = IRREGULAR.iter().filter(|(_, alias, _)| {
        let own = name.get(COMPUTE.len()..).unwrap_or_default();
        own.eq_ignore_ascii_case(alias)
            && name.to_ascii_lowercase().starts_with("microsoft.compute/")
    });
    let places: Vec<_> = irregular
        .map(|(kind, _, path)| {
            let path = Path::parse(&format!("properties.{path}"))?;
            Ok::<_, String>(Place::plain(Some(format!("{COMPUTE}{kind}")), path))
        })
        .collect::<Result<_, _>>()?;
    if !places.is_empty() {
        return Ok(Alias {
            name: name.to_owned(),
            places,
            own: None,
        });
    }
    let head = rest.split(['.', '[']).next().unwrap_or(rest);
    let top = TOP.iter().any(|known| known.eq_ignore_ascii_case(head));
    let mut path = match top {
        true => Path::parse(rest)?,
        false => Path::parse(&format!("properties.{rest}"))?,
    };
    let lists = path.0.iter().position(|step| *step == Step::Each);
    for step in path.0.iter_mut().skip(lists.unwrap_or(usize::MAX)) {
        if let Step::Key(key) = step {
            *step = Step::Inner(std::mem::take(key));
        }
    }
    let kind = kind.contains('/').then(|| kind.to_owned());
    let own = match (&kind, rest.split_once('.')) {
        (None, Some((last, below))) if !last.contains('[') => {
            let path = Path::parse(&format!("properties.{below}"))?;
            Some((last.to_owned(), path))
        }
        _ => None,
    };
    Ok(Alias {
        name: name.to_owned(),
        places: vec![Place::plain(kind, path)],
        own,
    })
}
