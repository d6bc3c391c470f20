//! The negotiation: which disk, with what, and under TLS or not. It must not read a disk.

use std::io;
use std::sync::Arc;

use rustls::ServerConfig;

use crate::export::{Export, Exports};
use crate::link::{Link, Secure, recv_exact};
use crate::protocol::{
    ALLOCATION, ALLOCATION_ID, Fields, MAGIC, MAX_NAME, MAX_PAYLOAD, OPTION_MAGIC,
    OPTION_REPLY_MAGIC, hello, info, option, reply, transmission,
};

/// Options that a client may send before it must have made up its mind.
const MAX_OPTIONS: usize = 64;
/// The longest option: a name and a list of queries.
const MAX_OPTION_LEN: usize = 16 << 10;
/// Queries for contexts in one option.
const MAX_QUERIES: usize = 64;
/// What a client should read at a time.
const PREFERRED_BLOCK: u32 = 64 << 10;
const SPARE_ZEROES: usize = 124;

/// What was agreed on.
pub(crate) struct Agreed {
    pub(crate) link: Arc<dyn Link>,
    pub(crate) export: Arc<dyn Export>,
    /// Whether replies are structured.
    pub(crate) is_structured: bool,
    /// Whether block status may be asked for.
    pub(crate) has_status: bool,
}

/// TLS, as a server wants it.
pub(crate) struct Security {
    pub(crate) config: Arc<ServerConfig>,
    /// Whether nothing but TLS may be asked for before it.
    pub(crate) is_required: bool,
}

/// `None`: the client left, or was sent away.
pub(crate) fn negotiate(
    link: Arc<dyn Link>,
    exports: &dyn Exports,
    security: Option<&Security>,
) -> io::Result<Option<Agreed>> {
    let flags = hello::FIXED_NEWSTYLE | hello::NO_ZEROES;
    link.send(&[
        &MAGIC.to_be_bytes(),
        &OPTION_MAGIC.to_be_bytes(),
        &flags.to_be_bytes(),
    ])?;
    let mut answer = [0; 4];
    recv_exact(&*link, &mut answer)?;
    let answer = u32::from_be_bytes(answer);
    if answer & !u32::from(flags) != 0 {
        return Ok(None);
    }
    let mut talk = Talk {
        link,
        exports,
        security,
        is_secure: false,
        no_zeroes: answer & u32::from(hello::NO_ZEROES) != 0,
        is_structured: false,
        status_of: None,
    };
    for _ in 0..MAX_OPTIONS {
        match talk.option()? {
            Next::More => {}
            Next::End => return Ok(None),
            Next::Serve(name, export) => {
                let has_status = talk.status_of.as_deref() == Some(name.as_str());
                return Ok(Some(Agreed {
                    link: talk.link,
                    export,
                    is_structured: talk.is_structured,
                    has_status: has_status && talk.is_structured,
                }));
            }
        }
    }
    Ok(None)
}

enum Next {
    More,
    End,
    Serve(String, Arc<dyn Export>),
}

/// A negotiation that is going on.
struct Talk<'a> {
    link: Arc<dyn Link>,
    exports: &'a dyn Exports,
    security: Option<&'a Security>,
    is_secure: bool,
    no_zeroes: bool,
    is_structured: bool,
    /// The name for which block status was agreed on.
    status_of: Option<String>,
}

