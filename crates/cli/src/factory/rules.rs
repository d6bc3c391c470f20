//! What a single value may look like: names, versions, paths, references.
//!
//! A rule is a type for serde and schemars and an entry of [`RULES`] for the checker, so that the
//! editor, the checker and the loaded value agree. Rules look at text only; whether a reference or
//! a file exists is `check`'s business.

use std::borrow::Cow;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use wire::{NameRule, SubscriptionId};

/// The schema keyword that names a rule of [`RULES`].
pub const RULE_KEY: &str = "x-bullion-rule";
/// The schema keyword that names the kind of document a value refers to.
pub const REFERENCE_KEY: &str = "x-bullion-reference";
/// The schema keyword that says what a file of the folder must hold.
pub const FILE_KEY: &str = "x-bullion-file";

/// One rule about text.
pub struct Rule {
    pub name: &'static str,
    /// For editors; `holds` decides here.
    pub pattern: &'static str,
    /// Finishes the sentence "this must be …".
    pub right: &'static str,
    pub holds: fn(&str) -> bool,
}

macro_rules! rules {
    ($($type:ident $name:literal $pattern:literal $right:literal $holds:expr;)*) => {
        $(
            #[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
            #[serde(transparent)]
            pub struct $type(pub String);

            impl $type {
                pub fn as_str(&self) -> &str {
                    &self.0
                }
            }

            impl JsonSchema for $type {
                fn inline_schema() -> bool {
                    true
                }
                fn schema_name() -> Cow<'static, str> {
                    stringify!($type).into()
                }
                fn json_schema(_: &mut SchemaGenerator) -> Schema {
                    json_schema!({ "type": "string", "pattern": $pattern, RULE_KEY: $name })
                }
            }
        )*

        pub const RULES: &[Rule] = &[
            $(Rule { name: $name, pattern: $pattern, right: $right, holds: $holds },)*
        ];
    };
}

rules! {
    FactoryName "factoryName" r"^[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?$"
        "1 to 64 lower-case letters, digits and dashes, with a letter or digit at both ends" |s| is_slug(s, 64);
    ScopeName "scopeName" r"^[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?$"
        "1 to 64 lower-case letters, digits and dashes, with a letter or digit at both ends" |s| is_slug(s, 64);
    ZoneName "zoneName" r"^[A-Za-z0-9]{1,8}$"
        "1 to 8 letters and digits, such as `1`" |s| is_made_of(s, 8, "");
    ResourceGroupName "resourceGroupName" r"^[A-Za-z0-9_.()-]{0,89}[A-Za-z0-9_()-]$"
        "1 to 90 letters, digits, `_`, `-`, `.` and brackets, not ending with `.`" |s| fits(NameRule::ResourceGroup, s);
    GalleryName "galleryName" r"^[A-Za-z0-9]([A-Za-z0-9_.]{0,78}[A-Za-z0-9])?$"
        "1 to 80 letters, digits, `_` and `.`, with a letter or digit at both ends; dashes are not allowed in a gallery's name" |s| fits(NameRule::Gallery, s);
    DefinitionName "definitionName" r"^[A-Za-z0-9]([A-Za-z0-9_.-]{0,78}[A-Za-z0-9])?$"
        "1 to 80 letters, digits, `_`, `-` and `.`, with a letter or digit at both ends" |s| fits(NameRule::ImageDefinition, s);
    TemplateName "templateName" r"^[A-Za-z0-9_.-]{1,64}$"
        "1 to 64 letters, digits, `_`, `-` and `.`" |s| fits(NameRule::ImageTemplate, s);
    Publisher "publisher" r"^[A-Za-z0-9_.-]{0,127}[A-Za-z0-9_-]$"
        "1 to 128 letters, digits, `_`, `-` and `.`, not ending with `.`" |s| fits(NameRule::Publisher, s);
    OfferOrSku "offerOrSku" r"^[A-Za-z0-9_.-]{0,63}[A-Za-z0-9_-]$"
        "1 to 64 letters, digits, `_`, `-` and `.`, not ending with `.`" |s| fits(NameRule::OfferOrSku, s);
    Guid "guid" r"^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$"
        "a GUID such as `6f1d2c3b-0a4e-4b7d-9c55-2f0b8f1e7a10` (`uuidgen` makes one)" |s| s.parse::<SubscriptionId>().is_ok();
    VersionNumber "versionNumber" r"^\d{1,10}\.\d{1,10}\.\d{1,10}$"
        "Major.Minor.Patch, three whole numbers such as `1.0.0`, each at most 2147483647" is_version;
    SourceVersion "sourceVersion" r"^(latest|\d{1,10}\.\d{1,10}\.\d{1,10})$"
        "`latest`, or Major.Minor.Patch such as `12.20261121.0`" |s| s == "latest" || is_version(s);
    AbsolutePath "absolutePath" r"^(/[^\x00]*[^/]|[A-Za-z]:[\\/][^\x00]*[^\\/. ])$"
        "an absolute path in the image, such as `/etc/motd` or `C:\\app\\motd.txt`, without `..`" |s| is_absolute_path(s) || is_windows_path(s);
    RestartTimeout "restartTimeout" r"^[0-9]{1,5}[smh]$"
        "a number and a unit, such as `5m` or `2h`" is_time;
    FileMode "fileMode" r"^[0-7]{3,4}$"
        "octal permissions such as `0644`" is_mode;
    PackageName "packageName" r"^[a-z0-9][a-z0-9+.-]+(:[a-z0-9]+)?(=[A-Za-z0-9.+~:-]+)?$"
        "a package name such as `chrony`, or `chrony=4.3-2` for one version" is_package;
    ServiceName "serviceName" r"^[A-Za-z0-9@_.:-]{1,256}$"
        "the name of a service, such as `ssh`" |s| is_made_of(s, 256, "@_.:-");
    SshdWord "sshdOption" r"^[A-Za-z][A-Za-z0-9]{0,63}$"
        "the name of an sshd option, such as `permitrootlogin`" |s| is_made_of(s, 64, "") && s.starts_with(|c: char| c.is_ascii_alphabetic());
    SshdValue "sshdValue" r"^[!-~ ]{1,1024}$"
        "what `sshd -T` prints for the option, such as `no`" |s| (1..=1024).contains(&s.len()) && s.bytes().all(|b| (b' '..=b'~').contains(&b));
    VariableName "variableName" r"^[A-Za-z_][A-Za-z0-9_]{0,127}$"
        "the name of a variable of the environment, such as `TOKEN`" |s| is_made_of(s, 128, "_") && !s.starts_with(|c: char| c.is_ascii_digit());
    PolicyName "policyName" r"^[A-Za-z0-9_-]{1,64}$"
        "1 to 64 letters, digits, `_` and `-`" |s| is_made_of(s, 64, "_-");
    BuiltInName "builtInName" r"^.{1,128}$"
        "the display name of a built-in policy, or its GUID" |s| (1..=128).contains(&s.chars().count());
}

