//! Reads what a package archive says about one suite in its signed index. The signature was
//! checked by apt; here only fields are taken. Pure.

use jiff::Timestamp;

use super::SourceError;

/// Bytes of an index that are looked at; real ones have a sixth of it.
pub(crate) const MAX_RELEASE_BYTES: u64 = 1 << 20;

/// The fields that a pin is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Release {
    pub codename: String,
    /// Ubuntu's archive tells the suites of a release apart by it.
    pub suite: Option<String>,
    pub version: Option<String>,
    pub date: Timestamp,
    /// SHA-256 of the uncompressed package list of each component asked for.
    pub packages: Vec<(String, String)>,
}

impl Release {
    pub(crate) fn parse(
        text: &str,
        file: &str,
        components: &[impl AsRef<str>],
        architecture: &str,
    ) -> Result<Release, SourceError> {
        let bad = |reason| SourceError::BadRelease {
            file: file.to_owned(),
            reason,
        };
        let field = |name: &str| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.map(|value| value.trim().to_owned())
        };
        let date = field("Date").ok_or_else(|| bad("it has no Date"))?;
        let date = jiff::fmt::rfc2822::parse(&date.replace("UTC", "+0000"))
            .map_err(|_| bad("its Date cannot be read"))?
            .timestamp();
        let mut packages = Vec::new();
        for component in components {
            let component = component.as_ref();
            let name = format!("{component}/binary-{architecture}/Packages");
            let hash = sha256_of(text, &name)
                .ok_or_else(|| bad("it does not list the packages of a component"))?;
            packages.push((name, hash));
        }
        Ok(Release {
            codename: field("Codename").ok_or_else(|| bad("it has no Codename"))?,
            suite: field("Suite"),
            version: field("Version"),
            date,
            packages,
        })
    }

    /// Whether it is the index of the suite that was asked for, and not of another that was signed by the same key.
    pub(crate) fn is_called(&self, suite: &str) -> bool {
        self.codename == suite || self.suite.as_deref() == Some(suite)
    }
}

/// The hash that the SHA256 section gives for `name`.
fn sha256_of(text: &str, name: &str) -> Option<String> {
    let section = text.lines().skip_while(|line| *line != "SHA256:").skip(1);
    let mut entries = section.take_while(|line| line.starts_with(' '));
    entries.find_map(|line| {
        let mut words = line.split_whitespace();
        let hash = words.next().filter(|hash| hash.len() == 64)?;
        (words.nth(1)? == name).then(|| hash.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nOrigin: Debian\nVersion: 12.15\n\
        Codename: bookworm\nDate: Sat, 11 Jul 2026 10:16:37 UTC\nMD5Sum:\n 00 1 main/binary-amd64/Packages\nSHA256:\n \
        1111111111111111111111111111111111111111111111111111111111111111 12 main/binary-amd64/Packages\n \
        2222222222222222222222222222222222222222222222222222222222222222 12 main/binary-amd64/Packages.gz\n";

    #[test]
    fn reads_what_a_pin_needs() {
        let release = Release::parse(TEXT, "InRelease", &["main"], "amd64").unwrap();
        assert_eq!(release.codename, "bookworm");
        assert_eq!(release.version.as_deref(), Some("12.15"));
        assert_eq!(release.date.to_string(), "2026-07-11T10:16:37Z");
        assert_eq!(
            release.packages,
            [("main/binary-amd64/Packages".to_owned(), "1".repeat(64))]
        );
    }

    #[test]
    fn refuses_what_lacks_a_field() {
        for missing in ["Date", "Codename", "SHA256"] {
            let text = TEXT.replace(&format!("\n{missing}:"), "\nOther:");
            let error = Release::parse(&text, "InRelease", &["main"], "amd64").unwrap_err();
            assert!(
                matches!(error, SourceError::BadRelease { .. }),
                "{missing}: {error}"
            );
        }
        assert!(Release::parse(TEXT, "InRelease", &["contrib"], "amd64").is_err());
    }
}