impl Talk<'_> {
    fn option(&mut self) -> io::Result<Next> {
        let mut head = [0; 16];
        recv_exact(&*self.link, &mut head)?;
        let mut fields = Fields(&head);
        let (magic, number, len) = (fields.u64(), fields.u32(), fields.u32());
        let (Some(OPTION_MAGIC), Some(number), Some(len)) = (magic, number, len) else {
            return Ok(Next::End);
        };
        if len as usize > MAX_OPTION_LEN {
            self.refuse(number, reply::ERR_TOO_BIG, "the option is too long")?;
            return Ok(Next::End);
        }
        let mut data = vec![0; len as usize];
        recv_exact(&*self.link, &mut data)?;
        let needs_tls = self.security.is_some_and(|security| security.is_required);
        if needs_tls && !self.is_secure {
            match number {
                option::STARTTLS | option::ABORT => {}
                option::EXPORT_NAME => return Ok(Next::End),
                _ => return self.refuse(number, reply::ERR_TLS_REQUIRED, "begin with TLS"),
            }
        }
        match number {
            option::EXPORT_NAME => self.export_name(&data),
            option::ABORT => {
                // The client may be gone already.
                let _ = self.reply(number, reply::ACK, &[]);
                Ok(Next::End)
            }
            option::LIST => self.list(&data),
            option::STARTTLS => self.start_tls(&data),
            option::INFO | option::GO => self.info(number, &data),
            option::STRUCTURED_REPLY if data.is_empty() => {
                self.is_structured = true;
                self.ack(number)
            }
            option::STRUCTURED_REPLY => self.invalid(number),
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => self.contexts(number, &data),
            _ => self.refuse(number, reply::ERR_UNSUPPORTED, "the option is not known"),
        }
    }

    /// The old way to choose: there is no answer but the disk itself.
    fn export_name(&mut self, data: &[u8]) -> io::Result<Next> {
        let name = std::str::from_utf8(data).ok();
        let Some((name, export)) = name.and_then(|name| Some((name, self.exports.find(name)?)))
        else {
            return Ok(Next::End);
        };
        let zeroes = match self.no_zeroes {
            true => &[][..],
            false => &[0; SPARE_ZEROES][..],
        };
        self.link.send(&[
            &export.size().to_be_bytes(),
            &flags(&*export).to_be_bytes(),
            zeroes,
        ])?;
        Ok(Next::Serve(name.to_owned(), export))
    }

    fn list(&mut self, data: &[u8]) -> io::Result<Next> {
        if !data.is_empty() {
            return self.invalid(option::LIST);
        }
        for name in self.exports.names() {
            let len = (name.len() as u32).to_be_bytes();
            self.reply(option::LIST, reply::SERVER, &[&len, name.as_bytes()])?;
        }
        self.ack(option::LIST)
    }

    fn start_tls(&mut self, data: &[u8]) -> io::Result<Next> {
        let number = option::STARTTLS;
        if !data.is_empty() || self.is_secure {
            return self.invalid(number);
        }
        let Some(security) = self.security else {
            return self.refuse(number, reply::ERR_POLICY, "there is no TLS here");
        };
        self.ack(number)?;
        let secure = Secure::accept(Arc::clone(&self.link), Arc::clone(&security.config))?;
        self.link = Arc::new(secure);
        self.is_secure = true;
        // What was agreed on in the open could have been put there by anybody.
        self.is_structured = false;
        self.status_of = None;
        Ok(Next::More)
    }

    fn info(&mut self, number: u32, data: &[u8]) -> io::Result<Next> {
        let mut fields = Fields(data);
        let parsed = (|| {
            let name = fields.text(MAX_NAME)?;
            let count = fields.u16()?;
            let wanted: Option<Vec<u16>> = (0..count).map(|_| fields.u16()).collect();
            fields.is_empty().then_some((name, wanted?))
        })();
        let Some((name, wanted)) = parsed else {
            return self.invalid(number);
        };
        let Some(export) = self.exports.find(name) else {
            return self.refuse(number, reply::ERR_UNKNOWN, "there is no such disk");
        };
        if wanted.contains(&info::NAME) {
            let kind = info::NAME.to_be_bytes();
            self.reply(number, reply::INFO, &[&kind, name.as_bytes()])?;
        }
        let text = export.description();
        if wanted.contains(&info::DESCRIPTION) && !text.is_empty() {
            let kind = info::DESCRIPTION.to_be_bytes();
            self.reply(number, reply::INFO, &[&kind, text.as_bytes()])?;
        }
        let sizes = [1, PREFERRED_BLOCK, MAX_PAYLOAD].map(u32::to_be_bytes);
        let kind = info::BLOCK_SIZE.to_be_bytes();
        self.reply(number, reply::INFO, &[&kind, &sizes.concat()])?;
        let kind = info::EXPORT.to_be_bytes();
        let (size, flags) = (export.size().to_be_bytes(), flags(&*export).to_be_bytes());
        self.reply(number, reply::INFO, &[&kind, &size, &flags])?;
        self.ack(number)?;
        Ok(match number {
            option::GO => Next::Serve(name.to_owned(), export),
            _ => Next::More,
        })
    }

    fn contexts(&mut self, number: u32, data: &[u8]) -> io::Result<Next> {
        let mut fields = Fields(data);
        let parsed = (|| {
            let name = fields.text(MAX_NAME)?;
            let count = fields.u32()? as usize;
            if count > MAX_QUERIES {
                return None;
            }
            let queries: Option<Vec<&str>> = (0..count).map(|_| fields.text(MAX_NAME)).collect();
            fields.is_empty().then_some((name, queries?))
        })();
        let Some((name, queries)) = parsed else {
            return self.invalid(number);
        };
        if number == option::SET_META_CONTEXT {
            self.status_of = None;
            if !self.is_structured {
                return self.invalid(number);
            }
        }
        if self.exports.find(name).is_none() {
            return self.refuse(number, reply::ERR_UNKNOWN, "there is no such disk");
        }
        let asks_all = number == option::LIST_META_CONTEXT;
        let matches = |query: &&str| *query == ALLOCATION || (asks_all && *query == "base:");
        if queries.iter().any(matches) || (asks_all && queries.is_empty()) {
            let id = match asks_all {
                true => 0,
                false => ALLOCATION_ID,
            };
            let id = id.to_be_bytes();
            self.reply(number, reply::META_CONTEXT, &[&id, ALLOCATION.as_bytes()])?;
            if !asks_all {
                self.status_of = Some(name.to_owned());
            }
        }
        self.ack(number)
    }

    fn ack(&self, number: u32) -> io::Result<Next> {
        self.reply(number, reply::ACK, &[])?;
        Ok(Next::More)
    }

    fn invalid(&self, number: u32) -> io::Result<Next> {
        self.refuse(
            number,
            reply::ERR_INVALID,
            "the option cannot be understood",
        )
    }

    fn refuse(&self, number: u32, kind: u32, why: &str) -> io::Result<Next> {
        self.reply(number, kind, &[why.as_bytes()])?;
        Ok(Next::More)
    }

    fn reply(&self, number: u32, kind: u32, data: &[&[u8]]) -> io::Result<()> {
        let data = data.concat();
        self.link.send(&[
            &OPTION_REPLY_MAGIC.to_be_bytes(),
            &number.to_be_bytes(),
            &kind.to_be_bytes(),
            &(data.len() as u32).to_be_bytes(),
            &data,
        ])
    }
}

/// What clients may do with a disk. All connections see the same, and a flush through one covers
/// what was written through the others.
fn flags(export: &dyn Export) -> u16 {
    use transmission::*;
    let always = HAS_FLAGS | SEND_FLUSH | SEND_FUA | SEND_DF | CAN_MULTI_CONN | SEND_CACHE;
    match export.is_writable() {
        true => always | SEND_TRIM | SEND_WRITE_ZEROES,
        false => always | READ_ONLY,
    }
}
