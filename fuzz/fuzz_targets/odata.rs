//! Query options of strangers: any text is parsed or refused, and what was parsed is evaluated without a fault.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::json;
use wire::odata::{Query, Texts};

const KNOWN: [&str; 6] = ["id", "state", "age", "time", "groups", "compliant"];

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    // Each line is one option, so that a filter may precede a grouping.
    let mut lines = text.split('\n');
    let texts = Texts {
        filter: lines.next(),
        apply: lines.next(),
        order: lines.next(),
        select: lines.next(),
        top: None,
    };
    let Ok(query) = Query::parse(texts, &KNOWN) else {
        return;
    };
    let records = vec![
        json!({ "id": "/S/a", "state": "NonCompliant", "age": 3, "compliant": false,
                "time": "2026-11-01T00:00:00Z", "groups": ["x", "y"] }),
        json!({ "id": "/s/b", "age": 1.5, "compliant": true, "time": "soon", "groups": "z" }),
        json!({}),
    ];
    for record in query.run(records) {
        let _ = query.selected(record);
    }
});
