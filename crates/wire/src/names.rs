//! What resources may be called, and the sentences with which Azure's service refuses a name.
//!
//! Sources: Azure Compute Gallery's troubleshooting guide for galleries, definitions and versions; the
//! Image Builder OpenAPI document for templates; Azure's resource name rules for groups and machines.

/// One rule per kind of resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameRule {
    Gallery,
    ImageDefinition,
    ImageTemplate,
    ResourceGroup,
    VirtualMachine,
    /// Our own resources: regions, tenants, applications.
    Bullion,
    /// `identifier.publisher` of a definition, at most 128 characters.
    Publisher,
    /// `identifier.offer` or `.sku`, at most 64 characters.
    OfferOrSku,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NameError(String);

impl NameRule {
    pub fn check(self, name: &str) -> Result<(), NameError> {
        let fail = |text: String| Err(NameError(text));
        let shown: String = name.chars().take(100).collect();
        match self {
            Self::Gallery => {
                if self.fits(name, 80, b"_.") && ends_alphanumeric(name) {
                    return Ok(());
                }
                fail("Gallery name is invalid. Allowed characters are English alphanumeric characters, with underscores, and periods allowed in the middle, up to 80 characters total. All other special characters, including dashes, are disallowed.".into())
            }
            Self::ImageDefinition => {
                if self.fits(name, 80, b"_-.") && ends_alphanumeric(name) {
                    return Ok(());
                }
                fail(format!(
                    "The entity name '{shown}' is invalid according to its validation rule: ^[^_\\W][\\w-._]{{0,79}}(?<![-.])$."
                ))
            }
            Self::ImageTemplate => {
                if self.fits(name, 64, b"_-.") {
                    return Ok(());
                }
                fail(format!(
                    "The image template name '{shown}' must match '^[A-Za-z0-9-_.]{{1,64}}$'."
                ))
            }
            Self::ResourceGroup => {
                if self.fits(name, 90, b"_-.()") && !name.ends_with('.') {
                    return Ok(());
                }
                fail(format!(
                    "The provided resource group name '{shown}' is invalid: 1 to 90 letters, digits, '_', '-', '.', '(' and ')', not ending with '.'."
                ))
            }
            Self::VirtualMachine => {
                if self.fits(name, 64, b"-.") && ends_alphanumeric(name) {
                    return Ok(());
                }
                fail(format!(
                    "The virtual machine name '{shown}' is invalid: 1 to 64 letters, digits, '-' and '.', starting and ending with a letter or digit."
                ))
            }
            Self::Bullion => {
                if self.fits(name, 64, b"-_") && ends_alphanumeric(name) {
                    return Ok(());
                }
                fail(format!(
                    "The name '{shown}' is invalid: 1 to 64 letters, digits, '-' and '_', starting and ending with a letter or digit."
                ))
            }
            Self::Publisher => self.check_identifier("publisher", name, 128),
            Self::OfferOrSku => self.check_identifier("offer or sku", name, 64),
        }
    }

    fn check_identifier(self, what: &str, name: &str, max: usize) -> Result<(), NameError> {
        if self.fits(name, max, b"_-.") && !name.ends_with('.') {
            return Ok(());
        }
        Err(NameError(format!(
            "The {what} is invalid: 1 to {max} letters, digits, '-', '_' and '.', not ending with '.'."
        )))
    }

    fn fits(self, name: &str, max: usize, also: &[u8]) -> bool {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || also.contains(&b);
        (1..=max).contains(&name.len()) && name.bytes().all(allowed)
    }
}

fn ends_alphanumeric(name: &str) -> bool {
    let bytes = name.as_bytes();
    let ok = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    ok(bytes.first()) && ok(bytes.last())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rule: NameRule, good: &[&str], bad: &[&str]) {
        for name in good {
            assert_eq!(rule.check(name), Ok(()), "{rule:?} {name}");
        }
        for name in bad {
            assert!(rule.check(name).is_err(), "{rule:?} {name}");
        }
    }

    #[test]
    fn rules() {
        check(
            NameRule::Gallery,
            &["g", "my_gallery.1"],
            &["", "my-gallery", "_g", "g.", &"g".repeat(81), "g/h"],
        );
        check(
            NameRule::ImageDefinition,
            &["debian-12", "a.b_c"],
            &["-a", "a-", "a.", ""],
        );
        check(
            NameRule::ImageTemplate,
            &["t-1._"],
            &["", "t t", &"t".repeat(65)],
        );
        check(
            NameRule::ResourceGroup,
            &["rg (1)".replace(' ', "").as_str()],
            &["rg.", "", "r g"],
        );
        check(NameRule::VirtualMachine, &["web-1"], &["-web", "we_b"]);
        check(NameRule::Bullion, &["north", "eu_1"], &["", "a/b", "-x"]);
        check(
            NameRule::Publisher,
            &["Example.Corp"],
            &["", "Example.", "a b"],
        );
        check(NameRule::OfferOrSku, &["12-gen2"], &["x."]);
    }
}
