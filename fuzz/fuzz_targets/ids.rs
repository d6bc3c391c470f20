//! Ids, api-versions and numbers of strangers: any text is parsed or refused, and what was parsed prints as something that
//! parses to the same again, with the same key.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::{ApiVersion, Location, ResourceId, VersionNumber};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(id) = ResourceId::parse(text) {
        let printed = id.to_string();
        let again = ResourceId::parse(&printed).expect("what is printed is an id");
        assert_eq!(id, again);
        assert_eq!(id.folded(), again.folded());
        assert_eq!(printed, again.to_string());
        // Whatever case it comes in, it is one resource.
        let shouted = ResourceId::parse(&printed.to_ascii_uppercase()).expect("case changes nothing");
        assert_eq!(id, shouted);
        let mut above = Some(id.clone());
        while let Some(scope) = above {
            assert!(id.is_within(&scope));
            above = scope.parent();
        }
    }
    if let Ok(version) = text.parse::<ApiVersion>() {
        assert_eq!(version.to_string().parse::<ApiVersion>().ok(), Some(version));
    }
    if let Ok(number) = text.parse::<VersionNumber>() {
        assert_eq!(number.to_string().parse::<VersionNumber>().ok(), Some(number));
    }
    let _ = Location::new(text);
});
