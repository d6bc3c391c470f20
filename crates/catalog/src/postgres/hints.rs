//! What to do when a database cannot be opened, by what it said.

use sqlx::Error;

/// The way out, as the end of a sentence.
pub(super) fn of(error: &Error) -> &'static str {
    match error {
        Error::Database(said) => said.code().map_or(LOOK, |code| of_code(&code)),
        Error::Tls(_) => {
            "TLS: add ?sslrootcert=FILE with the certificate authority of the database server to the address"
        }
        Error::Io(_) | Error::PoolTimedOut => {
            "nothing answers there: is the server up, does it listen on this address (listen_addresses), and does a \
             firewall let us through?"
        }
        _ => LOOK,
    }
}

const LOOK: &str = "see what it said";

fn of_code(code: &str) -> &'static str {
    match code {
        "28P01" | "28000" => {
            "it did not let us in: check the user, its password in the file that PGPASSFILE names (mode 600) or in \
             PGPASSWORD, and pg_hba.conf"
        }
        "3D000" => "there is no such database: `createdb --owner USER NAME` makes one",
        "42501" => {
            "the user may not make tables: make it the owner, `alter database NAME owner to USER`"
        }
        "53300" => "it has no connection left: raise its max_connections",
        "57P03" => "it is still starting, or shutting down: try again in a moment",
        _ => LOOK,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_wrong_often_has_a_way_out() {
        for (code, part) in [
            ("28P01", "PGPASSFILE"),
            ("3D000", "createdb"),
            ("42501", "owner"),
            ("53300", "max_connections"),
            ("XX000", LOOK),
        ] {
            assert!(of_code(code).contains(part), "{code}");
        }
        assert!(of(&Error::PoolTimedOut).contains("listen_addresses"));
    }
}
