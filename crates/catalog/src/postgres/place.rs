//! Where a PostgreSQL database is: one line of configuration, checked before anything is connected.
//!
//! A password has no place in that line, since a command line is seen by everybody on the host and a configuration
//! file is copied; PostgreSQL's own ways of giving one (`PGPASSFILE`, `~/.pgpass`, `PGPASSWORD`) are used.

use std::fmt;
use std::str::FromStr;

use sqlx::postgres::{PgConnectOptions, PgSslMode};

use crate::error::Fault;

const SCHEMES: [&str; 2] = ["postgres://", "postgresql://"];

/// A database, and how it is reached.
#[derive(Clone)]
pub struct Place {
    options: PgConnectOptions,
}

/// A line that names no database.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    #[error(
        "a database is given as postgres://USER@HOST/NAME, or postgres:///NAME?host=/run/postgresql&user=USER for a \
         socket"
    )]
    Scheme,
    #[error(
        "the database's address holds a password, which others could read; leave it out, and put it into a file that \
         PGPASSFILE names (host:port:database:user:password, mode 600) or into PGPASSWORD"
    )]
    Password,
    #[error("the database's address cannot be read")]
    Parse(#[source] Fault),
}

impl Place {
    pub(super) fn options(&self) -> &PgConnectOptions {
        &self.options
    }
}

impl FromStr for Place {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Place, PlaceError> {
        let rest = SCHEMES.iter().find_map(|scheme| text.strip_prefix(scheme));
        let rest = rest.ok_or(PlaceError::Scheme)?;
        if holds_password(rest) {
            return Err(PlaceError::Password);
        }
        let options: PgConnectOptions = text
            .parse()
            .map_err(|error: sqlx::Error| PlaceError::Parse(error.into()))?;
        let says_mode = rest.contains("sslmode=") || rest.contains("ssl-mode=");
        let options = if says_mode || is_near(&options) || std::env::var_os("PGSSLMODE").is_some() {
            options
        } else {
            // PostgreSQL's own default sends all we know to whoever answers.
            options.ssl_mode(PgSslMode::VerifyFull)
        };
        Ok(Place { options })
    }
}

/// In the part before the host, or as a parameter.
fn holds_password(rest: &str) -> bool {
    let (address, parameters) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = address.split('/').next().unwrap_or_default();
    let user = authority.rsplit_once('@').map_or("", |(user, _)| user);
    user.contains(':')
        || parameters
            .split('&')
            .any(|parameter| parameter.starts_with("password="))
}

/// Reached without a network.
fn is_near(options: &PgConnectOptions) -> bool {
    let host = options.get_host();
    options.get_socket().is_some()
        || host.starts_with('/')
        || host == "localhost"
        || host
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// As it may be shown.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = &self.options;
        let name = options.get_database().unwrap_or(options.get_username());
        write!(f, "postgres://{}@", options.get_username())?;
        match options.get_socket() {
            Some(socket) => write!(f, "/{name}?host={}", socket.display()),
            None => write!(f, "{}:{}/{name}", options.get_host(), options.get_port()),
        }
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Place({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<&str, &str>) {
        match (text.parse::<Place>(), expected) {
            (Ok(place), Ok(shown)) => assert_eq!(place.to_string(), shown),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (found, expected) => panic!("{text}: {found:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn a_line_names_a_database_and_no_password() {
        check(
            "postgres://me@db.example/b",
            Ok("postgres://me@db.example:5432/b"),
        );
        check("postgresql://me@[::1]:9/b", Ok("postgres://me@[::1]:9/b"));
        check(
            "postgres:///b?host=/run/postgresql&user=me",
            Ok("postgres://me@/b?host=/run/postgresql"),
        );
        check("postgres://me:secret@db.example/b", Err("PGPASSFILE"));
        check(
            "postgres://db.example/b?user=me&password=x",
            Err("PGPASSFILE"),
        );
        check("mysql://me@db.example/b", Err("postgres://USER@HOST/NAME"));
        check("/var/lib/b.db", Err("postgres://USER@HOST/NAME"));
        check("postgres://me@db.example:no/b", Err("cannot be read"));
    }

    #[test]
    fn who_answers_over_a_network_must_prove_who_he_is() {
        let mode = |text: &str| {
            let place: Place = text.parse().expect("a place");
            format!("{:?}", place.options.get_ssl_mode())
        };
        assert_eq!(mode("postgres://me@db.example/b"), "VerifyFull");
        assert_eq!(
            mode("postgres://me@db.example/b?sslmode=require"),
            "Require"
        );
        assert_eq!(mode("postgres://me@127.0.0.1/b"), "Prefer");
        assert_eq!(mode("postgres:///b?host=/run/postgresql"), "Prefer");
    }
}
