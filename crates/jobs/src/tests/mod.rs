//! Jobs that fail, wait, panic, are canceled, interrupted and killed.

mod running;
mod shop;

use crate::testing;
use shop::Shop;

#[tokio::test]
async fn a_kind_passes_the_generic_tests() {
    testing::check_kind(Shop::new).await;
}
