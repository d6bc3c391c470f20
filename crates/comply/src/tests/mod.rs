//! The engine on a catalog in memory: what a write decides, and what states follow.

mod columns;
mod deciding;
mod faults;
mod images;
mod states;
mod supposing;
mod versions;
mod world;
