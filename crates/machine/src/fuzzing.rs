//! Entrances for the fuzzer: a guest that says anything at all. Not part of the crate's face.

use std::io::Cursor;
use std::time::Duration;

use crate::agent::Agent;

/// What the guest's key is; one that says hello with it gets further.
const KEY: &str = "k";
const DEADLINE: Duration = Duration::from_secs(5);

/// A guest that has said everything already, and hears nothing: first while its start is waited for, then while a script
/// runs, while it restarts and while it leaves.
pub fn agent(said: &[u8]) {
    let far = tokio::io::join(Cursor::new(said.to_vec()), tokio::io::sink());
    let agent = Agent::over("fuzzed", far, KEY.to_owned());
    let work = async {
        agent.ready().await.ok()?;
        let output = agent.exec("one", &[("NAME", "value")], DEADLINE).await;
        output.ok()?;
        agent.restart("two", DEADLINE).await.ok()?;
        agent.leave(DEADLINE).await.ok()
    };
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    if let Ok(runtime) = runtime.enable_time().build() {
        runtime.block_on(work);
    }
}
