//! Advisories in OVAL 5 as Debian publishes them (`oval-definitions-bookworm.xml`): a definition per flaw, whose
//! criteria ask for a release and for packages below a version. Only those two kinds of test are understood; a
//! criterion of another kind narrows nothing, so more counts as affected rather than less.

use std::collections::HashMap;

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

use super::{Advisory, AffectedPackage, Named, Range, Until};
use crate::error::{ReadError, text};

const BYTES_MAX: usize = 512 << 20;
const DEPTH_MAX: usize = 64;
const ITEMS_MAX: usize = 2_000_000;
const WHAT: &str = "the OVAL file";

#[derive(Default)]
struct Definition {
    id: String,
    title: String,
    references: Vec<String>,
    severity: Option<String>,
    tests: Vec<String>,
}

#[derive(Default)]
struct File {
    definitions: Vec<Definition>,
    /// Test to its object and state.
    tests: HashMap<String, (String, Option<String>)>,
    /// Object to the package that it names.
    packages: HashMap<String, String>,
    /// State to the version that a package must be below.
    below: HashMap<String, String>,
    /// States that compare in another way: what they ask for cannot be told here.
    releases: HashMap<String, String>,
    items: usize,
}

/// Reads all definitions of one file. `distribution` and `release` say whose packages it speaks of where its own tests
/// do not: Debian has one file for each release.
pub fn parse(
    bytes: &[u8],
    distribution: &str,
    release: Option<&str>,
) -> Result<Vec<Advisory>, ReadError> {
    let mut reader = Reader::from_str(text(WHAT, bytes, BYTES_MAX)?);
    let mut file = File::default();
    let mut path: Vec<String> = Vec::new();
    // What the elements around the cursor belong to.
    let mut owner = String::new();
    loop {
        match reader.read_event().map_err(malformed)? {
            Event::Eof => break,
            Event::Start(element) => {
                let name = local(&element);
                file.begin(&name, &element, &mut owner)?;
                path.push(name);
                if path.len() > DEPTH_MAX {
                    return Err(ReadError::malformed(WHAT, "it is nested too deeply"));
                }
            }
            Event::Empty(element) => file.begin(&local(&element), &element, &mut owner)?,
            Event::End(_) => {
                path.pop();
            }
            Event::Text(words) => {
                file.words(&path, &owner, words.trim());
            }
            _ => {}
        }
    }
    if !path.is_empty() {
        return Err(ReadError::malformed(WHAT, "it ends in the middle"));
    }
    file.advisories(distribution, release)
}

fn malformed(error: impl std::fmt::Display) -> ReadError {
    ReadError::malformed(WHAT, error)
}

fn local(element: &BytesStart<'_>) -> String {
    element.local_name().as_ref().to_owned()
}

fn attribute(element: &BytesStart<'_>, name: &str) -> Result<Option<String>, ReadError> {
    let Some(found) = element.try_get_attribute(name).map_err(malformed)? else {
        return Ok(None);
    };
    Ok(Some(found.value.into_owned()))
}

