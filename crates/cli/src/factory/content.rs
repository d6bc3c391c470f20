//! What a file must hold for the use that a document makes of it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use serde_json::Value;

use super::folder::FileFault;
use super::policy_file;
use super::tree::{self, Position, Tree};

/// A script or certificate that is larger is something else by mistake.
const TEXT_BYTES_MAX: usize = 1024 * 1024;
/// A check travels to the machine as one argument.
const CHECK_BYTES_MAX: usize = 64 * 1024;
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// What is wrong with a file's bytes, for one of the uses that the schema names.
pub fn wrong_content(content: &str, path: &str, bytes: &[u8]) -> Option<FileFault> {
    if content == "any" {
        return None;
    }
    let fault = |what: String, right: &str| {
        Some(FileFault {
            what,
            right: Some(right.to_owned()),
        })
    };
    let limit = match content {
        "check" | "tests" => CHECK_BYTES_MAX,
        _ => TEXT_BYTES_MAX,
    };
    if bytes.len() > limit {
        let what = format!(
            "`{path}` has {} bytes; {limit} are the limit here",
            bytes.len()
        );
        let right = match content {
            "policy" => "split it into several policies",
            _ => "put large content into the image with a File step",
        };
        return fault(what, right);
    }
    if content == "policy" {
        let wrong = policy_file::parse(bytes).err()?;
        let at = wrong.at.map(|(line, column)| format!(":{line}:{column}"));
        let what = format!("`{path}{}` {}", at.unwrap_or_default(), wrong.what);
        return fault(what, wrong.right);
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        return fault(format!("`{path}` is not text"), "save it as UTF-8 text");
    };
    match content {
        "facts" => facts(text).err().and_then(|(at, what)| {
            let right = "it is YAML as goss reads it: kinds of things, each with names, each with what shall be true";
            fault(format!("`{path}:{}:{}`: {what}", at.line, at.column), right)
        }),
        "yaml" => tree::parse(text).err().and_then(|wrong| {
            let (line, column) = (wrong.at.line, wrong.at.column);
            let what = format!("`{path}:{line}:{column}`: {}", wrong.why);
            fault(what, "`ansible-playbook --syntax-check` tells more")
        }),
        "script" | "check" | "tests" | "text" if text.trim().is_empty() => fault(
            format!("`{path}` is empty"),
            "write what the step needs, or remove it",
        ),
        "script" | "check" if text.contains('\r') => fault(
            format!("`{path}` has Windows line ends, which a shell reads as part of the commands"),
            "save it with LF line ends",
        ),
        "certificates" if text.contains("PRIVATE KEY-----") => fault(
            format!("`{path}` holds a private key"),
            "keep only the certificate; take the key out of the folder and replace it",
        ),
        "certificates" if !is_pem(text) => fault(
            format!("`{path}` is not a PEM certificate"),
            "a PEM file has `-----BEGIN CERTIFICATE-----` … `-----END CERTIFICATE-----`; \
             `openssl x509 -inform der -in FILE -out FILE.pem` makes one from DER",
        ),
        _ => None,
    }
}

/// The one document of a file of facts, or where and why it is none.
pub fn facts(text: &str) -> Result<Value, (Position, String)> {
    let mut documents = tree::parse(text).map_err(|wrong| (wrong.at, wrong.why))?;
    match (documents.pop(), documents.is_empty()) {
        (Some(node), true) if matches!(node.value, Tree::Map(_)) => Ok(node.to_json()),
        (Some(node), _) => Err((node.at, "it is not one object".to_owned())),
        (None, _) => Err((Position::START, "it is empty".to_owned())),
    }
}

/// One or more blocks, each base64 of a DER sequence. Whether it is a good certificate is for the
/// image's own tools to say.
fn is_pem(text: &str) -> bool {
    let mut blocks = text.split(BEGIN).skip(1).peekable();
    blocks.peek().is_some()
        && blocks.all(|block| {
            let Some((body, _)) = block.split_once(END) else {
                return false;
            };
            let compact: String = body.split_whitespace().collect();
            STANDARD
                .decode(compact)
                .is_ok_and(|der| der.first() == Some(&0x30) && der.len() > 2)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(content: &str, bytes: &[u8], expected: Option<&str>) {
        let found = wrong_content(content, "f", bytes).map(|fault| fault.what);
        assert_eq!(found.as_deref(), expected);
    }

    #[test]
    fn contents() {
        check("any", b"\xff", None);
        check("script", b"#!/bin/sh\ntrue\n", None);
        check("script", b"\xff", Some("`f` is not text"));
        check("text", b"#cloud-config\n", None);
        check("text", b" \n", Some("`f` is empty"));
        check("tests", b"def test_x(host):\r\n    pass\r\n", None);
        check("tests", b"\n", Some("`f` is empty"));
        check("yaml", b"- hosts: all\n", None);
        check("yaml", b"\xff", Some("`f` is not text"));
        check(
            "certificates",
            format!("{BEGIN}\nMAAA\n{END}\n").as_bytes(),
            None,
        );
        check(
            "certificates",
            format!("{BEGIN}\nMAAA\n{END}\n{BEGIN}\n").as_bytes(),
            Some("`f` is not a PEM certificate"),
        );
        check(
            "certificates",
            format!("{BEGIN}\n!!\n{END}\n").as_bytes(),
            Some("`f` is not a PEM certificate"),
        );
        check("certificates", b"", Some("`f` is not a PEM certificate"));
    }
}