/// The name of a built-in role.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct RoleName(pub String);

impl JsonSchema for RoleName {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "RoleName".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let names: Vec<&str> = wire::roles::ALL.iter().map(|role| role.name).collect();
        json_schema!({ "type": "string", "enum": names })
    }
}

impl Default for ZoneName {
    fn default() -> ZoneName {
        ZoneName("1".into())
    }
}

impl Default for SourceVersion {
    fn default() -> SourceVersion {
        SourceVersion("latest".into())
    }
}

/// The rule with this name; the schema names only rules that exist (a test holds that).
pub fn rule(name: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.name == name)
}

/// A reference to another document: its name, or as much of `parent/name` as makes it unique.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
#[serde(bound = "")]
pub struct Reference<K> {
    pub text: String,
    #[serde(skip)]
    kind: PhantomData<K>,
}

impl<K: kind::Kind> JsonSchema for Reference<K> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        format!("ReferenceTo{}", K::NAME).into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "minLength": 1, REFERENCE_KEY: K::NAME })
    }
}

/// The kinds of document that can be referred to, as types.
pub mod kind {
    pub trait Kind {
        const NAME: &'static str;
    }

    macro_rules! kinds {
        ($($kind:ident)*) => {$(
            #[derive(Debug, Clone, Copy, PartialEq, Eq)]
            pub enum $kind {}
            impl Kind for $kind {
                const NAME: &'static str = stringify!($kind);
            }
        )*};
    }

    kinds! {
        Tenant Subscription Region ResourceGroup Gallery ImageDefinition ImageTemplate
        Application ServicePrincipal Pipeline PolicyDefinition
    }
}

macro_rules! files {
    ($($type:ident $holds:literal;)*) => {$(
        #[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
        #[serde(transparent)]
        pub struct $type(pub String);

        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "minLength": 1, FILE_KEY: $holds })
            }
        }
    )*};
}

files! {
    MediaFile "any";
    ScriptFile "script";
    CheckFile "check";
    FactsFile "facts";
    TestsFile "tests";
    PowerShellFile "text";
    CertificateFile "certificates";
    PlaybookFile "yaml";
    UserDataFile "text";
    PolicyFile "policy";
}