impl File {
    fn begin(
        &mut self,
        name: &str,
        element: &BytesStart<'_>,
        owner: &mut String,
    ) -> Result<(), ReadError> {
        self.items += 1;
        if self.items > ITEMS_MAX {
            return Err(ReadError::TooMany {
                what: WHAT,
                limit: ITEMS_MAX,
            });
        }
        if let Some(id) = attribute(element, "id")? {
            *owner = id;
        }
        match name {
            "definition" => self.definitions.push(Definition {
                id: owner.clone(),
                ..Definition::default()
            }),
            "reference" => {
                let named = attribute(element, "ref_id")?;
                if let Some(last) = self.definitions.last_mut() {
                    last.references.extend(named);
                }
            }
            "criterion" => {
                let test = attribute(element, "test_ref")?;
                let negated = attribute(element, "negate")?.as_deref() == Some("true");
                if let Some(last) = self.definitions.last_mut().filter(|_| !negated) {
                    last.tests.extend(test);
                }
            }
            "dpkginfo_test" | "textfilecontent54_test" => {
                self.tests.entry(owner.clone()).or_default();
            }
            "object" => {
                if let (Some(of), Some(test)) =
                    (attribute(element, "object_ref")?, self.tests.get_mut(owner))
                {
                    test.0 = of;
                }
            }
            "state" => {
                if let (Some(of), Some(test)) =
                    (attribute(element, "state_ref")?, self.tests.get_mut(owner))
                {
                    test.1 = Some(of);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn words(&mut self, path: &[String], owner: &str, words: &str) {
        if words.is_empty() {
            return;
        }
        let parent = path.len().checked_sub(2).map(|at| path[at].as_str());
        let (parent, own) = (parent.unwrap_or(""), path.last().map_or("", String::as_str));
        match (parent, own) {
            ("metadata", "title") => {
                if let Some(last) = self.definitions.last_mut() {
                    // An entity in the middle cuts it in two.
                    last.title.push_str(words);
                }
            }
            (_, "severity") => {
                if let Some(last) = self.definitions.last_mut() {
                    last.severity = Some(words.to_owned());
                }
            }
            ("dpkginfo_object", "name") => {
                self.packages.insert(owner.to_owned(), words.to_owned());
            }
            ("dpkginfo_state", "evr") => {
                self.below.insert(owner.to_owned(), words.to_owned());
            }
            ("textfilecontent54_state", "subexpression") => {
                self.releases.insert(owner.to_owned(), words.to_owned());
            }
            _ => {}
        }
    }

    fn advisories(
        self,
        distribution: &str,
        release: Option<&str>,
    ) -> Result<Vec<Advisory>, ReadError> {
        let mut advisories = Vec::with_capacity(self.definitions.len());
        for definition in &self.definitions {
            let mut of_release = release.map(str::to_owned);
            let mut affected = Vec::new();
            for (object, state) in definition.tests.iter().filter_map(|t| self.tests.get(t)) {
                let state = state.as_ref();
                if let Some(number) = state.and_then(|state| self.releases.get(state)) {
                    of_release = Some(number.clone());
                }
                let Some(name) = self.packages.get(object) else {
                    continue;
                };
                // `0:1.2-3` is 1.2-3.
                let fixed = state.and_then(|state| self.below.get(state));
                let fixed = fixed.map(|text| text.strip_prefix("0:").unwrap_or(text));
                let until = match fixed {
                    None => Until::Open,
                    Some(fixed) => Until::Fixed(fixed.parse()?),
                };
                affected.push(AffectedPackage {
                    distribution: distribution.to_owned(),
                    release: None,
                    name: name.clone(),
                    named: Named::Binary,
                    ranges: vec![Range {
                        introduced: None,
                        until,
                    }],
                    versions: Vec::new(),
                });
            }
            for package in &mut affected {
                package.release.clone_from(&of_release);
            }
            advisories.push(advisory(definition, affected));
        }
        Ok(advisories)
    }
}

/// `CVE-2024-0727 openssl` is called by its first word.
fn advisory(definition: &Definition, affected: Vec<AffectedPackage>) -> Advisory {
    let title = definition.title.split_whitespace().next();
    let id = title.unwrap_or(&definition.id).to_owned();
    Advisory {
        aliases: definition
            .references
            .iter()
            .filter(|name| **name != id)
            .cloned()
            .collect(),
        summary: definition.title.clone(),
        severity: definition.severity.clone(),
        affected,
        id,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::advisory::Advisories;
    use crate::packages::tests::inventory;

    fn file(release: &str, package: &str, state: &str) -> String {
        format!(
            r#"<?xml version="1.0"?>
<oval_definitions xmlns="http://oval.mitre.org/XMLSchema/oval-definitions-5"
  xmlns:linux="http://oval.mitre.org/XMLSchema/oval-definitions-5#linux">
 <definitions>
  <definition class="vulnerability" id="oval:org.debian:def:1" version="1">
   <metadata><title>CVE-2023-45853 zlib</title>
    <reference ref_id="CVE-2023-45853" source="CVE"/><reference ref_id="DSA-1-1" source="DSA"/>
   </metadata>
   <criteria operator="AND">
    <criterion comment="Debian 12 is installed" test_ref="oval:org.debian.oval:tst:1"/>
    <criteria operator="OR">
     <criterion comment="is below" test_ref="oval:org.debian.oval:tst:2"/>
     <criterion comment="another kind" test_ref="oval:org.debian.oval:tst:9"/>
    </criteria>
   </criteria>
  </definition>
 </definitions>
 <tests>
  <textfilecontent54_test id="oval:org.debian.oval:tst:1">
   <object object_ref="oval:org.debian.oval:obj:1"/><state state_ref="oval:org.debian.oval:ste:1"/>
  </textfilecontent54_test>
  <linux:dpkginfo_test id="oval:org.debian.oval:tst:2">
   <linux:object object_ref="oval:org.debian.oval:obj:2"/>{}
  </linux:dpkginfo_test>
 </tests>
 <objects>
  <textfilecontent54_object id="oval:org.debian.oval:obj:1"><filepath>/etc/debian_version</filepath></textfilecontent54_object>
  <linux:dpkginfo_object id="oval:org.debian.oval:obj:2"><linux:name>{package}</linux:name></linux:dpkginfo_object>
 </objects>
 <states>
  <textfilecontent54_state id="oval:org.debian.oval:ste:1"><subexpression operation="equals">{release}</subexpression></textfilecontent54_state>
  <linux:dpkginfo_state id="oval:org.debian.oval:ste:2"><linux:evr datatype="debian_evr_string" operation="less than">{state}</linux:evr></linux:dpkginfo_state>
 </states>
</oval_definitions>"#,
            if state.is_empty() {
                ""
            } else {
                r#"<linux:state state_ref="oval:org.debian.oval:ste:2"/>"#
            }
        )
    }

    #[test]
    fn packages_below_a_version_are_found() {
        let check = |release: &str, package: &str, below: &str, expected: &[&str]| {
            let read = parse(file(release, package, below).as_bytes(), "debian", None).unwrap();
            assert_eq!((read.len(), read[0].id.as_str()), (1, "CVE-2023-45853"));
            assert_eq!(read[0].aliases, ["DSA-1-1"]);
            let hits = Advisories::new(read).hits(&inventory());
            let shown: Vec<&str> = hits.iter().map(|hit| hit.package.as_str()).collect();
            assert_eq!(shown, expected, "{release} {package} {below}");
        };
        check("12", "zlib1g", "0:1:1.2.13.dfsg-2", &["zlib1g"]);
        check("12", "zlib", "1:1.2.13.dfsg-2", &["zlib1g"]);
        check("12", "zlib1g", "1:1.2.13.dfsg-1", &[]);
        check("12", "zlib1g", "", &["zlib1g"]);
        check("11", "zlib1g", "", &[]);
        check("12", "bash", "0:5.2.15-2+b8", &["bash"]);
    }

    #[test]
    fn what_is_no_oval_is_refused() {
        let check = |text: &str| assert!(parse(text.as_bytes(), "debian", None).is_err(), "{text}");
        check("<a><b></a>");
        check("<a>");
        check(&"<a>".repeat(DEPTH_MAX + 1));
        let whole = file("12", "zlib1g", "not a version");
        check(&whole);
        assert_eq!(
            parse(b"<oval_definitions/>", "debian", None),
            Ok(Vec::new())
        );
    }
}
