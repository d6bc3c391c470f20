//! A flag that is raised once and can be waited for.
//!
//! It asks; it stops nothing by itself.

use tokio::sync::watch;

/// The side that is asked.
#[derive(Clone, Debug)]
pub struct Cancel(watch::Receiver<bool>);

/// The side that asks.
#[derive(Debug)]
pub struct CancelSource(watch::Sender<bool>);

impl CancelSource {
    pub fn new() -> CancelSource {
        CancelSource(watch::Sender::new(false))
    }

    pub fn raise(&self) {
        self.0.send_replace(true);
    }

    pub fn token(&self) -> Cancel {
        Cancel(self.0.subscribe())
    }
}

impl Default for CancelSource {
    fn default() -> CancelSource {
        CancelSource::new()
    }
}

impl Cancel {
    pub fn is_raised(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns once the flag is raised; never, if whoever could raise it is gone.
    pub async fn raised(&self) {
        let mut seen = self.0.clone();
        if seen.wait_for(|raised| *raised).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