fn is_made_of(text: &str, max: usize, also: &str) -> bool {
    (1..=max).contains(&text.len())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || also.contains(c))
}

fn is_edged(text: &str, max: usize, also: &str) -> bool {
    is_made_of(text, max, also)
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
}

fn is_slug(text: &str, max: usize) -> bool {
    is_edged(text, max, "-") && !text.contains(|c: char| c.is_ascii_uppercase())
}

fn fits(rule: NameRule, text: &str) -> bool {
    rule.check(text).is_ok()
}

fn is_version(text: &str) -> bool {
    text.parse::<wire::VersionNumber>().is_ok()
}

/// With a drive, and nothing that Windows would read in another way.
pub fn is_windows_path(text: &str) -> bool {
    let text = text.replace('/', "\\");
    let Some((drive, rest)) = text.split_once(":\\") else {
        return false;
    };
    let good = |part: &str| {
        !part.is_empty()
            && !part.ends_with(['.', ' '])
            && !part.contains(|c: char| c.is_control() || "<>:\"|?*".contains(c))
    };
    drive.len() == 1
        && drive.as_bytes()[0].is_ascii_alphabetic()
        && text.len() <= 240
        && rest.split('\\').all(good)
}

fn is_time(text: &str) -> bool {
    let number = text.strip_suffix(['s', 'm', 'h']).unwrap_or_default();
    (1..=5).contains(&number.len()) && number.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_absolute_path(text: &str) -> bool {
    text.starts_with('/')
        && text.len() > 1
        && text.len() <= 4096
        && !text.contains('\0')
        && text[1..]
            .split('/')
            .all(|part| !part.is_empty() && part != "." && part != "..")
}

fn is_mode(text: &str) -> bool {
    (3..=4).contains(&text.len()) && text.bytes().all(|b| (b'0'..=b'7').contains(&b))
}

fn is_package(text: &str) -> bool {
    let (name, version) = text.split_once('=').unwrap_or((text, "1"));
    let (name, architecture) = name.split_once(':').unwrap_or((name, "any"));
    // To apt, a `-` at the end of a name means removal.
    name.len() >= 2
        && !name.ends_with('-')
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "+.-".contains(c))
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && is_made_of(architecture, 32, "")
        && is_made_of(version, 128, ".+~:-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, good: &[&str], bad: &[&str]) {
        let rule = rule(name).unwrap();
        for text in good {
            assert!((rule.holds)(text), "{name} should accept {text:?}");
        }
        for text in bad {
            assert!(!(rule.holds)(text), "{name} should refuse {text:?}");
        }
    }

    #[test]
    fn rules_accept_and_refuse() {
        check(
            "galleryName",
            &["golden", "g.1_a"],
            &["", "gold-en", "_g", "g."],
        );
        check(
            "definitionName",
            &["debian-12"],
            &["-debian", "debian-", "a b"],
        );
        check(
            "versionNumber",
            &["1.0.0", "2018.12.1"],
            &["1.0", "1.0.x", "1.0.0.0", "1.0.2147483648", "+1.0.0"],
        );
        check(
            "sourceVersion",
            &["latest", "12.20261121.0"],
            &["newest", "12"],
        );
        check(
            "absolutePath",
            &["/etc/motd"],
            &["etc/motd", "/", "/etc/../motd", "/etc/", "//etc"],
        );
        check(
            "fileMode",
            &["0644", "755", "4755"],
            &["rw", "0689", "17777", "+644", ""],
        );
        check(
            "packageName",
            &["chrony", "libstdc++6", "libc6:i386", "chrony=4.3-2"],
            &["Chrony", "a b", "-x", "x=;"],
        );
        check(
            "guid",
            &["6f1d2c3b-0a4e-4b7d-9c55-2f0b8f1e7a10"],
            &["6f1d", "{6f1d2c3b-0a4e-4b7d-9c55-2f0b8f1e7a1"],
        );
        check("scopeName", &["north", "1"], &["North", "-n", ""]);
        check(
            "resourceGroupName",
            &["images", "rg_(1)"],
            &["images.", "a/b"],
        );
        check("templateName", &["golden-debian"], &["", "a b"]);
        check("offerOrSku", &["12-hardened"], &["12.", "é"]);
        check("sshdOption", &["permitrootlogin"], &["permit root", "1x"]);
        check("sshdValue", &["no", "3"], &["", "a\nb"]);
        check("variableName", &["TOKEN", "_a1"], &["", "1A", "A-B"]);
    }
}
