//! Where policies meet resources: which assignments reach a resource, what they say of a write before it is stored,
//! and what the state of every resource is afterwards.
//!
//! The language itself is crate `policy`; this crate brings it its definitions, resources and clock, and keeps the
//! answers. It answers no HTTP and decides no right.
