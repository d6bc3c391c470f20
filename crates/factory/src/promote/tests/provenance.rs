//! What a promotion makes of the provenance of a version: forged, missing, asked for.

use super::*;

/// What is signed of a disk, changed in the middle: nothing passes, whatever the stage asks.
#[tokio::test(flavor = "multi_thread")]
async fn a_provenance_that_was_tampered_with_stops_a_promotion() {
    let chain = Chain::with_gates(json!([])).await;
    let version = chain.world.definition.child("versions", "1.0.0").unwrap();
    let forge = |envelope: &mut Value| envelope["payload"] = "e30=".into();
    chain.world.tamper(&version, "provenance", forge).await;
    let refused = chain.promote("test").await;
    assert_eq!(refused.state, PromotionState::Failed);
    for told in ["proves nothing", "signed by none", "versions/1.0.0"] {
        assert!(refused.message.contains(told), "{}", refused.message);
    }
    assert!(chain.version("test").await.is_none());
}

/// A version without a provenance passes, unless the stage asks for one.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_without_provenance_passes_where_none_is_asked_for() {
    let gate = || json!([{ "type": "Provenance", "name": "built-here" }]);
    let chain = Chain::with_gates(gate()).await;
    let passed = chain.promote("test").await;
    assert_eq!(
        passed.state,
        PromotionState::Succeeded,
        "{}",
        passed.message
    );
    let evidence = &passed.gates[0].evidence;
    assert!(
        evidence["run"].as_str().unwrap().contains("/runs/"),
        "{evidence}"
    );

    for (gates, expected) in [
        (gate(), PromotionState::Rejected),
        (json!([]), PromotionState::Succeeded),
    ] {
        let chain = Chain::with_gates(gates).await;
        let version = chain.world.definition.child("versions", "1.0.0").unwrap();
        chain.world.replace_disk(&version).await;
        let ended = chain.promote("test").await;
        assert_eq!(ended.state, expected, "{}", ended.message);
    }
}
