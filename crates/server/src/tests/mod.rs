//! The server over a real TLS connection, with a factory of fakes behind it.

mod assertions;
mod bits;
mod fake;
mod galleries;
mod hostile;
mod policies;
mod promotions;
mod rights;
mod sign_in;
mod site;
mod tenancy;
