//! Definitions, initiatives, alias tables and versions, from whoever writes them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use policy::version::{Pattern, Version};
use policy::{Aliases, compile, json};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let aliases = Aliases::read(text).unwrap_or_default();
    if let Ok(document) = json::parse(text) {
        let _ = compile(&document, &Aliases::default());
        let _ = compile(&document, &aliases.complete());
    }
    if let (Ok(pattern), Some(version)) = (Pattern::parse(text), Version::parse(text)) {
        assert_eq!(Pattern::parse(&pattern.to_string()), Ok(pattern.clone()));
        assert!(pattern.matches(&version), "{text}");
    }
});
