//! The server over a real TLS connection, with a factory of fakes behind it.

mod activity;
mod assertions;
mod authorization;
mod bits;
mod compute;
mod consent;
mod data_disks;
mod disk_access;
mod exports;
mod fake;
mod galleries;
mod generic;
mod graph;
mod hostile;
mod identity;
mod limits;
mod policies;
mod policy_states;
mod policy_versions;
mod promotions;
mod rights;
mod sign_in;
mod site;
mod statements;
mod templates;
mod tenancy;
